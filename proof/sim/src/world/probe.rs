// SPDX-License-Identifier: Apache-2.0

//! Which groups still owe a write, and how long they take: after everything has healed, and once more when, in the middle of the calm,
//! nodes are taken away from groups that lack nothing, of each no more than a minority (promise P7).

use std::collections::BTreeSet;

use mraft_types::GroupId;

use super::{Action, ELECTION_US, World};
use crate::check::{Broken, calm};
use crate::clients::Client;

/// So long after everything healed, when operators have put it right again, nodes are taken away.
pub(super) const PROBE_ELECTIONS: u64 = 20;
/// Within so many election timeouts after that each group takes a write.
pub(super) const GAP_ELECTIONS: u64 = 3;
/// With fewer clients nobody asks when a group could answer: others come then.
const CLIENTS_PER_GROUP: u64 = 2;
/// They are away for so long.
pub(super) const AWAY_ELECTIONS: u64 = 6;
/// A voter that lacks more entries than this is being caught up: its group lacks something.
const LAG_ENTRIES_MAX: u64 = 20;

/// Groups that are to take a write.
#[derive(Clone, Debug, Default)]
pub(super) struct Owed {
    since_us: u64,
    groups: BTreeSet<GroupId>,
    /// The longest time that one took which has.
    longest_us: u64,
}

impl Owed {
    /// All of these, from now on.
    pub(super) fn since(now_us: u64, groups: u64) -> Owed {
        Owed { since_us: now_us, groups: (0..groups).map(GroupId).collect(), longest_us: 0 }
    }

    /// A write was acknowledged that was asked for at this time.
    pub(super) fn wrote(&mut self, group: GroupId, asked_us: u64, now_us: u64) {
        if asked_us >= self.since_us && self.groups.remove(&group) {
            self.longest_us = self.longest_us.max(now_us - self.since_us);
        }
    }

    /// Whether all of them have.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// One that owes a write, by a number.
    pub(super) fn pick(&self, number: usize) -> Option<GroupId> {
        self.groups.iter().nth(number % self.groups.len().max(1)).copied()
    }
}

impl World {
    /// When it is time for the probe.
    pub(super) fn plan_probe(&mut self) {
        self.after(PROBE_ELECTIONS * ELECTION_US, Action::Probe);
    }

    /// Takes nodes away from groups that lack nothing.
    pub(super) fn probe(&mut self) {
        if !(0..self.mix.groups).all(|group| self.is_whole(GroupId(group))) {
            self.report.probes_skipped += 1;
            return;
        }
        self.owed = Owed::since(self.now_us, self.mix.groups);
        for node in self.draw_dispensable() {
            self.nodes[node].away_until_us = self.now_us + AWAY_ELECTIONS * ELECTION_US;
            self.crash(node, false);
        }
        self.report.probes += 1;
        self.after(AWAY_ELECTIONS * ELECTION_US, Action::Probed);
        let clients = (CLIENTS_PER_GROUP * self.mix.groups) as usize;
        for client in self.clients.len()..clients {
            self.clients.push(Client::default());
            self.after(1, Action::Client(client));
        }
    }

    /// Whether a client came for the probe alone, and no group owes anything any more.
    pub(super) fn has_gone(&self, client: usize) -> bool {
        client as u64 >= self.mix.clients && self.owed.is_empty()
    }

    /// What became of it.
    pub(super) fn probed(&mut self) -> Result<(), Broken> {
        if let Some(group) = self.owed.pick(0) {
            let how = format!(
                "group {group} took no write for {AWAY_ELECTIONS} election timeouts after a minority was gone"
            );
            return Err(Broken::new(calm::SHORT_GAP, how));
        }
        self.report.gap_us = self.owed.longest_us;
        calm::short_gap(self.owed.longest_us, self.slowest_election_us(), GAP_ELECTIONS)
    }

    /// An election timeout by the slowest clock.
    fn slowest_election_us(&self) -> u64 {
        let tick_us = self.mix.own.iter().map(|own| own.tick_us).max().unwrap_or_default();
        tick_us * ELECTION_US / crate::mix::TICK_US
    }

    /// Whether a group has all its members, all of them up to date, and a leader.
    pub(super) fn is_whole(&self, group: GroupId) -> bool {
        let Some((leader, membership, _)) = self.serving_leader(group) else { return false };
        let raft_of = |at: usize| self.nodes[at].process.as_ref()?.core.engine().raft(group);
        let Some(commit) = raft_of(leader).map(|raft| raft.commit()) else { return false };
        membership.counting().count() == self.mix.replicas
            && membership.members.keys().all(|id| {
                let raft = self.place_of(id.node()).and_then(raft_of);
                raft.is_some_and(|raft| raft.id() == *id && raft.last_index() + LAG_ENTRIES_MAX >= commit)
            })
    }
}
