//! The kernel's clocks, for the engines on the real network and the threads beside them.

use gangway_shared::time::{Time, WallTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::relay::Now;

/// Reads both clocks. The monotonic one counts from boot, so that times in the arena mean the same to the next process.
#[must_use]
pub fn now() -> Now {
    Now {
        mono: Time::from_micros(micros(clock_gettime(ClockId::Monotonic))),
        wall: WallTime::from_unix_micros(micros(clock_gettime(ClockId::Realtime))),
    }
}

fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + nanos / 1000
}
