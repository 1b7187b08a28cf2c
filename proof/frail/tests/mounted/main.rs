// SPDX-License-Identifier: Apache-2.0

//! The file systems as a process sees them.

#![allow(clippy::expect_used)]

#[cfg(target_os = "linux")]
mod linux;

use std::io::{self, Write};

/// Says that a test cannot run here, past the capture of a test's output and on a line of its own, where `cargo xtask test` counts it.
fn skipped(why: &str) {
    io::stdout().write_all(format!("\nSKIPPED: {why}\n").as_bytes()).expect("somebody reads");
}

#[cfg(not(target_os = "linux"))]
#[test]
fn what_a_process_sees() {
    skipped("no file system of ours is mounted but on Linux");
}
