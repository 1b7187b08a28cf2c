// SPDX-License-Identifier: Apache-2.0

//! Which files something is about: a path from the root on, in which `*` stands for any characters, slashes included.

use std::fmt;
use std::path::Path;

/// A pattern of paths, such as `log/segment-*.log` or `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Every path.
    pub fn all() -> Pattern {
        Pattern("*".to_owned())
    }

    /// Whether the path is one of these.
    pub fn covers(&self, path: &Path) -> bool {
        matches(self.0.as_bytes(), path.as_os_str().as_encoded_bytes())
    }
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Pattern {
        Pattern(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Goes back to the last star only: an earlier one never has to take more than it did.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut in_text) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while in_text < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_text));
                at += 1;
            }
            Some(byte) if *byte == text[in_text] => {
                at += 1;
                in_text += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, in_text) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        let covers = |pattern: &str, path: &str| Pattern::from(pattern).covers(Path::new(path));
        for (pattern, path) in [
            ("*", "a/b"),
            ("*", ""),
            ("log/segment-*.log", "log/segment-00000001.log"),
            ("groups/*/tables/*", "groups/1-0/0/tables/7"),
            ("*.log", "log/a.log.log"),
            ("identity", "identity"),
        ] {
            assert!(covers(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("", "a"),
            ("identity", "identity.new"),
            ("log/segment-*.log", "log/segment-00000001.log.bak"),
            ("groups/*/tables/*", "groups/1-0/0/v3"),
        ] {
            assert!(!covers(pattern, path), "{pattern} {path}");
        }
    }
}
