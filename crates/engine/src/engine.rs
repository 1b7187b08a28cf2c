// SPDX-License-Identifier: Apache-2.0

//! All groups of one step worker, and their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use mraft_raft::Raft;
use mraft_types::{GroupId, GroupUid, Index, NodeId};

use crate::config::Limits;
use crate::effect::{Answer, Effect, GroupEffect, Notice};
use crate::error::NotApplied;
use crate::event::{Event, NodeEvent, Now};
use crate::group::{Group, Surroundings};
use crate::lives::Lives;
use crate::log_time::PeerClocks;
use crate::requests::Answers;

/// Groups of one step worker that may campaign in one tick because of one suspected node (rule T5): a node that led thousands must not
/// make every other one write and send for all of them at once.
pub const SUSPECTED_PER_TICK_MAX: u32 = 256;

/// Many groups.
///
/// Events are handled as they come (`handle_*`); [`Engine::turn`] then lets every touched group propose what waits and hands
/// out what is to be done. Invariants: a group that was not touched since the last turn costs nothing in this one; a panic
/// inside a group ends that group only, and its state is discarded (rule T4).
#[derive(Debug)]
pub struct Engine {
    node: NodeId,
    limits: Limits,
    now: Now,
    clocks: PeerClocks,
    lives: Lives,
    epoch: u64,
    groups: BTreeMap<GroupId, Group>,
    touched: BTreeSet<GroupId>,
    /// Groups with reads that are confirmed and wait for their state machine.
    waiting: BTreeSet<GroupId>,
    /// What was decided while events were handled, until the next turn hands it out.
    decided: Vec<GroupEffect>,
    /// Bytes of proposals and entries in memory, over all groups, as of each group's last turn (rule T2).
    held_bytes: usize,
    scratch: Vec<Effect>,
}

impl Engine {
    /// An engine without groups.
    pub fn new(node: NodeId, limits: Limits) -> Engine {
        Engine {
            node,
            limits,
            now: Now::default(),
            clocks: PeerClocks::default(),
            lives: Lives::default(),
            epoch: 0,
            groups: BTreeMap::new(),
            touched: BTreeSet::new(),
            waiting: BTreeSet::new(),
            decided: Vec::new(),
            held_bytes: 0,
            scratch: Vec::new(),
        }
    }

    /// Takes a group in; `false` when it is here already.
    pub fn add_group(&mut self, id: GroupId, uid: GroupUid, raft: Raft, feature_level: u32) -> bool {
        if self.groups.contains_key(&id) {
            return false;
        }
        let mut group = Group::new(uid, raft, feature_level);
        group.hear_lives(&self.lives);
        self.groups.insert(id, group);
        self.touched.insert(id);
        true
    }

    /// Lets a group go: its requests are answered in the next turn, its state is dropped.
    pub fn remove_group(&mut self, id: GroupId, reason: &NotApplied) -> bool {
        let Some(mut group) = self.groups.remove(&id) else { return false };
        self.epoch += 1;
        self.touched.remove(&id);
        self.waiting.remove(&id);
        self.held_bytes = self.held_bytes.saturating_sub(group.held_bytes);
        let mut answers = Answers::new();
        group.requests.stop(reason, &mut answers);
        self.decided.extend(answers.into_iter().map(|(ticket, answer)| (id, Effect::Answer(ticket, answer))));
        true
    }

    /// The time from here on.
    pub fn set_now(&mut self, now: Now) {
        self.now = now;
    }

    /// Takes in what happened to one group.
    pub fn handle_event(&mut self, id: GroupId, event: Event) {
        if !self.groups.contains_key(&id) {
            self.refuse(id, event);
            return;
        }
        self.touched.insert(id);
        self.guarded(id, |group, around, out| group.handle_event(around, event, out));
    }

    /// Takes in what happened to the node.
    pub fn handle_node_event(&mut self, event: NodeEvent) {
        match event {
            NodeEvent::PeerClock { node, unix_ms } => {
                self.clocks.heard(self.now, node, unix_ms);
                return;
            }
            NodeEvent::PeerLost { node } => self.clocks.forget(node),
            NodeEvent::PeerLife { node, life } => {
                if let Some(after_ticks) = self.lives.heard(self.now.tick, node, life) {
                    self.each_group(|group, _, _| group.hear_life(node, Some(life), after_ticks));
                }
                return;
            }
            NodeEvent::Tick { .. } => {
                let for_ticks = self.silent_after_ticks();
                for node in self.lives.fall_silent(self.now.tick, for_ticks) {
                    self.each_group(|group, _, _| group.hear_life(node, None, for_ticks));
                }
            }
            NodeEvent::NodeSuspected { .. } => {}
        }
        self.tell_all(event);
    }

    /// Who says nothing of its life for so long is silent: an election timeout, the shortest of all groups.
    fn silent_after_ticks(&self) -> u32 {
        if self.lives.is_empty() {
            return u32::MAX;
        }
        self.groups.values().map(|group| group.raft.config().election_ticks).min().unwrap_or(u32::MAX)
    }

    fn tell_all(&mut self, event: NodeEvent) {
        let mut suspected = 0;
        self.each_group(|group, around, answers| {
            // Voters of one group count alike, as far as they have the same groups: the turns of the group's voters stay apart.
            let wave = suspected / SUSPECTED_PER_TICK_MAX;
            if let NodeEvent::NodeSuspected { node } = event {
                suspected += u32::from(group.raft.leader().is_some_and(|leader| leader.node() == node));
            }
            group.handle_node_event(around, event, wave, answers);
        });
    }

    fn each_group(&mut self, mut tell: impl FnMut(&mut Group, &Surroundings<'_>, &mut Answers)) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            self.touched.insert(id);
            self.guarded(id, |group, around, out| {
                let mut answers = Answers::new();
                tell(group, around, &mut answers);
                out.extend(answers.into_iter().map(|(ticket, answer)| Effect::Answer(ticket, answer)));
            });
        }
    }

    /// Hands out everything that is to be done now, in the order in which it must be done.
    pub fn turn(&mut self, out: &mut Vec<GroupEffect>) {
        for id in std::mem::take(&mut self.touched) {
            self.guarded(id, |group, around, out| group.turn(around, out));
            if let Some(group) = self.groups.get_mut(&id) {
                self.epoch += std::mem::take(&mut group.epochs);
            }
            self.weigh(id);
            match self.groups.get(&id).is_some_and(|group| group.requests.waits_for_apply()) {
                true => _ = self.waiting.insert(id),
                false => _ = self.waiting.remove(&id),
            }
        }
        out.append(&mut self.decided);
    }

    /// Grows whenever a replica here stops leading, is condemned, ends, or commits a membership as leader: part of what the node says of
    /// its life (rule Q2).
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Bytes of proposals and entries in memory, over all groups.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether a turn would do anything.
    pub fn is_idle(&self) -> bool {
        self.touched.is_empty() && self.decided.is_empty()
    }

    /// Whether some read waits for nothing but a state machine.
    pub fn waits_for_apply(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The core of a group, for status and tests.
    pub fn raft(&self, id: GroupId) -> Option<&Raft> {
        self.groups.get(&id).map(|group| &group.raft)
    }

    /// Up to which entry all voters of a group are known to have the same state, and at which checkpoint they were found to differ
    /// without a majority, since this replica leads (rule E8).
    pub fn compared(&self, id: GroupId) -> Option<(Index, Option<Index>)> {
        self.groups.get(&id).map(|group| (group.comparison.agreed(), group.comparison.disputed()))
    }

    /// What a group's state machine has published.
    pub fn applied(&self, id: GroupId) -> Option<Index> {
        self.groups.get(&id).map(Group::applied)
    }

    /// The founding of a group.
    pub fn uid(&self, id: GroupId) -> Option<GroupUid> {
        self.groups.get(&id).map(|group| group.uid)
    }

    /// Bytes and count of proposals that wait for their turn.
    pub fn pending(&self, id: GroupId) -> Option<(usize, usize)> {
        self.groups.get(&id).map(|group| (group.requests.pending_bytes, group.requests.pending.len()))
    }

    /// The groups here, in order.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.groups.keys().copied()
    }

    /// Keeps the account of what a group holds in memory, and has all groups let go of what they can when that is too much.
    fn weigh(&mut self, id: GroupId) {
        let was_pressed = self.is_pressed();
        let Some(group) = self.groups.get_mut(&id) else { return };
        if was_pressed {
            group.raft.shed();
        }
        self.held_bytes = self.held_bytes.saturating_sub(group.held_bytes);
        group.held_bytes = group.weight();
        self.held_bytes += group.held_bytes;
        if self.is_pressed() && !was_pressed {
            for group in self.groups.values_mut() {
                group.raft.shed();
                self.held_bytes = self.held_bytes.saturating_sub(group.held_bytes);
                group.held_bytes = group.weight();
                self.held_bytes += group.held_bytes;
            }
        }
    }

    fn is_pressed(&self) -> bool {
        self.held_bytes > self.limits.held_bytes_max
    }

    /// Runs a part of one group's turn; a panic in it costs the node this group and nothing else.
    fn guarded(&mut self, id: GroupId, part: impl FnOnce(&mut Group, &Surroundings<'_>, &mut Vec<Effect>)) {
        let is_pressed = self.is_pressed();
        let Some(group) = self.groups.get_mut(&id) else { return };
        let around = Surroundings {
            now: self.now,
            node: self.node,
            limits: &self.limits,
            clocks: &self.clocks,
            lives: &self.lives,
            is_pressed,
        };
        let scratch = &mut self.scratch;
        match catch_unwind(AssertUnwindSafe(|| part(group, &around, scratch))) {
            Ok(()) => self.decided.extend(scratch.drain(..).map(|effect| (id, effect))),
            Err(panic) => {
                self.scratch.clear();
                let message = panic_message(panic.as_ref());
                // Only the tickets are looked at once more; the core's state is never used again.
                if let Some(mut group) = self.groups.remove(&id) {
                    self.epoch += 1;
                    self.held_bytes = self.held_bytes.saturating_sub(group.held_bytes);
                    let mut answers = Answers::new();
                    group.requests.stop(&NotApplied::Stopping, &mut answers);
                    self.decided.extend(
                        answers.into_iter().map(|(ticket, answer)| (id, Effect::Answer(ticket, answer))),
                    );
                }
                self.decided.push((id, Effect::Notice(Notice::Panicked { message })));
            }
        }
    }

    fn refuse(&mut self, id: GroupId, event: Event) {
        let answer = Answer::NotApplied(NotApplied::NoSuchGroup);
        let answers = event.into_tickets().into_iter().map(|ticket| (ticket, answer.clone()));
        self.decided.extend(answers.map(|(ticket, answer)| (id, Effect::Answer(ticket, answer))));
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests;
