//! How long a round of either engine waits: for one packet when there are few, a short while for many when there are many.
//!
//! Each entry into the kernel has a price of its own, so that gathering packets for a moment makes each of them cheaper. The
//! moment is added to the delay of each packet, so it is spent only when enough packets come in it.

use std::time::Duration;

use gangway_shared::time::Time;

/// While packets are gathered, rounds begin so far apart (decision 035).
const ROUND: Duration = Duration::from_micros(500);

/// Gathering begins when so many packets come in that time, on average, and ends when half as many do.
const WORTHWHILE: u64 = 4;

/// The average is taken over so long at least.
const WINDOW_US: u64 = 2000;

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_gathering: bool,
    /// When the last round began.
    round_at: Time,
    began: Time,
    packets: u64,
}

impl Pace {
    /// Notes that a round ended with so many packets.
    pub(super) fn note(&mut self, now: Time, packets: usize) {
        self.packets += packets as u64;
        self.round_at = now;
        let elapsed = now.since(self.began).as_micros() as u64;
        if elapsed < WINDOW_US {
            return;
        }
        let in_round = self.packets * ROUND.as_micros() as u64 / elapsed;
        self.is_gathering = in_round >= if self.is_gathering { WORTHWHILE / 2 } else { WORTHWHILE };
        (self.began, self.packets) = (now, 0);
    }

    /// For how long packets are to be gathered when nothing is there: what is left of the time since the last round began. Zero: the
    /// first ends the wait.
    pub(super) fn gather(&self, now: Time) -> Duration {
        if self.is_gathering { ROUND.saturating_sub(now.since(self.round_at)) } else { Duration::ZERO }
    }
}

/// Sleeps for less than a second. Woken early by a signal, it is over.
pub(super) fn sleep(time: Duration) {
    let time = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(time.subsec_nanos()) };
    let _ = rustix::thread::nanosleep(&time);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether packets are gathered after ten milliseconds with so many packets a second, in rounds of `round_us`.
    fn gathers(pace: &mut Pace, from_ms: u64, per_second: u64, round_us: u64) -> bool {
        let (mut told, start) = (0, Time::from_millis(from_ms));
        for at in (0..10_000).step_by(round_us as usize) {
            let due = per_second * at / 1_000_000;
            pace.note(start + Duration::from_micros(at), (due - told) as usize);
            told = due;
        }
        !pace.gather(start + Duration::from_millis(10)).is_zero()
    }

    #[test]
    fn packets_are_gathered_while_enough_of_them_come() {
        let mut pace = Pace::default();
        assert!(!gathers(&mut pace, 0, 2000, 200));
        assert!(!gathers(&mut pace, 10, 7000, 20));
        assert!(gathers(&mut pace, 20, 12_000, 20), "many small rounds");
        assert!(gathers(&mut pace, 30, 5000, 200), "not so few that it would end");
        assert!(!gathers(&mut pace, 40, 3000, 200));
        assert!(gathers(&mut pace, 50, 12_000, 200));
    }

    #[test]
    fn a_long_silence_ends_it() {
        let mut pace = Pace::default();
        assert!(gathers(&mut pace, 0, 100_000, 100));
        pace.note(Time::from_millis(5000), 1);
        assert_eq!(pace.gather(Time::from_millis(5000)), Duration::ZERO);
    }
}
