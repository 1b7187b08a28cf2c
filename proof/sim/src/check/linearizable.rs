// SPDX-License-Identifier: Apache-2.0

//! Linearizability of everything that clients do with a group: reads, puts, deletes, compare-and-set, batches and scans.
//!
//! A group's log is one order of all that happens in it, and every answer names its place there: a write the index of its entry, a read
//! the index that its answer is of. So linearizability is two things: each answer is what the model has at its place, and an operation that
//! began after another one was answered has no earlier place than that one.

use std::collections::BTreeMap;

use mraft_kv::query::{QueryAnswer, ScanEntry};
use mraft_types::{GroupId, Index};

use super::model::Model;
use super::{Broken, Checks};

/// See the module.
pub const PROMISE: &str = "per-key linearizability";

/// The latest place of an answered operation, per group.
#[derive(Clone, Debug, Default)]
pub struct Order(BTreeMap<GroupId, Index>);

impl Order {
    /// What an operation that begins now must not fall behind.
    pub fn floor(&self, group: GroupId) -> Index {
        self.0.get(&group).copied().unwrap_or(0)
    }

    /// What was above this index was given up (rule D9).
    pub fn give_up(&mut self, group: GroupId, from: Index) {
        let floor = self.0.entry(group).or_default();
        *floor = from.min(*floor);
    }

    fn answered(&mut self, group: GroupId, index: Index) {
        let floor = self.0.entry(group).or_default();
        *floor = index.max(*floor);
    }
}

/// What a read asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// One key.
    Key(Vec<u8>),
    /// All keys with a prefix, greater than `after`, at most `limit`.
    Scan {
        /// What they begin with.
        prefix: Vec<u8>,
        /// Where the page begins.
        after: Option<Vec<u8>>,
        /// Its length at most.
        limit: usize,
    },
}

impl Checks {
    /// A write was answered that began when the floor was this.
    pub fn wrote(&mut self, group: GroupId, floor: Index, index: Index) -> Result<(), Broken> {
        if index <= floor {
            let how = format!(
                "a write of group {group} is entry {index}, but {floor} was answered before it began"
            );
            return Err(Broken::new(PROMISE, how));
        }
        self.order.answered(group, index);
        Ok(())
    }

    /// A linearizable read was answered that began when the floor was this.
    pub fn read(
        &mut self,
        group: GroupId,
        question: &Question,
        floor: Index,
        answer: &QueryAnswer,
    ) -> Result<(), Broken> {
        let index = answers(self.model(group), question, answer)
            .map_err(|how| Broken::new(PROMISE, format!("group {group}: {how}")))?;
        if index < floor {
            let how = format!(
                "a read of group {group} is of entry {index}, but {floor} was answered before it began"
            );
            return Err(Broken::new(PROMISE, how));
        }
        self.order.answered(group, index);
        Ok(())
    }
}

/// The index that an answer is of, if it is what the model has there.
pub(super) fn answers(model: &Model, question: &Question, answer: &QueryAnswer) -> Result<Index, String> {
    match (question, answer) {
        (Question::Key(key), QueryAnswer::Get { group_revision, applied, found }) => {
            let expected = model.key_at(key, *applied);
            if expected != found {
                return Err(format!(
                    "{key:?} is {found:?} at entry {applied}, where {expected:?} is the truth"
                ));
            }
            is_revision(model, *applied, *group_revision)
        }
        (
            Question::Scan { prefix, after, limit },
            QueryAnswer::Scan { group_revision, applied, entries, next },
        ) => {
            let is_asked = |key: &[u8]| {
                key.starts_with(prefix) && after.as_ref().is_none_or(|after| key > after.as_slice())
            };
            let all = model.keys_at(*applied).filter(|(key, ..)| is_asked(key));
            let expected: Vec<ScanEntry> = all
                .map(|(key, revision, value)| ScanEntry {
                    key: key.to_vec(),
                    revision,
                    value: value.to_vec(),
                })
                .collect();
            let is_cut = entries.len() < expected.len();
            if entries.as_slice() != &expected[..entries.len().min(expected.len())]
                || is_cut && (entries.len() < *limit || next.is_none())
            {
                return Err(format!(
                    "a scan saw {entries:?} at entry {applied}, where {expected:?} is the truth"
                ));
            }
            is_revision(model, *applied, *group_revision)
        }
        _ => Err(format!("{answer:?} answers nothing that was asked")),
    }
}

fn is_revision(model: &Model, applied: Index, revision: u64) -> Result<Index, String> {
    match model.revision_at(applied) {
        expected if expected == revision => Ok(applied),
        expected => {
            Err(format!("at entry {applied} the revision is said to be {revision}, and is {expected}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Applied;
    use super::super::tests::{GROUP, node, put, put_at};
    use super::*;

    fn filled() -> Checks {
        let mut checks = Checks::default();
        for (index, key, value) in [(3, "a", "1"), (4, "b", "2"), (5, "a", "3")] {
            let applied = Applied { body: put(key, value), result: put_at(index - 2) };
            checks.applied_entry(GROUP, node(1), index, vec![applied]).expect("fine");
        }
        checks
    }

    fn get(applied: u64, found: Option<(u64, &str)>) -> QueryAnswer {
        let group_revision = applied.saturating_sub(2).min(3);
        QueryAnswer::Get { group_revision, applied, found: found.map(|(at, value)| (at, value.into())) }
    }

    #[test]
    fn a_read_that_is_behind_what_was_answered_or_sees_what_never_was_is_found() {
        let mut checks = filled();
        let a = Question::Key(b"a".to_vec());
        checks.read(GROUP, &a, 0, &get(4, Some((1, "1")))).expect("as it was then");
        assert!(checks.read(GROUP, &a, 0, &get(5, Some((1, "1")))).is_err(), "it was overwritten by then");
        assert!(checks.read(GROUP, &a, 0, &get(5, None)).is_err(), "it was there");
        assert!(checks.read(GROUP, &a, 5, &get(4, Some((1, "1")))).is_err(), "5 was answered before");
        checks.read(GROUP, &a, 4, &get(5, Some((3, "3")))).expect("fine");
        assert_eq!(checks.order.floor(GROUP), 5);
        assert!(checks.wrote(GROUP, 5, 5).is_err(), "it began behind that");
    }

    #[test]
    fn a_scan_that_misses_a_key_or_mixes_two_moments_is_found() {
        let mut checks = filled();
        let scan = Question::Scan { prefix: Vec::new(), after: None, limit: 10 };
        let entry =
            |key: &str, revision, value: &str| ScanEntry { key: key.into(), revision, value: value.into() };
        let answer = |entries: &[ScanEntry]| QueryAnswer::Scan {
            group_revision: 3,
            applied: 5,
            entries: entries.to_vec(),
            next: None,
        };
        checks.read(GROUP, &scan, 0, &answer(&[entry("a", 3, "3"), entry("b", 2, "2")])).expect("whole");
        assert!(checks.read(GROUP, &scan, 0, &answer(&[entry("a", 1, "1"), entry("b", 2, "2")])).is_err());
        assert!(checks.read(GROUP, &scan, 0, &answer(&[entry("a", 3, "3")])).is_err());
    }
}
