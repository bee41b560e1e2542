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

    /// A snapshot for RCP in which every reason is present, so that a graph starts at 0.
    #[must_use]
    pub fn snapshot(&self, worker: u16, relays: u64) -> WorkerStats {
        WorkerStats { worker, relays, received: self.received, sent: self.sent, drops: named(&self.drops, |_| true) }
    }
}

/// Drops by name; those whose count `keep` refuses are left out.
pub fn named(drops: &[u64; DropReason::COUNT], keep: impl Fn(u64) -> bool) -> BTreeMap<String, u64> {
    let all = DropReason::ALL.into_iter().zip(drops);
    all.filter(|(_, count)| keep(**count)).map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_every_reason_and_a_leg_only_what_happened() {
        let mut counters = WorkerCounters::default();
        counters.count(DropReason::NoKeys);
        let snapshot = counters.snapshot(3, 7);
        assert_eq!((snapshot.worker, snapshot.relays, snapshot.drops.len()), (3, 7, DropReason::COUNT));
        assert_eq!(snapshot.drops["no_keys"], 1);
        assert_eq!(named(&counters.drops, |count| count > 0), BTreeMap::from([("no_keys".to_owned(), 1)]));
    }
}
