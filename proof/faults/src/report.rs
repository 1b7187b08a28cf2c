// SPDX-License-Identifier: Apache-2.0

//! What faults cost: a table for whoever looks on, and a file below `target/` for whoever compares.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::acks::Gap;
use crate::counts::say;
use crate::failure::Result;

/// The defaults of `rtt_ms` and `election_rtt`, which no cluster here changes: an election is due after this time to twice it.
pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(20 * 60);

/// What one fault cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub fault: &'static str,
    /// How long nobody could write.
    pub gap: Gap,
    /// How many terms the group went through that went through most.
    pub terms: u64,
}

/// Prints the table and writes it as JSON; where.
pub fn tell(scenario: &str, rows: &[Row]) -> Result<PathBuf> {
    let timeouts = |gap: Duration| gap.as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64();
    let mut text = format!(
        "== {scenario}: longest gaps without a successful write (election timeout {} ms; of faults that stop everything \
         counted from their end)\n{:>28}  {:>9}  {:>9}  {:>17}  {:>5}\n",
        ELECTION_TIMEOUT.as_millis(),
        "",
        "any group",
        "one group",
        "election timeouts",
        "terms"
    );
    let mut lines = Vec::new();
    for Row { fault, gap, terms } in rows {
        let (all, one) = (gap.of_all.as_millis(), gap.of_one.as_millis());
        // A `String` takes whatever is written to it.
        let _ = writeln!(
            text,
            "{fault:>28}  {all:>6} ms  {one:>6} ms  {:>17.1}  {terms:>5}",
            timeouts(gap.of_one)
        );
        lines.push(json!({
            "fault": fault,
            "gap_of_any_group_ms": u64::try_from(all).unwrap_or(u64::MAX),
            "gap_of_one_group_ms": u64::try_from(one).unwrap_or(u64::MAX),
            "gap_of_one_group_election_timeouts": timeouts(gap.of_one),
            "terms": terms,
        }));
    }
    say(text.trim_end());
    let file = directory()?.join(format!("{}.json", scenario.replace(' ', "-")));
    let document = json!({
        "scenario": scenario,
        "election_timeout_ms": ELECTION_TIMEOUT.as_millis() as u64,
        "faults": lines,
    });
    fs::write(&file, format!("{document:#}\n"))?;
    Ok(file)
}

/// Where figures are kept: `faults/` in the directory of builds.
pub fn directory() -> Result<PathBuf> {
    let target = match std::env::var_os("CARGO_TARGET_DIR") {
        Some(target) => PathBuf::from(target),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"),
    };
    let directory = target.join("faults");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}
