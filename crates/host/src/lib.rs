// SPDX-License-Identifier: Apache-2.0

//! One node full of Raft groups: the embeddable library.
//!
//! Start with [`NodeHost`]: open a directory, found or join groups, propose commands, read, stop groups and start them again.
//! [`machines`] holds the three kinds of state machines that a program can bring. `examples/embedded.rs` runs one on three hosts.
//!
//! One group on one node, which counts what it is told:
//!
//! ```
//! use std::sync::mpsc::channel;
//! use std::time::Duration;
//!
//! use mraft::machines::{Command, InMemoryMachine, in_memory};
//! use mraft::{Answer, GroupSpec, HostConfig, Machines, NO_SLOT, NodeHost};
//! use mraft_types::{
//!     DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet,
//! };
//!
//! #[derive(Default)]
//! struct Count(u64);
//!
//! impl InMemoryMachine for Count {
//!     fn apply(&mut self, _: &Command<'_>, answer: &mut Vec<u8>) {
//!         self.0 += 1;
//!         answer.extend_from_slice(&self.0.to_le_bytes());
//!     }
//!     fn query(&self, _: &[u8], answer: &mut Vec<u8>) {
//!         answer.extend_from_slice(&self.0.to_le_bytes());
//!     }
//!     fn save(&self, state: &mut Vec<u8>) {
//!         state.extend_from_slice(&self.0.to_le_bytes());
//!     }
//!     fn restore(&mut self, state: &[u8]) -> Result<(), String> {
//!         self.0 = u64::from_le_bytes(state.try_into().map_err(|_| "a count has eight bytes")?);
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let data = directory.path().join("data");
//! # let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
//! let node = NodeId::new(1).ok_or("0 is no node")?;
//! let config = HostConfig::new(DeploymentId(0), node, address.clone(), data);
//! let machines = Machines::new().with("count", |context| {
//!     Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000, Count::default()))
//! });
//! let host = NodeHost::open(config, machines, None)?;
//! let member = Member { role: Role::Voter, raft_address: address };
//! let members = [(ReplicaId::new(0, node), member)].into();
//! host.start_groups(&[GroupSpec {
//!     group: GroupId(0),
//!     members: Membership { members, ..Membership::default() },
//!     slots: SlotSet::default(),
//!     machine: "count".to_owned(),
//! }])?;
//!
//! // Until the group has a leader nothing is applied, and that is what the answer says.
//! let (told, answers) = channel();
//! let answer = loop {
//!     let (told, body) = (told.clone(), Payload::copy_from(b"one more"));
//!     host.propose(GroupId(0), NO_SLOT, body, Duration::from_secs(60), move |answer| {
//!         let _ = told.send(answer);
//!     });
//!     match answers.recv()? {
//!         Answer::NotApplied(_) => std::thread::yield_now(),
//!         answer => break answer,
//!     }
//! };
//! let Answer::Applied { result, .. } = answer else { return Err("its fate is unknown".into()) };
//! assert_eq!(result[..], 1u64.to_le_bytes());
//! host.close();
//! # Ok(())
//! # }
//! ```
//!
//! Inside, [`core`] decides one turn at a time and is the place to begin reading; [`persist`] and [`apply_worker`] are the log's and
//! the state machines' sides of a turn. None of the three knows a thread, a clock or a socket: the runtime moves their inputs and
//! outputs between threads, and the simulator between points of virtual time.
//!
//! Invariant: threads are spawned in `runtime.rs` only (and by the transport; `xtask tidy` looks for others), and no async runtime stands
//! between a group and the wire.

pub mod apply;
pub mod apply_worker;
mod completions;
pub mod config;
pub mod core;
#[doc(hidden)]
pub mod decoders;
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
pub mod opening;
mod panics;
pub mod peer_table;
pub mod peers;
pub mod persist;
mod progress;
mod questions;
mod random;
pub mod registry;
mod replicas;
pub mod restore;
mod runtime;
pub mod slow_disk;
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
pub use status::{GroupStatus, HostStatus, PeerProgress, ReplicaState, StateRoom};
