// SPDX-License-Identifier: Apache-2.0

//! What two nodes tell each other before anything else, and the decision whether they may talk (rules M6, M7, M9, M10, T3).
//!
//! [`check`] is asked twice per connection, once on either side. It compares the two hellos with each other and with what this
//! node remembers of the peer. It answers what has to be made durable *before* the connection is used: rows of the instance table
//! that were new (rule M6). Nothing is trusted because it was said first; a conflict refuses the node that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::ADDRESS_BYTES_MAX;
use mraft_types::{DeploymentId, InstanceId, NodeId};

use crate::fields::{flag, node};
use crate::refusal::HelloRefused;
use crate::starts::{STARTS_BYTES_MAX, Starts, check_boot};

/// The wire version that this build writes: what `docs/formats/wire.md` describes.
pub const WIRE_VERSION: u16 = 1;

/// Most rows of an instance table: nodes that a deployment ever had.
pub const INSTANCES_MAX: usize = 4096;

/// Longest hello.
pub const HELLO_BYTES_MAX: usize = 160 << 10;

/// What a connection is for. The numbers are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Purpose {
    /// Packets from the dialer.
    Messages = 1,
    /// One snapshot from the dialer.
    Snapshot = 2,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Messages => "messages",
            Purpose::Snapshot => "snapshot",
        })
    }
}

/// Versions or levels that a build can speak, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange<T> {
    /// The lowest.
    pub min: T,
    /// The highest.
    pub max: T,
}

impl<T: Copy + Ord> VersionRange<T> {
    /// The highest that both can speak.
    pub fn common(self, other: VersionRange<T>) -> Option<T> {
        let highest = self.max.min(other.max);
        (highest >= self.min && highest >= other.min).then_some(highest)
    }
}

impl<T: fmt::Display> fmt::Display for VersionRange<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// Which topology a node has: only a hint, so a difference is an event and never a refusal (rule M10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopologyStamp {
    /// Version of the document.
    pub version: u64,
    /// Hash of its content.
    pub hash: [u8; 16],
}

/// What a node remembers of a peer's latest boot (rule M7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Its boot counter.
    pub boot_counter: u64,
    /// Its boot nonce.
    pub boot_nonce: u64,
    /// The highest durable_seq heard of it, in that boot or any before.
    pub durable_seq: u64,
}

/// The first frame of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Wire versions that the sender speaks.
    pub versions: VersionRange<u16>,
    /// Feature levels that it supports (rule T3).
    pub feature_levels: VersionRange<u32>,
    /// Its deployment.
    pub deployment: DeploymentId,
    /// The sender.
    pub node: NodeId,
    /// Whom it means to talk to.
    pub to: NodeId,
    /// What for. A reply repeats the dialer's.
    pub purpose: Purpose,
    /// The sender's directory (rule M6).
    pub instance: InstanceId,
    /// How often that directory was started.
    pub boot_counter: u64,
    /// Random, fresh with every start.
    pub boot_nonce: u64,
    /// The number of its last durable log batch, or of the last one that this start found, if that is more (rule M7).
    pub durable_seq: u64,
    /// What it remembers of the receiver (rule M7).
    pub record_of_receiver: Option<PeerRecord>,
    /// Its topology (rule M10).
    pub topology: TopologyStamp,
    /// Where it wants to be dialed (host:port).
    pub raft_address: String,
    /// Its whole table of nodes and their directories (rule M6), at most [`INSTANCES_MAX`] rows.
    pub instances: BTreeMap<NodeId, InstanceId>,
    /// The last starts of its directory (rule M7); a build that did not keep them says none.
    pub starts: Starts,
    /// Fields of later builds; this one sends none of its own.
    pub fields: Vec<HelloField>,
}

/// A field that a later build added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelloField {
    /// Its number; from 0x8000 on, a build that does not know it must refuse.
    pub number: u16,
    /// Its content.
    pub content: Vec<u8>,
}

/// What this node knows beside its own hello when it judges another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The node that was dialed; `None` on the side that was.
    pub dialed: Option<NodeId>,
    /// What is remembered of the peer.
    pub record: Option<PeerRecord>,
    /// Nodes whose instance is in dispute until an operator clears it (rule M6).
    pub conflicting: BTreeSet<NodeId>,
    /// Nodes that were removed for good (row S13).
    pub retired: BTreeSet<NodeId>,
}

/// They may talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The wire version to use.
    pub version: u16,
    /// The highest feature level that both support.
    pub feature_level: u32,
    /// Rows that were not in this node's table: to be made durable before the connection is used (rule M6).
    pub learned: BTreeMap<NodeId, InstanceId>,
    /// Third nodes about which the tables disagree, with our and their instance: to be refused from now on (rule M6).
    pub conflicts: Vec<(NodeId, InstanceId, InstanceId)>,
    /// How the peer's topology relates to ours.
    pub topology: TopologyRelation,
}

/// How the peer's topology relates to this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopologyRelation {
    /// The same.
    Same,
    /// The peer's is newer.
    Newer,
    /// The peer's is older.
    Older,
    /// Same version, other content: an event and an alarm (rule M10).
    Diverged,
}

/// What the dialed side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    /// It accepts, and says who it is.
    Accepted {
        /// The wire version that it chose.
        version: u16,
        /// The feature level that it chose.
        feature_level: u32,
        /// Its own hello.
        hello: Box<Hello>,
    },
    /// It refuses. The values are as it sees them.
    Refused(HelloRefused),
}

/// The dialer's last word before the connection is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloConfirm {
    /// It accepts the other's hello.
    Accepted,
    /// It refuses. The values are as it sees them.
    Refused(HelloRefused),
}

/// A node's NodeHostID (rule M9).
pub fn node_host_id(node: NodeId) -> String {
    format!("nhid-{node}")
}

/// Decides whether this node, which says `ours`, talks to the one that says `theirs`.
pub fn check(ours: &Hello, theirs: &Hello, expected: &Expected) -> Result<Accepted, HelloRefused> {
    let version = ours
        .versions
        .common(theirs.versions)
        .ok_or(HelloRefused::Version { ours: ours.versions, theirs: theirs.versions })?;
    if let Some(field) = theirs.fields.iter().find(|field| field.number >= FIELD_REQUIRED) {
        return Err(HelloRefused::RequiredField { number: field.number });
    }
    if ours.deployment != theirs.deployment {
        return Err(HelloRefused::Deployment { ours: ours.deployment, theirs: theirs.deployment });
    }
    if let Some(dialed) = expected.dialed
        && dialed != theirs.node
    {
        return Err(HelloRefused::AnotherNodeAnswered { dialed, answered: theirs.node });
    }
    if theirs.node == ours.node {
        return Err(HelloRefused::SameNode { node: ours.node });
    }
    if theirs.to != ours.node {
        return Err(HelloRefused::MeantForAnother { meant: theirs.to, here: ours.node });
    }
    let feature_level = ours
        .feature_levels
        .common(theirs.feature_levels)
        .ok_or(HelloRefused::FeatureLevel { ours: ours.feature_levels, theirs: theirs.feature_levels })?;
    if expected.retired.contains(&theirs.node) {
        return Err(HelloRefused::Retired { node: theirs.node });
    }
    if expected.conflicting.contains(&theirs.node) {
        return Err(HelloRefused::Conflicting { node: theirs.node });
    }
    check_instances_of_both(ours, theirs)?;
    if let Some(record) = &expected.record {
        check_boot(theirs, record)?;
    }
    if let Some(record) = &theirs.record_of_receiver {
        check_boot(ours, record)?;
    }
    let (learned, conflicts) = merge_instances(ours, theirs);
    let topology = if ours.topology == theirs.topology {
        TopologyRelation::Same
    } else if theirs.topology.version > ours.topology.version {
        TopologyRelation::Newer
    } else if theirs.topology.version < ours.topology.version {
        TopologyRelation::Older
    } else {
        TopologyRelation::Diverged
    };
    Ok(Accepted { version, feature_level, learned, conflicts, topology })
}

/// Rule M6 for the two that talk: neither may be known to the other as another directory.
fn check_instances_of_both(ours: &Hello, theirs: &Hello) -> Result<(), HelloRefused> {
    if let Some(known) = ours.instances.get(&theirs.node)
        && *known != theirs.instance
    {
        return Err(HelloRefused::Instance { node: theirs.node, ours: *known, theirs: theirs.instance });
    }
    match theirs.instances.get(&ours.node) {
        Some(known) if *known != ours.instance => {
            Err(HelloRefused::Instance { node: ours.node, ours: ours.instance, theirs: *known })
        }
        _ => Ok(()),
    }
}

type Merged = (BTreeMap<NodeId, InstanceId>, Vec<(NodeId, InstanceId, InstanceId)>);

fn merge_instances(ours: &Hello, theirs: &Hello) -> Merged {
    let (mut learned, mut conflicts) = (BTreeMap::new(), Vec::new());
    let sender = (&theirs.node, &theirs.instance);
    for (node, instance) in theirs.instances.iter().chain([sender]) {
        match ours.instances.get(node) {
            None if *node != ours.node => {
                learned.insert(*node, *instance);
            }
            Some(known) if known != instance => conflicts.push((*node, *known, *instance)),
            _ => {}
        }
    }
    (learned, conflicts)
}

impl Hello {
    /// The boot that speaks, as a peer should remember it.
    ///
    /// What this start found is not remembered of it: the last of that may only be in a page cache, and a directory that went through this
    /// start had it.
    pub fn record(&self) -> PeerRecord {
        let is_proven = self.starts.ago(0).is_none_or(|now| now.found_seq < self.durable_seq);
        PeerRecord {
            boot_counter: self.boot_counter,
            boot_nonce: self.boot_nonce,
            durable_seq: if is_proven { self.durable_seq } else { 0 },
        }
    }

    /// Appends the hello. A table of more than [`INSTANCES_MAX`] rows or a field above its bound is cut to what may be sent.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u16(self.versions.min);
        out.put_u16(self.versions.max);
        out.put_u32(self.feature_levels.min);
        out.put_u32(self.feature_levels.max);
        out.put_u64(self.deployment.0);
        out.put_u64(self.node.get());
        out.put_u64(self.to.get());
        out.put_u8(self.purpose as u8);
        out.put_raw(&self.instance.0);
        out.put_u64(self.boot_counter);
        out.put_u64(self.boot_nonce);
        out.put_u64(self.durable_seq);
        out.put_u8(u8::from(self.record_of_receiver.is_some()));
        if let Some(record) = &self.record_of_receiver {
            out.put_u64(record.boot_counter);
            out.put_u64(record.boot_nonce);
            out.put_u64(record.durable_seq);
        }
        out.put_u64(self.topology.version);
        out.put_raw(&self.topology.hash);
        out.put_bytes(node_host_id(self.node).as_bytes());
        out.put_bytes(crate::refusal::shortened(&self.raft_address, ADDRESS_BYTES_MAX).as_bytes());
        out.put_varint(self.instances.len().min(INSTANCES_MAX) as u64);
        for (node, instance) in self.instances.iter().take(INSTANCES_MAX) {
            out.put_u64(node.get());
            out.put_raw(&instance.0);
        }
        let mut starts = Vec::new();
        self.starts.encode(&mut starts);
        let own = (!starts.is_empty()).then_some((FIELD_STARTS, starts.as_slice()));
        let later = self.fields.iter().filter(|field| field.number > FIELD_STARTS);
        let later =
            later.map(|field| (field.number, &field.content[..field.content.len().min(FIELD_BYTES_MAX)]));
        let fields: Vec<(u16, &[u8])> = own.into_iter().chain(later).take(FIELDS_MAX).collect();
        out.put_varint(fields.len() as u64);
        for (number, content) in fields {
            out.put_u16(number);
            out.put_bytes(content);
        }
    }

    /// Reads what [`Hello::encode`] wrote.
    pub fn decode(payload: &[u8]) -> Result<Hello, DecodeError> {
        let mut reader = Reader::new(payload);
        let hello = Hello::read(&mut reader)?;
        reader.finish()?;
        Ok(hello)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Hello, DecodeError> {
        let versions = range(reader, "hello.versions", |reader, field| reader.u16(field))?;
        let feature_levels = range(reader, "hello.feature_levels", |reader, field| reader.u32(field))?;
        let deployment = DeploymentId(reader.u64("hello.deployment")?);
        let sender = node(reader, "hello.node")?;
        let to = node(reader, "hello.to")?;
        let purpose = match reader.u8("hello.purpose")? {
            1 => Purpose::Messages,
            2 => Purpose::Snapshot,
            other => return Err(DecodeError::Unknown("hello.purpose", u64::from(other))),
        };
        let instance = InstanceId(reader.id128("hello.instance")?);
        let boot_counter = reader.u64("hello.boot_counter")?;
        let boot_nonce = reader.u64("hello.boot_nonce")?;
        let durable_seq = reader.u64("hello.durable_seq")?;
        let record_of_receiver = if flag(reader, "hello.record")? {
            Some(PeerRecord {
                boot_counter: reader.u64("hello.record.boot_counter")?,
                boot_nonce: reader.u64("hello.record.boot_nonce")?,
                durable_seq: reader.u64("hello.record.durable_seq")?,
            })
        } else {
            None
        };
        let topology = TopologyStamp {
            version: reader.u64("hello.topology.version")?,
            hash: reader.id128("hello.topology.hash")?,
        };
        if reader.text("hello.node_host_id", NODE_HOST_ID_BYTES_MAX)? != node_host_id(sender) {
            return Err(DecodeError::Invalid("hello.node_host_id", sender.get()));
        }
        let raft_address = reader.text("hello.raft_address", ADDRESS_BYTES_MAX)?.to_owned();
        let mut instances = BTreeMap::new();
        for _ in 0..reader.bounded("hello.instances", INSTANCES_MAX)? {
            let row = node(reader, "hello.instance.node")?;
            let id = InstanceId(reader.id128("hello.instance.id")?);
            let ascending = instances.last_key_value().is_none_or(|(last, _)| *last < row);
            if !ascending || (row == sender && id != instance) {
                return Err(DecodeError::Invalid("hello.instance.node", row.get()));
            }
            instances.insert(row, id);
        }
        let (mut starts, mut fields) = (Starts::default(), Vec::new());
        let mut last_number = 0;
        for _ in 0..reader.bounded("hello.fields", FIELDS_MAX)? {
            let number = reader.u16("hello.field.number")?;
            if number <= last_number {
                return Err(DecodeError::Invalid("hello.field.number", u64::from(number)));
            }
            last_number = number;
            let content = reader.bytes("hello.field.content", FIELD_BYTES_MAX)?;
            if number == FIELD_STARTS {
                starts = Starts::decode(content, (boot_counter, boot_nonce), "hello.starts")?;
                if starts.is_empty() {
                    return Err(DecodeError::Invalid("hello.starts", 0));
                }
            } else {
                fields.push(HelloField { number, content: content.to_vec() });
            }
        }
        Ok(Hello {
            versions,
            feature_levels,
            deployment,
            node: sender,
            to,
            purpose,
            instance,
            boot_counter,
            boot_nonce,
            durable_seq,
            record_of_receiver,
            topology,
            raft_address,
            instances,
            starts,
            fields,
        })
    }
}

impl HelloReply {
    /// Appends the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HelloReply::Accepted { version, feature_level, hello } => {
                out.put_u8(1);
                out.put_u16(*version);
                out.put_u32(*feature_level);
                hello.encode(out);
            }
            HelloReply::Refused(refused) => {
                out.put_u8(0);
                refused.encode(out);
            }
        }
    }

    /// Reads what [`HelloReply::encode`] wrote.
    pub fn decode(payload: &[u8]) -> Result<HelloReply, DecodeError> {
        let mut reader = Reader::new(payload);
        if !flag(&mut reader, "reply.accepted")? {
            return Ok(HelloReply::Refused(HelloRefused::decode(reader)?));
        }
        let version = reader.u16("reply.version")?;
        let feature_level = reader.u32("reply.feature_level")?;
        let hello = Box::new(Hello::read(&mut reader)?);
        reader.finish()?;
        Ok(HelloReply::Accepted { version, feature_level, hello })
    }
}

impl HelloConfirm {
    /// Appends the confirmation.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            HelloConfirm::Accepted => out.put_u8(1),
            HelloConfirm::Refused(refused) => {
                out.put_u8(0);
                refused.encode(out);
            }
        }
    }

    /// Reads what [`HelloConfirm::encode`] wrote.
    pub fn decode(payload: &[u8]) -> Result<HelloConfirm, DecodeError> {
        let mut reader = Reader::new(payload);
        if !flag(&mut reader, "confirm.accepted")? {
            return Ok(HelloConfirm::Refused(HelloRefused::decode(reader)?));
        }
        reader.finish()?;
        Ok(HelloConfirm::Accepted)
    }
}

/// A range whose ends are in order.
pub(crate) fn range<'a, T: Copy + Ord + Into<u64>>(
    reader: &mut Reader<'a>,
    field: &'static str,
    mut read: impl FnMut(&mut Reader<'a>, &'static str) -> Result<T, DecodeError>,
) -> Result<VersionRange<T>, DecodeError> {
    let (min, max) = (read(reader, field)?, read(reader, field)?);
    if min > max { Err(DecodeError::Invalid(field, min.into())) } else { Ok(VersionRange { min, max }) }
}

/// [`Hello::starts`].
const FIELD_STARTS: u16 = 1;
const FIELD_REQUIRED: u16 = 0x8000;
const FIELDS_MAX: usize = 64;
const FIELD_BYTES_MAX: usize = 512;
const NODE_HOST_ID_BYTES_MAX: usize = 64;

const _: () = assert!(STARTS_BYTES_MAX <= FIELD_BYTES_MAX);
// A hello with everything at its bound fits.
const _: () = assert!(
    INSTANCES_MAX * 24
        + FIELDS_MAX * (FIELD_BYTES_MAX + 4)
        + ADDRESS_BYTES_MAX
        + NODE_HOST_ID_BYTES_MAX
        + 512
        <= HELLO_BYTES_MAX
);
