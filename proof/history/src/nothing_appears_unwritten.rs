// SPDX-License-Identifier: Apache-2.0

//! Whatever is read, during the run or in the end, was written: to that key, and by an operation that had begun by then.

use std::collections::BTreeMap;

use crate::broken::Broken;
use crate::operation::{KeyId, Operation, Outcome, ValueId};
use crate::recorder::{FinalState, History};

const PROMISE: &str = "nothing appears that was never written";

/// Compares every value that was seen with those that were written.
pub fn check(history: &History, last: &FinalState) -> Result<(), Broken> {
    let written: BTreeMap<(KeyId, ValueId), &Operation> = history
        .operations()
        .iter()
        .filter_map(|operation| Some(((operation.key, operation.writes()?), operation)))
        .collect();
    let broken = |how: String| Err(Broken { promise: PROMISE, how });
    for read in history.operations() {
        let Outcome::Read(Some(seen)) = read.outcome else { continue };
        match written.get(&(read.key, seen.value)) {
            None => return broken(format!("nobody wrote what was read: {read}")),
            Some(write) if write.invoked > read.returned => {
                return broken(format!("{read}, but only later began: {write}"));
            }
            Some(_) => {}
        }
    }
    for (key, seen) in last {
        if !written.contains_key(&(*key, seen.value)) {
            return broken(format!(
                "key {key} holds {} at revision {} in the end",
                seen.value, seen.revision
            ));
        }
    }
    Ok(())
}
