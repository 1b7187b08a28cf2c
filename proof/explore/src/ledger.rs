// SPDX-License-Identifier: Apache-2.0

//! What was promised so far: what no single state shows, because replicas forget. It is part of a state, and kept as small as the
//! promises allow, since whatever it remembers keeps states apart.

use mraft_types::Term;

use crate::broken::{Broken, Promise};
use crate::replica::REPLICAS_MAX;
use crate::summary::Contents;
use crate::symmetry::Renaming;

/// Largest term of any world.
pub const TERMS_MAX: usize = 7;

/// A [`crate::step::Fact`] in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It leads this term.
    Leads(u8),
    /// It knows in this term that this is committed.
    Committed {
        /// Its term.
        known_in: u8,
        /// The entry.
        entry: Chosen,
    },
    /// A vote left.
    Voted {
        /// Of this term.
        term: u8,
        /// For this one, by place.
        candidate: u8,
    },
    /// A read joined this round.
    ReadBegan(u8),
    /// Reads of this round are served at this index.
    ReadServed {
        /// The round.
        round: u8,
        /// The index.
        index: u8,
    },
    /// Rounds up to this one are void.
    ReadsVoid(u8),
    /// It was told that it was removed.
    Gone,
    /// It restarted.
    Restarted,
}

/// An entry, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chosen {
    /// Its index.
    pub index: u8,
    /// Its term.
    pub term: u8,
    /// What it holds.
    pub content: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Decided {
    term: u8,
    content: u8,
    /// The term in which it was first known to be committed.
    known_in: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Read {
    replica: u8,
    round: u8,
    /// The least index that it must see.
    floor: u8,
}

/// The promises that were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Who led each term, by place from 1.
    leaders: [u8; TERMS_MAX + 1],
    /// What is committed, from index 2 on.
    decided: Vec<Decided>,
    /// The last vote of each replica, as long as it may matter: term, and whom for by place from 1.
    votes: [(u8, u8); REPLICAS_MAX],
    /// Reads that are not answered.
    reads: Vec<Read>,
}

impl Ledger {
    /// The last committed index.
    pub fn committed(&self) -> u8 {
        self.decided.len() as u8 + 1
    }

    /// Term, content and term of discovery of the committed entry at `index`.
    pub fn decided(&self, index: u8) -> Option<(u8, u8, u8)> {
        let decided = self.decided.get(usize::from(index.checked_sub(2)?))?;
        Some((decided.term, decided.content, decided.known_in))
    }

    /// Takes a fact in, or says which promise it breaks.
    pub fn note(&mut self, replica: usize, fact: Fact, contents: &Contents) -> Result<(), Broken> {
        match fact {
            Fact::Leads(term) => self.election_safety(replica, term),
            Fact::Committed { known_in, entry } => {
                self.state_machine_safety(replica, known_in, entry, contents)
            }
            Fact::Voted { term, candidate } => self.one_vote_per_term(replica, term, candidate),
            Fact::ReadBegan(round) => {
                let read = Read { replica: replica as u8, round, floor: self.committed() };
                // Reads of one round are served together: the youngest needs the most.
                self.reads.retain(|other| (other.replica, other.round) != (read.replica, round));
                self.reads.push(read);
                self.reads.sort_unstable();
                Ok(())
            }
            Fact::ReadServed { round, index } => self.reads_are_fresh(replica, round, index),
            Fact::ReadsVoid(round) => {
                self.reads.retain(|read| usize::from(read.replica) != replica || read.round > round);
                Ok(())
            }
            Fact::Gone => {
                self.reads.retain(|read| usize::from(read.replica) != replica);
                self.removed_are_gone(replica, contents)
            }
            Fact::Restarted => {
                self.reads.retain(|read| usize::from(read.replica) != replica);
                Ok(())
            }
        }
    }

    fn election_safety(&mut self, replica: usize, term: u8) -> Result<(), Broken> {
        let who = replica as u8 + 1;
        let first = &mut self.leaders[usize::from(term).min(TERMS_MAX)];
        if *first != 0 && *first != who {
            let what = format!("{first} and {who} lead term {term}");
            return Err(Broken::new(Promise::ElectionSafety, what));
        }
        *first = who;
        Ok(())
    }

    fn one_vote_per_term(&mut self, replica: usize, term: u8, candidate: u8) -> Result<(), Broken> {
        let (last, whom) = self.votes[replica];
        let is_second = last == term && whom != candidate + 1;
        if is_second || term < last {
            let (who, now) = (replica + 1, candidate + 1);
            let what =
                format!("{who} votes for {now} in term {term}, after it voted for {whom} in term {last}");
            return Err(Broken::new(Promise::OneVotePerTerm, what));
        }
        self.votes[replica] = (term, candidate + 1);
        Ok(())
    }

    /// What was acknowledged before a read began was committed then, as far as anybody knew: a read has to see all of that.
    fn reads_are_fresh(&mut self, replica: usize, round: u8, index: u8) -> Result<(), Broken> {
        let who = replica + 1;
        let is_it = |read: &Read| (usize::from(read.replica), read.round) == (replica, round);
        let Some(at) = self.reads.iter().position(is_it) else {
            let what = format!("{who} serves round {round}, which nobody asked for");
            return Err(Broken::new(Promise::ReadsAreFresh, what));
        };
        let floor = self.reads.remove(at).floor;
        if index < floor {
            let what = format!("{who} serves a read at {index}, but {floor} was committed before it began");
            return Err(Broken::new(Promise::ReadsAreFresh, what));
        }
        Ok(())
    }

    fn removed_are_gone(&self, replica: usize, contents: &Contents) -> Result<(), Broken> {
        let is_removal = |decided: &Decided| {
            contents.members(decided.content).is_some_and(|members| members.all & 1 << replica == 0)
        };
        if self.decided.iter().any(is_removal) {
            return Ok(());
        }
        let what = format!("{} was told that it is removed, and no committed entry says so", replica + 1);
        Err(Broken::new(Promise::ReplicaIsSound, what))
    }

    /// A vote in a term that the replica's disk has left cannot be given a second time: a durable term never falls.
    pub fn forget_vote(&mut self, replica: usize, durable_term: Term) {
        if u64::from(self.votes[replica].0) < durable_term {
            self.votes[replica] = (0, 0);
        }
    }

    /// The same under other names.
    pub fn renamed(&self, renaming: Renaming, contents: &mut Contents) -> Ledger {
        let who = |place: u8| match place.checked_sub(1) {
            Some(place) => renaming.place(usize::from(place)) as u8 + 1,
            None => 0,
        };
        let mut renamed = self.clone();
        renamed.leaders = self.leaders.map(who);
        for (place, (term, candidate)) in self.votes.iter().enumerate() {
            renamed.votes[renaming.place(place)] = (*term, who(*candidate));
        }
        for read in &mut renamed.reads {
            read.replica = renaming.place(usize::from(read.replica)) as u8;
        }
        renamed.reads.sort_unstable();
        for decided in &mut renamed.decided {
            decided.content = contents.renamed(decided.content, renaming);
        }
        renamed
    }

    fn state_machine_safety(
        &mut self,
        replica: usize,
        known_in: u8,
        entry: Chosen,
        contents: &Contents,
    ) -> Result<(), Broken> {
        let Chosen { index, term, content } = entry;
        let Some(at) = index.checked_sub(2).map(usize::from) else { return Ok(()) };
        let who = replica + 1;
        let what = match self.decided.get(at) {
            Some(first) if first.term == term && contents.may_be_one(first.content, content) => return Ok(()),
            Some(first) => format!("{index}@{term} is final at {who}, and {index}@{} was before", first.term),
            None if at == self.decided.len() => {
                self.decided.push(Decided { term, content, known_in });
                return Ok(());
            }
            None => format!("{index}@{term} is final at {who} before what stands before it"),
        };
        Err(Broken::new(Promise::StateMachineSafety, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::promises::tests::contents;

    /// What the last of these facts, each of a replica by place, breaks; the others break nothing.
    fn broken(facts: &[(usize, Fact)]) -> Option<Promise> {
        let (contents, mut ledger) = (contents(), Ledger::default());
        let (last, before) = facts.split_last().expect("some fact");
        for (replica, fact) in before {
            ledger.note(*replica, *fact, &contents).expect("nothing broken yet");
        }
        ledger.note(last.0, last.1, &contents).err().map(|broken| broken.promise)
    }

    fn committed(index: u8, term: u8) -> Fact {
        Fact::Committed { known_in: term, entry: Chosen { index, term, content: 0 } }
    }

    #[test]
    fn one_leads_a_term() {
        assert_eq!(broken(&[(0, Fact::Leads(2)), (1, Fact::Leads(3)), (0, Fact::Leads(2))]), None);
        assert_eq!(broken(&[(0, Fact::Leads(2)), (1, Fact::Leads(2))]), Some(Promise::ElectionSafety));
    }

    #[test]
    fn a_replica_votes_once_in_a_term_and_never_in_one_that_it_left() {
        let vote = |term, candidate| Fact::Voted { term, candidate };
        assert_eq!(broken(&[(0, vote(2, 1)), (0, vote(2, 1))]), None);
        assert_eq!(broken(&[(0, vote(2, 1)), (1, vote(2, 2)), (0, vote(3, 2))]), None);
        let restart = (0, Fact::Restarted);
        assert_eq!(broken(&[(0, vote(2, 1)), restart, (0, vote(2, 0))]), Some(Promise::OneVotePerTerm));
        assert_eq!(broken(&[(0, vote(3, 1)), (0, vote(2, 1))]), Some(Promise::OneVotePerTerm));
    }

    #[test]
    fn one_entry_is_final_at_an_index_and_none_before_those_before_it() {
        assert_eq!(broken(&[(0, committed(2, 2)), (0, committed(3, 2)), (1, committed(2, 2))]), None);
        assert_eq!(broken(&[(0, committed(2, 2)), (1, committed(2, 3))]), Some(Promise::StateMachineSafety));
        assert_eq!(broken(&[(0, committed(3, 2))]), Some(Promise::StateMachineSafety));
    }

    #[test]
    fn a_read_sees_what_was_committed_before_it_began() {
        let (began, served) = (Fact::ReadBegan(1), |index| Fact::ReadServed { round: 1, index });
        let read =
            |index| broken(&[(0, committed(2, 2)), (1, began), (0, committed(3, 2)), (1, served(index))]);
        assert_eq!((read(3), read(2)), (None, None));
        assert_eq!(read(1), Some(Promise::ReadsAreFresh));
        assert_eq!(
            broken(&[(0, began), (1, served(1))]),
            Some(Promise::ReadsAreFresh),
            "another one's round"
        );
        let void = [(0, began), (0, Fact::ReadsVoid(1)), (0, served(1))];
        assert_eq!(broken(&void), Some(Promise::ReadsAreFresh));
    }

    #[test]
    fn nobody_goes_who_was_not_removed() {
        assert_eq!(broken(&[(0, committed(2, 2)), (2, Fact::Gone)]), Some(Promise::ReplicaIsSound));
        let removal = Fact::Committed { known_in: 2, entry: Chosen { index: 3, term: 2, content: 4 } };
        assert_eq!(broken(&[(0, committed(2, 2)), (0, removal), (2, Fact::Gone)]), None);
    }
}
