// SPDX-License-Identifier: Apache-2.0

//! Operators who ask for what cannot be: it must be refused, whoever is asked and whatever goes on meanwhile.

use mraft::core::Input;
use mraft::{Answer, Ticket};
use mraft_engine::event::Event;
use mraft_types::{GroupId, Membership, MembershipChange, NodeId, ReplicaId, Role};

use super::World;
use crate::check::{Broken, promise};
use crate::node::address;

/// Whose answer must be a refusal.
pub(super) const NONSENSE_TICKET: Ticket = Ticket(u64::MAX - 2);
/// Whose answer may be that it is so already (row S8).
pub(super) const REPEATED_TICKET: Ticket = Ticket(u64::MAX - 3);
/// A generation that no replica comes to.
const NO_GENERATION: u16 = 1_000;

impl World {
    /// Asks some leader, which may be an old one, for a change that no membership allows.
    pub(super) fn ask_nonsense(&mut self) -> Result<bool, Broken> {
        let group = GroupId(self.random.operators.draw() % self.mix.groups);
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(|at| self.is_leader(*at, group)).collect();
        if leaders.is_empty() {
            return Ok(false);
        }
        let leader = leaders[self.random.operators.index(leaders.len())];
        let Some(process) = self.nodes[leader].process.as_mut() else { return Ok(false) };
        let Some(membership) = process.core.engine().raft(group).map(|raft| raft.membership().clone()) else {
            return Ok(false);
        };
        let (change, expected) = self.nonsense(&membership);
        let is_repeated = matches!(&change, MembershipChange::AddLearner { node, .. } if membership.replica_on(*node).is_some());
        self.say(|| format!("somebody asks node {} for {change:?} of group {group}", self.ids[leader]));
        let Some(process) = self.nodes[leader].process.as_mut() else { return Ok(false) };
        let event = Event::Change {
            ticket: if is_repeated { REPEATED_TICKET } else { NONSENSE_TICKET },
            change,
            expected_change_index: expected,
            deadline_tick: process.tick + 100,
        };
        process.core.handle(Input::Group(group, event));
        self.pump(leader)?;
        Ok(true)
    }

    /// What became of it.
    pub(super) fn answered_nonsense(&self, ticket: Ticket, answer: &Answer) -> Result<(), Broken> {
        match answer {
            Answer::NotApplied(_) => Ok(()),
            Answer::Changed { .. } if ticket == REPEATED_TICKET => Ok(()),
            taken => Err(Broken::new(promise::NONSENSE_REFUSED, format!("it was answered {taken:?}"))),
        }
    }

    fn is_leader(&self, node: usize, group: GroupId) -> bool {
        let process = self.nodes[node].process.as_ref();
        process.and_then(|process| process.core.engine().raft(group)).is_some_and(|raft| raft.is_leader())
    }

    fn nonsense(&mut self, membership: &Membership) -> (MembershipChange, Option<u64>) {
        let random = &mut self.random.operators;
        let members: Vec<(ReplicaId, Role, String)> = membership
            .members
            .iter()
            .map(|(id, member)| (*id, member.role, member.raft_address.clone()))
            .collect();
        let (member, role, taken) = members[random.index(members.len())].clone();
        let stranger = NodeId::new(random.between(900, 999)).unwrap_or(member.node());
        let add = |node, raft_address| MembershipChange::AddLearner { node, raft_address };
        let right = Some(membership.change_index);
        match random.index(8) {
            0 if role == Role::Voter => (MembershipChange::Promote(member), right),
            0 => (MembershipChange::Demote(member), right),
            1 => (MembershipChange::Remove(ReplicaId::new(NO_GENERATION, member.node())), right),
            2 => (add(member.node(), address(member.node())), right),
            3 => (add(stranger, String::new()), right),
            4 => (add(stranger, taken), right),
            5 => (MembershipChange::RetireNode(member.node()), right),
            // A change that could be, of a membership that is not.
            6 => (add(stranger, address(stranger)), Some(membership.change_index + 1)),
            _ => {
                let gone = membership.removed.keys().next().copied();
                let retired = membership.retired_nodes.iter().next().copied();
                match (retired, gone) {
                    (Some(node), _) => (add(node, address(node)), right),
                    (None, Some(node)) => (MembershipChange::Promote(ReplicaId::new(0, node)), right),
                    (None, None) => {
                        (MembershipChange::Demote(ReplicaId::new(NO_GENERATION, stranger)), right)
                    }
                }
            }
        }
    }
}
