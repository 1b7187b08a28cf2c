// SPDX-License-Identifier: Apache-2.0

//! Segment files: pre-filled, used one after the other, used again when nothing in them is needed.
//!
//! ```text
//! segment := header block, batches from the second block on
//! header  := magic:8  version:u32  block_bytes:u32  segment_bytes:u64  use:u64  salt:u64  first_batch_seq:u64  crc32c:u32
//! ```
//!
//! Each use of a file has a number that grows by one and a salt of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, File, Open};
use mraft_types::codec::{DecodeError, Reader, Writer};

use crate::LogError;
use crate::record::BLOCK_BYTES;

const SEGMENT_MAGIC: [u8; 8] = *b"mraftseg";
const SEGMENT_VERSION: u32 = 1;
const SEGMENT_HEADER_BYTES: usize = 52;
/// How much of a new segment is filled in one step between two batches.
const PREFILL_STEP_BYTES: u64 = 1 << 20;

/// A segment's file.
#[derive(Clone, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
}

/// One use of a file.
#[derive(Clone, Debug)]
pub(crate) struct SegmentUse {
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) first_batch_seq: u64,
    pub(crate) segment: SegmentFile,
}

/// A file that is being filled.
#[derive(Debug)]
pub(crate) struct Preparing {
    segment: SegmentFile,
    filled: u64,
}

pub(crate) fn is_segment(name: &str) -> bool {
    name.starts_with("segment-") && name.ends_with(".log")
}

impl Preparing {
    /// Begins a new file with this number in its name.
    pub(crate) fn begin(disk: &dyn Disk, directory: &Path, number: u64) -> std::io::Result<Preparing> {
        let path = directory.join(format!("segment-{number:08}.log"));
        let file = disk.open(&path, Open::Create)?;
        // A file that a crash left half filled is begun anew.
        file.set_len(0)?;
        Ok(Preparing { segment: SegmentFile { path, file }, filled: 0 })
    }

    /// Fills some more; the file when it is done, durable with its name. The zeros make later writes overwrites, whose sync is
    /// several times cheaper than that of an append.
    pub(crate) fn step(
        &mut self,
        disk: &dyn Disk,
        segment_bytes: u64,
    ) -> std::io::Result<Option<SegmentFile>> {
        let step = PREFILL_STEP_BYTES.min(segment_bytes - self.filled);
        self.segment.file.write_all_at(&vec![0; step as usize], self.filled)?;
        self.segment.file.sync_data()?;
        self.filled += step;
        if self.filled < segment_bytes {
            return Ok(None);
        }
        disk.sync_dir(mraft_disk::atomic::directory(&self.segment.path))?;
        Ok(Some(self.segment.clone()))
    }

    /// Gives the file up and its room back.
    pub(crate) fn abandon(self, disk: &dyn Disk) {
        // If it cannot be removed, the next opening finds a file of the wrong length and removes it.
        let _ = disk.remove_file(&self.segment.path);
    }
}

impl SegmentUse {
    /// Writes the header block; durable with the first batch's sync.
    pub(crate) fn write_header(&self, segment_bytes: u64) -> std::io::Result<()> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.put_raw(&SEGMENT_MAGIC);
        block.put_u32(SEGMENT_VERSION);
        block.put_u32(BLOCK_BYTES as u32);
        block.put_u64(segment_bytes);
        block.put_u64(self.number);
        block.put_u64(self.salt);
        block.put_u64(self.first_batch_seq);
        block.put_u32(crc32c::crc32c(&block));
        block.resize(BLOCK_BYTES, 0);
        self.segment.file.write_all_at(&block, 0)
    }

    /// Reads a file's header. `None` for a file that is not in use: its header is zero, or was torn when its use began, before
    /// anything in it was acknowledged.
    pub(crate) fn read(segment: SegmentFile, segment_bytes: u64) -> Result<Option<SegmentUse>, LogError> {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        segment.file.read_exact_at(&mut bytes, 0).map_err(LogError::Failed)?;
        let refused = |reason: String| LogError::Refused { file: segment.path.clone(), reason };
        match parse(&bytes) {
            Ok(Some((version, ..))) if version != SEGMENT_VERSION => {
                Err(refused(format!("segment version {version}; this build knows {SEGMENT_VERSION}")))
            }
            Ok(Some((_, _, len, ..))) if len != segment_bytes => Err(refused(format!(
                "a segment of {len} bytes; log_segment_bytes is {segment_bytes}: set it back"
            ))),
            Ok(Some((_, block, ..))) if block as usize != BLOCK_BYTES => {
                Err(refused(format!("blocks of {block} bytes; this build writes {BLOCK_BYTES}")))
            }
            Ok(Some((_, _, _, number, salt, first_batch_seq))) => {
                Ok(Some(SegmentUse { number, salt, first_batch_seq, segment }))
            }
            Ok(None) | Err(_) => Ok(None),
        }
    }
}

type Header = (u32, u32, u64, u64, u64, u64);

fn parse(bytes: &[u8]) -> Result<Option<Header>, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.take("segment.magic", 8)? != SEGMENT_MAGIC {
        return Ok(None);
    }
    let header = (
        reader.u32("segment.version")?,
        reader.u32("segment.block_bytes")?,
        reader.u64("segment.segment_bytes")?,
        reader.u64("segment.use")?,
        reader.u64("segment.salt")?,
        reader.u64("segment.first_batch_seq")?,
    );
    let covered = &bytes[..reader.position()];
    Ok((reader.u32("segment.crc")? == crc32c::crc32c(covered)).then_some(header))
}
