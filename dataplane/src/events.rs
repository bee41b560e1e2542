//! The event log: bounded, numbered, resumable.

use std::collections::VecDeque;

use gangway_shared::{ids::EventSeq, rcp::Event};

/// Runs are numbered above this bit: none has as many events.
const RUN_SHIFT: u32 = 32;

/// What a reader of the log gets next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next<'a> {
    /// This event.
    Event(EventSeq, &'a Event),
    /// Events before this one are lost to the reader, who goes on there.
    Gap(EventSeq),
    /// It has all.
    UpToDate,
}

/// The newest events, in order. The oldest go when it is full.
#[derive(Debug)]
pub struct EventLog {
    events: VecDeque<Event>,
    /// Number of the next event.
    next: u64,
    capacity: usize,
}

impl EventLog {
    /// An empty log that keeps `capacity` events; the first is number 1.
    ///
    /// # Panics
    /// When `capacity` is zero: such a log could never deliver.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::of_run(capacity, 0)
    }

    /// The log of the run after `runs` others, whose events are lost: its numbers lie far above theirs, so that a reader of one of
    /// them is told of a gap.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub fn of_run(capacity: usize, runs: u64) -> Self {
        assert!(capacity > 0, "a log keeps at least one event");
        EventLog { events: VecDeque::with_capacity(capacity), next: (runs << RUN_SHIFT) + 1, capacity }
    }

    /// Appends an event.
    pub fn push(&mut self, event: Event) -> EventSeq {
        if self.events.len() == self.capacity {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.next += 1;
        EventSeq(self.next - 1)
    }

    /// Number of the newest event, 0 before the first: where a reader starts who wants only what is to come.
    #[must_use]
    pub fn newest(&self) -> EventSeq {
        EventSeq(self.next - 1)
    }

    /// What follows `seen`, the last event the reader has (or was told is lost).
    ///
    /// A reader that claims to have seen what never was (it knew another run of the log) is told of a gap at the next event.
    #[must_use]
    pub fn after(&self, seen: EventSeq) -> Next<'_> {
        let oldest = self.next - self.events.len() as u64;
        let wanted = seen.0.saturating_add(1);
        if wanted > self.next {
            return Next::Gap(EventSeq(self.next));
        }
        if wanted < oldest {
            return Next::Gap(EventSeq(oldest));
        }
        match self.events.get((wanted - oldest) as usize) {
            Some(event) => Next::Event(EventSeq(wanted), event),
            None => Next::UpToDate,
        }
    }
}

#[cfg(test)]
mod tests {
    use gangway_shared::{
        ids::{LegId, RelayId},
        rcp::Event,
    };

    use super::*;

    fn event(number: u64) -> Event {
        Event::DtlsClosed { relay: RelayId::new(1, 1, number), leg: LegId(0) }
    }

    #[test]
    fn a_reader_resumes_after_what_it_has_seen() {
        let mut log = EventLog::new(8);
        assert_eq!(log.after(EventSeq(0)), Next::UpToDate);
        for number in 1..=3 {
            assert_eq!(log.push(event(number)), EventSeq(number));
        }
        assert_eq!(log.after(EventSeq(1)), Next::Event(EventSeq(2), &event(2)));
        assert_eq!(log.after(EventSeq(2)), Next::Event(EventSeq(3), &event(3)));
        assert_eq!(log.after(log.newest()), Next::UpToDate);
    }

    #[test]
    fn what_fell_out_of_the_log_is_announced_as_a_gap_and_reading_goes_on_behind_it() {
        let mut log = EventLog::new(2);
        for number in 1..=5 {
            log.push(event(number));
        }
        let Next::Gap(resumes_at) = log.after(EventSeq(1)) else { panic!("events 2 and 3 are gone") };
        assert_eq!(resumes_at, EventSeq(4));
        assert_eq!(log.after(EventSeq(resumes_at.0 - 1)), Next::Event(EventSeq(4), &event(4)));
    }

    #[test]
    fn a_reader_of_the_run_before_is_told_of_a_gap_at_once() {
        let mut log = EventLog::of_run(2, 3);
        for seen in [0, 1, 5, (2 << 32) + 700] {
            assert_eq!(log.after(EventSeq(seen)), Next::Gap(EventSeq((3 << 32) + 1)), "{seen}");
        }
        assert_eq!(log.after(log.newest()), Next::UpToDate);
        assert_eq!(log.push(event(1)), EventSeq((3 << 32) + 1));
    }

    #[test]
    fn a_reader_from_the_future_is_told_of_a_gap() {
        let mut log = EventLog::new(2);
        log.push(event(1));
        assert_eq!(log.after(EventSeq(u64::MAX)), Next::Gap(EventSeq(2)));
        assert_eq!(log.after(EventSeq(1)), Next::UpToDate);
    }
}
