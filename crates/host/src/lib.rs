// SPDX-License-Identifier: Apache-2.0

//! One node full of Raft groups: the embeddable library.
//!
//! Start with [`NodeHost`]: open a directory, found or join groups, propose commands, read, stop groups and start them again.
//! [`machines`] holds the three kinds of state machines that a program can bring. `examples/embedded.rs` runs one on three hosts.
//!
//! Inside, [`core`] decides one turn at a time and is the place to begin reading; [`persist`] and [`apply_worker`] are the log's and
//! the state machines' sides of a turn. None of the three knows a thread, a clock or a socket: the runtime moves their inputs and
//! outputs between threads, and the simulator between points of virtual time.
//!
//! Invariant: threads are spawned in `runtime.rs` only (and by the transport; `xtask tidy` looks for others), and no async runtime stands between a group and the
//! wire.

pub mod apply;
pub mod apply_worker;
mod completions;
pub mod config;
pub mod core;
pub mod error;
mod events;
pub mod files;
mod frames;
pub mod identity;
pub mod loss;
pub mod machines;
mod mailbox;
pub mod meta;
pub mod metrics;
mod network;
mod node_host;
mod notices;
mod panics;
mod peer_table;
pub mod peers;
pub mod persist;
mod questions;
mod random;
mod registry;
mod replicas;
pub mod restore;
mod runtime;
mod status;
mod stops;

pub use apply::CheckpointHash;
pub use completions::CompletionQueue;
pub use config::{HostConfig, TlsFiles};
pub use error::HostError;
pub use events::{EventReceiver, HostEvent};
pub use mraft_engine::effect::Answer;
pub use mraft_engine::error::{NotApplied, Unknown};
pub use mraft_engine::event::{Proposal, ReadKind, Ticket};
pub use mraft_engine::packing::NO_SLOT;
pub use node_host::{GroupSpec, Leadership, MachineContext, MachineFactory, Machines, NodeHost};
pub use registry::{AcceptedLoss, GroupList, GroupRecord};
pub use status::{GroupStatus, HostStatus, PeerProgress, ReplicaState};
