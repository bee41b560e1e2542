//! When a worker that goes first on its core stands back for a moment.
//!
//! The kernel leaves such a thread a share of its core, usually 95 % (`sched_rt_runtime_us` of sched(7)): who takes more stands still for the
//! rest of the second, 50 ms at a time. A worker with more to do than its share rests for a fraction of a millisecond many times instead.

use std::time::Duration;

use gangway_shared::time::Time;

/// What was used of the core is looked at so often.
const LOOK: Duration = Duration::from_millis(5);

/// Below the kernel's share by so much, for what is not counted exactly.
const MARGIN: f64 = 0.02;

/// See the module text.
#[derive(Debug)]
pub(super) struct Rests {
    share: f64,
    looked_at: Time,
    used: Duration,
}

impl Rests {
    /// For a thread that the kernel leaves `share` of its core, from 0 to 1.
    pub(super) fn new(share: f64) -> Self {
        Rests { share: (share - MARGIN).max(MARGIN), looked_at: Time::ZERO, used: Duration::ZERO }
    }

    /// How long to rest now. `used` tells the processor time used since the thread began; it is asked for seldom.
    pub(super) fn due(&mut self, now: Time, used: impl FnOnce() -> Duration) -> Option<Duration> {
        let passed = now.since(self.looked_at);
        if passed < LOOK {
            return None;
        }
        let used = used();
        let busy = used.saturating_sub(std::mem::replace(&mut self.used, used));
        self.looked_at = now;
        // Longer ago the worker waited, and of the thread's first look nothing is known.
        if passed >= 2 * LOOK {
            return None;
        }
        busy.div_f64(self.share).checked_sub(passed).filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_millis(5);

    /// Rests at looks 5 ms apart, of which the worker used so much each.
    fn rests(busy: Duration) -> Vec<Option<Duration>> {
        let mut rests = Rests::new(0.95);
        let look =
            |step: u32| rests.due(Time::from_millis(1_000) + step * LOOK, || Duration::from_secs(7) + step * busy);
        (0..4).map(look).collect()
    }

    #[test]
    fn a_full_worker_rests_for_what_is_not_its_own() {
        let found = rests(WHOLE);
        assert_eq!(found[0], None, "what it did before it was looked at is not known");
        for rest in &found[1..] {
            let share = WHOLE.as_secs_f64() / (WHOLE + rest.unwrap()).as_secs_f64();
            assert!((share - 0.93).abs() < 1e-6, "{share}");
        }
    }

    #[test]
    fn a_worker_within_its_share_does_not() {
        assert_eq!(rests(WHOLE.mul_f64(0.92)), [None; 4]);
    }

    #[test]
    fn the_clock_of_the_thread_is_read_seldom() {
        let mut rests = Rests::new(0.95);
        rests.due(Time::from_millis(1_000), || Duration::ZERO);
        assert_eq!(rests.due(Time::from_millis(1_004), || unreachable!("not yet")), None);
    }

    #[test]
    fn a_wait_is_a_rest() {
        let mut rests = Rests::new(0.95);
        rests.due(Time::from_millis(1_000), || Duration::ZERO);
        assert_eq!(rests.due(Time::from_millis(1_030), || Duration::from_millis(29)), None);
        assert!(rests.due(Time::from_millis(1_035), || Duration::from_millis(34)).is_some());
    }
}
