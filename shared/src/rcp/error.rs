//! Errors of the wall: objects with a code to act on, the field at fault and a reason to read.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What kind of refusal this is. Control turns it into a SIP status and an API reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request does not follow the schema or breaks a rule of it; `field` says where.
    Invalid,
    /// A `Put` with a generation below the one in force, or with the same generation and another program.
    Stale,
    /// No relay of that id.
    NotFound,
    /// A limit set at start is reached (legs, relays, mailbox depth).
    Full,
    /// No media port is left.
    NoPorts,
    /// No socket of the wanted address family or local address.
    NoAddress,
    /// The dataplane drains and takes no new relay.
    Draining,
    /// The sender's epoch is below the living control's.
    OldEpoch,
    /// The program uses a kind of leg or process that this dataplane does not do (see `Hello.capabilities`).
    Unsupported,
    /// The dataplane failed; the log has more.
    Internal,
}

/// The answer to a request that was refused. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{code:?} at {field}: {reason}")]
pub struct RelayError {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// Path of the field at fault, such as `program.legs[1].remote.rtp`; empty when no single field is.
    pub field: String,
    /// A sentence for people.
    pub reason: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

impl RelayError {
    /// Builds an error; whether it is retryable follows from its code.
    pub fn new(code: ErrorCode, field: impl Into<String>, reason: impl Into<String>) -> Self {
        let retryable =
            matches!(code, ErrorCode::Full | ErrorCode::NoPorts | ErrorCode::Draining | ErrorCode::Internal);
        RelayError { code, field: field.into(), reason: reason.into(), retryable }
    }
}
