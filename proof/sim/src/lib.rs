// SPDX-License-Identifier: Apache-2.0

//! A whole cluster in one thread, under virtual time: one seed, one run.
//!
//! The code under test is the code that ships: `host::core` decides, `host::persist` writes the log, `host::apply_worker` runs the
//! state machines, `mraft_wire` makes the bytes between nodes. What is simulated is what surrounds them: the disk
//! ([`mraft_disk::MemoryDisk`]), the network, time, and the processes, which may die between any two effects and in the middle of a
//! write. After a safety phase full of faults everything heals, and in a calm phase the cluster must come back, all replicas of it. In some
//! seeds groups then lose their majority, and what operators accept of that is all that may be gone.
//!
//! [`world`] is the loop, [`node`] one process, [`network`] what happens to frames, [`mix`] what a seed draws, [`clients`] the load,
//! [`check`] the promises, [`summary`] what many seeds together must have done.
//!
//! `cli` beside this runs seeds on all cores, and shows that bugs which are planted in the product's code are found.
//!
//! Invariant: no ambient clock, chance, thread or hash-map order; the same seed gives the same run, which [`world::Report::trace`]
//! proves.

#![forbid(unsafe_code)]

pub mod check;
pub mod clients;
pub mod marks;
mod mix;
pub mod network;
pub mod node;
pub mod random;
pub mod recorder;
pub mod stores;
pub mod summary;
pub mod transcript;
pub mod world;

pub use mix::{Fault, LEAST, Least, Mix, Scripted, Width};
pub use transcript::Transcript;
pub use world::{Report, run, run_with};
