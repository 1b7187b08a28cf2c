// SPDX-License-Identifier: Apache-2.0

//! Stored values (rule E7): `{version, type, flags, revision, expires_at, bytes}`.
//!
//! ```text
//! value := version:u8=1  type:u8  flags:u8  revision:u64  [expires_at:u64 if flags & 1]  bytes
//! ```

use mraft_types::codec::{DecodeError, Reader};

const VERSION: u8 = 1;
const TYPE_BYTES: u8 = 0;
const FLAG_EXPIRES: u8 = 1;

/// Bytes before a value that never expires.
pub(crate) const HEADER_BYTES: usize = 11;
/// Longest header of this version.
pub(crate) const HEADER_BYTES_MAX: usize = HEADER_BYTES + 8;

/// A value as the store holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredValue<'a> {
    /// The group's revision at the mutation that wrote it (rule E2).
    pub revision: u64,
    /// Group log time, milliseconds since 1970, from which on it does not exist; `None` is never.
    pub expires_at: Option<u64>,
    /// What the user stored.
    pub bytes: &'a [u8],
}

impl<'a> StoredValue<'a> {
    /// Reads a stored value.
    pub fn decode(stored: &'a [u8]) -> Result<StoredValue<'a>, DecodeError> {
        let mut reader = Reader::new(stored);
        match reader.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Unknown("version", u64::from(other))),
        }
        match reader.u8("type")? {
            TYPE_BYTES => {}
            other => return Err(DecodeError::Unknown("type", u64::from(other))),
        }
        let flags = reader.u8("flags")?;
        if flags & !FLAG_EXPIRES != 0 {
            return Err(DecodeError::Unknown("flags", u64::from(flags)));
        }
        let revision = reader.u64("revision")?;
        let expires_at = if flags & FLAG_EXPIRES != 0 { Some(reader.u64("expires_at")?) } else { None };
        let bytes = reader.take("bytes", reader.remaining())?;
        Ok(StoredValue { revision, expires_at, bytes })
    }
}

/// The header of plain bytes that never expire.
pub(crate) fn header(revision: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = VERSION;
    header[1] = TYPE_BYTES;
    header[3..].copy_from_slice(&revision.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e7_a_stored_value_says_version_type_flags_revision_and_expiry() {
        let mut stored = header(7).to_vec();
        stored.extend_from_slice(b"value");
        let value = StoredValue { revision: 7, expires_at: None, bytes: b"value" };
        assert_eq!(StoredValue::decode(&stored), Ok(value));
        stored[2] = FLAG_EXPIRES;
        stored.splice(HEADER_BYTES..HEADER_BYTES, 99u64.to_le_bytes());
        assert_eq!(StoredValue::decode(&stored), Ok(StoredValue { expires_at: Some(99), ..value }));
        for (at, field) in [(0, "version"), (1, "type"), (2, "flags")] {
            let mut newer = stored.clone();
            newer[at] = 9;
            assert_eq!(StoredValue::decode(&newer), Err(DecodeError::Unknown(field, 9)));
        }
        assert!(StoredValue::decode(&stored[..5]).is_err());
    }
}
