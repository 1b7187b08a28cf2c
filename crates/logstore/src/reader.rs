// SPDX-License-Identifier: Apache-2.0

//! Reading entries back, from any thread, while the log goes on.

use std::sync::{Arc, Mutex};

use mraft_disk::File;
use mraft_types::limits::BATCH_BYTES_MAX;
use mraft_types::{Entry, Index, Payload};

use crate::index::Address;
use crate::record::{RECORD_HEAD_BYTES, Record, checksum, decode_body};
use crate::writer::{Shared, lock};
use crate::{LogError, LogKey, LogReader};

/// Reads through the memory index; every record is checked, so bytes of a segment that was used again meanwhile are never taken
/// for entries.
pub(crate) struct SegmentReader {
    pub(crate) shared: Arc<Mutex<Shared>>,
    pub(crate) segment_bytes: u64,
}

struct Place {
    slot: u32,
    file: Arc<dyn File>,
    salt: u64,
    offset: u64,
    /// Where the next record's entries begin.
    until: Option<Index>,
    use_number: u64,
}

impl SegmentReader {
    fn place(&self, key: LogKey, index: Index) -> Result<Place, LogError> {
        let shared = lock(&self.shared);
        let not_here = LogError::NotHere { index };
        let Some(slot) = shared.slots.get(&key) else { return Err(not_here) };
        if index <= slot.state.start.position.index {
            return Err(not_here);
        }
        let Some((_, address, until)) = slot.index.find(index) else { return Err(not_here) };
        let (use_number, offset) = (address / self.segment_bytes, address % self.segment_bytes);
        let Some((file, salt)) = shared.uses.get(&use_number) else { return Err(not_here) };
        Ok(Place { slot: slot.number, file: Arc::clone(file), salt: *salt, offset, until, use_number })
    }

    fn still_in_use(&self, use_number: u64) -> bool {
        lock(&self.shared).uses.contains_key(&use_number)
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
        let mut bytes = 0;
        let mut next = first;
        while next <= last {
            let place = self.place(key, next)?;
            let record = match read_record(&place, self.segment_bytes) {
                Some(record) if record.slot == place.slot => record,
                _ if !self.still_in_use(place.use_number) => return Err(LogError::NotHere { index: next }),
                _ => return Err(LogError::Damaged { key, index: next }),
            };
            let before = next;
            for entry in record.entries {
                if entry.index < next
                    || entry.index > last
                    || place.until.is_some_and(|until| entry.index >= until)
                {
                    continue;
                }
                bytes += entry.payload.len();
                if !entries.is_empty() && bytes > max_bytes {
                    return Ok(entries);
                }
                next = entry.index + 1;
                entries.push(entry);
            }
            if next == before {
                return Err(LogError::NotHere { index: next });
            }
        }
        Ok(entries)
    }
}

/// The record at an address, if it is whole.
fn read_record(place: &Place, segment_bytes: u64) -> Option<Record> {
    let address: Address = place.offset;
    let mut head = [0; RECORD_HEAD_BYTES];
    place.file.read_exact_at(&mut head, address).ok()?;
    let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    if len > BATCH_BYTES_MAX || address + (RECORD_HEAD_BYTES + len) as u64 > segment_bytes {
        return None;
    }
    let mut body = vec![0; len];
    place.file.read_exact_at(&mut body, address + RECORD_HEAD_BYTES as u64).ok()?;
    if checksum(place.salt, &body) != crc {
        return None;
    }
    decode_body(&Payload::from(body), true).ok()
}
