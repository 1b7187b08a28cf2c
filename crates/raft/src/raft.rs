// SPDX-License-Identifier: Apache-2.0

//! The value: what it is made of, what can happen to it, and the order in which it answers.

use std::collections::BTreeMap;

use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::planted;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, NodeId, Payload,
    ReplicaId, Term,
};

use crate::admission::{Ignored, POSITION_MAX, is_position};
use crate::config::{Config, RestoreError, Restored};
use crate::durability::Durability;
use crate::effect::Effect;
use crate::election::ElectionTimer;
use crate::event::{Event, ProposeRefused};
use crate::log_view::LogView;
use crate::message::{Body, Message};
use crate::progress::PeerStatus;
use crate::quorum::Ballot;
use crate::replication::Leader;

/// One replica of one group.
///
/// Step events in and call `propose`, `propose_change` and `read` as often as there is something to say; then [`Raft::poll`]
/// once. Effects come out in this order: the write, messages that were held back, what a leader has to say, what may be
/// applied, and what the caller should know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) standing: Standing,
    pub(crate) log: LogView,
    pub(crate) durability: Durability,
    pub(crate) timer: ElectionTimer,
    /// A learner refused a candidate whose log is older than its own, and has heard of no leader since (rule M5).
    pub(crate) outran_candidate: bool,
    /// Which span of `heartbeat_ticks` the last tick fell in.
    pub(crate) beat: u64,
    /// The last read round that was handed out; grows over all terms of this life (rule R1).
    pub(crate) round: u64,
    /// The last order to read from the log; grows over all offices of this life, so that an answer that comes late is told apart.
    pub(crate) log_order: u64,
    /// The last offer to sleep; grows over all terms of this life (rule Q1).
    pub(crate) offers: u64,
    /// What the members' nodes say of their lives (rule Q2).
    pub(crate) lives: BTreeMap<NodeId, u64>,
    /// Asleep as a follower, as long as the leader's node lives this life (rule Q1).
    pub(crate) bound_to: Option<u64>,
    /// What the caller is told at the next poll.
    pub(crate) notices: Vec<Effect>,
    /// Leader, term and life that the caller was told last.
    reported: (Option<ReplicaId>, Term, Life),
    pub(crate) ignored: BTreeMap<Ignored, u32>,
}

/// Which life a replica leads, with what only that life needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Standing {
    /// Waits for the snapshot that makes it a member (rule M4): no vote, no acknowledgement.
    Memberless,
    Follower,
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leader>),
    /// A snapshot is being installed (rule N1): votes, but writes no entry and acknowledges nothing.
    Installing(Box<LogStart>),
    /// Rule D9: takes no part.
    Condemned(CondemnedReason),
}

/// Which life a replica leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Life {
    /// Waits for the snapshot that makes it a member (rule M4).
    Memberless,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Installs a snapshot (rule N1).
    Installing,
    /// May never vote or acknowledge again (rule D9).
    Condemned,
}

impl Raft {
    /// A replica as it was left (rule D8). What a log has lost condemns the replica; an error means that the arguments
    /// contradict themselves.
    pub fn new(config: Config, restored: Restored) -> Result<Raft, RestoreError> {
        check_arguments(&config, &restored)?;
        let Restored { hard_state, start, last_index, terms, memberships, applied, condemned } = restored;
        let start_position = start.position;
        let mut log = LogView::new(start, &terms, last_index, memberships);
        let stored = if planted!(StoreForgotten) { 0 } else { applied.index };
        let commit = hard_state.commit.max(stored).max(start_position.index);
        // The start's term was decided by others; a term behind it can only come from this replica's own hard state.
        let term = hard_state.term.max(start_position.term);
        let is_whole = commit <= last_index && log.contains(applied) && log.last_position().term <= term;
        log.restore_progress(commit, applied.index);
        let standing = if start_position.index == 0 { Standing::Memberless } else { Standing::Follower };
        let mut raft = Raft {
            config,
            term,
            vote: hard_state.vote.filter(|_| hard_state.term == term),
            leader: None,
            durability: Durability::new(hard_state, last_index),
            timer: ElectionTimer::default(),
            outran_candidate: false,
            beat: 0,
            round: 0,
            log_order: 0,
            offers: 0,
            lives: BTreeMap::new(),
            bound_to: None,
            notices: Vec::new(),
            reported: (None, hard_state.term, Life::Follower),
            ignored: BTreeMap::new(),
            standing,
            log,
        };
        match condemned {
            Some(reason) => raft.standing = Standing::Condemned(reason),
            // The log was only ever truncated below what the state machine had persisted (rule D11).
            None if applied.index < start_position.index => raft.condemn(CondemnedReason::StateLost),
            None if !is_whole => raft.condemn(CondemnedReason::LogLost),
            None => {}
        }
        raft.reported.2 = raft.life();
        Ok(raft)
    }

    /// Something happened. Nothing leaves before the next [`Raft::poll`].
    pub fn step(&mut self, event: Event) {
        match event {
            Event::Tick { number, random } => self.handle_tick(number, random),
            Event::Received(message) => self.handle_message(message),
            Event::Persisted { write } => self.handle_persisted(write),
            Event::Applied { index } => self.log.applied_to(index),
            Event::LogRead { order, to, found } => self.handle_log_read(order, to, found),
            Event::SnapshotReceived { from, term, start } => self.handle_snapshot_received(from, term, start),
            Event::SnapshotInstalled { start } => self.handle_snapshot_installed(start),
            Event::SnapshotProgress { to } => self.handle_snapshot_progress(to),
            Event::SnapshotSent { to, ok } => self.handle_snapshot_sent(to, ok),
            Event::Truncate { start } => self.handle_truncate(start.position),
            Event::PeerLost { node } => self.handle_peer_lost(node),
            Event::NodeSuspected { node, campaign_after_ticks } => {
                self.handle_node_suspected(node, campaign_after_ticks);
            }
            Event::PeerLife { node, life, silent_ticks } => self.handle_peer_life(node, life, silent_ticks),
            Event::TransferLeader { to } => self.handle_transfer(to),
            Event::Condemn { reason } => self.condemn(reason),
        }
    }

    /// Hands out everything that followed since the last poll, in the order that the type's documentation gives. Afterwards
    /// only what waits for the disk is left.
    pub fn poll(&mut self, out: &mut Vec<Effect>) {
        self.poll_write(out);
        self.poll_messages(out);
        self.poll_leader(out);
        self.poll_apply(out);
        out.append(&mut self.notices);
        self.poll_leader_changed(out);
        let Config { cache_bytes_max, unapplied_bytes_max, .. } = self.config;
        self.log.evict(self.durability.durable_index(), cache_bytes_max, unapplied_bytes_max);
    }

    /// Lets go of every entry that is durable, applied or not: memory is short. They are read back from the log when they are needed.
    pub fn shed(&mut self) {
        self.log.evict(self.durability.durable_index(), 0, 0);
    }

    /// Appends commands to the log of the group that this replica leads. They are decided when an entry is applied at this
    /// position: this one, or another one of another term.
    pub fn propose(&mut self, payload: Payload) -> Result<LogPosition, ProposeRefused> {
        self.may_propose()?;
        if payload.is_empty() || payload.len() > ENTRY_BYTES_MAX {
            return Err(ProposeRefused::BadPayload);
        }
        if self.log.unapplied_bytes() >= self.config.unapplied_bytes_max {
            return Err(ProposeRefused::TooMuchUnapplied);
        }
        Ok(self.append_as_leader(EntryKind::Commands, payload))
    }

    /// Whether this replica takes proposals right now.
    pub(crate) fn may_propose(&self) -> Result<(), ProposeRefused> {
        let Standing::Leader(leader) = &self.standing else {
            return Err(ProposeRefused::NotLeader(self.leader));
        };
        match leader.transfer_to() {
            Some(to) => Err(ProposeRefused::Transferring(to)),
            // It steps down at the next poll: what it appended would only make its log longer than its successor's.
            None if self.must_resign() => Err(ProposeRefused::NotLeader(None)),
            None => Ok(()),
        }
    }

    /// The leader's own entry, sent and written at the next poll.
    pub(crate) fn append_as_leader(&mut self, kind: EntryKind, payload: Payload) -> LogPosition {
        self.wake();
        let entry = Entry { index: self.log.last() + 1, term: self.term, kind, payload };
        let position = entry.position();
        self.log.append(entry);
        position
    }

    fn handle_message(&mut self, message: Message) {
        if let Err(reason) = self.admit(&message) {
            return self.ignore(reason);
        }
        let Message { from, term, body, .. } = message;
        if let Body::Removed { change_index } = body {
            return self.handle_removed(change_index);
        }
        if self.answer_removed(from) {
            return self.ignore(Ignored::SenderRemoved);
        }
        if self.wakes(from, &body) {
            self.wake();
        }
        match body {
            Body::PreVote { last } => self.handle_pre_vote(from, term, last),
            Body::PreVoteReply { granted: true } => self.handle_pre_vote_reply(from, term, true),
            Body::Vote { last, transfer } => self.handle_vote(from, term, last, transfer),
            body if term < self.term => self.answer_stale(from, &body),
            Body::Append { prev, entries, commit, matched } => {
                if self.hear_leader(from, term) && self.holds_what_it_acknowledged(matched) {
                    self.handle_append(from, prev, entries, commit, matched);
                }
            }
            Body::Heartbeat { commit, matched, round } => {
                if self.hear_leader(from, term) && self.holds_what_it_acknowledged(matched) {
                    self.handle_heartbeat(from, commit, matched, round);
                }
            }
            Body::Quiesce { last, life, number } => {
                if self.hear_leader(from, term) && self.holds_what_it_acknowledged(last) {
                    self.handle_quiesce(from, last, life, number);
                }
            }
            body => {
                if term > self.term {
                    self.become_follower(term, None);
                }
                match body {
                    Body::PreVoteReply { granted } => self.handle_pre_vote_reply(from, term, granted),
                    Body::VoteReply { granted } => self.handle_vote_reply(from, granted),
                    Body::AppendReply(reply) => self.handle_append_reply(from, reply),
                    Body::HeartbeatReply { round } => self.handle_heartbeat_reply(from, round),
                    Body::QuiesceReply { number, agreed } => self.handle_quiesce_reply(from, number, agreed),
                    Body::TimeoutNow => self.handle_timeout_now(from),
                    _ => {}
                }
            }
        }
    }

    /// Rule D6.
    fn poll_apply(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.standing, Standing::Condemned(_) | Standing::Installing(_)) {
            return;
        }
        if let Some((first, last)) = self.log.hand_out(self.durability.durable_index()) {
            out.push(Effect::Apply { first, last });
        }
    }

    fn poll_leader_changed(&mut self, out: &mut Vec<Effect>) {
        let now = (self.leader, self.term, self.life());
        if self.reported != now {
            self.reported = now;
            out.push(Effect::LeaderChanged { leader: self.leader, term: self.term });
        }
    }

    /// Rule D9: from now on this replica says nothing that anybody could count.
    pub(crate) fn condemn(&mut self, reason: CondemnedReason) {
        if matches!(self.standing, Standing::Condemned(_)) {
            return self.ignore(Ignored::Condemned);
        }
        self.wake();
        self.leave_office();
        self.leader = None;
        self.standing = Standing::Condemned(reason);
        self.durability.condemn(reason);
        self.notices.push(Effect::Condemned(reason));
    }

    /// This replica.
    pub fn id(&self) -> ReplicaId {
        self.config.id
    }

    /// Its settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Which life it leads.
    pub fn life(&self) -> Life {
        match self.standing {
            Standing::Memberless => Life::Memberless,
            Standing::Follower => Life::Follower,
            Standing::PreCandidate(_) => Life::PreCandidate,
            Standing::Candidate(_) => Life::Candidate,
            Standing::Leader(_) => Life::Leader,
            Standing::Installing(_) => Life::Installing,
            Standing::Condemned(_) => Life::Condemned,
        }
    }

    /// Why it is condemned, if it is.
    pub fn condemned(&self) -> Option<CondemnedReason> {
        match self.standing {
            Standing::Condemned(reason) => Some(reason),
            _ => None,
        }
    }

    /// Whether it leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.standing, Standing::Leader(_))
    }

    /// Whether it never had a log (rule M4); also true while its first snapshot is being installed.
    pub fn is_memberless(&self) -> bool {
        self.log.start_index() == 0
    }

    /// The latest term it has seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Term, vote and commit index as the next write would hold them.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.commit() }
    }

    /// Who leads in this term, as far as it knows.
    pub fn leader(&self) -> Option<ReplicaId> {
        self.leader
    }

    /// The commit index.
    pub fn commit(&self) -> Index {
        self.log.commit()
    }

    /// What the state machine has applied.
    pub fn applied(&self) -> Index {
        self.log.applied()
    }

    /// The last entry of the log.
    pub fn last_index(&self) -> Index {
        self.log.last()
    }

    /// The last entry that is durable here (rule D4).
    pub fn durable_index(&self) -> Index {
        self.durability.durable_index()
    }

    /// Where the log begins.
    pub fn start(&self) -> &LogStart {
        self.log.start()
    }

    /// The term of the entry at `index`; `None` outside the log.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    /// The membership in force: the latest in the log, committed or not (rule M2).
    pub fn membership(&self) -> &Membership {
        self.log.membership()
    }

    /// The latest membership that is known to be committed.
    pub fn committed_membership(&self) -> &Membership {
        self.log.committed_membership()
    }

    /// Entries from memory, cut short once `bytes_max` is exceeded but never empty; `None` when the first one is not in memory.
    pub fn entries(&self, first: Index, last: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        self.log.entries(first, last, bytes_max)
    }

    /// Bytes of the entries in memory.
    pub fn cached_bytes(&self) -> usize {
        self.log.cached_bytes()
    }

    /// Bytes of the entries in memory that are not applied.
    pub fn unapplied_bytes(&self) -> usize {
        self.log.unapplied_bytes()
    }

    /// Whether it leads and has committed an entry of its term, without which it can neither serve reads nor change members.
    pub fn has_committed_in_term(&self) -> bool {
        match &self.standing {
            Standing::Leader(leader) => self.log.commit() >= leader.term_start,
            _ => false,
        }
    }

    /// To whom leadership is being handed.
    pub fn transfer_in_progress(&self) -> Option<ReplicaId> {
        match &self.standing {
            Standing::Leader(leader) => leader.transfer_to(),
            _ => None,
        }
    }

    /// What a leader knows of its peers; empty elsewhere.
    pub fn peers(&self) -> Vec<PeerStatus> {
        match &self.standing {
            Standing::Leader(leader) => {
                leader.peers.iter().map(|(id, progress)| progress.status(*id, &self.config)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What was ignored since the last call, and why.
    pub fn take_ignored(&mut self) -> BTreeMap<Ignored, u32> {
        std::mem::take(&mut self.ignored)
    }

    /// How often something changed nothing, and why, since that was taken.
    pub fn ignored(&self) -> &BTreeMap<Ignored, u32> {
        &self.ignored
    }
}

fn check_arguments(config: &Config, restored: &Restored) -> Result<(), RestoreError> {
    let Config { election_ticks, heartbeat_ticks, .. } = *config;
    if heartbeat_ticks == 0 || election_ticks / 2 < heartbeat_ticks || election_ticks == 2 * heartbeat_ticks {
        return Err(RestoreError::BadTicks { election_ticks, heartbeat_ticks });
    }
    let (start, last) = (restored.start.position, restored.last_index);
    let HardState { term, commit, .. } = restored.hard_state;
    for value in [start.index, start.term, last, term, commit, restored.applied.index, restored.applied.term]
    {
        if value > POSITION_MAX {
            return Err(RestoreError::TooLarge(value));
        }
    }
    if last < start.index {
        return Err(RestoreError::LastBelowStart { last, start: start.index });
    }
    let mut before = start;
    let covers_start = restored.terms.first().is_some_and(|(first, _)| *first == start.index);
    for (at, (first, term)) in restored.terms.iter().enumerate() {
        let position = LogPosition { index: *first, term: *term };
        let fits = if at == 0 && covers_start {
            position == start
        } else if at == 0 {
            position.index == start.index + 1 && position.term >= start.term.max(1)
        } else {
            position.index > before.index && position.term > before.term
        };
        if !fits || position.index > last || !is_position(position) {
            return Err(RestoreError::BadTerms(*first));
        }
        before = position;
    }
    if restored.terms.is_empty() && last > start.index
        || before == start && start.term == 0 && last > start.index
    {
        return Err(RestoreError::BadTerms(last));
    }
    let mut before = start.index;
    for (index, _) in &restored.memberships {
        if *index <= before || *index > last {
            return Err(RestoreError::BadMemberships(*index));
        }
        before = *index;
    }
    Ok(())
}
