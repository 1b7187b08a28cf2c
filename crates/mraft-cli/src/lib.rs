// SPDX-License-Identifier: Apache-2.0

//! The insides of the `mraft` binary: configuration, commands, the development cluster, logs and signals.
//!
//! A library only so that its parts can be tested; its one user is `main.rs`.
//!
//! Invariant: this crate decides nothing about consensus, logs or keys. It turns what an operator says into settings and calls,
//! and answers into text and exit codes.

#![forbid(unsafe_code)]
// They panic when nobody reads any more: `output` writes instead.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod cli;
pub mod commands;
pub mod config;
#[doc(hidden)]
pub mod decoders;
pub mod dev;
pub mod exit;
pub mod logging;
pub mod node;
pub mod output;
pub mod rolling;
pub mod signals;

mod bench;
