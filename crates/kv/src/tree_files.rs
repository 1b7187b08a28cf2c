// SPDX-License-Identifier: Apache-2.0

//! What the tree's crate believes of its own files without having checked it, checked before it does.
//!
//! The crate has a checksum in every block of a table and looks at it when it reads one. But the file that says which tables there are it
//! reads as it is, although `current` has its checksum; and it allocates what a table's directory of sections claims before it compares
//! that one's. So one flipped bit could hide tables, whose keys would be gone, or end the whole process, where one replica has to stop and
//! say why (rule D10).
//!
//! ```text
//! current  := version:u64  checksum:u128 (XXH3, of the file vN)  checksum_type:u8=0
//! vN       := an archive; its section "tables" := levels:u8 { runs:u8 { tables:u32 { id:u64 checksum_type:u8=0 checksum:u128 seqno:u64 } } }
//! tables/N := an archive, of blocks
//! archive  := sections  directory  "SFA!"  version:u8=1  checksum_type:u8=0  checksum:u128 (XXH3, of the directory)  position:u64  length:u64
//! directory := "TOC!"  count:u32 { position:u64  length:u64  name_length:u16  name }
//! ```

use std::path::Path;

use mraft_disk::{Disk, File, Open, is_missing, is_too_long, read_file};
use mraft_engine::machine::MachineError;
use mraft_types::codec::{DecodeError, Reader};
use xxhash_rust::xxh3::xxh3_128;

/// The file that names the crate's present version.
pub(crate) const CURRENT_FILE: &str = "current";
/// Where the crate keeps its tables, each named by its number.
pub(crate) const TABLES_DIRECTORY: &str = "tables";

const CURRENT_BYTES: usize = 8 + 16 + 1;
/// 33 bytes for each table: enough for two million.
const VERSION_BYTES_MAX: usize = 64 << 20;
const TRAILER_BYTES: usize = 4 + 1 + 1 + 16 + 8 + 8;
/// A table has about ten sections with short names.
const DIRECTORY_BYTES_MAX: u64 = 64 << 10;

/// Checks what is read without being checked otherwise, of the tree that `current` names. Reads a few small pieces of each table.
pub(crate) fn check(disk: &dyn Disk, tree: &Path) -> Result<(), MachineError> {
    let current = read(disk, tree, CURRENT_FILE, CURRENT_BYTES)?
        .ok_or_else(|| damaged(CURRENT_FILE, "it is not there"))?;
    let (version, checksum) = decode_current(&current)?;
    let name = format!("v{version}");
    let bytes = read(disk, tree, &name, VERSION_BYTES_MAX)?
        .ok_or_else(|| damaged(CURRENT_FILE, &format!("it names {name}, which is not there")))?;
    if xxh3_128(&bytes) != checksum {
        return Err(damaged(&name, "its checksum is not the one that `current` says"));
    }
    for table in tables_of(&bytes).map_err(|error| undecodable(&name, error))? {
        let name = format!("{TABLES_DIRECTORY}/{table}");
        match disk.open(&tree.join(&name), Open::Read) {
            Ok(file) => check_directory(&name, file.as_ref())?,
            Err(error) if is_missing(&error) => return Err(damaged(&name, "it is not there")),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read(disk: &dyn Disk, tree: &Path, name: &str, bytes_max: usize) -> Result<Option<Vec<u8>>, MachineError> {
    match read_file(disk, &tree.join(name), bytes_max) {
        Err(error) if is_too_long(&error) => Err(damaged(name, &error.to_string())),
        read => Ok(read?),
    }
}

fn decode_current(bytes: &[u8]) -> Result<(u64, u128), MachineError> {
    let mut reader = Reader::new(bytes);
    let mut read = || {
        let version = reader.u64("version")?;
        let checksum = u128::from_le_bytes(reader.id128("checksum")?);
        match reader.u8("checksum_type")? {
            0 => {}
            other => return Err(DecodeError::Unknown("checksum_type", u64::from(other))),
        }
        match reader.remaining() {
            0 => Ok((version, checksum)),
            left => Err(DecodeError::Trailing(left)),
        }
    };
    read().map_err(|error| undecodable(CURRENT_FILE, error))
}

/// The numbers of the tables that a version names. Its bytes are as they were written.
fn tables_of(version: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let trailer = version.len().checked_sub(TRAILER_BYTES).ok_or(DecodeError::Truncated("trailer"))?;
    let Trailer { position, length, .. } = Trailer::decode(&version[trailer..])?;
    let section = |position: u64, length: u64| {
        let from = usize::try_from(position).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        version.get(from..to).ok_or(DecodeError::Truncated("section"))
    };
    let mut directory = Reader::new(section(position, length)?);
    directory.take("magic", 4)?;
    for _ in 0..directory.u32("count")? {
        let (position, length) = (directory.u64("position")?, directory.u64("length")?);
        let name_length = directory.u16("name_length")?;
        if directory.take("name", usize::from(name_length))? == b"tables" {
            return decode_tables(section(position, length)?);
        }
    }
    Err(DecodeError::Truncated("tables"))
}

fn decode_tables(bytes: &[u8]) -> Result<Vec<u64>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut tables = Vec::new();
    for _level in 0..reader.u8("levels")? {
        for _run in 0..reader.u8("runs")? {
            for _table in 0..reader.u32("tables")? {
                tables.push(reader.u64("id")?);
                reader.take("checksum_type, checksum, seqno", 1 + 16 + 8)?;
            }
        }
    }
    match reader.remaining() {
        0 => Ok(tables),
        left => Err(DecodeError::Trailing(left)),
    }
}

struct Trailer {
    checksum: u128,
    position: u64,
    length: u64,
}

impl Trailer {
    fn decode(bytes: &[u8]) -> Result<Trailer, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.take("magic", 4)? != b"SFA!" {
            return Err(DecodeError::Invalid("magic", 0));
        }
        for (field, known) in [("archive_version", 1), ("checksum_type", 0)] {
            match reader.u8(field)? {
                value if value == known => {}
                other => return Err(DecodeError::Unknown(field, u64::from(other))),
            }
        }
        let checksum = u128::from_le_bytes(reader.id128("checksum")?);
        Ok(Trailer { checksum, position: reader.u64("position")?, length: reader.u64("length")? })
    }
}

/// Whether an archive's directory of sections is as it was written.
fn check_directory(name: &str, file: &dyn File) -> Result<(), MachineError> {
    let len = file.len()?;
    let Some(end) = len.checked_sub(TRAILER_BYTES as u64) else {
        return Err(damaged(name, "it is shorter than what it ends with"));
    };
    let mut bytes = [0; TRAILER_BYTES];
    file.read_exact_at(&mut bytes, end)?;
    let trailer = Trailer::decode(&bytes).map_err(|error| undecodable(name, error))?;
    if trailer.length > DIRECTORY_BYTES_MAX || trailer.position.checked_add(trailer.length) != Some(end) {
        return Err(damaged(name, "its sections are not listed where it says"));
    }
    let mut directory = vec![0; usize::try_from(trailer.length).unwrap_or(0)];
    file.read_exact_at(&mut directory, trailer.position)?;
    match xxh3_128(&directory) == trailer.checksum {
        true => Ok(()),
        false => Err(damaged(name, "the checksum of its sections' list is wrong")),
    }
}

fn damaged(file: &str, what: &str) -> MachineError {
    MachineError::Damaged(format!("the tree's file {file}: {what}"))
}

/// Also of a version that this build does not know: nobody can tell which bits of those fields were written.
fn undecodable(file: &str, error: DecodeError) -> MachineError {
    damaged(file, &error.to_string())
}
