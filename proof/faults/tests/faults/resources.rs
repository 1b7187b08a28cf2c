// SPDX-License-Identifier: Apache-2.0

//! A node that is short of something: of CPU, of file descriptors, of memory because clients take it. It refuses what is too much and
//! says so, stays below its ceiling, the others go on, and everything is well afterwards.

use std::time::Duration;

use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::fault::{Fault, Together};
use mraft_faults::kinds::greedy::{self, Greed, Greedy};
use mraft_faults::kinds::starved::{By, Starved};
use mraft_faults::load::{Load, Size};
use mraft_faults::rounds::{self, Done, Pace};
use mraft_faults::skips::skipped;
use mraft_faults::vitals::{self, Peaks};
use mraft_faults::{judge, report};

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
/// The ceiling of every node here, and what its code, its threads' stacks and the allocator may take beside it.
pub const CEILING_MEGABYTES: u64 = 256;
pub const SLACK_MEGABYTES: u64 = 64;
/// The kernel gives no more, beside what is mapped and never used: a node that wanted it would end.
const DATA_BYTES_MAX: u64 = 768 << 20;
const DESCRIPTORS_MAX: u64 = 512;
/// A term for each election that has a reason; a storm has one after the other.
pub const TERMS_MAX: u64 = 6;

#[test]
fn a_node_that_is_short_of_something_refuses_and_recovers() {
    super::run_cluster(Manner { data_bytes_max: Some(DATA_BYTES_MAX), ..Manner::default() }, SHAPE, scenario);
}

#[test]
fn a_node_with_few_descriptors_keeps_what_it_needs_itself() {
    super::run_cluster(
        Manner { descriptors_max: Some(DESCRIPTORS_MAX), ..Manner::default() },
        SHAPE,
        few_descriptors,
    );
}

/// Nodes of which the kernel says that they have this limit.
fn limited(cluster: &Cluster, name: &str, wanted: u64) -> Result<u64> {
    let limits =
        cluster.nodes.iter().filter_map(|node| node.pid()).map(|process| vitals::limit(process, name));
    let limits = limits.collect::<Result<Vec<Option<u64>>>>()?;
    Ok(limits.into_iter().filter(|limit| *limit == Some(wanted)).count() as u64)
}

async fn few_descriptors(cluster: &mut Cluster) -> Result<()> {
    // Its log needs new files meanwhile: it follows the node that somebody writes much to.
    let parts = [Greedy::at(0, Greed::Idle), Greedy::at(1, Greed::Heavy)];
    let parts = parts.map(|greedy| Box::new(greedy) as Box<dyn Fault>);
    let mut fault = Together::new("connections take all descriptors", parts.into());
    let load = Load::start(cluster, SIZE)?;
    let mut done = Done::default();
    rounds::round(cluster, &load, &mut fault, PACE, &[], &mut done).await?;
    let recorded = load.finish().await?;
    let mut counts = Counts::new("nodes with few file descriptors");
    let limited = limited(cluster, "Max open files", DESCRIPTORS_MAX)?;
    counts.at_least(NODES as u64, "nodes with a limit of descriptors", limited);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let mut faults: Vec<Box<dyn Fault>> =
        Greedy::all().map(|fault| Box::new(fault) as Box<dyn Fault>).collect();
    for by in [By::ControlGroup, By::Neighbours] {
        match Starved::is_possible(by) {
            Ok(()) => faults.push(Box::new(Starved::new(by))),
            Err(why) => skipped(format_args!("no node is starved of CPU: {why}")),
        }
    }
    greedy::prepare(cluster).await?;
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    load.probe(cluster).await?;
    let peaks = Peaks::watch(cluster);
    let mut done = Done::default();
    for fault in &mut faults {
        rounds::round(cluster, &load, &mut **fault, PACE, &[], &mut done).await?;
    }
    let recorded = load.finish().await?;
    report::tell("resources", &done.rows)?;
    let mut counts = Counts::new("nodes short of resources");
    counts.at_least(faults.len() as u64, "faults", done.rows.len() as u64);
    counts.at_least(
        NODES as u64,
        "nodes with a limit of memory",
        limited(cluster, "Max data size", DATA_BYTES_MAX)?,
    );
    let resident = peaks.bytes().into_iter().max().unwrap_or(0) >> 20;
    counts.at_least(1, "megabytes resident at most, as seen", resident);
    counts.at_most(
        CEILING_MEGABYTES + SLACK_MEGABYTES,
        "megabytes resident at most, ceiling and slack",
        resident,
    );
    let terms = done.rows.iter().map(|row| row.terms).max().unwrap_or(0);
    counts.at_most(TERMS_MAX, "terms of one group in one round", terms);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
