// SPDX-License-Identifier: Apache-2.0

//! Which groups live on this node: the list that a restart begins with (row S9).
//!
//! One small file, replaced atomically. It holds each group's founding (the genesis meta, or only the group's id for a replica
//! that joins and waits for a snapshot), the replica that lives here, and the name of its kind of state machine. It is written before
//! the log learns of the replica: an entry without log records is a creation that a crash interrupted, and is done again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{GroupId, GroupUid, ReplicaId};

use crate::error::HostError;
use crate::meta::GroupMeta;

const REGISTRY_VERSION: u8 = 1;
const REGISTRY_FILE: &str = "group-list";
const REGISTRY_MAGIC: [u8; 8] = *b"mraftgrp";
/// A node of 100,000 groups with 1 KiB of founding each.
const REGISTRY_BYTES_MAX: usize = 128 << 20;
const GROUPS_MAX: usize = 100_000;
const META_BYTES_MAX: usize = 256 << 10;
const KIND_BYTES_MAX: usize = 64;

/// What a node knows of one of its groups beside the group's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// Its founding; all zero while a joining replica does not know it.
    pub uid: GroupUid,
    /// The replica here.
    pub replica: ReplicaId,
    /// The founding, for an original member; a joiner starts from a snapshot.
    pub genesis: Option<GroupMeta>,
    /// The kind of state machine, by the name under which the embedding program registers it; at most 64 bytes.
    pub machine: String,
}

/// The list, with its file.
pub(crate) struct Registry {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    records: BTreeMap<GroupId, GroupRecord>,
}

impl Registry {
    /// Reads the list; a missing file is an empty one.
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &std::path::Path) -> Result<Registry, HostError> {
        let path = directory.join(REGISTRY_FILE);
        let mut records = BTreeMap::new();
        if let Some(bytes) = crate::files::read(disk.as_ref(), &path, REGISTRY_MAGIC, REGISTRY_BYTES_MAX)? {
            for record in decode(&bytes).map_err(|error| HostError::damaged(&path, error.to_string()))? {
                records.insert(record.group, record);
            }
        }
        Ok(Registry { disk, path, records })
    }

    pub(crate) fn records(&self) -> &BTreeMap<GroupId, GroupRecord> {
        &self.records
    }

    /// Adds or replaces records, durably.
    pub(crate) fn put(&mut self, records: impl IntoIterator<Item = GroupRecord>) -> Result<(), HostError> {
        let mut next = self.records.clone();
        next.extend(records.into_iter().map(|record| (record.group, record)));
        self.replace(next)
    }

    /// Forgets a group, durably.
    pub(crate) fn remove(&mut self, group: GroupId) -> Result<(), HostError> {
        let mut next = self.records.clone();
        next.remove(&group);
        self.replace(next)
    }

    fn replace(&mut self, next: BTreeMap<GroupId, GroupRecord>) -> Result<(), HostError> {
        if next.len() > GROUPS_MAX {
            return Err(HostError::Limit { what: "groups on one node", max: GROUPS_MAX as u64 });
        }
        if next == self.records {
            return Ok(());
        }
        crate::files::replace(self.disk.as_ref(), &self.path, REGISTRY_MAGIC, &encode(next.values()))?;
        self.records = next;
        Ok(())
    }
}

fn encode<'r>(records: impl ExactSizeIterator<Item = &'r GroupRecord>) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(REGISTRY_VERSION);
    out.put_varint(records.len() as u64);
    for record in records {
        out.put_u64(record.group.0);
        out.put_raw(&record.uid.0);
        out.put_u64(record.replica.get());
        out.put_bytes(record.machine.as_bytes());
        out.put_bytes(&record.genesis.as_ref().map(GroupMeta::encode).unwrap_or_default());
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Vec<GroupRecord>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("groups.version")?;
    if version != REGISTRY_VERSION {
        return Err(DecodeError::Unknown("groups.version", u64::from(version)));
    }
    let count = reader.bounded("groups.count", GROUPS_MAX)?;
    let mut records = Vec::new();
    for _ in 0..count {
        let group = GroupId(reader.u64("groups.group")?);
        let uid = GroupUid(reader.id128("groups.uid")?);
        let replica = reader.u64("groups.replica")?;
        let replica = ReplicaId::from_u64(replica).ok_or(DecodeError::Invalid("groups.replica", replica))?;
        let machine = reader.text("groups.machine", KIND_BYTES_MAX)?.to_owned();
        let genesis = match reader.bytes("groups.genesis", META_BYTES_MAX)? {
            [] => None,
            bytes => Some(GroupMeta::decode(bytes)?),
        };
        records.push(GroupRecord { group, uid, replica, genesis, machine });
    }
    reader.finish()?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use mraft_types::{DeploymentId, Membership, NodeId, SlotSet};

    use super::*;

    #[test]
    fn s9_the_list_comes_back_from_its_bytes() {
        let genesis =
            GroupMeta::genesis(DeploymentId(1), GroupId(3), Membership::default(), SlotSet::even_share(0, 2));
        let replica = ReplicaId::new(2, NodeId::new(9).expect("a node id"));
        let records = [
            GroupRecord {
                group: GroupId(3),
                uid: genesis.uid,
                replica,
                genesis: Some(genesis),
                machine: "kv".into(),
            },
            GroupRecord {
                group: GroupId(4),
                uid: GroupUid([0; 16]),
                replica,
                genesis: None,
                machine: "kv".into(),
            },
        ];
        let bytes = encode(records.iter());
        assert_eq!(decode(&bytes), Ok(records.to_vec()));
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }
}
