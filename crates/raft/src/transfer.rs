// SPDX-License-Identifier: Apache-2.0

//! Handing leadership over (thesis §3.10): the successor is brought up to date while proposals are refused, then told to
//! campaign at once. If it does not lead after one election timeout, everything goes on as before.

use mraft_types::{ReplicaId, Role, Term};

use crate::admission::Ignored;
use crate::effect::{Effect, ElectionReason};
use crate::message::{Body, Message};
use crate::raft::{Raft, Standing};

/// A transfer in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    /// Whether the successor was told to campaign.
    pub(crate) ordered: bool,
    /// The order may be lost: say it again.
    repeat: bool,
    elapsed_ticks: u32,
}

impl Raft {
    pub(crate) fn handle_transfer(&mut self, to: ReplicaId) {
        let is_voter = self.log.membership().role(to) == Some(Role::Voter) && to != self.config.id;
        let Standing::Leader(leader) = &mut self.standing else {
            return self.notices.push(Effect::TransferEnded { to, ok: false });
        };
        if !is_voter {
            return self.notices.push(Effect::TransferEnded { to, ok: false });
        }
        match leader.transfer {
            Some(transfer) if transfer.to == to => return,
            Some(transfer) => self.notices.push(Effect::TransferEnded { to: transfer.to, ok: false }),
            None => {}
        }
        leader.transfer = Some(Transfer { to, ordered: false, repeat: false, elapsed_ticks: 0 });
        self.wake();
    }

    pub(crate) fn tick_transfer(&mut self, beat_due: bool) {
        let Standing::Leader(leader) = &mut self.standing else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        transfer.elapsed_ticks += 1;
        transfer.repeat |= beat_due;
        if transfer.elapsed_ticks >= self.config.election_ticks {
            self.notices.push(Effect::TransferEnded { to: transfer.to, ok: false });
            leader.transfer = None;
        }
    }

    pub(crate) fn poll_transfer(&mut self, out: &mut Vec<Effect>) {
        let Standing::Leader(leader) = &mut self.standing else { return };
        let Some(transfer) = &mut leader.transfer else { return };
        let is_up_to_date =
            leader.peers.get(&transfer.to).is_some_and(|peer| peer.matched == self.log.last());
        if is_up_to_date && (!transfer.ordered || transfer.repeat) {
            transfer.ordered = true;
            transfer.repeat = false;
            out.push(timeout_now(self.config.id, transfer.to, self.term));
        }
    }

    /// A leader that goes lets the best voter campaign at once, if nobody was told to.
    pub(crate) fn order_successor(&self, out: &mut Vec<Effect>) {
        let Standing::Leader(leader) = &self.standing else { return };
        if leader.transfer.is_some_and(|transfer| transfer.ordered) {
            return;
        }
        out.extend(self.best_successor().map(|to| timeout_now(self.config.id, to, self.term)));
    }

    /// The leader asks this replica to take over.
    pub(crate) fn handle_timeout_now(&mut self, from: ReplicaId) {
        let is_follower = matches!(self.standing, Standing::Follower);
        if !is_follower || self.leader != Some(from) || !self.may_campaign() {
            return self.ignore(Ignored::Unasked);
        }
        self.notices.push(Effect::ElectionStarted(ElectionReason::Transfer));
        self.start_election(true);
    }

    /// The voter that a leader would best hand over to: one that answers, with the longest log.
    pub fn best_successor(&self) -> Option<ReplicaId> {
        let Standing::Leader(leader) = &self.standing else { return None };
        let membership = self.log.membership();
        leader
            .peers
            .iter()
            .filter(|(id, _)| membership.role(**id) == Some(Role::Voter))
            .max_by_key(|(_, peer)| (peer.is_active(&self.config), peer.matched))
            .map(|(id, _)| *id)
    }
}

fn timeout_now(from: ReplicaId, to: ReplicaId, term: Term) -> Effect {
    Effect::Send(Message { from, to, term, body: Body::TimeoutNow })
}
