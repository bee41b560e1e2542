//! RTCP: what peers are told, and what is understood of what they tell.

use std::time::Duration;

use gangway_dataplane::{
    relay::PortId,
    srtp::Profile,
    wire::{
        DropReason,
        rtcp::{self, Compound, ReportBlock, RtcpPacket, SenderInfo},
    },
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Event, Media, RelayProgram},
};

use crate::{
    phone::{BROWSER, PHONE, connected},
    world::{
        Browser, CERTIFICATE, Fed, MUX, Source, World, addr, call, payload, ports, program, relay_id, route, rtp_leg,
    },
};

const PHONE_RTCP: &str = "192.0.2.50:4001";

/// The first bytes of a VP8 key frame in RTP.
const KEY_FRAME: &[u8] = &[0x10, 0x50, 0, 0];

fn phone_ports() -> (PortId, PortId) {
    ports(1, LegId(1))
}

/// Sender info, blocks and CNAME of the only report in `bytes`.
fn read(bytes: &[u8]) -> (Option<SenderInfo>, Vec<ReportBlock>, Vec<u8>) {
    let compound = Compound::parse(bytes).unwrap();
    let packets: Vec<_> = compound.packets().collect();
    let RtcpPacket::SourceDescription(sdes) = packets[1] else { panic!("no SDES: {packets:?}") };
    let cname = sdes.cnames().next().unwrap().1.to_vec();
    match packets[0] {
        RtcpPacket::SenderReport { info, reports } => (Some(info), reports.iter().collect(), cname),
        RtcpPacket::ReceiverReport { reports, .. } => (None, reports.iter().collect(), cname),
        other => panic!("no report: {other:?}"),
    }
}

/// The next compound to the phone.
fn report_to_phone(world: &mut World) -> (Option<SenderInfo>, Vec<ReportBlock>, Vec<u8>) {
    world.out.sent.clear();
    for _ in 0..20 {
        let at = world.relays().next_deadline().expect("legs have timers");
        world.advance(at.since(world.now.mono));
        if let Some((port, _, bytes)) = world.out.sent.iter().find(|(port, ..)| *port != MUX) {
            assert_eq!(*port, phone_ports().1);
            return read(bytes);
        }
    }
    panic!("twenty timers and no report");
}

/// Ticks of an 8 kHz clock.
fn ticks_since(world: &World, base: gangway_shared::time::Time) -> u32 {
    (world.now.mono.since(base).as_micros() * 8 / 1000) as u32
}

fn sender_report(ssrc: u32, ntp: u64, rtp_timestamp: u32) -> Vec<u8> {
    let mut bytes = [0; 256];
    let info = SenderInfo { ssrc, ntp, rtp_timestamp, packet_count: 1, octet_count: 1 };
    let len = rtcp::write_sender_report(&mut bytes, &info, &[], b"peer").unwrap();
    bytes[..len].to_vec()
}

#[test]
fn each_peer_is_told_what_it_was_sent_and_what_was_lost_of_its_own() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let mut phone = Source::new(0xf0, 0);
    for number in 0..100 {
        world.advance_ms(20);
        browser.say(&mut world, &[0; 160]);
        let packet = phone.packet(&[0; 160]);
        if number % 10 != 5 {
            world.feed(phone_ports().0, addr(PHONE), &packet);
        }
    }
    let (info, blocks, cname) = report_to_phone(&mut world);
    let info = info.expect("it was sent media");
    assert_eq!((info.ssrc, info.packet_count, info.octet_count), (0x1001, 100, 16_000));
    assert_eq!(cname, b"cname");
    assert_eq!(blocks.len(), 1);
    assert_eq!((blocks[0].ssrc, blocks[0].cumulative_lost, blocks[0].highest_sequence), (0xf0, 10, 1099));
    assert!((20..=30).contains(&blocks[0].fraction_lost), "about 10 % of 256: {}", blocks[0].fraction_lost);
    let stats = world.relays().stats(relay_id(1)).unwrap();
    assert_eq!((stats.legs[1].received.lost, stats.legs[1].received.reordered), (10, 0));
    world.out.sent.clear();
    world.advance_ms(8000);
    let to_browser: Vec<_> = world.out.sent.iter().filter(|(port, ..)| *port == MUX).cloned().collect();
    for (_, to, bytes) in &to_browser {
        assert_eq!(*to, addr(BROWSER));
        read(&browser.hear_rtcp(bytes));
    }
    assert!(!to_browser.is_empty());
}

#[test]
fn reports_come_at_half_to_one_and_a_half_intervals() {
    let mut world = World::new();
    world.put(1, 1, &call(None, Some(PHONE)));
    let mut last = world.now.mono;
    let mut gaps = Vec::new();
    for _ in 0..20 {
        let at = world.relays().next_deadline().unwrap();
        world.advance(at.since(world.now.mono));
        if world.out.sent.pop().is_some() {
            gaps.push(world.now.mono.since(last));
            last = world.now.mono;
        }
    }
    assert!(gaps.len() >= 9);
    assert!(gaps.iter().all(|gap| (2500..=7500).contains(&gap.as_millis())), "{gaps:?}");
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "legs must not report in step");
}

#[test]
fn nobody_is_reported_to_before_it_is_known_and_trusted() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(Some(CERTIFICATE), None)).legs[0].1;
    world.advance_ms(20_000);
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.send_check(&mut world, true);
    world.advance_ms(20_000);
    assert!(world.out.sent.is_empty(), "no keys, no report");
    browser.handshake(&mut world, CERTIFICATE);
    world.advance_ms(8000);
    assert!(world.out.sent.iter().all(|(port, ..)| *port == MUX) && !world.out.sent.is_empty());
}

#[test]
fn a_sender_report_carries_the_sources_own_clock_once_it_told_and_its_arrival_before() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let mut sent = browser.say(&mut world, b"x").bytes();
    let first = crate::world::hear(&sent);
    let base = world.now.mono;
    let (info, ..) = report_to_phone(&mut world);
    let by_arrival = info.expect("it was sent media");
    let passed = ticks_since(&world, base);
    assert_eq!(by_arrival.rtp_timestamp, first.timestamp.wrapping_add(passed));

    // The source says that this packet was sampled 300 ms before it arrived: transit that arrival could not show.
    let mut ntp = 0x1234_5678_0000_0000;
    let timestamp = browser.source.timestamp;
    let report = browser.protect_rtcp(&sender_report(browser.source.ssrc, ntp, timestamp.wrapping_add(2400)));
    assert_eq!(world.feed(MUX, browser.at, &report), Fed::Consumed);
    let base = world.now.mono;
    sent = browser.say(&mut world, b"x").bytes();
    let next = crate::world::hear(&sent);
    let (info, ..) = report_to_phone(&mut world);
    let info = info.expect("it was sent media");
    let expected = next.timestamp.wrapping_add(2400).wrapping_add(ticks_since(&world, base));
    let error = info.rtp_timestamp.wrapping_sub(expected).cast_signed();
    assert!(error.abs() <= 1, "off by {error} ticks");

    // NTP moves like the time between the reports, whatever the source's wall clock says.
    let apart = info.ntp.wrapping_sub(by_arrival.ntp);
    assert!(apart > 0 && apart < 20 << 32);
    ntp += 1 << 52;
    let report = browser.protect_rtcp(&sender_report(browser.source.ssrc, ntp, timestamp.wrapping_add(1_000_000)));
    world.feed(MUX, browser.at, &report);
    sent = browser.say(&mut world, b"x").bytes();
    let next = crate::world::hear(&sent);
    let base = world.now.mono;
    let (info, ..) = report_to_phone(&mut world);
    let by_arrival = next.timestamp.wrapping_add(ticks_since(&world, base));
    let error = info.unwrap().rtp_timestamp.wrapping_sub(by_arrival).cast_signed();
    assert!(error.abs() <= 1, "a relation from another timeline is not believed: off by {error}");
}

#[test]
fn audio_and_video_of_a_call_share_one_clock_and_one_name() {
    let (mut world, mut browser) = connected(&with_video());
    let mut camera = Source::new(0xca, 96);
    let (audio_at, video_at) = (browser.source.timestamp, camera.timestamp);
    let said = crate::world::hear(&browser.say(&mut world, b"x").bytes());
    let frame = browser.protect(&camera.packet(b"x"));
    let shown = crate::world::hear(&world.feed(MUX, browser.at, &frame).bytes());
    // Both sampled at the same instant of the browser's clock; the video report arrives 400 ms later than the audio one.
    let ntp = 77 << 32;
    let report = browser.protect_rtcp(&sender_report(browser.source.ssrc, ntp, audio_at));
    world.feed(MUX, browser.at, &report);
    world.advance_ms(400);
    let report = browser.protect_rtcp(&sender_report(0xca, ntp, video_at));
    world.feed(MUX, browser.at, &report);
    world.out.sent.clear();
    world.advance_ms(8000);
    let infos: Vec<_> = [(1, 0x1001), (2, 0x3003)]
        .into_iter()
        .map(|(leg, ssrc)| {
            let port = ports(1, LegId(leg)).1;
            let bytes = world.out.sent.iter().find(|(sent, ..)| *sent == port).unwrap().2.clone();
            let (info, _, cname) = read(&bytes);
            assert_eq!((info.unwrap().ssrc, cname.as_slice()), (ssrc, &b"cname"[..]));
            info.unwrap()
        })
        .collect();
    // On each stream: the NTP time at which the shared instant was sampled.
    let sampled = |info: &SenderInfo, timestamp: u32, clock: u64| {
        let ticks = u64::from(info.rtp_timestamp.wrapping_sub(timestamp));
        info.ntp.wrapping_sub((ticks << 32) / clock)
    };
    let apart = sampled(&infos[0], said.timestamp, 8000).wrapping_sub(sampled(&infos[1], shown.timestamp, 90_000));
    let apart_ms = (i128::from(apart.cast_signed()) * 1000) >> 32;
    assert!(apart_ms.abs() <= 1, "lips are off by {apart_ms} ms");
}

/// Audio to leg 1 and video to leg 2, and video back.
fn with_video() -> RelayProgram {
    let mut whole = call(Some(CERTIFICATE), Some(PHONE));
    whole.legs.push(rtp_leg(2, Some("192.0.2.50:4002")));
    let vp8 = payload(96, Codec::Vp8, 90_000);
    for (from, to, ssrc) in [(0, 2, 0x3003), (2, 0, 0x4004)] {
        let mut video = route(from, to, ssrc, &[(vp8.clone(), vp8.clone())]);
        video.media = Media::Video;
        whole.routes.push(video);
    }
    program(whole.legs, whole.routes)
}

#[test]
fn a_phone_that_wants_a_key_frame_gets_the_browser_asked_and_the_other_way_round_control() {
    let (mut world, mut browser) = connected(&with_video());
    browser.source = Source::new(0xca, 96);
    browser.say(&mut world, KEY_FRAME);
    let mut pli = [0; 64];
    let mut len = rtcp::write_receiver_report(&mut pli, 0xf2, &[], b"p").unwrap();
    len += rtcp::write_pli(&mut pli[len..], 0xf2, 0x3003).unwrap();
    let (_, video_rtcp) = ports(1, LegId(2));
    let from = addr("192.0.2.50:4003");
    world.out.sent.clear();
    assert_eq!(world.feed(video_rtcp, from, &pli[..len]), Fed::Consumed);
    world.feed(video_rtcp, from, &pli[..len]);
    assert_eq!(world.out.sent.len(), 1, "a repeated wish is one wish");
    let (_, to, bytes) = world.out.sent.pop().unwrap();
    let clear = browser.hear_rtcp(&bytes);
    let asked = Compound::parse(&clear).unwrap().packets().last().unwrap();
    assert!(matches!(asked, RtcpPacket::PictureLoss { media: 0xca, .. }), "{asked:?}");
    assert_eq!(to, addr(BROWSER));

    world.advance(Duration::from_secs(1));
    world.events();
    let len = rtcp::write_pli(&mut pli, 1, 0x4004).unwrap();
    let sealed = browser.protect_rtcp(&pli[..len]);
    assert_eq!(world.feed(MUX, addr(BROWSER), &sealed), Fed::Consumed);
    assert_eq!(world.events(), [Event::KeyframeWanted { relay: relay_id(1), leg: LegId(0) }]);
}

#[test]
fn control_can_ask_a_browser_for_a_key_frame_but_not_a_phone() {
    let (mut world, mut browser) = connected(&with_video());
    assert!(!world.keyframe(1, 0), "it has shown nothing yet");
    browser.source = Source::new(0xca, 96);
    browser.say(&mut world, b"frame");
    assert!(world.keyframe(1, 0));
    assert!(!world.keyframe(1, 2) && !world.keyframe(1, 1) && !world.keyframe(9, 0));
}

#[test]
fn a_receiver_report_tells_round_trip_and_loss() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    browser.say(&mut world, b"x");
    let (info, ..) = report_to_phone(&mut world);
    world.advance_ms(250);
    let block = ReportBlock {
        ssrc: 0x1001,
        fraction_lost: 0,
        cumulative_lost: 7,
        highest_sequence: 1,
        jitter: 80,
        last_sr: rtcp::ntp_middle(info.unwrap().ntp),
        delay_since_last_sr: rtcp::delay_since_last_report(Duration::from_millis(200)),
    };
    let mut bytes = [0; 128];
    let len = rtcp::write_receiver_report(&mut bytes, 0xf0, &[block], b"p").unwrap();
    assert_eq!(world.feed(phone_ports().1, addr(PHONE_RTCP), &bytes[..len]), Fed::Consumed);
    let stats = world.relays().stats(relay_id(1)).unwrap().legs.remove(1);
    let round_trip = stats.round_trip_us.unwrap();
    assert!((49_900..50_100).contains(&round_trip), "{round_trip} us");
    assert_eq!((stats.sent.lost, stats.sent.jitter_us, stats.received.rtcp_packets), (7, 10_000, 1));
}

#[test]
fn a_goodbye_ends_nothing_and_hostile_rtcp_is_a_counted_drop() {
    let (mut world, mut browser) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let before = crate::world::hear(&browser.say(&mut world, b"x").bytes());
    let mut bytes = [0; 64];
    let len = rtcp::write_bye(&mut bytes, 0xf0).unwrap();
    world.out.sent.clear();
    assert_eq!(world.feed(phone_ports().1, addr(PHONE_RTCP), &bytes[..len]), Fed::Consumed);
    assert!(world.out.sent.is_empty());
    let after = crate::world::hear(&browser.say(&mut world, b"x").bytes());
    assert_eq!(after.sequence, before.sequence + 1);
    let stranger = addr("203.0.113.1:1");
    assert_eq!(world.feed(phone_ports().1, stranger, &bytes[..len]), Fed::Dropped(DropReason::ForeignSource));
    let torn = [0x81, 201, 0, 9, 0, 0, 0, 1];
    assert_eq!(world.feed(phone_ports().1, addr(PHONE_RTCP), &torn), Fed::Dropped(DropReason::RtcpMalformed));
    assert_eq!(world.drops(DropReason::RtcpMalformed), 1);
    let clear = sender_report(browser.source.ssrc, 1, 1);
    assert!(matches!(world.feed(MUX, browser.at, &clear), Fed::Dropped(_)), "a browser never reports in clear");
}

#[test]
fn a_stranger_cannot_have_the_reports_of_a_phone_whose_media_flows() {
    let (mut world, _) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    let mut bytes = [0; 64];
    let len = rtcp::write_bye(&mut bytes, 0xf0).unwrap();
    let mut phone = Source::new(0xf0, 0);
    world.feed(phone_ports().0, addr(PHONE), &phone.packet(b"x"));
    assert_eq!(world.feed(phone_ports().1, addr(PHONE_RTCP), &bytes[..len]), Fed::Consumed);
    for _ in 0..300 {
        world.advance_ms(20);
        world.feed(phone_ports().0, addr(PHONE), &phone.packet(b"x"));
        let stranger = world.feed(phone_ports().1, addr("203.0.113.1:1"), &bytes[..len]);
        assert_eq!(stranger, Fed::Dropped(DropReason::ForeignSource));
    }
    assert_eq!(world.feed(phone_ports().1, addr(PHONE_RTCP), &bytes[..len]), Fed::Consumed);
}

#[test]
fn a_telephone_event_is_no_jitter() {
    let (pcmu, event) = (payload(0, Codec::Pcmu, 8000), payload(101, Codec::TelephoneEvent, 8000));
    let mut whole = call(Some(CERTIFICATE), Some(PHONE));
    whole.routes[1] = route(1, 0, 0x2002, &[(pcmu.clone(), pcmu), (event.clone(), event)]);
    let (mut world, _) = connected(&whole);
    let mut phone = Source::new(0xf0, 0);
    let begun = phone.timestamp + 10 * 160;
    for number in 0..30 {
        world.advance_ms(20);
        let is_event = (10..20).contains(&number);
        let sampled = phone.timestamp;
        (phone.pt, phone.timestamp) = if is_event { (101, begun) } else { (0, sampled) };
        world.feed(phone_ports().0, addr(PHONE), &phone.packet(b"tone"));
        phone.timestamp = sampled + 160;
    }
    assert_eq!(world.relays().stats(relay_id(1)).unwrap().legs[1].received.jitter_us, 0);
}

/// Feeds packets of 20 ms that come so many milliseconds after their time, and so many packets after their turn.
fn feed_late(world: &mut World, late: &[(u64, u64)]) {
    let mut phone = Source::new(0xf0, 0);
    let start = world.now.mono;
    let packets = late.iter().zip(0..).map(|((late_ms, turns), number)| ((number + turns) * 20 + late_ms, number));
    let sent: Vec<Vec<u8>> = late.iter().map(|_| phone.packet(&[0; 160])).collect();
    let mut arrivals: Vec<(u64, usize)> = packets.map(|(at, number)| (at, number as usize)).collect();
    arrivals.sort_unstable();
    for (at_ms, number) in arrivals {
        let at = start + Duration::from_millis(at_ms + 20);
        world.advance(at.since(world.now.mono));
        world.feed(phone_ports().0, addr(PHONE), &sent[number]);
    }
}

/// Interarrival jitter as RFC 3550 appendix A.8 computes it: J += |D| - ((J + 8) >> 4) with J in sixteenths. Packets that are late by
/// 0, 10, 0, 5, 0, 0, 0, 0 ms have |D| of 80, 80, 40, 40 and three times 0 ticks of 8 kHz, and J is 80, 80 + 80 - 5 = 155, 155 + 40 - 10 = 185,
/// 185 + 40 - 12 = 213, 213 - 13 = 200, 200 - 13 = 187 and 187 - 12 = 175: 10 ticks, 1250 us. Without the rounding it is 11.
#[test]
fn jitter_is_that_of_the_rfc_in_statistics_and_in_reports() {
    let (mut world, _) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    feed_late(&mut world, &[(0, 0), (10, 0), (0, 0), (5, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
    let received = world.relays().stats(relay_id(1)).unwrap().legs[1].received.clone();
    assert_eq!((received.packets, received.jitter_us, received.reordered), (8, 1250, 0));
    let (_, blocks, _) = report_to_phone(&mut world);
    assert_eq!((blocks[0].jitter, blocks[0].highest_sequence, blocks[0].cumulative_lost), (10, 1007, 0));
}

/// The second and the fifth of six packets come behind the one after them, 10 ms late each. In the order in which they come (0, 2, 1, 3, 5, 4) their transit
/// times are 0, 0, 30, 0, 0 and 30 ms: |D| is 0, 240, 240, 0 and 240 ticks, and J is 0, 240, 240 + 240 - 15 = 465,
/// 465 - 29 = 436 and 436 + 240 - 27 = 649: 40 ticks, 5000 us.
#[test]
fn packets_out_of_order_are_counted_and_not_taken_for_lost() {
    let (mut world, _) = connected(&call(Some(CERTIFICATE), Some(PHONE)));
    feed_late(&mut world, &[(0, 0), (10, 1), (0, 0), (0, 0), (10, 1), (0, 0)]);
    let received = world.relays().stats(relay_id(1)).unwrap().legs[1].received.clone();
    assert_eq!((received.packets, received.reordered, received.lost, received.jitter_us), (6, 2, 0, 5000));
    let (_, blocks, _) = report_to_phone(&mut world);
    assert_eq!((blocks[0].jitter, blocks[0].highest_sequence, blocks[0].fraction_lost), (40, 1005, 0));
}
