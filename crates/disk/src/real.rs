// SPDX-License-Identifier: Apache-2.0

//! The operating system's files.

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::atomic::directory;
use crate::{DirEntry, Disk, File, Lock, Open};

/// How much is written at once when a file is filled.
const PREFILL_CHUNK_BYTES: usize = 1 << 20;
/// What direct writes are multiples of, in memory and in the file.
const DIRECT_BLOCK_BYTES: usize = 4096;
/// Larger writes whose memory is not aligned go in pieces of this size.
const DIRECT_SCRATCH_BYTES: usize = 1 << 20;

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
struct RealFile {
    file: fs::File,
    path: PathBuf,
    direct: OnceLock<Direct>,
}

/// The same file, opened once more for writes past the page cache.
#[derive(Debug)]
struct Direct {
    file: fs::File,
    /// Aligned memory for bytes that are not.
    scratch: Mutex<Vec<u8>>,
    /// The file system said that it wants something else.
    is_refused: AtomicBool,
}

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
        let file = options.open(path)?;
        Ok(Arc::new(RealFile { file, path: path.to_owned(), direct: OnceLock::new() }))
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
        self.file.read_exact_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.get()
            && direct.takes(bytes, offset)
        {
            match direct.write(bytes, offset) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                    direct.is_refused.store(true, Ordering::Relaxed);
                }
                result => return result,
            }
        }
        self.file.write_all_at(bytes, offset)
    }

    fn bypass_cache(&self) {
        let flags = rustix::fs::OFlags::DIRECT.bits();
        let opened = fs::OpenOptions::new()
            .write(true)
            .custom_flags(i32::try_from(flags).unwrap_or(0))
            .open(&self.path);
        // Where it cannot be had, the cache does.
        if let Ok(file) = opened {
            let scratch = Mutex::new(Vec::new());
            let _ = self.direct.set(Direct { file, scratch, is_refused: AtomicBool::new(false) });
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn prefill(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            // Some file systems cannot reserve; writing the zeros finds out whether there is room.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; PREFILL_CHUNK_BYTES];
        let mut offset = 0;
        while offset < len {
            let chunk = (len - offset).min(PREFILL_CHUNK_BYTES as u64);
            self.file.write_all_at(&zeros[..chunk as usize], offset)?;
            offset += chunk;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Direct {
    fn takes(&self, bytes: &[u8], offset: u64) -> bool {
        !bytes.is_empty()
            && bytes.len().is_multiple_of(DIRECT_BLOCK_BYTES)
            && offset.is_multiple_of(DIRECT_BLOCK_BYTES as u64)
            && !self.is_refused.load(Ordering::Relaxed)
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if bytes.as_ptr().align_offset(DIRECT_BLOCK_BYTES) == 0 {
            return self.file.write_all_at(bytes, offset);
        }
        let mut scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = bytes.len().min(DIRECT_SCRATCH_BYTES) + DIRECT_BLOCK_BYTES;
        if scratch.len() < needed {
            scratch.resize(needed, 0);
        }
        let begin = scratch.as_ptr().align_offset(DIRECT_BLOCK_BYTES);
        let mut at = offset;
        for piece in bytes.chunks(DIRECT_SCRATCH_BYTES) {
            let aligned = scratch.get_mut(begin..begin + piece.len()).ok_or(io::ErrorKind::InvalidInput)?;
            aligned.copy_from_slice(piece);
            self.file.write_all_at(aligned, at)?;
            at += piece.len() as u64;
        }
        Ok(())
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
    fn what_goes_past_the_cache_is_read_through_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let (disk, path) = (RealDisk::new(), directory.path().join("segment"));
        let file = disk.open(&path, Open::CreateNew).expect("new");
        file.write_all_at(&[1; 3 * 4096], 0).expect("cached");
        let mut before = [0; 4096];
        file.read_exact_at(&mut before, 4096).expect("inside");
        file.bypass_cache();
        let unaligned = [&[0; 1][..], &[2; 2 * 4096]].concat();
        file.write_all_at(&unaligned[1..], 4096).expect("direct");
        file.write_all_at(b"tail", 3 * 4096).expect("not a block");
        let mut whole = vec![0; 3 * 4096 + 4];
        file.read_exact_at(&mut whole, 0).expect("inside");
        assert_eq!(whole, [&[1; 4096][..], &[2; 2 * 4096], b"tail"].concat());
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
