// SPDX-License-Identifier: Apache-2.0

//! What nobody but a store reads, for whoever feeds it hostile bytes (`proof/fuzz`); no part of the library.

use std::path::Path;

use mraft_disk::Disk;
use mraft_engine::machine::MachineError;

use crate::tree_files;

/// The files of a tree that its crate would believe, as they are checked before it opens them.
pub fn tree_files(disk: &dyn Disk, tree: &Path) -> Result<(), MachineError> {
    tree_files::check(disk, tree)
}
