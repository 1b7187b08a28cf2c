// SPDX-License-Identifier: Apache-2.0

//! Counting. Whatever a majority agrees on, any other majority has at least one witness of (Raft §5.2).

use std::collections::BTreeMap;

use mraft_types::{Membership, ReplicaId};

/// How many of `count` make a majority; of none, nobody does.
pub(crate) fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// The largest value that a majority has reached. Sorts `values`. Nobody agrees on anything in an empty group.
pub(crate) fn agreed(values: &mut [u64]) -> u64 {
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

/// The votes of one election, counted by the membership in force when somebody asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Ballot {
    votes: BTreeMap<ReplicaId, bool>,
}

/// What a ballot has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Won,
    Lost,
    Open,
}

impl Ballot {
    /// Notes an answer; the first one of each voter stands.
    pub(crate) fn record(&mut self, voter: ReplicaId, granted: bool) {
        self.votes.entry(voter).or_insert(granted);
    }

    /// Whether anybody said no.
    pub(crate) fn has_refusal(&self) -> bool {
        self.votes.values().any(|granted| !granted)
    }

    /// Counts only those who count in `membership`.
    pub(crate) fn outcome(&self, membership: &Membership) -> Outcome {
        let (mut voters, mut yes, mut no) = (0, 0, 0);
        for id in membership.counting() {
            voters += 1;
            match self.votes.get(&id) {
                Some(true) => yes += 1,
                Some(false) => no += 1,
                None => {}
            }
        }
        let needed = majority(voters);
        if yes >= needed {
            Outcome::Won
        } else if voters - no < needed {
            Outcome::Lost
        } else {
            Outcome::Open
        }
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{Member, NodeId, Role};

    use super::*;

    /// The dumb twin: try every value and count who reached it.
    fn agreed_by_trying(values: &[u64]) -> u64 {
        let reached = |value: u64| values.iter().filter(|other| **other >= value).count();
        values.iter().copied().filter(|value| reached(*value) * 2 > values.len()).max().unwrap_or(0)
    }

    #[test]
    fn agreement_is_what_counting_by_hand_says() {
        for len in 0..=5u32 {
            for code in 0..4u64.pow(len) {
                let mut values: Vec<u64> = (0..len).map(|at| code / 4u64.pow(at) % 4).collect();
                let by_trying = agreed_by_trying(&values);
                assert_eq!(agreed(&mut values), by_trying, "{values:?}");
            }
        }
    }

    #[test]
    fn a_ballot_is_what_counting_by_hand_says() {
        let id = |node: u64| ReplicaId::new(0, NodeId::new(node).expect("not 0"));
        for voters in 1..=5u64 {
            let member = |role| Member { role, raft_address: "a:1".to_owned() };
            let mut members: BTreeMap<_, _> =
                (1..=voters).map(|node| (id(node), member(Role::Voter))).collect();
            members.insert(id(9), member(Role::Learner));
            let membership = Membership { members, ..Membership::default() };
            for code in 0..3u64.pow(voters as u32) {
                let mut ballot = Ballot::default();
                ballot.record(id(9), true);
                let (mut yes, mut no) = (0, 0);
                for voter in 0..voters {
                    match code / 3u64.pow(voter as u32) % 3 {
                        0 => {}
                        answer => {
                            ballot.record(id(voter + 1), answer == 1);
                            if answer == 1 { yes += 1 } else { no += 1 }
                        }
                    }
                }
                let expected = if yes * 2 > voters {
                    Outcome::Won
                } else if (voters - no) * 2 <= voters {
                    Outcome::Lost
                } else {
                    Outcome::Open
                };
                assert_eq!(ballot.outcome(&membership), expected, "{voters} voters, {yes} yes, {no} no");
            }
        }
    }

    #[test]
    fn a_group_without_voters_never_agrees() {
        assert_eq!(agreed(&mut []), 0);
        assert_eq!(Ballot::default().outcome(&Membership::default()), Outcome::Lost);
    }
}
