//! Relays out of an arena: what a new process, or a worker after a panic, does with what it finds.
//!
//! The one before may have stopped between any two stores. docs/ARCHITECTURE.md lists what may be torn and what puts it right.

use std::collections::BTreeMap;

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{Event, Fingerprint, ReapReason},
    time::Time,
};

use super::{CRASH_FORGOTTEN_AFTER, CRASHES_MAX, LegHandle, Now, Output, PortId, RelayConfig, Relays, table::PortUse};
use crate::{
    arena::{Arena, Path, step},
    ice_lite::LocalCredentials,
    srtp::MasterKey,
};

/// A relay that was found, for who answers control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// Its id.
    pub relay: RelayId,
    /// Generation of the last program that was applied to its end.
    pub generation: Generation,
    /// Digest of that program; 0: a change was cut off, and the program must be put again.
    pub digest: u64,
    /// Ids of the actions that were begun last; [`crate::arena::ACTIONS_MAX`] at most.
    pub actions: Vec<u64>,
    /// Its legs, in the program's order.
    pub legs: Vec<AdoptedLeg>,
}

/// A leg of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedLeg {
    /// The leg.
    pub id: LegId,
    /// Its handle.
    pub handle: LegHandle,
    /// Where it is.
    pub local: AdoptedLocal,
    /// Certificates that its program names.
    pub fingerprints: Vec<Fingerprint>,
    /// The browser's certificate, when a handshake has agreed on keys with it, in force or held.
    pub agreed_with: Option<Fingerprint>,
}

/// Where a leg is on our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdoptedLocal {
    /// On the browser ports, with these credentials.
    IceDtls(LocalCredentials),
    /// On the pair of this lease.
    Rtp {
        /// The keeper's number.
        lease: u64,
    },
}

impl Relays {
    /// Takes over the arena of a process that is gone. `ports` are the pairs that were handed over, by lease; browser ports have the
    /// numbers they had, because every process opens them first. `blame` says that the process failed by itself, so that the relay in
    /// its hand counts a crash. Also gives the relays that could not be taken over: a pair of theirs is gone.
    pub fn adopt(
        mut arena: Arena,
        config: RelayConfig,
        now: Now,
        ports: &BTreeMap<u64, (PortId, PortId)>,
        blame: bool,
        out: &mut impl Output,
    ) -> (Self, Vec<RelayId>) {
        if !blame {
            arena.sections().header.in_hand = 0;
        }
        let reached = arena.reached().legs as usize;
        for leg in arena.sections().legs[..reached].iter_mut().filter(|leg| leg.head.used == 1) {
            let pair = ports.get(&leg.lease);
            (leg.rtp_port, leg.rtcp_port) = pair.map_or((0, 0), |(rtp, rtcp)| (rtp.0 + 1, rtcp.0 + 1));
            if !leg.has_agreed() {
                // Handshakes ended with the process: the next check begins one.
                leg.paths.iter_mut().for_each(|path| path.is_told = 0);
            }
        }
        let mut relays = Self::rebuild(arena, config, now, out);
        relays.tell_again(out);
        let is_deaf = |slot: &u32| {
            let leg = relays.arena.leg(*slot);
            !leg.is_ice() && leg.rtp_port == 0
        };
        let deaf = relays.leg_slots().into_iter().filter(is_deaf);
        let mut lost: Vec<RelayId> = deaf.map(|slot| relays.name_of(slot).0).collect();
        lost.dedup();
        for relay in &lost {
            relays.remove(*relay, out);
        }
        (relays, lost)
    }

    /// What control may not have been told because the process that saw it ended: it waits for this to let a call begin.
    fn tell_again(&self, out: &mut impl Output) {
        for slot in self.leg_slots().into_iter().filter(|slot| self.arena.leg(*slot).is_ice()) {
            let (relay, leg) = self.name_of(slot);
            let record = self.arena.leg(slot);
            let nominated = record.nominated.checked_sub(1).and_then(|index| record.paths.get(index as usize));
            if let Some(remote) = nominated.and_then(|path| path.addr.to_socket()) {
                out.event(Event::PathSelected { relay, leg, remote });
            }
            if let Some(profile) = record.own_key().whole().and_then(MasterKey::profile) {
                out.event(Event::KeysReady { relay, leg, profile: profile.sdes_name().to_owned() });
            }
        }
    }

    /// All relays with what the manager must know of them.
    #[must_use]
    pub fn adopted(&self) -> Vec<Adopted> {
        let leg = |slot: u32| {
            let leg = self.arena.leg(slot);
            let fingerprints =
                leg.fingerprints[..usize::from(leg.fingerprint_count).min(leg.fingerprints.len())].iter();
            AdoptedLeg {
                id: LegId(leg.id),
                handle: self.arena.handle(slot),
                local: if leg.is_ice() {
                    AdoptedLocal::IceDtls(leg.local)
                } else {
                    AdoptedLocal::Rtp { lease: leg.lease }
                },
                fingerprints: fingerprints.map(|bytes| Fingerprint(*bytes)).collect(),
                agreed_with: leg.has_agreed().then_some(Fingerprint(leg.held_fingerprint)),
            }
        };
        let relays = self.by_id.iter().map(|(relay, slot)| {
            let record = self.arena.relay(*slot);
            Adopted {
                relay: *relay,
                generation: Generation(record.generation),
                digest: record.digest,
                actions: record.actions.into_iter().take(record.actions_begun as usize).collect(),
                legs: record.legs.iter().filter_map(|slot| slot.checked_sub(1)).map(leg).collect(),
            }
        });
        relays.collect()
    }

    /// Ports of a relay's legs with their leases; none of browser legs.
    pub fn ports_of(&self, relay: RelayId) -> impl Iterator<Item = (LegId, u64, PortId, PortId)> + '_ {
        let slot = self.by_id.get(&relay);
        let legs = slot.into_iter().flat_map(|slot| self.arena.relay(*slot).legs).filter_map(|leg| leg.checked_sub(1));
        legs.filter_map(|slot| {
            let leg = self.arena.leg(slot);
            let (rtp, rtcp) = (leg.rtp_port.checked_sub(1)?, leg.rtcp_port.checked_sub(1)?);
            Some((LegId(leg.id), leg.lease, PortId(rtp), PortId(rtcp)))
        })
    }

    /// Takes back what an arena holds after a crash or a restart: derives keys and tables anew and moves SRTP indexes on. A relay
    /// that was in hand at its second crash is reaped and reported.
    pub fn rebuild(arena: Arena, config: RelayConfig, now: Now, out: &mut impl Output) -> Self {
        let mut relays = Relays::new(arena, config);
        relays.arena.rebuild();
        for slot in (0..relays.arena.reached().relays)
            .filter(|slot| relays.arena.relay(*slot).head.used == 1)
            .collect::<Vec<_>>()
        {
            relays.take_back(slot);
        }
        relays.free_unowned();
        relays.judge_crash(now, out);
        for slot in relays.leg_slots() {
            // What came due while nobody was here is done at once, but not twice.
            if Time::from_micros(relays.arena.leg(slot).report_at) < now.mono {
                relays.next_report(now, slot);
            }
            relays.open_port(slot, out);
            // Keys of a handshake that were being put in force.
            relays.judge_held(now, slot, out);
            relays.schedule(slot);
        }
        relays
    }

    fn take_back(&mut self, slot: u32) {
        self.mend_lists(slot);
        let record = *self.arena.relay(slot);
        let id = RelayId::from_u128(u128::from(record.id[0]) << 64 | u128::from(record.id[1]));
        self.by_id.insert(id, slot);
        for leg in record.legs.into_iter().filter_map(|leg| leg.checked_sub(1)) {
            self.take_back_leg(leg);
        }
        for route in record.routes.into_iter().filter_map(|route| route.checked_sub(1)) {
            let (to, is_kept) = (self.arena.route(route).to, self.arena.route(route).is_kept);
            if is_kept == 1 {
                self.history.begin(route);
            }
            if self.arena.leg(to).is_encrypted() {
                self.follow_stream(route);
            }
        }
    }

    /// The numbers of a route's stream were moved on; its source follows, so that it goes on without a break. Told by what both have
    /// reached, so that it is the same however often this was begun.
    pub(super) fn follow_stream(&mut self, route: u32) {
        let (to, out) = (self.arena.route(route).to, self.arena.route(route).out);
        let reached = self.arena.out(to)[out as usize].sequence;
        let route = self.arena.route_mut(route);
        let moved = (reached as u16).wrapping_sub(route.source.sequence as u16);
        step();
        (route.source.sequence_offset, route.source.span) = (moved.into(), 0);
        step();
        route.former.used = 0;
    }

    /// Takes out of a relay's lists what a crash in the middle of a change left there without being the relay's.
    fn mend_lists(&mut self, slot: u32) {
        let mut record = *self.arena.relay(slot);
        for entry in &mut record.legs {
            let leg = entry.checked_sub(1).map(|leg| self.arena.leg(leg));
            if !leg.is_some_and(|leg| leg.head.used == 1 && leg.relay == slot + 1) {
                *entry = 0;
            }
        }
        for entry in &mut record.routes {
            let route = entry.checked_sub(1).map(|route| self.arena.route(route));
            let is_own = route.is_some_and(|route| {
                let ends = [route.from + 1, route.to + 1];
                route.head.used == 1 && route.relay == slot + 1 && ends.iter().all(|leg| record.legs.contains(leg))
            });
            if !is_own {
                *entry = 0;
            }
        }
        (self.arena.relay_mut(slot).legs, self.arena.relay_mut(slot).routes) = (record.legs, record.routes);
        for leg in record.legs.into_iter().filter_map(|leg| leg.checked_sub(1)) {
            for index in 0..self.arena.out(leg).len() {
                let entry = self.arena.out(leg)[index].route;
                let route = entry.checked_sub(1).filter(|_| record.routes.contains(&entry));
                let route = route.map(|route| self.arena.route(route));
                if route.is_none_or(|route| (route.to, route.out as usize) != (leg, index)) {
                    self.arena.sections().out[(leg, index)].route = 0;
                }
                let entry = self.arena.out(leg)[index].repairs;
                let route = entry.checked_sub(1).filter(|_| record.routes.contains(&entry));
                let route = route.map(|route| self.arena.route(route));
                if route.is_none_or(|route| (route.to, route.rtx_out as usize) != (leg, index + 1)) {
                    self.arena.sections().out[(leg, index)].repairs = 0;
                }
            }
        }
    }

    fn take_back_leg(&mut self, slot: u32) {
        self.make_derived(slot);
        let mut leg = self.arena.whole_leg(slot);
        leg.rx.iter_mut().for_each(|rx| rx.stream.recover());
        if leg.record.is_encrypted() {
            // The kill may have come between a key and them.
            leg.forget_dead_sources();
            let own = leg.record.own_at();
            for stream in leg.out.iter_mut().filter(|stream| stream.used == 1) {
                stream.tx.recover();
                stream.second_tx.recover();
                step();
                // Not moved on from where it was: a restart that was cut off would move the two by different margins.
                if let Some(index) = stream.tx_under(own).rtp_index() {
                    stream.sequence = u32::from(index as u16);
                }
                step();
            }
        }
        let leg = self.arena.leg_mut(slot);
        // What was being written when the kill came.
        leg.paths.iter_mut().filter(|path| path.port == 0).for_each(|path| *path = Path::default());
        let leg = self.arena.leg(slot);
        if leg.is_ice() {
            self.ufrags.insert(leg.local.ufrag(), slot);
            for path in leg.paths.iter().filter(|path| path.port != 0) {
                self.paths.insert(PortId(path.port - 1), path.addr, slot);
            }
        } else {
            // Without ports it will not live long.
            let ports = [(leg.rtp_port, PortUse::Rtp(slot)), (leg.rtcp_port, PortUse::Rtcp(slot))];
            for (port, port_use) in ports.into_iter().filter_map(|(port, r#use)| Some((port.checked_sub(1)?, r#use))) {
                self.ports.set(PortId(port), port_use);
            }
        }
        self.derive_keys(slot);
        self.list_routes(slot);
        self.keep_arrivals(slot);
    }

    /// Records that no relay lists were left by a crash in the middle of a change.
    fn free_unowned(&mut self) {
        let reached = self.arena.reached();
        let relay_of = |arena: &Arena, relay: u32| {
            let relay = relay.checked_sub(1).filter(|slot| *slot < reached.relays).map(|slot| *arena.relay(slot));
            relay.filter(|relay| relay.head.used == 1)
        };
        for slot in 0..reached.legs {
            let leg = self.arena.leg(slot);
            let owner = relay_of(&self.arena, leg.relay);
            if leg.head.used == 1 && owner.is_none_or(|relay| !relay.legs.contains(&(slot + 1))) {
                self.arena.free_leg(slot);
            }
        }
        for slot in 0..reached.routes {
            let route = self.arena.route(slot);
            let owner = relay_of(&self.arena, route.relay);
            if route.head.used == 1 && owner.is_none_or(|relay| !relay.routes.contains(&(slot + 1))) {
                self.arena.free_route(slot);
            }
        }
    }

    fn judge_crash(&mut self, now: Now, out: &mut impl Output) {
        let in_hand = std::mem::take(&mut self.arena.sections().header.in_hand);
        let Some(leg) = in_hand.checked_sub(1).filter(|leg| self.arena.leg(*leg).head.used == 1) else { return };
        let relay = self.arena.leg(leg).relay_slot();
        let (id, _) = self.name_of(leg);
        let record = self.arena.relay_mut(relay);
        if now.mono.since(Time::from_micros(record.crashed_at)) >= CRASH_FORGOTTEN_AFTER {
            record.crashes = 0;
        }
        (record.crashes, record.crashed_at) = (record.crashes + 1, now.mono.as_micros());
        if record.crashes >= CRASHES_MAX {
            self.remove(id, out);
            out.event(Event::RelayReaped { relay: id, reason: ReapReason::Poisonous });
        }
    }

    fn leg_slots(&self) -> Vec<u32> {
        let relays = self.by_id.values().map(|slot| self.arena.relay(*slot));
        relays.flat_map(|relay| relay.legs.iter().filter_map(|leg| leg.checked_sub(1))).collect()
    }
}
