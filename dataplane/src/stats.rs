//! Plain counters owned by one worker, copied out on request.

use std::collections::BTreeMap;

use gangway_shared::rcp::WorkerStats;

use crate::wire::DropReason;

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

    /// A snapshot for RCP.
    #[must_use]
    pub fn snapshot(&self, worker: u16, relays: u64) -> WorkerStats {
        WorkerStats { worker, relays, received: self.received, sent: self.sent, drops: self.drops.to_vec() }
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
    fn the_counters_of_the_most_workers_fit_a_frame_after_years_of_drops() {
        // A thousand drops a second of every reason on every worker for thirty years.
        let count = 1_000_000_000_000;
        let counters = WorkerCounters { received: u64::MAX, sent: u64::MAX, drops: [count; DropReason::COUNT] };
        let workers = (0..crate::config::WORKERS_MAX).map(|number| counters.snapshot(number, 65_536)).collect();
        let node = NodeStats { drop_reasons: drop_reasons(), workers, relays: u64::MAX, ..NodeStats::default() };
        let answer = DataplaneMessage::Ok { id: u64::MAX, reply: Reply::QueryNode(node) };
        let mut bytes = Vec::new();
        frame::encode(&answer, &mut bytes).unwrap();
    }
}
