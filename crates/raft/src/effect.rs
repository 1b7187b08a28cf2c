// SPDX-License-Identifier: Apache-2.0

//! All that a replica asks for. What must be durable before an effect may leave is decided in the core: an effect that is
//! handed out may be carried out at once.

use mraft_types::{CondemnedReason, Entry, HardState, Index, LogStart, Membership, ReplicaId, Term};

use crate::Message;

/// Something to be done by the caller. Effects of one poll are carried out in order; answers come back as events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// May leave now. Everything durable that it claims is durable (rules D1, D2).
    Send(Message),
    /// To be made durable, in the order of their numbers; answered by `Event::Persisted`. Nothing else waits for it.
    Write(Write),
    /// Committed and durable here (rule D6): entries `first..=last` may be applied. Each index is handed out once, in order.
    Apply {
        /// First entry.
        first: Index,
        /// Last entry.
        last: Index,
    },
    /// Entries for a lagging follower that are no longer in memory; answered by `Event::LogRead`.
    ReadLog {
        /// Number of this order, to be repeated in the answer.
        order: u64,
        /// For whom.
        to: ReplicaId,
        /// First index.
        first: Index,
        /// Last index wanted.
        last: Index,
        /// Stop after so many payload bytes.
        max_bytes: usize,
    },
    /// The follower needs entries that the log no longer has: stream a snapshot that covers at least this index, answered by
    /// `Event::SnapshotSent`.
    SendSnapshot {
        /// To whom.
        to: ReplicaId,
        /// The least index it must cover.
        at_least: Index,
    },
    /// Install the staged snapshot: rule N1, steps 3 to 6; answered by `Event::SnapshotInstalled`. Until then the replica
    /// writes no entry and acknowledges nothing.
    Install {
        /// What it covers.
        start: LogStart,
    },
    /// The staged snapshot is not needed (rule N1, step 2): delete it.
    DropSnapshot {
        /// What it covers.
        start: LogStart,
    },
    /// A quorum confirmed after the round was sent that this leader leads: reads of this round may be served once everything
    /// up to `index` is applied (rules R1, R2).
    ReadReady {
        /// The round that `read` answered.
        round: u64,
        /// The commit index when the round was sent.
        index: Index,
    },
    /// Leadership ended before these rounds were confirmed: every round up to this one that was not ready is void.
    ReadsVoid {
        /// The last round.
        round: u64,
    },
    /// Who leads changed, as far as this replica knows, or its own role or term did.
    LeaderChanged {
        /// The leader.
        leader: Option<ReplicaId>,
        /// The term.
        term: Term,
    },
    /// This replica started an election, for this reason.
    ElectionStarted(ElectionReason),
    /// A membership entry was committed (the one in force may be newer, rule M2).
    MembershipCommitted(Membership),
    /// This replica may never vote or acknowledge again (rule D9).
    Condemned(CondemnedReason),
    /// A member said, from committed state, that this replica was removed (rule M5): it may be stopped and deleted.
    Removed {
        /// ConfigChangeID of the membership that does not contain it.
        change_index: Index,
    },
    /// A leadership transfer ended.
    TransferEnded {
        /// Whom it was meant for.
        to: ReplicaId,
        /// Whether this replica stopped leading because of it; `false` after the deadline of one election timeout.
        ok: bool,
    },
}

/// Why a replica campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ElectionReason {
    /// No leader was heard of for an election timeout.
    Timeout,
    /// The leader asked for it.
    Transfer,
    /// The leader's node is suspected to be dead (rule T5).
    Suspicion,
}

/// One write to the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Write {
    /// Number of this write, from 1, growing by 1 (rule D4).
    pub number: u64,
    /// The full hard state after it.
    pub hard_state: HardState,
    /// Consecutive entries; the first overwrites whatever stood at its index and above.
    pub entries: Vec<Entry>,
    /// The log's new start (truncation of the prefix), if any.
    pub truncate: Option<LogStart>,
    /// The reason, in the write that condemns this replica.
    pub condemned: Option<CondemnedReason>,
}
