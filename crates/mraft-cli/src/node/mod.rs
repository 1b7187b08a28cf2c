// SPDX-License-Identifier: Apache-2.0

//! A running node behind its doors: the routing table, where a question is answered, and how the node tells what it is doing.
//!
//! | file | what it knows |
//! |---|---|
//! | `topology.rs` | which group has a slot, and who is said to hold it |
//! | `doors.rs` | keys and commands of the HTTP door |
//! | `route.rs` | here, to the leader, or to a holder; what may be tried again (rules E4, R3) |
//! | `here.rs` | a question that the replica here answers |
//! | `admin.rs` | status, health, metrics, memberships, verification |
//! | `retire.rs` | removing a node for good |
//! | `conflict.rs` | a node id that two directories claim |
//! | `serving.rs` | the door as a part of the process |
//! | `exchange.rs`, `failure.rs` | questions and answers between nodes, as bytes |
//! | `freshness.rs` | how old what a stale read finds may be |
//! | `certificates.rs` | whether the certificates can be used |
//! | `founding.rs` | what a document still says at a restart |
//! | `service.rs` | what all of these share |
//! | `decoders.rs` | the bytes of these as they look to `proof/fuzz` |

mod admin;
mod certificates;
mod conflict;
pub(crate) mod decoders;
mod descriptors;
mod doors;
mod exchange;
mod failure;
mod founding;
mod freshness;
mod here;
mod lookups;
mod memory;
mod retire;
mod route;
mod run;
mod service;
mod serving;
mod topology;

pub use certificates::Certificates;
pub(crate) use memory::resident_bytes;
pub use run::run_node;
pub(crate) use run::{KV, stopped_machines};
