// SPDX-License-Identifier: Apache-2.0

//! One group's consensus as a pure value (Raft, with the thesis' PreVote, leadership transfer and ReadIndex).
//!
//! A [`Raft`] is driven by calls and answers with values. Events are stepped in ([`Event`] is all that can happen), three
//! calls answer at once ([`Raft::propose`], [`Raft::propose_change`], [`Raft::read`]), and one [`Raft::poll`] per turn hands
//! out everything that followed ([`Effect`] is all that it asks for). Any number of steps may precede a poll: they share one
//! log write, one append per follower and one acknowledgement, which is where a busy group gets its throughput from.
//!
//! ```text
//!   events ──step──►  ┌────────────────────────────────────┐
//!                     │ election   replication   reads     │ ──poll──►  effects: Write, Send, Apply, …
//!   calls ──────────► │ membership transfer      snapshot  │
//!                     │ log_view   durability (what waits) │
//!                     └────────────────────────────────────┘
//! ```
//!
//! ## What must be durable before what
//!
//! The core never trusts that a write is done until [`Event::Persisted`] says so, and it decides alone what waits for it
//! (`durability`): nothing of a term leaves before the term and vote are durable, an acknowledgement leaves only when every
//! earlier write of this group is, and an entry is applied only when it is committed *and* durable here. An effect that was
//! handed out may therefore be carried out at once.
//!
//! ## What is deliberately absent
//!
//! No joint consensus (one member changes at a time), no leases (every linearizable read costs a round), no proposal
//! forwarding (hosts do that). Groups that fall asleep need the lives of hosts, which the caller tells (`quiesce`); the host of this
//! release tells none and lets no group sleep.
//!
//! Invariant: this crate knows no clock, random source, file, socket or thread, and no other group; time and chance are
//! arguments of events. A `Raft` is `Clone + Eq + Hash`, so that the shipped code can be explored state by state. No input
//! makes it panic: what cannot be is ignored and counted ([`Ignored`]), and what proves a lost log condemns the replica.

#![forbid(unsafe_code)]

pub mod config;
pub mod effect;
pub mod event;
pub mod message;

mod admission;
mod durability;
mod election;
mod invariants;
mod log_view;
mod loss;
mod membership;
mod progress;
mod quiesce;
mod quorum;
mod raft;
mod reads;
mod replication;
mod snapshot;
mod transfer;

pub use admission::Ignored;
pub use config::{Config, RestoreError, Restored};
pub use effect::{Effect, ElectionReason, Write};
pub use event::{ChangeError, Event, ProposeRefused, ReadBack, ReadRefused};
pub use loss::term_after_loss;
pub use message::{AppendReply, Body, Message};
pub use progress::{PeerState, PeerStatus};
pub use raft::{Life, Raft};
