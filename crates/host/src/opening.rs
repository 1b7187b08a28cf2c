// SPDX-License-Identifier: Apache-2.0

//! From a data directory to replicas that can run: everything that a node does at its start before it has threads, in its order. The
//! simulator opens its nodes with this.
//!
//! 1. [`claim`]: whose directory it is, and that its log is where it belongs; nothing is touched.
//! 2. [`open`]: the log is read, the start is counted with how far the log goes, and list of groups and log are compared.
//! 3. [`recover`]: the list learns which replicas the log lost, the log learns of those that a crash left unfinished, and each replica is
//!    put together from what both say and what its state machine has.
//! 4. [`finish_removals`]: what removed replicas left on the disk goes.
//! 5. [`identity::mark_created`]: the first start is through.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_logstore::{FoundLog, LogOptions, LogStore, Recovered, SegmentLog};
use mraft_types::{CondemnedReason, GroupId, InstanceId};

use crate::error::HostError;
use crate::files::{group_directory, remove_directory};
use crate::identity::{self, Claim, Identity};
use crate::persist::{LogHealth, LogJob, LogWorker};
use crate::registry::{GroupList, GroupRecord, Registry};
use crate::restore::{RestoredReplica, first_log, log_key, new_log};

/// A directory that was opened.
pub struct Opened {
    /// What it says of itself since this start.
    pub identity: Identity,
    /// Which groups live here.
    pub registry: Registry,
    /// Their log.
    pub log: SegmentLog,
}

/// What became of the replicas that the registry lists.
pub struct Recovery {
    /// Those that can run.
    pub replicas: Vec<(GroupRecord, RestoredReplica)>,
    /// Those whose state cannot be opened: it costs the others nothing (rule D10).
    pub not_started: Vec<(GroupId, HostError)>,
    /// Groups whose replica here the log has lost: they are condemned (rule D9).
    pub lost: BTreeSet<GroupId>,
}

/// Everything that can be compared before a byte is written, the files of locks included. `fresh` is what a new directory is called, and
/// what tells this start from others.
pub fn claim(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    claim: &Claim,
    fresh: (InstanceId, u64),
) -> Result<(), HostError> {
    let expected = identity::decide(disk, data, wal, claim, fresh)?;
    if expected.created {
        identity::has_its_log(disk, data, &log_directory(wal))?;
    }
    Ok(())
}

/// Reads the log, counts the start, and reads the list of groups. The caller holds the directories' locks.
///
/// The start is counted before the log is written to: what the start before left is known for good then (rule M7).
pub fn open(
    disk: &Arc<dyn Disk>,
    data: &Path,
    wal: &Path,
    claim: &Claim,
    fresh: (InstanceId, u64),
    options: LogOptions,
) -> Result<Opened, HostError> {
    let directory = log_directory(wal);
    let failed = |error| HostError::opening_log(&directory, error);
    let found = FoundLog::look(Arc::clone(disk), &directory, options).map_err(failed)?;
    let identity = identity::boot(disk.as_ref(), data, wal, claim, fresh, found.last_batch_seq())?;
    let registry = Registry::open(Arc::clone(disk), data)?;
    let log = SegmentLog::open_found(found).map_err(failed)?;
    registry.check_against(&log.recovered())?;
    Ok(Opened { identity, registry, log })
}

/// Where a node's log is.
pub fn log_directory(wal: &Path) -> std::path::PathBuf {
    wal.join("log")
}

/// Deletes what removals left behind that a crash or an error interrupted. What is left all the same.
pub fn finish_removals(disk: &dyn Disk, data: &Path, list: &GroupList) -> Vec<(GroupId, HostError)> {
    let removed =
        list.gone.iter().map(|(group, (_, replica))| (*group, group_directory(data, *group, *replica)));
    let failed = |(group, directory): (GroupId, std::path::PathBuf)| {
        let error = remove_directory(disk, &directory).err()?;
        Some((group, HostError::io(&directory, error)))
    };
    removed.filter_map(failed).collect()
}

/// Puts the replicas together, and makes durable what a crash left unfinished before any of them runs.
pub fn recover(
    registry: &mut Registry,
    worker: &mut LogWorker,
    mut put_together: impl FnMut(&GroupRecord, Option<Recovered>) -> Result<RestoredReplica, HostError>,
) -> Result<Recovery, HostError> {
    let records: Vec<GroupRecord> = registry.records().values().cloned().collect();
    let mut recovered: BTreeMap<_, _> =
        worker.store().recovered().into_iter().map(|recovered| (recovered.key, recovered)).collect();
    let unfinished = records.iter().filter(|record| !recovered.contains_key(&log_key(record)));
    let unfinished: Vec<_> = unfinished.map(first_log).collect();
    let mut first = Vec::new();
    if !unfinished.is_empty() {
        first.push(LogJob::Add { token: 0, replicas: unfinished });
    }
    // What the log lost is written down before the log learns of the replica anew: from then on it would pass for a new one.
    let lost = registry.find_lost(|record| recovered.contains_key(&log_key(record)))?;
    for record in records.iter().filter(|record| lost.contains(&record.group)) {
        let known = recovered.remove(&log_key(record)).unwrap_or_else(|| new_log(record));
        let condemned = Recovered { condemned: Some(CondemnedReason::LogLost), ..known };
        recovered.insert(log_key(record), condemned);
    }
    let (mut replicas, mut not_started) = (Vec::new(), Vec::new());
    for record in &records {
        match put_together(record, recovered.remove(&log_key(record))) {
            Ok(mut replica) => {
                first.extend(replica.first.take());
                replicas.push((record.clone(), replica));
            }
            // What its log holds stays: it may be all that is left of the replica, and the next start tries again.
            Err(error) => not_started.push((record.group, error)),
        }
    }
    // Records that the registry does not name belong to replicas whose removal a crash interrupted.
    first.extend(recovered.into_keys().map(|key| LogJob::Remove { token: 0, key }));
    match worker.run(first, &mut Vec::new()).0 {
        LogHealth::Well => {}
        LogHealth::Full => return Err(HostError::Log(mraft_logstore::LogError::Full { needed_bytes: 0 })),
        LogHealth::Failed(error) => return Err(HostError::Log(error)),
    }
    registry.logged(records.iter().map(|record| record.group))?;
    Ok(Recovery { replicas, not_started, lost })
}
