// SPDX-License-Identifier: Apache-2.0

//! What a worker does when its machines hold more in memory than they may.

use mraft_engine::effect::ApplyJob;
use mraft_engine::machine::{Command, ContentView, Lookup, Results, StateMachine};
use mraft_engine::packing::{EntryBuilder, NO_SLOT, PackedCommand};
use mraft_logstore::{LogError, LogKey};
use mraft_types::{DeploymentId, Entry, EntryKind, Membership, SlotSet};

use super::*;

const GROUP: GroupId = GroupId(1);
/// What every command leaves in memory.
const COMMAND_BYTES: usize = 100;

/// Remembers how much waits, and never has a background job ready.
#[derive(Default)]
struct Heavy {
    applied: Index,
    persisted: Index,
    waiting_bytes: usize,
}

impl StateMachine for Heavy {
    fn open(&mut self, _staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        Ok(None)
    }
    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.waiting_bytes += commands.len() * COMMAND_BYTES;
        commands.iter().for_each(|_| results.push(b""));
        Ok(())
    }
    fn commit(&mut self, applied: Index, _meta: &[u8]) -> Result<(), MachineError> {
        self.applied = applied;
        Ok(())
    }
    fn persisted(&self) -> Index {
        self.persisted
    }
    fn background(&mut self, _urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        None
    }
    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        result
    }
    fn unpersisted_bytes(&self) -> usize {
        self.waiting_bytes
    }
    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(Nothing)
    }
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Err(none())
    }
    fn stage(&self, _directory: u64, _meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        Err(none())
    }
    fn switch(&mut self, _directory: u64) -> Result<Vec<u8>, MachineError> {
        Err(none())
    }
    fn is_live(&self, _directory: u64) -> Result<bool, MachineError> {
        Ok(false)
    }
    fn discard(&mut self, _directory: u64) -> Result<(), MachineError> {
        Ok(())
    }
    fn persist(&mut self) -> Result<(), MachineError> {
        (self.persisted, self.waiting_bytes) = (self.applied, 0);
        Ok(())
    }
    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        Err(none())
    }
}

fn none() -> MachineError {
    MachineError::Failed("this machine has no snapshots".to_owned())
}

struct Nothing;

impl Lookup for Nothing {
    fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) -> Result<(), MachineError> {
        Ok(())
    }
}

#[derive(Debug)]
struct NoLog;

impl LogReader for NoLog {
    fn entries(&self, _: LogKey, from: Index, _: Index, _: usize) -> Result<Vec<Entry>, LogError> {
        Err(LogError::NotHere { index: from })
    }
}

fn worker(groups: &[GroupId], unpersisted_bytes_max: usize) -> ApplyWorker {
    let mut worker = ApplyWorker::new(Arc::new(NoLog), unpersisted_bytes_max, 0);
    for group in groups {
        let meta = GroupMeta::genesis(DeploymentId(1), *group, Membership::default(), SlotSet::default());
        let replica = mraft_types::ReplicaId::new(0, mraft_types::NodeId::new(1).expect("a node id"));
        let key = LogKey { group: *group, uid: meta.uid, replica };
        let applier = Applier::new(key, Box::new(Heavy::default()), meta);
        worker.handle(ApplyMail::Add(*group, Box::new(applier)), &mut ApplyOutput::default());
    }
    worker
}

/// Has a group apply one entry with so many commands.
fn apply(worker: &mut ApplyWorker, group: GroupId, index: Index, commands: usize) -> ApplyOutput {
    let mut builder = EntryBuilder::with_capacity(64);
    for _ in 0..commands {
        builder.push(&PackedCommand::user(NO_SLOT, b"x"));
    }
    let payload = builder.finish(1, 7).into();
    let entry = Entry { index, term: 1, kind: EntryKind::Commands, payload };
    let job = ApplyJob { first: index, last: index, entries: Some(vec![entry]), tickets: Vec::new() };
    let mut out = ApplyOutput::default();
    worker.handle(ApplyMail::Order(group, ApplyOrder::Job(job)), &mut out);
    worker.finish(&mut out);
    assert!(out.failed.is_empty(), "{:?}", out.failed);
    out
}

#[test]
fn t2_a_worker_over_its_budget_persists_before_it_goes_on() {
    let mut worker = worker(&[GROUP], 10 * COMMAND_BYTES);
    let out = apply(&mut worker, GROUP, 2, 10);
    assert_eq!((out.stalls, worker.unpersisted_bytes()), (0, 10 * COMMAND_BYTES));
    let out = apply(&mut worker, GROUP, 3, 1);
    assert_eq!((out.stalls, worker.unpersisted_bytes()), (1, 0));
    let persisted = |input: &(GroupId, Input)| matches!(input.1, Input::Applied { persisted: 3, .. });
    assert!(out.inputs.iter().any(persisted), "the core hears of it");
}

#[test]
fn t2_what_a_group_that_stopped_held_is_not_counted_any_more() {
    let other = GroupId(2);
    let mut worker = worker(&[GROUP, other], 100 * COMMAND_BYTES);
    apply(&mut worker, GROUP, 2, 60);
    apply(&mut worker, other, 2, 10);
    let (done, _removed) = std::sync::mpsc::sync_channel(1);
    worker.handle(ApplyMail::Remove { group: GROUP, persist: false, done }, &mut ApplyOutput::default());
    assert_eq!(worker.unpersisted_bytes(), 10 * COMMAND_BYTES);
    worker.handle(ApplyMail::Order(other, ApplyOrder::Switch { directory: 9 }), &mut ApplyOutput::default());
    assert_eq!(worker.unpersisted_bytes(), 0, "a machine that fails is dropped");
}
