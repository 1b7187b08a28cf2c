// SPDX-License-Identifier: Apache-2.0

//! The compatibility routes under `/raft` (row S16) and their envelope.

use serde::{Deserialize, Serialize};

use crate::code::Outcome;

/// What every `/raft` route answers, with the real HTTP status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SeedEnvelope<T> {
    /// 0 on success, otherwise -1.
    pub code: i32,
    /// `ok`, or what went wrong.
    pub msg: String,
    /// The answer; null when there is none.
    pub result: Option<T>,
    /// The key's revision, where the answer is about a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Errors: the stable name of the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Errors: what is known about the effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Errors: what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// `result` of `GET /raft/info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedInfo {
    /// This node's id.
    pub node_id: u64,
    /// Its Raft address.
    pub raft_address: String,
    /// Its HTTP address.
    pub http_address: String,
    /// The groups that it knows, by `clusterId`.
    pub clusters: Vec<SeedCluster>,
}

/// One group in [`SeedInfo`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeedCluster {
    /// The group id.
    pub cluster_id: u64,
    /// Node id of the leader, if known.
    pub leader_id: Option<u64>,
    /// Whether this node leads it.
    pub is_leader: bool,
    /// Nodes of the members, if known.
    pub nodes: Vec<u64>,
}
