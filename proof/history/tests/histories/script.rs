// SPDX-License-Identifier: Apache-2.0

//! Histories written down: one event per line, in the order in which they happened.
//!
//! ```text
//! A put 1           client A begins to put 1 (to key 0; `A put 1 @7`: to key 7)
//! A ok 5            … and is answered: written, revision 5
//! B get
//! B saw 1 5         value 1 at revision 5; `B absent`
//! C delete
//! C ok 1            deleted 1; or `C ok 0`
//! D cas 1 2         from value 1 to 2; `D cas - 2`: create
//! D failed          the condition did not hold
//! E not-applied     for good
//! (no line)         unknown
//! = 1 5             in the end key 0 holds value 1 at revision 5 (`@7` for another key)
//! ```

use std::collections::BTreeMap;

use mraft_history::{Call, FinalState, History, KeyId, OperationId, Outcome, Seen};

/// Reads a history and the state in the end.
pub fn history(text: &str) -> (History, FinalState) {
    let (mut history, mut last) = (History::default(), FinalState::new());
    let mut clients: Vec<&str> = Vec::new();
    let mut under_way: BTreeMap<&str, (OperationId, Call)> = BTreeMap::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let key: KeyId = match words.last().and_then(|word| word.strip_prefix('@')) {
            Some(key) => {
                words.pop();
                number(key)
            }
            None => 0,
        };
        if let ["=", value, revision] = words[..] {
            last.insert(key, Seen { value: number(value), revision: number(revision) });
            continue;
        }
        let client = words[0];
        let call = match words[1..] {
            ["put", value] => Some(Call::Put(number(value))),
            ["get"] => Some(Call::Get),
            ["delete"] => Some(Call::Delete),
            ["cas", "-", value] => Some(Call::CompareAndSet { expected: None, value: number(value) }),
            ["cas", expected, value] => {
                Some(Call::CompareAndSet { expected: Some(number(expected)), value: number(value) })
            }
            _ => None,
        };
        if let Some(call) = call {
            let place = clients.iter().position(|known| *known == client).unwrap_or_else(|| {
                clients.push(client);
                clients.len() - 1
            });
            under_way.insert(client, (history.invoke(place as u32, key, call), call));
            continue;
        }
        let (id, call) = under_way.remove(client).unwrap_or_else(|| panic!("nothing is under way: {line}"));
        let outcome = match (&words[1..], call) {
            (["ok", existed], Call::Delete) => Outcome::Deleted(*existed == "1"),
            (["ok", revision], _) => Outcome::Written(number(revision)),
            (["saw", value, revision], _) => {
                Outcome::Read(Some(Seen { value: number(value), revision: number(revision) }))
            }
            (["absent"], _) => Outcome::Read(None),
            (["failed"], _) => Outcome::ConditionFailed,
            (["not-applied"], _) => Outcome::NotApplied,
            _ => panic!("not an event: {line}"),
        };
        history.complete(id, outcome);
    }
    (history, last)
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}
