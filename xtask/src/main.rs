// SPDX-License-Identifier: Apache-2.0

//! House chores: `cargo xtask test` is the whole test suite, `cargo xtask tidy` the house's own rules, `cargo xtask sim` the simulator,
//! `cargo xtask explore` the small worlds.
//!
//! Invariant: no dependencies, so that the first thing a fresh clone builds is small.

#![forbid(unsafe_code)]

mod fuzz;
mod manifest;
mod mutants;
mod planted;
mod stages;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  test                            everything that must pass: tidy, format, lints, tests, simulator
  tidy                            the house's own rules (arrows between crates, bans, heads, links)
  sim --seeds N --from S          simulate N clusters; stops at the first broken promise (sim --help: all that it can do)
  sim --planted [NAME]            show that each planted bug is found, by the simulator or in a small world; --write writes the table
  explore [--world NAME]          explore small worlds of one group, every state of them (--help says more)
  explore --planted [NAME]        show that each planted bug of the consensus core is found
  endurance --minutes N           hurt real nodes in every way in turn, until a cycle of faults ends after that time
  fuzz --runs N [--target NAME]   feed every decoder hostile bytes, N executions of a cheap one; `fuzz --help` tells more
  mutants [--crate NAME]          show that small wrong changes of raft, engine and logstore are noticed (--help says more)
";

fn main() -> ExitCode {
    if fuzz::is_compiler() {
        return fuzz::compile();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = root();
    match arguments.first().map(String::as_str) {
        Some("test") => stages::run(&root),
        Some("tidy") => tidy::run(&root),
        Some("fuzz") => fuzz::run(&root, &arguments[1..]),
        Some("sim") if is_table_wanted(&arguments[1..]) => planted::run(&root, &arguments[1..]),
        Some("sim") => stages::simulate(&root, &arguments[1..]),
        Some("explore") => stages::explore(&root, &arguments[1..]),
        Some("mutants") => mutants::run(&root, &arguments[1..]),
        Some("endurance") => stages::endure(&root, &arguments[1..]),
        Some("help" | "--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        other => {
            eprint!("unknown command {:?}\n\n{USAGE}", other.unwrap_or_default());
            ExitCode::from(2)
        }
    }
}

/// The workspace's root.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Whether planted bugs are looked for at large: on known seeds it is only asked whether they are still found.
fn is_table_wanted(arguments: &[String]) -> bool {
    let says = |wanted: &str| arguments.iter().any(|argument| argument == wanted);
    says("--planted") && !says("--known") && !says("--minimise")
}
