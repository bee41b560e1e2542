//! The user agent: routes bytes to transactions and dialogs, and back.
//!
//! One mutation (`handle_*`, `send_*`, `respond`, `cancel`), then a full drain: [`Ua::poll_transmit`] and [`Ua::poll_event`] until both
//! give `None`, then sleep until [`Ua::poll_timeout`].
//!
//! What the agent does by itself, so that its owner need not: 100 Trying, ACK for every final answer and its repeats, repeated 2xx until
//! the ACK, digest answers, BYE for a forked second 2xx and for a 2xx that crossed a CANCEL, 487 after CANCEL, 200 to BYE and OPTIONS, and
//! every refusal that needs no opinion (400, 405, 416, 420, 481, 482, 483, 491, 500, 501, 503).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
};

use gangway_shared::{entropy::Entropy, time::Time};

use super::{
    Transport,
    dialog::{Dialog, DialogId, Target},
    digest,
    message::{Headers, Message},
    parser,
    transaction::key::{ClientKey, ServerKey},
    uri::SipUri,
};
use crate::tracked::Tracked;

mod answer;
mod cancel;
mod client;
mod config;
mod event;
mod inbound;
mod outbound;
mod restart;
mod server;
mod streams;

pub use config::{Advertised, Counters, Subnet, UaConfig};
pub use event::{
    AccountId, ClientId, Content, Outgoing, Reply, RespondError, SendError, ServerId, Source, Transmit, UaEvent,
};
pub use restart::{HeldInvite, PendingInvite};

use client::ClientTx;
use server::{MergeKey, ServerTx};
pub use streams::LongRequests;
use streams::NoStreams;

/// A dialog and what is going on in it.
struct Entry {
    dialog: Dialog,
    /// Our INVITE that has no final answer yet.
    client_invite: Option<u64>,
    /// The peer's INVITE that we have not finally answered.
    server_invite: Option<ServerId>,
    /// The peer's INVITE whose 2xx is repeated until the ACK.
    unacked: Option<ServerId>,
    /// A BYE that waits for that ACK (RFC 3261 section 15).
    deferred_bye: Option<(ClientId, Headers)>,
    /// No stream carries its long requests.
    udp_only: bool,
}

impl Entry {
    const fn new(dialog: Dialog) -> Self {
        Entry { dialog, client_invite: None, server_invite: None, unacked: None, deferred_bye: None, udp_only: false }
    }
}

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Client(u64),
    Server(ServerId),
}

/// The user agent.
pub struct Ua {
    config: UaConfig,
    entropy: Box<dyn Entropy + Send>,
    accounts: BTreeMap<AccountId, digest::Client>,
    /// How many accounts have this address as a target.
    known_peers: BTreeMap<SocketAddr, usize>,
    dialogs: Tracked<DialogId, Entry>,
    clients: BTreeMap<u64, ClientTx>,
    client_keys: BTreeMap<ClientKey, u64>,
    /// The living transaction of a request: a digest retry takes the place of the first.
    current: Tracked<ClientId, u64>,
    servers: BTreeMap<ServerId, ServerTx>,
    server_keys: BTreeMap<ServerKey, ServerId>,
    merge_keys: BTreeMap<MergeKey, ServerId>,
    /// How many of `servers` belong to strangers.
    strangers: usize,
    no_streams: NoStreams,
    long_requests: LongRequests,
    deadlines: BTreeSet<(Time, Due)>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<UaEvent>,
    counters: Counters,
    next_id: u64,
    draining: bool,
}

impl Ua {
    /// An agent with no dialogs. `entropy` makes tags, branches, Call-IDs and cnonces.
    #[must_use]
    pub fn new(config: UaConfig, entropy: Box<dyn Entropy + Send>) -> Self {
        Ua {
            config,
            entropy,
            accounts: BTreeMap::new(),
            known_peers: BTreeMap::new(),
            dialogs: Tracked::default(),
            clients: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            current: Tracked::default(),
            servers: BTreeMap::new(),
            server_keys: BTreeMap::new(),
            merge_keys: BTreeMap::new(),
            strangers: 0,
            no_streams: NoStreams::default(),
            long_requests: LongRequests::default(),
            deadlines: BTreeSet::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            next_id: 0,
            draining: false,
        }
    }

    /// A message arrived: a whole datagram, or one message cut from a stream by [`super::parser::frame`].
    pub fn handle_message(&mut self, now: Time, source: Source, bytes: &[u8]) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            // Keep-alives: CRLF of RFC 5626, and the zero bytes that some phones send.
            return;
        }
        match parser::parse(bytes) {
            Ok(Message::Request(request)) => self.handle_request(now, source, request, bytes.len()),
            Ok(Message::Response(response)) => self.handle_response(now, &response),
            Err(error) => {
                self.counters.malformed += 1;
                self.refuse_malformed(source, bytes, &error);
            }
        }
    }

    /// A transmit could not be delivered, a connection broke or could not be made: requests that have heard nothing from there fail.
    pub fn handle_transport_error(&mut self, now: Time, transport: Transport, remote: SocketAddr, flow: Option<u64>) {
        let same_way = |target: &Target| {
            target.transport == transport && (target.remote == remote || (flow.is_some() && target.flow == flow))
        };
        let hit = self.clients.iter().filter(|(_, tx)| same_way(&tx.target) && tx.machine.is_silent());
        let hit: Vec<u64> = hit.map(|(id, _)| *id).collect();
        for id in hit {
            self.fail_transport(now, id);
        }
    }

    /// Runs every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Time) {
        while let Some((due, whose)) = self.deadlines.first().copied().filter(|(due, _)| *due <= now) {
            self.deadlines.remove(&(due, whose));
            match whose {
                Due::Client(id) => self.expire_client(now, id),
                Due::Server(id) => self.expire_server(now, id),
            }
        }
    }

    /// When [`Ua::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<UaEvent> {
        self.events.pop_front()
    }

    /// Keeps or replaces an account's credentials. Its targets count as known peers.
    pub fn put_account(&mut self, id: AccountId, account: digest::Account) {
        for target in &account.targets {
            *self.known_peers.entry(*target).or_default() += 1;
        }
        let before = match self.accounts.get_mut(&id) {
            Some(client) => {
                let before = client.account().targets.clone();
                client.replace_account(account);
                before
            }
            None => {
                self.accounts.insert(id, digest::Client::new(account));
                Vec::new()
            }
        };
        self.forget_peers(&before);
    }

    /// Forgets an account's credentials. Dialogs that use it stay, unanswered challenges fail.
    pub fn remove_account(&mut self, id: AccountId) {
        if let Some(client) = self.accounts.remove(&id) {
            self.forget_peers(&client.account().targets);
        }
    }

    fn forget_peers(&mut self, targets: &[SocketAddr]) {
        for target in targets {
            if let Some(count) = self.known_peers.get_mut(target) {
                *count -= 1;
                if *count == 0 {
                    self.known_peers.remove(target);
                }
            }
        }
    }

    /// Refuses new work: requests outside of dialogs get 503 with Retry-After, OPTIONS among them.
    pub const fn set_draining(&mut self, draining: bool) {
        self.draining = draining;
    }

    /// A dialog, for the journal.
    #[must_use]
    pub fn dialog(&self, id: &DialogId) -> Option<&Dialog> {
        self.dialogs.get(id).map(|entry| &entry.dialog)
    }

    /// Every dialog, in the order of their ids.
    pub fn dialogs(&self) -> impl Iterator<Item = &Dialog> {
        self.dialogs.values().map(|entry| &entry.dialog)
    }

    /// Sends in-dialog requests to `destination` from now on: the resolved [`Dialog::next_hop`]. False when there is no such dialog.
    pub fn set_destination(&mut self, id: &DialogId, destination: Target) -> bool {
        self.dialogs.get_mut(id).map(|entry| entry.dialog.destination = destination).is_some()
    }

    /// Forgets a dialog without a word to the peer (after 481 or 408 in it).
    pub fn remove_dialog(&mut self, id: &DialogId) -> Option<Dialog> {
        let entry = self.dialogs.remove(id)?;
        if let Some(tx) = entry.unacked.and_then(|server| self.servers.get_mut(&server)) {
            tx.repeat = None;
        }
        Some(entry.dialog)
    }

    /// The Contact that a peer at `remote` can reach: `sip:user@advertised;transport=..`. `None` without a local address.
    #[must_use]
    pub fn contact(&self, user: &str, transport: Transport, remote: SocketAddr) -> Option<SipUri> {
        let ours = self.config.advertised_to(transport, remote.ip())?;
        let mut uri = SipUri::new((!user.is_empty()).then_some(user), ours.host.clone(), Some(ours.port));
        if transport != Transport::Udp {
            uri.params.set("transport", Some(transport.as_param().to_owned()));
        }
        Some(uri)
    }

    /// Whether we have an address to send from to this target.
    #[must_use]
    pub fn reaches(&self, target: Target) -> bool {
        self.config.serves(target.transport, target.remote.ip())
    }

    /// What was dropped, refused and repeated so far.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many transactions are alive, both directions: zero when nothing is going on.
    #[must_use]
    pub fn transactions(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A tag: 64 random bits, far more than the 32 of RFC 3261 section 19.3, because knowing it proves to have seen our messages.
    fn fresh_tag(&mut self) -> String {
        self.entropy.hex(8)
    }

    /// Moves a deadline in the index. `armed` is what the owner last put there.
    fn rearm(&mut self, whose: Due, armed: &mut Option<Time>, due: Option<Time>) {
        if let Some(before) = armed.take() {
            self.deadlines.remove(&(before, whose));
        }
        if let Some(due) = due {
            self.deadlines.insert((due, whose));
        }
        *armed = due;
    }
}

#[cfg(test)]
mod tests;
