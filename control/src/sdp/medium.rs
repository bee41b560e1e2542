//! One medium of a call: what its browser does, and what browser and SIP peer agreed on for it.

use std::net::SocketAddr;

use gangway_shared::rcp::Feedback;
use serde::{Deserialize, Serialize};

use super::{
    Codec, CodecPolicy, LegPayload, MediaKind, NegotiateError, Payload, PayloadRoute, Repair,
    codec::{VIDEO_FEEDBACK, sip_number, told_fmtp},
    direction::{Direction, answer_direction},
    leg::{
        RECEIVE_NUMBERS_MAX, answer_payloads, answered_leg, chosen_for, counterpart, described, events, has, is_media,
        offered_leg, routes,
    },
    trunk::TrunkSection,
};

/// Where a SIP peer wants its media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaTarget {
    /// Address of RTP.
    pub rtp: SocketAddr,
    /// Address of RTCP: `a=rtcp` (RFC 3605) or the next port.
    pub rtcp: SocketAddr,
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

impl MediaAgreement {
    pub(super) fn answered_by_sip(
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

    pub(super) fn answering_sip(
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

    pub(super) fn reoffered_by_sip(
        &self,
        section: &TrunkSection,
        policy: &CodecPolicy,
        wanted: Direction,
    ) -> Result<Self, NegotiateError> {
        let leg = offered_leg(&answer_payloads(&section.payloads, |codec| policy.admits_sip(&codec.encoding)));
        let sip = chosen_for(self.fixed(), &leg, &self.browser).ok_or_else(|| self.missing())?;
        self.replaced(sip, section, wanted)
    }

    pub(super) fn reanswered_by_sip(
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
    pub(super) fn stopped(&self) -> Self {
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
            let pt = known.unwrap_or_else(|| self.free_number(sip_number(&codec), &offer));
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

/// The feedback that a browser may send us about this codec.
pub(super) fn feedback(codec: &Codec) -> Vec<String> {
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
