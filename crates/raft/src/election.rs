// SPDX-License-Identifier: Apache-2.0

//! Who leads: time, pre-votes, votes (Raft §5.2, §5.4.1; thesis §4.2.3, §9.6).
//!
//! A replica that has not heard of a leader for a random while first asks whether it *could* win (PreVote), which disturbs
//! nobody: no term moves and no vote is given. Who has heard from a live leader within an election timeout ignores such
//! questions (stickiness), so that a replica with a bad link cannot depose a leader that everybody else hears. A leader that
//! hears no majority for an election timeout stops leading (CheckQuorum), so that one whom nobody can answer does not block
//! the others. While a group sleeps neither timeout runs (`quiesce`).
//!
//! A candidate that was refused a vote has a rival: whoever voted is bound for this term, and with a voter down nobody may win it. It does
//! not wait for a whole timeout but asks again soon, so that a vote that was split costs half a timeout at most, and one node down no
//! more than three (promise P7). If the rival did win, the question disturbs nobody.

use mraft_types::planted;
use mraft_types::{Index, LogPosition, NodeId, ReplicaId, Role, Term};

use crate::admission::{Ignored, POSITION_MAX};
use crate::durability::After;
use crate::effect::{Effect, ElectionReason};
use crate::message::Body;
use crate::quorum::{Ballot, Outcome};
use crate::raft::{Raft, Standing};
use crate::replication::Leader;

/// How long no leader was heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ElectionTimer {
    elapsed_ticks: u32,
    /// Drawn at the first tick after a reset.
    timeout_ticks: Option<u32>,
    /// The leader's node is suspected: the timeout was not drawn but set.
    suspicion: bool,
}

impl ElectionTimer {
    /// How long it has run, asleep or not.
    pub(crate) fn elapsed_ticks(&self) -> u32 {
        self.elapsed_ticks
    }

    /// Begins anew, but for so many ticks in which no leader was heard of.
    pub(crate) fn credit(&mut self, ticks: u32) {
        *self = ElectionTimer { elapsed_ticks: ticks, ..ElectionTimer::default() };
    }

    fn has_expired(&self, is_contested: bool, election_ticks: u32) -> bool {
        let waits = |drawn: u32| match is_contested {
            // From one tick up to half an election timeout, by the same draw.
            true => drawn.saturating_sub(election_ticks) / 2 + 1,
            false => drawn,
        };
        self.timeout_ticks.is_some_and(|drawn| self.elapsed_ticks >= waits(drawn))
    }
}

impl Raft {
    pub(crate) fn handle_tick(&mut self, number: u64, random: u64) {
        // Numbers may be left out: a caller that was held up drops the ticks that it missed.
        let beat = number / u64::from(self.config.heartbeat_ticks);
        let beat_due = std::mem::replace(&mut self.beat, beat) != beat;
        match &self.standing {
            Standing::Leader(_) => self.tick_leader(beat_due),
            Standing::Condemned(_) => {}
            _ if self.is_asleep() => {
                // Nothing waits for it, but it may turn out that nobody was heard of meanwhile.
                let elapsed_ticks = self.timer.elapsed_ticks.saturating_add(1);
                self.timer.elapsed_ticks = elapsed_ticks.min(self.config.election_ticks);
            }
            standing => {
                let may_expire = !matches!(standing, Standing::Memberless | Standing::Installing(_));
                let is_contested = matches!(standing, Standing::Candidate(ballot) if ballot.has_refusal());
                let election_ticks = self.config.election_ticks;
                let drawn = election_ticks.saturating_add((random % u64::from(election_ticks)) as u32);
                let timeout = *self.timer.timeout_ticks.get_or_insert(drawn);
                self.timer.elapsed_ticks =
                    self.timer.elapsed_ticks.saturating_add(1).min(timeout.max(election_ticks));
                if may_expire && self.timer.has_expired(is_contested, election_ticks) {
                    let reason = match self.timer.suspicion {
                        true => ElectionReason::Suspicion,
                        false => ElectionReason::Timeout,
                    };
                    self.campaign(reason);
                }
            }
        }
    }

    /// Rule T5: a leader on this node is not waited for; peers there may have lost messages.
    pub(crate) fn handle_node_suspected(&mut self, node: NodeId, campaign_after_ticks: u32) {
        self.handle_peer_lost(node);
        let follows = self.leader.is_some_and(|leader| leader != self.config.id && leader.node() == node);
        if !follows || !matches!(self.standing, Standing::Follower | Standing::Installing(_)) {
            return;
        }
        self.wake();
        self.leader = None;
        self.durability.forget_acks();
        self.timer =
            ElectionTimer { elapsed_ticks: 0, timeout_ticks: Some(campaign_after_ticks), suspicion: true };
        if campaign_after_ticks == 0 && matches!(self.standing, Standing::Follower) {
            self.campaign(ElectionReason::Suspicion);
        }
    }

    /// Stops whatever it did and follows `leader`, if any, in `term`.
    pub(crate) fn become_follower(&mut self, term: Term, leader: Option<ReplicaId>) {
        debug_assert!(term >= self.term, "terms never fall");
        self.leave_office();
        if term > self.term {
            self.term = term;
            self.vote = None;
            self.durability.forget_messages();
        }
        if self.leader != leader {
            self.durability.forget_acks();
            self.leader = leader;
        }
        self.outran_candidate &= leader.is_none();
        let campaigned = matches!(self.standing, Standing::PreCandidate(_) | Standing::Candidate(_));
        if campaigned {
            self.standing = Standing::Follower;
        }
        if leader.is_some() || campaigned {
            self.timer = ElectionTimer::default();
        }
    }

    /// Stops leading, if it does.
    pub(crate) fn leave_office(&mut self) {
        let Standing::Leader(leader) = &mut self.standing else { return };
        if leader.reads.has_waiting() {
            self.notices.push(Effect::ReadsVoid { round: self.round });
        }
        if let Some(transfer) = leader.transfer {
            self.notices.push(Effect::TransferEnded { to: transfer.to, ok: transfer.ordered });
        }
        self.standing = Standing::Follower;
        self.leader = None;
        self.timer = ElectionTimer::default();
    }

    /// Asks for pre-votes. Who may not lead asks all the same but counts no answer: if it was removed without having heard of
    /// it, this is how it will be told (rule M5).
    pub(crate) fn campaign(&mut self, reason: ElectionReason) {
        self.wake();
        self.leave_office();
        self.leader = None;
        self.durability.forget_acks();
        self.timer = ElectionTimer::default();
        let Some(term) = self.next_term() else { return };
        self.standing = Standing::Follower;
        if self.may_campaign() {
            self.notices.push(Effect::ElectionStarted(reason));
            let mut ballot = Ballot::default();
            ballot.record(self.config.id, true);
            self.standing = Standing::PreCandidate(ballot);
        }
        self.ask_everyone(term, Body::PreVote { last: self.log.last_position() });
        self.count_pre_votes();
    }

    /// Asks for votes in a new term.
    pub(crate) fn start_election(&mut self, transfer: bool) {
        let Some(term) = self.next_term() else { return };
        self.become_follower(term, None);
        self.timer = ElectionTimer::default();
        self.vote = Some(self.config.id);
        let mut ballot = Ballot::default();
        ballot.record(self.config.id, true);
        self.standing = Standing::Candidate(ballot);
        self.ask_everyone(term, Body::Vote { last: self.log.last_position(), transfer });
        self.count_votes();
    }

    pub(crate) fn handle_pre_vote(&mut self, from: ReplicaId, term: Term, last: LogPosition) {
        if self.is_loyal_against(from) {
            return self.ignore(Ignored::LeaderAlive);
        }
        let vote_is_free = term > self.term || term == self.term && self.vote.is_none_or(|vote| vote == from);
        if vote_is_free && self.leader.is_none_or(|_| term > self.term) && self.is_up_to_date(last) {
            self.send_in_term(After::Term, from, term, Body::PreVoteReply { granted: true });
        } else {
            self.note_refusal(last);
            self.send(After::Term, from, Body::PreVoteReply { granted: false });
        }
    }

    pub(crate) fn handle_pre_vote_reply(&mut self, from: ReplicaId, term: Term, granted: bool) {
        let asked = self.next_term() == Some(term);
        let Standing::PreCandidate(ballot) = &mut self.standing else { return self.ignore(Ignored::Unasked) };
        if granted && !asked {
            return self.ignore(Ignored::Stale);
        }
        ballot.record(from, granted);
        self.count_pre_votes();
    }

    /// Rule M5: the answer depends on term, vote and log only.
    pub(crate) fn handle_vote(&mut self, from: ReplicaId, term: Term, last: LogPosition, transfer: bool) {
        if !transfer && self.is_loyal_against(from) {
            return self.ignore(Ignored::LeaderAlive);
        }
        if term > self.term {
            self.become_follower(term, None);
        }
        let vote_is_free =
            planted!(VotedTwice) || self.leader.is_none() && self.vote.is_none_or(|vote| vote == from);
        let granted = term == self.term && vote_is_free && self.is_up_to_date(last);
        if granted {
            self.vote = Some(from);
            self.timer = ElectionTimer::default();
            self.send(After::Everything, from, Body::VoteReply { granted });
        } else {
            self.note_refusal(last);
            self.send(After::Term, from, Body::VoteReply { granted });
        }
    }

    /// Whoever asks a learner counts it as a voter, and may not be able to win without it.
    fn note_refusal(&mut self, last: LogPosition) {
        let is_learner = self.log.membership().role(self.config.id) == Some(Role::Learner);
        self.outran_candidate |= is_learner && !self.is_up_to_date(last);
    }

    pub(crate) fn handle_vote_reply(&mut self, from: ReplicaId, granted: bool) {
        let Standing::Candidate(ballot) = &mut self.standing else { return self.ignore(Ignored::Unasked) };
        ballot.record(from, granted);
        self.count_votes();
    }

    /// An append, a heartbeat or an offer to sleep of this term or a newer one: whoever sent it leads. Answers whether to go on with it.
    pub(crate) fn hear_leader(&mut self, from: ReplicaId, term: Term) -> bool {
        let known = self.leader.filter(|_| term == self.term);
        if known.is_some_and(|leader| leader != from) {
            self.ignore(Ignored::SecondLeader);
            return false;
        }
        self.become_follower(term, Some(from));
        true
    }

    /// Tells whoever lives in a former term which one it is, so that a deposed leader learns of it. It may lead the present term too, and
    /// would take a rejection of what it sent then for one of what it sends now: the answer to an append says no more than that.
    pub(crate) fn answer_stale(&mut self, from: ReplicaId, body: &Body) {
        match body {
            Body::Append { .. } | Body::Heartbeat { .. } if !self.is_memberless() => {
                self.send(After::Term, from, Body::HeartbeatReply { round: 0 });
            }
            Body::Quiesce { number, .. } if !self.is_memberless() => {
                self.send(After::Term, from, Body::QuiesceReply { number: *number, agreed: false });
            }
            _ => {}
        }
        self.ignore(Ignored::Stale);
    }

    fn count_pre_votes(&mut self) {
        let Standing::PreCandidate(ballot) = &self.standing else { return };
        match ballot.outcome(self.log.membership()) {
            Outcome::Won => self.start_election(false),
            Outcome::Lost => self.become_follower(self.term, None),
            Outcome::Open => {}
        }
    }

    fn count_votes(&mut self) {
        let Standing::Candidate(ballot) = &self.standing else { return };
        match ballot.outcome(self.log.membership()) {
            Outcome::Won => self.become_leader(),
            // It asks again soon: see above.
            Outcome::Lost | Outcome::Open => {}
        }
    }

    fn become_leader(&mut self) {
        self.leader = Some(self.config.id);
        self.outran_candidate = false;
        let leader = Leader::new(self.log.last() + 1);
        self.standing = Standing::Leader(Box::new(leader));
        self.append_as_leader(mraft_types::EntryKind::Empty, mraft_types::Payload::new());
        self.update_peers();
    }

    fn ask_everyone(&mut self, term: Term, question: Body) {
        let peers: Vec<ReplicaId> =
            self.log.membership().counting().filter(|peer| *peer != self.config.id).collect();
        for peer in peers {
            self.send_in_term(After::Term, peer, term, question.clone());
        }
    }

    /// Stickiness: whether there is a leader that this replica stands by. Whoever asks for votes does not lead, whatever was
    /// heard from it before.
    fn is_loyal_against(&self, candidate: ReplicaId) -> bool {
        match self.standing {
            Standing::Leader(_) => self.config.check_quorum,
            _ => {
                self.leader.is_some_and(|leader| leader != candidate)
                    && (self.is_asleep() || self.timer.elapsed_ticks < self.config.election_ticks)
            }
        }
    }

    /// Voters campaign. Whose role as a voter is about to be taken by a change that may not be committed campaigns too: it may
    /// be the only one whose log is long enough to win (thesis §4.2.2). So may a learner whose log is newer than a candidate's.
    pub(crate) fn may_campaign(&self) -> bool {
        let is_voter =
            |membership: &mraft_types::Membership| membership.role(self.config.id) == Some(Role::Voter);
        is_voter(self.log.membership())
            || is_voter(self.log.committed_membership())
            || self.outran_candidate && !planted!(LearnerStandsBy)
    }

    fn is_up_to_date(&self, last: LogPosition) -> bool {
        let own = self.log.last_position();
        (last.term, last.index) >= (own.term, own.index) || planted!(ShortLogElected)
    }

    fn next_term(&self) -> Option<Term> {
        self.term.checked_add(1).filter(|term| *term <= POSITION_MAX)
    }

    /// The commit index a follower may take over: never above what it knows to be the leader's own log.
    pub(crate) fn follow_commit(&mut self, known: Index) {
        if !matches!(self.standing, Standing::Installing(_)) {
            self.commit_to(known);
        }
    }
}
