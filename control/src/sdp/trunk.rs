//! SIP descriptions: read leniently, because phones and trunks write anything, and printed small, fresh and strictly.
//!
//! Our own description is never a copy of the browser's: it is RTP/AVP with static types, keypad events and 20 ms packets, well
//! below the size at which an INVITE must leave UDP (RFC 3261 section 18.1.1).

use std::net::{IpAddr, SocketAddr};

use gangway_shared::rcp::Feedback;
use sdp_types::{Bandwidth, Connection, Media, MediaType, Origin, Session, Time, TransportProto};
use serde::{Deserialize, Serialize};

use super::{
    Direction, MediaKind, Payload, SdpError, attribute, codec::VIDEO_FEEDBACK, describe_payloads, direction, formats,
    medium::MediaTarget, payloads, print, read, rejected, values_for,
};

/// Most elements of `sipSDP`.
pub const SIP_SDP_LINES_MAX: usize = 32;
/// Longest element of `sipSDP`, in bytes.
pub const SIP_SDP_LINE_MAX_BYTES: usize = 256;
/// Packet time that we ask of SIP peers: what every phone has.
const PTIME_MS: u16 = 20;
/// Packet times taken from a peer, in milliseconds.
const PTIME_RANGE_MS: std::ops::RangeInclusive<u16> = 10..=120;

/// What sound needs of a session's bandwidth in kbit/s: G.711 with its headers.
const AUDIO_KBPS: u32 = 80;
/// What is left to video at least, in kbit/s: encoders go no lower.
const VIDEO_LEAST_KBPS: u32 = 30;

/// Lines of `sipSDP` that passed the check: they go verbatim, in order, between `c=` and `t=` of a SIP description.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipSdpLines(Vec<String>);

impl SipSdpLines {
    /// Checks lines that a page sent: `b=<type>:<number>` or `a=<name>[:<value>]`, one line each, bounded in count and length
    /// (RFC 8866 sections 5.8 and 5.13).
    ///
    /// # Errors
    /// [`SdpError::SipSdpLine`] with the index of the first element that is refused. Nothing is dropped silently.
    pub fn new<S: AsRef<str>>(lines: &[S]) -> Result<Self, SdpError> {
        if lines.len() > SIP_SDP_LINES_MAX {
            return Err(SdpError::SipSdpLine { index: SIP_SDP_LINES_MAX, reason: "at most 32 lines are allowed" });
        }
        let check = |(index, line): (usize, &S)| match sip_sdp_fault(line.as_ref()) {
            Some(reason) => Err(SdpError::SipSdpLine { index, reason }),
            None => Ok(line.as_ref().to_owned()),
        };
        lines.iter().enumerate().map(check).collect::<Result<_, _>>().map(SipSdpLines)
    }

    /// The lines, without line ends.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// Attributes that would contradict what we negotiate when they stand at session level.
const OWN_ATTRIBUTES: [&str; 12] = [
    "sendrecv",
    "sendonly",
    "recvonly",
    "inactive",
    "group",
    "setup",
    "fingerprint",
    "ice-ufrag",
    "ice-pwd",
    "ice-lite",
    "crypto",
    "candidate",
];

fn sip_sdp_fault(line: &str) -> Option<&'static str> {
    if line.len() > SIP_SDP_LINE_MAX_BYTES {
        return Some("a line has at most 256 bytes");
    }
    if line.chars().any(char::is_control) {
        return Some("line ends and control characters are not allowed");
    }
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte))
    };
    if let Some(bandwidth) = line.strip_prefix("b=") {
        let parsed = bandwidth.split_once(':').filter(|(name, _)| token(name));
        let number =
            parsed.filter(|(_, amount)| amount.bytes().all(|b| b.is_ascii_digit()) && amount.parse::<u64>().is_ok());
        return number.is_none().then_some("a bandwidth line is b=<type>:<number>");
    }
    let Some(attribute) = line.strip_prefix("a=") else { return Some("only b= and a= lines are allowed") };
    let name = attribute.split_once(':').map_or(attribute, |(name, _)| name);
    if !token(name) {
        return Some("an attribute line is a=<name> or a=<name>:<value>");
    }
    OWN_ATTRIBUTES
        .iter()
        .any(|own| own.eq_ignore_ascii_case(name))
        .then_some("this attribute is negotiated by the gateway itself")
}

/// What the `c=` line of a section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionData {
    /// An address that packets can be sent to.
    Address(IpAddr),
    /// `0.0.0.0` or `::`: the peer does not want packets now (RFC 3264 section 8.4).
    Unspecified,
    /// Neither the section nor the session has one.
    Missing,
    /// A multicast address, or text that is no address.
    Unusable(&'static str),
}

/// One media section of a SIP peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkSection {
    /// Index of the m-line, counted from 0.
    pub index: usize,
    /// Audio, video or something else.
    pub kind: MediaKind,
    /// RTP port; 0: refused or stopped.
    pub port: u16,
    /// The third word of its m-line.
    pub protocol: String,
    /// The rest of its m-line, as written.
    pub formats: String,
    /// Its `c=` line, or the session's.
    pub connection: ConnectionData,
    /// Who sends, as written, seen from the peer.
    pub direction: Direction,
    /// `a=rtcp`: port and, if given, address (RFC 3605).
    pub rtcp: Option<(u16, Option<IpAddr>)>,
    /// `a=ptime` in milliseconds, when it is sensible.
    pub ptime_ms: Option<u16>,
    /// What it takes in kbit/s by its `b=` lines or, of video, by the session's less what sound needs (RFC 8866 section 5.8).
    pub limit_kbps: Option<u32>,
    /// Payload types with a known meaning, in the peer's order.
    pub payloads: Vec<Payload>,
    /// The values of its `a=rtcp-fb:*` lines: feedback about any of its payload types.
    pub feedback: Vec<String>,
}

/// A SIP peer's offer or answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkDescription {
    /// All media sections in order.
    pub sections: Vec<TrunkSection>,
}

impl TrunkDescription {
    /// Reads an offer or an answer; both have the same form.
    ///
    /// # Errors
    /// What the container or a limit refuses. Whether there is usable audio is asked by [`TrunkDescription::audio`].
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        let session = read(text)?;
        let sections =
            session.medias.iter().enumerate().map(|(index, media)| TrunkSection::parse(&session, media, index));
        Ok(TrunkDescription { sections: sections.collect() })
    }

    /// The audio section to use: the first over plain RTP that is not refused.
    ///
    /// # Errors
    /// [`SdpError::NoAudio`] says why there is none.
    pub fn audio(&self) -> Result<&TrunkSection, SdpError> {
        let mut reason = "there is none";
        for section in self.sections.iter().filter(|section| section.kind == MediaKind::Audio) {
            match section.fault() {
                None => return Ok(section),
                Some(fault) => reason = fault,
            }
        }
        Err(SdpError::NoAudio { reason })
    }

    /// The video section to use: the first over plain RTP that is not refused and names a codec.
    #[must_use]
    pub fn video(&self) -> Option<&TrunkSection> {
        let mut video = self.sections.iter().filter(|section| section.kind == MediaKind::Video);
        video.find(|section| section.fault().is_none() && !section.payloads.is_empty())
    }

    /// Whether some video section is not refused, usable or not.
    #[must_use]
    pub fn takes_video(&self) -> bool {
        self.sections.iter().any(|section| section.kind == MediaKind::Video && section.port != 0)
    }
}

impl TrunkSection {
    fn parse(session: &Session, media: &Media, index: usize) -> Self {
        let connection = media.connections.first().or(session.connection.as_ref());
        let ptime = attribute(session, media, "ptime").and_then(|text| text.parse().ok());
        TrunkSection {
            index,
            kind: MediaKind::parse(&media.media),
            port: media.port,
            protocol: media.proto.clone(),
            formats: media.fmt.clone(),
            connection: connection.map_or(ConnectionData::Missing, connection_data),
            direction: direction(session, media),
            rtcp: media.get_first_attribute_value("rtcp").flatten().and_then(parse_rtcp),
            ptime_ms: ptime.filter(|ms| PTIME_RANGE_MS.contains(ms)),
            limit_kbps: limit_kbps(session, media),
            payloads: payloads(media),
            feedback: values_for(media, "rtcp-fb", |number| number == "*").map(str::to_owned).collect(),
        }
    }

    /// Why this section cannot carry the call.
    fn fault(&self) -> Option<&'static str> {
        if self.port == 0 {
            return Some("it is refused with port 0");
        }
        match self.protocol.to_ascii_uppercase().as_str() {
            "RTP/AVP" | "RTP/AVPF" => None,
            "RTP/SAVP" | "RTP/SAVPF" => Some("SRTP (RTP/SAVP) is not spoken towards SIP peers, offer RTP/AVP"),
            "UDP/TLS/RTP/SAVP" | "UDP/TLS/RTP/SAVPF" => {
                Some("DTLS-SRTP is not spoken towards SIP peers, offer RTP/AVP")
            }
            _ => Some("its profile is neither RTP/AVP nor RTP/AVPF"),
        }
    }

    /// The direction with `c=0.0.0.0` taken for what it means: the peer receives nothing (RFC 3264 section 8.4).
    #[must_use]
    pub fn effective_direction(&self) -> Direction {
        let deaf = self.connection == ConnectionData::Unspecified;
        Direction::of(self.direction.sends(), self.direction.receives() && !deaf)
    }

    /// Where the peer receives; `None` while it does not want packets.
    ///
    /// # Errors
    /// [`SdpError`] when there is no address, or one that packets cannot go to.
    pub fn target(&self) -> Result<Option<MediaTarget>, SdpError> {
        let ip = match self.connection {
            ConnectionData::Address(ip) => ip,
            ConnectionData::Unspecified => return Ok(None),
            ConnectionData::Missing => return Err(SdpError::Missing { section: self.index, field: "c=" }),
            ConnectionData::Unusable(reason) => {
                return Err(SdpError::Invalid { section: self.index, field: "c=", reason });
            }
        };
        let (rtcp_port, rtcp_ip) = self.rtcp.unwrap_or((self.port.checked_add(1).unwrap_or(self.port), None));
        let rtcp_ip = rtcp_ip.filter(|other| other.is_ipv4() == ip.is_ipv4()).unwrap_or(ip);
        Ok(Some(MediaTarget { rtp: SocketAddr::new(ip, self.port), rtcp: SocketAddr::new(rtcp_ip, rtcp_port) }))
    }
}

/// The least of a list of `b=` lines in kbit/s: `AS` counts them (RFC 8866 section 5.8), `TIAS` counts bits (RFC 3890). 0 limits nothing:
/// devices write it when they do not know.
fn least_kbps(lines: &[Bandwidth]) -> Option<u32> {
    let kbps = lines.iter().filter_map(|line| match line.bwtype.to_ascii_uppercase().as_str() {
        "AS" => Some(line.bandwidth),
        "TIAS" => Some(line.bandwidth.div_ceil(1000)),
        _ => None,
    });
    let least = kbps.filter(|kbps| *kbps > 0).min()?;
    Some(u32::try_from(least).unwrap_or(u32::MAX))
}

fn limit_kbps(session: &Session, media: &Media) -> Option<u32> {
    let of_session = || {
        let all = least_kbps(&session.bandwidths).filter(|_| MediaKind::parse(&media.media) == MediaKind::Video);
        all.map(|all| all.saturating_sub(AUDIO_KBPS).max(VIDEO_LEAST_KBPS))
    };
    least_kbps(&media.bandwidths).or_else(of_session)
}

fn connection_data(connection: &Connection) -> ConnectionData {
    // A time-to-live behind a unicast address is an error that some gateways make; it changes nothing.
    let text = connection.connection_address.split('/').next().unwrap_or("");
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => ConnectionData::Unspecified,
        Ok(ip) if ip.is_multicast() => ConnectionData::Unusable("multicast is not spoken here"),
        Ok(ip) => ConnectionData::Address(ip),
        Err(_) => ConnectionData::Unusable("it must be an IPv4 or IPv6 address"),
    }
}

/// `<port> [IN <addrtype> <address>]`, RFC 3605 section 2.1.
fn parse_rtcp(value: &str) -> Option<(u16, Option<IpAddr>)> {
    let mut words = value.split_ascii_whitespace();
    let port = words.next()?.parse().ok().filter(|port| *port != 0)?;
    let ip = words.nth(2).and_then(|text| text.parse::<IpAddr>().ok());
    Some((port, ip.filter(|ip| !ip.is_unspecified() && !ip.is_multicast())))
}

/// What our description says of one medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkMedia {
    /// Audio or video.
    pub kind: MediaKind,
    /// The relay's advertised address.
    pub rtp: SocketAddr,
    /// Payload types, the preferred first.
    pub payloads: Vec<Payload>,
    /// Our direction.
    pub direction: Direction,
    /// The feedback that the peer may send us. It is named for all payload types and under the plain profile, which peers without
    /// feedback take: they ignore lines that they do not know (RFC 8866 section 5.13).
    pub feedback: Vec<Feedback>,
}

/// An m-line that this session has: it stays in its place for ever (RFC 3264 section 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    kind: MediaKind,
    protocol: String,
    formats: String,
    /// Whether our medium of this kind stands here; a second section of a kind stays refused.
    is_ours: bool,
}

/// Our side of the SDP session with one SIP peer: `a=rtcp-mux` is never taken, SIP legs have a port pair. It lives as long as the
/// dialog: the session id stays, m-lines keep their places, the version grows by one with each description that differs from the one
/// before (RFC 3264 section 8).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkSession {
    origin_user: String,
    session_name: String,
    session_id: u64,
    version: u64,
    lines: SipSdpLines,
    /// Our m-lines so far, in order.
    #[serde(default)]
    places: Vec<Line>,
    last: Option<String>,
}

impl TrunkSession {
    /// A session that has sent nothing yet. `origin_user` and `session_name` are the settings `sdp_origin` and
    /// `sdp_session_name`, `session_id` is drawn by the caller, `lines` are the page's `sipSDP`.
    #[must_use]
    pub fn new(origin_user: &str, session_name: &str, session_id: u64, lines: SipSdpLines) -> Self {
        // RFC 8829 section 5.2.1: ids stay below 2^63, many parsers hold them in a signed word.
        let session_id = session_id >> 2;
        let origin_user: String = origin_user.split_whitespace().collect();
        let session_name = if session_name.trim().is_empty() { "-" } else { session_name };
        let session_name = session_name.to_owned();
        TrunkSession { origin_user, session_name, session_id, version: 0, lines, places: Vec::new(), last: None }
    }

    /// An offer of these media. Sections that earlier descriptions had keep their places, refused when `media` lacks them.
    #[must_use]
    pub fn offer(&mut self, media: &[TrunkMedia]) -> String {
        for medium in media {
            if !self.places.iter().any(|line| line.is_ours && line.kind == medium.kind) {
                let formats = formats(&medium.payloads);
                let protocol = "RTP/AVP".to_owned();
                self.places.push(Line { kind: medium.kind.clone(), protocol, formats, is_ours: true });
            }
        }
        self.publish(media)
    }

    /// The offer before, saying less: it takes that one's place when it is sent instead ([`TrunkSession::sent`]).
    #[must_use]
    pub fn shorter(&self, media: &[TrunkMedia]) -> String {
        self.render(self.version, address(media), &self.sections(media))
    }

    /// This is what went out of the offer before and its shorter forms.
    pub fn sent(&mut self, text: &str) {
        self.last = Some(text.to_owned());
    }

    /// The answer to a peer's offer: its sections in their places, those of `media` accepted, all others refused
    /// (RFC 3264 section 6).
    ///
    /// # Errors
    /// [`SdpError::NoAudio`] when the offer has no usable audio section.
    pub fn answer(&mut self, offer: &TrunkDescription, media: &[TrunkMedia]) -> Result<String, SdpError> {
        let audio = offer.audio()?.index;
        let video = offer.video().map(|section| section.index);
        let line = |section: &TrunkSection| Line {
            kind: section.kind.clone(),
            protocol: section.protocol.clone(),
            formats: section.formats.clone(),
            is_ours: section.index == audio || Some(section.index) == video,
        };
        self.places = offer.sections.iter().map(line).collect();
        Ok(self.publish(media))
    }

    /// The latest description, if there was one: for a refresh that changes nothing.
    #[must_use]
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }

    fn sections(&self, media: &[TrunkMedia]) -> Vec<Media> {
        let section = |line: &Line| {
            let ours = media.iter().find(|medium| line.is_ours && medium.kind == line.kind);
            match ours {
                Some(medium) => section(&line.protocol, medium),
                None => rejected(&line.kind, &line.protocol, &line.formats),
            }
        };
        self.places.iter().map(section).collect()
    }

    fn publish(&mut self, media: &[TrunkMedia]) -> String {
        let (ip, sections) = (address(media), self.sections(media));
        let unchanged = self.render(self.version, ip, &sections);
        if self.last.as_ref() == Some(&unchanged) {
            return unchanged;
        }
        self.version += 1;
        let text = self.render(self.version, ip, &sections);
        self.last = Some(text.clone());
        text
    }

    fn render(&self, version: u64, ip: IpAddr, media: &[Media]) -> String {
        let mut origin = Origin::with_ip_addr(self.session_id, version, ip);
        origin.set_username(&self.origin_user);
        let mut session = Session::new(origin, &self.session_name);
        session.set_connection(Connection::from_ip_addr(ip));
        session.add_time(Time::new(0, 0));
        session.add_medias(media.iter().cloned());
        let text = print(&session);
        // WCS puts its lines before `t=`, where the container has no place for attributes.
        let (head, tail) = text.split_once("\r\nt=").expect("the container prints the time line that was added");
        let lines: String = self.lines.0.iter().map(|line| format!("\r\n{line}")).collect();
        format!("{head}{lines}\r\nt={tail}")
    }
}

/// Our address for the whole description.
fn address(media: &[TrunkMedia]) -> IpAddr {
    media.first().map_or(IpAddr::from([0, 0, 0, 0]), |medium| medium.rtp.ip())
}

fn section(protocol: &str, medium: &TrunkMedia) -> Media {
    let is_video = medium.kind == MediaKind::Video;
    let kind = if is_video { MediaType::Video } else { MediaType::Audio };
    let mut media = Media::new(kind, medium.rtp.port(), TransportProto::RtpAvp, formats(&medium.payloads));
    media.proto = protocol.to_owned();
    describe_payloads(&mut media, &medium.payloads);
    for (_, words) in VIDEO_FEEDBACK.iter().filter(|(kind, _)| medium.feedback.contains(kind)) {
        media.add_attribute_with_value("rtcp-fb", format!("* {words}"));
    }
    if !is_video {
        media.add_attribute_with_value("ptime", PTIME_MS);
    }
    media.add_attribute_from_str(medium.direction.attribute());
    media
}

#[cfg(test)]
mod tests;
