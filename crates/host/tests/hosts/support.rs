// SPDX-License-Identifier: Apache-2.0

//! A small cluster of real hosts in one process, for tests: real sockets, real files, no sleeps in place of conditions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, GroupSpec, HostConfig, HostError, Machines, NO_SLOT, NodeHost, ReadKind};
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet};

/// The one group of these tests.
pub const GROUP: GroupId = GroupId(0);
/// Nothing takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Appends every command to a list and answers its length.
#[derive(Default)]
pub struct List(Vec<Vec<u8>>);

impl InMemoryMachine for List {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        self.0.push(command.body.to_vec());
        answer.extend_from_slice(&(self.0.len() as u64).to_le_bytes());
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0.concat());
    }

    fn save(&self, state: &mut Vec<u8>) {
        for item in &self.0 {
            state.extend_from_slice(&(item.len() as u32).to_le_bytes());
            state.extend_from_slice(item);
        }
    }

    fn restore(&mut self, mut state: &[u8]) -> Result<(), String> {
        self.0.clear();
        while !state.is_empty() {
            let (len, rest) = state.split_at_checked(4).ok_or("cut in a length")?;
            let len = u32::from_le_bytes(len.try_into().map_err(|_| "four bytes")?) as usize;
            let (item, rest) = rest.split_at_checked(len).ok_or("cut in an item")?;
            self.0.push(item.to_vec());
            state = rest;
        }
        Ok(())
    }
}

/// Nodes with their directories and addresses; hosts come and go.
pub struct Cluster {
    directory: tempfile::TempDir,
    addresses: Vec<SocketAddr>,
    pub hosts: BTreeMap<u64, NodeHost>,
    voters: u64,
}

impl Cluster {
    /// A cluster of this many voters (ids from 1), with room for one node more.
    pub fn start(voters: u64) -> Cluster {
        let ip = own_address();
        // All are held until all are known, so that they differ.
        let listeners: Vec<TcpListener> =
            (0..=voters).map(|_| TcpListener::bind((ip, 0)).expect("a free port")).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        drop(listeners);
        let directory = tempfile::tempdir().expect("a directory");
        let mut cluster = Cluster { directory, addresses, hosts: BTreeMap::new(), voters };
        for node in 1..=voters {
            cluster.open(node).expect("a fresh directory opens");
            cluster.hosts[&node].start_groups(&[cluster.spec()]).expect("a group starts");
        }
        cluster
    }

    pub fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    pub fn address(&self, node: u64) -> String {
        self.addresses[node as usize - 1].to_string()
    }

    pub fn data(&self, node: u64) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    pub fn spec(&self) -> GroupSpec {
        let member = |node: u64| {
            let member = Member { role: Role::Voter, raft_address: self.address(node) };
            (ReplicaId::new(0, Cluster::node(node)), member)
        };
        let members =
            Membership { members: (1..=self.voters).map(member).collect(), ..Membership::default() };
        GroupSpec { group: GROUP, members, slots: SlotSet::default(), machine: "list".to_owned() }
    }

    pub fn config(&self, node: u64) -> HostConfig {
        let mut config =
            HostConfig::new(DeploymentId(7), Cluster::node(node), self.address(node), self.data(node));
        // An election takes as long as a slow machine needs for some syncs.
        config.tick_ms = 10;
        config.compaction_overhead_entries = 0;
        config.log_segment_bytes = 64 << 20;
        config
    }

    /// Opens a node's directory; snapshots after every 10 entries, so that tests reach them.
    pub fn try_open(&self, config: HostConfig) -> Result<NodeHost, HostError> {
        NodeHost::open(config, self.machines(), None)
    }

    pub fn machines(&self) -> Machines {
        Machines::new().with("list", |context| {
            Ok(in_memory(context.disk.clone(), context.directory.clone(), 10, List::default()))
        })
    }

    pub fn open(&mut self, node: u64) -> Result<(), HostError> {
        let host = self.try_open(self.config(node))?;
        self.hosts.insert(node, host);
        Ok(())
    }

    pub fn close(&mut self, node: u64) {
        self.hosts.remove(&node).expect("open").close();
    }

    /// Waits until a condition holds.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Cluster) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < PATIENCE, "{what} did not come true");
            std::thread::yield_now();
        }
    }

    /// The host that leads, once one does.
    pub fn leader(&self) -> &NodeHost {
        let leads = |host: &&NodeHost| {
            host.leader(GROUP)
                .is_some_and(|known| known.leader.is_some_and(|leader| leader.node() == host.node()))
        };
        self.wait_until("somebody leads", |cluster| cluster.hosts.values().any(|host| leads(&host)));
        self.hosts.values().find(leads).unwrap_or_else(|| self.leader())
    }

    /// Writes until it is applied. What was surely not applied is tried again, and what may have been if nobody finds it.
    pub fn write(&self, body: &str) {
        let began = Instant::now();
        loop {
            let (answered, answer) = channel();
            let payload = Payload::copy_from(body.as_bytes());
            self.leader().propose(GROUP, NO_SLOT, payload, PATIENCE, move |answer| _ = answered.send(answer));
            match answer.recv().expect("every request is answered") {
                Answer::Applied { .. } => return,
                Answer::NotApplied(_) => {}
                // Nobody else writes meanwhile: if it is there, it is the last.
                Answer::Unknown(_) if self.read().ends_with(body) => return,
                Answer::Unknown(_) => {}
                other => panic!("{body}: {other:?}"),
            }
            assert!(began.elapsed() < PATIENCE, "{body} was not applied");
        }
    }

    /// Everything that a linearizable read through the leader shows.
    pub fn read(&self) -> String {
        let began = Instant::now();
        loop {
            let host = self.leader();
            let (answered, answer) = channel();
            host.read(GROUP, ReadKind::Linearizable, PATIENCE, move |answer| _ = answered.send(answer));
            if let Answer::ReadReady { .. } = answer.recv().expect("every request is answered") {
                return Cluster::stale(host);
            }
            assert!(began.elapsed() < PATIENCE, "nothing could be read");
        }
    }

    /// What a host has applied.
    pub fn stale(host: &NodeHost) -> String {
        let mut found = Vec::new();
        host.lookup(GROUP).expect("the group is here").query(b"", &mut found).expect("a list has no errors");
        String::from_utf8(found).expect("text")
    }
}

/// An address of its own in 127.0.0.0/8, where nobody else looks for a port while a node is away; the usual one on systems that have
/// no other.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    let [_, high, middle, low] = number.to_be_bytes();
    let own = Ipv4Addr::new(127, 128 | (high & 127), middle, low.clamp(1, 254));
    if TcpListener::bind((own, 0)).is_ok() { own } else { Ipv4Addr::LOCALHOST }
}
