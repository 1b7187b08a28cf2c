// SPDX-License-Identifier: Apache-2.0

//! A data directory that an earlier build wrote is opened by this one (rule T3).
//!
//! `crates/mraft-cli/tests/fixtures/VERSION.txt` is the directory of a node that was killed with SIGKILL, as text: `file PATH BYTES`, then
//! the parts of it that are not zeros, `at OFFSET HEX`. A log segment is 64 MiB, nearly all of them zeros. `UPDATE=1` writes the file of
//! the current version; those of released versions are never written again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::support::{Guarded, done, ends, mraft, run, skipped, wait_until};

/// The node's identity holds its address, so it needs this very one: not 127.0.0.1, where others look for free ports.
const IP: &str = "127.77.0.1";
const URL: &str = "http://127.77.0.1:13891";
const KEYS: u32 = 40;
const PART_BYTES: usize = 256;

#[test]
fn t3_the_directories_of_earlier_builds_open_and_hold_what_they_held() {
    if TcpListener::bind((IP, 0)).is_err() {
        skipped(&format!("this system has no {IP}, so the fixtures of data directories were NOT opened"));
        return;
    }
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let own = fixtures.join(concat!(env!("CARGO_PKG_VERSION"), ".txt"));
    if std::env::var_os("UPDATE").is_some() {
        let text = write();
        fs::create_dir_all(&fixtures).expect("a directory");
        fs::write(&own, text).expect("room for it");
    }
    assert!(own.is_file(), "{} is not there: UPDATE=1 writes it", own.display());
    for entry in fs::read_dir(&fixtures).expect("the fixtures") {
        opens(&entry.expect("a fixture").path());
    }
}

/// What was written, and what it must read as.
fn expected(key: u32) -> Option<String> {
    match key {
        key if key % 10 == 3 => None,
        key if key % 10 == 7 => Some(format!("{key}, written again")),
        key => Some(format!("value of {key}")),
    }
}

fn opens(fixture: &Path) {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    unpack(&fs::read_to_string(fixture).expect("text"), &data);
    let node = start(directory.path());
    for key in 0..KEYS {
        let name = format!("key-{key}");
        match expected(key) {
            Some(value) => assert_eq!(done(&[URL], &["kv", "get", &name]).trim_end(), value, "{fixture:?}"),
            None => drop(ends(&[URL], &["kv", "get", &name], 3)),
        }
    }
    done(&[URL], &["kv", "put", "key-0", "new"]);
    assert_eq!(done(&[URL], &["kv", "get", "key-0"]).trim_end(), "new");
    drop(node);
}

/// Starts the node on `directory/data` and waits until it serves.
fn start(directory: &Path) -> Guarded {
    let config = directory.join("node.toml");
    let groups = ["0", "1"].map(|group| format!("[initial_members.{group}]\n1 = \"{IP}:13890\"\n")).concat();
    let text = format!(
        "data_dir = {:?}\nip = \"{IP}\"\nhttp_listen = \"{IP}\"\nraft_port = 13890\nhttp_port = 13891\n\
         node_id = 1\nsnapshot_entries = 10\ncompaction_overhead = 2\nmemory_ceiling_bytes = \"256MiB\"\n{groups}",
        directory.join("data")
    );
    fs::write(&config, text).expect("room for it");
    let node = mraft().args(["node", "--config"]).arg(&config).spawn().expect("mraft runs");
    let node = Guarded(node);
    wait_until("the node serves both groups", || {
        (0..2).all(|key| {
            matches!(run(&[URL], &["kv", "get", &format!("key-{key}")]).status.code(), Some(0 | 3))
        })
    });
    node
}

/// Has this build write a directory, and kills it.
fn write() -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let node = start(directory.path());
    for key in 0..KEYS {
        done(&[URL], &["kv", "put", &format!("key-{key}"), &format!("value of {key}")]);
    }
    for key in 0..KEYS {
        match (expected(key), key % 10) {
            (None, _) => _ = done(&[URL], &["kv", "delete", &format!("key-{key}")]),
            (Some(value), 7) => _ = done(&[URL], &["kv", "put", &format!("key-{key}"), &value]),
            _ => {}
        }
    }
    drop(node);
    let data = directory.path().join("data");
    let mut text = String::new();
    pack(&data, &data, &mut text);
    text
}

fn pack(root: &Path, directory: &Path, text: &mut String) {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            pack(root, &path, text);
            continue;
        }
        let bytes = fs::read(&path).expect("a file");
        let name = path.strip_prefix(root).expect("below it").to_str().expect("text");
        writeln!(text, "file {name} {}", bytes.len()).expect("a string takes everything");
        for (part, offset) in bytes.chunks(PART_BYTES).zip((0_usize..).step_by(PART_BYTES)) {
            if part.iter().any(|byte| *byte != 0) {
                let end = part.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                let hex: String = part[..end].iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "at {offset} {hex}").expect("a string takes everything");
            }
        }
    }
}

fn unpack(text: &str, data: &Path) {
    let mut file: Option<File> = None;
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["file", name, bytes] => {
                let path = data.join(name);
                fs::create_dir_all(path.parent().expect("below data")).expect("a directory");
                let new = File::create(path).expect("a new file");
                new.set_len(bytes.parse().expect("a length")).expect("room for it");
                file = Some(new);
            }
            ["at", offset, hex] => {
                let file = file.as_mut().expect("a file comes first");
                let digits = hex.as_bytes().chunks(2).map(|pair| {
                    let pair = std::str::from_utf8(pair).expect("ASCII");
                    u8::from_str_radix(pair, 16).expect("hex")
                });
                file.seek(SeekFrom::Start(offset.parse().expect("an offset"))).expect("a file");
                file.write_all(&digits.collect::<Vec<u8>>()).expect("room for it");
            }
            _ => unreachable!("{line}"),
        }
    }
}
