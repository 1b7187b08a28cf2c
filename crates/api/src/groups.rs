// SPDX-License-Identifier: Apache-2.0

//! Groups, their members, and the changes of a membership.

use std::fmt;
use std::str::FromStr;

use mraft_types::{NodeId, ReplicaId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Answer to `GET /v1/groups`: every group of the topology, held here or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsAnswer {
    /// Node id of who answered.
    pub served_by: u64,
    /// Sorted by group id.
    pub groups: Vec<GroupSummary>,
}

/// One group as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    /// The group.
    pub group: u64,
    /// Its slots as ranges `first-last`.
    pub slots: Vec<String>,
    /// Whether this node holds a replica.
    pub held: bool,
    /// This node's replica (`NODE#generation`), if it holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// What that replica is doing: `leader`, `follower`, `candidate`, `learner`, `waiting`, `condemned`, `stopped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it is condemned or stopped, or for whom it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Node id of the leader, if known.
    pub leader: Option<u64>,
    /// The Raft term.
    #[serde(default)]
    pub term: u64,
    /// Committed up to this index, as far as known here.
    #[serde(default)]
    pub commit: u64,
    /// Applied here up to this index.
    #[serde(default)]
    pub applied: u64,
    /// The group's revision here.
    #[serde(default)]
    pub revision: u64,
    /// Nodes of the members, if known.
    #[serde(default)]
    pub nodes: Vec<u64>,
}

/// Answer to `GET /v1/groups/{group}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDetail {
    /// The overview, as who served sees it.
    #[serde(flatten)]
    pub summary: GroupSummary,
    /// Node id of who answered.
    pub served_by: u64,
    /// The group's uid (32 hexadecimal digits).
    pub uid: String,
    /// Index of the last membership change (ConfigChangeID).
    pub change_index: u64,
    /// Live members.
    pub members: Vec<MemberRow>,
    /// Removed replicas as `NODE#generation` of the highest generation that each node had.
    pub removed: Vec<String>,
    /// Nodes that were removed for good.
    pub retired_nodes: Vec<u64>,
    /// First index that the log still holds.
    pub log_first: u64,
    /// Last index of the log.
    pub log_last: u64,
    /// Index that a crash would come back with from the store.
    pub persisted: u64,
    /// Known by the leader only: up to this index all voters are known to have had the same state (rule E8), since it leads.
    #[serde(default)]
    pub compared: u64,
    /// The chain hash of the applied state at `applied`, in hexadecimal digits (rule E8), if the machine keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_hash: Option<String>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// `NODE#generation`.
    pub replica: String,
    /// Its node id.
    pub node: u64,
    /// Where its node listens for peers.
    pub raft_address: String,
    /// `voter`, `learner`, `observer` or `witness`.
    pub role: String,
    /// Whether it leads.
    pub leader: bool,
    /// Known by the leader only: the index up to which its log agrees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<u64>,
    /// Known by the leader only: entries that it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_entries: Option<u64>,
    /// Known by the leader only: whether it answered within the last election timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
}

/// A node as people write it: its number, or its Raft address `ip:port`; a replica id names its node too. Travels as a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeName {
    /// The node.
    pub node: NodeId,
    /// The generation, if one was named: then the operation is about that replica and no other.
    pub generation: Option<u16>,
}

impl From<NodeId> for NodeName {
    fn from(node: NodeId) -> NodeName {
        NodeName { node, generation: None }
    }
}

impl From<ReplicaId> for NodeName {
    fn from(replica: ReplicaId) -> NodeName {
        NodeName { node: replica.node(), generation: Some(replica.generation()) }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.generation {
            Some(generation) => write!(f, "{}", ReplicaId::new(generation, self.node)),
            None => write!(f, "{}", self.node),
        }
    }
}

impl FromStr for NodeName {
    type Err = mraft_types::ids::ParseIdError;

    fn from_str(text: &str) -> Result<NodeName, Self::Err> {
        if text.contains('#') {
            text.parse::<ReplicaId>().map(NodeName::from)
        } else {
            text.parse::<NodeId>().map(NodeName::from)
        }
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    /// Takes a text or a plain number.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeName, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a node (a number, `ip:port` or `NODE#generation`)")]
        enum Form {
            Number(u64),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Number(number) => number.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Body of `POST /v1/groups/{group}/add-learner`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddLearnerRequest {
    /// Which node.
    pub node: NodeName,
    /// Where it listens for peers; committed with the change.
    pub raft_address: String,
    /// Only if this is still the last membership change (ConfigChangeID); required while `ordered_config_change` is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_index: Option<u64>,
}

/// Body of `POST /v1/groups/{group}/promote`, `…/remove` and `…/transfer`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRequest {
    /// Which node.
    pub node: NodeName,
    /// Only if this is still the last membership change (ConfigChangeID); required while `ordered_config_change` is on, and not
    /// for a transfer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_index: Option<u64>,
}

/// Answer to every change of a membership, and to a transfer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeAnswer {
    /// The group.
    pub group: u64,
    /// The replica that it was about, `NODE#generation`: for an added learner the allocated id (rule M3).
    pub replica: String,
    /// Index of the last membership change now.
    pub change_index: u64,
    /// Node id of the leader, if known.
    pub leader: Option<u64>,
    /// Node id of who served.
    pub served_by: u64,
    /// Whether anything changed; repeating a call is harmless and changes nothing.
    pub changed: bool,
    /// What the replica is now (`voter`, `learner`, …), if it is a member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// Answer to `POST /v1/groups/{group}/verify` (rule E8).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// The group.
    pub group: u64,
    /// The index of the compared view.
    pub index: u64,
    /// Whether all replicas that answered have the same content, and a majority answered.
    pub equal: bool,
    /// One per member.
    pub replicas: Vec<VerifyRow>,
}

/// What one replica said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRow {
    /// `NODE#generation`.
    pub replica: String,
    /// Its hash at the index in hexadecimal digits; `None` when it did not answer or has passed it.
    pub hash: Option<String>,
    /// Why there is no hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Answer to `DELETE /v1/nodes/{node}`: a tombstone in every group, so that the node id never comes back (row S13).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetireAnswer {
    /// The node.
    pub node: u64,
    /// Groups in which the tombstone is committed.
    pub groups: Vec<u64>,
}

/// Answer to `POST /v1/nodes/{node}/clear-conflict`: what the node that served forgot (rule M6). It is said to every node that refuses
/// `node`, because each has a table of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearConflictAnswer {
    /// The node that it was about.
    pub node: u64,
    /// Node id of who forgot.
    pub served_by: u64,
    /// Whether anything was forgotten. Otherwise nothing is known of the node, or it is connected and no other directory claims its id.
    pub changed: bool,
    /// Instance id of the directory that the node is or was known as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
    /// Instance id of the directory that claimed the node's id and was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_may_be_written_in_three_ways() {
        let read = |json: &str| serde_json::from_str::<NodeName>(json);
        let node = NodeId::new(0x0a01_0203 << 16 | 13890).expect("a node id");
        assert_eq!(read("\"10.1.2.3:13890\"").expect("an address"), NodeName::from(node));
        assert_eq!(read(&node.get().to_string()).expect("a number"), NodeName::from(node));
        assert_eq!(read("\"7#2\"").expect("a replica").generation, Some(2));
        for json in ["0", "\"\"", "-1", "null", "\"7#x\"", "1.5"] {
            assert!(read(json).is_err(), "{json}");
        }
        assert_eq!(serde_json::to_string(&NodeName::from(node)).expect("text"), format!("\"{node}\""));
    }
}
