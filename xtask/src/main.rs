// SPDX-License-Identifier: Apache-2.0

//! House chores: tidy checks, simulator runs.
fn main() {}
