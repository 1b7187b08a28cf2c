// SPDX-License-Identifier: Apache-2.0

//! The outer doors.
//!
//! Invariant: this crate knows no host; it asks a node through narrow traits of its own.
