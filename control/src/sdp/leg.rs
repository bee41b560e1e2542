//! The codecs of one leg with their numbers in both directions, and the payload map from one leg to another.

use serde::{Deserialize, Serialize};

use super::{Codec, Payload, codec::told_fmtp};

/// Most numbers under which one codec of one leg is taken: the negotiated one and the one before it, or the one that the peer
/// wrote. A payload map of the relay holds sixteen entries.
pub(super) const RECEIVE_NUMBERS_MAX: usize = 2;

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

/// The payload of `leg` that takes `codec`: the same codec, the other G.711 law, or H.264 that its decoder takes as well.
pub(super) fn counterpart<'a>(codec: &Codec, leg: &'a [LegPayload]) -> Option<&'a LegPayload> {
    let mapped = codec.encoding.g711_counterpart().map(Codec::usual);
    let find = |wanted: &Codec| leg.iter().find(|payload| payload.codec == *wanted);
    let served = || leg.iter().find(|payload| codec.serves(&payload.codec));
    find(codec).or_else(|| mapped.as_ref().and_then(find)).or_else(served)
}

/// Whether it carries the medium itself, and not keypad events beside it.
pub(super) fn is_media(payload: &LegPayload) -> bool {
    payload.codec.is_passed() && !payload.codec.is_telephone_event()
}

/// Keypad events of `leg` that fit its audio: at the clock of one of its codecs (RFC 4733 section 2.1), or, where there is none,
/// at a clock that the other leg has too, which is what Firefox and older PBXs mean by opus with telephone-event/8000.
pub(super) fn events(leg: &[LegPayload], audio: &[LegPayload], other: &[LegPayload]) -> Vec<LegPayload> {
    let all = || leg.iter().filter(|payload| payload.codec.is_telephone_event());
    let fitting: Vec<LegPayload> =
        all().filter(|event| audio.iter().any(|a| a.codec.clock_hz == event.codec.clock_hz)).cloned().collect();
    if fitting.is_empty() {
        all().filter(|event| other.iter().any(|payload| payload.codec == event.codec)).cloned().collect()
    } else {
        fitting
    }
}

/// A leg as we describe it to its peer: the numbers we receive on, and the other leg's wishes.
pub(super) fn described(leg: &[LegPayload], other: &[LegPayload]) -> Vec<Payload> {
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

pub(super) fn has(leg: &[LegPayload], codec: &Codec) -> bool {
    leg.iter().any(|payload| payload.codec == *codec)
}

/// The one codec of `leg` for the browser's fixed codec, and its keypad events.
pub(super) fn chosen_for(fixed: &LegPayload, leg: &[LegPayload], browser: &[LegPayload]) -> Option<Vec<LegPayload>> {
    let mut chosen = vec![counterpart(&fixed.codec, leg)?.clone()];
    let fitting = events(leg, &chosen, browser);
    chosen.extend(fitting);
    Some(chosen)
}

pub(super) fn routes(from: &[LegPayload], to: &[LegPayload]) -> Vec<PayloadRoute> {
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
