// SPDX-License-Identifier: Apache-2.0

//! A replica that needs a snapshot while clients go on, at both ends of what the limits of rate can be: the slowest rate that is accepted,
//! and none. Slower ones are refused.

use std::time::{Duration, Instant};

use mraft_api::GroupDetail;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::{binary, judge, metrics, wait};

use super::stages;

/// Bytes per second.
const SLOWEST: u64 = 1 << 20;
const UNLIMITED: u64 = 0;

const NODES: usize = 3;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 16,
    snapshot_entries: 100,
    compaction_overhead: 10,
    snapshot_bytes_per_second: SLOWEST,
};
/// A state of some megabytes: at the slowest rate it takes as many seconds, far longer than its log is kept otherwise.
const SIZE: Size = Size { writers: 64, keys_per_writer: 96, rivals: 8, shared_keys: 2 };
const WRITES_FIRST: u64 = 12_000;
const WRITES_MEANWHILE: u64 = 1_000;
const BEHIND: usize = 2;

/// It arrives piece by piece: so many times somebody who looks finds more than before.
const ADVANCES_LEAST: u64 = 3;
/// A snapshot for each group, and one more for the few whose leader changed meanwhile. Whoever lets go of what was written while one was on
/// its way needs more.
const SNAPSHOTS_MAX: u64 = SHAPE.groups + SHAPE.groups / 4;
/// At least so much of the state comes, so that the rate has something to hold up.
const STATE_BYTES_LEAST: u64 = 4 << 20;
/// Entries of a group that its log keeps when nobody needs a snapshot: those above the last state that was persisted and those kept behind
/// it, some times over, because the store persists beside the writes.
const ENTRIES_KEPT_MAX: u64 = 10 * (SHAPE.snapshot_entries + SHAPE.compaction_overhead);

#[test]
fn a_rate_that_would_deliver_nothing_is_refused_by_name() {
    super::run(async || {
        for (send, receive, key) in [
            (1, UNLIMITED, "`max_snapshot_send_bytes_per_second` = 1B"),
            (UNLIMITED, SLOWEST - 1, "`max_snapshot_recv_bytes_per_second` = 1048575B"),
        ] {
            let mut cluster = Cluster::lay_out(Manner::default(), &binary::find()?, SHAPE)?;
            limit(&mut cluster, send, receive);
            cluster.start_node(0)?;
            wait::until("the node ends", async || match cluster.nodes[0].must_be_well() {
                Ok(()) => Err(Failure::new("it runs")),
                Err(_) => Ok(()),
            })
            .await?;
            let said = cluster.nodes[0].said()?;
            say(said.trim_end());
            for part in [key, "must be at least 1MiB a second", "0 for no limit"] {
                wait::is(said.contains(part), || format!("it does not say {part}: {said}"))?;
            }
            wait::is(!cluster.nodes[0].data().exists(), || "it has written something".to_owned())?;
        }
        Ok(())
    });
}

#[test]
fn a_replica_comes_back_at_the_slowest_rate_of_snapshots_and_without_limit() {
    super::run(async || {
        let mut cluster = Cluster::lay_out(Manner::default(), &binary::find()?, SHAPE)?;
        limit(&mut cluster, SLOWEST, SLOWEST);
        cluster.begin().await?;
        let ended = scenario(&mut cluster).await;
        ended.map_err(|failure| super::explained(&mut cluster, failure))
    });
}

/// Rates of nodes that are started from now on.
fn limit(cluster: &mut Cluster, send: u64, receive: u64) {
    cluster.shape.snapshot_bytes_per_second = receive;
    for node in &mut cluster.nodes {
        node.settings = format!("max_snapshot_send_bytes_per_second = {send}\n");
    }
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let mut counts = Counts::new("snapshots at the slowest rate and without limit");
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "all nodes run", WRITES_FIRST).await?;

    cluster.nodes[BEHIND].stop()?;
    stages::is_left_behind(cluster, BEHIND).await?;
    let slow = comes_back(cluster, &load).await?;
    counts.at_least(ADVANCES_LEAST, "times that more had come, at the slowest rate", slow.advances);
    counts.at_least(SHAPE.groups, "snapshots taken in", slow.snapshots);
    counts.at_most(SNAPSHOTS_MAX, "snapshots taken in at the slowest rate", slow.snapshots);
    counts.at_least(STATE_BYTES_LEAST, "bytes of them", slow.bytes);
    counts.at_least(1, "milliseconds that they were held up for their rate", slow.throttled_ms);
    counts.at_least(WRITES_MEANWHILE, "writes acknowledged meanwhile", slow.writes);
    counts.tell("most entries that a log kept meanwhile", slow.kept_most);
    logs_are_short(cluster).await?;

    limit(cluster, UNLIMITED, UNLIMITED);
    for node in 0..NODES {
        cluster.nodes[node].stop()?;
        cluster.start_node(node)?;
        // The next one is only stopped when nobody needs this one to stay.
        cluster.serves().await?;
    }
    cluster.nodes[BEHIND].stop()?;
    stages::is_left_behind(cluster, BEHIND).await?;
    let fast = comes_back(cluster, &load).await?;
    counts.at_least(SHAPE.groups, "snapshots taken in without limit", fast.snapshots);
    counts.at_most(SNAPSHOTS_MAX, "snapshots taken in without limit", fast.snapshots);
    logs_are_short(cluster).await?;

    load.latencies().begin();
    stages::progress(cluster, &load, "no snapshot is on its way", fast.writes).await?;
    let (_, alone) = load.latencies().end();
    say(&format!(
        "99 of 100 writes took at most {:?} without a snapshot; {:.1} times that at the slowest rate, {:.1} times without limit",
        alone,
        slow.p99.as_secs_f64() / alone.as_secs_f64(),
        fast.p99.as_secs_f64() / alone.as_secs_f64()
    ));

    let recorded = load.finish().await?;
    counts.at_most(0, "operations that failed, or of unknown fate", recorded.unsure());
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

/// How the one that was behind came back.
#[derive(Debug, Default)]
struct Back {
    took: Duration,
    advances: u64,
    snapshots: u64,
    bytes: u64,
    throttled_ms: u64,
    writes: u64,
    p99: Duration,
    kept_most: u64,
}

/// Starts it and waits until it has what its groups had at that moment, and clients have written enough since.
async fn comes_back(cluster: &mut Cluster, load: &Load) -> Result<Back> {
    let wanted = wait::until("a node says what its groups have", async || logs(cluster, 0).await).await?;
    let wanted: Vec<u64> = wanted.iter().map(|group| group.log_last).collect();
    let (begun, writes) = (Instant::now(), load.writes_acknowledged());
    load.latencies().begin();
    cluster.start_node(BEHIND)?;
    let client = cluster.client_of_one(BEHIND)?;
    let mut back = Back::default();
    wait::until("the one that was behind has caught up", async || {
        cluster.nodes.iter_mut().try_for_each(|node| node.must_be_well())?;
        for node in (0..NODES).filter(|node| *node != BEHIND) {
            let kept = logs(cluster, node).await?.iter().map(kept).max().unwrap_or(0);
            back.kept_most = back.kept_most.max(kept);
        }
        let told = client.metrics().await?;
        let bytes = metrics::value(&told, "mraft_snapshot_received_bytes_total");
        back.advances += u64::from(bytes > back.bytes);
        back.bytes = bytes;
        back.snapshots = metrics::value(&told, "mraft_snapshots_total{what=\"received\"}");
        back.throttled_ms = metrics::value(&told, "mraft_snapshot_throttled_milliseconds_total");
        back.writes = load.writes_acknowledged() - writes;
        for (group, wanted) in client.groups().await?.groups.iter().zip(&wanted) {
            wait::is(group.applied >= *wanted, || {
                format!(
                    "group {} is applied to {} of {wanted}, {bytes} bytes came",
                    group.group, group.applied
                )
            })?;
        }
        wait::is(back.writes >= WRITES_MEANWHILE, || format!("{} writes", back.writes))
    })
    .await?;
    back.took = begun.elapsed();
    (_, back.p99) = load.latencies().end();
    say(&format!("{back:?}"));
    Ok(back)
}

/// Waits until no log keeps anything for a snapshot any more; clients go on.
async fn logs_are_short(cluster: &Cluster) -> Result<()> {
    for node in 0..NODES {
        wait::until("logs forget what they kept for a snapshot", async || {
            let logs = logs(cluster, node).await?;
            let long = logs.iter().find(|group| kept(group) > ENTRIES_KEPT_MAX);
            wait::is(long.is_none(), || format!("{:?}", long.map(kept)))
        })
        .await?;
    }
    Ok(())
}

fn kept(group: &GroupDetail) -> u64 {
    group.log_last.saturating_sub(group.log_first)
}

/// Every group as this node has it.
async fn logs(cluster: &Cluster, node: usize) -> Result<Vec<GroupDetail>> {
    let client = cluster.client_of_one(node)?;
    let mut groups = Vec::new();
    for group in 0..cluster.shape.groups {
        groups.push(client.group(group).await?);
    }
    Ok(groups)
}
