// SPDX-License-Identifier: Apache-2.0

//! The files of a log: which stay, and how new ones are filled.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::PathBuf;

use mraft_disk::MemoryDisk;
use mraft_logstore::{LogOptions, LogStore, Mark, SegmentLog};
use support::{Op, append, apply, mark, start};

fn files(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.files().into_iter().map(|(path, _)| path).filter(|path| path.extension().is_some()).collect()
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
    let disk = MemoryDisk::new();
    let options = support::options(1).with_segments_kept_max(7);
    let mut log = SegmentLog::open(std::sync::Arc::new(disk.clone()), support::DIRECTORY.as_ref(), options)
        .expect("opens");
    apply(&mut log, &Op::Add(vec![1])).expect("legal");
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
fn a_filling_is_told_when_the_log_needs_the_file_soon() {
    let disk = MemoryDisk::new();
    let options = LogOptions::new(2 << 20, Box::new(|| 7)).with_batch_bytes_max(512 << 10);
    let mut log =
        SegmentLog::open(std::sync::Arc::new(disk), support::DIRECTORY.as_ref(), options).expect("opens");
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
