// SPDX-License-Identifier: Apache-2.0

//! What the tests of the machines share: a log to apply from, random commands, answers in words.

#![allow(dead_code, clippy::expect_used)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use mraft_disk::{MemoryDisk, RealDisk};
use mraft_engine::machine::{Command, Lookup, Results, SnapshotStage, SnapshotView, StateMachine, Urgency};
use mraft_kv::command::{self, Answer, Condition, Operation};
use mraft_kv::query::{Query, QueryAnswer};
use mraft_kv::{Caches, KvMachine, KvOptions, MemoryKv, MemoryOptions};

/// Says that a test cannot run here, and what was not shown: past the capture of a test's output and on a line of its own, where
/// `cargo xtask test` counts it.
pub fn skipped(why: &str) {
    std::io::stdout().write_all(format!("\nSKIPPED: {why}\n").as_bytes()).expect("somebody reads");
}

/// The only source of chance.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.below(len_max + 1)).map(|_| self.below(256) as u8).collect()
    }
}

pub fn kv(dir: &Path, flush_bytes: usize) -> KvMachine {
    let caches = Caches::new(1 << 20, 64);
    KvMachine::new(Arc::new(RealDisk), dir.to_owned(), &caches, KvOptions { flush_bytes, hash_seed: 7 })
}

pub fn memory(disk: &MemoryDisk) -> MemoryKv {
    MemoryKv::new(Arc::new(disk.clone()), "/memory".into(), MemoryOptions { flush_bytes: 4 << 10 })
}

/// A machine in memory that is open and empty.
pub fn fresh_memory() -> MemoryKv {
    let mut machine = memory(&MemoryDisk::new());
    assert_eq!(machine.open(None).expect("opens"), None);
    machine
}

pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    let mut body = Vec::new();
    command::encode_put(key.as_ref(), value.as_ref(), &mut body);
    body
}

pub fn operations(operations: &[Operation<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    command::encode(operations, &mut body);
    body
}

pub fn delete(key: impl AsRef<[u8]>) -> Vec<u8> {
    operations(&[Operation::Delete { key: key.as_ref(), condition: Condition::None }])
}

pub fn meta(index: u64) -> Vec<u8> {
    format!("meta of {index}").into_bytes()
}

/// The entries of a group: index = place + 1.
#[derive(Default)]
pub struct Log {
    pub entries: Vec<Vec<Vec<u8>>>,
}

impl Log {
    /// Appends an entry with these commands. Answers its index.
    pub fn append(&mut self, commands: Vec<Vec<u8>>) -> u64 {
        self.entries.push(commands);
        self.entries.len() as u64
    }

    pub fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Applies and commits the entries after `after` up to `until`, in one batch.
    pub fn apply(&self, machine: &mut dyn StateMachine, after: u64, until: u64) -> Results {
        let mut commands = Vec::new();
        for index in after + 1..=until {
            for (position, body) in self.entries[index as usize - 1].iter().enumerate() {
                commands.push(Command { index, position: position as u32, unix_ms: index, body });
            }
        }
        let mut results = Results::default();
        machine.apply(&commands, &mut results).expect("applies");
        assert_eq!(results.len(), commands.len(), "one answer per command");
        machine.commit(until, &meta(until)).expect("commits");
        results
    }

    /// Appends an entry and applies it. Answers what became of its commands.
    pub fn write(&mut self, machine: &mut dyn StateMachine, commands: Vec<Vec<u8>>) -> Vec<Answer> {
        let index = self.append(commands);
        let results = self.apply(machine, index - 1, index);
        (0..results.len())
            .map(|at| Answer::decode(results.get(at).expect("answer")).expect("decodes"))
            .collect()
    }
}

pub fn ask(lookup: &dyn Lookup, query: Query<'_>) -> QueryAnswer {
    let (mut bytes, mut answer) = (Vec::new(), Vec::new());
    query.encode(&mut bytes);
    lookup.query(&bytes, &mut answer).expect("answers");
    QueryAnswer::decode(&answer).expect("decodes")
}

pub fn get(machine: &dyn StateMachine, key: impl AsRef<[u8]>) -> Option<(u64, Vec<u8>)> {
    match ask(&*machine.lookup(), Query::Get { key: key.as_ref() }) {
        QueryAnswer::Get { found, .. } => found,
        other => panic!("{other:?}"),
    }
}

pub fn scan(machine: &dyn StateMachine, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> QueryAnswer {
    ask(&*machine.lookup(), Query::Scan { prefix, after, limit, max_bytes: 1 << 20 })
}

/// Every key and value, page by page.
pub fn contents(machine: &dyn StateMachine) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let QueryAnswer::Scan { entries, next, .. } = scan(machine, b"", after.as_deref(), 7) else {
            panic!("a scan answers a page")
        };
        all.extend(entries.into_iter().map(|entry| (entry.key, entry.value)));
        match next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// Runs the machine's background work until there is none.
pub fn run_background(machine: &mut dyn StateMachine, urgency: Urgency) -> usize {
    let mut jobs = 0;
    while let Some(job) = machine.background(urgency) {
        let result = job.run();
        machine.background_done(result).expect("succeeds");
        jobs += 1;
    }
    jobs
}

pub fn chunks(view: &mut dyn SnapshotView, max_bytes: usize) -> Vec<Vec<u8>> {
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::new();
        if !view.next_chunk(max_bytes, &mut chunk).expect("reads") {
            assert!(chunk.is_empty());
            return chunks;
        }
        chunks.push(chunk);
    }
}

pub fn receive(stage: &mut dyn SnapshotStage, chunks: &[Vec<u8>]) {
    for chunk in chunks {
        stage.write_chunk(chunk).expect("a chunk as it was sent");
    }
}

/// A command out of a small world of keys, so that conditions and overwrites meet.
pub fn random_command(random: &mut Random, revision: u64) -> Vec<u8> {
    let one = |random: &mut Random| format!("key/{}", random.below(60)).into_bytes();
    if random.one_in(3) {
        let len = if random.one_in(50) { 300_000 } else { random.below(200) as usize };
        return put(one(random), vec![random.below(256) as u8; len]);
    }
    // Several operations must share a slot.
    let slot = random.below(4);
    let count = 1 + random.below(4);
    let keys: Vec<Vec<u8>> =
        (0..count).map(|_| format!("{{{slot}}}{}", random.below(8)).into_bytes()).collect();
    let value = random.bytes(30);
    let list: Vec<Operation<'_>> = keys
        .iter()
        .map(|key| {
            let condition = match random.below(8) {
                0 => Condition::Revision(random.below(revision + 2)),
                1 => Condition::Absent,
                2 => Condition::Exists,
                _ => Condition::None,
            };
            match (random.below(5), condition) {
                (0, Condition::None) | (1, _) => Operation::Delete { key, condition },
                (0, _) => Operation::Check { key, condition },
                _ => Operation::Put { key, value: &value, condition },
            }
        })
        .collect();
    operations(&list)
}
