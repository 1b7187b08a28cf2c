// SPDX-License-Identifier: Apache-2.0

//! Groups that rest: stopped on this node by a call, and started again.
//!
//! A stop leaves what a restart of the node finds: the log and what the state machine has persisted; and starting again is the same as after
//! a restart, but that the log is asked what it holds instead of being opened. In between the replica is one that is away: the others go
//! on without it, what they send is dropped, and what was still under way for it is not taken for news of its next run
//! ([`crate::core::Incarnation`], rule M3).
//!
//! Deliberately missing: a stop that lasts over a restart of the node. A replica that is not wanted any more is removed from its group.

use std::collections::BTreeSet;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use mraft_engine::effect::Answer;
use mraft_engine::error::NotApplied;
use mraft_engine::event::Event;
use mraft_logstore::Recovered;
use mraft_types::{CondemnedReason, GroupId};

use crate::apply_worker::ApplyMail;
use crate::core::{Input, Look};
use crate::error::HostError;
use crate::node_host::{INTERNAL_WAIT, Inner, NodeHost, wait};
use crate::persist::LogJob;
use crate::registry::GroupRecord;
use crate::restore::log_key;
use crate::runtime::Shared;

/// How long a stop waits for another voter to lead, in election timeouts: a transfer that does not succeed ends after one.
const HANDOVER_ELECTIONS: u64 = 2;

impl NodeHost {
    /// Stops a group's replica here until [`NodeHost::start_group`] or the next start of the node: nothing of a stop is persisted. If it leads
    /// and another voter can take over, leadership is handed over first, within two election timeouts.
    ///
    /// When this returns, whoever waited for an answer has one, the state machine is dropped, and none of its background jobs is under way;
    /// what the machine had not persisted is applied again from the log later. The replica still counts as a member of its group, as one of
    /// a node that is down does. Requests end `not_applied` with [`NotApplied::Stopped`], there is nothing to look up, and the status
    /// says [`crate::ReplicaState::Stopped`].
    ///
    /// Stopping a stopped group is no error. One that had failed counts as stopped from then on, and may be started again. Waits for
    /// threads of the host: not to be called in a function that is called with an answer.
    pub fn stop_group(&self, group: GroupId) -> Result<(), HostError> {
        self.inner.stop_group(group)
    }

    /// Starts a group that [`NodeHost::stop_group`] stopped, from its log and its state, as a restart of the node does. Takes as long as
    /// reading the group's log. After an error it is still stopped.
    ///
    /// Starting a group that runs is no error; one that failed has to be stopped first.
    pub fn start_group(&self, group: GroupId) -> Result<(), HostError> {
        self.inner.start_group(group)
    }
}

impl Inner {
    pub(crate) fn stopped(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_stopped(&self, group: GroupId) -> bool {
        self.stopped().contains(&group)
    }

    /// The same as an error.
    pub(crate) fn is_not_stopped(&self, group: GroupId) -> Result<(), HostError> {
        if self.is_stopped(group) { Err(HostError::GroupStopped(group)) } else { Ok(()) }
    }

    fn stop_group(&self, group: GroupId) -> Result<(), HostError> {
        self.record(group)?;
        self.hand_over(group);
        let _changing = self.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.record(group)?;
        let shared = self.shared()?;
        self.is_served_by_disk()?;
        if self.stopped().insert(group) {
            tracing::info!(%group, "it is stopped; to be started again by a call or with the node");
        }
        let stop = Input::Stop(group, NotApplied::Stopped);
        shared.step(group).send(stop).map_err(|_| HostError::Closed)?;
        // What was decided before is on its way to the log and the state machine, and is carried out.
        self.await_turn(&shared, group)?;
        self.drop_machine(group, false)?;
        self.await_job(group)
    }

    fn start_group(&self, group: GroupId) -> Result<(), HostError> {
        let _changing = self.replica_changes.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.record(group)?;
        let shared = self.shared()?;
        self.is_served_by_disk()?;
        if !self.is_stopped(group) {
            let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            return failures.get(&group).map_or(Ok(()), |failure| {
                let reason = format!("it failed: {failure}; mend the cause, stop it and start it again");
                Err(HostError::Machine { group, reason })
            });
        }
        // The next machine has the same directory.
        self.await_job(group)?;
        let recovered = self.recovered(&shared, &record)?;
        let mut replica = self.put_together(&record, Some(recovered))?;
        if let Some(first) = replica.first.take() {
            shared.log.send(first).map_err(|_| HostError::Closed)?;
            // Answered when what was handed in before is durable.
            self.log_head(&record)?;
        }
        self.stopped().remove(&group);
        self.put_to_work(&shared, group, replica)?;
        tracing::info!(%group, "started again");
        Ok(())
    }

    fn record(&self, group: GroupId) -> Result<GroupRecord, HostError> {
        self.groups.get().records.get(&group).cloned().ok_or(HostError::NoSuchGroup(group))
    }

    /// Has another voter lead, if this node leads and one can take over in time.
    fn hand_over(&self, group: GroupId) {
        if !self.leads(group) {
            return;
        }
        let (done, ended) = sync_channel(1);
        // Nobody waits any more when the time is up.
        let ticket = self.completions.call(move |answer| _ = done.try_send(answer));
        self.input(group, Event::Transfer { ticket, to: None });
        let election_ms = self.config.tick_ms.saturating_mul(u64::from(self.config.election_ticks));
        match ended.recv_timeout(Duration::from_millis(election_ms.saturating_mul(HANDOVER_ELECTIONS))) {
            Ok(Answer::Transferred { to }) => {
                tracing::info!(%group, %to, "leadership is handed over before the stop")
            }
            Ok(_) | Err(_) => {
                tracing::warn!(%group, "nobody takes leadership over: the group has none until it elects")
            }
        }
    }

    /// Waits until a group's step worker has handed out everything that it decided on what it was sent before.
    fn await_turn(&self, shared: &Shared, group: GroupId) -> Result<(), HostError> {
        // The first answer comes from within a turn, the second from behind it.
        for _ in 0..2 {
            let (done, seen) = sync_channel(1);
            let look = Look(Box::new(move |_| _ = done.try_send(())));
            shared.step(group).send(Input::Look(look)).map_err(|_| HostError::Closed)?;
            wait(&seen)?;
        }
        Ok(())
    }

    /// Waits until no background job of the group's machines is under way. The apply thread takes this question up after it told
    /// everybody what became of a machine that ended before: nobody is told so late that the next one is taken for it.
    fn await_job(&self, group: GroupId) -> Result<(), HostError> {
        let (done, ended) = sync_channel(1);
        self.mail(group, ApplyMail::AwaitJob { group, done })?;
        ended.recv_timeout(INTERNAL_WAIT).map_err(|error| match error {
            RecvTimeoutError::Disconnected => HostError::Closed,
            RecvTimeoutError::Timeout => {
                let reason = "it is stopped, but a background job of its state machine is still under way: call again later";
                HostError::Machine { group, reason: reason.to_owned() }
            }
        })
    }

    /// What a restart of the node would find of a replica that does not run.
    fn recovered(&self, shared: &Shared, record: &GroupRecord) -> Result<Recovered, HostError> {
        let recovered = self.log_head(record)?.with_entries(shared.log_reader.as_ref())?;
        if self.groups.get().lost.contains(&record.group) {
            return Ok(Recovered { condemned: Some(CondemnedReason::LogLost), ..recovered });
        }
        Ok(recovered)
    }

    /// What the log holds of a replica, but for its entries, once everything that was handed in for it is durable.
    fn log_head(&self, record: &GroupRecord) -> Result<Recovered, HostError> {
        let (reply, head) = sync_channel(1);
        self.log_job(|token| LogJob::Find { token, key: log_key(record), reply })?;
        head.try_recv().ok().flatten().ok_or_else(|| {
            let reason = "the log does not know it, or refused what it wanted written: start the node again";
            HostError::Machine { group: record.group, reason: reason.to_owned() }
        })
    }
}
