// SPDX-License-Identifier: Apache-2.0

//! A log's directory: the list of replicas and segments, opened, read, written to and opened again.
//!
//! An input holds what is not zero of the files, so that a few hundred bytes make several segments:
//!
//! ```text
//! input   := mode:u8  pieces: list, segment*
//! mode    := bit 0: checksums, salts and lengths are made right   bit 1: there is no list
//! segment := pieces: header (80 bytes, or 68 in version 1), batch*
//! batch   := blocks:u8 (free ones before it, modulo 4)  header (64 bytes)  rows  records
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, MemoryDisk};
use mraft_logstore::{
    GroupWrite, LogError, LogKey, LogOptions, LogStore, Mark, Recovered, SegmentLog, inspect,
};
use mraft_raft::{Config, Raft, Restored};
use mraft_types::codec::Writer;
use mraft_types::{CondemnedReason, Entry, EntryKind, GroupId, HardState, Payload};

use super::pieces::{disk_with, pieces, put_file, put_pieces, put_small_file, raw_file, small_file};
use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

pub const LOG: Target = Target {
    name: "log",
    about: "logstore, raft: segments and the list of replicas, recovered, written to and recovered again",
    run,
    seeds,
    words: || {
        vec![
            b"mrb1\x01\x00\x00\x00",
            b"mrb1\x01\x01\x00\x00",
            b"mraftseg\x01\x00\x00\x00\x00\x10\x00\x00",
            b"\x10",
            b"\x08",
            b"\x04",
            b"\x02",
            b"\x18",
            b"\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ]
    },
    shape: Shape::Behind(
        1,
        &Shape::Pieces(&[Shape::Bytes, Shape::Pieces(&[Shape::Made(made_header), Shape::Made(made_batch)])]),
    ),
    bytes_max: 2048,
    cost: 50,
};

const DIRECTORY: &str = "/log";
const BLOCK_BYTES: usize = 4096;
const SEGMENT_BYTES: usize = 8 * BLOCK_BYTES;
const LIST_MAGIC: [u8; 8] = *b"mraftlst";
/// Segments of one input.
const SEGMENTS_MAX: usize = 6;

/// Higher ones are read, and no log gets there.
const NUMBER_MAX: u64 = 1 << 40;
/// What a header takes, in the present version and in the first one.
const HEADER_BYTES: usize = 80;
const FIRST_HEADER_BYTES: usize = 68;

/// What opening may hold for each byte of its input: an entry of three bytes takes a hundred in memory until it is judged.
const BYTES_PER_BYTE: usize = 128;
/// A window over a segment, the batch that is held back, what is written again; and each segment's file.
const BYTES_ALWAYS: usize = 6 * SEGMENT_BYTES;

fn run(input: &[u8]) -> Said {
    let disk = disk_of(input);
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS + SEGMENTS_MAX * 2 * SEGMENT_BYTES;
    let files = files_of(&disk);
    let looked_at = bounded("a look at a log", allowed, || inspect(disk.as_ref(), Path::new(DIRECTORY)));
    assert!(files_of(&disk) == files, "who only looks has touched something");
    let opened = bounded("a log that opens", allowed, || open(&disk, 1));
    let mut log = match opened {
        Ok(log) => log,
        Err(LogError::Refused { .. }) => {
            assert!(files_of(&disk) == files, "a log was refused and touched");
            return Said::Refused;
        }
        Err(error) => panic!("a log on a good disk fails: {error}"),
    };
    let recovered = log.recovered();
    let has_end = match &looked_at {
        Ok(inspection) => {
            let uses = inspection.segments.iter().map(|segment| segment.use_number);
            uses.chain([inspection.last_batch_seq]).any(|number| number > NUMBER_MAX)
        }
        Err(_) => false,
    };
    match looked_at {
        Ok(inspection) => {
            let seen: Vec<Recovered> =
                inspection.replicas.into_iter().map(|replica| replica.recovered).collect();
            assert_eq!(recovered, seen, "who only looks sees something else");
        }
        Err(error) => panic!("a log that opens cannot be looked at: {error}"),
    }
    for replica in &recovered {
        is_legible(&log, replica);
        restore(replica);
    }
    let states = recovered.iter().map(|replica| replica.hard_state.term.max(replica.last_index));
    if has_end || states.into_iter().any(|number| number > NUMBER_MAX) {
        // Nobody counts on from the end of all numbers.
        return Said::Read;
    }
    let written = go_on(&mut log, &recovered);
    drop(log);
    let again = open(&disk, 2).unwrap_or_else(|error| panic!("a log that was open does not open: {error}"));
    let again = again.recovered();
    assert_eq!(again.len(), recovered.len());
    for (before, after) in recovered.iter().zip(&again) {
        let (mut expected, mut found) = (before.clone(), after.clone());
        if written.contains(&before.key) {
            expected.last_index += 1;
            expected.hard_state.term += 1;
            expected.hard_state.vote = None;
            found.terms.pop();
            if found.terms.last() != expected.terms.last() {
                expected.terms.pop();
            }
        }
        assert_eq!(expected, found, "the second opening finds something else");
    }
    Said::of(recovered.is_empty() || recovered.iter().any(|replica| replica.condemned.is_none()))
}

/// Every file with what is in it.
fn files_of(disk: &MemoryDisk) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    disk.files().into_iter().map(|(path, _)| (path.clone(), disk.peek(&path))).collect()
}

fn open(disk: &Arc<MemoryDisk>, salt: u64) -> Result<SegmentLog, LogError> {
    SegmentLog::open(Arc::clone(disk) as Arc<dyn Disk>, Path::new(DIRECTORY), options(salt))
}

fn options(mut salt: u64) -> LogOptions {
    let salts = move || {
        salt = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
        salt
    };
    LogOptions::new(SEGMENT_BYTES as u64, Box::new(salts))
        .with_batch_bytes_max(2 * BLOCK_BYTES)
        .with_segments_target(3)
}

/// Everything that a replica is told that it has can be read.
fn is_legible(log: &SegmentLog, replica: &Recovered) {
    let (first, last) = (replica.start.position.index + 1, replica.last_index);
    assert!(replica.last_index >= replica.start.position.index, "{replica:?} ends before it begins");
    if first > last {
        return;
    }
    let entries = log.reader().entries(replica.key, first, last, usize::MAX);
    let entries = entries.unwrap_or_else(|error| panic!("{replica:?} cannot be read: {error}"));
    assert_eq!(entries.len() as u64, last - replica.start.position.index);
    assert!(entries.iter().zip(first..).all(|(entry, index)| entry.index == index));
    let again = replica.clone().with_entries(log.reader().as_ref());
    let again = again.unwrap_or_else(|error| panic!("{replica:?} cannot be read: {error}"));
    assert_eq!((&again.terms, &again.memberships), (&replica.terms, &replica.memberships));
}

/// The consensus core begins with it, or says why not.
fn restore(replica: &Recovered) {
    let config = Config {
        id: replica.key.replica,
        election_ticks: 10,
        heartbeat_ticks: 2,
        check_quorum: true,
        append_bytes_max: 1 << 10,
        inflight_bytes_max: 4 << 10,
        inflight_messages_max: 4,
        unapplied_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 40,
        quiesce_after_ticks: None,
    };
    let Recovered { hard_state, start, last_index, terms, memberships, condemned, .. } = replica.clone();
    let applied = start.position;
    let restored = Restored { hard_state, start, last_index, terms, memberships, applied, condemned };
    if let Ok(raft) = Raft::new(config, restored) {
        assert_eq!(raft.check(), Ok(()), "a replica that may not be");
    }
}

/// One more entry for each replica that takes part, then housekeeping and a seal. Which ones were written for.
fn go_on(log: &mut SegmentLog, recovered: &[Recovered]) -> Vec<LogKey> {
    let goes_on = |replica: &&Recovered| replica.condemned.is_none();
    let write = |replica: &Recovered| GroupWrite {
        key: replica.key,
        hard_state: HardState { term: replica.hard_state.term + 1, vote: None, ..replica.hard_state },
        entries: vec![Entry {
            index: replica.last_index + 1,
            term: replica.hard_state.term + 1,
            kind: EntryKind::Commands,
            payload: Payload::copy_from(b"one more"),
        }],
        mark: None,
    };
    let writes: Vec<GroupWrite> = recovered.iter().filter(goes_on).map(write).collect();
    if !writes.is_empty()
        && let Err(error) = log.write(&writes)
    {
        panic!("a log that was opened takes nothing: {error}");
    }
    let mut steps = 0;
    while log.maintain().unwrap_or_else(|error| panic!("housekeeping fails: {error}")) {
        steps += 1;
        assert!(steps < 1000, "housekeeping has no end");
    }
    assert!(log.seal().is_ok());
    writes.into_iter().map(|write| write.key).collect()
}

/// The disk that an input describes.
fn disk_of(input: &[u8]) -> Arc<MemoryDisk> {
    let directory = Path::new(DIRECTORY);
    let disk = disk_with(directory);
    let Some((mode, bytes)) = input.split_first() else { return disk };
    let is_right = mode & 1 != 0;
    for (number, piece) in pieces(bytes).into_iter().take(1 + SEGMENTS_MAX).enumerate() {
        match number {
            0 if mode & 2 != 0 => {}
            0 => put_small_file(disk.as_ref(), &directory.join("replicas"), LIST_MAGIC, piece, is_right),
            number => put_file(disk.as_ref(), &segment_path(number), &segment(piece, is_right)),
        }
    }
    disk
}

fn segment_path(number: usize) -> PathBuf {
    Path::new(DIRECTORY).join(format!("segment-{number:08}.log"))
}

fn segment(piece: &[u8], is_right: bool) -> Vec<u8> {
    let mut bytes = vec![0; SEGMENT_BYTES];
    let pieces = pieces(piece);
    let Some((header, batches)) = pieces.split_first() else { return bytes };
    let mut block = vec![0; HEADER_BYTES];
    let len = header.len().min(HEADER_BYTES);
    block[..len].copy_from_slice(&header[..len]);
    if is_right {
        // A header of version 1 ends behind the first checksum.
        let checksums: &[usize] = if len > FIRST_HEADER_BYTES { &[64, 76] } else { &[64] };
        for at in checksums {
            let crc = crc32c::crc32c(&block[..*at]);
            block[*at..*at + 4].copy_from_slice(&crc.to_le_bytes());
        }
    }
    for copy in [0, BLOCK_BYTES] {
        bytes[copy..copy + block.len()].copy_from_slice(&block);
    }
    let salt: [u8; 8] = block[32..40].try_into().unwrap_or_default();
    let mut at = 2 * BLOCK_BYTES;
    for batch in batches {
        let Some((free, batch)) = batch.split_first() else { continue };
        at += usize::from(free % 4) * BLOCK_BYTES;
        let mut batch = batch.to_vec();
        if is_right {
            seal_batch(&mut batch, salt);
        }
        let Some(place) = bytes.get_mut(at..) else { break };
        let len = batch.len().min(place.len());
        place[..len].copy_from_slice(&batch[..len]);
        at += batch.len().max(1).div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
    }
    bytes
}

/// Makes salt, length and checksums of a batch right, by the document alone (`docs/formats/log.md`).
fn seal_batch(batch: &mut [u8], salt: [u8; 8]) {
    let seed = crc32c::crc32c(&salt);
    let Some((header, rest)) = batch.split_first_chunk_mut::<64>() else { return };
    let rows = u32::from_le_bytes([header[12], header[13], header[14], header[15]]) as usize;
    let (rows, records) = rest.split_at_mut(rows.saturating_mul(16).min(rest.len()));
    let mut left = &mut *records;
    while let Some((head, behind)) = std::mem::take(&mut left).split_first_chunk_mut::<8>() {
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        // The last one is as long as what is there.
        let len = len.min(behind.len());
        head[..4].copy_from_slice(&(len as u32).to_le_bytes());
        let (body, rest) = behind.split_at_mut(len);
        head[4..].copy_from_slice(&crc32c::crc32c_append(seed, body).to_le_bytes());
        left = rest;
    }
    header[16..24].copy_from_slice(&salt);
    header[48..52].copy_from_slice(&(records.len() as u32).to_le_bytes());
    header[52..56].copy_from_slice(&crc32c::crc32c_append(seed, records).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &header[..60]), rows);
    header[60..].copy_from_slice(&crc.to_le_bytes());
}

/// The input that describes a disk.
fn input_of(disk: &MemoryDisk, mode: u8) -> Vec<u8> {
    let directory = Path::new(DIRECTORY);
    let list = directory.join("replicas");
    let list = if mode & 1 != 0 { small_file(disk, &list, LIST_MAGIC) } else { raw_file(disk, &list) };
    let mut parts = vec![list];
    for (path, _) in disk.files().iter().filter(|(path, _)| path.extension().is_some()) {
        let bytes = raw_file(disk, path);
        let mut inner = vec![bytes[..HEADER_BYTES].to_vec()];
        let (mut at, mut free) = (2 * BLOCK_BYTES, 0);
        while let Some(batch) = bytes.get(at..).filter(|batch| batch.len() >= 64) {
            if !batch.starts_with(b"mrb1") {
                (at, free) = (at + BLOCK_BYTES, free + 1);
                continue;
            }
            let word =
                |at: usize| u32::from_le_bytes([batch[at], batch[at + 1], batch[at + 2], batch[at + 3]]);
            let len = 64 + 16 * word(12) as usize + word(48) as usize;
            inner.push([&[free][..], &batch[..len]].concat());
            (at, free) = (at + len.div_ceil(BLOCK_BYTES) * BLOCK_BYTES, 0);
        }
        let mut segment = Vec::new();
        put_pieces(&mut segment, &inner);
        parts.push(segment);
    }
    let mut input = vec![mode];
    put_pieces(&mut input, &parts);
    input
}

/// A segment's header that drawn numbers make, by the document alone; checksums are made right later.
fn made_header(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let mut header = b"mraftseg".to_vec();
    header.put_u32(2);
    header.put_u32(BLOCK_BYTES as u32);
    header.put_u64(SEGMENT_BYTES as u64);
    let (number, first) = (1 + draw(4), 1 + draw(8));
    let (salt, durable, oldest) = (draw(3), first.saturating_sub(1 + draw(3)), draw(number + 1));
    for field in [number, salt, first, durable, oldest] {
        header.put_u64(field as u64);
    }
    header.put_u32(0);
    header.put_u64(draw(3) as u64);
    header.put_u32(0);
    header
}

/// A batch with its records, in the same way: salt, lengths and checksums are made right later.
fn made_batch(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let free = if draw(4) == 0 { draw(4) as u8 } else { 0 };
    let is_seal = draw(8) == 0;
    let slots = if is_seal { Vec::new() } else { [vec![0], vec![1], vec![0, 1]][draw(3)].clone() };
    let (mut rows, mut records) = (Vec::new(), Vec::new());
    for slot in &slots {
        let (count, first) = (1 + draw(2) as u64, 1 + draw(6) as u64);
        rows.put_u32(*slot);
        rows.put_u32(count as u32);
        rows.put_u64(first);
        for sequence in first..first + count {
            let body = made_record(*slot, sequence, draw);
            records.put_u32(body.len() as u32);
            records.put_u32(0);
            records.put_raw(&body);
        }
    }
    let seq = 1 + draw(8);
    let mut batch = vec![free];
    batch.put_raw(b"mrb1");
    batch.put_raw(&[1, u8::from(is_seal), 0, 0]);
    batch.put_u32(0);
    batch.put_u32(slots.len() as u32);
    batch.put_u64(0);
    for field in [seq, seq.saturating_sub(1 + draw(3)), draw(3)] {
        batch.put_u64(field as u64);
    }
    batch.put_raw(&[0; 16]);
    [batch, rows, records].concat()
}

fn made_record(slot: u32, sequence: u64, draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    let (has_vote, has_state, is_reset) = (draw(2), draw(3) / 2, draw(8) / 7);
    let (is_part, is_last) = if draw(4) == 0 { (1, draw(2)) } else { (0, 0) };
    let mut body = Vec::new();
    body.put_varint(u64::from(slot));
    body.put_varint(sequence);
    body.put_u8((has_vote | has_state << 1 | is_reset << 2 | is_part << 3 | is_last << 4) as u8);
    body.put_varint(1 + draw(4) as u64);
    if has_vote == 1 {
        body.put_u64(samples::replica(1 + draw(3) as u64).get());
    }
    body.put_varint(draw(6) as u64);
    if has_state == 1 {
        let start = 1 + draw(6) as u64;
        body.put_varint(start + draw(3) as u64);
        put_start(&mut body, start, 1 + draw(3) as u64);
        let installs = draw(4) / 3;
        body.put_u8(installs as u8);
        if installs == 1 {
            put_start(&mut body, start + draw(9) as u64, 1 + draw(3) as u64);
            body.put_u64(draw(9) as u64);
        }
        body.put_u8([0, 0, 0, 1, 2, 3][draw(6)]);
    }
    if is_part == 1 {
        body.put_varint(1 + draw(3) as u64);
    }
    let entries = draw(4);
    body.put_varint(entries as u64);
    if entries > 0 {
        body.put_varint(1 + draw(8) as u64);
    }
    for _ in 0..entries {
        body.put_varint(1 + draw(4) as u64);
        match draw(4) {
            0 => {
                body.put_u8(EntryKind::Membership as u8);
                body.put_bytes(&samples::membership_payload(draw(9) as u64));
            }
            1 => body.put_raw(&[EntryKind::Empty as u8, 0]),
            _ => body.put_raw(&[EntryKind::Commands as u8, 1, b'c']),
        }
    }
    body
}

fn put_start(body: &mut Vec<u8>, index: u64, term: u64) {
    body.put_varint(index);
    body.put_varint(term);
    samples::membership(1).encode(body);
}

fn key(group: u64) -> LogKey {
    LogKey { group: GroupId(group), uid: samples::UID, replica: samples::replica(1) }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![input_of(&disk_with(Path::new(DIRECTORY)), 3)];
    type Script = fn(&mut SegmentLog) -> Result<(), LogError>;
    let scripts: [Script; 4] = [entries, marks, overwritten, recycled];
    for script in scripts {
        let disk = disk_with(Path::new(DIRECTORY));
        let Ok(mut log) = open(&disk, 7) else { continue };
        if script(&mut log).is_ok() {
            seeds.extend([input_of(&disk, 1), input_of(&disk, 0)]);
            if log.seal().is_ok() {
                seeds.push(input_of(&disk, 1));
            }
        }
    }
    // A disk of which the log never opened.
    seeds.retain(|seed| seed.len() <= LOG.bytes_max);
    seeds
}

fn append(group: u64, first: u64, count: u64, term: u64) -> GroupWrite {
    let kinds = [EntryKind::Commands, EntryKind::Empty, EntryKind::Membership];
    let entry = |index: u64| match kinds[(index % 3) as usize] {
        EntryKind::Membership => {
            Entry { index, term, kind: EntryKind::Membership, payload: samples::membership_payload(index) }
        }
        EntryKind::Empty => samples::entry(index, term, EntryKind::Empty, b""),
        EntryKind::Commands => samples::entry(index, term, EntryKind::Commands, b"command"),
    };
    GroupWrite {
        key: key(group),
        hard_state: HardState { term, vote: Some(samples::replica(2)), commit: first - 1 },
        entries: (first..first + count).map(entry).collect(),
        mark: None,
    }
}

fn marked(group: u64, mark: Mark) -> GroupWrite {
    GroupWrite { entries: Vec::new(), mark: Some(mark), ..append(group, 3, 0, 1) }
}

fn add(log: &mut SegmentLog, groups: u64) -> Result<(), LogError> {
    let begins = HardState { term: 1, vote: None, commit: 1 };
    let added: Vec<_> = (1..=groups).map(|group| (key(group), samples::start(1, 1), begins)).collect();
    log.add_replicas(&added)
}

fn entries(log: &mut SegmentLog) -> Result<(), LogError> {
    add(log, 1)?;
    log.write(&[append(1, 2, 2, 1)])?;
    log.write(&[append(1, 4, 1, 2)])?;
    Ok(())
}

fn marks(log: &mut SegmentLog) -> Result<(), LogError> {
    add(log, 2)?;
    log.write(&[append(1, 2, 3, 1), append(2, 2, 1, 1)])?;
    log.write(&[
        marked(1, Mark::Truncate(samples::start(3, 1))),
        marked(2, Mark::InstallBegin { start: samples::start(9, 1), directory: 5 }),
    ])?;
    log.write(&[
        marked(2, Mark::InstallDone(samples::start(9, 1))),
        marked(1, Mark::Condemned(CondemnedReason::Divergence)),
    ])?;
    Ok(())
}

fn overwritten(log: &mut SegmentLog) -> Result<(), LogError> {
    add(log, 1)?;
    log.write(&[append(1, 2, 3, 1)])?;
    log.write(&[append(1, 3, 1, 4)])?;
    log.write(&[append(1, 4, 1, 4)])?;
    Ok(())
}

/// Until the oldest segment is used again, while a replica that does not write is carried forward.
fn recycled(log: &mut SegmentLog) -> Result<(), LogError> {
    add(log, 2)?;
    log.write(&[append(1, 2, 1, 1), append(2, 2, 1, 1)])?;
    let mut index = 3;
    while log.status().segments_recycled == 0 {
        let mut write = append(2, index, 1, 1);
        write.mark = Some(Mark::Truncate(samples::start(index, 1)));
        log.write(&[write])?;
        log.maintain()?;
        index += 1;
    }
    Ok(())
}
