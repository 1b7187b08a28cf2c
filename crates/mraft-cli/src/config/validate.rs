// SPDX-License-Identifier: Apache-2.0

//! From settings that are right one by one to a configuration in which everything fits together.
//!
//! Nothing is read or written here, and of the machine only the name of the working directory is asked: what else must be known of it
//! comes as an argument.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mraft_transport::SNAPSHOT_RATE_MIN;
use mraft_types::limits::{COMMAND_BYTES_MAX, ENTRY_BYTES_MAX};
use mraft_types::{DeploymentId, NodeId};

use super::address::{Host, HostPort};
use super::groups;
use super::keys::{MEMORY_CEILING_BYTES_MIN, Settings};
use super::model::{
    HttpSettings, HttpTlsFiles, MutualTlsFiles, NodeConfig, ObservabilitySettings, PeerSettings,
    RaftSettings, StorageSettings,
};
use super::source::{Problem, Setting, Source};
use super::value::{Bytes, Milliseconds};

/// Port for other nodes when nobody says otherwise (row S11).
pub const RAFT_PORT_DEFAULT: u16 = 13_890;
/// Elections closer to heartbeats than this are allowed but unwise: a single late heartbeat then costs a leader.
const HEARTBEATS_PER_ELECTION_ADVISED: u64 = 10;
/// The ceiling of a machine whose memory nobody can tell.
const MEMORY_CEILING_BYTES_UNKNOWN: u64 = 1 << 30;

/// Compares the settings with each other. `memory_bytes` is what the machine has, if that is known.
pub fn validate(
    settings: &Settings,
    memory_bytes: Option<u64>,
    mut notices: Vec<String>,
    problems: &mut Vec<Problem>,
) -> Option<NodeConfig> {
    let before = problems.len();
    refuse_what_comes_later(settings, problems);
    let raft_address = raft_address(settings, problems);
    let node_id = node_id(settings, &raft_address, problems);
    let http = http(settings, &raft_address, problems);
    let peers = peers(settings, &raft_address, &http, problems, &mut notices);
    let raft = raft(settings, problems, &mut notices);
    let storage = storage(settings, problems);
    directories(settings, problems);
    if let Err(why) = crate::logging::check_level(&settings.log_level.value) {
        problems.push(Problem::Value { given: settings.log_level.given("log_level"), expected: why });
    }
    let groups = match &node_id {
        Some(node) => {
            let (members, join) = (&settings.initial_members.value, &settings.join.value);
            groups::plan(members, join, node, &raft_address, problems)
        }
        None => None,
    };
    if problems.len() > before {
        return None;
    }
    let (groups, topology) = groups?;
    let data_dir = settings.data_dir.value.clone();
    let ceiling = settings.memory_ceiling_bytes.value.map(|bytes| bytes.0);
    Some(NodeConfig {
        deployment_id: DeploymentId(settings.deployment_id.value),
        node_id: node_id?.value,
        wal_dir: settings.wal_dir.value.clone(),
        data_dir,
        groups,
        topology,
        peers,
        raft,
        storage,
        http,
        observability: ObservabilitySettings {
            log_dir: settings.log_dir.value.clone(),
            log_level: settings.log_level.value.clone(),
            metrics: settings.enable_metrics.value,
        },
        memory_ceiling_bytes: ceiling.unwrap_or_else(|| default_ceiling_bytes(memory_bytes)),
        shutdown_grace: duration(settings.shutdown_grace_ms.value),
        sources: settings.sources(),
        notices,
    })
}

fn default_ceiling_bytes(memory_bytes: Option<u64>) -> u64 {
    memory_bytes.map_or(MEMORY_CEILING_BYTES_UNKNOWN, |bytes| (bytes / 2).max(MEMORY_CEILING_BYTES_MIN))
}

fn refuse_what_comes_later(settings: &Settings, problems: &mut Vec<Problem>) {
    let switches = [
        ("is_observer", &settings.is_observer, "make the node a voter (leave is_observer false)"),
        ("is_witness", &settings.is_witness, "make the node a voter (leave is_witness false)"),
        ("quiesce", &settings.quiesce, "leave quiesce false: heartbeats of all groups share messages"),
    ];
    for (name, switch, instead) in switches {
        if switch.value {
            problems.push(Problem::Later { given: switch.given(name), instead: instead.to_owned() });
        }
    }
    let compressions = [
        ("entry_compression", &settings.entry_compression),
        ("snapshot_compression", &settings.snapshot_compression),
    ];
    for (name, compression) in compressions {
        if compression.value != "none" {
            let instead = format!("set {name} to \"none\"");
            problems.push(Problem::Later { given: compression.given(name), instead });
        }
    }
}

/// The advertised address: `raft_address`, or `ip` and `raft_port`, which must then agree with it. What is said now wins over the
/// identity that was kept, so that a changed address is noticed rather than hidden.
fn raft_address(settings: &Settings, problems: &mut Vec<Problem>) -> Setting<HostPort> {
    let (whole, ip, port) = (&settings.raft_address, &settings.ip, &settings.raft_port);
    if let (Some(address), true) = (&whole.value, whole.source.is_explicit()) {
        let fix = "say it once: leave out raft_address, or ip and raft_port".to_owned();
        if let Some(host) = ip.value.as_ref().filter(|host| **host != address.host) {
            let right = Setting { value: host.clone(), source: ip.source.clone() }.given("ip");
            problems.push(Problem::Conflict { left: whole.given("raft_address"), right, fix: fix.clone() });
        }
        if port.value.is_some_and(|port| port.0 != address.port) {
            problems.push(Problem::Conflict {
                left: whole.given("raft_address"),
                right: port.given("raft_port"),
                fix,
            });
        }
    }
    let known = whole.value.as_ref();
    let host = ip.value.clone().or_else(|| known.map(|address| address.host.clone()));
    let port_number = port.value.map(|port| port.0).or_else(|| known.map(|address| address.port));
    let source = [&whole.source, &ip.source, &port.source].into_iter().max().cloned();
    let address =
        HostPort { host: host.unwrap_or(Host::LOOPBACK), port: port_number.unwrap_or(RAFT_PORT_DEFAULT) };
    let address = Setting { value: address, source: source.unwrap_or(Source::Default) };
    if address.value.host.is_unspecified() {
        let name = if ip.value.is_some() { "ip" } else { "raft_address" };
        problems.push(Problem::Value {
            given: address.given(name),
            expected: format!(
                "an address that other nodes can dial; to listen everywhere set listen_address to \"0.0.0.0:{}\"",
                address.value.port
            ),
        });
    }
    address
}

fn node_id(
    settings: &Settings,
    raft_address: &Setting<HostPort>,
    problems: &mut Vec<Problem>,
) -> Option<Setting<NodeId>> {
    let source = settings.node_id.source.clone();
    if let Some(value) = settings.node_id.value {
        return Some(Setting { value, source });
    }
    if let Some(value) = raft_address.value.node_id() {
        return Some(Setting { value, source: raft_address.source.clone() });
    }
    problems.push(Problem::Missing {
        field: "node_id".to_owned(),
        fix: format!(
            "the Raft address {} ({}) is no IPv4 address, so no id can be made of it: set node_id to a number from 1 to \
             281474976710655 that no other node has",
            raft_address.value, raft_address.source
        ),
    });
    None
}

fn http(settings: &Settings, raft_address: &Setting<HostPort>, problems: &mut Vec<Problem>) -> HttpSettings {
    let (listen, port) = (&settings.http_listen, &settings.http_port);
    let listen_port = listen.value.as_ref().and_then(|listen| listen.port);
    // A port that is only remembered gives way to one that is said with the interface.
    let port_value = port.value.filter(|_| listen_port.is_none() || port.source.is_explicit());
    if let (Some(inner), Some(outer)) = (listen_port, port_value)
        && inner != outer.0
    {
        problems.push(Problem::Conflict {
            left: listen.given("http_listen"),
            right: port.given("http_port"),
            fix: format!("say the port once: leave out http_port, or write http_listen without `:{inner}`"),
        });
    }
    let raft_port = raft_address.value.port;
    let http_port = port_value.map(|port| port.0).or(listen_port).or_else(|| raft_port.checked_add(1));
    let http_port = http_port.unwrap_or_else(|| {
        problems.push(Problem::Value {
            given: raft_address.given("raft_address"),
            expected: "a port below 65535: the HTTP port follows it".to_owned(),
        });
        raft_port
    });
    let ip_of_document = settings.ip.value.clone().filter(|_| settings.ip.source.is_document());
    let said = listen.value.as_ref().map(|listen| listen.host.clone());
    let host = match listen.source.is_explicit() {
        true => said,
        false => ip_of_document.or(said),
    };
    let listen_address = HostPort { host: host.unwrap_or(Host::LOOPBACK), port: http_port };
    let advertised = match listen_address.host.is_unspecified() {
        true => HostPort { host: raft_address.value.host.clone(), port: http_port },
        false => listen_address.clone(),
    };
    let tls = match (&settings.http_tls_cert_file, &settings.http_tls_key_file) {
        (Setting { value: Some(cert), .. }, Setting { value: Some(key), .. }) => {
            Some(HttpTlsFiles { cert_file: cert.clone(), key_file: key.clone() })
        }
        (Setting { value: None, .. }, Setting { value: None, .. }) => None,
        (cert, key) => {
            problems.push(Problem::Conflict {
                left: cert.given("http_tls_cert_file"),
                right: key.given("http_tls_key_file"),
                fix: "give both for HTTPS or neither for HTTP".to_owned(),
            });
            None
        }
    };
    let request_timeout = duration(settings.request_timeout_ms.value);
    HttpSettings { listen_address, advertised_address: advertised, tls, request_timeout }
}

fn peers(
    settings: &Settings,
    raft_address: &Setting<HostPort>,
    http: &HttpSettings,
    problems: &mut Vec<Problem>,
    notices: &mut Vec<String>,
) -> PeerSettings {
    let listen_address = settings.listen_address.value.clone().unwrap_or_else(|| raft_address.value.clone());
    if listen_address.port == http.listen_address.port {
        let left = match &settings.listen_address.value {
            Some(_) => settings.listen_address.given("listen_address"),
            None => raft_address.given("raft_address"),
        };
        let right = match settings.http_port.value {
            Some(_) => settings.http_port.given("http_port"),
            None => settings.http_listen.given("http_listen"),
        };
        let fix = "nodes and clients need a port each: change one of them".to_owned();
        problems.push(Problem::Conflict { left, right, fix });
    }
    for (name, queue) in [
        ("max_send_queue_size", &settings.max_send_queue_size),
        ("max_receive_queue_size", &settings.max_receive_queue_size),
    ] {
        must_hold_an_entry(name, queue, ENTRY_BYTES_MAX as u64, problems);
    }
    for (name, rate) in [
        ("max_snapshot_send_bytes_per_second", &settings.max_snapshot_send_bytes_per_second),
        ("max_snapshot_recv_bytes_per_second", &settings.max_snapshot_recv_bytes_per_second),
    ] {
        must_deliver_snapshots(name, rate, problems);
    }
    PeerSettings {
        raft_address: raft_address.value.clone(),
        listen_address,
        mutual_tls: mutual_tls(settings, problems, notices),
        send_queue_bytes_max: limit(settings.max_send_queue_size.value),
        receive_queue_bytes_max: limit(settings.max_receive_queue_size.value),
        snapshot_send_bytes_per_second_max: limit(settings.max_snapshot_send_bytes_per_second.value),
        snapshot_receive_bytes_per_second_max: limit(settings.max_snapshot_recv_bytes_per_second.value),
    }
}

fn mutual_tls(
    settings: &Settings,
    problems: &mut Vec<Problem>,
    notices: &mut Vec<String>,
) -> Option<MutualTlsFiles> {
    let files = [
        ("ca_file", &settings.ca_file),
        ("cert_file", &settings.cert_file),
        ("key_file", &settings.key_file),
    ];
    if !settings.mutual_tls.value {
        for (name, file) in files.iter().filter(|(_, file)| file.value.is_some() && file.source.is_explicit())
        {
            notices.push(format!(
                "{} has no effect while mutual_tls is false ({}): set mutual_tls to true to encrypt the connections between nodes",
                file.given(name),
                settings.mutual_tls.source
            ));
        }
        return None;
    }
    for (name, file) in files.iter().filter(|(_, file)| file.value.is_none()) {
        problems.push(Problem::Conflict {
            left: settings.mutual_tls.given("mutual_tls"),
            right: file.given(name),
            fix: format!("mutual TLS needs {name}: give the PEM file, or set mutual_tls to false"),
        });
    }
    let file = |setting: &Setting<Option<PathBuf>>| setting.value.clone();
    Some(MutualTlsFiles {
        ca_file: file(&settings.ca_file)?,
        cert_file: file(&settings.cert_file)?,
        key_file: file(&settings.key_file)?,
    })
}

fn raft(settings: &Settings, problems: &mut Vec<Problem>, notices: &mut Vec<String>) -> RaftSettings {
    let (election, heartbeat) = (&settings.election_rtt, &settings.heartbeat_rtt);
    if election.value <= 2 * heartbeat.value {
        problems.push(Problem::Conflict {
            left: election.given("election_rtt"),
            right: heartbeat.given("heartbeat_rtt"),
            fix: format!(
                "followers would campaign between two heartbeats: set election_rtt to more than {} (ten times heartbeat_rtt is good)",
                2 * heartbeat.value
            ),
        });
    } else if election.value < HEARTBEATS_PER_ELECTION_ADVISED * heartbeat.value {
        notices.push(format!(
            "{} is less than ten times {}: a late heartbeat may cost a leader",
            election.given("election_rtt"),
            heartbeat.given("heartbeat_rtt")
        ));
    }
    if settings.rtt_ms.value.0 == 0 {
        notices.push(format!("{} is taken as 1 ms", settings.rtt_ms.given("rtt_ms")));
    }
    must_hold_an_entry(
        "max_in_mem_log_size",
        &settings.max_in_mem_log_size,
        COMMAND_BYTES_MAX as u64 + 1,
        problems,
    );
    RaftSettings {
        tick: Duration::from_millis(settings.rtt_ms.value.0.max(1)),
        election_ticks: u32::try_from(election.value).unwrap_or(u32::MAX),
        heartbeat_ticks: u32::try_from(heartbeat.value).unwrap_or(u32::MAX),
        check_quorum: settings.check_quorum.value,
        ordered_config_change: settings.ordered_config_change.value,
        compare_every: duration(settings.compare_every_ms.value),
        compare_content_every: duration(settings.compare_content_every_ms.value),
        unapplied_bytes_max: limit(settings.max_in_mem_log_size.value),
        value_bytes_max: settings.max_value_bytes.value.0,
    }
}

fn storage(settings: &Settings, problems: &mut Vec<Problem>) -> StorageSettings {
    let (slow, stalled) = (&settings.slow_disk_ms, &settings.stalled_disk_ms);
    if stalled.value <= slow.value {
        problems.push(Problem::Conflict {
            left: slow.given("slow_disk_ms"),
            right: stalled.given("stalled_disk_ms"),
            fix:
                "leaders must have time to move before the node stops: set stalled_disk_ms above slow_disk_ms"
                    .to_owned(),
        });
    }
    StorageSettings {
        log_segment_bytes: settings.log_segment_bytes.value.0,
        snapshot_entries: Some(settings.snapshot_entries.value).filter(|entries| *entries > 0),
        compaction_overhead_entries: settings.compaction_overhead.value,
        auto_compactions: !settings.disable_auto_compactions.value,
        slow_disk: duration(slow.value),
        stalled_disk: duration(stalled.value),
    }
}

/// Log files come and go; the data and WAL directories must hold nothing that the node did not put there.
fn directories(settings: &Settings, problems: &mut Vec<Problem>) {
    let data = (settings.data_dir.value.as_path(), settings.data_dir.given("data_dir"));
    let wal = settings.wal_dir.value.as_deref().map(|path| (path, settings.wal_dir.given("wal_dir")));
    let log = settings.log_dir.value.as_deref().map(|path| (path, settings.log_dir.given("log_dir")));
    let folded = |path: &Path| mraft::files::folded(path);
    for (outer, right) in std::iter::once(&data).chain(&wal) {
        if let Some((log_dir, left)) = &log
            && folded(log_dir).starts_with(folded(outer))
        {
            problems.push(Problem::Conflict {
                left: left.clone(),
                right: right.clone(),
                fix: format!(
                    "log files need a directory of their own: set log_dir to one outside {}",
                    right.field
                ),
            });
        }
    }
    if let Some((wal_dir, left)) = wal {
        let (inner, outer) = (folded(wal_dir), folded(data.0));
        if inner != outer && (inner.starts_with(&outer) || outer.starts_with(&inner)) {
            problems.push(Problem::Conflict {
                left,
                right: data.1,
                fix: "neither may lie in the other: set wal_dir to a directory beside data_dir, or leave it out to keep the log in data_dir"
                    .to_owned(),
            });
        }
    }
}

/// A limit below the largest thing that it must let through would stop a group for ever.
fn must_hold_an_entry(name: &str, setting: &Setting<Bytes>, bytes_min: u64, problems: &mut Vec<Problem>) {
    if setting.value.0 > 0 && setting.value.0 < bytes_min {
        problems.push(Problem::Value {
            given: setting.given(name),
            expected: format!(
                "at least {}, the largest single write, or 0 for no limit of its own",
                Bytes(bytes_min)
            ),
        });
    }
}

/// At a slower rate a part of a snapshot would take longer than either side waits for it, again and again.
fn must_deliver_snapshots(name: &str, setting: &Setting<Bytes>, problems: &mut Vec<Problem>) {
    if setting.value.0 > 0 && setting.value.0 < SNAPSHOT_RATE_MIN {
        problems.push(Problem::Value {
            given: setting.given(name),
            expected: format!(
                "at least {} a second, or a snapshot would be given up and begun again for ever; 0 for no limit",
                Bytes(SNAPSHOT_RATE_MIN)
            ),
        });
    }
}

fn limit(bytes: Bytes) -> Option<u64> {
    Some(bytes.0).filter(|bytes| *bytes > 0)
}

fn duration(milliseconds: Milliseconds) -> Duration {
    Duration::from_millis(milliseconds.0)
}
