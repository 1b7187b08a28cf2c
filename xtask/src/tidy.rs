// SPDX-License-Identifier: Apache-2.0

//! The house's own rules, checked over the tracked files. Each is one small function, and each has a test that it can fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Which of our crates each crate may use. Arrows that are not here are forbidden; `proof` may use anything, nothing uses `proof`.
const ARROWS: &[(&str, &[&str])] = &[
    ("mraft-types", &[]),
    ("mraft-disk", &[]),
    ("mraft-raft", &["mraft-types"]),
    ("mraft-engine", &["mraft-types", "mraft-raft"]),
    ("mraft-wire", &["mraft-types", "mraft-raft"]),
    ("mraft-logstore", &["mraft-types", "mraft-disk"]),
    ("mraft-transport", &["mraft-types", "mraft-wire"]),
    ("mraft-kv", &["mraft-types", "mraft-engine", "mraft-disk"]),
    (
        "mraft",
        &[
            "mraft-types",
            "mraft-raft",
            "mraft-engine",
            "mraft-logstore",
            "mraft-transport",
            "mraft-wire",
            "mraft-disk",
        ],
    ),
    ("mraft-api", &["mraft-types"]),
    ("mraft-gateway", &["mraft-types", "mraft-api"]),
];

/// Crates and files that decide and must not act: what they may not name, and what to use instead.
const PURE: &[&str] = &[
    "crates/types/src",
    "crates/raft/src",
    "crates/engine/src",
    "crates/wire/src",
    "crates/host/src/core",
    "crates/host/src/apply.rs",
    "crates/host/src/apply_worker",
    "crates/host/src/persist.rs",
    "crates/host/src/meta.rs",
    "proof/history/src",
    "proof/sim/src",
];
const BANNED_IN_PURE: &[(&str, &str)] = &[
    ("std::time::Instant", "time is an argument (engine::event::Now)"),
    ("Instant::now", "time is an argument (engine::event::Now)"),
    ("SystemTime", "time is an argument (engine::event::Now)"),
    ("std::thread", "threads are spawned in host::runtime"),
    ("TcpStream", "sockets live in transport and the doors"),
    ("TcpListener", "sockets live in transport and the doors"),
    ("UdpSocket", "sockets live in transport and the doors"),
    ("std::fs", "files are reached through mraft_disk"),
    ("getrandom", "chance is an argument"),
    ("tokio", "no async runtime between a group and the wire"),
    ("HashMap", "its order is not the same everywhere; use BTreeMap"),
    ("HashSet", "its order is not the same everywhere; use BTreeSet"),
];
/// Where a host may spawn threads, and how that would look elsewhere in it.
const SPAWNING: &[&str] = &["crates/host/src/runtime.rs", "crates/host/src/runtime/"];
const SPAWNS: &[&str] = &["thread::Builder", "thread::spawn", ".spawn("];
/// As STYLE.md says.
const LINES_MAX: usize = 800;
/// Fewer files than this are not the whole house: git could not list it.
const FILES_MIN: usize = 200;

/// Prints complaints.
pub(crate) fn run(root: &Path) -> ExitCode {
    let complaints = check(root);
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    println!("tidy: {} complaints", complaints.len());
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Everything that is not as it should be, one line each.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let paths = match tracked(root) {
        Ok(paths) => paths,
        Err(complaint) => return vec![complaint],
    };
    let mut complaints = Vec::new();
    for path in paths {
        let Ok(text) = fs::read_to_string(root.join(&path)) else { continue };
        let name = path.to_string_lossy().replace('\\', "/");
        if name.ends_with(".rs") {
            complaints.extend(check_source(&name, &text));
        }
        if name.ends_with("Cargo.toml") && name != "Cargo.toml" {
            complaints.extend(check_arrows(&name, &text));
        }
        if name.ends_with(".md") {
            complaints.extend(check_links(&name, &text, |link| {
                root.join(&path).parent().is_some_and(|directory| directory.join(link).exists())
            }));
        }
        complaints.extend(check_paths(&name, &text));
    }
    complaints
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>, String> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("git does not start, so nothing was checked: {error}"))?;
    if !listed.status.success() {
        let said = String::from_utf8_lossy(&listed.stderr);
        return Err(format!("git ls-files failed, so nothing was checked: {}", said.trim()));
    }
    let names = String::from_utf8_lossy(&listed.stdout);
    let paths: Vec<PathBuf> = names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    match paths.len() {
        files if files < FILES_MIN => {
            Err(format!("git lists {files} files, which cannot be all: at least {FILES_MIN} are expected"))
        }
        _ => Ok(paths),
    }
}

fn check_source(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if text.lines().next() != Some("// SPDX-License-Identifier: Apache-2.0") {
        complaints.push(format!("{name}:1: the first line must be the SPDX line"));
    }
    if text.lines().count() > LINES_MAX {
        complaints.push(format!("{name}: more than {LINES_MAX} lines; cut it by concern"));
    }
    let is_crate_head = name.ends_with("src/lib.rs") || name == "xtask/src/main.rs";
    if is_crate_head && !text.lines().any(|line| line.starts_with("//! Invariant")) {
        complaints.push(format!("{name}: the crate's head has no line that begins with `Invariant`"));
    }
    // The rules themselves have to name what they forbid.
    if name == "xtask/src/tidy.rs" {
        return complaints;
    }
    let is_pure = PURE.iter().any(|pure| name.starts_with(pure));
    if is_pure {
        complaints.extend(check_imports(name, text));
    }
    let may_spawn = !name.starts_with("crates/host/src/")
        || name.ends_with("/tests.rs")
        || SPAWNING.iter().any(|spawning| name.starts_with(spawning));
    for (number, line) in without_tests(text) {
        let at = format!("{name}:{}", number + 1);
        let is_comment = line.trim_start().starts_with("//");
        for left in ["todo!(", "unimplemented!(", "#[ignore", "FIXME", "XXX"] {
            if line.contains(left) {
                complaints.push(format!("{at}: `{left}` is unfinished work"));
            }
        }
        if !is_comment && !may_spawn && SPAWNS.iter().any(|spawn| line.contains(spawn)) {
            complaints.push(format!("{at}: a thread of a host that is not spawned in its runtime"));
        }
        if !is_comment && is_pure {
            for (banned, instead) in BANNED_IN_PURE {
                if line.contains(banned) {
                    complaints.push(format!("{at}: `{banned}` in a file that only decides: {instead}"));
                }
            }
        }
    }
    complaints
}

/// The lines of a source without items that are only there for tests, with their places from 0. An item ends with the first line that
/// closes it at its own indentation, as rustfmt writes it.
fn without_tests(text: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(indentation) = line.strip_suffix("#[cfg(test)]").filter(|before| before.trim().is_empty())
        else {
            kept.push((number, line));
            continue;
        };
        let closed = format!("{indentation}}}");
        for (_, line) in lines.by_ref() {
            let is_attribute = line.trim_start().starts_with("#[");
            let is_at_home = line.strip_prefix(indentation).is_some_and(|rest| !rest.starts_with(' '));
            if line == closed || !is_attribute && is_at_home && line.ends_with([';', ',']) {
                break;
            }
        }
    }
    kept
}

/// Bans in the imports of a pure file, whichever way they are grouped.
fn check_imports(name: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut lines = without_tests(text).into_iter();
    while let Some((number, line)) = lines.next() {
        let mut item = line.trim().to_owned();
        let is_import = item.starts_with("use ") || item.starts_with("pub") && item.contains(" use ");
        if !is_import || !item.contains('{') {
            // A path that is written out is found line by line.
            continue;
        }
        while !item.ends_with(';') {
            let Some((_, more)) = lines.next() else { break };
            item.push_str(more.trim());
        }
        let tree = item.split_once("use ").map_or("", |(_, tree)| tree).trim_end_matches(';');
        for path in flattened("", tree) {
            for (banned, instead) in BANNED_IN_PURE {
                if path.contains(banned) && !item.contains(banned) {
                    let at = format!("{name}:{}", number + 1);
                    complaints.push(format!("{at}: `{path}` in a file that only decides: {instead}"));
                }
            }
        }
    }
    complaints
}

/// Every path of a tree of imports, written out.
fn flattened(prefix: &str, tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else { return vec![format!("{prefix}{tree}")] };
    let prefix = format!("{prefix}{head}");
    let body = rest.strip_suffix('}').unwrap_or(rest);
    let (mut paths, mut depth, mut from) = (Vec::new(), 0_u32, 0);
    for (at, letter) in body.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                paths.extend(flattened(&prefix, &body[from..at]));
                from = at + 1;
            }
            _ => {}
        }
    }
    if !body[from..].trim().is_empty() {
        paths.extend(flattened(&prefix, &body[from..]));
    }
    paths
}

fn check_arrows(name: &str, text: &str) -> Vec<String> {
    let (mut package, mut section) = (String::new(), String::new());
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_owned();
        } else if section == "package" && line.starts_with("name") {
            package = line.split('"').nth(1).unwrap_or_default().to_owned();
        } else if section == "dependencies" {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            if dependency.starts_with("mraft") {
                used.insert(dependency.to_owned(), number + 1);
            }
        }
    }
    let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == package) else {
        let is_product = name.starts_with("crates/") && package != "mraft-cli";
        let no_arrows = format!("{name}: {package} has no row in the table of arrows");
        return if is_product { vec![no_arrows] } else { Vec::new() };
    };
    used.iter()
        .filter(|(dependency, _)| !allowed.contains(&dependency.as_str()))
        .map(|(dependency, line)| format!("{name}:{line}: {package} must not use {dependency}"))
        .collect()
}

fn check_links(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for part in line.split("](").skip(1) {
            let link = part.split([')', '#']).next().unwrap_or_default();
            if !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:") && !exists(link) {
                complaints.push(format!("{name}:{}: the link {link} leads nowhere", number + 1));
            }
        }
    }
    complaints
}

fn check_paths(name: &str, text: &str) -> Vec<String> {
    let places = [concat!("/", "work/"), concat!("/", "root/")];
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for place in places {
            if line.contains(place) {
                complaints.push(format!("{name}:{}: a path of somebody's machine ({place})", number + 1));
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPDX: &str = "// SPDX-License-Identifier: Apache-2.0\n";

    #[test]
    fn the_house_is_tidy() {
        let complaints = check(&crate::root());
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    }

    #[test]
    fn a_file_without_a_licence_line_or_head_is_noticed() {
        assert_eq!(check_source("a/src/x.rs", "fn main() {}").len(), 1);
        assert_eq!(check_source("a/src/lib.rs", SPDX).len(), 1);
        assert_eq!(
            check_source("a/src/lib.rs", &format!("{SPDX}//! Invariant: none.\n")),
            Vec::<String>::new()
        );
        assert_eq!(check_source("a/src/x.rs", &format!("{SPDX}{}", "\n".repeat(LINES_MAX))).len(), 1);
    }

    #[test]
    fn a_clock_in_a_pure_file_is_noticed_and_one_elsewhere_is_not() {
        let text = format!("{SPDX}use std::time::Instant;\n");
        assert_eq!(check_source("crates/raft/src/x.rs", &text).len(), 1);
        assert_eq!(check_source("crates/host/src/runtime.rs", &text), Vec::<String>::new());
        assert_eq!(
            check_source("crates/raft/src/x.rs", &format!("{SPDX}// no SystemTime here\n")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_thread_of_a_host_that_its_runtime_does_not_spawn_is_noticed() {
        for spawn in [
            "let begun = std::thread::Builder::new().name(name);",
            "thread::spawn(move || run());",
            "    .spawn(move || run())?;",
        ] {
            let text = format!("{SPDX}{spawn}\n");
            assert_eq!(check_source("crates/host/src/peers.rs", &text).len(), 1, "{spawn}");
            assert_eq!(check_source("crates/host/src/runtime_of_another.rs", &text).len(), 1, "{spawn}");
            for good in [
                "crates/host/src/runtime.rs",
                "crates/host/src/runtime/beside.rs",
                "crates/host/src/peers/tests.rs",
                "crates/transport/src/x.rs",
            ] {
                assert_eq!(check_source(good, &text), Vec::<String>::new(), "{good}: {spawn}");
            }
            let in_tests = format!("{SPDX}#[cfg(test)]\nmod tests {{\n    fn f() {{ {spawn} }}\n}}\n");
            assert_eq!(check_source("crates/host/src/mailbox.rs", &in_tests), Vec::<String>::new());
        }
        let comment = format!("{SPDX}// runtime.rs calls thread::spawn\n");
        assert_eq!(check_source("crates/host/src/x.rs", &comment), Vec::<String>::new());
    }

    #[test]
    fn a_grouped_import_is_noticed_however_it_is_written() {
        for import in [
            "use std::{fs, thread};",
            "use std::{\n    collections::{BTreeMap, VecDeque},\n    thread::{self, JoinHandle},\n};",
            "use std::time::{Duration, Instant};",
            "pub(crate) use std::{fmt, fs::File};",
        ] {
            let text = format!("{SPDX}{import}\n");
            assert!(!check_source("crates/raft/src/x.rs", &text).is_empty(), "{import}");
            assert_eq!(check_source("crates/host/src/runtime.rs", &text), Vec::<String>::new());
        }
        let good = format!("{SPDX}use std::{{collections::{{BTreeMap, BTreeSet}}, fmt}};\n");
        assert_eq!(check_source("crates/raft/src/x.rs", &good), Vec::<String>::new());
    }

    #[test]
    fn what_follows_the_tests_of_a_file_is_checked_and_the_tests_are_not() {
        let tests = "#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n";
        let text = |rest: &str| format!("{SPDX}{tests}{rest}");
        assert_eq!(check_source("crates/raft/src/x.rs", &text("")), Vec::<String>::new());
        let behind = check_source("crates/raft/src/x.rs", &text("use std::thread;\n"));
        assert_eq!(behind.len(), 1);
        assert!(behind[0].contains("x.rs:6:"), "{behind:?}");
        let elsewhere = format!("{SPDX}#[cfg(test)]\nmod tests;\nuse std::thread;\n");
        assert_eq!(check_source("crates/raft/src/x.rs", &elsewhere).len(), 1);
        let method = format!(
            "{SPDX}impl X {{\n    #[cfg(test)]\n    fn y() {{\n        todo!()\n    }}\n    fn z() {{ todo!() }}\n}}\n"
        );
        assert_eq!(check_source("a/src/x.rs", &method).len(), 1);
    }

    #[test]
    fn a_house_that_git_cannot_list_is_not_tidy() {
        let nowhere = std::env::temp_dir();
        assert_eq!(check(&nowhere).len(), 1);
    }

    #[test]
    fn unfinished_work_is_noticed() {
        assert_eq!(check_source("a/src/x.rs", &format!("{SPDX}fn f() {{ todo!() }}\n")).len(), 1);
    }

    #[test]
    fn a_forbidden_arrow_is_noticed() {
        let manifest = |dependency: &str| {
            format!("[package]\nname = \"mraft-raft\"\n\n[dependencies]\n{dependency}.workspace = true\n")
        };
        assert_eq!(check_arrows("crates/raft/Cargo.toml", &manifest("mraft-types")), Vec::<String>::new());
        assert_eq!(check_arrows("crates/raft/Cargo.toml", &manifest("mraft-disk")).len(), 1);
    }

    #[test]
    fn a_dead_link_and_a_machine_path_are_noticed() {
        assert_eq!(check_links("README.md", "[a](b.md) and [c](https://d)", |_| false).len(), 1);
        assert_eq!(check_links("README.md", "[a](b.md#part)", |link| link == "b.md"), Vec::<String>::new());
        assert_eq!(check_paths("x", concat!("see /", "work/thing")).len(), 1);
    }
}
