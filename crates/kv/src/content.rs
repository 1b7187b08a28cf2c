// SPDX-License-Identifier: Apache-2.0

//! The hash of everything that a replica's clients could read, equal on all replicas at the same index (rule E8): over every stored
//! entry in key order and the revision, whatever lies in which buffer or table.

use xxhash_rust::xxh3::Xxh3;

/// Takes the entries in ascending order.
pub(crate) struct ContentHasher {
    hasher: Xxh3,
    entries: u64,
}

impl ContentHasher {
    pub fn new() -> ContentHasher {
        ContentHasher { hasher: Xxh3::new(), entries: 0 }
    }

    /// The next entry: store key and stored value.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) {
        self.hasher.update(&(key.len() as u64).to_le_bytes());
        self.hasher.update(key);
        self.hasher.update(&(value.len() as u64).to_le_bytes());
        self.hasher.update(value);
        self.entries += 1;
    }

    /// Entries so far.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The hash of everything at this revision.
    pub fn finish(mut self, revision: u64) -> u128 {
        self.hasher.update(&self.entries.to_le_bytes());
        self.hasher.update(&revision.to_le_bytes());
        self.hasher.digest128()
    }
}
