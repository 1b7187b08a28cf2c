// SPDX-License-Identifier: Apache-2.0

//! From the leader's log into everybody's (Raft §5.3, §5.4.2; thesis §10.2.1).
//!
//! The leader sends its entries to the others before they are durable at home (rule D3): the majority that commits them may
//! well be without it. Once per turn every follower gets what is new in one append; the follower writes the appends of its
//! turn at once and acknowledges them with one answer. Only entries of the leader's own term are committed by counting.

use std::collections::BTreeMap;

use mraft_types::limits::MEMBERS_MAX;
use mraft_types::planted;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, Index, LogPosition, NodeId, Payload, ReplicaId, Role, Term,
};

use crate::admission::{APPEND_ENTRIES_MAX, Ignored};
use crate::config::Config;
use crate::durability::After;
use crate::effect::Effect;
use crate::event::ReadBack;
use crate::log_view::LogView;
use crate::message::{AppendReply, Body, Message};
use crate::progress::{Pipeline, Probe, Progress, Reading, State};
use crate::quiesce::{Offer, Quiescing};
use crate::quorum;
use crate::raft::{Raft, Standing};
use crate::reads::Reads;
use crate::transfer::Transfer;

/// What only a leader keeps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    /// Index of the entry that it appended when it was elected.
    pub(crate) term_start: Index,
    pub(crate) peers: BTreeMap<ReplicaId, Progress>,
    pub(crate) reads: Reads,
    pub(crate) transfer: Option<Transfer>,
    /// Everybody is due a sign of life.
    pub(crate) heartbeat_due: bool,
    /// Whoever does not know how far the log is committed is due to be told, if nothing else tells it on the way.
    pub(crate) notices_due: bool,
    /// Ticks since the last check whether a majority answers.
    quorum_check_ticks: u32,
    pub(crate) quiescing: Quiescing,
}

impl Leader {
    pub(crate) fn new(term_start: Index) -> Leader {
        Leader {
            term_start,
            peers: BTreeMap::new(),
            reads: Reads::default(),
            transfer: None,
            heartbeat_due: false,
            notices_due: false,
            quorum_check_ticks: 0,
            quiescing: Quiescing::default(),
        }
    }

    /// Everybody has one election timeout from now to answer.
    pub(crate) fn begin_quorum_check(&mut self) {
        self.quorum_check_ticks = 0;
        self.peers.values_mut().for_each(|peer| peer.silent_ticks = 0);
    }

    pub(crate) fn transfer_to(&self) -> Option<ReplicaId> {
        self.transfer.map(|transfer| transfer.to)
    }
}

/// The follower's half.
impl Raft {
    /// Rule D9: the leader remembers acknowledgements of this replica in its term. If the log does not reach that far, it has
    /// lost entries, and nothing that it says could be counted any more.
    pub(crate) fn holds_what_it_acknowledged(&mut self, matched: Index) -> bool {
        if planted!(LostLogUnnoticed) {
            return true;
        }
        if matched > self.log.last() {
            self.condemn(CondemnedReason::LogLost);
        }
        matched <= self.log.last()
    }

    pub(crate) fn handle_append(
        &mut self,
        from: ReplicaId,
        mut prev: LogPosition,
        mut entries: Vec<Entry>,
        commit: Index,
        matched: Index,
    ) {
        if matches!(self.standing, Standing::Installing(_)) {
            return self.ignore(Ignored::Installing);
        }
        let is_notice = entries.is_empty() && prev.index <= matched;
        let start = self.log.start().position;
        if prev.index < start.index && start.index > 0 {
            // What the log begins behind is committed: the leader's entries there are the same, as far as their terms can tell.
            let covered = usize::try_from(start.index - prev.index).unwrap_or(usize::MAX).min(entries.len());
            let last = entries[..covered].last().map_or(prev, Entry::position);
            let contradicts = last.term > start.term || last.index == start.index && last.term < start.term;
            if contradicts && !planted!(BeginningUnchecked) {
                return self.contradicts_committed(last.index, commit);
            }
            if last.index < start.index {
                if !is_notice {
                    self.durability.acknowledge(last.index);
                }
                return;
            }
            entries.drain(..covered);
            prev = start;
        }
        let is_taken_for_known = planted!(PrevIgnored)
            && prev.index <= self.log.last()
            && entries.first().is_some_and(|entry| self.log.term_at(prev.index) <= Some(entry.term));
        if !self.log.contains(prev) && !is_taken_for_known || self.is_memberless() {
            if prev.index <= self.log.commit() && !self.is_memberless() {
                return self.contradicts_committed(prev.index, commit);
            }
            let hint = self.log.position_at_most(prev.index, prev.term).unwrap_or(start);
            let reply = AppendReply::Rejected { prev: prev.index, hint };
            return self.send(After::Term, from, Body::AppendReply(reply));
        }
        let is_known = |entry: &&Entry| self.log.contains(entry.position()) && !planted!(AppendTruncates);
        let known = entries.iter().take_while(is_known).count();
        let new = entries.split_off(known);
        let last = prev.index + (known + new.len()) as u64;
        if let Some(first) = new.first() {
            if first.index <= self.log.commit() {
                return self.contradicts_committed(first.index, commit);
            }
            if first.index <= self.log.last() {
                self.log.truncate_from(first.index);
                self.durability.overwritten_from(first.index);
            }
        }
        for entry in new {
            self.log.append(entry);
        }
        self.follow_commit(commit.min(last));
        if !is_notice {
            self.durability.acknowledge(last);
        }
    }

    /// A leader that a majority elected has another entry here than the one that is committed. Between replicas that lost nothing that
    /// cannot be: the others gave up what this one has applied, because a majority of them lost it (rule D9). Once the leader's entry is
    /// committed, what is here is not the group any more, and must not be read as if it were. Until then this replica may still lead the
    /// group on with what it has.
    fn contradicts_committed(&mut self, index: Index, leader_commit: Index) {
        self.ignore(Ignored::ContradictsCommitted);
        if index <= leader_commit && !planted!(GivenUpFollows) {
            self.condemn(CondemnedReason::Divergence);
        }
    }

    pub(crate) fn handle_heartbeat(&mut self, from: ReplicaId, commit: Index, matched: Index, round: u64) {
        if self.is_memberless() {
            return self.ignore(Ignored::Memberless);
        }
        // Only what this replica acknowledged in this term is known to be the leader's own log.
        self.follow_commit(if planted!(HeartbeatCommitsAll) { commit } else { commit.min(matched) });
        self.send(After::Term, from, Body::HeartbeatReply { round });
    }
}

/// The leader's half.
impl Raft {
    pub(crate) fn tick_leader(&mut self, beat_due: bool) {
        if self.is_asleep() {
            return;
        }
        let Standing::Leader(leader) = &mut self.standing else { return };
        let config = &self.config;
        leader.heartbeat_due |= beat_due;
        leader.notices_due = true;
        leader.quorum_check_ticks += 1;
        let check_due = leader.quorum_check_ticks >= config.election_ticks;
        for peer in leader.peers.values_mut() {
            peer.tick(config.election_ticks);
            if check_due {
                peer.ask_again();
            }
        }
        if check_due {
            leader.quorum_check_ticks = 0;
        }
        if check_due && config.check_quorum && !self.hears_quorum() {
            return self.become_follower(self.term, None);
        }
        self.tick_transfer(beat_due);
        self.tick_quiescing();
    }

    pub(crate) fn handle_append_reply(&mut self, from: ReplicaId, reply: AppendReply) {
        let last = self.log.last();
        let Some(peer) = self.peer(from) else { return };
        peer.answered();
        match reply {
            AppendReply::Accepted { matched } if matched > last => self.ignore(Ignored::Malformed),
            AppendReply::Accepted { matched } => {
                let Standing::Leader(leader) = &mut self.standing else { return };
                let Some(peer) = leader.peers.get_mut(&from) else { return };
                if peer.accepted(matched, self.log.start_index()) {
                    self.commit_what_a_majority_has();
                }
            }
            AppendReply::Rejected { prev, hint } => {
                let Standing::Leader(leader) = &mut self.standing else { return };
                let Some(peer) = leader.peers.get_mut(&from) else { return };
                if !peer.rejected(prev, hint, &self.log) {
                    self.ignore(Ignored::Stale);
                }
            }
        }
    }

    pub(crate) fn handle_heartbeat_reply(&mut self, from: ReplicaId, round: u64) {
        let newest = match &self.standing {
            Standing::Leader(leader) => leader.reads.newest_sent(),
            _ => 0,
        };
        let Some(peer) = self.peer(from) else { return };
        peer.answered();
        peer.heartbeat_answered();
        // A round that was not sent in this term cannot be confirmed in it.
        if round <= newest {
            let round = if planted!(ReadRoundReused) { newest } else { round };
            peer.confirmed_round = peer.confirmed_round.max(round);
        } else {
            self.ignore(Ignored::Malformed);
        }
    }

    pub(crate) fn handle_log_read(&mut self, order: u64, to: ReplicaId, found: ReadBack) {
        let Raft { standing: Standing::Leader(leader), log, config, .. } = self else {
            return self.ignore(Ignored::NotLeading);
        };
        let Some(peer) = leader.peers.get_mut(&to) else { return self.ignore(Ignored::Unasked) };
        let State::Replicate(pipeline) = &mut peer.state else { return self.ignore(Ignored::Unasked) };
        let first = match pipeline.reading {
            Some(Reading::Ordered { order: asked, first }) if asked == order => first,
            _ => return self.ignore(Ignored::Unasked),
        };
        pipeline.reading = matches!(found, ReadBack::NotNow).then_some(Reading::AtNextTick);
        let are_ours = |entries: &Vec<Entry>| {
            let is_ours = |(entry, index): (&Entry, Index)| {
                entry.index == index && log.term_at(index) == Some(entry.term)
            };
            !entries.is_empty() && entries.iter().zip(first..).all(is_ours)
        };
        match found {
            // Acknowledged meanwhile.
            _ if first != peer.next => {}
            ReadBack::NotNow => {}
            ReadBack::Entries(entries) if are_ours(&entries) => pipeline.fetched = entries,
            // The log does not have what it should: the state machine does.
            ReadBack::Entries(_) | ReadBack::Gone => {
                peer.needs_snapshot(log.applied(), config.snapshot_deadline_ticks);
            }
        }
    }

    pub(crate) fn handle_peer_lost(&mut self, node: NodeId) {
        let Standing::Leader(leader) = &mut self.standing else { return };
        let mut has_peer = false;
        for (_, peer) in leader.peers.iter_mut().filter(|(id, _)| id.node() == node) {
            peer.lost();
            has_peer = true;
        }
        if has_peer {
            self.wake();
        }
    }

    /// Rule D4 for this replica, acknowledgements for the others: what a majority has is committed, if it is of this term.
    pub(crate) fn commit_what_a_majority_has(&mut self) {
        let Standing::Leader(leader) = &self.standing else { return };
        let mut reached = [0; MEMBERS_MAX];
        let mut count = 0;
        let members = self.log.membership().members.iter();
        let counting = members.filter(|(_, member)| member.role.counts() || planted!(LearnersCount));
        for (slot, (id, _)) in reached.iter_mut().zip(counting) {
            *slot = match leader.peers.get(id) {
                _ if *id == self.config.id && planted!(OwnUndurableCounts) => self.log.last(),
                _ if *id == self.config.id => self.durability.durable_index(),
                Some(peer) => peer.matched,
                None => 0,
            };
            count += 1;
        }
        let agreed = quorum::agreed(&mut reached[..count]);
        if agreed >= leader.term_start || planted!(OldTermCounted) {
            self.commit_to(agreed);
        }
    }

    /// Everything a leader has to say, once its term is durable (rule D1). A leader that must resign says it for the last time, and lets
    /// somebody campaign at once (rule M1).
    pub(crate) fn poll_leader(&mut self, out: &mut Vec<Effect>) {
        if !self.durability.holds_term(self.term, self.vote) {
            return;
        }
        let has_committed = self.has_committed_in_term();
        let resigns = self.must_resign();
        let Raft { standing: Standing::Leader(leader), log, log_order, config, term, round, .. } = self
        else {
            return;
        };
        if (has_committed || planted!(ReadBeforeTermCommit)) && leader.reads.send(*round, log.commit()) {
            leader.heartbeat_due = true;
        }
        let heartbeat_due = std::mem::take(&mut leader.heartbeat_due);
        let notices_due = std::mem::take(&mut leader.notices_due) || resigns;
        let notices_due = notices_due && !(planted!(RemovalUntold) && resigns);
        let newest_round = leader.reads.newest_sent();
        let offer = &leader.quiescing.offer;
        let mut voice = Voice { config, term: *term, log, log_order, notices_due, out };
        for (id, peer) in &mut leader.peers {
            match offer {
                _ if !heartbeat_due => {}
                Some(offer) if offer.is_taken => {}
                Some(offer) => voice.quiesce(*id, peer, offer),
                None => voice.heartbeat(*id, peer, newest_round),
            }
            voice.replicate(*id, peer);
        }
        self.poll_transfer(out);
        self.poll_reads(out);
        if resigns {
            self.order_successor(out);
            self.become_follower(self.term, None);
        }
    }

    /// The leader's progress of a peer that just spoke; `None` (and counted) when there is none.
    pub(crate) fn peer(&mut self, from: ReplicaId) -> Option<&mut Progress> {
        let reason = match &self.standing {
            Standing::Leader(leader) if leader.peers.contains_key(&from) => None,
            Standing::Leader(_) => Some(Ignored::Unasked),
            _ => Some(Ignored::NotLeading),
        };
        if let Some(reason) = reason {
            self.ignore(reason);
        }
        match &mut self.standing {
            Standing::Leader(leader) => leader.peers.get_mut(&from),
            _ => None,
        }
    }

    /// CheckQuorum: whether a majority answered within the last election timeout.
    fn hears_quorum(&self) -> bool {
        let Standing::Leader(leader) = &self.standing else { return false };
        let (mut voters, mut heard) = (0, 0);
        for id in self.log.membership().counting() {
            voters += 1;
            let is_active = |peer: &Progress| peer.is_active(&self.config);
            if id == self.config.id || leader.peers.get(&id).is_some_and(is_active) {
                heard += 1;
            }
        }
        heard >= quorum::majority(voters)
    }
}

/// A leader's way of saying things at a poll.
struct Voice<'a> {
    config: &'a Config,
    term: Term,
    log: &'a LogView,
    log_order: &'a mut u64,
    notices_due: bool,
    out: &'a mut Vec<Effect>,
}

impl Voice<'_> {
    fn say(&mut self, to: ReplicaId, body: Body) {
        self.out.push(Effect::Send(Message { from: self.config.id, to, term: self.term, body }));
    }

    fn heartbeat(&mut self, to: ReplicaId, peer: &mut Progress, round: u64) {
        let commit = self.log.commit();
        let commit = if planted!(HeartbeatCommitsAll) { commit } else { commit.min(peer.matched) };
        peer.told_commit = peer.told_commit.max(commit);
        self.say(to, Body::Heartbeat { commit, matched: peer.matched, round });
    }

    fn quiesce(&mut self, to: ReplicaId, peer: &Progress, offer: &Offer) {
        let Offer { number, life, .. } = *offer;
        self.say(to, Body::Quiesce { last: peer.matched, life, number });
    }

    /// Entries behind `prev`; tells the commit index on the way.
    fn append(&mut self, to: ReplicaId, peer: &mut Progress, prev: LogPosition, mut entries: Vec<Entry>) {
        if self.log.membership().role(to) == Some(Role::Witness) {
            // A witness keeps positions, not data (rule M5).
            for entry in entries.iter_mut().filter(|entry| entry.kind == EntryKind::Commands) {
                entry.payload = Payload::new();
            }
        }
        let commit = self.log.commit();
        let told = commit.min(prev.index + entries.len() as u64);
        peer.told_commit = peer.told_commit.max(told);
        self.say(to, Body::Append { prev, entries, commit, matched: peer.matched });
    }

    fn replicate(&mut self, to: ReplicaId, peer: &mut Progress) {
        // A peer that is waited for may have been sent a snapshot in vain just now: first it has to give a sign of life (rule N2).
        let is_waited_for = matches!(peer.state, State::Snapshot | State::Probe(Probe::Waiting));
        if !is_waited_for && self.log.term_at(peer.next - 1).is_none() {
            let at_least = self.log.member_since(to).max(self.log.start_index());
            peer.needs_snapshot(at_least, self.config.snapshot_deadline_ticks);
        }
        match &mut peer.state {
            State::Snapshot => {
                if let Some(at_least) = peer.order_snapshot(self.log.applied()) {
                    self.out.push(Effect::SendSnapshot { to, at_least });
                }
            }
            State::Probe(probe) => {
                let bytes_max = match std::mem::replace(probe, Probe::Waiting) {
                    Probe::Waiting => return,
                    Probe::Ready => Some(self.config.append_bytes_max),
                    Probe::Again => None,
                };
                let first = peer.next;
                let Some(prev) = self.position_before(first) else { return };
                let entries =
                    bytes_max.and_then(|bytes_max| self.entries(first, bytes_max)).unwrap_or_default();
                self.append(to, peer, prev, entries);
            }
            State::Replicate(pipeline) => {
                let mut pipeline = std::mem::take(pipeline);
                self.stream(to, peer, &mut pipeline);
                peer.state = State::Replicate(pipeline);
            }
        }
    }

    /// Fills the pipeline; then tells the commit index, if that was not on the way.
    fn stream(&mut self, to: ReplicaId, peer: &mut Progress, pipeline: &mut Pipeline) {
        let config = self.config;
        while peer.next <= self.log.last() && pipeline.reading.is_none() {
            let Some(room) = pipeline.room_bytes(config) else { break };
            let bytes_max = config.append_bytes_max.min(room);
            let first = peer.next;
            let fetched = std::mem::take(&mut pipeline.fetched);
            let entries = match self.entries(first, bytes_max) {
                Some(entries) => entries,
                None if fetched.first().is_some_and(|entry| entry.index == first) => fetched,
                None => {
                    *self.log_order += 1;
                    let order = *self.log_order;
                    pipeline.reading = Some(Reading::Ordered { order, first });
                    let last = self.log.cached_first() - 1;
                    self.out.push(Effect::ReadLog { order, to, first, last, max_bytes: bytes_max });
                    break;
                }
            };
            let bytes = entries.iter().map(Entry::cost_bytes).sum();
            if !pipeline.is_empty() && bytes > room {
                break;
            }
            let Some(prev) = self.position_before(first) else { break };
            let Some(last) = entries.last().map(|entry| entry.index) else { break };
            peer.next = last + 1;
            pipeline.sent(last, bytes);
            pipeline.nudge = false;
            self.append(to, peer, prev, entries);
        }
        if std::mem::take(&mut pipeline.nudge)
            && let Some(prev) = self.position_before(peer.next)
        {
            self.append(to, peer, prev, Vec::new());
        }
        // Under load the next append tells the commit index; only what is left over at a tick gets a notice of its own, which saves a
        // message and a turn of every follower per write. Reads do not wait for it: their round tells it (rule R2). A notice hangs
        // on what the peer acknowledged, so it needs no answer.
        if self.notices_due
            && self.log.commit().min(peer.matched) > peer.told_commit
            && let Some(prev) = self.position_before(peer.matched + 1)
        {
            self.append(to, peer, prev, Vec::new());
        }
    }

    fn entries(&self, first: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        let last = self.log.last().min(first.saturating_add(APPEND_ENTRIES_MAX as u64 - 1));
        self.log.entries(first, last, bytes_max)
    }

    fn position_before(&self, index: Index) -> Option<LogPosition> {
        let index = index.checked_sub(1)?;
        Some(LogPosition { index, term: self.log.term_at(index)? })
    }
}
