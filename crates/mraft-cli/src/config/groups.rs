// SPDX-License-Identifier: Apache-2.0

//! `initial_members` and `join`: which groups there are, who founds them, and what this node is in each (rows S9, S12).
//!
//! | in `initial_members` | in `join` | meaning |
//! |---|---|---|
//! | yes | absent or false | an original member |
//! | yes | true | joined later, at this address |
//! | no | true | joined later, address known to the group |
//! | no | false | refused: an original member must have an address |
//!
//! All nodes must derive the same founding from their own documents: a group's uid is made of its original members.

use std::collections::BTreeMap;

use mraft_types::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use mraft_types::{GroupId, NodeId, SLOT_COUNT, SlotSet};

use super::address::HostPort;
use super::keys::Key;
use super::layers::Layers;
use super::raw::Raw;
use super::source::{Given, Problem, Setting, Source};
use super::value::{Strictness, Value, decimal};

/// Raft addresses by group and node.
pub type MemberMap = BTreeMap<GroupId, BTreeMap<NodeId, Setting<HostPort>>>;
/// Whether a node joined later, by group and node.
pub type JoinMap = BTreeMap<GroupId, BTreeMap<NodeId, Setting<bool>>>;

/// What the document says about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// The original members with their Raft addresses: those that found the group.
    pub originals: BTreeMap<NodeId, String>,
    /// Nodes that joined later, with their address where the document knows it.
    pub joined: BTreeMap<NodeId, Option<String>>,
    /// What this node is in the group.
    pub here: Here,
    /// The slots that the group serves by rule M10; empty while the topology comes from a peer.
    pub slots: SlotSet,
}

/// What this node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// It founds the group with the other original members.
    Original,
    /// It joined later: it waits for a member to bring it up.
    Joiner,
    /// It holds no replica of the group and only knows of it.
    Absent,
}

/// Where this node's first routing table comes from (rule M10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologySource {
    /// Even contiguous slot ranges over the sorted groups of this document.
    Document,
    /// The document does not list the cluster's groups, or this node only joins: the first peer that connects tells.
    FirstPeer,
}

/// More groups than slots would leave some without any key.
const GROUPS_MAX: usize = SLOT_COUNT as usize;

/// Compares both maps with each other and with who this node is. `None` when something is wrong.
pub fn plan(
    members: &MemberMap,
    join: &JoinMap,
    node: &Setting<NodeId>,
    raft_address: &Setting<HostPort>,
    problems: &mut Vec<Problem>,
) -> Option<(BTreeMap<GroupId, GroupPlan>, TopologySource)> {
    let before = problems.len();
    check_addresses(members, problems);
    check_own_address(members, node, raft_address, problems);
    check_join(members, join, problems);
    check_counts(members, problems);
    if problems.len() > before {
        return None;
    }

    let is_joined = |group: &GroupId, id: &NodeId| {
        join.get(group).and_then(|nodes| nodes.get(id)).is_some_and(|joined| joined.value)
    };
    let mut plans = BTreeMap::new();
    let all: std::collections::BTreeSet<GroupId> = members.keys().chain(join.keys()).copied().collect();
    for group in all {
        let mut plan = GroupPlan {
            originals: BTreeMap::new(),
            joined: BTreeMap::new(),
            here: Here::Absent,
            slots: SlotSet::default(),
        };
        for (id, address) in members.get(&group).into_iter().flatten() {
            let address = address.value.to_string();
            match is_joined(&group, id) {
                true => drop(plan.joined.insert(*id, Some(address))),
                false => drop(plan.originals.insert(*id, address)),
            }
        }
        for id in join.get(&group).into_iter().flatten().filter(|(_, joined)| joined.value).map(|(id, _)| id)
        {
            plan.joined.entry(*id).or_insert(None);
        }
        if plan.originals.contains_key(&node.value) {
            plan.here = Here::Original;
        } else if plan.joined.contains_key(&node.value) {
            plan.here = Here::Joiner;
        }
        plans.insert(group, plan);
    }

    let only_joins = plans.values().any(|plan| plan.here == Here::Joiner)
        && plans.values().all(|plan| plan.here != Here::Original);
    let topology = match members.is_empty() || only_joins {
        true => TopologySource::FirstPeer,
        false => TopologySource::Document,
    };
    if topology == TopologySource::Document {
        for (position, group) in members.keys().enumerate() {
            if let Some(plan) = plans.get_mut(group) {
                plan.slots = SlotSet::even_share(position as u64, members.len() as u64);
            }
        }
    }
    Some((plans, topology))
}

/// In fixed-address mode a node has one address, and an address has one node.
fn check_addresses(members: &MemberMap, problems: &mut Vec<Problem>) {
    let mut address_of: BTreeMap<NodeId, (Given, &HostPort)> = BTreeMap::new();
    let mut node_at: BTreeMap<&HostPort, (Given, NodeId)> = BTreeMap::new();
    for (group, nodes) in members {
        for (id, address) in nodes {
            let given = address.given(&format!("initial_members.{group}.{id}"));
            match address_of.get(id) {
                Some((other, known)) if **known != address.value => problems.push(Problem::Conflict {
                    left: other.clone(),
                    right: given.clone(),
                    fix: format!(
                        "a node has one Raft address: write the same one for node {id} in every group"
                    ),
                }),
                _ => drop(address_of.insert(*id, (given.clone(), &address.value))),
            }
            match node_at.get(&address.value) {
                Some((other, known)) if known != id => problems.push(Problem::Conflict {
                    left: other.clone(),
                    right: given,
                    fix: format!("one address is one node: correct the id or the address of node {id}"),
                }),
                _ => drop(node_at.insert(&address.value, (given, *id))),
            }
        }
    }
}

fn check_own_address(
    members: &MemberMap,
    node: &Setting<NodeId>,
    raft_address: &Setting<HostPort>,
    problems: &mut Vec<Problem>,
) {
    for (group, nodes) in members {
        for (id, address) in nodes {
            let field = format!("initial_members.{group}.{id}");
            if *id == node.value && address.value != raft_address.value {
                return problems.push(Problem::Conflict {
                    left: address.given(&field),
                    right: raft_address.given("raft_address"),
                    fix: format!(
                        "node {id} is this node: set ip and raft_port to {}, or correct the member list",
                        address.value
                    ),
                });
            }
            if *id != node.value && address.value == raft_address.value {
                return problems.push(Problem::Conflict {
                    left: address.given(&field),
                    right: node.given("node_id"),
                    fix: format!(
                        "this node has that address: set node_id to {id}, or correct the member list"
                    ),
                });
            }
        }
    }
}

fn check_join(members: &MemberMap, join: &JoinMap, problems: &mut Vec<Problem>) {
    for (group, nodes) in join {
        for (id, joined) in nodes {
            let listed = members.get(group).is_some_and(|members| members.contains_key(id));
            if !joined.value && !listed {
                problems.push(Problem::Missing {
                    field: format!("initial_members.{group}.{id}"),
                    fix: format!(
                        "`join.{group}.{id}` = false ({}) says that node {id} is an original member: give its Raft address, \
                         or true if it joined later",
                        joined.source
                    ),
                });
            }
        }
    }
}

fn check_counts(members: &MemberMap, problems: &mut Vec<Problem>) {
    let too_many = |field: String, count: usize, expected: String| Problem::Value {
        given: Given { field, value: format!("{count} entries"), source: Source::Default },
        expected,
    };
    if members.len() > GROUPS_MAX {
        let expected = format!("at most {GROUPS_MAX} groups, one per slot");
        problems.push(too_many("initial_members".to_owned(), members.len(), expected));
    }
    for (group, nodes) in members.iter().filter(|(_, nodes)| nodes.len() > MEMBERS_MAX) {
        let expected = format!("at most {MEMBERS_MAX} members of one group");
        problems.push(too_many(format!("initial_members.{group}"), nodes.len(), expected));
    }
}

impl Value for MemberMap {
    const KIND: &'static str = "table: group → node → address";

    fn parse(_: &Raw, _: Strictness, _: &Key) -> Result<MemberMap, String> {
        Err("a table of groups, each a table of nodes".to_owned())
    }

    fn show(&self) -> String {
        format!("{} groups", self.len())
    }

    fn take(key: &'static Key, layers: &Layers, problems: &mut Vec<Problem>) -> Option<Setting<MemberMap>> {
        take_table(key, layers, problems, |raw, strict| match raw {
            Raw::Text(text) if text.starts_with("nhid-") => {
                Err("the Raft address \"host:port\": addressing by NodeHostID comes with a later release"
                    .to_owned())
            }
            raw => {
                let address = HostPort::parse(raw, strict, key)?;
                match (address.host.is_unspecified(), address.to_string().len() > ADDRESS_BYTES_MAX) {
                    (true, _) => Err("an address that other nodes can dial".to_owned()),
                    (_, true) => Err(format!("at most {ADDRESS_BYTES_MAX} bytes long")),
                    _ => Ok(address),
                }
            }
        })
    }
}

impl Value for JoinMap {
    const KIND: &'static str = "table: group → node → boolean";

    fn parse(_: &Raw, _: Strictness, _: &Key) -> Result<JoinMap, String> {
        Err("a table of groups, each a table of nodes".to_owned())
    }

    fn show(&self) -> String {
        format!("{} groups", self.len())
    }

    fn take(key: &'static Key, layers: &Layers, problems: &mut Vec<Problem>) -> Option<Setting<JoinMap>> {
        take_table(key, layers, problems, |raw, strict| bool::parse(raw, strict, key))
    }
}

type Table<T> = BTreeMap<GroupId, BTreeMap<NodeId, Setting<T>>>;

fn take_table<T>(
    key: &'static Key,
    layers: &Layers,
    problems: &mut Vec<Problem>,
    parse: impl Fn(&Raw, Strictness) -> Result<T, String>,
) -> Option<Setting<Table<T>>> {
    let before = problems.len();
    let mut table: Table<T> = BTreeMap::new();
    let mut strongest = Source::Default;
    for (group, node, raw, source) in layers.table(key) {
        let field = format!("{}.{group}.{node}", key.name);
        let given = |value: String| Given { field: field.clone(), value, source: source.clone() };
        let Some(group) = decimal(group).map(GroupId).filter(|group| *group != GroupId::CONTROL) else {
            let expected = "a group id as its first part: a number from 0 to 18446744073709551614".to_owned();
            problems.push(Problem::Value { given: given(raw.to_string()), expected });
            continue;
        };
        let Ok(node) = node.parse::<NodeId>() else {
            let expected = "a node id as its last part: a number from 1 to 281474976710655".to_owned();
            problems.push(Problem::Value { given: given(raw.to_string()), expected });
            continue;
        };
        match parse(raw, Strictness::of(source)) {
            Err(expected) => problems.push(Problem::Value { given: given(raw.to_string()), expected }),
            Ok(value) => {
                let setting = Setting { value, source: source.clone() };
                if table.entry(group).or_default().insert(node, setting).is_some() {
                    let expected = format!("given once: node {node} of group {group} is there twice");
                    problems.push(Problem::Value { given: given(raw.to_string()), expected });
                }
                strongest = strongest.max(source.clone());
            }
        }
    }
    (problems.len() == before).then_some(Setting { value: table, source: strongest })
}
