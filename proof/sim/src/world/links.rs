// SPDX-License-Identifier: Apache-2.0

//! Connections: two processes talk once each has judged the other's hello and remembers durably what it brought (rules M6, M7).

use mraft::core::Input;
use mraft_engine::event::Event;
use mraft_types::{CondemnedReason, GroupId};
use mraft_wire::{Hello, HelloRefused, Purpose, TopologyStamp, check};

use super::World;
use crate::check::{Broken, promise};

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
        Ok(Some(false))
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
        let named = match reason {
            HelloRefused::Instance { node, .. }
            | HelloRefused::Clone { node, .. }
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
        // The one that speaks sees the numbers of both sides the other way round.
        let reason = reason.clone().from_other_side();
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        if process.identity.is_old_copy(&reason) {
            let groups: Vec<GroupId> = process.core.engine().group_ids().collect();
            for group in groups {
                let event = Event::Condemn { reason: CondemnedReason::OldCopy };
                process.core.handle(Input::Group(group, event));
            }
        }
        self.pump(node)
    }
}
