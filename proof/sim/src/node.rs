// SPDX-License-Identifier: Apache-2.0

//! One simulated node: a disk that outlives its processes, and the process that runs on it at present.
//!
//! A crash in the middle of something is a number of a disk operation: from that one on everything fails, and whatever was under way
//! ends there. Its effects outside the disk never happened; see [`Node::arm`] and [`Node::died`].

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use std::sync::mpsc::sync_channel;

use mraft::apply_worker::{ApplyMail, ApplyOutput, ApplyWorker};
use mraft::core::{Core, CoreConfig, Incarnation, Input};
use mraft::files::{group_directory, remove_directory};
use mraft::identity::{self, Claim, Identity};
use mraft::machines::{BackgroundJob, Lookup};
use mraft::opening;
use mraft::peer_table::PeerTable;
use mraft::persist::{LogDone, LogHealth, LogJob, LogWorker};
use mraft::registry::Registry;
use mraft::restore::{RestoredReplica, first_log, log_key, restore};
use mraft::slow_disk::{Moves, Pauses};
use mraft::{GroupRecord, HostConfig, HostError, NotApplied};
use mraft_disk::memory::Faults;
use mraft_disk::{Disk, MemoryDisk};
use mraft_engine::Limits;
use mraft_logstore::{Case, LogError, LogOptions, Recovered};
use mraft_raft::Ignored;
use mraft_types::{CondemnedReason, DeploymentId, GroupId, HardState, Index, InstanceId, NodeId, ReplicaId};
use mraft_wire::STARTS_MAX;

use crate::mix::{Memory, Mix, Own};
use crate::random::{Concern, Random};
use crate::recorder::{Applied, Recorder};
use crate::stores::{RealStore, Stores};

/// Election timeouts of simulated nodes in ticks.
pub const ELECTION_TICKS: u32 = 10;
/// Replicas are compared this often, so that every run does so many times (rule E8).
const COMPARE_TICKS: u64 = 20;
/// Heartbeat interval of simulated nodes in ticks.
pub const HEARTBEAT_TICKS: u32 = 2;
/// Live segments above which the log asks for room (rule L5).
pub const SEGMENTS_TARGET: u64 = 4;

/// A state machine's thread is held up for so long.
const APPLY_PAUSE_US: u64 = 60_000;
/// Where a simulated node keeps everything.
pub const DATA: &str = "/data";
const DEPLOYMENT: DeploymentId = DeploymentId(1);
/// The log closes its batches here; a turn of a simulated node rarely has more.
const BATCH_BYTES_TARGET: usize = 8 << 10;
/// One segment of the simulated log.
const SEGMENT_BYTES: u64 = 128 << 10;
/// What a log takes at once.
pub const BATCH_BYTES_MAX: usize = SEGMENT_BYTES as usize / 4;

/// A node.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What survives its processes.
    pub disk: MemoryDisk,
    /// Where its groups are, if they are not on that disk.
    pub real: Option<RealStore>,
    /// Counts its processes: events for an earlier one go nowhere.
    pub boot: u64,
    /// The process, while it runs.
    pub process: Option<Process>,
    /// The groups that its configuration says it founds.
    pub founding: Vec<GroupRecord>,
    /// Gone for good, with its disk.
    pub is_gone: bool,
    /// Its processes do not start any more, or no peer takes what they say: why.
    pub outcast: Option<String>,
    /// No process can open its directory.
    pub is_unreadable: bool,
    /// An operator stopped it for good: it comes back with an empty directory once its peers have forgotten it.
    pub is_put_away: bool,
    /// Something happened to its directory that no disk does by itself: what it holds may not be what was written.
    pub is_hurt: bool,
    /// By place, the directories of nodes that remember a start of this node which its directory did not go through: it is an old copy.
    pub is_old_for: BTreeMap<usize, InstanceId>,
    /// How often that directory had been started when it was copied.
    pub old_boot: u64,
    /// Until when its disk is slow, and how many times.
    pub slow: Option<(u64, u64)>,
    /// Until when its process stands still, in microseconds of virtual time.
    pub frozen_until_us: u64,
    /// How far its wall clock jumped.
    pub jumped_ms: i64,
    /// Whether it ever did.
    pub has_jumped: bool,
    /// A copy of its directory, with how often that had been started.
    pub copy: Option<(u64, MemoryDisk)>,
    /// Segments that its logs recycled, over all processes.
    pub segments_recycled: u64,
    /// Installations of snapshots that recovery found begun: those that it finished, and those that it gave up (rule N1).
    pub installations_finished: u64,
    /// See [`Node::installations_finished`].
    pub installations_given_up: u64,
    /// The disk operation at which the process dies.
    pub crash_at: Option<u64>,
    /// When its last process ended: whoever waited for that is being told.
    pub ended_us: u64,
    /// Nobody starts it before this time.
    pub away_until_us: u64,
    /// Its process dies in the middle of its next write to the log.
    pub cuts_log: bool,
    /// Its disk lies.
    pub lie: Option<Lie>,
    /// What the last opening of its log met.
    pub recovery_cases: BTreeMap<Case, u64>,
    /// How often replicas refused something, and why.
    pub ignored: BTreeMap<Ignored, u64>,
    /// What the disk was told to refuse while this process runs: nothing else excuses a failure.
    pub faulty: Faulty,
}

/// How things stood when a disk began to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lie {
    /// What its logs held.
    pub heads: BTreeMap<GroupId, (HardState, Index)>,
    /// How many nodes had come back under an id that all others were told to forget.
    pub forgotten: u64,
}

/// What a disk was told to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faulty {
    /// To grow. Logs and state machines must come through that by themselves (rule D10).
    pub full: bool,
    /// One operation, with EIO.
    pub failing: bool,
    /// All reads, writes or syncs, with EIO.
    pub broken: bool,
}

impl Faulty {
    /// Whether it was told anything.
    pub fn any(self) -> bool {
        self.full || self.failing || self.broken
    }
}

/// A running process.
pub struct Process {
    /// What its directory says of itself.
    pub identity: Identity,
    /// Which replicas live here.
    pub registry: Registry,
    /// What it knows of the other nodes; there once the start is through.
    pub table: Option<PeerTable>,
    /// Replicas whose state could not be opened (rule D10).
    pub not_started: Vec<(GroupId, HostError)>,
    /// Decides.
    pub core: Core,
    /// Writes the log.
    pub log: LogWorker,
    /// What waits for the log.
    pub log_jobs: Vec<LogJob>,
    /// Whether a write is under way; its end is scheduled.
    pub log_busy: bool,
    /// Counts the log's runs: what was to happen when nothing follows one does not happen when something did.
    pub log_runs: u64,
    /// The log has no room and is tried again.
    pub log_full: bool,
    /// The log failed: no replica of this process may take part in anything any more (rule D10).
    pub log_failed: bool,
    /// The last batch has no seal yet (rule L3).
    pub log_seal_due: bool,
    /// The log has more to tidy up.
    pub log_more_to_tidy: bool,
    /// How many live segments there were when room was last asked for (rule L5); 0 for never.
    pub log_pressed_at: u64,
    /// Applies.
    pub apply: ApplyWorker,
    /// What waits for it.
    pub mail: Vec<ApplyMail>,
    /// Whether it is at work; the end is scheduled.
    pub apply_busy: bool,
    /// A machine found no room, and another attempt is scheduled (rule D10).
    pub apply_retries: bool,
    /// Since when a write to the log, and a state machine, has kept its callers waiting (rule T1).
    pub log_waits_since_us: Option<u64>,
    /// See [`Process::log_waits_since_us`].
    pub apply_waits_since_us: Option<u64>,
    /// Since when the log has had no room.
    pub full_since_us: Option<u64>,
    /// Since when a state machine has waited for some.
    pub store_full_since_us: Option<u64>,
    /// For how long the disks of others keep their callers waiting, as they last said.
    pub peers_waited_ms: BTreeMap<NodeId, u64>,
    /// Whether it stood still.
    pub pauses: Pauses,
    /// When it went on.
    pub went_on_us: u64,
    /// Leadership that it moved away because of its disk.
    pub moves: Moves,
    /// When that was tried last, in microseconds of virtual time.
    pub apply_tried_us: u64,
    /// Replicas stopped because of a failing disk: an operator restarts the process some time.
    pub needs_restart: bool,
    /// Flushes that wait.
    pub jobs: VecDeque<(Incarnation, Box<dyn BackgroundJob>)>,
    /// For reads.
    pub lookups: BTreeMap<GroupId, Arc<dyn Lookup>>,
    /// What the state machines did.
    pub applied: BTreeMap<GroupId, Applied>,
    /// Snapshots whose installation an earlier process began and this one gave up: the index that each covers (rule N1).
    pub abandoned: BTreeMap<GroupId, Index>,
    /// Until then the state machines take no entries.
    pub apply_paused_until_us: u64,
    /// Its logical clock.
    pub tick: u64,
    /// When it began, in microseconds of virtual time: its monotonic clock's zero.
    pub began_us: u64,
    /// Numbers for staged directories.
    pub staged: u64,
    /// Numbers for the runs of replicas.
    numbers: u64,
    /// Most entry bytes of one job for a state machine.
    apply_bytes_max: usize,
}

impl Node {
    /// A node without a process, on an empty disk.
    pub fn new(id: NodeId) -> Node {
        Node {
            id,
            disk: MemoryDisk::new(),
            real: None,
            boot: 0,
            process: None,
            founding: Vec::new(),
            is_gone: false,
            outcast: None,
            is_unreadable: false,
            is_put_away: false,
            is_hurt: false,
            is_old_for: BTreeMap::new(),
            old_boot: 0,
            slow: None,
            frozen_until_us: 0,
            jumped_ms: 0,
            has_jumped: false,
            copy: None,
            segments_recycled: 0,
            installations_finished: 0,
            installations_given_up: 0,
            crash_at: None,
            ended_us: 0,
            away_until_us: 0,
            cuts_log: false,
            lie: None,
            recovery_cases: BTreeMap::new(),
            ignored: BTreeMap::new(),
            faulty: Faulty::default(),
        }
    }

    /// What its groups keep their state in.
    pub fn stores(&self) -> Stores {
        match &self.real {
            Some(store) => Stores::Real(store.clone()),
            None => Stores::Memory(self.disk.clone()),
        }
    }

    /// Whether its disk may fail: it was told to, or something happened to what it holds.
    pub fn may_fail(&self) -> bool {
        self.faulty.failing || self.faulty.broken || self.is_hurt
    }

    /// Where the last write to a file went.
    pub fn last_write(&self, path: &Path) -> Option<std::ops::Range<u64>> {
        self.disk.last_write(path).map(|(from, to)| from..to)
    }

    /// Lets the process die before the disk operation that comes so many operations from now.
    pub fn arm(&mut self, operations: u64) {
        let at = self.disk.operations() + operations;
        let at = self.crash_at.map_or(at, |known| known.min(at));
        self.crash_at = Some(at);
        self.disk.fail_from_operation(at);
    }

    /// Whether the process came to where it dies. Then nothing of what it did since may leave the node.
    pub fn died(&self) -> bool {
        self.crash_at.is_some_and(|at| self.disk.operations() > at)
    }

    /// What its host says of its life (rule Q2).
    pub fn life(&self) -> Option<u64> {
        let process = self.process.as_ref()?;
        Some(self.boot << 32 | process.core.engine().epoch())
    }

    /// Whether it leads a group that is asleep.
    pub fn has_sleeping_leader(&self) -> bool {
        let Some(engine) = self.process.as_ref().map(|process| process.core.engine()) else { return false };
        let mut leaders = engine.group_ids().filter_map(|id| engine.raft(id)).filter(|raft| raft.is_leader());
        leaders.any(|raft| raft.is_asleep())
    }

    /// Changes what goes wrong with the disk, and keeps the rest.
    pub fn change_faults(&self, change: impl FnOnce(&mut Faults)) {
        let mut faults = self.disk.faults();
        change(&mut faults);
        self.disk.set_faults(faults);
    }

    /// Adds up what the replicas of the process refused, and why.
    pub fn note_ignored(&mut self) {
        let Some(process) = self.process.as_ref() else { return };
        let engine = process.core.engine();
        for (reason, times) in
            engine.group_ids().filter_map(|id| engine.raft(id)).flat_map(|raft| raft.ignored())
        {
            *self.ignored.entry(*reason).or_default() += u64::from(*times);
        }
    }

    /// The process is gone; so is what its disk was told, unless the disk is still full.
    pub fn end(&mut self, power_seed: Option<u64>) {
        self.note_ignored();
        if let Some(process) = self.process.take() {
            self.segments_recycled += process.log.store().status().segments_recycled;
        }
        let Faults { reads_fail, writes_fail, syncs_fail, ignore_syncs, .. } = self.disk.faults();
        if ignore_syncs {
            self.disk.make_durable();
        }
        self.lie = None;
        match power_seed {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        self.change_faults(|faults| *faults = Faults { reads_fail, writes_fail, syncs_fail, ..*faults });
        self.crash_at = None;
        self.cuts_log = false;
        self.frozen_until_us = 0;
        self.faulty = Faulty {
            full: self.disk.faults().capacity_bytes.is_some(),
            failing: false,
            broken: reads_fail || writes_fail || syncs_fail,
        };
    }

    /// Starts a process from what the disk holds, in the order of a host: see [`mraft::opening`].
    pub fn start(&mut self, own: &Own, mix: &Mix, salt: u64, now_us: u64) -> Result<(), HostError> {
        self.boot += 1;
        let mut random = Random::new(salt, Concern::Disks);
        let instance = u128::from(random.draw()) << 64 | u128::from(random.draw());
        let fresh = (InstanceId(instance.to_le_bytes()), random.draw());
        let (disk, stores): (Arc<dyn Disk>, _) = (Arc::new(self.disk.clone()), self.stores());
        let data = Path::new(DATA);
        let io = |error| HostError::Io { path: data.to_owned(), error };
        disk.create_dir_all(data).map_err(io)?;
        let claim = Claim { deployment: DEPLOYMENT, node: self.id, raft_address: address(self.id) };
        opening::claim(disk.as_ref(), data, data, &claim, fresh)?;
        let options = LogOptions::new(SEGMENT_BYTES, Box::new(move || random.draw()))
            .with_batch_bytes_max(BATCH_BYTES_MAX)
            .with_segments_target(SEGMENTS_TARGET);
        let opened = opening::open(&disk, data, data, &claim, fresh, options)?;
        let opening::Opened { mut identity, registry, log } = opened;
        if identity.boot_counter > self.old_boot + STARTS_MAX as u64 {
            // It does not know any more which starts it went through (`docs/promises.md`).
            self.is_old_for.clear();
        }
        self.recovery_cases = log.recovery_cases().clone();
        let mut process =
            Process::new(self.boot, own, mix, identity.clone(), registry, Box::new(log), now_us);
        let (mut numbers, mut applied) = (process.numbers, BTreeMap::new());
        let mut begun = BTreeMap::new();
        let Process { registry, log, .. } = &mut process;
        let recovery = opening::recover(registry, log, |record, recovered| {
            numbers += 1;
            begun.extend(begun_install(record, recovered.as_ref()));
            let recorded = applied.entry(record.group).or_insert_with(Applied::default);
            put_together(&stores, own, mix, record, numbers, recovered, recorded)
        })?;
        (process.numbers, process.applied) = (numbers, applied);
        // See `Process::take_mail`.
        process.apply_bytes_max = if begun.is_empty() { mix.apply_bytes_max } else { 1 };
        process.core = process.core(self.id, own, &mix.memory);
        for (record, replica) in recovery.replicas {
            if let Some(start) = begun.remove(&record.group) {
                match replica.discard {
                    None if replica.applier.meta().applied.index == start => self.installations_finished += 1,
                    _ => _ = process.abandoned.insert(record.group, start),
                }
            }
            process.take_in(&record, replica);
        }
        self.installations_given_up += process.abandoned.len() as u64;
        process.not_started = recovery.not_started;
        let left = opening::finish_removals(stores.disk().as_ref(), stores.data(), process.registry.list());
        left.into_iter().try_for_each(|(_, error)| Err(error))?;
        identity::mark_created(disk.as_ref(), data, data, &mut identity)?;
        process.table = Some(PeerTable::open(Arc::clone(&disk), data)?);
        let list = process.registry.list();
        let is_new = |record: &&GroupRecord| {
            !list.records.contains_key(&record.group) && !list.gone.contains_key(&record.group)
        };
        let new: Vec<GroupRecord> = self.founding.iter().filter(is_new).cloned().collect();
        process.add(&stores, own, mix, new)?;
        self.process = Some(process);
        Ok(())
    }
}

/// The installation that a crash cut short: the index that its snapshot covers (rule N1).
fn begun_install(record: &GroupRecord, recovered: Option<&Recovered>) -> Option<(GroupId, Index)> {
    let (start, _) = recovered?.install.as_ref()?;
    Some((record.group, start.position.index))
}

/// Where a node is reached.
pub fn address(node: NodeId) -> String {
    format!("sim:{node}")
}

/// What its host is told.
fn config(node: NodeId, mix: &Mix) -> HostConfig {
    let mut config = HostConfig::new(DEPLOYMENT, node, address(node), PathBuf::from(DATA));
    config.election_ticks = ELECTION_TICKS;
    config.heartbeat_ticks = HEARTBEAT_TICKS;
    config.check_quorum = mix.check_quorum;
    config.cache_bytes_max = mix.memory.cache_bytes_max;
    config.unapplied_bytes_max = mix.memory.unapplied_bytes_max;
    config
}

fn put_together(
    stores: &Stores,
    own: &Own,
    mix: &Mix,
    record: &GroupRecord,
    number: u64,
    recovered: Option<Recovered>,
    applied: &Applied,
) -> Result<RestoredReplica, HostError> {
    let directory = group_directory(stores.data(), record.group, record.replica);
    let machine = Box::new(Recorder::new(stores.machine(own, directory), applied.clone()));
    let mut replica = restore(&config(record.replica.node(), mix), record, number, recovered, machine)?;
    replica.seat.raft.set_quiesce_after_ticks(mix.quiesce_after_ticks);
    Ok(replica)
}

impl Process {
    fn new(
        boot: u64,
        own: &Own,
        mix: &Mix,
        identity: Identity,
        registry: Registry,
        log: Box<dyn mraft_logstore::LogStore>,
        now_us: u64,
    ) -> Process {
        let log = LogWorker::new(log).with_batch_bytes_target(BATCH_BYTES_TARGET);
        let node = identity.node;
        let mut process = Process {
            core: Core::new(core_config(node, own, &mix.memory, mix.apply_bytes_max)),
            apply: ApplyWorker::new(log.store().reader(), usize::MAX, 0),
            identity,
            registry,
            table: None,
            log,
            log_jobs: Vec::new(),
            log_busy: false,
            log_runs: 0,
            log_full: false,
            log_failed: false,
            // Opening the log may have written records that nothing proves yet.
            log_seal_due: true,
            log_more_to_tidy: false,
            log_pressed_at: 0,
            mail: Vec::new(),
            apply_busy: false,
            apply_retries: false,
            log_waits_since_us: None,
            apply_waits_since_us: None,
            full_since_us: None,
            store_full_since_us: None,
            peers_waited_ms: BTreeMap::new(),
            pauses: Pauses::default(),
            went_on_us: now_us,
            moves: Moves::default(),
            apply_tried_us: now_us,
            needs_restart: false,
            jobs: VecDeque::new(),
            lookups: BTreeMap::new(),
            applied: BTreeMap::new(),
            not_started: Vec::new(),
            abandoned: BTreeMap::new(),
            apply_paused_until_us: 0,
            apply_bytes_max: mix.apply_bytes_max,
            tick: boot << 32,
            began_us: now_us,
            staged: boot << 32,
            numbers: boot << 32,
        };
        process.core = process.core(node, own, &mix.memory);
        process
    }

    fn core(&self, node: NodeId, own: &Own, memory: &Memory) -> Core {
        Core::new(core_config(node, own, memory, self.apply_bytes_max))
    }

    /// Gives a replica that was put together to whoever runs it.
    fn take_in(&mut self, record: &GroupRecord, replica: RestoredReplica) {
        let RestoredReplica { seat, applier, discard, .. } = replica;
        let of = seat.incarnation;
        if seat.raft.condemned() != Some(CondemnedReason::Divergence) {
            self.lookups.insert(record.group, applier.lookup());
        }
        self.core.handle(Input::Start(Box::new(seat)));
        let out = &mut Default::default();
        self.apply.handle(ApplyMail::Add(record.group, Box::new(applier)), out);
        if let Some(directory) = discard {
            self.apply.handle(ApplyMail::Discard(of, directory), out);
        }
    }

    /// Founds or joins groups: the list first, then the log, then the machines, as a host does.
    pub fn add(
        &mut self,
        stores: &Stores,
        own: &Own,
        mix: &Mix,
        records: Vec<GroupRecord>,
    ) -> Result<(), HostError> {
        if records.is_empty() {
            return Ok(());
        }
        self.registry.put(records.iter().cloned())?;
        let job = LogJob::Add { token: 0, replicas: records.iter().map(first_log).collect() };
        self.run_log(job)?;
        self.registry.logged(records.iter().map(|record| record.group))?;
        for record in &records {
            self.numbers += 1;
            let applied = Applied::default();
            self.applied.insert(record.group, applied.clone());
            let replica = put_together(stores, own, mix, record, self.numbers, None, &applied)?;
            self.take_in(record, replica);
        }
        Ok(())
    }

    /// Stops a replica and forgets it for good, in the order of a host.
    pub fn remove(
        &mut self,
        stores: &Stores,
        group: GroupId,
        replica: ReplicaId,
        out: &mut ApplyOutput,
    ) -> Result<(), HostError> {
        let record = self.registry.records().get(&group).filter(|record| record.replica == replica);
        let Some(key) = record.map(log_key) else { return Ok(()) };
        self.core.handle(Input::Stop(group, NotApplied::Stopping));
        let (done, _) = sync_channel(1);
        self.apply.handle(ApplyMail::Remove { group, persist: false, done }, out);
        self.lookups.remove(&group);
        self.applied.remove(&group);
        self.not_started.retain(|(of, _)| *of != group);
        self.registry.remove(group, replica)?;
        self.run_log(LogJob::Remove { token: 0, key })?;
        let directory = group_directory(stores.data(), group, replica);
        remove_directory(stores.disk().as_ref(), &directory)
            .map_err(|error| HostError::Io { path: directory, error })
    }

    /// A job that its caller waits for.
    fn run_log(&mut self, job: LogJob) -> Result<(), HostError> {
        let mut done = Vec::new();
        let (health, _) = self.log.run([job], &mut done);
        // A log that failed before says nothing of what it is asked for since.
        let is_done = done.iter().any(|done| matches!(done, LogDone::Added { .. } | LogDone::Removed { .. }));
        done.into_iter().for_each(|done| self.core.handle(Input::Log(done)));
        self.log_seal_due = true;
        match health {
            LogHealth::Well if is_done => Ok(()),
            LogHealth::Well => Err(HostError::Closed),
            LogHealth::Full => Err(HostError::Log(LogError::Full { needed_bytes: SEGMENT_BYTES })),
            LogHealth::Failed(error) => Err(HostError::Log(error)),
        }
    }
}

fn core_config(node: NodeId, own: &Own, memory: &Memory, apply_bytes_max: usize) -> CoreConfig {
    CoreConfig {
        node,
        limits: Limits {
            entry_bytes_target: 256,
            reads_max: memory.reads_max,
            held_bytes_max: memory.held_bytes_max,
            apply_bytes_max,
            compare_every_ticks: COMPARE_TICKS,
            compare_content_every_ticks: 5 * COMPARE_TICKS,
            ..Limits::default()
        },
        compaction_overhead_entries: own.overhead_entries,
        truncate_step_entries: 5,
        truncates_on_request_only: false,
    }
}

/// An installation that was given up must not be taken for one that was finished (rule N1), also when the store comes to the
/// snapshot's index by entries and a crash finds it there. That place is passed slowly.
impl Process {
    /// What the state machines' thread takes at once. Whoever has an installation behind it that was given up takes little.
    pub fn take_mail(&mut self, now_us: u64) -> Vec<ApplyMail> {
        if now_us < self.apply_paused_until_us {
            let (orders, others) = self.mail.drain(..).partition(|mail| matches!(mail, ApplyMail::Order(..)));
            self.mail = orders;
            return others;
        }
        let taken = if self.abandoned.is_empty() { self.mail.len() } else { self.mail.len().min(1) };
        self.mail.drain(..taken).collect()
    }

    /// Whether the store has persisted exactly what an installation would have brought that was given up. As soon as it has applied
    /// that, it takes nothing for a moment and is asked to persist.
    pub fn is_at_abandoned(&mut self, group: GroupId, applied: Index, persisted: Index, now_us: u64) -> bool {
        if self.abandoned.get(&group) != Some(&applied) {
            return false;
        }
        if persisted == applied {
            self.abandoned.remove(&group);
            self.apply_paused_until_us = 0;
            return true;
        }
        if self.apply_paused_until_us == 0 {
            self.apply_paused_until_us = now_us + APPLY_PAUSE_US;
            self.mail.insert(0, ApplyMail::PersistAll);
        }
        false
    }
}
