// SPDX-License-Identifier: Apache-2.0

//! Bugs that the simulator must find: a check that never fails proves nothing.
//!
//! They stand in the product's code, where the rules are kept that they break ([`mraft_types::planted`]); only a build with the feature
//! `planted` has them. A bug is found when a seed breaks a promise with it and none without it. How many seeds that takes is found out
//! from several places in the seeds, and the median says it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use mraft_sim::{Mix, Width, run};
use mraft_types::planted::{Bug, plant};

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

/// By a bug's name, the seed that is known to find it.
pub fn known_seeds() -> BTreeMap<&'static str, u64> {
    let lines = include_str!("../planted.txt").lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' ').and_then(|(name, seed)| Some((name, seed.parse().ok()?))))
        .collect()
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
    /// How.
    pub how: String,
}

/// Looks for a bug from this seed on, with `jobs` threads, some seeds at a time: the first one that finds it.
pub fn find(bug: Bug, from: u64, seeds_max: u64, jobs: u64) -> Option<Found> {
    let end = from + seeds_max;
    (from..end).step_by((jobs * BLOCK_PER_JOB) as usize).find_map(|at| {
        let (next, first) = (AtomicU64::new(at), AtomicU64::new(end));
        let end = end.min(at + jobs * BLOCK_PER_JOB);
        let found = |seed| {
            let broken = run(seed, &Mix::draw(seed, Width::Default)).broken?;
            first.fetch_min(seed, Ordering::Relaxed);
            Some(Found { seeds: seed - from + 1, seed, promise: broken.promise, how: broken.how })
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
pub fn search(bug: Bug, searches: u64, seeds_max: u64, jobs: u64) -> Vec<Option<Found>> {
    let mut found: Vec<Option<Found>> = Vec::new();
    for at in 0..searches {
        let failed = found.iter().filter(|found| found.is_none()).count() as u64;
        let is_hopeless = 2 * failed > searches;
        found.push(if is_hopeless { None } else { find(bug, at * SEARCH_STRIDE, seeds_max, jobs) });
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
    run(seed, &Mix::draw(seed, Width::Default)).broken.is_none()
}
