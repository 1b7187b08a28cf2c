// SPDX-License-Identifier: Apache-2.0

//! What a run did, added up. What a run was for and never did is a failure of the run.

use std::io::Write;

use crate::autopsy::Hit;
use crate::failure::{Failure, Result};

/// One figure: its name, what it came to, and the least and the most that it may come to.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    value: u64,
    least: u64,
    most: u64,
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Counts {
    scenario: &'static str,
    rows: Vec<Row>,
}

/// What the kills of a run hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kills {
    /// Nodes killed.
    pub kills: u64,
    /// Kills in which one node died, …
    pub of_one: u64,
    /// … a majority at once, …
    pub of_majority: u64,
    /// … all at once.
    pub of_all: u64,
    /// Fewest writes under way at a kill.
    pub writes_in_flight_least: Option<u64>,
    /// Kills that found a recycled segment half overwritten.
    pub recycles_interrupted: u64,
    /// Snapshots on their way into a group of a node that was killed.
    pub installs_interrupted: u64,
    /// Snapshots that were installed.
    pub installs_done: u64,
    /// Segments recycled, as far as nodes had said so before they were killed.
    pub recycles: u64,
}

/// Prints a line where the test runner does not hide it: the figures are the point of a run, also of one that passes.
pub fn say(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

impl Kills {
    /// Takes in what an autopsy found.
    pub fn add(&mut self, hit: Hit) {
        self.kills += 1;
        self.recycles_interrupted += u64::from(hit.recycled_segment);
        self.installs_interrupted += hit.installs_under_way;
        self.installs_done += hit.installs_done;
    }

    /// How many writes were under way at a kill.
    pub fn in_flight(&mut self, writes: u64) {
        let least = self.writes_in_flight_least.get_or_insert(writes);
        *least = writes.min(*least);
    }
}

impl Counts {
    /// No figures yet.
    pub fn new(scenario: &'static str) -> Counts {
        Counts { scenario, rows: Vec::new() }
    }

    /// Adds a figure that must come to `least`.
    pub fn at_least(&mut self, least: u64, name: &'static str, value: u64) {
        self.rows.push(Row { name, value, least, most: u64::MAX });
    }

    /// Adds a figure that must not come to more than `most`.
    pub fn at_most(&mut self, most: u64, name: &'static str, value: u64) {
        self.rows.push(Row { name, value, least: 0, most });
    }

    /// Adds a figure that may come to anything.
    pub fn tell(&mut self, name: &'static str, value: u64) {
        self.at_least(0, name, value);
    }

    /// Prints the figures where the test runner does not hide them, and fails if one of them is too small.
    pub fn close(&self) -> Result<()> {
        let mut text = format!("== {}\n", self.scenario);
        for Row { name, value, least, most } in &self.rows {
            let verdict = match (*least, *most) {
                (0, u64::MAX) => String::new(),
                (least, _) if *value < least => format!("   TOO FEW: at least {least}"),
                (_, most) if *value > most => format!("   TOO MANY: at most {most}"),
                (0, most) => format!("   (at most {most})"),
                (least, _) => format!("   (at least {least})"),
            };
            text.push_str(&format!("{value:>10}  {name}{verdict}\n"));
        }
        say(text.trim_end());
        let names = |is_wrong: fn(&&Row) -> bool| {
            let names: Vec<&str> = self.rows.iter().filter(is_wrong).map(|row| row.name).collect();
            names.join(", ")
        };
        let (too_few, too_many) = (names(|row| row.value < row.least), names(|row| row.value > row.most));
        match (too_few.is_empty(), too_many.is_empty()) {
            (true, true) => Ok(()),
            (false, _) => Err(Failure::new(format_args!("the run did too little of: {too_few}"))),
            (true, false) => Err(Failure::new(format_args!("too much of: {too_many}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_fails_the_run() {
        let mut counts = Counts::new("a run");
        counts.at_least(1, "kills", 3);
        counts.tell("seconds", 0);
        assert_eq!(counts.close(), Ok(()));
        counts.at_least(1, "recycles interrupted", 0);
        assert!(counts.close().is_err_and(|failure| failure.to_string().contains("recycles interrupted")));
    }

    #[test]
    fn what_is_too_much_fails_the_run() {
        let mut counts = Counts::new("a run");
        counts.at_most(10, "terms", 10);
        assert_eq!(counts.close(), Ok(()));
        counts.at_most(10, "megabytes", 11);
        assert!(counts.close().is_err_and(|failure| failure.to_string().contains("too much of: megabytes")));
    }
}
