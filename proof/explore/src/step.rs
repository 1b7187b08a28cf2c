// SPDX-License-Identifier: Apache-2.0

//! All that can happen to one replica, and what can follow.

use std::sync::Arc;

use mraft_raft::{Effect, Message};
use mraft_types::{Entry, Index, LogPosition, LogStart, MembershipChange, NodeId, ReplicaId, Term};

use crate::broken::Broken;
use crate::disk::Snapshot;

/// What travels between replicas. Snapshots go beside the messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Parcel {
    /// A message of the core.
    Message(Message),
    /// A snapshot, whole.
    Snapshot {
        /// The leader that sends it.
        from: ReplicaId,
        /// Its receiver.
        to: ReplicaId,
        /// The leader's term when it was ordered.
        term: Term,
        /// What it holds.
        snapshot: Arc<Snapshot>,
    },
    /// The receiver has all of a snapshot.
    Arrived {
        /// The receiver.
        from: ReplicaId,
        /// The sender.
        to: ReplicaId,
        /// What the snapshot covers.
        position: LogPosition,
    },
}

impl Parcel {
    /// Who sent it.
    pub fn from(&self) -> ReplicaId {
        match self {
            Parcel::Message(message) => message.from,
            Parcel::Snapshot { from, .. } | Parcel::Arrived { from, .. } => *from,
        }
    }

    /// Whom it is for.
    pub fn to(&self) -> ReplicaId {
        match self {
            Parcel::Message(message) => message.to,
            Parcel::Snapshot { to, .. } | Parcel::Arrived { to, .. } => *to,
        }
    }
}

/// What can happen to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Something arrives.
    Deliver(&'a Parcel),
    /// The oldest order that is not durable becomes so, and the replica hears of it.
    Persist,
    /// Everything handed out is applied.
    Apply,
    /// Everything that followed from earlier steps is carried out (only where turns take in several events).
    Poll,
    /// Time passes until it asks for votes.
    Campaign,
    /// Time passes until it would no longer stand by its leader, but not until it campaigns.
    Doubt,
    /// A tick of this number, with this draw; in calm weather only.
    Tick(u64, u64),
    /// Time passes until a leader sends heartbeats.
    Beat,
    /// A client's command.
    Propose,
    /// A client's linearizable read.
    Read,
    /// An operator's change.
    Change(&'a MembershipChange),
    /// An operator hands leadership over.
    Transfer(ReplicaId),
    /// The store persists, and the log forgets all but the last few entries of that.
    Truncate {
        /// How many applied entries stay.
        keep: u64,
    },
    /// A snapshot that is being sent to this peer fails.
    SnapshotFails(ReplicaId),
    /// The connection to this node breaks.
    PeerLost(NodeId),
    /// Its disk is replaced by one of the genesis, and it knows that it lost what it had (rule D9).
    LoseDisk(&'a LogStart),
    /// A power cut and a restart.
    Crash {
        /// How many of the orders that were not reported durable are, all the same.
        kept: usize,
        /// Whether the store has persisted everything that it applied, rather than nothing new.
        applied: bool,
    },
}

/// What others may rely on from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It leads this term.
    Leads(Term),
    /// It knows in this term that this entry is committed, or applies it.
    Committed(Term, Entry),
    /// This vote of this term left.
    Voted(Term, ReplicaId),
    /// A read began and joined this round.
    ReadBegan(u64),
    /// Reads of this round are served at this index.
    ReadServed(u64, Index),
    /// Rounds up to this one will never be served.
    ReadsVoid(u64),
    /// It was told that it is removed, and is gone.
    Gone,
    /// It restarted: what it had not made durable is forgotten.
    Restarted,
}

/// What followed from a step.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// What left.
    pub sent: Vec<Parcel>,
    /// What others may rely on.
    pub facts: Vec<Fact>,
    /// Everything that the core asked for, when somebody wants to read it.
    pub effects: Option<Vec<Effect>>,
}

/// How a world's hosts work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosting {
    /// Writes are durable at once; otherwise each waits for its own step.
    pub disk_at_once: bool,
    /// What is handed out is applied at once; otherwise that waits for its own step.
    pub apply_at_once: bool,
    /// The core is polled after every event; otherwise that waits for its own step, and a turn takes in several.
    pub poll_at_once: bool,
}

/// Why a step has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Not {
    /// It cannot happen now, or would change nothing that matters.
    Possible,
    /// A promise was broken.
    Kept(Broken),
}

impl From<Broken> for Not {
    fn from(broken: Broken) -> Not {
        Not::Kept(broken)
    }
}
