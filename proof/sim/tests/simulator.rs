// SPDX-License-Identifier: Apache-2.0

//! The simulator itself: the seed decides everything. How the product fares is `cargo xtask sim`.

use mraft_sim::{LEAST, Mix, Width, run};

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

#[test]
fn a_seed_goes_on_until_enough_happened_but_not_for_ever() {
    let is_slow = |mix: &Mix| mix.quiesce_after_ticks.is_some();
    let mixes = (0..).map(|seed| (seed, Mix::draw(seed, Width::Default)));
    let (seed, drawn) = mixes.into_iter().find(|(_, mix)| is_slow(mix)).expect("every fourth or so");
    let report = run(seed, &drawn);
    assert_eq!(report.broken, None);
    assert!(report.operations >= LEAST.operations && report.faults_in_all() >= LEAST.faults, "{report:?}");

    let mut hurried = Mix { safety_us_max: drawn.safety_us, ..drawn };
    hurried.least.operations = 0;
    let report = run(seed, &hurried);
    assert_eq!(report.broken, None);
    assert!(report.operations < LEAST.operations, "such a seed is slow: {report:?}");

    hurried.faults.clear();
    let report = run(seed, &hurried);
    assert_eq!((report.broken, report.faults.values().sum::<u64>()), (None, 0));
}
