//! When a port towards a SIP peer hears that peer alone.

use gangway_dataplane::{relay::PortId, wire::DropReason};
use gangway_shared::{ids::LegId, rcp::Codec};

use crate::{
    phone::PHONE,
    world::{Fed, Source, World, addr, payload, ports, program, route, rtp_leg},
};

const STRANGER: &str = "203.0.113.9:9";

/// A phone that hears itself, announced at `remote`.
fn echo(remote: &str) -> (World, PortId, Source) {
    let mut world = World::new();
    put(&mut world, 1, remote);
    (world, ports(1, LegId(0)).0, Source::new(0xf0, 0))
}

fn put(world: &mut World, generation: u32, remote: &str) {
    let pcmu = payload(0, Codec::Pcmu, 8000);
    let legs = vec![rtp_leg(0, Some(remote))];
    world.put(1, generation, &program(legs, vec![route(0, 0, 9, &[(pcmu.clone(), pcmu)])]));
}

fn talk(world: &mut World, port: PortId, phone: &mut Source, from: &str) -> bool {
    matches!(world.feed(port, addr(from), &phone.packet(b"words")), Fed::Sent(..))
}

#[test]
fn the_announced_peer_is_heard_alone_until_it_is_silent() {
    let (mut world, port, mut phone) = echo(PHONE);
    assert_eq!(world.out.hears, []);
    for _ in 0..150 {
        assert!(talk(&mut world, port, &mut phone, PHONE));
        world.advance_ms(20);
    }
    assert_eq!(std::mem::take(&mut world.out.hears), [(port, Some(addr(PHONE)))], "said once");
    world.advance_ms(1979);
    assert_eq!(world.out.hears, []);
    world.advance_ms(1);
    assert_eq!(std::mem::take(&mut world.out.hears), [(port, None)], "two seconds after the last packet");
    assert!(talk(&mut world, port, &mut phone, PHONE));
    assert_eq!(world.out.hears, [(port, Some(addr(PHONE)))], "and again");
}

#[test]
fn nobody_who_would_be_believed_is_shut_out() {
    // While a peer is heard alone, whoever else came would have been dropped.
    let (mut world, port, mut phone) = echo(PHONE);
    assert!(talk(&mut world, port, &mut phone, PHONE));
    for from in [STRANGER, "192.0.2.50:4001", "192.0.2.51:4000"] {
        for _ in 0..4 {
            let fed = world.feed(port, addr(from), &Source::new(0xbad, 0).packet(b"spray"));
            assert_eq!(fed, Fed::Dropped(DropReason::ForeignSource));
            world.advance_ms(100);
        }
    }
    assert_eq!(world.out.hears.len(), 1);
    // A peer behind a translator may turn out to be another: the announced address is still to be heard.
    let (mut world, port, mut phone) = echo("10.0.0.7:4000");
    for _ in 0..100 {
        talk(&mut world, port, &mut phone, "203.0.113.5:1");
        world.advance_ms(20);
    }
    assert_eq!(world.out.hears, []);
    assert!(talk(&mut world, port, &mut phone, "10.0.0.7:4000"));
    assert_eq!(world.out.hears, [(port, Some(addr("10.0.0.7:4000")))]);
}

#[test]
fn another_address_by_signalling_opens_the_port_at_once() {
    let (mut world, port, mut phone) = echo(PHONE);
    assert!(talk(&mut world, port, &mut phone, PHONE));
    put(&mut world, 2, PHONE);
    assert_eq!(world.out.hears.len(), 1, "the same program changes nothing");
    put(&mut world, 3, "192.0.2.60:7000");
    assert_eq!(world.out.hears[1..], [(port, None)]);
    assert!(talk(&mut world, port, &mut phone, "192.0.2.60:7000"));
    assert_eq!(world.out.hears[2..], [(port, Some(addr("192.0.2.60:7000")))]);
    put(&mut world, 4, "0.0.0.0:7000");
    assert_eq!(world.out.hears[3..], [(port, None)]);
}

#[test]
fn a_new_process_opens_the_ports_that_the_old_one_left() {
    let (mut world, port, mut phone) = echo(PHONE);
    assert!(talk(&mut world, port, &mut phone, PHONE));
    world.out.hears.clear();
    world.restart();
    assert_eq!(std::mem::take(&mut world.out.hears), [(port, None)]);
    assert!(talk(&mut world, port, &mut phone, PHONE));
    assert_eq!(world.out.hears, [(port, Some(addr(PHONE)))]);
}
