// SPDX-License-Identifier: Apache-2.0

//! Election safety (Raft, figure 3): one leader per term, and nobody votes twice in a term, over all its lives.

use std::collections::BTreeMap;

use mraft_types::{GroupId, ReplicaId, Term};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "election safety";

/// Leaders and votes.
#[derive(Clone, Debug, Default)]
pub struct Elections {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
    votes: BTreeMap<(GroupId, Term, ReplicaId), ReplicaId>,
}

impl Elections {
    /// A replica leads in a term. Answers whether that is news.
    pub fn leads(&mut self, group: GroupId, term: Term, replica: ReplicaId) -> Result<bool, Broken> {
        match self.leaders.insert((group, term), replica) {
            None => Ok(true),
            Some(known) if known == replica => Ok(false),
            Some(known) => Err(Broken::new(
                PROMISE,
                format!("replicas {known} and {replica} both lead group {group} in term {term}"),
            )),
        }
    }

    /// Who leads in a term, as far as anybody was seen to.
    pub fn leader(&self, group: GroupId, term: Term) -> Option<ReplicaId> {
        self.leaders.get(&(group, term)).copied()
    }

    /// A replica gave its vote, to itself or to another one.
    pub fn votes(
        &mut self,
        group: GroupId,
        term: Term,
        voter: ReplicaId,
        candidate: ReplicaId,
    ) -> Result<(), Broken> {
        let known = *self.votes.entry((group, term, voter)).or_insert(candidate);
        if known == candidate {
            return Ok(());
        }
        let how =
            format!("replica {voter} of group {group} voted for {known} and for {candidate} in term {term}");
        Err(Broken::new(PROMISE, how))
    }

    /// The newest term that ever had a leader.
    pub fn newest_term(&self, group: GroupId) -> Option<Term> {
        let of_group = self.leaders.range((group, 0)..=(group, Term::MAX));
        of_group.map(|((_, term), _)| *term).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUP, replica};
    use super::*;

    #[test]
    fn a_second_leader_and_a_second_vote_are_found() {
        let mut elections = Elections::default();
        assert_eq!(elections.leads(GROUP, 4, replica(1)), Ok(true));
        assert_eq!(elections.leads(GROUP, 4, replica(1)), Ok(false));
        assert!(elections.leads(GROUP, 4, replica(2)).is_err());
        assert_eq!(elections.newest_term(GROUP), Some(4));
        assert_eq!((elections.leader(GROUP, 4), elections.leader(GROUP, 5)), (Some(replica(2)), None));
        elections.votes(GROUP, 5, replica(1), replica(2)).expect("the first");
        elections.votes(GROUP, 5, replica(1), replica(2)).expect("said again");
        elections.votes(GROUP, 6, replica(1), replica(3)).expect("another term");
        assert!(elections.votes(GROUP, 5, replica(1), replica(1)).is_err());
    }
}
