// SPDX-License-Identifier: Apache-2.0

//! The only threads of a host (those of the transport and of the doors live in their own crates).
//!
//! ```text
//!            ┌──────────── step worker ────────────┐  one turn at a time: core.rs
//!  callers ─►│ mailbox ─► Core::handle ─► turn ────┼─► transport (frames, written here)
//!            └──▲──────▲───────────────┬───────┬───┘
//!     Persisted │      │ Applied       │ jobs  │ orders
//!            ┌──┴──────┴──┐        ┌───▼───┐ ┌─▼───────────┐
//!            │ log thread │◄───────┤       │ │ apply thread ├─► answers to callers
//!            └────────────┘        └───────┘ └─────────────┘
//! ```
//!
//! None of them ends before the host does: a panic that no group's own guard caught ends the process (`panics.rs`, rule T4).
//!
//! The threads beside the way of a write are in `beside.rs`.
//!
//! A step worker never syncs a file and never runs a state machine (decision 3); the log thread sends nothing (rule D5).

mod beside;
mod retries;
mod room;
mod touching;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mraft_engine::effect::Notice;
use mraft_engine::error::NotApplied;
use mraft_engine::event::{Event, NodeEvent, Now, Proposal};
use mraft_engine::machine::BackgroundJob;
use mraft_logstore::{Fill, LogReader};
use mraft_raft::ReadBack;
use mraft_types::{GroupId, NodeId, ReplicaId};
use mraft_wire::HostBeat;

use self::beside::{fill_thread, snapshot_thread, ticker};
use self::retries::Retries;
use self::room::Room;
use self::touching::Touching;
pub(crate) use self::touching::Waits;
use crate::apply::{Applier, HashView};
use crate::apply_worker::{ApplyMail, ApplyOutput, ApplyWorker, SnapshotSend};
use crate::completions::Completions;
use crate::core::{
    Core, Envelope, HashReport, Incarnation, Input, LogReadOrder, Output, log_read_input, read_back,
};
use crate::mailbox::{Mailbox, WaitingBytes};
use crate::metrics::Metrics;
use crate::panics::{caught, or_abort};
use crate::persist::{LogDone, LogHealth, LogJob, LogWorker};
use crate::status::StateRoom;

/// A seal follows within this time after writing stops (rule L3).
const SEAL_AFTER: Duration = Duration::from_millis(25);
/// How often a full disk is tried again.
const FULL_RETRY: Duration = Duration::from_millis(200);
/// Background jobs that wait; a machine has at most one out, so this bounds the groups that may flush at once.
const BACKGROUND_JOBS_MAX: usize = 4096;
/// Snapshots that wait for their turn to be streamed; one more is refused and tried again by the core (rule N2).
const SNAPSHOT_SENDS_MAX: usize = 64;
/// Snapshots streamed at once: one slow receiver must not keep the others waiting. As many as the transport allows.
const SNAPSHOT_THREADS: usize = 4;

/// How long threads may take to end while a log write hangs: those that do not wait for the disk are done by then.
const LEAVE_AFTER: Duration = Duration::from_secs(1);
/// The same after a disk had hung or failed, and may be well again.
const LEAVE_LATE_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked whether a thread ended.
const JOIN_POLL: Duration = Duration::from_millis(1);

/// Chores at once: replicas that join or are deleted, each with waits of its own. One more is refused, and asked for again.
const CHORES_MAX: usize = 64;

/// Who sends frames to peers and streams snapshots: the transport, behind what a host needs of it.
pub(crate) trait Outbox: Send + Sync {
    /// Sends messages to a node, in one frame where they fit. What cannot be sent is dropped and counted: Raft repeats itself.
    fn send(&self, node: NodeId, messages: Vec<Envelope>);
    /// Tells another node's leader what was found at a checkpoint; may be lost.
    fn report(&self, report: HashReport);
    /// Streams a snapshot and says whether the receiver has it whole. Blocks.
    fn stream(&self, send: SnapshotSend) -> bool;
    /// Tells all peers how this host is; called once per heartbeat interval.
    fn beat(&self, beat: HostBeat);
}

/// Who is told what groups have to tell.
pub(crate) trait Listener: Send + Sync {
    /// A group's notice.
    fn notice(&self, group: GroupId, notice: Notice);
    /// A group's state machine cannot go on.
    fn failed(&self, group: GroupId, reason: String);
    /// The log failed, or is full, or has room again.
    fn log_health(&self, health: &LogHealth);
    /// Called once per heartbeat interval with who keeps callers waiting for the disk for longest, for how long (rule T1), and for how long
    /// writes have been refused for want of room (rule D10).
    fn beat(&self, waits: Waits, disk_age: Duration, refuses_for: Duration);
    /// The log finished a job that somebody waits for by its token.
    fn log_done(&self, token: u64);
}

/// How many threads there are and how they are paced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) tick: Duration,
    /// Ticks between two host heartbeats.
    pub(crate) beat_ticks: u64,
    pub(crate) apply_threads: usize,
    pub(crate) background_threads: usize,
    pub(crate) unpersisted_bytes_max: usize,
    pub(crate) snapshot_entries: u64,
    pub(crate) log_segments_target: u64,
}

/// What all threads of a host share.
pub(crate) struct Shared {
    pub(crate) steps: Vec<Mailbox<Input>>,
    /// By step worker, proposals that it has not looked at yet.
    proposed: Vec<WaitingBytes>,
    pub(crate) log: Mailbox<LogJob>,
    pub(crate) log_reader: Arc<dyn LogReader>,
    pub(crate) applies: Vec<Mailbox<ApplyMail>>,
    pub(crate) completions: Arc<Completions>,
    pub(crate) metrics: Arc<Metrics>,
    /// By step worker, whether one of its groups waits for its state machine.
    waits_for_apply: Vec<AtomicBool>,
    outbox: Mutex<Option<Arc<dyn Outbox>>>,
    listener: Arc<dyn Listener>,
    background: SyncSender<Background>,
    /// Snapshots to be streamed; `None` ends a thread.
    snapshots: SyncSender<Option<SnapshotSend>>,
    /// Log segments to be filled; `None` ends the thread.
    fills: SyncSender<Option<Fill>>,
    started: Instant,
    tick: AtomicU64,
    /// Number of the last durable batch (rule M7).
    durable_seq: AtomicU64,
    /// Since when somebody waits for the disk (rule T1).
    touching: Touching,
    /// Whether there is room on the disk (rule D10).
    room: Room,
    /// Snapshots that could not be sent, until their groups hear of it.
    retries: Retries,
    /// Chores under way.
    chores: AtomicUsize,
    /// What waits for a background thread is not done any more.
    background_stop: AtomicBool,
    stop: AtomicBool,
}

enum Background {
    Job(Incarnation, Box<dyn BackgroundJob>),
    LogRead(LogReadOrder),
    Hash(Incarnation, HashView),
    Stop,
}

/// The threads.
pub(crate) struct Runtime {
    shared: Arc<Shared>,
    threads: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

impl Shared {
    /// The time as the cores are told it.
    pub(crate) fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            tick: self.tick.load(Ordering::Relaxed),
            monotonic_ms: millis(self.started.elapsed()),
            unix_ms: millis(unix),
        }
    }

    /// The step worker of a group.
    pub(crate) fn step(&self, group: GroupId) -> &Mailbox<Input> {
        &self.steps[share(group, self.steps.len())]
    }

    /// Whether proposals may be put into the mailbox of their group's step worker (rule T2): there they weigh what the engine counts only
    /// when the worker looks, and while it is held up nothing else would stop them.
    pub(crate) fn admit_proposals(&self, group: GroupId, proposals: &[Proposal], bytes_max: usize) -> bool {
        self.proposed[share(group, self.proposed.len())].admit(proposals_bytes(proposals), bytes_max)
    }

    /// The apply thread of a group.
    pub(crate) fn apply(&self, group: GroupId) -> &Mailbox<ApplyMail> {
        &self.applies[share(group, self.applies.len())]
    }

    /// Inputs to the workers of their groups, one lock per worker.
    pub(crate) fn deliver_inputs(&self, inputs: Vec<(GroupId, Input)>) {
        if self.steps.len() == 1 {
            self.steps[0].send_all(inputs.into_iter().map(|(_, input)| input));
            return;
        }
        let mut by_worker: Vec<Vec<Input>> = self.steps.iter().map(|_| Vec::new()).collect();
        for (group, input) in inputs {
            by_worker[share(group, self.steps.len())].push(input);
        }
        for (worker, inputs) in by_worker.into_iter().enumerate().filter(|(_, inputs)| !inputs.is_empty()) {
            self.steps[worker].send_all(inputs);
        }
    }

    /// The messages of one frame. It counts as waiting until every worker has come to the `end` behind its messages.
    pub(crate) fn deliver_frame(&self, inputs: Vec<(GroupId, Input)>, end: impl Fn() -> Input) {
        let mut by_worker: Vec<Vec<Input>> = self.steps.iter().map(|_| Vec::new()).collect();
        for (group, input) in inputs {
            by_worker[share(group, self.steps.len())].push(input);
        }
        for (step, inputs) in self.steps.iter().zip(by_worker).filter(|(_, inputs)| !inputs.is_empty()) {
            step.send_all(inputs.into_iter().chain(std::iter::once(end())));
        }
    }

    /// How far groups applied. That is news only to reads that wait for it, and to the truncation of the log, which has time until the
    /// next tick: a worker whose groups have no such reads is not woken, which saves a turn per batch.
    fn deliver_applied(&self, inputs: Vec<(GroupId, Input)>) {
        let mut by_worker: BTreeMap<usize, Vec<Input>> = BTreeMap::new();
        for (group, input) in inputs {
            by_worker.entry(share(group, self.steps.len())).or_default().push(input);
        }
        for (worker, inputs) in by_worker {
            self.steps[worker].leave_all(inputs);
            // After the input lies there: a worker that begins to wait meanwhile either finds it or is seen to wait.
            if self.waits_for_apply[worker].load(Ordering::SeqCst) {
                self.steps[worker].nudge();
            }
        }
    }

    /// A part of a snapshot was sent. Its deadline is counted in ticks, so the next one is early enough to tell the core.
    pub(crate) fn snapshot_progress(&self, of: Incarnation, to: ReplicaId) {
        let event = Event::SnapshotProgress { to };
        self.step(of.group).leave_all([Input::Own(of, event)]);
    }

    /// The same input to every worker.
    pub(crate) fn broadcast(&self, input: impl Fn() -> Input) {
        for step in &self.steps {
            // A closed worker has no groups left to tell.
            let _ = step.send(input());
        }
    }

    /// Connects the transport, which needs this structure itself.
    pub(crate) fn connect(&self, outbox: Arc<dyn Outbox>) {
        *self.outbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(outbox);
    }

    fn outbox(&self) -> Option<Arc<dyn Outbox>> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Runs something that waits for other threads of this host, on a thread of its own that nobody joins: what it does is safe to
    /// be cut short at any point, as by a crash.
    pub(crate) fn chore(
        self: &Arc<Self>,
        name: &'static str,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        if self.chores.fetch_add(1, Ordering::Relaxed) >= CHORES_MAX {
            self.chores.fetch_sub(1, Ordering::Relaxed);
            return Err(std::io::Error::new(std::io::ErrorKind::QuotaExceeded, "too many are under way"));
        }
        let shared = Arc::clone(self);
        let spawned = detached(name, move || {
            run();
            shared.chores.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            self.chores.fetch_sub(1, Ordering::Relaxed);
        }
        spawned
    }

    /// Number of the last durable batch (rule M7).
    pub(crate) fn durable_seq(&self) -> u64 {
        self.durable_seq.load(Ordering::Relaxed)
    }

    /// For how long the log or a state machine has kept callers waiting, and which of them (rule T1).
    pub(crate) fn disk_wait(&self) -> (Waits, Duration) {
        self.touching.oldest()
    }

    /// Whether this says that a snapshot failed, which its group hears later (rule N2).
    fn puts_off(&self, input: &Input) -> bool {
        let Input::Own(of, Event::SnapshotSent { to, ok }) = input else { return false };
        match ok {
            true => self.retries.arrived(of.group, *to),
            false => self.retries.failed(*of, *to),
        }
        !ok
    }

    /// For how long writes have been refused for want of room (rule D10).
    pub(crate) fn refuses_for(&self) -> Duration {
        self.room.refuses_for()
    }

    /// Whether the log finds no room (rule D10).
    pub(crate) fn is_log_full(&self) -> bool {
        self.room.is_log_full()
    }

    /// Whether there is room on disk for the groups' states (rule D10).
    pub(crate) fn state_room(&self) -> StateRoom {
        self.room.of_states()
    }

    fn dispatch(&self, output: Output, outbox: Option<&Arc<dyn Outbox>>) {
        let Output { messages, reports, log, applies, answers, log_reads, notices } = output;
        if !log.is_empty() {
            self.touching.log_gets_write();
            self.log.send_all(log);
        }
        if let Some(outbox) = outbox {
            for (node, messages) in messages {
                outbox.send(node, messages);
            }
            for report in reports {
                outbox.report(report);
            }
        }
        if self.applies.len() == 1 {
            if !applies.is_empty() {
                self.applies[0].send_all(applies.into_iter().map(|(of, order)| ApplyMail::Order(of, order)));
            }
        } else {
            let mut by_thread: BTreeMap<usize, Vec<ApplyMail>> = BTreeMap::new();
            for (of, order) in applies {
                by_thread
                    .entry(share(of.group, self.applies.len()))
                    .or_default()
                    .push(ApplyMail::Order(of, order));
            }
            for (thread, mail) in by_thread {
                self.applies[thread].send_all(mail);
            }
        }
        if !answers.is_empty() {
            self.completions.deliver(answers);
        }
        for order in log_reads {
            if let Err(TrySendError::Full(Background::LogRead(order))) =
                self.background.try_send(Background::LogRead(order))
            {
                self.deliver_inputs(vec![(order.key.group, log_read_input(&order, ReadBack::NotNow))]);
            }
        }
        for (group, notice) in notices {
            self.listener.notice(group, notice);
        }
    }
}

impl Runtime {
    /// Starts the threads. One core per step worker; the state machines of their groups with them, because a core that knows of
    /// committed entries hands them out in its first turn.
    pub(crate) fn start(
        cores: Vec<Core>,
        appliers: Vec<(GroupId, Box<Applier>)>,
        log: LogWorker,
        completions: Arc<Completions>,
        metrics: Arc<Metrics>,
        listener: Arc<dyn Listener>,
        pace: Pace,
    ) -> std::io::Result<Runtime> {
        let (background, background_jobs) = sync_channel(BACKGROUND_JOBS_MAX);
        let (snapshots, snapshot_sends) = sync_channel(SNAPSHOT_SENDS_MAX);
        let (fills, fill_orders) = sync_channel(2);
        let reader = log.store().reader();
        let durable_seq = log.store().durable_seq();
        let (started, apply_threads) = (Instant::now(), pace.apply_threads.max(1));
        let shared = Arc::new(Shared {
            steps: cores.iter().map(|_| Mailbox::new()).collect(),
            proposed: cores.iter().map(|_| WaitingBytes::default()).collect(),
            log: Mailbox::new(),
            log_reader: Arc::clone(&reader),
            waits_for_apply: cores.iter().map(|_| AtomicBool::new(true)).collect(),
            applies: (0..apply_threads).map(|_| Mailbox::new()).collect(),
            completions,
            metrics,
            outbox: Mutex::new(None),
            listener,
            background,
            snapshots,
            fills,
            started,
            tick: AtomicU64::new(1),
            durable_seq: AtomicU64::new(durable_seq),
            touching: Touching::new(started, apply_threads),
            room: Room::new(started, apply_threads),
            retries: Retries::default(),
            chores: AtomicUsize::new(0),
            background_stop: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        for (group, applier) in appliers {
            // Nobody has closed a mailbox that nobody else knows.
            let _ = shared.apply(group).send(ApplyMail::Add(group, applier));
        }
        let runtime = Runtime { shared: Arc::clone(&shared), threads: Mutex::new(Vec::new()) };
        for (worker, core) in cores.into_iter().enumerate() {
            runtime.spawn("mraft-step", move |shared| step_worker(shared, worker, core))?;
        }
        let segments_target = pace.log_segments_target;
        runtime.spawn("mraft-log", move |shared| log_thread(shared, log, segments_target))?;
        runtime.spawn("mraft-fill", move |shared| fill_thread(shared, &fill_orders))?;
        let share_of_budget = pace.unpersisted_bytes_max / apply_threads;
        for thread in 0..apply_threads {
            let worker = ApplyWorker::new(Arc::clone(&reader), share_of_budget, pace.snapshot_entries);
            runtime.spawn("mraft-apply", move |shared| apply_thread(shared, thread, worker))?;
        }
        let background_jobs = Arc::new(Mutex::new(background_jobs));
        for _ in 0..pace.background_threads.max(1) {
            let (jobs, reader) = (Arc::clone(&background_jobs), Arc::clone(&reader));
            runtime
                .spawn("mraft-background", move |shared| background_thread(shared, &jobs, reader.as_ref()))?;
        }
        let snapshot_sends = Arc::new(Mutex::new(snapshot_sends));
        for _ in 0..SNAPSHOT_THREADS {
            let sends = Arc::clone(&snapshot_sends);
            runtime.spawn("mraft-snapshots", move |shared| snapshot_thread(shared, &sends))?;
        }
        runtime.spawn("mraft-ticker", move |shared| ticker(shared, &pace))?;
        Ok(runtime)
    }

    /// What the threads share.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Ends the threads in the order in which work flows: no new ticks, then the cores, then what they feed. Threads that a disk holds
    /// up which does not answer (rule T1: for `stalled`) are left behind; they keep what they use, the locks of the directories included.
    pub(crate) fn stop(&self, disk_is_well: bool, stalled: Duration) {
        let shared = &self.shared;
        let hangs = |waited: Duration| match shared.disk_wait().1 >= stalled {
            true => waited >= LEAVE_AFTER,
            false => !disk_is_well && waited >= LEAVE_LATE_AFTER,
        };
        shared.stop.store(true, Ordering::Relaxed);
        shared.broadcast(|| Input::StopAll(NotApplied::Stopping));
        shared.steps.iter().for_each(Mailbox::close);
        self.join("mraft-step", &hangs);
        shared.log.close();
        self.join("mraft-log", &hangs);
        // A filling that is under way is finished first: half a file would only be removed at the next start.
        let _ = shared.fills.send(None);
        self.join("mraft-fill", &hangs);
        shared.applies.iter().for_each(Mailbox::close);
        self.join("mraft-apply", &hangs);
        shared.background_stop.store(true, Ordering::Relaxed);
        for _ in 0..self.count("mraft-background") {
            // A full queue wakes every thread just as well.
            let _ = shared.background.try_send(Background::Stop);
        }
        self.join("mraft-background", &hangs);
        for _ in 0..SNAPSHOT_THREADS {
            // As above.
            let _ = shared.snapshots.try_send(None);
        }
        *shared.outbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.join("mraft-ticker", &hangs);
        self.join("mraft-snapshots", &hangs);
    }

    fn spawn(&self, name: &'static str, run: impl FnOnce(&Shared) + Send + 'static) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || or_abort(name, || run(&shared)))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push((name, thread));
        Ok(())
    }

    fn count(&self, name: &str) -> usize {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.iter().filter(|(of, _)| *of == name).count()
    }

    fn join(&self, name: &str, hangs: &dyn Fn(Duration) -> bool) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let (ending, others): (Vec<_>, Vec<_>) = threads.drain(..).partition(|(of, _)| *of == name);
        *threads = others;
        drop(threads);
        let began = Instant::now();
        for (_, thread) in ending {
            while !thread.is_finished() && !hangs(began.elapsed()) {
                std::thread::sleep(JOIN_POLL);
            }
            if thread.is_finished() {
                // A panic would have ended the process.
                let _ = thread.join();
            } else {
                tracing::error!(thread = name, "the disk does not answer: a thread is left behind");
            }
        }
    }
}

/// Takes everything that happened, decides once, and hands it all out.
fn step_worker(shared: &Shared, worker: usize, mut core: Core) {
    let mut inputs = Vec::new();
    let mut held_before = 0;
    while shared.steps[worker].receive(&mut inputs, None) {
        let outbox = shared.outbox();
        core.set_now(shared.now());
        let mut ticked = false;
        for input in inputs.drain(..) {
            if matches!(input, Input::Node(NodeEvent::Tick { .. })) && std::mem::replace(&mut ticked, true) {
                // Ticks that piled up while this thread was held up are dropped (rule T1).
                continue;
            }
            if let Input::Group(_, Event::Propose(proposals)) = &input {
                shared.proposed[worker].release(proposals_bytes(proposals));
            }
            core.handle(input);
        }
        // What one turn decides may let the next one decide more (a sole voter commits what it finds durable).
        while !core.is_idle() {
            shared.dispatch(core.turn(), outbox.as_ref());
        }
        let held = core.engine().held_bytes() as u64;
        shared.metrics.held(held_before, held);
        held_before = held;
        shared.waits_for_apply[worker].store(core.engine().waits_for_apply(), Ordering::SeqCst);
    }
}

/// Makes what waits durable, as one batch; seals and tidies when nothing waits.
fn log_thread(shared: &Shared, mut log: LogWorker, segments_target: u64) {
    let mut jobs = Vec::new();
    let mut done = Vec::new();
    let mut full = false;
    // Opening the log may have written records that nothing proves yet.
    let mut seal_after = Some(SEAL_AFTER);
    let mut pressed_at = 0;
    let mut has_more_to_tidy = false;
    loop {
        let retry_after = match (has_more_to_tidy, log.waits()) {
            (true, _) => Some(Duration::ZERO),
            (false, waits) => waits.then_some(FULL_RETRY),
        };
        let open = shared.log.receive(&mut jobs, seal_after.or(retry_after));
        if jobs.is_empty() && seal_after.is_some() {
            let (health, is_sealed) = shared.touching.log_touches(|| log.seal());
            seal_after = (!is_sealed).then_some(FULL_RETRY);
            report_log(shared, &mut full, health);
        }
        if jobs.is_empty() && !log.waits() {
            if !open {
                return;
            }
            // An idle log goes on giving room back, a step at each seal's time.
            if !has_more_to_tidy {
                continue;
            }
        }
        let began = shared.started.elapsed();
        let (health, run) = shared.touching.log_writes(|| log.run(jobs.drain(..), &mut done));
        shared.durable_seq.store(log.store().durable_seq(), Ordering::Relaxed);
        shared.metrics.log_run(&run, shared.started.elapsed().saturating_sub(began));
        report_log(shared, &mut full, health);
        report_done(shared, &mut done);
        let (health, more) = shared.touching.log_touches(|| log.maintain());
        has_more_to_tidy = more;
        if run.batches > 0 || more {
            seal_after = Some(SEAL_AFTER);
        }
        report_log(shared, &mut full, health);
        pressed_at = press(shared, log.store().status().segments_live, segments_target, full, pressed_at);
        let (health, fill) = shared.touching.log_touches(|| log.lend_fill());
        report_log(shared, &mut full, health);
        if let Some(fill) = fill {
            // One is out at most, so there is room.
            let _ = shared.fills.try_send(Some(fill));
        }
        shared.metrics.log_status(&log.store().status());
        if !open && log.waits() {
            return;
        }
    }
}

/// Tells whoever waits what became of the log's jobs.
fn report_done(shared: &Shared, done: &mut Vec<LogDone>) {
    let mut inputs = Vec::with_capacity(done.len());
    for done in done.drain(..) {
        match done {
            LogDone::Persisted { of, .. } | LogDone::InstallStep { of } => {
                inputs.push((of.group, Input::Log(done)))
            }
            LogDone::Added { token } | LogDone::Removed { token } | LogDone::Found { token } => {
                shared.listener.log_done(token);
            }
            LogDone::Refused { ref key, ref reason } => {
                let group = key.group;
                shared.listener.failed(group, reason.clone());
                inputs.push((group, Input::Log(done)));
            }
        }
    }
    shared.deliver_inputs(inputs);
}

/// Rule L5: asks for room once the log is too long, and again for every segment that comes on top; answers how many there were then. While
/// the disk is full groups only let go of what they do not need, since persisting takes room too; that counts as one segment.
fn press(shared: &Shared, segments: u64, target: u64, full: bool, pressed_at: u64) -> u64 {
    match pressed_at {
        0 if full => {
            shared.metrics.count("mraft_log_pressed_total", "why", "full");
            shared.broadcast(|| Input::LogPressed(true));
            1
        }
        before if !full && segments > target.max(before) => {
            shared.metrics.count("mraft_log_pressed_total", "why", "segments");
            shared.broadcast(|| Input::LogPressed(true));
            for apply in &shared.applies {
                // An apply thread that is gone has nothing to persist.
                let _ = apply.send(ApplyMail::PersistAll);
            }
            segments
        }
        before if before == 0 || full || segments > target => before,
        _ => {
            shared.broadcast(|| Input::LogPressed(false));
            0
        }
    }
}

fn report_log(shared: &Shared, full: &mut bool, health: LogHealth) {
    match &health {
        LogHealth::Well if !*full => return,
        LogHealth::Well => {
            *full = false;
            shared.room.log_is_full(false);
            shared.broadcast(|| Input::LogFull(false));
        }
        LogHealth::Full if *full => return,
        LogHealth::Full => {
            *full = true;
            shared.room.log_is_full(true);
            shared.broadcast(|| Input::LogFull(true));
        }
        LogHealth::Failed(_) => {
            shared.broadcast(|| {
                Input::StopAll(NotApplied::Disk("the log failed; every replica of this node stopped"))
            });
        }
    }
    shared.listener.log_health(&health);
}

/// Applies what is committed and answers the callers.
fn apply_thread(shared: &Shared, thread: usize, mut worker: ApplyWorker) {
    let mut mail = Vec::new();
    let mut unpersisted_before = 0;
    let mut tried = Instant::now();
    while shared.applies[thread].receive(&mut mail, worker.waits_for_room().then_some(FULL_RETRY)) {
        let began = Instant::now();
        let mut out = ApplyOutput::default();
        for item in mail.drain(..) {
            shared.touching.apply_does(thread, || worker.handle(item, &mut out));
        }
        if worker.waits_for_room() && tried.elapsed() >= FULL_RETRY {
            tried = began;
            shared.touching.apply_does(thread, || worker.retry(&mut out));
        }
        shared.touching.apply_does(thread, || worker.finish(&mut out));
        shared.room.apply_finds(thread, worker.room());
        for _ in 0..out.found_full {
            shared.metrics.count("mraft_apply_stalls_total", "reason", "disk_full");
        }
        shared.metrics.applied(out.commands, began.elapsed());
        for _ in 0..out.stalls {
            shared.metrics.count("mraft_apply_stalls_total", "reason", "unpersisted_bytes");
        }
        let unpersisted = worker.unpersisted_bytes() as u64;
        shared.metrics.unpersisted(unpersisted_before, unpersisted);
        unpersisted_before = unpersisted;
        shared.completions.deliver(out.answers);
        let (applied, others) =
            out.inputs.into_iter().partition(|(_, input)| matches!(input, Input::Applied { .. }));
        shared.deliver_applied(applied);
        shared.deliver_inputs(others.into_iter().filter(|(_, input)| !shared.puts_off(input)).collect());
        for (of, reason) in out.failed {
            let stop = NotApplied::Stopping;
            shared.deliver_inputs(vec![(of.group, Input::StopOwn(of, stop))]);
            shared.listener.failed(of.group, reason);
        }
        for (of, job) in out.jobs {
            if let Err(
                TrySendError::Full(Background::Job(of, job))
                | TrySendError::Disconnected(Background::Job(of, job)),
            ) = shared.background.try_send(Background::Job(of, job))
            {
                // More flushes than the queue holds: this thread does the work itself, which also slows the writers down.
                shared.touching.apply_does(thread, || run_job(shared, of, job));
            }
        }
        for (of, view) in out.hashes {
            // With the queue full this checkpoint is skipped here: a later one compares the same.
            if shared.background.try_send(Background::Hash(of, view)).is_err() {
                tracing::warn!(group = %of.group, "too much background work: the state is not hashed at this checkpoint");
            }
        }
        for send in out.sends {
            if let Err(TrySendError::Full(Some(send)) | TrySendError::Disconnected(Some(send))) =
                shared.snapshots.try_send(Some(send))
            {
                shared.retries.failed(send.of, send.order.to);
            }
        }
    }
    let mut out = ApplyOutput::default();
    worker.close(&mut out);
    shared.completions.deliver(out.answers);
}

/// Flushes, compacts, hashes, and reads old entries back for followers that lag.
fn background_thread(shared: &Shared, jobs: &Mutex<Receiver<Background>>, log: &dyn LogReader) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        if shared.background_stop.load(Ordering::Relaxed) {
            // What was not begun is as if the process had died before it: the log still has everything.
            return;
        }
        match job {
            Ok(Background::Job(of, job)) => run_job(shared, of, job),
            Ok(Background::Hash(of, view)) => {
                let mail = match caught("hashing its content", || view.run()) {
                    Ok(result) => ApplyMail::Hashed(of, result),
                    Err(reason) => ApplyMail::Fail(of, reason),
                };
                // The apply thread is gone only when the host closes.
                let _ = shared.apply(of.group).send(mail);
            }
            Ok(Background::LogRead(order)) => {
                let group = order.of.group;
                match read_back(&order, log) {
                    Ok(found) => shared.deliver_inputs(vec![(group, log_read_input(&order, found))]),
                    // The apply thread is gone only when the host closes.
                    Err(reason) => _ = shared.apply(group).send(ApplyMail::Fail(order.of, reason)),
                }
            }
            Ok(Background::Stop) | Err(_) => return,
        }
    }
}

fn run_job(shared: &Shared, of: Incarnation, job: Box<dyn BackgroundJob>) {
    // The apply thread is gone only when the host closes; what the job persisted stays persisted.
    let result = caught("its background job", || job.run()).unwrap_or_else(|reason| {
        let _ = shared.apply(of.group).send(ApplyMail::Fail(of, reason));
        Ok(())
    });
    let _ = shared.apply(of.group).send(ApplyMail::BackgroundDone(of, result));
}

/// A thread that nobody joins, for what may wait for a disk longer than anybody waits for it.
pub(crate) fn detached(name: &'static str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(move || or_abort(name, run)).map(drop)
}

/// What proposals weigh in a mailbox: their bodies, and a place for each.
fn proposals_bytes(proposals: &[Proposal]) -> usize {
    proposals.iter().map(|proposal| proposal.body.len() + size_of::<Proposal>()).sum()
}

/// Which of `among` threads a group belongs to.
pub(crate) fn share(group: GroupId, among: usize) -> usize {
    if among <= 1 { 0 } else { (group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % among }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
