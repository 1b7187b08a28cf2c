// SPDX-License-Identifier: Apache-2.0

//! What the tests of the log share: names for keys and entries, a small log over a memory disk, scripts of operations with their twin.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says why")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, MemoryDisk, Open};
use mraft_logstore::{
    FoundLog, GroupWrite, LogError, LogKey, LogOptions, LogStore, Mark, MemoryLog, Recovered, SegmentLog,
};
use mraft_types::{
    CondemnedReason, Entry, EntryKind, GroupId, GroupUid, HardState, Index, LogPosition, LogStart, Member,
    Membership, NodeId, Payload, ReplicaId, Role, Term,
};

/// Segments of the tests: 16 blocks, of which two are the header.
pub const SEGMENT_BYTES: u64 = 64 << 10;
/// Where the tests' log is.
pub const DIRECTORY: &str = "/wal/log";

/// Chance of a test: everything follows from the seed.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

pub fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("a node id")
}

pub fn key(group: u64) -> LogKey {
    LogKey { group: GroupId(group), uid: GroupUid([group as u8; 16]), replica: ReplicaId::new(0, node(1)) }
}

pub fn membership(change_index: Index) -> Membership {
    let member = |id: u64| {
        (
            ReplicaId::new(0, node(id)),
            Member { role: Role::Voter, raft_address: format!("10.0.0.{id}:13890") },
        )
    };
    Membership { change_index, members: (1..=3).map(member).collect(), ..Membership::default() }
}

pub fn start(index: Index, term: Term) -> LogStart {
    LogStart { position: LogPosition { index, term }, membership: membership(1) }
}

pub fn hard_state(term: Term, commit: Index) -> HardState {
    HardState { term, vote: Some(ReplicaId::new(0, node(1 + term % 3))), commit }
}

/// An entry whose payload tells where it belongs, so that bytes of another one are noticed.
pub fn entry(group: u64, index: Index, term: Term, bytes: usize) -> Entry {
    if bytes == 0 {
        return Entry { index, term, kind: EntryKind::Empty, payload: Payload::new() };
    }
    let mut payload = format!("{group}/{index}@{term} ").into_bytes();
    payload.resize(payload.len().max(bytes), b'.');
    Entry { index, term, kind: EntryKind::Commands, payload: payload.into() }
}

pub fn membership_entry(index: Index, term: Term) -> Entry {
    let mut payload = Vec::new();
    membership(index).encode(&mut payload);
    Entry { index, term, kind: EntryKind::Membership, payload: payload.into() }
}

pub fn append(group: u64, indexes: std::ops::RangeInclusive<Index>, term: Term, bytes: usize) -> GroupWrite {
    GroupWrite {
        key: key(group),
        hard_state: hard_state(term, indexes.start() - 1),
        entries: indexes.map(|index| entry(group, index, term, bytes)).collect(),
        mark: None,
    }
}

pub fn mark(group: u64, term: Term, commit: Index, mark: Mark) -> GroupWrite {
    GroupWrite {
        key: key(group),
        hard_state: hard_state(term, commit),
        entries: Vec::new(),
        mark: Some(mark),
    }
}

pub fn added(group: u64) -> (LogKey, LogStart, HardState) {
    (key(group), start(1, 1), HardState { term: 1, vote: None, commit: 1 })
}

pub fn options(salt_seed: u64) -> LogOptions {
    let mut dice = Dice(salt_seed);
    options_with_salts(Box::new(move || dice.roll()))
}

pub fn options_with_salts(salts: Box<dyn FnMut() -> u64 + Send>) -> LogOptions {
    LogOptions::new(SEGMENT_BYTES, salts).with_batch_bytes_max(16 << 10).with_segments_target(3)
}

pub fn open(disk: &MemoryDisk, salt_seed: u64) -> Result<SegmentLog, LogError> {
    SegmentLog::open(Arc::new(disk.clone()), Path::new(DIRECTORY), options(salt_seed))
}

pub fn look(disk: &MemoryDisk, salt_seed: u64) -> Result<FoundLog, LogError> {
    FoundLog::look(Arc::new(disk.clone()), Path::new(DIRECTORY), options(salt_seed))
}

pub fn bytes_of(disk: &MemoryDisk, path: &Path) -> Vec<u8> {
    mraft_disk::read_file(disk, path, 1 << 20).expect("no fault").expect("there")
}

/// Makes these the bytes of a file, durably.
pub fn put(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, Open::Create).expect("no fault");
    file.set_len(0)
        .and_then(|()| file.write_all_at(bytes, 0))
        .and_then(|()| file.sync_data())
        .expect("no fault");
}

pub fn segment_path(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("segment-{number:08}.log"))
}

/// A call of a log.
#[derive(Clone, Debug)]
pub enum Op {
    Add(Vec<u64>),
    Remove(u64),
    Write(Vec<GroupWrite>),
    Maintain,
    Seal,
}

pub fn apply(log: &mut dyn LogStore, op: &Op) -> Result<(), LogError> {
    match op {
        Op::Add(groups) => log.add_replicas(&groups.iter().map(|group| added(*group)).collect::<Vec<_>>()),
        Op::Remove(group) => log.remove_replica(key(*group)),
        Op::Write(batch) => log.write(batch).map(|_| ()),
        Op::Maintain => log.maintain().map(|_| ()),
        Op::Seal => log.seal(),
    }
}

/// A log's whole content: what each replica is told of itself, and its entries.
pub type Content = BTreeMap<LogKey, (Recovered, Vec<Entry>)>;

/// What a log holds, according to what it says it recovered. Call it right after opening.
pub fn content(log: &dyn LogStore) -> Content {
    let reader = log.reader();
    let read = |recovered: Recovered| {
        let (first, last) = (recovered.start.position.index + 1, recovered.last_index);
        let entries = reader.entries(recovered.key, first, last, usize::MAX).expect("readable");
        assert_eq!(entries.len() as u64, last + 1 - first);
        (recovered.key, (recovered, entries))
    };
    log.recovered().into_iter().map(read).collect()
}

/// The content of a twin after these calls.
pub fn twin(ops: &[Op]) -> Content {
    let mut log = MemoryLog::new();
    for op in ops {
        apply(&mut log, op).expect("a legal script");
    }
    content(&log)
}

/// A legal script of many calls: appends, overwrites, truncations, installations, marks, replicas that come and go.
pub fn script(seed: u64, len: usize, groups: u64) -> Vec<Op> {
    let mut dice = Dice(seed);
    let mut twin = MemoryLog::new();
    let mut ops = vec![Op::Add((1..=groups).collect())];
    let mut gone = Vec::new();
    apply(&mut twin, &ops[0]).expect("legal");
    while ops.len() < len {
        let op = match dice.below(40) {
            0 => Op::Seal,
            1..=5 => Op::Maintain,
            6 if gone.is_empty() => {
                let group = 1 + dice.below(groups);
                gone.push(group);
                Op::Remove(group)
            }
            7 if !gone.is_empty() => Op::Add(gone.split_off(0)),
            _ => Op::Write(batch(&mut dice, &twin)),
        };
        if matches!(&op, Op::Write(batch) if batch.is_empty()) {
            continue;
        }
        apply(&mut twin, &op).expect("legal");
        ops.push(op);
    }
    ops
}

fn batch(dice: &mut Dice, twin: &MemoryLog) -> Vec<GroupWrite> {
    let mut writes = Vec::new();
    for recovered in twin.recovered() {
        // Group 1 hardly ever writes: it is what pins segments.
        let odds = if recovered.key.group == GroupId(1) { 30 } else { 3 };
        if dice.below(odds) == 0 {
            writes.push(group_write(dice, &recovered));
        }
    }
    writes
}

fn group_write(dice: &mut Dice, now: &Recovered) -> GroupWrite {
    let group = now.key.group.0;
    let (from, last) = (now.start.position.index, now.last_index);
    let term = now.hard_state.term + u64::from(dice.below(4) == 0);
    let first = if dice.below(4) == 0 && last > from { from + 1 + dice.below(last - from) } else { last + 1 };
    let count = dice.below(5);
    let mut entries: Vec<Entry> = (first..first + count)
        .map(|index| match dice.below(12) {
            0 => membership_entry(index, term),
            1 => entry(group, index, term, 0),
            _ => entry(group, index, term, 20 + dice.below(300) as usize),
        })
        .collect();
    let last = entries.last().map_or(last, |entry| entry.index);
    let truncation = |dice: &mut Dice| {
        let index = from + dice.below(last - from + 1);
        let own_term = entries.iter().find(|entry| entry.index == index).map(|entry| entry.term);
        let known = now.terms.iter().rev().find(|(first, _)| *first <= index).map_or(0, |(_, term)| *term);
        start(index, own_term.unwrap_or(known))
    };
    let mark = match dice.below(24) {
        0..=7 => Some(Mark::Truncate(truncation(dice))),
        8 => Some(Mark::InstallBegin { start: start(last + 5, term), directory: dice.below(100) }),
        9 => Some(Mark::InstallDone(start(last + 5, term))),
        11 => Some(Mark::InstallAbandoned),
        10 if dice.below(4) == 0 => Some(Mark::Condemned(CondemnedReason::Divergence)),
        12 => Some(Mark::LossAccepted),
        _ => None,
    };
    if matches!(mark, Some(Mark::InstallDone(_))) {
        entries.clear();
    }
    GroupWrite { key: now.key, hard_state: hard_state(term, from), entries, mark }
}
