//! Codecs: their names in SDP and in the settings, static payload types (RFC 3551 section 6), and which of them go into an offer.
//!
//! The relay passes opus, PCMU, PCMA, G722, telephone-event, VP8 and H264 through and maps PCMU to PCMA and back. Anything else a
//! setting or a peer names is read, kept apart and never offered.

use std::fmt;

use gangway_shared::rcp::{Feedback, limits::CLOCK_MAX_HZ};
use serde::{Deserialize, Serialize};

use super::{
    Direction,
    h264::{self, Profile},
    leg::{LegPayload, offered_leg},
    medium::MediaSide,
    negotiate::{BrowserSide, Offered},
};

/// The `codecs` setting's default: the order of preference of WCS.
pub const DEFAULT_CODECS: &str = "opus,alaw,ulaw,g729,speex16,g722,mpeg4-generic,telephone-event,h264,vp8,flv,mpv";
/// The `codecs_exclude_sip` setting's default.
pub const DEFAULT_CODECS_EXCLUDE_SIP: &str = "mpeg4-generic,flv,mpv";
/// The `allow_outside_codecs` setting's default.
pub const DEFAULT_ALLOW_OUTSIDE_CODECS: bool = true;

/// The `profiles` setting's default.
pub const DEFAULT_PROFILES: &str = "42e01f,640028";
/// The `proxy_use_h264_packetization_mode_1_only` setting's default.
pub const DEFAULT_MODE_1_ONLY: bool = true;

/// Longest `a=fmtp` value taken over from a peer, in bytes.
const FMTP_MAX_BYTES: usize = 512;
/// Feedback that a video peer may send us, by its words in `a=rtcp-fb`: both ask for a key frame (RFC 4585 section 6.3.1, RFC 5104
/// section 4.3.1).
pub const VIDEO_FEEDBACK: [(Feedback, &str); 2] = [(Feedback::NackPli, "nack pli"), (Feedback::CcmFir, "ccm fir")];
/// The events of a telephone keypad, RFC 4733 section 2.5.1.1: what is meant when a peer names none.
const KEYPAD_EVENTS: &str = "0-15";
/// The parameters of RFC 7587 section 6.1; `minptime` and `cbr` are what browsers write. Others are not passed on.
const OPUS_PARAMETERS: [&str; 9] = [
    "minptime",
    "useinbandfec",
    "usedtx",
    "cbr",
    "stereo",
    "sprop-stereo",
    "maxaveragebitrate",
    "maxplaybackrate",
    "sprop-maxcapturerate",
];

/// An encoding by its name in `a=rtpmap`, compared without case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// RFC 7587.
    Opus,
    /// G.711 u-law, `ulaw` in the settings.
    Pcmu,
    /// G.711 A-law, `alaw` in the settings.
    Pcma,
    /// G.722; its RTP clock is 8000 Hz although it samples at 16 kHz (RFC 3551 section 4.5.2).
    G722,
    /// G.729.
    G729,
    /// Speex at any rate.
    Speex,
    /// Keypad digits, RFC 4733.
    TelephoneEvent,
    /// H.264 video, RFC 6184.
    H264,
    /// VP8 video, RFC 7741.
    Vp8,
    /// Any other name, in lower case.
    Other(String),
}

impl Encoding {
    /// Reads a name as `a=rtpmap` writes it.
    #[must_use]
    pub fn from_rtpmap(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "opus" => Encoding::Opus,
            "pcmu" => Encoding::Pcmu,
            "pcma" => Encoding::Pcma,
            "g722" => Encoding::G722,
            "g729" => Encoding::G729,
            "speex" => Encoding::Speex,
            "telephone-event" => Encoding::TelephoneEvent,
            "h264" => Encoding::H264,
            "vp8" => Encoding::Vp8,
            other => Encoding::Other(other.to_owned()),
        }
    }

    /// The name for `a=rtpmap`.
    #[must_use]
    pub fn rtpmap_name(&self) -> &str {
        match self {
            Encoding::Opus => "opus",
            Encoding::Pcmu => "PCMU",
            Encoding::Pcma => "PCMA",
            Encoding::G722 => "G722",
            Encoding::G729 => "G729",
            Encoding::Speex => "speex",
            Encoding::TelephoneEvent => "telephone-event",
            Encoding::H264 => "H264",
            Encoding::Vp8 => "VP8",
            Encoding::Other(name) => name,
        }
    }

    /// Reads a name as the settings `codecs` and `codecs_exclude_sip` write it; `None` for a name that WCS does not know.
    fn from_setting(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "alaw" | "pcma" => Encoding::Pcma,
            "ulaw" | "pcmu" => Encoding::Pcmu,
            "speex" | "speex8" | "speex16" | "speex32" => Encoding::Speex,
            known @ ("opus" | "g722" | "g729" | "telephone-event" | "h264" | "vp8") => Encoding::from_rtpmap(known),
            ignored @ ("mpeg4-generic" | "flv" | "mpv" | "silk") => Encoding::Other(ignored.to_owned()),
            _ => return None,
        })
    }

    /// Whether the relay forwards this audio encoding unchanged.
    #[must_use]
    pub fn is_passed_audio(&self) -> bool {
        matches!(self, Encoding::Opus | Encoding::Pcmu | Encoding::Pcma | Encoding::G722)
    }

    /// Whether the relay forwards this video encoding unchanged.
    #[must_use]
    pub fn is_passed_video(&self) -> bool {
        matches!(self, Encoding::H264 | Encoding::Vp8)
    }

    /// The other G.711 law, which the relay maps to and from by table.
    #[must_use]
    pub fn g711_counterpart(&self) -> Option<Encoding> {
        match self {
            Encoding::Pcmu => Some(Encoding::Pcma),
            Encoding::Pcma => Some(Encoding::Pcmu),
            _ => None,
        }
    }
}

/// An encoding with its RTP clock, channels and, for H.264, profile and mode: what makes two payload types the same codec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codec {
    /// The encoding.
    pub encoding: Encoding,
    /// RTP clock in Hz.
    pub clock_hz: u32,
    /// Audio channels as written; 1 when the rtpmap names none.
    pub channels: u8,
    /// Profile and packetization mode of H.264; absent for all else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub h264: Option<h264::Format>,
}

impl Codec {
    /// A codec with its usual clock and channels; keypad events get 8000 Hz, H.264 what every device speaks in mode 1.
    #[must_use]
    pub fn usual(encoding: Encoding) -> Self {
        let (clock_hz, channels) = match encoding {
            Encoding::Opus => (48_000, 2),
            Encoding::H264 | Encoding::Vp8 => (90_000, 1),
            Encoding::Speex => (16_000, 1),
            _ => (8000, 1),
        };
        let usual = h264::Format { profile: Profile::ConstrainedBaseline, mode: 1 };
        let h264 = (encoding == Encoding::H264).then_some(usual);
        Codec { encoding, clock_hz, channels, h264 }
    }

    /// Keypad events at a clock in Hz.
    #[must_use]
    pub fn telephone_event(clock_hz: u32) -> Self {
        Codec { encoding: Encoding::TelephoneEvent, clock_hz, channels: 1, h264: None }
    }

    /// Whether this is keypad events at any clock.
    #[must_use]
    pub fn is_telephone_event(&self) -> bool {
        self.encoding == Encoding::TelephoneEvent
    }

    /// The codec of a static payload type that needs no rtpmap (RFC 3551 section 6).
    #[must_use]
    pub fn of_static_type(pt: u8) -> Option<Self> {
        match pt {
            0 => Some(Codec::usual(Encoding::Pcmu)),
            8 => Some(Codec::usual(Encoding::Pcma)),
            9 => Some(Codec::usual(Encoding::G722)),
            18 => Some(Codec::usual(Encoding::G729)),
            _ => None,
        }
    }

    /// Reads `<encoding>/<clock>[/<channels>]`, the right part of an rtpmap (RFC 8866 section 6.6).
    ///
    /// Opus is opus/48000/2 whatever was written (RFC 7587 section 7): phones that write `/1` mean the same stream. A clock that the
    /// dataplane would refuse makes the line mean nothing, so that the other payload types go on without it.
    #[must_use]
    pub fn parse_rtpmap(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('/');
        let encoding = Encoding::from_rtpmap(parts.next().filter(|name| !name.is_empty())?);
        let clock_hz = parts.next()?.trim().parse().ok().filter(|clock| (1..=CLOCK_MAX_HZ).contains(clock))?;
        let channels = parts.next().and_then(|text| text.trim().parse().ok()).filter(|n| *n > 0).unwrap_or(1);
        match encoding {
            Encoding::Opus => Some(Codec::usual(Encoding::Opus)),
            // Linksys and others write the sampling rate of G.722 in place of its RTP clock.
            Encoding::G722 => Some(Codec::usual(Encoding::G722)),
            Encoding::H264 => Some(Codec::usual(Encoding::H264)),
            _ => Some(Codec { encoding, clock_hz, channels, h264: None }),
        }
    }

    /// This codec with what its `a=fmtp` value adds to it: H.264's profile and mode.
    #[must_use]
    pub fn with_fmtp(self, fmtp: Option<&str>) -> Self {
        let h264 = self.h264.map(|_| h264::Parameters::parse(fmtp.unwrap_or_default()).format());
        Codec { h264, ..self }
    }

    /// Whether the relay can pass it: H.264 only without interleaving (RFC 6184 section 6.4).
    #[must_use]
    pub fn is_passed(&self) -> bool {
        let is_media = self.encoding.is_passed_audio() || self.encoding.is_passed_video() || self.is_telephone_event();
        is_media && self.h264.is_none_or(|format| format.mode <= 1)
    }

    /// Whether packets of this codec can be given to a peer that receives `other`, and the other way round.
    #[must_use]
    pub fn serves(&self, other: &Codec) -> bool {
        match (self.h264, other.h264) {
            (Some(one), Some(two)) => one.mode == two.mode && one.profile.serves(two.profile),
            _ => self == other,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.encoding.rtpmap_name(), self.clock_hz)?;
        if self.channels > 1 { write!(f, "/{}", self.channels) } else { Ok(()) }
    }
}

/// One payload type of a media section.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Number, 0-127.
    pub pt: u8,
    /// What it carries.
    pub codec: Codec,
    /// The value of its `a=fmtp`, if there was one.
    pub fmtp: Option<String>,
    /// The values of its `a=rtcp-fb` lines, in order.
    pub feedback: Vec<String>,
}

impl Payload {
    /// A payload type without parameters.
    #[must_use]
    pub fn new(pt: u8, codec: Codec) -> Self {
        Payload { pt, codec, fmtp: None, feedback: Vec::new() }
    }
}

/// The `a=fmtp` value that tells a peer what the other side receives: known parameters with plain values only. `own` is what
/// the peer wrote of itself, `other` what the other side wrote.
#[must_use]
pub fn told_fmtp(codec: &Codec, own: Option<&str>, other: Option<&str>) -> Option<String> {
    let [own, other] = [own, other].map(|fmtp| fmtp.filter(|text| text.len() <= FMTP_MAX_BYTES));
    if let Some(format) = codec.h264 {
        return Some(h264::told(format, own, other));
    }
    let fmtp = other.unwrap_or("");
    match codec.encoding {
        Encoding::Opus => {
            let kept: Vec<String> = fmtp
                .split(';')
                .filter_map(|parameter| parameter.split_once('='))
                .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim()))
                .filter(|(name, _)| OPUS_PARAMETERS.contains(&name.as_str()))
                .filter(|(_, value)| !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            (!kept.is_empty()).then(|| kept.join(";"))
        }
        Encoding::TelephoneEvent => {
            let events = fmtp.trim();
            let plain = events.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b',' | b'-'));
            Some(if plain && !events.is_empty() { events } else { KEYPAD_EVENTS }.to_owned())
        }
        _ => None,
    }
}

/// The operator's codec lists, applied to every offer (settings `codecs`, `codecs_exclude_sip`, `allow_outside_codecs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecPolicy {
    listed: Vec<Encoding>,
    excluded_sip: Vec<Encoding>,
    allow_outside: bool,
    /// Profiles of H.264 in the operator's order; empty: the one that all devices decode.
    profiles: Vec<Profile>,
    mode_1_only: bool,
    warnings: Vec<String>,
}

impl Default for CodecPolicy {
    fn default() -> Self {
        let split = |list: &'static str| list.split(',').collect::<Vec<_>>();
        CodecPolicy::new(&split(DEFAULT_CODECS), &split(DEFAULT_CODECS_EXCLUDE_SIP), DEFAULT_ALLOW_OUTSIDE_CODECS)
            .with_h264(&split(DEFAULT_PROFILES), DEFAULT_MODE_1_ONLY)
    }
}

impl CodecPolicy {
    /// Reads the three settings. A name that is not known is left out and shows up in [`CodecPolicy::warnings`].
    #[must_use]
    pub fn new<S: AsRef<str>>(codecs: &[S], codecs_exclude_sip: &[S], allow_outside_codecs: bool) -> Self {
        let mut warnings = Vec::new();
        let mut read = |key: &str, names: &[S]| {
            let mut encodings = Vec::new();
            for name in names.iter().map(|name| name.as_ref().trim()).filter(|name| !name.is_empty()) {
                match Encoding::from_setting(name) {
                    Some(encoding) if encodings.contains(&encoding) => {}
                    Some(encoding) => encodings.push(encoding),
                    None => warnings.push(format!("{key}: {name:?} is not a codec this gateway knows, ignored")),
                }
            }
            encodings
        };
        let listed = read("codecs", codecs);
        let excluded_sip = read("codecs_exclude_sip", codecs_exclude_sip);
        CodecPolicy {
            listed,
            excluded_sip,
            allow_outside: allow_outside_codecs,
            profiles: Vec::new(),
            mode_1_only: DEFAULT_MODE_1_ONLY,
            warnings,
        }
    }

    /// Reads the two settings of H.264: `profiles`, a list of `profile-level-id`, and
    /// `proxy_use_h264_packetization_mode_1_only`. An entry of the list that is none shows up in [`CodecPolicy::warnings`].
    #[must_use]
    pub fn with_h264<S: AsRef<str>>(mut self, profiles: &[S], mode_1_only: bool) -> Self {
        self.mode_1_only = mode_1_only;
        for id in profiles.iter().map(|id| id.as_ref().trim()).filter(|id| !id.is_empty()) {
            match h264::profile_level(id) {
                Some([profile_idc, constraints, _]) => self.profiles.push(Profile::of(profile_idc, constraints)),
                None => self.warnings.push(format!("profiles: {id:?} is not six hexadecimal digits, ignored")),
            }
        }
        self
    }

    /// One sentence for each name in the settings that was ignored.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether a codec may be used towards SIP at all.
    #[must_use]
    pub fn admits_sip(&self, encoding: &Encoding) -> bool {
        let is_event = *encoding == Encoding::TelephoneEvent;
        let known = encoding.is_passed_audio() || encoding.is_passed_video() || is_event;
        known && !self.excluded_sip.contains(encoding) && (self.allow_outside || self.listed.contains(encoding))
    }

    /// The payload types of a fresh SIP offer, for a browser that speaks `browser`.
    ///
    /// Order: `codecs`, then what only the browser named. A codec that the page stripped from its offer is not offered
    /// (`stripCodecs`), so nothing is added for the G.711 table here; keypad events come last, one for each clock in use.
    #[must_use]
    pub fn sip_offer(&self, browser: &BrowserSide) -> Offered {
        let mut audio: Vec<Payload> = Vec::new();
        for encoding in self.order(&browser.audio, Encoding::is_passed_audio) {
            let spoken = browser.audio.payloads.iter().find(|payload| payload.codec.encoding == encoding);
            audio.extend(spoken.map(|payload| offered(sip_number(&payload.codec), payload)));
        }
        // A page that stripped keypad events wants none.
        if browser.audio.payloads.iter().any(|payload| payload.codec.is_telephone_event()) {
            self.add_events(&mut audio);
        }
        let video = browser.video.as_ref().map(|video| self.sip_video(video)).unwrap_or_default();
        let video_direction = browser.video.as_ref().map_or(Direction::SendRecv, |video| video.direction.reversed());
        let video_feedback = if video.is_empty() { Vec::new() } else { VIDEO_FEEDBACK.map(|(kind, _)| kind).to_vec() };
        Offered { audio, video, video_direction, video_feedback }
    }

    /// The video of a SIP offer. Of H.264 it is what [`CodecPolicy::chosen_h264`] picks, because each payload type costs an INVITE
    /// some 90 bytes.
    fn sip_video(&self, browser: &MediaSide) -> Vec<Payload> {
        let mut video: Vec<Payload> = Vec::new();
        for encoding in self.order(browser, Encoding::is_passed_video) {
            let spoken = browser.payloads.iter().filter(|payload| payload.codec.encoding == encoding);
            let spoken: Vec<&LegPayload> = spoken.collect();
            let chosen = if encoding == Encoding::H264 {
                self.chosen_h264(&spoken)
            } else {
                spoken.into_iter().take(1).collect()
            };
            for payload in chosen {
                let taken = |pt: &u8| video.iter().any(|payload| payload.pt == *pt);
                let pt = (sip_number(&payload.codec)..=127).find(|pt| !taken(pt)).unwrap_or(127);
                video.push(offered(pt, payload));
            }
        }
        video
    }

    /// The H.264 payload types of a browser to offer: of each profile that the operator lists, else of Constrained Baseline
    /// (failing that, of the browser's first profile), one in packetization mode 1 and, unless the setting says only that, one in
    /// mode 0.
    fn chosen_h264<'a>(&self, spoken: &[&'a LegPayload]) -> Vec<&'a LegPayload> {
        let find = |profile: Profile, mode: u8| {
            let of = |wanted: fn(Profile, Profile) -> bool| {
                let format = |payload: &&&LegPayload| payload.codec.h264;
                spoken.iter().find(|p| format(p).is_some_and(|f| f.mode == mode && wanted(f.profile, profile))).copied()
            };
            of(|own, profile| own == profile).or_else(|| of(Profile::serves))
        };
        let first = spoken.first().and_then(|payload| payload.codec.h264).map(|format| format.profile);
        let common = [Profile::ConstrainedBaseline].into_iter().chain(first);
        let common = common.filter(|profile| find(*profile, 1).or(find(*profile, 0)).is_some()).take(1);
        let profiles: Vec<Profile> = if self.profiles.is_empty() { common.collect() } else { self.profiles.clone() };
        let mut chosen: Vec<&LegPayload> = Vec::new();
        for profile in profiles {
            // A browser that has only mode 0 is offered with it whatever the setting says: there is nothing else to offer.
            let modes = [find(profile, 1), find(profile, 0)];
            let modes = modes.into_iter().flatten().take(if self.mode_1_only { 1 } else { 2 });
            for payload in modes {
                if !chosen.contains(&payload) {
                    chosen.push(payload);
                }
            }
        }
        chosen
    }

    /// The encodings of a browser's section to offer, each once: those of `codecs` in its order, then the browser's own.
    fn order(&self, browser: &MediaSide, is_wanted: fn(&Encoding) -> bool) -> Vec<Encoding> {
        let spoken: Vec<&Encoding> = browser.payloads.iter().map(|payload| &payload.codec.encoding).collect();
        let mut order: Vec<Encoding> = Vec::new();
        for encoding in self.listed.iter().chain(spoken.iter().copied()) {
            if spoken.contains(&encoding)
                && is_wanted(encoding)
                && self.admits_sip(encoding)
                && !order.contains(encoding)
            {
                order.push(encoding.clone());
            }
        }
        order
    }

    /// All sound that the operator allows and the relay passes, with our numbers: for an INVITE without an offer.
    #[must_use]
    pub fn everything(&self) -> Offered {
        let passed = [Encoding::Opus, Encoding::Pcma, Encoding::Pcmu, Encoding::G722, Encoding::TelephoneEvent];
        let browser: Vec<Payload> =
            passed.into_iter().map(|encoding| Payload::new(0, Codec::usual(encoding))).collect();
        self.sip_offer(&BrowserSide::of_audio(offered_leg(&browser)))
    }

    /// Adds keypad events at each clock of the offer's audio codecs (RFC 4733 section 2.1: the clock of the audio).
    fn add_events(&self, offer: &mut Vec<Payload>) {
        if !self.admits_sip(&Encoding::TelephoneEvent) {
            return;
        }
        let mut clocks: Vec<u32> = offer.iter().map(|payload| payload.codec.clock_hz).collect();
        clocks.sort_unstable();
        clocks.dedup();
        for clock_hz in clocks {
            let codec = Codec::telephone_event(clock_hz);
            let fmtp = told_fmtp(&codec, None, None);
            offer.push(Payload { pt: sip_number(&codec), codec, fmtp, feedback: Vec::new() });
        }
    }
}

/// A payload type of our offer to a SIP peer, for one of a browser.
fn offered(pt: u8, browser: &LegPayload) -> Payload {
    let codec = browser.codec.clone();
    let fmtp = told_fmtp(&codec, None, browser.fmtp.as_deref());
    Payload { pt, codec, fmtp, feedback: Vec::new() }
}

/// The number we give a codec in offers of our own: the static one, else the number most phones use. Only codecs that are
/// offered have one of their own.
#[must_use]
pub fn sip_number(codec: &Codec) -> u8 {
    match (&codec.encoding, codec.clock_hz) {
        (Encoding::Pcmu, _) => 0,
        (Encoding::Pcma, _) => 8,
        (Encoding::G722, _) => 9,
        (Encoding::Opus, _) => 96,
        (Encoding::TelephoneEvent, 8000) => 101,
        (Encoding::TelephoneEvent, _) => 102,
        (Encoding::Vp8, _) => 97,
        (Encoding::H264, _) => 98,
        _ => 103,
    }
}

#[cfg(test)]
mod tests;
