// SPDX-License-Identifier: Apache-2.0

//! What a small world is made of, and how it is bounded.

use std::fmt;

use mraft_raft::Config;
use mraft_types::{LogPosition, LogStart, Member, Membership, MembershipChange, NodeId, ReplicaId, Role};

use crate::replica::ELECTION_TICKS;
use crate::step::Hosting;

/// A small world.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub says: &'static str,
    /// Original members: nodes from 1 on.
    pub roles: &'static [Role],
    /// Replicas beyond them, which wait for their first snapshot.
    pub joiners: usize,
    /// How hosts work.
    pub hosting: Hosting,
    /// Whether leaders that hear no quorum step down.
    pub check_quorum: bool,
    /// Whether an append carries one entry at most.
    pub small_appends: bool,
    /// Whether snapshots never arrive.
    pub loses_snapshots: bool,
    /// Whether states that differ only in names are explored once.
    pub renames: bool,
    /// How replicas ask whether they could win.
    pub elections: Elections,
    /// Most parcels on their way; whatever is more is lost.
    pub in_flight_max: usize,
    /// No replica goes beyond this term; the genesis is of term 1.
    pub term_max: u8,
    /// How often what may happen.
    pub left: Left,
    /// The changes that operators may ask for.
    pub changes: &'static [Change],
    /// What happened before.
    pub before: &'static [Before],
}

/// How replicas ask whether they could win an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elections {
    /// Pre-votes are messages like all others.
    Asked,
    /// A bare majority answers at once, having lost patience with its leader if that is needed; nobody else hears the question.
    AtOnce,
}

/// How often something may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    /// Commands.
    pub proposals: u8,
    /// Power cuts.
    pub crashes: u8,
    /// Heartbeats.
    pub beats: u8,
    /// Linearizable reads.
    pub reads: u8,
    /// Membership changes.
    pub changes: u8,
    /// Leadership transfers.
    pub transfers: u8,
    /// Truncations of a log.
    pub truncations: u8,
    /// Snapshots that fail.
    pub failures: u8,
    /// Connections that break.
    pub losses: u8,
    /// Disks that are lost.
    pub disks: u8,
    /// Parcels that arrive once more.
    pub duplicates: u8,
}

/// A [`MembershipChange`] by the place of its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds this node as a learner.
    Add(u64),
    /// Makes this learner a voter.
    Promote(u64),
    /// Makes this voter a learner.
    Demote(u64),
    /// Removes this one.
    Remove(u64),
}

/// What happens in good weather before a world begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// This node is elected, and everybody hears of it.
    Leads(u64),
    /// It appends a command, which everybody gets.
    Proposes(u64),
    /// It sends heartbeats, which everybody answers.
    Beats(u64),
    /// It forgets its log but for so many entries.
    Truncates(u64, u64),
    /// Nothing reaches this node from now on.
    Cut(u64),
    /// This change is asked of this node, and happens.
    Changes(u64, usize),
    /// This node's disk is replaced by an empty one.
    IsWiped(u64),
    /// This node lost its log behind the genesis and knows it (rule D9).
    IsCondemned(u64),
}

fn node_of(node: u64) -> NodeId {
    NodeId::new(node).unwrap_or(const { NodeId::new(1).unwrap() })
}

impl World {
    /// How many replicas there are.
    pub fn replicas(&self) -> usize {
        self.roles.len() + self.joiners
    }

    /// Where every original member begins.
    pub fn genesis(&self) -> LogStart {
        let member = |(at, role): (usize, &Role)| {
            let id = self.id(at);
            (id, Member { role: *role, raft_address: address(id.node()) })
        };
        LogStart {
            position: LogPosition { index: 1, term: 1 },
            membership: Membership {
                change_index: 1,
                members: self.roles.iter().enumerate().map(member).collect(),
                ..Membership::default()
            },
        }
    }

    /// The replica at `place`: generation 0 of a node that was there from the beginning, 1 of one that joins.
    pub fn id(&self, place: usize) -> ReplicaId {
        ReplicaId::new(u16::from(place >= self.roles.len()), node_of(place as u64 + 1))
    }

    /// A replica's settings.
    pub fn config(&self, place: usize) -> Config {
        Config {
            id: self.id(place),
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            check_quorum: self.check_quorum,
            append_bytes_max: if self.small_appends { 1 } else { 1 << 20 },
            inflight_bytes_max: 1 << 20,
            inflight_messages_max: 8,
            unapplied_bytes_max: 1 << 20,
            cache_bytes_max: 1 << 20,
            snapshot_deadline_ticks: 2 * ELECTION_TICKS,
            quiesce_after_ticks: None,
        }
    }

    /// The changes, as operators ask for them.
    pub fn changes(&self) -> Vec<MembershipChange> {
        let id = |node: u64| self.id(node as usize - 1);
        let change = |change: &Change| match *change {
            Change::Add(node) => {
                let node = node_of(node);
                MembershipChange::AddLearner { node, raft_address: address(node) }
            }
            Change::Promote(node) => MembershipChange::Promote(id(node)),
            Change::Demote(node) => MembershipChange::Demote(id(node)),
            Change::Remove(node) => MembershipChange::Remove(id(node)),
        };
        self.changes.iter().map(change).collect()
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hosting { disk_at_once, apply_at_once, poll_at_once } = self.hosting;
        write!(f, "{}: {}\n   ", self.name, self.says)?;
        self.roles.iter().try_for_each(|role| write!(f, " {role}"))?;
        if self.joiners > 0 {
            write!(f, " and {} to join", self.joiners)?;
        }
        write!(f, "; terms up to {}", self.term_max)?;
        match self.in_flight_max {
            usize::MAX => f.write_str("; any number of parcels on the way")?,
            max => write!(f, "; at most {max} parcels on the way")?,
        }
        let switches = [
            (!disk_at_once, "disks lag"),
            (!apply_at_once, "applying lags"),
            (!poll_at_once, "turns take in several events"),
            (self.check_quorum, "leaders check their quorum"),
            (self.small_appends, "one entry per append"),
            (self.loses_snapshots, "snapshots are lost"),
            (!self.renames, "names matter"),
            (self.elections == Elections::Asked, "pre-votes travel"),
        ];
        switches.iter().filter(|(is_on, _)| *is_on).try_for_each(|(_, says)| write!(f, "; {says}"))?;
        f.write_str("\n    may happen:")?;
        let left = self.left.named();
        left.iter()
            .filter(|(_, count)| *count > 0)
            .try_for_each(|(what, count)| write!(f, " {what} {count}"))?;
        if !self.changes.is_empty() {
            write!(f, " of {:?}", self.changes)?;
        }
        if !self.before.is_empty() {
            write!(f, "\n    before: {:?}", self.before)?;
        }
        Ok(())
    }
}

impl Left {
    fn named(self) -> [(&'static str, u8); 11] {
        [
            ("commands", self.proposals),
            ("power cuts", self.crashes),
            ("duplicates", self.duplicates),
            ("heartbeats", self.beats),
            ("reads", self.reads),
            ("changes", self.changes),
            ("transfers", self.transfers),
            ("truncations", self.truncations),
            ("failed snapshots", self.failures),
            ("broken connections", self.losses),
            ("lost disks", self.disks),
        ]
    }
}

pub(crate) fn address(node: NodeId) -> String {
    format!("n{node}:1")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Voters on these nodes.
    pub(crate) fn members(nodes: &[u64]) -> BTreeMap<ReplicaId, Member> {
        let member = |node: &u64| {
            let id = ReplicaId::new(0, node_of(*node));
            (id, Member { role: Role::Voter, raft_address: address(id.node()) })
        };
        nodes.iter().map(member).collect()
    }
}
