// SPDX-License-Identifier: Apache-2.0

//! What the core knows of its log: where it begins and ends, the term of every index, the memberships in it, and the entries
//! of its tail.
//!
//! Terms are kept as runs, one per leader that wrote here, so a log of a million entries costs a few words. Entries are kept
//! while something may still need them from memory; older ones are read back through [`crate::Effect::ReadLog`].

use std::collections::VecDeque;

use mraft_types::codec::Reader;
use mraft_types::planted;
use mraft_types::{Entry, EntryKind, Index, LogPosition, LogStart, Membership, Term};

/// The log, seen from the core.
///
/// Invariants (checked by [`LogView::check`]):
/// - start ≤ applied ≤ handed out ≤ commit ≤ last;
/// - the first run stands at the start with the start's term; runs ascend in index and strictly in term, none begins above last;
/// - cached entries are consecutive, end at last, and have the terms of the runs; byte counts are their sums;
/// - memberships ascend and lie behind the start, not above last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LogView {
    start: LogStart,
    runs: VecDeque<(Index, Term)>,
    last: Index,
    memberships: Vec<(Index, Membership)>,
    commit: Index,
    applied: Index,
    handed: Index,
    cached: VecDeque<Entry>,
    cached_bytes: usize,
    unapplied_bytes: usize,
}

impl LogView {
    /// A log whose entries are all durable and none in memory. The arguments fit together: `Raft::new` has checked them.
    pub(crate) fn new(
        start: LogStart,
        terms: &[(Index, Term)],
        last: Index,
        memberships: Vec<(Index, Membership)>,
    ) -> LogView {
        let mut runs = VecDeque::from([(start.position.index, start.position.term)]);
        for (first, term) in terms {
            if runs.back().is_none_or(|(_, before)| before != term) {
                runs.push_back((*first, *term));
            }
        }
        let at = start.position.index;
        LogView {
            start,
            runs,
            last,
            memberships,
            commit: at,
            applied: at,
            handed: at,
            cached: VecDeque::new(),
            cached_bytes: 0,
            unapplied_bytes: 0,
        }
    }

    /// What was known before the restart: everything up to `applied` is in the store, up to `commit` it is committed.
    pub(crate) fn restore_progress(&mut self, commit: Index, applied: Index) {
        self.commit = commit.clamp(self.commit, self.last);
        self.applied = applied.clamp(self.applied, self.commit);
        self.handed = self.applied;
    }

    pub(crate) fn start(&self) -> &LogStart {
        &self.start
    }

    pub(crate) fn start_index(&self) -> Index {
        self.start.position.index
    }

    pub(crate) fn last(&self) -> Index {
        self.last
    }

    pub(crate) fn commit(&self) -> Index {
        self.commit
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    pub(crate) fn last_position(&self) -> LogPosition {
        LogPosition { index: self.last, term: self.runs.back().map_or(0, |(_, term)| *term) }
    }

    /// The term of the entry at `index`, if the log has it or begins with it.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index < self.start_index() || index > self.last {
            return None;
        }
        let at = self.runs.partition_point(|(first, _)| *first <= index).checked_sub(1)?;
        self.runs.get(at).map(|(_, term)| *term)
    }

    /// Whether the entry at this position is in the log or the one that it begins behind.
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The largest position at or before `index` whose term is at most `term`: all of a run is skipped at once, so that two
    /// logs find where they part in as many steps as there were leaders.
    pub(crate) fn position_at_most(&self, index: Index, term: Term) -> Option<LogPosition> {
        let mut index = index.min(self.last);
        for (first, run) in self.runs.iter().rev() {
            if *first > index {
                continue;
            }
            if *run <= term {
                return Some(LogPosition { index, term: *run });
            }
            index = first.checked_sub(1)?;
        }
        None
    }

    /// Rule M2: the latest membership in the log, committed or not.
    pub(crate) fn membership(&self) -> &Membership {
        if planted!(MembershipWhenCommitted) {
            return self.committed_membership();
        }
        self.memberships.last().map_or(&self.start.membership, |(_, membership)| membership)
    }

    /// The latest membership at or before `index`.
    pub(crate) fn membership_at(&self, index: Index) -> &Membership {
        let before = self.memberships.partition_point(|(at, _)| *at <= index);
        before.checked_sub(1).map_or(&self.start.membership, |at| &self.memberships[at].1)
    }

    /// The latest membership that is known to be committed.
    pub(crate) fn committed_membership(&self) -> &Membership {
        self.membership_at(self.commit)
    }

    /// Memberships of entries in `after + 1 ..= up_to`, each with the one that it followed.
    pub(crate) fn memberships_between(
        &self,
        after: Index,
        up_to: Index,
    ) -> impl Iterator<Item = (&Membership, &Membership)> {
        self.memberships
            .iter()
            .filter(move |(at, _)| *at > after && *at <= up_to)
            .map(|(at, membership)| (self.membership_at(at - 1), membership))
    }

    /// The index of the change since which every membership has contained `id`; the start's index when the first one does.
    pub(crate) fn member_since(&self, id: mraft_types::ReplicaId) -> Index {
        let absent =
            self.memberships.iter().rposition(|(_, membership)| !membership.members.contains_key(&id));
        match absent {
            Some(at) => self.memberships.get(at + 1).map_or(self.last, |(index, _)| *index),
            None if self.start.membership.members.contains_key(&id) => self.start_index(),
            None => self.memberships.first().map_or(self.last, |(index, _)| *index),
        }
    }

    /// Appends one entry at the end.
    pub(crate) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.index, self.last + 1, "entries are consecutive");
        debug_assert!(entry.term >= self.last_position().term, "terms never fall");
        if self.last_position().term != entry.term {
            self.runs.push_back((entry.index, entry.term));
        }
        if let Some(membership) = membership_of(&entry) {
            self.memberships.push((entry.index, membership));
        }
        self.last = entry.index;
        self.cached_bytes += entry.cost_bytes();
        self.unapplied_bytes += entry.cost_bytes();
        self.cached.push_back(entry);
    }

    /// Forgets the entries from `first` on, which conflict with the leader's. What is committed never does: the caller checked.
    pub(crate) fn truncate_from(&mut self, first: Index) {
        debug_assert!(first > self.commit, "committed entries stay");
        while let Some(entry) = self.cached.pop_back_if(|entry| entry.index >= first) {
            self.cached_bytes -= entry.cost_bytes();
            self.unapplied_bytes -= entry.cost_bytes();
        }
        while self.runs.pop_back_if(|(at, _)| *at >= first).is_some() {}
        while self.memberships.pop_if(|(at, _)| *at >= first).is_some() {}
        self.last = self.last.min(first - 1);
    }

    /// Forgets the entries up to `index`, which the store has persisted, and answers the new start.
    pub(crate) fn compact(&mut self, index: Index) -> Option<LogStart> {
        let term = self.term_at(index).filter(|_| index <= self.applied)?;
        let start =
            LogStart { position: LogPosition { index, term }, membership: self.membership_at(index).clone() };
        while let Some(entry) = self.cached.pop_front_if(|entry| entry.index <= index) {
            self.cached_bytes -= entry.cost_bytes();
        }
        while self.runs.get(1).is_some_and(|(first, _)| *first <= index) {
            self.runs.pop_front();
        }
        if let Some(first) = self.runs.front_mut() {
            *first = (index, term);
        }
        self.memberships.retain(|(at, _)| *at > index);
        self.start = start.clone();
        Some(start)
    }

    /// Begins anew behind an installed snapshot.
    pub(crate) fn reset(&mut self, start: LogStart) {
        let index = start.position.index;
        *self = LogView::new(start, &[], index, Vec::new());
    }

    /// Raises the commit index; it never falls. Answers the former one.
    pub(crate) fn commit_to(&mut self, index: Index) -> Index {
        let before = self.commit;
        self.commit = index.min(self.last).max(before);
        before
    }

    /// Rule D6: hands out what is committed and durable and was not handed out before.
    pub(crate) fn hand_out(&mut self, durable: Index) -> Option<(Index, Index)> {
        let last = if planted!(UndurableApplied) { self.commit } else { self.commit.min(durable) };
        if last <= self.handed {
            return None;
        }
        let first = self.handed + 1;
        self.handed = last;
        Some((first, last))
    }

    /// The state machine got this far. It cannot be ahead of what it was handed.
    pub(crate) fn applied_to(&mut self, index: Index) {
        let index = index.min(self.handed);
        if index <= self.applied {
            return;
        }
        let from = self.cached_at(self.applied + 1);
        let to = self.cached_at(index + 1);
        let applied: usize = self.cached.range(from..to).map(Entry::cost_bytes).sum();
        self.unapplied_bytes -= applied;
        self.applied = index;
    }

    /// Entries `first..=last` from memory, cut short once `bytes_max` is exceeded but never empty. `None` when the first one is
    /// not in memory.
    pub(crate) fn entries(&self, first: Index, last: Index, bytes_max: usize) -> Option<Vec<Entry>> {
        if first > last || last > self.last || self.cached.front()?.index > first {
            return None;
        }
        let mut bytes = 0usize;
        let range = self.cached_at(first)..self.cached_at(last + 1);
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes = bytes.saturating_add(entry.cost_bytes());
            before == 0 || bytes <= bytes_max
        };
        Some(self.cached.range(range).take_while(fits).cloned().collect())
    }

    /// The first index in memory; behind the end when there is none.
    pub(crate) fn cached_first(&self) -> Index {
        self.cached.front().map_or(self.last + 1, |entry| entry.index)
    }

    /// Lets go of entries that are durable and applied while they weigh more than `cache_bytes_max`. When the state machine
    /// lags so far that this does not help, durable entries go too, and are read back from the log when their turn comes: a
    /// follower's memory is bounded although it cannot refuse what the leader sends.
    pub(crate) fn evict(&mut self, durable: Index, cache_bytes_max: usize, unapplied_bytes_max: usize) {
        while self.cached_bytes > cache_bytes_max && !planted!(EvictionSkipped) {
            let lagging = self.cached_bytes > cache_bytes_max.saturating_add(unapplied_bytes_max);
            let applied = self.applied;
            let evictable = |entry: &mut Entry| entry.index <= durable && (entry.index <= applied || lagging);
            let Some(entry) = self.cached.pop_front_if(evictable) else { break };
            self.cached_bytes -= entry.cost_bytes();
            if entry.index > applied {
                self.unapplied_bytes -= entry.cost_bytes();
            }
        }
        if self.cached.is_empty() && self.cached.capacity() > 0 {
            self.cached = VecDeque::new();
        }
    }

    /// Place in `cached` of the first entry at or above `index`.
    fn cached_at(&self, index: Index) -> usize {
        let offset = index.saturating_sub(self.cached_first());
        usize::try_from(offset).map_or(self.cached.len(), |offset| offset.min(self.cached.len()))
    }

    /// The invariants above, for tests and the simulator.
    pub(crate) fn check(&self) -> Result<(), String> {
        let order = [self.start_index(), self.applied, self.handed, self.commit, self.last];
        if !order.is_sorted() {
            return Err(format!("start, applied, handed, commit, last are out of order: {order:?}"));
        }
        let ascending = |(a, b): (&(Index, Term), &(Index, Term))| a.0 < b.0 && a.1 < b.1;
        if self.runs.front() != Some(&(self.start_index(), self.start.position.term))
            || !self.runs.iter().zip(self.runs.iter().skip(1)).all(ascending)
            || self.runs.back().is_none_or(|(first, _)| *first > self.last)
        {
            return Err(format!("runs {:?} do not fit {:?}..={}", self.runs, self.start, self.last));
        }
        let first = self.cached_first();
        if self.cached.iter().zip(first..).any(|(entry, index)| entry.index != index)
            || first + self.cached.len() as u64 != self.last + 1
            || self.cached.iter().any(|entry| self.term_at(entry.index) != Some(entry.term))
        {
            return Err(format!(
                "cached entries {:?} do not fit {:?} up to {}",
                self.cached, self.runs, self.last
            ));
        }
        let bytes: usize = self.cached.iter().map(Entry::cost_bytes).sum();
        let unapplied: usize =
            self.cached.iter().filter(|entry| entry.index > self.applied).map(Entry::cost_bytes).sum();
        if (bytes, unapplied) != (self.cached_bytes, self.unapplied_bytes) {
            return Err(format!("byte counts are wrong: {self:?}"));
        }
        let mut before = self.start_index();
        for (at, _) in &self.memberships {
            if *at <= before || *at > self.last {
                return Err(format!("membership at {at} is out of place"));
            }
            before = *at;
        }
        Ok(())
    }
}

/// The membership that an entry carries, if it is of that kind and legible, says its own index and has a voter.
pub(crate) fn membership_of(entry: &Entry) -> Option<Membership> {
    if entry.kind != EntryKind::Membership {
        return None;
    }
    let mut reader = Reader::new(&entry.payload);
    let membership = Membership::decode(&mut reader).ok()?;
    reader.finish().ok()?;
    let led = membership.members.values().any(|member| member.role == mraft_types::Role::Voter);
    (led && membership.change_index == entry.index).then_some(membership)
}

#[cfg(test)]
mod tests {
    use mraft_types::Payload;

    use super::*;

    fn log(terms: &[Term]) -> LogView {
        let start =
            LogStart { position: LogPosition { index: 1, term: 1 }, membership: Membership::default() };
        let mut log = LogView::new(start, &[], 1, Vec::new());
        for (term, index) in terms.iter().zip(2..) {
            let payload = Payload::from("0123456789");
            log.append(Entry { index, term: *term, kind: EntryKind::Commands, payload });
            log.check().expect("invariants");
        }
        log
    }

    #[test]
    fn terms_are_found_by_their_runs() {
        let log = log(&[1, 1, 3, 3, 7]);
        let terms: Vec<_> = (0..=7).map(|index| log.term_at(index)).collect();
        assert_eq!(terms, [None, Some(1), Some(1), Some(1), Some(3), Some(3), Some(7), None]);
    }

    #[test]
    fn the_place_where_logs_part_is_found_by_whole_runs() {
        let log = log(&[1, 1, 3, 3, 7]);
        let at = |index, term| log.position_at_most(index, term).map(|position| position.index);
        assert_eq!(at(6, 7), Some(6));
        assert_eq!(at(6, 6), Some(5));
        assert_eq!(at(6, 2), Some(3));
        assert_eq!(at(u64::MAX, u64::MAX), Some(6));
        assert_eq!(at(6, 0), None);
        assert_eq!(at(0, 7), None);
    }

    #[test]
    fn truncation_takes_entries_terms_and_bytes_together() {
        let mut log = log(&[1, 1, 3, 3, 7]);
        log.truncate_from(4);
        log.check().expect("invariants");
        assert_eq!(log.last_position(), LogPosition { index: 3, term: 1 });
        assert_eq!(log.cached_bytes(), 2 * 74);
    }

    #[test]
    fn only_what_is_durable_and_applied_is_evicted_unless_the_machine_lags() {
        let mut log = log(&[1, 1, 1, 1, 1]);
        log.commit_to(5);
        assert_eq!(log.hand_out(4), Some((2, 4)));
        assert_eq!(log.hand_out(4), None);
        log.applied_to(3);
        log.evict(4, 0, 1 << 20);
        log.check().expect("invariants");
        assert_eq!(log.cached_first(), 4);
        assert_eq!(log.entries(3, 5, 1000), None);
        assert_eq!(log.entries(4, 6, 100).map(|entries| entries.len()), Some(1));
        log.evict(5, 0, 0);
        assert_eq!(log.cached_first(), 6);
        log.applied_to(4);
        log.check().expect("invariants");
    }

    #[test]
    fn a_compacted_log_still_knows_the_term_that_it_begins_behind() {
        let mut log = log(&[1, 3, 3, 7]);
        log.commit_to(5);
        log.hand_out(5);
        log.applied_to(4);
        assert_eq!(log.compact(5), None, "not applied yet");
        let start = log.compact(4).expect("applied");
        log.check().expect("invariants");
        assert_eq!(start.position, LogPosition { index: 4, term: 3 });
        assert_eq!((log.term_at(3), log.term_at(4), log.term_at(5)), (None, Some(3), Some(7)));
    }

    /// What is wrong, and how to make it so.
    type Break = (&'static str, fn(&mut LogView));

    #[test]
    fn each_thing_that_does_not_fit_is_noticed() {
        let sound = || {
            let mut log = log(&[1, 3, 3, 7]);
            log.commit_to(5);
            log.hand_out(4);
            log.applied_to(3);
            log.memberships = vec![(2, Membership::default()), (5, Membership::default())];
            log.check().expect("invariants");
            log
        };
        let breaks: &[Break] = &[
            ("applied before the start", |log| log.applied = 0),
            ("handed out before applied", |log| log.handed = 2),
            ("committed before handed out", |log| log.commit = 3),
            ("committed behind the end", |log| log.commit = 6),
            ("no run at the start", |log| log.runs[0].0 = 0),
            ("another term at the start", |log| log.start.position.term = 0),
            ("runs out of order", |log| log.runs[2].0 = 3),
            ("terms of runs out of order", |log| log.runs[1].1 = 1),
            ("a run behind the end", |log| log.runs.push_back((6, 8))),
            ("no run", |log| log.runs.clear()),
            ("an entry twice", |log| log.cached[1].index = 2),
            ("an entry of another term", |log| log.cached[1].term = 1),
            ("an entry too few", |log| log.cached.truncate(3)),
            ("bytes counted twice", |log| log.cached_bytes += 1),
            ("bytes counted as applied", |log| log.unapplied_bytes -= 1),
            ("a membership at the start", |log| log.memberships[0].0 = 1),
            ("a membership behind the end", |log| log.memberships[1].0 = 6),
            ("memberships out of order", |log| log.memberships[0].0 = 5),
        ];
        for (what, breaks) in breaks {
            let mut log = sound();
            breaks(&mut log);
            assert!(log.check().is_err(), "{what} is not noticed");
        }
    }
}
