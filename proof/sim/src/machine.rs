// SPDX-License-Identifier: Apache-2.0

//! The state machine of the simulated groups: a map with a revision per write, small enough to be obviously right.

use std::collections::BTreeMap;

use mraft::machines::{Command, InMemoryMachine};
use mraft_types::codec::{DecodeError, Reader, Writer};

/// A write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key to a value that no other operation of the run writes.
    Put {
        /// The key.
        key: u64,
        /// The value.
        value: u64,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: u64,
    },
    /// Sets a key if its revision is still this one (0: absent).
    CompareAndSet {
        /// The key.
        key: u64,
        /// The revision.
        revision: u64,
        /// The value.
        value: u64,
    },
}

/// What is stored, and what a read answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Revision of the key's last change; 0 when it never changed.
    pub revision: u64,
    /// The value; `None` when it is absent.
    pub value: Option<u64>,
}

/// A map from numbers to numbers.
#[derive(Debug, Default)]
pub struct Map {
    revision: u64,
    entries: BTreeMap<u64, Stored>,
}

impl Op {
    /// The key.
    pub fn key(&self) -> u64 {
        match *self {
            Op::Put { key, .. } | Op::Delete { key } | Op::CompareAndSet { key, .. } => key,
        }
    }

    /// The command's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, key, revision, value) = match *self {
            Op::Put { key, value } => (0, key, 0, value),
            Op::Delete { key } => (1, key, 0, 0),
            Op::CompareAndSet { key, revision, value } => (2, key, revision, value),
        };
        let mut out = Vec::new();
        out.put_u8(kind);
        for number in [key, revision, value] {
            out.put_u64(number);
        }
        out
    }

    fn decode(bytes: &[u8]) -> Result<Op, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8("op.kind")?;
        let (key, revision, value) =
            (reader.u64("op.key")?, reader.u64("op.revision")?, reader.u64("op.value")?);
        match kind {
            0 => Ok(Op::Put { key, value }),
            1 => Ok(Op::Delete { key }),
            2 => Ok(Op::CompareAndSet { key, revision, value }),
            other => Err(DecodeError::Unknown("op.kind", u64::from(other))),
        }
    }
}

/// What a write answers: the revision that it gave the key, or the one that it found when it changed nothing.
pub fn decode_answer(answer: &[u8]) -> Option<(bool, u64)> {
    let mut reader = Reader::new(answer);
    Some((reader.u8("changed").ok()? == 1, reader.u64("revision").ok()?))
}

/// What a query answers.
pub fn decode_stored(answer: &[u8]) -> Option<Stored> {
    let mut reader = Reader::new(answer);
    let (revision, present, value) =
        (reader.u64("revision").ok()?, reader.u8("present").ok()?, reader.u64("value").ok()?);
    Some(Stored { revision, value: (present == 1).then_some(value) })
}

impl InMemoryMachine for Map {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        let Ok(op) = Op::decode(command.body) else { return };
        let before = self.entries.get(&op.key()).copied().unwrap_or_default();
        let value = match op {
            Op::Put { value, .. } => Some(Some(value)),
            Op::Delete { .. } => before.value.map(|_| None),
            Op::CompareAndSet { revision, value, .. } => {
                let found = if before.value.is_some() { before.revision } else { 0 };
                (found == revision).then_some(Some(value))
            }
        };
        let revision = match value {
            Some(value) => {
                self.revision += 1;
                self.entries.insert(op.key(), Stored { revision: self.revision, value });
                self.revision
            }
            None => before.revision,
        };
        answer.put_u8(u8::from(value.is_some()));
        answer.put_u64(revision);
    }

    fn query(&self, query: &[u8], answer: &mut Vec<u8>) {
        let Ok(key) = Reader::new(query).u64("key") else { return };
        let stored = self.entries.get(&key).copied().unwrap_or_default();
        answer.put_u64(stored.revision);
        answer.put_u8(u8::from(stored.value.is_some()));
        answer.put_u64(stored.value.unwrap_or(0));
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.put_u64(self.revision);
        for (key, stored) in &self.entries {
            state.put_u64(*key);
            state.put_u64(stored.revision);
            state.put_u8(u8::from(stored.value.is_some()));
            state.put_u64(stored.value.unwrap_or(0));
        }
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        let mut reader = Reader::new(state);
        let mut read = || -> Result<Map, DecodeError> {
            let mut map = Map { revision: reader.u64("revision")?, entries: BTreeMap::new() };
            while reader.remaining() > 0 {
                let key = reader.u64("key")?;
                let (revision, present, value) =
                    (reader.u64("revision")?, reader.u8("present")?, reader.u64("value")?);
                map.entries.insert(key, Stored { revision, value: (present == 1).then_some(value) });
            }
            Ok(map)
        };
        *self = read().map_err(|error| error.to_string())?;
        Ok(())
    }
}
