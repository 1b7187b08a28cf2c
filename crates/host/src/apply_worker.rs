// SPDX-License-Identifier: Apache-2.0

//! The apply side of a node: some groups' state machines, and the orders for them.
//!
//! An apply thread owns one of these and only moves mail in and out; the simulator owns one too. An error in one group's machine
//! stops that group's replica and no other (decision 9), and so does a panic: everything of a machine is called behind one guard (rule T4).
//!
//! ## A full disk (rule D10)
//!
//! An error that says so stops nobody. As long as the machines hold less than their budget in memory, writes go on and flushing is tried
//! again from time to time ([`ApplyWorker::retry`]). From there on the worker takes no more entries: the cores are told, refuse proposals,
//! and what they had handed out waits here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use mraft_engine::NOBODY;
use mraft_engine::StateHash;
use mraft_engine::effect::{Answer, EntryTickets};
use mraft_engine::error::Unknown;
use mraft_engine::event::{Event, Ticket};
use mraft_engine::machine::{BackgroundJob, MachineError, SnapshotStage, SnapshotView, Urgency};
use mraft_logstore::LogReader;
use mraft_types::{CondemnedReason, GroupId, Index, planted};

use crate::apply::{Applied, Applier, ApplyError, CheckpointHash, HashView};
use crate::core::{ApplyOrder, Incarnation, Input, SnapshotOrder};
use crate::meta::GroupMeta;
use crate::status::StateRoom;

const PANICKED: &str = "the state machine panicked; its state is discarded";

/// Something for the apply side. Mail of one group is handled in the order in which it was sent.
pub enum ApplyMail {
    /// A group starts here.
    Add(GroupId, Box<Applier>),
    /// A group stops; its machine persists what it can and is dropped. The sender is told when that is done.
    Remove {
        /// The group.
        group: GroupId,
        /// Whether to persist first.
        persist: bool,
        /// Told the end.
        done: SyncSender<Result<(), String>>,
    },
    /// Tells the sender when no background job of the group's machines is under way, that of one which is gone included: two machines
    /// must not have one directory.
    AwaitJob {
        /// The group.
        group: GroupId,
        /// Told the end.
        done: SyncSender<()>,
    },
    /// From the core.
    Order(Incarnation, ApplyOrder),
    /// A snapshot is coming in: open a directory for it.
    Stage {
        /// The group.
        group: GroupId,
        /// The directory's number.
        directory: u64,
        /// The sender's meta.
        meta: Vec<u8>,
        /// Gets the stage, and whose it is.
        reply: SyncSender<Result<StageOf, String>>,
    },
    /// A staged directory that never became whole, or that nobody wants.
    Discard(Incarnation, u64),
    /// A background job ended; also one that panicked, which [`ApplyMail::Fail`] said before.
    BackgroundDone(Incarnation, Result<(), MachineError>),
    /// What was done for the replica elsewhere panicked, so that its state is not to be trusted (rule T4), or found that its log cannot be
    /// read (rule D10): it ends for this reason.
    Fail(Incarnation, String),
    /// Persist now whatever can be persisted (a snapshot request, or room is short).
    Persist {
        /// The group.
        group: GroupId,
        /// Told the index that is persisted.
        done: SyncSender<Result<Index, String>>,
    },
    /// Hash the whole visible state (rule E8).
    Hash {
        /// The group.
        group: GroupId,
        /// Gets the index, the chain and the content's hash.
        done: SyncSender<Result<StateHash, String>>,
    },
    /// The content at a checkpoint was hashed, or cannot be read.
    Hashed(Incarnation, Result<StateHash, MachineError>),
    /// The log holds more segments than it should: every group persists what it can, so that its log can be truncated (rule L5).
    PersistAll,
    /// Looks up what was found at a checkpoint (rule E8).
    CheckpointHash {
        /// The group.
        group: GroupId,
        /// The checkpoint's index.
        index: Index,
        /// Gets it; `None` when the group is not here.
        done: SyncSender<Option<CheckpointHash>>,
    },
}

/// A stage, and whose state machine opened it.
pub type StageOf = (Incarnation, Box<dyn SnapshotStage>);

/// A snapshot to be streamed to a peer.
pub struct SnapshotSend {
    /// Whose.
    pub of: Incarnation,
    /// To whom, from whom, in which term.
    pub order: SnapshotOrder,
    /// What the view covers.
    pub meta: GroupMeta,
    /// The view.
    pub view: Box<dyn SnapshotView>,
}

/// What came of the mail.
#[derive(Default)]
pub struct ApplyOutput {
    /// For the callers.
    pub answers: Vec<(Ticket, Answer)>,
    /// For the groups' cores.
    pub inputs: Vec<(GroupId, Input)>,
    /// For whoever does background work; their ends come back as [`ApplyMail::BackgroundDone`].
    pub jobs: Vec<(Incarnation, Box<dyn BackgroundJob>)>,
    /// For whoever does background work: content to be hashed; the hashes come back as [`ApplyMail::Hashed`].
    pub hashes: Vec<(Incarnation, HashView)>,
    /// For whoever streams snapshots.
    pub sends: Vec<SnapshotSend>,
    /// Whose machine cannot go on: these replicas must be stopped.
    pub failed: Vec<(Incarnation, String)>,
    /// Commands applied.
    pub commands: u64,
    /// How often this worker had to persist by itself because too much waited in memory.
    pub stalls: u64,
    /// How often a machine found no room on disk.
    pub found_full: u64,
}

/// Some groups' state machines.
pub struct ApplyWorker {
    log: Arc<dyn LogReader>,
    appliers: BTreeMap<GroupId, Applier>,
    /// Groups that applied something, or whose job ended, since the last [`ApplyWorker::finish`].
    touched: BTreeSet<GroupId>,
    /// Background jobs that are out; one for each machine at most, but one that is gone may have left one behind.
    jobs_out: BTreeMap<GroupId, usize>,
    /// Who waits until there is none.
    await_job: BTreeMap<GroupId, Vec<SyncSender<()>>>,
    /// Most bytes that all machines of this worker may hold unpersisted: from the half on the largest is asked to persist, above it this
    /// worker waits for that, and with it everybody who writes (rule T2).
    unpersisted_bytes_max: usize,
    /// A group is asked to persist when it applied this many entries since; 0 leaves it to the machine.
    snapshot_entries: u64,
    /// As last seen, so that a batch costs its own groups only.
    unpersisted_bytes: BTreeMap<GroupId, usize>,
    unpersisted_bytes_total: usize,
    /// A machine found no room on disk, and nobody has tried again since.
    is_short_of_room: bool,
    /// Groups whose state found no room on disk, and up to where it was persisted then; until it is further.
    lacking: BTreeMap<GroupId, Index>,
    /// Too much waits in memory and there is no room for it: no more entries are taken.
    is_paused: bool,
    /// Groups whose machines were not asked for background work meanwhile.
    unasked: BTreeSet<GroupId>,
    /// Orders that wait for room. A group's are bounded by what its core hands out before it hears that something was applied
    /// (`unapplied_bytes_max`); installations and snapshots come one at a time.
    held: BTreeMap<GroupId, VecDeque<ApplyOrder>>,
}

impl ApplyWorker {
    /// A worker without groups.
    pub fn new(log: Arc<dyn LogReader>, unpersisted_bytes_max: usize, snapshot_entries: u64) -> ApplyWorker {
        ApplyWorker {
            log,
            appliers: BTreeMap::new(),
            touched: BTreeSet::new(),
            jobs_out: BTreeMap::new(),
            await_job: BTreeMap::new(),
            unpersisted_bytes_max,
            snapshot_entries,
            unpersisted_bytes: BTreeMap::new(),
            unpersisted_bytes_total: 0,
            is_short_of_room: false,
            lacking: BTreeMap::new(),
            is_paused: false,
            unasked: BTreeSet::new(),
            held: BTreeMap::new(),
        }
    }

    /// A group's state, for tests and the simulator.
    pub fn applier(&mut self, group: GroupId) -> Option<&mut Applier> {
        self.appliers.get_mut(&group)
    }

    /// Bytes of all machines' state that wait to be persisted, as last seen.
    pub fn unpersisted_bytes(&self) -> usize {
        self.unpersisted_bytes_total
    }

    /// Handles one piece of mail.
    pub fn handle(&mut self, mail: ApplyMail, out: &mut ApplyOutput) {
        if let ApplyMail::BackgroundDone(of, _) = &mail {
            self.job_ended(of.group);
        }
        match mail {
            ApplyMail::Add(group, applier) => {
                self.appliers.insert(group, *applier);
                self.touched.insert(group);
            }
            ApplyMail::Remove { group, persist, done } => {
                let removed = self.appliers.remove(&group);
                self.drop_group(group, out);
                // Also what a machine does while it is dropped is its own.
                let ended = catch_unwind(AssertUnwindSafe(|| match removed {
                    Some(mut applier) if persist => {
                        applier.machine().persist().map_err(|error| error.to_string())
                    }
                    _ => Ok(()),
                }));
                let ended = ended.unwrap_or_else(|_| Err(PANICKED.to_owned()));
                // Nobody waits any more when the caller gave up: nothing is lost by that.
                let _ = done.try_send(ended);
            }
            ApplyMail::AwaitJob { group, done } => match self.jobs_out.contains_key(&group) {
                true => self.await_job.entry(group).or_default().push(done),
                // Nobody waits any more when the caller gave up.
                false => _ = done.try_send(()),
            },
            ApplyMail::Order(of, order) => self.order(of, order, out),
            ApplyMail::Stage { group, directory, meta, reply } => {
                let stage = self.caught(group, out, |applier, _| {
                    let stage = applier.machine().stage(directory, &meta);
                    stage.map(|stage| (applier.incarnation(), stage)).map_err(|error| error.to_string())
                });
                let _ = reply.try_send(stage.unwrap_or_else(|| Err("the group is not here".to_owned())));
            }
            ApplyMail::Discard(of, directory) => self.order(of, ApplyOrder::Discard { directory }, out),
            // What is late is nothing to the replica that has the place by now.
            ApplyMail::BackgroundDone(of, _) | ApplyMail::Fail(of, _) | ApplyMail::Hashed(of, _)
                if !self.is_here(of) => {}
            ApplyMail::BackgroundDone(Incarnation { group, .. }, result) => {
                self.touched.insert(group);
                // A machine that takes it calmly would ask for the same work again at once.
                let had_room = !is_full(&result);
                let told =
                    self.or_full(group, out, |applier, _| Ok(applier.machine().background_done(result)?));
                if !had_room && !told {
                    self.found_full(group, out);
                }
            }
            ApplyMail::Fail(of, reason) => self.fail(of.group, reason, out),
            ApplyMail::Persist { group, done } => {
                self.touched.insert(group);
                let mut persisted = Err("the group is not here".to_owned());
                self.guarded(group, out, |applier, out| {
                    let result = applier.machine().persist();
                    persisted = result.as_ref().map(|()| applier.persisted()).map_err(ToString::to_string);
                    if let Ok(persisted) = persisted {
                        // The core has to know how far the machine is before it truncates, and nobody asks for this truncation again.
                        let GroupMeta { applied, disputed, .. } = applier.meta();
                        let (of, index, disputed) = (applier.incarnation(), applied.index, *disputed);
                        out.inputs.push((group, Input::Applied { of, index, persisted, disputed }));
                        out.inputs.push((group, Input::Truncate(group)));
                    }
                    // Whoever asked is told that there is no room; the replica serves as before.
                    if is_full(&result) { Ok(()) } else { Ok(result?) }
                });
                let _ = done.try_send(persisted);
            }
            ApplyMail::Hash { group, done } => {
                let mut hash = Err("the group is not here".to_owned());
                self.guarded(group, out, |applier, _| match applier.hash() {
                    Err(error) if error.is_full() => {
                        hash = Err(error.to_string());
                        Ok(())
                    }
                    found => {
                        hash = Ok(found?);
                        Ok(())
                    }
                });
                let _ = done.try_send(hash);
            }
            ApplyMail::Hashed(of, result) => self.guarded(of.group, out, |applier, out| {
                let hash = result?;
                let diverged = applier.hashed(hash);
                compare(of, vec![hash], diverged, out);
                Ok(())
            }),
            ApplyMail::PersistAll => {
                let groups: Vec<GroupId> = self.appliers.keys().copied().collect();
                groups.into_iter().for_each(|group| self.press(group, out));
            }
            ApplyMail::CheckpointHash { group, index, done } => {
                // Nobody waits any more when the caller gave up.
                let _ = done.try_send(self.appliers.get(&group).map(|applier| applier.checkpoint(index)));
            }
        }
    }

    /// After a batch of mail: tells the cores how far their groups are, and hands out background work.
    pub fn finish(&mut self, out: &mut ApplyOutput) {
        let (snapshot_entries, is_short) = (self.snapshot_entries, self.is_short_of_room);
        let mut lacking = std::mem::take(&mut self.lacking);
        lacking.retain(|group, _| self.appliers.contains_key(group));
        for group in std::mem::take(&mut self.touched) {
            self.guarded(group, out, |applier, out| {
                let (index, persisted) = (applier.meta().applied.index, applier.persisted());
                if lacking.get(&group).is_some_and(|before| persisted > *before) {
                    lacking.remove(&group);
                    tracing::info!(%group, "the group's state has found room on disk");
                }
                let (of, disputed) = (applier.incarnation(), applier.meta().disputed);
                out.inputs.push((group, Input::Applied { of, index, persisted, disputed }));
                let is_due = snapshot_entries > 0 && index.saturating_sub(persisted) >= snapshot_entries;
                let urgency = if is_due { Urgency::Pressing } else { Urgency::Normal };
                if !is_short && let Some(job) = applier.background(urgency) {
                    out.jobs.push((of, job));
                }
                Ok(())
            });
            if is_short {
                self.unasked.insert(group);
            }
            self.weigh(group, out);
        }
        self.lacking = lacking;
        if !self.is_paused {
            self.keep_to_budget(out);
        }
        if self.unpersisted_bytes_total > self.unpersisted_bytes_max / 2
            && !self.is_short_of_room
            && let Some(group) = self.largest()
        {
            self.press(group, out);
        }
    }

    /// Whether the machines' state finds room on disk.
    pub fn room(&self) -> StateRoom {
        match self.lacking.is_empty() {
            _ if self.is_paused => StateRoom::Refusing,
            true => StateRoom::Enough,
            false => StateRoom::Lacking,
        }
    }

    /// Whether a machine found no room on disk, so that [`ApplyWorker::retry`] should be called from time to time.
    pub fn waits_for_room(&self) -> bool {
        self.is_short_of_room
    }

    /// There may be room again: carries out what waits for it, as far as there is. To be followed by [`ApplyWorker::finish`].
    pub fn retry(&mut self, out: &mut ApplyOutput) {
        if !std::mem::take(&mut self.is_short_of_room) {
            return;
        }
        self.touched.append(&mut self.unasked);
        if self.is_paused {
            self.keep_to_budget(out);
            if self.is_short_of_room {
                return;
            }
            self.set_paused(false, out);
        }
        for (group, orders) in std::mem::take(&mut self.held) {
            let Some(of) = self.appliers.get(&group).map(Applier::incarnation) else { continue };
            orders.into_iter().for_each(|order| self.order(of, order, out));
            self.weigh(group, out);
            if !self.is_paused {
                self.keep_to_budget(out);
            }
        }
    }

    /// The worker ends: whoever waits for what was held learns that nobody knows what became of it.
    pub fn close(&mut self, out: &mut ApplyOutput) {
        for orders in std::mem::take(&mut self.held).into_values() {
            answer_stopped(orders, out);
        }
    }

    fn job_ended(&mut self, group: GroupId) {
        let Some(out) = self.jobs_out.get_mut(&group) else { return };
        *out -= 1;
        if *out == 0 {
            self.jobs_out.remove(&group);
            let waiting = self.await_job.remove(&group).unwrap_or_default();
            // As above.
            waiting.into_iter().for_each(|done| _ = done.try_send(()));
        }
    }

    /// The machine that holds most, because all of them together hold too much.
    fn largest(&self) -> Option<GroupId> {
        self.unpersisted_bytes.iter().max_by_key(|(_, bytes)| **bytes).map(|(group, _)| *group)
    }

    /// The background does not keep up: this thread persists, which is what slows the writers down. Without room for it they stop.
    fn keep_to_budget(&mut self, out: &mut ApplyOutput) {
        let Some(group) =
            self.largest().filter(|_| self.unpersisted_bytes_total > self.unpersisted_bytes_max)
        else {
            return;
        };
        out.stalls += 1;
        let is_full = self.or_full(group, out, |applier, out| {
            applier.machine().persist()?;
            let (index, persisted) = (applier.meta().applied.index, applier.persisted());
            let (of, disputed) = (applier.incarnation(), applier.meta().disputed);
            out.inputs.push((group, Input::Applied { of, index, persisted, disputed }));
            Ok(())
        });
        self.weigh(group, out);
        if is_full {
            self.set_paused(true, out);
        }
    }

    fn found_full(&mut self, group: GroupId, out: &mut ApplyOutput) {
        out.found_full += 1;
        let persisted = self.appliers.get(&group).map_or(0, Applier::persisted);
        self.is_short_of_room = true;
        // Said once, however often it is tried.
        self.lacking.entry(group).or_insert_with(|| {
            tracing::warn!(%group, "there is no room on disk for the group's state; it is tried again until there is");
            persisted
        });
    }

    fn set_paused(&mut self, paused: bool, out: &mut ApplyOutput) {
        if std::mem::replace(&mut self.is_paused, paused) == paused {
            return;
        }
        match paused {
            true => tracing::error!(
                "the disk is full and the groups' states fill the memory that they may have: writes are refused until there is room"
            ),
            false => tracing::info!("there is room on disk again: the groups take writes"),
        }
        let told = |(group, applier): (&GroupId, &Applier)| {
            (*group, Input::StoreFull { of: applier.incarnation(), full: paused })
        };
        out.inputs.extend(self.appliers.iter().map(told));
    }

    /// Keeps the account of what waits in memory; a group that is gone has nothing any more.
    fn weigh(&mut self, group: GroupId, out: &mut ApplyOutput) {
        let now = self.caught(group, out, |applier, _| applier.unpersisted_bytes());
        let before = match now {
            Some(now) => self.unpersisted_bytes.insert(group, now),
            None => self.unpersisted_bytes.remove(&group),
        };
        self.unpersisted_bytes_total =
            self.unpersisted_bytes_total.saturating_sub(before.unwrap_or(0)) + now.unwrap_or(0);
    }

    /// Asks a machine to persist what it can.
    fn press(&mut self, group: GroupId, out: &mut ApplyOutput) {
        self.guarded(group, out, |applier, out| {
            if let Some(job) = applier.background(Urgency::Pressing) {
                out.jobs.push((applier.incarnation(), job));
            }
            Ok(())
        });
    }

    fn order(&mut self, of: Incarnation, order: ApplyOrder, out: &mut ApplyOutput) {
        let group = of.group;
        if !self.is_here(of) {
            return answer_stopped([order], out);
        }
        if self.is_paused || self.held.contains_key(&group) {
            self.held.entry(group).or_default().push_back(order);
            return;
        }
        let log = Arc::clone(&self.log);
        self.touched.insert(group);
        match order {
            ApplyOrder::Job(mut job) => {
                // The answers of all jobs go into one vector.
                let answers = std::mem::take(&mut out.answers);
                let mut applied = Applied { answers, ..Applied::default() };
                let mut tickets = std::mem::take(&mut job.tickets).into_iter().peekable();
                self.guarded(group, out, |applier, _| {
                    applier.apply(job, &mut tickets, log.as_ref(), &mut applied)
                });
                out.answers = std::mem::take(&mut applied.answers);
                out.commands += applied.commands;
                out.hashes.extend(applied.views.into_iter().map(|view| (of, view)));
                compare(of, applied.hashes, applied.diverged, out);
                answer_unknown(tickets, out);
            }
            ApplyOrder::Switch { directory } => {
                let is_full = self.or_full(group, out, |applier, out| {
                    applier.switch(directory)?;
                    out.inputs.push((group, Input::Switched { of }));
                    Ok(())
                });
                if is_full {
                    self.held.entry(group).or_default().push_front(ApplyOrder::Switch { directory });
                }
            }
            ApplyOrder::Discard { directory } => {
                self.guarded(group, out, |applier, _| Ok(applier.machine().discard(directory)?));
            }
            ApplyOrder::Send(order) => self.send(of, order, out),
        }
    }

    fn send(&mut self, of: Incarnation, order: SnapshotOrder, out: &mut ApplyOutput) {
        let (group, to) = (of.group, order.to);
        // Without the machine there is no replica that waits for the end.
        let Some(view) = self.caught(group, out, |applier, _| applier.view()) else { return };
        match view {
            Ok((meta, view)) if meta.applied.index >= order.at_least => {
                let index = meta.applied.index;
                out.inputs.push((group, Input::ViewOpened { of, to, index }));
                out.sends.push(SnapshotSend { of, order, meta, view });
            }
            // A view that fails is no reason to stop a replica that serves: the follower is tried again.
            unusable => {
                let reason = match unusable {
                    Ok((meta, _)) => {
                        format!("it would cover {} where {} is needed", meta.applied.index, order.at_least)
                    }
                    Err(error) => error.to_string(),
                };
                tracing::warn!(%group, %to, "no snapshot can be made now: {reason}; it is tried again");
                out.inputs.push((group, Input::Own(of, Event::SnapshotSent { to, ok: false })))
            }
        }
    }

    /// Runs something with one group's applier; an error or a panic stops that group's replica.
    fn guarded(
        &mut self,
        group: GroupId,
        out: &mut ApplyOutput,
        part: impl FnOnce(&mut Applier, &mut ApplyOutput) -> Result<(), ApplyError>,
    ) {
        if let Some(Err(error)) = self.caught(group, out, part) {
            self.fail(group, error.to_string(), out);
        }
    }

    /// As [`ApplyWorker::guarded`], for what can be tried again when there was no room; answers whether there was none.
    fn or_full(
        &mut self,
        group: GroupId,
        out: &mut ApplyOutput,
        part: impl FnOnce(&mut Applier, &mut ApplyOutput) -> Result<(), ApplyError>,
    ) -> bool {
        match self.caught(group, out, part) {
            Some(Err(error)) if error.is_full() => {
                self.found_full(group, out);
                true
            }
            Some(Err(error)) => {
                self.fail(group, error.to_string(), out);
                false
            }
            _ => false,
        }
    }

    /// Runs something with one group's applier; a panic stops that group's replica. `None` without an answer.
    fn caught<T>(
        &mut self,
        group: GroupId,
        out: &mut ApplyOutput,
        part: impl FnOnce(&mut Applier, &mut ApplyOutput) -> T,
    ) -> Option<T> {
        let applier = self.appliers.get_mut(&group)?;
        let jobs_before = out.jobs.len();
        let result = catch_unwind(AssertUnwindSafe(|| part(applier, out))).ok();
        if out.jobs.len() > jobs_before {
            *self.jobs_out.entry(group).or_default() += out.jobs.len() - jobs_before;
        }
        if result.is_none() {
            self.fail(group, PANICKED.to_owned(), out);
        }
        result
    }

    /// Whether this run of the replica has not ended yet.
    fn is_here(&self, of: Incarnation) -> bool {
        let is_it = |applier: &Applier| applier.incarnation() == of || planted!(LateForAnother);
        self.appliers.get(&of.group).is_some_and(is_it)
    }

    fn fail(&mut self, group: GroupId, failure: String, out: &mut ApplyOutput) {
        let failed = self.appliers.get(&group).map(|applier| (applier.incarnation(), failure));
        self.drop_group(group, out);
        out.failed.extend(failed);
    }

    fn drop_group(&mut self, group: GroupId, out: &mut ApplyOutput) {
        let applier = self.appliers.remove(&group);
        // One that panics while it is dropped is gone all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(applier)));
        self.touched.remove(&group);
        self.unasked.remove(&group);
        answer_stopped(self.held.remove(&group).unwrap_or_default(), out);
        self.weigh(group, out);
    }
}

/// The replica stopped here or before: the commands are committed, and nobody will ever answer them.
fn answer_unknown(tickets: impl Iterator<Item = EntryTickets>, out: &mut ApplyOutput) {
    let unanswered = tickets.flat_map(|own| own.tickets).filter(|ticket| *ticket != NOBODY);
    out.answers.extend(unanswered.map(|ticket| (ticket, Answer::Unknown(Unknown::Stopped))));
}

fn answer_stopped(orders: impl IntoIterator<Item = ApplyOrder>, out: &mut ApplyOutput) {
    for order in orders {
        if let ApplyOrder::Job(job) = order {
            answer_unknown(job.tickets.into_iter(), out);
        }
    }
}

fn is_full<T>(result: &Result<T, MachineError>) -> bool {
    matches!(result, Err(MachineError::Io(error)) if mraft_disk::is_full(error))
}

/// Tells the core what was found at checkpoints, and what follows when the majority found something else (rule E8).
fn compare(of: Incarnation, hashes: Vec<StateHash>, diverged: Option<StateHash>, out: &mut ApplyOutput) {
    let group = of.group;
    let found = hashes.into_iter().map(|hash| (group, Input::Own(of, Event::Hashed(hash))));
    out.inputs.extend(found);
    if let Some(majority) = diverged {
        tracing::error!(%group, index = majority.index, "the state of this replica is not the majority's");
        let reason = CondemnedReason::Divergence;
        out.inputs.push((group, Input::Own(of, Event::Condemn { reason })));
    }
}

#[cfg(test)]
mod tests;
