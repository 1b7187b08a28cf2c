// SPDX-License-Identifier: Apache-2.0

//! Real hosts with real sockets and real directories, through the public face only.

#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod cluster;
mod comparison;
mod identity;
mod log_pressure;
mod restart;
mod room;
mod support;
mod trouble;
