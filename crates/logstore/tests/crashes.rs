// SPDX-License-Identifier: Apache-2.0

//! The segment log against its twin while the disk loses, tears, fails and fills up: everything acknowledged survives, nothing that was
//! never written appears, a batch is there whole or not at all.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use mraft_disk::MemoryDisk;
use mraft_disk::memory::Faults;
use mraft_logstore::{LogError, LogStore};
use support::{Content, Op, apply, bytes_of, content, open, script, twin};

const SCRIPT_LEN: usize = 70;
const GROUPS: u64 = 5;
const SEEDS: u64 = 3;

/// Runs a script until a call fails; how many calls succeeded.
fn run(disk: &MemoryDisk, ops: &[Op], salt_seed: u64) -> usize {
    let Ok(mut log) = open(disk, salt_seed) else { return 0 };
    ops.iter().take_while(|op| apply(&mut log, op).is_ok()).count()
}

/// What is there must be what was acknowledged, with or without the call that was under way.
fn check(found: &Content, ops: &[Op], acknowledged: usize, context: &str) {
    let before = twin(&ops[..acknowledged]);
    if *found != before {
        let after = twin(&ops[..(acknowledged + 1).min(ops.len())]);
        assert!(*found == after, "{context}: found {found:#?}\nexpected {before:#?}\nor {after:#?}");
    }
}

#[test]
fn the_log_and_its_twin_agree_when_nothing_goes_wrong() {
    for seed in 0..40 {
        let ops = script(seed, 300, GROUPS);
        let disk = MemoryDisk::new();
        assert_eq!(run(&disk, &ops, seed), ops.len(), "seed {seed}");
        for again in 0..3 {
            let log = open(&disk, seed + 100 + again).expect("no fault");
            assert!(content(&log) == twin(&ops), "seed {seed}, opening {again}");
            disk.crash(again);
        }
    }
}

#[test]
fn power_loss_at_any_operation_loses_nothing_that_was_acknowledged() {
    for seed in 0..SEEDS {
        let ops = script(seed, SCRIPT_LEN, GROUPS);
        for crash_at in 0.. {
            let disk = MemoryDisk::new();
            disk.fail_from_operation(crash_at);
            let acknowledged = run(&disk, &ops, seed);
            disk.crash(seed ^ crash_at);
            let log = open(&disk, crash_at + 1000).expect("no fault any more");
            let found = content(&log);
            check(&found, &ops, acknowledged, &format!("seed {seed}, crash at {crash_at}"));
            drop(log);
            disk.crash(crash_at);
            let again = open(&disk, crash_at + 2000).expect("no fault any more");
            assert!(content(&again) == found, "seed {seed}, crash at {crash_at}: what was recovered stays");
            if acknowledged == ops.len() {
                break;
            }
        }
    }
}

#[test]
fn d7_power_loss_at_any_operation_of_a_recovery_loses_nothing_that_was_acknowledged() {
    for seed in 0..SEEDS {
        let all = script(seed, SCRIPT_LEN, GROUPS);
        for len in [3, 10, 25, 40, 69] {
            let (ops, killed) = (&all[..len], MemoryDisk::new());
            assert_eq!(run(&killed, ops, seed), len);
            killed.kill();
            for crash_at in 0.. {
                let disk = killed.fork();
                disk.fail_from_operation(disk.operations() + crash_at);
                let opened = open(&disk, crash_at + 1000).is_ok();
                disk.crash(seed ^ crash_at);
                let log = open(&disk, crash_at + 2000).expect("no fault any more");
                assert!(content(&log) == twin(ops), "seed {seed}, {len} calls, crash at {crash_at}");
                if opened {
                    break;
                }
            }
        }
    }
}

/// The first copy may be in memory only, however often the log was opened since.
#[test]
fn d7_a_batch_counts_where_it_was_written_again() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk, 1).expect("opens");
    apply(&mut log, &Op::Add(vec![1])).expect("legal");
    apply(&mut log, &Op::Write(vec![support::append(1, 2..=3, 1, 100)])).expect("legal");
    drop(log);
    for salt_seed in 2..5 {
        disk.kill();
        let log = open(&disk, salt_seed).expect("opens");
        // The files that were there before: damaged wherever a batch may be.
        let torn = disk.fork();
        for number in 1..salt_seed {
            let path = support::segment_path(number);
            let until = bytes_of(&disk, &path).iter().rposition(|byte| *byte != 0).expect("written");
            (8192..=until).for_each(|at| assert!(disk.flip_bit(&path, 8 * at as u64)));
        }
        assert_eq!(content(&log).len(), 1, "read {salt_seed} times");
        drop(log);
        disk.kill();
        let again = open(&torn, 9).expect("opens");
        assert_eq!(content(&again).len(), 1);
    }
}

#[test]
fn d10_one_error_at_any_operation_stops_the_log_and_loses_nothing_that_was_acknowledged() {
    for seed in 0..SEEDS {
        let ops = script(seed, SCRIPT_LEN, GROUPS);
        for fails_at in 0.. {
            let disk = MemoryDisk::new();
            disk.set_faults(Faults { once_at_operation: Some(fails_at), ..Faults::default() });
            let acknowledged = run(&disk, &ops, seed);
            for loses_power in [false, true] {
                let disk = disk.fork();
                if loses_power {
                    disk.crash(seed ^ fails_at)
                } else {
                    disk.kill()
                }
                let log = open(&disk, fails_at + 1000).expect("no fault any more");
                let found = content(&log);
                check(&found, &ops, acknowledged, &format!("seed {seed}, error at {fails_at}"));
                drop(log);
                disk.crash(fails_at);
                let again = open(&disk, fails_at + 2000).expect("no fault any more");
                assert!(
                    content(&again) == found,
                    "seed {seed}, error at {fails_at}, power lost: {loses_power}: what was recovered stays"
                );
            }
            if disk.operations() < fails_at {
                break;
            }
        }
    }
}

/// What an error left in memory only is read, and gone when the power goes: at any operation of what the next process does.
#[test]
fn d10_power_loss_after_an_error_and_a_restart_loses_nothing_that_was_acknowledged() {
    let mut restarts = 0;
    for seed in 0..SEEDS {
        let ops = script(seed, SCRIPT_LEN, GROUPS);
        for fails_at in 0.. {
            let failed = MemoryDisk::new();
            failed.set_faults(Faults { once_at_operation: Some(fails_at), ..Faults::default() });
            let acknowledged = run(&failed, &ops, seed);
            failed.kill();
            if acknowledged == ops.len() {
                break;
            }
            let log = open(&failed.fork(), 1).expect("no fault any more");
            let begun =
                if content(&log) == twin(&ops[..acknowledged]) { acknowledged } else { acknowledged + 1 };
            let rest = &ops[begun..ops.len().min(begun + 3)];
            // Every other time there is one more process in between.
            let is_killed_first = fails_at % 2 == 1;
            for crash_at in 0.. {
                let disk = failed.fork();
                disk.fail_from_operation(disk.operations() + crash_at);
                let written = open(&disk, crash_at + 1000).map(|mut log| {
                    rest.iter()
                        .take_while(|op| {
                            while log.maintain().is_ok_and(|more| more) {}
                            apply(&mut log, op).is_ok()
                        })
                        .count()
                });
                if is_killed_first {
                    disk.kill();
                    disk.set_faults(Faults::default());
                    drop(open(&disk, crash_at + 1500).expect("no fault any more"));
                }
                disk.crash(seed ^ crash_at);
                let log = open(&disk, crash_at + 2000).expect("no fault any more");
                let context =
                    format!("seed {seed}, error at {fails_at}, crash at {crash_at}, {is_killed_first}");
                // Before it was written again, the last call of the process before may be gone.
                let known = written.as_ref().map_or(acknowledged, |written| begun + written);
                check(&content(&log), &ops, known, &context);
                restarts += 1;
                if written.is_ok_and(|written| written == rest.len()) {
                    break;
                }
            }
        }
    }
    assert!(restarts > 1000, "{restarts} are few");
}

#[test]
fn d10_after_an_error_nothing_is_written_any_more() {
    let ops = script(1, SCRIPT_LEN, GROUPS);
    for fails_at in 0.. {
        let disk = MemoryDisk::new();
        let Ok(mut log) = open(&disk, 1) else { panic!("no fault yet") };
        let first = disk.operations();
        disk.set_faults(Faults { once_at_operation: Some(first + fails_at), ..Faults::default() });
        let failed = ops.iter().position(|op| apply(&mut log, op).is_err());
        let Some(failed) = failed else { break };
        for op in &ops[failed..] {
            if let Op::Write(_) = op {
                assert!(matches!(apply(&mut log, op), Err(LogError::Failed(_))), "error at {fails_at}");
            }
        }
    }
}

#[test]
fn d10_a_full_disk_is_back_pressure_that_clears_itself() {
    for seed in 0..SEEDS {
        let ops = script(seed, 150, GROUPS);
        let mut times_full = 0;
        for blocks in 1..90 {
            let disk = MemoryDisk::new();
            let mut log = open(&disk, seed).expect("room");
            apply(&mut log, &ops[0]).expect("room");
            let tight = Faults { capacity_bytes: Some(blocks * 8192), ..Faults::default() };
            disk.set_faults(tight);
            for op in &ops[1..] {
                if let Err(error) = apply(&mut log, op) {
                    assert!(matches!(error, LogError::Full { .. }), "seed {seed}: {error}");
                    times_full += 1;
                    disk.set_faults(Faults::default());
                    apply(&mut log, op).expect("there is room again");
                    disk.set_faults(tight);
                }
            }
            drop(log);
            disk.crash(blocks);
            let log = open(&disk, blocks + 1000).expect("room again");
            assert!(content(&log) == twin(&ops), "seed {seed}, {blocks} blocks");
        }
        assert!(times_full > 100, "the disk was full {times_full} times");
    }
}
