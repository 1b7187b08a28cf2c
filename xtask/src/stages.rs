// SPDX-License-Identifier: Apache-2.0

//! The stages of the test suite, in order: cheap ones first. A failure ends the run and names the command.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::{planted, tidy};

/// Seeds of the simulator that are the same in every run.
const FIXED_SEEDS: &str = "300";
/// Seeds of the simulator that are others for every commit, enough to be judged by themselves.
const FRESH_SEEDS: &str = "300";
/// Seeds of the wide mix, others for every commit.
const WIDE_SEEDS: &str = "60";
/// Executions of a cheap decoder with hostile bytes; about a minute for all of them.
const FUZZ_RUNS: &str = "200000";
/// Stands in a command for the first fresh seed: the commit names it, so that whoever repeats the run has the same.
const FRESH_FROM: &str = "FRESH_FROM";
/// The first fresh seed where no commit is known; beyond the fixed ones.
const FRESH_FROM_WITHOUT_COMMIT: u64 = 1_000_000;

/// States of each small world: enough to exhaust the smaller ones.
const WORLD_STATES_MAX: &str = "400000";

struct Stage {
    name: &'static str,
    run: Run,
}

/// What a stage runs.
enum Run {
    /// This command.
    Command(&'static [&'static str]),
    /// A program of `proof`, with these arguments.
    Proof(&'static str, &'static [&'static str]),
    /// The same with the planted bugs in it.
    Planted(&'static str, &'static [&'static str]),
}

impl Run {
    /// The words of its command.
    fn words(&self) -> Vec<&'static str> {
        match self {
            Run::Command(words) => words.to_vec(),
            Run::Proof(package, arguments) => proof(package, false, arguments),
            Run::Planted(package, arguments) => proof(package, true, arguments),
        }
    }
}

/// How a program of `proof` is run.
pub(crate) fn proof<'a>(package: &'a str, has_bugs: bool, arguments: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["cargo", "run", "--quiet", "--locked", "--profile", "sim", "--package", package];
    if has_bugs {
        // In a place of its own: no binary that is used for anything else must come from a build with bugs in it.
        words.extend(["--features", "planted", "--target-dir", "target/planted"]);
    }
    words.push("--");
    words.extend(arguments);
    words
}

const STAGES: &[Stage] = &[
    Stage { name: "format", run: Run::Command(&["cargo", "fmt", "--all", "--check"]) },
    Stage {
        name: "lints",
        run: Run::Command(&[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    },
    Stage {
        name: "tests",
        // The process faults come later, against a binary that was built for them.
        run: Run::Command(&[
            "cargo",
            "test",
            "--workspace",
            "--exclude",
            "mraft-faults",
            "--locked",
            "--no-fail-fast",
        ]),
    },
    Stage {
        name: "embedded example",
        run: Run::Command(&[
            "cargo",
            "run",
            "--quiet",
            "--locked",
            "--package",
            "mraft",
            "--example",
            "embedded",
        ]),
    },
    Stage { name: "small worlds", run: Run::Proof("mraft-explore", &["--states-max", WORLD_STATES_MAX]) },
    Stage {
        name: "simulator, the same seeds as always",
        run: Run::Proof(
            "mraft-sim",
            &["--seeds", FIXED_SEEDS, "--from", "0", "--regressions", "--all-marks"],
        ),
    },
    Stage {
        name: "simulator, seeds of this commit",
        run: Run::Proof("mraft-sim", &["--seeds", FRESH_SEEDS, "--from", FRESH_FROM]),
    },
    Stage {
        name: "simulator, wide",
        run: Run::Proof("mraft-sim", &["--wide", "--seeds", WIDE_SEEDS, "--from", FRESH_FROM]),
    },
    Stage {
        name: "planted bugs",
        run: Run::Planted("mraft-sim", &["--planted", "--known", "--from", FRESH_FROM]),
    },
    Stage { name: "small worlds with planted bugs", run: Run::Planted("mraft-explore", &["--planted"]) },
    Stage {
        name: "hostile bytes",
        run: Run::Command(&["cargo", "xtask", "fuzz", "--runs", FUZZ_RUNS, "--seed", FRESH_FROM]),
    },
    Stage {
        name: "process faults",
        run: Run::Command(&[
            "cargo",
            "test",
            "--quiet",
            "--locked",
            "--profile",
            "sim",
            "--package",
            "mraft-faults",
            "--",
            "--nocapture",
        ]),
    },
];

/// Tests counted over all stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Tests that said so themselves; the next line of results counts them as passed.
    said_skipped: u64,
}

/// Runs everything.
pub(crate) fn run(root: &Path) -> ExitCode {
    let mut count = Count::default();
    let began = Instant::now();
    println!("== tidy");
    let complaints = tidy::check(root);
    if !complaints.is_empty() {
        complaints.iter().for_each(|complaint| println!("{complaint}"));
        println!("tidy: {} complaints", complaints.len());
        return ExitCode::FAILURE;
    }
    let fresh_from = fresh_from(root).to_string();
    for stage in STAGES {
        println!("== {}", stage.name);
        let stage_began = Instant::now();
        let command: Vec<&str> = stage
            .run
            .words()
            .into_iter()
            .map(|word| if word == FRESH_FROM { fresh_from.as_str() } else { word })
            .collect();
        let is_ok = run_one(root, &command, &mut count);
        println!(
            "== {}: {} in {} s",
            stage.name,
            if is_ok { "ok" } else { "FAILED" },
            stage_began.elapsed().as_secs()
        );
        if !is_ok {
            println!("failed: {}", command.join(" "));
            count.failed = count.failed.max(1);
            close(count, began);
            return count.verdict();
        }
    }
    println!("== no planted bugs in the product");
    if !planted::product_has_none(root) {
        println!(
            "failed: the product's binary must have no planted bug in it, and one with bugs must be told from it"
        );
        count.failed += 1;
    }
    deny(root, &mut count);
    close(count, began);
    count.verdict()
}

fn close(count: Count, began: Instant) {
    println!("the whole suite took {} s", began.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", count.passed, count.failed, count.skipped);
}

/// Runs the simulator with the caller's arguments.
pub(crate) fn simulate(root: &Path, arguments: &[String]) -> ExitCode {
    run_proof(root, "mraft-sim", arguments)
}

/// Explores small worlds with the caller's arguments.
pub(crate) fn explore(root: &Path, arguments: &[String]) -> ExitCode {
    run_proof(root, "mraft-explore", arguments)
}

/// Runs the long run of process faults with the caller's arguments.
pub(crate) fn endure(root: &Path, arguments: &[String]) -> ExitCode {
    run_proof(root, "mraft-faults", arguments)
}

fn run_proof(root: &Path, package: &str, arguments: &[String]) -> ExitCode {
    let has_bugs = arguments.iter().any(|argument| argument == "--planted");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let words = proof(package, has_bugs, &arguments);
    let status = Command::new(words[0]).args(&words[1..]).current_dir(root).status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The first of the seeds that nobody has run yet: the commit's first digits.
fn fresh_from(root: &Path) -> u64 {
    let commit = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output();
    let commit =
        commit.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    seed_of_commit(&commit).unwrap_or(FRESH_FROM_WITHOUT_COMMIT)
}

fn seed_of_commit(commit: &str) -> Option<u64> {
    u64::from_str_radix(commit.get(..8)?, 16).ok()
}

/// Runs one command, passes its output on and counts what its tests say of themselves.
fn run_one(root: &Path, command: &[&str], count: &mut Count) -> bool {
    let Some((program, arguments)) = command.split_first() else { return false };
    let child = Command::new(program).args(arguments).current_dir(root).stdout(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            println!("{program} does not start: {error}");
            return false;
        }
    };
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            count.read(&line);
            println!("{line}");
        }
    }
    child.wait().is_ok_and(|status| status.success())
}

/// Bans, licences and sources, where the tool is there.
fn deny(root: &Path, count: &mut Count) {
    println!("== dependencies");
    let is_there = Command::new("cargo")
        .args(["deny", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !is_there {
        count.skipped += 1;
        println!("SKIPPED: cargo-deny is not installed, so bans, licences and sources were NOT checked");
        return;
    }
    let is_ok = run_one(root, &["cargo", "deny", "check", "bans", "licenses", "sources"], count);
    if is_ok { count.passed += 1 } else { count.failed += 1 }
}

impl Count {
    /// One failure anywhere is a failure of the whole.
    fn verdict(self) -> ExitCode {
        if self.failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Reads a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; …`, or what a test says that cannot run here: it passes.
    fn read(&mut self, line: &str) {
        if line.starts_with("SKIPPED: ") {
            self.said_skipped += 1;
            return;
        }
        let Some((_, numbers)) = line.split_once("test result: ") else { return };
        for part in numbers.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what {
                "passed" => {
                    let skipped = std::mem::take(&mut self.said_skipped).min(number);
                    self.passed += number - skipped;
                    self.skipped += skipped;
                }
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_was_only_counted_fails_the_suite() {
        let count = |failed| Count { passed: 9, failed, skipped: 1, ..Count::default() };
        // An `ExitCode` compares by its text only.
        let said = |count: Count| format!("{:?}", count.verdict());
        assert_eq!(said(count(0)), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(said(count(1)), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_commit_names_its_seeds() {
        assert_eq!(seed_of_commit("0000ff00d3b2\n"), Some(0xff00));
        assert_eq!(seed_of_commit("not a commit"), None);
        assert_eq!(seed_of_commit(""), None);
    }

    #[test]
    fn results_are_counted_as_cargo_prints_them() {
        let mut count = Count::default();
        count.read(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
        );
        count.read("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        count.read("running 3 tests");
        assert_eq!(count, Count { passed: 14, failed: 3, skipped: 1, said_skipped: 0 });
        count.read("SKIPPED: this system cannot do it");
        count.read(
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        assert_eq!(count, Count { passed: 17, failed: 3, skipped: 2, said_skipped: 0 });
    }
}
