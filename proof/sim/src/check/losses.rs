// SPDX-License-Identifier: Apache-2.0

//! An accepted loss gives up what nobody can bring back, and nothing else (rule D9, promise P6).
//!
//! When a majority of a group lost its logs, what was acknowledged may be gone. Then the first leader that commits an entry of its own term
//! says from where the group goes on: whoever is elected has as much of what was committed as a majority of those that take part is sure to
//! bring along. From there on everything is checked as before, against what is left; and who has applied what was given up is no part of
//! the group any more.

use std::collections::BTreeMap;

use mraft_raft::Raft;
use mraft_types::{GroupId, Index, Term};

use super::{Broken, Checks};

/// More was given up than had to be.
pub const NOT_MORE_THAN_LOST: &str = "an accepted loss gives up no entry that a majority brings along";
/// What an operator was shown is what comes back.
pub const AS_SHOWN: &str = "a repaired replica comes back as it was shown";

/// What was lost and accepted.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Groups of which a new leader may have less than was committed, until one leads in a later term than this and has committed in it.
    open: BTreeMap<GroupId, Term>,
    /// Where groups went on: from which entry, and in which term.
    turns: BTreeMap<GroupId, Vec<(Index, Term)>>,
    /// Entries that were given up.
    pub given_up: u64,
}

impl Losses {
    /// A replica of this group will come back in this term, without what it has lost.
    pub fn accepted(&mut self, group: GroupId, term: Term) {
        let open = self.open.entry(group).or_default();
        *open = term.max(*open);
    }

    /// Whether a new leader may have less than was committed.
    pub fn is_open(&self, group: GroupId) -> bool {
        self.open.contains_key(&group)
    }
}

impl Checks {
    /// A replica leads that may have less than was committed. `voters` are those that take part in elections, of `voters_in_all`.
    pub fn leads_on(
        &self,
        group: GroupId,
        leader: &Raft,
        voters: &[&Raft],
        voters_in_all: usize,
    ) -> Result<(), Broken> {
        let from = self.leaders.agrees(group, leader);
        let mut held: Vec<Index> = voters.iter().map(|voter| self.leaders.agrees(group, voter)).collect();
        held.sort_unstable();
        // Of each majority somebody has at least what the best of those has that have least.
        let sure = held.get(voters_in_all / 2).copied().unwrap_or_default();
        if from < sure {
            let how = format!(
                "{} leads group {group} with what was committed up to {from}, but any majority of those that take part has it up to {sure}",
                leader.id()
            );
            return Err(Broken::new(NOT_MORE_THAN_LOST, how));
        }
        Ok(())
    }

    /// A leader that may have less than was committed has committed an entry of its own term: what it has is the truth. Answers where the
    /// group goes on from.
    pub fn goes_on(&mut self, group: GroupId, leader: &Raft) -> Index {
        let (from, last) = (self.leaders.agrees(group, leader), self.leaders.last(group));
        if self.losses.open.get(&group).is_some_and(|open| leader.term() > *open) {
            self.losses.open.remove(&group);
        }
        if from < last {
            self.losses.given_up += last - from;
            self.losses.turns.entry(group).or_default().push((from, leader.term()));
            self.give_up(group, from);
        }
        from
    }

    /// Whether a replica has applied what was given up.
    pub fn is_given_up(&self, group: GroupId, replica: &Raft) -> bool {
        let Some(turns) = self.losses.turns.get(&group) else { return false };
        let (commit, term) = (replica.commit(), replica.term_at(replica.commit()));
        let is_above =
            |(from, since): &(Index, Term)| commit > *from && term.is_some_and(|term| term < *since);
        turns.iter().any(is_above) && self.leaders.term(group, commit) != term
    }

    /// Whether what a replica has may not be the group's any more, and it has not heard of that or, condemned, never will.
    pub fn is_outside(&self, group: GroupId, replica: &Raft) -> bool {
        let hears_nothing = replica.condemned().is_some() && self.losses.turns.contains_key(&group);
        hears_nothing || self.is_given_up(group, replica)
    }

    /// Forgets what was above.
    fn give_up(&mut self, group: GroupId, from: Index) {
        self.model(group).give_up(from);
        self.leaders.give_up(group, from);
        self.chains.give_up(group, from);
        self.log_times.give_up(group, from);
        self.acknowledged.give_up(group, from);
        self.order.give_up(group, from);
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Applied;
    use super::super::tests::{GROUP, node, put, put_at, voter_of};
    use super::*;

    /// Entries 2 to 5 of term 2 are committed.
    fn committed() -> Checks {
        let mut checks = Checks::default();
        checks.leaders.commits(GROUP, &voter_of(5, &[(2, 2)], 5)).expect("the first");
        for index in 2..=5 {
            let applied = Applied { body: put("a", &index.to_string()), result: put_at(index - 1) };
            checks.applied_entry(GROUP, node(1), index, vec![applied]).expect("fine");
            checks.acknowledged.add(GROUP, index);
        }
        checks
    }

    #[test]
    fn who_leads_with_less_than_each_majority_has_is_found() {
        let mut checks = committed();
        checks.losses.accepted(GROUP, 10);
        let of = |last| voter_of(last, &[(2, 2)], 1);
        let leads = |own, voters: &[Index]| {
            let voters: Vec<Raft> = voters.iter().map(|last| of(*last)).collect();
            checks.leads_on(GROUP, &of(own), &voters.iter().collect::<Vec<_>>(), 3)
        };
        assert_eq!(leads(3, &[3, 3, 5]), Ok(()), "those with 3 are a majority");
        assert!(leads(3, &[3, 4]).is_err_and(|broken| broken.promise == NOT_MORE_THAN_LOST));
        assert!(leads(3, &[3, 4, 5]).is_err());
    }

    #[test]
    fn what_was_given_up_is_no_truth_any_more_and_who_has_it_no_member() {
        let mut checks = committed();
        checks.losses.accepted(GROUP, 10);
        let leader = voter_of(4, &[(2, 2), (4, 11)], 4);
        assert_eq!(checks.goes_on(GROUP, &leader), 3);
        assert_eq!((checks.losses.given_up, checks.losses.is_open(GROUP)), (2, false));
        checks.leaders.commits(GROUP, &leader).expect("the only history");
        let given_up = |replica: &Raft| checks.is_given_up(GROUP, replica);
        assert!(given_up(&voter_of(5, &[(2, 2)], 5)) && given_up(&voter_of(4, &[(2, 2)], 4)));
        assert!(!given_up(&leader) && !given_up(&voter_of(5, &[(2, 2)], 3)));
        checks.leader_holds(GROUP, node(1), 3).expect("nothing above was acknowledged");
        let again = Applied { body: put("a", "5"), result: put_at(3) };
        checks.applied_entry(GROUP, node(1), 5, vec![again]).expect("it never was");
    }

    #[test]
    fn a_leader_of_an_earlier_term_does_not_end_what_a_later_acceptance_began() {
        let mut checks = committed();
        checks.losses.accepted(GROUP, 10);
        checks.losses.accepted(GROUP, 20);
        checks.goes_on(GROUP, &voter_of(4, &[(2, 2), (4, 11)], 4));
        assert!(checks.losses.is_open(GROUP));
        checks.goes_on(GROUP, &voter_of(4, &[(2, 2), (4, 21)], 4));
        assert!(!checks.losses.is_open(GROUP));
    }
}
