// SPDX-License-Identifier: Apache-2.0

//! Benchmarks: figures beside what the same run measured of the machine (`docs/operate/bench.md`). Never tests.

pub(crate) mod host;
pub(crate) mod kv;
pub(crate) mod latency;
pub(crate) mod machine;
pub(crate) mod reopen;
