//! Key frames that the relay asks for by itself, and how all wishes for them are merged.

use gangway_dataplane::{
    srtp::Profile,
    wire::rtcp::{self, Compound, RtcpPacket},
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Event, Feedback, LegKind, Media, RelayProgram},
};

use crate::world::{
    Browser, CERTIFICATE, Fed, MUX, Source, World, addr, call, ice_leg, payload, ports, program, relay_id, route,
    rtp_leg,
};

const BROWSER: &str = "198.51.100.7:50000";
const PHONE: &str = "192.0.2.50:4002";
const PHONE_RTCP: &str = "192.0.2.50:4003";
/// The first bytes of VP8 frames in RTP.
const KEY_FRAME: &[u8] = &[0x10, 0x50, 0, 0];
const FRAME: &[u8] = &[0x10, 0x51, 0, 0];

/// Video between browser leg 0 and plain leg 2, both ways.
fn video_call(remote: Option<&str>) -> RelayProgram {
    let vp8 = payload(96, Codec::Vp8, 90_000);
    let routes = [(0, 2, 0x3003), (2, 0, 0x4004)].map(|(from, to, ssrc)| {
        let mut video = route(from, to, ssrc, &[(vp8.clone(), vp8.clone())]);
        video.media = Media::Video;
        video
    });
    program(vec![ice_leg(0, Some(CERTIFICATE)), rtp_leg(2, remote)], routes.to_vec())
}

fn connected(whole: &RelayProgram) -> (World, Browser) {
    let mut world = World::new();
    let handle = world.put(1, 1, whole).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.connect(&mut world);
    browser.source = Source::new(0xca, 96);
    world.events();
    (world, browser)
}

/// A call whose phone has just got the browser's key frame, long after anything was asked for.
fn showing() -> (World, Browser) {
    let (mut world, mut browser) = connected(&video_call(Some(PHONE)));
    assert!(matches!(browser.say(&mut world, KEY_FRAME), Fed::Sent(..)));
    world.advance_ms(1000);
    assert_eq!(asked(&mut world, &mut browser), 0, "it started with a key frame");
    (world, browser)
}

/// How often the browser was asked for a key frame of its camera since the last call.
fn asked(world: &mut World, browser: &mut Browser) -> usize {
    let sent: Vec<_> = world.out.sent.drain(..).filter(|(port, ..)| *port == MUX).collect();
    let clear: Vec<_> = sent.iter().map(|(.., bytes)| browser.hear_rtcp(bytes)).collect();
    let wishes = clear.iter().filter(|bytes| {
        let mut packets = Compound::parse(bytes).unwrap().packets();
        packets.any(|packet| matches!(packet, RtcpPacket::PictureLoss { media, .. } if media == browser.source.ssrc))
    });
    wishes.count()
}

fn phone_wishes(world: &mut World) {
    let mut pli = [0; 64];
    let mut len = rtcp::write_receiver_report(&mut pli, 0xf2, &[], b"p").unwrap();
    len += rtcp::write_pli(&mut pli[len..], 0xf2, 0x3003).unwrap();
    assert_eq!(world.feed(ports(1, LegId(2)).1, addr(PHONE_RTCP), &pli[..len]), Fed::Consumed);
}

#[test]
fn a_route_that_flows_for_the_first_time_asks_unless_it_starts_with_a_key_frame() {
    let (mut world, mut browser) = connected(&video_call(None));
    assert!(matches!(browser.say(&mut world, KEY_FRAME), Fed::Dropped(_)), "nobody is there to see it");
    world.put(1, 2, &video_call(Some(PHONE)));
    assert_eq!(asked(&mut world, &mut browser), 0);
    assert!(matches!(browser.say(&mut world, FRAME), Fed::Sent(..)));
    assert_eq!(asked(&mut world, &mut browser), 1);
    browser.say(&mut world, FRAME);
    world.advance_ms(2000);
    assert_eq!(asked(&mut world, &mut browser), 0, "once");
}

#[test]
fn a_route_that_goes_on_after_a_hold_asks() {
    let (mut world, mut browser) = showing();
    let mut held = video_call(Some(PHONE));
    held.routes[0].paused = true;
    world.put(1, 2, &held);
    browser.say(&mut world, FRAME);
    world.put(1, 3, &video_call(Some(PHONE)));
    assert_eq!(asked(&mut world, &mut browser), 0);
    browser.say(&mut world, FRAME);
    assert_eq!(asked(&mut world, &mut browser), 1);
}

#[test]
fn another_source_and_another_receiver_are_starts() {
    let (mut world, mut browser) = showing();
    browser.source = Source::new(0xcb, 96);
    browser.say(&mut world, FRAME);
    assert_eq!(asked(&mut world, &mut browser), 1, "another source");
    world.advance_ms(1000);
    world.put(1, 2, &video_call(Some("192.0.2.77:4002")));
    browser.say(&mut world, FRAME);
    assert_eq!(asked(&mut world, &mut browser), 1, "another receiver");
}

#[test]
fn a_lost_packet_is_asked_for_after_a_while_unless_it_comes_or_a_key_frame_does() {
    let (mut world, mut browser) = showing();
    let late = browser.talk(FRAME);
    browser.say(&mut world, FRAME);
    world.advance_ms(50);
    world.feed(MUX, browser.at, &late);
    world.advance_ms(200);
    assert_eq!(asked(&mut world, &mut browser), 0, "it came");

    browser.talk(FRAME);
    browser.say(&mut world, FRAME);
    world.advance_ms(50);
    browser.say(&mut world, KEY_FRAME);
    world.advance_ms(200);
    assert_eq!(asked(&mut world, &mut browser), 0, "a key frame came");

    browser.talk(FRAME);
    browser.say(&mut world, FRAME);
    world.advance_ms(99);
    assert_eq!(asked(&mut world, &mut browser), 0, "it may come yet");
    world.advance_ms(1);
    assert_eq!(asked(&mut world, &mut browser), 1);
    world.advance_ms(2000);
    assert_eq!(asked(&mut world, &mut browser), 0, "once");
}

#[test]
fn wishes_that_come_too_soon_are_one_wish_at_the_end_of_the_gap() {
    let (mut world, mut browser) = showing();
    phone_wishes(&mut world);
    assert_eq!(asked(&mut world, &mut browser), 1);
    world.advance_ms(100);
    phone_wishes(&mut world);
    world.advance_ms(100);
    phone_wishes(&mut world);
    world.advance_ms(299);
    assert_eq!(asked(&mut world, &mut browser), 0);
    world.advance_ms(1);
    assert_eq!(asked(&mut world, &mut browser), 1);
    world.advance_ms(5000);
    assert_eq!(asked(&mut world, &mut browser), 0);
}

#[test]
fn a_key_frame_that_passes_fulfils_the_wish_that_waits() {
    let (mut world, mut browser) = showing();
    phone_wishes(&mut world);
    phone_wishes(&mut world);
    browser.say(&mut world, KEY_FRAME);
    world.advance_ms(1000);
    assert_eq!(asked(&mut world, &mut browser), 1);
}

#[test]
fn a_wish_that_waits_outlives_the_process() {
    let (mut world, mut browser) = showing();
    phone_wishes(&mut world);
    phone_wishes(&mut world);
    assert_eq!(asked(&mut world, &mut browser), 1);
    world.restart();
    world.advance_ms(500);
    assert_eq!(asked(&mut world, &mut browser), 1);
}

#[test]
fn several_receivers_of_one_camera_are_one_wish() {
    let mut whole = video_call(Some(PHONE));
    whole.legs.push(rtp_leg(3, Some("192.0.2.60:4002")));
    let mut second = whole.routes[0].clone();
    (second.to, second.ssrc) = (LegId(3), 0x5005);
    whole.routes.push(second);
    let (mut world, mut browser) = connected(&whole);
    browser.say(&mut world, FRAME);
    assert_eq!(asked(&mut world, &mut browser), 1);
    world.advance_ms(1000);
    assert_eq!(asked(&mut world, &mut browser), 0);
}

#[test]
fn a_phone_is_asked_through_control_with_the_same_merging() {
    let (mut world, _) = connected(&video_call(Some(PHONE)));
    let mut camera = Source::new(0xf2, 96);
    let (port, _) = ports(1, LegId(2));
    let wanted = [Event::KeyframeWanted { relay: relay_id(1), leg: LegId(0) }];
    world.feed(port, addr(PHONE), &camera.packet(FRAME));
    world.out.events.retain(|event| !matches!(event, Event::SourceLatched { .. }));
    assert_eq!(world.events(), wanted);
    camera.packet(FRAME);
    world.feed(port, addr(PHONE), &camera.packet(FRAME));
    world.advance_ms(499);
    assert_eq!(world.events(), []);
    world.advance_ms(1);
    assert_eq!(world.events(), wanted);
}

/// A call whose phone takes this feedback and has shown one picture, with what it was asked then.
fn phone_with(feedback: &[Feedback]) -> (World, Source, Vec<Vec<u8>>) {
    let mut whole = video_call(Some(PHONE));
    let LegKind::Rtp(leg) = &mut whole.legs[1].kind else { unreachable!("leg 2 is plain") };
    leg.feedback = feedback.to_vec();
    let (mut world, _) = connected(&whole);
    let mut camera = Source::new(0xf2, 96);
    world.feed(ports(1, LegId(2)).0, addr(PHONE), &camera.packet(FRAME));
    let asked = to_phone(&mut world);
    (world, camera, asked)
}

/// Compounds that the phone was sent since the last call.
fn to_phone(world: &mut World) -> Vec<Vec<u8>> {
    let (_, rtcp) = ports(1, LegId(2));
    let sent = world.out.sent.drain(..).filter(|(port, to, _)| *port == rtcp && *to == addr(PHONE_RTCP));
    sent.map(|(.., bytes)| bytes).collect()
}

fn has_asked_control(world: &mut World) -> bool {
    world.events().iter().any(|event| matches!(event, Event::KeyframeWanted { .. }))
}

#[test]
fn a_phone_that_takes_picture_loss_is_asked_by_a_packet_instead_of_through_control() {
    for feedback in [&[Feedback::NackPli][..], &[Feedback::CcmFir, Feedback::NackPli]] {
        let (mut world, _, asked) = phone_with(feedback);
        assert_eq!(asked.len(), 1);
        let packets: Vec<_> = Compound::parse(&asked[0]).unwrap().packets().collect();
        assert!(matches!(packets[0], RtcpPacket::ReceiverReport { .. }), "{packets:?}");
        assert_eq!(packets.last(), Some(&RtcpPacket::PictureLoss { sender: 0x3003, media: 0xf2 }));
        assert!(!has_asked_control(&mut world));
        assert!(world.keyframe(1, 2), "control can ask it too");
    }
}

#[test]
fn full_intra_requests_are_numbered_by_source_and_go_on_after_a_restart() {
    let (mut world, mut camera, mut asked) = phone_with(&[Feedback::CcmFir]);
    for number in 1..=3 {
        let packets: Vec<_> = Compound::parse(&asked[0]).unwrap().packets().collect();
        assert!(matches!(packets[0], RtcpPacket::ReceiverReport { .. }), "{packets:?}");
        let Some(RtcpPacket::FullIntra { sender: 0x3003, entries }) = packets.last() else { panic!("{packets:?}") };
        assert_eq!(entries.iter().collect::<Vec<_>>(), [(0xf2, number)]);
        world.advance_ms(500);
        world.restart();
        camera.packet(FRAME);
        world.feed(ports(1, LegId(2)).0, addr(PHONE), &camera.packet(FRAME));
        asked = to_phone(&mut world);
    }
    assert!(!has_asked_control(&mut world));
}

#[test]
fn sound_asks_for_no_picture() {
    let mut world = World::new();
    let handle = world.put(1, 1, &call(Some(CERTIFICATE), Some(PHONE))).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, BROWSER, Profile::AeadAes128Gcm, 7);
    browser.connect(&mut world);
    browser.say(&mut world, FRAME);
    browser.talk(FRAME);
    browser.say(&mut world, FRAME);
    world.advance_ms(400);
    assert_eq!(asked(&mut world, &mut browser), 0);
}
