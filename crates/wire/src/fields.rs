// SPDX-License-Identifier: Apache-2.0

//! Fields that several payloads share.

use mraft_types::codec::{DecodeError, Reader};
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

/// Length-prefixed bytes as a slice that shares the memory of `payload`, on which `reader` stands.
pub(crate) fn shared_bytes(
    reader: &mut Reader<'_>,
    payload: &Payload,
    field: &'static str,
    max: usize,
) -> Result<Payload, DecodeError> {
    let len = reader.bounded(field, max)?;
    let start = reader.position();
    reader.take(field, len)?;
    payload.slice(start, len).ok_or(DecodeError::Truncated(field))
}

/// Maps small differences of either sign to small numbers, every difference to one number.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
