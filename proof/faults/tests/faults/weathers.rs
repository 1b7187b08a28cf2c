// SPDX-License-Identifier: Apache-2.0

//! Connections between real nodes that are late, slow, cut, reset and damaged on their way through a proxy of ours.

use std::sync::atomic::Ordering;
use std::time::Duration;

use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::kinds::weathers::Weathered;
use mraft_faults::load::{Load, Size};
use mraft_faults::proxy::Harm;
use mraft_faults::rounds::{self, Done, Pace};
use mraft_faults::{judge, metrics, report, wait};

const NODES: usize = 3;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 8,
    snapshot_entries: 1000,
    compaction_overhead: 100,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 60, keys_per_writer: 16, rivals: 15, shared_keys: 5 };
const PACE: Pace = Pace { writes_per_group: 50, reads_per_node: 3, halt: Duration::from_secs(3) };

#[test]
fn no_weather_shows_anything_old_or_loses_anything() {
    super::run_cluster(Manner { has_proxies: true, ..Manner::default() }, SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let mut faults: Vec<Weathered> = Weathered::all().collect();
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    load.probe(cluster).await?;
    let mut done = Done::default();
    for fault in &mut faults {
        rounds::round(cluster, &load, fault, PACE, &[], &mut done).await?;
    }
    let recorded = load.finish().await?;
    report::tell("connections", &done.rows)?;
    let mut counts = Counts::new("connections late, slow, cut, reset and damaged");
    counts.at_least(faults.len() as u64, "faults", done.rows.len() as u64);
    let of_all = |part: fn(&Harm) -> u64| {
        cluster.nodes.iter().filter_map(|node| node.proxy.as_ref()).map(|proxy| part(&proxy.harm)).sum()
    };
    counts.at_least(1, "pieces delayed", of_all(|harm| harm.delayed.load(Ordering::Relaxed)));
    counts.at_least(1, "connections stalled", of_all(|harm| harm.stalled.load(Ordering::Relaxed)));
    counts.at_least(1, "bits flipped", of_all(|harm| harm.flipped.load(Ordering::Relaxed)));
    counts.at_least(1, "connections cut", of_all(|harm| harm.cut.load(Ordering::Relaxed)));
    counts.at_least(1, "connections reset", of_all(|harm| harm.reset.load(Ordering::Relaxed)));
    let mut noticed = 0;
    for node in 0..NODES {
        let client = cluster.client_of_one(node)?;
        let told = wait::until("a node tells its metrics", async || Ok(client.metrics().await?)).await?;
        noticed += metrics::value(&told, "mraft_transport_closed_total{reason=\"protocol\"}");
    }
    counts.at_least(1, "connections that nodes closed because of damaged bytes", noticed);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
