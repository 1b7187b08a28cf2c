// SPDX-License-Identifier: Apache-2.0

//! Several things in one input, and files made of bytes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, MemoryDisk, Open};

/// What an input is cut into.
///
/// ```text
/// pieces := (length:u16  bytes)*; a piece that is longer than what is left is the rest
/// ```
pub fn pieces(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<2>() {
        let (piece, behind) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
        pieces.push(piece);
        bytes = behind;
    }
    pieces
}

/// Appends pieces to an input.
pub fn put_pieces(input: &mut Vec<u8>, pieces: &[impl AsRef<[u8]>]) {
    for piece in pieces {
        let len = u16::try_from(piece.as_ref().len()).unwrap_or(u16::MAX);
        input.extend_from_slice(&len.to_le_bytes());
        input.extend_from_slice(piece.as_ref());
    }
}

/// The names that stand in JSON documents, with what is between a name and its value. They are made once and stay.
pub fn names_in(documents: &[Vec<u8>]) -> Vec<&'static [u8]> {
    let mut names = BTreeSet::new();
    for document in documents {
        // Whatever is between quotes and has a colon behind it; no name has an escape in it.
        let mut parts = document.split(|byte| *byte == b'"').skip(1);
        while let (Some(name), Some(behind)) = (parts.next(), parts.next()) {
            if behind.starts_with(b":") {
                names.insert([b"\"", name, b"\":"].concat());
            }
        }
    }
    names.into_iter().map(|name| &*Vec::leak(name)).collect()
}

/// A disk with this directory.
pub fn disk_with(directory: &Path) -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new();
    let made = disk.create_dir_all(directory);
    assert!(made.is_ok(), "a new disk fails: {made:?}");
    Arc::new(disk)
}

/// Makes these the bytes of a file, durably.
pub fn put_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) {
    let done = disk.open(path, Open::Create).and_then(|file| {
        file.set_len(0)?;
        file.write_all_at(bytes, 0)?;
        file.sync_data()
    });
    assert!(done.is_ok(), "a disk without faults fails: {done:?}");
}

/// A checked small file with this payload, or, if it is not `checked`, with these bytes as they are.
pub fn put_small_file(disk: &dyn Disk, path: &Path, magic: [u8; 8], bytes: &[u8], checked: bool) {
    if checked {
        let done = mraft_disk::atomic::replace(disk, path, magic, bytes);
        assert!(done.is_ok(), "a disk without faults fails: {done:?}");
    } else {
        put_file(disk, path, bytes);
    }
}

/// The payload of a checked small file.
pub fn small_file(disk: &dyn Disk, path: &Path, magic: [u8; 8]) -> Vec<u8> {
    mraft_disk::atomic::read(disk, path, magic, 1 << 20).ok().flatten().unwrap_or_default()
}

/// A checked small file as it stands on the disk.
pub fn raw_file(disk: &dyn Disk, path: &Path) -> Vec<u8> {
    mraft_disk::read_file(disk, path, 1 << 20).ok().flatten().unwrap_or_default()
}

/// A place of this thread's own on the real file system, in memory if there is such a place. What was put there goes when this is dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Where nothing is yet.
    pub fn new(name: &str) -> Scratch {
        let thread =
            format!("{:?}", std::thread::current().id()).replace(|letter: char| !letter.is_ascii_digit(), "");
        let directory =
            ["/dev/shm", "/run/shm"].map(PathBuf::from).into_iter().find(|directory| directory.is_dir());
        let directory = directory.unwrap_or_else(std::env::temp_dir);
        Scratch(directory.join(format!("mraft-fuzz-{}-{thread}-{name}", std::process::id())))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is one or the other, or was never made.
        let _ = std::fs::remove_file(&self.0);
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
