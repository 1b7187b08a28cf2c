// SPDX-License-Identifier: Apache-2.0

//! The bytes of a file as it stands and as it is durable. The two share every page in which they do not differ, and a page of zeros takes
//! no room: a log segment that was filled with zeros costs what is written to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::draw::{Draw, Share};

/// What a kernel keeps, writes back and gives up as one.
pub const PAGE_BYTES: usize = 4096;
/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;

type Page = [u8; PAGE_BYTES];

/// What became of unsynced bytes when the power failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sectors {
    pub kept: u64,
    pub lost: u64,
}

/// Bytes; whatever was never written is zero.
#[derive(Clone, Debug, Default)]
struct Bytes {
    len: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

/// A file's bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    present: Bytes,
    durable: Bytes,
    /// Pages that the next sync makes durable. A page that differs and is not here was given up by a sync that failed.
    dirty: BTreeSet<u64>,
}

impl Content {
    pub fn len(&self) -> u64 {
        self.present.len
    }

    /// At most `len` bytes from this offset; fewer at the end.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; usize_of(self.present.len.saturating_sub(offset)).min(len)];
        let mut filled = 0;
        for part in parts(offset, bytes.len()) {
            let into = &mut bytes[filled..filled + part.len];
            filled += part.len;
            if let Some(page) = self.present.pages.get(&part.page) {
                into.copy_from_slice(&page[part.from..part.from + part.len]);
            }
        }
        bytes
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut taken = 0;
        for part in parts(offset, bytes.len()) {
            let from = &bytes[taken..taken + part.len];
            taken += part.len;
            self.dirty.insert(part.page);
            self.present.put(part, from);
        }
        self.present.len = self.present.len.max(offset + bytes.len() as u64);
    }

    pub fn set_len(&mut self, len: u64) {
        let last = len / PAGE_BYTES as u64;
        self.dirty.extend(self.present.pages.range(last..).map(|(page, _)| *page));
        self.present.set_len(len);
    }

    /// Everything written so far is durable, but for what an earlier failure gave up.
    pub fn sync(&mut self) {
        self.durable.set_len(self.present.len);
        for page in std::mem::take(&mut self.dirty) {
            match self.present.pages.get(&page) {
                Some(bytes) => _ = self.durable.pages.insert(page, Arc::clone(bytes)),
                None => _ = self.durable.pages.remove(&page),
            }
        }
    }

    /// A sync failed. As on Linux, what was written still reads as if all were well, and no later sync tries it again.
    pub fn give_up(&mut self) {
        self.dirty.clear();
    }

    /// The power fails: each unsynced sector by itself is kept or lost, and so is a new length.
    pub fn lose_power(&mut self, mut draw: Option<&mut Draw>) -> Sectors {
        let share = Share::of(draw.as_deref_mut());
        let old_len = self.durable.len;
        let keeps_len = self.present.len == old_len || share.keeps(draw.as_deref_mut());
        let mut sectors = Sectors::default();
        let mut after = self.durable.clone();
        if keeps_len {
            after.set_len(self.present.len);
        }
        for page in std::mem::take(&mut self.dirty) {
            for from in (0..PAGE_BYTES).step_by(SECTOR_BYTES) {
                let part = Part { page, from, len: SECTOR_BYTES };
                if self.present.part(part) == after.part(part) {
                    continue;
                }
                // What lies behind the end is not on the disk, and what a cut took away that got lost was never touched.
                let is_inside = part.offset() < after.len.min(self.present.len);
                if is_inside && share.keeps(draw.as_deref_mut()) {
                    let bytes = self.present.part(part).to_vec();
                    after.put(part, &bytes);
                    sectors.kept += 1;
                } else {
                    sectors.lost += 1;
                }
            }
        }
        after.set_len(after.len);
        self.present = after.clone();
        self.durable = after;
        sectors
    }

    /// A bit changes on the disk. `false` when there is no such bit.
    pub fn flip(&mut self, bit: u64) -> bool {
        let (byte, mask) = (bit / 8, 1_u8 << (bit % 8));
        if byte >= self.present.len {
            return false;
        }
        let part = Part { page: byte / PAGE_BYTES as u64, from: usize_of(byte % PAGE_BYTES as u64), len: 1 };
        for bytes in [&mut self.present, &mut self.durable] {
            let flipped = bytes.part(part)[0] ^ mask;
            bytes.put(part, &[flipped]);
        }
        true
    }

    /// Bytes on the disk that are not zero, by their offsets, in order.
    pub fn written(&self) -> impl Iterator<Item = u64> + '_ {
        self.durable.pages.iter().flat_map(|(page, bytes)| {
            let at = page * PAGE_BYTES as u64;
            bytes.iter().enumerate().filter(|(_, byte)| **byte != 0).map(move |(place, _)| at + place as u64)
        })
    }
}

impl Bytes {
    fn part(&self, part: Part) -> &[u8] {
        const ZEROS: Page = [0; PAGE_BYTES];
        let page = self.pages.get(&part.page).map_or(&ZEROS, |page| &**page);
        &page[part.from..part.from + part.len]
    }

    fn put(&mut self, part: Part, bytes: &[u8]) {
        let is_zero = bytes.iter().all(|byte| *byte == 0);
        if is_zero && (part.len == PAGE_BYTES || !self.pages.contains_key(&part.page)) {
            self.pages.remove(&part.page);
            return;
        }
        let page = self.pages.entry(part.page).or_insert_with(|| Arc::new([0; PAGE_BYTES]));
        Arc::make_mut(page)[part.from..part.from + part.len].copy_from_slice(bytes);
    }

    /// What is cut off is zero when the file grows again.
    fn set_len(&mut self, len: u64) {
        let (last, within) = (len / PAGE_BYTES as u64, usize_of(len % PAGE_BYTES as u64));
        if len <= self.len {
            let mut behind = self.pages.split_off(&last);
            if let Some(mut page) = behind.remove(&last).filter(|_| within > 0) {
                Arc::make_mut(&mut page)[within..].fill(0);
                self.pages.insert(last, page);
            }
        }
        self.len = len;
    }
}

/// A piece of one page.
#[derive(Clone, Copy, Debug)]
struct Part {
    page: u64,
    from: usize,
    len: usize,
}

impl Part {
    fn offset(self) -> u64 {
        self.page * PAGE_BYTES as u64 + self.from as u64
    }
}

/// A range, page by page.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (page, from) = (at / PAGE_BYTES as u64, usize_of(at % PAGE_BYTES as u64));
        let len = usize_of(end - at).min(PAGE_BYTES - from);
        at += len as u64;
        Some(Part { page, from, len })
    })
}

/// Files here are far smaller than memory.
fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(durable: &[u8]) -> Content {
        let mut content = Content::default();
        content.write(0, durable);
        content.sync();
        content
    }

    fn all(content: &Content) -> Vec<u8> {
        content.read(0, usize::MAX)
    }

    /// What a file can come back as, over many seeds.
    fn outcomes(content: &Content) -> BTreeSet<Vec<u8>> {
        (0..200)
            .map(|seed| {
                let mut content = content.clone();
                content.lose_power(Some(&mut Draw::new(seed)));
                all(&content)
            })
            .collect()
    }

    #[test]
    fn bytes_are_where_they_were_written() {
        let mut content = Content::default();
        let bytes: Vec<u8> = (0..3 * PAGE_BYTES).map(|at| (at % 251) as u8).collect();
        content.write(1000, &bytes);
        assert_eq!(content.len(), 1000 + bytes.len() as u64);
        assert_eq!(content.read(1000, bytes.len()), bytes);
        assert_eq!(content.read(0, 1000), vec![0; 1000]);
        assert_eq!(content.read(1000 + bytes.len() as u64 - 1, 10), bytes[bytes.len() - 1..]);
        assert_eq!(content.read(1 << 40, 10), []);
    }

    #[test]
    fn what_is_cut_off_is_zero_when_the_file_grows_again() {
        let mut content = content(&[7; 2 * PAGE_BYTES]);
        content.set_len(10);
        content.set_len(2 * PAGE_BYTES as u64);
        assert_eq!(all(&content), [&[7; 10][..], &[0; 2 * PAGE_BYTES - 10]].concat());
        content.sync();
        assert_eq!(outcomes(&content), [all(&content)].into());
    }

    #[test]
    fn a_synced_write_survives_every_power_cut() {
        let content = content(&[1; 3 * SECTOR_BYTES]);
        assert_eq!(outcomes(&content), [vec![1; 3 * SECTOR_BYTES]].into());
    }

    #[test]
    fn an_unsynced_write_is_kept_lost_or_torn_at_sectors() {
        let mut content = content(&[1; 3 * SECTOR_BYTES]);
        content.write(0, &[2; 3 * SECTOR_BYTES]);
        // Each sector is the old or the new one, and any mixture of them happens.
        let mut mixtures = BTreeSet::new();
        for mixture in 0..8 {
            let sector = |place: usize| if mixture & (1 << place) == 0 { 1 } else { 2 };
            mixtures.insert((0..3).flat_map(|place| vec![sector(place); SECTOR_BYTES]).collect::<Vec<u8>>());
        }
        assert_eq!(outcomes(&content), mixtures);
    }

    #[test]
    fn a_length_that_is_not_synced_may_be_lost_and_behind_it_is_nothing() {
        let mut content = content(&[1; SECTOR_BYTES]);
        content.write(SECTOR_BYTES as u64, &[2; SECTOR_BYTES]);
        let with = |rest: &[u8]| [&[1; SECTOR_BYTES][..], rest].concat();
        let possible: BTreeSet<_> = [with(&[]), with(&[0; SECTOR_BYTES]), with(&[2; SECTOR_BYTES])].into();
        assert_eq!(outcomes(&content), possible);
    }

    #[test]
    fn a_cut_that_is_not_synced_happened_or_did_not() {
        let mut content = content(&[1; 3 * SECTOR_BYTES]);
        content.set_len(SECTOR_BYTES as u64);
        let possible: BTreeSet<_> = [vec![1; SECTOR_BYTES], vec![1; 3 * SECTOR_BYTES]].into();
        assert_eq!(outcomes(&content), possible);
    }

    #[test]
    fn what_a_failed_sync_gave_up_is_not_durable_after_the_next_one() {
        let mut content = content(&[1; 2 * PAGE_BYTES]);
        content.write(0, &[2; PAGE_BYTES]);
        content.give_up();
        content.write(PAGE_BYTES as u64, &[3; PAGE_BYTES]);
        content.sync();
        let seen = [[2; PAGE_BYTES], [3; PAGE_BYTES]].concat();
        assert_eq!(all(&content), seen, "it reads as if all were well");
        assert_eq!(outcomes(&content), [[[1; PAGE_BYTES], [3; PAGE_BYTES]].concat()].into());
    }

    #[test]
    fn a_flipped_bit_is_there_before_and_after_a_power_cut() {
        let mut content = content(&[0; 10]);
        assert!(content.flip(3 * 8 + 1));
        assert!(!content.flip(10 * 8));
        let flipped = vec![0, 0, 0, 2, 0, 0, 0, 0, 0, 0];
        assert_eq!(all(&content), flipped);
        assert_eq!(outcomes(&content), [flipped].into());
        assert_eq!(content.written().collect::<Vec<u64>>(), [3]);
    }
}
