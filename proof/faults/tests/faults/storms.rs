// SPDX-License-Identifier: Apache-2.0

//! Thousands of clients that try again at once, whatever they are told, and go on while nodes die and come back. What is too much is
//! refused, nobody dies of it, and nobody has to go away before the cluster works again: a state from which it would not come back while
//! its clients wait for it is what this looks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mraft_api::Condition;
use mraft_api::client::Client;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::fault::{Fault, Scene};
use mraft_faults::kinds::signals::{How, Signalled, Who};
use mraft_faults::kinds::storm::Storm;
use mraft_faults::load::{Load, Size};
use mraft_faults::report::{self, Row};
use mraft_faults::skips::skipped;
use mraft_faults::told::{NO_ANSWER, Told};
use mraft_faults::values::FOREIGN;
use mraft_faults::{judge, rounds, vitals, wait};

use super::resources::{CEILING_MEGABYTES, SLACK_MEGABYTES, TERMS_MAX};

const NODES: usize = 3;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 4,
    snapshot_entries: 5_000,
    compaction_overhead: 1_000,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 24, keys_per_writer: 16, rivals: 6, shared_keys: 2 };
/// A node with this ceiling of memory takes 341 connections at most.
const CLIENTS_PER_NODE: usize = 600;
const WRITES_PER_GROUP: u64 = 20;
const WRITES_PER_NODE: usize = 2;
/// What the storm is told in an outage, and how often at least: by who is left and has no leader, or by nobody.
const OUTAGES: [(Who, u16, u64); 2] = [
    (Who::Majority, 503, CLIENTS_PER_NODE as u64),
    (Who::All, NO_ANSWER, 3 * (CLIENTS_PER_NODE * NODES) as u64),
];
/// What is aimed at and printed, and never judged.
const RECOVERY_GOAL: Duration = Duration::from_secs(30);

#[test]
fn a_cluster_recovers_from_a_storm_of_clients_while_it_rages() {
    if let Err(why) = Storm::make_room(CLIENTS_PER_NODE * NODES) {
        return skipped(format_args!("no storm of clients: {why}"));
    }
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster, SIZE)?;
    rounds::progress_everywhere(cluster, &load, "nobody storms", WRITES_PER_GROUP).await?;
    let patient: Vec<Client> = (0..NODES).map(|node| cluster.client_of_one(node)).collect::<Result<_>>()?;
    let storm = Storm::breaks_out(cluster, CLIENTS_PER_NODE);
    let told = Arc::clone(&storm.told);
    is_told(&told, 429, (CLIENTS_PER_NODE * NODES) as u64).await?;
    rounds::progress_everywhere(cluster, &load, "the storm rages", WRITES_PER_GROUP).await?;
    every_node_takes_writes(cluster, &patient, "the storm rages").await?;
    let mut resident = most_resident_megabytes(cluster)?;
    let mut rows = Vec::new();
    for (who, status, least) in OUTAGES {
        let terms_before = terms(&patient).await?;
        let all: Vec<usize> = (0..NODES).collect();
        let mut scene = Scene { cluster, by_groups_led: all.clone(), mortal: all };
        let mut outage = Signalled::new(who, How::Killed);
        outage.inflict(&mut scene)?;
        is_told(&told, status, least).await?;
        load.acks().begin();
        outage.lift(&mut scene)?;
        let when = "the herd waits for the nodes that are back";
        rounds::progress_everywhere(cluster, &load, when, WRITES_PER_GROUP).await?;
        let gap = load.acks().gap();
        every_node_takes_writes(cluster, &patient, when).await?;
        let terms = terms(&patient).await?;
        let growth = terms.iter().zip(&terms_before).map(|(after, before)| after.saturating_sub(*before));
        rows.push(Row { fault: outage.name(), gap, terms: growth.max().unwrap_or(0) });
        resident = resident.max(most_resident_megabytes(cluster)?);
    }
    drop(storm);
    let passed = Instant::now();
    rounds::progress_everywhere(cluster, &load, "the storm has passed", WRITES_PER_GROUP).await?;
    every_node_takes_writes(cluster, &patient, "the storm has passed").await?;
    let calm_after = passed.elapsed();
    told.is_right()?;
    let recorded = load.finish().await?;
    report::tell("storms", &rows)?;

    let mut counts = Counts::new("a storm of clients, and outages in it");
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let longest = rows.iter().map(|row| row.gap.of_one).max().unwrap_or_default();
    counts.tell("milliseconds until every group wrote again, the herd still there", millis(longest));
    counts.tell("milliseconds until every node wrote again when it had passed", millis(calm_after));
    counts.tell("milliseconds are the goal for either", millis(RECOVERY_GOAL));
    counts.at_least(2, "outages", rows.len() as u64);
    counts.at_least(1, "requests of the storm that were served", told.count(200));
    counts.at_least(1, "refused with 429", told.count(429));
    counts.at_least(1, "refused with 503", told.count(503));
    counts.at_least(1, "without an answer", told.count(NO_ANSWER));
    let name = "megabytes resident at most, ceiling and slack";
    counts.at_most(CEILING_MEGABYTES + SLACK_MEGABYTES, name, resident);
    let terms = rows.iter().map(|row| row.terms).max().unwrap_or(0);
    counts.at_most(TERMS_MAX, "terms of one group in one outage", terms);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

fn most_resident_megabytes(cluster: &Cluster) -> Result<u64> {
    let processes = cluster.nodes.iter().filter_map(|node| node.pid());
    let most = processes.map(vitals::most_resident_bytes).collect::<Result<Vec<u64>>>()?;
    Ok(most.into_iter().max().unwrap_or(0) >> 20)
}

/// Waits until the storm was told this so many times more.
async fn is_told(told: &Told, status: u16, least: u64) -> Result<()> {
    let goal = told.count(status) + least;
    wait::until(&format!("the storm is told {status} {least} times"), async || {
        told.is_right()?;
        wait::is(told.count(status) >= goal, || told.to_string())
    })
    .await
}

/// Waits until each of the nodes has acknowledged some writes that it was asked for itself, by a client that waits when it is told to.
async fn every_node_takes_writes(cluster: &mut Cluster, patient: &[Client], when: &str) -> Result<()> {
    for (node, client) in patient.iter().enumerate() {
        for number in 0..WRITES_PER_NODE {
            let key = [FOREIGN, b"patient-", number.to_string().as_bytes()].concat();
            wait::until(&format!("node {node} takes a write: {when}"), async || {
                cluster.nodes[node].must_be_well()?;
                Ok(client.put(&key, b"patient", Condition::None).await?)
            })
            .await?;
        }
    }
    Ok(())
}

/// The highest term of each group that any node knows.
async fn terms(patient: &[Client]) -> Result<Vec<u64>> {
    let mut terms = vec![0; SHAPE.groups as usize];
    for client in patient {
        let groups = wait::until("a node says its terms", async || Ok(client.groups().await?)).await?;
        for (term, group) in terms.iter_mut().zip(groups.groups) {
            *term = group.term.max(*term);
        }
    }
    Ok(terms)
}
