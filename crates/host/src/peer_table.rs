// SPDX-License-Identifier: Apache-2.0

//! What a node remembers of the others (rules M6, M7): which directory each node id is, how far its log was, and which nodes are in
//! dispute or gone for good.
//!
//! New rows are durable before the connection that brought them is used. How far a peer's log was is written with the next row or at
//! the close: forgetting a little of it only narrows what rule M7 can notice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::Disk;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{InstanceId, NodeId};
use mraft_wire::{Accepted, Expected, PeerRecord};

use crate::error::HostError;
use crate::files;

const TABLE_MAGIC: [u8; 8] = *b"mraftprs";
const TABLE_FILE: &str = "peers";
const TABLE_VERSION: u8 = 1;
const TABLE_BYTES_MAX: usize = 1 << 20;
const NODES_MAX: usize = 4096;

/// The table, with its file.
pub(crate) struct PeerTable {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    content: Content,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Content {
    instances: BTreeMap<NodeId, InstanceId>,
    records: BTreeMap<NodeId, PeerRecord>,
    conflicting: BTreeSet<NodeId>,
    retired: BTreeSet<NodeId>,
}

impl PeerTable {
    pub(crate) fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<PeerTable, HostError> {
        let path = directory.join(TABLE_FILE);
        let content = match files::read(disk.as_ref(), &path, TABLE_MAGIC, TABLE_BYTES_MAX)? {
            None => Content::default(),
            Some(bytes) => decode(&bytes).map_err(|error| HostError::damaged(&path, error.to_string()))?,
        };
        Ok(PeerTable { disk, path, content })
    }

    /// Node ids with the directories they are known as.
    pub(crate) fn instances(&self) -> &BTreeMap<NodeId, InstanceId> {
        &self.content.instances
    }

    pub(crate) fn record(&self, node: NodeId) -> Option<PeerRecord> {
        self.content.records.get(&node).copied()
    }

    /// What a hello is judged by.
    pub(crate) fn expected(&self, peer: NodeId, dialed: Option<NodeId>) -> Expected {
        Expected {
            dialed,
            record: self.record(peer),
            conflicting: self.content.conflicting.clone(),
            retired: self.content.retired.clone(),
        }
    }

    /// Takes over what an accepted hello brought; durable when this returns.
    pub(crate) fn accept(
        &mut self,
        peer: NodeId,
        record: PeerRecord,
        accepted: &Accepted,
    ) -> Result<(), HostError> {
        let before = self.record(peer);
        let durable_seq = before.map_or(0, |before| before.durable_seq).max(record.durable_seq);
        self.content.records.insert(peer, PeerRecord { durable_seq, ..record });
        let is_new_boot = before.is_none_or(|before| before.boot_counter != record.boot_counter);
        if accepted.learned.is_empty() && accepted.conflicts.is_empty() && !is_new_boot {
            return Ok(());
        }
        self.content.instances.extend(&accepted.learned);
        self.content.conflicting.extend(accepted.conflicts.iter().map(|(node, ..)| *node));
        if self.content.instances.len() > NODES_MAX {
            return Err(HostError::Limit { what: "nodes of one deployment", max: NODES_MAX as u64 });
        }
        self.write()
    }

    /// A host heartbeat told how far the peer's log is.
    pub(crate) fn heard(&mut self, peer: NodeId, durable_seq: u64) {
        if let Some(record) = self.content.records.get_mut(&peer) {
            record.durable_seq = record.durable_seq.max(durable_seq);
        }
    }

    /// A group's committed membership says that these nodes are gone for good.
    pub(crate) fn retire(&mut self, nodes: &BTreeSet<NodeId>) -> Result<(), HostError> {
        if nodes.is_subset(&self.content.retired) {
            return Ok(());
        }
        self.content.retired.extend(nodes);
        self.write()
    }

    /// An operator says that whatever was known of this node id is void: another directory may come under it.
    pub(crate) fn forget(&mut self, node: NodeId) -> Result<(), HostError> {
        let before = self.content.clone();
        self.content.instances.remove(&node);
        self.content.records.remove(&node);
        self.content.conflicting.remove(&node);
        let written = self.write();
        if written.is_err() {
            self.content = before;
        }
        written
    }

    /// Replaces the file.
    pub(crate) fn write(&self) -> Result<(), HostError> {
        files::replace(self.disk.as_ref(), &self.path, TABLE_MAGIC, &encode(&self.content))
    }
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
    out
}

fn decode(bytes: &[u8]) -> Result<Content, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("peers.version")?;
    if version != TABLE_VERSION {
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
    reader.finish()?;
    Ok(content)
}

fn read_node(reader: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
    let node = reader.u64("peers.node")?;
    NodeId::new(node).ok_or(DecodeError::Invalid("peers.node", node))
}
