// SPDX-License-Identifier: Apache-2.0

//! `mraft-sim --seeds N --from S`: runs seeds, stops at the first broken promise, and says what the seeds did. It fails too when they
//! did too little, or when a seed does not do the same twice.
//! `mraft-sim --planted [NAME]`: shows that each planted bug (or the named one) is found.

use std::process::ExitCode;

use mraft_sim::summary::Summary;
use mraft_sim::{Planted, Report, run};

/// A planted bug must be found within so many seeds.
const PLANTED_SEEDS_MAX: u64 = 500;
/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 20;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut seeds, mut from, mut planted) = (100u64, 0u64, None);
    while let Some(argument) = arguments.next() {
        let mut number = |name: &str| match arguments.next().map(|value| value.parse()) {
            Some(Ok(value)) => Some(value),
            _ => {
                eprintln!("{name} needs a number");
                None
            }
        };
        match argument.as_str() {
            "--seeds" => match number("--seeds") {
                Some(0) => {
                    eprintln!("--seeds 0 would show nothing");
                    return ExitCode::from(2);
                }
                Some(value) => seeds = value,
                None => return ExitCode::from(2),
            },
            "--from" => match number("--from") {
                Some(value) => from = value,
                None => return ExitCode::from(2),
            },
            "--planted" => planted = Some(arguments.next()),
            other => {
                eprintln!("unknown argument {other}; known are --seeds N, --from S and --planted [NAME]");
                return ExitCode::from(2);
            }
        }
    }
    match planted {
        None => run_seeds(from, seeds),
        Some(None) => find_planted(&Planted::ALL, from),
        Some(Some(name)) => match Planted::ALL.iter().find(|bug| bug.name() == name) {
            Some(bug) => find_planted(&[*bug], from),
            None => {
                eprintln!("unknown bug {name}; known are {}", Planted::ALL.map(Planted::name).join(", "));
                ExitCode::from(2)
            }
        },
    }
}

fn run_seeds(from: u64, seeds: u64) -> ExitCode {
    let mut reports: Vec<Report> = Vec::new();
    for seed in from..from.saturating_add(seeds) {
        let report = run(seed, None);
        if let Some(broken) = &report.broken {
            println!("seed {seed} broke a promise: {broken}");
            println!("again: cargo xtask sim --seeds 1 --from {seed}");
            return ExitCode::FAILURE;
        }
        if (seed - from).is_multiple_of(TWICE_EVERY) && run(seed, None) != report {
            println!("seed {seed} did not do the same twice: something in it is not decided by the seed");
            println!("again: cargo xtask sim --seeds 1 --from {seed}");
            return ExitCode::FAILURE;
        }
        reports.push(report);
        if reports.len().is_multiple_of(100) {
            println!("{} of {seeds} seeds", reports.len());
        }
    }
    let summary = Summary::of(&reports);
    println!("{} seeds from {from}, no promise broken", reports.len());
    println!("{summary}");
    let shortfalls = summary.shortfalls();
    for shortfall in &shortfalls {
        println!("TOO LITTLE: {shortfall}");
    }
    if shortfalls.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn find_planted(bugs: &[Planted], from: u64) -> ExitCode {
    let mut is_ok = true;
    for bug in bugs {
        is_ok &= find(*bug, from);
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A bug is found when a seed breaks a promise that it must break, and breaks none without it.
fn find(bug: Planted, from: u64) -> bool {
    let name = bug.name();
    let found = (from..from + PLANTED_SEEDS_MAX)
        .find_map(|seed| run(seed, Some(bug)).broken.map(|broken| (seed, broken)));
    let Some((seed, broken)) = found else {
        println!("{name:20} NOT FOUND within {PLANTED_SEEDS_MAX} seeds");
        return false;
    };
    println!("{name:20} found after {:3} seeds by: {}", seed - from + 1, broken.promise);
    if !bug.promises().contains(&broken.promise) {
        println!("{name:20} NOT EXPECTED at seed {seed}: {broken}");
        return false;
    }
    if let Some(broken) = run(seed, None).broken {
        println!("{name:20} IS NOT THE CAUSE: without it seed {seed} breaks a promise too: {broken}");
        return false;
    }
    true
}
