//! Lost video is sent again to those who ask, and asked for where it can be had.

use gangway_dataplane::{
    srtp::{Profile, SrtpRx},
    wire::{
        DropReason,
        rtcp::{self, Compound, RtcpPacket},
        rtp,
    },
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Feedback, LegKind, Media, RelayProgram, Rtx, RtxPayload},
};

use crate::world::{
    Browser, CERTIFICATE, Fed, MUX, Source, World, addr, hear, ice_leg, payload, ports, program, relay_id, route,
    rtp_leg,
};

const PHONE: &str = "192.0.2.50:4002";
const BROWSER: &str = "198.51.100.7:50000";
/// What the browser is sent on.
const TO_BROWSER: u32 = 0x4004;
const RTX: u32 = 0x9009;
/// A VP8 key frame and another frame.
const KEY_FRAME: &[u8] = &[0x10, 0x50, 0, 0];
const FRAME: &[u8] = &[0x10, 0x51, 0, 0];

/// Video both ways between a browser that takes NACKs and a phone that does not.
pub(crate) fn video_call(with_rtx: bool) -> RelayProgram {
    let vp8 = payload(96, Codec::Vp8, 90_000);
    let routes = [(0, 2, 0x3003), (2, 0, TO_BROWSER)].map(|(from, to, ssrc)| {
        let mut video = route(from, to, ssrc, &[(vp8.clone(), vp8.clone())]);
        video.media = Media::Video;
        video
    });
    let mut whole = program(vec![ice_leg(0, Some(CERTIFICATE)), rtp_leg(2, Some(PHONE))], routes.to_vec());
    let LegKind::IceDtls(ice) = &mut whole.legs[0].kind else { unreachable!("leg 0 is a browser") };
    (ice.feedback, ice.transport_cc) = (vec![Feedback::Nack, Feedback::Remb], Some(3));
    if with_rtx {
        let payloads = vec![RtxPayload { pt: 97, apt: 96 }];
        whole.routes[0].source_rtx.clone_from(&payloads);
        whole.routes[1].rtx = Some(Rtx { ssrc: RTX, payloads });
    }
    whole
}

pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) browser: Browser,
    pub(crate) phone: Source,
    /// What the browser was sent, in order.
    pub(crate) sent: Vec<Vec<u8>>,
}

impl Call {
    pub(crate) fn new(whole: &RelayProgram, profile: Profile) -> Self {
        let mut world = World::new();
        let handle = world.put(1, 1, whole).legs[0].1;
        let mut browser = Browser::new(1, 0, handle, BROWSER, profile, 7);
        browser.connect(&mut world);
        browser.source = Source::new(0xca, 96);
        world.events();
        Call { world, browser, phone: Source::new(0xf2, 96), sent: Vec::new() }
    }

    pub(crate) fn phone_shows(&mut self, payload: &[u8]) -> Vec<u8> {
        let packet = self.phone.packet(payload);
        let sent = self.world.feed(ports(1, LegId(2)).0, addr(PHONE), &packet).bytes();
        self.sent.push(sent.clone());
        sent
    }

    /// The browser misses packets of `media`; what it is sent then.
    pub(crate) fn nack(&mut self, media: u32, missing: &[u16]) -> Vec<Vec<u8>> {
        let mut bytes = [0; 512];
        let len = rtcp::write_nack(&mut bytes, 0xca, media, missing.iter().copied()).unwrap();
        let sealed = self.browser.protect_rtcp(&bytes[..len]);
        self.world.out.sent.clear();
        assert_eq!(self.world.feed(MUX, addr(BROWSER), &sealed), Fed::Consumed);
        self.world
            .out
            .sent
            .drain(..)
            .map(|(port, to, bytes)| {
                assert_eq!((port, to), (MUX, addr(BROWSER)));
                bytes
            })
            .collect()
    }

    fn number(&self, at: usize) -> u16 {
        rtp::sequence_of(&self.sent[at])
    }

    /// RTCP that the browser was sent since the last call.
    pub(crate) fn asked(&mut self) -> Vec<Vec<u8>> {
        let sent: Vec<_> = self.world.out.sent.drain(..).filter(|(port, ..)| *port == MUX).collect();
        sent.iter().map(|(.., bytes)| self.browser.hear_rtcp(bytes)).collect()
    }

    /// The numbers that the browser was asked for again since the last call, and how often for a key frame.
    fn wishes(&mut self) -> (Vec<u16>, usize) {
        let (mut missing, mut keyframes) = (Vec::new(), 0);
        for bytes in self.asked() {
            for packet in Compound::parse(&bytes).unwrap().packets() {
                match packet {
                    RtcpPacket::Nack { media: 0xca, lost, .. } => missing.extend(lost.sequences()),
                    RtcpPacket::PictureLoss { media: 0xca, .. } => keyframes += 1,
                    _ => {}
                }
            }
        }
        (missing, keyframes)
    }
}

#[test]
fn a_browser_without_rtx_gets_the_very_datagram_again() {
    for profile in Profile::ALL {
        let mut call = Call::new(&video_call(false), profile);
        for number in 0..10u8 {
            call.phone_shows(&[0x10, 0x51, number]);
            call.world.advance_ms(10);
        }
        let again = call.nack(TO_BROWSER, &[call.number(3), call.number(4), call.number(8)]);
        assert_eq!(again, [call.sent[3].clone(), call.sent[4].clone(), call.sent[8].clone()], "{profile:?}");
        let stats = call.world.relays().stats(relay_id(1)).unwrap();
        assert_eq!((stats.legs[0].sent.packets, stats.legs[0].sent.resent), (10, 3));
        assert_eq!(stats.legs[1].sent.resent, 0);
    }
}

#[test]
fn with_rtx_a_lost_packet_comes_on_a_stream_of_its_own() {
    let mut call = Call::new(&video_call(true), Profile::AeadAes128Gcm);
    for number in 0..10u8 {
        call.phone_shows(&[0x10, 0x51, number]);
    }
    let wanted = [call.number(2), call.number(7)];
    let again: Vec<_> = call.nack(TO_BROWSER, &wanted).iter().map(|bytes| call.browser.hear(bytes)).collect();
    assert_eq!(again.len(), 2);
    for ((heard, original), at) in again.iter().zip(wanted).zip([2usize, 7]) {
        let first = call.browser.hear(&call.sent[at].clone());
        assert_eq!((heard.ssrc, heard.pt, heard.timestamp, heard.marker), (RTX, 97, first.timestamp, first.marker));
        assert_eq!(heard.payload, [&original.to_be_bytes()[..], &first.payload].concat(), "RFC 4588 section 4");
    }
    assert_eq!(again[1].sequence, again[0].sequence.wrapping_add(1));
    assert!(again[0].sequence < 0x8000);

    // A new process knows nothing of what was sent, and uses no index again: opening would fail.
    call.world.restart();
    assert_eq!(call.nack(TO_BROWSER, &wanted), Vec::<Vec<u8>>::new());
    assert_eq!(call.world.drops(DropReason::ResendUnknown), 2);
    let later = call.phone_shows(FRAME);
    let last = again[1].sequence;
    let again = call.nack(TO_BROWSER, &[rtp::sequence_of(&later)]);
    assert!(call.browser.hear(&again[0]).sequence > last, "behind all that the former process may have sent");
}

#[test]
fn padding_of_a_lost_packet_stays_behind_in_its_retransmission() {
    let mut call = Call::new(&video_call(true), Profile::AeadAes128Gcm);
    for (payload, padding) in [(&[0x10, 0x51, 200][..], &[0, 0, 3][..]), (&[], &[0, 0, 0, 4])] {
        let mut padded = call.phone.packet(&[payload, padding].concat());
        padded[0] |= 0x20;
        let sent = call.world.feed(ports(1, LegId(2)).0, addr(PHONE), &padded).bytes();
        assert_eq!(call.browser.hear(&sent).payload, payload);
        let number = rtp::sequence_of(&sent);
        let again = call.nack(TO_BROWSER, &[number]);
        assert_eq!(again[0][0], 0x80, "it has none, and says so");
        assert_eq!(call.browser.hear(&again[0]).payload, [&number.to_be_bytes()[..], payload].concat());
    }
}

#[test]
fn rtx_that_comes_and_goes_by_program_keeps_its_numbers() {
    let mut call = Call::new(&video_call(true), Profile::AeadAes128Gcm);
    let mut numbers = Vec::new();
    for generation in 2..8 {
        let sent = call.phone_shows(FRAME);
        let again = call.nack(TO_BROWSER, &[rtp::sequence_of(&sent)]);
        match generation % 2 {
            0 => numbers.push(call.browser.hear(&again[0]).sequence),
            _ => assert_eq!(again, [sent], "without a stream for it, as it was"),
        }
        call.world.put(1, generation, &video_call(generation % 2 == 1));
    }
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn each_refusal_has_its_counter() {
    let mut call = Call::new(&video_call(false), Profile::AeadAes128Gcm);
    (0..100).for_each(|_| drop(call.phone_shows(&[0x10; 1000])));
    let (first, last) = (call.number(0), call.number(99));
    assert_eq!(call.nack(TO_BROWSER, &[last.wrapping_add(1)]).len(), 0, "never sent");
    assert_eq!(call.world.drops(DropReason::ResendUnknown), 1);
    assert_eq!(call.nack(TO_BROWSER, &[first]).len(), 1);
    assert_eq!(call.nack(TO_BROWSER, &[first]).len(), 0, "just sent again");
    assert_eq!(call.world.drops(DropReason::ResendTooSoon), 1);
    // Sixty in one request are more than one may have; then what was saved up is spent.
    let many: Vec<u16> = (1..=60).map(|at| first.wrapping_add(at)).collect();
    assert_eq!(call.nack(TO_BROWSER, &many).len(), 48);
    assert_eq!(call.world.drops(DropReason::ResendOverBudget), 12);
    let rest: Vec<u16> = (61..99).map(|at| first.wrapping_add(at)).collect();
    let sent = call.nack(TO_BROWSER, &rest).len();
    assert!((10..20).contains(&sent), "64 KiB are spent after {sent} more");
    assert_eq!(call.world.drops(DropReason::ResendOverBudget), 12 + 38 - sent as u64);
    call.world.advance_ms(1001);
    assert_eq!(call.nack(TO_BROWSER, &[last]).len(), 0, "too old");
    assert_eq!(call.nack(0x7777, &[last]).len(), 0, "no stream of ours");
    assert_eq!(call.world.drops(DropReason::ResendUnknown), 2);
    let stats = call.world.relays().stats(relay_id(1)).unwrap();
    assert_eq!(stats.legs[0].drops["resend_too_soon"], 1, "an operator finds it on the leg");
    call.phone_shows(FRAME);
    call.world.out.is_full = true;
    assert_eq!(call.nack(TO_BROWSER, &[last.wrapping_add(1)]).len(), 0);
    assert_eq!(call.world.drops(DropReason::BuffersExhausted), 1);
}

#[test]
fn what_was_sent_under_another_key_is_not_sent_again() {
    let mut call = Call::new(&video_call(false), Profile::AeadAes128Gcm);
    let sent = call.phone_shows(FRAME);
    call.browser.rekey(Profile::AeadAes128Gcm, 90);
    assert!(call.browser.handshake(&mut call.world, CERTIFICATE));
    assert_eq!(call.nack(TO_BROWSER, &[rtp::sequence_of(&sent)]).len(), 0);
    assert_eq!(call.world.drops(DropReason::ResendUnknown), 1);
}

#[test]
fn who_did_not_agree_on_nack_gets_nothing_again_and_is_asked_for_nothing() {
    let mut whole = video_call(true);
    let LegKind::IceDtls(ice) = &mut whole.legs[0].kind else { unreachable!("leg 0 is a browser") };
    ice.feedback.clear();
    let mut call = Call::new(&whole, Profile::AeadAes128Gcm);
    let sent = call.phone_shows(FRAME);
    assert_eq!(call.nack(TO_BROWSER, &[rtp::sequence_of(&sent)]).len(), 0);
    call.browser.say(&mut call.world, KEY_FRAME);
    call.browser.talk(FRAME);
    call.browser.say(&mut call.world, FRAME);
    call.world.out.sent.clear();
    call.world.advance_ms(99);
    assert_eq!(call.wishes(), (vec![], 0));
    call.world.advance_ms(1);
    assert_eq!(call.wishes(), (vec![], 1), "a key frame, as ever");
}

/// A call whose phone has the browser's key frame 1000 and frame 1002; 1001 is what is returned.
fn with_a_gap(with_rtx: bool) -> (Call, Vec<u8>) {
    let mut call = Call::new(&video_call(with_rtx), Profile::AeadAes128Gcm);
    call.browser.say(&mut call.world, KEY_FRAME);
    let late = call.browser.source.packet(&[0x10, 0x51, 7]);
    call.world.advance_ms(1000);
    call.browser.say(&mut call.world, FRAME);
    call.world.out.sent.clear();
    (call, late)
}

#[test]
fn a_browser_is_asked_for_what_is_missing_and_its_late_packet_goes_on() {
    let (mut call, late) = with_a_gap(false);
    call.world.advance_ms(9);
    assert_eq!(call.wishes(), (vec![], 0), "it may have been swapped");
    call.world.advance_ms(1);
    assert_eq!(call.wishes(), (vec![1001], 0));
    call.world.advance_ms(15);
    let sealed = call.browser.protect(&late);
    let heard = hear(&call.world.feed(MUX, addr(BROWSER), &sealed).bytes());
    assert_eq!(heard.payload, [0x10, 0x51, 7]);
    call.world.advance_ms(1000);
    assert_eq!(call.wishes().1, 0, "nothing is missing any more");
}

#[test]
fn what_does_not_come_is_asked_for_a_few_times_then_a_key_frame_is() {
    let (mut call, _) = with_a_gap(false);
    call.world.advance_ms(119);
    assert_eq!(call.wishes(), (vec![1001; 5], 0), "each round trip, of which nothing is known: 20 ms");
    call.world.advance_ms(1);
    assert_eq!(call.wishes(), (vec![], 1));
    call.world.advance_ms(2000);
    assert_eq!(call.wishes(), (vec![], 0));
}

#[test]
fn a_retransmission_of_a_browser_takes_the_place_of_the_lost_packet() {
    let (mut call, _) = with_a_gap(true);
    let mut repair = Source::new(0xcb, 97);
    repair.timestamp = 5160;
    let wrapped = call.browser.protect(&repair.packet(&[&1001u16.to_be_bytes()[..], &[0x10, 0x51, 7]].concat()));
    let heard = hear(&call.world.feed(MUX, addr(BROWSER), &wrapped).bytes());
    assert_eq!((heard.pt, heard.ssrc, heard.payload.as_slice()), (96, 0x3003, &[0x10, 0x51, 7][..]));
    let next = hear(&call.browser.say(&mut call.world, FRAME).bytes());
    assert_eq!((next.sequence, next.timestamp), (heard.sequence + 2, heard.timestamp + 320));
    call.world.advance_ms(500);
    assert_eq!(call.wishes(), (vec![], 0));
    // Once more, one that nobody misses, one from another time, and what only fills the bandwidth.
    for payload in [&[3, 0xe9, 0x10, 1][..], &[3, 0xea, 0x10, 1], &[9, 9, 0x10, 1], &[3, 0xe9], &[]] {
        let sealed = call.browser.protect(&repair.packet(payload));
        assert_eq!(call.world.feed(MUX, addr(BROWSER), &sealed), Fed::Dropped(DropReason::RepairNotNeeded));
    }
    assert_eq!(call.world.drops(DropReason::RepairNotNeeded), 5);
}

#[test]
fn a_flood_of_requests_is_bounded() {
    let mut call = Call::new(&video_call(true), Profile::AeadAes128Gcm);
    let sent = call.phone_shows(FRAME);
    let first = rtp::sequence_of(&sent);
    let mut nack = vec![0x81, 205, 1, 102, 0, 0, 0, 9];
    nack.extend(TO_BROWSER.to_be_bytes());
    (0..356u16).for_each(|at| {
        nack.extend(first.wrapping_add(at).to_be_bytes());
        nack.extend([0xff, 0xff]);
    });
    let sealed = call.browser.protect_rtcp(&nack);
    call.world.out.sent.clear();
    assert_eq!(call.world.feed(MUX, addr(BROWSER), &sealed), Fed::Consumed);
    assert_eq!(call.world.out.sent.len(), 1, "one was ever sent");
    let refused = [DropReason::ResendUnknown, DropReason::ResendOverBudget, DropReason::ResendTooSoon];
    let refused: u64 = refused.into_iter().map(|reason| call.world.drops(reason)).sum();
    assert_eq!(refused, 356 * 17 - 1);
    let (_, _, again) = call.world.out.sent.pop().unwrap();
    assert!(call.browser.open(&again, RTX, SrtpRx::unprotect_rtp).is_ok());
}
