// SPDX-License-Identifier: Apache-2.0

//! Histories of operations on a key-value store, and the checkers that judge them.
//!
//! A [`History`] is what clients saw: which operation began when, and what came back, in one order of events over all clients. Each
//! promise has a checker in a file of its own, named after it; a checker answers with the [`Broken`] promise, or with nothing:
//!
//! - [`acknowledged_writes_survive`]: what was acknowledged is there in the end, or something later;
//! - [`nothing_appears_unwritten`]: whatever is read was written by somebody, to that key, and earlier;
//! - [`outcomes_are_honest`]: "not applied" is the truth, and a revision belongs to one change;
//! - [`linearizability`]: per key, there is an order of the operations that explains every answer.
//!
//! All of them build on one habit of the clients: no value is ever written twice. Then a value says which write it came from.
//!
//! Why not a library. Those that there are for Rust search for an order without knowing anything of it, and a run of a million operations
//! is out of their reach: of histories of one register, half reads, half writes, that the caller knows to be right, `stateright` 0.31 did
//! not decide 50 operations of 32 clients within a minute, nor `todc-utils` 0.1 (Wing, Gong and Lowe's search) 1,000 of 32 clients; of 8
//! clients it decided 10,000 in 6 s and not 100,000 in a minute. Porcupine, which etcd uses, is that search in Go. A write's answer here
//! carries its revision, which says where in the order it belongs: [`linearizability`] takes the answers in the order in which they came
//! and follows the revisions, and looks at all orders only for a key that this does not explain. A million operations of 32 clients on 8
//! keys, one in two thousand of them without an answer, take less than a minute (`tests/histories/million.rs`). Lost answers are what costs:
//! with one in a hundred so long a history takes too long.
//!
//! Missing on purpose: batches over several keys and stale reads, about which other promises speak.
//!
//! Invariant: no clock, no chance, no product code: what is judged is what clients saw, and judging it twice says the same.

#![forbid(unsafe_code)]

pub mod acknowledged_writes_survive;
pub mod broken;
pub mod linearizability;
pub mod nothing_appears_unwritten;
pub mod operation;
pub mod outcomes_are_honest;
pub mod recorder;

pub use broken::Broken;
pub use operation::{Call, ClientId, KeyId, Operation, OperationId, Outcome, Revision, Seen, ValueId};
pub use recorder::{FinalState, History};
