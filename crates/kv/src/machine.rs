// SPDX-License-Identifier: Apache-2.0

//! [`KvMachine`]: the state machine on disk, as its owner sees it.
//!
//! The owner's thread applies and commits. `commit` is the only place where a full buffer is frozen, so a frozen buffer never holds
//! half a batch; [`StateMachine::background`] also freezes when the host presses and everything is committed. Flush and compaction are
//! jobs that the host runs elsewhere, one at a time; a flush moves the persisted point forward by itself when it is durable.
//!
//! Failures: an error of the tree stops the replica ([`Life::Failed`]): nothing more is applied, committed or flushed, and what was half
//! applied is forgotten with the process. The exception is a full disk: if the tree still is what it says it is, nothing was lost,
//! the buffers stay in memory, and the job is offered again when the host presses or the buffers have grown.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockWriteGuard};

use mraft_disk::{Disk, is_full};
use mraft_engine::machine::{
    BackgroundJob, Command, ContentView, Lookup, MachineError, Results, SnapshotStage, SnapshotView,
    StateMachine, Urgency,
};
use mraft_types::Index;

use crate::directories::{Directories, FIRST_DIRECTORY, Kind, Pointer};
use crate::execute::{self, State};
use crate::keys::{self, FAMILY_USER};
use crate::lsm::{Caches, L0_TABLES_HIGH, L0_TABLES_LOW, Tree};
use crate::merge::Merge;
use crate::meta::Point;
use crate::snapshot::{self, ChunkReader, ChunkWriter};
use crate::store::{Buffers, FROZEN_MAX, Store};
use crate::value::{self, StoredValue};
use crate::write_buffer::Full;

/// Commands that are applied before readers may have the lock again.
const COMMANDS_PER_LOCK: usize = 256;
/// An incoming snapshot is ingested in pieces of about this size: bounds its memory, and one table each.
const STAGE_BYTES: usize = 16 << 20;

/// What a node may choose for each of its machines.
#[derive(Clone, Debug)]
pub struct KvOptions {
    /// Size of the active buffer from which on it is flushed.
    pub flush_bytes: usize,
    /// Makes the hash of the write buffer unpredictable to clients; any random number, not persisted.
    pub hash_seed: u64,
}

impl Default for KvOptions {
    fn default() -> KvOptions {
        KvOptions { flush_bytes: 8 << 20, hash_seed: 0 }
    }
}

/// See the module.
pub struct KvMachine {
    directories: Directories,
    caches: Caches,
    options: KvOptions,
    /// Where lookups find the store; a switch replaces it.
    live: Arc<RwLock<Option<Arc<Store>>>>,
    life: Life,
}

/// What a machine can be.
enum Life {
    /// Not opened yet.
    Closed,
    /// At work.
    Open(Box<Open>),
    /// Stopped for good, with a reason.
    Failed(String),
}

struct Open {
    store: Arc<Store>,
    /// The group's revision, uncommitted mutations included.
    revision: u64,
    /// Something was applied since the last commit.
    uncommitted: bool,
    /// The job that is out.
    job: Option<Job>,
    /// The last compaction left something to do.
    compaction_unfinished: bool,
    /// After a full disk: the bytes of buffers from which on to try again without being pressed.
    retry_at_bytes: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    Flush,
    Compact,
}

struct Job {
    kind: JobKind,
    /// Of which store; a late job of a replaced one changes nothing here.
    directory: u64,
    unfinished: Arc<AtomicBool>,
}

impl KvMachine {
    /// A machine with its state below `dir`. The tree is always on the real file system; `disk` carries the pointer file and the
    /// directories, and must be the same file system.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, caches: &Caches, options: KvOptions) -> KvMachine {
        KvMachine {
            directories: Directories::new(disk, dir, Kind::Tree),
            caches: caches.clone(),
            options,
            live: Arc::default(),
            life: Life::Closed,
        }
    }

    fn opened(&mut self) -> Result<&mut Open, MachineError> {
        match &mut self.life {
            Life::Open(open) => Ok(open),
            Life::Closed => Err(MachineError::Failed("it is not open".to_owned())),
            Life::Failed(reason) => Err(MachineError::Failed(format!("it has stopped: {reason}"))),
        }
    }

    /// Stops the machine if the result is an error.
    fn or_fail<T>(&mut self, result: Result<T, MachineError>) -> Result<T, MachineError> {
        if let Err(error) = &result {
            self.life = Life::Failed(error.to_string());
        }
        result
    }

    fn open_store(&self, directory: u64) -> Result<Arc<Store>, MachineError> {
        let path = self.directories.path(directory);
        self.store(directory, Tree::open(&*self.directories.disk, &path, &self.caches)?)
    }

    /// Makes the state that a replica begins with. The pointer comes last: without it, the next open begins anew.
    fn create_store(&self) -> Result<Arc<Store>, MachineError> {
        let path = self.directories.path(FIRST_DIRECTORY);
        let tree = Tree::create(&*self.directories.disk, &path, &self.caches)?;
        self.directories.point_to(Pointer { directory: FIRST_DIRECTORY, file: 0 })?;
        self.store(FIRST_DIRECTORY, tree)
    }

    fn store(&self, directory: u64, tree: Tree) -> Result<Arc<Store>, MachineError> {
        Ok(Arc::new(Store::new(&self.directories, directory, tree, self.options.hash_seed)?))
    }

    fn go_live(&mut self, store: Arc<Store>) -> Result<Vec<u8>, MachineError> {
        let point = store.read()?.point().clone();
        let mut live = self.live.write().map_err(|_| MachineError::Failed("a lookup panicked".to_owned()))?;
        *live = Some(store.clone());
        let job = if let Life::Open(open) = &mut self.life { open.job.take() } else { None };
        self.life = Life::Open(Box::new(Open {
            store,
            revision: point.revision,
            uncommitted: false,
            job,
            compaction_unfinished: false,
            retry_at_bytes: None,
        }));
        Ok(point.host_meta)
    }
}

impl Open {
    /// Freezes what was committed, making room for it if too many buffers wait.
    fn freeze_all(&mut self) -> Result<(), MachineError> {
        if self.uncommitted {
            return Err(MachineError::Failed("something was applied and not committed".to_owned()));
        }
        while self.store.read()?.frozen_count() >= FROZEN_MAX {
            self.store.flush_oldest()?;
        }
        let mut buffers = self.store.write()?;
        if !buffers.active.is_empty() {
            buffers.freeze();
        }
        Ok(())
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        self.freeze_all()?;
        let mut buffers = self.store.write()?;
        if buffers.is_uncovered() {
            buffers.freeze();
        }
        drop(buffers);
        while self.store.flush_oldest()? {}
        Ok(())
    }

    fn view(&mut self) -> Result<(Point, Merge), MachineError> {
        self.freeze_all()?;
        self.store.frozen_view()
    }

    fn next_job(&self, urgency: Urgency) -> Result<Option<JobKind>, MachineError> {
        let mut buffers = self.store.write()?;
        if urgency == Urgency::Normal && self.retry_at_bytes.is_some_and(|bytes| buffers.bytes() < bytes) {
            return Ok(None);
        }
        if urgency == Urgency::Pressing
            && !self.uncommitted
            && buffers.frozen_count() == 0
            && buffers.is_uncovered()
        {
            buffers.freeze();
        }
        let flush = buffers.frozen_count() > 0;
        drop(buffers);
        let l0_tables = self.store.tree().l0_tables();
        let compact = l0_tables >= usize::from(L0_TABLES_LOW) || self.compaction_unfinished;
        Ok(match (flush, compact) {
            (true, _) if l0_tables < L0_TABLES_HIGH || urgency == Urgency::Pressing => Some(JobKind::Flush),
            (_, true) => Some(JobKind::Compact),
            _ => None,
        })
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        self.uncommitted |= !commands.is_empty();
        for commands in commands.chunks(COMMANDS_PER_LOCK) {
            let mut applying = Applying { store: &self.store, buffers: None };
            for command in commands {
                let mut done = Ok(());
                results.push_with(|answer| {
                    done = execute::execute(command.body, &mut self.revision, &mut applying, answer);
                });
                done?;
            }
        }
        Ok(())
    }
}

/// The state as a run of commands sees it. It takes the lock at the first mutation and keeps it, but never while it reads the tree.
struct Applying<'a> {
    store: &'a Store,
    buffers: Option<RwLockWriteGuard<'a, Buffers>>,
}

impl<'a> Applying<'a> {
    fn buffers(&mut self) -> Result<&mut RwLockWriteGuard<'a, Buffers>, MachineError> {
        match &mut self.buffers {
            Some(buffers) => Ok(buffers),
            none => Ok(none.insert(self.store.write()?)),
        }
    }
}

impl State for Applying<'_> {
    fn revision_of(&mut self, key: &[u8]) -> Result<Option<u64>, MachineError> {
        if let Some(stored) = self.buffers()?.newest(FAMILY_USER, key) {
            return revision(stored);
        }
        // Only this thread freezes, and what a flush moves meanwhile was not in the buffers: the tree answers the same before and after.
        self.buffers = None;
        revision(self.store.tree().get(&keys::user_key(key))?.as_deref())
    }

    fn put(&mut self, key: &[u8], revision: u64, value: &[u8]) -> Result<(), MachineError> {
        self.buffers()?.active.put(FAMILY_USER, key, &value::header(revision), value).map_err(full)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), MachineError> {
        self.buffers()?.active.delete(FAMILY_USER, key).map_err(full)
    }
}

fn revision(stored: Option<&[u8]>) -> Result<Option<u64>, MachineError> {
    let value = stored.map(StoredValue::decode).transpose();
    let value = value.map_err(|error| crate::meta::damaged("a stored value", error))?;
    Ok(value.map(|value| value.revision))
}

fn full(_: Full) -> MachineError {
    MachineError::Failed("the write buffer cannot grow any more: it was not flushed for too long".to_owned())
}

impl StateMachine for KvMachine {
    fn open(&mut self, staged: Option<u64>) -> Result<Option<Vec<u8>>, MachineError> {
        self.life = Life::Closed;
        let store = match self.directories.open(staged)? {
            Some(pointer) => self.open_store(pointer.directory)?,
            None => self.create_store()?,
        };
        let was_persisted = store.tree().get(keys::META_KEY)?.is_some();
        let host_meta = self.go_live(store)?;
        Ok(was_persisted.then_some(host_meta))
    }

    fn apply(&mut self, commands: &[Command<'_>], results: &mut Results) -> Result<(), MachineError> {
        let applied = self.opened()?.apply(commands, results);
        self.or_fail(applied)
    }

    fn commit(&mut self, applied: Index, meta: &[u8]) -> Result<(), MachineError> {
        let flush_bytes = self.options.flush_bytes;
        let open = self.opened()?;
        let mut buffers = open.store.write()?;
        buffers.publish(applied, open.revision, meta);
        if buffers.active.bytes() >= flush_bytes && buffers.frozen_count() < FROZEN_MAX {
            buffers.freeze();
        }
        drop(buffers);
        open.uncommitted = false;
        Ok(())
    }

    fn persisted(&self) -> Index {
        if let Life::Open(open) = &self.life { open.store.persisted() } else { 0 }
    }

    fn background(&mut self, urgency: Urgency) -> Option<Box<dyn BackgroundJob>> {
        let Life::Open(open) = &mut self.life else { return None };
        if open.job.is_some() {
            return None;
        }
        // A poisoned lock has no work to give; whoever applies next says why.
        let kind = open.next_job(urgency).ok()??;
        let unfinished = Arc::default();
        open.job = Some(Job { kind, directory: open.store.directory(), unfinished: Arc::clone(&unfinished) });
        Some(Box::new(RunningJob { kind, store: open.store.clone(), unfinished }))
    }

    fn background_done(&mut self, result: Result<(), MachineError>) -> Result<(), MachineError> {
        let flush_bytes = self.options.flush_bytes;
        let Life::Open(open) = &mut self.life else { return Ok(()) };
        let Some(job) = open.job.take() else { return Ok(()) };
        if job.directory != open.store.directory() {
            return Ok(());
        }
        match result {
            Ok(()) => {
                open.retry_at_bytes = None;
                if job.kind == JobKind::Compact {
                    open.compaction_unfinished = job.unfinished.load(Ordering::Acquire);
                }
                Ok(())
            }
            Err(MachineError::Io(error)) if is_full(&error) && open.store.tree().is_sound() => {
                open.compaction_unfinished |= job.kind == JobKind::Compact;
                open.retry_at_bytes = Some(open.store.read()?.bytes() + flush_bytes);
                Ok(())
            }
            Err(error) => self.or_fail(Err(error)),
        }
    }

    fn unpersisted_bytes(&self) -> usize {
        let Life::Open(open) = &self.life else { return 0 };
        open.store.read().map_or(0, |buffers| buffers.bytes())
    }

    fn lookup(&self) -> Arc<dyn Lookup> {
        Arc::new(KvLookup { live: self.live.clone() })
    }

    fn snapshot(&mut self) -> Result<Box<dyn SnapshotView>, MachineError> {
        let open = self.opened()?;
        let (point, entries) = open.view()?;
        let writer = ChunkWriter::new(point.applied, point.revision);
        Ok(Box::new(KvView { entries, meta: point.host_meta, writer, _store: open.store.clone() }))
    }

    fn stage(&self, directory: u64, meta: &[u8]) -> Result<Box<dyn SnapshotStage>, MachineError> {
        let path = self.directories.create(directory)?;
        let tree = Tree::create(&*self.directories.disk, &path, &self.caches).inspect_err(|_| {
            // Nobody else knows of it. If it cannot be removed either, the next start does that.
            let _ = self.directories.remove(directory);
        })?;
        Ok(Box::new(KvStage {
            tree,
            host_meta: meta.to_vec(),
            reader: ChunkReader::new(),
            waiting: Waiting::default(),
        }))
    }

    fn switch(&mut self, directory: u64) -> Result<Vec<u8>, MachineError> {
        let open = self.opened()?;
        let old = open.store.clone();
        if old.directory() == directory {
            return Ok(old.read()?.point().host_meta.clone());
        }
        if !self.directories.disk.exists(&self.directories.path(directory))? {
            return Err(MachineError::Failed(format!("there is no directory {directory}")));
        }
        let new = self.open_store(directory)?;
        if new.tree().get(keys::META_KEY)?.is_none() {
            return Err(MachineError::Damaged(format!(
                "the snapshot in directory {directory} is not complete"
            )));
        }
        if let Err(error) = self.directories.point_to(Pointer { directory, file: 0 }) {
            let is_full = matches!(&error, MachineError::Io(error) if is_full(error));
            if is_full && self.directories.names(old.directory()) {
                return Err(error);
            }
            // Nobody knows which directory a crash would come back with.
            return self.or_fail(Err(error));
        }
        old.replaced();
        self.go_live(new)
    }

    fn is_live(&self, directory: u64) -> Result<bool, MachineError> {
        Ok(matches!(&self.life, Life::Open(open) if open.store.directory() == directory))
    }

    fn discard(&mut self, directory: u64) -> Result<(), MachineError> {
        if self.opened()?.store.directory() == directory {
            return Err(MachineError::Failed(format!("directory {directory} is the live state")));
        }
        Ok(self.directories.remove(directory)?)
    }

    fn persist(&mut self) -> Result<(), MachineError> {
        self.opened()?.persist()
    }

    fn content_view(&mut self) -> Result<Box<dyn ContentView>, MachineError> {
        let open = self.opened()?;
        let (point, entries) = open.view()?;
        Ok(Box::new(KvContent { entries, revision: point.revision, _store: open.store.clone() }))
    }
}

/// What is hashed while writes go on. It keeps the store's files as long as it reads them.
struct KvContent {
    entries: Merge,
    revision: u64,
    _store: Arc<Store>,
}

impl ContentView for KvContent {
    fn hash(mut self: Box<Self>) -> Result<u128, MachineError> {
        snapshot::content_hash(&mut self.entries, self.revision)
    }
}

struct RunningJob {
    kind: JobKind,
    store: Arc<Store>,
    unfinished: Arc<AtomicBool>,
}

impl BackgroundJob for RunningJob {
    fn run(self: Box<Self>) -> Result<(), MachineError> {
        match self.kind {
            JobKind::Flush => {
                self.store.flush_oldest()?;
            }
            JobKind::Compact => {
                let more = self.store.tree().compact()?;
                self.unfinished.store(more, Ordering::Release);
            }
        }
        Ok(())
    }
}

struct KvLookup {
    live: Arc<RwLock<Option<Arc<Store>>>>,
}

impl Lookup for KvLookup {
    fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        let live =
            self.live.read().map_err(|_| MachineError::Failed("a switch panicked".to_owned()))?.clone();
        match live {
            Some(store) => store.query(query, answer),
            None => Err(MachineError::Failed("it is not open".to_owned())),
        }
    }
}

struct KvView {
    entries: Merge,
    meta: Vec<u8>,
    writer: ChunkWriter,
    /// Keeps the directory if the state is replaced meanwhile.
    _store: Arc<Store>,
}

impl SnapshotView for KvView {
    fn meta(&self) -> &[u8] {
        &self.meta
    }

    fn next_chunk(&mut self, max_bytes: usize, out: &mut Vec<u8>) -> Result<bool, MachineError> {
        self.writer.next_chunk(&mut self.entries, max_bytes, out)
    }
}

struct KvStage {
    tree: Tree,
    host_meta: Vec<u8>,
    reader: ChunkReader,
    waiting: Waiting,
}

/// Entries that were checked and are not in the tree yet.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Ends of each key and its value in `bytes`.
    ends: Vec<(usize, usize)>,
}

impl Waiting {
    fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }

    fn ingest(&mut self, tree: &Tree) -> Result<(), MachineError> {
        let mut start = 0;
        tree.ingest(self.ends.iter().map(|(key_end, value_end)| {
            let entry = (&self.bytes[start..*key_end], Some(&self.bytes[*key_end..*value_end]));
            start = *value_end;
            entry
        }))?;
        self.bytes.clear();
        self.ends.clear();
        Ok(())
    }
}

impl SnapshotStage for KvStage {
    fn write_chunk(&mut self, chunk: &[u8]) -> Result<(), MachineError> {
        let (tree, waiting) = (&self.tree, &mut self.waiting);
        self.reader.read(chunk, |key, value| {
            waiting.push(key, value);
            if waiting.bytes.len() >= STAGE_BYTES { waiting.ingest(tree) } else { Ok(()) }
        })
    }

    fn finish(mut self: Box<Self>) -> Result<(), MachineError> {
        let head = self.reader.finish()?;
        if !self.waiting.ends.is_empty() {
            self.waiting.ingest(&self.tree)?;
        }
        // The meta comes last: a directory with meta is complete.
        let point = Point { applied: head.applied, revision: head.revision, host_meta: self.host_meta };
        let meta = point.encode();
        self.tree.ingest(std::iter::once((keys::META_KEY, Some(&meta[..]))))
    }
}
