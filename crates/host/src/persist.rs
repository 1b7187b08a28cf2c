// SPDX-License-Identifier: Apache-2.0

//! The log's side of a turn: everything that waits becomes one batch, one write, one fdatasync for all groups.
//!
//! The log thread runs this; it sends nothing to peers (rule D5): what became durable goes back to the step workers as events.
//! The simulator runs the same code over a simulated disk.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::SyncSender;

use mraft_logstore::{Fill, Filled, GroupWrite, LogError, LogKey, LogStore, Mark, Recovered};
use mraft_types::limits::BATCH_BYTES_MAX;
use mraft_types::{HardState, LogStart};

use crate::core::Incarnation;

/// Something to be made durable.
#[derive(Debug)]
pub enum LogJob {
    /// A replica's write; answered by [`LogDone::Persisted`].
    Write {
        /// Whose.
        of: Incarnation,
        /// The core's number of it.
        number: u64,
        /// What to write.
        write: GroupWrite,
    },
    /// Step 4 or 6 of a snapshot's installation (rule N1); answered by [`LogDone::InstallStep`].
    InstallStep {
        /// Whose.
        of: Incarnation,
        /// The mark with the hard state beside it.
        write: GroupWrite,
    },
    /// New replicas, before anything is written for them; answered by [`LogDone::Added`] with the same token.
    Add {
        /// Tells the caller which of its calls this was.
        token: u64,
        /// The replicas with the start of their logs.
        replicas: Vec<(LogKey, LogStart, HardState)>,
    },
    /// A spare segment was filled.
    Filled(Filled),
    /// A replica is gone for good; answered by [`LogDone::Removed`].
    Remove {
        /// Tells the caller which of its calls this was.
        token: u64,
        /// Whose records become garbage.
        key: LogKey,
    },
    /// Tells what the log holds of a replica once everything that was handed in for it before is durable; answered by [`LogDone::Found`],
    /// when the reply is there.
    Find {
        /// Tells the caller which of its calls this was.
        token: u64,
        /// Whose.
        key: LogKey,
        /// Gets it without what the entries say; `None` for a replica that the log does not know, or of which it refused a write.
        reply: SyncSender<Option<Recovered>>,
    },
}

/// What became of it.
#[derive(Debug)]
pub enum LogDone {
    /// All writes of the replica up to this number are durable.
    Persisted {
        /// Whose.
        of: Incarnation,
        /// The number.
        number: u64,
    },
    /// The mark is durable.
    InstallStep {
        /// Whose.
        of: Incarnation,
    },
    /// The replicas are known.
    Added {
        /// The job's.
        token: u64,
    },
    /// The replica is forgotten.
    Removed {
        /// The job's.
        token: u64,
    },
    /// The reply was given.
    Found {
        /// The job's.
        token: u64,
    },
    /// The log refused what the replica wanted written: it breaks a rule of the log. Nothing more of this replica is written, so it must
    /// stop; the others are not concerned.
    Refused {
        /// The replica. In a box, because this is rare and the others are many.
        key: Box<LogKey>,
        /// Which rule.
        reason: String,
    },
}

/// How the log is doing.
#[derive(Debug)]
pub enum LogHealth {
    /// Everything that was handed in is durable.
    Well,
    /// There is no room for another segment: something waits, and the node takes no proposals meanwhile (rule D10). It ends when nothing
    /// waits any more, and not before.
    Full,
    /// The log failed: every replica of this node stops (rule D10).
    Failed(LogError),
}

/// Figures of one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogRun {
    /// Batches written, each with one fdatasync.
    pub batches: u64,
    /// Bytes written, padding included.
    pub bytes: u64,
    /// Bytes of entries' payloads in them.
    pub payload_bytes: u64,
}

/// Owns the log.
pub struct LogWorker {
    store: Box<dyn LogStore>,
    /// What is not durable yet, in order. Something stays here only while the disk is full; then no proposals are taken, and what each
    /// replica may have under way (`unapplied_bytes_max`, the leaders' bounds of what is in flight) bounds it.
    waiting: VecDeque<Waiting>,
    /// Replicas of which the log refused a write. Later ones must not be written either: "durable up to" covers all before.
    refused: BTreeSet<LogKey>,
    batch_bytes_target: usize,
    failed: bool,
}

/// A job that waits.
#[derive(Debug)]
enum Waiting {
    /// A write with the answer to it; none for a truncation that goes ahead of the write that asked for it.
    Write { write: GroupWrite, answer: Option<LogDone> },
    /// Keys to be made known.
    Add { token: u64, replicas: Vec<(LogKey, LogStart, HardState)> },
    /// A key to be forgotten.
    Remove { token: u64, key: LogKey },
    /// A key to be looked at.
    Find { token: u64, key: LogKey, reply: SyncSender<Option<Recovered>> },
}

impl LogWorker {
    /// Takes the log over.
    pub fn new(store: Box<dyn LogStore>) -> LogWorker {
        LogWorker {
            store,
            waiting: VecDeque::new(),
            refused: BTreeSet::new(),
            batch_bytes_target: BATCH_BYTES_TARGET,
            failed: false,
        }
    }

    /// Closes batches earlier: for logs with small segments.
    #[must_use]
    pub fn with_batch_bytes_target(mut self, batch_bytes_target: usize) -> LogWorker {
        self.batch_bytes_target = batch_bytes_target;
        self
    }

    /// The log, for status and recovery.
    pub fn store(&self) -> &dyn LogStore {
        self.store.as_ref()
    }

    /// Whether something waits for room: then [`LogWorker::run`] is due again, also when nothing new came.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Makes everything durable that was handed in now or still waits, in order. When there is no room for entries, what has none goes
    /// ahead of those of other replicas.
    pub fn run(
        &mut self,
        jobs: impl IntoIterator<Item = LogJob>,
        done: &mut Vec<LogDone>,
    ) -> (LogHealth, LogRun) {
        let mut run = LogRun::default();
        if self.failed {
            // Nothing is written behind a failed write, and nobody is told that it was.
            return (LogHealth::Well, run);
        }
        let taken = jobs.into_iter().try_for_each(|job| self.take_in(job));
        let result = match taken.and_then(|()| self.run_in_order(done, &mut run)) {
            Err(LogError::Full { .. }) => self.run_without_room(done, &mut run),
            result => result,
        };
        (self.health_after(result), run)
    }

    /// Housekeeping between runs; `true` when there is more to do.
    pub fn maintain(&mut self) -> (LogHealth, bool) {
        if self.failed {
            return (LogHealth::Well, false);
        }
        match self.store.maintain() {
            Ok(more) => (self.health_after(Ok(())), more),
            Err(error) => (self.health_after(Err(error)), false),
        }
    }

    /// A spare segment for somebody else to fill; comes back as [`LogJob::Filled`].
    pub fn lend_fill(&mut self) -> (LogHealth, Option<Fill>) {
        if self.failed {
            return (LogHealth::Well, None);
        }
        match self.store.lend_fill() {
            Ok(fill) => (self.health_after(Ok(())), fill),
            Err(error) => (self.health_after(Err(error)), None),
        }
    }

    /// The seal behind the last batch (rule L3); `false` when there was no room for it and it is still due.
    pub fn seal(&mut self) -> (LogHealth, bool) {
        if self.failed {
            return (LogHealth::Well, true);
        }
        let result = self.store.seal();
        let is_done = !matches!(result, Err(LogError::Full { .. }));
        (self.health_after(result), is_done)
    }

    /// That there is no room is no news as long as nothing waits for it.
    fn health_after(&mut self, result: Result<(), LogError>) -> LogHealth {
        match result {
            Ok(()) | Err(LogError::Full { .. }) if self.waiting.is_empty() => LogHealth::Well,
            Ok(()) | Err(LogError::Full { .. }) => LogHealth::Full,
            Err(error) => {
                self.failed = true;
                self.waiting.clear();
                LogHealth::Failed(error)
            }
        }
    }

    fn take_in(&mut self, job: LogJob) -> Result<(), LogError> {
        let waiting = match job {
            LogJob::Write { of, number, write } => {
                Waiting::Write { write, answer: Some(LogDone::Persisted { of, number }) }
            }
            LogJob::InstallStep { of, write } => {
                Waiting::Write { write, answer: Some(LogDone::InstallStep { of }) }
            }
            LogJob::Add { token, replicas } => Waiting::Add { token, replicas },
            LogJob::Remove { token, key } => {
                // Garbage as soon as it would be written.
                self.waiting
                    .retain(|waiting| !matches!(waiting, Waiting::Write { write, .. } if write.key == key));
                self.refused.remove(&key);
                Waiting::Remove { token, key }
            }
            LogJob::Find { token, key, reply } => Waiting::Find { token, key, reply },
            // At once: what waits may wait for this very file. If it could not be filled, whoever needs it finds out.
            LogJob::Filled(filled) => match self.store.take_fill(filled) {
                Err(LogError::Full { .. }) | Ok(()) => return Ok(()),
                Err(error) => return Err(error),
            },
        };
        self.waiting.push_back(waiting);
        Ok(())
    }

    fn run_in_order(&mut self, done: &mut Vec<LogDone>, run: &mut LogRun) -> Result<(), LogError> {
        while let Some(front) = self.waiting.front() {
            if matches!(front, Waiting::Write { .. }) {
                self.write_batch(usize::MAX, done, run)?;
            } else if let Some(job) = self.waiting.pop_front()
                && let Err(error) = self.change_list(&job, done)
            {
                self.waiting.push_front(job);
                return Err(error);
            }
        }
        Ok(())
    }

    /// While entries wait for room, votes, terms, installations and truncations go ahead on the log's reserve: elections do not stop
    /// because the disk is full, and what lets go of segments is what makes room. What a replica wants written stays in its order, with
    /// one exception: a truncation that changes nothing but where the log begins waits for nobody.
    fn run_without_room(&mut self, done: &mut Vec<LogDone>, run: &mut LogRun) -> Result<(), LogError> {
        let mut held = VecDeque::new();
        let mut held_keys = BTreeSet::new();
        for mut job in std::mem::take(&mut self.waiting) {
            let must_wait =
                job.keys().iter().any(|key| held_keys.contains(key)) || self.has_writes_before(&job);
            match &mut job {
                Waiting::Write { write, .. } if !must_wait && write.entries.is_empty() => {
                    self.waiting.push_back(job);
                    continue;
                }
                Waiting::Write { write, .. } => {
                    if let Some(truncation) = self.store.truncation_ahead(write) {
                        write.mark = None;
                        self.waiting.push_back(Waiting::Write { write: truncation, answer: None });
                    }
                }
                _ if must_wait => {}
                _ => match self.change_list(&job, done) {
                    Ok(()) => continue,
                    Err(LogError::Full { .. }) => {}
                    Err(error) => return Err(error),
                },
            }
            held_keys.extend(job.keys());
            held.push_back(job);
        }
        let mut result = Ok(());
        while result.is_ok() && !self.waiting.is_empty() {
            result = self.write_batch(usize::MAX, done, run);
        }
        // None of what is left here has anything of its replica in front of it among the others.
        self.waiting.append(&mut held);
        result
    }

    /// Whether a question is about a replica of which something is still to be written.
    fn has_writes_before(&self, job: &Waiting) -> bool {
        let Waiting::Find { key, .. } = job else { return false };
        self.waiting.iter().any(|waiting| waiting.keys().contains(key))
    }

    fn change_list(&mut self, job: &Waiting, done: &mut Vec<LogDone>) -> Result<(), LogError> {
        match job {
            Waiting::Write { .. } => {}
            Waiting::Add { token, replicas } => {
                self.store.add_replicas(replicas)?;
                done.push(LogDone::Added { token: *token });
            }
            Waiting::Remove { token, key } => {
                self.store.remove_replica(*key)?;
                done.push(LogDone::Removed { token: *token });
            }
            Waiting::Find { token, key, reply } => {
                // Nobody waits any more when the caller gave up.
                let _ = reply.try_send(self.store.head(*key).filter(|_| !self.refused.contains(key)));
                done.push(LogDone::Found { token: *token });
            }
        }
        Ok(())
    }

    /// Writes what waits at the front, up to a bound, as one batch.
    fn write_batch(
        &mut self,
        writes_max: usize,
        done: &mut Vec<LogDone>,
        run: &mut LogRun,
    ) -> Result<(), LogError> {
        let (mut batch, mut answers) = (Vec::new(), Vec::new());
        let mut marked = BTreeSet::new();
        let mut bytes = 0;
        while let Some(Waiting::Write { write, .. }) = self.waiting.front() {
            let key = write.key;
            let Some(write_bytes) = self.store.weigh(write).filter(|_| !self.refused.contains(&key)) else {
                // The replica was removed while a turn of its core was under way: nobody waits for this any more, and "durable" would be
                // untrue. (One that is refused was told.)
                tracing::debug!(group = %key.group, replica = %key.replica, "not written: the log does not know the replica");
                self.waiting.pop_front();
                continue;
            };
            // What a second mark of a replica weighs depends on the first.
            let is_second_mark = write.mark.is_some() && !marked.insert(key);
            let is_too_much = bytes + write_bytes > self.batch_bytes_target || is_second_mark;
            if batch.len() == writes_max || (is_too_much && !batch.is_empty()) {
                break;
            }
            bytes += write_bytes;
            if let Some(Waiting::Write { write, answer }) = self.waiting.pop_front() {
                batch.push(write);
                answers.push(answer);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        match self.store.write(&batch) {
            Ok(written) => {
                run.batches += 1;
                run.bytes += written.bytes;
                let entries = batch.iter().flat_map(|write| &write.entries);
                run.payload_bytes += entries.map(|entry| entry.payload.len() as u64).sum::<u64>();
                done.extend(answers.into_iter().flatten());
                Ok(())
            }
            Err(LogError::Misuse(reason)) if batch.len() == 1 => {
                // A mistake of this program, and this replica's alone: to go on without the write would break its word, to stop everybody
                // would be no safer.
                for GroupWrite { key, .. } in batch {
                    self.refused.insert(key);
                    done.push(LogDone::Refused { key: Box::new(key), reason: reason.clone() });
                }
                Ok(())
            }
            Err(LogError::Misuse(_)) => {
                // Nothing of it was taken: each by itself tells whose it is.
                let writes = batch.len();
                self.put_back(batch, answers);
                (0..writes).try_for_each(|_| self.write_batch(1, done, run))
            }
            Err(error @ LogError::Full { .. }) => {
                // Nothing of it was taken: it waits, in order, for room.
                self.put_back(batch, answers);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    fn put_back(&mut self, batch: Vec<GroupWrite>, answers: Vec<Option<LogDone>>) {
        for (write, answer) in batch.into_iter().zip(answers).rev() {
            self.waiting.push_front(Waiting::Write { write, answer });
        }
    }
}

impl Waiting {
    /// Whose order it must keep.
    fn keys(&self) -> Vec<LogKey> {
        match self {
            Waiting::Write { write, .. } => vec![write.key],
            Waiting::Add { replicas, .. } => replicas.iter().map(|(key, ..)| *key).collect(),
            Waiting::Remove { key, .. } | Waiting::Find { key, .. } => vec![*key],
        }
    }
}

/// A batch is closed here: large enough to amortise its sync, small enough that a small write behind it does not wait long
/// (oversized batches were measured to hurt at 1 KiB values, decision 2), and far below what the log takes at most.
const BATCH_BYTES_TARGET: usize = 4 << 20;
const _: () = assert!(BATCH_BYTES_TARGET + mraft_types::limits::FRAME_BYTES_MAX < BATCH_BYTES_MAX);

/// What the core asks to be written, as the log takes it.
pub(crate) fn group_write(key: LogKey, write: mraft_raft::Write) -> GroupWrite {
    let mark = match (write.condemned, write.truncate) {
        (Some(reason), _) => Some(Mark::Condemned(reason)),
        (None, Some(start)) => Some(Mark::Truncate(start)),
        (None, None) => None,
    };
    GroupWrite { key, hard_state: write.hard_state, entries: write.entries, mark }
}

#[cfg(test)]
mod tests;
