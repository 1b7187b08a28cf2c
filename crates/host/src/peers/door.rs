// SPDX-License-Identifier: Apache-2.0

//! What other nodes bring in: who may talk at all, messages for the groups, requests, snapshots.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mraft_engine::event::NodeEvent;
use mraft_transport::{Connected, Disconnected, Handler, Received, Refusal, SnapshotReceiver};
use mraft_types::{CondemnedReason, NodeId};
use mraft_wire::{
    Accepted, DecodeError, Hello, HelloRefused, Purpose, SnapshotHeader, TopologyRelation, TopologyStamp,
    check,
};

use super::snapshots::Incoming;
use super::{OpenQuestion, Peers, Reply, RequestHandler, STRANGERS_MAX};
use crate::apply_worker::ApplyMail;
use crate::core::{Input, Look};
use crate::events::HostEvent;
use crate::frames::{FromHost, decode};
use crate::identity::Identity;
use crate::meta::{GroupMeta, check_level};
use crate::node_host::Inner;
use crate::peer_table::PeerTable;
use crate::questions;

/// Nodes whose refusal is remembered: as many as the table of nodes has rows.
const REFUSALS_MAX: usize = 4096;

/// The transport's view of the host.
pub(super) struct Door {
    pub(super) inner: Weak<Inner>,
    pub(super) identity: Identity,
    pub(super) table: PeerTable,
    /// What the hello says of this node's routing table (rule M10).
    pub(super) topology: Mutex<TopologyStamp>,
    /// By node, why the last connection was refused; only of nodes that are or were peers, so no more than there are of them.
    pub(super) refusals: Mutex<BTreeMap<NodeId, String>>,
    /// By node, that its routing table differs although the version is the same (rule M10); only of nodes in the table of nodes.
    pub(super) conflicts: Mutex<BTreeMap<NodeId, String>>,
    /// By node, how many of its questions are not answered yet; only of nodes that were connected.
    pub(super) open: Mutex<BTreeMap<NodeId, Arc<AtomicUsize>>>,
    pub(super) peers: Mutex<Weak<Peers>>,
    pub(super) requests: Option<Arc<dyn RequestHandler>>,
}

impl Door {
    /// A node that this one knew nothing of dialed it, as a leader does that added this node: answers go to the address that it gives.
    fn answer_at(&self, node: NodeId, raft_address: &str) {
        let Some(peers) = self.peers() else { return };
        if peers.transport.is_peer(node) {
            return;
        }
        if let Err(error) = peers.transport.set_peer(node, raft_address) {
            tracing::warn!(%node, raft_address, "a node gives an address that cannot be used: {error}");
        }
    }

    /// How far the log is; nothing is said of it while the host closes, and then what this start found counts.
    fn durable_seq(&self) -> u64 {
        let shared = self.inner.upgrade().and_then(|inner| inner.shared().ok());
        shared.map_or(0, |shared| shared.durable_seq())
    }

    /// Both have a routing table of this version, and they differ: only a hint, so never a refusal (rule M10); but both cannot be right.
    fn compare_topology(&self, theirs: &Hello, relation: TopologyRelation) {
        let (node, version) = (theirs.node, theirs.topology.version);
        let mut conflicts = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if relation != TopologyRelation::Diverged {
            conflicts.remove(&node);
            return;
        }
        let warning = format!(
            "the routing table of node {node} differs from this node's although both have version {version}: compare initial_members \
             of both"
        );
        // Peers dial again and again; the same need not be told again.
        if conflicts.insert(node, warning.clone()).as_ref() == Some(&warning) {
            return;
        }
        drop(conflicts);
        tracing::error!("{warning}");
        if let Some(inner) = self.inner.upgrade() {
            inner.metrics().count("mraft_topology_conflicts_total", "node", node.to_string());
            inner.tell(&HostEvent::TopologyConflict { node, version });
        }
    }

    fn peers(&self) -> Option<Arc<Peers>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    pub(super) fn handle_other(&self, inner: &Arc<Inner>, from: NodeId, other: FromHost) {
        match other {
            FromHost::Beat(beat) => {
                self.table.heard(from, beat.durable_seq);
                if let Some(peers) = self.peers() {
                    peers
                        .disk_ages_ms
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(from, beat.disk_age_ms);
                }
                if let Ok(shared) = inner.shared() {
                    let event = NodeEvent::PeerClock { node: from, unix_ms: beat.unix_ms };
                    shared.broadcast(|| Input::Node(event));
                }
            }
            FromHost::Response(response) => {
                let asked = self.peers().and_then(|peers| peers.asked().remove(&response.id));
                // An answer from another node than the one asked is nobody's.
                if let Some(asked) = asked.filter(|asked| asked.node == from) {
                    (asked.answered)(Ok(response.body));
                }
            }
            FromHost::Request(request) => {
                let of_peer =
                    self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default().clone();
                let Some(open) = OpenQuestion::begin(&of_peer) else {
                    inner.metrics().count("mraft_messages_refused_total", "reason", "too_many_questions");
                    return;
                };
                let reply = Reply {
                    peers: self.peers().as_ref().map(Arc::downgrade).unwrap_or_default(),
                    to: from,
                    id: request.id,
                    _open: open,
                };
                if let Some((request, reply)) = questions::answer(inner, from, request, reply)
                    && let Some(requests) = &self.requests
                {
                    requests.request(from, request, reply);
                }
            }
        }
    }
}

impl Handler for Door {
    fn hello(&self, peer: NodeId, purpose: Purpose) -> Hello {
        let topology = *self.topology.lock().unwrap_or_else(PoisonError::into_inner);
        self.table.hello(&self.identity, peer, purpose, self.durable_seq(), topology)
    }

    fn check_hello(
        &self,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<NodeId>,
    ) -> Result<Accepted, HelloRefused> {
        let accepted = check(ours, theirs, &self.table.expected(theirs.node, dialed))
            .inspect_err(|refused| self.note_claim(theirs, refused))?;
        if dialed.is_none() && self.peers().is_some_and(|peers| !peers.takes_in(theirs.node)) {
            tracing::warn!(node = %theirs.node, limit = STRANGERS_MAX, "too many nodes that are in no group here");
            return Err(HelloRefused::UnknownNode { node: theirs.node });
        }
        self.tell_disputes(&accepted);
        match self.table.accept(theirs.node, theirs.record(), &accepted) {
            Ok(()) => {
                self.compare_topology(theirs, accepted.topology);
                if dialed.is_none() {
                    self.answer_at(theirs.node, &theirs.raft_address);
                }
                Ok(accepted)
            }
            Err(error) => {
                // Without the row on disk the connection must not be used (rule M6).
                tracing::error!(node = %theirs.node, "what the peer said cannot be remembered: {error}");
                Err(HelloRefused::Conflicting { node: theirs.node })
            }
        }
    }

    fn frame(&self, from: NodeId, frame: Received) -> Result<(), DecodeError> {
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        let (mut inputs, others) = decode(frame.payload(), from, inner.config.node)?;
        if frame.is_over_limit() {
            let before = inputs.len();
            inputs.retain(|(_, input)| !carries_entries(input));
            for _ in inputs.len()..before {
                inner.metrics().count("mraft_messages_refused_total", "reason", "receive_queue_full");
            }
        }
        if let Ok(shared) = inner.shared() {
            shared.deliver_frame(inputs, || {
                let permit = frame.permit();
                Input::Look(Look(Box::new(move |_| drop(permit))))
            });
        }
        for other in others {
            self.handle_other(&inner, from, other);
        }
        Ok(())
    }

    fn connected(&self, node: NodeId, _connected: &Connected) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        if let Some(inner) = self.inner.upgrade() {
            tracing::debug!(%node, "connected");
            inner.tell(&HostEvent::PeerConnected(node));
        }
    }

    fn disconnected(&self, node: NodeId, disconnected: &Disconnected) {
        let Some(inner) = self.inner.upgrade() else { return };
        tracing::debug!(%node, "disconnected: {}", disconnected.detail);
        if let Some(peers) = self.peers() {
            peers.give_up(|asked| asked.node == node);
        }
        if let Ok(shared) = inner.shared() {
            shared.broadcast(|| Input::Node(NodeEvent::PeerLost { node }));
        }
        inner.tell(&HostEvent::PeerDisconnected(node));
    }

    fn suspected(&self, node: NodeId) {
        let Some(inner) = self.inner.upgrade() else { return };
        tracing::info!(%node, "the node's process is taken for dead: its groups elect new leaders");
        if let Ok(shared) = inner.shared() {
            shared.broadcast(|| Input::Node(NodeEvent::NodeSuspected { node }));
        }
        inner.tell(&HostEvent::PeerSuspected(node));
    }

    fn refused(&self, refusal: &Refusal) {
        let is_lacking = self.identity.lacks_what_was_done(&refusal.reason);
        if is_lacking {
            self.table.note_outdated();
            if let Some(inner) = self.inner.upgrade() {
                inner.condemn_all(CondemnedReason::OldCopy);
            }
        }
        let reason = self.refused_because(refusal);
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        // The dialling repeats itself; the log line need not.
        if refusals.get(&refusal.node) != Some(&reason) {
            tracing::error!(node = %refusal.node, address = refusal.address, "{reason}");
            if is_lacking {
                tracing::error!(
                    by = %refusal.node,
                    "this directory lacks what was done in its name: its replicas forgot what they had promised and are condemned; \
                     remove them from their groups, and begin with an empty directory (docs/operate/identity.md)"
                );
            }
            if refusals.len() < REFUSALS_MAX {
                refusals.insert(refusal.node, reason);
            }
        }
    }

    fn snapshot_begin(&self, header: SnapshotHeader) -> Result<Box<dyn SnapshotReceiver>, String> {
        let inner = self.inner.upgrade().ok_or("the node is closing")?;
        let record = inner.groups.get().records.get(&header.group).cloned().ok_or("the group is not here")?;
        if inner.is_stopped(header.group) {
            return Err("the group is stopped here".to_owned());
        }
        if record.replica != header.to || record.uid != header.uid {
            return Err(format!(
                "the replica here is {} of {}, not {} of {}",
                record.replica, record.uid, header.to, header.uid
            ));
        }
        inner.has_log_room()?;
        let meta = GroupMeta::decode(&header.meta).map_err(|error| error.to_string())?;
        if meta.log_start() != header.start || meta.group != header.group || meta.uid != header.uid {
            return Err("the header does not describe its own meta".to_owned());
        }
        if let Err(reason) = check_level(meta.feature_level) {
            inner.stop_failed(header.group, record.replica, &reason);
            return Err(reason);
        }
        let directory = inner.next_staged_directory();
        let (reply, stage) = sync_channel(1);
        let mail = ApplyMail::Stage { group: header.group, directory, meta: header.meta.to_vec(), reply };
        inner.mail(header.group, mail).map_err(|error| error.to_string())?;
        let (of, stage) =
            stage.recv_timeout(Duration::from_secs(30)).map_err(|_| "the state machine is busy")??;
        Ok(Box::new(Incoming {
            inner: Arc::downgrade(&inner),
            of,
            from: header.from,
            to: header.to,
            term: header.term,
            start: header.start,
            directory,
            stage: Some(stage),
        }))
    }
}

fn carries_entries(input: &Input) -> bool {
    matches!(
        input,
        Input::Group(_, mraft_engine::event::Event::Message { message, .. })
            if matches!(&message.body, mraft_raft::Body::Append { entries, .. } if !entries.is_empty())
    )
}
