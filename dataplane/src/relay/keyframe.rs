//! When a receiver of video cannot go on without a key frame, and how its source is asked for one.
//!
//! The relay asks by itself when a receiver starts (its first packet, after a hold, at another address), when the source changes,
//! and when a packet is lost for good. What peers wish comes on top. All wishes for one source are merged to one in
//! [`ASK_GAP`]; one that falls into the gap waits for its end. A key frame that passes meanwhile fulfils them. A wish can be lost too:
//! while pictures come and none is a key frame it is repeated, [`ASKS_MAX`] times at most.
//!
//! A source that takes NACKs (RFC 4585 section 6.2.1) is asked for what is missing first, and has a round trip more to send it.

use std::time::Duration;

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{Codec, Event},
    time::Time,
};

use super::{
    Now, Output, Relays,
    rewrite::{Incoming, ahead},
};
use crate::{
    arena::{PictureState, SourceMap, WholeLeg},
    wire::{h264, rtcp, vp8},
};

/// One wish for a key frame in so long goes to a source: several receivers, or a repeated PLI, are one wish.
const ASK_GAP: Duration = Duration::from_millis(500);
/// A packet that is missing for so long is lost. Reordering on real paths is over by then, and a picture that stands still for
/// less is not seen.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// So many wishes follow each other without an answer: who does not heed five seconds of them has no key frame to give.
const ASKS_MAX: u32 = 10;
/// A gap is asked for after so long: what was swapped on its way is there by then.
const SWAPPED_FOR: Duration = Duration::from_millis(10);
/// Missing packets are asked for again after the round trip, within these bounds; the upper one is also what is waited for longer.
const NACK_GAP: std::ops::RangeInclusive<Duration> = Duration::from_millis(20)..=Duration::from_millis(100);
/// So often at most for one run of loss.
const NACKS_MAX: u32 = 5;
/// The bit of [`PictureState::missing`] that stands for everything further back.
const FAR_BACK: u32 = u64::BITS - 1;

/// How the key frames of a payload type are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Pictures {
    /// Not at all: every picture may depend on those before it.
    Unknown = 0,
    /// RFC 7741.
    Vp8 = 1,
    /// RFC 6184.
    H264 = 2,
}

impl Pictures {
    pub(super) fn of(codec: &Codec) -> Self {
        match codec {
            Codec::Vp8 => Pictures::Vp8,
            Codec::H264 => Pictures::H264,
            _ => Pictures::Unknown,
        }
    }

    /// What a payload starts; `kind` is `Pictures as u8`.
    pub(super) fn sight(kind: u8, payload: &[u8]) -> Sight {
        match kind {
            kind if kind == Pictures::Vp8 as u8 && vp8::starts_key_frame(payload) => Sight::KeyFrame,
            kind if kind == Pictures::H264 as u8 => match h264::units(payload) {
                h264::Units { has_parameters: true, .. } => Sight::KeyFrame,
                h264::Units { has_idr: true, .. } => Sight::KeySlice,
                h264::Units { .. } => Sight::Other,
            },
            kind if kind == Pictures::Vp8 as u8 => Sight::Other,
            _ => Sight::Unknown,
        }
    }
}

/// What carries a wish for a key frame to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    /// RFC 4585 section 6.3.1.
    Pli,
    /// RFC 5104 section 4.3.1.
    Fir,
}

impl WholeLeg<'_> {
    /// The number of the next FIR to a source. Each is a new command: what is asked again half a second later has another reason,
    /// and a repeated number would be ignored by who has answered it (RFC 5104 section 4.3.1.1).
    fn next_command(&mut self, ssrc: u32) -> u8 {
        let sources = self.rx.iter_mut().filter(|slot| slot.used == 1 && slot.stream.ssrc() == ssrc);
        let Some(source) = sources.max_by_key(|slot| slot.epoch) else { return 0 };
        source.commands += 1;
        source.commands as u8
    }
}

/// What a payload shows of its picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// A key frame starts here.
    KeyFrame,
    /// A part of a key frame starts here, the first one or another.
    KeySlice,
    /// Nothing that helps a receiver.
    Other,
    /// Key frames of this codec are not told.
    Unknown,
}

impl PictureState {
    /// Takes note of a packet that is sent on. `before` is the route's source as it was. True when what there is to ask for, now
    /// or later, may have become more or sooner.
    pub(super) fn note(
        &mut self,
        now: Time,
        packet: Incoming,
        before: &SourceMap,
        is_switch: bool,
        sight: Sight,
    ) -> bool {
        if is_switch || self.is_joined == 0 {
            let PictureState { asked_at, patience_us, .. } = *self;
            *self = PictureState { asked_at, patience_us, is_joined: 1, ..PictureState::default() };
            self.is_wanted = u32::from(sight != Sight::KeyFrame);
            return true;
        }
        let former = (self.is_wanted, self.missing_since, self.has_near());
        if (1..ASKS_MAX).contains(&self.asks) && sight != Sight::Unknown && now >= self.gap_end(self.asked_at) {
            self.is_wanted = 1;
        }
        if packet.ssrc == before.ssrc {
            self.note_sequence(now, packet, before, sight);
        }
        let current = (self.is_wanted, self.missing_since, self.has_near());
        current != former && (self.is_wanted, self.missing_since) != (0, 0)
    }

    /// Something is missing whose number can be told.
    fn has_near(&self) -> bool {
        self.missing & !(1 << FAR_BACK) != 0
    }

    fn note_sequence(&mut self, now: Time, packet: Incoming, before: &SourceMap, sight: Sight) {
        let step = ahead(before, packet.sequence);
        let ahead = u32::try_from(step).unwrap_or(0);
        let back = if step > 0 { 0 } else { u32::from(step.unsigned_abs()).min(FAR_BACK) };
        if ahead > 0 {
            let is_far =
                self.missing.checked_shr(u64::BITS - ahead.min(u64::BITS)).unwrap_or(0) != 0 || ahead > FAR_BACK;
            let skipped = 1u64.checked_shl(ahead).unwrap_or(0).wrapping_sub(2);
            self.missing = self.missing.checked_shl(ahead).unwrap_or(0) | skipped | u64::from(is_far) << FAR_BACK;
        } else if back < FAR_BACK {
            self.missing &= !(1 << back);
        }
        // A slice without parameters is the first of its picture only when the packet before it is there and of another one.
        let is_first = step == 1 && packet.timestamp != before.timestamp;
        if sight == Sight::KeyFrame || (sight == Sight::KeySlice && is_first) {
            self.missing &= (1 << back) - 1;
            (self.is_wanted, self.missing_since, self.asks) = (0, 0, 0);
        }
        self.missing_since = match self.missing_since {
            _ if self.missing == 0 => 0,
            0 => now.as_micros() + 1,
            since => since,
        };
        if self.missing == 0 {
            (self.nacked_at, self.nacks) = (0, 0);
        }
    }

    /// Whether the packet so many numbers behind the highest is missing, as far as can be told.
    pub(super) fn is_missing(&self, back: u16) -> bool {
        u32::from(back) < FAR_BACK && self.missing >> back & 1 == 1
    }

    /// The numbers of `source` that are missing, the first one first.
    fn missing_of(&self, source: &SourceMap) -> impl Iterator<Item = u16> + use<> {
        let (missing, highest) = (*self, source.sequence as u16);
        let backs = (1..FAR_BACK as u16).rev().filter(move |back| missing.is_missing(*back));
        backs.map(move |back| highest.wrapping_sub(back))
    }

    /// When a source that takes NACKs is to be sent one. `nacked_at` (plus one) is the last it was sent.
    fn nack_due(&self, nacked_at: u64) -> Option<Time> {
        let since = self.missing_since.checked_sub(1).map(Time::from_micros)?;
        if self.nacks >= NACKS_MAX || !self.has_near() {
            return None;
        }
        let again = nacked_at.checked_sub(1).map(|at| Time::from_micros(at) + self.patience());
        Some((since + SWAPPED_FOR).max(again.unwrap_or(Time::ZERO)))
    }

    fn gap_end(&self, asked_at: u64) -> Time {
        asked_at.checked_sub(1).map_or(Time::ZERO, |at| Time::from_micros(at) + ASK_GAP)
    }

    /// When a key frame is to be asked for, of a source that was last asked at `asked_at` (plus one).
    fn due(&self, asked_at: u64) -> Option<Time> {
        let gap_ends = self.gap_end(asked_at);
        if self.is_wanted == 1 {
            return Some(gap_ends);
        }
        let lost_at =
            self.missing_since.checked_sub(1).map(|since| Time::from_micros(since) + LOST_AFTER + self.patience());
        lost_at.map(|at| at.max(gap_ends))
    }

    fn asked(&mut self, now: Time) {
        let (asked_at, asks) = (now.as_micros() + 1, self.asks.saturating_add(1));
        let PictureState { is_joined, patience_us, .. } = *self;
        *self = PictureState { asked_at, asks, is_joined, patience_us, ..PictureState::default() };
    }

    /// Takes what is known of the way to the source: whether it takes NACKs, and the round trip in microseconds plus one. What is missing
    /// already keeps its times.
    pub(super) fn set_patience(&mut self, takes_nack: bool, round_trip: u64) {
        if self.missing_since != 0 {
            return;
        }
        let round_trip = Duration::from_micros(round_trip.saturating_sub(1));
        let patience = round_trip.clamp(*NACK_GAP.start(), *NACK_GAP.end());
        self.patience_us = if takes_nack { patience.as_micros() as u32 } else { 0 };
    }

    fn patience(&self) -> Duration {
        Duration::from_micros(self.patience_us.into())
    }
}

impl Relays {
    /// The peer of `slot` wants a key frame of one of the streams it is sent.
    pub(super) fn want_keyframe(&mut self, now: Now, slot: u32, media: u32, out: &mut impl Output) {
        let streams = self.arena.out(slot);
        let stream = streams.of(media).map(|index| streams[index].route);
        let Some(route) = stream.and_then(|route| route.checked_sub(1)) else { return };
        if self.arena.route(route).is_video == 1 {
            let route = self.arena.route_mut(route);
            route.pictures.is_wanted = 1;
            let from = route.from;
            self.pursue_keyframes(now, from, out);
        }
    }

    /// See [`Relays::request_keyframe`].
    pub(super) fn ask_keyframe(&mut self, now: Now, relay: RelayId, leg: LegId, out: &mut impl Output) -> bool {
        let Some(slot) = self.slot_of(relay, leg) else { return false };
        let mut can_ask = false;
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            if self.arena.route(route).is_video == 1 && self.carrier(route).is_some() {
                can_ask = true;
                self.arena.route_mut(route).pictures.is_wanted = 1;
            }
        }
        self.pursue_keyframes(now, slot, out);
        can_ask
    }

    /// Asks for the key frames that receivers of a leg's video wait for, or sees to it that they are asked for in time.
    pub(super) fn pursue_keyframes(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        self.expire_keyframes(now, slot, out);
        self.schedule(slot);
    }

    /// Does what is due on the video that comes from a leg.
    pub(super) fn expire_keyframes(&mut self, now: Now, slot: u32, out: &mut impl Output) {
        for index in 0..self.derived[slot as usize].route_count {
            let route = self.derived[slot as usize].routes[index];
            if self.nack_due(route).is_some_and(|at| at <= now.mono) {
                self.ask_missing(now, route, out);
            }
            if self.keyframe_due(route).is_some_and(|at| at <= now.mono) {
                self.request_source(now, route, out);
            }
        }
    }

    /// The soonest time at which a key frame, or a packet again, is to be asked for of the leg's peer.
    pub(super) fn keyframes_due(&self, slot: u32) -> Option<Time> {
        let derived = &self.derived[slot as usize];
        let routes = derived.routes[..derived.route_count].iter();
        routes.flat_map(|route| [self.keyframe_due(*route), self.nack_due(*route)]).flatten().min()
    }

    fn nack_due(&self, route: u32) -> Option<Time> {
        let pictures = &self.arena.route(route).pictures;
        if pictures.missing_since == 0 || pictures.patience_us == 0 {
            return None;
        }
        let nacked_at = self.routes_of_source(route).map(|route| self.arena.route(route).pictures.nacked_at).max();
        pictures.nack_due(nacked_at.unwrap_or(0))
    }

    /// Asks the source of a route for what is missing.
    fn ask_missing(&mut self, now: Now, route: u32, out: &mut impl Output) {
        let record = self.arena.route_mut(route);
        record.pictures.nacks += 1;
        record.pictures.nacked_at = now.mono.as_micros() + 1;
        let (from, media, is_known) = (record.from, record.source.ssrc, record.source.used == 1);
        let missing = record.pictures.missing_of(&record.source);
        if is_known && self.arena.leg(from).takes_nack == 1 {
            self.send_feedback(from, out, |buffer, sender| rtcp::write_nack(buffer, sender, media, missing));
        }
    }

    fn keyframe_due(&self, route: u32) -> Option<Time> {
        let pictures = &self.arena.route(route).pictures;
        if pictures.is_wanted == 0 && pictures.missing_since == 0 {
            return None;
        }
        let asked_at = self.routes_of_source(route).map(|route| self.arena.route(route).pictures.asked_at).max();
        pictures.due(asked_at.unwrap_or(0))
    }

    /// The video routes that forward the same source as this one, itself among them.
    fn routes_of_source(&self, route: u32) -> impl Iterator<Item = u32> {
        let record = self.arena.route(route);
        let (from, ssrc) = (&self.derived[record.from as usize], record.source.ssrc);
        from.routes[..from.route_count].iter().copied().filter(move |other| {
            let other_record = self.arena.route(*other);
            *other == route || (other_record.is_video == 1 && other_record.source.ssrc == ssrc)
        })
    }

    fn request_source(&mut self, now: Now, route: u32, out: &mut impl Output) {
        let record = self.arena.route(route);
        let (from, to, ssrc) = (record.from, record.to, record.source.ssrc);
        for index in 0..self.derived[from as usize].route_count {
            let other = self.derived[from as usize].routes[index];
            let other_record = self.arena.route_mut(other);
            if other == route || (other_record.is_video == 1 && other_record.source.ssrc == ssrc) {
                other_record.pictures.asked(now.mono);
            }
        }
        match self.carrier(route) {
            Some(carrier) => self.send_wish(from, ssrc, carrier, out),
            // What no packet can carry, signalling can; browsers know no other way than packets.
            None if !self.arena.leg(from).is_ice() => {
                let (relay, leg) = self.name_of(to);
                out.event(Event::KeyframeWanted { relay, leg });
            }
            None => {}
        }
    }

    /// The packet that can carry a wish to a route's source: one is known, reports reach it, and it understands feedback. Browsers
    /// do, of SIP peers those whose program says so (RFC 4585 section 4).
    fn carrier(&self, route: u32) -> Option<Carrier> {
        let route = self.arena.route(route);
        let leg = self.arena.leg(route.from);
        let is_known = route.source.used == 1 || route.former.used == 1;
        let has_keys = !leg.is_encrypted() || self.derived[route.from as usize].tx.is_some();
        let is_reached = is_known && has_keys && leg.rtcp_target().is_ok();
        match (leg.is_ice() || leg.takes_pli == 1, leg.takes_fir == 1) {
            (true, _) if is_reached => Some(Carrier::Pli),
            (false, true) if is_reached => Some(Carrier::Fir),
            _ => None,
        }
    }

    fn send_wish(&mut self, slot: u32, media: u32, carrier: Carrier, out: &mut impl Output) {
        let command = match carrier {
            Carrier::Pli => 0,
            Carrier::Fir => self.arena.whole_leg(slot).next_command(media),
        };
        self.send_feedback(slot, out, |buffer, sender| match carrier {
            Carrier::Pli => rtcp::write_pli(buffer, sender, media),
            Carrier::Fir => rtcp::write_fir(buffer, sender, media, command),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A route's pictures, fed with numbers of one source.
    struct Watch {
        state: PictureState,
        source: SourceMap,
        ms: u64,
    }

    impl Watch {
        /// A receiver that has a key frame with number 1000.
        fn started() -> Self {
            let source = SourceMap { used: 1, ssrc: 7, sequence: 1000, timestamp: 1000, ..SourceMap::default() };
            Watch { state: PictureState { is_joined: 1, ..PictureState::default() }, source, ms: 0 }
        }

        /// One packet a frame: the timestamp is the number.
        fn feed(&mut self, sequence: u16, sight: Sight) -> bool {
            self.feed_of(sequence, u32::from(sequence), sight)
        }

        fn feed_of(&mut self, sequence: u16, timestamp: u32, sight: Sight) -> bool {
            let packet = Incoming { ssrc: 7, sequence, timestamp, clock: 90_000, is_event: false, insert: 0 };
            let news = self.state.note(Time::from_millis(self.ms), packet, &self.source, false, sight);
            if ahead(&self.source, sequence) > 0 {
                (self.source.sequence, self.source.timestamp) = (sequence.into(), timestamp);
            }
            news
        }

        fn due_ms(&self) -> Option<u64> {
            self.state.due(self.state.asked_at).map(|at| at.as_micros() / 1000)
        }
    }

    #[test]
    fn a_gap_is_given_up_after_a_while_unless_it_is_filled() {
        let mut watch = Watch::started();
        watch.ms = 10;
        assert!(watch.feed(1003, Sight::Other));
        assert_eq!(watch.due_ms(), Some(110));
        watch.ms = 50;
        assert!(!watch.feed(1001, Sight::Other));
        assert_eq!(watch.due_ms(), Some(110), "one is still missing");
        assert!(!watch.feed(1002, Sight::Other));
        assert_eq!(watch.due_ms(), None);
    }

    #[test]
    fn a_gap_further_back_than_can_be_told_is_lost() {
        for step in [62, 63, 64, 65, 2000] {
            let mut watch = Watch::started();
            watch.feed(1002, Sight::Other);
            watch.feed(1002 + step, Sight::Other);
            for sequence in 1001..1002 + step {
                watch.feed(sequence, Sight::Other);
            }
            assert_eq!(watch.due_ms().is_some(), step >= 62, "{step}");
        }
        let mut watch = Watch::started();
        watch.feed(1040, Sight::Other);
        (1001..1040).for_each(|sequence| assert!(!watch.feed(sequence, Sight::Other)));
        assert_eq!(watch.due_ms(), None);
    }

    #[test]
    fn a_key_frame_makes_up_for_what_was_lost_before_it_alone() {
        let mut watch = Watch::started();
        watch.feed(1003, Sight::Other);
        watch.feed(1004, Sight::KeyFrame);
        assert_eq!(watch.due_ms(), None);
        watch.ms = 5;
        watch.feed(1007, Sight::Other);
        watch.feed(1005, Sight::KeyFrame);
        assert_eq!(watch.due_ms(), Some(105), "1006 is missing");
        watch.feed(1006, Sight::KeyFrame);
        assert_eq!(watch.due_ms(), None);
    }

    #[test]
    fn a_later_slice_of_a_key_frame_does_not_make_up_for_the_first() {
        let mut watch = Watch::started();
        watch.feed_of(1002, 77, Sight::KeySlice);
        watch.feed_of(1003, 77, Sight::KeySlice);
        assert!(watch.due_ms().is_some(), "1001 may have been its first");
        watch.feed_of(1004, 78, Sight::KeySlice);
        assert_eq!(watch.due_ms(), None);
    }

    #[test]
    fn a_receiver_that_starts_wants_a_key_frame_unless_it_starts_with_one() {
        let packet = Incoming { ssrc: 7, sequence: 1, timestamp: 1, clock: 90_000, is_event: false, insert: 0 };
        for (sight, is_wanted) in [(Sight::KeyFrame, 0), (Sight::KeySlice, 1), (Sight::Other, 1)] {
            let mut state = PictureState::default();
            assert!(state.note(Time::ZERO, packet, &SourceMap::default(), true, sight));
            assert_eq!(state.is_wanted, is_wanted, "{sight:?}");
        }
    }

    #[test]
    fn missing_packets_are_asked_for_at_once_then_each_round_trip_and_five_times_at_most() {
        let mut watch = Watch::started();
        watch.state.set_patience(true, 50_001);
        let due_ms = |watch: &Watch| watch.state.nack_due(watch.state.nacked_at).map(|at| at.as_micros() / 1000);
        watch.ms = 7;
        assert!(watch.feed(1003, Sight::Other));
        assert_eq!(watch.state.missing_of(&watch.source).collect::<Vec<_>>(), [1001, 1002]);
        assert_eq!(due_ms(&watch), Some(17), "they may only have been swapped");
        for number in 1..=NACKS_MAX {
            (watch.state.nacks, watch.state.nacked_at) = (number, 17_001);
            assert_eq!(due_ms(&watch), (number < NACKS_MAX).then_some(67));
        }
        watch.feed(1001, Sight::Other);
        watch.feed(1002, Sight::Other);
        assert_eq!((watch.state.nacks, watch.state.nacked_at, due_ms(&watch)), (0, 0, None), "all came");
        assert_eq!(watch.state.due(0), None);
        watch.feed(1066, Sight::Other);
        assert_eq!(watch.state.missing_of(&watch.source).count(), 62);
        watch.feed(1100, Sight::KeyFrame);
        assert_eq!(due_ms(&watch), None);
    }

    #[test]
    fn a_wish_is_repeated_while_pictures_come_until_one_is_a_key_frame() {
        let mut watch = Watch::started();
        let mut asked = Vec::new();
        let mut run = |watch: &mut Watch, ms: std::ops::Range<u64>, sight| {
            asked.clear();
            for now in ms.step_by(100) {
                watch.ms = now;
                watch.feed(watch.source.sequence as u16 + 1, sight);
                if watch.due_ms().is_some_and(|due| due <= now) {
                    watch.state.asked(Time::from_millis(now));
                    asked.push(now);
                }
            }
            asked.clone()
        };
        watch.state.is_wanted = 1;
        assert_eq!(run(&mut watch, 0..1500, Sight::Other), [0, 500, 1000]);
        assert_eq!(run(&mut watch, 1500..1600, Sight::KeyFrame), Vec::<u64>::new());
        assert_eq!(run(&mut watch, 1600..4000, Sight::Other), Vec::<u64>::new());
        watch.state.is_wanted = 1;
        assert_eq!(run(&mut watch, 10_000..60_000, Sight::Other).len(), ASKS_MAX as usize);
        watch.feed(watch.source.sequence as u16 + 1, Sight::KeyFrame);
        watch.state.is_wanted = 1;
        assert_eq!(run(&mut watch, 70_000..80_000, Sight::Unknown), [70_000], "nobody could tell when to stop");
    }

    #[test]
    fn wishes_of_one_gap_are_asked_for_at_its_end() {
        let mut state = PictureState { is_wanted: 1, ..PictureState::default() };
        assert_eq!(state.due(0), Some(Time::ZERO));
        state.asked(Time::from_millis(1000));
        assert_eq!(state.due(state.asked_at), None);
        state.is_wanted = 1;
        assert_eq!(state.due(state.asked_at), Some(Time::from_millis(1500)));
    }
}
