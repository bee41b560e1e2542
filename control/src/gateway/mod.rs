//! The call core: sessions, registrations and calls as one pure state machine.
//!
//! [`Gateway`] owns all call state and nothing of the world: [`effects::Input`] comes in with the time, [`effects::Output`] goes out,
//! and whatever needs the world is asked for ([`effects::Ask`]). It never awaits, locks or reads a clock, so a whole call with lost
//! packets and races runs in a unit test.
//!
//! ```text
//! Input -> Gateway -+- session       sockets, connection, tokens, pings
//!                   +- registration  REGISTER and what follows
//!                   +- call          outgoing | incoming -> media -> finish      -> Output
//!                   +- wall          relay ids, List after a reconnect
//!                   +- sip::ua       transactions, dialogs, digest
//! ```

mod account;
mod call;
pub mod effects;
mod invariants;
pub mod journal;
mod kept;
pub mod messages;
pub mod outcome;
pub mod plan;
mod registration;
mod rest;
mod restore;
mod session;
mod settings;
mod taken;
mod targets;
mod timers;
pub mod trunks;
mod wall;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
};

use gangway_shared::{
    entropy::Entropy,
    ids::{EventSeq, RelayId},
    rcp::{ErrorCode, RelayError},
    time::{Time, WallTime},
};

use crate::{
    sdp::CodecPolicy,
    sip::{
        dialog::DialogId,
        message::{Method, Response},
        ua::{ClientId, Counters, LongRequests, ServerId, Ua, UaEvent},
    },
    tracked::Tracked,
};
use call::{Call, CallKey, Phase};
use effects::{Answer, Ask, AskId, Input, Output, RelayRequestId, SocketId};
use journal::Written;
use messages::{ClientMessage, Fail, ServerMessage, Subject};
use outcome::{CallEnd, SessionFailure};
use session::{Session, SessionKey, Socket, Worth};
pub use settings::{BusyStatus, GatewayConfig, Ringback, RingbackTone};
use taken::TakenByPeer;
use timers::{Timer, Timers};
use wall::Wall;

/// Who waits for an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskOwner {
    Session(SessionKey),
    Registration(SessionKey),
    Call(CallKey),
}

/// What a SIP request of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientUse {
    Register(SessionKey),
    Invite(CallKey),
    Reinvite(CallKey),
    PictureRequest(CallKey),
    Bye,
}

/// Counters that only grow.
#[derive(Debug, Default)]
struct Totals {
    calls_finished: u64,
    calls_failed: u64,
    calls_refused: u64,
    frames_refused: u64,
    registrations_failed: u64,
    sessions_displaced: u64,
}

/// The call core.
pub struct Gateway {
    config: GatewayConfig,
    /// The codec lists for peers of no trunk that has its own.
    codecs: Arc<CodecPolicy>,
    entropy: Box<dyn Entropy + Send>,
    ua: Ua,
    /// The time of the input in hand.
    now: Time,
    outputs: VecDeque<Output>,
    timers: Timers,
    draining: bool,
    sockets: BTreeMap<SocketId, Socket>,
    sessions: Tracked<SessionKey, Session>,
    /// Opaque keys and token finders of living sessions.
    contacts: BTreeMap<String, SessionKey>,
    tokens: BTreeMap<String, SessionKey>,
    /// Addresses that the SIP agent may show a session's credentials.
    account_targets: BTreeMap<SessionKey, Vec<SocketAddr>>,
    /// Sessions without a socket, in the order in which they make room for others.
    detached: BTreeSet<(Worth, Time, SessionKey)>,
    calls: Tracked<CallKey, Call>,
    call_ids: BTreeMap<String, CallKey>,
    asks: BTreeMap<AskId, AskOwner>,
    clients: BTreeMap<ClientId, ClientUse>,
    servers: BTreeMap<ServerId, CallKey>,
    dialogs: BTreeMap<DialogId, CallKey>,
    relays: BTreeMap<RelayId, CallKey>,
    puts: BTreeMap<RelayRequestId, CallKey>,
    wall: Wall,
    /// What the journal holds.
    written: Written,
    wall_at_zero: WallTime,
    /// The dataplane's last event, and whether that is to be written down.
    relay_seen: Option<(String, EventSeq)>,
    is_relay_seen_new: bool,
    /// Sessions of a former control whose pages have not come back.
    adopted: usize,
    taken: TakenByPeer,
    totals: Totals,
    next_session: u64,
    next_call: u64,
    next_ask: u64,
    next_request: u64,
}

/// How REST and browsers see a node's number.
fn node_id(node: u16) -> String {
    format!("{node:04x}")
}

impl Gateway {
    /// A core without sessions. `entropy` makes keys, tokens and SSRCs, `sip_entropy` tags and branches.
    #[must_use]
    pub fn new(
        mut config: GatewayConfig,
        entropy: Box<dyn Entropy + Send>,
        sip_entropy: Box<dyn Entropy + Send>,
    ) -> Self {
        config.ua.allow = vec![Method::Invite, Method::Info];
        let mut ua = Ua::new(config.ua.clone(), sip_entropy);
        ua.track_changes();
        let (mut sessions, mut calls) = (Tracked::default(), Tracked::default());
        sessions.track();
        calls.track();
        Gateway {
            codecs: Arc::new(config.codecs.clone()),
            config,
            entropy,
            ua,
            now: Time::ZERO,
            outputs: VecDeque::new(),
            timers: Timers::default(),
            draining: false,
            sockets: BTreeMap::new(),
            sessions,
            contacts: BTreeMap::new(),
            tokens: BTreeMap::new(),
            account_targets: BTreeMap::new(),
            detached: BTreeSet::new(),
            calls,
            call_ids: BTreeMap::new(),
            asks: BTreeMap::new(),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            relays: BTreeMap::new(),
            puts: BTreeMap::new(),
            wall: Wall::default(),
            written: Written::default(),
            wall_at_zero: WallTime::default(),
            relay_seen: None,
            is_relay_seen_new: false,
            adopted: 0,
            taken: TakenByPeer::default(),
            totals: Totals::default(),
            next_session: 0,
            next_call: 0,
            next_ask: 0,
            next_request: 0,
        }
    }

    /// Takes one input. Drain [`Gateway::poll_output`] afterwards.
    pub fn handle_input(&mut self, now: Time, input: Input) {
        self.now = now;
        match input {
            Input::SocketOpened { socket, peer } => self.socket_opened(socket, peer),
            Input::SocketMessage { socket, message } => self.socket_message(socket, message),
            Input::SocketRefused { socket, subject, problem } => self.frame_refused(socket, subject, problem),
            Input::SocketClosed { socket } => self.socket_closed(socket),
            Input::Rest { request, call } => self.rest(request, call),
            Input::SipReceived { source, bytes } => self.ua.handle_message(now, source, &bytes),
            Input::SipFailed { transport, remote, flow } => {
                self.ua.handle_transport_error(now, transport, remote, flow);
            }
            Input::RelayUp { epoch, capabilities } => self.wall_up(epoch, capabilities),
            Input::RelayDown => self.wall_down(),
            Input::RelayGap => self.list(None),
            Input::RelayReply { id, result } => self.relay_reply(id, result),
            Input::RelayEvent { event } => self.relay_event(event),
            Input::RelaySeen { instance, seq } => {
                self.relay_seen = Some((instance, seq));
                self.is_relay_seen_new = true;
            }
            Input::Answer { ask, answer } => self.ask_answered(ask, Some(answer)),
            Input::Drain => self.drain(),
            Input::EndAll => self.end_all(),
        }
        self.pump();
        self.write_journal();
    }

    /// Runs what is due at `now`. Drain [`Gateway::poll_output`] afterwards.
    pub fn handle_timeout(&mut self, now: Time) {
        self.now = now;
        self.ua.handle_timeout(now);
        self.pump();
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Hello(socket) => self.hello_timeout(socket),
                Timer::Ping(socket) => self.ping(socket),
                Timer::Ask(ask) => self.ask_answered(ask, None),
                Timer::Register(session) => self.register_due(session),
                Timer::OldToken(session) => self.forget_old_token(session),
                Timer::Linger(session) => self.remove_departed(session),
                Timer::Orphans => self.end_orphans(),
                Timer::Sweep => self.sweep(),
                Timer::Relist => self.list(None),
                Timer::Call(call, timer) => self.call_timeout(call, timer),
            }
            self.pump();
        }
        self.write_journal();
    }

    /// When [`Gateway::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        [self.timers.next(), self.ua.poll_timeout()].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The SIP agent's counters, for metrics.
    #[must_use]
    pub const fn sip_counters(&self) -> &Counters {
        self.ua.counters()
    }

    /// How often a SIP request was too long for a datagram, for metrics.
    #[must_use]
    pub const fn long_requests(&self) -> &LongRequests {
        self.ua.long_requests()
    }

    /// How many SIP transactions are alive: zero when nothing is going on.
    #[must_use]
    pub fn sip_transactions(&self) -> usize {
        self.ua.transactions()
    }

    /// Lets the SIP agent speak until it has nothing more to say.
    fn pump(&mut self) {
        loop {
            while let Some(transmit) = self.ua.poll_transmit() {
                self.outputs.push_back(Output::SipTransmit(transmit));
            }
            match self.ua.poll_event() {
                Some(event) => self.sip_event(event),
                None => return,
            }
        }
    }

    fn socket_message(&mut self, socket: SocketId, message: ClientMessage) {
        let Some(session) = self.sockets.get(&socket).map(|state| state.session) else { return };
        match (message, session) {
            (ClientMessage::Connection(connection), _) => self.connection(socket, *connection),
            (ClientMessage::Ping, _) => self.send(socket, ServerMessage::Pong),
            (ClientMessage::Pong, _) => self.pong(socket),
            (ClientMessage::Ignored { message }, _) => tracing::debug!(message, "message is ignored"),
            (_, None) => {
                let fail = Fail::connection("the first message must be connection");
                self.send(socket, ServerMessage::Fail(fail));
            }
            (ClientMessage::SendData(data), Some(_)) => {
                let message = ServerMessage::DataStatus { operation_id: data.operation_id, accepted: true };
                self.send(socket, message);
            }
            (ClientMessage::SessionDebug(_), Some(_)) => {
                self.send(socket, ServerMessage::SessionDebug { status: "DISABLED" });
            }
            (ClientMessage::Stream(stream), Some(_)) => {
                if let Some(media_session_id) = stream.media_session_id.or(stream.id) {
                    let info = "this server does calls only, no streams".to_owned();
                    self.send(socket, ServerMessage::StreamFailed { media_session_id, info });
                }
            }
            (ClientMessage::Call(request), Some(session)) => self.place_call(socket, session, *request),
            (ClientMessage::Answer(request), Some(session)) => self.answer(socket, session, &request),
            (ClientMessage::Hangup(reference), Some(session)) => self.hangup(session, &reference),
            (ClientMessage::Hold(reference), Some(session)) => {
                self.refuse_hold(socket, session, &reference.call_id, "hold: this server does not support it yet");
            }
            (ClientMessage::Unhold(reference), Some(session)) => {
                self.refuse_hold(socket, session, &reference.call_id, "unhold: this server does not support it yet");
            }
            (ClientMessage::SendDtmf(request), Some(session)) => self.dtmf(socket, session, &request),
            (ClientMessage::Transfer(request), Some(session)) => self.transfer(socket, session, &request),
        }
    }

    /// A frame that cannot be read: the page is told, and is not left waiting for what will not come.
    fn frame_refused(&mut self, socket: SocketId, subject: Subject, problem: String) {
        self.totals.frames_refused += 1;
        let Some(session) = self.sockets.get(&socket).map(|state| state.session) else { return };
        match (subject, session) {
            (Subject::Connection, None) => self.refuse_socket(socket, Fail::connection(problem)),
            (Subject::Call(call_id), Some(session)) => self.refuse_unread_call(socket, session, call_id, problem),
            (Subject::Answer(call_id), Some(session)) => self.refuse_unread_answer(socket, session, &call_id, problem),
            (Subject::Hold(call_id), Some(session)) => self.refuse_hold(socket, session, &call_id, &problem),
            (Subject::OfCall(call_id), Some(_)) => {
                self.send(socket, ServerMessage::Fail(Fail::call(&call_id, problem)));
            }
            (_, None) | (Subject::Connection | Subject::Unknown, Some(_)) => {
                self.send(socket, ServerMessage::Fail(Fail::connection(problem)));
            }
        }
    }

    fn sip_event(&mut self, event: UaEvent) {
        match event {
            UaEvent::Shortened { client, body } => {
                if let Some(ClientUse::Invite(key) | ClientUse::Reinvite(key)) = self.clients.get(&client).copied() {
                    self.offer_shortened(key, body);
                }
            }
            UaEvent::Progress { client, response, .. } => {
                if let Some(ClientUse::Invite(key)) = self.clients.get(&client).copied() {
                    self.call_progress(key, &response);
                }
            }
            UaEvent::Answered { client, dialog, response } => match self.clients.remove(&client) {
                Some(ClientUse::Invite(key)) => self.call_answered(key, dialog, &response),
                Some(ClientUse::Reinvite(key)) => self.realigned(key, Some(&response)),
                _ => {}
            },
            UaEvent::Finished { client, response, .. } => {
                let status = response.status.code();
                let end = if status == 408 { CallEnd::RequestTimeout } else { CallEnd::Refused(status) };
                self.request_ended(client, Ok(&response), end);
            }
            UaEvent::TimedOut { client, .. } => {
                self.request_ended(client, Err(SessionFailure::RegistrarSilent), CallEnd::RequestTimeout);
            }
            UaEvent::TransportFailed { client, .. } => {
                self.request_ended(client, Err(SessionFailure::RegistrarUnreachable), CallEnd::TransportFailed);
            }
            UaEvent::TooLong { client, .. } => match self.clients.remove(&client) {
                Some(ClientUse::Invite(key)) => self.call_too_long(key, client),
                Some(ClientUse::Reinvite(key)) => self.realigned(key, None),
                _ => {}
            },
            UaEvent::Unusable { client } => match self.clients.remove(&client) {
                Some(ClientUse::Invite(key)) => self.call_refused(key, client, CallEnd::Refused(502)),
                Some(ClientUse::Reinvite(key)) => self.realigned(key, None),
                _ => {}
            },
            UaEvent::CrossedCancel { client } => {
                self.clients.remove(&client);
            }
            UaEvent::ForkEnded { dialog, .. } => tracing::debug!(?dialog, "a second fork was ended"),
            UaEvent::Invite { server, request, source, known_peer, .. } => {
                self.invited(server, &request, source, known_peer);
            }
            UaEvent::Request { server, request, .. } => self.stray_request(server, &request),
            UaEvent::DialogRequest { dialog, server, request } => self.dialog_request(&dialog, server, &request),
            UaEvent::Bye { dialog, .. } => self.dialog_ended(&dialog, CallEnd::PeerHangup),
            UaEvent::Cancelled { server, .. } => self.caller_cancelled(server),
            UaEvent::Acked { server, request, .. } => {
                if let Some(key) = self.servers.get(&server).copied() {
                    self.acked(key, server, &request);
                }
            }
            UaEvent::AckMissing { dialog, .. } => self.dialog_ended(&dialog, CallEnd::RequestTimeout),
        }
    }

    /// A SIP request of ours has its final answer, or none.
    fn request_ended(&mut self, client: ClientId, result: Result<&Response, SessionFailure>, end: CallEnd) {
        match self.clients.remove(&client) {
            Some(ClientUse::Register(key)) => self.register_answered(key, result),
            Some(ClientUse::Invite(key)) if is_failure_of_address(&result) => self.call_undelivered(key, client, end),
            Some(ClientUse::Invite(key)) => self.call_refused(key, client, end),
            Some(ClientUse::Reinvite(key)) => self.realigned(key, result.ok()),
            Some(ClientUse::PictureRequest(key)) => self.picture_request_ended(key, result.ok()),
            Some(ClientUse::Bye) | None => {}
        }
    }

    /// Asks the world; the answer, or its absence, comes to `owner`.
    fn ask(&mut self, owner: AskOwner, what: Ask) -> AskId {
        self.next_ask += 1;
        let ask = AskId(self.next_ask);
        let deadline = self.now + self.config.ask_timeout;
        self.asks.insert(ask, owner);
        self.timers.set(Timer::Ask(ask), deadline);
        self.outputs.push_back(Output::Ask { ask, deadline, what });
        ask
    }

    /// Nobody waits for this ask any more.
    fn abandon_ask(&mut self, ask: AskId) {
        self.asks.remove(&ask);
        self.timers.clear(Timer::Ask(ask));
    }

    /// An ask was answered, or its time is over. Late and repeated answers find nobody.
    fn ask_answered(&mut self, ask: AskId, answer: Option<Answer>) {
        let Some(owner) = self.asks.remove(&ask) else { return };
        self.timers.clear(Timer::Ask(ask));
        match owner {
            AskOwner::Session(key) => {
                let denied = Answer::Denied { info: String::new() };
                self.session_authorized(key, &answer.filter(is_about_authorization).unwrap_or(denied));
            }
            AskOwner::Registration(key) => self.registrar_resolved(key, resolved_or_not(answer)),
            AskOwner::Call(key) => self.call_ask_answered(key, answer),
        }
    }

    fn call_ask_answered(&mut self, key: CallKey, answer: Option<Answer>) {
        let Some(call) = self.calls.get(&key) else { return };
        let incoming = call.incoming;
        let peer = call.targets.current().map(|target| target.remote.ip());
        match call.phase {
            Phase::Authorizing(_) if answer != Some(Answer::Authorized) => self.finish(key, CallEnd::Denied),
            Phase::Authorizing(_) if incoming => self.allocate(key, peer),
            Phase::Authorizing(_) => self.resolve_call(key),
            Phase::Resolving(_) => self.call_resolved(key, resolved_or_not(answer)),
            Phase::Allocating(_) => {
                let late = || RelayError::new(ErrorCode::Internal, "", "the dataplane did not answer in time");
                self.relay_allocated(key, answer.unwrap_or_else(|| Answer::NotAllocated(late())));
            }
            _ => {}
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        self.ua.set_draining(true);
    }

    fn end_all(&mut self) {
        self.drain();
        let calls: Vec<CallKey> = self.calls.keys().copied().collect();
        for key in calls {
            self.finish(key, CallEnd::Shutdown);
        }
        let sessions: Vec<SessionKey> = self.sessions.keys().copied().collect();
        for key in sessions {
            self.end_session(key, CallEnd::Shutdown);
        }
        let sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        for socket in sockets {
            self.close_socket(socket, session::CLOSE_GOING_AWAY);
        }
    }
}

fn is_about_authorization(answer: &Answer) -> bool {
    matches!(answer, Answer::Authorized | Answer::Denied { .. })
}

/// Whether a request failed for the address it went to, so that another of the same name is to be tried: silence, a broken transport,
/// 503 (RFC 3263 section 4.3).
fn is_failure_of_address(result: &Result<&Response, SessionFailure>) -> bool {
    result.as_ref().map_or(true, |response| response.status.code() == 503)
}

/// The answer to a `Resolve`; an empty list, silence and nonsense count as not found.
fn resolved_or_not(answer: Option<Answer>) -> Answer {
    match answer {
        Some(Answer::Resolved(targets)) if !targets.is_empty() => Answer::Resolved(targets),
        Some(unresolved @ Answer::Unresolved { .. }) => unresolved,
        _ => Answer::Unresolved { reason: "no answer".to_owned() },
    }
}
