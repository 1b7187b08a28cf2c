// SPDX-License-Identifier: Apache-2.0

//! Bits flip at rest, anywhere in what a tree has persisted.

#![allow(clippy::expect_used)]

mod support;

use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use mraft_engine::machine::{MachineError, StateMachine, Urgency};
use mraft_kv::query::{Query, QueryAnswer};
use mraft_types::Index;
use support::{Log, delete, kv, put, run_background};

/// Buffers of the machine are so small that it has several tables.
const FLUSH_BYTES: usize = 4 << 10;
/// Of a table's values every so many bytes are flipped one by one; of everything else, and of the end of a table, each.
const EVERY_BYTES: u64 = 29;
const TABLE_END_BYTES: u64 = 350;

/// What can be read of a machine: how far it is persisted, and every key and value.
type Seen = (Index, Vec<(Vec<u8>, Vec<u8>)>);

#[test]
fn d10_a_bit_that_flips_anywhere_in_a_tree_is_said_or_changes_nothing_that_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path());
    // The first opening tidies up; from then on nothing is written.
    let before = see(directory.path()).expect("whole");
    assert!(before.1.len() > 50, "{} keys", before.1.len());
    let files = files_below(directory.path());
    let is_table = |path: &Path| path.components().any(|part| part.as_os_str() == "tables");
    assert!(files.iter().filter(|(path, _)| is_table(path)).count() > 3, "{files:?}");
    let (mut said, mut unread) = (0, 0);
    for (path, len) in &files {
        let file = std::fs::File::options().read(true).write(true).open(path).expect("there");
        for byte in 0..*len {
            if is_table(path) && byte + TABLE_END_BYTES < *len && !byte.is_multiple_of(EVERY_BYTES) {
                continue;
            }
            let bit = byte % 8;
            flip(&file, byte, bit);
            let seen = catch_unwind(AssertUnwindSafe(|| see(directory.path())));
            flip(&file, byte, bit);
            let what = format!("{} byte {byte} bit {bit}", path.display());
            assert_eq!(files_below(directory.path()), files, "{what}: something was touched");
            match seen.unwrap_or_else(|_| panic!("{what}: it panicked")) {
                Err(MachineError::Damaged(_) | MachineError::Unknown(_)) => said += 1,
                Err(other) => panic!("{what}: {other}"),
                Ok(seen) if seen == before => unread += 1,
                Ok((persisted, entries)) => {
                    panic!(
                        "{what}: {} entries up to {persisted} are taken for {} up to {}",
                        entries.len(),
                        before.1.len(),
                        before.0
                    )
                }
            }
        }
    }
    assert!(said > 1_000 && unread < said, "{said} were said, {unread} changed nothing");
    assert_eq!(see(directory.path()).expect("whole"), before);
}

/// A tree of several tables, some of them the result of a compaction, with keys that were overwritten and deleted.
fn fill(directory: &Path) {
    let mut machine = kv(directory, FLUSH_BYTES);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    for round in 0..12_u32 {
        let key = |number: u32| format!("key/{:03}", number * (round + 1) % 97);
        let value = format!("value {round} {}", "x".repeat(40));
        log.write(&mut machine, (0..20).map(|number| put(key(number), &value)).collect());
        log.write(&mut machine, vec![delete(format!("key/{round:03}"))]);
        machine.persist().expect("persists");
        run_background(&mut machine, Urgency::Normal);
    }
}

/// Opens what is there and reads all of it.
fn see(directory: &Path) -> Result<Seen, MachineError> {
    let mut machine = kv(directory, FLUSH_BYTES);
    machine.open(None)?;
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    Query::Scan { prefix: b"", after: None, limit: 1_000, max_bytes: 1 << 20 }.encode(&mut query);
    machine.lookup().query(&query, &mut answer)?;
    let QueryAnswer::Scan { entries, next: None, .. } = QueryAnswer::decode(&answer).expect("decodes") else {
        panic!("everything fits one page")
    };
    // By key, too: a get asks filters, which a scan does not.
    for entry in &entries {
        let (mut query, mut answer) = (Vec::new(), Vec::new());
        Query::Get { key: &entry.key }.encode(&mut query);
        machine.lookup().query(&query, &mut answer)?;
        let QueryAnswer::Get { found, .. } = QueryAnswer::decode(&answer).expect("decodes") else {
            panic!("a get answers what was found")
        };
        assert_eq!(found.map(|(_, value)| value).as_ref(), Some(&entry.value), "{:?}", entry.key);
    }
    Ok((machine.persisted(), entries.into_iter().map(|entry| (entry.key, entry.value)).collect()))
}

fn flip(file: &std::fs::File, byte: u64, bit: u64) {
    let mut at = [0];
    file.read_exact_at(&mut at, byte).expect("there");
    file.write_all_at(&[at[0] ^ (1 << bit)], byte).expect("there");
}

/// Every file with its length, by path.
fn files_below(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).expect("there") {
        let entry = entry.expect("there");
        match entry.metadata().expect("there") {
            metadata if metadata.is_dir() => files.extend(files_below(&entry.path())),
            metadata => files.push((entry.path(), metadata.len())),
        }
    }
    files.sort();
    files
}
