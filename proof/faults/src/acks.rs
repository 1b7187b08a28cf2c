// SPDX-License-Identifier: Apache-2.0

//! When writes were acknowledged: how many per group, and the longest time without one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Acknowledgements of a load. One row per group.
#[derive(Debug, Default)]
pub struct Acks(Mutex<BTreeMap<u64, OfGroup>>);

#[derive(Clone, Copy, Debug)]
struct OfGroup {
    count: u64,
    last: Instant,
    longest: Duration,
}

/// The longest time in which nothing was written: while nobody could write anything, and while nobody could write to some group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// In all groups at once.
    pub of_all: Duration,
    /// In the group where it was longest.
    pub of_one: Duration,
}

/// Stands for all groups together; no group has this id.
const ALL: u64 = u64::MAX;

impl Acks {
    /// A write to this group is acknowledged.
    pub fn add(&self, group: u64) {
        let (mut groups, now) = (self.lock(), Instant::now());
        for row in [group, ALL] {
            let row = groups.entry(row).or_insert(OfGroup { count: 0, last: now, longest: Duration::ZERO });
            row.count += 1;
            row.longest = row.longest.max(now - row.last);
            row.last = now;
        }
    }

    /// Gaps are measured from now on; only groups that were written to before are looked at.
    pub fn begin(&self) {
        let now = Instant::now();
        self.lock().values_mut().for_each(|row| (row.last, row.longest) = (now, Duration::ZERO));
    }

    /// The longest gaps since then, the ones that last still included.
    pub fn gap(&self) -> Gap {
        let (groups, now) = (self.lock(), Instant::now());
        let longest = |row: &OfGroup| row.longest.max(now - row.last);
        Gap {
            of_all: groups.get(&ALL).map(longest).unwrap_or_default(),
            of_one: groups.values().map(longest).max().unwrap_or_default(),
        }
    }

    /// How many writes each of the groups from 0 on has acknowledged.
    pub fn counts(&self, groups: u64) -> Vec<u64> {
        let rows = self.lock();
        (0..groups).map(|group| rows.get(&group).map_or(0, |row| row.count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, OfGroup>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_the_longest_of_any_group_and_ends_with_a_write() {
        let acks = Acks::default();
        acks.add(0);
        acks.add(1);
        acks.begin();
        let long_ago = Instant::now() - Duration::from_secs(60);
        acks.lock().insert(1, OfGroup { count: 7, last: long_ago, longest: Duration::ZERO });
        let gap = acks.gap();
        assert!(gap.of_one >= Duration::from_secs(60) && gap.of_all < gap.of_one, "{gap:?}");
        acks.add(1);
        assert!(acks.gap().of_one >= Duration::from_secs(60), "it was that long");
        assert_eq!(acks.counts(3), [1, 8, 0]);
        acks.begin();
        assert!(acks.gap().of_one < Duration::from_secs(60));
    }
}
