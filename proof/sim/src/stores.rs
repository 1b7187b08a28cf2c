// SPDX-License-Identifier: Apache-2.0

//! Where the groups of a node keep their state: with the twin in memory on the simulated disk, or, in some seeds, with the machine of the
//! product in an LSM tree. Its tree knows the real file system only, so such a run uses a directory there, and processes are killed and
//! power is never cut: what was written stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft::machines::StateMachine;
use mraft_disk::{Disk, MemoryDisk, RealDisk};
use mraft_kv::{Caches, KvMachine, KvOptions, MemoryKv, MemoryOptions};
use tempfile::TempDir;

use crate::mix::Own;
use crate::node::DATA;

const BLOCK_CACHE_BYTES: u64 = 1 << 20;
const OPEN_FILES_MAX: usize = 64;

/// A file system in memory, where there is one: no power is cut, so nothing is lost with it, and no seed waits for a disk. A run takes less
/// than a megabyte there.
const IN_MEMORY: &str = "/dev/shm";
const PREFIX: &str = "mraft-sim-";

/// A directory for the nodes of one run.
pub fn make_directory() -> io::Result<TempDir> {
    TempDir::with_prefix_in(PREFIX, IN_MEMORY).or_else(|_| TempDir::with_prefix(PREFIX))
}

/// A node's directory on the real file system.
#[derive(Clone, Debug)]
pub struct RealStore {
    root: PathBuf,
    caches: Caches,
}

impl RealStore {
    /// Below this directory.
    pub fn new(root: PathBuf) -> RealStore {
        RealStore { root, caches: Caches::new(BLOCK_CACHE_BYTES, OPEN_FILES_MAX) }
    }
}

/// What state machines of a node are made on.
#[derive(Clone, Debug)]
pub enum Stores {
    /// Twins in memory.
    Memory(MemoryDisk),
    /// LSM trees.
    Real(RealStore),
}

impl Stores {
    /// What carries their directories.
    pub fn disk(&self) -> Arc<dyn Disk> {
        match self {
            Stores::Memory(disk) => Arc::new(disk.clone()),
            Stores::Real(_) => Arc::new(RealDisk),
        }
    }

    /// The data directory that these are in.
    pub fn data(&self) -> &Path {
        match self {
            Stores::Memory(_) => Path::new(DATA),
            Stores::Real(store) => &store.root,
        }
    }

    /// A machine with its state in this directory.
    pub fn machine(&self, own: &Own, directory: PathBuf) -> Box<dyn StateMachine> {
        match self {
            Stores::Memory(_) => {
                let options = MemoryOptions { flush_bytes: own.flush_bytes };
                Box::new(MemoryKv::new(self.disk(), directory, options))
            }
            Stores::Real(store) => {
                let options = KvOptions { flush_bytes: own.flush_bytes, hash_seed: 0 };
                Box::new(KvMachine::new(self.disk(), directory, &store.caches, options))
            }
        }
    }
}
