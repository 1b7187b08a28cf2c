// SPDX-License-Identifier: Apache-2.0

//! Disks that hang, the log's, the stores' or both, and disks that are 10 to 1,000 times slower than they should be. Leadership leaves them,
//! a node that hangs stops serving and says so, and the others go on. How long that takes is printed; nothing depends on it.

use std::time::{Duration, Instant};

use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::raw::Wire;
use mraft_faults::{judge, wait};
use mraft_frail::{Kind, TRANSFERS, Times, Trouble};

use super::disks::{self, OnDisks};
use super::stages;

const GROUPS: u64 = 6;
const SHAPE: Shape = Shape {
    nodes: 3,
    groups: GROUPS,
    snapshot_entries: 50,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const WRITES_BETWEEN: u64 = 500;

/// Hangs are found sooner than by default (2 and 30 seconds).
const SETTINGS_OF_HANGS: &str = "election_rtt = 25\nslow_disk_ms = 1000\nstalled_disk_ms = 3000\n";
/// What hangs, of which files, and what the node says of it.
const HANGS: &[(&str, &[Kind], &str, &str)] = &[
    ("the log's syncs", &[Kind::Sync], "log/segment-*", "a log write has not ended"),
    ("everything", TRANSFERS, "*", "every replica of this node stopped"),
    ("the stores", TRANSFERS, "groups/*", "a state machine has not come back"),
];

/// Leadership moves when callers wait for 2 seconds, as by default.
const SETTINGS_OF_SLOWNESS: &str = "election_rtt = 25\n";
/// What an operation takes on a disk that is well; the memory behind these disks takes far less.
const NOMINAL: Duration = Duration::from_millis(1);
/// From here on leadership has to leave.
const TOO_SLOW: u32 = 1_000;
const TIMES_SLOWER: [u32; 3] = [10, 100, TOO_SLOW];

#[test]
fn a_disk_that_hangs_stops_its_node_and_the_others_go_on() {
    disks::run(SHAPE, SETTINGS_OF_HANGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let mut counts = Counts::new("disks that hang");
        for (number, (what, kinds, files, says)) in HANGS.iter().enumerate() {
            let node = number % SHAPE.nodes;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
            disks::has_led(&on_disks.cluster, node).await?;
            let spoken = on_disks.cluster.nodes[node].said()?.len();
            load.acks().begin();
            let began = Instant::now();
            let trouble = on_disks.disk(node).trouble(kinds, *files, Trouble::Hangs, Times::Always);
            disks::leads_nothing(&on_disks.cluster, node).await?;
            let left = began.elapsed();
            has_stopped(&on_disks.cluster, node, says, spoken).await?;
            let stopped = began.elapsed();
            stages::progress(&mut on_disks.cluster, &load, what, WRITES_BETWEEN).await?;
            counts.tell(what, 0);
            counts.tell("ms until leadership had left", millis(left));
            counts.tell("ms until it had stopped serving", millis(stopped));
            counts.tell(
                "ms without a write in the group where it was longest",
                millis(load.acks().gap().of_one),
            );
            // It cannot die while the disk keeps it.
            on_disks.cluster.nodes[node].strike()?;
            on_disks.disk(node).mend(trouble);
            on_disks.cluster.nodes[node].bury()?;
            on_disks.cluster.start_node(node)?;
            on_disks.cluster.serves().await?;
        }
        finish(on_disks, load, counts).await
    });
}

#[test]
fn leadership_leaves_a_disk_that_is_too_slow() {
    disks::run(SHAPE, SETTINGS_OF_SLOWNESS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        let mut counts = Counts::new("slow disks");
        for (number, times) in TIMES_SLOWER.into_iter().enumerate() {
            let node = number % SHAPE.nodes;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
            disks::has_led(&on_disks.cluster, node).await?;
            load.acks().begin();
            let began = Instant::now();
            on_disks.disk(node).trouble(TRANSFERS, "*", Trouble::Takes(NOMINAL * times), Times::Always);
            if times >= TOO_SLOW {
                disks::leads_nothing(&on_disks.cluster, node).await?;
                counts
                    .tell("ms until leadership had left a disk 1,000 times slower", millis(began.elapsed()));
            }
            stages::progress(&mut on_disks.cluster, &load, "a disk is slow", WRITES_BETWEEN).await?;
            counts.tell("times slower", u64::from(times));
            counts.tell("ms for 500 writes", millis(began.elapsed()));
            counts.tell(
                "ms without a write in the group where it was longest",
                millis(load.acks().gap().of_one),
            );
            on_disks.disk(node).mend_all();
        }
        on_disks.cluster.serves().await?;
        finish(on_disks, load, counts).await
    });
}

/// Waits until the node does not serve any more, and looks whether it says so everywhere.
async fn has_stopped(cluster: &Cluster, node: usize, says: &str, spoken: usize) -> Result<()> {
    let said = wait::until("the node stops serving", async || {
        let said = disks::ask(cluster, node).await?;
        wait::is(said.live.0 == 503, || said.live.1.clone())?;
        Ok(said)
    })
    .await?;
    let errors = disks::logged(cluster, node, "ERROR", spoken)?;
    let is = |holds: bool, what: &str| wait::is(holds, || format!("{what}: {said:?}, {errors:?}"));
    is(said.live.1.contains("[-]log-disk failed") && said.live.1.contains(says), "livez")?;
    is(said.ready.0 == 503 && !said.status.ready, "readyz")?;
    is(said.status.groups_failed == GROUPS && said.metrics == (GROUPS, 0), "the figures do not say so")?;
    is(said.unfit.len() as u64 == GROUPS, "the groups do not say so")?;
    is(said.status.warnings.iter().any(|warning| warning.contains(says)), "no warning says so")?;
    is(errors.iter().any(|line| line.contains(says)), "the log does not say so")?;
    // Whoever asks it is told, and not kept waiting for the disk.
    let answer = Wire::open(cluster.nodes[node].http).await?.ask("GET", "/v1/kv/any", b"").await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    is(answer.status == 503 && text.contains("disk_stalled"), &text)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn finish(on_disks: &mut OnDisks, load: Load, mut counts: Counts) -> Result<()> {
    stages::progress(&mut on_disks.cluster, &load, "all disks are well again", WRITES_BETWEEN).await?;
    let recorded = load.finish().await?;
    let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    on_disks.cluster.stop()
}
