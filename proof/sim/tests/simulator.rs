// SPDX-License-Identifier: Apache-2.0

//! The simulator itself: the seed decides everything. How the product fares is `cargo xtask sim`.

use std::collections::{BTreeMap, BTreeSet};

use mraft_sim::{LEAST, Mix, Report, Width, run};

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

/// A hash that were kept here would change with everything that the product does; that nothing around a run has a part in it, this shows.
#[test]
fn neither_the_thread_nor_what_ran_before_or_beside_it_changes_a_seed() {
    let in_order = |seeds: &[u64]| -> BTreeMap<u64, Report> {
        let ran = seeds.iter().map(|seed| (*seed, run(*seed, &Mix::draw(*seed, Width::Default))));
        ran.collect()
    };
    let alone = in_order(&[3, 4, 5, 6]);
    let beside: Vec<_> = std::thread::scope(|scope| {
        let orders: [&[u64]; 4] = [&[6, 5, 4, 3], &[4, 3, 6, 5], &[5, 6], &[3]];
        let threads = orders.map(|seeds| scope.spawn(move || in_order(seeds)));
        threads.into_iter().map(|thread| thread.join().expect("no run panics")).collect()
    });
    for (seed, report) in beside.into_iter().flatten() {
        assert_eq!(Some(&report), alone.get(&seed));
    }
    let traces: BTreeSet<u64> = alone.values().map(|report| report.trace).collect();
    assert_eq!(traces.len(), alone.len(), "no two seeds do the same");
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
