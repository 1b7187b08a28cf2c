// SPDX-License-Identifier: Apache-2.0

//! Histories of operations and the checkers that judge them.
//!
//! Invariant: no clock, no chance.
