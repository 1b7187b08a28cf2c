// SPDX-License-Identifier: Apache-2.0

//! Promise P1: what was acknowledged is there in the end, unless somebody changed it later.
//!
//! A change is *surely older* than another one when it had returned before the other began. The last state of a key must come from a
//! change that is not surely older than an acknowledged one. A change with an unknown outcome may have happened at any time after it
//! began, so it may always be the last.

use crate::broken::Broken;
use crate::operation::{Call, Operation, Outcome, Revision};
use crate::recorder::{FinalState, History};

const PROMISE: &str = "acknowledged writes survive";

/// Compares the history with what is there in the end.
pub fn check(history: &History, last: &FinalState) -> Result<(), Broken> {
    for (key, operations) in history.by_key() {
        check_key(&operations, last.get(&key).map(|seen| (seen.value, seen.revision)))
            .map_err(|how| Broken { promise: PROMISE, how: format!("key {key}: {how}") })?;
    }
    Ok(())
}

fn check_key(operations: &[Operation], last: Option<(u64, Revision)>) -> Result<(), String> {
    let Some(newest) = operations
        .iter()
        .filter(|operation| operation.is_acknowledged_change())
        .max_by_key(|operation| operation.invoked)
    else {
        return Ok(());
    };
    let may_be_last = |operation: &Operation| match operation.outcome {
        Outcome::Unknown => true,
        _ => operation.is_acknowledged_change() && operation.returned > newest.invoked,
    };
    let Some((value, revision)) = last else {
        let was_deleted = |operation: &Operation| operation.call == Call::Delete && may_be_last(operation);
        return match operations.iter().any(was_deleted) {
            true => Ok(()),
            false => Err(format!("it does not exist in the end, but was not deleted after: {newest}")),
        };
    };
    let Some(writer) = operations.iter().find(|operation| operation.writes() == Some(value)) else {
        return Err(format!("it holds {value} in the end, which nobody wrote to it; lost: {newest}"));
    };
    if !may_be_last(writer) {
        return Err(format!("it holds an older value in the end: {writer}; lost: {newest}"));
    }
    let newest_revision = operations.iter().filter_map(|operation| match operation.outcome {
        Outcome::Written(revision) => Some(revision),
        _ => None,
    });
    match newest_revision.max() {
        Some(acknowledged) if acknowledged > revision => {
            Err(format!("it has revision {revision} in the end, but {acknowledged} was acknowledged"))
        }
        _ => Ok(()),
    }
}
