//! What a leg has up to so many of, in memory that is touched only as far as it is used.
//!
//! The first of every leg lie side by side, then the second of every leg, and so on: what no leg ever had a third of has no memory
//! for thirds. How many of its places a leg has used stands in its record; nobody looks at those behind.

use std::ops::{Index, IndexMut};

/// The places of all legs.
#[derive(Debug)]
pub struct Columns<'a, T> {
    all: &'a mut [T],
    legs: usize,
}

impl<'a, T> Columns<'a, T> {
    pub(super) fn new(all: &'a mut [T], legs: u32) -> Self {
        Columns { all, legs: legs as usize }
    }

    /// Those of one leg, of which `len` were used.
    pub(crate) fn into_leg(self, leg: u32, len: u8) -> ColumnMut<'a, T> {
        ColumnMut { all: self.all, leg: leg as usize, legs: self.legs, len: len.into() }
    }
}

/// A leg's slot and a place of it.
impl<T> Index<(u32, usize)> for Columns<'_, T> {
    type Output = T;

    fn index(&self, (leg, place): (u32, usize)) -> &T {
        &self.all[place * self.legs + leg as usize]
    }
}

impl<T> IndexMut<(u32, usize)> for Columns<'_, T> {
    fn index_mut(&mut self, (leg, place): (u32, usize)) -> &mut T {
        &mut self.all[place * self.legs + leg as usize]
    }
}

/// The places of one leg.
#[derive(Clone, Copy, Debug)]
pub struct Column<'a, T> {
    all: &'a [T],
    leg: usize,
    legs: usize,
    len: usize,
}

impl<'a, T> Column<'a, T> {
    pub(super) fn new(all: &'a [T], legs: u32, leg: u32, len: u8) -> Self {
        Column { all, leg: leg as usize, legs: legs as usize, len: len.into() }
    }

    /// Those that were used, the first first.
    pub fn iter(&self) -> impl Iterator<Item = &'a T> + Clone + use<'a, T> {
        self.all[self.leg..].iter().step_by(self.legs).take(self.len)
    }

    /// How many were used.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when none was used.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<T> Index<usize> for Column<'_, T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.all[place * self.legs + self.leg]
    }
}

/// The places of one leg, to be changed.
#[derive(Debug)]
pub struct ColumnMut<'a, T> {
    all: &'a mut [T],
    leg: usize,
    legs: usize,
    len: usize,
}

impl<T> ColumnMut<'_, T> {
    /// The same to look at.
    #[must_use]
    pub fn view(&self) -> Column<'_, T> {
        Column { all: self.all, leg: self.leg, legs: self.legs, len: self.len }
    }

    /// Those that were used, the first first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all[self.leg..].iter_mut().step_by(self.legs).take(self.len)
    }

    /// Takes one more into use unless all places are: which, and how many are used now. The caller notes the number in the leg's
    /// record.
    pub fn extend(&mut self) -> Option<(usize, u8)> {
        let place = self.len;
        if place * self.legs >= self.all.len() {
            return None;
        }
        self.len += 1;
        Some((place, u8::try_from(self.len).expect("a leg has fewer than 256 places of anything")))
    }
}

impl<T> Index<usize> for ColumnMut<'_, T> {
    type Output = T;

    fn index(&self, place: usize) -> &T {
        &self.all[place * self.legs + self.leg]
    }
}

impl<T> IndexMut<usize> for ColumnMut<'_, T> {
    fn index_mut(&mut self, place: usize) -> &mut T {
        &mut self.all[place * self.legs + self.leg]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_leg_are_its_own_and_end() {
        let mut memory = [0; 6];
        for leg in 0..2 {
            let mut column = Columns::new(&mut memory, 2).into_leg(leg, 0);
            assert!(column.view().is_empty());
            for value in 1..=3 {
                let (place, len) = column.extend().unwrap();
                column[place] = 10 * value + leg;
                assert_eq!(u32::from(len), value);
            }
            assert_eq!(column.extend(), None);
            column.iter_mut().for_each(|value| *value += 1);
        }
        assert_eq!(memory, [11, 12, 21, 22, 31, 32], "the first of every leg, then the second");
        let seen = Column::new(&memory, 2, 1, 2);
        assert_eq!((seen.iter().collect::<Vec<_>>(), seen.len(), seen[2]), (vec![&12, &22], 2, 32));
        assert_eq!(Columns::new(&mut memory, 2)[(1, 2)], 32);
    }
}
