// SPDX-License-Identifier: Apache-2.0

//! Snapshots: all entries of a consistent view in order, in chunks that can be checked.
//!
//! ```text
//! chunk  := version:u8=1  item*
//! item   := 1:u8 head   applied:varint  revision:varint
//!         | 2:u8 entry  key:bytes (store key)  value:bytes (stored value)
//!         | 3:u8 tail   entries:varint  content_hash:16 bytes
//! ```
//!
//! The head comes first, the tail last, the entries between are strictly ascending. The content hash is the one that replicas
//! compare (rule E8), so a snapshot that arrives is known to be equal to the state that it was taken of. The receiver checks all of
//! this and every length before it believes anything; of a meta family it takes nothing: that is the host's to give.

use mraft_engine::machine::MachineError;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{COMMAND_BYTES_MAX, KEY_BYTES_MAX};

use crate::content::ContentHasher;
use crate::keys::{FAMILY_META, FAMILY_USER};
use crate::merge::Entries;
use crate::meta::{counted, damaged};
use crate::value::{HEADER_BYTES_MAX, StoredValue};

const VERSION: u8 = 1;
const HEAD: u8 = 1;
const ENTRY: u8 = 2;
const TAIL: u8 = 3;

/// Cuts ordered entries into chunks.
pub(crate) struct ChunkWriter {
    applied: u64,
    revision: u64,
    /// `None` when the tail was written.
    hasher: Option<ContentHasher>,
    begun: bool,
}

impl ChunkWriter {
    /// Of a state at this index and revision.
    pub fn new(applied: u64, revision: u64) -> ChunkWriter {
        ChunkWriter { applied, revision, hasher: Some(ContentHasher::new()), begun: false }
    }

    /// Appends the next chunk of at least one item and, if there is more than one, about `max_bytes`. `false` when the last one was
    /// written before.
    pub fn next_chunk(
        &mut self,
        entries: &mut impl Entries,
        max_bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, MachineError> {
        let Some(hasher) = &mut self.hasher else { return Ok(false) };
        let start = out.len();
        out.put_u8(VERSION);
        if !self.begun {
            self.begun = true;
            out.put_u8(HEAD);
            out.put_varint(self.applied);
            out.put_varint(self.revision);
        }
        while let Some((key, value)) = entries.next()? {
            hasher.entry(key, value);
            out.put_u8(ENTRY);
            out.put_bytes(key);
            out.put_bytes(value);
            if out.len() - start >= max_bytes {
                return Ok(true);
            }
        }
        out.put_u8(TAIL);
        out.put_varint(hasher.entries());
        let hash = self.hasher.take().map_or(0, |hasher| hasher.finish(self.revision));
        out.put_raw(&hash.to_le_bytes());
        Ok(true)
    }
}

/// The hash of a whole view.
pub(crate) fn content_hash(entries: &mut impl Entries, revision: u64) -> Result<u128, MachineError> {
    let mut hasher = ContentHasher::new();
    while let Some((key, value)) = entries.next()? {
        hasher.entry(key, value);
    }
    Ok(hasher.finish(revision))
}

/// What a snapshot says of the state it was taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub applied: u64,
    pub revision: u64,
}

/// Reads chunks and checks them.
pub(crate) struct ChunkReader {
    head: Option<Head>,
    hasher: Option<ContentHasher>,
    last_key: Vec<u8>,
}

impl ChunkReader {
    pub fn new() -> ChunkReader {
        ChunkReader { head: None, hasher: Some(ContentHasher::new()), last_key: Vec::new() }
    }

    /// Reads a chunk and gives its entries to `take`, in order. What was given before an error is not to be used.
    pub fn read(
        &mut self,
        chunk: &[u8],
        mut take: impl FnMut(&[u8], &[u8]) -> Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        let mut reader = Reader::new(chunk);
        match reader.u8("version").map_err(bad_chunk)? {
            VERSION => {}
            other => return Err(bad_chunk(DecodeError::Unknown("version", u64::from(other)))),
        }
        while reader.remaining() > 0 {
            let tag = reader.u8("item").map_err(bad_chunk)?;
            match (tag, self.head, &mut self.hasher) {
                (HEAD, None, _) => {
                    let mut number = |field| reader.varint(field).and_then(|number| counted(field, number));
                    let applied = number("applied").map_err(bad_chunk)?;
                    let revision = number("revision").map_err(bad_chunk)?;
                    self.head = Some(Head { applied, revision });
                }
                (ENTRY, Some(head), Some(hasher)) => {
                    let key = reader.bytes("key", KEY_BYTES_MAX + 1).map_err(bad_chunk)?;
                    let value =
                        reader.bytes("value", COMMAND_BYTES_MAX + HEADER_BYTES_MAX).map_err(bad_chunk)?;
                    check_entry(head, &self.last_key, key, value)?;
                    hasher.entry(key, value);
                    take(key, value)?;
                    self.last_key.clear();
                    self.last_key.extend_from_slice(key);
                }
                (TAIL, Some(head), Some(hasher)) => {
                    let entries = reader.varint("entries").map_err(bad_chunk)?;
                    let hash = u128::from_le_bytes(reader.id128("content_hash").map_err(bad_chunk)?);
                    if entries != hasher.entries() {
                        return Err(wrong("it has another number of entries than it says"));
                    }
                    let own = self.hasher.take().map_or(0, |hasher| hasher.finish(head.revision));
                    if own != hash {
                        return Err(wrong("its content hash is not the one of its entries"));
                    }
                }
                (HEAD | ENTRY | TAIL, ..) => return Err(wrong("its items are out of order")),
                _ => return Err(bad_chunk(DecodeError::Unknown("item", u64::from(tag)))),
            }
        }
        Ok(())
    }

    /// The head, if everything arrived.
    pub fn finish(self) -> Result<Head, MachineError> {
        match (self.head, self.hasher) {
            (Some(head), None) => Ok(head),
            _ => Err(wrong("its end is missing")),
        }
    }
}

fn check_entry(head: Head, last_key: &[u8], key: &[u8], value: &[u8]) -> Result<(), MachineError> {
    if key <= last_key {
        return Err(wrong("its keys are out of order"));
    }
    match key {
        [FAMILY_USER, _, ..] => {}
        [FAMILY_META, ..] => return Err(wrong("it brings meta of its own")),
        [family, ..] => return Err(bad_chunk(DecodeError::Unknown("family", u64::from(*family)))),
        [] => return Err(wrong("it has an empty key")),
    }
    let value = StoredValue::decode(value).map_err(bad_chunk)?;
    if value.revision == 0 || value.revision > head.revision {
        return Err(wrong("a value is newer than the state"));
    }
    if value.bytes.len() > COMMAND_BYTES_MAX {
        return Err(wrong("a value is too long"));
    }
    Ok(())
}

fn bad_chunk(error: DecodeError) -> MachineError {
    damaged("a snapshot chunk", error)
}

fn wrong(what: &str) -> MachineError {
    MachineError::Damaged(format!("a snapshot: {what}"))
}
