//! What the dataplane reports without being asked.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{LegStats, RelayError};
use crate::ids::{LegId, RelayId};

/// Something happened to a relay or to the dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// ICE nominated a path (RFC 8445 section 7.3.1.5), or moved to another.
    PathSelected {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
        /// The browser's address.
        remote: SocketAddr,
    },
    /// The leg's path went to another leg's authenticated check.
    PathLost {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
    },
    /// DTLS is done and the certificate is the one that SDP named: media may flow.
    KeysReady {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
        /// Profile chosen, by its registered name.
        profile: String,
    },
    /// The handshake ended without keys.
    DtlsFailed {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
        /// Why.
        cause: DtlsFailure,
    },
    /// The browser closed its DTLS association: its peer connection is gone.
    DtlsClosed {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
    },
    /// An RTP leg learned where its peer sends from.
    SourceLatched {
        /// Relay.
        relay: RelayId,
        /// RTP leg.
        leg: LegId,
        /// The peer's address.
        remote: SocketAddr,
    },
    /// No media came from the leg's peer for its `media_timeout_ms`.
    MediaTimeout {
        /// Relay.
        relay: RelayId,
        /// Leg.
        leg: LegId,
    },
    /// No authenticated consent check came within the leg's consent timeout (RFC 7675 section 5.1).
    ConsentLost {
        /// Relay.
        relay: RelayId,
        /// Browser leg.
        leg: LegId,
    },
    /// The leg's peer pressed a key (RFC 4733).
    Dtmf {
        /// Relay.
        relay: RelayId,
        /// Leg.
        leg: LegId,
        /// Which key.
        digit: char,
        /// How long, in milliseconds.
        duration_ms: u32,
    },
    /// The leg's peer wants or needs a key frame (it asked, it starts, a packet was lost) and no packet can carry the wish to its
    /// source. Twice a second a source at most.
    KeyframeWanted {
        /// Relay.
        relay: RelayId,
        /// Leg whose peer waits for it.
        leg: LegId,
    },
    /// An action ended.
    ActDone {
        /// Relay.
        relay: RelayId,
        /// The action.
        action_id: u64,
        /// Why it was not done; absent: done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<RelayError>,
    },
    /// Last counters of a leg that goes.
    LegStats {
        /// Relay.
        relay: RelayId,
        /// Counters.
        stats: LegStats,
    },
    /// The dataplane ended a relay by itself.
    RelayReaped {
        /// Relay.
        relay: RelayId,
        /// Why.
        reason: ReapReason,
    },
    /// A worker failed and was started again; these relays went with it.
    WorkerLost {
        /// Worker number from 0.
        worker: u16,
        /// Relays that could not be taken back, at most [`Event::WORKER_LOST_MAX`].
        relays: Vec<RelayId>,
    },
}

impl Event {
    /// Relays that one [`Event::WorkerLost`] names at most, so that it fits a frame; more make several events.
    pub const WORKER_LOST_MAX: usize = 1000;

    /// The relay it is about, if it is about one.
    #[must_use]
    pub fn relay(&self) -> Option<RelayId> {
        match self {
            Event::PathSelected { relay, .. }
            | Event::PathLost { relay, .. }
            | Event::KeysReady { relay, .. }
            | Event::DtlsFailed { relay, .. }
            | Event::DtlsClosed { relay, .. }
            | Event::SourceLatched { relay, .. }
            | Event::MediaTimeout { relay, .. }
            | Event::ConsentLost { relay, .. }
            | Event::Dtmf { relay, .. }
            | Event::KeyframeWanted { relay, .. }
            | Event::ActDone { relay, .. }
            | Event::LegStats { relay, .. }
            | Event::RelayReaped { relay, .. } => Some(*relay),
            Event::WorkerLost { .. } => None,
        }
    }
}

/// Why a DTLS handshake gave no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtlsFailure {
    /// The certificate is not one that SDP named.
    Fingerprint,
    /// The browser sent a fatal alert, or a message the protocol does not allow.
    Alert,
    /// The handshake did not end in time.
    Timeout,
}

/// Why the dataplane ended a relay by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReapReason {
    /// No control owned it for `orphan_grace_s`.
    Orphaned,
    /// It was in hand at two worker failures.
    Poisonous,
}
