// SPDX-License-Identifier: Apache-2.0

//! What the checks need to know of a replica, in few words: they look at every state, and a replica is a large value.

use mraft_raft::Life;
use mraft_types::{Entry, EntryKind, Membership, Payload, Role, Term};

use crate::replica::{Replica, place_of};
use crate::symmetry::Renaming;
use crate::table::Table;

/// Most entries of a log in any world; worlds are bounded far below.
pub const ENTRIES_MAX: usize = 15;

/// Members of a configuration, as bits by their places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Members {
    /// Everybody.
    pub all: u8,
    /// Who counts in quorums.
    pub counting: u8,
    /// Who may lead: voters, and learners, which stand in for them.
    pub may_lead: u8,
}

impl Members {
    /// Of a membership.
    pub fn of(membership: &Membership) -> Members {
        let mut members = Members::default();
        for (id, member) in &membership.members {
            let bit = 1 << place_of(*id);
            members.all |= bit;
            members.counting |= if member.role.counts() { bit } else { 0 };
            members.may_lead |= if matches!(member.role, Role::Voter | Role::Learner) { bit } else { 0 };
        }
        members
    }
}

/// What entries hold, by number.
#[derive(Debug, Default)]
pub struct Contents {
    table: Table<(EntryKind, Payload)>,
    members: Vec<Option<Members>>,
}

impl Contents {
    /// The number of an entry's content. There are few: a world that had more would be none of ours.
    pub fn number(&mut self, entry: &Entry) -> u8 {
        let (number, is_new) = self.table.number((entry.kind, entry.payload.clone()));
        if is_new {
            self.members.push(crate::disk::membership_of(entry).as_ref().map(Members::of));
        }
        u8::try_from(number).unwrap_or(u8::MAX)
    }

    /// The configuration that a content holds.
    pub fn members(&self, content: u8) -> Option<Members> {
        self.members.get(usize::from(content)).copied().flatten()
    }

    /// A content under other names.
    pub fn renamed(&mut self, content: u8, renaming: Renaming) -> u8 {
        let (kind, payload) = self.table.get(u32::from(content)).clone();
        self.number(&renaming.entry(&Entry { index: 0, term: 0, kind, payload }))
    }

    /// Whether two contents may stand at one position: a witness keeps commands without their bytes.
    pub fn may_be_one(&self, one: u8, other: u8) -> bool {
        if one == other {
            return true;
        }
        let is_stripped = |number: u8| {
            let (kind, payload) = self.table.get(u32::from(number));
            (*kind == EntryKind::Commands, payload.is_empty())
        };
        let ((one_commands, one_empty), (other_commands, other_empty)) =
            (is_stripped(one), is_stripped(other));
        one_commands && other_commands && (one_empty || other_empty)
    }
}

/// A log from index 2 on, what was forgotten of it included: the state machine was made of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The last index.
    pub last: u8,
    terms: [u8; ENTRIES_MAX],
    contents: [u8; ENTRIES_MAX],
    /// The latest configuration in it.
    pub in_force: Members,
}

impl Line {
    /// Term and content number of the entry at `index`; 0 is the term of what stands at the genesis and before.
    pub fn at(&self, index: u8) -> Option<(u8, u8)> {
        let at = usize::from(index.checked_sub(2).filter(|_| index <= self.last)?);
        Some((self.terms[at], self.contents[at]))
    }

    /// Term and index of the last entry, as they are compared in elections.
    pub fn end(&self) -> (u8, u8) {
        (self.at(self.last).map_or(0, |(term, _)| term), self.last)
    }

    /// A log of these terms and contents, of members that all vote.
    #[cfg(test)]
    pub(crate) fn of(entries: &[(u8, u8)], members: u8) -> Line {
        let in_force = Members { all: members, counting: members, may_lead: members };
        let mut line = Line { last: entries.len() as u8 + 1, in_force, ..Line::default() };
        for (index, (term, content)) in (2..).zip(entries) {
            line.set(index, Term::from(*term), *content);
        }
        line
    }

    fn set(&mut self, index: u8, term: Term, content: u8) {
        let at = usize::from(index) - 2;
        self.terms[at] = term as u8;
        self.contents[at] = content;
    }
}

/// A replica in few words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Removed and deleted.
    pub is_gone: bool,
    /// Waits for its first snapshot.
    pub is_memberless: bool,
    /// Takes no part for ever.
    pub is_condemned: bool,
    /// Whether it leads.
    pub leads: bool,
    /// Its term, and the durable one.
    pub term: u8,
    /// The durable term.
    pub durable_term: u8,
    /// Whom it follows, by place from 1; 0 for nobody.
    pub leader: u8,
    /// The log that it works with.
    pub log: Line,
    /// The log that it would come back with, if it were to crash now.
    pub durable: Line,
    /// Orders to the log that are not durable.
    pub jobs: u8,
    /// Whether the store has persisted less than it could have.
    pub store_lags: bool,
    /// Whom it is sending snapshots, as bits.
    pub sending: u8,
    /// Whether its life is one that time may move to a campaign.
    pub may_time_out: bool,
}

impl Summary {
    /// Of a replica.
    pub fn of(replica: &Replica, contents: &mut Contents) -> Summary {
        let (raft, disk) = (replica.raft(), replica.disk());
        let mut log = Line { last: raft.last_index() as u8, ..Line::default() };
        for index in 2..=log.last {
            if let Some(entry) = replica.entry(u64::from(index)) {
                log.set(index, entry.term, contents.number(&entry));
            }
        }
        log.in_force = Members::of(raft.membership());
        let mut durable = Line { last: disk.last() as u8, ..Line::default() };
        for index in 2..=durable.last {
            if let Some(entry) = disk.entry(u64::from(index)) {
                durable.set(index, entry.term, contents.number(entry));
            }
        }
        durable.in_force = Members::of(&disk.membership());
        Summary {
            is_gone: replica.is_gone(),
            is_memberless: raft.is_memberless(),
            is_condemned: raft.condemned().is_some(),
            leads: raft.is_leader(),
            term: raft.term() as u8,
            durable_term: disk.hard_state().term as u8,
            leader: raft.leader().map_or(0, |leader| place_of(leader) as u8 + 1),
            log,
            durable,
            jobs: replica.jobs() as u8,
            store_lags: disk.clone().catch_up(replica.machine()),
            sending: replica.sending().fold(0, |bits, peer| bits | 1 << place_of(peer)),
            may_time_out: matches!(raft.life(), Life::Follower | Life::Candidate),
        }
    }
}
