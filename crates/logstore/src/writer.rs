// SPDX-License-Identifier: Apache-2.0

//! The segment log's writing side: a batch becomes one buffer, one write, one sync; what it changes counts only then.
//!
//! Invariants: no write touches a block that holds a synced batch. A file is used again only after a batch was synced that no longer
//! needs it. Readers see a record only when it is durable. After a failed write or sync nothing more is written (rule D10).

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};

use mraft_disk::atomic::Prepared;
use mraft_types::planted;
use mraft_types::{HardState, LogStart};

use crate::batch::{self, BATCH_HEADER_BYTES, BatchKind, BatchNumbers, ROW_BYTES, Row, round_up};
use crate::carry::Carrying;
use crate::cases::Case;
use crate::index::Address;
use crate::options::LogOptions;
use crate::reader::{SegmentReader, Shared, SharedReplica, SharedUse, read, write};
use crate::record::{self, Head, Salt, State};
use crate::replica::{Replica, Scratch, Update, check_write, first_live, mark_bytes_max, move_pin};
use crate::replicas::{Listed, ReplicaList};
use crate::segment::{Fill, Filled};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader};
use crate::space::{FREE_TARGET, Purpose, Space};
use crate::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};

/// A log in segment files.
#[derive(Debug)]
pub struct SegmentLog {
    pub(crate) options: LogOptions,
    pub(crate) space: Space,
    pub(crate) list: ReplicaList,
    /// The list with the mark that the first batch makes true: in its place before anybody hears of that batch.
    pub(crate) marking: Option<(ReplicaList, Prepared)>,
    pub(crate) replicas: BTreeMap<LogKey, Replica>,
    /// How many replicas need which use as their oldest.
    pub(crate) pins: BTreeMap<u64, u32>,
    pub(crate) active: Option<Active>,
    pub(crate) next_use: u64,
    /// The salt that the last use named for that one.
    pub(crate) next_salt: Option<Salt>,
    /// The number of the last batch; also of one that was torn.
    pub(crate) highest_seq: u64,
    /// Everything up to this batch is known to be durable.
    pub(crate) proven_seq: u64,
    /// The highest number that the list of replicas named when the log was opened: it is durable too.
    pub(crate) listed_seq: u64,
    /// The oldest use that the last synced batch names.
    pub(crate) oldest_written: u64,
    /// The last batch is a seal.
    pub(crate) is_sealed: bool,
    /// While the log is being opened: the oldest use that the last process needed, as far as it said so, durably or not.
    pub(crate) oldest_found: Option<u64>,
    pub(crate) has_failed: bool,
    /// The last entries found no room: from now on carrying is to make some, whatever the target says.
    pub(crate) is_short: bool,
    pub(crate) shared: Arc<RwLock<Shared>>,
    pub(crate) recovered: Vec<Recovered>,
    pub(crate) cases: BTreeMap<Case, u64>,
    pub(crate) buffer: Vec<u8>,
    /// Batches in a row that needed little of it.
    pub(crate) small_in_a_row: u32,
    pub(crate) rows: Vec<Row>,
    pub(crate) updates: Vec<Update>,
    /// Numbers the calls of `write`, so that a replica's scratch need not be cleared.
    pub(crate) call: u64,
    pub(crate) carrying: Option<Carrying>,
    /// Bytes that may be carried forward: grows with what is written, so that carrying costs at most as much as writing did.
    pub(crate) carry_allowance_bytes: u64,
    pub(crate) groups_carried: u64,
}

/// The use that batches go to.
#[derive(Debug)]
pub(crate) struct Active {
    use_number: u64,
    segment: SegmentFile,
    salt: Salt,
    /// Where the next batch goes; 0 when the use's header is still to be written, together with its first batch.
    offset: u64,
}

/// Where the batch in the making goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) salt: Salt,
    /// Address of the buffer's first byte.
    pub(crate) base: Address,
    /// Where the batch begins in the buffer.
    at: usize,
}

impl SegmentLog {
    /// How often each case of the recovery table was met when the log was opened.
    pub fn recovery_cases(&self) -> &BTreeMap<Case, u64> {
        &self.cases
    }

    /// Numbers the next batch at least so, in a fresh use of a segment: for a log that was numbered higher before it was lost or went
    /// back, so that peers who remember that do not take it for an old copy (rule M7). Durable with that batch, or with the next replica
    /// that is added.
    pub fn continue_from(&mut self, batch_seq: u64) {
        if batch_seq > self.highest_seq + 1 {
            self.highest_seq = batch_seq - 1;
            // Within a use a jump of the numbers means that batches are missing.
            self.active = None;
        }
    }

    fn works(&self) -> Result<(), LogError> {
        if self.has_failed {
            return Err(LogError::Failed(std::io::Error::other("the log failed before")));
        }
        Ok(())
    }

    /// Remembers a failure: from then on the log takes nothing.
    pub(crate) fn note<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(LogError::Failed(_)) = &result {
            self.has_failed = true;
        }
        result
    }

    /// The oldest use that any replica needs, or the active one.
    pub(crate) fn oldest_needed(&self) -> u64 {
        let active = self.active.as_ref().map_or(self.next_use, |active| active.use_number);
        self.pins.keys().next().copied().filter(|_| !planted!(SegmentFreedEarly)).unwrap_or(active)
    }

    /// Checks a batch as a whole before anything changes; what it takes at most.
    fn check(&mut self, batch: &[GroupWrite]) -> Result<usize, LogError> {
        self.call += 1;
        self.rows.clear();
        let mut bytes = BATCH_HEADER_BYTES;
        for write in batch {
            let Some(replica) = self.replicas.get_mut(&write.key) else {
                let LogKey { group, replica, .. } = write.key;
                return Err(LogError::Misuse(format!("replica {replica} of group {group} is not known")));
            };
            if replica.scratch.call != self.call {
                replica.scratch = Scratch {
                    call: self.call,
                    start: replica.state.start.position.index,
                    last: replica.state.last_index,
                    row: self.rows.len(),
                    mark_bytes: 0,
                };
                bytes += ROW_BYTES;
                let row = Row { slot: replica.slot, records: 0, first_sequence: replica.sequence + 1 };
                self.rows.push(row);
            }
            let scratch = &mut replica.scratch;
            self.rows[scratch.row].records += 1;
            check_write(write, &mut scratch.start, &mut scratch.last).map_err(LogError::Misuse)?;
            bytes += record::record_bytes_max(&write.entries);
            if let Some(mark) = &write.mark {
                scratch.mark_bytes += mark_bytes_max(mark);
                bytes += record::state_bytes_max(&replica.state) + scratch.mark_bytes;
            }
        }
        if bytes > self.options.batch_bytes_max {
            let max = self.options.batch_bytes_max;
            return Err(LogError::Misuse(format!("a batch of {bytes} bytes; at most {max}")));
        }
        Ok(bytes)
    }

    fn write_checked(&mut self, batch: &[GroupWrite], bytes: usize) -> Result<Written, LogError> {
        let has_entries = batch.iter().any(|write| !write.entries.is_empty());
        let purpose = if has_entries { Purpose::Entries } else { Purpose::Vital };
        let begun = self.begin_batch(bytes, purpose);
        self.is_short = matches!(begun, Err(LogError::Full { .. })) || (self.is_short && !has_entries);
        let place = begun?;
        for write in batch {
            let is_carried = self.carrying.as_ref().is_some_and(|carrying| carrying.key == write.key);
            if is_carried && !planted!(CarryGoesOn) {
                // Its parts are no longer the newest of the replica: they are void without a last one.
                self.carrying = None;
            }
            let at = self.buffer.len();
            let Some(replica) = self.replicas.get_mut(&write.key) else { continue };
            let effect = replica.encode(&mut self.buffer, place.salt, write);
            self.updates.push(Update {
                key: write.key,
                address: place.base + at as u64,
                bytes: (self.buffer.len() - at) as u64,
                first: write.entries.first().map(|entry| entry.index),
                effect,
            });
        }
        self.rows.sort_unstable_by_key(|row| row.slot);
        let bytes = self.commit_batch(BatchKind::Data, place)?;
        self.publish();
        let allowance_max = 4 * self.options.segment_bytes;
        self.carry_allowance_bytes = (self.carry_allowance_bytes + bytes).min(allowance_max);
        Ok(Written { batch_seq: self.highest_seq, bytes })
    }

    /// Makes room for a batch of at most `bytes` bytes with `self.rows`, and begins it in the buffer. When there is no room, nothing
    /// changed.
    pub(crate) fn begin_batch(&mut self, bytes: usize, purpose: Purpose) -> Result<BatchPlace, LogError> {
        if (SEGMENT_HEADER_BYTES + round_up(bytes)) as u64 > self.options.segment_bytes {
            return Err(LogError::Misuse(format!("a batch of {bytes} bytes does not fit a segment")));
        }
        self.make_room(bytes, purpose)?;
        if !self.list.is_used {
            let list = ReplicaList { is_used: true, ..self.list.clone() };
            let prepared = list.prepare(self.space.disk.as_ref(), &self.space.directory);
            self.marking = Some((list, prepared.map_err(|error| self.space.prepare_error(error))?));
        }
        if !self.fits(bytes) {
            self.next_segment()?;
        }
        let oldest_use = self.oldest_for_header();
        let Some(active) = &self.active else {
            return Err(LogError::Misuse("no segment is in use".to_owned()));
        };
        let base = active.use_number * self.options.segment_bytes + active.offset;
        let header = SegmentHeader {
            segment_bytes: self.options.segment_bytes,
            use_number: active.use_number,
            salt: active.salt,
            first_batch_seq: self.highest_seq + 1,
            durable_seq: self.proven_seq,
            oldest_use,
            next_salt: self.next_salt,
        };
        let header = (active.offset == 0).then(|| header.encode());
        batch::begin(&mut self.buffer, header.as_ref(), self.rows.len());
        self.updates.clear();
        Ok(BatchPlace { salt: active.salt, base, at: header.map_or(0, |header| header.len()) })
    }

    /// What a header may say: nothing that only the batch it belongs to makes true.
    fn oldest_for_header(&self) -> u64 {
        // While the log is being opened not everything is pinned yet, nor every replica marked that lost something: should it be opened
        // once more, all that was needed still is.
        match self.oldest_found {
            Some(found) => found,
            None => self.oldest_needed().max(self.oldest_written),
        }
    }

    /// Sees to it that there are as many free files as a batch needs.
    fn make_room(&mut self, bytes: usize, purpose: Purpose) -> Result<(), LogError> {
        if self.has_room(bytes, purpose) {
            return Ok(());
        }
        self.recycle();
        if !self.has_room(bytes, purpose) {
            self.release()?;
        }
        while !self.has_room(bytes, purpose) {
            let prepared = self.space.prepare_step();
            self.note(prepared)?;
        }
        Ok(())
    }

    /// Whether there are as many free files as a batch needs: one if the active use has no place for it, and the reserve if the batch
    /// may not be written into that.
    fn has_room(&self, bytes: usize, purpose: Purpose) -> bool {
        let fits = self.fits(bytes);
        let keeps_reserve = match purpose {
            Purpose::Entries => true,
            Purpose::Rescue => fits && self.end_of(bytes) > self.options.segment_bytes / 2,
            Purpose::Vital => false,
        };
        self.space.free.len() >= usize::from(!fits) + usize::from(keeps_reserve)
    }

    fn fits(&self, bytes: usize) -> bool {
        self.active.is_some() && self.end_of(bytes) <= self.options.segment_bytes
    }

    /// Where the next batch would end in the active use.
    fn end_of(&self, bytes: usize) -> u64 {
        let offset = self.active.as_ref().map_or(0, |active| active.offset);
        offset.max(SEGMENT_HEADER_BYTES as u64) + round_up(bytes) as u64
    }

    /// Bytes that a rescue may still write before it would eat into the half of the reserve that is not its own.
    pub(crate) fn rescue_room(&self) -> u64 {
        let half = self.options.segment_bytes / 2;
        // With a free file, that one is the reserve.
        let written = if self.space.free.is_empty() { self.end_of(0) } else { SEGMENT_HEADER_BYTES as u64 };
        half.saturating_sub(written)
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let Some(segment) = self.space.free.pop_front() else {
            return Err(LogError::Full { needed_bytes: self.options.segment_bytes });
        };
        let use_number = self.next_use;
        self.next_use += 1;
        let mut draw = || Salt::new((self.options.salts)());
        let salt = self.next_salt.unwrap_or_else(&mut draw);
        self.next_salt = Some(draw());
        self.space.uses.insert(use_number, segment.clone());
        self.active = Some(Active { use_number, segment, salt, offset: 0 });
        Ok(())
    }

    /// One write, one sync: afterwards the batch in the buffer is durable, or the log is at its end. Answers its bytes.
    pub(crate) fn commit_batch(&mut self, kind: BatchKind, place: BatchPlace) -> Result<u64, LogError> {
        let numbers = BatchNumbers {
            kind,
            batch_seq: self.highest_seq + 1,
            durable_seq: self.proven_seq,
            oldest_use: self.oldest_for_header(),
        };
        batch::finish(&mut self.buffer, place.at, place.salt, numbers, &self.rows);
        let Some(active) = &mut self.active else {
            return Err(LogError::Misuse("no segment is in use".to_owned()));
        };
        let file = &active.segment.file;
        let sync = || match file.sync_data() {
            Err(_) if planted!(SyncRetried) => file.sync_data(),
            synced => synced,
        };
        let written = file.write_all_at(&self.buffer, active.offset);
        if let Err(error) = written.and_then(|()| if planted!(SyncSkipped) { Ok(()) } else { sync() }) {
            self.has_failed = true;
            return Err(LogError::Failed(error));
        }
        if let Some((list, prepared)) = self.marking.take() {
            if let Err(error) = prepared.put(self.space.disk.as_ref()) {
                self.has_failed = true;
                return Err(LogError::Failed(error));
            }
            self.list = list;
        }
        if active.offset == 0 {
            let own = SharedUse { file: Arc::clone(file), salt: active.salt };
            write(&self.shared).uses.insert(active.use_number, own);
        }
        active.offset += self.buffer.len() as u64;
        self.space.written_bytes.fetch_add(self.buffer.len() as u64, Ordering::Relaxed);
        self.highest_seq = numbers.batch_seq;
        self.proven_seq = numbers.batch_seq;
        self.oldest_written = numbers.oldest_use;
        self.is_sealed = kind == BatchKind::Seal;
        let bytes = self.buffer.len() as u64;
        batch::give_back(&mut self.buffer, &mut self.small_in_a_row);
        Ok(bytes)
    }

    /// Adds a record to the batch in the making that is not a caller's.
    pub(crate) fn push_update(&mut self, update: Update) {
        self.updates.push(update);
    }

    /// Appends a record to the batch in the making; its address and length.
    pub(crate) fn push_record(
        &mut self,
        place: BatchPlace,
        head: &Head<&State>,
        entries: &[mraft_types::Entry],
    ) -> (Address, u64) {
        let at = self.buffer.len();
        record::encode(&mut self.buffer, place.salt, head, entries);
        (place.base + at as u64, (self.buffer.len() - at) as u64)
    }

    /// The rows of the next batch.
    pub(crate) fn set_rows(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.clear();
        self.rows.extend(rows);
        self.rows.sort_unstable_by_key(|row| row.slot);
    }

    /// Lets the records of a batch that is durable count.
    pub(crate) fn publish(&mut self) {
        let updates = std::mem::take(&mut self.updates);
        let shared = Arc::clone(&self.shared);
        let mut shared = write(&shared);
        for update in &updates {
            let Some(replica) = self.replicas.get_mut(&update.key) else { continue };
            let Some(own) = shared.replicas.get_mut(&update.key) else { continue };
            replica.apply(update, own);
            let pin = replica.pin().map(|address| address / self.options.segment_bytes);
            move_pin(&mut self.pins, &mut replica.pinned_use, pin);
        }
        drop(shared);
        self.updates = updates;
        self.updates.clear();
    }

    /// Looks a replica's pin up anew.
    pub(crate) fn repin(&mut self, key: LogKey, look_up: bool) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        if look_up {
            let shared = read(&self.shared);
            replica.first_live = shared.replicas.get(&key).and_then(first_live);
        }
        let pin = replica.pin().map(|address| address / self.options.segment_bytes);
        move_pin(&mut self.pins, &mut replica.pinned_use, pin);
    }

    /// Frees the files that the last synced batch no longer needs.
    fn recycle(&mut self) {
        let recycled = self.space.recycle_below(self.oldest_written);
        if !recycled.is_empty() {
            let mut shared = write(&self.shared);
            recycled.iter().for_each(|number| _ = shared.uses.remove(number));
        }
    }

    /// Lets a synced batch say which files are no longer needed, if there is room for it here, and frees them.
    fn release(&mut self) -> Result<(), LogError> {
        let has_room = match &self.active {
            Some(active) => {
                active.offset > 0
                    && active.offset + round_up(BATCH_HEADER_BYTES) as u64 <= self.options.segment_bytes
            }
            None => !self.space.free.is_empty(),
        };
        if has_room && self.oldest_needed() > self.oldest_written {
            let rows = std::mem::take(&mut self.rows);
            self.write_seal()?;
            self.rows = rows;
            self.recycle();
        }
        Ok(())
    }

    /// Writes an empty batch: a seal, or just to say which uses are no longer needed.
    fn write_seal(&mut self) -> Result<(), LogError> {
        self.rows.clear();
        let place = self.begin_batch(BATCH_HEADER_BYTES, Purpose::Vital)?;
        self.commit_batch(BatchKind::Seal, place).map(|_| ())
    }

    fn maintain_some(&mut self) -> Result<bool, LogError> {
        self.recycle();
        if self.active.is_some() && self.carry_some()? {
            return Ok(true);
        }
        if self.space.shrink()? {
            return Ok(true);
        }
        let has_spares = self.space.free.len() >= FREE_TARGET;
        if (!has_spares || self.space.has_too_many())
            && self.active.is_some()
            && self.oldest_needed() > self.oldest_written
        {
            // Files wait only for a synced batch to say that they are free, and nobody may write one for long.
            self.write_seal()?;
            return Ok(true);
        }
        if has_spares || self.space.lends {
            return Ok(false);
        }
        match self.space.prepare_step() {
            Ok(()) => Ok(self.space.free.len() < FREE_TARGET),
            // The reserve is there: writes find out when they need more.
            Err(LogError::Full { .. }) if !self.space.free.is_empty() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uses that hold something needed.
    pub(crate) fn live_uses(&self) -> u64 {
        self.space.uses.range(self.oldest_needed()..).count() as u64
    }

    /// The use that some replica needs as its oldest, unless it is the active one.
    pub(crate) fn oldest_pinned(&self) -> Option<u64> {
        let active = self.active.as_ref().map(|active| active.use_number);
        self.pins.keys().next().copied().filter(|oldest| Some(*oldest) != active)
    }

    fn replace_list(&mut self, list: ReplicaList) -> Result<(), LogError> {
        let written = list.write(self.space.disk.as_ref(), &self.space.directory);
        if let Err(error) = written {
            if mraft_disk::is_full(&error) {
                return Err(LogError::Full { needed_bytes: self.options.segment_bytes });
            }
            self.has_failed = true;
            return Err(LogError::Failed(error));
        }
        self.list = list;
        Ok(())
    }
}

impl LogStore for SegmentLog {
    fn recovered(&self) -> Vec<Recovered> {
        self.recovered.clone()
    }

    fn head(&self, key: LogKey) -> Option<Recovered> {
        let Replica { hard_state, state, .. } = self.replicas.get(&key)?;
        Some(Recovered {
            key,
            hard_state: *hard_state,
            start: state.start.clone(),
            last_index: state.last_index,
            terms: Vec::new(),
            memberships: Vec::new(),
            install: state.install.clone(),
            condemned: state.condemned,
        })
    }

    fn add_replicas(&mut self, replicas: &[(LogKey, LogStart, HardState)]) -> Result<(), LogError> {
        self.works()?;
        let mut list = self.list.clone();
        let mut added = Vec::new();
        for (key, start, hard_state) in replicas {
            if let Some(known) = list.replicas.get(key) {
                if known.start != *start {
                    let LogKey { group, replica, .. } = key;
                    let reason = format!("replica {replica} of group {group} is known with another start");
                    return Err(LogError::Misuse(reason));
                }
                continue;
            }
            let slot = list.next_slot;
            let next_slot = slot.checked_add(1);
            list.next_slot = next_slot.ok_or(LogError::Misuse("every slot was given away".to_owned()))?;
            let (start, hard_state, added_seq) = (start.clone(), *hard_state, self.highest_seq);
            list.replicas.insert(*key, Listed { slot, added_seq, start, hard_state });
            added.push(*key);
        }
        if added.is_empty() {
            return Ok(());
        }
        self.replace_list(list)?;
        let mut shared = write(&self.shared);
        for key in added {
            let Some(Listed { slot, start, hard_state, .. }) = self.list.replicas.get(&key) else { continue };
            let own = SharedReplica { slot: *slot, start: start.position.index, index: Default::default() };
            let state = State { last_index: start.position.index, start: start.clone(), ..State::default() };
            shared.replicas.insert(key, own);
            self.replicas.insert(key, Replica::new(*slot, *hard_state, state));
        }
        Ok(())
    }

    fn remove_replica(&mut self, key: LogKey) -> Result<(), LogError> {
        self.works()?;
        let mut list = self.list.clone();
        if list.replicas.remove(&key).is_none() {
            return Ok(());
        }
        self.replace_list(list)?;
        self.carrying.take_if(|carrying| carrying.key == key);
        write(&self.shared).replicas.remove(&key);
        if let Some(mut replica) = self.replicas.remove(&key) {
            move_pin(&mut self.pins, &mut replica.pinned_use, None);
        }
        Ok(())
    }

    fn write(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError> {
        self.works()?;
        if batch.is_empty() {
            return Ok(Written { batch_seq: self.highest_seq, ..Written::default() });
        }
        let bytes = self.check(batch)?;
        let written = self.write_checked(batch, bytes);
        self.note(written)
    }

    fn weigh(&self, write: &GroupWrite) -> Option<usize> {
        let replica = self.replicas.get(&write.key)?;
        let state_bytes = |mark| record::state_bytes_max(&replica.state) + mark_bytes_max(mark);
        let mark_bytes = write.mark.as_ref().map_or(0, state_bytes);
        Some(ROW_BYTES + record::record_bytes_max(&write.entries) + mark_bytes)
    }

    fn truncation_ahead(&self, write: &GroupWrite) -> Option<GroupWrite> {
        let replica = self.replicas.get(&write.key)?;
        let (from, last) = (replica.state.start.position.index, replica.state.last_index);
        let moves = |start: &LogStart| (from + 1..=last).contains(&start.position.index);
        match &write.mark {
            Some(Mark::Truncate(start)) if moves(start) => Some(GroupWrite {
                key: write.key,
                hard_state: replica.hard_state,
                entries: Vec::new(),
                mark: write.mark.clone(),
            }),
            _ => None,
        }
    }

    fn maintain(&mut self) -> Result<bool, LogError> {
        self.works()?;
        let more = self.maintain_some();
        self.note(more)
    }

    fn lend_fill(&mut self) -> Result<Option<Fill>, LogError> {
        self.works()?;
        match self.space.lend() {
            // The reserve is there: writes find out when they need more.
            Err(LogError::Full { .. }) if !self.space.free.is_empty() => Ok(None),
            lent => self.note(lent),
        }
    }

    fn take_fill(&mut self, filled: Filled) -> Result<(), LogError> {
        self.works()?;
        match self.space.take_back(filled) {
            Err(LogError::Full { .. }) if !self.space.free.is_empty() => Ok(()),
            taken => self.note(taken),
        }
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.works()?;
        if self.is_sealed {
            return Ok(());
        }
        let sealed = self.write_seal();
        self.note(sealed)
    }

    fn durable_seq(&self) -> u64 {
        // The seal of the process before may only be in a page cache. It is not written again: what it says is needed or not is believed
        // when a batch of this process says so.
        self.proven_seq.max(self.listed_seq)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SegmentReader {
            shared: Arc::clone(&self.shared),
            segment_bytes: self.options.segment_bytes,
        })
    }

    fn status(&self) -> LogStatus {
        let shared = read(&self.shared);
        let index: usize = shared.replicas.values().map(|own| own.index.bytes()).sum();
        let each = size_of::<(LogKey, SharedReplica)>() + size_of::<(LogKey, Replica)>();
        let live = self.live_uses();
        LogStatus {
            segments_live: live,
            segments_free: (self.space.uses.len() + self.space.free.len()) as u64 - live,
            bytes: self.space.bytes(),
            index_bytes: (index + shared.replicas.len() * each) as u64,
            segments_recycled: self.space.recycled,
            groups_carried: self.groups_carried,
        }
    }
}
