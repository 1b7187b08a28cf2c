// SPDX-License-Identifier: Apache-2.0

//! The HTTP contract: types, paths and a typed client that follows leader hints.
//!
//! Invariant: this crate knows nothing of groups' insides; it is what a client may know.
