//! Plain counters owned by one worker, copied out on request.

use std::{collections::BTreeMap, time::Duration};

use gangway_shared::rcp::WorkerStats;

use crate::{engine::EngineCounters, wire::DropReason};

/// What a worker counts.
#[derive(Clone, Copy, Debug)]
pub struct WorkerCounters {
    /// Datagrams handed to the relay core.
    pub received: u64,
    /// Datagrams it gave out, forwarded or of its own making.
    pub sent: u64,
    /// Drops, indexed by reason.
    pub drops: [u64; DropReason::COUNT],
}

impl Default for WorkerCounters {
    fn default() -> Self {
        WorkerCounters { received: 0, sent: 0, drops: [0; DropReason::COUNT] }
    }
}

impl WorkerCounters {
    /// Counts a drop.
    pub fn count(&mut self, reason: DropReason) {
        self.drops[reason as usize] += 1;
    }

    /// A snapshot for RCP, without what the loop counts.
    #[must_use]
    pub fn snapshot(&self, worker: u16, relays: u64) -> WorkerStats {
        let (received, sent, drops) = (self.received, self.sent, self.drops.to_vec());
        WorkerStats { worker, relays, received, sent, drops, ..WorkerStats::default() }
    }
}

/// Buckets of a [`Histogram`]: two an octave up to a second, and one for what takes longer.
pub const LATENCY_BUCKETS: usize = 40;

/// How often something took how long, in buckets of fixed bounds.
#[derive(Clone, Copy, Debug)]
pub struct Histogram([u64; LATENCY_BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Histogram([0; LATENCY_BUCKETS])
    }
}

impl Histogram {
    /// Counts one span of time.
    pub fn note(&mut self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let bucket = match micros.checked_ilog2() {
            None | Some(0) => 0,
            Some(octave) => 2 * octave as usize - 1 + (micros >> (octave - 1) & 1) as usize,
        };
        self.0[bucket.min(LATENCY_BUCKETS - 1)] += 1;
    }

    /// The counts, bucket by bucket.
    #[must_use]
    pub fn counts(&self) -> &[u64; LATENCY_BUCKETS] {
        &self.0
    }
}

/// What ends each bucket but the last of a [`Histogram`], in microseconds: 2, 3, 4, 6, 8, 12 and so on to 2^20. A bucket holds what
/// is below its end and not below that of the one before.
#[must_use]
pub fn latency_bounds_us() -> Vec<u64> {
    let octaves = (1..20).flat_map(|octave| [3 << (octave - 1), 2 << octave]);
    std::iter::once(2).chain(octaves).collect()
}

/// What the loop around a worker's relays counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopCounters {
    /// Rounds that brought a datagram.
    pub batches: u64,
    /// From the kernel's receive time to the end of sending, of packets that were forwarded from stamped ports.
    pub latency: Histogram,
}

impl LoopCounters {
    /// Completes a snapshot. `busy` is the processor time that the worker used.
    #[must_use]
    pub fn complete(&self, stats: WorkerStats, busy: Duration, engine: EngineCounters) -> WorkerStats {
        let busy_us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        WorkerStats {
            batches: self.batches,
            busy_us,
            latency: self.latency.counts().to_vec(),
            engine: engine.named(),
            ..stats
        }
    }
}

/// The names of the numbers in [`WorkerStats::drops`].
#[must_use]
pub fn drop_reasons() -> Vec<String> {
    DropReason::ALL.into_iter().map(|reason| reason.name().to_owned()).collect()
}

/// Drops by name; reasons that never happened are left out.
#[must_use]
pub fn named(drops: &[u64; DropReason::COUNT]) -> BTreeMap<String, u64> {
    let all = DropReason::ALL.into_iter().zip(drops);
    all.filter(|(_, count)| **count > 0).map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use gangway_shared::rcp::{DataplaneMessage, NodeStats, Reply, frame};

    use super::*;

    #[test]
    fn a_snapshot_has_every_reason_and_a_leg_only_what_happened() {
        let mut counters = WorkerCounters::default();
        counters.count(DropReason::NoKeys);
        let snapshot = counters.snapshot(3, 7);
        assert_eq!((snapshot.worker, snapshot.relays, snapshot.drops.len()), (3, 7, DropReason::COUNT));
        let node = NodeStats { drop_reasons: drop_reasons(), workers: vec![snapshot], ..NodeStats::default() };
        let drops: BTreeMap<_, _> = node.worker_drops(&node.workers[0]).collect();
        assert_eq!((drops["no_keys"], drops["no_route"]), (1, 0));
        assert_eq!(named(&counters.drops), BTreeMap::from([("no_keys".to_owned(), 1)]));
    }

    #[test]
    fn a_span_is_counted_below_the_bound_that_it_does_not_reach() {
        let bounds = latency_bounds_us();
        assert_eq!((bounds.len(), bounds[..7].to_vec(), bounds[38]), (39, vec![2, 3, 4, 6, 8, 12, 16], 1 << 20));
        for micros in [0, 1, 2, 3, 5, 6, 7, 100, 999, 1000, 1 << 19, (1 << 20) - 1, 1 << 20, 1 << 40] {
            let mut histogram = Histogram::default();
            histogram.note(Duration::from_micros(micros));
            let bucket = bounds.iter().position(|bound| micros < *bound).unwrap_or(LATENCY_BUCKETS - 1);
            assert_eq!(histogram.counts().iter().position(|count| *count == 1), Some(bucket), "{micros}");
        }
    }

    #[test]
    fn the_counters_of_a_page_of_workers_fit_a_frame_after_years_of_drops() {
        // A thousand drops a second of every reason on every worker for thirty years.
        let count = 1_000_000_000_000;
        let counters = WorkerCounters { received: u64::MAX, sent: u64::MAX, drops: [count; DropReason::COUNT] };
        let around = LoopCounters { batches: u64::MAX, latency: Histogram([count; LATENCY_BUCKETS]) };
        let ring = EngineCounters {
            out_of_buffers: count,
            armed_again: count,
            failed_receives: count,
            sent_again: count,
            submissions_full: count,
            completions_full: count,
        };
        let snapshot = |number| around.complete(counters.snapshot(number, 65_536), Duration::MAX, ring);
        let last = crate::config::WORKERS_MAX;
        let workers = (last - NodeStats::WORKERS_PAGE as u16..last).map(snapshot).collect();
        let bounds = latency_bounds_us();
        let (drop_reasons, latency_bounds_us, relays) = (drop_reasons(), bounds, u64::MAX);
        let node = NodeStats { drop_reasons, latency_bounds_us, workers, relays, ..NodeStats::default() };
        let answer = DataplaneMessage::Ok { id: u64::MAX, reply: Reply::QueryNode(node) };
        let mut bytes = Vec::new();
        frame::encode(&answer, &mut bytes).unwrap();
    }
}
