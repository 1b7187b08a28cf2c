// SPDX-License-Identifier: Apache-2.0

//! All that can happen to a replica, apart from the three calls that answer at once (`propose`, `propose_change`, `read`).

use std::fmt;

use mraft_types::{ChangeRefused, CondemnedReason, Entry, Index, LogStart, NodeId, ReplicaId, Term};

use crate::Message;

/// What came of reading old entries back. A log that cannot be read is none of these: it ends its replica (rule D10).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReadBack {
    /// Consecutive entries from the index asked for, at least one.
    Entries(Vec<Entry>),
    /// The log no longer has them: only a snapshot helps.
    Gone,
    /// Nobody had time to look: they are asked for again at the next tick.
    NotNow,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The logical clock moved by one.
    Tick {
        /// Number of this tick on this node; the same for all its groups.
        number: u64,
        /// A fresh draw; the next election timeout is made of the latest one.
        random: u64,
    },
    /// A peer said something. Nothing in it is trusted.
    Received(Message),
    /// Every [`crate::Write`] up to this number is durable (rules D4, D5).
    Persisted {
        /// The number.
        write: u64,
    },
    /// The state machine has applied and published everything up to here.
    Applied {
        /// The index.
        index: Index,
    },
    /// Answer to [`crate::Effect::ReadLog`].
    LogRead {
        /// The order that it answers.
        order: u64,
        /// For which follower.
        to: ReplicaId,
        /// What came of it.
        found: ReadBack,
    },
    /// A snapshot came in and lies staged and synced (rule N1, step 1).
    SnapshotReceived {
        /// The leader that sent it.
        from: ReplicaId,
        /// The leader's term when it sent it.
        term: Term,
        /// What it covers.
        start: LogStart,
    },
    /// The snapshot of [`crate::Effect::Install`] is installed, its checkpoint record durable (rule N1, step 6).
    SnapshotInstalled {
        /// What it covers.
        start: LogStart,
    },
    /// A part of the snapshot of [`crate::Effect::SendSnapshot`] was sent: its deadline begins anew (rule N2).
    SnapshotProgress {
        /// To whom.
        to: ReplicaId,
    },
    /// Sending the snapshot of [`crate::Effect::SendSnapshot`] ended.
    SnapshotSent {
        /// To whom.
        to: ReplicaId,
        /// Whether the receiver confirmed that it arrived whole.
        ok: bool,
    },
    /// The store has persisted this much; the log may forget entries up to here (rule D11). Always an applied position.
    Truncate {
        /// The new start of the log.
        start: LogStart,
    },
    /// Messages to this node may have been lost: its connection broke.
    PeerLost {
        /// The node.
        node: NodeId,
    },
    /// This node's process is suspected to be dead (rule T5): stickiness to a leader there ends.
    NodeSuspected {
        /// The node.
        node: NodeId,
        /// After how many ticks to campaign if it was the leader; staggered by the caller.
        campaign_after_ticks: u32,
    },
    /// A node's host says this of its life (rule Q2): a value that changes with each start of its process, and whenever a replica there
    /// stops leading, is condemned, ends, or commits a membership as leader. To be told of each node, the own one too, when it changes,
    /// and again whenever a membership was committed, since only that of members is remembered. Needed only with `quiesce_after_ticks`.
    PeerLife {
        /// The node.
        node: NodeId,
        /// What it says; `None` when it says nothing any more.
        life: Option<u64>,
        /// For how long it had said nothing until now, in ticks: for whoever this wakes, that much of the wait for a leader is over.
        silent_ticks: u32,
    },
    /// Hand leadership to this voter.
    TransferLeader {
        /// The voter.
        to: ReplicaId,
    },
    /// Never vote or acknowledge again (rule D9).
    Condemn {
        /// Why.
        reason: CondemnedReason,
    },
}

/// Why a proposal was not taken; nothing of it will ever be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProposeRefused {
    /// This replica does not lead; the leader it knows of.
    NotLeader(Option<ReplicaId>),
    /// Leadership is being handed to this voter.
    Transferring(ReplicaId),
    /// Too many bytes wait to be applied here.
    TooMuchUnapplied,
    /// The payload is larger than an entry may be, or empty.
    BadPayload,
}

/// Why a membership change was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeError {
    /// As for any proposal.
    Refused(ProposeRefused),
    /// The change itself is not possible.
    Impossible(ChangeRefused),
    /// Another change is not yet committed (rule M2).
    Pending(Index),
    /// The leader has not committed an entry of its term yet (rule M2); try again shortly.
    NotReady,
    /// The caller expected another ConfigChangeID than this one.
    Stale(Index),
    /// The learner lags behind the leader by this many entries; promoted too early, it could stop the group.
    NotCaughtUp(ReplicaId, u64),
    /// After it, too few of the voters that answer right now would be left for a majority.
    WouldLoseQuorum {
        /// Voters of the new membership that answered within the last election timeout.
        active: usize,
        /// What a majority of it takes.
        needed: usize,
    },
    /// The leader is to be removed or demoted: leadership is being handed over first; ask the new leader (rule M1).
    HandingOver(ReplicaId),
}

impl fmt::Display for ProposeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeRefused::NotLeader(Some(leader)) => write!(f, "replica {leader} leads"),
            ProposeRefused::NotLeader(None) => f.write_str("no leader is known"),
            ProposeRefused::Transferring(to) => write!(f, "leadership is being handed to replica {to}"),
            ProposeRefused::TooMuchUnapplied => f.write_str("too many bytes wait to be applied"),
            ProposeRefused::BadPayload => f.write_str("the payload is empty or larger than an entry may be"),
        }
    }
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Refused(refused) => refused.fmt(f),
            ChangeError::Impossible(refused) => refused.fmt(f),
            ChangeError::Pending(index) => {
                write!(f, "the membership change at index {index} is not committed yet")
            }
            ChangeError::NotReady => f.write_str("the leader has not committed an entry of its term yet"),
            ChangeError::Stale(index) => {
                write!(f, "the membership changed meanwhile; its ConfigChangeID is {index}")
            }
            ChangeError::NotCaughtUp(id, lag) => write!(f, "replica {id} lags {lag} entries behind"),
            ChangeError::WouldLoseQuorum { active, needed } => {
                write!(
                    f,
                    "only {active} of the voters that would be left answer, and a majority takes {needed}"
                )
            }
            ChangeError::HandingOver(to) => write!(f, "leadership is being handed to replica {to} first"),
        }
    }
}

impl std::error::Error for ProposeRefused {}
impl std::error::Error for ChangeError {}

/// Why a linearizable read cannot be served here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReadRefused {
    /// This replica does not lead; the leader it knows of.
    NotLeader(Option<ReplicaId>),
    /// This replica is condemned.
    Condemned,
}
