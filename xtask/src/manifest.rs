// SPDX-License-Identifier: Apache-2.0

//! What a manifest depends on: as much of TOML as cargo's dependency tables are written in.

/// For what a dependency is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The crate itself, or its build script.
    Build,
    /// Its tests and examples.
    Test,
}

/// A dependency, in whichever table it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The package, also where it goes by another name.
    pub(crate) package: String,
    /// Where it is looked for, if the manifest says so.
    pub(crate) path: Option<String>,
    pub(crate) kind: Kind,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// The name of the package.
pub(crate) fn package(text: &str) -> String {
    let mut is_package = false;
    for line in text.lines() {
        if line.trim_start().starts_with('[') {
            is_package = line.trim() == "[package]";
        } else if let Some(name) = field(line, "name").filter(|_| is_package) {
            return name;
        }
    }
    String::new()
}

/// Everything that is depended on: in `[dependencies]` and its like, in tables of one's own (`[dependencies.x]`), and for some targets only.
pub(crate) fn dependencies(text: &str) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    let (mut table, mut is_own_table) = (None, false);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let words = words(header.split(']').next().unwrap_or_default());
            let (last, before) = (words.last().map(String::as_str), words.iter().rev().nth(1));
            table = last.and_then(kind);
            is_own_table = false;
            if let (None, Some(kind), Some(name)) = (table, before.and_then(|word| kind(word)), last) {
                (table, is_own_table) = (Some(kind), true);
                found.push(Dependency { package: name.to_owned(), path: None, kind, line: number + 1 });
            }
            continue;
        }
        let Some(kind) = table.filter(|_| !line.starts_with('#')) else { continue };
        if !is_own_table {
            let Some((key, _)) = line.split_once('=') else { continue };
            // `x.workspace = true` says it in the key.
            let name = words(key.trim()).into_iter().next().unwrap_or_default();
            if found.last().is_none_or(|last| last.package != name) {
                found.push(Dependency { package: name, path: None, kind, line: number + 1 });
            }
        }
        let Some(dependency) = found.last_mut() else { continue };
        dependency.path = field(line, "path").or(dependency.path.take());
        if let Some(package) = field(line, "package") {
            dependency.package = package;
        }
    }
    found
}

/// The kind of dependencies that a table of this name has.
fn kind(table: &str) -> Option<Kind> {
    match table {
        "dependencies" | "build-dependencies" => Some(Kind::Build),
        "dev-dependencies" => Some(Kind::Test),
        _ => None,
    }
}

/// A dotted key in its parts; a dot in quotes is none.
fn words(key: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for letter in key.chars() {
        match (letter, quote) {
            ('"' | '\'', None) => quote = Some(letter),
            (letter, Some(open)) if letter == open => quote = None,
            ('.', None) => words.push(String::new()),
            (letter, _) => words.last_mut().into_iter().for_each(|word| word.push(letter)),
        }
    }
    words.iter().map(|word| word.trim().to_owned()).collect()
}

/// The text that a key has in a line, alone or within braces.
fn field(line: &str, key: &str) -> Option<String> {
    line.match_indices(key).find_map(|(at, _)| {
        let is_key = line[..at].trim_end().is_empty() || line[..at].trim_end().ends_with(['{', ',', '.']);
        let value = line[at + key.len()..].trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|letter| is_key && matches!(letter, '"' | '\''))?;
        value[1..].split(quote).next().map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, Option<String>, Kind, usize)> {
        let all = dependencies(text).into_iter();
        all.map(|found| (found.package, found.path, found.kind, found.line)).collect()
    }

    #[test]
    fn dependencies_are_found_however_they_are_written() {
        let text = "[package]\nname = \"mraft-x\"\n\n[dependencies]\na.workspace = true\nb = \"1\"\n# c = \"1\"\n\
                    d = { path = \"../d\", features = [\"name\"] }\ne = { version = \"1\", package = \"f\" }\n\n\
                    [dev-dependencies]\ng.workspace = true\n\n[target.'cfg(a = \"b.c\")'.dependencies]\nh = \"1\"\n\n\
                    [dependencies.i]\npath = \"../i\"\n\n[target.\"cfg(unix)\".dev-dependencies.j]\npackage = \"k\"\nversion = \"1\"\n\n\
                    [features]\nl = []\n";
        assert_eq!(package(text), "mraft-x");
        let (build, test, path) = (Kind::Build, Kind::Test, |path: &str| Some(path.to_owned()));
        let expected = [
            ("a", None, build, 5),
            ("b", None, build, 6),
            ("d", path("../d"), build, 8),
            ("f", None, build, 9),
            ("g", None, test, 12),
            ("h", None, build, 15),
            ("i", path("../i"), build, 17),
            ("k", None, test, 20),
        ];
        assert_eq!(found(text), expected.map(|(name, path, kind, line)| (name.to_owned(), path, kind, line)));
    }

    #[test]
    fn a_dependency_in_several_lines_is_one() {
        let text = "[dependencies]\na.path = \"../a\"\na.features = [\"b\"]\n";
        assert_eq!(found(text), [("a".to_owned(), Some("../a".to_owned()), Kind::Build, 2)]);
    }
}
