// SPDX-License-Identifier: Apache-2.0

//! What the batches of a directory mean to each replica: what it still has, and whether it can trust that (rules L4, D7, D9).
//!
//! A replica's records carry a sequence number without gaps. Recovery reads them in order and knows, for each replica, whether
//! everything since its start is there. Where a gap or a lost batch leaves a doubt that nothing later removes, the replica is condemned and
//! the others go on. The cases are the table of [`crate::cases`].
//!
//! Invariant: the last batch, if it is one of records, is held back: it counts only under the address it is written to again (D7).

use std::collections::{BTreeMap, BTreeSet};

use mraft_disk::Disk;
use mraft_types::codec::{DecodeError, Reader};
use mraft_types::{CondemnedReason, EntryKind, HardState, Index, Membership, Term};

use crate::batch::{BatchHeader, BatchKind, Row};
use crate::cases::Case;
use crate::index::Address;
use crate::record::{Head, NUMBER_MAX, RECORD_HEAD_BYTES, Salt, State, decode_body, decode_record_head};
use crate::repeats::{LastBatch, slot_and_sequence};
use crate::replicas::{Listed, ReplicaList};
use crate::run::Run;
use crate::scan::{Directory, Headerless, Listener, UsedSegment, Walked, numbers, walk};
use crate::segment::refused;
use crate::{LogError, LogKey, Recovered};

/// What was read of a directory.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    /// By slot.
    pub(crate) replicas: BTreeMap<u32, Tracker>,
    /// How often each case was met.
    pub(crate) cases: BTreeMap<Case, u64>,
    /// The highest batch number of any header.
    pub(crate) highest_seq: u64,
    /// Everything up to this batch is known to be durable.
    pub(crate) durable_seq: u64,
    /// The oldest use that is needed.
    pub(crate) oldest_use: u64,
    /// The oldest use that is needed as far as a synced batch says, or the header of the newest use.
    pub(crate) oldest_use_proven: u64,
    /// The highest batch number in the uses that have a header.
    known_seq: u64,
    /// Per use that is needed, what walking it found.
    pub(crate) walked: BTreeMap<u64, Walked>,
    /// The last batch, if it is one of records.
    pub(crate) last: Option<HeldBatch>,
    /// The one before it that has records.
    before: LastBatch,
}

/// A batch whose records do not count yet.
#[derive(Debug, Default)]
pub(crate) struct HeldBatch {
    pub(crate) rows: Vec<Row>,
    pub(crate) payload: Vec<u8>,
    address: Address,
}

impl HeldBatch {
    /// Whether these are its records once more, those of replicas aside that are not listed.
    fn says(&self, payload: &[u8], listed: &BTreeMap<u32, Tracker>) -> bool {
        let is_listed = |body: &&[u8]| {
            let name = slot_and_sequence(body).ok();
            name.and_then(|(slot, _)| u32::try_from(slot).ok()).is_some_and(|slot| listed.contains_key(&slot))
        };
        let own: Vec<&[u8]> = bodies(&self.payload).filter(is_listed).collect();
        !own.is_empty() && own.into_iter().eq(bodies(payload).filter(is_listed))
    }
}

/// One replica as its records tell it.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    pub(crate) key: LogKey,
    pub(crate) hard_state: HardState,
    pub(crate) state: State,
    pub(crate) sequence: u64,
    pub(crate) run: Run,
    pub(crate) state_address: Option<Address>,
    pub(crate) last_address: Option<Address>,
    /// Bytes of the records with entries, roughly.
    pub(crate) entry_bytes: u64,
    added_seq: u64,
    /// Where the list says that its log began: no state of it begins before.
    listed_start: Index,
    /// Records were lost, and nothing since covers them.
    is_broken: bool,
    /// A batch is gone that may have held records of it, and nothing since shows that it did not.
    is_unsure: bool,
    /// A batch that is lost held its records up to this number.
    pub(crate) lost_sequence: u64,
    /// What was committed before the first gap: what is left when the replica is condemned. Entries behind it may have been overwritten
    /// by a record that is lost, and must not come back.
    before_gap: Option<Run>,
    /// Parts of a checkpoint, so far.
    checkpoint: Option<(u64, Run)>,
}

impl Recovery {
    /// Reads all uses that are needed.
    pub(crate) fn read(list: &ReplicaList, directory: &Directory) -> Result<Recovery, LogError> {
        let mut recovery = Recovery::default();
        for (key, listed) in &list.replicas {
            recovery.replicas.insert(listed.slot, Tracker::new(*key, listed));
            recovery.highest_seq = recovery.highest_seq.max(listed.added_seq);
        }
        directory.cases.iter().for_each(|case| recovery.count(*case));
        if let Some(newest) = directory.uses.values().next_back() {
            let walked = numbers(newest)?;
            (recovery.oldest_use, recovery.oldest_use_proven) = (walked.oldest_use, walked.oldest_use_before);
        }
        let oldest = recovery.oldest_use;
        (0..directory.uses.range(..oldest).count()).for_each(|_| recovery.count(Case::StaleSegment));
        let needed: Vec<&UsedSegment> = directory.uses.range(oldest..).map(|(_, segment)| segment).collect();
        if let Some(first) = needed.first().filter(|first| first.header.use_number != oldest) {
            recovery.lost(Case::MissingSegment, first.header.first_batch_seq.saturating_sub(1))?;
        }
        for (at, segment) in needed.iter().enumerate() {
            let before = recovery.known_seq;
            if segment.header.first_batch_seq <= before {
                // Numbers never repeat, not even that of a torn batch whose header is there.
                let first = segment.header.first_batch_seq;
                let reason = format!(
                    "begins with batch {first}, and an earlier use goes on behind batch {before}; no log wrote it"
                );
                return Err(refused(&segment.path, reason));
            }
            recovery.read_use(segment, at == 0, needed.get(at + 1).map(|next| next.header.durable_seq))?;
        }
        for headerless in &directory.headerless {
            recovery.read_headerless(headerless)?;
        }
        if list.is_used && directory.uses.is_empty() && !recovery.cases.contains_key(&Case::LostHeader) {
            recovery.lost(Case::NoSegments, recovery.highest_seq + 1)?;
        }
        if let Some(held) = recovery.last.take() {
            // It counts only when it is written again, and by then the log was touched.
            recovery.check_records(&held, list).map_err(|error| broken(&held, &error))?;
            recovery.last = Some(held);
        }
        if recovery.highest_seq > NUMBER_MAX - NUMBERS_LEFT_MIN {
            let reason = format!("holds batches up to {}; no log gets there", recovery.highest_seq);
            return Err(refused(std::path::Path::new("log"), reason));
        }
        let end = if recovery.last.is_some() { Some(Case::Unsealed) } else { None };
        if let Some(end) = end.or((recovery.highest_seq > 0 && !needed.is_empty()).then_some(Case::Sealed)) {
            recovery.count(end);
        }
        Ok(recovery)
    }

    fn read_use(
        &mut self,
        segment: &UsedSegment,
        is_first: bool,
        next_durable: Option<u64>,
    ) -> Result<(), LogError> {
        let header = segment.header;
        if is_first {
            self.durable_seq = self.durable_seq.max(header.durable_seq);
        }
        self.highest_seq = self.highest_seq.max(header.first_batch_seq.saturating_sub(1));
        let walked = walk(segment, next_durable, self)?;
        self.known_seq = self.known_seq.max(header.first_batch_seq.saturating_sub(1)).max(walked.highest_seq);
        self.highest_seq = self.highest_seq.max(walked.highest_seq);
        self.walked.insert(header.use_number, walked);
        Ok(())
    }

    /// A file whose header is gone is missed by the use behind it, if there is one; only the newest has to speak for itself.
    fn read_headerless(&mut self, headerless: &Headerless) -> Result<(), LogError> {
        self.highest_seq = self.highest_seq.max(headerless.highest_seq);
        if !self.is_lost(headerless) {
            self.count(Case::HeaderlessSegment);
            return Ok(());
        }
        // The next use says so in its header: the loss is seen again if the process ends before everybody is marked.
        self.durable_seq = self.durable_seq.max(headerless.durable_seq);
        self.lost(Case::LostHeader, headerless.durable_seq)
    }

    /// Whether a file without a header held batches that were durable and that no other file has.
    pub(crate) fn is_lost(&self, headerless: &Headerless) -> bool {
        headerless.durable_seq > self.known_seq
    }

    /// Lets the held batch count where it stands: for those who only look.
    pub(crate) fn release(&mut self) -> Result<(), LogError> {
        let Some(held) = self.last.take() else { return Ok(()) };
        self.check_order(&held)
            .and_then(|()| self.take(&held.payload, held.address, None))
            .map_err(|error| broken(&held, &error))?;
        self.before = LastBatch::whole(held.payload);
        Ok(())
    }

    /// Takes records that are known to be whole, or, with a salt, those that are. `address` is that of the first byte.
    fn take(&mut self, payload: &[u8], address: Address, check: Option<Salt>) -> Result<(), DecodeError> {
        let mut at = 0;
        while at < payload.len() {
            let (len, crc) = match decode_record_head(&payload[at..]) {
                Err(_) if check.is_some() => return Ok(()),
                head => head?,
            };
            let body_at = at + RECORD_HEAD_BYTES;
            let Some(body) = payload.get(body_at..body_at.saturating_add(len)) else {
                return if check.is_some() { Ok(()) } else { Err(DecodeError::Truncated("record.body")) };
            };
            if check.is_none_or(|salt| salt.checksum(body) == crc) {
                if check.is_some() {
                    self.check_repeated(body)?;
                }
                self.take_record(body, address + at as u64)?;
            }
            at = body_at + len;
        }
        Ok(())
    }

    /// Takes a record at its address.
    pub(crate) fn take_record(&mut self, body: &[u8], address: Address) -> Result<(), DecodeError> {
        let (head, entries) = read_entries(body)?;
        let cases = match self.replicas.get_mut(&head.slot) {
            Some(tracker) => tracker.take(head, entries, address, body.len() as u64)?,
            None => vec![Case::Garbage],
        };
        cases.into_iter().for_each(|case| self.count(case));
        Ok(())
    }

    /// Whether records that are known to be whole can be read, to the last one, follow those before them, and are of the replicas that
    /// the batch's rows name: by these it is decided whether it is written again. Also by itself: all before it may be gone by the next
    /// opening.
    fn check_records(&mut self, held: &HeldBatch, list: &ReplicaList) -> Result<(), DecodeError> {
        self.check_order(held)?;
        let slots: BTreeSet<u32> = held.rows.iter().map(|row| row.slot).collect();
        // On trial: what they take here does not count yet.
        let known = |slot: &u32| Some((*slot, self.replicas.get(slot)?.clone()));
        let mut behind_others: BTreeMap<u32, Tracker> = slots.iter().filter_map(known).collect();
        let listed = list.replicas.iter().filter(|(_, listed)| slots.contains(&listed.slot));
        let mut alone: BTreeMap<u32, Tracker> =
            listed.map(|(key, listed)| (listed.slot, Tracker::new(*key, listed))).collect();
        let mut rest = held.payload.as_slice();
        while !rest.is_empty() {
            let (body, behind) = next_body(rest)?;
            for trackers in [&mut behind_others, &mut alone] {
                let (head, entries) = read_entries(body)?;
                if !slots.contains(&head.slot) {
                    return Err(DecodeError::Invalid("record.slot", u64::from(head.slot)));
                }
                if let Some(tracker) = trackers.get_mut(&head.slot) {
                    tracker.take(head, entries, held.address, body.len() as u64)?;
                }
            }
            rest = behind;
        }
        Ok(())
    }

    /// Whether each replica's records are numbered upwards, and either follow those that it has or are the same ones once more: a batch
    /// that is written again has all of them, and nothing was written in between.
    fn check_order(&mut self, held: &HeldBatch) -> Result<(), DecodeError> {
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        let mut rest = held.payload.as_slice();
        while !rest.is_empty() {
            let (body, behind) = next_body(rest)?;
            let (slot, sequence) = slot_and_sequence(body)?;
            if ends.insert(slot, sequence).is_some_and(|before| before >= sequence) {
                return Err(DecodeError::Invalid("record.sequence", sequence));
            }
            self.check_repeated(body)?;
            rest = behind;
        }
        match ends.into_iter().find(|(slot, end)| self.has_taken(*slot).is_some_and(|taken| taken > *end)) {
            Some((_, end)) => Err(DecodeError::Invalid("record.sequence", end)),
            None => Ok(()),
        }
    }

    /// Whether a record that passes for a repetition is one.
    fn check_repeated(&mut self, body: &[u8]) -> Result<(), DecodeError> {
        let (slot, sequence) = slot_and_sequence(body)?;
        match self.has_taken(slot).is_some_and(|taken| taken >= sequence) {
            true => self.before.check(slot, sequence, body),
            false => Ok(()),
        }
    }

    /// The number of the last record that counts for a replica.
    fn has_taken(&self, slot: u64) -> Option<u64> {
        u32::try_from(slot).ok().and_then(|slot| self.replicas.get(&slot)).map(|tracker| tracker.sequence)
    }

    /// Ends the reading: judges every replica. Answers the slots of those that lost something.
    pub(crate) fn judge(&mut self) -> Vec<u32> {
        let mut losers = Vec::new();
        let mut cases = Vec::new();
        for (slot, tracker) in &mut self.replicas {
            if tracker.checkpoint.take().is_some() {
                cases.push(Case::IncompleteCheckpoint);
            }
            let was_marked = tracker.state.condemned.is_some();
            if was_marked {
                cases.push(Case::MarkedCondemned);
            }
            if !tracker.is_whole() {
                tracker.condemn();
                losers.push(*slot);
                if !was_marked {
                    cases.push(Case::Condemned);
                }
            }
        }
        cases.into_iter().for_each(|case| self.count(case));
        losers
    }

    /// Nothing is left of any replica.
    pub(crate) fn lose_all(&mut self) {
        for tracker in self.replicas.values_mut() {
            tracker.state.condemned = Some(CondemnedReason::LogLost);
        }
    }

    fn count(&mut self, case: Case) {
        *self.cases.entry(case).or_default() += 1;
    }
}

impl Listener for Recovery {
    fn batch(
        &mut self,
        segment: &UsedSegment,
        header: &BatchHeader,
        at: u64,
        payload: &[u8],
    ) -> Result<(), LogError> {
        let again = self
            .last
            .take_if(|held| header.numbers.kind == BatchKind::Data && held.says(payload, &self.replicas));
        match again {
            // It counts where it was written again: here it may be in memory only.
            Some(_) => self.count(Case::Repeated),
            None => self.release()?,
        }
        self.count(Case::Whole);
        self.durable_seq = self.durable_seq.max(header.numbers.durable_seq);
        if header.numbers.kind == BatchKind::Data {
            let address = segment.header.use_number * segment.header.segment_bytes + at;
            self.last = Some(HeldBatch { rows: header.rows.clone(), payload: payload.to_vec(), address });
        }
        Ok(())
    }

    fn damaged_records(
        &mut self,
        segment: &UsedSegment,
        header: &BatchHeader,
        at: u64,
        payload: &[u8],
    ) -> Result<(), LogError> {
        self.release()?;
        self.count(Case::DamagedRecords);
        for row in &header.rows {
            if let Some(tracker) = self.replicas.get_mut(&row.slot) {
                let last = row.first_sequence.saturating_add(u64::from(row.records)).saturating_sub(1);
                tracker.lost_sequence = tracker.lost_sequence.max(last);
            }
        }
        let address = segment.header.use_number * segment.header.segment_bytes + at;
        self.take(payload, address, Some(segment.header.salt))
            .map_err(|error| refused(&segment.path, error.to_string()))?;
        self.before = LastBatch::damaged(payload, segment.header.salt);
        Ok(())
    }

    fn lost(&mut self, case: Case, through_seq: u64) -> Result<(), LogError> {
        self.release()?;
        self.before.note_loss();
        self.count(case);
        self.highest_seq = self.highest_seq.max(through_seq);
        for tracker in self.replicas.values_mut().filter(|tracker| tracker.added_seq < through_seq) {
            tracker.is_unsure = true;
        }
        Ok(())
    }

    fn ends(&mut self, torn: bool) {
        if torn {
            self.count(Case::TornTail);
        }
    }
}

/// A record's entries: index, term, and the membership of those that have one.
#[derive(Default)]
struct EntriesRead(Vec<(Index, Term, Option<Membership>)>);

impl EntriesRead {
    fn append_to(self, run: &mut Run, address: Address) {
        if let Some((first, ..)) = self.0.first() {
            run.begin_record(*first, address);
        }
        for (index, term, membership) in self.0 {
            run.append(index, term, membership);
        }
    }
}

impl Tracker {
    /// Of a replica of which only the list is known yet.
    fn new(key: LogKey, listed: &Listed) -> Tracker {
        let (last_index, start) = (listed.start.position.index, listed.start.clone());
        Tracker {
            key,
            hard_state: listed.hard_state,
            state: State { last_index, start, ..State::default() },
            sequence: 0,
            run: Run::default(),
            state_address: None,
            last_address: None,
            entry_bytes: 0,
            added_seq: listed.added_seq,
            listed_start: last_index,
            is_broken: false,
            is_unsure: false,
            lost_sequence: 0,
            before_gap: None,
            checkpoint: None,
        }
    }

    fn take(
        &mut self,
        head: Head<State>,
        entries: EntriesRead,
        address: Address,
        bytes: u64,
    ) -> Result<Vec<Case>, DecodeError> {
        let mut cases = Vec::new();
        let is_front = self.is_front();
        if head.sequence <= self.sequence {
            cases.push(Case::Repeated);
            return Ok(cases);
        }
        let start = head.state.as_ref().map(|state| state.start.position.index);
        if let Some(start) = start.filter(|start| *start < self.listed_start) {
            return Err(DecodeError::Invalid("record.start", start));
        }
        // A log takes none before the start, and a start that is known from before a gap is no later one than the writer's. A checkpoint
        // has a start of its own.
        let first = entries.0.first().map(|(first, ..)| *first).filter(|_| head.part.is_none());
        if let Some(first) = first.filter(|first| *first <= self.state.start.position.index) {
            return Err(DecodeError::Invalid("record.first_index", first));
        }
        let is_next = head.sequence == self.sequence + 1;
        if !is_next {
            if is_front {
                cases.push(Case::RecycledFront);
            } else {
                cases.push(Case::Gap);
                self.break_off();
            }
            self.checkpoint = None;
        } else if self.is_unsure {
            cases.push(Case::Continued);
        }
        self.is_unsure = false;
        self.sequence = head.sequence;
        self.hard_state = head.hard_state;
        self.last_address = Some(address);
        self.entry_bytes += bytes;
        if let Some(part) = head.part {
            let before = self.checkpoint.take();
            if before.is_some() && part.number == 1 {
                // A restart or a write came between the parts, and it was begun anew.
                cases.push(Case::IncompleteCheckpoint);
            }
            let (expected, mut run) = match before.filter(|_| part.number != 1) {
                Some((number, run)) => (number + 1, run),
                // The parts before it may have been recycled, when a later truncation made them unneeded.
                None if is_front && !is_next => (part.number, Run::default()),
                None => (1, Run::default()),
            };
            if part.number != expected {
                // The parts before it are on the other side of a gap; without them it says nothing.
                cases.push(Case::IncompleteCheckpoint);
                if is_next {
                    // There is no gap: no log wrote it. The next opening may find nothing before it and believe it.
                    self.break_off();
                }
                return Ok(cases);
            }
            entries.append_to(&mut run, address);
            match head.state {
                Some(state) if part.is_last => {
                    if run.first().is_some_and(|first| first <= state.start.position.index) {
                        // No log wrote it. Where parts before it are gone that is not seen: it must not decide whether a log opens.
                        cases.push(Case::IncompleteCheckpoint);
                        self.break_off();
                        return Ok(cases);
                    }
                    self.run = run;
                    self.take_state(state, address, &mut cases);
                }
                _ => self.checkpoint = Some((part.number, run)),
            }
            return Ok(cases);
        }
        if self.checkpoint.take().is_some() {
            cases.push(Case::IncompleteCheckpoint);
        }
        if head.reset {
            self.run = Run::default();
        }
        if let Some((last, ..)) = entries.0.last() {
            self.state.last_index = *last;
        }
        entries.append_to(&mut self.run, address);
        if let Some(state) = head.state {
            self.take_state(state, address, &mut cases);
        }
        Ok(cases)
    }

    /// Something is missing: what was committed before is all that is certain.
    fn break_off(&mut self) {
        self.is_broken = true;
        let mut run = std::mem::take(&mut self.run);
        run.cut_behind(self.hard_state.commit);
        self.before_gap.get_or_insert(run);
    }

    /// Whether nothing of it was read yet, and nothing says that there was something.
    fn is_front(&self) -> bool {
        self.sequence == 0 && !self.is_unsure && self.lost_sequence == 0
    }

    fn take_state(&mut self, state: State, address: Address, cases: &mut Vec<Case>) {
        self.run.truncate_through(state.start.position.index);
        self.run.cut_behind(state.last_index);
        self.state_address = Some(address);
        let is_covered = self.run.covers(state.start.position.index, state.last_index);
        if self.is_broken && is_covered {
            cases.push(Case::Covered);
            self.is_broken = false;
            self.before_gap = None;
        }
        self.state = state;
    }

    /// Whether everything since its start is there, up to its last record.
    fn is_whole(&self) -> bool {
        !self.is_broken
            && !self.is_unsure
            && self.lost_sequence <= self.sequence
            && self.run.covers(self.state.start.position.index, self.state.last_index)
    }

    /// Keeps what is certain of its entries, for whoever has to decide what to accept as lost.
    fn condemn(&mut self) {
        let start = self.state.start.position.index;
        let mut left = match self.before_gap.take() {
            Some(run) => run,
            None => {
                let mut run = std::mem::take(&mut self.run);
                run.cut_behind(self.hard_state.commit);
                run
            }
        };
        left.truncate_through(start);
        self.run = if left.covers(start, start + 1) { left } else { Run::default() };
        self.state.last_index = self.run.last().unwrap_or(start);
        self.state.condemned.get_or_insert(CondemnedReason::Damage);
    }

    /// What the replica is told of itself.
    pub(crate) fn recovered(&self) -> Recovered {
        let start = self.state.start.clone();
        Recovered {
            key: self.key,
            hard_state: self.hard_state,
            last_index: self.state.last_index,
            terms: self.run.terms_from((start.position.index, start.position.term)),
            memberships: self.run.memberships().to_vec(),
            start,
            install: self.state.install.clone(),
            condemned: self.state.condemned,
        }
    }
}

/// The list and the segments of a directory, read without touching anything; `None` when there is no log yet.
pub(crate) fn look(
    disk: &dyn Disk,
    path: &std::path::Path,
    segment_bytes: Option<u64>,
) -> Result<(Option<ReplicaList>, Directory, Recovery), LogError> {
    let list = ReplicaList::read(disk, path)?;
    let directory = Directory::read(disk, path, segment_bytes)?;
    if list.is_none() && !directory.uses.is_empty() {
        let reason = "is missing although there are segments in use, and without it nobody knows whose entries they hold: put it back; if \
                      it is lost, move the whole log directory away, then the log counts as gone (`mraft repair accept-loss`)"
            .to_owned();
        return Err(refused(&crate::replicas::list_path(path), reason));
    }
    let recovery = Recovery::read(list.as_ref().unwrap_or(&ReplicaList::default()), &directory)?;
    Ok((list, directory, recovery))
}

/// Batches that can still be numbered when a log is opened: what it writes must be readable the next time. More than anybody writes.
const NUMBERS_LEFT_MIN: u64 = 1 << 40;

/// The body at the front of records that are known to be whole, and what follows it.
fn next_body(records: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (len, _) = decode_record_head(records)?;
    records[RECORD_HEAD_BYTES..].split_at_checked(len).ok_or(DecodeError::Truncated("record.body"))
}

/// The bodies of records that are known to be whole, as far as they can be read.
fn bodies(mut records: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (body, rest) = next_body(records).ok()?;
        records = rest;
        Some(body)
    })
}

/// What a record says, and its entries.
fn read_entries(body: &[u8]) -> Result<(Head<State>, EntriesRead), DecodeError> {
    let mut entries = EntriesRead::default();
    let head = decode_body(body, |entry| {
        let membership = if entry.kind == EntryKind::Membership {
            let bytes = &body[entry.payload_at..entry.payload_at + entry.payload_bytes];
            Some(Membership::decode(&mut Reader::new(bytes))?)
        } else {
            None
        };
        entries.0.push((entry.index, entry.term, membership));
        Ok(())
    })?;
    Ok((head, entries))
}

fn broken(held: &HeldBatch, error: &DecodeError) -> LogError {
    let reason = format!("the batch at {} has a whole record that cannot be read: {error}", held.address);
    refused(std::path::Path::new("log"), reason)
}
