// SPDX-License-Identifier: Apache-2.0

//! Whose directory this is (rows S3 and S10, rules M6 and M7).
//!
//! A data directory gets a random instance id when it is made. The same identity lies in the data directory and in the WAL directory
//! (which may be one and the same): they belong together, and one without the other is not this node. Each start counts up a boot
//! counter and draws a nonce, first in the WAL, then in the data directory, so that a crash between the two leaves counters one apart,
//! and two copies of one directory that both ran show equal counters with different nonces.
//!
//! Everything is compared before anything is written. A refusal names both values and leaves every byte as it was.

use std::path::{Path, PathBuf};

use mraft_disk::Disk;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::ADDRESS_BYTES_MAX;
use mraft_types::{DeploymentId, InstanceId, NodeId};

use crate::error::HostError;
use crate::files;

const IDENTITY_MAGIC: [u8; 8] = *b"mraftidn";
const IDENTITY_FILE: &str = "identity";
const IDENTITY_VERSION: u8 = 1;
const IDENTITY_BYTES_MAX: usize = 4096;
/// Formats of the node's own files (log, hello) that this build writes (rule T3).
pub const NODE_FORMAT_LEVEL: u32 = 1;

/// What a directory says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Which deployment it belongs to.
    pub deployment: DeploymentId,
    /// Which node it is.
    pub node: NodeId,
    /// Which directory it is.
    pub instance: InstanceId,
    /// Where peers reach the node; may not change in fixed-address mode.
    pub raft_address: String,
    /// How often it was started.
    pub boot_counter: u64,
    /// Drawn at each start.
    pub boot_nonce: u64,
    /// Highest format that was written here (rule T3).
    pub format_level: u32,
    /// Whether the first start got as far as a usable directory.
    pub created: bool,
}

/// What the configuration says of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Which deployment.
    pub deployment: DeploymentId,
    /// Which node.
    pub node: NodeId,
    /// Where peers reach it.
    pub raft_address: String,
}

/// Checks both directories against the claim and against each other, and counts the start. `fresh` supplies an instance id and a
/// nonce. The caller holds the directories' locks.
pub(crate) fn boot(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    claim: &Claim,
    fresh: (InstanceId, u64),
) -> Result<Identity, HostError> {
    let next = decide(disk, data, wal, claim, fresh)?;
    write(disk, data, wal, &next)?;
    Ok(next)
}

/// Everything that [`boot`] checks, and what it would write; changes nothing.
pub(crate) fn decide(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    claim: &Claim,
    fresh: (InstanceId, u64),
) -> Result<Identity, HostError> {
    let in_data = read(disk, data)?;
    let in_wal = if wal == data { in_data.clone() } else { read(disk, wal)? };
    for (found, directory) in [(&in_data, data), (&in_wal, wal)] {
        if let Some(found) = found {
            agrees(found, claim, directory)?;
        }
    }
    let (instance, nonce) = fresh;
    let begun_anew = Identity {
        deployment: claim.deployment,
        node: claim.node,
        instance,
        raft_address: claim.raft_address.clone(),
        boot_counter: 1,
        boot_nonce: nonce,
        format_level: NODE_FORMAT_LEVEL,
        created: false,
    };
    match (in_data, in_wal) {
        (None, None) => {
            empty(disk, data)?;
            empty(disk, wal)?;
            Ok(begun_anew)
        }
        // The first start never got past making the identity: nothing else can be in there yet.
        (Some(one), None) | (None, Some(one)) if !one.created => Ok(begun_anew),
        (Some(data), Some(wal)) if !data.created || !wal.created => {
            if data.created || wal.created {
                // The crash was between marking the one and the other as created.
                Ok(Identity { created: true, ..together(data, wal, nonce)? })
            } else {
                Ok(begun_anew)
            }
        }
        (Some(_), None) => Err(half(wal, data)),
        (None, Some(_)) => Err(half(data, wal)),
        (Some(in_data), Some(in_wal)) => together(in_data, in_wal, nonce),
    }
}

/// The first start is through: the directory is whole from now on.
pub(crate) fn mark_created(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    identity: &mut Identity,
) -> Result<(), HostError> {
    if !identity.created {
        identity.created = true;
        write(disk, data, wal, identity)?;
    }
    Ok(())
}

/// What a stopped node's directory says of itself, for `inspect`.
pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Identity>, HostError> {
    let path = path(directory);
    let Some(bytes) = files::read(disk, &path, IDENTITY_MAGIC, IDENTITY_BYTES_MAX)? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(|error| HostError::damaged(&path, error.to_string()))
}

fn path(directory: &Path) -> PathBuf {
    directory.join(IDENTITY_FILE)
}

fn agrees(found: &Identity, claim: &Claim, directory: &Path) -> Result<(), HostError> {
    let differs = |what: &str, here: String, configured: String, fix: &str| HostError::Refused {
        reason: format!(
            "{} belongs to {what} {here}, the configuration says {configured}: {fix}; nothing was changed",
            directory.display()
        ),
    };
    if found.deployment != claim.deployment {
        let (here, configured) = (found.deployment.to_string(), claim.deployment.to_string());
        return Err(differs(
            "deployment",
            here,
            configured,
            "set deployment_id back or give another data directory",
        ));
    }
    if found.node != claim.node {
        let shown = |node: NodeId| format!("{node} ({})", node.to_address());
        let fix = "a node id never changes; set it back or give another data directory";
        return Err(differs("node", shown(found.node), shown(claim.node), fix));
    }
    if found.raft_address != claim.raft_address {
        let fix = "in fixed-address mode the Raft address never changes; set it back, or remove the node and add it anew";
        return Err(differs("Raft address", found.raft_address.clone(), claim.raft_address.clone(), fix));
    }
    if found.format_level > NODE_FORMAT_LEVEL {
        return Err(HostError::Refused {
            reason: format!(
                "{} was written with format level {}, this build knows {NODE_FORMAT_LEVEL}: use the newer release; \
                 nothing was changed",
                directory.display(),
                found.format_level
            ),
        });
    }
    Ok(())
}

/// The identity of this start, from the two that must be one.
fn together(in_data: Identity, in_wal: Identity, nonce: u64) -> Result<Identity, HostError> {
    if in_data.instance != in_wal.instance {
        return Err(HostError::Refused {
            reason: format!(
                "the data directory is instance {}, the WAL directory is instance {}: they do not belong together; \
                 nothing was changed",
                in_data.instance, in_wal.instance
            ),
        });
    }
    let apart = in_data.boot_counter.abs_diff(in_wal.boot_counter);
    if apart > 1 || (apart == 0 && in_data.boot_nonce != in_wal.boot_nonce) {
        return Err(HostError::Refused {
            reason: format!(
                "the data directory was started {} times (nonce {:016x}), the WAL directory {} times (nonce {:016x}): \
                 one of them is a copy from another time; nothing was changed",
                in_data.boot_counter, in_data.boot_nonce, in_wal.boot_counter, in_wal.boot_nonce
            ),
        });
    }
    let boot_counter = in_data.boot_counter.max(in_wal.boot_counter) + 1;
    Ok(Identity { boot_counter, boot_nonce: nonce, format_level: NODE_FORMAT_LEVEL, ..in_data })
}

fn half(missing: &Path, present: &Path) -> HostError {
    HostError::Refused {
        reason: format!(
            "{} has an identity but {} has none: the two directories belong together; nothing was changed",
            present.display(),
            missing.display()
        ),
    }
}

/// A directory without an identity must hold nothing: it may be somebody else's.
fn empty(disk: &dyn Disk, directory: &Path) -> Result<(), HostError> {
    match files::first_entry(disk, directory).map_err(|error| HostError::io(directory, error))? {
        None => Ok(()),
        Some(name) => Err(HostError::Refused {
            reason: format!(
                "{} holds `{name}` but no identity: it belongs to something else; give an empty or a new directory; \
                 nothing was changed",
                directory.display()
            ),
        }),
    }
}

fn write(disk: &dyn Disk, data: &Path, wal: &Path, identity: &Identity) -> Result<(), HostError> {
    let bytes = encode(identity);
    for directory in [wal, data] {
        files::make_directory(disk, directory).map_err(|error| HostError::io(directory, error))?;
        files::replace(disk, &path(directory), IDENTITY_MAGIC, &bytes)?;
        if wal == data {
            break;
        }
    }
    Ok(())
}

fn encode(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u8(IDENTITY_VERSION);
    out.put_u64(identity.deployment.0);
    out.put_u64(identity.node.get());
    out.put_raw(&identity.instance.0);
    out.put_bytes(identity.raft_address.as_bytes());
    out.put_u64(identity.boot_counter);
    out.put_u64(identity.boot_nonce);
    out.put_u32(identity.format_level);
    out.put_u8(u8::from(identity.created));
    out
}

fn decode(bytes: &[u8]) -> Result<Identity, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("identity.version")?;
    if version != IDENTITY_VERSION {
        return Err(DecodeError::Unknown("identity.version", u64::from(version)));
    }
    let deployment = DeploymentId(reader.u64("identity.deployment")?);
    let node = reader.u64("identity.node")?;
    let identity = Identity {
        deployment,
        node: NodeId::new(node).ok_or(DecodeError::Invalid("identity.node", node))?,
        instance: InstanceId(reader.id128("identity.instance")?),
        raft_address: reader.text("identity.raft_address", ADDRESS_BYTES_MAX)?.to_owned(),
        boot_counter: reader.u64("identity.boot_counter")?,
        boot_nonce: reader.u64("identity.boot_nonce")?,
        format_level: reader.u32("identity.format_level")?,
        created: match reader.u8("identity.created")? {
            0 => false,
            1 => true,
            other => return Err(DecodeError::Invalid("identity.created", u64::from(other))),
        },
    };
    reader.finish()?;
    Ok(identity)
}
