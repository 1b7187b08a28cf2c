// SPDX-License-Identifier: Apache-2.0

//! A snapshot as a stream of frames: a header, numbered chunks, an end that counts and hashes them all (rule N1, step 1).
//!
//! Frames check each chunk; [`SnapshotSum`] checks what frames cannot: that no chunk is missing, repeated, out of order or of
//! another snapshot. Sender and receiver run the same sum.

use std::fmt;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::{GroupId, GroupUid, LogPosition, LogStart, Membership, Payload, ReplicaId, Term};
use xxhash_rust::xxh3::Xxh3;

use crate::fields::{replica, shared_bytes};
use crate::refusal::shortened;

/// What senders aim at: small enough that a limited rate flows evenly.
pub const SNAPSHOT_CHUNK_BYTES_TARGET: usize = 256 << 10;
/// Longest chunk: the target, and one more record of the largest size.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 6 << 20;
/// Longest meta of a state machine.
pub const SNAPSHOT_META_BYTES_MAX: usize = 1 << 20;

pub(crate) const SNAPSHOT_HEADER_BYTES_MAX: usize = 2 << 20;
pub(crate) const SNAPSHOT_REPLY_BYTES_MAX: usize = 1 << 10;
const REASON_BYTES_MAX: usize = 512;

const _: () = assert!(SNAPSHOT_CHUNK_BYTES_TARGET + ENTRY_BYTES_MAX <= SNAPSHOT_CHUNK_BYTES_MAX);

/// What is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// Who sends.
    pub from: ReplicaId,
    /// Who is to install it.
    pub to: ReplicaId,
    /// The sender's term.
    pub term: Term,
    /// What the snapshot covers.
    pub start: LogStart,
    /// Format version of the state machine's bytes.
    pub format: u32,
    /// The state machine's meta (rule E7), at most [`SNAPSHOT_META_BYTES_MAX`].
    pub meta: Payload,
}

/// A part of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// From 0, growing by 1.
    pub number: u64,
    /// 1 byte to [`SNAPSHOT_CHUNK_BYTES_MAX`].
    pub data: Payload,
}

/// What was sent in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// Chunks.
    pub chunks: u64,
    /// Bytes of data.
    pub bytes: u64,
    /// XXH3-128 of all data in order.
    pub hash: u128,
}

/// What the receiver says: once after the header, once at the end, or a refusal at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotReply {
    /// Send the chunks.
    Accepted,
    /// Everything is staged and synced.
    Finished,
    /// It is not wanted, or it failed; for this reason.
    Refused(String),
}

/// Chunks that are not one whole snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamError {
    /// A chunk with another number than the next one.
    OutOfOrder {
        /// The next one's.
        expected: u64,
        /// The chunk's.
        found: u64,
    },
    /// A chunk that is empty or too long.
    ChunkLength(usize),
    /// The end does not fit what came before it.
    Mismatch {
        /// What arrived.
        arrived: SnapshotEnd,
        /// What was sent.
        sent: SnapshotEnd,
    },
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::OutOfOrder { expected, found } => {
                write!(f, "chunk {found} came where chunk {expected} was due")
            }
            StreamError::ChunkLength(len) => {
                write!(f, "a chunk of {len} bytes; 1 to {SNAPSHOT_CHUNK_BYTES_MAX} are allowed")
            }
            StreamError::Mismatch { arrived, sent } => write!(
                f,
                "{} chunks with {} bytes and hash {:032x} arrived, {} with {} and {:032x} were sent",
                arrived.chunks, arrived.bytes, arrived.hash, sent.chunks, sent.bytes, sent.hash
            ),
        }
    }
}

impl std::error::Error for StreamError {}

/// The running count and hash of a stream.
#[derive(Clone)]
pub struct SnapshotSum {
    chunks: u64,
    bytes: u64,
    hash: Xxh3,
}

impl Default for SnapshotSum {
    fn default() -> SnapshotSum {
        SnapshotSum::new()
    }
}

impl fmt::Debug for SnapshotSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotSum({} chunks, {} bytes)", self.chunks, self.bytes)
    }
}

impl SnapshotSum {
    /// Before the first chunk.
    pub fn new() -> SnapshotSum {
        SnapshotSum { chunks: 0, bytes: 0, hash: Xxh3::new() }
    }

    /// Counts the next data that is sent, and makes it a chunk.
    pub fn number(&mut self, data: Payload) -> Result<SnapshotChunk, StreamError> {
        let chunk = SnapshotChunk { number: self.chunks, data };
        self.receive(&chunk)?;
        Ok(chunk)
    }

    /// Counts a chunk that arrived.
    pub fn receive(&mut self, chunk: &SnapshotChunk) -> Result<(), StreamError> {
        if chunk.number != self.chunks {
            return Err(StreamError::OutOfOrder { expected: self.chunks, found: chunk.number });
        }
        if chunk.data.is_empty() || chunk.data.len() > SNAPSHOT_CHUNK_BYTES_MAX {
            return Err(StreamError::ChunkLength(chunk.data.len()));
        }
        self.chunks += 1;
        self.bytes += chunk.data.len() as u64;
        self.hash.update(&chunk.data);
        Ok(())
    }

    /// The end that belongs to what was counted.
    pub fn end(&self) -> SnapshotEnd {
        SnapshotEnd { chunks: self.chunks, bytes: self.bytes, hash: self.hash.digest128() }
    }

    /// Compares what arrived with what the sender says that it sent.
    pub fn verify(&self, sent: &SnapshotEnd) -> Result<(), StreamError> {
        let arrived = self.end();
        if arrived == *sent { Ok(()) } else { Err(StreamError::Mismatch { arrived, sent: *sent }) }
    }
}

impl SnapshotHeader {
    /// Appends the header. `false`, and nothing is appended, when the meta is longer than it may be.
    pub fn encode(&self, out: &mut Vec<u8>) -> bool {
        if self.meta.len() > SNAPSHOT_META_BYTES_MAX {
            return false;
        }
        out.put_varint(self.group.0);
        out.put_raw(&self.uid.0);
        out.put_u64(self.from.get());
        out.put_u64(self.to.get());
        out.put_varint(self.term);
        out.put_varint(self.start.position.index);
        out.put_varint(self.start.position.term);
        self.start.membership.encode(out);
        out.put_u32(self.format);
        out.put_bytes(&self.meta);
        true
    }

    /// Reads what [`SnapshotHeader::encode`] wrote; the meta shares the payload's memory.
    pub fn decode(payload: &Payload) -> Result<SnapshotHeader, DecodeError> {
        let mut reader = Reader::new(payload);
        let header = SnapshotHeader {
            group: GroupId(reader.varint("snapshot.group")?),
            uid: GroupUid(reader.id128("snapshot.uid")?),
            from: replica(&mut reader, "snapshot.from")?,
            to: replica(&mut reader, "snapshot.to")?,
            term: reader.varint("snapshot.term")?,
            start: LogStart {
                position: LogPosition {
                    index: reader.varint("snapshot.index")?,
                    term: reader.varint("snapshot.index_term")?,
                },
                membership: Membership::decode(&mut reader)?,
            },
            format: reader.u32("snapshot.format")?,
            meta: shared_bytes(&mut reader, payload, "snapshot.meta", SNAPSHOT_META_BYTES_MAX)?,
        };
        reader.finish()?;
        Ok(header)
    }
}

impl SnapshotChunk {
    /// Appends the chunk.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.number);
        out.put_raw(&self.data);
    }

    /// Reads what [`SnapshotChunk::encode`] wrote; the data shares the payload's memory.
    pub fn decode(payload: &Payload) -> Result<SnapshotChunk, DecodeError> {
        let mut reader = Reader::new(payload);
        let number = reader.u64("chunk.number")?;
        let data = payload.slice(reader.position(), reader.remaining());
        Ok(SnapshotChunk { number, data: data.ok_or(DecodeError::Truncated("chunk.data"))? })
    }
}

impl SnapshotEnd {
    /// Appends the end.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u64(self.chunks);
        out.put_u64(self.bytes);
        out.put_raw(&self.hash.to_be_bytes());
    }

    /// Reads what [`SnapshotEnd::encode`] wrote.
    pub fn decode(payload: &[u8]) -> Result<SnapshotEnd, DecodeError> {
        let mut reader = Reader::new(payload);
        let end = SnapshotEnd {
            chunks: reader.u64("end.chunks")?,
            bytes: reader.u64("end.bytes")?,
            hash: u128::from_be_bytes(reader.id128("end.hash")?),
        };
        reader.finish()?;
        Ok(end)
    }
}

impl SnapshotReply {
    /// Appends the reply; a long reason is cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            SnapshotReply::Accepted => out.put_u8(1),
            SnapshotReply::Finished => out.put_u8(2),
            SnapshotReply::Refused(reason) => {
                out.put_u8(3);
                out.put_bytes(shortened(reason, REASON_BYTES_MAX).as_bytes());
            }
        }
    }

    /// Reads what [`SnapshotReply::encode`] wrote.
    pub fn decode(payload: &[u8]) -> Result<SnapshotReply, DecodeError> {
        let mut reader = Reader::new(payload);
        let reply = match reader.u8("reply.code")? {
            1 => SnapshotReply::Accepted,
            2 => SnapshotReply::Finished,
            3 => SnapshotReply::Refused(reader.text("reply.reason", REASON_BYTES_MAX)?.to_owned()),
            other => return Err(DecodeError::Unknown("reply.code", u64::from(other))),
        };
        reader.finish()?;
        Ok(reply)
    }
}
