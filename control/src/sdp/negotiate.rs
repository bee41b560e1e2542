//! Offer and answer (RFC 3264) as pure functions: directions, payload numbers, and the agreement between browser and SIP peer.
//!
//! Payload numbers are kept per leg and per direction: the number in a peer's description is the one *it* wants to receive, the
//! number in ours the one we receive, and a peer may choose other numbers than its offerer (RFC 3264 section 5.1).

use std::net::SocketAddr;

use gangway_shared::rcp::Feedback;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    MediaKind, SdpError,
    browser::BrowserMedia,
    codec::{Codec, CodecPolicy, Encoding, Payload, VIDEO_FEEDBACK, told_fmtp},
    repair::Repair,
    trunk::{TrunkDescription, TrunkMedia, TrunkSection},
};

/// Most numbers under which one codec of one leg is taken: the negotiated one and the one before it, or the one that the peer
/// wrote. A payload map of the relay holds sixteen entries.
const RECEIVE_NUMBERS_MAX: usize = 2;
/// First number of video in our offers to browsers; the numbers of audio are above all of them, because one transport carries both.
const BROWSER_VIDEO_FIRST: u8 = 96;
/// Most video payload types in one of our offers to a browser, and most taken of a SIP peer's.
const BROWSER_VIDEO_MAX: usize = 8;

/// Who may send, seen from the side that wrote the description (RFC 8866 section 6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// Both ways; also what the absence of an attribute means.
    #[default]
    SendRecv,
    /// The writer only sends.
    SendOnly,
    /// The writer only receives.
    RecvOnly,
    /// Nobody sends.
    Inactive,
}

impl Direction {
    /// All four, for tables and tests.
    pub const ALL: [Direction; 4] =
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive];

    /// The direction with these two freedoms.
    #[must_use]
    pub const fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// Whether the writer sends.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// Whether the writer receives.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// The same state seen from the other side.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Direction::of(self.receives(), self.sends())
    }

    /// The name of its attribute.
    #[must_use]
    pub const fn attribute(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// Reads the name of an attribute.
    #[must_use]
    pub fn from_attribute(name: &str) -> Option<Self> {
        Direction::ALL.into_iter().find(|direction| direction.attribute().eq_ignore_ascii_case(name))
    }
}

/// The direction of an answer: what the offer allows of what we want (RFC 3264 section 6.1).
#[must_use]
pub const fn answer_direction(offered: Direction, wanted: Direction) -> Direction {
    let allowed = offered.reversed();
    Direction::of(allowed.sends() && wanted.sends(), allowed.receives() && wanted.receives())
}

/// What we offer, by medium.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Sound and keypad events.
    pub audio: Vec<Payload>,
    /// Pictures; empty: no section.
    pub video: Vec<Payload>,
    /// Our direction for pictures: that of the other side, since nothing stands in for a camera.
    pub video_direction: Direction,
    /// The feedback about pictures that a SIP peer may send us. Towards browsers each payload type has its own.
    #[serde(default)]
    pub video_feedback: Vec<Feedback>,
}

/// The payload types of an answer: those of the offer that `supports` accepts, in the offer's order and with its numbers, each
/// codec once (RFC 3264 section 6.1).
pub fn answer_payloads(offer: &[Payload], supports: impl Fn(&Codec) -> bool) -> Vec<Payload> {
    let mut answer: Vec<Payload> = Vec::new();
    for payload in offer.iter().filter(|payload| supports(&payload.codec)) {
        if !answer.iter().any(|chosen| chosen.codec == payload.codec) {
            answer.push(payload.clone());
        }
    }
    answer
}

/// One codec of one leg with its numbers in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegPayload {
    /// The codec.
    pub codec: Codec,
    /// The peer's `a=fmtp` value: what it wants to receive.
    pub fmtp: Option<String>,
    /// The number we put on packets to this peer.
    pub send_pt: u8,
    /// The numbers under which this codec arrives, the negotiated one first.
    pub receive_pts: Vec<u8>,
}

/// The codecs of a peer that offered: an answer repeats its numbers, so both directions use them.
#[must_use]
pub fn offered_leg(offer: &[Payload]) -> Vec<LegPayload> {
    let offer = answer_payloads(offer, |_| true);
    let leg = |p: Payload| LegPayload { codec: p.codec, fmtp: p.fmtp, send_pt: p.pt, receive_pts: vec![p.pt] };
    offer.into_iter().map(leg).collect()
}

/// The codecs of a peer that answered our offer: we send with its numbers and receive on ours, and also on its own where that
/// number means nothing else, because phones exist that send what they wrote. Codecs that we did not offer are left out.
///
/// H.264 is taken in the profile and mode that the answer states, even when that is not what its number was offered with: an
/// answer without `packetization-mode` means mode 0 (RFC 6184 section 8.1).
#[must_use]
pub fn answered_leg(ours: &[Payload], answer: &[Payload]) -> Vec<LegPayload> {
    let is_answered = |ours: &Payload, theirs: &Payload| {
        let same_number = ours.pt == theirs.pt && ours.codec.h264.is_some() && theirs.codec.h264.is_some();
        same_number || ours.codec == theirs.codec
    };
    let mut leg = Vec::new();
    let named = answer.iter().filter(|theirs| ours.iter().any(|ours| is_answered(ours, theirs)));
    for theirs in answer_payloads(&named.cloned().collect::<Vec<_>>(), |_| true) {
        let mut receive_pts: Vec<u8> = ours.iter().filter(|ours| is_answered(ours, &theirs)).map(|p| p.pt).collect();
        receive_pts.truncate(RECEIVE_NUMBERS_MAX - 1);
        if !ours.iter().any(|payload| payload.pt == theirs.pt) {
            receive_pts.push(theirs.pt);
        }
        leg.push(LegPayload { codec: theirs.codec, fmtp: theirs.fmtp, send_pt: theirs.pt, receive_pts });
    }
    leg
}

/// Why two descriptions give no call.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NegotiateError {
    /// The two sides share no codec that the relay can pass or map: 488 and `NO_COMMON_CODECS`.
    #[error("no common codecs")]
    NoCommonCodecs,
    /// The peer's description lacks the codec with which the browser was answered, and any the relay can map to it: 488, and
    /// the call stays as it was.
    #[error("the browser was answered with {fixed}, the SIP peer no longer offers it")]
    FixedCodecMissing {
        /// The browser's codec.
        fixed: Codec,
    },
    /// The description itself cannot be used.
    #[error(transparent)]
    Sdp(#[from] SdpError),
}

/// Where a SIP peer wants its media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaTarget {
    /// Address of RTP.
    pub rtp: SocketAddr,
    /// Address of RTCP: `a=rtcp` (RFC 3605) or the next port.
    pub rtcp: SocketAddr,
}

/// The browser's half of a negotiation: what it speaks and lets us do, by medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSide {
    /// Sound.
    pub audio: MediaSide,
    /// Pictures, when its description has a section for them that can be used.
    pub video: Option<MediaSide>,
}

/// One medium of a browser.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSide {
    /// Codecs in the browser's order.
    pub payloads: Vec<LegPayload>,
    /// Our direction towards the browser: all that it allows, because it is asked only once.
    pub direction: Direction,
    /// What it does about lost packets and its bit rate.
    #[serde(default)]
    pub repair: Repair,
}

impl MediaSide {
    /// One that does nothing about lost packets.
    #[must_use]
    pub fn new(payloads: Vec<LegPayload>, direction: Direction) -> Self {
        MediaSide { payloads, direction, repair: Repair::default() }
    }
}

impl BrowserSide {
    /// A browser that sends and receives sound alone.
    #[must_use]
    pub fn of_audio(payloads: Vec<LegPayload>) -> Self {
        BrowserSide { audio: MediaSide::new(payloads, Direction::SendRecv), video: None }
    }
}

/// How one arriving payload number leaves on the other leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PayloadRoute {
    /// Number on arrival.
    pub from_pt: u8,
    /// Codec on arrival.
    pub from: Codec,
    /// The receiving leg's fmtp on arrival, as its peer wrote it.
    pub from_fmtp: Option<String>,
    /// Number on departure.
    pub to_pt: u8,
    /// Codec on departure: the same, or the other G.711 law.
    pub to: Codec,
    /// What the departing leg's peer wants to receive.
    pub to_fmtp: Option<String>,
}

/// What browser and SIP peer agreed on, with the gateway between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Sound; a call has it.
    pub audio: MediaAgreement,
    /// Pictures, when both sides share a codec for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<MediaAgreement>,
    /// The SIP peer's answer takes pictures that this call cannot have: in a codec that the browser does not share, in another than
    /// the browser was answered with, or when the browser was answered without any. A new offer must refuse them with port 0
    /// ([`Agreement::fixed_offer`], RFC 3264 section 8.2), or the peer sends to a port that nobody has.
    #[serde(default)]
    pub refuses_video: bool,
}

/// What both sides agreed on for one medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaAgreement {
    /// The browser's codecs: the one in use first (fixed for the call's life), others it was answered with, keypad events.
    pub browser: Vec<LegPayload>,
    /// Our direction towards the browser.
    pub browser_direction: Direction,
    /// What the browser does about lost packets and its bit rate.
    #[serde(default)]
    pub browser_repair: Repair,
    /// The SIP peer's codecs, the one in use first.
    pub sip: Vec<LegPayload>,
    /// Our direction towards the SIP peer.
    pub sip_direction: Direction,
    /// Where the SIP peer receives; kept from before while it is held with `c=0.0.0.0`.
    pub sip_remote: Option<MediaTarget>,
    /// Packet time in milliseconds that the SIP peer asked for.
    pub sip_ptime_ms: Option<u16>,
    /// The feedback about its pictures that the SIP peer takes in RTCP, as its `a=rtcp-fb` lines say.
    #[serde(default)]
    pub sip_feedback: Vec<Feedback>,
    /// What the SIP peer takes in kbit/s, as its `b=` lines say.
    #[serde(default)]
    pub sip_limit_kbps: Option<u32>,
    /// The SIP peer stopped this medium with port 0 after the browser was answered with it (RFC 3264 section 8.2).
    #[serde(default)]
    pub is_stopped: bool,
}

/// The payload of `leg` that takes `codec`: the same codec, the other G.711 law, or H.264 that its decoder takes as well.
fn counterpart<'a>(codec: &Codec, leg: &'a [LegPayload]) -> Option<&'a LegPayload> {
    let mapped = codec.encoding.g711_counterpart().map(Codec::usual);
    let find = |wanted: &Codec| leg.iter().find(|payload| payload.codec == *wanted);
    let served = || leg.iter().find(|payload| codec.serves(&payload.codec));
    find(codec).or_else(|| mapped.as_ref().and_then(find)).or_else(served)
}

/// Whether it carries the medium itself, and not keypad events beside it.
fn is_media(payload: &LegPayload) -> bool {
    payload.codec.is_passed() && !payload.codec.is_telephone_event()
}

/// Keypad events of `leg` that fit its audio: at the clock of one of its codecs (RFC 4733 section 2.1), or, where there is none,
/// at a clock that the other leg has too, which is what Firefox and older PBXs mean by opus with telephone-event/8000.
fn events(leg: &[LegPayload], audio: &[LegPayload], other: &[LegPayload]) -> Vec<LegPayload> {
    let all = || leg.iter().filter(|payload| payload.codec.is_telephone_event());
    let fitting: Vec<LegPayload> =
        all().filter(|event| audio.iter().any(|a| a.codec.clock_hz == event.codec.clock_hz)).cloned().collect();
    if fitting.is_empty() {
        all().filter(|event| other.iter().any(|payload| payload.codec == event.codec)).cloned().collect()
    } else {
        fitting
    }
}

impl Agreement {
    /// The SIP peer answered our offer (200, or a 18x with a description): its first usable codec is the one in use, and the
    /// browser may be answered with [`Agreement::browser_media`]. Without a common codec for video it is a call of sound.
    ///
    /// `ours` is what we offered, `wanted` the direction we offered.
    ///
    /// # Errors
    /// [`NegotiateError::NoCommonCodecs`], or what is wrong with the answer.
    pub fn answered_by_sip(
        browser: &BrowserSide,
        ours: &Offered,
        answer: &TrunkDescription,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let audio = MediaAgreement::answered_by_sip(&browser.audio, &ours.audio, answer.audio()?, wanted)?;
        let video = browser.video.as_ref().zip(answer.video());
        let video = video.and_then(|(browser, section)| {
            MediaAgreement::answered_by_sip(browser, &ours.video, section, ours.video_direction).ok()
        });
        Ok(Agreement { audio, refuses_video: video.is_none() && ours.is_taken_up_on_video(answer), video })
    }

    /// The browser is answered before the SIP peer described anything: with the laws of G.711 that both were offered, and keypad events.
    /// None when there are none, or when the browser takes no sound.
    #[must_use]
    pub fn before_sip(browser: &BrowserSide, ours: &Offered) -> Option<Self> {
        let spoken = |codec: &Codec| browser.audio.payloads.iter().find(|payload| payload.codec == *codec).cloned();
        let laws = ours.audio.iter().filter(|payload| payload.codec.encoding.g711_counterpart().is_some());
        let mut agreed: Vec<LegPayload> = laws.filter_map(|payload| spoken(&payload.codec)).collect();
        if agreed.is_empty() || !browser.audio.direction.sends() {
            return None;
        }
        let event = Codec::telephone_event(agreed[0].codec.clock_hz);
        agreed.extend(ours.audio.iter().find(|payload| payload.codec == event).and_then(|_| spoken(&event)));
        let audio = MediaAgreement {
            browser: agreed,
            browser_direction: browser.audio.direction,
            browser_repair: Repair::default(),
            sip: Vec::new(),
            sip_direction: Direction::SendRecv,
            sip_remote: None,
            sip_ptime_ms: None,
            sip_limit_kbps: None,
            sip_feedback: Vec::new(),
            is_stopped: false,
        };
        Some(Agreement { audio, video: None, refuses_video: false })
    }

    /// Whether the SIP peer has described nothing yet, see [`Agreement::before_sip`].
    #[must_use]
    pub fn is_one_sided(&self) -> bool {
        self.audio.sip.is_empty()
    }

    /// The browser answered the offer that we made it for a SIP peer's offer: the browser's first usable codec is the one in
    /// use, and the SIP peer is answered with [`Agreement::sip_media`], that one codec and keypad events.
    ///
    /// # Errors
    /// [`NegotiateError::NoCommonCodecs`], or what is wrong with the offer.
    pub fn answering_sip(
        browser: &BrowserSide,
        offer: &TrunkDescription,
        policy: &CodecPolicy,
    ) -> Result<Self, NegotiateError> {
        let audio = MediaAgreement::answering_sip(&browser.audio, offer.audio()?, policy, Direction::SendRecv)?;
        let video = browser.video.as_ref().zip(offer.video());
        let video = video.map(|(browser, section)| {
            MediaAgreement::answering_sip(browser, section, policy, browser.direction.reversed())
        });
        // What does not join is refused in the answer itself.
        Ok(Agreement { audio, video: video.and_then(Result::ok), refuses_video: false })
    }

    /// A later offer of the SIP peer (re-INVITE, UPDATE): answered with the browser's codec or one the relay maps to it. Video
    /// that the browser was not answered with stays out; video that cannot go on is stopped. The answer refuses both.
    ///
    /// # Errors
    /// [`NegotiateError::FixedCodecMissing`]: answer 488 and keep this agreement.
    pub fn reoffered_by_sip(
        &self,
        offer: &TrunkDescription,
        policy: &CodecPolicy,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let audio = self.audio.reoffered_by_sip(offer.audio()?, policy, wanted)?;
        let video = self.video.as_ref().map(|video| {
            let section = offer
                .video()
                .and_then(|section| video.reoffered_by_sip(section, policy, video.browser_direction.reversed()).ok());
            section.unwrap_or_else(|| video.stopped())
        });
        Ok(Agreement { audio, video, refuses_video: false })
    }

    /// A later answer of the SIP peer: to a re-INVITE of ours, or the 200 after a 18x that answered the browser. Another fork may
    /// have written the 18x.
    ///
    /// # Errors
    /// [`NegotiateError::FixedCodecMissing`]: re-INVITE with [`Agreement::fixed_offer`], or give up.
    pub fn reanswered_by_sip(
        &self,
        ours: &Offered,
        answer: &TrunkDescription,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let audio = self.audio.reanswered_by_sip(&ours.audio, answer.audio()?, wanted)?;
        let video = self.video.as_ref().map(|video| {
            let section = answer
                .video()
                .and_then(|section| video.reanswered_by_sip(&ours.video, section, ours.video_direction).ok());
            section.unwrap_or_else(|| video.stopped())
        });
        let is_joined = video.as_ref().is_some_and(|video| !video.is_stopped);
        Ok(Agreement { audio, refuses_video: !is_joined && ours.is_taken_up_on_video(answer), video })
    }

    /// The payload types of a re-INVITE that insists on the browser's codecs, without pictures where the call has none.
    #[must_use]
    pub fn fixed_offer(&self, policy: &CodecPolicy) -> Offered {
        let video = self.video.as_ref().filter(|video| !video.is_stopped);
        Offered {
            audio: self.audio.fixed_offer(policy),
            video: video.map(|video| video.fixed_offer(policy)).unwrap_or_default(),
            video_direction: video.map_or(Direction::SendRecv, |video| video.browser_direction.reversed()),
            video_feedback: video.map_or_else(Vec::new, |_| VIDEO_FEEDBACK.map(|(kind, _)| kind).to_vec()),
        }
    }

    /// What our description towards the browser says of each medium.
    #[must_use]
    pub fn browser_media(&self) -> Vec<BrowserMedia> {
        let media = |kind, agreed: &MediaAgreement| BrowserMedia {
            kind,
            payloads: agreed.browser_payloads(),
            direction: agreed.browser_direction,
            ptime_ms: agreed.sip_ptime_ms,
            limit_kbps: None,
            repair: Repair::default(),
        };
        let audio = media(MediaKind::Audio, &self.audio);
        let video = self.video.as_ref().map(|video| BrowserMedia {
            limit_kbps: video.sip_limit_kbps,
            repair: video.browser_repair.clone(),
            ..media(MediaKind::Video, video)
        });
        std::iter::once(audio).chain(video).collect()
    }

    /// What our description towards the SIP peer says of each medium; `rtp` is the relay's address for audio, `video_rtp` that
    /// for video.
    #[must_use]
    pub fn sip_media(&self, rtp: SocketAddr, video_rtp: Option<SocketAddr>) -> Vec<TrunkMedia> {
        let media = |kind, rtp, agreed: &MediaAgreement| TrunkMedia {
            kind,
            rtp,
            payloads: agreed.sip_payloads(),
            direction: agreed.sip_direction,
            // An answer names no feedback that the offer does not (RFC 4585 section 4.2).
            feedback: agreed.sip_feedback.clone(),
        };
        let video = self.video.as_ref().filter(|video| !video.is_stopped).zip(video_rtp);
        let video = video.map(|(agreed, rtp)| media(MediaKind::Video, rtp, agreed));
        std::iter::once(media(MediaKind::Audio, rtp, &self.audio)).chain(video).collect()
    }
}

impl Offered {
    /// Whether this offered pictures and the answer takes them, in whatever form.
    fn is_taken_up_on_video(&self, answer: &TrunkDescription) -> bool {
        !self.video.is_empty() && answer.takes_video()
    }

    /// What our offer to a SIP peer says of each medium; see [`Agreement::sip_media`].
    #[must_use]
    pub fn sip_media(&self, rtp: SocketAddr, video_rtp: Option<SocketAddr>) -> Vec<TrunkMedia> {
        let media = |kind, rtp, payloads: &[Payload], direction| TrunkMedia {
            rtp,
            payloads: payloads.to_vec(),
            direction,
            feedback: if kind == MediaKind::Video { self.video_feedback.clone() } else { Vec::new() },
            kind,
        };
        let video = video_rtp.filter(|_| !self.video.is_empty());
        let video = video.map(|rtp| media(MediaKind::Video, rtp, &self.video, self.video_direction));
        std::iter::once(media(MediaKind::Audio, rtp, &self.audio, Direction::SendRecv)).chain(video).collect()
    }

    /// What our offer to a browser says of each medium. `ptime_ms` is the packet time that the SIP peer asked for, `limit_kbps` the
    /// video that it takes.
    #[must_use]
    pub fn browser_media(&self, ptime_ms: Option<u16>, limit_kbps: Option<u32>) -> Vec<BrowserMedia> {
        let media = |kind, payloads: &[Payload]| BrowserMedia {
            kind,
            payloads: payloads.to_vec(),
            direction: Direction::SendRecv,
            ptime_ms: None,
            limit_kbps: None,
            repair: Repair::default(),
        };
        let audio = BrowserMedia { ptime_ms, ..media(MediaKind::Audio, &self.audio) };
        let repair = Repair::offered(&self.video);
        let video = || BrowserMedia { limit_kbps, repair, ..media(MediaKind::Video, &self.video) };
        std::iter::once(audio).chain((!self.video.is_empty()).then(video)).collect()
    }
}

impl MediaAgreement {
    fn answered_by_sip(
        browser: &MediaSide,
        ours: &[Payload],
        section: &TrunkSection,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let leg = answered_leg(ours, &section.payloads);
        let mut sip: Vec<LegPayload> =
            leg.iter().filter(|p| is_media(p) && counterpart(&p.codec, &browser.payloads).is_some()).cloned().collect();
        let mut agreed: Vec<LegPayload> = Vec::new();
        for chosen in sip.iter().filter_map(|payload| counterpart(&payload.codec, &browser.payloads)) {
            if !agreed.contains(chosen) {
                agreed.push(chosen.clone());
            }
        }
        if agreed.is_empty() {
            return Err(NegotiateError::NoCommonCodecs);
        }
        let sip_feedback = taken_feedback(section, &sip);
        let sip_events = events(&leg, &sip, &browser.payloads);
        agreed.extend(events(&browser.payloads, &agreed, &leg).into_iter().filter(|e| has(&sip_events, &e.codec)));
        sip.extend(sip_events);
        Ok(MediaAgreement {
            browser: agreed,
            browser_direction: browser.direction,
            browser_repair: browser.repair.clone(),
            sip,
            sip_direction: answer_direction(section.effective_direction(), wanted),
            sip_remote: section.target()?,
            sip_ptime_ms: section.ptime_ms,
            sip_limit_kbps: section.limit_kbps,
            sip_feedback,
            is_stopped: false,
        })
    }

    fn answering_sip(
        browser: &MediaSide,
        section: &TrunkSection,
        policy: &CodecPolicy,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let leg = offered_leg(&answer_payloads(&section.payloads, |codec| policy.admits_sip(&codec.encoding)));
        let agreed: Vec<LegPayload> = browser
            .payloads
            .iter()
            .filter(|payload| is_media(payload) && counterpart(&payload.codec, &leg).is_some())
            .cloned()
            .collect();
        let fixed = agreed.first().ok_or(NegotiateError::NoCommonCodecs)?;
        let sip = chosen_for(fixed, &leg, &browser.payloads).ok_or(NegotiateError::NoCommonCodecs)?;
        let browser_events = events(&browser.payloads, &agreed, &leg);
        let sip_feedback = taken_feedback(section, &sip);
        Ok(MediaAgreement {
            browser: agreed.iter().cloned().chain(browser_events).collect(),
            browser_direction: browser.direction,
            browser_repair: browser.repair.clone(),
            sip,
            sip_direction: answer_direction(section.effective_direction(), wanted),
            sip_remote: section.target()?,
            sip_ptime_ms: section.ptime_ms,
            sip_limit_kbps: section.limit_kbps,
            sip_feedback,
            is_stopped: false,
        })
    }

    fn reoffered_by_sip(
        &self,
        section: &TrunkSection,
        policy: &CodecPolicy,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let leg = offered_leg(&answer_payloads(&section.payloads, |codec| policy.admits_sip(&codec.encoding)));
        let sip = chosen_for(self.fixed(), &leg, &self.browser).ok_or_else(|| self.missing())?;
        self.replaced(sip, section, wanted)
    }

    fn reanswered_by_sip(
        &self,
        ours: &[Payload],
        section: &TrunkSection,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let leg = answered_leg(ours, &section.payloads);
        let mut sip = chosen_for(self.fixed(), &leg, &self.browser).ok_or_else(|| self.missing())?;
        // The peer may send any codec of its answer, not only the one we send.
        let others = leg.iter().filter(|p| is_media(p) && counterpart(&p.codec, &self.browser).is_some());
        let others: Vec<LegPayload> = others.filter(|payload| !sip.contains(payload)).cloned().collect();
        sip.extend(others);
        self.replaced(sip, section, wanted)
    }

    /// The same, with the SIP peer's section gone.
    fn stopped(&self) -> Self {
        MediaAgreement { sip_direction: Direction::Inactive, is_stopped: true, ..self.clone() }
    }

    /// The codec with which the browser was answered; it stays for the call's life.
    ///
    /// # Panics
    /// Never: an agreement without a codec is not built.
    #[must_use]
    pub fn fixed(&self) -> &LegPayload {
        self.browser.first().expect("an agreement holds at least one codec")
    }

    /// The payload types of a re-INVITE that insists on the browser's codec: it, the other G.711 law, keypad events. Numbers
    /// already used in this dialog keep their meaning (RFC 3264 section 8.3.2).
    #[must_use]
    pub fn fixed_offer(&self, policy: &CodecPolicy) -> Vec<Payload> {
        let fixed = &self.fixed().codec;
        let mut wanted: Vec<Codec> = vec![fixed.clone()];
        wanted.extend(fixed.encoding.g711_counterpart().map(Codec::usual));
        if fixed.encoding.is_passed_audio() {
            wanted.push(Codec::telephone_event(fixed.clock_hz));
        }
        let mut offer: Vec<Payload> = Vec::new();
        for codec in wanted.into_iter().filter(|codec| policy.admits_sip(&codec.encoding)) {
            let known = self.sip.iter().find(|payload| payload.codec == codec);
            let known = known.and_then(|payload| payload.receive_pts.first().copied());
            let pt = known.unwrap_or_else(|| self.free_number(super::codec::sip_number(&codec), &offer));
            let browser = self.browser.iter().find(|payload| payload.codec == codec).and_then(|p| p.fmtp.as_deref());
            let own = self.sip.iter().find(|payload| payload.codec == codec).and_then(|p| p.fmtp.as_deref());
            let fmtp = told_fmtp(&codec, own, browser);
            offer.push(Payload { pt, codec, fmtp, feedback: Vec::new() });
        }
        offer
    }

    /// `preferred`, or the first dynamic number that means nothing in this dialog yet.
    fn free_number(&self, preferred: u8, offer: &[Payload]) -> u8 {
        let means = |pt: &u8| {
            let known = self.sip.iter().any(|payload| payload.send_pt == *pt || payload.receive_pts.contains(pt));
            known || offer.iter().any(|payload| payload.pt == *pt)
        };
        std::iter::once(preferred).chain(96..=127).find(|pt| !means(pt)).unwrap_or(preferred)
    }

    /// The payload types for our description towards the browser: its numbers, the codec in use first, with what the SIP peer
    /// wants to receive and the feedback that the relay heeds.
    #[must_use]
    pub fn browser_payloads(&self) -> Vec<Payload> {
        let payloads = described(&self.browser, &self.sip).into_iter();
        payloads.map(|payload| Payload { feedback: feedback(&payload.codec), ..payload }).collect()
    }

    /// The payload types for our description towards the SIP peer, with what the browser wants to receive.
    #[must_use]
    pub fn sip_payloads(&self) -> Vec<Payload> {
        described(&self.sip, &self.browser)
    }

    /// The payload map from the browser to the SIP peer.
    #[must_use]
    pub fn to_sip(&self) -> Vec<PayloadRoute> {
        routes(&self.browser, &self.sip)
    }

    /// The payload map from the SIP peer to the browser.
    #[must_use]
    pub fn to_browser(&self) -> Vec<PayloadRoute> {
        routes(&self.sip, &self.browser)
    }

    fn missing(&self) -> NegotiateError {
        NegotiateError::FixedCodecMissing { fixed: self.fixed().codec.clone() }
    }

    /// This agreement with another SIP side. Numbers under which a codec used to arrive stay valid while they mean nothing
    /// else, so packets under way at a renumbering re-INVITE are not lost.
    fn replaced(
        &self,
        mut sip: Vec<LegPayload>,
        section: &TrunkSection,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let taken: Vec<u8> = sip.iter().flat_map(|payload| payload.receive_pts.iter().copied()).collect();
        for payload in &mut sip {
            let before = self.sip.iter().filter(|old| old.codec == payload.codec).flat_map(|old| &old.receive_pts);
            let before = before.filter(|pt| !taken.contains(pt));
            payload.receive_pts.extend(before);
            payload.receive_pts.truncate(RECEIVE_NUMBERS_MAX);
        }
        Ok(MediaAgreement {
            sip_feedback: taken_feedback(section, &sip),
            sip,
            sip_direction: answer_direction(section.effective_direction(), wanted),
            sip_remote: section.target()?.or(self.sip_remote),
            sip_ptime_ms: section.ptime_ms,
            sip_limit_kbps: section.limit_kbps,
            is_stopped: false,
            ..self.clone()
        })
    }
}

/// A leg as we describe it to its peer: the numbers we receive on, and the other leg's wishes.
fn described(leg: &[LegPayload], other: &[LegPayload]) -> Vec<Payload> {
    let describe = |payload: &LegPayload| {
        let wish = other.iter().find(|p| p.codec == payload.codec);
        let wish = wish.or_else(|| other.iter().find(|p| p.codec.serves(&payload.codec)));
        let pt = payload.receive_pts.first().copied().unwrap_or(payload.send_pt);
        let own = payload.fmtp.as_deref();
        let fmtp = told_fmtp(&payload.codec, own, wish.and_then(|p| p.fmtp.as_deref()));
        Payload { pt, codec: payload.codec.clone(), fmtp, feedback: Vec::new() }
    };
    leg.iter().map(describe).collect()
}

/// The feedback that a browser may send us about this codec.
fn feedback(codec: &Codec) -> Vec<String> {
    let feedback = VIDEO_FEEDBACK.iter().filter(|_| codec.encoding.is_passed_video());
    feedback.map(|(_, words)| (*words).to_owned()).collect()
}

/// The feedback that a SIP peer takes about what we send it: named for all its payload types (`*`) or for the one in use. The
/// profile does not matter: plain-AVP phones name it, heed it and send it.
fn taken_feedback(section: &TrunkSection, sip: &[LegPayload]) -> Vec<Feedback> {
    let used = sip.first().and_then(|used| section.payloads.iter().find(|payload| payload.pt == used.send_pt));
    let values: Vec<&String> =
        section.feedback.iter().chain(used.into_iter().flat_map(|payload| &payload.feedback)).collect();
    // Further words may follow, such as "tmmbr" behind "ccm fir".
    let names = |value: &str, words: &str| {
        let mut named = value.split_ascii_whitespace();
        words.split(' ').all(|word| named.next().is_some_and(|named| named.eq_ignore_ascii_case(word)))
    };
    let is_video = section.kind == MediaKind::Video;
    let taken = VIDEO_FEEDBACK.into_iter().filter(|(_, words)| is_video && values.iter().any(|v| names(v, words)));
    taken.map(|(kind, _)| kind).collect()
}

fn has(leg: &[LegPayload], codec: &Codec) -> bool {
    leg.iter().any(|payload| payload.codec == *codec)
}

/// The one codec of `leg` for the browser's fixed codec, and its keypad events.
fn chosen_for(fixed: &LegPayload, leg: &[LegPayload], browser: &[LegPayload]) -> Option<Vec<LegPayload>> {
    let mut chosen = vec![counterpart(&fixed.codec, leg)?.clone()];
    let fitting = events(leg, &chosen, browser);
    chosen.extend(fitting);
    Some(chosen)
}

fn routes(from: &[LegPayload], to: &[LegPayload]) -> Vec<PayloadRoute> {
    let mut routes: Vec<PayloadRoute> = Vec::new();
    for source in from {
        let Some(target) = counterpart(&source.codec, to) else { continue };
        for &from_pt in &source.receive_pts {
            if routes.iter().any(|route| route.from_pt == from_pt) {
                continue;
            }
            routes.push(PayloadRoute {
                from_pt,
                from: source.codec.clone(),
                from_fmtp: source.fmtp.clone(),
                to_pt: target.send_pt,
                to: target.codec.clone(),
                to_fmtp: target.fmtp.clone(),
            });
        }
    }
    routes
}

/// What to offer a browser for an incoming call: what the SIP peer offered and browsers speak, in its order, then the other G.711
/// law where it has only one, with keypad events at their clocks; and video when the peer offered some. Without a SIP offer (an
/// INVITE without a description) it is all the sound that the operator allows.
///
/// # Errors
/// [`NegotiateError::NoCommonCodecs`], or what is wrong with the SIP peer's offer.
pub fn browser_offer(offer: Option<&TrunkDescription>, policy: &CodecPolicy) -> Result<Offered, NegotiateError> {
    let admitted = |section: &TrunkSection| answer_payloads(&section.payloads, |c| policy.admits_sip(&c.encoding));
    let audio = match offer {
        Some(offer) => admitted(offer.audio()?),
        None => policy.everything().audio,
    };
    let video = offer.and_then(TrunkDescription::video).map(admitted).unwrap_or_default();
    Ok(Offered {
        audio: browser_audio(&audio)?,
        video: browser_video(video),
        // The browser is asked only once, so all that it may ever do is offered.
        video_direction: Direction::SendRecv,
        video_feedback: Vec::new(),
    })
}

fn browser_audio(offered: &[Payload]) -> Result<Vec<Payload>, NegotiateError> {
    let mut codecs: Vec<Codec> = Vec::new();
    let counterparts = offered.iter().filter_map(|p| p.codec.encoding.g711_counterpart()).map(Codec::usual);
    let spoken = offered.iter().map(|p| p.codec.clone()).filter(|codec| codec.encoding.is_passed_audio());
    for codec in spoken.chain(counterparts) {
        if !codecs.contains(&codec) {
            codecs.push(codec);
        }
    }
    if codecs.is_empty() {
        return Err(NegotiateError::NoCommonCodecs);
    }
    let events = offered.iter().map(|p| p.codec.clone()).filter(Codec::is_telephone_event);
    let clocks: Vec<u32> = codecs.iter().map(|codec| codec.clock_hz).collect();
    codecs.extend(events.filter(|event| clocks.contains(&event.clock_hz)));
    let fmtp_of = |codec: &Codec| offered.iter().find(|p| p.codec == *codec).and_then(|p| p.fmtp.as_deref());
    Ok(codecs
        .into_iter()
        .map(|codec| Payload {
            pt: browser_number(&codec),
            fmtp: told_fmtp(&codec, None, fmtp_of(&codec)),
            codec,
            feedback: Vec::new(),
        })
        .collect())
}

fn browser_video(offered: Vec<Payload>) -> Vec<Payload> {
    let passed = offered.into_iter().filter(|p| p.codec.encoding.is_passed_video() && p.codec.is_passed());
    (BROWSER_VIDEO_FIRST..)
        .zip(passed.take(BROWSER_VIDEO_MAX))
        .map(|(pt, Payload { codec, fmtp, .. })| {
            let fmtp = told_fmtp(&codec, None, fmtp.as_deref());
            let feedback = feedback(&codec);
            Payload { pt, codec, fmtp, feedback }
        })
        .collect()
}

/// The number of a codec in our offers to browsers: the one browsers themselves use, so that logs read the same both ways.
fn browser_number(codec: &Codec) -> u8 {
    match (&codec.encoding, codec.clock_hz) {
        (Encoding::Opus, _) => 111,
        (Encoding::TelephoneEvent, 8000) => 126,
        (Encoding::TelephoneEvent, _) => 110,
        _ => super::codec::sip_number(codec),
    }
}

#[cfg(test)]
mod tests;
