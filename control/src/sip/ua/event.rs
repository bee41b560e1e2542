//! What goes into the agent and what comes out: plain data.

use std::{net::SocketAddr, time::Duration};

use gangway_shared::time::Time;

use crate::sip::{
    Transport,
    dialog::{DialogId, Target},
    message::{Headers, Method, Request, Response, Status},
    uri::{NameAddr, Uri},
};

/// A request that we sent, digest retries included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub(super) u64);

impl ClientId {
    /// Its number in this run of the agent.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// A request that we received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub(super) u64);

/// An account whose credentials the agent keeps. The owner chooses the number, which must mean the same account after a restart: dialogs
/// of the journal name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// By which transport.
    pub transport: Transport,
    /// Our address that received it.
    pub local: SocketAddr,
    /// The peer's address.
    pub remote: SocketAddr,
    /// The connection, for streams.
    pub flow: Option<u64>,
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// By which transport.
    pub transport: Transport,
    /// To which address. For a stream: where to connect when `flow` is absent or gone.
    pub remote: SocketAddr,
    /// Over which connection, when one is to be reused.
    pub flow: Option<u64>,
    /// How long a new connection may take, when the message could go another way; absent: the transport's own patience.
    pub connect_within: Option<Duration>,
    /// One whole message.
    pub bytes: Vec<u8>,
}

/// A body with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Content-Type.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
    /// Bodies that say less, best first, each shorter than the one before: a request that is too long for a datagram, to a peer that
    /// takes no stream, goes out with the first that fits, which [`UaEvent::Shortened`] tells. Answers have no use for them.
    pub shorter: Vec<Vec<u8>>,
}

impl Content {
    /// A body without shorter forms.
    #[must_use]
    pub fn new(content_type: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Content { content_type: content_type.into(), body: body.into(), shorter: Vec::new() }
    }
}

/// A request outside of any dialog. The agent adds Via, tags, CSeq, Max-Forwards and credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// What to ask.
    pub method: Method,
    /// The Request-URI.
    pub uri: Uri,
    /// From; a tag is added when it has none.
    pub from: NameAddr,
    /// To.
    pub to: NameAddr,
    /// Call-ID; made when absent. A registration keeps its own over its refreshes.
    pub call_id: Option<String>,
    /// CSeq number; 1 when absent. A registration counts on over its refreshes.
    pub cseq: Option<u32>,
    /// Our Contact; required for INVITE.
    pub contact: Option<NameAddr>,
    /// Preloaded routes (an outbound proxy that wants one).
    pub routes: Vec<NameAddr>,
    /// Further headers, in order.
    pub headers: Headers,
    /// The body.
    pub content: Option<Content>,
    /// Where to send it.
    pub target: Target,
    /// Whose credentials answer a challenge.
    pub account: Option<AccountId>,
    /// When it is given up without a final answer, if that is before timer F, sent again for a challenge or not. An INVITE takes no heed
    /// of it: see [`Ua::cancel`](super::Ua::cancel).
    pub give_up: Option<Time>,
    /// However long it is, no stream carries it where `target` says UDP, nor requests of the dialog that it makes: it goes shortened.
    pub udp_only: bool,
}

/// An answer to a request that we received. The agent adds Via, From, To with our tag, Call-ID, CSeq and Record-Route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: Status,
    /// The reason phrase; that of the RFC when absent.
    pub reason: Option<String>,
    /// Our Contact; required for 101-299 to INVITE.
    pub contact: Option<NameAddr>,
    /// Further headers, in order.
    pub headers: Headers,
    /// The body.
    pub content: Option<Content>,
    /// Whose credentials answer challenges to our requests in the dialog that a 101-299 to INVITE makes or confirms. Absent: those
    /// that the dialog has already.
    pub account: Option<AccountId>,
}

impl Reply {
    /// A reply of only a status.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Reply { status, reason: None, contact: None, headers: Headers::new(), content: None, account: None }
    }
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The transaction table is full.
    #[error("too many transactions")]
    Full,
    /// There is no such dialog.
    #[error("unknown dialog")]
    UnknownDialog,
    /// The dialog is early or ending and allows no such request.
    #[error("dialog is not confirmed")]
    NotConfirmed,
    /// Our own or the peer's INVITE is pending in the dialog (RFC 3261 section 14.1).
    #[error("another INVITE is pending in the dialog")]
    InvitePending,
    /// We have no address for the transport and family of the target.
    #[error("no local address for this transport and address family")]
    NoLocalAddress,
    /// An INVITE needs a Contact.
    #[error("no contact")]
    NoContact,
    /// It is too long for a datagram, cannot be shortened so far, and the peer takes no stream (RFC 3261 section 18.1.1).
    #[error("too long for a datagram")]
    TooLong,
    /// ACK and CANCEL are made by the agent alone.
    #[error("method cannot be sent this way")]
    Method,
}

/// Why an answer was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RespondError {
    /// There is no such request, or it is already finally answered: cancelled, or timed out.
    #[error("request is gone or already answered")]
    Gone,
    /// 101-299 to INVITE needs a Contact.
    #[error("no contact")]
    NoContact,
}

/// What happened. Each request that was sent ends with exactly one of `Answered`, `Finished`, `TimedOut`, `TransportFailed`,
/// `TooLong`, `Unusable`, `CrossedCancel`; each that was received waits for [`Ua::respond`] unless its event says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UaEvent {
    /// Our request is under way with another of its bodies than before. It comes ahead of any answer to that one; an answer is to be
    /// judged by the body in use.
    Shortened {
        /// Our request.
        client: ClientId,
        /// 0: the body itself; else the number in [`Content::shorter`], from 1.
        body: usize,
    },
    /// 101-199 to our INVITE. `dialog` is there when the answer has a To tag: several differ for a forked call.
    Progress {
        /// Our request.
        client: ClientId,
        /// The early dialog.
        dialog: Option<DialogId>,
        /// The answer.
        response: Response,
    },
    /// The first 2xx to our INVITE or re-INVITE. The ACK is already on its way.
    Answered {
        /// Our request: done.
        client: ClientId,
        /// The confirmed dialog.
        dialog: DialogId,
        /// The answer.
        response: Response,
    },
    /// 300-699 to our INVITE, or any final answer to another request of ours. Challenges were already answered where that was
    /// allowed: a 401 or 407 here means that it was not, or that the credentials were refused.
    Finished {
        /// Our request: done.
        client: ClientId,
        /// The dialog it was sent in.
        dialog: Option<DialogId>,
        /// The answer. Its CSeq is the last one used: a registration counts on from there.
        response: Response,
    },
    /// No final answer in time: timer B or F, or none to a cancelled INVITE within 64*T1. Counts as 408.
    TimedOut {
        /// Our request: done.
        client: ClientId,
        /// The dialog it was sent in.
        dialog: Option<DialogId>,
    },
    /// A 2xx to our INVITE that cannot be kept. Its route set is unreadable: ACK and BYE are on their way, straight to its Contact. Or we
    /// have no address from which to acknowledge it. Counts as 502.
    Unusable {
        /// Our request: done.
        client: ClientId,
    },
    /// The transport could not deliver. Counts as 503.
    TransportFailed {
        /// Our request: done.
        client: ClientId,
        /// The dialog it was sent in.
        dialog: Option<DialogId>,
    },
    /// It is under way no more: too long for a datagram with the credentials that it was asked for, or after the peer took no stream, and
    /// cannot be shortened so far. As [`SendError::TooLong`], only later. Counts as 513.
    TooLong {
        /// Our request: done.
        client: ClientId,
        /// The dialog it was sent in.
        dialog: Option<DialogId>,
    },
    /// A 2xx crossed our CANCEL. ACK and BYE are on their way, the dialog is the agent's to end.
    CrossedCancel {
        /// Our request: done.
        client: ClientId,
    },
    /// A second fork answered 2xx after [`UaEvent::Answered`]. ACK and BYE are on their way.
    ForkEnded {
        /// The INVITE.
        client: ClientId,
        /// The fork's dialog, gone.
        dialog: DialogId,
    },
    /// An INVITE that asks for a new call. 100 was sent when the source is verified.
    Invite {
        /// The request: answer it.
        server: ServerId,
        /// The INVITE.
        request: Request,
        /// Where it came from.
        source: Source,
        /// The source is no UDP stranger: an account's target, a dialog's peer, trusted by setting, or a stream. See
        /// [`Ua::respond`] for what a stranger may get.
        verified: bool,
        /// The source is an account's target (for streams: its address, from any port) or trusted by setting.
        known_peer: bool,
    },
    /// Another request outside of any dialog, of a method in [`UaConfig::allow`].
    Request {
        /// The request: answer it.
        server: ServerId,
        /// The request itself.
        request: Request,
        /// Where it came from.
        source: Source,
        /// As in [`UaEvent::Invite`].
        verified: bool,
    },
    /// A request in a dialog (re-INVITE, INFO, UPDATE, NOTIFY ..), in order and not crossing one of ours.
    DialogRequest {
        /// The dialog.
        dialog: DialogId,
        /// The request: answer it.
        server: ServerId,
        /// The request itself.
        request: Request,
    },
    /// The peer ended the dialog: 200 was sent, the dialog is gone.
    Bye {
        /// The dialog.
        dialog: DialogId,
        /// The BYE, for its Reason.
        request: Request,
    },
    /// The caller gave up: 200 to CANCEL, or to BYE in an early dialog, and 487 to the INVITE were sent, early dialogs of it are gone.
    /// After a BYE, [`UaEvent::Bye`] follows.
    Cancelled {
        /// The INVITE: done.
        server: ServerId,
        /// The CANCEL or BYE, for its Reason.
        request: Request,
    },
    /// The ACK for our 2xx arrived.
    Acked {
        /// The dialog.
        dialog: DialogId,
        /// The INVITE that was answered.
        server: ServerId,
        /// The ACK, for the answer it may carry.
        request: Request,
    },
    /// No ACK for our 2xx within 64*T1. BYE was sent, the dialog is gone.
    AckMissing {
        /// The dialog.
        dialog: DialogId,
        /// The INVITE that was answered.
        server: ServerId,
    },
}
