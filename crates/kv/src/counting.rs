// SPDX-License-Identifier: Apache-2.0

//! [`CountingMachine`]: counts commands and their bytes and does nothing with them, so that a benchmark measures consensus and the log
//! alone. It is a whole machine all the same: it persists, is replaced by snapshots and can be compared.
//!
//! ```text
//! <dir>/state, <dir>/staged-<number>   atomically replaced: magic "mraftcnt", then a state
//! state := version:u8=1  applied:u64  commands:u64  bytes:u64  host_meta (the rest)
//! ```

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use mraft_disk::{Disk, atomic};
use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::Index;
use mraft_types::codec::{DecodeError, Reader, Writer};

use crate::meta::{HOST_META_BYTES_MAX, counted, damaged};

const MAGIC: [u8; 8] = *b"mraftcnt";
const VERSION: u8 = 1;
const STATE_BYTES_MAX: usize = HOST_META_BYTES_MAX + 64;
const STAGED_PREFIX: &str = "staged-";
/// Commands after which the counts are written again.
const COMMANDS_PER_PERSIST: u64 = 1 << 16;

/// See the module.
pub struct CountingMachine {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// With what is not committed yet.
    state: Counts,
    shared: Arc<Shared>,
    job_is_out: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    applied: Index,
    commands: u64,
    bytes: u64,
    host_meta: Vec<u8>,
}

#[derive(Debug, Default)]
struct Shared {
    published: Mutex<Counts>,
    /// What is on disk; locked while it is written.
    persisted: Mutex<Counts>,
}

impl CountingMachine {
    /// A machine that persists itself below `dir`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> CountingMachine {
        CountingMachine { disk, dir, state: Counts::default(), shared: Arc::default(), job_is_out: false }
    }

    /// Commands and bytes in the answer to a query.
    pub fn decode_answer(answer: &[u8]) -> Result<(u64, u64), DecodeError> {
        let mut reader = Reader::new(answer);
        let counts = (reader.u64("commands")?, reader.u64("bytes")?);
        reader.finish()?;
        Ok(counts)
    }

    fn state_path(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn staged_path(&self, directory: u64) -> PathBuf {
        self.dir.join(format!("{STAGED_PREFIX}{directory}"))
    }

    fn read(&self, path: &std::path::Path) -> Result<Option<Counts>, MachineError> {
        match atomic::read(&*self.disk, path, MAGIC, STATE_BYTES_MAX) {
            Ok(bytes) => bytes.as_deref().map(Counts::decode).transpose(),
            Err(atomic::ReadError::Io(error)) => Err(MachineError::Io(error)),
            Err(error) => Err(MachineError::Damaged(format!("the counts: {error}"))),
        }
    }

    fn go_live(&mut self, counts: Counts) -> Result<(), MachineError> {
        self.shared.published()?.clone_from(&counts);
        self.shared.persisted()?.clone_from(&counts);
        self.state = counts;
        Ok(())
    }

    fn writing(&self) -> Result<Writing, MachineError> {
        let counts = self.shared.published()?.clone();
        Ok(Writing { disk: self.disk.clone(), path: self.state_path(), counts, shared: self.shared.clone() })
    }

    fn unpersisted_commands(&self) -> u64 {
        self.shared.persisted().map_or(0, |persisted| self.state.commands.saturating_sub(persisted.commands))
    }
}

impl Counts {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u8(VERSION);
        bytes.put_u64(self.applied);
        bytes.put_u64(self.commands);
        bytes.put_u64(self.bytes);
        bytes.put_raw(&self.host_meta);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Counts, MachineError> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            match reader.u8("version")? {
                VERSION => {}
                other => return Err(DecodeError::Unknown("version", u64::from(other))),
            }
            let applied = reader.u64("applied").and_then(|number| counted("applied", number))?;
            // Whatever they are: they stop at the end of all numbers.
            let (commands, bytes) = (reader.u64("commands")?, reader.u64("bytes")?);
            let host_meta = reader.take("host_meta", reader.remaining())?.to_vec();
            Ok(Counts { applied, commands, bytes, host_meta })
        };
        read().map_err(|error| damaged("the counts", error))
    }
}

impl Shared {
    fn published(&self) -> Result<MutexGuard<'_, Counts>, MachineError> {
        self.published.lock().map_err(|_| panicked())
    }

    fn persisted(&self) -> Result<MutexGuard<'_, Counts>, MachineError> {
        self.persisted.lock().map_err(|_| panicked())
    }
}

impl StateMachine for CountingMachine {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        self.disk.create_dir_all(&self.dir)?;
        let kept = staged.map(|directory| format!("{STAGED_PREFIX}{directory}"));
        for entry in self.disk.read_dir(&self.dir)? {
            if entry.name.starts_with(STAGED_PREFIX) && kept.as_ref() != Some(&entry.name) {
                self.disk.remove_file(&self.dir.join(entry.name))?;
            }
        }
        self.disk.sync_dir(&self.dir)?;
        let found = self.read(&self.state_path())?;
        let host_meta = found.as_ref().map(|counts| counts.host_meta.clone());
        self.go_live(found.unwrap_or_default())?;
        Ok(host_meta)
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        for command in commands {
            self.state.commands = self.state.commands.saturating_add(1);
            self.state.bytes = self.state.bytes.saturating_add(command.body.len() as u64);
            results.push(&[]);
        }
        Ok(())
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        self.state.applied = applied;
        self.state.host_meta.clear();
        self.state.host_meta.extend_from_slice(meta);
        self.shared.published()?.clone_from(&self.state);
        Ok(())
    }

    fn persisted(&self) -> Index {
        self.shared.persisted().map_or(0, |persisted| persisted.applied)
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        let wanted = match urgency {
            Urgency::Normal => self.unpersisted_commands() >= COMMANDS_PER_PERSIST,
            Urgency::Pressing => self.shared.published().ok()?.applied > self.persisted(),
        };
        if self.job_is_out || !wanted {
            return None;
        }
        let job = self.writing().ok()?;
        self.job_is_out = true;
        Some(Box::new(job))
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        self.job_is_out = false;
        result
    }

    fn unpersisted_bytes(&self) -> usize {
        0
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(CountingLookup { shared: self.shared.clone() })
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(CountingView { counts: self.shared.published()?.clone(), is_done: false }))
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        let path = self.staged_path(directory);
        Ok(Box::new(CountingStage { disk: self.disk.clone(), path, host_meta: meta.to_vec(), counts: None }))
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        let path = self.staged_path(directory);
        let Some(counts) = self.read(&path)? else {
            // A crash after the switch and before anybody knew: the counts are those of the snapshot already.
            return Ok(self.shared.published()?.host_meta.clone());
        };
        {
            // A late job finds newer counts on disk and leaves them.
            let _persisted = self.shared.persisted()?;
            self.disk.rename(&path, &self.state_path())?;
            self.disk.sync_dir(&self.dir)?;
        }
        let host_meta = counts.host_meta.clone();
        self.go_live(counts)?;
        Ok(host_meta)
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        // The switch is a rename: what is still there was not switched to.
        Ok(!self.disk.exists(&self.staged_path(directory))?)
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        let path = self.staged_path(directory);
        if self.disk.exists(&path)? {
            self.disk.remove_file(&path)?;
        }
        Ok(())
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        Box::new(self.writing()?).run()
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        let published = self.shared.published()?;
        Ok(Box::new(CountedContent(u128::from(published.commands) << 64 | u128::from(published.bytes))))
    }
}

struct CountedContent(u128);

impl ContentView for CountedContent {
    fn hash(self: Box<Self>) -> Result<u128, MachineError> {
        Ok(self.0)
    }
}

struct Writing {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    counts: Counts,
    shared: Arc<Shared>,
}

impl BackgroundJob for Writing {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        let mut persisted = self.shared.persisted()?;
        if persisted.applied < self.counts.applied {
            atomic::replace(&*self.disk, &self.path, MAGIC, &self.counts.encode())?;
            persisted.clone_from(&self.counts);
        }
        Ok(())
    }
}

struct CountingLookup {
    shared: Arc<Shared>,
}

impl Lookup for CountingLookup {
    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        let published = self.shared.published()?;
        answer.put_u64(published.commands);
        answer.put_u64(published.bytes);
        Ok(())
    }
}

struct CountingView {
    counts: Counts,
    is_done: bool,
}

impl SnapshotView for CountingView {
    fn meta(&self) -> &[u8] {
        &self.counts.host_meta
    }

    fn next_chunk(&mut self, _max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(false);
        }
        let counts = Counts { host_meta: Vec::new(), ..self.counts };
        out.extend_from_slice(&counts.encode());
        Ok(true)
    }
}

struct CountingStage {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    host_meta: Vec<u8>,
    counts: Option<Counts>,
}

impl SnapshotStage for CountingStage {
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), MachineError> {
        let counts = Counts::decode(chunk)?;
        if self.counts.is_some() || !counts.host_meta.is_empty() {
            return Err(MachineError::Damaged("a snapshot: more than one state".to_owned()));
        }
        self.counts = Some(counts);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MachineError> {
        let CountingStage { disk, path, host_meta, counts } = *self;
        let counts = counts.ok_or_else(|| MachineError::Damaged("a snapshot: it is empty".to_owned()))?;
        atomic::replace(&*disk, &path, MAGIC, &Counts { host_meta, ..counts }.encode())?;
        Ok(())
    }
}

fn panicked() -> MachineError {
    MachineError::Failed("a panic left the counts half written".to_owned())
}
