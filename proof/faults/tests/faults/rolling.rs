// SPDX-License-Identifier: Apache-2.0

//! All nodes are restarted, one after the other, as for an upgrade: told to stop, they hand over their leaders, finish what they have
//! begun and end; started again, they come back. Clients go on, and none of them is told less than whether its write was done.

use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::judge;
use mraft_faults::load::{Load, Size};

use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 16,
    snapshot_entries: 100,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 2 };
const ROUNDS: u64 = 2;
const WRITES_PER_STEP: u64 = 500;

#[test]
fn a_rolling_restart_fails_no_write() {
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "all nodes run", WRITES_PER_STEP).await?;
    let mut restarts = 0;
    for node in (0..ROUNDS).flat_map(|_| 0..SHAPE.nodes) {
        load.acks().begin();
        cluster.nodes[node].stop()?;
        stages::progress(cluster, &load, "a node is stopped", WRITES_PER_STEP).await?;
        cluster.start_node(node)?;
        // The next one is only stopped when nobody needs this one to stay.
        cluster.serves().await?;
        stages::progress(cluster, &load, "it is back", WRITES_PER_STEP).await?;
        restarts += 1;
    }
    let recorded = load.finish().await?;
    let mut counts = Counts::new("rolling restart");
    counts.at_least(ROUNDS * SHAPE.nodes as u64, "restarts", restarts);
    counts.at_most(0, "operations that failed, or of unknown fate", recorded.unsure());
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
