// SPDX-License-Identifier: Apache-2.0

//! One simulated node: a disk that outlives its processes, and the process that runs on it at present.
//!
//! A crash in the middle of something is a number of a disk operation: from that one on everything fails, and whatever was under way
//! ends there. Its effects outside the disk never happened; see [`Node::arm`] and [`Node::died`].

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft::apply_worker::{ApplyMail, ApplyWorker};
use mraft::core::{Core, CoreConfig, Incarnation, Input};
use mraft::machines::{BackgroundJob, Lookup};
use mraft::persist::{LogHealth, LogJob, LogWorker};
use mraft::restore::{first_log, log_key, restore};
use mraft::{GroupRecord, HostConfig};
use mraft_disk::memory::Faults;
use mraft_disk::{Disk, MemoryDisk};
use mraft_engine::Limits;
use mraft_kv::{MemoryKv, MemoryOptions};
use mraft_logstore::{LogError, LogOptions, LogStore, Mark, SegmentLog};
use mraft_types::{DeploymentId, GroupId, Index, NodeId};

use crate::mix::{Mix, Own};
use crate::random::{Concern, Random};
use crate::recorder::{Applied, Recorder};

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
/// The log closes its batches here; a turn of a simulated node rarely has more.
const BATCH_BYTES_TARGET: usize = 8 << 10;
/// One segment of the simulated log.
const SEGMENT_BYTES: u64 = 128 << 10;

/// A node.
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What survives its processes.
    pub disk: MemoryDisk,
    /// Counts its processes: events for an earlier one go nowhere.
    pub boot: u64,
    /// The process, while it runs.
    pub process: Option<Process>,
    /// The groups founded here.
    pub records: Vec<GroupRecord>,
    /// Some process came to the end of its start.
    pub has_started: bool,
    /// Segments that its logs recycled, over all processes.
    pub segments_recycled: u64,
    /// Installations of snapshots that recovery found begun: those that it finished, and those that it gave up (rule N1).
    pub installations_finished: u64,
    /// See [`Node::installations_finished`].
    pub installations_given_up: u64,
    /// The disk operation at which the process dies.
    pub crash_at: Option<u64>,
    /// What the disk was told to refuse while this process runs: nothing else excuses a failure.
    pub faulty: Faulty,
}

/// What a disk was told to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faulty {
    /// To grow. Logs and state machines must come through that by themselves (rule D10).
    pub full: bool,
    /// One operation, with EIO.
    pub failing: bool,
}

impl Faulty {
    /// Whether it was told anything.
    pub fn any(self) -> bool {
        self.full || self.failing
    }
}

/// A running process.
pub struct Process {
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
}

impl Node {
    /// A node without a process, on an empty disk.
    pub fn new(id: NodeId) -> Node {
        Node {
            id,
            disk: MemoryDisk::new(),
            boot: 0,
            process: None,
            records: Vec::new(),
            has_started: false,
            segments_recycled: 0,
            installations_finished: 0,
            installations_given_up: 0,
            crash_at: None,
            faulty: Faulty::default(),
        }
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

    /// The process is gone; so is what its disk was told, unless the disk is still full.
    pub fn end(&mut self, power_seed: Option<u64>) {
        if let Some(process) = self.process.take() {
            self.segments_recycled += process.log.store().status().segments_recycled;
        }
        match power_seed {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        self.crash_at = None;
        self.faulty = Faulty { full: self.disk.faults().capacity_bytes.is_some(), failing: false };
    }

    /// Starts a process from what the disk holds.
    pub fn start(&mut self, own: &Own, mix: &Mix, salt: u64, now_us: u64) -> Result<(), String> {
        self.boot += 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut config =
            HostConfig::new(DeploymentId(1), self.id, "sim:1".to_owned(), PathBuf::from("/data"));
        config.election_ticks = ELECTION_TICKS;
        config.heartbeat_ticks = HEARTBEAT_TICKS;
        let store = open_log(&self.disk, salt).map_err(|error| error.to_string())?;
        let mut log = LogWorker::new(store).with_batch_bytes_target(BATCH_BYTES_TARGET);
        let mut recovered: BTreeMap<_, _> =
            log.store().recovered().into_iter().map(|recovered| (recovered.key, recovered)).collect();
        let mut first = Vec::new();
        let missing: Vec<_> = self
            .records
            .iter()
            .filter(|record| !recovered.contains_key(&log_key(record)))
            .map(first_log)
            .collect();
        // A start that came to its end had waited until the log knew all of them, durably (rule D9).
        if self.has_started && !missing.is_empty() {
            return Err(format!("the log has lost {} of its replicas", missing.len()));
        }
        if !missing.is_empty() {
            first.push(LogJob::Add { token: 0, replicas: missing });
        }
        // See `Process::take_mail`.
        let is_cut = recovered.values().any(|recovered| recovered.install.is_some());
        let apply_bytes_max = if is_cut { 1 } else { mix.apply_bytes_max };
        let mut core = Core::new(CoreConfig {
            node: self.id,
            limits: Limits {
                entry_bytes_target: 256,
                apply_bytes_max,
                compare_every_ticks: COMPARE_TICKS,
                compare_content_every_ticks: 5 * COMPARE_TICKS,
                ..Limits::default()
            },
            compaction_overhead_entries: own.overhead_entries,
            truncate_step_entries: 5,
            truncates_on_request_only: false,
        });
        let mut apply = ApplyWorker::new(log.store().reader(), usize::MAX, 0);
        let (mut lookups, mut abandoned, mut discards) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        let mut applied = BTreeMap::new();
        for record in &self.records {
            let directory = PathBuf::from(format!("/data/groups/{}", record.group));
            let options = MemoryOptions { flush_bytes: own.flush_bytes };
            let machine = Box::new(MemoryKv::new(Arc::clone(&disk), directory, options));
            let recorded = Applied::default();
            let machine = Box::new(Recorder::new(machine, recorded.clone()));
            applied.insert(record.group, recorded);
            let recovered = recovered.remove(&log_key(record));
            let install = recovered.as_ref().and_then(|recovered| recovered.install.clone());
            let mut replica =
                restore(&config, record, self.boot, recovered, machine).map_err(|error| error.to_string())?;
            replica.seat.raft.set_quiesce_after_ticks(mix.quiesce_after_ticks);
            if let Some((start, _)) = install {
                match &replica.first {
                    Some(LogJob::InstallStep { write, .. })
                        if matches!(write.mark, Some(Mark::InstallDone(_))) =>
                    {
                        self.installations_finished += 1;
                    }
                    _ => _ = abandoned.insert(record.group, start.position.index),
                }
            }
            first.extend(replica.first);
            let of = replica.seat.incarnation;
            discards.extend(replica.discard.map(|directory| ApplyMail::Discard(of, directory)));
            lookups.insert(record.group, replica.applier.lookup());
            core.handle(Input::Start(Box::new(replica.seat)));
            apply.handle(ApplyMail::Add(record.group, Box::new(replica.applier)), &mut Default::default());
        }
        match log.run(first, &mut Vec::new()).0 {
            LogHealth::Well => {}
            health => return Err(format!("{health:?}")),
        }
        discards.into_iter().for_each(|discard| apply.handle(discard, &mut Default::default()));
        self.has_started |= !self.died();
        self.installations_given_up += abandoned.len() as u64;
        self.process = Some(Process {
            core,
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
            apply,
            mail: Vec::new(),
            apply_busy: false,
            apply_retries: false,
            apply_tried_us: now_us,
            needs_restart: false,
            jobs: VecDeque::new(),
            lookups,
            applied,
            abandoned,
            apply_paused_until_us: 0,
            tick: self.boot << 32,
            began_us: now_us,
            staged: self.boot << 32,
        });
        Ok(())
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

/// The segment log on a simulated disk, with segments small enough to be recycled within a run.
fn open_log(disk: &MemoryDisk, salt: u64) -> Result<Box<dyn LogStore>, LogError> {
    let mut random = Random::new(salt, Concern::Disks);
    let options = LogOptions::new(SEGMENT_BYTES, Box::new(move || random.draw()))
        .with_batch_bytes_max(SEGMENT_BYTES as usize / 4)
        .with_segments_target(SEGMENTS_TARGET);
    Ok(Box::new(SegmentLog::open(Arc::new(disk.clone()), Path::new("/data/log"), options)?))
}
