// SPDX-License-Identifier: Apache-2.0

//! One test or more per rule that this crate keeps.

#![allow(clippy::expect_used)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};

use mraft_engine::machine::{StateMachine, Urgency};
use mraft_kv::command::{Answer, Condition, Operation, Outcome, Refusal};
use mraft_kv::query::{Query, QueryAnswer};
use support::{
    Log, ask, contents, delete, fresh_memory, get, kv, meta, operations, put, run_background, scan,
};

/// A test over both machines, empty and open.
fn each(test: impl Fn(&mut dyn StateMachine)) {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 20);
    machine.open(None).expect("opens");
    test(&mut machine);
    test(&mut fresh_memory());
}

fn applied(revision: u64, outcomes: &[Outcome]) -> Answer {
    Answer::Applied { revision, outcomes: outcomes.to_vec() }
}

#[test]
fn e2_every_mutation_counts_and_a_delete_of_nothing_does_not() {
    each(|machine| {
        let mut log = Log::default();
        let answers =
            log.write(machine, vec![put("a", "1"), put("a", "2"), delete("b"), delete("a"), delete("a")]);
        assert_eq!(
            answers,
            [
                applied(1, &[Outcome::Put { revision: 1 }]),
                applied(2, &[Outcome::Put { revision: 2 }]),
                applied(2, &[Outcome::NotFound]),
                applied(3, &[Outcome::Deleted { revision: 3 }]),
                applied(3, &[Outcome::NotFound]),
            ]
        );
        let answers = log.write(machine, vec![put("a", "3")]);
        assert_eq!(answers, [applied(4, &[Outcome::Put { revision: 4 }])]);
        assert_eq!(get(machine, "a"), Some((4, b"3".to_vec())));
    });
}

#[test]
fn conditions_are_those_of_the_state_before_the_command_and_all_or_nothing_happens() {
    each(|machine| {
        let mut log = Log::default();
        log.write(machine, vec![put("{t}a", "old")]);
        let put_if = |key, condition| Operation::Put { key, value: b"new", condition };
        let answers = log.write(
            machine,
            vec![
                // The second condition fails, so the first put does not happen.
                operations(&[put_if(b"{t}b", Condition::Absent), put_if(b"{t}a", Condition::Revision(9))]),
                operations(&[put_if(b"{t}a", Condition::Absent)]),
                operations(&[put_if(b"{t}b", Condition::Exists)]),
                // The delete makes room for nobody: `absent` is asked before it.
                operations(&[
                    Operation::Delete { key: b"{t}a", condition: Condition::None },
                    put_if(b"{t}a", Condition::Absent),
                ]),
                operations(&[
                    Operation::Check { key: b"{t}a", condition: Condition::Revision(1) },
                    Operation::Delete { key: b"{t}a", condition: Condition::Exists },
                    put_if(b"{t}b", Condition::Absent),
                ]),
            ],
        );
        let failed = |position, current| Answer::ConditionFailed { revision: 1, position, current };
        assert_eq!(
            answers,
            [
                failed(1, Some(1)),
                failed(0, Some(1)),
                failed(0, None),
                failed(1, Some(1)),
                applied(
                    3,
                    &[Outcome::Checked, Outcome::Deleted { revision: 2 }, Outcome::Put { revision: 3 }]
                ),
            ]
        );
        assert_eq!(contents(machine), [(b"{t}b".to_vec(), b"new".to_vec())]);
    });
}

#[test]
fn e6_a_command_of_two_slots_changes_nothing() {
    each(|machine| {
        let mut log = Log::default();
        let put_any = |key| Operation::Put { key, value: b"", condition: Condition::None };
        let answers = log.write(machine, vec![operations(&[put_any(b"a"), put_any(b"b")]), b"junk".to_vec()]);
        assert_eq!(answers, [Answer::Refused(Refusal::ManySlots), Answer::Refused(Refusal::UnknownVersion)]);
        assert_eq!(contents(machine), []);
    });
}

#[test]
fn e7_data_and_meta_reach_the_disk_in_one_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 20);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    for round in 0..5u64 {
        log.write(&mut machine, vec![put(format!("key{round}"), "value")]);
        let job = machine.background(Urgency::Pressing).expect("there is something to persist");
        // Committed after the buffer was frozen: not part of it.
        log.write(&mut machine, vec![put("later", "value")]);
        assert_eq!(
            machine.persisted(),
            if round == 0 { 0 } else { 2 * round - 1 },
            "D11: handed out is not persisted"
        );
        job.run().expect("flushes");
        let persisted = 2 * round + 1;
        assert_eq!(machine.persisted(), persisted);
        drop(machine);
        machine = kv(directory.path(), 8 << 20);
        assert_eq!(machine.open(None).expect("opens"), Some(meta(persisted)));
        let expected = (round > 0).then(|| (2 * round, b"value".to_vec()));
        assert_eq!(get(&machine, "later"), expected, "what came after the point is the log's to bring back");
        log.apply(&mut machine, persisted, log.last());
    }
}

#[test]
fn e7_meta_alone_is_persisted_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 20);
    machine.open(None).expect("opens");
    machine.commit(5, b"a membership change").expect("commits");
    assert_eq!(run_background(&mut machine, Urgency::Normal), 0);
    assert_eq!(run_background(&mut machine, Urgency::Pressing), 1);
    assert_eq!(machine.persisted(), 5);
    assert_eq!(run_background(&mut machine, Urgency::Pressing), 0, "nothing new");
    let mut machine = kv(directory.path(), 8 << 20);
    assert_eq!(machine.open(None).expect("opens"), Some(b"a membership change".to_vec()));
}

#[test]
fn e8_the_content_hash_does_not_depend_on_where_the_content_lies() {
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("a directory")).collect();
    let mut log = Log::default();
    for round in 0..300u64 {
        let key = format!("key{}", round % 40);
        log.append(vec![if round % 7 == 0 { delete(&key) } else { put(&key, format!("value {round}")) }]);
    }
    let mut hashes = Vec::new();
    for (flush_bytes, directory) in [1 << 9, 4 << 10, 8 << 20].into_iter().zip(&directories) {
        let mut machine = kv(directory.path(), flush_bytes);
        machine.open(None).expect("opens");
        for index in 1..=log.last() {
            log.apply(&mut machine, index - 1, index);
            run_background(&mut machine, Urgency::Normal);
        }
        hashes.push(machine.content_hash().expect("hashes"));
    }
    let mut twin = fresh_memory();
    log.apply(&mut twin, 0, log.last());
    hashes.push(twin.content_hash().expect("hashes"));
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    log.write(&mut twin, vec![put("key1", "other")]);
    assert_ne!(twin.content_hash().expect("hashes"), hashes[0]);
    let before = twin.content_hash().expect("hashes");
    log.write(&mut twin, vec![put("key1", "other")]);
    assert_ne!(twin.content_hash().expect("hashes"), before, "the revision counts");
}

#[test]
fn what_is_applied_is_seen_when_it_is_committed() {
    each(|machine| {
        let mut log = Log::default();
        log.write(machine, vec![put("key", "old")]);
        let lookup = machine.lookup();
        let bodies = [put("key", "new"), put("other", "new")];
        for (position, body) in bodies.iter().enumerate() {
            let command =
                mraft_engine::machine::Command { index: 2, position: position as u32, unix_ms: 0, body };
            machine.apply(&[command], &mut Default::default()).expect("applies");
            let QueryAnswer::Get { group_revision: 1, found, .. } = ask(&*lookup, Query::Get { key: b"key" })
            else {
                panic!("not the published state")
            };
            assert_eq!(found, Some((1, b"old".to_vec())));
            assert_eq!(contents(machine), [(b"key".to_vec(), b"old".to_vec())]);
            assert!(machine.background(Urgency::Pressing).is_none(), "half a batch is not persisted");
            assert!(machine.snapshot().is_err() && machine.persist().is_err(), "nor sent");
        }
        machine.commit(2, b"").expect("commits");
        assert_eq!(get(machine, "key"), Some((2, b"new".to_vec())));
        assert_eq!(contents(machine).len(), 2);
    });
}

/// Every batch writes its number to all keys, so a page that mixes two points shows two numbers.
#[test]
fn readers_never_see_a_mixture_while_buffers_are_frozen_flushed_and_compacted() {
    const KEYS: u64 = 20;
    const BATCHES: u64 = 1500;
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 10);
    machine.open(None).expect("opens");
    let done = AtomicBool::new(false);
    let lookup = machine.lookup();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut pages, mut last) = (0, 0);
                    while !done.load(Ordering::Acquire) || pages == 0 {
                        let page = ask(
                            &*lookup,
                            Query::Scan { prefix: b"k", after: None, limit: 100, max_bytes: 1 << 20 },
                        );
                        let QueryAnswer::Scan { group_revision, entries, next: None, .. } = page else {
                            panic!("{page:?}")
                        };
                        let batch = group_revision / KEYS;
                        assert!(
                            batch >= last && group_revision % KEYS == 0,
                            "{group_revision} after batch {last}"
                        );
                        assert_eq!(entries.len() as u64, if batch == 0 { 0 } else { KEYS });
                        for (at, entry) in entries.iter().enumerate() {
                            assert_eq!(entry.value, batch.to_le_bytes(), "in a page of batch {batch}");
                            assert_eq!(entry.revision, group_revision - KEYS + 1 + at as u64);
                        }
                        let got = ask(&*lookup, Query::Get { key: b"k00" });
                        let QueryAnswer::Get { group_revision, found, .. } = got else { panic!("{got:?}") };
                        if group_revision > 0 {
                            assert_eq!(found.expect("there").0, group_revision - KEYS + 1);
                        }
                        last = batch;
                        pages += 1;
                    }
                    pages
                })
            })
            .collect();
        let mut log = Log::default();
        let mut background = None;
        for batch in 1..=BATCHES {
            let commands = (0..KEYS).map(|key| put(format!("k{key:02}"), batch.to_le_bytes())).collect();
            log.write(&mut machine, commands);
            if let Some(job) = machine.background(Urgency::Normal) {
                background = Some(scope.spawn(move || job.run()));
            } else if background
                .as_ref()
                .is_some_and(|job: &std::thread::ScopedJoinHandle<'_, _>| job.is_finished())
                && let Some(job) = background.take()
            {
                machine.background_done(job.join().expect("no panic")).expect("succeeds");
            }
        }
        if let Some(job) = background.take() {
            machine.background_done(job.join().expect("no panic")).expect("succeeds");
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert!(reader.join().expect("no mixture") > 0);
        }
    });
    assert!(machine.persisted() > 0, "nothing was flushed: the test shows too little");
}

#[test]
fn a_scan_goes_through_active_frozen_and_tree_in_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 20);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    log.write(&mut machine, ["a", "c", "e", "g", "i"].map(|key| put(key, "tree")).to_vec());
    machine.persist().expect("persists");
    log.write(
        &mut machine,
        vec![put("b", "frozen"), put("c", "frozen"), delete("e"), put("g", "frozen"), delete("i")],
    );
    let _frozen = machine.background(Urgency::Pressing).expect("freezes");
    log.write(&mut machine, vec![put("c", "active"), delete("g"), put("i", "active"), put("j", "active")]);
    let expected = [("a", "tree"), ("b", "frozen"), ("c", "active"), ("i", "active"), ("j", "active")];
    let expected = expected.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
    assert_eq!(contents(&machine), expected);
    for limit in 1..=6 {
        let QueryAnswer::Scan { entries, next, .. } = scan(&machine, b"", Some(b"a"), limit) else {
            panic!()
        };
        let keys: Vec<_> = entries.into_iter().map(|entry| entry.key).collect();
        let expected: Vec<_> = expected[1..].iter().take(limit).map(|(key, _)| key.clone()).collect();
        assert_eq!(next, if limit < 4 { expected.last().cloned() } else { None });
        assert_eq!(keys, expected);
    }
    assert_eq!(get(&machine, "e"), None);
    assert_eq!(get(&machine, "g"), None);
}

#[test]
fn a_page_gives_at_least_one_entry_and_no_more_bytes_than_asked_for() {
    each(|machine| {
        let mut log = Log::default();
        log.write(machine, ["a", "b", "c"].map(|key| put(key, vec![0; 100])).to_vec());
        for (max_bytes, count) in [(0, 1), (101, 1), (201, 1), (202, 2), (303, 3), (usize::MAX, 3)] {
            let page =
                ask(&*machine.lookup(), Query::Scan { prefix: b"", after: None, limit: 100, max_bytes });
            let QueryAnswer::Scan { entries, next, .. } = page else { panic!() };
            assert_eq!(entries.len(), count, "{max_bytes}");
            assert_eq!(next.is_some(), count < 3, "{max_bytes}");
        }
    });
}

#[test]
fn a_flush_that_fails_stops_the_replica_and_loses_nothing_persisted() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 8 << 20);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    log.write(&mut machine, vec![put("a", "1")]);
    run_background(&mut machine, Urgency::Pressing);
    log.write(&mut machine, vec![put("b", "2")]);
    let (tables, aside) = (directory.path().join("0/tables"), directory.path().join("aside"));
    std::fs::rename(&tables, &aside).expect("takes the tables away");
    let result = machine.background(Urgency::Pressing).expect("a job").run();
    assert!(result.is_err());
    assert_eq!(machine.persisted(), 1);
    assert!(machine.background_done(result).is_err(), "the replica stops");
    assert!(machine.commit(9, b"").is_err() && machine.background(Urgency::Pressing).is_none());
    drop(machine);
    std::fs::rename(&aside, &tables).expect("gives them back");
    let mut machine = kv(directory.path(), 8 << 20);
    assert_eq!(machine.open(None).expect("opens"), Some(meta(1)));
    log.apply(&mut machine, 1, log.last());
    assert_eq!(contents(&machine).len(), 2);
}
