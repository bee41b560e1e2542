//! How a message finds its transaction: RFC 3261 sections 17.1.3 and 17.2.3.

use crate::sip::{
    headers::{HeaderError, Via},
    message::{Method, Request, Response},
};

/// What a branch of RFC 3261 starts with.
pub const MAGIC_COOKIE: &str = "z9hG4bK";

/// Finds the client transaction of a response: the branch we made and the method.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    branch: String,
    method: Method,
}

impl ClientKey {
    /// The key of a request of ours.
    #[must_use]
    pub const fn new(branch: String, method: Method) -> Self {
        ClientKey { branch, method }
    }

    /// The key that a response names.
    ///
    /// # Errors
    /// Via or CSeq cannot be read.
    pub fn of_response(response: &Response) -> Result<Self, HeaderError> {
        let branch = response.headers.top_via()?.branch().unwrap_or_default().to_owned();
        Ok(ClientKey { branch, method: response.headers.cseq()?.method })
    }
}

/// Finds the server transaction of a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerKey {
    /// The branch is unique: with sent-by and method it is all that is needed.
    Branch {
        /// The branch.
        branch: String,
        /// Sent-by, as printed.
        sent_by: String,
        /// The method; that of the INVITE for its ACK.
        method: Method,
    },
    /// A peer of RFC 2543 without unique branches.
    Legacy {
        /// The Request-URI, as printed.
        uri: String,
        /// From tag, empty when absent.
        from_tag: String,
        /// Call-ID.
        call_id: String,
        /// CSeq number.
        cseq: u32,
        /// The top Via, as printed.
        via: String,
        /// The method; that of the INVITE for its ACK.
        method: Method,
    },
}

impl ServerKey {
    /// The key of a request that came in with `via` on top (before `received` was added).
    ///
    /// # Errors
    /// A header that the key is made of cannot be read.
    pub fn of_request(request: &Request, via: &Via) -> Result<Self, HeaderError> {
        let method = if request.method == Method::Ack { Method::Invite } else { request.method.clone() };
        Self::with_method(request, via, method)
    }

    /// The key of the INVITE that a CANCEL means (RFC 3261 section 9.2).
    ///
    /// # Errors
    /// A header that the key is made of cannot be read.
    pub fn of_cancelled(cancel: &Request, via: &Via) -> Result<Self, HeaderError> {
        Self::with_method(cancel, via, Method::Invite)
    }

    fn with_method(request: &Request, via: &Via, method: Method) -> Result<Self, HeaderError> {
        match via.branch().filter(|branch| branch.starts_with(MAGIC_COOKIE)) {
            Some(branch) => {
                let port = via.port.map(|port| format!(":{port}")).unwrap_or_default();
                let sent_by = format!("{}{port}", via.host);
                Ok(ServerKey::Branch { branch: branch.to_owned(), sent_by, method })
            }
            None => Ok(ServerKey::Legacy {
                uri: request.uri.to_string(),
                from_tag: request.headers.from()?.tag().unwrap_or_default().to_owned(),
                call_id: request.headers.call_id()?.to_owned(),
                cseq: request.headers.cseq()?.number,
                via: via.to_string(),
                method,
            }),
        }
    }
}
