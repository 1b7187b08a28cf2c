// SPDX-License-Identifier: Apache-2.0

//! What state machines read back: snapshots that come in, and their own files.

use std::path::Path;
use std::sync::Arc;

use mraft::machines::{InMemoryMachine, in_memory};
use mraft_disk::{Disk, MemoryDisk};
use mraft_engine::machine::{self, MachineError, Results, StateMachine};
use mraft_kv::command;
use mraft_kv::query::{Query, QueryAnswer};
use mraft_kv::{CountingMachine, MemoryKv, MemoryOptions};
use mraft_types::codec::Reader;
use xxhash_rust::xxh3::Xxh3;

use super::pieces::{disk_with, pieces, put_file, put_pieces, put_small_file, raw_file, small_file};
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What reading may hold for each byte of its input: each key and value is kept, once on the disk in memory and once or twice beside it.
const BYTES_PER_BYTE: usize = 64;
const BYTES_ALWAYS: usize = 32 << 10;

pub const KV_SNAPSHOT: Target = Target {
    name: "kv-snapshot",
    about: "kv, host: chunks of a snapshot that comes in, for each machine in memory",
    run: snapshot,
    seeds: snapshot_seeds,
    words: || vec![b"\x01\x01", b"\x02\x02\x10a\x0b\x01\x00\x00", b"\x03\x00", b"\x10", b"\x01\x00\x01"],
    shape: Shape::Behind(1, &Shape::Pieces(&[Shape::Bytes])),
    bytes_max: 768,
    cost: 2,
};

pub const KV_FILES: Target = Target {
    name: "kv-files",
    about: "kv, host: the files of machines in memory: pointer, state, counts",
    run: files,
    seeds: file_seeds,
    words: || vec![b"mraftmem", b"mraftkvp", b"mraftcnt", b"\x01\x02", b"\x01\x01", b"\x10"],
    shape: Shape::Behind(1, &Shape::Pieces(&[Shape::Bytes])),
    bytes_max: 768,
    cost: 4,
};

const DIRECTORY: &str = "/state";

/// A user's machine in memory: whatever was saved last.
#[derive(Default)]
struct Kept(Vec<u8>);

impl InMemoryMachine for Kept {
    fn apply(&mut self, command: &machine::Command<'_>, answer: &mut Vec<u8>) {
        self.0.extend_from_slice(command.body);
        answer.push(1);
    }
    fn query(&self, _: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0);
    }
    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.0);
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = state.to_vec();
        Ok(())
    }
}

const KINDS: u8 = 3;

/// A machine on this disk, of one of the kinds that need nothing else.
fn machine(kind: u8, disk: &Arc<MemoryDisk>) -> Box<dyn StateMachine> {
    let disk = Arc::clone(disk) as Arc<dyn Disk>;
    match kind % KINDS {
        0 => Box::new(MemoryKv::new(disk, DIRECTORY.into(), MemoryOptions::default())),
        1 => Box::new(CountingMachine::new(disk, DIRECTORY.into())),
        _ => in_memory(disk, DIRECTORY.into(), 100, Kept::default()),
    }
}

/// No index is larger: the consensus core sees to that.
const INDEX_MAX: u64 = 1 << 62;

/// Whatever was read, a replica goes on with it: it answers, applies, persists, and comes back as the same.
fn goes_on(kind: u8, machine: &mut dyn StateMachine, disk: &Arc<MemoryDisk>) -> Result<(), MachineError> {
    if kind.is_multiple_of(KINDS) {
        let (mut query, mut answer) = (Vec::new(), Vec::new());
        Query::Scan { prefix: b"", after: None, limit: 1000, max_bytes: 1 << 20 }.encode(&mut query);
        machine.lookup().query(&query, &mut answer)?;
        assert!(
            matches!(QueryAnswer::decode(&answer), Ok(QueryAnswer::Scan { .. })),
            "a scan does not answer"
        );
    }
    if machine.persisted() >= INDEX_MAX {
        // Nothing comes after it.
        return Ok(());
    }
    let mut body = Vec::new();
    command::encode_put(b"key", b"value", &mut body);
    let mut results = Results::default();
    let index = machine.persisted() + 1;
    machine.apply(&[machine::Command { index, position: 0, unix_ms: 0, body: &body }], &mut results)?;
    machine.commit(index, b"another meta")?;
    machine.persist()?;
    let hash = machine.content_hash()?;
    let mut again = self::machine(kind, disk);
    assert_eq!(again.open(None)?.as_deref(), Some(&b"another meta"[..]), "the meta does not come back");
    assert_eq!(again.content_hash()?, hash, "another content comes back");
    Ok(())
}

/// ```text
/// input := kind:u8 (modulo 3; with bit 7 the tail is made right)  pieces: meta, chunks
/// ```
fn snapshot(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let (is_right, kind) = (kind & 0x80 != 0, kind & 0x7f);
    let pieces = pieces(bytes);
    let Some((meta, chunks)) = pieces.split_first() else { return Said::Refused };
    let mut chunks: Vec<Vec<u8>> = chunks.iter().map(|chunk| chunk.to_vec()).collect();
    if is_right {
        seal(&mut chunks);
    }
    let disk = disk_with(Path::new("/"));
    let mut receiver = machine(kind, &disk);
    assert!(matches!(receiver.open(None), Ok(None)));
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let staged = bounded("a snapshot that comes in", allowed, || {
        let mut stage = receiver.stage(7, meta)?;
        for chunk in &chunks {
            stage.write_chunk(chunk)?;
        }
        stage.finish()
    });
    if staged.is_err() {
        assert!(receiver.discard(7).is_ok(), "what was staged cannot be given up");
        return Said::Refused;
    }
    let switched = bounded("a switch", allowed, || receiver.switch(7));
    match switched {
        Ok(found) => assert_eq!(found, *meta, "the meta is another one"),
        Err(error) => panic!("what was staged whole cannot be switched to: {error}"),
    }
    // What arrived is sent on to another one, which then has the same.
    let sent = sent(receiver.as_mut()).unwrap_or_else(|error| panic!("it cannot be sent on: {error}"));
    let other_disk = disk_with(Path::new("/"));
    let mut other = machine(kind, &other_disk);
    let arrived = other.open(None).and_then(|_| {
        let mut stage = other.stage(8, &sent.0)?;
        sent.1.iter().try_for_each(|chunk| stage.write_chunk(chunk))?;
        stage.finish()?;
        other.switch(8)
    });
    assert_eq!(arrived.ok().as_deref(), Some(*meta), "what was sent on does not arrive");
    assert_eq!(other.content_hash().ok(), receiver.content_hash().ok(), "something else arrived");
    if let Err(error) = goes_on(kind, receiver.as_mut(), &disk) {
        panic!("it does not go on: {error}");
    }
    Said::Read
}

fn sent(machine: &mut dyn StateMachine) -> Result<(Vec<u8>, Vec<Vec<u8>>), MachineError> {
    let mut view = machine.snapshot()?;
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::new();
        if !view.next_chunk(100, &mut chunk)? {
            return Ok((view.meta().to_vec(), chunks));
        }
        chunks.push(chunk);
    }
}

/// Makes number and hash in the tail what they should be, by the document alone (`docs/formats/kv.md`).
pub fn seal(chunks: &mut [Vec<u8>]) {
    let (mut hasher, mut entries, mut revision) = (Xxh3::new(), 0_u64, 0);
    for chunk in chunks {
        let mut reader = Reader::new(chunk);
        if reader.u8("version").is_err() {
            return;
        }
        while reader.remaining() > 0 {
            let at = reader.position();
            match reader.u8("item") {
                Ok(1) => {
                    let (Ok(_), Ok(said)) = (reader.varint("applied"), reader.varint("revision")) else {
                        return;
                    };
                    revision = said;
                }
                Ok(2) => {
                    let (Ok(key), Ok(value)) = (reader.bytes("key", 1 << 20), reader.bytes("value", 1 << 20))
                    else {
                        return;
                    };
                    for part in [key, value] {
                        hasher.update(&(part.len() as u64).to_le_bytes());
                        hasher.update(part);
                    }
                    entries += 1;
                }
                Ok(3) => {
                    hasher.update(&entries.to_le_bytes());
                    hasher.update(&revision.to_le_bytes());
                    let mut tail = vec![3];
                    mraft_types::codec::Writer::put_varint(&mut tail, entries);
                    tail.extend_from_slice(&hasher.digest128().to_le_bytes());
                    let behind = reader.varint("entries").and_then(|_| reader.id128("hash")).is_ok();
                    let end = if behind { reader.position() } else { chunk.len() };
                    chunk.splice(at..end, tail);
                    return;
                }
                _ => return,
            }
        }
    }
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    (0..KINDS).flat_map(snapshots).collect()
}

/// What a machine of this kind sends, in chunks.
pub fn snapshots(kind: u8) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for is_right in [0, 0x80] {
        let disk = disk_with(Path::new("/"));
        let mut sender = machine(kind, &disk);
        let filled = sender.open(None).and_then(|_| fill(sender.as_mut()));
        let Ok((meta, chunks)) = filled.and_then(|()| sent(sender.as_mut())) else { continue };
        let mut seed = vec![kind | is_right];
        put_pieces(&mut seed, &[meta]);
        put_pieces(&mut seed, &chunks);
        seeds.push(seed);
    }
    seeds
}

fn fill(machine: &mut dyn StateMachine) -> Result<(), MachineError> {
    let mut results = Results::default();
    for (index, key) in (2..).zip([&b"a"[..], b"b", b"{t}c", b"\xff"]) {
        let mut body = Vec::new();
        command::encode_put(key, b"some value", &mut body);
        machine.apply(&[machine::Command { index, position: 0, unix_ms: 0, body: &body }], &mut results)?;
        machine.commit(index, b"meta")?;
    }
    Ok(())
}

/// ```text
/// input := kind:u8 (modulo 3; with bit 7 the checksums are made right)  pieces
/// pieces of kind 0: pointer, then meta and chunks of the file that it names
/// pieces of the others: the state's file
/// ```
fn files(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let (is_right, kind) = (kind & 0x80 != 0, kind & 0x7f);
    let pieces = pieces(bytes);
    let Some((first, others)) = pieces.split_first() else { return Said::Refused };
    let directory = Path::new(DIRECTORY);
    let disk = disk_with(directory);
    match kind % KINDS {
        0 => {
            put_small_file(disk.as_ref(), &directory.join("pointer"), POINTER_MAGIC, first, is_right);
            let (directory, file) = named_by(first, is_right);
            let directory = Path::new(DIRECTORY).join(directory.to_string());
            assert!(disk.create_dir_all(&directory).is_ok());
            put_file(disk.as_ref(), &directory.join(file.to_string()), &state_file(others, is_right));
        }
        1 => put_small_file(disk.as_ref(), &directory.join("state"), COUNTS_MAGIC, first, is_right),
        _ => put_small_file(disk.as_ref(), &directory.join("state"), STATE_MAGIC, first, is_right),
    }
    let mut reader = machine(kind, &disk);
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let opened = bounded("a machine that opens", allowed, || reader.open(None));
    match opened {
        Err(MachineError::Damaged(_) | MachineError::Unknown(_)) => Said::Refused,
        Err(other) => panic!("damage is told as something else: {other}"),
        Ok(meta) => {
            if let Err(error) = goes_on(kind, reader.as_mut(), &disk) {
                panic!("it does not go on: {error}");
            }
            Said::of(meta.is_some())
        }
    }
}

const POINTER_MAGIC: [u8; 8] = *b"mraftkvp";
const COUNTS_MAGIC: [u8; 8] = *b"mraftcnt";
const STATE_MAGIC: [u8; 8] = *b"mraftmem";

/// Directory and file that a pointer names, wherever it is one.
fn named_by(pointer: &[u8], is_payload: bool) -> (u64, u64) {
    let payload = if is_payload { pointer } else { pointer.get(16..).unwrap_or_default() };
    let mut reader = Reader::new(payload);
    let mut read = || {
        reader.u16("version, kind").ok()?;
        Some((reader.u64("directory").ok()?, reader.u64("file").ok()?))
    };
    read().unwrap_or((0, 1))
}

fn state_file(parts: &[&[u8]], is_right: bool) -> Vec<u8> {
    let mut file = Vec::new();
    if is_right {
        file.extend_from_slice(b"mraftmem");
    }
    for part in parts {
        if is_right {
            file.extend_from_slice(&(part.len() as u32).to_le_bytes());
            file.extend_from_slice(&crc32c::crc32c(part).to_le_bytes());
        }
        file.extend_from_slice(part);
    }
    file
}

fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for kind in 0..KINDS {
        let disk = disk_with(Path::new("/"));
        let mut writer = machine(kind, &disk);
        let written = writer.open(None).and_then(|_| fill(writer.as_mut())).and_then(|()| writer.persist());
        if written.is_err() {
            continue;
        }
        let directory = Path::new(DIRECTORY);
        let name = directory.join(if kind == 0 { "pointer" } else { "state" });
        let magic = [POINTER_MAGIC, COUNTS_MAGIC, STATE_MAGIC][usize::from(kind)];
        let payload = small_file(disk.as_ref(), &name, magic);
        let (mut right, mut raw) = (vec![kind | 0x80], vec![kind]);
        put_pieces(&mut right, &[&payload]);
        put_pieces(&mut raw, &[raw_file(disk.as_ref(), &name)]);
        if kind == 0 {
            let (live, file) = named_by(&payload, true);
            let file = directory.join(live.to_string()).join(file.to_string());
            let bytes = raw_file(disk.as_ref(), &file);
            put_pieces(&mut raw, &[&bytes]);
            put_pieces(&mut right, &frames_of(&bytes[8.min(bytes.len())..]));
        }
        seeds.extend([right, raw]);
    }
    seeds
}

fn frames_of(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut frames = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((frame, behind)) = rest.split_at_checked(len) else { break };
        frames.push(frame);
        bytes = behind;
    }
    frames
}
