// SPDX-License-Identifier: Apache-2.0

//! The search itself: it does the same every time, and what it leaves out because only names differ is what it says it leaves out.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use mraft_explore::search::{Report, explore};
use mraft_explore::world::{Left, World};
use mraft_explore::worlds::named;

/// A world that is small enough for a build without optimisation.
fn tiny(name: &str) -> World {
    let world = named(name).expect("a world").clone();
    World { in_flight_max: 1, term_max: 2, left: Left { crashes: 1, ..Left::default() }, ..world }
}

fn all(world: &World) -> Report {
    let report = explore(world, usize::MAX, |_, _| ());
    assert_eq!(report.found, None);
    assert!(report.is_exhausted, "a tiny world has an end");
    report
}

#[test]
fn states_under_other_names_are_counted_as_if_they_were_explored() {
    for name in ["pair", "trio", "trio-slow", "witness"] {
        let once = all(&tiny(name));
        let each = all(&World { renames: false, ..tiny(name) });
        assert_eq!(once.stand_for, each.states as u64, "{name}");
        assert!(once.states < each.states, "{name} has nothing that could change its name");
        assert_eq!(once.depth, each.depth, "{name}");
    }
}

#[test]
fn a_search_does_the_same_every_time() {
    let world = tiny("trio-slow");
    assert_eq!(all(&world), all(&world));
}

#[test]
fn a_search_that_is_cut_short_says_so() {
    let report = explore(&tiny("trio"), 50, |_, _| ());
    assert!(!report.is_exhausted && report.states >= 50, "{report:?}");
}
