// SPDX-License-Identifier: Apache-2.0

//! How a log is laid out, and which sizes fit together (rule L6).

use std::fmt;

use mraft_types::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MIN};

use crate::LogError;
use crate::batch::BLOCK_BYTES;

/// Segments in use above which replicas that pin the oldest one are carried forward.
const SEGMENTS_TARGET: u64 = 16;

/// Files that stay, in use or free: enough that a log of the usual length always finds one that is filled.
const SEGMENTS_KEPT_MAX: usize = 10;

/// How a log is laid out, and where its salts come from.
pub struct LogOptions {
    pub(crate) segment_bytes: u64,
    pub(crate) batch_bytes_max: usize,
    pub(crate) segments_target: u64,
    pub(crate) segments_kept_max: usize,
    pub(crate) salts: Box<dyn FnMut() -> u64 + Send>,
}

impl LogOptions {
    /// Segments of this many bytes; `salts` gives a fresh random number for each use of a segment, which nobody can guess: whoever knows it
    /// can store a value that passes for a batch (rule L2). It cannot fail, as a log that is under way has nothing to put in its place; a
    /// source that may not be there is asked before the log is opened.
    pub fn new(segment_bytes: u64, salts: Box<dyn FnMut() -> u64 + Send>) -> LogOptions {
        LogOptions {
            segment_bytes,
            batch_bytes_max: BATCH_BYTES_MAX,
            segments_target: SEGMENTS_TARGET,
            segments_kept_max: SEGMENTS_KEPT_MAX,
            salts,
        }
    }

    /// Smaller batches allow smaller segments: for tests and the simulator.
    #[must_use]
    pub fn with_batch_bytes_max(mut self, batch_bytes_max: usize) -> LogOptions {
        self.batch_bytes_max = batch_bytes_max;
        self
    }

    /// With more segments than this in use, replicas that pin the oldest one are carried forward (rule L5); at least 2.
    #[must_use]
    pub fn with_segments_target(mut self, segments_target: u64) -> LogOptions {
        self.segments_target = segments_target.max(2);
        self
    }

    /// With more files than this, free ones are deleted; two free ones are always kept. It should be what a busy log uses before its
    /// groups let go of what they persisted, and two more, so that nothing is deleted only to be filled again.
    #[must_use]
    pub fn with_segments_kept_max(mut self, segments_kept_max: usize) -> LogOptions {
        self.segments_kept_max = segments_kept_max;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), LogError> {
        let wrong = |reason: String| Err(LogError::Misuse(reason));
        let (segment, batch) = (self.segment_bytes, self.batch_bytes_max);
        if !segment.is_multiple_of(BLOCK_BYTES as u64) {
            return wrong(format!("log_segment_bytes is {segment}, not a multiple of {BLOCK_BYTES}"));
        }
        if !(BLOCK_BYTES..=BATCH_BYTES_MAX).contains(&batch) {
            return wrong(format!("a batch of {batch} bytes, not {BLOCK_BYTES} to {BATCH_BYTES_MAX}"));
        }
        if segment / 4 < batch as u64 {
            let least = if batch == BATCH_BYTES_MAX { SEGMENT_BYTES_MIN } else { 4 * batch };
            return wrong(format!(
                "log_segment_bytes is {segment}, but a batch of {batch} bytes must fit four times: give at least {least}"
            ));
        }
        Ok(())
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("segments_target", &self.segments_target)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(segment_bytes: u64, batch_bytes_max: usize) -> Result<(), String> {
        let options = LogOptions::new(segment_bytes, Box::new(|| 1)).with_batch_bytes_max(batch_bytes_max);
        options.validate().map_err(|error| error.to_string())
    }

    #[test]
    fn l6_a_batch_fits_a_segment_four_times() {
        assert_eq!(verdict(64 << 10, 16 << 10), Ok(()));
        assert!(verdict((64 << 10) - 4096, 16 << 10).is_err_and(|text| text.contains("at least 65536")));
        assert!(verdict((64 << 10) + 1, 16 << 10).is_err());
        assert!(verdict(64 << 20, BATCH_BYTES_MAX + 1).is_err());
        assert_eq!(verdict(SEGMENT_BYTES_MIN as u64, BATCH_BYTES_MAX), Ok(()));
    }
}
