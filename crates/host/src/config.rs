// SPDX-License-Identifier: Apache-2.0

//! What a host may choose for itself.

use std::path::{Path, PathBuf};

use mraft_engine::Limits;
use mraft_transport::TransportError;
use mraft_types::{DeploymentId, NodeId};

use crate::error::HostError;

/// Settings of one host. Everything here may differ between nodes, except `deployment`, which must agree, and the tick with its
/// multiples, which should.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Nodes of other deployments are refused.
    pub deployment: DeploymentId,
    /// This node.
    pub node: NodeId,
    /// Where peers reach it (host:port); may not change in fixed-address mode.
    pub raft_address: String,
    /// Where it listens for peers; [`HostConfig::raft_address`] if empty.
    pub listen_address: String,
    /// Where the state machines' and the host's own files are.
    pub data_directory: PathBuf,
    /// Where the log is; if `None`, where the data directory remembers it, at first the data directory itself.
    pub wal_directory: Option<PathBuf>,
    /// Mutual TLS for connections between nodes; plain if `None`.
    pub tls: Option<TlsFiles>,
    /// Length of a tick in milliseconds (RTTMillisecond).
    pub tick_ms: u64,
    /// Election timeout in ticks, drawn from [n, 2n) (ElectionRTT).
    pub election_ticks: u32,
    /// Heartbeat interval in ticks (HeartbeatRTT).
    pub heartbeat_ticks: u32,
    /// Whether leaders without a quorum step down.
    pub check_quorum: bool,
    /// Step workers; groups are spread over them.
    pub step_workers: usize,
    /// Apply threads; groups are spread over them.
    pub apply_threads: usize,
    /// Threads for flushes and compactions.
    pub background_threads: usize,
    /// Bounds of each group's queues.
    pub limits: Limits,
    /// Proposals are refused while a group's unapplied entries weigh more than this (MaxInMemLogSize).
    pub unapplied_bytes_max: usize,
    /// A group's entries that are applied and durable stay in memory for followers until they weigh more than this.
    pub cache_bytes_max: usize,
    /// A group's state is persisted after this many entries, whatever its buffers weigh; 0 leaves it to the state machine (SnapshotEntries).
    pub snapshot_entries: u64,
    /// Entries kept behind what the store has persisted (CompactionOverhead).
    pub compaction_overhead_entries: u64,
    /// The log is truncated only when a snapshot is requested, or when it holds too many segments (DisableAutoCompactions).
    pub truncates_on_request_only: bool,
    /// Segments that may hold needed records before groups persist their state for the log's sake and keep nothing for followers that lag
    /// (rule L5).
    pub log_segments_target: u64,
    /// Bytes of one log segment.
    pub log_segment_bytes: u64,
    /// Most bytes that wait to be sent to one peer (MaxSendQueueSize).
    pub send_queue_bytes_max: usize,
    /// Most bytes received from one peer that wait to be handled; 0 for no limit of its own (MaxReceiveQueueSize).
    pub receive_queue_bytes_max: usize,
    /// Most bytes that wait to be sent to all peers together (rule T2).
    pub send_bytes_max: usize,
    /// Most bytes received from all peers together that wait to be handled; above it nothing more is read (rule T2).
    pub receive_bytes_max: usize,
    /// Rate of sending snapshots; 0 for no limit (MaxSnapshotSendBytesPerSecond).
    pub snapshot_send_bytes_per_second: u64,
    /// Rate of receiving snapshots; 0 for no limit (MaxSnapshotRecvBytesPerSecond).
    pub snapshot_receive_bytes_per_second: u64,
    /// Most bytes of state that wait in memory to be persisted, over all groups: above it applying waits for that (rule T2).
    pub unpersisted_bytes_max: usize,
    /// When the log or a state machine keeps callers waiting for longer, leadership moves to a faster node (rule T1).
    pub slow_disk_ms: u64,
    /// Above this one, all replicas stop (rule T1).
    pub stalled_disk_ms: u64,
}

/// The seed's CAFile, CertFile and KeyFile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that peers must be signed by.
    pub ca_file: PathBuf,
    /// This node's certificate chain.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

impl TlsFiles {
    /// Reads the files and checks that they belong together, without starting anything. The error names the setting.
    pub fn check(&self) -> Result<(), HostError> {
        self.for_transport().check().map_err(|error| match error {
            TransportError::Tls { file, reason } => wrong_tls_file(Some(self), &file, &reason),
            other => HostError::Network(other.to_string()),
        })
    }

    pub(crate) fn for_transport(&self) -> mraft_transport::TlsFiles {
        mraft_transport::TlsFiles {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
        }
    }
}

/// A certificate file that cannot be used, by the setting that names it.
pub(crate) fn wrong_tls_file(files: Option<&TlsFiles>, file: &Path, reason: &str) -> HostError {
    let field = match files {
        Some(files) if files.ca_file == file => "ca_file",
        Some(files) if files.cert_file == file => "cert_file",
        _ => "key_file",
    };
    HostError::Config {
        field,
        reason: format!("{}: {reason}; give a PEM file that can be read", file.display()),
    }
}

impl HostConfig {
    /// Defaults for a node, with everything that has one.
    pub fn new(
        deployment: DeploymentId,
        node: NodeId,
        raft_address: String,
        data_directory: PathBuf,
    ) -> HostConfig {
        HostConfig {
            deployment,
            node,
            raft_address,
            listen_address: String::new(),
            data_directory,
            wal_directory: None,
            tls: None,
            tick_ms: 20,
            election_ticks: 60,
            heartbeat_ticks: 6,
            check_quorum: true,
            step_workers: 1,
            apply_threads: 1,
            background_threads: 1,
            limits: Limits::default(),
            unapplied_bytes_max: 256 << 20,
            cache_bytes_max: 1 << 20,
            snapshot_entries: 0,
            compaction_overhead_entries: 250_000,
            truncates_on_request_only: false,
            log_segments_target: 8,
            log_segment_bytes: 64 << 20,
            send_queue_bytes_max: 128 << 20,
            receive_queue_bytes_max: 0,
            send_bytes_max: 256 << 20,
            receive_bytes_max: 256 << 20,
            snapshot_send_bytes_per_second: 256 << 20,
            snapshot_receive_bytes_per_second: 0,
            unpersisted_bytes_max: 256 << 20,
            slow_disk_ms: 2_000,
            stalled_disk_ms: 30_000,
        }
    }

    /// Names the setting that cannot be, with both values that disagree and the fix.
    pub fn validate(&self) -> Result<(), HostError> {
        let wrong = |field, reason: String| Err(HostError::Config { field, reason });
        if self.tick_ms == 0 {
            return wrong("tick_ms", "is 0; give at least 1".to_owned());
        }
        if self.heartbeat_ticks == 0 {
            return wrong("heartbeat_ticks", "is 0; give at least 1".to_owned());
        }
        if u64::from(self.election_ticks) <= 2 * u64::from(self.heartbeat_ticks) {
            return wrong(
                "election_ticks",
                format!(
                    "is {}, which must be more than twice heartbeat_ticks ({}): followers would campaign between two heartbeats",
                    self.election_ticks, self.heartbeat_ticks
                ),
            );
        }
        if self.raft_address.is_empty() {
            return wrong("raft_address", "is empty; give host:port".to_owned());
        }
        if self.stalled_disk_ms <= self.slow_disk_ms {
            return wrong(
                "stalled_disk_ms",
                format!(
                    "is {}, which must be more than slow_disk_ms ({})",
                    self.stalled_disk_ms, self.slow_disk_ms
                ),
            );
        }
        Ok(())
    }
}
