// SPDX-License-Identifier: Apache-2.0

//! Flag over environment over file over kept identity over default.
//!
//! Each layer is flattened to full names (`initial_members.0.7`), so that one value of a table can be overridden without
//! repeating the table. Within one layer a setting may be given once only, also under its other names.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::dynamic;
use super::keys::{KEYS, Key, LATER, LEGACY};
use super::raw::Raw;
use super::source::{Given, Problem, Source};
use super::suggest;

/// No document of a real cluster comes near; a larger file is something else.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// What every environment variable of ours begins with.
pub const ENVIRONMENT_PREFIX: &str = "MRAFT_";
const INITIAL_MEMBERS: &str = "initial_members";

/// The settings that somebody gave, the strongest layer's value for each full name.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<Path3, (Raw, Source)>,
    notices: Vec<String>,
}

/// A full name: the setting, then group and node where the setting is a table of those.
type Path3 = (&'static str, Option<(String, String)>);

/// One `KEY=VALUE` of the command line and how it was written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagValue {
    /// The setting's full name.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What the user wrote, for messages.
    pub written: String,
}

impl Layers {
    /// What was given for a plain setting.
    pub fn scalar(&self, key: &Key) -> Option<(&Raw, &Source)> {
        self.values.get(&(key.name, None)).map(|(raw, source)| (raw, source))
    }

    /// What was given for a table of groups and nodes, as (group, node, value, source).
    pub fn table(&self, key: &Key) -> impl Iterator<Item = (&str, &str, &Raw, &Source)> {
        let name = key.name;
        self.values.iter().filter_map(move |((owner, rest), (raw, source))| {
            let (group, node) = rest.as_ref()?;
            (*owner == name).then_some((group.as_str(), node.as_str(), raw, source))
        })
    }

    /// Whether anybody said which groups there are.
    pub fn names_groups(&self) -> bool {
        self.values.keys().any(|(_, rest)| rest.is_some())
    }

    /// What the reader of the configuration should know although nothing is wrong.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Something more to know.
    pub fn notice(&mut self, notice: String) {
        self.notices.push(notice);
    }

    /// Adds what the data directory remembers of its own, below everything that was said now.
    pub fn add_identity(&mut self, path: &Path, values: &[(&'static str, String)]) {
        for (name, value) in values {
            let entry = (Raw::Text(value.clone()), Source::Identity(path.to_owned()));
            self.values.entry((name, None)).or_insert(entry);
        }
    }

    /// Adds a file: by its ending the seed's JSON document or our TOML.
    pub fn add_file(&mut self, path: &Path, problems: &mut Vec<Problem>) {
        let source = Source::File(path.to_owned());
        match parse_file(path) {
            Err(why) => problems.push(Problem::File { path: path.to_owned(), why }),
            Ok((format, entries)) => {
                for (name, raw) in entries {
                    match format {
                        Format::Json => {
                            self.add(&name, raw, dynamic::find(&name), &source, problems, Format::Json)
                        }
                        Format::Toml => {
                            self.add(&name, raw, Key::find(&name), &source, problems, Format::Toml)
                        }
                    }
                }
            }
        }
    }

    /// Adds the environment variables that begin with `MRAFT_`: `MRAFT_A__B` is `a.b`.
    pub fn add_environment<'a>(
        &mut self,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
        problems: &mut Vec<Problem>,
    ) {
        for (variable, value) in variables {
            if let Some(name) = variable.strip_prefix(ENVIRONMENT_PREFIX) {
                let name = name.to_ascii_lowercase().replace("__", ".");
                self.add_text(&name, value, &Source::Environment(variable.to_owned()), problems);
            }
        }
    }

    /// Adds what the command line says.
    pub fn add_flags(&mut self, flags: &[FlagValue], problems: &mut Vec<Problem>) {
        for flag in flags {
            self.add_text(&flag.key, &flag.value, &Source::Flag(flag.written.clone()), problems);
        }
    }

    fn add_text(&mut self, name: &str, value: &str, source: &Source, problems: &mut Vec<Problem>) {
        let raw = Raw::Text(value.to_owned());
        let (head, rest) = name.split_once('.').map_or((name, None), |(head, rest)| (head, Some(rest)));
        let key = Key::find(head);
        match (key, rest.and_then(|rest| rest.split_once('.'))) {
            (Some(key), Some((group, node))) if key.is_map => {
                self.put((key.name, Some((group.to_owned(), node.to_owned()))), raw, source, problems);
            }
            (Some(key), _) if key.is_map => problems.push(Problem::UnknownKey {
                key: name.to_owned(),
                source: source.clone(),
                hint: format!(
                    "{} needs a group and a node, as in {0}.0.7 or {1}__0__7",
                    key.name,
                    key.environment()
                ),
            }),
            (Some(_), None) if rest.is_none() => {
                self.add(name, raw, key, source, problems, Format::Toml);
            }
            (Some(key), _) => problems.push(Problem::UnknownKey {
                key: name.to_owned(),
                source: source.clone(),
                hint: format!("`{}` has nothing below it", key.name),
            }),
            (None, _) => self.add(name, raw, None, source, problems, Format::Toml),
        }
    }

    fn add(
        &mut self,
        name: &str,
        raw: Raw,
        key: Option<&'static Key>,
        source: &Source,
        problems: &mut Vec<Problem>,
        format: Format,
    ) {
        if LEGACY.contains(&name) {
            return self.notices.push(format!("`{name}` ({source}) is ignored: nothing reads it any more"));
        }
        let Some(key) = key else { return problems.push(unknown(name, &raw, source, format)) };
        if key.is_map {
            return self.add_table(key, raw, source, problems, format);
        }
        if format == Format::Json && dynamic::is_unset(&raw) {
            return;
        }
        self.put((key.name, None), raw, source, problems);
    }

    fn add_table(
        &mut self,
        key: &'static Key,
        raw: Raw,
        source: &Source,
        problems: &mut Vec<Problem>,
        format: Format,
    ) {
        let expected = "a table of groups, each a table of nodes".to_owned();
        let wrong = |field: String, raw: &Raw| Problem::Value {
            given: Given { field, value: raw.to_string(), source: source.clone() },
            expected: expected.clone(),
        };
        let groups = match raw {
            Raw::Null if format == Format::Json => return,
            Raw::Table(groups) => groups,
            other => return problems.push(wrong(key.name.to_owned(), &other)),
        };
        for (group, members) in groups {
            match members {
                Raw::Null if format == Format::Json => {}
                Raw::Table(members) if members.is_empty() && key.name == INITIAL_MEMBERS => {
                    problems.push(Problem::Missing {
                        field: format!("{INITIAL_MEMBERS}.{group}"),
                        fix: format!("group {group} has no member; list each as NODE = \"host:port\", or leave the group out"),
                    });
                }
                Raw::Table(members) => {
                    for (node, value) in members {
                        self.put((key.name, Some((group.clone(), node))), value, source, problems);
                    }
                }
                other => problems.push(wrong(format!("{}.{group}", key.name), &other)),
            }
        }
    }

    /// Keeps the value if its layer is at least as strong; the same layer twice is a conflict.
    fn put(&mut self, path: Path3, raw: Raw, source: &Source, problems: &mut Vec<Problem>) {
        let strength = |source: &Source| std::mem::discriminant(source);
        match self.values.get(&path) {
            Some((before, other)) if strength(other) == strength(source) => {
                let field = full_name(&path);
                let given = |value: &Raw, source: &Source| Given {
                    field: field.clone(),
                    value: value.to_string(),
                    source: source.clone(),
                };
                problems.push(Problem::Conflict {
                    left: given(before, other),
                    right: given(&raw, source),
                    fix: format!("give {field} once"),
                });
            }
            Some((_, other)) if other > source => {}
            _ => {
                self.values.insert(path, (raw, source.clone()));
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Toml,
}

fn full_name((name, rest): &Path3) -> String {
    match rest {
        Some((group, node)) => format!("{name}.{group}.{node}"),
        None => (*name).to_owned(),
    }
}

fn unknown(name: &str, raw: &Raw, source: &Source, format: Format) -> Problem {
    let head = name.split('.').next().unwrap_or(name);
    if let Some((_, instead)) = LATER.iter().find(|(later, _)| later.eq_ignore_ascii_case(head)) {
        let given = Given { field: name.to_owned(), value: raw.to_string(), source: source.clone() };
        return Problem::Later { given, instead: (*instead).to_owned() };
    }
    let hint = match format {
        Format::Json if Key::find(name).is_some() => {
            "the JSON document has the seed's keys only; put it into a .toml file, the environment or --set"
                .to_owned()
        }
        Format::Json => hint_for(name, KEYS.iter().filter_map(|key| key.json).collect()),
        Format::Toml => {
            let names =
                KEYS.iter().flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()));
            hint_for(head, names.collect())
        }
    };
    Problem::UnknownKey { key: name.to_owned(), source: source.clone(), hint }
}

fn hint_for(name: &str, known: Vec<&'static str>) -> String {
    match suggest::nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => "`mraft config default` lists every key".to_owned(),
    }
}

fn parse_file(path: &Path) -> Result<(Format, Vec<(String, Raw)>), String> {
    let format = match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => Format::Json,
        Some("toml") => Format::Toml,
        _ => return Err("a configuration file must end in .json (the seed's document) or .toml".to_owned()),
    };
    let text = read_text(path)?;
    let document = match format {
        Format::Json => serde_json::from_str(&text).map_err(|error| format!("not valid JSON: {error}"))?,
        Format::Toml => toml::from_str(&text).map_err(|error| format!("not valid TOML: {error}"))?,
    };
    match document {
        Raw::Table(entries) => Ok((format, entries)),
        other => Err(format!("holds {} where an object with the settings should be", other.kind())),
    }
}

fn read_text(path: &Path) -> Result<String, String> {
    let unreadable =
        |error: std::io::Error| format!("cannot be read: {error}; check the path and its permissions");
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {} MiB: not a configuration file", FILE_BYTES_MAX >> 20));
    }
    Ok(text)
}
