// SPDX-License-Identifier: Apache-2.0

//! Many groups, packed proposals, shared read rounds: decides everything, touches nothing.
//!
//! The consensus core (`mraft_raft`) knows one group and no client. The engine is what stands between it and a node: it packs
//! the proposals that wait at a group's turn into one entry ([`packing`]), lets reads share rounds, remembers who waits for
//! what and tells each the truth about its outcome ([`effect::Answer`]), stamps entries with a time that no single wrong clock
//! can push ahead, and keeps one group's panic from the others.
//!
//! One closed enum goes in ([`event::Event`], [`event::NodeEvent`]) and one comes out ([`effect::Effect`]); reading those two
//! files shows all that can happen. [`machine`] holds what a state machine must be able to do.
//!
//! Invariant: the engine knows no file, socket, clock, thread or random source. Time and chance are arguments
//! ([`event::Now`], the draw of a tick). Heartbeats of all groups fall on the same ticks, so that whoever encodes a turn's
//! messages sends one frame per peer.
//!
//! Deliberately absent: client sessions and time-to-live (their fields in the entry format are final, their behaviour comes
//! later), and any retry: a request is answered once.

#![forbid(unsafe_code)]

mod comparison;
pub mod config;
pub mod effect;
mod engine;
pub mod error;
pub mod event;
mod group;
mod lives;
mod log_time;
pub mod machine;
pub mod packing;
mod requests;

pub use comparison::{Depth, Dispute, StateHash};
pub use config::Limits;
pub use engine::{Engine, SUSPECTED_PER_TICK_MAX};
pub use requests::NOBODY;
