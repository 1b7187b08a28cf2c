// SPDX-License-Identifier: Apache-2.0

//! Real processes, killed and restarted under load.
//!
//! A [`cluster::Cluster`] is nodes of the `mraft` binary on loopback. A [`load::Load`] is clients that write, read, delete and
//! compare-and-set through every node's HTTP door and record what they saw. The scenarios in `tests/` kill nodes with SIGKILL while the
//! load runs. In the end [`judge`] lets the load stop, waits until the replicas have nothing left to do, reads everything back from
//! every node, and has the checkers of `mraft-history` compare it with what clients were told.
//!
//! Whether a kill hit something worth hitting is not guessed from timing: [`autopsy`] looks at the dead node's files, by their
//! documented formats. [`counts::Counts`] adds it up, and what was never hit fails the run.
//!
//! Missing on purpose: lost power (a killed process leaves the page cache behind; the simulator's disk loses what was not synced),
//! networks that drop or delay, and time.
//!
//! Invariant: it knows the product only by its commands, its HTTP contract and its documented formats. It sleeps only inside
//! [`wait::until`], which looks at a condition, and signals only processes that it started and has not buried yet.

#![forbid(unsafe_code)]

pub mod acks;
pub mod autopsy;
pub mod binary;
pub mod cluster;
pub mod counts;
pub mod failure;
pub mod ground;
pub mod judge;
pub mod load;
pub mod namespaces;
pub mod node;
pub mod operator;
pub mod partition;
pub mod raw;
pub mod skips;
pub mod values;
pub mod wait;
pub mod watch;
