//! Answering requests: what the owner says, and what the agent says by itself.

use std::net::SocketAddr;

use gangway_shared::time::Time;

use super::{
    AccountId, Entry, Reply, RespondError, ServerId, Source, Ua,
    client::transmit,
    outbound::MANAGED,
    server::{Machine, answer_frame, bare_answer, fits_stranger, reply_target, stateless},
};
use crate::sip::{
    dialog::{DialogId, DialogState},
    headers::Via,
    message::{HeaderName, Headers, Method, Request, Response, Status},
    parser::{self, Fault, ParseError},
    transaction::Transaction,
    uri::NameAddr,
};

impl Ua {
    /// Answers a request. 101-299 to INVITE make or confirm a dialog, whose id is returned.
    ///
    /// A stranger over UDP (`verified: false`) gets one reply of at most 1.5 times its request, not repeated (so nobody can be
    /// flooded through us); 101-299 to INVITE lifts that: answer so only who has proven to know a secret of ours, such as the opaque
    /// user part of a Contact.
    ///
    /// # Errors
    /// See [`RespondError`]; nothing was sent.
    pub fn respond(&mut self, now: Time, server: ServerId, reply: Reply) -> Result<Option<DialogId>, RespondError> {
        let tx = self.servers.get(&server).filter(|tx| tx.machine.is_pending()).ok_or(RespondError::Gone)?;
        let Reply { status, reason, contact, headers, content, account } = reply;
        let is_invite = tx.request.method == Method::Invite;
        let of_dialog = is_invite && (101..300).contains(&status.code());
        let in_dialog = tx.dialog.as_ref().filter(|_| tx.in_dialog).and_then(|id| self.dialogs.get(id));
        let contact = contact.or_else(|| in_dialog.map(|entry| entry.dialog.local_contact.clone()));
        if of_dialog && contact.is_none() {
            return Err(RespondError::NoContact);
        }
        let mut response = answer_frame(&tx.request, status, (status.code() > 100).then_some(tx.tag.as_str()));
        if let Some(reason) = reason {
            response.reason = reason;
        }
        if of_dialog {
            for route in tx.request.headers.values(&HeaderName::RecordRoute) {
                response.headers.push(HeaderName::RecordRoute, route);
            }
        }
        if let Some(contact) = &contact {
            response.headers.push(HeaderName::Contact, contact.to_string());
        }
        for (name, value) in headers.iter().filter(|(name, _)| !MANAGED.contains(name)) {
            response.headers.push(name.clone(), value);
        }
        self.describe(&mut response, is_invite);
        if let Some(content) = content {
            response.headers.push(HeaderName::ContentType, content.content_type);
            response.body = content.body;
        }
        let dialog = if of_dialog { self.dialog_for_answer(server, status, contact, account) } else { None };
        if of_dialog {
            self.lift_limits(server);
        }
        self.send_answer(now, server, &response);
        if is_invite && status.is_final() {
            self.close_invite(now, server, status);
        }
        self.settle_server(server);
        Ok(dialog)
    }

    /// What every answer says about us.
    fn describe(&self, response: &mut Response, invite: bool) {
        if invite && response.status.is_success() {
            response.headers.push(HeaderName::Allow, self.config.allow_header());
            if !self.config.supported.is_empty() {
                response.headers.push(HeaderName::Supported, self.config.supported.join(", "));
            }
        }
        if !self.config.user_agent.is_empty() && response.status.is_final() {
            response.headers.push(HeaderName::Server, self.config.user_agent.as_str());
        }
    }

    /// The dialog of a 101-299 to INVITE: the one it came in, or one made by the first such answer.
    fn dialog_for_answer(
        &mut self,
        server: ServerId,
        status: Status,
        contact: Option<NameAddr>,
        account: Option<AccountId>,
    ) -> Option<DialogId> {
        if self.servers.get(&server)?.dialog.is_none() {
            let dialog = self.dialog_of_answer(server, contact?)?;
            self.servers.get_mut(&server)?.dialog = Some(dialog.id.clone());
            let mut entry = Entry::new(dialog);
            entry.server_invite = Some(server);
            self.dialogs.insert(entry.dialog.id.clone(), entry);
        }
        let id = self.servers.get(&server)?.dialog.clone()?;
        if let Some(Entry { dialog, .. }) = self.dialogs.get_mut(&id) {
            dialog.account = account.map(|account| account.0).or(dialog.account);
            if status.is_success() && dialog.state == DialogState::Early {
                dialog.state = DialogState::Confirmed;
            }
        }
        Some(id)
    }

    /// Hands an answer to the machine and sends it, within what a stranger may get.
    fn send_answer(&mut self, now: Time, server: ServerId, response: &Response) {
        let Some(tx) = self.servers.get_mut(&server) else { return };
        if !tx.machine.handle_answer(now, response.status) {
            return;
        }
        let first = tx.last_answer.is_none();
        let mut bytes = response.to_bytes();
        if !tx.verified {
            if let Machine::Invite(machine) = &mut tx.machine {
                machine.stop_repeating();
            }
            if !fits_stranger(bytes.len(), tx.request_len_bytes) {
                bytes = bare_answer(response).to_bytes();
            }
            if !first || !fits_stranger(bytes.len(), tx.request_len_bytes) {
                self.counters.unverified_silenced += 1;
                tx.last_answer = Some(bytes);
                return;
            }
        }
        tx.last_answer = Some(bytes.clone());
        self.transmits.push_back(transmit(tx.reply_to, bytes));
    }

    /// An INVITE has its final answer: a 2xx waits for its ACK, anything else takes an early dialog with it.
    fn close_invite(&mut self, now: Time, server: ServerId, status: Status) {
        let Some(tx) = self.servers.get(&server) else { return };
        let Some(id) = tx.dialog.clone() else { return };
        let in_dialog = tx.in_dialog;
        let Some(entry) = self.dialogs.get_mut(&id) else { return };
        if entry.server_invite == Some(server) {
            entry.server_invite = None;
        }
        if status.is_success() {
            entry.unacked = Some(server);
            self.repeat_until_ack(now, server);
        } else if !in_dialog {
            self.dialogs.remove(&id);
        }
    }

    /// An answer that the agent gives by itself to a request in a transaction.
    pub(super) fn refuse(&mut self, now: Time, server: ServerId, status: u16, headers: Headers) {
        self.refuse_because(now, server, status, None, headers);
    }

    pub(super) fn refuse_because(
        &mut self,
        now: Time,
        server: ServerId,
        status: u16,
        reason: Option<String>,
        headers: Headers,
    ) {
        let reply = Reply { reason, headers, ..Reply::new(Status::literal(status)) };
        // The agent refuses only requests it has just taken, so this cannot be `Gone`; other replies need no Contact.
        let answered = self.respond(now, server, reply);
        debug_assert!(answered.is_ok(), "a request that just arrived can be refused");
    }

    /// 100 Trying at once: peers stop repeating their INVITE.
    pub(super) fn send_trying(&mut self, now: Time, server: ServerId) {
        let Some(tx) = self.servers.get(&server) else { return };
        let mut response = answer_frame(&tx.request, Status::literal(100), None);
        // RFC 3261 section 8.2.6.1: a Timestamp comes back.
        if let Some(timestamp) = tx.request.headers.value(&HeaderName::Timestamp) {
            response.headers.push(HeaderName::Timestamp, timestamp);
        }
        self.send_answer(now, server, &response);
    }

    /// 200 to OPTIONS, RFC 3261 section 11.2.
    pub(super) fn tell_capabilities(&mut self, now: Time, server: ServerId) {
        let mut headers = Headers::new();
        headers.push(HeaderName::Allow, self.config.allow_header());
        headers.push(HeaderName::Accept, self.config.accept.join(", "));
        headers.push(HeaderName::Supported, self.config.supported.join(", "));
        self.refuse(now, server, 200, headers);
    }

    /// An answer without a transaction.
    pub(super) fn reply_stateless(
        &mut self,
        source: Source,
        request: &Request,
        request_len_bytes: usize,
        status: Status,
        reason: Option<String>,
        header: Option<(HeaderName, String)>,
    ) {
        if request.method == Method::Ack {
            return;
        }
        let mut response = answer_frame(request, status, Some(&stateless_tag(request)));
        if let Some(reason) = reason {
            response.reason = reason;
        }
        if let Some((name, value)) = header {
            response.headers.push(name, value);
        }
        let verified = self.is_verified(source);
        match stateless(reply_target(source, request), &response, request_len_bytes, verified) {
            Some(transmit) => self.transmits.push_back(transmit),
            None => self.counters.unverified_silenced += 1,
        }
    }

    /// 400 (505 for another version) to a request that cannot be used but says where it came from.
    pub(super) fn refuse_malformed(&mut self, source: Source, bytes: &[u8], error: &ParseError) {
        let Some(mut request) = parser::salvage(bytes) else { return };
        stamp_via(&mut request, source);
        let (status, reason) = match error.what {
            Fault::Version => (Status::literal(505), None),
            Fault::TooLong => (Status::literal(513), None),
            _ => (Status::literal(400), Some(format!("Bad Request: {error}"))),
        };
        self.reply_stateless(source, &request, bytes.len(), status, reason, None);
    }

    /// Whether a source is who it says, so that nobody else is flooded by what we answer: every stream, and every known peer.
    pub(super) fn is_verified(&self, source: Source) -> bool {
        source.transport.is_reliable() || self.is_known_peer(source)
    }

    /// Whether we have to do with a source: a trusted range, or an address that an account resolved to. A stream proves its address
    /// but comes from any port; over UDP the port counts too, because the address alone is easily forged.
    pub(super) fn is_known_peer(&self, source: Source) -> bool {
        let ip = source.remote.ip();
        let of_account = if source.transport.is_reliable() {
            let all_ports = SocketAddr::new(ip, 0)..=SocketAddr::new(ip, u16::MAX);
            self.known_peers.range(all_ports).any(|(peer, _)| peer.ip() == ip)
        } else {
            self.known_peers.contains_key(&source.remote)
        };
        of_account || self.config.trusted.iter().any(|range| range.contains(ip))
    }
}

/// Notes in the top Via where the request really came from: RFC 3261 section 18.2.1, RFC 3581 section 4. Gives back the Via as it was.
pub(super) fn stamp_via(request: &mut Request, source: Source) -> Option<Via> {
    let before = request.headers.top_via().ok()?;
    let mut via = before.clone();
    let asked = via.params.contains("rport");
    if asked {
        via.params.set("rport", Some(source.remote.port().to_string()));
    }
    if asked || via.host.ip() != Some(source.remote.ip()) {
        via.params.set("received", Some(source.remote.ip().to_string()));
    } else {
        via.params.remove("received");
    }
    request.headers.replace_first(&HeaderName::Via, via.to_string());
    Some(before)
}

/// The same tag for every repeat of a request without keeping anything (RFC 3261 section 8.2.7): FNV-1a over what names it.
fn stateless_tag(request: &Request) -> String {
    let branch = request.headers.top_via().ok().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    let call_id = request.headers.value(&HeaderName::CallId).unwrap_or_default();
    let hash = branch
        .bytes()
        .chain(call_id.bytes())
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}
