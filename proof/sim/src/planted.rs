// SPDX-License-Identifier: Apache-2.0

//! Bugs that the simulator must find: a check that never fails proves nothing.
//!
//! They are planted around the product's code, at the seams, so that no product binary contains one.

use std::sync::Arc;

use mraft::machines::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_logstore::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Recovered, Written};
use mraft_types::{HardState, Index, LogStart};

use crate::check::promise;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Planted {
    /// The disk says that it synced and did not (rule D7).
    SkippedSync,
    /// The vote is not written (rule D1).
    ForgottenVote,
    /// Writes are reported durable before they are made (rule D2).
    EarlyAcknowledge,
    /// The log is truncated up to what is applied instead of what the store persisted (rule D11).
    EarlyTruncation,
    /// The store's meta lags behind its data: a restart applies a batch twice (rule E7).
    DoubleApply,
    /// Whoever believes to lead serves reads without asking a quorum (rule R1).
    ReadWithoutRound,
}

impl Planted {
    /// All of them.
    pub const ALL: [Planted; 6] = [
        Planted::SkippedSync,
        Planted::ForgottenVote,
        Planted::EarlyAcknowledge,
        Planted::EarlyTruncation,
        Planted::DoubleApply,
        Planted::ReadWithoutRound,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Planted::SkippedSync => "skipped-sync",
            Planted::ForgottenVote => "forgotten-vote",
            Planted::EarlyAcknowledge => "early-acknowledge",
            Planted::EarlyTruncation => "early-truncation",
            Planted::DoubleApply => "double-apply",
            Planted::ReadWithoutRound => "read-without-round",
        }
    }

    /// The promises that it may break. Another one that breaks is no proof that this bug is found.
    pub fn promises(self) -> &'static [&'static str] {
        match self {
            // What was durable is not: entries, votes and files are gone after a power cut.
            Planted::SkippedSync => &[
                promise::SURVIVES,
                promise::LINEARIZABLE,
                promise::CHAINS_EQUAL,
                promise::ONE_LEADER,
                promise::COMES_BACK,
                promise::NOT_CONDEMNED,
            ],
            // Two leaders of one term, what these write over each other, and what one of them takes for proof of a lost log (rule D9).
            Planted::ForgottenVote => &[
                promise::ONE_LEADER,
                promise::CHAINS_EQUAL,
                promise::LINEARIZABLE,
                promise::SURVIVES,
                promise::NOT_CONDEMNED,
            ],
            // Entries that count as a majority's are on fewer disks: some are replaced by others after they were applied, and some are
            // to be applied that no disk has.
            Planted::EarlyAcknowledge => &[
                promise::SURVIVES,
                promise::LINEARIZABLE,
                promise::CHAINS_EQUAL,
                promise::LOG_TIME,
                promise::ONE_LEADER,
                promise::NOT_CONDEMNED,
                promise::NO_ENTRY_STOPS,
            ],
            // The log begins behind the state.
            Planted::EarlyTruncation => &[promise::NOT_CONDEMNED, promise::COMES_BACK],
            // A replica's state has more in it than its meta says.
            Planted::DoubleApply => &[
                promise::CHAINS_EQUAL,
                promise::LINEARIZABLE,
                promise::MEMBERS_EQUAL,
                promise::NOT_CONDEMNED,
                promise::STAGEABLE,
            ],
            Planted::ReadWithoutRound => &[promise::LINEARIZABLE],
        }
    }
}

/// A log that does not write votes.
pub(crate) struct Voteless(pub(crate) Box<dyn LogStore>);

impl LogStore for Voteless {
    fn recovered(&self) -> Vec<Recovered> {
        self.0.recovered()
    }

    fn head(&self, key: LogKey) -> Option<Recovered> {
        self.0.head(key)
    }

    fn add_replicas(&mut self, replicas: &[(LogKey, LogStart, HardState)]) -> Result<(), LogError> {
        self.0.add_replicas(replicas)
    }

    fn remove_replica(&mut self, key: LogKey) -> Result<(), LogError> {
        self.0.remove_replica(key)
    }

    fn write(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError> {
        let mut batch = batch.to_vec();
        for write in &mut batch {
            write.hard_state.vote = None;
        }
        self.0.write(&batch)
    }

    fn weigh(&self, write: &GroupWrite) -> Option<usize> {
        self.0.weigh(write)
    }

    fn maintain(&mut self) -> Result<bool, LogError> {
        self.0.maintain()
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.0.seal()
    }

    fn durable_seq(&self) -> u64 {
        self.0.durable_seq()
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        self.0.reader()
    }

    fn status(&self) -> LogStatus {
        self.0.status()
    }
}

/// A state machine that persists the meta of one batch ago with the data of now.
pub(crate) struct LateMeta {
    inner: Box<dyn StateMachine>,
    before: Option<(Index, Vec<u8>)>,
}

impl LateMeta {
    pub(crate) fn new(inner: Box<dyn StateMachine>) -> LateMeta {
        LateMeta { inner, before: None }
    }
}

impl StateMachine for LateMeta {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        self.inner.open(staged)
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.inner.apply(commands, results)
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        let before = self.before.replace((applied, meta.to_vec()));
        match before {
            Some((applied, meta)) => self.inner.commit(applied, &meta),
            None => self.inner.commit(applied, meta),
        }
    }

    fn persisted(&self) -> Index {
        self.inner.persisted()
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        self.inner.background(urgency)
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        self.inner.background_done(result)
    }

    fn unpersisted_bytes(&self) -> usize {
        self.inner.unpersisted_bytes()
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        self.inner.lookup()
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        self.inner.snapshot()
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        self.inner.stage(directory, meta)
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        self.before = None;
        self.inner.switch(directory)
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        self.inner.is_live(directory)
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        self.inner.discard(directory)
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        self.inner.persist()
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        self.inner.content_view()
    }
}
