// SPDX-License-Identifier: Apache-2.0

//! The seed's decisions. Each concern has a stream of its own, so that one that is left out (when a failure is made smaller) changes
//! nothing of what the others decide.

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// What decisions are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    /// How big and how bad everything is.
    Mix = 1,
    /// What clients do.
    Load = 2,
    /// How long things take, and what else the product is told of chance.
    Time = 3,
    /// Frames.
    Network = 4,
    /// Processes that die.
    Crashes = 5,
    /// Disks.
    Disks = 6,
    /// Partitions and suspicions.
    Partitions = 7,
    /// What operators do: transfers, members, repairs.
    Operators = 8,
}

impl Random {
    /// A stream of its own for each seed and concern.
    pub fn new(seed: u64, concern: Concern) -> Random {
        let mut random = Random(seed);
        let seed = random.draw();
        random = Random(seed ^ (concern as u64).wrapping_mul(0xd6e8_feb8_6659_fd93));
        random.draw();
        random
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    /// `true` in so many cases of a thousand.
    pub fn per_mille(&mut self, cases: u64) -> bool {
        self.draw() % 1000 < cases
    }

    /// An index below `len`, which must not be 0.
    pub fn index(&mut self, len: usize) -> usize {
        (self.draw() % len as u64) as usize
    }
}
