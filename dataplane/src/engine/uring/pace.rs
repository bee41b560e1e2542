//! How long a round waits: for one packet when there are few, a short while for many when there are many.
//!
//! Each entry into the kernel has a price of its own, so that gathering packets for a moment makes each of them cheaper. The
//! moment is added to the delay of each packet, so it is spent only when enough packets come in it.

use std::time::Duration;

use gangway_shared::time::Time;

use super::ring::Wait;

/// Packets are gathered for so long.
const GATHER: Duration = Duration::from_micros(200);

/// As soon as so many are there, there is no more waiting.
const ENOUGH: u32 = 64;

/// Gathering begins when so many packets come in its time, on average, and ends when half as many do.
const WORTHWHILE: u64 = 8;

/// The average is taken over so long at least.
const WINDOW_US: u64 = 2000;

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Pace {
    is_gathering: bool,
    began: Time,
    packets: u64,
}

impl Pace {
    /// Notes that a round ended with so many packets.
    pub(super) fn note(&mut self, now: Time, packets: usize) {
        self.packets += packets as u64;
        let elapsed = now.since(self.began).as_micros() as u64;
        if elapsed < WINDOW_US {
            return;
        }
        let in_gather = self.packets * GATHER.as_micros() as u64 / elapsed;
        self.is_gathering = in_gather >= if self.is_gathering { WORTHWHILE / 2 } else { WORTHWHILE };
        (self.began, self.packets) = (now, 0);
    }

    /// How to wait when `sure` completions come at once and nothing is there.
    pub(super) fn wait(&self, sure: u32, timeout: Option<Duration>) -> Wait {
        let (want, gather) = if self.is_gathering { (ENOUGH, GATHER) } else { (1, Duration::ZERO) };
        Wait { want: sure + want, gather, timeout }
    }
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
        let wait = pace.wait(3, None);
        assert_eq!(wait.want, if wait.gather.is_zero() { 4 } else { 67 });
        !wait.gather.is_zero()
    }

    #[test]
    fn packets_are_gathered_while_enough_of_them_come() {
        let mut pace = Pace::default();
        assert!(!gathers(&mut pace, 0, 5000, 200));
        assert!(!gathers(&mut pace, 10, 30_000, 20));
        assert!(gathers(&mut pace, 20, 60_000, 20), "many small rounds");
        assert!(gathers(&mut pace, 30, 30_000, 200), "not so few that it would end");
        assert!(!gathers(&mut pace, 40, 10_000, 200));
        assert!(gathers(&mut pace, 50, 60_000, 200));
    }

    #[test]
    fn a_long_silence_ends_it() {
        let mut pace = Pace::default();
        assert!(gathers(&mut pace, 0, 100_000, 100));
        pace.note(Time::from_millis(5000), 1);
        assert_eq!(pace.wait(0, None), Wait { want: 1, gather: Duration::ZERO, timeout: None });
    }
}
