//! H.264 parameter sets go before a picture that comes without them, in both directions.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use gangway_dataplane::{
    srtp::Profile,
    wire::{
        h264,
        rtcp::{Compound, RtcpPacket},
    },
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Event, Media, Payload, RelayProgram},
};

use crate::world::{
    Browser, CERTIFICATE, Fed, Heard, MUX, Source, World, addr, hear, ice_leg, payload, ports, program, route, rtp_leg,
};

const PHONE: &str = "192.0.2.50:4002";
const BROWSER: &str = "198.51.100.7:50000";
const SEQUENCE: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0xda, 1];
const PICTURE: &[u8] = &[0x68, 0xce, 0x3c];
/// First fragment of an IDR slice, the middle of one, and another picture.
const IDR: &[u8] = &[0x7c, 0x85, 0x88, 1];
const MIDDLE: &[u8] = &[0x7c, 0x05, 1, 2];
const DELTA: &[u8] = &[0x61, 0x9a, 1];

fn h264_payload(pt: u8, fmtp: &str) -> Payload {
    Payload { fmtp: Some(fmtp.to_owned()), ..payload(pt, Codec::H264, 90_000) }
}

/// H.264 between a browser in mode 1 and a phone whose fmtp is given.
fn video_call(phone: &str) -> RelayProgram {
    let browser = h264_payload(102, "packetization-mode=1;profile-level-id=42e01f");
    let phone = h264_payload(98, phone);
    let mut routes =
        vec![route(0, 2, 0x3003, &[(browser.clone(), phone.clone())]), route(2, 0, 0x4004, &[(phone, browser)])];
    routes.iter_mut().for_each(|route| route.media = Media::Video);
    program(vec![ice_leg(0, Some(CERTIFICATE)), rtp_leg(2, Some(PHONE))], routes)
}

struct Call {
    world: World,
    browser: Browser,
    phone: Source,
}

impl Call {
    fn new(whole: &RelayProgram) -> Self {
        let mut world = World::new();
        let handle = world.put(1, 1, whole).legs[0].1;
        let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
        browser.connect(&mut world);
        browser.source = Source::new(0xca, 102);
        world.events();
        Call { world, browser, phone: Source::new(0xf2, 98) }
    }

    /// What the phone gets of one packet of the browser, in order.
    fn browser_shows(&mut self, payload: &[u8]) -> Vec<Heard> {
        self.world.out.sent.clear();
        let last = hear(&self.browser.say(&mut self.world, payload).bytes());
        let before = self.world.out.sent.drain(..).filter(|(port, ..)| *port != MUX);
        before.map(|(.., bytes)| hear(&bytes)).chain([last]).collect()
    }

    /// What the browser gets of one packet of the phone, in order.
    fn phone_shows(&mut self, payload: &[u8]) -> Vec<Heard> {
        let packet = self.phone.packet(payload);
        self.phone_sends(&packet)
    }

    fn phone_sends(&mut self, packet: &[u8]) -> Vec<Heard> {
        self.world.out.sent.clear();
        let last = self.world.feed(ports(1, LegId(2)).0, addr(PHONE), packet);
        let before: Vec<_> = self.world.out.sent.drain(..).map(|(.., bytes)| bytes).collect();
        let all = before.into_iter().chain(match last {
            Fed::Sent(_, _, bytes) => Some(bytes),
            _ => None,
        });
        all.map(|bytes| self.browser.hear(&bytes)).collect()
    }
}

fn payloads(heard: &[Heard]) -> Vec<&[u8]> {
    heard.iter().map(|heard| heard.payload.as_slice()).collect()
}

#[track_caller]
fn assert_contiguous(heard: &[Heard]) {
    for pair in heard.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
    }
}

#[test]
fn a_phone_in_mode_0_gets_them_one_by_one_before_the_picture() {
    let mut call = Call::new(&video_call("packetization-mode=0;profile-level-id=42e01f"));
    let mut all = call.browser_shows(&[&[0x78, 0, 6][..], SEQUENCE, &[0, 3], PICTURE].concat());
    for payload in [IDR, MIDDLE, DELTA] {
        let heard = call.browser_shows(payload);
        assert_eq!(payloads(&heard), [payload], "it came with them");
        all.extend(heard);
    }
    let repeated = call.browser_shows(IDR);
    assert_eq!(payloads(&repeated), [SEQUENCE, PICTURE, IDR]);
    assert!(repeated.iter().all(|heard| heard.timestamp == repeated[2].timestamp && heard.pt == 98 && !heard.marker));
    all.extend(repeated);
    all.extend(call.browser_shows(MIDDLE));
    all.extend(call.browser_shows(DELTA));
    assert_contiguous(&all);
    assert_eq!(all.len(), 9);
}

#[test]
fn a_browser_in_mode_1_gets_them_in_one_packet_and_reports_count_it() {
    let mut call = Call::new(&video_call("profile-level-id=42e01f"));
    let mut all = Vec::new();
    for payload in [SEQUENCE, PICTURE, &[0x65, 0x88, 1], DELTA] {
        let heard = call.phone_shows(payload);
        assert_eq!(payloads(&heard), [payload]);
        all.extend(heard);
    }
    let repeated = call.phone_shows(&[0x65, 0x88, 1]);
    assert_eq!(repeated.len(), 2);
    assert_eq!(h264::parameter_sets(&repeated[0].payload).collect::<Vec<_>>(), [SEQUENCE, PICTURE]);
    assert_eq!(repeated[0].timestamp, repeated[1].timestamp);
    let second_slice = call.phone_shows(&[0x65, 0x48, 1]);
    assert_eq!(second_slice.len(), 1, "a later slice of the same picture");
    all.extend(repeated);
    all.extend(second_slice);
    assert_contiguous(&all);
    call.world.out.sent.clear();
    call.world.advance_ms(8000);
    let octets: usize = all.iter().map(|heard| heard.payload.len()).sum();
    let reports: Vec<_> = call.world.out.sent.drain(..).filter(|(port, ..)| *port == MUX).collect();
    let clear = call.browser.hear_rtcp(&reports[0].2);
    let Some(RtcpPacket::SenderReport { info, .. }) = Compound::parse(&clear).unwrap().packets().next() else {
        panic!("a report of what was sent")
    };
    assert_eq!((info.packet_count as usize, info.octet_count as usize), (all.len(), octets));
}

#[test]
fn what_signalling_told_serves_a_source_that_never_sends_them() {
    let sets = format!("{},{}", BASE64_STANDARD.encode(SEQUENCE), BASE64_STANDARD.encode(PICTURE));
    let mut call = Call::new(&video_call(&format!("profile-level-id=42e01f;sprop-parameter-sets={sets}")));
    let first = call.phone_shows(&[0x65, 0x88, 1]);
    assert_eq!(h264::parameter_sets(&first[0].payload).count(), 2, "with the very first packet");
    assert_eq!(asks(&mut call), 0, "the browser can start with it");
    call.phone_shows(DELTA);
    call.world.restart();
    call.world.advance_ms(100);
    assert_eq!(call.phone_shows(&[0x65, 0x88, 1]).len(), 2, "they outlive the process");
    // Another source is another encoder: what was told stays, what the one before sent does not.
    call.phone_shows(&[0x67, 0x42, 0xe0, 0x1f, 0x5a, 2]);
    call.phone = Source { sequence: 30_000, ..Source::new(0xf3, 98) };
    call.phone_shows(DELTA);
    call.world.advance_ms(100);
    let repeated = call.phone_shows(&[0x65, 0x88, 1]);
    assert_eq!(h264::parameter_sets(&repeated[0].payload).collect::<Vec<_>>(), [SEQUENCE, PICTURE]);
}

#[test]
fn sets_that_were_lost_on_the_way_are_made_up_for_and_late_packets_keep_their_place() {
    let mut call = Call::new(&video_call("profile-level-id=42e01f"));
    for payload in [SEQUENCE, PICTURE, &[0x65, 0x88, 1]] {
        call.phone_shows(payload);
    }
    let before = call.phone_shows(DELTA).remove(0);
    let late = call.phone.packet(DELTA);
    let lost = [call.phone.packet(SEQUENCE), call.phone.packet(PICTURE)];
    let repeated = call.phone_shows(&[0x65, 0x88, 2]);
    assert_eq!(repeated.len(), 2);
    assert_eq!(repeated[0].sequence, before.sequence + 4, "three numbers are left to those that are missing");
    let late = call.phone_sends(&late).remove(0);
    assert_eq!((late.sequence, late.payload.as_slice()), (before.sequence + 1, DELTA));
    assert_eq!(call.phone_sends(&lost[1])[0].sequence, before.sequence + 3);
    let after = call.phone_shows(DELTA);
    assert_eq!((after.len(), after[0].sequence), (1, repeated[1].sequence + 1));
}

/// How often the phone was asked for a key frame since the last look.
fn asks(call: &mut Call) -> usize {
    call.world.events().iter().filter(|event| matches!(event, Event::KeyframeWanted { .. })).count()
}

#[test]
fn sets_of_before_are_no_key_frame_when_new_ones_were_lost() {
    let newer: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 0xda, 9];
    for has_picture in [false, true] {
        let mut call = Call::new(&video_call("profile-level-id=42e01f"));
        for payload in [SEQUENCE, PICTURE, &[0x65, 0x88, 1], DELTA] {
            call.phone_shows(payload);
        }
        call.world.advance_ms(1000);
        assert_eq!(asks(&mut call), 0);
        let at = call.phone.timestamp;
        call.phone.packet(newer);
        for payload in [PICTURE, &[0x65, 0x88, 1]] {
            call.phone.timestamp = at;
            let packet = call.phone.packet(payload);
            if has_picture || payload != PICTURE {
                call.phone_sends(&packet);
            }
        }
        call.world.advance_ms(400);
        assert_eq!(asks(&mut call), 1, "the picture was made with sets that nobody has; {has_picture}");
        call.world.advance_ms(400);
        for payload in [newer, PICTURE, &[0x65, 0x88, 1]] {
            call.phone_shows(payload);
        }
        call.world.advance_ms(5000);
        assert_eq!(asks(&mut call), 0, "that was the answer");
    }
}

#[test]
fn a_flood_of_starts_of_pictures_is_not_made_a_larger_one() {
    for step in [0, 1, 3000] {
        let mut call = Call::new(&video_call("packetization-mode=0;profile-level-id=42e01f"));
        [SEQUENCE, PICTURE, IDR, DELTA].into_iter().for_each(|payload| drop(call.browser_shows(payload)));
        let (mut sent, mut timestamp) = (0, call.browser.source.timestamp);
        for _ in 0..200 {
            call.browser.source.timestamp = timestamp;
            sent += call.browser_shows(IDR).len();
            timestamp += step;
            call.world.advance_ms(1);
        }
        let repeated = if step == 0 { 1 } else { 2 };
        assert_eq!(sent, 200 + 2 * repeated, "one picture, or one in 100 ms, has its sets repeated");
    }
}

#[test]
fn a_full_pool_costs_the_sets_and_not_the_picture() {
    let mut call = Call::new(&video_call("profile-level-id=42e01f"));
    [SEQUENCE, PICTURE, DELTA].into_iter().for_each(|payload| drop(call.phone_shows(payload)));
    call.world.out.is_full = true;
    let alone = call.phone_shows(&[0x65, 0x88, 1]);
    assert_eq!(alone.len(), 1, "the picture goes on without them");
    call.world.out.is_full = false;
    let after = call.phone_shows(DELTA);
    assert_eq!(after[0].sequence, alone[0].sequence + 1);
}

/// A phone that sends its sets once, as soon as it has answered: the browser is still shaking hands, or the call is held.
#[test]
fn sets_that_come_while_nothing_can_be_passed_on_are_kept() {
    let whole = video_call("profile-level-id=42e01f");
    let mut world = World::new();
    let handle = world.put(1, 1, &whole).legs[0].1;
    let mut phone = Source::new(0xf2, 98);
    let early = world.feed(ports(1, LegId(2)).0, addr(PHONE), &phone.packet(SEQUENCE));
    assert!(matches!(early, Fed::Dropped(_)), "{early:?}");
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.connect(&mut world);
    let mut call = Call { world, browser, phone };
    let mut held = whole.clone();
    held.routes[1].paused = true;
    call.world.put(1, 2, &held);
    assert!(call.phone_shows(PICTURE).is_empty());
    call.world.put(1, 3, &whole);
    let first = call.phone_shows(&[0x65, 0x88, 1]);
    assert_eq!(h264::parameter_sets(&first[0].payload).collect::<Vec<_>>(), [SEQUENCE, PICTURE]);
    assert_eq!(first.len(), 2);
}
