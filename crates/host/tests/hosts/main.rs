// SPDX-License-Identifier: Apache-2.0

//! Real hosts with real sockets and real directories, through the public face only.

#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod cluster;
mod comparison;
mod full_disk;
mod hanging_disk;
mod identity;
mod log_pressure;
mod loss;
mod machines;
mod network;
mod panics;
mod restart;
mod room;
mod slow_disk;
mod stops;
mod support;
mod trouble;
