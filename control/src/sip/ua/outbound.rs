//! Sending: requests outside and inside of dialogs.

use std::time::Duration;

use gangway_shared::time::Time;

use super::{
    AccountId, ClientId, Content, Outgoing, SendError, Transmit, Ua, UaEvent,
    client::{Cancelling, ClientTx, Machine, Purpose, transmit},
    streams::Fit,
};
use crate::sip::{
    dialog::{DialogId, DialogState, MAX_FORWARDS, Role, Target},
    digest::Attempts,
    headers::Via,
    message::{HeaderName, Headers, Method, Request},
    transaction::{
        client::Client,
        client_invite::ClientInvite,
        key::{ClientKey, MAGIC_COOKIE},
    },
    uri::Params,
};

/// Random bytes in a branch: nobody who has not seen the request can answer it.
const BRANCH_BYTES: usize = 12;
/// Random bytes in a Call-ID.
const CALL_ID_BYTES: usize = 16;

/// Headers that the agent writes itself: ignored among those the owner gives.
pub(super) const MANAGED: [HeaderName; 13] = [
    HeaderName::Via,
    HeaderName::From,
    HeaderName::To,
    HeaderName::CallId,
    HeaderName::CSeq,
    HeaderName::MaxForwards,
    HeaderName::Route,
    HeaderName::RecordRoute,
    HeaderName::Contact,
    HeaderName::ContentLength,
    HeaderName::ContentType,
    HeaderName::Authorization,
    HeaderName::ProxyAuthorization,
];

impl Ua {
    /// Sends a request outside of any dialog: INVITE, REGISTER, OPTIONS, MESSAGE ..
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent.
    pub fn send_request(&mut self, now: Time, outgoing: Outgoing) -> Result<ClientId, SendError> {
        match outgoing.method {
            Method::Ack | Method::Cancel | Method::Bye => return Err(SendError::Method),
            Method::Invite if outgoing.contact.is_none() => return Err(SendError::NoContact),
            _ => {}
        }
        let Outgoing { target, account, udp_only, .. } = outgoing;
        let give_up = outgoing.give_up.filter(|_| outgoing.method != Method::Invite);
        let (mut request, mut fit) = self.compose(outgoing);
        fit.udp_only = udp_only;
        self.preempt(&mut request, account, target);
        let client = ClientId(self.fresh_id());
        self.launch(now, client, (request, fit), target, |tx| (tx.account, tx.give_up) = (account, give_up))?;
        Ok(client)
    }

    fn compose(&mut self, outgoing: Outgoing) -> (Request, Fit) {
        let Outgoing { method, uri, mut from, to, call_id, cseq, contact, routes, headers, content, .. } = outgoing;
        if from.tag().is_none() {
            from = from.with_tag(&self.fresh_tag());
        }
        let call_id = call_id.unwrap_or_else(|| self.entropy.hex(CALL_ID_BYTES));
        let mut request = Request::new(method, uri);
        for route in routes {
            request.headers.push(HeaderName::Route, route.to_string());
        }
        request.headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
        request.headers.push(HeaderName::From, from.to_string());
        request.headers.push(HeaderName::To, to.to_string());
        request.headers.push(HeaderName::CallId, call_id);
        request.headers.push(HeaderName::CSeq, format!("{} {}", cseq.unwrap_or(1), request.method));
        if let Some(contact) = contact {
            request.headers.push(HeaderName::Contact, contact.to_string());
        }
        let fit = self.complete(&mut request, headers, content);
        (request, fit)
    }

    /// What every request of ours has: the owner's headers, what we can, who we are, the body.
    fn complete(&self, request: &mut Request, headers: Headers, content: Option<Content>) -> Fit {
        let own = headers.iter().filter(|(name, _)| !MANAGED.contains(name));
        for (name, value) in own {
            request.headers.push(name.clone(), value);
        }
        if matches!(request.method, Method::Invite | Method::Register | Method::Update) {
            request.headers.push(HeaderName::Allow, self.config.allow_header());
            if !self.config.supported.is_empty() {
                request.headers.push(HeaderName::Supported, self.config.supported.join(", "));
            }
        }
        if !self.config.user_agent.is_empty() {
            request.headers.push(HeaderName::UserAgent, self.config.user_agent.as_str());
        }
        let Some(content) = content else { return Fit::default() };
        request.headers.push(HeaderName::ContentType, content.content_type);
        request.body = content.body;
        Fit::new(&request.body, content.shorter)
    }

    fn preempt(&mut self, request: &mut Request, account: Option<AccountId>, target: Target) {
        if let Some(client) = account.and_then(|account| self.accounts.get_mut(&account)) {
            for (name, value) in client.preempt(request, target.remote, self.entropy.as_mut()) {
                request.headers.push(name, value);
            }
        }
    }

    /// Sends a request in a dialog: re-INVITE, INFO, UPDATE, REFER .. and BYE, after which the dialog takes no more requests and is
    /// gone when BYE is answered or timed out. A BYE while our 2xx waits for its ACK goes out after that (RFC 3261 section 15).
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent.
    pub fn send_in_dialog(
        &mut self,
        now: Time,
        dialog: &DialogId,
        method: Method,
        headers: Headers,
        content: Option<Content>,
    ) -> Result<ClientId, SendError> {
        let entry = self.dialogs.get_mut(dialog).ok_or(SendError::UnknownDialog)?;
        let state = entry.dialog.state;
        let early_caller = state == DialogState::Early && entry.dialog.role == Role::Caller;
        let allowed = match method {
            Method::Ack | Method::Cancel => return Err(SendError::Method),
            Method::Invite => state == DialogState::Confirmed,
            Method::Bye => state == DialogState::Confirmed || early_caller,
            _ => state != DialogState::Ending,
        };
        if !allowed || entry.deferred_bye.is_some() {
            return Err(SendError::NotConfirmed);
        }
        let busy = entry.client_invite.is_some() || entry.server_invite.is_some() || entry.unacked.is_some();
        if method == Method::Invite && busy {
            return Err(SendError::InvitePending);
        }
        if method == Method::Bye && entry.unacked.is_some() {
            self.next_id += 1;
            let client = ClientId(self.next_id);
            entry.deferred_bye = Some((client, headers));
            return Ok(client);
        }
        let client = ClientId(self.fresh_id());
        self.launch_in_dialog(now, client, dialog, method, headers, content, Purpose::Owner)?;
        Ok(client)
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one request; a struct would have this one use")]
    pub(super) fn launch_in_dialog(
        &mut self,
        now: Time,
        client: ClientId,
        dialog: &DialogId,
        method: Method,
        headers: Headers,
        content: Option<Content>,
        purpose: Purpose,
    ) -> Result<(), SendError> {
        let entry = self.dialogs.get_mut(dialog).ok_or(SendError::UnknownDialog)?;
        let (is_invite, is_bye) = (method == Method::Invite, method == Method::Bye);
        let mut request = entry.dialog.request(method);
        let target = entry.dialog.destination;
        let account = entry.dialog.account.map(AccountId);
        let udp_only = entry.udp_only;
        let mut fit = self.complete(&mut request, headers, content);
        fit.udp_only = udp_only;
        self.preempt(&mut request, account, target);
        let within = dialog.clone();
        let id = self.launch(now, client, (request, fit), target, |tx| {
            (tx.dialog, tx.account, tx.purpose) = (Some(within), account, purpose);
        })?;
        if let Some(entry) = self.dialogs.get_mut(dialog) {
            if is_invite {
                entry.client_invite = Some(id);
            }
            if is_bye {
                entry.dialog.state = DialogState::Ending;
            }
        }
        Ok(())
    }

    /// Ends a dialog on the agent's own account. Where no BYE can be sent the dialog is forgotten: the peer's own timers end it.
    pub(super) fn send_own_bye(&mut self, now: Time, dialog: &DialogId) {
        let client = ClientId(self.fresh_id());
        let sent = self.launch_in_dialog(now, client, dialog, Method::Bye, Headers::new(), None, Purpose::Agent);
        if sent.is_err() {
            self.dialogs.remove(dialog);
        }
    }

    /// Sends a request without Via in a new transaction: as the target says, or as [`Ua::way`] finds for one that is too long.
    pub(super) fn launch(
        &mut self,
        now: Time,
        client: ClientId,
        (mut request, mut fit): (Request, Fit),
        target: Target,
        fill: impl FnOnce(&mut ClientTx),
    ) -> Result<u64, SendError> {
        let told = fit.used();
        let way = self.way(now, &mut request, &mut fit, target)?;
        let by_stream = way.transport != target.transport;
        let used = fit.used();
        let patience = by_stream.then_some(self.config.stream_connect);
        // Only an INVITE is answered at once (RFC 3261 section 17.2.1); others are done before their own timer matters.
        let is_invite = by_stream && request.method == Method::Invite;
        let silent_at = is_invite.then(|| now + self.config.stream_connect + self.config.stream_answer);
        let id = self.launch_as(now, client, request, (way, patience), |tx| {
            fill(tx);
            (tx.fit, tx.datagram_target) = (fit, by_stream.then_some(target));
            tx.stream_silent_at = silent_at;
        })?;
        if used != told {
            self.events.push_back(UaEvent::Shortened { client, body: used });
        }
        Ok(id)
    }

    /// Sends a request without Via in a new transaction, as the target says; a connection for it may take so long.
    fn launch_as(
        &mut self,
        now: Time,
        client: ClientId,
        mut request: Request,
        (target, connect_within): (Target, Option<Duration>),
        fill: impl FnOnce(&mut ClientTx),
    ) -> Result<u64, SendError> {
        // BYE is not counted against the table, as CANCEL is not: a dialog has one at most, and ending must work when all is full.
        if request.method != Method::Bye && self.transactions() >= self.config.max_transactions {
            return Err(SendError::Full);
        }
        let via = self.fresh_via(target).ok_or(SendError::NoLocalAddress)?;
        let branch = via.branch().unwrap_or_default().to_owned();
        request.headers.push_front(HeaderName::Via, via.to_string());
        let timers = &self.config.timers;
        let reliable = target.transport.is_reliable();
        let machine = match request.method {
            Method::Invite => Machine::Invite(ClientInvite::new(now, reliable, timers)),
            _ => Machine::Other(Client::new(now, reliable, timers)),
        };
        let bytes = request.to_bytes();
        self.transmits.push_back(Transmit { connect_within, ..transmit(target, bytes.clone()) });
        Ok(self.keep_client(
            client,
            ClientKey::new(branch, request.method.clone()),
            machine,
            request,
            bytes,
            target,
            fill,
        ))
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one transaction, filled in one place")]
    pub(super) fn keep_client(
        &mut self,
        client: ClientId,
        key: ClientKey,
        machine: Machine,
        request: Request,
        bytes: Vec<u8>,
        target: Target,
        fill: impl FnOnce(&mut ClientTx),
    ) -> u64 {
        let id = self.fresh_id();
        let mut tx = ClientTx {
            client,
            key: key.clone(),
            machine,
            request,
            bytes,
            target,
            dialog: None,
            account: None,
            attempts: Attempts::default(),
            purpose: Purpose::Owner,
            cancelling: Cancelling::No,
            give_up: None,
            reported: false,
            forks: Vec::new(),
            acks: Vec::new(),
            datagram_target: None,
            stream_silent_at: None,
            fit: Fit::default(),
            armed: None,
        };
        fill(&mut tx);
        self.client_keys.insert(key, id);
        self.current.insert(client, id);
        self.clients.insert(id, tx);
        self.settle_client(id);
        id
    }

    fn fresh_via(&mut self, target: Target) -> Option<Via> {
        let Some(ours) = self.config.advertised_to(target.transport, target.remote.ip()) else {
            self.counters.unsendable += 1;
            return None;
        };
        let mut via = Via {
            transport: target.transport.as_via().to_owned(),
            host: ours.host.clone(),
            port: Some(ours.port),
            params: Params::new(),
        };
        via.params.set("branch", Some(format!("{MAGIC_COOKIE}{}", self.entropy.hex(BRANCH_BYTES))));
        via.params.set("rport", None);
        Some(via)
    }

    /// A request that needs no transaction (ACK for 2xx), with its Via.
    pub(super) fn stamped(&mut self, mut request: Request, target: Target) -> Option<Transmit> {
        let via = self.fresh_via(target)?;
        request.headers.push_front(HeaderName::Via, via.to_string());
        Some(transmit(target, request.to_bytes()))
    }
}
