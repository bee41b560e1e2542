//! Typed readers for the header fields that the core or the gateway acts on.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{
    message::{HeaderName, Headers, Method},
    uri::{Host, NameAddr, Params, fmt_quoted, number, parse_host_port, split_outside, unquote},
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

    /// The address the request came from, when a server noted it. Brackets around IPv6 are tolerated.
    #[must_use]
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.params.value("received")?;
        text.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(text).parse().ok()
    }

    /// The port the request came from (RFC 3581), when a server noted it.
    #[must_use]
    pub fn rport(&self) -> Option<u16> {
        self.params.value("rport").and_then(number)
    }
}

impl FromStr for Via {
    type Err = HeaderError;

    /// Reads `SIP/2.0/UDP host:port;params`, white space around the slashes and the colon allowed.
    fn from_str(text: &str) -> Result<Self, HeaderError> {
        parse_via(text).ok_or(HeaderError { header: HeaderName::Via, fault: HeaderFault::Malformed })
    }
}

fn parse_via(text: &str) -> Option<Via> {
    let (protocol, rest) = text.split_once('/')?;
    let (version, rest) = rest.split_once('/')?;
    let rest = rest.trim_start();
    let (transport, rest) = rest.split_once(char::is_whitespace)?;
    if !protocol.trim().eq_ignore_ascii_case("SIP") || version.trim() != "2.0" || !is_token(transport) {
        return None;
    }
    let (sent_by, params) = match rest.split_once(';') {
        Some((sent_by, params)) => (sent_by, Params::parse_header(params).ok()?),
        None => (rest, Params::new()),
    };
    let (host, port) = parse_host_port(sent_by.trim()).ok()?;
    let branch_is_sound = !params.contains("branch") || params.value("branch").is_some_and(is_token);
    branch_is_sound.then(|| Via { transport: transport.to_ascii_uppercase(), host, port, params })
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SIP/2.0/{} {}", self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        self.params.fmt_header(f)
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
        let vias: Vec<Via> = self.values(&HeaderName::Via).map(str::parse).collect::<Result<_, _>>()?;
        if vias.is_empty() { Err(fault(HeaderName::Via, HeaderFault::Missing)) } else { Ok(vias) }
    }

    /// The topmost Via.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn top_via(&self) -> Result<Via, HeaderError> {
        self.value(&HeaderName::Via).ok_or(fault(HeaderName::Via, HeaderFault::Missing))?.parse()
    }

    /// From.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        self.tagged(HeaderName::From)
    }

    /// To.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        self.tagged(HeaderName::To)
    }

    /// From or To: a tag that is there must be a token, because dialogs are found by it.
    fn tagged(&self, name: HeaderName) -> Result<NameAddr, HeaderError> {
        let malformed = fault(name.clone(), HeaderFault::Malformed);
        let address: NameAddr = self.only(name)?.parse().map_err(|_| malformed.clone())?;
        let tag_is_sound = !address.params.contains("tag") || address.tag().is_some_and(is_token);
        if tag_is_sound { Ok(address) } else { Err(malformed) }
    }

    /// Call-ID.
    ///
    /// # Errors
    /// Missing, repeated or malformed.
    pub fn call_id(&self) -> Result<&str, HeaderError> {
        let call_id = self.only(HeaderName::CallId)?;
        let word = |byte: u8| byte.is_ascii_graphic() && !b",;".contains(&byte);
        if !call_id.is_empty() && call_id.bytes().all(word) {
            Ok(call_id)
        } else {
            Err(fault(HeaderName::CallId, HeaderFault::Malformed))
        }
    }

    /// CSeq.
    ///
    /// # Errors
    /// Missing, repeated, malformed or out of range.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        let malformed = || fault(HeaderName::CSeq, HeaderFault::Malformed);
        let (number, method) = self.only(HeaderName::CSeq)?.split_once(' ').ok_or_else(malformed)?;
        let method = Method::parse(method.trim()).ok_or_else(malformed)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed());
        }
        match number.parse() {
            Ok(number) if number <= MAX_CSEQ => Ok(CSeq { number, method }),
            _ => Err(fault(HeaderName::CSeq, HeaderFault::OutOfRange)),
        }
    }

    /// Max-Forwards, `None` when absent.
    ///
    /// # Errors
    /// Repeated, malformed or above 255.
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        if self.value(&HeaderName::MaxForwards).is_none() {
            return Ok(None);
        }
        let digits = self.only(HeaderName::MaxForwards)?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(fault(HeaderName::MaxForwards, HeaderFault::Malformed));
        }
        digits.parse().map(Some).map_err(|_| fault(HeaderName::MaxForwards, HeaderFault::OutOfRange))
    }

    /// Contact.
    ///
    /// # Errors
    /// Malformed.
    pub fn contacts(&self) -> Result<Contacts, HeaderError> {
        let mut values = self.values(&HeaderName::Contact);
        if values.next() == Some("*") {
            let alone = values.next().is_none();
            return if alone { Ok(Contacts::All) } else { Err(fault(HeaderName::Contact, HeaderFault::Malformed)) };
        }
        self.addresses(HeaderName::Contact).map(Contacts::List)
    }

    /// The first Contact that is an address: where a peer wants further requests.
    ///
    /// # Errors
    /// Missing or malformed.
    pub fn contact(&self) -> Result<NameAddr, HeaderError> {
        match self.contacts()? {
            Contacts::List(list) => list.into_iter().next().ok_or(fault(HeaderName::Contact, HeaderFault::Missing)),
            Contacts::All => Err(fault(HeaderName::Contact, HeaderFault::Malformed)),
        }
    }

    /// Route, topmost first.
    ///
    /// # Errors
    /// Malformed.
    pub fn routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.addresses(HeaderName::Route)
    }

    /// Record-Route, topmost first.
    ///
    /// # Errors
    /// Malformed.
    pub fn record_routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.addresses(HeaderName::RecordRoute)
    }

    fn addresses(&self, name: HeaderName) -> Result<Vec<NameAddr>, HeaderError> {
        let addresses = self.values(&name).map(str::parse).collect::<Result<_, _>>();
        addresses.map_err(|_| fault(name, HeaderFault::Malformed))
    }

    /// Expires in seconds. Malformed counts as absent, as RFC 3261 section 20.19 lets a receiver do.
    #[must_use]
    pub fn expires_s(&self) -> Option<u32> {
        self.value(&HeaderName::Expires).and_then(seconds)
    }

    /// Min-Expires in seconds.
    #[must_use]
    pub fn min_expires_s(&self) -> Option<u32> {
        self.value(&HeaderName::MinExpires).and_then(seconds)
    }

    /// Retry-After in seconds, comment and parameters left aside.
    #[must_use]
    pub fn retry_after_s(&self) -> Option<u32> {
        let value = self.value(&HeaderName::RetryAfter)?;
        seconds(value.split([' ', ';', '(']).next().unwrap_or_default())
    }

    /// The media type of the body in lower case without parameters: `application/sdp`.
    #[must_use]
    pub fn content_type(&self) -> Option<String> {
        let media_type = self.value(&HeaderName::ContentType)?.split(';').next()?;
        let (kind, subtype) = media_type.split_once('/')?;
        let (kind, subtype) = (kind.trim(), subtype.trim());
        (is_token(kind) && is_token(subtype)).then(|| format!("{kind}/{subtype}").to_ascii_lowercase())
    }

    /// Every token of a comma list such as Allow, Supported, Require, over all its fields.
    #[must_use]
    pub fn tokens(&self, name: &HeaderName) -> Vec<String> {
        let items = self.values(name).flat_map(|value| value.split(','));
        items.map(str::trim).filter(|item| is_token(item)).map(str::to_owned).collect()
    }

    /// Every Reason that can be read.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let items = self.values(&HeaderName::Reason).filter_map(|value| split_outside(value, ',')).flatten();
        items.filter_map(parse_reason).collect()
    }

    /// Every challenge or credentials under `name`, several in one field included. What cannot be read is left out.
    #[must_use]
    pub fn auth(&self, name: &HeaderName) -> Vec<AuthParams> {
        self.values(name).filter_map(parse_auth).flatten().collect()
    }

    /// The value of a header that must stand exactly once.
    fn only(&self, name: HeaderName) -> Result<&str, HeaderError> {
        let mut values = self.values(&name);
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value),
            (None, _) => Err(fault(name, HeaderFault::Missing)),
            (Some(_), Some(_)) => Err(fault(name, HeaderFault::Repeated)),
        }
    }
}

/// The largest CSeq, RFC 3261 section 8.1.1.5.
const MAX_CSEQ: u32 = (1 << 31) - 1;

fn fault(header: HeaderName, fault: HeaderFault) -> HeaderError {
    HeaderError { header, fault }
}

/// Reads delta-seconds. More than 32 bits hold means "as long as can be".
pub(super) fn seconds(digits: &str) -> Option<u32> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all_digits.then(|| digits.parse().unwrap_or(u32::MAX))
}

fn parse_reason(text: &str) -> Option<Reason> {
    let (protocol, params) = match text.split_once(';') {
        Some((protocol, params)) => (protocol, Params::parse_header(params).ok()?),
        None => (text, Params::new()),
    };
    let protocol = protocol.trim();
    is_token(protocol).then(|| Reason {
        protocol: protocol.to_owned(),
        cause: params.value("cause").and_then(number),
        text: params.value("text").map(str::to_owned),
    })
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.protocol)?;
        if let Some(cause) = self.cause {
            write!(f, ";cause={cause}")?;
        }
        if let Some(text) = &self.text {
            f.write_str(";text=")?;
            fmt_quoted(text, f)?;
        }
        Ok(())
    }
}

/// Reads one field of challenges. A comma parts both parameters and challenges: an item that starts with a word and white space
/// begins a challenge, any other belongs to the one before it.
fn parse_auth(value: &str) -> Option<Vec<AuthParams>> {
    let mut found: Vec<AuthParams> = Vec::new();
    for item in split_outside(value, ',')? {
        let item = item.trim();
        let head = item.split(['=', '"']).next().unwrap_or_default().trim_end();
        let (scheme, param) = match head.split_once(char::is_whitespace) {
            Some((scheme, _)) => (Some(scheme), item[scheme.len()..].trim_start()),
            None if head.len() == item.len() => (Some(item), ""),
            None => (None, item),
        };
        if let Some(scheme) = scheme {
            if !is_token(scheme) {
                return None;
            }
            found.push(AuthParams { scheme: scheme.to_owned(), params: Params::new() });
        }
        if param.is_empty() {
            continue;
        }
        let (name, text) = param.split_once('=')?;
        let text = unquote(text.trim())?;
        found.last_mut()?.params.add(name.trim().to_owned(), Some(text)).ok()?;
    }
    Some(found)
}

#[cfg(test)]
mod tests;
