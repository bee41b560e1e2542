//! SIP URIs (RFC 3261 section 19.1), name-addr, and what may stand in a login.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::Transport;

mod params;

pub use params::Params;
pub(super) use params::{fmt_quoted, number, split_outside, unquote};

use params::{Escaped, closing_quote, is_plain, unescape};

/// The longest domain name, RFC 1035 section 2.3.4.
const MAX_DOMAIN_BYTES: usize = 255;
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

    /// Reads a domain name, an IPv4 address or an IPv6 address in brackets. Underscores are tolerated in names.
    fn from_str(text: &str) -> Result<Self, UriError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(UriError::Host)?;
            return inner.parse().map(Host::V6).map_err(|_| UriError::Host);
        }
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return text.parse().map(Host::V4).map_err(|_| UriError::Host);
        }
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > MAX_DOMAIN_BYTES || !name.split('.').all(label) {
            return Err(UriError::Host);
        }
        Ok(Host::Domain(text.to_ascii_lowercase()))
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

/// A `sip:` or `sips:` URI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
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

impl From<SipUri> for String {
    fn from(uri: SipUri) -> Self {
        uri.to_string()
    }
}

impl TryFrom<String> for SipUri {
    type Error = UriError;

    fn try_from(text: String) -> Result<Self, UriError> {
        text.parse()
    }
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
    pub fn matches(&self, other: &SipUri) -> bool {
        /// Parameters that may not stand in one URI alone.
        const DECISIVE: [&str; 5] = ["user", "ttl", "method", "maddr", "transport"];
        let params_agree = |a: &Params, b: &Params| {
            a.iter().all(|(name, value)| match (b.contains(name), b.value(name)) {
                (false, _) => !DECISIVE.iter().any(|decisive| decisive.eq_ignore_ascii_case(name)),
                (true, other) => value.map(str::to_ascii_lowercase) == other.map(str::to_ascii_lowercase),
            })
        };
        self.secure == other.secure
            && self.user == other.user
            && self.password == other.password
            && self.host == other.host
            && self.port == other.port
            && params_agree(&self.params, &other.params)
            && params_agree(&other.params, &self.params)
            && self.headers.iter().count() == other.headers.iter().count()
            && self
                .headers
                .iter()
                .all(|(name, value)| other.headers.contains(name) && other.headers.value(name) == value)
    }

    fn parse_rest(secure: bool, rest: &str) -> Result<Self, UriError> {
        let (user_info, rest) = match rest.rsplit_once('@') {
            Some((user_info, rest)) => (Some(user_info), rest),
            None => (None, rest),
        };
        let (user, password) =
            match user_info.map(|text| text.split_once(':').map_or((text, None), |(u, p)| (u, Some(p)))) {
                Some((user, password)) => (Some(parse_user(user)?), password.map(parse_password).transpose()?),
                None => (None, None),
            };
        let (rest, headers) = match rest.split_once('?') {
            Some((rest, headers)) => (rest, Params::parse_uri(headers, '&', &UriError::Header)?),
            None => (rest, Params::new()),
        };
        let (host_port, params) = match rest.split_once(';') {
            Some((host_port, params)) => (host_port, Params::parse_uri(params, ';', &UriError::Parameter)?),
            None => (rest, Params::new()),
        };
        let (host, port) = parse_host_port(host_port)?;
        Ok(SipUri { secure, user, password, host, port, params, headers })
    }
}

impl FromStr for SipUri {
    type Err = UriError;

    /// Reads an addr-spec without angle brackets.
    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError::NoScheme)?;
        match scheme {
            _ if scheme.eq_ignore_ascii_case("sip") => SipUri::parse_rest(false, rest),
            _ if scheme.eq_ignore_ascii_case("sips") => SipUri::parse_rest(true, rest),
            _ => Err(UriError::NoScheme),
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{}", Escaped(user, USER_PLAIN))?;
            if let Some(password) = &self.password {
                write!(f, ":{}", Escaped(password, PASSWORD_PLAIN))?;
            }
            f.write_str("@")?;
        }
        self.host.fmt(f)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.fmt_uri(f, ';', ';', PARAM_PLAIN)?;
        self.headers.fmt_uri(f, '?', '&', HEADER_PLAIN)
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

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once(':').ok_or(UriError::NoScheme)?;
        let mut letters = scheme.bytes();
        let starts_well = letters.next().is_some_and(|byte| byte.is_ascii_alphabetic());
        if !starts_well || !letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
            return Err(UriError::NoScheme);
        }
        if scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips") {
            return text.parse().map(Uri::Sip);
        }
        let printable = |character: char| character.is_ascii_graphic() && !"<>\"".contains(character);
        if rest.is_empty() || !rest.chars().all(printable) {
            return Err(UriError::Host);
        }
        Ok(Uri::Other(text.to_owned()))
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

    /// The `expires` parameter of a Contact in seconds; a number too large for 32 bits counts as the largest one.
    #[must_use]
    pub fn expires_s(&self) -> Option<u32> {
        self.params.value("expires").and_then(super::headers::seconds)
    }

    /// The same with its `tag` replaced.
    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag.to_owned()));
        self
    }

    fn parse_bare(text: &str) -> Result<Self, UriError> {
        let (uri, params) = match text.split_once(';') {
            Some((uri, params)) => (uri, Params::parse_header(params)?),
            None => (text, Params::new()),
        };
        // Such a URI must stand in brackets: nobody could tell whose the comma or the question mark is.
        if uri.contains([',', '?', '"', '>']) {
            return Err(UriError::NameAddr);
        }
        Ok(NameAddr { display_name: None, uri: uri.trim_end().parse()?, params })
    }
}

impl FromStr for NameAddr {
    type Err = UriError;

    /// Reads `"name" <uri>;params`, `name <uri>`, `<uri>` or a bare `uri;params`, whose parameters belong to the header
    /// (RFC 3261 section 20.10).
    fn from_str(text: &str) -> Result<Self, UriError> {
        let text = text.trim();
        let (display_name, rest) = if text.starts_with('"') {
            let end = closing_quote(text).ok_or(UriError::NameAddr)?;
            let name = unquote(&text[..=end]).ok_or(UriError::NameAddr)?;
            (name, text[end + 1..].trim_start().strip_prefix('<').ok_or(UriError::NameAddr)?)
        } else if let Some((name, rest)) = text.split_once('<') {
            if name.contains(['"', '>']) {
                return Err(UriError::NameAddr);
            }
            (name.trim().to_owned(), rest)
        } else {
            return Self::parse_bare(text);
        };
        let (uri, rest) = rest.split_once('>').ok_or(UriError::NameAddr)?;
        let rest = rest.trim_start();
        let params = match rest.strip_prefix(';') {
            Some(params) => Params::parse_header(params)?,
            None if rest.is_empty() => Params::new(),
            None => return Err(UriError::NameAddr),
        };
        let display_name = (!display_name.is_empty()).then_some(display_name);
        Ok(NameAddr { display_name, uri: uri.trim().parse()?, params })
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.display_name {
            fmt_quoted(name, f)?;
            f.write_str(" ")?;
        }
        write!(f, "<{}>", self.uri)?;
        self.params.fmt_header(f)
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
pub fn is_valid_login(login: &str) -> Result<(), LoginError> {
    if login.is_empty() {
        return Err(LoginError { character: None, position: 0 });
    }
    match login.chars().enumerate().find(|(_, character)| !is_plain(*character, USER_PLAIN)) {
        Some((position, character)) => Err(LoginError { character: Some(character), position }),
        None => Ok(()),
    }
}

/// `user-unreserved`.
const USER_PLAIN: &str = "&=+$,;?/";
/// `password`.
const PASSWORD_PLAIN: &str = "&=+$,";
/// `param-unreserved`.
const PARAM_PLAIN: &str = "[]/:&+$";
/// `hnv-unreserved`.
const HEADER_PLAIN: &str = "[]/?:+$";

fn parse_user(text: &str) -> Result<String, UriError> {
    // Characters such as `#` stand unescaped in the dial strings of many phones: accepted, printed escaped.
    let user = unescape(text).ok_or(UriError::User)?;
    if text.is_empty() || text.contains('@') { Err(UriError::User) } else { Ok(user) }
}

fn parse_password(text: &str) -> Result<String, UriError> {
    if text.contains('@') { Err(UriError::User) } else { unescape(text).ok_or(UriError::User) }
}

/// Reads `host[:port]`, white space around the colon allowed as Via has it.
pub(super) fn parse_host_port(text: &str) -> Result<(Host, Option<u16>), UriError> {
    let colon = match text.rfind(']') {
        Some(bracket) => text[bracket..].find(':').map(|at| bracket + at),
        None => text.find(':'),
    };
    let (host, port) = match colon {
        Some(at) => (&text[..at], Some(text[at + 1..].trim_start())),
        None => (text, None),
    };
    let host = host.trim_end().parse()?;
    Ok((host, port.map(|digits| number(digits).ok_or(UriError::Port)).transpose()?))
}

#[cfg(test)]
mod tests;
