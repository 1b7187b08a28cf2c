// SPDX-License-Identifier: Apache-2.0

//! Small files that are replaced whole: identity, pointers, lists.
//!
//! ```text
//! file := magic:8 bytes  length:u32  crc32c:u32 over magic, length and payload  payload
//! ```
//!
//! The new content is written beside the old one, synced, renamed over it, and the directory is synced: a crash anywhere leaves
//! the old or the new file. Integers are little-endian.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Disk, Open, is_too_long, read_file};

const HEADER_BYTES: usize = 16;

/// Why a file could not be read.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// The system said no.
    Io(io::Error),
    /// It is another file, or a damaged one; nothing was touched.
    Damaged(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(f),
            ReadError::Damaged(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

/// New content that is durable beside the file that it is to replace.
#[derive(Debug)]
#[must_use = "the old content stays until it is put in its place"]
pub struct Prepared {
    path: PathBuf,
}

impl Prepared {
    /// Puts it in the file's place, durably. Nothing else may have been prepared for that file meanwhile.
    pub fn put(self, disk: &dyn Disk) -> io::Result<()> {
        disk.rename(&beside(&self.path), &self.path)?;
        disk.sync_dir(directory(&self.path))
    }
}

/// Replaces a file durably and atomically.
pub fn replace(disk: &dyn Disk, path: &Path, magic: [u8; 8], payload: &[u8]) -> io::Result<()> {
    prepare(disk, path, magic, payload)?.put(disk)
}

/// Does of [`replace`] what needs room on the disk.
pub fn prepare(disk: &dyn Disk, path: &Path, magic: [u8; 8], payload: &[u8]) -> io::Result<Prepared> {
    let len = u32::try_from(payload.len())
        .map_err(|_| io::Error::new(io::ErrorKind::FileTooLarge, "more than 4 GiB in one small file"))?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&magic);
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&checksum(&bytes, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    let beside = beside(path);
    let file = disk.open(&beside, Open::Create)?;
    file.set_len(0)?;
    file.write_all_at(&bytes, 0)?;
    file.sync_data()?;
    Ok(Prepared { path: path.to_owned() })
}

/// Reads a file back; `None` when it does not exist. `max_bytes` bounds the payload before anything is allocated.
pub fn read(
    disk: &dyn Disk,
    path: &Path,
    magic: [u8; 8],
    max_bytes: usize,
) -> Result<Option<Vec<u8>>, ReadError> {
    let damaged = |reason: &str| Err(ReadError::Damaged(reason.to_owned()));
    let bytes = match read_file(disk, path, max_bytes.saturating_add(HEADER_BYTES)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) if is_too_long(&error) => return damaged(&error.to_string()),
        Err(error) => return Err(error.into()),
    };
    let Some((header, payload)) = bytes.split_at_checked(HEADER_BYTES) else {
        return damaged("it is shorter than its header");
    };
    let (own_magic, rest) = header.split_at(8);
    if own_magic != magic {
        return damaged("it does not begin as such a file does");
    }
    let (len, crc) = rest.split_at(4);
    if len != (payload.len() as u64 as u32).to_le_bytes() {
        return damaged("its length is not the one in its header");
    }
    if crc != checksum(&header[..12], payload).to_le_bytes() {
        return damaged("its checksum is wrong");
    }
    Ok(Some(payload.to_vec()))
}

/// The directory that holds a path.
pub fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the new content of the file `name` is called until it is whole: a crash may leave it.
pub fn name_beside(name: &str) -> String {
    format!("{name}{BESIDE}")
}

const BESIDE: &str = ".new";

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BESIDE);
    PathBuf::from(name)
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    const MAGIC: [u8; 8] = *b"testfile";

    #[test]
    fn a_crash_at_any_operation_leaves_the_old_or_the_new_file() {
        let path = Path::new("/d/file");
        for seed in 0..20 {
            for crash_at in 0.. {
                let disk = MemoryDisk::new();
                disk.create_dir_all(Path::new("/d")).expect("no fault yet");
                replace(&disk, path, MAGIC, b"old").expect("no fault yet");
                disk.fail_from_operation(disk.operations() + crash_at);
                let result = replace(&disk, path, MAGIC, b"new, and longer");
                disk.crash(seed);
                let found = read(&disk, path, MAGIC, 100).expect("whole").expect("there");
                if result.is_ok() {
                    assert_eq!(found, b"new, and longer");
                    break;
                }
                assert!(found == b"old" || found == b"new, and longer", "seed {seed}, crash at {crash_at}");
            }
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_a_damaged_one() {
        let disk = MemoryDisk::new();
        let path = Path::new("/file");
        replace(&disk, path, MAGIC, &[7; 100]).expect("no fault");
        assert!(read(&disk, path, MAGIC, 100).is_ok_and(|payload| payload.is_some()));
        let error = read(&disk, path, MAGIC, 99).expect_err("too long");
        assert!(matches!(&error, ReadError::Damaged(why) if why.contains("116 bytes")), "{error}");
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let path = Path::new("/file");
        let disk = MemoryDisk::new();
        replace(&disk, path, MAGIC, b"payload").expect("no fault");
        for bit in 0..(HEADER_BYTES + 7) * 8 {
            disk.flip_bit(path, bit as u64);
            assert!(matches!(read(&disk, path, MAGIC, 100), Err(ReadError::Damaged(_))), "bit {bit}");
            disk.flip_bit(path, bit as u64);
        }
        assert_eq!(read(&disk, path, MAGIC, 100).expect("whole"), Some(b"payload".to_vec()));
        assert!(read(&disk, path, MAGIC, 6).is_err(), "longer than the caller allows");
    }
}
