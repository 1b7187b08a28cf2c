// SPDX-License-Identifier: Apache-2.0

//! Values to begin with: what honest nodes write, each corner once. Everything is encoded by the product itself.

use std::collections::BTreeSet;

use mraft_raft::{AppendReply, Body, Message};
use mraft_types::{
    DeploymentId, Entry, EntryKind, GroupId, GroupUid, InstanceId, LogPosition, LogStart, Member, Membership,
    NodeId, Payload, ReplicaId, Role,
};
use mraft_wire::{
    Hello, HelloField, HelloRefused, HostBeat, Packet, PeerRecord, Purpose, Request, RequestKind, Response,
    SnapshotHeader, Start, Starts, TopologyStamp, VersionRange,
};

/// A node that there is; 0 is none.
pub fn node(id: u64) -> NodeId {
    NodeId::new(id.max(1)).unwrap_or_else(|| unreachable!("not 0"))
}

/// The first replica of a node.
pub fn replica(id: u64) -> ReplicaId {
    ReplicaId::new(0, node(id))
}

pub const UID: GroupUid = GroupUid([0xab; 16]);

pub fn membership(change_index: u64) -> Membership {
    let member = |id: u64, role| (replica(id), Member { role, raft_address: format!("10.0.0.{id}:13890") });
    Membership {
        change_index,
        members: [
            member(1, Role::Voter),
            member(2, Role::Voter),
            member(3, Role::Learner),
            member(4, Role::Observer),
            member(5, Role::Witness),
        ]
        .into(),
        removed: [(node(2), 0), (node(8), 3)].into(),
        retired_nodes: BTreeSet::from([node(9)]),
    }
}

pub fn start(index: u64, term: u64) -> LogStart {
    LogStart { position: LogPosition { index, term }, membership: membership(1) }
}

pub fn membership_payload(change_index: u64) -> Payload {
    let mut bytes = Vec::new();
    membership(change_index).encode(&mut bytes);
    bytes.into()
}

pub fn entry(index: u64, term: u64, kind: EntryKind, payload: &[u8]) -> Entry {
    Entry { index, term, kind, payload: Payload::copy_from(payload) }
}

pub fn bodies() -> Vec<Body> {
    let position = LogPosition { index: 1000, term: 4 };
    let entries = vec![
        entry(1001, 4, EntryKind::Empty, b""),
        entry(1002, 4, EntryKind::Commands, b"commands"),
        entry(1003, 5, EntryKind::Membership, &membership_payload(1003)),
    ];
    vec![
        Body::PreVote { last: position },
        Body::PreVoteReply { granted: true },
        Body::Vote { last: position, transfer: true },
        Body::VoteReply { granted: false },
        Body::Append { prev: position, entries: Vec::new(), commit: 999, matched: 0 },
        Body::Append { prev: position, entries, commit: 1000, matched: 1000 },
        Body::AppendReply(AppendReply::Accepted { matched: 1003 }),
        Body::AppendReply(AppendReply::Rejected { prev: 1000, hint: LogPosition { index: 7, term: 1 } }),
        Body::Heartbeat { commit: 1000, matched: 998, round: 3 },
        Body::Heartbeat { commit: u64::MAX, matched: 0, round: u64::MAX },
        Body::HeartbeatReply { round: 3 },
        Body::TimeoutNow,
        Body::Removed { change_index: 900 },
        Body::Quiesce { last: 1003, life: 0x0102_0304_0506_0708, number: 4 },
        Body::QuiesceReply { number: 4, agreed: true },
    ]
}

pub fn packets() -> Vec<Packet> {
    let raft = |from: ReplicaId, body| Packet::Raft {
        group: GroupId(300),
        uid: UID,
        message: Message { from, to: replica(2), term: 5, body },
    };
    let mut packets: Vec<Packet> = bodies().into_iter().map(|body| raft(replica(1), body)).collect();
    packets.push(raft(ReplicaId::new(7, node(1)), Body::TimeoutNow));
    packets.push(Packet::HostBeat(HostBeat { durable_seq: 77, disk_age_ms: 3, unix_ms: 1_700_000_000_000 }));
    packets.push(Packet::Request(Request {
        id: 12,
        kind: RequestKind::KV_WRITE,
        hops: 1,
        remaining_ms: u32::MAX,
        body: Payload::copy_from(b"put k v"),
    }));
    packets.push(Packet::Response(Response { id: 12, body: Payload::copy_from(b"done") }));
    packets
}

pub fn hello(from: u64, to: u64) -> Hello {
    Hello {
        versions: VersionRange { min: 1, max: 1 },
        feature_levels: VersionRange { min: 1, max: 3 },
        deployment: DeploymentId(7),
        node: node(from),
        to: node(to),
        purpose: Purpose::Messages,
        instance: InstanceId([from as u8; 16]),
        boot_counter: 4,
        boot_nonce: 0x1122_3344_5566_7788,
        durable_seq: 100,
        record_of_receiver: None,
        topology: TopologyStamp { version: 2, hash: [9; 16] },
        raft_address: "127.0.0.1:13890".to_owned(),
        instances: [(node(from), InstanceId([from as u8; 16]))].into(),
        starts: Default::default(),
        fields: Vec::new(),
    }
}

pub fn full_hello(from: u64, to: u64) -> Hello {
    let mut starts = Starts::default();
    starts.begin(Start { boot_nonce: 0x99aa_bbcc_ddee_ff00, found_seq: 59 });
    starts.begin(Start { boot_nonce: 0x1122_3344_5566_7788, found_seq: 99 });
    Hello {
        starts,
        purpose: Purpose::Snapshot,
        record_of_receiver: Some(PeerRecord { boot_counter: 2, boot_nonce: 3, durable_seq: 60 }),
        instances: (1..4).map(|id| (node(id), InstanceId([id as u8; 16]))).collect(),
        fields: vec![
            HelloField { number: 9, content: b"later".to_vec() },
            HelloField { number: 0x7fff, content: Vec::new() },
        ],
        ..hello(from, to)
    }
}

pub fn refusals() -> Vec<HelloRefused> {
    let (one, two) = (node(1), node(2));
    vec![
        HelloRefused::Deployment { ours: DeploymentId(7), theirs: DeploymentId(9) },
        HelloRefused::Version {
            ours: VersionRange { min: 1, max: 2 },
            theirs: VersionRange { min: 3, max: 4 },
        },
        HelloRefused::FeatureLevel {
            ours: VersionRange { min: 1, max: 2 },
            theirs: VersionRange { min: 3, max: 4 },
        },
        HelloRefused::MeantForAnother { meant: one, here: two },
        HelloRefused::AnotherNodeAnswered { dialed: one, answered: two },
        HelloRefused::SameNode { node: one },
        HelloRefused::Instance { node: one, ours: InstanceId([1; 16]), theirs: InstanceId([2; 16]) },
        HelloRefused::Forked { node: one, remembered_boot: 5, boot_counter: 7 },
        HelloRefused::OldCopy { node: one, remembered: (5, 100), now: (6, 90) },
        HelloRefused::Conflicting { node: one },
        HelloRefused::UnknownNode { node: one },
        HelloRefused::Retired { node: one },
        HelloRefused::RequiredField { number: 0x8001 },
        HelloRefused::TooManyConnections { limit: 1024 },
        HelloRefused::ShuttingDown,
        HelloRefused::Other("for another reason".to_owned()),
    ]
}

pub fn snapshot_header() -> SnapshotHeader {
    SnapshotHeader {
        group: GroupId(300),
        uid: UID,
        from: replica(1),
        to: ReplicaId::new(1, node(2)),
        term: 5,
        start: start(1000, 4),
        format: 1,
        meta: Payload::copy_from(b"meta"),
    }
}
