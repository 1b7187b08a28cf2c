// SPDX-License-Identifier: Apache-2.0

//! The dumb twin of the linearizability checker: it tries every order of every choice of unknown operations.

use mraft_history::{Call, History, Operation, Outcome, Seen, ValueId, linearizability};

const HISTORIES: u64 = 30_000;

#[test]
fn small_histories_are_judged_as_by_trying_every_order() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..HISTORIES {
        let history = random_history(&mut Dice(seed));
        let expected = some_order_explains(history.operations());
        let judged = linearizability::check(&history);
        assert_eq!(judged.is_ok(), expected, "seed {seed}: {judged:?}\n{}", shown(&history));
        if expected { good += 1 } else { bad += 1 }
    }
    println!("{good} good and {bad} bad histories");
    assert!(good > HISTORIES / 10 && bad > HISTORIES / 10, "{good} good and {bad} bad histories");
}

/// Whether the operations can be done one after the other, unknown ones optionally.
fn some_order_explains(operations: &[Operation]) -> bool {
    let relevant: Vec<&Operation> = operations
        .iter()
        .filter(|operation| operation.outcome != Outcome::NotApplied)
        .filter(|operation| (operation.call, operation.outcome) != (Call::Get, Outcome::Unknown))
        .collect();
    extend(&relevant, None)
}

fn extend(left: &[&Operation], value: Option<ValueId>) -> bool {
    if left.iter().all(|operation| operation.outcome == Outcome::Unknown) {
        return true;
    }
    (0..left.len()).any(|place| {
        let operation = left[place];
        // Nothing that returned before it began may come after it.
        if left.iter().any(|other| other.returned < operation.invoked) {
            return false;
        }
        let mut rest = left.to_vec();
        rest.remove(place);
        results(operation, value).is_some_and(|next| extend(&rest, next))
    })
}

/// The value afterwards, if the operation can have ended as it did.
fn results(operation: &Operation, value: Option<ValueId>) -> Option<Option<ValueId>> {
    match (operation.call, operation.outcome) {
        (Call::Get, Outcome::Read(seen)) => (seen.map(|seen| seen.value) == value).then_some(value),
        (Call::Put(written), _) => Some(Some(written)),
        (Call::Delete, Outcome::Deleted(existed)) => (existed == value.is_some()).then_some(None),
        (Call::Delete, _) => Some(None),
        (Call::CompareAndSet { expected, .. }, Outcome::ConditionFailed) => {
            (expected != value).then_some(value)
        }
        (Call::CompareAndSet { expected, value: written }, Outcome::Written(_)) => {
            (expected == value).then_some(Some(written))
        }
        (Call::CompareAndSet { expected, value: written }, _) => {
            Some(if expected == value { Some(written) } else { value })
        }
        (Call::Get, _) => Some(value),
    }
}

/// Some clients on one key, answered by a store that mostly does what it should.
fn random_history(dice: &mut Dice) -> History {
    let mut history = History::default();
    let operations = 3 + dice.below(5);
    let clients = 2 + dice.below(3) as usize;
    let mut under_way: Vec<Option<(usize, Call)>> = vec![None; clients];
    let (mut value, mut begun) = (None, 0);
    while begun < operations || under_way.iter().any(Option::is_some) {
        let client = dice.below(clients as u64) as usize;
        match under_way[client].take() {
            None if begun < operations => {
                begun += 1;
                let some_value = dice.below(begun);
                let expected = (some_value > 0).then_some(some_value);
                let call = match dice.below(6) {
                    0 | 1 => Call::Get,
                    2 | 3 => Call::Put(begun),
                    4 => Call::Delete,
                    _ => Call::CompareAndSet { expected, value: begun },
                };
                under_way[client] = Some((history.invoke(client as u32, 0, call), call));
            }
            None => {}
            Some((id, call)) => {
                let outcome = answer(dice, call, &mut value);
                history.complete(id, outcome);
            }
        }
    }
    history
}

fn answer(dice: &mut Dice, call: Call, value: &mut Option<ValueId>) -> Outcome {
    let before = *value;
    let outcome = match call {
        Call::Get => Outcome::Read(before.map(|value| Seen { value, revision: value })),
        Call::Put(written) => {
            *value = Some(written);
            Outcome::Written(written)
        }
        Call::Delete => {
            *value = None;
            Outcome::Deleted(before.is_some())
        }
        Call::CompareAndSet { expected, value: written } if expected == before => {
            *value = Some(written);
            Outcome::Written(written)
        }
        Call::CompareAndSet { .. } => Outcome::ConditionFailed,
    };
    match dice.below(12) {
        // The answer is lost, and sometimes the change with it.
        0 => *value = before,
        1 => {}
        // A defect: the change is lost, or it was not lost although that was said, or a read is stale.
        2 => {
            *value = before;
            return outcome;
        }
        3 => return Outcome::NotApplied,
        4 if call == Call::Get => {
            let stale = dice.below(4);
            return Outcome::Read((stale > 0).then_some(Seen { value: stale, revision: stale }));
        }
        _ => return outcome,
    }
    Outcome::Unknown
}

fn shown(history: &History) -> String {
    history.operations().iter().map(|operation| format!("{operation}\n")).collect()
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
