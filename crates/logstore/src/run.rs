// SPDX-License-Identifier: Apache-2.0

//! Consecutive entries of one replica while recovery reads them: where they are, their terms as runs, their memberships.

use mraft_types::{Index, Membership, Term};

use crate::index::{Address, RecordIndex};

/// Consecutive entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// First and last index.
    range: Option<(Index, Index)>,
    terms: Vec<(Index, Term)>,
    memberships: Vec<(Index, Membership)>,
    pub(crate) index: RecordIndex,
}

impl Run {
    /// Index of the first entry.
    pub(crate) fn first(&self) -> Option<Index> {
        self.range.map(|(first, _)| first)
    }

    /// Index of the last entry.
    pub(crate) fn last(&self) -> Option<Index> {
        self.range.map(|(_, last)| last)
    }

    /// A record whose entries begin at `first` follows; what stands there and behind is void. Entries that do not join those before
    /// them make those void too: they cannot be what the replica held.
    pub(crate) fn begin_record(&mut self, first: Index, address: Address) {
        match self.range {
            Some((from, last)) if first > from && first <= last + 1 => {
                self.terms.retain(|(index, _)| *index < first);
                self.memberships.retain(|(index, _)| *index < first);
                self.range = Some((from, first - 1));
            }
            _ => *self = Run::default(),
        }
        self.index.push(first, address);
    }

    /// The next entry of the record.
    pub(crate) fn append(&mut self, index: Index, term: Term, membership: Option<Membership>) {
        self.range = Some((self.range.map_or(index, |(first, _)| first), index));
        if self.terms.last().is_none_or(|(_, last)| *last != term) {
            self.terms.push((index, term));
        }
        if let Some(membership) = membership {
            self.memberships.push((index, membership));
        }
    }

    /// Entries behind `last` do not count.
    pub(crate) fn cut_behind(&mut self, last: Index) {
        match self.range {
            Some((first, end)) if first <= last => {
                self.terms.retain(|(index, _)| *index <= last);
                self.memberships.retain(|(index, _)| *index <= last);
                self.index.truncate_from(last + 1);
                self.range = Some((first, end.min(last)));
            }
            _ => *self = Run::default(),
        }
    }

    /// Entries up to `start` are no longer needed.
    pub(crate) fn truncate_through(&mut self, start: Index) {
        let Some((first, last)) = self.range else { return };
        if first > start {
            return;
        }
        if last <= start {
            *self = Run::default();
            return;
        }
        let begins = start + 1;
        let term = self.terms.iter().rev().find(|(index, _)| *index <= begins).map(|(_, term)| *term);
        self.terms.retain(|(index, _)| *index > begins);
        if let Some(term) = term {
            self.terms.insert(0, (begins, term));
        }
        self.memberships.retain(|(index, _)| *index > start);
        self.index.truncate_through(start);
        self.range = Some((begins, last));
    }

    /// Whether every index behind `start` up to `last` is here.
    pub(crate) fn covers(&self, start: Index, last: Index) -> bool {
        match self.range {
            Some((first, end)) => first <= start + 1 && end >= last,
            None => last <= start,
        }
    }

    /// Terms as runs from the start's own on.
    pub(crate) fn terms_from(&self, start: (Index, Term)) -> Vec<(Index, Term)> {
        let mut terms = vec![start];
        for (index, term) in &self.terms {
            if terms.last().is_none_or(|(_, last)| last != term) {
                terms.push((*index, *term));
            }
        }
        terms
    }

    /// Memberships with their indexes.
    pub(crate) fn memberships(&self) -> &[(Index, Membership)] {
        &self.memberships
    }
}
