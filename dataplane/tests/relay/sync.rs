//! Lips stay in sync: the clocks that the browser is told of a phone's audio and video, against when both were captured.

use std::{collections::BTreeMap, time::Duration};

use gangway_dataplane::{
    srtp::Profile,
    wire::rtcp::{self, Compound, RtcpPacket, SenderInfo},
};
use gangway_shared::{
    entropy::{Entropy, SeededEntropy},
    ids::LegId,
    rcp::{Codec, Media, RelayProgram},
    time::Time,
};

use crate::world::{Browser, CERTIFICATE, Fed, MUX, Source, World, addr, call, payload, ports, route, rtp_leg};

const AUDIO: &str = "192.0.2.50:4000";
const VIDEO: &str = "192.0.2.50:4002";
/// Ticks of a millisecond.
const KHZ: [u64; 2] = [8, 90];
const SSRCS: [u32; 2] = [0x2002, 0x4004];

fn program() -> RelayProgram {
    let mut whole = call(Some(CERTIFICATE), Some(AUDIO));
    whole.legs.push(rtp_leg(2, Some(VIDEO)));
    let vp8 = payload(96, Codec::Vp8, 90_000);
    for (from, to, ssrc) in [(0, 2, 0x3003), (2, 0, SSRCS[1])] {
        let mut video = route(from, to, ssrc, &[(vp8.clone(), vp8.clone())]);
        video.media = Media::Video;
        whole.routes.push(video);
    }
    whole
}

/// When a medium of the phone reports its clock.
#[derive(Clone, Copy, Debug)]
struct Reports {
    /// First and then every five seconds, in milliseconds after the first packet; `None`: never.
    first_ms: Option<u64>,
    /// A report is held up by so much on its way.
    delay_ms: u64,
}

/// One medium of the phone and its way to us.
#[derive(Clone, Copy, Debug)]
struct Path {
    reports: Reports,
    /// Packets are held up by 0 to so much.
    jitter_ms: u32,
}

/// The skew in milliseconds between audio and video as the browser would play them by the reports it got: the worst of 40 seconds, after
/// the first twelve.
fn skew_ms(paths: [Path; 2], seed: u64) -> f64 {
    let mut world = World::new();
    let handle = world.put(1, 1, &program()).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, "198.51.100.7:50000", Profile::AeadAes128Gcm, 7);
    browser.connect(&mut world);
    let mut dice = SeededEntropy::new(seed);
    let mut sources = [Source::new(0xa0, 0), Source::new(0xb0, 96)];
    let start = world.now.mono;
    // What arrives: by time, medium and the instant of capture in milliseconds.
    let mut network: BTreeMap<(Time, u64), (usize, u64, Vec<u8>)> = BTreeMap::new();
    let phone_ntp = |ms: u64| 0x1234_5678_9abc_0000_u64.wrapping_add((ms << 32) / 1000);
    let mut order = 0;
    for (medium, path) in paths.iter().enumerate() {
        let step = [20, 40][medium];
        let mut last = start;
        let first = sources[medium].timestamp;
        for captured in (0..40_000u64).step_by(step) {
            order += 1;
            let jitter = u64::from(dice.below(path.jitter_ms + 1));
            // A path with a queue: packets are held up, but not swapped.
            last = last.max(start + Duration::from_millis(captured + 20 + jitter));
            sources[medium].timestamp = first.wrapping_add((captured * KHZ[medium]) as u32);
            let packet = sources[medium].packet(&[0x10, 0x51, 0, 0]);
            network.insert((last, order), (medium, captured, packet));
        }
        let times = path.reports.first_ms.into_iter().flat_map(|first| (first..40_000).step_by(5000));
        for reported in times {
            order += 1;
            let info = SenderInfo {
                ssrc: sources[medium].ssrc,
                ntp: phone_ntp(reported),
                rtp_timestamp: first.wrapping_add((reported * KHZ[medium]) as u32),
                packet_count: 1,
                octet_count: 1,
            };
            let mut bytes = [0; 128];
            let len = rtcp::write_sender_report(&mut bytes, &info, &[], b"phone").unwrap();
            let at = start + Duration::from_millis(reported + 20 + path.reports.delay_ms);
            network.insert((at, order), (medium + 2, reported, bytes[..len].to_vec()));
        }
    }
    // By medium: the instant of capture of a forwarded timestamp, and what the last report said.
    let mut captured: [Option<(u64, u32)>; 2] = [None; 2];
    let mut told: [Option<SenderInfo>; 2] = [None; 2];
    let mut worst = 0.0f64;
    for ((at, _), (kind, when, bytes)) in network {
        world.advance(at.since(world.now.mono));
        let leg = LegId([1, 2][kind % 2]);
        let (rtp, rtcp) = ports(1, leg);
        let from = addr([AUDIO, VIDEO][kind % 2]);
        if kind < 2 {
            if let Fed::Sent(_, _, bytes) = world.feed(rtp, from, &bytes) {
                captured[kind] = Some((when, browser.hear(&bytes).timestamp));
            }
        } else {
            let from = std::net::SocketAddr::new(from.ip(), from.port() + 1);
            assert_eq!(world.feed(rtcp, from, &bytes), Fed::Consumed);
        }
        for (port, _, bytes) in world.out.sent.drain(..).filter(|(port, ..)| *port == MUX).collect::<Vec<_>>() {
            assert_eq!(port, MUX);
            let clear = browser.hear_rtcp(&bytes);
            for packet in Compound::parse(&clear).unwrap().packets() {
                if let RtcpPacket::SenderReport { info, .. } = packet {
                    let medium = SSRCS.iter().position(|ssrc| *ssrc == info.ssrc).unwrap();
                    told[medium] = Some(info);
                }
            }
        }
        // Each medium was reported twice by then.
        if let ([Some(audio), Some(video)], [Some(said), Some(shown)]) = (told, captured)
            && at > start + Duration::from_secs(12)
        {
            // On the browser's clock, in milliseconds since the audio's report: when the phone's instant 0 was, by each medium. Two
            // reports lie seconds apart, so their difference fits a double.
            let zero = |info: &SenderInfo, (when, timestamp): (u64, u32), medium: usize| {
                let since = info.ntp.wrapping_sub(audio.ntp).cast_signed() as f64 / 4_294_967.296;
                let ticks = f64::from(timestamp.wrapping_sub(info.rtp_timestamp).cast_signed());
                since + ticks / KHZ[medium] as f64 - when as f64
            };
            let apart = zero(&video, shown, 1) - zero(&audio, said, 0);
            worst = worst.max(apart.abs());
        }
    }
    assert!(told.iter().all(Option::is_some), "both media were reported");
    worst
}

#[test]
fn audio_and_video_stay_within_forty_milliseconds_with_a_hundred_of_jitter() {
    let reports = |first_ms: Option<u64>, delay_ms| Reports { first_ms, delay_ms };
    let steady = |reports| Path { reports, jitter_ms: 0 };
    let jittery = |reports| Path { reports, jitter_ms: 100 };
    let cases = [
        ("reports of both", [steady(reports(Some(500), 0)), jittery(reports(Some(700), 80))]),
        ("the report of the jittery one is first", [steady(reports(Some(900), 0)), jittery(reports(Some(0), 100))]),
        ("audio jitters", [jittery(reports(Some(500), 90)), steady(reports(Some(700), 0))]),
        ("video reports late", [steady(reports(Some(500), 0)), jittery(reports(Some(23_000), 100))]),
        ("audio reports late", [jittery(reports(Some(23_000), 100)), steady(reports(Some(500), 0))]),
        ("video never reports", [steady(reports(Some(500), 0)), jittery(reports(None, 0))]),
        ("audio never reports", [jittery(reports(None, 0)), steady(reports(Some(500), 40))]),
        ("only the jittery one reports", [steady(reports(None, 0)), jittery(reports(Some(500), 100))]),
        ("nobody reports", [steady(reports(None, 0)), jittery(reports(None, 0))]),
    ];
    for (name, paths) in cases {
        for seed in 0..8 {
            let skew = skew_ms(paths, seed);
            assert!(skew < 40.0, "{name}, seed {seed}: lips are off by {skew:.1} ms");
        }
    }
}
