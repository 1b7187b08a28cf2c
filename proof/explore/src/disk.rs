// SPDX-License-Identifier: Apache-2.0

//! What survives a power cut, and how a replica comes back from it.
//!
//! A disk here does what the log and the store of a node promise their users: writes become durable in order, a crash keeps any prefix
//! of those that were not reported yet, the store has persisted some state at or below what it applied. The steps of an installation
//! (rule N1) and how a restart ends one that a crash cut are those of `host::core` and `host::restore`.

use std::sync::Arc;

use mraft_raft::{ReadBack, Restored, Write};
use mraft_types::codec::Reader;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, ReplicaId, Term,
};

use crate::broken::{Broken, Promise};

/// The state machine: everything that was ever applied, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// The last entry applied.
    pub applied: LogPosition,
    /// The membership there.
    pub membership: Membership,
    /// Entries from index 2 on; what stands at 1 is the genesis.
    pub entries: Vec<Entry>,
}

/// A state machine that travels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Snapshot {
    /// What it covers.
    pub start: LogStart,
    /// Its content.
    pub machine: Arc<Machine>,
}

/// One order to the log, carried out in sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    /// What the core asked for.
    Write(Write),
    /// An installation begins; the mark carries the hard state as last written.
    Begin(Arc<Snapshot>, HardState),
    /// The store has switched: the log begins anew behind the snapshot.
    Done(Arc<Snapshot>, HardState),
}

/// An installation that the log knows of and that is not done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Installation {
    snapshot: Arc<Snapshot>,
    has_switched: bool,
}

/// What is durable of one replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Disk {
    hard_state: HardState,
    start: LogStart,
    entries: Vec<Entry>,
    condemned: Option<CondemnedReason>,
    machine: Arc<Machine>,
    installation: Option<Installation>,
}

impl Disk {
    /// Of an original member: behind the genesis, which is applied.
    pub fn founded(genesis: &LogStart) -> Disk {
        let LogPosition { term, index } = genesis.position;
        let machine = Machine {
            applied: genesis.position,
            membership: genesis.membership.clone(),
            entries: Vec::new(),
        };
        Disk {
            hard_state: HardState { term, vote: None, commit: index },
            start: genesis.clone(),
            entries: Vec::new(),
            condemned: None,
            machine: Arc::new(machine),
            installation: None,
        }
    }

    /// Of a replica that waits for its first snapshot (rule M4).
    pub fn empty() -> Disk {
        Disk {
            hard_state: HardState::default(),
            start: LogStart::default(),
            entries: Vec::new(),
            condemned: None,
            machine: Arc::default(),
            installation: None,
        }
    }

    /// Of an original member that lost its log behind the genesis, and knows it (rule D9).
    pub fn condemned(genesis: &LogStart, term: Term) -> Disk {
        let mut disk = Disk::founded(genesis);
        disk.hard_state.term = term;
        disk.condemned = Some(CondemnedReason::LogLost);
        disk
    }

    /// Last index of the log.
    pub fn last(&self) -> Index {
        self.start.position.index + self.entries.len() as u64
    }

    /// The durable term and vote.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// What the store has persisted.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// The entry at `index`, from the log or, below its start, from what the store was made of.
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        match index.checked_sub(self.start.position.index + 1) {
            Some(at) => self.entries.get(usize::try_from(at).ok()?),
            None => self.machine.entries.get(usize::try_from(index.checked_sub(2)?).ok()?),
        }
    }

    /// The entry at `index`, only if it is in the log.
    pub fn logged(&self, index: Index) -> Option<&Entry> {
        self.entry(index).filter(|_| index > self.start.position.index)
    }

    /// Makes one order durable.
    pub fn carry_out(&mut self, job: &Job) -> Result<(), Broken> {
        match job {
            Job::Write(write) => self.write(write),
            Job::Begin(snapshot, hard_state) => {
                self.keep(*hard_state)?;
                self.installation =
                    Some(Installation { snapshot: Arc::clone(snapshot), has_switched: false });
                Ok(())
            }
            Job::Done(snapshot, hard_state) => {
                self.keep(*hard_state)?;
                self.begin_behind(snapshot);
                self.installation = None;
                Ok(())
            }
        }
    }

    /// The store turns to what the installation brought.
    pub fn switch(&mut self) {
        if let Some(installation) = &mut self.installation {
            installation.has_switched = true;
            self.machine = Arc::clone(&installation.snapshot.machine);
        }
    }

    /// The store persists what it has applied.
    pub fn persist_machine(&mut self, machine: &Arc<Machine>) {
        self.machine = Arc::clone(machine);
    }

    /// The store persists all that it can: what was applied, or the installation that was ordered. Whether there was anything.
    pub fn catch_up(&mut self, machine: &Arc<Machine>) -> bool {
        let is_ahead = machine.applied.index > self.machine.applied.index;
        let switches = self.installation.as_ref().is_some_and(|installation| !installation.has_switched);
        if switches {
            self.switch();
        } else if is_ahead {
            self.machine = Arc::clone(machine);
        }
        switches || is_ahead
    }

    /// Where the log begins.
    pub fn start(&self) -> &LogStart {
        &self.start
    }

    /// The latest membership in the log.
    pub fn membership(&self) -> Membership {
        let latest = self.entries.iter().rev().find_map(membership_of);
        latest.unwrap_or_else(|| self.start.membership.clone())
    }

    fn write(&mut self, write: &Write) -> Result<(), Broken> {
        let wrong =
            |what: &str| Err(Broken::new(Promise::DurableBeforeAcknowledged, format!("{what}: {write:?}")));
        if let Some(first) = write.entries.first() {
            let Some(kept) = first.index.checked_sub(self.start.position.index + 1) else {
                return wrong("a write goes below the start of the log");
            };
            if first.index > self.last() + 1 {
                return wrong("a write leaves a gap");
            }
            self.entries.truncate(kept as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(start) = &write.truncate {
            let Some(gone) = start.position.index.checked_sub(self.start.position.index) else {
                return wrong("the log's start goes back");
            };
            if start.position.index > self.machine.applied.index {
                return wrong("the log is truncated above what the store has persisted (rule D11)");
            }
            self.entries.drain(..(gone as usize).min(self.entries.len()));
            self.start = start.clone();
        }
        self.keep(write.hard_state)?;
        self.condemned = write.condemned.or(self.condemned);
        if write.hard_state.commit > self.last() {
            return wrong("committed beyond the log");
        }
        Ok(())
    }

    /// A hard state only ever grows, and in one term a vote stays.
    fn keep(&mut self, next: HardState) -> Result<(), Broken> {
        let before = self.hard_state;
        let changes_vote = next.term == before.term && before.vote.is_some() && next.vote != before.vote;
        if next.term < before.term || next.commit < before.commit || changes_vote {
            let text = format!("the hard state {before:?} is replaced by {next:?}");
            let promise =
                if changes_vote { Promise::OneVotePerTerm } else { Promise::DurableBeforeAcknowledged };
            return Err(Broken::new(promise, text));
        }
        self.hard_state = next;
        Ok(())
    }

    fn begin_behind(&mut self, snapshot: &Snapshot) {
        self.start = snapshot.start.clone();
        self.entries.clear();
    }

    /// Entries as a log reads them back.
    pub fn read(&self, first: Index, last: Index, bytes_max: usize) -> ReadBack {
        let Some(skipped) = first.checked_sub(self.start.position.index + 1) else { return ReadBack::Gone };
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry.cost_bytes();
            before == 0 || bytes <= bytes_max
        };
        let wanted = self.entries.iter().skip(skipped as usize).take_while(|entry| entry.index <= last);
        ReadBack::Entries(wanted.take_while(fits).cloned().collect())
    }

    /// What a restart finds, after it has ended an installation that a crash cut (rule N1, recovery).
    pub fn restore(&mut self) -> Restored {
        if let Some(Installation { snapshot, has_switched }) = self.installation.take() {
            let position = snapshot.start.position;
            if has_switched && self.machine.applied == position && !self.went_on(position) {
                self.begin_behind(&snapshot);
            }
        }
        let mut terms = vec![(self.start.position.index, self.start.position.term)];
        let mut memberships = Vec::new();
        for entry in &self.entries {
            if terms.last().map(|(_, term)| *term) != Some(entry.term) {
                terms.push((entry.index, entry.term));
            }
            if let Some(membership) = membership_of(entry) {
                memberships.push((entry.index, membership));
            }
        }
        Restored {
            hard_state: self.hard_state,
            start: self.start.clone(),
            last_index: self.last(),
            terms,
            memberships,
            applied: self.machine.applied,
            condemned: self.condemned,
        }
    }

    fn went_on(&self, snapshot: LogPosition) -> bool {
        let holds = self.logged(snapshot.index).is_some_and(|entry| entry.term == snapshot.term);
        holds || self.start.position.index >= snapshot.index || self.hard_state.commit > snapshot.index
    }

    /// The durable vote in `term`.
    pub fn vote_in(&self, term: Term) -> Option<ReplicaId> {
        self.hard_state.vote.filter(|_| self.hard_state.term == term)
    }
}

/// The membership that an entry carries.
pub fn membership_of(entry: &Entry) -> Option<Membership> {
    match entry.kind {
        EntryKind::Membership => Membership::decode(&mut Reader::new(&entry.payload)).ok(),
        EntryKind::Empty | EntryKind::Commands => None,
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::Payload;

    use super::*;
    use crate::world::tests::members;

    fn disk() -> Disk {
        let membership = Membership { change_index: 1, members: members(&[1, 2]), ..Membership::default() };
        Disk::founded(&LogStart { position: LogPosition { index: 1, term: 1 }, membership })
    }

    fn write(term: Term, vote: Option<u64>, commit: Index, indices: std::ops::RangeInclusive<Index>) -> Job {
        let entry = |index| Entry { index, term, kind: EntryKind::Empty, payload: Payload::new() };
        let vote = vote.and_then(|node| members(&[node]).into_keys().next());
        Job::Write(Write {
            number: 1,
            hard_state: HardState { term, vote, commit },
            entries: indices.map(entry).collect(),
            truncate: None,
            condemned: None,
        })
    }

    fn broken(jobs: &[Job]) -> Option<Promise> {
        let mut disk = disk();
        jobs.iter().find_map(|job| disk.carry_out(job).err()).map(|broken| broken.promise)
    }

    #[test]
    fn what_is_written_never_goes_back() {
        assert_eq!(broken(&[write(2, Some(1), 1, 2..=3), write(3, None, 3, 3..=4)]), None);
        let falls = Some(Promise::DurableBeforeAcknowledged);
        assert_eq!(broken(&[write(3, None, 1, 2..=3), write(2, None, 1, 4..=4)]), falls, "the term");
        assert_eq!(broken(&[write(2, None, 3, 2..=3), write(2, None, 2, 4..=4)]), falls, "the commit index");
        assert_eq!(broken(&[write(2, None, 1, 3..=3)]), falls, "a gap");
        assert_eq!(broken(&[write(2, None, 3, 2..=2)]), falls, "committed beyond the log");
        let second_vote = [write(2, Some(1), 1, 2..=2), write(2, Some(2), 1, 3..=3)];
        assert_eq!(broken(&second_vote), Some(Promise::OneVotePerTerm));
    }

    #[test]
    fn d11_a_log_is_truncated_below_what_the_store_has() {
        let mut disk = disk();
        disk.carry_out(&write(2, None, 3, 2..=3)).expect("a first write");
        let Job::Write(mut write) = write(2, None, 3, 4..=4) else { return };
        write.entries.clear();
        let position = LogPosition { index: 3, term: 2 };
        write.truncate = Some(LogStart { position, membership: Membership::default() });
        assert!(disk.carry_out(&Job::Write(write.clone())).is_err());
        let machine = Machine { applied: position, ..Machine::default() };
        disk.persist_machine(&Arc::new(machine));
        assert_eq!(disk.carry_out(&Job::Write(write)), Ok(()));
        assert_eq!(disk.restore().start.position, position);
    }

    #[test]
    fn n1_a_restart_finishes_an_installation_that_has_switched_and_forgets_one_that_has_not() {
        for switches in [false, true] {
            let mut disk = disk();
            let position = LogPosition { index: 5, term: 2 };
            let start = LogStart { position, membership: Membership::default() };
            let machine = Arc::new(Machine { applied: position, ..Machine::default() });
            let hard_state = disk.hard_state();
            disk.carry_out(&Job::Begin(Arc::new(Snapshot { start, machine }), hard_state)).expect("a mark");
            if switches {
                disk.switch();
            }
            let restored = disk.restore();
            assert_eq!(restored.start.position.index, if switches { 5 } else { 1 });
            assert_eq!(restored.applied.index, if switches { 5 } else { 1 });
        }
    }
}
