//! Numbers of what is sent: one SSRC with unbroken sequence numbers and timestamps, whatever the source does.
//!
//! While a source goes on, its numbers are moved by constant offsets, so that loss and reordering stay visible to the receiver.
//! A new source (another SSRC, or numbers that jump) follows the last packet sent: the next sequence number, and a timestamp moved
//! on by the time that passed. Late packets of the source before still find their place.

use std::time::Duration;

use gangway_shared::time::Time;

use super::table::mix;
use crate::{
    arena::{OutStream, SourceMap, step},
    wire::DropReason,
};

/// A step ahead by more is a restart, not loss (RFC 3550 appendix A.1).
pub(super) const MAX_DROPOUT: i16 = 3000;
/// A step back by more is a restart, not reordering (RFC 3550 appendix A.1).
pub(super) const MAX_MISORDER: i16 = 100;
/// A source that was replaced may still have packets under way for so long.
const FORMER_FOR: Duration = Duration::from_secs(1);
/// Timestamps that leave the clock by more seconds than this belong to another sampling instant, not to a pause or a burst.
const JUMP_S: i64 = 2;

/// What is read of a packet that comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    /// Its source.
    pub(super) ssrc: u32,
    /// Its sequence number.
    pub(super) sequence: u16,
    /// Its timestamp.
    pub(super) timestamp: u32,
    /// Clock of its payload type in Hz.
    pub(super) clock: u32,
    /// A telephone event: its timestamp stands still for as long as the key is pressed.
    pub(super) is_event: bool,
    /// So many packets of the relay's own making are to go before it, if it is the newest of its source.
    pub(super) insert: u16,
}

/// What a packet leaves with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Sequence number.
    pub(super) sequence: u16,
    /// Timestamp.
    pub(super) timestamp: u32,
    /// The source changed here: an audio packet gets the marker bit (RFC 3551 section 4.1).
    pub(super) is_switch: bool,
    /// No packet behind it was sent yet.
    pub(super) is_newest: bool,
    /// So many numbers before its own are free for packets of the relay's own making.
    pub(super) inserted: u16,
}

/// Clock ticks in a span of time.
pub(super) fn ticks(span: Duration, clock: u32) -> u32 {
    (span.as_micros() * u128::from(clock) / 1_000_000) as u32
}

/// How far a number lies ahead of a source's highest.
pub(super) fn ahead(of: &SourceMap, sequence: u16) -> i16 {
    sequence.wrapping_sub(of.sequence as u16).cast_signed()
}

/// Whether a packet that is not ahead lies within what `source` covers: not before the first packet of its mapping, where the
/// numbers of the source before it are.
fn is_covered(source: &SourceMap, step: i16) -> bool {
    step <= 0 && u32::from(step.unsigned_abs()) <= source.span
}

impl SourceMap {
    fn map(&self, packet: Incoming) -> Outgoing {
        Outgoing {
            sequence: packet.sequence.wrapping_add(self.sequence_offset as u16),
            timestamp: packet.timestamp.wrapping_add(self.timestamp_offset),
            is_switch: false,
            is_newest: false,
            inserted: 0,
        }
    }
}

/// Gives the numbers that a packet leaves with and moves the state on. `seed` makes the first numbers of a stream unpredictable.
///
/// # Errors
/// `SequenceStale` for a packet from before its source was joined: its number was given to another packet.
pub(super) fn rewrite(
    now: Time,
    source: &mut SourceMap,
    former: &mut SourceMap,
    stream: &mut OutStream,
    seed: u64,
    packet: Incoming,
) -> Result<Outgoing, DropReason> {
    if source.used == 1 && source.ssrc == packet.ssrc {
        let step = ahead(source, packet.sequence);
        if is_covered(source, step) {
            return Ok(source.map(packet));
        }
        if (1..=MAX_DROPOUT).contains(&step) {
            return Ok(go_on(now, source, former, stream, packet, step));
        }
        if (-MAX_MISORDER..=0).contains(&step) {
            // Before packets that were inserted, the same source has another offset.
            let step = ahead(former, packet.sequence);
            let is_before = former.used == 1 && former.ssrc == packet.ssrc && is_covered(former, step);
            return if is_before { Ok(former.map(packet)) } else { Err(DropReason::SequenceStale) };
        }
    }
    let is_former = former.used == 1 && former.ssrc == packet.ssrc;
    if is_former && now.since(Time::from_micros(former.at)) < FORMER_FOR {
        let step = ahead(former, packet.sequence);
        if is_covered(former, step) {
            return Ok(former.map(packet));
        }
        // Behind the switch, but by too little to be the source coming back: its place is taken.
        if packet.ssrc != source.ssrc && (1..=MAX_MISORDER).contains(&step) && is_recent(now, former) {
            return Err(DropReason::SequenceStale);
        }
    }
    Ok(switch(now, source, former, stream, seed, packet))
}

/// Packets of a replaced source that were sent before the switch can arrive behind it for about so long. Later ones mean that
/// the source is back.
fn is_recent(now: Time, former: &SourceMap) -> bool {
    now.since(Time::from_micros(former.at)) < Duration::from_millis(100)
}

fn go_on(
    now: Time,
    source: &mut SourceMap,
    former: &mut SourceMap,
    stream: &mut OutStream,
    packet: Incoming,
    step: i16,
) -> Outgoing {
    let mut is_switch = false;
    let advance = packet.timestamp.wrapping_sub(source.timestamp).cast_signed();
    if advance != 0 && !packet.is_event && is_jump(now, source, packet, i64::from(advance)) {
        let timestamp = next_timestamp(now, stream, packet.clock);
        source.timestamp_offset = timestamp.wrapping_sub(packet.timestamp);
        is_switch = true;
    }
    if is_switch || advance > 0 {
        source.timestamp = packet.timestamp;
        source.at = now.as_micros();
    }
    source.sequence = packet.sequence.into();
    source.span = (source.span + u32::from(step.unsigned_abs())).min(u32::from(MAX_MISORDER.unsigned_abs()));
    if packet.insert > 0 {
        make_room(now, source, former, packet.insert);
    }
    let outgoing = Outgoing { is_switch, is_newest: true, inserted: packet.insert, ..source.map(packet) };
    note_sent(now, stream, outgoing, packet.clock, is_switch || advance > 0);
    outgoing
}

/// Moves the source on by `count` numbers from its newest packet on. What it numbered before that keeps its place.
fn make_room(now: Time, source: &mut SourceMap, former: &mut SourceMap, count: u16) {
    let before = (source.sequence as u16).wrapping_sub(1);
    *former = SourceMap { at: now.as_micros(), sequence: before.into(), span: source.span - 1, ..*source };
    source.sequence_offset = source.sequence_offset.wrapping_add(count.into());
    source.span = 0;
}

/// A pause moves timestamp and time alike; a burst moves the timestamp little. What does neither is another clock.
fn is_jump(now: Time, source: &SourceMap, packet: Incoming, advance: i64) -> bool {
    let passed = now.since(Time::from_micros(source.at)).as_micros() as i64 * i64::from(packet.clock) / 1_000_000;
    let tolerance = JUMP_S * i64::from(packet.clock);
    advance.abs() > tolerance && (advance - passed).abs() > tolerance
}

/// The timestamp of what follows the newest packet without being of its source: moved on by the time that passed, but not into
/// the sound of a packet that the relay made. By how much that runs ahead of time is caught up at the next occasion.
fn next_timestamp(now: Time, stream: &mut OutStream, clock: u32) -> u32 {
    let passed = ticks(now.since(Time::from_micros(stream.sent_at.saturating_sub(1))), clock);
    let (lasts, lead) = if stream.clock == clock { (stream.lasts, stream.lead) } else { (0, 0) };
    let step = passed.saturating_sub(lead).max(lasts).max(1);
    stream.lead = lead.saturating_add(step).saturating_sub(passed);
    stream.timestamp.wrapping_add(step)
}

/// The numbers of what follows the newest packet, or those of a stream's first packet.
fn next_numbers(now: Time, stream: &mut OutStream, seed: u64, clock: u32) -> (u16, u32) {
    if stream.sent_at == 0 {
        // Below 2^15, so that a receiver that misses the first packets does not guess a wrong rollover (RFC 3711 section 3.3.1);
        // far enough above 0 for packets that overtook the first one.
        let start = mix(seed ^ u64::from(stream.tx.ssrc()));
        return (0x100 + (start as u16 & 0x3fff), (start >> 32) as u32);
    }
    ((stream.sequence as u16).wrapping_add(1), next_timestamp(now, stream, clock))
}

/// What is known of a packet that the relay makes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// Clock of its payload type in Hz.
    pub(super) clock: u32,
    /// Time since the packet that was made before it; absent: it is the first since the source gave its last.
    pub(super) follows: Option<Duration>,
    /// How much time its sound takes.
    pub(super) lasts: Duration,
}

/// Gives the numbers of a packet that the relay makes itself, and moves the state on. The source, if there was one, has ended
/// here: its next packet follows what was made, as that of a new one would; late ones of before still find their place.
pub(super) fn append(
    now: Time,
    source: &mut SourceMap,
    former: &mut SourceMap,
    stream: &mut OutStream,
    seed: u64,
    made: Made,
) -> Outgoing {
    end_source(now, source, former);
    let (sequence, timestamp) = match made.follows.filter(|_| stream.sent_at != 0) {
        Some(step) => {
            let step = ticks(step, made.clock);
            ((stream.sequence as u16).wrapping_add(1), stream.timestamp.wrapping_add(step))
        }
        None => next_numbers(now, stream, seed, made.clock),
    };
    let is_switch = made.follows.is_none();
    let outgoing = Outgoing { sequence, timestamp, is_switch, is_newest: true, inserted: 0 };
    note_sent(now, stream, outgoing, made.clock, true);
    stream.lasts = ticks(made.lasts, made.clock);
    outgoing
}

fn end_source(now: Time, source: &mut SourceMap, former: &mut SourceMap) {
    if source.used == 1 {
        *former = SourceMap { at: now.as_micros(), ..*source };
        source.used = 0;
    }
}

/// As [`append`], for a packet of a telephone event: all packets of one event have the timestamp of its beginning (RFC 4733 section
/// 2.2). `so_far` is how long it has lasted: what follows it begins behind that.
pub(super) fn append_event(
    now: Time,
    source: &mut SourceMap,
    former: &mut SourceMap,
    stream: &mut OutStream,
    seed: u64,
    (clock, so_far): (u32, Duration),
    is_first: bool,
) -> Outgoing {
    end_source(now, source, former);
    let (sequence, timestamp) = if is_first {
        next_numbers(now, stream, seed, clock)
    } else {
        ((stream.sequence as u16).wrapping_add(1), stream.timestamp)
    };
    let outgoing = Outgoing { sequence, timestamp, is_switch: is_first, is_newest: true, inserted: 0 };
    note_sent(now, stream, outgoing, clock, is_first);
    stream.lasts = ticks(so_far, clock);
    outgoing
}

fn switch(
    now: Time,
    source: &mut SourceMap,
    former: &mut SourceMap,
    stream: &mut OutStream,
    seed: u64,
    packet: Incoming,
) -> Outgoing {
    let is_first = stream.sent_at == 0;
    if source.used == 1 {
        *former = SourceMap { at: now.as_micros(), ..*source };
    }
    // Packets that overtook the very first one have room before it, unless others of the relay's own making are there.
    let span = if is_first && packet.insert == 0 { u32::from(MAX_MISORDER.unsigned_abs()) } else { 0 };
    let (first_free, timestamp) = next_numbers(now, stream, seed, packet.clock);
    let sequence = first_free.wrapping_add(packet.insert);
    // A source counts by `used`: it is whole before it counts, and after a kill in between the next packet begins it anew.
    source.used = 0;
    step();
    *source = SourceMap {
        used: 0,
        ssrc: packet.ssrc,
        sequence: packet.sequence.into(),
        sequence_offset: sequence.wrapping_sub(packet.sequence).into(),
        timestamp_offset: timestamp.wrapping_sub(packet.timestamp),
        timestamp: packet.timestamp,
        at: now.as_micros(),
        span,
        reserved: 0,
    };
    step();
    source.used = 1;
    let outgoing = Outgoing { is_switch: true, is_newest: true, inserted: packet.insert, ..source.map(packet) };
    note_sent(now, stream, outgoing, packet.clock, true);
    outgoing
}

fn note_sent(now: Time, stream: &mut OutStream, outgoing: Outgoing, clock: u32, is_new_instant: bool) {
    stream.sequence = outgoing.sequence.into();
    stream.lasts = 0;
    if is_new_instant {
        stream.timestamp = outgoing.timestamp;
        stream.sent_at = now.as_micros() + 1;
        stream.clock = clock;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::srtp::TxStream;

    /// Stands for the relay itself among the SSRCs of a test.
    const MAKER: u32 = 3;

    /// A route's state, fed with 20 ms packets of an 8 kHz clock unless a test says otherwise.
    struct Stream {
        source: SourceMap,
        former: SourceMap,
        out: OutStream,
    }

    impl Stream {
        fn new() -> Self {
            let out = OutStream { used: 1, tx: TxStream::new(9), ..OutStream::default() };
            Stream { source: SourceMap::default(), former: SourceMap::default(), out }
        }

        fn feed(&mut self, ms: u64, ssrc: u32, sequence: u16, timestamp: u32) -> Result<Outgoing, DropReason> {
            let packet = Incoming { ssrc, sequence, timestamp, clock: 8000, is_event: false, insert: 0 };
            rewrite(Time::from_millis(ms), &mut self.source, &mut self.former, &mut self.out, 5, packet)
        }

        /// 20 ms made by the relay, the first of a spurt or the next.
        fn make(&mut self, ms: u64, goes_on: bool) -> Outgoing {
            let packet_time = Duration::from_millis(20);
            let made = Made { clock: 8000, follows: goes_on.then_some(packet_time), lasts: packet_time };
            append(Time::from_millis(ms), &mut self.source, &mut self.former, &mut self.out, 5, made)
        }

        fn sent(&mut self, ms: u64, ssrc: u32, sequence: u16, timestamp: u32) -> (u16, u32, bool) {
            let out = self.feed(ms, ssrc, sequence, timestamp).unwrap();
            (out.sequence, out.timestamp, out.is_switch)
        }
    }

    #[test]
    fn a_source_keeps_its_gaps_and_its_order_over_the_wrap() {
        let mut stream = Stream::new();
        let (first, timestamp, switched) = stream.sent(0, 1, 65_534, u32::MAX);
        assert!(switched && first < 0x8000);
        assert_eq!(stream.sent(40, 1, 0, 319), (first + 2, timestamp.wrapping_add(320), false));
        assert_eq!(stream.sent(41, 1, 65_535, 159), (first + 1, timestamp.wrapping_add(160), false));
        assert_eq!(stream.sent(60, 1, 1, 479), (first + 3, timestamp.wrapping_add(480), false));
    }

    #[test]
    fn packets_that_overtook_the_first_one_still_have_room() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 10, 1600);
        assert_eq!(stream.sent(1, 1, 9, 1440), (first - 1, timestamp.wrapping_sub(160), false));
    }

    #[test]
    fn a_new_source_follows_without_a_break_and_moves_on_by_the_time_that_passed() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 16_000);
        assert_eq!(stream.sent(500, 2, 7, 9), (first + 1, timestamp.wrapping_add(4000), true));
        assert_eq!(stream.sent(520, 2, 8, 169), (first + 2, timestamp.wrapping_add(4160), false));
    }

    #[test]
    fn late_packets_of_the_former_source_find_their_place_and_others_are_stale() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 0);
        stream.sent(40, 1, 102, 320);
        assert_eq!(stream.sent(60, 2, 500, 7).0, first + 3);
        assert_eq!(stream.sent(61, 1, 101, 160), (first + 1, timestamp.wrapping_add(160), false));
        assert_eq!(stream.feed(62, 1, 103, 480), Err(DropReason::SequenceStale), "its number went to the new source");
        assert_eq!(stream.feed(63, 2, 499, 0), Err(DropReason::SequenceStale), "its number went to the old source");
        assert_eq!(stream.sent(80, 2, 501, 167).0, first + 4);
        assert_eq!(stream.sent(300, 1, 110, 1600), (first + 5, stream.out.timestamp, true), "the old source is back");
    }

    #[test]
    fn a_restart_under_the_same_ssrc_is_a_new_source() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 0);
        assert_eq!(stream.sent(20, 1, 40_000, 77), (first + 1, timestamp.wrapping_add(160), true));
        assert_eq!(stream.sent(40, 1, 40_001, 237), (first + 2, timestamp.wrapping_add(320), false));
    }

    #[test]
    fn a_switched_microphone_keeps_its_sequence_and_gets_an_unbroken_timestamp() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 0);
        assert_eq!(stream.sent(20, 1, 101, 3_000_000_000), (first + 1, timestamp.wrapping_add(160), true));
        assert_eq!(stream.sent(40, 1, 102, 3_000_000_160), (first + 2, timestamp.wrapping_add(320), false));
    }

    #[test]
    fn silence_and_bursts_are_no_switch() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 0);
        assert_eq!(stream.sent(60_000, 1, 101, 480_000), (first + 1, timestamp.wrapping_add(480_000), false));
        assert_eq!(
            stream.sent(70_000, 1, 102, 480_160),
            (first + 2, timestamp.wrapping_add(480_160), false),
            "a burst"
        );
    }

    #[test]
    fn a_long_telephone_event_does_not_look_like_a_jump_when_it_ends() {
        let mut stream = Stream::new();
        let (first, timestamp, _) = stream.sent(0, 1, 100, 0);
        for step in 1..=200u16 {
            let packet =
                Incoming { ssrc: 1, sequence: 100 + step, timestamp: 160, clock: 8000, is_event: true, insert: 0 };
            let now = Time::from_millis(20 * u64::from(step));
            let out = rewrite(now, &mut stream.source, &mut stream.former, &mut stream.out, 5, packet).unwrap();
            assert_eq!((out.sequence, out.timestamp), (first + step, timestamp.wrapping_add(160)));
        }
        assert_eq!(stream.sent(4020, 1, 301, 32_160), (first + 201, timestamp.wrapping_add(32_160), false));
    }

    #[test]
    fn inserted_packets_have_numbers_of_their_own_and_late_ones_keep_theirs() {
        let mut stream = Stream::new();
        let mut feed = |ms: u64, sequence: u16, insert| {
            let timestamp = u32::from(sequence);
            let packet = Incoming { ssrc: 1, sequence, timestamp, clock: 8000, is_event: false, insert };
            let out =
                rewrite(Time::from_millis(ms), &mut stream.source, &mut stream.former, &mut stream.out, 5, packet);
            out.map(|out| (out.sequence, out.inserted))
        };
        let (first, inserted) = feed(0, 100, 2).unwrap();
        assert_eq!(inserted, 2);
        assert_eq!(feed(1, 99, 0), Err(DropReason::SequenceStale), "its number went to an inserted packet");
        assert_eq!(feed(2, 103, 0), Ok((first + 3, 0)));
        assert_eq!(feed(3, 106, 2), Ok((first + 8, 2)), "first + 6 and first + 7 are inserted");
        assert_eq!(feed(4, 105, 0), Ok((first + 5, 0)), "late, from before");
        assert_eq!(feed(5, 102, 0), Ok((first + 2, 0)));
        assert_eq!(feed(6, 106, 2), Ok((first + 8, 0)), "a double is not the newest");
        assert_eq!(feed(7, 108, 0), Ok((first + 10, 0)));
        assert_eq!(feed(8, 107, 1), Ok((first + 9, 0)), "late, from behind");
        assert_eq!(feed(9, 104, 0), Ok((first + 4, 0)));
        assert_eq!(feed(10, 109, 1), Ok((first + 12, 1)));
        assert_eq!(feed(11, 105, 0), Err(DropReason::SequenceStale), "only the last insertion is remembered");
    }

    proptest! {
        #[test]
        fn no_sequence_number_is_given_to_two_different_packets(
            steps in prop::collection::vec((0u64..80, 0u32..4, -4i32..6, 0u16..9), 1..300),
        ) {
            let mut stream = Stream::new();
            let mut at = [1000u16, 20_000, 65_500];
            let mut given = std::collections::BTreeMap::new();
            let mut ms = 0;
            let mut made = 0;
            for (gap, ssrc, step, insert) in steps {
                ms += gap;
                if ssrc == MAKER {
                    made += 1;
                    let out = stream.make(ms, step > 0);
                    prop_assert_eq!(given.insert(out.sequence, (MAKER, made)), None);
                    continue;
                }
                let newest = &mut at[ssrc as usize];
                let sequence = newest.wrapping_add_signed(step as i16);
                if step > 0 {
                    *newest = sequence;
                }
                let insert = insert.saturating_sub(5);
                let timestamp = u32::from(sequence) * 160;
                let packet = Incoming { ssrc, sequence, timestamp, clock: 8000, is_event: false, insert };
                let now = Time::from_millis(ms);
                let out = rewrite(now, &mut stream.source, &mut stream.former, &mut stream.out, 5, packet);
                if let Ok(out) = out {
                    let owner = *given.entry(out.sequence).or_insert((ssrc, sequence));
                    prop_assert_eq!(owner, (ssrc, sequence));
                    for number in 1..=out.inserted {
                        let inserted = given.insert(out.sequence.wrapping_sub(number), (u32::MAX, number));
                        prop_assert_eq!(inserted, None, "an inserted packet has a number of its own");
                    }
                }
            }
        }

        #[test]
        fn sound_that_was_made_is_never_overlapped_and_its_lead_does_not_add_up(
            gaps in prop::collection::vec((100u64..400, 0u64..20), 1..50),
        ) {
            let mut stream = Stream::new();
            let (_, start, _) = stream.sent(0, 1, 100, 0);
            let (mut ms, mut sequence) = (0, 100);
            for (gap, early) in gaps {
                ms += gap;
                let made = stream.make(ms, false);
                ms += early;
                sequence += 1;
                let (_, timestamp, is_switch) = stream.sent(ms, 1, sequence, ms as u32 * 8);
                prop_assert!(is_switch && timestamp.wrapping_sub(made.timestamp) == 160);
                let lead = timestamp.wrapping_sub(start).wrapping_sub(ms as u32 * 8);
                prop_assert!(lead <= 160, "{} ticks ahead of time", lead);
            }
        }
    }
}
