// SPDX-License-Identifier: Apache-2.0

//! A node's replicas come and go: founded, joined, removed, forgotten (rules M3, M4).

use std::path::PathBuf;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, PoisonError};

use mraft_engine::error::NotApplied;
use mraft_engine::machine::StateMachine;
use mraft_types::{GroupId, GroupUid, Payload, ReplicaId};

use crate::apply_worker::ApplyMail;
use crate::core::Input;
use crate::error::HostError;
use crate::meta::GroupMeta;
use crate::node_host::{GroupSpec, Inner, Leadership, MachineContext, wait};
use crate::peers::Reply;
use crate::persist::LogJob;
use crate::registry::GroupRecord;
use crate::restore::{first_log, log_key, restore};

/// What makes a founding another one, for people.
fn founded_with(genesis: &GroupMeta) -> String {
    let members: Vec<_> = genesis.membership.members.keys().collect();
    let slots: Vec<String> =
        genesis.slots.ranges().iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    format!("{members:?} and slots [{}]", slots.join(", "))
}

impl Inner {
    pub(crate) fn make_machine(&self, record: &GroupRecord) -> Result<Box<dyn StateMachine>, HostError> {
        let group = record.group;
        let Some(factory) = self.machines.0.get(&record.machine) else {
            let reason = format!(
                "its state machine is of kind `{}`, which this program does not offer (it offers: {})",
                record.machine,
                self.machines.0.keys().cloned().collect::<Vec<_>>().join(", ")
            );
            return Err(HostError::Machine { group, reason });
        };
        let context = MachineContext {
            group,
            replica: record.replica,
            directory: self.group_directory(group, record.replica),
            disk: Arc::clone(&self.disk),
        };
        factory(&context).map_err(|error| HostError::Machine { group, reason: error.to_string() })
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
            let (known, is_gone) = {
                let registry = self.registry();
                (registry.records().get(&spec.group).cloned(), registry.gone().contains_key(&spec.group))
            };
            match known {
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
                None => records.push(GroupRecord {
                    group: spec.group,
                    uid: genesis.uid,
                    replica,
                    genesis: Some(genesis),
                    machine: spec.machine.clone(),
                }),
            }
        }
        self.add_replicas(records)
    }

    /// The registry first, then the log, then the machines: what a crash leaves unfinished is done again at the next start.
    pub(crate) fn add_replicas(&self, records: Vec<GroupRecord>) -> Result<(), HostError> {
        if records.is_empty() {
            return Ok(());
        }
        let shared = self.shared()?;
        let machines =
            records.iter().map(|record| self.make_machine(record)).collect::<Result<Vec<_>, _>>()?;
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
        for (record, machine) in records.iter().zip(machines) {
            let group = record.group;
            let replica = restore(&self.config, record, None, machine)?;
            self.lookups_mut().insert(group, replica.applier.lookup());
            self.leaders_mut().insert(group, Leadership { leader: None, term: replica.seat.raft.term() });
            self.memberships().insert(group, replica.seat.raft.membership().clone());
            if let Some(peers) = self.peers.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
                peers.learn(replica.seat.raft.membership());
            }
            let closed = |_| HostError::Closed;
            shared.apply(group).send(ApplyMail::Add(group, Box::new(replica.applier))).map_err(closed)?;
            shared.step(group).send(Input::Start(Box::new(replica.seat))).map_err(|_| HostError::Closed)?;
        }
        Ok(())
    }

    pub(crate) fn remove_replica(&self, group: GroupId) -> Result<(), HostError> {
        let record = self.registry().records().get(&group).cloned().ok_or(HostError::NoSuchGroup(group))?;
        self.stop_replica(group, false)?;
        // The registry last but one: until it forgets the group, a crash leaves a replica that is removed again.
        self.registry().remove(group)?;
        self.log_job(|token| LogJob::Remove { token, key: log_key(&record) })?;
        let directory = self.group_directory(group, record.replica);
        crate::files::remove_directory(self.disk.as_ref(), &directory)
            .map_err(|error| HostError::io(&directory, error))
    }

    fn stop_replica(&self, group: GroupId, persist: bool) -> Result<(), HostError> {
        let shared = self.shared()?;
        shared.step(group).send(Input::Stop(group, NotApplied::Stopping)).map_err(|_| HostError::Closed)?;
        let (done, stopped) = sync_channel(1);
        self.mail(group, ApplyMail::Remove { group, persist, done })?;
        self.lookups_mut().remove(&group);
        self.leaders_mut().remove(&group);
        wait(&stopped)?.map_err(|reason| HostError::Machine { group, reason })
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
        let known = self.registry().records().get(&group).cloned();
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
                Some(_) => inner.remove_replica(group),
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
    pub(crate) fn forget_removed(self: &Arc<Self>, group: GroupId) {
        let inner = Arc::clone(self);
        self.chore("mraft-remove", move || match inner.remove_replica(group) {
            Ok(()) => tracing::info!(%group, "the removed replica's log and state are deleted"),
            Err(HostError::NoSuchGroup(_) | HostError::Closed) => {}
            Err(error) => tracing::error!(%group, "a removed replica cannot be deleted: {error}"),
        });
    }

    /// Deletes what a removal left behind that a crash interrupted.
    pub(crate) fn finish_removals(&self) -> Result<(), HostError> {
        let gone = self.registry().gone().clone();
        for (group, (_, replica)) in gone {
            let directory = self.group_directory(group, replica);
            crate::files::remove_directory(self.disk.as_ref(), &directory)
                .map_err(|error| HostError::io(&directory, error))?;
        }
        Ok(())
    }

    fn chore(&self, name: &'static str, run: impl FnOnce() + Send + 'static) {
        match self.shared().map(|shared| shared.chore(name, run)) {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => tracing::error!("{name} cannot be done now: {error}"),
        }
    }
}
