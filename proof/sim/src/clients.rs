// SPDX-License-Identifier: Apache-2.0

//! The load: clients with one operation under way each, who read and write a few keys through any node.

use mraft_types::{GroupId, NodeId, ReplicaId};

use crate::faults::Mix;
use crate::machine::Op;
use crate::random::Random;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A write.
    Write(Op),
    /// A linearizable read of a key.
    Read(u64),
}

/// An operation under way.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// In which group.
    pub group: GroupId,
    /// What.
    pub wish: Wish,
    /// The oldest revision that its answer may show.
    pub floor: u64,
    /// Whether it began after everything had healed.
    pub in_calm: bool,
    /// At which node it is now.
    pub node: NodeId,
    /// How often it was passed on.
    pub attempts: u32,
    /// Which process of the node holds it; if that dies, nobody knows.
    pub boot: u64,
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

/// Draws the next wish. `values` counts the values written so far: each is written once.
pub fn draw(
    mix: &Mix,
    random: &mut Random,
    values: &mut u64,
    floor: impl Fn(GroupId, u64) -> u64,
) -> (GroupId, Wish) {
    let group = GroupId(random.draw() % mix.groups);
    let key = random.draw() % mix.keys;
    let mut fresh = || {
        *values += 1;
        *values
    };
    let wish = match random.between(0, 9) {
        0..=3 => Wish::Write(Op::Put { key, value: fresh() }),
        4 => Wish::Write(Op::Delete { key }),
        5 => Wish::Write(Op::CompareAndSet { key, revision: floor(group, key), value: fresh() }),
        _ => Wish::Read(key),
    };
    (group, wish)
}

/// Where to try next: where the leader is said to be, or anywhere.
pub fn next_node(hint: Option<ReplicaId>, nodes: &[NodeId], random: &mut Random) -> NodeId {
    match hint {
        Some(leader) if random.per_mille(900) => leader.node(),
        _ => nodes[random.index(nodes.len())],
    }
}
