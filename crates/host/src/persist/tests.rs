// SPDX-License-Identifier: Apache-2.0

//! The log worker over a small log: what goes through when the disk is full, and whose mistake stops whom.

use std::path::Path;
use std::sync::Arc;

use mraft_disk::memory::Faults;
use mraft_disk::{Disk, MemoryDisk};
use mraft_logstore::{LogOptions, SegmentLog};
use mraft_types::{
    Entry, EntryKind, GroupId, GroupUid, Index, LogPosition, Member, Membership, NodeId, Payload, ReplicaId,
    Role,
};

use super::*;

const SEGMENT_BYTES: u64 = 1 << 20;
const ENTRY_BYTES: usize = 64 << 10;
/// More rounds of writing and tidying than anything here needs.
const ROUNDS_MAX: usize = 200;

struct Node {
    disk: Arc<MemoryDisk>,
    worker: LogWorker,
    done: Vec<LogDone>,
    /// Numbers the writes of all groups.
    number: u64,
}

fn key(group: u64) -> LogKey {
    let replica = ReplicaId::new(0, NodeId::new(1).expect("a node id"));
    LogKey { group: GroupId(group), uid: GroupUid([group as u8; 16]), replica }
}

fn start(index: Index) -> LogStart {
    LogStart { position: LogPosition { index, term: 1 }, ..LogStart::default() }
}

fn entries(indexes: std::ops::RangeInclusive<Index>) -> Vec<Entry> {
    let entry = |index| Entry {
        index,
        term: 1,
        kind: EntryKind::Commands,
        payload: Payload::from(vec![b'x'; ENTRY_BYTES]),
    };
    indexes.map(entry).collect()
}

fn write(group: u64, term: u64, entries: Vec<Entry>, mark: Option<Mark>) -> GroupWrite {
    GroupWrite { key: key(group), hard_state: HardState { term, vote: None, commit: 0 }, entries, mark }
}

impl Node {
    /// With these groups, which have empty logs.
    fn new(groups: &[u64]) -> Node {
        let disk = Arc::new(MemoryDisk::new());
        let directory = Path::new("/log");
        disk.create_dir_all(directory).expect("a directory");
        let options = LogOptions::new(SEGMENT_BYTES, Box::new(|| 7)).with_batch_bytes_max(1 << 18);
        let log = SegmentLog::open(Arc::clone(&disk) as Arc<dyn Disk>, directory, options).expect("opened");
        let worker = LogWorker::new(Box::new(log)).with_batch_bytes_target(1 << 17);
        let mut node = Node { disk, worker, done: Vec::new(), number: 0 };
        let added = |group: &u64| (key(*group), LogStart::default(), HardState::default());
        let add = LogJob::Add { token: 0, replicas: groups.iter().map(added).collect() };
        assert!(matches!(node.run([add]), LogHealth::Well));
        node.done.clear();
        node
    }

    fn run(&mut self, jobs: impl IntoIterator<Item = LogJob>) -> LogHealth {
        self.worker.run(jobs, &mut self.done).0
    }

    fn job(&mut self, write: GroupWrite) -> LogJob {
        self.number += 1;
        LogJob::Write { of: Incarnation { group: write.key.group, number: 5 }, number: self.number, write }
    }

    fn write(&mut self, write: GroupWrite) -> LogHealth {
        let job = self.job(write);
        self.run([job])
    }

    /// The disk may not grow any more: the segment in use, the next one and the reserve are all there is.
    fn fill_disk(&mut self) {
        assert!(matches!(self.write(write(1, 1, vec![], None)), LogHealth::Well));
        while self.worker.maintain().1 {}
        let used = self.disk.files().iter().map(|(_, bytes)| bytes).sum();
        self.disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    }

    /// Writes a group's entries until one waits for room. The last index that is durable.
    fn fill_log(&mut self, group: u64, first: Index) -> Index {
        for index in first.. {
            match self.write(write(group, 1, entries(index..=index), None)) {
                LogHealth::Well => {}
                LogHealth::Full => return index - 1,
                LogHealth::Failed(error) => panic!("{error}"),
            }
        }
        first
    }

    /// What became durable since it was last asked: groups with the numbers of their writes.
    fn persisted(&mut self) -> Vec<(u64, u64)> {
        let persisted = |done| match done {
            LogDone::Persisted { of, number } => (of.group.0, number),
            other => panic!("{other:?}"),
        };
        self.done.drain(..).map(persisted).collect()
    }

    /// As the log thread does while something waits.
    fn until_well(&mut self) {
        for _ in 0..ROUNDS_MAX {
            match self.run([]) {
                LogHealth::Well => return,
                LogHealth::Full => _ = self.worker.maintain(),
                LogHealth::Failed(error) => panic!("{error}"),
            }
        }
        panic!("it did not clear");
    }
}

#[test]
fn d10_a_replica_that_finds_the_disk_full_is_added_when_there_is_room() {
    let mut node = Node::new(&[]);
    let used = node.disk.files().iter().map(|(_, bytes)| bytes).sum();
    node.disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    let add = LogJob::Add { token: 9, replicas: vec![(key(1), LogStart::default(), HardState::default())] };
    let health = node.run([add]);
    assert!(matches!(health, LogHealth::Full) && node.done.is_empty(), "{health:?} {:?}", node.done);
    node.disk.set_faults(Faults::default());
    assert!(matches!(node.run([]), LogHealth::Well));
    assert!(matches!(node.done[..], [LogDone::Added { token: 9 }]), "{:?}", node.done);
}

#[test]
fn d10_a_vote_goes_ahead_of_another_replicas_entries_and_behind_its_own() {
    let mut node = Node::new(&[1, 2]);
    node.fill_disk();
    node.fill_log(1, 1);
    let stuck = node.number;
    node.persisted();
    let votes = [node.job(write(1, 2, vec![], None)), node.job(write(2, 2, vec![], None))];
    assert!(matches!(node.run(votes), LogHealth::Full));
    assert_eq!(node.persisted(), [(2, stuck + 2)], "only the vote that has no entry of its own in front");
    node.disk.set_faults(Faults::default());
    assert!(matches!(node.run([]), LogHealth::Well));
    assert_eq!(node.persisted(), [(1, stuck), (1, stuck + 1)]);
}

#[test]
fn d10_the_reserve_is_for_votes_however_long_entries_wait() {
    let mut node = Node::new(&[1, 2]);
    node.fill_disk();
    let last = node.fill_log(1, 1);
    node.persisted();
    // Each is sealed, and tidying is tried each time: what carrying may take of the reserve is gone, the other half is not.
    let turns = SEGMENT_BYTES / 2 / (2 * 4096) - 1;
    for turn in 0..turns {
        let more = node.job(write(1, 1, entries(last + 2 + turn..=last + 2 + turn), None));
        let vote = node.job(write(2, 2 + turn, vec![], None));
        let number = node.number;
        assert!(matches!(node.run([more, vote]), LogHealth::Full), "turn {turn}");
        assert_eq!(node.persisted(), [(2, number)], "turn {turn} of {turns}");
        node.worker.maintain();
        assert!(node.worker.seal().1, "turn {turn}");
    }
}

#[test]
fn d10_a_truncation_goes_ahead_of_its_own_replicas_entries_and_a_full_log_clears_by_itself() {
    let mut node = Node::new(&[1]);
    node.fill_disk();
    let last = node.fill_log(1, 1);
    let stuck = node.number;
    node.persisted();
    let truncation = write(1, 1, vec![], Some(Mark::Truncate(start(last))));
    assert!(matches!(node.write(truncation), LogHealth::Full));
    assert_eq!(node.persisted(), [], "nothing is said to be durable before what was asked for earlier");
    node.until_well();
    assert_eq!(node.persisted(), [(1, stuck), (1, stuck + 1)]);
}

#[test]
fn d10_an_idle_replica_does_not_keep_a_full_log_from_clearing_by_itself() {
    let mut node = Node::new(&[1, 2]);
    node.write(write(2, 1, entries(1..=1), None));
    node.fill_disk();
    let last = node.fill_log(1, 1);
    let stuck = node.number;
    node.persisted();
    node.write(write(1, 1, vec![], Some(Mark::Truncate(start(last)))));
    node.until_well();
    assert_eq!(node.persisted(), [(1, stuck), (1, stuck + 1)]);
    let kept = node.worker.store().reader().entries(key(2), 1, 1, 1 << 20).expect("carried");
    assert_eq!(kept, entries(1..=1));
}

#[test]
fn d10_a_segment_that_was_filled_counts_although_entries_wait() {
    let mut node = Node::new(&[1]);
    while node.worker.maintain().1 {}
    // One file more than there is, and it is filled by somebody else.
    let fill = loop {
        node.number += 1;
        let index = node.number;
        assert!(matches!(node.write(write(1, 1, entries(index..=index), None)), LogHealth::Well));
        node.number = index;
        if let (_, Some(fill)) = node.worker.lend_fill() {
            break fill;
        }
    };
    let filled = fill.run();
    let used = node.disk.files().iter().map(|(_, bytes)| bytes).sum();
    node.disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    let next = node.number + 1;
    node.fill_log(1, next);
    assert!(matches!(node.run([LogJob::Filled(filled)]), LogHealth::Well));
}

#[test]
fn a_write_of_a_replica_that_was_removed_meanwhile_concerns_nobody() {
    let mut node = Node::new(&[1, 2]);
    let remove = LogJob::Remove { token: 5, key: key(1) };
    let late = node.job(write(1, 2, vec![], None));
    let other = node.job(write(2, 2, vec![], None));
    assert!(matches!(node.run([remove, late, other]), LogHealth::Well));
    let [
        LogDone::Removed { token: 5 },
        LogDone::Persisted { of: Incarnation { group: GroupId(2), .. }, number: 2 },
    ] = node.done[..]
    else {
        panic!("{:?}", node.done)
    };
}

#[test]
fn a_write_that_breaks_a_rule_of_the_log_stops_its_own_replica_only() {
    let mut node = Node::new(&[1, 2, 3]);
    let jobs = [
        node.job(write(1, 2, vec![], None)),
        node.job(write(2, 2, entries(7..=7), None)),
        node.job(write(2, 3, vec![], None)),
        node.job(write(3, 2, vec![], None)),
    ];
    assert!(matches!(node.run(jobs), LogHealth::Well));
    let refused = node.done.extract_if(.., |done| matches!(done, LogDone::Refused { .. }));
    let refused: Vec<LogDone> = refused.collect();
    assert!(matches!(&refused[..], [LogDone::Refused { key, .. }] if key.group == GroupId(2)), "{refused:?}");
    assert_eq!(node.persisted(), [(1, 1), (3, 4)], "nothing behind a gap is called durable");
    assert!(matches!(node.write(write(2, 4, vec![], None)), LogHealth::Well));
    assert_eq!(node.persisted(), []);
}

#[test]
fn l6_truncations_of_many_groups_with_large_memberships_fit_their_batches() {
    let groups: Vec<u64> = (1..=100).collect();
    let mut node = Node::new(&groups);
    let member = |id| {
        let raft_address = "h".repeat(200);
        (ReplicaId::new(0, NodeId::new(id).expect("an id")), Member { role: Role::Voter, raft_address })
    };
    let membership = Membership { members: (1..=64).map(member).collect(), ..Membership::default() };
    for group in &groups {
        node.write(write(*group, 1, entries(1..=1), None));
    }
    node.persisted();
    let truncate = Mark::Truncate(LogStart { membership, ..start(1) });
    let jobs: Vec<LogJob> =
        groups.iter().map(|group| node.job(write(*group, 1, vec![], Some(truncate.clone())))).collect();
    let health = node.run(jobs);
    assert!(matches!(health, LogHealth::Well), "{health:?}");
    assert_eq!(node.persisted().len(), groups.len());
}

/// What the log says of a group's replica; no reply while the question waits for something.
fn find(node: &mut Node, group: u64) -> (LogHealth, Option<Option<Recovered>>) {
    let (reply, found) = std::sync::mpsc::sync_channel(1);
    let health = node.run([LogJob::Find { token: 9, key: key(group), reply }]);
    (health, found.try_recv().ok())
}

#[test]
fn a_question_what_the_log_holds_is_answered_behind_everything_that_was_handed_in_before() {
    let mut node = Node::new(&[1, 2]);
    let first = node.job(write(1, 1, entries(1..=1), None));
    let (reply, found) = std::sync::mpsc::sync_channel(1);
    let question = LogJob::Find { token: 9, key: key(1), reply };
    let second = node.job(write(1, 2, entries(2..=2), None));
    node.run([first, question, second]);
    let found = found.try_recv().expect("answered").expect("known");
    assert_eq!((found.last_index, found.hard_state.term), (1, 1));
    assert!(
        matches!(
            node.done[..],
            [LogDone::Persisted { .. }, LogDone::Found { token: 9 }, LogDone::Persisted { .. }]
        ),
        "{:?}",
        node.done
    );
    let (_, unknown) = find(&mut node, 7);
    assert_eq!(unknown, Some(None));
    // A gap: the log refuses it, and with it everything more of this replica.
    node.write(write(2, 1, entries(5..=5), None));
    let (_, refused) = find(&mut node, 2);
    assert_eq!(refused, Some(None));
}

#[test]
fn d10_a_question_about_a_replica_whose_entries_wait_for_room_waits_with_them() {
    let mut node = Node::new(&[1, 2]);
    node.fill_disk();
    let last = node.fill_log(1, 1);
    node.done.clear();
    let (reply, found) = std::sync::mpsc::sync_channel(1);
    assert!(matches!(node.run([LogJob::Find { token: 9, key: key(1), reply }]), LogHealth::Full));
    assert!(found.try_recv().is_err(), "entry {} is not durable", last + 1);
    let (_, other) = find(&mut node, 2);
    assert_eq!(other.flatten().expect("known").last_index, 0);
    node.disk.set_faults(Faults::default());
    node.until_well();
    let found = found.try_recv().expect("answered").expect("known");
    assert_eq!(found.last_index, last + 1);
}
