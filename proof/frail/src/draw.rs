// SPDX-License-Identifier: Apache-2.0

//! Chance that follows from a seed.

/// A source of numbers; a seed gives the same ones again.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// Numbers that follow from the seed.
    pub fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    /// One of the numbers below the bound (SplitMix64).
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound.max(1)
    }
}

/// How much of what is unsynced at one place survives. With a coin for each piece alone, a write of many pieces would never survive whole,
/// and never get lost whole: both happen to real disks, and both are cases of their own for whoever recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Nothing,
    Half,
    NearlyAll,
    All,
}

impl Share {
    /// Without chance nothing does.
    pub fn of(draw: Option<&mut Draw>) -> Share {
        match draw.map_or(0, |draw| draw.below(4)) {
            0 => Share::Nothing,
            1 => Share::Half,
            2 => Share::NearlyAll,
            _ => Share::All,
        }
    }

    pub fn keeps(self, draw: Option<&mut Draw>) -> bool {
        let below = |bound| draw.map_or(0, |draw| draw.below(bound));
        match self {
            Share::Nothing => false,
            Share::Half => below(2) == 0,
            Share::NearlyAll => below(16) != 0,
            Share::All => true,
        }
    }
}
