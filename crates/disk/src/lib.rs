// SPDX-License-Identifier: Apache-2.0

//! The seam to files: everything that must survive a power cut goes through [`Disk`] and [`File`].
//!
//! [`RealDisk`] is the operating system's. [`MemoryDisk`] keeps everything in memory and can lose, tear, fail, fill up, slow down and
//! damage what it holds, deterministically: the tests of the log and the simulator run on it. [`atomic`] replaces small files whole.
//!
//! Durability is never assumed: bytes are durable after [`File::sync_data`], names after [`Disk::sync_dir`] of their directory. An
//! error of a sync is final for what it was to make durable; nobody retries it as if it were fine (rule D10).
//!
//! Invariant: this crate knows nothing of Raft, and nothing of what is in the files.

#![forbid(unsafe_code)]

pub mod atomic;
pub mod bench;
pub mod memory;
pub mod real;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use memory::MemoryDisk;
pub use real::RealDisk;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// For reading only; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist yet.
    CreateNew,
    /// For reading and writing; created empty if it does not exist.
    Create,
}

/// What a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name within the directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// Bytes of a file; 0 for a directory.
    pub len: u64,
}

/// A lock on a directory, released when dropped.
pub trait Lock: Send + Sync {}

/// A file system.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and its missing parents, and makes their names durable.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// What a directory holds, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Renames a file or directory over whatever has the new name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether there is something with this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Bytes that a file on this path could still grow by.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Locks a lock file, creating it; [`io::ErrorKind::WouldBlock`] when another process holds it.
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
}

/// An open file. Positions are explicit, so one handle may be used by several threads.
pub trait File: Send + Sync + fmt::Debug {
    /// Fills the whole buffer from this offset; [`io::ErrorKind::UnexpectedEof`] when the file is shorter.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes everything at this offset.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Has whole, aligned blocks go past the page cache from now on, where the file system can (O_DIRECT): a log is written once and
    /// hardly read back, so copying it into the cache costs processor time and memory for nothing. Changes nothing else.
    fn bypass_cache(&self) {}
    /// Makes all bytes written so far durable (fdatasync).
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves room and writes zeros over the whole length, so that overwriting later changes no metadata: a sync of an overwrite
    /// is several times cheaper than one of an append. Not durable until synced.
    fn prefill(&self, len: u64) -> io::Result<()>;
    /// Cuts or grows the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Whether an error says that there is no room (ENOSPC, EDQUOT): back-pressure, not damage (rule D10).
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether an error says that there is no such file.
pub fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Whether an error of [`read_file`] says that the file is longer than it may be: nobody wrote it like that.
pub fn is_too_long(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidData
}

/// Reads a whole file of at most `max_bytes`; `None` when it does not exist.
pub fn read_file(disk: &dyn Disk, path: &Path, max_bytes: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(path, Open::Read) {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > max_bytes as u64 {
        let text = format!("{} bytes, more than the {max_bytes} that it may have", len);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}
