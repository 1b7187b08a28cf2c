// SPDX-License-Identifier: Apache-2.0

//! Real processes under load, killed, stopped, cut off, starved and pestered.
//!
//! A [`cluster::Cluster`] is nodes of the `mraft` binary, on loopback or each in a network namespace of its own ([`ground`],
//! [`namespaces`]), with or without a proxy before each ([`proxy`]). A [`load::Load`] is clients that write, read, delete and
//! compare-and-set through every node's HTTP door and record what they saw; some of them ask one node only, some only measure gaps. In the
//! end [`judge`] lets the load stop, waits until the replicas have nothing left to do, reads everything back from every node, and has the
//! checkers of `mraft-history` compare it with what clients were told.
//!
//! A [`fault::Fault`] is one way to hurt a cluster; [`kinds`] has them all, [`rounds`] inflicts and lifts them one after the other, and
//! [`endurance`] does so for long and looks at what every node takes of the machine ([`vitals`], [`curve`]). Gaps without a successful
//! write are measured and told ([`report`]), never judged.
//!
//! Whether a fault hit something worth hitting is not guessed from timing: [`autopsy`] looks at a dead node's files, by their documented
//! formats, a fault says of itself when it has done harm, and [`counts::Counts`] adds it up. What was never hit fails the run.
//!
//! Missing on purpose: lost power (a killed process leaves the page cache behind; the simulator's disk loses what was not synced), packets
//! that are lost below TCP, and clocks.
//!
//! Invariant: it knows the product only by its commands, its HTTP contract and its documented formats. It waits for conditions
//! ([`wait::until`]), and for time only where a fault or a client's pace is made of it. It signals only processes that it started and has
//! not buried yet, and leaves no namespace, control group or process behind, also when it panics.

#![forbid(unsafe_code)]

pub mod acks;
pub mod authority;
pub mod autopsy;
pub mod binary;
pub mod cluster;
pub mod control_group;
pub mod counts;
pub mod curve;
pub mod disks;
pub mod elections;
pub mod endurance;
pub mod failure;
pub mod fault;
pub mod ground;
pub mod judge;
pub mod kinds;
pub mod latency;
pub mod load;
pub mod metrics;
pub mod namespaces;
pub mod node;
pub mod operator;
pub mod partition;
pub mod probe;
pub mod proxy;
pub mod raw;
pub mod report;
pub mod rounds;
pub mod skips;
pub mod told;
pub mod values;
pub mod vitals;
pub mod wait;
pub mod watch;
