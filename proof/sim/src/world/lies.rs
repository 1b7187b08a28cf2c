// SPDX-License-Identifier: Apache-2.0

//! A disk that lies: for a moment it calls everything durable, and then the power goes and takes that with it (rule D9).
//!
//! What a voter acknowledged, the votes that it gave and what it was told are gone then, and by itself it cannot know: nothing on its disk
//! is wrong. So this is done only where no promise needs what gets lost: the votes are the same as before, and all other voters of each
//! group hold, durably, every entry. Then it is the leader who remembers what was acknowledged to it, and the replica is told.
//!
//! A disk that may not lose what it called durable makes it so.

use std::collections::BTreeMap;

use mraft::restore::log_key;
use mraft_raft::{Body, Message};
use mraft_types::{GroupId, HardState, Index, ReplicaId, Term};

use super::atlas::voters;
use super::{Action, World, running};
use crate::check::{Broken, condemned};
use crate::node::Lie;

/// A disk lies for so long: a heartbeat of its host, with which its peers hear how far the log is (rule M7), falls into it or does not.
const LIES_US: (u64, u64) = (2_000, 60_000);

impl World {
    /// A disk begins to lie.
    pub(super) fn lie(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let lasts_us = self.random.disks.between(LIES_US.0, LIES_US.1);
        let own = &self.nodes[node];
        let Some(heads) = self.heads(node) else { return false };
        if own.is_hurt || own.faulty.any() || own.crash_at.is_some() || own.outcast.is_some() {
            return false;
        }
        let boot = own.boot;
        let forgotten = self.report.outcasts_back;
        self.nodes[node].lie.get_or_insert(Lie { heads, forgotten });
        self.nodes[node].change_faults(|faults| faults.ignore_syncs = true);
        self.say(|| {
            format!("the disk of node {} calls everything durable and writes nothing", self.ids[node])
        });
        self.after(lasts_us, Action::LieEnds(node, boot));
        true
    }

    /// The power goes, if nobody needs what is lost with it.
    pub(super) fn lie_ends(&mut self, node: usize, boot: u64) {
        let is_told = running(&mut self.nodes, node, boot).is_some() && self.nodes[node].lie.is_some();
        if !is_told || self.nodes[node].is_hurt {
            return self.become_honest(node);
        }
        if !self.is_harmless(node) || !self.may_lose(node) {
            return self.become_honest(node);
        }
        self.say(|| format!("node {} loses its power, and what its disk called durable", self.ids[node]));
        self.nodes[node].disk.drop_unsynced();
        self.nodes[node].lie = None;
        self.nodes[node].change_faults(|faults| faults.ignore_syncs = false);
        self.crash(node, true);
        self.hurt(node);
    }

    /// A disk makes durable what it said that it was.
    pub(super) fn become_honest(&mut self, node: usize) {
        if self.nodes[node].lie.take().is_some() {
            self.nodes[node].disk.make_durable();
            self.nodes[node].change_faults(|faults| faults.ignore_syncs = false);
        }
    }

    /// Whether the same replicas as before gave no vote since, and all other voters hold what they have; and the node was not told to
    /// forget anybody, which it would tell others again that it knows.
    fn is_harmless(&self, node: usize) -> bool {
        let (Some(lie), Some(now)) = (self.nodes[node].lie.as_ref(), self.heads(node)) else { return false };
        let Lie { heads: before, forgotten } = lie;
        let has_voted = |(group, (state, _)): (&GroupId, &(HardState, Index))| {
            before.get(group).is_none_or(|(was, _)| (was.term, was.vote) != (state.term, state.vote))
        };
        if *forgotten != self.report.outcasts_back
            || !before.keys().eq(now.keys())
            || now.iter().any(has_voted)
        {
            return false;
        }
        now.iter().all(|(group, (_, last))| {
            let Some(term) = self.raft(node, *group).map(|raft| raft.term_at(*last)) else { return false };
            self.memberships_in_force(*group).iter().flat_map(voters).all(|voter| {
                let at = self.place_of(voter.node());
                at == Some(node) || at.is_some_and(|at| self.holds(at, *group, voter, *last, term))
            })
        })
    }

    /// Whether a voter has everything up to an entry, durably.
    fn holds(&self, node: usize, group: GroupId, voter: ReplicaId, last: Index, term: Option<Term>) -> bool {
        let own = &self.nodes[node];
        let raft = self.raft(node, group).filter(|raft| raft.id() == voter && raft.condemned().is_none());
        let is_sound = !own.is_hurt && own.lie.is_none() && !self.atlas.is_damaged(group, voter);
        is_sound
            && raft.is_some_and(|raft| {
                let (start, durable) = (raft.start().position.index, raft.durable_index());
                start <= last && durable >= last && raft.term_at(last) == term
            })
    }

    /// What the log of each replica of a node holds; `None` when one is not as it should be.
    fn heads(&self, node: usize) -> Option<BTreeMap<GroupId, (HardState, Index)>> {
        let process = self.nodes[node].process.as_ref().filter(|process| !process.log_failed)?;
        let records = process.registry.records();
        let head = |(group, record): (&GroupId, &mraft::GroupRecord)| {
            let head = process.log.store().head(log_key(record))?;
            let is_sound = head.install.is_none() && head.condemned.is_none();
            is_sound.then_some((*group, (head.hard_state, head.last_index)))
        };
        records.iter().map(head).collect()
    }

    /// A replica heard what its leader remembers of it: whoever has less has lost it, and must take part in nothing any more (rule D9).
    pub(super) fn check_remembered(
        &self,
        node: usize,
        group: GroupId,
        message: &Heard,
    ) -> Result<(), Broken> {
        let Some(raft) = self.raft(node, group) else { return Ok(()) };
        let is_for =
            raft.id() == message.to && raft.leader() == Some(message.from) && raft.term() == message.term;
        if !is_for || raft.condemned().is_some() || raft.last_index() >= message.matched {
            return Ok(());
        }
        let how = format!(
            "{} of group {group} ends at {} and goes on, though its leader {} remembers {} of it",
            raft.id(),
            raft.last_index(),
            message.from,
            message.matched
        );
        Err(Broken::new(condemned::SILENT, how))
    }
}

/// What a leader says that it remembers of the receiver.
pub(super) struct Heard {
    from: ReplicaId,
    to: ReplicaId,
    term: Term,
    matched: Index,
}

impl Heard {
    /// That of a message, if it says so.
    pub(super) fn of(message: &Message) -> Option<Heard> {
        let matched = match message.body {
            Body::Append { matched, .. } | Body::Heartbeat { matched, .. } => matched,
            Body::Quiesce { last, .. } => last,
            _ => return None,
        };
        Some(Heard { from: message.from, to: message.to, term: message.term, matched })
    }
}
