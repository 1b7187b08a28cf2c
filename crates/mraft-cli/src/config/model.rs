// SPDX-License-Identifier: Apache-2.0

//! A configuration in which everything fits together: what a node is put together from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mraft_types::{DeploymentId, GroupId, NodeId};

use super::address::HostPort;
use super::groups::{GroupPlan, TopologySource};
use super::source::Source;

/// Everything a node is told. Made by [`load`](super::load) only, so whoever holds one need not check it again.
///
/// Sizes and rates that may be unlimited are `None` when they are: no limit of their own, the memory ceiling still holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Isolates deployments from one another.
    pub deployment_id: DeploymentId,
    /// Who this node is.
    pub node_id: NodeId,
    /// Where it keeps everything that it must not lose.
    pub data_dir: PathBuf,
    /// Where its log goes, if anybody said so; else where the data directory remembers it, at first the data directory itself.
    pub wal_dir: Option<PathBuf>,
    /// The groups that the document knows of, by id.
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// Where the first routing table comes from.
    pub topology: TopologySource,
    /// Connections between nodes.
    pub peers: PeerSettings,
    /// How groups agree.
    pub raft: RaftSettings,
    /// Log, snapshots and disks.
    pub storage: StorageSettings,
    /// The HTTP door.
    pub http: HttpSettings,
    /// Logs and metrics.
    pub observability: ObservabilitySettings,
    /// What all buffers, queues and caches may take together.
    pub memory_ceiling_bytes: u64,
    /// How long handing over leaders and finishing requests may take.
    pub shutdown_grace: Duration,
    /// Where each setting came from, by name, for messages about values that turn out wrong later.
    pub sources: BTreeMap<&'static str, Source>,
    /// What an operator should know although nothing is wrong; for the log at start.
    pub notices: Vec<String>,
}

/// Connections between nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// The address under which others reach this node; fixed for its life.
    pub raft_address: HostPort,
    /// Where it listens.
    pub listen_address: HostPort,
    /// Certificates of mutual TLS; `None` is plain TCP.
    pub mutual_tls: Option<MutualTlsFiles>,
    /// Most bytes waiting for one peer.
    pub send_queue_bytes_max: Option<u64>,
    /// Most replication bytes waiting to be handled.
    pub receive_queue_bytes_max: Option<u64>,
    /// Rate of all snapshots sent.
    pub snapshot_send_bytes_per_second_max: Option<u64>,
    /// Rate of all snapshots received.
    pub snapshot_receive_bytes_per_second_max: Option<u64>,
}

/// The three files of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualTlsFiles {
    /// Authority of all nodes' certificates.
    pub ca_file: PathBuf,
    /// This node's certificate.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// How groups agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// Length of a tick; at least 1 ms.
    pub tick: Duration,
    /// Election timeouts are drawn from this to twice this.
    pub election_ticks: u32,
    /// Distance of heartbeats.
    pub heartbeat_ticks: u32,
    /// Whether a leader without a majority steps down.
    pub check_quorum: bool,
    /// Whether membership changes must name the configuration that they were made for.
    pub ordered_config_change: bool,
    /// How often replicas' hash chains are compared; zero for never.
    pub compare_every: Duration,
    /// How often their whole content is; zero for never.
    pub compare_content_every: Duration,
    /// Most bytes of a group's entries that are not applied.
    pub unapplied_bytes_max: Option<u64>,
    /// Largest value that the doors accept.
    pub value_bytes_max: u64,
}

/// Log, snapshots and disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageSettings {
    /// Size of a log file.
    pub log_segment_bytes: u64,
    /// A snapshot is taken after this many entries; `None` on request only.
    pub snapshot_entries: Option<u64>,
    /// Entries kept behind a snapshot.
    pub compaction_overhead_entries: u64,
    /// Whether log space is given back without being asked.
    pub auto_compactions: bool,
    /// Age of an unfinished log write above which leaders move away.
    pub slow_disk: Duration,
    /// Age of an unfinished log write above which the node stops serving.
    pub stalled_disk: Duration,
}

/// The HTTP door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where it listens.
    pub listen_address: HostPort,
    /// Under which address clients and other nodes' tables should name it.
    pub advertised_address: HostPort,
    /// Certificate and key; `None` is plain HTTP.
    pub tls: Option<HttpTlsFiles>,
    /// Deadline of a request that brings none.
    pub request_timeout: Duration,
}

/// The two files of HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpTlsFiles {
    /// The door's certificate.
    pub cert_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// Logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservabilitySettings {
    /// Directory of the log files; `None` logs to the terminal only.
    pub log_dir: Option<PathBuf>,
    /// Which events are logged.
    pub log_level: String,
    /// Whether /metrics answers.
    pub metrics: bool,
}

impl NodeConfig {
    /// Where a setting came from, for a message about its value.
    pub fn source_of(&self, name: &str) -> &Source {
        self.sources.get(name).unwrap_or(&Source::Default)
    }

    /// Doors that others than this machine can reach and that anybody can read along: what must be said loudly at start.
    pub fn plain_doors(&self) -> Vec<String> {
        let mut doors = Vec::new();
        if self.peers.mutual_tls.is_none() && !self.peers.listen_address.host.is_loopback() {
            doors.push(format!(
                "the connections between nodes on {} are not encrypted and not authenticated: set mutual_tls",
                self.peers.listen_address
            ));
        }
        if self.http.tls.is_none() && !self.http.listen_address.host.is_loopback() {
            doors.push(format!(
                "HTTP on {} is not encrypted: set http_tls_cert_file and http_tls_key_file",
                self.http.listen_address
            ));
        }
        doors
    }
}
