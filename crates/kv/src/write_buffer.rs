// SPDX-License-Identifier: Apache-2.0

//! What was applied and is not in the tree yet: an append-only arena with a hash index.
//!
//! The Raft log is the write-ahead log and recovery replays it, so this structure may be anything; it is the one that makes a put
//! cheap. A put appends one record to the arena and one entry to an open-addressing table; it allocates nothing but chunks, keeps
//! no order and compares only the keys whose hash is equal. Order is made when somebody needs it: once at the flush, and for
//! scans by a cache that is extended by what was appended since.
//!
//! ```text
//! record := older:u32  value_len:u32 (all ones: deleted)  key_len:u16  0:u8  store key (family byte first)  value  padding to 8
//! ```
//!
//! `older` is the address + 1 of the record that this one supersedes, 0 for none. Records of a key form a chain from the newest
//! to the oldest, so a reader who may see only what was committed follows it below the *published end*: nothing is copied when
//! a batch becomes visible, and a half-applied one never is.
//!
//! Invariants: addresses grow with every record. What is below an address never changes. A buffer lives in memory only; this
//! layout is not a format.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::keys::KeyRange;

/// Arena chunks: large enough that few are needed, small enough that an almost empty buffer costs little.
const CHUNK_BYTES: usize = 256 << 10;
/// Records begin at multiples of this.
const UNIT_BYTES: usize = 8;
const CHUNK_UNITS_LOG2: u32 = (CHUNK_BYTES / UNIT_BYTES).ilog2();
/// Addresses are 32 bits, one value of them is "none".
const CHUNKS_MAX: usize = (1 << (32 - CHUNK_UNITS_LOG2)) - 1;
const HEADER_BYTES: usize = 11;
const DELETED: u32 = u32::MAX;
const INDEX_SLOTS_MIN: usize = 16;
/// A sorted cache is extended by insertion while the new part is at most this share of it; beyond, sorting all anew is cheaper.
const ORDER_EXTEND_SHARE: usize = 8;

/// Where a record begins, or where the next one will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(u32);

impl Address {
    fn new(chunk: usize, at: usize) -> Address {
        Address(((chunk as u32) << CHUNK_UNITS_LOG2) + (at / UNIT_BYTES) as u32)
    }

    fn chunk(self) -> usize {
        (self.0 >> CHUNK_UNITS_LOG2) as usize
    }

    fn at(self) -> usize {
        (self.0 & ((1 << CHUNK_UNITS_LOG2) - 1)) as usize * UNIT_BYTES
    }
}

/// The arena has no addresses left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A record: a store key, and its stored value or `None` for a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// The newest record of each key below an address, in key order.
pub(crate) type Order = Arc<Vec<Address>>;

#[derive(Debug, Default)]
struct OrderCache {
    until: Address,
    order: Order,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct WriteBuffer {
    chunks: Vec<Vec<u8>>,
    /// Hash tag << 32 | address + 1; 0 is free. The tag's low bits are also the slot where probing begins.
    index: Vec<u64>,
    keys: usize,
    bytes: usize,
    hash_seed: u64,
    order: Mutex<OrderCache>,
}

impl WriteBuffer {
    /// An empty buffer. The seed makes collisions of the index unpredictable to those who choose keys.
    pub fn new(hash_seed: u64) -> WriteBuffer {
        WriteBuffer {
            chunks: Vec::new(),
            index: Vec::new(),
            keys: 0,
            bytes: 0,
            hash_seed,
            order: Mutex::default(),
        }
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes of memory: records, superseded ones included, and index.
    pub fn bytes(&self) -> usize {
        self.bytes + self.index.len() * size_of::<u64>()
    }

    /// Where the next record will begin, or before it: all present records are below, all later ones are not.
    pub fn end(&self) -> Address {
        match self.chunks.last() {
            None => Address(0),
            // A chunk that is full or oversized ends where the next one begins.
            Some(chunk) if chunk.len() >= CHUNK_BYTES => Address::new(self.chunks.len(), 0),
            Some(chunk) => Address::new(self.chunks.len() - 1, chunk.len()),
        }
    }

    /// Writes a value, given as its stored header and the user's bytes.
    pub fn put(&mut self, family: u8, key: &[u8], header: &[u8], value: &[u8]) -> Result<(), Full> {
        self.append(family, key, (header.len() + value.len()) as u32, [header, value])
    }

    /// Remembers that a key is gone.
    pub fn delete(&mut self, family: u8, key: &[u8]) -> Result<(), Full> {
        self.append(family, key, DELETED, [&[], &[]])
    }

    /// The newest record of a key, committed or not.
    pub fn newest(&self, family: u8, key: &[u8]) -> Option<Record<'_>> {
        self.newest_below(family, key, Address(u32::MAX))
    }

    /// The newest record of a key below an address.
    pub fn newest_below(&self, family: u8, key: &[u8], end: Address) -> Option<Record<'_>> {
        if self.index.is_empty() {
            return None;
        }
        let (_, found) = self.probe(self.hash(family, key), family, key);
        let mut address = found?;
        while address >= end {
            address = self.older(address)?;
        }
        Some(self.record(address))
    }

    /// The record at an address.
    pub fn record(&self, address: Address) -> Record<'_> {
        let (at, chunk) = (address.at(), &self.chunks[address.chunk()]);
        let (value_len, key_len) = (read_u32(chunk, at + 4), read_u16(chunk, at + 8));
        let value_at = at + HEADER_BYTES + key_len;
        let value = (value_len != DELETED).then(|| &chunk[value_at..value_at + value_len as usize]);
        Record { key: &chunk[at + HEADER_BYTES..value_at], value }
    }

    /// The newest record of each key below `end`, sorted by key. `None` when the cache knows more than that already: the caller's
    /// `end` is out of date.
    pub fn ordered(&self, end: Address) -> Option<Order> {
        // A panic while sorting leaves the old cache, which is whole.
        let mut cache = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match cache.until.cmp(&end) {
            Ordering::Equal => {}
            Ordering::Greater => return None,
            Ordering::Less => {
                let appended = self.sorted(cache.until, end);
                let order = if appended.len() * ORDER_EXTEND_SHARE <= cache.order.len() {
                    self.extended(&cache.order, &appended)
                } else if cache.order.is_empty() {
                    appended
                } else {
                    self.sorted(Address(0), end)
                };
                *cache = OrderCache { until: end, order: Arc::new(order) };
            }
        }
        Some(cache.order.clone())
    }

    /// The part of an order that lies in a range of keys.
    pub fn positions(&self, order: &[Address], range: &KeyRange) -> Range<usize> {
        let start = order.partition_point(|address| !range.begins_before(self.record(*address).key));
        let until = range.until.as_slice();
        let end = start + order[start..].partition_point(|address| self.record(*address).key < until);
        start..end
    }

    fn append(&mut self, family: u8, key: &[u8], value_len: u32, value: [&[u8]; 2]) -> Result<(), Full> {
        if (self.keys + 1) * 4 > self.index.len() * 3 {
            self.grow_index();
        }
        let hash = self.hash(family, key);
        let (slot, older) = self.probe(hash, family, key);
        let len = HEADER_BYTES + 1 + key.len() + value[0].len() + value[1].len();
        let address = self.room_for(len)?;
        let chunk = &mut self.chunks[address.chunk()];
        let mut header = [0; HEADER_BYTES + 1];
        header[0..4].copy_from_slice(&older.map_or(0, |older| older.0 + 1).to_le_bytes());
        header[4..8].copy_from_slice(&value_len.to_le_bytes());
        header[8..10].copy_from_slice(&((key.len() + 1) as u16).to_le_bytes());
        header[HEADER_BYTES] = family;
        chunk.extend_from_slice(&header);
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value[0]);
        chunk.extend_from_slice(value[1]);
        let padding = chunk.len().next_multiple_of(UNIT_BYTES) - chunk.len();
        chunk.extend_from_slice(&[0; UNIT_BYTES][..padding]);
        self.bytes += len + padding;
        self.index[slot] = u64::from(tag(hash)) << 32 | u64::from(address.0 + 1);
        self.keys += usize::from(older.is_none());
        Ok(())
    }

    /// Where a record of this length goes. One that is longer than a chunk gets a chunk of its own.
    fn room_for(&mut self, len: usize) -> Result<Address, Full> {
        let fits = self.chunks.last().is_some_and(|chunk| chunk.len() + len <= CHUNK_BYTES);
        if !fits {
            if self.chunks.len() == CHUNKS_MAX {
                return Err(Full);
            }
            // The first chunk grows as needed, so that a group that hardly writes costs little.
            let capacity = if self.chunks.is_empty() { len } else { len.max(CHUNK_BYTES) };
            self.chunks.push(Vec::with_capacity(capacity.next_multiple_of(UNIT_BYTES)));
        }
        let chunk = self.chunks.len() - 1;
        Ok(Address::new(chunk, self.chunks[chunk].len()))
    }

    fn grow_index(&mut self) {
        let slots = (self.index.len() * 2).max(INDEX_SLOTS_MIN);
        let mut index = vec![0; slots];
        for entry in self.index.iter().copied().filter(|entry| *entry != 0) {
            let mut slot = (entry >> 32) as usize & (slots - 1);
            while index[slot] != 0 {
                slot = (slot + 1) & (slots - 1);
            }
            index[slot] = entry;
        }
        self.index = index;
    }

    /// The slot of a key and its newest record, or the slot where it belongs. The index has a free slot.
    fn probe(&self, hash: u64, family: u8, key: &[u8]) -> (usize, Option<Address>) {
        let mask = self.index.len() - 1;
        let tag = tag(hash);
        let mut slot = tag as usize & mask;
        loop {
            let entry = self.index[slot];
            if entry == 0 {
                return (slot, None);
            }
            if (entry >> 32) as u32 == tag {
                let address = Address(entry as u32 - 1);
                let found = self.record(address).key;
                if found[0] == family && &found[1..] == key {
                    return (slot, Some(address));
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    fn older(&self, address: Address) -> Option<Address> {
        read_u32(&self.chunks[address.chunk()], address.at()).checked_sub(1).map(Address)
    }

    fn hash(&self, family: u8, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, self.hash_seed ^ u64::from(family))
    }

    /// The newest records of the keys written in `from..end`, sorted by key.
    fn sorted(&self, from: Address, end: Address) -> Vec<Address> {
        let addresses = self.addresses(from, end);
        let Some(first) = addresses.first() else { return addresses };
        // Most comparisons are decided by eight bytes after what all keys have in common, without touching the arena.
        let first = self.record(*first).key;
        let common = addresses.iter().fold(first.len(), |common, address| {
            let key = self.record(*address).key;
            first[..common].iter().zip(key).take_while(|(a, b)| a == b).count()
        });
        let mut sorted: Vec<(u64, Address)> = addresses
            .iter()
            .map(|address| (eight_bytes(&self.record(*address).key[common..]), *address))
            .collect();
        sorted.sort_unstable_by(|(a_bytes, a), (b_bytes, b)| {
            a_bytes
                .cmp(b_bytes)
                .then_with(|| self.record(*a).key.cmp(self.record(*b).key))
                .then_with(|| b.cmp(a))
        });
        sorted.dedup_by(|(later_bytes, later), (bytes, address)| {
            later_bytes == bytes && self.record(*later).key == self.record(*address).key
        });
        sorted.into_iter().map(|(_, address)| address).collect()
    }

    fn addresses(&self, from: Address, end: Address) -> Vec<Address> {
        let mut addresses = Vec::new();
        let mut start = from.at();
        for (number, chunk) in self.chunks.iter().enumerate().skip(from.chunk()) {
            let mut at = start;
            while at < chunk.len() {
                let address = Address::new(number, at);
                if address >= end {
                    return addresses;
                }
                addresses.push(address);
                let Record { key, value } = self.record(address);
                at += (HEADER_BYTES + key.len() + value.map_or(0, <[u8]>::len)).next_multiple_of(UNIT_BYTES);
            }
            start = 0;
        }
        addresses
    }

    fn extended(&self, order: &[Address], appended: &[Address]) -> Vec<Address> {
        let mut extended = Vec::with_capacity(order.len() + appended.len());
        let mut rest = order;
        for address in appended {
            let key = self.record(*address).key;
            let (before, from) = rest.split_at(rest.partition_point(|other| self.record(*other).key < key));
            extended.extend_from_slice(before);
            extended.push(*address);
            let superseded = from.first().is_some_and(|other| self.record(*other).key == key);
            rest = &from[usize::from(superseded)..];
        }
        extended.extend_from_slice(rest);
        extended
    }
}

fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn eight_bytes(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn read_u16(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) | usize::from(bytes[at + 1]) << 8
}

const _: () = assert!(mraft_types::limits::KEY_BYTES_MAX < u16::MAX as usize);
const _: () =
    assert!(mraft_types::limits::COMMAND_BYTES_MAX < DELETED as usize - crate::value::HEADER_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const FAMILY: u8 = crate::keys::FAMILY_USER;

    fn put(buffer: &mut WriteBuffer, key: &str, value: &str) {
        buffer.put(FAMILY, key.as_bytes(), b"", value.as_bytes()).expect("room");
    }

    fn value<'a>(record: Option<Record<'a>>) -> Option<Option<&'a [u8]>> {
        record.map(|record| record.value)
    }

    #[test]
    fn a_reader_sees_the_newest_record_below_the_published_end() {
        let mut buffer = WriteBuffer::new(1);
        put(&mut buffer, "k", "old");
        let published = buffer.end();
        put(&mut buffer, "k", "new");
        put(&mut buffer, "other", "x");
        assert_eq!(value(buffer.newest(FAMILY, b"k")), Some(Some(&b"new"[..])));
        assert_eq!(value(buffer.newest_below(FAMILY, b"k", published)), Some(Some(&b"old"[..])));
        assert_eq!(value(buffer.newest_below(FAMILY, b"other", published)), None);
        buffer.delete(FAMILY, b"k").expect("room");
        assert_eq!(value(buffer.newest(FAMILY, b"k")), Some(None));
    }

    #[test]
    fn values_larger_than_a_chunk_do_not_disturb_the_order_of_addresses() {
        let mut buffer = WriteBuffer::new(1);
        let large = "v".repeat(3 * CHUNK_BYTES);
        let exact = "v".repeat(CHUNK_BYTES - HEADER_BYTES - 2);
        let mut ends = vec![buffer.end()];
        for (key, value) in [("a", "1"), ("b", &large), ("c", "2"), ("d", &exact), ("e", "3"), ("f", &large)]
        {
            put(&mut buffer, key, value);
            ends.push(buffer.end());
        }
        assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
        for (count, end) in ends.iter().enumerate() {
            assert_eq!(buffer.sorted(Address(0), *end).len(), count);
        }
        assert_eq!(value(buffer.newest(FAMILY, b"b")), Some(Some(large.as_bytes())));
    }

    /// The dumb twin: a sorted map.
    #[test]
    fn lookups_and_orders_are_those_of_a_sorted_map() {
        for seed in 0..20u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = move |below: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % below
            };
            let mut buffer = WriteBuffer::new(seed);
            let mut model: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
            for step in 0..3000 {
                let mut key =
                    format!("{}{}", if next(2) == 0 { "common/prefix/" } else { "" }, next(400)).into_bytes();
                key.extend(std::iter::repeat_n(0, next(3) as usize));
                if next(5) == 0 {
                    buffer.delete(FAMILY, &key).expect("room");
                    model.insert([&[FAMILY], &key[..]].concat(), None);
                } else {
                    let value = vec![step as u8; next(100) as usize];
                    buffer.put(FAMILY, &key, b"h", &value).expect("room");
                    model.insert([&[FAMILY], &key[..]].concat(), Some([b"h", &value[..]].concat()));
                }
                if next(100) == 0 || step == 2999 {
                    let order = buffer.ordered(buffer.end()).expect("current");
                    let records: Vec<_> = order.iter().map(|address| buffer.record(*address)).collect();
                    let expected: Vec<_> =
                        model.iter().map(|(key, value)| Record { key, value: value.as_deref() }).collect();
                    assert_eq!(records, expected, "seed {seed} step {step}");
                    assert_eq!(buffer.keys, model.len());
                }
            }
            for (key, value) in &model {
                let record = buffer.newest(FAMILY, &key[1..]).expect("written");
                assert_eq!(record.value, value.as_deref());
            }
        }
    }

    #[test]
    fn an_order_that_is_out_of_date_is_not_given() {
        let mut buffer = WriteBuffer::new(1);
        put(&mut buffer, "a", "1");
        let before = buffer.end();
        put(&mut buffer, "b", "2");
        assert!(buffer.ordered(buffer.end()).is_some());
        assert!(buffer.ordered(before).is_none());
    }
}
