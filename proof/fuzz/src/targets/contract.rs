// SPDX-License-Identifier: Apache-2.0

//! Texts of the HTTP contract, as a client or a door gets them from the other side: JSON documents, escapes, ids.

use std::fmt::Display;
use std::str::FromStr;

use mraft_api::headers::{etag, revision_of_etag};
use mraft_api::kv::{BatchAnswer, BatchRequest, DeleteAnswer, ScanAnswer, WriteAnswer};
use mraft_api::{
    AddLearnerRequest, BatchOperation, ChangeAnswer, ClearConflictAnswer, GroupDetail, GroupsAnswer,
    MemberRow, NodeName, NodeRequest, NodeStatus, Problem, RetireAnswer, SeedEnvelope, SeedInfo, Served,
    VerifyAnswer, base64, percent,
};
use mraft_types::{GroupUid, InstanceId, NodeId, ReplicaId};
use serde::{Serialize, de::DeserializeOwned};

use super::pieces::names_in;
use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What reading may hold for each byte of its input: a member of a list of two bytes takes some hundred in memory.
const BYTES_PER_BYTE: usize = 128;
const BYTES_ALWAYS: usize = 8 << 10;

pub const CONTRACT: Target = Target {
    name: "contract",
    about: "api, types: JSON documents, base64, percent-encoding, entity tags, ids as people write them",
    run,
    seeds,
    words: || {
        let mut words = names_in(&seeds());
        words.extend(WORDS);
        words
    },
    shape: Shape::Behind(1, &Shape::Json),
    bytes_max: 1536,
    cost: 2,
};

const WORDS: &[&[u8]] = &[
    b"{\"operations\":[",
    b"{\"put\":{\"key\":\"",
    b"\"key_base64\":\"",
    b"\"value\":\"",
    b"{\"check\":{",
    b"\"absent\":true",
    b"\"revision\":",
    b"\"entries\":[",
    b"\"next\":null",
    b"\"next_base64\":\"",
    b"\"groups\":[",
    b"/w==",
    b"AA==",
    b"%2F",
    b"%00",
    b"+",
    b"\\u0000",
    b"\\ud83d\\ude00",
    b"\"code\":\"",
    b"\"outcome\":\"not_applied\"",
    b"18446744073709551615",
    b"-1",
    b"1e9",
    b"null",
    b"\"leader\":",
    b"\"result\":",
    b"10.0.0.1:13890",
    b"#0",
    b"#65535",
    b"281474976710655",
    b"W/\"7\"",
    b"[[[[[[[[",
];

const KINDS: u8 = 24;

/// ```text
/// input := kind:u8 (modulo 24)  text (the rest)
/// ```
fn run(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let allowed = BYTES_PER_BYTE * bytes.len() + BYTES_ALWAYS;
    let text = || std::str::from_utf8(bytes).ok();
    let read = match kind % KINDS {
        0 => json::<BatchRequest>(bytes, allowed),
        1 => json::<BatchAnswer>(bytes, allowed),
        2 => json::<ScanAnswer>(bytes, allowed),
        3 => json::<WriteAnswer>(bytes, allowed),
        4 => json::<DeleteAnswer>(bytes, allowed),
        5 => json::<Problem>(bytes, allowed),
        6 => json::<NodeStatus>(bytes, allowed),
        7 => json::<GroupsAnswer>(bytes, allowed),
        8 => json::<GroupDetail>(bytes, allowed),
        9 => json::<AddLearnerRequest>(bytes, allowed),
        10 => json::<NodeRequest>(bytes, allowed),
        11 => json::<ChangeAnswer>(bytes, allowed),
        12 => json::<VerifyAnswer>(bytes, allowed),
        13 => json::<RetireAnswer>(bytes, allowed),
        14 => json::<ClearConflictAnswer>(bytes, allowed),
        15 => json::<SeedEnvelope<SeedInfo>>(bytes, allowed),
        16 => text().is_some_and(|text| escaped(text, percent::decode_path(text).ok().as_deref())),
        17 => text().is_some_and(|text| escaped(text, percent::decode_query(text).ok().as_deref())),
        18 => text().is_some_and(encoded),
        19 => {
            text().is_some_and(|text| revision_of_etag(text).is_some_and(|revision| etag(revision) == text))
        }
        20 => text().is_some_and(id::<NodeId>),
        21 => text().is_some_and(id::<ReplicaId>),
        22 => text().is_some_and(|text| id::<GroupUid>(text) && id::<InstanceId>(text)),
        _ => text().is_some_and(id::<NodeName>),
    };
    Said::of(read)
}

fn json<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(bytes: &[u8], allowed: usize) -> bool {
    let read = bounded("a document", allowed, || serde_json::from_slice::<T>(bytes));
    let Ok(value) = read else { return false };
    let written = match serde_json::to_vec(&value) {
        Ok(written) => written,
        Err(error) => panic!("what was read cannot be written: {error}"),
    };
    match serde_json::from_slice::<T>(&written) {
        Ok(again) => assert_eq!(again, value, "a document does not come back"),
        Err(error) => panic!("what was written cannot be read: {error}"),
    }
    true
}

fn escaped(text: &str, decoded: Option<&[u8]>) -> bool {
    let Some(decoded) = decoded else { return false };
    assert!(decoded.len() <= text.len());
    let mut written = String::new();
    percent::encode(decoded, &mut written);
    assert_eq!(percent::decode_path(&written).as_deref(), Ok(decoded), "bytes do not come back from a path");
    assert_eq!(
        percent::decode_query(&written).as_deref(),
        Ok(decoded),
        "bytes do not come back from a query"
    );
    true
}

fn encoded(text: &str) -> bool {
    let Some(bytes) = base64::decode(text) else { return false };
    // Both alphabets are read, one is written.
    let standard: String = text.chars().map(|letter| if letter == '-' { '+' } else { letter }).collect();
    assert_eq!(base64::encode(&bytes), standard.replace('_', "/"), "base64 has a second form");
    true
}

fn id<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) -> bool {
    let Ok(id) = text.parse::<T>() else { return false };
    assert_eq!(id.to_string().parse::<T>().ok().as_ref(), Some(&id), "an id does not come back");
    true
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    let mut add = |kind: u8, text: &[u8]| seeds.push([&[kind][..], text].concat());
    let documents = documents();
    for (kind, document) in documents.iter().flatten() {
        add(*kind, document);
    }
    let mut path = String::new();
    percent::encode(b"a/b \xff{t}", &mut path);
    add(16, path.as_bytes());
    add(17, path.as_bytes());
    add(17, b"a+b%2Bc");
    for bytes in [&b""[..], b"\xff", b"ab", b"abc", b"abcd"] {
        add(18, base64::encode(bytes).as_bytes());
    }
    add(19, etag(300).as_bytes());
    let replica = ReplicaId::new(7, samples::node(3));
    for name in ["7", "10.0.0.1:13890"] {
        add(20, name.as_bytes());
    }
    add(21, replica.to_string().as_bytes());
    add(22, samples::UID.to_string().as_bytes());
    add(23, NodeName::from(replica).to_string().as_bytes());
    add(23, NodeName::from(replica.node()).to_string().as_bytes());
    seeds
}

fn documents() -> Vec<Option<(u8, Vec<u8>)>> {
    fn of(kind: u8, value: &impl Serialize) -> Option<(u8, Vec<u8>)> {
        Some((kind, serde_json::to_vec(value).ok()?))
    }
    let served =
        Served { group: 1, revision: 300, index: 7, leader: Some(2), served_by: 3, stale_ms: Some(12) };
    let node = NodeName::from(samples::node(7));
    let batch = BatchRequest {
        operations: vec![
            BatchOperation::Put { key: b"a".to_vec(), value: vec![0xff] },
            BatchOperation::Delete { key: vec![0xfe] },
            BatchOperation::Check { key: b"c".to_vec(), revision: Some(7) },
            BatchOperation::Check { key: b"d".to_vec(), revision: None },
        ],
    };
    let results = vec![
        mraft_api::BatchResult::Put { revision: 301 },
        mraft_api::BatchResult::Delete { deleted: 0, revision: None },
        mraft_api::BatchResult::Check { revision: Some(7) },
    ];
    let entry = mraft_api::ScanEntry { key: b"a".to_vec(), value: vec![0xff], revision: 3, group: 1 };
    let scan = ScanAnswer { entries: vec![entry], next: Some(vec![0xfe]), groups: vec![served] };
    let problem = Problem::new(mraft_api::ErrorCode::ConditionFailed, true, "because").with_hint("do");
    let member = MemberRow { replica: "7#0".to_owned(), node: 7, matched: Some(3), ..MemberRow::default() };
    let detail =
        GroupDetail { members: vec![member], chain_hash: Some("ab".to_owned()), ..GroupDetail::default() };
    let info = SeedInfo { node_id: 7, clusters: vec![Default::default()], ..SeedInfo::default() };
    let envelope = SeedEnvelope {
        code: 0,
        msg: "ok".to_owned(),
        result: Some(info),
        revision: Some(3),
        error: None,
        outcome: None,
        hint: None,
    };
    vec![
        of(0, &batch),
        of(1, &BatchAnswer { served, results }),
        of(2, &scan),
        of(2, &ScanAnswer::default()),
        of(3, &served),
        of(4, &DeleteAnswer { deleted: 1 }),
        of(5, &problem),
        of(
            6,
            &NodeStatus {
                peers: vec![Default::default()],
                conflicts: vec![Default::default()],
                ..NodeStatus::default()
            },
        ),
        of(7, &GroupsAnswer { served_by: 7, groups: vec![Default::default()] }),
        of(8, &detail),
        of(9, &AddLearnerRequest { node, raft_address: "10.0.0.1:13890".to_owned(), change_index: Some(3) }),
        of(10, &NodeRequest { node, change_index: None }),
        of(11, &ChangeAnswer { role: Some("voter".to_owned()), ..ChangeAnswer::default() }),
        of(12, &VerifyAnswer { replicas: vec![Default::default()], ..VerifyAnswer::default() }),
        of(13, &RetireAnswer { node: 7, groups: vec![0, 1] }),
        of(
            14,
            &ClearConflictAnswer { node: 7, known: Some("0a".to_owned()), ..ClearConflictAnswer::default() },
        ),
        of(15, &envelope),
    ]
}
