// SPDX-License-Identifier: Apache-2.0

//! The table of planted bugs: what the simulator and the exploration of small worlds each say of them, put together.
//!
//! Both print lines of a Markdown table, whose first column is the bug's name; one that neither of them finds is a failure.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use crate::stages::proof;

/// Where the table is kept.
const PAGE: &str = "docs/planted-bugs.md";
/// Which seed is known to find a bug, for the suite.
const SEEDS: &str = "proof/sim/planted.txt";

/// So many places in the seeds each bug is looked for from when the table is written: what stands in it are medians, and one search is the
/// luck of one place.
const SEARCHES: &str = "5";

/// What the page says before the table.
fn head(searches: &str) -> String {
    format!(
        "\
# Planted bugs

A check that never fails proves nothing. These bugs are planted in the product's code, where the rules are kept that they break
(`planted!`, `crates/types/src/planted.rs`): compiled in with one feature only, which no binary of the product has, and switched on one at
a time, per thread. `cargo xtask sim --planted --write` looks for each with the simulator and with the exploration of small worlds
([design/small-worlds.md](design/small-worlds.md)), and writes this page.

The simulator's figure is how many seeds it takes, the median of {searches} searches, each from a place of its own (seeds 0, 1,000,000 and
so on) and through 2,000 seeds at most; 200 for what a small world finds. \"(3 of 5)\" means that only three of five searches found the bug
within these; a bug that no small world finds must be found by all of them. The suite runs each bug that the simulator finds on the seed
that is known to find it (`proof/sim/planted.txt`) and on 20 fresh ones, says how many of them find it, and fails when none does; for the
others it explores.

A bug counts as found when a seed, or a world, breaks a promise with it and not without it. A crash of the simulator is no find.

"
    )
}

const SEEDS_HEAD: &str = "\
# Which seed is known to find a planted bug; written by `cargo xtask sim --planted --write`.
";

/// What the simulator says of a bug: its rule, what is wrong, seeds, the first seed that found it, the promise.
type OfSim = [String; 5];
/// What the exploration says of it: world, states, steps, promise.
type OfWorlds = [String; 4];

/// Stands in every binary that has planted bugs in it (`crates/types/src/planted.rs`).
const MARKER: &[u8] = b"mraft: planted bugs are inside";
/// A binary of the product, and one that has bugs in it; both are there when the stages before this one were run.
const PRODUCT: &str = "target/sim/mraft";
const WITH_BUGS: &str = "target/planted/sim/mraft-sim";

/// Whether the product's binary has no planted bug in it, and whether this would be noticed.
pub(crate) fn product_has_none(root: &Path) -> bool {
    let found = [PRODUCT, WITH_BUGS].map(|name| {
        let bytes = std::fs::read(root.join(name)).map_err(|error| println!("{name}: {error}")).ok()?;
        Some(has_marker(&bytes))
    });
    println!("planted bugs: in {PRODUCT} {:?}, in {WITH_BUGS} {:?}", found[0], found[1]);
    found == [Some(false), Some(true)]
}

fn has_marker(bytes: &[u8]) -> bool {
    bytes.windows(MARKER.len()).any(|window| window == MARKER)
}

/// Looks for all bugs, prints the table, and writes it down with `--write`.
pub(crate) fn run(root: &Path, arguments: &[String]) -> ExitCode {
    let is_written = arguments.iter().any(|argument| argument == "--write");
    let is_named = |pair: &[String]| pair[0] == "--planted" && !pair[1].starts_with("--");
    if is_written && arguments.windows(2).any(is_named) {
        eprintln!("--write writes the whole table: it goes with no bug's name");
        return ExitCode::from(2);
    }
    let (passed_on, searches) = for_simulator(arguments, is_written);
    let Some(worlds) = listen(root, "mraft-explore", &["--planted"]) else { return ExitCode::FAILURE };
    let worlds: BTreeMap<String, OfWorlds> = rows(&worlds);
    let by_worlds = worlds.iter().filter(|(_, row)| is_found(row)).map(|(name, _)| name.as_str());
    let by_worlds = by_worlds.collect::<Vec<_>>().join(",");
    let brief = ["--brief", &by_worlds];
    let Some(sim) = listen(root, "mraft-sim", &[&passed_on, &brief[..]].concat()) else {
        return ExitCode::FAILURE;
    };
    let sim: BTreeMap<String, OfSim> = rows(&sim);
    let (table, missed) = joined(&sim, &worlds);
    println!("\n{table}");
    for name in &missed {
        println!("{name}: NOT FOUND by small worlds, nor by every search of the simulator");
    }
    if sim.is_empty() {
        return ExitCode::FAILURE;
    }
    if is_written {
        let seeds: String = sim
            .iter()
            .filter(|(_, [.., seed, _])| seed.parse::<u64>().is_ok())
            .map(|(name, [.., seed, _])| format!("{name} {seed}\n"))
            .collect();
        let written = std::fs::write(root.join(PAGE), format!("{}{table}", head(searches)))
            .and_then(|()| std::fs::write(root.join(SEEDS), format!("{SEEDS_HEAD}{seeds}")));
        if let Err(error) = written {
            eprintln!("{PAGE} or {SEEDS} cannot be written: {error}");
            return ExitCode::FAILURE;
        }
    }
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the simulator is told, and how many searches that makes.
fn for_simulator(arguments: &[String], is_written: bool) -> (Vec<&str>, &str) {
    let mut passed_on: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| *argument != "--write").collect();
    let told = passed_on.iter().position(|argument| *argument == "--searches");
    let told = told.and_then(|at| passed_on.get(at + 1).copied());
    if is_written && told.is_none() {
        passed_on.extend(["--searches", SEARCHES]);
        return (passed_on, SEARCHES);
    }
    (passed_on, told.unwrap_or("1"))
}

/// Runs one of the two, passes on what it says, and keeps the lines of its table. `None` when it did not run at all.
fn listen(root: &Path, package: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let words = proof(package, true, arguments);
    let child = Command::new(words[0]).args(&words[1..]).current_dir(root).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| eprintln!("cargo does not start: {error}")).ok()?;
    let lines: Vec<String> = BufReader::new(child.stdout.take()?)
        .lines()
        .map_while(Result::ok)
        .inspect(|line| println!("{line}"))
        .collect();
    // Whether each bug was found is seen in the lines.
    child.wait().ok()?;
    (!lines.is_empty()).then_some(lines)
}

/// The rows of a table by their first column; heads and rules of tables have none that is a bug's name.
fn rows<const N: usize>(lines: &[String]) -> BTreeMap<String, [String; N]> {
    let row = |line: &String| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?;
        let mut cells = cells.split('|').map(|cell| cell.trim().to_owned());
        let name = cells.next().filter(|name| name != "bug" && !name.starts_with('-') && !name.is_empty())?;
        Some((name, cells.collect::<Vec<_>>().try_into().ok()?))
    };
    lines.iter().filter_map(row).collect()
}

/// Whether the small worlds found a bug.
fn is_found([_, states, ..]: &OfWorlds) -> bool {
    states.parse::<u64>().is_ok()
}

fn joined(sim: &BTreeMap<String, OfSim>, worlds: &BTreeMap<String, OfWorlds>) -> (String, Vec<String>) {
    let mut table = "\
| bug | rule | what is wrong | simulator: seeds (median) | promise that broke | small worlds: states | promise that broke |
|---|---|---|---:|---|---:|---|
"
    .to_owned();
    let mut missed = Vec::new();
    for (name, [rule, says, seeds, _, promise]) in sim {
        let nothing = OfWorlds::default();
        let [world, states, _, broken] = worlds.get(name).unwrap_or(&nothing);
        let is_by_worlds = worlds.get(name).is_some_and(is_found);
        let (states, broken) = match is_by_worlds {
            true => (format!("{states} of {world}"), broken.as_str()),
            false => (String::new(), ""),
        };
        // Anything but a number: nothing found it, or some searches only.
        let is_missed = seeds.parse::<u64>().is_err() && !is_by_worlds;
        let seeds = if is_missed && seeds.is_empty() { "not found" } else { seeds };
        if is_missed {
            missed.push(name.clone());
        }
        table += &format!("| {name} | {rule} | {says} | {seeds} | {promise} | {states} | {broken} |\n");
    }
    (table, missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_marker_is_the_one_that_bugs_bring_along() {
        let source = include_str!("../../crates/types/src/planted.rs");
        assert!(source.contains(std::str::from_utf8(MARKER).expect("text")));
        assert!(has_marker(source.as_bytes()) && !has_marker(&MARKER[1..]));
    }

    #[test]
    fn a_table_that_is_written_has_medians_of_several_searches() {
        let of = |arguments: &str| arguments.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let told = |arguments: &[String]| {
            let is_written = arguments.iter().any(|argument| argument == "--write");
            let (passed_on, searches) = for_simulator(arguments, is_written);
            format!("{} / {searches}", passed_on.join(" "))
        };
        assert_eq!(told(&of("--planted --write")), "--planted --searches 5 / 5");
        assert_eq!(told(&of("--planted --write --searches 3")), "--planted --searches 3 / 3");
        assert_eq!(told(&of("--planted name")), "--planted name / 1");
        assert!(head("3").contains("the median of 3 searches"));
    }

    #[test]
    fn what_some_searches_only_find_is_missed_unless_a_world_finds_it() {
        let sim = lines("| a | D1 | wrong | 9 (3 of 5) | 7 | one |\n| b | D2 | bad | 8 (4 of 5) | 3 | two |");
        let worlds = lines("| b | trio | 40 | 2 | two |");
        let (table, missed) = joined(&rows(&sim), &rows(&worlds));
        assert_eq!(missed, ["a"]);
        assert!(
            table.contains("| 9 (3 of 5) | one |") && table.contains("| 8 (4 of 5) | two | 40 of trio |")
        );
    }

    #[test]
    fn what_nobody_finds_is_missed_and_what_one_of_them_finds_is_not() {
        let sim = lines(
            "| bug | rule | what is wrong | seeds | first | promise |\n|---|---|---|---:|---:|---|\n\
             | a | D1 | wrong | 3 | 7 | one |\n| b | D2 | bad |  |  |  |\n| c | D3 | worse |  |  |  |\nother words",
        );
        let worlds = lines("| b | trio | 40 | 2 | two |\n| c | | | | not here: why |");
        let (sim, worlds) = (rows(&sim), rows(&worlds));
        let (table, missed) = joined(&sim, &worlds);
        assert_eq!(missed, ["c"]);
        assert!(table.contains("| a | D1 | wrong | 3 | one |  |  |\n"), "{table}");
        assert!(table.contains("| b | D2 | bad |  |  | 40 of trio | two |\n"), "{table}");
    }
}
