// SPDX-License-Identifier: Apache-2.0

//! Where a replica's entries are: first index and address of each of its records, in about five bytes per record.
//!
//! A record's neighbours are near in index and in address, so only differences are kept, as varints, in blocks of a bounded number
//! of records. A block is found by binary search and then walked.
//!
//! Invariants: first indexes ascend strictly, addresses ascend strictly; a record covers the indexes up to the next record's first.

use std::collections::VecDeque;

use mraft_types::Index;
use mraft_types::codec::{Reader, Writer};

/// Place of a record: number of the segment's use times the segment size, plus the offset in it.
pub(crate) type Address = u64;

/// Records in a block: a lookup walks half of them on average.
const BLOCK_RECORDS_MAX: u32 = 128;

#[derive(Clone, Debug)]
struct Block {
    first: Index,
    address: Address,
    /// (first index difference, address difference) of the records behind the block's first.
    tail: Vec<u8>,
    records: u32,
}

/// The records of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecordIndex {
    blocks: VecDeque<Block>,
    /// The newest record, which the next difference is taken to.
    newest: Option<(Index, Address)>,
}

impl Block {
    fn records(&self) -> impl Iterator<Item = (Index, Address)> + '_ {
        let mut reader = Reader::new(&self.tail);
        let (mut first, mut address) = (self.first, self.address);
        std::iter::once((first, address)).chain(std::iter::from_fn(move || {
            first += reader.varint("index").ok()?;
            address += reader.varint("address").ok()?;
            Some((first, address))
        }))
    }
}

impl RecordIndex {
    /// A record whose entries begin at `first` was written; whatever stood at `first` and above is void.
    pub(crate) fn push(&mut self, first: Index, address: Address) {
        self.truncate_from(first);
        match (self.blocks.back_mut(), self.newest) {
            (Some(block), Some((newest, at))) if block.records < BLOCK_RECORDS_MAX => {
                block.tail.put_varint(first - newest);
                block.tail.put_varint(address - at);
                block.records += 1;
                if block.records == BLOCK_RECORDS_MAX {
                    block.tail.shrink_to_fit();
                }
            }
            _ => self.blocks.push_back(Block { first, address, tail: Vec::new(), records: 1 }),
        }
        self.newest = Some((first, address));
    }

    /// Forgets records that begin at `first` or above.
    pub(crate) fn truncate_from(&mut self, first: Index) {
        if self.newest.is_none_or(|(newest, _)| newest < first) {
            return;
        }
        while self.blocks.back().is_some_and(|block| block.first >= first) {
            self.blocks.pop_back();
        }
        self.newest = None;
        if let Some(block) = self.blocks.pop_back() {
            let mut kept = block.records().take_while(|(at, _)| *at < first);
            if let Some((first, address)) = kept.next() {
                let mut rebuilt = Block { first, address, tail: Vec::new(), records: 1 };
                let (mut last, mut at) = (first, address);
                for (next, address) in kept {
                    rebuilt.tail.put_varint(next - last);
                    rebuilt.tail.put_varint(address - at);
                    rebuilt.records += 1;
                    (last, at) = (next, address);
                }
                self.newest = Some((last, at));
                self.blocks.push_back(rebuilt);
            }
        }
    }

    /// Forgets blocks that only hold entries up to `start`.
    pub(crate) fn truncate_through(&mut self, start: Index) {
        while self.blocks.get(1).is_some_and(|next| next.first <= start + 1) {
            self.blocks.pop_front();
        }
    }

    /// The record that holds an index, with the first index of the record behind it.
    pub(crate) fn find(&self, index: Index) -> Option<(Index, Address, Option<Index>)> {
        let block_at = self.blocks.partition_point(|block| block.first <= index).checked_sub(1)?;
        let mut found = None;
        for (first, address) in self.blocks[block_at].records() {
            if first > index {
                return found.map(|(from, at)| (from, at, Some(first)));
            }
            found = Some((first, address));
        }
        let next = self.blocks.get(block_at + 1).map(|block| block.first);
        found.map(|(from, at)| (from, at, next))
    }

    /// Bytes of memory, capacities counted.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<Block>()
            + self.blocks.iter().map(|block| block.tail.capacity()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_index_answers_as_a_map_does() {
        let mut random = 7u64;
        let mut draw = move |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut index, mut map) = (RecordIndex::default(), BTreeMap::new());
        let (mut next, mut address, mut start) = (1u64, 0u64, 0u64);
        for _ in 0..5_000 {
            address += 1 + draw(9_000);
            if draw(20) == 0 {
                next = next.saturating_sub(draw(100)).max(start + 1);
            }
            index.push(next, address);
            map.retain(|first, _| *first < next);
            map.insert(next, address);
            next += 1 + draw(5);
            if draw(50) == 0 {
                start = (start + draw(200)).min(next - 1);
                index.truncate_through(start);
            }
            let probe = start + 1 + draw(300);
            let expected = map.range(..=probe).next_back().map(|(first, address)| {
                (*first, *address, map.range(probe + 1..).next().map(|(first, _)| *first))
            });
            if probe > start {
                assert_eq!(index.find(probe), expected);
            }
        }
    }

    #[test]
    fn a_block_is_let_go_of_as_soon_as_nothing_in_it_is_needed() {
        let mut index = RecordIndex::default();
        let records = u64::from(BLOCK_RECORDS_MAX);
        (1..=3 * records).for_each(|first| index.push(first, first * 100));
        let mut blocks_behind = |start| {
            index.truncate_through(start);
            index.blocks.len()
        };
        assert_eq!(blocks_behind(records - 1), 3, "its last record is needed");
        assert_eq!(blocks_behind(records), 2);
        assert_eq!(blocks_behind(2 * records), 1);
        assert_eq!(blocks_behind(3 * records), 1, "the next entry may still overwrite");
    }

    #[test]
    fn what_the_index_holds_is_counted() {
        let mut index = RecordIndex::default();
        assert_eq!(index.bytes(), 0);
        let records = u64::from(BLOCK_RECORDS_MAX);
        (1..=2 * records).for_each(|first| index.push(first, first * 100));
        let tails = 2 * 2 * (records as usize - 1);
        assert_eq!(index.blocks.iter().map(|block| block.tail.len()).sum::<usize>(), tails);
        assert!(index.bytes() >= tails + 2 * size_of::<Block>());
    }

    #[test]
    fn ten_thousand_groups_with_a_thousand_records_each_fit_64_mib() {
        // All groups in each turn's batch: 10,000 records of 60 bytes between two records of one group.
        let mut bytes = 0;
        for group in 0..10_000u64 {
            let mut index = RecordIndex::default();
            for record in 0..1_000u64 {
                index.push(record + 2, record * 600_000 + group * 60);
            }
            bytes += index.bytes();
        }
        assert!(bytes <= 64 << 20, "{bytes}");
    }
}
