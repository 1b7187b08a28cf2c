// SPDX-License-Identifier: Apache-2.0

//! Many groups, packed proposals, shared read rounds: decides everything, touches nothing.

#![forbid(unsafe_code)]

pub mod machine;
