// SPDX-License-Identifier: Apache-2.0

//! The door from outside: a listening server in front of a node in memory. One test per line of the contract; nothing waits for time,
//! only for conditions.

#![allow(clippy::expect_used)]

mod batch;
mod client;
mod connections;
mod groups;
mod harness;
mod health;
mod kv;
mod limits;
mod node;
mod scan;
mod seed;
