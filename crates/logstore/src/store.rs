// SPDX-License-Identifier: Apache-2.0

//! What a log can do: the trait that the segment log and its memory twin both keep (`suite.rs` tests both).

use std::fmt;
use std::sync::Arc;

use mraft_types::codec::Reader;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, GroupId, GroupUid, HardState, Index, LogStart, Membership, ReplicaId,
    Term,
};

use crate::segment::{Fill, Filled};

/// Whose records these are. A replica that was removed and added again has another replica id and so another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LogKey {
    /// The group.
    pub group: GroupId,
    /// The group's founding.
    pub uid: GroupUid,
    /// The replica on this node.
    pub replica: ReplicaId,
}

/// Something that must be remembered beside entries and hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Entries up to this start are no longer needed: the store has persisted them (rule D11).
    Truncate(LogStart),
    /// Step 4 of a snapshot installation (rule N1): the staged state directory that is about to be switched to.
    InstallBegin {
        /// What the snapshot covers.
        start: LogStart,
        /// The state machine's directory number.
        directory: u64,
    },
    /// Step 6 (rule N1): the log starts anew behind the snapshot; every older entry of this key is void.
    InstallDone(LogStart),
    /// The installation that was begun will not be carried out: a restart found that it had not been switched to (rule N1, recovery).
    InstallAbandoned,
    /// Rule D9.
    Condemned(CondemnedReason),
    /// An operator accepted what a condemned replica lost (rule D9): it is not condemned any more and goes on with the entries that are
    /// left. An installation that was begun is forgotten.
    LossAccepted,
}

/// Payload bytes of entries that are looked at together when a log is read back as a whole.
const READ_BYTES_MAX: usize = 4 << 20;

/// What one replica writes in one turn. In force in the order of the fields: truncation of the suffix, entries, mark, hard state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupWrite {
    /// Whose.
    pub key: LogKey,
    /// The replica's full hard state after this write (rule L4).
    pub hard_state: HardState,
    /// Consecutive entries. When the first one's index is not above the last index of the log, everything from it on is
    /// overwritten (Raft §5.3). May be empty.
    pub entries: Vec<Entry>,
    /// At most one mark.
    pub mark: Option<Mark>,
}

/// What a replica finds of itself after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Whose.
    pub key: LogKey,
    /// The latest durable hard state.
    pub hard_state: HardState,
    /// Where the log begins.
    pub start: LogStart,
    /// Index of the last entry; `start.position.index` when there is none.
    pub last_index: Index,
    /// Terms as runs: each (first index, term), ascending, covering `start.position.index ..= last_index`.
    pub terms: Vec<(Index, Term)>,
    /// The memberships of the log's entries of kind `Membership`, ascending by index (rule M2: the last one is in force, and an
    /// overwritten one gives way to the one before it). Not counting the start's own.
    pub memberships: Vec<(Index, Membership)>,
    /// An installation that began and is not known to be done (rule N1).
    pub install: Option<(LogStart, u64)>,
    /// Set when the replica may never take part again (rule D9): a persisted mark, or damage that recovery found.
    pub condemned: Option<CondemnedReason>,
}

impl Recovered {
    /// Adds to what [`LogStore::head`] answers what only the entries say: their terms and memberships. Reads all of them, so that it takes
    /// as long as the log is; nothing may be written for the replica meanwhile.
    pub fn with_entries(mut self, log: &dyn LogReader) -> Result<Recovered, LogError> {
        self.terms = vec![(self.start.position.index, self.start.position.term)];
        self.memberships.clear();
        let mut next = self.start.position.index + 1;
        while next <= self.last_index {
            for entry in log.entries(self.key, next, self.last_index, READ_BYTES_MAX)? {
                if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                    self.terms.push((entry.index, entry.term));
                }
                if entry.kind == EntryKind::Membership {
                    let membership = Membership::decode(&mut Reader::new(&entry.payload));
                    let damaged = |_| LogError::Damaged { key: self.key, index: entry.index };
                    self.memberships.push((entry.index, membership.map_err(damaged)?));
                }
                next = entry.index + 1;
            }
        }
        Ok(self)
    }
}

/// Errors of a log. After any of them from [`LogStore::write`] the log takes no more writes (rule D10), except `Full` and `Misuse`, of
/// which nothing was taken.
#[derive(Debug)]
#[non_exhaustive]
pub enum LogError {
    /// No room for a new segment. Nothing of the write was taken; back-pressure until there is room again (rule D10).
    Full {
        /// Bytes that a new segment needs.
        needed_bytes: u64,
    },
    /// A write or sync failed: what is on the disk is not known, nothing more is written.
    Failed(std::io::Error),
    /// A file has bytes that this build does not understand; nothing was touched.
    Refused {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The batch or the call breaks a rule of the log (a gap before the entries, an unknown key, an entry above the limit).
    Misuse(String),
    /// Entries that the log no longer holds, or never held.
    NotHere {
        /// The first index asked for.
        index: Index,
    },
    /// The bytes that hold these entries are damaged.
    Damaged {
        /// Whose.
        key: LogKey,
        /// The first damaged index.
        index: Index,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Full { needed_bytes } => write!(f, "no room for a log segment of {needed_bytes} bytes"),
            LogError::Failed(error) => write!(f, "the log failed and takes no more writes: {error}"),
            LogError::Refused { file, reason } => {
                write!(f, "{}: {reason}; nothing was touched", file.display())
            }
            LogError::Misuse(reason) => write!(f, "wrong use of the log: {reason}"),
            LogError::NotHere { index } => write!(f, "entry {index} is not in the log"),
            LogError::Damaged { key, index } => {
                write!(f, "entry {index} of group {} replica {} is damaged", key.group, key.replica)
            }
        }
    }
}

impl std::error::Error for LogError {}

/// What a write did, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The batch's number; grows by one per batch and is never reset (rule L2). The node's `durable_seq` after this write.
    pub batch_seq: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
}

/// Gauges of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStatus {
    /// Segments that hold needed records.
    pub segments_live: u64,
    /// Prepared segments that hold nothing needed.
    pub segments_free: u64,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// Bytes of the memory index.
    pub index_bytes: u64,
    /// Since the log was opened.
    pub segments_recycled: u64,
    /// Groups carried forward because they pinned an old segment (rule L5), since the log was opened.
    pub groups_carried: u64,
}

/// The writing side: owned by the node's one log thread.
pub trait LogStore: Send {
    /// Everything that recovery found, one per live key, in key order. Constant after opening.
    fn recovered(&self) -> Vec<Recovered>;

    /// What a key's log holds by now, everything that was written included, but for what only its entries say
    /// ([`Recovered::with_entries`]); `None` when the key is not known.
    fn head(&self, key: LogKey) -> Option<Recovered>;

    /// Makes keys known, durably, before anything is written for them (the node-level replica list of rule L4). A key that
    /// is known already with the same start is left alone.
    fn add_replicas(&mut self, replicas: &[(LogKey, LogStart, HardState)]) -> Result<(), LogError>;

    /// Forgets a key, durably: its records are garbage from now on.
    fn remove_replica(&mut self, key: LogKey) -> Result<(), LogError>;

    /// Writes one batch for any number of replicas and makes it durable: when it returns `Ok`, everything in it survives a
    /// power cut. A batch may weigh at most [`mraft_types::limits::BATCH_BYTES_MAX`] encoded.
    fn write(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError>;

    /// Bytes that a write adds at most to a batch that holds no other mark of its key; `None` when the key is not known.
    fn weigh(&self, write: &GroupWrite) -> Option<usize>;

    /// The truncation that a write asks for, as a write of its own that may go before everything its replica still waits to have written:
    /// it changes nothing but the log's start, and everything up to there is in the log already. `None` when it must wait its turn.
    fn truncation_ahead(&self, _write: &GroupWrite) -> Option<GroupWrite> {
        None
    }

    /// Housekeeping between batches: prepares spare segments, carries groups that pin old ones forward, recycles. `Ok(true)`
    /// when there is more to do.
    fn maintain(&mut self) -> Result<bool, LogError>;

    /// Hands out the filling of a spare segment, if one is due and none is out. From the first call on [`LogStore::maintain`] leaves the
    /// filling to whoever asks here; a write that cannot wait still does it by itself.
    fn lend_fill(&mut self) -> Result<Option<Fill>, LogError> {
        Ok(None)
    }

    /// Takes a filling back.
    fn take_fill(&mut self, _filled: Filled) -> Result<(), LogError> {
        Ok(())
    }

    /// Writes the seal behind the last batch (rule L3). Harmless to repeat.
    fn seal(&mut self) -> Result<(), LogError>;

    /// The number of the last batch that is known to be durable (rule M7). The seal that a process before wrote is not.
    fn durable_seq(&self) -> u64;

    /// A handle for reading entries back from other threads.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Gauges.
    fn status(&self) -> LogStatus;
}

/// The reading side, shared by any number of threads.
pub trait LogReader: Send + Sync {
    /// Durable entries `first..=last`, cut short once `max_bytes` of payload are exceeded, but at least one.
    fn entries(
        &self,
        key: LogKey,
        first: Index,
        last: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError>;
}
