// SPDX-License-Identifier: Apache-2.0

//! The starts of a directory, and what they say about where it comes from (rule M7).
//!
//! Each start draws a nonce and finds a log that goes as far as it goes. A directory keeps both of each of its last starts, so whoever
//! remembers one start of a node can tell, many starts later, whether a directory went through that start, and with all that it had at
//! its end. A copy did not, however much is written to it since.

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::planted;

use crate::hello::{Hello, PeerRecord};
use crate::refusal::HelloRefused;

/// Starts that are kept: as many as one field of a hello has room for. Whoever remembers an earlier one goes by the counter and by how
/// far the log is now.
pub const STARTS_MAX: usize = 32;

/// Bytes of a start: nonce and number.
const START_BYTES: usize = 16;

/// Bytes of as many starts as are kept.
pub const STARTS_BYTES_MAX: usize = STARTS_MAX * START_BYTES;

/// One start of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Drawn at random, for this start alone.
    pub boot_nonce: u64,
    /// The highest number of a batch that the log knew of before this start wrote anything, be that batch torn.
    pub found_seq: u64,
}

/// The last starts of a directory, at most [`STARTS_MAX`], without a gap. Nothing is known of earlier ones, nor of those before builds
/// wrote them down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Starts {
    /// The latest first.
    latest: Vec<Start>,
}

impl Starts {
    /// The directory was started once more.
    pub fn begin(&mut self, start: Start) {
        self.latest.insert(0, start);
        self.latest.truncate(STARTS_MAX);
    }

    /// The start that was so many starts ago; 0 is the latest.
    pub fn ago(&self, starts: u64) -> Option<Start> {
        self.latest.get(usize::try_from(starts).ok()?).copied()
    }

    /// The least that any of so many last starts found; `None` if nothing is known of any of them.
    fn least_found(&self, starts: u64) -> Option<u64> {
        let asked = usize::try_from(starts).unwrap_or(usize::MAX);
        self.latest.iter().take(asked).map(|start| start.found_seq).min()
    }

    /// Whether nothing is known of any.
    pub fn is_empty(&self) -> bool {
        self.latest.is_empty()
    }

    /// Appends them, the latest first: nonce u64 and found_seq u64 of each.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for start in &self.latest {
            out.put_u64(start.boot_nonce);
            out.put_u64(start.found_seq);
        }
    }

    /// Reads what [`Starts::encode`] wrote, to its end, for a directory whose latest start has this number and nonce; errors name `field`.
    pub fn decode(
        bytes: &[u8],
        latest_start: (u64, u64),
        field: &'static str,
    ) -> Result<Starts, DecodeError> {
        let (boot_counter, boot_nonce) = latest_start;
        if bytes.len() > STARTS_BYTES_MAX || (bytes.len() / START_BYTES) as u64 > boot_counter {
            return Err(DecodeError::Invalid(field, bytes.len() as u64));
        }
        let mut reader = Reader::new(bytes);
        let mut latest = Vec::new();
        for _ in 0..bytes.len().div_ceil(START_BYTES) {
            latest.push(Start { boot_nonce: reader.u64(field)?, found_seq: reader.u64(field)? });
        }
        match latest.first() {
            Some(start) if start.boot_nonce != boot_nonce => {
                Err(DecodeError::Invalid(field, start.boot_nonce))
            }
            _ => Ok(Starts { latest }),
        }
    }
}

/// Whether the directory that says `hello` is the one that `record` remembers, later on.
///
/// The same boot is never compared with itself, because a hello may arrive after beats that were sent later. Less in the log is told
/// before another start is: it says more. Whoever lacks what was promised in this directory's name, or the whole start in which that may
/// have been, must not vote again; of two directories that were started with one number, neither knows what the other one promised.
pub(crate) fn check_boot(hello: &Hello, record: &PeerRecord) -> Result<(), HelloRefused> {
    if (hello.boot_counter, hello.boot_nonce) == (record.boot_counter, record.boot_nonce) {
        return Ok(());
    }
    let old_copy = |seq: u64| HelloRefused::OldCopy {
        node: hello.node,
        remembered: (record.boot_counter, record.durable_seq),
        now: (hello.boot_counter, seq),
    };
    let Some(since) = hello.boot_counter.checked_sub(record.boot_counter) else {
        return Err(old_copy(hello.durable_seq));
    };
    let unknown = Starts::default();
    let starts = if planted!(StartsIgnored) { &unknown } else { &hello.starts };
    // What the next start after the remembered one found is what that one left; no later one may have found less.
    let seq = starts.least_found(since).unwrap_or(hello.durable_seq);
    if seq < record.durable_seq {
        return Err(old_copy(seq));
    }
    let is_another = |start: Start| start.boot_nonce != record.boot_nonce;
    if since == 0 || starts.ago(since).is_some_and(is_another) {
        return Err(HelloRefused::Forked {
            node: hello.node,
            remembered_boot: record.boot_counter,
            boot_counter: hello.boot_counter,
        });
    }
    Ok(())
}
