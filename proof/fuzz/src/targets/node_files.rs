// SPDX-License-Identifier: Apache-2.0

//! What a node keeps of itself and of its groups, and what nodes ask one another.

use std::path::Path;

use mraft::decoders as host;
use mraft::meta::GroupMeta;
use mraft_cli::decoders as node;
use mraft_disk::MemoryDisk;
use mraft_disk::atomic;
use mraft_engine::{Depth, Dispute, StateHash};
use mraft_types::codec::Writer;
use mraft_types::{DeploymentId, GroupId, LogPosition, Payload, SlotSet};
use mraft_wire::RequestKind;

use super::pieces::{disk_with, names_in, put_file, raw_file};
use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What reading may hold for each byte of its input, its bytes written anew included.
const BYTES_PER_BYTE: usize = 64;
const BYTES_ALWAYS: usize = 8 << 10;
/// A routing table has a place for every slot.
const TABLE_BYTES_ALWAYS: usize = 16_384 * 16 + BYTES_ALWAYS;

pub const GROUP_META: Target = Target {
    name: "group-meta",
    about: "host: a group's replicated bookkeeping, from a store or a snapshot",
    run: group_meta,
    seeds: meta_seeds,
    words: || vec![b"\x00\x00\xff\x3f", b"\x01\x00\x00\x00\x00\x00\x00\x00"],
    shape: Shape::Bytes,
    bytes_max: 512,
    cost: 1,
};

pub const NODE_FILES: Target = Target {
    name: "node-files",
    about: "disk, host, cli: the small files identity, peers, group-list, topology, settings, and what guards them",
    run: node_files,
    seeds: file_seeds,
    words: || {
        vec![
            b"http_port",
            b"ca_file",
            b"listen_address",
            b"mutual_tls",
            b"\x00\x00\xff\x3f",
            b"\x01\x00\x00\x00\x00\x00\x00\x00",
            b"mraftidn",
            b"kv",
        ]
    },
    shape: Shape::Bytes,
    bytes_max: 768,
    cost: 1,
};

pub const QUESTIONS: Target = Target {
    name: "questions",
    about: "host, cli: what nodes ask one another, and the answers",
    run: questions,
    seeds: question_seeds,
    words: || {
        let mut words = names_in(&question_seeds());
        words.extend(QUESTION_WORDS);
        words
    },
    shape: Shape::Behind(1, &Shape::Json),
    bytes_max: 512,
    cost: 1,
};

const QUESTION_WORDS: &[&[u8]] = &[
    b"{\"change\":{\"group\":0,\"change\":",
    b"{\"promote\":{\"node\":7,\"change_index\":null}}",
    b"\"retire\"",
    b"\"remove\"",
    b"\"transfer\"",
    b"\"add_learner\"",
    b"{\"detail\":{\"group\":1}}",
    b"{\"hash\":{\"group\":1,\"index\":2}}",
    b"{\"verify\":{\"group\":1}}",
    b"\"node\"",
    b"\"topology\"",
    b"\"raft_address\":\"",
    b"{\"error\":",
    b"\"no_leader\"",
    b"{\"change\":{\"wrong_role\":[7,1]}}",
    b"\"group\":null",
    b"\"leader\":null",
    b"{\"overloaded\":{\"queue\":\"",
    b"\\u0000",
    b"18446744073709551615",
    b"-1",
    b"1e9",
    b"null",
    b"true",
];

fn group_meta(input: &[u8]) -> Said {
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let Ok(meta) = bounded("a meta", allowed, || GroupMeta::decode(input)) else { return Said::Refused };
    let written = meta.encode();
    assert_eq!(GroupMeta::decode(&written).as_ref(), Ok(&meta), "a meta does not come back");
    assert_eq!(meta.log_start().position, meta.applied);
    assert!(
        meta.slots.len() <= 16_384
            && meta.slots.ranges().iter().all(|range| meta.slots.contains(range.first))
    );
    Said::Read
}

fn metas() -> Vec<GroupMeta> {
    let genesis =
        GroupMeta::genesis(DeploymentId(7), GroupId(2), samples::membership(1), SlotSet::even_share(0, 3));
    let mut later = genesis.clone();
    later.advance(LogPosition { index: 900, term: 4 }, b"entry", b"results");
    later.disputed = Some(Dispute { index: 890, shown_by: Depth::Content });
    let empty = GroupMeta { membership: Default::default(), slots: SlotSet::default(), ..genesis.clone() };
    vec![genesis, later, empty]
}

fn meta_seeds() -> Vec<Vec<u8>> {
    metas().iter().map(GroupMeta::encode).collect()
}

/// ```text
/// input := kind:u8 (0 identity, 1 peers, 2 group-list, 3 topology, 4 settings, 5 any checked file; modulo 6)  payload (the rest)
/// ```
fn node_files(input: &[u8]) -> Said {
    let Some((kind, payload)) = input.split_first() else { return Said::Refused };
    if kind % KINDS == 5 {
        return checked_file(payload);
    }
    let allowed = BYTES_PER_BYTE * payload.len() + TABLE_BYTES_ALWAYS;
    let Some(written) = bounded("a small file", allowed, || again(*kind, payload)) else {
        return Said::Refused;
    };
    // What was read and written is read as the same.
    assert_eq!(again(*kind, &written).as_ref(), Some(&written), "a file does not come back");
    Said::Read
}

const KINDS: u8 = 6;

fn again(kind: u8, payload: &[u8]) -> Option<Vec<u8>> {
    match kind % KINDS {
        0 => host::identity(payload).ok(),
        1 => host::peers(payload).ok(),
        2 => host::group_list(payload).ok(),
        3 => node::routing_table(payload).ok(),
        _ => node::settings(payload).ok(),
    }
}

const ANY_MAGIC: [u8; 8] = *b"mraftidn";

fn checked_file(bytes: &[u8]) -> Said {
    let (disk, path) = (disk_with(Path::new("/")), Path::new("/file"));
    put_file(disk.as_ref(), path, bytes);
    let allowed = 2 * bytes.len() + BYTES_ALWAYS;
    let read = bounded("a checked file", allowed, || atomic::read(disk.as_ref(), path, ANY_MAGIC, 512));
    let payload = match read {
        Ok(payload) => payload.unwrap_or_else(|| panic!("the file is there")),
        Err(atomic::ReadError::Damaged(_)) => return Said::Refused,
        Err(other) => panic!("damage is told as something else: {other}"),
    };
    assert!(payload.len() <= 512);
    assert!(atomic::replace(disk.as_ref(), path, ANY_MAGIC, &payload).is_ok());
    assert_eq!(raw_file(disk.as_ref(), path), bytes, "a checked file is not written as it was read");
    Said::Read
}

fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |kind: u8, payload: Vec<u8>| {
        // What is written down here by hand is written by the product before it is used.
        if let Some(written) = again(kind, &payload) {
            seeds.push([&[kind][..], &written].concat());
        }
    };
    for log in [&b"\x00"[..], b"\x01", b"\x02\x08/var/wal"] {
        let mut identity = vec![2];
        identity.put_u64(7);
        identity.put_u64(3);
        identity.put_raw(&[5; 16]);
        identity.put_bytes(b"10.0.0.3:13890");
        identity.put_u64(4);
        identity.put_u64(0x1122_3344);
        identity.put_u32(1);
        identity.put_u8(1);
        identity.put_raw(log);
        add(0, identity);
    }
    let mut peers = vec![2];
    peers.put_varint(2);
    for node in 1..3_u8 {
        peers.put_u64(u64::from(node));
        peers.put_raw(&[node; 16]);
    }
    peers.put_varint(1);
    for number in [1, 4, 0x55, 100] {
        peers.put_u64(number);
    }
    for node in [4, 9] {
        peers.put_varint(1);
        peers.put_u64(node);
    }
    peers.put_varint(1);
    peers.put_u64(1);
    peers.put_raw(&[9; 16]);
    add(1, peers);
    for version in [2, 3] {
        let mut groups = vec![version];
        groups.put_varint(2);
        for (group, genesis) in [(2, metas()[0].encode()), (3, Vec::new())] {
            groups.put_u64(group);
            groups.put_raw(&samples::UID.0);
            groups.put_u64(samples::replica(3).get());
            groups.put_bytes(b"kv");
            groups.put_bytes(&genesis);
        }
        groups.put_varint(1);
        groups.put_u64(9);
        groups.put_raw(&samples::UID.0);
        groups.put_u64(samples::replica(3).get());
        for group in [2, 3] {
            groups.put_varint(1);
            groups.put_u64(group);
        }
        if version == 3 {
            groups.put_varint(1);
            groups.put_u64(3);
            groups.put_u8(1);
            groups.put_varint(77);
            groups.put_varint(1 << 32);
        }
        add(2, groups);
    }
    add(3, routing_table());
    let mut settings = vec![1];
    let kept = [("listen_address", "10.0.0.1:13890"), ("http_port", "8001"), ("ca_file", "/tls/ca.pem")];
    settings.put_varint(kept.len() as u64);
    for (name, value) in kept {
        settings.put_bytes(name.as_bytes());
        settings.put_bytes(value.as_bytes());
    }
    add(4, settings);
    let disk = MemoryDisk::new();
    if atomic::replace(&disk, Path::new("/file"), ANY_MAGIC, b"payload").is_ok() {
        seeds.push([&[5][..], &raw_file(&disk, Path::new("/file"))].concat());
    }
    seeds
}

fn routing_table() -> Vec<u8> {
    let mut table = vec![1];
    table.put_u64(1);
    table.put_varint(2);
    for (group, ranges) in [(0, &[(0, 100), (300, 400)][..]), (5, &[(401, 16_383)])] {
        table.put_u64(group);
        table.put_varint(ranges.len() as u64);
        for (first, last) in ranges {
            table.put_u16(*first);
            table.put_u16(*last);
        }
        table.put_varint(2);
        for (node, address) in [(1, &b"10.0.0.1:13890"[..]), (2, b"")] {
            table.put_u64(node);
            table.put_bytes(address);
        }
    }
    table
}

/// ```text
/// input := kind:u8 (0 an answer, 1 to 5 a question of that kind, 6 start a replica, 7 a state's hash; modulo 8)  body (the rest)
/// ```
fn questions(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let body = Payload::copy_from(bytes);
    let allowed = BYTES_PER_BYTE * bytes.len() + BYTES_ALWAYS;
    let Some(written) = bounded("a question", allowed, || asked_again(*kind, &body)) else {
        return Said::Refused;
    };
    assert_eq!(asked_again(*kind, &written).as_ref(), Some(&written), "a question does not come back");
    Said::Read
}

fn asked_again(kind: u8, body: &Payload) -> Option<Payload> {
    match kind % 8 {
        0 => node::answer(body).ok(),
        6 => host::start_replica(body).ok().map(Payload::from),
        7 => host::state_hash(body).ok().map(Payload::from),
        kind => {
            let (written_as, written) = node::question(RequestKind(kind), body).ok()?;
            // A rare question may come under either of the two kinds that carry them.
            let is_rare = |kind| matches!(kind, RequestKind::MEMBERSHIP | RequestKind::STATUS);
            assert!(written_as == RequestKind(kind) || is_rare(written_as) && is_rare(RequestKind(kind)));
            Some(written)
        }
    }
}

fn question_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let group = 5_u64.to_le_bytes();
    let mut add = |kind: u8, parts: &[&[u8]]| {
        let body = Payload::from(parts.concat());
        if let Some(written) = asked_again(kind, &body) {
            seeds.push([&[kind][..], &written].concat());
        }
    };
    add(1, &[&[1], &group, &[1], b"query"]);
    add(2, &[&[1], &group, &[0xff, 0x3f], b"command"]);
    add(3, &[&[1], &group]);
    for change in [
        r#"{"add_learner":{"node":"10.0.0.1:13890","raft_address":"10.0.0.1:13890","change_index":null}}"#,
        r#"{"promote":{"node":7,"change_index":3}}"#,
        r#"{"remove":{"node":7,"change_index":null}}"#,
        r#"{"transfer":{"node":7}}"#,
        r#"{"retire":{"node":7,"change_index":null}}"#,
    ] {
        add(4, &[&[1], format!(r#"{{"change":{{"group":5,"change":{change}}}}}"#).as_bytes()]);
    }
    for rare in [
        r#"{"detail":{"group":5}}"#,
        r#"{"hash":{"group":5,"index":9}}"#,
        r#"{"verify":{"group":5}}"#,
        r#""node""#,
        r#""topology""#,
    ] {
        add(5, &[&[1], rare.as_bytes()]);
    }
    let data = [7_u64.to_le_bytes(), 0_u64.to_le_bytes(), 8_u64.to_le_bytes()].concat();
    add(0, &[&[1, 1], &data, b"answer"]);
    add(0, &[&[1, 3], &data, &70_u64.to_le_bytes(), b"answer"]);
    add(0, &[&[1, 2], &routing_table()]);
    for error in [
        r#""no_leader""#,
        r#"{"transferring":7}"#,
        r#"{"change":{"wrong_role":[7,3]}}"#,
        r#"{"change":{"address_in_use":["10.0.0.1:1",7]}}"#,
        r#"{"overloaded":{"queue":"mail","retry_after_ms":20}}"#,
        r#"{"too_large":{"bytes":2,"bytes_max":1}}"#,
        r#"{"unknown":"why"}"#,
    ] {
        add(0, &[&[1, 0], format!(r#"{{"error":{error},"group":5,"leader":7}}"#).as_bytes()]);
    }
    let replica = [&group[..], &samples::UID.0, &samples::replica(3).get().to_le_bytes()].concat();
    add(6, &[&replica, b"\x02kv"]);
    let mut hash = Vec::new();
    StateHash { index: 900, chain: 77, content: None }.encode(&mut hash);
    add(7, &[&replica, &hash]);
    seeds
}
