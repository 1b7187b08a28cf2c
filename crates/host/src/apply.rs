// SPDX-License-Identifier: Apache-2.0

//! Committed entries into state machines, results back to whoever waits (rules D6, E1, E5, E7, E8).
//!
//! An apply thread owns some groups' [`Applier`]s and does nothing else; the simulator calls the same code. All commands of a job
//! become one call of the state machine and one commit of the group's meta, so that the cost of a batch is paid once.

use std::collections::VecDeque;
use std::fmt;
use std::iter::Peekable;
use std::sync::Arc;

use mraft_engine::effect::{Answer, ApplyJob, EntryTickets};
use mraft_engine::event::Ticket;
use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotView, StateMachine, Urgency,
};
use mraft_engine::packing::{CommandKind, NO_SLOT, PackedEntry};
use mraft_engine::{Depth, Dispute, StateHash};
use mraft_logstore::{LogError, LogKey, LogReader};
use mraft_types::codec::{DecodeError, Reader};
use mraft_types::planted;
use mraft_types::{Entry, EntryKind, Index, LogPosition, Membership, Payload};

use crate::core::Incarnation;
use crate::meta::{GroupMeta, check_level};

/// Bytes of entries that are read from the log at once when they are no longer in memory.
const LOG_READ_BYTES_MAX: usize = 4 << 20;
/// Checkpoints whose hash is kept: whoever compares asks soon after.
const CHECKPOINTS_MAX: usize = 8;

/// Why a replica's state machine cannot go on. Only this replica stops (decision 9).
#[derive(Debug)]
#[non_exhaustive]
pub enum ApplyError {
    /// The machine or its disk.
    Machine(MachineError),
    /// The log.
    Log(LogError),
    /// A committed entry that this build cannot read: written by a newer release, or damaged without its checksum noticing.
    Entry(Index, DecodeError),
    /// A committed entry of a higher feature level than this build knows (rule T3).
    Level(Index, String),
    /// Jobs came out of order: (expected, got).
    Order(Index, Index),
    /// The machine answered another number of commands than it was given: (commands, answers).
    Answers(usize, usize),
}

impl ApplyError {
    /// Whether there was no room. Then nothing was lost and nothing changed: the same may be tried again later (rule D10).
    pub fn is_full(&self) -> bool {
        matches!(self, ApplyError::Machine(MachineError::Io(error)) if mraft_disk::is_full(error))
    }
}

impl fmt::Display for ApplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApplyError::Machine(error) => error.fmt(f),
            ApplyError::Log(error) => error.fmt(f),
            ApplyError::Entry(index, error) => write!(f, "committed entry {index}: {error}"),
            ApplyError::Level(index, reason) => write!(f, "committed entry {index}: {reason}"),
            ApplyError::Order(expected, got) => write!(f, "entry {got} came where {expected} was due"),
            ApplyError::Answers(commands, answers) => {
                write!(f, "the state machine gave {answers} answers to {commands} commands")
            }
        }
    }
}

impl std::error::Error for ApplyError {}

impl From<MachineError> for ApplyError {
    fn from(error: MachineError) -> ApplyError {
        ApplyError::Machine(error)
    }
}

/// What a replica knows of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointHash {
    /// Its state's hash there, content included.
    Known(StateHash),
    /// It is not there yet, or is still hashing.
    NotYet,
    /// It is beyond, and was not there itself (a snapshot), or it was too long ago.
    Passed,
}

/// What a job did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Answers for the tickets of the job.
    pub answers: Vec<(Ticket, Answer)>,
    /// Commands applied.
    pub commands: u64,
    /// What the state hashes to at checkpoints of the job.
    pub hashes: Vec<StateHash>,
    /// Content to be hashed at checkpoints of the job; answered by [`Applier::hashed`].
    pub views: Vec<HashView>,
    /// The majority has this where the state here differs: this replica is not to be trusted (rule E8).
    pub diverged: Option<StateHash>,
}

/// The state at a checkpoint, on its way to be hashed.
pub struct HashView {
    index: Index,
    chain: u128,
    view: Box<dyn ContentView>,
}

impl HashView {
    /// The checkpoint's index.
    pub fn index(&self) -> Index {
        self.index
    }

    /// Hashes it.
    pub fn run(self) -> Result<StateHash, MachineError> {
        Ok(StateHash { index: self.index, chain: self.chain, content: Some(self.view.hash()?) })
    }
}

impl fmt::Debug for HashView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashView").field("index", &self.index).finish_non_exhaustive()
    }
}

/// A checkpoint that this replica applied.
struct Checkpoint {
    depth: Depth,
    /// Without the content while that is being hashed.
    hash: StateHash,
    /// What the majority has, when that was known before the own content was.
    majority: Option<StateHash>,
}

/// Who waits for a job's entries, in their order.
pub type Tickets = Peekable<std::vec::IntoIter<EntryTickets>>;

/// One group's state machine and its meta.
pub struct Applier {
    key: LogKey,
    incarnation: Incarnation,
    machine: Box<dyn StateMachine>,
    meta: GroupMeta,
    meta_bytes: Vec<u8>,
    /// The encoding of the meta's membership; empty when it has to be made anew.
    membership_bytes: Vec<u8>,
    results: Results,
    /// The latest checkpoints, oldest first.
    checkpoints: VecDeque<Checkpoint>,
}

impl Applier {
    /// Takes over a machine that was opened with this meta.
    pub fn new(
        key: LogKey,
        incarnation: Incarnation,
        machine: Box<dyn StateMachine>,
        meta: GroupMeta,
    ) -> Applier {
        Applier {
            key,
            incarnation,
            machine,
            meta,
            meta_bytes: Vec::new(),
            membership_bytes: Vec::new(),
            results: Results::default(),
            checkpoints: VecDeque::new(),
        }
    }

    /// Under which name the core knows this run of the replica.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The replicated bookkeeping at the last applied entry.
    pub fn meta(&self) -> &GroupMeta {
        &self.meta
    }

    /// What a crash right now would come back with. A machine that claims more than it has applied, as a snapshot of somebody else's
    /// making can have it do, is not believed: the log would be truncated by its word (rule D11).
    pub fn persisted(&self) -> Index {
        self.machine.persisted().min(self.meta.applied.index)
    }

    /// Bytes of memory that wait to be persisted.
    pub fn unpersisted_bytes(&self) -> usize {
        self.machine.unpersisted_bytes()
    }

    /// For lookups from other threads.
    pub fn lookup(&self) -> Arc<dyn Lookup> {
        self.machine.lookup()
    }

    /// Hashes the state as it is now.
    pub fn hash(&mut self) -> Result<StateHash, ApplyError> {
        let content = self.machine.content_hash()?;
        Ok(StateHash { index: self.meta.applied.index, chain: self.meta.chain, content: Some(content) })
    }

    /// What was found at the checkpoint at `index` (rule E8).
    pub fn checkpoint(&self, index: Index) -> CheckpointHash {
        match self.checkpoints.iter().find(|checkpoint| checkpoint.hash.index == index) {
            Some(Checkpoint { hash, .. }) if hash.content.is_some() => CheckpointHash::Known(*hash),
            Some(Checkpoint { depth: Depth::Content, .. }) => CheckpointHash::NotYet,
            Some(Checkpoint { depth: Depth::Chain, .. }) => CheckpointHash::Passed,
            None if self.meta.applied.index < index => CheckpointHash::NotYet,
            None => CheckpointHash::Passed,
        }
    }

    /// The content at a checkpoint was hashed. Answers what the majority has, if that is known already and something else.
    pub fn hashed(&mut self, hash: StateHash) -> Option<StateHash> {
        let checkpoint = self.checkpoints.iter_mut().find(|known| known.hash.index == hash.index)?;
        checkpoint.hash = hash;
        checkpoint.majority.filter(|majority| *majority != hash)
    }

    /// What the majority has at a checkpoint, if that is known to be something else than what is here (rule E8).
    fn judge(&mut self, majority: StateHash) -> Option<StateHash> {
        let checkpoint = self.checkpoints.iter_mut().find(|known| known.hash.index == majority.index)?;
        let is_hashing = majority.content.is_some() && checkpoint.hash.content.is_none();
        if is_hashing && majority.chain == checkpoint.hash.chain {
            checkpoint.majority = Some(majority);
            return None;
        }
        (checkpoint.hash != majority).then_some(majority)
    }

    /// The machine, for snapshots and housekeeping.
    pub fn machine(&mut self) -> &mut dyn StateMachine {
        self.machine.as_mut()
    }

    /// Applies a job's entries and publishes them. `tickets` are the job's: those that are left afterwards were not answered.
    pub fn apply(
        &mut self,
        job: ApplyJob,
        tickets: &mut Tickets,
        log: &dyn LogReader,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        if let Some(entries) = job.entries {
            return self.apply_entries(&entries, tickets, applied);
        }
        let mut next = job.first;
        while next <= job.last {
            let entries =
                log.entries(self.key, next, job.last, LOG_READ_BYTES_MAX).map_err(ApplyError::Log)?;
            let last = entries.last().ok_or(ApplyError::Log(LogError::NotHere { index: next }))?.index;
            self.apply_entries(&entries, tickets, applied)?;
            next = last + 1;
        }
        Ok(())
    }

    /// A job for somebody else, if the machine has one.
    pub fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        self.machine.background(urgency)
    }

    /// A consistent view for a peer, with its meta.
    pub fn view(&mut self) -> Result<(GroupMeta, Box<dyn SnapshotView>), ApplyError> {
        let view = self.machine.snapshot()?;
        Ok((self.meta.clone(), view))
    }

    /// Step 5 of an installation (rule N1): the staged directory becomes the state.
    pub fn switch(&mut self, directory: u64) -> Result<GroupMeta, ApplyError> {
        let bytes = self.machine.switch(directory)?;
        self.meta = GroupMeta::decode(&bytes)
            .map_err(|error| MachineError::Damaged(format!("the meta of the installed snapshot: {error}")))?;
        self.membership_bytes.clear();
        Ok(self.meta.clone())
    }

    fn apply_entries(
        &mut self,
        entries: &[Entry],
        tickets: &mut Tickets,
        applied: &mut Applied,
    ) -> Result<(), ApplyError> {
        let mut rest = entries;
        while !rest.is_empty() {
            let taken = self.apply_piece(rest, tickets, applied)?;
            rest = rest.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Applies entries up to the first checkpoint, whose hash must be that of exactly this point (rule E8). How many.
    fn apply_piece(
        &mut self,
        entries: &[Entry],
        tickets: &mut Tickets,
        applied: &mut Applied,
    ) -> Result<usize, ApplyError> {
        let mut commands = Vec::new();
        let mut spans = Vec::with_capacity(entries.len());
        let mut checkpoint = None;
        for (expected, entry) in (self.meta.applied.index + 1..).zip(entries) {
            if entry.index != expected {
                return Err(ApplyError::Order(expected, entry.index));
            }
            let span = self.decode_entry(entry, &mut commands)?;
            checkpoint = span.checkpoint;
            spans.push(span);
            if checkpoint.is_some() {
                break;
            }
        }
        self.results.clear();
        if !commands.is_empty() {
            self.machine.apply(&commands, &mut self.results)?;
        }
        if self.results.len() != commands.len() {
            return Err(ApplyError::Answers(commands.len(), self.results.len()));
        }
        applied.commands += commands.len() as u64;
        // One piece of shared memory for all answers: handing one out costs a reference count, not an allocation.
        let shared = Payload::copy_from(self.results.bytes());
        let taken = spans.len();
        for (entry, span) in entries.iter().zip(spans) {
            let range = self.results.range(span.first_result, span.results);
            let results = self.results.bytes().get(range).unwrap_or_default();
            self.meta.advance(entry.position(), &entry.payload, results);
            if let Some(majority) = span.majority {
                applied.diverged = applied.diverged.or(self.judge(majority));
            }
            if let Some(own) = tickets.next_if(|own| own.position.index == entry.index) {
                self.answer(entry, &span, own, &shared, applied);
            }
        }
        let is_late = planted!(MetaBehind) && !self.meta_bytes.is_empty();
        if !is_late {
            self.encode_meta();
        }
        self.machine.commit(self.meta.applied.index, &self.meta_bytes)?;
        if is_late {
            self.encode_meta();
        }
        if let Some(depth) = checkpoint {
            self.keep_checkpoint(depth, applied)?;
        }
        Ok(taken)
    }

    fn encode_meta(&mut self) {
        if self.membership_bytes.is_empty() {
            self.meta.membership.encode(&mut self.membership_bytes);
        }
        let membership = &self.membership_bytes;
        self.meta.encode_around(&mut self.meta_bytes, |out| out.extend_from_slice(membership));
    }

    fn keep_checkpoint(&mut self, depth: Depth, applied: &mut Applied) -> Result<(), ApplyError> {
        let (index, chain) = (self.meta.applied.index, self.meta.chain);
        let hash = StateHash { index, chain, content: None };
        match depth {
            Depth::Chain => applied.hashes.push(hash),
            Depth::Content => {
                let view = match self.machine.content_view().map_err(ApplyError::from) {
                    Ok(view) => view,
                    Err(error) if error.is_full() => {
                        // Comparing is not worth a replica: a later checkpoint compares the same.
                        tracing::warn!(group = %self.key.group, index, "no room for hashing the state: {error}");
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                };
                applied.views.push(HashView { index, chain, view });
            }
        }
        if self.checkpoints.len() == CHECKPOINTS_MAX {
            self.checkpoints.pop_front();
        }
        self.checkpoints.push_back(Checkpoint { depth, hash, majority: None });
        Ok(())
    }

    /// Pushes the entry's commands for the state machine, and takes what is the host's own into the meta.
    fn decode_entry<'e>(
        &mut self,
        entry: &'e Entry,
        commands: &mut Vec<Command<'e>>,
    ) -> Result<Span, ApplyError> {
        let broken = |error| ApplyError::Entry(entry.index, error);
        let first_result = commands.len();
        let (mut outcomes, mut checkpoint, mut majority) = (Vec::new(), None, None);
        match entry.kind {
            EntryKind::Empty => {}
            EntryKind::Membership => {
                let membership = Membership::decode(&mut Reader::new(&entry.payload)).map_err(broken)?;
                if !planted!(SnapshotOldMembers) {
                    self.meta.membership = membership;
                }
                self.membership_bytes.clear();
            }
            EntryKind::Commands => {
                let mut packed = PackedEntry::decode(&entry.payload).map_err(broken)?;
                check_level(packed.feature_level).map_err(|reason| ApplyError::Level(entry.index, reason))?;
                self.meta.log_unix_ms = self.meta.log_unix_ms.max(packed.leader_unix_ms);
                let mut position = 0;
                commands.reserve(packed.count);
                outcomes.reserve(packed.count);
                while let Some(command) = packed.next_command().map_err(broken)? {
                    let outcome = match command.kind {
                        CommandKind::User
                            if command.slot == NO_SLOT || self.meta.slots.contains(command.slot) =>
                        {
                            commands.push(Command {
                                index: entry.index,
                                position,
                                unix_ms: self.meta.log_unix_ms,
                                body: command.body,
                            });
                            Outcome::Result
                        }
                        CommandKind::User => Outcome::Moved,
                        CommandKind::Checkpoint => {
                            let depth = Depth::of(command.body).map_err(broken)?;
                            // One entry asks once; the deeper question answers the other.
                            checkpoint = match checkpoint {
                                Some(Depth::Content) => Some(Depth::Content),
                                _ => Some(depth),
                            };
                            Outcome::Chain
                        }
                        CommandKind::CheckpointHash => {
                            let hash = StateHash::decode(&mut Reader::new(command.body)).map_err(broken)?;
                            self.meta.disputed =
                                self.meta.disputed.filter(|dispute| !dispute.is_settled_by(&hash));
                            majority = Some(hash);
                            Outcome::Chain
                        }
                        CommandKind::Dispute => {
                            let dispute = Dispute::decode(&mut Reader::new(command.body)).map_err(broken)?;
                            self.meta.disputed = Some(dispute);
                            Outcome::Chain
                        }
                        kind => {
                            return Err(broken(DecodeError::Unknown("command.kind", kind as u64)));
                        }
                    };
                    position += 1;
                    outcomes.push(outcome);
                }
            }
        }
        let results = commands.len() - first_result;
        Ok(Span { first_result, results, outcomes, checkpoint, majority })
    }

    fn answer(&self, entry: &Entry, span: &Span, own: EntryTickets, shared: &Payload, applied: &mut Applied) {
        let position: LogPosition = entry.position();
        let mut result = span.first_result;
        applied.answers.reserve(own.tickets.len());
        for (ticket, outcome) in own.tickets.into_iter().zip(&span.outcomes) {
            let answer = match outcome {
                Outcome::Result => {
                    let range = self.results.range(result, 1);
                    result += 1;
                    let result = shared.slice(range.start, range.len()).unwrap_or_default();
                    Answer::Applied { position, result }
                }
                Outcome::Moved => Answer::Moved { epoch: self.meta.slots_epoch },
                Outcome::Chain => {
                    Answer::Applied { position, result: Payload::copy_from(&self.meta.chain.to_le_bytes()) }
                }
            };
            if ticket != mraft_engine::NOBODY {
                applied.answers.push((ticket, answer));
            }
        }
    }
}

/// One entry's share of a job.
struct Span {
    first_result: usize,
    results: usize,
    outcomes: Vec<Outcome>,
    /// The entry asks for the state's hash.
    checkpoint: Option<Depth>,
    /// The entry says what the majority has.
    majority: Option<StateHash>,
}

/// How one command of an entry is answered.
#[derive(Clone, Copy)]
enum Outcome {
    /// With the state machine's result.
    Result,
    /// Its slot is not here (rule E5).
    Moved,
    /// With the hash chain at its entry (rule E8).
    Chain,
}
