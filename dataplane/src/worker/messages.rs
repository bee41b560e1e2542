//! What the manager and a worker say to each other.

use std::net::SocketAddr;

use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{Event, RelayError, RelayProgram, RelayStats, WorkerStats},
};

use crate::{
    ice_lite::LocalCredentials,
    registry::Digest,
    relay::{Adopted, Digits, DtlsKeys, Installed, LegHandle, PortId, RelayFlow},
};

/// What the manager wants of a worker.
#[derive(Debug)]
pub enum Command<S> {
    /// Make a relay be as said; answered by [`Report::Put`].
    Put {
        /// Repeated in the answer.
        token: u64,
        /// The relay.
        put: Put<S>,
    },
    /// End a relay; answered by [`Report::Removed`].
    Remove {
        /// Repeated in the answer.
        token: u64,
        /// The relay.
        relay: RelayId,
    },
    /// A leg's handshake is complete.
    Keys {
        /// The leg.
        leg: LegHandle,
        /// What it agreed on.
        keys: Box<DtlsKeys>,
    },
    /// A leg's browser may be gone.
    Doubt {
        /// The leg.
        leg: LegHandle,
    },
    /// Send a DTLS datagram.
    Send {
        /// Port to leave by.
        port: PortId,
        /// Where to.
        to: SocketAddr,
        /// What.
        datagram: Vec<u8>,
    },
    /// Ask a leg's peer for a key frame; answered by [`Report::Keyframe`].
    Keyframe {
        /// Repeated in the answer.
        token: u64,
        /// The relay.
        relay: RelayId,
        /// The leg.
        leg: LegId,
        /// Chosen by control.
        action_id: u64,
    },
    /// Play digits to a leg's peer; `ActDone` tells of their end.
    Digits {
        /// The relay.
        relay: RelayId,
        /// The leg.
        leg: LegId,
        /// What to play.
        digits: Digits,
    },
    /// Counters of a relay; answered by [`Report::Relay`].
    QueryRelay {
        /// Repeated in the answer.
        token: u64,
        /// The relay.
        relay: RelayId,
    },
    /// Counters of the worker and liveness of its relays; answered by [`Report::Worker`].
    QueryWorker {
        /// Repeated in the answer.
        token: u64,
    },
    /// Panic, as a fault in the relay core would.
    #[cfg(test)]
    Crash {
        /// Reported as failed.
        token: u64,
    },
}

impl<S> Command<S> {
    pub(super) fn in_hand(&self) -> Option<InHand> {
        match *self {
            Command::Put { token, ref put } => Some(InHand::Put { token, relay: put.relay }),
            Command::Remove { token, relay } => Some(InHand::Remove { token, relay }),
            Command::Keyframe { token, .. } | Command::QueryRelay { token, .. } | Command::QueryWorker { token } => {
                Some(InHand::Question { token })
            }
            Command::Digits { relay, ref digits, .. } => Some(InHand::Action { relay, action_id: digits.action_id }),
            #[cfg(test)]
            Command::Crash { token } => Some(InHand::Question { token }),
            Command::Keys { .. } | Command::Doubt { .. } | Command::Send { .. } => None,
        }
    }
}

/// A command that is being worked off: what has to be put right, and who answered, when the worker fails with it.
#[derive(Clone, Copy, Debug)]
pub(super) enum InHand {
    Put { token: u64, relay: RelayId },
    Remove { token: u64, relay: RelayId },
    Question { token: u64 },
    Action { relay: RelayId, action_id: u64 },
}

/// Where in a [`Command::Put`] a test wants the worker to fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutStage {
    /// Ports of new legs are open, the relay is as it was.
    Opened,
    /// The relay is as the program says, its ports are not noted yet.
    Applied,
}

/// A relay for [`Command::Put`].
#[derive(Debug)]
pub struct Put<S> {
    /// Its id.
    pub relay: RelayId,
    /// Generation of the program.
    pub generation: Generation,
    /// Digest of the program.
    pub digest: Digest,
    /// The whole, validated program.
    pub program: RelayProgram,
    /// One entry a leg, in the program's order.
    pub legs: Vec<(LegId, LegSource<S>)>,
}

/// Where a leg's local side comes from.
#[derive(Debug)]
pub enum LegSource<S> {
    /// A browser leg on the worker's browser ports.
    IceDtls(LocalCredentials),
    /// A new port pair.
    Open {
        /// For RTP.
        rtp: S,
        /// For RTCP.
        rtcp: S,
        /// The keeper's number of the pair.
        lease: u64,
    },
    /// The pair it has already.
    Kept,
}

/// A pair that was handed over from the process before.
#[derive(Debug)]
pub struct KeptPair<S> {
    /// The keeper's number of the pair.
    pub lease: u64,
    /// For RTP.
    pub rtp: S,
    /// For RTCP.
    pub rtcp: S,
}

/// What a worker tells the manager.
#[derive(Debug)]
pub enum Report {
    /// The relays that a worker found in its arena, and those that could not be taken over. Its first report when it
    /// [adopts](Worker::adopt).
    Adopted {
        /// Found.
        relays: Vec<Adopted>,
        /// Given up.
        lost: Vec<RelayId>,
    },
    /// A relay was put, or refused.
    Put {
        /// Of the command.
        token: u64,
        /// Handles of its legs.
        result: Result<Installed, RelayError>,
    },
    /// A relay is gone and its ports are closed.
    Removed {
        /// Of the command.
        token: u64,
    },
    /// A key frame was asked for, or the leg cannot carry the wish.
    Keyframe {
        /// Of the command.
        token: u64,
        /// Whether it was asked for.
        asked: bool,
    },
    /// Counters of a relay; `None` when there is none of that id.
    Relay {
        /// Of the command.
        token: u64,
        /// Counters.
        stats: Option<Box<RelayStats>>,
    },
    /// Counters of the worker.
    Worker {
        /// Of the command.
        token: u64,
        /// Counters.
        stats: Box<WorkerStats>,
        /// Liveness of its relays.
        flows: Vec<RelayFlow>,
    },
    /// The worker failed with this command in hand. A relay that it was to put is gone.
    Failed {
        /// Of the command.
        token: u64,
    },
    /// Something for the event log.
    Event(Event),
    /// A leg may shake hands with this address.
    DtlsPath {
        /// The leg.
        leg: LegHandle,
        /// Port it came in by.
        port: PortId,
        /// The browser's address.
        from: SocketAddr,
    },
    /// A DTLS datagram.
    Dtls {
        /// The leg.
        leg: LegHandle,
        /// Port it came in by.
        port: PortId,
        /// The browser's address.
        from: SocketAddr,
        /// The datagram.
        datagram: Vec<u8>,
    },
}
