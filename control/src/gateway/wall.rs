//! The wall as the core sees it: up or down, relay ids, and who owns what after it comes back.

use std::collections::{BTreeMap, BTreeSet};

use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{ListEntry, RelayError, Reply, Request},
    time::Time,
};

use super::{
    Gateway,
    call::{CallKey, Purpose},
    effects::{Output, RelayRequestId},
    outcome::CallEnd,
    timers::Timer,
};
use crate::sdp::Abilities;

/// The state of the wall.
#[derive(Debug, Default)]
pub(super) struct Wall {
    /// Control's epoch while it is up.
    epoch: Option<u32>,
    /// What the dataplane can do; as many as a greeting holds.
    capabilities: Vec<String>,
    minted: u64,
    /// The `List` under way.
    listing: Option<RelayRequestId>,
    /// What its pages have named so far; as many as the dataplane has relays.
    seen: BTreeSet<RelayId>,
    /// Relays that ended while the wall was down; as many as there were calls.
    released: BTreeSet<RelayId>,
    /// Relays of a former control that its journal did not know, each until when it lives; as many as the dataplane has.
    orphans: BTreeMap<RelayId, Time>,
}

impl Wall {
    /// Whether requests can be sent.
    pub(super) fn is_up(&self) -> bool {
        self.epoch.is_some()
    }

    /// Whether the dataplane says that it can do this.
    pub(super) fn knows(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|known| known == capability)
    }

    /// What the dataplane can do about lost video and browsers' bit rates.
    pub(super) fn abilities(&self) -> Abilities {
        Abilities {
            nack: self.knows("nack"),
            rtx: self.knows("rtx"),
            remb: self.knows("remb"),
            transport_cc: self.knows("transport_cc"),
        }
    }
}

impl Gateway {
    pub(super) fn wall_up(&mut self, epoch: u32, capabilities: Vec<String>) {
        self.wall.epoch = Some(epoch);
        self.wall.capabilities = capabilities;
        let living: Vec<CallKey> = self.relays.values().copied().collect();
        for key in living {
            let Some(relay) = self.calls.get(&key).and_then(|call| call.relay.as_ref()) else { continue };
            // One that is being made has its own ask.
            if relay.addresses.is_some() {
                let purpose = relay.pending.as_ref().map_or(Purpose::Again, |(_, purpose)| purpose.clone());
                self.put(key, purpose);
            }
        }
        self.list(None);
    }

    pub(super) fn wall_down(&mut self) {
        self.wall.epoch = None;
        self.wall.listing = None;
        self.puts.clear();
        for call in self.calls.values_mut_unmarked() {
            if let Some((request, _)) = call.relay.as_mut().and_then(|relay| relay.pending.as_mut()) {
                *request = None;
            }
        }
    }

    /// Asks which relays there are: to delete those that nobody owns, and to put again those that are missing.
    pub(super) fn list(&mut self, after: Option<RelayId>) {
        if !self.wall.is_up() {
            return;
        }
        if after.is_none() {
            self.wall.seen.clear();
        }
        let id = self.next_request_id();
        self.wall.listing = Some(id);
        self.outputs.push_back(Output::Relay { id, request: Request::List { after, limit: Request::LIST_LIMIT_MAX } });
    }

    pub(super) fn relay_reply(&mut self, id: RelayRequestId, result: Result<Reply, RelayError>) {
        if self.wall.listing != Some(id) {
            return self.put_answered(id, result);
        }
        self.wall.listing = None;
        match result {
            Ok(Reply::List { relays, more }) => self.listed(&relays, more),
            Ok(_) => self.list_later("it answered with something else"),
            Err(error) => self.list_later(&error.to_string()),
        }
    }

    /// What the dataplane holds is not known yet, so relays that nobody owns would stay.
    fn list_later(&mut self, reason: &str) {
        tracing::warn!(reason, "the dataplane refused List");
        self.timers.set(Timer::Relist, self.now + self.config.relay_timeout);
    }

    fn listed(&mut self, relays: &[ListEntry], more: bool) {
        for entry in relays {
            match self.relays.get(&entry.relay).copied() {
                Some(key) => self.take_over(key, entry),
                None => self.judge_orphan(entry.relay),
            }
        }
        self.wall.seen.extend(relays.iter().map(|entry| entry.relay));
        if let Some(last) = relays.last().filter(|_| more) {
            return self.list(Some(last.relay));
        }
        // One that went unheard comes back with other addresses, and the reply ends its call.
        let seen = std::mem::take(&mut self.wall.seen);
        self.wall.released.clear();
        self.wall.orphans.retain(|relay, _| seen.contains(relay));
        self.await_orphans();
        for key in
            self.relays.iter().filter(|(relay, _)| !seen.contains(relay)).map(|(_, key)| *key).collect::<Vec<_>>()
        {
            let relay = self.calls.get(&key).and_then(|call| call.relay.as_ref());
            if relay.is_some_and(|relay| relay.is_inherited) {
                // Its ports and keys are gone, and a browser cannot follow to others (R7).
                self.finish(key, CallEnd::RelayLost);
                continue;
            }
            let relay = self.calls.get(&key).and_then(|call| call.relay.as_ref());
            if relay.is_some_and(|relay| relay.addresses.is_some() && relay.pending.is_none()) {
                self.put(key, Purpose::Again);
            }
        }
    }

    /// A relay of a former control's that is one of ours: the program of the journal is put again, which gives its addresses.
    fn take_over(&mut self, key: CallKey, entry: &ListEntry) {
        let Some(relay) = self.calls.get_mut(&key).and_then(|call| call.relay.as_mut()) else { return };
        if !relay.is_inherited || relay.pending.as_ref().is_some_and(|(request, _)| request.is_some()) {
            return;
        }
        if entry.generation > relay.generation {
            // Its last program did not come to the journal.
            relay.generation = Generation(entry.generation.0 + 1);
        }
        self.put(key, Purpose::Again);
    }

    /// A relay that nobody owns: rubbish, unless a former control made it and lost the line about it. That one has its grace, because
    /// people may be talking over it.
    fn judge_orphan(&mut self, relay: RelayId) {
        let is_former = self.wall.epoch.is_some_and(|epoch| relay.epoch() < epoch);
        if is_former && !self.wall.released.contains(&relay) {
            let until = self.now + self.config.orphan_grace;
            let known = self.wall.orphans.insert(relay, until);
            if let Some(known) = known {
                self.wall.orphans.insert(relay, known);
            } else {
                tracing::warn!(%relay, "a relay that the journal does not know: it ends after its grace");
            }
            return;
        }
        tracing::info!(%relay, "deleting a relay that nobody owns");
        self.delete(relay);
    }

    fn await_orphans(&mut self) {
        match self.wall.orphans.values().min() {
            Some(first) => self.timers.set(Timer::Orphans, *first),
            None => self.timers.clear(Timer::Orphans),
        }
    }

    /// Relays that nobody owns have had their grace. With the wall down the next `List` finds them.
    pub(super) fn end_orphans(&mut self) {
        let due = self.wall.orphans.iter().filter(|(_, until)| **until <= self.now).map(|(relay, _)| *relay);
        for relay in due.collect::<Vec<_>>() {
            self.wall.orphans.remove(&relay);
            self.release(relay);
        }
        self.await_orphans();
    }

    /// Gives a relay back. With the wall down the `List` after it comes back finds what nobody owns.
    pub(super) fn release(&mut self, relay: RelayId) {
        if self.wall.is_up() {
            self.delete(relay);
        } else {
            self.wall.released.insert(relay);
        }
    }

    fn delete(&mut self, relay: RelayId) {
        let id = self.next_request_id();
        self.outputs.push_back(Output::Relay { id, request: Request::Delete { relay } });
    }

    pub(super) fn next_request_id(&mut self) -> RelayRequestId {
        self.next_request += 1;
        RelayRequestId(self.next_request)
    }

    /// An id for an action that no control before us has given: a dataplane does once what has one id.
    pub(super) fn action_id(&self, request: RelayRequestId) -> u64 {
        u64::from(self.wall.epoch.unwrap_or_default()) << 32 | request.0 & u64::from(u32::MAX)
    }

    /// A new relay's id; none while the wall is down.
    pub(super) fn mint_relay(&mut self) -> Option<RelayId> {
        let epoch = self.wall.epoch?;
        self.wall.minted += 1;
        Some(RelayId::new(self.config.node, epoch, self.wall.minted))
    }
}
