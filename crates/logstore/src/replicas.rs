// SPDX-License-Identifier: Apache-2.0

//! The node-level list of replicas (rule L4): whose records live. Replaced atomically; a key that is not in it has only garbage in the
//! segments.
//!
//! A slot is a small number that stands for the key in every record; it is never given to another key (`docs/formats/log.md`, "List of
//! replicas").

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mraft_disk::Disk;
use mraft_disk::atomic::{self, Prepared, ReadError};
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::{GroupId, GroupUid, HardState, LogStart, ReplicaId};

use crate::record::{NUMBER_MAX, decode_replica, decode_start, encode_start, number};
use crate::{LogError, LogKey};

const LIST_MAGIC: [u8; 8] = *b"mraftlst";
const LIST_FILE: &str = "replicas";
const LIST_VERSION: u8 = 2;
/// Without the mark of a log that was used.
const LIST_VERSION_UNMARKED: u8 = 1;
/// Most replicas of one node; each takes a few hundred bytes of memory.
const REPLICAS_MAX: usize = 1_000_000;
/// Far above what that many replicas with ordinary memberships take.
const LIST_BYTES_MAX: usize = 1 << 30;

/// A replica as it was when it was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) slot: u32,
    /// The last batch at that moment: no earlier one can hold records of the replica.
    pub(crate) added_seq: u64,
    pub(crate) start: LogStart,
    pub(crate) hard_state: HardState,
}

/// The list, as the file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ReplicaList {
    /// A batch was written: from then on there is a segment in use, or what it held is lost (rule D9).
    pub(crate) is_used: bool,
    pub(crate) next_slot: u32,
    pub(crate) replicas: BTreeMap<LogKey, Listed>,
}

pub(crate) fn list_path(directory: &Path) -> PathBuf {
    directory.join(LIST_FILE)
}

/// Whether a log was ever opened in this directory. Its list of replicas is made before anything else; without it, segments that were used
/// still say so.
pub fn is_log(disk: &dyn Disk, directory: &Path) -> std::io::Result<bool> {
    if disk.exists(&list_path(directory))? {
        return Ok(true);
    }
    match crate::scan::Directory::read(disk, directory, None) {
        Ok(found) => Ok(!found.uses.is_empty()),
        Err(LogError::Failed(error)) => Err(error),
        // Something is there that cannot be read.
        Err(_) => Ok(true),
    }
}

/// Gives up a log whose segments are gone ([`crate::Case::NoSegments`]): from now on nobody was ever in it. Any other log is left alone.
pub fn forget_lost_log(disk: &dyn Disk, directory: &Path) -> Result<(), LogError> {
    let (list, _, recovery) = crate::recovery::look(disk, directory, None)?;
    if list.is_none() || !recovery.cases.contains_key(&crate::Case::NoSegments) {
        return Ok(());
    }
    ReplicaList::default().write(disk, directory).map_err(LogError::Failed)
}

impl ReplicaList {
    /// Reads the list; `None` when there is none.
    pub(crate) fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<ReplicaList>, LogError> {
        let path = list_path(directory);
        let refused = |reason: String| LogError::Refused { file: path.clone(), reason };
        match atomic::read(disk, &path, LIST_MAGIC, LIST_BYTES_MAX) {
            Ok(None) => Ok(None),
            Ok(Some(bytes)) => {
                ReplicaList::decode(&bytes).map(Some).map_err(|error| refused(error.to_string()))
            }
            Err(ReadError::Io(error)) => Err(LogError::Failed(error)),
            Err(error) => Err(refused(error.to_string())),
        }
    }

    /// Replaces the file by this list.
    pub(crate) fn write(&self, disk: &dyn Disk, directory: &Path) -> std::io::Result<()> {
        self.prepare(disk, directory)?.put(disk)
    }

    /// Makes all ready for replacing the file by this list.
    pub(crate) fn prepare(&self, disk: &dyn Disk, directory: &Path) -> std::io::Result<Prepared> {
        let mut out = Vec::new();
        out.put_u8(LIST_VERSION);
        out.put_u8(u8::from(self.is_used));
        out.put_u32(self.next_slot);
        out.put_varint(self.replicas.len() as u64);
        for (key, listed) in &self.replicas {
            out.put_u32(listed.slot);
            out.put_u64(key.group.0);
            out.put_raw(&key.uid.0);
            out.put_u64(key.replica.get());
            out.put_u64(listed.added_seq);
            out.put_varint(listed.hard_state.term);
            out.put_u64(listed.hard_state.vote.map_or(0, ReplicaId::get));
            out.put_varint(listed.hard_state.commit);
            encode_start(&mut out, &listed.start);
        }
        atomic::prepare(disk, &list_path(directory), LIST_MAGIC, &out)
    }

    fn decode(bytes: &[u8]) -> Result<ReplicaList, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("replicas.version")?;
        let is_used = match version {
            LIST_VERSION => match reader.u8("replicas.used")? {
                used @ (0 | 1) => used == 1,
                used => return Err(DecodeError::Invalid("replicas.used", u64::from(used))),
            },
            LIST_VERSION_UNMARKED => false,
            _ => return Err(DecodeError::Unknown("replicas.version", u64::from(version))),
        };
        let next_slot = reader.u32("replicas.next_slot")?;
        let mut list = ReplicaList { is_used, next_slot, replicas: BTreeMap::new() };
        let mut slots = BTreeSet::new();
        for _ in 0..reader.bounded("replicas.count", REPLICAS_MAX)? {
            let slot = reader.u32("replicas.slot")?;
            let group = GroupId(reader.u64("replicas.group")?);
            let uid = GroupUid(reader.id128("replicas.uid")?);
            let replica = decode_replica(&mut reader, "replicas.replica")?;
            let added_seq = reader.u64("replicas.added")?;
            if added_seq > NUMBER_MAX {
                return Err(DecodeError::Invalid("replicas.added", added_seq));
            }
            let term = number(&mut reader, "replicas.term")?;
            let vote = match reader.u64("replicas.vote")? {
                0 => None,
                id => Some(ReplicaId::from_u64(id).ok_or(DecodeError::Invalid("replicas.vote", id))?),
            };
            let hard_state = HardState { term, vote, commit: number(&mut reader, "replicas.commit")? };
            let start = decode_start(&mut reader)?;
            let key = LogKey { group, uid, replica };
            let in_order = list.replicas.last_key_value().is_none_or(|(last, _)| *last < key);
            if slot >= list.next_slot || !slots.insert(slot) || !in_order {
                return Err(DecodeError::Invalid("replicas.slot", u64::from(slot)));
            }
            list.replicas.insert(key, Listed { slot, added_seq, start, hard_state });
        }
        reader.finish()?;
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::NodeId;

    use super::*;

    fn list(slots: &[u32]) -> ReplicaList {
        let replica = ReplicaId::new(0, NodeId::new(1).expect("a node id"));
        let row = |(group, slot): (u64, &u32)| {
            let key = LogKey { group: GroupId(group), uid: GroupUid([1; 16]), replica };
            let hard_state = HardState { term: 3, vote: Some(replica), commit: 2 };
            (key, Listed { slot: *slot, added_seq: 4, start: LogStart::default(), hard_state })
        };
        ReplicaList { is_used: true, next_slot: 9, replicas: (0..).zip(slots).map(row).collect() }
    }

    fn again(list: &ReplicaList) -> Result<Option<ReplicaList>, LogError> {
        let (disk, directory) = (mraft_disk::MemoryDisk::new(), Path::new("/"));
        list.write(&disk, directory).expect("no fault");
        ReplicaList::read(&disk, directory)
    }

    #[test]
    fn l4_a_list_comes_back_and_one_that_no_log_wrote_is_refused() {
        let good = list(&[7, 0]);
        assert_eq!(again(&good).expect("a good list"), Some(good));
        let mut counted = list(&[1]);
        counted.replicas.values_mut().for_each(|listed| listed.added_seq = u64::MAX);
        let mut termed = list(&[1]);
        termed.replicas.values_mut().for_each(|listed| listed.hard_state.term = u64::MAX);
        for bad in [list(&[7, 7]), list(&[9]), counted, termed] {
            assert!(matches!(again(&bad), Err(LogError::Refused { .. })), "{bad:?}");
        }
    }
}
