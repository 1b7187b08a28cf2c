// SPDX-License-Identifier: Apache-2.0

//! Inputs that are kept: one file of text per target, one input a line.
//!
//! ```text
//! corpus      := line*
//! line        := "#" comment | hexadecimal digits | '"' text with Rust's escapes '"' | nothing
//! ```
//!
//! `corpus/NAME` is written by the program (`--keep`), `findings/NAME` by whoever mends what an input found: with a comment that says so.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Where the inputs of this repository are.
pub fn directory() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The file of inputs that were kept because they reach something.
pub fn kept_path(directory: &Path, target: &str) -> PathBuf {
    directory.join("corpus").join(target)
}

/// The file of inputs that once found something.
pub fn findings_path(directory: &Path, target: &str) -> PathBuf {
    directory.join("findings").join(target)
}

/// All inputs of a target: findings first. A file that is not there holds none.
pub fn load(directory: &Path, target: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = Vec::new();
    for path in [findings_path(directory, target), kept_path(directory, target)] {
        match std::fs::read_to_string(&path) {
            Ok(text) => inputs.extend(parse(&text).map_err(|why| format!("{}: {why}", path.display()))?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Ok(inputs)
}

/// Reads the inputs of a file.
pub fn parse(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines.map(|(at, line)| input_of(line).ok_or_else(|| format!("line {} is no input", at + 1))).collect()
}

/// The line of an input.
pub fn line_of(input: &[u8]) -> String {
    let is_text = input.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    if is_text && !input.is_empty() {
        return format!("\"{}\"", input.escape_ascii());
    }
    if input.is_empty() {
        return "\"\"".to_owned();
    }
    input.iter().fold(String::with_capacity(input.len() * 2), |mut line, byte| {
        let _ = write!(line, "{byte:02x}");
        line
    })
}

fn input_of(line: &str) -> Option<Vec<u8>> {
    if let Some(quoted) = line.strip_prefix('"') {
        return unescaped(quoted.strip_suffix('"')?.as_bytes());
    }
    let digits = line.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn unescaped(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        text = rest;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, rest) = text.split_first()?;
        text = rest;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'"' | b'\'' | b'\\' => *escape,
            b'x' => {
                let (pair, rest) = text.split_at_checked(2)?;
                text = rest;
                digit(pair[0])? << 4 | digit(pair[1])?
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn digit(letter: u8) -> Option<u8> {
    char::from(letter).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_back_as_they_were_kept() {
        let all: Vec<u8> = (0..=255).collect();
        let inputs = [&b""[..], b"0a", b"[x]\n\ty = \"\\\"\r\n", &all, b"\x00", b"'#"];
        let text: String = inputs.iter().map(|input| format!("# why\n{}\n\n", line_of(input))).collect();
        assert_eq!(parse(&text), Ok(inputs.iter().map(|input| input.to_vec()).collect()));
    }

    #[test]
    fn what_is_no_input_is_told_by_its_line() {
        for line in ["0", "0g", "\"a", "\"\\q\"", "\"\\x1\"", "zz"] {
            assert_eq!(parse(&format!("00\n{line}")), Err("line 2 is no input".to_owned()), "{line}");
        }
    }
}
