// SPDX-License-Identifier: Apache-2.0

//! Walks the bytes of a directory's segments, oldest use first, and tells batches from torn tails and from damage (rule L3).
//!
//! Reads only. What a batch means to a replica is the business of [`crate::recovery`], which listens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, File, Open, is_missing};
use mraft_types::limits::BATCH_BYTES_MAX;

use crate::LogError;
use crate::batch::{self, BATCH_HEADER_BYTES, BLOCK_BYTES, BatchHeader, Found, ROW_BYTES};
use crate::cases::Case;
use crate::record::Salt;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_number, refused};

/// How much is read at once; a batch that is larger is read whole.
const WINDOW_BYTES: usize = 1 << 20;

/// The segments of a directory.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By number of the use.
    pub(crate) uses: BTreeMap<u64, UsedSegment>,
    /// Files that hold no use.
    pub(crate) blank: Vec<Blank>,
    /// Files that were used and whose header is gone.
    pub(crate) headerless: Vec<Headerless>,
    /// Files whose filling was interrupted.
    pub(crate) half_prepared: Vec<PathBuf>,
    /// The number for the next new file.
    pub(crate) next_file: u64,
    /// What was met, in no order.
    pub(crate) cases: Vec<Case>,
}

/// A file with the use that its header names.
#[derive(Clone, Debug)]
pub(crate) struct UsedSegment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) header: SegmentHeader,
}

/// A file that holds no use.
#[derive(Clone, Debug)]
pub(crate) struct Blank {
    pub(crate) path: PathBuf,
    file: Arc<dyn File>,
    /// Its bytes: fewer than a segment has where nobody says how many that are and its filling was interrupted.
    len: u64,
    /// What it counts as.
    case: Case,
}

/// A file without a header, and what the headers of its batches say.
#[derive(Clone, Debug)]
pub(crate) struct Headerless {
    pub(crate) path: PathBuf,
    /// The highest number.
    pub(crate) highest_seq: u64,
    /// Everything up to this batch was durable.
    pub(crate) durable_seq: u64,
}

/// What walking one use found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    /// The highest number of any valid header, its records whole or not.
    pub(crate) highest_seq: u64,
    /// The highest oldest use that any valid header names.
    pub(crate) oldest_use: u64,
    /// The same without the last header of a batch: that one may be in memory only.
    pub(crate) oldest_use_before: u64,
}

/// Hears what stands in the segments.
pub(crate) trait Listener {
    /// A whole batch. `at` is where its records begin in the file.
    fn batch(
        &mut self,
        segment: &UsedSegment,
        header: &BatchHeader,
        at: u64,
        payload: &[u8],
    ) -> Result<(), LogError>;
    /// A batch that was durable and whose records are wrong.
    fn damaged_records(
        &mut self,
        segment: &UsedSegment,
        header: &BatchHeader,
        at: u64,
        payload: &[u8],
    ) -> Result<(), LogError>;
    /// Batches up to this number were durable and are gone with their headers.
    fn lost(&mut self, case: Case, through_seq: u64) -> Result<(), LogError>;
    /// The tail of the use is torn, or just ends.
    fn ends(&mut self, torn: bool);
}

impl Directory {
    /// Looks at every file. With `segment_bytes`, segments of another length are refused.
    pub(crate) fn read(
        disk: &dyn Disk,
        path: &Path,
        segment_bytes: Option<u64>,
    ) -> Result<Directory, LogError> {
        let mut directory = Directory { next_file: 1, ..Directory::default() };
        let entries = match disk.read_dir(path) {
            Ok(entries) => entries,
            Err(error) if is_missing(&error) => return Ok(directory),
            Err(error) => return Err(LogError::Failed(error)),
        };
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            let Some(number) = file_number(&entry.name) else { continue };
            directory.next_file = directory.next_file.max(number.saturating_add(1));
            directory.look_at(disk, path.join(&entry.name), entry.len, segment_bytes)?;
        }
        directory.find_lost_beginnings()?;
        let blank: Vec<Case> = directory.blank.iter().map(|blank| blank.case).collect();
        directory.cases.extend(blank);
        Ok(directory)
    }

    /// Looks for the use behind the newest one in files that are free as far as their headers say: a disk that acknowledged its first
    /// write and lost it left what was there before, zeros or an earlier use, in front of its later batches.
    fn find_lost_beginnings(&mut self) -> Result<(), LogError> {
        let Some(newest) = self.uses.values().next_back() else { return Ok(()) };
        let Some(salt) = newest.header.next_salt else { return Ok(()) };
        let (segment_bytes, oldest_use) = (newest.header.segment_bytes, numbers(newest)?.oldest_use);
        for blank in std::mem::take(&mut self.blank) {
            match under_salt(&blank.path, blank.file.as_ref(), blank.len, salt)? {
                Some(found) => self.headerless.push(found),
                None => self.blank.push(blank),
            }
        }
        let mut hidden = Vec::new();
        for (number, segment) in self.uses.range(..oldest_use) {
            if let Some(found) = under_salt(&segment.path, segment.file.as_ref(), segment_bytes, salt)? {
                hidden.push((*number, found));
            }
        }
        for (number, found) in hidden {
            self.uses.remove(&number);
            self.headerless.push(found);
        }
        Ok(())
    }

    fn look_at(
        &mut self,
        disk: &dyn Disk,
        path: PathBuf,
        len: u64,
        segment_bytes: Option<u64>,
    ) -> Result<(), LogError> {
        if len < SEGMENT_HEADER_BYTES as u64 {
            self.cases.push(Case::HalfPrepared);
            self.half_prepared.push(path);
            return Ok(());
        }
        let file = disk.open(&path, Open::Read).map_err(LogError::Failed)?;
        let found = SegmentHeader::read(&path, file.as_ref())?;
        let Some(header) = found.header else {
            if segment_bytes.is_some_and(|expected| len != expected) {
                self.cases.push(Case::HalfPrepared);
                self.half_prepared.push(path);
            } else if let Some(headerless) = headerless(&path, file.as_ref(), len, found.is_blank)? {
                self.headerless.push(headerless);
            } else {
                let case = if found.is_blank { Case::BlankSegment } else { Case::HeaderlessSegment };
                self.blank.push(Blank { path, file, len, case });
            }
            return Ok(());
        };
        if header.segment_bytes != len || segment_bytes.is_some_and(|expected| expected != len) {
            let configured = segment_bytes.unwrap_or(header.segment_bytes);
            let reason = format!(
                "is {len} bytes long, its header says {}, log_segment_bytes is {configured}: set it back",
                header.segment_bytes
            );
            return Err(refused(&path, reason));
        }
        if !found.both_whole {
            self.cases.push(Case::HalfHeader);
        }
        if let Some(other) = self.uses.get(&header.use_number) {
            let reason = format!("is use {} of the log, as {} is", header.use_number, other.path.display());
            return Err(refused(&path, reason));
        }
        self.uses.insert(header.use_number, UsedSegment { path, file, header });
        Ok(())
    }
}

/// Looks for batches in a file without a header; `None` when there are none. The first one stands where no stored value ever does, so the
/// salt that it claims is believed. Without it, zeros where the header should be are those of a new file whose first batch was torn;
/// anything else is damage for certain, and then every whole header of a batch counts under its own salt: a stored one must not hide
/// those around it, and whatever is older says less than they do.
fn headerless(
    path: &Path,
    file: &dyn File,
    segment_bytes: u64,
    has_zero_header: bool,
) -> Result<Option<Headerless>, LogError> {
    let mut window = Window::over(file, path, Salt::new(0), segment_bytes);
    let first = SEGMENT_HEADER_BYTES as u64;
    let carried = window.claimed_salt(first)?;
    let mut found = Headerless { path: path.to_owned(), highest_seq: 0, durable_seq: 0 };
    if carried.is_none() && has_zero_header {
        return Ok(None);
    }
    let mut is_found = carried.is_some();
    for at in (first..segment_bytes).step_by(BLOCK_BYTES) {
        let Some(salt) = carried.or(window.claimed_salt(at)?) else { continue };
        window.salt = salt;
        if let Some(BatchHeader { numbers, .. }) = window.header(at)? {
            is_found = true;
            found.highest_seq = found.highest_seq.max(numbers.batch_seq);
            found.durable_seq = found.durable_seq.max(numbers.durable_seq);
        }
    }
    Ok(is_found.then_some(found))
}

/// Looks for batches under a salt in a file whose first one is not there; `None` when there are none. The second one, if there is one,
/// begins where the largest first one would end at the latest.
fn under_salt(
    path: &Path,
    file: &dyn File,
    segment_bytes: u64,
    salt: Salt,
) -> Result<Option<Headerless>, LogError> {
    let mut window = Window::over(file, path, salt, segment_bytes);
    let first = SEGMENT_HEADER_BYTES as u64;
    let mut found: Option<Headerless> = None;
    for at in (first..segment_bytes).step_by(BLOCK_BYTES) {
        if found.is_none() && at > first + BATCH_BYTES_MAX as u64 {
            break;
        }
        if let Some(BatchHeader { numbers, .. }) = window.header(at)? {
            let nothing = || Headerless { path: path.to_owned(), highest_seq: 0, durable_seq: 0 };
            let found = found.get_or_insert_with(nothing);
            found.highest_seq = found.highest_seq.max(numbers.batch_seq);
            found.durable_seq = found.durable_seq.max(numbers.durable_seq);
        }
    }
    Ok(found)
}

/// Walks one use. `next_durable` is what the next use says was durable before it.
pub(crate) fn walk(
    segment: &UsedSegment,
    next_durable: Option<u64>,
    listener: &mut dyn Listener,
) -> Result<Walked, LogError> {
    let mut window = Window::new(segment);
    let named = segment.header.oldest_use;
    let mut walked = Walked { oldest_use: named, oldest_use_before: named, ..Walked::default() };
    let mut expected = segment.header.first_batch_seq;
    let mut offset = SEGMENT_HEADER_BYTES as u64;
    let was_durable = |seq: u64| next_durable.is_some_and(|durable| durable >= seq);
    loop {
        if let Some(header) = window.header(offset)?.filter(|header| header.numbers.batch_seq == expected) {
            if header.numbers.oldest_use > segment.header.use_number {
                let reason =
                    format!("has a batch at {offset} that needs no use before a later one; no log wrote it");
                return Err(refused(&segment.path, reason));
            }
            walked.saw(&header);
            let at = offset + header.payload_at() as u64;
            let behind = offset + header.batch_bytes() as u64;
            if window.records_are_whole(&header, at)? {
                listener.batch(segment, &header, at, window.get(at, header.payload_bytes)?)?;
                walked.batches += 1;
                walked.bytes += header.batch_bytes() as u64;
            } else if was_durable(expected) || window.later(behind, expected)?.is_some() {
                listener.damaged_records(segment, &header, at, window.get(at, header.payload_bytes)?)?;
            } else {
                listener.ends(true);
                break;
            }
            (offset, expected) = (behind, expected + 1);
        } else if let Some((at, header)) = window.later(offset, expected)? {
            listener.lost(Case::DamagedHeader, header.numbers.batch_seq - 1)?;
            (offset, expected) = (at, header.numbers.batch_seq);
        } else if was_durable(expected) {
            listener.lost(Case::MissingBatches, next_durable.unwrap_or(expected))?;
            break;
        } else {
            listener.ends(!window.is_blank(offset)?);
            break;
        }
    }
    Ok(walked)
}

/// The numbers in the headers of one use, without asking what is whole: how high they go, and which use they still need.
pub(crate) fn numbers(segment: &UsedSegment) -> Result<Walked, LogError> {
    struct Deaf;
    impl Listener for Deaf {
        fn batch(&mut self, _: &UsedSegment, _: &BatchHeader, _: u64, _: &[u8]) -> Result<(), LogError> {
            Ok(())
        }
        fn damaged_records(
            &mut self,
            _: &UsedSegment,
            _: &BatchHeader,
            _: u64,
            _: &[u8],
        ) -> Result<(), LogError> {
            Ok(())
        }
        fn lost(&mut self, _: Case, _: u64) -> Result<(), LogError> {
            Ok(())
        }
        fn ends(&mut self, _: bool) {}
    }
    walk(segment, None, &mut Deaf)
}

impl Walked {
    fn saw(&mut self, header: &BatchHeader) {
        self.highest_seq = self.highest_seq.max(header.numbers.batch_seq);
        self.oldest_use_before = self.oldest_use;
        self.oldest_use = self.oldest_use.max(header.numbers.oldest_use);
    }
}

/// A part of a segment in memory.
struct Window<'a> {
    file: &'a dyn File,
    path: &'a Path,
    salt: Salt,
    segment_bytes: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(segment: &'a UsedSegment) -> Window<'a> {
        let SegmentHeader { salt, segment_bytes, .. } = segment.header;
        Window::over(segment.file.as_ref(), &segment.path, salt, segment_bytes)
    }

    fn over(file: &'a dyn File, path: &'a Path, salt: Salt, segment_bytes: u64) -> Window<'a> {
        Window { file, path, salt, segment_bytes, at: 0, bytes: Vec::new() }
    }

    /// The salt that a batch claims that may begin at `at`.
    fn claimed_salt(&mut self, at: u64) -> Result<Option<Salt>, LogError> {
        if self.segment_bytes.saturating_sub(at) < BATCH_HEADER_BYTES as u64 {
            return Ok(None);
        }
        Ok(batch::claimed_salt(self.get(at, BATCH_HEADER_BYTES)?))
    }

    /// `len` bytes from `at`, which lie in the segment.
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8], LogError> {
        let end = at + len as u64;
        if at < self.at || end > self.at + self.bytes.len() as u64 {
            let read = (len.max(WINDOW_BYTES) as u64).min(self.segment_bytes.saturating_sub(at));
            self.bytes.resize(read as usize, 0);
            self.file.read_exact_at(&mut self.bytes, at).map_err(LogError::Failed)?;
            self.at = at;
        }
        let from = (at - self.at) as usize;
        self.bytes.get(from..from + len).ok_or_else(|| {
            LogError::Failed(std::io::Error::other(format!(
                "{}: reading behind its end",
                self.path.display()
            )))
        })
    }

    /// The header of a batch that begins at `at` and fits the segment.
    fn header(&mut self, at: u64) -> Result<Option<BatchHeader>, LogError> {
        let left = self.segment_bytes.saturating_sub(at);
        if left < BATCH_HEADER_BYTES as u64 {
            return Ok(None);
        }
        let salt = self.salt;
        let Some(rows) = batch::claimed_rows(self.get(at, BATCH_HEADER_BYTES)?, salt) else {
            return Ok(None);
        };
        let bytes = rows.saturating_mul(ROW_BYTES).saturating_add(BATCH_HEADER_BYTES);
        if bytes as u64 > left {
            return Ok(None);
        }
        match batch::decode(self.get(at, bytes)?, salt) {
            Found::Nothing => Ok(None),
            Found::Unknown(version) => {
                let reason = format!("has a batch of version {version}, which this build does not know");
                Err(refused(self.path, reason))
            }
            Found::Impossible => {
                let reason = format!("has a batch at {at} whose header contradicts itself; no log wrote it");
                Err(refused(self.path, reason))
            }
            Found::Header(header) => Ok((header.batch_bytes() as u64 <= left).then_some(header)),
        }
    }

    fn records_are_whole(&mut self, header: &BatchHeader, at: u64) -> Result<bool, LogError> {
        let salt = self.salt;
        let payload = self.get(at, header.payload_bytes)?;
        Ok(salt.checksum(payload) == header.payload_crc)
    }

    /// The next batch from `from` on that proves that batch `expected` was durable.
    fn later(&mut self, from: u64, expected: u64) -> Result<Option<(u64, BatchHeader)>, LogError> {
        let mut at = from;
        while at < self.segment_bytes {
            if let Some(header) = self.header(at)? {
                let numbers = header.numbers;
                if numbers.batch_seq > expected && numbers.durable_seq >= expected {
                    return Ok(Some((at, header)));
                }
            }
            at += BLOCK_BYTES as u64;
        }
        Ok(None)
    }

    /// Whether nothing was ever written at a block, or something of an earlier use.
    fn is_blank(&mut self, at: u64) -> Result<bool, LogError> {
        if at >= self.segment_bytes {
            return Ok(true);
        }
        let salt = self.salt;
        let block = self.get(at, BLOCK_BYTES.min((self.segment_bytes - at) as usize))?;
        Ok(batch::claimed_rows(block, salt).is_none())
    }
}
