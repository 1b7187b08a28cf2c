// SPDX-License-Identifier: Apache-2.0

//! All that can happen to an engine.

use mraft_raft::{Message, ReadBack};
use mraft_types::{
    CondemnedReason, GroupId, GroupUid, Index, LogStart, MembershipChange, NodeId, Payload, ReplicaId, Term,
};

use crate::comparison::{Dispute, StateHash};

/// Names a caller's request; opaque to the engine, unique among the requests of one caller that are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The time of a turn, told by the caller: nothing in here asks a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Number of the current tick; deadlines are ticks.
    pub tick: u64,
    /// Milliseconds of a clock that never goes back and does not count pauses of its source.
    pub monotonic_ms: u64,
    /// Wall clock, milliseconds since 1970; may be wrong (rule E1).
    pub unix_ms: u64,
}

/// A command on its way into a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whom to answer.
    pub ticket: Ticket,
    /// The slot it belongs to, or [`crate::packing::NO_SLOT`].
    pub slot: u16,
    /// The tick after which nobody waits any more.
    pub deadline_tick: u64,
    /// The command.
    pub body: Payload,
}

/// What a read waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// A confirmed round, and that its index is applied here: the caller then looks up locally.
    Linearizable,
    /// A confirmed round only: a follower asked for the index and waits by itself (rule R3).
    IndexOnly,
    /// That this index, learned from the leader, is applied here (rule R3).
    AppliedThrough(Index),
}

/// Something happened to one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer's replica said something.
    Message {
        /// The founding that the sender's envelope names; another one than ours is refused.
        uid: GroupUid,
        /// What it said.
        message: Message,
    },
    /// Commands to be written.
    Propose(Vec<Proposal>),
    /// Asks for a checkpoint entry (rule E8).
    ProposeCheckpoint(Ticket),
    /// Linearizable reads that share a round.
    Read {
        /// What they wait for.
        kind: ReadKind,
        /// Whom to answer.
        tickets: Vec<Ticket>,
        /// The tick after which nobody waits any more.
        deadline_tick: u64,
    },
    /// A membership change, one at a time.
    Change {
        /// Whom to answer.
        ticket: Ticket,
        /// The change.
        change: MembershipChange,
        /// The ConfigChangeID that the caller looked at; `None` to accept any.
        expected_change_index: Option<Index>,
        /// The tick after which nobody waits any more.
        deadline_tick: u64,
    },
    /// Hand leadership over.
    Transfer {
        /// Whom to answer.
        ticket: Ticket,
        /// The voter to lead; `None` for the best one.
        to: Option<ReplicaId>,
    },
    /// All writes of this group up to this number are durable.
    Persisted {
        /// The number.
        write: u64,
    },
    /// The state machine applied and published everything up to here.
    Applied {
        /// The index.
        index: Index,
        /// What the log up to there says that the replicas do not agree on (rule E8).
        disputed: Option<Dispute>,
    },
    /// The state here hashes to this at a checkpoint (rule E8).
    Hashed(StateHash),
    /// Another replica says what it found at a checkpoint.
    PeerHashed {
        /// The founding that it names.
        uid: GroupUid,
        /// Who.
        from: ReplicaId,
        /// What it found.
        hash: StateHash,
    },
    /// Answer to [`crate::effect::Effect::ReadLog`].
    LogRead {
        /// The order that it answers.
        order: u64,
        /// For which follower.
        to: ReplicaId,
        /// What came of it.
        found: ReadBack,
    },
    /// A snapshot lies staged and synced.
    SnapshotReceived {
        /// The leader that sent it.
        from: ReplicaId,
        /// Its term then.
        term: Term,
        /// What it covers.
        start: LogStart,
    },
    /// The snapshot is installed.
    SnapshotInstalled {
        /// What it covers.
        start: LogStart,
    },
    /// A part of a snapshot was sent.
    SnapshotProgress {
        /// To whom.
        to: ReplicaId,
    },
    /// Sending a snapshot ended.
    SnapshotSent {
        /// To whom.
        to: ReplicaId,
        /// Whether it arrived whole.
        ok: bool,
    },
    /// The store persisted up to here: the log may forget entries up to this index.
    Truncate {
        /// The index.
        index: Index,
    },
    /// Never take part again.
    Condemn {
        /// Why.
        reason: CondemnedReason,
    },
}

impl Event {
    /// Whoever waits for an answer to it.
    pub fn into_tickets(self) -> Vec<Ticket> {
        match self {
            Event::Propose(proposals) => proposals.into_iter().map(|proposal| proposal.ticket).collect(),
            Event::Read { tickets, .. } => tickets,
            Event::Change { ticket, .. }
            | Event::Transfer { ticket, .. }
            | Event::ProposeCheckpoint(ticket) => vec![ticket],
            Event::Message { .. }
            | Event::Persisted { .. }
            | Event::Applied { .. }
            | Event::Hashed(_)
            | Event::PeerHashed { .. }
            | Event::LogRead { .. }
            | Event::SnapshotReceived { .. }
            | Event::SnapshotInstalled { .. }
            | Event::SnapshotProgress { .. }
            | Event::SnapshotSent { .. }
            | Event::Truncate { .. }
            | Event::Condemn { .. } => Vec::new(),
        }
    }
}

/// Something happened to the node, and so to all its groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeEvent {
    /// The logical clock moved; [`Now::tick`] is its number.
    Tick {
        /// A fresh draw, spread over the groups.
        random: u64,
    },
    /// The connection to this node broke.
    PeerLost {
        /// The node.
        node: NodeId,
    },
    /// This node's process is suspected to be dead (rule T5).
    NodeSuspected {
        /// The node.
        node: NodeId,
    },
    /// A node says this of its life (rule Q2). To be told again and again, also of the own node: who is not heard of for one election
    /// timeout counts as silent.
    PeerLife {
        /// The node.
        node: NodeId,
        /// A value that changes with each start of the node's process and with each [`crate::Engine::epoch`] of any of its engines: of
        /// their sum, say. It must come from where groups take their turns: a host that talks on while those hang would keep the others
        /// asleep.
        life: u64,
    },
    /// A peer's wall clock, as its last host heartbeat told it, for the median of rule E1.
    PeerClock {
        /// The node.
        node: NodeId,
        /// Its clock now, milliseconds since 1970.
        unix_ms: u64,
    },
}

/// An event with the group it happened to.
pub type GroupEvent = (GroupId, Event);
