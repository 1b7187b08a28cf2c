// SPDX-License-Identifier: Apache-2.0

//! Every bug of the consensus core that is planted in it is found, and the way to it can be read. Only in builds that have them.

#![cfg(feature = "planted")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on should stop")]

use mraft_explore::planted::{Where, find, is_clean_without, place_of};
use mraft_explore::worlds::named;
use mraft_types::planted::Bug;

#[test]
fn a_bug_is_found_and_the_way_to_it_is_a_script() {
    // The ones that are found soonest: a build without optimisation is slow. `cargo xtask explore --planted` looks for all of them.
    for bug in [Bug::ForgottenVote, Bug::VotedTwice, Bug::TwoChanges, Bug::CondemnedTakesPart] {
        let Where::In(world) = place_of(bug) else { panic!("{bug:?} is nowhere") };
        let sighting = find(bug, named(world).expect("a world")).expect("it is found");
        let steps = sighting.script.lines().filter(|line| line.starts_with("> ")).count();
        assert!(steps >= sighting.depth, "{}", sighting.script);
        assert!(
            sighting.script.lines().last().is_some_and(|line| line.starts_with("! ")),
            "{}",
            sighting.script
        );
        assert!(is_clean_without(&sighting), "{bug:?}");
    }
}

#[test]
fn every_bug_has_a_place_or_a_reason() {
    for bug in Bug::ALL {
        match place_of(*bug) {
            Where::In(world) => assert!(named(world).is_some(), "{bug:?} is to be found in {world}"),
            Where::Nowhere(reason) => assert!(!reason.is_empty()),
            Where::Elsewhere => {}
        }
    }
}
