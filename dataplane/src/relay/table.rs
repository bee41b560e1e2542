//! Where a datagram belongs: ports to legs on the SIP side; ufrags and authenticated addresses to legs on the browser side.
//!
//! All of it is derived from the arena's records. Nothing here grows on the packet path.

use std::collections::BTreeMap;

use gangway_shared::time::Time;

use super::PortId;
use crate::arena::Addr;

/// Port numbers an engine may use. Bounds the port table at 8 MB.
pub(super) const PORTS_MAX: u32 = 1 << 20;

/// What a port is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum PortUse {
    /// Nothing (any more).
    #[default]
    Closed,
    /// All browsers.
    Mux,
    /// RTP of the leg in this slot.
    Rtp(u32),
    /// RTCP of the leg in this slot.
    Rtcp(u32),
}

/// Ports, indexed by their number.
#[derive(Debug, Default)]
pub(super) struct Ports(Vec<PortUse>);

impl Ports {
    /// What the port is used for.
    pub(super) fn find(&self, port: PortId) -> PortUse {
        self.0.get(port.0 as usize).copied().unwrap_or_default()
    }

    /// Gives the port a use. False when its number is beyond [`PORTS_MAX`].
    pub(super) fn set(&mut self, port: PortId, port_use: PortUse) -> bool {
        if port.0 >= PORTS_MAX {
            return false;
        }
        let index = port.0 as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, PortUse::Closed);
        }
        self.0[index] = port_use;
        true
    }

    /// Ends the port's use if it still is that of `leg`.
    pub(super) fn clear(&mut self, port: PortId, leg: u32) {
        if matches!(self.find(port), PortUse::Rtp(slot) | PortUse::Rtcp(slot) if slot == leg) {
            self.0[port.0 as usize] = PortUse::Closed;
        }
    }
}

/// Our ufrags to legs.
#[derive(Debug, Default)]
pub(super) struct Ufrags(BTreeMap<Box<[u8]>, u32>);

impl Ufrags {
    /// The leg of one of our ufrags.
    pub(super) fn find(&self, ufrag: &[u8]) -> Option<u32> {
        self.0.get(ufrag).copied()
    }

    /// Gives a ufrag to a leg.
    pub(super) fn insert(&mut self, ufrag: &[u8], leg: u32) {
        self.0.insert(ufrag.into(), leg);
    }

    /// Ends a ufrag.
    pub(super) fn remove(&mut self, ufrag: &[u8]) {
        self.0.remove(ufrag);
    }
}

/// Key of the path table, where a datagram came to and from: our port, the four words of the peer's address, its port.
type Key = [u32; 6];

fn key_of(port: PortId, from: Addr) -> Key {
    let ip = u128::from_be_bytes(from.ip);
    let word = |shift: u32| (ip >> shift) as u32;
    [port.0, word(96), word(64), word(32), word(0), from.port.into()]
}

/// Where in a slot the leg stands, plus one; 0 makes it a free slot.
const LEG: usize = 6;

/// A key and its leg. A table of zeros is memory that the kernel has not given yet, and that most of it never is.
type Slot = [u32; 7];

/// Authenticated addresses to legs: open addressing, sized at start at a load of at most one half.
///
/// Only addresses that passed an authenticated check enter, and the hash is seeded, so nobody can choose addresses that collide.
#[derive(Debug)]
pub(super) struct Paths {
    slots: Vec<Slot>,
    len: usize,
    seed: u64,
}

impl Paths {
    /// Room for `capacity` addresses.
    pub(super) fn new(capacity: usize, seed: u64) -> Self {
        Paths { slots: vec![[0; 7]; (capacity.max(1) * 2).next_power_of_two()], len: 0, seed }
    }

    fn home(&self, [port, ip @ .., peer_port]: &Key) -> usize {
        let pair = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let ends = u64::from(*port) << 16 | u64::from(*peer_port);
        let mixed = mix(mix(mix(self.seed ^ pair(ip[0], ip[1])) ^ pair(ip[2], ip[3])) ^ ends);
        mixed as usize & (self.slots.len() - 1)
    }

    /// The slot of the key, or the free one where it would be.
    fn locate(&self, key: &Key) -> usize {
        let mut at = self.home(key);
        while self.slots[at][LEG] != 0 && self.slots[at][..LEG] != key[..] {
            at = (at + 1) & (self.slots.len() - 1);
        }
        at
    }

    /// The leg that owns an address.
    pub(super) fn find(&self, port: PortId, from: Addr) -> Option<u32> {
        self.slots[self.locate(&key_of(port, from))][LEG].checked_sub(1)
    }

    /// Gives an address to a leg; the former owner, if it had another one.
    ///
    /// # Panics
    /// When there are more addresses than the table was made for: legs bound their paths.
    pub(super) fn insert(&mut self, port: PortId, from: Addr, leg: u32) -> Option<u32> {
        let key = key_of(port, from);
        let at = self.locate(&key);
        let former = self.slots[at][LEG];
        if former == 0 {
            self.len += 1;
            assert!(self.len * 2 <= self.slots.len(), "the table has room for every path of every leg");
        }
        self.slots[at][..LEG].copy_from_slice(&key);
        self.slots[at][LEG] = leg + 1;
        former.checked_sub(1).filter(|former| *former != leg)
    }

    /// Ends an address if it still is `leg`'s.
    pub(super) fn remove(&mut self, port: PortId, from: Addr, leg: u32) {
        let mut hole = self.locate(&key_of(port, from));
        if self.slots[hole][LEG] != leg + 1 {
            return;
        }
        self.len -= 1;
        let mask = self.slots.len() - 1;
        let mut at = hole;
        // Later entries of the run move back over the hole, unless that would put them before their home.
        loop {
            at = (at + 1) & mask;
            let [key @ .., leg] = &self.slots[at];
            if *leg == 0 {
                break;
            }
            let home = self.home(key);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
        }
        self.slots[hole][LEG] = 0;
    }

    /// Addresses in the table.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// How many addresses may still enter: so many a second, and as many at once after a second without.
#[derive(Debug)]
pub(super) struct Newcomers {
    per_s: u64,
    /// Millionths of an address.
    left: u64,
    since: Time,
}

impl Newcomers {
    pub(super) fn new(per_s: u32) -> Self {
        let per_s = per_s.into();
        Newcomers { per_s, left: per_s * 1_000_000, since: Time::ZERO }
    }

    /// Takes one in; false when there were too many.
    pub(super) fn admit(&mut self, now: Time) -> bool {
        let passed = u64::try_from(now.since(self.since).as_micros()).unwrap_or(u64::MAX);
        self.left = self.left.saturating_add(passed.saturating_mul(self.per_s)).min(self.per_s * 1_000_000);
        self.since = now;
        match self.left.checked_sub(1_000_000) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

/// SplitMix64's finaliser: every bit of the input reaches every bit of the output.
pub(super) fn mix(word: u64) -> u64 {
    let mut mixed = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::*;

    fn addr(last: u8, port: u16) -> Addr {
        Addr::from(SocketAddr::from(([10, 0, 0, last], port)))
    }

    #[test]
    fn the_new_owner_of_an_address_is_found_and_the_old_one_named() {
        let mut paths = Paths::new(4, 1);
        assert_eq!(paths.insert(PortId(0), addr(1, 9), 3), None);
        assert_eq!(paths.insert(PortId(0), addr(1, 9), 3), None);
        assert_eq!(paths.insert(PortId(1), addr(1, 9), 4), None, "another port is another path");
        assert_eq!(paths.insert(PortId(0), addr(1, 9), 5), Some(3));
        paths.remove(PortId(0), addr(1, 9), 3);
        assert_eq!(paths.find(PortId(0), addr(1, 9)), Some(5), "only the owner can end it");
        paths.remove(PortId(0), addr(1, 9), 5);
        assert_eq!(paths.find(PortId(0), addr(1, 9)), None);
        assert_eq!((paths.find(PortId(1), addr(1, 9)), paths.len()), (Some(4), 1));
    }

    #[test]
    fn addresses_enter_at_their_rate_and_wait_when_there_were_too_many() {
        let mut newcomers = Newcomers::new(10);
        let mut count = |ms| (0..100).filter(|_| newcomers.admit(Time::from_millis(ms))).count();
        assert_eq!(
            [count(5000), count(5000), count(5099), count(5100), count(5400), count(60_000)],
            [10, 0, 0, 1, 3, 10]
        );
    }

    #[test]
    fn a_closed_port_belongs_to_nobody_and_far_numbers_are_refused() {
        let mut ports = Ports::default();
        assert!(ports.set(PortId(7), PortUse::Rtp(2)));
        ports.clear(PortId(7), 3);
        assert_eq!(ports.find(PortId(7)), PortUse::Rtp(2), "it is another leg's");
        ports.clear(PortId(7), 2);
        assert_eq!((ports.find(PortId(7)), ports.find(PortId(8))), (PortUse::Closed, PortUse::Closed));
        assert!(!ports.set(PortId(PORTS_MAX), PortUse::Mux));
    }

    proptest! {
        #[test]
        fn the_table_behaves_like_a_map(
            seed in any::<u64>(),
            steps in prop::collection::vec((0u8..12, 1u16..4, 0u32..3, any::<bool>()), 1..300),
        ) {
            let mut paths = Paths::new(36, seed);
            let mut model = BTreeMap::new();
            for (last, port, leg, inserts) in steps {
                let key = (PortId(0), addr(last, port));
                if inserts {
                    let former = model.insert(key, leg).filter(|former| *former != leg);
                    prop_assert_eq!(paths.insert(key.0, key.1, leg), former);
                } else {
                    paths.remove(key.0, key.1, leg);
                    if model.get(&key) == Some(&leg) {
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(paths.len(), model.len());
                for last in 0..12 {
                    for port in 1..4 {
                        let key = (PortId(0), addr(last, port));
                        prop_assert_eq!(paths.find(key.0, key.1), model.get(&key).copied());
                    }
                }
            }
        }
    }
}
