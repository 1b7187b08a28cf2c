// SPDX-License-Identifier: Apache-2.0

//! What is printed, and what a child tells its parent of a search.

use std::process::ExitCode;

use mraft_fuzz::targets::TARGETS;

/// What came of a target's search, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub target: String,
    pub executions: u64,
    pub inputs: usize,
    pub input_bytes: usize,
    pub counters: usize,
    pub features: usize,
    pub last_counter_at: u64,
    pub last_feature_at: u64,
    pub findings: usize,
    pub milliseconds: u64,
}

/// Begins the line in which a child tells its row.
const RESULT: &str = "result";

impl Row {
    /// The line for the parent.
    pub fn line(&self) -> String {
        let Row { target, executions, inputs, input_bytes, counters, features, .. } = self;
        let Row { last_counter_at, last_feature_at, findings, milliseconds, .. } = self;
        format!(
            "{RESULT} {target} {executions} {inputs} {input_bytes} {counters} {features} {last_counter_at} {last_feature_at} \
             {findings} {milliseconds}"
        )
    }

    /// Reads such a line.
    pub fn parse(line: &str) -> Option<Row> {
        let mut words = line.split(' ');
        if words.next() != Some(RESULT) {
            return None;
        }
        let target = words.next()?.to_owned();
        let mut number = || words.next()?.parse::<u64>().ok();
        Some(Row {
            target,
            executions: number()?,
            inputs: number()? as usize,
            input_bytes: number()? as usize,
            counters: number()? as usize,
            features: number()? as usize,
            last_counter_at: number()?,
            last_feature_at: number()?,
            findings: number()? as usize,
            milliseconds: number()?,
        })
    }

    /// Whether the last half of the executions reached no new counter.
    pub fn is_quiet(&self) -> bool {
        self.last_counter_at <= self.executions / 2
    }

    /// The line for people.
    pub fn shown(&self) -> String {
        let rate = self.executions * 1000 / self.milliseconds.max(1);
        format!(
            "{:<16} {:>10} {:>8}/s {:>6} {:>7} {:>8} {:>8} {:>10} {:>10}  {}",
            self.target,
            self.executions,
            rate,
            self.inputs,
            self.input_bytes,
            self.counters,
            self.features,
            self.last_counter_at,
            self.last_feature_at,
            match (self.findings, self.is_quiet()) {
                (0, true) => "quiet: the last half reached no new counter".to_owned(),
                (0, false) => "still growing".to_owned(),
                (1, _) => "1 FINDING".to_owned(),
                (findings, _) => format!("{findings} FINDINGS"),
            }
        )
    }
}

/// What the columns of [`Row::shown`] are.
pub fn head() -> String {
    format!(
        "{:<16} {:>10} {:>10} {:>6} {:>7} {:>8} {:>8} {:>10} {:>10}",
        "target", "executions", "rate", "inputs", "bytes", "counters", "classes", "counter at", "class at"
    )
}

/// Where a table of figures begins and ends in a document.
const MARKS: (&str, &str) = ("<!-- figures: written by --table -->", "<!-- end of figures -->");
const COLUMNS: &str =
    "| target | executions | branches reached | last new branch at | last new count at | inputs kept |";

/// The document with this row in its table, in the order of [`TARGETS`]; `None` if it has no table.
pub fn with_row(text: &str, row: &Row) -> Option<String> {
    let (before, rest) = text.split_once(MARKS.0)?;
    let (table, after) = rest.split_once(MARKS.1)?;
    let name_of = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let mut rows: Vec<(String, String)> =
        table.lines().filter_map(|line| Some((name_of(line)?, line.to_owned()))).collect();
    rows.retain(|(name, _)| *name != row.target);
    let Row { target, executions, inputs, counters, last_counter_at, last_feature_at, .. } = row;
    let [executions, last_counter_at, last_feature_at] =
        [executions, last_counter_at, last_feature_at].map(|number| in_groups(*number));
    let line = format!(
        "| `{target}` | {executions} | {counters} | {last_counter_at} | {last_feature_at} | {inputs} |"
    );
    rows.push((target.clone(), line));
    rows.sort_by_key(|(name, _)| TARGETS.iter().position(|target| target.name == name));
    let lines: String = rows.iter().map(|(_, line)| format!("{line}\n")).collect();
    Some(format!("{before}{}\n{COLUMNS}\n|---|---:|---:|---:|---:|---:|\n{lines}{}{after}", MARKS.0, MARKS.1))
}

fn in_groups(number: u64) -> String {
    let digits = number.to_string();
    let commas_before = |at: usize| at > 0 && (digits.len() - at).is_multiple_of(3);
    digits.char_indices().fold(String::new(), |mut text, (at, digit)| {
        if commas_before(at) {
            text.push(',');
        }
        text.push(digit);
        text
    })
}

/// Prints what there is.
pub fn list() -> ExitCode {
    for target in TARGETS {
        println!("{:<16} cost {:>4}  {}", target.name, target.cost, target.about);
    }
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_replaces_its_line_in_a_document() {
        let row = |target: &str, executions| Row {
            target: target.to_owned(),
            executions,
            inputs: 3,
            input_bytes: 40,
            counters: 77,
            features: 99,
            last_counter_at: 51,
            last_feature_at: 98,
            findings: 0,
            milliseconds: 12,
        };
        assert_eq!(with_row("no table", &row("packets", 1)), None);
        let text = format!("before\n{}\n{}\nafter\n", MARKS.0, MARKS.1);
        let rows = [row("http", 5), row("packets", 1_234_567), row("http", 1000)];
        let text = rows.iter().fold(text, |text, row| with_row(&text, row).expect("a table"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["before", MARKS.0]);
        assert_eq!(
            lines[4..],
            [
                "| `packets` | 1,234,567 | 77 | 51 | 98 | 3 |",
                "| `http` | 1,000 | 77 | 51 | 98 | 3 |",
                MARKS.1,
                "after"
            ]
        );
    }

    #[test]
    fn a_row_comes_back_from_its_line() {
        let row = Row {
            target: "packets".to_owned(),
            executions: 100,
            inputs: 3,
            input_bytes: 40,
            counters: 77,
            features: 99,
            last_counter_at: 51,
            last_feature_at: 98,
            findings: 0,
            milliseconds: 12,
        };
        assert_eq!(Row::parse(&row.line()), Some(row.clone()));
        assert_eq!(Row::parse("something else"), None);
        assert!(!row.is_quiet());
        assert!(Row { last_counter_at: 50, ..row }.is_quiet());
    }
}
