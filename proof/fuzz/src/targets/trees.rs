// SPDX-License-Identifier: Apache-2.0

//! The key-value machine on disk: what it looks at before the tree's crate opens its files, and snapshots that come in.

use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;

use mraft_disk::{Disk, RealDisk};
use mraft_engine::machine::{Command, MachineError, Results, SnapshotStage, StateMachine};
use mraft_kv::command;
use mraft_kv::{Caches, KvMachine, KvOptions, MemoryKv, MemoryOptions, decoders};
use xxhash_rust::xxh3::xxh3_128;

use super::pieces::{Scratch, disk_with, pieces, put_file, put_pieces};
use super::stores::{seal, snapshots};
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

pub const KV_TREE: Target = Target {
    name: "kv-tree",
    about: "kv: the files of a tree that are believed by its crate, with right checksums and wrong ones",
    run: tree,
    seeds: tree_seeds,
    words: || vec![b"SFA!\x01\x00", b"TOC!", b"tables", b"\x01\x00\x00\x00", b"\xff\xff\xff\xff"],
    shape: Shape::Behind(1, &Shape::Pieces(&[Shape::Bytes])),
    bytes_max: 768,
    cost: 4,
};

pub const KV_STORE: Target = Target {
    name: "kv-store",
    about: "kv: chunks of a snapshot that comes in, for the machine on disk and its twin in memory",
    run: store,
    seeds: || snapshots(0),
    words: || vec![b"\x01\x01", b"\x02\x02\x10a\x0b\x01\x00\x00", b"\x03\x00", b"\x10", b"\x01\x00\x01"],
    shape: Shape::Behind(1, &Shape::Pieces(&[Shape::Bytes])),
    bytes_max: 768,
    cost: 40,
};

/// What looking may hold for each byte of its input: eight bytes for the number of each table.
const TREE_BYTES_PER_BYTE: usize = 16;
const TREE_BYTES_ALWAYS: usize = 8 << 10;

const TREE: &str = "/tree";
const CURRENT_BYTES: usize = 25;
const TRAILER_BYTES: usize = 38;

/// ```text
/// input := mode:u8 (bit 0: checksums are made right)  pieces: current, the version that it names, tables from 1 on
/// ```
fn tree(input: &[u8]) -> Said {
    let Some((mode, bytes)) = input.split_first() else { return Said::Refused };
    let pieces = pieces(bytes);
    let [current, version, tables @ ..] = &pieces[..] else { return Said::Refused };
    let (mut current, mut version) = (current.to_vec(), version.to_vec());
    let mut tables: Vec<Vec<u8>> = tables.iter().map(|table| table.to_vec()).collect();
    if mode & 1 != 0 {
        tables.iter_mut().for_each(|table| seal_archive(table));
        seal_archive(&mut version);
        if let Some(checksum) = current.get_mut(8..24) {
            checksum.copy_from_slice(&xxh3_128(&version).to_le_bytes());
        }
    }
    let disk = disk_with(&Path::new(TREE).join("tables"));
    let number = current.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    let version_path = Path::new(TREE).join(format!("v{number}"));
    put_file(disk.as_ref(), &Path::new(TREE).join("current"), &current);
    put_file(disk.as_ref(), &version_path, &version);
    for (number, table) in (1..).zip(&tables) {
        put_file(disk.as_ref(), &Path::new(TREE).join("tables").join(format!("{number}")), table);
    }
    let allowed = TREE_BYTES_PER_BYTE * input.len() + TREE_BYTES_ALWAYS;
    let look = || decoders::tree_files(disk.as_ref(), Path::new(TREE));
    match bounded("a look at a tree", allowed, look) {
        Ok(()) => {}
        Err(MachineError::Damaged(_)) => return Said::Refused,
        Err(other) => panic!("damage is told as something else: {other}"),
    }
    // Whatever was taken has no bit that nobody looks at.
    assert!(current.len() == CURRENT_BYTES && !version.is_empty());
    let at = usize::from(*mode) % version.len();
    version[at] ^= 1 << (mode % 8);
    put_file(disk.as_ref(), &version_path, &version);
    assert!(look().is_err(), "a bit of the version flipped, and it is taken");
    Said::Read
}

/// Makes the checksum of an archive's directory right, wherever its last bytes say that this is.
fn seal_archive(archive: &mut [u8]) {
    let Some(end) = archive.len().checked_sub(TRAILER_BYTES) else { return };
    let (body, trailer) = archive.split_at_mut(end);
    let number = |at: usize| trailer[at..].first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    let from = usize::try_from(number(22)).unwrap_or(usize::MAX);
    let to = from.saturating_add(usize::try_from(number(30)).unwrap_or(usize::MAX));
    let Some(directory) = body.get(from..to) else { return };
    let checksum = xxh3_128(directory).to_le_bytes();
    trailer[6..22].copy_from_slice(&checksum);
}

/// Sections one behind the other, and the directory behind them, by the document (`crates/kv/src/tree_files.rs`).
fn archive(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut body, mut directory) = (Vec::new(), b"TOC!".to_vec());
    directory.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    for (name, bytes) in sections {
        directory.extend_from_slice(&(body.len() as u64).to_le_bytes());
        directory.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        body.extend_from_slice(bytes);
    }
    let (position, length) = (body.len() as u64, directory.len() as u64);
    body.extend_from_slice(&directory);
    body.extend_from_slice(b"SFA!\x01\x00");
    body.extend_from_slice(&xxh3_128(&directory).to_le_bytes());
    body.extend_from_slice(&position.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body
}

fn tree_seeds() -> Vec<Vec<u8>> {
    let made = tree_of(&[&[1, 2], &[3]]);
    let none = tree_of(&[]);
    [(1, &made), (0, &made), (1, &none)]
        .into_iter()
        .map(|(mode, parts)| {
            let mut seed = vec![mode];
            put_pieces(&mut seed, parts);
            seed
        })
        .collect()
}

/// The files of a tree with a run of these tables on each level.
fn tree_of(levels: &[&[u64]]) -> Vec<Vec<u8>> {
    let mut listed = vec![levels.len() as u8];
    let mut tables = Vec::new();
    for level in levels {
        listed.push(1);
        listed.extend_from_slice(&(level.len() as u32).to_le_bytes());
        for id in *level {
            listed.extend_from_slice(&id.to_le_bytes());
            listed.extend_from_slice(&[0; 25]);
            tables.push(archive(&[("data", &[7; 20]), ("tli", b"index")]));
        }
    }
    let version = archive(&[("format_version", &[3]), ("tables", &listed), ("blob_files", &[0; 4])]);
    let mut current = 4_u64.to_le_bytes().to_vec();
    current.extend_from_slice(&xxh3_128(&version).to_le_bytes());
    current.push(0);
    [vec![current, version], tables].concat()
}

/// Directory numbers below this belong to the machine itself.
const FIRST_STAGED: u64 = 7;

/// ```text
/// input := kind:u8 (with bit 7 the tail is made right)  pieces: meta, chunks
/// ```
fn store(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let pieces = pieces(bytes);
    let Some((meta, chunks)) = pieces.split_first() else { return Said::Refused };
    let mut chunks: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.to_vec()).collect();
    if kind & 0x80 != 0 {
        seal(&mut chunks);
    }
    let mut twin = MemoryKv::new(disk_with(Path::new("/")), "/state".into(), MemoryOptions::default());
    assert!(matches!(twin.open(None), Ok(None)));
    let expected = receive(&mut twin, meta, &chunks);
    Waiting::with(|machine| {
        let received = receive(machine, meta, &chunks);
        match (&received, &expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(expected)) => {
                assert_eq!(error.to_string(), expected.to_string(), "refused for different reasons");
                assert!(machine.discard(FIRST_STAGED).is_ok(), "what was staged cannot be given up");
                return Said::Refused;
            }
            _ => panic!("on disk {received:?}, in memory {expected:?}"),
        }
        for machine in [machine as &mut dyn StateMachine, &mut twin] {
            match machine.switch(FIRST_STAGED) {
                Ok(found) => assert_eq!(found, *meta, "the meta is another one"),
                Err(error) => panic!("what was staged whole cannot be switched to: {error}"),
            }
            if let Err(error) = goes_on(machine) {
                panic!("it does not go on: {error}");
            }
        }
        let hash = machine.content_hash().ok();
        assert!(hash.is_some() && hash == twin.content_hash().ok(), "the twins hold other content");
        Said::Read
    })
}

fn receive(machine: &mut dyn StateMachine, meta: &[u8], chunks: &[Vec<u8>]) -> Result<(), MachineError> {
    let mut stage: Box<dyn SnapshotStage> = machine.stage(FIRST_STAGED, meta)?;
    chunks.iter().try_for_each(|chunk| stage.write_chunk(chunk))?;
    stage.finish()
}

fn goes_on(machine: &mut dyn StateMachine) -> Result<(), MachineError> {
    let (index, mut body) = (machine.persisted().saturating_add(1), Vec::new());
    command::encode_put(b"key", b"value", &mut body);
    machine.apply(&[Command { index, position: 0, unix_ms: 0, body: &body }], &mut Results::default())?;
    machine.commit(index, b"another meta")?;
    machine.persist()
}

/// A machine on disk that waits for its first snapshot, until it took one.
struct Waiting {
    scratch: Scratch,
    machine: Option<KvMachine>,
}

impl Waiting {
    fn with<T>(work: impl FnOnce(&mut KvMachine) -> T) -> T {
        thread_local! {
            static WAITING: RefCell<Waiting> = RefCell::new(Waiting { scratch: Scratch::new("store"), machine: None });
        }
        WAITING.with_borrow_mut(|waiting| {
            // Whoever took one, or broke, is not used again.
            let mut machine = waiting.machine.take().unwrap_or_else(|| made(waiting.scratch.path()));
            let done = work(&mut machine);
            if machine.is_live(FIRST_STAGED).is_ok_and(|is_live| !is_live) {
                waiting.machine = Some(machine);
            }
            done
        })
    }
}

fn made(directory: &Path) -> KvMachine {
    let _ = std::fs::remove_dir_all(directory);
    let made = RealDisk.create_dir_all(directory);
    assert!(made.is_ok(), "{}: {made:?}", directory.display());
    let options = KvOptions { flush_bytes: 1 << 20, hash_seed: 7 };
    let mut machine =
        KvMachine::new(Arc::new(RealDisk), directory.to_owned(), &Caches::new(1 << 20, 64), options);
    let opened = machine.open(None);
    assert!(matches!(opened, Ok(None)), "{opened:?}");
    machine
}
