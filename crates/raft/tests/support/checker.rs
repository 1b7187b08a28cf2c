// SPDX-License-Identifier: Apache-2.0

//! What must be true of a whole group at every moment, whatever happened to it (Raft figure 3, and linearizable reads).

use std::collections::BTreeMap;

use mraft_raft::{Body, Effect, Ignored};
use mraft_types::{Entry, EntryKind, Index, Membership, ReplicaId, Role, Term};

use super::{Group, Happened};

/// Remembers what a group has promised.
#[derive(Debug, Default)]
pub struct Checker {
    leaders: BTreeMap<Term, ReplicaId>,
    votes: BTreeMap<(Term, ReplicaId), ReplicaId>,
    /// Committed entries: their term, and the term in which they were committed.
    chosen: BTreeMap<Index, (Term, Term)>,
    /// Every entry that ever left its leader: what it is, and the term of the one before it.
    entries: BTreeMap<(Index, Term), (EntryKind, Vec<u8>, Term)>,
    /// Per replica and round, the least index that a read of this round must see.
    reads: BTreeMap<(ReplicaId, u64), Index>,
    commits: BTreeMap<ReplicaId, Index>,
    /// Every membership that somebody knew to be committed.
    memberships: Vec<Membership>,
    pub reads_served: usize,
    pub snapshots_installed: usize,
    pub changes_committed: usize,
    pub elections_won: usize,
}

impl Checker {
    /// The highest index that anybody knows to be committed.
    pub fn highest(&self) -> Index {
        self.chosen.last_key_value().map_or(1, |(index, _)| *index)
    }

    /// A read was asked for: it must see everything committed by now.
    pub fn read_began(&mut self, id: ReplicaId, round: u64) {
        let highest = self.highest();
        let floor = self.reads.entry((id, round)).or_default();
        *floor = highest.max(*floor);
    }

    /// A replica was restarted: its rounds begin anew.
    pub fn restarted(&mut self, id: ReplicaId) {
        self.reads.retain(|(owner, _), _| *owner != id);
        self.commits.remove(&id);
    }

    /// Checks everything that happened since the last call.
    pub fn check(&mut self, group: &mut Group) -> Result<(), String> {
        for happened in std::mem::take(&mut group.happened) {
            if let Happened::Effect(id, effect) = happened {
                self.check_effect(group, id, effect)?;
            }
        }
        for id in group.nodes.keys().copied().collect::<Vec<_>>() {
            self.check_replica(group, id)?;
        }
        Ok(())
    }

    fn check_effect(&mut self, group: &Group, id: ReplicaId, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::Send(message) => {
                if let Body::Append { prev, entries, .. } = &message.body
                    && group
                        .raft(id)
                        .is_some_and(|raft| raft.membership().role(message.to) != Some(Role::Witness))
                {
                    self.check_entries(id, prev.term, entries)?;
                }
                let vote = match message.body {
                    Body::VoteReply { granted: true } => message.to,
                    Body::Vote { .. } => id,
                    _ => return Ok(()),
                };
                let first = *self.votes.entry((message.term, id)).or_insert(vote);
                if first != vote {
                    return Err(format!("{id} voted for {first} and for {vote} in term {}", message.term));
                }
            }
            Effect::ReadReady { round, index } => {
                self.reads_served += 1;
                match self.reads.remove(&(id, round)) {
                    Some(floor) if index >= floor => {}
                    Some(floor) => {
                        return Err(format!(
                            "{id} serves a read at {index}, but {floor} was committed before it"
                        ));
                    }
                    None => return Err(format!("{id} serves round {round}, which nobody asked for")),
                }
            }
            Effect::ReadsVoid { round } => {
                self.reads.retain(|(owner, void), _| *owner != id || *void > round)
            }
            Effect::Condemned(reason) => return Err(format!("{id} was condemned: {reason}")),
            Effect::MembershipCommitted(membership) => {
                self.changes_committed += 1;
                self.memberships.push(membership);
            }
            Effect::Install { .. } => self.snapshots_installed += 1,
            // Whoever told it may be down by now.
            Effect::Removed { .. }
                if !self.memberships.iter().any(|membership| membership.is_removed(id)) =>
            {
                return Err(format!("{id} was told that it is removed, and is not"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Log matching: one position, one entry, one past. What a leader loses before anybody heard of it never was.
    fn check_entries(&mut self, id: ReplicaId, mut before: Term, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let is = (entry.kind, entry.payload.to_vec(), before);
            let first = self.entries.entry((entry.index, entry.term)).or_insert_with(|| is.clone());
            if *first != is {
                return Err(format!("{id} sent {entry:?} behind term {before}; another one is {first:?}"));
            }
            before = entry.term;
        }
        Ok(())
    }

    fn check_replica(&mut self, group: &mut Group, id: ReplicaId) -> Result<(), String> {
        let Some(raft) = group.raft_mut(id) else { return Ok(()) };
        for (reason, _) in raft.take_ignored() {
            if matches!(reason, Ignored::Malformed | Ignored::SecondLeader | Ignored::ContradictsCommitted) {
                return Err(format!("{id} ignored something as {reason:?}, which no peer says"));
            }
        }
        if raft.is_leader() {
            let term = raft.term();
            match self.leaders.insert(term, id) {
                Some(first) if first != id => return Err(format!("{first} and {id} lead term {term}")),
                Some(_) => {}
                None => {
                    self.elections_won += 1;
                    self.check_new_leader(group, id)?;
                }
            }
        }
        let Some(raft) = group.raft(id) else { return Ok(()) };
        let known = self.commits.insert(id, raft.commit()).unwrap_or(0);
        for index in known.max(raft.start().position.index)..=raft.commit() {
            let Some(term) = raft.term_at(index) else { continue };
            let (chosen, _) = *self.chosen.entry(index).or_insert((term, raft.term()));
            if chosen != term {
                return Err(format!("{index} is committed with term {chosen}, and at {id} with term {term}"));
            }
        }
        let machine = &group.node(id).machine;
        let applied = machine.applied;
        if applied.index > 0 && self.chosen.get(&applied.index).is_some_and(|(term, _)| *term != applied.term)
        {
            return Err(format!("{id} applied {applied:?}, which is not what was committed"));
        }
        Ok(())
    }

    /// Leader completeness.
    fn check_new_leader(&self, group: &Group, id: ReplicaId) -> Result<(), String> {
        let Some(raft) = group.raft(id) else { return Ok(()) };
        for (index, (term, committed_in)) in &self.chosen {
            let holds = *index < raft.start().position.index || raft.term_at(*index) == Some(*term);
            if *committed_in < raft.term() && !holds {
                return Err(format!("{id} leads term {} without {index}@{term}", raft.term()));
            }
        }
        Ok(())
    }
}
