// SPDX-License-Identifier: Apache-2.0

//! The search's decisions, one after the other: all of them follow from the seed.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for each seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// An index below `len`; 0 of nothing.
    pub fn below(&mut self, len: usize) -> usize {
        (self.draw() % (len.max(1) as u64)) as usize
    }

    /// `true` in one of so many cases.
    pub fn one_in(&mut self, cases: u64) -> bool {
        self.draw().is_multiple_of(cases)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}
