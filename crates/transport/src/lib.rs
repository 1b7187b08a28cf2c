// SPDX-License-Identifier: Apache-2.0

//! Connections between nodes: threads and sockets, plain or mutual TLS.
//!
//! # Who dials
//!
//! Each node dials every peer once for messages and only sends on that connection; what the peer has to say arrives on the one
//! that the peer dialed. There is no tie to break when both dial at once, and a direction that does not work is seen as such.
//! Snapshots have connections of their own, so that they never stand in the way of a heartbeat.
//!
//! # Who runs
//!
//! One thread accepts; one per accepted connection reads and hands frames to the [`Handler`]; one per peer dials, and writes
//! what a caller of [`Transport::send`] could not write itself. [`Transport::send`] writes straight to the socket as long as the
//! socket takes it, so that a frame costs no change of threads; what is left waits in a queue that is bounded in bytes.
//!
//! # What a broken connection means (rule T5)
//!
//! A process that dies closes its sockets. When a peer closes or resets a connection, it is dialed at once; if it refuses, or
//! says no hello within a heartbeat interval, the handler is told that the node is suspected. A connection that this node
//! closed itself (a newer one replaced it, the peer was silent or broke the protocol, the transport stops) suspects nobody.
//! The dial comes before the close of what it replaces, and the side that accepts it closes the older one itself: otherwise two
//! healthy nodes could go on suspecting each other's closes for ever.
//!
//! Invariant: this crate knows no group, no log and no message of consensus; frames of packets pass through it unread. No lock
//! of its own is held while it calls the handler.

pub mod config;
pub mod handler;
pub mod rate;
pub mod resolver;
pub mod stats;
pub mod tls;
mod transport;

mod backoff;
mod dial;
mod handshake;
mod link;
mod listener;
mod peer;
mod receive;
mod shared;
mod snapshot;
mod stream;
mod waker;

pub use config::{SNAPSHOT_RATE_MIN, TransportConfig, TransportError, is_exposed_without_tls};
pub use handler::{
    Connected, Disconnected, Handler, Refusal, SnapshotFailed, SnapshotReceiver, SnapshotSource,
};
pub use rate::{Clock, SystemClock, TokenBucket};
pub use receive::{ReceivePermit, Received};
pub use stats::{CloseReason, Dropped, PeerStats, TransportStats};
pub use tls::TlsFiles;
pub use transport::{Listening, Transport};
