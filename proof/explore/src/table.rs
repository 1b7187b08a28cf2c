// SPDX-License-Identifier: Apache-2.0

//! Values by number. Whatever a state is made of is kept once, compared as a whole and named by its place: two states are the same state
//! exactly when their numbers are. No fingerprint stands for a value, so no two values can be taken for one.

use std::hash::{Hash, Hasher};

/// Stands for no place in an [`Index`].
const FREE: u32 = u32::MAX;

/// A table of values, each of which stands in it once.
#[derive(Debug)]
pub struct Table<T> {
    values: Vec<T>,
    index: Index,
}

impl<T: Hash + Eq> Table<T> {
    /// An empty one.
    pub fn new() -> Table<T> {
        Table { values: Vec::new(), index: Index::new() }
    }

    /// The number of a value; whether it is new.
    pub fn number(&mut self, value: T) -> (u32, bool) {
        let Table { values, index } = self;
        let place = index.place(hash(&value), |at| values[at as usize] == value);
        match place {
            Place::Taken(at) => (at, false),
            Place::Free(slot) => {
                let at = values.len() as u32;
                values.push(value);
                index.take(slot, at, |at| hash(&values[at as usize]));
                (at, true)
            }
        }
    }

    /// The value of a number that [`Table::number`] answered.
    pub fn get(&self, number: u32) -> &T {
        &self.values[number as usize]
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl<T: Hash + Eq> Default for Table<T> {
    fn default() -> Table<T> {
        Table::new()
    }
}

/// Where values stand, by their hashes. Linear probing; at most three quarters full.
#[derive(Debug)]
struct Index {
    slots: Vec<u32>,
    taken: usize,
}

enum Place {
    Taken(u32),
    Free(usize),
}

impl Index {
    fn new() -> Index {
        Index { slots: vec![FREE; 1 << 8], taken: 0 }
    }

    fn place(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Place {
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.slots[slot] {
                FREE => return Place::Free(slot),
                at if is_it(at) => return Place::Taken(at),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    fn take(&mut self, slot: usize, at: u32, hash_of: impl Fn(u32) -> u64) {
        assert!(at < FREE, "a table of at most 2^32 - 1 values");
        self.slots[slot] = at;
        self.taken += 1;
        if self.taken * 4 < self.slots.len() * 3 {
            return;
        }
        let mut slots = vec![FREE; self.slots.len() * 2];
        let mask = slots.len() - 1;
        for at in self.slots.iter().copied().filter(|at| *at != FREE) {
            let mut slot = hash_of(at) as usize & mask;
            while slots[slot] != FREE {
                slot = (slot + 1) & mask;
            }
            slots[slot] = at;
        }
        self.slots = slots;
    }
}

/// A hash of 64 bits; only speed depends on how good it is.
pub fn hash<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut folding = Folding::default();
    value.hash(&mut folding);
    folding.finish()
}

/// Multiplies and folds. Without keys, so that a run does the same every time.
#[derive(Clone, Copy, Debug)]
pub struct Folding(u64);

impl Default for Folding {
    fn default() -> Folding {
        Folding(0x243f_6a88_85a3_08d3)
    }
}

impl Folding {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (product >> 64) as u64 ^ product as u64 ^ self.0.rotate_left(29);
    }
}

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        let mut last = *self;
        last.fold(0x1319_8a2e_0370_7344);
        last.0 ^ last.0 >> 32
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.fold(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.fold(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.fold(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.fold(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.fold(value as u64);
    }
}

/// A map by numbers that is never walked through.
pub type NumberMap<K> = std::collections::HashMap<K, u32, std::hash::BuildHasherDefault<Folding>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_one_number_however_often_it_comes() {
        let mut table = Table::new();
        for round in 0..2 {
            for value in 0..10_000u64 {
                assert_eq!(table.number(value * value), (value as u32, round == 0));
            }
        }
        assert_eq!((table.len(), *table.get(77)), (10_000, 77 * 77));
    }

    #[test]
    fn values_with_one_hash_are_told_apart() {
        #[derive(PartialEq, Eq)]
        struct Same(u32);
        impl Hash for Same {
            fn hash<H: Hasher>(&self, hasher: &mut H) {
                hasher.write_u8(0);
            }
        }
        let mut table = Table::new();
        let numbers: Vec<_> = (0..600).map(|value| table.number(Same(value)).0).collect();
        assert!(numbers.iter().copied().eq(0..600));
        assert_eq!(table.number(Same(5)), (5, false));
    }
}
