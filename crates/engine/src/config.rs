// SPDX-License-Identifier: Apache-2.0

//! Bounds of one group's queues, and how often its replicas are compared.

use mraft_types::limits::{COMMAND_BYTES_MAX, ENTRY_BYTES_MAX, ENTRY_BYTES_TARGET};

/// Bounds and paces that every node may choose for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packing closes an entry when its payload reaches this. Larger entries amortise more, smaller ones reach followers sooner.
    pub entry_bytes_target: usize,
    /// Most bytes of proposals that wait for their turn; what comes on top is refused at once, `not_applied`.
    pub pending_bytes_max: usize,
    /// Most proposals that wait for their turn, so that tiny ones cannot outgrow their bytes.
    pub pending_count_max: usize,
    /// Most reads that wait for a round or for their index to be applied.
    pub reads_max: usize,
    /// Most entry bytes that one apply job carries; a larger span becomes several jobs.
    pub apply_bytes_max: usize,
    /// Most entry bytes of a group that wait at the apply side; what comes on top is read from the log when its turn comes.
    pub unapplied_jobs_bytes_max: usize,
    /// Most bytes of proposals and entries in memory over all groups (rule T2). Above it, durable entries are let go of and read back
    /// from the log when they are needed, proposals are refused, and entries that leaders send are dropped.
    pub held_bytes_max: usize,
    /// A leader has the replicas' hash chains compared this often while something is written; 0 for never (rule E8).
    pub compare_every_ticks: u64,
    /// The same for the whole content, which must be read for it; 0 for never.
    pub compare_content_every_ticks: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entry_bytes_target: ENTRY_BYTES_TARGET / 4,
            pending_bytes_max: 32 << 20,
            pending_count_max: 1 << 18,
            reads_max: 1 << 18,
            apply_bytes_max: 4 << 20,
            unapplied_jobs_bytes_max: 64 << 20,
            held_bytes_max: 1 << 30,
            compare_every_ticks: 500,
            compare_content_every_ticks: 180_000,
        }
    }
}

/// What the header of a packed entry takes, and the fields before one command's body, at most.
pub(crate) const PACKING_OVERHEAD_BYTES_MAX: usize = 64;

// A command of the largest size, packed alone, still is an entry.
const _: () = assert!(COMMAND_BYTES_MAX + 2 * PACKING_OVERHEAD_BYTES_MAX < ENTRY_BYTES_MAX);
