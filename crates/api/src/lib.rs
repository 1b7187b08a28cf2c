// SPDX-License-Identifier: Apache-2.0

//! The HTTP contract: what the doors answer, what a client may ask, and a typed client that keeps the retry rules.
//!
//! Both sides of a connection are built from these types, so that a field exists on both or on neither. Three things are decided
//! here and nowhere else:
//! - which stable [`ErrorCode`] has which status and outcome, and which of them a client may answer with another attempt (rule E4);
//! - how bytes become text: in a path by percent-encoding, in JSON as `key` when they are UTF-8 and as `key_base64` otherwise;
//! - what an answer says about itself: group, revision, Raft index, leader, who served ([`Served`]).
//!
//! Invariant: this crate knows no group, log, store or node, only what crosses the door; no executor but Tokio, and that only in
//! [`client`].

#![forbid(unsafe_code)]

pub mod base64;
pub mod client;
pub mod code;
pub mod groups;
pub mod headers;
pub mod kv;
pub mod object;
pub mod paths;
pub mod percent;
pub mod problem;
pub mod seed;
pub mod status;
pub mod text;

pub use client::{Client, ClientConfig, ClientError, Condition, ConfigError, Got, ScanRequest};
pub use code::{ErrorCode, Outcome};
pub use groups::{
    AddLearnerRequest, ChangeAnswer, ClearConflictAnswer, GroupDetail, GroupSummary, GroupsAnswer, MemberRow,
    NodeName, NodeRequest, RetireAnswer, VerifyAnswer, VerifyRow,
};
pub use kv::{
    BatchAnswer, BatchOperation, BatchRequest, BatchResult, Consistency, DeleteAnswer, ScanAnswer, ScanEntry,
    Served, WriteAnswer,
};
pub use problem::Problem;
pub use seed::{SeedEnvelope, SeedInfo};
pub use status::{InstanceConflict, NodeStatus, PeerStatus};
