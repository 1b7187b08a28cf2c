// SPDX-License-Identifier: Apache-2.0

//! Links between real nodes, each in a network namespace of its own: partitions of every shape, and little bandwidth.

use std::time::Duration;

use mraft_api::Consistency;
use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::fault::Fault;
use mraft_faults::kinds::links::{Narrow, Partition, Partitioned, Whose};
use mraft_faults::load::{Load, Size};
use mraft_faults::partition::Cuts;
use mraft_faults::rounds::{self, Done, Pace};
use mraft_faults::skips::skipped;
use mraft_faults::{judge, report, wait};
use mraft_history::linearizability;

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
fn no_partition_shows_anything_old_or_loses_anything() {
    super::run_in_namespaces(SHAPE, scenario);
}

/// So many election timeouts last cuts that are to show that terms do not grow: a storm has one in one or two of them.
const LONG_TIMEOUTS: u32 = 6;

/// Terms that nodes went through that were cut off, and the whole cluster while two halves could not see each other. Whoever reaches no
/// majority must not raise its term, or it would disturb the others when it comes back; whoever hears a leader must not let another one up.
async fn terms_of_long_cuts(cluster: &mut Cluster) -> Result<(u64, u64)> {
    let mut growths = Vec::new();
    let everybody = [0, 1, 2, 3, 4];
    for (cuts, whose) in
        [(Cuts::apart(NODES, &[0, 1]), &everybody[..2]), (Cuts::bridge(NODES, 2), &everybody[..])]
    {
        cluster.serves().await?;
        let before = rounds::terms(cluster, whose).await?;
        if let Some(network) = cluster.ground().network() {
            network.cut(&cuts)?;
        }
        wait::pass(LONG_TIMEOUTS * report::ELECTION_TIMEOUT).await;
        knows_what_it_cannot_reach(cluster, &cuts).await?;
        let after = rounds::terms(cluster, whose).await?;
        if let Some(network) = cluster.ground().network() {
            network.heal()?;
        }
        growths.push(after.iter().zip(&before).map(|(after, before)| after - before).max().unwrap_or(0));
    }
    Ok((growths[0], growths[1]))
}

/// A connection that carries nothing any more must be given up, or it would still be silent long after the network is whole.
async fn knows_what_it_cannot_reach(cluster: &Cluster, cuts: &Cuts) -> Result<()> {
    for (from, to) in cuts.pairs() {
        let (client, peer) = (cluster.client_of_one(from)?, cluster.nodes[to].id.get());
        wait::until("a node knows that it does not reach another one", async || {
            let status = client.status().await?;
            let is_connected = status.peers.iter().any(|row| row.node == peer && row.connected);
            wait::is(!is_connected, || format!("{from} thinks that it reaches {to}"))
        })
        .await?;
    }
    Ok(())
}

/// The same, with readers that take what a node has: it shows that the judge would see a node that answers with what is no longer true.
#[test]
fn a_node_that_answers_with_what_is_old_would_be_found_out() {
    super::run_in_namespaces(SMALL, stale_scenario);
}

const SMALL: Shape = Shape { nodes: 3, groups: 2, ..SHAPE };

async fn stale_scenario(cluster: &mut Cluster) -> Result<()> {
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 4, Consistency::Stale);
    load.probe(cluster).await?;
    let mut fault = Partitioned::new(Partition::Symmetric);
    let pace = Pace { reads_per_node: 200, ..PACE };
    rounds::round(cluster, &load, &mut fault, pace, &[], &mut Done::default()).await?;
    let recorded = load.finish().await?;
    match linearizability::check(&recorded.history) {
        Err(broken) => say(&format!("found, as it must be: {broken}")),
        Ok(_) => return Err(Failure::new("stale reads of a node that was cut off were taken for true")),
    }
    cluster.stop()
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let mut faults: Vec<Box<dyn Fault>> =
        Partitioned::all().map(|fault| Box::new(fault) as Box<dyn Fault>).collect();
    match cluster.ground().network().map(|network| Narrow::is_possible(network)) {
        Some(Err(why)) => skipped(format_args!("no limits of bandwidth: {why}")),
        _ => faults
            .extend([Whose::Leader, Whose::All].map(|whose| Box::new(Narrow::new(whose)) as Box<dyn Fault>)),
    }
    let mut load = Load::start(cluster, SIZE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    load.probe(cluster).await?;
    let mut done = Done::default();
    for fault in &mut faults {
        rounds::round(cluster, &load, &mut **fault, PACE, &[], &mut done).await?;
    }
    let (minority, halves) = terms_of_long_cuts(cluster).await?;
    let recorded = load.finish().await?;
    report::tell("links", &done.rows)?;
    let mut counts = Counts::new("links cut and narrowed");
    counts.at_least(faults.len() as u64, "faults", done.rows.len() as u64);
    counts.at_most(1, "terms of nodes that were cut off for long", minority);
    counts.at_most(2, "terms of two halves with one bridge for long", halves);
    counts.at_least(1, "groups led by nodes when they were cut off", done.groups_led);
    counts.at_least(1, "reads asked of nodes that did not know", done.reads_of_deceived);
    counts.at_least(1, "reads that they answered afterwards", done.answered_by_deceived);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}
