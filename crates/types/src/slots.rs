// SPDX-License-Identifier: Apache-2.0

//! Keys to slots: CRC16-XMODEM of the key or its `{tag}`, modulo 16,384, as in the Redis Cluster specification.

/// Number of slots.
pub const SLOT_COUNT: u16 = 16_384;

/// The slot of a key. When the key holds a non-empty `{tag}` (first `{`, then the next `}`), only the tag counts, so that
/// keys with the same tag share a slot.
pub fn slot_of_key(key: &[u8]) -> u16 {
    crc16_xmodem(hashed_part(key)) % SLOT_COUNT
}

fn hashed_part(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else { return key };
    let after = &key[open + 1..];
    match after.iter().position(|byte| *byte == b'}') {
        Some(len) if len > 0 => &after[..len],
        _ => key,
    }
}

fn crc16_xmodem(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// Polynomial 0x1021, initial value 0, no reflection.
const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// Slots `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot, inclusive.
    pub last: u16,
}

/// The slots of one group: sorted, disjoint, not adjacent ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SlotSet(Vec<SlotRange>);

impl SlotSet {
    /// A set from ranges in any order; `None` when one is upside down, out of bounds, or two overlap.
    pub fn from_ranges(mut ranges: Vec<SlotRange>) -> Option<SlotSet> {
        ranges.sort();
        let mut merged: Vec<SlotRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            if range.first > range.last || range.last >= SLOT_COUNT {
                return None;
            }
            match merged.last_mut() {
                Some(before) if range.first <= before.last => return None,
                Some(before) if range.first == before.last + 1 => before.last = range.last,
                _ => merged.push(range),
            }
        }
        Some(SlotSet(merged))
    }

    /// The share of group number `position` among `groups`: even contiguous ranges over all slots (rule M10).
    pub fn even_share(position: u64, groups: u64) -> SlotSet {
        let count = u128::from(SLOT_COUNT);
        if groups == 0 || position >= groups {
            return SlotSet::default();
        }
        let at = |position: u64| (u128::from(position) * count / u128::from(groups)) as u16;
        let (first, end) = (at(position), at(position + 1));
        if first == end { SlotSet::default() } else { SlotSet(vec![SlotRange { first, last: end - 1 }]) }
    }

    /// Whether the slot is in the set.
    pub fn contains(&self, slot: u16) -> bool {
        let after = self.0.partition_point(|range| range.first <= slot);
        after > 0 && slot <= self.0[after - 1].last
    }

    /// The ranges, sorted.
    pub fn ranges(&self) -> &[SlotRange] {
        &self.0
    }

    /// Number of slots.
    pub fn len(&self) -> usize {
        self.0.iter().map(|range| usize::from(range.last - range.first) + 1).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // The check value of CRC16-XMODEM, and slots that `CLUSTER KEYSLOT` answers.
        assert_eq!(crc16_xmodem(b"123456789"), 0x31c3);
        assert_eq!(slot_of_key(b"foo"), 12182);
        assert_eq!(slot_of_key(b"bar"), 5061);
        assert_eq!(slot_of_key(b"{foo}.anything"), 12182);
    }

    #[test]
    fn an_empty_or_open_tag_is_no_tag() {
        assert_eq!(slot_of_key(b"{}foo"), crc16_xmodem(b"{}foo") % SLOT_COUNT);
        assert_eq!(slot_of_key(b"{foo"), crc16_xmodem(b"{foo") % SLOT_COUNT);
        assert_eq!(slot_of_key(b"a{foo}{bar}"), slot_of_key(b"foo"));
    }

    #[test]
    fn even_shares_cover_every_slot_once() {
        for groups in [1u64, 3, 16, 48, 1000, 20_000] {
            let shares: Vec<SlotSet> =
                (0..groups).map(|position| SlotSet::even_share(position, groups)).collect();
            assert_eq!(shares.iter().map(SlotSet::len).sum::<usize>(), usize::from(SLOT_COUNT));
            let ranges = shares.iter().flat_map(|share| share.ranges().to_vec()).collect();
            assert_eq!(SlotSet::from_ranges(ranges).map(|set| set.len()), Some(usize::from(SLOT_COUNT)));
        }
    }

    #[test]
    fn overlapping_or_impossible_ranges_are_refused() {
        let range = |first, last| SlotRange { first, last };
        assert!(SlotSet::from_ranges(vec![range(0, 5), range(5, 6)]).is_none());
        assert!(SlotSet::from_ranges(vec![range(6, 5)]).is_none());
        assert!(SlotSet::from_ranges(vec![range(0, SLOT_COUNT)]).is_none());
        let set = SlotSet::from_ranges(vec![range(6, 7), range(0, 5)]).expect("disjoint");
        assert_eq!(set.ranges(), &[range(0, 7)]);
        assert!(set.contains(7) && !set.contains(8));
    }
}
