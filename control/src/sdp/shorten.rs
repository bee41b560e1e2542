//! Offers in fewer bytes: what an INVITE can do without, in the order in which it does without it.
//!
//! A request that is too long for a datagram (RFC 3261 section 18.1.1), to a peer that takes no stream, goes out with the first of
//! these that fits. Each leaves out one thing more than the one before. At the end are left one codec for sound, one for pictures
//! and the keypad events of the first; beside another codec for sound that was taken before, one law of G.711: memory is of the proxy,
//! and the next phone behind it may have nothing else. The second law of G.711 goes last: it costs 23 bytes, every phone has one of
//! the two, and a phone without the one that is left would refuse the call.

use super::{
    Offered, Payload,
    codec::{Codec, Encoding},
    h264,
};

/// What a SIP peer answered with before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// For sound.
    pub audio: Option<Codec>,
    /// For pictures.
    pub video: Option<Codec>,
}

/// An offer that leaves something out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortened {
    /// What is left.
    pub offered: Offered,
    /// What was left out so far, first thing first.
    pub without: Vec<String>,
}

impl Offered {
    /// This offer in fewer and fewer bytes, best first. What the peer took before stays to the end; of a peer that is not known it is
    /// the first law of G.711, which every phone has, and the first video codec.
    #[must_use]
    pub fn shorter(&self, taken: &Taken) -> Vec<Shortened> {
        let mut ladder = Ladder { offered: self.clone(), without: Vec::new(), steps: Vec::new() };
        ladder.step(|| "parameters of sound".to_owned(), |offered| offered.audio.iter_mut().for_each(forget_fmtp));
        ladder.step(
            || "further parameters of H264".to_owned(),
            |offered| {
                for payload in &mut offered.video {
                    if payload.codec.h264.is_some() {
                        payload.fmtp = payload.fmtp.as_deref().map(h264::essential);
                    }
                }
            },
        );
        ladder.step(|| "rtcp-fb".to_owned(), |offered| offered.video_feedback.clear());
        let is_h264 = |payload: &&Payload| payload.codec.h264.is_some();
        let kept_h264 = kept(&self.video, taken.video.as_ref()).filter(is_h264);
        let kept_h264 = kept_h264.or_else(|| self.video.iter().find(is_h264));
        for payload in self.video.iter().rev().filter(is_h264).filter(|payload| Some(*payload) != kept_h264) {
            ladder.drop_video(payload);
        }
        let sound = |payload: &&Payload| !payload.codec.is_telephone_event();
        let known = self.audio.iter().filter(sound).find(|payload| Some(&payload.codec) == taken.audio.as_ref());
        let is_law = |payload: &Payload| payload.codec.encoding.g711_counterpart().is_some();
        let g711 = || self.audio.iter().find(|payload| is_law(payload));
        let kept_sound = known.or_else(g711).or_else(|| self.audio.iter().find(sound));
        let kept_law = kept_sound.filter(|payload| is_law(payload)).or_else(g711);
        let is_kept = |payload: &&Payload| Some(*payload) == kept_sound || Some(*payload) == kept_law;
        let further: Vec<&Payload> = self.audio.iter().rev().filter(sound).filter(|p| !is_kept(p)).collect();
        let (laws, others): (Vec<&Payload>, Vec<&Payload>) = further.into_iter().partition(|payload| is_law(payload));
        others.into_iter().for_each(|payload| ladder.drop_sound(payload));
        let kept_video = kept(&self.video, taken.video.as_ref()).or(self.video.first());
        for payload in self.video.iter().rev().filter(|payload| Some(*payload) != kept_video) {
            ladder.drop_video(payload);
        }
        laws.into_iter().for_each(|payload| ladder.drop_sound(payload));
        ladder.steps
    }
}

/// The payload type of the codec that the peer took.
fn kept<'a>(video: &'a [Payload], taken: Option<&Codec>) -> Option<&'a Payload> {
    let taken = taken?;
    video.iter().find(|payload| payload.codec == *taken).or_else(|| video.iter().find(|p| p.codec.serves(taken)))
}

/// Keypad events without a list mean the keypad (RFC 4733 section 2.5.1.1); what opus has besides are wishes.
fn forget_fmtp(payload: &mut Payload) {
    payload.fmtp = None;
}

struct Ladder {
    offered: Offered,
    without: Vec<String>,
    steps: Vec<Shortened>,
}

impl Ladder {
    /// Leaves something out; no step when it was not there.
    fn step(&mut self, what: impl FnOnce() -> String, change: impl FnOnce(&mut Offered)) {
        let before = self.offered.clone();
        change(&mut self.offered);
        if self.offered != before {
            self.without.push(what());
            self.steps.push(Shortened { offered: self.offered.clone(), without: self.without.clone() });
        }
    }

    fn drop_video(&mut self, dropped: &Payload) {
        let format = dropped.codec.h264.map_or(String::new(), |format| format!(" {format}"));
        let what = || format!("{}{format}", dropped.codec.encoding.rtpmap_name());
        self.step(what, |offered| offered.video.retain(|payload| payload.pt != dropped.pt));
    }

    /// Keypad events go with the last codec of their clock (RFC 4733 section 2.1).
    fn drop_sound(&mut self, dropped: &Payload) {
        let what = || dropped.codec.encoding.rtpmap_name().to_owned();
        self.step(what, |offered| {
            offered.audio.retain(|payload| payload.pt != dropped.pt);
            let clocks: Vec<u32> = offered
                .audio
                .iter()
                .filter(|payload| payload.codec.encoding != Encoding::TelephoneEvent)
                .map(|payload| payload.codec.clock_hz)
                .collect();
            offered.audio.retain(|payload| clocks.contains(&payload.codec.clock_hz));
        });
    }
}

#[cfg(test)]
mod tests;
