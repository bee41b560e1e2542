//! One deadline per leg in a heap of fixed size: setting, moving and ending one allocate nothing.

use gangway_shared::time::Time;

/// Not in the heap.
const ABSENT: u32 = u32::MAX;

/// Deadlines of all legs, the soonest first; equal ones by slot, so that simulations replay.
#[derive(Debug)]
pub(super) struct Deadlines {
    heap: Vec<(Time, u32)>,
    /// Where in the heap a slot's deadline is.
    places: Vec<u32>,
}

impl Deadlines {
    /// For slots `0..slots`.
    pub(super) fn new(slots: u32) -> Self {
        Deadlines { heap: Vec::with_capacity(slots as usize), places: vec![ABSENT; slots as usize] }
    }

    /// The soonest deadline.
    pub(super) fn next(&self) -> Option<Time> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// Takes a slot whose deadline is due, if any is.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<u32> {
        let (at, slot) = *self.heap.first()?;
        if at > now {
            return None;
        }
        self.set(slot, None);
        Some(slot)
    }

    /// The deadline of a slot.
    pub(super) fn of(&self, slot: u32) -> Option<Time> {
        self.heap.get(self.places[slot as usize] as usize).map(|(at, _)| *at)
    }

    /// Sets, moves or ends the deadline of a slot.
    pub(super) fn set(&mut self, slot: u32, deadline: Option<Time>) {
        let place = self.places[slot as usize];
        match (deadline, place) {
            (None, ABSENT) => {}
            (None, place) => self.remove(place as usize),
            (Some(at), ABSENT) => {
                self.heap.push((at, slot));
                self.places[slot as usize] = self.heap.len() as u32 - 1;
                self.rise(self.heap.len() - 1);
            }
            (Some(at), place) => {
                self.heap[place as usize].0 = at;
                let place = self.rise(place as usize);
                self.sink(place);
            }
        }
    }

    fn remove(&mut self, place: usize) {
        let (_, slot) = self.heap.swap_remove(place);
        self.places[slot as usize] = ABSENT;
        if place < self.heap.len() {
            self.places[self.heap[place].1 as usize] = place as u32;
            let place = self.rise(place);
            self.sink(place);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }

    fn rise(&mut self, mut place: usize) -> usize {
        while place > 0 && self.heap[place] < self.heap[(place - 1) / 2] {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        place
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = [2 * place + 1, 2 * place + 2].into_iter().filter(|child| *child < self.heap.len());
            let Some(least) = children.min_by_key(|child| self.heap[*child]) else { return };
            if self.heap[place] <= self.heap[least] {
                return;
            }
            self.swap(place, least);
            place = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn deadlines_come_due_in_order_whatever_was_moved_or_ended(
            steps in prop::collection::vec((0u32..20, prop::option::of(0u64..100)), 1..200),
        ) {
            let mut deadlines = Deadlines::new(20);
            let mut model = BTreeMap::new();
            for (slot, at) in steps {
                let at = at.map(Time::from_millis);
                deadlines.set(slot, at);
                match at {
                    Some(at) => model.insert(slot, at),
                    None => model.remove(&slot),
                };
                prop_assert_eq!(deadlines.next(), model.values().min().copied());
            }
            prop_assert_eq!(deadlines.pop_due(Time::ZERO).is_some(), model.values().any(|at| *at == Time::ZERO));
            let mut rest: Vec<_> = model.into_iter().map(|(slot, at)| (at, slot)).collect();
            rest.sort_unstable();
            let due = std::iter::from_fn(|| deadlines.pop_due(Time::from_millis(100))).collect::<Vec<_>>();
            let expected: Vec<_> = rest.iter().map(|(_, slot)| *slot).collect();
            prop_assert!(expected.ends_with(&due));
            prop_assert!(deadlines.next().is_none());
        }
    }
}
