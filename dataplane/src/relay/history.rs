//! Video that was sent, kept for a while so that a receiver that misses a packet gets it again.
//!
//! The bytes of all streams of a worker lie in one ring that is allocated at start (its pages are touched as it fills); what is written
//! over is gone. Each stream has an index of its newest packets, and an account: what is sent again costs, what is sent earns. A
//! restart of the process loses all of it, which costs receivers one key frame.

use std::{fmt, time::Duration};

use gangway_shared::time::Time;

use crate::wire::DropReason;

/// Packets of one stream that can be found: half a second of 8 Mbit/s, two seconds of 2 Mbit/s.
const TRACK_LEN: usize = 512;
/// Nobody waits longer for a packet: a jitter buffer has given it up, or shows a picture that stands still.
const AGE_MAX: Duration = Duration::from_secs(1);
/// One packet is sent again so often at most.
const RESENDS_MAX: u8 = 5;
/// Repetitions of one packet are at least so far apart; within it they answer the same loss.
const RESEND_GAP: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_millis(200);
/// Each byte sent earns so much of a byte of repair: repair takes a third of a stream's bandwidth at most, in the long run.
const EARNED_SHARE: u32 = 2;
/// What can be saved up in bytes: a burst of about fifty packets.
const CREDIT_MAX: u32 = 64 * 1024;

/// How a packet was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// Not at all.
    #[default]
    None,
    /// As it went out, to be sent again byte by byte.
    AsSent,
    /// Before it was encrypted, to be sent in a retransmission stream.
    Clear,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// Bytes written to the ring before it.
    at: u64,
    sent_at: Time,
    resent_at: Time,
    len: u16,
    sequence: u16,
    form: Form,
    resends: u8,
}

/// What is kept of one stream.
struct Track {
    /// By sequence number modulo its length.
    entries: Box<[Entry]>,
    credit: u32,
}

/// What is kept of a worker's streams.
pub(super) struct History {
    ring: Vec<u8>,
    /// Bytes written since the start, and passed over at the ring's end.
    written: u64,
    /// By route record; as long as the highest that was ever kept.
    tracks: Vec<Option<Track>>,
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("History").field("capacity", &self.ring.len()).finish_non_exhaustive()
    }
}

impl History {
    /// A ring of `capacity` bytes; 0 keeps nothing.
    pub(super) fn new(capacity: usize) -> Self {
        History { ring: vec![0; capacity], written: 0, tracks: Vec::new() }
    }

    /// Begins to keep what a route sends, or goes on with it. Allocates: for the making of routes.
    pub(super) fn begin(&mut self, route: u32) {
        let len = self.tracks.len().max(route as usize + 1);
        self.tracks.resize_with(len, || None);
        self.tracks[route as usize].get_or_insert_with(|| Track {
            entries: vec![Entry::default(); TRACK_LEN].into_boxed_slice(),
            credit: CREDIT_MAX,
        });
    }

    /// Ends that.
    pub(super) fn end(&mut self, route: u32) {
        if let Some(track) = self.tracks.get_mut(route as usize) {
            *track = None;
        }
    }

    /// Forgets what a route sent: under another key it means nothing any more.
    pub(super) fn forget(&mut self, route: u32) {
        if let Some(Some(track)) = self.tracks.get_mut(route as usize) {
            track.entries.fill(Entry::default());
        }
    }

    /// Keeps a packet, given as its parts one behind the other.
    pub(super) fn keep(&mut self, now: Time, route: u32, sequence: u16, form: Form, bytes: &[u8]) {
        let capacity = self.ring.len();
        let Some(Some(track)) = self.tracks.get_mut(route as usize) else { return };
        let Ok(len) = u16::try_from(bytes.len()) else { return };
        if bytes.len() > capacity {
            return;
        }
        let start = (self.written % capacity as u64) as usize;
        if start + bytes.len() > capacity {
            self.written += (capacity - start) as u64;
        }
        let start = (self.written % capacity as u64) as usize;
        self.ring[start..start + bytes.len()].copy_from_slice(bytes);
        let at = self.written;
        self.written += bytes.len() as u64;
        track.credit = (track.credit + u32::from(len) / EARNED_SHARE).min(CREDIT_MAX);
        track.entries[usize::from(sequence) % TRACK_LEN] =
            Entry { at, sent_at: now, resent_at: now, len, sequence, form, resends: 0 };
    }

    /// A packet that is asked for again, paid for and counted as repeated. `round_trip` is that to its receiver, as far as known.
    ///
    /// # Errors
    /// `ResendUnknown`, `ResendTooSoon`, `ResendOverBudget`.
    pub(super) fn take(
        &mut self,
        now: Time,
        route: u32,
        sequence: u16,
        round_trip: Option<Duration>,
    ) -> Result<(Form, &[u8]), DropReason> {
        let track = self.tracks.get_mut(route as usize).and_then(Option::as_mut).ok_or(DropReason::ResendUnknown)?;
        let entry = &mut track.entries[usize::from(sequence) % TRACK_LEN];
        let is_there = entry.form != Form::None && entry.sequence == sequence;
        let is_overwritten = self.written - entry.at > self.ring.len() as u64;
        if !is_there || is_overwritten || now.since(entry.sent_at) > AGE_MAX {
            return Err(DropReason::ResendUnknown);
        }
        let gap = round_trip.unwrap_or_default().clamp(*RESEND_GAP.start(), *RESEND_GAP.end());
        if entry.resends >= RESENDS_MAX || (entry.resends > 0 && now.since(entry.resent_at) < gap) {
            return Err(DropReason::ResendTooSoon);
        }
        track.credit = track.credit.checked_sub(entry.len.into()).ok_or(DropReason::ResendOverBudget)?;
        (entry.resends, entry.resent_at) = (entry.resends + 1, now);
        let start = (entry.at % self.ring.len() as u64) as usize;
        Ok((entry.form, &self.ring[start..start + usize::from(entry.len)]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTE: u32 = 3;

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    fn history(capacity: usize) -> History {
        let mut history = History::new(capacity);
        history.begin(ROUTE);
        history
    }

    #[test]
    fn a_packet_is_given_again_as_it_was_until_it_is_too_old() {
        let mut history = history(1000);
        history.keep(ms(0), ROUTE, 65_535, Form::AsSent, b"first");
        history.keep(ms(10), ROUTE, 0, Form::Clear, b"second");
        assert_eq!(history.take(ms(1000), ROUTE, 65_535, None), Ok((Form::AsSent, &b"first"[..])));
        assert_eq!(history.take(ms(1001), ROUTE, 65_535, None), Err(DropReason::ResendUnknown));
        assert_eq!(history.take(ms(1010), ROUTE, 0, None), Ok((Form::Clear, &b"second"[..])));
        assert_eq!(history.take(ms(10), ROUTE, 1, None), Err(DropReason::ResendUnknown), "never sent");
        assert_eq!(history.take(ms(10), 99, 0, None), Err(DropReason::ResendUnknown), "another route");
        let other = 65_535 - TRACK_LEN as u16;
        assert_eq!(history.take(ms(10), ROUTE, other, None), Err(DropReason::ResendUnknown), "its place is another's");
    }

    #[test]
    fn one_packet_is_repeated_once_a_round_trip_and_five_times_at_most() {
        let mut history = history(1000);
        let round_trip = Some(Duration::from_millis(50));
        history.keep(ms(0), ROUTE, 7, Form::AsSent, b"x");
        assert!(history.take(ms(1), ROUTE, 7, round_trip).is_ok());
        assert_eq!(history.take(ms(50), ROUTE, 7, round_trip), Err(DropReason::ResendTooSoon));
        for again in 1..5 {
            assert!(history.take(ms(1 + again * 50), ROUTE, 7, round_trip).is_ok(), "{again}");
        }
        assert_eq!(history.take(ms(900), ROUTE, 7, round_trip), Err(DropReason::ResendTooSoon));
        history.keep(ms(0), ROUTE, 8, Form::AsSent, b"x");
        assert!(history.take(ms(1), ROUTE, 8, None).is_ok());
        assert_eq!(history.take(ms(10), ROUTE, 8, None), Err(DropReason::ResendTooSoon), "a least gap");
        assert!(history.take(ms(11), ROUTE, 8, None).is_ok());
    }

    #[test]
    fn repair_has_a_share_of_the_bandwidth_and_a_burst() {
        let mut history = history(1 << 20);
        (0..200).for_each(|sequence| history.keep(ms(0), ROUTE, sequence, Form::AsSent, &[0; 1024]));
        let given = |history: &mut History, from: u16| {
            (from..from + 100).filter(|sequence| history.take(ms(1), ROUTE, *sequence, None).is_ok()).count()
        };
        assert_eq!(given(&mut history, 0), 64, "the burst that was saved up");
        assert_eq!(history.take(ms(1), ROUTE, 199, None), Err(DropReason::ResendOverBudget));
        (200..220).for_each(|sequence| history.keep(ms(1), ROUTE, sequence, Form::AsSent, &[0; 1024]));
        assert_eq!(given(&mut history, 100), 10, "half of what was sent since");
    }

    #[test]
    fn what_is_written_over_or_forgotten_is_gone() {
        let mut history = history(100);
        history.keep(ms(0), ROUTE, 1, Form::AsSent, &[1; 60]);
        history.keep(ms(0), ROUTE, 2, Form::AsSent, &[2; 30]);
        assert_eq!(history.take(ms(1), ROUTE, 1, None), Ok((Form::AsSent, &[1; 60][..])));
        // It does not fit behind the second one, so it lies at the start.
        history.keep(ms(2), ROUTE, 3, Form::AsSent, &[3; 20]);
        assert_eq!(history.take(ms(20), ROUTE, 1, None), Err(DropReason::ResendUnknown));
        assert_eq!(history.take(ms(20), ROUTE, 2, None), Ok((Form::AsSent, &[2; 30][..])));
        assert_eq!(history.take(ms(20), ROUTE, 3, None), Ok((Form::AsSent, &[3; 20][..])));
        history.keep(ms(2), ROUTE, 4, Form::AsSent, &[4; 101]);
        assert_eq!(history.take(ms(20), ROUTE, 4, None), Err(DropReason::ResendUnknown), "longer than the ring");
        history.forget(ROUTE);
        assert_eq!(history.take(ms(40), ROUTE, 3, None), Err(DropReason::ResendUnknown));
        history.end(ROUTE);
        history.keep(ms(2), ROUTE, 5, Form::AsSent, b"x");
        assert_eq!(history.take(ms(20), ROUTE, 5, None), Err(DropReason::ResendUnknown), "its route ended");
        let mut none = History::new(0);
        none.begin(ROUTE);
        none.keep(ms(0), ROUTE, 1, Form::AsSent, b"x");
        assert_eq!(none.take(ms(0), ROUTE, 1, None), Err(DropReason::ResendUnknown), "no ring");
    }

    proptest! {
        #[test]
        fn what_is_given_is_what_was_kept_last_under_its_number(
            steps in prop::collection::vec((0u32..3, 0u16..700, 1usize..90, any::<u8>()), 1..400),
        ) {
            let mut history = History::new(1000);
            (0..3).for_each(|route| history.begin(route));
            let mut kept = std::collections::BTreeMap::new();
            for (at, (route, sequence, len, fill)) in steps.into_iter().enumerate() {
                let now = ms(at as u64);
                history.keep(now, route, sequence, Form::AsSent, &vec![fill; len]);
                kept.insert((route, sequence), (len, fill));
                prop_assert!(history.take(now, route, sequence, None).is_ok() || history.tracks[route as usize].as_ref().unwrap().credit < 90);
                for ((route, sequence), (len, fill)) in &kept {
                    if let Ok((_, bytes)) = history.take(now, *route, *sequence, None) {
                        prop_assert!(bytes == vec![*fill; *len]);
                    }
                }
            }
        }
    }
}
