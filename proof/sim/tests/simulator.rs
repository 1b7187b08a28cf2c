// SPDX-License-Identifier: Apache-2.0

//! The simulator itself: the seed decides everything, and its checks can fail. How the product fares is `cargo xtask sim`.

use mraft_sim::{Planted, run};

#[test]
fn the_same_seed_does_the_same_twice_and_another_one_does_not() {
    let (first, again) = (run(1, None), run(1, None));
    assert_eq!(first, again);
    // One that ends early.
    let other = run(2, Some(Planted::ReadWithoutRound));
    assert_ne!(first.trace, other.trace);
    assert!(first.operations > 0, "a run without operations shows nothing");
}

#[test]
fn every_planted_bug_breaks_a_promise_that_it_must_break() {
    for bug in Planted::ALL {
        let broken = (0..20).find_map(|seed| run(seed, Some(bug)).broken);
        let broken = broken.unwrap_or_else(|| panic!("{} is not found", bug.name()));
        assert!(bug.promises().contains(&broken.promise), "{}: {broken}", bug.name());
    }
}
