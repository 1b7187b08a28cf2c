// SPDX-License-Identifier: Apache-2.0

//! What every log must do: one suite, run by the segment log (on a memory disk and on a real one) and by its twin.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on says why")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mraft_disk::{MemoryDisk, RealDisk};
use mraft_logstore::{LogError, LogStore, Mark, MemoryLog, SegmentLog, inspect};
use mraft_types::CondemnedReason;
use support::{Op, added, append, apply, content, entry, hard_state, key, mark, membership_entry, start};

/// Opens one log again and again.
type Opener = Box<dyn FnMut() -> Box<dyn LogStore>>;

/// One that keeps its promises in memory, one on a simulated disk that loses power between openings, one on a real disk.
fn logs() -> Vec<(&'static str, Opener)> {
    let (memory, disk) = (MemoryLog::new(), MemoryDisk::new());
    let mut openings = 0;
    let directory = tempfile::tempdir().expect("a directory");
    vec![
        ("twin", Box::new(move || Box::new(memory.clone()))),
        (
            "memory disk",
            Box::new(move || {
                openings += 1;
                disk.crash(openings);
                Box::new(support::open(&disk, openings).expect("opens"))
            }),
        ),
        (
            "real disk",
            Box::new(move || {
                let path = directory.path().join("log");
                let log = SegmentLog::open(Arc::new(RealDisk::new()), &path, support::options(9));
                Box::new(log.expect("opens"))
            }),
        ),
    ]
}

fn each(check: impl Fn(&str, &mut Opener)) {
    for (name, mut opener) in logs() {
        check(name, &mut opener);
    }
}

fn add(log: &mut dyn LogStore, groups: &[u64]) {
    apply(log, &Op::Add(groups.to_vec())).expect("legal");
}

#[test]
fn a_new_log_is_empty_and_a_new_replica_is_as_it_was_added() {
    each(|name, open| {
        let mut log = open();
        assert!(log.recovered().is_empty(), "{name}");
        add(log.as_mut(), &[3, 1]);
        drop(log);
        let found = open().recovered();
        assert_eq!(found.iter().map(|was| was.key).collect::<Vec<_>>(), [key(1), key(3)], "{name}");
        let (_, begin, hard_state) = added(1);
        assert_eq!((&found[0].start, found[0].hard_state, found[0].last_index), (&begin, hard_state, 1));
        assert_eq!(found[0].terms, [(1, 1)], "{name}");
    });
}

#[test]
fn what_was_written_is_read_now_and_after_a_restart() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1, 2]);
        log.write(&[append(1, 2..=4, 2, 30), append(2, 2..=2, 5, 30)]).expect("legal");
        let mut second = append(1, 5..=6, 3, 30);
        second.entries.push(membership_entry(7, 3));
        log.write(&[second]).expect("legal");
        assert_eq!(log.reader().entries(key(1), 3, 4, 1000).expect("there"), append(1, 3..=4, 2, 30).entries);
        drop(log);
        let log = open();
        let found = content(log.as_ref());
        let (recovered, entries) = &found[&key(1)];
        assert_eq!((recovered.last_index, recovered.hard_state), (7, hard_state(3, 4)), "{name}");
        assert_eq!(recovered.terms, [(1, 1), (2, 2), (5, 3)], "{name}");
        assert_eq!(recovered.memberships, [(7, support::membership(7))], "{name}");
        assert_eq!(entries[0], entry(1, 2, 2, 30), "{name}");
    });
}

#[test]
fn what_a_log_says_of_a_replica_meanwhile_is_what_it_would_recover() {
    for seed in 0..8 {
        let (disk, mut twin) = (MemoryDisk::new(), MemoryLog::new());
        let mut log = support::open(&disk, seed).expect("opens");
        let recovered = |log: &dyn LogStore, key| {
            let head = log.head(key)?;
            Some(head.with_entries(log.reader().as_ref()).expect("readable"))
        };
        for (at, op) in support::script(seed, 60, 4).iter().enumerate() {
            apply(&mut log, op).expect("legal");
            apply(&mut twin, op).expect("legal");
            for would in twin.recovered() {
                let key = would.key;
                assert_eq!(recovered(&log, key), Some(would.clone()), "seed {seed}, call {at}");
                assert_eq!(recovered(&twin, key), Some(would), "seed {seed}, call {at}: the twin");
                for head in [log.head(key), twin.head(key)].into_iter().flatten() {
                    assert!(
                        head.terms.is_empty() && head.memberships.is_empty(),
                        "only its entries say that"
                    );
                }
            }
            let known = (1..=4).filter(|group| log.head(key(*group)).is_some()).count();
            assert_eq!(known, twin.recovered().len(), "seed {seed}, call {at}");
        }
    }
}

#[test]
fn an_overwritten_suffix_is_gone_with_its_memberships() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        let mut first = append(1, 2..=3, 1, 30);
        first.entries.push(membership_entry(4, 1));
        log.write(&[first, append(1, 5..=9, 1, 30)]).expect("legal");
        log.write(&[append(1, 4..=5, 2, 30)]).expect("legal");
        assert!(matches!(log.reader().entries(key(1), 4, 6, 1000), Err(LogError::NotHere { index: 6 })));
        drop(log);
        let found = content(open().as_ref());
        let (recovered, entries) = &found[&key(1)];
        assert_eq!((recovered.last_index, &recovered.terms), (5, &vec![(1, 1), (4, 2)]), "{name}");
        assert!(recovered.memberships.is_empty(), "{name}");
        assert_eq!(entries[2..], append(1, 4..=5, 2, 30).entries, "{name}");
    });
}

#[test]
fn d11_truncated_entries_are_gone_and_the_start_is_known() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=9, 1, 30)]).expect("legal");
        log.write(&[mark(1, 1, 9, Mark::Truncate(start(6, 1)))]).expect("legal");
        log.write(&[mark(1, 1, 9, Mark::Truncate(start(4, 1)))]).expect("older, and nothing new");
        assert!(matches!(log.reader().entries(key(1), 6, 9, 1000), Err(LogError::NotHere { index: 6 })));
        drop(log);
        let found = content(open().as_ref());
        let (recovered, entries) = &found[&key(1)];
        assert_eq!((&recovered.start, recovered.last_index, entries.len()), (&start(6, 1), 9, 3), "{name}");
    });
}

#[test]
fn n1_an_installation_is_remembered_until_it_is_done() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=4, 1, 30)]).expect("legal");
        log.write(&[mark(1, 2, 4, Mark::InstallBegin { start: start(20, 2), directory: 7 })]).expect("legal");
        drop(log);
        let mut log = open();
        assert_eq!(log.recovered()[0].install, Some((start(20, 2), 7)), "{name}");
        assert_eq!(log.recovered()[0].last_index, 4, "{name}");
        log.write(&[mark(1, 2, 20, Mark::InstallDone(start(20, 2)))]).expect("legal");
        log.write(&[append(1, 21..=22, 2, 30)]).expect("legal");
        drop(log);
        let recovered = &open().recovered()[0];
        assert_eq!((&recovered.install, &recovered.start), (&None, &start(20, 2)), "{name}");
        assert_eq!((recovered.last_index, recovered.terms.as_slice()), (22, &[(20, 2)][..]), "{name}");
    });
}

#[test]
fn n1_an_abandoned_installation_is_forgotten_and_voids_nothing() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=4, 1, 30)]).expect("legal");
        log.write(&[mark(1, 2, 4, Mark::InstallBegin { start: start(20, 2), directory: 7 })]).expect("legal");
        log.write(&[mark(1, 2, 4, Mark::InstallAbandoned)]).expect("legal");
        log.write(&[append(1, 5..=6, 2, 30)]).expect("legal");
        drop(log);
        let log = open();
        let recovered = &log.recovered()[0];
        assert_eq!((&recovered.install, recovered.last_index), (&None, 6), "{name}");
        assert_eq!(log.reader().entries(key(1), 2, 6, 1000).expect("all of them").len(), 5, "{name}");
    });
}

#[test]
fn d9_a_condemned_replica_stays_condemned() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1, 2]);
        log.write(&[mark(1, 1, 1, Mark::Condemned(CondemnedReason::OldCopy))]).expect("legal");
        log.write(&[append(1, 2..=2, 1, 30)]).expect("legal");
        drop(log);
        let found = open().recovered();
        assert_eq!(found[0].condemned, Some(CondemnedReason::OldCopy), "{name}");
        assert_eq!(found[1].condemned, None, "{name}");
    });
}

#[test]
fn d9_an_accepted_loss_keeps_the_entries_and_touches_no_other_replica() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1, 2]);
        log.write(&[append(1, 2..=6, 1, 30), append(2, 2..=6, 1, 30)]).expect("legal");
        log.write(&[mark(1, 1, 5, Mark::InstallBegin { start: start(20, 1), directory: 7 })]).expect("legal");
        for group in 1..=2 {
            log.write(&[mark(group, 1, 5, Mark::Condemned(CondemnedReason::OldCopy))]).expect("legal");
        }
        log.write(&[mark(1, 1 << 32, 5, Mark::LossAccepted)]).expect("legal");
        log.write(&[append(1, 7..=7, (1 << 32) + 1, 30)]).expect("it goes on");
        drop(log);
        let log = open();
        let found = log.recovered();
        let condemned: Vec<_> = found.iter().map(|replica| replica.condemned).collect();
        assert_eq!(condemned, [None, Some(CondemnedReason::OldCopy)], "{name}");
        assert_eq!((found[0].hard_state.term, found[0].last_index), ((1 << 32) + 1, 7), "{name}");
        assert_eq!(found[0].install, None, "{name}");
        assert_eq!(log.reader().entries(key(1), 2, 7, 1000).expect("kept").len(), 6, "{name}");
    });
}

#[test]
fn a_removed_replica_is_forgotten_and_may_be_added_anew() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1, 2]);
        log.write(&[append(1, 2..=4, 1, 30), append(2, 2..=4, 1, 30)]).expect("legal");
        log.remove_replica(key(1)).expect("legal");
        log.remove_replica(key(1)).expect("harmless");
        assert!(log.reader().entries(key(1), 2, 2, 1000).is_err(), "{name}");
        drop(log);
        let mut log = open();
        assert_eq!(log.recovered().len(), 1, "{name}");
        add(log.as_mut(), &[1]);
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=2, 9, 30)]).expect("legal");
        drop(log);
        let found = content(open().as_ref());
        assert_eq!(found[&key(1)].1, append(1, 2..=2, 9, 30).entries, "{name}");
    });
}

#[test]
fn misuse_is_refused_whole() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=4, 1, 30)]).expect("legal");
        let mut gap = append(1, 5..=7, 1, 30);
        gap.entries.remove(1);
        let wrong = [
            append(1, 6..=6, 1, 30),
            append(1, 1..=2, 1, 30),
            append(9, 2..=2, 1, 30),
            gap,
            mark(1, 1, 4, Mark::Truncate(start(5, 1))),
        ];
        for write in wrong {
            let batch = [append(1, 5..=5, 1, 30), write];
            let result = log.write(&batch[1..]);
            assert!(matches!(result, Err(LogError::Misuse(_))), "{name}: {:?}", batch[1]);
        }
        let other_start = (key(1), start(5, 1), hard_state(1, 5));
        assert!(matches!(log.add_replicas(&[other_start]), Err(LogError::Misuse(_))), "{name}");
        drop(log);
        assert_eq!(content(open().as_ref())[&key(1)].1.len(), 3, "{name}");
    });
}

#[test]
fn an_answer_is_cut_at_the_budget_but_never_empty() {
    each(|name, open| {
        let mut log = open();
        add(log.as_mut(), &[1]);
        log.write(&[append(1, 2..=4, 1, 100)]).expect("legal");
        log.write(&[append(1, 5..=7, 1, 100)]).expect("legal");
        let reader = log.reader();
        let count = |max_bytes| reader.entries(key(1), 2, 7, max_bytes).expect("there").len();
        assert_eq!([0, 99, 199, 200, 499, 600].map(count), [1, 1, 1, 2, 4, 6], "{name}");
        assert!(reader.entries(key(1), 5, 4, 100).expect("an empty range").is_empty(), "{name}");
        assert!(matches!(reader.entries(key(1), 7, 9, 1000), Err(LogError::NotHere { index: 8 })), "{name}");
    });
}

#[test]
fn l1_the_writes_of_all_groups_are_one_batch_one_write_and_one_sync() {
    each(|name, open| {
        let mut log = open();
        let groups: Vec<u64> = (1..=50).collect();
        add(log.as_mut(), &groups);
        let before = log.durable_seq();
        let writes: Vec<_> = groups.iter().map(|group| append(*group, 2..=3, 1, 30)).collect();
        assert_eq!(log.write(&writes).expect("legal").batch_seq, before + 1, "{name}");
        drop(log);
        let found = content(open().as_ref());
        assert!(groups.iter().all(|group| found[&key(*group)].0.last_index == 3), "{name}");
    });
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    let groups: Vec<u64> = (1..=50).collect();
    add(&mut log, &groups);
    let operations = |log: &mut SegmentLog, next: u64, count: u64| {
        let before = disk.operations();
        let writes: Vec<_> = (1..=count).map(|group| append(group, next..=next, 1, 30)).collect();
        log.write(&writes).expect("legal");
        disk.operations() - before
    };
    operations(&mut log, 2, 50);
    let of_one = operations(&mut log, 3, 1);
    assert_eq!(of_one, 2, "a write and a sync");
    log.write(&groups[1..].iter().map(|group| append(*group, 3..=3, 1, 30)).collect::<Vec<_>>())
        .expect("legal");
    assert_eq!(operations(&mut log, 4, 50), of_one, "fifty groups cost what one does");
}

#[test]
fn l2_batch_numbers_grow_over_restarts() {
    each(|name, open| {
        let (mut last, mut last_write) = (0, 0);
        for opening in 0..4 {
            let mut log = open();
            add(log.as_mut(), &[1]);
            assert!(log.durable_seq() >= last_write, "{name}");
            for _ in 0..3 {
                let written = log.write(&[mark(1, 1, 1, Mark::Truncate(start(1, 1)))]).expect("legal");
                assert!(written.batch_seq > last, "{name}, opening {opening}");
                last = written.batch_seq;
                assert_eq!(log.durable_seq(), last, "{name}");
            }
            last_write = last;
            if opening % 2 == 0 {
                log.seal().expect("legal");
                log.seal().expect("harmless");
            }
            last = log.durable_seq();
        }
    });
}

#[test]
fn readers_on_other_threads_never_see_bytes_of_another_use() {
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    add(&mut log, &[1, 2]);
    let reader = log.reader();
    // The newest entry that is written; 0 when there will be no more.
    let newest = Arc::new(AtomicU64::new(2));
    log.write(&[append(1, 2..=2, 1, 2000)]).expect("legal");
    let seen = Arc::clone(&newest);
    let watcher = std::thread::spawn(move || {
        let mut read = 0u64;
        loop {
            let index = seen.load(Ordering::Relaxed);
            if index == 0 {
                return read;
            }
            match reader.entries(key(1), index, index, 1 << 20) {
                Ok(entries) => {
                    assert_eq!(entries, append(1, index..=index, 1, 2000).entries);
                    read += 1;
                }
                // Truncated since.
                Err(LogError::NotHere { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    for index in 3..1500 {
        let mut write = append(1, index..=index, 1, 2000);
        write.mark = Some(Mark::Truncate(start(index - 1, 1)));
        log.write(&[write]).expect("legal");
        log.maintain().expect("legal");
        newest.store(index, Ordering::Relaxed);
    }
    newest.store(0, Ordering::Relaxed);
    println!("{} entries read meanwhile", watcher.join().expect("no panic"));
    assert!(log.status().segments_recycled > 20);
}

#[test]
fn l5_a_replica_that_hardly_writes_does_not_pin_the_log() {
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    add(&mut log, &[1, 2, 3]);
    log.write(&[append(1, 2..=12, 1, 900)]).expect("legal");
    log.write(&[mark(3, 1, 1, Mark::InstallBegin { start: start(50, 1), directory: 3 })]).expect("legal");
    for index in 2..500 {
        let mut write = append(2, index..=index, 1, 3000);
        write.mark = Some(Mark::Truncate(start(index, 1)));
        log.write(&[write]).expect("legal");
        while log.maintain().expect("legal") {}
        let status = log.status();
        assert!(status.segments_live <= 5 && status.segments_live + status.segments_free <= 10, "{status:?}");
    }
    assert!(log.status().groups_carried > 10 && log.status().segments_recycled > 20, "{:?}", log.status());
    assert_eq!(
        log.reader().entries(key(1), 2, 12, 1 << 20).expect("there"),
        append(1, 2..=12, 1, 900).entries
    );
    disk.crash(1);
    let found = content(&support::open(&disk, 2).expect("opens"));
    assert_eq!(found[&key(1)].1, append(1, 2..=12, 1, 900).entries);
    assert_eq!(found[&key(3)].0.install, Some((start(50, 1), 3)));
}

#[test]
fn l5_small_replicas_that_hardly_write_are_carried_many_to_a_batch() {
    const QUIET: u64 = 20;
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    add(&mut log, &(1..=QUIET + 1).collect::<Vec<_>>());
    let quiet: Vec<_> = (1..=QUIET).map(|group| append(group, 2..=2, 1, 30)).collect();
    log.write(&quiet).expect("legal");
    let mut most = 0;
    for index in 2..200 {
        let mut write = append(QUIET + 1, index..=index, 1, 3000);
        write.mark = Some(Mark::Truncate(start(index, 1)));
        log.write(&[write]).expect("legal");
        let mut goes_on = true;
        while goes_on {
            let (carried, batches) = (log.status().groups_carried, log.durable_seq());
            goes_on = log.maintain().expect("legal");
            assert!(log.durable_seq() <= batches + 1, "a step writes one batch at most");
            most = most.max(log.status().groups_carried - carried);
        }
    }
    assert!(most >= QUIET, "at most {most} in a batch");
}

#[test]
fn gauges_tell_what_there_is() {
    const GROUPS: u64 = 10;
    let disk = MemoryDisk::new();
    let mut log = support::open(&disk, 1).expect("opens");
    assert_eq!(log.status().index_bytes, 0);
    add(&mut log, &(1..=GROUPS).collect::<Vec<_>>());
    let each = log.status().index_bytes / GROUPS;
    assert!((100..2_000).contains(&each), "a replica without entries takes {each} bytes");
    for index in 2..30 {
        log.write(&[append(1, index..=index, 1, 3000)]).expect("legal");
    }
    while log.maintain().expect("legal") {}
    assert!(log.status().index_bytes > GROUPS * each, "its records take some more");
    let files = disk.files().into_iter().filter(|(path, _)| path.to_string_lossy().contains("segment-"));
    let status = log.status();
    assert_eq!(status.segments_live + status.segments_free, files.count() as u64);
    assert_eq!(status.bytes, (status.segments_live + status.segments_free) * support::SEGMENT_BYTES);
    assert!(status.segments_live > 1 && status.segments_free > 0, "{status:?}");
    assert_eq!((status.segments_recycled, status.groups_carried), (0, 0));
}

#[test]
fn inspecting_touches_nothing_and_tells_what_opening_would_recover() {
    let disk = MemoryDisk::new();
    let ops = support::script(5, 200, 5);
    let mut log = support::open(&disk, 1).expect("opens");
    ops.iter().for_each(|op| apply(&mut log, op).expect("legal"));
    disk.kill();
    let before = disk.files();
    let seen = inspect(&disk, Path::new(support::DIRECTORY)).expect("readable");
    assert_eq!(disk.files(), before);
    assert!(seen.segments.iter().any(|segment| segment.is_needed && segment.batches > 0));
    assert!(!seen.cases.keys().any(|case| case.is_damage()), "{:?}", seen.cases);
    let recovered: Vec<_> = seen.replicas.into_iter().map(|replica| replica.recovered).collect();
    assert_eq!(recovered, support::open(&disk, 2).expect("opens").recovered());
    let nothing = inspect(&disk, Path::new("/nowhere")).expect("an empty log");
    assert!(nothing.segments.is_empty() && nothing.replicas.is_empty());
}
