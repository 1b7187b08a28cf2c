// SPDX-License-Identifier: Apache-2.0

//! What a restart makes of an installation that a crash interrupted (rule N1, recovery), row by row, and what it refuses.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, MemoryDisk};
use mraft_kv::{MemoryKv, MemoryOptions};
use mraft_logstore::{LogOptions, SegmentLog};
use mraft_types::{
    DeploymentId, Entry, EntryKind, GroupId, Index, Member, NodeId, Payload, ReplicaId, Role, Term,
};

use super::*;
use crate::machines::{Command, InMemoryMachine, in_memory};
use crate::persist::{LogDone, LogHealth, LogWorker};

const GROUP: GroupId = GroupId(3);
/// The staged directory of the installation.
const STAGED: u64 = 7;
/// What the snapshot covers.
const SNAPSHOT: LogPosition = LogPosition { index: 20, term: 1 };

/// Has no content: these tests are about where a replica stands.
struct Empty;

impl InMemoryMachine for Empty {
    fn apply(&mut self, _command: &Command<'_>, _answer: &mut Vec<u8>) {}
    fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) {}
    fn save(&self, _state: &mut Vec<u8>) {}
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

type MakeMachine = fn(Arc<dyn Disk>, PathBuf) -> Box<dyn StateMachine>;

/// A machine that switches by a rename, and one with a pointer file.
const MACHINES: [MakeMachine; 2] = [
    |disk, directory| in_memory(disk, directory, 0, Empty),
    |disk, directory| Box::new(MemoryKv::new(disk, directory, MemoryOptions::default())),
];

fn genesis() -> GroupMeta {
    let replica = ReplicaId::new(0, NodeId::new(1).expect("a node id"));
    let member = Member { role: Role::Voter, raft_address: "h:1".to_owned() };
    let members = Membership { members: [(replica, member)].into(), ..Membership::default() };
    GroupMeta::genesis(DeploymentId(1), GROUP, members, SlotSet::default())
}

fn record() -> GroupRecord {
    let genesis = genesis();
    let replica = genesis.membership.replica_on(NodeId::new(1).expect("a node id")).expect("a member");
    GroupRecord { group: GROUP, uid: genesis.uid, replica, genesis: Some(genesis), machine: "m".to_owned() }
}

fn meta(position: LogPosition) -> GroupMeta {
    GroupMeta { applied: position, ..genesis() }
}

/// One replica's disk, and its process.
struct Node {
    disk: Arc<MemoryDisk>,
    make: MakeMachine,
    log: LogWorker,
    machine: Box<dyn StateMachine>,
}

impl Node {
    /// A replica with entries up to 4, none of which its store has.
    fn new(make: MakeMachine) -> Node {
        let disk = Arc::new(MemoryDisk::new());
        let mut log = open_log(&disk);
        let add = LogJob::Add { token: 0, replicas: vec![first_log(&record())] };
        run(&mut log, [add]);
        let mut machine = make(Arc::clone(&disk) as Arc<dyn Disk>, "/state".into());
        machine.open(None).expect("fresh");
        let mut node = Node { disk, make, log, machine };
        node.append(2..=4, None);
        node
    }

    fn write(&mut self, entries: Vec<Entry>, mark: Option<Mark>) {
        let hard_state = HardState { term: 1, vote: None, commit: 1 };
        let write = GroupWrite { key: log_key(&record()), hard_state, entries, mark };
        run(&mut self.log, [LogJob::Write { of: Incarnation { group: GROUP, number: 5 }, number: 1, write }]);
    }

    fn append(&mut self, indexes: std::ops::RangeInclusive<Index>, mark: Option<Mark>) {
        let entry = |index| Entry { index, term: 1, kind: EntryKind::Empty, payload: Payload::default() };
        self.write(indexes.map(entry).collect(), mark);
    }

    /// Steps 1 and 4: the snapshot is staged, the log knows of it.
    fn begin(&mut self) {
        let mut sender = (self.make)(Arc::new(MemoryDisk::new()), "/sender".into());
        sender.open(None).expect("fresh");
        let bytes = meta(SNAPSHOT).encode();
        sender.commit(SNAPSHOT.index, &bytes).expect("committed");
        let (mut view, mut chunk) = (sender.snapshot().expect("a view"), Vec::new());
        let mut stage = self.machine.stage(STAGED, &bytes).expect("a stage");
        while view.next_chunk(1 << 20, &mut chunk).expect("in memory") {
            stage.write_chunk(&chunk).expect("room");
            chunk.clear();
        }
        stage.finish().expect("whole");
        let start = meta(SNAPSHOT).log_start();
        self.write(Vec::new(), Some(Mark::InstallBegin { start, directory: STAGED }));
    }

    /// Step 5.
    fn switch(&mut self) {
        self.machine.switch(STAGED).expect("it is staged");
    }

    /// The store persists that it applied up to here.
    fn persist(&mut self, index: Index, term: Term) {
        let meta = meta(LogPosition { index, term }).encode();
        self.machine.commit(index, &meta).expect("committed");
        self.machine.persist().expect("room");
    }

    /// The power fails; the process starts again. What it found, and which mark it wrote before it began to run.
    fn restart(self) -> (Node, Raft, Option<Mark>) {
        let Node { disk, make, log, machine } = self;
        drop((log, machine));
        disk.crash(1);
        let mut log = open_log(&disk);
        let recovered = log.store().recovered().into_iter().next();
        let machine = make(Arc::clone(&disk) as Arc<dyn Disk>, "/state".into());
        let replica = restore(&config(), &record(), 5, recovered, machine).expect("nothing is damaged");
        let mark = replica.first.as_ref().map(|first| match first {
            LogJob::InstallStep { write, .. } => write.mark.clone().expect("a mark"),
            other => unreachable!("{other:?}"),
        });
        run(&mut log, replica.first);
        let raft = replica.seat.raft;
        let mut machine = make(Arc::clone(&disk) as Arc<dyn Disk>, "/state".into());
        machine.open(replica.discard).expect("opened");
        if let Some(directory) = replica.discard {
            machine.discard(directory).expect("it is nobody's");
        }
        (Node { disk, make, log, machine }, raft, mark)
    }

    fn staged_is_there(&self) -> bool {
        let names = self.disk.files().into_iter().map(|(path, _)| path.display().to_string());
        names.filter(|path| path.starts_with("/state")).any(|path| path.contains(&STAGED.to_string()))
    }
}

fn config() -> HostConfig {
    let node = NodeId::new(1).expect("a node id");
    HostConfig::new(DeploymentId(1), node, "127.0.0.1:1".to_owned(), "/".into())
}

fn open_log(disk: &Arc<MemoryDisk>) -> LogWorker {
    disk.create_dir_all(Path::new("/log")).expect("a directory");
    let options = LogOptions::new(1 << 20, Box::new(|| 7)).with_batch_bytes_max(1 << 18);
    let log =
        SegmentLog::open(Arc::clone(disk) as Arc<dyn Disk>, Path::new("/log"), options).expect("opened");
    LogWorker::new(Box::new(log))
}

fn run(log: &mut LogWorker, jobs: impl IntoIterator<Item = LogJob>) {
    let mut done: Vec<LogDone> = Vec::new();
    let (health, _) = log.run(jobs, &mut done);
    assert!(matches!(health, LogHealth::Well), "{health:?}");
}

#[test]
fn n1_an_installation_that_was_not_switched_to_is_forgotten_durably() {
    for make in MACHINES {
        let mut node = Node::new(make);
        node.begin();
        let (node, raft, mark) = node.restart();
        assert_eq!(mark, Some(Mark::InstallAbandoned));
        assert_eq!((raft.start().position.index, raft.last_index(), raft.applied()), (1, 4, 1));
        assert!(!node.staged_is_there());
        let (_, raft, mark) = node.restart();
        assert_eq!((mark, raft.last_index()), (None, 4), "once");
    }
}

#[test]
fn n1_an_installation_that_was_switched_to_is_ended() {
    for make in MACHINES {
        let mut node = Node::new(make);
        node.begin();
        node.switch();
        let (node, raft, mark) = node.restart();
        assert_eq!(mark, Some(Mark::InstallDone(meta(SNAPSHOT).log_start())));
        assert_eq!((raft.start().position, raft.last_index(), raft.applied()), (SNAPSHOT, 20, 20));
        let (_, raft, mark) = node.restart();
        assert_eq!((mark, raft.start().position), (None, SNAPSHOT), "once");
    }
}

#[test]
fn n1_an_installation_that_is_done_is_left_alone() {
    for make in MACHINES {
        let mut node = Node::new(make);
        node.begin();
        node.switch();
        node.write(Vec::new(), Some(Mark::InstallDone(meta(SNAPSHOT).log_start())));
        node.append(21..=22, None);
        let (_, raft, mark) = node.restart();
        assert_eq!((mark, raft.start().position, raft.last_index()), (None, SNAPSHOT, 22));
    }
}

#[test]
fn n1_entries_behind_an_abandoned_installation_are_not_voided() {
    for make in MACHINES {
        let mut node = Node::new(make);
        node.begin();
        let (mut node, ..) = node.restart();
        // It catches up by entries instead, its store persists exactly where the snapshot ended, and more is acknowledged.
        node.append(5..=20, None);
        node.persist(SNAPSHOT.index, SNAPSHOT.term);
        node.append(21..=22, None);
        let (_, raft, mark) = node.restart();
        assert_eq!((mark, raft.last_index(), raft.applied()), (None, 22, 20));
    }
}

#[test]
fn n1_an_installation_that_an_earlier_release_abandoned_voids_nothing() {
    for make in MACHINES {
        let mut node = Node::new(make);
        node.begin();
        // Discarded and not forgotten: the log still names it.
        node.machine.discard(STAGED).expect("it is nobody's");
        node.append(5..=20, None);
        node.persist(SNAPSHOT.index, SNAPSHOT.term);
        node.append(21..=22, None);
        let (_, raft, mark) = node.restart();
        assert_eq!((mark, raft.last_index()), (Some(Mark::InstallAbandoned), 22));
    }
}

#[test]
fn t3_a_state_of_a_higher_feature_level_is_not_started_and_says_which_build_it_needs() {
    for make in MACHINES {
        let mut node = Node::new(make);
        let meta = GroupMeta { feature_level: FEATURE_LEVEL + 1, ..meta(LogPosition { index: 2, term: 1 }) };
        node.machine.commit(2, &meta.encode()).expect("committed");
        node.machine.persist().expect("room");
        let machine = make(Arc::clone(&node.disk) as Arc<dyn Disk>, "/state".into());
        let recovered = node.log.store().recovered().into_iter().next();
        let error = restore(&config(), &record(), 5, recovered, machine).err().expect("refused").to_string();
        assert!(error.contains("feature level 2") && error.contains("run the newer release"), "{error}");
    }
}
