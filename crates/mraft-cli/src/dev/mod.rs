// SPDX-License-Identifier: Apache-2.0

//! `mraft dev`: a cluster of real node processes on loopback, for somebody who wants to see it work.
//!
//! The nodes are the same `mraft node` that production runs, each with a configuration file of its own. They live in process
//! groups of their own, so that Ctrl-C reaches the supervisor only and the nodes are told to drain by it; and each holds one end
//! of a pipe as standard input, so that they stop even when the supervisor is killed.
//!
//! Missing on purpose: addresses other than loopback, TLS, adding nodes. For those there is `mraft node`.

mod child;
mod directory;
mod plan;
mod probe;
mod supervisor;

pub use directory::{Directory, TemporaryDirectory};
pub use plan::{Asked, DevNode, Plan};
pub use probe::{HttpProbe, Probe};
pub use supervisor::{DRAIN_TIME_MAX, Event, Supervisor};

#[cfg(test)]
mod tests;
