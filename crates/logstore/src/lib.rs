// SPDX-License-Identifier: Apache-2.0

//! One log per node for all its groups: one write and one fdatasync per turn (rules L1–L6, D7–D11).
//!
//! [`store`] is the contract; [`SegmentLog`] keeps it in pre-filled, recycled segment files, [`MemoryLog`] is its dumb twin, and
//! [`suite`] is what both must pass. A batch of all groups' records becomes one contiguous write; what it changes in memory counts
//! only once it is durable. [`recovery`] tells a torn tail from damage and damage that concerns a replica from damage that does not.
//!
//! Invariant: this crate knows no group's state machine, no socket, no clock and no thread; files are reached through
//! [`mraft_disk::Disk`] only, so that a test or the simulator can lose, tear, fail and fill them up.

#![forbid(unsafe_code)]

mod index;
pub mod memory;
mod reader;
pub mod record;
pub mod recovery;
mod replicas;
mod segment;
pub mod store;
mod writer;

pub use memory::MemoryLog;
pub use store::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};
pub use writer::{LogOptions, SegmentLog};
