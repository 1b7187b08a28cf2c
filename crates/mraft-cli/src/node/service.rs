// SPDX-License-Identifier: Apache-2.0

//! A node as its doors and its peers see it: the host, the routing table, and what is known of the other nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use mraft::peers::{Reply, RequestHandler};
use mraft::{HostEvent, NodeHost};
use mraft_disk::RealDisk;
use mraft_gateway::needs::{Failure, NodeError};
use mraft_kv::Caches;
use mraft_types::{GroupId, NodeId};
use mraft_wire::{Request, RequestKind};

use super::exchange::{self, Asked, Question, Rare, Said};
use super::freshness::Freshness;
use super::lookups::Lookups;
use super::route::Waiting;
use super::topology::Topology;
use crate::config::NodeConfig;

/// How often a node that does not know the groups asks its peers, and looks what else is missing.
const LOOK_AROUND: Duration = Duration::from_millis(500);
/// Requests wait for a leader as long as so many elections take at most.
const ELECTIONS_WAITED: u32 = 3;
/// How long one question of the node's own may take.
const OWN_QUESTION: Duration = Duration::from_secs(5);

/// The node.
pub(super) struct Service {
    pub(super) host: NodeHost,
    pub(super) config: NodeConfig,
    pub(super) runtime: tokio::runtime::Handle,
    pub(super) started: Instant,
    pub(super) draining: AtomicBool,
    pub(super) freshness: Freshness,
    pub(super) waiting: Waiting,
    pub(super) lookups: Lookups,
    /// What the trees of all groups share.
    pub(super) caches: Caches,
    topology: RwLock<Arc<Topology>>,
    /// Per group that is not here, the node that answered last; at most one per group of the topology.
    hints: RwLock<HashMap<GroupId, NodeId>>,
    /// Where other nodes' HTTP doors are, as they said; at most one per peer.
    https: RwLock<BTreeMap<NodeId, String>>,
}

impl Service {
    pub(super) fn new(
        host: NodeHost,
        config: NodeConfig,
        topology: Topology,
        runtime: tokio::runtime::Handle,
        door_threads: usize,
        caches: Caches,
    ) -> Arc<Service> {
        let election_max = config.raft.tick * config.raft.election_ticks * 2;
        let waiting = Waiting::new(election_max * ELECTIONS_WAITED);
        let service = Arc::new(Service {
            host,
            config,
            runtime,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            freshness: Freshness::default(),
            waiting,
            lookups: Lookups::new(door_threads),
            caches,
            topology: RwLock::new(Arc::new(topology)),
            hints: RwLock::default(),
            https: RwLock::default(),
        });
        service.know_addresses();
        service
    }

    pub(super) fn node(&self) -> NodeId {
        self.host.node()
    }

    pub(super) fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.topology.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn hint(&self, group: GroupId) -> Option<NodeId> {
        self.hints.read().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }

    pub(super) fn remember_hint(&self, group: GroupId, node: NodeId) {
        if self.hint(group) != Some(node) && self.topology().groups().contains_key(&group) {
            self.hints.write().unwrap_or_else(PoisonError::into_inner).insert(group, node);
        }
    }

    pub(super) fn forget_hint(&self, group: GroupId) {
        self.hints.write().unwrap_or_else(PoisonError::into_inner).remove(&group);
    }

    /// `host:port` of a node's HTTP door.
    pub(super) fn http_of(&self, node: NodeId) -> Option<String> {
        if node == self.node() {
            return Some(self.config.http.advertised_address.to_string());
        }
        self.https.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()
    }

    /// An error in a group, with whom to ask instead.
    pub(super) fn failure(&self, error: NodeError, group: GroupId, leader: Option<NodeId>) -> Box<Failure> {
        let mut failure = Failure::of_group(error, group, leader);
        failure.leader_http = leader.and_then(|leader| self.http_of(leader));
        failure
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The nodes of the table become peers, so that requests for groups that are not here can be sent on.
    fn know_addresses(&self) {
        let Some(peers) = self.host.peers() else { return };
        let topology = self.topology();
        peers.set_topology(topology.version(), topology.hash());
        for (node, address) in topology.addresses() {
            if node != self.node()
                && let Err(error) = peers.add(node, &address)
            {
                tracing::warn!(%node, address, "the routing table's address cannot be used: {error}");
            }
        }
    }

    /// Takes over a table that a peer told, if none is known here.
    fn adopt(&self, topology: Topology) {
        if topology.is_empty() || !self.topology().is_empty() {
            return;
        }
        if let Err(error) = topology.write(&RealDisk::new(), &self.config.data_dir) {
            tracing::warn!(
                "the routing table cannot be kept; it is asked for again after a restart: {error}"
            );
        }
        tracing::info!(groups = topology.groups().len(), "a peer told which groups there are");
        *self.topology.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(topology);
        self.know_addresses();
    }

    /// Learns what the peers can tell until the node stops: their HTTP doors, and the groups if no document named them.
    pub(super) async fn look_around(self: Arc<Self>) {
        let events = self.host.events();
        loop {
            tokio::time::sleep(LOOK_AROUND).await;
            while let Some(event) = events.try_next() {
                self.heed(event);
            }
            let Some(peers) = self.host.peers() else { return };
            let connected: Vec<NodeId> =
                peers.status().into_iter().filter(|peer| peer.is_connected).map(|peer| peer.node).collect();
            for node in connected {
                if self.http_of(node).is_none()
                    && let Ok(Said::Document(document)) = self.ask_node(node, &Rare::Node).await
                    && let Ok(status) = serde_json::from_slice::<mraft_api::NodeStatus>(&document)
                {
                    let mut https = self.https.write().unwrap_or_else(PoisonError::into_inner);
                    https.insert(node, status.http_address);
                }
                if self.topology().is_empty()
                    && let Ok(Said::Document(document)) = self.ask_node(node, &Rare::Topology).await
                {
                    match Topology::decode(&document) {
                        Ok(topology) => self.adopt(topology),
                        Err(error) => {
                            tracing::warn!(%node, "the peer's routing table does not decode: {error}")
                        }
                    }
                }
            }
        }
    }

    /// What a host tells becomes a log line; what a restarted peer said before counts no more.
    fn heed(&self, event: HostEvent) {
        match event {
            HostEvent::PeerConnected(node) => {
                self.https.write().unwrap_or_else(PoisonError::into_inner).remove(&node);
                tracing::info!(%node, "connected to peer");
            }
            HostEvent::PeerDisconnected(node) => tracing::info!(%node, "disconnected from peer"),
            HostEvent::SnapshotReceived { group, index } => {
                tracing::info!(%group, index, "a snapshot arrived and is being installed");
            }
            _ => {}
        }
    }

    async fn ask_node(&self, node: NodeId, rare: &Rare) -> Result<Said, Box<Failure>> {
        let until = Instant::now() + OWN_QUESTION;
        let asked = self.send(node, RequestKind::STATUS, 1, until, rare.encode()).await;
        asked.map_err(|missed| missed.failure)
    }

    /// A peer asks. What this node can begin as the group's leader is begun here and now, on the transport's thread, and answered from
    /// the host's; everything else is a task of the doors.
    fn heard(self: &Arc<Self>, request: Request, reply: Reply) {
        let until = Instant::now() + Duration::from_millis(u64::from(request.remaining_ms));
        let asked = match exchange::decode_question(request.kind, &request.body) {
            Ok(asked) => asked,
            Err(why) => return reply.send(exchange::encode_answer(&Err(NodeError::Refused(why).into()))),
        };
        match asked {
            Asked::Group(group, question) if self.begins(group, &question) => {
                self.begin(group, &question, until, move |said| {
                    reply.send(exchange::encode_answer(&said.map_err(|missed| missed.failure)));
                });
            }
            asked => {
                let service = Arc::clone(self);
                self.runtime.spawn(async move {
                    let result = match asked {
                        Asked::Group(group, question) => {
                            service.route(group, question, request.hops, until).await
                        }
                        Asked::Node => service.document(&service.status_now()),
                        Asked::Topology => {
                            Ok(Said::Document(mraft_types::Payload::from(service.topology().encode())))
                        }
                    };
                    reply.send(exchange::encode_answer(&result));
                });
            }
        }
    }

    /// Whether [`Service::begin`] answers it, and this node leads the group.
    fn begins(&self, group: GroupId, question: &Question) -> bool {
        let is_brief = matches!(question, Question::ReadIndex | Question::Write { .. });
        let leader = || self.host.leader(group).and_then(|known| known.leader);
        is_brief && leader().is_some_and(|leader| leader.node() == self.node())
    }

    pub(super) fn document(&self, document: &impl serde::Serialize) -> Result<Said, Box<Failure>> {
        match serde_json::to_vec(document) {
            Ok(bytes) => Ok(Said::Document(mraft_types::Payload::from(bytes))),
            Err(error) => Err(NodeError::Internal(error.to_string()).into()),
        }
    }
}

/// Hands questions of peers to the node, from the moment on when there is one.
#[derive(Default)]
pub(super) struct Answerer(OnceLock<Weak<Service>>);

impl Answerer {
    pub(super) fn begin(&self, service: &Arc<Service>) {
        // Called once, after the node was made.
        let _ = self.0.set(Arc::downgrade(service));
    }
}

impl RequestHandler for Answerer {
    fn request(&self, _from: NodeId, request: Request, reply: Reply) {
        match self.0.get().and_then(Weak::upgrade) {
            Some(service) => service.heard(request, reply),
            None => reply.send(exchange::encode_answer(&Err(NodeError::Stopping.into()))),
        }
    }
}
