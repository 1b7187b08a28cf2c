// SPDX-License-Identifier: Apache-2.0

//! The power fails, of all nodes at the same moment, of a majority, and of one, again and again under load: what was not synced is lost,
//! torn at sectors or there after all, in the log, in the stores and in every small file, and no acknowledged write is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mraft_faults::cluster::Shape;
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::values::Dice;
use mraft_faults::{judge, wait};
use mraft_frail::{Cut, Kind, Times, Trouble};

use super::disks::{self, OnDisks};
use super::stages;

const NODES: usize = 3;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 8,
    snapshot_entries: 100,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 192, keys_per_writer: 16, rivals: 16, shared_keys: 4 };

/// Power cuts of a run; the environment may ask for more.
const CUTS_LEAST: u64 = 16;
const CUTS_VARIABLE: &str = "MRAFT_FAULTS_POWER_CUTS";
/// Clusters whose first starts are interrupted.
const FOUNDINGS_LEAST: u64 = 6;
const FOUNDINGS_VARIABLE: &str = "MRAFT_FAULTS_FOUNDINGS";
/// After each of them so many boots are interrupted by another one, …
const BOOTS_INTERRUPTED: u64 = 2;
/// … with one of its first operations, small numbers as likely as large ones: up to two to this power. A first start has about 1,000,
/// most of which fill the log's first files with zeros.
const BOOT_OPERATIONS_POWER_MAX: u64 = 10;
/// A node whose power fails does not answer any more.
const LOOK_TIME_MAX: Duration = Duration::from_millis(200);
const WRITES_BETWEEN: u64 = 1_000;
const IN_FLIGHT_LEAST: u64 = 100;
/// How long a sync takes, as on a disk: most power cuts find something that is written and not synced.
const SYNC: Duration = Duration::from_millis(10);
/// Elections end soon: the power cuts are what this is about.
const SETTINGS: &str = "election_rtt = 25\n";

#[test]
fn no_power_cut_loses_an_acknowledged_write() {
    disks::run(SHAPE, SETTINGS, scenario);
}

/// A cluster that has never served: whatever its first starts left behind, the last one founds it.
#[test]
fn first_starts_are_interrupted_by_power_cuts() {
    let founded = AtomicU64::new(0);
    let wanted = match asked_for(FOUNDINGS_VARIABLE, FOUNDINGS_LEAST) {
        Ok(wanted) => wanted,
        Err(failure) => panic!("{failure}"),
    };
    for seed in 0..wanted {
        disks::run_from_nothing(Shape { groups: 2, ..SHAPE }, SETTINGS, async |on_disks| {
            let mut dice = Dice::new(seed);
            for boot in 0..1 + dice.below(3) {
                interrupt_boot(on_disks, &[0, 1, 2], &mut dice, seed << 8 | boot).await?;
            }
            on_disks.cluster.begin().await?;
            let load = Load::start(&on_disks.cluster, SIZE)?;
            stages::progress(&mut on_disks.cluster, &load, "it was founded", 100).await?;
            load.finish().await?;
            founded.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    }
    say(&format!("== first starts interrupted\n{:>10}  clusters founded all the same", founded.into_inner()));
}

/// The check is worth something: where syncs make nothing durable, it finds that writes are gone.
#[test]
fn disks_whose_syncs_lie_are_found_out() {
    // State that is ahead of the log would be noticed before anybody's write is missed.
    let shape = Shape { snapshot_entries: 1_000_000, ..SHAPE };
    disks::run(shape, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        stages::progress(&mut on_disks.cluster, &load, "syncs are true", WRITES_BETWEEN).await?;
        for node in 0..NODES {
            on_disks.disk(node).trouble(&[Kind::Sync], "log/segment-*", Trouble::Lies, Times::Always);
        }
        stages::progress(&mut on_disks.cluster, &load, "syncs lie", WRITES_BETWEEN).await?;
        on_disks.cut_power_for_good(&[0, 1, 2])?;
        (0..NODES).try_for_each(|node| on_disks.cluster.start_node(node))?;
        let recorded = load.finish().await?;
        let mut counts = Counts::new("power cuts with syncs that lie");
        let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
        let found = judged.expect_err("acknowledged writes are gone").to_string();
        wait::is(found.contains("BROKEN PROMISE"), || format!("something else was found: {found}"))
    });
}

/// The same for the stores: where their syncs make nothing durable, no replica takes what is left for its state.
#[test]
fn stores_whose_syncs_lie_are_found_out() {
    disks::run(SHAPE, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        for node in 0..NODES {
            let kinds = &[Kind::Sync, Kind::SyncNames];
            on_disks.disk(node).trouble(kinds, "groups/*", Trouble::Lies, Times::Always);
        }
        for group in 0..SHAPE.groups {
            is_truncated(on_disks, group).await?;
        }
        load.finish().await?;
        on_disks.cut_power_for_good(&[0, 1, 2])?;
        (0..NODES).try_for_each(|node| on_disks.cluster.start_node(node))?;
        let mut unfit = 0;
        for node in 0..NODES {
            let said = wait::until("a node says how its replicas are", async || {
                let said = disks::ask(&on_disks.cluster, node).await?;
                let all = said.unfit.len() as u64 == SHAPE.groups;
                wait::is(all, || format!("only {} of its replicas are unfit", said.unfit.len()))?;
                Ok(said)
            })
            .await?;
            for group in &said.unfit {
                let reason = group.reason.as_deref().unwrap_or_default();
                wait::is(!reason.is_empty(), || format!("it does not say why: {group:?}"))?;
                if unfit == 0 {
                    say(&format!("group {}: {:?}: {reason}", group.group, group.state));
                }
                unfit += 1;
            }
        }
        let mut counts = Counts::new("power cuts with syncs of stores that lie");
        counts.at_least(NODES as u64 * SHAPE.groups, "replicas that do not trust their state", unfit);
        counts.close()
    });
}

/// Waits until a group's log begins behind what its state was when this began, on the node that says so first.
async fn is_truncated(on_disks: &OnDisks, group: u64) -> Result<()> {
    let client = on_disks.cluster.client(0)?;
    wait::until(&format!("group {group} has truncated its log"), async || {
        let detail = client.group(group).await?;
        wait::is(detail.log_first > u64::from(u8::MAX), || format!("it begins at {}", detail.log_first))
    })
    .await
}

async fn scenario(on_disks: &mut OnDisks) -> Result<()> {
    let cuts_wanted = asked_for(CUTS_VARIABLE, CUTS_LEAST)?;
    for node in 0..NODES {
        on_disks.disk(node).trouble(&[Kind::Sync, Kind::SyncNames], "*", Trouble::Takes(SYNC), Times::Always);
    }
    let load = Load::start(&on_disks.cluster, SIZE)?;
    let (mut of_all, mut of_majority, mut of_one, mut boots_interrupted) = (0, 0, 0, 0);
    let mut dice = Dice::new(cuts_wanted);
    let mut sum = Cut::default();
    for cut in 0..cuts_wanted {
        let first = cut as usize % NODES;
        let struck: Vec<usize> = match cut % 4 {
            1 => vec![first],
            3 => vec![first, (first + 1) % NODES],
            _ => (0..NODES).collect(),
        };
        match struck.len() {
            NODES => of_all += 1,
            1 => of_one += 1,
            _ => of_majority += 1,
        }
        stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
        wait::until("enough writes are in flight", async || {
            let in_flight = load.writes_in_flight();
            wait::is(in_flight >= IN_FLIGHT_LEAST, || format!("{in_flight}"))
        })
        .await?;
        sum = on_disks.cut_power(&struck, cut)?.into_iter().fold(sum, add);
        if struck.len() < NODES / 2 + 1 {
            stages::progress(&mut on_disks.cluster, &load, "a minority has no power", WRITES_BETWEEN).await?;
        }
        for boot in 0..BOOTS_INTERRUPTED {
            let found = interrupt_boot(on_disks, &struck, &mut dice, cut * BOOTS_INTERRUPTED + boot).await?;
            sum = found.into_iter().fold(sum, add);
            boots_interrupted += 1;
        }
        struck.iter().try_for_each(|node| on_disks.cluster.start_node(*node))?;
        on_disks.cluster.serves().await?;
        say(&format!(
            "power cut {} of {cuts_wanted}: {} writes acknowledged",
            cut + 1,
            load.writes_acknowledged()
        ));
    }
    stages::progress(&mut on_disks.cluster, &load, "the last power cut is over", WRITES_BETWEEN).await?;
    let writes = load.writes_acknowledged();
    let recorded = load.finish().await?;
    let mut counts = Counts::new("power cuts under load");
    counts.at_least(cuts_wanted.div_ceil(2), "power cuts of all nodes", of_all);
    counts.at_least(1, "of a majority", of_majority);
    counts.at_least(1, "of one node", of_one);
    counts.at_least(cuts_wanted * BOOTS_INTERRUPTED, "boots interrupted", boots_interrupted);
    counts.at_least(cuts_wanted * WRITES_BETWEEN, "writes acknowledged", writes);
    counts.at_least(1, "unsynced sectors lost", sum.sectors_lost);
    counts.at_least(1, "unsynced sectors that survived", sum.sectors_kept);
    counts.at_least(1, "files torn", sum.files_torn);
    counts.at_least(1, "unsynced changes of names lost", sum.names_lost);
    counts.at_least(1, "unsynced changes of names that survived", sum.names_kept);
    let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    on_disks.cluster.stop()
}

/// Starts these nodes and has the power fail again with one of the first operations that one of them asks its disk for, or when they
/// serve before that.
async fn interrupt_boot(
    on_disks: &mut OnDisks,
    nodes: &[usize],
    dice: &mut Dice,
    seed: u64,
) -> Result<Vec<Cut>> {
    for node in nodes {
        let below = 2 << dice.below(BOOT_OPERATIONS_POWER_MAX);
        on_disks.disk(*node).cut_power_after(1 + dice.below(below));
        on_disks.cluster.start_node(*node)?;
    }
    let clients =
        nodes.iter().map(|node| on_disks.cluster.client_of_one(*node)).collect::<Result<Vec<_>>>()?;
    wait::until("the power fails at a boot", async || {
        nodes.iter().try_for_each(|node| on_disks.cluster.nodes[*node].must_be_well())?;
        if nodes.iter().any(|node| !on_disks.disk(*node).has_power()) {
            return Ok(());
        }
        for client in &clients {
            let status = client.clone().with_timeout(LOOK_TIME_MAX).status().await?;
            wait::is(status.ready, || "it is not ready yet".to_owned())?;
        }
        Ok(())
    })
    .await?;
    on_disks.cut_power(nodes, seed | 1 << 32)
}

fn add(sum: Cut, cut: Cut) -> Cut {
    Cut {
        sectors_kept: sum.sectors_kept + cut.sectors_kept,
        sectors_lost: sum.sectors_lost + cut.sectors_lost,
        files_torn: sum.files_torn + cut.files_torn,
        names_kept: sum.names_kept + cut.names_kept,
        names_lost: sum.names_lost + cut.names_lost,
    }
}

fn asked_for(variable: &str, least: u64) -> Result<u64> {
    let Some(text) = std::env::var_os(variable) else { return Ok(least) };
    let number = text.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|number| *number >= least);
    number.ok_or_else(|| Failure::new(format_args!("{variable} must be a number, at least {least}")))
}
