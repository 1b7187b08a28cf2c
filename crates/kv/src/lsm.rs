// SPDX-License-Identifier: Apache-2.0

//! The tree: the only file that names the `lsm_tree` crate.
//!
//! The crate's own memtable stays empty. Data comes in by bulk ingestion only, which is atomic and durable when it returns; the
//! crate does, in this order (read in its source, and seen with a system call trace):
//!
//! 1. write the table `tables/N`, fsync it, fsync `tables/`;
//! 2. write the version file `vM` that names all tables, fsync it, fsync the tree's directory;
//! 3. write a temporary file with M and a checksum, fsync it, **rename it to `current`**, fsync it, fsync the tree's directory.
//!
//! A crash before the rename comes back with the old version (the new table and version file are orphans that the next open deletes),
//! after it with the new one. Only after step 3 does [`Tree::ingest`] answer, and only then is a point called persisted (rule D11).
//!
//! What the crate leaves to us: it asserts strictly ascending keys within an ingestion; it gives one sequence number to all of them
//! and forgets its counter at restart; and a failed ingestion may be retried only if the disk was full and `current` was not switched
//! ([`Tree::is_sound`]): the retry would write the same version file again, which `current` may name by now.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lsm_tree::compaction::Leveled;
use lsm_tree::{
    AbstractTree, AnyTree, Cache, Config, DescriptorTable, GlobalTableId, Guard, IterGuardImpl, SeqNo,
    SequenceNumberCounter, Slice,
};
use mraft_disk::{Disk, is_full};
use mraft_engine::machine::MachineError;

use crate::keys::KeyRange;
use crate::tree_files::{self, CURRENT_FILE, TABLES_DIRECTORY};

/// Tables in level 0 from which on compacting goes before ingesting more: reads look into every one of them.
pub(crate) const L0_TABLES_HIGH: usize = 20;
/// Tables in level 0 from which on they are merged into the next level. Twice the crate's default: it halves what compaction rewrites,
/// and a get that must look into twice as many tables is kept out of nearly all of them by their filters.
pub(crate) const L0_TABLES_LOW: u8 = 8;
/// Steps of one compaction job, so that a flush does not wait for ever behind it.
const COMPACTION_STEPS_MAX: usize = 4;
/// The cache of blocks counts the bytes of each. With what holds a block, and with what the allocator rounds up to, blocks of tables of 5
/// to 400 KB with values of 100 to 4,096 bytes took 1.08 to 1.31 times that (jemalloc's count of a full cache).
const BLOCK_PERCENT: u64 = 77;
/// Reads see the newest version: the buffers in front of the tree decide what is visible when.
const NEWEST: SeqNo = SeqNo::MAX;

/// What all trees of a node share: a cache of blocks and one of open files.
#[derive(Clone)]
pub struct Caches {
    blocks: Arc<Cache>,
    files: Arc<DescriptorTable>,
}

impl Caches {
    /// Caches of this many bytes of memory for blocks, and this many open files.
    pub fn new(block_memory_bytes: u64, open_files: usize) -> Caches {
        Caches {
            blocks: Arc::new(Cache::with_capacity_bytes(block_memory_bytes / 100 * BLOCK_PERCENT)),
            files: Arc::new(DescriptorTable::new(open_files.max(1))),
        }
    }

    /// Bytes of blocks that are cached now.
    pub fn block_bytes(&self) -> u64 {
        self.blocks.size()
    }

    /// Bytes of blocks that may be cached. Blocks of tables that are gone count until others need their place.
    pub fn block_bytes_max(&self) -> u64 {
        self.blocks.capacity()
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Caches({} block bytes)", self.blocks.capacity())
    }
}

/// One tree in one directory.
pub(crate) struct Tree {
    tree: AnyTree,
    /// One above the newest sequence number.
    next_seqno: SequenceNumberCounter,
    path: PathBuf,
    /// One ingestion or compaction at a time.
    changing: Mutex<()>,
    /// Set by an error after which nothing may be written any more.
    broken: AtomicBool,
    files: Arc<DescriptorTable>,
}

/// The crate lets go of the files of tables that it deletes. A tree whose directory somebody else deletes would keep its files open, and
/// their room taken, until others need the place in the cache.
impl Drop for Tree {
    fn drop(&mut self) {
        for table in 0..self.tree.next_table_id() {
            self.files.remove_for_table(&GlobalTableId::from((self.tree.id(), table)));
        }
    }
}

impl Tree {
    /// Creates an empty tree in a directory that exists and is empty.
    pub fn create(disk: &dyn Disk, path: &Path, caches: &Caches) -> Result<Tree, MachineError> {
        Tree::open_or_create(disk, path, caches)
    }

    /// Opens the tree that is there.
    pub fn open(disk: &dyn Disk, path: &Path, caches: &Caches) -> Result<Tree, MachineError> {
        // The crate would begin an empty one.
        if !disk.exists(&path.join(CURRENT_FILE))? {
            return Err(MachineError::Damaged(format!("there is no tree in {}", path.display())));
        }
        tree_files::check(disk, path)?;
        Tree::open_or_create(disk, path, caches)
    }

    /// Everything that is read was made durable first: a process that was killed may have left a rename that is only in memory (rule
    /// D7).
    fn open_or_create(disk: &dyn Disk, path: &Path, caches: &Caches) -> Result<Tree, MachineError> {
        for entry in disk.read_dir(path)? {
            // What an interrupted atomic replace of the crate leaves.
            if entry.name.starts_with(".tmp") {
                disk.remove_file(&path.join(entry.name))?;
            } else if entry.is_dir {
                disk.sync_dir(&path.join(entry.name))?;
            }
        }
        disk.sync_dir(path)?;
        let (seqno, visible) = (SequenceNumberCounter::default(), SequenceNumberCounter::default());
        let tree = Config::new(path, seqno.clone(), visible.clone())
            .use_cache(caches.blocks.clone())
            .use_descriptor_table(Some(caches.files.clone()))
            .open()
            .map_err(machine_error)?;
        let next = tree.get_highest_persisted_seqno().map_or(0, |highest| highest + 1);
        seqno.set(next);
        visible.set(next);
        Ok(Tree {
            tree,
            next_seqno: visible,
            path: path.to_owned(),
            changing: Mutex::new(()),
            broken: AtomicBool::new(false),
            files: caches.files.clone(),
        })
    }

    /// The value of a store key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Slice>, MachineError> {
        self.tree.get(key, NEWEST).map_err(machine_error)
    }

    /// The entries of a range as they are now, whatever happens to the tree meanwhile.
    pub fn range(&self, range: &KeyRange) -> Result<TreeCursor, MachineError> {
        let entries = if range.is_empty() {
            None
        } else {
            let bounds = (range.from.clone(), Bound::Excluded(range.until.clone()));
            Some(self.tree.range::<Vec<u8>, _>(bounds, NEWEST, None))
        };
        let mut cursor = TreeCursor { entries, head: None };
        cursor.advance()?;
        Ok(cursor)
    }

    /// Adds entries, atomically and durably: see the module. `None` is a deletion. The keys must be strictly ascending.
    pub fn ingest<'a>(
        &self,
        entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), MachineError> {
        self.change(|tree| {
            let mut ingestion = tree.ingestion()?;
            let mut last: Option<&[u8]> = None;
            for (key, value) in entries {
                // The crate panics on this; here it is an error of one replica.
                if last.is_some_and(|last| last >= key) {
                    return Err(io::Error::other("an ingestion is out of order").into());
                }
                last = Some(key);
                match value {
                    Some(value) => ingestion.write(Slice::from(key), Slice::from(value))?,
                    None => ingestion.write_tombstone(Slice::from(key))?,
                }
            }
            ingestion.finish()
        })
    }

    /// Does some compaction. Answers whether there may be more to do.
    pub fn compact(&self) -> Result<bool, MachineError> {
        let strategy = Arc::new(Leveled::default().with_l0_threshold(L0_TABLES_LOW));
        for _ in 0..COMPACTION_STEPS_MAX {
            let before = self.shape();
            self.change(|tree| {
                // The step's version has the next number, and whatever it supersedes may go: who still reads that holds the tables. Below
                // the number itself the version before it would stay, all its tables with it, until the next compaction.
                tree.compact(strategy.clone(), self.next_seqno.get() + 1)
            })?;
            if self.shape() == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the tree may be written to. After a failure that left it unknown which version a crash would come back with, only opening
    /// it anew tells what it holds.
    pub fn is_sound(&self) -> bool {
        !self.broken.load(Ordering::Acquire)
    }

    /// Tables in level 0.
    pub fn l0_tables(&self) -> usize {
        self.tree.level_table_count(0).unwrap_or(0)
    }

    /// Bytes of all live tables.
    pub fn disk_bytes(&self) -> u64 {
        self.tree.disk_space()
    }

    fn change(&self, change: impl FnOnce(&AnyTree) -> lsm_tree::Result<()>) -> Result<(), MachineError> {
        let failed = |what: &str| MachineError::Failed(what.to_owned());
        let _changing = self.changing.lock().map_err(|_| failed("a write of the tree panicked"))?;
        if !self.is_sound() {
            return Err(failed("an earlier write of the tree failed"));
        }
        let first_new_table = self.tree.next_table_id();
        change(&self.tree).map_err(|error| {
            let error = machine_error(error);
            let was_full = matches!(&error, MachineError::Io(error) if is_full(error));
            if was_full && self.is_current() {
                self.remove_tables(first_new_table);
            } else {
                self.broken.store(true, Ordering::Release);
            }
            error
        })
    }

    /// Gives the room back that a failed write took: the tables that it made and no version names.
    fn remove_tables(&self, first: u64) {
        let version = self.tree.current_version();
        for table in first..self.tree.next_table_id() {
            if version.iter_tables().all(|live| live.id() != table) {
                // If it fails or is not there, the next open deletes what is.
                let _ = std::fs::remove_file(self.path.join(TABLES_DIRECTORY).join(table.to_string()));
            }
        }
    }

    /// Whether the version that the directory names is the one in memory.
    fn is_current(&self) -> bool {
        let version = self.tree.current_version().id().to_le_bytes();
        std::fs::read(self.path.join(CURRENT_FILE)).is_ok_and(|current| current.starts_with(&version))
    }

    fn shape(&self) -> (Vec<Option<usize>>, u64) {
        ((0..7).map(|level| self.tree.level_table_count(level)).collect(), self.tree.next_table_id())
    }
}

/// Entries of a tree in order.
pub(crate) struct TreeCursor {
    entries: Option<Box<dyn DoubleEndedIterator<Item = IterGuardImpl> + Send>>,
    head: Option<(Slice, Slice)>,
}

impl TreeCursor {
    /// The present entry.
    pub fn head(&self) -> Option<(&[u8], &[u8])> {
        self.head.as_ref().map(|(key, value)| (&**key, &**value))
    }

    /// Goes to the next one.
    pub fn advance(&mut self) -> Result<(), MachineError> {
        self.head = match self.entries.as_mut().and_then(Iterator::next) {
            Some(entry) => Some(entry.into_inner().map_err(machine_error)?),
            None => None,
        };
        Ok(())
    }
}

fn machine_error(error: lsm_tree::Error) -> MachineError {
    match error {
        lsm_tree::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            MachineError::Damaged(error.to_string())
        }
        lsm_tree::Error::Io(error) => MachineError::Io(error),
        lsm_tree::Error::InvalidVersion(version) => {
            MachineError::Unknown(format!("the tree's format is {version}, which this build does not know"))
        }
        lsm_tree::Error::ChecksumMismatch { .. } => {
            MachineError::Damaged("a block of one of the tree's tables: its checksum is wrong".to_owned())
        }
        other => MachineError::Damaged(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use mraft_disk::RealDisk;

    use super::*;

    #[test]
    fn a_tree_that_is_dropped_keeps_no_file_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let caches = Caches::new(1 << 20, 100);
        let tree = Tree::create(&RealDisk::new(), directory.path(), &caches).expect("an empty tree");
        for table in 0..3_u8 {
            tree.ingest(std::iter::once((&[table][..], Some(&b"value"[..])))).expect("written");
        }
        (0..3_u8).for_each(|key| _ = tree.get(&[key]).expect("read"));
        let (id, tables) = (tree.tree.id(), 0..tree.tree.next_table_id());
        let open = || {
            let is_open = |table: &u64| caches.files.access_for_table(&(id, *table).into()).is_some();
            tables.clone().filter(is_open).count()
        };
        assert_eq!(open(), 3);
        drop(tree);
        assert_eq!(open(), 0);
    }

    #[test]
    fn what_a_compaction_replaced_is_gone_unless_somebody_reads_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let caches = Caches::new(1 << 20, 100);
        let tree = Tree::create(&RealDisk::new(), directory.path(), &caches).expect("an empty tree");
        let ingest = |value: u8| {
            let entries = (0..50_u8).map(|key| ([key], [value]));
            let entries: Vec<_> = entries.collect();
            tree.ingest(entries.iter().map(|(key, value)| (&key[..], Some(&value[..])))).expect("written");
        };
        let tables = || std::fs::read_dir(directory.path().join(TABLES_DIRECTORY)).expect("read").count();
        (0..L0_TABLES_LOW).for_each(ingest);
        assert_eq!(tables(), usize::from(L0_TABLES_LOW));
        while tree.compact().expect("compacted") {}
        assert_eq!(tables(), 1);

        (0..L0_TABLES_LOW).for_each(|number| ingest(100 + number));
        let mut reading =
            tree.range(&KeyRange { from: Bound::Unbounded, until: vec![255] }).expect("a range");
        while tree.compact().expect("compacted") {}
        assert_eq!(tables(), 1 + usize::from(L0_TABLES_LOW) + 1, "somebody reads");
        let mut seen = 0;
        while let Some((_, value)) = reading.head() {
            assert_eq!(value, [100 + L0_TABLES_LOW - 1]);
            seen += 1;
            reading.advance().expect("read");
        }
        assert_eq!(seen, 50);
        drop(reading);
        assert_eq!(tables(), 1);
    }
}
