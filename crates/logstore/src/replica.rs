// SPDX-License-Identifier: Apache-2.0

//! One replica's log as the writer sees it: what a write does to it, and what it still needs of the segments.

use std::collections::BTreeMap;

use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::{Entry, HardState, Index, LogStart};

use crate::index::Address;
use crate::reader::SharedReplica;
use crate::record::{self, Head, Salt, State};
use crate::{GroupWrite, LogKey, Mark};

/// One replica's log as the writer sees it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) state: State,
    /// The last record with a state.
    pub(crate) state_address: Option<Address>,
    pub(crate) last_address: Option<Address>,
    /// The record of the first entry.
    pub(crate) first_live: Option<Address>,
    /// Bytes of the records of its entries, roughly.
    pub(crate) entry_bytes: u64,
    pub(crate) pinned_use: Option<u64>,
    /// Carrying it found bytes that are not what was written; it stays where it is.
    pub(crate) is_damaged: bool,
    pub(crate) scratch: Scratch,
}

/// What a batch in the making does to a replica.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) call: u64,
    pub(crate) start: Index,
    pub(crate) last: Index,
    /// Its row in the batch.
    pub(crate) row: usize,
    /// What the marks so far add to its state.
    pub(crate) mark_bytes: usize,
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

impl Replica {
    pub(crate) fn new(slot: u32, hard_state: HardState, state: State) -> Replica {
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
    pub(crate) fn encode(&mut self, buffer: &mut Vec<u8>, salt: Salt, write: &GroupWrite) -> Effect {
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
            Some(Mark::InstallAbandoned) => self.state.install = None,
            Some(Mark::Condemned(reason)) => self.state.condemned = Some(*reason),
            Some(Mark::LossAccepted) => {
                self.state.install = None;
                self.state.condemned = None;
            }
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

    pub(crate) fn apply(&mut self, update: &Update, own: &mut SharedReplica) {
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
    pub(crate) fn pin(&self) -> Option<Address> {
        [self.first_live, self.state_address, self.last_address].into_iter().flatten().min()
    }
}

pub(crate) fn first_live(own: &SharedReplica) -> Option<Address> {
    own.index.find(own.start + 1).map(|(_, address, _)| address)
}

pub(crate) fn move_pin(pins: &mut BTreeMap<u64, u32>, pinned: &mut Option<u64>, to: Option<u64>) {
    if *pinned == to {
        return;
    }
    if let Some(from) = *pinned
        && let Some(count) = pins.get_mut(&from)
    {
        *count -= 1;
        if *count == 0 {
            pins.remove(&from);
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
        let too_long = |entry: &&Entry| entry.payload.len() > ENTRY_BYTES_MAX;
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
        Some(
            Mark::InstallBegin { .. } | Mark::InstallAbandoned | Mark::Condemned(_) | Mark::LossAccepted,
        )
        | None => {}
    }
    Ok(())
}

/// What a mark can add to a replica's state.
pub(crate) fn mark_bytes_max(mark: &Mark) -> usize {
    match mark {
        Mark::Truncate(start) | Mark::InstallDone(start) | Mark::InstallBegin { start, .. } => {
            record::start_bytes_max(start) + 8
        }
        Mark::InstallAbandoned | Mark::Condemned(_) | Mark::LossAccepted => 0,
    }
}
