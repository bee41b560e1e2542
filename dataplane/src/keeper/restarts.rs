//! When a relay that ended is started again, and when the calls are given up so that one can be.
//!
//! Pure. A death now and then costs nothing: the next relay is started at once. One that comes again and again is started later and
//! later, so that a fault does not use up the machine. A relay that ends by itself before it serves was ended by what it found: the
//! third time in a row the arenas are emptied, because a dataplane without calls is better than none. Who is killed from outside, or
//! cannot be started, says nothing about what it would have found: that costs the pause alone.

use std::time::Duration;

/// Deaths in a row that are followed by a start at once.
const AT_ONCE_MAX: u32 = 10;

/// A relay that lived so long was well: its end is no repetition of the one before.
const WELL_AFTER: Duration = Duration::from_secs(2);

/// First pause; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Starts in a row without serving until the calls are given up.
const EARLY_MAX: u32 = 3;

/// What to do after a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Wait so long before the next start.
    pub(super) pause: Duration,
    /// Empty the arenas first.
    pub(super) gives_up_calls: bool,
}

/// The deaths so far.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    /// Deaths in a row of relays that were not well.
    in_a_row: u32,
    /// Those of them in a row that ended by themselves and never served.
    early: u32,
    pause: Duration,
}

impl Restarts {
    /// A relay ended without being asked to, so long after its start; with `blame` by itself.
    pub(super) fn note_death(&mut self, lived: Duration, has_served: bool, blame: bool) -> Verdict {
        if has_served {
            self.early = 0;
            if lived >= WELL_AFTER {
                *self = Restarts::default();
            }
        } else if blame {
            self.early = self.early.saturating_add(1);
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        let is_rare = self.in_a_row <= AT_ONCE_MAX && self.early <= 1;
        self.pause = if is_rare { Duration::ZERO } else { self.longer() };
        let is_early = blame && !has_served;
        Verdict { pause: self.pause, gives_up_calls: is_early && self.early == EARLY_MAX }
    }

    /// The kernel refused a new process; how long to wait before it is asked again.
    pub(super) fn note_no_start(&mut self) -> Duration {
        self.pause = self.longer();
        self.pause
    }

    fn longer(&self) -> Duration {
        (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Verdict = Verdict { pause: Duration::ZERO, gives_up_calls: false };

    #[test]
    fn deaths_now_and_then_cost_no_pause() {
        let mut restarts = Restarts::default();
        for number in 0..100 {
            assert_eq!(restarts.note_death(WELL_AFTER, true, true), AT_ONCE, "{number}");
        }
    }

    #[test]
    fn a_relay_that_dies_again_and_again_is_started_later_and_later() {
        let mut restarts = Restarts::default();
        let (mut now, mut starts_in_a_minute) = (Duration::ZERO, 0);
        while now < Duration::from_secs(60) {
            starts_in_a_minute += 1;
            now += restarts.note_death(Duration::from_millis(1), true, true).pause + Duration::from_millis(1);
        }
        assert!((15..40).contains(&starts_in_a_minute), "{starts_in_a_minute}");
        assert_eq!(restarts.note_death(WELL_AFTER, true, true), AT_ONCE, "one that was well begins a new count");
    }

    #[test]
    fn a_relay_that_never_serves_loses_the_calls_at_the_third_start_and_no_later_one() {
        let mut restarts = Restarts::default();
        let mut given_up = Vec::new();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            let verdict = restarts.note_death(Duration::from_secs(60), false, true);
            given_up.push(verdict.gives_up_calls);
            pauses.push(verdict.pause.as_millis());
        }
        assert_eq!(given_up, [false, false, true, false, false, false]);
        assert_eq!(pauses, [0, 100, 200, 400, 800, 1600]);
    }

    #[test]
    fn kills_from_outside_and_missing_memory_cost_pauses_and_no_calls() {
        let mut restarts = Restarts::default();
        for number in 0..100 {
            assert!(!restarts.note_death(Duration::from_millis(5), false, false).gives_up_calls, "{number}");
            restarts.note_no_start();
        }
        assert_eq!(restarts.note_death(Duration::ZERO, false, false).pause, PAUSE_MAX);
        // They neither count among those that ended by themselves nor begin their count anew.
        let verdicts = [true, true, false, true, false].map(|blame| restarts.note_death(Duration::ZERO, false, blame));
        assert_eq!(verdicts.map(|verdict| verdict.gives_up_calls), [false, false, false, true, false]);
        let mut restarts = Restarts::default();
        assert_eq!([restarts.note_no_start(), restarts.note_no_start()], [PAUSE_MIN, 2 * PAUSE_MIN]);
    }
}
