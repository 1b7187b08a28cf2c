// SPDX-License-Identifier: Apache-2.0

//! What a host can say of itself and its groups.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::PoisonError;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use mraft_logstore::LogStatus;
use mraft_types::{
    CondemnedReason, DeploymentId, GroupId, GroupUid, Index, InstanceId, Membership, NodeId, ReplicaId,
    SlotSet, Term,
};

use crate::core::{Core, Input, Look};
use crate::error::HostError;
use crate::metrics::gauge;
use crate::node_host::{Inner, NodeHost, wait};
use crate::registry::GroupRecord;

/// How long a look at the step workers may take; one that is held up longer is left out of the figures.
const LOOK_WAIT: Duration = Duration::from_millis(500);

/// A host.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// Its deployment.
    pub deployment: DeploymentId,
    /// Its node id.
    pub node: NodeId,
    /// Its directory's id.
    pub instance: InstanceId,
    /// Where peers reach it.
    pub raft_address: String,
    /// How often it was started.
    pub boot_counter: u64,
    /// Groups here.
    pub groups: u64,
    /// Groups that this node leads.
    pub leaders: u64,
    /// Groups that were stopped here by a call.
    pub stopped: u64,
    /// The log.
    pub log: LogStatus,
    /// For how long the log or a state machine has kept callers waiting, in milliseconds (rule T1).
    pub disk_age_ms: u64,
    /// Why the node takes no writes, if it does not.
    pub disk_trouble: Option<String>,
    /// Whether there is room on disk for the groups' states (rule D10).
    pub state_room: StateRoom,
    /// Things an operator should know, each a sentence.
    pub warnings: Vec<String>,
}

/// Room for the groups' states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StateRoom {
    /// Enough, as far as is known.
    #[default]
    Enough,
    /// There was none for the state of some group, which stays in memory and in the log until there is.
    Lacking,
    /// The memory for that is full, too: writes are refused.
    Refusing,
}

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// It leads.
    Leader,
    /// It follows, or stands for election.
    Follower,
    /// It waits for its first snapshot (rule M4).
    Waiting,
    /// It may never take part again (rule D9).
    Condemned,
    /// Its state machine or its core failed; it is stopped.
    Failed,
    /// It was stopped by a call, and can be started again.
    Stopped,
}

/// A follower as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// Who.
    pub replica: ReplicaId,
    /// Acknowledged up to here.
    pub matched: Index,
    /// `probe`, `replicate` or `snapshot`.
    pub state: &'static str,
    /// Whether it was heard of within the last election timeout.
    pub active: bool,
}

/// One group's replica on this node.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Its founding.
    pub uid: GroupUid,
    /// The replica here.
    pub replica: ReplicaId,
    /// What it does.
    pub state: ReplicaState,
    /// Its term.
    pub term: Term,
    /// The leader it knows of.
    pub leader: Option<ReplicaId>,
    /// Committed up to here.
    pub commit: Index,
    /// Applied up to here.
    pub applied: Index,
    /// Last entry of its log.
    pub last_index: Index,
    /// The log begins behind this index.
    pub log_start: Index,
    /// The membership in force.
    pub membership: Membership,
    /// The slots whose keys live in the group.
    pub slots: SlotSet,
    /// On the leader, the followers.
    pub progress: Vec<PeerProgress>,
    /// Bytes of proposals that wait for their turn.
    pub pending_bytes: u64,
    /// On the leader: up to which entry all voters are known to have the same state since it leads (rule E8).
    pub compared: Index,
    /// On the leader: the checkpoint at which the voters' states differed without a majority; the group does not serve.
    pub disputed: Option<Index>,
    /// Why it takes no proposals for want of room on disk, if so (rule D10).
    pub no_room: Option<&'static str>,
    /// Why it is condemned.
    pub condemned: Option<CondemnedReason>,
    /// Why it failed.
    pub failure: Option<String>,
}

/// What waits in the groups of some step workers.
#[derive(Clone, Copy, Debug, Default)]
struct Queues {
    pending_bytes: u64,
    pending: u64,
    apply_lag_max: u64,
}

impl NodeHost {
    /// Whether the group's replica here takes part in the group: it runs, and is not condemned.
    pub fn takes_part(&self, group: GroupId) -> bool {
        let condemned = self.inner.condemned.lock().unwrap_or_else(PoisonError::into_inner);
        !condemned.contains_key(&group) && self.lookup(group).is_some()
    }
}

impl Inner {
    /// What waits, over all groups: one look at each step worker.
    pub(crate) fn write_queues(&self, out: &mut String) {
        let Ok(shared) = self.shared() else { return };
        let (reply, seen) = sync_channel(shared.steps.len());
        for step in &shared.steps {
            let reply = reply.clone();
            let look = move |core: &Core| {
                // Nobody waits any more when the caller gave up.
                let _ = reply.try_send(queues_of(core));
            };
            // A worker that is gone has nothing that waits.
            let _ = step.send(Input::Look(Look(Box::new(look))));
        }
        drop(reply);
        let mut all = Queues::default();
        while let Ok(queues) = seen.recv_timeout(LOOK_WAIT) {
            all.pending_bytes += queues.pending_bytes;
            all.pending += queues.pending;
            all.apply_lag_max = all.apply_lag_max.max(queues.apply_lag_max);
        }
        gauge(out, "mraft_pending_bytes", "Bytes of proposals that wait for their turn.", all.pending_bytes);
        gauge(out, "mraft_pending_proposals", "Proposals that wait for their turn.", all.pending);
        gauge(
            out,
            "mraft_apply_lag_entries",
            "Committed entries that are not applied, of the group with most of them.",
            all.apply_lag_max,
        );
        let failed = match self.stopped_by_disk() {
            // The disk stopped all of them.
            Some(_) => self.groups.get().records.len() as u64,
            None => self.failures.lock().unwrap_or_else(PoisonError::into_inner).len() as u64,
        };
        gauge(out, "mraft_replicas_failed", "Replicas here that stopped or could not be started.", failed);
        let condemned = self.condemned.lock().unwrap_or_else(PoisonError::into_inner).len() as u64;
        gauge(
            out,
            "mraft_replicas_condemned",
            "Replicas here that may never vote or acknowledge again.",
            condemned,
        );
        let accepted = self.registry().accepted().len() as u64;
        gauge(
            out,
            "mraft_losses_accepted",
            "Replicas here that came back after an operator accepted what they had lost.",
            accepted,
        );
    }

    pub(crate) fn status(&self) -> HostStatus {
        let shared = self.shared().ok();
        let mut warnings = Vec::new();
        if let Some(peers) = self.peers.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            warnings.extend(peers.warnings());
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(in_words(&failures, ["has stopped", "have stopped"]));
        drop(failures);
        let condemned = self.condemned.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.extend(in_words(&condemned, ["is condemned", "are condemned"]));
        drop(condemned);
        HostStatus {
            deployment: self.config.deployment,
            node: self.config.node,
            instance: self.identity.instance,
            raft_address: self.config.raft_address.clone(),
            boot_counter: self.identity.boot_counter,
            groups: self.groups.get().records.len() as u64,
            leaders: self.led_groups().len() as u64,
            stopped: self.stopped().len() as u64,
            log: self.metrics.log_gauges(),
            disk_age_ms: shared
                .as_ref()
                .map_or(0, |shared| u64::try_from(shared.disk_wait().1.as_millis()).unwrap_or(u64::MAX)),
            disk_trouble: self.disk_trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state_room: shared.map_or(StateRoom::Enough, |shared| shared.state_room()),
            warnings,
        }
    }

    pub(crate) fn group_status(&self, group: GroupId) -> Result<GroupStatus, HostError> {
        let record = self.groups.get().records.get(&group).cloned().ok_or(HostError::NoSuchGroup(group))?;
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned();
        let failure = failure.or_else(|| self.stopped_by_disk());
        let (reply, seen) = sync_channel(1);
        let slots = record.genesis.as_ref().map(|genesis| genesis.slots.clone()).unwrap_or_default();
        let look = move |core: &Core| {
            // Nobody waits any more when the caller gave up.
            let _ = reply.try_send(look_at(core, group));
        };
        self.shared()?.step(group).send(Input::Look(Look(Box::new(look)))).map_err(|_| HostError::Closed)?;
        let not_running = || {
            let state = if self.is_stopped(group) { ReplicaState::Stopped } else { ReplicaState::Failed };
            not_running(&record, state)
        };
        let mut status = GroupStatus { failure, slots, ..wait(&seen)?.unwrap_or_else(not_running) };
        status.uid = record.uid;
        Ok(status)
    }
}

/// What a core says of one of its groups.
pub(crate) fn look_at(core: &Core, group: GroupId) -> Option<GroupStatus> {
    let raft = core.engine().raft(group)?;
    let state = if raft.condemned().is_some() {
        ReplicaState::Condemned
    } else if raft.is_leader() {
        ReplicaState::Leader
    } else if raft.start().position.index == 0 {
        ReplicaState::Waiting
    } else {
        ReplicaState::Follower
    };
    Some(GroupStatus {
        group,
        uid: core.engine().uid(group)?,
        replica: raft.id(),
        state,
        term: raft.term(),
        leader: raft.leader(),
        commit: raft.commit(),
        applied: raft.applied(),
        last_index: raft.last_index(),
        log_start: raft.start().position.index,
        membership: raft.membership().clone(),
        slots: SlotSet::default(),
        progress: progress(raft),
        pending_bytes: core.engine().pending(group).map_or(0, |(bytes, _)| bytes as u64),
        compared: core.engine().compared(group).map_or(0, |(agreed, _)| agreed),
        disputed: core.engine().compared(group).and_then(|(_, disputed)| disputed),
        no_room: core.no_room(group),
        condemned: raft.condemned(),
        failure: None,
    })
}

/// How many replicas something is the matter with, and the first ones of them.
fn in_words<Why: fmt::Display>(replicas: &BTreeMap<GroupId, Why>, one_many: [&str; 2]) -> Option<String> {
    const SHOWN_MAX: usize = 3;
    let (subject, is) = match replicas.len() {
        0 => return None,
        1 => ("replica", one_many[0]),
        _ => ("replicas", one_many[1]),
    };
    let shown = replicas.iter().take(SHOWN_MAX).map(|(group, why)| format!("group {group}: {why}"));
    let mut shown: Vec<String> = shown.collect();
    if replicas.len() > SHOWN_MAX {
        shown.push(format!("{} more", replicas.len() - SHOWN_MAX));
    }
    Some(format!("{} {subject} here {is} ({})", replicas.len(), shown.join("; ")))
}

fn queues_of(core: &Core) -> Queues {
    let engine = core.engine();
    let mut queues = Queues::default();
    for group in engine.group_ids() {
        let (bytes, count) = engine.pending(group).unwrap_or_default();
        queues.pending_bytes += bytes as u64;
        queues.pending += count as u64;
        let lag = engine.raft(group).map_or(0, |raft| raft.commit().saturating_sub(raft.applied()));
        queues.apply_lag_max = queues.apply_lag_max.max(lag);
    }
    queues
}

fn progress(raft: &mraft_raft::Raft) -> Vec<PeerProgress> {
    let peer = |peer: mraft_raft::PeerStatus| PeerProgress {
        replica: peer.id,
        matched: peer.matched,
        state: match peer.state {
            mraft_raft::PeerState::Probe => "probe",
            mraft_raft::PeerState::Replicate => "replicate",
            mraft_raft::PeerState::Snapshot => "snapshot",
        },
        active: peer.is_active,
    };
    raft.peers().into_iter().map(peer).collect()
}

/// A replica whose core is not running.
fn not_running(record: &GroupRecord, state: ReplicaState) -> GroupStatus {
    GroupStatus {
        group: record.group,
        uid: record.uid,
        replica: record.replica,
        state,
        term: 0,
        leader: None,
        commit: 0,
        applied: 0,
        last_index: 0,
        log_start: 0,
        membership: record.genesis.as_ref().map(|genesis| genesis.membership.clone()).unwrap_or_default(),
        slots: SlotSet::default(),
        progress: Vec::new(),
        pending_bytes: 0,
        compared: 0,
        disputed: None,
        no_room: None,
        condemned: None,
        failure: None,
    }
}
