//! A kill at every numbered point between two stores ([`gangway_dataplane::arena::step`]): what the next process finds is whole, or is made
//! whole by what is repeated anyway, and no index is used twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use gangway_dataplane::{
    arena::fail_at_step,
    relay::LegHandle,
    srtp::{Profile, RxStream, SrtpRx},
    wire::{DropReason, Packet, rtcp, rtp},
};
use gangway_shared::{
    ids::{Generation, LegId},
    rcp::{Codec, LegKind, RelayProgram, Route, RtpLeg, RtpRemote, SrtpKeys, SrtpLeg, SrtpSuite},
    secret::Secret,
};

use crate::{
    phone::{BROWSER, PHONE, connected, phone_port},
    world::{Browser, CERTIFICATE, Fed, Source, World, addr, call, hear, payload, ports, program, route, rtp_leg},
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

/// Where the peer with keys by signalling is.
const KEYED: &str = "192.0.2.51:6000";

/// A call of a plain phone and a peer whose keys are those of a `Browser` of this number.
fn keyed_call(fill: u8) -> RelayProgram {
    let pcmu = payload(0, Codec::Pcmu, 8000);
    let mut legs = vec![rtp_leg(0, Some(PHONE)), rtp_leg(1, Some(KEYED))];
    let LegKind::Rtp(rtp) = legs[1].kind.clone() else { unreachable!("just made") };
    let key = |fill: u8| {
        let bytes = [&[fill; 16][..], &[!fill; 12]].concat();
        Secret::new(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, bytes))
    };
    let keys = SrtpKeys { suite: SrtpSuite::AeadAes128Gcm, local: key(fill), remote: key(fill + 1) };
    let remote = Some(RtpRemote { rtcp_mux: true, ..rtp.remote.unwrap() });
    legs[1].kind = LegKind::Srtp(SrtpLeg { rtp: RtpLeg { remote, ..rtp }, keys });
    program(legs, vec![route(1, 0, 9, &[(pcmu.clone(), pcmu.clone())]), route(0, 1, 8, &[(pcmu.clone(), pcmu)])])
}

/// That call, and its peer as each pair of keys makes it: none of them takes an index twice.
struct KeyedCall {
    world: World,
    phone: Source,
    ends: BTreeMap<u8, Browser>,
    generation: u32,
}

impl KeyedCall {
    fn new() -> Self {
        KeyedCall { world: World::new(), phone: Source::new(0xf0, 0), ends: BTreeMap::new(), generation: 0 }
    }

    /// Puts keys in force, unless it is cut off at a step: whether it was.
    fn change(&mut self, fill: u8, cut_at: Option<u32>) -> bool {
        // It only speaks by its keys.
        let nobody = LegHandle { slot: 0, generation: 0 };
        self.ends.entry(fill).or_insert_with(|| Browser::new(1, 1, nobody, KEYED, Profile::AeadAes128Gcm, fill));
        self.generation += 1;
        let (generation, wanted) = (self.generation, keyed_call(fill));
        cut(cut_at.unwrap_or(u32::MAX), || self.world.put(1, generation, &wanted)).0
    }

    /// The peer's next packet by these keys, as it came.
    #[track_caller]
    fn say(&mut self, fill: u8) -> Vec<u8> {
        let packet = self.ends.get_mut(&fill).expect("keys that were in force").talk(b"x");
        let fed = self.say_again(&packet);
        assert!(matches!(fed, Fed::Sent(..)), "{fed:?}");
        packet
    }

    fn say_again(&mut self, packet: &[u8]) -> Fed {
        self.world.feed(ports(1, LegId(1)).0, addr(KEYED), packet)
    }

    /// By which keys the peer is sent sound, over more than a rollover of its numbers, and reports.
    #[track_caller]
    fn heard_by(&mut self) -> BTreeSet<u8> {
        self.heard_over(80)
    }

    /// The same over so many packets with a thousand numbers each.
    #[track_caller]
    fn heard_over(&mut self, packets: u32) -> BTreeSet<u8> {
        self.world.out.sent.clear();
        let (mut keys, mut reports) = (BTreeSet::new(), 0);
        for _ in 0..packets {
            self.world.advance_ms(300);
            self.phone.sequence = self.phone.sequence.wrapping_add(1000);
            let sound = self.world.feed(ports(1, LegId(0)).0, addr(PHONE), &self.phone.packet(b"y")).bytes();
            keys.insert(self.opened_by(&sound, rtp::ssrc_of(&sound), SrtpRx::unprotect_rtp));
            for (_, to, bytes) in std::mem::take(&mut self.world.out.sent) {
                if to == addr(KEYED) {
                    reports += 1;
                    keys.insert(self.opened_by(&bytes, rtcp::sender_ssrc_of(&bytes), SrtpRx::unprotect_rtcp));
                }
            }
        }
        assert!(reports > 0);
        keys
    }

    #[track_caller]
    fn opened_by(
        &mut self,
        bytes: &[u8],
        ssrc: u32,
        unprotect: impl Fn(&SrtpRx, &mut RxStream, &mut Packet<'_>) -> Result<(), DropReason> + Copy,
    ) -> u8 {
        let tried = self.ends.iter_mut().map(|(fill, end)| (*fill, end.open(bytes, ssrc, unprotect)));
        let tried: Vec<_> = tried.collect();
        let by = tried.iter().find(|(_, opened)| opened.is_ok());
        by.unwrap_or_else(|| panic!("nobody can open it: {tried:?}")).0
    }
}

#[test]
fn own_keys_that_were_cut_off_at_any_step_are_whole_and_meet_no_index_twice() {
    // New keys, keys that come back, others again.
    for history in [&[7, 17][..], &[7, 17, 7], &[7, 17, 27], &[7, 17, 7, 17]] {
        let (wanted, before) = history.split_last().expect("it changes");
        let old = before.last().expect("something is before it");
        for step in 0.. {
            let mut call = KeyedCall::new();
            for fill in before {
                assert!(!call.change(*fill, None));
                assert_eq!(call.heard_by(), BTreeSet::from([*fill]));
            }
            let said = call.say(*old);
            if !call.change(*wanted, Some(step)) {
                assert!(step >= 12, "{step} steps are no walk through a program with keys");
                break;
            }
            call.world.restart();
            let replayed = Fed::Dropped(DropReason::SrtpReplayed);
            assert_eq!(call.say_again(&said), replayed, "{history:?} step {step}");
            call.say(*old);
            let heard = call.heard_by();
            assert!(
                [old, wanted].iter().any(|fill| heard == BTreeSet::from([**fill])),
                "{history:?} step {step}: {heard:?}"
            );
            assert!(!call.change(*wanted, None));
            assert_eq!(call.heard_by(), BTreeSet::from([*wanted]), "{history:?} step {step}");
            call.say(*wanted);
            assert!(matches!(call.say_again(&said), Fed::Dropped(_)), "{history:?} step {step}");
        }
    }
}

/// A sequence number says where in a rollover it is, and not in which: behind what a key has sent there is nothing that it may send.
#[test]
fn a_key_that_comes_back_sends_at_once_wherever_the_numbers_are_by_then() {
    for between in [30, 40, 60] {
        let mut call = KeyedCall::new();
        for (fill, packets) in [(7, 80), (17, between), (7, 30), (17, between)] {
            assert!(!call.change(fill, None));
            assert_eq!(call.heard_over(packets), BTreeSet::from([fill]), "{between} packets by the key between");
        }
    }
}
