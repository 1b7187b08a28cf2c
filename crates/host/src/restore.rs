// SPDX-License-Identifier: Apache-2.0

//! From what a directory holds to replicas that go on where they were (rules D8, M4, N1).

use std::path::PathBuf;

use mraft_engine::machine::StateMachine;
use mraft_logstore::{GroupWrite, LogKey, Mark, Recovered};
use mraft_raft::{Config, Raft, RestoreError, Restored};
use mraft_types::planted;
use mraft_types::{
    CondemnedReason, DeploymentId, GroupUid, HardState, LogPosition, LogStart, Membership, SlotSet,
};

use crate::apply::Applier;
use crate::config::HostConfig;
use crate::core::{Incarnation, Seat};
use crate::error::HostError;
use crate::meta::{FEATURE_LEVEL, GroupMeta, check_level};
use crate::persist::LogJob;
use crate::registry::GroupRecord;

/// Payload bytes in one append message.
const APPEND_BYTES_MAX: usize = 1 << 20;
/// Payload bytes on the way to one follower.
const INFLIGHT_BYTES_MAX: usize = 16 << 20;
/// Append messages on the way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 256;
/// A follower that is being sent a snapshot is given up on after so many election timeouts without an end.
const SNAPSHOT_DEADLINE_ELECTIONS: u32 = 50;

/// A replica that is ready to run.
pub struct RestoredReplica {
    /// For the core.
    pub seat: Seat,
    /// For the apply side.
    pub applier: Applier,
    /// What must be made durable before it runs: how an installation ended that a crash interrupted (rule N1, recovery).
    pub first: Option<LogJob>,
    /// The staged directory of an installation that was not carried out. It may go once `first` is durable: until then the log names it.
    pub discard: Option<u64>,
}

/// The key of a record's replica in the log.
pub fn log_key(record: &GroupRecord) -> LogKey {
    LogKey { group: record.group, uid: record.uid, replica: record.replica }
}

/// Where the log of a new replica begins: behind the genesis for an original member, nowhere for one that waits for a snapshot.
pub fn first_log(record: &GroupRecord) -> (LogKey, LogStart, HardState) {
    let (start, hard_state) = match &record.genesis {
        Some(genesis) => (
            genesis.log_start(),
            HardState { term: genesis.applied.term, vote: None, commit: genesis.applied.index },
        ),
        None => (LogStart::default(), HardState::default()),
    };
    (log_key(record), start, hard_state)
}

/// What the log of a new replica holds.
pub fn new_log(record: &GroupRecord) -> Recovered {
    let (key, start, hard_state) = first_log(record);
    Recovered {
        key,
        hard_state,
        last_index: start.position.index,
        terms: vec![(start.position.index, start.position.term)],
        start,
        memberships: Vec::new(),
        install: None,
        condemned: None,
    }
}

/// Puts a replica together from its record, what the log recovered, and its state machine. `number` is its [`Incarnation`]'s.
pub fn restore(
    config: &HostConfig,
    record: &GroupRecord,
    number: u64,
    recovered: Option<Recovered>,
    mut machine: Box<dyn StateMachine>,
) -> Result<RestoredReplica, HostError> {
    let broken = |reason: String| HostError::Machine { group: record.group, reason };
    let incarnation = Incarnation { group: record.group, number };
    let mut recovered = recovered.unwrap_or_else(|| new_log(record));
    let staged = recovered.install.as_ref().map(|(_, directory)| *directory);
    let persisted = machine.open(staged).map_err(|error| broken(error.to_string()))?;
    let meta = match persisted {
        Some(bytes) => {
            GroupMeta::decode(&bytes).map_err(|error| broken(format!("the meta of its state: {error}")))?
        }
        None => match &record.genesis {
            Some(genesis) => genesis.clone(),
            None => waiting_meta(record),
        },
    };
    check_level(meta.feature_level).map_err(broken)?;
    if meta.group != record.group {
        return Err(broken(format!("its state belongs to group {}", meta.group)));
    }
    let (mut first, mut discard) = (None, None);
    if let Some((start, directory)) = recovered.install.take() {
        let is_live = machine.is_live(directory).map_err(|error| broken(error.to_string()))?;
        let is_live = is_live || planted!(AbandonedTaken);
        let goes_on = went_on(&recovered, start.position) && !planted!(AbandonedTaken);
        let mark = if is_live && meta.applied == start.position && !goes_on {
            // The pointer was switched, the checkpoint record was not written: write it now.
            recovered.hard_state.commit = recovered.hard_state.commit.max(start.position.index);
            recovered.last_index = start.position.index;
            recovered.terms = vec![(start.position.index, start.position.term)];
            recovered.memberships = Vec::new();
            recovered.start = start.clone();
            Mark::InstallDone(start)
        } else {
            // The log forgets it before anything else is written: a later restart that finds the store at the snapshot's index, caught up
            // by entries, would take it for done and void the entries behind.
            discard = Some(directory).filter(|_| !is_live);
            Mark::InstallAbandoned
        };
        let (key, hard_state) = (recovered.key, recovered.hard_state);
        let write = GroupWrite { key, hard_state, entries: Vec::new(), mark: Some(mark) };
        let is_left_open = planted!(AbandonedTaken) && matches!(write.mark, Some(Mark::InstallAbandoned));
        first = Some(LogJob::InstallStep { of: incarnation, write }).filter(|_| !is_left_open);
    }
    let restored = Restored {
        hard_state: recovered.hard_state,
        start: recovered.start,
        last_index: recovered.last_index,
        terms: recovered.terms,
        memberships: recovered.memberships,
        applied: meta.applied,
        condemned: recovered.condemned,
    };
    let raft = Raft::new(raft_config(config, record), restored)
        .map_err(|error| broken(format!("what the log recovered cannot be: {error}")))?;
    let feature_level = meta.feature_level;
    let key = recovered.key;
    Ok(RestoredReplica {
        seat: Seat { key, incarnation, raft, feature_level },
        applier: Applier::new(key, incarnation, machine, meta),
        first,
        discard,
    })
}

/// Whether a replica whose store has this much would be condemned for what its log no longer has. The error is that of a log that
/// contradicts itself.
pub(crate) fn lost_by_comparison(
    record: &GroupRecord,
    log: &Recovered,
    applied: LogPosition,
) -> Result<Option<CondemnedReason>, RestoreError> {
    if log.install.is_some() {
        // What the store has may be the snapshot of which the log does not know yet.
        return Ok(None);
    }
    let restored = Restored {
        hard_state: log.hard_state,
        start: log.start.clone(),
        last_index: log.last_index,
        terms: log.terms.clone(),
        memberships: log.memberships.clone(),
        applied,
        condemned: None,
    };
    let config = HostConfig::new(DeploymentId(0), record.replica.node(), String::new(), PathBuf::new());
    Raft::new(raft_config(&config, record), restored).map(|raft| raft.condemned())
}

/// Whether the log goes on from the point that a snapshot covers, so that starting it anew there would void entries for nothing, or has
/// passed it. Nothing of that kind is written between the switch and the end of an installation (rule N1).
fn went_on(log: &Recovered, snapshot: LogPosition) -> bool {
    let run = log.terms.iter().rev().find(|(first, _)| *first <= snapshot.index);
    let holds = snapshot.index <= log.last_index && run.is_some_and(|(_, term)| *term == snapshot.term);
    holds || log.start.position.index >= snapshot.index || log.hard_state.commit > snapshot.index
}

fn raft_config(config: &HostConfig, record: &GroupRecord) -> Config {
    Config {
        id: record.replica,
        election_ticks: config.election_ticks,
        heartbeat_ticks: config.heartbeat_ticks,
        check_quorum: config.check_quorum,
        append_bytes_max: APPEND_BYTES_MAX,
        inflight_bytes_max: INFLIGHT_BYTES_MAX,
        inflight_messages_max: INFLIGHT_MESSAGES_MAX,
        unapplied_bytes_max: config.unapplied_bytes_max,
        cache_bytes_max: config.cache_bytes_max,
        snapshot_deadline_ticks: config.election_ticks.saturating_mul(SNAPSHOT_DEADLINE_ELECTIONS),
        quiesce_after_ticks: None,
    }
}

/// The state of a replica that waits for its first snapshot.
fn waiting_meta(record: &GroupRecord) -> GroupMeta {
    GroupMeta {
        group: record.group,
        uid: GroupUid([0; 16]),
        applied: LogPosition::default(),
        membership: Membership::default(),
        feature_level: FEATURE_LEVEL,
        slots: SlotSet::default(),
        slots_epoch: 0,
        log_unix_ms: 0,
        chain: 0,
        disputed: None,
    }
}

#[cfg(test)]
mod tests;
