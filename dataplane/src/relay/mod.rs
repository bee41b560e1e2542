//! One worker's relays, sans I/O: datagrams and time in, datagrams and events out.

use std::{net::SocketAddr, time::Duration};

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{Codec, Event, Fingerprint, PayloadMap, Process, RelayError, RelayProgram, RelayStats, WorkerStats},
    time::{Time, WallTime},
};

pub use crate::arena::{LegHandle, RelayLimits};
use crate::{
    arena::Arena,
    ice_lite::LocalCredentials,
    srtp::MasterKey,
    transform::Transform,
    wire::{DropReason, Packet},
};

/// A media socket of the engine. Engines number their ports densely from 0, so that tables can be indexed by it; a number may be
/// used again after the port was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// Both clocks, read once per batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub mono: Time,
    /// Wall clock, for NTP timestamps.
    pub wall: WallTime,
}

/// What to do with the datagram that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the buffer, which was changed in place.
    Forward {
        /// From this port.
        port: PortId,
        /// To this address.
        to: SocketAddr,
    },
    /// It was used up here: recycle the buffer.
    Consumed,
    /// It is dropped, and was counted already: recycle the buffer.
    Drop(DropReason),
}

/// Where the relay core puts what it makes by itself.
pub trait Output {
    /// Takes a fresh buffer of [`BUFFER_LEN_BYTES`](crate::wire::BUFFER_LEN_BYTES), lets `build` write a datagram at its start and
    /// sends the length it returns; 0 sends nothing. False when there was no buffer: `build` was not called then.
    fn transmit(&mut self, port: PortId, to: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool;

    /// Something for the event log.
    fn event(&mut self, event: Event);

    /// A DTLS datagram of a leg, from an address that passed an authenticated check. False when the way to the manager is full;
    /// the relay counts that as a drop.
    fn dtls(&mut self, leg: LegHandle, port: PortId, from: SocketAddr, datagram: &[u8]) -> bool;

    /// The leg has its first authenticated check from this address (or the first after its fingerprints changed): a handshake may
    /// be made for it.
    fn dtls_path(&mut self, leg: LegHandle, port: PortId, from: SocketAddr);
}

/// Every timer of the relay core; each is a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayTimers {
    /// Mean interval of RTCP reports (RFC 3550 section 6.2).
    pub rtcp_interval: Duration,
    /// Consent of legs whose program does not say (RFC 7675 section 5.1).
    pub consent_timeout: Duration,
    /// A latched leg without a packet from its peer for so long learns anew.
    pub latch_rearm: Duration,
    /// How long candidates are compared before the best of them is latched.
    pub latch_learn: Duration,
    /// How long the former SRTP keys are still tried after new ones came.
    pub old_keys: Duration,
}

impl Default for RelayTimers {
    fn default() -> Self {
        RelayTimers {
            rtcp_interval: Duration::from_secs(5),
            consent_timeout: Duration::from_secs(30),
            latch_rearm: Duration::from_secs(2),
            latch_learn: Duration::from_millis(200),
            old_keys: Duration::from_secs(10),
        }
    }
}

/// What [`Relays`] are made with.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Number of the worker, for statistics.
    pub worker: u16,
    /// Timers.
    pub timers: RelayTimers,
    /// Ports shared by all browsers: STUN is answered and paths are looked up there, and nowhere else.
    pub mux_ports: Vec<PortId>,
    /// Entropy for the address table, for initial sequence numbers and for report intervals.
    pub seed: u64,
}

/// A relay as the manager programs it: the validated program of control and the local facts that the manager allocated.
#[derive(Clone, Debug)]
pub struct RelaySetup {
    /// Its id.
    pub relay: RelayId,
    /// Generation of the program.
    pub generation: Generation,
    /// The whole program.
    pub program: RelayProgram,
    /// One entry for each leg, in the program's order.
    pub legs: Vec<LegSetup>,
}

/// Local facts of one leg.
#[derive(Clone, Debug)]
pub struct LegSetup {
    /// The leg.
    pub id: LegId,
    /// Where it is.
    pub local: LegLocal,
}

/// Where a leg is on our side.
#[derive(Clone, Debug)]
pub enum LegLocal {
    /// A browser leg on the mux ports.
    IceDtls {
        /// Our ufrag and password; no other leg of the worker has the same ufrag.
        credentials: LocalCredentials,
    },
    /// An RTP or SRTP leg on its own pair.
    Rtp {
        /// Port for RTP.
        rtp: PortId,
        /// Port for RTCP.
        rtcp: PortId,
    },
}

/// Keys that a DTLS handshake exported, with the certificate they were agreed with.
#[derive(Clone, Copy, Debug)]
pub struct DtlsKeys {
    /// What we send with.
    pub ours: MasterKey,
    /// What the peer sends with.
    pub theirs: MasterKey,
    /// SHA-256 of the peer's certificate.
    pub peer_fingerprint: Fingerprint,
}

/// Handles of a relay's legs after a `Put`, in the program's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Leg ids with their handles. A handle stays the same while its leg is kept.
    pub legs: Vec<(LegId, LegHandle)>,
}

/// How alive a relay is: for `List` and for the leases of orphans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayFlow {
    /// The relay.
    pub relay: RelayId,
    /// Generation in force.
    pub generation: Generation,
    /// Packets forwarded since it was made.
    pub forwarded: u64,
}

/// All relays of one worker.
pub struct Relays {
    arena: Arena,
}

impl Relays {
    /// Starts on an empty arena.
    #[must_use]
    pub fn new(arena: Arena, config: RelayConfig) -> Self {
        let _ = config;
        Relays { arena }
    }

    /// Takes back what an arena holds after a crash or a restart: derives keys and tables anew and moves SRTP indexes on. A relay
    /// that was in hand at its second crash is reaped and reported.
    pub fn rebuild(arena: Arena, config: RelayConfig, now: Now, out: &mut impl Output) -> Self {
        let _ = (now, out);
        Relays::new(arena, config)
    }

    /// Gives the arena back, to be rebuilt on.
    #[must_use]
    pub fn into_arena(self) -> Arena {
        self.arena
    }

    /// Walks one datagram. `Forward` means: send this buffer, which was changed in place.
    pub fn on_datagram(
        &mut self,
        now: Now,
        port: PortId,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Verdict {
        let _ = (now, port, from, packet, out);
        Verdict::Drop(DropReason::PortUnknown)
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Does everything that is due: reports, consent, silence, expiry of old keys.
    pub fn on_timer(&mut self, now: Now, out: &mut impl Output) {
        let _ = (now, out);
    }

    /// Makes a relay, or makes an existing one be as `setup` says, in place: a leg whose kind and transport did not change keeps
    /// its paths, SRTP state and sequence mapping.
    ///
    /// # Errors
    /// `Full` when records run out, `Invalid` and `Unsupported` for what cannot be run. Nothing has changed then.
    pub fn put(&mut self, now: Now, setup: &RelaySetup, out: &mut impl Output) -> Result<Installed, RelayError> {
        let _ = (now, setup, out);
        Ok(Installed { legs: Vec::new() })
    }

    /// Ends a relay; its legs' last counters go out as events. False when there is none.
    pub fn remove(&mut self, relay: RelayId, out: &mut impl Output) -> bool {
        let _ = (relay, out);
        false
    }

    /// Takes the keys of a handshake that is complete (certificate seen *and* `Connected`).
    ///
    /// Media opens only when a fingerprint of the program matches: `KeysReady`. Without one in the program yet the keys are held
    /// until a `put` brings it. Another one: the keys are wiped, event `DtlsFailed { fingerprint }`. Former keys stay usable for
    /// `old_keys`. False when the leg is gone or is no browser leg.
    pub fn install_keys(&mut self, now: Now, leg: LegHandle, keys: &DtlsKeys, out: &mut impl Output) -> bool {
        let _ = (now, leg, keys, out);
        false
    }

    /// Whether the leg's ICE is alive: a failed handshake is made anew only then.
    #[must_use]
    pub fn has_consent(&self, now: Now, leg: LegHandle) -> bool {
        let _ = (now, leg);
        false
    }

    /// Asks the peer of a leg for a key frame of the media it sends. False when the leg cannot carry the wish.
    pub fn request_keyframe(&mut self, now: Now, relay: RelayId, leg: LegId, out: &mut impl Output) -> bool {
        let _ = (now, relay, leg, out);
        false
    }

    /// Counters of a relay.
    #[must_use]
    pub fn stats(&self, relay: RelayId) -> Option<RelayStats> {
        let _ = relay;
        None
    }

    /// Counters of the worker. `sent` counts what the core gave out; failures of sending are the worker's to add.
    #[must_use]
    pub fn worker_stats(&self) -> WorkerStats {
        WorkerStats::default()
    }

    /// Counts a drop that the worker saw (a refused send, an exhausted pool).
    pub fn count_drop(&mut self, reason: DropReason) {
        let _ = reason;
    }

    /// Liveness of all relays, in slot order.
    pub fn flows(&self) -> impl Iterator<Item = RelayFlow> + '_ {
        std::iter::empty()
    }
}

/// The transform that turns a map entry's source payload into its destination payload.
///
/// # Errors
/// Why the process cannot do it.
pub fn transform_of(process: Process, map: &PayloadMap) -> Result<Transform, &'static str> {
    if map.from.clock != map.to.clock {
        return Err("a change of clock rate needs process transcode");
    }
    match (process, &map.from.codec, &map.to.codec) {
        (_, from, to) if from == to => Ok(Transform::Pass),
        (Process::G711, Codec::Pcmu, Codec::Pcma) => Ok(Transform::UlawToAlaw),
        (Process::G711, Codec::Pcma, Codec::Pcmu) => Ok(Transform::AlawToUlaw),
        _ => Err("this change of codec needs another process"),
    }
}
