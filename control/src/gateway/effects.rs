//! Everything that enters and leaves the call core: the whole contract between [`Gateway`](super::Gateway) and its adapters.
//!
//! One [`Input`], then a full drain of outputs in order; the order matters (a `Put` before its `Delete`, `setRemoteSDP` before
//! `notifyIncomingCall`). The core keeps every deadline by itself: an adapter that never answers an [`Ask`] costs one waiting state.

use std::{net::SocketAddr, time::Duration};

use gangway_shared::{
    ids::{EventSeq, RelayId},
    rcp::{Event, PutReply, RelayError, RelayProgram, Reply, Request},
    time::Time,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    journal::JournalEntry,
    kept::KeptJson,
    messages::{CallStatus, CallView, ClientMessage, ServerMessage, Subject},
};
use crate::sip::{
    Transport,
    dialog::Target,
    ua::{Source, Transmit},
};

/// A websocket, numbered by its adapter; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// A REST request, numbered by its adapter; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RestId(pub u64);

/// A question of the core; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// A request over the wall, numbered by the core; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayRequestId(pub u64);

/// What the world tells the core.
#[derive(Clone, Debug)]
pub enum Input {
    /// A browser's websocket is open.
    SocketOpened {
        /// Its number.
        socket: SocketId,
        /// Facts about it.
        peer: SocketPeer,
    },
    /// A well-formed message came.
    SocketMessage {
        /// From which socket.
        socket: SocketId,
        /// The message.
        message: ClientMessage,
    },
    /// A malformed frame came: the browser gets a `fail` with this text, and what it waits for ends.
    SocketRefused {
        /// From which socket.
        socket: SocketId,
        /// What it was about.
        subject: Subject,
        /// Field and reason.
        problem: String,
    },
    /// The socket is gone, whoever closed it. Nothing is sent to it afterwards.
    SocketClosed {
        /// Which one.
        socket: SocketId,
    },
    /// A REST call.
    Rest {
        /// Its number.
        request: RestId,
        /// What is wanted.
        call: RestCall,
    },
    /// A datagram, or one whole message cut from a stream.
    SipReceived {
        /// Where from.
        source: Source,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A transmit could not be delivered, or a connection broke or could not be made.
    SipFailed {
        /// By which transport.
        transport: Transport,
        /// To whom.
        remote: SocketAddr,
        /// Over which connection.
        flow: Option<u64>,
    },
    /// The wall is up (again): `Hello` was exchanged. The core puts its programs again and asks `List` to delete what it does not
    /// own; the adapter need not.
    RelayUp {
        /// Control's epoch, agreed in `Hello`.
        epoch: u32,
        /// What the dataplane says it can do.
        capabilities: Vec<String>,
    },
    /// The wall is down. Requests without a reply are lost; the adapter forgets them.
    RelayDown,
    /// Events were lost: the core asks `List`.
    RelayGap,
    /// A request over the wall was answered.
    RelayReply {
        /// Which one.
        id: RelayRequestId,
        /// How.
        result: Result<Reply, RelayError>,
    },
    /// Something happened in the dataplane.
    RelayEvent {
        /// What.
        event: Event,
    },
    /// The event before this was the dataplane's `seq`-th: its consequences are known.
    RelaySeen {
        /// The run of the dataplane.
        instance: String,
        /// The event.
        seq: EventSeq,
    },
    /// An ask was answered. Late and repeated answers are ignored.
    Answer {
        /// Which one.
        ask: AskId,
        /// How.
        answer: Answer,
    },
    /// From now on: no new calls, no new sessions; SIP peers get 503 with Retry-After. Cannot be undone.
    Drain,
    /// End every call with BYE or CANCEL, un-REGISTER, close every socket with 1001. Implies `Drain`.
    EndAll,
}

/// Facts about a websocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    /// The browser's address.
    pub remote: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
    /// Under TLS.
    pub secure: bool,
    /// The `Origin` header.
    pub origin: Option<String>,
}

/// What the core wants done. Deliver in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send to a browser.
    SocketSend {
        /// Which socket.
        socket: SocketId,
        /// What.
        message: ServerMessage,
    },
    /// Close gently: what was sent before goes out first, then a close frame. `SocketClosed` follows from the adapter.
    SocketClose {
        /// Which socket.
        socket: SocketId,
        /// The close code.
        code: u16,
    },
    /// Answer a REST request.
    RestReply {
        /// Which one.
        request: RestId,
        /// With what.
        reply: RestReply,
    },
    /// Send SIP.
    SipTransmit(Transmit),
    /// Send over the wall. While it is down the core sends nothing.
    Relay {
        /// Repeated in the reply.
        id: RelayRequestId,
        /// The request.
        request: Request,
    },
    /// Answer this by `Input::Answer`.
    Ask {
        /// Its number.
        ask: AskId,
        /// An answer after this is ignored; stop working on it.
        deadline: Time,
        /// The question.
        what: Ask,
    },
    /// Write to the journal.
    Journal(JournalEntry),
}

/// Questions to the world.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// May this happen? Answered `Authorized` or `Denied`.
    Authorize(Authorize),
    /// Where is this host? Answered `Resolved` or `Unresolved`.
    Resolve {
        /// Name or address literal, IPv6 without brackets.
        host: String,
        /// Port, when one was named: then only addresses are looked up (RFC 3263 section 4.2).
        port: Option<u16>,
        /// Transport, when one was chosen.
        transport: Option<Transport>,
    },
    /// Make a relay somewhere and say where its legs are: `Put` of generation 1. Answered `Allocated` or `NotAllocated`.
    AllocateRelay {
        /// Its id.
        relay: RelayId,
        /// Its first program.
        program: RelayProgram,
    },
}

/// What is to be allowed.
#[derive(Clone, Debug, PartialEq)]
pub enum Authorize {
    /// A browser's session.
    Connection {
        /// The session.
        session_id: String,
        /// Address of the browser.
        remote: SocketAddr,
        /// `Origin` header of the websocket.
        origin: Option<String>,
        /// Fields of `connection`, without password and token.
        connection: Map<String, Value>,
    },
    /// A call that a browser makes.
    Call {
        /// The session.
        session_id: String,
        /// The call.
        call: Box<CallView>,
    },
    /// A call that rings a browser.
    IncomingCall {
        /// The session.
        session_id: String,
        /// The call.
        call: Box<CallView>,
    },
}

/// Answers to questions. One of the wrong kind counts as a refusal.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To `Authorize`: yes.
    Authorized,
    /// To `Authorize`: no.
    Denied {
        /// A code of wcs-protocol.md 4.5.
        info: String,
    },
    /// To `Resolve`: at least one target, best first.
    Resolved(Vec<Target>),
    /// To `Resolve`: nothing found.
    Unresolved {
        /// A sentence for people.
        reason: String,
    },
    /// To `AllocateRelay`: it is there.
    Allocated(PutReply),
    /// To `AllocateRelay`: refused.
    NotAllocated(RelayError),
}

/// REST calls that need the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestCall {
    /// `/call/find`
    FindCalls(CallFilter),
    /// `/call/find_all`
    FindAllCalls,
    /// `/call/terminate`
    TerminateCall {
        /// Which call.
        call_id: String,
    },
    /// `/connection/find_all`
    FindAllConnections,
}

/// Fields of `/call/find`; those that are there must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CallFilter {
    /// The call's id.
    pub call_id: Option<String>,
    /// Who is called.
    pub callee: Option<String>,
    /// Where the call stands.
    pub status: Option<CallStatus>,
}

/// Answers to REST calls.
#[derive(Clone, Debug, PartialEq)]
pub enum RestReply {
    /// Calls; none is 404.
    Calls(Vec<CallView>),
    /// Connections; none is 404.
    Connections(Vec<ConnectionView>),
    /// Done: 200 with an empty body.
    Done,
    /// 404 with this message.
    NotFound {
        /// What was not found.
        message: String,
    },
}

/// A session as REST shows it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionView {
    /// Fields of `connection` without password and token, and without those below.
    #[serde(flatten)]
    pub fields: KeptJson,
    /// `REGISTERED`, `ESTABLISHED`, or `DISCONNECTED` while it has no socket.
    pub status: &'static str,
    /// The session's id.
    pub session_id: String,
    /// The node that has it.
    pub node_id: String,
}

/// Numbers for `/metrics` and for tests that count back to zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Websockets.
    pub sockets: usize,
    /// Sessions, detached ones included.
    pub sessions: usize,
    /// Sessions without a socket.
    pub sessions_detached: usize,
    /// Sessions that are over but for their un-REGISTER and last BYEs.
    pub sessions_departing: usize,
    /// Sessions whose registration is in force.
    pub registrations: usize,
    /// Calls by status: trying, ring, established.
    pub calls_trying: usize,
    /// Calls that ring.
    pub calls_ring: usize,
    /// Calls that talk.
    pub calls_established: usize,
    /// Relays that we own.
    pub relays: usize,
    /// Questions without an answer.
    pub asks: usize,
    /// Confirmed SIP dialogs of calls.
    pub dialogs: usize,
    /// Calls ended so far with FINISH.
    pub calls_finished_total: u64,
    /// Calls ended so far with FAILED.
    pub calls_failed_total: u64,
    /// Calls refused before they existed: limits, duplicates, drain.
    pub calls_refused_total: u64,
    /// Malformed websocket frames.
    pub frames_refused_total: u64,
    /// REGISTER attempts that failed.
    pub registrations_failed_total: u64,
    /// Detached sessions that ended because there were too many.
    pub sessions_displaced_total: u64,
    /// Bytes of JSON that sessions and calls keep to give it back.
    pub kept_bytes: usize,
}

/// How long the core waits at most for the answer to an ask by default.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);
