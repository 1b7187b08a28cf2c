// SPDX-License-Identifier: Apache-2.0

//! What a node remembers of the others (rules M6, M7): which directory each node id is, how far its log was, and which nodes are in
//! dispute or gone for good.
//!
//! New rows are durable before the connection that brought them is used. How far a peer's log was, and which refused directory claims a
//! known node id, is written with the next row or at the close: forgetting a little of the one only narrows what rule M7 can notice, and
//! the other is told again at the next hello.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mraft_disk::Disk;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{InstanceId, NodeId};
use mraft_wire::{Accepted, Expected, Hello, PeerRecord, Purpose, TopologyStamp, VersionRange, WIRE_VERSION};

use crate::error::HostError;
use crate::files;
use crate::identity::Identity;
use crate::meta::FEATURE_LEVEL;
use crate::peers::InstanceConflict;

const TABLE_MAGIC: [u8; 8] = *b"mraftprs";
const TABLE_FILE: &str = "peers";
/// From version 2 on the claims follow.
const TABLE_VERSION: u8 = 2;
const TABLE_BYTES_MAX: usize = 1 << 20;
/// Rows of each part: as many as a hello carries.
const NODES_MAX: usize = mraft_wire::hello::INSTANCES_MAX;
// A table that may be written can be read again.
const _: () = assert!(NODES_MAX * (24 + 32 + 8 + 8 + 24) + 64 <= TABLE_BYTES_MAX);

/// The table, with its file.
///
/// What is looked up stands under a lock of its own that is never held over the disk: a disk that hangs holds up only who has something
/// to write.
pub struct PeerTable {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    content: Mutex<Content>,
    /// Held while the file is replaced: whoever changes more than what [`PeerTable::heard`] does holds it.
    writing: Mutex<()>,
    /// The directory is an old copy: third nodes may have other directories by now than those it knows.
    is_outdated: AtomicBool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    instances: BTreeMap<NodeId, InstanceId>,
    records: BTreeMap<NodeId, PeerRecord>,
    conflicting: BTreeSet<NodeId>,
    retired: BTreeSet<NodeId>,
    /// By node, the directory that was refused because another is known of it; only of nodes in `instances`.
    claims: BTreeMap<NodeId, InstanceId>,
}

impl PeerTable {
    /// Reads a data directory's table; a missing file is an empty one.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<PeerTable, HostError> {
        let path = directory.join(TABLE_FILE);
        let content = match files::read(disk.as_ref(), &path, TABLE_MAGIC, TABLE_BYTES_MAX)? {
            None => Content::default(),
            Some(bytes) => decode(&bytes).map_err(|error| HostError::damaged(&path, error.to_string()))?,
        };
        let (content, writing) = (Mutex::new(content), Mutex::new(()));
        Ok(PeerTable { disk, path, content, writing, is_outdated: AtomicBool::new(false) })
    }

    /// Node ids with the directories they are known as.
    pub fn instances(&self) -> BTreeMap<NodeId, InstanceId> {
        self.content().instances.clone()
    }

    /// A peer showed that this directory is an old copy (rule M7). From now on it tells others of no third node: whoever knows nothing yet,
    /// because its own directory is new, would take what is over for true, and the node that it concerns for a stranger.
    pub fn note_outdated(&self) {
        self.is_outdated.store(true, Ordering::Relaxed);
    }

    /// What is remembered of a node's latest boot.
    pub fn record(&self, node: NodeId) -> Option<PeerRecord> {
        self.content().records.get(&node).copied()
    }

    /// What this node says to another one before anything else, while its last durable batch has the number `durable_seq`.
    pub fn hello(
        &self,
        identity: &Identity,
        to: NodeId,
        purpose: Purpose,
        durable_seq: u64,
        topology: TopologyStamp,
    ) -> Hello {
        let Identity { deployment, node, instance, boot_counter, boot_nonce, raft_address, starts, .. } =
            identity.clone();
        let mut instances = self.instances();
        if self.is_outdated.load(Ordering::Relaxed) {
            instances.retain(|node, _| *node == to);
        }
        Hello {
            versions: VersionRange { min: WIRE_VERSION, max: WIRE_VERSION },
            feature_levels: VersionRange { min: FEATURE_LEVEL, max: FEATURE_LEVEL },
            deployment,
            node,
            to,
            purpose,
            instance,
            boot_counter,
            boot_nonce,
            // No less than what was said before this start, of which the last may not be known to be durable any more.
            durable_seq: durable_seq.max(starts.ago(0).map_or(0, |now| now.found_seq)),
            record_of_receiver: self.record(to),
            topology,
            raft_address,
            instances,
            starts,
            fields: Vec::new(),
        }
    }

    /// What a hello is judged by.
    pub fn expected(&self, peer: NodeId, dialed: Option<NodeId>) -> Expected {
        let content = self.content();
        Expected {
            dialed,
            record: content.records.get(&peer).copied(),
            conflicting: content.conflicting.clone(),
            retired: content.retired.clone(),
        }
    }

    /// Takes over what an accepted hello brought; durable when this returns, and not taken over at all after an error.
    pub fn accept(&self, peer: NodeId, record: PeerRecord, accepted: &Accepted) -> Result<(), HostError> {
        let boot = |record: PeerRecord| (record.boot_counter, record.boot_nonce);
        let is_new_boot = self.record(peer).is_none_or(|before| boot(before) != boot(record));
        if accepted.learned.is_empty() && accepted.conflicts.is_empty() && !is_new_boot {
            self.heard(peer, record.durable_seq);
            self.content().claims.remove(&peer);
            return Ok(());
        }
        self.change(|content| {
            let differs = |(node, said): &(&NodeId, &InstanceId)| {
                content.instances.get(*node).is_some_and(|known| known != *said)
            };
            if let Some((node, said)) = accepted.learned.iter().find(differs) {
                // Another hello brought another directory since this one was judged; judged again, it is a conflict.
                let reason = format!("node {node} is known as another directory than {said} by now");
                return Err(HostError::Refused { reason });
            }
            let before = content.records.get(&peer);
            let is_over = |known: &PeerRecord| {
                known.boot_counter > record.boot_counter
                    || (known.boot_counter == record.boot_counter && known.boot_nonce != record.boot_nonce)
            };
            if before.is_some_and(is_over) {
                // Another hello of the node brought another boot since this one was judged.
                let reason = format!("boot {} of node {peer} is over by now", record.boot_counter);
                return Err(HostError::Refused { reason });
            }
            let durable_seq = before.map_or(0, |known| known.durable_seq).max(record.durable_seq);
            content.records.insert(peer, PeerRecord { durable_seq, ..record });
            content.instances.extend(&accepted.learned);
            content.conflicting.extend(accepted.conflicts.iter().map(|(node, ..)| *node));
            // Whoever is accepted is the one that is known.
            content.claims.remove(&peer);
            content.claims.extend(accepted.conflicts.iter().map(|(node, _, said)| (*node, *said)));
            Ok(())
        })
    }

    /// A host heartbeat told how far the peer's log is.
    pub fn heard(&self, peer: NodeId, durable_seq: u64) {
        if let Some(record) = self.content().records.get_mut(&peer) {
            record.durable_seq = record.durable_seq.max(durable_seq);
        }
    }

    /// A node was refused that says it is this directory.
    pub(crate) fn claimed(&self, node: NodeId, instance: InstanceId) {
        let mut content = self.content();
        if content.instances.get(&node).is_some_and(|known| *known != instance) {
            content.claims.insert(node, instance);
        }
    }

    /// Nodes that two directories claim; those that are gone for good are refused whoever they are.
    pub fn conflicts(&self) -> Vec<InstanceConflict> {
        let content = self.content();
        let nodes: BTreeSet<&NodeId> = content.conflicting.iter().chain(content.claims.keys()).collect();
        nodes
            .into_iter()
            .filter(|node| !content.retired.contains(node))
            .map(|node| InstanceConflict {
                node: *node,
                known: content.instances.get(node).copied(),
                claimed: content.claims.get(node).copied(),
            })
            .collect()
    }

    /// A group's committed membership says that these nodes are gone for good.
    pub fn retire(&self, nodes: &BTreeSet<NodeId>) -> Result<(), HostError> {
        if self.has_retired(nodes) {
            return Ok(());
        }
        self.change(|content| {
            content.retired.extend(nodes);
            Ok(())
        })
    }

    /// Whether all of these are known to be gone for good.
    pub(crate) fn has_retired(&self, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.is_subset(&self.content().retired)
    }

    /// An operator says that whatever was known of this node id is void: another directory may come under it.
    pub fn forget(&self, node: NodeId) -> Result<(), HostError> {
        self.change(|content| {
            content.instances.remove(&node);
            content.records.remove(&node);
            content.conflicting.remove(&node);
            content.claims.remove(&node);
            Ok(())
        })
    }

    /// Replaces the file.
    pub fn write(&self) -> Result<(), HostError> {
        self.change(|_| Ok(()))
    }

    /// Changes a copy, makes that durable, and only then changes what hellos are judged by: a row that is not on disk is news again at
    /// the next hello (rule M6).
    fn change(&self, change: impl Fn(&mut Content) -> Result<(), HostError>) -> Result<(), HostError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copy = self.content().clone();
        change(&mut copy)?;
        let Content { instances, records, conflicting, retired, claims } = &copy;
        let rows = [instances.len(), records.len(), conflicting.len(), retired.len(), claims.len()];
        if rows.into_iter().any(|rows| rows > NODES_MAX) {
            return Err(HostError::Limit { what: "nodes of one deployment", max: NODES_MAX as u64 });
        }
        files::replace(self.disk.as_ref(), &self.path, TABLE_MAGIC, &encode(&copy))?;
        // Heartbeats may have told more meanwhile: the same change again, instead of the copy.
        change(&mut self.content())
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a table and writes it.
pub(crate) fn again(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode(bytes).map(|content| encode(&content))
}

fn encode(content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(TABLE_VERSION);
    out.put_varint(content.instances.len() as u64);
    for (node, instance) in &content.instances {
        out.put_u64(node.get());
        out.put_raw(&instance.0);
    }
    out.put_varint(content.records.len() as u64);
    for (node, record) in &content.records {
        out.put_u64(node.get());
        out.put_u64(record.boot_counter);
        out.put_u64(record.boot_nonce);
        out.put_u64(record.durable_seq);
    }
    for nodes in [&content.conflicting, &content.retired] {
        out.put_varint(nodes.len() as u64);
        nodes.iter().for_each(|node| out.put_u64(node.get()));
    }
    out.put_varint(content.claims.len() as u64);
    for (node, instance) in &content.claims {
        out.put_u64(node.get());
        out.put_raw(&instance.0);
    }
    out
}

fn decode(bytes: &[u8]) -> Result<Content, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("peers.version")?;
    if !(1..=TABLE_VERSION).contains(&version) {
        return Err(DecodeError::Unknown("peers.version", u64::from(version)));
    }
    let mut content = Content::default();
    for _ in 0..reader.bounded("peers.instances", NODES_MAX)? {
        let node = read_node(&mut reader)?;
        content.instances.insert(node, InstanceId(reader.id128("peers.instance")?));
    }
    for _ in 0..reader.bounded("peers.records", NODES_MAX)? {
        let node = read_node(&mut reader)?;
        let record = PeerRecord {
            boot_counter: reader.u64("peers.boot_counter")?,
            boot_nonce: reader.u64("peers.boot_nonce")?,
            durable_seq: reader.u64("peers.durable_seq")?,
        };
        content.records.insert(node, record);
    }
    for _ in 0..reader.bounded("peers.conflicting", NODES_MAX)? {
        content.conflicting.insert(read_node(&mut reader)?);
    }
    for _ in 0..reader.bounded("peers.retired", NODES_MAX)? {
        content.retired.insert(read_node(&mut reader)?);
    }
    let claims = if version == 1 { 0 } else { reader.bounded("peers.claims", NODES_MAX)? };
    for _ in 0..claims {
        let node = read_node(&mut reader)?;
        content.claims.insert(node, InstanceId(reader.id128("peers.claim")?));
    }
    reader.finish()?;
    Ok(content)
}

fn read_node(reader: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
    let node = reader.u64("peers.node")?;
    NodeId::new(node).ok_or(DecodeError::Invalid("peers.node", node))
}

#[cfg(test)]
mod tests {
    use mraft_disk::MemoryDisk;
    use mraft_disk::memory::Faults;
    use mraft_types::DeploymentId;
    use mraft_wire::Starts;

    use super::*;
    use crate::identity::LogPlace;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    fn record(boot_counter: u64, durable_seq: u64) -> PeerRecord {
        PeerRecord { boot_counter, boot_nonce: 5, durable_seq }
    }

    /// A hello that brings these rows.
    fn brings(rows: impl IntoIterator<Item = u64>) -> Accepted {
        Accepted {
            version: 1,
            feature_level: 1,
            learned: rows.into_iter().map(|id| (node(id), InstanceId([id as u8; 16]))).collect(),
            conflicts: Vec::new(),
            topology: mraft_wire::TopologyRelation::Same,
        }
    }

    fn table(disk: &Arc<MemoryDisk>) -> PeerTable {
        PeerTable::open(Arc::clone(disk) as Arc<dyn Disk>, Path::new("/data")).expect("a good table")
    }

    fn identity() -> Identity {
        Identity {
            deployment: DeploymentId(1),
            node: node(1),
            instance: InstanceId([1; 16]),
            raft_address: "h:1".to_owned(),
            boot_counter: 1,
            boot_nonce: 5,
            format_level: 1,
            created: true,
            log: LogPlace::WithData,
            starts: Starts::default(),
        }
    }

    fn fresh() -> Arc<MemoryDisk> {
        let disk = Arc::new(MemoryDisk::new());
        disk.create_dir_all(Path::new("/data")).expect("a directory");
        disk
    }

    #[test]
    fn m6_a_row_that_could_not_be_written_is_news_again_at_the_next_hello() {
        let disk = fresh();
        let table = table(&disk);
        disk.set_faults(Faults { syncs_fail: true, ..Faults::default() });
        assert!(table.accept(node(2), record(1, 0), &brings([2])).is_err());
        assert!(table.record(node(2)).is_none() && table.instances().is_empty(), "nothing was taken over");
        assert!(
            table.accept(node(2), record(1, 0), &brings([2])).is_err(),
            "and nothing is accepted for known"
        );
        disk.set_faults(Faults::default());
        table.accept(node(2), record(1, 0), &brings([2])).expect("the disk is well again");
        disk.crash(1);
        let again = super::tests::table(&disk);
        assert_eq!(again.instances().keys().copied().collect::<Vec<_>>(), [node(2)]);
    }

    #[test]
    fn m6_one_row_too_many_is_refused_and_the_table_can_be_read_again() {
        let disk = fresh();
        let table = table(&disk);
        let all = 1..=NODES_MAX as u64;
        table.accept(node(1), record(1, 0), &brings(all)).expect("as many as may be");
        let more = brings([NODES_MAX as u64 + 1]);
        assert!(matches!(table.accept(node(1), record(2, 0), &more), Err(HostError::Limit { .. })));
        table.write().expect("written");
        let again = super::tests::table(&disk);
        assert_eq!(again.instances().len(), NODES_MAX);
        assert_eq!(again.record(node(1)), Some(record(1, 0)), "the refused hello left nothing behind");
    }

    #[test]
    fn m6_of_two_directories_that_claim_one_node_at_once_one_is_taken() {
        let table = table(&fresh());
        table.accept(node(2), record(1, 0), &brings([2])).expect("the first");
        let mut other = brings([2]);
        other.learned.insert(node(2), InstanceId([9; 16]));
        assert!(matches!(table.accept(node(2), record(1, 0), &other), Err(HostError::Refused { .. })));
        assert_eq!(table.instances()[&node(2)], InstanceId([2; 16]));
    }

    #[test]
    fn m7_of_two_boots_that_are_judged_at_once_the_later_one_is_remembered() {
        let table = table(&fresh());
        table.accept(node(2), record(1, 7), &brings([2])).expect("the first boot");
        table.accept(node(2), record(3, 9), &brings([])).expect("a restart");
        assert!(matches!(table.accept(node(2), record(2, 8), &brings([3])), Err(HostError::Refused { .. })));
        let twin = PeerRecord { boot_nonce: 6, ..record(3, 9) };
        assert!(matches!(table.accept(node(2), twin, &brings([3])), Err(HostError::Refused { .. })));
        assert_eq!(table.record(node(2)), Some(record(3, 9)));
        assert!(!table.instances().contains_key(&node(3)), "nor is anything else taken from them");
    }

    #[test]
    fn m6_who_claims_a_node_id_is_told_until_its_directory_is_back_or_the_node_is_gone_for_good() {
        let disk = fresh();
        let table = table(&disk);
        let (known, other) = (InstanceId([2; 16]), InstanceId([9; 16]));
        table.accept(node(2), record(1, 0), &brings([2])).expect("written");
        table.claimed(node(2), known);
        table.claimed(node(3), other);
        assert_eq!(table.conflicts(), [], "nobody is known as another directory");
        table.claimed(node(2), other);
        let conflict = InstanceConflict { node: node(2), known: Some(known), claimed: Some(other) };
        assert_eq!(table.conflicts(), [conflict]);
        table.write().expect("written");
        assert_eq!(super::tests::table(&disk).conflicts(), [conflict], "a restart still knows both");
        table.accept(node(2), record(1, 0), &brings([])).expect("the known one is back");
        assert_eq!(table.conflicts(), []);
        table.claimed(node(2), other);
        table.retire(&BTreeSet::from([node(2)])).expect("written");
        assert_eq!(table.conflicts(), [], "it is refused whoever it is");
    }

    #[test]
    fn m6_a_dispute_about_a_third_node_is_told_with_both_directories() {
        let disk = fresh();
        let table = table(&disk);
        let (known, said) = (InstanceId([3; 16]), InstanceId([9; 16]));
        table.accept(node(2), record(1, 0), &brings([2, 3])).expect("written");
        let disputes = Accepted { conflicts: vec![(node(3), known, said)], ..brings([]) };
        table.accept(node(2), record(1, 0), &disputes).expect("written");
        disk.crash(1);
        let conflict = InstanceConflict { node: node(3), known: Some(known), claimed: Some(said) };
        assert_eq!(super::tests::table(&disk).conflicts(), [conflict]);
    }

    #[test]
    fn m7_an_old_copy_tells_of_no_third_node_once_it_knows() {
        let disk = fresh();
        let table = table(&disk);
        table.accept(node(2), record(1, 0), &brings([2, 3])).expect("written");
        let tells = |to| {
            let hello = table.hello(&identity(), node(to), Purpose::Messages, 0, TopologyStamp::default());
            hello.instances.keys().map(|node| node.get()).collect::<Vec<_>>()
        };
        assert_eq!(tells(2), [2, 3]);
        table.note_outdated();
        assert_eq!((tells(2), tells(4)), (vec![2], vec![]), "whom it speaks to is no third node");
    }

    #[test]
    fn a_table_of_version_1_is_read_without_claims() {
        let disk = fresh();
        let mut content = Content::default();
        content.instances.insert(node(2), InstanceId([2; 16]));
        content.conflicting.insert(node(2));
        let mut bytes = encode(&content);
        bytes[0] = 1;
        assert_eq!(bytes.pop(), Some(0), "no claims");
        let path = Path::new("/data").join(TABLE_FILE);
        files::replace(disk.as_ref(), &path, TABLE_MAGIC, &bytes).expect("written");
        let unnamed = InstanceConflict { node: node(2), known: Some(InstanceId([2; 16])), claimed: None };
        assert_eq!(table(&disk).conflicts(), [unnamed]);
    }

    #[test]
    fn m7_how_far_a_peer_was_never_goes_back() {
        let table = table(&fresh());
        table.accept(node(2), record(1, 7), &brings([2])).expect("written");
        table.heard(node(2), 9);
        table.accept(node(2), record(1, 8), &brings([])).expect("nothing new");
        table.accept(node(2), record(2, 3), &brings([])).expect("a new boot");
        assert_eq!(table.record(node(2)), Some(record(2, 9)));
    }
}
