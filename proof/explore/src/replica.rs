// SPDX-License-Identifier: Apache-2.0

//! One replica with what a host keeps around it: the shipped core, its disk, the orders that are not durable yet.
//!
//! A [`Step`] is all that can happen to one replica; [`Replica::happen`] carries it out, as `host::core` would, and tells what left the
//! replica and what others may rely on from now on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mraft_raft::{Body, Config, Effect, Event, Life, Raft};
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, ReplicaId, Role,
};

use crate::broken::{Broken, Promise};
use crate::disk::{Disk, Job, Machine, Snapshot, membership_of};
use crate::promises;
use crate::step::{Fact, Happened, Hosting, Not, Parcel, Step};

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
        promises::replica_is_sound::check_heard(self.raft.id(), &self.raft.take_ignored())?;
        let by = self.raft.count_anew();
        for job in &mut self.jobs {
            if let Job::Write(write) = job {
                write.number -= by;
            }
        }
        self.note_commits(committed, out);
        if hosting.poll_at_once {
            promises::removed_leaders_go::check(self, step, led, &out.sent[said..])?;
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
            Step::Crash { kept, applied } => self.crash(kept, applied, out)?,
            Step::LoseDisk(genesis) if !self.is_damaged => {
                *self = self.damaged(genesis, true)?;
                out.facts.push(Fact::Restarted);
            }
            _ => return Err(Not::Possible),
        }
        Ok(())
    }

    /// What follows from the steps so far, until nothing does.
    fn settle(&mut self, hosting: Hosting, out: &mut Happened) -> Result<(), Broken> {
        loop {
            let mut effects = Vec::new();
            self.raft.poll(&mut effects);
            promises::replica_is_sound::check(self)?;
            promises::quorums_intersect::check_in_force(self)?;
            let mut is_settled = true;
            for effect in &effects {
                is_settled &= self.carry_out(effect, out)?;
            }
            if let Some(said) = &mut out.effects {
                said.append(&mut effects);
            }
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
                promises::durable_before_acknowledged::check(self, message)?;
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
                    let what =
                        format!("a snapshot at {at_least} is ordered, but only {position:?} is applied");
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
