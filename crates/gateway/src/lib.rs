// SPDX-License-Identifier: Apache-2.0

//! The outer doors: HTTP in front of a node.
//!
//! A request passes four stations: the listener ([`server`]: connections, TLS, time limits, drain), the limits ([`limits`]: how much
//! at once), a route (`http/`, one file per resource), and the node behind [`needs::Node`]. Every failure leaves through one
//! table (`errors.rs`), so that its status, code, outcome, hint and pause are decided in one place.
//!
//! Two rules hold in every route:
//! - nothing is read, reserved or begun before its size and its deadline are known and bounded;
//! - an error says what became of the request, and the answer is true (rule E3): until the node was asked, that is `not_applied`.
//!
//! Invariant: this crate knows no group, log, store or transport, and no host; it asks a node through [`needs::Node`] alone.

#![forbid(unsafe_code)]

mod door;
mod errors;
mod http;
pub mod limits;
mod metered;
pub mod needs;
pub mod server;
mod stats;
pub mod tls;

pub use door::Door;
pub use limits::Limits;
pub use needs::Node;
pub use server::{Drained, listen, serve, serve_stream};
pub use tls::{ServerTls, TlsError};
