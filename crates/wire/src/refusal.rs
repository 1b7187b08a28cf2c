// SPDX-License-Identifier: Apache-2.0

//! Why two nodes do not talk. Every reason names both values, and travels to the other side, so that both logs tell the same.

use std::fmt;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{DeploymentId, InstanceId, NodeId};

use crate::fields::node;
use crate::hello::{VersionRange, range};

/// Longest refusal: text, code, values.
pub const REFUSAL_BYTES_MAX: usize = TEXT_BYTES_MAX + 64;

/// Why a hello is refused. *Ours* is the side that holds this value; [`HelloRefused::from_other_side`] turns it round.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HelloRefused {
    /// Another deployment.
    Deployment {
        /// Here.
        ours: DeploymentId,
        /// There.
        theirs: DeploymentId,
    },
    /// No wire version that both speak.
    Version {
        /// Here.
        ours: VersionRange<u16>,
        /// There.
        theirs: VersionRange<u16>,
    },
    /// No feature level that both support.
    FeatureLevel {
        /// Here.
        ours: VersionRange<u32>,
        /// There.
        theirs: VersionRange<u32>,
    },
    /// The hello is for another node.
    MeantForAnother {
        /// Whom the dialer wanted.
        meant: NodeId,
        /// Who it reached.
        here: NodeId,
    },
    /// Another node than the dialed one answered.
    AnotherNodeAnswered {
        /// Whom the dialer wanted.
        dialed: NodeId,
        /// Who answered.
        answered: NodeId,
    },
    /// Both say that they are this node.
    SameNode {
        /// The node.
        node: NodeId,
    },
    /// The sides know this node as different directories (rule M6).
    Instance {
        /// The node.
        node: NodeId,
        /// Its instance, here.
        ours: InstanceId,
        /// Its instance, there.
        theirs: InstanceId,
    },
    /// The node's directory did not go through a start that is remembered of it: an old copy, or another process runs on a copy (rule M7).
    Forked {
        /// The node.
        node: NodeId,
        /// The number of the start that is remembered; the directory has none of that number yet, or another one.
        remembered_boot: u64,
        /// Its boot counter now.
        boot_counter: u64,
    },
    /// The node runs on an old copy of its directory: less is durable than it once said (rule M7). The boot counters may be the same.
    OldCopy {
        /// The node.
        node: NodeId,
        /// Boot counter and durable_seq that are remembered of it.
        remembered: (u64, u64),
        /// Boot counter that it says now, and how far its log goes: at the end of the remembered boot, if it can tell.
        now: (u64, u64),
    },
    /// The node's instance is in dispute until an operator clears it (rule M6).
    Conflicting {
        /// The node.
        node: NodeId,
    },
    /// No group has a replica on this node, as far as is known here.
    UnknownNode {
        /// The node.
        node: NodeId,
    },
    /// The node was removed for good (row S13).
    Retired {
        /// The node.
        node: NodeId,
    },
    /// A field that must be understood and is not (rule T3).
    RequiredField {
        /// Its number.
        number: u16,
    },
    /// As many connections are open as may be.
    TooManyConnections {
        /// The limit.
        limit: u64,
    },
    /// The node is about to stop.
    ShuttingDown,
    /// Anything else, in words.
    Other(String),
}

impl fmt::Display for HelloRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HelloRefused::Deployment { ours, theirs } => {
                write!(f, "deployment {ours} here, {theirs} there")
            }
            HelloRefused::Version { ours, theirs } => {
                write!(f, "wire versions {ours} here, {theirs} there")
            }
            HelloRefused::FeatureLevel { ours, theirs } => {
                write!(f, "feature levels {ours} here, {theirs} there")
            }
            HelloRefused::MeantForAnother { meant, here } => {
                write!(f, "node {meant} was wanted, node {here} was reached")
            }
            HelloRefused::AnotherNodeAnswered { dialed, answered } => {
                write!(f, "node {dialed} was dialed, node {answered} answered")
            }
            HelloRefused::SameNode { node } => write!(f, "both sides say that they are node {node}"),
            HelloRefused::Instance { node, ours, theirs } => {
                write!(
                    f,
                    "node {node} is instance {ours} here, {theirs} there: a wiped or copied directory cannot come back under an old id; \
                     remove node {node} from its groups, then start with another node id or Raft port, or clear the conflict on every other node"
                )
            }
            HelloRefused::Forked { node, remembered_boot, boot_counter } => {
                write!(
                    f,
                    "node {node} runs on a directory, at boot {boot_counter}, that was not part of the boot {remembered_boot} that is \
                     remembered: it is an old copy, or another process runs on a copy of it"
                )
            }
            HelloRefused::OldCopy { node, remembered, now } => {
                write!(
                    f,
                    "node {node} runs on an old copy of its directory: boot {} with durable_seq {} is remembered, boot {} that speaks goes on \
                     from durable_seq {}",
                    remembered.0, remembered.1, now.0, now.1
                )?;
                if remembered.0 == now.0 {
                    write!(f, "; it was started twice with that boot counter")?;
                }
                Ok(())
            }
            HelloRefused::Conflicting { node } => {
                write!(
                    f,
                    "node {node} was seen with two directories; refused until an operator clears the conflict on every node"
                )
            }
            HelloRefused::UnknownNode { node } => write!(f, "node {node} is not known"),
            HelloRefused::Retired { node } => write!(f, "node {node} was removed for good"),
            HelloRefused::RequiredField { number } => {
                write!(f, "hello field {number:#06x} is required, and not known")
            }
            HelloRefused::TooManyConnections { limit } => {
                write!(f, "{limit} connections are open, which is the most that may be")
            }
            HelloRefused::ShuttingDown => f.write_str("the node is shutting down"),
            HelloRefused::Other(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for HelloRefused {}

impl HelloRefused {
    /// The same refusal as the side sees it that was refused: here and there change places.
    pub fn from_other_side(self) -> HelloRefused {
        match self {
            HelloRefused::Deployment { ours, theirs } => {
                HelloRefused::Deployment { ours: theirs, theirs: ours }
            }
            HelloRefused::Version { ours, theirs } => HelloRefused::Version { ours: theirs, theirs: ours },
            HelloRefused::FeatureLevel { ours, theirs } => {
                HelloRefused::FeatureLevel { ours: theirs, theirs: ours }
            }
            HelloRefused::Instance { node, ours, theirs } => {
                HelloRefused::Instance { node, ours: theirs, theirs: ours }
            }
            neutral => neutral,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.code());
        out.put_bytes(shortened(&self.to_string(), TEXT_BYTES_MAX).as_bytes());
        match self {
            HelloRefused::Deployment { ours, theirs } => {
                out.put_u64(ours.0);
                out.put_u64(theirs.0);
            }
            HelloRefused::Version { ours, theirs } => {
                for value in [ours.min, ours.max, theirs.min, theirs.max] {
                    out.put_u16(value);
                }
            }
            HelloRefused::FeatureLevel { ours, theirs } => {
                for value in [ours.min, ours.max, theirs.min, theirs.max] {
                    out.put_u32(value);
                }
            }
            HelloRefused::MeantForAnother { meant: first, here: second }
            | HelloRefused::AnotherNodeAnswered { dialed: first, answered: second } => {
                out.put_u64(first.get());
                out.put_u64(second.get());
            }
            HelloRefused::SameNode { node }
            | HelloRefused::Conflicting { node }
            | HelloRefused::UnknownNode { node }
            | HelloRefused::Retired { node } => out.put_u64(node.get()),
            HelloRefused::Instance { node, ours, theirs } => {
                out.put_u64(node.get());
                out.put_raw(&ours.0);
                out.put_raw(&theirs.0);
            }
            HelloRefused::Forked { node, remembered_boot, boot_counter } => {
                for value in [node.get(), *remembered_boot, *boot_counter] {
                    out.put_u64(value);
                }
            }
            HelloRefused::OldCopy { node, remembered, now } => {
                for value in [node.get(), remembered.0, remembered.1, now.0, now.1] {
                    out.put_u64(value);
                }
            }
            HelloRefused::RequiredField { number } => out.put_u16(*number),
            HelloRefused::TooManyConnections { limit } => out.put_u64(*limit),
            HelloRefused::ShuttingDown | HelloRefused::Other(_) => {}
        }
    }

    /// Reads a refusal to its end. A code of a later build is read as its text.
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<HelloRefused, DecodeError> {
        let reader_ref = &mut reader;
        let code = reader_ref.u8("refusal.code")?;
        let text = reader_ref.text("refusal.text", TEXT_BYTES_MAX)?;
        let refused = match code {
            1 => HelloRefused::Deployment {
                ours: DeploymentId(reader_ref.u64("refusal.ours")?),
                theirs: DeploymentId(reader_ref.u64("refusal.theirs")?),
            },
            2 => HelloRefused::Version {
                ours: range(reader_ref, "refusal.ours", |reader, field| reader.u16(field))?,
                theirs: range(reader_ref, "refusal.theirs", |reader, field| reader.u16(field))?,
            },
            3 => HelloRefused::FeatureLevel {
                ours: range(reader_ref, "refusal.ours", |reader, field| reader.u32(field))?,
                theirs: range(reader_ref, "refusal.theirs", |reader, field| reader.u32(field))?,
            },
            4 => HelloRefused::MeantForAnother {
                meant: node(reader_ref, "refusal.node")?,
                here: node(reader_ref, "refusal.node")?,
            },
            5 => HelloRefused::AnotherNodeAnswered {
                dialed: node(reader_ref, "refusal.node")?,
                answered: node(reader_ref, "refusal.node")?,
            },
            6 => HelloRefused::SameNode { node: node(reader_ref, "refusal.node")? },
            7 => HelloRefused::Instance {
                node: node(reader_ref, "refusal.node")?,
                ours: InstanceId(reader_ref.id128("refusal.ours")?),
                theirs: InstanceId(reader_ref.id128("refusal.theirs")?),
            },
            9 => HelloRefused::OldCopy {
                node: node(reader_ref, "refusal.node")?,
                remembered: (reader_ref.u64("refusal.remembered")?, reader_ref.u64("refusal.remembered")?),
                now: (reader_ref.u64("refusal.now")?, reader_ref.u64("refusal.now")?),
            },
            10 => HelloRefused::Conflicting { node: node(reader_ref, "refusal.node")? },
            11 => HelloRefused::UnknownNode { node: node(reader_ref, "refusal.node")? },
            12 => HelloRefused::Retired { node: node(reader_ref, "refusal.node")? },
            13 => HelloRefused::RequiredField { number: reader_ref.u16("refusal.number")? },
            14 => HelloRefused::TooManyConnections { limit: reader_ref.u64("refusal.limit")? },
            15 => HelloRefused::ShuttingDown,
            CODE_OTHER => HelloRefused::Other(text.to_owned()),
            17 => HelloRefused::Forked {
                node: node(reader_ref, "refusal.node")?,
                remembered_boot: reader_ref.u64("refusal.remembered")?,
                boot_counter: reader_ref.u64("refusal.boot_counter")?,
            },
            _ => return Ok(HelloRefused::Other(text.to_owned())),
        };
        reader.finish()?;
        Ok(refused)
    }

    fn code(&self) -> u8 {
        match self {
            HelloRefused::Deployment { .. } => 1,
            HelloRefused::Version { .. } => 2,
            HelloRefused::FeatureLevel { .. } => 3,
            HelloRefused::MeantForAnother { .. } => 4,
            HelloRefused::AnotherNodeAnswered { .. } => 5,
            HelloRefused::SameNode { .. } => 6,
            HelloRefused::Instance { .. } => 7,
            HelloRefused::OldCopy { .. } => 9,
            HelloRefused::Conflicting { .. } => 10,
            HelloRefused::UnknownNode { .. } => 11,
            HelloRefused::Retired { .. } => 12,
            HelloRefused::RequiredField { .. } => 13,
            HelloRefused::TooManyConnections { .. } => 14,
            HelloRefused::ShuttingDown => 15,
            HelloRefused::Other(_) => CODE_OTHER,
            HelloRefused::Forked { .. } => 17,
        }
    }
}

/// The text, cut at a character boundary to at most `max` bytes.
pub(crate) fn shortened(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

const CODE_OTHER: u8 = 16;
const TEXT_BYTES_MAX: usize = 1024;
