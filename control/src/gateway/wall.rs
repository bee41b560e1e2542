//! The wall as the core sees it: up or down, relay ids, and who owns what after it comes back.

use std::collections::BTreeSet;

use gangway_shared::{
    ids::RelayId,
    rcp::{ListEntry, RelayError, Reply, Request},
};

use super::{
    Gateway,
    call::{CallKey, Purpose},
    effects::{Output, RelayRequestId},
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
        for call in self.calls.values_mut() {
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
        for entry in relays.iter().filter(|entry| !self.relays.contains_key(&entry.relay)).collect::<Vec<_>>() {
            tracing::info!(relay = %entry.relay, "deleting a relay that nobody owns");
            let id = self.next_request_id();
            self.outputs.push_back(Output::Relay { id, request: Request::Delete { relay: entry.relay } });
        }
        self.wall.seen.extend(relays.iter().map(|entry| entry.relay));
        if let Some(last) = relays.last().filter(|_| more) {
            return self.list(Some(last.relay));
        }
        // One that went unheard comes back with other addresses, and the reply ends its call.
        let seen = std::mem::take(&mut self.wall.seen);
        for key in
            self.relays.iter().filter(|(relay, _)| !seen.contains(relay)).map(|(_, key)| *key).collect::<Vec<_>>()
        {
            let relay = self.calls.get(&key).and_then(|call| call.relay.as_ref());
            if relay.is_some_and(|relay| relay.addresses.is_some() && relay.pending.is_none()) {
                self.put(key, Purpose::Again);
            }
        }
    }

    pub(super) fn next_request_id(&mut self) -> RelayRequestId {
        self.next_request += 1;
        RelayRequestId(self.next_request)
    }

    /// A new relay's id; none while the wall is down.
    pub(super) fn mint_relay(&mut self) -> Option<RelayId> {
        let epoch = self.wall.epoch?;
        self.wall.minted += 1;
        Some(RelayId::new(self.config.node, epoch, self.wall.minted))
    }
}
