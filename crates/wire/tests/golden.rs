// SPDX-License-Identifier: Apache-2.0

//! The bytes of every sample frame, written down: a format that changes by accident changes here first. A wanted change
//! comes with a new wire version (or before the first release, with new lines here) and with `docs/formats/wire.md`.

#![allow(clippy::expect_used)]

mod support;

use std::fmt::Write;

#[test]
fn the_bytes_are_those_that_were_written_down() {
    let mut found = String::new();
    for (name, bytes) in support::frames() {
        write!(found, "{name}: ").expect("a string takes all");
        bytes.iter().for_each(|byte| write!(found, "{byte:02x}").expect("a string takes all"));
        found.push('\n');
    }
    for (found, golden) in found.lines().zip(include_str!("golden.txt").lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.lines().count(), include_str!("golden.txt").lines().count(), "now:\n{found}");
}
