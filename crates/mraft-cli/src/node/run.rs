// SPDX-License-Identifier: Apache-2.0

//! How a node is put together, and taken apart again. The order matters:
//!
//! - up: what can be refused without touching the disk (the HTTP port, certificates), the host (its identity, the log and the groups that
//!   are here), the routing table, the groups to be founded, and the door last: who connects finds a node that can answer. The table comes
//!   before the founding: it says to a restart that this was begun, and which groups there are;
//! - down: not ready, leaders handed over, requests finished, state and log synced.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, available_parallelism};
use std::time::{Duration, Instant};

use mraft::{GroupList, HostConfig, HostError, Machines, NodeHost};
use mraft_disk::RealDisk;
use mraft_gateway::{Door, Limits, listen};
use mraft_kv::{Caches, KvMachine, KvOptions};
use mraft_types::GroupId;
use mraft_types::limits::FRAME_BYTES_MAX;

use super::certificates::{Certificates, of_peers};
use super::descriptors::Descriptors;
use super::doors::Doors;
use super::founding::Founding;
use super::lookups::BESIDE_THREADS_MAX;
use super::service::{Answerer, Service};
use super::serving::Serving;
use super::topology::Topology;
use crate::config::{Here, NodeConfig, TopologySource, kept};
use crate::exit::{CommandError, Exit};
use crate::signals::Shutdown;

/// The kind of state machine, as it is persisted with each group.
pub(crate) const KV: &str = "kv";
/// Threads of the doors: they parse and wait, and look things up; the work is done by the host's. One of them looks nothing up.
const DOOR_THREADS: std::ops::RangeInclusive<usize> = 2..=4;
/// Often enough: a thread beside them ends when it had nothing to do for ten seconds.
const BESIDE_USED_EVERY: Duration = Duration::from_secs(2);
/// For so long at most a start waits until threads that have ended are cleared away, and looks so often.
const ENDED_THREADS_WAIT: Duration = Duration::from_secs(1);
const ENDED_THREADS_POLL: Duration = Duration::from_millis(1);
/// Smallest and largest write buffer of one group: below it every flush is a tiny table, above it a restart replays much.
const FLUSH_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=8 << 20;
/// A store that is only opened reads little more than its meta.
const STOPPED_CACHE_BYTES: u64 = 1 << 20;
/// And keeps few files open.
const STOPPED_FILES_MAX: usize = 64;
/// A group's queue must take a command of the largest size beside some others.
const PENDING_BYTES: std::ops::RangeInclusive<usize> = 6 << 20..=32 << 20;

/// All peers together must be able to have two frames of the largest size on the way.
const PEERS_BYTES_MIN: usize = 2 * FRAME_BYTES_MAX;

/// Runs a node until it is told to stop. The configuration has been validated; nothing has been written yet but log files.
pub fn run_node(config: NodeConfig, shutdown: &Shutdown) -> Result<Exit, CommandError> {
    let listener = listen(config.http.listen_address.to_string()).map_err(|error| {
        CommandError::failed(format!(
            "HTTP cannot listen on {}: {error}; set http_port or http_listen to a free one ({})",
            config.http.listen_address,
            config.source_of("http_port")
        ))
    })?;
    let Certificates { http: tls } = Certificates::load(&config)?;
    let disk = RealDisk::new();
    let kept = Topology::read(&disk, &config.data_dir).map_err(CommandError::failed)?;
    let threads =
        available_parallelism().map_or(1, usize::from).clamp(*DOOR_THREADS.start(), *DOOR_THREADS.end());
    let no_threads = |error| {
        CommandError::failed(format!(
            "the doors' threads cannot be started: {error}; let the process have more (pids.max of its control group, \
             ulimit -u)"
        ))
    };
    // With the one beside them.
    may_start(threads + 1).map_err(no_threads)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(BESIDE_THREADS_MAX)
        .thread_name("mraft-door")
        .enable_all()
        .build()
        .map_err(no_threads)?;

    // It is there before anybody else takes its place, and does nothing that could fail.
    let _ = runtime.block_on(runtime.spawn_blocking(|| ()));
    runtime.spawn(keep_one_beside());

    let answerer = Arc::new(Answerer::default());
    let listed = GroupList::read(&disk, &config.data_dir).map_err(|error| host_failed(error, &config))?;
    let budget = Budget::of(&config, &listed);
    let descriptors = Descriptors::of_process();
    let requests = Some(Arc::clone(&answerer) as Arc<_>);
    // Thousands of groups take their time: somebody who looks meanwhile shall see that it has begun, and what there is.
    let began = Instant::now();
    tracing::info!(groups = listed.records.len(), data = %config.data_dir.display(), "starting: reading the log");
    let caches = Caches::new(budget.block_cache_bytes, descriptors.files);
    let machines = of_kv(caches.clone(), budget.flush_bytes);
    let host = NodeHost::open(host_config(&config, &budget), machines, requests)
        .map_err(|error| host_failed(error, &config))?;
    kept::write(&disk, &config).map_err(CommandError::failed)?;
    let (topology, founding) = routing_table(&config, kept)?;
    founding.begin(&host).map_err(|error| host_failed(error, &config))?;
    let service = Service::new(host, config, topology, runtime.handle().clone(), threads, caches);
    answerer.begin(&service);
    runtime.spawn(Arc::clone(&service).look_around());
    let config = &service.config;
    tracing::info!(
        node = %config.node_id, raft = %config.peers.raft_address, http = %config.http.advertised_address,
        data = %config.data_dir.display(), groups = service.host.groups().len(),
        took_ms = began.elapsed().as_millis() as u64, "the node is up"
    );

    let door = Door::new(Arc::new(Doors(Arc::clone(&service))), limits(config, &budget, descriptors));
    let grace = config.shutdown_grace;
    let serving = Serving::start(&runtime, door, listener, tls, grace / 2, shutdown);
    let reason = shutdown.wait();

    let began = Instant::now();
    service.draining.store(true, Ordering::Relaxed);
    tracing::info!(reason, "stopping: handing over leaders");
    let left = service.host.drain(grace / 2);
    if left > 0 {
        tracing::warn!(
            groups = left,
            "leadership could not be handed over in time; the groups elect new leaders"
        );
    }
    // The door is still there: who was waiting for an answer gets it, and nobody new comes in from now on.
    let served = serving.stop(&runtime);
    service.host.close();
    runtime.shutdown_timeout(Duration::from_secs(1));
    // What nobody can explain must not look like a clean end (rule T4).
    let drained = served.map_err(CommandError::failed)?;
    tracing::info!(connections = drained.open, cut_off = drained.cut_off, "the door is closed");
    tracing::info!(took_ms = began.elapsed().as_millis() as u64, "stopped");
    Ok(Exit::Ok)
}

/// Whether so many threads can be started: a runtime that cannot have one of its own panics and then waits for the others for ever.
fn may_start(threads: usize) -> io::Result<()> {
    let before = own_threads();
    let gate = Mutex::new(());
    let started = thread::scope(|scope| {
        // All of them are there until this is let go.
        let _shut = gate.lock().unwrap_or_else(PoisonError::into_inner);
        (0..threads).try_for_each(|_| {
            let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
            thread::Builder::new().spawn_scoped(scope, wait).map(drop)
        })
    });
    // One that has ended counts for the system until it has cleared it away.
    let began = Instant::now();
    while own_threads() > before && began.elapsed() < ENDED_THREADS_WAIT {
        thread::sleep(ENDED_THREADS_POLL);
    }
    started
}

/// Threads of this process; 0 where the system does not tell.
fn own_threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// Keeps a thread beside the doors' from ending for want of work: the runtime panics where it needs one, has none and may not start any.
/// As long as there is one, what waits has its turn.
async fn keep_one_beside() {
    loop {
        // It does nothing that could fail.
        let _ = tokio::task::spawn_blocking(|| ()).await;
        tokio::time::sleep(BESIDE_USED_EVERY).await;
    }
}

/// What disagrees with the configuration is its row of the exit codes, everything else has failed.
fn host_failed(error: HostError, config: &NodeConfig) -> CommandError {
    match error {
        HostError::Config { .. } | HostError::Disagrees { .. } => CommandError::usage(error.to_string()),
        HostError::Listen { address, error } => CommandError::failed(format!(
            "cannot listen for other nodes on {address}: {error}; set raft_port or listen_address to a free one ({})",
            config.source_of("raft_port")
        )),
        other => CommandError::failed(other.to_string()),
    }
}

/// The kept table counts: slots may have moved since the document was written. A document that says otherwise is only told of.
fn routing_table(config: &NodeConfig, kept: Option<Topology>) -> Result<(Topology, Founding), CommandError> {
    let told = match config.topology {
        TopologySource::Document => Some(Topology::of_plans(&config.groups)),
        TopologySource::FirstPeer => None,
    };
    match (kept, told) {
        (Some(kept), told) => {
            let founding = Founding::again(&config.groups, told.as_ref(), &kept);
            Ok((kept, founding))
        }
        (None, Some(told)) => {
            told.write(&RealDisk::new(), &config.data_dir).map_err(CommandError::failed)?;
            Ok((told, Founding::first(&config.groups)))
        }
        (None, None) => {
            tracing::info!("this node only joins groups: the first peer tells which groups there are");
            Ok((Topology::default(), Founding::default()))
        }
    }
}

fn host_config(config: &NodeConfig, budget: &Budget) -> HostConfig {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let cores = available_parallelism().map_or(1, usize::from);
    let address = config.peers.raft_address.to_string();
    let mut host = HostConfig::new(config.deployment_id, config.node_id, address, config.data_dir.clone());
    host.listen_address = config.peers.listen_address.to_string();
    host.wal_directory = config.wal_dir.clone();
    host.tls = config.peers.mutual_tls.as_ref().map(of_peers);
    host.tick_ms = millis(config.raft.tick);
    host.election_ticks = config.raft.election_ticks;
    host.heartbeat_ticks = config.raft.heartbeat_ticks;
    host.check_quorum = config.raft.check_quorum;
    host.step_workers = (cores / 4).clamp(1, 8);
    host.apply_threads = (cores / 4).clamp(1, 8);
    let ticks = |every: Duration| millis(every).div_ceil(host.tick_ms.max(1));
    let (compare, compare_content) =
        (ticks(config.raft.compare_every), ticks(config.raft.compare_content_every));
    host.limits.compare_every_ticks = compare;
    host.limits.compare_content_every_ticks = compare_content;
    host.truncates_on_request_only = !config.storage.auto_compactions;
    host.limits.pending_bytes_max = budget.pending_bytes_per_group;
    host.limits.held_bytes_max = budget.held_bytes / host.step_workers;
    host.limits.unapplied_jobs_bytes_max = budget.held_bytes / 4;
    host.unapplied_bytes_max =
        config.raft.unapplied_bytes_max.map_or(usize::MAX, bytes).min(budget.held_bytes / 2);
    host.snapshot_entries = config.storage.snapshot_entries.unwrap_or(0);
    host.compaction_overhead_entries = config.storage.compaction_overhead_entries;
    host.log_segment_bytes = config.storage.log_segment_bytes;
    host.send_queue_bytes_max =
        config.peers.send_queue_bytes_max.map_or(usize::MAX, bytes).min(budget.send_bytes);
    host.receive_queue_bytes_max =
        config.peers.receive_queue_bytes_max.map_or(usize::MAX, bytes).min(budget.receive_bytes);
    host.send_bytes_max = budget.send_bytes;
    host.receive_bytes_max = budget.receive_bytes;
    host.snapshot_send_bytes_per_second = config.peers.snapshot_send_bytes_per_second_max.unwrap_or(0);
    host.snapshot_receive_bytes_per_second = config.peers.snapshot_receive_bytes_per_second_max.unwrap_or(0);
    host.unpersisted_bytes_max = budget.unpersisted_bytes;
    host.slow_disk_ms = millis(config.storage.slow_disk);
    host.stalled_disk_ms = millis(config.storage.stalled_disk);
    host
}

/// Who may have how much of `memory_ceiling_bytes` (rule T2). The rest is for the log's index, code, stacks and the allocator.
#[derive(Clone, Copy, Debug)]
struct Budget {
    block_cache_bytes: u64,
    unpersisted_bytes: usize,
    flush_bytes: usize,
    pending_bytes_per_group: usize,
    /// Proposals and entries of all groups.
    held_bytes: usize,
    send_bytes: usize,
    receive_bytes: usize,
    request_bytes: usize,
    answer_bytes: usize,
    connection_bytes: usize,
}

impl Budget {
    /// The groups that the configuration puts here and those that are listed here already: a start without a file names none, and a
    /// group may have joined since.
    fn of(config: &NodeConfig, listed: &GroupList) -> Budget {
        let ceiling = usize::try_from(config.memory_ceiling_bytes).unwrap_or(usize::MAX);
        let planned = config.groups.iter().filter(|(_, plan)| plan.here != Here::Absent);
        let held: BTreeSet<GroupId> =
            planned.map(|(group, _)| *group).chain(listed.records.keys().copied()).collect();
        Budget::share(ceiling, held.len().max(1))
    }

    /// `held` groups share `ceiling` bytes.
    fn share(ceiling: usize, held: usize) -> Budget {
        let unpersisted = ceiling / 4;
        Budget {
            block_cache_bytes: (ceiling / 8) as u64,
            unpersisted_bytes: unpersisted,
            flush_bytes: (unpersisted / held / 2).clamp(*FLUSH_BYTES.start(), *FLUSH_BYTES.end()),
            pending_bytes_per_group: (ceiling / 8 / held).clamp(*PENDING_BYTES.start(), *PENDING_BYTES.end()),
            held_bytes: ceiling / 4,
            send_bytes: (ceiling / 16).max(PEERS_BYTES_MIN),
            receive_bytes: (ceiling / 16).max(PEERS_BYTES_MIN),
            request_bytes: (ceiling / 16).clamp(8 << 20, 256 << 20),
            answer_bytes: (ceiling / 24).min(256 << 20),
            connection_bytes: (ceiling / 24).min(512 << 20),
        }
    }
}

/// For whoever opens the stores of a stopped node one by one, and writes nothing to them.
pub(crate) fn stopped_machines() -> Machines {
    of_kv(Caches::new(STOPPED_CACHE_BYTES, STOPPED_FILES_MAX), *FLUSH_BYTES.start())
}

fn of_kv(caches: Caches, flush_bytes: usize) -> Machines {
    Machines::new().with(KV, move |context| {
        let hash_seed = getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?;
        let options = KvOptions { flush_bytes, hash_seed };
        Ok(Box::new(KvMachine::new(Arc::clone(&context.disk), context.directory.clone(), &caches, options)))
    })
}

fn limits(config: &NodeConfig, budget: &Budget, descriptors: Descriptors) -> Limits {
    Limits {
        value_bytes_max: usize::try_from(config.raft.value_bytes_max).unwrap_or(usize::MAX),
        request_bytes_max: budget.request_bytes,
        answer_bytes_max: budget.answer_bytes,
        connection_bytes_max: budget.connection_bytes,
        connections_max: descriptors.clients,
        timeout_default: config.http.request_timeout,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use mraft::GroupRecord;
    use mraft_types::{GroupUid, NodeId, ReplicaId};

    use super::*;
    use crate::config::{Inputs, KEYS, MEMORY_CEILING_BYTES_MIN, load};

    /// The configuration that a file with this text makes.
    fn configured(text: &str) -> NodeConfig {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("node.toml");
        std::fs::write(&file, text).expect("written");
        let inputs = Inputs { file: Some(file), memory_bytes: Some(8 << 30), ..Inputs::default() };
        load(&inputs, |_| Ok(None)).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// A list of this many groups.
    fn listed(groups: u64) -> GroupList {
        let record = |group| GroupRecord {
            group,
            uid: GroupUid([7; 16]),
            replica: ReplicaId::new(0, NodeId::new(9).expect("a node id")),
            genesis: None,
            machine: KV.to_owned(),
        };
        let records = (0..groups).map(GroupId).map(|group| (group, record(group))).collect();
        GroupList { records, ..GroupList::default() }
    }

    #[test]
    fn t2_a_start_without_a_file_shares_its_memory_among_the_groups_that_are_here() {
        let config = configured("raft_address = '10.0.0.1:5000'");
        assert!(config.groups.is_empty(), "nothing but the list names them");
        let ceiling = usize::try_from(config.memory_ceiling_bytes).expect("it fits");
        let (shared, alone) = (Budget::share(ceiling, 1_000), Budget::share(ceiling, 1));
        assert_ne!(shared.flush_bytes, alone.flush_bytes);
        let own = Budget::of(&config, &listed(1_000));
        assert_eq!(
            (own.flush_bytes, own.pending_bytes_per_group),
            (shared.flush_bytes, shared.pending_bytes_per_group)
        );
        let named =
            configured("raft_address = '10.0.0.1:5000'\nnode_id = 9\ninitial_members.0.9 = '10.0.0.1:5000'");
        let own = Budget::of(&named, &listed(1_000));
        assert_eq!(own.flush_bytes, shared.flush_bytes, "the one that is named is listed too");
    }

    const WITH_TLS: &str = "mutual_tls = true\nca_file = 'a'\ncert_file = 'b'\nkey_file = 'c'";

    /// What the host is told: the key, and two files that differ in nothing else.
    const TOLD: [(&str, &str, &str); 30] = [
        ("data_dir", "", "data_dir = 'elsewhere'"),
        ("wal_dir", "", "wal_dir = 'wal'"),
        ("node_id", "", "node_id = 7"),
        ("deployment_id", "", "deployment_id = 7"),
        ("ip", "", "ip = '10.0.0.1'"),
        ("raft_port", "", "raft_port = 5000"),
        ("raft_address", "", "raft_address = '10.0.0.1:5000'"),
        ("memory_ceiling_bytes", "", "memory_ceiling_bytes = '1GiB'"),
        ("rtt_ms", "", "rtt_ms = 50"),
        ("election_rtt", "", "election_rtt = 70"),
        ("heartbeat_rtt", "", "heartbeat_rtt = 7"),
        ("check_quorum", "", "check_quorum = false"),
        ("compare_every_ms", "", "compare_every_ms = 0"),
        ("compare_content_every_ms", "", "compare_content_every_ms = 0"),
        ("max_in_mem_log_size", "", "max_in_mem_log_size = '128MiB'"),
        ("log_segment_bytes", "", "log_segment_bytes = '128MiB'"),
        ("snapshot_entries", "", "snapshot_entries = 7"),
        ("compaction_overhead", "", "compaction_overhead = 7"),
        ("disable_auto_compactions", "", "disable_auto_compactions = true"),
        ("slow_disk_ms", "", "slow_disk_ms = 7"),
        ("stalled_disk_ms", "", "stalled_disk_ms = 7000"),
        ("listen_address", "", "listen_address = '0.0.0.0:13890'"),
        ("mutual_tls", "", WITH_TLS),
        ("ca_file", WITH_TLS, "mutual_tls = true\nca_file = 'x'\ncert_file = 'b'\nkey_file = 'c'"),
        ("cert_file", WITH_TLS, "mutual_tls = true\nca_file = 'a'\ncert_file = 'x'\nkey_file = 'c'"),
        ("key_file", WITH_TLS, "mutual_tls = true\nca_file = 'a'\ncert_file = 'b'\nkey_file = 'x'"),
        ("max_send_queue_size", "", "max_send_queue_size = '64MiB'"),
        ("max_receive_queue_size", "", "max_receive_queue_size = '64MiB'"),
        ("max_snapshot_send_bytes_per_second", "", "max_snapshot_send_bytes_per_second = '1MiB'"),
        ("max_snapshot_recv_bytes_per_second", "", "max_snapshot_recv_bytes_per_second = '1MiB'"),
    ];

    /// What is somebody else's, and whose.
    const ELSEWHERE: [(&str, &str); 18] = [
        ("shutdown_grace_ms", "the node's end"),
        ("initial_members", "the founding of groups and the routing table"),
        ("join", "the founding of groups and the routing table"),
        ("is_observer", "the configuration, which takes one value only"),
        ("is_witness", "the configuration, which takes one value only"),
        ("ordered_config_change", "the doors"),
        ("max_value_bytes", "the doors"),
        ("entry_compression", "the configuration, which takes one value only"),
        ("quiesce", "the configuration, which takes one value only"),
        ("snapshot_compression", "the configuration, which takes one value only"),
        ("http_port", "the doors"),
        ("http_listen", "the doors"),
        ("http_tls_cert_file", "the doors"),
        ("http_tls_key_file", "the doors"),
        ("request_timeout_ms", "the doors"),
        ("log_dir", "the logs"),
        ("log_level", "the logs"),
        ("enable_metrics", "the doors"),
    ];

    #[test]
    fn every_setting_reaches_the_host_or_is_somebody_elses() {
        let told: BTreeSet<&str> = TOLD.iter().map(|(key, ..)| *key).collect();
        let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(key, _)| *key).collect();
        for key in KEYS {
            assert!(told.contains(key.name) != elsewhere.contains(key.name), "{} is whose?", key.name);
        }
        assert_eq!(told.len() + elsewhere.len(), KEYS.len(), "one of these is no key any more");
        let host = |text| {
            let config = configured(text);
            format!("{:?}", host_config(&config, &Budget::of(&config, &GroupList::default())))
        };
        for (key, before, after) in TOLD {
            assert_ne!(host(before), host(after), "{key} does not reach the host");
        }
    }

    #[test]
    fn t2_all_shares_together_leave_room_below_the_ceiling() {
        let least = usize::try_from(MEMORY_CEILING_BYTES_MIN).expect("it fits");
        for ceiling in [least, 512 << 20, 12 << 30] {
            for held in [1, 16, 10_000] {
                let budget = Budget::share(ceiling, held);
                let all = budget.unpersisted_bytes
                    + budget.held_bytes
                    + budget.send_bytes
                    + budget.receive_bytes
                    + budget.request_bytes
                    + budget.answer_bytes
                    + budget.connection_bytes
                    + usize::try_from(budget.block_cache_bytes).expect("it fits");
                assert!(all <= ceiling - ceiling / 16, "{ceiling} bytes for {held} groups: {budget:?}");
                assert!(budget.pending_bytes_per_group <= budget.held_bytes, "{budget:?}");
            }
        }
    }
}
