// SPDX-License-Identifier: Apache-2.0

//! A node that may not start threads. Whatever number it lacks at a start, it says so and ends, or does with fewer; while it runs, it goes
//! on with those that it has, under connections that come and go, lookups that want more and a peer that comes back and cannot be heard,
//! and nothing is lost. By a control group: root is not bound by `ulimit -u`.

use std::time::Duration;

use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::control_group::ControlGroup;
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::kinds::greedy::{self, Greed, Greedy};
use mraft_faults::load::{Load, Size};
use mraft_faults::rounds::{self, Done, Pace};
use mraft_faults::skips::skipped;
use mraft_faults::{judge, wait};

use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 4,
    snapshot_entries: 200,
    compaction_overhead: 100,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 32, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const PACE: Pace = Pace { writes_per_group: 50, reads_per_node: 3, halt: Duration::from_secs(3) };
/// The node that is short of threads.
const HURT: usize = 0;
/// One that is killed meanwhile.
const PEER: usize = 1;
/// Far more than any start takes: with so many it serves.
const STARTS_MAX: u64 = 64;
/// What the system says, and so the node.
const EAGAIN: &str = "Resource temporarily unavailable";
const WRITES_BETWEEN: u64 = 500;

#[test]
fn a_node_that_may_not_start_threads_says_so_and_loses_nothing() {
    let group = match ControlGroup::of_threads(u64::MAX) {
        Ok(group) => group,
        Err(why) => return skipped(format_args!("no node is short of threads: {why}")),
    };
    super::run(async || {
        let mut cluster = Cluster::lay_out(Manner::default(), &mraft_faults::binary::find()?, SHAPE)?;
        cluster.nodes[HURT].control_group = Some(group.door());
        let ended = scenario(&mut cluster, &group).await;
        ended.map_err(|failure| super::explained(&mut cluster, failure))
    });
}

async fn scenario(cluster: &mut Cluster, group: &ControlGroup) -> Result<()> {
    let (refused, enough) = starts(cluster, group).await?;
    group.limit_threads(u64::MAX)?;
    for node in (0..SHAPE.nodes).filter(|node| *node != HURT) {
        cluster.start_node(node)?;
    }
    cluster.serves().await?;
    let load = Load::start(cluster, SIZE)?;
    greedy::prepare(cluster).await?;
    stages::progress(cluster, &load, "it has the threads that it needs", WRITES_BETWEEN).await?;

    let had = group.threads()?;
    group.limit_threads(1)?;
    stages::progress(cluster, &load, "it may start none", WRITES_BETWEEN).await?;
    let mut done = Done::default();
    // Scans want threads beside the doors'.
    for greed in [Greed::Scans, Greed::Idle] {
        rounds::round(cluster, &load, &mut Greedy::new(greed), PACE, &[], &mut done).await?;
    }
    // A peer that comes back wants a thread to be heard on, and is not heard before there is one.
    cluster.nodes[PEER].kill()?;
    stages::progress(cluster, &load, "it has lost a peer", WRITES_BETWEEN).await?;
    let spoken = cluster.nodes[HURT].said()?.len();
    cluster.start_node(PEER)?;
    wait::until("it says that it has no thread for its peer", async || {
        let said = cluster.nodes[HURT].said()?;
        let is_said = said.get(spoken..).is_some_and(|said| said.contains("no thread for a connection"));
        wait::is(is_said, || "it does not".to_owned())
    })
    .await?;
    stages::progress(cluster, &load, "its peer is back", WRITES_BETWEEN).await?;
    let has = group.threads()?;
    group.limit_threads(u64::MAX)?;
    cluster.serves().await?;
    stages::progress(cluster, &load, "it may start them again", WRITES_BETWEEN).await?;
    let recorded = load.finish().await?;

    let mut counts = Counts::new("a node that may not start threads");
    counts.at_least(1, "starts refused", refused);
    counts.tell("threads with which a start succeeded", enough);
    counts.tell("threads when it might start no more", had);
    counts.tell("threads in the end of that", has);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

/// Starts it with one thread more each time, until it is up: how many starts it refused, and how many threads were enough.
async fn starts(cluster: &mut Cluster, group: &ControlGroup) -> Result<(u64, u64)> {
    for threads in 1..=STARTS_MAX {
        let spoken = cluster.nodes[HURT].said().map_or(0, |said| said.len());
        group.limit_threads(threads)?;
        cluster.start_node(HURT)?;
        let ended = wait::until("it is up or has ended", async || {
            if cluster.nodes[HURT].must_be_well().is_err() {
                return Ok(true);
            }
            let said = cluster.nodes[HURT].said()?;
            let is_up = said.get(spoken..).is_some_and(|said| said.contains("the node is up"));
            wait::is(is_up, || "neither".to_owned()).map(|()| false)
        })
        .await
        .map_err(|failure| failure.while_doing(format_args!("a start with {threads} threads")))?;
        if !ended {
            // Each one before it was refused.
            return Ok((threads - 1, threads));
        }
        let said = cluster.nodes[HURT].said()?;
        let said = said.get(spoken..).unwrap_or_default();
        let last = said.trim_end().lines().next_back().unwrap_or_default();
        let is_clear = last.starts_with("mraft: ") && last.contains("thread") && last.contains(EAGAIN);
        wait::is(is_clear && !said.contains("panicked"), || {
            format!("with {threads} threads it does not say why it ended: {said}")
        })?;
        say(last);
    }
    Err(Failure::new(format_args!("{STARTS_MAX} threads are not enough for a start")))
}
