// SPDX-License-Identifier: Apache-2.0

//! The house's own rules, checked over the tracked files. Each is one small function, and each has a test that it can fail.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::manifest::{self, Kind};

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

/// Crates and files that decide and must not act, all that the simulator drives among them: what they may not name, and what to use instead.
const PURE: &[&str] = &[
    "crates/types/src",
    "crates/raft/src",
    "crates/engine/src",
    "crates/wire/src",
    "crates/logstore/src",
    "crates/kv/src",
    "crates/host/src/core",
    "crates/host/src/apply.rs",
    "crates/host/src/apply_worker",
    "crates/host/src/files.rs",
    "crates/host/src/identity",
    "crates/host/src/loss",
    "crates/host/src/machines.rs",
    "crates/host/src/meta.rs",
    "crates/host/src/opening.rs",
    "crates/host/src/peer_table.rs",
    "crates/host/src/persist.rs",
    "crates/host/src/registry.rs",
    "crates/host/src/restore",
    "crates/host/src/slow_disk.rs",
    // The simulated disk; its tests write from two threads.
    "crates/disk/src/memory.rs",
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
/// What single files of those may name all the same, and nothing else of it: file, ban, reason.
const ALLOWED_IN_PURE: &[(&str, &str, &str)] = &[(
    "crates/kv/src/lsm.rs",
    "std::fs",
    "the tree's crate writes to the file system itself, and what it leaves behind is looked at and removed there",
)];
/// The rules of docs/design/correctness.md: a letter and the highest number. Each is shown by a test or script that begins with its name.
const RULES: &[(char, u32)] =
    &[('d', 11), ('l', 6), ('e', 8), ('r', 3), ('m', 10), ('q', 3), ('n', 2), ('t', 5)];
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
    let mut tests = BTreeSet::new();
    let files: Vec<(PathBuf, String, String)> = paths
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(root.join(&path)).ok()?;
            let name = path.to_string_lossy().replace('\\', "/");
            Some((path, name, text))
        })
        .collect();
    let proof = proof_packages(files.iter().map(|(_, name, text)| (name.as_str(), text.as_str())));
    for (path, name, text) in &files {
        if name.ends_with(".rs") {
            complaints.extend(check_source(name, text));
            tests.extend(tests_of(text));
        }
        if name.ends_with("Cargo.toml") && name != "Cargo.toml" {
            complaints.extend(check_arrows(name, text));
            complaints.extend(check_proof_is_unused(name, text, &proof));
        }
        if let Some(script) = name.strip_suffix(".script") {
            tests.extend(script.rsplit('/').next());
        }
        if name.ends_with(".md") {
            complaints.extend(check_links(name, text, |link| {
                root.join(path).parent().is_some_and(|directory| directory.join(link).exists())
            }));
        }
        complaints.extend(check_paths(name, text));
    }
    complaints.extend(check_rules(&tests));
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
    complaints.extend(check_skips(name, text));
    complaints.extend(check_errors(name, text));
    let banned = banned_in(name);
    complaints.extend(check_imports(name, text, &banned));
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
        if !is_comment {
            for (banned, instead) in &banned {
                if line.contains(banned) {
                    complaints.push(format!("{at}: `{banned}` in a file that only decides: {instead}"));
                }
            }
        }
    }
    complaints
}

/// What a file may not name, if it is one of those that only decide.
fn banned_in(name: &str) -> Vec<(&'static str, &'static str)> {
    if !PURE.iter().any(|pure| name.starts_with(pure)) {
        return Vec::new();
    }
    let is_allowed =
        |ban: &str| ALLOWED_IN_PURE.iter().any(|(file, allowed, _)| (*file, *allowed) == (name, ban));
    BANNED_IN_PURE.iter().copied().filter(|(ban, _)| !is_allowed(ban)).collect()
}

/// A test that cannot run here says so on a line of its own, past the capture of its output; otherwise nobody counts it.
fn check_skips(name: &str, text: &str) -> Vec<String> {
    if name.starts_with("xtask/") {
        return Vec::new();
    }
    let lines = text.lines().enumerate().filter(|(_, line)| line.contains("\"SKIPPED: "));
    lines
        .map(|(number, _)| format!("{name}:{}: a skip that is swallowed; say it with `skipped`", number + 1))
        .collect()
}

/// Public enums that are errors, by what they do or are called, grow: whoever matches one must expect more.
fn check_errors(name: &str, text: &str) -> Vec<String> {
    let errors: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split_once("Error for ").filter(|(before, _)| before.starts_with("impl ")))
        .filter_map(|(_, error)| error.split([' ', '<']).next())
        .collect();
    let is_error = |declared: &str| {
        errors.contains(&declared) || ["Error", "Refus", "Failed"].iter().any(|part| declared.contains(part))
    };
    let (mut complaints, mut is_open) = (Vec::new(), false);
    for (number, line) in text.lines().enumerate() {
        let declared = line.strip_prefix("pub enum ").and_then(|rest| rest.split([' ', '<']).next());
        match declared {
            Some(declared) if is_error(declared) && !is_open && name.starts_with("crates/") => {
                complaints
                    .push(format!("{name}:{}: {declared} is an error: `#[non_exhaustive]`", number + 1));
            }
            _ => {}
        }
        is_open = line == "#[non_exhaustive]" || is_open && line.starts_with(['#', '/']);
    }
    complaints
}

/// The names of a source's tests.
fn tests_of(text: &str) -> Vec<&str> {
    let (mut tests, mut is_test) = (Vec::new(), false);
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[") || line.starts_with("//") {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            continue;
        }
        let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        tests.extend(function.filter(|_| is_test).and_then(|rest| rest.split('(').next()));
        is_test = false;
    }
    tests
}

/// Every rule is named by what shows it.
fn check_rules(tests: &BTreeSet<&str>) -> Vec<String> {
    let rules = RULES
        .iter()
        .flat_map(|(letter, highest)| (1..=*highest).map(move |number| format!("{letter}{number}_")));
    rules
        .filter(|rule| !tests.iter().any(|test| test.starts_with(rule.as_str())))
        .map(|rule| format!("no test or script is named `{rule}…`, so nothing shows that rule"))
        .collect()
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
fn check_imports(name: &str, text: &str, bans: &[(&str, &str)]) -> Vec<String> {
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
            for (banned, instead) in bans {
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
    let package = manifest::package(text);
    let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == package) else {
        let is_product = name.starts_with("crates/") && package != "mraft-cli";
        let no_arrows = format!("{name}: {package} has no row in the table of arrows");
        return if is_product { vec![no_arrows] } else { Vec::new() };
    };
    let used = manifest::dependencies(text).into_iter().filter(|dependency| dependency.kind == Kind::Build);
    used.filter(|used| used.package.starts_with("mraft") && !allowed.contains(&used.package.as_str()))
        .map(|used| format!("{name}:{}: {package} must not use {}", used.line, used.package))
        .collect()
}

/// The packages under `proof`, and what the workspace calls them.
fn proof_packages<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    for (name, text) in files.filter(|(name, _)| name.ends_with("Cargo.toml")) {
        if name.starts_with("proof/") {
            packages.insert(manifest::package(text));
        } else if name == "Cargo.toml" {
            let called =
                manifest::dependencies(text).into_iter().filter(|called| is_in_proof(called.path.as_deref()));
            packages.extend(called.map(|called| called.package));
        }
    }
    packages
}

fn is_in_proof(path: Option<&str>) -> bool {
    path.is_some_and(|path| path.split('/').any(|part| part == "proof"))
}

/// The product does not lean on what judges it, its tests included.
fn check_proof_is_unused(name: &str, text: &str, proof: &BTreeSet<String>) -> Vec<String> {
    if !name.starts_with("crates/") {
        return Vec::new();
    }
    let used = manifest::dependencies(text).into_iter();
    used.filter(|used| proof.contains(&used.package) || is_in_proof(used.path.as_deref()))
        .map(|used| {
            format!("{name}:{}: {} is under proof, which nothing in crates may use", used.line, used.package)
        })
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
    fn a_forbidden_arrow_is_noticed_in_every_table_that_counts() {
        let manifest = |table: &str| format!("[package]\nname = \"mraft-raft\"\n\n{table}\n");
        for table in [
            "[dependencies]\nmraft-disk = { path = \"../disk\" }",
            "[dependencies.mraft-disk]\nworkspace = true",
            "[build-dependencies]\nmraft-disk.workspace = true",
            "[target.'cfg(unix)'.dependencies]\nmraft-disk.workspace = true",
            "[target.'cfg(unix)'.dependencies.mraft-disk]\nworkspace = true",
            "[dependencies]\ndisk = { package = \"mraft-disk\", path = \"../disk\" }",
        ] {
            assert_eq!(check_arrows("crates/raft/Cargo.toml", &manifest(table)).len(), 1, "{table}");
        }
        let for_tests = manifest("[dev-dependencies]\nmraft-disk.workspace = true");
        assert_eq!(check_arrows("crates/raft/Cargo.toml", &for_tests), Vec::<String>::new());
    }

    #[test]
    fn a_crate_that_leans_on_the_proof_is_noticed() {
        let judge = ("proof/judge/Cargo.toml", "[package]\nname = \"mraft-judge\"\n");
        let workspace = ("Cargo.toml", "[workspace.dependencies]\nreferee = { path = \"proof/judge\" }\n");
        let proof = proof_packages([judge, workspace].into_iter());
        for table in [
            "[dependencies]\nmraft-judge = { path = \"../../elsewhere\" }",
            "[dev-dependencies]\nmraft-judge.workspace = true",
            "[dev-dependencies.referee]\nworkspace = true",
            "[target.'cfg(unix)'.dev-dependencies]\nx = { package = \"mraft-judge\", version = \"1\" }",
            "[dependencies.y]\npath = \"../../proof/judge\"",
        ] {
            assert_eq!(check_proof_is_unused("crates/kv/Cargo.toml", table, &proof).len(), 1, "{table}");
            assert_eq!(check_proof_is_unused("proof/sim/Cargo.toml", table, &proof), Vec::<String>::new());
        }
        let good = "[dependencies]\nmraft-types.workspace = true";
        assert_eq!(check_proof_is_unused("crates/kv/Cargo.toml", good, &proof), Vec::<String>::new());
    }

    #[test]
    fn the_log_and_the_store_have_no_clock_and_no_thread_and_one_file_of_them_has_files() {
        let complaints = |name: &str, what: &str| check_source(name, &format!("{SPDX}{what}\n")).len();
        for name in ["crates/logstore/src/x.rs", "crates/kv/src/x.rs", "crates/kv/src/lsm.rs"] {
            assert_eq!(complaints(name, "use std::time::Instant;"), 1, "{name}");
            assert_eq!(complaints(name, "use std::{sync::Arc, thread};"), 1, "{name}");
            let is_allowed = name.ends_with("lsm.rs");
            for files in ["use std::fs;", "use std::{fs, io};", "fn f() { std::fs::read(x); }"] {
                assert_eq!(complaints(name, files), usize::from(!is_allowed), "{name}: {files}");
            }
        }
    }

    #[test]
    fn a_rule_that_nothing_shows_is_noticed() {
        let source = "#[test]\nfn d1_x() {}\n    #[tokio::test]\n    #[cfg(unix)]\n    async fn d2_x() {}\nfn d3_is_no_test() {}\n";
        let mut tests: BTreeSet<&str> = tests_of(source).into_iter().collect();
        assert_eq!(tests, BTreeSet::from(["d1_x", "d2_x"]));
        let all: u32 = RULES.iter().map(|(_, highest)| highest).sum();
        assert_eq!(check_rules(&tests).len(), all as usize - 2);
        // The tenth does not stand for the first.
        tests.insert("m10_x");
        let left = check_rules(&tests);
        assert!(left.iter().any(|complaint| complaint.contains("`m1_…`")), "{left:?}");
        assert!(!left.iter().any(|complaint| complaint.contains("`m10_…`")), "{left:?}");
    }

    #[test]
    fn a_skip_that_nobody_counts_is_noticed() {
        let swallowed = format!("{SPDX}fn f() {{\n    eprintln!(\"{}: no\");\n}}\n", "SKIPPED");
        assert_eq!(check_source("crates/kv/tests/x.rs", &swallowed).len(), 1);
        let counted = format!("{SPDX}fn f() {{\n    write(\"\\n{}: no\\n\");\n}}\n", "SKIPPED");
        assert_eq!(check_source("crates/kv/tests/x.rs", &counted), Vec::<String>::new());
    }

    #[test]
    fn an_error_that_cannot_grow_is_noticed() {
        let source = |attribute: &str, is: &str| {
            format!("{SPDX}/// It.\n{attribute}#[derive(Debug)]\npub enum It {{}}\nimpl {is} for It {{}}\n")
        };
        let is_error = "std::error::Error";
        assert_eq!(check_source("crates/x/src/x.rs", &source("", is_error)).len(), 1);
        assert_eq!(check_source("crates/x/src/x.rs", &source("", "Default")), Vec::<String>::new());
        let refusal = source("", "Default").replace("enum It", "enum ItRefused");
        assert_eq!(check_source("crates/x/src/x.rs", &refusal).len(), 1);
        let open = source("#[non_exhaustive]\n", is_error);
        assert_eq!(check_source("crates/x/src/x.rs", &open), Vec::<String>::new());
    }

    #[test]
    fn a_dead_link_and_a_machine_path_are_noticed() {
        assert_eq!(check_links("README.md", "[a](b.md) and [c](https://d)", |_| false).len(), 1);
        assert_eq!(check_links("README.md", "[a](b.md#part)", |link| link == "b.md"), Vec::<String>::new());
        assert_eq!(check_paths("x", concat!("see /", "work/thing")).len(), 1);
    }
}
