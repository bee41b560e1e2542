//! Typed readers for the header fields that the core or the gateway acts on.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{
    message::{HeaderName, Headers, Method},
    uri::{Host, NameAddr, Params},
};

/// A header field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{header}: {fault}")]
pub struct HeaderError {
    /// Which header.
    pub header: HeaderName,
    /// What is wrong with it.
    pub fault: HeaderFault,
}

/// What is wrong with a header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// The header must be there and is not.
    #[error("missing")]
    Missing,
    /// The header stands twice and must not.
    #[error("repeated")]
    Repeated,
    /// The value breaks the grammar.
    #[error("malformed")]
    Malformed,
    /// A number is out of its range.
    #[error("out of range")]
    OutOfRange,
}

/// Whether `text` is a `token` of RFC 3261 section 25.1.
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

/// One Via value, RFC 3261 section 20.42.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The transport word in upper case: `UDP`.
    pub transport: String,
    /// Sent-by host.
    pub host: Host,
    /// Sent-by port.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport` and others.
    pub params: Params,
}

impl Via {
    /// The branch.
    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.params.value("branch")
    }

    /// The address the request came from, when a server noted it.
    #[must_use]
    pub fn received(&self) -> Option<IpAddr> {
        unimplemented!()
    }

    /// The port the request came from (RFC 3581), when a server noted it.
    #[must_use]
    pub fn rport(&self) -> Option<u16> {
        unimplemented!()
    }
}

impl FromStr for Via {
    type Err = HeaderError;

    fn from_str(_text: &str) -> Result<Self, HeaderError> {
        unimplemented!()
    }
}

impl fmt::Display for Via {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

/// CSeq, RFC 3261 section 20.16.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CSeq {
    /// The sequence number, below 2^31.
    pub number: u32,
    /// The method.
    pub method: Method,
}

/// The value of Contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// `*`: all bindings, in REGISTER.
    All,
    /// The addresses, in order; empty when there is no Contact.
    List(Vec<NameAddr>),
}

/// One Reason value, RFC 3326.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// `SIP` or `Q.850`.
    pub protocol: String,
    /// The `cause` parameter.
    pub cause: Option<u16>,
    /// The `text` parameter, unquoted.
    pub text: Option<String>,
}

/// A challenge or credentials: a scheme and its parameters, values unquoted (RFC 3261 sections 20.7, 20.27, 20.28, 20.44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthParams {
    /// `Digest`, as it was written.
    pub scheme: String,
    /// `name=value` in order.
    pub params: Params,
}

impl Headers {
    /// All Via values, topmost first.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn vias(&self) -> Result<Vec<Via>, HeaderError> {
        unimplemented!()
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn top_via(&self) -> Result<Via, HeaderError> {
        unimplemented!()
    }

    /// From.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        unimplemented!()
    }

    /// To.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        unimplemented!()
    }

    /// Call-ID.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn call_id(&self) -> Result<&str, HeaderError> {
        unimplemented!()
    }

    /// CSeq.
    ///
    /// # Errors
    /// Missing, repeated, malformed or out of range.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        unimplemented!()
    }

    /// Max-Forwards, `None` when absent.
    ///
    /// # Errors
    /// Repeated, malformed or above 255.
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        unimplemented!()
    }

    /// Contact.
    ///
    /// # Errors
    /// Malformed.
    pub fn contacts(&self) -> Result<Contacts, HeaderError> {
        unimplemented!()
    }

    /// Route, topmost first.
    ///
    /// # Errors
    /// Malformed.
    pub fn routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        unimplemented!()
    }

    /// Record-Route, topmost first.
    ///
    /// # Errors
    /// Malformed.
    pub fn record_routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        unimplemented!()
    }

    /// Expires in seconds. Malformed counts as absent, as RFC 3261 section 20.19 lets a receiver do.
    #[must_use]
    pub fn expires_s(&self) -> Option<u32> {
        unimplemented!()
    }

    /// Min-Expires in seconds.
    #[must_use]
    pub fn min_expires_s(&self) -> Option<u32> {
        unimplemented!()
    }

    /// Retry-After in seconds, comment and parameters left aside.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        unimplemented!()
    }

    /// The media type of the body in lower case without parameters: `application/sdp`.
    #[must_use]
    pub fn content_type(&self) -> Option<String> {
        unimplemented!()
    }

    /// Every token of a comma list such as Allow, Supported, Require, over all its fields.
    #[must_use]
    pub fn tokens(&self, _name: &HeaderName) -> Vec<String> {
        unimplemented!()
    }

    /// Every Reason that can be read.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        unimplemented!()
    }

    /// Every challenge or credentials under `name`, several in one field included. What cannot be read is left out.
    #[must_use]
    pub fn auth(&self, _name: &HeaderName) -> Vec<AuthParams> {
        unimplemented!()
    }
}
