// SPDX-License-Identifier: Apache-2.0

//! A long run is judged as surely as a short one.

use std::collections::BTreeMap;

use mraft_history::{Call, History, KeyId, Outcome, Seen, linearizability};

use crate::twin::Dice;

const OPERATIONS: usize = 1_000_000;
const KEYS: u64 = 8;
const CLIENTS: usize = 32;
/// One of so many answers is lost.
const LOST_OF: u64 = 2_000;

/// Clients of a store that does what it should; each operation happens when it ends. `stale` is the operation that is answered with what
/// its key held a thousand changes ago.
fn long_history(stale: Option<usize>) -> History {
    let mut dice = Dice(7);
    let mut history = History::default();
    let mut under_way: Vec<Option<(usize, KeyId, Call)>> = vec![None; CLIENTS];
    let mut store: BTreeMap<KeyId, Vec<Option<Seen>>> = BTreeMap::new();
    let (mut begun, mut revision) = (0, 0);
    while begun < OPERATIONS || under_way.iter().any(Option::is_some) {
        let client = dice.below(CLIENTS as u64) as usize;
        let Some((id, key, call)) = under_way[client].take() else {
            if begun < OPERATIONS {
                begun += 1;
                let key = dice.below(KEYS);
                let held = store.entry(key).or_default().last().copied().flatten();
                let call = match dice.below(10) {
                    0..=4 => Call::Get,
                    5..=7 => Call::Put(begun as u64),
                    8 => Call::Delete,
                    _ => Call::CompareAndSet { expected: held.map(|seen| seen.value), value: begun as u64 },
                };
                under_way[client] = Some((history.invoke(client as u32, key, call), key, call));
            }
            continue;
        };
        let states = store.entry(key).or_default();
        let held = states.last().copied().flatten();
        revision += 1;
        let (after, outcome) = match call {
            Call::Get if stale.is_some_and(|from| id >= from) && states.len() > 1_000 => {
                let old = states[states.len() - 1_000];
                history.complete(id, Outcome::Read(old));
                return history;
            }
            Call::Get => (held, Outcome::Read(held)),
            Call::Put(value) => (Some(Seen { value, revision }), Outcome::Written(revision)),
            Call::Delete => (None, Outcome::Deleted(held.is_some())),
            Call::CompareAndSet { expected, value } if expected == held.map(|seen| seen.value) => {
                (Some(Seen { value, revision }), Outcome::Written(revision))
            }
            Call::CompareAndSet { .. } => (held, Outcome::ConditionFailed),
        };
        let is_lost = dice.below(LOST_OF) == 0;
        if !is_lost || dice.below(2) == 0 {
            states.push(after);
        }
        history.complete(id, if is_lost { Outcome::Unknown } else { outcome });
    }
    history
}

#[test]
fn a_million_operations_are_judged() {
    let history = long_history(None);
    assert_eq!(history.operations().len(), OPERATIONS);
    let hardest = linearizability::check(&history).expect("linearizable");
    assert!(hardest < 20_000, "{hardest} configurations");
}

#[test]
fn one_stale_read_among_a_million_operations_is_found() {
    let history = long_history(Some(OPERATIONS * 9 / 10));
    assert!(history.operations().len() > OPERATIONS / 2);
    assert!(linearizability::check(&history).is_err());
}
