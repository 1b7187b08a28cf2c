// SPDX-License-Identifier: Apache-2.0

//! One log per node for all its groups: one write and one fdatasync per turn (rules L1–L6, D7–D11).
//!
//! Invariant: this crate knows no group's state machine, no socket, no clock and no thread; files are reached through
//! [`mraft_disk::Disk`] only, so that a test or the simulator can lose, tear, fail and fill them up.

#![forbid(unsafe_code)]

pub mod store;

pub use store::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};
