// SPDX-License-Identifier: Apache-2.0

//! What the transport brings in, judged by hand.

use std::net::TcpListener;

use mraft_engine::machine::MachineError;
use mraft_types::{DeploymentId, GroupId, Member, ReplicaId, Role, SlotSet};
use mraft_wire::{Accepted, WIRE_VERSION};

use super::snapshots::unpanicked;
use super::*;
use crate::config::HostConfig;
use crate::events::HostEvent;
use crate::machines::{Command, InMemoryMachine, in_memory};
use crate::meta::{FEATURE_LEVEL, GroupMeta};
use crate::node_host::{GroupSpec, Machines, NodeHost};

const GROUP: GroupId = GroupId(3);

struct Empty;

impl InMemoryMachine for Empty {
    fn apply(&mut self, _command: &Command<'_>, _answer: &mut Vec<u8>) {}
    fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) {}
    fn save(&self, _state: &mut Vec<u8>) {}
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// A host with one group of its own.
fn host(directory: &std::path::Path) -> NodeHost {
    host_with(directory, None)
}

fn host_with(directory: &std::path::Path, requests: Option<Arc<dyn RequestHandler>>) -> NodeHost {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let node = NodeId::new(1).expect("a node id");
    let config = HostConfig::new(DeploymentId(7), node, address.clone(), directory.to_owned());
    let machines = Machines::new()
        .with("m", |context| Ok(in_memory(context.disk.clone(), context.directory.clone(), 0, Empty)));
    let host = NodeHost::open(config, machines, requests).expect("an empty directory");
    let member = Member { role: Role::Voter, raft_address: address };
    let members = Membership { members: [(ReplicaId::new(0, node), member)].into(), ..Membership::default() };
    let spec = GroupSpec { group: GROUP, members, slots: SlotSet::default(), machine: "m".to_owned() };
    host.start_groups(&[spec]).expect("a group");
    host
}

#[test]
fn t3_a_snapshot_of_a_higher_feature_level_stops_the_replica_and_says_which_build_it_needs() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = host(directory.path());
    let status = host.group_status(GROUP).expect("it is here");
    let genesis = GroupMeta::genesis(DeploymentId(7), GROUP, status.membership.clone(), SlotSet::default());
    let meta = GroupMeta { feature_level: FEATURE_LEVEL + 1, ..genesis };
    let header = SnapshotHeader {
        group: GROUP,
        uid: status.uid,
        from: ReplicaId::new(0, NodeId::new(2).expect("a node id")),
        to: status.replica,
        term: 9,
        start: meta.log_start(),
        format: 1,
        meta: Payload::from(meta.encode()),
    };
    let events = host.events();
    let peers = host.peers().expect("open");
    let reason = peers.door.snapshot_begin(header).err().expect("refused");
    assert!(reason.contains("feature level 2") && reason.contains("run the newer release"), "{reason}");
    let failed = std::iter::from_fn(|| events.next_within(Duration::from_secs(60))).find_map(|event| {
        if let HostEvent::ReplicaFailed { reason, .. } = event { Some(reason) } else { None }
    });
    assert_eq!(failed, Some(reason.clone()));
    assert_eq!(host.group_status(GROUP).expect("it is listed").failure, Some(reason));
}

#[test]
fn m6_what_an_operator_cleared_is_forgotten_durably() {
    let disk = Arc::new(mraft_disk::MemoryDisk::new());
    let directory = std::path::Path::new("/data");
    mraft_disk::Disk::create_dir_all(disk.as_ref(), directory).expect("a directory");
    let node = NodeId::new(9).expect("a node id");
    let (known, said) = (mraft_types::InstanceId([1; 16]), mraft_types::InstanceId([2; 16]));
    let accepted = Accepted {
        version: WIRE_VERSION,
        feature_level: FEATURE_LEVEL,
        learned: [(node, known)].into(),
        conflicts: vec![(node, known, said)],
        topology: mraft_wire::TopologyRelation::Same,
    };
    let record = mraft_wire::PeerRecord { boot_counter: 5, boot_nonce: 1, durable_seq: 100 };
    let table = PeerTable::open(disk.clone(), directory).expect("opened");
    table.accept(node, record, &accepted).expect("room");
    assert!(table.expected(node, None).conflicting.contains(&node));
    table.forget(node).expect("room");
    let table = PeerTable::open(disk, directory).expect("opened again");
    let expected = table.expected(node, None);
    assert!(expected.conflicting.is_empty() && expected.record.is_none() && table.instances().is_empty());
}

#[test]
fn t4_a_panic_in_a_view_or_a_stage_ends_that_snapshot_and_not_the_thread() {
    let result = unpanicked(|| -> Result<(), MachineError> { unreachable!("the machine has a bug") });
    assert_eq!(result, Err("the state machine panicked".to_owned()));
    assert_eq!(unpanicked(|| Ok(7)), Ok(7));
}

/// Whoever asks gets no answer until this is emptied.
#[derive(Default)]
struct Slow(Mutex<Vec<Reply>>);

impl RequestHandler for Slow {
    fn request(&self, _from: NodeId, _request: Request, reply: Reply) {
        self.0.lock().expect("no panic").push(reply);
    }
}

#[test]
fn a_peer_that_asks_more_than_it_could_keep_track_of_is_not_heard() {
    let directory = tempfile::tempdir().expect("a directory");
    let slow = Arc::new(Slow::default());
    let host = host_with(directory.path(), Some(slow.clone()));
    let (peers, inner) =
        (host.peers().expect("open"), host.peers().expect("open").inner.upgrade().expect("open"));
    let ask = |node: u64| {
        let request =
            Request { id: 1, kind: RequestKind(5), hops: 0, remaining_ms: 1000, body: Payload::default() };
        let from = NodeId::new(node).expect("a node id");
        peers.door.handle_other(&inner, from, crate::frames::FromHost::Request(request));
        slow.0.lock().expect("no panic").len()
    };
    for _ in 0..ASKED_MAX + 10 {
        ask(2);
    }
    assert_eq!(ask(2), ASKED_MAX);
    assert_eq!(ask(3), ASKED_MAX + 1, "another one is heard");
    slow.0.lock().expect("no panic").clear();
    assert_eq!(ask(2), 1, "what was answered is open no more");
}
