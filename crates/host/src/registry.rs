// SPDX-License-Identifier: Apache-2.0

//! Which groups live on this node: the list that a restart begins with (row S9).
//!
//! One small file, replaced atomically. It holds each group's founding (the genesis meta, or only the group's id for a replica
//! that joins and waits for a snapshot), the replica that lives here, and the name of its kind of state machine. It is written before
//! the log learns of the replica, and again when the log has: an entry that the log does not know is a creation that a crash
//! interrupted, and is done again, unless the list says that the log knew it. Then the log has lost it, and with it what the replica
//! voted and acknowledged: the list says that first, and the replica is condemned for good (rule D9).
//!
//! Of groups that this node was removed from it keeps the founding and the last replica: neither that one nor an earlier one may ever
//! be started here again (rules M3, M4), whatever a configuration says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use mraft_disk::Disk;
use mraft_logstore::Recovered;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{CondemnedReason, GroupId, GroupUid, Index, ReplicaId, Term};

use crate::error::HostError;
use crate::meta::GroupMeta;

/// Version 1 did not say which replicas the log knows.
const REGISTRY_VERSION: u8 = 2;
/// With losses that were accepted behind the rest: only a node that has some writes it, so that the others can go back to an older build.
const REGISTRY_VERSION_ACCEPTED: u8 = 3;
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
pub struct Registry {
    /// There was no file when it was opened.
    is_new: bool,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    content: Arc<GroupList>,
    published: Published,
}

/// The list as it stands on disk, for whoever must not wait while the next one is written.
#[derive(Clone, Default)]
pub(crate) struct Published(Arc<RwLock<Arc<GroupList>>>);

impl Published {
    pub(crate) fn get(&self) -> Arc<GroupList> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, list: &Arc<GroupList>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(list);
    }
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupList {
    /// The groups that live here.
    pub records: BTreeMap<GroupId, GroupRecord>,
    /// By group that this node was removed from, its founding and the highest replica that was here.
    pub gone: BTreeMap<GroupId, (GroupUid, ReplicaId)>,
    /// The groups that live here whose replica the log knows, durably.
    pub logged: BTreeSet<GroupId>,
    /// Of those, the ones that the log was found not to know any more: their replicas are condemned.
    pub lost: BTreeSet<GroupId>,
    /// The groups whose replica here began again after an operator accepted what it had lost.
    pub accepted: BTreeMap<GroupId, AcceptedLoss>,
}

/// What an operator accepted (rule D9). Written before it is carried out: a replica that is condemned all the same was not repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// Why the replica was condemned.
    pub reason: CondemnedReason,
    /// The last entry that it still had.
    pub last_index: Index,
    /// The term that it came back in, without a vote. Should its log be lost once more, the next one must be above it.
    pub term: Term,
}

impl GroupList {
    /// Reads a data directory's list, touching nothing; a missing file is an empty one.
    pub fn read(disk: &dyn Disk, data_directory: &std::path::Path) -> Result<GroupList, HostError> {
        let path = data_directory.join(REGISTRY_FILE);
        match crate::files::read(disk, &path, REGISTRY_MAGIC, REGISTRY_BYTES_MAX)? {
            None => Ok(GroupList::default()),
            Some(bytes) => decode(&bytes).map_err(|error| HostError::damaged(&path, error.to_string())),
        }
    }
}

impl Registry {
    /// Reads the list; a missing file is an empty one.
    pub fn open(disk: Arc<dyn Disk>, directory: &std::path::Path) -> Result<Registry, HostError> {
        let content = Arc::new(GroupList::read(disk.as_ref(), directory)?);
        let published = Published::default();
        published.set(&content);
        let path = directory.join(REGISTRY_FILE);
        let is_new = !disk.exists(&path).map_err(|error| HostError::io(&path, error))?;
        Ok(Registry { is_new, disk, path, content, published })
    }

    /// The list is written before the log learns of a replica, and never deleted: one that is missing beside a log with replicas was lost.
    /// Taken for an empty one, it would have the groups founded anew, by replicas that forgot what they had promised.
    pub fn check_against(&self, log: &[Recovered]) -> Result<(), HostError> {
        let Some(known) = log.first().filter(|_| self.is_new) else { return Ok(()) };
        let reason = format!(
            "it is missing, but the log knows {} replicas, among them {} of group {}: bring the file back, or remove the node from its groups \
             and start it with another node id and an empty directory",
            log.len(),
            known.key.replica,
            known.key.group
        );
        Err(HostError::damaged(&self.path, reason))
    }

    /// Reads the list from here on without waiting for this one's owner.
    pub(crate) fn published(&self) -> Published {
        self.published.clone()
    }

    /// All that it says.
    pub fn list(&self) -> &GroupList {
        &self.content
    }

    /// The replicas here.
    pub fn records(&self) -> &BTreeMap<GroupId, GroupRecord> {
        &self.content.records
    }

    /// The groups whose replica here began again after an operator accepted what it had lost.
    pub(crate) fn accepted(&self) -> &BTreeMap<GroupId, AcceptedLoss> {
        &self.content.accepted
    }

    /// What is about to be accepted, and which replicas stay condemned until they are put right, durably.
    pub(crate) fn begin_acceptance(
        &mut self,
        losses: impl IntoIterator<Item = (GroupId, AcceptedLoss)>,
        lost: impl IntoIterator<Item = GroupId>,
    ) -> Result<(), HostError> {
        let mut next = self.content.as_ref().clone();
        next.accepted.extend(losses);
        next.lost.extend(lost);
        self.replace(next)
    }

    /// The log knows these replicas as they come back, durably: they are condemned no more.
    pub(crate) fn end_acceptance(&mut self, groups: &BTreeSet<GroupId>) -> Result<(), HostError> {
        let mut next = self.content.as_ref().clone();
        next.logged.extend(groups);
        next.lost.retain(|group| !groups.contains(group));
        self.replace(next)
    }

    /// Adds or replaces records, durably. A replica that was removed here is refused.
    pub fn put(&mut self, records: impl IntoIterator<Item = GroupRecord>) -> Result<(), HostError> {
        let mut next = self.content.as_ref().clone();
        for record in records {
            if let Some((uid, highest)) = next.gone.get(&record.group)
                && *uid == record.uid
                && record.replica.generation() <= highest.generation()
            {
                let reason = format!(
                    "replica {} was removed from this node, or an earlier one: add the node again",
                    record.replica
                );
                return Err(HostError::Machine { group: record.group, reason });
            }
            next.logged.remove(&record.group);
            next.lost.remove(&record.group);
            next.accepted.remove(&record.group);
            next.records.insert(record.group, record);
        }
        self.replace(next)
    }

    /// The log knows the replicas of these groups, durably.
    pub fn logged(&mut self, groups: impl IntoIterator<Item = GroupId>) -> Result<(), HostError> {
        let mut next = self.content.as_ref().clone();
        next.logged.extend(groups);
        self.replace(next)
    }

    /// Compares the list with the replicas that the log knows: those that it lost are remembered, durably. All that it ever lost.
    pub fn find_lost(
        &mut self,
        is_known: impl Fn(&GroupRecord) -> bool,
    ) -> Result<BTreeSet<GroupId>, HostError> {
        let mut next = self.content.as_ref().clone();
        for record in self.content.records.values() {
            if self.content.logged.contains(&record.group) && !is_known(record) {
                next.lost.insert(record.group);
            }
        }
        self.replace(next)?;
        Ok(self.content.lost.clone())
    }

    /// Forgets a group's replica for good, durably, if it is this one: a later one stays.
    pub fn remove(&mut self, group: GroupId, replica: ReplicaId) -> Result<(), HostError> {
        let mut next = self.content.as_ref().clone();
        if let Some(record) = next.records.remove(&group).filter(|record| record.replica == replica) {
            next.gone.insert(group, (record.uid, record.replica));
            return self.replace(next);
        }
        Ok(())
    }

    fn replace(&mut self, mut next: GroupList) -> Result<(), HostError> {
        next.logged.retain(|group| next.records.contains_key(group));
        next.lost.retain(|group| next.records.contains_key(group));
        next.accepted.retain(|group, _| next.records.contains_key(group));
        if next.records.len() > GROUPS_MAX || next.gone.len() > GROUPS_MAX {
            return Err(HostError::Limit { what: "groups on one node", max: GROUPS_MAX as u64 });
        }
        if next == *self.content {
            return Ok(());
        }
        crate::files::replace(self.disk.as_ref(), &self.path, REGISTRY_MAGIC, &encode(&next))?;
        self.content = Arc::new(next);
        self.published.set(&self.content);
        Ok(())
    }
}

/// Reads a list and writes it.
pub(crate) fn again(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode(bytes).map(|content| encode(&content))
}

fn encode(content: &GroupList) -> Vec<u8> {
    let mut out = Vec::new();
    let has_accepted = !content.accepted.is_empty();
    out.put_u8(if has_accepted { REGISTRY_VERSION_ACCEPTED } else { REGISTRY_VERSION });
    out.put_varint(content.records.len() as u64);
    for record in content.records.values() {
        out.put_u64(record.group.0);
        out.put_raw(&record.uid.0);
        out.put_u64(record.replica.get());
        out.put_bytes(record.machine.as_bytes());
        out.put_bytes(&record.genesis.as_ref().map(GroupMeta::encode).unwrap_or_default());
    }
    out.put_varint(content.gone.len() as u64);
    for (group, (uid, replica)) in &content.gone {
        out.put_u64(group.0);
        out.put_raw(&uid.0);
        out.put_u64(replica.get());
    }
    for groups in [&content.logged, &content.lost] {
        out.put_varint(groups.len() as u64);
        groups.iter().for_each(|group| out.put_u64(group.0));
    }
    if has_accepted {
        out.put_varint(content.accepted.len() as u64);
        for (group, loss) in &content.accepted {
            out.put_u64(group.0);
            out.put_u8(loss.reason as u8);
            out.put_varint(loss.last_index);
            out.put_varint(loss.term);
        }
    }
    out
}

fn decode(bytes: &[u8]) -> Result<GroupList, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("groups.version")?;
    if !(1..=REGISTRY_VERSION_ACCEPTED).contains(&version) {
        return Err(DecodeError::Unknown("groups.version", u64::from(version)));
    }
    let count = reader.bounded("groups.count", GROUPS_MAX)?;
    let mut content = GroupList::default();
    for _ in 0..count {
        let group = GroupId(reader.u64("groups.group")?);
        let uid = GroupUid(reader.id128("groups.uid")?);
        let replica = replica(&mut reader)?;
        let machine = reader.text("groups.machine", KIND_BYTES_MAX)?.to_owned();
        let genesis = match reader.bytes("groups.genesis", META_BYTES_MAX)? {
            [] => None,
            bytes => Some(GroupMeta::decode(bytes)?),
        };
        content.records.insert(group, GroupRecord { group, uid, replica, genesis, machine });
    }
    for _ in 0..reader.bounded("groups.gone", GROUPS_MAX)? {
        let group = GroupId(reader.u64("groups.gone.group")?);
        let uid = GroupUid(reader.id128("groups.gone.uid")?);
        content.gone.insert(group, (uid, replica(&mut reader)?));
    }
    if version > 1 {
        content.logged = groups(&mut reader, "groups.logged")?;
        content.lost = groups(&mut reader, "groups.lost")?;
    }
    if version >= REGISTRY_VERSION_ACCEPTED {
        for _ in 0..reader.bounded("groups.accepted", GROUPS_MAX)? {
            let group = GroupId(reader.u64("groups.accepted.group")?);
            let reason = reader.u8("groups.accepted.reason")?;
            let reason = CondemnedReason::from_byte(reason)
                .ok_or(DecodeError::Unknown("groups.accepted.reason", u64::from(reason)))?;
            let last_index = reader.varint("groups.accepted.last_index")?;
            let term = reader.varint("groups.accepted.term")?;
            content.accepted.insert(group, AcceptedLoss { reason, last_index, term });
        }
    }
    reader.finish()?;
    Ok(content)
}

fn groups(reader: &mut Reader<'_>, field: &'static str) -> Result<BTreeSet<GroupId>, DecodeError> {
    (0..reader.bounded(field, GROUPS_MAX)?).map(|_| reader.u64(field).map(GroupId)).collect()
}

fn replica(reader: &mut Reader<'_>) -> Result<ReplicaId, DecodeError> {
    let id = reader.u64("groups.replica")?;
    ReplicaId::from_u64(id).ok_or(DecodeError::Invalid("groups.replica", id))
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
        let records = records.map(|record| (record.group, record)).into();
        let gone = [(GroupId(9), (GroupUid([7; 16]), replica))].into();
        let (logged, lost) = ([GroupId(3), GroupId(4)].into(), [GroupId(4)].into());
        let mut content = GroupList { records, gone, logged, lost, accepted: BTreeMap::new() };
        let loss = AcceptedLoss { reason: CondemnedReason::OldCopy, last_index: 7, term: 1 << 32 };
        for (accepted, version) in [(BTreeMap::new(), 2), (BTreeMap::from([(GroupId(3), loss)]), 3)] {
            content.accepted = accepted;
            let bytes = encode(&content);
            assert_eq!((decode(&bytes), bytes[0]), (Ok(content.clone()), version));
            for len in 0..bytes.len() {
                assert!(decode(&bytes[..len]).is_err(), "cut at {len}");
            }
        }
    }

    #[test]
    fn d9_a_replica_that_the_log_knew_and_lost_stays_lost_until_another_takes_its_place() {
        let disk = Arc::new(mraft_disk::MemoryDisk::new());
        let directory = std::path::Path::new("/data");
        disk.create_dir_all(directory).expect("a directory");
        let node = NodeId::new(9).expect("a node id");
        let record = |group, generation| GroupRecord {
            group: GroupId(group),
            uid: GroupUid([7; 16]),
            replica: ReplicaId::new(generation, node),
            genesis: None,
            machine: "kv".into(),
        };
        let mut registry = Registry::open(disk.clone(), directory).expect("opened");
        registry.put([record(3, 1), record(4, 1)]).expect("joined");
        registry.logged([GroupId(3)]).expect("the log knows one");
        assert_eq!(
            registry.find_lost(|_| false).expect("compared"),
            [GroupId(3)].into(),
            "4 was never in it"
        );
        let mut registry = Registry::open(disk.clone(), directory).expect("opened again");
        assert_eq!(registry.find_lost(|_| true).expect("compared"), [GroupId(3)].into(), "for good");
        registry.remove(GroupId(3), record(3, 1).replica).expect("removed");
        registry.put([record(3, 2)]).expect("added again");
        assert_eq!(registry.find_lost(|_| false).expect("compared"), BTreeSet::new(), "this one is new");
    }

    #[test]
    fn m3_a_removed_replica_is_never_started_again() {
        let disk = Arc::new(mraft_disk::MemoryDisk::new());
        let directory = std::path::Path::new("/data");
        disk.create_dir_all(directory).expect("a directory");
        let node = NodeId::new(9).expect("a node id");
        let record = |generation, uid| GroupRecord {
            group: GroupId(3),
            uid: GroupUid([uid; 16]),
            replica: ReplicaId::new(generation, node),
            genesis: None,
            machine: "kv".into(),
        };
        let mut registry = Registry::open(disk.clone(), directory).expect("opened");
        registry.put([record(1, 7)]).expect("joined");
        registry.remove(GroupId(3), ReplicaId::new(1, node)).expect("removed");
        let mut registry = Registry::open(disk, directory).expect("opened again");
        assert!(registry.put([record(0, 7)]).is_err(), "an earlier one");
        assert!(registry.put([record(1, 7)]).is_err(), "the same");
        registry.put([record(2, 7)]).expect("a later one may come");
        registry.remove(GroupId(3), ReplicaId::new(1, node)).expect("it is gone already");
        assert_eq!(
            registry.records()[&GroupId(3)].replica.generation(),
            2,
            "a late removal takes no later one"
        );
    }
}
