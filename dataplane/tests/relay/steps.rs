//! A kill at every numbered point between two stores ([`gangway_dataplane::arena::step`]): what the next process finds is whole, or is made
//! whole by what is repeated anyway, and no index is used twice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use gangway_dataplane::{
    arena::fail_at_step,
    srtp::{Profile, SrtpRx},
    wire::rtp,
};
use gangway_shared::{
    ids::{Generation, LegId},
    rcp::Route,
};

use crate::{
    phone::{BROWSER, PHONE, connected, phone_port},
    world::{Browser, CERTIFICATE, Fed, Source, World, addr, call, hear, program, rtp_leg},
};

/// Does something that is cut off at a step; whether it was, and how many steps there were.
fn cut<T>(step: u32, does: impl FnOnce() -> T) -> (bool, u32) {
    fail_at_step(Some(step));
    let is_cut = catch_unwind(AssertUnwindSafe(does)).is_err();
    (is_cut, fail_at_step(None))
}

fn talking() -> (World, Browser, Source) {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let mut phone = Source::new(0xf0, 0);
    talk(&mut world, &mut browser, &mut phone, 5);
    (world, browser, phone)
}

/// Both hear each other. The browser's side refuses an index that it has had.
#[track_caller]
fn talk(world: &mut World, browser: &mut Browser, phone: &mut Source, times: usize) {
    for _ in 0..times {
        world.advance_ms(20);
        hear(&browser.say(world, b"x").bytes());
        let sent = world.feed(phone_port(), addr(PHONE), &phone.packet(b"y"));
        browser.hear(&sent.bytes());
    }
}

#[test]
fn a_program_that_was_cut_off_at_any_step_is_whole_when_it_is_put_again() {
    let mut wider = call(Some(CERTIFICATE), Some(PHONE));
    wider.legs.push(rtp_leg(2, Some("192.0.2.60:5000")));
    wider.routes.push(Route { to: LegId(2), ssrc: 0x77, ..wider.routes[0].clone() });
    let mut seen = Vec::new();
    for step in 0.. {
        let (mut world, mut browser, mut phone) = talking();
        let (is_cut, steps) = cut(step, || world.put(1, 2, &wider));
        if !is_cut {
            assert!(steps >= 12, "{steps} steps are no walk through a program");
            break;
        }
        world.restart();
        let adopted = world.relays().adopted();
        seen.push((adopted[0].generation, adopted[0].digest));
        // What was there goes on before control comes.
        talk(&mut world, &mut browser, &mut phone, 3);
        world.put(1, 2, &wider);
        talk(&mut world, &mut browser, &mut phone, 3);
        let adopted = world.relays().adopted();
        assert_eq!((adopted.len(), adopted[0].generation, adopted[0].digest), (1, Generation(2), 2));
        assert_eq!(adopted[0].legs.len(), 3);
        assert!(world.remove(1));
    }
    assert!(seen.iter().all(|(_, digest)| *digest == 0), "a change that is not done says so: {seen:?}");
}

#[test]
fn a_first_program_that_was_cut_off_at_any_step_can_be_put_again_or_removed() {
    let wanted = program(vec![rtp_leg(0, Some(PHONE)), rtp_leg(1, Some("192.0.2.60:5000"))], Vec::new());
    for step in 0.. {
        for is_removed in [false, true] {
            let mut world = World::new();
            let (is_cut, _) = cut(step, || world.put(1, 1, &wanted));
            if !is_cut {
                return;
            }
            world.restart();
            if is_removed {
                world.remove(1);
                assert_eq!(world.relays().adopted(), []);
            }
            world.put(1, 1, &wanted);
            assert_eq!(world.relays().adopted()[0].legs.len(), 2);
        }
    }
}

#[test]
fn keys_that_were_cut_off_at_any_step_are_old_or_new_and_meet_no_index_twice() {
    for step in 0.. {
        let (mut world, mut browser, mut phone) = talking();
        let mut renewed = Browser::new(1, 0, browser.handle, BROWSER, Profile::AeadAes128Gcm, 21);
        let (is_cut, steps) = cut(step, || renewed.handshake(&mut world, CERTIFICATE));
        if !is_cut {
            assert!(steps >= 8, "{steps} steps are no walk through a change of keys");
            break;
        }
        world.restart();
        let mut heard = [0, 0];
        for _ in 0..4 {
            world.advance_ms(20);
            // Half a key is a key that nobody has; it lasts until the next handshake.
            if let Fed::Sent(_, _, bytes) = world.feed(phone_port(), addr(PHONE), &phone.packet(b"y")) {
                for (count, browser) in heard.iter_mut().zip([&mut browser, &mut renewed]) {
                    *count += usize::from(browser.open(&bytes, rtp::ssrc_of(&bytes), SrtpRx::unprotect_rtp).is_ok());
                }
            }
        }
        assert!(heard == [4, 0] || heard == [0, 4], "step {step}: {heard:?}");
        // A handshake that is made again puts it right.
        assert!(renewed.handshake(&mut world, CERTIFICATE));
        let sent = world.feed(phone_port(), addr(PHONE), &phone.packet(b"y"));
        renewed.hear(&sent.bytes());
    }
}

#[test]
fn another_source_that_was_cut_off_at_any_step_goes_on_behind_the_one_before() {
    for step in 0.. {
        let (mut world, mut browser, _) = talking();
        let mut other = Source::new(0xf1, 0);
        let (is_cut, _) = cut(step, || world.feed(phone_port(), addr(PHONE), &other.packet(b"z")));
        if !is_cut {
            assert!(step >= 2, "a switch has two steps");
            break;
        }
        world.restart();
        for _ in 0..3 {
            world.advance_ms(20);
            let sent = world.feed(phone_port(), addr(PHONE), &other.packet(b"z"));
            browser.hear(&sent.bytes());
        }
    }
}

#[test]
fn a_restart_that_was_cut_off_at_any_step_is_begun_again() {
    for step in 0.. {
        let (mut world, mut browser, mut phone) = talking();
        if !world.restart_cut_at(step) {
            assert!(step >= 3, "a restart has steps");
            break;
        }
        talk(&mut world, &mut browser, &mut phone, 5);
    }
}
