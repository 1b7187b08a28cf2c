// SPDX-License-Identifier: Apache-2.0

//! Rule T1 under virtual time, with the patience of the product: leadership leaves a disk that is slow, and a node whose disk stands still
//! stops serving, while the others go on. What is slow is what keeps somebody waiting for two seconds: a disk that does nothing, or one
//! that does everything a thousand times slower, and not one that is ten times slower.

use std::collections::BTreeMap;

use mraft::slow_disk::Patience;
use mraft_sim::check::promise;
use mraft_sim::{Least, Mix, Report, Scripted, Width, run};

const SECOND_US: u64 = 1_000_000;

/// A disk that does nothing for so long is slow, and one that does nothing for longer has stalled.
const SLOW_US: u64 = 20 * SECOND_US;
const STALLED_US: u64 = 40 * SECOND_US;
/// Then its node has stopped within this time.
const STOPPED_WITHIN_US: u64 = 31 * SECOND_US;

/// A write takes so long at most while the disk is well. Most of those that take a thousand times as long then take more than the two
/// seconds that are called slow: a disk whose every wait is shorter is not left, however many there are.
const DISK_US_MAX: u64 = 25_000;
/// What a disk does that hangs.
const HANGS: u64 = u64::MAX;

/// A cluster to which nothing else happens, and whose leader's disk takes so many times as long for so long from the third second on.
fn with_slow_leader(seed: u64, times: u64, for_us: u64, patience: Patience) -> Report {
    let stops_within_us = (times == HANGS && for_us > STOPPED_WITHIN_US).then_some(STOPPED_WITHIN_US);
    let slow = Scripted::SlowLeader { group: 0, times, for_us, stops_within_us };
    let drawn = Mix::draw(seed, Width::Default);
    let mix = Mix {
        nodes: 3,
        replicas: 3,
        own: drawn.own[..3].to_vec(),
        groups: 1,
        clients: 4,
        think_us_max: 50_000,
        disk_us_max: DISK_US_MAX,
        safety_us: 45 * SECOND_US,
        least: Least::default(),
        faults: BTreeMap::new(),
        quality: drawn.calm_quality(),
        install_crash_per_mille: 0,
        quiesce_after_ticks: None,
        has_real_stores: false,
        patience,
        script: vec![(3 * SECOND_US, slow)],
        ..drawn
    };
    run(seed, &mix)
}

/// What a host is told where nobody tells it anything else.
fn of_the_product() -> Option<Patience> {
    let node = mraft_types::NodeId::new(1)?;
    let deployment = mraft_types::DeploymentId(1);
    Some(Patience::of(&mraft::HostConfig::new(deployment, node, String::new(), std::path::PathBuf::new())))
}

#[test]
fn t1_leadership_leaves_a_slow_disk_within_five_seconds_and_a_stalled_one_stops_serving() {
    let product = of_the_product().expect("a node id");
    for seed in 0..8 {
        for (for_us, stalls) in [(SLOW_US, 0), (STALLED_US, 1)] {
            let report = with_slow_leader(seed, HANGS, for_us, product);
            let found = (report.broken, report.leaders_slowed, report.disks_stalled);
            assert_eq!(found, (None, 1, stalls), "seed {seed}, {for_us} us");
        }
    }
}

#[test]
fn t1_leadership_leaves_a_disk_that_is_a_thousand_times_slower_and_stays_on_one_that_is_ten_times() {
    let product = of_the_product().expect("a node id");
    for seed in 0..8 {
        let report = with_slow_leader(seed, 1_000, SLOW_US, product);
        let found = (report.broken.clone(), report.leaders_slowed, report.disks_stalled);
        assert_eq!(found, (None, 1, 0), "seed {seed}");
        assert!(report.marks.contains_key("Verdict::MoveLeaders"), "seed {seed}: {report:?}");

        // The script asks that leadership leaves: here it must not.
        let report = with_slow_leader(seed, 10, SLOW_US, product);
        let broken = report.broken.as_ref().map(|broken| broken.promise);
        assert_eq!((broken, report.leaders_slowed), (Some(promise::SLOW_DISKS_LEFT), 1), "seed {seed}");
        assert!(!report.marks.contains_key("Verdict::MoveLeaders"), "seed {seed}: {report:?}");
    }
}

#[test]
fn t1_whoever_has_more_patience_breaks_the_promises() {
    let broken =
        |patience| with_slow_leader(1, HANGS, STALLED_US, patience).broken.expect("it breaks").promise;
    let product = of_the_product().expect("a node id");
    assert_eq!(broken(Patience { slow_disk_ms: 10_000, ..product }), promise::SLOW_DISKS_LEFT);
    assert_eq!(broken(Patience { stalled_disk_ms: 60_000, ..product }), promise::STALLED_STOPS);
}
