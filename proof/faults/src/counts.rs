// SPDX-License-Identifier: Apache-2.0

//! What a run did, added up. What a run was for and never did is a failure of the run.

use std::io::Write;

use crate::autopsy::Hit;
use crate::failure::{Failure, Result};

/// One figure: its name, what it came to, and the least it must come to.
#[derive(Clone, Debug)]
struct Row {
    name: &'static str,
    value: u64,
    least: u64,
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
        self.rows.push(Row { name, value, least });
    }

    /// Adds a figure that may come to anything.
    pub fn tell(&mut self, name: &'static str, value: u64) {
        self.at_least(0, name, value);
    }

    /// Prints the figures where the test runner does not hide them, and fails if one of them is too small.
    pub fn close(&self) -> Result<()> {
        let mut text = format!("== {}\n", self.scenario);
        for Row { name, value, least } in &self.rows {
            let verdict = match (*least, value < least) {
                (0, _) => String::new(),
                (_, false) => format!("   (at least {least})"),
                (_, true) => format!("   TOO FEW: at least {least}"),
            };
            text.push_str(&format!("{value:>10}  {name}{verdict}\n"));
        }
        say(text.trim_end());
        let too_few: Vec<&str> =
            self.rows.iter().filter(|row| row.value < row.least).map(|row| row.name).collect();
        match too_few.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(format_args!("the run did too little of: {}", too_few.join(", ")))),
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
}
