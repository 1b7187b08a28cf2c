// SPDX-License-Identifier: Apache-2.0

//! Opening a log: what recovery found becomes a log that can be written and trusted (rules D7, L4).
//!
//! Nothing is touched before all of it was read. Then, in this order: headers that may not be durable are written again, list and segments
//! are synced, the last batch of the process before is written again, and replicas that lost something are marked, durably.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mraft_disk::{Disk, File, Open};

use crate::batch::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchKind, ROW_BYTES};
use crate::cases::Case;
use crate::options::LogOptions;
use crate::reader::{SharedReplica, SharedUse, write};
use crate::record::{self, decode_record_head};
use crate::recovery::{HeldBatch, Recovery, look};
use crate::replica::Replica;
use crate::replicas::{ReplicaList, list_path};
use crate::scan::Directory;
use crate::segment::{SegmentFile, SegmentHeader, refused};
use crate::space::{Purpose, Space};
use crate::writer::SegmentLog;
use crate::{LogError, LogKey};
use mraft_types::planted;

/// A log that was read, or a place for one, and not touched yet.
pub struct FoundLog {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    options: LogOptions,
    list: Option<ReplicaList>,
    files: Directory,
    recovery: Recovery,
}

impl FoundLog {
    /// Reads the log of a directory, if there is one. When it is refused, nothing was touched.
    pub fn look(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<FoundLog, LogError> {
        options.validate()?;
        let (list, files, recovery) = look(disk.as_ref(), directory, Some(options.segment_bytes))?;
        if recovery.cases.contains_key(&Case::NoSegments) {
            let reason = "names replicas of which batches were written, and no segment that was used is there: put the segments back \
                          (is a disk not mounted?), or see `mraft repair accept-loss`";
            return Err(refused(&list_path(directory), reason.to_owned()));
        }
        Ok(FoundLog { disk, directory: directory.to_owned(), options, list, files, recovery })
    }

    /// How far it goes: the number of the last batch in it, 0 for none.
    pub fn last_batch_seq(&self) -> u64 {
        self.recovery.highest_seq
    }
}

impl SegmentLog {
    /// Opens or creates the log in a directory, and recovers what it holds. When it is refused, nothing was touched.
    pub fn open(disk: Arc<dyn Disk>, directory: &Path, options: LogOptions) -> Result<SegmentLog, LogError> {
        SegmentLog::open_found(FoundLog::look(disk, directory, options)?)
    }

    /// Opens or creates the log that was found. Its directory was this process's alone since.
    pub fn open_found(found: FoundLog) -> Result<SegmentLog, LogError> {
        let FoundLog { disk, directory, options, list, files, recovery } = found;
        let directory = directory.as_path();
        disk.create_dir_all(directory).map_err(LogError::Failed)?;
        let list = own_list(disk.as_ref(), directory, list)?;
        let listed_seq = list.replicas.values().map(|listed| listed.added_seq).max().unwrap_or(0);
        let space = own_files(disk, directory, &files, &recovery, &options)?;
        let newest = files.uses.values().next_back().map(|newest| newest.header);
        let next_use = newest.map_or(1, |newest| newest.use_number + 1);
        let mut log = SegmentLog {
            carry_allowance_bytes: options.segment_bytes,
            options,
            space,
            list,
            marking: None,
            replicas: BTreeMap::new(),
            pins: BTreeMap::new(),
            active: None,
            next_use,
            next_salt: newest.and_then(|newest| newest.next_salt),
            highest_seq: recovery.highest_seq,
            proven_seq: recovery.durable_seq,
            listed_seq,
            oldest_written: if files.uses.is_empty() { next_use } else { recovery.oldest_use_proven },
            is_sealed: true,
            oldest_found: Some(if files.uses.is_empty() { next_use } else { recovery.oldest_use }),
            has_failed: false,
            is_short: false,
            shared: Arc::default(),
            recovered: Vec::new(),
            cases: BTreeMap::new(),
            buffer: Vec::new(),
            small_in_a_row: 0,
            rows: Vec::new(),
            updates: Vec::new(),
            call: 0,
            carrying: None,
            groups_carried: 0,
        };
        log.take_over(files, recovery)?;
        log.oldest_found = None;
        Ok(log)
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
        if planted!(RewriteSkipped) {
            recovery.release()?;
        }
        if let Some(held) = recovery.last.take() {
            self.write_again(&held, &mut recovery)?;
        }
        let losers = recovery.judge();
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
            if losers.contains(&slot) {
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
        let place = self.begin_batch(bytes, Purpose::Vital)?;
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

/// Writes the header of a use again of which nothing says that it became durable with the first batch: a sync that failed is not made
/// good by another one, and should the use be the oldest that is needed, it would be missed without a header. The copies one by one: a
/// write that the power interrupts leaves the other one.
fn write_header_again(file: &dyn File, header: &SegmentHeader) -> std::io::Result<()> {
    let copies = header.encode();
    for (at, copy) in copies.chunks_exact(BLOCK_BYTES).enumerate() {
        file.write_all_at(copy, (at * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
    }
    Ok(())
}

/// Opens the files for writing. What was read of them is synced, or written again: it may come from a page cache that a dead process, or a
/// sync that failed, left (rule D7).
fn own_files(
    disk: Arc<dyn Disk>,
    directory: &Path,
    files: &Directory,
    recovery: &Recovery,
    options: &LogOptions,
) -> Result<Space, LogError> {
    let open = |path: &Path| {
        let file = disk.open(path, Open::Write).map_err(LogError::Failed)?;
        file.bypass_cache();
        Ok(SegmentFile { path: path.to_owned(), file })
    };
    for path in &files.half_prepared {
        disk.remove_file(path).map_err(LogError::Failed)?;
    }
    let (mut uses, mut free) = (BTreeMap::new(), VecDeque::new());
    for (number, segment) in &files.uses {
        let file = open(&segment.path)?;
        if *number < recovery.oldest_use_proven {
            free.push_back(file);
            continue;
        }
        // What only the last batch says is not needed waits for a batch of this process to say it.
        if *number >= recovery.oldest_use {
            if recovery.durable_seq < segment.header.first_batch_seq {
                write_header_again(file.file.as_ref(), &segment.header).map_err(LogError::Failed)?;
            }
            file.file.sync_data().map_err(LogError::Failed)?;
        }
        uses.insert(*number, file);
    }
    // What proves a loss is left alone until the next opening: then the log itself says so.
    let given_up = files.headerless.iter().filter(|headerless| !recovery.is_lost(headerless));
    for path in files.blank.iter().map(|blank| &blank.path).chain(given_up.map(|headerless| &headerless.path))
    {
        free.push_back(open(path)?);
    }
    disk.sync_dir(directory).map_err(LogError::Failed)?;
    let (directory, next_file) = (directory.to_owned(), files.next_file);
    Ok(Space {
        disk,
        directory,
        segment_bytes: options.segment_bytes,
        uses,
        free,
        preparing: None,
        lends: false,
        lent: false,
        next_file,
        kept_max: options.segments_kept_max,
        written_bytes: Arc::default(),
        recycled: 0,
    })
}
