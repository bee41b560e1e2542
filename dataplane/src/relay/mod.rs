//! One worker's relays, sans I/O: datagrams and time in, datagrams and events out.
//!
//! What must survive is in the arena's records; what is here beside them (tables, session keys, timers) is derived and rebuilt.
//! [`Relays::on_datagram`] is the walk of a packet; the modules below each know one of its stations.

mod alone;
mod congestion;
mod dtmf;
mod feedback;
mod fill;
mod history;
mod invariants;
mod keyframe;
mod latch;
mod leg;
mod parameters;
mod recovery;
mod repair;
mod rewrite;
mod route;
mod setup;
mod table;
mod timer;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{Event, Fingerprint, RelayError, RelayProgram, RelayStats, WorkerStats},
    time::{Time, WallTime},
};

use self::{
    dtmf::Keypad,
    history::History,
    leg::Derived,
    table::{Newcomers, Paths, PortUse, Ports, Ufrags},
    timer::Deadlines,
};
pub use self::{
    dtmf::{DIGITS_MAX, DURATION_MS, Digits, event_of},
    recovery::{Adopted, AdoptedLeg, AdoptedLocal},
    route::transform_of,
};
pub use crate::arena::{LegHandle, RelayLimits};
use crate::{
    arena::{Arena, PATHS_MAX},
    ice_lite::{self, LocalCredentials, StunOutcome},
    srtp::MasterKey,
    stats::WorkerCounters,
    wire::{BUFFER_LEN_BYTES, DropReason, Packet, PacketKind, classify},
};

/// A relay in hand at so many crashes is given up: it would take its worker with it for ever.
const CRASHES_MAX: u32 = 2;

/// A crash so long ago says nothing about the next one: what was in hand is rarely the cause, and calls live long.
const CRASH_FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// See [`Relays::doubt_consent`].
const DOUBT: Duration = Duration::from_secs(15);

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

    /// Nobody but `peer` is believed on this port from now on, so nobody else needs to be heard; `None`: everybody is to be heard.
    fn hear(&mut self, port: PortId, peer: Option<SocketAddr>);
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
    /// Bytes of sent video that are kept for receivers who ask for it again; 0: nothing is sent again.
    pub history_bytes: usize,
    /// Addresses of browsers that are taken in a second, and at once after a second without.
    pub new_addresses_per_s: u32,
}

/// A relay as the manager programs it: the validated program of control and the local facts that the manager allocated.
#[derive(Clone, Debug)]
pub struct RelaySetup {
    /// Its id.
    pub relay: RelayId,
    /// Generation of the program.
    pub generation: Generation,
    /// Digest of the program, not 0.
    pub digest: u64,
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
        /// By which the next process finds both again.
        lease: u64,
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
#[derive(Debug)]
pub struct Relays {
    arena: Arena,
    config: RelayConfig,
    ports: Ports,
    ufrags: Ufrags,
    paths: Paths,
    /// By leg slot; as long as the highest slot that was ever used, in memory reserved for all.
    derived: Vec<Derived>,
    by_id: BTreeMap<RelayId, u32>,
    deadlines: Deadlines,
    history: History,
    keypad: Keypad,
    newcomers: Newcomers,
    counters: WorkerCounters,
    /// A second look at a packet that the first key spoilt.
    scratch: Box<[u8; BUFFER_LEN_BYTES]>,
}

impl Relays {
    /// Starts on an empty arena.
    #[must_use]
    pub fn new(arena: Arena, config: RelayConfig) -> Self {
        let legs = arena.limits().legs;
        let mut ports = Ports::default();
        for port in &config.mux_ports {
            assert!(ports.set(*port, PortUse::Mux), "engines number their ports densely");
        }
        Relays {
            paths: Paths::new(legs as usize * PATHS_MAX, config.seed),
            derived: Vec::with_capacity(legs as usize),
            deadlines: Deadlines::new(legs),
            history: History::new(config.history_bytes),
            keypad: Keypad::default(),
            newcomers: Newcomers::new(config.new_addresses_per_s),
            arena,
            config,
            ports,
            ufrags: Ufrags::default(),
            by_id: BTreeMap::new(),
            counters: WorkerCounters::default(),
            scratch: Box::new([0; BUFFER_LEN_BYTES]),
        }
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
        self.counters.received += 1;
        let verdict = self.walk(now, port, from, packet, out);
        let in_hand = std::mem::take(&mut self.arena.header().in_hand);
        match verdict {
            Ok(verdict) => {
                self.counters.sent += u64::from(matches!(verdict, Verdict::Forward { .. }));
                verdict
            }
            Err(reason) => {
                self.count_on(in_hand.checked_sub(1), reason);
                Verdict::Drop(reason)
            }
        }
    }

    /// The packet walk: classify, find the leg, and let the protocol's own station judge it.
    fn walk(
        &mut self,
        now: Now,
        port: PortId,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        let kind = classify(packet.bytes())?;
        match (self.ports.find(port), kind) {
            (PortUse::Closed, _) => Err(DropReason::PortUnknown),
            (PortUse::Mux, PacketKind::Stun) => self.on_check(now, port, from, packet, out),
            (PortUse::Mux, PacketKind::Dtls) => self.on_dtls(port, from, packet, out),
            (PortUse::Mux, PacketKind::Rtp) => {
                let leg = self.paths.find(port, from.into()).ok_or(DropReason::NoSuchPath)?;
                self.on_rtp(now, leg, from, packet, out)
            }
            (PortUse::Mux, PacketKind::Rtcp) => {
                let leg = self.paths.find(port, from.into()).ok_or(DropReason::NoSuchPath)?;
                self.take_in_hand(leg);
                self.on_rtcp(now, leg, (from, true), packet, out)
            }
            (PortUse::Rtp(leg), PacketKind::Rtp) => self.on_rtp(now, leg, from, packet, out),
            (PortUse::Rtp(leg) | PortUse::Rtcp(leg), PacketKind::Rtcp) => {
                self.take_in_hand(leg);
                let is_muxed = matches!(self.ports.find(port), PortUse::Rtp(_));
                self.on_rtcp(now, leg, (from, is_muxed), packet, out)
            }
            // SIP peers speak neither ICE nor DTLS here, and no RTP on the odd port.
            (PortUse::Rtp(leg) | PortUse::Rtcp(leg), _) => {
                self.take_in_hand(leg);
                Err(DropReason::UnknownProtocol)
            }
        }
    }

    fn on_rtp(
        &mut self,
        now: Now,
        leg: u32,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        self.take_in_hand(leg);
        let wire_len = packet.len() as u64;
        let source = self.admit_rtp(now, leg, from, packet, out)?;
        self.note_heard(now, leg);
        let traffic = &mut self.arena.leg_mut(leg).traffic;
        traffic.rx_packets += 1;
        traffic.rx_bytes += wire_len;
        self.note_arrival(now, leg, packet.bytes());
        self.forward(now, leg, source, packet, out)
    }

    fn on_check(
        &mut self,
        now: Now,
        port: PortId,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        let leg = ice_lite::local_ufrag_of(packet.bytes()).and_then(|ufrag| self.ufrags.find(ufrag));
        let Some(leg) = leg else {
            // No credentials match these, so this only tells what is wrong with the packet.
            let nobody = LocalCredentials::default();
            return ice_lite::respond(packet, from, &nobody, None).map(|_| Verdict::Consumed);
        };
        self.take_in_hand(leg);
        let record = self.arena.leg(leg);
        let remote = Some(&record.remote_ufrag[..record.remote_ufrag_len as usize]).filter(|ufrag| !ufrag.is_empty());
        match ice_lite::respond(packet, from, &record.local, remote)? {
            StunOutcome::Accepted { nominated, .. } => self.bind_path(now, leg, (port, from), nominated, out)?,
            StunOutcome::Refused(reason) => self.count_on(Some(leg), reason),
        }
        Ok(Verdict::Forward { port, to: from })
    }

    fn on_dtls(
        &mut self,
        port: PortId,
        from: SocketAddr,
        packet: &Packet<'_>,
        out: &mut impl Output,
    ) -> Result<Verdict, DropReason> {
        let leg = self.paths.find(port, from.into()).ok_or(DropReason::DtlsUnknownPath)?;
        self.take_in_hand(leg);
        let is_taken = out.dtls(self.arena.handle(leg), port, from, packet.bytes());
        if is_taken { Ok(Verdict::Consumed) } else { Err(DropReason::DtlsQueueFull) }
    }

    /// Notes in the arena whose packet is being walked: who is to blame for a crash, and who counts a drop.
    fn take_in_hand(&mut self, leg: u32) {
        self.arena.header().in_hand = leg + 1;
    }

    fn count_on(&mut self, leg: Option<u32>, reason: DropReason) {
        self.counters.count(reason);
        if let Some(leg) = leg {
            self.arena.leg_mut(leg).counters.drops[reason as usize] += 1;
        }
    }

    /// When [`on_timer`](Self::on_timer) has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.next()
    }

    /// Does everything that is due: reports, consent, silence, sound of our own, expiry of old keys.
    pub fn on_timer(&mut self, now: Now, out: &mut impl Output) {
        while let Some(leg) = self.deadlines.pop_due(now.mono) {
            self.take_in_hand(leg);
            self.expire(now, leg, out);
            self.arena.header().in_hand = 0;
        }
    }

    /// Makes a relay, or makes an existing one be as `setup` says, in place: a leg whose kind and transport did not change keeps
    /// its paths, SRTP state and sequence mapping.
    ///
    /// # Errors
    /// `Full` when records run out, `Invalid` and `Unsupported` for what cannot be run. Nothing has changed then.
    pub fn put(&mut self, now: Now, setup: &RelaySetup, out: &mut impl Output) -> Result<Installed, RelayError> {
        let result = self.apply(now, setup, out);
        self.tell_cut_off(out);
        result
    }

    /// Ends a relay; its legs' last counters go out as events. False when there is none.
    pub fn remove(&mut self, relay: RelayId, out: &mut impl Output) -> bool {
        let Some(slot) = self.by_id.remove(&relay) else { return false };
        let record = *self.arena.relay(slot);
        for index in 0..record.routes.len() {
            self.end_route(slot, index);
        }
        for (index, leg) in record.legs.into_iter().enumerate() {
            self.arena.relay_mut(slot).legs[index] = 0;
            if let Some(leg) = leg.checked_sub(1) {
                self.remove_leg(leg, out);
            }
        }
        self.arena.free_relay(slot);
        self.tell_cut_off(out);
        true
    }

    /// Takes the keys of a handshake that is complete (certificate seen *and* `Connected`).
    ///
    /// Media opens only when a fingerprint of the program matches: `KeysReady`. Without one in the program yet the keys are held
    /// until a `put` brings it. Another one: event `DtlsFailed { fingerprint }`, and the keys are of no use until a `put` names their
    /// certificate after all. Former keys stay usable for `old_keys`. False when the leg is gone or is no browser leg.
    pub fn install_keys(&mut self, now: Now, leg: LegHandle, keys: &DtlsKeys, out: &mut impl Output) -> bool {
        self.take_keys(now, leg, keys, out)
    }

    /// The peer of the leg may be gone: it has [`DOUBT`] to show that it is not, in place of the whole time that consent lasts. Checks come
    /// every 4 to 6 seconds (RFC 7675 section 5.1), so one may be lost meanwhile.
    pub fn doubt_consent(&mut self, now: Now, leg: LegHandle) {
        let Some(slot) = self.arena.resolve(leg) else { return };
        let leg = self.arena.leg_mut(slot);
        leg.consent.end_by(now.mono + DOUBT, Duration::from_micros(leg.consent_timeout));
        self.schedule(slot);
    }

    /// Whether the leg's ICE is alive: a failed handshake is made anew only then.
    #[must_use]
    pub fn has_consent(&self, now: Now, leg: LegHandle) -> bool {
        let leg = self.arena.resolve(leg).map(|slot| self.arena.leg(slot));
        leg.is_some_and(|leg| {
            let timeout = Duration::from_micros(leg.consent_timeout);
            leg.consent.granted_at().is_some() && !leg.consent.expired(now.mono, timeout)
        })
    }

    /// Asks the peer of a leg for a key frame of the video it sends, at once or when the wish before it is half a second old. False
    /// when the leg cannot carry the wish.
    pub fn request_keyframe(&mut self, now: Now, relay: RelayId, leg: LegId, out: &mut impl Output) -> bool {
        self.ask_keyframe(now, relay, leg, out)
    }

    /// Counters of a relay.
    #[must_use]
    pub fn stats(&self, relay: RelayId) -> Option<RelayStats> {
        let record = self.arena.relay(*self.by_id.get(&relay)?);
        let legs = record.legs.iter().filter_map(|leg| leg.checked_sub(1));
        Some(RelayStats {
            relay,
            generation: Generation(record.generation),
            worker: self.config.worker,
            legs: legs.map(|leg| self.leg_stats(leg)).collect(),
        })
    }

    /// Counters of the worker. `sent` counts what the core gave out; failures of sending are the worker's to add.
    #[must_use]
    pub fn worker_stats(&self) -> WorkerStats {
        self.counters.snapshot(self.config.worker, self.by_id.len() as u64)
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Relays there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Counts a drop that the worker saw (a refused send, an exhausted pool).
    pub fn count_drop(&mut self, reason: DropReason) {
        self.counters.count(reason);
    }

    /// Counts datagrams that never reached us because the receive buffer of a port was full, on its leg too when it has one.
    pub fn count_lost(&mut self, port: PortId, count: u32) {
        let (reason, count) = (DropReason::ReceiveBufferFull, u64::from(count));
        self.counters.drops[reason as usize] += count;
        if let PortUse::Rtp(leg) | PortUse::Rtcp(leg) = self.ports.find(port) {
            self.arena.leg_mut(leg).counters.drops[reason as usize] += count;
        }
    }

    /// Liveness of all relays, in id order.
    pub fn flows(&self) -> impl Iterator<Item = RelayFlow> + '_ {
        self.by_id.iter().map(|(relay, slot)| {
            let record = self.arena.relay(*slot);
            RelayFlow { relay: *relay, generation: Generation(record.generation), forwarded: record.forwarded }
        })
    }
}
