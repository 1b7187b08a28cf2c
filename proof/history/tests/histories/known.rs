// SPDX-License-Identifier: Apache-2.0

//! Situations with names. Each bad one is found by the checker of the promise that it breaks.

use mraft_history::{
    Broken, acknowledged_writes_survive, linearizability, nothing_appears_unwritten, outcomes_are_honest,
};

use crate::script::history;

/// What all checkers say, in the order of the promises.
fn judge(text: &str) -> Vec<Broken> {
    let (history, last) = history(text);
    let linear = linearizability::check(&history).map(|_| ());
    [
        acknowledged_writes_survive::check(&history, &last),
        nothing_appears_unwritten::check(&history, &last),
        outcomes_are_honest::check(&history, &last),
        linear,
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect()
}

#[track_caller]
fn good(text: &str) {
    assert_eq!(judge(text), []);
}

/// The promises that a history breaks.
#[track_caller]
fn bad(text: &str, promises: &[&str]) {
    let broken = judge(text);
    let named: Vec<&str> = broken.iter().map(|broken| broken.promise).collect();
    assert_eq!(named, promises, "{broken:#?}");
}

const SURVIVE: &str = "acknowledged writes survive";
const APPEARS: &str = "nothing appears that was never written";
const HONEST: &str = "outcomes are honest";
const LINEAR: &str = "per-key linearizability";

#[test]
fn one_after_the_other() {
    good(
        "A put 1
         A ok 1
         B get
         B saw 1 1
         A delete
         A ok 1
         B get
         B absent
         A cas - 2
         A ok 3
         B cas 1 3
         B failed
         B cas 2 4
         B ok 4
         = 4 4",
    );
}

#[test]
fn a_read_beside_a_write_may_see_either_value() {
    good(
        "A put 1
         A ok 1
         A put 2
         B get
         C get
         C saw 1 1
         B saw 2 2
         A ok 2
         = 2 2",
    );
}

#[test]
fn a_write_with_an_unknown_outcome_may_happen_much_later() {
    good(
        "A put 1
         B put 2
         B ok 1
         C get
         C saw 2 1
         C get
         C saw 1 2
         = 1 2",
    );
}

#[test]
fn a_write_with_an_unknown_outcome_may_never_happen() {
    good(
        "A put 1
         B get
         B absent
         B put 2
         B ok 1
         = 2 1",
    );
}

#[test]
fn unknown_operations_explain_conditions_and_deletes() {
    good(
        "A put 1
         B delete
         C put 2
         C ok 1
         C cas 2 3
         C failed
         C delete
         C ok 0
         C cas - 4
         C ok 9
         = 4 9",
    );
}

#[test]
fn keys_do_not_wait_for_each_other() {
    good(
        "A put 1 @1
         A ok 2
         B put 2 @2
         B ok 1
         C get @2
         C saw 2 1
         C get @1
         C saw 1 2
         = 1 2 @1
         = 2 1 @2",
    );
}

#[test]
fn stale_read() {
    bad(
        "A put 1
         A ok 1
         A put 2
         A ok 2
         B get
         B saw 1 1
         = 2 2",
        &[HONEST, LINEAR],
    );
}

#[test]
fn stale_read_of_absence() {
    bad(
        "A put 1
         A ok 1
         B get
         B absent
         = 1 1",
        &[LINEAR],
    );
}

#[test]
fn reads_that_go_back_in_time() {
    bad(
        "A put 1
         A ok 1
         A put 2
         B get
         B saw 2 2
         C get
         C saw 1 1
         A ok 2
         = 2 2",
        &[HONEST, LINEAR],
    );
}

#[test]
fn lost_update() {
    bad(
        "A put 1
         A ok 1
         A cas 1 2
         B cas 1 3
         A ok 2
         B ok 3
         = 3 3",
        &[LINEAR],
    );
}

#[test]
fn an_acknowledged_write_is_gone_in_the_end() {
    bad(
        "A put 1
         A ok 1
         A put 2
         A ok 2
         = 1 1",
        &[SURVIVE],
    );
    bad(
        "A put 1
         A ok 1",
        &[SURVIVE],
    );
}

#[test]
fn an_acknowledged_write_comes_back_under_an_older_revision() {
    bad(
        "A put 1
         A ok 5
         B put 2
         = 2 4",
        &[SURVIVE],
    );
}

#[test]
fn split_brain() {
    // Two leaders acknowledge beside each other, and each side reads its own.
    bad(
        "A put 1
         A ok 1
         B put 2
         B ok 1
         A get
         A saw 1 1
         B get
         B saw 2 1
         = 2 1",
        &[HONEST, LINEAR],
    );
}

#[test]
fn resurrected_delete() {
    bad(
        "A put 1
         A ok 1
         A delete
         A ok 1
         B get
         B saw 1 1
         = 1 1",
        &[SURVIVE, LINEAR],
    );
}

#[test]
fn a_value_out_of_nowhere() {
    bad(
        "A put 1
         A ok 1
         B get
         B saw 7 2
         = 7 2",
        &[SURVIVE, APPEARS, LINEAR],
    );
    bad("= 7 2 @3", &[APPEARS]);
}

#[test]
fn a_value_under_another_key() {
    bad(
        "A put 1 @1
         A ok 1
         B get @2
         B saw 1 1
         = 1 1 @1",
        &[APPEARS, LINEAR],
    );
}

#[test]
fn a_value_before_it_was_written() {
    bad(
        "B get
         B saw 1 1
         A put 1
         A ok 1
         = 1 1",
        &[APPEARS, HONEST, LINEAR],
    );
}

#[test]
fn not_applied_and_yet_there() {
    bad(
        "A put 1
         A not-applied
         B get
         B saw 1 1
         = 1 1",
        &[HONEST, LINEAR],
    );
    bad(
        "A put 1
         A not-applied
         = 1 1",
        &[HONEST],
    );
}

#[test]
fn a_failed_condition_that_wrote() {
    bad(
        "A put 1
         A ok 1
         B cas 1 2
         B failed
         = 1 1",
        &[LINEAR],
    );
}

#[test]
fn one_revision_for_two_changes() {
    bad(
        "A put 1
         B put 2
         A ok 1
         B ok 1
         = 2 1",
        &[HONEST],
    );
}

#[test]
fn a_write_that_happened_twice() {
    bad(
        "A put 1
         A ok 1
         B put 2
         B ok 2
         C get
         C saw 1 3
         = 1 3",
        &[SURVIVE, HONEST, LINEAR],
    );
}

#[test]
fn a_long_history_needs_no_more_than_a_short_one() {
    use mraft_history::{Call, History, Outcome, Seen};
    // Four clients for ever on one key, every tenth write with an unknown outcome: half of those happened.
    let mut history = History::default();
    let (mut current, mut next_value) = (None, 0);
    for round in 0..20_000_u64 {
        let ids: Vec<usize> = (0..4)
            .map(|client| {
                next_value += 1;
                let call = if client == 3 { Call::Get } else { Call::Put(next_value) };
                history.invoke(client, 0, call)
            })
            .collect();
        for id in ids {
            let is_lost = id % 10 == 7;
            match history.operations()[id].call {
                Call::Put(_) if is_lost && id % 20 == 7 => {}
                Call::Put(value) => {
                    current = Some(Seen { value, revision: round * 4 + id as u64 % 4 + 1 });
                    if !is_lost {
                        history.complete(id, Outcome::Written(round * 4 + id as u64 % 4 + 1));
                    }
                }
                _ => history.complete(id, Outcome::Read(current)),
            }
        }
    }
    let hardest = linearizability::check(&history).expect("linearizable");
    assert!(hardest < 200, "{hardest} configurations");
    assert_eq!(outcomes_are_honest::check(&history, &Default::default()), Ok(()));
}
