// SPDX-License-Identifier: Apache-2.0

//! The log's side of a turn: everything that waits becomes one batch, one write, one fdatasync for all groups.
//!
//! The log thread runs this; it sends nothing to peers (rule D5): what became durable goes back to the step workers as events.
//! The simulator runs the same code over a simulated disk.

use std::collections::VecDeque;

use mraft_logstore::{Fill, Filled, GroupWrite, LogError, LogKey, LogStore, Mark};
use mraft_types::limits::BATCH_BYTES_MAX;
use mraft_types::{GroupId, HardState, LogStart};

/// Something to be made durable.
#[derive(Debug)]
pub enum LogJob {
    /// A replica's write; answered by [`LogDone::Persisted`].
    Write {
        /// The group.
        group: GroupId,
        /// The core's number of it.
        number: u64,
        /// What to write.
        write: GroupWrite,
    },
    /// Step 4 or 6 of a snapshot's installation (rule N1); answered by [`LogDone::InstallStep`].
    InstallStep {
        /// The group.
        group: GroupId,
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
}

/// What became of it.
#[derive(Debug)]
pub enum LogDone {
    /// All writes of the group up to this number are durable.
    Persisted {
        /// The group.
        group: GroupId,
        /// The number.
        number: u64,
    },
    /// The mark is durable.
    InstallStep {
        /// The group.
        group: GroupId,
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
}

/// How the log is doing after a run.
#[derive(Debug)]
pub enum LogHealth {
    /// Everything that was handed in is durable.
    Well,
    /// There is no room for another segment: the rest waits, and the node takes no proposals meanwhile (rule D10).
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
    waiting: VecDeque<LogJob>,
    batch_bytes_target: usize,
    failed: bool,
}

impl LogWorker {
    /// Takes the log over.
    pub fn new(store: Box<dyn LogStore>) -> LogWorker {
        LogWorker { store, waiting: VecDeque::new(), batch_bytes_target: BATCH_BYTES_TARGET, failed: false }
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

    /// Makes everything durable that was handed in now or still waits, in order.
    pub fn run(
        &mut self,
        jobs: impl IntoIterator<Item = LogJob>,
        done: &mut Vec<LogDone>,
    ) -> (LogHealth, LogRun) {
        self.waiting.extend(jobs);
        let mut run = LogRun::default();
        if self.failed {
            // Nothing is written behind a failed write, and nobody is told that it was.
            self.waiting.clear();
            return (LogHealth::Well, run);
        }
        while !self.waiting.is_empty() {
            if let Err(error) = self.run_some(done, &mut run) {
                if matches!(error, LogError::Full { .. }) {
                    return (LogHealth::Full, run);
                }
                self.failed = true;
                self.waiting.clear();
                return (LogHealth::Failed(error), run);
            }
        }
        (LogHealth::Well, run)
    }

    /// Housekeeping while nothing waits; `true` when there is more to do.
    pub fn maintain(&mut self) -> (LogHealth, bool) {
        if self.failed {
            return (LogHealth::Well, false);
        }
        match self.store.maintain() {
            Ok(more) => (LogHealth::Well, more),
            Err(error) => (self.health_of(error), false),
        }
    }

    /// A spare segment for somebody else to fill; comes back as [`LogJob::Filled`].
    pub fn lend_fill(&mut self) -> (LogHealth, Option<Fill>) {
        if self.failed {
            return (LogHealth::Well, None);
        }
        match self.store.lend_fill() {
            Ok(fill) => (LogHealth::Well, fill),
            Err(error) => (self.health_of(error), None),
        }
    }

    fn health_of(&mut self, error: LogError) -> LogHealth {
        if matches!(error, LogError::Full { .. }) {
            return LogHealth::Full;
        }
        self.failed = true;
        LogHealth::Failed(error)
    }

    /// The seal behind the last batch (rule L3).
    pub fn seal(&mut self) -> Result<(), LogError> {
        if self.failed { Ok(()) } else { self.store.seal() }
    }

    fn run_some(&mut self, done: &mut Vec<LogDone>, run: &mut LogRun) -> Result<(), LogError> {
        let is_write = |job: &LogJob| matches!(job, LogJob::Write { .. } | LogJob::InstallStep { .. });
        let Some(job) = self.waiting.pop_front_if(|job| !is_write(job)) else {
            return self.write_batch(done, run);
        };
        let result = match &job {
            LogJob::Add { token, replicas } => {
                self.store.add_replicas(replicas).map(|()| done.push(LogDone::Added { token: *token }))
            }
            LogJob::Remove { token, key } => {
                self.store.remove_replica(*key).map(|()| done.push(LogDone::Removed { token: *token }))
            }
            _ => Ok(()),
        };
        match (result, job) {
            // It waits, in order, for room.
            (Err(error @ LogError::Full { .. }), job) => {
                self.waiting.push_front(job);
                Err(error)
            }
            (Ok(()), LogJob::Filled(filled)) => self.store.take_fill(filled),
            (result, _) => result,
        }
    }

    fn write_batch(&mut self, done: &mut Vec<LogDone>, run: &mut LogRun) -> Result<(), LogError> {
        let mut batch: Vec<GroupWrite> = Vec::new();
        let mut answers: Vec<LogDone> = Vec::new();
        let mut bytes = 0;
        while let Some(LogJob::Write { write, .. } | LogJob::InstallStep { write, .. }) = self.waiting.front()
        {
            let write_bytes =
                WRITE_OVERHEAD_BYTES + write.entries.iter().map(|entry| entry.cost_bytes()).sum::<usize>();
            if !batch.is_empty() && bytes + write_bytes > self.batch_bytes_target {
                break;
            }
            bytes += write_bytes;
            match self.waiting.pop_front() {
                Some(LogJob::Write { group, number, write }) => {
                    run.payload_bytes +=
                        write.entries.iter().map(|entry| entry.payload.len() as u64).sum::<u64>();
                    batch.push(write);
                    answers.push(LogDone::Persisted { group, number });
                }
                Some(LogJob::InstallStep { group, write }) => {
                    batch.push(write);
                    answers.push(LogDone::InstallStep { group });
                }
                _ => break,
            }
        }
        match self.store.write(&batch) {
            Ok(written) => {
                run.batches += 1;
                run.bytes += written.bytes;
                done.append(&mut answers);
                Ok(())
            }
            Err(error) => {
                if matches!(error, LogError::Full { .. }) {
                    // Nothing of the batch was taken: it waits, in order, for room.
                    for (write, answer) in batch.into_iter().zip(answers).rev() {
                        self.waiting.push_front(match answer {
                            LogDone::Persisted { group, number } => LogJob::Write { group, number, write },
                            LogDone::InstallStep { group } => LogJob::InstallStep { group, write },
                            LogDone::Added { .. } | LogDone::Removed { .. } => continue,
                        });
                    }
                }
                Err(error)
            }
        }
    }
}

/// What a record takes beside its entries, generously.
const WRITE_OVERHEAD_BYTES: usize = 512;
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
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use mraft_disk::memory::Faults;
    use mraft_disk::{Disk, MemoryDisk};
    use mraft_logstore::{LogOptions, SegmentLog};
    use mraft_types::{GroupUid, NodeId, ReplicaId};

    use super::*;

    #[test]
    fn d10_a_replica_that_finds_the_disk_full_is_added_when_there_is_room() {
        let disk = Arc::new(MemoryDisk::new());
        let directory = Path::new("/log");
        disk.create_dir_all(directory).expect("a directory");
        let options = LogOptions::new(1 << 20, Box::new(|| 7)).with_batch_bytes_max(1 << 18);
        let log = SegmentLog::open(Arc::clone(&disk) as Arc<dyn Disk>, directory, options).expect("opened");
        let mut worker = LogWorker::new(Box::new(log));
        let key = LogKey {
            group: GroupId(1),
            uid: GroupUid([1; 16]),
            replica: ReplicaId::new(0, NodeId::new(1).expect("a node id")),
        };
        let add = LogJob::Add { token: 9, replicas: vec![(key, LogStart::default(), HardState::default())] };
        let used = disk.files().iter().map(|(_, bytes)| bytes).sum();
        disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
        let mut done = Vec::new();
        let (health, _) = worker.run([add], &mut done);
        assert!(matches!(health, LogHealth::Full) && done.is_empty(), "{health:?} {done:?}");
        disk.set_faults(Faults::default());
        let (health, _) = worker.run([], &mut done);
        assert!(matches!(health, LogHealth::Well), "{health:?}");
        assert!(matches!(done[..], [LogDone::Added { token: 9 }]), "{done:?}");
    }
}
