//! What a new process does with the memory of the old one.

use gangway_dataplane::wire::DropReason;
use gangway_shared::{
    ids::LegId,
    rcp::{Event, ReapReason},
};

use crate::{
    phone::{PHONE, connected, phone_port},
    world::{Browser, CERTIFICATE, Fed, MUX, Source, World, addr, call, hear, relay_id},
};

#[test]
fn traffic_goes_on_over_a_restart_with_the_same_mapping_and_no_index_used_twice() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let mut phone = Source::new(0xf0, 0);
    // Over the wrap of the sequence number, so that the rollover counter has to survive too.
    phone.sequence = 65_000;
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    for number in 0..1200 {
        world.advance_ms(20);
        if number % 300 == 299 {
            world.restart();
        }
        said.push(hear(&browser.say(&mut world, b"x").bytes()));
        let sent = world.feed(phone_port(), addr(PHONE), &phone.packet(b"y"));
        // Opening fails for an index used twice, and for a wrong rollover counter.
        heard.push(browser.hear(&sent.bytes()));
    }
    for pair in said.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1), "a plain leg goes on without a gap");
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
    }
    let gaps = heard.windows(2).filter(|pair| pair[1].sequence != pair[0].sequence.wrapping_add(1));
    assert_eq!(gaps.count(), 4, "an encrypted stream skips once at each restart");
    for pair in heard.windows(2) {
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
    }
    let stats = world.relays().stats(relay_id(1)).unwrap();
    assert_eq!((stats.legs[0].received.packets, stats.legs[1].received.packets), (1200, 1200));
}

#[test]
fn what_was_seen_before_a_restart_is_still_a_replay_after_it() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let late = browser.talk(b"late");
    let packet = browser.talk(b"x");
    assert!(matches!(world.feed(MUX, browser.at, &packet), Fed::Sent(..)));
    world.restart();
    assert_eq!(world.feed(MUX, browser.at, &packet), Fed::Dropped(DropReason::SrtpReplayed));
    assert_eq!(world.feed(MUX, browser.at, &late), Fed::Dropped(DropReason::SrtpReplayed), "all behind counts as seen");
    assert!(matches!(browser.say(&mut world, b"x"), Fed::Sent(..)));
}

#[test]
fn latch_consent_and_checks_survive() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let real = addr("203.0.113.5:7777");
    let mut phone = Source::new(0xf0, 0);
    for _ in 0..12 {
        world.feed(phone_port(), real, &phone.packet(b"x"));
        world.advance_ms(20);
    }
    world.restart();
    assert_eq!(browser.say(&mut world, b"x").to(), real);
    let stranger = world.feed(phone_port(), addr("198.51.100.9:9"), &phone.packet(b"x"));
    assert_eq!(stranger, Fed::Dropped(DropReason::ForeignSource));
    assert!(world.has_consent(browser.handle));
    assert!(matches!(browser.send_check(&mut world, true), Fed::Sent(..)));
    world.events();
    world.advance_ms(31_000);
    assert!(world.events().contains(&Event::ConsentLost { relay: relay_id(1), leg: LegId(0) }));
    world.put(1, 2, &call(Some(CERTIFICATE), None));
    assert!(world.remove(1));
}

#[test]
fn a_crash_in_the_middle_of_a_removal_leaves_memory_that_can_be_taken_back() {
    for survivors in 0..2 {
        let (mut world, _) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
        world.out.events_until_panic = Some(survivors);
        let removed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.remove(1)));
        assert!(removed.is_err());
        world.out.events_until_panic = None;
        world.restart();
        world.remove(1);
        world.put(1, 2, &call(Some(CERTIFICATE), Some(PHONE)));
        assert!(world.remove(1));
    }
}

/// The worker fails with a packet of the browser's in hand, and takes its relays back.
fn fail_in_hand(world: &mut World, browser: &mut Browser) {
    let packet = browser.talk(b"x");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.out.panics = true;
        world.feed(MUX, browser.at, &[&[22, 254, 253, 0][..], &packet[..20]].concat());
    }));
    assert!(panicked.is_err());
    world.out.panics = false;
    world.events();
    world.restart();
}

#[test]
fn a_relay_in_hand_at_its_second_crash_is_reaped_and_the_others_live() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let other = world.put(2, 1, &call(None, Some(PHONE))).legs[0].1;
    for crash in 1..=2 {
        fail_in_hand(&mut world, &mut browser);
        let reaped = Event::RelayReaped { relay: relay_id(1), reason: ReapReason::Poisonous };
        assert_eq!(world.events().contains(&reaped), crash == 2);
    }
    assert!(world.relays().stats(relay_id(1)).is_none());
    assert!(world.relays().stats(relay_id(2)).is_some());
    assert!(!world.has_consent(other));
}

#[test]
fn crashes_that_lie_far_apart_are_not_the_relays_fault() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    for (minutes, is_reaped) in [(0, false), (11, false), (11, false), (9, true)] {
        world.advance_ms(minutes * 60_000);
        fail_in_hand(&mut world, &mut browser);
        assert_eq!(world.relays().stats(relay_id(1)).is_none(), is_reaped);
    }
}
