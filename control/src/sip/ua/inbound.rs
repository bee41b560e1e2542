//! Requests from peers: to their transaction, to their dialog, or to the owner as something new.

use gangway_shared::time::Time;

use super::{
    ServerId, Source, Ua, UaEvent,
    answer::stamp_via,
    client::{Side, dialog_id},
    server::{Machine, MergeKey, Standing},
};
use crate::sip::{
    dialog::{DialogId, DialogState},
    headers::Via,
    message::{HeaderName, Headers, Method, Request},
    transaction::{Transaction, key::ServerKey},
    uri::Uri,
};

/// Retry-After of a 500 for a re-INVITE that crosses another is drawn below this many seconds (RFC 3261 section 14.2).
const CROSSING_RETRY_LIMIT_S: u32 = 11;

/// An answer that needs no opinion.
struct Refusal {
    status: u16,
    reason: Option<String>,
    headers: Headers,
}

impl Refusal {
    const fn new(status: u16) -> Self {
        Refusal { status, reason: None, headers: Headers::new() }
    }

    fn with(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push(name, value);
        self
    }
}

impl Ua {
    pub(super) fn handle_request(&mut self, now: Time, source: Source, mut request: Request, len_bytes: usize) {
        let Some(via) = stamp_via(&mut request, source) else { return };
        let Ok(key) = ServerKey::of_request(&request, &via) else { return };
        if let Some(server) = self.server_keys.get(&key).copied() {
            self.handle_known(now, server, request);
            return;
        }
        match request.method {
            Method::Ack => self.handle_ack_of_success(now, request),
            Method::Cancel => self.handle_cancel(now, source, key, &via, request, len_bytes),
            _ => {
                let within = dialog_id(&request.headers, Side::Callee).filter(|id| !id.local_tag.is_empty());
                let known = within.as_ref().is_some_and(|id| self.dialogs.contains_key(id));
                // Who knows both tags of a living dialog is no stranger.
                let standing = if known { Standing::InDialog } else { self.standing(source) };
                let Some(server) = self.open_server(key, request.clone(), source, len_bytes, standing) else { return };
                match within {
                    Some(dialog) => self.handle_in_dialog(now, source, server, dialog, request),
                    None => self.handle_out_of_dialog(now, source, server, request),
                }
                self.settle_server(server);
            }
        }
    }

    /// A message of a known transaction: a repeat, or the ACK of an INVITE.
    fn handle_known(&mut self, now: Time, server: ServerId, request: Request) {
        if request.method != Method::Ack {
            self.repeat_answer(server);
            return;
        }
        let tx = self.servers.get_mut(&server);
        let absorbed = tx.is_some_and(|tx| match &mut tx.machine {
            Machine::Invite(machine) => machine.handle_ack(now),
            Machine::Other(_) => false,
        });
        if absorbed {
            self.settle_server(server);
        } else {
            // Some peers acknowledge a 2xx on the INVITE's branch.
            self.handle_ack_of_success(now, request);
        }
    }

    /// CANCEL, RFC 3261 section 9.2.
    fn handle_cancel(
        &mut self,
        now: Time,
        source: Source,
        key: ServerKey,
        via: &Via,
        request: Request,
        len_bytes: usize,
    ) {
        let invite = ServerKey::of_cancelled(&request, via).ok().and_then(|key| self.server_keys.get(&key).copied());
        let found = invite.and_then(|invite| self.servers.get(&invite));
        let (tag, standing) = match found {
            // Who was answered by a session of ours may give up also when the room for others is taken.
            Some(tx) if tx.verified && !tx.stranger => (Some(tx.tag.clone()), Standing::InDialog),
            Some(tx) => (Some(tx.tag.clone()), self.standing(source)),
            None => (None, self.standing(source)),
        };
        let Some(server) = self.open_server(key, request.clone(), source, len_bytes, standing) else { return };
        if let (Some(tag), Some(tx)) = (tag, self.servers.get_mut(&server)) {
            tx.tag = tag;
        }
        let Some(invite) = invite else {
            self.counters.unknown_dialog += 1;
            self.refuse(now, server, 481, Headers::new());
            return;
        };
        self.refuse(now, server, 200, Headers::new());
        if self.servers.get(&invite).is_some_and(|tx| tx.machine.is_pending()) {
            self.refuse(now, invite, 487, Headers::new());
            self.events.push_back(UaEvent::Cancelled { server: invite, request });
        }
    }

    fn standing(&self, source: Source) -> Standing {
        if self.is_known_peer(source) { Standing::Known } else { Standing::Stranger }
    }

    fn handle_out_of_dialog(&mut self, now: Time, source: Source, server: ServerId, request: Request) {
        let (verified, known_peer) = (self.is_verified(source), self.is_known_peer(source));
        if let Some(refusal) = self.inspect(server, &request) {
            self.refuse_because(now, server, refusal.status, refusal.reason, refusal.headers);
            return;
        }
        match request.method {
            Method::Options => self.tell_capabilities(now, server),
            Method::Invite => {
                if verified {
                    self.send_trying(now, server);
                }
                self.events.push_back(UaEvent::Invite { server, request, source, verified, known_peer });
            }
            _ => self.events.push_back(UaEvent::Request { server, request, source, verified }),
        }
    }

    /// What is wrong with a request outside of dialogs, in the order of RFC 3261 section 8.2.
    fn inspect(&mut self, server: ServerId, request: &Request) -> Option<Refusal> {
        if let Some(refusal) = self.inspect_method(request) {
            return Some(refusal);
        }
        // These make sense in a dialog only.
        if matches!(request.method, Method::Bye | Method::Prack | Method::Update | Method::Info) {
            self.counters.unknown_dialog += 1;
            return Some(Refusal::new(481));
        }
        if self.draining {
            let retry_after = self.config.overload_retry_after_s.to_string();
            return Some(Refusal::new(503).with(HeaderName::RetryAfter, retry_after));
        }
        if matches!(request.uri, Uri::Other(_)) {
            self.counters.refused += 1;
            return Some(Refusal::new(416));
        }
        if self.is_merged(server, request) {
            self.counters.merged += 1;
            return Some(Refusal::new(482));
        }
        if request.method != Method::Options && request.headers.max_forwards() == Ok(Some(0)) {
            self.counters.refused += 1;
            return Some(Refusal::new(483));
        }
        if let Some(refusal) = self.inspect_require(request) {
            return Some(refusal);
        }
        if request.method == Method::Invite
            && let Err(error) = request.headers.contact()
        {
            self.counters.malformed += 1;
            return Some(Refusal { reason: Some(format!("Bad Request: {error}")), ..Refusal::new(400) });
        }
        None
    }

    /// 405 for a method that we know and do not take, 501 for one that we do not know.
    fn inspect_method(&mut self, request: &Request) -> Option<Refusal> {
        let method = &request.method;
        if matches!(method, Method::Bye | Method::Options) || self.config.allow.contains(method) {
            return None;
        }
        self.counters.method_refused += 1;
        let status = if matches!(method, Method::Other(_)) { 501 } else { 405 };
        Some(Refusal::new(status).with(HeaderName::Allow, self.config.allow_header()))
    }

    fn inspect_require(&mut self, request: &Request) -> Option<Refusal> {
        let required = request.headers.tokens(&HeaderName::Require);
        let known = |tag: &String| self.config.supported.iter().any(|ours| ours.eq_ignore_ascii_case(tag));
        let unknown: Vec<String> = required.into_iter().filter(|tag| !known(tag)).collect();
        if unknown.is_empty() {
            return None;
        }
        self.counters.refused += 1;
        Some(Refusal::new(420).with(HeaderName::Unsupported, unknown.join(", ")))
    }

    /// Whether the request is already here over another way (RFC 3261 section 8.2.2.2); when not, it is the one from now on.
    pub(super) fn is_merged(&mut self, server: ServerId, request: &Request) -> bool {
        let (Ok(call_id), Ok(from), Ok(cseq)) =
            (request.headers.call_id(), request.headers.from(), request.headers.cseq())
        else {
            return false;
        };
        let key = MergeKey {
            call_id: call_id.to_owned(),
            from_tag: from.tag().unwrap_or_default().to_owned(),
            cseq: cseq.number,
            method: cseq.method,
            target: request.uri.to_string(),
        };
        if self.merge_keys.contains_key(&key) {
            return true;
        }
        self.merge_keys.insert(key.clone(), server);
        if let Some(tx) = self.servers.get_mut(&server) {
            tx.merge_key = Some(key);
        }
        false
    }

    /// A request in a dialog, RFC 3261 section 12.2.2.
    fn handle_in_dialog(&mut self, now: Time, source: Source, server: ServerId, id: DialogId, request: Request) {
        if let Some(refusal) = self.inspect_in_dialog(source, &id, &request) {
            self.refuse_because(now, server, refusal.status, refusal.reason, refusal.headers);
            return;
        }
        if let Some(tx) = self.servers.get_mut(&server) {
            tx.in_dialog = true;
            tx.dialog = Some(id.clone());
        }
        match request.method {
            Method::Bye => self.handle_bye(now, server, &id, request),
            Method::Options => self.tell_capabilities(now, server),
            Method::Invite => {
                if let Some(entry) = self.dialogs.get_mut(&id) {
                    entry.server_invite = Some(server);
                    entry.dialog.refresh_target(&request.headers, |transport, ip| self.config.serves(transport, ip));
                }
                self.send_trying(now, server);
                self.events.push_back(UaEvent::DialogRequest { dialog: id, server, request });
            }
            _ => {
                if let Some(entry) = self.dialogs.get_mut(&id).filter(|_| request.method == Method::Update) {
                    entry.dialog.refresh_target(&request.headers, |transport, ip| self.config.serves(transport, ip));
                }
                self.events.push_back(UaEvent::DialogRequest { dialog: id, server, request });
            }
        }
    }

    fn inspect_in_dialog(&mut self, source: Source, id: &DialogId, request: &Request) -> Option<Refusal> {
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        let is_bye = request.method == Method::Bye;
        let living = |state: DialogState| is_bye || state != DialogState::Ending;
        let Some(entry) = self.dialogs.get_mut(id).filter(|entry| living(entry.dialog.state)) else {
            self.counters.unknown_dialog += 1;
            return Some(Refusal::new(481));
        };
        if !entry.dialog.accept_cseq(cseq) {
            self.counters.out_of_order += 1;
            return Some(Refusal::new(500));
        }
        // The peer may have made a new connection: what we send next goes there.
        let destination = &mut entry.dialog.destination;
        if destination.transport == source.transport && destination.remote.ip() == source.remote.ip() {
            destination.flow = source.flow;
        }
        let (ours, theirs) = (entry.client_invite.is_some(), entry.server_invite.is_some());
        if let Some(refusal) = self.inspect_method(request).or_else(|| self.inspect_require(request)) {
            return Some(refusal);
        }
        if request.method != Method::Invite || !(ours || theirs) {
            return None;
        }
        self.counters.refused += 1;
        if ours && !theirs {
            return Some(Refusal::new(491));
        }
        let retry_after = self.entropy.below(CROSSING_RETRY_LIMIT_S);
        Some(Refusal::new(500).with(HeaderName::RetryAfter, retry_after.to_string()))
    }

    /// BYE, RFC 3261 section 15.1.2: a pending INVITE of the peer ends with it.
    fn handle_bye(&mut self, now: Time, server: ServerId, id: &DialogId, request: Request) {
        self.refuse(now, server, 200, Headers::new());
        let Some(entry) = self.dialogs.get(id) else { return };
        let ours_is_on_its_way = entry.dialog.state == DialogState::Ending;
        let pending = entry.server_invite;
        if let Some(invite) =
            pending.filter(|invite| self.servers.get(invite).is_some_and(|tx| tx.machine.is_pending()))
        {
            // A dialog that no 2xx confirmed is unknown to the owner: to him this is the end of the INVITE.
            let initial = self.servers.get(&invite).is_some_and(|tx| !tx.in_dialog);
            self.refuse(now, invite, 487, Headers::new());
            if initial {
                self.events.push_back(UaEvent::Cancelled { server: invite, request: request.clone() });
            }
        }
        if ours_is_on_its_way {
            return;
        }
        let deferred = self.dialogs.get_mut(id).and_then(|entry| entry.deferred_bye.take());
        self.remove_dialog(id);
        if let Some((client, _)) = deferred {
            self.events.push_back(UaEvent::TimedOut { client, dialog: Some(id.clone()) });
        }
        self.events.push_back(UaEvent::Bye { dialog: id.clone(), request });
    }
}
