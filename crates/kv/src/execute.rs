// SPDX-License-Identifier: Apache-2.0

//! What a command does, over whatever holds the state: the one place that both machines share, so that they cannot differ.

use mraft_engine::machine::MachineError;

use crate::command::{self, Answer, Operation, Outcome};
use mraft_types::planted;

/// The state that a command reads and changes. Keys are the users'.
pub(crate) trait State {
    /// The revision at which the key was last written; `None` when it does not exist.
    fn revision_of(&mut self, key: &[u8]) -> Result<Option<u64>, MachineError>;
    /// Writes a value.
    fn put(&mut self, key: &[u8], revision: u64, value: &[u8]) -> Result<(), MachineError>;
    /// Removes a key that exists.
    fn delete(&mut self, key: &[u8]) -> Result<(), MachineError>;
}

/// Does one command and appends its answer. `revision` is the group's and grows by one per mutation (rule E2). An error is the
/// store's, never the command's: the replica stops and what was half done is never committed.
pub(crate) fn execute(
    body: &[u8],
    revision: &mut u64,
    state: &mut impl State,
    answer: &mut Vec<u8>,
) -> Result<(), MachineError> {
    if let Some((key, value)) = command::decode_lone_put(body) {
        *revision += 1;
        state.put(key, *revision, value)?;
        command::encode_lone_put_answer(*revision, answer);
        return Ok(());
    }
    let outcome = match command::decode(body) {
        Ok(operations) => execute_operations(&operations, revision, state)?,
        Err(refusal) if planted!(EntryStops) => return Err(MachineError::Failed(refusal.to_string())),
        Err(refusal) => Answer::Refused(refusal),
    };
    outcome.encode(answer);
    Ok(())
}

fn execute_operations(
    operations: &[Operation<'_>],
    revision: &mut u64,
    state: &mut impl State,
) -> Result<Answer, MachineError> {
    for (position, operation) in operations.iter().enumerate() {
        let condition = operation.condition();
        if condition == command::Condition::None || planted!(LaterConditionIgnored) && position > 0 {
            continue;
        }
        let current = state.revision_of(operation.key())?;
        if !condition.holds(current) {
            let position = position as u32;
            return Ok(Answer::ConditionFailed { revision: *revision, position, current });
        }
    }
    let mut outcomes = Vec::with_capacity(operations.len());
    for operation in operations {
        outcomes.push(match operation {
            Operation::Put { key, value, .. } => {
                *revision += 1;
                state.put(key, *revision, value)?;
                Outcome::Put { revision: *revision }
            }
            Operation::Delete { key, .. } if state.revision_of(key)?.is_some() => {
                *revision += 1;
                state.delete(key)?;
                Outcome::Deleted { revision: *revision }
            }
            Operation::Delete { .. } if planted!(DeletesCount) => {
                *revision += 1;
                Outcome::NotFound
            }
            Operation::Delete { .. } => Outcome::NotFound,
            Operation::Check { .. } => Outcome::Checked,
        });
    }
    Ok(Answer::Applied { revision: *revision, outcomes })
}
