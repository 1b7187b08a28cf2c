// SPDX-License-Identifier: Apache-2.0

//! Rule E3: an outcome is the truth. What was answered with "not applied", or with a condition that failed, is never seen; a change
//! and everyone who sees it agree about its revision; and what begins after an answer gets a larger revision than that answer had.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::broken::Broken;
use crate::operation::{KeyId, Operation, Outcome, Revision, Seen, ValueId};
use crate::recorder::{FinalState, History};

const PROMISE: &str = "outcomes are honest";

/// Compares what clients were told with what they saw.
pub fn check(history: &History, last: &FinalState) -> Result<(), Broken> {
    let mut revisions = Revisions::default();
    for operation in history.operations() {
        match (operation.outcome, operation.writes()) {
            (Outcome::NotApplied | Outcome::ConditionFailed, Some(value)) => {
                revisions.refused.insert((operation.key, value), *operation);
            }
            (Outcome::Written(revision), Some(value)) => {
                revisions.note(operation.key, Seen { value, revision })?;
            }
            _ => {}
        }
    }
    for operation in history.operations() {
        if let Outcome::Read(Some(seen)) = operation.outcome {
            revisions.see(operation.key, seen)?;
        }
    }
    for (key, seen) in last {
        revisions.see(*key, *seen)?;
    }
    history.by_key().values().try_for_each(|operations| only_grow(operations))
}

#[derive(Default)]
struct Revisions {
    refused: BTreeMap<(KeyId, ValueId), Operation>,
    of_value: BTreeMap<(KeyId, ValueId), Revision>,
    of_revision: BTreeMap<(KeyId, Revision), ValueId>,
}

impl Revisions {
    fn see(&mut self, key: KeyId, seen: Seen) -> Result<(), Broken> {
        if let Some(refused) = self.refused.get(&(key, seen.value)) {
            return broken(format!("it was seen at revision {}: {refused}", seen.revision));
        }
        self.note(key, seen)
    }

    fn note(&mut self, key: KeyId, Seen { value, revision }: Seen) -> Result<(), Broken> {
        match self.of_value.entry((key, value)) {
            Entry::Occupied(known) if *known.get() != revision => {
                return broken(format!(
                    "value {value} of key {key} has revision {} and revision {revision}",
                    known.get()
                ));
            }
            entry => entry.or_insert(revision),
        };
        match self.of_revision.entry((key, revision)) {
            Entry::Occupied(known) if *known.get() != value => {
                broken(format!("revision {revision} of key {key} is value {} and value {value}", known.get()))
            }
            entry => {
                entry.or_insert(value);
                Ok(())
            }
        }
    }
}

/// Answers in the order in which they came, against operations in the order in which they began: a write gets more than every revision
/// answered before it began, a read at least that.
fn only_grow(operations: &[Operation]) -> Result<(), Broken> {
    let revision_of = |operation: &Operation| match operation.outcome {
        Outcome::Written(revision) => Some(revision),
        Outcome::Read(Some(seen)) => Some(seen.revision),
        _ => None,
    };
    let mut answered: Vec<&Operation> =
        operations.iter().filter(|operation| revision_of(operation).is_some()).collect();
    answered.sort_by_key(|operation| operation.returned);
    let mut answered = answered.into_iter().peekable();
    let mut floor: Option<(Revision, &Operation)> = None;
    for operation in operations {
        while let Some(earlier) = answered.next_if(|earlier| earlier.returned < operation.invoked) {
            let revision = revision_of(earlier).unwrap_or(0);
            if floor.is_none_or(|(floor, _)| revision > floor) {
                floor = Some((revision, earlier));
            }
        }
        let (Some(revision), Some((floor, earlier))) = (revision_of(operation), floor) else { continue };
        let is_write = matches!(operation.outcome, Outcome::Written(_));
        if revision < floor || (is_write && revision == floor) {
            return broken(format!("{operation}, although it began after: {earlier}"));
        }
    }
    Ok(())
}

fn broken(how: String) -> Result<(), Broken> {
    Err(Broken { promise: PROMISE, how })
}
