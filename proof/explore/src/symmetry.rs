// SPDX-License-Identifier: Apache-2.0

//! Replicas that could change their names: what happens to one of them could as well happen to the other, so one of such states is enough.
//!
//! A core is a closed value in which nobody can rename. But a replica is what happened to it, so its twin is what becomes of a twin when
//! the same happens to it with all names changed. Twins are found that way from step to step; that they do the same, and that a replica
//! has one twin whatever way led to it, is checked all the time, since a core that treats names unlike would be one that must not be
//! explored like this.

use mraft_raft::{Body, Message};
use mraft_types::{
    Entry, EntryKind, LogStart, Member, Membership, MembershipChange, NodeId, Payload, ReplicaId,
};

use std::sync::Arc;

use crate::disk::{Machine, Snapshot, membership_of};
use crate::replica::{REPLICAS_MAX, command_of};
use crate::step::Parcel;

/// Most ways to change names that are made use of: those of three replicas.
pub const SYMMETRIES_MAX: usize = 6;

/// Who takes whose name, by places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Renaming([u8; REPLICAS_MAX]);

impl Renaming {
    /// Everybody keeps the own name.
    pub const NONE: Renaming = Renaming([0, 1, 2, 3]);

    /// All ways to rename the first `count` places.
    pub fn all(count: usize) -> Vec<Renaming> {
        let mut all = vec![Renaming::NONE];
        for at in 0..count {
            let swaps = |renaming: &Renaming| {
                let renaming = *renaming;
                (at + 1..count).map(move |other| {
                    let mut swapped = renaming;
                    swapped.0.swap(at, other);
                    swapped
                })
            };
            let more: Vec<Renaming> = all.iter().flat_map(swaps).collect();
            all.extend(more);
        }
        all
    }

    /// The new place of what was at `place`.
    pub fn place(self, place: usize) -> usize {
        usize::from(self.0[place])
    }

    /// First the other one, then this one.
    pub fn after(self, other: Renaming) -> Renaming {
        Renaming(other.0.map(|place| self.0[usize::from(place)]))
    }

    fn node(self, node: NodeId) -> NodeId {
        let place = (node.get() as usize).wrapping_sub(1);
        let renamed = self.0.get(place).and_then(|place| NodeId::new(u64::from(*place) + 1));
        renamed.unwrap_or(node)
    }

    /// The new name of a replica.
    pub fn id(self, id: ReplicaId) -> ReplicaId {
        ReplicaId::new(id.generation(), self.node(id.node()))
    }

    /// A change, with new names.
    pub fn change(self, change: &MembershipChange) -> MembershipChange {
        match change {
            MembershipChange::AddLearner { node, .. } => {
                let node = self.node(*node);
                MembershipChange::AddLearner { node, raft_address: crate::world::address(node) }
            }
            MembershipChange::Promote(id) => MembershipChange::Promote(self.id(*id)),
            MembershipChange::Demote(id) => MembershipChange::Demote(self.id(*id)),
            MembershipChange::Remove(id) => MembershipChange::Remove(self.id(*id)),
            MembershipChange::RetireNode(node) => MembershipChange::RetireNode(self.node(*node)),
        }
    }

    fn membership(self, membership: &Membership) -> Membership {
        let member = |(id, member): (&ReplicaId, &Member)| {
            let id = self.id(*id);
            (id, Member { role: member.role, raft_address: crate::world::address(id.node()) })
        };
        Membership {
            change_index: membership.change_index,
            members: membership.members.iter().map(member).collect(),
            removed: membership.removed.iter().map(|(node, last)| (self.node(*node), *last)).collect(),
            retired_nodes: membership.retired_nodes.iter().map(|node| self.node(*node)).collect(),
        }
    }

    /// An entry, with new names.
    pub fn entry(self, entry: &Entry) -> Entry {
        let payload = match entry.kind {
            EntryKind::Empty => entry.payload.clone(),
            EntryKind::Commands => self.command(&entry.payload),
            EntryKind::Membership => match membership_of(entry) {
                Some(membership) => {
                    let mut payload = Vec::new();
                    self.membership(&membership).encode(&mut payload);
                    payload.into()
                }
                None => entry.payload.clone(),
            },
        };
        Entry { payload, ..entry.clone() }
    }

    /// A command is named after the leader that took it.
    fn command(self, command: &Payload) -> Payload {
        let ids = (1..=REPLICAS_MAX as u64).filter_map(NodeId::new).map(|node| ReplicaId::new(0, node));
        let proposer = ids.into_iter().find(|id| command_of(*id).as_bytes() == command.as_slice());
        proposer.map_or(command.clone(), |id| command_of(self.id(id)).into())
    }

    fn snapshot(self, snapshot: &Snapshot) -> Snapshot {
        let LogStart { position, membership } = &snapshot.start;
        let machine = Machine {
            applied: snapshot.machine.applied,
            membership: self.membership(&snapshot.machine.membership),
            entries: snapshot.machine.entries.iter().map(|entry| self.entry(entry)).collect(),
        };
        let start = LogStart { position: *position, membership: self.membership(membership) };
        Snapshot { start, machine: Arc::new(machine) }
    }

    /// What travels, with new names.
    pub fn parcel(self, parcel: &Parcel) -> Parcel {
        match parcel {
            Parcel::Message(Message { from, to, term, body }) => {
                let body = match body {
                    Body::Append { prev, entries, commit, matched } => Body::Append {
                        prev: *prev,
                        entries: entries.iter().map(|entry| self.entry(entry)).collect(),
                        commit: *commit,
                        matched: *matched,
                    },
                    body => body.clone(),
                };
                Parcel::Message(Message { from: self.id(*from), to: self.id(*to), term: *term, body })
            }
            Parcel::Snapshot { from, to, term, snapshot } => Parcel::Snapshot {
                from: self.id(*from),
                to: self.id(*to),
                term: *term,
                snapshot: Arc::new(self.snapshot(snapshot)),
            },
            Parcel::Arrived { from, to, position } => {
                Parcel::Arrived { from: self.id(*from), to: self.id(*to), position: *position }
            }
        }
    }

    /// Bits by place, with new names.
    pub fn bits(self, bits: u8) -> u8 {
        (0..REPLICAS_MAX)
            .filter(|place| bits & 1 << place != 0)
            .fold(0, |all, place| all | 1 << self.0[place])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_renamings_as_orders() {
        for (count, orders) in [(1, 1), (2, 2), (3, 6), (4, 24)] {
            let all = Renaming::all(count);
            let distinct: std::collections::HashSet<_> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (orders, orders));
        }
    }

    #[test]
    fn renamings_follow_one_another() {
        for one in Renaming::all(3) {
            for other in Renaming::all(3) {
                for place in 0..3 {
                    assert_eq!(one.after(other).place(place), one.place(other.place(place)));
                }
            }
        }
    }
}
