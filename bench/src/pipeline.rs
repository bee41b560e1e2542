//! Our packet walk without a kernel: relays on an arena, packets in buffers. What is left of a packet's cost when system calls are
//! taken away.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use gangway_dataplane::{
    arena::Arena,
    ice_lite::LocalCredentials,
    relay::{
        LegHandle, LegLocal, LegSetup, Now, Output, PortId, RelayConfig, RelayLimits, RelaySetup, RelayTimers, Relays,
        Verdict,
    },
    srtp::{SrtpTx, TxStream},
    wire::{BUFFER_LEN_BYTES, Packet, rtp},
};
use gangway_shared::{
    entropy::SeededEntropy,
    ids::{Generation, LegId, RelayId},
    rcp::{Event, SrtpSuite},
    time::{Time, WallTime},
};
use serde::{Deserialize, Serialize};

use crate::{
    call::{CallSpec, EndSpec, Media, Security, master_key, seeded_key},
    load::browser::UFRAG,
    sys::thread_cpu_ns,
    systems::gangway::program,
};

/// Calls whose packets take turns where a walk is measured.
const CALLS: u32 = 1000;

/// Rounds of all calls in each direction; the cheapest counts.
const ROUNDS: u32 = 200;

/// What our walk of a packet takes, nanoseconds of one thread's CPU time: the cheapest of many rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Walk {
    /// `plain`, `gcm` or `cm`.
    pub load: String,
    /// From the first end to the plain one.
    pub open_ns: f64,
    /// Back.
    pub seal_ns: f64,
    /// Of both.
    pub mean_ns: f64,
}

/// Measures the walk of each kind of packet.
///
/// # Panics
/// When a packet is not sent on: a walk that drops costs less than it should.
#[must_use]
pub fn walks() -> Vec<Walk> {
    let kinds = [
        ("plain", Protection::Plain),
        ("gcm", Protection::Srtp(SrtpSuite::AeadAes128Gcm)),
        ("cm", Protection::Srtp(SrtpSuite::AesCm128HmacSha1_80)),
    ];
    kinds.into_iter().map(|(load, protection)| walk(load, protection)).collect()
}

fn walk(load: &str, protection: Protection) -> Walk {
    let mut pipeline = Pipeline::new(CALLS, protection);
    let mut best = [u64::MAX; 2];
    for _ in 0..ROUNDS {
        for (best, from_first) in best.iter_mut().zip([true, false]) {
            let mut packets = pipeline.round(from_first);
            let before = thread_cpu_ns();
            let forwarded = pipeline.walk(&mut packets);
            let spent = thread_cpu_ns() - before;
            assert_eq!(forwarded, packets.len(), "a walk that drops costs less than it should");
            *best = (*best).min(spent);
        }
        pipeline.tick();
    }
    let [open_ns, seal_ns] = best.map(|ns| ns as f64 / f64::from(CALLS));
    Walk { load: load.to_owned(), open_ns, seal_ns, mean_ns: f64::midpoint(open_ns, seal_ns) }
}

/// The port of all browsers.
const MUX: PortId = PortId(0);

/// What the relay makes by itself is thrown away.
struct Nowhere;

impl Output for Nowhere {
    fn transmit(&mut self, _: PortId, _: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        build(&mut buffer);
        true
    }

    fn event(&mut self, _: Event) {}

    fn dtls(&mut self, _: LegHandle, _: PortId, _: SocketAddr, _: &[u8]) -> bool {
        true
    }

    fn dtls_path(&mut self, _: LegHandle, _: PortId, _: SocketAddr) {}

    fn hear(&mut self, _: PortId, _: Option<SocketAddr>) {}
}

/// One packet on its way.
#[derive(Clone)]
pub struct Arrival {
    port: PortId,
    from: SocketAddr,
    buffer: [u8; BUFFER_LEN_BYTES],
    len: usize,
}

/// How the first ends of the calls are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Not at all.
    Plain,
    /// SRTP by keys of signalling.
    Srtp(SrtpSuite),
    /// Browsers, that only check.
    Browser,
}

struct Call {
    ends: [SocketAddr; 2],
    ports: [PortId; 2],
    seals: Option<(SrtpTx, TxStream)>,
}

/// Relays of calls between a first end and a plain one.
pub struct Pipeline {
    relays: Relays,
    now: Now,
    calls: Vec<Call>,
    sequence: u16,
}

/// Bytes in front of a packet in its buffer, as the engines leave them.
const HEADROOM: usize = 64;

impl Pipeline {
    /// Relays of `count` calls.
    ///
    /// # Panics
    /// When the machine has no memory for them.
    #[must_use]
    pub fn new(count: u32, protection: Protection) -> Self {
        let limits = RelayLimits { relays: count, legs: 2 * count, routes: 2 * count };
        let config = RelayConfig {
            worker: 0,
            timers: RelayTimers::default(),
            mux_ports: vec![MUX],
            seed: 1,
            history_bytes: 1 << 20,
            new_addresses_per_s: 1000,
        };
        let mut relays = Relays::new(Arena::create(limits).expect("memory for the arena"), config);
        let now = Now { mono: Time::from_millis(1_000_000), wall: WallTime::from_unix_micros(1_790_000_000_000_000) };
        let mut entropy = SeededEntropy::new(1);
        let calls = (0..count).map(|number| {
            let address = |end: u32| SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + 2 * number + end), 4000);
            let mut seals = None;
            let security = match protection {
                Protection::Plain => Security::Plain,
                Protection::Srtp(suite) => {
                    let (send, receive) = (seeded_key(suite, &mut entropy), seeded_key(suite, &mut entropy));
                    let master = master_key(suite, &send).expect("a key of its suite");
                    seals = SrtpTx::new(&master).map(|tx| (tx, TxStream::new(ssrc(number))));
                    Security::Srtp { suite, send, receive }
                }
                Protection::Browser => {
                    let fingerprint = gangway_shared::rcp::Fingerprint([7; 32]);
                    Security::Ice { ufrag: UFRAG.to_owned(), fingerprint, ssrc: ssrc(number) }
                }
            };
            let end = |at: u32, security| EndSpec { rtp: address(at), rtcp: address(at), security };
            let spec = CallSpec { number, media: Media::Audio, ends: [end(0, security), end(1, Security::Plain)] };
            let program = program(&spec);
            let port = |leg: u32| PortId(1 + 4 * number + 2 * leg);
            let local = |leg: u32| match (leg, protection) {
                (0, Protection::Browser) => LegLocal::IceDtls { credentials: credentials(number) },
                _ => LegLocal::Rtp { rtp: port(leg), rtcp: PortId(port(leg).0 + 1), lease: u64::from(port(leg).0) },
            };
            let legs = (0..2).map(|leg| LegSetup { id: LegId(leg as u8), local: local(leg) }).collect();
            let relay = RelayId::new(1, 1, u64::from(number) + 1);
            let setup = RelaySetup { relay, generation: Generation(1), digest: 1, program, legs };
            relays.put(now, &setup, &mut Nowhere).expect("a program of the bench");
            let ports = if protection == Protection::Browser { [MUX, port(1)] } else { [port(0), port(1)] };
            Call { ends: [address(0).into(), address(1).into()], ports, seals }
        });
        let calls: Vec<Call> = calls.collect();
        Pipeline { relays, now, calls, sequence: 0 }
    }

    /// The next packet of each call, from the first end (opened by the relay where it is protected) or from the second (sealed by it).
    ///
    /// # Panics
    /// When a packet cannot be sealed.
    pub fn round(&mut self, from_first: bool) -> Vec<Arrival> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let of = |(number, call): (usize, &mut Call)| {
            let end = usize::from(!from_first);
            let mut buffer = [0x55; BUFFER_LEN_BYTES];
            let clear = &mut buffer[HEADROOM..];
            rtp::begin_header(clear);
            rtp::set_payload_type(clear, 0);
            rtp::set_sequence(clear, sequence);
            rtp::set_timestamp(clear, u32::from(sequence) * 160);
            rtp::set_ssrc(clear, ssrc(number as u32));
            let mut packet = Packet::new(&mut buffer, HEADROOM, 172);
            if let Some((tx, stream)) = call.seals.as_mut().filter(|_| from_first) {
                tx.protect_rtp(stream, &mut packet).expect("a fresh index");
            }
            let len = packet.len();
            Arrival { port: call.ports[end], from: call.ends[end], buffer, len }
        };
        self.calls.iter_mut().enumerate().map(of).collect()
    }

    /// Checks of all browsers.
    ///
    /// # Panics
    /// When a check does not fit.
    #[must_use]
    pub fn checks(&self) -> Vec<Arrival> {
        use gangway_dataplane::wire::stun::{BindingRequest, IceRole};
        let of = |(number, call): (usize, &Call)| {
            let credentials = credentials(number as u32);
            let username = [credentials.ufrag(), b":", UFRAG.as_bytes()].concat();
            let request = BindingRequest {
                transaction: [3; 12],
                username: &username,
                password: credentials.pwd(),
                priority: 1,
                role: IceRole::Controlling(7),
                use_candidate: true,
            };
            let mut buffer = [0; BUFFER_LEN_BYTES];
            let len = request.encode(&mut buffer[HEADROOM..]).expect("a check fits");
            Arrival { port: MUX, from: call.ends[0], buffer, len }
        };
        self.calls.iter().enumerate().map(of).collect()
    }

    /// Packets that the browsers' port takes from nobody it knows.
    pub fn strangers(&mut self) -> Vec<Arrival> {
        let mut packets = self.round(false);
        for packet in &mut packets {
            packet.port = MUX;
            packet.from.set_port(9);
        }
        packets
    }

    /// Lets 20 ms pass.
    pub fn tick(&mut self) {
        let next = Time::from_micros(self.now.mono.as_micros() + 20_000);
        self.now = Now { mono: next, wall: WallTime::from_unix_micros(self.now.wall.as_unix_micros() + 20_000) };
        self.relays.on_timer(self.now, &mut Nowhere);
    }

    /// Walks packets; how many are to be sent on.
    pub fn walk(&mut self, packets: &mut [Arrival]) -> usize {
        let mut forwarded = 0;
        for arrival in packets {
            let mut packet = Packet::new(&mut arrival.buffer, HEADROOM, arrival.len);
            let verdict = self.relays.on_datagram(self.now, arrival.port, arrival.from, &mut packet, &mut Nowhere);
            forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
        }
        forwarded
    }
}

fn ssrc(number: u32) -> u32 {
    0x0300_0000 + number
}

fn credentials(number: u32) -> LocalCredentials {
    let ufrag = format!("u{number:06}");
    LocalCredentials::new(ufrag.as_bytes(), b"passwordpasswordpassword").expect("credentials of the right length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_packet_of_every_kind_is_sent_on() {
        let kinds = [
            Protection::Plain,
            Protection::Srtp(SrtpSuite::AesCm128HmacSha1_80),
            Protection::Srtp(SrtpSuite::AeadAes128Gcm),
        ];
        for kind in kinds {
            let mut pipeline = Pipeline::new(10, kind);
            for _ in 0..3 {
                for from_first in [true, false] {
                    let mut packets = pipeline.round(from_first);
                    assert_eq!(pipeline.walk(&mut packets), 10, "{kind:?} {from_first}");
                }
                pipeline.tick();
            }
        }
        let mut browsers = Pipeline::new(10, Protection::Browser);
        let mut checks = browsers.checks();
        assert_eq!(browsers.walk(&mut checks), 10, "each check is answered");
        let mut strangers = browsers.strangers();
        assert_eq!(browsers.walk(&mut strangers), 0);
    }
}
