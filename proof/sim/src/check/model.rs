// SPDX-License-Identifier: Apache-2.0

//! What a group's log makes of its keys, carried out by the dumbest code that can.
//!
//! The first replica that applies an entry says which commands were in it; from there on the model knows what they must have done, and
//! every other replica must have applied the same ([`super::state_machines`]). Nothing is forgotten: the model knows every key at every
//! index.

use std::collections::BTreeMap;

use mraft_kv::command::{Answer, Operation, Outcome, decode};
use mraft_types::Index;

/// A key's state: revision and value, or absent.
pub type Stored = Option<(u64, Vec<u8>)>;

/// One group.
#[derive(Clone, Debug, Default)]
pub struct Model {
    entries: BTreeMap<Index, Vec<Applied>>,
    keys: BTreeMap<Vec<u8>, Vec<(Index, Stored)>>,
    /// The group's revision behind each entry.
    revisions: BTreeMap<Index, u64>,
    revision: u64,
    last: Index,
    /// Where each command stands; commands are unique in a run.
    places: BTreeMap<Vec<u8>, Index>,
}

/// A command with what it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The command.
    pub body: Vec<u8>,
    /// What the state machine answered.
    pub result: Vec<u8>,
}

impl Model {
    /// The last index of which it knows commands.
    pub fn last(&self) -> Index {
        self.last
    }

    /// The commands of an entry; `None` for one that has none, or that nobody has applied.
    pub fn entry(&self, index: Index) -> Option<&[Applied]> {
        self.entries.get(&index).map(Vec::as_slice)
    }

    /// The entry that a command is in.
    pub fn place(&self, body: &[u8]) -> Option<Index> {
        self.places.get(body).copied()
    }

    /// The group's revision behind this index.
    pub fn revision_at(&self, index: Index) -> u64 {
        self.revisions.range(..=index).next_back().map_or(0, |(_, revision)| *revision)
    }

    /// A key behind this index.
    pub fn key_at(&self, key: &[u8], index: Index) -> &Stored {
        let Some(versions) = self.keys.get(key) else { return &None };
        let until = versions.partition_point(|(at, _)| *at <= index);
        until.checked_sub(1).map_or(&None, |at| &versions[at].1)
    }

    /// All keys that exist behind this index, in order.
    pub fn keys_at(&self, index: Index) -> impl Iterator<Item = (&[u8], u64, &[u8])> {
        self.keys.keys().filter_map(move |key| {
            let (revision, value) = self.key_at(key, index).as_ref()?;
            Some((key.as_slice(), *revision, value.as_slice()))
        })
    }

    /// Takes an entry over that nobody had applied before, and says what must have become of its commands; the error is one that names
    /// a command which was applied before.
    pub fn append(&mut self, index: Index, commands: Vec<Applied>) -> Result<Vec<Vec<u8>>, String> {
        let mut expected = Vec::with_capacity(commands.len());
        for command in &commands {
            if let Some(before) = self.places.insert(command.body.clone(), index) {
                return Err(format!(
                    "a command of entry {before} was applied again as part of entry {index}"
                ));
            }
            let mut answer = Vec::new();
            self.execute(index, &command.body).encode(&mut answer);
            expected.push(answer);
        }
        self.entries.insert(index, commands);
        self.revisions.insert(index, self.revision);
        self.last = index;
        Ok(expected)
    }

    /// What was above this index never was.
    pub fn give_up(&mut self, from: Index) {
        self.revision = self.revision_at(from);
        self.last = self.last.min(from);
        self.entries.retain(|index, _| *index <= from);
        self.revisions.retain(|index, _| *index <= from);
        self.places.retain(|_, index| *index <= from);
        for versions in self.keys.values_mut() {
            versions.retain(|(index, _)| *index <= from);
        }
    }

    fn execute(&mut self, index: Index, body: &[u8]) -> Answer {
        let operations = match decode(body) {
            Ok(operations) => operations,
            Err(refusal) => return Answer::Refused(refusal),
        };
        for (position, operation) in operations.iter().enumerate() {
            let current = self.current(operation.key());
            if !operation.condition().holds(current) {
                return Answer::ConditionFailed {
                    revision: self.revision,
                    position: position as u32,
                    current,
                };
            }
        }
        let outcomes = operations.iter().map(|operation| self.change(index, operation)).collect();
        Answer::Applied { revision: self.revision, outcomes }
    }

    fn change(&mut self, index: Index, operation: &Operation<'_>) -> Outcome {
        let stored = match operation {
            Operation::Check { .. } => return Outcome::Checked,
            Operation::Delete { key, .. } if self.current(key).is_none() => return Outcome::NotFound,
            Operation::Delete { .. } => None,
            Operation::Put { value, .. } => Some((self.revision + 1, value.to_vec())),
        };
        self.revision += 1;
        let outcome = match stored {
            Some(_) => Outcome::Put { revision: self.revision },
            None => Outcome::Deleted { revision: self.revision },
        };
        let versions = self.keys.entry(operation.key().to_vec()).or_default();
        versions.pop_if(|(at, _)| *at == index);
        versions.push((index, stored));
        outcome
    }

    fn current(&self, key: &[u8]) -> Option<u64> {
        let (_, stored) = self.keys.get(key)?.last()?;
        stored.as_ref().map(|(revision, _)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{delete, put, put_at};
    use super::*;

    #[test]
    fn every_key_is_known_at_every_index() {
        let mut model = Model::default();
        let applied = |body| Applied { body, result: Vec::new() };
        let expected = model.append(3, vec![applied(put("a", "1")), applied(put("b", "2"))]).expect("new");
        assert_eq!(expected, [put_at(1), put_at(2)]);
        model.append(5, vec![applied(delete("a"))]).expect("new");
        model.append(6, vec![applied(put("a", "3"))]).expect("new");
        assert_eq!(model.key_at(b"a", 2), &None);
        assert_eq!(model.key_at(b"a", 4), &Some((1, b"1".to_vec())));
        assert_eq!(model.key_at(b"a", 5), &None);
        assert_eq!(model.key_at(b"a", 9), &Some((4, b"3".to_vec())));
        assert_eq!([2, 3, 4, 5, 6].map(|index| model.revision_at(index)), [0, 2, 2, 3, 4]);
        assert_eq!(model.keys_at(5).map(|(key, ..)| key).collect::<Vec<_>>(), [b"b"]);
        assert!(model.append(7, vec![applied(put("a", "1"))]).is_err(), "a command is applied once");
        model.give_up(4);
        assert_eq!((model.last(), model.revision_at(9)), (4, 2));
        assert_eq!(model.key_at(b"a", 9), &Some((1, b"1".to_vec())));
        assert_eq!(model.append(5, vec![applied(put("a", "3"))]), Ok(vec![put_at(3)]), "it never was");
    }
}
