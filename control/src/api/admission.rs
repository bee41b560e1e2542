//! How many connections there may be, in all and from one address.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::fairness::counted_as;

/// Counts connections and refuses those beyond the limits. Clones count together.
#[derive(Clone, Debug)]
pub struct Admission {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    total_max: usize,
    per_ip_max: usize,
    table: Mutex<Table>,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    total: usize,
    by_ip: BTreeMap<IpAddr, usize>,
}

/// The permission of one connection; the connection counts until this is dropped.
#[derive(Debug)]
pub struct Admitted {
    shared: Arc<Shared>,
    ip: IpAddr,
}

impl Admission {
    /// Admits `total_max` connections, of these `per_ip_max` from one address.
    #[must_use]
    pub fn new(total_max: usize, per_ip_max: usize) -> Self {
        let shared = Shared { total_max, per_ip_max, table: Mutex::default(), refused: AtomicU64::new(0) };
        Admission { shared: Arc::new(shared) }
    }

    /// Admits a connection from `ip`, or counts a refusal.
    #[must_use]
    pub fn admit(&self, ip: IpAddr) -> Option<Admitted> {
        let ip = counted_as(ip);
        let mut table = self.shared.lock();
        let of_ip = table.by_ip.get(&ip).copied().unwrap_or(0);
        if table.total >= self.shared.total_max || of_ip >= self.shared.per_ip_max {
            self.shared.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        table.total += 1;
        table.by_ip.insert(ip, of_ip + 1);
        Some(Admitted { shared: Arc::clone(&self.shared), ip })
    }

    /// Connections now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.shared.lock().total
    }

    /// Connections refused so far.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        // The table is whole between any two statements, so a panic elsewhere leaves it usable.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut table = self.shared.lock();
        table.total -= 1;
        if let Some(count) = table.by_ip.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                table.by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_places_come_back() {
        let admission = Admission::new(3, 2);
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = admission.admit(a).unwrap();
        let _second = admission.admit(a).unwrap();
        assert!(admission.admit(a).is_none(), "a third from one address");
        let _third = admission.admit(b).unwrap();
        assert!(admission.admit(b).is_none(), "a fourth in all");
        assert_eq!((admission.open(), admission.refused()), (3, 2));
        drop(first);
        assert!(admission.admit(b).is_some());
    }
}
