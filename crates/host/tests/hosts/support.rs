// SPDX-License-Identifier: Apache-2.0

//! A small cluster of real hosts in one process, for tests: real sockets, real files, no sleeps in place of conditions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, GroupSpec, HostConfig, HostError, Machines, NO_SLOT, NodeHost, NotApplied, ReadKind};
use mraft_disk::memory::Access;
use mraft_disk::{Disk, MemoryDisk, RealDisk};
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet};

/// The one group of these tests.
pub const GROUP: GroupId = GroupId(0);
/// Nothing takes this long unless it is broken; a group waits a minute between two moves of its leadership.
pub const PATIENCE: Duration = Duration::from_secs(180);

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

/// Counts commands, and panics at one of them.
#[derive(Default)]
pub struct Count(u64);

impl InMemoryMachine for Count {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        assert_ne!(command.body, b"boom", "the machine has a bug");
        self.0 += 1;
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0.to_le_bytes());
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.0.to_le_bytes());
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.0 = u64::from_le_bytes(state.try_into().map_err(|_| "a count has eight bytes")?);
        Ok(())
    }
}

/// Machines that count and never persist by themselves.
pub fn counts() -> Machines {
    Machines::new().with("list", |context| {
        Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000_000, Count::default()))
    })
}

/// Asks once.
pub fn ask(host: &NodeHost, group: GroupId, slot: u16, body: &'static str) -> Answer {
    let (answered, answer) = channel();
    host.propose(group, slot, Payload::from(body), PATIENCE, move |answer| _ = answered.send(answer));
    answer.recv().expect("every request is answered")
}

/// Asks until there is a leader to ask.
pub fn ask_leader(host: &NodeHost, group: GroupId, slot: u16, body: &'static str) -> Answer {
    loop {
        match ask(host, group, slot, body) {
            Answer::NotApplied(NotApplied::NotLeader(_)) => std::thread::yield_now(),
            answer => return answer,
        }
    }
}

/// Something that a memory disk waits at while it is shut.
#[derive(Default)]
pub struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU32,
}

impl Gate {
    /// A disk of which some accesses to the log's segments wait at a gate, which is open.
    pub fn on_a_disk(waits: fn(Access<'_>) -> bool) -> (Arc<Gate>, MemoryDisk) {
        Gate::before("segment-", waits)
    }

    /// The same before files with this in their path.
    pub fn before(part: &'static str, waits: fn(Access<'_>) -> bool) -> (Arc<Gate>, MemoryDisk) {
        let (gate, disk) = (Arc::new(Gate::default()), MemoryDisk::new());
        let own = Arc::clone(&gate);
        disk.set_before(move |path, access| {
            if path.to_string_lossy().contains(part) && waits(access) {
                own.pass();
            }
        });
        (gate, disk)
    }

    pub fn set_shut(&self, is_shut: bool) {
        *self.is_shut.lock().expect("no panic") = is_shut;
        self.opened.notify_all();
    }

    /// Whether somebody waits at it.
    pub fn holds_up(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    pub fn pass(&self) {
        let shut = self.is_shut.lock().expect("no panic");
        self.waiting.fetch_add(1, Ordering::Relaxed);
        drop(self.opened.wait_while(shut, |is_shut| *is_shut).expect("no panic"));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Opens its gate at the end of a test, whichever way that ends: a host that hangs could not be closed.
pub struct Gatekeeper(pub Arc<Gate>);

impl Drop for Gatekeeper {
    fn drop(&mut self) {
        self.0.set_shut(false);
    }
}

/// Nodes with their directories and addresses; hosts come and go.
pub struct Cluster {
    directory: tempfile::TempDir,
    /// Disks of nodes that are not on the real one.
    disks: BTreeMap<u64, Arc<dyn Disk>>,
    addresses: Vec<SocketAddr>,
    pub hosts: BTreeMap<u64, NodeHost>,
    voters: u64,
}

impl Cluster {
    /// A cluster of this many voters (ids from 1), with room for one node more.
    pub fn start(voters: u64) -> Cluster {
        let mut cluster = Cluster::prepare(voters);
        (1..=voters).for_each(|node| cluster.found(node, cluster.config(node)));
        cluster
    }

    /// The same before any node is there.
    pub fn prepare(voters: u64) -> Cluster {
        let ip = own_address();
        // All are held until all are known, so that they differ.
        let listeners: Vec<TcpListener> =
            (0..=voters).map(|_| TcpListener::bind((ip, 0)).expect("a free port")).collect();
        let addresses = listeners.iter().map(|listener| listener.local_addr().expect("bound")).collect();
        drop(listeners);
        let directory = tempfile::tempdir().expect("a directory");
        Cluster { directory, disks: BTreeMap::new(), addresses, hosts: BTreeMap::new(), voters }
    }

    /// The node's directory is on this disk.
    pub fn put_on(&mut self, node: u64, disk: impl Disk + 'static) {
        self.disks.insert(node, Arc::new(disk));
    }

    /// Opens a node's fresh directory and founds the group there.
    pub fn found(&mut self, node: u64, config: HostConfig) {
        let host = self.try_open(config).expect("a fresh directory opens");
        host.start_groups(&[self.spec()]).expect("a group starts");
        self.hosts.insert(node, host);
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
        self.open_with(config, self.machines())
    }

    /// The same with other machines.
    pub fn open_with(&self, config: HostConfig, machines: Machines) -> Result<NodeHost, HostError> {
        let disk = self.disks.get(&config.node.get()).cloned();
        NodeHost::open_on(disk.unwrap_or_else(|| Arc::new(RealDisk::new())), config, machines, None)
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

    /// Waits until a node is connected to every peer.
    pub fn wait_for_peers(&self, node: u64) {
        self.wait_until("every peer is connected", |cluster| {
            let peers = cluster.hosts[&node].peers().expect("open");
            peers.status().iter().all(|peer| peer.is_connected)
        });
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
    /// Whether a node leads, as it knows itself.
    pub fn leads(&self, node: u64) -> bool {
        let known = self.hosts[&node].leader(GROUP).expect("the group is here");
        known.leader.is_some_and(|leader| leader.node() == Cluster::node(node))
    }

    /// Hands leadership to a node until it has it.
    pub fn make_leader(&self, node: u64) {
        self.wait_until("the node leads", |cluster| {
            if cluster.leads(node) {
                return true;
            }
            let (answered, answer) = channel();
            let to = ReplicaId::new(0, Cluster::node(node));
            cluster.leader().transfer_leader(GROUP, Some(to), move |answer| _ = answered.send(answer));
            answer.recv().expect("every request is answered");
            false
        });
    }

    pub fn stale(host: &NodeHost) -> String {
        let mut found = Vec::new();
        host.lookup(GROUP).expect("the group is here").query(b"", &mut found).expect("a list has no errors");
        String::from_utf8(found).expect("text")
    }
}

/// What a node counted of its slow or full disk.
pub fn slow_disk_count(host: &NodeHost, what: &str) -> u64 {
    let mut text = String::new();
    host.write_prometheus(&mut text);
    let name = format!("mraft_slow_disk_total{{what=\"{what}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().expect("a count"))
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
