// SPDX-License-Identifier: Apache-2.0

//! `mraft-sim --seeds N --from S`: runs seeds, stops at the first broken promise, and says what the seeds did.
//! `mraft-sim --planted [NAME]`: shows that each planted bug (or the named one) is found.

use std::process::ExitCode;

use mraft_sim::{Planted, Report, run};

/// A planted bug must be found within so many seeds.
const PLANTED_SEEDS_MAX: u64 = 500;

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
        reports.push(report);
        if reports.len().is_multiple_of(100) {
            println!("{} of {seeds} seeds", reports.len());
        }
    }
    let total = |part: fn(&Report) -> u64| reports.iter().map(part).sum::<u64>();
    let average = |part: fn(&Report) -> u64| total(part) as f64 / reports.len().max(1) as f64;
    let share = |part: fn(&Report) -> u64| {
        100.0 * reports.iter().filter(|report| part(report) > 0).count() as f64 / reports.len().max(1) as f64
    };
    println!("{} seeds from {from}, no promise broken; on average per seed:", reports.len());
    println!("  operations          {:8.1}", average(|report| report.operations));
    println!("  acknowledged writes {:8.1}", average(|report| report.acknowledged));
    println!("  crashes             {:8.1}", average(|report| report.crashes));
    println!("  partitions          {:8.1}", average(|report| report.partitions));
    println!("seeds that installed a snapshot:  {:5.1} %", share(|report| report.snapshots_installed));
    println!("seeds that recycled a segment:    {:5.1} %", share(|report| report.segments_recycled));
    println!("seeds that compared all replicas: {:5.1} %", share(|report| report.groups_compared));
    ExitCode::SUCCESS
}

fn find_planted(bugs: &[Planted], from: u64) -> ExitCode {
    let mut missed = 0;
    for bug in bugs {
        let found = (from..from + PLANTED_SEEDS_MAX)
            .find_map(|seed| run(seed, Some(*bug)).broken.map(|broken| (seed, broken)));
        match found {
            Some((seed, broken)) => {
                println!("{:20} found after {:3} seeds by: {}", bug.name(), seed - from + 1, broken.promise);
            }
            None => {
                missed += 1;
                println!("{:20} NOT FOUND within {PLANTED_SEEDS_MAX} seeds", bug.name());
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
