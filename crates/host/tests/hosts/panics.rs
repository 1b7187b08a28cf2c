// SPDX-License-Identifier: Apache-2.0

//! Rule T4: a panic in what threads do for one group stops that group's replica, any other one ends the process.

use std::os::unix::process::ExitStatusExt;
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::mpsc::channel;

use mraft::machines::in_memory;
use mraft::{Answer, GroupSpec, Machines, NO_SLOT};
use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::{GroupId, Index, MembershipChange, Payload};

use crate::support::{Cluster, Count, GROUP, PATIENCE, ask, ask_leader};

const OTHER_GROUP: GroupId = GroupId(1);
/// Set for the process that is to end.
const CHILD: &str = "MRAFT_TEST_ENDS_BY_A_PANIC";

/// Its number on every Unix.
const SIGABRT: i32 = 6;

/// What has a bug.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Bug {
    Job,
    Hash,
    Chunk,
}

/// A machine with a bug outside of its own methods.
struct Buggy {
    sound: Box<dyn StateMachine>,
    bug: Bug,
}

struct Panics;

impl BackgroundJob for Panics {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        panic!("the job has a bug")
    }
}

impl ContentView for Panics {
    fn hash(self: Box<Self>) -> Result<u128, MachineError> {
        panic!("the hash has a bug")
    }
}

impl SnapshotView for Panics {
    fn meta(&self) -> &[u8] {
        &[]
    }

    fn next_chunk(&mut self, _max_bytes: usize, _out: &mut Vec<u8>) -> Result<bool, MachineError> {
        panic!("the view has a bug")
    }
}

impl StateMachine for Buggy {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        self.sound.open(staged)
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.sound.apply(commands, results)
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        self.sound.commit(applied, meta)
    }

    fn persisted(&self) -> Index {
        self.sound.persisted()
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        let job = self.sound.background(urgency)?;
        Some(if self.bug == Bug::Job { Box::new(Panics) } else { job })
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        self.sound.background_done(result)
    }

    fn unpersisted_bytes(&self) -> usize {
        self.sound.unpersisted_bytes()
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        self.sound.lookup()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        let view = self.sound.snapshot()?;
        Ok(if self.bug == Bug::Chunk { Box::new(Panics) } else { view })
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        self.sound.stage(directory, meta)
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        self.sound.switch(directory)
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        self.sound.is_live(directory)
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        self.sound.discard(directory)
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        self.sound.persist()
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        let view = self.sound.content_view()?;
        Ok(if self.bug == Bug::Hash { Box::new(Panics) } else { view })
    }
}

/// Machines that persist after every third entry, with this bug in one group.
fn with(bug: Bug) -> Machines {
    Machines::new().with("list", move |context| {
        let sound = in_memory(context.disk.clone(), context.directory.clone(), 3, Count::default());
        Ok(if context.group == GROUP { Box::new(Buggy { sound, bug }) } else { sound })
    })
}

/// One node with two groups, of which one has the bug.
fn node(bug: Bug) -> Cluster {
    let mut cluster = Cluster::prepare(1);
    let host = cluster.open_with(cluster.config(1), with(bug)).expect("a fresh directory");
    host.start_groups(&[cluster.spec(), GroupSpec { group: OTHER_GROUP, ..cluster.spec() }])
        .expect("the groups start");
    cluster.hosts.insert(1, host);
    cluster
}

/// Waits until the group with the bug says why it stopped, and the other one has persisted many times.
fn one_stops_and_the_other_goes_on(cluster: &Cluster, reason: &str) {
    cluster.wait_until("the replica says why it stopped", |cluster| {
        let status = cluster.hosts[&1].group_status(GROUP).expect("it is listed");
        status.failure.is_some_and(|failure| failure.contains(reason))
    });
    let mut applied = 0;
    while applied < 20 {
        match ask_leader(&cluster.hosts[&1], OTHER_GROUP, NO_SLOT, "x") {
            Answer::Applied { .. } => applied += 1,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn t4_a_panic_in_a_background_job_stops_that_replica_and_no_other() {
    let cluster = node(Bug::Job);
    cluster.wait_until("it has something to persist", |cluster| {
        ask(&cluster.hosts[&1], GROUP, NO_SLOT, "x");
        cluster.hosts[&1].group_status(GROUP).expect("it is listed").failure.is_some()
    });
    one_stops_and_the_other_goes_on(&cluster, "the job has a bug");
}

#[test]
fn t4_a_panic_in_hashing_stops_that_replica_and_no_other() {
    let cluster = node(Bug::Hash);
    cluster.wait_until("a checkpoint is applied", |cluster| {
        let (answered, answer) = channel();
        cluster.hosts[&1].checkpoint(GROUP, move |answer| _ = answered.send(answer));
        answer.recv().expect("every request is answered");
        cluster.hosts[&1].group_status(GROUP).expect("it is listed").failure.is_some()
    });
    one_stops_and_the_other_goes_on(&cluster, "the hash has a bug");
}

#[test]
fn t4_a_panic_in_the_view_of_a_snapshot_stops_that_replica_and_no_other() {
    let mut cluster = node(Bug::Chunk);
    cluster.open(2).expect("a fresh directory");
    cluster.write("x");
    let add = MembershipChange::AddLearner { node: Cluster::node(2), raft_address: cluster.address(2) };
    cluster.hosts[&1].change_membership(GROUP, add, None, PATIENCE, |_| {});
    one_stops_and_the_other_goes_on(&cluster, "the view has a bug");
}

#[test]
fn t4_a_panic_outside_of_every_group_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        let cluster = Cluster::start(1);
        cluster
            .leader()
            .propose(GROUP, NO_SLOT, Payload::from("x"), PATIENCE, |_| panic!("nobody catches this"));
        // Ended before this is over, or not at all.
        std::thread::sleep(PATIENCE);
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::env::current_exe().expect("a test binary");
    let name = "panics::t4_a_panic_outside_of_every_group_ends_the_process";
    let child = Process::new(own)
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .env("TMPDIR", directory.path())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(SIGABRT), "{:?}: {said}", child.status);
    assert!(said.contains("nobody catches this"), "{said}");
}
