// SPDX-License-Identifier: Apache-2.0

//! Users' state machines: three kinds, and how the simpler two become what the engine wants.
//!
//! | kind | state | lookups | persisted by |
//! |---|---|---|---|
//! | [`InMemoryMachine`] | in memory | exclude `apply` | the host: whole state, every so many entries |
//! | [`ConcurrentMachine`] | in memory | beside `apply` | the same; its view is taken without stopping |
//! | [`StateMachine`] (on disk) | its own files | beside `apply` | itself, with the meta it is handed |
//!
//! The state of the first two kinds lives in one file per group, replaced atomically: {meta, state} as of one commit. Until it is
//! written anew, the log keeps what follows it.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use mraft_disk::{Disk, Open};
pub use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::Index;
use mraft_types::codec::{Reader, Writer};

use crate::files;

const STATE_MAGIC: [u8; 8] = *b"mraftmem";
const STATE_FILE: &str = "state";
const STATE_VERSION: u8 = 1;
/// Largest state of a machine in memory: it is written and sent as one piece.
const STATE_BYTES_MAX: usize = 1 << 30;
const META_BYTES_MAX: usize = 256 << 10;

/// A state machine in memory. Lookups and `apply` exclude each other; nothing else has to be thought of.
pub trait InMemoryMachine: Send + Sync + 'static {
    /// Applies one command and appends its answer. Must be deterministic: no clock, no chance, no order of a hash map.
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>);
    /// Answers a query about the state.
    fn query(&self, query: &[u8], answer: &mut Vec<u8>);
    /// Appends the whole state; equal states on two replicas give equal bytes.
    fn save(&self, state: &mut Vec<u8>);
    /// Replaces the state by saved bytes, which may come from another node: what does not decode is an error, never a panic.
    fn restore(&mut self, state: &[u8]) -> Result<(), String>;
}

/// A state machine in memory that synchronises itself, so that lookups and saving go on while commands are applied.
pub trait ConcurrentMachine: Send + Sync + 'static {
    /// Applies commands in order; called by one thread at a time.
    fn apply(&self, commands: &[Command<'_>], results: &mut Results);
    /// Answers a query about what is applied; called from any thread at any time.
    fn query(&self, query: &[u8], answer: &mut Vec<u8>);
    /// Appends the whole state; called by the thread that applies.
    fn save(&self, state: &mut Vec<u8>);
    /// Replaces the state by saved bytes.
    fn restore(&self, state: &[u8]) -> Result<(), String>;
}

/// An in-memory machine behind one lock.
struct Exclusive<M>(RwLock<M>);

impl<M: InMemoryMachine> ConcurrentMachine for Exclusive<M> {
    fn apply(&self, commands: &[Command<'_>], results: &mut Results) {
        let mut machine = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for command in commands {
            results.push_with(|answer| machine.apply(command, answer));
        }
    }

    fn query(&self, query: &[u8], answer: &mut Vec<u8>) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).query(query, answer);
    }

    fn save(&self, state: &mut Vec<u8>) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).save(state);
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).restore(state)
    }
}

/// Turns an [`InMemoryMachine`] into a [`StateMachine`] whose state is kept in `directory`.
pub fn in_memory(
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    snapshot_entries: u64,
    machine: impl InMemoryMachine,
) -> Box<dyn StateMachine> {
    concurrent(disk, directory, snapshot_entries, Exclusive(RwLock::new(machine)))
}

/// Turns a [`ConcurrentMachine`] into a [`StateMachine`] whose state is kept in `directory`: written anew after every
/// `snapshot_entries` entries (0: only when asked to, and when a snapshot is installed).
pub fn concurrent(
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    snapshot_entries: u64,
    machine: impl ConcurrentMachine,
) -> Box<dyn StateMachine> {
    Box::new(Memory {
        files: Files { disk, directory },
        machine: Arc::new(machine),
        snapshot_entries,
        meta: Vec::new(),
        applied: 0,
        persisted: Arc::new(AtomicU64::new(0)),
        unpersisted_bytes: 0,
        background: false,
        writing: Arc::new(Mutex::new(())),
    })
}

#[derive(Clone)]
struct Files {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
}

impl Files {
    fn state(&self) -> PathBuf {
        self.directory.join(STATE_FILE)
    }

    /// Makes durable what is there: a process that was killed may have left it in memory only (rule D7), and the log is about to be
    /// truncated up to it.
    fn own(&self) -> std::io::Result<()> {
        if self.disk.exists(&self.state())? {
            self.disk.open(&self.state(), Open::Write)?.sync_data()?;
        }
        self.disk.sync_dir(&self.directory)
    }

    fn staged(&self, directory: u64) -> PathBuf {
        self.directory.join(format!("staged-{directory}"))
    }
}

struct Memory<M> {
    files: Files,
    machine: Arc<M>,
    snapshot_entries: u64,
    meta: Vec<u8>,
    applied: Index,
    persisted: Arc<AtomicU64>,
    unpersisted_bytes: usize,
    background: bool,
    /// The state file has one writer at a time: a background job, or an installation.
    writing: Arc<Mutex<()>>,
}

impl<M> fmt::Debug for Memory<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("directory", &self.files.directory)
            .field("applied", &self.applied)
            .finish()
    }
}

impl<M: ConcurrentMachine> Memory<M> {
    fn encoded(&self) -> Vec<u8> {
        let mut state = Vec::new();
        self.machine.save(&mut state);
        encode_state(self.applied, &self.meta, &state)
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), MachineError> {
        let (applied, meta, state) = decode_state(bytes)?;
        self.machine.restore(state).map_err(MachineError::Damaged)?;
        self.applied = applied;
        self.meta = meta.to_vec();
        self.persisted.store(applied, Ordering::Release);
        self.unpersisted_bytes = 0;
        Ok(())
    }
}

impl<M: ConcurrentMachine> StateMachine for Memory<M> {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        files::make_directory(self.files.disk.as_ref(), &self.files.directory)?;
        let keep = staged.map(|directory| self.files.staged(directory));
        files::remove_others(self.files.disk.as_ref(), &self.files.directory, "staged-", keep.as_deref())?;
        self.files.own()?;
        let bytes =
            files::read_state(self.files.disk.as_ref(), &self.files.state(), STATE_MAGIC, STATE_BYTES_MAX)?;
        let Some(bytes) = bytes else { return Ok(None) };
        self.load(&bytes)?;
        Ok(Some(self.meta.clone()))
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.unpersisted_bytes += commands.iter().map(|command| command.body.len()).sum::<usize>();
        self.machine.apply(commands, results);
        Ok(())
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        self.applied = applied;
        self.meta.clear();
        self.meta.extend_from_slice(meta);
        Ok(())
    }

    fn persisted(&self) -> Index {
        self.persisted.load(Ordering::Acquire)
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        let behind = self.applied.saturating_sub(self.persisted());
        let due = match urgency {
            Urgency::Normal => self.snapshot_entries > 0 && behind >= self.snapshot_entries,
            Urgency::Pressing => behind > 0,
        };
        if self.background || !due {
            return None;
        }
        self.background = true;
        self.unpersisted_bytes = 0;
        Some(Box::new(WriteState {
            files: self.files.clone(),
            bytes: self.encoded(),
            applied: self.applied,
            persisted: Arc::clone(&self.persisted),
            writing: Arc::clone(&self.writing),
        }))
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        self.background = false;
        result
    }

    fn unpersisted_bytes(&self) -> usize {
        // What is in memory stays there whether it is persisted or not: writing it frees no memory, only log.
        0
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(MemoryLookup(Arc::clone(&self.machine)))
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        Ok(Box::new(MemoryView { meta: self.meta.clone(), bytes: self.encoded(), sent: 0 }))
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        let path = self.files.staged(directory);
        Ok(Box::new(MemoryStage { files: self.files.clone(), path, meta: meta.to_vec(), bytes: Vec::new() }))
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        let writing = Arc::clone(&self.writing);
        let _one_writer = writing.lock().unwrap_or_else(PoisonError::into_inner);
        let disk = self.files.disk.as_ref();
        let bytes = files::read_state(disk, &self.files.staged(directory), STATE_MAGIC, STATE_BYTES_MAX)?
            .ok_or_else(|| MachineError::Damaged(format!("staged snapshot {directory} is gone")))?;
        files::rename(disk, &self.files.staged(directory), &self.files.state())?;
        self.load(&bytes)?;
        Ok(self.meta.clone())
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        // The switch is a rename: what is still there was not switched to.
        Ok(!self.files.disk.exists(&self.files.staged(directory))?)
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        Ok(files::remove(self.files.disk.as_ref(), &self.files.staged(directory))?)
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        if self.applied == self.persisted() {
            return Ok(());
        }
        Box::new(WriteState {
            files: self.files.clone(),
            bytes: self.encoded(),
            applied: self.applied,
            persisted: Arc::clone(&self.persisted),
            writing: Arc::clone(&self.writing),
        })
        .run()
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        let mut state = Vec::new();
        self.machine.save(&mut state);
        Ok(Box::new(SavedContent(state)))
    }
}

struct SavedContent(Vec<u8>);

impl ContentView for SavedContent {
    fn hash(self: Box<Self>) -> Result<u128, MachineError> {
        Ok(xxhash_rust::xxh3::xxh3_128(&self.0))
    }
}

struct MemoryLookup<M>(Arc<M>);

impl<M: ConcurrentMachine> Lookup for MemoryLookup<M> {
    fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        self.0.query(query, answer);
        Ok(())
    }
}

/// Replaces the state file, unless something newer is in it already.
struct WriteState {
    files: Files,
    bytes: Vec<u8>,
    applied: Index,
    persisted: Arc<AtomicU64>,
    writing: Arc<Mutex<()>>,
}

impl BackgroundJob for WriteState {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.persisted.load(Ordering::Acquire) >= self.applied {
            return Ok(());
        }
        files::replace_io(self.files.disk.as_ref(), &self.files.state(), STATE_MAGIC, &self.bytes)?;
        self.persisted.fetch_max(self.applied, Ordering::AcqRel);
        Ok(())
    }
}

struct MemoryView {
    meta: Vec<u8>,
    bytes: Vec<u8>,
    sent: usize,
}

impl SnapshotView for MemoryView {
    fn meta(&self) -> &[u8] {
        &self.meta
    }

    fn next_chunk(&mut self, max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError> {
        let end = self.bytes.len().min(self.sent + max_bytes.max(1));
        out.extend_from_slice(&self.bytes[self.sent..end]);
        let any = end > self.sent;
        self.sent = end;
        Ok(any)
    }
}

struct MemoryStage {
    files: Files,
    path: PathBuf,
    meta: Vec<u8>,
    bytes: Vec<u8>,
}

impl SnapshotStage for MemoryStage {
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), MachineError> {
        if self.bytes.len() + chunk.len() > STATE_BYTES_MAX {
            return Err(MachineError::Failed(format!("the state is larger than {STATE_BYTES_MAX} bytes")));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), MachineError> {
        let (_, meta, _) = decode_state(&self.bytes)?;
        if meta != self.meta {
            return Err(MachineError::Damaged(
                "the snapshot's meta is not the one it was announced with".to_owned(),
            ));
        }
        Ok(files::replace_io(self.files.disk.as_ref(), &self.path, STATE_MAGIC, &self.bytes)?)
    }
}

fn encode_state(applied: Index, meta: &[u8], state: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(state.len() + meta.len() + 32);
    bytes.put_u8(STATE_VERSION);
    bytes.put_varint(applied);
    bytes.put_bytes(meta);
    bytes.put_bytes(state);
    bytes
}

fn decode_state(bytes: &[u8]) -> Result<(Index, &[u8], &[u8]), MachineError> {
    let damaged = |error: mraft_types::codec::DecodeError| MachineError::Damaged(error.to_string());
    let mut reader = Reader::new(bytes);
    let version = reader.u8("state.version").map_err(damaged)?;
    if version != STATE_VERSION {
        return Err(MachineError::Unknown(format!(
            "state.version is {version}, which this build does not know"
        )));
    }
    let applied = reader.varint("state.applied").map_err(damaged)?;
    let meta = reader.bytes("state.meta", META_BYTES_MAX).map_err(damaged)?;
    let state = reader.bytes("state.bytes", STATE_BYTES_MAX).map_err(damaged)?;
    reader.finish().map_err(damaged)?;
    Ok((applied, meta, state))
}

#[cfg(test)]
mod tests {
    use mraft_disk::MemoryDisk;

    use super::*;

    struct Empty;

    impl InMemoryMachine for Empty {
        fn apply(&mut self, _command: &Command<'_>, _answer: &mut Vec<u8>) {}
        fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) {}
        fn save(&self, _state: &mut Vec<u8>) {}
        fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
            Ok(())
        }
    }

    fn opened(disk: &MemoryDisk) -> Box<dyn StateMachine> {
        let mut machine = in_memory(Arc::new(disk.clone()), "/state".into(), 0, Empty);
        machine.open(None).expect("nothing is damaged");
        machine
    }

    #[test]
    fn d7_what_was_opened_is_still_there_after_the_power_failed() {
        for fails_at in 0.. {
            let disk = MemoryDisk::new();
            let mut machine = opened(&disk);
            machine.commit(10, b"old").expect("committed");
            machine.persist().expect("no fault yet");
            machine.commit(20, b"new").expect("committed");
            disk.fail_from_operation(disk.operations() + fails_at);
            let is_persisted = machine.persist().is_ok();
            drop(machine);
            // The process is killed, not the machine: the next one finds what may be in memory only, and its log is truncated up to it.
            disk.kill();
            let found = opened(&disk).persisted();
            for seed in 0..8 {
                let disk = disk.fork();
                disk.crash(seed);
                assert!(opened(&disk).persisted() >= found, "failed at {fails_at}, seed {seed}");
            }
            if is_persisted {
                break;
            }
        }
    }
}
