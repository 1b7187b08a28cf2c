// SPDX-License-Identifier: Apache-2.0

//! Why a node did not do what another one asked, as JSON between the two. What a client is told must not hang on which node it asked,
//! so every reason that is told in its own way outside has its own form here. A form that a build does not know makes the answer
//! unreadable for it, which counts as unknown (rule E3), never as a no.

use mraft_gateway::needs::{Failure, NodeError};
use mraft_types::{ChangeRefused, GroupId, NodeId, ReplicaId, Role};
use serde::{Deserialize, Serialize};

/// A [`Failure`] for the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FailureWire {
    error: ErrorWire,
    group: Option<u64>,
    leader: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ErrorWire {
    GroupNotFound(u64),
    Conflict(String),
    NotAMember(u64),
    Change(ChangeRefusedWire),
    /// Refused for another reason; its name is older than [`ErrorWire::Change`].
    ChangeRefused(String),
    ChangedMeanwhile {
        expected: u64,
        current: u64,
    },
    ChangeIndexMissing,
    TransferFailed(u64),
    TooLarge {
        bytes: u64,
        bytes_max: u64,
    },
    NoHolder(u8),
    Overloaded {
        queue: String,
        retry_after_ms: u64,
    },
    NoLeader,
    Transferring(u64),
    Moved(u64),
    Superseded,
    Stopping,
    ReplicaUnfit(String),
    DiskFull(String),
    DiskStalled(String),
    NotStarted,
    Unknown(String),
    Internal(String),
}

/// [`ChangeRefused`] for the wire. What is told outside by its text alone travels as a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeRefusedWire {
    AlreadyMember(u64),
    Removed(u64),
    NodeRetired(u64),
    NodeHasReplica(u64),
    WrongRole(u64, u8),
    LastVoter(u64),
    TooManyWitnesses,
    AddressInUse(String, u64),
    BadAddress(String),
}

impl FailureWire {
    pub(super) fn of(failure: &Failure) -> FailureWire {
        let error = match &failure.error {
            NodeError::GroupNotFound(group) => ErrorWire::GroupNotFound(group.0),
            NodeError::Conflict(why) => ErrorWire::Conflict(why.clone()),
            NodeError::Change(ChangeRefused::NotAMember(id)) => ErrorWire::NotAMember(id.get()),
            NodeError::Change(refused) => match ChangeRefusedWire::of(refused) {
                Some(refused) => ErrorWire::Change(refused),
                None => ErrorWire::ChangeRefused(refused.to_string()),
            },
            NodeError::ChangedMeanwhile { expected, current } => {
                ErrorWire::ChangedMeanwhile { expected: *expected, current: *current }
            }
            NodeError::ChangeIndexMissing => ErrorWire::ChangeIndexMissing,
            NodeError::TransferFailed(to) => ErrorWire::TransferFailed(to.get()),
            NodeError::TooLarge { bytes, bytes_max, .. } => {
                ErrorWire::TooLarge { bytes: *bytes, bytes_max: *bytes_max }
            }
            NodeError::NoHolder { hops } => ErrorWire::NoHolder(*hops),
            NodeError::Overloaded { queue, retry_after } => ErrorWire::Overloaded {
                queue: queue.clone(),
                retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
            },
            NodeError::NoLeader => ErrorWire::NoLeader,
            NodeError::Transferring(to) => ErrorWire::Transferring(to.get()),
            NodeError::Moved { epoch } => ErrorWire::Moved(*epoch),
            NodeError::Superseded => ErrorWire::Superseded,
            NodeError::Stopping => ErrorWire::Stopping,
            NodeError::ReplicaUnfit(why) => ErrorWire::ReplicaUnfit(why.clone()),
            NodeError::DiskFull(why) => ErrorWire::DiskFull(why.clone()),
            NodeError::DiskStalled(why) => ErrorWire::DiskStalled(why.clone()),
            NodeError::NotStarted => ErrorWire::NotStarted,
            NodeError::Unknown(why) => ErrorWire::Unknown(why.clone()),
            NodeError::Refused(why) => ErrorWire::ChangeRefused(why.clone()),
            NodeError::Internal(what) => ErrorWire::Internal(what.clone()),
            // No node answers another one with these.
            other => ErrorWire::Internal(other.to_string()),
        };
        FailureWire {
            error,
            group: failure.group.map(|group| group.0),
            leader: failure.leader.map(NodeId::get),
        }
    }

    pub(super) fn into_failure(self) -> Box<Failure> {
        let error = self.error.into_error().unwrap_or_else(|| {
            NodeError::Unknown("a node answered with a replica, node or role that cannot be".to_owned())
        });
        let leader = self.leader.and_then(NodeId::new);
        Box::new(Failure { error, group: self.group.map(GroupId), leader, leader_http: None })
    }
}

impl ErrorWire {
    /// `None` when it names what cannot be.
    fn into_error(self) -> Option<NodeError> {
        Some(match self {
            ErrorWire::GroupNotFound(group) => NodeError::GroupNotFound(GroupId(group)),
            ErrorWire::Conflict(why) => NodeError::Conflict(why),
            ErrorWire::NotAMember(id) => {
                NodeError::Change(ChangeRefused::NotAMember(ReplicaId::from_u64(id)?))
            }
            ErrorWire::Change(refused) => NodeError::Change(refused.into_refused()?),
            ErrorWire::ChangeRefused(why) => NodeError::Refused(why),
            ErrorWire::ChangedMeanwhile { expected, current } => {
                NodeError::ChangedMeanwhile { expected, current }
            }
            ErrorWire::ChangeIndexMissing => NodeError::ChangeIndexMissing,
            ErrorWire::TransferFailed(to) => NodeError::TransferFailed(ReplicaId::from_u64(to)?),
            ErrorWire::TooLarge { bytes, bytes_max } => {
                NodeError::TooLarge { what: "the command", bytes, bytes_max }
            }
            ErrorWire::NoHolder(hops) => NodeError::NoHolder { hops },
            ErrorWire::Overloaded { queue, retry_after_ms } => {
                NodeError::Overloaded { queue, retry_after: std::time::Duration::from_millis(retry_after_ms) }
            }
            ErrorWire::NoLeader => NodeError::NoLeader,
            ErrorWire::Transferring(to) => NodeError::Transferring(ReplicaId::from_u64(to)?),
            ErrorWire::Moved(epoch) => NodeError::Moved { epoch },
            ErrorWire::Superseded => NodeError::Superseded,
            ErrorWire::Stopping => NodeError::Stopping,
            ErrorWire::ReplicaUnfit(why) => NodeError::ReplicaUnfit(why),
            ErrorWire::DiskFull(why) => NodeError::DiskFull(why),
            ErrorWire::DiskStalled(why) => NodeError::DiskStalled(why),
            ErrorWire::NotStarted => NodeError::NotStarted,
            ErrorWire::Unknown(why) => NodeError::Unknown(why),
            ErrorWire::Internal(why) => NodeError::Internal(why),
        })
    }
}

impl ChangeRefusedWire {
    fn of(refused: &ChangeRefused) -> Option<ChangeRefusedWire> {
        Some(match refused {
            ChangeRefused::AlreadyMember(id) => ChangeRefusedWire::AlreadyMember(id.get()),
            ChangeRefused::Removed(id) => ChangeRefusedWire::Removed(id.get()),
            ChangeRefused::NodeRetired(node) => ChangeRefusedWire::NodeRetired(node.get()),
            ChangeRefused::NodeHasReplica(id) => ChangeRefusedWire::NodeHasReplica(id.get()),
            ChangeRefused::WrongRole(id, role) => ChangeRefusedWire::WrongRole(id.get(), *role as u8),
            ChangeRefused::LastVoter(id) => ChangeRefusedWire::LastVoter(id.get()),
            ChangeRefused::TooManyWitnesses => ChangeRefusedWire::TooManyWitnesses,
            ChangeRefused::AddressInUse(address, id) => {
                ChangeRefusedWire::AddressInUse(address.clone(), id.get())
            }
            ChangeRefused::BadAddress(address) => ChangeRefusedWire::BadAddress(address.clone()),
            _ => return None,
        })
    }

    fn into_refused(self) -> Option<ChangeRefused> {
        Some(match self {
            ChangeRefusedWire::AlreadyMember(id) => ChangeRefused::AlreadyMember(ReplicaId::from_u64(id)?),
            ChangeRefusedWire::Removed(id) => ChangeRefused::Removed(ReplicaId::from_u64(id)?),
            ChangeRefusedWire::NodeRetired(node) => ChangeRefused::NodeRetired(NodeId::new(node)?),
            ChangeRefusedWire::NodeHasReplica(id) => ChangeRefused::NodeHasReplica(ReplicaId::from_u64(id)?),
            ChangeRefusedWire::WrongRole(id, role) => {
                ChangeRefused::WrongRole(ReplicaId::from_u64(id)?, Role::from_byte(role)?)
            }
            ChangeRefusedWire::LastVoter(id) => ChangeRefused::LastVoter(ReplicaId::from_u64(id)?),
            ChangeRefusedWire::TooManyWitnesses => ChangeRefused::TooManyWitnesses,
            ChangeRefusedWire::AddressInUse(address, id) => {
                ChangeRefused::AddressInUse(address, ReplicaId::from_u64(id)?)
            }
            ChangeRefusedWire::BadAddress(address) => ChangeRefused::BadAddress(address),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(error: NodeError) -> NodeError {
        let json = serde_json::to_vec(&FailureWire::of(&Failure::of_group(error, GroupId(5), None)));
        let wire: FailureWire = serde_json::from_slice(&json.expect("JSON")).expect("what was written");
        wire.into_failure().error
    }

    #[test]
    fn e3_the_reason_is_the_same_at_every_node() {
        let node = NodeId::new(7).expect("a node id");
        let id = ReplicaId::new(1, node);
        let text = || "text".to_owned();
        let refusals = [
            ChangeRefused::AlreadyMember(id),
            ChangeRefused::NotAMember(id),
            ChangeRefused::Removed(id),
            ChangeRefused::NodeRetired(node),
            ChangeRefused::NodeHasReplica(id),
            ChangeRefused::WrongRole(id, Role::Observer),
            ChangeRefused::LastVoter(id),
            ChangeRefused::TooManyWitnesses,
            ChangeRefused::AddressInUse(text(), id),
            ChangeRefused::BadAddress(text()),
        ];
        let retry_after = std::time::Duration::from_millis(20);
        let errors = [
            NodeError::GroupNotFound(GroupId(3)),
            NodeError::Conflict(text()),
            NodeError::ChangedMeanwhile { expected: 1, current: 2 },
            NodeError::ChangeIndexMissing,
            NodeError::TransferFailed(id),
            NodeError::TooLarge { what: "the command", bytes: 2, bytes_max: 1 },
            NodeError::NoHolder { hops: 2 },
            NodeError::Overloaded { queue: text(), retry_after },
            NodeError::NoLeader,
            NodeError::Transferring(id),
            NodeError::Moved { epoch: 2 },
            NodeError::Superseded,
            NodeError::Stopping,
            NodeError::ReplicaUnfit(text()),
            NodeError::DiskFull(text()),
            NodeError::DiskStalled(text()),
            NodeError::NotStarted,
            NodeError::Unknown(text()),
            NodeError::Refused(text()),
            NodeError::Internal(text()),
        ];
        for error in errors.into_iter().chain(refusals.map(NodeError::Change)) {
            assert_eq!(sent(error.clone()), error);
        }
        // Told by its text alone, here as there.
        let many = ChangeRefused::TooMany("members", 9);
        assert_eq!(sent(NodeError::Change(many.clone())), NodeError::Refused(many.to_string()));
    }

    #[test]
    fn e3_what_cannot_be_is_no_answer() {
        let wire = FailureWire { error: ErrorWire::Transferring(0), group: None, leader: None };
        assert!(matches!(wire.into_failure().error, NodeError::Unknown(_)));
    }
}
