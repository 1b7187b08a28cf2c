// SPDX-License-Identifier: Apache-2.0

//! Bytes that look like a batch and are none: in a stored value, or left behind by an earlier use of the file (rule L2).

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::MemoryDisk;
use mraft_logstore::{Case, GroupWrite, LogStore, Mark, SegmentLog};
use mraft_types::{Entry, EntryKind};
use support::{
    DIRECTORY, Dice, Op, append, apply, bytes_of, content, open, options_with_salts, put, start, twin,
};

const BLOCK: usize = 4096;
/// Where the first batch of a use begins.
const FIRST: usize = 2 * BLOCK;

/// A number in a header, of a segment or of a batch.
fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn is_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"mrb1")
}

fn salt(batch: &[u8]) -> u64 {
    number(batch, 16)
}

fn batch_seq(batch: &[u8]) -> u64 {
    number(batch, 24)
}

fn durable_seq(batch: &[u8]) -> u64 {
    number(batch, 32)
}

/// A log with what was done to it, so that its twin can be asked.
struct Scripted {
    disk: MemoryDisk,
    log: SegmentLog,
    ops: Vec<Op>,
}

impl Scripted {
    fn new(disk: &MemoryDisk, log: SegmentLog, groups: &[u64]) -> Scripted {
        let mut scripted = Scripted { disk: disk.clone(), log, ops: Vec::new() };
        scripted.apply(Op::Add(groups.to_vec()));
        scripted
    }

    fn apply(&mut self, op: Op) {
        apply(&mut self.log, &op).expect("no fault");
        self.ops.push(op);
    }

    fn write(&mut self, write: GroupWrite) {
        self.apply(Op::Write(vec![write]));
    }
}

/// The newest use's file.
fn newest(disk: &MemoryDisk) -> PathBuf {
    let segments = disk.files().into_iter().map(|(path, _)| path);
    let segments = segments.filter(|path| path.to_string_lossy().contains("segment-"));
    segments.max_by_key(|path| number(&bytes_of(disk, path), 24)).expect("a segment")
}

/// Where batches begin in a file, of whichever use, by their blocks.
fn batches(bytes: &[u8]) -> impl DoubleEndedIterator<Item = (usize, &[u8])> {
    bytes.chunks(BLOCK).enumerate().skip(2).filter(|(_, block)| is_batch(block))
}

/// Blocks in which two states of a file differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    let pairs = before.chunks(BLOCK).zip(after.chunks(BLOCK)).enumerate();
    pairs.filter(|(_, (before, after))| before != after).map(|(block, _)| block).collect()
}

/// Opens the log as it is when only some blocks of the last write got through; `check` is told whether all of them did.
fn tear(
    disk: &MemoryDisk,
    path: &Path,
    before: &[u8],
    open: impl Fn(&MemoryDisk) -> SegmentLog,
    check: impl Fn(&SegmentLog, bool, &str),
) {
    let after = bytes_of(disk, path);
    let blocks = changed(before, &after);
    assert!((1..=5).contains(&blocks.len()), "{blocks:?}");
    for kept in 0_u32..1 << blocks.len() {
        let (disk, mut torn) = (disk.fork(), before.to_vec());
        for (_, block) in blocks.iter().enumerate().filter(|(bit, _)| kept & 1 << bit != 0) {
            let range = block * BLOCK..(block + 1) * BLOCK;
            torn[range.clone()].copy_from_slice(&after[range]);
        }
        put(&disk, path, &torn);
        // Of a segment's header one copy is enough.
        let is_there = |block: usize| torn[block * BLOCK..].starts_with(&after[block * BLOCK..][..BLOCK]);
        let is_whole =
            (is_there(0) || is_there(1)) && blocks.iter().all(|block| *block < 2 || is_there(*block));
        let log = open(&disk);
        let (context, found) = (format!("blocks {kept:#b} of {blocks:?}"), content(&log));
        check(&log, is_whole, &context);
        drop(log);
        disk.crash(u64::from(kept));
        assert!(content(&open(&disk)) == found, "{context}: what was recovered stays");
    }
}

/// Opens a log under another salt than any before.
fn reopened(disk: &MemoryDisk) -> SegmentLog {
    open(disk, 1000 + disk.operations()).expect("not refused")
}

/// Writes an entry whose value holds these bytes from the beginning of a block on, as the last batch of one file. Answers what the file
/// was before.
fn store(scripted: &mut Scripted, index: u64, stored: &[u8]) -> Vec<u8> {
    let entry = |index: u64, pad: usize| Entry {
        index,
        term: 1,
        kind: EntryKind::Commands,
        payload: [vec![b'.'; pad], stored.to_vec(), b"behind it".to_vec()].concat().into(),
    };
    let write = |index: u64, pad: usize| GroupWrite {
        entries: vec![entry(index, pad)],
        ..append(1, index..=index, 1, 1)
    };
    // The first one only shows where in a batch the value stands.
    scripted.write(write(index, 0));
    let path = newest(&scripted.disk);
    let before = bytes_of(&scripted.disk, &path);
    let starts =
        |bytes: &[u8]| bytes.windows(stored.len()).rposition(|window| window == stored).expect("there");
    let pad = BLOCK - starts(&before) % BLOCK;
    scripted.write(write(index + 1, pad));
    assert_eq!(newest(&scripted.disk), path, "the same use");
    assert_eq!(starts(&bytes_of(&scripted.disk, &path)) % BLOCK, 0, "it stands where a batch could begin");
    before
}

/// A log that wrote five batches, and two batches that could be put into a value: its own fifth, and a later one of a copy of its
/// directory that went another way, as when a backup is restored. The second has numbers that this log has still before it.
fn with_batches_to_store() -> (Scripted, [Vec<u8>; 2]) {
    let disk = MemoryDisk::new();
    let mut scripted = Scripted::new(&disk, open(&disk, 1).expect("no fault"), &[1, 2]);
    (2..=6).for_each(|index| scripted.write(append(1, index..=index, 1, 40)));
    let last = |disk: &MemoryDisk| {
        let bytes = bytes_of(disk, &newest(disk));
        batches(&bytes).next_back().map(|(_, batch)| batch.to_vec()).expect("a batch")
    };
    let own = last(&disk);
    let copy = disk.fork();
    let mut other = open(&copy, 2).expect("no fault");
    (7..=16).for_each(|index| {
        apply(&mut other, &Op::Write(vec![append(1, index..=index, 7, 40)])).expect("no fault")
    });
    let others = last(&copy);
    assert_ne!(salt(&own), salt(&others));
    (scripted, [own, others])
}

#[test]
fn l2_a_batch_in_a_stored_value_is_no_batch_however_the_tail_is_torn() {
    for which in 0..2 {
        let (mut scripted, stored) = with_batches_to_store();
        let stored = &stored[which];
        let before = store(&mut scripted, 7, stored);
        let (disk, ops) = (&scripted.disk, &scripted.ops);
        let path = newest(disk);
        // The own one is told by its number, the other one by its salt alone.
        let torn_seq = scripted.log.durable_seq();
        assert_eq!((batch_seq(stored) > torn_seq, durable_seq(stored) >= torn_seq), (which == 1, which == 1));
        assert_eq!(salt(stored) == salt(&before[FIRST..]), which == 0);
        let (without, with) = (twin(&ops[..ops.len() - 1]), twin(ops));
        tear(disk, &path, &before, reopened, |log, is_whole, context| {
            assert!(
                content(log) == if is_whole { with.clone() } else { without.clone() },
                "{which}, {context}"
            );
            assert!(log.durable_seq() <= torn_seq + 2, "{which}, {context}: its number is believed");
        });
    }
}

#[test]
fn l2_a_batch_in_a_stored_value_neither_proves_nor_replaces_what_follows_it() {
    for which in 0..2 {
        let (mut scripted, stored) = with_batches_to_store();
        store(&mut scripted, 7, &stored[which]);
        let (disk, path) = (scripted.disk.clone(), newest(&scripted.disk));
        let (stored_in, held) = (bytes_of(&disk, &path), scripted.ops.len());
        scripted.write(append(2, 2..=3, 1, BLOCK));
        let (before, after) = (twin(&scripted.ops[..held]), twin(&scripted.ops));
        tear(&disk, &path, &stored_in, reopened, |log, is_whole, context| {
            assert!(
                content(log) == if is_whole { after.clone() } else { before.clone() },
                "{which}, {context}"
            );
        });
        // Without its header the value's own batch is gone, and only what really follows says that it was there.
        let blocks = changed(&stored_in, &bytes_of(&disk, &path));
        let header_at = (blocks[0] - 3) * BLOCK;
        assert_eq!(batch_seq(&stored_in[header_at..]), scripted.log.durable_seq() - 1);
        assert!(disk.flip_bit(&path, (header_at + 30) as u64 * 8));
        let found = content(&open(&disk, 3).expect("not refused"));
        for (key, (recovered, entries)) in &found {
            let (_, had) = &after[key];
            assert_eq!(recovered.condemned.is_some(), key.group.0 == 1, "{which}: {key:?}");
            assert!(entries.iter().all(|entry| had.contains(entry)), "{which}: {key:?}");
        }
    }
}

#[test]
fn l2_a_batch_in_a_stored_value_does_not_hide_what_a_segment_without_its_header_held() {
    for which in 0..2 {
        let (mut scripted, stored) = with_batches_to_store();
        // The value is in the first batch of the newest use, and another batch says that it was durable.
        scripted.log = open(&scripted.disk, 4).expect("no fault");
        store(&mut scripted, 7, &stored[which]);
        scripted.write(append(2, 2..=2, 1, 40));
        let path = newest(&scripted.disk);
        let mut bytes = bytes_of(&scripted.disk, &path);
        let hidden = bytes.chunks(BLOCK).position(|block| block == &stored[which][..]).expect("it is stored");
        bytes[..hidden * BLOCK].fill(0xff);
        put(&scripted.disk, &path, &bytes);
        let log = open(&scripted.disk, 5).expect("not refused");
        assert!(log.recovery_cases().contains_key(&Case::LostHeader), "{which}: {:?}", log.recovery_cases());
        assert!(content(&log).values().all(|(recovered, _)| recovered.condemned.is_some()), "{which}");
    }
}

/// Every use draws the same salt.
fn under_one_salt(disk: &MemoryDisk) -> SegmentLog {
    let options = options_with_salts(Box::new(|| 7));
    SegmentLog::open(Arc::new(disk.clone()), Path::new(DIRECTORY), options).expect("not refused")
}

#[test]
fn l2_leftovers_of_an_earlier_use_are_no_batches_even_under_the_same_salt() {
    let disk = MemoryDisk::new();
    let mut scripted = Scripted::new(&disk, under_one_salt(&disk), &[1]);
    let (mut dice, mut index) = (Dice(1), 2);
    // Torn first batches of a use, torn ones behind them, and those at whose very place one of the earlier use began.
    let mut torn = [0; 3];
    while torn.iter().any(|count| *count < 3) {
        // Of one to three blocks: the earlier use's batches begin in and behind those of the later one.
        let mut write = append(1, index..=index + dice.below(3), 1, 3900);
        index += write.entries.len() as u64;
        write.mark = Some(Mark::Truncate(start(index - 1, 1)));
        let before = disk.fork();
        scripted.write(write);
        let path = newest(&disk);
        if before.files().iter().any(|(there, _)| *there == path) {
            let (before, after) = (bytes_of(&before, &path), bytes_of(&disk, &path));
            let blocks = changed(&before, &after);
            let own_seq = scripted.log.durable_seq();
            let is_leftover = |batch: &[u8]| salt(batch) == 7 && batch_seq(batch) < own_seq;
            let is_replaced = |(at, batch): (usize, &[u8])| blocks.contains(&at) && is_leftover(batch);
            let behind = batches(&after).any(|(at, batch)| Some(&at) > blocks.last() && is_leftover(batch));
            if behind && batches(&before).any(is_replaced) {
                let first = blocks.iter().copied().find(|block| *block >= 2).expect("a batch");
                torn[usize::from(blocks[0] != 0)] += 1;
                torn[2] += usize::from(batches(&before).any(|(at, _)| at == first));
                let ops = &scripted.ops;
                let (without, with) = (twin(&ops[..ops.len() - 1]), twin(ops));
                tear(&disk, &path, &before, under_one_salt, |log, is_whole, context| {
                    assert!(
                        content(log) == if is_whole { with.clone() } else { without.clone() },
                        "{context}"
                    );
                    let cases = log.recovery_cases();
                    assert!(!cases.contains_key(&Case::Repeated), "{context}: a leftover is read: {cases:?}");
                });
            }
        }
        scripted.apply(Op::Maintain);
        assert!(index < 1000, "only {torn:?} batches replaced some of an earlier use");
    }
}
