// SPDX-License-Identifier: Apache-2.0

//! Fields that several payloads share.

use mraft_types::codec::{DecodeError, Reader};
use mraft_types::limits::{ENTRY_BYTES_TARGET, FRAME_BYTES_MAX};
use mraft_types::{NodeId, Payload, ReplicaId};

pub(crate) fn flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Invalid(field, u64::from(other))),
    }
}

pub(crate) fn node(reader: &mut Reader<'_>, field: &'static str) -> Result<NodeId, DecodeError> {
    let id = reader.u64(field)?;
    NodeId::new(id).ok_or(DecodeError::Invalid(field, id))
}

pub(crate) fn replica(reader: &mut Reader<'_>, field: &'static str) -> Result<ReplicaId, DecodeError> {
    let id = reader.u64(field)?;
    ReplicaId::from_u64(id).ok_or(DecodeError::Invalid(field, id))
}

/// Bytes that are taken out of a frame hold at most so many times their own size in memory: smaller parts of a frame are copied out,
/// since a shared one keeps the whole frame for as long as it lives, and a follower's cache keeps small entries of idle groups for
/// days. Copying a part that small costs next to nothing beside reading and checking the frame.
pub const HELD_TIMES_SIZE_MAX: usize = 8;

// An entry that packing closed because it was large enough is never copied, whatever frame it came in.
const _: () = assert!(FRAME_BYTES_MAX / HELD_TIMES_SIZE_MAX <= ENTRY_BYTES_TARGET);

/// Length-prefixed bytes of `payload`, on which `reader` stands: a slice that shares its memory, or a copy when they are only a small
/// part of it ([`HELD_TIMES_SIZE_MAX`]).
pub(crate) fn shared_bytes(
    reader: &mut Reader<'_>,
    payload: &Payload,
    field: &'static str,
    max: usize,
) -> Result<Payload, DecodeError> {
    let len = reader.bounded(field, max)?;
    let start = reader.position();
    let bytes = reader.take(field, len)?;
    if len.saturating_mul(HELD_TIMES_SIZE_MAX) < payload.len() {
        return Ok(Payload::copy_from(bytes));
    }
    payload.slice(start, len).ok_or(DecodeError::Truncated(field))
}

/// Maps small differences of either sign to small numbers, every difference to one number.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
