// SPDX-License-Identifier: Apache-2.0

//! Accepting a loss (rule D9): the one way back for a condemned replica under its own name. For groups that have no majority left.
//!
//! A condemned replica may have acknowledged entries and given votes that it no longer knows of. Whoever accepts that says: what is left
//! here is what I go on with. Each replica then goes on with its log as far as that is whole and reaches from what the store has, or
//! begins a new log at what the store has. Two things keep the others safe from what it forgot:
//!
//! - it comes back in a term that no election reached, without a vote ([`term_after_loss`]). What is known of its terms is what its log,
//!   its store and the group list still say; acceptances of *other* members are epochs too, so whoever accepts can name a higher term;
//! - when the whole node forgot (its log is gone, or its directory is an old copy), starts and batches are counted on in an epoch of their
//!   own, above all that peers can remember (rule M7). Then no replica may come back as it was: all of them are treated as condemned.
//!
//! The order, a crash behind each step leaving every replica condemned or repaired: the group list says what is about to be accepted and
//! which replicas are lost until then, an old copy condemns those that have not heard of it, the identity is counted on, the log changes,
//! the group list lets go of the lost ones.
//!
//! Deliberately missing: accepting a divergence. Such a replica's state differs, and nothing here can tell which part of it.

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_logstore::{
    Case, FoundLog, GroupWrite, InspectedReplica, Inspection, LogError, LogOptions, Mark, Recovered,
    SegmentLog,
};
use mraft_raft::term_after_loss;
use mraft_types::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MIN};
use mraft_types::planted;
use mraft_types::{CondemnedReason, GroupId, HardState, Index, LogPosition, LogStart, ReplicaId, Term};

use crate::core::Incarnation;
use crate::error::HostError;
use crate::files;
use crate::identity::{self, Identity};
use crate::meta::{GroupMeta, check_level};
use crate::node_host::{MachineContext, Machines};
use crate::panics::caught;
use crate::persist::{LogDone, LogHealth, LogJob, LogWorker};
use crate::registry::{AcceptedLoss, GroupList, GroupRecord, Registry};
use crate::restore::{log_key, lost_by_comparison};

/// Starts of a node are counted in epochs, too; a directory's starts never fill one.
const BOOT_EPOCH_BITS: u32 = 20;
/// As are its batches: at ten thousand a second an epoch lasts nine hundred years.
const BATCH_EPOCH_BITS: u32 = 48;
/// Staged directories are named by the start in the upper half of their number.
const EPOCHS_MAX: u64 = 1 << (32 - BOOT_EPOCH_BITS);

/// Tells what a replica's state machine has persisted, as its meta's bytes. The directory is one that the log names as being installed.
pub type Stored<'a> = &'a mut dyn FnMut(&GroupRecord, Option<u64>) -> Result<Option<Vec<u8>>, String>;

/// Opens stores as the node itself would, with the program's own kinds of state machines.
pub fn opened_by<'a>(
    machines: &'a Machines,
    disk: &'a Arc<dyn Disk>,
    data: &'a Path,
) -> impl FnMut(&GroupRecord, Option<u64>) -> Result<Option<Vec<u8>>, String> + 'a {
    move |record, install| {
        let kind = &record.machine;
        let factory = machines.0.get(kind).ok_or_else(|| format!("its state machine is of kind `{kind}`"))?;
        let context = MachineContext {
            group: record.group,
            replica: record.replica,
            directory: files::group_directory(data, record.group, record.replica),
            disk: Arc::clone(disk),
        };
        let opened = || factory(&context)?.open(install);
        caught("opening its state", || opened().map_err(|error| error.to_string())).flatten()
    }
}

/// Whose loss is to be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This group's replica.
    Group(GroupId),
    /// Every condemned replica of the node for which that is possible.
    All,
}

/// What the node forgot as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLoss {
    /// There is no log, or only its list of replicas is left.
    LogGone,
    /// The directory is an old copy (rule M7).
    OldCopy,
}

/// A replica that is condemned, or will be at the next start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Why.
    pub reason: CondemnedReason,
    /// What its store has persisted, if anything and if that can be read.
    pub stored: Option<LogPosition>,
    /// What is left of its log, if anything is.
    pub log: Option<LogLeft>,
    /// What accepting the loss comes to, or why it cannot be accepted.
    pub decision: Result<Restart, String>,
    is_marked: bool,
}

/// What is left of a replica's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLeft {
    /// The log begins behind this index.
    pub start: Index,
    /// The last entry.
    pub last: Index,
    /// Term and commit index as the log remembers them.
    pub hard_state: HardState,
}

/// How a replica comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restart {
    /// The last entry that it will have: everything above is given up, as far as no other member holds it.
    pub last: Index,
    /// Whether the entries of its log above what the store has are kept.
    pub keeps_log: bool,
    /// Entries above `last` up to this one are known to have been committed, if any are.
    pub committed: Index,
    /// Term, no vote, commit index.
    pub hard_state: HardState,
    /// Where its new log begins; the log that is there stays otherwise.
    anew: Option<LogStart>,
}

/// What a stopped node has lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// What it forgot as a whole; then every replica is concerned.
    pub node: Option<NodeLoss>,
    /// Its condemned replicas, by group.
    pub losses: Vec<Loss>,
    /// How many replicas are here.
    pub replicas: usize,
}

/// Salts for the segments of one log (rule L2).
pub type Salts = Box<dyn FnMut() -> u64 + Send>;

/// What a repair draws.
pub struct Chance {
    /// Tells the start that it counts from others (rule M7).
    pub nonce: u64,
    /// For each log that it opens.
    pub salts: Box<dyn Fn() -> io::Result<Salts> + Send>,
}

/// The directories of a node that is not running, which nobody else can open meanwhile.
pub struct StoppedNode {
    disk: Arc<dyn Disk>,
    data: PathBuf,
    wal: PathBuf,
    identity: Identity,
    list: GroupList,
    /// `None` when there is none.
    log: Option<Inspection>,
    /// What the log takes at once; tests have smaller segments.
    batch_bytes_max: usize,
    chance: Chance,
    _locks: Vec<Box<dyn Any + Send + Sync>>,
}

impl StoppedNode {
    /// Looks at a node's directories; `wal` if its WAL is in another one than the data directory remembers. Changes nothing.
    pub fn open(disk: Arc<dyn Disk>, data: &Path, wal: Option<&Path>) -> Result<StoppedNode, HostError> {
        let wal = identity::wal_directory(disk.as_ref(), data, wal)?;
        let identity = identity::of_stopped(disk.as_ref(), data, &wal)?;
        let mut locks = vec![files::lock_stopped(disk.as_ref(), data)?];
        if wal != data {
            locks.push(files::lock_stopped(disk.as_ref(), &wal)?);
        }
        let list = GroupList::read(disk.as_ref(), data)?;
        let directory = wal.join("log");
        let found = mraft_logstore::inspect(disk.as_ref(), &directory)?;
        let is_log = mraft_logstore::is_log(disk.as_ref(), &directory);
        let log = is_log.map_err(|error| HostError::io(&directory, error))?.then_some(found);
        let data = data.to_owned();
        Ok(StoppedNode {
            disk,
            data,
            wal,
            identity,
            list,
            log,
            batch_bytes_max: BATCH_BYTES_MAX,
            chance: Chance { nonce: crate::random::seed(), salts: Box::new(crate::random::salts) },
            _locks: locks,
        })
    }

    /// The same under a simulator, whose logs take less at once and which draws by itself.
    pub fn simulated(self, batch_bytes_max: usize, chance: Chance) -> StoppedNode {
        StoppedNode { batch_bytes_max, chance, ..self }
    }

    /// Where its log is, or was.
    pub fn log_directory(&self) -> PathBuf {
        self.wal.join("log")
    }

    /// The node's data directory.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// What the node has lost. `above` is a term that somebody knows to have been used.
    pub fn survey(&self, stored: Stored<'_>, above: Term) -> Survey {
        let is_old_copy =
            |replica: &InspectedReplica| replica.recovered.condemned == Some(CondemnedReason::OldCopy);
        let is_gone = |log: &Inspection| {
            // A repair of the whole node that was interrupted had begun another log.
            log.cases.contains_key(&Case::NoSegments)
                || log.segments.is_empty()
                    && self.list.records.keys().all(|group| self.list.lost.contains(group))
        };
        let node = match &self.log {
            None => Some(NodeLoss::LogGone),
            Some(log) if is_gone(log) => Some(NodeLoss::LogGone),
            Some(log) if log.replicas.iter().any(is_old_copy) => Some(NodeLoss::OldCopy),
            Some(_) => None,
        };
        let losses = self.list.records.values().filter_map(|record| self.loss(node, record, stored, above));
        Survey { node, losses: losses.collect(), replicas: self.list.records.len() }
    }

    /// Accepts what these replicas lost, durably. `look` reads what a store has; `open` opens it for good and makes it durable. Answers
    /// what was accepted.
    pub fn accept(
        mut self,
        scope: Scope,
        look: Stored<'_>,
        open: Stored<'_>,
        above: Term,
    ) -> Result<Vec<Loss>, HostError> {
        let survey = self.survey(look, above);
        let chosen: Vec<Loss> = survey.chosen(scope)?.into_iter().cloned().collect();
        let epoch = match survey.node {
            Some(_) => Some(self.next_epoch()?),
            None => None,
        };
        self.open_stores(&chosen, open)?;
        let mut registry = Registry::open(Arc::clone(&self.disk), &self.data)?;
        let groups: BTreeSet<GroupId> = chosen.iter().map(|loss| loss.group).collect();
        let accepted = chosen.iter().filter_map(|loss| {
            let Restart { last, hard_state, .. } = loss.decision.as_ref().ok()?;
            let accepted = AcceptedLoss { reason: loss.reason, last_index: *last, term: hard_state.term };
            Some((loss.group, accepted))
        });
        // With another log nobody would find out any more that it is not the one that they knew; and a replica that is about to be made
        // known to the log anew stays condemned until that is through.
        let lost = survey.losses.iter().filter(|loss| {
            survey.node == Some(NodeLoss::LogGone)
                || groups.contains(&loss.group) && loss.decision.as_ref().is_ok_and(|to| to.anew.is_some())
        });
        let lost = lost.filter(|_| !planted!(AcceptedUnmarked));
        registry.begin_acceptance(accepted, lost.map(|loss| loss.group))?;
        if survey.node == Some(NodeLoss::LogGone) {
            self.raise(epoch)?;
            mraft_logstore::forget_lost_log(self.disk.as_ref(), &self.log_directory())?;
        }
        let found = self.look_at_log()?;
        if survey.node != Some(NodeLoss::LogGone) {
            // What the log goes on from is known for good before it is written to (rule M7), as at any start.
            let (nonce, found_seq) = (self.chance.nonce, found.last_batch_seq());
            self.identity =
                identity::begin(self.disk.as_ref(), &self.data, &self.wal, &self.identity, nonce, found_seq)?;
        }
        let mut log = SegmentLog::open_found(found)?;
        if survey.node == Some(NodeLoss::OldCopy) {
            let unmarked = survey.losses.iter().filter(|loss| !loss.is_marked);
            let marks = unmarked.filter_map(|loss| {
                let known = self.known(self.list.records.get(&loss.group)?)?;
                let mark = Some(Mark::Condemned(loss.reason));
                let (key, hard_state) = (known.key, known.hard_state);
                Some(GroupWrite { key, hard_state, entries: Vec::new(), mark })
            });
            let marks: Vec<LogJob> = marks.map(job).collect();
            let mut worker = LogWorker::new(Box::new(log));
            carry_out(&mut worker, marks)?;
            drop(worker);
            self.raise(epoch)?;
            log = SegmentLog::open_found(self.look_at_log()?)?;
        }
        if let Some(epoch) = epoch {
            log.continue_from(epoch << BATCH_EPOCH_BITS);
        }
        carry_out(&mut LogWorker::new(Box::new(log)), self.jobs(&chosen))?;
        registry.end_acceptance(&groups)?;
        Ok(chosen)
    }

    fn raise(&self, epoch: Option<u64>) -> Result<(), HostError> {
        let Some(epoch) = epoch else { return Ok(()) };
        let boot_counter = epoch << BOOT_EPOCH_BITS;
        identity::raise(self.disk.as_ref(), &self.data, &self.wal, &self.identity, boot_counter)
    }

    fn loss(
        &self,
        node: Option<NodeLoss>,
        record: &GroupRecord,
        stored: Stored<'_>,
        above: Term,
    ) -> Option<Loss> {
        let known = self.known(record);
        let is_lost = self.list.lost.contains(&record.group)
            || node == Some(NodeLoss::LogGone)
            || (known.is_none() && self.list.logged.contains(&record.group));
        if known.is_none() && !is_lost {
            // Its creation was cut short and is done again at the next start: there is nothing that it could have forgotten.
            return None;
        }
        // What the log was made to know of a replica that it had lost is not what it had known.
        let left = known.filter(|_| !is_lost);
        let meta = stored(record, known.and_then(|known| known.install.as_ref().map(|(_, at)| *at)))
            .and_then(|bytes| bytes.map(|bytes| decode_meta(record, &bytes)).transpose());
        let marked = left.and_then(|left| left.condemned).or(is_lost.then_some(CondemnedReason::LogLost));
        let compared = || match (left, meta.as_ref().ok()?) {
            (Some(left), Some(meta)) => lost_by_comparison(record, left, meta.applied).ok()?,
            (Some(left), None) => {
                let founding = record.genesis.as_ref().map(|genesis| genesis.applied).unwrap_or_default();
                lost_by_comparison(record, left, founding).ok()?
            }
            (None, _) => None,
        };
        let old_copy = (node == Some(NodeLoss::OldCopy)).then_some(CondemnedReason::OldCopy);
        let reason = marked.or(old_copy).or_else(compared)?;
        let stored = meta.as_ref().ok().and_then(Option::as_ref).map(|meta| meta.applied);
        let floor = self.list.accepted.get(&record.group).map_or(0, |accepted| accepted.term);
        let floor = floor.max(above).max(known.map_or(0, |known| known.hard_state.term));
        let decision = decide(record, reason, left, meta, floor).map_err(|why| match node {
            Some(NodeLoss::LogGone) => format!("{why}: {ANEW}"),
            _ => format!("{why}: {INSTEAD}"),
        });
        let log = left.map(|left| LogLeft {
            start: left.start.position.index,
            last: left.last_index,
            hard_state: left.hard_state,
        });
        let (group, replica) = (record.group, record.replica);
        Some(Loss { group, replica, reason, stored, log, decision, is_marked: marked.is_some() })
    }

    fn known(&self, record: &GroupRecord) -> Option<&Recovered> {
        let key = log_key(record);
        let replicas = self.log.iter().flat_map(|log| &log.replicas);
        replicas.map(|replica| &replica.recovered).find(|recovered| recovered.key == key)
    }

    /// The first epoch that neither the node nor, by what its directory knows, any peer has heard of.
    fn next_epoch(&self) -> Result<u64, HostError> {
        let batches = self.log.as_ref().map_or(0, |log| log.last_batch_seq);
        let starts = self.identity.boot_counter;
        let epoch = (starts >> BOOT_EPOCH_BITS).max(batches >> BATCH_EPOCH_BITS) + 1;
        if epoch < EPOCHS_MAX {
            return Ok(epoch);
        }
        let reason = format!(
            "{} was repaired as a whole so often that its starts, {starts}, cannot be counted on: remove the node from its groups and \
             start it with another node id and an empty directory",
            self.data.display()
        );
        Err(HostError::Refused { reason })
    }

    /// The stores' own files must be durable before a log says that it begins at them (rule D7).
    fn open_stores(&self, chosen: &[Loss], open: Stored<'_>) -> Result<(), HostError> {
        for loss in chosen {
            let failed = |reason: String| HostError::Machine { group: loss.group, reason };
            let Some(record) = self.list.records.get(&loss.group) else { continue };
            let install = self.known(record).and_then(|known| known.install.as_ref().map(|(_, at)| *at));
            let bytes = open(record, install).map_err(&failed)?;
            let meta = bytes.map(|bytes| decode_meta(record, &bytes)).transpose().map_err(&failed)?;
            if meta.map(|meta| meta.applied) != loss.stored {
                return Err(failed("its state changed while it was looked at; try again".to_owned()));
            }
        }
        Ok(())
    }

    fn look_at_log(&self) -> Result<FoundLog, HostError> {
        // Only what has entries is written to, and then there is a segment that says how long they are.
        let mut lengths = self.log.iter().flat_map(|log| &log.segments).map(|segment| segment.bytes);
        let segment_bytes = lengths.next_back().unwrap_or(SEGMENT_BYTES_MIN as u64);
        let salts = (self.chance.salts)().map_err(|error| HostError::io(&self.log_directory(), error))?;
        let options = LogOptions::new(segment_bytes, salts);
        let options = options.with_batch_bytes_max(self.batch_bytes_max);
        Ok(FoundLog::look(Arc::clone(&self.disk), &self.log_directory(), options)?)
    }

    /// What makes the log know these replicas as they come back.
    fn jobs(&self, chosen: &[Loss]) -> Vec<LogJob> {
        let (mut jobs, mut anew) = (Vec::new(), Vec::new());
        for loss in chosen {
            let (Some(record), Ok(restart)) = (self.list.records.get(&loss.group), &loss.decision) else {
                continue;
            };
            let (key, hard_state) = (log_key(record), restart.hard_state);
            match &restart.anew {
                Some(start) => {
                    jobs.push(LogJob::Remove { token: 0, key });
                    anew.push((key, start.clone(), hard_state));
                }
                None => {
                    let mark = Some(Mark::LossAccepted);
                    jobs.push(job(GroupWrite { key, hard_state, entries: Vec::new(), mark }));
                }
            }
        }
        jobs.push(LogJob::Add { token: 0, replicas: anew });
        jobs
    }
}

fn job(write: GroupWrite) -> LogJob {
    // No replica runs, so nobody is told that it is done.
    LogJob::InstallStep { of: Incarnation { group: write.key.group, number: 0 }, write }
}

/// Makes all of it durable, the seal behind it included.
fn carry_out(worker: &mut LogWorker, jobs: Vec<LogJob>) -> Result<(), HostError> {
    let well = |health| match health {
        LogHealth::Well => Ok(()),
        LogHealth::Full => Err(HostError::Log(LogError::Full { needed_bytes: SEGMENT_BYTES_MIN as u64 })),
        LogHealth::Failed(error) => Err(HostError::Log(error)),
    };
    let mut done = Vec::new();
    well(worker.run(jobs, &mut done).0)?;
    let refused = done.into_iter().find_map(|done| match done {
        LogDone::Refused { key, reason } => Some(HostError::Machine { group: key.group, reason }),
        _ => None,
    });
    match refused {
        Some(refused) => Err(refused),
        None => well(worker.seal().0),
    }
}

impl Survey {
    /// The losses that this scope is about and that can be accepted; an error says why there is none.
    pub fn chosen(&self, scope: Scope) -> Result<Vec<&Loss>, HostError> {
        let refused = |reason: String| Err(HostError::Refused { reason });
        let Scope::Group(group) = scope else {
            let chosen: Vec<&Loss> = self.losses.iter().filter(|loss| loss.decision.is_ok()).collect();
            return match (chosen.is_empty(), self.losses.first().map(|loss| &loss.decision)) {
                (false, _) => Ok(chosen),
                (true, Some(Err(reason))) => refused(format!(
                    "of {} condemned replicas here none can be accepted, the first because {reason}",
                    self.losses.len()
                )),
                (true, _) => refused(format!(
                    "none of the {} replicas here is condemned: there is nothing to accept",
                    self.replicas
                )),
            };
        };
        let Some(loss) = self.losses.iter().find(|loss| loss.group == group) else {
            return refused(format!(
                "group {group} has no condemned replica here: there is nothing to accept (`mraft inspect state` shows which have)"
            ));
        };
        if self.node == Some(NodeLoss::OldCopy) {
            return refused(
                "the whole directory is an old copy: every replica here forgot what it had promised; accept it with --all or not at all"
                    .to_owned(),
            );
        }
        match &loss.decision {
            Ok(_) => Ok(vec![loss]),
            Err(reason) => {
                refused(format!("replica {} of group {group} cannot be accepted: {reason}", loss.replica))
            }
        }
    }
}

/// What to do about a replica that cannot come back.
const INSTEAD: &str = "remove the replica from its group and add the node again";
/// The same where the node does not start any more.
const ANEW: &str =
    "nothing of it is left here; the node itself comes back with another node id and an empty directory";

/// How a replica can come back, or why it cannot.
fn decide(
    record: &GroupRecord,
    reason: CondemnedReason,
    left: Option<&Recovered>,
    stored: Result<Option<GroupMeta>, String>,
    known_term: Term,
) -> Result<Restart, String> {
    if reason == CondemnedReason::Divergence {
        return Err("its state differs from the majority's, so nothing of it can be trusted".to_owned());
    }
    let stored = stored.map_err(|error| format!("its state cannot be opened ({error})"))?;
    let has_entries =
        |left: &&Recovered, start: LogPosition| left.start.position == start && left.last_index > start.index;
    // A log that still reaches back to the founding needs no store.
    let founding = record.genesis.as_ref();
    let founding = founding.filter(|genesis| left.is_some_and(|left| has_entries(&left, genesis.applied)));
    let Some(meta) = stored.as_ref().or(founding).filter(|meta| meta.applied.index > 0) else {
        return Err("neither its store nor its log has anything to begin from".to_owned());
    };
    let applied = meta.applied;
    let kept = left.filter(|left| {
        let of_applied =
            Recovered { hard_state: HardState { commit: 0, ..left.hard_state }, ..(*left).clone() };
        // Without entries there is nothing to keep.
        left.last_index > left.start.position.index && joins(record, of_applied, applied)
    });
    let last_term = left.and_then(|left| left.terms.last()).map_or(0, |(_, term)| *term);
    let known_term = known_term.max(applied.term).max(last_term);
    let term = term_after_loss(known_term).ok_or_else(|| format!("no term is left above {known_term}"))?;
    let last = kept.map_or(applied.index, |left| left.last_index);
    let committed = left.map_or(0, |left| left.hard_state.commit);
    let hard_state = HardState { term, vote: None, commit: committed.clamp(applied.index, last) };
    let anew = if kept.is_some() { None } else { Some(meta.log_start()) };
    Ok(Restart { last, keeps_log: kept.is_some(), committed, hard_state, anew })
}

/// Whether a log goes on from what the store has.
fn joins(record: &GroupRecord, log: Recovered, applied: LogPosition) -> bool {
    let log = Recovered { install: None, condemned: None, ..log };
    matches!(lost_by_comparison(record, &log, applied), Ok(None))
}

fn decode_meta(record: &GroupRecord, bytes: &[u8]) -> Result<GroupMeta, String> {
    let meta = GroupMeta::decode(bytes).map_err(|error| format!("the meta of its state: {error}"))?;
    check_level(meta.feature_level)?;
    if meta.group != record.group {
        return Err(format!("its state belongs to group {}", meta.group));
    }
    Ok(meta)
}

#[cfg(test)]
mod tests;
