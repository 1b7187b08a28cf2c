// SPDX-License-Identifier: Apache-2.0

//! `mraft bench kv`: a running cluster over HTTP, with a fixed number of connections that each have one request under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft_api::client::Condition;
use mraft_api::{Client, ClientConfig, Consistency, Outcome};
use serde::Serialize;
use tokio::task::JoinSet;

use super::latency::Latencies;
use super::machine::{Machine, Stolen, measure};

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct KvBenchOptions {
    pub(crate) client: ClientConfig,
    pub(crate) connections: u64,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) reads: bool,
    pub(crate) seconds: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KvReport {
    pub(crate) connections: u64,
    pub(crate) value_bytes: usize,
    pub(crate) keys: u64,
    pub(crate) op: &'static str,
    pub(crate) seconds: f64,
    pub(crate) operations: u64,
    pub(crate) ops_per_second: f64,
    pub(crate) not_applied: u64,
    pub(crate) unknown: u64,
    pub(crate) latency_p50_us: u64,
    pub(crate) latency_p99_us: u64,
    pub(crate) latency_max_us: u64,
    pub(crate) machine: Machine,
}

/// One connection's share.
struct Share {
    latencies: Latencies,
    not_applied: u64,
    unknown: u64,
    first_error: Option<String>,
}

/// Runs the benchmark. An error when not one request succeeded.
pub(crate) async fn run(options: &KvBenchOptions, scratch: &std::path::Path) -> Result<KvReport, String> {
    let mut machine = measure(scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    let value = Arc::new(vec![b'v'; options.value_bytes]);
    let (began, stolen) = (Instant::now(), Stolen::begin());
    let until = began + Duration::from_secs(options.seconds);
    let mut shares = JoinSet::new();
    for connection in 0..options.connections {
        // Each connection begins at another node, so that every node forwards as much as it serves.
        let mut config = options.client.clone();
        let nodes = config.endpoints.len().max(1);
        config.endpoints.rotate_left(connection as usize % nodes);
        let client = Client::new(&config).map_err(|error| error.to_string())?;
        shares.spawn(one_connection(client, connection, options.clone(), Arc::clone(&value), until));
    }
    let mut all = Share { latencies: Latencies::new(), not_applied: 0, unknown: 0, first_error: None };
    while let Some(share) = shares.join_next().await {
        let share = share.map_err(|error| error.to_string())?;
        all.latencies.add(&share.latencies);
        all.not_applied += share.not_applied;
        all.unknown += share.unknown;
        all.first_error = all.first_error.or(share.first_error);
    }
    let seconds = began.elapsed().as_secs_f64();
    machine.steal_percent = stolen.percent();
    let operations = all.latencies.count;
    if operations == 0 {
        return Err(all.first_error.unwrap_or_else(|| "not one request was sent".to_owned()));
    }
    Ok(KvReport {
        connections: options.connections,
        value_bytes: options.value_bytes,
        keys: options.keys,
        op: if options.reads { "read" } else { "write" },
        seconds,
        operations,
        ops_per_second: operations as f64 / seconds,
        not_applied: all.not_applied,
        unknown: all.unknown,
        latency_p50_us: all.latencies.quantile_us(0.5),
        latency_p99_us: all.latencies.quantile_us(0.99),
        latency_max_us: all.latencies.max_us,
        machine,
    })
}

async fn one_connection(
    client: Client,
    connection: u64,
    options: KvBenchOptions,
    value: Arc<Vec<u8>>,
    until: Instant,
) -> Share {
    let mut share = Share { latencies: Latencies::new(), not_applied: 0, unknown: 0, first_error: None };
    let mut key = connection;
    while Instant::now() < until {
        // Every connection walks over all keys, from its own place on.
        key = (key + options.connections) % options.keys.max(1);
        let name = format!("bench-{key:012}");
        let began = Instant::now();
        let result = match options.reads {
            true => client.get(name.as_bytes(), Consistency::Linearizable).await.map(drop),
            false => client.put(name.as_bytes(), &value, Condition::None).await.map(drop),
        };
        match result {
            Ok(()) => share.latencies.record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX)),
            Err(error) => {
                match error.outcome() {
                    Outcome::Unknown => share.unknown += 1,
                    _ => share.not_applied += 1,
                }
                share.first_error.get_or_insert_with(|| error.to_string());
                // A cluster that refuses is not to be asked again at once.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    share
}
