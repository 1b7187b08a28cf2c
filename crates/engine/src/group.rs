// SPDX-License-Identifier: Apache-2.0

//! One group's turn: queued requests into the core, the core's effects out.

use std::collections::VecDeque;

use mraft_raft::{Body, ChangeError, Message, ProposeRefused, Raft, ReadRefused};
use mraft_types::limits::COMMAND_BYTES_MAX;
use mraft_types::planted;
use mraft_types::{
    ChangeRefused, Entry, GroupUid, Index, LogPosition, LogStart, MembershipChange, NodeId, ReplicaId,
};

use crate::comparison::{Comparison, Depth, Dispute, StateHash, Verdict};
use crate::config::Limits;
use crate::effect::{Answer, ApplyJob, Effect, Notice};
use crate::error::NotApplied;
use crate::event::{Event, NodeEvent, Now, ReadKind, Ticket};
use crate::lives::Lives;
use crate::log_time::{LogTime, PeerClocks};
use crate::packing::{CommandKind, EntryBuilder, NO_SLOT, PackedCommand};
use crate::requests::{Answers, NOBODY, PendingChange, Readers, Requests};

/// What a group needs to know of its surroundings during a turn.
pub(crate) struct Surroundings<'a> {
    pub(crate) now: Now,
    pub(crate) node: NodeId,
    pub(crate) limits: &'a Limits,
    pub(crate) clocks: &'a PeerClocks,
    pub(crate) lives: &'a Lives,
    /// The node holds too many bytes of proposals and entries in memory (rule T2).
    pub(crate) is_pressed: bool,
}

/// A group: the consensus core and the requests that wait for it.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) uid: GroupUid,
    pub(crate) raft: Raft,
    pub(crate) requests: Requests,
    pub(crate) feature_level: u32,
    applied: Index,
    log_time: LogTime,
    pub(crate) comparison: Comparison,
    /// Jobs that the apply side was given with their entries: last index and bytes.
    jobs: VecDeque<(Index, usize)>,
    jobs_bytes: usize,
    /// What the engine's account has for this group.
    pub(crate) held_bytes: usize,
    core_effects: Vec<mraft_raft::Effect>,
    /// Whether the replica led at the end of its last turn.
    led: bool,
    was_condemned: bool,
    /// See [`crate::Engine::epoch`]; what the engine has not counted yet.
    pub(crate) epochs: u64,
}

impl Group {
    pub(crate) fn new(uid: GroupUid, raft: Raft, feature_level: u32) -> Group {
        let (applied, was_condemned) = (raft.applied(), raft.condemned().is_some());
        Group {
            uid,
            raft,
            requests: Requests::default(),
            feature_level,
            applied,
            log_time: LogTime::default(),
            comparison: Comparison::default(),
            jobs: VecDeque::new(),
            jobs_bytes: 0,
            held_bytes: 0,
            core_effects: Vec::new(),
            led: false,
            was_condemned,
            epochs: 0,
        }
    }

    /// Bytes of proposals and entries that this group holds in memory. What is cached and being applied counts twice: one may be let
    /// go of before the other.
    pub(crate) fn weight(&self) -> usize {
        self.requests.pending_bytes + self.raft.cached_bytes() + self.jobs_bytes
    }

    /// Tells the core how all nodes live (rule Q2).
    pub(crate) fn hear_lives(&mut self, lives: &Lives) {
        lives.all().for_each(|(node, life)| self.hear_life(node, Some(life), 0));
    }

    /// Tells the core how a node lives, after so many ticks in which it said nothing; `None` when it goes on saying nothing (rule Q2).
    pub(crate) fn hear_life(&mut self, node: NodeId, life: Option<u64>, silent_ticks: u32) {
        self.raft.step(mraft_raft::Event::PeerLife { node, life, silent_ticks });
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    /// `wave`: how many ticks the groups before this one take to campaign after the same suspicion.
    pub(crate) fn handle_node_event(
        &mut self,
        around: &Surroundings<'_>,
        event: NodeEvent,
        wave: u32,
        answers: &mut Answers,
    ) {
        match event {
            NodeEvent::Tick { random } => {
                self.requests.expire(around.now.tick, answers);
                // Every group of every node draws its own election timeout.
                let random = random ^ spread(self.raft.id().get() ^ u64::from_le_bytes(half(&self.uid)));
                self.raft.step(mraft_raft::Event::Tick { number: around.now.tick, random });
            }
            NodeEvent::PeerLost { node } => self.raft.step(mraft_raft::Event::PeerLost { node }),
            NodeEvent::NodeSuspected { node } => {
                let campaign_after_ticks = self.rank_for_suspicion(node).saturating_add(wave);
                self.raft.step(mraft_raft::Event::NodeSuspected { node, campaign_after_ticks });
            }
            NodeEvent::PeerClock { .. } | NodeEvent::PeerLife { .. } => {}
        }
    }

    pub(crate) fn handle_event(&mut self, around: &Surroundings<'_>, event: Event, out: &mut Vec<Effect>) {
        let mut answers = Answers::new();
        match event {
            // What is not durable cannot be let go of, so that a slow disk would fill the memory with what leaders go on sending. It is as
            // if it had been lost on the way: heartbeats keep the leader known, and it sends again what was not acknowledged.
            Event::Message { message, .. } if around.is_pressed && carries_entries(&message) => {}
            Event::Message { uid, message } if uid == self.uid => {
                self.raft.step(mraft_raft::Event::Received(message))
            }
            Event::Message { uid, message } => {
                out.push(Effect::Notice(Notice::ForeignUid { node: message.from.node(), theirs: uid }));
            }
            Event::Propose(proposals) => {
                for proposal in proposals {
                    let bytes = proposal.body.len();
                    let refused = if bytes > COMMAND_BYTES_MAX {
                        Some(NotApplied::TooLarge { bytes, max_bytes: COMMAND_BYTES_MAX })
                    } else if around.is_pressed {
                        Some(NotApplied::Busy("the node's memory for proposals and entries"))
                    } else if self.requests.pending_bytes + bytes > around.limits.pending_bytes_max
                        || self.requests.pending.len() >= around.limits.pending_count_max
                    {
                        Some(NotApplied::Busy("the group's queue of proposals"))
                    } else {
                        None
                    };
                    match refused {
                        Some(reason) => answers.push((proposal.ticket, Answer::NotApplied(reason))),
                        None => {
                            self.requests.pending_bytes += bytes;
                            self.requests.pending.push_back(proposal);
                        }
                    }
                }
            }
            Event::ProposeCheckpoint(ticket) => {
                if self.requests.checkpoints.len() >= around.limits.pending_count_max {
                    let busy = NotApplied::Busy("the group's queue of proposals");
                    answers.push((ticket, Answer::NotApplied(busy)));
                } else {
                    self.requests.checkpoints.push_back(ticket);
                }
            }
            Event::Read { kind, tickets, deadline_tick } => {
                if self.requests.reads_count + tickets.len() > around.limits.reads_max {
                    let busy = Answer::NotApplied(NotApplied::Busy("the group's queue of reads"));
                    answers.extend(tickets.into_iter().map(|ticket| (ticket, busy.clone())));
                } else {
                    let readers = Readers { kind, tickets, deadline_tick };
                    match kind {
                        ReadKind::AppliedThrough(index) => {
                            self.requests.wait_applied(index, self.applied, readers, &mut answers);
                        }
                        ReadKind::Linearizable | ReadKind::IndexOnly => {
                            self.requests.reads_count += readers.tickets.len();
                            self.requests.reads_waiting.push(readers);
                        }
                    }
                }
            }
            Event::Change { ticket, change, expected_change_index, deadline_tick } => {
                self.propose_change(ticket, &change, expected_change_index, deadline_tick, &mut answers);
            }
            Event::Transfer { ticket, to } => self.transfer(ticket, to, &mut answers),
            Event::Persisted { write } => self.raft.step(mraft_raft::Event::Persisted { write }),
            Event::Applied { index, disputed } => {
                self.applied = self.applied.max(index);
                self.log_says(disputed, &mut answers, out);
                self.raft.step(mraft_raft::Event::Applied { index });
                while let Some((_, bytes)) = self.jobs.pop_front_if(|(last, _)| *last <= index) {
                    self.jobs_bytes -= bytes;
                }
                self.requests.applied(self.applied, &mut answers);
            }
            Event::Hashed(hash) => match self.raft.leader() {
                Some(leader) if leader == self.raft.id() => self.compare(around, leader, hash, out),
                Some(to) => {
                    let (uid, from) = (self.uid, self.raft.id());
                    out.push(Effect::TellHash { uid, from, to, hash });
                }
                None => {}
            },
            Event::PeerHashed { uid, from, hash } => {
                if uid == self.uid && self.raft.is_leader() {
                    self.compare(around, from, hash, out);
                }
            }
            Event::LogRead { order, to, found } => {
                self.raft.step(mraft_raft::Event::LogRead { order, to, found });
            }
            Event::SnapshotReceived { from, term, start } => {
                self.raft.step(mraft_raft::Event::SnapshotReceived { from, term, start });
            }
            Event::SnapshotInstalled { start } => {
                let covered = start.position.index;
                self.raft.step(mraft_raft::Event::SnapshotInstalled { start });
                self.applied = self.applied.max(covered);
                self.requests.covered(covered, &mut answers);
                self.requests.applied(self.applied, &mut answers);
            }
            Event::SnapshotProgress { to } => self.raft.step(mraft_raft::Event::SnapshotProgress { to }),
            Event::SnapshotSent { to, ok } => self.raft.step(mraft_raft::Event::SnapshotSent { to, ok }),
            // The entries are what a replica that is missing needs to come to a state of its own.
            Event::Truncate { .. } if self.comparison.disputed().is_some() => {}
            Event::Truncate { index } => {
                if let Some(term) = self.raft.term_at(index) {
                    // The core knows itself which membership is in force there.
                    let start = LogStart { position: LogPosition { index, term }, ..LogStart::default() };
                    self.raft.step(mraft_raft::Event::Truncate { start });
                }
            }
            Event::Condemn { reason } => self.raft.step(mraft_raft::Event::Condemn { reason }),
        }
        push_answers(out, answers);
    }

    /// Moves what waits into the core and carries the core's effects out.
    pub(crate) fn turn(&mut self, around: &Surroundings<'_>, out: &mut Vec<Effect>) {
        let mut answers = Answers::new();
        self.propose_comparison(around, out);
        self.propose_pending(around, &mut answers);
        self.start_reads(&mut answers);
        let mut effects = std::mem::take(&mut self.core_effects);
        self.raft.poll(&mut effects);
        for effect in effects.drain(..) {
            self.translate(around, effect, &mut answers, out);
        }
        self.core_effects = effects;
        push_answers(out, answers);
        let (leads, is_condemned) = (self.raft.is_leader(), self.raft.condemned().is_some());
        self.epochs += u64::from(self.led && !leads) + u64::from(is_condemned && !self.was_condemned);
        (self.led, self.was_condemned) = (leads, is_condemned);
    }

    fn propose_pending(&mut self, around: &Surroundings<'_>, answers: &mut Answers) {
        while let Some(ticket) = self.requests.checkpoints.pop_front() {
            let body = Depth::Content.body();
            if let Err(reason) = self.propose_own(around, CommandKind::Checkpoint, body, ticket) {
                answers.push((ticket, Answer::NotApplied(reason)));
            }
        }
        if let Some(index) = self.comparison.disputed().filter(|_| self.raft.is_leader()) {
            self.requests.refuse_pending(&NotApplied::Disputed(index), answers);
        }
        while !self.requests.pending.is_empty() {
            let mut builder = EntryBuilder::with_capacity(
                self.requests.pending_bytes.min(around.limits.entry_bytes_target)
                    + self.requests.pending.len() * 8,
            );
            let mut packed = Vec::new();
            while let Some(next) = self.requests.pending.front() {
                if !builder.is_empty() && builder.len() + next.body.len() > around.limits.entry_bytes_target {
                    break;
                }
                let Some(next) = self.requests.pending.pop_front() else { break };
                self.requests.pending_bytes = self.requests.pending_bytes.saturating_sub(next.body.len());
                builder.push(&PackedCommand::user(next.slot, &next.body));
                packed.push((next.ticket, next.deadline_tick));
            }
            if let Err(reason) = self.propose(around, builder, packed.iter().copied()) {
                answers.extend(
                    packed.into_iter().map(|(ticket, _)| (ticket, Answer::NotApplied(reason.clone()))),
                );
                self.requests.refuse_pending(&reason, answers);
            }
        }
    }

    /// Compares the replicas' states, when it is time and this one leads (rule E8).
    fn propose_comparison(&mut self, around: &Surroundings<'_>, out: &mut Vec<Effect>) {
        if !self.raft.is_leader() {
            return;
        }
        let Limits { compare_every_ticks, compare_content_every_ticks, .. } = *around.limits;
        let stagger = u64::from_le_bytes(half(&self.uid));
        let last_index = self.raft.last_index();
        let due = self.comparison.due(
            around.now.tick,
            compare_every_ticks,
            compare_content_every_ticks,
            stagger,
            last_index,
        );
        let Some(depth) = due else { return };
        if let Some(verdict) = self.comparison.overdue(self.raft.membership()) {
            self.pass(around, verdict, out);
        }
        // Refused while leadership is handed over, or too much is unapplied: the next one will do.
        _ = self.propose_own(around, CommandKind::Checkpoint, depth.body(), NOBODY);
    }

    /// Counts what a replica found at a checkpoint, and says what follows.
    fn compare(
        &mut self,
        around: &Surroundings<'_>,
        from: ReplicaId,
        hash: StateHash,
        out: &mut Vec<Effect>,
    ) {
        let disputed = self.comparison.disputed();
        let verdict = self.comparison.heard(from, hash, self.raft.membership());
        self.tell_settled(disputed, out);
        if let Some(verdict) = verdict {
            self.pass(around, verdict, out);
        }
    }

    /// What the applied log says of a dispute: a leader that was not there when it was found stops serving too.
    fn log_says(&mut self, dispute: Option<Dispute>, answers: &mut Answers, out: &mut Vec<Effect>) {
        let before = self.comparison.disputed();
        self.comparison.logged(dispute);
        if before.is_none()
            && let Some(index) = self.comparison.disputed().filter(|_| self.raft.is_leader())
        {
            self.requests.refuse_reads(&NotApplied::Disputed(index), answers);
        }
        self.tell_settled(before, out);
    }

    fn tell_settled(&self, before: Option<Index>, out: &mut Vec<Effect>) {
        if before.is_some() && self.comparison.disputed().is_none() && self.raft.is_leader() {
            out.push(Effect::Notice(Notice::Settled));
        }
    }

    fn pass(&mut self, around: &Surroundings<'_>, verdict: Verdict, out: &mut Vec<Effect>) {
        match verdict {
            Verdict::Alone { majority, others } => {
                let mut body = Vec::new();
                majority.encode(&mut body);
                // If it is refused, the next checkpoint finds the same.
                _ = self.propose_own(around, CommandKind::CheckpointHash, &body, NOBODY);
                out.push(Effect::Notice(Notice::Diverged { majority, others }));
            }
            Verdict::Split { dispute, found, is_news } => {
                let mut body = Vec::new();
                dispute.encode(&mut body);
                // As long as it is not in the log, every further checkpoint says it again.
                _ = self.propose_own(around, CommandKind::Dispute, &body, NOBODY);
                if is_news {
                    let found = found.into_iter().collect();
                    out.push(Effect::Notice(Notice::Disputed { index: dispute.index, found }));
                }
            }
            Verdict::Settled { majority } => {
                let mut body = Vec::new();
                majority.encode(&mut body);
                // If it is refused, the next checkpoint settles it.
                _ = self.propose_own(around, CommandKind::CheckpointHash, &body, NOBODY);
            }
        }
    }

    /// An entry of the group's own making.
    fn propose_own(
        &mut self,
        around: &Surroundings<'_>,
        kind: CommandKind,
        body: &[u8],
        ticket: Ticket,
    ) -> Result<(), NotApplied> {
        let mut builder = EntryBuilder::with_capacity(16 + body.len());
        builder.push(&PackedCommand { kind, ..PackedCommand::user(NO_SLOT, body) });
        self.propose(around, builder, std::iter::once((ticket, u64::MAX)))?;
        self.comparison.wrote(self.raft.last_index());
        Ok(())
    }

    fn propose(
        &mut self,
        around: &Surroundings<'_>,
        builder: EntryBuilder,
        tickets: impl Iterator<Item = (Ticket, u64)>,
    ) -> Result<(), NotApplied> {
        if !self.raft.is_leader() {
            return Err(NotApplied::NotLeader(self.raft.leader()));
        }
        let stamp = self.log_time.stamp(around.now, around.node, around.clocks, self.raft.membership());
        let payload = builder.finish(self.feature_level, stamp);
        let position = self.raft.propose(payload.into()).map_err(refused)?;
        self.requests.proposed(position, tickets);
        Ok(())
    }

    fn start_reads(&mut self, answers: &mut Answers) {
        if self.requests.reads_waiting.is_empty() {
            return;
        }
        if let Some(index) = self.comparison.disputed().filter(|_| self.raft.is_leader()) {
            self.requests.refuse_waiting_reads(&NotApplied::Disputed(index), answers);
            return;
        }
        match self.raft.read() {
            Ok(round) => self.requests.join_round(round),
            Err(ReadRefused::NotLeader(leader)) => {
                self.requests.refuse_waiting_reads(&NotApplied::NotLeader(leader), answers);
            }
            Err(_) => {
                let reason = self.raft.condemned().map_or(NotApplied::Stopping, NotApplied::Condemned);
                self.requests.refuse_waiting_reads(&reason, answers);
            }
        }
    }

    fn propose_change(
        &mut self,
        ticket: Ticket,
        change: &MembershipChange,
        expected_change_index: Option<Index>,
        deadline_tick: u64,
        answers: &mut Answers,
    ) {
        if self.requests.change.is_some() {
            answers.push((ticket, Answer::NotApplied(NotApplied::Busy("the group's one membership change"))));
            return;
        }
        match self.raft.propose_change(change, expected_change_index) {
            Ok((position, _)) => {
                self.requests.change = Some(PendingChange { ticket, position, deadline_tick })
            }
            // Repeating the call is harmless (rule M3, row S8).
            Err(ChangeError::Impossible(ChangeRefused::AlreadyMember(_))) => {
                let membership = self.raft.membership().clone();
                let position = LogPosition {
                    index: membership.change_index,
                    term: self.raft.term_at(membership.change_index).unwrap_or(0),
                };
                answers.push((ticket, Answer::Changed { position, membership: Box::new(membership) }));
            }
            Err(error) => answers.push((ticket, Answer::NotApplied(NotApplied::Change(error)))),
        }
    }

    fn transfer(&mut self, ticket: Ticket, to: Option<ReplicaId>, answers: &mut Answers) {
        let refused = if !self.raft.is_leader() {
            Some(NotApplied::NotLeader(self.raft.leader()))
        } else if self.requests.transfer.is_some() {
            Some(NotApplied::Busy("the group's one leadership transfer"))
        } else {
            None
        };
        if let Some(reason) = refused {
            answers.push((ticket, Answer::NotApplied(reason)));
            return;
        }
        let Some(to) = to.or_else(|| self.raft.best_successor()) else {
            let own = self.raft.id();
            answers.push((ticket, Answer::NotApplied(NotApplied::TransferFailed(own))));
            return;
        };
        if to == self.raft.id() {
            answers.push((ticket, Answer::Transferred { to }));
            return;
        }
        self.requests.transfer = Some(ticket);
        self.raft.step(mraft_raft::Event::TransferLeader { to });
    }

    fn translate(
        &mut self,
        around: &Surroundings<'_>,
        effect: mraft_raft::Effect,
        answers: &mut Answers,
        out: &mut Vec<Effect>,
    ) {
        use mraft_raft::Effect as Core;
        match effect {
            Core::Send(message) => out.push(Effect::Send { uid: self.uid, message }),
            Core::Write(write) => out.push(Effect::Write(write)),
            Core::Apply { first, last } => self.apply(around, first, last, answers, out),
            Core::ReadLog { order, to, first, last, max_bytes } => {
                out.push(Effect::ReadLog { order, to, first, last, max_bytes })
            }
            // Whoever installed one side's state could settle nothing any more: it must come to its own by applying.
            Core::SendSnapshot { to, .. } if self.comparison.disputed().is_some() => {
                self.raft.step(mraft_raft::Event::SnapshotSent { to, ok: false });
            }
            Core::SendSnapshot { to, at_least } => {
                out.push(Effect::SendSnapshot { to, at_least, term: self.raft.term() });
            }
            Core::Install { start } => out.push(Effect::Install { start }),
            Core::DropSnapshot { start } => out.push(Effect::DropSnapshot { start }),
            Core::ReadReady { round, index } => {
                self.requests.round_ready(round, index, self.applied, answers)
            }
            Core::ReadsVoid { round } => {
                self.requests.rounds_void(round, &NotApplied::NotLeader(self.raft.leader()), answers);
            }
            Core::LeaderChanged { leader, term } => {
                if planted!(StepDownRefuses) && !self.raft.is_leader() {
                    self.requests.stop(&NotApplied::NotLeader(leader), answers);
                }
                self.log_time.lead_anew();
                self.comparison.new_office();
                out.push(Effect::Notice(Notice::LeaderChanged { leader, term }));
            }
            Core::ElectionStarted(reason) => out.push(Effect::Notice(Notice::ElectionStarted(reason))),
            Core::MembershipCommitted(membership) => {
                // The core keeps what it hears of members only.
                self.hear_lives(around.lives);
                // Whom it removes is told once, which may get lost: asleep it would not ask.
                self.epochs += u64::from(self.raft.is_leader());
                out.push(Effect::Notice(Notice::MembershipCommitted(membership)));
            }
            Core::Condemned(reason) => {
                self.requests.stop(&NotApplied::Condemned(reason), answers);
                out.push(Effect::Notice(Notice::Condemned(reason)));
            }
            Core::Removed { change_index } => {
                let replica = self.raft.id();
                out.push(Effect::Notice(Notice::Removed { replica, change_index }));
            }
            Core::TransferEnded { to, ok } => {
                if let Some(ticket) = self.requests.transfer.take() {
                    let answer = if ok {
                        Answer::Transferred { to }
                    } else {
                        Answer::NotApplied(NotApplied::TransferFailed(to))
                    };
                    answers.push((ticket, answer));
                }
            }
        }
    }

    /// Entries `first..=last` in jobs of bounded size, with the tickets that wait for them.
    fn apply(
        &mut self,
        around: &Surroundings<'_>,
        first: Index,
        last: Index,
        answers: &mut Answers,
        out: &mut Vec<Effect>,
    ) {
        let raft = &self.raft;
        if let Some(change) = self.requests.change.take_if(|change| change.position.index <= last) {
            let own = raft.term_at(change.position.index) == Some(change.position.term);
            let answer = if own {
                let membership = Box::new(raft.committed_membership().clone());
                Answer::Changed { position: change.position, membership }
            } else {
                Answer::NotApplied(NotApplied::Overwritten)
            };
            answers.push((change.ticket, answer));
        }
        let mut next = first;
        while next <= last {
            let entries =
                raft.entries(next, last, around.limits.apply_bytes_max).filter(|entries| !entries.is_empty());
            // The apply side is far behind, or memory is short: it reads these from the log when their turn comes.
            let is_backlog = around.is_pressed || self.jobs_bytes > around.limits.unapplied_jobs_bytes_max;
            let entries = entries.filter(|_| !is_backlog);
            let end = match &entries {
                Some(entries) => entries.last().map_or(last, |entry| entry.index),
                None => last,
            };
            if let Some(entries) = &entries {
                let bytes = entries.iter().map(Entry::cost_bytes).sum();
                self.jobs.push_back((end, bytes));
                self.jobs_bytes += bytes;
            }
            let tickets = self.requests.committed(end, |index| raft.term_at(index), answers);
            out.push(Effect::Apply(ApplyJob { first: next, last: end, entries, tickets }));
            next = end + 1;
        }
    }

    /// How many ticks to wait before campaigning when a leader's node is suspected (rule T5): the voters of one group in turn, the
    /// groups of one node spread, so that they do not all campaign in the same tick.
    fn rank_for_suspicion(&self, suspected: NodeId) -> u32 {
        let seed = u64::from_le_bytes(half(&self.uid)) ^ self.raft.term();
        let mut voters: Vec<u64> = self
            .raft
            .membership()
            .counting()
            .filter(|id| id.node() != suspected)
            .map(|id| spread(seed ^ id.get()))
            .collect();
        voters.sort_unstable();
        let own = spread(seed ^ self.raft.id().get());
        let rank = voters.iter().position(|voter| *voter == own).unwrap_or(voters.len());
        u32::try_from(rank).unwrap_or(u32::MAX).saturating_mul(SUSPICION_STAGGER_TICKS)
    }
}

/// Ticks between the campaigns of two voters of one group after a suspicion: enough for a round trip of votes.
const SUSPICION_STAGGER_TICKS: u32 = 3;

fn carries_entries(message: &Message) -> bool {
    matches!(&message.body, Body::Append { entries, .. } if !entries.is_empty())
}

fn refused(reason: ProposeRefused) -> NotApplied {
    match reason {
        ProposeRefused::NotLeader(leader) => NotApplied::NotLeader(leader),
        ProposeRefused::Transferring(to) => NotApplied::Transferring(to),
        ProposeRefused::TooMuchUnapplied => NotApplied::Busy("the group's log of entries not yet applied"),
        _ => NotApplied::TooLarge { bytes: 0, max_bytes: COMMAND_BYTES_MAX },
    }
}

fn push_answers(out: &mut Vec<Effect>, answers: Answers) {
    out.extend(answers.into_iter().map(|(ticket, answer)| Effect::Answer(ticket, answer)));
}

fn half(uid: &GroupUid) -> [u8; 8] {
    let mut half = [0; 8];
    half.copy_from_slice(&uid.0[..8]);
    half
}

/// SplitMix64's finaliser: neighbouring numbers come out far apart.
fn spread(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
