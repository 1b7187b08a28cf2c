// SPDX-License-Identifier: Apache-2.0

//! The simulator itself: the seed decides everything. How the product fares is `cargo xtask sim`.

use mraft_sim::{Mix, Width, run};

#[test]
fn the_same_seed_does_the_same_twice_and_another_one_does_not() {
    let [(first, again), (other, _)] = [1, 2].map(|seed| {
        let mix = Mix::draw(seed, Width::Default);
        (run(seed, &mix), run(seed, &mix))
    });
    assert_eq!(first, again);
    assert_ne!(first.trace, other.trace);
    assert!(first.operations > 0, "a run without operations shows nothing");
}

#[test]
fn a_seed_with_real_stores_does_the_same_twice() {
    let mixes = (0..).map(|seed| (seed, Mix::draw(seed, Width::Default)));
    let (seed, mix) = mixes.into_iter().find(|(_, mix)| mix.has_real_stores).expect("every fiftieth or so");
    let report = run(seed, &mix);
    assert_eq!((report.broken.clone(), report.real_stores), (None, 1));
    assert_eq!(report, run(seed, &mix));
}
