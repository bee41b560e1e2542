//! What a browser is told of its way to us: when its packets came, and how much may come.

use gangway_dataplane::{
    srtp::Profile,
    wire::rtcp::{Compound, RtcpPacket},
};
use gangway_shared::rcp::LegKind;

use crate::{
    repair::{Call, video_call},
    world::{MUX, Source, addr},
};

const KEY_FRAME: &[u8] = &[0x10, 0x50, 0, 0];

/// A packet of the browser with its transport-wide number in extension 3.
fn numbered(source: &mut Source, number: u16) -> Vec<u8> {
    let plain = source.packet(KEY_FRAME);
    let [high, low] = number.to_be_bytes();
    let mut bytes = [&plain[..12], &[0xbe, 0xde, 0, 1, 0x31, high, low, 0], &plain[12..]].concat();
    bytes[0] |= 0x10;
    bytes
}

fn sends(call: &mut Call, number: u16) {
    let packet = numbered(&mut call.browser.source, number);
    let sealed = call.browser.protect(&packet);
    let at = call.browser.at;
    call.world.feed(MUX, at, &sealed);
}

/// The arrival reports that the browser was sent, as they are from their common header on.
fn arrivals(call: &mut Call) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for bytes in call.asked() {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (packet, behind) = rest.split_at(4 * (usize::from(rest[2]) << 8 | usize::from(rest[3])) + 4);
            if packet[..2] == [0x8f, 205] {
                found.push(packet.to_vec());
            }
            rest = behind;
        }
    }
    found
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[test]
fn a_browser_is_told_when_its_packets_came_every_fifty_milliseconds_while_they_come() {
    let mut call = Call::new(&video_call(false), Profile::AeadAes128Gcm);
    for number in [65_534, 65_535, 1] {
        sends(&mut call, number);
        call.world.advance_ms(10);
    }
    call.world.advance_ms(19);
    assert_eq!(arrivals(&mut call).len(), 0);
    call.world.advance_ms(1);
    let reports = arrivals(&mut call);
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!(report[8..12], 0xca_u32.to_be_bytes(), "about a stream of its own, or Chromium drops it");
    assert_eq!((word(report, 12), word(report, 14), report[19]), (65_534, 4, 1), "base, count, number");
    assert_eq!(word(report, 20), 0b11_01_01_00_01_00_00_00, "the third one is missing");
    assert_eq!(report[23..25], [40, 40], "10 ms each behind the first");
    call.world.advance_ms(1000);
    assert_eq!(arrivals(&mut call).len(), 0, "silence is not reported");
    sends(&mut call, 0);
    sends(&mut call, 2);
    call.world.advance_ms(50);
    let reports = arrivals(&mut call);
    assert_eq!(
        (word(&reports[0], 12), word(&reports[0], 14), reports[0][19]),
        (0, 3, 2),
        "the late one is told after all"
    );
    // A new process begins anew.
    call.world.restart();
    sends(&mut call, 3);
    call.world.advance_ms(50);
    let reports = arrivals(&mut call);
    assert_eq!((word(&reports[0], 12), word(&reports[0], 14), reports[0][19]), (3, 1, 3));
}

#[test]
fn reports_go_on_behind_a_burst_of_loss_longer_than_one_report() {
    for lost in [399, 400, 450, 511] {
        let mut call = Call::new(&video_call(false), Profile::AeadAes128Gcm);
        sends(&mut call, 1);
        call.world.advance_ms(50);
        assert_eq!(arrivals(&mut call).len(), 1);
        let mut number = 2 + lost;
        for round in 0..150 {
            (0..10).for_each(|at| sends(&mut call, number + at));
            call.world.advance_ms(50);
            let reports = arrivals(&mut call);
            let last = reports.last().unwrap_or_else(|| panic!("{lost} lost, round {round}"));
            let end = word(last, 12).wrapping_add(word(last, 14));
            assert_eq!(end, number + 10, "{lost} lost, round {round}");
            number += 10;
        }
    }
}

#[test]
fn arrivals_are_told_while_the_other_side_holds_the_video() {
    let mut whole = video_call(false);
    whole.routes[0].paused = true;
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    for number in 0..3000 {
        sends(&mut call, number);
        call.world.advance_ms(1);
    }
    call.world.advance_ms(50);
    let reports = arrivals(&mut call);
    assert!(reports.len() > 50);
    assert!(reports.iter().all(|report| report[8..12] == 0xca_u32.to_be_bytes()));
    let (first, last) = (&reports[0], reports.last().unwrap());
    assert_eq!((word(first, 12), word(last, 12) + word(last, 14)), (0, 3000), "all of them");
    let told: usize = reports.iter().map(|report| usize::from(word(report, 14))).sum();
    assert_eq!(told, 3000, "each once");
}

#[test]
fn numbers_of_a_browser_that_did_not_agree_on_them_are_nothing() {
    let mut whole = video_call(false);
    let LegKind::IceDtls(ice) = &mut whole.legs[0].kind else { unreachable!("leg 0 is a browser") };
    ice.transport_cc = None;
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    sends(&mut call, 1);
    call.world.advance_ms(1000);
    assert_eq!(arrivals(&mut call).len(), 0);
    ice_transport(&mut whole, Some(5));
    call.world.put(1, 2, &whole);
    sends(&mut call, 2);
    call.world.advance_ms(1000);
    assert_eq!(arrivals(&mut call).len(), 0, "another id");
    ice_transport(&mut whole, Some(3));
    call.world.put(1, 3, &whole);
    sends(&mut call, 3);
    call.world.advance_ms(1000);
    assert_eq!(arrivals(&mut call).len(), 1);
}

fn ice_transport(whole: &mut gangway_shared::rcp::RelayProgram, id: Option<u8>) {
    let LegKind::IceDtls(ice) = &mut whole.legs[0].kind else { unreachable!("leg 0 is a browser") };
    ice.transport_cc = id;
}

/// The limits that the browser was told since the last call, in bits per second.
fn limits(call: &mut Call) -> Vec<u64> {
    let mut limits = Vec::new();
    for bytes in call.asked() {
        for packet in Compound::parse(&bytes).unwrap().packets() {
            if let RtcpPacket::BandwidthEstimate { bitrate_bps, media, .. } = packet {
                assert_eq!(media.iter().collect::<Vec<_>>(), [0xca]);
                limits.push(bitrate_bps);
            }
        }
    }
    limits
}

#[test]
fn a_browser_is_told_what_the_other_side_takes_with_its_first_picture_and_each_second() {
    let mut whole = video_call(false);
    whole.routes[0].limit_kbps = Some(256);
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    call.world.advance_ms(700);
    assert_eq!(limits(&mut call), [0; 0], "it sends nothing");
    call.browser.say(&mut call.world, KEY_FRAME);
    call.world.advance_ms(0);
    assert_eq!(limits(&mut call), [256_000]);
    call.world.advance_ms(3000);
    assert_eq!(limits(&mut call), [256_000; 3]);
    whole.routes[0].limit_kbps = Some(1000);
    call.world.put(1, 2, &whole);
    call.world.advance_ms(0);
    assert_eq!(limits(&mut call), [1_000_000]);
    call.world.restart();
    call.world.advance_ms(1000);
    assert_eq!(limits(&mut call), [1_000_000]);
    whole.routes[0].limit_kbps = None;
    call.world.put(1, 3, &whole);
    call.world.restart();
    call.world.advance_ms(500);
    assert_eq!(limits(&mut call), [1 << 30], "else it would keep to the limit for ever");
    call.world.put(1, 4, &whole);
    call.world.advance_ms(60_000);
    assert_eq!(limits(&mut call), [1 << 30; 2], "a message can be lost");
    assert_eq!(call.browser.at, addr("198.51.100.7:50000"));
}

#[test]
fn a_limit_that_goes_while_the_video_is_held_is_lifted_and_one_that_comes_back_counts() {
    let mut whole = video_call(false);
    whole.routes[0].limit_kbps = Some(256);
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    call.browser.say(&mut call.world, KEY_FRAME);
    call.world.advance_ms(0);
    assert_eq!(limits(&mut call), [256_000]);
    (whole.routes[0].paused, whole.routes[0].limit_kbps) = (true, None);
    call.world.put(1, 2, &whole);
    call.world.advance_ms(0);
    assert_eq!(limits(&mut call), [1 << 30]);
    (whole.routes[0].paused, whole.routes[0].limit_kbps) = (false, Some(512));
    call.world.put(1, 3, &whole);
    call.browser.say(&mut call.world, KEY_FRAME);
    call.world.advance_ms(3000);
    assert_eq!(limits(&mut call), [512_000; 4]);
}

#[test]
fn a_browser_that_does_not_know_limits_is_told_none() {
    let mut whole = video_call(false);
    whole.routes[0].limit_kbps = Some(256);
    let LegKind::IceDtls(ice) = &mut whole.legs[0].kind else { unreachable!("leg 0 is a browser") };
    ice.feedback.clear();
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    call.browser.say(&mut call.world, KEY_FRAME);
    call.world.advance_ms(3000);
    assert_eq!(limits(&mut call), [0; 0]);
}
