//! One stage of the packet walk, so many times, for `tests/instructions.rs` to count its instructions under callgrind. The counts of
//! two runs of different length are compared, so that what is done once does not count.

use std::net::SocketAddr;

use gangway_dataplane::{
    arena::Arena,
    ice_lite::LocalCredentials,
    relay::{
        DtlsKeys, LegHandle, LegLocal, LegSetup, Now, Output, PortId, RelayConfig, RelayLimits, RelaySetup,
        RelayTimers, Relays, Verdict,
    },
    srtp::{MasterKey, Profile, SrtpTx, TxStream},
    wire::{
        BUFFER_LEN_BYTES, Packet, classify,
        stun::{BindingRequest, IceRole},
    },
};
use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Codec, Event, Fingerprint, IceDtlsLeg, IceRemote, Leg, LegKind, Media, Payload, PayloadMap, Process,
        RelayProgram, Route, RtpLeg, RtpRemote,
    },
    time::{Time, WallTime},
};

const MUX: PortId = PortId(0);
const CERTIFICATE: Fingerprint = Fingerprint([0xce; 32]);
/// Where packets begin in their buffer: room for a header before, and for a tag behind.
const START: usize = 64;

/// Takes what is sent, and nothing else is expected.
struct Sink([u8; BUFFER_LEN_BYTES]);

impl Output for Sink {
    fn transmit(&mut self, _: PortId, _: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        build(&mut self.0);
        true
    }

    fn event(&mut self, _: Event) {}

    fn dtls(&mut self, _: LegHandle, _: PortId, _: SocketAddr, _: &[u8]) -> bool {
        true
    }

    fn dtls_path(&mut self, _: LegHandle, _: PortId, _: SocketAddr) {}

    fn hear(&mut self, _: PortId, _: Option<SocketAddr>) {}
}

/// A worker's relays with calls in them, and time that goes on by packets.
struct Bench {
    relays: Relays,
    now: Now,
    sink: Sink,
}

/// What is counted, by the beginning of its name.
#[inline(never)]
fn counted_walk(
    relays: &mut Relays,
    now: Now,
    (port, from): (PortId, SocketAddr),
    packet: &mut Packet<'_>,
    sink: &mut Sink,
) -> Verdict {
    relays.on_datagram(now, port, from, packet, sink)
}

/// As [`counted_walk`].
#[inline(never)]
fn counted_classification(packet: &[u8]) -> bool {
    classify(packet).is_ok()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn rtp_leg(id: u8, remote: &str) -> Leg {
    let rtp = address(remote);
    let remote = RtpRemote { rtp, rtcp: SocketAddr::new(rtp.ip(), rtp.port() + 1), rtcp_mux: false };
    let kind = LegKind::Rtp(RtpLeg { media: Media::Audio, local_ip: None, remote: Some(remote), feedback: Vec::new() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

fn ice_leg(id: u8) -> Leg {
    let remote = IceRemote { ufrag: "remote".into(), fingerprints: vec![CERTIFICATE] };
    let kind = LegKind::IceDtls(IceDtlsLeg { remote: Some(remote), ..IceDtlsLeg::default() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

fn route(from: u8, to: u8, ssrc: u32) -> Route {
    let payload = Payload { pt: 0, codec: Codec::Pcmu, clock: 8000, channels: None, fmtp: None };
    Route {
        from: LegId(from),
        to: LegId(to),
        media: Media::Audio,
        payloads: vec![PayloadMap { from: payload.clone(), to: payload }],
        process: Process::Pass,
        ssrc,
        paused: false,
        rtx: None,
        source_rtx: Vec::new(),
        limit_kbps: None,
        fill: None,
    }
}

fn credentials() -> LocalCredentials {
    LocalCredentials::new(b"ours0001", b"passwordpasswordpassword").expect("credentials")
}

impl Bench {
    fn new() -> Self {
        let arena = Arena::create(RelayLimits { relays: 64, legs: 256, routes: 384 }).expect("memory");
        let config = RelayConfig {
            worker: 0,
            timers: RelayTimers::default(),
            mux_ports: vec![MUX],
            seed: 0x5eed,
            history_bytes: 0,
            new_addresses_per_s: 1000,
        };
        let now = Now { mono: Time::from_millis(1000), wall: WallTime::from_unix_micros(1_790_000_000_000_000) };
        Bench { relays: Relays::new(arena, config), now, sink: Sink([0; BUFFER_LEN_BYTES]) }
    }

    fn put(&mut self, number: u64, legs: Vec<Leg>) -> LegHandle {
        let local = |leg: &Leg| match leg.kind {
            LegKind::IceDtls(_) => LegLocal::IceDtls { credentials: credentials() },
            _ => {
                let rtp = 2 + 4 * number as u32 + 2 * u32::from(leg.id.0);
                LegLocal::Rtp { rtp: PortId(rtp), rtcp: PortId(rtp + 1), lease: u64::from(rtp) }
            }
        };
        let setup = RelaySetup {
            relay: RelayId::new(1, 1, number),
            generation: Generation(1),
            digest: 1,
            legs: legs.iter().map(|leg| LegSetup { id: leg.id, local: local(leg) }).collect(),
            program: RelayProgram {
                label: "bench".into(),
                cname: "bench".into(),
                legs,
                routes: vec![route(0, 1, 71), route(1, 0, 72)],
            },
        };
        self.relays.put(self.now, &setup, &mut self.sink).expect("a relay").legs[0].1
    }

    fn feed(&mut self, port: PortId, from: SocketAddr, bytes: &[u8], buffer: &mut [u8; BUFFER_LEN_BYTES]) -> Verdict {
        buffer[START..START + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(buffer, START, bytes.len());
        counted_walk(&mut self.relays, self.now, (port, from), &mut packet, &mut self.sink)
    }

    /// A call whose browser has checked and shaken hands, and the browser's keys.
    fn browser(&mut self, profile: Profile) -> (SocketAddr, SrtpTx) {
        let handle = self.put(0, vec![ice_leg(0), rtp_leg(1, "192.0.2.9:4000")]);
        let at = address("198.51.100.7:50000");
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let verdict = self.feed(MUX, at, &check(b"ours0001:remote", 1), &mut buffer);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        let key = |fill: u8| {
            MasterKey::new(profile, &vec![fill; profile.key_len()], &vec![!fill; profile.salt_len()]).expect("a key")
        };
        let keys = DtlsKeys { ours: key(1), theirs: key(2), peer_fingerprint: CERTIFICATE };
        assert!(self.relays.install_keys(self.now, handle, &keys, &mut self.sink));
        (at, SrtpTx::new(&key(2)).expect("a key"))
    }
}

fn check(username: &[u8], transaction: u8) -> Vec<u8> {
    let request = BindingRequest {
        transaction: [transaction; 12],
        username,
        password: b"passwordpasswordpassword",
        priority: 1,
        role: IceRole::Controlling(7),
        use_candidate: true,
    };
    let mut bytes = [0; 256];
    let len = request.encode(&mut bytes).expect("room");
    bytes[..len].to_vec()
}

fn rtp(number: u32) -> [u8; 172] {
    let mut bytes = [0xff; 172];
    bytes[..2].copy_from_slice(&[0x80, 0]);
    bytes[2..4].copy_from_slice(&(1000 + number as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&(160 * number).to_be_bytes());
    bytes[8..12].copy_from_slice(&9u32.to_be_bytes());
    bytes
}

/// Does one datagram after the other, 20 ms apart.
fn repeat(
    bench: &mut Bench,
    times: u32,
    port: PortId,
    from: SocketAddr,
    mut datagram: impl FnMut(u32) -> Vec<u8>,
    forwards: bool,
) {
    let all: Vec<Vec<u8>> = (0..times).map(&mut datagram).collect();
    let mut buffer = [0; BUFFER_LEN_BYTES];
    for bytes in &all {
        let verdict = bench.feed(port, from, bytes, &mut buffer);
        assert_eq!(matches!(verdict, Verdict::Forward { .. }), forwards, "{verdict:?}");
        bench.now.mono = bench.now.mono + std::time::Duration::from_millis(20);
    }
}

fn srtp(bench: &mut Bench, times: u32, profile: Profile) {
    let (at, keys) = bench.browser(profile);
    let mut stream = TxStream::new(9);
    let sealed = |number: u32| {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..172].copy_from_slice(&rtp(number));
        let mut packet = Packet::new(&mut buffer, 0, 172);
        keys.protect_rtp(&mut stream, &mut packet).expect("a packet");
        packet.bytes().to_vec()
    };
    repeat(bench, times, MUX, at, sealed, true);
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let stage = arguments.next().expect("a stage");
    let times: u32 = arguments.next().and_then(|number| number.parse().ok()).expect("a number of times");
    let mut bench = Bench::new();
    let stranger = address("203.0.113.9:1");
    match stage.as_str() {
        "classify" => {
            let packets = [rtp(1).to_vec(), check(b"a:b", 1), vec![0x80, 201, 0, 1, 0, 0, 0, 1], vec![22; 60]];
            for number in 0..times {
                let packet = std::hint::black_box(&packets[number as usize % packets.len()]);
                assert!(std::hint::black_box(counted_classification(packet)));
            }
        }
        // To the browsers' port from an address that no leg has.
        "lookup" => {
            bench.browser(Profile::AeadAes128Gcm);
            repeat(&mut bench, times, MUX, stranger, |number| rtp(number).to_vec(), false);
        }
        // From a phone to a phone: lookup, latch, reception, route, numbers, counters, and no cipher.
        "walk" => {
            for number in 0..8 {
                bench.put(number, vec![rtp_leg(0, "192.0.2.9:4000"), rtp_leg(1, "192.0.2.10:4000")]);
            }
            repeat(&mut bench, times, PortId(2), address("192.0.2.9:4000"), |number| rtp(number).to_vec(), true);
        }
        // A check for somebody who is not here: read in full, and never hashed.
        "stun" => {
            bench.browser(Profile::AeadAes128Gcm);
            repeat(&mut bench, times, MUX, stranger, |number| check(b"nobody:remote", number as u8), false);
        }
        "stun_integrity" => {
            let (at, _) = bench.browser(Profile::AeadAes128Gcm);
            repeat(&mut bench, times, MUX, at, |number| check(b"ours0001:remote", number as u8), true);
        }
        "srtp_gcm" => srtp(&mut bench, times, Profile::AeadAes128Gcm),
        "srtp_cm" => srtp(&mut bench, times, Profile::AesCm128HmacSha1_80),
        other => panic!("there is no stage {other}"),
    }
}
