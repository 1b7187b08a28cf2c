// SPDX-License-Identifier: Apache-2.0

//! What is looked at all the time, whatever happens: each replica after each turn of its node, leaders and sleepers at each tick.

use mraft::core::Output;
use mraft::persist::LogJob;
use mraft_logstore::{GroupWrite, LogKey};
use mraft_raft::{Body, Raft};
use mraft_types::{GroupId, HardState, ReplicaId};

use super::World;
use super::turns::BEAT_TICKS;
use crate::check::{Broken, Checks, bounds, condemned, durable, promise};
use crate::node::{ELECTION_TICKS, Node};

/// What sleeps behind a leader that is gone hears another life of its node, or nothing for an election timeout. The rest is delay.
const SLEEP_TICKS_MAX: u64 = ELECTION_TICKS as u64 + BEAT_TICKS + 2;

impl World {
    /// After a turn of a node: who leads and who was condemned.
    pub(super) fn check_groups(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        let engine = process.core.engine();
        for group in engine.group_ids() {
            let Some(raft) = engine.raft(group) else { continue };
            let is_given_up = self.checks.is_given_up(group, raft);
            let is_damaged =
                self.nodes[node].is_hurt || self.atlas.is_damaged(group, raft.id()) || is_given_up;
            if let Some(reason) = raft.condemned().filter(|_| !is_damaged) {
                let how = format!("group {group} on node {}: {reason}", self.ids[node]);
                return Err(Broken::new(condemned::ONLY_WITH_CAUSE, how));
            }
            if !raft.is_leader() || is_given_up {
                continue;
            }
            if self.checks.losses.is_open(group) && raft.has_committed_in_term() {
                let from = self.checks.goes_on(group, raft);
                // Who asked before could not know.
                let asked = self.clients.iter_mut().filter_map(|client| client.asked.as_mut());
                for asked in asked.filter(|asked| asked.group == group) {
                    asked.floor = asked.floor.min(from);
                }
            }
            self.checks.leaders.commits(group, raft)?;
            if self.checks.elections.leader(group, raft.term()) == Some(raft.id()) {
                continue;
            }
            // A voter without other voters leads as soon as it wants to. Until its log has that vote for itself it says nothing as a
            // leader and commits nothing, and without that vote it never led.
            let key = engine.uid(group).map(|uid| LogKey { group, uid, replica: raft.id() });
            let durable = key.and_then(|key| process.log.store().head(key)).map(|head| head.hard_state);
            let is_durable = durable.is_some_and(|state| state.term == raft.term());
            if is_durable && self.checks.elections.leads(group, raft.term(), raft.id())? {
                new_leader(&self.checks, &self.nodes, group, raft)?;
            }
        }
        Ok(())
    }

    /// At a tick: what is true of a replica between any two steps; whoever may serve holds all that was acknowledged.
    pub(super) fn check_replicas(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        bounds::queue("jobs for a log", process.log_jobs.len(), bounds::LOG_JOBS_MAX)?;
        bounds::queue("orders for state machines", process.mail.len(), bounds::MAIL_MAX)?;
        let engine = process.core.engine();
        for group in engine.group_ids() {
            let Some(raft) = engine.raft(group) else { continue };
            raft.check().map_err(|how| {
                Broken::new(promise::INVARIANTS, format!("group {group} on node {}: {how}", self.ids[node]))
            })?;
            bounds::replica(group, raft)?;
            if self.checks.is_outside(group, raft) {
                continue;
            }
            self.checks.leaders.commits(group, raft)?;
            let is_newest = self.checks.elections.newest_term(group) == Some(raft.term());
            if raft.has_committed_in_term() && is_newest && engine.applied(group) == Some(raft.commit()) {
                self.checks.leader_holds(group, self.ids[node], raft.commit())?;
            }
        }
        Ok(())
    }

    /// What a turn says, and what it wants written.
    pub(super) fn check_spoken(&mut self, node: usize, output: &Output) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        let engine = process.core.engine();
        for envelope in output.messages.values().flatten() {
            let (group, message) = (envelope.group, &envelope.message);
            let raft = engine.raft(group);
            if let Some(raft) = raft {
                condemned::says(group, raft, message)?;
            }
            if matches!(message.body, Body::Append { .. } | Body::Heartbeat { .. } | Body::Quiesce { .. })
                && self.checks.elections.leads(group, message.term, message.from)?
                && let Some(raft) = raft.filter(|raft| raft.is_leader() && raft.term() == message.term)
            {
                new_leader(&self.checks, &self.nodes, group, raft)?;
            }
            match &message.body {
                Body::Append { prev, entries, .. } => {
                    self.checks.logs.holds(group, Some(prev.term), entries)?;
                }
                Body::VoteReply { granted: true } => {
                    self.checks.elections.votes(group, message.term, message.from, message.to)?;
                }
                Body::Vote { .. } => {
                    self.checks.elections.votes(group, message.term, message.from, message.from)?;
                }
                _ => {}
            }
            if durable::is_counted(&message.body) {
                let key = LogKey { group, uid: envelope.uid, replica: message.from };
                self.checks.durable.says(group, message, process.log.store().head(key).as_ref())?;
            }
        }
        for job in &output.log {
            let LogJob::Write { write, .. } = job else { continue };
            self.say(|| told(write));
            let Some(first) = write.entries.first() else { continue };
            let raft = engine.raft(write.key.group);
            if raft.is_none_or(|raft| raft.is_leader()) {
                // What a leader takes is its own until it leaves: if its power goes before the term is durable, it never was.
                continue;
            }
            let before = raft.and_then(|raft| raft.term_at(first.index - 1));
            self.checks.logs.holds(write.key.group, before, &write.entries)?;
        }
        Ok(())
    }

    /// What the state machines of a node applied since the last time.
    pub(super) fn check_applied(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        for (group, applied) in &process.applied {
            let raft = process.core.engine().raft(*group);
            if raft.is_some_and(|raft| self.checks.is_outside(*group, raft)) {
                applied.take();
                continue;
            }
            for (index, commands) in applied.take() {
                self.checks.applied_entry(*group, self.ids[node], index, commands)?;
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
            // Who stood still heard nothing.
            let since_us = *self.forsaken.entry((node, group)).or_insert(self.now_us);
            let since_us = since_us.max(self.nodes[node].frozen_until_us);
            if self.now_us - since_us > SLEEP_TICKS_MAX * self.mix.own[node].tick_us {
                let how = format!("group {group} on node {} sleeps behind {leader:?}", self.ids[node]);
                return Err(Broken::new(promise::SLEEPERS_WAKE, how));
            }
        }
        Ok(())
    }

    /// At a tick: whoever sleeps behind a leader here has all that it has (rule Q1). Who comes back with less because a loss was accepted has
    /// another life, which the leader is about to hear of.
    pub(super) fn check_sleeping_leaders(&self, node: usize) -> Result<(), Broken> {
        for group in (0..self.mix.groups).map(GroupId) {
            let asleep = self.raft(node, group).filter(|raft| raft.is_leader() && raft.is_asleep());
            let Some(leader) = asleep.filter(|_| !self.checks.losses.is_open(group)) else { continue };
            for member in leader.membership().members.keys().filter(|id| **id != leader.id()) {
                let Some(at) = self.place_of(member.node()).filter(|at| !self.nodes[*at].is_hurt) else {
                    continue;
                };
                let Some(raft) = self.raft(at, group).filter(|raft| raft.id() == *member) else { continue };
                if raft.last_index() < leader.last_index() && !self.atlas.is_damaged(group, *member) {
                    let (has, all) = (raft.last_index(), leader.last_index());
                    let how = format!(
                        "{} of group {group} sleeps with {all} entries, {member} has {has}",
                        leader.id()
                    );
                    return Err(Broken::new(promise::ASLEEP_TOGETHER, how));
                }
            }
        }
        Ok(())
    }

    fn leads(&self, replica: ReplicaId, group: GroupId) -> bool {
        let at = self.place_of(replica.node());
        at.and_then(|at| self.raft(at, group)).is_some_and(|raft| raft.is_leader())
    }

    pub(super) fn raft(&self, node: usize, group: GroupId) -> Option<&Raft> {
        self.nodes[node].process.as_ref()?.core.engine().raft(group)
    }
}

/// A replica leads, which is news: it has everything that was committed or, where a majority lost it, what is left.
fn new_leader(checks: &Checks, nodes: &[Node], group: GroupId, leader: &Raft) -> Result<(), Broken> {
    if !checks.losses.is_open(group) {
        return checks.leaders.leads(group, leader);
    }
    let is_taking_part = |raft: &&Raft| {
        let is_voter = leader.membership().counting().any(|id| id == raft.id());
        is_voter && raft.condemned().is_none() && !checks.is_given_up(group, raft)
    };
    let rafts = nodes.iter().filter_map(|node| node.process.as_ref()?.core.engine().raft(group));
    let voters: Vec<&Raft> = rafts.filter(is_taking_part).collect();
    checks.leads_on(group, leader, &voters, leader.membership().counting().count())
}

/// What a replica has its log hold, for the transcript.
fn told(write: &GroupWrite) -> String {
    let HardState { term, vote, commit } = write.hard_state;
    let vote = vote.map_or_else(|| "nobody".to_owned(), |vote| vote.to_string());
    let entries: Vec<String> =
        write.entries.iter().map(|entry| format!("{}@{}", entry.index, entry.term)).collect();
    let (group, replica) = (write.key.group, write.key.replica);
    format!(
        "group {group}: {replica} writes term {term}, vote for {vote}, commit {commit}, [{}]",
        entries.join(" ")
    )
}
