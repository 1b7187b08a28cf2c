// SPDX-License-Identifier: Apache-2.0

//! What the doors ask of a node: one narrow trait, and the errors that may come back.
//!
//! Arguments are borrowed for the call alone: an implementation encodes or copies what it needs before it returns the future, so that
//! a body is copied once, into the command. Every question has a deadline; the node answers by then with what it knows (rule E4: not
//! begun is [`NodeError::NotStarted`], begun is [`NodeError::Unknown`]). The doors wait a little longer than the deadline, for that
//! answer, and then say *unknown* themselves. Dropping a future means that nobody waits any more; it undoes nothing.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use mraft_api::{
    ChangeAnswer, ClearConflictAnswer, Condition, Consistency, GroupDetail, GroupSummary, NodeName,
    NodeStatus, RetireAnswer, Served, VerifyAnswer,
};
use mraft_types::{ChangeRefused, GroupId, Index, NodeId, Payload, ReplicaId};

/// The answer to come.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Box<Failure>>> + Send + 'static>>;

/// A node, as its doors see it.
pub trait Node: Send + Sync + 'static {
    /// Its id.
    fn id(&self) -> NodeId;

    /// Reads one key, here or at a holder (at most 2 hops).
    fn read(&self, key: &[u8], consistency: Consistency, deadline: Instant) -> Reply<ReadAnswer>;

    /// Does all operations or none, as one command of one slot: the doors have checked that all keys share it, and every size. One
    /// operation is a put or a delete, several are a batch.
    fn write(&self, operations: &[Operation<'_>], deadline: Instant) -> Reply<WriteAnswer>;

    /// The groups that may hold keys of this slot, or of any; the topology is a hint (rule E5).
    fn groups_of(&self, slot: Option<u16>) -> Vec<GroupId>;

    /// One page of one group's keys.
    fn scan(&self, page: PageRequest<'_>, consistency: Consistency, deadline: Instant) -> Reply<PageAnswer>;

    /// The node about itself.
    fn status(&self, deadline: Instant) -> Reply<NodeStatus>;

    /// Every group of the topology as far as it is known here, sorted by id.
    fn groups(&self, deadline: Instant) -> Reply<Vec<GroupSummary>>;

    /// One group, best from its leader.
    fn group(&self, group: GroupId, deadline: Instant) -> Reply<GroupDetail>;

    /// Changes a membership or the leader. Repeating a change that has happened is harmless and says `changed: false`.
    fn change(&self, group: GroupId, change: Change, deadline: Instant) -> Reply<ChangeAnswer>;

    /// Compares the content of a group's replicas (rule E8).
    fn verify(&self, group: GroupId, deadline: Instant) -> Reply<VerifyAnswer>;

    /// Writes a node's tombstone into every group (row S13). Refused while a group lists the node, and without `force` when nobody
    /// ever saw a node of that id.
    fn retire(&self, node: NodeId, force: bool, deadline: Instant) -> Reply<RetireAnswer>;

    /// Forgets, on this node alone, which directory another node is (rule M6). Refused while a group here lists that node.
    fn clear_conflict(&self, node: NodeId, deadline: Instant) -> Reply<ClearConflictAnswer>;

    /// Named checks; answers at once.
    fn health(&self) -> Health;

    /// Metrics in the OpenMetrics text format without the closing `# EOF`; series per group only if asked for. Answers at once; `None`
    /// when the node is told not to serve them.
    fn metrics(&self, per_group: bool) -> Option<String>;
}

/// One operation of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Writes a value.
    Put {
        /// Where; 1 byte to 4 KiB.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
        /// Only if.
        condition: Condition,
    },
    /// Deletes a key; of an absent one it changes nothing.
    Delete {
        /// Which.
        key: &'a [u8],
        /// Only if.
        condition: Condition,
    },
    /// Changes nothing; all happens only if the condition holds.
    Check {
        /// Of which key.
        key: &'a [u8],
        /// What must hold; never [`Condition::None`].
        condition: Condition,
    },
}

impl<'a> Operation<'a> {
    /// The key.
    pub fn key(&self) -> &'a [u8] {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key, .. } | Operation::Check { key, .. } => key,
        }
    }
}

/// A read key. The revision in `served` is the group's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// Who answered, of which state.
    pub served: Served,
    /// The key's revision and value; `None` when it does not exist.
    pub found: Option<Found>,
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The revision of its last write.
    pub revision: u64,
    /// Its value.
    pub value: Payload,
}

/// A write that was applied. The revision in `served` is the group's after it, the index that of its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteAnswer {
    /// Who answered, of which state.
    pub served: Served,
    /// One per operation.
    pub results: Vec<OperationResult>,
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// Written.
    Put {
        /// The key's new revision.
        revision: u64,
    },
    /// Deleted.
    Deleted {
        /// The group's revision at the deletion.
        revision: u64,
    },
    /// There was nothing to delete.
    NothingToDelete,
    /// A check that held.
    Checked,
}

/// Which part of a group's keys to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest<'a> {
    /// The group.
    pub group: GroupId,
    /// What the keys begin with; may be empty.
    pub prefix: &'a [u8],
    /// Only keys greater than this one.
    pub after: Option<&'a [u8]>,
    /// Entries at most, at least one.
    pub entries_max: usize,
    /// Bytes of keys and values at most; the first entry is given whatever it weighs.
    pub bytes_max: usize,
}

/// One page, all of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageAnswer {
    /// Who answered, of which state.
    pub served: Served,
    /// In bytewise order.
    pub entries: Vec<PageEntry>,
    /// Where to go on (as `after`) if there may be more.
    pub next: Option<Vec<u8>>,
}

/// One key of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of its last write.
    pub revision: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// A change of a group. `change_index`: only if this is still the index of the last membership change (ConfigChangeID).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a node as a learner and has it start a memberless replica (rule M4).
    AddLearner {
        /// The node.
        node: NodeId,
        /// Where it listens for peers.
        raft_address: String,
        /// Only if.
        change_index: Option<Index>,
    },
    /// Makes a learner a voter.
    Promote {
        /// Which.
        node: NodeName,
        /// Only if.
        change_index: Option<Index>,
    },
    /// Removes a member.
    Remove {
        /// Which.
        node: NodeName,
        /// Only if.
        change_index: Option<Index>,
    },
    /// Hands leadership to a voter.
    Transfer {
        /// To whom.
        node: NodeName,
    },
}

/// What `/livez` and `/readyz` show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The process is worth keeping when all of these pass.
    pub live: Vec<Check>,
    /// Clients should be sent here when these pass too.
    pub ready: Vec<Check>,
}

/// One named check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name: `log-disk`, `groups-have-leaders`, `draining`, …
    pub name: &'static str,
    /// Why it does not pass.
    pub failure: Option<String>,
}

/// An error, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub error: NodeError,
    /// The group that it is about.
    pub group: Option<GroupId>,
    /// The group's leader, if known.
    pub leader: Option<NodeId>,
    /// `host:port` of that leader's HTTP door, if known.
    pub leader_http: Option<String>,
}

impl From<NodeError> for Box<Failure> {
    fn from(error: NodeError) -> Box<Failure> {
        Box::new(Failure { error, group: None, leader: None, leader_http: None })
    }
}

impl Failure {
    /// The error in a group whose leader may be known.
    pub fn of_group(error: NodeError, group: GroupId, leader: Option<NodeId>) -> Box<Failure> {
        Box::new(Failure { error, group: Some(group), leader, leader_http: None })
    }
}

/// Why a node did not do it. `errors.rs` says what each becomes outside.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeError {
    /// No such group in the topology.
    GroupNotFound(GroupId),
    /// A condition did not hold; applied as a command that changed nothing.
    ConditionFailed {
        /// Who answered, of which state.
        served: Served,
        /// Which operation, from 0.
        operation: u32,
        /// The key's revision; `None` when it does not exist.
        current: Option<u64>,
    },
    /// Another operation excludes this one for now: which.
    Conflict(String),
    /// The membership does not allow the change.
    Change(ChangeRefused),
    /// The last membership change is another one than the caller knew of.
    ChangedMeanwhile {
        /// What the caller gave.
        expected: Index,
        /// What it is.
        current: Index,
    },
    /// The node takes no change that does not name the last membership change (`ordered_config_change`).
    ChangeIndexMissing,
    /// The voter did not take leadership over in time.
    TransferFailed(ReplicaId),
    /// Larger than it may be.
    TooLarge {
        /// What.
        what: &'static str,
        /// Its bytes.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// No holder of the group was found within this many hops.
    NoHolder {
        /// How many.
        hops: u8,
    },
    /// A queue is full.
    Overloaded {
        /// Which.
        queue: String,
        /// When to come back.
        retry_after: Duration,
    },
    /// The group has no leader, or none that can be reached.
    NoLeader,
    /// Leadership is being handed over.
    Transferring(ReplicaId),
    /// The slot belongs to another group since this epoch (rule E5).
    Moved {
        /// The epoch of the group's slots.
        epoch: u64,
    },
    /// Another leader's entry took its place in the log (rule E3).
    Superseded,
    /// The node or the replica is stopping.
    Stopping,
    /// The replica cannot serve: condemned, failed, or waiting for its state; why.
    ReplicaUnfit(String),
    /// The disk is full.
    DiskFull(String),
    /// The disk is slow or does not answer (rule T1).
    DiskStalled(String),
    /// The deadline passed before anything was proposed or sent on.
    NotStarted,
    /// It was proposed or sent on, and what became of it is not known: why.
    Unknown(String),
    /// Groups here list the node, so which directory it is stays known (rule M6).
    NodeListed {
        /// The node.
        node: NodeId,
        /// The groups.
        groups: Vec<GroupId>,
    },
    /// Refused for another reason, which no retry changes.
    Refused(String),
    /// Comes with a later release: what.
    NotInThisRelease(&'static str),
    /// A defect: what was found.
    Internal(String),
}
