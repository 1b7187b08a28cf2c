// SPDX-License-Identifier: Apache-2.0

//! Bits flip at rest on the disk of a stopped node: it is said at the next start, or when the bytes are read, and nothing wrong is
//! answered. What was condemned or has failed is replaced with the commands that an operator has.

use std::collections::BTreeSet;
use std::fs;

use mraft_faults::autopsy::{self, Autopsy};
use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, operator, wait};
use mraft_frail::Flip;

use super::disks::{self, OnDisks};
use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 4,
    snapshot_entries: 50,
    compaction_overhead: 10,
    snapshot_bytes_per_second: 4 << 20,
};
/// The log keeps everything, so whatever rots in it was needed.
const LOG_KEEPS_ALL: Shape = Shape { snapshot_entries: 1_000_000, compaction_overhead: 1_000_000, ..SHAPE };
/// A node that was away comes back by the log, and its store stays.
const STORES_STAY: Shape = Shape { compaction_overhead: 100_000, ..SHAPE };
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\n";
const WRITES_BETWEEN: u64 = 300;

/// Small files, of which the node needs every bit: it does not start and names them.
const SMALL_FILES: &[&str] = &["identity", "settings", "peers", "group-list", "topology", "log/replicas"];
const FLIPS_PER_SMALL_FILE: u64 = 2;
/// So many make every group flush its store.
const WRITES_FIRST: u64 = 4_000;
const FLIPS_IN_LOGS: u64 = 9;
const FLIPS_IN_STORES: u64 = 9;
/// So many snapshots rot while they come in. A node that is killed a moment too late has installed what it had: then it is done again.
const SNAPSHOTS: u64 = 2;
const SNAPSHOT_ATTEMPTS_MAX: u64 = 50;

#[test]
fn a_small_file_that_rots_is_named_and_the_node_does_not_start() {
    disks::run(SHAPE, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let mut refused = 0;
        for (number, file) in SMALL_FILES.iter().enumerate() {
            for seed in 0..FLIPS_PER_SMALL_FILE {
                let node = number % SHAPE.nodes;
                stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
                on_disks.cluster.nodes[node].kill()?;
                let flip = flip_one(on_disks, node, file, seed)?;
                on_disks.cluster.start_node(node)?;
                let said = disks::ended(&mut on_disks.cluster, node, &format!("{flip:?}")).await?;
                let is_clear = said.contains(&format!("/data/{file}: ")) && is_damage(&said);
                wait::is(is_clear, || format!("{flip:?}: {said}"))?;
                refused += 1;
                // Nothing was changed: with the bit back in its place it is the same node.
                on_disks.disk(node).flip(&flip);
                on_disks.cluster.start_node(node)?;
                on_disks.cluster.serves().await?;
            }
        }
        let mut counts = Counts::new("small files that rot");
        counts.at_least(SMALL_FILES.len() as u64 * FLIPS_PER_SMALL_FILE, "starts refused", refused);
        finish(on_disks, load, counts).await
    });
}

#[test]
fn a_log_that_rots_condemns_the_replicas_whose_entries_it_held() {
    disks::run(LOG_KEEPS_ALL, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let (mut noticed, mut condemned) = (0, 0);
        for seed in 0..FLIPS_IN_LOGS {
            let node = seed as usize % SHAPE.nodes;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
            stop_or_kill(on_disks, node, seed)?;
            let flip = flip_one(on_disks, node, "log/segment-*", seed)?;
            let unfit = start_with(on_disks, node, &flip).await?;
            for (group, state, reason) in &unfit {
                let is_clear = state == "condemned" && reason.contains("its log is damaged");
                wait::is(is_clear, || format!("{flip:?}: group {group} is {state}: {reason}"))?;
            }
            say(&format!("{flip:?}: {unfit:?}"));
            noticed += u64::from(!unfit.is_empty());
            condemned += unfit.len() as u64;
            replace(&on_disks.cluster, node, unfit.iter().map(|(group, ..)| *group)).await?;
            on_disks.cluster.serves().await?;
        }
        let mut counts = Counts::new("logs that rot");
        counts.tell("bits flipped", FLIPS_IN_LOGS);
        counts.at_least(FLIPS_IN_LOGS / 2, "noticed", noticed);
        counts.at_least(FLIPS_IN_LOGS / 2, "replicas condemned and replaced", condemned);
        finish(on_disks, load, counts).await
    });
}

#[test]
fn a_store_that_rots_is_noticed_at_the_latest_when_it_is_read() {
    disks::run(STORES_STAY, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let (mut noticed, mut unread) = (0, 0);
        stages::progress(&mut on_disks.cluster, &load, "stores are flushed", WRITES_FIRST).await?;
        for seed in 0..FLIPS_IN_STORES {
            let node = seed as usize % SHAPE.nodes;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
            stop_or_kill(on_disks, node, seed)?;
            let flip = match seed % 3 {
                0 => flip_live(on_disks, node, seed, &["tables/"])?,
                1 => flip_live(on_disks, node, seed, &["v"])?,
                _ => flip_live(on_disks, node, seed, &["current"])?,
            };
            let mut unfit = start_with(on_disks, node, &flip).await?;
            if unfit.is_empty() {
                unfit = read_everything(&on_disks.cluster, node).await?;
            }
            say(&format!("{flip:?}: {unfit:?}"));
            for (group, state, reason) in &unfit {
                let is_clear = state == "stopped" && is_damage(reason);
                wait::is(is_clear, || format!("{flip:?}: group {group} is {state}: {reason}"))?;
            }
            noticed += u64::from(!unfit.is_empty());
            unread += u64::from(unfit.is_empty());
            replace(&on_disks.cluster, node, unfit.iter().map(|(group, ..)| *group)).await?;
            on_disks.cluster.serves().await?;
        }
        let mut counts = Counts::new("stores that rot");
        counts.at_least(FLIPS_IN_STORES - 1, "stores in which it was noticed", noticed);
        counts.tell("bits that nobody read", unread);
        finish(on_disks, load, counts).await
    });
}

#[test]
fn a_snapshot_that_rots_on_its_way_in_is_sent_again() {
    disks::run(SHAPE, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let (mut attempts, mut rotten) = (0, 0);
        while rotten < SNAPSHOTS && attempts < SNAPSHOT_ATTEMPTS_MAX {
            let node = attempts as usize % SHAPE.nodes;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
            rotten += rot_what_comes_in(on_disks, &load, node, attempts).await?;
            attempts += 1;
        }
        let mut counts = Counts::new("snapshots that rot on their way in");
        counts.tell("times that a node was killed while they came in", attempts);
        counts.at_least(SNAPSHOTS, "snapshots with a flipped bit", rotten);
        finish(on_disks, load, counts).await
    });
}

/// A node comes back by snapshots, dies while they come in, and what has come in rots. How many files of it.
async fn rot_what_comes_in(on_disks: &mut OnDisks, load: &Load, node: usize, seed: u64) -> Result<u64> {
    let data = on_disks.cluster.nodes[node].data();
    let mut autopsy = Autopsy::default();
    on_disks.cluster.nodes[node].kill()?;
    autopsy.look(&data)?;
    stages::is_left_behind(&on_disks.cluster, node).await?;
    on_disks.cluster.start_node(node)?;
    wait::until("a snapshot comes in", async || {
        on_disks.cluster.nodes[node].must_be_well()?;
        wait::is(autopsy.installs_under_way(&data) > 0, || "none does".to_owned())
    })
    .await?;
    on_disks.cluster.nodes[node].kill()?;
    let mut flipped = 0;
    for directory in autopsy::leftovers(&data)? {
        let below = directory.strip_prefix(&data).map_err(Failure::new)?;
        let files = format!("{}/*", below.display());
        flipped += u64::from(on_disks.disk(node).flip_one(files.as_str(), seed).is_some());
    }
    on_disks.cluster.start_node(node)?;
    on_disks.cluster.serves().await?;
    stages::progress(&mut on_disks.cluster, load, "it catches up", WRITES_BETWEEN).await?;
    Ok(flipped)
}

/// Flips a bit in the live state of some group: in a file whose name there begins so; of versions in the one that counts.
fn flip_live(on_disks: &OnDisks, node: usize, seed: u64, names: &[&str]) -> Result<Flip> {
    let data = on_disks.cluster.nodes[node].data();
    let dead: BTreeSet<_> = autopsy::leftovers(&data)?.into_iter().collect();
    let mut files = Vec::new();
    for path in on_disks.disk(node).files_like("groups/*/*/*") {
        let state = data.join(path.components().take(3).collect::<std::path::PathBuf>());
        let Ok(name) = data.join(&path).strip_prefix(&state).map(|name| name.to_string_lossy().into_owned())
        else {
            continue;
        };
        let current = fs::read(state.join("current")).unwrap_or_default();
        let number = current.get(..8).and_then(|number| number.try_into().ok()).map(u64::from_le_bytes);
        let counts = !name.starts_with('v') || number.is_some_and(|number| name == format!("v{number}"));
        if names.iter().any(|prefix| name.starts_with(prefix)) && counts && !dead.contains(&state) {
            files.push(path);
        }
    }
    let file = files.get(seed as usize % files.len().max(1));
    let file = file.ok_or_else(|| Failure::new(format_args!("no store has {names:?}")))?;
    flip_one(on_disks, node, &file.to_string_lossy(), seed)
}

fn flip_one(on_disks: &OnDisks, node: usize, files: &str, seed: u64) -> Result<Flip> {
    let flip = on_disks.disk(node).flip_one(files, seed);
    flip.ok_or_else(|| Failure::new(format_args!("there is nothing in {files}")))
}

fn stop_or_kill(on_disks: &mut OnDisks, node: usize, seed: u64) -> Result<()> {
    match seed % 2 {
        0 => on_disks.cluster.nodes[node].stop(),
        _ => on_disks.cluster.nodes[node].kill(),
    }
}

/// A replica that neither leads nor follows: its group, its state, and why.
type Unfit = (u64, String, String);

/// Starts a node that must start; which of its replicas are unfit once the others know their leaders.
async fn start_with(on_disks: &mut OnDisks, node: usize, flip: &Flip) -> Result<Vec<Unfit>> {
    on_disks.cluster.start_node(node)?;
    let client = on_disks.cluster.client_of_one(node)?;
    let cluster = &mut on_disks.cluster;
    wait::until(&format!("the node is up with {flip:?}"), async || {
        cluster.nodes[node].must_be_well()?;
        let status = client.status().await?;
        wait::is(status.groups_without_leader == 0, || format!("{} have none", status.groups_without_leader))
    })
    .await?;
    unfit_of(&on_disks.cluster, node).await
}

/// The node's unfit replicas, as it says everywhere: one may stop between two of the questions.
async fn unfit_of(cluster: &Cluster, node: usize) -> Result<Vec<Unfit>> {
    wait::until("the node says the same of its replicas everywhere", async || {
        let said = disks::ask(cluster, node).await?;
        let unfit: Vec<Unfit> = said
            .unfit
            .into_iter()
            .map(|group| (group.group, group.state.unwrap_or_default(), group.reason.unwrap_or_default()))
            .collect();
        let told =
            unfit.len() as u64 == said.status.groups_failed && unfit.is_empty() == (said.metrics == (0, 0));
        wait::is(told, || {
            format!(
                "{unfit:?}, the status counts {}, the metrics {:?}",
                said.status.groups_failed, said.metrics
            )
        })?;
        Ok(unfit)
    })
    .await
}

/// Has every replica read its whole content; which of the node's are unfit now.
async fn read_everything(cluster: &Cluster, node: usize) -> Result<Vec<Unfit>> {
    let client = cluster.client((node + 1) % SHAPE.nodes)?;
    for group in 0..SHAPE.groups {
        wait::until(&format!("all content of group {group} was read"), async || {
            if unfit_of(cluster, node).await?.iter().any(|(unfit, ..)| *unfit == group) {
                return Ok(());
            }
            let read = client.verify(group).await?;
            let said = read.replicas.iter().filter(|row| row.hash.is_some()).count();
            wait::is(said == SHAPE.nodes, || format!("{:?}", read.replicas))?;
            wait::is(read.equal, || format!("BROKEN PROMISE: content differs: {read:?}"))
        })
        .await?;
    }
    unfit_of(cluster, node).await
}

/// Gives the node new replicas of these groups.
async fn replace(cluster: &Cluster, node: usize, groups: impl Iterator<Item = u64>) -> Result<()> {
    let id = cluster.nodes[node].id.get().to_string();
    let at = format!("{id}@{}", cluster.nodes[node].raft);
    for group in groups {
        let group = group.to_string();
        for arguments in [["remove", &id], ["add-learner", &at], ["promote", &id]] {
            let command = ["group", &group, arguments[0], arguments[1]];
            wait::until(&command.join(" "), async || operator::run(cluster, &command).await.map(drop))
                .await?;
        }
    }
    Ok(())
}

/// Whether a sentence says that bytes are not what they were.
fn is_damage(sentence: &str) -> bool {
    ["damaged", "checksum is wrong", "it does not begin as such a file does"]
        .iter()
        .any(|words| sentence.contains(words))
}

async fn finish(on_disks: &mut OnDisks, load: Load, mut counts: Counts) -> Result<()> {
    stages::progress(&mut on_disks.cluster, &load, "everything is whole again", WRITES_BETWEEN).await?;
    let recorded = load.finish().await?;
    let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    on_disks.cluster.stop()
}
