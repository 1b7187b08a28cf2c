// SPDX-License-Identifier: Apache-2.0

//! Leader completeness (Raft, figure 3): what is committed is in the log of every later leader, and is the same for everybody.

use std::collections::BTreeMap;

use mraft_raft::Raft;
use mraft_types::{GroupId, Index, LogPosition, Term};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "leader completeness";

/// What is known to be committed, per group: every position that somebody's commit index stood at or passed.
#[derive(Clone, Debug, Default)]
pub struct Leaders(BTreeMap<GroupId, BTreeMap<Index, Committed>>);

/// An entry that is committed.
#[derive(Clone, Copy, Debug)]
struct Committed {
    /// Its term.
    term: Term,
    /// In this term, or an earlier one, it was committed.
    by_term: Term,
}

impl Leaders {
    /// A replica knows that everything up to here is committed.
    pub fn commits(&mut self, group: GroupId, replica: &Raft) -> Result<(), Broken> {
        let index = replica.commit();
        let Some(term) = replica.term_at(index) else { return Ok(()) };
        let of_group = self.0.entry(group).or_default();
        let by_term = replica.term();
        let known = of_group.entry(index).or_insert(Committed { term, by_term }).term;
        if known == term {
            // What is before it is committed, too.
            for before in (replica.start().position.index..index).rev() {
                let Some(term) = replica.term_at(before).filter(|_| !of_group.contains_key(&before)) else {
                    break;
                };
                of_group.insert(before, Committed { term, by_term });
            }
            return Ok(());
        }
        let how = format!(
            "entry {index} of group {group} is committed with term {known} and, says {}, with term {term}",
            replica.id()
        );
        Err(Broken::new(PROMISE, how))
    }

    /// The last entry that is known to be committed.
    pub fn last(&self, group: GroupId) -> Index {
        self.0.get(&group).and_then(|known| known.keys().next_back()).copied().unwrap_or_default()
    }

    /// The term of a committed entry.
    pub fn term(&self, group: GroupId, index: Index) -> Option<Term> {
        self.0.get(&group)?.get(&index).map(|known| known.term)
    }

    /// Up to where a replica has what is committed.
    pub fn agrees(&self, group: GroupId, replica: &Raft) -> Index {
        let known = self.0.get(&group).into_iter().flatten().rev();
        let mut agreed = known.filter(|(index, known)| replica.term_at(**index) == Some(known.term));
        agreed.next().map_or(0, |(index, _)| *index)
    }

    /// What was above this index is not committed any more (rule D9).
    pub fn give_up(&mut self, group: GroupId, from: Index) {
        self.0.entry(group).or_default().retain(|index, _| *index <= from);
    }

    /// A replica leads, which is news: it must have everything that was committed in earlier terms.
    pub fn leads(&self, group: GroupId, replica: &Raft) -> Result<(), Broken> {
        // Who stood still may find out late that it leads: what was committed since is no business of its term.
        let mut before = self.0.get(&group).into_iter().flatten().rev();
        let Some((index, known)) = before.find(|(_, known)| known.by_term < replica.term()) else {
            return Ok(());
        };
        if *index <= replica.start().position.index || replica.term_at(*index) == Some(known.term) {
            return Ok(());
        }
        let committed = LogPosition { index: *index, term: known.term };
        let how = format!(
            "{} leads group {group} in term {} with {:?} at {index}, where {committed:?} is committed",
            replica.id(),
            replica.term(),
            replica.term_at(*index)
        );
        Err(Broken::new(PROMISE, how))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUP, voter_of};
    use super::*;

    /// A voter whose log ends at this index, in this term.
    fn voter(last_index: Index, term: Term, commit: Index) -> Raft {
        voter_of(last_index, &[(2, term)], commit)
    }

    #[test]
    fn a_leader_that_lacks_what_is_committed_and_two_histories_are_found() {
        let mut leaders = Leaders::default();
        leaders.commits(GROUP, &voter(5, 2, 4)).expect("the first");
        leaders.leads(GROUP, &voter(3, 2, 1)).expect("committed in its own term, by whoever else leads it");
        assert!(leaders.leads(GROUP, &voter(3, 3, 1)).is_err(), "too short");
        assert!(leaders.leads(GROUP, &voter(9, 3, 1)).is_err(), "another entry");
        assert!(leaders.commits(GROUP, &voter(5, 3, 4)).is_err());
    }
}
