//! Session descriptions as pure functions over typed structs (RFC 8866, RFC 3264).
//!
//! Owns what a browser needs ([`browser`]), what a SIP peer needs ([`trunk`]), the codec names and the operator's codec lists
//! ([`codec`]) and the agreement between both ([`negotiate`]). It opens nothing, reads no clock and draws no entropy: session
//! ids, addresses and credentials are passed in. A description is read leniently, with limits, and printed strictly, with CRLF.

pub mod browser;
mod choice;
pub mod codec;
pub mod direction;
pub mod h264;
pub mod leg;
pub mod medium;
pub mod negotiate;
pub mod repair;
pub mod shorten;
pub mod trunk;

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use browser::{BrowserDescription, BrowserLocal, BrowserMedia, BrowserSection, IceDtls, LocalTransport, Setup};
pub use codec::{Codec, CodecPolicy, Encoding, Payload};
pub use direction::Direction;
pub use leg::{LegPayload, PayloadRoute};
pub use medium::{MediaAgreement, MediaSide, MediaTarget};
pub use negotiate::{Agreement, BrowserSide, NegotiateError, Offered};
pub use repair::{Abilities, Repair};
pub use shorten::{Shortened, Taken};
pub use trunk::{SipSdpLines, TrunkDescription, TrunkMedia, TrunkSection, TrunkSession};

/// Longest description taken, in bytes: ten times the largest offer of a browser with audio and video.
pub const DESCRIPTION_MAX_BYTES: usize = 64 * 1024;
/// Most lines in one description; Firefox's offer with three video codecs has about 150.
pub const LINES_MAX: usize = 2048;
/// Most media sections in one description.
pub const SECTIONS_MAX: usize = 16;
/// Most payload types in one section: there are only 128 numbers.
pub const PAYLOADS_MAX: usize = 128;
/// Most candidates in one section. They are not used (the address is learnt from checks), so a flood is refused.
pub const CANDIDATES_MAX: usize = 64;

/// Why a description was refused. Each cause names the line or the field.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SdpError {
    /// The text is longer than [`DESCRIPTION_MAX_BYTES`].
    #[error("sdp: {len_bytes} bytes, {DESCRIPTION_MAX_BYTES} are allowed")]
    TooLong {
        /// Length of what was offered, in bytes.
        len_bytes: usize,
    },
    /// More items of one kind than a limit of this module allows.
    #[error("sdp: more than {limit} {what}")]
    TooMany {
        /// What there was too much of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// The container could not be read; the text names line and field.
    #[error("sdp: {0}")]
    Grammar(#[from] sdp_types::ParserError),
    /// A required field is absent.
    #[error("sdp: m-section {section}: {field} is missing")]
    Missing {
        /// Index of the m-section, counted from 0.
        section: usize,
        /// The absent attribute or field.
        field: &'static str,
    },
    /// A field has a value that cannot be used.
    #[error("sdp: m-section {section}: {field}: {reason}")]
    Invalid {
        /// Index of the m-section, counted from 0.
        section: usize,
        /// The offending attribute or field.
        field: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no m=audio section that could be used.
    #[error("sdp: no usable m=audio section: {reason}")]
    NoAudio {
        /// What is wrong with the sections that are there.
        reason: &'static str,
    },
    /// An element of `sipSDP` that must not go into a description.
    #[error("sipSDP[{index}]: {reason}")]
    SipSdpLine {
        /// Index of the element, counted from 0.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// The kind of a media section: the first word of its m-line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MediaKind {
    /// `m=audio`
    Audio,
    /// `m=video`
    Video,
    /// Anything else, as written; such a section is kept in order and rejected.
    Other(String),
}

impl MediaKind {
    fn parse(text: &str) -> Self {
        match text {
            "audio" => MediaKind::Audio,
            "video" => MediaKind::Video,
            other => MediaKind::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for MediaKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
            MediaKind::Other(other) => other,
        })
    }
}

/// What a lenient reader may drop without harm: the container refuses a whole description for one bad `b=`, `o=` or `t=` line,
/// and phones do send `b=AS:64.0`, an `o=` version beyond 64 bits or an m-line without a format. Dropped lines are emptied,
/// not removed, so that an error still names the right line.
fn readable_line(line: &str, seen_origin: &mut bool, seen_name: &mut bool) -> Option<String> {
    let line = line.trim_end_matches(['\r', ' ', '\t']);
    if line.contains(['\0', '\r']) {
        return None;
    }
    let value = line.get(2..)?;
    match line.get(..2)? {
        "v=" | "a=" => Some(line.to_owned()),
        "c=" => Some(line.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ")),
        "m=" => Some(match line.split_ascii_whitespace().count() {
            3 => format!("{line} 0"),
            _ => line.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
        }),
        "o=" => {
            let words: Vec<&str> = value.split_ascii_whitespace().collect();
            let usable = words.len() == 6 && words[2].parse::<u64>().is_ok() && !std::mem::replace(seen_origin, true);
            usable.then(|| format!("o={}", words.join(" ")))
        }
        "s=" => (!std::mem::replace(seen_name, true)).then(|| line.to_owned()),
        "b=" => {
            let (name, amount) = value.split_once(':')?;
            let usable = !name.is_empty() && amount.parse::<u64>().is_ok();
            usable.then(|| line.to_owned())
        }
        _ => None,
    }
}

/// Reads text into the container, leniently and within the limits of this module.
fn read(text: &str) -> Result<sdp_types::Session, SdpError> {
    if text.len() > DESCRIPTION_MAX_BYTES {
        return Err(SdpError::TooLong { len_bytes: text.len() });
    }
    let (mut seen_origin, mut seen_name) = (false, false);
    let mut readable = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index >= LINES_MAX {
            return Err(SdpError::TooMany { what: "lines", limit: LINES_MAX });
        }
        readable.push_str(&readable_line(line, &mut seen_origin, &mut seen_name).unwrap_or_default());
        readable.push('\n');
    }
    let session = sdp_types::Session::parse(readable.as_bytes())?;
    if session.medias.len() > SECTIONS_MAX {
        return Err(SdpError::TooMany { what: "m-sections", limit: SECTIONS_MAX });
    }
    Ok(session)
}

/// Prints the container with CRLF.
fn print(session: &sdp_types::Session) -> String {
    let mut bytes = Vec::new();
    session.write(&mut bytes).expect("writing to memory does not fail");
    String::from_utf8(bytes).expect("the container holds only text")
}

/// The first value of an attribute in a section, or else in the session (RFC 8866 section 5.13: media level wins).
fn attribute<'a>(session: &'a sdp_types::Session, media: &'a sdp_types::Media, name: &str) -> Option<&'a str> {
    let find = |attributes: &'a [sdp_types::Attribute]| {
        attributes
            .iter()
            .find(|attribute| attribute.attribute.eq_ignore_ascii_case(name))
            .map(|attribute| attribute.value.as_deref().unwrap_or("").trim())
    };
    find(&media.attributes).or_else(|| find(&session.attributes))
}

/// Lists all values of an attribute in a section, or else in the session, within a limit.
fn attributes<'a>(session: &'a sdp_types::Session, media: &'a sdp_types::Media, name: &'static str) -> Vec<&'a str> {
    let list = |attributes: &'a [sdp_types::Attribute]| -> Vec<&'a str> {
        let named = attributes.iter().filter(|attribute| attribute.attribute.eq_ignore_ascii_case(name));
        named.map(|attribute| attribute.value.as_deref().unwrap_or("").trim()).collect()
    };
    let own = list(&media.attributes);
    if own.is_empty() { list(&session.attributes) } else { own }
}

/// The direction of a section: its own attribute, else the session's, else sendrecv (RFC 8866 section 6.7).
fn direction(session: &sdp_types::Session, media: &sdp_types::Media) -> Direction {
    let find = |attributes: &[sdp_types::Attribute]| {
        attributes.iter().find_map(|attribute| Direction::from_attribute(&attribute.attribute))
    };
    find(&media.attributes).or_else(|| find(&session.attributes)).unwrap_or_default()
}

/// The payload types of a section in the order of its m-line: those with an rtpmap or a static number. Numbers that collide
/// with RTCP when both share a port (64-95, RFC 5761 section 4) and numbers without a meaning are left out.
fn payloads(media: &sdp_types::Media) -> Vec<Payload> {
    let mut payloads: Vec<Payload> = Vec::new();
    for pt in media.fmt.split_ascii_whitespace().take(PAYLOADS_MAX).filter_map(|word| word.parse::<u8>().ok()) {
        let usable = pt < 128 && !(64..96).contains(&pt) && !payloads.iter().any(|payload| payload.pt == pt);
        let mapped = value_of(media, "rtpmap", pt).and_then(Codec::parse_rtpmap).or_else(|| Codec::of_static_type(pt));
        let Some(codec) = mapped.filter(|_| usable) else { continue };
        let fmtp = value_of(media, "fmtp", pt).map(str::to_owned);
        let codec = codec.with_fmtp(fmtp.as_deref());
        let feedback = values_of(media, "rtcp-fb", pt).map(str::to_owned).collect();
        payloads.push(Payload { pt, codec, fmtp, feedback });
    }
    payloads
}

/// The values of `a=<name>:<pt> <value>` for one payload type.
fn values_of<'a>(media: &'a sdp_types::Media, name: &'static str, pt: u8) -> impl Iterator<Item = &'a str> {
    values_for(media, name, move |number| number.parse() == Ok(pt))
}

/// The values of `a=<name>:<number> <value>` for the numbers that `is_meant` takes.
fn values_for<'a>(
    media: &'a sdp_types::Media,
    name: &'static str,
    is_meant: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &'a str> {
    let named = media.attributes.iter().filter(move |attribute| attribute.attribute.eq_ignore_ascii_case(name));
    named.filter_map(move |attribute| {
        let (number, value) = attribute.value.as_deref()?.trim().split_once(' ')?;
        is_meant(number).then(|| value.trim())
    })
}

fn value_of<'a>(media: &'a sdp_types::Media, name: &'static str, pt: u8) -> Option<&'a str> {
    values_of(media, name, pt).next()
}

/// Adds the payload lines of a section: rtpmap, fmtp and rtcp-fb of each type.
fn describe_payloads(media: &mut sdp_types::Media, payloads: &[Payload]) {
    for Payload { pt, codec, fmtp, feedback } in payloads {
        media.add_attribute_with_value("rtpmap", format!("{pt} {codec}"));
        if let Some(fmtp) = fmtp {
            media.add_attribute_with_value("fmtp", format!("{pt} {fmtp}"));
        }
        for feedback in feedback {
            media.add_attribute_with_value("rtcp-fb", format!("{pt} {feedback}"));
        }
    }
}

/// The format list of an m-line.
fn formats(payloads: &[Payload]) -> String {
    payloads.iter().map(|payload| payload.pt.to_string()).collect::<Vec<_>>().join(" ")
}

/// A section that an answer refuses: kept in order with port 0 and the formats of the offer (RFC 3264 section 6).
fn rejected(kind: &MediaKind, protocol: &str, formats: &str) -> sdp_types::Media {
    let media = sdp_types::MediaType::Audio;
    let mut section = sdp_types::Media::new(media, 0, sdp_types::TransportProto::RtpAvp, formats);
    section.media = kind.to_string();
    section.proto = protocol.to_owned();
    section
}
