// SPDX-License-Identifier: Apache-2.0

//! Hostile bytes for every decoder of the house: what a damaged disk, a broken peer or an enemy may hand over.
//!
//! A [`target::Target`] feeds one input to one decoder, or to a few that belong together, and checks more than that nothing panics: what
//! decodes is written as it came, or comes back as the same; what is decoded may hold no more memory than a stated factor of its input
//! ([`memory`]); whoever goes on with it keeps its promises. [`targets`] has all of them. Where a checksum would keep everything out, the
//! target makes it right, by the document and not by the product's code.
//!
//! `cargo xtask fuzz` compiles all this with the compiler's coverage pass and searches: inputs are changed, and whichever reaches a branch
//! that none reached before is changed further. The inputs that reach something are kept in `corpus`, those that once broke something in
//! `findings`; `cargo test` executes all of them without any instrumentation.
//!
//! # Why this search and no other
//!
//! Two were tried. `libfuzzer-sys` runs on a stable compiler, but its engine is C++, its counters are its own, and it stops when it wants
//! to. The counters of `-C instrument-coverage` are stable and need nothing, but they are eight bytes per region, to be cleared and read
//! for every input of a microsecond, and they know nothing of comparisons. What libfuzzer is driven by, LLVM's pass `sancov-module`, a
//! stable compiler takes as well (`-C passes`): a byte per edge, and a call for each comparison of numbers. So the pass is LLVM's and the
//! engine is the few hundred lines beside `main.rs`: deterministic by seed and count, in Rust alone, with the reports that are wanted here.
//! Only our crates are instrumented (`xtask/src/fuzz.rs`). An input of a packet costs some three microseconds, all included. Every run
//! begins with finding decoders that are broken on purpose ([`toys`]).
//!
//! Missing on purpose: the files of the `lsm-tree` crate, TLS and the TOML and JSON parsers as such, which others wrote and test; only what
//! our crates make of them is searched.
//!
//! Invariant: targets have no clock, chance or thread; the same input does the same, whatever was executed before.

pub mod corpus;
pub mod memory;
pub mod target;
pub mod targets;
pub mod toys;
