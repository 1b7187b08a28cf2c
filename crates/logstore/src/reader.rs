// SPDX-License-Identifier: Apache-2.0

//! Reading entries back, from any thread, while the log goes on.
//!
//! A reader finds a record's place under a lock and reads it without one. Every record is checked under the salt of the use it was
//! found in, so bytes of a segment that was used again meanwhile are never taken for entries: they fail the check, and the place is
//! looked up again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use mraft_disk::File;
use mraft_types::{Entry, Index, Payload};

use crate::index::{Address, RecordIndex};
use crate::record::{RECORD_HEAD_BYTES, Salt, decode_body, decode_record_head};
use crate::{LogError, LogKey, LogReader};

/// How often a place is looked up again because its segment was recycled under the reader. Each time takes a whole recycling
/// between two steps of a reader; more often is not bad luck but a defect.
const LOOKUPS_MAX: usize = 100;

/// What readers share with the writer. Only durable records are in it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) replicas: BTreeMap<LogKey, SharedReplica>,
    pub(crate) uses: BTreeMap<u64, SharedUse>,
}

/// Where one replica's entries are.
#[derive(Debug)]
pub(crate) struct SharedReplica {
    pub(crate) slot: u32,
    /// The last index that is no longer in the log.
    pub(crate) start: Index,
    pub(crate) index: RecordIndex,
}

/// Where a use's bytes are.
#[derive(Clone, Debug)]
pub(crate) struct SharedUse {
    pub(crate) file: Arc<dyn File>,
    pub(crate) salt: Salt,
}

/// Reads through the memory index.
#[derive(Clone, Debug)]
pub(crate) struct SegmentReader {
    pub(crate) shared: Arc<RwLock<Shared>>,
    pub(crate) segment_bytes: u64,
}

/// A record's place.
struct Place {
    slot: u32,
    at: SharedUse,
    offset: u64,
    /// Where the next record's entries begin: this record's own from there on are void.
    until: Option<Index>,
    address: Address,
}

impl SegmentReader {
    fn place(&self, key: LogKey, index: Index) -> Result<Place, LogError> {
        let shared = read(&self.shared);
        let found = shared.replicas.get(&key).filter(|replica| index > replica.start).and_then(|replica| {
            let (_, address, until) = replica.index.find(index)?;
            let at = shared.uses.get(&(address / self.segment_bytes))?.clone();
            let offset = address % self.segment_bytes;
            Some(Place { slot: replica.slot, at, offset, until, address })
        });
        found.ok_or(LogError::NotHere { index })
    }

    /// Appends the record's entries from `next` on; whether all that were asked for are there.
    fn read_record(
        &self,
        place: &Place,
        next: Index,
        last: Index,
        budget: &mut Budget,
        entries: &mut Vec<Entry>,
    ) -> Option<bool> {
        let body = self.body(place)?;
        let mut is_full = false;
        let head = decode_body(&body, |entry| {
            let is_live = place.until.is_none_or(|until| entry.index < until);
            if entry.index < next || entry.index > last || !is_live || is_full {
                return Ok(());
            }
            if !budget.take(entry.payload_bytes) {
                is_full = true;
                return Ok(());
            }
            let payload = body.slice(entry.payload_at, entry.payload_bytes).unwrap_or_default();
            entries.push(Entry { index: entry.index, term: entry.term, kind: entry.kind, payload });
            Ok(())
        });
        head.ok().filter(|head| head.slot == place.slot).map(|_| is_full)
    }

    fn body(&self, place: &Place) -> Option<Payload> {
        let mut head = [0; RECORD_HEAD_BYTES];
        place.at.file.read_exact_at(&mut head, place.offset).ok()?;
        let (len, crc) = decode_record_head(&head).ok()?;
        let body_at = place.offset + RECORD_HEAD_BYTES as u64;
        if len as u64 > self.segment_bytes.saturating_sub(body_at) {
            return None;
        }
        let mut body = vec![0; len];
        place.at.file.read_exact_at(&mut body, body_at).ok()?;
        (place.at.salt.checksum(&body) == crc).then(|| Payload::from(body))
    }

    fn is_still_there(&self, key: LogKey, index: Index, address: Address) -> bool {
        self.place(key, index).is_ok_and(|place| place.address == address)
    }
}

/// Bytes that one answer may have; the first entry is always taken.
struct Budget {
    left_bytes: Option<usize>,
    max_bytes: usize,
}

impl Budget {
    fn take(&mut self, bytes: usize) -> bool {
        let left = match self.left_bytes {
            None => Some(self.max_bytes.saturating_sub(bytes)),
            Some(left) => left.checked_sub(bytes),
        };
        self.left_bytes = left.or(self.left_bytes);
        left.is_some()
    }
}

impl LogReader for SegmentReader {
    fn entries(
        &self,
        key: LogKey,
        first: Index,
        last: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut budget = Budget { left_bytes: None, max_bytes };
        let mut lookups = 0;
        let mut next = first;
        while next <= last {
            let place = self.place(key, next)?;
            let taken = entries.len();
            let whole = self.read_record(&place, next, last, &mut budget, &mut entries);
            if whole == Some(true) {
                break;
            }
            if whole.is_none() || entries.len() == taken {
                // Either the place was given up while we read, or these bytes are not what was written, or nothing stands there.
                entries.truncate(taken);
                lookups += 1;
                if lookups > LOOKUPS_MAX || self.is_still_there(key, next, place.address) {
                    return match whole {
                        None => Err(LogError::Damaged { key, index: next }),
                        Some(_) => Err(LogError::NotHere { index: next }),
                    };
                }
                continue;
            }
            next = entries.last().map_or(next, |entry| entry.index + 1);
        }
        Ok(entries)
    }
}

pub(crate) fn read(shared: &RwLock<Shared>) -> RwLockReadGuard<'_, Shared> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write(shared: &RwLock<Shared>) -> RwLockWriteGuard<'_, Shared> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}
