// SPDX-License-Identifier: Apache-2.0

//! The segment log's writing side.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mraft_disk::{Disk, File, Open, is_full, is_missing};
use mraft_types::limits::{BATCH_BYTES_MAX, SEGMENT_BYTES_MIN};
use mraft_types::{Entry, HardState, Index, LogStart, Payload};

use crate::index::{Address, RecordIndex};
use crate::reader::SegmentReader;
use crate::record::{
    BLOCK_BYTES, BatchKind, HEADER_BYTES, RECORD_HEAD_BYTES, ROW_BYTES, RecordHead, State, begin_batch,
    checksum, encode_record, finish_batch, round_up,
};
use crate::recovery::{Case, LastBatch, Recovery};
use crate::replicas::{Listed, ReplicaList};
use crate::segment::{Preparing, SegmentFile, SegmentUse, is_segment};
use crate::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};

/// Prepared segments that are kept; more than these are deleted, so that a burst does not hold the disk for ever.
const FREE_SEGMENTS_MAX: usize = 4;
/// Groups that one call of `maintain` carries forward: the log thread must get back to its batches.
const CARRIED_AT_ONCE_MAX: usize = 16;
/// What a record takes beside payloads and state, at most.
const RECORD_OVERHEAD_BYTES: usize = 96;
/// What an entry takes beside its payload, at most.
const ENTRY_OVERHEAD_BYTES: usize = 16;

/// How a log is laid out.
pub struct LogOptions {
    segment_bytes: u64,
    batch_bytes_max: usize,
    /// Above this many segments in use, groups that pin the oldest one are carried forward (rule L5).
    segments_target: usize,
    salts: Box<dyn FnMut() -> u64 + Send>,
}

impl LogOptions {
    /// Segments of this many bytes; `salts` gives a fresh random number for each use of a segment (rule L2).
    pub fn new(segment_bytes: u64, salts: Box<dyn FnMut() -> u64 + Send>) -> LogOptions {
        LogOptions { segment_bytes, batch_bytes_max: BATCH_BYTES_MAX, segments_target: 16, salts }
    }

    /// Smaller batches allow smaller segments: for tests and the simulator.
    #[must_use]
    pub fn with_batch_bytes_max(mut self, batch_bytes_max: usize) -> LogOptions {
        self.batch_bytes_max = batch_bytes_max;
        self
    }

    /// See [`LogStatus::segments_live`].
    #[must_use]
    pub fn with_segments_target(mut self, segments_target: usize) -> LogOptions {
        self.segments_target = segments_target.max(2);
        self
    }

    fn validate(&self) -> Result<(), LogError> {
        let wrong = |reason: String| Err(LogError::Misuse(reason));
        if !self.segment_bytes.is_multiple_of(BLOCK_BYTES as u64) {
            return wrong(format!(
                "log_segment_bytes is {}, not a multiple of {BLOCK_BYTES}",
                self.segment_bytes
            ));
        }
        if self.segment_bytes / 4 < self.batch_bytes_max as u64 {
            return wrong(format!(
                "log_segment_bytes is {}, but a batch of {} bytes must fit four times: give at least {}",
                self.segment_bytes,
                self.batch_bytes_max,
                (4 * self.batch_bytes_max).max(SEGMENT_BYTES_MIN)
            ));
        }
        Ok(())
    }
}

/// One replica's log as the writer and its readers see it.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) number: u32,
    sequence: u64,
    hard_state: HardState,
    pub(crate) state: State,
    pub(crate) index: RecordIndex,
    state_address: Option<Address>,
    last_address: Option<Address>,
}

/// What readers share with the writer.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) slots: BTreeMap<LogKey, Slot>,
    pub(crate) uses: BTreeMap<u64, (Arc<dyn File>, u64)>,
}

/// A log in segment files.
pub struct SegmentLog {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    options: LogOptions,
    list: ReplicaList,
    uses: BTreeMap<u64, SegmentUse>,
    free: VecDeque<SegmentFile>,
    preparing: Option<Preparing>,
    next_file: u64,
    /// Where the next batch goes in the newest use.
    offset: u64,
    /// Number of the next batch.
    batch_seq: u64,
    shared: Arc<Mutex<Shared>>,
    recovered: Vec<Recovered>,
    cases: BTreeMap<Case, u64>,
    buffer: Vec<u8>,
    sealed: bool,
    failed: bool,
    /// Segments may have become free, or too many, since this was last looked at.
    look_at_segments: bool,
    segments_recycled: u64,
    groups_carried: u64,
}

/// What a batch will change in memory once it is durable.
struct Update {
    key: LogKey,
    first: Option<Index>,
    at: usize,
    reset: bool,
    is_state: bool,
    truncate_through: Option<Index>,
}

impl SegmentLog {
    /// Opens or creates the log in a directory, and recovers what it holds.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<SegmentLog, LogError> {
        options.validate()?;
        let failed = LogError::Failed;
        let list = ReplicaList::read(disk.as_ref(), directory)?;
        let (uses, free, next_file, unusable) =
            find_segments(disk.as_ref(), directory, options.segment_bytes)?;
        if list.is_none() && !uses.is_empty() {
            return Err(LogError::Refused {
                file: crate::replicas::list_path(directory),
                reason: "is missing although there are segments in use".to_owned(),
            });
        }
        let is_new = list.is_none();
        let list = list.unwrap_or_default();
        let recovery = recover(&list, &uses, options.segment_bytes)?;
        // Nothing above changed a byte; from here on the directory is this log's.
        disk.create_dir_all(directory).map_err(failed)?;
        for path in unusable {
            disk.remove_file(&path).map_err(failed)?;
        }
        disk.sync_dir(directory).map_err(failed)?;
        if is_new {
            list.write(disk.as_ref(), directory).map_err(failed)?;
        }
        let mut log = SegmentLog {
            disk,
            directory: directory.to_owned(),
            options,
            list,
            uses,
            free,
            preparing: None,
            next_file,
            offset: 0,
            batch_seq: 0,
            shared: Arc::default(),
            recovered: Vec::new(),
            cases: BTreeMap::new(),
            buffer: Vec::new(),
            sealed: true,
            failed: false,
            look_at_segments: true,
            segments_recycled: 0,
            groups_carried: 0,
        };
        log.take_over(recovery)?;
        Ok(log)
    }

    /// How often each case of the recovery table was met when the log was opened.
    pub fn recovery_cases(&self) -> &BTreeMap<Case, u64> {
        &self.cases
    }

    fn take_over(&mut self, mut recovery: Recovery) -> Result<(), LogError> {
        let last = recovery.last.take();
        self.batch_seq = last.as_ref().map_or(recovery.next_batch_seq, |last| last.batch_seq);
        self.cases = std::mem::take(&mut recovery.cases);
        {
            let mut shared = lock(&self.shared);
            shared.uses = self
                .uses
                .iter()
                .map(|(number, at)| (*number, (Arc::clone(&at.segment.file), at.salt)))
                .collect();
            for (key, listed) in &self.list.replicas {
                let Some(mut slot) = recovery.slots.remove(&listed.slot) else { continue };
                self.recovered.push(slot.recovered(*key));
                shared.slots.insert(
                    *key,
                    Slot {
                        number: listed.slot,
                        sequence: slot.sequence,
                        hard_state: slot.hard_state,
                        state: slot.state,
                        index: slot.index,
                        state_address: slot.state_address,
                        last_address: slot.last_address,
                    },
                );
            }
        }
        // Always a fresh segment: what was read may not be on the disk (rule D7), and no write may touch its blocks.
        self.roll(last.as_ref().map_or(0, |last| self.rewritten_bytes(last)))?;
        if let Some(last) = last {
            self.rewrite(&last)?;
        }
        Ok(())
    }

    fn rewritten_bytes(&self, last: &LastBatch) -> usize {
        HEADER_BYTES
            + last.rows.len() * ROW_BYTES
            + last.bodies.iter().map(|(body, ..)| RECORD_HEAD_BYTES + body.len()).sum::<usize>()
    }

    /// Writes the last batch of the previous process again and syncs it, before anybody trusts it (rule D7).
    fn rewrite(&mut self, last: &LastBatch) -> Result<(), LogError> {
        let (salt, base) = self.place()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        begin_batch(&mut buffer, last.rows.len());
        let mut places = Vec::new();
        for (body, ..) in &last.bodies {
            places.push(buffer.len());
            buffer.extend_from_slice(&(body.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&checksum(salt, body).to_le_bytes());
            buffer.extend_from_slice(body);
        }
        finish_batch(&mut buffer, salt, BatchKind::Data, self.batch_seq, self.batch_seq - 1, &last.rows);
        let written = self.write_out(&buffer);
        self.buffer = buffer;
        written?;
        let mut shared = lock(&self.shared);
        let mut live = Vec::new();
        for ((_, number, first, is_state), at) in last.bodies.iter().zip(places) {
            let address = base + at as u64;
            let Some((key, slot)) = shared.slots.iter_mut().find(|(_, slot)| slot.number == *number) else {
                continue;
            };
            // Only where the old record still counts: a later one may have overwritten it, or the store needs it no more.
            live.extend(
                first
                    .filter(|first| slot.index.find(*first).is_some_and(|(found, ..)| found == *first))
                    .map(|first| (*key, first, address)),
            );
            if *is_state {
                slot.state_address = Some(address);
            }
            slot.last_address = Some(address);
        }
        for (key, first, address) in live {
            if let Some(slot) = shared.slots.get_mut(&key) {
                slot.index.push(first, address);
            }
        }
        Ok(())
    }

    /// Salt of the newest use, and the address of the next batch.
    fn place(&self) -> Result<(u64, Address), LogError> {
        match self.uses.last_key_value() {
            Some((number, newest)) => Ok((newest.salt, number * self.options.segment_bytes + self.offset)),
            None => Err(LogError::Misuse("no segment is in use".to_owned())),
        }
    }

    /// Begins the next segment when the newest one has no room for `bytes` more (always, before the first batch).
    fn make_room(&mut self, bytes: usize) -> Result<(), LogError> {
        if self.uses.is_empty() || self.offset + round_up(bytes) as u64 > self.options.segment_bytes {
            self.roll(bytes)?;
        }
        Ok(())
    }

    fn roll(&mut self, bytes: usize) -> Result<(), LogError> {
        if (BLOCK_BYTES + round_up(bytes)) as u64 > self.options.segment_bytes {
            return Err(LogError::Misuse(format!("a batch of {bytes} bytes does not fit a segment")));
        }
        if self.free.is_empty() {
            while !self.prepare_step()? {}
        }
        let Some(segment) = self.free.pop_front() else {
            return Err(LogError::Full { needed_bytes: self.options.segment_bytes });
        };
        let number = self.uses.last_key_value().map_or(1, |(newest, _)| newest + 1);
        let next =
            SegmentUse { number, salt: (self.options.salts)(), first_batch_seq: self.batch_seq, segment };
        if let Err(error) = next.write_header(self.options.segment_bytes) {
            self.failed = true;
            return Err(LogError::Failed(error));
        }
        lock(&self.shared).uses.insert(number, (Arc::clone(&next.segment.file), next.salt));
        self.uses.insert(number, next);
        self.offset = BLOCK_BYTES as u64;
        self.look_at_segments = true;
        Ok(())
    }

    /// Fills a spare segment some more; `true` when there is one.
    fn prepare_step(&mut self) -> Result<bool, LogError> {
        if !self.free.is_empty() {
            return Ok(true);
        }
        let mut preparing = match self.preparing.take() {
            Some(preparing) => preparing,
            None => {
                let number = self.next_file;
                self.next_file += 1;
                Preparing::begin(self.disk.as_ref(), &self.directory, number)
                    .map_err(|error| self.prepare_error(error))?
            }
        };
        match preparing.step(self.disk.as_ref(), self.options.segment_bytes) {
            Ok(Some(segment)) => {
                self.free.push_back(segment);
                Ok(true)
            }
            Ok(None) => {
                self.preparing = Some(preparing);
                Ok(false)
            }
            Err(error) => {
                preparing.abandon(self.disk.as_ref());
                Err(self.prepare_error(error))
            }
        }
    }

    /// No room is back-pressure; anything else ends the log (rule D10).
    fn prepare_error(&mut self, error: std::io::Error) -> LogError {
        if is_full(&error) {
            return LogError::Full { needed_bytes: self.options.segment_bytes };
        }
        self.failed = true;
        LogError::Failed(error)
    }

    /// One write, one sync. Afterwards everything in it is durable, or the log is at its end.
    fn write_out(&mut self, buffer: &[u8]) -> Result<(), LogError> {
        let newest = self.uses.last_key_value().map(|(_, newest)| Arc::clone(&newest.segment.file));
        let Some(file) = newest else { return Err(LogError::Misuse("no segment is in use".to_owned())) };
        let result = file.write_all_at(buffer, self.offset).and_then(|()| file.sync_data());
        if let Err(error) = result {
            self.failed = true;
            return Err(LogError::Failed(error));
        }
        self.offset += buffer.len() as u64;
        self.batch_seq += 1;
        Ok(())
    }

    fn write_records(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError> {
        let mut bytes = HEADER_BYTES;
        let mut counts: BTreeMap<LogKey, u32> = BTreeMap::new();
        {
            let shared = lock(&self.shared);
            check(&shared, batch)?;
            for write in batch {
                bytes += record_bytes_max(write, shared.slots.get(&write.key));
                *counts.entry(write.key).or_default() += 1;
            }
        }
        bytes += counts.len() * ROW_BYTES;
        if bytes > self.options.batch_bytes_max {
            let max = self.options.batch_bytes_max;
            return Err(LogError::Misuse(format!("a batch of {bytes} bytes; at most {max}")));
        }
        self.make_room(bytes)?;
        let (salt, base) = self.place()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut rows = Vec::with_capacity(counts.len());
        let mut updates = Vec::with_capacity(batch.len());
        {
            let mut shared = lock(&self.shared);
            for (key, count) in counts {
                if let Some(slot) = shared.slots.get(&key) {
                    rows.push((slot.number, count, slot.sequence + 1));
                }
            }
            begin_batch(&mut buffer, rows.len());
            for write in batch {
                let Some(slot) = shared.slots.get_mut(&write.key) else { continue };
                let at = buffer.len();
                updates.push(slot.encode(&mut buffer, salt, write, at));
            }
        }
        finish_batch(&mut buffer, salt, BatchKind::Data, self.batch_seq, self.batch_seq - 1, &rows);
        let written = self.write_out(&buffer);
        let bytes = buffer.len() as u64;
        self.buffer = buffer;
        written?;
        self.sealed = false;
        let mut shared = lock(&self.shared);
        for update in updates {
            if let Some(slot) = shared.slots.get_mut(&update.key) {
                slot.update(&update, base + update.at as u64);
            }
        }
        Ok(Written { batch_seq: self.batch_seq - 1, bytes })
    }

    /// Puts segments that nothing needs back to the free ones, strictly oldest first (rule L5).
    fn recycle(&mut self) -> Result<(), LogError> {
        let Some(newest) = self.uses.last_key_value().map(|(number, _)| *number) else { return Ok(()) };
        let pinned = lock(&self.shared).slots.values().filter_map(Slot::pin).min();
        let oldest_needed =
            pinned.map_or(newest, |address| (address / self.options.segment_bytes).min(newest));
        while let Some((number, _)) =
            self.uses.first_key_value().filter(|(number, _)| **number < oldest_needed)
        {
            let number = *number;
            lock(&self.shared).uses.remove(&number);
            if let Some(ended) = self.uses.remove(&number) {
                self.segments_recycled += 1;
                if self.free.len() < FREE_SEGMENTS_MAX {
                    self.free.push_back(ended.segment);
                } else {
                    self.disk.remove_file(&ended.segment.path).map_err(LogError::Failed)?;
                }
            }
        }
        Ok(())
    }

    /// Carries groups that pin the oldest segment forward, when too many segments are in use (rule L5). `true` when there is more
    /// to do.
    fn carry(&mut self) -> Result<bool, LogError> {
        if self.uses.len() <= self.options.segments_target {
            return Ok(false);
        }
        let Some(oldest) = self.uses.first_key_value().map(|(number, _)| *number) else { return Ok(false) };
        let end = (oldest + 1) * self.options.segment_bytes;
        let pinning: Vec<LogKey> = lock(&self.shared)
            .slots
            .iter()
            .filter(|(_, slot)| slot.pin().is_some_and(|address| address < end))
            .map(|(key, _)| *key)
            .take(CARRIED_AT_ONCE_MAX)
            .collect();
        let mut carried = false;
        for key in pinning {
            carried |= self.carry_one(key)?;
        }
        Ok(carried)
    }

    /// Writes a checkpoint of one replica: its state and its live entries, in parts that each fit a batch. `false` when it has more
    /// live entries than a quarter of a segment: copying those would cost more than it frees, and the store will let them go.
    fn carry_one(&mut self, key: LogKey) -> Result<bool, LogError> {
        let part_bytes = self.options.batch_bytes_max / 2;
        let reader = self.reader();
        let (start, last) = match lock(&self.shared).slots.get(&key) {
            Some(slot) => (slot.state.start.position.index, slot.state.last_index),
            None => return Ok(false),
        };
        let mut parts: Vec<Vec<Entry>> = Vec::new();
        let mut total = 0;
        let mut next = start + 1;
        while next <= last {
            let entries = match reader.entries(key, next, last, part_bytes / 2) {
                Ok(entries) => entries,
                // What cannot be read cannot be carried; the replica will find out when it needs it.
                Err(_) => return Ok(false),
            };
            total += entries.iter().map(|entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
            if total as u64 > self.options.segment_bytes / 4 {
                return Ok(false);
            }
            next = entries.last().map_or(last, |entry| entry.index) + 1;
            parts.push(entries);
        }
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let count = parts.len() as u64;
        let mut places = Vec::new();
        for (part, entries) in parts.iter().enumerate() {
            let last_part = part as u64 + 1 == count;
            let bytes: usize = entries.iter().map(|entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES).sum();
            let state_bytes = if last_part {
                lock(&self.shared).slots.get(&key).map_or(0, |slot| state_bytes_max(&slot.state))
            } else {
                0
            };
            self.make_room(HEADER_BYTES + ROW_BYTES + RECORD_OVERHEAD_BYTES + bytes + state_bytes)?;
            let (salt, base) = self.place()?;
            let mut buffer = std::mem::take(&mut self.buffer);
            begin_batch(&mut buffer, 1);
            let at = buffer.len();
            let row = {
                let mut shared = lock(&self.shared);
                let Some(slot) = shared.slots.get_mut(&key) else { return Ok(false) };
                slot.sequence += 1;
                let head = RecordHead {
                    slot: slot.number,
                    sequence: slot.sequence,
                    hard_state: slot.hard_state,
                    state: last_part.then_some(&slot.state),
                    reset: false,
                    checkpoint: Some((part as u64 + 1, count)),
                };
                encode_record(&mut buffer, salt, &head, entries);
                (slot.number, 1, slot.sequence)
            };
            finish_batch(&mut buffer, salt, BatchKind::Data, self.batch_seq, self.batch_seq - 1, &[row]);
            let written = self.write_out(&buffer);
            self.buffer = buffer;
            written?;
            places.push((entries.first().map(|entry| entry.index), base + at as u64));
        }
        self.sealed = false;
        let mut shared = lock(&self.shared);
        if let Some(slot) = shared.slots.get_mut(&key) {
            slot.index.clear();
            for (first, address) in &places {
                if let Some(first) = first {
                    slot.index.push(*first, *address);
                }
                slot.state_address = Some(*address);
                slot.last_address = Some(*address);
            }
        }
        self.groups_carried += 1;
        Ok(true)
    }

    fn works(&self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed(std::io::Error::other("the log failed before")));
        }
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
        for (key, start, hard_state) in replicas {
            if !list.replicas.contains_key(key) {
                let slot = list.next_slot;
                list.next_slot += 1;
                list.replicas.insert(*key, Listed { slot, start: start.clone(), hard_state: *hard_state });
            }
        }
        if list == self.list {
            return Ok(());
        }
        list.write(self.disk.as_ref(), &self.directory).map_err(|error| self.prepare_error(error))?;
        let mut shared = lock(&self.shared);
        for (key, listed) in &list.replicas {
            shared.slots.entry(*key).or_insert_with(|| Slot {
                number: listed.slot,
                sequence: 0,
                hard_state: listed.hard_state,
                state: State {
                    last_index: listed.start.position.index,
                    start: listed.start.clone(),
                    ..State::default()
                },
                index: RecordIndex::default(),
                state_address: None,
                last_address: None,
            });
        }
        drop(shared);
        self.list = list;
        Ok(())
    }

    fn remove_replica(&mut self, key: LogKey) -> Result<(), LogError> {
        self.works()?;
        let mut list = self.list.clone();
        if list.replicas.remove(&key).is_none() {
            return Ok(());
        }
        list.write(self.disk.as_ref(), &self.directory).map_err(|error| self.prepare_error(error))?;
        self.list = list;
        lock(&self.shared).slots.remove(&key);
        self.look_at_segments = true;
        Ok(())
    }

    fn write(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError> {
        self.works()?;
        if batch.is_empty() {
            return Ok(Written { batch_seq: self.batch_seq - 1, ..Written::default() });
        }
        self.write_records(batch)
    }

    fn maintain(&mut self) -> Result<bool, LogError> {
        self.works()?;
        if std::mem::take(&mut self.look_at_segments) {
            self.recycle()?;
            if self.carry()? {
                self.look_at_segments = true;
                return Ok(true);
            }
        }
        Ok(!self.prepare_step()?)
    }

    fn seal(&mut self) -> Result<(), LogError> {
        self.works()?;
        if self.sealed {
            return Ok(());
        }
        self.make_room(HEADER_BYTES)?;
        let (salt, _) = self.place()?;
        let mut buffer = std::mem::take(&mut self.buffer);
        begin_batch(&mut buffer, 0);
        finish_batch(&mut buffer, salt, BatchKind::Seal, self.batch_seq, self.batch_seq - 1, &[]);
        let written = self.write_out(&buffer);
        self.buffer = buffer;
        self.sealed = written.is_ok();
        written
    }

    fn durable_seq(&self) -> u64 {
        self.batch_seq.saturating_sub(1)
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SegmentReader {
            shared: Arc::clone(&self.shared),
            segment_bytes: self.options.segment_bytes,
        })
    }

    fn status(&self) -> LogStatus {
        let shared = lock(&self.shared);
        let segments = (self.uses.len() + self.free.len()) as u64;
        LogStatus {
            segments_live: self.uses.len() as u64,
            segments_free: self.free.len() as u64,
            bytes: segments * self.options.segment_bytes,
            index_bytes: shared.slots.values().map(|slot| slot.index.bytes() as u64).sum(),
            segments_recycled: self.segments_recycled,
            groups_carried: self.groups_carried,
        }
    }
}

impl Slot {
    /// The oldest address that recovery needs of this replica.
    fn pin(&self) -> Option<Address> {
        let first_live = self.index.find(self.state.start.position.index + 1).map(|(_, address, _)| address);
        [first_live, self.state_address, self.last_address].into_iter().flatten().min()
    }

    /// Encodes a write and takes over everything of it but addresses, which count once it is durable.
    fn encode(&mut self, buffer: &mut Vec<u8>, salt: u64, write: &GroupWrite, at: usize) -> Update {
        self.sequence += 1;
        self.hard_state = write.hard_state;
        if let Some(last) = write.entries.last() {
            self.state.last_index = last.index;
        }
        let mut reset = false;
        let mut truncate_through = None;
        match &write.mark {
            None => {}
            Some(Mark::Truncate(start)) if start.position.index > self.state.start.position.index => {
                self.state.start = start.clone();
                truncate_through = Some(start.position.index);
            }
            Some(Mark::Truncate(_)) => {}
            Some(Mark::InstallBegin { start, directory }) => {
                self.state.install = Some((start.clone(), *directory))
            }
            Some(Mark::InstallDone(start)) => {
                reset = true;
                self.state.install = None;
                self.state.last_index = start.position.index;
                self.state.start = start.clone();
            }
            Some(Mark::Condemned(reason)) => self.state.condemned = Some(*reason),
        }
        let is_state = write.mark.is_some();
        let head = RecordHead {
            slot: self.number,
            sequence: self.sequence,
            hard_state: self.hard_state,
            state: is_state.then_some(&self.state),
            reset,
            checkpoint: None,
        };
        encode_record(buffer, salt, &head, &write.entries);
        let first = write.entries.first().map(|entry| entry.index);
        Update { key: write.key, first, at, reset, is_state, truncate_through }
    }

    fn update(&mut self, update: &Update, address: Address) {
        if update.reset {
            self.index.clear();
        }
        if let Some(first) = update.first {
            self.index.push(first, address);
        }
        if let Some(start) = update.truncate_through {
            self.index.truncate_through(start);
        }
        if update.is_state {
            self.state_address = Some(address);
        }
        self.last_address = Some(address);
    }
}

/// Whether a batch follows the rules of the trait; nothing is changed before all of it does.
fn check(shared: &Shared, batch: &[GroupWrite]) -> Result<(), LogError> {
    let misuse = |reason: String| Err(LogError::Misuse(reason));
    let mut after: BTreeMap<LogKey, (Index, Index)> = BTreeMap::new();
    for write in batch {
        let group = write.key.group;
        let Some(slot) = shared.slots.get(&write.key) else {
            return misuse(format!("replica {} of group {group} is not known", write.key.replica));
        };
        let (start, last) =
            after.entry(write.key).or_insert((slot.state.start.position.index, slot.state.last_index));
        if let Some(first) = write.entries.first() {
            if first.index <= *start || first.index > *last + 1 {
                return misuse(format!(
                    "group {group}: entry {} behind start {start} and last {last}",
                    first.index
                ));
            }
            if write.entries.windows(2).any(|pair| pair[1].index != pair[0].index + 1) {
                return misuse(format!("group {group}: a gap in the entries from {}", first.index));
            }
            *last = first.index + write.entries.len() as u64 - 1;
        }
        match &write.mark {
            Some(Mark::Truncate(new)) if new.position.index > *last => {
                return misuse(format!(
                    "group {group}: truncation to {} behind the last entry {last}",
                    new.position.index
                ));
            }
            Some(Mark::Truncate(new)) => *start = (*start).max(new.position.index),
            Some(Mark::InstallDone(new)) => (*start, *last) = (new.position.index, new.position.index),
            Some(Mark::InstallBegin { .. } | Mark::Condemned(_)) | None => {}
        }
    }
    Ok(())
}

fn record_bytes_max(write: &GroupWrite, slot: Option<&Slot>) -> usize {
    let entries: usize = write.entries.iter().map(|entry| entry.payload.len() + ENTRY_OVERHEAD_BYTES).sum();
    // A mark carries the replica's state, of which it replaces one part.
    let state = match &write.mark {
        Some(Mark::Truncate(start) | Mark::InstallDone(start) | Mark::InstallBegin { start, .. }) => {
            start_bytes_max(start)
        }
        Some(Mark::Condemned(_)) | None => 0,
    };
    let own = if write.mark.is_some() { slot.map_or(0, |slot| state_bytes_max(&slot.state)) } else { 0 };
    RECORD_OVERHEAD_BYTES + entries + state + own
}

fn start_bytes_max(start: &LogStart) -> usize {
    let members = &start.membership;
    64 + members.members.values().map(|member| member.raft_address.len() + 16).sum::<usize>()
        + (members.removed.len() + members.retired_nodes.len()) * 8
        + 1024
}

fn state_bytes_max(state: &State) -> usize {
    64 + start_bytes_max(&state.start) + state.install.as_ref().map_or(0, |(start, _)| start_bytes_max(start))
}

type Segments = (BTreeMap<u64, SegmentUse>, VecDeque<SegmentFile>, u64, Vec<PathBuf>);

/// The segments of a directory: in use, free, the next file number, and files of a wrong length that a crash left half prepared.
fn find_segments(disk: &dyn Disk, directory: &Path, segment_bytes: u64) -> Result<Segments, LogError> {
    let (mut uses, mut free, mut next_file, mut unusable) = (BTreeMap::new(), VecDeque::new(), 1, Vec::new());
    let entries = match disk.read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_missing(&error) => Vec::new(),
        Err(error) => return Err(LogError::Failed(error)),
    };
    for entry in entries.into_iter().filter(|entry| !entry.is_dir && is_segment(&entry.name)) {
        let path = directory.join(&entry.name);
        let number =
            entry.name.trim_start_matches("segment-").trim_end_matches(".log").parse().unwrap_or(0u64);
        next_file = next_file.max(number + 1);
        let file = disk.open(&path, Open::Write).map_err(LogError::Failed)?;
        let segment = SegmentFile { path: path.clone(), file };
        if entry.len < segment_bytes {
            // Preparing it was interrupted, unless it is a segment of another size: then its header says so.
            if entry.len >= BLOCK_BYTES as u64 {
                SegmentUse::read(segment, segment_bytes)?;
            }
            unusable.push(path);
            continue;
        }
        match SegmentUse::read(segment.clone(), segment_bytes)? {
            Some(found) => _ = uses.insert(found.number, found),
            None => free.push_back(segment),
        }
    }
    Ok((uses, free, next_file, unusable))
}

fn recover(
    list: &ReplicaList,
    uses: &BTreeMap<u64, SegmentUse>,
    segment_bytes: u64,
) -> Result<Recovery, LogError> {
    let mut recovery = Recovery::begin(list);
    let mut following = uses.values().skip(1).map(|next| next.first_batch_seq);
    for (number, segment) in uses {
        let mut bytes = vec![0; segment_bytes as usize];
        segment.segment.file.read_exact_at(&mut bytes, 0).map_err(LogError::Failed)?;
        recovery.read_segment(segment, &Payload::from(bytes), number * segment_bytes, following.next())?;
    }
    Ok(recovery)
}

pub(crate) fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
