//! The kernel's clocks, for the engines on the real network and the threads beside them.

use std::time::Duration;

use gangway_shared::time::{Time, WallTime};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::relay::Now;

/// Reads both clocks. The monotonic one counts from boot, so that times in the arena mean the same to the next process.
#[must_use]
pub fn now() -> Now {
    Now { mono: mono(), wall: WallTime::from_unix_micros(micros(clock_gettime(ClockId::Realtime))) }
}

/// Reads the monotonic clock alone.
#[must_use]
pub fn mono() -> Time {
    Time::from_micros(micros(clock_gettime(ClockId::Monotonic)))
}

/// Processor time that the calling thread has used.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    Duration::from_micros(micros(clock_gettime(ClockId::ThreadCPUTime)))
}

fn micros(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000) + nanos / 1000
}
