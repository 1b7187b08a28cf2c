// SPDX-License-Identifier: Apache-2.0

//! Small worlds of one group, all of them: the shipped consensus core, explored state by state.

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
pub mod summary;
pub mod symmetry;
pub mod table;
pub mod text;
mod trace;
mod twins;
pub mod world;
pub mod worlds;
