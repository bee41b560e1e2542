//! The user agent: routes bytes to transactions and dialogs, and back.
//!
//! One mutation (`handle_*`, `send_*`, `respond`, `cancel`, `bye`), then a full drain: [`Ua::poll_transmit`] and [`Ua::poll_event`]
//! until both give `None`, then sleep until [`Ua::poll_timeout`].
//!
//! What the agent does by itself, so that its owner need not: 100 Trying, ACK for every final answer and its repeats, repeated 2xx until
//! the ACK, digest answers, BYE for a forked second 2xx and for a 2xx that crossed a CANCEL, 487 after CANCEL, 200 to BYE and OPTIONS, and
//! every refusal that needs no opinion (400, 405, 416, 420, 481, 482, 483, 491, 500, 501, 503).

use std::net::SocketAddr;

use gangway_shared::{entropy::Entropy, time::Time};

use super::{
    Transport,
    dialog::{Dialog, DialogId, Target},
    digest::Account,
    message::{Headers, Method, Request, Response, Status},
    transaction::Timers,
    uri::{Host, NameAddr, SipUri, Uri},
};

/// A request that we sent, digest retries included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u64);

/// A request that we received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(u64);

/// An account whose credentials the agent keeps. The owner chooses the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId(pub u64);

/// An address of ours as peers shall see it in Via and Contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertised {
    /// For which transport.
    pub transport: Transport,
    /// Host in Via and Contact. The family of an IP address decides for which peers it is used; a name serves both.
    pub host: Host,
    /// Port in Via and Contact.
    pub port: u16,
}

/// A range of addresses: peers that are trusted to be who they say over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Any address in it.
    pub address: std::net::IpAddr,
    /// How many leading bits count.
    pub prefix_len: u8,
}

/// Settings of a [`Ua`].
#[derive(Clone, Debug)]
pub struct UaConfig {
    /// Our addresses, known after the sockets are bound.
    pub advertised: Vec<Advertised>,
    /// User-Agent and Server; empty for none.
    pub user_agent: String,
    /// Methods that the owner handles: told in Allow. Others get 405 or 501. ACK, BYE, CANCEL and OPTIONS are always there.
    pub allow: Vec<Method>,
    /// Option tags for Supported; a Require of any other gets 420.
    pub supported: Vec<String>,
    /// Bodies that OPTIONS announces in Accept.
    pub accept: Vec<String>,
    /// Transaction timers.
    pub timers: Timers,
    /// The most transactions alive at once, both directions; beyond, requests get a stateless 503.
    pub max_transactions: usize,
    /// Of those, how many unverified UDP sources may hold.
    pub max_unverified_transactions: usize,
    /// Retry-After of every 503 that the agent sends, in seconds.
    pub overload_retry_after_s: u32,
    /// Sources that are trusted beside the accounts' targets and the peers of living dialogs.
    pub trusted: Vec<Subnet>,
}

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
}

impl Reply {
    /// A reply of only a status.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Reply { status, reason: None, contact: None, headers: Headers::new(), content: None }
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
/// `CrossedCancel`; each that was received waits for [`Ua::respond`] unless its event says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UaEvent {
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
        /// The dialog it was sent in, or that it tried to make and has not.
        dialog: Option<DialogId>,
        /// The answer.
        response: Response,
    },
    /// No final answer in time: timer B or F, or none to a cancelled INVITE within 64*T1. Counts as 408.
    TimedOut {
        /// Our request: done.
        client: ClientId,
        /// The dialog it was sent in.
        dialog: Option<DialogId>,
    },
    /// The transport could not deliver. Counts as 503.
    TransportFailed {
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
    /// The caller gave up: 200 to CANCEL and 487 to the INVITE were sent, early dialogs of it are gone.
    Cancelled {
        /// The INVITE: done.
        server: ServerId,
        /// The CANCEL, for its Reason.
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

/// The user agent.
pub struct Ua {
    config: UaConfig,
    entropy: Box<dyn Entropy + Send>,
}

impl Ua {
    /// An agent with no dialogs. `entropy` makes tags, branches, Call-IDs and cnonces.
    #[must_use]
    pub fn new(config: UaConfig, entropy: Box<dyn Entropy + Send>) -> Self {
        Ua { config, entropy }
    }

    /// A message arrived: a whole datagram, or one message cut from a stream by [`super::parser::frame`].
    pub fn handle_message(&mut self, _now: Time, _source: Source, _bytes: &[u8]) {
        unimplemented!()
    }

    /// A transmit could not be delivered, a connection broke or could not be made: requests still waiting there fail.
    pub fn handle_transport_error(
        &mut self,
        _now: Time,
        _transport: Transport,
        _remote: SocketAddr,
        _flow: Option<u64>,
    ) {
        unimplemented!()
    }

    /// Runs every timer that is due at `now`.
    pub fn handle_timeout(&mut self, _now: Time) {
        unimplemented!()
    }

    /// When [`Ua::handle_timeout`] wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        unimplemented!()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        unimplemented!()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<UaEvent> {
        unimplemented!()
    }

    /// Keeps or replaces an account's credentials. Its targets count as verified sources.
    pub fn put_account(&mut self, _id: AccountId, _account: Account) {
        unimplemented!()
    }

    /// Forgets an account's credentials. Dialogs that use it stay, unanswered challenges fail.
    pub fn remove_account(&mut self, _id: AccountId) {
        unimplemented!()
    }

    /// Refuses new work: OPTIONS and INVITE outside of dialogs get 503 with Retry-After.
    pub fn set_draining(&mut self, _draining: bool) {
        unimplemented!()
    }

    /// Sends a request outside of any dialog: INVITE, REGISTER, OPTIONS, MESSAGE ..
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent.
    pub fn send_request(&mut self, _now: Time, _outgoing: Outgoing) -> Result<ClientId, SendError> {
        unimplemented!()
    }

    /// Sends a request in a dialog: re-INVITE, INFO, UPDATE, REFER .. and BYE, after which the dialog takes no more requests and is
    /// gone when BYE is answered or timed out.
    ///
    /// # Errors
    /// See [`SendError`]; nothing was sent.
    pub fn send_in_dialog(
        &mut self,
        _now: Time,
        _dialog: &DialogId,
        _method: Method,
        _headers: Headers,
        _content: Option<Content>,
    ) -> Result<ClientId, SendError> {
        unimplemented!()
    }

    /// Gives up our INVITE: CANCEL goes out at once or after the first provisional answer (RFC 3261 section 9.1). It still ends with one
    /// event: `Finished` (487 or what crossed), `CrossedCancel` or `TimedOut`. Unknown or finished requests are ignored.
    pub fn cancel(&mut self, _now: Time, _client: ClientId, _headers: Headers) {
        unimplemented!()
    }

    /// Answers a request. 101-299 to INVITE make or confirm a dialog, whose id is returned.
    ///
    /// A stranger over UDP (`verified: false`) gets one reply of at most 1.5 times its request, not repeated (so nobody can be
    /// flooded through us); 101-299 to INVITE lifts that: answer so only who has proven to know a secret of ours, such as the opaque
    /// user part of a Contact.
    ///
    /// # Errors
    /// See [`RespondError`]; nothing was sent.
    pub fn respond(&mut self, _now: Time, _server: ServerId, _reply: Reply) -> Result<Option<DialogId>, RespondError> {
        unimplemented!()
    }

    /// A dialog, for the journal.
    #[must_use]
    pub fn dialog(&self, _id: &DialogId) -> Option<&Dialog> {
        unimplemented!()
    }

    /// Takes a dialog from the journal.
    pub fn restore_dialog(&mut self, _dialog: Dialog) {
        unimplemented!()
    }

    /// Sends in-dialog requests to `destination` from now on: the resolved [`Dialog::next_hop`]. False when there is no such dialog.
    pub fn set_destination(&mut self, _id: &DialogId, _destination: Target) -> bool {
        unimplemented!()
    }

    /// Forgets a dialog without a word to the peer (after 481 or 408 in it).
    pub fn remove_dialog(&mut self, _id: &DialogId) -> Option<Dialog> {
        unimplemented!()
    }

    /// The Contact that a peer at `target` can reach: `<sip:user@advertised;transport=..>`. `None` without a local address.
    #[must_use]
    pub fn contact(&self, _user: &str, _transport: Transport, _remote: SocketAddr) -> Option<SipUri> {
        unimplemented!()
    }
}
