// SPDX-License-Identifier: Apache-2.0

//! Sizes that several crates must agree on, and how they relate (rule L6).

/// Longest key: 4 KiB.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// Default largest value: 1 MiB.
pub const VALUE_BYTES_DEFAULT: usize = 1 << 20;
/// Largest body of one command: what a batch of one slot may weigh.
pub const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Target size at which packing closes an entry; one command larger than this still gets an entry of its own.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Largest payload of one entry.
pub const ENTRY_BYTES_MAX: usize = COMMAND_BYTES_MAX + (64 << 10);
/// Largest frame between nodes.
pub const FRAME_BYTES_MAX: usize = 8 << 20;
/// Largest batch that the log writes at once.
pub const BATCH_BYTES_MAX: usize = 16 << 20;
/// Smallest log segment: a batch must fit four times.
pub const SEGMENT_BYTES_MIN: usize = 4 * BATCH_BYTES_MAX;
/// Longest Raft address in a membership (host name 253, colon, port 5).
pub const ADDRESS_BYTES_MAX: usize = 259;
/// Most members of one group, learners and observers included.
pub const MEMBERS_MAX: usize = 64;
/// Most tombstones that one group keeps.
pub const TOMBSTONES_MAX: usize = 4096;

// Rule L6: whatever a client may send fits an entry, an entry fits a frame, a frame's entries fit a batch, a batch fits a segment.
const _: () = assert!(KEY_BYTES_MAX + VALUE_BYTES_DEFAULT < COMMAND_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_TARGET <= ENTRY_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX < ENTRY_BYTES_MAX);
const _: () = assert!(ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX <= BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX <= SEGMENT_BYTES_MIN / 4);
