// SPDX-License-Identifier: Apache-2.0

//! One flipped bit anywhere: a replica has everything it had, or says that it may not; nobody reads what was not written, and the
//! replicas that are unharmed go on.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mraft_disk::MemoryDisk;
use mraft_disk::memory::Access;
use mraft_logstore::{Case, LogError, LogOptions, LogStore, SegmentLog};
use mraft_types::CondemnedReason;
use support::{Content, Dice, Op, append, apply, content, open, script, twin};

/// A log that was closed well: every batch is proven by the seal.
fn sealed(seed: u64, len: usize) -> (MemoryDisk, Vec<Op>) {
    let (disk, mut ops) = (MemoryDisk::new(), script(seed, len, 5));
    ops.push(Op::Seal);
    let mut log = open(&disk, seed).expect("no fault");
    for op in &ops {
        apply(&mut log, op).expect("no fault");
    }
    disk.kill();
    (disk, ops)
}

/// Whether a replica that is not condemned has all it had, and a condemned one nothing that it had not. Answers how many were condemned.
fn check(found: &Content, expected: &Content, context: &str) -> usize {
    let mut condemned = 0;
    assert!(found.keys().eq(expected.keys()), "{context}");
    for (key, (recovered, entries)) in found {
        let (was, had) = &expected[key];
        if was.condemned.is_some() {
            // It takes part in nothing any more, so that nobody asks for its entries.
            assert!(recovered.condemned.is_some(), "{context}: {key:?}");
            assert!(entries.iter().all(|entry| had.contains(entry)), "{context}: {key:?}");
        } else if recovered.condemned.is_none() {
            assert!(recovered == was && entries == had, "{context}: {recovered:#?}\nbut it was {was:#?}");
        } else {
            condemned += 1;
            assert_eq!(recovered.condemned, Some(CondemnedReason::Damage), "{context}");
            assert!(entries.iter().all(|entry| had.contains(entry)), "{context}: {key:?}");
        }
    }
    condemned
}

#[test]
fn one_flipped_bit_anywhere_is_noticed_or_does_no_harm() {
    for seed in 0..2 {
        let (disk, ops) = sealed(seed, 30);
        let expected = twin(&ops);
        let mut dice = Dice(seed);
        let (mut refused, mut condemned, mut harmless) = (0, 0, 0);
        for (path, len) in disk.files() {
            let mut at = 0;
            while at < len {
                let disk = disk.fork();
                assert!(disk.flip_bit(&path, at * 8 + dice.below(8)));
                let context = format!("seed {seed}, {} at {at}", path.display());
                match open(&disk, at + 1000) {
                    Err(LogError::Refused { .. }) => refused += 1,
                    Err(error) => panic!("{context}: {error}"),
                    Ok(mut log) => match check(&content(&log), &expected, &context) {
                        0 => harmless += 1,
                        _ => {
                            condemned += 1;
                            go_on(&disk, &mut log, &context);
                        }
                    },
                }
                // The heads of blocks densely, the rest here and there.
                at += if at % 4096 < 100 { 1 + dice.below(5) } else { 1 + dice.below(300) };
            }
        }
        println!("seed {seed}: {refused} refused, {condemned} with a condemned replica, {harmless} harmless");
        assert!(refused > 10 && condemned > 10 && harmless > 10);
    }
}

/// The unharmed replicas write on, and the condemned ones stay so, also when the damage is gone.
fn go_on(disk: &MemoryDisk, log: &mut mraft_logstore::SegmentLog, context: &str) {
    let before = content(log);
    for (key, (recovered, _)) in &before {
        if recovered.condemned.is_none() {
            let (next, term) = (recovered.last_index + 1, recovered.hard_state.term + 1);
            log.write(&[append(key.group.0, next..=next, term, 10)]).expect("no fault");
        }
    }
    disk.crash(7);
    let again = content(&open(disk, 5000).expect("no fault"));
    for (key, (recovered, entries)) in &again {
        let (was, had) = &before[key];
        assert_eq!(recovered.condemned, was.condemned, "{context}: {key:?}");
        let grown = usize::from(was.condemned.is_none());
        assert!(entries.len() == had.len() + grown && entries.starts_with(had), "{context}: {key:?}");
    }
}

#[test]
fn l3_without_a_seal_only_the_very_last_batch_may_be_taken_for_torn() {
    let (disk, mut ops) = (MemoryDisk::new(), script(3, 40, 5));
    // What follows a removal is legal only behind it.
    ops.truncate(ops.iter().position(|op| matches!(op, Op::Remove(_))).unwrap_or(ops.len()));
    ops.retain(|op| matches!(op, Op::Add(_) | Op::Write(_)));
    assert!(ops.len() > 10, "{} are too few to tell anything", ops.len());
    while matches!(ops.last(), Some(Op::Add(_))) {
        ops.pop();
    }
    let mut log = open(&disk, 1).expect("no fault");
    ops.iter().for_each(|op| apply(&mut log, op).expect("no fault"));
    disk.kill();
    let (whole, without_last) = (twin(&ops), twin(&ops[..ops.len() - 1]));
    let mut torn = 0;
    for (path, len) in segments(&disk) {
        for at in (0..len).step_by(101) {
            let disk = disk.fork();
            disk.flip_bit(&path, at * 8);
            let context = format!("{} at {at}", path.display());
            let found = content(&open(&disk, at + 1000).expect("segments are not refused"));
            if found == without_last {
                torn += 1;
            } else {
                check(&found, &whole, &context);
            }
        }
    }
    assert!(torn > 0 && torn * 101 < 3 * 4096, "{torn}");
}

fn use_number(disk: &MemoryDisk, path: &std::path::Path) -> u64 {
    let bytes = mraft_disk::read_file(disk, path, 1 << 20).expect("readable").expect("there");
    u64::from_le_bytes(bytes[24..32].try_into().expect("eight bytes"))
}

fn segments(disk: &MemoryDisk) -> Vec<(PathBuf, u64)> {
    disk.files().into_iter().filter(|(path, _)| path.to_string_lossy().contains("segment-")).collect()
}

#[test]
fn a_reader_says_which_entry_is_damaged() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk, 1).expect("no fault");
    apply(&mut log, &Op::Add(vec![1, 2])).expect("no fault");
    for index in 2..10 {
        log.write(&[append(1, index..=index, 1, 50), append(2, index..=index, 1, 50)]).expect("no fault");
    }
    let path = &segments(&disk)[0].0;
    // The third batch: behind the two header blocks and two batches of a block each.
    disk.flip_bit(path, (4 * 4096 + 64 + 32 + 40) * 8);
    let reader = log.reader();
    let key = support::key(1);
    assert!(matches!(reader.entries(key, 2, 9, 1 << 20), Err(LogError::Damaged { index: 4, .. })));
    assert_eq!(reader.entries(key, 5, 9, 1 << 20).map(|entries| entries.len()).ok(), Some(5));
    assert_eq!(reader.entries(support::key(2), 2, 9, 1 << 20).map(|entries| entries.len()).ok(), Some(8));
}

#[test]
fn a_length_that_leads_out_of_the_file_is_not_believed() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk, 1).expect("no fault");
    apply(&mut log, &Op::Add(vec![1])).expect("no fault");
    for index in 2..4 {
        log.write(&[append(1, index..=index, 1, 50)]).expect("no fault");
    }
    let path = segments(&disk)[0].0.clone();
    let reads = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&reads);
    disk.set_before(move |_, access| {
        counted.fetch_add(u64::from(matches!(access, Access::Read)), Ordering::Relaxed);
    });
    let reader = log.reader();
    assert_eq!(reader.entries(support::key(1), 3, 3, 1 << 20).map(|entries| entries.len()).ok(), Some(1));
    assert_eq!(reads.swap(0, Ordering::Relaxed), 2, "the length, then so many bytes");
    // The second batch; its record is behind its header and its one row. The highest bit of a length of four bytes: half of 4 GiB.
    disk.flip_bit(&path, (3 * 4096 + 64 + 16) * 8 + 31);
    let found = reader.entries(support::key(1), 3, 3, 1 << 20);
    assert!(matches!(found, Err(LogError::Damaged { index: 3, .. })), "{found:?}");
    assert_eq!(reads.swap(0, Ordering::Relaxed), 1, "nothing of that length is made room for");
}

#[test]
fn a_segment_that_is_read_piece_by_piece_comes_back_and_so_does_what_is_not_damaged_in_it() {
    // Three times what recovery reads at once, in batches that lie across the seams; the damage is behind the first one.
    const BATCH_BYTES: usize = 300_000;
    let open_large = |disk: &MemoryDisk, salt| {
        let options = LogOptions::new(4 << 20, Box::new(move || salt)).with_batch_bytes_max(512 << 10);
        SegmentLog::open(Arc::new(disk.clone()), support::DIRECTORY.as_ref(), options).expect("opens")
    };
    for damaged_at in [None, Some(1_500_000)] {
        let disk = MemoryDisk::new();
        let mut ops = vec![Op::Add(vec![1, 2])];
        for group in [1, 2] {
            let own = (2..7).map(|index| Op::Write(vec![append(group, index..=index, 1, BATCH_BYTES)]));
            ops.extend(own);
        }
        ops.push(Op::Seal);
        let mut log = open_large(&disk, 1);
        ops.iter().for_each(|op| apply(&mut log, op).expect("legal"));
        assert_eq!(log.status().segments_live, 1);
        disk.kill();
        let path = segments(&disk)[0].0.clone();
        damaged_at.into_iter().for_each(|at| assert!(disk.flip_bit(&path, at * 8)));
        let log = open_large(&disk, 2);
        let condemned = log.recovered().iter().filter(|found| found.condemned.is_some()).count();
        match damaged_at {
            None => assert!(content(&log) == twin(&ops)),
            Some(_) => {
                assert_eq!((condemned, log.recovery_cases().get(&Case::DamagedRecords)), (1, Some(&1)));
                assert_eq!(content(&log)[&support::key(2)], twin(&ops)[&support::key(2)]);
            }
        }
    }
}

#[test]
fn a_lost_file_condemns_instead_of_forgetting() {
    use mraft_disk::Disk;
    let mut condemned = 0;
    for seed in 0..4 {
        let (disk, ops) = sealed(seed, 120);
        let expected = twin(&ops);
        // Nothing is left to say that the newest use was there: that is seen by the other nodes only (rules M7, D9).
        let newest = segments(&disk).into_iter().max_by_key(|(path, _)| use_number(&disk, path));
        for (path, _) in segments(&disk).into_iter().filter(|segment| Some(segment) != newest.as_ref()) {
            let disk = disk.fork();
            disk.remove_file(&path).expect("there");
            let found = content(&open(&disk, 9000).expect("not refused"));
            condemned += check(&found, &expected, &format!("seed {seed} without {}", path.display()));
        }
    }
    assert!(condemned > 0);
}
