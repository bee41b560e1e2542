//! One leg: who may send to it, where it sends, its keys and its timers.

use std::{net::SocketAddr, time::Duration};

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{DirectionStats, DtlsFailure, Event, Fingerprint, LegStats, limits::ROUTES_MAX},
    time::Time,
};

use super::{DtlsKeys, LegHandle, Now, Output, PortId, Relays, congestion::ArrivalLog, latch::LatchTimes};
use crate::{
    arena::{
        Addr, Column, FINGERPRINTS_MAX, HeldKeys, KeyPlace, LegRecord, OutStream, Path, RetiredSource, RxSlot,
        WholeLeg, kind, step,
    },
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    stats,
    wire::{DropReason, Packet, rtcp, rtp},
};

/// A path that had no check for so long makes room for a new one.
const PATH_STALE: Duration = Duration::from_secs(5);

/// A source of an encrypted leg that was silent for so long may lose its place to a new one.
const RX_IDLE: Duration = Duration::from_secs(10);

/// So many silent report intervals let another source of RTCP in.
const RTCP_REARM_INTERVALS: u32 = 3;

/// A peer that announced its silence is alive while it gives any packet, comfort noise or a report, within so many media timeouts.
const QUIET_TIMEOUTS: u32 = 5;

/// A key that was used by up to so many numbers further than what was sent last takes the next one for an old one (RFC 3711 section 3.3.1).
const AHEAD_MAX: u16 = 0x8001;

/// `held.number` of keys whose certificate has not been compared with the program.
const HELD: u32 = 1;
/// `held.number` of keys whose certificate is none that the program names now.
const HELD_AND_REFUSED: u32 = 2;

/// What is derived from a leg's record.
#[derive(Debug, Default)]
pub(super) struct Derived {
    /// Session keys of the current and the former epoch. They are the largest part of a leg, and few legs have all of them.
    pub rx: [Option<Box<SrtpRx>>; 2],
    /// Session keys for sending.
    pub tx: Option<Box<SrtpTx>>,
    /// Routes that start here.
    pub routes: [u32; ROUTES_MAX],
    /// How many.
    pub route_count: usize,
    /// When packets came, for peers that want to know.
    pub arrivals: Option<ArrivalLog>,
    /// Whom alone the RTP port hears.
    pub heard_alone: Addr,
}

impl KeyPlace {
    /// The key, if there is one.
    pub(super) fn whole(&self) -> Option<&MasterKey> {
        (self.number != 0).then_some(&self.key)
    }

    pub(super) fn holds(&self, key: &MasterKey) -> bool {
        self.whole() == Some(key)
    }

    // A key counts by its number: it is whole as long as that is not 0.

    fn empty(&mut self) {
        self.number = 0;
        step();
        self.key.wipe();
        step();
    }

    fn fill(&mut self, key: &MasterKey, number: u32) {
        self.key = *key;
        step();
        self.number = number;
        step();
    }
}

impl OutStream {
    /// SRTP state under the leg's own key in that place.
    #[inline]
    pub(super) fn tx_under(&mut self, place: usize) -> &mut TxStream {
        if place == 0 { &mut self.tx } else { &mut self.second_tx }
    }
}

impl LegRecord {
    /// The place of the key that we send with.
    #[inline]
    pub(super) fn own_at(&self) -> usize {
        usize::from(self.in_force & 1)
    }

    /// What we send with.
    pub(super) fn own_key(&self) -> &KeyPlace {
        &self.own_keys[self.own_at()]
    }

    /// The place of the key that the peer sends with.
    #[inline]
    fn peer_at(&self) -> usize {
        usize::from(self.in_force >> 1 & 1)
    }

    /// What the peer sends with.
    #[inline]
    pub(super) fn peer_key(&self) -> &KeyPlace {
        &self.peer_keys[self.peer_at()]
    }

    /// What the peer sent with before.
    #[inline]
    fn former_peer_key(&self) -> &KeyPlace {
        &self.peer_keys[self.peer_at() ^ 1]
    }

    /// Takes the certificates that the program names; keys that were refused are judged anew.
    pub(super) fn name_certificates(&mut self, named: &[Fingerprint]) {
        let mut fingerprints = [[0; 32]; FINGERPRINTS_MAX];
        for (slot, fingerprint) in fingerprints.iter_mut().zip(named) {
            *slot = fingerprint.0;
        }
        if self.fingerprints == fingerprints {
            return;
        }
        if self.fingerprint_count != 0 {
            // Another certificate means another handshake, at the next check; the old keys stay until it is done.
            self.paths.iter_mut().for_each(|path| path.is_told = 0);
        }
        if self.held.number == HELD_AND_REFUSED {
            self.held.number = HELD;
        }
        self.fingerprints = fingerprints;
        self.fingerprint_count = named.len() as u8;
    }

    /// A browser leg whose handshake was completed: its keys are in force, or held until the program names their certificate.
    pub(super) fn has_agreed(&self) -> bool {
        self.is_ice() && (self.peer_key().number != 0 || self.held.number != 0)
    }

    pub(super) fn is_ice(&self) -> bool {
        self.kind == kind::ICE_DTLS
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.kind != kind::RTP
    }

    /// The host of an RTP leg's peer; `None` for browsers, whose one leg has all of their streams.
    pub(super) fn host(&self) -> Option<[u8; 16]> {
        let target = self.rtp_latch.target();
        (!self.is_ice() && target.is_target()).then_some(target.ip)
    }

    pub(super) fn relay_slot(&self) -> u32 {
        self.relay - 1
    }

    /// Where media to the peer goes.
    pub(super) fn rtp_target(&self) -> Result<(PortId, SocketAddr), DropReason> {
        if self.is_ice() {
            return self.nominated_path();
        }
        let target = Some(self.rtp_latch.target()).filter(|target| target.is_target());
        let to = target.and_then(Addr::to_socket).ok_or(DropReason::NoRemote)?;
        Ok((PortId(self.rtp_port - 1), to))
    }

    /// Where reports to the peer go.
    pub(super) fn rtcp_target(&self) -> Result<(PortId, SocketAddr), DropReason> {
        if self.is_ice() || self.rtcp_mux == 1 {
            return self.rtp_target();
        }
        let target = Some(self.rtcp_latch.target()).filter(|target| target.is_target());
        let to = target.and_then(Addr::to_socket).ok_or(DropReason::NoRemote)?;
        Ok((PortId(self.rtcp_port - 1), to))
    }

    fn nominated_path(&self) -> Result<(PortId, SocketAddr), DropReason> {
        if self.is_consent_lost == 1 || self.is_path_lost == 1 {
            return Err(DropReason::PathLost);
        }
        let path = self.nominated.checked_sub(1).map(|index| self.paths[index as usize]);
        let to = path.and_then(|path| Some((PortId(path.port.checked_sub(1)?), path.addr.to_socket()?)));
        to.ok_or(DropReason::NoRemote)
    }

    /// The soonest time at which a timer of the leg has something to do.
    pub(super) fn deadline(&self) -> Option<Time> {
        let mut soonest = Time::from_micros(self.report_at);
        if let Some(end) = self.consent.expires_at(Duration::from_micros(self.consent_timeout))
            && self.is_consent_lost == 0
        {
            soonest = soonest.min(end);
        }
        if let Some(end) = self.silence_ends() {
            soonest = soonest.min(end);
        }
        if self.former_peer_key().number != 0 {
            soonest = soonest.min(Time::from_micros(self.old_keys_until));
        }
        if let Some(at) = self.limit_at.checked_sub(1) {
            soonest = soonest.min(Time::from_micros(at));
        }
        Some(soonest)
    }

    /// When silence is to be reported.
    fn silence_ends(&self) -> Option<Time> {
        let is_watched = self.media_timeout_ms > 0 && self.is_expected == 1 && self.is_silence_told == 0;
        let timeouts = if self.is_quiet == 1 { QUIET_TIMEOUTS } else { 1 };
        let timeout = Duration::from_millis(self.media_timeout_ms.into()) * timeouts;
        is_watched.then(|| Time::from_micros(self.media_at) + timeout)
    }
}

impl Column<'_, OutStream> {
    /// The place of a stream.
    pub(super) fn of(&self, ssrc: u32) -> Option<usize> {
        self.iter().position(|stream| stream.used == 1 && stream.tx.ssrc() == ssrc)
    }
}

impl Column<'_, RxSlot> {
    /// The place of a source.
    pub(super) fn of(&self, ssrc: u32, epoch: u32) -> Option<usize> {
        self.iter().position(|slot| slot.used == 1 && slot.epoch == epoch && slot.stream.ssrc() == ssrc)
    }
}

impl Column<'_, RetiredSource> {
    fn of(&self, ssrc: u32, epoch: u32) -> Option<usize> {
        self.iter().position(|source| source.epoch == epoch && source.stream.ssrc() == ssrc)
    }
}

impl WholeLeg<'_> {
    /// Takes a place for an SSRC to send that has none. On plain legs one that no route uses gives way; under SRTP none may,
    /// because an SSRC that comes back under the same key must not start again.
    pub(super) fn claim_out(&mut self, ssrc: u32) -> Option<usize> {
        let index = self.free_out().or_else(|| if self.record.is_encrypted() { None } else { self.spare_out() })?;
        let tx = TxStream::new(ssrc);
        self.out[index] = OutStream { used: 1, tx, second_tx: tx, ..OutStream::default() };
        Some(index)
    }

    fn free_out(&mut self) -> Option<usize> {
        let free = self.out.view().iter().position(|stream| stream.used == 0);
        free.or_else(|| {
            let (index, len) = self.out.extend()?;
            self.record.out_len = len;
            Some(index)
        })
    }

    fn spare_out(&self) -> Option<usize> {
        let own = self.record.own_out.checked_sub(1).map(|index| index as usize);
        let streams = self.out.view();
        let is_spare =
            |(index, stream): &(usize, &OutStream)| stream.route == 0 && stream.repairs == 0 && Some(*index) != own;
        let spare = streams.iter().enumerate().filter(is_spare).min_by_key(|(_, stream)| stream.sent_at);
        spare.map(|(index, _)| index)
    }

    /// What is known of a source of an encrypted leg that has no place: nothing, or the indexes it stopped at.
    fn stream_without_place(&self, ssrc: u32, epoch: u32) -> RxStream {
        let retired = self.retired.view().of(ssrc, epoch);
        retired.map_or_else(|| RxStream::new(ssrc), |at| self.retired[at].stream.resume())
    }

    /// Takes a place for a source that authenticated. When there is none, the source that is silent longest gives way; on
    /// encrypted legs only after [`RX_IDLE`], and its indexes are remembered, because every packet of it that somebody kept
    /// would be new again without them (RFC 3711 section 3.3.2).
    fn claim_rx(&mut self, now: Time, stream: RxStream, epoch: u32) -> Result<usize, DropReason> {
        let comes_back = self.retired.view().of(stream.ssrc(), epoch).filter(|_| self.record.is_encrypted());
        let index = match self.free_rx() {
            Some(free) => {
                comes_back.into_iter().for_each(|at| self.retired[at] = RetiredSource::default());
                free
            }
            None => self.give_up_rx(now, comes_back)?,
        };
        self.rx[index] = RxSlot { used: 1, epoch, stream, ..RxSlot::default() };
        Ok(index)
    }

    fn free_rx(&mut self) -> Option<usize> {
        let free = self.rx.view().iter().position(|slot| slot.used == 0);
        free.or_else(|| {
            let (index, len) = self.rx.extend()?;
            self.record.rx_len = len;
            Some(index)
        })
    }

    /// Makes room among the received sources. The indexes of the source that goes are remembered in the entry of the one that
    /// comes back, if one does, else in a free one.
    fn give_up_rx(&mut self, now: Time, comes_back: Option<usize>) -> Result<usize, DropReason> {
        let sources = self.rx.view();
        let (index, oldest) = sources.iter().enumerate().min_by_key(|(_, slot)| slot.heard_at).expect("it has places");
        let oldest = *oldest;
        if self.record.is_encrypted() {
            let is_idle = now.since(Time::from_micros(oldest.heard_at)) > RX_IDLE;
            let room = if is_idle { comes_back.or_else(|| self.free_retired()) } else { None };
            let room = room.ok_or(DropReason::SrtpStreamsFull)?;
            // An entry counts by its epoch: it is whole before it counts.
            self.retired[room] = RetiredSource { epoch: 0, reserved: 0, stream: oldest.stream.retire() };
            step();
            self.retired[room].epoch = oldest.epoch;
            step();
        }
        Ok(index)
    }

    fn free_retired(&mut self) -> Option<usize> {
        let free = self.retired.view().iter().position(|source| source.epoch == 0);
        free.or_else(|| {
            let (index, len) = self.retired.extend()?;
            self.record.retired_len = len;
            Some(index)
        })
    }

    /// Puts keys in force, by one store. Only what really changed starts anew, and the key before goes on where it was when it comes
    /// back: the same key must not meet the same index twice. New keys are made ready beside those in force, so that a kill leaves the
    /// ones or the others, each with what was sent by it.
    pub(super) fn change_keys(&mut self, ours: &MasterKey, theirs: &MasterKey, old_keys_until: Time) {
        let own = self.make_own_key_ready(ours);
        let peer = self.make_peer_key_ready(theirs, old_keys_until);
        self.record.in_force = (own | peer << 1) as u8;
        step();
    }

    /// The place of a key to send with, with the state of every stream under it.
    fn make_own_key_ready(&mut self, key: &MasterKey) -> usize {
        let current = self.record.own_at();
        let (place, is_there) = place_for(&self.record.own_keys, current, key);
        if is_there {
            return place;
        }
        let number = self.record.own_keys[current].number + 1;
        self.record.own_keys[place].empty();
        let own = self.record.own_out.checked_sub(1).map(|index| index as usize);
        for (index, stream) in self.out.iter_mut().enumerate().filter(|(_, stream)| stream.used == 1) {
            let fresh = TxStream::new(stream.tx.ssrc());
            *stream.tx_under(place) = fresh;
            step();
            // An SSRC that neither of the two keys has sent needs its place no more.
            let is_needed = stream.route != 0 || stream.repairs != 0 || Some(index) == own;
            stream.used = u32::from(is_needed || *stream.tx_under(current) != fresh);
            step();
        }
        self.record.own_keys[place].fill(key, number);
        place
    }

    /// The place of a key to receive with. The key before is tried until `old_keys_until`.
    fn make_peer_key_ready(&mut self, key: &MasterKey, old_keys_until: Time) -> usize {
        let current = self.record.peer_at();
        let (place, is_there) = place_for(&self.record.peer_keys, current, key);
        if place == current && is_there {
            return place;
        }
        let number = self.record.peer_keys.iter().map(|place| place.number).max().unwrap_or(0) + 1;
        if !is_there {
            self.forget_old_keys();
        }
        // What is ready counts as the key before until it is in force.
        self.record.old_keys_until = old_keys_until.as_micros();
        step();
        if !is_there {
            self.record.peer_keys[place].fill(key, number);
        }
        place
    }

    /// Forgets the peer's key that is not in force, with what is known of its sources.
    pub(super) fn forget_old_keys(&mut self) {
        let former = self.record.peer_at() ^ 1;
        self.record.peer_keys[former].empty();
        self.forget_dead_sources();
    }

    /// Forgets the sources of keys that are no more.
    pub(super) fn forget_dead_sources(&mut self) {
        let numbers = self.record.peer_keys.map(|place| place.number);
        let is_dead = |epoch: u32| epoch != 0 && !numbers.contains(&epoch);
        for slot in self.rx.iter_mut().filter(|slot| slot.used == 1 && is_dead(slot.epoch)) {
            *slot = RxSlot::default();
        }
        for source in self.retired.iter_mut().filter(|source| is_dead(source.epoch)) {
            *source = RetiredSource::default();
        }
    }
}

/// Where a key is, or where it may be made ready: beside the one in force, if there is one. True when it is there.
fn place_for(places: &[KeyPlace; 2], current: usize, key: &MasterKey) -> (usize, bool) {
    let other = current ^ 1;
    match [current, other].into_iter().find(|place| places[*place].holds(key)) {
        Some(place) => (place, true),
        None if places[current].whole().is_none() => (current, false),
        None => (other, false),
    }
}

impl Relays {
    /// Counters of a leg as RCP shows them.
    pub(super) fn leg_stats(&self, slot: u32) -> LegStats {
        let (leg, heard, sent) = (self.arena.leg(slot), self.arena.rx(slot), self.arena.out(slot));
        let heard = heard.iter().filter(|slot| slot.used == 1);
        let sent = sent.iter().filter(|stream| stream.used == 1);
        let (traffic, counters) = (&leg.traffic, &leg.counters);
        let received = DirectionStats {
            packets: traffic.rx_packets,
            bytes: traffic.rx_bytes,
            rtcp_packets: counters.rx_rtcp,
            lost: heard.clone().map(|slot| slot.reception.lost()).sum(),
            jitter_us: heard.clone().map(|slot| slot.reception.jitter_us()).max().unwrap_or(0),
            reordered: heard.map(|slot| slot.reception.reordered).sum(),
            resent: 0,
        };
        let jitter_us = |stream: &OutStream| match stream.clock {
            0 => 0,
            clock => u64::from(stream.peer_jitter) * 1_000_000 / u64::from(clock),
        };
        let sent = DirectionStats {
            packets: traffic.tx_packets,
            bytes: traffic.tx_bytes,
            rtcp_packets: counters.tx_rtcp,
            lost: sent.clone().map(|stream| i64::from(stream.peer_lost)).sum(),
            jitter_us: sent.map(jitter_us).max().unwrap_or(0),
            reordered: 0,
            resent: counters.resent,
        };
        LegStats {
            leg: LegId(leg.id),
            received,
            sent,
            round_trip_us: leg.round_trip.checked_sub(1),
            drops: stats::named(&counters.drops),
        }
    }

    /// The stream that reports on what a leg receives: a route's if there is one, else the leg's own.
    pub(super) fn reporter(&self, slot: u32) -> usize {
        let of_route = self.arena.out(slot).iter().position(|stream| stream.used == 1 && stream.route != 0);
        of_route.unwrap_or(self.arena.leg(slot).own_out.saturating_sub(1) as usize)
    }

    pub(super) fn name_of(&self, slot: u32) -> (RelayId, LegId) {
        let leg = self.arena.leg(slot);
        let id = self.arena.relay(leg.relay_slot()).id;
        (RelayId::from_u128(u128::from(id[0]) << 64 | u128::from(id[1])), LegId(leg.id))
    }

    fn latch_times(&self) -> LatchTimes {
        LatchTimes { learn: self.config.timers.latch_learn, rearm: self.config.timers.latch_rearm }
    }

    /// Judges who sent an RTP packet and opens it. The index of its source in the leg's `rx`.
    pub(super) fn admit_rtp(
        &mut self,
        now: Now,
        slot: u32,
        from: SocketAddr,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<usize, DropReason> {
        if self.arena.leg(slot).is_encrypted() {
            let ssrc = rtp::ssrc_of(packet.bytes());
            let index = self.open(now, slot, ssrc, packet, SrtpRx::unprotect_rtp)?;
            self.follow(now, slot, from, false, out);
            return Ok(index);
        }
        rtp::Rtp::parse(packet.bytes())?;
        self.latch(now, slot, from, false, out)?;
        let mut leg = self.arena.whole_leg(slot);
        let ssrc = rtp::ssrc_of(packet.bytes());
        let known = leg.rx.view().of(ssrc, 0);
        let index = known.map_or_else(|| leg.claim_rx(now.mono, RxStream::new(ssrc), 0), Ok)?;
        leg.rx[index].heard_at = now.mono.as_micros();
        Ok(index)
    }

    /// Judges who sent an RTCP compound and opens it. True when it is the peer for certain: it tells that the peer is alive.
    pub(super) fn admit_rtcp(
        &mut self,
        now: Now,
        slot: u32,
        from: SocketAddr,
        is_muxed: bool,
        packet: &mut Packet<'_>,
        out: &mut impl Output,
    ) -> Result<bool, DropReason> {
        if self.arena.leg(slot).is_encrypted() {
            let ssrc = rtcp::sender_ssrc_of(packet.bytes());
            self.open(now, slot, ssrc, packet, SrtpRx::unprotect_rtcp)?;
            self.follow(now, slot, from, !is_muxed, out);
            return Ok(true);
        }
        rtcp::Compound::parse(packet.bytes())?;
        let admitted = self.latch(now, slot, from, !is_muxed, out)?;
        Ok(admitted == super::latch::Admitted::Known)
    }

    /// Opens an SRTP or SRTCP packet with the keys in force, then with the former ones.
    fn open(
        &mut self,
        now: Now,
        slot: u32,
        ssrc: u32,
        packet: &mut Packet<'_>,
        unprotect: impl Fn(&SrtpRx, &mut RxStream, &mut Packet<'_>) -> Result<(), DropReason>,
    ) -> Result<usize, DropReason> {
        let mut leg = self.arena.whole_leg(slot);
        let [Some(current), former] = &self.derived[slot as usize].rx else {
            let is_pending = leg.record.is_ice() && leg.record.fingerprint_count == 0;
            return Err(if is_pending { DropReason::FingerprintPending } else { DropReason::NoKeys });
        };
        // A failed attempt spoils the payload (it decrypts while it checks), so a second one needs the bytes as they came.
        let len = packet.len();
        if former.is_some() {
            self.scratch[..len].copy_from_slice(packet.bytes());
        }
        let attempt = |leg: &mut WholeLeg<'_>, keys: &SrtpRx, epoch: u32, packet: &mut Packet<'_>| {
            let known = leg.rx.view().of(ssrc, epoch);
            let mut stream = known.map_or_else(|| leg.stream_without_place(ssrc, epoch), |index| leg.rx[index].stream);
            unprotect(keys, &mut stream, packet)?;
            let index = known.map_or_else(|| leg.claim_rx(now.mono, stream, epoch), Ok)?;
            (leg.rx[index].stream, leg.rx[index].heard_at) = (stream, now.mono.as_micros());
            Ok(index)
        };
        let (current_epoch, former_epoch) = (leg.record.peer_key().number, leg.record.former_peer_key().number);
        match attempt(&mut leg, current, current_epoch, packet) {
            Err(reason @ (DropReason::SrtpAuthFailed | DropReason::SrtcpAuthFailed)) => {
                let Some(former) = former else { return Err(reason) };
                packet.bytes_mut().copy_from_slice(&self.scratch[..len]);
                attempt(&mut leg, former, former_epoch, packet)
            }
            verdict => verdict,
        }
    }

    /// The source of a packet that authenticated by its tag is where the peer is. Browser legs follow ICE alone.
    fn follow(&mut self, now: Now, slot: u32, from: SocketAddr, is_rtcp_port: bool, out: &mut impl Output) {
        let leg = self.arena.leg_mut(slot);
        if leg.is_ice() {
            return;
        }
        let latch = if is_rtcp_port { &mut leg.rtcp_latch } else { &mut leg.rtp_latch };
        if latch.follow(now.mono, from.into()) == super::latch::Admitted::Latched && !is_rtcp_port {
            let (relay, leg) = self.name_of(slot);
            out.event(Event::SourceLatched { relay, leg, remote: from });
        }
        if !is_rtcp_port {
            self.settle_port(slot, out);
        }
    }

    fn latch(
        &mut self,
        now: Now,
        slot: u32,
        from: SocketAddr,
        is_rtcp_port: bool,
        out: &mut impl Output,
    ) -> Result<super::latch::Admitted, DropReason> {
        let times = self.latch_times();
        let from_addr = Addr::from(from);
        if is_rtcp_port {
            return self.latch_rtcp(now, slot, from_addr, times);
        }
        let leg = self.arena.leg_mut(slot);
        let may_rearm = leg.may_rearm == 1;
        let admitted = leg.rtp_latch.admit(now.mono, from_addr, leg.rtcp_latch.latched, times, may_rearm)?;
        if admitted == super::latch::Admitted::Latched {
            leg.rtcp_latch.keep_to_host(from_addr);
            let (relay, leg) = self.name_of(slot);
            out.event(Event::SourceLatched { relay, leg, remote: from });
        }
        self.settle_port(slot, out);
        Ok(admitted)
    }

    /// RTCP comes from the host of the media, or from where signalling says. It comes seldom, so that its silence says little:
    /// while media flows its source stays, else several intervals are waited for.
    fn latch_rtcp(
        &mut self,
        now: Now,
        slot: u32,
        from: Addr,
        times: LatchTimes,
    ) -> Result<super::latch::Admitted, DropReason> {
        let interval = self.config.timers.rtcp_interval;
        let leg = self.arena.leg_mut(slot);
        let media = &leg.rtp_latch;
        if media.is_locked == 1 && from.ip != media.latched.ip && from != leg.rtcp_latch.declared {
            return Err(DropReason::ForeignSource);
        }
        let may_rearm = leg.may_rearm == 1 && !media.is_fresh(now.mono, times.rearm);
        let times = LatchTimes { rearm: times.rearm.max(interval * RTCP_REARM_INTERVALS), ..times };
        leg.rtcp_latch.admit(now.mono, from, media.latched, times, may_rearm)
    }

    /// An authenticated check came: the address is the leg's from now on.
    pub(super) fn bind_path(
        &mut self,
        now: Now,
        slot: u32,
        (port, from): (PortId, SocketAddr),
        is_nominated: bool,
        out: &mut impl Output,
    ) -> Result<(), DropReason> {
        let addr = Addr::from(from);
        let leg = self.arena.leg(slot);
        let known = leg.paths.iter().position(|path| path.port == port.0 + 1 && path.addr == addr);
        let index = match known {
            Some(index) => index,
            None => self.add_path(now, slot, port, addr, out)?,
        };
        let handle = self.arena.handle(slot);
        let leg = self.arena.leg_mut(slot);
        leg.paths[index].checked_at = now.mono.as_micros();
        let is_told = std::mem::replace(&mut leg.paths[index].is_told, 1) == 1;
        let has_moved = is_nominated && leg.nominated != index as u32 + 1;
        if has_moved {
            (leg.nominated, leg.is_path_lost) = (index as u32 + 1, 0);
        }
        let needs_timer = leg.consent.granted_at().is_none() || leg.is_consent_lost == 1;
        leg.consent.grant(now.mono);
        leg.is_consent_lost = 0;
        if needs_timer {
            self.schedule(slot);
        }
        if !is_told {
            out.dtls_path(handle, port, from);
        }
        if has_moved {
            let (relay, leg) = self.name_of(slot);
            out.event(Event::PathSelected { relay, leg, remote: from });
        }
        Ok(())
    }

    fn add_path(
        &mut self,
        now: Now,
        slot: u32,
        port: PortId,
        addr: Addr,
        out: &mut impl Output,
    ) -> Result<usize, DropReason> {
        let leg = self.arena.leg_mut(slot);
        let is_stale = |path: &Path| now.mono.since(Time::from_micros(path.checked_at)) >= PATH_STALE;
        let free = leg.paths.iter().position(|path| path.addr.port == 0).or_else(|| {
            let others = leg.paths.iter().enumerate().filter(|(index, _)| leg.nominated != *index as u32 + 1);
            let stale = others.filter(|(_, path)| is_stale(path));
            stale.min_by_key(|(_, path)| path.checked_at).map(|(index, _)| index)
        });
        let index = free.filter(|_| self.newcomers.admit(now.mono)).ok_or(DropReason::TooManyNewAddresses)?;
        let leg = self.arena.leg_mut(slot);
        // A path counts by its port: it is whole before it counts.
        let evicted = std::mem::take(&mut leg.paths[index]);
        step();
        leg.paths[index] = Path { addr, port: 0, checked_at: now.mono.as_micros(), is_told: 0, reserved: 0 };
        step();
        leg.paths[index].port = port.0 + 1;
        if let Some(port) = evicted.port.checked_sub(1) {
            self.paths.remove(PortId(port), evicted.addr, slot);
        }
        if let Some(former) = self.paths.insert(port, addr, slot) {
            self.lose_path(former, port, addr, out);
        }
        Ok(index)
    }

    fn lose_path(&mut self, slot: u32, port: PortId, addr: Addr, out: &mut impl Output) {
        let leg = self.arena.leg_mut(slot);
        let lost = leg.paths.iter().position(|path| path.port == port.0 + 1 && path.addr == addr);
        let Some(index) = lost else { return };
        leg.paths[index] = Path::default();
        if leg.nominated == index as u32 + 1 {
            (leg.nominated, leg.is_path_lost) = (0, 1);
            let (relay, leg) = self.name_of(slot);
            out.event(Event::PathLost { relay, leg });
        }
    }

    /// See [`Relays::install_keys`].
    pub(super) fn take_keys(&mut self, now: Now, handle: LegHandle, keys: &DtlsKeys, out: &mut impl Output) -> bool {
        let Some(slot) = self.arena.resolve(handle) else { return false };
        let leg = self.arena.leg_mut(slot);
        if !leg.is_ice() || !keys.ours.is_set() || !keys.theirs.is_set() {
            return false;
        }
        // Keys count by their number: they are whole before they count.
        leg.held.number = 0;
        step();
        (leg.held.ours, leg.held.theirs) = (keys.ours, keys.theirs);
        leg.held_fingerprint = keys.peer_fingerprint.0;
        step();
        leg.held.number = HELD;
        step();
        self.judge_held(now, slot, out);
        true
    }

    /// Compares the certificate of a finished handshake with the program, once it names one. Keys that do not fit stay, so that a
    /// program that names their certificate after all needs no other handshake.
    pub(super) fn judge_held(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        let old_keys_until = now.mono + self.config.timers.old_keys;
        let leg = self.arena.leg_mut(slot);
        if leg.held.number != HELD || leg.fingerprint_count == 0 {
            return;
        }
        let named = &leg.fingerprints[..usize::from(leg.fingerprint_count)];
        if !named.contains(&leg.held_fingerprint) {
            leg.held.number = HELD_AND_REFUSED;
            let (relay, leg) = self.name_of(slot);
            out.event(Event::DtlsFailed { relay, leg, cause: DtlsFailure::Fingerprint });
            return;
        }
        let HeldKeys { ours, theirs, .. } = leg.held;
        self.change_keys(slot, &ours, &theirs, old_keys_until);
        let leg = self.arena.leg_mut(slot);
        step();
        leg.held.number = 0;
        step();
        leg.held.ours.wipe();
        leg.held.theirs.wipe();
        self.schedule(slot);
        let (relay, leg) = self.name_of(slot);
        let profile = ours.profile().map_or("", Profile::sdes_name).to_owned();
        out.event(Event::KeysReady { relay, leg, profile });
    }

    /// Makes what is derived of a leg have a place. The records of free legs are taken from the front, so that only as much memory
    /// is touched as there were legs at a time.
    pub(super) fn make_derived(&mut self, slot: u32) {
        let len = self.derived.len().max(slot as usize + 1);
        self.derived.resize_with(len, Derived::default);
    }

    /// Puts keys in force and goes on by them. A key that comes back may have been used further, modulo 2^16, than the numbers that are
    /// sent by now, and refuses those that lie behind: they go on where it was.
    pub(super) fn change_keys(&mut self, slot: u32, ours: &MasterKey, theirs: &MasterKey, old_keys_until: Time) {
        self.arena.whole_leg(slot).change_keys(ours, theirs, old_keys_until);
        let own = self.arena.leg(slot).own_at();
        for index in 0..self.arena.out(slot).len() {
            let stream = &mut self.arena.sections().out[(slot, index)];
            let Some(used) = stream.tx_under(own).rtp_index().filter(|_| stream.used == 1) else { continue };
            let ahead = (used as u16).wrapping_sub(stream.sequence as u16);
            if (1..=AHEAD_MAX).contains(&ahead) {
                stream.sequence = u32::from(used as u16);
                let route = stream.route;
                step();
                route.checked_sub(1).into_iter().for_each(|route| self.follow_stream(route));
            }
        }
        self.derive_keys(slot);
    }

    /// Derives session keys from the record's master keys.
    pub(super) fn derive_keys(&mut self, slot: u32) {
        let leg = self.arena.leg(slot);
        let derived = &mut self.derived[slot as usize];
        let theirs = [leg.peer_key(), leg.former_peer_key()];
        derived.rx = theirs.map(|place| place.whole().and_then(SrtpRx::new).map(Box::new));
        derived.tx = leg.own_key().whole().and_then(SrtpTx::new).map(Box::new);
        self.forget_sent(slot);
    }

    /// Makes the log of arrivals that the leg's peer wants, or ends it.
    pub(super) fn keep_arrivals(&mut self, slot: u32) {
        let arrivals = &mut self.derived[slot as usize].arrivals;
        match self.arena.leg(slot).transport_cc {
            0 => *arrivals = None,
            _ => drop(arrivals.get_or_insert_default()),
        }
    }

    /// Sets the leg's timer anew after something it depends on changed.
    pub(super) fn schedule(&mut self, slot: u32) {
        let arrivals = self.derived[slot as usize].arrivals.as_ref().and_then(ArrivalLog::due);
        let own = self.arena.leg(slot).deadline();
        let made = [self.fills_due(slot), self.digits_due(slot)];
        let due = [self.keyframes_due(slot), own, arrivals, self.alone_until(slot)];
        let soonest = due.into_iter().chain(made).flatten().min();
        self.deadlines.set(slot, soonest);
    }

    /// Does what is due on one leg.
    pub(super) fn expire(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        let leg = self.arena.leg_mut(slot);
        let timeout = Duration::from_micros(leg.consent_timeout);
        let loses_consent = leg.is_consent_lost == 0 && leg.consent.expired(now.mono, timeout);
        leg.is_consent_lost |= u8::from(loses_consent);
        let is_silent = leg.silence_ends().is_some_and(|end| end <= now.mono);
        leg.is_silence_told |= u8::from(is_silent);
        let drops_old_keys = leg.former_peer_key().number != 0 && Time::from_micros(leg.old_keys_until) <= now.mono;
        if drops_old_keys {
            self.arena.whole_leg(slot).forget_old_keys();
            self.derived[slot as usize].rx[1] = None;
        }
        let (relay, id) = self.name_of(slot);
        if loses_consent {
            out.event(Event::ConsentLost { relay, leg: id });
        }
        if is_silent {
            out.event(Event::MediaTimeout { relay, leg: id });
        }
        if Time::from_micros(self.arena.leg(slot).report_at) <= now.mono {
            self.report(now, slot, out);
            self.next_report(now, slot);
        }
        self.expire_keyframes(now, slot, out);
        self.expire_digits(now, slot, out);
        self.expire_fills(now, slot, out);
        self.expire_congestion(now, slot, out);
        self.expire_alone(now, slot, out);
        self.schedule(slot);
    }

    /// The peer of the leg was heard.
    pub(super) fn note_heard(&mut self, now: Now, slot: u32) {
        let leg = self.arena.leg_mut(slot);
        leg.media_at = now.mono.as_micros();
        if leg.is_silence_told == 1 {
            leg.is_silence_told = 0;
            self.schedule(slot);
        }
    }
}
