// SPDX-License-Identifier: Apache-2.0

//! What a replica is told when it is made.

use std::fmt;

use mraft_types::{CondemnedReason, HardState, Index, LogPosition, LogStart, Membership, ReplicaId, Term};

/// Settings of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// This replica.
    pub id: ReplicaId,
    /// Election timeouts are drawn from `election_ticks..2 * election_ticks`; must exceed `2 * heartbeat_ticks`.
    pub election_ticks: u32,
    /// A leader sends heartbeats on the first tick in every span of so many numbers, so that the heartbeats of all groups share a frame;
    /// at least 1.
    pub heartbeat_ticks: u32,
    /// Whether a leader steps down when it has not heard from a quorum for one election timeout.
    pub check_quorum: bool,
    /// Most payload bytes in one append message; one larger entry still travels alone.
    pub append_bytes_max: usize,
    /// Most payload bytes on the way to one follower without an answer.
    pub inflight_bytes_max: usize,
    /// Most append messages on the way to one follower without an answer.
    pub inflight_messages_max: usize,
    /// Proposals are refused while entries that this replica has not applied weigh more than this (MaxInMemLogSize).
    pub unapplied_bytes_max: usize,
    /// Entries that are applied and durable stay in memory for followers until they weigh more than this.
    pub cache_bytes_max: usize,
    /// A follower that is being sent a snapshot is given up on when nothing of it was sent for this many ticks (rule N2).
    pub snapshot_deadline_ticks: u32,
    /// A leader that had nothing to do for so many ticks lets its group fall asleep (rules Q1 to Q3), if all members have this set and the
    /// lives of their nodes are told ([`crate::Event::PeerLife`]); `None` for never.
    pub quiesce_after_ticks: Option<u32>,
}

/// What a replica remembers from before it was (re)started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Restored {
    /// The durable hard state.
    pub hard_state: HardState,
    /// Where the log begins. A memberless replica (rule M4) has the default start: position 0, no members.
    pub start: LogStart,
    /// Last index of the log.
    pub last_index: Index,
    /// Terms as runs (first index, term), ascending, from `start.position.index` on.
    pub terms: Vec<(Index, Term)>,
    /// Memberships of entries of the log, ascending.
    pub memberships: Vec<(Index, Membership)>,
    /// What the state machine has persisted (rule D8).
    pub applied: LogPosition,
    /// Set when this replica may never vote or acknowledge again (rule D9).
    pub condemned: Option<CondemnedReason>,
}

/// Arguments of [`crate::Raft::new`] that contradict themselves. A log that lost something is not one of these: that condemns
/// the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestoreError {
    /// `election_ticks` must exceed twice `heartbeat_ticks`, which must be at least 1.
    BadTicks {
        /// What `election_ticks` was.
        election_ticks: u32,
        /// What `heartbeat_ticks` was.
        heartbeat_ticks: u32,
    },
    /// The log ends before it begins.
    LastBelowStart {
        /// Last index.
        last: Index,
        /// Index of the start.
        start: Index,
    },
    /// The runs of terms are not ascending or do not cover the log; the index of the run that is wrong.
    BadTerms(Index),
    /// The memberships are not ascending or not inside the log; the index of the one that is wrong.
    BadMemberships(Index),
    /// An index or term is above 2^62, where arithmetic on it could overflow.
    TooLarge(u64),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::BadTicks { election_ticks, heartbeat_ticks } => write!(
                f,
                "election_ticks {election_ticks} must exceed twice heartbeat_ticks {heartbeat_ticks}, which must be at least 1"
            ),
            RestoreError::LastBelowStart { last, start } => {
                write!(f, "the log ends at {last} but begins behind {start}")
            }
            RestoreError::BadTerms(index) => {
                write!(f, "the run of terms at index {index} does not fit the log")
            }
            RestoreError::BadMemberships(index) => {
                write!(f, "the membership at index {index} does not fit the log")
            }
            RestoreError::TooLarge(value) => write!(f, "{value} is too large for an index or a term"),
        }
    }
}

impl std::error::Error for RestoreError {}
