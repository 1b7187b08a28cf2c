// SPDX-License-Identifier: Apache-2.0

//! Recording: events in the order in which the recorder was told of them.
//!
//! An operation must be recorded *before* its first byte leaves and its outcome *after* its last byte arrived. Then an operation that
//! is recorded as returned before another one is invoked really ended before that one began, and all checkers hold.

use std::collections::BTreeMap;

use crate::operation::{Call, ClientId, KeyId, Operation, OperationId, Outcome, Seen};

/// What every key held when everything had come to rest; keys that are not there do not exist.
pub type FinalState = BTreeMap<KeyId, Seen>;

/// The operations of a run. Bounded by the run: one row per operation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    operations: Vec<Operation>,
    events: u64,
}

impl History {
    /// An operation begins.
    pub fn invoke(&mut self, client: ClientId, key: KeyId, call: Call) -> OperationId {
        let invoked = self.next_event();
        let (returned, outcome) = (Operation::NEVER, Outcome::Unknown);
        self.operations.push(Operation { client, key, call, invoked, returned, outcome });
        self.operations.len() - 1
    }

    /// An operation ended. One that is never told of ended with [`Outcome::Unknown`].
    ///
    /// # Panics
    /// If the operation is not of this history, or cannot have such an outcome: a checker would judge a history that never was.
    pub fn complete(&mut self, id: OperationId, outcome: Outcome) {
        let event = self.next_event();
        let operation = &mut self.operations[id];
        assert!(outcome.fits(operation.call), "{outcome:?} is no outcome of {:?}", operation.call);
        operation.outcome = outcome;
        if outcome != Outcome::Unknown {
            operation.returned = event;
        }
    }

    /// All operations in the order in which they began.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operations of each key, in the order in which they began.
    pub fn by_key(&self) -> BTreeMap<KeyId, Vec<Operation>> {
        let mut keys: BTreeMap<KeyId, Vec<Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(operation.key).or_default().push(*operation);
        }
        keys
    }

    /// Writes and deletes that were answered with success.
    pub fn acknowledged(&self) -> u64 {
        let is_acknowledged =
            |operation: &&Operation| matches!(operation.outcome, Outcome::Written(_) | Outcome::Deleted(_));
        self.operations.iter().filter(is_acknowledged).count() as u64
    }

    fn next_event(&mut self) -> u64 {
        self.events += 1;
        self.events
    }
}
