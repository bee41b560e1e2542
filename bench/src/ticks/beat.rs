//! What a stream's packets should have kept to, and by how much they missed it.
//!
//! The packets of a stretch of silence are due a packet time apart, and their timestamps say which is which; those of a digit have one
//! timestamp, and say how long it has lasted. The earliest packet of a stretch gives its phase: nothing leaves before its time, so what
//! others are later than that is their error.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Time from packet to packet of a digit, milliseconds.
const EVENT_STEP_MS: u16 = 20;
/// Ticks of the clock of 8 kHz in a millisecond.
const TICKS_PER_MS: u32 = 8;
const NS_PER_MS: u64 = 1_000_000;
/// Stretches of fewer packets have no phase to speak of.
const STRETCH_MIN: usize = 5;
/// Larger errors are told as this, in nanoseconds.
const ERROR_MAX_NS: u64 = 60_000_000_000;
/// Parts of the packet time, by which the spread is told.
const PARTS: usize = 20;

/// What of a packet tells the beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When the kernel took it.
    pub at_ns: u64,
    /// Its number.
    pub sequence: u16,
    /// Its timestamp.
    pub timestamp: u32,
    /// Of a digit, not of silence.
    pub is_event: bool,
    /// How long the digit has lasted, in ticks.
    pub lasted: u16,
    /// Tells its end, which is told three times: only its number counts.
    pub is_end: bool,
}

/// Everything that was heard, by stream.
#[derive(Debug)]
pub struct Beats {
    streams: Vec<Vec<Heard>>,
    /// From packet to packet of silence.
    ptime_ms: u16,
}

/// By how much packets missed their beat, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Punctuality {
    /// Packets.
    pub packets: u64,
    /// Half of them missed it by no more.
    pub p50_ms: f64,
    /// 99 % of them.
    pub p99_ms: f64,
    /// 99.9 % of them.
    pub p999_ms: f64,
    /// All of them.
    pub max_ms: f64,
}

/// How the streams' phases lie in the packet time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Share of the streams in the fullest of twenty parts of the packet time; 0.05 when they are even.
    pub fullest: f64,
    /// In the emptiest.
    pub emptiest: f64,
}

/// What is found in what was heard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Found {
    /// Streams with packets.
    pub heard: usize,
    /// Packets.
    pub packets: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Beats without a packet between packets that follow each other.
    pub left_out: u64,
    /// Of silence.
    pub silence: Punctuality,
    /// Of digits.
    pub events: Punctuality,
    /// Of all streams by their last stretch of silence.
    pub spread: Spread,
}

impl Beats {
    /// For streams `0..streams` with a packet of silence each `ptime_ms`.
    #[must_use]
    pub fn new(streams: u32, ptime_ms: u16) -> Self {
        Beats { streams: (0..streams).map(|_| Vec::new()).collect(), ptime_ms }
    }

    /// Milliseconds from packet to packet of a stretch that begins with `first`.
    fn step_ms(&self, first: Heard) -> u16 {
        if first.is_event { EVENT_STEP_MS } else { self.ptime_ms }
    }

    /// A packet came; one of an unknown stream is passed over.
    pub fn note(&mut self, stream: u32, heard: Heard) {
        if let Some(stream) = self.streams.get_mut(stream as usize) {
            stream.push(heard);
        }
    }

    /// Looks through all of it.
    #[must_use]
    pub fn find(&self) -> Found {
        let mut found = Found::default();
        let [mut silence, mut events] =
            [(); 2].map(|()| Histogram::<u64>::new_with_max(ERROR_MAX_NS, 3).expect("it is more than two"));
        let mut parts = [0u64; PARTS];
        for stream in self.streams.iter().filter(|stream| !stream.is_empty()) {
            found.heard += 1;
            found.packets += stream.len() as u64;
            let mut phase = None;
            for stretch in stream.chunk_by(|a, b| belong_together(*a, *b)) {
                let step_ms = self.step_ms(stretch[0]);
                found.left_out += left_out(stretch, step_ms);
                if stretch.len() < STRETCH_MIN {
                    continue;
                }
                let offsets: Vec<u64> = offsets(stretch, step_ms).collect();
                let earliest = offsets.iter().copied().min().unwrap_or(0);
                let errors = if stretch[0].is_event { &mut events } else { &mut silence };
                offsets.iter().for_each(|offset| errors.saturating_record(offset - earliest));
                phase = if stretch[0].is_event { phase } else { Some(earliest % (u64::from(step_ms) * NS_PER_MS)) };
            }
            found.lost +=
                stream.windows(2).map(|pair| u64::from(step(pair[0], pair[1]).saturating_sub(1))).sum::<u64>();
            if let Some(phase) = phase {
                parts[(phase * PARTS as u64 / (u64::from(self.ptime_ms) * NS_PER_MS)) as usize] += 1;
            }
        }
        (found.silence, found.events) = (punctuality(&silence), punctuality(&events));
        let all = parts.iter().sum::<u64>().max(1) as f64;
        let share = |part: Option<&u64>| part.copied().unwrap_or(0) as f64 / all;
        found.spread = Spread { fullest: share(parts.iter().max()), emptiest: share(parts.iter().min()) };
        found
    }
}

/// By how much the number of `after` is ahead of that of `before`.
fn step(before: Heard, after: Heard) -> u16 {
    after.sequence.wrapping_sub(before.sequence)
}

fn belong_together(before: Heard, after: Heard) -> bool {
    before.is_event == after.is_event && (!before.is_event || before.timestamp == after.timestamp)
}

/// The beats since the stretch's first packet at which one of its packets is due.
fn beat(first: Heard, packet: Heard, step_ms: u16) -> u64 {
    let passed = if first.is_event {
        u32::from(packet.lasted.saturating_sub(first.lasted))
    } else {
        packet.timestamp.wrapping_sub(first.timestamp)
    };
    let step = u32::from(step_ms) * TICKS_PER_MS;
    u64::from((passed + step / 2) / step)
}

/// When the first packet of a stretch would have come by the time of each of them.
fn offsets(stretch: &[Heard], step_ms: u16) -> impl Iterator<Item = u64> + '_ {
    let first = stretch[0];
    let step_ns = u64::from(step_ms) * NS_PER_MS;
    stretch
        .iter()
        .filter(|packet| !packet.is_end)
        .map(move |packet| packet.at_ns.saturating_sub(beat(first, *packet, step_ms) * step_ns))
}

/// Beats of a stretch of silence that have no packet and whose numbers were given to none.
fn left_out(stretch: &[Heard], step_ms: u16) -> u64 {
    let pairs = stretch.windows(2).filter(|pair| !pair[0].is_event);
    pairs.map(|pair| beat(pair[0], pair[1], step_ms).saturating_sub(step(pair[0], pair[1]).into())).sum()
}

fn punctuality(errors: &Histogram<u64>) -> Punctuality {
    let ms = |ns: u64| ns as f64 / 1e6;
    Punctuality {
        packets: errors.len(),
        p50_ms: ms(errors.value_at_quantile(0.5)),
        p99_ms: ms(errors.value_at_quantile(0.99)),
        p999_ms: ms(errors.value_at_quantile(0.999)),
        max_ms: ms(errors.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;
    const STEP_NS: u64 = 20 * NS_PER_MS;
    const STEP_TICKS: u32 = 20 * TICKS_PER_MS;

    /// Packet `number` of a silence that began a second after the clock, `late_us` behind its beat.
    fn silence(number: u16, late_us: u64) -> Heard {
        let at_ns = SECOND_NS + u64::from(number) * STEP_NS + late_us * 1000;
        Heard {
            at_ns,
            sequence: 65_530u16.wrapping_add(number),
            timestamp: 0xffff_ff00u32.wrapping_add(u32::from(number) * STEP_TICKS),
            is_event: false,
            lasted: 0,
            is_end: false,
        }
    }

    fn found(stream: impl IntoIterator<Item = Heard>) -> Found {
        let mut beats = Beats::new(2, 20);
        stream.into_iter().for_each(|heard| beats.note(1, heard));
        beats.note(2, silence(0, 0));
        beats.find()
    }

    #[test]
    fn errors_are_told_against_the_earliest_packet() {
        let found = found((0..1000).map(|number| silence(number, if number == 500 { 3000 } else { 100 })));
        assert_eq!((found.heard, found.packets, found.lost, found.left_out), (1, 1000, 0, 0));
        let Punctuality { packets, p50_ms, p99_ms, max_ms, .. } = found.silence;
        assert_eq!((packets, p50_ms, p99_ms), (1000, 0.0, 0.0));
        assert!((max_ms - 2.9).abs() < 0.01, "{max_ms}");
    }

    #[test]
    fn drift_is_an_error() {
        let found = found((0..1000).map(|number| silence(number, 10 * u64::from(number))));
        assert!((found.silence.p50_ms - 5.0).abs() < 0.1, "{:?}", found.silence);
    }

    #[test]
    fn what_was_lost_and_what_was_left_out_are_two_things() {
        let lost = found((0..100).filter(|number| number % 10 != 5).map(|number| silence(number, 0)));
        assert_eq!((lost.lost, lost.left_out), (10, 0));
        let skipped = (0..100u16).map(|number| {
            let beat = number + if number >= 50 { 7 } else { 0 };
            Heard { sequence: number, ..silence(beat, 0) }
        });
        let skipped = found(skipped);
        assert_eq!((skipped.lost, skipped.left_out, skipped.silence.max_ms), (0, 7, 0.0));
    }

    #[test]
    fn a_digit_keeps_a_beat_of_its_own() {
        // Three beats of the digit are left out, and its end is told three times.
        let event = |number: u16, late_us: u64| {
            let beat = number - 20 + if number > 23 { 3 } else { 0 };
            let place = silence(20 + beat, late_us + 7000);
            let lasted = (160 * (beat + 1)).min(1600);
            Heard {
                sequence: silence(number, 0).sequence,
                timestamp: 5,
                is_event: true,
                lasted,
                is_end: beat >= 9,
                ..place
            }
        };
        let stream = (0..50).map(|number| match number {
            20..29 => event(number, if number == 25 { 1000 } else { 0 }),
            _ => silence(number, 0),
        });
        let found = found(stream);
        assert_eq!((found.lost, found.silence.packets, found.silence.max_ms), (0, 41, 0.0));
        assert_eq!(found.events.packets, 6);
        assert!((found.events.max_ms - 1.0).abs() < 0.01, "{:?}", found.events);
    }

    #[test]
    fn streams_that_beat_together_are_told_from_those_that_are_spread() {
        let spread = |step_us: u64| {
            let mut beats = Beats::new(40, 20);
            for stream in 0..40u32 {
                (0..10).for_each(|number| beats.note(stream, silence(number, u64::from(stream) * step_us)));
            }
            beats.find().spread
        };
        assert_eq!(spread(500), Spread { fullest: 0.05, emptiest: 0.05 });
        assert_eq!(spread(0), Spread { fullest: 1.0, emptiest: 0.0 });
    }

    #[test]
    fn silence_keeps_to_its_own_packet_time() {
        let found = |ptime_ms| {
            let mut beats = Beats::new(1, ptime_ms);
            (0..10).for_each(|number| beats.note(0, Heard { sequence: number, ..silence(2 * number, 0) }));
            beats.find()
        };
        assert_eq!((found(40).left_out, found(40).silence.max_ms), (0, 0.0));
        assert_eq!(found(20).left_out, 9, "every other one is missing");
    }
}
