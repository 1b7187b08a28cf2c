// SPDX-License-Identifier: Apache-2.0

//! Who belongs to the group (thesis §4, with the single-server changes as corrected in 2015), rules M1 to M5.
//!
//! A membership is in force from the moment it is appended and is undone if its entry is truncated, so what counts never
//! depends on what a replica happens to know of the commit index. One change at a time is uncommitted, and none is begun
//! before the leader has committed an entry of its own term: together they keep any two majorities overlapping.

use mraft_types::planted;
use mraft_types::{
    ChangeRefused, EntryKind, Index, LogPosition, Membership, MembershipChange, ReplicaId, Role,
};

use crate::admission::Ignored;
use crate::durability::After;
use crate::effect::Effect;
use crate::event::ChangeError;
use crate::message::Body;
use crate::progress::Progress;
use crate::quorum;
use crate::raft::{Raft, Standing};

/// A learner is promoted when it lacks at most so many entries: what a follower catches up with in a moment, so that the new
/// voter does not hold up commits.
const PROMOTE_LAG_ENTRIES_MAX: u64 = 256;

impl Raft {
    /// Appends a membership change, if every rule allows it now. It is in force when this returns and decided when the entry
    /// at the position answered is applied. `expected_change_index` is the ConfigChangeID that the caller has seen last.
    pub fn propose_change(
        &mut self,
        change: &MembershipChange,
        expected_change_index: Option<Index>,
    ) -> Result<(LogPosition, Membership), ChangeError> {
        self.may_propose().map_err(ChangeError::Refused)?;
        if !self.has_committed_in_term() && !planted!(ChangeBeforeTermCommit) {
            return Err(ChangeError::NotReady);
        }
        let current = self.log.membership();
        if let Some(pending) = self.pending_change().filter(|_| !planted!(TwoChanges)) {
            return Err(ChangeError::Pending(pending));
        }
        if expected_change_index.is_some_and(|expected| expected != current.change_index) {
            return Err(ChangeError::Stale(current.change_index));
        }
        let next = current.changed(change, self.log.last() + 1).map_err(ChangeError::Impossible)?;
        match change {
            MembershipChange::Remove(id) | MembershipChange::Demote(id) if *id == self.config.id => {
                return Err(self.hand_over());
            }
            MembershipChange::Remove(_) | MembershipChange::Demote(_) => self.keeps_quorum(&next)?,
            MembershipChange::Promote(id) => self.is_caught_up(*id)?,
            MembershipChange::AddLearner { .. } | MembershipChange::RetireNode(_) => {}
        }
        let mut payload = Vec::new();
        next.encode(&mut payload);
        let position = self.append_as_leader(EntryKind::Membership, payload.into());
        self.update_peers();
        Ok((position, next))
    }

    /// Index of the membership in force when it is not known to be committed.
    pub(crate) fn pending_change(&self) -> Option<Index> {
        let index = self.log.membership().change_index;
        (index > self.log.commit()).then_some(index)
    }

    /// Raises the commit index and tells of memberships that this commits. Whoever was removed by one is told so by the
    /// leader, from now on committed, state (rule M5).
    pub(crate) fn commit_to(&mut self, index: Index) {
        let before = self.log.commit_to(index);
        let mut removed = Vec::new();
        let mut changed = false;
        for (former, membership) in self.log.memberships_between(before, self.log.commit()) {
            let gone = former.members.keys().filter(|id| !membership.members.contains_key(*id));
            removed.extend(gone.map(|id| (*id, membership.change_index)));
            changed = true;
            self.notices.push(Effect::MembershipCommitted(membership.clone()));
        }
        if let Standing::Leader(leader) = &mut self.standing {
            leader.notices_due |= changed;
            for (id, change_index) in removed {
                if id != self.config.id {
                    self.send(After::Term, id, Body::Removed { change_index });
                }
            }
        }
        if planted!(MembershipWhenCommitted) {
            self.update_peers();
        }
    }

    /// Makes the leader's peers those of the membership in force.
    pub(crate) fn update_peers(&mut self) {
        let Raft { standing: Standing::Leader(leader), log, config, .. } = self else { return };
        let membership = log.membership();
        leader.peers.retain(|id, _| membership.members.contains_key(id));
        for id in membership.members.keys().filter(|id| **id != config.id) {
            leader.peers.entry(*id).or_insert_with(|| Progress::new(log.last()));
        }
    }

    /// Rule M1: whether this leader was voted out by a change that is committed, or is a learner that stood in. What it has committed in
    /// its term a majority has, any of which can win now.
    pub(crate) fn must_resign(&self) -> bool {
        self.has_committed_in_term()
            && self.pending_change().is_none()
            && self.log.membership().role(self.config.id) != Some(Role::Voter)
            && !planted!(RemovedLeadsOn)
    }

    /// Rule M5: whoever was removed, as far as this replica knows for certain, is told so and not listened to: nothing that it
    /// asks for can be of use to the group.
    pub(crate) fn answer_removed(&mut self, from: ReplicaId) -> bool {
        if self.log.membership().members.contains_key(&from)
            || !self.log.committed_membership().is_removed(from)
        {
            return false;
        }
        let change_index = self.log.committed_membership().change_index;
        self.send(After::Term, from, Body::Removed { change_index });
        true
    }

    pub(crate) fn handle_removed(&mut self, change_index: Index) {
        let committed = self.log.committed_membership();
        if committed.change_index >= change_index && committed.members.contains_key(&self.config.id) {
            return self.ignore(Ignored::ContradictsCommitted);
        }
        // If the caller cannot act on it, it asks again, as one that is awake does.
        self.wake();
        self.notices.push(Effect::Removed { change_index });
    }

    /// Rule M1: a leader does not lead its own removal.
    fn hand_over(&mut self) -> ChangeError {
        match self.best_successor() {
            Some(to) => {
                self.handle_transfer(to);
                ChangeError::HandingOver(to)
            }
            None => ChangeError::Impossible(ChangeRefused::LastVoter(self.config.id)),
        }
    }

    /// A change after which the replicas that answer are no majority would never commit, and neither would anything after it.
    fn keeps_quorum(&self, next: &Membership) -> Result<(), ChangeError> {
        let voters = next.counting().count();
        let active = next.counting().filter(|id| self.is_active(*id)).count();
        let needed = quorum::majority(voters);
        if active >= needed { Ok(()) } else { Err(ChangeError::WouldLoseQuorum { active, needed }) }
    }

    fn is_caught_up(&self, id: ReplicaId) -> Result<(), ChangeError> {
        let Standing::Leader(leader) = &self.standing else { return Err(ChangeError::NotReady) };
        let matched = leader.peers.get(&id).map_or(0, |peer| peer.matched);
        let lag = self.log.last().saturating_sub(matched);
        if lag <= PROMOTE_LAG_ENTRIES_MAX && matched > 0 && self.is_active(id) {
            Ok(())
        } else {
            Err(ChangeError::NotCaughtUp(id, lag))
        }
    }

    /// Whether a member answered this leader within the last election timeout, and in its term: what a leader that was just elected
    /// assumes of the others is no reason to let one of them go.
    pub(crate) fn is_active(&self, id: ReplicaId) -> bool {
        match &self.standing {
            _ if id == self.config.id => true,
            Standing::Leader(leader) => {
                leader.peers.get(&id).is_some_and(|peer| peer.is_known_active(&self.config))
            }
            _ => false,
        }
    }
}
