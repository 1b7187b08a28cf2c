// SPDX-License-Identifier: Apache-2.0

//! Nodes killed and stopped, from one leader to all of them, under load.

use std::time::Duration;

use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::kinds::signals::Signalled;
use mraft_faults::load::{Load, Size};
use mraft_faults::rounds::{self, Done, Pace};
use mraft_faults::{judge, report};

const NODES: usize = 5;
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
fn no_signal_shows_anything_old_or_loses_anything() {
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let mut faults: Vec<Signalled> = Signalled::all().collect();
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    load.probe(cluster).await?;
    let mut done = Done::default();
    for fault in &mut faults {
        rounds::round(cluster, &load, fault, PACE, &[], &mut done).await?;
    }
    let recorded = load.finish().await?;
    report::tell("signals", &done.rows)?;
    let mut counts = Counts::new("nodes killed and stopped");
    counts.at_least(faults.len() as u64, "faults", done.rows.len() as u64);
    counts.at_least(1, "groups led by nodes when they were hit", done.groups_led);
    counts.at_least(1, "reads asked of nodes that did not know", done.reads_of_deceived);
    counts.at_least(1, "reads that they answered afterwards", done.answered_by_deceived);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
