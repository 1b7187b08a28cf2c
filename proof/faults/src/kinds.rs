// SPDX-License-Identifier: Apache-2.0

//! The kinds of faults.

pub mod greedy;
pub mod links;
pub mod signals;
pub mod starved;
pub mod weathers;
