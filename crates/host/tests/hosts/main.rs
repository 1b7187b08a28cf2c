// SPDX-License-Identifier: Apache-2.0

//! Real hosts with real sockets and real directories, through the public face only.

#![allow(clippy::expect_used, reason = "a helper of a test fails the test")]

mod cluster;
mod comparison;
mod identity;
mod log_pressure;
mod machines;
mod network;
mod restart;
mod support;
mod trouble;
