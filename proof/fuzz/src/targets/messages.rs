// SPDX-License-Identifier: Apache-2.0

//! What frames carry: packets, hellos, snapshot streams.

use mraft_types::codec::DecodeError;
use mraft_types::{NodeId, Payload};
use mraft_wire::{
    Expected, FRAME_HEADER_BYTES, FrameBuilder, Hello, HelloConfirm, HelloRefused, HelloReply, Packet,
    PacketReader, SnapshotChunk, SnapshotEnd, SnapshotHeader, SnapshotReply, SnapshotSum, check,
};

use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What decoding may hold for each byte of its input: an entry of three bytes takes some sixty in memory, and a payload of its own.
const BYTES_PER_BYTE: usize = 48;
/// What it may hold whatever the input: errors, empty tables.
const BYTES_ALWAYS: usize = 4 << 10;

pub const PACKETS: Target = Target {
    name: "packets",
    about: "wire: packets between two nodes, Raft messages among them",
    run: packets,
    seeds: packet_seeds,
    words: || {
        vec![
            b"\x05",
            b"\x08",
            b"\x20",
            b"\x30",
            b"\x31",
            b"\x81",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\xff\xff\x03",
        ]
    },
    shape: Shape::Bytes,
    bytes_max: 768,
    cost: 1,
};

pub const HELLO: Target = Target {
    name: "hello",
    about: "wire: hellos, their replies and confirmations, and the decision about a peer",
    run: hello,
    seeds: hello_seeds,
    words: || vec![b"nhid-1", b"nhid-2", b"\x00\x80", b"\x01\x00\x00\x00\x00\x00\x00\x00"],
    shape: Shape::Bytes,
    bytes_max: 1024,
    cost: 1,
};

pub const SNAPSHOT_STREAM: Target = Target {
    name: "snapshot-stream",
    about: "wire: a snapshot's header, chunks, end and replies",
    run: snapshot_stream,
    seeds: snapshot_seeds,
    words: Vec::new,
    shape: Shape::Bytes,
    bytes_max: 1024,
    cost: 1,
};

/// The nodes between which packets go.
pub fn nodes() -> (NodeId, NodeId) {
    (samples::node(1), samples::node(2))
}

/// Takes a packet into a frame that has room.
pub fn push(builder: &mut FrameBuilder, packet: &Packet) {
    let pushed = match packet {
        Packet::Raft { group, uid, message } => builder.push_raft(*group, *uid, message),
        Packet::HostBeat(beat) => builder.push_host_beat(beat),
        Packet::Request(request) => builder.push_request(request),
        Packet::Response(response) => builder.push_response(response),
    };
    assert_eq!(pushed, Ok(()), "what was decoded cannot be encoded: {packet:?}");
}

/// The two node ids that a payload of packets begins with.
pub fn packet_head() -> Vec<u8> {
    let (from, to) = nodes();
    [from.get().to_le_bytes(), to.get().to_le_bytes()].concat()
}

/// ```text
/// input := begins:u8  packets (the rest), behind the right node ids unless `begins` is odd
/// ```
fn packets(input: &[u8]) -> Said {
    let Some((begins, rest)) = input.split_first() else { return Said::Refused };
    let payload = if begins & 1 == 0 { [&packet_head(), rest].concat() } else { rest.to_vec() };
    let (from, to) = nodes();
    let payload = Payload::from(payload);
    let allowed = BYTES_PER_BYTE * payload.len() + BYTES_ALWAYS;
    let decoded = bounded("packets", allowed, || {
        PacketReader::new(&payload, from, to)?.collect::<Result<Vec<Packet>, DecodeError>>()
    });
    let Ok(packets) = decoded else { return Said::Refused };
    if packets.is_empty() {
        return Said::Refused;
    }
    let mut builder = FrameBuilder::new(from, to);
    packets.iter().for_each(|packet| push(&mut builder, packet));
    let written = builder.finish().unwrap_or_default();
    // One packet has one encoding.
    assert_eq!(&written[FRAME_HEADER_BYTES..], &payload[..], "packets are not written as they came");
    Said::Read
}

fn packet_seeds() -> Vec<Vec<u8>> {
    let (from, to) = nodes();
    let seed = |packets: &[Packet]| {
        let mut builder = FrameBuilder::new(from, to);
        packets.iter().for_each(|packet| push(&mut builder, packet));
        let frame = builder.finish().unwrap_or_default();
        [&[0], &frame[FRAME_HEADER_BYTES + 16..]].concat()
    };
    let all = samples::packets();
    let mut seeds: Vec<Vec<u8>> = all.chunks(1).map(seed).collect();
    seeds.push(seed(&all));
    let mut whole = seed(&all[..2]);
    whole.splice(0..1, [&[1], &packet_head()[..]].concat());
    seeds.push(whole);
    seeds
}

/// ```text
/// input := kind:u8 (0 hello, 1 reply, 2 confirmation; modulo 3)  payload (the rest)
/// ```
fn hello(input: &[u8]) -> Said {
    let Some((kind, payload)) = input.split_first() else { return Said::Refused };
    let allowed = BYTES_PER_BYTE * payload.len() + BYTES_ALWAYS;
    match kind % 3 {
        0 => {
            let Ok(theirs) = bounded("a hello", allowed, || Hello::decode(payload)) else {
                return Said::Refused;
            };
            let mut written = Vec::new();
            theirs.encode(&mut written);
            assert_eq!(written, payload, "a hello is not written as it came");
            judge(&theirs);
        }
        1 => {
            let Ok(reply) = bounded("a reply", allowed, || HelloReply::decode(payload)) else {
                return Said::Refused;
            };
            let mut written = Vec::new();
            reply.encode(&mut written);
            let again = HelloReply::decode(&written);
            match &reply {
                HelloReply::Accepted { hello, .. } => {
                    assert_eq!(again.as_ref(), Ok(&reply), "a reply does not come back");
                    judge(hello);
                }
                HelloReply::Refused(refused) => {
                    told(refused);
                    assert_eq!(again.as_ref(), Ok(&reply), "a refusal does not come back");
                }
            }
        }
        _ => {
            let Ok(confirm) = bounded("a confirmation", allowed, || HelloConfirm::decode(payload)) else {
                return Said::Refused;
            };
            if let HelloConfirm::Refused(refused) = &confirm {
                told(refused);
            }
            let mut written = Vec::new();
            confirm.encode(&mut written);
            assert_eq!(HelloConfirm::decode(&written), Ok(confirm), "a confirmation does not come back");
        }
    }
    Said::Read
}

fn told(refused: &HelloRefused) {
    assert!(!refused.to_string().is_empty() || matches!(refused, HelloRefused::Other(_)));
    let turned = refused.clone().from_other_side();
    assert_eq!(turned.from_other_side(), *refused, "a refusal that was turned round twice is another one");
}

/// Decides about a peer as node 2, which remembers something of every node, would.
fn judge(theirs: &Hello) {
    let ours = samples::full_hello(2, theirs.node.get());
    let known = samples::hello(theirs.node.get(), 2).record();
    let expectations = [
        Expected::default(),
        Expected { dialed: Some(samples::node(1)), record: Some(known), ..Expected::default() },
        Expected {
            record: Some(theirs.record()),
            conflicting: [samples::node(3)].into(),
            ..Expected::default()
        },
        Expected { retired: [samples::node(1)].into(), ..Expected::default() },
    ];
    for expected in &expectations {
        let Ok(accepted) = check(&ours, theirs, expected) else { continue };
        assert_eq!((theirs.to, theirs.deployment), (ours.node, ours.deployment));
        assert!(!expected.retired.contains(&theirs.node) && !expected.conflicting.contains(&theirs.node));
        assert!(theirs.versions.min <= accepted.version && accepted.version <= theirs.versions.max);
        // Nothing that was known is learned again, and a row is either news or a conflict.
        assert!(accepted.learned.keys().all(|node| !ours.instances.contains_key(node)));
        let settled =
            |(node, known, said): &(NodeId, _, _)| ours.instances.get(node) == Some(known) && known != said;
        assert!(accepted.conflicts.iter().all(settled));
    }
}

fn hello_seeds() -> Vec<Vec<u8>> {
    let seed = |kind: u8, fill: &dyn Fn(&mut Vec<u8>)| {
        let mut seed = vec![kind];
        fill(&mut seed);
        seed
    };
    let mut seeds = vec![
        seed(0, &|out| samples::hello(1, 2).encode(out)),
        seed(0, &|out| samples::full_hello(1, 2).encode(out)),
        seed(2, &|out| HelloConfirm::Accepted.encode(out)),
    ];
    let hello = Box::new(samples::full_hello(1, 2));
    let accepted = HelloReply::Accepted { version: 1, feature_level: 3, hello };
    seeds.push(seed(1, &|out| accepted.encode(out)));
    for refused in samples::refusals() {
        seeds.push(seed(1, &|out| HelloReply::Refused(refused.clone()).encode(out)));
    }
    let refused = HelloConfirm::Refused(HelloRefused::ShuttingDown);
    seeds.push(seed(2, &|out| refused.encode(out)));
    seeds
}

/// ```text
/// input := kind:u8 (0 header, 1 reply, 2 stream; modulo 3)  payload (the rest)
/// stream := (length:u8  chunk's payload)*  end's payload (the last piece)
/// ```
fn snapshot_stream(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let payload = Payload::copy_from(bytes);
    let allowed = BYTES_PER_BYTE * payload.len() + BYTES_ALWAYS;
    match kind % 3 {
        0 => {
            let decoded = bounded("a snapshot's header", allowed, || SnapshotHeader::decode(&payload));
            let Ok(header) = decoded else { return Said::Refused };
            let mut written = Vec::new();
            assert!(header.encode(&mut written));
            assert_eq!(written, bytes, "a header is not written as it came");
        }
        1 => {
            let decoded = bounded("a snapshot's reply", allowed, || SnapshotReply::decode(bytes));
            let Ok(reply) = decoded else { return Said::Refused };
            let mut written = Vec::new();
            reply.encode(&mut written);
            assert_eq!(written, bytes, "a reply is not written as it came");
        }
        _ => return Said::of(received(bytes)),
    }
    Said::Read
}

/// Whether a stream arrived whole: then it is what an honest sender would have sent.
fn received(mut bytes: &[u8]) -> bool {
    let mut sum = SnapshotSum::new();
    let mut data = Vec::new();
    loop {
        let Some((len, rest)) = bytes.split_first() else { return false };
        let Some((piece, behind)) = rest.split_at_checked(usize::from(*len)) else {
            // The last piece.
            let Ok(end) = SnapshotEnd::decode(rest) else { return false };
            let mut written = Vec::new();
            end.encode(&mut written);
            assert_eq!(written, rest);
            if sum.verify(&end).is_err() {
                return false;
            }
            let mut again = SnapshotSum::new();
            for data in data {
                assert!(again.number(data).is_ok());
            }
            assert_eq!(again.end(), end);
            return true;
        };
        let Ok(chunk) = SnapshotChunk::decode(&Payload::copy_from(piece)) else { return false };
        let mut written = Vec::new();
        chunk.encode(&mut written);
        assert_eq!(written, piece);
        if sum.receive(&chunk).is_err() {
            return false;
        }
        data.push(chunk.data);
        bytes = behind;
    }
}

fn snapshot_seeds() -> Vec<Vec<u8>> {
    let mut header = vec![0];
    samples::snapshot_header().encode(&mut header);
    let reply = |reply: SnapshotReply| {
        let mut seed = vec![1];
        reply.encode(&mut seed);
        seed
    };
    let mut sum = SnapshotSum::new();
    let mut stream = vec![2];
    for data in [&b"some data"[..], b"more data"] {
        let Ok(chunk) = sum.number(Payload::copy_from(data)) else { continue };
        stream.push(8 + data.len() as u8);
        chunk.encode(&mut stream);
    }
    stream.push(u8::MAX);
    sum.end().encode(&mut stream);
    vec![
        header,
        reply(SnapshotReply::Accepted),
        reply(SnapshotReply::Finished),
        reply(SnapshotReply::Refused("not needed".to_owned())),
        stream,
    ]
}
