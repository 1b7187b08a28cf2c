// SPDX-License-Identifier: Apache-2.0

//! A disk that answers EIO, once or always, under load: what stands on it stops and says so wherever somebody may look, and everybody
//! else goes on. A start on such a disk is refused, or leaves out the group whose state cannot be read.

use mraft_faults::cluster::Shape;
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, wait};
use mraft_frail::{Kind, Times, Trouble};

use super::disks::{self, OnDisks, Said};
use super::stages;

const GROUPS: u64 = 8;
/// The group whose state cannot be reached.
const HURT: u64 = 3;
const SHAPE: Shape = Shape {
    nodes: 3,
    groups: GROUPS,
    snapshot_entries: 50,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\n";
const WRITES_BETWEEN: u64 = 200;
/// What the system says, and so the node.
const EIO: &str = "Input/output error";

/// What has to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stops {
    /// Every replica of the node.
    Node,
    /// That of [`HURT`] alone.
    Group,
}

/// While the node runs: what fails, and what has to stop because of it.
const RUNNING: &[(&[Kind], &str, Times, Stops)] = &[
    (&[Kind::Sync], "log/segment-*", Times::Once, Stops::Node),
    (&[Kind::Sync], "log/segment-*", Times::Always, Stops::Node),
    (&[Kind::Write], "log/segment-*", Times::Once, Stops::Node),
    (&[Kind::Write], "log/segment-*", Times::Always, Stops::Node),
    (&[Kind::Sync], "groups/3-*", Times::Once, Stops::Group),
    (&[Kind::SyncNames], "groups/3-*", Times::Once, Stops::Group),
    (&[Kind::Names], "groups/3-*", Times::Once, Stops::Group),
    (&[Kind::Write], "groups/3-*", Times::Always, Stops::Group),
    (&[Kind::Read], "groups/3-*", Times::Always, Stops::Group),
];

/// While it starts: what fails, and what it names then.
const STARTING: &[(&[Kind], &str, &str)] = &[
    (&[Kind::Read], "identity", "/identity"),
    (&[Kind::Write], "identity.new", "/identity"),
    (&[Kind::Sync], "identity.new", "/identity"),
    (&[Kind::Names], "identity", "/identity"),
    (&[Kind::Read], "settings", "/settings"),
    (&[Kind::Read], "topology", "/topology"),
    (&[Kind::Read], "peers", "/peers"),
    (&[Kind::Read], "group-list", "/group-list"),
    (&[Kind::Read], "log/replicas", "/log"),
    (&[Kind::Sync], "log/replicas", "/log"),
    (&[Kind::Read], "log/segment-*", "/log"),
    (&[Kind::SyncNames], "log", "/log"),
];

#[test]
fn a_disk_that_fails_stops_what_stands_on_it_and_nobody_else() {
    disks::run(SHAPE, SETTINGS, scenario);
}

async fn scenario(on_disks: &mut OnDisks) -> Result<()> {
    let load = Load::start(&on_disks.cluster, SIZE)?;
    let (mut nodes_stopped, mut groups_stopped, mut starts_refused) = (0, 0, 0);
    for (number, &(kinds, paths, times, stops)) in RUNNING.iter().enumerate() {
        let node = number % 3;
        stages::progress(&mut on_disks.cluster, &load, "all nodes run", WRITES_BETWEEN).await?;
        let spoken = on_disks.cluster.nodes[node].said()?.len();
        let said = disks::ask(&on_disks.cluster, node).await?;
        wait::is(said.is_well(), || format!("nothing has failed yet: {said:?}"))?;
        let trouble = on_disks.disk(node).trouble(kinds, paths, Trouble::Fails, times);
        let what = format!("{kinds:?} of {paths} fails {times:?} and stops {stops:?}");
        has_stopped(on_disks, node, stops, spoken).await.map_err(|failure| failure.while_doing(&what))?;
        stages::progress(&mut on_disks.cluster, &load, "a disk fails", WRITES_BETWEEN).await?;
        match stops {
            Stops::Node => nodes_stopped += 1,
            Stops::Group => groups_stopped += 1,
        }
        on_disks.cluster.nodes[node].stop()?;
        if times == Times::Always {
            on_disks.cluster.start_node(node)?;
            match stops {
                Stops::Node => {
                    let said = disks::ended(&mut on_disks.cluster, node, &what).await?;
                    wait::is(said.contains("/log") && said.contains(EIO), || format!("{what}: {said}"))?;
                    starts_refused += 1;
                }
                Stops::Group => {
                    let said = has_stopped(on_disks, node, stops, spoken).await;
                    said.map_err(|failure| failure.while_doing(&what))?;
                    on_disks.cluster.nodes[node].kill()?;
                }
            }
        }
        on_disks.disk(node).mend(trouble);
        on_disks.cluster.start_node(node)?;
        on_disks.cluster.serves().await?;
    }
    for (number, &(kinds, paths, named)) in STARTING.iter().enumerate() {
        let node = number % 3;
        on_disks.cluster.nodes[node].kill()?;
        let trouble = on_disks.disk(node).trouble(kinds, paths, Trouble::Fails, Times::Always);
        on_disks.cluster.start_node(node)?;
        let what = format!("{kinds:?} of {paths} fails at the start");
        let said = disks::ended(&mut on_disks.cluster, node, &what).await?;
        wait::is(said.contains(named) && said.contains(EIO), || format!("{what}: {said}"))?;
        starts_refused += 1;
        on_disks.disk(node).mend(trouble);
        on_disks.cluster.start_node(node)?;
        on_disks.cluster.serves().await?;
    }
    stages::progress(&mut on_disks.cluster, &load, "nothing fails any more", WRITES_BETWEEN).await?;
    let recorded = load.finish().await?;
    let mut counts = Counts::new("disks that fail");
    counts.at_least(4, "nodes stopped by their disk", nodes_stopped);
    counts.at_least(5, "replicas stopped by it", groups_stopped);
    counts.at_least(2 + STARTING.len() as u64, "starts refused", starts_refused);
    let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    on_disks.cluster.stop()
}

/// Waits until it has, and looks whether the node says so everywhere.
async fn has_stopped(on_disks: &OnDisks, node: usize, stops: Stops, spoken: usize) -> Result<()> {
    let cluster = &on_disks.cluster;
    let failed = match stops {
        Stops::Node => GROUPS,
        Stops::Group => 1,
    };
    wait::until("the node says that something stopped", async || {
        let said = disks::ask(cluster, node).await?;
        wait::is(said.status.groups_failed == failed, || format!("{} failed", said.status.groups_failed))?;
        // One replica is no reason to take the node away, once it knows the other groups' leaders.
        let is_settled = stops == Stops::Node || said.ready.0 == 200;
        wait::is(is_settled, || said.ready.1.clone())
    })
    .await?;
    // It may have happened between two of those questions: only now all of them must be answered alike.
    let said = wait::until("the node says so once more", async || disks::ask(cluster, node).await).await?;
    let errors = disks::logged(cluster, node, "ERROR", spoken)?;
    let says = |holds: bool, what: &str| wait::is(holds, || format!("{what}: {said:?}, {errors:?}"));
    let Said { live, ready, status, unfit, metrics } = &said;
    says(*metrics == (failed, 0), "the metrics do not say so")?;
    let is_unfit = |group: &&mraft_api::GroupSummary| {
        group.state.as_deref() == Some("stopped")
            && group.reason.as_deref().is_some_and(|reason| reason.contains(EIO))
    };
    says(
        unfit.len() as u64 == failed && unfit.iter().filter(is_unfit).count() == unfit.len(),
        "the groups do not say so",
    )?;
    let warns =
        |words: &[&str]| status.warnings.iter().any(|said| words.iter().all(|word| said.contains(word)));
    let logs = |words: &[&str]| errors.iter().any(|line| words.iter().all(|word| line.contains(word)));
    match stops {
        Stops::Node => {
            says(live.0 == 503 && live.1.contains("[-]log-disk failed") && live.1.contains(EIO), "livez")?;
            says(ready.0 == 503 && !status.ready, "readyz")?;
            says(warns(&[EIO, "every replica of this node stopped"]), "no warning says so")?;
            says(
                logs(&["the log failed", EIO, "every replica of this node stopped"]),
                "the log does not say so",
            )
        }
        Stops::Group => {
            says(live.0 == 200, "livez")?;
            says(unfit[0].group == HURT, "it is another group")?;
            says(warns(&["1 replica here has stopped (group 3: ", EIO]), "no warning says so")?;
            says(logs(&["this replica stopped", "\"group\":\"3\"", EIO]), "the log does not say so")
        }
    }
}
