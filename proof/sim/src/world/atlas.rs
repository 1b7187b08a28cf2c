// SPDX-License-Identifier: Apache-2.0

//! The fault atlas: of each group at most a minority of its data voters ever lost or damaged something, as long as they are members.
//! That is what the promise asks for; everything up to there may be damaged, on each node at other places.

use std::collections::{BTreeMap, BTreeSet};

use mraft_types::{GroupId, Membership, NodeId, ReplicaId, Role};

use super::World;

/// Memberships of a group that are remembered: the last ones, which may each still be the one that counts.
const REMEMBERED_MAX: usize = 3;

/// Replicas that lost something, or may have.
#[derive(Clone, Debug, Default)]
pub(super) struct Atlas(BTreeMap<GroupId, BTreeSet<ReplicaId>>);

impl Atlas {
    /// A replica lost something.
    pub(super) fn is_lost(&mut self, group: GroupId, replica: ReplicaId) {
        self.0.entry(group).or_default().insert(replica);
    }

    /// What a replica lost was accepted.
    pub(super) fn is_accepted(&mut self, group: GroupId, replica: ReplicaId) {
        self.0.entry(group).or_default().remove(&replica);
    }

    /// Whether a replica may have lost something.
    pub(super) fn is_damaged(&self, group: GroupId, replica: ReplicaId) -> bool {
        self.0.get(&group).is_some_and(|damaged| damaged.contains(&replica))
    }
}

impl World {
    /// Whether everything on a node may be lost without breaking what the promise needs. If so, it counts as lost from now on.
    pub(super) fn may_lose(&mut self, node: usize) -> bool {
        let id = self.ids[node];
        let mut lost = Vec::new();
        for group in (0..self.mix.groups).map(GroupId) {
            for membership in self.memberships_in_force(group) {
                let voters: BTreeSet<ReplicaId> = voters(&membership).collect();
                let mut damaged = self.atlas.0.get(&group).cloned().unwrap_or_default();
                let Some(own) = membership.replica_on(id) else { continue };
                damaged.insert(own);
                let count = damaged.iter().filter(|replica| membership.members.contains_key(replica)).count();
                if 2 * count >= voters.len() {
                    return false;
                }
                lost.push((group, own));
            }
        }
        for (group, replica) in lost {
            self.atlas.0.entry(group).or_default().insert(replica);
        }
        true
    }

    /// Some nodes, at least one if there is any, without which every group has a majority of members that lost nothing.
    pub(super) fn draw_dispensable(&mut self) -> BTreeSet<usize> {
        let mut left = BTreeSet::new();
        let first = self.random.crashes.index(self.nodes.len());
        for node in (0..self.nodes.len()).map(|at| (first + at) % self.nodes.len()) {
            if !left.is_empty() && self.random.crashes.per_mille(500) {
                break;
            }
            left.insert(node);
            let is_dispensable = (0..self.mix.groups).map(GroupId).all(|group| {
                let memberships = self.memberships_in_force(group);
                memberships.iter().all(|membership| {
                    let is_missed = |id: &ReplicaId| {
                        let is_left = self.place_of(id.node()).is_none_or(|at| left.contains(&at));
                        is_left || self.atlas.is_damaged(group, *id)
                    };
                    let members: Vec<ReplicaId> = membership.counting().collect();
                    2 * members.iter().filter(|id| is_missed(id)).count() < members.len()
                })
            });
            if !is_dispensable {
                left.remove(&node);
            }
        }
        left
    }

    /// Every membership that some replica goes by: the one that counts is among them.
    pub(super) fn memberships_in_force(&self, group: GroupId) -> Vec<Membership> {
        let mut found: Vec<Membership> = Vec::new();
        let rafts = self.nodes.iter().filter(|node| !node.is_gone).filter_map(|node| node.process.as_ref());
        for raft in rafts.filter_map(|process| process.core.engine().raft(group)) {
            for membership in [raft.membership(), raft.committed_membership()] {
                if !found.contains(membership) {
                    found.push(membership.clone());
                }
            }
        }
        // Nobody knows of what a node that is down has in its log: the newest that were ever seen count too.
        found.extend(self.newest_memberships.get(&group).into_iter().flatten().cloned());
        found
    }

    /// Notes a membership that somebody goes by, and keeps the newest ones: whoever catches up goes by old ones once more.
    pub(super) fn note_membership(&mut self, group: GroupId, membership: &Membership) {
        let known = self.newest_memberships.entry(group).or_default();
        if !known.contains(membership) {
            known.push(membership.clone());
            known.sort_by_key(|membership| membership.change_index);
            if known.len() > REMEMBERED_MAX {
                known.remove(0);
            }
        }
    }

    /// The node with this id.
    pub(super) fn place_of(&self, node: NodeId) -> Option<usize> {
        self.ids.iter().position(|id| *id == node)
    }
}

/// The members that hold data and count.
pub(super) fn voters(membership: &Membership) -> impl Iterator<Item = ReplicaId> + '_ {
    let is_voter =
        |(id, member): (&ReplicaId, &mraft_types::Member)| (member.role == Role::Voter).then_some(*id);
    membership.members.iter().filter_map(is_voter)
}
