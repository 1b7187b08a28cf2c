// SPDX-License-Identifier: Apache-2.0

//! The routes. A door registers these, a client asks for them.

use mraft_types::NodeId;

use crate::percent;

/// Everything after it is the key.
pub const KV: &str = "/v1/kv/";
/// Atomic batches of one slot.
pub const BATCH: &str = "/v1/batch";
/// Keys in order.
pub const SCAN: &str = "/v1/scan";
/// This node.
pub const STATUS: &str = "/v1/status";
/// All groups.
pub const GROUPS: &str = "/v1/groups";
/// One group.
pub const GROUP: &str = "/v1/groups/{group}";
/// Adds a learner.
pub const GROUP_ADD_LEARNER: &str = "/v1/groups/{group}/add-learner";
/// Makes a learner a voter.
pub const GROUP_PROMOTE: &str = "/v1/groups/{group}/promote";
/// Removes a member.
pub const GROUP_REMOVE: &str = "/v1/groups/{group}/remove";
/// Hands leadership over.
pub const GROUP_TRANSFER: &str = "/v1/groups/{group}/transfer";
/// Compares the replicas' content.
pub const GROUP_VERIFY: &str = "/v1/groups/{group}/verify";
/// One node; DELETE removes it for good.
pub const NODE: &str = "/v1/nodes/{node}";
/// Clears what the asked node knows of another one's directory.
pub const NODE_CLEAR_CONFLICT: &str = "/v1/nodes/{node}/clear-conflict";
/// The contract as a document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// Whether the process should be kept.
pub const LIVEZ: &str = "/livez";
/// Whether clients should be sent here.
pub const READYZ: &str = "/readyz";
/// Metrics in the OpenMetrics text format.
pub const METRICS: &str = "/metrics";
/// Compatibility: what all of its routes begin with.
pub const RAFT: &str = "/raft/";
/// Compatibility: this node and its groups.
pub const RAFT_INFO: &str = "/raft/info";
/// Compatibility: one key.
pub const RAFT_KEY: &str = "/raft/key";
/// Compatibility: joining a node.
pub const RAFT_JOIN: &str = "/raft/join";
/// Compatibility: removing a node for good.
pub const RAFT_DEL: &str = "/raft/del";

/// The path of a key: every byte but RFC 3986's unreserved ones escaped, so that no proxy can normalise it.
pub fn kv(key: &[u8]) -> String {
    let mut path = String::with_capacity(KV.len() + key.len());
    path.push_str(KV);
    percent::encode(key, &mut path);
    path
}

/// A route of one group: [`GROUP`] or one below it.
pub fn of_group(route: &str, group: u64) -> String {
    route.replace("{group}", &group.to_string())
}

/// A route of one node: [`NODE`] or one below it.
pub fn of_node(route: &str, node: NodeId) -> String {
    route.replace("{node}", &node.to_string())
}
