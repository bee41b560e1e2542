//! The server side: transactions of requests that we received, their timers, and the 2xx that is repeated until its ACK.

use gangway_shared::time::Time;

use super::{Due, Headers, ServerId, Source, Transmit, Ua, UaEvent};
use crate::sip::{
    dialog::{Dialog, DialogId, Target},
    message::{HeaderName, Method, Request, Response, Status},
    transaction::{
        Backoff, ByMethod, Expiry, Transaction, key::ServerKey, server::Server, server_invite::ServerInvite,
    },
};

/// One part in so many of the table is kept for requests of ours and for those within dialogs.
const OWN_SHARE: usize = 8;

/// What we know of who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It names both tags of a living dialog.
    InDialog,
    /// An account's target or a trusted range, or it belongs to a request of somebody who has proven to be no stranger.
    Known,
    /// Anybody else, over streams too.
    Stranger,
}

/// What makes two requests outside of dialogs the same one that came twice (RFC 3261 section 8.2.2.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MergeKey {
    pub(super) call_id: String,
    pub(super) from_tag: String,
    pub(super) cseq: u32,
    pub(super) method: Method,
    /// Each session has a Contact of its own and is a user agent of its own: a proxy that forks to two of them sends two
    /// requests that are not one merged one.
    pub(super) target: String,
}

/// Which machine runs a server transaction.
pub(super) type Machine = ByMethod<ServerInvite, Server>;

impl Machine {
    pub(super) fn handle_answer(&mut self, now: Time, status: Status) -> bool {
        match self {
            Machine::Invite(machine) => machine.handle_answer(now, status),
            Machine::Other(machine) => machine.handle_answer(now, status),
        }
    }

    fn repeats_answer(&self) -> bool {
        match self {
            Machine::Invite(machine) => machine.repeats_answer(),
            Machine::Other(machine) => machine.repeats_answer(),
        }
    }
}

/// A 2xx that is repeated until its ACK, RFC 3261 section 13.3.1.4: over every transport.
pub(super) struct Repeat {
    backoff: Backoff,
    give_up: Time,
}

/// One server transaction.
pub(super) struct ServerTx {
    pub(super) key: ServerKey,
    pub(super) merge_key: Option<MergeKey>,
    pub(super) machine: Machine,
    /// As received, `received` and `rport` noted in its top Via.
    pub(super) request: Request,
    /// How long it was on the wire, in bytes.
    pub(super) request_len_bytes: usize,
    /// Where requests of the dialog go back to.
    pub(super) peer: Target,
    /// Where answers go.
    pub(super) reply_to: Target,
    /// Its source is who it says: answers may be long and repeated.
    pub(super) verified: bool,
    /// It takes of the room for strangers: its source is no known peer and has proven nothing.
    pub(super) stranger: bool,
    /// Our tag in every answer.
    pub(super) tag: String,
    /// The dialog it arrived in or made.
    pub(super) dialog: Option<DialogId>,
    /// It arrived in a dialog.
    pub(super) in_dialog: bool,
    pub(super) last_answer: Option<Vec<u8>>,
    pub(super) repeat: Option<Repeat>,
    pub(super) armed: Option<Time>,
}

impl Ua {
    /// Makes a server transaction. `None` when the table has no room for this source: it got a stateless 503. `standing` says what
    /// may be had: a dialog may use the whole table, others leave room for requests of ours, strangers have a share.
    pub(super) fn open_server(
        &mut self,
        key: ServerKey,
        request: Request,
        source: Source,
        request_len_bytes: usize,
        standing: Standing,
    ) -> Option<ServerId> {
        let verified = standing != Standing::Stranger || source.transport.is_reliable();
        let stranger = standing == Standing::Stranger;
        let max = self.config.max_transactions;
        let reserved = if standing == Standing::InDialog { 0 } else { max / OWN_SHARE };
        let full = self.transactions() + reserved >= max
            || (stranger && self.strangers >= self.config.max_unverified_transactions);
        if full {
            self.counters.overloaded += 1;
            let retry_after = (HeaderName::RetryAfter, self.config.overload_retry_after_s.to_string());
            self.reply_stateless(source, &request, request_len_bytes, Status::literal(503), None, Some(retry_after));
            return None;
        }
        let reliable = source.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => Machine::Invite(ServerInvite::new(reliable, &self.config.timers)),
            _ => Machine::Other(Server::new(reliable, &self.config.timers)),
        };
        let id = ServerId(self.fresh_id());
        let tag = request.headers.to().ok().and_then(|to| to.tag().map(str::to_owned));
        let tag = tag.unwrap_or_else(|| self.fresh_tag());
        let tx = ServerTx {
            key: key.clone(),
            merge_key: None,
            machine,
            reply_to: reply_target(source, &request),
            request,
            request_len_bytes,
            peer: Target { transport: source.transport, remote: source.remote, flow: source.flow },
            verified,
            stranger,
            tag,
            dialog: None,
            in_dialog: false,
            last_answer: None,
            repeat: None,
            armed: None,
        };
        self.strangers += usize::from(stranger);
        self.server_keys.insert(key, id);
        self.servers.insert(id, tx);
        Some(id)
    }

    /// The source has proven itself: the limits for strangers no longer hold for this request.
    pub(super) fn lift_limits(&mut self, id: ServerId) {
        if let Some(tx) = self.servers.get_mut(&id) {
            tx.verified = true;
            self.strangers -= usize::from(std::mem::take(&mut tx.stranger));
        }
    }

    pub(super) fn settle_server(&mut self, id: ServerId) {
        let Some(tx) = self.servers.get(&id) else { return };
        if tx.machine.is_terminated() && tx.repeat.is_none() {
            self.drop_server(id);
            return;
        }
        let repeat = tx.repeat.as_ref().map(|repeat| repeat.backoff.due().min(repeat.give_up));
        let due = tx.machine.poll_timeout().into_iter().chain(repeat).min();
        let mut armed = tx.armed;
        self.rearm(Due::Server(id), &mut armed, due);
        if let Some(tx) = self.servers.get_mut(&id) {
            tx.armed = armed;
        }
    }

    fn drop_server(&mut self, id: ServerId) {
        let Some(mut tx) = self.servers.remove(&id) else { return };
        self.rearm(Due::Server(id), &mut tx.armed, None);
        self.server_keys.remove(&tx.key);
        if let Some(merge_key) = &tx.merge_key {
            self.merge_keys.remove(merge_key);
        }
        self.strangers -= usize::from(tx.stranger);
    }

    /// A request arrived again, branch and all.
    pub(super) fn repeat_answer(&mut self, id: ServerId) {
        self.counters.request_repeats_received += 1;
        let Some(tx) = self.servers.get(&id) else { return };
        let Some(bytes) = tx.last_answer.clone().filter(|_| tx.machine.repeats_answer()) else { return };
        if !tx.verified {
            self.counters.unverified_silenced += 1;
            return;
        }
        self.transmits.push_back(super::client::transmit(tx.reply_to, bytes));
        self.counters.answer_repeats_sent += 1;
    }

    pub(super) fn expire_server(&mut self, now: Time, id: ServerId) {
        let Some(tx) = self.servers.get_mut(&id) else { return };
        tx.armed = None;
        let mut again = false;
        while let Some(expiry) = tx.machine.handle_timeout(now) {
            again |= expiry == Expiry::Retransmit;
        }
        let mut ack_missing = false;
        if let Some(repeat) = &mut tx.repeat {
            ack_missing = repeat.give_up <= now;
            again |= !ack_missing && repeat.backoff.fire(now);
        }
        if ack_missing {
            tx.repeat = None;
            let dialog = tx.dialog.clone();
            self.give_up_ack(now, id, dialog);
        } else if again {
            let bytes = tx.last_answer.clone();
            let reply_to = tx.reply_to;
            self.transmits.extend(bytes.map(|bytes| super::client::transmit(reply_to, bytes)));
            self.counters.answer_repeats_sent += 1;
        }
        self.settle_server(id);
    }

    /// Starts to repeat a 2xx.
    pub(super) fn repeat_until_ack(&mut self, now: Time, id: ServerId) {
        let timers = self.config.timers;
        if let Some(tx) = self.servers.get_mut(&id) {
            let backoff = Backoff::new(now, timers.t1, timers.t2);
            tx.repeat = Some(Repeat { backoff, give_up: now + timers.h });
        }
    }

    /// No ACK within 64*T1: the dialog is confirmed but the session should be ended (RFC 3261 section 13.3.1.4).
    fn give_up_ack(&mut self, now: Time, server: ServerId, dialog: Option<DialogId>) {
        let Some(dialog) = dialog else { return };
        let Some(entry) = self.dialogs.get_mut(&dialog) else { return };
        entry.unacked = None;
        if entry.deferred_bye.is_some() {
            self.send_deferred_bye(now, &dialog);
        } else {
            self.send_own_bye(now, &dialog);
            self.events.push_back(UaEvent::AckMissing { dialog, server });
        }
    }

    pub(super) fn send_deferred_bye(&mut self, now: Time, dialog: &DialogId) {
        let Some((client, headers)) = self.dialogs.get_mut(dialog).and_then(|entry| entry.deferred_bye.take()) else {
            return;
        };
        let purpose = super::client::Purpose::Owner;
        let sent = self.launch_in_dialog(now, client, dialog, Method::Bye, headers, None, purpose);
        if sent.is_err() {
            self.dialogs.remove(dialog);
            self.events.push_back(UaEvent::TransportFailed { client, dialog: Some(dialog.clone()) });
        }
    }

    /// An ACK that belongs to a 2xx of ours.
    pub(super) fn handle_ack_of_success(&mut self, now: Time, ack: Request) {
        let id = super::client::dialog_id(&ack.headers, super::client::Side::Callee);
        let Some(entry) = id.as_ref().and_then(|id| self.dialogs.get_mut(id)) else {
            self.counters.stray_acks += 1;
            return;
        };
        let dialog = entry.dialog.id.clone();
        let Some(server) = entry.unacked else { return };
        let cseq = |request: &Request| request.headers.cseq().ok().map(|cseq| cseq.number);
        let answered = self.servers.get_mut(&server).filter(|tx| cseq(&tx.request) == cseq(&ack));
        let Some(tx) = answered else {
            self.counters.stray_acks += 1;
            return;
        };
        tx.repeat = None;
        entry.unacked = None;
        let ending = entry.deferred_bye.is_some();
        self.settle_server(server);
        if ending {
            self.send_deferred_bye(now, &dialog);
        } else {
            self.events.push_back(UaEvent::Acked { dialog, server, request: ack });
        }
    }

    /// The dialog that an answer to an INVITE makes, still to be kept.
    pub(super) fn dialog_of_answer(&self, server: ServerId, contact: crate::sip::uri::NameAddr) -> Option<Dialog> {
        let tx = self.servers.get(&server)?;
        let serves = |transport, ip| self.config.serves(transport, ip);
        Dialog::from_request(&tx.request, &tx.tag, contact, tx.peer, serves).ok()
    }
}

/// Where answers to a request go: RFC 3261 section 18.2.2 with RFC 3581 section 4.
pub(super) fn reply_target(source: Source, request: &Request) -> Target {
    let via = request.headers.top_via().ok();
    let port = via.as_ref().and_then(|via| via.port).unwrap_or(source.transport.default_port());
    let mut remote = source.remote;
    // On a stream this is where to connect when the connection is gone; `rport` is for datagrams.
    if source.transport.is_reliable() || !via.is_some_and(|via| via.params.contains("rport")) {
        remote.set_port(port);
    }
    Target { transport: source.transport, remote, flow: source.flow }
}

/// The frame of every answer, RFC 3261 section 8.2.6.2.
pub(super) fn answer_frame(request: &Request, status: Status, tag: Option<&str>) -> Response {
    let mut response = Response::new(status);
    for via in request.headers.values(&HeaderName::Via) {
        response.headers.push(HeaderName::Via, via);
    }
    for name in [HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq] {
        let mut value = request.headers.value(&name).unwrap_or_default().to_owned();
        if name == HeaderName::To
            && let (Some(tag), Ok(to)) = (tag, request.headers.to())
            && to.tag().is_none()
        {
            value = to.with_tag(tag).to_string();
        }
        response.headers.push(name, value);
    }
    response
}

/// What a stranger may get: 1.5 times what it sent (targets of this project, against reflection).
pub(super) const fn fits_stranger(answer_len_bytes: usize, request_len_bytes: usize) -> bool {
    answer_len_bytes <= request_len_bytes + request_len_bytes / 2
}

/// The same answer with nothing that it could do without.
pub(super) fn bare_answer(response: &Response) -> Response {
    let needed = [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq];
    let mut headers = Headers::new();
    for (name, value) in response.headers.iter().filter(|(name, _)| needed.contains(name)) {
        headers.push(name.clone(), value);
    }
    Response { status: response.status, reason: response.status.default_reason().to_owned(), headers, body: Vec::new() }
}

/// Where a stateless answer goes, with the limit for strangers applied.
pub(super) fn stateless(
    target: Target,
    response: &Response,
    request_len_bytes: usize,
    verified: bool,
) -> Option<Transmit> {
    let whole = response.to_bytes();
    let bytes = if verified || fits_stranger(whole.len(), request_len_bytes) {
        whole
    } else {
        Some(bare_answer(response).to_bytes()).filter(|bytes| fits_stranger(bytes.len(), request_len_bytes))?
    };
    Some(super::client::transmit(target, bytes))
}
