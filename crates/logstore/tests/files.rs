// SPDX-License-Identifier: Apache-2.0

//! The files of a log: which stay, how new ones are filled, and which blocks a write may touch.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mraft_disk::MemoryDisk;
use mraft_disk::memory::{Access, Faults};
use mraft_logstore::{LogError, LogOptions, LogStore, Mark, SegmentLog};
use support::{Op, append, apply, content, mark, open, script, start, twin};

const BLOCK: usize = 4096;

fn files(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.files().into_iter().map(|(path, _)| path).filter(|path| path.extension().is_some()).collect()
}

/// A new log of one replica that keeps so many files.
fn log_that_keeps(segments: usize) -> (MemoryDisk, SegmentLog) {
    let disk = MemoryDisk::new();
    let options = support::options(1).with_segments_kept_max(segments);
    let mut log =
        SegmentLog::open(Arc::new(disk.clone()), support::DIRECTORY.as_ref(), options).expect("opens");
    apply(&mut log, &Op::Add(vec![1])).expect("legal");
    (disk, log)
}

/// A log that grows until `segments` are in use, from this entry on; the next one.
fn grow(log: &mut SegmentLog, mut next: u64, segments: u64) -> u64 {
    while log.status().segments_live < segments {
        log.write(&[append(1, next..=next, 1, 8_000)]).expect("legal");
        next += 1;
    }
    next
}

/// The log lets go of everything below this entry, and tidies up.
fn let_go(log: &mut SegmentLog, next: u64) {
    log.write(&[mark(1, 1, next - 1, Mark::Truncate(start(next - 1, 1)))]).expect("legal");
    while log.maintain().expect("legal") {}
}

#[test]
fn a_log_that_grows_and_shrinks_in_turn_fills_its_files_once() {
    let (disk, mut log) = log_that_keeps(7);
    let mut next = grow(&mut log, 2, 5);
    let_go(&mut log, next);
    let first = files(&disk);
    assert_eq!(first.len(), 6, "five in use, and the reserve: {first:?}");
    for _ in 0..3 {
        next = grow(&mut log, next, 5);
        let_go(&mut log, next);
        assert_eq!(files(&disk), first, "the same files");
    }

    let next = grow(&mut log, next, 12);
    assert!(files(&disk).len() > 12, "a burst takes what it needs");
    let_go(&mut log, next);
    assert_eq!(files(&disk).len(), 7, "and gives it back");
}

#[test]
fn an_idle_log_gives_back_what_its_last_batch_let_go() {
    let (disk, mut log) = log_that_keeps(7);
    let next = grow(&mut log, 2, 12);
    // Both spare files are there, so it needs none of those that the last batch let go.
    while log.maintain().expect("legal") {}
    let_go(&mut log, next);
    assert_eq!(files(&disk).len(), 7, "nobody has to write something before room is given back");
    let batches = log.durable_seq();
    assert!(!log.maintain().expect("legal"));
    assert_eq!(log.durable_seq(), batches, "it rests");
}

#[test]
fn d10_what_only_a_seal_says_whose_sync_failed_is_not_let_go() {
    let (disk, mut log) = log_that_keeps(5);
    // A replica without a record: if anything is missed, nothing else shows that it lost nothing.
    apply(&mut log, &Op::Add(vec![2])).expect("legal");
    let next = grow(&mut log, 2, 9);
    while log.maintain().expect("legal") {}
    log.write(&[mark(1, 1, next - 1, Mark::Truncate(start(next - 1, 1)))]).expect("legal");
    disk.set_faults(Faults { syncs_fail: true, ..Faults::default() });
    while log.maintain().is_ok_and(|more| more) {}
    assert!(log.write(&[append(1, next..=next, 1, 30)]).is_err(), "the seal could not be synced");
    disk.kill();
    disk.set_faults(Faults::default());
    let options = support::options(2).with_segments_kept_max(5);
    let mut log =
        SegmentLog::open(Arc::new(disk.clone()), support::DIRECTORY.as_ref(), options).expect("opens");
    apply(&mut log, &Op::Add(vec![3])).expect("legal");
    while log.maintain().expect("legal") {}
    drop(log);
    for seed in 0..8 {
        // Files that were deleted may be gone for good or not.
        let disk = disk.fork();
        disk.crash(seed);
        let found = content(&open(&disk, 4).expect("opens"));
        assert_eq!(found.len(), 3);
        assert!(found.values().all(|(recovered, _)| recovered.condemned.is_none()), "{seed}: {found:?}");
    }
}

#[test]
fn l5_on_a_full_disk_a_segment_that_waits_for_a_seal_is_freed_before_anything_is_carried() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk, 1).expect("opens");
    apply(&mut log, &Op::Add(vec![1, 2])).expect("legal");
    let next = grow(&mut log, 2, 2);
    log.write(&[append(2, 2..=2, 1, 30)]).expect("legal");
    disk.set_faults(Faults { capacity_bytes: Some(5 * support::SEGMENT_BYTES), ..Faults::default() });
    let full = (next..next + 100).find(|index| {
        let written = log.write(&[append(1, *index..=*index, 1, 8_000)]);
        written.is_err_and(|error| matches!(error, LogError::Full { .. }))
    });
    let next = full.expect("the disk has an end");
    // The first segment held entries of group 1 alone, and the second one holds that of group 2, which hardly writes.
    log.write(&[mark(1, 1, next - 1, Mark::Truncate(start(next - 1, 1)))]).expect("the reserve is for that");
    let batches = log.durable_seq();
    assert!(log.maintain().expect("legal"));
    assert_eq!((log.durable_seq(), log.status().groups_carried), (batches + 1, 0), "a seal and nothing else");
    log.write(&[append(1, next..=next, 1, 8_000)]).expect("there is room again");
    assert_eq!((log.status().segments_recycled, log.status().groups_carried), (1, 0));
}

#[test]
fn a_filling_is_told_when_the_log_needs_the_file_soon() {
    let disk = MemoryDisk::new();
    let options = LogOptions::new(2 << 20, Box::new(|| 7)).with_batch_bytes_max(512 << 10);
    let mut log = SegmentLog::open(Arc::new(disk), support::DIRECTORY.as_ref(), options).expect("opens");
    apply(&mut log, &Op::Add(vec![1])).expect("legal");
    let mut next = 2;
    let fill = loop {
        let segments = log.status().segments_live + 1;
        next = grow(&mut log, next, segments);
        if let Some(fill) = log.lend_fill().expect("legal") {
            break fill;
        }
    };
    let mut answers = Vec::new();
    let filled = fill.run_with_rests(|is_needed_soon| {
        let idle = is_needed_soon();
        // More than half of what a step fills.
        log.write(&[append(1, next..=next, 1, 150_000)]).expect("legal");
        next += 1;
        answers.push((idle, is_needed_soon()));
    });
    log.take_fill(filled).expect("legal");
    assert_eq!(answers.first(), Some(&(false, true)), "{answers:?}");
}

/// What stands in the blocks of all segments, as the writes themselves tell it.
#[derive(Default)]
struct Blocks {
    /// By file and block: the use whose batch is there, and whether it is synced.
    batches: BTreeMap<(PathBuf, usize), (u64, bool)>,
    /// The use that a file is in.
    uses: BTreeMap<PathBuf, u64>,
    /// What the last batch of a file says is the oldest use that is needed; it counts when the batch is synced.
    oldest_named: BTreeMap<PathBuf, u64>,
    oldest_needed: u64,
    writes: u64,
    seals: u64,
    /// Blocks that held a batch of a use that is not needed any more.
    used_again: u64,
}

impl Blocks {
    fn before(&mut self, path: &Path, access: Access<'_>) {
        match access {
            Access::Write { offset, bytes } => self.write(path, offset as usize, bytes),
            Access::Sync => self.sync(path),
            Access::Read | Access::Meta => {}
        }
    }

    fn write(&mut self, path: &Path, offset: usize, bytes: &[u8]) {
        assert_eq!(
            (offset % BLOCK, bytes.len() % BLOCK),
            (0, 0),
            "{} at {offset}: whole blocks",
            path.display()
        );
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let has_header = bytes.starts_with(b"mraftseg");
        if has_header {
            self.uses.insert(path.to_owned(), number(24));
        }
        if has_header && bytes.len() == BLOCK {
            // An opening writes a header again, a copy at a time: nothing else stands there.
            assert!(offset <= BLOCK, "{} at {offset}: not where a header is", path.display());
            return;
        }
        let batch_at = if has_header { 2 * BLOCK } else { 0 };
        let is_batch = bytes[batch_at..].starts_with(b"mrb1");
        assert!(is_batch || bytes.iter().all(|byte| *byte == 0), "{} at {offset}: neither", path.display());
        for block in offset / BLOCK..(offset + bytes.len()) / BLOCK {
            let place = (path.to_owned(), block);
            if let Some((held, is_synced)) = self.batches.remove(&place) {
                let is_needed = is_synced && held >= self.oldest_needed;
                assert!(!is_needed, "block {block} of {} holds a batch of use {held}", path.display());
                self.used_again += u64::from(is_synced);
            }
            if is_batch {
                self.batches.insert(place, (self.uses[path], false));
            }
        }
        if is_batch {
            self.writes += 1;
            self.seals += u64::from(bytes[batch_at + 5] == 1);
            self.oldest_named.insert(path.to_owned(), number(batch_at + 40));
        }
    }

    fn sync(&mut self, path: &Path) {
        let named = self.oldest_named.get(path).copied().unwrap_or_default();
        self.oldest_needed = self.oldest_needed.max(named);
        let own = self.batches.iter_mut().filter(|((file, _), _)| file == path);
        own.for_each(|(_, (_, is_synced))| *is_synced = true);
    }
}

#[test]
fn l2_no_write_touches_a_block_that_holds_a_synced_batch_that_is_needed() {
    let (mut recycled, mut carried, mut times_full) = (0, 0, 0);
    let (mut writes, mut seals, mut used_again) = (0, 0, 0);
    for seed in 0..4 {
        let (disk, ops) = (MemoryDisk::new(), script(seed, 800, 5));
        let blocks = Arc::new(Mutex::new(Blocks::default()));
        let seen = Arc::clone(&blocks);
        disk.set_before(move |path, access| {
            if path.extension().is_some_and(|extension| extension == "log") {
                seen.lock().expect("no panic").before(path, access);
            }
        });
        // Recovery writes too: the process ends now and then.
        for (part, some) in ops.chunks(200).enumerate() {
            let mut log = open(&disk, seed * 100 + part as u64).expect("no fault");
            assert!(content(&log) == twin(&ops[..part * 200]), "seed {seed}, part {part}");
            for op in some {
                // On a full disk the reserve is written to, and a file is used again as soon as it may be.
                let capacity_bytes = (seed % 2 == 1).then_some(5 * support::SEGMENT_BYTES);
                disk.set_faults(Faults { capacity_bytes, ..Faults::default() });
                if let Err(error) = apply(&mut log, op) {
                    assert!(matches!(error, LogError::Full { .. }), "seed {seed}: {error}");
                    times_full += 1;
                    disk.set_faults(Faults::default());
                    apply(&mut log, op).expect("there is room again");
                }
            }
            recycled += log.status().segments_recycled;
            carried += log.status().groups_carried;
            drop(log);
            disk.crash(seed);
        }
        let blocks = blocks.lock().expect("no panic");
        writes += blocks.writes;
        seals += blocks.seals;
        used_again += blocks.used_again;
    }
    let counts = [writes, seals, used_again, recycled, carried, times_full];
    assert!(counts.iter().all(|count| *count >= 10), "too few to tell anything: {counts:?}");
}
