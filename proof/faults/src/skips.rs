// SPDX-License-Identifier: Apache-2.0

//! What cannot be done on this machine is said out loud and counted as skipped, never passed over in silence.

use std::io::Write;

/// Says that a test cannot run here, and what was not shown: past the capture of a test's output and on a line of its own, where
/// `cargo xtask test` counts it.
pub fn skipped(why: impl std::fmt::Display) {
    // Without a standard output there is nobody to tell.
    let _ = std::io::stdout().write_all(format!("\nSKIPPED: {why}\n").as_bytes());
}
