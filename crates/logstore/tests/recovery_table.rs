// SPDX-License-Identifier: Apache-2.0

//! Every row of the table of recovery cases, by a disk that is in that case; a test walks the table.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::{Path, PathBuf};

use mraft_disk::{Disk, MemoryDisk};
use mraft_logstore::{Case, GroupWrite, LogError, LogStore, Mark, SegmentLog};
use mraft_types::CondemnedReason;
use support::{
    Op, SEGMENT_BYTES, append, apply, bytes_of, content, hard_state, key, mark, open, put, segment_path,
    start,
};

const BLOCK: u64 = 4096;
/// Where the n-th batch of a segment begins, when each takes one block.
const fn batch_at(number: u64) -> u64 {
    (2 + number) * BLOCK
}

fn small_log(groups: &[u64]) -> (MemoryDisk, SegmentLog) {
    let disk = MemoryDisk::new();
    let mut log = open(&disk, 1).expect("no fault");
    apply(&mut log, &Op::Add(groups.to_vec())).expect("no fault");
    (disk, log)
}

fn one_entry(log: &mut SegmentLog, group: u64, index: u64) {
    log.write(&[append(group, index..=index, 1, 40)]).expect("no fault");
}

fn flip(disk: &MemoryDisk, path: &Path, at: u64) {
    assert!(disk.flip_bit(path, at * 8));
}

fn first_segment() -> PathBuf {
    segment_path(1)
}

fn lose_segments(disk: &MemoryDisk) {
    let segments = disk.files().into_iter().filter(|(path, _)| path.extension().is_some());
    segments.for_each(|(path, _)| disk.remove_file(&path).expect("there"));
}

/// Fills segments with group 2 until one was recycled, while groups that do not write are carried.
fn fill(log: &mut SegmentLog, from: u64, until: impl Fn(&SegmentLog) -> bool) -> u64 {
    let mut index = from;
    while !until(log) {
        let mut write = append(2, index..=index + 9, 1, 1000);
        write.mark = Some(Mark::Truncate(start(index + 9, 1)));
        log.write(&[write]).expect("no fault");
        log.maintain().expect("no fault");
        index += 10;
    }
    index
}

/// A disk on which recovery meets this case.
fn disk_with(case: Case) -> MemoryDisk {
    match case {
        Case::Whole | Case::Unsealed => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            disk
        }
        Case::Sealed => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            log.seal().expect("no fault");
            disk
        }
        Case::TornTail => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            one_entry(&mut log, 1, 3);
            flip(&disk, &first_segment(), batch_at(1) + 100);
            disk
        }
        Case::DamagedRecords => damaged(batch_at(1) + 100),
        Case::DamagedHeader | Case::Condemned => damaged(batch_at(1) + 20),
        Case::Gap => {
            // Group 1 loses its second record and writes its third.
            let (disk, mut log) = small_log(&[1]);
            (2..=4).for_each(|index| one_entry(&mut log, 1, index));
            log.seal().expect("no fault");
            flip(&disk, &first_segment(), batch_at(1) + 100);
            disk
        }
        Case::Continued => {
            let (disk, mut log) = small_log(&[1, 2]);
            one_entry(&mut log, 1, 2);
            one_entry(&mut log, 2, 2);
            one_entry(&mut log, 1, 3);
            flip(&disk, &first_segment(), batch_at(1) + 20);
            disk
        }
        Case::Covered => {
            let (disk, mut log) = small_log(&[1]);
            (2..=4).for_each(|index| one_entry(&mut log, 1, index));
            log.write(&[mark(1, 1, 4, Mark::Truncate(start(4, 1)))]).expect("no fault");
            flip(&disk, &first_segment(), batch_at(1) + 20);
            disk
        }
        Case::MissingBatches => {
            // The last batch of the first segment loses its header; only the next segment knows that it was durable.
            let (disk, mut log) = small_log(&[1]);
            (0..15).for_each(|number| one_entry(&mut log, 1, 2 + number));
            flip(&disk, &first_segment(), batch_at(13) + 20);
            disk
        }
        Case::MissingSegment => {
            let (disk, mut log) = small_log(&[1]);
            (0..20).for_each(|number| one_entry(&mut log, 1, 2 + number));
            disk.remove_file(&first_segment()).expect("there");
            disk
        }
        Case::NoSegments => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            lose_segments(&disk);
            disk
        }
        Case::StaleSegment | Case::RecycledFront => {
            let (disk, mut log) = small_log(&[2]);
            fill(&mut log, 2, |log| log.status().segments_recycled > 0);
            disk
        }
        Case::BlankSegment => {
            let (disk, mut log) = small_log(&[1]);
            while log.maintain().expect("no fault") {}
            disk
        }
        Case::HeaderlessSegment => {
            // The newest use has one batch, which nothing follows.
            let (disk, mut log) = small_log(&[1]);
            (2..=16).for_each(|index| one_entry(&mut log, 1, index));
            [0, BLOCK].iter().for_each(|copy| flip(&disk, &segment_path(2), copy + 30));
            disk
        }
        Case::LostHeader => {
            let (disk, mut log) = small_log(&[1]);
            (2..=3).for_each(|index| one_entry(&mut log, 1, index));
            [0, BLOCK].iter().for_each(|copy| flip(&disk, &first_segment(), copy + 30));
            disk
        }
        Case::HalfHeader => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            flip(&disk, &first_segment(), BLOCK + 30);
            disk
        }
        Case::HalfPrepared => {
            let (disk, _) = small_log(&[1]);
            put(&disk, &segment_path(7), &[0; 5000]);
            disk
        }
        Case::Repeated => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            drop(log);
            disk.kill();
            open(&disk, 2).expect("no fault");
            disk
        }
        Case::Garbage => {
            let (disk, mut log) = small_log(&[1, 2]);
            one_entry(&mut log, 1, 2);
            one_entry(&mut log, 2, 2);
            log.remove_replica(key(1)).expect("no fault");
            disk
        }
        Case::IncompleteCheckpoint => {
            // Group 1 weighs more than one step; its first part is written, and then it writes itself.
            let (disk, mut log) = small_log(&[1, 2]);
            log.write(&[append(1, 2..=11, 1, 1500)]).expect("no fault");
            let mut index = 2;
            while log.status().segments_live <= 3 {
                log.write(&[append(2, index..=index, 1, 9000)]).expect("no fault");
                index += 1;
            }
            let mut last = append(2, index..=index, 1, 100);
            last.mark = Some(Mark::Truncate(start(index, 1)));
            log.write(&[last]).expect("no fault");
            let before = log.durable_seq();
            while log.durable_seq() == before {
                assert!(log.maintain().expect("no fault"));
            }
            one_entry(&mut log, 1, 12);
            disk
        }
        Case::MarkedCondemned => {
            let (disk, mut log) = small_log(&[1]);
            log.write(&[mark(1, 1, 1, Mark::Condemned(CondemnedReason::OldCopy))]).expect("no fault");
            disk
        }
        Case::UnknownVersion => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            let mut bytes = bytes_of(&disk, &first_segment());
            for copy in [0, BLOCK as usize] {
                bytes[copy + 8] = 3;
                let crc = crc32c::crc32c(&bytes[copy..copy + 64]).to_le_bytes();
                bytes[copy + 64..copy + 68].copy_from_slice(&crc);
            }
            put(&disk, &first_segment(), &bytes);
            disk
        }
        Case::MissingList => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            disk.remove_file(&Path::new(support::DIRECTORY).join("replicas")).expect("there");
            disk
        }
        Case::DamagedList => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            flip(&disk, &Path::new(support::DIRECTORY).join("replicas"), 30);
            disk
        }
        Case::DuplicateUse => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            put(&disk, &segment_path(9), &bytes_of(&disk, &first_segment()));
            disk
        }
        Case::OtherLength => {
            let (disk, mut log) = small_log(&[1]);
            one_entry(&mut log, 1, 2);
            let mut bytes = bytes_of(&disk, &first_segment());
            bytes.resize(2 * SEGMENT_BYTES as usize, 0);
            put(&disk, &first_segment(), &bytes);
            disk
        }
    }
}

/// Groups 1, 2 and 3 write in turn, then 3 again, and one byte of group 2's batch is wrong.
fn damaged(at: u64) -> MemoryDisk {
    let (disk, mut log) = small_log(&[1, 2, 3]);
    [1, 2, 3, 1, 3].iter().zip([2, 2, 2, 3, 3]).for_each(|(group, index)| one_entry(&mut log, *group, index));
    log.seal().expect("no fault");
    flip(&disk, &first_segment(), at);
    disk
}

fn condemned(disk: &MemoryDisk) -> Vec<u64> {
    let found = content(&open(disk, 50).expect("not refused"));
    found.values().filter(|(was, _)| was.condemned.is_some()).map(|(was, _)| was.key.group.0).collect()
}

/// Lists rows, and does not compile when one is missing.
macro_rules! rows {
    ($($row:ident)*) => {{
        let _is_whole = |case: Case| match case { $(Case::$row => (),)* };
        [$(Case::$row),*]
    }};
}

/// The file that a row has refused, and words that no other row's refusal has; `None` for rows that are met and gone on from.
fn refusal(case: Case) -> Option<(PathBuf, &'static str)> {
    let list = || Path::new(support::DIRECTORY).join("replicas");
    match case {
        Case::NoSegments => Some((list(), "no segment that was used is there")),
        Case::UnknownVersion => Some((first_segment(), "is a segment of version 3; this build knows 2")),
        Case::MissingList => Some((list(), "is missing although there are segments")),
        Case::DamagedList => Some((list(), "its checksum is wrong")),
        Case::DuplicateUse => {
            Some((segment_path(9), "is use 1 of the log, as /wal/log/segment-00000001.log is"))
        }
        Case::OtherLength => Some((first_segment(), "is 131072 bytes long, its header says 65536")),
        _ => None,
    }
}

#[test]
fn the_table_lists_every_case_once() {
    let every = rows!(
        Whole Sealed Unsealed TornTail DamagedRecords DamagedHeader MissingBatches MissingSegment NoSegments StaleSegment BlankSegment
        HeaderlessSegment LostHeader HalfHeader HalfPrepared Repeated Garbage RecycledFront IncompleteCheckpoint Gap Continued Covered
        Condemned MarkedCondemned UnknownVersion MissingList DamagedList DuplicateUse OtherLength
    );
    assert_eq!(Case::ALL[..], every[..]);
}

#[test]
fn every_row_of_the_table_is_met() {
    for case in Case::ALL {
        assert!(!case.decision().is_empty() && !case.reason().is_empty());
        assert_eq!(case.decision().starts_with("refused"), refusal(case).is_some(), "{case:?}");
        let disk = disk_with(case);
        let before = disk.files();
        match (open(&disk, 50), refusal(case)) {
            (Ok(log), None) => {
                assert!(log.recovery_cases().contains_key(&case), "{case:?}: {:?}", log.recovery_cases())
            }
            (Err(LogError::Refused { file, reason }), Some((expected, words))) => {
                assert_eq!(file, expected, "{case:?}: {reason}");
                let told: Vec<Case> = Case::ALL
                    .into_iter()
                    .filter(|row| refusal(*row).is_some_and(|(_, words)| reason.contains(words)))
                    .collect();
                assert_eq!(told, [case], "{words:?} is not what it says: {reason}");
                assert_eq!(disk.files(), before, "{case:?}: nothing is touched");
            }
            (opened, expected) => panic!("{case:?}: {:?}, expected {expected:?}", opened.map(|_| "opened")),
        }
    }
}

#[test]
fn t3_a_batch_of_a_later_version_is_refused_whole_or_torn() {
    for records_are_whole in [true, false] {
        let (disk, mut log) = small_log(&[1]);
        one_entry(&mut log, 1, 2);
        let mut bytes = bytes_of(&disk, &first_segment());
        let at = batch_at(0) as usize;
        bytes[at + 4] = 2;
        // Under the salt of the use, fixed part and one row.
        let crc = crc32c::crc32c(&bytes[at + 16..at + 24]);
        let crc =
            crc32c::crc32c_append(crc32c::crc32c_append(crc, &bytes[at..at + 60]), &bytes[at + 64..at + 80]);
        bytes[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
        bytes[at + 100] ^= u8::from(!records_are_whole);
        put(&disk, &first_segment(), &bytes);
        match open(&disk, 50) {
            Err(LogError::Refused { file, reason }) => {
                assert_eq!(file, first_segment());
                assert!(reason.contains("has a batch of version 2"), "{reason}");
            }
            opened => panic!("{:?}", opened.map(|_| "opened")),
        }
    }
}

#[test]
fn a_refusal_names_the_file_and_leaves_every_byte_alone() {
    for case in Case::ALL.into_iter().filter(|case| case.decision().starts_with("refused")) {
        let disk = disk_with(case);
        let all = |disk: &MemoryDisk| -> Vec<Vec<u8>> {
            disk.files().iter().map(|(path, _)| bytes_of(disk, path)).collect()
        };
        let before = all(&disk);
        let error = open(&disk, 50).map(|_| ()).expect_err("refused");
        assert!(error.to_string().starts_with(support::DIRECTORY), "{case:?}: {error}");
        assert_eq!(all(&disk), before, "{case:?}");
    }
}

#[test]
fn l4_damaged_records_condemn_the_replicas_in_the_batch_and_no_other() {
    assert_eq!(condemned(&disk_with(Case::DamagedRecords)), [2]);
}

#[test]
fn l4_without_a_header_replicas_that_go_on_without_a_gap_are_cleared() {
    assert_eq!(condemned(&disk_with(Case::DamagedHeader)), [2]);
    assert_eq!(condemned(&disk_with(Case::Continued)), [2]);
}

#[test]
fn l4_a_gap_that_later_state_covers_condemns_nobody() {
    assert_eq!(condemned(&disk_with(Case::Covered)), []);
    assert_eq!(condemned(&disk_with(Case::Gap)), [1]);
}

#[test]
fn l4_a_replica_that_was_added_after_the_damage_is_not_concerned() {
    let disk = disk_with(Case::DamagedHeader);
    let mut log = open(&disk, 50).expect("not refused");
    apply(&mut log, &Op::Add(vec![4])).expect("no fault");
    drop(log);
    disk.kill();
    assert_eq!(condemned(&disk), [2]);
}

#[test]
fn l3_a_torn_tail_condemns_nobody_and_is_gone() {
    let disk = disk_with(Case::TornTail);
    let found = content(&open(&disk, 50).expect("not refused"));
    let (recovered, entries) = &found[&key(1)];
    assert_eq!((recovered.condemned, recovered.last_index, entries.len()), (None, 2, 1));
}

#[test]
fn l3_an_acknowledged_entry_is_not_lost_silently_with_a_header() {
    assert_eq!(condemned(&disk_with(Case::LostHeader)), [1]);
    // The only batch of a use cannot be told from a torn one: nothing follows it.
    assert_eq!(condemned(&disk_with(Case::HeaderlessSegment)), []);
}

#[test]
fn l3_a_newest_segment_without_header_condemns_whoever_may_have_written_to_it() {
    for (lost, what) in [(2 * BLOCK, "both copies"), (3 * BLOCK, "the first batch too")] {
        for byte in [0, 0xff] {
            let (disk, mut log) = small_log(&[1, 2]);
            (2..=32).for_each(|index| one_entry(&mut log, 1, index));
            let newest = segment_path(3);
            let mut bytes = bytes_of(&disk, &newest);
            bytes[..lost as usize].fill(byte);
            put(&disk, &newest, &bytes);
            assert_eq!(condemned(&disk), [1, 2], "{what} {byte}");
            for opening in 60..63 {
                disk.crash(opening);
                let mut log = open(&disk, opening).expect("not refused");
                let found = content(&log);
                let condemned: Vec<bool> = found.values().map(|(was, _)| was.condemned.is_some()).collect();
                assert_eq!(condemned, [true; 2], "{what} {byte}, opening {opening}");
                apply(&mut log, &Op::Add(vec![opening])).expect("no fault");
                log.remove_replica(key(opening)).expect("no fault");
                while log.maintain().expect("no fault") {}
            }
        }
    }
}

#[test]
fn a_file_whose_filling_was_interrupted_keeps_nobody_from_looking() {
    for len in [2 * BLOCK, 3 * BLOCK, 3 * BLOCK + 100] {
        let (disk, mut log) = small_log(&[1]);
        one_entry(&mut log, 1, 2);
        put(&disk, &segment_path(9), &vec![0; len as usize]);
        let found = mraft_logstore::inspect(&disk, Path::new(support::DIRECTORY)).expect("readable");
        assert_eq!((found.replicas.len(), found.spare_files.contains(&segment_path(9))), (1, true), "{len}");
    }
}

/// Writes entries of group 2, which lets go of them, until a write begins a use of a file; and takes that write back.
fn lose_next_beginning(disk: &MemoryDisk, log: &mut SegmentLog, from: u64) -> u64 {
    for index in from.. {
        let files = disk.files().into_iter().filter(|(path, _)| path.extension().is_some());
        let before: Vec<_> = files.map(|(path, _)| (bytes_of(disk, &path), path)).collect();
        let mut write = append(2, index..=index, 1, 1000);
        write.mark = Some(Mark::Truncate(start(index, 1)));
        log.write(&[write]).expect("no fault");
        let begun = before
            .iter()
            .find(|(bytes, path)| bytes_of(disk, path)[..BLOCK as usize] != bytes[..BLOCK as usize]);
        if let Some((bytes, path)) = begun {
            put(disk, path, bytes);
            return index + 1;
        }
        log.maintain().expect("no fault");
    }
    unreachable!("a use begins some day")
}

#[test]
fn l3_a_use_whose_first_write_is_lost_condemns_whoever_wrote_behind_it() {
    for (recycled, is_reopened) in [(0, false), (0, true), (1, false), (1, true), (5, false), (5, true)] {
        let (disk, mut log) = small_log(&[1, 2, 3]);
        let mut index = fill(&mut log, 2, |log| log.status().segments_recycled >= recycled);
        if is_reopened {
            // Sealed: nothing is written again, and the next use is one whose salt the process before has named.
            log.seal().expect("no fault");
            drop(log);
            log = open(&disk, 7).expect("not refused");
        }
        index = lose_next_beginning(&disk, &mut log, index);
        log.write(&[append(1, 2..=2, 1, 40)]).expect("no fault");
        log.write(&[append(2, index..=index, 1, 40)]).expect("no fault");
        let whole = disk.fork();
        for is_sealed in [true, false] {
            let what = format!("{recycled} recycled, reopened: {is_reopened}, sealed: {is_sealed}");
            let disk = if is_sealed { disk.clone() } else { whole.fork() };
            if is_sealed {
                log.seal().expect("no fault");
            }
            disk.crash(recycled);
            assert_eq!(condemned(&disk), [1, 2, 3], "{what}");
            for opening in 60..63 {
                let mut log = open(&disk, opening).expect("not refused");
                assert!(content(&log).values().all(|(was, _)| was.condemned.is_some()), "{what}, {opening}");
                while log.maintain().expect("no fault") {}
            }
        }
    }
}

#[test]
fn l3_a_lost_header_is_seen_again_when_the_process_ends_before_everybody_is_marked() {
    let (before, mut log) = small_log(&[1, 2, 3]);
    (2..=32).for_each(|index| one_entry(&mut log, 1, index));
    let newest = segment_path(3);
    let mut bytes = bytes_of(&before, &newest);
    bytes[..2 * BLOCK as usize].fill(0xff);
    put(&before, &newest, &bytes);
    before.kill();
    for crash_at in 0.. {
        let disk = before.fork();
        disk.fail_from_operation(disk.operations() + crash_at);
        let opened = open(&disk, 70).is_ok();
        disk.crash(crash_at);
        assert_eq!(condemned(&disk), [1, 2, 3], "crash at {crash_at}");
        if opened {
            break;
        }
    }
}

#[test]
fn d9_a_log_whose_segments_are_gone_is_refused_and_not_taken_for_a_new_one() {
    let is_refused = |disk: &MemoryDisk, what: &str| match open(disk, 50) {
        Err(LogError::Refused { reason, .. }) => assert!(reason.contains("no segment"), "{what}: {reason}"),
        other => panic!("{what}: {other:?}"),
    };
    // Group 2 has persisted nothing but a vote.
    let (disk, mut log) = small_log(&[1, 2]);
    let vote = GroupWrite { hard_state: hard_state(3, 1), entries: Vec::new(), ..append(2, 2..=2, 3, 1) };
    log.write(&[vote]).expect("no fault");
    drop(log);
    let gone = disk.fork();
    lose_segments(&gone);
    is_refused(&gone, "all deleted");
    for lost in [2 * BLOCK, 3 * BLOCK, SEGMENT_BYTES] {
        for byte in [0, 0xff] {
            let disk = disk.fork();
            let mut bytes = bytes_of(&disk, &first_segment());
            bytes[..lost as usize].fill(byte);
            put(&disk, &first_segment(), &bytes);
            is_refused(&disk, &format!("the first {lost} bytes are {byte}"));
        }
    }
    let found = mraft_logstore::inspect(&gone, Path::new(support::DIRECTORY)).expect("readable");
    assert!(found.replicas.iter().all(|replica| replica.recovered.condemned.is_some()), "{found:?}");

    mraft_logstore::forget_lost_log(&gone, Path::new(support::DIRECTORY)).expect("no fault");
    assert!(content(&open(&gone, 50).expect("a new log")).is_empty());
    let before = disk.files();
    mraft_logstore::forget_lost_log(&disk, Path::new(support::DIRECTORY)).expect("no fault");
    assert_eq!(disk.files(), before, "a log that is there is not forgotten");
}

#[test]
fn d9_whatever_was_acknowledged_is_missed_when_the_segments_are_gone() {
    for crash_at in 0.. {
        let (disk, mut log) = small_log(&[1]);
        disk.fail_from_operation(disk.operations() + crash_at);
        let is_acknowledged = log.write(&[append(1, 2..=2, 1, 40)]).is_ok();
        drop(log);
        disk.crash(crash_at);
        let gone = disk.fork();
        lose_segments(&gone);
        let opened = open(&gone, 50);
        assert!(opened.is_err() || !is_acknowledged, "crash at {crash_at}: the loss is not noticed");
        if is_acknowledged {
            break;
        }
        // The batch may be whole all the same; then it is acknowledged by whoever opens the log.
        let mut log = open(&disk, 51).expect("not refused");
        let found = content(&log);
        assert_eq!(found[&key(1)].0.condemned, None, "crash at {crash_at}");
        if found[&key(1)].0.last_index > 1 {
            lose_segments(&disk);
            assert!(open(&disk, 52).is_err(), "crash at {crash_at}: the loss is not noticed");
        } else {
            one_entry(&mut log, 1, 2);
        }
    }
}

#[test]
fn l5_a_checkpoint_without_its_last_part_is_void() {
    let disk = disk_with(Case::IncompleteCheckpoint);
    let found = content(&open(&disk, 50).expect("not refused"));
    let (recovered, entries) = &found[&key(1)];
    assert_eq!((recovered.condemned, recovered.last_index, entries.len()), (None, 12, 11));
    assert_eq!(recovered.hard_state, hard_state(1, 11));
}
