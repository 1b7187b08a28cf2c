// SPDX-License-Identifier: Apache-2.0

//! The dumb twin of the segment log: everything in maps, durable as soon as it is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mraft_types::codec::Reader;
use mraft_types::{CondemnedReason, Entry, EntryKind, HardState, Index, LogStart, Membership, Term};

use crate::record::{record_bytes_max, start_bytes_max};
use crate::replica::{check_write, mark_bytes_max};
use crate::{GroupWrite, LogError, LogKey, LogReader, LogStatus, LogStore, Mark, Recovered, Written};

/// A log in memory. Clones share it, so a test can drop one handle, as a crash does, and open the next.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    replicas: BTreeMap<LogKey, Replica>,
    batch_seq: u64,
}

#[derive(Clone, Debug)]
struct Replica {
    hard_state: HardState,
    added_start: LogStart,
    start: LogStart,
    entries: BTreeMap<Index, Entry>,
    install: Option<(LogStart, u64)>,
    condemned: Option<CondemnedReason>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> MemoryLog {
        MemoryLog::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replica {
    fn last_index(&self) -> Index {
        self.entries.last_key_value().map_or(self.start.position.index, |(index, _)| *index)
    }

    fn recovered(&self, key: LogKey) -> Recovered {
        Recovered {
            key,
            hard_state: self.hard_state,
            start: self.start.clone(),
            last_index: self.last_index(),
            terms: self.terms(),
            memberships: self.memberships(),
            install: self.install.clone(),
            condemned: self.condemned,
        }
    }

    fn terms(&self) -> Vec<(Index, Term)> {
        let mut terms = vec![(self.start.position.index, self.start.position.term)];
        for entry in self.entries.values() {
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        terms
    }

    fn memberships(&self) -> Vec<(Index, Membership)> {
        let memberships = self.entries.values().filter(|entry| entry.kind == EntryKind::Membership);
        memberships
            .filter_map(|entry| {
                Some((entry.index, Membership::decode(&mut Reader::new(&entry.payload)).ok()?))
            })
            .collect()
    }

    fn take(&mut self, write: &GroupWrite) {
        if let Some(first) = write.entries.first() {
            self.entries.split_off(&first.index);
            self.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
        }
        match &write.mark {
            None => {}
            Some(Mark::Truncate(start)) if start.position.index > self.start.position.index => {
                self.entries = self.entries.split_off(&(start.position.index + 1));
                self.start = start.clone();
            }
            Some(Mark::Truncate(_)) => {}
            Some(Mark::InstallBegin { start, directory }) => self.install = Some((start.clone(), *directory)),
            Some(Mark::InstallAbandoned) => self.install = None,
            Some(Mark::InstallDone(start)) => {
                self.install = None;
                self.entries.clear();
                self.start = start.clone();
            }
            Some(Mark::Condemned(reason)) => self.condemned = Some(*reason),
            Some(Mark::LossAccepted) => {
                self.install = None;
                self.condemned = None;
            }
        }
        self.hard_state = write.hard_state;
    }
}

impl LogStore for MemoryLog {
    fn recovered(&self) -> Vec<Recovered> {
        self.lock().replicas.iter().map(|(key, replica)| replica.recovered(*key)).collect()
    }

    fn head(&self, key: LogKey) -> Option<Recovered> {
        let head = |replica: &Replica| Recovered {
            terms: Vec::new(),
            memberships: Vec::new(),
            ..replica.recovered(key)
        };
        self.lock().replicas.get(&key).map(head)
    }

    fn add_replicas(&mut self, replicas: &[(LogKey, LogStart, HardState)]) -> Result<(), LogError> {
        let mut state = self.lock();
        let other = replicas.iter().find(|(key, start, _)| {
            state.replicas.get(key).is_some_and(|replica| replica.added_start != *start)
        });
        if let Some((key, ..)) = other {
            return Err(LogError::Misuse(format!("group {} is known with another start", key.group)));
        }
        for (key, start, hard_state) in replicas {
            state.replicas.entry(*key).or_insert_with(|| Replica {
                hard_state: *hard_state,
                added_start: start.clone(),
                start: start.clone(),
                entries: BTreeMap::new(),
                install: None,
                condemned: None,
            });
        }
        Ok(())
    }

    fn remove_replica(&mut self, key: LogKey) -> Result<(), LogError> {
        self.lock().replicas.remove(&key);
        Ok(())
    }

    fn write(&mut self, batch: &[GroupWrite]) -> Result<Written, LogError> {
        let mut state = self.lock();
        if batch.is_empty() {
            return Ok(Written { batch_seq: state.batch_seq, ..Written::default() });
        }
        let mut ranges: BTreeMap<LogKey, (Index, Index)> = BTreeMap::new();
        for write in batch {
            let unknown = || LogError::Misuse(format!("group {} is not known", write.key.group));
            let replica = state.replicas.get(&write.key).ok_or_else(unknown)?;
            let (start, last) =
                ranges.entry(write.key).or_insert((replica.start.position.index, replica.last_index()));
            check_write(write, start, last).map_err(LogError::Misuse)?;
        }
        for write in batch {
            if let Some(replica) = state.replicas.get_mut(&write.key) {
                replica.take(write);
            }
        }
        state.batch_seq += 1;
        Ok(Written { batch_seq: state.batch_seq, ..Written::default() })
    }

    fn weigh(&self, write: &GroupWrite) -> Option<usize> {
        let state = self.lock();
        let replica = state.replicas.get(&write.key)?;
        let mark =
            write.mark.as_ref().map_or(0, |mark| start_bytes_max(&replica.start) + mark_bytes_max(mark));
        Some(record_bytes_max(&write.entries) + mark)
    }

    fn maintain(&mut self) -> Result<bool, LogError> {
        Ok(false)
    }

    fn seal(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    fn durable_seq(&self) -> u64 {
        self.lock().batch_seq
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.clone())
    }

    fn status(&self) -> LogStatus {
        LogStatus::default()
    }
}

impl LogReader for MemoryLog {
    fn entries(
        &self,
        key: LogKey,
        first: Index,
        last: Index,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, LogError> {
        let state = self.lock();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first..=last {
            let found = state.replicas.get(&key).and_then(|replica| replica.entries.get(&index));
            let entry = found.ok_or(LogError::NotHere { index })?;
            bytes += entry.payload.len();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}
