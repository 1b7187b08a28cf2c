// SPDX-License-Identifier: Apache-2.0

//! Connections: two processes talk once each has judged the other's hello and remembers durably what it brought (rules M6, M7).

use mraft::core::Input;
use mraft_disk::memory::Faults;
use mraft_engine::event::Event;
use mraft_types::{CondemnedReason, GroupId};
use mraft_wire::{Hello, HelloRefused, Purpose, TopologyStamp, check};

use super::World;
use crate::check::{Broken, promise};
use crate::node::Node;

/// Who was refused tries again after so long.
const REFUSED_US: u64 = 200_000;

/// What two nodes have come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Which processes.
    boots: (u64, u64),
    /// Until when they were refused; 0 for those that talk.
    refused_until_us: u64,
}

impl World {
    /// Whether two nodes talk; they try to, if they have not yet.
    pub(super) fn are_linked(&mut self, from: usize, to: usize) -> Result<bool, Broken> {
        let boots = (self.nodes[from.min(to)].boot, self.nodes[from.max(to)].boot);
        let pair = (from.min(to), from.max(to));
        match self.links.get(&pair) {
            Some(link) if link.boots == boots && link.refused_until_us == 0 => return Ok(true),
            Some(link) if link.boots == boots && link.refused_until_us > self.now_us => return Ok(false),
            _ => {}
        }
        let is_up = |node: &usize| {
            let own = &self.nodes[*node];
            own.process.is_some() && own.frozen_until_us <= self.now_us
        };
        let are_up = [from, to].iter().all(is_up);
        if !are_up || !self.network.connected(self.ids[from], self.ids[to]) {
            return Ok(false);
        }
        let result = self.shake_hands(from, to)?;
        let Some(refused) = result else { return Ok(false) };
        let refused_until_us = if refused { self.now_us + REFUSED_US } else { 0 };
        self.links.insert(pair, Link { boots, refused_until_us });
        Ok(!refused)
    }

    /// Forgets who was refused: an operator changed what hellos are judged by.
    pub(super) fn forget_refusals(&mut self) {
        self.links.retain(|_, link| link.refused_until_us == 0);
    }

    /// The dialler's hello, the answer, the dialler's judgement. Whether somebody refused; `None` when a process died over it.
    fn shake_hands(&mut self, dialler: usize, dialled: usize) -> Result<Option<bool>, Broken> {
        let hello = |world: &World, from: usize, to: usize| -> Option<Hello> {
            let process = world.nodes[from].process.as_ref()?;
            let (table, durable_seq) = (process.table.as_ref()?, process.log.store().durable_seq());
            let topology = TopologyStamp::default();
            Some(table.hello(&process.identity, world.ids[to], Purpose::Messages, durable_seq, topology))
        };
        let (Some(first), Some(second)) = (hello(self, dialler, dialled), hello(self, dialled, dialler))
        else {
            return Ok(None);
        };
        for (judge, ours, theirs, dialed) in
            [(dialled, &second, &first, None), (dialler, &first, &second, Some(self.ids[dialled]))]
        {
            let verdict = self.judge(judge, ours, theirs, dialed);
            if self.dies(judge) {
                return Ok(None);
            }
            if let Err(refused) = verdict {
                let other = if judge == dialled { dialler } else { dialled };
                self.refused(other, judge, &refused)?;
                return Ok(Some(true));
            }
        }
        for (node, by) in [(dialler, dialled), (dialled, dialler)] {
            let remembers = self.nodes[by].process.as_ref().map(|process| &process.identity.instance);
            if remembers.is_some_and(|instance| self.nodes[node].is_old_for.get(&by) == Some(instance))
                && !self.nodes[by].is_hurt
            {
                let how =
                    format!("node {} takes an old copy of node {} for it", self.ids[by], self.ids[node]);
                return Err(Broken::new(promise::OLD_COPIES_REFUSED, how));
            }
        }
        Ok(Some(false))
    }

    /// Another process starts on a copy of a node's directory, under its id, while the node goes on (rules M6, M7). An old copy is refused
    /// by everybody. A copy of the directory as it is now lacks nothing, and is taken for the node that was started again; then it is the
    /// node itself that lacks a start which its peers know of, and must take part in nothing any more. The second process says hello to
    /// everybody and ends.
    pub(super) fn start_twin(&mut self) -> Result<bool, Broken> {
        let node = self.random.disks.index(self.nodes.len());
        let is_used =
            !self.nodes[node].is_gone && !self.nodes[node].is_hurt && self.nodes[node].process.is_some();
        if !is_used || self.nodes[node].faulty.any() {
            return Ok(false);
        }
        let is_old = self.random.disks.per_mille(500);
        let starts = self.nodes[node].process.as_ref().map_or(0, |process| process.identity.boot_counter);
        let copy = match &self.nodes[node].copy {
            Some((boot, copy)) if is_old => Some(copy.fork()).filter(|_| *boot < starts),
            _ if is_old => None,
            _ => Some(self.nodes[node].disk.fork()),
        };
        let Some(copy) = copy.filter(|_| self.is_remembered(node, starts)) else { return Ok(false) };
        if !is_old && !self.may_lose(node) {
            return Ok(false);
        }
        copy.kill();
        copy.set_faults(Faults::default());
        let mut twin =
            Node { disk: copy, boot: self.nodes[node].boot, is_hurt: true, ..Node::new(self.ids[node]) };
        let salt = self.random.time.draw();
        if twin.start(&self.mix.own[node], &self.mix, salt, self.now_us).is_err() {
            return Ok(false);
        }
        self.say(|| {
            let age = if is_old { "an old copy" } else { "a copy" };
            format!("another process starts on {age} of the directory of node {}", self.ids[node])
        });
        std::mem::swap(&mut self.nodes[node], &mut twin);
        let accepted = self.twin_says_hello(node);
        std::mem::swap(&mut self.nodes[node], &mut twin);
        let accepted = accepted?;
        if let Some(by) = accepted.first().filter(|_| is_old) {
            let how = format!("node {} takes an old copy of node {} for it", self.ids[*by], self.ids[node]);
            return Err(Broken::new(promise::OLD_COPIES_REFUSED, how));
        }
        for by in &accepted {
            self.links.remove(&(node.min(*by), node.max(*by)));
        }
        self.nodes[node].is_hurt = !accepted.is_empty();
        Ok(true)
    }

    /// Those that talk to the second process, which has the node's place meanwhile.
    fn twin_says_hello(&mut self, node: usize) -> Result<Vec<usize>, Broken> {
        let mut accepted = Vec::new();
        for at in (0..self.nodes.len()).filter(|at| *at != node) {
            let is_there = self.nodes[at].process.is_some() && self.nodes[at].frozen_until_us <= self.now_us;
            if is_there
                && self.network.connected(self.ids[node], self.ids[at])
                && self.shake_hands(node, at)? == Some(false)
            {
                accepted.push(at);
            }
        }
        Ok(accepted)
    }

    fn judge(
        &mut self,
        node: usize,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<mraft_types::NodeId>,
    ) -> Result<(), HelloRefused> {
        let nobody = HelloRefused::Conflicting { node: theirs.node };
        let Some(table) = self.nodes[node].process.as_ref().and_then(|process| process.table.as_ref()) else {
            return Err(nobody);
        };
        let accepted = check(ours, theirs, &table.expected(theirs.node, dialed))?;
        // Without the row on disk the connection must not be used (rule M6).
        table.accept(theirs.node, theirs.record(), &accepted).map_err(|_| nobody)
    }

    /// One node refuses what the other one said; that one hears it.
    fn refused(&mut self, node: usize, by: usize, reason: &HelloRefused) -> Result<(), Broken> {
        self.say(|| format!("node {} refuses node {}: {reason}", self.ids[by], self.ids[node]));
        self.report.hellos_refused += 1;
        self.marks.see(reason);
        let named = match reason {
            HelloRefused::Instance { node, .. }
            | HelloRefused::Forked { node, .. }
            | HelloRefused::OldCopy { node, .. } => self.place_of(*node),
            _ => None,
        };
        if let Some(named) = named {
            // An old copy may also know an old directory of somebody else.
            if ![named, node, by].iter().any(|node| self.nodes[*node].is_hurt) {
                let how = format!(
                    "node {} is refused, and nothing ever happened to a directory: {reason}",
                    self.ids[named]
                );
                return Err(Broken::new(promise::ONLY_STRANGERS_REFUSED, how));
            }
            if self.nodes[named].is_hurt {
                self.nodes[named].outcast.get_or_insert_with(|| reason.to_string());
            }
        }
        // Both sides hear of it; the one that spoke sees the numbers the other way round. Who finds that it is an old copy of itself, be it
        // by what the other one remembers, ends its part.
        for (at, reason) in [(node, reason.clone().from_other_side()), (by, reason.clone())] {
            let Some(process) = self.nodes[at].process.as_mut() else { continue };
            if process.identity.lacks_what_was_done(&reason) {
                process.table.iter().for_each(|table| table.note_outdated());
                let groups: Vec<GroupId> = process.core.engine().group_ids().collect();
                for group in groups {
                    let event = Event::Condemn { reason: CondemnedReason::OldCopy };
                    process.core.handle(Input::Group(group, event));
                }
            }
        }
        self.pump(by)?;
        self.pump(node)
    }
}
