// SPDX-License-Identifier: Apache-2.0

//! Numbered directories and the pointer file that names the live one.
//!
//! ```text
//! <dir>/pointer     atomically replaced: magic "mraftkvp", then version:u8=1  kind:u8  directory:u64  file:u64
//! <dir>/<number>/   one state: a tree (kind 1) or files of a machine in memory (kind 2: `file` names the one that counts)
//! ```
//!
//! The pointer is the only truth about which directory is the state. A directory that it does not name is a snapshot on its way in, or
//! a leftover that the next open deletes. Number 0 is the state that a replica begins with; staged snapshots bring theirs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mraft_disk::{Disk, atomic};
use mraft_engine::machine::MachineError;
use mraft_types::codec::{DecodeError, Reader, Writer};

use crate::meta::{counted, damaged};

const POINTER_FILE: &str = "pointer";
const POINTER_MAGIC: [u8; 8] = *b"mraftkvp";
const POINTER_BYTES_MAX: usize = 64;
const VERSION: u8 = 1;

/// The directory of a fresh state.
pub(crate) const FIRST_DIRECTORY: u64 = 0;

/// What a directory holds. The numbers are persisted; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// An LSM tree.
    Tree = 1,
    /// Files of the machine in memory.
    Memory = 2,
}

/// Where the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pointer {
    /// The live directory.
    pub directory: u64,
    /// The live file in it, for machines that replace files; 0 for a tree.
    pub file: u64,
}

/// The directories of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    pub disk: Arc<dyn Disk>,
    dir: PathBuf,
    kind: Kind,
}

impl Directories {
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, kind: Kind) -> Directories {
        Directories { disk, dir, kind }
    }

    /// The directory with this number.
    pub fn path(&self, directory: u64) -> PathBuf {
        self.dir.join(directory.to_string())
    }

    /// Finds the live directory and deletes the others, except `staged`. `None` when there is no state yet; then the directory of a
    /// fresh one exists and is empty.
    pub fn open(&self, staged: Option<u64>) -> Result<Option<Pointer>, MachineError> {
        self.disk.create_dir_all(&self.dir)?;
        let pointer = self.read_pointer()?;
        let kept = [pointer.map(|pointer| pointer.directory), staged];
        let mut deleted = false;
        for entry in self.disk.read_dir(&self.dir)? {
            let Ok(number) = entry.name.parse::<u64>() else { continue };
            if !kept.contains(&Some(number)) {
                self.disk.remove_dir_all(&self.dir.join(&entry.name))?;
                deleted = true;
            }
        }
        if pointer.is_none() {
            self.disk.create_dir_all(&self.path(FIRST_DIRECTORY))?;
        }
        // Also makes a pointer durable that a killed process left in memory only (rule D7).
        if deleted || pointer.is_some() {
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(pointer)
    }

    /// Makes a directory, empty and durable, for a snapshot that comes in.
    pub fn create(&self, directory: u64) -> Result<PathBuf, MachineError> {
        let path = self.path(directory);
        if self.read_pointer()?.is_some_and(|pointer| pointer.directory == directory) {
            return Err(MachineError::Failed(format!("directory {directory} is the live state")));
        }
        self.remove(directory)?;
        self.disk.create_dir_all(&path)?;
        Ok(path)
    }

    /// Makes the pointer name this place, durably and atomically.
    pub fn point_to(&self, pointer: Pointer) -> Result<(), MachineError> {
        let mut payload = Vec::new();
        payload.put_u8(VERSION);
        payload.put_u8(self.kind as u8);
        payload.put_u64(pointer.directory);
        payload.put_u64(pointer.file);
        atomic::replace(&*self.disk, &self.dir.join(POINTER_FILE), POINTER_MAGIC, &payload)?;
        Ok(())
    }

    /// Whether the pointer names this directory.
    pub fn names(&self, directory: u64) -> bool {
        matches!(self.read_pointer(), Ok(Some(pointer)) if pointer.directory == directory)
    }

    /// Deletes a directory if it is there.
    pub fn remove(&self, directory: u64) -> io::Result<()> {
        let path = self.path(directory);
        if self.disk.exists(&path)? {
            self.disk.remove_dir_all(&path)?;
            self.disk.sync_dir(&self.dir)?;
        }
        Ok(())
    }

    fn read_pointer(&self) -> Result<Option<Pointer>, MachineError> {
        let path = self.dir.join(POINTER_FILE);
        let payload = match atomic::read(&*self.disk, &path, POINTER_MAGIC, POINTER_BYTES_MAX) {
            Ok(None) => return Ok(None),
            Ok(Some(payload)) => payload,
            Err(atomic::ReadError::Io(error)) => return Err(MachineError::Io(error)),
            Err(error) => return Err(MachineError::Damaged(format!("the pointer file: {error}"))),
        };
        decode_pointer(&payload, self.kind).map(Some).map_err(|error| damaged("the pointer file", error))
    }
}

fn decode_pointer(payload: &[u8], kind: Kind) -> Result<Pointer, DecodeError> {
    let mut reader = Reader::new(payload);
    match reader.u8("version")? {
        VERSION => {}
        other => return Err(DecodeError::Unknown("version", u64::from(other))),
    }
    let found = reader.u8("kind")?;
    if found != kind as u8 {
        return Err(DecodeError::Unknown("kind", u64::from(found)));
    }
    let directory = reader.u64("directory")?;
    let pointer = Pointer { directory, file: counted("file", reader.u64("file")?)? };
    reader.finish()?;
    Ok(pointer)
}

/// Deletes its directory when it is dropped and no longer wanted: with the last reader and background job of a replaced state.
#[derive(Debug)]
pub(crate) struct DirectoryGuard {
    directories: Directories,
    directory: u64,
    unwanted: AtomicBool,
}

impl DirectoryGuard {
    pub fn new(directories: Directories, directory: u64) -> DirectoryGuard {
        DirectoryGuard { directories, directory, unwanted: AtomicBool::new(false) }
    }

    /// The number.
    pub fn directory(&self) -> u64 {
        self.directory
    }

    /// The pointer names another directory now.
    pub fn delete_when_dropped(&self) {
        self.unwanted.store(true, Ordering::Release);
    }
}

impl Drop for DirectoryGuard {
    fn drop(&mut self) {
        if self.unwanted.load(Ordering::Acquire) {
            // If it fails, the next open deletes it: the pointer does not name it.
            let _ = self.directories.remove(self.directory);
        }
    }
}
