//! The client side: what becomes of the requests that we sent.

use std::net::SocketAddr;

use gangway_shared::time::Time;

use super::{AccountId, ClientId, Due, Entry, SendError, Transmit, Ua, UaEvent, streams::Fit};
use crate::sip::{
    dialog::{Dialog, DialogId, DialogState, MAX_FORWARDS, Target},
    digest::Attempts,
    message::{HeaderName, Headers, Method, Request, Response},
    transaction::{
        ByMethod, Expiry, Transaction,
        client::{Client, Verdict},
        client_invite::{ClientInvite, Verdict as InviteVerdict},
        key::ClientKey,
    },
};

/// The most dialogs that one INVITE may make.
const MAX_FORKS: usize = 16;

/// Which machine runs a client transaction.
pub(super) type Machine = ByMethod<ClientInvite, Client>;

impl Machine {
    /// Nothing was heard from the peer.
    pub(super) fn is_silent(&self) -> bool {
        match self {
            Machine::Invite(machine) => machine.is_calling(),
            Machine::Other(machine) => machine.is_trying(),
        }
    }
}

/// On whose behalf a request was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The owner's: its outcome is an event.
    Owner,
    /// The agent's own BYE or CANCEL: nobody waits for it.
    Agent,
}

/// What became of a request that was asked for credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    /// It was sent again with them.
    Sent,
    /// They may not be shown, were refused, or there is no room for another transaction: the challenge is its end.
    Not,
    /// They make it too long.
    TooLong,
}

/// How far a wish to give up an INVITE has come.
pub(super) enum Cancelling {
    No,
    /// Waits for a provisional answer.
    Wanted(Headers),
    Sent,
}

/// One client transaction.
pub(super) struct ClientTx {
    pub(super) client: ClientId,
    pub(super) key: ClientKey,
    pub(super) machine: Machine,
    /// As sent, Via included.
    pub(super) request: Request,
    pub(super) bytes: Vec<u8>,
    pub(super) target: Target,
    /// The dialog it was sent in.
    pub(super) dialog: Option<DialogId>,
    pub(super) account: Option<AccountId>,
    pub(super) attempts: Attempts,
    pub(super) purpose: Purpose,
    pub(super) cancelling: Cancelling,
    /// When a request without final answer is given up before its machine does: a cancelled INVITE (RFC 3261 section 9.1), or another
    /// request whose owner wants it so.
    pub(super) give_up: Option<Time>,
    /// The outcome is known to the owner, or a digest retry took over.
    pub(super) reported: bool,
    /// Dialogs that answers to this INVITE made.
    pub(super) forks: Vec<DialogId>,
    /// The ACK of each 2xx, and under no dialog that of a 300-699: sent again with each repeat. A dialog that is here was answered;
    /// without a message, where no ACK can be sent.
    pub(super) acks: Vec<(Option<DialogId>, Option<Transmit>)>,
    /// Where to send it by UDP after all, when the stream that its length called for fails.
    pub(super) datagram_target: Option<Target>,
    /// When it goes there although the stream stands: something took the connection and nobody behind it answers.
    pub(super) stream_silent_at: Option<Time>,
    /// What may be done about its length.
    pub(super) fit: Fit,
    pub(super) armed: Option<Time>,
}

impl ClientTx {
    /// Where requests of a dialog that this one makes go at first. What took a stream for its length alone says nothing about them.
    fn dialog_target(&self) -> Target {
        self.datagram_target.unwrap_or(self.target)
    }

    /// A 2xx made or confirmed this dialog.
    fn has_answered(&self, dialog: &DialogId) -> bool {
        self.acks.iter().any(|(of, _)| of.as_ref() == Some(dialog))
    }
}

impl Ua {
    pub(super) fn handle_response(&mut self, now: Time, response: &Response) {
        let key = ClientKey::of_response(response).ok();
        let id = key.and_then(|key| self.client_keys.get(&key).copied());
        let Some((id, tx)) = id.and_then(|id| Some((id, self.clients.get_mut(&id)?))) else {
            self.counters.stray_responses += 1;
            self.acknowledge_late(response);
            return;
        };
        // RFC 3261 section 8.1.3.3: more Vias than ours were not meant for us. A wrong From tag is a forgery or a bug.
        let ours = response.headers.values(&HeaderName::Via).count() == 1
            && tx.request.headers.call_id().ok() == response.headers.call_id().ok()
            && same_tag(&tx.request, response);
        if !ours {
            self.counters.stray_responses += 1;
            return;
        }
        let status = response.status;
        tx.stream_silent_at = None;
        match &mut tx.machine {
            Machine::Invite(machine) => match machine.handle_response(now, status) {
                InviteVerdict::Deliver if status.is_provisional() => self.progress(now, id, response),
                InviteVerdict::Deliver => self.succeed(now, id, response),
                InviteVerdict::DeliverAndAck => {
                    self.acknowledge_failure(id, response);
                    self.finish(now, id, response);
                }
                InviteVerdict::Ack => self.repeat_ack(id, None),
                InviteVerdict::Absorb => self.counters.response_repeats_received += 1,
            },
            Machine::Other(machine) => match machine.handle_response(now, status) {
                Verdict::Deliver if status.is_final() => self.finish(now, id, response),
                Verdict::Deliver => {}
                Verdict::Absorb => self.counters.response_repeats_received += 1,
            },
        }
        self.settle_client(id);
    }

    /// Ends or re-arms a transaction after something happened to it.
    pub(super) fn settle_client(&mut self, id: u64) {
        let Some(tx) = self.clients.get(&id) else { return };
        if tx.request.method == Method::Invite {
            // It may be one that waits no more.
            self.current.touch(&tx.client);
        }
        if tx.machine.is_terminated() {
            self.drop_client(id);
            return;
        }
        let due = tx.machine.poll_timeout().into_iter().chain(tx.give_up).chain(tx.stream_silent_at).min();
        let mut armed = tx.armed;
        self.rearm(Due::Client(id), &mut armed, due);
        if let Some(tx) = self.clients.get_mut(&id) {
            tx.armed = armed;
        }
    }

    fn drop_client(&mut self, id: u64) {
        // Its owner waits for one event; nothing came that was one.
        if let Some(tx) = self.clients.get(&id) {
            let (client, dialog) = (tx.client, tx.dialog.clone());
            self.report(id, UaEvent::TimedOut { client, dialog });
        }
        let Some(mut tx) = self.clients.remove(&id) else { return };
        self.rearm(Due::Client(id), &mut tx.armed, None);
        self.client_keys.remove(&tx.key);
        if self.current.get(&tx.client) == Some(&id) {
            self.current.remove(&tx.client);
        }
        self.drop_early(&tx.forks);
        self.release_dialog(&tx, id);
    }

    /// A request in a dialog is over: the dialog may send the next INVITE, and ends with its BYE.
    fn release_dialog(&mut self, tx: &ClientTx, id: u64) {
        let Some(dialog) = &tx.dialog else { return };
        let Some(entry) = self.dialogs.get_mut(dialog) else { return };
        if entry.client_invite == Some(id) {
            entry.client_invite = None;
        }
        let retried = self.current.contains_key(&tx.client);
        if tx.request.method == Method::Bye && !retried {
            self.remove_dialog(&dialog.clone());
        }
    }

    fn drop_early(&mut self, forks: &[DialogId]) {
        for fork in forks {
            if self.dialog(fork).is_some_and(|dialog| dialog.state == DialogState::Early) {
                self.dialogs.remove(fork);
            }
        }
    }

    /// 100-199 to our INVITE.
    fn progress(&mut self, now: Time, id: u64, response: &Response) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        if !matches!(tx.cancelling, Cancelling::No) {
            self.send_wanted_cancel(now, id);
            return;
        }
        if response.status.code() == 100 {
            return;
        }
        let (client, mut dialog) = (tx.client, tx.dialog.clone());
        if dialog.is_none() {
            dialog = self.early_dialog(id, response);
        }
        self.events.push_back(UaEvent::Progress { client, dialog, response: response.clone() });
    }

    /// The early dialog of a provisional answer; made when it is the first of its fork.
    fn early_dialog(&mut self, id: u64, response: &Response) -> Option<DialogId> {
        let tx = self.clients.get_mut(&id)?;
        response.headers.to().ok()?.tag()?;
        let serves = |transport, ip| self.config.serves(transport, ip);
        let mut dialog = Dialog::from_response(&tx.request, response, tx.dialog_target(), serves).ok()?;
        dialog.account = tx.account.map(|account| account.0);
        let dialog_id = dialog.id.clone();
        if !tx.forks.contains(&dialog_id) {
            if tx.forks.len() >= MAX_FORKS {
                self.counters.forks_ignored += 1;
                return None;
            }
            tx.forks.push(dialog_id.clone());
            self.dialogs.insert(dialog_id.clone(), Entry { udp_only: tx.fit.udp_only, ..Entry::new(dialog) });
        } else if response.headers.contact().is_ok()
            && let Some(entry) = self.dialogs.get_mut(&dialog_id)
        {
            entry.dialog.refresh_target(&response.headers, serves);
        }
        Some(dialog_id)
    }

    /// A 2xx to our INVITE: the first one, a repeat, or one of another fork.
    fn succeed(&mut self, now: Time, id: u64, response: &Response) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        tx.give_up = None;
        let (client, cseq) = (tx.client, tx.request.headers.cseq().map_or(0, |cseq| cseq.number));
        if let Some(dialog) = tx.dialog.clone() {
            if self.repeat_ack_of(id, &dialog) {
                return;
            }
            if let Some(entry) = self.dialogs.get_mut(&dialog) {
                entry.client_invite = None;
                entry.dialog.refresh_target(&response.headers, |transport, ip| self.config.serves(transport, ip));
            }
            let event = if self.acknowledge(id, &dialog, cseq) {
                UaEvent::Answered { client, dialog, response: response.clone() }
            } else {
                UaEvent::Unusable { client }
            };
            return self.report(id, event);
        }
        // Before the dialog is looked for: it may be gone again, hung up while our ACK was lost.
        if dialog_id(&response.headers, Side::Caller).is_some_and(|dialog| self.repeat_ack_of(id, &dialog)) {
            return;
        }
        let Some((dialog, is_readable)) = self.confirmed_dialog(id, response) else {
            return self.report(id, UaEvent::Unusable { client });
        };
        let is_acknowledged = self.acknowledge(id, &dialog, cseq);
        let Some(tx) = self.clients.get(&id) else { return };
        let outcome = if tx.reported {
            None
        } else if !matches!(tx.cancelling, Cancelling::No) {
            Some(UaEvent::CrossedCancel { client })
        } else if !is_readable || !is_acknowledged {
            Some(UaEvent::Unusable { client })
        } else {
            return self.report(id, UaEvent::Answered { client, dialog, response: response.clone() });
        };
        self.send_own_bye(now, &dialog);
        match outcome {
            Some(outcome) => self.report(id, outcome),
            None => self.events.push_back(UaEvent::ForkEnded { client, dialog }),
        }
    }

    /// The dialog that a 2xx confirms; made when no provisional answer did. False when its route set cannot be read: then it is good
    /// for an ACK and a BYE straight to its Contact, and no more.
    ///
    /// Among the forks it takes the place of an early one when there are too many. `None` when all of those have answered.
    fn confirmed_dialog(&mut self, id: u64, response: &Response) -> Option<(DialogId, bool)> {
        let serves = |transport, ip| self.config.serves(transport, ip);
        let tx = self.clients.get_mut(&id)?;
        let make = |response: &Response| Dialog::from_response(&tx.request, response, tx.dialog_target(), serves);
        let read = make(response);
        let is_readable = read.is_ok();
        let mut dialog = read
            .or_else(|_| {
                let mut bare = response.clone();
                bare.headers.remove(&HeaderName::RecordRoute);
                make(&bare)
            })
            .ok()?;
        dialog.account = tx.account.map(|account| account.0);
        let dialog_id = dialog.id.clone();
        if !tx.forks.contains(&dialog_id) {
            if tx.forks.len() >= MAX_FORKS {
                self.counters.forks_ignored += 1;
                let early = tx.forks.iter().position(|fork| !tx.has_answered(fork))?;
                self.dialogs.remove(&tx.forks.remove(early));
            }
            tx.forks.push(dialog_id.clone());
        }
        match self.dialogs.get_mut(&dialog_id) {
            Some(entry) => entry.dialog.confirm(response, serves),
            None => {
                self.dialogs.insert(dialog_id.clone(), Entry { udp_only: tx.fit.udp_only, ..Entry::new(dialog) });
            }
        }
        Some((dialog_id, is_readable))
    }

    /// A final answer that ends a request: 300-699 to INVITE, anything to others. Challenges are answered here.
    fn finish(&mut self, now: Time, id: u64, response: &Response) {
        let is_challenge = matches!(response.status.code(), 401 | 407);
        let retry = if is_challenge { self.answer_challenge(now, id, response) } else { Retry::Not };
        if retry == Retry::Sent {
            return;
        }
        let Some(tx) = self.clients.get_mut(&id) else { return };
        tx.give_up = None;
        let (client, dialog) = (tx.client, tx.dialog.clone());
        let forks = std::mem::take(&mut tx.forks);
        self.drop_early(&forks);
        self.free_dialog(id);
        let event = match retry {
            Retry::TooLong => UaEvent::TooLong { client, dialog },
            Retry::Sent | Retry::Not => UaEvent::Finished { client, dialog, response: response.clone() },
        };
        self.report(id, event);
    }

    /// Lets go of the dialog at the final answer already, not only when the transaction has died down.
    fn free_dialog(&mut self, id: u64) {
        if let Some(tx) = self.clients.remove(&id) {
            if tx.request.method == Method::Bye {
                self.current.remove(&tx.client);
            }
            self.release_dialog(&tx, id);
            self.clients.insert(id, tx);
        }
    }

    /// Sends the request again with credentials, when they may be shown; the new transaction keeps the owner's id.
    fn answer_challenge(&mut self, now: Time, id: u64, response: &Response) -> Retry {
        let Some(tx) = self.clients.get_mut(&id) else { return Retry::Not };
        if !matches!(tx.cancelling, Cancelling::No) || tx.request.method == Method::Cancel {
            return Retry::Not;
        }
        let Some(account) = tx.account.and_then(|account| self.accounts.get_mut(&account)) else {
            return Retry::Not;
        };
        let mut attempts = tx.attempts;
        let answer = account.answer(&mut attempts, &tx.request, response, tx.target.remote, self.entropy.as_mut());
        let Ok(credentials) = answer else {
            self.counters.challenges_refused += 1;
            return Retry::Not;
        };
        let mut request = tx.request.clone();
        for (name, _) in &credentials {
            request.headers.remove(name);
        }
        for (name, value) in credentials {
            request.headers.push(name, value);
        }
        let (client, target, dialog, owner) = (tx.client, tx.target, tx.dialog.clone(), tx.account);
        let (purpose, datagram_target, give_up) = (tx.purpose, tx.datagram_target, tx.give_up.take());
        let fit = tx.fit.clone();
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        let entry = dialog.as_ref().and_then(|dialog| self.dialogs.get_mut(dialog));
        let cseq = match entry {
            Some(entry) => {
                entry.dialog.local_cseq = entry.dialog.local_cseq.max(cseq).saturating_add(1);
                entry.dialog.local_cseq
            }
            None => cseq.saturating_add(1),
        };
        request.headers.set(HeaderName::CSeq, format!("{cseq} {}", request.method));
        request.headers.remove(&HeaderName::Via);
        // Where the length called for a stream, that of the request with credentials decides anew.
        let target = datagram_target.unwrap_or(target);
        let launched = self.launch(now, client, (request, fit), target, |tx| {
            (tx.dialog, tx.account, tx.purpose) = (dialog, owner, purpose);
            (tx.attempts, tx.give_up) = (attempts, give_up);
        });
        let next = match launched {
            Ok(next) => next,
            Err(SendError::TooLong) => return Retry::TooLong,
            Err(_) => return Retry::Not,
        };
        let Some(tx) = self.clients.get_mut(&id) else { return Retry::Sent };
        tx.reported = true;
        let (dialog, forks) = (tx.dialog.clone(), std::mem::take(&mut tx.forks));
        self.drop_early(&forks);
        let entry = dialog.and_then(|dialog| self.dialogs.get_mut(&dialog));
        if let Some(entry) = entry.filter(|entry| entry.client_invite == Some(id)) {
            entry.client_invite = Some(next);
        }
        Retry::Sent
    }

    /// Tells the owner the outcome, once.
    pub(super) fn report(&mut self, id: u64, event: UaEvent) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        if !std::mem::replace(&mut tx.reported, true) && tx.purpose == Purpose::Owner {
            self.events.push_back(event);
        }
    }

    pub(super) fn expire_client(&mut self, now: Time, id: u64) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        tx.armed = None;
        // A call that its owner gave up is not made a second time.
        let is_silent = tx.stream_silent_at.take_if(|at| *at <= now).is_some();
        if is_silent && matches!(tx.cancelling, Cancelling::No) {
            return self.fail_transport(now, id);
        }
        let mut timed_out = tx.give_up.is_some_and(|give_up| give_up <= now);
        let mut repeat = false;
        while let Some(expiry) = tx.machine.handle_timeout(now) {
            match expiry {
                Expiry::Retransmit => repeat = true,
                Expiry::TimedOut => timed_out = true,
                Expiry::Terminated => {}
            }
        }
        if timed_out {
            self.drop_client(id);
            return;
        }
        if repeat {
            let transmit = transmit(tx.target, tx.bytes.clone());
            self.transmits.push_back(transmit);
            self.counters.request_repeats_sent += 1;
        }
        self.settle_client(id);
    }

    /// The transport, or the patience with it, gave up on a request that has heard nothing. One that was too long for a datagram goes as a datagram after all.
    pub(super) fn fail_transport(&mut self, now: Time, id: u64) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        let (client, dialog) = (tx.client, tx.dialog.clone());
        let mut event = UaEvent::TransportFailed { client, dialog: dialog.clone() };
        if let Some(target) = tx.datagram_target.take() {
            self.no_streams.note(now + self.config.stream_retry, target.remote);
            self.long_requests.tcp_failed += 1;
            let Some(tx) = self.clients.get_mut(&id) else { return };
            let (mut request, fit) = (tx.request.clone(), tx.fit.clone());
            request.headers.remove(&HeaderName::Via);
            let (account, purpose, attempts, give_up) = (tx.account, tx.purpose, tx.attempts, tx.give_up);
            let (cancelling, in_dialog) = (std::mem::replace(&mut tx.cancelling, Cancelling::No), dialog.clone());
            let launched = self.launch(now, client, (request, fit), target, |tx| {
                (tx.dialog, tx.account, tx.purpose, tx.attempts) = (in_dialog, account, purpose, attempts);
                (tx.cancelling, tx.give_up) = (cancelling, give_up);
            });
            if launched == Err(SendError::TooLong) {
                event = UaEvent::TooLong { client, dialog: dialog.clone() };
            }
            if let Ok(next) = launched {
                let entry = dialog.as_ref().and_then(|dialog| self.dialogs.get_mut(dialog));
                if let Some(entry) = entry.filter(|entry| entry.client_invite == Some(id)) {
                    entry.client_invite = Some(next);
                }
                if let Some(tx) = self.clients.get_mut(&id) {
                    tx.reported = true;
                }
                self.drop_client(id);
                return;
            }
        }
        self.report(id, event);
        self.drop_client(id);
    }

    /// ACK for a 300-699, RFC 3261 section 17.1.1.3: hop by hop, on the INVITE's own branch.
    fn acknowledge_failure(&mut self, id: u64, response: &Response) {
        let Some(tx) = self.clients.get_mut(&id) else { return };
        let mut ack = Request::new(Method::Ack, tx.request.uri.clone());
        let number = tx.request.headers.cseq().map_or(0, |cseq| cseq.number);
        ack.headers.push(HeaderName::Via, tx.request.headers.value(&HeaderName::Via).unwrap_or_default());
        for route in tx.request.headers.values(&HeaderName::Route) {
            ack.headers.push(HeaderName::Route, route);
        }
        ack.headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
        ack.headers.push(HeaderName::From, tx.request.headers.value(&HeaderName::From).unwrap_or_default());
        ack.headers.push(HeaderName::To, response.headers.value(&HeaderName::To).unwrap_or_default());
        ack.headers.push(HeaderName::CallId, tx.request.headers.value(&HeaderName::CallId).unwrap_or_default());
        ack.headers.push(HeaderName::CSeq, format!("{number} ACK"));
        let transmit = transmit(tx.target, ack.to_bytes());
        tx.acks.push((None, Some(transmit.clone())));
        self.transmits.push_back(transmit);
    }

    /// ACK for a 2xx: a request of its own in the dialog, with the INVITE's credentials (RFC 3261 section 13.2.2.4). False when none
    /// can be sent: the dialog is gone, or we have no address for where it leads.
    fn acknowledge(&mut self, id: u64, dialog: &DialogId, cseq: u32) -> bool {
        let ack = self.ack_of(id, dialog, cseq);
        let is_sent = ack.is_some();
        if let Some(tx) = self.clients.get_mut(&id) {
            tx.acks.push((Some(dialog.clone()), ack.clone()));
        }
        self.transmits.extend(ack);
        is_sent
    }

    fn ack_of(&mut self, id: u64, dialog: &DialogId, cseq: u32) -> Option<Transmit> {
        let (entry, tx) = (self.dialogs.get(dialog)?, self.clients.get(&id)?);
        let mut ack = entry.dialog.ack(cseq);
        let destination = entry.dialog.destination;
        if self.may_show_credentials(tx.account, destination.remote) {
            for name in [HeaderName::Authorization, HeaderName::ProxyAuthorization] {
                for value in tx.request.headers.values(&name) {
                    ack.headers.push(name.clone(), value);
                }
            }
        }
        self.stamped(ack, destination)
    }

    fn may_show_credentials(&self, account: Option<AccountId>, remote: SocketAddr) -> bool {
        account.and_then(|account| self.accounts.get(&account)).is_some_and(|client| client.may_answer(remote))
    }

    fn repeat_ack_of(&mut self, id: u64, dialog: &DialogId) -> bool {
        let known = self.clients.get(&id).is_some_and(|tx| tx.has_answered(dialog));
        if known {
            self.repeat_ack(id, Some(dialog));
        }
        known
    }

    fn repeat_ack(&mut self, id: u64, dialog: Option<&DialogId>) {
        self.counters.response_repeats_received += 1;
        let acks = self.clients.get(&id).into_iter().flat_map(|tx| &tx.acks);
        let again: Vec<Transmit> =
            acks.filter(|(of, _)| of.as_ref() == dialog).filter_map(|(_, transmit)| transmit.clone()).collect();
        self.transmits.extend(again);
    }

    /// A 2xx whose INVITE is forgotten but whose dialog lives, as after a restart: its ACK was lost.
    fn acknowledge_late(&mut self, response: &Response) {
        let Ok(cseq) = response.headers.cseq() else { return };
        if cseq.method != Method::Invite || !response.status.is_success() {
            return;
        }
        let Some(id) = dialog_id(&response.headers, Side::Caller) else { return };
        let Some(entry) = self.dialogs.get(&id).filter(|entry| entry.dialog.state != DialogState::Early) else {
            return;
        };
        let (ack, destination) = (entry.dialog.ack(cseq.number), entry.dialog.destination);
        let transmit = self.stamped(ack, destination);
        self.transmits.extend(transmit);
    }
}

/// Who wrote a message with From and To.
pub(super) enum Side {
    /// We did, or it answers ours: From is ours.
    Caller,
    /// The peer did: To is ours.
    Callee,
}

/// The dialog that the tags of a message name.
pub(super) fn dialog_id(headers: &Headers, side: Side) -> Option<DialogId> {
    let tag = |address: crate::sip::uri::NameAddr| address.tag().unwrap_or_default().to_owned();
    let (from, to) = (tag(headers.from().ok()?), tag(headers.to().ok()?));
    let (local_tag, remote_tag) = match side {
        Side::Caller => (from, to),
        Side::Callee => (to, from),
    };
    Some(DialogId { call_id: headers.call_id().ok()?.to_owned(), local_tag, remote_tag })
}

fn same_tag(request: &Request, response: &Response) -> bool {
    match (request.headers.from(), response.headers.from()) {
        (Ok(sent), Ok(returned)) => sent.tag() == returned.tag(),
        _ => false,
    }
}

pub(super) const fn transmit(target: Target, bytes: Vec<u8>) -> Transmit {
    Transmit { transport: target.transport, remote: target.remote, flow: target.flow, connect_within: None, bytes }
}
