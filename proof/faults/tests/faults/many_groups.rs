// SPDX-License-Identifier: Apache-2.0

//! A thousand groups on each of three nodes, and the power fails of all of them at the same moment under load. Every node starts and says
//! how far it is, every group comes back with all that it acknowledged, and there is no storm: a group needs a term or two to have a leader
//! again, however many others want the same at that moment.

use std::time::Instant;

use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::{elections, judge, rounds, wait};

const NODES: usize = 3;
const GROUPS: u64 = 1_000;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: GROUPS,
    snapshot_entries: 10,
    compaction_overhead: 5,
    snapshot_bytes_per_second: 64 << 20,
};
/// A dozen keys for each group, so that each has some.
const SIZE: Size = Size { writers: 96, keys_per_writer: 96, rivals: 8, shared_keys: 4 };
/// In every group that was written to another comparison would be on its way when all is to be at rest; the judge compares them all.
const SETTINGS: &str = "compare_every_ms = 0\n";
const WRITES_BEFORE: u64 = 2_000;
const IN_FLIGHT_LEAST: u64 = 50;

/// The next leader of a group takes one term; one group may be unlucky, …
const TERMS_MAX: u64 = 6;
/// … and half of them once more.
const TERMS_OF_ALL_MAX: u64 = GROUPS * 3 / 2;

#[test]
fn a_thousand_groups_come_back_from_a_total_power_cut() {
    #[cfg(target_os = "linux")]
    let why = match mraft_frail::why_not() {
        None => {
            return super::disks::run(SHAPE, SETTINGS, async |on_disks| {
                let before = Before::the_cut(&mut on_disks.cluster).await?;
                on_disks.cut_power(&[0, 1, 2], GROUPS)?;
                before.and_after(&mut on_disks.cluster).await
            });
        }
        Some(why) => why,
    };
    #[cfg(not(target_os = "linux"))]
    let why = "it needs FUSE";
    mraft_faults::skips::skipped(format_args!(
        "no power cut of a thousand groups, their nodes are killed: {why}"
    ));
    super::run_cluster(mraft_faults::cluster::Manner::default(), SHAPE, async |cluster| {
        let before = Before::the_cut(cluster).await?;
        cluster.nodes.iter_mut().try_for_each(|node| node.strike())?;
        cluster.nodes.iter_mut().try_for_each(|node| node.bury())?;
        before.and_after(cluster).await
    });
}

/// What is under way and known when the power fails.
struct Before {
    load: Load,
    terms: Vec<u64>,
    writes: u64,
    in_flight: u64,
    /// What each node has said so far, in bytes.
    said: Vec<usize>,
}

impl Before {
    async fn the_cut(cluster: &mut Cluster) -> Result<Before> {
        let load = Load::start(cluster, SIZE)?;
        super::stages::progress(cluster, &load, "all nodes run", WRITES_BEFORE).await?;
        let terms = rounds::terms(cluster, &[0, 1, 2]).await?;
        let said = cluster.nodes.iter().map(|node| Ok(node.said()?.len())).collect::<Result<_>>()?;
        let in_flight = wait::until("enough writes are in flight", async || {
            let in_flight = load.writes_in_flight();
            wait::is(in_flight >= IN_FLIGHT_LEAST, || in_flight.to_string())?;
            Ok(in_flight)
        })
        .await?;
        let writes = load.writes_acknowledged();
        Ok(Before { load, terms, writes, in_flight, said })
    }

    async fn and_after(self, cluster: &mut Cluster) -> Result<()> {
        let Before { load, terms, writes, in_flight, said } = self;
        let begun = Instant::now();
        (0..NODES).try_for_each(|node| cluster.start_node(node))?;
        cluster.serves().await?;
        let led = begun.elapsed();
        rounds::progress_everywhere(cluster, &load, "the power is back", 1).await?;
        let written = begun.elapsed();
        let elections = elections::since_start(cluster).await?;
        let terms_after = rounds::terms(cluster, &[0, 1, 2]).await?;
        let growth: Vec<u64> =
            terms.iter().zip(&terms_after).map(|(before, after)| after.saturating_sub(*before)).collect();
        say(&format!(
            "{GROUPS} groups: all have a leader {} ms after the nodes were started, all have taken a write after {} ms",
            led.as_millis(),
            written.as_millis()
        ));
        let mut took = Vec::new();
        for (node, said) in cluster.nodes.iter().zip(said) {
            took.extend(start_took(node.said()?.get(said..).unwrap_or_default()));
        }
        say(&format!("the starts took {took:?} ms, as the nodes say"));

        let recorded = load.finish().await?;
        let mut counts = Counts::new("a thousand groups, and the power fails");
        counts.at_least(WRITES_BEFORE, "writes acknowledged before it", writes);
        counts.at_least(IN_FLIGHT_LEAST, "writes in flight when it did", in_flight);
        counts.at_least(NODES as u64, "nodes that say how long their start took", took.len() as u64);
        // A group tries again without a term of its own until a majority has started, which is a matter of time.
        counts.tell("elections begun since", elections);
        counts.at_least(GROUPS, "terms that all groups went through", growth.iter().sum());
        counts.at_most(TERMS_OF_ALL_MAX, "terms that all groups went through", growth.iter().sum());
        counts.at_most(
            TERMS_MAX,
            "terms of the group that went through most",
            growth.iter().max().copied().unwrap_or(0),
        );
        let judged = judge::judge(cluster, &recorded, &mut counts).await;
        let enough = counts.close();
        judged?;
        enough?;
        cluster.stop()
    }
}

/// How long a start took, in milliseconds, by the line with which it ends; it began with one, too.
fn start_took(said: &str) -> Option<u64> {
    let line = |what: &str| said.lines().find(|line| line.contains(what));
    line("\"starting: reading the log\"")?;
    line("\"the node is up\"")?.split_once("\"took_ms\":")?.1.split([',', '}']).next()?.parse().ok()
}
