// SPDX-License-Identifier: Apache-2.0

//! Leader completeness (Raft, figure 3): what is committed is in the log of every later leader, and is the same for everybody.

use std::collections::BTreeMap;

use mraft_raft::Raft;
use mraft_types::{GroupId, Index, LogPosition, Term};

use super::Broken;

/// See the module.
pub const PROMISE: &str = "leader completeness";

/// What is known to be committed, per group: every position that somebody's commit index stood at.
#[derive(Clone, Debug, Default)]
pub struct Leaders(BTreeMap<GroupId, BTreeMap<Index, Term>>);

impl Leaders {
    /// A replica knows that everything up to here is committed.
    pub fn commits(&mut self, group: GroupId, replica: &Raft) -> Result<(), Broken> {
        let index = replica.commit();
        let Some(term) = replica.term_at(index) else { return Ok(()) };
        let known = *self.0.entry(group).or_default().entry(index).or_insert(term);
        if known == term {
            return Ok(());
        }
        let how = format!(
            "entry {index} of group {group} is committed with term {known} and, says {}, with term {term}",
            replica.id()
        );
        Err(Broken::new(PROMISE, how))
    }

    /// A replica leads, which is news: it must have everything that was committed in earlier terms.
    pub fn leads(&self, group: GroupId, replica: &Raft) -> Result<(), Broken> {
        // Who stood still may find out late that it leads: what was committed since is no business of its term.
        let mut before = self.0.get(&group).into_iter().flatten().rev();
        let Some((index, term)) = before.find(|(_, term)| **term < replica.term()) else { return Ok(()) };
        if *index <= replica.start().position.index || replica.term_at(*index) == Some(*term) {
            return Ok(());
        }
        let committed = LogPosition { index: *index, term: *term };
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
    use mraft_raft::{Config, Restored};
    use mraft_types::{HardState, LogStart, Member, Membership, Role};

    use super::super::tests::{GROUP, replica};
    use super::*;

    /// A voter whose log ends at this index, in this term.
    fn voter(last_index: Index, term: Term, commit: Index) -> Raft {
        let member = Member { role: Role::Voter, raft_address: String::new() };
        let members = [(replica(1), member)].into();
        let start = LogPosition { index: 1, term: 1 };
        let restored = Restored {
            hard_state: HardState { term, vote: None, commit },
            start: LogStart { position: start, membership: Membership { members, ..Membership::default() } },
            last_index,
            terms: vec![(2, term)],
            memberships: Vec::new(),
            applied: start,
            condemned: None,
        };
        let config = Config {
            id: replica(1),
            election_ticks: 10,
            heartbeat_ticks: 2,
            check_quorum: true,
            append_bytes_max: 1 << 10,
            inflight_bytes_max: 1 << 10,
            inflight_messages_max: 4,
            unapplied_bytes_max: 1 << 10,
            cache_bytes_max: 1 << 10,
            snapshot_deadline_ticks: 10,
            quiesce_after_ticks: None,
        };
        Raft::new(config, restored).expect("a replica")
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
