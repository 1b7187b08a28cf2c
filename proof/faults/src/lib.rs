// SPDX-License-Identifier: Apache-2.0

//! Real processes, killed and restarted under load.
//!
//! Invariant: it talks to nodes as a client does.
