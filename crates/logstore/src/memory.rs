// SPDX-License-Identifier: Apache-2.0

//! The dumb twin of the segment log: everything in maps, durable as soon as it is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mraft_types::{Entry, EntryKind, HardState, Index, LogStart, Membership, Term, codec::Reader};

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
    start: LogStart,
    entries: BTreeMap<Index, Entry>,
    install: Option<(LogStart, u64)>,
    condemned: Option<mraft_types::CondemnedReason>,
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

    fn membership_at(&self, index: Index) -> Membership {
        self.memberships()
            .into_iter()
            .rev()
            .find(|(at, _)| *at <= index)
            .map_or(self.start.membership.clone(), |(_, found)| found)
    }

    fn memberships(&self) -> Vec<(Index, Membership)> {
        self.entries
            .values()
            .filter(|entry| entry.kind == EntryKind::Membership)
            .filter_map(|entry| {
                Some((entry.index, Membership::decode(&mut Reader::new(&entry.payload)).ok()?))
            })
            .collect()
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

    fn truncate(&mut self, start: &LogStart) {
        let index = start.position.index;
        if index <= self.start.position.index {
            return;
        }
        let membership = self.membership_at(index);
        self.entries = self.entries.split_off(&(index + 1));
        self.start = LogStart { position: start.position, membership };
    }
}

impl LogStore for MemoryLog {
    fn recovered(&self) -> Vec<Recovered> {
        let state = self.lock();
        let recovered = |(key, replica): (&LogKey, &Replica)| Recovered {
            key: *key,
            hard_state: replica.hard_state,
            start: replica.start.clone(),
            last_index: replica.last_index(),
            terms: replica.terms(),
            memberships: replica.memberships(),
            install: replica.install.clone(),
            condemned: replica.condemned,
        };
        state.replicas.iter().map(recovered).collect()
    }

    fn add_replicas(&mut self, replicas: &[(LogKey, LogStart, HardState)]) -> Result<(), LogError> {
        let mut state = self.lock();
        for (key, start, hard_state) in replicas {
            state.replicas.entry(*key).or_insert_with(|| Replica {
                hard_state: *hard_state,
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
        for write in batch {
            let replica = state
                .replicas
                .get_mut(&write.key)
                .ok_or_else(|| LogError::Misuse(format!("group {} is not known", write.key.group)))?;
            if let Some(first) = write.entries.first() {
                if first.index <= replica.start.position.index || first.index > replica.last_index() + 1 {
                    return Err(LogError::Misuse(format!("a gap before entry {}", first.index)));
                }
                replica.entries.split_off(&first.index);
                replica.entries.extend(write.entries.iter().map(|entry| (entry.index, entry.clone())));
            }
            match &write.mark {
                None => {}
                Some(Mark::Truncate(start)) => replica.truncate(start),
                Some(Mark::InstallBegin { start, directory }) => {
                    replica.install = Some((start.clone(), *directory))
                }
                Some(Mark::InstallDone(start)) => {
                    replica.install = None;
                    replica.entries.clear();
                    replica.start = start.clone();
                }
                Some(Mark::Condemned(reason)) => replica.condemned = Some(*reason),
            }
            replica.hard_state = write.hard_state;
        }
        state.batch_seq += 1;
        Ok(Written { batch_seq: state.batch_seq, ..Written::default() })
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
        let replica = state.replicas.get(&key).ok_or(LogError::NotHere { index: first })?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in first..=last {
            let entry = replica.entries.get(&index).ok_or(LogError::NotHere { index })?;
            bytes += entry.payload.len();
            if !entries.is_empty() && bytes > max_bytes {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }
}
