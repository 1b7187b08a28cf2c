// SPDX-License-Identifier: Apache-2.0

//! Who belongs to a group, who did, and the one-at-a-time changes between memberships (rules M1–M5).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::codec::{DecodeError, Reader, Writer};
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX, TOMBSTONES_MAX};
use crate::{Generation, Index, NodeId, ReplicaId};

/// What a member may do. The numbers are persisted and sent; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Role {
    /// Holds data, votes, counts, may lead.
    Voter = 1,
    /// Holds data and is being caught up; never counts, and leads for a moment only, when its log alone can win (rule M5).
    Learner = 2,
    /// Holds data for reading; never counts and is never promoted.
    Observer = 3,
    /// Votes and acknowledges but holds no data and never leads (rule M5). So a group may be without a leader while a witness alone has
    /// the entries of a leader that is lost: no configuration takes one yet.
    Witness = 4,
}

impl Role {
    /// The role behind a persisted number.
    pub fn from_byte(byte: u8) -> Option<Role> {
        match byte {
            1 => Some(Role::Voter),
            2 => Some(Role::Learner),
            3 => Some(Role::Observer),
            4 => Some(Role::Witness),
            _ => None,
        }
    }

    /// Whether members of this role count in quorums of votes and acknowledgements.
    pub fn counts(self) -> bool {
        matches!(self, Role::Voter | Role::Witness)
    }

    /// Whether members of this role hold the group's data.
    pub fn holds_data(self) -> bool {
        self != Role::Witness
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Observer => "observer",
            Role::Witness => "witness",
        })
    }
}

/// One live member.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// What it may do.
    pub role: Role,
    /// Where its node listens for peers (host:port), as committed with the change that added it; 1 to 259 bytes.
    pub raft_address: String,
}

/// A group's members and tombstones. In force from the moment it is appended, undone by truncation (rule M2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Membership {
    /// Index of the entry that holds this membership (ConfigChangeID); 1 for the genesis snapshot.
    pub change_index: Index,
    /// Live members.
    pub members: BTreeMap<ReplicaId, Member>,
    /// Per node that lost a replica, the highest generation it ever had here: those ids never come back (rule M3).
    pub removed: BTreeMap<NodeId, Generation>,
    /// Nodes that were removed for good: none of their replicas may be added (row S13).
    pub retired_nodes: BTreeSet<NodeId>,
}

/// A step from one membership to the next. One is uncommitted at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MembershipChange {
    /// Adds the node's next generation as a learner.
    AddLearner {
        /// The node.
        node: NodeId,
        /// Its Raft address.
        raft_address: String,
    },
    /// Makes a learner a voter.
    Promote(ReplicaId),
    /// Makes a voter a learner.
    Demote(ReplicaId),
    /// Removes a member and leaves a tombstone.
    Remove(ReplicaId),
    /// Writes a tombstone of the node itself.
    RetireNode(NodeId),
}

/// Why a membership change is not possible. Deterministic: the same everywhere and at every retry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChangeRefused {
    /// The node has this live replica already; harmless when the call is repeated.
    AlreadyMember(ReplicaId),
    /// No such live member.
    NotAMember(ReplicaId),
    /// The replica was removed and never comes back.
    Removed(ReplicaId),
    /// The node was removed for good.
    NodeRetired(NodeId),
    /// The node still has this live replica.
    NodeHasReplica(ReplicaId),
    /// The member has this role, from which the change does not lead on.
    WrongRole(ReplicaId, Role),
    /// It would leave the group without a data voter.
    LastVoter(ReplicaId),
    /// Data voters must outnumber witnesses.
    TooManyWitnesses,
    /// Another live member has this address.
    AddressInUse(String, ReplicaId),
    /// The address is empty or longer than 259 bytes.
    BadAddress(String),
    /// The group has as many members or tombstones as it may have.
    TooMany(&'static str, usize),
}

impl fmt::Display for ChangeRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeRefused::AlreadyMember(id) => {
                write!(f, "node {} is a member already, as replica {id}", id.node())
            }
            ChangeRefused::NotAMember(id) => write!(f, "replica {id} is not a member"),
            ChangeRefused::Removed(id) => {
                write!(f, "replica {id} was removed and never comes back; add its node again")
            }
            ChangeRefused::NodeRetired(node) => {
                write!(f, "node {node} was removed for good; use another node id")
            }
            ChangeRefused::NodeHasReplica(id) => {
                write!(f, "the node still has replica {id}; remove that first")
            }
            ChangeRefused::WrongRole(id, role) => write!(f, "replica {id} is a {role}"),
            ChangeRefused::LastVoter(id) => write!(f, "replica {id} is the group's last voter"),
            ChangeRefused::TooManyWitnesses => f.write_str("data voters must outnumber witnesses"),
            ChangeRefused::AddressInUse(address, id) => {
                write!(f, "address {address} belongs to replica {id}")
            }
            ChangeRefused::BadAddress(address) => {
                write!(f, "`{address}` is no address: host:port, at most {ADDRESS_BYTES_MAX} bytes")
            }
            ChangeRefused::TooMany(what, max) => {
                write!(f, "the group has {max} {what}, which is the most it may have")
            }
        }
    }
}

impl std::error::Error for ChangeRefused {}

impl Membership {
    /// The members that count in quorums, in order.
    pub fn counting(&self) -> impl Iterator<Item = ReplicaId> + '_ {
        self.members.iter().filter(|(_, member)| member.role.counts()).map(|(id, _)| *id)
    }

    /// The role of a live member.
    pub fn role(&self, id: ReplicaId) -> Option<Role> {
        self.members.get(&id).map(|member| member.role)
    }

    /// The live replica of a node.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.members.keys().copied().find(|id| id.node() == node)
    }

    /// Whether this replica was a member once and was removed.
    pub fn is_removed(&self, id: ReplicaId) -> bool {
        !self.members.contains_key(&id)
            && self.removed.get(&id.node()).is_some_and(|highest| id.generation() <= *highest)
    }

    /// The replica id that adding this node would allocate (rule M3).
    pub fn next_replica_of(&self, node: NodeId) -> Result<ReplicaId, ChangeRefused> {
        let highest = self.removed.get(&node).copied().unwrap_or(0);
        let next = highest.checked_add(1).ok_or(ChangeRefused::TooMany("generations of one node", 65_536))?;
        Ok(ReplicaId::new(next, node))
    }

    /// The membership after `change`, standing at `index`. Checks every rule that does not depend on the log.
    pub fn changed(&self, change: &MembershipChange, index: Index) -> Result<Membership, ChangeRefused> {
        let mut next = self.clone();
        next.change_index = index;
        match change {
            MembershipChange::AddLearner { node, raft_address } => {
                if self.retired_nodes.contains(node) {
                    return Err(ChangeRefused::NodeRetired(*node));
                }
                if let Some(id) = self.replica_on(*node) {
                    return Err(ChangeRefused::AlreadyMember(id));
                }
                if raft_address.is_empty() || raft_address.len() > ADDRESS_BYTES_MAX {
                    return Err(ChangeRefused::BadAddress(raft_address.clone()));
                }
                if let Some((id, _)) =
                    self.members.iter().find(|(_, member)| member.raft_address == *raft_address)
                {
                    return Err(ChangeRefused::AddressInUse(raft_address.clone(), *id));
                }
                if self.members.len() >= MEMBERS_MAX {
                    return Err(ChangeRefused::TooMany("members", MEMBERS_MAX));
                }
                let member = Member { role: Role::Learner, raft_address: raft_address.clone() };
                next.members.insert(self.next_replica_of(*node)?, member);
            }
            MembershipChange::Promote(id) => next.set_role(*id, Role::Learner, Role::Voter)?,
            MembershipChange::Demote(id) => next.set_role(*id, Role::Voter, Role::Learner)?,
            MembershipChange::Remove(id) => {
                next.live(*id)?;
                next.members.remove(id);
                if next.removed.len() >= TOMBSTONES_MAX && !next.removed.contains_key(&id.node()) {
                    return Err(ChangeRefused::TooMany("tombstones", TOMBSTONES_MAX));
                }
                let highest = next.removed.entry(id.node()).or_default();
                *highest = id.generation().max(*highest);
            }
            MembershipChange::RetireNode(node) => {
                if let Some(id) = self.replica_on(*node) {
                    return Err(ChangeRefused::NodeHasReplica(id));
                }
                if next.retired_nodes.len() >= TOMBSTONES_MAX && !next.retired_nodes.contains(node) {
                    return Err(ChangeRefused::TooMany("retired nodes", TOMBSTONES_MAX));
                }
                next.retired_nodes.insert(*node);
            }
        }
        let count = |role| next.members.values().filter(|member| member.role == role).count();
        match change {
            MembershipChange::Demote(id) | MembershipChange::Remove(id) if count(Role::Voter) == 0 => {
                Err(ChangeRefused::LastVoter(*id))
            }
            _ if count(Role::Witness) > 0 && count(Role::Voter) <= count(Role::Witness) => {
                Err(ChangeRefused::TooManyWitnesses)
            }
            _ => Ok(next),
        }
    }

    fn live(&mut self, id: ReplicaId) -> Result<&mut Member, ChangeRefused> {
        let removed = self.is_removed(id);
        self.members.get_mut(&id).ok_or(if removed {
            ChangeRefused::Removed(id)
        } else {
            ChangeRefused::NotAMember(id)
        })
    }

    fn set_role(&mut self, id: ReplicaId, from: Role, to: Role) -> Result<(), ChangeRefused> {
        let member = self.live(id)?;
        if member.role != from {
            return Err(ChangeRefused::WrongRole(id, member.role));
        }
        member.role = to;
        Ok(())
    }

    /// Appends the membership: version 1, change index, members, tombstones, retired nodes (`docs/formats/files.md`).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(MEMBERSHIP_VERSION);
        out.put_varint(self.change_index);
        out.put_varint(self.members.len() as u64);
        for (id, member) in &self.members {
            out.put_u64(id.get());
            out.put_u8(member.role as u8);
            out.put_bytes(member.raft_address.as_bytes());
        }
        out.put_varint(self.removed.len() as u64);
        for (node, generation) in &self.removed {
            out.put_u64(ReplicaId::new(*generation, *node).get());
        }
        out.put_varint(self.retired_nodes.len() as u64);
        for node in &self.retired_nodes {
            out.put_u64(node.get());
        }
    }

    /// Reads what [`Membership::encode`] wrote. Sorted and unique ids are part of the format: one membership has one encoding.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Membership, DecodeError> {
        let version = reader.u8("membership.version")?;
        if version != MEMBERSHIP_VERSION {
            return Err(DecodeError::Unknown("membership.version", u64::from(version)));
        }
        let mut membership =
            Membership { change_index: reader.varint("membership.change_index")?, ..Membership::default() };
        for _ in 0..reader.bounded("membership.members", MEMBERS_MAX)? {
            let id = replica_id(reader, "membership.member.id")?;
            let role = reader.u8("membership.member.role")?;
            let role = Role::from_byte(role)
                .ok_or(DecodeError::Unknown("membership.member.role", u64::from(role)))?;
            let raft_address = reader.text("membership.member.raft_address", ADDRESS_BYTES_MAX)?.to_owned();
            let ascending = membership.members.last_key_value().is_none_or(|(last, _)| *last < id);
            if !ascending || membership.replica_on(id.node()).is_some() {
                return Err(DecodeError::Invalid("membership.member.id", id.get()));
            }
            membership.members.insert(id, Member { role, raft_address });
        }
        for _ in 0..reader.bounded("membership.removed", TOMBSTONES_MAX)? {
            let id = replica_id(reader, "membership.removed.id")?;
            if membership.removed.last_key_value().is_some_and(|(last, _)| *last >= id.node()) {
                return Err(DecodeError::Invalid("membership.removed.id", id.get()));
            }
            membership.removed.insert(id.node(), id.generation());
        }
        for _ in 0..reader.bounded("membership.retired_nodes", TOMBSTONES_MAX)? {
            let id = reader.u64("membership.retired_node")?;
            let node = NodeId::new(id).ok_or(DecodeError::Invalid("membership.retired_node", id))?;
            if membership.retired_nodes.last().is_some_and(|last| *last >= node) {
                return Err(DecodeError::Invalid("membership.retired_node", id));
            }
            membership.retired_nodes.insert(node);
        }
        Ok(membership)
    }
}

/// First byte of an encoded membership.
const MEMBERSHIP_VERSION: u8 = 1;

fn replica_id(reader: &mut Reader<'_>, field: &'static str) -> Result<ReplicaId, DecodeError> {
    let id = reader.u64(field)?;
    ReplicaId::from_u64(id).ok_or(DecodeError::Invalid(field, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    fn voters(ids: &[u64]) -> Membership {
        let member = |id: &u64| Member { role: Role::Voter, raft_address: format!("127.0.0.1:{id}") };
        Membership {
            change_index: 1,
            members: ids.iter().map(|id| (ReplicaId::new(0, node(*id)), member(id))).collect(),
            ..Membership::default()
        }
    }

    fn add(id: u64) -> MembershipChange {
        MembershipChange::AddLearner { node: node(id), raft_address: format!("127.0.0.1:{id}") }
    }

    #[test]
    fn m3_a_removed_replica_never_comes_back_but_its_node_may() {
        let removed = ReplicaId::new(0, node(3));
        let after = voters(&[1, 2, 3]).changed(&MembershipChange::Remove(removed), 9).expect("removable");
        assert!(after.is_removed(removed));
        assert_eq!(
            after.changed(&MembershipChange::Remove(removed), 10),
            Err(ChangeRefused::Removed(removed))
        );
        let back = after.changed(&add(3), 10).expect("a node may return");
        let returned = ReplicaId::new(1, node(3));
        assert_eq!(back.role(returned), Some(Role::Learner));
        assert!(back.is_removed(removed));
        assert_eq!(back.changed(&add(3), 11), Err(ChangeRefused::AlreadyMember(returned)));
    }

    #[test]
    fn s13_a_retired_node_cannot_be_added() {
        let members = voters(&[1, 2]);
        let retire = MembershipChange::RetireNode(node(2));
        assert_eq!(
            members.changed(&retire, 2),
            Err(ChangeRefused::NodeHasReplica(ReplicaId::new(0, node(2))))
        );
        let removed =
            members.changed(&MembershipChange::Remove(ReplicaId::new(0, node(2))), 2).expect("removable");
        let retired = removed.changed(&retire, 3).expect("retirable");
        assert_eq!(retired.changed(&add(2), 4), Err(ChangeRefused::NodeRetired(node(2))));
    }

    #[test]
    fn the_last_voter_stays() {
        let last = ReplicaId::new(0, node(1));
        let members = voters(&[1]).changed(&add(2), 2).expect("addable");
        assert_eq!(members.changed(&MembershipChange::Remove(last), 3), Err(ChangeRefused::LastVoter(last)));
        assert_eq!(members.changed(&MembershipChange::Demote(last), 3), Err(ChangeRefused::LastVoter(last)));
    }

    #[test]
    fn members_and_tombstones_are_bounded() {
        let mut members = voters(&[1]);
        for id in 2..=MEMBERS_MAX as u64 {
            members = members.changed(&add(id), id).expect("room");
        }
        let refused = members.changed(&add(1 + MEMBERS_MAX as u64), 100);
        assert_eq!(refused, Err(ChangeRefused::TooMany("members", MEMBERS_MAX)));
        let mut members = voters(&[1]);
        for id in 2..2 + TOMBSTONES_MAX as u64 {
            members = members.changed(&MembershipChange::RetireNode(node(id)), id).expect("room");
        }
        let refused = members.changed(&MembershipChange::RetireNode(node(9_999)), 9_999);
        assert_eq!(refused, Err(ChangeRefused::TooMany("retired nodes", TOMBSTONES_MAX)));
    }

    #[test]
    fn m5_voters_outnumber_witnesses() {
        let mut members = voters(&[1, 2]);
        let witness = Member { role: Role::Witness, raft_address: "127.0.0.1:3".to_owned() };
        members.members.insert(ReplicaId::new(0, node(3)), witness);
        let remove = MembershipChange::Remove(ReplicaId::new(0, node(2)));
        assert_eq!(members.changed(&remove, 2), Err(ChangeRefused::TooManyWitnesses));
    }

    #[test]
    fn a_membership_comes_back_from_its_bytes() {
        let members = voters(&[1, 2, 3])
            .changed(&MembershipChange::Remove(ReplicaId::new(0, node(2))), 5)
            .and_then(|next| next.changed(&MembershipChange::RetireNode(node(2)), 6))
            .and_then(|next| next.changed(&add(7), 7))
            .expect("legal changes");
        let mut bytes = Vec::new();
        members.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(Membership::decode(&mut reader), Ok(members));
        assert_eq!(reader.finish(), Ok(()));
        for len in 0..bytes.len() {
            assert!(Membership::decode(&mut Reader::new(&bytes[..len])).is_err());
        }
    }
}
