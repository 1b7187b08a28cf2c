// SPDX-License-Identifier: Apache-2.0

//! The table of every setting: name, type, default, range, and one line of why.
//!
//! The table is the only place where a setting is declared. The typed [`Settings`], `mraft config default`, the
//! suggestions for mistyped names and `docs/operate/config.md` all come from it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use mraft_types::NodeId;
use mraft_types::limits::{COMMAND_BYTES_MAX, ENTRY_BYTES_MAX, KEY_BYTES_MAX, SEGMENT_BYTES_MIN};

use super::address::{Host, HostPort};
use super::groups::{JoinMap, MemberMap};
use super::layers::Layers;
use super::source::{Problem, Setting, Source};
use super::value::{Bytes, Listen, Milliseconds, Port, Value};

/// One setting, as documentation and messages know it.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its name in TOML, in `--set` and, in capitals behind `MRAFT_`, in the environment.
    pub name: &'static str,
    /// What documentation calls its type.
    pub kind: &'static str,
    /// Its name in the seed's JSON document, if it occurs there.
    pub json: Option<&'static str>,
    /// Other names that our TOML understands: those of the options that operators of the seed's system know.
    pub aliases: &'static [&'static str],
    /// The default as it would be written; empty when it depends on other things.
    pub default: &'static str,
    /// What an empty default becomes.
    pub derived: &'static str,
    /// What a number counts.
    pub unit: &'static str,
    /// Which numbers are allowed.
    pub range: RangeInclusive<u64>,
    /// Which strings are allowed; empty for any.
    pub choices: &'static [&'static str],
    /// Why one would set it.
    pub why: &'static str,
    /// Which chapter of the documentation it belongs to.
    pub chapter: Chapter,
    /// Whether it is a table group → node → value.
    pub is_map: bool,
}

/// Chapters of the documentation, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chapter {
    /// Who and where the node is.
    Node,
    /// Which groups it holds and with whom.
    Groups,
    /// How groups agree.
    Raft,
    /// Log and snapshots on disk.
    Storage,
    /// Connections between nodes.
    Peers,
    /// The HTTP door.
    Http,
    /// What the operator sees.
    Observability,
}

impl Chapter {
    /// Every chapter in order.
    pub const ALL: [Chapter; 7] = [
        Chapter::Node,
        Chapter::Groups,
        Chapter::Raft,
        Chapter::Storage,
        Chapter::Peers,
        Chapter::Http,
        Chapter::Observability,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Chapter::Node => "The node",
            Chapter::Groups => "Groups",
            Chapter::Raft => "Raft",
            Chapter::Storage => "Storage",
            Chapter::Peers => "Connections between nodes",
            Chapter::Http => "HTTP",
            Chapter::Observability => "Logs and metrics",
        }
    }
}

impl Key {
    /// A key about which nothing has been said yet.
    const BLANK: Key = Key {
        name: "",
        kind: "",
        json: None,
        aliases: &[],
        default: "",
        derived: "none",
        unit: "",
        range: 0..=u64::MAX,
        choices: &[],
        why: "",
        chapter: Chapter::Node,
        is_map: false,
    };

    /// The key with this TOML name or alias.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name || key.aliases.contains(&name))
    }

    /// Its environment variable.
    pub fn environment(&self) -> String {
        format!("MRAFT_{}", self.name.to_ascii_uppercase())
    }
}

/// Names that older documents carry; reported as ignored.
pub const LEGACY: [&str; 2] = ["native", "raftPeers"];

/// Options that a later release brings, and what to do until then. They are refused by name rather than as unknown.
pub const LATER: [(&str, &str); 11] = [
    ("control_center", "give --config FILE"),
    ("sessions", "make writes conditional (If-Match), so that a retry is harmless"),
    ("session_max", "make writes conditional (If-Match), so that a retry is harmless"),
    ("ttl", "delete keys explicitly"),
    ("slot_moves", "choose the groups at the cluster's start: slots are spread evenly over them"),
    ("import", "start the cluster empty"),
    ("gossip", "use fixed addresses (ip, raft_port)"),
    ("address_by_node_host_id", "use fixed addresses (ip, raft_port)"),
    ("node_host_id", "use fixed addresses (ip, raft_port)"),
    ("resp_port", "use HTTP"),
    ("witnesses", "use voters"),
];

const ELECTION_RTT_MAX: u64 = 100_000;
const DAY_MS: u64 = 86_400_000;
/// What a command holds besides its key and value.
const COMMAND_OVERHEAD_BYTES: usize = 1 << 10;
const VALUE_BYTES_MAX: u64 = (COMMAND_BYTES_MAX - KEY_BYTES_MAX - COMMAND_OVERHEAD_BYTES) as u64;
/// A node below this cannot hold one turn's buffers of its peers and its log.
pub const MEMORY_CEILING_BYTES_MIN: u64 = 192 << 20;
/// Larger segments only make reclaiming coarser.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

macro_rules! settings {
    ($( $chapter:ident { $( $(#[map = $map:literal])? $name:ident: $type:ty = { $($field:ident: $value:expr),* $(,)? } )* } )*) => {
        /// Every setting, in the order of the documentation.
        pub static KEYS: &[Key] = &[$($(
            Key {
                name: stringify!($name),
                kind: <$type as Value>::KIND,
                chapter: Chapter::$chapter,
                $(is_map: $map,)?
                $($field: $value,)*
                ..Key::BLANK
            },
        )*)*];

        /// Every setting with its value and where that came from; each is right by itself, nothing has been compared yet.
        #[derive(Clone, Debug)]
        #[allow(missing_docs, reason = "each field is described by its row of the table")]
        pub struct Settings {
            $($( pub $name: Setting<$type>, )*)*
        }

        impl Settings {
            /// Reads every setting from the layers. Everything that is wrong becomes a problem; `None` if anything was.
            pub fn read(layers: &Layers, problems: &mut Vec<Problem>) -> Option<Settings> {
                let mut keys = KEYS.iter();
                $($( let $name = <$type as Value>::take(keys.next()?, layers, problems); )*)*
                Some(Settings { $($( $name: $name?, )*)* })
            }

            /// Where each setting came from, by name.
            pub fn sources(&self) -> BTreeMap<&'static str, Source> {
                BTreeMap::from([$($( (stringify!($name), self.$name.source.clone()), )*)*])
            }
        }
    };
}

settings! {
    Node {
        data_dir: PathBuf = {
            json: Some("raftDir"), aliases: &["raft_dir", "NodeHostDir"], default: "mraft-data",
            why: "Where the node keeps everything that it must not lose. Flag: --data-dir.",
        }
        wal_dir: Option<PathBuf> = {
            aliases: &["WALDir"], derived: "data_dir",
            why: "Where the log goes when it should have a disk of its own.",
        }
        node_id: Option<NodeId> = {
            json: Some("nodeId"), aliases: &["NodeID"], derived: "made of ip and raft_port",
            why: "Who the node is, for ever; needed when its Raft address is an IPv6 address or a host name.",
        }
        deployment_id: u64 = {
            aliases: &["DeploymentID"], default: "0",
            why: "Nodes of different deployments refuse to talk to each other.",
        }
        ip: Option<Host> = {
            json: Some("ip"), derived: "127.0.0.1",
            why: "Under which address other nodes reach this one.",
        }
        raft_port: Option<Port> = {
            json: Some("raft_port"), derived: "13890", range: 1..=65_534,
            why: "Port for other nodes. Second positional argument of `mraft node`.",
        }
        raft_address: Option<HostPort> = {
            aliases: &["RaftAddress"], derived: "ip:raft_port",
            why: "The same as ip and raft_port in one; it may not change once the node has started.",
        }
        memory_ceiling_bytes: Option<Bytes> = {
            derived: "half of the machine's memory, or of the cgroup's limit", unit: "bytes",
            range: MEMORY_CEILING_BYTES_MIN..=u64::MAX,
            why: "What all buffers, queues and caches of the node may take together; no other limit lifts it. Code, stacks and the allocator take up to 64MiB beside it (measured at 256MiB).",
        }
        shutdown_grace_ms: Milliseconds = {
            default: "30000", unit: "ms", range: 0..=DAY_MS,
            why: "How long a node that was told to stop hands over leaders and finishes requests.",
        }
    }
    Groups {
        #[map = true]
        initial_members: MemberMap = {
            json: Some("initial_members"), derived: "no groups",
            why: "Per group the Raft address of each node: initial_members.GROUP.NODE = \"host:port\". Lists all groups of the cluster.",
        }
        #[map = true]
        join: JoinMap = {
            json: Some("join"), derived: "every listed node is an original member",
            why: "Per group and node: true if the node joined later, false if it is an original member.",
        }
        is_observer: bool = {
            aliases: &["IsObserver", "IsNonVoting"], default: "false",
            why: "Observers come with a later release; only false is accepted.",
        }
        is_witness: bool = {
            aliases: &["IsWitness"], default: "false",
            why: "Witnesses come with a later release; only false is accepted.",
        }
    }
    Raft {
        rtt_ms: Milliseconds = {
            aliases: &["RTTMillisecond", "rtt_millisecond"], default: "20", unit: "ms", range: 0..=60_000,
            why: "Length of a tick: elections and heartbeats count in it. 0 is taken as 1.",
        }
        election_rtt: u64 = {
            aliases: &["ElectionRTT"], default: "60", unit: "ticks", range: 1..=ELECTION_RTT_MAX,
            why: "A follower that hears nothing campaigns after this many to twice as many ticks. More than twice heartbeat_rtt.",
        }
        heartbeat_rtt: u64 = {
            aliases: &["HeartbeatRTT"], default: "6", unit: "ticks", range: 1..=ELECTION_RTT_MAX,
            why: "A leader sends heartbeats every so many ticks.",
        }
        check_quorum: bool = {
            aliases: &["CheckQuorum"], default: "true",
            why: "A leader that does not hear from a majority for an election timeout steps down.",
        }
        ordered_config_change: bool = {
            aliases: &["OrderedConfigChange"], default: "true",
            why: "A membership change must name the configuration that it was made for.",
        }
        compare_every_ms: Milliseconds = {
            default: "10000", unit: "ms", range: 0..=DAY_MS,
            why: "How often a group that is written to compares its replicas' hash chains; one that differs alone is condemned. 0 = never.",
        }
        compare_content_every_ms: Milliseconds = {
            default: "3600000", unit: "ms", range: 0..=DAY_MS,
            why: "The same for the whole content, which every replica reads for it in the background. 0 = never.",
        }
        max_in_mem_log_size: Bytes = {
            aliases: &["MaxInMemLogSize"], default: "256MiB", unit: "bytes",
            why: "Per group: new writes are refused while entries that are not applied weigh more. 0 = no limit of its own.",
        }
        max_value_bytes: Bytes = {
            default: "1MiB", unit: "bytes", range: 1..=VALUE_BYTES_MAX,
            why: "Largest value that the doors accept.",
        }
        entry_compression: String = {
            aliases: &["EntryCompressionType"], default: "none", choices: &["none", "snappy"],
            why: "How entries are compressed; snappy comes with a later release.",
        }
        quiesce: bool = {
            aliases: &["Quiesce"], default: "false",
            why: "Sleeping groups come with a later release; only false is accepted.",
        }
    }
    Storage {
        log_segment_bytes: Bytes = {
            default: "64MiB", unit: "bytes", range: SEGMENT_BYTES_MIN as u64..=SEGMENT_BYTES_MAX,
            why: "Size of a log file; files are allocated whole and used again.",
        }
        snapshot_entries: u64 = {
            aliases: &["SnapshotEntries"], default: "2500000", unit: "entries",
            why: "A group takes a snapshot after this many entries. 0 = only on request.",
        }
        compaction_overhead: u64 = {
            aliases: &["CompactionOverhead"], default: "250000", unit: "entries",
            why: "Entries kept behind a snapshot, so that a follower that is a little behind needs no snapshot.",
        }
        disable_auto_compactions: bool = {
            aliases: &["DisableAutoCompactions"], default: "false",
            why: "Log space is then given back only when a snapshot is requested, or when the log is longer than it should be.",
        }
        snapshot_compression: String = {
            aliases: &["SnapshotCompressionType"], default: "none", choices: &["none", "snappy"],
            why: "How snapshots are compressed; the store compresses already, snappy comes with a later release.",
        }
        slow_disk_ms: Milliseconds = {
            default: "2000", unit: "ms", range: 1..=DAY_MS,
            why: "When the log or a state machine keeps callers waiting for longer, leaders move to nodes with faster disks.",
        }
        stalled_disk_ms: Milliseconds = {
            default: "30000", unit: "ms", range: 1..=DAY_MS,
            why: "When the log or a state machine keeps callers waiting for longer, the node stops serving and says so.",
        }
    }
    Peers {
        listen_address: Option<HostPort> = {
            aliases: &["ListenAddress"], derived: "raft_address",
            why: "Where to listen for other nodes when that is not the advertised address, such as \"0.0.0.0:13890\".",
        }
        mutual_tls: bool = {
            aliases: &["MutualTLS"], default: "false",
            why: "Nodes prove to each other who they are, and nobody else can read along.",
        }
        ca_file: Option<PathBuf> = { aliases: &["CAFile"], why: "Authority of the nodes' certificates (PEM)." }
        cert_file: Option<PathBuf> = { aliases: &["CertFile"], why: "This node's certificate (PEM)." }
        key_file: Option<PathBuf> = { aliases: &["KeyFile"], why: "The certificate's private key (PEM)." }
        max_send_queue_size: Bytes = {
            aliases: &["MaxSendQueueSize"], default: "128MiB", unit: "bytes",
            why: "Messages waiting for one peer; above it they are dropped and counted. 0 = no limit of its own.",
        }
        max_receive_queue_size: Bytes = {
            aliases: &["MaxReceiveQueueSize"], default: "0", unit: "bytes",
            why: "Replication messages waiting to be handled; above it they are dropped and counted. 0 = no limit of its own.",
        }
        max_snapshot_send_bytes_per_second: Bytes = {
            aliases: &["MaxSnapshotSendBytesPerSecond"], default: "256MiB", unit: "bytes/s",
            why: "All snapshots that the node sends together, at least 1MiB. 0 = no limit.",
        }
        max_snapshot_recv_bytes_per_second: Bytes = {
            aliases: &["MaxSnapshotRecvBytesPerSecond"], default: "0", unit: "bytes/s",
            why: "All snapshots that the node receives together, at least 1MiB. 0 = no limit.",
        }
    }
    Http {
        http_port: Option<Port> = {
            json: Some("http_port"), derived: "raft_port + 1", range: 1..=65_535,
            why: "Port for clients. First positional argument of `mraft node`.",
        }
        http_listen: Option<Listen> = {
            derived: "127.0.0.1 (with a JSON document: its ip)",
            why: "Interface for clients; anything but loopback should have TLS.",
        }
        http_tls_cert_file: Option<PathBuf> = { why: "Certificate of the HTTP door (PEM); with it HTTP is HTTPS." }
        http_tls_key_file: Option<PathBuf> = { why: "Private key of that certificate (PEM)." }
        request_timeout_ms: Milliseconds = {
            default: "5000", unit: "ms", range: 1..=DAY_MS,
            why: "How long a request may take that brings no deadline of its own.",
        }
    }
    Observability {
        log_dir: Option<PathBuf> = {
            json: Some("logDir"), derived: "logs go to the terminal only",
            why: "Directory of the log files: a new one each day and every 256 MiB, the newest 14 are kept.",
        }
        log_level: String = {
            default: "info",
            why: "error, warn, info, debug or trace; per part as in \"info,mraft_transport=debug\". Flag: --log-level.",
        }
        enable_metrics: bool = {
            aliases: &["EnableMetrics"], default: "true",
            why: "Serve Prometheus metrics at /metrics, and series per group at /metrics?per_group. The earlier system's default is false.",
        }
    }
}

// An entry larger than the largest command must fit what a group may hold, or nothing could ever be proposed.
const _: () = assert!(COMMAND_BYTES_MAX < ENTRY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_aliases_are_unique() {
        let mut seen = BTreeSet::new();
        for key in KEYS {
            for name in std::iter::once(key.name).chain(key.aliases.iter().copied()) {
                assert!(seen.insert(name), "{name}");
            }
        }
        for (name, _) in LATER {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn a_request_without_a_deadline_has_the_doors_default() {
        let key = Key::find("request_timeout_ms").expect("a key");
        assert_eq!(key.default, mraft_gateway::limits::TIMEOUT_MS_DEFAULT.to_string());
    }

    #[test]
    fn the_seeds_document_is_known_key_for_key() {
        let json: BTreeSet<&str> = KEYS.iter().filter_map(|key| key.json).collect();
        let seed = ["raftDir", "logDir", "nodeId", "join", "initial_members", "ip", "raft_port", "http_port"];
        assert_eq!(json, BTreeSet::from(seed));
    }

    #[test]
    fn every_default_is_a_value_of_its_key() {
        let mut problems = Vec::new();
        assert!(Settings::read(&Layers::default(), &mut problems).is_some(), "{problems:?}");
        for key in KEYS {
            assert!(!key.why.is_empty() && key.why.ends_with('.'), "{}", key.name);
        }
    }
}
