//! Calls: what one is, how it is shown, and how it ends.
//!
//! [`outgoing`] and [`incoming`] bring a call up, [`media`] follows its relay, [`dialog`] what the SIP peer wants of it later. Every way
//! to end goes through [`Gateway::finish`], once: it tells browser, peer and relay, and forgets the call.

mod dialog;
mod early;
mod incoming;
mod media;
mod outgoing;
mod video;

use std::sync::Arc;

use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{IceRemote, RelayProgram},
};

use super::{
    AskOwner, ClientUse, Gateway,
    effects::{Ask, AskId, RelayRequestId, SocketId},
    kept::KeptJson,
    messages::{CallMessage, CallReference, CallStatus, CallView, DtmfRequest, Fail, ServerMessage, TransferRequest},
    outcome::{CallEnd, Outcome, Reason},
    plan::{CallAddresses, CallMedia},
    session::SessionKey,
    targets::Targets,
    timers::{CallTimer, Timer},
};
use crate::{
    sdp::{
        Agreement, BrowserDescription, CodecPolicy, Offered, Shortened, Taken, TrunkDescription, TrunkMedia,
        TrunkSession,
    },
    sip::{
        dialog::DialogId,
        message::{HeaderName, Headers, Method, Request, Status},
        ua::{ClientId, Content, Reply, ServerId},
        uri::SipUri,
    },
};

/// Content-Type of descriptions.
pub(super) const SDP_TYPE: &str = "application/sdp";

/// A call within this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CallKey(pub(super) u64);

/// What a call waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Whether it may be.
    Authorizing(AskId),
    /// Outgoing: where the peer is.
    Resolving(AskId),
    /// Its relay.
    Allocating(AskId),
    /// Outgoing: the final answer to INVITE.
    Inviting,
    /// Incoming: the browser's answer.
    Ringing,
    /// Incoming: the relay knows the browser; 200 goes out when it does.
    Answering,
    /// Incoming without an offer: the peer's answer in ACK.
    AwaitingAck,
    /// Nothing: the two talk.
    Talking,
    /// Outgoing: the peer's consent to the codec the browser was answered with before.
    Realigning,
}

/// What a `Put` under way is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Purpose {
    /// An outgoing call's media; nothing waits for it.
    Connect,
    /// Then 200 goes to the caller.
    Answer,
    /// Then 200 with this description goes to the peer that sent a re-INVITE; refused: back to what was.
    Reoffer { server: ServerId, body: String, former: Box<(Agreement, TrunkSession)> },
    /// The wall came back.
    Again,
}

/// A call's relay.
#[derive(Clone, Debug)]
pub(super) struct CallRelay {
    pub(super) id: RelayId,
    pub(super) generation: Generation,
    pub(super) program: RelayProgram,
    /// Facts that programs carry.
    pub(super) media: CallMedia,
    /// Where its legs are; absent while it is made.
    pub(super) addresses: Option<CallAddresses>,
    /// The `Put` without a reply; the number is absent while the wall is down.
    pub(super) pending: Option<(Option<RelayRequestId>, Purpose)>,
    /// What was agreed since waits for that reply.
    pub(super) is_outdated: bool,
    /// It was made by a former control, and the dataplane has not said yet that it is there and where its legs are.
    pub(super) is_inherited: bool,
}

/// One call.
pub(super) struct Call {
    pub(super) session: SessionKey,
    pub(super) id: String,
    pub(super) incoming: bool,
    pub(super) caller: String,
    pub(super) callee: String,
    pub(super) visible_name: String,
    pub(super) custom: Option<KeptJson>,
    pub(super) status: CallStatus,
    pub(super) sip_status: Option<u16>,
    pub(super) phase: Phase,
    /// The browser's offer, or its answer.
    pub(super) browser: Option<BrowserDescription>,
    /// The browser's ICE and DTLS. Once known it stands in every program: the dataplane lets a browser be replaced, not taken away.
    pub(super) browser_remote: Option<IceRemote>,
    /// What we offered the browser.
    pub(super) offered_browser: Offered,
    /// The peer's offer.
    pub(super) peer_offer: Option<TrunkDescription>,
    /// What we offered the peer.
    pub(super) offered_peer: Offered,
    /// While that is under way in a request of ours: its forms, the longest first, with their texts.
    offers: Vec<(Shortened, String)>,
    /// The codec lists for its peer.
    pub(super) codecs: Arc<CodecPolicy>,
    pub(super) trunk: TrunkSession,
    pub(super) agreement: Option<Agreement>,
    /// Outgoing: the newest description in a 18x of each fork, by its To tag.
    pub(super) early: Vec<(String, TrunkDescription)>,
    pub(super) relay: Option<CallRelay>,
    /// Outgoing: whom to call, and header lines of the page.
    pub(super) uri: Option<SipUri>,
    pub(super) sip_headers: Headers,
    /// Where SIP goes.
    pub(super) targets: Targets,
    /// Outgoing: Call-ID and From tag, the same at each address that is tried, so that a callee whom two of them reach rings once
    /// (RFC 3263 section 4.3, RFC 3261 section 8.2.2.2).
    pub(super) identity: Option<(String, String)>,
    /// Our INVITE without a final answer.
    pub(super) client: Option<ClientId>,
    /// The peer's INVITE without a final answer.
    pub(super) server: Option<ServerId>,
    /// The confirmed dialog.
    pub(super) dialog: Option<DialogId>,
    /// Our offer in a 200 to a re-INVITE without one: its answer comes in this ACK.
    pub(super) offered_in: Option<ServerId>,
    /// The peer's re-INVITE that came before the dataplane said that a former control's relay is there.
    pub(super) waiting: Option<(ServerId, Box<Request>)>,
    /// The socket whose page has its description. One per page (R7).
    pub(super) described_to: Option<SocketId>,
    pub(super) path_selected: bool,
    pub(super) keys_ready: bool,
    /// Our INFO that asks the peer for a key frame, without an answer.
    pub(super) picture_request: Option<ClientId>,
    /// The peer has not refused such a request yet.
    pub(super) knows_picture_requests: bool,
    /// Re-INVITEs sent that refuse pictures the peer took.
    pub(super) video_refusals: u8,
    /// The pictures' own transport to the browser is lost, for the rest of the call.
    pub(super) is_video_lost: bool,
}

impl Call {
    /// Whether only the page that made it can carry it on.
    pub(super) fn needs_its_page(&self) -> bool {
        match self.phase {
            Phase::Talking | Phase::Realigning | Phase::AwaitingAck => false,
            // 200 is about to go: the media is with the page that answered.
            Phase::Answering => false,
            Phase::Ringing => false,
            Phase::Authorizing(_) | Phase::Resolving(_) | Phase::Allocating(_) => !self.incoming,
            Phase::Inviting => true,
        }
    }

    /// Bytes of JSON kept for echoes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.custom.as_ref().map_or(0, KeptJson::len_bytes)
    }

    /// Whether it has pictures, or would have.
    fn has_video(&self) -> bool {
        match (&self.agreement, self.incoming) {
            (Some(agreement), _) => agreement.video.as_ref().is_some_and(|video| !video.is_stopped),
            (None, true) => !self.offered_browser.video.is_empty(),
            (None, false) => self.browser.as_ref().is_some_and(|browser| browser.video().is_some()),
        }
    }

    /// Whether its pictures have a transport of their own towards the browser.
    fn splits_transports(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.media.splits_transports)
    }

    /// What a description to the SIP peer says of each medium as agreed.
    fn agreed_media(&self) -> Option<Vec<TrunkMedia>> {
        let (agreement, addresses) = (self.agreement.as_ref()?, self.addresses()?);
        Some(agreement.sip_media(addresses.rtp, addresses.video_rtp))
    }

    /// Writes an offer to the SIP peer and remembers it.
    fn offer_peer(&mut self, offered: Offered) -> Option<String> {
        let addresses = self.addresses()?;
        let media = offered.sip_media(addresses.rtp, addresses.video_rtp);
        self.offered_peer = offered;
        Some(self.trunk.offer(&media))
    }

    /// Writes an offer to the SIP peer for a request, where it may have to be shorter (RFC 3261 section 18.1.1): which form went out
    /// is told by [`Gateway::offer_shortened`].
    fn offer_in_request(&mut self, offered: Offered, taken: &Taken) -> Option<Content> {
        let text = self.offer_peer(offered.clone())?;
        let addresses = self.addresses()?.clone();
        let shorter = offered.shorter(taken).into_iter().map(|form| {
            let text = self.trunk.shorter(&form.offered.sip_media(addresses.rtp, addresses.video_rtp));
            (form, text)
        });
        let shorter: Vec<(Shortened, String)> = shorter.collect();
        let bodies = shorter.iter().map(|(_, text)| text.clone().into_bytes()).collect();
        let full = (Shortened { offered, without: Vec::new() }, text.clone());
        self.offers = std::iter::once(full).chain(shorter).collect();
        Some(Content { shorter: bodies, ..sdp_content(text) })
    }

    /// The relay's addresses, once it is there.
    fn addresses(&self) -> Option<&CallAddresses> {
        self.relay.as_ref()?.addresses.as_ref()
    }

    /// Whether a `Put` under way stands in the way of another change.
    fn is_changing(&self) -> bool {
        let pending = self.relay.as_ref().and_then(|relay| relay.pending.as_ref());
        self.relay.as_ref().is_some_and(|relay| relay.is_inherited)
            || pending.is_some_and(|(_, purpose)| matches!(purpose, Purpose::Answer | Purpose::Reoffer { .. }))
    }
}

/// What a call begins with.
pub(super) struct NewCall {
    pub(super) session: SessionKey,
    pub(super) id: String,
    pub(super) incoming: bool,
    pub(super) caller: String,
    pub(super) callee: String,
    pub(super) visible_name: String,
    pub(super) trunk: TrunkSession,
}

impl Gateway {
    pub(super) fn insert_call(&mut self, new: NewCall) -> CallKey {
        self.next_call += 1;
        let key = CallKey(self.next_call);
        self.call_ids.insert(new.id.clone(), key);
        if let Some(session) = self.sessions.get_mut(&new.session) {
            session.calls.insert(key);
        }
        let status = if new.incoming { CallStatus::Ring } else { CallStatus::Trying };
        let call = Call {
            session: new.session,
            id: new.id,
            incoming: new.incoming,
            caller: new.caller,
            callee: new.callee,
            visible_name: new.visible_name,
            custom: None,
            status,
            sip_status: None,
            // Replaced by the first ask, before anybody looks.
            phase: Phase::Inviting,
            browser: None,
            browser_remote: None,
            offered_browser: Offered::default(),
            peer_offer: None,
            offered_peer: Offered::default(),
            offers: Vec::new(),
            codecs: Arc::clone(&self.codecs),
            trunk: new.trunk,
            agreement: None,
            early: Vec::new(),
            relay: None,
            uri: None,
            sip_headers: Headers::new(),
            targets: Targets::default(),
            identity: None,
            client: None,
            server: None,
            dialog: None,
            offered_in: None,
            waiting: None,
            described_to: None,
            path_selected: false,
            keys_ready: false,
            picture_request: None,
            knows_picture_requests: true,
            video_refusals: 0,
            is_video_lost: false,
        };
        let session = call.session;
        self.calls.insert(key, call);
        self.rank_again(session);
        key
    }

    /// An offer of ours is under way in another of its forms: the answer is to be judged by that one.
    pub(super) fn offer_shortened(&mut self, key: CallKey, form: usize) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some((form, text)) = call.offers.get(form) else { return };
        call.offered_peer.clone_from(&form.offered);
        call.trunk.sent(text);
        tracing::info!(call = %call.id, without = form.without.join(", "), "the offer was shortened to fit a datagram");
    }

    /// The session's call of this id; another session's is unknown.
    pub(super) fn call_of(&self, session: SessionKey, call_id: &str) -> Option<CallKey> {
        let key = *self.call_ids.get(call_id)?;
        (self.calls.get(&key)?.session == session).then_some(key)
    }

    /// A call as browsers and REST see it.
    pub(super) fn view(&self, call: &Call) -> CallView {
        let session = self.sessions.get(&call.session);
        CallView {
            call_id: call.id.clone(),
            incoming: call.incoming,
            status: call.status,
            sip_status: call.sip_status,
            info: None,
            caller: call.caller.clone(),
            callee: call.callee.clone(),
            visible_name: call.visible_name.clone(),
            has_audio: true,
            has_video: call.has_video(),
            media_provider: "WebRTC",
            custom: call.custom.clone(),
            node_id: super::node_id(self.config.node),
            app_key: session.map(|session| session.app_key.clone()).unwrap_or_default(),
            session_id: session.map(|session| session.session_id.clone()).unwrap_or_default(),
        }
    }

    fn socket_of(&self, call: &Call) -> Option<SocketId> {
        self.sessions.get(&call.session)?.socket
    }

    /// Sends a call's status to its page.
    pub(super) fn tell(&mut self, key: CallKey, kind: CallMessage) {
        let Some(call) = self.calls.get(&key) else { return };
        let Some(socket) = self.socket_of(call) else { return };
        let call = Box::new(self.view(call));
        self.send(socket, ServerMessage::CallStatus { kind, call });
    }

    /// Changes a call's status and tells it, once for each change.
    fn change_status(&mut self, key: CallKey, status: CallStatus, kind: CallMessage) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.status != status {
            call.status = status;
            self.tell(key, kind);
        }
    }

    /// Asks for a call and waits in the phase that the ask makes.
    fn ask_for_call(&mut self, key: CallKey, what: Ask, phase: fn(AskId) -> Phase) {
        let ask = self.ask(AskOwner::Call(key), what);
        if let Some(call) = self.calls.get_mut(&key) {
            call.phase = phase(ask);
        }
    }

    pub(super) fn hangup(&mut self, session: SessionKey, reference: &CallReference) {
        // Unknown ids are ignored: the page sends `hangup` also for calls that never reached us or are over.
        if let Some(key) = self.call_of(session, &reference.call_id) {
            let rings = self.calls.get(&key).is_some_and(|call| call.incoming && call.phase == Phase::Ringing);
            let others = self.sessions.get(&session).map_or(0, |session| session.calls.len()) > 1;
            // 603 would stop the other phones of a fork (RFC 3261 section 16.7).
            self.finish(key, if rings && others { CallEnd::BrowserBusy } else { CallEnd::BrowserHangup });
        }
    }

    /// `hold` and `unhold` are not done yet. The page has disabled its button and only the current status enables it (5.6).
    pub(super) fn refuse_hold(&mut self, socket: SocketId, session: SessionKey, call_id: &str, info: &str) {
        let Some(key) = self.call_of(session, call_id) else { return };
        self.send(socket, ServerMessage::Fail(Fail::call(call_id, info)));
        if self.calls.get(&key).is_some_and(|call| call.status == CallStatus::Established) {
            self.tell(key, CallMessage::Talk);
        }
    }

    pub(super) fn dtmf(&mut self, socket: SocketId, session: SessionKey, request: &DtmfRequest) {
        if self.call_of(session, &request.call_id).is_some() {
            let info = "sendDtmf: this server does not support it yet";
            self.send(socket, ServerMessage::Fail(Fail::call(&request.call_id, info)));
        }
    }

    pub(super) fn transfer(&mut self, socket: SocketId, session: SessionKey, request: &TransferRequest) {
        if self.call_of(session, &request.call_id).is_some() {
            let mut fail = Fail::call(&request.call_id, "transfer: this server does not support it yet");
            fail.api_method = "TransferStatusEvent".to_owned();
            self.send(socket, ServerMessage::Fail(fail));
        }
    }

    /// Ends a call, whatever it waits for: tells the page once, the peer what fits the state, and deletes the relay.
    pub(super) fn finish(&mut self, key: CallKey, end: CallEnd) {
        let Some(mut call) = self.calls.remove(&key) else { return };
        self.call_ids.remove(&call.id);
        let outcome = Outcome::of(end, self.config.busy_status);
        self.end_sip_side(&call, end, &outcome);
        if let Phase::Authorizing(ask) | Phase::Resolving(ask) | Phase::Allocating(ask) = call.phase {
            self.abandon_ask(ask);
        }
        for timer in [CallTimer::Answer, CallTimer::Glare, CallTimer::Path, CallTimer::Put, CallTimer::Closed] {
            self.timers.clear(Timer::Call(key, timer));
        }
        if let Some(relay) = call.relay.take() {
            self.end_relay(relay);
        }
        self.tell_end(&call, &outcome);
        match outcome.status {
            CallStatus::Failed => self.totals.calls_failed += 1,
            _ => self.totals.calls_finished += 1,
        }
        tracing::info!(call = %call.id, ?end, status = ?outcome.status, "call ended");
        if let Some(session) = self.sessions.get_mut(&call.session) {
            session.calls.remove(&key);
        }
        self.rank_again(call.session);
        self.leave_to_successor(call.session);
    }

    /// `busy` where it fits, then the one `finish`.
    fn tell_end(&mut self, call: &Call, outcome: &Outcome) {
        // A page that came back by token knows only calls that were announced to it, and those that talk.
        let talked = call.status == CallStatus::Established;
        let socket = self.socket_of(call);
        if call.incoming && !talked && (socket.is_none() || call.described_to != socket) {
            return;
        }
        let mut view = self.view(call);
        view.sip_status = outcome.sip_status.or(call.sip_status.filter(|status| *status >= 200));
        view.info = Some(outcome.info.text().to_owned());
        let Some(socket) = socket else {
            view.status = outcome.status;
            if let Some(session) = self.sessions.get_mut(&call.session).filter(|session| session.is_established()) {
                session.keep_end(view);
            }
            return;
        };
        if outcome.busy_first {
            let busy = CallView { status: CallStatus::Busy, ..view.clone() };
            self.send(socket, ServerMessage::CallStatus { kind: CallMessage::Busy, call: Box::new(busy) });
        }
        view.status = outcome.status;
        self.send(socket, ServerMessage::CallStatus { kind: CallMessage::Finish, call: Box::new(view) });
    }

    /// CANCEL, BYE or a final status: whatever still has to be said. Who learnt of the end from the peer took the id away before.
    fn end_sip_side(&mut self, call: &Call, end: CallEnd, outcome: &Outcome) {
        // A re-INVITE too: a peer that answers BYE may leave it open, and a proceeding INVITE has no timer of its own.
        if let Some(client) = call.client {
            self.clients.remove(&client);
            self.ua.cancel(self.now, client, reason_header(outcome.reason));
        }
        if let Some(dialog) = &call.dialog {
            self.dialogs.remove(dialog);
            match self.ua.send_in_dialog(self.now, dialog, Method::Bye, reason_header(outcome.reason), None) {
                Ok(client) => {
                    self.clients.insert(client, ClientUse::Bye);
                }
                Err(error) => {
                    tracing::debug!(%error, ?end, "no BYE could be sent");
                    self.ua.remove_dialog(dialog);
                }
            }
        }
        if let Some(server) = call.server {
            self.servers.remove(&server);
            let mut reply = Reply::new(Status::new(outcome.reply).unwrap_or(Status::literal(480)));
            if outcome.reply == 503 {
                reply.headers.push(HeaderName::RetryAfter, self.config.retry_after_s.to_string());
            }
            if let Err(error) = self.ua.respond(self.now, server, reply) {
                tracing::debug!(%error, "the caller was gone before the refusal");
            }
        }
        if let Some(server) = call.offered_in {
            self.servers.remove(&server);
        }
        if let Some((server, _)) = call.waiting {
            // Best effort: BYE already says it.
            let _ = self.ua.respond(self.now, server, Reply::new(Status::literal(487)));
        }
        if let Some(client) = call.picture_request {
            self.clients.remove(&client);
        }
        if let Some((_, Purpose::Reoffer { server, .. })) = call.relay.as_ref().and_then(|relay| relay.pending.as_ref())
        {
            self.servers.remove(server);
            // Best effort: BYE already says it.
            let _ = self.ua.respond(self.now, *server, Reply::new(Status::literal(487)));
        }
    }

    fn end_relay(&mut self, relay: CallRelay) {
        self.relays.remove(&relay.id);
        if let Some((Some(request), _)) = relay.pending {
            self.puts.remove(&request);
        }
        self.release(relay.id);
    }
}

fn reason_header(reason: Reason) -> Headers {
    let mut headers = Headers::new();
    headers.push(HeaderName::Reason, reason.header_value());
    headers
}

fn sdp_content(text: String) -> Content {
    Content::new(SDP_TYPE, text)
}

/// The description in a message, when there is one: `Ok(None)` without a body.
///
/// # Errors
/// The body is something else.
pub(super) fn description(headers: &Headers, body: &[u8]) -> Result<Option<String>, CallEnd> {
    if body.is_empty() {
        return Ok(None);
    }
    let is_sdp = headers.content_type().is_none_or(|kind| kind.eq_ignore_ascii_case(SDP_TYPE));
    match std::str::from_utf8(body) {
        Ok(text) if is_sdp => Ok(Some(text.to_owned())),
        _ => Err(CallEnd::BadPeerDescription),
    }
}
