//! SIP URIs (RFC 3261 section 19.1), name-addr, and what may stand in a login.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::Transport;

/// The longest domain name, RFC 1035 section 2.3.4.
const MAX_DOMAIN_BYTES: usize = 255;
/// The most parameters of one address, Via or challenge: each is compared with each.
pub(super) const MAX_PARAMS: usize = 64;

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
    pub fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    /// The value; `None` when the parameter is absent or has none.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.position(name).and_then(|at| self.0[at].1.as_deref())
    }

    /// Every parameter, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Sets or replaces a parameter.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match self.position(name) {
            Some(at) => self.0[at].1 = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Removes a parameter; tells whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        self.position(name).map(|at| self.0.remove(at)).is_some()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(other, _)| other.eq_ignore_ascii_case(name))
    }

    /// Adds a parameter that must not be there yet: a name that stands twice would mean two things.
    pub(super) fn add(&mut self, name: String, value: Option<String>) -> Result<(), UriError> {
        if self.0.len() >= MAX_PARAMS || self.contains(&name) {
            return Err(UriError::Parameter);
        }
        self.0.push((name, value));
        Ok(())
    }

    /// Reads `name=value;name` as it stands behind a name-addr or a Via, after the first semicolon.
    pub(super) fn parse_header(text: &str) -> Result<Self, UriError> {
        let mut params = Params::new();
        for item in split_outside(text, ';').ok_or(UriError::Parameter)? {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name.trim(), Some(unquote(value.trim()).ok_or(UriError::Parameter)?)),
                None => (item.trim(), None),
            };
            if !super::headers::is_token(name) {
                return Err(UriError::Parameter);
            }
            params.add(name.to_owned(), value)?;
        }
        Ok(params)
    }

    /// Prints `;name=value` for a header, quoting where the value is no token or host.
    pub(super) fn fmt_header(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            write!(f, ";{name}")?;
            if let Some(value) = value {
                f.write_str("=")?;
                fmt_token_or_quoted(value, f)?;
            }
        }
        Ok(())
    }

    /// Reads URI parameters or URI headers: escaped names and values between separators.
    fn parse_uri(text: &str, separator: char, fault: &UriError) -> Result<Self, UriError> {
        let mut params = Params::new();
        for item in text.split(separator) {
            let (name, value) = match item.split_once('=') {
                Some((name, value)) => (name, Some(unescape(value).ok_or(fault.clone())?)),
                None => (item, None),
            };
            let name = unescape(name).filter(|name| !name.is_empty()).ok_or(fault.clone())?;
            params.add(name, value).map_err(|_| fault.clone())?;
        }
        Ok(params)
    }

    fn fmt_uri(&self, f: &mut fmt::Formatter<'_>, first: char, next: char, plain: &str) -> fmt::Result {
        let mut separator = first;
        for (name, value) in self.iter() {
            write!(f, "{separator}{}", Escaped(name, plain))?;
            if let Some(value) = value {
                // Proxies put unescaped `=` into the parameters of their Record-Route and look for it again in our Route.
                write!(f, "={}", EscapedKeepingEquals(value, plain))?;
            }
            separator = next;
        }
        Ok(())
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
            && self.headers.0.len() == other.headers.0.len()
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

/// What stands unescaped in every part of a URI beside letters and digits: `mark`.
const MARK: &str = "-_.!~*'()";
/// `user-unreserved`.
const USER_PLAIN: &str = "&=+$,;?/";
/// `password`.
const PASSWORD_PLAIN: &str = "&=+$,";
/// `param-unreserved`.
const PARAM_PLAIN: &str = "[]/:&+$";
/// `hnv-unreserved`.
const HEADER_PLAIN: &str = "[]/?:+$";

fn is_plain(character: char, plain: &str) -> bool {
    character.is_ascii_alphanumeric() || MARK.contains(character) || plain.contains(character)
}

struct Escaped<'a>(&'a str, &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_escaped(self.0, f, |character| is_plain(character, self.1))
    }
}

struct EscapedKeepingEquals<'a>(&'a str, &'a str);

impl fmt::Display for EscapedKeepingEquals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_escaped(self.0, f, |character| character == '=' || is_plain(character, self.1))
    }
}

fn fmt_escaped(text: &str, f: &mut fmt::Formatter<'_>, plain: impl Fn(char) -> bool) -> fmt::Result {
    for character in text.chars() {
        if plain(character) {
            write!(f, "{character}")?;
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                write!(f, "%{byte:02X}")?;
            }
        }
    }
    Ok(())
}

/// Undoes `%HH`. `None` for a broken escape, bytes that are no UTF-8, and raw characters that can never stand in a URI.
fn unescape(text: &str) -> Option<String> {
    if text.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"<>\"".contains(&byte)) {
        return None;
    }
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        if *byte == b'%' {
            let [high, low, tail @ ..] = tail else { return None };
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            out.push(nibble(*high)? << 4 | nibble(*low)?);
            rest = tail;
        } else {
            out.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8(out).ok()
}

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
    let port = port.map(|digits| number(digits).ok_or(UriError::Port)).transpose()?;
    Ok((host.trim_end().parse()?, port))
}

/// Reads digits only: no sign, no white space, nothing else that `parse` would take.
pub(super) fn number<N: FromStr>(digits: &str) -> Option<N> {
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

/// Splits at `separator` outside of quoted strings and angle brackets. `None` when one of those does not end.
pub(super) fn split_outside(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut items, mut start) = (Vec::new(), 0);
    let (mut quoted, mut angled, mut escaped) = (false, false, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if !angled => quoted = !quoted,
            '<' if !quoted => angled = true,
            '>' if !quoted => angled = false,
            _ if character == separator && !quoted && !angled => {
                items.push(&text[start..at]);
                start = at + character.len_utf8();
            }
            _ => {}
        }
    }
    items.push(&text[start..]);
    (!quoted && !angled).then_some(items)
}

/// The position of the quote that ends the quoted string `text` starts with.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(at, character)| {
        let closes = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        closes.then_some(at)
    })
}

/// The text of a quoted string, or a bare word as it is. `None` when neither.
pub(super) fn unquote(text: &str) -> Option<String> {
    if !text.starts_with('"') {
        let bare = |character: char| !character.is_whitespace() && !"\",;<>".contains(character);
        return text.chars().all(bare).then(|| text.to_owned());
    }
    if closing_quote(text)? + 1 != text.len() {
        return None;
    }
    let (mut out, mut escaped) = (String::with_capacity(text.len()), false);
    for character in text[1..text.len() - 1].chars() {
        if character == '\\' && !escaped {
            escaped = true;
        } else {
            out.push(character);
            escaped = false;
        }
    }
    Some(out)
}

/// Prints a quoted string: whatever it holds, it cannot end early.
pub(super) fn fmt_quoted(text: &str, f: &mut impl fmt::Write) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            _ if character.is_control() => f.write_char(' ')?,
            _ => f.write_char(character)?,
        }
    }
    f.write_char('"')
}

fn fmt_token_or_quoted(value: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~[]:".contains(&byte);
    if !value.is_empty() && value.bytes().all(bare) { f.write_str(value) } else { fmt_quoted(value, f) }
}

#[cfg(test)]
mod tests;
