//! SIP URIs (RFC 3261 section 19.1), name-addr, and what may stand in a login.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::Transport;

/// Why a URI or an address was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// There is no scheme and colon at the start.
    #[error("no scheme")]
    NoScheme,
    /// The user part holds a character that must be escaped, or a broken escape.
    #[error("user part is not valid")]
    User,
    /// The host is missing or neither a name nor an IP address.
    #[error("host is not valid")]
    Host,
    /// The port is no number in 0..=65535.
    #[error("port is not valid")]
    Port,
    /// A parameter is malformed.
    #[error("parameter is not valid")]
    Parameter,
    /// A header of the URI is malformed.
    #[error("URI header is not valid")]
    Header,
    /// A quoted display name does not end, or something stands around the angle brackets.
    #[error("display name or angle brackets are not valid")]
    NameAddr,
}

/// A host as it stands in URIs and Via.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A domain name in lower case.
    Domain(String),
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, printed in brackets.
    V6(Ipv6Addr),
}

impl Host {
    /// The address, when the host is no name.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Host::Domain(_) => None,
            Host::V4(ip) => Some(IpAddr::V4(*ip)),
            Host::V6(ip) => Some(IpAddr::V6(*ip)),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Host::V4(ip),
            IpAddr::V6(ip) => Host::V6(ip),
        }
    }
}

impl FromStr for Host {
    type Err = UriError;

    /// Reads a domain name, an IPv4 address or an IPv6 address in brackets.
    fn from_str(_text: &str) -> Result<Self, UriError> {
        unimplemented!()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Domain(name) => f.write_str(name),
            Host::V4(ip) => write!(f, "{ip}"),
            Host::V6(ip) => write!(f, "[{ip}]"),
        }
    }
}

/// `;name=value` parameters in order. Names compare without case; values are held unquoted and unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, Option<String>)>);

impl Params {
    /// No parameters.
    #[must_use]
    pub const fn new() -> Self {
        Params(Vec::new())
    }

    /// Whether the parameter is there, with or without a value.
    #[must_use]
    pub fn contains(&self, _name: &str) -> bool {
        unimplemented!()
    }

    /// The value; `None` when the parameter is absent or has none.
    #[must_use]
    pub fn value(&self, _name: &str) -> Option<&str> {
        unimplemented!()
    }

    /// Sets or replaces a parameter.
    pub fn set(&mut self, _name: &str, _value: Option<String>) {
        unimplemented!()
    }

    /// Removes a parameter; tells whether it was there.
    pub fn remove(&mut self, _name: &str) -> bool {
        unimplemented!()
    }
}

/// A `sip:` or `sips:` URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipUri {
    /// `sips:`.
    pub secure: bool,
    /// The user part, unescaped.
    pub user: Option<String>,
    /// The password, unescaped. Never set by us.
    pub password: Option<String>,
    /// The host.
    pub host: Host,
    /// The port, when one is named.
    pub port: Option<u16>,
    /// URI parameters: `transport`, `lr`, `user` and others.
    pub params: Params,
    /// What stands after `?`.
    pub headers: Params,
}

impl SipUri {
    /// `sip:user@host`. The user is plain text: printing escapes what needs it.
    #[must_use]
    pub fn new(user: Option<&str>, host: Host, port: Option<u16>) -> Self {
        SipUri {
            secure: false,
            user: user.map(str::to_owned),
            password: None,
            host,
            port,
            params: Params::new(),
            headers: Params::new(),
        }
    }

    /// The `transport` parameter, when it names one that we speak.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.params.value("transport").and_then(Transport::parse)
    }

    /// Whether the URI has `;lr`: a loose router, RFC 3261 section 16.12.1.1.
    #[must_use]
    pub fn is_loose_router(&self) -> bool {
        self.params.contains("lr")
    }

    /// URI equality of RFC 3261 section 19.1.4 (not `==`, which compares every detail).
    #[must_use]
    pub fn matches(&self, _other: &SipUri) -> bool {
        unimplemented!()
    }
}

impl FromStr for SipUri {
    type Err = UriError;

    fn from_str(_text: &str) -> Result<Self, UriError> {
        unimplemented!()
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

/// A URI of any scheme. Serialises as its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Uri {
    /// `sip:` or `sips:`.
    Sip(SipUri),
    /// Any other scheme (`tel:`, `urn:`), kept as it was written.
    Other(String),
}

impl Uri {
    /// The SIP URI, when it is one.
    #[must_use]
    pub const fn as_sip(&self) -> Option<&SipUri> {
        match self {
            Uri::Sip(uri) => Some(uri),
            Uri::Other(_) => None,
        }
    }
}

impl From<SipUri> for Uri {
    fn from(uri: SipUri) -> Self {
        Uri::Sip(uri)
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(_text: &str) -> Result<Self, UriError> {
        unimplemented!()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::Sip(uri) => uri.fmt(f),
            Uri::Other(text) => f.write_str(text),
        }
    }
}

impl From<Uri> for String {
    fn from(uri: Uri) -> Self {
        uri.to_string()
    }
}

impl TryFrom<String> for Uri {
    type Error = UriError;

    fn try_from(text: String) -> Result<Self, UriError> {
        text.parse()
    }
}

/// A display name, a URI and header parameters: From, To, Contact, Route. Serialises as its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NameAddr {
    /// The display name, unquoted. Printed in quotes whatever it holds.
    pub display_name: Option<String>,
    /// The address.
    pub uri: Uri,
    /// Header parameters: `tag`, `expires`, `q`.
    pub params: Params,
}

impl NameAddr {
    /// An address without display name and parameters.
    #[must_use]
    pub fn new(uri: impl Into<Uri>) -> Self {
        NameAddr { display_name: None, uri: uri.into(), params: Params::new() }
    }

    /// The same with a display name; an empty one counts as none.
    #[must_use]
    pub fn with_display_name(mut self, name: &str) -> Self {
        self.display_name = (!name.is_empty()).then(|| name.to_owned());
        self
    }

    /// The `tag` parameter.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.params.value("tag")
    }

    /// The same with its `tag` replaced.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag.to_owned()));
        self
    }
}

impl FromStr for NameAddr {
    type Err = UriError;

    fn from_str(_text: &str) -> Result<Self, UriError> {
        unimplemented!()
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!()
    }
}

impl From<NameAddr> for String {
    fn from(address: NameAddr) -> Self {
        address.to_string()
    }
}

impl TryFrom<String> for NameAddr {
    type Error = UriError;

    fn try_from(text: String) -> Result<Self, UriError> {
        text.parse()
    }
}

/// Why a login cannot stand in a SIP URI as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoginError {
    /// The first character that is not allowed; `None` when the login is empty.
    pub character: Option<char>,
    /// Its position, in characters from 0.
    pub position: usize,
}

impl fmt::Display for LoginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.character {
            Some(character) => write!(f, "character {character:?} at position {} is not allowed", self.position),
            None => f.write_str("is empty"),
        }
    }
}

/// Checks a login or authentication name: only what RFC 3261 section 25.1 lets stand unescaped in `user`.
///
/// # Errors
/// Names the first character that is not allowed.
pub fn is_valid_login(_login: &str) -> Result<(), LoginError> {
    unimplemented!()
}
