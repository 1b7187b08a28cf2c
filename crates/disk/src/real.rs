// SPDX-License-Identifier: Apache-2.0

//! The operating system's files.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use crate::atomic::directory;
use crate::{DirEntry, Disk, File, Lock, Open};

/// How much is written at once when a file is filled.
const PREFILL_CHUNK_BYTES: usize = 1 << 20;

/// Real files.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The one there is.
    pub fn new() -> RealDisk {
        RealDisk
    }
}

#[derive(Debug)]
struct RealFile(fs::File);

/// The lock lives as long as the file is open.
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = fs::OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Write => _ = options.write(true),
            Open::CreateNew => _ = options.write(true).create_new(true),
            Open::Create => _ = options.write(true).create(true).truncate(false),
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut missing = Vec::new();
        let mut next = path;
        while !next.as_os_str().is_empty() && !next.exists() {
            missing.push(next);
            next = directory(next);
        }
        fs::create_dir_all(path)?;
        for made in missing.into_iter().rev() {
            self.sync_dir(directory(made))?;
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            let is_dir = metadata.is_dir();
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { metadata.len() } });
        }
        entries.sort();
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let status = rustix::fs::statvfs(path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(RealLock { _file: file })),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

impl File for RealFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn prefill(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len) {
            // Some file systems cannot reserve; writing the zeros finds out whether there is room.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; PREFILL_CHUNK_BYTES];
        let mut offset = 0;
        while offset < len {
            let chunk = (len - offset).min(PREFILL_CHUNK_BYTES as u64);
            self.0.write_all_at(&zeros[..chunk as usize], offset)?;
            offset += chunk;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_on_a_directory_is_refused_until_the_first_is_gone() {
        let directory = tempfile::tempdir().expect("a directory");
        let (disk, path) = (RealDisk::new(), directory.path().join("lock"));
        let first = disk.try_lock(&path).expect("free");
        let second = disk.try_lock(&path).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(second, Err(io::ErrorKind::WouldBlock));
        drop(first);
        disk.try_lock(&path).expect("free again");
    }

    #[test]
    fn a_prefilled_file_has_its_length_and_is_zero() {
        let directory = tempfile::tempdir().expect("a directory");
        let (disk, path) = (RealDisk::new(), directory.path().join("segment"));
        let file = disk.open(&path, Open::CreateNew).expect("new");
        file.prefill(3 << 20).expect("room");
        file.write_all_at(b"end", (3 << 20) - 3).expect("inside");
        let mut last = [1; 4];
        file.read_exact_at(&mut last, (3 << 20) - 4).expect("inside");
        assert_eq!((file.len().expect("open"), &last), (3 << 20, b"\0end"));
        assert!(disk.open(&path, Open::CreateNew).is_err());
    }
}
