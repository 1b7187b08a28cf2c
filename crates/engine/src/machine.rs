// SPDX-License-Identifier: Apache-2.0

//! What a group's state machine must be able to do.
//!
//! One owner, the group's apply thread, calls every `&mut self` method; lookups and snapshot views are used from other
//! threads meanwhile. Three kinds of users' machines (in memory, concurrent, on disk) meet the host behind this one trait:
//! the host's adapters turn the simpler kinds into it.
//!
//! ## What is persisted together
//!
//! `meta` is opaque to the machine: the host's replicated bookkeeping (applied index and term, membership, tombstones, slots,
//! log time, revision, chain hash, rule E7). [`StateMachine::commit`] hands over the meta that is true after all the commands
//! applied so far. Whatever the machine persists, it persists atomically with the meta of exactly that point, and
//! [`StateMachine::open`] gives that meta back. The Raft log is the machine's write-ahead log: nothing needs to be synced in
//! `apply` or `commit`.
//!
//! ## A full disk
//!
//! An error that says that there is no room ([`MachineError::Io`] of such a kind) from `persist`, `switch`, `snapshot`, `content_view` or a
//! background job means "not now": nothing was lost, the machine goes on, and the host asks again when there may be room. Any other error
//! stops the replica.
//!
//! ## Snapshots (rule N1)
//!
//! `snapshot` gives a consistent view of the state at the last commit, streamed while writes go on. Installing: `stage` opens a
//! fresh directory with the number given, chunks are written and finished (synced), and only `switch` makes it the state, by an
//! atomically replaced pointer file. A crash before that leaves the old state, after it the new one; `open` deletes directories
//! that the pointer does not name, except those listed by the caller as staged.

use std::fmt;
use std::sync::Arc;

use mraft_types::Index;

/// One command of a committed entry.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Raft index of its entry; several commands of one packed entry share it (rule E2).
    pub index: Index,
    /// Place within the entry, from 0.
    pub position: u32,
    /// The leader's group log time of the entry, milliseconds since 1970; never goes back within a group (rule E1).
    pub unix_ms: u64,
    /// The command, as it was proposed.
    pub body: &'a [u8],
}

/// The answers to a batch of commands, in their order, in one piece of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Results {
    /// Appends the next command's answer.
    pub fn push(&mut self, answer: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(answer));
    }

    /// Appends the next command's answer by writing it in place.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
    }

    /// The answer to command `at`.
    pub fn get(&self, at: usize) -> Option<&[u8]> {
        let end = *self.ends.get(at)? as usize;
        let start = if at == 0 { 0 } else { self.ends[at - 1] as usize };
        self.bytes.get(start..end)
    }

    /// Where the answers to `count` commands from `first` on lie in [`Results::bytes`]; empty outside.
    pub fn range(&self, first: usize, count: usize) -> std::ops::Range<usize> {
        let end_of = |answers: usize| match answers.checked_sub(1) {
            None => Some(0),
            Some(at) => self.ends.get(at).map(|end| *end as usize),
        };
        match (end_of(first), end_of(first.saturating_add(count))) {
            (Some(start), Some(end)) => start..end,
            _ => 0..0,
        }
    }

    /// Number of answers.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All answers behind one another, for hashing.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets all answers and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// A failure of the machine's own making or of its disk: the replica stops (decision 9). A command that a client got wrong is
/// not one of these: it has an answer like any other.
#[derive(Debug)]
#[non_exhaustive]
pub enum MachineError {
    /// The disk failed, or is full.
    Io(std::io::Error),
    /// Bytes on disk or in a snapshot are damaged.
    Damaged(String),
    /// Bytes of a version that this build does not know; nothing was touched.
    Unknown(String),
    /// The user's machine says so.
    Failed(String),
}

impl fmt::Display for MachineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MachineError::Io(error) => write!(f, "state machine: {error}"),
            MachineError::Damaged(what) => write!(f, "state machine: damaged: {what}"),
            MachineError::Unknown(what) => write!(f, "state machine: {what}; nothing was touched"),
            MachineError::Failed(what) => write!(f, "state machine: {what}"),
        }
    }
}

impl std::error::Error for MachineError {}

impl From<std::io::Error> for MachineError {
    fn from(error: std::io::Error) -> MachineError {
        MachineError::Io(error)
    }
}

/// A group's replicated state.
pub trait StateMachine: Send {
    /// Opens or creates the state. Answers the meta of the last persisted point, `None` for a fresh one. Directories of staged
    /// snapshots are deleted except `staged`, which an unfinished installation may still need.
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError>;

    /// Applies commands in order and pushes exactly one answer each.
    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError>;

    /// All commands applied so far belong to this meta. Makes them visible to lookups ("published").
    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError>;

    /// The index that a crash right now would come back with; the log may be truncated up to it (rule D11).
    fn persisted(&self) -> Index;

    /// Work that somebody else should do in the background (flush, compaction), if there is any. At most one job is handed out
    /// at a time; its end is told by [`StateMachine::background_done`].
    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>>;

    /// The job ended.
    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError>;

    /// Bytes of memory held for state that is not persisted, for the node-wide budget.
    fn unpersisted_bytes(&self) -> usize;

    /// A handle that answers queries from any thread, always about published state.
    fn lookup(&self) -> Arc<dyn Lookup>;

    /// A consistent view of the state at the last commit.
    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError>;

    /// Opens a fresh directory with this number for an incoming snapshot with this meta.
    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError>;

    /// Makes a finished staged directory the state, durably and atomically, and goes on with it. Answers its meta.
    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError>;

    /// Whether the state is what a [`StateMachine::switch`] to this directory made. Asked after [`StateMachine::open`] of the directory
    /// that it was told is staged: the truth about how far an installation came before a crash.
    fn is_live(&self, directory: u64) -> Result<bool, MachineError>;

    /// Deletes a staged directory that will not be used.
    fn discard(&mut self, directory: u64) -> Result<(), MachineError>;

    /// Persists everything applied (clean shutdown, or a snapshot request of a machine in memory).
    fn persist(&mut self) -> Result<(), MachineError>;

    /// A consistent view of the state at the last commit, to be hashed by somebody else while this machine goes on (rule E8).
    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError>;

    /// The hash of [`StateMachine::content_view`], at once.
    fn content_hash(&mut self) -> Result<u128, MachineError> {
        self.content_view()?.hash()
    }
}

/// How badly background work is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// When the machine itself thinks it is worth it.
    Normal,
    /// The node's buffer budget or the log is short of room: persist now what can be persisted.
    Pressing,
}

/// A piece of background work.
pub trait BackgroundJob: Send {
    /// Does it.
    fn run(self: Box<Self>) -> Result<(), MachineError>;
}

/// A consistent view that is going to be hashed.
pub trait ContentView: Send {
    /// A hash of the whole visible state that is equal on all replicas at the same index.
    fn hash(self: Box<Self>) -> Result<u128, MachineError>;
}

/// Answers queries about published state, from any thread.
pub trait Lookup: Send + Sync {
    /// Answers one query by appending to `answer`.
    fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError>;
}

/// A consistent view that is being streamed to a peer or a file.
pub trait SnapshotView: Send {
    /// The meta of the view.
    fn meta(&self) -> &[u8];

    /// Appends the next chunk of about `max_bytes`; `false` when there is nothing more.
    fn next_chunk(&mut self, max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError>;
}

/// A snapshot that is coming in. Dropped without [`SnapshotStage::finish`], it leaves a directory that the next open deletes.
pub trait SnapshotStage: Send {
    /// The next chunk, as the sender's view made it. Chunks are verified before they come here, but their content is not trusted.
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), MachineError>;

    /// Everything was written: makes the directory durable.
    fn finish(self: Box<Self>) -> Result<(), MachineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_by_their_places_and_nothing_outside_of_them() {
        let mut results = Results::default();
        assert!(results.is_empty());
        for answer in ["one", "", "three"] {
            results.push(answer.as_bytes());
        }
        assert_eq!((results.len(), results.is_empty()), (3, false));
        let found: Vec<Option<&[u8]>> = (0..4).map(|at| results.get(at)).collect();
        assert_eq!(found, [Some(&b"one"[..]), Some(b""), Some(b"three"), None]);
        assert_eq!(results.range(0, 3), 0..8);
        assert_eq!(results.range(1, 2), 3..8);
        assert_eq!(results.range(2, 0), 3..3);
        for (first, count) in [(0, 4), (3, 1), (4, 0), (1, usize::MAX)] {
            assert!(results.range(first, count).is_empty(), "{count} from {first}");
        }
        assert_eq!(results.bytes(), b"onethree");
        results.clear();
        assert_eq!(results, Results::default());
    }

    #[test]
    fn a_failure_says_what_happened() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        for (error, text) in [
            (MachineError::from(full()), full().to_string()),
            (MachineError::Damaged("chunk 3".to_owned()), "damaged: chunk 3".to_owned()),
            (MachineError::Unknown("version 9".to_owned()), "version 9; nothing was touched".to_owned()),
            (MachineError::Failed("no".to_owned()), "no".to_owned()),
        ] {
            assert_eq!(error.to_string(), format!("state machine: {text}"));
        }
    }

    /// A machine whose whole content is a byte.
    struct Byte(u8);

    fn not_asked<T>() -> Result<T, MachineError> {
        Err(MachineError::Failed("not asked for".to_owned()))
    }

    impl ContentView for Byte {
        fn hash(self: Box<Self>) -> Result<u128, MachineError> {
            Ok(u128::from(self.0))
        }
    }

    impl Lookup for Byte {
        fn query(&self, _: &[u8], _: &mut Vec<u8>) -> Result<(), MachineError> {
            not_asked()
        }
    }

    impl StateMachine for Byte {
        fn open(&mut self, _: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
            not_asked()
        }
        fn apply(&mut self, _: &[Command<'_>], _: &mut Results) -> Result<(), MachineError> {
            not_asked()
        }
        fn commit(&mut self, _: Index, _: &[u8]) -> Result<(), MachineError> {
            not_asked()
        }
        fn persisted(&self) -> Index {
            0
        }
        fn background(&mut self, _: Urgency) -> Option<Box<dyn BackgroundJob>> {
            None
        }
        fn background_done(&mut self, _: Result<(), MachineError>) -> Result<(), MachineError> {
            not_asked()
        }
        fn unpersisted_bytes(&self) -> usize {
            0
        }
        fn lookup(&self) -> Arc<dyn Lookup> {
            Arc::new(Byte(self.0))
        }
        fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
            not_asked()
        }
        fn stage(&self, _: u64, _: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
            not_asked()
        }
        fn switch(&mut self, _: u64) -> Result<Vec<u8>, MachineError> {
            not_asked()
        }
        fn is_live(&self, _: u64) -> Result<bool, MachineError> {
            not_asked()
        }
        fn discard(&mut self, _: u64) -> Result<(), MachineError> {
            not_asked()
        }
        fn persist(&mut self) -> Result<(), MachineError> {
            not_asked()
        }
        fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
            match self.0 {
                0 => not_asked(),
                byte => Ok(Box::new(Byte(byte))),
            }
        }
    }

    #[test]
    fn e8_a_machines_content_is_hashed_as_its_view_is() {
        assert_eq!([7, 8].map(|byte| Byte(byte).content_hash().ok()), [Some(7), Some(8)]);
        assert!(Byte(0).content_hash().is_err(), "without a view there is no hash");
    }
}
