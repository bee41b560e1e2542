//! Dialogs, RFC 3261 section 12: plain data that the journal can write and read.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    Transport,
    headers::HeaderError,
    message::{Method, Request, Response},
    uri::{Host, NameAddr, Uri},
};

/// What names a dialog, RFC 3261 section 12: seen from our side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty for peers of RFC 2543 that send none.
    pub remote_tag: String,
}

/// Where a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// By which transport.
    pub transport: Transport,
    /// To which address.
    pub remote: SocketAddr,
    /// Over which connection, when one is to be reused. Never journaled: connections do not survive a restart.
    #[serde(skip)]
    pub flow: Option<u64>,
}

/// The address of the next hop as the dialog knows it: a name may need to be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Host of the first route, else of the remote target.
    pub host: Host,
    /// Its port, when named.
    pub port: Option<u16>,
    /// Its transport: the `transport` parameter, else what the scheme implies, else the dialog's own.
    pub transport: Transport,
}

/// Which side of the INVITE we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// We sent the INVITE.
    Caller,
    /// We received it.
    Callee,
}

/// How far a dialog has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialogState {
    /// A provisional answer made it.
    Early,
    /// A 2xx made or confirmed it.
    Confirmed,
    /// BYE was sent and waits for its answer: no further request goes out.
    Ending,
}

/// One dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Call-ID and tags.
    pub id: DialogId,
    /// Which side we are.
    pub role: Role,
    /// How far it has come.
    pub state: DialogState,
    /// Our address with our tag.
    pub local: NameAddr,
    /// The peer's address with its tag.
    pub remote: NameAddr,
    /// Where the peer wants requests: its Contact.
    pub remote_target: Uri,
    /// Our Contact.
    pub local_contact: NameAddr,
    /// Routes in the order requests take them.
    pub route_set: Vec<NameAddr>,
    /// CSeq of the last request that we sent in it.
    pub local_cseq: u32,
    /// CSeq of the last request that the peer sent in it; `None` before the first.
    pub remote_cseq: Option<u32>,
    /// Where in-dialog requests are sent. Follows the next hop while that is an IP address.
    pub destination: Target,
    /// The account whose credentials answer challenges.
    pub account: Option<u64>,
}

impl Dialog {
    /// The next hop of in-dialog requests. When it is a name, the caller may resolve it and set [`Dialog::destination`].
    #[must_use]
    pub fn next_hop(&self) -> NextHop {
        unimplemented!()
    }

    /// A new in-dialog request with the next CSeq (RFC 3261 section 12.2.1.1): no Via, no body yet.
    pub fn request(&mut self, _method: Method) -> Request {
        unimplemented!()
    }

    /// The ACK for a 2xx to our INVITE with CSeq `invite_cseq` (RFC 3261 section 13.2.2.4): no Via.
    #[must_use]
    pub fn ack(&self, _invite_cseq: u32) -> Request {
        unimplemented!()
    }

    /// A dialog that `response` to our `request` makes.
    ///
    /// # Errors
    /// The header without which there is no dialog.
    pub fn from_response(_request: &Request, _response: &Response, _target: Target) -> Result<Self, HeaderError> {
        unimplemented!()
    }
}
