// SPDX-License-Identifier: Apache-2.0

//! What a host tells those who listen. A listener that does not keep up loses events, counted, and never slows a group down.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use mraft_types::{CondemnedReason, GroupId, Index, Membership, NodeId, ReplicaId, Term};

/// Events that wait for one listener; enough for an election of every group of a large node.
const EVENTS_WAITING_MAX: usize = 16 << 10;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostEvent {
    /// Who leads a group changed, as far as this node knows.
    LeaderChanged {
        /// The group.
        group: GroupId,
        /// The leader.
        leader: Option<ReplicaId>,
        /// The term.
        term: Term,
    },
    /// A membership is committed.
    MembershipChanged {
        /// The group.
        group: GroupId,
        /// The membership.
        membership: Membership,
    },
    /// The replica here was removed from its group.
    ReplicaRemoved {
        /// The group.
        group: GroupId,
        /// ConfigChangeID of the membership without it.
        change_index: Index,
    },
    /// The replica here may never take part again.
    ReplicaCondemned {
        /// The group.
        group: GroupId,
        /// Why.
        reason: CondemnedReason,
    },
    /// The replicas of a group that is led here have different states (rule E8).
    StateDiffers {
        /// The group.
        group: GroupId,
        /// At this entry.
        index: Index,
        /// Who differs from the majority; `None` when there is no majority, and the group does not serve.
        replica: Option<ReplicaId>,
    },
    /// The replica here stopped because of an error.
    ReplicaFailed {
        /// The group.
        group: GroupId,
        /// What happened.
        reason: String,
    },
    /// A connection to a peer is up.
    PeerConnected(NodeId),
    /// A connection to a peer is down.
    PeerDisconnected(NodeId),
    /// A peer's process is taken for dead (rule T5).
    PeerSuspected(NodeId),
    /// An operator had what was known of a node id cleared (rule M6).
    ConflictCleared(NodeId),
    /// A peer's routing table differs from this node's although both have this version (rule M10).
    TopologyConflict {
        /// The peer.
        node: NodeId,
        /// The version.
        version: u64,
    },
    /// A snapshot arrived whole and is being installed.
    SnapshotReceived {
        /// The group.
        group: GroupId,
        /// What it covers.
        index: Index,
    },
    /// The log has no room, or has room again.
    LogFull(bool),
    /// The log failed: every replica of this node stopped.
    LogFailed(String),
}

/// Where events go.
#[derive(Debug, Default)]
pub(crate) struct Events {
    listeners: Mutex<Vec<(SyncSender<HostEvent>, Arc<AtomicU64>)>>,
}

/// A listener's end.
#[derive(Debug)]
pub struct EventReceiver {
    events: Receiver<HostEvent>,
    lost: Arc<AtomicU64>,
}

impl EventReceiver {
    /// The next event that is there.
    pub fn try_next(&self) -> Option<HostEvent> {
        self.events.try_recv().ok()
    }

    /// Waits for the next event; `None` when the time is up or the host is gone.
    pub fn next_within(&self, timeout: std::time::Duration) -> Option<HostEvent> {
        self.events.recv_timeout(timeout).ok()
    }

    /// Events that were lost because this listener did not keep up.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Events {
    /// A listener that is told `first` before anything else.
    pub(crate) fn listen(&self, first: impl Iterator<Item = HostEvent>) -> EventReceiver {
        let (sender, events) = sync_channel(EVENTS_WAITING_MAX);
        let unsent = first.filter(|event| sender.try_send(event.clone()).is_err()).count();
        let lost = Arc::new(AtomicU64::new(unsent as u64));
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push((sender, Arc::clone(&lost)));
        EventReceiver { events, lost }
    }

    pub(crate) fn tell(&self, event: &HostEvent) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).retain(
            |(listener, lost)| match listener.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                    true
                }
                Err(TrySendError::Disconnected(_)) => false,
            },
        );
    }
}
