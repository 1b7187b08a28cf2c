// SPDX-License-Identifier: Apache-2.0

//! What a machine's directory would come back with, for a person who looks at a stopped node.

use std::path::Path;
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_engine::machine::MachineError;
use mraft_types::Index;

use crate::directories::{Directories, Kind};
use crate::keys;
use crate::keys::KeyRange;
use crate::lsm::{Caches, Tree};
use crate::merge::{Entries, Entry, Layer, Merge};
use crate::meta::Point;
use crate::snapshot::content_hash;

/// A look needs no cache to speak of.
const BLOCK_CACHE_BYTES: u64 = 1 << 20;
const OPEN_FILES: usize = 16;

/// The persisted point of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// Everything up to this index is in it.
    pub applied: Index,
    /// The group's revision there (rule E2).
    pub revision: u64,
    /// The host's bookkeeping of exactly this point.
    pub host_meta: Vec<u8>,
    /// The live directory's number.
    pub directory: u64,
    /// Bytes of live tables.
    pub disk_bytes: u64,
}

/// All that a machine has persisted, read to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Records: keys with values, and the store's own.
    pub records: u64,
    /// What a comparison of replicas at this point says of it (rule E8).
    pub hash: u128,
}

/// Looks at a machine's directory; `None` when nothing was persisted yet. Opening a tree cleans up what a crash left behind: give it a
/// copy (links to the files are enough, none is changed in place).
pub fn persisted(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Persisted>, MachineError> {
    let Some((_, point, directory, disk_bytes)) = open(disk, dir)? else { return Ok(None) };
    let Point { applied, revision, host_meta } = point;
    Ok(Some(Persisted { applied, revision, host_meta, directory, disk_bytes }))
}

/// Reads everything that is persisted, so that a damaged block anywhere is an error. Takes as long as reading all files; for the rest see
/// [`persisted`].
pub fn content(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Content>, MachineError> {
    let Some((tree, point, ..)) = open(disk, dir)? else { return Ok(None) };
    let entries = Merge::new(vec![Layer::Tree(tree.range(&KeyRange::replicated())?)]);
    let mut counted = Counted { entries, records: 0 };
    let hash = content_hash(&mut counted, point.revision)?;
    Ok(Some(Content { records: counted.records, hash }))
}

/// The tree, its point, the live directory's number and its bytes.
type Opened = (Tree, Point, u64, u64);

fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Opened>, MachineError> {
    let directories = Directories::new(Arc::clone(&disk), dir.to_owned(), Kind::Tree);
    let Some(pointer) = directories.open(None)? else { return Ok(None) };
    let caches = Caches::new(BLOCK_CACHE_BYTES, OPEN_FILES);
    let tree = Tree::open(disk.as_ref(), &directories.path(pointer.directory), &caches)?;
    let disk_bytes = tree.disk_bytes();
    let Some(bytes) = tree.get(keys::META_KEY)? else {
        return match disk_bytes {
            0 => Ok(None),
            _ => Err(MachineError::Damaged("the tree holds no meta record".to_owned())),
        };
    };
    Ok(Some((tree, Point::decode(&bytes)?, pointer.directory, disk_bytes)))
}

struct Counted {
    entries: Merge,
    records: u64,
}

impl Entries for Counted {
    fn next(&mut self) -> Result<Option<Entry<'_>>, MachineError> {
        let next = self.entries.next()?;
        self.records += u64::from(next.is_some());
        Ok(next)
    }
}
