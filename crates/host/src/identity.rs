// SPDX-License-Identifier: Apache-2.0

//! Whose directory this is (rows S3 and S10, rules M6 and M7).
//!
//! A data directory gets a random instance id when it is made. The same identity lies in the data directory and in the WAL directory
//! (which may be one and the same): they belong together, and one without the other is not this node. Each start counts up a boot
//! counter and draws a nonce, first in the WAL, then in the data directory, so that a crash between the two leaves the WAL one ahead,
//! and two copies of one directory that both ran show equal counters with different nonces. The last starts stay in the identity, each with
//! how far the log went that it found: peers that remember one of them tell by it whether this directory went through it (rule M7).
//!
//! The identity remembers where the WAL is, as an absolute path: a restart that names no WAL directory uses that one. Another path is
//! this node's WAL only if this node's identity is in it (it was moved); an empty log under a node that had one would let it vote twice.
//!
//! Everything is compared before anything is written. A refusal names both values and leaves every byte as it was.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use mraft_disk::{Disk, atomic};
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::ADDRESS_BYTES_MAX;
use mraft_types::{DeploymentId, InstanceId, NodeId};
use mraft_wire::{HelloRefused, STARTS_BYTES_MAX, Start, Starts};

use crate::error::HostError;
use crate::files;

const IDENTITY_MAGIC: [u8; 8] = *b"mraftidn";
const IDENTITY_FILE: &str = "identity";
/// Version 1 did not say where the log is, version 2 not which starts there were.
const IDENTITY_VERSION: u8 = 3;
const IDENTITY_BYTES_MAX: usize = 8192;
/// The longest path that Linux takes.
const PATH_BYTES_MAX: usize = 4096;
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
    /// Where the log of this node is.
    pub log: LogPlace,
    /// The last starts, this one included.
    pub starts: Starts,
}

impl Identity {
    /// Whether a peer that refuses this node does so because this very directory lacks what was done in its name (rule M7).
    pub fn lacks_what_was_done(&self, reason: &HelloRefused) -> bool {
        let (refused, boot) = match reason {
            HelloRefused::OldCopy { node, now, .. } => (node, now.0),
            HelloRefused::Forked { node, boot_counter, .. } => (node, *boot_counter),
            _ => return false,
        };
        *refused == self.node && boot == self.boot_counter
    }
}

/// Where a node's log is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogPlace {
    /// The identity is of version 1, which did not say.
    Unknown,
    /// In the data directory.
    WithData,
    /// In a WAL directory of its own, by its absolute path.
    Own(PathBuf),
}

impl LogPlace {
    /// The WAL directory of the node whose data directory is `data`.
    pub fn wal_directory(&self, data: &Path) -> PathBuf {
        match self {
            LogPlace::Unknown | LogPlace::WithData => data.to_owned(),
            LogPlace::Own(wal) => wal.clone(),
        }
    }

    fn of(data: &Path, wal: &Path) -> LogPlace {
        if wal == data { LogPlace::WithData } else { LogPlace::Own(wal.to_owned()) }
    }
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

/// Where the log is to be: what the configuration says, else what the data directory remembers, else the data directory. Touches nothing.
pub(crate) fn wal_directory(
    disk: &dyn Disk,
    data: &Path,
    configured: Option<&Path>,
) -> Result<PathBuf, HostError> {
    let Some(configured) = configured else {
        let found = read(disk, data)?;
        return Ok(found.map_or_else(|| data.to_owned(), |found| found.log.wal_directory(data)));
    };
    if files::is_same(configured, data) {
        return Ok(data.to_owned());
    }
    let absolute = std::path::absolute(configured).map_err(|error| HostError::io(configured, error))?;
    if absolute.as_os_str().len() > PATH_BYTES_MAX {
        let reason = format!("is {} bytes long, the limit is {PATH_BYTES_MAX}", absolute.as_os_str().len());
        return Err(HostError::Config { field: "wal_directory", reason });
    }
    Ok(absolute)
}

/// Checks both directories against the claim and against each other, and counts the start. `fresh` supplies an instance id and a
/// nonce, `found_seq` is how far the log goes. The caller holds the directories' locks.
pub fn boot(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    claim: &Claim,
    fresh: (InstanceId, u64),
    found_seq: u64,
) -> Result<Identity, HostError> {
    count(disk, data, wal, decide(disk, data, wal, claim, fresh)?, found_seq)
}

/// Counts one more start of a stopped node whose log is about to be written to; `identity` is what its directories say together.
pub(crate) fn begin(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    identity: &Identity,
    nonce: u64,
    found_seq: u64,
) -> Result<Identity, HostError> {
    let boot_counter = identity.boot_counter.saturating_add(1);
    let log = LogPlace::of(data, wal);
    let next = Identity { boot_counter, boot_nonce: nonce, log, ..identity.clone() };
    count(disk, data, wal, next, found_seq)
}

/// Writes down a start that was decided, and what it found.
fn count(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    mut next: Identity,
    found_seq: u64,
) -> Result<Identity, HostError> {
    next.starts.begin(Start { boot_nonce: next.boot_nonce, found_seq });
    catch_up(disk, data, wal)?;
    write(disk, data, wal, &next)?;
    Ok(next)
}

/// What a start that got no further than the WAL left is told the data directory before the WAL goes on: it may never be two starts ahead.
fn catch_up(disk: &dyn Disk, data: &Path, wal: &Path) -> Result<(), HostError> {
    let (Some(in_data), Some(in_wal)) = (read(disk, data)?, read(disk, wal)?) else { return Ok(()) };
    let start = |of: &Identity| (of.boot_counter, of.boot_nonce);
    let is_behind = in_data.created && in_wal.created && start(&in_data) != start(&in_wal);
    if wal == data || !is_behind {
        return Ok(());
    }
    files::replace(disk, &path(data), IDENTITY_MAGIC, &encode(&latest(in_data, in_wal)?))
}

/// Everything that [`boot`] checks, and what it would write but for how this start found the log; changes nothing.
pub fn decide(
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
    if let Some(found) = in_data.as_ref().filter(|found| found.created) {
        is_the_log_of(found, data, wal, in_wal.as_ref())?;
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
        log: LogPlace::of(data, wal),
        starts: Starts::default(),
    };
    let together = |in_data, in_wal| together(in_data, in_wal, nonce, LogPlace::of(data, wal));
    match (in_data, in_wal) {
        (None, None) => {
            empty(disk, data)?;
            empty(disk, wal)?;
            Ok(begun_anew)
        }
        // The first start never got past making the identity: nothing else can be in there yet.
        (Some(one), None) | (None, Some(one)) if !one.created => Ok(begun_anew),
        (Some(in_data), Some(in_wal)) if !in_data.created || !in_wal.created => {
            if in_data.created || in_wal.created {
                // The crash was between marking the one and the other as created.
                Ok(Identity { created: true, ..together(in_data, in_wal)? })
            } else {
                Ok(begun_anew)
            }
        }
        (Some(_), None) => Err(half(wal, data)),
        (None, Some(_)) => Err(half(data, wal)),
        (Some(in_data), Some(in_wal)) => together(in_data, in_wal),
    }
}

/// A node that once ran has a log: what it voted and acknowledged is in there, and an empty one in its place would forget both (rule D9).
pub(crate) fn has_its_log(disk: &dyn Disk, data: &Path, log: &Path) -> Result<(), HostError> {
    if mraft_logstore::is_log(disk, log).map_err(|error| HostError::io(log, error))? {
        return Ok(());
    }
    Err(HostError::Refused {
        reason: format!(
            "{} belongs to a node that has run, and its log is not in {}: mount the log's disk there, or give wal_dir if the log has a \
             directory of its own; if the log is lost, remove the node from its groups and add it again under another node id with an \
             empty directory, or, for groups that have no majority left, see `mraft repair accept-loss`; nothing was changed",
            data.display(),
            log.display()
        ),
    })
}

/// The first start is through: the directory is whole from now on.
pub fn mark_created(
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

/// Whether the directory that is to be the WAL is this node's: the one that it remembers, or one that holds its identity.
fn is_the_log_of(
    found: &Identity,
    data: &Path,
    wal: &Path,
    in_wal: Option<&Identity>,
) -> Result<(), HostError> {
    let remembered = found.log.wal_directory(data);
    let is_own = |in_wal: &Identity| in_wal.instance == found.instance;
    match &found.log {
        LogPlace::Unknown => return Ok(()),
        LogPlace::WithData if wal == data => return Ok(()),
        LogPlace::Own(_) if wal == remembered => return Ok(()),
        LogPlace::Own(_) if wal != data && in_wal.is_some_and(is_own) => return Ok(()),
        LogPlace::WithData | LogPlace::Own(_) => {}
    }
    Err(HostError::Disagrees {
        reason: format!(
            "the log of {} is in {}, the configuration says {}, which is not this node's WAL directory: leave wal_dir out, or give the \
             directory that the log is in now; nothing was changed",
            data.display(),
            remembered.display(),
            wal.display()
        ),
    })
}

fn agrees(found: &Identity, claim: &Claim, directory: &Path) -> Result<(), HostError> {
    let differs = |what: &str, here: String, configured: String, fix: &str| HostError::Disagrees {
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
fn together(in_data: Identity, in_wal: Identity, nonce: u64, log: LogPlace) -> Result<Identity, HostError> {
    if in_data.instance != in_wal.instance {
        return Err(differ(&in_data, &in_wal));
    }
    let latest = latest(in_data, in_wal)?;
    let boot_counter = latest.boot_counter.saturating_add(1);
    Ok(Identity { boot_counter, boot_nonce: nonce, format_level: NODE_FORMAT_LEVEL, log, ..latest })
}

/// The later of the two, which must be from one start, or as a crash between writing the one and the other left them.
fn latest(in_data: Identity, in_wal: Identity) -> Result<Identity, HostError> {
    // The WAL is written first: a crash can leave it one start ahead, and never behind. Of the same start it can be further ahead when a
    // loss was being accepted.
    let is_same_start = in_data.boot_nonce == in_wal.boot_nonce;
    let ahead = in_wal.boot_counter.checked_sub(in_data.boot_counter);
    let is_one_time = match ahead {
        Some(1) => true,
        Some(_) => is_same_start,
        None => false,
    };
    if !is_one_time {
        return Err(HostError::Refused {
            reason: format!(
                "the data directory was started {} times (nonce {:016x}), the WAL directory {} times (nonce {:016x}): \
                 one of them is a copy from another time; nothing was changed",
                in_data.boot_counter, in_data.boot_nonce, in_wal.boot_counter, in_wal.boot_nonce
            ),
        });
    }
    Ok(Identity {
        boot_counter: in_wal.boot_counter,
        boot_nonce: in_wal.boot_nonce,
        starts: in_wal.starts,
        ..in_data
    })
}

/// What a node's two directories say together, for whoever repairs it while it is stopped; the WAL directory may be gone with its log.
pub(crate) fn of_stopped(disk: &dyn Disk, data: &Path, wal: &Path) -> Result<Identity, HostError> {
    let refused = |reason: &str| HostError::Refused { reason: format!("{}: {reason}", data.display()) };
    let in_data =
        read(disk, data)?.ok_or_else(|| refused("it holds no identity: it is no node's directory"))?;
    if !in_data.created {
        return Err(refused("its first start did not get through: it has nothing to lose"));
    }
    if in_data.format_level > NODE_FORMAT_LEVEL {
        let level = in_data.format_level;
        return Err(refused(&format!(
            "it was written with format level {level}, this build knows {NODE_FORMAT_LEVEL}: use the newer release"
        )));
    }
    let in_wal = if wal == data { Some(in_data.clone()) } else { read(disk, wal)? };
    is_the_log_of(&in_data, data, wal, in_wal.as_ref().or(Some(&in_data)))?;
    let Some(in_wal) = in_wal else {
        empty(disk, wal)?;
        return Ok(in_data);
    };
    if in_data.instance != in_wal.instance {
        return Err(differ(&in_data, &in_wal));
    }
    latest(in_data, in_wal)
}

/// Counts the starts of a stopped node on from `boot_counter`, as if it had been started so often; which starts there were is forgotten.
/// The pair of directories is that of one start at every moment.
pub(crate) fn raise(
    disk: &dyn Disk,
    data: &Path,
    wal: &Path,
    identity: &Identity,
    boot_counter: u64,
) -> Result<(), HostError> {
    let identity = Identity { log: LogPlace::of(data, wal), ..identity.clone() };
    write(disk, data, wal, &identity)?;
    write(disk, data, wal, &Identity { boot_counter, starts: Starts::default(), ..identity })
}

fn differ(in_data: &Identity, in_wal: &Identity) -> HostError {
    HostError::Refused {
        reason: format!(
            "the data directory is instance {}, the WAL directory is instance {}: they do not belong together; \
             nothing was changed",
            in_data.instance, in_wal.instance
        ),
    }
}

fn half(missing: &Path, present: &Path) -> HostError {
    HostError::Refused {
        reason: format!(
            "{} has an identity but {} has none: the two directories belong together; mount the missing one, or give it as it is named now \
             (data_dir, wal_dir); nothing was changed",
            present.display(),
            missing.display()
        ),
    }
}

/// A directory without an identity must hold nothing: it may be somebody else's. What a crash left of writing the identity is nothing.
fn empty(disk: &dyn Disk, directory: &Path) -> Result<(), HostError> {
    let begun = atomic::name_beside(IDENTITY_FILE);
    match files::first_entry(disk, directory, &[&begun]).map_err(|error| HostError::io(directory, error))? {
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

/// Reads an identity and writes it.
pub(crate) fn again(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    decode(bytes).map(|identity| encode(&identity))
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
    match &identity.log {
        LogPlace::Unknown => out.put_u8(LOG_UNKNOWN),
        LogPlace::WithData => out.put_u8(LOG_WITH_DATA),
        LogPlace::Own(wal) => {
            out.put_u8(LOG_OWN);
            out.put_bytes(wal.as_os_str().as_bytes());
        }
    }
    let mut starts = Vec::new();
    identity.starts.encode(&mut starts);
    out.put_bytes(&starts);
    out
}

fn decode(bytes: &[u8]) -> Result<Identity, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8("identity.version")?;
    if !(1..=IDENTITY_VERSION).contains(&version) {
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
        log: if version == 1 { LogPlace::Unknown } else { decode_place(&mut reader)? },
        starts: Starts::default(),
    };
    let starts = if version < 3 { &[] } else { reader.bytes("identity.starts", STARTS_BYTES_MAX)? };
    let latest = (identity.boot_counter, identity.boot_nonce);
    let identity = Identity { starts: Starts::decode(starts, latest, "identity.starts")?, ..identity };
    reader.finish()?;
    Ok(identity)
}

const LOG_UNKNOWN: u8 = 0;
const LOG_WITH_DATA: u8 = 1;
const LOG_OWN: u8 = 2;

fn decode_place(reader: &mut Reader<'_>) -> Result<LogPlace, DecodeError> {
    match reader.u8("identity.log")? {
        LOG_UNKNOWN => Ok(LogPlace::Unknown),
        LOG_WITH_DATA => Ok(LogPlace::WithData),
        LOG_OWN => {
            let path = reader.bytes("identity.wal_directory", PATH_BYTES_MAX)?;
            Ok(LogPlace::Own(PathBuf::from(OsString::from_vec(path.to_vec()))))
        }
        other => Err(DecodeError::Invalid("identity.log", u64::from(other))),
    }
}

#[cfg(test)]
mod tests;
