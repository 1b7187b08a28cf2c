// SPDX-License-Identifier: Apache-2.0

//! The segment log's writing side: a batch becomes one buffer, one write, one sync; what it changes counts only then.
//!
//! Invariants: no write touches a block that holds a synced batch. A file is used again only after a batch was synced that no longer
//! needs it. Readers see a record only when it is durable. After a failed write or sync nothing more is written (rule D10).

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, RwLock};

use mraft_disk::{Disk, Open};
use mraft_types::{HardState, Index, LogStart};

use crate::batch::{self, BATCH_HEADER_BYTES, BatchKind, BatchNumbers, ROW_BYTES, Row, round_up};
use crate::carry::Carrying;
use crate::cases::Case;
use crate::index::Address;
use crate::options::LogOptions;
use crate::reader::{SegmentReader, Shared, SharedReplica, SharedUse, read, write};
use crate::record::{self, Head, Salt, State, decode_record_head};
use crate::recovery::{HeldBatch, Recovery, look};
use crate::replicas::{Listed, ReplicaList, list_path};
use crate::scan::Directory;
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentFile, SegmentHeader};
use crate::space::{FREE_TARGET, Space};
use crate::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};

/// A log in segment files.
#[derive(Debug)]
pub struct SegmentLog {
    pub(crate) options: LogOptions,
    pub(crate) space: Space,
    list: ReplicaList,
    pub(crate) replicas: BTreeMap<LogKey, Replica>,
    /// How many replicas need which use as their oldest.
    pins: BTreeMap<u64, u32>,
    active: Option<Active>,
    next_use: u64,
    /// The number of the last batch; also of one that was torn.
    highest_seq: u64,
    /// Everything up to this batch is durable.
    durable_seq: u64,
    /// The oldest use that the last synced batch names.
    oldest_written: u64,
    /// The last batch is a seal.
    is_sealed: bool,
    has_failed: bool,
    pub(crate) shared: Arc<RwLock<Shared>>,
    recovered: Vec<Recovered>,
    cases: BTreeMap<Case, u64>,
    buffer: Vec<u8>,
    rows: Vec<Row>,
    updates: Vec<Update>,
    /// Numbers the calls of `write`, so that a replica's scratch need not be cleared.
    call: u64,
    pub(crate) carrying: Option<Carrying>,
    /// Bytes that may be carried forward: grows with what is written, so that carrying costs at most as much as writing did.
    pub(crate) carry_allowance_bytes: u64,
    pub(crate) groups_carried: u64,
}

/// The use that batches go to.
#[derive(Debug)]
struct Active {
    use_number: u64,
    segment: SegmentFile,
    salt: Salt,
    /// Where the next batch goes; 0 when the use's header is still to be written, together with its first batch.
    offset: u64,
}

/// One replica's log as the writer sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) state: State,
    /// The last record with a state.
    state_address: Option<Address>,
    last_address: Option<Address>,
    /// The record of the first entry.
    first_live: Option<Address>,
    /// Bytes of the records of its entries, roughly.
    pub(crate) entry_bytes: u64,
    pub(crate) pinned_use: Option<u64>,
    /// Carrying it found bytes that are not what was written; it stays where it is.
    pub(crate) is_damaged: bool,
    scratch: Scratch,
}

/// What a batch in the making does to a replica.
#[derive(Clone, Copy, Debug, Default)]
struct Scratch {
    call: u64,
    start: Index,
    last: Index,
    /// Its row in the batch.
    row: usize,
    /// What the marks so far add to its state.
    mark_bytes: usize,
}

/// What a record changes once it is durable.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) key: LogKey,
    pub(crate) address: Address,
    pub(crate) bytes: u64,
    pub(crate) first: Option<Index>,
    pub(crate) effect: Effect,
}

/// What a record does to the older ones.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Its entries take the place of those from the first one's index on.
    Append,
    /// Beside that, its state is in force.
    State,
    /// Everything older is void.
    Reset,
    /// A part of a checkpoint, which is not in force yet.
    Part,
    /// The last part: only the checkpoint's records count.
    Checkpoint(Vec<(Index, Address)>),
}

/// Where the batch in the making goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchPlace {
    pub(crate) salt: Salt,
    /// Address of the buffer's first byte.
    base: Address,
    /// Where the batch begins in the buffer.
    at: usize,
}

impl SegmentLog {
    /// Opens or creates the log in a directory, and recovers what it holds. When it is refused, nothing was touched.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<SegmentLog, LogError> {
        options.validate()?;
        let (list, files, recovery) = look(disk.as_ref(), directory, Some(options.segment_bytes))?;
        disk.create_dir_all(directory).map_err(LogError::Failed)?;
        let list = own_list(disk.as_ref(), directory, list)?;
        let space = own_files(disk, directory, &files, &recovery, options.segment_bytes)?;
        let next_use = files.uses.keys().next_back().map_or(1, |newest| newest + 1);
        let mut log = SegmentLog {
            carry_allowance_bytes: options.segment_bytes,
            options,
            space,
            list,
            replicas: BTreeMap::new(),
            pins: BTreeMap::new(),
            active: None,
            next_use,
            highest_seq: recovery.highest_seq,
            durable_seq: recovery.durable_seq,
            oldest_written: if files.uses.is_empty() { next_use } else { recovery.oldest_use },
            is_sealed: true,
            has_failed: false,
            shared: Arc::default(),
            recovered: Vec::new(),
            cases: BTreeMap::new(),
            buffer: Vec::new(),
            rows: Vec::new(),
            updates: Vec::new(),
            call: 0,
            carrying: None,
            groups_carried: 0,
        };
        log.take_over(files, recovery)?;
        Ok(log)
    }

    /// How often each case of the recovery table was met when the log was opened.
    pub fn recovery_cases(&self) -> &BTreeMap<Case, u64> {
        &self.cases
    }

    fn take_over(&mut self, files: Directory, mut recovery: Recovery) -> Result<(), LogError> {
        {
            let mut shared = write(&self.shared);
            for (number, segment) in files.uses {
                if let Some(own) = self.space.uses.get(&number) {
                    let file = Arc::clone(&own.file);
                    shared.uses.insert(number, SharedUse { file, salt: segment.header.salt });
                }
            }
        }
        if let Some(held) = recovery.last.take() {
            self.write_again(&held, &mut recovery)?;
        }
        let condemned = recovery.judge();
        self.cases = std::mem::take(&mut recovery.cases);
        let keys: Vec<(LogKey, u32)> =
            self.list.replicas.iter().map(|(key, listed)| (*key, listed.slot)).collect();
        let mut marked = Vec::new();
        for (key, slot) in keys {
            let Some(tracker) = recovery.replicas.remove(&slot) else { continue };
            self.recovered.push(tracker.recovered());
            let mut replica = Replica::new(slot, tracker.hard_state, tracker.state);
            replica.sequence = tracker.sequence.max(tracker.lost_sequence);
            replica.state_address = tracker.state_address;
            replica.last_address = tracker.last_address;
            replica.entry_bytes = tracker.entry_bytes;
            let shared =
                SharedReplica { slot, start: replica.state.start.position.index, index: tracker.run.index };
            write(&self.shared).replicas.insert(key, shared);
            self.replicas.insert(key, replica);
            self.repin(key, true);
            if condemned.contains(&slot) {
                marked.push(key);
            }
        }
        // The damage may be recycled one day; what it did to these replicas must not be.
        for key in marked {
            self.carry_whole(key)?;
        }
        Ok(())
    }

    /// Writes the last batch of the process before again, and syncs it, before anything of it is trusted (rule D7).
    fn write_again(&mut self, held: &HeldBatch, recovery: &mut Recovery) -> Result<(), LogError> {
        self.rows.clear();
        self.rows.extend(held.rows.iter().filter(|row| recovery.replicas.contains_key(&row.slot)));
        if self.rows.is_empty() {
            return Ok(());
        }
        let bytes = BATCH_HEADER_BYTES + self.rows.len() * ROW_BYTES + held.payload.len();
        let place = self.begin_batch(bytes, true)?;
        let unreadable = |error: &dyn std::fmt::Display| {
            LogError::Failed(std::io::Error::other(format!("the last batch cannot be read: {error}")))
        };
        let mut rest = held.payload.as_slice();
        while !rest.is_empty() {
            let (len, _) = decode_record_head(rest).map_err(|error| unreadable(&error))?;
            let Some((body, behind)) = rest[record::RECORD_HEAD_BYTES..].split_at_checked(len) else {
                return Err(unreadable(&"it is too short"));
            };
            rest = behind;
            let slot = record::decode_body(body, |_| Ok(())).map_err(|error| unreadable(&error))?.slot;
            if recovery.replicas.contains_key(&slot) {
                let address = place.base + self.buffer.len() as u64;
                record::encode_again(&mut self.buffer, place.salt, body);
                recovery.take_record(body, address).map_err(|error| unreadable(&error))?;
            }
        }
        self.commit_batch(BatchKind::Data, place).map(|_| ())
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
    fn oldest_needed(&self) -> u64 {
        let active = self.active.as_ref().map_or(self.next_use, |active| active.use_number);
        self.pins.keys().next().copied().unwrap_or(active)
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
        let may_use_reserve = batch.iter().all(|write| write.entries.is_empty());
        let place = self.begin_batch(bytes, may_use_reserve)?;
        for write in batch {
            if self.carrying.as_ref().is_some_and(|carrying| carrying.key == write.key) {
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
    pub(crate) fn begin_batch(
        &mut self,
        bytes: usize,
        may_use_reserve: bool,
    ) -> Result<BatchPlace, LogError> {
        let fits = self.active.as_ref().is_some_and(|active| {
            active.offset.max(SEGMENT_HEADER_BYTES as u64) + round_up(bytes) as u64
                <= self.options.segment_bytes
        });
        if !fits {
            self.next_segment(bytes, may_use_reserve)?;
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
            durable_seq: self.durable_seq,
            oldest_use,
        };
        let header = (active.offset == 0).then(|| header.encode());
        batch::begin(&mut self.buffer, header.as_ref(), self.rows.len());
        self.updates.clear();
        Ok(BatchPlace { salt: active.salt, base, at: header.map_or(0, |header| header.len()) })
    }

    /// What a header may say: nothing that only the batch it belongs to makes true.
    fn oldest_for_header(&self) -> u64 {
        // While the log is being opened nothing is pinned yet, and everything that was needed still is.
        if self.replicas.is_empty() && !self.list.replicas.is_empty() {
            return self.oldest_written;
        }
        self.oldest_needed().max(self.oldest_written)
    }

    fn next_segment(&mut self, bytes: usize, may_use_reserve: bool) -> Result<(), LogError> {
        if (SEGMENT_HEADER_BYTES + round_up(bytes)) as u64 > self.options.segment_bytes {
            return Err(LogError::Misuse(format!("a batch of {bytes} bytes does not fit a segment")));
        }
        self.recycle();
        if !self.space.has_spare(may_use_reserve) {
            self.release()?;
        }
        while !self.space.has_spare(may_use_reserve) {
            let prepared = self.space.prepare_step();
            self.note(prepared)?;
        }
        let Some(segment) = self.space.free.pop_front() else {
            return Err(LogError::Full { needed_bytes: self.options.segment_bytes });
        };
        let use_number = self.next_use;
        self.next_use += 1;
        let salt = Salt::new((self.options.salts)());
        self.space.uses.insert(use_number, segment.clone());
        self.active = Some(Active { use_number, segment, salt, offset: 0 });
        Ok(())
    }

    /// One write, one sync: afterwards the batch in the buffer is durable, or the log is at its end. Answers its bytes.
    pub(crate) fn commit_batch(&mut self, kind: BatchKind, place: BatchPlace) -> Result<u64, LogError> {
        let numbers = BatchNumbers {
            kind,
            batch_seq: self.highest_seq + 1,
            durable_seq: self.durable_seq,
            oldest_use: self.oldest_for_header(),
        };
        batch::finish(&mut self.buffer, place.at, place.salt, numbers, &self.rows);
        let Some(active) = &mut self.active else {
            return Err(LogError::Misuse("no segment is in use".to_owned()));
        };
        let file = &active.segment.file;
        if let Err(error) = file.write_all_at(&self.buffer, active.offset).and_then(|()| file.sync_data()) {
            self.has_failed = true;
            return Err(LogError::Failed(error));
        }
        if active.offset == 0 {
            let own = SharedUse { file: Arc::clone(file), salt: active.salt };
            write(&self.shared).uses.insert(active.use_number, own);
        }
        active.offset += self.buffer.len() as u64;
        self.highest_seq = numbers.batch_seq;
        self.durable_seq = numbers.batch_seq;
        self.oldest_written = numbers.oldest_use;
        self.is_sealed = kind == BatchKind::Seal;
        Ok(self.buffer.len() as u64)
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
    fn repin(&mut self, key: LogKey, look_up: bool) {
        let Some(replica) = self.replicas.get_mut(&key) else { return };
        if look_up {
            let shared = read(&self.shared);
            replica.first_live = shared.replicas.get(&key).and_then(|own| first_live(own));
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
        let has_room = self.active.as_ref().is_some_and(|active| {
            active.offset > 0
                && active.offset + round_up(BATCH_HEADER_BYTES) as u64 <= self.options.segment_bytes
        });
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
        let place = self.begin_batch(BATCH_HEADER_BYTES, true)?;
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
        if self.space.free.len() >= FREE_TARGET {
            return Ok(false);
        }
        if self.active.is_some() && self.oldest_needed() > self.oldest_written {
            // Files wait only for a synced batch to say that they are free.
            self.write_seal()?;
            return Ok(true);
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
            list.next_slot += 1;
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

    fn maintain(&mut self) -> Result<bool, LogError> {
        self.works()?;
        let more = self.maintain_some();
        self.note(more)
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
        self.highest_seq
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

impl Replica {
    fn new(slot: u32, hard_state: HardState, state: State) -> Replica {
        Replica {
            slot,
            sequence: 0,
            hard_state,
            state,
            state_address: None,
            last_address: None,
            first_live: None,
            entry_bytes: 0,
            pinned_use: None,
            is_damaged: false,
            scratch: Scratch::default(),
        }
    }

    /// Encodes a write and takes over all of it but addresses, which count once it is durable.
    fn encode(&mut self, buffer: &mut Vec<u8>, salt: Salt, write: &GroupWrite) -> Effect {
        self.sequence += 1;
        self.hard_state = write.hard_state;
        if let Some(last) = write.entries.last() {
            self.state.last_index = last.index;
        }
        let mut effect = if write.mark.is_some() { Effect::State } else { Effect::Append };
        match &write.mark {
            None => {}
            Some(Mark::Truncate(start)) => self.truncate(start),
            Some(Mark::InstallBegin { start, directory }) => {
                self.state.install = Some((start.clone(), *directory));
            }
            Some(Mark::InstallDone(start)) => {
                self.state.install = None;
                self.state.last_index = start.position.index;
                self.state.start = start.clone();
                effect = Effect::Reset;
            }
            Some(Mark::Condemned(reason)) => self.state.condemned = Some(*reason),
        }
        let head = Head {
            slot: self.slot,
            sequence: self.sequence,
            hard_state: self.hard_state,
            state: write.mark.as_ref().map(|_| &self.state),
            reset: matches!(effect, Effect::Reset),
            part: None,
        };
        // What a reset voids includes the record's own entries: they are not worth their bytes.
        let entries = if head.reset { &[] } else { write.entries.as_slice() };
        record::encode(buffer, salt, &head, entries);
        effect
    }

    fn truncate(&mut self, start: &LogStart) {
        let (from, last) = (self.state.start.position.index, self.state.last_index);
        if start.position.index <= from {
            return;
        }
        let (left, all) = (last - start.position.index, last - from);
        self.entry_bytes = (u128::from(self.entry_bytes) * u128::from(left) / u128::from(all)) as u64;
        self.state.start = start.clone();
    }

    fn apply(&mut self, update: &Update, own: &mut SharedReplica) {
        self.last_address = Some(update.address);
        let mut look_up = self.first_live.is_none();
        match &update.effect {
            Effect::Part => return,
            Effect::Append | Effect::State => {
                if let Some(first) = update.first {
                    own.index.push(first, update.address);
                    self.entry_bytes += update.bytes;
                    look_up |= first == own.start + 1;
                }
            }
            Effect::Reset => {
                own.index = Default::default();
                self.entry_bytes = 0;
            }
            Effect::Checkpoint(records) => {
                own.index = Default::default();
                records.iter().for_each(|(first, address)| own.index.push(*first, *address));
            }
        }
        if !matches!(update.effect, Effect::Append) {
            self.state_address = Some(update.address);
            own.start = self.state.start.position.index;
            own.index.truncate_through(own.start);
            look_up = true;
        }
        if look_up {
            self.first_live = first_live(own);
        }
    }

    /// The oldest address that recovery needs of this replica.
    fn pin(&self) -> Option<Address> {
        [self.first_live, self.state_address, self.last_address].into_iter().flatten().min()
    }
}

fn first_live(own: &SharedReplica) -> Option<Address> {
    own.index.find(own.start + 1).map(|(_, address, _)| address)
}

fn move_pin(pins: &mut BTreeMap<u64, u32>, pinned: &mut Option<u64>, to: Option<u64>) {
    if *pinned == to {
        return;
    }
    if let Some(from) = *pinned {
        if let Some(count) = pins.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&from);
            }
        }
    }
    if let Some(to) = to {
        *pins.entry(to).or_default() += 1;
    }
    *pinned = to;
}

/// Whether a write follows the rules of the trait for a replica whose log reaches from `start` to `last`, which it moves.
pub(crate) fn check_write(write: &GroupWrite, start: &mut Index, last: &mut Index) -> Result<(), String> {
    let group = write.key.group;
    if let Some(first) = write.entries.first() {
        if first.index <= *start || first.index > *last + 1 {
            return Err(format!("group {group}: entry {} with a log from {start} to {last}", first.index));
        }
        if write.entries.windows(2).any(|pair| pair[1].index != pair[0].index + 1) {
            return Err(format!("group {group}: a gap in the entries from {}", first.index));
        }
        let too_long =
            |entry: &&mraft_types::Entry| entry.payload.len() > mraft_types::limits::ENTRY_BYTES_MAX;
        if let Some(entry) = write.entries.iter().find(too_long) {
            return Err(format!("group {group}: entry {} has {} bytes", entry.index, entry.payload.len()));
        }
        *last = first.index + write.entries.len() as u64 - 1;
    }
    match &write.mark {
        Some(Mark::Truncate(new)) if new.position.index > *last => {
            return Err(format!("group {group}: truncation at {} behind {last}", new.position.index));
        }
        Some(Mark::Truncate(new)) => *start = (*start).max(new.position.index),
        Some(Mark::InstallDone(new)) => (*start, *last) = (new.position.index, new.position.index),
        Some(Mark::InstallBegin { .. } | Mark::Condemned(_)) | None => {}
    }
    Ok(())
}

/// What a mark can add to a replica's state.
fn mark_bytes_max(mark: &Mark) -> usize {
    match mark {
        Mark::Truncate(start) | Mark::InstallDone(start) | Mark::InstallBegin { start, .. } => {
            record::start_bytes_max(start) + 8
        }
        Mark::Condemned(_) => 0,
    }
}

/// Makes the list this process's own: synced with its name, or made.
fn own_list(disk: &dyn Disk, directory: &Path, list: Option<ReplicaList>) -> Result<ReplicaList, LogError> {
    let owned = match &list {
        Some(_) => disk
            .open(&list_path(directory), Open::Write)
            .and_then(|file| file.sync_data())
            .and_then(|()| disk.sync_dir(directory)),
        None => ReplicaList::default().write(disk, directory),
    };
    match owned {
        Ok(()) => Ok(list.unwrap_or_default()),
        Err(error) if mraft_disk::is_full(&error) => Err(LogError::Full { needed_bytes: 0 }),
        Err(error) => Err(LogError::Failed(error)),
    }
}

/// Opens the files for writing. What was read of them is synced: it may come from a page cache that a dead process left (rule D7).
fn own_files(
    disk: Arc<dyn Disk>,
    directory: &Path,
    files: &Directory,
    recovery: &Recovery,
    segment_bytes: u64,
) -> Result<Space, LogError> {
    let open = |path: &Path| {
        let file = disk.open(path, Open::Write).map_err(LogError::Failed)?;
        Ok(SegmentFile { path: path.to_owned(), file })
    };
    for path in &files.half_prepared {
        disk.remove_file(path).map_err(LogError::Failed)?;
    }
    let (mut uses, mut free) = (BTreeMap::new(), VecDeque::new());
    for (number, segment) in &files.uses {
        let file = open(&segment.path)?;
        if *number < recovery.oldest_use {
            free.push_back(file);
            continue;
        }
        file.file.sync_data().map_err(LogError::Failed)?;
        uses.insert(*number, file);
    }
    for path in &files.blank {
        free.push_back(open(path)?);
    }
    disk.sync_dir(directory).map_err(LogError::Failed)?;
    let (directory, next_file) = (directory.to_owned(), files.next_file);
    Ok(Space { disk, directory, segment_bytes, uses, free, preparing: None, next_file, recycled: 0 })
}
