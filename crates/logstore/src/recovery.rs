// SPDX-License-Identifier: Apache-2.0

//! What the segments still say after a crash, and what they can no longer be trusted to say (rules L3, L4, D7).
//!
//! Segments are read in the order of their uses, batches in the order of their numbers. Wherever the expected batch does not stand, the
//! case is one of [`Case`]; the table there gives the reason for each decision.

use std::collections::BTreeMap;

use mraft_types::{
    CondemnedReason, EntryKind, HardState, Index, LogStart, Membership, Payload, Term, codec::Reader,
};

use crate::index::{Address, RecordIndex};
use crate::record::{
    BLOCK_BYTES, BatchHeader, BatchKind, Found, RECORD_HEAD_BYTES, Record, State, decode_body, find_header,
};
use crate::replicas::ReplicaList;
use crate::segment::SegmentUse;
use crate::{LogError, LogKey, Recovered};

/// What recovery met at a place where it looked for a batch.
///
/// | case | what is found | decision and reason |
/// |---|---|---|
/// | `Clean` | the expected batch, whole | taken |
/// | `Superseded` | nothing valid, and the next segment begins with this batch | its end; a torn batch here was never acknowledged |
/// | `TornTail` | nothing valid from here on, nothing says that it was durable | never acknowledged: dropped |
/// | `DamagedPayload` | a valid header over a wrong payload; a later header says that it was durable | the replicas in its table lost records |
/// | `DamagedHeader` | no valid header, but a later one that says it was durable | any replica may have lost records |
/// | `MissingBatches` | the segment ends, the next one begins with a later batch | as `DamagedHeader` |
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Case {
    /// The expected batch, whole.
    Clean,
    /// The end of a segment that another one follows.
    Superseded,
    /// The end of the log, perhaps torn.
    TornTail,
    /// A durable batch whose table is known lost its payload.
    DamagedPayload,
    /// A durable batch is gone with its header.
    DamagedHeader,
    /// A segment lacks its last batches.
    MissingBatches,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) slots: BTreeMap<u32, RecoveredSlot>,
    /// How often each case was met.
    pub(crate) cases: BTreeMap<Case, u64>,
    /// Number of the next batch.
    pub(crate) next_batch_seq: u64,
    /// The last batch, if it holds records: nothing behind it says that it is durable.
    pub(crate) last: Option<LastBatch>,
    damage_seen: bool,
}

/// The last batch of the log, to be written again before anything of it is trusted (rule D7).
#[derive(Debug)]
pub(crate) struct LastBatch {
    pub(crate) batch_seq: u64,
    pub(crate) rows: Vec<(u32, u32, u64)>,
    /// Bodies of the records with (slot, first index of the entries, whether it holds state).
    pub(crate) bodies: Vec<(Vec<u8>, u32, Option<Index>, bool)>,
}

/// One replica's log.
#[derive(Debug)]
pub(crate) struct RecoveredSlot {
    pub(crate) hard_state: HardState,
    pub(crate) state: State,
    pub(crate) sequence: u64,
    pub(crate) index: RecordIndex,
    pub(crate) state_address: Option<Address>,
    pub(crate) last_address: Option<Address>,
    seen: bool,
    /// Whether everything from the start on is accounted for.
    anchored: bool,
    /// A batch that may have held its records is gone, and nothing came since that would show whether it did.
    unsure: bool,
    lost_sequence: u64,
    run: Run,
    checkpoint: Option<Run>,
}

/// Consecutive entries: their terms and memberships.
#[derive(Clone, Debug, Default)]
struct Run {
    first: Option<Index>,
    last: Index,
    terms: Vec<(Index, Term)>,
    memberships: Vec<(Index, Membership)>,
    records: Vec<(Index, Address)>,
}

impl Recovery {
    /// Everything as it was when the replicas were added.
    pub(crate) fn begin(list: &ReplicaList) -> Recovery {
        let slot = |start: &LogStart, hard_state: HardState| RecoveredSlot {
            hard_state,
            state: State { last_index: start.position.index, start: start.clone(), ..State::default() },
            sequence: 0,
            index: RecordIndex::default(),
            state_address: None,
            last_address: None,
            seen: false,
            anchored: true,
            unsure: false,
            lost_sequence: 0,
            run: Run::default(),
            checkpoint: None,
        };
        let slots = list
            .replicas
            .values()
            .map(|listed| (listed.slot, slot(&listed.start, listed.hard_state)))
            .collect();
        Recovery { slots, next_batch_seq: 1, ..Recovery::default() }
    }

    /// Reads one segment. `next_first` is the number with which the next segment begins, if there is one.
    pub(crate) fn read_segment(
        &mut self,
        segment: &SegmentUse,
        bytes: &Payload,
        base: Address,
        next_first: Option<u64>,
    ) -> Result<(), LogError> {
        let mut expected = segment.first_batch_seq;
        if self.next_batch_seq != 1 && expected > self.next_batch_seq {
            self.damaged(Case::MissingBatches, None);
        }
        let mut offset = BLOCK_BYTES;
        loop {
            let is_needed = |seq: u64| next_first.is_some_and(|next| seq < next);
            let found = bytes.get(offset..).map_or(Found::Nothing, |rest| find_header(rest, segment.salt));
            if let Found::Unknown(version) = found {
                return Err(LogError::Refused {
                    file: segment.segment.path.clone(),
                    reason: format!("a batch of version {version}, which this build does not know"),
                });
            }
            if let Found::Header(header) = &found
                && header.batch_seq == expected
            {
                let behind = offset + header.batch_bytes();
                if header.payload(&bytes[offset..], segment.salt).is_some() {
                    self.take_batch(segment, header, bytes, offset + header.payload_at(), base)?;
                } else if is_needed(expected) || later(bytes, behind, segment.salt, expected).is_some() {
                    self.damaged(Case::DamagedPayload, Some(header));
                } else {
                    self.count(if next_first.is_some() { Case::Superseded } else { Case::TornTail });
                    break;
                }
                offset = behind;
                expected += 1;
                continue;
            }
            match later(bytes, offset, segment.salt, expected) {
                Some((at, batch_seq)) => {
                    self.damaged(Case::DamagedHeader, None);
                    offset = at;
                    expected = batch_seq;
                }
                None => {
                    if is_needed(expected) {
                        self.damaged(Case::MissingBatches, None);
                        expected = next_first.unwrap_or(expected);
                    } else {
                        self.count(if next_first.is_some() { Case::Superseded } else { Case::TornTail });
                    }
                    break;
                }
            }
        }
        self.next_batch_seq = self.next_batch_seq.max(expected);
        Ok(())
    }

    fn take_batch(
        &mut self,
        segment: &SegmentUse,
        header: &BatchHeader,
        bytes: &Payload,
        at: usize,
        base: Address,
    ) -> Result<(), LogError> {
        self.count(Case::Clean);
        self.last = None;
        if header.kind == BatchKind::Seal {
            return Ok(());
        }
        let refused = |reason: String| LogError::Refused { file: segment.segment.path.clone(), reason };
        let mut last =
            LastBatch { batch_seq: header.batch_seq, rows: header.rows.clone(), bodies: Vec::new() };
        let end = at + header.payload_bytes;
        let mut next = at;
        while next < end {
            let mut head = Reader::new(&bytes[next..end]);
            let broken = |error: mraft_types::codec::DecodeError| {
                refused(format!("batch {}: {error}", header.batch_seq))
            };
            let len = head.u32("record.body_bytes").map_err(broken)? as usize;
            let body = bytes
                .slice(next + RECORD_HEAD_BYTES, len)
                .filter(|_| next + RECORD_HEAD_BYTES + len <= end)
                .ok_or_else(|| refused(format!("batch {}: a record reaches beyond it", header.batch_seq)))?;
            let record = decode_body(&body, false).map_err(broken)?;
            let first = record.entries.first().map(|entry| entry.index);
            last.bodies.push((body.to_vec(), record.slot, first, record.state.is_some()));
            let address = base + next as u64;
            let damage_seen = self.damage_seen;
            if let Some(slot) = self.slots.get_mut(&record.slot) {
                slot.take(record, address, damage_seen);
            }
            next += RECORD_HEAD_BYTES + len;
        }
        self.last = Some(last);
        Ok(())
    }

    fn damaged(&mut self, case: Case, header: Option<&BatchHeader>) {
        self.count(case);
        self.damage_seen = true;
        match header {
            Some(header) => {
                for (slot, records, first) in &header.rows {
                    if let Some(slot) = self.slots.get_mut(slot) {
                        slot.lost_sequence = slot.lost_sequence.max(first + u64::from(*records) - 1);
                    }
                }
            }
            None => self.slots.values_mut().for_each(|slot| slot.unsure = true),
        }
    }

    fn count(&mut self, case: Case) {
        *self.cases.entry(case).or_default() += 1;
    }
}

/// A later batch in the same segment that proves that batch `expected` was durable (rule L3): its place and number.
fn later(bytes: &[u8], from: usize, salt: u64, expected: u64) -> Option<(usize, u64)> {
    let mut offset = from.max(BLOCK_BYTES);
    while offset < bytes.len() {
        if let Found::Header(header) = find_header(&bytes[offset..], salt)
            && header.batch_seq > expected
            && header.durable_seq >= expected
        {
            return Some((offset, header.batch_seq));
        }
        offset += BLOCK_BYTES;
    }
    None
}

impl RecoveredSlot {
    fn take(&mut self, record: Record, address: Address, damage_seen: bool) {
        if self.seen && record.sequence <= self.sequence {
            // The last batch of an earlier process, written again.
            return;
        }
        let gap = record.sequence != self.sequence + 1;
        if gap {
            // At the front, records that nothing needed went with their recycled segments. Anywhere else they are lost, and what they
            // said about the entries before them is not known.
            self.anchored &= !self.seen && !damage_seen;
            self.run = Run::default();
            self.index.clear();
            self.checkpoint = None;
        }
        self.unsure = false;
        self.seen = true;
        self.sequence = record.sequence;
        self.hard_state = record.hard_state;
        self.last_address = Some(address);
        if let Some((part, parts)) = record.checkpoint {
            return self.take_checkpoint(record, address, part, parts);
        }
        if record.reset {
            self.run = Run::default();
            self.index.clear();
        }
        if let Some(first) = record.entries.first() {
            self.run.append(&record, address);
            self.index.push(first.index, address);
            if self.run.first == Some(first.index) && self.run.records.len() == 1 {
                let (first, address) = (first.index, address);
                self.index.clear();
                self.index.push(first, address);
            }
        }
        if let Some(state) = record.state {
            self.take_state(state, address);
        }
    }

    fn take_state(&mut self, state: State, address: Address) {
        self.run.truncate_through(state.start.position.index);
        self.index.truncate_through(state.start.position.index);
        self.anchored = self.run.covers(state.start.position.index, state.last_index);
        self.state = state;
        self.state_address = Some(address);
    }

    /// A checkpoint is valid only with its last part (rule L5).
    fn take_checkpoint(&mut self, record: Record, address: Address, part: u64, parts: u64) {
        if part == 1 {
            self.checkpoint = Some(Run::default());
        }
        let Some(mut run) = self.checkpoint.take() else { return };
        run.append(&record, address);
        if part < parts {
            self.checkpoint = Some(run);
            return;
        }
        let Some(state) = record.state else { return };
        self.index.clear();
        for (first, address) in &run.records {
            self.index.push(*first, *address);
        }
        self.run = run;
        self.take_state(state, address);
    }

    /// What a replica is told of it.
    pub(crate) fn recovered(&mut self, key: LogKey) -> Recovered {
        let start = self.state.start.clone();
        let from = start.position.index;
        self.run.truncate_through(from);
        let last_index = if self.run.first.is_some() { self.run.last } else { from };
        let whole = self.anchored
            && !self.unsure
            && self.lost_sequence <= self.sequence
            && self.run.covers(from, last_index);
        self.state.last_index = last_index;
        let mut terms = vec![(from, start.position.term)];
        for (index, term) in &self.run.terms {
            if terms.last().is_none_or(|(_, known)| known != term) {
                terms.push((*index, *term));
            }
        }
        if !whole && self.state.condemned.is_none() {
            self.state.condemned = Some(CondemnedReason::Damage);
        }
        Recovered {
            key,
            hard_state: self.hard_state,
            start,
            last_index,
            terms,
            memberships: std::mem::take(&mut self.run.memberships),
            install: self.state.install.clone(),
            condemned: self.state.condemned,
        }
    }
}

impl Run {
    fn append(&mut self, record: &Record, address: Address) {
        let Some(first) = record.entries.first() else { return };
        if self.first.is_some_and(|start| first.index <= self.last && first.index > start) {
            self.terms.retain(|(index, _)| *index < first.index);
            self.memberships.retain(|(index, _)| *index < first.index);
            self.records.retain(|(index, _)| *index < first.index);
        } else if self.first.is_none() || first.index != self.last + 1 {
            // A hole before it, or all of it overwritten: what came before does not count.
            *self = Run { first: Some(first.index), ..Run::default() };
        }
        self.records.push((first.index, address));
        for entry in &record.entries {
            if self.terms.last().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            if entry.kind == EntryKind::Membership
                && let Ok(membership) = Membership::decode(&mut Reader::new(&entry.payload))
            {
                self.memberships.push((entry.index, membership));
            }
            self.last = entry.index;
        }
    }

    fn truncate_through(&mut self, start: Index) {
        if self.first.is_none_or(|first| first > start) {
            return;
        }
        if self.last <= start {
            *self = Run::default();
            return;
        }
        let term =
            self.terms.iter().rev().find(|(index, _)| *index <= start + 1).map_or(0, |(_, term)| *term);
        self.terms.retain(|(index, _)| *index > start + 1);
        self.terms.insert(0, (start + 1, term));
        self.memberships.retain(|(index, _)| *index > start);
        self.first = Some(start + 1);
    }

    /// Whether every index behind `start` up to `last` is here.
    fn covers(&self, start: Index, last: Index) -> bool {
        match self.first {
            Some(first) => first <= start + 1 && self.last >= last,
            None => last <= start,
        }
    }
}
