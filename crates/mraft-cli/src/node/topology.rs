// SPDX-License-Identifier: Apache-2.0

//! Which groups there are, whose slots are whose, and who holds what: the routing table of the doors (rules E5, M10).
//!
//! It is a hint: a group's replicated state decides about its slots, its membership about who holds it. The table is kept beside the
//! node's data, so that a restart needs no document:
//!
//! ```text
//! topology := magic "mraftmap" and checksum by the atomic file; then
//!   version:u8=1  topology_version:u64  groups:varint  ( group:u64  ranges:varint (first:u16 last:u16)*
//!                                                         members:varint (node:u64 address:bytes)* )*
//! ```
//! Groups and nodes ascend. An address may be empty: then only the group knows it.

use std::collections::BTreeMap;
use std::path::Path;

use mraft_disk::{Disk, atomic};
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX};
use mraft_types::slots::SlotRange;
use mraft_types::{GroupId, NodeId, SLOT_COUNT, SlotSet};

use crate::config::GroupPlan;

const MAGIC: [u8; 8] = *b"mraftmap";
const FILE: &str = "topology";
const VERSION: u8 = 1;
/// Every slot a group of its own, with as many members as a group may have: far more than any cluster has.
pub(super) const TOPOLOGY_BYTES_MAX: usize = 64 << 20;
/// More groups than slots would leave some without any key.
const GROUPS_MAX: usize = SLOT_COUNT as usize;

/// The table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Topology {
    version: u64,
    groups: BTreeMap<GroupId, Row>,
    /// By slot; made of the groups.
    by_slot: Vec<Option<GroupId>>,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// The slots of its keys.
    pub(super) slots: SlotSet,
    /// Who is said to hold it, with Raft addresses where they are known.
    pub(super) members: BTreeMap<NodeId, String>,
}

impl Topology {
    /// The first table, out of a document that lists all groups.
    pub(super) fn of_plans(plans: &BTreeMap<GroupId, GroupPlan>) -> Topology {
        let row = |plan: &GroupPlan| {
            let joined =
                plan.joined.iter().map(|(node, address)| (*node, address.clone().unwrap_or_default()));
            let originals = plan.originals.iter().map(|(node, address)| (*node, address.clone()));
            Row { slots: plan.slots.clone(), members: originals.chain(joined).collect() }
        };
        Topology::new(1, plans.iter().map(|(group, plan)| (*group, row(plan))).collect())
    }

    fn new(version: u64, groups: BTreeMap<GroupId, Row>) -> Topology {
        let mut by_slot = vec![None; usize::from(SLOT_COUNT)];
        for (group, row) in &groups {
            for range in row.slots.ranges() {
                by_slot[usize::from(range.first)..=usize::from(range.last)].fill(Some(*group));
            }
        }
        Topology { version, groups, by_slot }
    }

    /// The group of a slot.
    pub(super) fn group_of(&self, slot: u16) -> Option<GroupId> {
        self.by_slot.get(usize::from(slot)).copied().flatten()
    }

    /// All groups.
    pub(super) fn groups(&self) -> &BTreeMap<GroupId, Row> {
        &self.groups
    }

    /// Counts changes of the table.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether nothing is known yet.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Every node with an address.
    pub(super) fn addresses(&self) -> BTreeMap<NodeId, String> {
        let rows = self.groups.values().flat_map(|row| &row.members);
        rows.filter(|(_, address)| !address.is_empty())
            .map(|(node, address)| (*node, address.clone()))
            .collect()
    }

    /// A number that is equal for equal tables, for the hello and for people. Members are left out: they change without the slots.
    pub(super) fn hash(&self) -> [u8; 16] {
        let mut bytes = Vec::new();
        for (group, row) in &self.groups {
            bytes.put_u64(group.0);
            put_ranges(&row.slots, &mut bytes);
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        hash
    }

    /// What a node kept; `None` when it kept nothing yet.
    pub(super) fn read(disk: &dyn Disk, data_dir: &Path) -> Result<Option<Topology>, String> {
        let path = data_dir.join(FILE);
        let told = |error: String| format!("{}: {error}", path.display());
        match atomic::read(disk, &path, MAGIC, TOPOLOGY_BYTES_MAX) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => Topology::decode(&bytes).map(Some).map_err(|error| told(error.to_string())),
            Err(atomic::ReadError::Io(error)) => Err(told(error.to_string())),
            Err(error) => Err(told(format!(
                "damaged: {error}; it is only the routing table: remove the file and start with --config"
            ))),
        }
    }

    /// Keeps the table.
    pub(super) fn write(&self, disk: &dyn Disk, data_dir: &Path) -> Result<(), String> {
        let path = data_dir.join(FILE);
        atomic::replace(disk, &path, MAGIC, &self.encode())
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u8(VERSION);
        out.put_u64(self.version);
        out.put_varint(self.groups.len() as u64);
        for (group, row) in &self.groups {
            out.put_u64(group.0);
            put_ranges(&row.slots, &mut out);
            out.put_varint(row.members.len() as u64);
            for (node, address) in &row.members {
                out.put_u64(node.get());
                out.put_bytes(address.as_bytes());
            }
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Topology, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.u8("topology.format")? {
            VERSION => {}
            other => return Err(DecodeError::Unknown("topology.format", u64::from(other))),
        }
        let version = reader.u64("topology.version")?;
        let mut groups = BTreeMap::new();
        for _ in 0..reader.bounded("topology.groups", GROUPS_MAX)? {
            let group = GroupId(reader.u64("topology.group")?);
            let mut ranges = Vec::new();
            for _ in 0..reader.bounded("topology.ranges", usize::from(SLOT_COUNT))? {
                let (first, last) = (reader.u16("topology.first")?, reader.u16("topology.last")?);
                ranges.push(SlotRange { first, last });
            }
            let slots =
                SlotSet::from_ranges(ranges).ok_or(DecodeError::Invalid("topology.ranges", group.0))?;
            let mut members = BTreeMap::new();
            for _ in 0..reader.bounded("topology.members", MEMBERS_MAX)? {
                let node = reader.u64("topology.node")?;
                let node = NodeId::new(node).ok_or(DecodeError::Invalid("topology.node", node))?;
                members.insert(node, reader.text("topology.address", ADDRESS_BYTES_MAX)?.to_owned());
            }
            groups.insert(group, Row { slots, members });
        }
        reader.finish()?;
        Ok(Topology::new(version, groups))
    }
}

fn put_ranges(slots: &SlotSet, out: &mut Vec<u8>) {
    out.put_varint(slots.ranges().len() as u64);
    for range in slots.ranges() {
        out.put_u16(range.first);
        out.put_u16(range.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Topology {
        let row = |position| Row {
            slots: SlotSet::even_share(position, 3),
            members: [(NodeId::new(7).expect("a node id"), "10.0.0.1:13890".to_owned())].into(),
        };
        Topology::new(1, (0..3).map(|position| (GroupId(position * 5), row(position))).collect())
    }

    #[test]
    fn m10_every_slot_has_one_group() {
        let table = table();
        for slot in 0..SLOT_COUNT {
            let group = table.group_of(slot).expect("a group");
            assert_eq!(table.groups().values().filter(|row| row.slots.contains(slot)).count(), 1, "{group}");
        }
    }

    #[test]
    fn the_table_comes_back_from_its_bytes_and_never_from_cut_ones() {
        let table = table();
        let bytes = table.encode();
        assert_eq!(Topology::decode(&bytes), Ok(table.clone()));
        for len in 0..bytes.len() {
            assert!(Topology::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        let directory = tempfile::tempdir().expect("a directory");
        let disk = mraft_disk::RealDisk::new();
        assert_eq!(Topology::read(&disk, directory.path()), Ok(None));
        table.write(&disk, directory.path()).expect("written");
        assert_eq!(Topology::read(&disk, directory.path()), Ok(Some(table)));
    }
}
