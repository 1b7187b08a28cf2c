// SPDX-License-Identifier: Apache-2.0

//! What is said of planted bugs: a line of the table for each that is looked for at large, and for the suite whether those that are known
//! to be found still are.
//!
//! A bug that is hardly found any more must be seen before it is not found at all: so fresh seeds are run beside the known one, always.

use std::collections::BTreeSet;
use std::fmt;
use std::process::ExitCode;

use mraft_types::planted::Bug;

use crate::panics::Panic;
use crate::planted::{
    BRIEF_SEEDS_MAX, FRESH_SEEDS, Outcome, SEEDS_MAX, gaps, is_clean, is_explored, known_seeds, median,
    outcomes, search,
};
use crate::runner::{Options, say};

/// Looks for each of these bugs at large.
pub fn find_all(bugs: &[Bug], options: &Options) -> ExitCode {
    let mut is_ok = true;
    say("| bug | rule | what is wrong | seeds | first | promise |\n|---|---|---|---:|---:|---|");
    for bug in bugs.iter().copied() {
        let (name, rule, wrong) = (bug.name(), bug.rule(), bug.says());
        let is_brief = options.brief.iter().any(|brief| brief == name);
        let seeds_max =
            options.seeds.unwrap_or(SEEDS_MAX).min(if is_brief { BRIEF_SEEDS_MAX } else { u64::MAX });
        let tell = |seed, panic: &Panic| say(NoFind { bug, seed, panic });
        let mut found = search(bug, options.searches, seeds_max, options.jobs as u64, &tell);
        for found in &mut found {
            if let Some(seed) = found.as_ref().map(|found| found.seed).filter(|seed| !is_clean(*seed)) {
                say(format_args!("{name} IS NOT THE CAUSE: seed {seed} breaks a promise without it too"));
                *found = None;
            }
        }
        let finders = found.iter().flatten().count();
        is_ok &= finders == found.len() || is_brief;
        let Some(seeds) = median(&found) else {
            say(format_args!("| {name} | {rule} | {wrong} | | | |"));
            continue;
        };
        let of =
            if finders < found.len() { format!(" ({finders} of {})", found.len()) } else { String::new() };
        let mut promises: Vec<&str> = found.iter().flatten().map(|found| found.promise).collect();
        promises.sort_unstable();
        promises.dedup();
        let soonest = found.iter().flatten().min_by_key(|found| found.seeds);
        let first = soonest.map_or(0, |found| found.seed);
        say(format_args!("| {name} | {rule} | {wrong} | {seeds}{of} | {first} | {} |", promises.join("; ")));
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs each bug that has a known seed on that one and on fresh ones.
pub fn find_known(bugs: &[Bug], from: u64, jobs: u64) -> ExitCode {
    let known = known_seeds();
    let mut failures = gaps(&known);
    let fresh: Vec<u64> = (from..from.saturating_add(FRESH_SEEDS)).collect();
    let with_seed = |bug: &Bug| known.get(bug.name()).map(|seed| (*bug, *seed));
    let sought: Vec<(Bug, u64)> = bugs.iter().filter_map(with_seed).collect();

    // What a seed breaks without a bug says nothing of one.
    let mut all: Vec<u64> = sought.iter().map(|(_, seed)| *seed).chain(fresh.iter().copied()).collect();
    all.sort_unstable();
    all.dedup();
    let mut unclean = BTreeSet::new();
    for (seed, outcome) in outcomes(None, &all, jobs) {
        let how = match outcome {
            Outcome::Kept => continue,
            Outcome::Broken { promise, how } => format!("{promise}: {how}"),
            Outcome::Panicked(panic) => panic.to_string(),
        };
        failures.push(format!(
            "seed {seed} fails without any bug, again: cargo xtask sim --seeds 1 --from {seed}: {how}"
        ));
        unclean.insert(seed);
    }

    let mut lost = Vec::new();
    for bug in bugs.iter().copied() {
        let Some(seed) = known.get(bug.name()).copied() else {
            let by = if is_explored(bug) { "small worlds find it" } else { "nothing is known to find it" };
            say(format_args!("{:26} no known seed: {by}", bug.name()));
            continue;
        };
        let mut seeds = fresh.clone();
        if !fresh.contains(&seed) {
            seeds.push(seed);
        }
        let mut seen = outcomes(Some(bug), &seeds, jobs);
        seen.retain(|seed, _| !unclean.contains(seed));
        for (seed, panic) in seen.iter().filter_map(|(seed, outcome)| Some((*seed, outcome.panic()?))) {
            say(NoFind { bug, seed, panic });
            if !panic.is_of_product() {
                failures.push(format!("{}: {panic} in seed {seed}", bug.name()));
            }
        }
        let by_known = seen.get(&seed).and_then(Outcome::promise);
        let by_fresh: Vec<&str> = fresh.iter().filter_map(|seed| seen.get(seed)?.promise()).collect();
        say(Sighting { bug, seed, by_known, by_fresh: &by_fresh });
        if by_known.is_none() {
            lost.push((bug, seed, by_fresh.len()));
        }
    }
    for (bug, seed, finders) in &lost {
        let name = bug.name();
        if *finders == 0 {
            failures.push(format!("{name} is not found on seed {seed}, nor on {FRESH_SEEDS} from {from} on"));
        }
        say(format_args!(
            "LOST ITS SEED: {name} is not found on seed {seed} any more, and on {finders} of {FRESH_SEEDS} fresh ones"
        ));
    }
    if !lost.is_empty() {
        say("known seeds are renewed by: cargo xtask sim --planted --write");
    }
    for failure in &failures {
        say(format_args!("FAILED: {failure}"));
    }
    say(format_args!(
        "{} planted bugs, {} with a known seed, {} of which do not find theirs any more; {} failures",
        bugs.len(),
        sought.len(),
        lost.len(),
        failures.len()
    ));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What finds a bug.
struct Sighting<'a> {
    bug: Bug,
    seed: u64,
    by_known: Option<&'static str>,
    by_fresh: &'a [&'static str],
}

impl fmt::Display for Sighting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sighting { bug, seed, by_known, by_fresh } = self;
        let finds = if by_known.is_some() { "finds it" } else { "DOES NOT" };
        write!(
            f,
            "{:26} seed {seed:8} {finds}, {:2} of {FRESH_SEEDS} fresh ones do",
            bug.name(),
            by_fresh.len()
        )?;
        let promises: BTreeSet<&str> = by_known.iter().chain(*by_fresh).copied().collect();
        promises
            .into_iter()
            .enumerate()
            .try_for_each(|(at, promise)| write!(f, "{} {promise}", if at == 0 { ":" } else { ";" }))
    }
}

/// A seed that ended with a panic and so says nothing about the bug that was planted.
struct NoFind<'a> {
    bug: Bug,
    seed: u64,
    panic: &'a Panic,
}

impl fmt::Display for NoFind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NoFind { bug, seed, panic } = self;
        let name = bug.name();
        write!(f, "{name} on seed {seed} is NO FIND, {panic}; again: ")?;
        write!(f, "cargo xtask sim --planted {name} --minimise --seeds 1 --from {seed}")
    }
}
