// SPDX-License-Identifier: Apache-2.0

//! Samples of everything that travels, and a generator that is the same on every machine.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use mraft_raft::{AppendReply, Body, Message};
use mraft_types::{
    DeploymentId, Entry, EntryKind, GroupId, GroupUid, InstanceId, LogPosition, LogStart, Member, Membership,
    NodeId, Payload, ReplicaId, Role,
};
use mraft_wire::{
    Frame, FrameBuilder, FrameError, FrameKind, FrameReader, Hello, HelloConfirm, HelloField, HelloRefused,
    HelloReply, HostBeat, Packet, PeerRecord, Purpose, PushError, Request, RequestKind, Response,
    SnapshotChunk, SnapshotHeader, SnapshotReply, SnapshotSum, Start, Starts, TopologyStamp, VersionRange,
    encode_frame,
};

pub fn node(id: u64) -> NodeId {
    NodeId::new(id).expect("a node id")
}

pub const UID: GroupUid = GroupUid([0xab; 16]);

/// A message from node 1 to node 2, both in their first life.
pub fn message(body: Body) -> Message {
    Message { from: ReplicaId::new(0, node(1)), to: ReplicaId::new(0, node(2)), term: 5, body }
}

pub fn raft(message: Message) -> Packet {
    Packet::Raft { group: GroupId(300), uid: UID, message }
}

pub fn entry(index: u64, kind: EntryKind, payload: &'static str) -> Entry {
    Entry { index, term: 5, kind, payload: payload.into() }
}

/// Every kind of packet, and the corners of some.
pub fn packets() -> Vec<Packet> {
    let position = LogPosition { index: 1000, term: 4 };
    let mut returned = message(Body::TimeoutNow);
    returned.from = ReplicaId::new(7, node(1));
    let mut packets: Vec<Packet> = [
        Body::PreVote { last: position },
        Body::PreVoteReply { granted: true },
        Body::Vote { last: position, transfer: true },
        Body::VoteReply { granted: false },
        Body::Append { prev: position, entries: Vec::new(), commit: 999, matched: 0 },
        Body::Append {
            prev: position,
            entries: vec![
                entry(1001, EntryKind::Empty, ""),
                entry(1002, EntryKind::Commands, "commands"),
                entry(1003, EntryKind::Membership, "membership"),
            ],
            commit: 1000,
            matched: 1000,
        },
        Body::AppendReply(AppendReply::Accepted { matched: 1003 }),
        Body::AppendReply(AppendReply::Rejected { prev: 1000, hint: LogPosition { index: 7, term: 1 } }),
        Body::Heartbeat { commit: 1000, matched: 1000, round: 3 },
        Body::Heartbeat { commit: u64::MAX, matched: 0, round: u64::MAX },
        Body::HeartbeatReply { round: 3 },
        Body::Removed { change_index: 900 },
    ]
    .into_iter()
    .map(|body| raft(message(body)))
    .collect();
    packets.push(Packet::Raft { group: GroupId::CONTROL, uid: UID, message: returned });
    packets.push(Packet::HostBeat(HostBeat { durable_seq: 77, disk_age_ms: 3, unix_ms: 1_700_000_000_000 }));
    packets.push(Packet::Request(Request {
        id: 12,
        kind: RequestKind::KV_WRITE,
        hops: 1,
        remaining_ms: 4999,
        body: "put k v".into(),
    }));
    packets.push(Packet::Request(Request {
        id: 13,
        kind: RequestKind(200),
        hops: 0,
        remaining_ms: u32::MAX,
        body: Payload::new(),
    }));
    packets.push(Packet::Response(Response { id: 12, body: "done".into() }));
    let quiet = [
        Body::Quiesce { last: 1003, life: 0x0102_0304_0506_0708, number: 4 },
        Body::QuiesceReply { number: 4, agreed: true },
    ];
    packets.extend(quiet.map(|body| raft(message(body))));
    packets
}

pub fn push(builder: &mut FrameBuilder, packet: &Packet) -> Result<(), PushError> {
    match packet {
        Packet::Raft { group, uid, message } => builder.push_raft(*group, *uid, message),
        Packet::HostBeat(beat) => builder.push_host_beat(beat),
        Packet::Request(request) => builder.push_request(request),
        Packet::Response(response) => builder.push_response(response),
    }
}

pub fn frame_of(packets: &[Packet]) -> Vec<u8> {
    let mut builder = FrameBuilder::new(node(1), node(2));
    for packet in packets {
        push(&mut builder, packet).expect("room for the packet");
    }
    builder.finish().expect("something was pushed")
}

pub fn instances(rows: &[(u64, u8)]) -> BTreeMap<NodeId, InstanceId> {
    rows.iter().map(|(id, byte)| (node(*id), InstanceId([*byte; 16]))).collect()
}

/// What node `from` says to node `to`; the instance of node n is n repeated.
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
        instances: instances(&[(from, from as u8)]),
        starts: Default::default(),
        fields: Vec::new(),
    }
}

/// A hello that uses every optional part.
pub fn full_hello() -> Hello {
    let mut starts = Starts::default();
    starts.begin(Start { boot_nonce: 0x99aa_bbcc_ddee_ff00, found_seq: 59 });
    starts.begin(Start { boot_nonce: 0x1122_3344_5566_7788, found_seq: 99 });
    Hello {
        starts,
        record_of_receiver: Some(PeerRecord { boot_counter: 2, boot_nonce: 3, durable_seq: 60 }),
        instances: instances(&[(1, 1), (2, 2), (3, 3)]),
        fields: vec![HelloField { number: 9, content: b"later".to_vec() }],
        ..hello(1, 2)
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
    let member = |id: u64| {
        (ReplicaId::new(0, node(id)), Member { role: Role::Voter, raft_address: format!("127.0.0.1:{id}") })
    };
    SnapshotHeader {
        group: GroupId(300),
        uid: UID,
        from: ReplicaId::new(0, node(1)),
        to: ReplicaId::new(1, node(2)),
        term: 5,
        start: LogStart {
            position: LogPosition { index: 1000, term: 4 },
            membership: Membership {
                change_index: 12,
                members: [member(1), member(3)].into(),
                removed: [(node(2), 0)].into(),
                retired_nodes: BTreeSet::from([node(9)]),
            },
        },
        format: 1,
        meta: "meta".into(),
    }
}

/// One frame of each kind, by name.
pub fn frames() -> Vec<(String, Vec<u8>)> {
    let mut frames: Vec<(String, Vec<u8>)> = packets()
        .into_iter()
        .enumerate()
        .map(|(number, packet)| (format!("packet {number:02}"), frame_of(&[packet])))
        .collect();
    frames.push(("packets".to_owned(), frame_of(&packets())));
    let mut add = |name: &str, kind, fill: &dyn Fn(&mut Vec<u8>)| {
        frames.push((name.to_owned(), encode_frame(kind, |out| fill(out))));
    };
    add("hello", FrameKind::Hello, &|out| hello(1, 2).encode(out));
    add("hello, full", FrameKind::Hello, &|out| full_hello().encode(out));
    let accepted = HelloReply::Accepted { version: 1, feature_level: 3, hello: Box::new(hello(2, 1)) };
    add("reply, accepted", FrameKind::HelloReply, &|out| accepted.encode(out));
    for (number, refused) in refusals().into_iter().enumerate() {
        let name = format!("reply, refused {:02}", number + 1);
        add(&name, FrameKind::HelloReply, &|out| HelloReply::Refused(refused.clone()).encode(out));
    }
    add("confirm, accepted", FrameKind::HelloConfirm, &|out| HelloConfirm::Accepted.encode(out));
    add("confirm, refused", FrameKind::HelloConfirm, &|out| {
        HelloConfirm::Refused(HelloRefused::ShuttingDown).encode(out);
    });
    add("snapshot header", FrameKind::SnapshotHeader, &|out| {
        assert!(snapshot_header().encode(out));
    });
    let mut sum = SnapshotSum::new();
    let chunk = sum.number("data of the snapshot".into()).expect("a legal chunk");
    add("snapshot chunk", FrameKind::SnapshotChunk, &|out| chunk.encode(out));
    add("snapshot end", FrameKind::SnapshotEnd, &|out| sum.end().encode(out));
    for (name, reply) in [
        ("snapshot reply, accepted", SnapshotReply::Accepted),
        ("snapshot reply, finished", SnapshotReply::Finished),
        ("snapshot reply, refused", SnapshotReply::Refused("not needed".to_owned())),
    ] {
        add(name, FrameKind::SnapshotReply, &|out| reply.encode(out));
    }
    add("keepalive", FrameKind::Keepalive, &|_| {});
    frames
}

/// Parses a payload of any kind all the way; whether it was understood.
pub fn parse(frame: &Frame) -> bool {
    match frame.kind {
        FrameKind::Hello => Hello::decode(&frame.payload).is_ok(),
        FrameKind::HelloReply => HelloReply::decode(&frame.payload).is_ok(),
        FrameKind::HelloConfirm => HelloConfirm::decode(&frame.payload).is_ok(),
        FrameKind::Packets => read_packets(&frame.payload).is_some(),
        FrameKind::SnapshotHeader => SnapshotHeader::decode(&frame.payload).is_ok(),
        FrameKind::SnapshotChunk => SnapshotChunk::decode(&frame.payload).is_ok(),
        FrameKind::SnapshotEnd => mraft_wire::SnapshotEnd::decode(&frame.payload).is_ok(),
        FrameKind::SnapshotReply => SnapshotReply::decode(&frame.payload).is_ok(),
        FrameKind::Keepalive => true,
    }
}

pub fn read_packets(payload: &Payload) -> Option<Vec<Packet>> {
    mraft_wire::PacketReader::new(payload, node(1), node(2)).ok()?.collect::<Result<_, _>>().ok()
}

/// Feeds bytes in pieces of at most `piece` and collects the frames.
pub fn read_frames(mut bytes: &[u8], piece: usize) -> Result<Vec<Frame>, FrameError> {
    let mut reader = FrameReader::new();
    reader.hello_is_done();
    let mut frames = Vec::new();
    loop {
        while let Some(frame) = reader.next_frame()? {
            frames.push(frame);
        }
        if bytes.is_empty() {
            return Ok(frames);
        }
        let buffer = reader.buffer();
        let len = buffer.len().min(piece).min(bytes.len());
        assert!(len > 0, "no room for the next bytes");
        buffer[..len].copy_from_slice(&bytes[..len]);
        reader.filled(len);
        bytes = &bytes[len..];
    }
}

/// SplitMix64: the same numbers for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }
}
