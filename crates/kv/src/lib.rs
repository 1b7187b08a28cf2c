// SPDX-License-Identifier: Apache-2.0

//! The key-value state machine on disk: a write buffer in front of one LSM tree per group.
