// SPDX-License-Identifier: Apache-2.0

//! What operators do: they look after groups that lack a member, or have one that is of no use, and change members for no reason at all.
//!
//! A node whose directory is of no use (wiped, an old copy, unreadable) is taken out of its groups, what its peers know of it is cleared
//! once no group lists it any more, and it comes back with an empty directory.

use mraft::core::Input;
use mraft::{GroupRecord, HostError, Ticket};
use mraft_disk::MemoryDisk;
use mraft_engine::event::Event;
use mraft_types::{GroupId, GroupUid, Membership, MembershipChange, ReplicaId, Role};

use super::atlas::voters;
use super::{Action, World, running};
use crate::check::{Broken, promise};
use crate::mix::{Own, SANE_SKEW_MS};
use crate::node::{Node, address};

/// How often operators look, in the safety phase and in the calm.
const LOOK_US: (u64, u64) = (100_000, 20_000);
/// Nodes that come in place of others: more than this would only make a run longer.
const NODES_MORE_MAX: usize = 3;
/// Nobody waits for the answer.
const OPERATORS_TICKET: Ticket = Ticket(u64::MAX - 1);

impl World {
    /// Operators look at everything.
    pub(super) fn operate(&mut self) -> Result<(), Broken> {
        let wait = if self.calm { LOOK_US.1 } else { LOOK_US.0 };
        self.after(wait, Action::Operate);
        if self.is_quiet() {
            return Ok(());
        }
        for group in (0..self.mix.groups).map(GroupId) {
            self.operate_group(group)?;
        }
        self.bring_back_outcasts()
    }

    fn operate_group(&mut self, group: GroupId) -> Result<(), Broken> {
        let Some((leader, membership, uid)) = self.serving_leader(group) else { return Ok(()) };
        self.note_membership(group, &membership);
        self.start_joiners(group, leader, &membership, uid)?;
        let Some(change) = self.wanted_change(group, &membership) else { return Ok(()) };
        self.propose_change(group, leader, &membership, change)
    }

    fn propose_change(
        &mut self,
        group: GroupId,
        leader: usize,
        membership: &Membership,
        change: MembershipChange,
    ) -> Result<(), Broken> {
        if !self.leaves_enough(group, membership, &change) {
            return Ok(());
        }
        let expected = Some(membership.change_index);
        self.marks.see(&change);
        let Some(process) = self.nodes[leader].process.as_mut() else { return Ok(()) };
        let deadline_tick = process.tick + 100;
        self.report.changes_proposed += 1;
        let event = Event::Change {
            ticket: OPERATORS_TICKET,
            change: change.clone(),
            expected_change_index: expected,
            deadline_tick,
        };
        process.core.handle(Input::Group(group, event));
        self.say(|| format!("an operator asks node {} for {change:?} of group {group}", self.ids[leader]));
        self.pump(leader)?;
        // It is in force from now on, whatever becomes of it.
        let raft = self.nodes[leader].process.as_ref().and_then(|process| process.core.engine().raft(group));
        if let Some(membership) = raft.map(|raft| raft.membership().clone()) {
            self.note_membership(group, &membership);
        }
        Ok(())
    }

    /// Whether a change leaves more voters whole, and there, than the promise needs: letting a whole one go while another one is lost is
    /// giving up the group, as is counting on one that stays away since the healing, and no product can do anything about it.
    fn leaves_enough(&self, group: GroupId, membership: &Membership, change: &MembershipChange) -> bool {
        let Ok(next) = membership.changed(change, membership.change_index + 1) else { return true };
        let left: Vec<ReplicaId> = voters(&next).collect();
        let is_away = |id: &&ReplicaId| {
            self.place_of(id.node()).is_some_and(|at| self.nodes[at].away_until_us > self.now_us)
        };
        let away = left.iter().filter(is_away).count();
        let lets_go = matches!(change, MembershipChange::Remove(_) | MembershipChange::Demote(_));
        let damaged = left.iter().filter(|id| lets_go && self.atlas.is_damaged(group, **id)).count();
        [away, damaged].iter().all(|missed| *missed == 0 || 2 * missed < left.len())
    }

    /// The node whose replica leads and has committed in its term, what it goes by, and the founding.
    pub(super) fn serving_leader(&self, group: GroupId) -> Option<(usize, Membership, GroupUid)> {
        let newest = self.checks.elections.newest_term(group)?;
        (0..self.nodes.len()).find_map(|at| {
            let process = self.nodes[at].process.as_ref()?;
            let raft = process.core.engine().raft(group)?;
            let serves = raft.has_committed_in_term() && raft.term() == newest;
            let uid = process.registry.records().get(&group)?.uid;
            serves.then(|| (at, raft.membership().clone(), uid))
        })
    }

    /// What a leader asks of the nodes of its members: to have a replica (rule M4).
    fn start_joiners(
        &mut self,
        group: GroupId,
        leader: usize,
        membership: &Membership,
        uid: GroupUid,
    ) -> Result<(), Broken> {
        for replica in membership.members.keys().copied() {
            let Some(node) = self.place_of(replica.node()).filter(|node| *node != leader) else { continue };
            let Some(process) = self.nodes[node].process.as_ref() else { continue };
            let known = process.registry.records().get(&group).map(|record| (record.uid, record.replica));
            let is_due = match known {
                Some((known_uid, known)) => known_uid == uid && known.generation() < replica.generation(),
                None => replica.generation() > 0,
            };
            if is_due && self.are_linked(leader, node)? {
                self.join(node, group, uid, replica)?;
            }
        }
        Ok(())
    }

    /// The next step towards a group whose members are as many as they should be, and all of use.
    fn wanted_change(&mut self, group: GroupId, membership: &Membership) -> Option<MembershipChange> {
        let is_useless = |id: &&ReplicaId| self.is_useless(group, **id);
        if let Some(useless) = membership.members.keys().find(is_useless) {
            return Some(MembershipChange::Remove(*useless));
        }
        let is_retired = |at: &usize| membership.retired_nodes.contains(&self.ids[*at]);
        let is_lost = |at: &usize| self.nodes[*at].is_gone && membership.replica_on(self.ids[*at]).is_none();
        if let Some(lost) = (0..self.nodes.len()).find(|at| is_lost(at) && !is_retired(at)) {
            return Some(MembershipChange::RetireNode(self.ids[lost]));
        }
        let learner =
            |(id, member): (&ReplicaId, &mraft_types::Member)| (member.role == Role::Learner).then_some(*id);
        if let Some(learner) = membership.members.iter().find_map(learner) {
            return Some(MembershipChange::Promote(learner));
        }
        let voters: Vec<ReplicaId> = voters(membership).collect();
        if voters.len() < self.mix.replicas {
            let node = self.spare_node(membership)?;
            return Some(MembershipChange::AddLearner { node, raft_address: address(node) });
        }
        (voters.len() > self.mix.replicas)
            .then(|| MembershipChange::Remove(voters[self.random.operators.index(voters.len())]))
    }

    /// Whether a member is of no use to its group any more.
    fn is_useless(&self, group: GroupId, id: ReplicaId) -> bool {
        let Some(node) = self.place_of(id.node()).map(|at| &self.nodes[at]) else { return true };
        let Some(process) = node.process.as_ref() else { return node.is_gone || node.outcast.is_some() };
        let is_condemned = process
            .core
            .engine()
            .raft(group)
            .is_some_and(|raft| raft.id() == id && raft.condemned().is_some());
        node.is_gone
            || node.outcast.is_some()
            || is_condemned
            || process.not_started.iter().any(|(of, _)| *of == group)
    }

    /// A node that could take another member. What was hurt before it had one is left out: the atlas counts members.
    fn spare_node(&mut self, membership: &Membership) -> Option<mraft_types::NodeId> {
        let is_spare = |node: &&Node| {
            !node.is_gone
                && !node.is_hurt
                && node.outcast.is_none()
                && membership.replica_on(node.id).is_none()
                && !membership.retired_nodes.contains(&node.id)
        };
        let spare: Vec<_> = self.nodes.iter().filter(is_spare).map(|node| node.id).collect();
        if spare.is_empty() { None } else { Some(spare[self.random.operators.index(spare.len())]) }
    }

    /// Somebody changes the members of a group for no reason.
    pub(super) fn change_members(&mut self) -> Result<bool, Broken> {
        let group = GroupId(self.random.operators.draw() % self.mix.groups);
        let Some((leader, membership, _)) = self.serving_leader(group) else { return Ok(false) };
        let voters: Vec<ReplicaId> = voters(&membership).collect();
        let change = if self.random.operators.per_mille(500)
            && let Some(node) = self.spare_node(&membership)
        {
            MembershipChange::AddLearner { node, raft_address: address(node) }
        } else if voters.len() > self.fewest_voters() {
            let victim = voters[self.random.operators.index(voters.len())];
            match self.random.operators.per_mille(300) {
                true => MembershipChange::Demote(victim),
                false => MembershipChange::Remove(victim),
            }
        } else {
            return Ok(false);
        };
        self.propose_change(group, leader, &membership, change)?;
        Ok(true)
    }

    /// A group of one voter follows that one's clock: not where one is wrong (rule E1).
    fn fewest_voters(&self) -> usize {
        let is_wild = |own: &Own| own.ahead_ms.unsigned_abs() > SANE_SKEW_MS;
        if self.mix.own.iter().any(is_wild) { 2 } else { 1 }
    }

    /// A node and its disk are gone for good; another one, with another id, comes in its place.
    pub(super) fn lose_node(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let is_used = !self.nodes[node].is_gone && self.nodes[node].outcast.is_none();
        if !is_used || self.nodes.len() >= self.mix.nodes + NODES_MORE_MAX || !self.may_lose(node) {
            return false;
        }
        self.say(|| format!("node {} is gone for good", self.ids[node]));
        self.crash(node, true);
        self.nodes[node].is_gone = true;
        let Some(id) = mraft_types::NodeId::new(self.ids.len() as u64 + 1) else { return false };
        self.ids.push(id);
        self.nodes.push(Node::new(id));
        let own = self.mix.own[node];
        self.mix.own.push(own);
        let added = self.nodes.len() - 1;
        self.after(1, Action::Restart(added, 0));
        true
    }

    /// A directory is empty, and the node starts on it under its old id.
    pub(super) fn wipe(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let is_used = !self.nodes[node].is_gone && self.nodes[node].outcast.is_none();
        // Who remembers that this id had another directory must be there, or it is nobody's.
        if !is_used || !self.is_remembered(node, 1) || !self.may_lose(node) {
            return false;
        }
        self.say(|| format!("the directory of node {} is wiped", self.ids[node]));
        self.crash(node, true);
        self.nodes[node].disk = MemoryDisk::new();
        self.nodes[node].is_old_for.clear();
        self.nodes[node].is_hurt = true;
        true
    }

    /// A copy of a directory that was taken a while ago takes its place.
    pub(super) fn restore_copy(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let Some((boot, copy)) = self.nodes[node].copy.clone() else { return false };
        let is_used = !self.nodes[node].is_gone && self.nodes[node].outcast.is_none();
        if !is_used || !self.is_remembered(node, boot + 1) || !self.may_lose(node) {
            return false;
        }
        self.say(|| format!("an old copy of the directory of node {} is put in its place", self.ids[node]));
        let instance = |at: usize| Some((at, self.nodes[at].process.as_ref()?.identity.instance));
        self.nodes[node].is_old_for =
            (0..self.nodes.len()).filter(|at| *at != node).filter_map(instance).collect();
        self.nodes[node].old_boot = boot;
        self.crash(node, true);
        // On the disk that the node has now: the one that was copied may have been full.
        let faults = self.nodes[node].disk.faults();
        self.nodes[node].disk = copy.fork();
        self.nodes[node].disk.set_faults(faults);
        self.nodes[node].copy = None;
        self.nodes[node].is_hurt = true;
        true
    }

    /// Whether every other node remembers, durably, that this one was started at least so often: then each of them tells another
    /// directory, or an old copy, from it (rules M6, M7).
    pub(super) fn is_remembered(&self, node: usize, starts: u64) -> bool {
        let others = (0..self.nodes.len()).filter(|at| *at != node && !self.nodes[*at].is_gone);
        let mut others = others.map(|at| {
            let table = self.nodes[at].process.as_ref()?.table.as_ref()?;
            Some(table.record(self.ids[node])?.boot_counter)
        });
        others.all(|boot| boot.is_some_and(|boot| boot >= starts))
    }

    /// A node of no use that no group lists any more begins anew, once everybody was told that its id is free: everybody but those that
    /// will remember nobody: whose directories no process can open, and those that are put away themselves.
    fn bring_back_outcasts(&mut self) -> Result<(), Broken> {
        if self.repairs.are_under_way() {
            return Ok(());
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].is_gone || self.nodes[node].outcast.is_none() {
                continue;
            }
            let id = self.ids[node];
            let all_are_there = (0..self.mix.groups).map(GroupId).all(|group| {
                self.serving_leader(group).is_some_and(|(leader, membership, _)| {
                    let committed = self.nodes[leader].process.as_ref().and_then(|process| {
                        Some(
                            process
                                .core
                                .engine()
                                .raft(group)?
                                .committed_membership()
                                .replica_on(id)
                                .is_some(),
                        )
                    });
                    membership.replica_on(id).is_none() && committed == Some(false)
                })
            });
            let remembers = |own: &Node| !own.is_gone && !own.is_unreadable && !own.is_put_away;
            let others_run = (0..self.nodes.len())
                .filter(|at| *at != node && remembers(&self.nodes[*at]))
                .all(|at| self.nodes[at].process.is_some());
            if !all_are_there || !others_run {
                continue;
            }
            // First of all, and all of them that are of no use: whoever has forgotten one would talk to it, and hear of directories of others
            // that are no more; so would one that is about to begin anew.
            for at in 0..self.nodes.len() {
                if at == node || (self.nodes[at].outcast.is_some() && !self.nodes[at].is_gone) {
                    if self.nodes[at].process.is_some() {
                        self.end_process(at, None);
                    }
                    self.nodes[at].is_put_away = true;
                }
            }
            for other in (0..self.nodes.len()).filter(|at| *at != node) {
                let table = self.nodes[other].process.as_ref().and_then(|process| process.table.as_ref());
                let forgotten = table.map_or(Ok(()), |table| table.forget(id));
                // Whichever directory comes first under this id is taken from here on.
                self.nodes[node].is_old_for.remove(&other);
                if self.dies(other) {
                    return Ok(());
                }
                if forgotten.is_err() {
                    return Ok(());
                }
            }
            self.say(|| format!("node {id} comes back with an empty directory"));
            self.report.outcasts_back += 1;
            self.nodes[node].is_put_away = false;
            let boot = self.nodes[node].boot;
            self.after(1, Action::Restart(node, boot));
            self.nodes[node].disk = MemoryDisk::new();
            self.nodes[node].copy = None;
            self.nodes[node].founding.clear();
            self.nodes[node].outcast = None;
            self.nodes[node].is_unreadable = false;
            self.nodes[node].is_hurt = false;
            self.nodes[node].is_old_for.clear();
            self.forget_refusals();
        }
        Ok(())
    }

    /// A leader asks a node to start a replica; an older one makes room (rule M3).
    fn join(&mut self, node: usize, group: GroupId, uid: GroupUid, replica: ReplicaId) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        let known = process.registry.records().get(&group).map(|record| record.replica);
        if let Some(known) = known {
            self.remove_replica(node, group, known)?;
        }
        let stores = self.nodes[node].stores();
        let (own, mix) = (self.mix.own[node], self.mix.clone());
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        let record = GroupRecord { group, uid, replica, genesis: None, machine: "kv".to_owned() };
        let added = process.add(&stores, &own, &mix, vec![record]);
        self.after_a_change(node, added)?;
        self.say(|| format!("node {} starts {replica} of group {group}", self.ids[node]));
        self.report.joins += 1;
        self.pump(node)
    }

    /// A replica was removed from its group: its log and its state go.
    pub(super) fn forget_replica(
        &mut self,
        node: usize,
        boot: u64,
        group: GroupId,
        replica: ReplicaId,
    ) -> Result<(), Broken> {
        if running(&mut self.nodes, node, boot).is_none() {
            return Ok(());
        }
        self.say(|| format!("node {} forgets {replica} of group {group}, which was removed", self.ids[node]));
        self.remove_replica(node, group, replica)?;
        self.pump(node)
    }

    fn remove_replica(&mut self, node: usize, group: GroupId, replica: ReplicaId) -> Result<(), Broken> {
        let stores = self.nodes[node].stores();
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        let mut out = Default::default();
        let removed = process.remove(&stores, group, replica, &mut out);
        self.after_a_change(node, removed)?;
        for (ticket, answer) in out.answers {
            self.answer(ticket, answer)?;
        }
        Ok(())
    }

    /// What came of a change of a node's replicas: a disk that was told to fail may have, and then somebody starts the process again.
    fn after_a_change(&mut self, node: usize, result: Result<(), HostError>) -> Result<(), Broken> {
        if self.dies(node) {
            return Ok(());
        }
        match result {
            Ok(()) => Ok(()),
            Err(_) if self.nodes[node].faulty.any() || self.nodes[node].is_hurt => {
                self.end_process(node, None);
                Ok(())
            }
            Err(error) => {
                let how = format!("node {} cannot change its replicas: {error}", self.ids[node]);
                Err(Broken::new(promise::COMES_BACK, how))
            }
        }
    }
}
