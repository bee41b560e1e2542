//! Arithmetic on the 64-bit NTP timestamps and 16.16 delays of reports (RFC 3550 section 4 and 6.4.1).

use std::time::Duration;

/// The middle 32 bits of an NTP timestamp: what a report block calls LSR.
#[must_use]
pub const fn ntp_middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// `ntp` moved on by `delta`; wraps with the NTP era.
#[must_use]
pub fn ntp_add(ntp: u64, delta: Duration) -> u64 {
    let seconds = delta.as_secs() << 32;
    let fraction = (u64::from(delta.subsec_nanos()) << 32) / 1_000_000_000;
    ntp.wrapping_add(seconds).wrapping_add(fraction)
}

/// A delay in units of 1/65536 s as a report block carries it; saturates at 18 hours.
#[must_use]
pub fn delay_since_last_report(delay: Duration) -> u32 {
    u32::try_from((delay.as_micros() << 16) / 1_000_000).unwrap_or(u32::MAX)
}

/// Round-trip time from a report block received at `now` (an NTP timestamp). `None` when the block answers no report of
/// ours, or claims a delay longer than the time that passed.
#[must_use]
pub fn round_trip_time(now: u64, last_sr: u32, delay_since_last_sr: u32) -> Option<Duration> {
    if last_sr == 0 {
        return None;
    }
    let passed = ntp_middle(now).wrapping_sub(last_sr);
    let units = passed.checked_sub(delay_since_last_sr)?;
    Some(Duration::from_micros((u64::from(units) * 1_000_000) >> 16))
}
