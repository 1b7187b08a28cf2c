// SPDX-License-Identifier: Apache-2.0

//! Situations that real logs got wrong.
//!
//! Carried records that bring truncated entries back: a replica that hardly writes is carried forward (rule L5), that is, its records are
//! written again behind newer ones. What it had truncated or overwritten by then, or does meanwhile, must stay gone, whatever of the
//! old and of the carried records a power cut leaves.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::Path;

use mraft_disk::MemoryDisk;
use mraft_disk::memory::Faults;
use mraft_logstore::{Case, LogStore, Mark, SegmentLog, inspect};
use mraft_types::{CondemnedReason, Entry, Index};
use support::{Op, append, apply, content, key, mark, start};

/// The log of a node whose loss was accepted goes on with much higher numbers (rule M7). That must not look like batches that are missing,
/// wherever a power cut strikes.
#[test]
fn d9_numbers_that_jump_are_no_missing_batches() {
    const FAR: u64 = 1 << 48;
    let began = MemoryDisk::new();
    {
        let mut log = support::open(&began, 1).expect("opens");
        apply(&mut log, &Op::Add(vec![QUIET, BUSY])).expect("legal");
        log.write(&[append(QUIET, 2..=4, 1, 30)]).expect("legal");
        log.write(&[mark(QUIET, 1, 3, Mark::Condemned(CondemnedReason::OldCopy))]).expect("legal");
    }
    for cut_at in 0.. {
        let disk = began.fork();
        let mut log = support::open(&disk, 2).expect("opens");
        log.continue_from(FAR);
        disk.fail_from_operation(disk.operations() + cut_at);
        let is_written = log.write(&[mark(QUIET, 1 << 32, 3, Mark::LossAccepted)]).is_ok();
        let is_done = is_written && log.seal().is_ok();
        drop(log);
        disk.crash(cut_at);
        for opening in 3..5 {
            let mut log = support::open(&disk, opening).expect("opens");
            let damage = log.recovery_cases().keys().find(|case| case.is_damage());
            assert_eq!(damage, None, "cut at {cut_at}");
            let found = &log.recovered()[0];
            assert_eq!((found.last_index, found.hard_state.commit), (4, 3), "cut at {cut_at}");
            let is_condemned = found.condemned.is_some();
            assert_eq!(found.hard_state.term == 1, is_condemned, "both or neither: cut at {cut_at}");
            assert!(!is_written || !is_condemned, "cut at {cut_at}");
            assert!(!is_written || log.durable_seq() >= FAR, "cut at {cut_at}: {}", log.durable_seq());
            // It lives on.
            log.write(&[append(BUSY, opening - 1..=opening - 1, 1, 30)]).expect("legal");
        }
        if is_done {
            break;
        }
    }
}

/// Numbers that the log would give anyway are no jump: no segment is given up half empty.
#[test]
fn d9_numbers_that_follow_go_on_in_the_same_segment() {
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    apply(&mut log, &Op::Add(vec![BUSY])).expect("legal");
    for index in 2..6 {
        log.write(&[append(BUSY, index..=index, 1, 30)]).expect("legal");
        for behind in [0, 1] {
            log.continue_from(log.durable_seq() + behind);
        }
    }
    assert_eq!((log.durable_seq(), log.status().segments_live), (4, 1));
    log.continue_from(6);
    log.write(&[append(BUSY, 6..=6, 1, 30)]).expect("legal");
    assert_eq!((log.durable_seq(), log.status().segments_live), (6, 2));
}

/// The same when nothing is left but the list of replicas.
#[test]
fn d9_numbers_that_jump_are_remembered_with_the_replica_that_is_added() {
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    log.continue_from(1 << 48);
    apply(&mut log, &Op::Add(vec![QUIET])).expect("legal");
    drop(log);
    disk.crash(1);
    let log = support::open(&disk, 2).expect("opens");
    assert!(log.durable_seq() >= (1 << 48) - 1, "{}", log.durable_seq());
}

/// The seal of a process whose syncs failed is read back from the page cache, and the power takes it.
#[test]
fn m7_a_seal_that_is_not_proven_is_found_and_not_told() {
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    apply(&mut log, &Op::Add(vec![BUSY])).expect("legal");
    let written = log.write(&[append(BUSY, 2..=2, 1, 30)]).expect("legal").batch_seq;
    disk.set_faults(Faults { syncs_fail: true, ..Faults::default() });
    assert!(log.seal().is_err());
    drop(log);
    disk.set_faults(Faults::default());
    let found = support::look(&disk, 2).expect("a good log");
    assert_eq!(found.last_batch_seq(), written + 1);
    let log = SegmentLog::open_found(found).expect("opens");
    assert_eq!(log.durable_seq(), written, "no more than the power leaves");
    drop(log);
    disk.crash(1);
    assert_eq!(support::look(&disk, 3).expect("a good log").last_batch_seq(), written);
}

/// The quiet replica, whose records are carried.
const QUIET: u64 = 1;
/// The busy one, which makes the log long.
const BUSY: u64 = 2;

/// What the quiet replica must have: where its log begins, and its entries.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    start: Index,
    entries: Vec<Entry>,
}

struct Play {
    disk: MemoryDisk,
    log: SegmentLog,
    openings: u64,
    /// The busy replica's next entry.
    next: Index,
    carried: u64,
}

impl Play {
    /// Eight batches' worth of a quiet replica, of which the first part is carried, and so many more.
    fn while_carrying(more: u64) -> Play {
        let mut play = Play::new();
        for first in (2..=121).step_by(10) {
            play.log.write(&[append(QUIET, first..=first + 9, 1, 900)]).expect("legal");
        }
        let mut steps = 0;
        while steps <= more {
            steps += u64::from(play.go_on());
            assert!(play.next < 1_000, "nothing is carried");
        }
        play
    }

    fn new() -> Play {
        let disk = MemoryDisk::new();
        let mut log = support::open(&disk, 1).expect("opens");
        apply(&mut log, &Op::Add(vec![QUIET, BUSY])).expect("legal");
        Play { disk, log, openings: 1, next: 2, carried: 0 }
    }

    /// One write of the busy replica, which needs nothing of it for long, and one step of what the log does beside. Whether that wrote
    /// a batch.
    fn go_on(&mut self) -> bool {
        let mut write = append(BUSY, self.next..=self.next, 1, 3000);
        write.mark = Some(Mark::Truncate(start(self.next, 1)));
        self.next += 1;
        self.log.write(&[write]).expect("legal");
        let (carried, seq) = (self.log.status().groups_carried, self.log.durable_seq());
        self.log.maintain().expect("legal");
        self.carried += self.log.status().groups_carried - carried;
        self.log.durable_seq() > seq
    }

    /// Power cut; what the log has of the quiet replica then.
    fn cut(&mut self) -> Kept {
        self.openings += 1;
        self.disk.crash(self.openings);
        self.log = support::open(&self.disk, self.openings).expect("opens");
        let found = content(&self.log);
        let (recovered, entries) = &found[&key(QUIET)];
        assert_eq!(recovered.condemned, None);
        assert_eq!(recovered.last_index, recovered.start.position.index + entries.len() as u64);
        Kept { start: recovered.start.position.index, entries: entries.clone() }
    }
}

#[test]
fn l5_carried_records_do_not_bring_overwritten_or_truncated_entries_back() {
    let mut play = Play::new();
    play.log.write(&[append(QUIET, 2..=12, 1, 900)]).expect("legal");
    play.log.write(&[append(QUIET, 5..=6, 2, 900)]).expect("legal");
    play.log.write(&[mark(QUIET, 2, 6, Mark::Truncate(start(3, 1)))]).expect("legal");
    let entries = [append(QUIET, 4..=4, 1, 900).entries, append(QUIET, 5..=6, 2, 900).entries].concat();
    let kept = Kept { start: 3, entries };
    for step in 0..300 {
        play.go_on();
        if step % 7 == 0 {
            assert_eq!(play.cut(), kept, "step {step}");
        }
    }
    assert!(play.carried > 5, "carried {} times", play.carried);
}

#[test]
fn l5_what_is_overwritten_while_it_is_being_carried_stays_overwritten() {
    // Eight batches' worth, so that carrying takes many parts; the replica overwrites or truncates between any two of them.
    let (mut carried, mut interrupted) = (0, 0);
    for pause in 0..4 {
        for truncates in [false, true] {
            let mut play = Play::while_carrying(pause);
            let kept = if truncates {
                play.log.write(&[mark(QUIET, 1, 121, Mark::Truncate(start(60, 1)))]).expect("legal");
                Kept { start: 60, entries: append(QUIET, 61..=121, 1, 900).entries }
            } else {
                play.log.write(&[append(QUIET, 50..=51, 2, 900)]).expect("legal");
                let before = append(QUIET, 2..=49, 1, 900).entries;
                Kept { start: 1, entries: [before, append(QUIET, 50..=51, 2, 900).entries].concat() }
            };
            // What a restart at this very step would find: carrying it whole once more would hide what was wrong before.
            for step in 0..60 {
                let seen = inspect(&play.disk, Path::new(support::DIRECTORY)).expect("readable");
                interrupted += u64::from(step == 0 && seen.cases.contains_key(&Case::IncompleteCheckpoint));
                let quiet = seen.replicas.iter().find(|replica| replica.recovered.key == key(QUIET));
                let found = &quiet.expect("it is here").recovered;
                let last = kept.entries.last().map(|entry| entry.index);
                assert_eq!(
                    (found.start.position.index, Some(found.last_index), found.condemned),
                    (kept.start, last, None),
                    "step {step}, after {pause} parts"
                );
                play.go_on();
            }
            for step in 1..=2 {
                // Long enough for the log to pay for carrying it whole, begun anew, and to use the old segments again.
                (0..150).for_each(|_| _ = play.go_on());
                assert_eq!(play.cut(), kept, "round {step}, after {pause} parts");
            }
            carried += play.carried;
        }
    }
    assert!(carried > 6 && interrupted > 4, "carried {carried} times, interrupted {interrupted} times");
}

#[test]
fn l5_a_checkpoint_that_a_restart_interrupted_is_begun_anew_and_counts() {
    let (mut carried, mut interrupted) = (0, 0);
    for pause in 0..4 {
        let mut play = Play::while_carrying(pause);
        let seen = inspect(&play.disk, Path::new(support::DIRECTORY)).expect("readable");
        interrupted += u64::from(seen.cases.contains_key(&Case::IncompleteCheckpoint));
        // The replica writes nothing in between: the first part of the new checkpoint follows a part of the old one.
        let kept = Kept { start: 1, entries: append(QUIET, 2..=121, 1, 900).entries };
        assert_eq!(play.cut(), kept, "interrupted after {pause} parts");
        for round in 1..=2 {
            for step in 0..150 {
                play.go_on();
                let seen = inspect(&play.disk, Path::new(support::DIRECTORY)).expect("readable");
                let quiet = seen.replicas.iter().find(|replica| replica.recovered.key == key(QUIET));
                let found = &quiet.expect("it is here").recovered;
                let found = (found.start.position.index, found.last_index, found.condemned);
                assert_eq!(found, (1, 121, None), "round {round}, step {step}, after {pause} parts");
            }
            assert_eq!(play.cut(), kept, "round {round}, after {pause} parts");
        }
        carried += play.carried;
    }
    assert!(carried > 3 && interrupted > 2, "carried {carried} times, interrupted {interrupted} times");
}
