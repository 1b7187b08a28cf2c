// SPDX-License-Identifier: Apache-2.0

//! Store keys: a family byte, then the key within the family.
//!
//! The numbers are persisted; never reuse one. Meta sorts first, so that an ingestion can write it before any data.

use std::ops::Bound;

/// What the machine and the host must remember beside the data.
pub const FAMILY_META: u8 = 0x01;
/// Client sessions.
pub const FAMILY_SESSION: u8 = 0x02;
/// Which key expires when.
pub const FAMILY_EXPIRY: u8 = 0x03;
/// The users' keys.
pub const FAMILY_USER: u8 = 0x10;

/// The one meta key so far: the host's meta with the applied index and the revision of the same point.
pub(crate) const META_KEY: &[u8] = &[FAMILY_META, 0x01];

/// A user's key as a store key.
pub(crate) fn user_key(key: &[u8]) -> Vec<u8> {
    let mut store_key = Vec::with_capacity(1 + key.len());
    store_key.push(FAMILY_USER);
    store_key.extend_from_slice(key);
    store_key
}

/// A range of store keys, as every layer understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// Lower end.
    pub from: Bound<Vec<u8>>,
    /// First key above the range; there always is one, because the family bytes end below 0xff.
    pub until: Vec<u8>,
}

impl KeyRange {
    /// All that a snapshot carries and a content hash covers: every family but meta.
    pub fn replicated() -> KeyRange {
        KeyRange { from: Bound::Included(vec![FAMILY_SESSION]), until: vec![FAMILY_USER + 1] }
    }

    /// The users' keys that begin with `prefix` and are greater than `after`.
    pub fn user(prefix: &[u8], after: Option<&[u8]>) -> KeyRange {
        let first = user_key(prefix);
        let from = match after.map(user_key) {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first.clone()),
        };
        KeyRange { from, until: successor_of_prefix(first) }
    }

    /// Whether the key is above the lower end.
    pub fn begins_before(&self, key: &[u8]) -> bool {
        match &self.from {
            Bound::Included(from) => key >= from.as_slice(),
            Bound::Excluded(from) => key > from.as_slice(),
            Bound::Unbounded => true,
        }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        match &self.from {
            Bound::Included(from) | Bound::Excluded(from) => *from >= self.until,
            Bound::Unbounded => false,
        }
    }
}

/// The smallest key above all keys with this prefix. The family byte is never 0xff, so there is one.
fn successor_of_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while prefix.last() == Some(&0xff) {
        prefix.pop();
    }
    if let Some(last) = prefix.last_mut() {
        *last += 1;
    }
    prefix
}

const _: () = assert!(FAMILY_META < FAMILY_SESSION && FAMILY_EXPIRY < FAMILY_USER && FAMILY_USER < 0xff);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_its_successor() {
        assert_eq!(KeyRange::user(b"a", None).until, user_key(b"b"));
        assert_eq!(KeyRange::user(b"a\xff\xff", None).until, user_key(b"b"));
        assert_eq!(KeyRange::user(b"\xff", None).until, vec![FAMILY_USER + 1]);
        assert_eq!(KeyRange::user(b"", None).until, vec![FAMILY_USER + 1]);
    }

    #[test]
    fn after_counts_only_within_the_prefix() {
        assert_eq!(KeyRange::user(b"b", Some(b"a")).from, Bound::Included(user_key(b"b")));
        assert_eq!(KeyRange::user(b"b", Some(b"b1")).from, Bound::Excluded(user_key(b"b1")));
        assert!(KeyRange::user(b"b", Some(b"c")).is_empty());
    }
}
