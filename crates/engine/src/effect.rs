// SPDX-License-Identifier: Apache-2.0

//! All that an engine asks for. Effects of one turn are carried out in their order; each may be carried out at once, since what
//! must be durable first was waited for in the core.

use mraft_raft::Message;
use mraft_raft::effect::{ElectionReason, Write};
use mraft_types::{
    CondemnedReason, Entry, GroupId, GroupUid, Index, LogPosition, LogStart, Membership, NodeId, Payload,
    ReplicaId, Term,
};

use crate::comparison::StateHash;
use crate::error::{NotApplied, Unknown};
use crate::event::Ticket;

/// What became of a request (rule E3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The command was applied, with this result.
    Applied {
        /// Index and term of its entry.
        position: LogPosition,
        /// What the state machine answered.
        result: Payload,
    },
    /// The group's slots moved: the command was committed, but deterministically changed nothing (rule E5).
    Moved {
        /// The epoch of the group's slots.
        epoch: u64,
    },
    /// It was not applied and never will be.
    NotApplied(NotApplied),
    /// Whether it was or will be applied is not known.
    Unknown(Unknown),
    /// A read may be served from what is published now; the index that was confirmed.
    ReadReady {
        /// The index.
        index: Index,
    },
    /// The membership change is committed.
    Changed {
        /// Index and term of its entry.
        position: LogPosition,
        /// The membership after it; boxed, because answers are handed on by the million and hardly any is this one.
        membership: Box<Membership>,
    },
    /// Leadership was handed over.
    Transferred {
        /// To this voter.
        to: ReplicaId,
    },
}

/// The tickets that wait for the commands of one entry, in the order of the commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryTickets {
    /// The entry.
    pub position: LogPosition,
    /// One per command.
    pub tickets: Vec<Ticket>,
}

/// Committed, locally durable entries for a group's state machine (rule D6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyJob {
    /// First index.
    pub first: Index,
    /// Last index.
    pub last: Index,
    /// The entries; `None` when they are no longer in memory and must be read from the log.
    pub entries: Option<Vec<Entry>>,
    /// Who waits for which of them.
    pub tickets: Vec<EntryTickets>,
}

/// Something to be done for one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send to the node of the message's receiver.
    Send {
        /// The group's founding, for the envelope.
        uid: GroupUid,
        /// What to say.
        message: Message,
    },
    /// Make durable; answered by `Event::Persisted`.
    Write(Write),
    /// Apply; answered by `Event::Applied`, and the tickets directly.
    Apply(ApplyJob),
    /// Tell the leader what the state here hashes to at a checkpoint (rule E8). It may be lost.
    TellHash {
        /// The group's founding.
        uid: GroupUid,
        /// Who found it.
        from: ReplicaId,
        /// The leader.
        to: ReplicaId,
        /// What was found.
        hash: StateHash,
    },
    /// Answer a caller.
    Answer(Ticket, Answer),
    /// Read entries for a follower; answered by `Event::LogRead`.
    ReadLog {
        /// Number of this order, to be repeated in the answer.
        order: u64,
        /// For whom.
        to: ReplicaId,
        /// First index.
        first: Index,
        /// Last index.
        last: Index,
        /// Stop after so many payload bytes.
        max_bytes: usize,
    },
    /// Stream a snapshot; answered by `Event::SnapshotSent`.
    SendSnapshot {
        /// To whom.
        to: ReplicaId,
        /// Least index it must cover.
        at_least: Index,
        /// The sender's term.
        term: Term,
    },
    /// Install the staged snapshot (rule N1, steps 3 to 6); answered by `Event::SnapshotInstalled`.
    Install {
        /// What it covers.
        start: LogStart,
    },
    /// Delete the staged snapshot.
    DropSnapshot {
        /// What it covers.
        start: LogStart,
    },
    /// Tell whoever listens.
    Notice(Notice),
}

/// What a group has to tell: events, metrics and the node's address book are made of these.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// Who leads changed.
    LeaderChanged {
        /// The leader.
        leader: Option<ReplicaId>,
        /// The term.
        term: Term,
    },
    /// This replica campaigns.
    ElectionStarted(ElectionReason),
    /// A membership is committed.
    MembershipCommitted(Membership),
    /// The replica is condemned.
    Condemned(CondemnedReason),
    /// These replicas have another state than the majority; they condemn themselves (rule E8).
    Diverged {
        /// What the majority has.
        majority: StateHash,
        /// Who has not.
        others: Vec<ReplicaId>,
    },
    /// No majority of voters has the same state: the group does not serve (rule E8).
    Disputed {
        /// At this checkpoint.
        index: Index,
        /// Who found what.
        found: Vec<(ReplicaId, StateHash)>,
    },
    /// A majority has the same state again, and the group serves.
    Settled,
    /// The replica was removed from its group.
    Removed {
        /// Which one: by the time this is heard another may be here.
        replica: ReplicaId,
        /// ConfigChangeID of the membership without it.
        change_index: Index,
    },
    /// The group panicked and its state was discarded (rule T4).
    Panicked {
        /// What it said.
        message: String,
    },
    /// A message of another founding of this group came in.
    ForeignUid {
        /// From this node.
        node: NodeId,
        /// Its uid.
        theirs: GroupUid,
    },
}

/// An effect with the group that asks for it.
pub type GroupEffect = (GroupId, Effect);
