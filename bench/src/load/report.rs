//! What a run of load found.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest time that is told apart, nanoseconds.
const LONGEST_NS: u64 = 60_000_000_000;

/// Where sendings are later than this at p99, latencies say more about the generator than about the relay.
const LATE_US: f64 = 2000.0;

/// Where they are later than a packet time, so does everything.
const BEHIND_US: f64 = 20_000.0;

/// Above this share of its core the generator is the limit.
const BUSY: f64 = 0.95;

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 99 of 100 are below.
    pub p99_us: f64,
    /// 999 of 1000 are below.
    pub p999_us: f64,
    /// The largest.
    pub max_us: f64,
}

/// A histogram of times in nanoseconds.
pub struct Times(Histogram<u32>);

impl Default for Times {
    fn default() -> Self {
        Times(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds of a histogram"))
    }
}

impl Times {
    /// Takes one.
    pub fn note(&mut self, ns: u64) {
        self.0.saturating_record(ns.max(1));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.reset();
    }

    /// What was taken.
    #[must_use]
    pub fn percentiles(&self) -> Percentiles {
        let at = |quantile: f64| if self.0.is_empty() { 0.0 } else { self.0.value_at_quantile(quantile) as f64 / 1e3 };
        Percentiles { p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), max_us: at(1.0) }
    }
}

/// What the generator says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generator {
    /// How much later than planned packets left.
    pub lateness: Percentiles,
    /// Share of the time in which it had something to do, 0 to 1.
    pub busy_share: f64,
    /// CPU time of its thread by wall time.
    pub cpu_share: f64,
    /// Datagrams that the kernel did not take.
    pub refused: u64,
    /// Datagrams that found no room at its own sockets, in all of the run.
    pub own_drops: u64,
}

/// What came of the measured time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Calls that are set up.
    pub calls: u32,
    /// Of these, how many talk.
    pub talking: u32,
    /// Seconds that were measured.
    pub seconds: f64,
    /// Packets sent.
    pub sent: u64,
    /// Of these, new and whole ones that came.
    pub received: u64,
    /// Of these, those that came while CPU was measured: what a cost is divided by.
    pub received_in_time: u64,
    /// Sent and never received.
    pub lost: u64,
    /// Lost of sent.
    pub loss: f64,
    /// Packets that came again.
    pub duplicates: u64,
    /// Packets that came after a later one.
    pub reordered: u64,
    /// Other bytes than were sent.
    pub corrupt: u64,
    /// Sequence numbers that do not follow from those before.
    pub sequence_breaks: u64,
    /// Packets that did not authenticate.
    pub unauthentic: u64,
    /// Datagrams of nobody known, or of no known kind.
    pub strange: u64,
    /// From a packet's sending to its arrival.
    pub latency: Percentiles,
    /// Packets sent a second.
    pub offered_pps: f64,
    /// Good packets a second.
    pub received_pps: f64,
    /// RTCP packets sent and received.
    pub rtcp: (u64, u64),
    /// Consent checks sent, and answered.
    pub consent: (u64, u64),
    /// Checks of the relay that browsers answered since they were called; a relay that is a lite agent has none.
    #[serde(default)]
    pub peer_checks: u64,
    /// SRTP profiles that came of handshakes.
    #[serde(default)]
    pub profiles: Vec<String>,
    /// Longest time without a packet, of the stream where it was longest, milliseconds.
    pub longest_gap_ms: f64,
    /// The most packets that one stream lost.
    pub most_lost: u64,
    /// Streams of talking calls that received nothing.
    pub dead_streams: u64,
    /// See there.
    pub generator: Generator,
    /// Whether the generator was the limit, so that nothing here says anything about the relay.
    pub is_generator_limit: bool,
    /// Whether it was held up: all was sent and the costs are what they are, but the packets came in heaps.
    #[serde(default)]
    pub is_late: bool,
}

impl Report {
    /// Fills in what follows from the counts.
    pub fn conclude(&mut self) {
        self.lost = self.sent.saturating_sub(self.received);
        self.loss = if self.sent > 0 { self.lost as f64 / self.sent as f64 } else { 0.0 };
        if self.seconds > 0.0 {
            self.offered_pps = self.sent as f64 / self.seconds;
            self.received_pps = self.received as f64 / self.seconds;
        }
        let generator = &self.generator;
        self.is_late = generator.lateness.p99_us > LATE_US;
        self.is_generator_limit = generator.lateness.p99_us > BEHIND_US
            || (self.is_late && generator.busy_share > BUSY)
            || generator.own_drops > 0
            || generator.refused > 0;
    }

    /// Whether every packet was passed on whole, once and in order of its numbers.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.corrupt + self.duplicates + self.sequence_breaks + self.unauthentic + self.strange == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_concludes_loss_rates_and_its_own_limit() {
        let mut report = Report { sent: 1000, received: 990, seconds: 2.0, ..Report::default() };
        report.conclude();
        assert_eq!((report.lost, report.loss, report.offered_pps, report.received_pps), (10, 0.01, 500.0, 495.0));
        assert!(!report.is_generator_limit && report.is_clean());
        report.generator.lateness.p99_us = LATE_US + 1.0;
        report.conclude();
        assert!(report.is_late && !report.is_generator_limit);
        report.generator.own_drops = 1;
        report.conclude();
        assert!(report.is_generator_limit);
    }

    #[test]
    fn percentiles_are_within_a_thousandth() {
        let mut times = Times::default();
        assert_eq!(times.percentiles(), Percentiles::default());
        (1..=1000).for_each(|us| times.note(us * 1000));
        let found = times.percentiles();
        for (found, wanted) in
            [(found.p50_us, 500.0), (found.p99_us, 990.0), (found.p999_us, 999.0), (found.max_us, 1000.0)]
        {
            assert!((found - wanted).abs() <= wanted * 0.001, "{found} for {wanted}");
        }
        times.clear();
        assert_eq!(times.percentiles(), Percentiles::default());
    }
}
