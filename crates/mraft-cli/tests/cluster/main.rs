// SPDX-License-Identifier: Apache-2.0

//! Real processes, as a user starts them: `mraft dev` and everything that its nodes promise by hand.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on must stop")]

mod changes;
mod doors;
mod fixture;
mod life;
mod placement;
mod repair;
mod start;
mod stopping;
mod support;
