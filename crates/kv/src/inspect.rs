// SPDX-License-Identifier: Apache-2.0

//! What a machine's directory would come back with, for a person who looks at a stopped node.

use std::path::Path;
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_engine::machine::MachineError;
use mraft_types::Index;

use crate::directories::{Directories, Kind};
use crate::keys;
use crate::lsm::{Caches, Tree};
use crate::meta::Point;

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

/// Looks at a machine's directory; `None` when nothing was persisted yet. Opening a tree cleans up what a crash left behind: give it a
/// copy (links to the files are enough, none is changed in place).
pub fn persisted(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Persisted>, MachineError> {
    let directories = Directories::new(Arc::clone(&disk), dir.to_owned(), Kind::Tree);
    let Some(pointer) = directories.open(None)? else { return Ok(None) };
    let caches = Caches::new(BLOCK_CACHE_BYTES, OPEN_FILES);
    let tree = Tree::open(disk.as_ref(), &directories.path(pointer.directory), &caches)?;
    let Some(bytes) = tree.get(keys::META_KEY)? else {
        return match tree.disk_bytes() {
            0 => Ok(None),
            _ => Err(MachineError::Damaged("the tree holds no meta record".to_owned())),
        };
    };
    let Point { applied, revision, host_meta } = Point::decode(&bytes)?;
    let disk_bytes = tree.disk_bytes();
    Ok(Some(Persisted { applied, revision, host_meta, directory: pointer.directory, disk_bytes }))
}
