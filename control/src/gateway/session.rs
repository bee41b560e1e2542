//! Sockets and sessions: `connection`, tokens, pings, and what becomes of a session when its socket goes away.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use gangway_shared::time::Time;

use super::{
    Gateway,
    account::SipAccount,
    call::CallKey,
    effects::{Answer, Ask, AskId, Authorize, Output, SocketId, SocketPeer},
    journal::SessionRecord,
    kept::{KEPT_MAX_BYTES, KeptJson},
    messages::{CallMessage, CallStatus, CallView, Connection, Fail, ServerMessage},
    outcome::{CallEnd, SessionFailure, SessionNotice},
    registration::Registration,
    timers::Timer,
};
use crate::{
    fairness::counted_as,
    sip::{dialog::Target, ua::AccountId},
};

/// A session within this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionKey(pub(super) u64);

/// Random bytes of a session's opaque key, the user part of its Contact: who knows it was told by us or by the registrar.
const CONTACT_KEY_BYTES: usize = 10;
/// As many hexadecimal digits of it as a number holds.
const ACCOUNT_ID_DIGITS: usize = 16;
/// Random bytes that find a token, and those that prove it.
const TOKEN_FINDER_BYTES: usize = 8;
const TOKEN_SECRET_BYTES: usize = 16;
/// A token that was renewed at resume stays good for so long, or until the first pong of the new socket.
pub(super) const OLD_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Ends of calls that are kept for a page that comes back.
const ENDED_CALLS_MAX: usize = 16;
/// Longest part of a field's name that is repeated to whom sent it.
const SHOWN_FIELD_MAX_CHARS: usize = 64;
/// Close codes: normal, and going away.
pub(super) const CLOSE_NORMAL: u16 = 1000;
pub(super) const CLOSE_GOING_AWAY: u16 = 1001;

/// What is known of a token: enough to find and to prove it, not enough to show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Token {
    /// The part that finds its session.
    pub(super) finder: String,
    /// SHA-256 of all of it, in hexadecimal digits.
    digest: String,
}

impl Token {
    fn of(token: &str) -> Self {
        let digest: String = Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Token { finder: finder_of(token).unwrap_or_default().to_owned(), digest }
    }
}

/// The number under which the SIP agent keeps a session's credentials: made of its opaque key, so that dialogs of the journal mean the
/// same account in every run.
fn account_id(contact_key: &str) -> AccountId {
    let digits = contact_key.get(..ACCOUNT_ID_DIGITS).unwrap_or_default();
    AccountId(u64::from_str_radix(digits, 16).unwrap_or_default())
}

/// A websocket.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) peer: SocketPeer,
    pub(super) session: Option<SessionKey>,
    /// Pings without a pong.
    unanswered: u32,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionState {
    /// Waits whether it may be.
    Authorizing(AskId),
    /// `getUserData` was sent.
    Established,
    /// Over for everybody; waits for its un-REGISTER and for challenges to its last BYEs.
    Departing,
}

/// What is lost when a detached session has to make room: least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// It neither registered nor called: its page gives its credentials again.
    Nothing,
    /// Its account is, or was about to be, known to a registrar or a peer.
    Account,
    /// Its calls.
    Calls,
}

/// A session.
pub(super) struct Session {
    pub(super) state: SessionState,
    pub(super) socket: Option<SocketId>,
    /// The opaque key: user part of its Contact.
    pub(super) contact_key: String,
    /// What browsers and REST call it.
    pub(super) session_id: String,
    pub(super) app_key: String,
    /// Fields of `connection` without password and token, for echoes.
    pub(super) fields: KeptJson,
    /// Whom it counts for in the limit of one address.
    pub(super) remote: IpAddr,
    pub(super) account: Option<SipAccount>,
    pub(super) account_id: AccountId,
    pub(super) keep_alive: bool,
    /// It was there before a restart of ours and its page has not come back: until then it counts as one with keepAlive.
    pub(super) is_adopted: bool,
    /// It was left behind by a restart and made room for another: what it still has to say counts in no limit.
    is_displaced: bool,
    pub(super) token: Option<Token>,
    /// The token before the last resume.
    pub(super) old_token: Option<Token>,
    /// Ends of calls that its page could not be told, the oldest first.
    ended: VecDeque<CallView>,
    /// Its place among the sessions without a socket: what it is worth, and since when it has none.
    detached: Option<(Worth, Time)>,
    pub(super) registration: Registration,
    /// The address of its proxy that answered last: tried first next time.
    pub(super) proxy: Option<Target>,
    pub(super) calls: BTreeSet<CallKey>,
    /// It has sent INVITE or BYE: its credentials may be needed a while after its end.
    pub(super) had_calls: bool,
}

impl Session {
    /// Whether calls may use it.
    pub(super) fn is_established(&self) -> bool {
        self.state == SessionState::Established
    }

    /// Whether it has only its page to wait for since a restart of ours, and that page asked for no keepAlive: most pages come back
    /// with a session of their own.
    pub(super) fn is_left_behind(&self) -> bool {
        self.is_adopted && !self.keep_alive && self.is_established() && self.calls.is_empty()
    }

    /// Whether it is the same user's as another: only who knows the password may say so.
    fn is_of(&self, account: &SipAccount) -> bool {
        self.account.as_ref().is_some_and(|own| {
            let passwords = [&own.password, &account.password].map(|password| password.expose().as_bytes());
            own.login == account.login && own.domain == account.domain && bool::from(passwords[0].ct_eq(passwords[1]))
        })
    }

    /// Whether it lives on without its socket.
    pub(super) fn outlives_its_socket(&self) -> bool {
        self.keep_alive || self.is_adopted
    }

    /// All of it for a later control; the password goes along unwritten.
    pub(super) fn record(&self, key: SessionKey, targets: Vec<SocketAddr>) -> SessionRecord {
        SessionRecord {
            number: key.0,
            session_id: self.session_id.clone(),
            app_key: self.app_key.clone(),
            fields: self.fields.clone(),
            remote: self.remote,
            account: self.account.clone(),
            sealed_password: None,
            targets,
            keep_alive: self.keep_alive,
            token: self.token.clone(),
            old_token: self.old_token.clone(),
            is_departing: self.state == SessionState::Departing,
            had_calls: self.had_calls,
            proxy: self.proxy.map(|target| Target { flow: None, ..target }),
        }
    }

    /// A session of a former control: it waits for its page.
    pub(super) fn adopted(contact_key: String, record: SessionRecord) -> Self {
        Session {
            state: SessionState::Established,
            socket: None,
            session_id: record.session_id,
            app_key: record.app_key,
            fields: record.fields,
            remote: record.remote,
            account: record.account,
            account_id: account_id(&contact_key),
            contact_key,
            keep_alive: record.keep_alive,
            is_adopted: true,
            is_displaced: false,
            token: record.token,
            old_token: record.old_token,
            ended: VecDeque::new(),
            detached: None,
            registration: Registration::default(),
            proxy: record.proxy,
            calls: BTreeSet::new(),
            had_calls: record.had_calls,
        }
    }

    /// Keeps the end of a call for the page that comes back; the oldest makes room.
    pub(super) fn keep_end(&mut self, call: CallView) {
        // What an application adds to a call may be long.
        let call = CallView { custom: None, ..call };
        if self.ended.len() >= ENDED_CALLS_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(call);
    }

    /// The connection as its page sees it.
    pub(super) fn view(&self, node: u16) -> Map<String, Value> {
        shown(&self.fields, &self.session_id, node)
    }

    /// Bytes of JSON kept for echoes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.fields.len_bytes()
    }

    /// What is lost when it ends.
    pub(super) fn worth(&self) -> Worth {
        if !self.calls.is_empty() {
            Worth::Calls
        } else if self.had_calls || !self.registration.is_over() {
            Worth::Account
        } else {
            Worth::Nothing
        }
    }

    /// Its place among the sessions without a socket.
    pub(super) fn detached(&self) -> Option<(Worth, Time)> {
        self.detached
    }
}

impl Gateway {
    pub(super) fn socket_opened(&mut self, socket: SocketId, peer: SocketPeer) {
        self.sockets.insert(socket, Socket { peer, session: None, unanswered: 0 });
        if self.draining {
            self.send(socket, ServerMessage::Fail(Fail::connection("the server is shutting down")));
            self.close_socket(socket, CLOSE_GOING_AWAY);
            return;
        }
        self.timers.set(Timer::Hello(socket), self.now + self.config.connection_timeout);
        self.timers.set(Timer::Ping(socket), self.now + self.config.ping_interval);
    }

    /// Sends to a socket that is still there.
    pub(super) fn send(&mut self, socket: SocketId, message: ServerMessage) {
        if self.sockets.contains_key(&socket) {
            self.outputs.push_back(Output::SocketSend { socket, message });
        }
    }

    /// Closes a socket gently and forgets it. Its session must have been dealt with.
    pub(super) fn close_socket(&mut self, socket: SocketId, code: u16) {
        if self.sockets.remove(&socket).is_some() {
            self.timers.clear(Timer::Hello(socket));
            self.timers.clear(Timer::Ping(socket));
            self.outputs.push_back(Output::SocketClose { socket, code });
        }
    }

    pub(super) fn socket_closed(&mut self, socket: SocketId) {
        let Some(gone) = self.sockets.remove(&socket) else { return };
        self.timers.clear(Timer::Hello(socket));
        self.timers.clear(Timer::Ping(socket));
        if let Some(session) = gone.session {
            self.session_lost_its_socket(session, socket);
        }
    }

    pub(super) fn hello_timeout(&mut self, socket: SocketId) {
        let waiting = self.sockets.get(&socket).is_some_and(|socket| socket.session.is_none());
        if waiting {
            self.refuse_socket(socket, Fail::connection("no connection message came in time"));
        }
    }

    pub(super) fn ping(&mut self, socket: SocketId) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if state.unanswered >= self.config.ping_probes {
            tracing::info!(?socket, "websocket is dead: no pong");
            let session = state.session;
            self.close_socket(socket, CLOSE_GOING_AWAY);
            if let Some(session) = session {
                self.session_lost_its_socket(session, socket);
            }
            return;
        }
        state.unanswered += 1;
        self.timers.set(Timer::Ping(socket), self.now + self.config.ping_interval);
        self.send(socket, ServerMessage::Ping);
    }

    pub(super) fn pong(&mut self, socket: SocketId) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.unanswered = 0;
        if let Some(key) = state.session {
            self.forget_old_token(key);
        }
    }

    /// `connection`: starts a session, or resumes one by its token.
    pub(super) fn connection(&mut self, socket: SocketId, connection: Connection) {
        let Some(state) = self.sockets.get(&socket) else { return };
        if state.session.is_some() {
            self.send(socket, ServerMessage::Fail(Fail::connection("connection: it was already sent on this socket")));
            return;
        }
        self.timers.clear(Timer::Hello(socket));
        if let Some(token) = connection.auth_token.as_ref().filter(|token| !token.expose().is_empty()) {
            match self.session_of_token(token.expose()) {
                Some(key) => self.resume(socket, key),
                None => self.refuse_socket(socket, SessionNotice::of(&SessionFailure::UnknownToken).fail),
            }
            return;
        }
        let remote = counted_as(state.peer.remote.ip());
        let account = match SipAccount::of(&connection) {
            Ok(account) => account,
            Err(failure) => return self.refuse_socket(socket, SessionNotice::of(&failure).fail),
        };
        let fields = match kept_fields(&connection) {
            Ok(fields) => fields,
            Err(problem) => return self.refuse_socket(socket, Fail::connection(problem)),
        };
        // Those that depart count too: each holds its REGISTER until that ends. Those that a restart left behind do not: their pages are
        // the very ones that come now.
        let counted = || self.sessions.values().filter(|session| !session.is_left_behind() && !session.is_displaced);
        if counted().count() >= self.config.max_sessions {
            return self.refuse_socket(socket, Fail::connection("too many sessions"));
        }
        if counted().filter(|session| session.remote == remote).count() >= self.config.max_sessions_per_ip {
            return self.refuse_socket(socket, Fail::connection("too many sessions from this address"));
        }
        let living = self.sessions.values().filter(|session| !session.is_displaced).count();
        if living >= self.config.max_sessions
            && let Some((&oldest, _)) = self.sessions.iter().find(|(_, session)| session.is_left_behind())
        {
            self.totals.sessions_displaced += 1;
            self.displace(oldest);
        }
        self.begin_session(socket, &connection, fields, account);
    }

    fn begin_session(
        &mut self,
        socket: SocketId,
        connection: &Connection,
        fields: KeptJson,
        account: Option<SipAccount>,
    ) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        self.next_session += 1;
        let key = SessionKey(self.next_session);
        state.session = Some(key);
        let peer = state.peer.clone();
        let session_id = format!("/{}/{}", peer.remote, peer.local);
        let contact_key = self.entropy.hex(CONTACT_KEY_BYTES);
        let app_key = connection.app_key.clone().unwrap_or_else(|| "defaultApp".to_owned());
        let ask = self.ask(
            super::AskOwner::Session(key),
            Ask::Authorize(Authorize::Connection {
                session_id: session_id.clone(),
                remote: peer.remote,
                origin: peer.origin,
                connection: shown(&fields, &session_id, self.config.node),
            }),
        );
        self.contacts.insert(contact_key.clone(), key);
        let account_id = account_id(&contact_key);
        self.sessions.insert(
            key,
            Session {
                state: SessionState::Authorizing(ask),
                socket: Some(socket),
                contact_key,
                session_id,
                app_key,
                fields,
                remote: counted_as(peer.remote.ip()),
                account,
                account_id,
                keep_alive: connection.keep_alive.unwrap_or(false),
                is_adopted: false,
                is_displaced: false,
                token: None,
                old_token: None,
                ended: VecDeque::new(),
                detached: None,
                registration: Registration::default(),
                proxy: None,
                calls: BTreeSet::new(),
                had_calls: false,
            },
        );
    }

    /// The answer to a session's `Authorize`.
    pub(super) fn session_authorized(&mut self, key: SessionKey, answer: &Answer) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if !matches!(session.state, SessionState::Authorizing(_)) {
            return;
        }
        if let Answer::Denied { info } = answer {
            let mut notice = SessionNotice::of(&SessionFailure::ConnectDenied);
            if !info.is_empty() {
                notice.fail.info.clone_from(info);
            }
            return self.end_session_with(key, notice);
        }
        session.state = SessionState::Established;
        if let Some(account) = session.account.clone() {
            // Before it registers: a registrar that keeps one binding for each account drops the former one's with its last REGISTER.
            let left = self.sessions.iter().filter(|(_, session)| session.is_left_behind() && session.is_of(&account));
            for key in left.map(|(key, _)| *key).collect::<Vec<_>>() {
                self.displace(key);
            }
        }
        let Some(session) = self.sessions.get(&key) else { return };
        let address_of_record = session.account.as_ref().map(|account| account.address_of_record().to_string());
        let registers = session.account.as_ref().is_some_and(|account| account.register);
        tracing::info!(session = %session.contact_key, account = address_of_record.as_deref(), "session established");
        self.greet(key);
        if registers {
            self.start_registration(key);
        }
    }

    /// `getUserData` with a new token: once per socket (R3).
    fn greet(&mut self, key: SessionKey) {
        let token = self.renew_token(key);
        let Some(session) = self.sessions.get(&key) else { return };
        let Some(socket) = session.socket else { return };
        let mut fields = session.view(self.config.node);
        fields.insert("authToken".to_owned(), json!(token));
        self.send(socket, ServerMessage::UserData(fields));
    }

    fn renew_token(&mut self, key: SessionKey) -> String {
        let finder = self.entropy.hex(TOKEN_FINDER_BYTES);
        let secret = self.entropy.hex(TOKEN_SECRET_BYTES);
        let token = format!("{:04x}-{finder}-{secret}", self.config.node);
        let Some(session) = self.sessions.get_mut(&key) else { return token };
        let former = session.token.replace(Token::of(&token));
        let forgotten = std::mem::replace(&mut session.old_token, former);
        let has_old = session.old_token.is_some();
        if let Some(forgotten) = forgotten {
            self.tokens.remove(&forgotten.finder);
        }
        self.tokens.insert(finder, key);
        if has_old {
            self.timers.set(Timer::OldToken(key), self.now + OLD_TOKEN_LIFE);
        }
        token
    }

    pub(super) fn forget_old_token(&mut self, key: SessionKey) {
        // Each pong comes here: a session that is handed out for a change is put into words for the journal.
        if self.sessions.get(&key).is_none_or(|session| session.old_token.is_none()) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if let Some(old) = session.old_token.take() {
            self.tokens.remove(&old.finder);
            self.timers.clear(Timer::OldToken(key));
        }
    }

    /// The session whose token this is. The finder part is looked up, the secret part compared in constant time.
    fn session_of_token(&self, token: &str) -> Option<SessionKey> {
        let key = *self.tokens.get(finder_of(token)?)?;
        let session =
            self.sessions.get(&key).filter(|session| session.is_established() && session.outlives_its_socket())?;
        let shown = Token::of(token);
        let matches = |known: &Option<Token>| {
            known.as_ref().is_some_and(|known| bool::from(known.digest.as_bytes().ct_eq(shown.digest.as_bytes())))
        };
        // Both are compared so that the time tells nothing.
        let (current, old) = (matches(&session.token), matches(&session.old_token));
        (current | old).then_some(key)
    }

    /// A kept session gets a new socket; an open old one is closed, the newest wins.
    fn resume(&mut self, socket: SocketId, key: SessionKey) {
        self.undetach(key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        self.adopted -= usize::from(std::mem::take(&mut session.is_adopted));
        let former = session.socket.replace(socket);
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.session = Some(key);
            session.remote = counted_as(state.peer.remote.ip());
        }
        if let Some(former) = former {
            if let Some(state) = self.sockets.get_mut(&former) {
                state.session = None;
            }
            self.close_socket(former, CLOSE_NORMAL);
            self.end_calls_of_lost_page(key);
        }
        self.greet(key);
        if self.sessions.get(&key).is_some_and(|session| session.registration.is_registered()) {
            self.tell_registered(key);
        }
        self.tell_ends(key, socket);
        let waiting: Vec<CallKey> =
            self.sessions.get(&key).map(|s| s.calls.iter().copied().collect()).unwrap_or_default();
        for call in waiting {
            self.announce(call);
            // A page that is still the one of before learns that it goes on.
            if self.calls.get(&call).is_some_and(|call| call.status == CallStatus::Established) {
                self.tell(call, CallMessage::Talk);
            }
        }
    }

    /// Ends of calls that came while there was no socket.
    fn tell_ends(&mut self, key: SessionKey, socket: SocketId) {
        let ended = self.sessions.get_mut(&key).map(|session| std::mem::take(&mut session.ended)).unwrap_or_default();
        for call in ended {
            self.send(socket, ServerMessage::CallStatus { kind: CallMessage::Finish, call: Box::new(call) });
        }
    }

    fn session_lost_its_socket(&mut self, key: SessionKey, socket: SocketId) {
        let Some(session) = self.sessions.get_mut(&key).filter(|session| session.socket == Some(socket)) else {
            return;
        };
        session.socket = None;
        if session.is_established() && session.outlives_its_socket() && !self.draining {
            self.end_calls_of_lost_page(key);
            self.detach(key);
        } else {
            self.end_session(key, CallEnd::SessionClosed);
        }
    }

    /// Keeps a session without its socket. Beyond the limit the one of the least worth ends, of those the oldest.
    pub(super) fn detach(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let worth = session.worth();
        session.detached = Some((worth, self.now));
        self.detached.insert((worth, self.now, key));
        if !self.timers.is_set(Timer::Sweep) {
            self.timers.set(Timer::Sweep, self.now + self.config.client_timeout_check_interval);
        }
        if self.detached.len() > self.config.max_detached_sessions + self.adopted
            && let Some(&(_, _, least)) = self.detached.iter().find(|(_, _, key)| !self.is_adopted(*key))
        {
            self.totals.sessions_displaced += 1;
            self.end_session(least, CallEnd::SessionClosed);
        }
    }

    /// Whether a session waits for its page since a restart of ours: no other has to make room for it, nor it for any.
    fn is_adopted(&self, key: SessionKey) -> bool {
        self.sessions.get(&key).is_some_and(|session| session.is_adopted)
    }

    /// Ends a session that a restart left behind, for one that comes.
    fn displace(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.is_displaced = true;
        }
        self.end_session(key, CallEnd::SessionClosed);
    }

    /// The last call of a session that a restart left behind is over: it ends where its page is back with another session.
    pub(super) fn leave_to_successor(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key).filter(|session| session.is_left_behind()) else { return };
        let Some(account) = &session.account else { return };
        let is_successor = |other: &Session| !other.is_adopted && other.is_established() && other.is_of(account);
        if self.sessions.values().any(is_successor) {
            self.displace(key);
        }
    }

    /// A session's calls have changed: without a socket it has another place from now on, as old as before.
    pub(super) fn rank_again(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some((former, at)) = session.detached else { return };
        let worth = session.worth();
        session.detached = Some((worth, at));
        self.detached.remove(&(former, at, key));
        self.detached.insert((worth, at, key));
    }

    /// A session has a socket again, or ends.
    fn undetach(&mut self, key: SessionKey) {
        let place = self.sessions.get_mut(&key).and_then(|session| session.detached.take());
        if let Some((worth, at)) = place {
            self.detached.remove(&(worth, at, key));
        }
    }

    /// Calls that a new page cannot take up end when the page is gone: outgoing ones without an answer. Those that talk live until
    /// consent or media fails, incoming ones ring on for a page that comes back in time.
    fn end_calls_of_lost_page(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        for call in session.calls.clone() {
            if self.calls.get(&call).is_some_and(|call| call.needs_its_page()) {
                self.finish(call, CallEnd::SessionClosed);
            }
        }
    }

    /// Ends detached sessions that are too old; runs only while there are detached ones. Calls live on until consent or media fails, and
    /// their session with them.
    pub(super) fn sweep(&mut self) {
        let too_old =
            |worth: Worth, at: Time| worth != Worth::Calls && self.now.since(at) >= self.config.client_timeout;
        let old: Vec<SessionKey> =
            self.detached.iter().filter(|(worth, at, _)| too_old(*worth, *at)).map(|(_, _, key)| *key).collect();
        for key in old {
            self.end_session(key, CallEnd::SessionClosed);
        }
        if !self.detached.is_empty() {
            self.timers.set(Timer::Sweep, self.now + self.config.client_timeout_check_interval);
        }
    }

    /// Refuses a socket that has no session yet: told and closed at once (wcs-protocol.md 5.8).
    pub(super) fn refuse_socket(&mut self, socket: SocketId, fail: Fail) {
        self.send(socket, ServerMessage::Fail(fail));
        self.close_socket(socket, CLOSE_NORMAL);
    }

    /// Tells the browser and, where the notice says so, ends the session.
    pub(super) fn end_session_with(&mut self, key: SessionKey, notice: SessionNotice) {
        let Some(session) = self.sessions.get(&key) else { return };
        let socket = session.socket;
        if let Some(socket) = socket {
            self.send(socket, ServerMessage::Fail(notice.fail));
        }
        if notice.close {
            self.end_session(key, CallEnd::SessionClosed);
        }
    }

    /// Ends a session: its calls, its registration, its token; closes its socket.
    pub(super) fn end_session(&mut self, key: SessionKey, cause: CallEnd) {
        let Some(session) = self.sessions.get(&key).filter(|session| session.state != SessionState::Departing) else {
            return;
        };
        let calls = session.calls.clone();
        if let Some(session) = self.sessions.get_mut(&key) {
            // From here on it waits for no page.
            self.adopted -= usize::from(std::mem::take(&mut session.is_adopted));
        }
        for call in calls {
            self.finish(call, cause);
        }
        self.undetach(key);
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let was = std::mem::replace(&mut session.state, SessionState::Departing);
        let socket = session.socket.take();
        session.fields = KeptJson::default();
        session.ended.clear();
        let tokens = [session.token.take(), session.old_token.take()];
        let contact_key = session.contact_key.clone();
        for token in tokens.into_iter().flatten() {
            self.tokens.remove(&token.finder);
        }
        self.contacts.remove(&contact_key);
        self.timers.clear(Timer::OldToken(key));
        if let SessionState::Authorizing(ask) = was {
            self.abandon_ask(ask);
        } else {
            tracing::info!(session = %contact_key, "session ended");
        }
        if let Some(socket) = socket {
            let code = if self.draining { CLOSE_GOING_AWAY } else { CLOSE_NORMAL };
            self.close_socket(socket, code);
        }
        self.end_registration(key);
        let linger = self.sessions.get(&key).is_some_and(|session| session.had_calls);
        if linger {
            self.timers.set(Timer::Linger(key), self.now + self.config.ua.timers.f);
        }
        self.remove_departed(key);
    }

    /// Forgets a departing session once nothing needs it.
    pub(super) fn remove_departed(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get(&key) else { return };
        let done = session.state == SessionState::Departing
            && session.registration.is_over()
            && !self.timers.is_set(Timer::Linger(key));
        if done {
            self.ua.remove_account(session.account_id);
            self.account_targets.remove(&key);
            self.sessions.remove(&key);
        }
    }
}

/// The part of a token that finds its session: `node-finder-secret`.
fn finder_of(token: &str) -> Option<&str> {
    token.split('-').nth(1)
}

/// What of `connection` is kept for echoes.
///
/// # Errors
/// It is too much: a sentence that names the longest field.
fn kept_fields(connection: &Connection) -> Result<KeptJson, String> {
    let fields = received(connection);
    KeptJson::of(&fields).ok_or_else(|| {
        let longest = fields.iter().max_by_key(|(name, value)| name.len() + value.to_string().len());
        let name: String =
            longest.map(|(name, _)| name.chars().take(SHOWN_FIELD_MAX_CHARS).collect()).unwrap_or_default();
        format!("{name}: it is too long; all fields together may have {KEPT_MAX_BYTES} bytes")
    })
}

/// Everything received but the password, the token, and names that are ours to give.
fn received(connection: &Connection) -> Map<String, Value> {
    let mut fields = connection.rest.clone();
    let texts = [
        ("appKey", &connection.app_key),
        ("sipLogin", &connection.sip_login),
        ("sipAuthenticationName", &connection.sip_authentication_name),
        ("sipDomain", &connection.sip_domain),
        ("sipOutboundProxy", &connection.sip_outbound_proxy),
        ("sipProxy", &connection.sip_proxy),
    ];
    for (name, value) in texts {
        if let Some(value) = value {
            fields.insert(name.to_owned(), json!(value));
        }
    }
    if let Some(port) = connection.sip_port {
        fields.insert("sipPort".to_owned(), json!(port));
    }
    if let Some(keep_alive) = connection.keep_alive {
        fields.insert("keepAlive".to_owned(), json!(keep_alive));
    }
    if let Some(register) = connection.sip_register_required {
        fields.insert("sipRegisterRequired".to_owned(), json!(register));
    }
    for name in ["sipPassword", "authToken", "status", "sessionId", "nodeId"] {
        fields.remove(name);
    }
    fields
}

/// The connection as it is echoed: what was received, and what section 6.3 adds.
fn shown(kept: &KeptJson, session_id: &str, node: u16) -> Map<String, Value> {
    let Value::Object(mut fields) = kept.value() else { return Map::new() };
    fields.insert("status".to_owned(), json!("ESTABLISHED"));
    fields.insert("sessionId".to_owned(), json!(session_id));
    fields.insert("nodeId".to_owned(), json!(super::node_id(node)));
    fields
}
