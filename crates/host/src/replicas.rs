// SPDX-License-Identifier: Apache-2.0

//! A node's replicas come and go: founded, joined, removed, forgotten (rules M3, M4). Stopping them for a while is in `stops.rs`.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use mraft_engine::error::NotApplied;
use mraft_engine::event::Event;
use mraft_engine::machine::StateMachine;
use mraft_logstore::Recovered;
use mraft_types::{
    CondemnedReason, GroupId, GroupUid, InstanceId, Membership, NodeId, Payload, ReplicaId, Role,
};

use crate::apply_worker::ApplyMail;
use crate::core::Input;
use crate::error::HostError;
use crate::events::HostEvent;
use crate::meta::GroupMeta;
use crate::node_host::{GroupSpec, Inner, Leadership, MachineContext, wait};
use crate::panics::caught;
use crate::peers::{ClearedConflict, Reply};
use crate::persist::LogJob;
use crate::progress::Progress;
use crate::registry::{AcceptedLoss, GroupRecord};
use crate::restore::{RestoredReplica, first_log, log_key, restore};
use crate::runtime::{Listener, Shared};

/// What makes a founding another one, for people.
fn founded_with(genesis: &GroupMeta) -> String {
    let members: Vec<_> = genesis.membership.members.keys().collect();
    let slots: Vec<String> =
        genesis.slots.ranges().iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    format!("{members:?} and slots [{}]", slots.join(", "))
}

/// Witnesses and observers come with a later release: nothing in a host treats them as what they are.
fn takes_roles(spec: &GroupSpec) -> Result<(), HostError> {
    let of_later = |role| matches!(role, Role::Witness | Role::Observer);
    let found = spec.members.members.iter().find(|(_, member)| of_later(member.role));
    found.map_or(Ok(()), |(id, member)| {
        let reason = format!(
            "member {id} would be founded as {}, which comes with a later release: found the group with voters, and add learners to it \
             afterwards",
            member.role
        );
        Err(HostError::Machine { group: spec.group, reason })
    })
}

impl Inner {
    fn make_machine(&self, record: &GroupRecord) -> Result<Box<dyn StateMachine>, HostError> {
        let group = record.group;
        let Some(factory) = self.machines.0.get(&record.machine) else {
            return Err(self.unknown_machine(record));
        };
        let context = MachineContext {
            group,
            replica: record.replica,
            directory: self.group_directory(group, record.replica),
            disk: Arc::clone(&self.disk),
        };
        // It may be asked for on a thread of the host.
        let made =
            caught("making its state machine", || factory(&context).map_err(|error| error.to_string()));
        made.flatten().map_err(|reason| HostError::Machine { group, reason })
    }

    fn unknown_machine(&self, record: &GroupRecord) -> HostError {
        let reason = format!(
            "its state machine is of kind `{}`, which this program does not offer (it offers: {})",
            record.machine,
            self.machines.0.keys().cloned().collect::<Vec<_>>().join(", ")
        );
        HostError::Machine { group: record.group, reason }
    }

    /// A replica from what its directory and its log hold. Making and opening a machine is user code: its panic is this replica's alone.
    pub(crate) fn put_together(
        &self,
        record: &GroupRecord,
        recovered: Option<Recovered>,
    ) -> Result<RestoredReplica, HostError> {
        let restored = catch_unwind(AssertUnwindSafe(|| {
            let machine = self.make_machine(record)?;
            let number = self.next_token.fetch_add(1, Ordering::Relaxed);
            restore(&self.config, record, number, recovered, machine)
        }));
        restored.unwrap_or_else(|_| {
            let reason = "its state machine panicked while it was opened".to_owned();
            Err(HostError::Machine { group: record.group, reason })
        })
    }

    /// A replica whose state cannot be opened costs the others nothing (rule D10).
    pub(crate) fn not_started(&self, group: GroupId, error: &HostError) {
        let reason = match error {
            HostError::Machine { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        let what_to_do = "its log is kept: mend the cause and start the node again, or remove the replica from its group and add the node anew";
        self.failed(group, format!("it could not be started: {reason}; {what_to_do}"));
    }

    /// A replica that came back after a loss looks like any other: only this says that the group may have lost acknowledged writes.
    pub(crate) fn remember_loss(&self, record: &GroupRecord, is_condemned: bool) {
        let accepted = self.registry().accepted().get(&record.group).copied();
        if let Some(AcceptedLoss { reason, last_index, term }) = accepted.filter(|_| !is_condemned) {
            tracing::warn!(
                group = %record.group, replica = %record.replica, was = %reason, last_index, term,
                "an operator accepted what this replica had lost: it went on from this index; what was acknowledged above it, and no other \
                 member held, is gone"
            );
        }
    }

    fn group_directory(&self, group: GroupId, replica: ReplicaId) -> PathBuf {
        crate::files::group_directory(&self.config.data_directory, group, replica)
    }

    pub(crate) fn start_groups(&self, specs: &[GroupSpec]) -> Result<(), HostError> {
        let mut records = Vec::new();
        for spec in specs {
            let genesis = GroupMeta::genesis(
                self.config.deployment,
                spec.group,
                spec.members.clone(),
                spec.slots.clone(),
            );
            let Some(replica) = genesis.membership.replica_on(self.config.node) else {
                let reason = format!("node {} is not among the original members", self.config.node);
                return Err(HostError::Machine { group: spec.group, reason });
            };
            let listed = self.groups.get();
            let is_gone = listed.gone.contains_key(&spec.group);
            match listed.records.get(&spec.group) {
                Some(known) if known.uid == genesis.uid => {}
                Some(known) => {
                    let reason = format!(
                        "it was founded with members {}, the configuration says {}: another founding is another group; to add this node to the \
                         existing one, join it",
                        known
                            .genesis
                            .as_ref()
                            .map_or_else(|| "of a group that this node joined".to_owned(), founded_with),
                        founded_with(&genesis)
                    );
                    return Err(HostError::Machine { group: spec.group, reason });
                }
                None if is_gone => {
                    // Founding it again would give the removed replica a second life with an empty log (rule M3).
                    tracing::warn!(group = %spec.group, "this node was removed from the group; to have it back, add it as a learner");
                }
                None => {
                    takes_roles(spec)?;
                    records.push(GroupRecord {
                        group: spec.group,
                        uid: genesis.uid,
                        replica,
                        genesis: Some(genesis),
                        machine: spec.machine.clone(),
                    });
                }
            }
        }
        self.add_replicas(records)
    }

    /// The registry first, then the log, then the machines: what a crash leaves unfinished is done again at the next start.
    pub(crate) fn add_replicas(&self, records: Vec<GroupRecord>) -> Result<(), HostError> {
        if records.is_empty() {
            return Ok(());
        }
        let _changing = self.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = self.shared()?;
        self.is_served_by_disk()?;
        if let Some(unknown) = records.iter().find(|record| !self.machines.0.contains_key(&record.machine)) {
            return Err(self.unknown_machine(unknown));
        }
        {
            let mut registry = self.registry();
            if let Some(known) = records.iter().find(|record| registry.records().contains_key(&record.group))
            {
                return Err(HostError::GroupExists(known.group));
            }
            registry.put(records.iter().cloned())?;
        }
        self.log_job(|token| LogJob::Add { token, replicas: records.iter().map(first_log).collect() })?;
        self.registry().logged(records.iter().map(|record| record.group))?;
        let mut result = Ok(());
        let mut progress = Progress::new(records.len(), Instant::now());
        for record in &records {
            let group = record.group;
            progress.one_more(Instant::now(), "making the states of new groups");
            let replica = match self.put_together(record, None) {
                Ok(replica) => replica,
                Err(error) => {
                    self.not_started(group, &error);
                    result = result.and(Err(error));
                    continue;
                }
            };
            self.put_to_work(&shared, group, replica)?;
        }
        result
    }

    /// Hands a replica to the threads; what must be durable before it runs is.
    pub(crate) fn put_to_work(
        &self,
        shared: &Shared,
        group: GroupId,
        replica: RestoredReplica,
    ) -> Result<(), HostError> {
        let RestoredReplica { seat, applier, discard, .. } = replica;
        let membership = seat.raft.membership().clone();
        if seat.raft.condemned() != Some(CondemnedReason::Divergence) {
            self.lookups_mut().insert(group, applier.lookup());
        }
        self.leaders_mut().insert(group, Leadership { leader: None, term: seat.raft.term() });
        if let Some(peers) = self.peers.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            peers.learn(&membership);
        }
        self.memberships().insert(group, membership);
        let of = seat.incarnation;
        let added = ApplyMail::Add(group, Box::new(applier));
        let discarded = discard.map(|directory| ApplyMail::Discard(of, directory));
        let is_open = shared.apply(group).send_all(std::iter::once(added).chain(discarded));
        let condemn = || Some(Event::Condemn { reason: *self.all_condemned.get()? });
        let condemned = condemn();
        let is_new = condemned.is_none();
        let started = std::iter::once(Input::Start(Box::new(seat)));
        // Together, so that it says nothing before it is told.
        let started = started.chain(condemned.map(|event| Input::Group(group, event)));
        if !is_open || !shared.step(group).send_all(started) {
            return Err(HostError::Closed);
        }
        // Those that were condemned meanwhile did not include this one.
        if let Some(event) = condemn().filter(|_| is_new) {
            self.input(group, event);
        }
        Ok(())
    }

    /// Stops this replica and forgets it for good; one that took its place meanwhile is left alone.
    pub(crate) fn remove_replica(&self, group: GroupId, replica: ReplicaId) -> Result<(), HostError> {
        let _changing = self.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.groups.get().records.get(&group).cloned();
        let record =
            record.filter(|record| record.replica == replica).ok_or(HostError::NoSuchGroup(group))?;
        self.stop_replica(group, false)?;
        self.stopped().remove(&group);
        self.memberships().remove(&group);
        // The registry last but one: until it forgets the group, a crash leaves a replica that is removed again.
        self.registry().remove(group, replica)?;
        self.log_job(|token| LogJob::Remove { token, key: log_key(&record) })?;
        let directory = self.group_directory(group, record.replica);
        crate::files::remove_directory(self.disk.as_ref(), &directory)
            .map_err(|error| HostError::io(&directory, error))
    }

    fn stop_replica(&self, group: GroupId, persist: bool) -> Result<(), HostError> {
        let shared = self.shared()?;
        shared.step(group).send(Input::Stop(group, NotApplied::Stopping)).map_err(|_| HostError::Closed)?;
        self.drop_machine(group, persist)
    }

    /// Ends the apply side of a replica whose core was stopped, and what is told of it.
    pub(crate) fn drop_machine(&self, group: GroupId, persist: bool) -> Result<(), HostError> {
        let (done, stopped) = sync_channel(1);
        self.mail(group, ApplyMail::Remove { group, persist, done })?;
        self.lookups_mut().remove(&group);
        self.leaders_mut().remove(&group);
        self.joining.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| *of != group);
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        self.condemned.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
        wait(&stopped)?.map_err(|reason| HostError::Machine { group, reason })
    }

    /// Stops a replica that cannot go on, and keeps all that it has.
    pub(crate) fn stop_failed(self: &Arc<Self>, group: GroupId, replica: ReplicaId, reason: &str) {
        let (inner, reason) = (Arc::clone(self), reason.to_owned());
        self.chore("mraft-stop", move || {
            let _changing = inner.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
            let is_here = |record: &GroupRecord| record.replica == replica;
            if inner.groups.get().records.get(&group).is_some_and(is_here) && !inner.is_stopped(group) {
                if let Err(error) = inner.stop_replica(group, true) {
                    tracing::warn!(%group, "stopping it: {error}");
                }
                inner.failed(group, reason);
            }
        });
    }

    /// A leader added this node to a group: start the replica, unless it is here. An older one of the same founding makes room: that
    /// the group gave the node a later generation proves that it removed the earlier one (rule M3).
    pub(crate) fn start_joining(
        self: &Arc<Self>,
        group: GroupId,
        uid: GroupUid,
        replica: ReplicaId,
        machine: String,
        reply: Reply,
    ) {
        let known = self.groups.get().records.get(&group).cloned();
        if let Some(known) = &known {
            if known.replica == replica && known.uid == uid {
                return reply.send(Payload::new());
            }
            if known.uid != uid || known.replica.generation() >= replica.generation() {
                tracing::warn!(
                    %group, here = %known.replica, asked = %replica,
                    "asked to join while another replica of the group is here; remove it first"
                );
                return;
            }
        }
        let inner = Arc::clone(self);
        // The asking connection must not wait for the log.
        self.chore("mraft-join", move || {
            let result = match known {
                Some(known) => inner.remove_replica(group, known.replica),
                None => Ok(()),
            };
            let record = GroupRecord { group, uid, replica, genesis: None, machine };
            match result.and_then(|()| inner.add_replicas(vec![record])) {
                Ok(()) => {
                    tracing::info!(%group, %replica, "joined; waits for the group's first snapshot");
                    reply.send(Payload::new());
                }
                Err(HostError::GroupExists(_)) => {}
                Err(error) => tracing::error!(%group, %replica, "cannot join: {error}"),
            }
        });
    }

    /// The group removed the replica here, by a committed change: it can never come back, so its log and state are deleted.
    pub(crate) fn forget_removed(self: &Arc<Self>, group: GroupId, replica: ReplicaId) {
        let inner = Arc::clone(self);
        self.chore("mraft-remove", move || match inner.remove_replica(group, replica) {
            Ok(()) => tracing::info!(%group, %replica, "the removed replica's log and state are deleted"),
            Err(HostError::NoSuchGroup(_) | HostError::Closed) => {}
            Err(error) => tracing::error!(%group, "a removed replica cannot be deleted: {error}"),
        });
    }

    /// Every replica here may never take part again, durably.
    pub(crate) fn condemn_all(&self, reason: CondemnedReason) {
        // One that is stopped hears of it when it starts; the first reason stays.
        let _ = self.all_condemned.set(reason);
        let groups: Vec<GroupId> = self.groups.get().records.keys().copied().collect();
        groups.into_iter().for_each(|group| self.input(group, Event::Condemn { reason }));
    }

    pub(crate) fn clear_conflict(&self, node: NodeId) -> Result<ClearedConflict, HostError> {
        if node == self.config.node {
            let reason = format!("node {node} is this one: clear it on the others");
            return Err(HostError::Refused { reason });
        }
        // While no replica comes or goes.
        let _changing = self.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let listed = self.groups.get();
        let founding = listed
            .records
            .iter()
            .filter_map(|(group, record)| Some((*group, record.genesis.as_ref()?.membership.clone())));
        // The last committed membership counts, so that a removal that may still be lost is none yet; and the founding of a group whose
        // replica is not running.
        let mut memberships: BTreeMap<GroupId, Membership> = founding.collect();
        memberships.extend(self.memberships().clone());
        let lists = |(group, members): (&GroupId, &Membership)| {
            members.members.keys().any(|id| id.node() == node).then_some(*group)
        };
        let groups: Vec<GroupId> = memberships.iter().filter_map(lists).collect();
        if !groups.is_empty() {
            return Err(HostError::NodeListed { node, groups });
        }
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let cleared = peers.ok_or(HostError::Closed)?.clear(node)?;
        let shown =
            |instance: Option<InstanceId>| instance.map_or_else(|| "none".to_owned(), |id| id.to_string());
        let (known, claimed) = (shown(cleared.known), shown(cleared.claimed));
        if cleared.changed {
            tracing::warn!(
                %node, known, claimed,
                "an operator cleared what was known of this node id: whichever directory comes first under it is taken"
            );
            self.tell(&HostEvent::ConflictCleared(node));
        } else {
            tracing::info!(%node, known, claimed, "an operator asked to clear this node id, and there was nothing to clear");
        }
        Ok(cleared)
    }

    /// Deletes what a removal left behind that a crash interrupted.
    pub(crate) fn finish_removals(&self) {
        let left = crate::opening::finish_removals(
            self.disk.as_ref(),
            &self.config.data_directory,
            &self.groups.get(),
        );
        for (group, error) in left {
            tracing::warn!(%group, "what a removed replica left cannot be deleted: {error}; the next start tries again");
        }
    }

    fn chore(&self, name: &'static str, run: impl FnOnce() + Send + 'static) {
        match self.shared().map(|shared| shared.chore(name, run)) {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::error!("{name} cannot be done now: {error}"),
        }
    }
}
