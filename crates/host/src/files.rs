// SPDX-License-Identifier: Apache-2.0

//! The host's small files and directories, on whatever disk it was given.

use std::any::Any;
use std::io;
use std::path::{Component, Path, PathBuf};

use mraft_disk::atomic::{self, ReadError};
use mraft_disk::{Disk, Lock, is_missing};
use mraft_engine::machine::MachineError;
use mraft_types::{GroupId, ReplicaId};

use crate::error::HostError;

const LOCK_FILE: &str = "lock";

/// Reads a checked file; `None` when it does not exist.
pub(crate) fn read(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 8],
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, HostError> {
    atomic::read(disk, path, magic, max_bytes).map_err(|error| match error {
        ReadError::Io(error) => HostError::io(path, error),
        error => HostError::damaged(path, error.to_string()),
    })
}

/// Replaces a checked file.
pub(crate) fn replace(disk: &dyn Disk, path: &Path, magic: [u8; 8], payload: &[u8]) -> Result<(), HostError> {
    replace_io(disk, path, magic, payload).map_err(|error| HostError::io(path, error))
}

/// As [`read`], for a state machine.
pub(crate) fn read_state(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 8],
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, MachineError> {
    atomic::read(disk, path, magic, max_bytes).map_err(|error| match error {
        ReadError::Io(error) => MachineError::Io(error),
        error => MachineError::Damaged(format!("{}: {error}", path.display())),
    })
}

/// As [`replace`].
pub(crate) fn replace_io(disk: &dyn Disk, path: &Path, magic: [u8; 8], payload: &[u8]) -> io::Result<()> {
    atomic::replace(disk, path, magic, payload)
}

/// Makes a directory with its parents, durably.
pub(crate) fn make_directory(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    disk.create_dir_all(path)
}

/// Renames within one directory, durably.
pub(crate) fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> io::Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir(atomic::directory(to))
}

/// Removes a file that may be gone already.
pub(crate) fn remove(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Removes a directory that may be gone already, with everything in it.
pub fn remove_directory(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_dir_all(path) {
        Ok(()) => disk.sync_dir(atomic::directory(path)),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes the files whose names begin with `prefix`, except one.
pub(crate) fn remove_others(
    disk: &dyn Disk,
    directory: &Path,
    prefix: &str,
    keep: Option<&Path>,
) -> io::Result<()> {
    for entry in disk.read_dir(directory)? {
        let path = directory.join(&entry.name);
        if !entry.is_dir && entry.name.starts_with(prefix) && keep != Some(path.as_path()) {
            disk.remove_file(&path)?;
        }
    }
    Ok(())
}

/// The first thing in a directory but those in `besides` and a lock file; `None` for an empty or missing one.
pub(crate) fn first_entry(disk: &dyn Disk, directory: &Path, besides: &[&str]) -> io::Result<Option<String>> {
    let counts = |name: &String| name != LOCK_FILE && !besides.contains(&name.as_str());
    match disk.read_dir(directory) {
        Ok(entries) => Ok(entries.into_iter().map(|entry| entry.name).find(counts)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Held {
    _lock: Box<dyn Lock>,
}

/// Where a path points to, without asking the disk: absolute, with `.` and `..` folded.
pub fn folded(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut folded = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => _ = folded.pop(),
            Component::CurDir => {}
            other => folded.push(other),
        }
    }
    folded
}

/// Whether two paths name one place, as far as their words tell.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    folded(one) == folded(other)
}

/// Where a replica's state machine keeps its files.
pub fn group_directory(data_directory: &Path, group: GroupId, replica: ReplicaId) -> PathBuf {
    data_directory.join("groups").join(format!("{}-{:016x}", group.0, replica.get()))
}

/// Makes sure that no process has a directory open, for as long as the answer is held. Creates nothing: a directory that was never
/// opened has no lock.
pub fn lock_stopped(disk: &dyn Disk, directory: &Path) -> Result<Box<dyn Any + Send + Sync>, HostError> {
    let path = directory.join(LOCK_FILE);
    if !disk.exists(&path).map_err(|error| HostError::io(&path, error))? {
        return Ok(Box::new(()));
    }
    try_lock(disk, directory)
}

/// Locks a node's directories, which are made if need be; a second process is refused.
pub(crate) fn lock_directories(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
) -> Result<Vec<Box<dyn Any + Send + Sync>>, HostError> {
    let mut directories: Vec<PathBuf> = vec![data.to_owned()];
    if wal != data {
        directories.push(wal.to_owned());
    }
    let mut held: Vec<Box<dyn Any + Send + Sync>> = Vec::new();
    for directory in directories {
        make_directory(disk, &directory).map_err(|error| HostError::io(&directory, error))?;
        held.push(try_lock(disk, &directory)?);
    }
    Ok(held)
}

fn try_lock(disk: &dyn Disk, directory: &Path) -> Result<Box<dyn Any + Send + Sync>, HostError> {
    match disk.try_lock(&directory.join(LOCK_FILE)) {
        Ok(lock) => Ok(Box::new(Held { _lock: lock })),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(HostError::Refused {
            reason: format!("{} is in use by another process; stop that one first", directory.display()),
        }),
        Err(error) => Err(HostError::io(directory, error)),
    }
}
