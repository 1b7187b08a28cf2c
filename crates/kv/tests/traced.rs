// SPDX-License-Identifier: Apache-2.0

//! Rule D11, seen from outside: what is called persisted was synced before, its tables, their directory, the version that names them, and
//! the directory that names the version, in this order.
//!
//! The tree writes to the file system itself and not through `mraft_disk`, so only the system's calls can tell: a second process of this
//! test flushes under `strace`, which also holds every sync up, so that whoever publishes too early is overtaken. Where `strace` cannot
//! be had, nothing is shown, and the test says so.

#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use mraft_engine::machine::{StateMachine, Urgency};
use support::{Log, kv, put};

/// Names the directory for the process that is traced.
const CHILD: &str = "MRAFT_TEST_FLUSHES_IN";
/// Microseconds by which each sync is held up.
const SYNC_DELAY_US: u64 = 20_000;

/// A call that ended, or the opening of the file that says that the point is published.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Synced(String),
    Renamed(String),
    Begun,
    Published,
}

/// Whether a call is the one that is looked for.
type Check<'a> = &'a dyn Fn(&Seen) -> bool;

#[test]
fn d11_what_is_called_persisted_was_synced_before_in_its_order() {
    if let Some(directory) = std::env::var_os(CHILD) {
        return flush_and_say_when_it_is_published(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let trace = directory.path().join("trace");
    let strace = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new("strace");
        command.args(["-f", "-y", "-e", "trace=openat,fsync,fdatasync,rename,renameat,renameat2", "-e"]);
        command.arg(format!("inject=fsync,fdatasync:delay_exit={SYNC_DELAY_US}"));
        command.arg("-o").arg(&trace).arg(program).args(arguments).env(CHILD, directory.path());
        command.stdin(Stdio::null()).output()
    };
    if !strace(Path::new("true"), &[]).is_ok_and(|traced| traced.status.success()) {
        support::skipped("strace is not here or may not trace; the order of syncs was NOT shown");
        return;
    }
    let own = std::env::current_exe().expect("a test binary");
    let name = "d11_what_is_called_persisted_was_synced_before_in_its_order";
    let traced = strace(&own, &["--exact", name, "--nocapture"]).expect("it runs");
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    let seen = read_trace(&std::fs::read_to_string(&trace).expect("a trace"), directory.path());
    let during = seen.split(|seen| *seen == Seen::Begun).next_back().expect("the flush begins");
    let before = during.split(|seen| *seen == Seen::Published).next().expect("it is published");
    assert_ne!(before.len(), during.len(), "it is never published: {during:#?}");
    let is_number = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = |path: &str, prefix: &str| {
        path.rsplit_once('/').is_some_and(|(_, name)| name.strip_prefix(prefix).is_some_and(is_number))
    };
    let tables = before.iter().find_map(|seen| match seen {
        Seen::Synced(path) if path.ends_with("/tables") => Some(path.as_str()),
        _ => None,
    });
    let tables = tables.expect("the directory of the tables is synced");
    let tree = tables.strip_suffix("/tables").expect("it is within the tree's");
    let steps: [(&str, Check<'_>); 6] = [
        (
            "a table",
            &|seen| matches!(seen, Seen::Synced(path) if path.starts_with(tables) && numbered(path, "")),
        ),
        ("the tables' directory", &|seen| matches!(seen, Seen::Synced(path) if path == tables)),
        (
            "the version that names the table",
            &|seen| matches!(seen, Seen::Synced(path) if path.starts_with(tree) && numbered(path, "v")),
        ),
        ("the directory that names the version", &|seen| matches!(seen, Seen::Synced(path) if path == tree)),
        (
            "the switch to the version",
            &|seen| matches!(seen, Seen::Renamed(path) if *path == format!("{tree}/current")),
        ),
        ("the directory with the switch", &|seen| matches!(seen, Seen::Synced(path) if path == tree)),
    ];
    let mut rest = before.iter();
    for (what, is_it) in steps {
        assert!(rest.any(is_it), "{what} does not follow before it is published: {before:#?}");
    }
}

/// Flushes on a thread of its own, and makes a file the moment that the machine calls the point persisted.
fn flush_and_say_when_it_is_published(directory: &Path) {
    let say = |what: &str| drop(std::fs::File::create(directory.join(what)).expect("a file"));
    let mut machine = kv(&directory.join("state"), 1 << 20);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    for number in 0..100 {
        log.write(&mut machine, vec![put(format!("key/{number}"), "value")]);
    }
    let before = machine.persisted();
    let job = machine.background(Urgency::Pressing).expect("something to flush");
    say("begun");
    let flush = std::thread::spawn(move || job.run());
    while machine.persisted() == before {
        assert!(
            !flush.is_finished() || machine.persisted() != before,
            "the flush ended and published nothing"
        );
        std::thread::yield_now();
    }
    say("published");
    flush.join().expect("no panic").expect("flushed");
}

/// The calls within a directory in the order in which they ended; the files that the process makes to say something as they begin.
fn read_trace(trace: &str, directory: &Path) -> Vec<Seen> {
    let directory = directory.to_str().expect("a path in UTF-8");
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("openat(") {
            // Also of a call that has not ended.
            seen.extend(call.contains(&format!("\"{directory}/begun\"")).then_some(Seen::Begun));
            seen.extend(call.contains(&format!("\"{directory}/published\"")).then_some(Seen::Published));
            continue;
        }
        if call.ends_with("<unfinished ...>") {
            unfinished.insert(thread, call);
            continue;
        }
        let begun = if call.starts_with("<...") { unfinished.remove(thread).unwrap_or(call) } else { call };
        if !call.contains(" = 0") {
            continue;
        }
        if begun.starts_with("fsync(") || begun.starts_with("fdatasync(") {
            let path = begun.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path);
            seen.extend(
                path.filter(|path| path.starts_with(directory)).map(|path| Seen::Synced(path.to_owned())),
            );
        } else if begun.starts_with("rename") {
            seen.extend(begun.rsplit('"').nth(1).map(|path| Seen::Renamed(path.to_owned())));
        }
    }
    seen
}
