// SPDX-License-Identifier: Apache-2.0

//! Snapshots and the log's beginning, rules N1, N2 and D11.
//!
//! The bytes travel beside the messages. The core decides when one is needed, what a received one means, and that while one
//! is being installed no entry is written and nothing acknowledged: the log is about to begin anew behind it.

use mraft_types::{LogPosition, LogStart, ReplicaId, Role, Term};

use crate::admission::{Ignored, POSITION_MAX, is_position};
use crate::effect::Effect;
use crate::raft::{Raft, Standing};

impl Raft {
    /// Rule N1, step 2. A snapshot holds committed state only, so it is of use whoever leads by now; but only the leader that
    /// still leads is answered.
    pub(crate) fn handle_snapshot_received(&mut self, from: ReplicaId, term: Term, start: LogStart) {
        self.wake();
        let takes_part = !matches!(self.standing, Standing::Condemned(_) | Standing::Installing(_));
        let leads = term >= self.term;
        if !takes_part || !self.is_usable(from, term, &start) || leads && !self.hear_leader(from, term) {
            self.ignore(Ignored::OutOfPlace);
            return self.notices.push(Effect::DropSnapshot { start });
        }
        let position = start.position;
        if self.log.contains(position) || position.index <= self.log.commit() {
            self.commit_to(position.index);
            if leads {
                self.durability.acknowledge(position.index);
            }
            return self.notices.push(Effect::DropSnapshot { start });
        }
        self.become_follower(self.term, self.leader.filter(|leader| *leader != self.config.id));
        self.durability.forget_acks();
        self.standing = Standing::Installing(Box::new(start.clone()));
        self.notices.push(Effect::Install { start });
    }

    /// Rule N1, step 7.
    pub(crate) fn handle_snapshot_installed(&mut self, start: LogStart) {
        let is_expected = match &self.standing {
            Standing::Installing(expected) => **expected == start,
            // Condemned meanwhile; the log begins anew all the same.
            Standing::Condemned(_) => start.position.index > self.log.commit(),
            _ => false,
        };
        if !is_expected {
            return self.ignore(Ignored::OutOfPlace);
        }
        let index = start.position.index;
        self.notices.push(Effect::MembershipCommitted(start.membership.clone()));
        self.log.reset(start);
        self.durability.restarted_behind(index);
        if matches!(self.standing, Standing::Installing(_)) {
            self.standing = Standing::Follower;
            if self.leader.is_some() {
                self.durability.acknowledge(index);
            }
        }
    }

    pub(crate) fn handle_snapshot_progress(&mut self, to: ReplicaId) {
        let deadline_ticks = self.config.snapshot_deadline_ticks;
        let Standing::Leader(leader) = &mut self.standing else { return self.ignore(Ignored::NotLeading) };
        if !leader.peers.get_mut(&to).is_some_and(|peer| peer.snapshot_progress(deadline_ticks)) {
            self.ignore(Ignored::OutOfPlace);
        }
    }

    pub(crate) fn handle_snapshot_sent(&mut self, to: ReplicaId, ok: bool) {
        let log_start = self.log.start_index();
        let Standing::Leader(leader) = &mut self.standing else { return self.ignore(Ignored::NotLeading) };
        if !leader.peers.get_mut(&to).is_some_and(|peer| peer.snapshot_sent(ok, log_start)) {
            self.ignore(Ignored::OutOfPlace);
        }
    }

    /// Rule D11: the store has persisted what it applied up to here. The membership there is this log's own knowledge.
    pub(crate) fn handle_truncate(&mut self, position: LogPosition) {
        let takes_part = !matches!(self.standing, Standing::Condemned(_) | Standing::Installing(_));
        let is_ahead = position.index > self.log.start_index() && self.log.contains(position);
        let compacted = (takes_part && is_ahead).then(|| self.log.compact(position.index)).flatten();
        match compacted {
            Some(start) => self.durability.truncate(start),
            None => self.ignore(Ignored::OutOfPlace),
        }
    }

    /// Whether a snapshot is what a leader of this group could have sent to this replica (rule M4 for one without a log).
    fn is_usable(&self, from: ReplicaId, term: Term, start: &LogStart) -> bool {
        let LogPosition { index, term: last_term } = start.position;
        let membership = &start.membership;
        from != self.config.id
            && term > 0
            && term <= POSITION_MAX
            && is_position(start.position)
            && index > 0
            && last_term <= term
            && membership.change_index <= index
            && membership.members.contains_key(&self.config.id)
            && membership.members.values().any(|member| member.role == Role::Voter)
    }
}
