// SPDX-License-Identifier: Apache-2.0

//! One node about itself.

use serde::{Deserialize, Serialize};

/// Answer to `GET /v1/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its node id.
    pub node: u64,
    /// The release that it runs.
    pub version: String,
    /// The deployment that it belongs to.
    pub deployment: u64,
    /// Its data directory's instance id (32 hexadecimal digits).
    pub instance: String,
    /// How often the directory was opened.
    pub boot: u64,
    /// Seconds since the process began to serve.
    pub uptime_s: u64,
    /// Where peers reach it.
    pub raft_address: String,
    /// Where clients reach it.
    pub http_address: String,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// Version of the topology that the doors route by.
    pub topology_version: u64,
    /// Hash of that topology, in hexadecimal digits.
    pub topology_hash: String,
    /// Groups of the topology.
    pub groups_total: u64,
    /// Groups that this node holds a replica of.
    pub groups_held: u64,
    /// Groups that it leads.
    pub groups_leading: u64,
    /// Held groups without a known leader.
    pub groups_without_leader: u64,
    /// Held groups whose replica is condemned or stopped.
    pub groups_failed: u64,
    /// Bytes of the log's segments.
    pub log_bytes: u64,
    /// Bytes of memory that the node accounts for.
    pub memory_bytes: u64,
    /// What it may use.
    pub memory_ceiling_bytes: u64,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// Node ids that two directories claim (rule M6): refused until an operator decides.
    #[serde(default)]
    pub conflicts: Vec<InstanceConflict>,
    /// What an operator should know, one sentence each: a door without TLS on a public address, a slow disk, ignored settings.
    pub warnings: Vec<String>,
}

/// One peer as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its node id.
    pub node: u64,
    /// Where it is dialled.
    pub raft_address: String,
    /// Where its clients reach it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_address: Option<String>,
    /// Whether a connection stands.
    pub connected: bool,
    /// Why not: what was refused, with both values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A node id that two directories claim, as this node was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConflict {
    /// The node id.
    pub node: u64,
    /// Instance id of the directory that it is known as here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// Instance id of the directory that claims it and is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
}
