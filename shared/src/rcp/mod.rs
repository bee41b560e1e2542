//! RCP, the relay control protocol: the wall between control and dataplane.
//!
//! A unix stream socket carries frames of a `u32` big-endian length and one JSON object ([`frame`]). Both sides say
//! [`Hello`] first. Control then sends requests ([`Request`]) with an id of its choice; the dataplane answers each with that id
//! and, at any time, reports [`Event`]s. Control never allocates: it `Put`s the whole desired [`RelayProgram`] of a relay and
//! reads from the reply where its legs listen.
//!
//! The page `docs/RELAY_PROTOCOL.md` tells the protocol in prose; the files under `golden/` pin its text for ever.

mod error;
mod event;
pub mod frame;
mod message;
mod program;
mod stats;

#[cfg(test)]
mod golden;

pub use error::{ErrorCode, RelayError};
pub use event::{DtlsFailure, Event, ReapReason};
pub use message::{
    ActAction, ControlMessage, DataplaneMessage, DtmfDigits, Hello, LegAddress, LegReply, ListEntry, PROTOCOL,
    PROTOCOLS, PutReply, Reply, Request,
};
pub use program::{
    Codec, Feedback, Fill, Fingerprint, IceDtlsLeg, IceRemote, InvalidFingerprint, Leg, LegKind, Media, Payload,
    PayloadMap, Process, ProgramError, RelayProgram, Route, RtpLeg, RtpRemote, Rtx, RtxPayload, Sound, SrtpKeys,
    SrtpLeg, SrtpSuite, TapLeg, Tone, limits,
};
pub use stats::{DirectionStats, LegStats, NodeStats, RelayStats, WorkerStats};
