// SPDX-License-Identifier: Apache-2.0

//! One log per node for all its groups: one write and one fdatasync per turn (rules L1–L6, D7–D11).
//!
//! [`store`] is the contract. [`SegmentLog`] keeps it in pre-filled, recycled segment files; [`MemoryLog`] is its dumb twin, and one suite
//! of tests is run by both. A batch of all groups' records becomes one contiguous write, and what it changes in memory counts only once
//! it is durable. [`Case`] is the table of everything that recovery can find after a crash, with its decisions and their reasons.
//!
//! Deliberately absent: compression and encryption of records; several logs per node (the format has a number for them).
//!
//! Invariant: this crate knows no group's state machine, no socket, no clock and no thread; files are reached through
//! [`mraft_disk::Disk`] only, so that a test or the simulator can lose, tear, fail and fill them up.

#![forbid(unsafe_code)]

mod batch;
mod carry;
pub mod cases;
mod index;
pub mod inspect;
pub mod memory;
mod opening;
mod options;
mod reader;
mod record;
mod recovery;
mod repeats;
mod replica;
mod replicas;
mod run;
mod scan;
mod segment;
mod space;
pub mod store;
mod writer;

pub use cases::Case;
pub use inspect::{InspectedReplica, InspectedSegment, Inspection, inspect};
pub use memory::MemoryLog;
pub use opening::FoundLog;
pub use options::LogOptions;
pub use replicas::{forget_lost_log, is_log};
pub use segment::{Fill, Filled};
pub use store::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};
pub use writer::SegmentLog;
