//! A table that knows which of its entries may have changed, for whoever writes changes down.
//!
//! Handing out `&mut` counts as a change; whether it was one is for the writer to find out.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

/// A map whose reads are those of [`BTreeMap`] and whose writes leave a mark.
#[derive(Clone, Debug)]
pub struct Tracked<K, V> {
    entries: BTreeMap<K, V>,
    /// Absent: nobody asks, so nothing is marked.
    touched: Option<BTreeSet<K>>,
}

impl<K, V> Default for Tracked<K, V> {
    /// An empty table that marks nothing.
    fn default() -> Self {
        Tracked { entries: BTreeMap::new(), touched: None }
    }
}

impl<K, V> Deref for Tracked<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.entries
    }
}

impl<'a, K, V> IntoIterator for &'a Tracked<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = std::collections::btree_map::Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.iter()
    }
}

impl<K: Ord + Clone, V> Tracked<K, V> {
    /// Marks changes from now on; they must be taken away by [`Tracked::take_touched`], or the marks pile up.
    pub fn track(&mut self) {
        self.touched.get_or_insert_default();
    }

    /// Marks an entry, there or not.
    pub fn touch(&mut self, key: &K) {
        if let Some(touched) = self.touched.as_mut().filter(|touched| !touched.contains(key)) {
            touched.insert(key.clone());
        }
    }

    /// Marks every entry.
    pub fn touch_all(&mut self) {
        if let Some(touched) = &mut self.touched {
            touched.extend(self.entries.keys().cloned());
        }
    }

    /// The marked keys in order; entries under them may be gone. Unmarks them.
    pub fn take_touched(&mut self) -> BTreeSet<K> {
        self.touched.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// An entry to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.entries.get_mut(key)?;
        if let Some(touched) = self.touched.as_mut().filter(|touched| !touched.contains(key)) {
            touched.insert(key.clone());
        }
        Some(value)
    }

    /// Puts an entry; the former one of that key.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.touch(&key);
        self.entries.insert(key, value)
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = self.entries.remove(key)?;
        self.touch(key);
        Some(value)
    }

    /// Every entry, for a change that nobody writes down: none of them is marked.
    pub fn values_mut_unmarked(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_changed_is_told_once_also_when_it_is_gone() {
        let mut table = Tracked::default();
        table.insert(1, "a");
        assert!(table.take_touched().is_empty(), "nobody asked yet");
        table.track();
        table.insert(2, "b");
        *table.get_mut(&1).unwrap() = "c";
        assert_eq!((table.get(&1), table.len()), (Some(&"c"), 2));
        assert_eq!(table.take_touched(), [1, 2].into());
        assert!(table.get_mut(&3).is_none() && table.remove(&3).is_none());
        table.remove(&2);
        assert_eq!(table.take_touched(), [2].into());
        assert!(table.take_touched().is_empty());
        table.touch_all();
        assert_eq!(table.take_touched(), [1].into());
    }
}
