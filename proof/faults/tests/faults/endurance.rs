// SPDX-License-Identifier: Apache-2.0

//! The beginning of a long run: what it does is done right, and what it measures can be measured.

use mraft_faults::endurance::{self, Bound};

/// One kind of each family and some more; `cargo xtask endurance --minutes N` goes on.
const ROUNDS: u64 = 10;

#[test]
fn a_long_run_begins_well() {
    let _alone = super::alone();
    if let Err(failure) = endurance::run(Bound::Rounds(ROUNDS)) {
        panic!("{failure}");
    }
}
