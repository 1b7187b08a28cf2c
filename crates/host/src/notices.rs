// SPDX-License-Identifier: Apache-2.0

//! What groups and the log have to tell, turned into events, metrics, log lines and what must follow: peers to be learned, replicas to
//! be started elsewhere, leadership to be moved away from a slow disk.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mraft_engine::effect::Notice;
use mraft_engine::error::NotApplied;
use mraft_engine::event::Event;
use mraft_types::{CondemnedReason, GroupId, Membership};

use crate::core::Input;
use crate::events::HostEvent;
use crate::node_host::{Inner, Leadership};
use crate::persist::LogHealth;
use crate::runtime::{Listener, Waits};
use crate::slow_disk::{Led, Patience, Trouble, Verdict};

impl Inner {
    /// A replica is condemned, or was found so at the start. Said once.
    pub(crate) fn note_condemned(&self, group: GroupId, reason: CondemnedReason) {
        let known = self.condemned.lock().unwrap_or_else(PoisonError::into_inner).insert(group, reason);
        if known != Some(reason) {
            tracing::error!(
                %group,
                "this replica may never vote or acknowledge again: {reason}; remove it from the group and add its node again, or, if the \
                 group has no majority left, see `mraft repair accept-loss`"
            );
        }
    }

    /// Rules T1 and D10: a disk that keeps callers waiting, or has no room for them.
    fn watch_disk(&self, waits: Waits, age: Duration, refuses_for: Duration) {
        let in_ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        match Patience::of(&self.config).judge(in_ms(age), in_ms(refuses_for)) {
            Verdict::Well => {}
            Verdict::Stop { waited_ms } => self.disk_stalled(waits, waited_ms),
            Verdict::MoveLeaders { trouble: Trouble::Slow, for_ms } => {
                self.metrics.count("mraft_slow_disk_total", "what", "beats");
                self.move_leaders("slow", for_ms);
            }
            Verdict::MoveLeaders { trouble: Trouble::Full, for_ms } => self.move_leaders("full", for_ms),
        }
    }

    /// Hands every group that this node leads over to whoever is best off, if that is much better.
    fn move_leaders(&self, disk_is: &str, for_ms: u64) {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(peers), Ok(shared)) = (peers, self.shared()) else { return };
        let now_ms = shared.now().monotonic_ms;
        for (group, term) in self.led_in_terms() {
            let Some(members) = self.memberships().get(&group).cloned() else { continue };
            let led = Led { group, term, members: &members };
            let waited_ms_on = |node| peers.disk_waited_ms(node);
            let mut moves = self.moved_for_disk.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(to) = moves.choose(now_ms, self.config.node, led, for_ms, waited_ms_on) else {
                continue;
            };
            drop(moves);
            self.metrics.count("mraft_slow_disk_total", "what", "leaderships_moved");
            tracing::warn!(%group, %to, for_ms, "the disk is {disk_is}: handing leadership over");
            let ticket = self.completions.call(|_| {});
            self.input(group, Event::Transfer { ticket, to: Some(to) });
        }
    }

    /// Takes in no snapshot while the log is full (rule D10): its replica would wait to install it behind the entries that wait for room,
    /// and not let go meanwhile of those whose room they need. An error says so.
    pub(crate) fn has_log_room(&self) -> Result<(), String> {
        let is_full = self.shared().is_ok_and(|shared| shared.is_log_full());
        if is_full { Err("the disk is full: no room for the log".to_owned()) } else { Ok(()) }
    }

    fn disk_stalled(&self, waits: Waits, age_ms: u64) {
        let what = match waits {
            Waits::Log => "a log write has not ended",
            Waits::Machine => "a state machine has not come back",
        };
        let reason = format!("{what} for {age_ms} ms: every replica of this node stopped");
        {
            let mut trouble = self.disk_trouble.lock().unwrap_or_else(PoisonError::into_inner);
            if trouble.as_ref() == Some(&reason) || self.stalled.swap(true, Ordering::Relaxed) {
                return;
            }
            *trouble = Some(reason.clone());
        }
        tracing::error!("{reason}");
        // Nothing here may wait for the disk: this thread is the one that says what became of it.
        let peers = self.peers.write().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(peers) = peers {
            peers.disconnect();
        }
        if let Ok(shared) = self.shared() {
            shared.broadcast(|| {
                Input::StopAll(NotApplied::Disk("the disk stalled; every replica of this node stopped"))
            });
        }
        self.lead_and_show_nothing();
        self.tell(&HostEvent::LogFailed(reason));
    }

    /// Every replica stopped: nobody is sent here for one, nothing is looked up in a state that stands still, and nobody waits for the log.
    fn lead_and_show_nothing(&self) {
        self.log_waits.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for known in self.leaders_mut().values_mut() {
            known.leader = None;
        }
        self.lookups_mut().clear();
    }
}

impl Inner {
    /// The nodes of these learners are to start their replicas (rule M4).
    fn expect_learners(&self, group: GroupId, membership: &Membership) {
        let learners =
            membership.members.iter().filter(|(_, member)| member.role == mraft_types::Role::Learner);
        let mut joining = self.joining.lock().unwrap_or_else(PoisonError::into_inner);
        joining.retain(|(of, _)| *of != group);
        joining.extend(learners.map(|(id, _)| (group, *id)));
    }

    /// Asks them again until they say that they did: the first question may find no connection.
    fn ask_learners(&self) {
        let waiting: Vec<_> =
            self.joining.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(peers) = peers else { return };
        for (group, replica) in waiting {
            let record = self.groups.get().records.get(&group).cloned();
            let Some(record) = record.filter(|_| peers.is_connected(replica.node())) else { continue };
            peers.start_replica(group, record.uid, replica, &record.machine);
        }
    }
}

impl Listener for Inner {
    fn beat(&self, waits: Waits, disk_age: Duration, refuses_for: Duration) {
        self.watch_disk(waits, disk_age, refuses_for);
        if let Ok(shared) = self.shared() {
            self.completions.expire(shared.now().tick);
        }
        self.ask_learners();
    }

    fn notice(&self, group: GroupId, notice: Notice) {
        match notice {
            Notice::LeaderChanged { leader, term } => {
                {
                    let mut leaders = self.leaders_mut();
                    // A turn that was under way when every replica stopped is not believed.
                    let leader = leader.filter(|_| !self.stalled.load(Ordering::Relaxed));
                    if let Some(known) = leaders.get_mut(&group) {
                        *known = Leadership { leader, term };
                    }
                }
                let leads = leader.is_some_and(|leader| leader.node() == self.config.node);
                let membership = self.memberships().get(&group).cloned();
                if let Some(membership) = membership.filter(|_| leads) {
                    self.expect_learners(group, &membership);
                } else {
                    self.joining
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .retain(|(of, _)| *of != group);
                }
                tracing::debug!(%group, ?leader, term, "leader changed");
                self.tell(&HostEvent::LeaderChanged { group, leader, term });
            }
            Notice::ElectionStarted(reason) => {
                self.metrics.count("mraft_elections_total", "reason", format!("{reason:?}").to_lowercase());
            }
            Notice::MembershipCommitted(membership) => {
                self.membership_committed(group, &membership);
                self.tell(&HostEvent::MembershipChanged { group, membership });
            }
            Notice::Condemned(reason) => {
                self.note_condemned(group, reason);
                if reason == CondemnedReason::Divergence {
                    // Stale is one thing, wrong another: nobody looks up anything here any more.
                    self.lookups_mut().remove(&group);
                }
                self.tell(&HostEvent::ReplicaCondemned { group, reason });
            }
            Notice::Diverged { majority, others } => {
                self.metrics.count("mraft_state_differences_total", "what", "diverged");
                for replica in others {
                    tracing::error!(
                        %group, %replica, index = majority.index,
                        "this replica's state differs from the majority's: it condemns itself; remove it from the group and add its node again"
                    );
                    self.tell(&HostEvent::StateDiffers {
                        group,
                        index: majority.index,
                        replica: Some(replica),
                    });
                }
            }
            Notice::Disputed { index, found } => {
                self.metrics.count("mraft_state_differences_total", "what", "disputed");
                let found: Vec<String> = found
                    .iter()
                    .map(|(replica, hash)| {
                        format!("{replica} {:032x}{:032x}", hash.chain, hash.content.unwrap_or(0))
                    })
                    .collect();
                tracing::error!(
                    %group, index, found = found.join(", "),
                    "the replicas' states differ and no majority has the same: the group takes no reads and writes until one is found; \
                     start the replicas that are missing, they may settle it"
                );
                self.tell(&HostEvent::StateDiffers { group, index, replica: None });
            }
            Notice::Settled => {
                tracing::info!(%group, "a majority has the same state again: the group serves")
            }
            Notice::Removed { replica, change_index } => {
                tracing::info!(%group, %replica, change_index, "this replica was removed from its group");
                self.tell(&HostEvent::ReplicaRemoved { group, change_index });
                if let Some(inner) = self.me() {
                    inner.forget_removed(group, replica);
                }
            }
            Notice::Panicked { message } => self.failed(group, format!("its core panicked: {message}")),
            Notice::ForeignUid { node, theirs } => {
                self.metrics.count("mraft_messages_refused_total", "reason", "foreign_uid");
                tracing::warn!(%group, %node, %theirs, "a node speaks of another founding of this group; start it with join");
            }
            _ => {}
        }
    }

    fn failed(&self, group: GroupId, reason: String) {
        tracing::error!(%group, "this replica stopped: {reason}; the other groups go on");
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).insert(group, reason.clone());
        self.lookups_mut().remove(&group);
        if let Some(known) = self.leaders_mut().get_mut(&group) {
            known.leader = None;
        }
        self.tell(&HostEvent::ReplicaFailed { group, reason });
    }

    fn log_health(&self, health: &LogHealth) {
        let (trouble, event) = match health {
            LogHealth::Well => (None, HostEvent::LogFull(false)),
            LogHealth::Full => (
                Some(
                    "the disk is full: no proposals are taken until there is room for a log segment"
                        .to_owned(),
                ),
                HostEvent::LogFull(true),
            ),
            LogHealth::Failed(error) => {
                let reason = error.to_string();
                (Some(format!("{reason}; every replica of this node stopped")), HostEvent::LogFailed(reason))
            }
        };
        match &trouble {
            Some(trouble) => tracing::error!("{trouble}"),
            None => tracing::info!("the log has room again"),
        }
        *self.disk_trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        if matches!(health, LogHealth::Failed(_)) {
            // The reason is there before anybody is told that there is one.
            self.stalled.store(true, Ordering::Relaxed);
            self.lead_and_show_nothing();
        }
        self.tell(&event);
    }

    fn log_done(&self, token: u64) {
        if let Some(waiting) = self.log_waits.lock().unwrap_or_else(PoisonError::into_inner).remove(&token) {
            let _ = waiting.try_send(());
        }
    }
}

impl Inner {
    /// Learns the members' addresses; has the nodes of new learners start their replicas, if this node leads.
    fn membership_committed(&self, group: GroupId, membership: &Membership) {
        self.memberships().insert(group, membership.clone());
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(peers) = peers else { return };
        peers.learn(membership);
        if !membership.retired_nodes.is_empty() {
            peers.retire(&membership.retired_nodes);
        }
        if self.leads(group) {
            self.expect_learners(group, membership);
        }
    }
}
