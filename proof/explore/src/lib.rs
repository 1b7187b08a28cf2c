// SPDX-License-Identifier: Apache-2.0

//! Small worlds of one group, all of them: the shipped consensus core, explored state by state.
//!
//! A world is two to four replicas of the core as it ships, each with a disk and the state machine of a host, and a network between them
//! ([`world`], [`worlds`]). Within its bounds whatever can happen does happen, in every order: messages are lost, doubled and overtake
//! each other, disks lag, power fails and takes what was not durable, time passes for some and not for others. In every state the promises
//! are looked at ([`broken::Promise`]); the first one that is broken ends the search with a shortest way to it, written as a script.
//!
//! ```text
//!   worlds ──► prelude ──► space ──► moves ──► search ──► trace
//!                            │          what can happen     a script
//!                replica, disk: one step of one replica,     of the
//!                computed once and remembered by number    shortest way
//!                            │
//!                ledger, promises, calm: what must be true
//! ```
//!
//! ## How so many states fit
//!
//! A state is six numbers. Replicas, sets of messages and what was promised so far are kept once each and compared as whole values
//! ([`table`]), so a state needs no fingerprint: two states are taken for one only if they are one, and "all states" has no probability
//! in it. What a step does to a replica is computed once, however many states that replica stands in. States that differ only in names
//! are visited once ([`symmetry`]); numbers that only tell pending writes apart begin anew (`Raft::count_anew`).
//!
//! ## What is deliberately absent
//!
//! An own search and not the `stateright` crate: that one knows a state by 64 bits, keeps each state of its queue whole together with the
//! way to it, and does not go strictly by depth on several threads. A core with its disk is some kilobytes; the states of one of these
//! worlds would not fit, and a way found would not be a shortest one.
//!
//! Groups that sleep, several groups, damage of disks other than a replica that lost everything, the bytes of the wire and the log, and
//! time as such (what a timeout causes may happen whenever it could) are the simulator's. Within a world, its bounds leave out what
//! `docs/design/small-worlds.md` lists.
//!
//! Invariant: the search knows no clock and no chance; a world has the same states whenever it is explored, on however many threads.

#![forbid(unsafe_code)]

pub mod broken;
pub mod calm;
pub mod disk;
pub mod ledger;
pub mod moves;
#[cfg(feature = "planted")]
pub mod planted;
mod prelude;
pub mod promises;
pub mod replica;
pub mod runner;
pub mod search;
pub mod space;
pub mod step;
pub mod summary;
pub mod symmetry;
pub mod table;
pub mod text;
mod trace;
mod twins;
pub mod world;
pub mod worlds;
