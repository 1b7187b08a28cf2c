// SPDX-License-Identifier: Apache-2.0

//! One simulated node: a disk that outlives its processes, and the process that runs on it at present.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft::apply_worker::{ApplyMail, ApplyWorker};
use mraft::core::{Core, CoreConfig, Input};
use mraft::machines::{BackgroundJob, Lookup, StateMachine, in_memory};
use mraft::persist::{LogJob, LogWorker};
use mraft::restore::{first_log, log_key, restore};
use mraft::{GroupRecord, HostConfig};
use mraft_disk::{Disk, MemoryDisk};
use mraft_engine::Limits;
use mraft_logstore::{LogError, LogOptions, LogStore, SegmentLog};
use mraft_types::{DeploymentId, GroupId, NodeId};

use crate::faults::Mix;
use crate::machine::Map;
use crate::planted::{LateMeta, Planted, Voteless};
use crate::random::Random;

/// Election timeouts of simulated nodes in ticks.
pub const ELECTION_TICKS: u32 = 10;
/// Replicas are compared this often, so that every run does so many times (rule E8).
const COMPARE_TICKS: u64 = 20;
/// Heartbeat interval of simulated nodes in ticks.
pub const HEARTBEAT_TICKS: u32 = 2;

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
    /// Segments that its logs recycled, over all processes.
    pub segments_recycled: u64,
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
    /// Applies.
    pub apply: ApplyWorker,
    /// What waits for it.
    pub mail: Vec<ApplyMail>,
    /// Whether it is at work; the end is scheduled.
    pub apply_busy: bool,
    /// Flushes that wait.
    pub jobs: VecDeque<(GroupId, Box<dyn BackgroundJob>)>,
    /// For reads.
    pub lookups: BTreeMap<GroupId, Arc<dyn Lookup>>,
    /// Its logical clock.
    pub tick: u64,
    /// Numbers for staged directories.
    pub staged: u64,
}

impl Node {
    /// Starts a process from what the disk holds.
    pub fn start(&mut self, mix: &Mix, planted: Option<Planted>, salt: u64) -> Result<(), String> {
        self.boot += 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut config =
            HostConfig::new(DeploymentId(1), self.id, "sim:1".to_owned(), PathBuf::from("/data"));
        config.election_ticks = ELECTION_TICKS;
        config.heartbeat_ticks = HEARTBEAT_TICKS;
        let store = open_log(&self.disk, salt).map_err(|error| error.to_string())?;
        let store: Box<dyn LogStore> =
            if planted == Some(Planted::ForgottenVote) { Box::new(Voteless(store)) } else { store };
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
        // The first start waited until the log knew all of them, durably (rule D9).
        if self.boot > 1 && !missing.is_empty() {
            return Err(format!("the log has lost {} of its replicas", missing.len()));
        }
        if !missing.is_empty() {
            first.push(LogJob::Add { token: 0, replicas: missing });
        }
        let mut core = Core::new(CoreConfig {
            node: self.id,
            limits: Limits {
                entry_bytes_target: 256,
                compare_every_ticks: COMPARE_TICKS,
                compare_content_every_ticks: 5 * COMPARE_TICKS,
                ..Limits::default()
            },
            compaction_overhead_entries: mix.overhead_entries,
            truncate_step_entries: 5,
            truncates_on_request_only: false,
        });
        let mut apply = ApplyWorker::new(log.store().reader(), usize::MAX, 0);
        let (mut lookups, mut discards) = (BTreeMap::new(), Vec::new());
        for record in &self.records {
            let directory = PathBuf::from(format!("/data/groups/{}", record.group));
            let machine = in_memory(Arc::clone(&disk), directory, mix.snapshot_entries, Map::default());
            let machine: Box<dyn StateMachine> = if planted == Some(Planted::DoubleApply) {
                Box::new(LateMeta::new(machine))
            } else {
                machine
            };
            let replica = restore(&config, record, recovered.remove(&log_key(record)), machine)
                .map_err(|error| error.to_string())?;
            first.extend(replica.first);
            discards.extend(replica.discard.map(|directory| ApplyMail::Discard(record.group, directory)));
            lookups.insert(record.group, replica.applier.lookup());
            core.handle(Input::Start(Box::new(replica.seat)));
            apply.handle(ApplyMail::Add(record.group, Box::new(replica.applier)), &mut Default::default());
        }
        let mut done = Vec::new();
        match log.run(first, &mut done).0 {
            mraft::persist::LogHealth::Well => {}
            health => return Err(format!("{health:?}")),
        }
        discards.into_iter().for_each(|discard| apply.handle(discard, &mut Default::default()));
        self.process = Some(Process {
            core,
            log,
            log_jobs: Vec::new(),
            log_busy: false,
            apply,
            mail: Vec::new(),
            apply_busy: false,
            jobs: VecDeque::new(),
            lookups,
            tick: self.boot << 32,
            staged: self.boot << 32,
        });
        Ok(())
    }
}

/// The segment log on a simulated disk, with segments small enough to be recycled within a run.
fn open_log(disk: &MemoryDisk, salt: u64) -> Result<Box<dyn LogStore>, LogError> {
    let mut random = Random::new(salt);
    let options = LogOptions::new(SEGMENT_BYTES, Box::new(move || random.draw()))
        .with_batch_bytes_max(SEGMENT_BYTES as usize / 4)
        .with_segments_target(4);
    Ok(Box::new(SegmentLog::open(Arc::new(disk.clone()), Path::new("/data/log"), options)?))
}
