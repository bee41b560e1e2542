//! Time as the pure modules see it: microseconds on a monotonic clock that the caller reads.

use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A point on the caller's monotonic clock, in microseconds since an epoch of the caller's choice.
///
/// Simulations start it at zero; programs use the kernel's monotonic clock. Two values are comparable only when they come from
/// the same clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);

    /// The point `micros` microseconds after the start of the clock.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Time(micros)
    }

    /// The point `millis` milliseconds after the start of the clock; saturates.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Time(millis.saturating_mul(1000))
    }

    /// Microseconds since the start of the clock.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the start of the clock.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0 / 1000
    }

    /// How long ago `earlier` was, zero when it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at the end of the clock, half a million years away.
    fn add(self, rhs: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::ZERO`].
    fn sub(self, rhs: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Wall-clock time as microseconds since 1970-01-01T00:00:00Z, read once per batch and passed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(u64);

/// Seconds between the NTP era (1900) and the Unix epoch (1970), RFC 5905 section 6.
const NTP_UNIX_OFFSET_S: u64 = 2_208_988_800;

impl WallTime {
    /// The instant `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_unix_micros(micros: u64) -> Self {
        WallTime(micros)
    }

    /// Microseconds after the Unix epoch.
    #[must_use]
    pub const fn as_unix_micros(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was, zero when it lies in the future: the clock may have been set.
    #[must_use]
    pub const fn since(self, earlier: WallTime) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The 64-bit NTP timestamp of a sender report: seconds since 1900 in the high half, their fraction in the low half.
    ///
    /// Wraps with the NTP era as RFC 3550 section 4 allows.
    #[must_use]
    pub const fn to_ntp(self) -> u64 {
        let seconds = self.0 / 1_000_000 + NTP_UNIX_OFFSET_S;
        let fraction = ((self.0 % 1_000_000) << 32) / 1_000_000;
        ((seconds & 0xffff_ffff) << 32) | fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Time::ZERO - Duration::from_secs(1), Time::ZERO);
        assert_eq!(Time::from_micros(u64::MAX) + Duration::from_secs(1), Time::from_micros(u64::MAX));
        assert_eq!(Time::from_millis(1).since(Time::from_millis(5)), Duration::ZERO);
    }

    #[test]
    fn ntp_of_the_unix_epoch_is_its_offset() {
        assert_eq!(WallTime::from_unix_micros(0).to_ntp(), 2_208_988_800u64 << 32);
        assert_eq!(WallTime::from_unix_micros(500_000).to_ntp() & 0xffff_ffff, 1 << 31);
    }
}
