// SPDX-License-Identifier: Apache-2.0

//! The machine's own record of a point in the log: the host's opaque meta, and with it the applied index and the revision.
//!
//! ```text
//! meta := version:u8=1  applied:u64  revision:u64  host_meta (the rest)
//! ```

use mraft_engine::machine::MachineError;
use mraft_types::Index;
use mraft_types::codec::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// Longest meta that a host may hand over. Tombstones and sessions are bounded by the host well below it.
pub(crate) const HOST_META_BYTES_MAX: usize = 64 << 20;

/// Beyond this nothing is an index, a revision or a count: whoever counts on from a smaller one never gets to the end. What comes from a
/// disk or from another node and says more is damaged.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// A number that a machine counts with.
pub(crate) fn counted(field: &'static str, number: u64) -> Result<u64, DecodeError> {
    if number > NUMBER_MAX { Err(DecodeError::Invalid(field, number)) } else { Ok(number) }
}

/// A point that the store can come back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// Everything up to this index is in it.
    pub applied: Index,
    /// The group's revision there (rule E2).
    pub revision: u64,
    /// The host's bookkeeping of exactly this point.
    pub host_meta: Vec<u8>,
}

impl Point {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(17 + self.host_meta.len());
        bytes.put_u8(VERSION);
        bytes.put_u64(self.applied);
        bytes.put_u64(self.revision);
        bytes.put_raw(&self.host_meta);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Point, MachineError> {
        let mut reader = Reader::new(bytes);
        let mut read = || {
            match reader.u8("version")? {
                VERSION => {}
                other => return Err(DecodeError::Unknown("version", u64::from(other))),
            }
            let applied = counted("applied", reader.u64("applied")?)?;
            let revision = counted("revision", reader.u64("revision")?)?;
            let host_meta = reader.take("host_meta", reader.remaining())?.to_vec();
            Ok(Point { applied, revision, host_meta })
        };
        read().map_err(|error| damaged("the meta record", error))
    }
}

/// A decoding error of something at rest, as the machine's.
pub(crate) fn damaged(what: &str, error: DecodeError) -> MachineError {
    match error {
        DecodeError::Unknown(..) => MachineError::Unknown(format!("{what}: {error}")),
        _ => MachineError::Damaged(format!("{what}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_nobody_counts_to_is_damage() {
        let point = |applied, revision| {
            let point = Point { applied, revision, host_meta: b"meta".to_vec() };
            Point::decode(&point.encode()).ok().filter(|again| *again == point)
        };
        assert!(point(NUMBER_MAX, NUMBER_MAX).is_some());
        assert!(point(NUMBER_MAX + 1, 1).is_none());
        assert!(point(1, u64::MAX).is_none());
    }
}
