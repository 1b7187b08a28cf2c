// SPDX-License-Identifier: Apache-2.0

//! Log entries and the hard state.

use std::fmt;

use crate::{Membership, Payload, ReplicaId};

/// Position of an entry in a group's log, from 1. Index 0 is "before the log"; the genesis snapshot stands at 1 (rule M4).
pub type Index = u64;

/// Raft term, from 1. Term 0 is "before any election".
pub type Term = u64;

/// What an entry's payload is. The numbers are persisted and sent; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// No payload: what a new leader appends to commit an entry of its term.
    Empty = 0,
    /// Packed commands (rule E1), opaque to the consensus core.
    Commands = 1,
    /// A [`crate::Membership`] that is in force from the moment it is appended (rule M2).
    Membership = 2,
}

impl EntryKind {
    /// The kind behind a persisted number.
    pub fn from_byte(byte: u8) -> Option<EntryKind> {
        match byte {
            0 => Some(EntryKind::Empty),
            1 => Some(EntryKind::Commands),
            2 => Some(EntryKind::Membership),
            _ => None,
        }
    }
}

/// One entry of a group's log.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Position in the log.
    pub index: Index,
    /// Term of the leader that appended it.
    pub term: Term,
    /// What the payload is.
    pub kind: EntryKind,
    /// The bytes; empty for [`EntryKind::Empty`].
    pub payload: Payload,
}

impl Entry {
    /// Bytes that this entry is counted with in every bound: payload plus a fixed overhead for its place in queues.
    pub fn cost_bytes(&self) -> usize {
        const OVERHEAD_BYTES: usize = 64;
        self.payload.len() + OVERHEAD_BYTES
    }

    /// Where the entry stands.
    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} {:?} {:?}", self.index, self.term, self.kind, self.payload)
    }
}

/// An index with the term of the entry there. Two logs that share a position share everything before it (Raft §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogPosition {
    /// The index.
    pub index: Index,
    /// The term of the entry at that index.
    pub term: Term,
}

/// What a replica must never forget (Raft figure 2, plus the commit index, rules D1 and D8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The latest term this replica has seen.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: Option<ReplicaId>,
    /// The commit index it knew.
    pub commit: Index,
}

/// Where a replica's log begins: what a snapshot, the genesis snapshot or a truncation covers, and the membership in force there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogStart {
    /// The last covered entry; the first entry of the log stands at `position.index + 1`.
    pub position: LogPosition,
    /// The membership in force at that position.
    pub membership: Membership,
}

/// Why a replica may never vote or acknowledge again under its id (rule D9). The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CondemnedReason {
    /// Acknowledged entries are gone: a leader, the store or the commit index remembers more than the log holds.
    LogLost = 1,
    /// Records of this replica are damaged.
    Damage = 2,
    /// The directory is an old copy (rule M7).
    OldCopy = 3,
    /// Its applied state differs from the majority's: found by comparison (rule E8), or because a leader's log contradicts what is
    /// committed here, which others gave up (rule D9).
    Divergence = 4,
    /// The state that it had persisted is gone: its log begins behind what the store has (rule D11).
    StateLost = 5,
}

impl CondemnedReason {
    /// The reason behind a persisted number.
    pub fn from_byte(byte: u8) -> Option<CondemnedReason> {
        match byte {
            1 => Some(CondemnedReason::LogLost),
            2 => Some(CondemnedReason::Damage),
            3 => Some(CondemnedReason::OldCopy),
            4 => Some(CondemnedReason::Divergence),
            5 => Some(CondemnedReason::StateLost),
            _ => None,
        }
    }
}

impl fmt::Display for CondemnedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CondemnedReason::LogLost => "its log lost entries that it had acknowledged",
            CondemnedReason::Damage => "its log is damaged",
            CondemnedReason::OldCopy => "its directory is an old copy",
            CondemnedReason::Divergence => "its state differs from the majority's",
            CondemnedReason::StateLost => "the state that it had persisted is gone",
        })
    }
}
