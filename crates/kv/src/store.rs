// SPDX-License-Identifier: Apache-2.0

//! The state in one directory: the buffers in memory, the tree on disk, and who may see what.
//!
//! One thread, the owner, applies and commits; lookups, views and the flush run on others. What they share is one lock around the
//! buffers ([`Buffers`]), held for a run of puts, for a lookup in memory, or for copying the part of the active buffer that a page
//! needs; never while the tree is read or written, except that an iterator over the tree is *made* under it.
//!
//! Why a reader never sees a mixture: data moves only from the active buffer to a frozen one (under the lock), and from there into the
//! tree (an ingestion, then, under the lock, the frozen buffer is let go). In between it is in both places and equal. A page makes its
//! tree iterator under the lock, so the iterator's version is at most one ingestion ahead, and that one is still in a frozen
//! buffer. A get reads the tree outside of the lock and looks again if a buffer was frozen meanwhile ([`Buffers::generation`]).
//!
//! Invariants: frozen buffers hold only what was committed, each with the point that is true after it. The oldest is ingested first, one at
//! a time. A directory that was replaced lives on until its last reader and job are gone and touches nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mraft_engine::machine::MachineError;
use mraft_types::Index;

use crate::directories::{Directories, DirectoryGuard};
use crate::keys::{self, FAMILY_USER, KeyRange};
use crate::lsm::Tree;
use crate::merge::{Copied, CopyLimits, Frozen, Layer, Merge};
use crate::meta::{Point, damaged};
use crate::query::{self, At, Query, Status};
use crate::scan::{self, PageLimits};
use crate::value::StoredValue;
use crate::write_buffer::{Address, WriteBuffer};

/// Frozen buffers that may wait for their ingestion. Beyond, the active buffer grows: reads look into each of them.
pub(crate) const FROZEN_MAX: usize = 4;

/// See the module.
pub(crate) struct Store {
    buffers: RwLock<Buffers>,
    tree: Tree,
    /// One flush at a time.
    flushing: Mutex<()>,
    persisted: AtomicU64,
    /// Last, so that the tree is closed before its directory is deleted.
    guard: DirectoryGuard,
}

/// What is in memory.
pub(crate) struct Buffers {
    /// What is being written.
    pub active: WriteBuffer,
    /// Readers see the active buffer below this address.
    published_end: Address,
    /// The point that readers see.
    point: Point,
    /// The index of the newest point that is frozen or persisted.
    covered: Index,
    /// Oldest first.
    frozen: Vec<FrozenBuffer>,
    /// Grows whenever a buffer is frozen.
    generation: u64,
    hash_seed: u64,
}

#[derive(Clone)]
struct FrozenBuffer {
    buffer: Arc<WriteBuffer>,
    point: Arc<Point>,
}

impl Store {
    /// The state that this tree holds.
    pub fn new(
        directories: &Directories,
        directory: u64,
        tree: Tree,
        hash_seed: u64,
    ) -> Result<Store, MachineError> {
        let guard = DirectoryGuard::new(directories.clone(), directory);
        let point = match tree.get(keys::META_KEY)? {
            Some(meta) => Point::decode(&meta)?,
            None => Point::default(),
        };
        let buffers = Buffers {
            active: WriteBuffer::new(hash_seed),
            published_end: Address::default(),
            covered: point.applied,
            frozen: Vec::new(),
            generation: 0,
            hash_seed,
            point,
        };
        let persisted = AtomicU64::new(buffers.point.applied);
        Ok(Store { buffers: RwLock::new(buffers), tree, flushing: Mutex::new(()), persisted, guard })
    }

    /// Number of its directory.
    pub fn directory(&self) -> u64 {
        self.guard.directory()
    }

    /// Another directory is the state now.
    pub fn replaced(&self) {
        self.guard.delete_when_dropped();
    }

    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Index of the newest point on disk.
    pub fn persisted(&self) -> Index {
        self.persisted.load(Ordering::Acquire)
    }

    /// The buffers, for reading.
    pub fn read(&self) -> Result<RwLockReadGuard<'_, Buffers>, MachineError> {
        self.buffers.read().map_err(|_| half_written())
    }

    /// The buffers, for the owner to change.
    pub fn write(&self) -> Result<RwLockWriteGuard<'_, Buffers>, MachineError> {
        self.buffers.write().map_err(|_| half_written())
    }

    /// Ingests the oldest frozen buffer with its point, if there is one. When it answers, the point is durable (rules D11, E7).
    pub fn flush_oldest(&self) -> Result<bool, MachineError> {
        let _flushing = self.flushing.lock().map_err(|_| half_written())?;
        let Some(oldest) = self.read()?.frozen.first().cloned() else { return Ok(false) };
        let FrozenBuffer { buffer, point } = &oldest;
        let order = buffer
            .ordered(buffer.end())
            .ok_or_else(|| MachineError::Failed("a frozen buffer has changed".to_owned()))?;
        let meta = point.encode();
        let records = order.iter().map(|address| {
            let record = buffer.record(*address);
            (record.key, record.value)
        });
        self.tree.ingest(std::iter::once((keys::META_KEY, Some(&meta[..]))).chain(records))?;
        self.persisted.store(point.applied, Ordering::Release);
        let gone = self.write()?.frozen.remove(0);
        // A large arena is freed outside of the lock.
        drop((gone, oldest));
        Ok(true)
    }

    /// Everything replicated as of the last commit, in order, whatever happens meanwhile. The active buffer must be empty: freeze it
    /// first.
    pub fn frozen_view(&self) -> Result<(Point, Merge), MachineError> {
        let buffers = self.read()?;
        let range = KeyRange::replicated();
        let mut layers = buffers.frozen_layers(&range)?;
        layers.push(Layer::Tree(self.tree.range(&range)?));
        Ok((buffers.point.clone(), Merge::new(layers)))
    }

    /// Answers a query about published state.
    pub fn query(&self, query: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        match Query::decode(query) {
            Ok(Query::Get { key }) => self.get(key, answer)?,
            Ok(Query::Scan { prefix, after, limit, max_bytes }) => {
                let limits = PageLimits { entries: limit, bytes: max_bytes };
                let (at, mut entries) = self.page_entries(&KeyRange::user(prefix, after), limits)?;
                scan::page(at, &mut entries, limits, answer)?;
            }
            Ok(Query::Status) => query::put_status(self.status()?, answer),
            Err(refusal) => query::put_refusal(refusal, answer),
        }
        Ok(())
    }

    fn get(&self, key: &[u8], answer: &mut Vec<u8>) -> Result<(), MachineError> {
        let store_key = keys::user_key(key);
        loop {
            let buffers = self.read()?;
            let (at, generation) = (At::from(&buffers.point), buffers.generation);
            if let Some(record) = buffers.published(FAMILY_USER, key) {
                return put_get(at, record, answer);
            }
            drop(buffers);
            let stored = self.tree.get(&store_key)?;
            // A buffer frozen since then may be in the tree already, with what was not published when we began.
            if self.read()?.generation == generation {
                return put_get(at, stored.as_deref(), answer);
            }
        }
    }

    fn page_entries(&self, range: &KeyRange, limits: PageLimits) -> Result<(At, Merge), MachineError> {
        let buffers = self.read()?;
        let mut layers = Vec::with_capacity(2 + buffers.frozen.len());
        if !buffers.active.is_empty() {
            let order = buffers
                .active
                .ordered(buffers.published_end)
                .ok_or_else(|| MachineError::Failed("a buffer shows more than was published".to_owned()))?;
            let copy = CopyLimits { entries: limits.entries, bytes: limits.bytes };
            layers.push(Layer::Copied(Copied::new(&buffers.active, &order, range, copy)));
        }
        layers.extend(buffers.frozen_layers(range)?);
        layers.push(Layer::Tree(self.tree.range(range)?));
        Ok((At::from(&buffers.point), Merge::new(layers)))
    }

    fn status(&self) -> Result<Status, MachineError> {
        let buffers = self.read()?;
        Ok(Status {
            group_revision: buffers.point.revision,
            applied: buffers.point.applied,
            persisted: self.persisted(),
            unpersisted_bytes: buffers.bytes() as u64,
            disk_bytes: self.tree.disk_bytes(),
        })
    }
}

impl Buffers {
    /// What the buffers say about a key, uncommitted writes included; `None` when only the tree knows.
    pub fn newest(&self, family: u8, key: &[u8]) -> Option<Option<&[u8]>> {
        let active = self.active.newest(family, key);
        active.map(|record| record.value).or_else(|| self.in_frozen(family, key))
    }

    /// Publishes everything applied so far as this point.
    pub fn publish(&mut self, applied: Index, revision: u64, host_meta: &[u8]) {
        self.published_end = self.active.end();
        self.point.applied = applied;
        self.point.revision = revision;
        self.point.host_meta.clear();
        self.point.host_meta.extend_from_slice(host_meta);
    }

    /// Freezes the active buffer with the published point. Everything applied must be published.
    pub fn freeze(&mut self) {
        let active = std::mem::replace(&mut self.active, WriteBuffer::new(self.hash_seed));
        self.published_end = Address::default();
        self.covered = self.point.applied;
        self.generation += 1;
        self.frozen.push(FrozenBuffer { buffer: Arc::new(active), point: Arc::new(self.point.clone()) });
    }

    /// Whether there is a published point that is neither frozen nor persisted.
    pub fn is_uncovered(&self) -> bool {
        !self.active.is_empty() || self.point.applied > self.covered
    }

    /// Frozen buffers.
    pub fn frozen_count(&self) -> usize {
        self.frozen.len()
    }

    /// The published point.
    pub fn point(&self) -> &Point {
        &self.point
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        self.active.bytes() + self.frozen.iter().map(|frozen| frozen.buffer.bytes()).sum::<usize>()
    }

    fn published(&self, family: u8, key: &[u8]) -> Option<Option<&[u8]>> {
        let active = self.active.newest_below(family, key, self.published_end);
        active.map(|record| record.value).or_else(|| self.in_frozen(family, key))
    }

    fn in_frozen(&self, family: u8, key: &[u8]) -> Option<Option<&[u8]>> {
        let newest_first = self.frozen.iter().rev();
        newest_first.filter_map(|frozen| frozen.buffer.newest(family, key)).map(|record| record.value).next()
    }

    fn frozen_layers(&self, range: &KeyRange) -> Result<Vec<Layer>, MachineError> {
        let newest_first = self.frozen.iter().rev();
        newest_first.map(|frozen| Frozen::new(frozen.buffer.clone(), range).map(Layer::Frozen)).collect()
    }
}

fn put_get(at: At, stored: Option<&[u8]>, answer: &mut Vec<u8>) -> Result<(), MachineError> {
    let value = stored.map(StoredValue::decode).transpose();
    let value = value.map_err(|error| damaged("a stored value", error))?;
    query::put_get(at, value.map(|value| (value.revision, value.bytes)), answer);
    Ok(())
}

fn half_written() -> MachineError {
    MachineError::Failed("a panic left the state half written".to_owned())
}
