//! Telephone events that control wants a peer to hear (RFC 4733).

use std::time::Duration;

use gangway_dataplane::{
    relay::{Digits, event_of},
    wire::{DropReason, PacketKind, classify},
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, ErrorCode, Event, Fill, PayloadMap, RelayProgram, Sound},
};

use crate::{
    phone::{PHONE, connected, phone_heard, phone_port},
    world::{Browser, CERTIFICATE, Fed, Heard, MUX, World, addr, call, hear, payload, relay_id},
};

const EVENT_TYPE: u8 = 101;

/// A call in which telephone events are agreed with both sides.
fn dialled_call() -> RelayProgram {
    let mut program = call(Some(CERTIFICATE), Some(PHONE));
    let event = payload(EVENT_TYPE, Codec::TelephoneEvent, 8000);
    for route in &mut program.routes {
        route.payloads.push(PayloadMap { from: event.clone(), to: event.clone() });
    }
    program
}

/// What became of each action since the last look.
fn done(world: &mut World) -> Vec<(u64, Option<ErrorCode>)> {
    let ends = world.events().into_iter().filter_map(|event| match event {
        Event::ActDone { relay, action_id, error } if relay == relay_id(1) => {
            Some((action_id, error.map(|error| error.code)))
        }
        _ => None,
    });
    ends.collect()
}

/// 20 ms of the browser's microphone.
fn talk(world: &mut World, browser: &mut Browser) -> Fed {
    let fed = browser.say(world, &[0xff; 160]);
    world.advance_ms(20);
    fed
}

/// One packet of an event: marker, event, end, duration in ticks.
fn told(heard: &Heard) -> (bool, u8, bool, u16) {
    let [event, flags, high, low] = heard.payload[..] else { panic!("{heard:?}") };
    assert_eq!((heard.pt, flags & 0x7f), (EVENT_TYPE, 10), "reserved bit clear, -10 dBm0");
    (heard.marker, event, flags & 0x80 != 0, u16::from_be_bytes([high, low]))
}

#[test]
fn digits_have_the_numbers_of_the_sound_and_tell_their_end_three_times() {
    let (mut world, mut browser) = connected(&dialled_call());
    let before: Vec<Heard> = (0..5).map(|_| hear(&talk(&mut world, &mut browser).bytes())).collect();
    world.play(1, 7, "1#", 100);
    let mut displaced = 0;
    for _ in 0..20 {
        match talk(&mut world, &mut browser) {
            Fed::Dropped(DropReason::EventInPlace) => displaced += 1,
            Fed::Sent(_, _, bytes) => world.out.sent.push((phone_port(), addr(PHONE), bytes)),
            other => panic!("{other:?}"),
        }
    }
    let heard = phone_heard(&mut world);
    assert_eq!(
        (displaced, heard.len()),
        (16, 14 + 4),
        "two events of seven packets in 320 ms, then the browser's sound"
    );
    let last = &before[4];
    for (at, packet) in heard.iter().enumerate() {
        assert_eq!(packet.sequence, last.sequence.wrapping_add(1 + at as u16), "packet {at}");
        assert_eq!(packet.ssrc, last.ssrc);
    }
    for (digit, event) in [(0, 1), (1, 11)] {
        let packets = &heard[7 * digit..][..7];
        let timestamp = last.timestamp.wrapping_add(160 + 1280 * digit as u32);
        assert!(packets.iter().all(|packet| packet.timestamp == timestamp), "the beginning of event {event}");
        let expected = [160, 320, 480, 640, 800, 800, 800].iter().enumerate();
        let expected: Vec<_> = expected.map(|(at, ticks)| (at == 0, event, at >= 4, *ticks)).collect();
        assert_eq!(packets.iter().map(told).collect::<Vec<_>>(), expected);
    }
    let after = &heard[14];
    assert_eq!((after.pt, after.marker), (0, true));
    assert_eq!(after.timestamp, last.timestamp.wrapping_add(160 + 2 * 1280), "sound goes on where it would be");
    assert_eq!(done(&mut world), [(7, None)]);
}

#[test]
fn a_browser_hears_digits_under_its_keys_and_actions_follow_one_another() {
    let (mut world, mut browser) = connected(&dialled_call());
    world.play(0, 1, "0", 40);
    world.play(0, 2, "D", 60);
    assert_eq!(done(&mut world), []);
    world.advance_ms(1000);
    let sent = std::mem::take(&mut world.out.sent);
    let media = sent.iter().filter(|(port, _, bytes)| *port == MUX && classify(bytes) == Ok(PacketKind::Rtp));
    let heard: Vec<_> = media.map(|(_, _, bytes)| told(&browser.hear(bytes))).collect();
    let zero = [(true, 0, false, 160), (false, 0, true, 320), (false, 0, true, 320), (false, 0, true, 320)];
    assert_eq!(heard[..4], zero);
    assert_eq!(heard[4..].iter().map(|told| told.1).collect::<Vec<_>>(), [15; 5]);
    assert_eq!((heard[4], heard[8]), ((true, 15, false, 160), (false, 15, true, 480)));
    assert_eq!(done(&mut world), [(1, None), (2, None)]);
}

#[test]
fn what_cannot_be_played_is_said_with_the_reason() {
    let (mut world, _) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    world.play(1, 1, "1", 100);
    world.play(5, 2, "1", 100);
    assert_eq!(done(&mut world), [(1, Some(ErrorCode::Unsupported)), (2, Some(ErrorCode::NotFound))]);
    let mut held = dialled_call();
    held.routes[0].paused = true;
    let (mut world, _) = connected(&held);
    world.play(1, 3, "1", 100);
    assert_eq!(done(&mut world), [(3, Some(ErrorCode::NotFound))]);
    let mut fast = dialled_call();
    fast.routes[0].payloads[1].from.clock = 48_000;
    fast.routes[0].payloads[1].to.clock = 48_000;
    let (mut world, _) = connected(&fast);
    world.play(1, 4, "1", 1366);
    world.play(1, 5, "1", 1365);
    world.advance_ms(2000);
    assert_eq!(done(&mut world), [(4, Some(ErrorCode::Invalid)), (5, None)], "the duration has 16 bits");
}

#[test]
fn so_many_actions_wait_and_those_of_a_route_that_goes_are_told() {
    let (mut world, _) = connected(&dialled_call());
    for action in 1..=6 {
        world.play(1, action, "1", 100);
    }
    assert_eq!(done(&mut world), [(6, Some(ErrorCode::Full))]);
    world.advance_ms(200);
    assert_eq!(done(&mut world), [(1, None)]);
    let mut without = dialled_call();
    without.routes.remove(0);
    world.put(1, 2, &without);
    let gone = |id| (id, Some(ErrorCode::NotFound));
    assert_eq!(done(&mut world), [gone(2), gone(3), gone(4), gone(5)]);
    world.put(1, 3, &dialled_call());
    world.play(1, 7, "1", 100);
    world.remove(1);
    assert_eq!(done(&mut world), [gone(7)]);
}

#[test]
fn digits_of_a_worker_that_stood_still_come_without_a_burst_and_in_their_length() {
    let (mut world, _) = connected(&dialled_call());
    world.play(1, 1, "1", 200);
    world.advance_ms(40);
    assert_eq!(phone_heard(&mut world).len(), 3);
    world.sleep_ms(90);
    let late: Vec<_> = phone_heard(&mut world).iter().map(told).collect();
    assert_eq!(late, [(false, 1, false, 1120)], "one packet: 140 ms of the digit, told 120 ms after its beginning");
    world.advance_ms(1000);
    let rest: Vec<_> = phone_heard(&mut world).iter().map(|heard| told(heard).3).collect();
    assert_eq!(rest, [1280, 1440, 1600, 1600, 1600]);
    assert_eq!(done(&mut world), [(1, None)]);
}

#[test]
fn stand_in_sound_waits_for_the_digits() {
    let mut program = dialled_call();
    let pcmu = payload(0, Codec::Pcmu, 8000);
    program.routes[0].fill = Some(Fill { sound: Sound::Silence, payload: pcmu, ptime_ms: 20, start_after_ms: 60 });
    let (mut world, _) = connected(&program);
    world.advance_ms(200);
    let last = phone_heard(&mut world).pop().unwrap();
    world.play(1, 1, "5", 100);
    world.advance_ms(300);
    let heard = phone_heard(&mut world);
    let numbers: Vec<_> = heard.iter().map(|packet| packet.sequence.wrapping_sub(last.sequence)).collect();
    assert_eq!(numbers, (1..=heard.len() as u16).collect::<Vec<_>>());
    let types: Vec<_> = heard.iter().map(|packet| packet.pt).collect();
    assert!(types[..7].iter().all(|pt| *pt == EVENT_TYPE) && types[7..].iter().all(|pt| *pt == 0), "{types:?}");
    assert!(heard.len() > 12 && heard[7].marker);
    assert!(heard[7].timestamp.wrapping_sub(heard[0].timestamp) >= 800, "behind the whole event");
}

#[test]
fn every_digit_has_its_event() {
    let all = "0123456789*#ABCD!".chars().map(event_of).collect::<Vec<_>>();
    assert_eq!(all, (0..=16).map(Some).collect::<Vec<_>>());
    assert_eq!(['a', 'E', ' ', '１'].map(event_of), [None; 4]);
}

impl World {
    fn play(&mut self, leg: u8, action_id: u64, digits: &str, duration_ms: u64) {
        let events = digits.chars().map(|digit| event_of(digit).unwrap()).collect();
        let digits = Digits { action_id, events, duration: Duration::from_millis(duration_ms) };
        self.play_digits(LegId(leg), digits);
    }
}
