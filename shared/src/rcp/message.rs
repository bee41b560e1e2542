//! Requests, replies and the greeting.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Event, Fingerprint, NodeStats, RelayError, RelayProgram, RelayStats};
use crate::ids::{EventSeq, Generation, LegId, RelayId};

/// The protocol version that this tree speaks.
pub const PROTOCOL: u16 = 1;

/// Versions that control accepts from a dataplane: its own and the one before it.
pub const PROTOCOLS: std::ops::RangeInclusive<u16> = 1..=PROTOCOL;

/// First message of either side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Protocol version of the sender.
    pub protocol: u16,
    /// Random name of this run of the sender, so that a restart is noticed.
    pub instance: String,
    /// The highest epoch the sender knows. Control's epoch is above both its journal's and the dataplane's.
    pub epoch: u32,
    /// Dataplane only: `epoll` or `io_uring`, the one that it really uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Dataplane only: number of pinned workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<u16>,
    /// Dataplane only: leg kinds and processes it runs, such as `ice_dtls`, `rtp`, `g711`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Dataplane only: addresses browsers reach it at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webrtc: Vec<SocketAddr>,
    /// Dataplane only: first and last media port towards SIP peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_ports: Option<(u16, u16)>,
    /// Control only: replay events after this one, of the dataplane instance named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<(String, EventSeq)>,
}

/// What control sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ControlMessage {
    /// First of all.
    Hello(Hello),
    /// Something to do or tell.
    Request {
        /// Chosen by control, repeated in the reply.
        id: u64,
        /// What is wanted.
        request: Request,
    },
}

/// What the dataplane sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DataplaneMessage {
    /// First of all.
    Hello(Hello),
    /// A request was done.
    Ok {
        /// The request's id.
        id: u64,
        /// Its result.
        reply: Reply,
    },
    /// A request was refused; nothing changed.
    Error {
        /// The request's id.
        id: u64,
        /// Why.
        error: RelayError,
    },
    /// Something happened.
    Event {
        /// Position in the log.
        seq: EventSeq,
        /// What.
        event: Event,
    },
    /// Events up to and without `resumes_at` are lost; ask `List`.
    Gap {
        /// First event that follows.
        resumes_at: EventSeq,
    },
}

/// The seven requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    /// Makes the relay be as the program says. Idempotent: the same generation with the same program is a no-op, a higher one is
    /// applied in place, a lower one is refused as `stale`.
    Put {
        /// The relay.
        relay: RelayId,
        /// Counts up with each change of the program.
        generation: Generation,
        /// All of it.
        program: RelayProgram,
    },
    /// Ends a relay; absent relays are `Ok`.
    Delete {
        /// The relay.
        relay: RelayId,
    },
    /// Which relays there are, in id order.
    List {
        /// Only ids above this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<RelayId>,
        /// At most so many, and at most [`Request::LIST_LIMIT_MAX`].
        limit: u16,
    },
    /// Counters of one relay, or of the node when `relay` is absent.
    Query {
        /// The relay; absent: the node.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<RelayId>,
        /// Of the node: workers from this one on.
        #[serde(default, skip_serializing_if = "is_zero")]
        from_worker: u16,
    },
    /// Does something once; reported by `ActDone`.
    Act {
        /// The relay.
        relay: RelayId,
        /// Chosen by control; repeating it repeats nothing.
        action_id: u64,
        /// What to do.
        action: ActAction,
    },
    /// No new relays from now on; existing ones go on.
    Drain,
    /// Answered at once.
    Ping,
}

impl Request {
    /// Largest page of a `List`: it fits a frame with room to spare.
    pub const LIST_LIMIT_MAX: u16 = 512;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

/// One-off actions on a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum ActAction {
    /// Sends telephone events (RFC 4733) to a leg.
    Dtmf {
        /// The leg whose peer hears them.
        leg: LegId,
        /// Which digits.
        digits: DtmfDigits,
        /// Length of each event.
        duration_ms: u16,
    },
    /// Asks the leg's peer for a key frame.
    Keyframe {
        /// The leg whose peer is asked.
        leg: LegId,
    },
}

/// Digits `0-9*#A-D` and flash as `!`, at most 64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DtmfDigits(pub String);

/// Results of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Reply {
    /// Where the relay's legs are.
    Put(PutReply),
    /// It is gone.
    Delete,
    /// One page of relays.
    List {
        /// In id order.
        relays: Vec<ListEntry>,
        /// More follow after the last one.
        more: bool,
    },
    /// Counters of a relay.
    QueryRelay(RelayStats),
    /// Counters of the node.
    QueryNode(NodeStats),
    /// Taken; `ActDone` follows.
    Act,
    /// From now on.
    Drain,
    /// Alive.
    Ping,
}

/// Local facts of a relay, for SDP. Always whole, whatever the request changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutReply {
    /// The relay.
    pub relay: RelayId,
    /// Generation now in force.
    pub generation: Generation,
    /// One entry a leg, in the program's order.
    pub legs: Vec<LegReply>,
}

/// Local facts of one leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegReply {
    /// The leg.
    pub id: LegId,
    /// What its peer must know.
    #[serde(flatten)]
    pub address: LegAddress,
}

/// What the peer of a leg must know of us.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LegAddress {
    /// Of a browser leg.
    IceDtls {
        /// Host candidates as browsers should see them (advertised addresses), best first.
        candidates: Vec<SocketAddr>,
        /// Our ICE user fragment.
        ufrag: String,
        /// Our ICE password.
        pwd: String,
        /// SHA-256 of our DTLS certificate.
        fingerprint: Fingerprint,
    },
    /// Of an RTP or SRTP leg: addresses for `c=`, `m=` and `a=rtcp`.
    Rtp {
        /// Advertised RTP address.
        rtp: SocketAddr,
        /// Advertised RTCP address.
        rtcp: SocketAddr,
    },
    /// Of legs that have no address.
    None,
}

/// One relay of a `List`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// The relay.
    pub relay: RelayId,
    /// Generation in force.
    pub generation: Generation,
    /// Digest of the program in force, 16 hexadecimal digits.
    pub digest: String,
    /// Packets forwarded since it was made; tells whether media flows.
    pub forwarded: u64,
}
