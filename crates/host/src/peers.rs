// SPDX-License-Identifier: Apache-2.0

//! The other nodes: who they are, messages to them, questions and answers between hosts.
//!
//! What comes in from them is in `door.rs`, snapshots in either direction are in `snapshots.rs`, and node ids
//! that two directories claim are in `conflicts.rs`.

mod conflicts;
mod door;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mraft_transport::{Handler, Listening, Transport, is_exposed_without_tls};
use mraft_types::{Membership, NodeId, Payload};
use mraft_wire::{FrameBuilder, HostBeat, Request, RequestKind, Response, SnapshotHeader, TopologyStamp};

pub use self::conflicts::{ClearedConflict, InstanceConflict};
use self::door::Door;
use self::snapshots::Source;
use crate::apply_worker::SnapshotSend;
use crate::core::{Envelope, HashReport};
use crate::error::HostError;
use crate::frames::encode;
use crate::node_host::Inner;
use crate::peer_table::PeerTable;
use crate::runtime::Outbox;

/// Questions that wait for an answer; one more is refused at once. So no peer has more of them open here: what it asks beyond that is not
/// heard.
const ASKED_MAX: usize = 1 << 16;
/// Peers that only dialed this node and are in no group that it knows: each costs a thread that dials back. More than a deployment adds
/// at once; one that cannot be reached makes room for the next.
const STRANGERS_MAX: usize = 64;
/// How long a close waits for the disk to take how far the peers were: forgetting that only narrows what rule M7 can notice.
const CLOSE_WRITE_WAIT: Duration = Duration::from_secs(2);

/// Answers what other hosts ask, on behalf of the program around this one.
pub trait RequestHandler: Send + Sync {
    /// Called on a thread of the transport: it must not block. The answer may be given later, from any thread.
    fn request(&self, from: NodeId, request: Request, reply: Reply);
}

/// Where the answer to a [`Request`] goes; dropped without an answer, the asker runs into its deadline.
pub struct Reply {
    peers: Weak<Peers>,
    to: NodeId,
    id: u64,
    _open: OpenQuestion,
}

/// A question that this node has not answered, counted as long as this is there.
struct OpenQuestion(Arc<AtomicUsize>);

impl OpenQuestion {
    /// `None` if as many of that peer are open as it may have.
    fn begin(of_peer: &Arc<AtomicUsize>) -> Option<OpenQuestion> {
        let question = OpenQuestion(Arc::clone(of_peer));
        (of_peer.fetch_add(1, Ordering::Relaxed) < ASKED_MAX).then_some(question)
    }
}

impl Drop for OpenQuestion {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reply {
    /// Answers.
    pub fn send(self, body: Payload) {
        if let Some(peers) = self.peers.upgrade() {
            let response = Response { id: self.id, body };
            peers.send_packet(self.to, |builder| builder.push_response(&response).is_ok());
        }
    }
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AskFailed {
    /// No byte of it left this node: it may be asked again, here or elsewhere (rule E4).
    NotSent,
    /// It was sent, and what became of it is not known.
    Lost,
}

impl fmt::Display for AskFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskFailed::NotSent => "the node is not connected",
            AskFailed::Lost => "no answer came in time",
        })
    }
}

type Answered = Box<dyn FnOnce(Result<Payload, AskFailed>) + Send>;

struct Asked {
    node: NodeId,
    until: Instant,
    answered: Answered,
}

/// The other nodes.
pub struct Peers {
    pub(crate) inner: Weak<Inner>,
    own: NodeId,
    transport: Transport,
    door: Arc<Door>,
    asked: Mutex<BTreeMap<u64, Asked>>,
    next_ask: AtomicU64,
    /// For how long each peer's disk keeps its callers waiting, in milliseconds, as it last said (rule T1).
    disk_ages_ms: Mutex<BTreeMap<NodeId, u64>>,
    /// Peers for no other reason than that they dialed; at most [`STRANGERS_MAX`].
    strangers: Mutex<BTreeSet<NodeId>>,
    warnings: Vec<String>,
}

/// How another node stands with this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The node.
    pub node: NodeId,
    /// Where it is dialled.
    pub raft_address: String,
    /// Whether frames can be sent to it.
    pub is_connected: bool,
    /// Why the last attempt to connect failed; with both values, if it was refused. `None` for who is connected.
    pub refusal: Option<String>,
}

impl Peers {
    pub(crate) fn start(
        inner: &Arc<Inner>,
        table: PeerTable,
        listening: Listening,
        requests: Option<Arc<dyn RequestHandler>>,
    ) -> Result<Arc<Peers>, HostError> {
        let mut warnings = Vec::new();
        let listen_address = crate::network::listen_address(&inner.config);
        if is_exposed_without_tls(listen_address, inner.config.tls.is_some()) {
            let warning = format!(
                "{listen_address} is reachable from other machines without TLS: whoever reaches it can read and write everything; \
                 set mutual_tls with ca_file, cert_file and key_file"
            );
            tracing::warn!("{warning}");
            warnings.push(warning);
        }
        let door = Arc::new(Door {
            inner: Arc::downgrade(inner),
            identity: inner.identity.clone(),
            table,
            topology: Mutex::default(),
            refusals: Mutex::default(),
            conflicts: Mutex::default(),
            open: Mutex::default(),
            peers: Mutex::new(Weak::new()),
            requests,
        });
        let transport = Transport::start_on(listening, Arc::clone(&door) as Arc<dyn Handler>)
            .map_err(|error| HostError::Network(error.to_string()))?;
        let peers = Arc::new(Peers {
            inner: Arc::downgrade(inner),
            own: inner.config.node,
            transport,
            door: Arc::clone(&door),
            asked: Mutex::default(),
            next_ask: AtomicU64::new(1),
            disk_ages_ms: Mutex::default(),
            strangers: Mutex::default(),
            warnings,
        });
        *door.peers.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&peers);
        Ok(peers)
    }

    /// Makes a group's members peers.
    pub(crate) fn learn(&self, membership: &Membership) {
        for (id, member) in membership.members.iter().filter(|(id, _)| id.node() != self.own) {
            self.strangers().remove(&id.node());
            if let Err(error) = self.set_peer(id.node(), &member.raft_address) {
                tracing::warn!(node = %id.node(), address = member.raft_address, "cannot reach a member: {error}");
            }
        }
    }

    /// Nodes that a group's committed membership calls gone for good are refused from now on (row S13).
    pub(crate) fn retire(&self, nodes: &BTreeSet<NodeId>) {
        for node in nodes {
            self.transport.remove_peer(*node);
            self.strangers().remove(node);
        }
        if self.door.table.has_retired(nodes) {
            return;
        }
        let Some(shared) = self.inner.upgrade().and_then(|inner| inner.shared().ok()) else { return };
        let (door, nodes) = (Arc::clone(&self.door), nodes.clone());
        // The caller is a step worker, which waits for no disk.
        let begun = shared.chore("mraft-retire", move || {
            if let Err(error) = door.table.retire(&nodes) {
                tracing::error!("cannot remember which nodes were removed for good: {error}");
            }
        });
        if let Err(error) = begun {
            tracing::error!("cannot remember which nodes were removed for good: {error}");
        }
    }

    /// Makes a node a peer that is in no group here yet.
    pub fn add(&self, node: NodeId, raft_address: &str) -> Result<(), HostError> {
        self.strangers().remove(&node);
        self.set_peer(node, raft_address)
    }

    /// Connects to a node anew, so that both hear what the other's hello says by now.
    pub fn reconnect(&self, node: NodeId) -> Result<(), HostError> {
        match self.transport.address(node) {
            Some(address) => {
                self.transport.remove_peer(node);
                self.set_peer(node, &address)
            }
            None => Err(HostError::Network(format!("node {node} is no peer"))),
        }
    }

    /// Its hello has shown where a node is that is connected, and its address is part of who it is (row S10): whoever says another one is
    /// mistaken.
    fn set_peer(&self, node: NodeId, raft_address: &str) -> Result<(), HostError> {
        match self.connected_address(node).filter(|known| known != raft_address) {
            Some(known) => Err(HostError::Network(format!(
                "node {node} is connected at {known}, and that stays: whoever put it at {raft_address} should remove it there and add it at \
                 the right address"
            ))),
            None => self
                .transport
                .set_peer(node, raft_address)
                .map_err(|error| HostError::Network(error.to_string())),
        }
    }

    /// Where a node is, if there is a connection to it.
    pub(crate) fn connected_address(&self, node: NodeId) -> Option<String> {
        self.transport.address(node).filter(|_| self.transport.is_connected(node))
    }

    /// All other nodes that this one dials.
    pub fn status(&self) -> Vec<PeerStatus> {
        let refusals = self.door.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |peer: mraft_transport::PeerStats| PeerStatus {
            node: peer.node,
            refusal: refusals.get(&peer.node).filter(|_| !peer.is_connected).cloned().or(peer.failure),
            raft_address: peer.address,
            is_connected: peer.is_connected,
        };
        self.transport.stats().peers.into_iter().map(of).collect()
    }

    /// What this node's hello says of its routing table from now on (rule M10): a hint, compared and never a reason to refuse.
    pub fn set_topology(&self, version: u64, hash: [u8; 16]) {
        *self.door.topology.lock().unwrap_or_else(PoisonError::into_inner) = TopologyStamp { version, hash };
    }

    /// Whether frames can be sent to a node at this moment.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.transport.is_connected(node)
    }

    /// Things an operator should know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let refusals = self.door.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let conflicts = self.door.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        self.warnings.iter().chain(refusals.values()).chain(conflicts.values()).cloned().collect()
    }

    /// Asks another host; `answered` is called exactly once, on a thread of this one: it must not block.
    pub fn ask(
        &self,
        node: NodeId,
        kind: RequestKind,
        hops: u8,
        within: Duration,
        body: Payload,
        answered: impl FnOnce(Result<Payload, AskFailed>) + Send + 'static,
    ) {
        let id = self.next_ask.fetch_add(1, Ordering::Relaxed);
        {
            let mut asked = self.asked();
            if asked.len() >= ASKED_MAX {
                drop(asked);
                return answered(Err(AskFailed::NotSent));
            }
            asked.insert(id, Asked { node, until: Instant::now() + within, answered: Box::new(answered) });
        }
        let remaining_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let request = Request { id, kind, hops, remaining_ms, body };
        let sent = self.transport.is_connected(node)
            && self.send_packet(node, |builder| builder.push_request(&request).is_ok());
        if !sent {
            let asked = self.asked().remove(&id);
            if let Some(asked) = asked {
                (asked.answered)(Err(AskFailed::NotSent));
            }
        }
    }

    /// For how long a node's disk keeps its callers waiting, in milliseconds, as it last said, if it is connected (rule T1).
    pub(crate) fn disk_waited_ms(&self, node: NodeId) -> Option<u64> {
        let ages = self.disk_ages_ms.lock().unwrap_or_else(PoisonError::into_inner);
        ages.get(&node).copied().filter(|_| self.transport.is_connected(node))
    }

    /// Ends all connections without waiting for a thread or a disk (rule T1).
    pub(crate) fn disconnect(&self) {
        self.transport.begin_close();
        self.give_up(|_| true);
    }

    /// Ends all connections and their threads. How far the peers were is written down unless the disk is known to fail.
    pub(crate) fn close(&self, disk_is_well: bool) {
        self.disconnect();
        self.transport.close();
        if disk_is_well {
            self.write_table();
        }
        // A thread of the transport may have asked at the last moment.
        self.give_up(|_| true);
    }

    /// On a thread of its own, because nobody knows yet of a disk that hangs from now on.
    fn write_table(&self) {
        let (done, written) = sync_channel(1);
        // The host is held with the door, and the locks of its directories with the host, as long as the file may change.
        let (door, inner) = (Arc::clone(&self.door), self.inner.upgrade());
        let begun = crate::runtime::detached("mraft-peers", move || {
            // Nobody waits any more when the time is up.
            let _ = done.try_send(door.table.write());
            drop(inner);
        });
        let failure = match begun {
            Err(error) => error.to_string(),
            Ok(()) => match written.recv_timeout(CLOSE_WRITE_WAIT) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the disk does not answer".to_owned(),
            },
        };
        tracing::warn!("cannot write down how far the peers were: {failure}");
    }

    /// What the transport counted, for metrics.
    pub(crate) fn write_prometheus(&self, out: &mut String) {
        crate::network::write_prometheus(&self.transport.stats(), out);
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a node that dials to be dialed back: it is a peer already, or one more stranger. Whether there is any.
    fn takes_in(&self, node: NodeId) -> bool {
        let mut strangers = self.strangers();
        if self.transport.is_peer(node) || strangers.contains(&node) {
            return true;
        }
        if strangers.len() >= STRANGERS_MAX {
            let away = |node: &&NodeId| !self.transport.is_connected(**node);
            let Some(gone) = strangers.iter().find(away).copied() else { return false };
            strangers.remove(&gone);
            self.transport.remove_peer(gone);
        }
        strangers.insert(node)
    }

    fn asked(&self) -> MutexGuard<'_, BTreeMap<u64, Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends questions to a node whose connection broke, and those whose time is up.
    fn give_up(&self, is_over: impl Fn(&Asked) -> bool) {
        let over: Vec<Asked> = {
            let mut asked = self.asked();
            let ids: Vec<u64> = asked.iter().filter(|(_, asked)| is_over(asked)).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| asked.remove(id)).collect()
        };
        for asked in over {
            (asked.answered)(Err(AskFailed::Lost));
        }
    }

    fn send_packet(&self, node: NodeId, push: impl FnOnce(&mut FrameBuilder) -> bool) -> bool {
        let mut builder = FrameBuilder::new(self.own, node);
        push(&mut builder) && builder.finish().is_some_and(|frame| self.transport.send(node, frame).is_ok())
    }
}

impl Outbox for Peers {
    fn send(&self, node: NodeId, messages: Vec<Envelope>) {
        let left_out = encode(self.own, node, &messages, |frame| {
            // A frame that is dropped here is counted by the transport and repeated by the core.
            let _ = self.transport.send(node, frame);
        });
        if left_out > 0
            && let Some(inner) = self.inner.upgrade()
        {
            inner.metrics().count("mraft_messages_unsendable_total", "reason", "too_large");
        }
    }

    fn report(&self, report: HashReport) {
        self.tell_hash(&report);
    }

    fn stream(&self, send: SnapshotSend) -> bool {
        let SnapshotSend { of, order, meta, view } = send;
        let group = of.group;
        let header = SnapshotHeader {
            group,
            uid: order.uid,
            from: order.from,
            to: order.to,
            term: order.term,
            start: meta.log_start(),
            format: 1,
            meta: Payload::from(meta.encode()),
        };
        let (done, ended) = sync_channel(1);
        let to = order.to.node();
        if !self.transport.is_connected(to) {
            // Everybody was told that the node is away; the core asks again when it answers.
            tracing::debug!(%group, to = %order.to, "a snapshot is needed by a node that is not connected");
            return false;
        }
        // When the host closes, nobody waits for the end any more.
        let done = Box::new(move |result| _ = done.try_send(result));
        let source = Source { view, inner: Weak::clone(&self.inner), of, to: order.to };
        let begun = self.transport.send_snapshot(to, header, Box::new(source), done);
        let result = match begun {
            Ok(()) => ended.recv().unwrap_or(Err(mraft_transport::SnapshotFailed::Closing)),
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            tracing::warn!(%group, to = %order.to, "a snapshot was not delivered: {error}; it is tried again");
        }
        let what = if result.is_ok() { "sent" } else { "not_delivered" };
        if let Some(inner) = self.inner.upgrade() {
            inner.metrics().count("mraft_snapshots_total", "what", what);
        }
        result.is_ok()
    }

    fn beat(&self, beat: HostBeat) {
        let nodes: Vec<NodeId> = self.transport.stats().peers.iter().map(|peer| peer.node).collect();
        for node in nodes {
            self.send_packet(node, |builder| builder.push_host_beat(&beat).is_ok());
        }
        let now = Instant::now();
        self.give_up(|asked| asked.until <= now);
    }
}

#[cfg(test)]
mod tests;
