//! Offer and answer (RFC 3264) as pure functions: directions, payload numbers, and the agreement between browser and SIP peer.
//!
//! Payload numbers are kept per leg and per direction: the number in a peer's description is the one *it* wants to receive, the
//! number in ours the one we receive, and a peer may choose other numbers than its offerer (RFC 3264 section 5.1).

use std::net::SocketAddr;

use gangway_shared::rcp::Feedback;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    MediaAgreement, MediaKind, MediaSide, SdpError,
    browser::BrowserMedia,
    codec::{Codec, CodecPolicy, Encoding, Payload, VIDEO_FEEDBACK, sip_number, told_fmtp},
    direction::Direction,
    leg::{LegPayload, answer_payloads},
    medium::feedback,
    repair::Repair,
    trunk::{TrunkDescription, TrunkMedia, TrunkSection},
};

/// First number of video in our offers to browsers; the numbers of audio are above all of them, because one transport carries both.
const BROWSER_VIDEO_FIRST: u8 = 96;
/// Most video payload types in one of our offers to a browser, and most taken of a SIP peer's.
const BROWSER_VIDEO_MAX: usize = 8;

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

/// The browser's half of a negotiation: what it speaks and lets us do, by medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserSide {
    /// Sound.
    pub audio: MediaSide,
    /// Pictures, when its description has a section for them that can be used.
    pub video: Option<MediaSide>,
}

impl BrowserSide {
    /// A browser that sends and receives sound alone.
    #[must_use]
    pub fn of_audio(payloads: Vec<LegPayload>) -> Self {
        BrowserSide { audio: MediaSide::new(payloads, Direction::SendRecv), video: None }
    }
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
        _ => sip_number(codec),
    }
}

#[cfg(test)]
mod tests;
