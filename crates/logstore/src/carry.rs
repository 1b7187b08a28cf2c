// SPDX-License-Identifier: Apache-2.0

//! Carrying replicas forward (rule L5): a replica that hardly writes must not pin an old segment.
//!
//! Its live entries are written again, with its whole state, as a checkpoint; what it wrote before is void then. Small replicas go many
//! to a batch, a large one in several parts over several calls, so that the log thread gets back to its writes; a write of the replica
//! in between makes the parts void, and carrying it begins anew.
//!
//! Carrying is paid for: it may write as many bytes as callers wrote, so that a log whose live entries do not fit the target is not
//! copied round and round. Such a log grows until its replicas truncate.
//!
//! When the disk is full, neither the target nor what was paid counts: whoever pins the oldest segment is carried into the reserve, if all
//! of them together fit the part of it that is meant for that ([`Purpose::Rescue`]). That frees a whole segment for at most half of one,
//! and as long as half a segment was not filled by others it is not done again.

use mraft_types::{Entry, Index};

use crate::batch::{BATCH_HEADER_BYTES, BLOCK_BYTES, BatchKind, ROW_BYTES, Row};
use crate::index::Address;
use crate::record::{self, Head, Part, State};
use crate::replica::{Effect, Update};
use crate::space::Purpose;
use crate::writer::SegmentLog;
use crate::{LogError, LogKey, LogStore};

/// Payload that one call carries: about what one batch of a busy node weighs.
const STEP_BYTES_MAX: usize = 1 << 20;
/// Entries per this many bytes of a step, so that empty entries do not make a record larger than its payload.
const BYTES_PER_ENTRY: usize = 32;

/// A replica whose checkpoint has several parts, some of which are written.
#[derive(Debug)]
pub(crate) struct Carrying {
    pub(crate) key: LogKey,
    parts: u64,
    /// The last index that is written.
    through: Index,
    records: Vec<(Index, Address)>,
}

/// A record of a checkpoint that is to be written.
struct Piece {
    key: LogKey,
    part: Part,
    entries: Vec<Entry>,
}

impl SegmentLog {
    /// Carries some entries forward if too many segments are in use; `false` when nothing is to be done.
    pub(crate) fn carry_some(&mut self) -> Result<bool, LogError> {
        if let Some(carrying) = &self.carrying {
            let (key, part, after) = (carrying.key, carrying.parts + 1, carrying.through);
            let Some((entries, is_last)) = self.read_step(key, after)? else { return Ok(false) };
            return self.carry(vec![Piece { key, part: Part { number: part, is_last }, entries }]);
        }
        let is_due = match self.is_short {
            true => self.is_rescue_worth_it(),
            false => self.live_uses() > self.options.segments_target && self.carry_allowance_bytes > 0,
        };
        if !is_due {
            return Ok(false);
        }
        let step_bytes = self.step_bytes();
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for key in self.candidates() {
            let Some(after) = self.replicas.get(&key).map(|replica| replica.state.start.position.index)
            else {
                continue;
            };
            let Some((entries, is_last)) = self.read_step(key, after)? else { continue };
            let piece_bytes = self.piece_bytes(key, &entries);
            if !pieces.is_empty() && (!is_last || bytes + piece_bytes > step_bytes) {
                break;
            }
            bytes += piece_bytes;
            pieces.push(Piece { key, part: Part { number: 1, is_last }, entries });
            if !is_last {
                break;
            }
        }
        if pieces.is_empty() { Ok(false) } else { self.carry(pieces) }
    }

    /// Writes pieces if there is room: carrying is to make some and does not take the last of it.
    fn carry(&mut self, pieces: Vec<Piece>) -> Result<bool, LogError> {
        let purpose = if self.is_short { Purpose::Rescue } else { Purpose::Entries };
        match self.write_pieces(pieces, purpose) {
            Ok(()) => Ok(true),
            Err(LogError::Full { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether everything that pins the oldest segment fits the part of the reserve that is for this. A segment that only waits for a
    /// seal needs no carrying.
    fn is_rescue_worth_it(&self) -> bool {
        let Some(oldest) = self.oldest_pinned() else { return false };
        let candidates = self.candidates();
        let all = self.pins.get(&oldest).is_some_and(|pins| *pins as usize == candidates.len());
        let bytes: u64 = candidates.iter().map(|key| self.carried_bytes(*key)).sum();
        all && self.oldest_needed() == self.oldest_written && bytes <= self.rescue_room()
    }

    /// What carrying a replica takes, roughly: its records, a head for each step, and a block for each but the last, which it shares.
    fn carried_bytes(&self, key: LogKey) -> u64 {
        let Some(replica) = self.replicas.get(&key) else { return 0 };
        let more_steps = replica.entry_bytes / self.step_bytes() as u64;
        let head_bytes = self.piece_bytes(key, &[]) as u64;
        replica.entry_bytes + head_bytes + more_steps * (BLOCK_BYTES as u64 + head_bytes)
    }

    /// Carries one replica at once, whatever it weighs: what it says of itself now must not be lost.
    pub(crate) fn carry_whole(&mut self, key: LogKey) -> Result<(), LogError> {
        let Some(replica) = self.replicas.get(&key) else { return Ok(()) };
        let mut after = replica.state.start.position.index;
        for number in 1.. {
            let Some((entries, is_last)) = self.read_step(key, after)? else {
                return Err(LogError::Damaged { key, index: after + 1 });
            };
            after = entries.last().map_or(after, |entry| entry.index);
            let piece = Piece { key, part: Part { number, is_last }, entries };
            self.write_pieces(vec![piece], Purpose::Vital)?;
            if is_last {
                break;
            }
        }
        Ok(())
    }

    /// Replicas that pin the oldest segment, the smallest first.
    fn candidates(&self) -> Vec<LogKey> {
        let Some(oldest) = self.oldest_pinned() else { return Vec::new() };
        let mut found: Vec<(u64, LogKey)> = self
            .replicas
            .iter()
            .filter(|(_, replica)| replica.pinned_use == Some(oldest) && !replica.is_damaged)
            .map(|(key, replica)| (replica.entry_bytes, *key))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, key)| key).collect()
    }

    /// The next entries of a replica, and whether they are its last; `None` when they are damaged.
    fn read_step(&mut self, key: LogKey, after: Index) -> Result<Option<(Vec<Entry>, bool)>, LogError> {
        let Some(last) = self.replicas.get(&key).map(|replica| replica.state.last_index) else {
            return Ok(None);
        };
        let bytes = self.step_bytes();
        let through = last.min(after.saturating_add((bytes / BYTES_PER_ENTRY) as u64));
        match self.reader().entries(key, after + 1, through, bytes) {
            Ok(entries) => {
                let is_last = entries.last().map_or(after, |entry| entry.index) == last;
                Ok(Some((entries, is_last)))
            }
            Err(LogError::Failed(error)) => Err(LogError::Failed(error)),
            Err(_) => {
                // Whoever reads these entries is told; here it only means that they cannot be moved.
                self.carrying.take_if(|carrying| carrying.key == key);
                if let Some(replica) = self.replicas.get_mut(&key) {
                    replica.is_damaged = true;
                }
                Ok(None)
            }
        }
    }

    fn write_pieces(&mut self, pieces: Vec<Piece>, purpose: Purpose) -> Result<(), LogError> {
        let mut rows = Vec::with_capacity(pieces.len());
        let mut bytes = BATCH_HEADER_BYTES;
        for piece in &pieces {
            let Some(replica) = self.replicas.get(&piece.key) else { continue };
            rows.push(Row { slot: replica.slot, records: 1, first_sequence: replica.sequence + 1 });
            bytes += ROW_BYTES + self.piece_bytes(piece.key, &piece.entries);
        }
        self.set_rows(rows);
        let place = self.begin_batch(bytes, purpose)?;
        for piece in pieces {
            let Some(replica) = self.replicas.get_mut(&piece.key) else { continue };
            replica.sequence += 1;
            let (slot, sequence, hard_state) = (replica.slot, replica.sequence, replica.hard_state);
            let state: Option<State> = piece.part.is_last.then(|| replica.state.clone());
            let (state, part) = (state.as_ref(), Some(piece.part));
            let head = Head { slot, sequence, hard_state, state, reset: false, part };
            let (address, bytes) = self.push_record(place, &head, &piece.entries);
            self.push_piece(piece, address, bytes);
        }
        let written = self.commit_batch(BatchKind::Data, place)?;
        self.publish();
        self.carry_allowance_bytes = self.carry_allowance_bytes.saturating_sub(written);
        Ok(())
    }

    /// Notes where a piece goes.
    fn push_piece(&mut self, piece: Piece, address: Address, bytes: u64) {
        let key = piece.key;
        let first = piece.entries.first().map(|entry| entry.index);
        let mut carrying = self.carrying.take_if(|carrying| carrying.key == key).unwrap_or(Carrying {
            key,
            parts: 0,
            through: 0,
            records: Vec::new(),
        });
        carrying.parts += 1;
        carrying.through = piece.entries.last().map_or(carrying.through, |entry| entry.index);
        carrying.records.extend(first.map(|first| (first, address)));
        let effect = if piece.part.is_last {
            self.groups_carried += 1;
            Effect::Checkpoint(carrying.records)
        } else {
            self.carrying = Some(carrying);
            Effect::Part
        };
        self.push_update(Update { key, address, bytes, first, effect });
    }

    fn piece_bytes(&self, key: LogKey, entries: &[Entry]) -> usize {
        let state = self.replicas.get(&key).map_or(0, |replica| record::state_bytes_max(&replica.state));
        record::record_bytes_max(entries) + state
    }

    fn step_bytes(&self) -> usize {
        STEP_BYTES_MAX.min(self.options.batch_bytes_max / 2)
    }
}
