// SPDX-License-Identifier: Apache-2.0

//! exploration

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::skips::skipped;
use mraft_faults::{judge, wait};
use mraft_frail::Image;

use super::{disks, stages};

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 6,
    snapshot_entries: 50,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 192, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\n";

struct Full {
    cluster: Cluster,
    log: Image,
    data: Image,
}

impl Drop for Full {
    fn drop(&mut self) {
        self.cluster.nodes.clear();
    }
}

#[test]
fn explore() {
    if let Some(why) = mraft_frail::image_why_not() {
        return skipped(format_args!("no disk can be filled here: {why}"));
    }
    super::run(async || {
        let mut cluster = Cluster::lay_out(Manner::default(), &mraft_faults::binary::find()?, SHAPE)?;
        for node in &mut cluster.nodes {
            node.settings = SETTINGS.to_owned();
        }
        let home = cluster.nodes[0].home().to_owned();
        let mount = |name: &str, bytes: u64| {
            let at = home.join(name);
            fs::create_dir(&at)?;
            Image::mount(&home.join(format!("{name}.image")), &at, bytes)
        };
        let log = mount("log-disk", 160 << 20)?;
        let data = mount("data-disk", 64 << 20)?;
        fs::create_dir(data.path().join("data"))?;
        symlink(data.path().join("data"), cluster.nodes[0].data())?;
        cluster.nodes[0].settings.push_str(&format!("wal_dir = {:?}\n", log.path().join("wal")));
        let mut full = Full { cluster, log, data };
        let ended = scenario(&mut full).await;
        ended.map_err(|failure| super::explained(&mut full.cluster, failure))
    });
}

async fn look(full: &Full, load: &Load, spoken: usize, what: &str, ms: u64) -> Result<()> {
    let began = Instant::now();
    let mut last = String::new();
    let first = load.acks().counts(6);
    while began.elapsed() < Duration::from_millis(ms) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let said = disks::ask(&full.cluster, 0).await;
        let now = match said {
            Ok(said) => format!(
                "livez {} readyz {} {:?} leads {} failed {} warnings {:?}",
                said.live.0,
                said.ready.0,
                said.ready.1.lines().filter(|line| line.starts_with("[-]")).collect::<Vec<_>>(),
                said.status.groups_leading,
                said.status.groups_failed,
                said.status.warnings.iter().filter(|w| !w.contains("election")).collect::<Vec<_>>()
            ),
            Err(error) => error.to_string(),
        };
        if now != last {
            say(&format!(
                "{what} {} ms: free log {} KB data {} KB {now}",
                began.elapsed().as_millis(),
                full.log.free_bytes()? >> 10,
                full.data.free_bytes()? >> 10
            ));
            last = now;
        }
    }
    let after: Vec<u64> = load.acks().counts(6).iter().zip(first).map(|(a, b)| a - b).collect();
    say(&format!("{what}: writes per group {after:?}"));
    for line in disks::logged(&full.cluster, 0, "ERROR", spoken)?
        .iter()
        .chain(&disks::logged(&full.cluster, 0, "WARN", spoken)?)
        .take(8)
    {
        say(line);
    }
    Ok(())
}

async fn scenario(full: &mut Full) -> Result<()> {
    full.cluster.begin().await?;
    let load = Load::start(&full.cluster, SIZE)?;
    stages::progress(&mut full.cluster, &load, "all run", 1000).await?;
    let spoken = full.cluster.nodes[0].said()?.len();
    full.data.fill(0)?;
    look(full, &load, spoken, "data full", 60_000).await?;
    full.data.make_room()?;
    look(full, &load, spoken, "data has room", 10_000).await?;
    let spoken = full.cluster.nodes[0].said()?.len();
    full.log.fill(0)?;
    look(full, &load, spoken, "log full", 20_000).await?;
    full.log.make_room()?;
    look(full, &load, spoken, "log has room", 5_000).await?;
    // snapshot
    full.cluster.nodes[0].kill()?;
    stages::is_left_behind(&full.cluster, 0).await?;
    full.data.fill(300 << 10)?;
    let spoken = full.cluster.nodes[0].said()?.len();
    full.cluster.start_node(0)?;
    look(full, &load, spoken, "snapshot on a full disk", 15_000).await?;
    if full.cluster.nodes[0].must_be_well().is_err() {
        say("ended");
    }
    full.data.make_room()?;
    look(full, &load, spoken, "snapshot has room", 10_000).await?;
    if full.cluster.nodes[0].is_running() {
        full.cluster.nodes[0].kill()?;
    }
    full.data.fill(0)?;
    full.cluster.start_node(0)?;
    let said = disks::ended(&mut full.cluster, 0, "identity").await;
    say(&format!("identity: {said:?}"));
    full.data.make_room()?;
    if !full.cluster.nodes[0].is_running() {
        full.cluster.start_node(0)?;
    }
    full.cluster.serves().await?;
    let recorded = load.finish().await?;
    let mut counts = Counts::new("full");
    judge::judge(&mut full.cluster, &recorded, &mut counts).await?;
    counts.close()?;
    wait::is(true, String::new)?;
    full.cluster.stop()
}
