// SPDX-License-Identifier: Apache-2.0

//! Immutable bytes that are cheap to clone and to slice.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

/// Immutable bytes, shared on clone. A slice shares the memory of the whole, which lives until the last slice is dropped: what is kept
/// for long is sliced only out of something that is not much larger.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Payload(Bytes);

impl Payload {
    /// The empty payload; allocates nothing.
    pub const fn new() -> Payload {
        Payload(Bytes::new())
    }

    /// Copies `bytes` into a payload of their own.
    pub fn copy_from(bytes: &[u8]) -> Payload {
        Payload(Bytes::copy_from_slice(bytes))
    }

    /// A part of this payload that shares its memory, or `None` when the range does not lie inside it.
    pub fn slice(&self, start: usize, len: usize) -> Option<Payload> {
        let end = start.checked_add(len)?;
        (end <= self.0.len()).then(|| Payload(self.0.slice(start..end)))
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Payload {
        Payload(Bytes::from(bytes))
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Payload {
        Payload(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES_MAX: usize = 24;
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        write!(f, "{}B:\"{}\"", self.0.len(), shown.escape_ascii())?;
        if self.0.len() > SHOWN_BYTES_MAX { write!(f, "…") } else { Ok(()) }
    }
}
