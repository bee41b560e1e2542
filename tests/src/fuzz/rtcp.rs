//! RTCP from a peer that authenticated: whatever its compounds say, the relay sends no more than its bounds allow, tells only what it
//! knows, and goes on as before.

use std::net::SocketAddr;

use gangway_dataplane::{
    arena::Arena,
    relay::{
        LegHandle, LegLocal, LegSetup, Now, Output, PortId, RelayConfig, RelayLimits, RelaySetup, RelayTimers, Relays,
        Verdict,
    },
    wire::{
        BUFFER_LEN_BYTES, Packet,
        rtcp::{Compound, RtcpPacket, write_nack, write_remb},
        rtp::Rtp,
    },
};
use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Codec, Event, Feedback, Leg, LegKind, Media, Payload, PayloadMap, Process, RelayProgram, Route, RtpLeg,
        RtpRemote, Rtx, RtxPayload,
    },
    time::{Time, WallTime},
};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "rtcp",
    seeds,
    words: &[
        b"\x80\xc8",
        b"\x81\xc9",
        b"\x81\xcd\x00\x03",
        b"\x8f\xcd",
        b"\x81\xce\x00\x02",
        b"\x84\xce\x00\x04",
        b"REMB",
        b"\0\0\x20\x02",
        b"\0\0\x90\x09",
        b"\xff\xff",
    ],
    law,
};

/// SSRC of the video that peer B is sent, and of its retransmissions.
const SENT: u32 = 0x2002;
const RTX: u32 = 0x9009;
/// Packets that peer A sends before the compound comes.
const PACKETS: usize = 20;
/// What one NACK may bring, and reports, key frames and the like beside it.
const ANSWERS_MAX: usize = 48;

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        // A report that knows nothing of ours, and one about the stream, with PLI and FIR.
        b"\x80\xc9\x00\x01\0\0\0\x01".to_vec(),
        b"\x81\xc9\x00\x07\0\0\0\x01\0\0\x20\x02\x10\0\0\x05\0\0\x01\0\0\0\0\x07\0\0\0\0\0\0\0\0\
          \x81\xce\x00\x02\0\0\0\x01\0\0\x20\x02\x84\xce\x00\x04\0\0\0\x01\0\0\0\0\0\0\x20\x02\x01\0\0\0"
            .to_vec(),
        b"\x80\xc8\x00\x06\0\0\0\xb0\xe0\0\0\0\x80\0\0\0\0\0\x13\x88\0\0\0\x05\0\0\0\x64\x81\xcb\x00\x01\0\0\0\xb0"
            .to_vec(),
    ];
    let mut out = [0; 512];
    for first in [0u16, 0x1000, 0x2000, 0x3000] {
        let len = write_nack(&mut out, 1, SENT, (first..).step_by(16).take(60)).expect("room");
        seeds.push(out[..len].to_vec());
    }
    let len = write_remb(&mut out, 1, 300_000, &[SENT, RTX]).expect("room");
    seeds.push(out[..len].to_vec());
    // A NACK of every number there is: no first number is guessed, so all of them are asked for.
    let mut all = b"\x81\xcd\x01\x66\0\0\0\x01\0\0\x20\x02".to_vec();
    (0..356u16).for_each(|at| all.extend([(at * 17).to_be_bytes(), [0xff, 0xff]].concat()));
    seeds.push(all);
    seeds
}

/// What the relay sent to each peer.
#[derive(Default)]
struct Sent(Vec<(SocketAddr, Vec<u8>)>);

impl Output for Sent {
    fn transmit(&mut self, _: PortId, to: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let len = build(&mut buffer);
        if len > 0 {
            self.0.push((to, buffer[..len].to_vec()));
        }
        true
    }

    fn event(&mut self, _: Event) {}

    fn dtls(&mut self, _: LegHandle, _: PortId, _: SocketAddr, _: &[u8]) -> bool {
        true
    }

    fn dtls_path(&mut self, _: LegHandle, _: PortId, _: SocketAddr) {}

    fn hear(&mut self, _: PortId, _: Option<SocketAddr>) {}
}

fn peer(leg: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 10 + leg], port))
}

/// Two plain peers with VP8 both ways, that take all feedback there is.
fn program() -> RelayProgram {
    let leg = |id: u8| {
        let remote = RtpRemote { rtp: peer(id, 4000), rtcp: peer(id, 4001), rtcp_mux: false };
        let feedback = vec![Feedback::Nack, Feedback::Remb, Feedback::NackPli];
        let kind = LegKind::Rtp(RtpLeg { media: Media::Video, local_ip: None, remote: Some(remote), feedback });
        Leg { id: LegId(id), media_timeout_ms: None, kind }
    };
    let route = |from: u8, to: u8, ssrc, rtx| {
        let vp8 = Payload { pt: 96, codec: Codec::Vp8, clock: 90_000, channels: None, fmtp: None };
        let payloads = vec![RtxPayload { pt: 97, apt: 96 }];
        Route {
            from: LegId(from),
            to: LegId(to),
            media: Media::Video,
            payloads: vec![PayloadMap { from: vp8.clone(), to: vp8 }],
            process: Process::Pass,
            ssrc,
            paused: false,
            rtx: Some(Rtx { ssrc: rtx, payloads: payloads.clone() }),
            source_rtx: payloads,
            limit_kbps: Some(500),
            fill: None,
        }
    };
    let routes = vec![route(0, 1, SENT, RTX), route(1, 0, 0x1001, 0x8008)];
    RelayProgram { label: "fuzz".into(), cname: "fuzz".into(), legs: vec![leg(0), leg(1)], routes }
}

struct Bench {
    relays: Relays,
    now: Now,
    out: Sent,
}

impl Bench {
    fn new() -> Self {
        let config = RelayConfig {
            worker: 0,
            timers: RelayTimers::default(),
            mux_ports: Vec::new(),
            seed: 7,
            history_bytes: 1 << 16,
            new_addresses_per_s: 1000,
        };
        let arena = Arena::create(RelayLimits { relays: 1, legs: 2, routes: 2 }).expect("memory for one relay");
        let mut relays = Relays::new(arena, config);
        let now = Now { mono: Time::from_millis(1_000_000), wall: WallTime::from_unix_micros(1_790_000_000_000_000) };
        let mut out = Sent::default();
        let program = program();
        let local = |leg: u32| LegLocal::Rtp { rtp: PortId(2 * leg), rtcp: PortId(2 * leg + 1), lease: leg.into() };
        let legs = (0..2).map(|leg| LegSetup { id: LegId(leg), local: local(leg.into()) }).collect();
        let setup = RelaySetup { relay: RelayId::new(1, 1, 1), generation: Generation(1), digest: 1, program, legs };
        relays.put(now, &setup, &mut out).expect("a program of this dataplane");
        Bench { relays, now, out }
    }

    fn feed(&mut self, port: u32, from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, 0, bytes.len());
        let verdict = self.relays.on_datagram(self.now, PortId(port), from, &mut packet, &mut self.out);
        matches!(verdict, Verdict::Forward { .. }).then(|| packet.bytes().to_vec())
    }

    fn advance(&mut self, ms: u64) {
        let end = self.now.mono + std::time::Duration::from_millis(ms);
        while let Some(at) = self.relays.next_deadline().filter(|at| *at <= end) {
            self.now.mono = at.max(self.now.mono);
            self.relays.on_timer(self.now, &mut self.out);
        }
        self.now.mono = end;
    }
}

fn frame(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut bytes = vec![0x80, 96];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 3000).to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([0x10, 0x51, 7, 8]);
    bytes
}

fn law(input: &[u8]) {
    let input = &input[..input.len().min(1500)];
    let mut bench = Bench::new();
    let sent: Vec<Vec<u8>> = (0..PACKETS as u16)
        .map(|at| bench.feed(0, peer(0, 4000), &frame(0xa0, 100 + at)).expect("it is forwarded"))
        .collect();
    bench.feed(2, peer(1, 4000), &frame(0xb0, 100)).expect("it is forwarded");
    bench.advance(1);
    bench.out.0.clear();
    // The compound as it is, and once more when its numbers may mean our packets: NACKs are moved to the first of them.
    bench.feed(3, peer(1, 4001), input);
    let first = Rtp::parse(&sent[0]).expect("RTP").sequence();
    let moved = moved_nacks(input, first);
    bench.feed(3, peer(1, 4001), &moved);
    let nacks = Compound::parse(input).map_or(0, |compound| {
        compound.packets().filter(|packet| matches!(packet, RtcpPacket::Nack { media: SENT, .. })).count()
    });
    let mut again = 0;
    for (to, bytes) in std::mem::take(&mut bench.out.0) {
        if to != peer(1, 4000) {
            let compound = Compound::parse(&bytes).expect("the relay's own RTCP is well-formed");
            assert!(compound.packets().count() <= 4);
            continue;
        }
        again += 1;
        let repeated = Rtp::parse(&bytes).expect("RTP");
        assert_eq!((repeated.ssrc(), repeated.payload_type()), (RTX, 97));
        let original = u16::from_be_bytes([repeated.payload()[0], repeated.payload()[1]]);
        let sent = sent.iter().map(|bytes| Rtp::parse(bytes).expect("RTP")).find(|rtp| rtp.sequence() == original);
        let sent = sent.expect("only what was sent is sent again");
        assert_eq!((&repeated.payload()[2..], repeated.timestamp()), (sent.payload(), sent.timestamp()));
    }
    assert!(again <= PACKETS.min(2 * nacks * ANSWERS_MAX), "{again} packets for {nacks} requests, each once at most");
    bench.relays.check_invariants().expect("what always holds");
    // It goes on, and a second brings no flood: reports, limits, and two key frames asked for.
    bench.feed(0, peer(0, 4000), &frame(0xa0, 100 + PACKETS as u16)).expect("media goes on");
    bench.advance(1000);
    assert!(bench.out.0.len() <= 16, "{} packets by themselves", bench.out.0.len());
}

/// The same compound with every NACK's first numbers moved up by `first`.
fn moved_nacks(input: &[u8], first: u16) -> Vec<u8> {
    let mut moved = input.to_vec();
    let mut at = 0;
    while let Some(head) = moved.get(at..at + 4).map(<[u8]>::to_vec) {
        let len = 4 * (usize::from(u16::from_be_bytes([head[2], head[3]])) + 1);
        if head[0] & 0x1f == 1 && head[1] == 205 {
            for entry in (at + 12..(at + len).min(moved.len())).step_by(4) {
                if let Some(number) = moved.get_mut(entry..entry + 2) {
                    let sum = u16::from_be_bytes([number[0], number[1]]).wrapping_add(first);
                    number.copy_from_slice(&sum.to_be_bytes());
                }
            }
        }
        at += len;
    }
    moved
}
