// SPDX-License-Identifier: Apache-2.0

//! What a host can say of itself and its groups.

use mraft_logstore::LogStatus;
use mraft_types::{
    CondemnedReason, DeploymentId, GroupId, GroupUid, Index, InstanceId, Membership, NodeId, ReplicaId,
    SlotSet, Term,
};

/// A host.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// Its deployment.
    pub deployment: DeploymentId,
    /// Its node id.
    pub node: NodeId,
    /// Its directory's id.
    pub instance: InstanceId,
    /// Where peers reach it.
    pub raft_address: String,
    /// How often it was started.
    pub boot_counter: u64,
    /// Groups here.
    pub groups: u64,
    /// Groups that this node leads.
    pub leaders: u64,
    /// The log.
    pub log: LogStatus,
    /// Age of the oldest unfinished log write in milliseconds (rule T1).
    pub disk_age_ms: u64,
    /// Why the node takes no writes, if it does not.
    pub disk_trouble: Option<String>,
    /// Things an operator should know, each a sentence.
    pub warnings: Vec<String>,
}

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It leads.
    Leader,
    /// It follows, or stands for election.
    Follower,
    /// It waits for its first snapshot (rule M4).
    Waiting,
    /// It may never take part again (rule D9).
    Condemned,
    /// Its state machine or its core failed; it is stopped.
    Failed,
}

/// A follower as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub replica: ReplicaId,
    /// Acknowledged up to here.
    pub matched: Index,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}

/// One group's replica on this node.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// The replica here.
    pub replica: ReplicaId,
    /// What it does.
    pub state: ReplicaState,
    /// Its term.
    pub term: Term,
    /// The leader it knows of.
    pub leader: Option<ReplicaId>,
    /// Committed up to here.
    pub commit: Index,
    /// Applied up to here.
    pub applied: Index,
    /// Last entry of its log.
    pub last_index: Index,
    /// The log begins behind this index.
    pub log_start: Index,
    /// The membership in force.
    pub membership: Membership,
    /// The slots whose keys live in the group.
    pub slots: SlotSet,
    /// On the leader, the followers.
    pub progress: Vec<PeerProgress>,
    /// Bytes of proposals that wait for their turn.
    pub pending_bytes: u64,
    /// Why it is condemned.
    pub condemned: Option<CondemnedReason>,
    /// Why it failed.
    pub failure: Option<String>,
}
