// SPDX-License-Identifier: Apache-2.0

//! The transport as this host sets it up, and what it counted as metrics.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mraft_transport::{Listening, PeerStats, TransportConfig, TransportError, TransportStats};

use crate::config::{HostConfig, TlsFiles};
use crate::error::HostError;
use crate::metrics::{counter, gauge};

/// Takes the address at which peers will be listened for, and reads the certificates: what can fail before anything is written.
pub(crate) fn listen(config: &HostConfig) -> Result<Listening, HostError> {
    Listening::bind(transport_config(config)).map_err(|error| match error {
        TransportError::Listen { address, error } => HostError::Listen { address, error },
        TransportError::Tls { file, reason } => {
            crate::config::wrong_tls_file(config.tls.as_ref(), &file, &reason)
        }
        other => HostError::Network(other.to_string()),
    })
}

/// Where peers are listened for.
pub(crate) fn listen_address(config: &HostConfig) -> &str {
    if config.listen_address.is_empty() { &config.raft_address } else { &config.listen_address }
}

/// What the transport is told of a host's settings (row S14).
pub(crate) fn transport_config(config: &HostConfig) -> TransportConfig {
    let state = AtomicU64::new(crate::random::seed());
    let jitter = Arc::new(move || {
        let next = crate::random::next(state.load(Ordering::Relaxed));
        state.store(next, Ordering::Relaxed);
        next
    });
    let mut transport = TransportConfig::new(config.node, listen_address(config).to_owned(), jitter);
    transport.tls = config.tls.as_ref().map(TlsFiles::for_transport);
    transport.heartbeat_interval = Duration::from_millis(config.tick_ms * u64::from(config.heartbeat_ticks));
    transport.send_queue_bytes_max = config.send_queue_bytes_max;
    transport.send_ceiling_bytes = config.send_bytes_max;
    transport.receive_ceiling_bytes = config.receive_bytes_max;
    transport.receive_queue_bytes_max = config.receive_queue_bytes_max;
    transport.snapshot_send_bytes_per_second = config.snapshot_send_bytes_per_second;
    transport.snapshot_receive_bytes_per_second = config.snapshot_receive_bytes_per_second;
    transport
}

/// Everything that an operator may want to know of the connections, in Prometheus' text format.
pub(crate) fn write_prometheus(stats: &TransportStats, out: &mut String) {
    // A `String` takes whatever is written to it.
    let reasons = |out: &mut String, family: &str, help: &str, counts: &[(&str, u64)]| {
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} counter");
        for (reason, count) in counts {
            let _ = writeln!(out, "{family}_total{{reason=\"{reason}\"}} {count}");
        }
    };
    let dropped: Vec<_> = stats.dropped.iter().map(|(reason, count)| (reason.label(), *count)).collect();
    reasons(out, "mraft_transport_dropped", "Frames that were not sent, by reason.", &dropped);
    let closed: Vec<_> = stats.closed.iter().map(|(reason, count)| (reason.label(), *count)).collect();
    reasons(out, "mraft_transport_closed", "Connections that ended, by reason.", &closed);
    let by_peer = |out: &mut String, family: &str, help: &str, value: fn(&PeerStats) -> u64| {
        let _ = writeln!(out, "# HELP {family} {help}\n# TYPE {family} gauge");
        for peer in &stats.peers {
            let _ = writeln!(out, "{family}{{node=\"{}\"}} {}", peer.node, value(peer));
        }
    };
    by_peer(out, "mraft_transport_queue_bytes", "Bytes that wait to be sent, by peer.", |peer| {
        peer.queued_bytes as u64
    });
    by_peer(out, "mraft_transport_connected", "Whether frames can be sent, by peer.", |peer| {
        peer.is_connected.into()
    });
    by_peer(out, "mraft_transport_suspected", "Whether its process is taken for dead, by peer.", |peer| {
        peer.is_suspected.into()
    });
    gauge(
        out,
        "mraft_transport_receive_queue_bytes",
        "Bytes received from all peers that wait to be handled.",
        stats.receive_queue_bytes as u64,
    );
    gauge(
        out,
        "mraft_transport_inbound_connections",
        "Connections that others opened.",
        stats.inbound_connections as u64,
    );
    for (name, help, value) in [
        ("mraft_transport_sent_bytes_total", "Bytes of frames sent.", stats.bytes_sent),
        ("mraft_transport_received_bytes_total", "Bytes of frames received.", stats.bytes_received),
        (
            "mraft_transport_over_limit_total",
            "Frames received above max_receive_queue_size, whose entries were dropped.",
            stats.frames_over_limit,
        ),
        (
            "mraft_transport_receive_waits_total",
            "Frames whose reading waited for memory.",
            stats.receive_waits,
        ),
        (
            "mraft_transport_suspicions_total",
            "Times that a peer's process was taken for dead.",
            stats.suspicions,
        ),
        ("mraft_transport_dials_failed_total", "Attempts to connect that failed.", stats.dials_failed),
        ("mraft_snapshot_sent_bytes_total", "Bytes of snapshots sent.", stats.snapshot_bytes_sent),
        (
            "mraft_snapshot_received_bytes_total",
            "Bytes of snapshots received.",
            stats.snapshot_bytes_received,
        ),
        (
            "mraft_snapshot_throttled_milliseconds_total",
            "Time that snapshots waited for their rate.",
            stats.snapshot_throttled_ms,
        ),
    ] {
        counter(out, name, help, value);
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{DeploymentId, NodeId};

    use super::*;

    #[test]
    fn s14_every_limit_of_a_host_reaches_its_transport() {
        let node = NodeId::new(1).expect("a node id");
        let mut config = HostConfig::new(DeploymentId(7), node, "h:1".to_owned(), "/data".into());
        assert_eq!(transport_config(&config).listen_address, "h:1");
        config.listen_address = "h:2".to_owned();
        (config.tick_ms, config.heartbeat_ticks) = (7, 3);
        (config.send_queue_bytes_max, config.receive_queue_bytes_max) = (101, 102);
        (config.send_bytes_max, config.receive_bytes_max) = (103, 104);
        config.snapshot_send_bytes_per_second = 105;
        config.snapshot_receive_bytes_per_second = 106;
        config.tls =
            Some(TlsFiles { ca_file: "ca".into(), cert_file: "cert".into(), key_file: "key".into() });
        let transport = transport_config(&config);
        assert_eq!((transport.node, transport.listen_address.as_str()), (node, "h:2"));
        assert_eq!(transport.heartbeat_interval, Duration::from_millis(21));
        assert_eq!((transport.send_queue_bytes_max, transport.receive_queue_bytes_max), (101, 102));
        assert_eq!((transport.send_ceiling_bytes, transport.receive_ceiling_bytes), (103, 104));
        assert_eq!(transport.snapshot_send_bytes_per_second, 105);
        assert_eq!(transport.snapshot_receive_bytes_per_second, 106);
        let tls = transport.tls.expect("given");
        assert_eq!((tls.ca_file, tls.cert_file, tls.key_file), ("ca".into(), "cert".into(), "key".into()));
    }
}
