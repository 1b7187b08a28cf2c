// SPDX-License-Identifier: Apache-2.0

//! The key-value state machine.
//!
//! Invariant: this crate knows no log, no network and no consensus.
