// SPDX-License-Identifier: Apache-2.0

//! Bugs that the simulator must find: a check that never fails proves nothing.
//!
//! They stand in the product's code, where the rules are kept that they break ([`mraft_types::planted`]); only a build with the feature
//! `planted` has them. A bug is found when a seed breaks a promise with it and none without it. How many seeds that takes is found out
//! from several places in the seeds, and the median says it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mraft_sim::{Mix, Width};
use mraft_types::planted::{Bug, plant};

use crate::panics::{Panic, run_caught};

/// A bug must be found within so many seeds.
pub const SEEDS_MAX: u64 = 2_000;
/// What something else finds is looked for through so many only.
pub const BRIEF_SEEDS_MAX: u64 = 200;
/// A thread looks at about so many seeds until all threads have looked at theirs.
const BLOCK_PER_JOB: u64 = 16;
/// Two searches are so far apart, so that none runs into the next.
const SEARCH_STRIDE: u64 = 1_000_000;

/// Beside the seed that is known to find it, a bug is looked for on so many others.
pub const FRESH_SEEDS: u64 = 20;

/// The known seeds, written with the table.
const KNOWN: &str = include_str!("../planted.txt");
/// Where the exploration of small worlds says which bugs it has to find, and in which of them.
const EXPLORED: &str = include_str!("../../explore/src/planted.rs");

/// By a bug's name, the seed that is known to find it.
pub fn known_seeds() -> BTreeMap<&'static str, u64> {
    let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' ').and_then(|(name, seed)| Some((name, seed.parse().ok()?))))
        .collect()
}

/// Whether the exploration of small worlds fails unless it finds this bug.
pub fn is_explored(bug: Bug) -> bool {
    EXPLORED.lines().any(|line| line.trim_start().starts_with(&format!("Bug::{bug:?} => Where::In(")))
}

/// What is wrong with the list of known seeds: bugs that nothing is known to find, and names that no bug has.
pub fn gaps(known: &BTreeMap<&str, u64>) -> Vec<String> {
    let is_sought = |bug: &&Bug| known.contains_key(bug.name()) || is_explored(**bug);
    let unsought = Bug::ALL.iter().filter(|bug| !is_sought(bug)).map(|bug| bug.name());
    let names: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    let strangers = known.keys().filter(|name| !names.contains(*name));
    let unsought =
        unsought.map(|name| format!("{name} has no known seed, and no small world has to find it"));
    unsought.chain(strangers.map(|name| format!("{name} has a known seed and is no planted bug"))).collect()
}

/// What a seed came to with a bug in it, or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All promises were kept.
    Kept,
    /// This one was not.
    Broken {
        /// The promise.
        promise: &'static str,
        /// How it broke.
        how: String,
    },
    /// The run ended without any check having said something: that is no find.
    Panicked(Panic),
}

impl Outcome {
    /// The promise that broke.
    pub fn promise(&self) -> Option<&'static str> {
        if let Outcome::Broken { promise, .. } = self { Some(promise) } else { None }
    }

    /// The panic that it ended with.
    pub fn panic(&self) -> Option<&Panic> {
        if let Outcome::Panicked(panic) = self { Some(panic) } else { None }
    }
}

/// A search's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Seeds run, the one that found it included.
    pub seeds: u64,
    /// That seed.
    pub seed: u64,
    /// The promise that broke.
    pub promise: &'static str,
}

/// Runs a seed with whatever is planted in this thread.
fn outcome(seed: u64) -> Outcome {
    match run_caught(seed, &Mix::draw(seed, Width::Default)) {
        Ok(report) => report
            .broken
            .map_or(Outcome::Kept, |broken| Outcome::Broken { promise: broken.promise, how: broken.how }),
        Err(panic) => Outcome::Panicked(panic),
    }
}

/// Runs these seeds with a bug, or without any.
pub fn outcomes(bug: Option<Bug>, seeds: &[u64], jobs: u64) -> BTreeMap<u64, Outcome> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let look = || {
        plant(bug);
        while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = outcome(*seed);
            if let Ok(mut done) = done.lock() {
                done.insert(*seed, outcome);
            }
        }
        plant(None);
    };
    std::thread::scope(|scope| (0..jobs).for_each(|_| _ = scope.spawn(look)));
    done.into_inner().unwrap_or_default()
}

/// Looks for a bug from this seed on, with `jobs` threads, some seeds at a time: the first one that finds it. `tell` hears of panics.
pub fn find(
    bug: Bug,
    from: u64,
    seeds_max: u64,
    jobs: u64,
    tell: &(impl Fn(u64, &Panic) + Sync),
) -> Option<Found> {
    let end = from + seeds_max;
    (from..end).step_by((jobs * BLOCK_PER_JOB) as usize).find_map(|at| {
        let (next, first) = (AtomicU64::new(at), AtomicU64::new(end));
        let end = end.min(at + jobs * BLOCK_PER_JOB);
        let found = |seed| {
            let outcome = outcome(seed);
            if let Some(panic) = outcome.panic() {
                tell(seed, panic);
            }
            let promise = outcome.promise()?;
            first.fetch_min(seed, Ordering::Relaxed);
            Some(Found { seeds: seed - from + 1, seed, promise })
        };
        let look = || {
            plant(Some(bug));
            let seeds = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
            // Whoever is behind the first one has nothing to add.
            let seeds = seeds.take_while(|seed| *seed < end.min(first.load(Ordering::Relaxed)));
            let found = seeds.filter_map(found).min_by_key(|found| found.seed);
            plant(None);
            found
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs).map(|_| scope.spawn(look)).collect();
            let found = threads.into_iter().filter_map(|thread| thread.join().ok().flatten());
            found.min_by_key(|found| found.seed)
        })
    })
}

/// Looks for a bug from several places: what each search found. When so many found nothing that most of them did not, the others are
/// spared, and count as such.
pub fn search(
    bug: Bug,
    searches: u64,
    seeds_max: u64,
    jobs: u64,
    tell: &(impl Fn(u64, &Panic) + Sync),
) -> Vec<Option<Found>> {
    let mut found: Vec<Option<Found>> = Vec::new();
    for at in 0..searches {
        let failed = found.iter().filter(|found| found.is_none()).count() as u64;
        let is_hopeless = 2 * failed > searches;
        found.push(if is_hopeless { None } else { find(bug, at * SEARCH_STRIDE, seeds_max, jobs, tell) });
    }
    found
}

/// The median number of seeds of the searches, if most found something.
pub fn median(found: &[Option<Found>]) -> Option<u64> {
    let mut seeds: Vec<u64> =
        found.iter().map(|found| found.as_ref().map_or(u64::MAX, |found| found.seeds)).collect();
    seeds.sort_unstable();
    seeds.get(seeds.len() / 2).copied().filter(|seeds| *seeds < u64::MAX)
}

/// Whether a seed breaks nothing without a bug.
pub fn is_clean(seed: u64) -> bool {
    plant(None);
    outcome(seed) == Outcome::Kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_is_known_to_be_found_by_something() {
        let known = known_seeds();
        assert_eq!(gaps(&known), Vec::<String>::new());
        let found_by_worlds_only = Bug::ALL.iter().filter(|bug| !known.contains_key(bug.name())).count();
        assert!(found_by_worlds_only > 0 && found_by_worlds_only < known.len());
    }

    #[test]
    fn a_bug_that_nothing_looks_for_and_a_name_of_none_are_noticed() {
        let mut known = known_seeds();
        // No group sleeps in small worlds, so that only a seed can find this one.
        known.remove(Bug::LifeIgnored.name()).expect("it has a seed");
        known.insert("no-such-bug", 1);
        let gaps = gaps(&known);
        assert_eq!(gaps.len(), 2, "{gaps:?}");
        assert!(gaps[0].starts_with("life-ignored ") && gaps[1].starts_with("no-such-bug "), "{gaps:?}");
    }

    #[test]
    fn seeds_with_a_bug_are_told_from_those_without() {
        let seeds = [0, 1];
        let with = outcomes(Some(Bug::VotedTwice), &seeds, 2);
        assert_eq!(with.len(), 2);
        assert!(with.values().any(|outcome| outcome.promise().is_some()), "{with:?}");
        assert!(outcomes(None, &seeds, 1).values().all(|outcome| *outcome == Outcome::Kept));
    }

    #[test]
    fn the_median_counts_searches_that_found_nothing() {
        let found = |seeds| Some(Found { seeds, seed: seeds, promise: "one" });
        assert_eq!(median(&[found(9), found(2), None, found(5), found(7)]), Some(7));
        assert_eq!(median(&[found(9), None, None, None, found(7)]), None);
        assert_eq!(median(&[]), None);
    }
}
