// SPDX-License-Identifier: Apache-2.0

//! The files: which are in use, which are free, and the one that is being filled (rules D10, L5).
//!
//! Two free files are kept: one for the next batches, and a reserve, so that hard states and truncations go through, and make room, when
//! the disk is full of everything else. [`Purpose`] says who may take the reserve, and how much of it.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use mraft_disk::{Disk, is_full};

use crate::LogError;
use crate::segment::{Fill, Filled, Preparing, SegmentFile};

/// Free files that are always made ready: the next one and the reserve.
pub(crate) const FREE_TARGET: usize = 2;
/// What a batch is for. While the disk is full, the reserve is the only room that is left, and nobody knows for how long.
///
/// Bound: of the reserve, entries take nothing and rescues at most the first half. The second half takes a batch of hard states and marks
/// per block, the seals behind them included: in a segment of 64 MiB at least 4096 turns that each write and are each sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Records that may have entries: afterwards the reserve is still there.
    Entries,
    /// Carrying that is known to free a whole file.
    Rescue,
    /// Hard states, marks and seals: votes go on, and what frees files is written.
    Vital,
}

/// The files of a log.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) segment_bytes: u64,
    /// Files in use, by the number of the use.
    pub(crate) uses: BTreeMap<u64, SegmentFile>,
    pub(crate) free: VecDeque<SegmentFile>,
    pub(crate) preparing: Option<Preparing>,
    /// Somebody else fills the files from now on.
    pub(crate) lends: bool,
    /// A file is being filled by somebody else.
    pub(crate) lent: bool,
    pub(crate) next_file: u64,
    /// With more files than this, free ones are deleted, so that a burst does not hold the disk for ever. Fewer would make a busy log
    /// fill files that it had a moment ago.
    pub(crate) kept_max: usize,
    /// Bytes of batches written since the log was opened, for those who fill.
    pub(crate) written_bytes: Arc<AtomicU64>,
    /// Files recycled since the log was opened.
    pub(crate) recycled: u64,
}

impl Space {
    /// Frees the files of all uses below this one, oldest first. A synced batch must say that they are not needed.
    pub(crate) fn recycle_below(&mut self, oldest_use: u64) -> Vec<u64> {
        let kept = self.uses.split_off(&oldest_use);
        let recycled = std::mem::replace(&mut self.uses, kept);
        let numbers: Vec<u64> = recycled.keys().copied().collect();
        self.free.extend(recycled.into_values());
        self.recycled += numbers.len() as u64;
        numbers
    }

    /// Fills a new file some more. `Full` leaves everything as it was.
    pub(crate) fn prepare_step(&mut self) -> Result<(), LogError> {
        let mut preparing = match self.preparing.take() {
            Some(preparing) => preparing,
            None => self.begin_file()?,
        };
        match preparing.step(self.disk.as_ref(), self.segment_bytes) {
            Ok(Some(file)) => self.free.push_back(file),
            Ok(None) => self.preparing = Some(preparing),
            Err(error) => {
                preparing.abandon(self.disk.as_ref());
                return Err(self.prepare_error(error));
            }
        }
        Ok(())
    }

    /// A file to be filled by somebody else, if one is due.
    pub(crate) fn lend(&mut self) -> Result<Option<Fill>, LogError> {
        self.lends = true;
        if self.lent || self.free.len() >= FREE_TARGET {
            return Ok(None);
        }
        let preparing = match self.preparing.take() {
            Some(preparing) => preparing,
            None => self.begin_file()?,
        };
        self.lent = true;
        let disk = Arc::clone(&self.disk);
        let written_bytes = Arc::clone(&self.written_bytes);
        Ok(Some(Fill { preparing, disk, segment_bytes: self.segment_bytes, written_bytes }))
    }

    /// It was filled, or could not be.
    pub(crate) fn take_back(&mut self, filled: Filled) -> Result<(), LogError> {
        self.lent = false;
        let file = filled.0.map_err(|error| self.prepare_error(error))?;
        self.free.push_back(file);
        Ok(())
    }

    /// Whether there are more files than a log keeps that does not need them.
    pub(crate) fn has_too_many(&self) -> bool {
        self.uses.len() + self.free.len() > self.kept_max
    }

    /// Deletes one file that is too many; `false` when there is none.
    pub(crate) fn shrink(&mut self) -> Result<bool, LogError> {
        if self.free.len() <= FREE_TARGET || !self.has_too_many() {
            return Ok(false);
        }
        if let Some(file) = self.free.pop_front() {
            self.disk.remove_file(&file.path).map_err(LogError::Failed)?;
        }
        Ok(true)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        (self.uses.len() + self.free.len()) as u64 * self.segment_bytes
    }

    fn begin_file(&mut self) -> Result<Preparing, LogError> {
        // Asked first, so that a full disk is not filled and emptied again at each attempt.
        if self.disk.free_bytes(&self.directory).is_ok_and(|free| free < self.segment_bytes) {
            return Err(LogError::Full { needed_bytes: self.segment_bytes });
        }
        let number = self.next_file;
        self.next_file += 1;
        Preparing::begin(self.disk.as_ref(), &self.directory, number)
            .map_err(|error| self.prepare_error(error))
    }

    /// No room is back-pressure; anything else ends the log (rule D10).
    pub(crate) fn prepare_error(&self, error: std::io::Error) -> LogError {
        if is_full(&error) {
            LogError::Full { needed_bytes: self.segment_bytes }
        } else {
            LogError::Failed(error)
        }
    }
}
