// SPDX-License-Identifier: Apache-2.0

//! What a transport is told when it starts, and what it refuses to start with.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mraft_types::NodeId;
use mraft_wire::SNAPSHOT_CHUNK_BYTES_MAX;

use crate::rate::{Clock, SystemClock};
use crate::tls::TlsFiles;

/// Settings of a transport. [`TransportConfig::new`] fills in what rarely needs another value.
#[derive(Clone)]
pub struct TransportConfig {
    /// This node.
    pub node: NodeId,
    /// Where peers are accepted (host:port; port 0 lets the system choose).
    pub listen_address: String,
    /// Mutual TLS; plain TCP without.
    pub tls: Option<TlsFiles>,
    /// How often peers hear from each other; how long the reconnect after a loss may take before the peer is suspected (rule T5).
    pub heartbeat_interval: Duration,
    /// Most bytes that wait for one peer (MaxSendQueueSize); 0 = no limit of its own.
    pub send_queue_bytes_max: usize,
    /// Most bytes that wait for all peers together (rule T2).
    pub send_ceiling_bytes: usize,
    /// Bytes of one peer that the handler has not released, above which it is told to shed replication (MaxReceiveQueueSize); 0 =
    /// no limit of its own.
    pub receive_queue_bytes_max: usize,
    /// Bytes of all peers that the handler has not released, above which nothing more is read (rule T2).
    pub receive_ceiling_bytes: usize,
    /// MaxSnapshotSendBytesPerSecond, all snapshots together; 0 = no limit.
    pub snapshot_send_bytes_per_second: u64,
    /// MaxSnapshotRecvBytesPerSecond, all snapshots together; 0 = no limit.
    pub snapshot_receive_bytes_per_second: u64,
    /// Most snapshots being sent: each holds a view of a store open.
    pub snapshot_sends_max: usize,
    /// Most snapshots being received: each holds a staged directory and up to one chunk in memory.
    pub snapshot_receives_max: usize,
    /// Most accepted connections: each has a thread and up to one frame in memory.
    pub inbound_connections_max: usize,
    /// Most accepted connections whose hello is not done: strangers must not use up the places of peers.
    pub handshakes_max: usize,
    /// How long connecting and hello may take on the dialing side.
    pub dial_timeout: Duration,
    /// How long TLS and hello may take on the accepting side.
    pub hello_timeout: Duration,
    /// A connection on which nothing arrives or nothing can be written for so long is dead. Quiet ones carry keepalives.
    pub idle_timeout: Duration,
    /// A snapshot of which nothing arrives or nothing can be written for so long has failed.
    pub snapshot_stall_timeout: Duration,
    /// How long the receiver of a snapshot may take to stage and sync it after its last chunk.
    pub snapshot_finish_timeout: Duration,
    /// First pause between failed dials; doubles up to `backoff_max`.
    pub backoff_min: Duration,
    /// Longest pause between failed dials.
    pub backoff_max: Duration,
    /// Where jitter comes from: any spread of numbers.
    pub jitter: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Paces snapshots.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for TransportConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportConfig")
            .field("node", &self.node)
            .field("listen_address", &self.listen_address)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

impl TransportConfig {
    /// The defaults: those of the seed where it has one.
    pub fn new(
        node: NodeId,
        listen_address: impl Into<String>,
        jitter: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> TransportConfig {
        TransportConfig {
            node,
            listen_address: listen_address.into(),
            tls: None,
            heartbeat_interval: Duration::from_millis(120),
            send_queue_bytes_max: 128 << 20,
            send_ceiling_bytes: 512 << 20,
            receive_queue_bytes_max: 0,
            receive_ceiling_bytes: 256 << 20,
            snapshot_send_bytes_per_second: 256 << 20,
            snapshot_receive_bytes_per_second: 0,
            snapshot_sends_max: 4,
            snapshot_receives_max: 8,
            inbound_connections_max: 1024,
            handshakes_max: 64,
            dial_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(15),
            snapshot_stall_timeout: Duration::from_secs(30),
            snapshot_finish_timeout: Duration::from_secs(600),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(2),
            jitter,
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// Refuses values that cannot work; names both numbers where two disagree.
    pub fn validate(&self) -> Result<(), TransportError> {
        let refuse = |reason: String| Err(TransportError::Config(reason));
        for (name, rate) in [
            ("snapshot_send_bytes_per_second", self.snapshot_send_bytes_per_second),
            ("snapshot_receive_bytes_per_second", self.snapshot_receive_bytes_per_second),
        ] {
            if rate != 0 && rate < SNAPSHOT_RATE_MIN {
                return refuse(format!(
                    "{name} is {rate}; it must be 0 (no limit) or at least {SNAPSHOT_RATE_MIN}, so that a chunk passes in time"
                ));
            }
        }
        for (name, value) in [
            ("heartbeat_interval", self.heartbeat_interval),
            ("dial_timeout", self.dial_timeout),
            ("hello_timeout", self.hello_timeout),
            ("backoff_min", self.backoff_min),
        ] {
            if value.is_zero() {
                return refuse(format!("{name} must not be 0"));
            }
        }
        if self.idle_timeout < Duration::from_millis(KEEPALIVES_PER_IDLE_TIMEOUT.into()) {
            return refuse(format!("idle_timeout is {:?}; it must be at least 3 ms", self.idle_timeout));
        }
        if self.snapshot_stall_timeout < SNAPSHOT_STALL_MIN {
            return refuse(format!(
                "snapshot_stall_timeout is {:?}; a limited snapshot may pause {SNAPSHOT_STALL_MIN:?} between chunks",
                self.snapshot_stall_timeout
            ));
        }
        if self.backoff_max < self.backoff_min {
            return refuse(format!(
                "backoff_max ({:?}) is below backoff_min ({:?})",
                self.backoff_max, self.backoff_min
            ));
        }
        for (name, value) in [
            ("snapshot_sends_max", self.snapshot_sends_max),
            ("snapshot_receives_max", self.snapshot_receives_max),
            ("inbound_connections_max", self.inbound_connections_max),
            ("handshakes_max", self.handshakes_max),
        ] {
            if value == 0 {
                return refuse(format!("{name} must be at least 1"));
            }
        }
        Ok(())
    }
}

/// Why a transport does not start, or does not take a peer.
#[derive(Debug)]
#[non_exhaustive]
pub enum TransportError {
    /// A setting that cannot work.
    Config(String),
    /// The address cannot be listened on.
    Listen {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// A file of certificates or keys cannot be used.
    Tls {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// This is no address of a peer.
    BadAddress {
        /// Whose.
        node: NodeId,
        /// The address.
        address: String,
        /// Why.
        reason: &'static str,
    },
    /// The system gives no thread, pipe or socket option.
    System(io::Error),
    /// The transport was closed.
    Closed,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransportError::Config(reason) => f.write_str(reason),
            TransportError::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            TransportError::Tls { file, reason } => write!(f, "{}: {reason}", file.display()),
            TransportError::BadAddress { node, address, reason } => {
                write!(f, "`{address}` is no address for node {node}: {reason}")
            }
            TransportError::System(error) => write!(f, "the system refuses what a transport needs: {error}"),
            TransportError::Closed => f.write_str("the transport was closed"),
        }
    }
}

impl std::error::Error for TransportError {}

/// Whether peers from other machines can reach this address while nothing proves who they are. Names count as reachable, but
/// `localhost` does not.
pub fn is_exposed_without_tls(listen_address: &str, has_tls: bool) -> bool {
    let host = listen_address.rsplit_once(':').map_or(listen_address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    };
    !has_tls && !is_loopback
}

/// A quiet connection carries so many keepalives within an idle timeout, so that one lost is not missed.
pub(crate) const KEEPALIVES_PER_IDLE_TIMEOUT: u32 = 3;

/// Slowest limit of a snapshot's rate: the largest chunk must pass well within the stall timeout.
pub const SNAPSHOT_RATE_MIN: u64 = 1 << 20;

/// Longest pause that the slowest rate makes between two chunks, doubled.
const SNAPSHOT_STALL_MIN: Duration =
    Duration::from_secs(2 * SNAPSHOT_CHUNK_BYTES_MAX as u64 / SNAPSHOT_RATE_MIN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_is_exposed_without_tls() {
        for exposed in ["0.0.0.0:1", "10.0.0.1:1", "[::]:1", "host.example:1", ":1"] {
            assert!(is_exposed_without_tls(exposed, false), "{exposed}");
            assert!(!is_exposed_without_tls(exposed, true), "{exposed}");
        }
        for local in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"] {
            assert!(!is_exposed_without_tls(local, false), "{local}");
        }
    }

    #[test]
    fn a_rate_that_would_stall_a_snapshot_is_refused_with_both_numbers() {
        let node = NodeId::new(1).expect("a node id");
        let mut config = TransportConfig::new(node, "127.0.0.1:0", Arc::new(|| 0));
        assert!(config.validate().is_ok());
        config.snapshot_send_bytes_per_second = 1;
        let refused = config.validate().expect_err("too slow").to_string();
        assert!(refused.contains("is 1;") && refused.contains("1048576"), "{refused}");
    }
}
