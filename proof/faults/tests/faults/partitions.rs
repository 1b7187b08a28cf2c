// SPDX-License-Identifier: Apache-2.0

//! Partitions of every shape between real nodes, each in a network namespace of its own.

use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::ground::Ground;
use mraft_faults::load::{Load, Size};
use mraft_faults::partition::Cuts;
use mraft_faults::{binary, judge};

use super::stages;

const NODES: usize = 5;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 8,
    snapshot_entries: 1000,
    compaction_overhead: 100,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 16, shared_keys: 4 };

#[test]
fn a_minority_that_is_cut_off_serves_nothing_old() {
    super::run_in_namespaces(NODES, async |ground| {
        let mut cluster = Cluster::start_on(ground, &binary::find()?, SHAPE).await?;
        let ended = scenario(&mut cluster).await;
        ended.map_err(|failure| super::explained(&mut cluster, failure))
    });
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let Ground::Namespaces(network) = cluster.ground().clone() else { return Ok(()) };
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    stages::progress_everywhere(cluster, &load, "all nodes run", 100).await?;
    network.cut(&Cuts::apart(NODES, &[0, 1]))?;
    load.acks().begin();
    stages::progress_everywhere(cluster, &load, "two nodes are cut off", 100).await?;
    network.heal()?;
    println!("{:?}", load.acks().gap());
    cluster.serves().await?;
    stages::progress_everywhere(cluster, &load, "they are back", 100).await?;
    let recorded = load.finish().await?;
    let mut counts = Counts::new("a partition");
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
