//! What the core writes down: one entry per change, so that a later control can take over.

use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::RelayProgram,
};
use serde::{Deserialize, Serialize};

use crate::sip::dialog::{Dialog, DialogId};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum JournalEntry {
    /// A session was established.
    SessionOpened {
        /// Its opaque key.
        session: String,
        /// Address of record, when it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address_of_record: Option<String>,
        /// It outlives its socket.
        keep_alive: bool,
    },
    /// A session ended.
    SessionClosed {
        /// Its opaque key.
        session: String,
    },
    /// A binding is in force at the registrar, or renewed.
    Registered {
        /// The session's opaque key.
        session: String,
        /// Call-ID of the registration, kept over its refreshes.
        call_id: String,
        /// CSeq of its last REGISTER.
        cseq: u32,
        /// Granted lifetime in seconds.
        expires_s: u32,
    },
    /// The binding is gone.
    Unregistered {
        /// The session's opaque key.
        session: String,
    },
    /// A relay's program changed.
    Program {
        /// The relay.
        relay: RelayId,
        /// The session's opaque key.
        session: String,
        /// The call.
        call: String,
        /// Counts up with each change.
        generation: Generation,
        /// All of it.
        program: RelayProgram,
    },
    /// A relay was deleted.
    RelayEnded {
        /// The relay.
        relay: RelayId,
    },
    /// A dialog was confirmed or changed.
    Dialog {
        /// The session's opaque key.
        session: String,
        /// The call.
        call: String,
        /// All of it.
        dialog: Box<Dialog>,
    },
    /// A dialog is gone.
    DialogEnded {
        /// Which one.
        dialog: DialogId,
    },
}
