// SPDX-License-Identifier: Apache-2.0

//! The key-value state machine on disk: a write buffer in front of one LSM tree per group.
//!
//! The Raft log is the write-ahead log, so nothing is synced when a command is applied. Commands go into a
//! hash-indexed buffer (`write_buffer`); when it is full it is frozen between two batches, sorted and ingested into the tree in one
//! atomic, durable step together with the host's meta of exactly that point. A crash comes back with the last ingested point and the
//! host replays the log from there.
//!
//! ```text
//!  apply ─► active buffer ──commit──► frozen buffers ──flush job──► LSM tree ──compaction job──► LSM tree
//!              │ newest                  │                            │ oldest
//!  lookup ◄────┴─────────────────────────┴────────────────────────────┘   first hit wins; scans merge all
//! ```
//!
//! [`KvMachine`] is the one on disk, [`MemoryKv`] its dumb twin for simulations, [`CountingMachine`] what a benchmark of consensus
//! alone applies to. What the bytes mean is in `docs/formats/kv.md`.
//!
//! Invariant: this crate knows nothing of Raft, groups or peers. It sees commands in order, an opaque meta, and numbered directories. It has
//! no clock and no thread of its own, and reaches files through [`mraft_disk::Disk`], but for what the tree's crate does with its own.

#![forbid(unsafe_code)]

pub mod command;
#[doc(hidden)]
pub mod decoders;
pub mod keys;
pub mod query;
pub mod value;

mod content;
mod counting;
mod directories;
mod execute;
mod inspect;
mod lsm;
mod machine;
mod memory;
mod merge;
mod meta;
mod scan;
mod snapshot;
mod store;
mod tree_files;
mod write_buffer;

pub use counting::CountingMachine;
pub use inspect::{Content, Persisted, content, persisted};
pub use lsm::Caches;
pub use machine::{KvMachine, KvOptions};
pub use memory::{MemoryKv, MemoryOptions};
