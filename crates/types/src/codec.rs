// SPDX-License-Identifier: Apache-2.0

//! The byte language of every format of the house: little-endian integers, LEB128 varints, length-prefixed bytes.
//!
//! A [`Reader`] never trusts a length: it is checked against what is left and against the caller's bound before anything
//! is allocated. A [`Writer`] is a `Vec<u8>` with names.

use std::fmt;

/// Bytes that cannot be what they claim to be. The field is the name that `docs/formats` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end inside this field.
    Truncated(&'static str),
    /// A length or count of this field is above its bound.
    TooLong(&'static str, u64),
    /// This field has a value that no version writes.
    Invalid(&'static str, u64),
    /// A version or required field that this build does not know.
    Unknown(&'static str, u64),
    /// This many bytes are left after the last field.
    Trailing(usize),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated(field) => write!(f, "the bytes end inside `{field}`"),
            DecodeError::TooLong(field, len) => write!(f, "`{field}` is too long: {len}"),
            DecodeError::Invalid(field, value) => write!(f, "`{field}` cannot be {value}"),
            DecodeError::Unknown(field, value) => {
                write!(f, "`{field}` is {value}, which this build does not know")
            }
            DecodeError::Trailing(len) => write!(f, "{len} bytes too many"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Reads fields off the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    read: usize,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, read: 0 }
    }

    /// How many bytes were read.
    pub fn position(&self) -> usize {
        self.read
    }

    /// How many bytes are left.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.read
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        let rest = self.bytes.get(self.read..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(DecodeError::Truncated(field))?;
        self.read += len;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(field, N)?);
        Ok(array)
    }

    /// One byte.
    #[inline]
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        let byte = *self.bytes.get(self.read).ok_or(DecodeError::Truncated(field))?;
        self.read += 1;
        Ok(byte)
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Sixteen bytes as they are.
    pub fn id128(&mut self, field: &'static str) -> Result<[u8; 16], DecodeError> {
        self.array(field)
    }

    /// An unsigned LEB128 varint of at most 64 bits, in its shortest form.
    #[inline]
    pub fn varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        match self.bytes.get(self.read) {
            // Most are small, and there are several in every command.
            Some(byte) if *byte < 0x80 => {
                self.read += 1;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(field),
        }
    }

    fn long_varint(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Invalid(field, u64::from(byte)));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Invalid(field, 0));
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Invalid(field, value))
    }

    /// A varint count or length of at most `max`.
    #[inline]
    pub fn bounded(&mut self, field: &'static str, max: usize) -> Result<usize, DecodeError> {
        let value = self.varint(field)?;
        if value > max as u64 { Err(DecodeError::TooLong(field, value)) } else { Ok(value as usize) }
    }

    /// Bytes with their length before them as a varint of at most `max`.
    #[inline]
    pub fn bytes(&mut self, field: &'static str, max: usize) -> Result<&'a [u8], DecodeError> {
        let len = self.bounded(field, max)?;
        self.take(field, len)
    }

    /// UTF-8 with its length in bytes before it.
    pub fn text(&mut self, field: &'static str, max: usize) -> Result<&'a str, DecodeError> {
        let bytes = self.bytes(field, max)?;
        std::str::from_utf8(bytes).map_err(|error| DecodeError::Invalid(field, error.valid_up_to() as u64))
    }

    /// Refuses bytes after the last field.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.remaining() == 0 { Ok(()) } else { Err(DecodeError::Trailing(self.remaining())) }
    }
}

/// Appends fields to a vector.
pub trait Writer {
    /// One byte.
    fn put_u8(&mut self, value: u8);
    /// Two bytes, little-endian.
    fn put_u16(&mut self, value: u16);
    /// Four bytes, little-endian.
    fn put_u32(&mut self, value: u32);
    /// Eight bytes, little-endian.
    fn put_u64(&mut self, value: u64);
    /// An unsigned LEB128 varint.
    fn put_varint(&mut self, value: u64);
    /// The bytes as they are.
    fn put_raw(&mut self, bytes: &[u8]);
    /// The bytes after their length as a varint.
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Writer for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// Bytes that [`Writer::put_varint`] takes for `value`.
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - value.leading_zeros() as usize;
    if bits == 0 { 1 } else { bits.div_ceil(7) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_as_they_went() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            bytes.put_varint(value);
            assert_eq!(bytes.len(), varint_len(value));
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.varint("value"), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_varint_has_one_form_only() {
        assert!(Reader::new(&[0x80, 0x00]).varint("value").is_err());
        assert!(Reader::new(&[0xff; 11]).varint("value").is_err());
        assert_eq!(Reader::new(&[0x80]).varint("value"), Err(DecodeError::Truncated("value")));
    }

    #[test]
    fn a_length_is_checked_before_it_is_believed() {
        let mut bytes = Vec::new();
        bytes.put_varint(u64::MAX);
        assert_eq!(Reader::new(&bytes).bytes("name", 10), Err(DecodeError::TooLong("name", u64::MAX)));
        let mut short = Vec::new();
        short.put_varint(9);
        assert_eq!(Reader::new(&short).bytes("name", 10), Err(DecodeError::Truncated("name")));
    }
}
