// SPDX-License-Identifier: Apache-2.0

//! Segment files: filled with zeros once, used again and again (`docs/formats/log.md`, "Segment").
//!
//! Each use of a file has a number that grows by one and a salt of its own. The header is written with the first batch of the use, in one
//! write, and twice: a use must not be lost with one bit. It names the salt of the use after it: should a disk lose that write whole, the
//! batches behind it are still found.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mraft_disk::{Disk, File, Open};
use mraft_types::codec::{DecodeError, Reader, Writer};

use crate::LogError;
use crate::batch::BLOCK_BYTES;
use crate::record::{NUMBER_MAX, Salt};

/// The header and its copy, a block each.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 2 * BLOCK_BYTES;
const SEGMENT_MAGIC: [u8; 8] = *b"mraftseg";
const SEGMENT_VERSION: u32 = 2;
/// The version that did not name the next salt.
const FIRST_VERSION: u32 = 1;
/// What the checksum covers that headers of all versions have.
const COVERED_BYTES: usize = 64;
/// What the second one covers, behind the fields of version 2.
const ALL_COVERED_BYTES: usize = 76;
/// How much of a new file is filled at once: writes of batches must get in between, and a disk's flush waits for all that it was given
/// before, from whomever (measured with three writers and three fillers on one disk: steps of 1 MiB without a rest make a flush 50 times
/// slower, of 256 KiB with rests 1.2 times).
const PREFILL_STEP_BYTES: u64 = 256 << 10;

/// How much faster than the log grows a file is filled at least: then it is there when half of what went before it is used.
const FILL_LEAD: u64 = 2;

/// A segment's file.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

/// What the header of a use says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) segment_bytes: u64,
    pub(crate) use_number: u64,
    pub(crate) salt: Salt,
    pub(crate) first_batch_seq: u64,
    /// Everything up to this batch was durable, in earlier uses, when this use began.
    pub(crate) durable_seq: u64,
    pub(crate) oldest_use: u64,
    /// What the next use will have. Headers of version 1 do not say.
    pub(crate) next_salt: Option<Salt>,
}

/// The two copies of a header, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundHeader {
    /// The newer whole copy.
    pub(crate) header: Option<SegmentHeader>,
    /// Whether the other copy says the same.
    pub(crate) both_whole: bool,
    /// Whether there are no bytes at all: the file was never used.
    pub(crate) is_blank: bool,
}

/// A file that is being filled.
#[derive(Debug)]
pub(crate) struct Preparing {
    segment: SegmentFile,
    filled_bytes: u64,
    /// One step's zeros, with room to begin on a block: a file that bypasses the cache takes them as they are, without a copy.
    zeros: Vec<u8>,
}

/// The number in the name of a segment's file.
pub(crate) fn file_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    if digits.len() < 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

pub(crate) fn file_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("segment-{number:08}.log"))
}

impl SegmentHeader {
    /// Whether a log could have written it: uses are counted from 1, nothing later than the use itself is needed, what was durable came
    /// before it, and no address overflows.
    fn can_be(&self) -> bool {
        let uses_max = NUMBER_MAX / self.segment_bytes.max(1);
        (1..=uses_max).contains(&self.use_number)
            && self.oldest_use <= self.use_number
            && self.durable_seq < self.first_batch_seq
            && self.first_batch_seq <= NUMBER_MAX
    }

    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.put_raw(&SEGMENT_MAGIC);
        block.put_u32(if self.next_salt.is_some() { SEGMENT_VERSION } else { FIRST_VERSION });
        block.put_u32(BLOCK_BYTES as u32);
        block.put_u64(self.segment_bytes);
        block.put_u64(self.use_number);
        block.put_u64(self.salt.value);
        block.put_u64(self.first_batch_seq);
        block.put_u64(self.durable_seq);
        block.put_u64(self.oldest_use);
        block.put_u32(crc32c::crc32c(&block));
        if let Some(salt) = self.next_salt {
            block.put_u64(salt.value);
            block.put_u32(crc32c::crc32c(&block));
        }
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        for copy in [0, BLOCK_BYTES] {
            bytes[copy..copy + block.len()].copy_from_slice(&block);
        }
        bytes
    }

    /// Reads both copies of the header of a file.
    pub(crate) fn read(path: &Path, file: &dyn File) -> Result<FoundHeader, LogError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        file.read_exact_at(&mut bytes, 0).map_err(LogError::Failed)?;
        let mut copies = [None; 2];
        for (copy, block) in copies.iter_mut().zip(bytes.chunks_exact(BLOCK_BYTES)) {
            *copy = parse(block).unwrap_or(Ok(None)).map_err(|reason| refused(path, reason))?;
        }
        let [first, second] = copies;
        let header = [first, second].into_iter().flatten().max_by_key(|header| header.use_number);
        Ok(FoundHeader { header, both_whole: first == second, is_blank: bytes.iter().all(|byte| *byte == 0) })
    }
}

/// `Ok(Ok(None))` for bytes that are no header, `Ok(Err(reason))` for a header that this build must not touch.
fn parse(bytes: &[u8]) -> Result<Result<Option<SegmentHeader>, String>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.take("segment.magic", 8)? != SEGMENT_MAGIC {
        return Ok(Ok(None));
    }
    let (version, block_bytes) = (reader.u32("segment.version")?, reader.u32("segment.block_bytes")?);
    let mut header = SegmentHeader {
        segment_bytes: reader.u64("segment.bytes")?,
        use_number: reader.u64("segment.use")?,
        salt: Salt::new(reader.u64("segment.salt")?),
        first_batch_seq: reader.u64("segment.first_batch_seq")?,
        durable_seq: reader.u64("segment.durable_seq")?,
        oldest_use: reader.u64("segment.oldest_use")?,
        next_salt: None,
    };
    if reader.u32("segment.crc")? != crc32c::crc32c(&bytes[..COVERED_BYTES]) {
        return Ok(Ok(None));
    }
    if !(FIRST_VERSION..=SEGMENT_VERSION).contains(&version) {
        return Ok(Err(format!("is a segment of version {version}; this build knows {SEGMENT_VERSION}")));
    }
    if version > FIRST_VERSION {
        header.next_salt = Some(Salt::new(reader.u64("segment.next_salt")?));
        if reader.u32("segment.second_crc")? != crc32c::crc32c(&bytes[..ALL_COVERED_BYTES]) {
            return Ok(Ok(None));
        }
    }
    if block_bytes as usize != BLOCK_BYTES {
        return Ok(Err(format!("has blocks of {block_bytes} bytes; this build knows {BLOCK_BYTES}")));
    }
    if !header.can_be() {
        return Ok(Err("has a header that contradicts itself; no log wrote it".to_owned()));
    }
    Ok(Ok(Some(header)))
}

impl Preparing {
    /// Begins a new file with this number in its name.
    pub(crate) fn begin(disk: &dyn Disk, directory: &Path, number: u64) -> std::io::Result<Preparing> {
        let path = file_path(directory, number);
        let file = disk.open(&path, Open::CreateNew)?;
        file.bypass_cache();
        let zeros = vec![0; PREFILL_STEP_BYTES as usize + BLOCK_BYTES];
        Ok(Preparing { segment: SegmentFile { path, file }, filled_bytes: 0, zeros })
    }

    /// Fills some more; the file when it is done, durable with its name. The zeros make later writes overwrites, whose sync is several
    /// times cheaper than that of an append.
    pub(crate) fn step(
        &mut self,
        disk: &dyn Disk,
        segment_bytes: u64,
    ) -> std::io::Result<Option<SegmentFile>> {
        let step = PREFILL_STEP_BYTES.min(segment_bytes - self.filled_bytes);
        let begin = self.zeros.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        self.segment.file.write_all_at(&self.zeros[begin..begin + step as usize], self.filled_bytes)?;
        self.segment.file.sync_data()?;
        self.filled_bytes += step;
        if self.filled_bytes < segment_bytes {
            return Ok(None);
        }
        disk.sync_dir(mraft_disk::atomic::directory(&self.segment.path))?;
        Ok(Some(self.segment.clone()))
    }

    /// Fills all of it; `pause` is asked between any two steps, with the bytes that are filled.
    fn fill(
        mut self,
        disk: &dyn Disk,
        segment_bytes: u64,
        mut pause: impl FnMut(u64),
    ) -> std::io::Result<SegmentFile> {
        loop {
            match self.step(disk, segment_bytes) {
                Ok(None) => pause(self.filled_bytes),
                Ok(Some(file)) => return Ok(file),
                Err(error) => {
                    self.abandon(disk);
                    return Err(error);
                }
            }
        }
    }

    /// Gives the file up and its room back.
    pub(crate) fn abandon(self, disk: &dyn Disk) {
        // If it cannot be removed, the next opening finds a file that is too short and removes it.
        let _ = disk.remove_file(&self.segment.path);
    }
}

/// A spare segment that somebody else fills: the log's own thread would make every write wait for the zeros.
#[derive(Debug)]
pub struct Fill {
    pub(crate) preparing: Preparing,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) segment_bytes: u64,
    /// Bytes of batches that the log wrote so far.
    pub(crate) written_bytes: Arc<AtomicU64>,
}

/// A [`Fill`] that ended, well or not; the log wants it back.
#[derive(Debug)]
pub struct Filled(pub(crate) std::io::Result<SegmentFile>);

impl Fill {
    /// Does it, on any thread, without a rest.
    pub fn run(self) -> Filled {
        self.run_with_rests(|_| ())
    }

    /// Does it, on any thread, a little at a time and each synced. `rest` is called between any two steps, to let the log's own syncs
    /// have the disk; what it gets tells whether the log needs the file soon, so that the rest has to end.
    pub fn run_with_rests(self, mut rest: impl FnMut(&dyn Fn() -> bool)) -> Filled {
        let written_bytes = || self.written_bytes.load(Ordering::Relaxed);
        let began_at = written_bytes();
        let pause = |filled_bytes: u64| {
            let used_bytes = || written_bytes().saturating_sub(began_at);
            rest(&|| filled_bytes < used_bytes().saturating_mul(FILL_LEAD));
        };
        Filled(self.preparing.fill(self.disk.as_ref(), self.segment_bytes, pause))
    }
}

pub(crate) fn refused(path: &Path, reason: String) -> LogError {
    LogError::Refused { file: path.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use mraft_disk::MemoryDisk;

    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            segment_bytes: 1 << 20,
            use_number: 5,
            salt: Salt::new(77),
            first_batch_seq: 100,
            durable_seq: 98,
            oldest_use: 2,
            next_salt: Some(Salt::new(78)),
        }
    }

    #[test]
    fn one_flipped_bit_does_not_hide_a_segment() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/segment"));
        let file = disk.open(path, Open::CreateNew).expect("new");
        file.write_all_at(&header().encode(), 0).expect("room");
        for bit in 0..(ALL_COVERED_BYTES + 4) * 8 {
            for copy in [0, BLOCK_BYTES * 8] {
                disk.flip_bit(path, (copy + bit) as u64);
                let found = SegmentHeader::read(path, file.as_ref()).expect("readable");
                assert_eq!((found.header, found.both_whole), (Some(header()), false), "bit {bit}");
                disk.flip_bit(path, (copy + bit) as u64);
            }
        }
        let found = SegmentHeader::read(path, file.as_ref()).expect("readable");
        assert_eq!((found.header, found.both_whole), (Some(header()), true));
    }

    #[test]
    fn a_header_of_version_1_names_no_next_salt() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/segment"));
        let file = disk.open(path, Open::CreateNew).expect("new");
        let first = SegmentHeader { next_salt: None, ..header() };
        let bytes = first.encode();
        assert_eq!((bytes[8], &bytes[COVERED_BYTES + 4..BLOCK_BYTES]), (1, &[0; BLOCK_BYTES - 68][..]));
        file.write_all_at(&bytes, 0).expect("room");
        let found = SegmentHeader::read(path, file.as_ref()).expect("readable");
        assert_eq!((found.header, found.both_whole), (Some(first), true));
    }

    #[test]
    fn a_header_that_contradicts_itself_is_refused() {
        let (disk, path) = (MemoryDisk::new(), Path::new("/segment"));
        let file = disk.open(path, Open::CreateNew).expect("new");
        let read = |header: SegmentHeader| {
            file.write_all_at(&header.encode(), 0).expect("room");
            SegmentHeader::read(path, file.as_ref()).map(|found| found.header)
        };
        let is_refused = |header| matches!(read(header), Err(LogError::Refused { .. }));
        assert!(matches!(read(header()), Ok(Some(found)) if found == header()));
        assert!(is_refused(SegmentHeader { use_number: 0, oldest_use: 0, ..header() }));
        assert!(is_refused(SegmentHeader { use_number: u64::MAX >> 20, ..header() }));
        assert!(is_refused(SegmentHeader { oldest_use: 6, ..header() }));
        assert!(is_refused(SegmentHeader { durable_seq: 100, ..header() }));
        assert!(is_refused(SegmentHeader { first_batch_seq: u64::MAX, ..header() }));
    }

    #[test]
    fn only_segments_are_taken_for_segments() {
        assert_eq!(file_number("segment-00000012.log"), Some(12));
        assert_eq!(file_number("segment-123456789.log"), Some(123_456_789));
        for name in ["segment-12.log", "segment-00000012.log.bak", "replicas", "segment-+0000012.log"] {
            assert_eq!(file_number(name), None, "{name}");
        }
    }
}
