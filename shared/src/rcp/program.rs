//! What control wants of a relay: legs, and routes between them.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

use super::{ErrorCode, RelayError};
use crate::{ids::LegId, secret::Secret};

/// Bounds of a program. They keep every record of the dataplane fixed in size.
pub mod limits {
    /// Legs of one relay.
    pub const LEGS_MAX: usize = 8;
    /// Routes of one relay.
    pub const ROUTES_MAX: usize = 16;
    /// Entries of one route's payload map.
    pub const PAYLOADS_MAX: usize = 16;
    /// Bytes of an ICE user fragment or password (RFC 8839 section 5.4).
    pub const ICE_CREDENTIAL_MAX_BYTES: usize = 256;
    /// Bytes of a CNAME or label.
    pub const NAME_MAX_BYTES: usize = 64;
    /// Bytes of one fmtp text.
    pub const FMTP_MAX_BYTES: usize = 512;
    /// Shortest and longest packet of a [`Fill`](super::Fill), in milliseconds; each is a multiple of the first.
    pub const FILL_PTIME_MS: std::ops::RangeInclusive<u16> = 10..=60;
    /// Frequencies of a tone in Hz: what G.711 carries (ITU-T G.712).
    pub const TONE_HZ: std::ops::RangeInclusive<u16> = 300..=3400;
    /// Frequencies of a tone that sound at once (ITU-T E.180 knows two).
    pub const TONE_FREQUENCIES_MAX: usize = 2;
    /// RTP clock rate in Hz: ten times the fastest one registered (90 kHz), low enough for all arithmetic on it.
    pub const CLOCK_MAX_HZ: u32 = 1_000_000;
    /// Shortest consent timeout in milliseconds. Browsers check every 4 to 6 seconds (RFC 7675 section 5.1); below half a second
    /// one late packet would end a call.
    pub const CONSENT_TIMEOUT_MIN_MS: u32 = 500;
    /// Entries of one list of retransmission payload types.
    pub const RTX_PAYLOADS_MAX: usize = 8;
    /// Ids of header extensions in the one-byte form (RFC 8285 section 4.2).
    pub const EXTENSION_IDS: std::ops::RangeInclusive<u8> = 1..=14;
    /// Payload types whose packets cannot be told from RTCP on one port (RFC 5761 section 4).
    pub const RTCP_PAYLOAD_TYPES: std::ops::RangeInclusive<u8> = 64..=95;
}

/// The whole desired state of one relay. A `Put` replaces the former program in place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayProgram {
    /// What logs call this relay; the call id of the browser's call.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub label: String,
    /// CNAME of every stream the relay sends, so that audio and video stay in sync (RFC 3550 section 6.5.1).
    pub cname: String,
    /// The relay's ends; ids are unique.
    pub legs: Vec<Leg>,
    /// Which media goes from where to where.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// One end of a relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Its id within the program.
    pub id: LegId,
    /// No packet from this leg's peer for so long while a route from it is not paused: event `MediaTimeout`, once per silence.
    /// Absent: never; else at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_timeout_ms: Option<u32>,
    /// What it is.
    #[serde(flatten)]
    pub kind: LegKind,
}

/// The kinds of leg. Any kind may stand on any side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LegKind {
    /// A browser: ICE-lite, DTLS-SRTP, all media and RTCP on one transport.
    IceDtls(IceDtlsLeg),
    /// RTP and RTCP under keys that signalling exchanged (SDES, RFC 4568).
    Srtp(SrtpLeg),
    /// Plain RTP and RTCP on a port pair.
    Rtp(RtpLeg),
    /// A copy of the media for a recorder.
    Tap(TapLeg),
}

/// A browser leg.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceDtlsLeg {
    /// What the browser said of itself; absent until its SDP is known. Until then the leg answers STUN by its own credentials,
    /// lets the DTLS handshake complete and holds media back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IceRemote>,
    /// Consent (RFC 7675) is lost after so long without an authenticated check, at least
    /// [`limits::CONSENT_TIMEOUT_MIN_MS`]. Absent: the dataplane's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent_timeout_ms: Option<u32>,
    /// What the browser understands of RTCP feedback beside PLI, which all browsers do; each once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
    /// Id of the header extension in which the browser numbers its packets over all its streams, and wants to be told when they came
    /// (draft-holmer-rmcat-transport-wide-cc-extensions-01); in [`limits::EXTENSION_IDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_cc: Option<u8>,
}

/// The browser's half of an ICE-DTLS leg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IceRemote {
    /// The browser's ICE user fragment.
    pub ufrag: String,
    /// Certificates it may use; one must match (RFC 8122 section 5).
    pub fingerprints: Vec<Fingerprint>,
}

/// A SHA-256 certificate fingerprint, as `AB:CD:...` of 32 pairs on the wire (RFC 8122 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

/// Text that is no SHA-256 fingerprint.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a sha-256 fingerprint is 32 hexadecimal pairs joined by colons")]
pub struct InvalidFingerprint;

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().ok_or(InvalidFingerprint)?;
            if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidFingerprint);
            }
            *byte = u8::from_str_radix(pair, 16).map_err(|_| InvalidFingerprint)?;
        }
        pairs.next().is_none().then_some(Fingerprint(bytes)).ok_or(InvalidFingerprint)
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A plain RTP leg: one medium on an even port, its RTCP on the next odd one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtpLeg {
    /// The medium it carries.
    pub media: Media,
    /// Wanted local address, one of the dataplane's configured ones; absent: the first of the remote's family, else the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_ip: Option<std::net::IpAddr>,
    /// Where the peer's SDP says it listens; absent until it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<RtpRemote>,
    /// What its peer understands of RTCP feedback, each once. The relay asks for key frames by these; with none of them it tells
    /// control instead (event `KeyframeWanted`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feedback: Vec<Feedback>,
}

/// Feedback that SDP negotiated under the profile AVPF (`a=rtcp-fb`, RFC 4585 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feedback {
    /// `nack pli`: picture loss indication, RFC 4585 section 6.3.1.
    NackPli,
    /// `ccm fir`: full intra request, RFC 5104 section 4.3.1.
    CcmFir,
    /// `nack`: generic NACK, RFC 4585 section 6.2.1. What this leg is sent is kept for a while and sent again when it asks, and it is
    /// asked for packets of its own that are missing.
    Nack,
    /// `goog-remb`: receiver estimated maximum bit rate, draft-alvestrand-rmcat-remb-03.
    Remb,
}

/// Where the peer of an RTP leg said it listens. The relay learns its real address from packets, within the latch rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtpRemote {
    /// RTP address from `c=` and `m=`.
    pub rtp: SocketAddr,
    /// RTCP address: `a=rtcp`, else the port above (RFC 3605), else the RTP address with `rtcp_mux`.
    pub rtcp: SocketAddr,
    /// RTP and RTCP on one port (RFC 5761).
    #[serde(default)]
    pub rtcp_mux: bool,
}

/// An RTP leg under SRTP keys from signalling. Keys enter the dataplane; none ever leaves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrtpLeg {
    /// The transport.
    #[serde(flatten)]
    pub rtp: RtpLeg,
    /// Keys of both directions.
    pub keys: SrtpKeys,
}

/// SRTP keys of both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrtpKeys {
    /// Protection profile.
    pub suite: SrtpSuite,
    /// Master key and salt of what we send, base64.
    pub local: Secret<String>,
    /// Master key and salt of what we receive, base64.
    pub remote: Secret<String>,
}

/// SRTP protection profiles (RFC 3711, RFC 7714).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SrtpSuite {
    /// AES in counter mode with an 80-bit HMAC-SHA1 tag.
    #[serde(rename = "AES_CM_128_HMAC_SHA1_80")]
    AesCm128HmacSha1_80,
    /// AES-128 in Galois/counter mode.
    #[serde(rename = "AEAD_AES_128_GCM")]
    AeadAes128Gcm,
    /// AES-256 in Galois/counter mode.
    #[serde(rename = "AEAD_AES_256_GCM")]
    AeadAes256Gcm,
}

/// A copy of a relay's media for a recorder process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapLeg {
    /// Unix datagram socket that takes the packets.
    pub sink: String,
}

/// The media a route or port pair carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    /// Sound and telephone events.
    Audio,
    /// Pictures.
    Video,
}

/// Codec names, in the spelling of their RTP registration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Codec {
    /// RFC 7587; clock always 48000.
    #[serde(rename = "opus")]
    Opus,
    /// G.711 u-law.
    #[serde(rename = "PCMU")]
    Pcmu,
    /// G.711 A-law.
    #[serde(rename = "PCMA")]
    Pcma,
    /// Clock 8000 although it samples at 16000 (RFC 3551 section 4.5.2).
    #[serde(rename = "G722")]
    G722,
    /// RFC 3551 section 4.5.6.
    #[serde(rename = "G729")]
    G729,
    /// RFC 5574.
    #[serde(rename = "speex")]
    Speex,
    /// Comfort noise, RFC 3389.
    #[serde(rename = "CN")]
    ComfortNoise,
    /// RFC 4733.
    #[serde(rename = "telephone-event")]
    TelephoneEvent,
    /// RFC 7741.
    #[serde(rename = "VP8")]
    Vp8,
    /// RFC 6184.
    #[serde(rename = "H264")]
    H264,
    /// Retransmission, RFC 4588.
    #[serde(rename = "rtx")]
    Rtx,
    /// Anything else, passed through by name.
    #[serde(untagged)]
    Other(String),
}

/// A payload type on one leg with what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payload {
    /// RTP payload type, 0..=127 without 64..=95 where RTCP shares the port (RFC 5761 section 4).
    pub pt: u8,
    /// Codec.
    pub codec: Codec,
    /// RTP clock rate in Hz, 1 to [`limits::CLOCK_MAX_HZ`].
    pub clock: u32,
    /// Channels of audio; absent: one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<u8>,
    /// Format parameters as SDP has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmtp: Option<String>,
}

/// How one payload type of the source becomes one of the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayloadMap {
    /// As the source sends it.
    pub from: Payload,
    /// As the destination takes it.
    pub to: Payload,
}

/// What happens to the payload on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    /// Bytes unchanged.
    #[default]
    Pass,
    /// PCMU<->PCMA by table where the two names of a map entry differ; other entries pass.
    G711,
    /// H.264 packetization-mode bridge.
    H264Mode,
    /// Decoded and encoded again, off the relay's cores.
    Transcode,
    /// Telephone events become in-band tones.
    Tone,
}

/// Sound that the relay makes for a route while its source gives none: before its first packet, while it is silent, and while the
/// route is paused. It gives way to the first packet of the source, with unbroken numbers both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fill {
    /// What is heard.
    pub sound: Sound,
    /// As what the destination gets it; comfort noise (RFC 3389) is a way to tell silence.
    pub payload: Payload,
    /// Milliseconds of sound in a packet, a multiple of ten within [`limits::FILL_PTIME_MS`]. Comfort noise comes with every
    /// eighth packet time.
    #[serde(default = "Fill::usual_ptime_ms")]
    pub ptime_ms: u16,
    /// Begins when the source gave nothing for so long; after a packet of it no sooner than 60 ms, whatever this says.
    pub start_after_ms: u32,
}

impl Fill {
    /// Packet time where nothing else was agreed on (RFC 3551 section 4.2).
    #[must_use]
    pub const fn usual_ptime_ms() -> u16 {
        20
    }

    fn validate(&self, path: &str, is_muxed: bool) -> Result<(), ProgramError> {
        self.payload.validate(&format!("{path}.payload"), is_muxed)?;
        if !limits::FILL_PTIME_MS.contains(&self.ptime_ms) || !self.ptime_ms.is_multiple_of(10) {
            return Err(invalid(&format!("{path}.ptime_ms"), "a packet time is 10, 20, 30, 40, 50 or 60 ms"));
        }
        let Sound::Tone(tone) = &self.sound else { return Ok(()) };
        let path = format!("{path}.sound.tone");
        if !(1..=limits::TONE_FREQUENCIES_MAX).contains(&tone.frequencies_hz.len())
            || tone.frequencies_hz.iter().any(|hz| !limits::TONE_HZ.contains(hz))
        {
            return Err(invalid(
                &format!("{path}.frequencies_hz"),
                "a tone has one or two frequencies, 300 to 3400 Hz",
            ));
        }
        if tone.on_ms == 0 {
            return Err(invalid(&format!("{path}.on_ms"), "a tone sounds for at least 1 ms"));
        }
        Ok(())
    }
}

/// What a [`Fill`] makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sound {
    /// Nothing to hear, in packets.
    Silence,
    /// A tone with pauses, such as ringback.
    Tone(Tone),
}

/// A tone of the telephone network (ITU-T E.180). It begins with its sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tone {
    /// One or two frequencies that sound together, in Hz, within [`limits::TONE_HZ`].
    pub frequencies_hz: Vec<u16>,
    /// Length of the sound in milliseconds, at least 1.
    pub on_ms: u16,
    /// Length of the pause behind it in milliseconds; 0: it sounds without end.
    pub off_ms: u16,
}

/// One direction of one medium between two legs.
///
/// A packet of leg `from` takes the route whose map names its payload type. Everything sent by the route has the one SSRC and
/// unbroken sequence numbers and timestamps, whatever the source does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Leg the media comes from.
    pub from: LegId,
    /// Leg it goes to. The same leg twice is an echo.
    pub to: LegId,
    /// The medium.
    pub media: Media,
    /// Payload types, each `from.pt` once.
    pub payloads: Vec<PayloadMap>,
    /// What happens to payloads.
    #[serde(default)]
    pub process: Process,
    /// SSRC of what the route sends. Unique among the routes to one leg.
    pub ssrc: u32,
    /// True: packets are taken, counted and not passed on (held).
    #[serde(default)]
    pub paused: bool,
    /// How the destination gets lost packets again: by a stream of their own. Absent: as they were sent the first time. Needs
    /// [`Feedback::Nack`] of the destination.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtx: Option<Rtx>,
    /// Payload types by which the source sends lost packets again; `apt` is a `from.pt` of the map.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub source_rtx: Vec<RtxPayload>,
    /// What the destination takes of this medium in kbit/s, at least 1 (`b=AS` of its description). A source that knows
    /// [`Feedback::Remb`] is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_kbps: Option<u32>,
    /// What is heard while the source gives nothing; absent: nothing is sent then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fill: Option<Fill>,
}

/// A retransmission stream (RFC 4588, SSRC multiplexed).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rtx {
    /// Its SSRC, unique among the streams to the leg.
    pub ssrc: u32,
    /// Its payload types; `apt` is a `to.pt` of the map.
    pub payloads: Vec<RtxPayload>,
}

/// A retransmission payload type (RFC 4588 section 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RtxPayload {
    /// The payload type of retransmissions.
    pub pt: u8,
    /// The payload type of what is sent again.
    pub apt: u8,
}

/// Why a program cannot be run, with the path of the field.
pub type ProgramError = RelayError;

impl RelayProgram {
    /// The leg of this id.
    #[must_use]
    pub fn leg(&self, id: LegId) -> Option<&Leg> {
        self.legs.iter().find(|leg| leg.id == id)
    }

    /// Checks everything that does not depend on the dataplane's state: bounds, ids, payload types, references.
    ///
    /// # Errors
    /// The first rule broken, with its field.
    pub fn validate(&self) -> Result<(), ProgramError> {
        check_len("program.legs", self.legs.len(), limits::LEGS_MAX)?;
        check_len("program.routes", self.routes.len(), limits::ROUTES_MAX)?;
        check_len("program.cname", self.cname.len(), limits::NAME_MAX_BYTES)?;
        check_len("program.label", self.label.len(), limits::NAME_MAX_BYTES)?;
        if self.legs.is_empty() {
            return Err(invalid("program.legs", "a relay needs at least one leg"));
        }
        let mut seen = BTreeSet::new();
        for (at, leg) in self.legs.iter().enumerate() {
            if !seen.insert(leg.id) {
                return Err(invalid(&format!("program.legs[{at}].id"), "two legs have the same id"));
            }
            leg.validate(&format!("program.legs[{at}]"))?;
        }
        let mut sources = BTreeSet::new();
        let mut streams = BTreeSet::new();
        for (at, route) in self.routes.iter().enumerate() {
            let path = format!("program.routes[{at}]");
            for (name, id) in [("from", route.from), ("to", route.to)] {
                if self.leg(id).is_none() {
                    return Err(invalid(&format!("{path}.{name}"), "no leg has this id"));
                }
            }
            if !streams.insert((route.to, route.ssrc)) {
                return Err(invalid(&format!("{path}.ssrc"), "another route to this leg has the same SSRC"));
            }
            if let Some(fill) = &route.fill {
                let is_muxed = self.leg(route.to).is_some_and(Leg::shares_port_with_rtcp);
                fill.validate(&format!("{path}.fill"), is_muxed)?;
            }
            check_len(&format!("{path}.payloads"), route.payloads.len(), limits::PAYLOADS_MAX)?;
            for (entry, map) in route.payloads.iter().enumerate() {
                let path = format!("{path}.payloads[{entry}]");
                for (name, payload, leg) in [("from", &map.from, route.from), ("to", &map.to, route.to)] {
                    let is_muxed = self.leg(leg).is_some_and(Leg::shares_port_with_rtcp);
                    payload.validate(&format!("{path}.{name}"), is_muxed)?;
                }
                if !sources.insert((route.from, route.to, map.from.pt)) {
                    return Err(invalid(
                        &format!("{path}.from.pt"),
                        "this payload type is mapped twice between these legs",
                    ));
                }
            }
            if route.limit_kbps == Some(0) {
                return Err(invalid(
                    &format!("{path}.limit_kbps"),
                    "a limit is at least 1 kbit/s; pause the route instead",
                ));
            }
        }
        for (at, route) in self.routes.iter().enumerate() {
            let path = format!("program.routes[{at}]");
            if let Some(rtx) = &route.rtx {
                if !streams.insert((route.to, rtx.ssrc)) {
                    return Err(invalid(&format!("{path}.rtx.ssrc"), "another stream to this leg has the same SSRC"));
                }
                let media: Vec<u8> = route.payloads.iter().map(|map| map.to.pt).collect();
                self.validate_rtx(&format!("{path}.rtx.payloads"), &rtx.payloads, route.to, &media)?;
            }
            let media: Vec<u8> = route.payloads.iter().map(|map| map.from.pt).collect();
            self.validate_rtx(&format!("{path}.source_rtx"), &route.source_rtx, route.from, &media)?;
            for (entry, payload) in route.source_rtx.iter().enumerate() {
                if !sources.insert((route.from, route.to, payload.pt)) {
                    let field = format!("{path}.source_rtx[{entry}].pt");
                    return Err(invalid(&field, "this payload type is mapped twice between these legs"));
                }
            }
        }
        Ok(())
    }

    /// `media` are the payload types on the same leg that retransmissions can stand for.
    fn validate_rtx(&self, path: &str, payloads: &[RtxPayload], leg: LegId, media: &[u8]) -> Result<(), ProgramError> {
        check_len(path, payloads.len(), limits::RTX_PAYLOADS_MAX)?;
        let is_muxed = self.leg(leg).is_some_and(Leg::shares_port_with_rtcp);
        for (at, RtxPayload { pt, apt }) in payloads.iter().enumerate() {
            validate_pt(&format!("{path}[{at}].pt"), *pt, is_muxed)?;
            if !media.contains(apt) {
                return Err(invalid(
                    &format!("{path}[{at}].apt"),
                    "the route's map has no such payload type on this leg",
                ));
            }
            if media.contains(pt) || payloads[..at].iter().any(|other| other.pt == *pt) {
                return Err(invalid(
                    &format!("{path}[{at}].pt"),
                    "this payload type stands for something else already",
                ));
            }
        }
        Ok(())
    }
}

impl Leg {
    /// Whether RTP and RTCP come by one port (RFC 5761): always from browsers, elsewhere when signalling agreed on it.
    fn shares_port_with_rtcp(&self) -> bool {
        match &self.kind {
            LegKind::IceDtls(_) => true,
            LegKind::Rtp(rtp) | LegKind::Srtp(SrtpLeg { rtp, .. }) => rtp.remote.is_some_and(|remote| remote.rtcp_mux),
            LegKind::Tap(_) => false,
        }
    }

    /// The RTCP feedback that its peer takes; `None` on legs without a peer.
    #[must_use]
    pub fn feedback(&self) -> Option<&[Feedback]> {
        match &self.kind {
            LegKind::IceDtls(ice) => Some(&ice.feedback),
            LegKind::Rtp(rtp) | LegKind::Srtp(SrtpLeg { rtp, .. }) => Some(&rtp.feedback),
            LegKind::Tap(_) => None,
        }
    }

    fn validate(&self, path: &str) -> Result<(), ProgramError> {
        if self.media_timeout_ms == Some(0) {
            return Err(invalid(&format!("{path}.media_timeout_ms"), "a media timeout is at least 1 ms"));
        }
        if let LegKind::IceDtls(IceDtlsLeg { consent_timeout_ms: Some(timeout), .. }) = self.kind
            && timeout < limits::CONSENT_TIMEOUT_MIN_MS
        {
            let reason = format!("a consent timeout is at least {} ms", limits::CONSENT_TIMEOUT_MIN_MS);
            return Err(invalid(&format!("{path}.consent_timeout_ms"), &reason));
        }
        if let Some(feedback) = self.feedback()
            && (1..feedback.len()).any(|at| feedback[..at].contains(&feedback[at]))
        {
            return Err(invalid(&format!("{path}.feedback"), "a kind of feedback is named twice"));
        }
        if let LegKind::IceDtls(IceDtlsLeg { transport_cc: Some(id), .. }) = &self.kind
            && !limits::EXTENSION_IDS.contains(id)
        {
            return Err(invalid(&format!("{path}.transport_cc"), "the id of a header extension is from 1 to 14"));
        }
        match &self.kind {
            LegKind::IceDtls(IceDtlsLeg { remote: Some(remote), .. }) => {
                if remote.ufrag.len() < 4 || remote.ufrag.len() > limits::ICE_CREDENTIAL_MAX_BYTES {
                    return Err(invalid(
                        &format!("{path}.remote.ufrag"),
                        "an ICE user fragment has 4 to 256 characters",
                    ));
                }
                if remote.fingerprints.is_empty() || remote.fingerprints.len() > 4 {
                    return Err(invalid(&format!("{path}.remote.fingerprints"), "one to four fingerprints are needed"));
                }
            }
            LegKind::Rtp(rtp) | LegKind::Srtp(SrtpLeg { rtp, .. }) => {
                let Some(remote) = rtp.remote else { return Ok(()) };
                for (name, address) in [("rtp", remote.rtp), ("rtcp", remote.rtcp)] {
                    if address.port() == 0 {
                        return Err(invalid(&format!("{path}.remote.{name}"), "port 0 is no destination"));
                    }
                }
            }
            LegKind::IceDtls(_) | LegKind::Tap(_) => {}
        }
        Ok(())
    }
}

impl Payload {
    fn validate(&self, path: &str, is_muxed: bool) -> Result<(), ProgramError> {
        validate_pt(&format!("{path}.pt"), self.pt, is_muxed)?;
        if !(1..=limits::CLOCK_MAX_HZ).contains(&self.clock) {
            let reason = format!("a clock rate is from 1 to {} Hz", limits::CLOCK_MAX_HZ);
            return Err(invalid(&format!("{path}.clock"), &reason));
        }
        check_len(&format!("{path}.fmtp"), self.fmtp.as_ref().map_or(0, String::len), limits::FMTP_MAX_BYTES)
    }
}

fn validate_pt(field: &str, pt: u8, is_muxed: bool) -> Result<(), ProgramError> {
    if pt > 127 {
        return Err(invalid(field, "a payload type is at most 127"));
    }
    if is_muxed && limits::RTCP_PAYLOAD_TYPES.contains(&pt) {
        return Err(invalid(field, "payload types 64 to 95 are RTCP's where it shares the port"));
    }
    Ok(())
}

fn invalid(field: &str, reason: &str) -> ProgramError {
    RelayError::new(ErrorCode::Invalid, field, reason)
}

fn check_len(field: &str, len: usize, max: usize) -> Result<(), ProgramError> {
    if len > max {
        return Err(RelayError::new(ErrorCode::Invalid, field, format!("{len} exceeds the limit of {max}")));
    }
    Ok(())
}
