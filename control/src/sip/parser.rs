//! Bytes to messages.

use super::message::{HeaderName, Message};

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
pub fn frame(_bytes: &[u8]) -> Framing {
    unimplemented!()
}

/// Reads one whole message: a datagram, or what [`frame`] cut from a stream.
///
/// Via, From, To, Call-ID, CSeq and Max-Forwards are checked; other headers are kept as text. Bytes after Content-Length are dropped
/// (RFC 3261 section 18.3).
///
/// # Errors
/// What is wrong, and where.
pub fn parse(_bytes: &[u8]) -> Result<Message, ParseError> {
    unimplemented!()
}
