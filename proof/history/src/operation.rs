// SPDX-License-Identifier: Apache-2.0

//! One operation of one client: what it asked for, when, and what it learned.

use std::fmt;

/// Who asked. A client has one operation under way at a time; who wants more is several clients.
pub type ClientId = u32;
/// A key, by whatever number the run gave it.
pub type KeyId = u64;
/// A value, by its number; no number is written twice in a run.
pub type ValueId = u64;
/// The revision of a key: larger for every later change of it.
pub type Revision = u64;
/// Place of an operation in its history.
pub type OperationId = usize;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// The value of the key.
    Get,
    /// The key shall have this value.
    Put(ValueId),
    /// The key shall not exist.
    Delete,
    /// If the key has the expected value (`None`: does not exist), it shall have the new one.
    CompareAndSet {
        /// What it must be.
        expected: Option<ValueId>,
        /// What it shall be.
        value: ValueId,
    },
}

/// A value with its revision, as an answer showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The value.
    pub value: ValueId,
    /// Its revision.
    pub revision: Revision,
}

/// What the client learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A get was answered; `None`: the key does not exist.
    Read(Option<Seen>),
    /// A put or compare-and-set happened and gave the key this revision.
    Written(Revision),
    /// A delete happened; whether there was something to delete.
    Deleted(bool),
    /// A compare-and-set found something else than it expected, and changed nothing.
    ConditionFailed,
    /// It did not and will not happen.
    NotApplied,
    /// Nobody knows: it may have happened, may still happen, or never.
    Unknown,
}

/// An operation. `invoked` and `returned` are positions in the one order of all events of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: ClientId,
    /// About which key.
    pub key: KeyId,
    /// For what.
    pub call: Call,
    /// When it began.
    pub invoked: u64,
    /// When it was answered; [`Operation::NEVER`] while it is not, and for ever when its outcome is unknown.
    pub returned: u64,
    /// What was learned.
    pub outcome: Outcome,
}

impl Outcome {
    /// Whether such a call can end so.
    pub(crate) fn fits(self, call: Call) -> bool {
        match self {
            Outcome::Read(_) => call == Call::Get,
            Outcome::Written(_) => matches!(call, Call::Put(_) | Call::CompareAndSet { .. }),
            Outcome::Deleted(_) => call == Call::Delete,
            Outcome::ConditionFailed => matches!(call, Call::CompareAndSet { .. }),
            Outcome::NotApplied | Outcome::Unknown => true,
        }
    }
}

impl Operation {
    /// Later than every event.
    pub const NEVER: u64 = u64::MAX;

    /// The value that it writes if it happens.
    pub fn writes(&self) -> Option<ValueId> {
        match self.call {
            Call::Put(value) | Call::CompareAndSet { value, .. } => Some(value),
            Call::Get | Call::Delete => None,
        }
    }

    /// Whether it is known to have changed the key.
    pub fn is_acknowledged_change(&self) -> bool {
        matches!(self.outcome, Outcome::Written(_) | Outcome::Deleted(true))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} ", self.client)?;
        match self.call {
            Call::Get => write!(f, "get key {}", self.key)?,
            Call::Put(value) => write!(f, "put key {} = {value}", self.key)?,
            Call::Delete => write!(f, "delete key {}", self.key)?,
            Call::CompareAndSet { expected: Some(expected), value } => {
                write!(f, "compare-and-set key {} from {expected} to {value}", self.key)?;
            }
            Call::CompareAndSet { expected: None, value } => write!(f, "create key {} = {value}", self.key)?,
        }
        match self.outcome {
            Outcome::Read(Some(seen)) => write!(f, " -> {} at revision {}", seen.value, seen.revision)?,
            Outcome::Read(None) => f.write_str(" -> absent")?,
            Outcome::Written(revision) => write!(f, " -> revision {revision}")?,
            Outcome::Deleted(existed) => write!(f, " -> deleted {}", u8::from(existed))?,
            Outcome::ConditionFailed => f.write_str(" -> condition failed")?,
            Outcome::NotApplied => f.write_str(" -> not applied")?,
            Outcome::Unknown => f.write_str(" -> unknown")?,
        }
        match self.returned {
            Operation::NEVER => write!(f, " [from event {}]", self.invoked),
            returned => write!(f, " [events {} to {returned}]", self.invoked),
        }
    }
}
