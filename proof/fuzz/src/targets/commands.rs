// SPDX-License-Identifier: Apache-2.0

//! The key-value machine's language: commands, queries, and the answers to both.

use std::sync::Arc;

use mraft_disk::MemoryDisk;
use mraft_engine::machine::{self, Lookup, Results, StateMachine};
use mraft_kv::command::{self, Answer, Condition, Operation};
use mraft_kv::query::{Query, QueryAnswer, SCAN_BYTES_MAX, applied_of};
use mraft_kv::value::StoredValue;
use mraft_kv::{CountingMachine, MemoryKv, MemoryOptions};

use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

/// What decoding may hold for each byte of its input: an operation of five bytes takes some sixty in memory.
const BYTES_PER_BYTE: usize = 32;
const BYTES_ALWAYS: usize = 4 << 10;

pub const COMMAND: Target = Target {
    name: "kv-command",
    about: "kv: a command, what it does, and its answer",
    run: command,
    seeds: command_seeds,
    words: || vec![b"\x01\x01\x01\x00", b"{t}", b"\x00\x03\x04{t}a", b"\x80\x80\x01", b"\x81\x20"],
    shape: Shape::Bytes,
    bytes_max: 512,
    cost: 8,
};

pub const QUERY: Target = Target {
    name: "kv-query",
    about: "kv: a query, and the answer to it",
    run: query,
    seeds: query_seeds,
    words: || vec![b"\x01\x02", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"key/", b"\xff\xff"],
    shape: Shape::Bytes,
    bytes_max: 256,
    cost: 1,
};

pub const ANSWERS: Target = Target {
    name: "kv-answers",
    about: "kv: answers to commands and queries as they come from another node, and stored values",
    run: answers,
    seeds: answer_seeds,
    words: || vec![b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x80\x80\x01", b"\x01\x00\x00"],
    shape: Shape::Bytes,
    bytes_max: 512,
    cost: 1,
};

/// Two machines with a few keys, so that conditions hold and fail.
fn furnished() -> Option<MemoryKv> {
    let mut machine = MemoryKv::new(Arc::new(MemoryDisk::new()), "/kv".into(), MemoryOptions::default());
    machine.open(None).ok()?;
    let mut bodies = Vec::new();
    for key in [&b"{t}a"[..], b"{t}b", b"key/1", b"key/2", b"\xff\xff"] {
        let mut body = Vec::new();
        command::encode_put(key, b"value", &mut body);
        bodies.push(body);
    }
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    apply(&mut machine, 1, &bodies)?;
    Some(machine)
}

fn apply(machine: &mut MemoryKv, index: u64, bodies: &[&[u8]]) -> Option<Results> {
    let commands: Vec<machine::Command<'_>> = (0..)
        .zip(bodies)
        .map(|(position, body)| machine::Command { index, position, unix_ms: index, body })
        .collect();
    let mut results = Results::default();
    machine.apply(&commands, &mut results).ok()?;
    machine.commit(index, b"meta").ok()?;
    Some(results)
}

fn ask(machine: &MemoryKv, query: &Query<'_>) -> Option<QueryAnswer> {
    let (mut bytes, mut answer) = (Vec::new(), Vec::new());
    query.encode(&mut bytes);
    machine.lookup().query(&bytes, &mut answer).ok()?;
    QueryAnswer::decode(&answer).ok()
}

fn revision(machine: &MemoryKv) -> u64 {
    match ask(machine, &Query::Status) {
        Some(QueryAnswer::Status(status)) => status.group_revision,
        other => panic!("a machine does not say how it is: {other:?}"),
    }
}

/// The input is a command, applied by two replicas, alone and behind itself.
fn command(input: &[u8]) -> Said {
    let allowed = BYTES_PER_BYTE * input.len() + BYTES_ALWAYS;
    let decoded = bounded("a command", allowed, || command::decode(input));
    if let Ok(operations) = &decoded {
        let mut written = Vec::new();
        command::encode(operations, &mut written);
        assert_eq!(written, input, "a command is not written as it came");
    }
    let (Some(mut one), Some(mut other)) = (furnished(), furnished()) else { panic!("a new machine fails") };
    let before = revision(&one);
    let together = apply(&mut one, 2, &[input, input]);
    let (first, second) = (apply(&mut other, 2, &[input]), apply(&mut other, 3, &[input]));
    let (Some(together), Some(first), Some(second)) = (together, first, second) else {
        panic!("a command stops a replica");
    };
    assert_eq!(together.bytes(), [first.bytes(), second.bytes()].concat(), "replicas answer differently");
    let hashes = (one.content_hash().ok(), other.content_hash().ok());
    assert!(hashes.0.is_some() && hashes.0 == hashes.1, "replicas hold other content");
    let Ok(answer) = Answer::decode(first.bytes()) else { panic!("an answer does not decode") };
    match (&answer, &decoded) {
        (Answer::Refused(said), Err(refusal)) => assert_eq!(said, refusal),
        (Answer::Applied { revision, outcomes }, Ok(operations)) => {
            assert_eq!(outcomes.len(), operations.len());
            let mutations = outcomes.iter().filter(|outcome| {
                matches!(outcome, command::Outcome::Put { .. } | command::Outcome::Deleted { .. })
            });
            assert_eq!(*revision, before + mutations.count() as u64, "rule E2");
        }
        (Answer::ConditionFailed { revision, position, .. }, Ok(operations)) => {
            assert!((*position as usize) < operations.len() && *revision == before);
        }
        _ => panic!("{decoded:?} is answered by {answer:?}"),
    }
    Said::of(decoded.is_ok())
}

fn command_seeds() -> Vec<Vec<u8>> {
    let put = |condition| Operation::Put { key: b"{t}a", value: b"1", condition };
    let delete = |key, condition| Operation::Delete { key, condition };
    let check = |condition| Operation::Check { key: b"{t}b", condition };
    let commands = [
        vec![put(Condition::None)],
        vec![put(Condition::Absent)],
        vec![put(Condition::Revision(1)), put(Condition::Exists)],
        vec![delete(b"{t}b", Condition::Exists), delete(b"{t}z", Condition::None)],
        vec![check(Condition::Revision(2)), check(Condition::Exists), put(Condition::None)],
        vec![check(Condition::Revision(300))],
    ];
    let encoded = |operations: &Vec<Operation<'_>>| {
        let mut body = Vec::new();
        command::encode(operations, &mut body);
        body
    };
    commands.iter().map(encoded).collect()
}

fn query(input: &[u8]) -> Said {
    thread_local! {
        // It is only asked.
        static MACHINE: Arc<dyn Lookup> = furnished().map(|machine| machine.lookup()).unwrap_or_else(|| panic!("a new machine fails"));
    }
    let decoded = Query::decode(input);
    if let Ok(query) = &decoded {
        let mut written = Vec::new();
        query.encode(&mut written);
        assert_eq!(Query::decode(&written).as_ref(), Ok(query), "a query does not come back");
    }
    let mut bytes = Vec::new();
    let answered = MACHINE.with(|machine| machine.query(input, &mut bytes));
    assert!(answered.is_ok(), "a query makes a machine fail");
    let Ok(answer) = QueryAnswer::decode(&bytes) else { panic!("an answer does not decode") };
    match (&decoded, &answer) {
        (Err(refusal), QueryAnswer::Refused(said)) => assert_eq!(refusal, said),
        (Ok(Query::Get { .. }), QueryAnswer::Get { applied, .. }) => {
            assert_eq!(applied_of(&bytes), Ok(*applied))
        }
        (Ok(Query::Scan { prefix, after, limit, max_bytes }), QueryAnswer::Scan { entries, next, .. }) => {
            assert!(entries.len() <= *limit && *max_bytes <= SCAN_BYTES_MAX);
            assert!(entries.is_sorted_by(|one, other| one.key < other.key));
            for entry in entries {
                assert!(
                    entry.key.starts_with(prefix) && after.is_none_or(|after| entry.key.as_slice() > after)
                );
            }
            assert!(next.is_none() || *next == entries.last().map(|entry| entry.key.clone()));
        }
        (Ok(Query::Status), QueryAnswer::Status(_)) => {}
        _ => panic!("{decoded:?} is answered by {answer:?}"),
    }
    Said::of(decoded.is_ok())
}

fn query_seeds() -> Vec<Vec<u8>> {
    let queries = [
        Query::Get { key: b"key/1" },
        Query::Get { key: b"nobody" },
        Query::Scan { prefix: b"key/", after: None, limit: 10, max_bytes: 1 << 20 },
        Query::Scan { prefix: b"", after: Some(b"key/1"), limit: 1, max_bytes: 0 },
        Query::Status,
    ];
    let encoded = |query: &Query<'_>| {
        let mut bytes = Vec::new();
        query.encode(&mut bytes);
        bytes
    };
    queries.iter().map(encoded).collect()
}

/// ```text
/// input := kind:u8 (0 to a command, 1 to a query, 2 a stored value, 3 counts; modulo 4)  bytes (the rest)
/// ```
fn answers(input: &[u8]) -> Said {
    let Some((kind, bytes)) = input.split_first() else { return Said::Refused };
    let allowed = BYTES_PER_BYTE * bytes.len() + BYTES_ALWAYS;
    match kind % 4 {
        0 => {
            let Ok(answer) = bounded("an answer", allowed, || Answer::decode(bytes)) else {
                return Said::Refused;
            };
            let mut written = Vec::new();
            answer.encode(&mut written);
            assert_eq!(Answer::decode(&written), Ok(answer), "an answer does not come back");
            assert_eq!(written, bytes, "an answer is not written as it came");
        }
        1 => {
            let decoded = bounded("a query's answer", allowed, || QueryAnswer::decode(bytes));
            let Ok(answer) = decoded else { return Said::Refused };
            let applied = match answer {
                QueryAnswer::Get { applied, .. } | QueryAnswer::Scan { applied, .. } => Some(applied),
                QueryAnswer::Refused(_) | QueryAnswer::Status(_) => None,
            };
            assert_eq!(applied_of(bytes).ok(), applied);
        }
        2 => {
            let decoded = bounded("a stored value", BYTES_ALWAYS, || StoredValue::decode(bytes));
            let Ok(value) = decoded else { return Said::Refused };
            let header = bytes.len() - value.bytes.len();
            assert_eq!(header, if value.expires_at.is_some() { 19 } else { 11 });
            assert!(bytes.ends_with(value.bytes));
        }
        _ => {
            let Ok((commands, counted)) = CountingMachine::decode_answer(bytes) else { return Said::Refused };
            assert_eq!([commands.to_le_bytes(), counted.to_le_bytes()].concat(), bytes);
        }
    }
    Said::Read
}

fn answer_seeds() -> Vec<Vec<u8>> {
    use command::{Outcome, Refusal};
    let outcomes = vec![
        Outcome::Put { revision: 300 },
        Outcome::Deleted { revision: 301 },
        Outcome::NotFound,
        Outcome::Checked,
    ];
    let answers = [
        Answer::Applied { revision: 301, outcomes },
        Answer::ConditionFailed { revision: 300, position: 2, current: None },
        Answer::ConditionFailed { revision: 300, position: 0, current: Some(7) },
        Answer::Refused(Refusal::ManySlots),
        Answer::Refused(Refusal::TooLong),
    ];
    let mut seeds: Vec<Vec<u8>> = answers
        .iter()
        .map(|answer| {
            let mut seed = vec![0];
            answer.encode(&mut seed);
            seed
        })
        .collect();
    if let Some(machine) = furnished() {
        for query in query_seeds().iter().map(Vec::as_slice).chain([&b"\x01\x09"[..], b"\x02"]) {
            let mut seed = vec![1];
            if machine.lookup().query(query, &mut seed).is_ok() {
                seeds.push(seed);
            }
        }
    }
    seeds.push(b"\x02\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00value".to_vec());
    seeds.push(
        b"\x02\x01\x00\x01\x07\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00value".to_vec(),
    );
    seeds.push([&[3][..], &[7; 16]].concat());
    seeds
}
