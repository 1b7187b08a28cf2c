// SPDX-License-Identifier: Apache-2.0

//! A node that was dead for long: the others have truncated what it lacks, so it comes back by snapshots.

use mraft_faults::autopsy::Autopsy;
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
    compaction_overhead: 10,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 2 };
const DEAD: usize = 2;

#[test]
fn a_node_that_was_dead_for_long_comes_back_by_snapshot() {
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "all nodes run", 2_000).await?;
    let mut autopsy = Autopsy::default();
    cluster.nodes[DEAD].kill()?;
    autopsy.look(&cluster.nodes[DEAD].data())?;
    stages::is_left_behind(cluster, DEAD).await?;
    cluster.start_node(DEAD)?;
    cluster.serves().await?;
    stages::progress(cluster, &load, "it catches up", 2_000).await?;

    let recorded = load.finish().await?;
    let mut counts = Counts::new("a node that was dead for long");
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    if judged.is_ok() {
        cluster.stop()?;
        let hit = autopsy.look(&cluster.nodes[DEAD].data())?;
        counts.at_least(SHAPE.groups, "groups that came back by snapshot", hit.installs_done);
    }
    let enough = counts.close();
    judged?;
    enough
}
