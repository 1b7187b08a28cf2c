// SPDX-License-Identifier: Apache-2.0
//! x
use std::time::Duration;
use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::kinds::links::{Partition, Partitioned};
use mraft_faults::load::{Load, Size};
use mraft_faults::rounds::{Done, Pace};
use mraft_faults::{binary, report, rounds};
const SHAPE: Shape = Shape { nodes: 3, groups: 4, snapshot_entries: 1000, compaction_overhead: 100, snapshot_bytes_per_second: 64 << 20 };
const SIZE: Size = Size { writers: 12, keys_per_writer: 16, rivals: 3, shared_keys: 1 };
#[test]
fn explore_heal() {
    super::run_in_namespaces(3, async |ground| {
        let mut cluster = Cluster::start_as(Manner { ground, ..Manner::default() }, &binary::find()?, SHAPE).await?;
        let mut load = Load::start_paced(&cluster, SIZE, Duration::from_millis(20))?;
        load.watch(&cluster, 1, Consistency::Linearizable);
        load.probe(&cluster).await?;
        let mut done = Done::default();
        for halt in [30, 20, 30] {
            println!("round {halt} begins {:?}", std::time::SystemTime::now());
            let pace = Pace { writes_per_group: 20, reads_per_node: 1, halt: Duration::from_secs(halt) };
            rounds::round(&mut cluster, &load, &mut Partitioned::new(Partition::Total), pace, &[], &mut done).await?;
        }
        report::tell("explore", &done.rows)?;
        for node in &cluster.nodes { println!("NODE {}\n{}", node.id, node.said()?); }
        Ok(())
    });
}
