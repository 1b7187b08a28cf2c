// SPDX-License-Identifier: Apache-2.0

//! What is counted, and by which reason. Numbers only grow while a transport lives; gauges say so.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use mraft_types::NodeId;

macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every reason, in the order of counting.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The reason as a word for metrics.
            pub fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.label().replace('_', " "))
            }
        }
    };
}

reasons! {
    /// Why a frame was not sent. Unless it is `ConnectionLost`, no byte of the frame has left.
    Dropped {
        /// The node has no address here.
        UnknownPeer = "unknown_peer",
        /// No connection to the node at this moment.
        NotConnected = "not_connected",
        /// As many bytes wait for the node as may (MaxSendQueueSize).
        QueueFull = "queue_full",
        /// As many bytes wait for all nodes as may (rule T2).
        Ceiling = "ceiling",
        /// The connection broke while the frame waited or was on its way; never an answer of a call, only counted.
        ConnectionLost = "connection_lost",
        /// The bytes are no frame, or longer than one may be.
        NotAFrame = "not_a_frame",
        /// The transport is closing.
        Closing = "closing",
    }
}

impl std::error::Error for Dropped {}

reasons! {
    /// Why a connection ended, or did not come about.
    CloseReason {
        /// The peer closed it.
        EndOfStream = "end_of_stream",
        /// The system reported an error (a reset, a host that cannot be reached).
        Io = "io",
        /// Nothing arrived for the idle timeout.
        Idle = "idle",
        /// Nothing could be written for the idle timeout: the peer does not read.
        Stalled = "stalled",
        /// The peer sent something that is no frame, or no frame that belongs there.
        Protocol = "protocol",
        /// The peer did not finish its hello in time.
        HelloTimeout = "hello_timeout",
        /// One side refused the other's hello.
        HelloRefused = "hello_refused",
        /// TLS failed: a certificate is missing, of another authority or for another host, or the peer speaks plain.
        Tls = "tls",
        /// The same node connected anew.
        Superseded = "superseded",
        /// The same node answered on a new connection after its own had broken.
        Replaced = "replaced",
        /// As many connections are open as may be.
        TooManyConnections = "too_many_connections",
        /// As many connections are in their hello as may be.
        TooManyHandshakes = "too_many_handshakes",
        /// The node has another address now.
        AddressChanged = "address_changed",
        /// The node is no peer any more.
        PeerRemoved = "peer_removed",
        /// The transport is closing.
        Closing = "closing",
        /// It did what it was opened for.
        Done = "done",
    }
}

/// What a transport has done, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransportStats {
    /// Frames taken for sending.
    pub frames_taken: u64,
    /// Frames that the calling thread itself wrote whole, without a change of threads.
    pub frames_direct: u64,
    /// Bytes of frames written to sockets of messages.
    pub bytes_sent: u64,
    /// Frames of packets handed to the handler.
    pub frames_received: u64,
    /// Bytes of their payloads.
    pub bytes_received: u64,
    /// Frames handed over with the request to shed replication (MaxReceiveQueueSize).
    pub frames_over_limit: u64,
    /// How often a reader waited for the handler to release bytes (rule T2).
    pub receive_waits: u64,
    /// Connections dialed with success.
    pub dials: u64,
    /// Dials that failed.
    pub dials_failed: u64,
    /// Connections accepted with success.
    pub accepts: u64,
    /// Times that a node was suspected (rule T5).
    pub suspicions: u64,
    /// Snapshots sent whole and confirmed.
    pub snapshots_sent: u64,
    /// Snapshots received whole and staged.
    pub snapshots_received: u64,
    /// Snapshots that failed, in either direction.
    pub snapshots_failed: u64,
    /// Bytes of snapshot data sent.
    pub snapshot_bytes_sent: u64,
    /// Bytes of snapshot data received.
    pub snapshot_bytes_received: u64,
    /// Milliseconds that snapshots waited for their rate.
    pub snapshot_throttled_ms: u64,
    /// Frames not sent, by reason.
    pub dropped: Vec<(Dropped, u64)>,
    /// Connections ended, by reason.
    pub closed: Vec<(CloseReason, u64)>,
    /// Gauge: connections accepted and open.
    pub inbound_connections: usize,
    /// Gauge: bytes that wait for all peers.
    pub send_queue_bytes: usize,
    /// Gauge: bytes that the handler has not released.
    pub receive_queue_bytes: usize,
    /// Gauge: the peers.
    pub peers: Vec<PeerStats>,
}

impl TransportStats {
    /// Frames dropped for this reason.
    pub fn dropped_for(&self, reason: Dropped) -> u64 {
        self.dropped.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count)
    }

    /// Connections ended for this reason.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.closed.iter().find(|(found, _)| *found == reason).map_or(0, |(_, count)| *count)
    }
}

/// How one peer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub node: NodeId,
    /// Its address.
    pub address: String,
    /// Whether frames can be sent to it.
    pub is_connected: bool,
    /// Whether it was suspected and has not answered since.
    pub is_suspected: bool,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// Why it could not be connected to the last time, as long as it is not.
    pub failure: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) frames_taken: Counter,
    pub(crate) frames_direct: Counter,
    pub(crate) bytes_sent: Counter,
    pub(crate) frames_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) frames_over_limit: Counter,
    pub(crate) receive_waits: Counter,
    pub(crate) dials: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) accepts: Counter,
    pub(crate) suspicions: Counter,
    pub(crate) snapshots_sent: Counter,
    pub(crate) snapshots_received: Counter,
    pub(crate) snapshots_failed: Counter,
    pub(crate) snapshot_bytes_sent: Counter,
    pub(crate) snapshot_bytes_received: Counter,
    pub(crate) snapshot_throttled_ms: Counter,
    dropped: [Counter; Dropped::ALL.len()],
    closed: [Counter; CloseReason::ALL.len()],
}

impl Counters {
    pub(crate) fn drop_frames(&self, reason: Dropped, frames: usize) {
        self.dropped[reason as usize].add(frames as u64);
    }

    pub(crate) fn close(&self, reason: CloseReason) {
        self.closed[reason as usize].add(1);
    }

    pub(crate) fn snapshot(&self) -> TransportStats {
        TransportStats {
            frames_taken: self.frames_taken.get(),
            frames_direct: self.frames_direct.get(),
            bytes_sent: self.bytes_sent.get(),
            frames_received: self.frames_received.get(),
            bytes_received: self.bytes_received.get(),
            frames_over_limit: self.frames_over_limit.get(),
            receive_waits: self.receive_waits.get(),
            dials: self.dials.get(),
            dials_failed: self.dials_failed.get(),
            accepts: self.accepts.get(),
            suspicions: self.suspicions.get(),
            snapshots_sent: self.snapshots_sent.get(),
            snapshots_received: self.snapshots_received.get(),
            snapshots_failed: self.snapshots_failed.get(),
            snapshot_bytes_sent: self.snapshot_bytes_sent.get(),
            snapshot_bytes_received: self.snapshot_bytes_received.get(),
            snapshot_throttled_ms: self.snapshot_throttled_ms.get(),
            dropped: Dropped::ALL
                .iter()
                .map(|reason| (*reason, self.dropped[*reason as usize].get()))
                .collect(),
            closed: CloseReason::ALL
                .iter()
                .map(|reason| (*reason, self.closed[*reason as usize].get()))
                .collect(),
            ..TransportStats::default()
        }
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
