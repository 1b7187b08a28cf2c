// SPDX-License-Identifier: Apache-2.0

//! A state machine that lets the real one work and writes down what it was given and what it answered, for the model.

use std::sync::{Arc, Mutex, PoisonError};

use mraft::machines::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::Index;

use crate::check::model;

/// Entries with what their commands did.
type Entries = Vec<(Index, Vec<model::Applied>)>;

/// What a replica applied since somebody asked last, entry by entry. A batch that is not committed is not among it.
#[derive(Clone, Debug, Default)]
pub struct Applied(Arc<Mutex<Entries>>);

impl Applied {
    /// Takes it.
    pub fn take(&self) -> Entries {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// See the module.
pub struct Recorder {
    inner: Box<dyn StateMachine>,
    uncommitted: Entries,
    applied: Applied,
}

impl Recorder {
    /// Writes down what `inner` does.
    pub fn new(inner: Box<dyn StateMachine>, applied: Applied) -> Recorder {
        Recorder { inner, uncommitted: Vec::new(), applied }
    }
}

impl StateMachine for Recorder {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        self.inner.open(staged)
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        let first = results.len();
        self.inner.apply(commands, results)?;
        for (at, command) in commands.iter().enumerate() {
            let result = results.get(first + at).unwrap_or_default().to_vec();
            let applied = model::Applied { body: command.body.to_vec(), result };
            match self.uncommitted.last_mut() {
                Some((index, entry)) if *index == command.index => entry.push(applied),
                _ => self.uncommitted.push((command.index, vec![applied])),
            }
        }
        Ok(())
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        self.inner.commit(applied, meta)?;
        self.applied.0.lock().unwrap_or_else(PoisonError::into_inner).append(&mut self.uncommitted);
        Ok(())
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
        self.uncommitted.clear();
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
