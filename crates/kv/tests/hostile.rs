// SPDX-License-Identifier: Apache-2.0

//! Bytes from clients, peers and disks that are not what they should be: an answer or an error, never a panic, never half a state.

#![allow(clippy::expect_used)]

mod support;

use mraft_disk::MemoryDisk;
use mraft_engine::machine::{MachineError, StateMachine};
use mraft_kv::command::Answer;
use mraft_kv::query::{Query, QueryAnswer};
use support::{Log, Random, chunks, contents, fresh_memory, kv, memory, put, random_command};

fn mutated(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    match random.below(4) {
        0 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
        1 => bytes.extend(random.bytes(8)),
        _ => {}
    }
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len().max(1) as u64) as usize;
        if let Some(byte) = bytes.get_mut(at) {
            *byte = if random.one_in(2) { random.below(256) as u8 } else { *byte ^ (1 << random.below(8)) };
        }
    }
    bytes
}

#[test]
fn a_committed_entry_cannot_poison_a_group() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 64 << 10);
    machine.open(None).expect("opens");
    let mut twin = fresh_memory();
    let mut random = Random::new(11);
    let mut log = Log::default();
    let mut refused = 0;
    for index in 1..=2000 {
        let body = match random.below(3) {
            0 => random.bytes(60),
            _ => {
                let body = random_command(&mut random, index);
                mutated(&mut random, body)
            }
        };
        log.append(vec![body]);
        let ours = log.apply(&mut machine, index - 1, index);
        assert_eq!(ours, log.apply(&mut twin, index - 1, index));
        let answer = Answer::decode(ours.get(0).expect("an answer")).expect("decodes");
        refused += usize::from(matches!(answer, Answer::Refused(_)));
    }
    assert!(refused > 500 && refused < 1900, "{refused} refused: the test shows too little");
    assert_eq!(machine.content_hash().expect("hashes"), twin.content_hash().expect("hashes"));
}

#[test]
fn a_bad_query_is_refused_in_words() {
    let mut machine = fresh_memory();
    Log::default().write(&mut machine, vec![put("a", "1"), put("b", "2")]);
    let lookup = machine.lookup();
    let mut random = Random::new(12);
    for _ in 0..5000 {
        let mut query = Vec::new();
        Query::Scan { prefix: b"a", after: Some(b"b"), limit: 3, max_bytes: 300 }.encode(&mut query);
        let query = if random.one_in(2) { random.bytes(20) } else { mutated(&mut random, query) };
        let mut answer = Vec::new();
        lookup.query(&query, &mut answer).expect("an answer");
        QueryAnswer::decode(&answer).expect("decodes");
        // Answers cross nodes too.
        let _ = QueryAnswer::decode(&mutated(&mut random, answer.clone()));
        let _ = Answer::decode(&mutated(&mut random, answer));
    }
}

#[test]
fn a_snapshot_that_is_not_whole_is_refused_and_the_state_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 64 << 10);
    machine.open(None).expect("opens");
    Log::default().write(&mut machine, vec![put("mine", "state")]);
    let mut sender = fresh_memory();
    let commands = (0..50).map(|key| put(format!("key{key}"), vec![key; 40])).collect();
    Log::default().write(&mut sender, commands);
    let sent = chunks(&mut *sender.snapshot().expect("a view"), 300);
    let mut random = Random::new(13);
    for _ in 0..300 {
        let mut received = sent.clone();
        let at = random.below(sent.len() as u64) as usize;
        match random.below(5) {
            0 => drop(received.remove(at)),
            1 => received.insert(at, sent[at].clone()),
            2 => received.swap(at, (at + 1) % sent.len()),
            3 => received[at] = random.bytes(100),
            _ => received[at] = mutated(&mut random, received[at].clone()),
        }
        if received == sent {
            continue;
        }
        let mut twin = fresh_memory();
        for machine in [&mut machine as &mut dyn StateMachine, &mut twin] {
            let mut stage = machine.stage(1, b"meta").expect("stages");
            let written = received.iter().try_for_each(|chunk| stage.write_chunk(chunk));
            let result = written.and_then(|()| stage.finish());
            assert!(matches!(result, Err(MachineError::Damaged(_) | MachineError::Unknown(_))), "{result:?}");
            machine.discard(1).expect("discards");
        }
    }
    assert_eq!(contents(&machine), [(b"mine".to_vec(), b"state".to_vec())]);
}

#[test]
fn damage_at_rest_is_said_and_nothing_is_touched() {
    let disk = MemoryDisk::new();
    let mut machine = memory(&disk);
    machine.open(None).expect("opens");
    let mut log = Log::default();
    log.write(&mut machine, vec![put("a", "1"), put("b", "2")]);
    machine.persist().expect("persists");
    for (path, len) in disk.files() {
        for bit in 0..len * 8 {
            let damaged = disk.fork();
            assert!(damaged.flip_bit(&path, bit));
            let result = memory(&damaged).open(None);
            let is_said = matches!(result, Err(MachineError::Damaged(_) | MachineError::Unknown(_)));
            assert!(is_said, "{path:?} bit {bit}: {result:?}");
            assert_eq!(damaged.files(), disk.files());
        }
    }
}

#[test]
fn a_tree_that_is_gone_is_not_begun_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut machine = kv(directory.path(), 64 << 10);
    machine.open(None).expect("opens");
    Log::default().write(&mut machine, vec![put("a", "1")]);
    machine.persist().expect("persists");
    drop(machine);
    std::fs::remove_file(directory.path().join("0/current")).expect("removes");
    for _ in 0..2 {
        let result = kv(directory.path(), 64 << 10).open(None);
        assert!(matches!(result, Err(MachineError::Damaged(_))), "{result:?}");
    }
}
