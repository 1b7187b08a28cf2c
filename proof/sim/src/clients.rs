// SPDX-License-Identifier: Apache-2.0

//! The load: clients with one operation under way each, who read and write a few keys through any node.

use mraft_kv::command::{Condition, Operation, encode};
use mraft_kv::query::Query;
use mraft_types::{GroupId, Index, NodeId, ReplicaId};

use crate::check::linearizable::Question;
use crate::check::model::Model;
use crate::mix::Mix;
use crate::random::Random;

/// Entries of one page of a scan.
const SCAN_LIMIT: usize = 3;
/// So many values of a thousand are long: as many entries as a leader keeps for a follower fit one batch of the simulated log, which is
/// smaller than what the consensus core may want written at once (`durability.rs`).
const LONG_PER_MILLE: u64 = 30;
/// Of all values of one command.
const LONG_BYTES_MAX: u64 = 1_500;

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A write; its bytes are unique in a run.
    Write(Vec<u8>),
    /// A linearizable read at the leader.
    Read(Question),
    /// A linearizable read at a follower, with the leader's index (rule R3).
    FollowerRead(Question),
    /// A read of whatever a node has.
    StaleRead(Question),
}

/// An operation under way.
#[derive(Clone, Debug)]
pub struct Asked {
    /// In which group.
    pub group: GroupId,
    /// What.
    pub wish: Wish,
    /// The place in the group's order that its answer must not fall behind.
    pub floor: Index,
    /// When it began, in microseconds of virtual time.
    pub asked_us: u64,
    /// At which node it is now.
    pub node: NodeId,
    /// What a leader said to a reader on its way to a follower.
    pub index: Option<Index>,
    /// How often it was passed on.
    pub attempts: u32,
    /// Which process of the node holds it; if that dies, nobody knows.
    pub boot: u64,
    /// The tick of that process at which it gives up.
    pub deadline_tick: u64,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Its operation.
    pub asked: Option<Asked>,
    /// Counts its operations: late answers to earlier ones go nowhere.
    pub series: u64,
    /// Where it found the leader last, per group.
    pub leader: Option<(GroupId, NodeId)>,
}

/// Draws the next wish. `series` counts the operations of all clients, which makes each write unique.
pub fn draw(mix: &Mix, random: &mut Random, series: u64, group: GroupId, model: &Model) -> Wish {
    let key = |random: &mut Random| key(group, random.draw() % mix.keys);
    let mut value = format!("v{series}").into_bytes();
    if random.per_mille(LONG_PER_MILLE) {
        // Longer than a sector: a write of it can be torn.
        value.resize(random.between(600, LONG_BYTES_MAX) as usize, b'.');
    }
    match random.between(0, 99) {
        0..=31 => {
            let key = key(random);
            write(&[Operation::Put { key: &key, value: &value, condition: Condition::None }])
        }
        32..=37 => {
            let (key, tag) = (key(random), tag(group, series));
            let unique = Operation::Check { key: &tag, condition: Condition::Absent };
            write(&[Operation::Delete { key: &key, condition: Condition::None }, unique])
        }
        38..=45 => {
            let key = key(random);
            let condition = match model.key_at(&key, Index::MAX) {
                Some((revision, _)) => Condition::Revision(*revision),
                None => Condition::Absent,
            };
            write(&[Operation::Put { key: &key, value: &value, condition }])
        }
        46..=51 => {
            let keys: Vec<Vec<u8>> = (0..random.between(2, 4)).map(|_| key(random)).collect();
            value.truncate(LONG_BYTES_MAX as usize / keys.len());
            let conditions: Vec<Condition> = keys
                .iter()
                .map(|_| if random.per_mille(200) { Condition::Exists } else { Condition::None })
                .collect();
            let put = |(key, condition)| Operation::Put { key, value: &value, condition };
            let mut operations: Vec<Operation<'_>> =
                keys.iter().map(Vec::as_slice).zip(conditions).map(put).collect();
            if random.per_mille(300) {
                operations[0] = Operation::Delete { key: &keys[0], condition: Condition::None };
            }
            if random.per_mille(300) {
                let condition = if random.per_mille(500) { Condition::Exists } else { Condition::Absent };
                operations.insert(0, Operation::Check { key: &keys[1], condition });
            }
            write(&operations)
        }
        52..=53 => Wish::Write(garbage(series)),
        54..=77 => Wish::Read(Question::Key(key(random))),
        78..=81 => Wish::Read(scan(group, random, mix)),
        82..=89 => Wish::FollowerRead(Question::Key(key(random))),
        90..=97 => Wish::StaleRead(Question::Key(key(random))),
        _ => Wish::StaleRead(scan(group, random, mix)),
    }
}

/// A put, and nothing that could fail.
pub fn put(mix: &Mix, random: &mut Random, series: u64, group: GroupId) -> Wish {
    let (key, value) = (key(group, random.draw() % mix.keys), format!("v{series}").into_bytes());
    write(&[Operation::Put { key: &key, value: &value, condition: Condition::None }])
}

/// A question's bytes.
pub fn query(question: &Question) -> Vec<u8> {
    let mut bytes = Vec::new();
    match question {
        Question::Key(key) => Query::Get { key }.encode(&mut bytes),
        Question::Scan { prefix, after, limit } => {
            Query::Scan { prefix, after: after.as_deref(), limit: *limit, max_bytes: usize::MAX }
                .encode(&mut bytes);
        }
    }
    bytes
}

/// Where to try next: where the leader is said to be, or anywhere.
pub fn next_node(hint: Option<ReplicaId>, nodes: &[NodeId], random: &mut Random) -> NodeId {
    match hint {
        Some(leader) if random.per_mille(900) => leader.node(),
        _ => nodes[random.index(nodes.len())],
    }
}

fn write(operations: &[Operation<'_>]) -> Wish {
    let mut body = Vec::new();
    encode(operations, &mut body);
    Wish::Write(body)
}

fn scan(group: GroupId, random: &mut Random, mix: &Mix) -> Question {
    let after = random.per_mille(500).then(|| key(group, random.draw() % mix.keys));
    Question::Scan { prefix: format!("{{{group}}}").into_bytes(), after, limit: SCAN_LIMIT }
}

fn key(group: GroupId, number: u64) -> Vec<u8> {
    format!("{{{group}}}{number}").into_bytes()
}

/// A key that nobody ever writes, another one for each operation.
fn tag(group: GroupId, series: u64) -> Vec<u8> {
    format!("{{{group}}}#{series}").into_bytes()
}

/// A command that is none: it has an answer like any other, and stops nobody.
fn garbage(series: u64) -> Vec<u8> {
    format!("?{series}").into_bytes()
}
