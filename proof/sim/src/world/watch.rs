// SPDX-License-Identifier: Apache-2.0

//! What is looked at all the time, whatever happens: each replica after each turn of its node, leaders and sleepers at each tick.

use mraft_types::codec::Writer;
use mraft_types::{GroupId, ReplicaId};

use super::turns::BEAT_TICKS;
use super::{TICK_US, World};
use crate::check::{Broken, promise};
use crate::machine::{Stored, decode_stored};
use crate::node::ELECTION_TICKS;

/// What sleeps behind a leader that is gone hears another life of its node, or nothing for an election timeout. The rest is delay.
const SLEEP_US_MAX: u64 = (ELECTION_TICKS as u64 + BEAT_TICKS) * TICK_US + 20_000;

impl World {
    /// After a turn of a node: what is true of a replica between any two steps, and one leader per term.
    pub(super) fn check_groups(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        for group in process.core.engine().group_ids() {
            let Some(raft) = process.core.engine().raft(group) else { continue };
            let at = || format!("group {group} on node {}", self.ids[node]);
            raft.check()
                .map_err(|how| Broken { promise: promise::INVARIANTS, how: format!("{}: {how}", at()) })?;
            if let Some(reason) = raft.condemned() {
                return Err(Broken { promise: promise::NOT_CONDEMNED, how: format!("{}: {reason}", at()) });
            }
            if raft.is_leader() {
                self.checks.leads(group, raft.term(), raft.id())?;
            }
        }
        Ok(())
    }

    /// At a tick: whoever may serve holds all that was acknowledged.
    pub(super) fn check_leaders(&self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        let engine = process.core.engine();
        let may_serve = |group: GroupId| {
            let is_newest = |term| self.checks.newest_term(group) == Some(term);
            let applied = engine.applied(group);
            engine.raft(group).is_some_and(|raft| {
                raft.has_committed_in_term() && is_newest(raft.term()) && applied == Some(raft.commit())
            })
        };
        for (group, key) in self.checks.keys().into_iter().filter(|(group, _)| may_serve(*group)) {
            if let Some(stored) = self.stored(node, group, key) {
                self.checks.survives(group, key, self.ids[node], stored)?;
            }
        }
        Ok(())
    }

    /// At a tick: nobody sleeps on behind a leader that is gone (rule Q2).
    pub(super) fn check_sleepers(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        let engine = process.core.engine();
        for group in (0..self.mix.groups).map(GroupId) {
            let leader = engine.raft(group).filter(|raft| raft.is_asleep()).and_then(|raft| raft.leader());
            if leader.is_none_or(|leader| self.leads(leader, group)) {
                self.forsaken.remove(&(node, group));
                continue;
            }
            let since_us = *self.forsaken.entry((node, group)).or_insert(self.now_us);
            if self.now_us - since_us > SLEEP_US_MAX {
                return Err(Broken {
                    promise: promise::SLEEPERS_WAKE,
                    how: format!("group {group} on node {} sleeps behind {leader:?}", self.ids[node]),
                });
            }
        }
        Ok(())
    }

    /// What a node's state machine holds; `None` where there is none.
    pub(super) fn stored(&self, node: usize, group: GroupId, key: u64) -> Option<Stored> {
        let lookup = self.nodes[node].process.as_ref()?.lookups.get(&group)?;
        let (mut query, mut found) = (Vec::new(), Vec::new());
        query.put_u64(key);
        let stored = lookup.query(&query, &mut found).ok().and_then(|()| decode_stored(&found));
        Some(stored.unwrap_or_default())
    }

    fn leads(&self, replica: ReplicaId, group: GroupId) -> bool {
        let at = self.ids.iter().position(|id| *id == replica.node());
        let process = at.and_then(|at| self.nodes[at].process.as_ref());
        let raft = process.and_then(|process| process.core.engine().raft(group));
        raft.is_some_and(|raft| raft.is_leader())
    }
}
