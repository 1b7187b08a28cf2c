// SPDX-License-Identifier: Apache-2.0

//! Where a setting came from, and what to say when it cannot stand.
//!
//! Invariant: every problem names the field, the value, where the value came from, and what would repair it. A conflict
//! names both sides.

use std::fmt;
use std::path::PathBuf;

use super::keys::Key;

/// Where a value came from. Later variants win over earlier ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Nobody said anything.
    Default,
    /// The identity that the data directory has kept since the node's first start.
    Identity(PathBuf),
    /// The configuration file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// A flag or positional argument, as it is written on the command line.
    Flag(String),
}

impl Source {
    /// Whether somebody said it at this start: not a default, not the kept identity.
    pub fn is_explicit(&self) -> bool {
        !matches!(self, Source::Default | Source::Identity(_))
    }

    /// Whether it is the seed's JSON document, which has names and rules of its own.
    pub fn is_document(&self) -> bool {
        matches!(self, Source::File(path) if path.extension().is_some_and(|ending| ending == "json"))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Identity(path) => write!(f, "identity in {}", path.display()),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

/// A field with the value that it has and where that came from, for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The field, by its full name (`initial_members.0.7`).
    pub field: String,
    /// The value as it would be written.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json_name = Key::find(&self.field).and_then(|key| key.json).filter(|_| self.source.is_document());
        write!(f, "`{}` = {} ({})", json_name.unwrap_or(&self.field), self.value, self.source)
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// There is neither a file nor an identity.
    NoConfiguration,
    /// The file cannot be read or is not what its ending says.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the fix.
        why: String,
    },
    /// A key that nobody knows.
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// Where.
        source: Source,
        /// What to do about it, with the nearest known name if one is near.
        hint: String,
    },
    /// A value of the wrong type or out of its range.
    Value {
        /// The field and what it was given.
        given: Given,
        /// What it must be.
        expected: String,
    },
    /// Two values that cannot both stand.
    Conflict {
        /// One side.
        left: Given,
        /// The other side.
        right: Given,
        /// Why they cannot, and the fix.
        fix: String,
    },
    /// Something that must be said and was not.
    Missing {
        /// The field.
        field: String,
        /// Why it is needed, and the fix.
        fix: String,
    },
    /// An option that this release refuses by name.
    Later {
        /// The option and what it was given.
        given: Given,
        /// What to do until then.
        instead: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::NoConfiguration => f.write_str(
                "no configuration: give --config FILE (waiting for a control center to push one comes with a later release)",
            ),
            Problem::File { path, why } => write!(f, "{}: {why}", path.display()),
            Problem::UnknownKey { key, source, hint } => write!(f, "unknown key `{key}` ({source}): {hint}"),
            Problem::Value { given, expected } => write!(f, "{given}: must be {expected}"),
            Problem::Conflict { left, right, fix } => write!(f, "{left} and {right} cannot both stand: {fix}"),
            Problem::Missing { field, fix } => write!(f, "`{field}` is missing: {fix}"),
            Problem::Later { given, instead } => {
                write!(f, "{given}: comes with a later release; until then {instead}")
            }
        }
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}
