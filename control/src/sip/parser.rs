//! Bytes to messages.

use super::{
    headers::{HeaderError, HeaderFault},
    message::{HeaderName, Headers, Message, Method, Request, Response, Status},
    uri::{Uri, number, split_outside},
};

/// The longest message: start line, headers and body, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// The most header fields in a message, after comma lists were split.
pub const MAX_HEADERS: usize = 128;
/// The longest line, folded lines counted together, in bytes.
pub const MAX_LINE_BYTES: usize = 8 * 1024;

/// A message that cannot be used: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ParseError {
    /// What is wrong.
    pub what: Fault,
    /// Where it is wrong.
    pub place: Place,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It must be there and is not.
    #[error("missing")]
    Missing,
    /// It stands twice and must not.
    #[error("repeated")]
    Repeated,
    /// It breaks the grammar.
    #[error("malformed")]
    Malformed,
    /// A number is out of its range.
    #[error("out of range")]
    OutOfRange,
    /// One of the limits of this module is exceeded.
    #[error("too long")]
    TooLong,
    /// The body is shorter than Content-Length says.
    #[error("body shorter than announced")]
    Truncated,
    /// The version is not SIP/2.0.
    #[error("version not supported")]
    Version,
}

/// Where a message is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Place {
    /// The first line.
    #[error("start line")]
    StartLine,
    /// A header line that has no readable name; counted from 1.
    #[error("header line {0}")]
    Line(usize),
    /// A header.
    #[error("{0}")]
    Header(HeaderName),
    /// The body.
    #[error("body")]
    Body,
    /// The message as a whole.
    #[error("message")]
    Message,
}

/// What the front of a stream buffer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// More bytes are needed.
    Incomplete,
    /// This many bytes of CR and LF between messages (RFC 3261 section 7.5, RFC 5626 section 3.5.1).
    KeepAlive(usize),
    /// A whole message of this many bytes.
    Message(usize),
    /// The stream cannot be used any more: close it.
    Invalid(ParseError),
}

/// Looks at the front of a stream buffer. Never looks further than the limits of this module.
#[must_use]
pub fn frame(bytes: &[u8]) -> Framing {
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if blank > 0 {
        return Framing::KeepAlive(blank);
    }
    match frame_message(bytes) {
        Ok(Some(len)) => Framing::Message(len),
        Ok(None) => Framing::Incomplete,
        Err(error) => Framing::Invalid(error),
    }
}

fn frame_message(bytes: &[u8]) -> Result<Option<usize>, ParseError> {
    let mut content_length = None;
    let mut lines = Lines { rest: bytes, position: 0 };
    for number in 0.. {
        let Some(line) = lines.next() else {
            let limit = if lines.position + lines.rest.len() > MAX_MESSAGE_BYTES { 0 } else { MAX_LINE_BYTES };
            return if lines.rest.len() > limit { Err(ParseError::too_long(Place::Message)) } else { Ok(None) };
        };
        if number > MAX_HEADERS || lines.position > MAX_MESSAGE_BYTES || line.len() > MAX_LINE_BYTES {
            return Err(ParseError::too_long(Place::Message));
        }
        if number == 0 {
            // Whoever speaks HTTP or noise to a SIP port is noticed at the first line.
            parse_start_line(&String::from_utf8_lossy(line))?;
        } else if line.is_empty() {
            break;
        } else if let Some((name, value)) = split_header(line)
            && HeaderName::parse(name) == Some(HeaderName::ContentLength)
        {
            let announced = parse_content_length(&String::from_utf8_lossy(value))?;
            if content_length.replace(announced).is_some() {
                return Err(ParseError::header(Fault::Repeated, HeaderName::ContentLength));
            }
        }
    }
    // RFC 3261 section 18.3: on a stream nothing else tells where the message ends.
    let length = content_length.ok_or_else(|| ParseError::header(Fault::Missing, HeaderName::ContentLength))?;
    match lines.position + length {
        total if total > MAX_MESSAGE_BYTES => Err(ParseError::too_long(Place::Message)),
        total if total <= bytes.len() => Ok(Some(total)),
        _ => Ok(None),
    }
}

/// Reads one whole message: a datagram, or what [`frame`] cut from a stream.
///
/// Via, From, To, Call-ID, CSeq and Max-Forwards are checked; other headers are kept as text. Bytes after Content-Length are dropped
/// (RFC 3261 section 18.3).
///
/// # Errors
/// What is wrong, and where.
pub fn parse(bytes: &[u8]) -> Result<Message, ParseError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(ParseError::too_long(Place::Message));
    }
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let mut lines = Lines { rest: &bytes[blank..], position: 0 };
    let first = lines.next().ok_or(ParseError { what: Fault::Truncated, place: Place::Message })?;
    if first.len() > MAX_LINE_BYTES {
        return Err(ParseError::too_long(Place::StartLine));
    }
    let start = parse_start_line(&String::from_utf8_lossy(first))?;
    let (headers, content_length) = parse_headers(&mut lines)?;
    let rest = lines.rest;
    let body = match content_length {
        Some(length) => rest.get(..length).ok_or(ParseError { what: Fault::Truncated, place: Place::Body })?,
        None => rest,
    };
    check(&start, &headers)?;
    let body = body.to_vec();
    match start {
        StartLine::Request(method, uri) => {
            let uri = uri.parse().map_err(|_| ParseError { what: Fault::Malformed, place: Place::StartLine })?;
            Ok(Message::Request(Request { method, uri, headers, body }))
        }
        StartLine::Response(status, reason) => Ok(Message::Response(Response { status, reason, headers, body })),
    }
}

/// What a request that [`parse`] refused still says about itself, so that a 400 can find its way back: `None` when one of Via, From,
/// To, Call-ID and CSeq is missing or the top Via cannot be read, for responses, and for ACK, which nobody answers.
///
/// From, To, Call-ID and CSeq are there as text and may be what is malformed. The Request-URI is not the real one.
#[must_use]
pub fn salvage(bytes: &[u8]) -> Option<Request> {
    let bytes = &bytes[..bytes.len().min(MAX_MESSAGE_BYTES)];
    let blank = bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let mut lines = Lines { rest: &bytes[blank..], position: 0 };
    let first = String::from_utf8_lossy(lines.next()?).into_owned();
    let method = Method::parse(first.split(' ').next()?).filter(|method| *method != Method::Ack)?;
    if first.starts_with("SIP/") || !first.to_ascii_uppercase().contains("SIP/") {
        return None;
    }
    let mut request = Request::new(method, Uri::Other("urn:unreadable".to_owned()));
    while let Some(line) = unfold(&mut lines).filter(|line| !line.is_empty()) {
        let Some((name, value)) = split_header(&line) else { continue };
        let Some(name) = HeaderName::parse(name).filter(|name| ANSWERED.contains(name)) else { continue };
        let first_of_its_kind = request.headers.value(&name).is_none();
        if name == HeaderName::Via {
            push_split(&mut request.headers, name, clean(value)).ok()?;
        } else if first_of_its_kind {
            request.headers.push(name, clean(value));
        }
    }
    request.headers.top_via().ok()?;
    ANSWERED.iter().all(|name| request.headers.value(name).is_some()).then_some(request)
}

/// What a response repeats from its request, RFC 3261 section 8.2.6.2.
const ANSWERED: [HeaderName; 5] =
    [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId, HeaderName::CSeq];

enum StartLine {
    Request(Method, String),
    Response(Status, String),
}

fn parse_start_line(line: &str) -> Result<StartLine, ParseError> {
    let malformed = || ParseError { what: Fault::Malformed, place: Place::StartLine };
    if line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("SIP/")) {
        let rest = line.get(..8).filter(|version| version.eq_ignore_ascii_case("SIP/2.0 ")).map(|_| &line[8..]);
        let rest = rest.ok_or(ParseError { what: Fault::Version, place: Place::StartLine })?;
        let (code, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = if code.len() == 3 { number(code) } else { None };
        let status = code.and_then(Status::new).ok_or_else(malformed)?;
        return Ok(StartLine::Response(status, clean(reason.as_bytes())));
    }
    let mut words = line.trim_end().split(' ');
    let (Some(method), Some(uri), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(malformed());
    };
    if !version.get(..4).is_some_and(|head| head.eq_ignore_ascii_case("SIP/")) {
        return Err(malformed());
    }
    if !version.eq_ignore_ascii_case("SIP/2.0") {
        return Err(ParseError { what: Fault::Version, place: Place::StartLine });
    }
    Ok(StartLine::Request(Method::parse(method).ok_or_else(malformed)?, uri.to_owned()))
}

/// Lines that end in CRLF, or in a bare LF as some devices send. `next` gives `None` when no line end is left.
struct Lines<'a> {
    rest: &'a [u8],
    position: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == b'\n')?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        self.position += end + 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// The next header line with its continuation lines, RFC 3261 section 7.3.1: a fold is one space.
fn unfold(lines: &mut Lines<'_>) -> Option<Vec<u8>> {
    let mut line = lines.next()?.to_vec();
    while !line.is_empty() && matches!(lines.rest.first(), Some(b' ' | b'\t')) {
        let folded = lines.next()?;
        line.push(b' ');
        line.extend_from_slice(folded.trim_ascii());
    }
    Some(line)
}

fn split_header(line: &[u8]) -> Option<(&str, &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = std::str::from_utf8(&line[..colon]).ok()?;
    Some((name.trim_end_matches([' ', '\t']), &line[colon + 1..]))
}

fn parse_headers(lines: &mut Lines<'_>) -> Result<(Headers, Option<usize>), ParseError> {
    let (mut headers, mut content_length) = (Headers::new(), None);
    for count in 1.. {
        let line = unfold(lines).ok_or(ParseError { what: Fault::Truncated, place: Place::Message })?;
        if line.is_empty() {
            break;
        }
        if line.len() > MAX_LINE_BYTES || headers.len() >= MAX_HEADERS {
            return Err(ParseError::too_long(Place::Line(count)));
        }
        let nameless = ParseError { what: Fault::Malformed, place: Place::Line(count) };
        let (name, value) = split_header(&line).ok_or(nameless.clone())?;
        let name = HeaderName::parse(name).ok_or(nameless)?;
        let value = clean(value);
        if name != HeaderName::ContentLength {
            push_split(&mut headers, name, value)?;
        } else if content_length.replace(parse_content_length(&value)?).is_some() {
            return Err(ParseError::header(Fault::Repeated, HeaderName::ContentLength));
        }
    }
    if headers.len() > MAX_HEADERS { Err(ParseError::too_long(Place::Message)) } else { Ok((headers, content_length)) }
}

/// Bytes that are no UTF-8 become replacement characters: where they could create state, the typed reader refuses those.
fn clean(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let text: String =
        text.chars().map(|character| if character.is_ascii_control() { ' ' } else { character }).collect();
    text.trim_matches(' ').to_owned()
}

fn parse_content_length(text: &str) -> Result<usize, ParseError> {
    let digits = text.trim_matches([' ', '\t']);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ParseError::header(Fault::Malformed, HeaderName::ContentLength));
    }
    match digits.parse() {
        Ok(length) if length <= MAX_MESSAGE_BYTES => Ok(length),
        _ => Err(ParseError::header(Fault::OutOfRange, HeaderName::ContentLength)),
    }
}

/// One field per value for the lists that are worked on value by value.
fn push_split(headers: &mut Headers, name: HeaderName, value: String) -> Result<(), ParseError> {
    let listed = [HeaderName::Via, HeaderName::Route, HeaderName::RecordRoute, HeaderName::Contact].contains(&name);
    match split_outside(&value, ',') {
        Some(items) if listed && items.len() > 1 => {
            if headers.len() + items.len() > MAX_HEADERS {
                return Err(ParseError::header(Fault::TooLong, name));
            }
            for item in items {
                headers.push(name.clone(), item.trim_matches(' '));
            }
        }
        _ => headers.push(name, value),
    }
    Ok(())
}

/// The headers that create or find state. Anything else may be odd.
fn check(start: &StartLine, headers: &Headers) -> Result<(), ParseError> {
    headers.vias()?;
    headers.from()?;
    headers.to()?;
    headers.call_id()?;
    let cseq = headers.cseq()?;
    if let StartLine::Request(method, _) = start {
        headers.max_forwards()?;
        if cseq.method != *method {
            return Err(ParseError::header(Fault::Malformed, HeaderName::CSeq));
        }
    }
    Ok(())
}

impl ParseError {
    const fn header(what: Fault, name: HeaderName) -> Self {
        ParseError { what, place: Place::Header(name) }
    }

    const fn too_long(place: Place) -> Self {
        ParseError { what: Fault::TooLong, place }
    }
}

impl From<HeaderError> for ParseError {
    fn from(error: HeaderError) -> Self {
        let what = match error.fault {
            HeaderFault::Missing => Fault::Missing,
            HeaderFault::Repeated => Fault::Repeated,
            HeaderFault::Malformed => Fault::Malformed,
            HeaderFault::OutOfRange => Fault::OutOfRange,
        };
        ParseError::header(what, error.header)
    }
}

#[cfg(test)]
mod tests;
