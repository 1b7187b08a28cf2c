// SPDX-License-Identifier: Apache-2.0

//! One replica with what a host keeps around it: the shipped core, its disk, the orders that are not durable yet.
//!
//! A [`Step`] is all that can happen to one replica; [`Replica::happen`] carries it out, as `host::core` would, and tells what left the
//! replica and what others may rely on from now on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mraft_raft::{AppendReply, Body, Config, Effect, Event, Ignored, Life, Message, Raft};
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, MembershipChange,
    NodeId, ReplicaId, Role, Term,
};

use crate::broken::{Broken, Promise};
use crate::disk::{Disk, Job, Machine, Snapshot, membership_of};

/// Every replica's election timeout: the shortest with which two ticks, the least that send a heartbeat, are not one.
pub const ELECTION_TICKS: u32 = 4;

/// What clients of each replica write, by its place. A leader's entries differ by index and term, so one value for each will do.
const COMMANDS: [&str; REPLICAS_MAX] = ["a", "b", "c", "d"];

/// Most replicas of a world.
pub const REPLICAS_MAX: usize = 4;

/// The place of a replica in a world: its node's number, from 0.
pub fn place_of(id: ReplicaId) -> usize {
    (id.node().get() as usize - 1).min(REPLICAS_MAX - 1)
}

/// What a client of this replica writes.
pub fn command_of(id: ReplicaId) -> &'static str {
    COMMANDS[place_of(id)]
}

/// What travels between replicas. Snapshots go beside the messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Parcel {
    /// A message of the core.
    Message(Message),
    /// A snapshot, whole.
    Snapshot {
        /// The leader that sends it.
        from: ReplicaId,
        /// Its receiver.
        to: ReplicaId,
        /// The leader's term when it was ordered.
        term: Term,
        /// What it holds.
        snapshot: Arc<Snapshot>,
    },
    /// The receiver has all of a snapshot.
    Arrived {
        /// The receiver.
        from: ReplicaId,
        /// The sender.
        to: ReplicaId,
        /// What the snapshot covers.
        position: LogPosition,
    },
}

impl Parcel {
    /// Who sent it.
    pub fn from(&self) -> ReplicaId {
        match self {
            Parcel::Message(message) => message.from,
            Parcel::Snapshot { from, .. } | Parcel::Arrived { from, .. } => *from,
        }
    }

    /// Whom it is for.
    pub fn to(&self) -> ReplicaId {
        match self {
            Parcel::Message(message) => message.to,
            Parcel::Snapshot { to, .. } | Parcel::Arrived { to, .. } => *to,
        }
    }
}

/// What can happen to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Something arrives.
    Deliver(&'a Parcel),
    /// The oldest order that is not durable becomes so, and the replica hears of it.
    Persist,
    /// Everything handed out is applied.
    Apply,
    /// Everything that followed from earlier steps is carried out (only where turns take in several events).
    Poll,
    /// Time passes until it asks for votes.
    Campaign,
    /// Time passes until it would no longer stand by its leader, but not until it campaigns.
    Doubt,
    /// A tick of this number, with this draw; in calm weather only.
    Tick(u64, u64),
    /// Time passes until a leader sends heartbeats.
    Beat,
    /// A client's command.
    Propose,
    /// A client's linearizable read.
    Read,
    /// An operator's change.
    Change(&'a MembershipChange),
    /// An operator hands leadership over.
    Transfer(ReplicaId),
    /// The store persists, and the log forgets all but the last few entries of that.
    Truncate {
        /// How many applied entries stay.
        keep: u64,
    },
    /// A snapshot that is being sent to this peer fails.
    SnapshotFails(ReplicaId),
    /// The connection to this node breaks.
    PeerLost(NodeId),
    /// This node is suspected to be dead.
    Suspect(NodeId),
    /// A power cut and a restart.
    Crash {
        /// How many of the orders that were not reported durable are, all the same.
        kept: usize,
        /// Whether the store has persisted everything that it applied, rather than nothing new.
        applied: bool,
    },
}

/// What others may rely on from now on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It leads this term.
    Leads(Term),
    /// It knows in this term that this entry is committed, or applies it.
    Committed(Term, Entry),
    /// This vote of this term left.
    Voted(Term, ReplicaId),
    /// A read began and joined this round.
    ReadBegan(u64),
    /// Reads of this round are served at this index.
    ReadServed(u64, Index),
    /// Rounds up to this one will never be served.
    ReadsVoid(u64),
    /// It was told that it is removed, and is gone.
    Gone,
    /// It restarted: what it had not made durable is forgotten.
    Restarted,
}

/// What followed from a step.
#[derive(Clone, Debug, Default)]
pub struct Happened {
    /// What left.
    pub sent: Vec<Parcel>,
    /// What others may rely on.
    pub facts: Vec<Fact>,
    /// Everything that the core asked for, when somebody wants to read it.
    pub effects: Option<Vec<Effect>>,
}

/// How a world's hosts work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hosting {
    /// Writes are durable at once; otherwise each waits for its own step.
    pub disk_at_once: bool,
    /// What is handed out is applied at once; otherwise that waits for its own step.
    pub apply_at_once: bool,
    /// The core is polled after every event; otherwise that waits for its own step, and a turn takes in several.
    pub poll_at_once: bool,
}

/// A replica that is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    raft: Raft,
    disk: Disk,
    jobs: VecDeque<Job>,
    to_apply: Option<(Index, Index)>,
    machine: Arc<Machine>,
    staged: Option<Arc<Snapshot>>,
    installing: Option<Arc<Snapshot>>,
    /// Snapshots on their way, at most one to each peer.
    sending: BTreeMap<ReplicaId, LogPosition>,
    is_gone: bool,
    /// It lost what it had: it may be condemned.
    is_damaged: bool,
}

/// Why a step has no outcome.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Not {
    /// It cannot happen now, or would change nothing that matters.
    Possible,
    /// A promise was broken.
    Kept(Broken),
}

impl From<Broken> for Not {
    fn from(broken: Broken) -> Not {
        Not::Kept(broken)
    }
}

impl Replica {
    /// Starts a replica on what its disk holds.
    pub fn start(config: Config, mut disk: Disk, is_damaged: bool) -> Result<Replica, Broken> {
        let restored = disk.restore();
        let raft = Raft::new(config, restored).map_err(|error| {
            Broken::new(Promise::ReplicaIsSound, format!("{} does not come up: {error}", config.id))
        })?;
        if let Some(reason) = raft.condemned().filter(|_| !is_damaged) {
            return Err(condemned(config.id, reason));
        }
        let machine = Arc::clone(disk.machine());
        let mut replica = Replica {
            raft,
            disk,
            jobs: VecDeque::new(),
            to_apply: None,
            machine,
            staged: None,
            installing: None,
            sending: BTreeMap::new(),
            is_gone: false,
            is_damaged,
        };
        let hosting = Hosting { disk_at_once: true, apply_at_once: true, poll_at_once: true };
        replica.settle(hosting, &mut Happened::default())?;
        Ok(replica)
    }

    /// Lets something happen and carries out what follows.
    pub fn happen(&mut self, step: Step<'_>, hosting: Hosting, out: &mut Happened) -> Result<(), Not> {
        if self.is_gone {
            return Err(Not::Possible);
        }
        let committed = self.raft.commit();
        let led = self.raft.is_leader().then(|| self.raft.term());
        let said = out.sent.len();
        self.take_in(step, out)?;
        match (step, hosting.poll_at_once) {
            (Step::Poll | Step::Crash { .. }, _) | (_, true) => self.settle(hosting, out)?,
            (_, false) => {}
        }
        let by = self.raft.count_anew();
        for job in &mut self.jobs {
            if let Job::Write(write) = job {
                write.number -= by;
            }
        }
        self.note_commits(committed, out);
        if hosting.poll_at_once {
            self.check_resignation(step, led, &out.sent[said..])?;
        }
        if self.raft.is_leader() && led != Some(self.raft.term()) {
            out.facts.push(Fact::Leads(self.raft.term()));
        }
        Ok(())
    }

    fn take_in(&mut self, step: Step<'_>, out: &mut Happened) -> Result<(), Not> {
        let is_leader = self.raft.is_leader();
        match step {
            Step::Deliver(Parcel::Message(message)) => self.raft.step(Event::Received(message.clone())),
            Step::Deliver(Parcel::Snapshot { from, to, term, snapshot }) => {
                // One lies staged at most.
                if self.staged.is_some() {
                    return Err(Not::Possible);
                }
                self.staged = Some(Arc::clone(snapshot));
                let (start, position) = (snapshot.start.clone(), snapshot.start.position);
                out.sent.push(Parcel::Arrived { from: *to, to: *from, position });
                self.raft.step(Event::SnapshotReceived { from: *from, term: *term, start });
            }
            Step::Deliver(Parcel::Arrived { from, position, .. }) => {
                if self.sending.get(from) != Some(position) {
                    return Err(Not::Possible);
                }
                self.sending.remove(from);
                self.raft.step(Event::SnapshotSent { to: *from, ok: true });
            }
            Step::Persist => {
                let job = self.jobs.pop_front().ok_or(Not::Possible)?;
                self.persist(&job)?;
            }
            Step::Apply => {
                let (first, last) = self.to_apply.take().ok_or(Not::Possible)?;
                self.apply(first, last, out)?;
            }
            Step::Poll => {}
            Step::Campaign if !is_leader => self.campaign()?,
            Step::Doubt if !is_leader => self.doubt()?,
            Step::Tick(number, random) => self.tick(number, random),
            Step::Beat if is_leader => {
                // Two ticks, so that the number of the last one tells nothing.
                self.tick(1, 0);
                self.tick(0, 0);
            }
            Step::Propose if is_leader => {
                self.raft.propose(command_of(self.raft.id()).into()).map_err(|_| Not::Possible)?;
            }
            Step::Read if is_leader => {
                let round = self.raft.read().map_err(|_| Not::Possible)?;
                out.facts.push(Fact::ReadBegan(round));
            }
            Step::Change(change) if is_leader => {
                // A leader that is to go hands over instead.
                let before = self.raft.transfer_in_progress();
                let answer = self.raft.propose_change(change, None);
                if answer.is_err() && self.raft.transfer_in_progress() == before {
                    return Err(Not::Possible);
                }
            }
            Step::Transfer(to) if is_leader && self.raft.transfer_in_progress() != Some(to) => {
                self.raft.step(Event::TransferLeader { to });
            }
            Step::Truncate { keep } => {
                let index = self.machine.applied.index.saturating_sub(keep);
                let is_ahead = index > self.raft.start().position.index && self.installing.is_none();
                let term = self.raft.term_at(index).filter(|_| is_ahead).ok_or(Not::Possible)?;
                self.disk.persist_machine(&self.machine);
                let position = LogPosition { index, term };
                self.raft.step(Event::Truncate {
                    start: LogStart { position, membership: Membership::default() },
                });
            }
            Step::SnapshotFails(to) => {
                self.sending.remove(&to).ok_or(Not::Possible)?;
                self.raft.step(Event::SnapshotSent { to, ok: false });
            }
            Step::PeerLost(node) if is_leader => self.raft.step(Event::PeerLost { node }),
            Step::Suspect(node) if self.raft.leader().is_some_and(|leader| leader.node() == node) => {
                self.raft.step(Event::NodeSuspected { node, campaign_after_ticks: 2 * ELECTION_TICKS });
            }
            Step::Crash { kept, applied } => self.crash(kept, applied, out)?,
            _ => return Err(Not::Possible),
        }
        Ok(())
    }

    /// What follows from the steps so far, until nothing does.
    fn settle(&mut self, hosting: Hosting, out: &mut Happened) -> Result<(), Broken> {
        loop {
            let mut effects = Vec::new();
            self.raft.poll(&mut effects);
            if let Err(broken) = self.raft.check() {
                return Err(Broken::new(Promise::ReplicaIsSound, broken));
            }
            self.check_in_force()?;
            let mut is_settled = true;
            for effect in &effects {
                is_settled &= self.carry_out(effect, out)?;
            }
            if let Some(said) = &mut out.effects {
                said.append(&mut effects);
            }
            self.check_ignored()?;
            if hosting.disk_at_once
                && let Some(job) = self.jobs.pop_front()
            {
                self.persist(&job)?;
            } else if hosting.apply_at_once
                && let Some((first, last)) = self.to_apply.take()
            {
                self.apply(first, last, out)?;
            } else if is_settled {
                return Ok(());
            }
        }
    }

    /// Whether nothing new happened to the core meanwhile.
    fn carry_out(&mut self, effect: &Effect, out: &mut Happened) -> Result<bool, Broken> {
        match effect {
            Effect::Send(message) => {
                self.check_claims(message)?;
                let vote = match message.body {
                    Body::VoteReply { granted: true } => Some(message.to),
                    Body::Vote { .. } => Some(message.from),
                    _ => None,
                };
                let fact = vote.map(|vote| Fact::Voted(message.term, vote));
                out.facts.extend(fact.filter(|fact| !out.facts.contains(fact)));
                out.sent.push(Parcel::Message(message.clone()));
            }
            Effect::Write(write) => self.jobs.push_back(Job::Write(write.clone())),
            Effect::Apply { first, last } => {
                let first = self.to_apply.map_or(*first, |(first, _)| first);
                self.to_apply = Some((first, *last));
            }
            Effect::ReadLog { order, to, first, last, max_bytes } => {
                let found = self.disk.read(*first, *last, *max_bytes);
                self.raft.step(Event::LogRead { order: *order, to: *to, found });
                return Ok(false);
            }
            Effect::SendSnapshot { to, at_least } => {
                if self.sending.contains_key(to) {
                    self.raft.step(Event::SnapshotSent { to: *to, ok: false });
                    return Ok(false);
                }
                let position = self.machine.applied;
                if position.index < *at_least {
                    let what = format!("a snapshot at {at_least} is ordered, but only {position:?} is applied");
                    return Err(Broken::new(Promise::ReplicaIsSound, what));
                }
                self.sending.insert(*to, position);
                let start = LogStart { position, membership: self.machine.membership.clone() };
                let snapshot = Arc::new(Snapshot { start, machine: Arc::clone(&self.machine) });
                let (from, term) = (self.raft.id(), self.raft.term());
                out.sent.push(Parcel::Snapshot { from, to: *to, term, snapshot });
            }
            Effect::Install { start } => {
                let Some(snapshot) = self.staged.take().filter(|staged| staged.start == *start) else {
                    let what = format!("{start:?} is to be installed, which is not staged");
                    return Err(Broken::new(Promise::ReplicaIsSound, what));
                };
                self.jobs.push_back(Job::Begin(Arc::clone(&snapshot), self.last_written()));
                self.installing = Some(snapshot);
            }
            Effect::DropSnapshot { .. } => self.staged = None,
            Effect::ReadReady { round, index } => out.facts.push(Fact::ReadServed(*round, *index)),
            Effect::ReadsVoid { round } => out.facts.push(Fact::ReadsVoid(*round)),
            Effect::Removed { .. } => {
                self.is_gone = true;
                out.facts.push(Fact::Gone);
            }
            Effect::Condemned(_) if self.is_damaged => {}
            Effect::Condemned(reason) => return Err(condemned(self.raft.id(), *reason)),
            Effect::LeaderChanged { .. }
            | Effect::ElectionStarted(_)
            | Effect::MembershipCommitted(_)
            | Effect::TransferEnded { .. } => {}
        }
        Ok(true)
    }

    fn persist(&mut self, job: &Job) -> Result<(), Broken> {
        self.disk.carry_out(job)?;
        match job {
            Job::Write(write) => self.raft.step(Event::Persisted { write: write.number }),
            Job::Begin(snapshot, _) => {
                self.disk.switch();
                let done = Job::Done(Arc::clone(snapshot), self.last_written());
                self.jobs.push_back(done);
            }
            Job::Done(snapshot, _) => {
                self.machine = Arc::clone(&snapshot.machine);
                self.to_apply = None;
                self.installing = None;
                self.raft.step(Event::SnapshotInstalled { start: snapshot.start.clone() });
            }
        }
        Ok(())
    }

    /// The hard state that the last order to the log carries.
    fn last_written(&self) -> HardState {
        let written = self.jobs.iter().rev().find_map(|job| match job {
            Job::Write(write) => Some(write.hard_state),
            Job::Begin(..) | Job::Done(..) => None,
        });
        written.unwrap_or(self.disk.hard_state())
    }

    fn apply(&mut self, first: Index, last: Index, out: &mut Happened) -> Result<(), Broken> {
        let mut machine = Machine::clone(&self.machine);
        for index in first..=last {
            let broken = |promise, what| Err(Broken::new(promise, format!("{index} is applied {what}")));
            let Some(entry) = self.entry(index) else {
                return broken(Promise::StateMachineSafety, "which is nowhere");
            };
            if self.disk.logged(index) != Some(&entry) {
                return broken(Promise::DurableBeforeAcknowledged, "before it is durable (rule D6)");
            }
            if machine.applied.index + 1 != index {
                return broken(Promise::StateMachineSafety, "out of order");
            }
            let is_witness = self.raft.membership().role(self.raft.id()) == Some(Role::Witness);
            if entry.kind == EntryKind::Commands && entry.payload.is_empty() && !is_witness {
                return broken(Promise::StateMachineSafety, "without its commands where data is held");
            }
            machine.applied = entry.position();
            if let Some(membership) = membership_of(&entry) {
                machine.membership = membership;
            }
            machine.entries.push(entry.clone());
            // Whatever is applied counts as committed.
            out.facts.push(Fact::Committed(self.raft.term(), entry));
        }
        self.machine = Arc::new(machine);
        self.raft.step(Event::Applied { index: last });
        Ok(())
    }

    fn crash(&mut self, kept: usize, applied: bool, out: &mut Happened) -> Result<(), Not> {
        if kept > self.jobs.len() {
            return Err(Not::Possible);
        }
        for job in self.jobs.drain(..kept) {
            self.disk.carry_out(&job)?;
        }
        if applied && !self.disk.catch_up(&self.machine) {
            return Err(Not::Possible);
        }
        let Replica { raft, disk, is_damaged, .. } = self;
        *self = Replica::start(*raft.config(), disk.clone(), *is_damaged)?;
        out.facts.push(Fact::Restarted);
        Ok(())
    }

    fn campaign(&mut self) -> Result<(), Not> {
        if !matches!(self.raft.life(), Life::Follower | Life::Candidate) {
            return Err(Not::Possible);
        }
        let before = self.raft.life();
        for _ in 0..2 * ELECTION_TICKS {
            self.tick(0, 0);
            let life = self.raft.life();
            if life != before && life != Life::Follower {
                return Ok(());
            }
        }
        Err(Not::Possible)
    }

    fn doubt(&mut self) -> Result<(), Not> {
        if self.raft.leader().is_none() {
            return Err(Not::Possible);
        }
        for _ in 0..ELECTION_TICKS {
            self.tick(0, 1);
        }
        match self.raft.leader() {
            Some(_) => Ok(()),
            None => Err(Not::Possible),
        }
    }

    fn tick(&mut self, number: u64, random: u64) {
        self.raft.step(Event::Tick { number, random });
    }

    /// Rules D1 and D2: whatever leaves is backed by the disk.
    fn check_claims(&self, message: &Message) -> Result<(), Broken> {
        let Message { from, to, term, body } = message;
        let durable_term = self.disk.hard_state().term;
        let names_another_term = matches!(body, Body::PreVote { .. } | Body::PreVoteReply { granted: true });
        let is_durable = match body {
            _ if !names_another_term && durable_term < *term => false,
            Body::VoteReply { granted: true } => self.disk.vote_in(*term) == Some(*to) || durable_term > *term,
            Body::Vote { .. } => self.disk.vote_in(*term) == Some(*from) || durable_term > *term,
            Body::AppendReply(AppendReply::Accepted { matched }) => self.holds_durably(*matched),
            _ => true,
        };
        if is_durable {
            return Ok(());
        }
        let what = format!("{} says what is not durable there", crate::text::message(message));
        Err(Broken::new(Promise::DurableBeforeAcknowledged, what))
    }

    fn holds_durably(&self, index: Index) -> bool {
        let term = self.raft.term_at(index);
        match self.disk.logged(index) {
            Some(entry) => term == Some(entry.term),
            None => index <= self.disk.machine().applied.index && index <= self.raft.start().position.index,
        }
    }

    /// Rule M2: the latest membership in the log counts, committed or not.
    fn check_in_force(&self) -> Result<(), Broken> {
        let first = self.raft.start().position.index + 1;
        let in_log = (first..=self.raft.last_index()).rev().find_map(|at| membership_of(&self.entry(at)?));
        let expected = in_log.as_ref().unwrap_or(&self.raft.start().membership);
        if expected == self.raft.membership() {
            return Ok(());
        }
        let what = format!("the membership of {} in the log is not in force", expected.change_index);
        Err(Broken::new(Promise::QuorumsIntersect, what))
    }

    /// Peers that keep the rules never say certain things.
    fn check_ignored(&mut self) -> Result<(), Broken> {
        let ignored = self.raft.take_ignored();
        let unheard_of = [Ignored::Malformed, Ignored::SecondLeader, Ignored::ContradictsCommitted];
        match ignored.keys().find(|reason| unheard_of.contains(reason)) {
            Some(reason) => {
                let what = format!("{} ignored something as {reason:?}", self.raft.id());
                Err(Broken::new(Promise::ReplicaIsSound, what))
            }
            None => Ok(()),
        }
    }

    /// Rule M1: a leader that a committed change has voted out leads no more, and whoever's answer committed it is told.
    fn check_resignation(&self, step: Step<'_>, led: Option<Term>, said: &[Parcel]) -> Result<(), Broken> {
        let (raft, committed) = (&self.raft, self.raft.committed_membership());
        let is_out = raft.membership() == committed && committed.role(raft.id()) != Some(Role::Voter);
        if !is_out || led != Some(raft.term()) {
            return Ok(());
        }
        let broken = |what: &str| Err(Broken::new(Promise::RemovedLeadersGo, format!("{} {what}", raft.id())));
        if raft.is_leader() {
            return broken("leads on although its removal is committed");
        }
        let Step::Deliver(Parcel::Message(Message { from, body: Body::AppendReply(AppendReply::Accepted { .. }), .. })) = step
        else {
            return Ok(());
        };
        let tells = |parcel: &Parcel| match parcel {
            Parcel::Message(Message { to, body: Body::Append { commit, .. }, .. }) => {
                to == from && *commit >= committed.change_index
            }
            _ => false,
        };
        if said.iter().any(tells) { Ok(()) } else { broken("resigns and tells nobody that its removal is committed") }
    }

    fn note_commits(&self, before: Index, out: &mut Happened) {
        for index in before + 1..=self.raft.commit() {
            let Some(entry) = self.entry(index) else { continue };
            out.facts.push(Fact::Committed(self.raft.term(), entry));
        }
    }

    /// The core.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// What is durable.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Orders to the log that are not durable.
    pub fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// What is applied.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The same replica after it lost what was on its disk, and knows it or not.
    pub fn damaged(&self, genesis: &LogStart, knows: bool) -> Result<Replica, Broken> {
        let disk = if knows { Disk::condemned(genesis, self.disk.hard_state().term) } else { Disk::empty() };
        Replica::start(*self.raft.config(), disk, true)
    }

    /// Whether it lost what was on its disk.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    /// Whether it was removed and is gone for good.
    pub fn is_gone(&self) -> bool {
        self.is_gone
    }

    /// The peers that are being sent a snapshot.
    pub fn sending(&self) -> impl Iterator<Item = ReplicaId> {
        self.sending.keys().copied()
    }

    /// The entry at `index`, as this replica believes it to be.
    pub fn entry(&self, index: Index) -> Option<Entry> {
        if index > self.raft.last_index() {
            return None;
        }
        let cached = self.raft.entries(index, index, usize::MAX).and_then(|mut entries| entries.pop());
        let in_machine = || self.machine.entries.get(usize::try_from(index.checked_sub(2)?).ok()?).cloned();
        cached.or_else(|| self.disk.logged(index).cloned()).or_else(in_machine)
    }
}

fn condemned(id: ReplicaId, reason: CondemnedReason) -> Broken {
    Broken::new(Promise::ReplicaIsSound, format!("{id} is condemned, and nothing was lost: {reason}"))
}
