// SPDX-License-Identifier: Apache-2.0

//! One turn of a node: what happened goes in, what is to be done comes out.
//!
//! This is the whole decision-making of a node for the groups of one step worker, without a thread, a clock, a socket or a file.
//! `runtime.rs` gives it threads, the simulator gives it virtual time; both run this code.
//!
//! ## Where a write goes
//!
//! 1. [`Input::Group`] with `Event::Propose` brings commands in; they wait in the group.
//! 2. [`Core::turn`] packs everything that waits into one entry and hands out, in one [`Output`]: the entry for the followers
//!    ([`Output::messages`]) and for the own log ([`Output::log`]). The followers' copy may leave before the own fsync (rule D3).
//! 3. The log worker makes one batch of all groups' writes durable: [`Input::Log`] with `LogDone::Persisted`.
//! 4. Followers' acknowledgements come in as [`Input::Group`] with `Event::Message`, each sent only when durable there (rule D2).
//! 5. A turn finds the entry committed and durable here, and hands it to the state machine with the tickets that wait for it
//!    ([`Output::applies`], rule D6).
//! 6. The apply side applies it and answers the tickets directly; [`Input::Applied`] tells the core, for reads and for truncation.
//!
//! A linearizable read enters as `Event::Read`, joins the next round of heartbeats, waits for a quorum's answers and for (6), and is
//! answered in [`Output::answers`]; the caller then looks up what is published.
//!
//! ## Installing a snapshot (rule N1)
//!
//! Chunks are staged and synced outside; [`Input::Staged`] steps the snapshot (1, 2). When the core wants it, everything before it in
//! the apply queue is drained because orders of one group are carried out in order (3); `InstallBegin` is made durable (4), the apply
//! side switches the pointer file ([`ApplyOrder::Switch`], 5), `InstallDone` is made durable (6), and only then is the core told (7).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mraft_engine::effect::{Answer, ApplyJob, Effect, GroupEffect, Notice};
use mraft_engine::error::NotApplied;
use mraft_engine::event::{Event, NodeEvent, Now, Ticket};
use mraft_engine::{Dispute, Engine, Limits, StateHash};
use mraft_logstore::{GroupWrite, LogError, LogKey, LogReader, Mark};
use mraft_raft::{Message, Raft, ReadBack};
use mraft_types::planted;
use mraft_types::{GroupId, GroupUid, HardState, Index, LogStart, NodeId, ReplicaId, Term};

use crate::persist::{LogDone, LogJob, group_write};

/// What a core must know when it is made.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This node.
    pub node: NodeId,
    /// Bounds of each group's queues.
    pub limits: Limits,
    /// Entries kept behind what the store has persisted, so that a follower that was away for a moment is caught up from the
    /// log (CompactionOverhead).
    pub compaction_overhead_entries: u64,
    /// The log's start is moved in steps of at least this many entries: a mark per entry would cost more than it frees.
    pub truncate_step_entries: u64,
    /// Only when somebody asks ([`Input::Truncate`]) or the log is too long (DisableAutoCompactions).
    pub truncates_on_request_only: bool,
}

/// One run of a replica in this process. What was done for it elsewhere comes back under this name: what is late, because a disk or a
/// peer held it up, must not be taken for news of the replica that has its place in the group by then (rule M3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// The group.
    pub group: GroupId,
    /// Given out once in a process for each group.
    pub number: u64,
}

/// A group that starts here.
#[derive(Debug)]
pub struct Seat {
    /// Whose log records are its own.
    pub key: LogKey,
    /// See [`Incarnation`].
    pub incarnation: Incarnation,
    /// The core, restored.
    pub raft: Raft,
    /// The group's feature level (rule T3).
    pub feature_level: u32,
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// To one group, whichever replica it has here.
    Group(GroupId, Event),
    /// To one replica: what its state machine, its log or a stream of its own brought about.
    Own(Incarnation, Event),
    /// To the node.
    Node(NodeEvent),
    /// The log finished a job.
    Log(LogDone),
    /// The log is full (or has room again): no proposals meanwhile (rule D10).
    LogFull(bool),
    /// The log holds more segments than it should, or not any more (rule L5).
    LogPressed(bool),
    /// A group's state machine holds more in memory than it may and has no room on disk, or has again: no proposals meanwhile (rule D10).
    StoreFull {
        /// Whose.
        of: Incarnation,
        /// Whether it is so.
        full: bool,
    },
    /// The log failed, or the disk stalled: every replica stops for good, and whoever still asks is told the reason (rules D10, T1).
    StopAll(NotApplied),
    /// The apply side applied and published up to here.
    Applied {
        /// Whose.
        of: Incarnation,
        /// Last applied index.
        index: Index,
        /// What a crash would come back with.
        persisted: Index,
        /// What the log up to there says that the replicas do not agree on (rule E8).
        disputed: Option<Dispute>,
    },
    /// Somebody asked for the log of a group to be truncated.
    Truncate(GroupId),
    /// A snapshot lies staged and synced in this directory (rule N1, step 1).
    Staged {
        /// Whose state machine staged it.
        of: Incarnation,
        /// The leader that sent it.
        from: ReplicaId,
        /// The replica here that it was sent to.
        to: ReplicaId,
        /// Its term then.
        term: Term,
        /// What it covers.
        start: LogStart,
        /// The state machine's directory number.
        directory: u64,
    },
    /// The apply side switched to the staged directory (rule N1, step 5).
    Switched {
        /// Whose.
        of: Incarnation,
    },
    /// A view for an [`ApplyOrder::Send`] was opened at this index; entries behind it are kept until the peer has them (rule N2).
    ViewOpened {
        /// Whose.
        of: Incarnation,
        /// For whom.
        to: ReplicaId,
        /// The view's index.
        index: Index,
    },
    /// A group starts.
    Start(Box<Seat>),
    /// A group stops; its requests are answered with the reason. After [`NotApplied::Stopped`] later ones are, too, until it starts again.
    Stop(GroupId, NotApplied),
    /// A replica's state machine cannot go on: the same for this one.
    StopOwn(Incarnation, NotApplied),
    /// Somebody wants to look at the state between two turns: status, tests.
    Look(Look),
}

/// A function that looks at a core.
pub struct Look(pub Box<dyn FnOnce(&Core) + Send>);

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Look")
    }
}

/// An order to the apply side. Orders of one replica are carried out in the order in which they were given; those of one that is gone are not.
#[derive(Debug)]
pub enum ApplyOrder {
    /// Apply entries.
    Job(ApplyJob),
    /// Make the staged directory the state; answered by [`Input::Switched`].
    Switch {
        /// The directory number.
        directory: u64,
    },
    /// Delete a staged directory.
    Discard {
        /// The directory number.
        directory: u64,
    },
    /// Open a view and stream it; answered by [`Input::ViewOpened`], then [`Input::Own`] with `Event::SnapshotSent`.
    Send(SnapshotOrder),
}

/// A snapshot to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOrder {
    /// To whom.
    pub to: ReplicaId,
    /// From which replica here.
    pub from: ReplicaId,
    /// The founding.
    pub uid: GroupUid,
    /// Least index it must cover.
    pub at_least: Index,
    /// The sender's term.
    pub term: Term,
}

/// Entries to be read from the log for a follower; answered by `Event::LogRead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReadOrder {
    /// Who asks.
    pub of: Incarnation,
    /// Its number, to be repeated in the answer.
    pub order: u64,
    /// Whose log.
    pub key: LogKey,
    /// For whom.
    pub to: ReplicaId,
    /// First index.
    pub first: Index,
    /// Last index.
    pub last: Index,
    /// Stop after so many payload bytes.
    pub max_bytes: usize,
}

/// What a message needs on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// The message.
    pub message: Message,
}

/// What a replica's state hashes to at a checkpoint, for the leader (rule E8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashReport {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// Who found it.
    pub from: ReplicaId,
    /// The leader.
    pub to: ReplicaId,
    /// What was found.
    pub hash: StateHash,
}

/// What a turn asks for. The parts may be carried out in any order: whatever must be durable before a part leaves was waited for.
#[derive(Debug, Default)]
pub struct Output {
    /// For the peers.
    pub messages: BTreeMap<NodeId, Vec<Envelope>>,
    /// For leaders elsewhere. What is lost is found again at the next checkpoint.
    pub reports: Vec<HashReport>,
    /// For the log, in this order.
    pub log: Vec<LogJob>,
    /// For the state machines, in this order per group.
    pub applies: Vec<(Incarnation, ApplyOrder)>,
    /// For the callers.
    pub answers: Vec<(Ticket, Answer)>,
    /// For whoever reads the log back.
    pub log_reads: Vec<LogReadOrder>,
    /// For listeners and metrics.
    pub notices: Vec<(GroupId, Notice)>,
}

impl Output {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
            && self.reports.is_empty()
            && self.log.is_empty()
            && self.applies.is_empty()
            && self.answers.is_empty()
            && self.log_reads.is_empty()
            && self.notices.is_empty()
    }
}

/// Where an installation stands (rule N1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InstallStep {
    /// `InstallBegin` is being made durable.
    Begin,
    /// The apply side is switching.
    Switch,
    /// `InstallDone` is being made durable.
    Done,
}

#[derive(Debug)]
struct Installing {
    start: LogStart,
    directory: u64,
    step: InstallStep,
}

/// A snapshot for a peer, and what is kept for it. Entries that were written while it was on its way are kept until the peer has them:
/// where few are kept otherwise, it would need another snapshot at once, and another one after that.
#[derive(Clone, Copy, Debug, Default)]
struct Sending {
    /// Entries are kept from here on; `None` until the view is open.
    from: Option<Index>,
    /// Where the log ended when it had arrived; `None` until its `Event::SnapshotSent`.
    until: Option<Index>,
}

/// The host's side of one group.
#[derive(Debug)]
struct Bench {
    key: LogKey,
    incarnation: Incarnation,
    /// As last written: marks of an installation carry it too (rule L4).
    hard_state: HardState,
    /// The one snapshot that lies staged, until the core took or dropped it.
    staged: Option<(LogStart, u64)>,
    installing: Option<Installing>,
    /// Snapshots on their way, at most one to each peer, and those that arrived at peers that are not where the log ended then.
    sending: BTreeMap<ReplicaId, Sending>,
    persisted: Index,
    /// The state machine takes nothing more until there is room (rule D10).
    store_full: bool,
}

/// The decision-making of one step worker's groups.
#[derive(Debug)]
pub struct Core {
    config: CoreConfig,
    engine: Engine,
    benches: BTreeMap<GroupId, Bench>,
    /// Groups that were stopped to be started again.
    parked: BTreeSet<GroupId>,
    log_full: bool,
    /// The log holds more segments than it should (rule L5): nothing is kept for followers that lag.
    log_pressed: bool,
    /// Why every replica stopped, once they did.
    stopped: Option<NotApplied>,
    effects: Vec<GroupEffect>,
    out: Output,
}

impl Core {
    /// A core without groups.
    pub fn new(config: CoreConfig) -> Core {
        let engine = Engine::new(config.node, config.limits);
        Core {
            config,
            engine,
            benches: BTreeMap::new(),
            parked: BTreeSet::new(),
            log_full: false,
            log_pressed: false,
            stopped: None,
            effects: Vec::new(),
            out: Output::default(),
        }
    }

    /// The groups' cores, for status, tests and the simulator's invariants.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The time from here on.
    pub fn set_now(&mut self, now: Now) {
        self.engine.set_now(now);
    }

    /// Takes in what happened.
    pub fn handle(&mut self, input: Input) {
        if let Some(reason) = self.stopped.clone() {
            return self.handle_stopped(input, &reason);
        }
        match input {
            Input::Group(group, event) if self.parked.contains(&group) => {
                self.refuse(event, &NotApplied::Stopped);
            }
            Input::Group(group, Event::Propose(proposals)) => match self.no_room(group) {
                Some(why) => {
                    let answer = Answer::NotApplied(NotApplied::Disk(why));
                    self.out
                        .answers
                        .extend(proposals.into_iter().map(|proposal| (proposal.ticket, answer.clone())));
                }
                None => self.engine.handle_event(group, Event::Propose(proposals)),
            },
            Input::Group(group, event) => self.engine.handle_event(group, event),
            Input::Own(of, event) => {
                if self.bench_of(of).is_none() {
                    return;
                }
                if let Event::SnapshotSent { to, ok } = &event {
                    self.snapshot_sent(of.group, *to, *ok);
                }
                self.engine.handle_event(of.group, event);
            }
            Input::Node(event) => self.engine.handle_node_event(event),
            Input::Log(LogDone::Persisted { of, number }) => {
                if self.bench_of(of).is_some() {
                    self.engine.handle_event(of.group, Event::Persisted { write: number });
                }
            }
            Input::Log(LogDone::InstallStep { of }) => self.install_step_durable(of),
            Input::Log(LogDone::Added { .. } | LogDone::Removed { .. } | LogDone::Found { .. }) => {}
            Input::Log(LogDone::Refused { key, .. }) => {
                if self.benches.get(&key.group).is_some_and(|bench| bench.key == *key) {
                    self.stop(key.group, &NotApplied::Stopping);
                }
            }
            Input::LogFull(full) => self.log_full = full,
            Input::StoreFull { of, full } => {
                if let Some(bench) = self.bench_of(of) {
                    bench.store_full = full;
                }
            }
            Input::LogPressed(pressed) => {
                self.log_pressed = pressed;
                if pressed {
                    let groups: Vec<GroupId> = self.benches.keys().copied().collect();
                    groups.into_iter().for_each(|group| self.truncate(group));
                }
            }
            Input::StopAll(reason) => {
                for group in std::mem::take(&mut self.benches).into_keys() {
                    self.engine.remove_group(group, &reason);
                }
                self.stopped = Some(reason);
            }
            Input::Applied { of, index, persisted, disputed } => {
                let Some(bench) = self.bench_of(of) else { return };
                let persisted = if planted!(TruncatedUnpersisted) { index } else { persisted };
                bench.persisted = bench.persisted.max(persisted);
                self.engine.handle_event(of.group, Event::Applied { index, disputed });
                if !self.config.truncates_on_request_only || self.log_pressed {
                    self.truncate(of.group);
                }
            }
            Input::Truncate(group) => self.truncate(group),
            Input::Staged { of, from, to, term, start, directory } => {
                // One at a time: the core was told of the first and will ask for that very one. A second is sent again if it is needed.
                let takes = |bench: &&mut Bench| bench.staged.is_none() && bench.key.replica == to;
                let Some(bench) = self.bench_of(of).filter(takes) else {
                    self.out.applies.push((of, ApplyOrder::Discard { directory }));
                    return;
                };
                bench.staged = Some((start.clone(), directory));
                self.engine.handle_event(of.group, Event::SnapshotReceived { from, term, start });
            }
            Input::Switched { of } => self.switched(of),
            Input::ViewOpened { of, to, index } => {
                if let Some(sending) = self.bench_of(of).and_then(|bench| bench.sending.get_mut(&to)) {
                    sending.from = Some(index);
                }
            }
            Input::Look(Look(look)) => look(self),
            Input::Start(seat) => self.start(*seat),
            Input::Stop(group, reason) => {
                self.stop(group, &reason);
                match reason {
                    NotApplied::Stopped => _ = self.parked.insert(group),
                    _ => _ = self.parked.remove(&group),
                }
            }
            Input::StopOwn(of, reason) => {
                if self.bench_of(of).is_some() {
                    self.stop(of.group, &reason);
                }
            }
        }
    }

    /// The bench of a replica that runs here; none of one that is gone, whoever has its place.
    fn bench_of(&mut self, of: Incarnation) -> Option<&mut Bench> {
        let is_it = |bench: &&mut Bench| bench.incarnation.number == of.number || planted!(LateForAnother);
        self.benches.get_mut(&of.group).filter(is_it)
    }

    fn stop(&mut self, group: GroupId, reason: &NotApplied) {
        self.benches.remove(&group);
        self.engine.remove_group(group, reason);
    }

    /// What nobody waits for is dropped.
    fn refuse(&mut self, event: Event, reason: &NotApplied) {
        let tickets = event.into_tickets().into_iter();
        self.out.answers.extend(tickets.map(|ticket| (ticket, Answer::NotApplied(reason.clone()))));
    }

    /// Nothing starts again here: the log that everything stands on is gone. The first reason stays.
    fn handle_stopped(&mut self, input: Input, reason: &NotApplied) {
        match input {
            Input::Group(_, event) | Input::Own(_, event) => self.refuse(event, reason),
            Input::Staged { of, directory, .. } => {
                self.out.applies.push((of, ApplyOrder::Discard { directory }));
            }
            Input::Look(Look(look)) => look(self),
            Input::Node(_)
            | Input::Log(_)
            | Input::LogFull(_)
            | Input::LogPressed(_)
            | Input::StoreFull { .. }
            | Input::StopAll(_)
            | Input::Applied { .. }
            | Input::Truncate(_)
            | Input::Switched { .. }
            | Input::ViewOpened { .. }
            | Input::Start(_)
            | Input::Stop(..)
            | Input::StopOwn(..) => {}
        }
    }

    /// Decides everything that can be decided now.
    pub fn turn(&mut self) -> Output {
        let mut effects = std::mem::take(&mut self.effects);
        self.engine.turn(&mut effects);
        for (group, effect) in effects.drain(..) {
            self.carry_out(group, effect);
        }
        self.effects = effects;
        std::mem::take(&mut self.out)
    }

    /// Whether a turn would ask for nothing.
    pub fn is_idle(&self) -> bool {
        self.engine.is_idle() && self.out.is_empty()
    }

    /// Why a group takes no proposals for want of room, if it does not (rule D10).
    pub(crate) fn no_room(&self, group: GroupId) -> Option<&'static str> {
        match self.benches.get(&group) {
            _ if self.log_full => Some("the disk is full: no room for the log"),
            Some(bench) if bench.store_full => Some("the disk is full: no room for the group's state"),
            _ => None,
        }
    }

    fn start(&mut self, seat: Seat) {
        let Seat { key, incarnation, raft, feature_level } = seat;
        let bench = Bench {
            key,
            incarnation,
            hard_state: raft.hard_state(),
            staged: None,
            installing: None,
            sending: BTreeMap::new(),
            persisted: raft.applied(),
            store_full: false,
        };
        if self.engine.add_group(key.group, key.uid, raft, feature_level) {
            self.parked.remove(&key.group);
            self.benches.insert(key.group, bench);
        }
    }

    fn carry_out(&mut self, group: GroupId, effect: Effect) {
        match effect {
            Effect::Answer(ticket, answer) => self.out.answers.push((ticket, answer)),
            Effect::Send { uid, message } => {
                let node = message.to.node();
                self.out.messages.entry(node).or_default().push(Envelope { group, uid, message });
            }
            Effect::TellHash { uid, from, to, hash } => {
                self.out.reports.push(HashReport { group, uid, from, to, hash });
            }
            Effect::Notice(notice) => {
                if matches!(notice, Notice::Panicked { .. }) {
                    self.benches.remove(&group);
                }
                self.out.notices.push((group, notice));
            }
            effect => self.carry_out_at(group, effect),
        }
    }

    /// Effects that concern the group's log, state machine and snapshots.
    fn carry_out_at(&mut self, group: GroupId, effect: Effect) {
        let Some(bench) = self.benches.get_mut(&group) else { return };
        match effect {
            Effect::Write(write) => {
                bench.hard_state = write.hard_state;
                let (of, number) = (bench.incarnation, write.number);
                self.out.log.push(LogJob::Write { of, number, write: group_write(bench.key, write) });
            }
            Effect::Apply(job) => self.out.applies.push((bench.incarnation, ApplyOrder::Job(job))),
            Effect::ReadLog { order, to, first, last, max_bytes } => {
                let Bench { key, incarnation: of, .. } = *bench;
                self.out.log_reads.push(LogReadOrder { of, order, key, to, first, last, max_bytes });
            }
            Effect::SendSnapshot { to, at_least, term } => {
                // One at a time to each peer: the one on its way still needs the entries behind it, and will be of as much use. The core
                // asks again when the peer gives a sign of life.
                if bench.sending.get(&to).is_some_and(|sending| sending.until.is_none()) {
                    return self.engine.handle_event(group, Event::SnapshotSent { to, ok: false });
                }
                bench.sending.insert(to, Sending::default());
                let order = SnapshotOrder { to, from: bench.key.replica, uid: bench.key.uid, at_least, term };
                self.out.applies.push((bench.incarnation, ApplyOrder::Send(order)));
            }
            Effect::Install { start } => {
                let Some((_, directory)) = bench.staged.take_if(|(staged, _)| *staged == start) else {
                    return;
                };
                let mark = Mark::InstallBegin { start: start.clone(), directory };
                bench.installing = Some(Installing { start, directory, step: InstallStep::Begin });
                if planted!(SwitchedEarly) {
                    let of = bench.incarnation;
                    self.out.applies.push((of, ApplyOrder::Switch { directory }));
                }
                self.out.log.push(bench.install_job(mark));
            }
            Effect::DropSnapshot { start } => {
                if let Some((_, directory)) = bench.staged.take_if(|(staged, _)| *staged == start) {
                    self.out.applies.push((bench.incarnation, ApplyOrder::Discard { directory }));
                }
            }
            Effect::Answer(..) | Effect::Send { .. } | Effect::TellHash { .. } | Effect::Notice(_) => {}
        }
    }

    fn install_step_durable(&mut self, of: Incarnation) {
        let group = of.group;
        let Some(bench) = self.bench_of(of) else { return };
        match bench.installing.take() {
            Some(Installing { start, directory, step: InstallStep::Begin }) => {
                bench.installing = Some(Installing { start, directory, step: InstallStep::Switch });
                if !planted!(SwitchedEarly) {
                    self.out.applies.push((of, ApplyOrder::Switch { directory }));
                }
            }
            Some(Installing { start, step: InstallStep::Done, .. }) => {
                bench.persisted = bench.persisted.max(start.position.index);
                self.engine.handle_event(group, Event::SnapshotInstalled { start });
            }
            other => bench.installing = other,
        }
    }

    fn switched(&mut self, of: Incarnation) {
        let Some(bench) = self.bench_of(of) else { return };
        match bench.installing.take() {
            Some(Installing { start, directory, step: InstallStep::Switch }) => {
                let mark = Mark::InstallDone(start.clone());
                let job = bench.install_job(mark);
                if planted!(InstalledEarly) {
                    bench.persisted = bench.persisted.max(start.position.index);
                    self.out.log.push(job);
                    return self.engine.handle_event(of.group, Event::SnapshotInstalled { start });
                }
                bench.installing = Some(Installing { start, directory, step: InstallStep::Done });
                self.out.log.push(job);
            }
            other => bench.installing = other,
        }
    }

    /// A snapshot arrived, or did not: what is kept for its receiver from now on.
    fn snapshot_sent(&mut self, group: GroupId, to: ReplicaId, ok: bool) {
        let raft = self.engine.raft(group).filter(|_| ok);
        let Some(bench) = self.benches.get_mut(&group) else { return };
        match (bench.sending.get_mut(&to), raft) {
            (Some(sending), Some(raft)) => {
                // The core asks the receiver about the start that the log has now.
                *sending =
                    Sending { from: Some(raft.start().position.index), until: Some(raft.last_index()) };
            }
            _ => _ = bench.sending.remove(&to),
        }
    }

    /// Lets the log forget what the store has persisted (rule D11), except what is kept for followers and for snapshots (rule N2).
    fn truncate(&mut self, group: GroupId) {
        let (Some(bench), Some(raft)) = (self.benches.get_mut(&group), self.engine.raft(group)) else {
            return;
        };
        let (overhead, step) = match self.log_pressed {
            true => (0, 1),
            false => (self.config.compaction_overhead_entries, self.config.truncate_step_entries.max(1)),
        };
        let mut index = bench.persisted.saturating_sub(overhead);
        if !bench.sending.is_empty() {
            let peers = raft.peers();
            let is_pressed = self.log_pressed;
            // Nobody is waited for who says nothing, nor while the log is too long.
            bench.sending.retain(|to, sending| {
                let lacks =
                    |until| peers.iter().any(|peer| peer.id == *to && peer.is_active && peer.matched < until);
                sending.until.is_none_or(|until| !is_pressed && lacks(until))
            });
        }
        for sending in bench.sending.values() {
            match sending.from {
                Some(from) => index = index.min(from),
                None => return,
            }
        }
        let start = raft.start().position.index;
        if bench.installing.is_none() && index >= start.saturating_add(step) {
            self.engine.handle_event(group, Event::Truncate { index });
        }
    }
}

impl Bench {
    fn install_job(&self, mark: Mark) -> LogJob {
        let write =
            GroupWrite { key: self.key, hard_state: self.hard_state, entries: Vec::new(), mark: Some(mark) };
        LogJob::InstallStep { of: self.incarnation, write }
    }
}

/// Carries a [`LogReadOrder`] out. A log that cannot be read ends its replica, here as when it is read to be applied (rule D10).
pub fn read_back(order: &LogReadOrder, log: &dyn LogReader) -> Result<ReadBack, String> {
    match log.entries(order.key, order.first, order.last, order.max_bytes) {
        Ok(entries) => Ok(ReadBack::Entries(entries)),
        Err(LogError::NotHere { .. }) => Ok(ReadBack::Gone),
        Err(error) => Err(format!("its log cannot be read back: {error}")),
    }
}

/// Answer to a [`LogReadOrder`] as an input.
pub fn log_read_input(order: &LogReadOrder, found: ReadBack) -> Input {
    Input::Own(order.of, Event::LogRead { order: order.order, to: order.to, found })
}

#[cfg(test)]
mod tests;
