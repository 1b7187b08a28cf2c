// SPDX-License-Identifier: Apache-2.0

//! A crash while a loss is accepted leaves every replica condemned or repaired (rule D9), and doing it again ends it. The rest is shown by
//! real hosts: `tests/hosts/loss.rs`.

use std::sync::Mutex;

use mraft_disk::MemoryDisk;
use mraft_disk::memory::Access;
use mraft_logstore::LogStore;
use mraft_types::{
    DeploymentId, Entry, EntryKind, InstanceId, Member, Membership, NodeId, Payload, Role, SlotSet,
};

use super::*;
use crate::identity::Claim;
use crate::restore::first_log;

const DATA: &str = "/data";
/// Three groups: one whose log joins its store, one whose log does not, one without a store.
const GROUPS: [GroupId; 3] = [GroupId(1), GroupId(2), GroupId(3)];
const STORED: [Option<Index>; 3] = [Some(3), Some(9), None];

fn genesis(group: GroupId) -> GroupMeta {
    let replica = ReplicaId::new(0, NodeId::new(1).expect("a node id"));
    let member = Member { role: Role::Voter, raft_address: "h:1".to_owned() };
    let members = Membership { members: [(replica, member)].into(), ..Membership::default() };
    GroupMeta::genesis(DeploymentId(1), group, members, SlotSet::default())
}

fn record(group: GroupId) -> GroupRecord {
    let genesis = genesis(group);
    let replica = ReplicaId::new(0, NodeId::new(1).expect("a node id"));
    GroupRecord { group, uid: genesis.uid, replica, genesis: Some(genesis), machine: "m".to_owned() }
}

/// What the stores of these tests have: no files, so nothing of them can be lost in a crash.
fn stored(record: &GroupRecord, _install: Option<u64>) -> Result<Option<Vec<u8>>, String> {
    let at = GROUPS.iter().position(|group| *group == record.group).ok_or("which group?")?;
    let applied = STORED[at].map(|index| LogPosition { index, term: 2 });
    Ok(applied.map(|applied| GroupMeta { applied, ..genesis(record.group) }.encode()))
}

fn options() -> LogOptions {
    LogOptions::new(64 << 10, Box::new(|| 7)).with_batch_bytes_max(16 << 10)
}

/// A node whose groups have entries 2 to 6.
fn node() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let (shared, data) = (Arc::new(disk.clone()) as Arc<dyn Disk>, Path::new(DATA));
    let node = NodeId::new(1).expect("a node id");
    let claim = Claim { deployment: DeploymentId(1), node, raft_address: "h:1".to_owned() };
    let booted = identity::boot(&disk, data, data, &claim, (InstanceId([7; 16]), 99), 0);
    identity::mark_created(&disk, data, data, &mut booted.expect("fresh")).expect("written");
    let mut registry = Registry::open(Arc::clone(&shared), data).expect("none yet");
    registry.put(GROUPS.map(record)).expect("written");
    let mut log = SegmentLog::open(shared, &data.join("log"), options()).expect("fresh");
    log.add_replicas(&GROUPS.map(|group| first_log(&record(group)))).expect("added");
    registry.logged(GROUPS).expect("written");
    let entry =
        |index| Entry { index, term: 2, kind: EntryKind::Commands, payload: Payload::copy_from(b"entry") };
    let hard_state = HardState { term: 2, vote: None, commit: 5 };
    let write = |group| GroupWrite {
        key: log_key(&record(group)),
        hard_state,
        entries: (2..=6).map(entry).collect(),
        mark: None,
    };
    log.write(&GROUPS.map(write)).expect("written");
    disk.sync_dir(data).expect("synced");
    disk
}

/// The directory turns out to be an old copy, which only one replica heard of before the process ended.
fn is_an_old_copy(disk: &MemoryDisk) {
    condemn(disk, CondemnedReason::OldCopy);
}

/// One replica is condemned.
fn condemn(disk: &MemoryDisk, reason: CondemnedReason) {
    let mut log = SegmentLog::open(Arc::new(disk.clone()), &Path::new(DATA).join("log"), options());
    let log = log.as_mut().expect("whole");
    let hard_state = HardState { term: 2, vote: None, commit: 5 };
    let mark = Some(Mark::Condemned(reason));
    let key = log_key(&record(GROUPS[2]));
    log.write(&[GroupWrite { key, hard_state, entries: Vec::new(), mark }]).expect("written");
    log.seal().expect("sealed");
}

fn loses_its_log(disk: &MemoryDisk) {
    disk.remove_dir_all(&Path::new(DATA).join("log")).expect("nobody has it open");
    disk.sync_dir(Path::new(DATA)).expect("synced");
}

fn loses_its_segments(disk: &MemoryDisk) {
    let log = Path::new(DATA).join("log");
    let segments =
        disk.files().into_iter().filter(|(path, _)| path.starts_with(&log) && path.extension().is_some());
    segments.for_each(|(path, _)| disk.remove_file(&path).expect("there"));
    disk.sync_dir(&log).expect("synced");
}

fn open(disk: &MemoryDisk) -> Result<StoppedNode, HostError> {
    let stopped = StoppedNode::open(Arc::new(disk.clone()), Path::new(DATA), None)?;
    Ok(StoppedNode { batch_bytes_max: 16 << 10, ..stopped })
}

fn survey(disk: &MemoryDisk) -> Survey {
    open(disk).expect("a stopped node").survey(&mut stored, 0)
}

fn accept(disk: &MemoryDisk) -> Result<Vec<Loss>, HostError> {
    open(disk)?.accept(Scope::All, &mut stored, &mut stored, 0)
}

/// The operations that a crash could tell apart: reading changes nothing, and zeros fill a segment for many of them.
fn operations_that_matter(disk: &MemoryDisk) -> Vec<u64> {
    let (disk, seen) = (disk.fork(), Arc::new(Mutex::new((0, Vec::new()))));
    let own = Arc::clone(&seen);
    disk.set_before(move |_, access| {
        let mut seen = own.lock().expect("no panic");
        if !matches!(access, Access::Read | Access::Write { bytes: [], .. }) {
            let number = seen.0;
            seen.1.push(number);
        }
        seen.0 += 1;
    });
    let began = disk.operations();
    accept(&disk).expect("possible");
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.0, disk.operations() - began, "each operation was seen");
    seen.1.clone()
}

#[test]
fn d9_a_crash_leaves_every_replica_condemned_or_repaired() {
    let spoils: [fn(&MemoryDisk); 3] = [is_an_old_copy, loses_its_log, loses_its_segments];
    for (spoil, expected) in spoils.into_iter().zip([[6, 9, 6], [3, 9, 0], [3, 9, 0]]) {
        let began = node();
        spoil(&began);
        let can_be_accepted = expected.iter().filter(|last| **last > 0).count();
        let found = survey(&began);
        assert_eq!(found.losses.len(), 3, "all are concerned");
        let last = |loss: &Loss| loss.decision.as_ref().map_or(0, |restart| restart.last);
        assert_eq!(found.losses.iter().map(last).collect::<Vec<_>>(), expected);
        let mut repaired = BTreeSet::new();
        let operations = operations_that_matter(&began).into_iter();
        for (crash_at, seed) in operations.flat_map(|at| (0..4).map(move |seed| (at, seed))) {
            let disk = began.fork();
            disk.fail_from_operation(disk.operations() + crash_at);
            assert!(accept(&disk).is_err(), "crash at {crash_at}");
            disk.crash(seed);
            let left = survey(&disk);
            let log = mraft_logstore::inspect(&disk, &Path::new(DATA).join("log")).expect("a log");
            for replica in &log.replicas {
                let key = replica.recovered.key;
                let is_condemned = left.losses.iter().any(|loss| loss.group == key.group);
                let is_anew = replica.hard_state().term >= 1 << 32;
                assert!(is_condemned || is_anew, "crash at {crash_at}: group {} escaped", key.group);
            }
            repaired.insert(3 - left.losses.len());
            if left.losses.iter().any(|loss| loss.decision.is_ok()) {
                accept(&disk).unwrap_or_else(|error| panic!("crash at {crash_at}: {error}"));
            }
            let left = survey(&disk);
            assert!(left.losses.iter().all(|loss| loss.decision.is_err()), "crash at {crash_at}: {left:?}");
            assert_eq!(left.losses.len(), 3 - can_be_accepted, "crash at {crash_at}");
        }
        assert!(repaired.contains(&0) && repaired.len() > 1, "{repaired:?}");
    }
}

#[test]
fn d9_a_term_that_somebody_names_is_left_behind() {
    let disk = node();
    is_an_old_copy(&disk);
    let found = open(&disk).expect("a stopped node").survey(&mut stored, 5 << 32);
    let term = found.losses[0].decision.as_ref().expect("possible").hard_state.term;
    assert_eq!(term, 6 << 32);
}

/// Whether the directory is an old copy is for its peers to say, who go by what a start finds in its log.
#[test]
fn m7_what_the_repair_of_one_group_writes_does_not_hide_how_far_the_log_was() {
    let disk = node();
    condemn(&disk, CondemnedReason::Damage);
    let before = open(&disk).expect("a stopped node");
    let last_batch_seq = before.log.as_ref().expect("a log").last_batch_seq;
    let boot_counter = before.identity.boot_counter;
    drop(before);
    accept(&disk).expect("its log is whole");
    let after = open(&disk).expect("a stopped node").identity;
    assert_eq!(after.boot_counter, boot_counter + 1, "it is a start");
    assert_eq!(after.starts.ago(0).map(|start| start.found_seq), Some(last_batch_seq));
    assert_eq!(after.starts.ago(1), open(&node()).expect("a stopped node").identity.starts.ago(0));
}
