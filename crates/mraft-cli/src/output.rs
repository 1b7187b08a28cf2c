// SPDX-License-Identifier: Apache-2.0

//! Answers as text: tables for people, JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// For whom to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences.
    #[default]
    Table,
    /// One JSON document.
    Json,
}

/// Rows under headings; columns are as wide as they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows. A heading that begins with `#` is a column of numbers.
    pub fn new(headings: &[&'static str]) -> Table {
        Table { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// The table as lines, each ended.
    pub fn render(&self) -> String {
        let titles: Vec<String> =
            self.headings.iter().map(|heading| heading.trim_start_matches('#').to_owned()).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&titles]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..titles.len()).map(width).collect();
        let mut text = String::new();
        for row in [&titles].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), heading) in row.iter().zip(&widths).zip(&self.headings) {
                let _ = match heading.starts_with('#') {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values of one thing, aligned.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in pairs {
        let _ = writeln!(text, "{name:<width$}  {}", printable(value));
    }
    text
}

/// Prints a JSON document for programs or the text for people.
pub fn print(format: Format, document: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
    let text = match format {
        Format::Table => text(),
        Format::Json => {
            let mut json = serde_json::to_string_pretty(document)?;
            json.push('\n');
            json
        }
    };
    write(text.as_bytes())
}

/// Writes to standard output, which may be closed; `print!` would panic then.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Says something on standard error. Nobody reading is no reason to fail, and `eprintln!` would panic then.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Bytes as a person can read them: what is not printable UTF-8 is escaped.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

/// The beginning of a value that may be long.
pub fn shortened(bytes: &[u8], chars_max: usize) -> String {
    // Four bytes are enough for any character, so the rest need not be looked at.
    let text = readable(&bytes[..bytes.len().min(4 * chars_max)]);
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None if bytes.len() > 4 * chars_max => format!("{text}… ({} bytes)", bytes.len()),
        None => text,
    }
}

/// A cell must not move the cursor or begin a line: what a peer or a key contains goes to a terminal.
fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.chars()
            .flat_map(|letter| {
                let escaped = if letter.is_control() {
                    letter.escape_default().to_string()
                } else {
                    letter.to_string()
                };
                escaped.chars().collect::<Vec<_>>()
            })
            .collect()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells_and_numbers_stand_right() {
        let mut table = Table::new(&["NODE", "#LAG", "STATE"]);
        table.row(["10.0.0.1:13890".to_owned(), "7".to_owned(), "leader".to_owned()]);
        table.row(["é".to_owned(), "1200".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "NODE             LAG  STATE\n10.0.0.1:13890     7  leader\né               1200\n"
        );
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(
            fields(&[("node", "7".to_owned()), ("ready", "yes".to_owned())]),
            "node   7\nready  yes\n"
        );
    }

    #[test]
    fn a_terminal_is_safe_from_keys_and_values() {
        assert_eq!(readable(b"\x1b[2J\n"), "\\u{1b}[2J\\n");
        assert_eq!(readable(b"\xff\x00a"), "\\xff\\x00a");
        assert_eq!(readable("grün".as_bytes()), "grün");
    }

    #[test]
    fn a_long_value_is_cut_and_says_how_long_it_is() {
        assert_eq!(shortened(b"abcdef", 3), "abc… (6 bytes)");
        assert_eq!(shortened(b"abc", 3), "abc");
        assert_eq!(shortened("ééééé".as_bytes(), 3), "ééé… (10 bytes)");
    }
}
