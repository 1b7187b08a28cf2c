// SPDX-License-Identifier: Apache-2.0

//! The other nodes: messages to and from them, questions and answers between hosts, snapshots, and who may talk at all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use mraft_engine::event::NodeEvent;
use mraft_engine::machine::{MachineError, SnapshotStage, SnapshotView};
use mraft_transport::{
    Connected, Disconnected, Handler, Listening, Received, Refusal, SnapshotReceiver, SnapshotSource,
    Transport, is_exposed_without_tls,
};
use mraft_types::{CondemnedReason, GroupId, LogStart, Membership, NodeId, Payload, ReplicaId, Term};
use mraft_wire::{
    Accepted, DecodeError, FrameBuilder, Hello, HelloRefused, HostBeat, Purpose, Request, RequestKind,
    Response, SNAPSHOT_CHUNK_BYTES_TARGET, SnapshotHeader, TopologyRelation, TopologyStamp, VersionRange,
    WIRE_VERSION, check,
};

use crate::apply_worker::{ApplyMail, SnapshotSend};
use crate::core::{Envelope, HashReport, Input, Look};
use crate::error::HostError;
use crate::events::HostEvent;
use crate::frames::{FromHost, decode, encode};
use crate::identity::Identity;
use crate::meta::{FEATURE_LEVEL, GroupMeta, check_level};
use crate::node_host::Inner;
use crate::peer_table::PeerTable;
use crate::questions;
use crate::runtime::Outbox;

/// Questions that wait for an answer; one more is refused at once.
const ASKED_MAX: usize = 1 << 16;
/// Nodes whose refusal is remembered: as many as the table of nodes has rows.
const REFUSALS_MAX: usize = 4096;
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
    /// Age of each peer's oldest unfinished log write, as it last said (rule T1).
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
    /// Why the last attempt to connect was refused, with both values, if it was.
    pub refusal: Option<String>,
}

/// The transport's view of the host.
struct Door {
    inner: Weak<Inner>,
    identity: Identity,
    table: PeerTable,
    /// See [`Door::durable_seq`].
    durable_seq: AtomicU64,
    /// What the hello says of this node's routing table (rule M10).
    topology: Mutex<TopologyStamp>,
    /// By node, why the last connection was refused; only of nodes that are or were peers, so no more than there are of them.
    refusals: Mutex<BTreeMap<NodeId, String>>,
    /// By node, that its routing table differs although the version is the same (rule M10); only of nodes in the table of nodes.
    conflicts: Mutex<BTreeMap<NodeId, String>>,
    peers: Mutex<Weak<Peers>>,
    requests: Option<Arc<dyn RequestHandler>>,
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
            durable_seq: AtomicU64::new(inner.shared()?.durable_seq()),
            topology: Mutex::default(),
            refusals: Mutex::default(),
            conflicts: Mutex::default(),
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
            if let Err(error) = self.transport.set_peer(id.node(), &member.raft_address) {
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

    /// Forgets which directory a node id is and how far it was, durably. The caller has seen to it that no group lists the node.
    pub(crate) fn forget(&self, node: NodeId) -> Result<(), HostError> {
        self.transport.remove_peer(node);
        self.door.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        self.door.table.forget(node)
    }

    /// Makes a node a peer that is in no group here yet.
    pub fn add(&self, node: NodeId, raft_address: &str) -> Result<(), HostError> {
        self.strangers().remove(&node);
        self.transport.set_peer(node, raft_address).map_err(|error| HostError::Network(error.to_string()))
    }

    /// All other nodes that this one dials.
    pub fn status(&self) -> Vec<PeerStatus> {
        let refusals = self.door.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |peer: mraft_transport::PeerStats| PeerStatus {
            node: peer.node,
            refusal: refusals.get(&peer.node).filter(|_| !peer.is_connected).cloned(),
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

    /// The peer among `nodes` whose disk is fastest, if its age is below `below_ms` (rule T1).
    pub(crate) fn fastest(&self, nodes: impl Iterator<Item = NodeId>, below_ms: u64) -> Option<NodeId> {
        let ages = self.disk_ages_ms.lock().unwrap_or_else(PoisonError::into_inner);
        nodes
            .filter(|node| self.transport.is_connected(*node))
            .filter_map(|node| Some((*ages.get(&node)?, node)))
            .filter(|(age, _)| *age < below_ms)
            .min()
            .map(|(_, node)| node)
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
        let begun = std::thread::Builder::new().name("mraft-peers".to_owned()).spawn(move || {
            // Nobody waits any more when the time is up.
            let _ = done.try_send(door.table.write());
            drop(inner);
        });
        let failure = match begun {
            Err(error) => error.to_string(),
            Ok(_) => match written.recv_timeout(CLOSE_WRITE_WAIT) {
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
        let SnapshotSend { group, order, meta, view } = send;
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
        let source = Source { view, inner: Weak::clone(&self.inner), group, to: order.to };
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

/// A piece of a user's machine on a thread that serves all groups: a panic ends this snapshot and nothing else (rule T4).
fn unpanicked<T>(part: impl FnOnce() -> Result<T, MachineError>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(part)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the state machine panicked".to_owned()),
    }
}

struct Source {
    view: Box<dyn SnapshotView>,
    inner: Weak<Inner>,
    group: GroupId,
    to: ReplicaId,
}

impl SnapshotSource for Source {
    fn next_chunk(&mut self) -> Result<Option<Payload>, String> {
        // The transport asks for a chunk when the one before it has left.
        if let Some(shared) = self.inner.upgrade().and_then(|inner| inner.shared().ok()) {
            shared.snapshot_progress(self.group, self.to);
        }
        let mut chunk = Vec::new();
        match unpanicked(|| self.view.next_chunk(SNAPSHOT_CHUNK_BYTES_TARGET, &mut chunk))? {
            true => Ok(Some(Payload::from(chunk))),
            false => Ok(None),
        }
    }
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

    /// How far the log is, as last seen: while the host closes it is not there to be asked, and a number below what the peers remember
    /// would call this directory an old copy (rule M7).
    fn durable_seq(&self) -> u64 {
        let shared = self.inner.upgrade().and_then(|inner| inner.shared().ok());
        self.durable_seq.fetch_max(shared.map_or(0, |shared| shared.durable_seq()), Ordering::Relaxed);
        self.durable_seq.load(Ordering::Relaxed)
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

    fn handle_other(&self, inner: &Arc<Inner>, from: NodeId, other: FromHost) {
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
                let reply = Reply {
                    peers: self.peers().as_ref().map(Arc::downgrade).unwrap_or_default(),
                    to: from,
                    id: request.id,
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
        let Identity { deployment, node, instance, boot_counter, boot_nonce, raft_address, .. } =
            self.identity.clone();
        Hello {
            versions: VersionRange { min: WIRE_VERSION, max: WIRE_VERSION },
            feature_levels: VersionRange { min: FEATURE_LEVEL, max: FEATURE_LEVEL },
            deployment,
            node,
            to: peer,
            purpose,
            instance,
            boot_counter,
            boot_nonce,
            durable_seq: self.durable_seq(),
            record_of_receiver: self.table.record(peer),
            topology: *self.topology.lock().unwrap_or_else(PoisonError::into_inner),
            raft_address,
            instances: self.table.instances(),
            fields: Vec::new(),
        }
    }

    fn check_hello(
        &self,
        ours: &Hello,
        theirs: &Hello,
        dialed: Option<NodeId>,
    ) -> Result<Accepted, HelloRefused> {
        let accepted = check(ours, theirs, &self.table.expected(theirs.node, dialed))?;
        if dialed.is_none() && self.peers().is_some_and(|peers| !peers.takes_in(theirs.node)) {
            tracing::warn!(node = %theirs.node, limit = STRANGERS_MAX, "too many nodes that are in no group here");
            return Err(HelloRefused::UnknownNode { node: theirs.node });
        }
        for (node, known, said) in &accepted.conflicts {
            tracing::error!(%node, %known, %said, "two directories claim one node id; the node is refused until an operator decides");
        }
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
        let side = if refusal.by_peer { "the peer refuses this node" } else { "this node refuses the peer" };
        if let HelloRefused::OldCopy { node, remembered, now } = &refusal.reason
            && *node == self.identity.node
            && now.0 == self.identity.boot_counter
            && let Some(inner) = self.inner.upgrade()
        {
            tracing::error!(
                by = %refusal.node, remembered_boot = remembered.0, remembered_seq = remembered.1, boot = now.0, seq = now.1,
                "this directory is an old copy of itself: its replicas forgot what they had promised and are condemned; remove them from \
                 their groups, have the peers forget this node, and add it again; for groups that have no majority left: \
                 `mraft repair accept-loss`"
            );
            inner.condemn_all(CondemnedReason::OldCopy);
        }
        let reason = match &refusal.reason {
            // Whoever found it out: this directory is not the one that the others know under this id (rule M6).
            HelloRefused::Instance { node, ours, theirs } if *node == self.identity.node => format!(
                "node {node} belongs to instance {theirs}, this directory is {ours}: remove node {node}, then start with another node \
                 id or Raft port"
            ),
            reason => format!("{side}: {reason}"),
        };
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        // The dialling repeats itself; the log line need not.
        if refusals.get(&refusal.node) != Some(&reason) {
            tracing::error!(node = %refusal.node, address = refusal.address, "{reason}");
            if refusals.len() < REFUSALS_MAX {
                refusals.insert(refusal.node, reason);
            }
        }
    }

    fn snapshot_begin(&self, header: SnapshotHeader) -> Result<Box<dyn SnapshotReceiver>, String> {
        let inner = self.inner.upgrade().ok_or("the node is closing")?;
        let record = inner.registry().records().get(&header.group).cloned().ok_or("the group is not here")?;
        if record.replica != header.to || record.uid != header.uid {
            return Err(format!(
                "the replica here is {} of {}, not {} of {}",
                record.replica, record.uid, header.to, header.uid
            ));
        }
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
        let stage =
            stage.recv_timeout(Duration::from_secs(30)).map_err(|_| "the state machine is busy")??;
        Ok(Box::new(Incoming {
            inner: Arc::downgrade(&inner),
            group: header.group,
            from: header.from,
            term: header.term,
            start: header.start,
            directory,
            stage: Some(stage),
        }))
    }
}

/// A snapshot that is coming in.
struct Incoming {
    inner: Weak<Inner>,
    group: GroupId,
    from: ReplicaId,
    term: Term,
    start: LogStart,
    directory: u64,
    stage: Option<Box<dyn SnapshotStage>>,
}

impl SnapshotReceiver for Incoming {
    fn chunk(&mut self, data: Payload) -> Result<(), String> {
        let stage = self.stage.as_mut().ok_or("the snapshot is finished")?;
        unpanicked(|| stage.write_chunk(&data))
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        let inner = self.inner.upgrade().ok_or("the node is closing")?;
        let stage = self.stage.take().ok_or("the snapshot is finished")?;
        let (group, index) = (self.group, self.start.position.index);
        if let Err(error) = unpanicked(|| stage.finish()) {
            let _ = inner.mail(group, ApplyMail::Discard(group, self.directory));
            return Err(error);
        }
        inner.metrics().count("mraft_snapshots_total", "what", "received");
        inner.tell(&HostEvent::SnapshotReceived { group, index });
        let input = Input::Staged {
            group,
            from: self.from,
            term: self.term,
            start: self.start.clone(),
            directory: self.directory,
        };
        let shared = inner.shared().map_err(|error| error.to_string())?;
        shared.step(group).send(input).map_err(|_| "the node is closing".to_owned())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Cut short: what is staged is of no use.
        if self.stage.take().is_some()
            && let Some(inner) = self.inner.upgrade()
        {
            let _ = inner.mail(self.group, ApplyMail::Discard(self.group, self.directory));
        }
    }
}

fn carries_entries(input: &Input) -> bool {
    matches!(
        input,
        Input::Group(_, mraft_engine::event::Event::Message { message, .. })
            if matches!(&message.body, mraft_raft::Body::Append { entries, .. } if !entries.is_empty())
    )
}

#[cfg(test)]
mod tests;
