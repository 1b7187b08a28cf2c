// SPDX-License-Identifier: Apache-2.0

//! Ids, versions, limits, entries, hard states and memberships: the nouns that every other crate shares.
//!
//! Nothing here decides anything. Types know how to be checked, printed, parsed and turned into bytes,
//! because the log, the wire and the snapshots must agree on those bytes (`docs/formats/`).
//!
//! Invariant: this crate knows no file, socket, clock, thread or random source, and no other crate of the house.

#![forbid(unsafe_code)]

pub mod codec;
pub mod entry;
pub mod ids;
pub mod limits;
pub mod membership;
pub mod payload;
pub mod planted;
pub mod slots;

pub use entry::{CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Term};
pub use ids::{DeploymentId, Generation, GroupId, GroupUid, InstanceId, NodeId, ReplicaId};
pub use membership::{ChangeRefused, Member, Membership, MembershipChange, Role};
pub use payload::Payload;
pub use slots::{SLOT_COUNT, SlotRange, SlotSet, slot_of_key};
