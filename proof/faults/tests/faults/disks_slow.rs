// SPDX-License-Identifier: Apache-2.0

//! exploration

use std::time::{Duration, Instant};

use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, wait};
use mraft_frail::{Kind, TRANSFERS, Times, Trouble};

use super::disks::{self, OnDisks};
use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 9,
    snapshot_entries: 50,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\nstalled_disk_ms = 4000\n";

async fn leads(cluster: &Cluster, node: usize, sick: usize) -> Result<u64> {
    let groups = cluster.client_of_one(node)?.groups().await?.groups;
    Ok(groups.iter().filter(|group| group.leader == Some(cluster.nodes[sick].id.get())).count() as u64)
}

async fn try_groups(on_disks: &OnDisks, sick: usize) -> Result<()> {
    use mraft_api::{Condition, Consistency};
    let client = on_disks.cluster.client(1)?.with_timeout(Duration::from_secs(3));
    let groups = client.groups().await?.groups;
    for group in groups {
        let led = group.leader == Some(on_disks.cluster.nodes[sick].id.get());
        // find a key of the group
        let key = (0..10_000).map(|n| format!("probe-{n}")).find(|key| {
            let slot = crc16(key.as_bytes()) % 16384;
            group.slots.iter().any(|range| {
                let (a, b) = range.split_once('-').unwrap_or((range, range));
                (a.parse::<u16>().unwrap_or(0)..=b.parse::<u16>().unwrap_or(0)).contains(&slot)
            })
        });
        let Some(key) = key else { continue };
        let began = Instant::now();
        let put =
            client.put(key.as_bytes(), b"x", Condition::None).await.map(|_| ()).map_err(|e| e.to_string());
        let put_ms = began.elapsed().as_millis();
        let began = Instant::now();
        let get = client
            .get(key.as_bytes(), Consistency::Linearizable)
            .await
            .map(|_| ())
            .map_err(|e| e.to_string());
        say(&format!(
            "   group {} led by sick {led}: put {put_ms} ms {put:?}; get {} ms {get:?}",
            group.group,
            began.elapsed().as_millis()
        ));
    }
    Ok(())
}

fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
        }
    }
    crc
}

async fn watch(on_disks: &mut OnDisks, load: &Load, sick: usize, what: &str, for_ms: u64) -> Result<()> {
    let began = Instant::now();
    let mut last = load.writes_acknowledged();
    let first = last;
    let mut told = (u64::MAX, 0);
    while began.elapsed() < Duration::from_millis(for_ms) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = load.writes_acknowledged();
        let led = leads(&on_disks.cluster, (sick + 1) % 3, sick).await.unwrap_or(99);
        let mut wire = mraft_faults::raw::Wire::open(on_disks.cluster.nodes[sick].http).await?;
        let live = wire.ask("GET", "/livez", b"").await.map_or(0, |answer| answer.status);
        if (led, live) != told {
            say(&format!(
                "{what}: {} ms: leads {led}, livez {live}, {} writes",
                began.elapsed().as_millis(),
                now - first
            ));
            told = (led, live);
        }
        last = now;
    }
    say(&format!("{what}: {} writes in {for_ms} ms, last {last}", load.writes_acknowledged() - first));
    Ok(())
}

async fn is_leading(on_disks: &OnDisks, sick: usize) -> Result<()> {
    wait::until("it leads", async || {
        for group in 0..3 {
            let _ = on_disks
                .cluster
                .client(1)?
                .transfer(
                    group,
                    &mraft_api::NodeRequest {
                        node: on_disks.cluster.nodes[sick].id.into(),
                        change_index: None,
                    },
                )
                .await;
        }
        let led = leads(&on_disks.cluster, 1, sick).await?;
        wait::is(led > 0, || "none".to_owned())
    })
    .await
}

#[test]
fn explore() {
    disks::run(SHAPE, SETTINGS, async |on_disks| {
        let load = Load::start(&on_disks.cluster, SIZE)?;
        for (what, kinds, paths, trouble) in [
            ("state hangs", TRANSFERS, "groups/*", Trouble::Hangs),
            ("state sync hangs", &[Kind::Sync], "groups/*", Trouble::Hangs),
        ] {
            let sick = 0;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", 500).await?;
            is_leading(on_disks, sick).await?;
            let spoken = on_disks.cluster.nodes[sick].said()?.len();
            let id = on_disks.disk(sick).trouble(kinds, paths, trouble, Times::Always);
            watch(on_disks, &load, sick, what, 12_000).await?;
            try_groups(on_disks, sick).await?;
            for line in disks::logged(&on_disks.cluster, sick, "ERROR", spoken)?
                .iter()
                .chain(&disks::logged(&on_disks.cluster, sick, "WARN", spoken)?)
                .take(12)
            {
                say(line);
            }
            say(&format!(
                "{:?}",
                tokio::time::timeout(Duration::from_secs(2), disks::ask(&on_disks.cluster, sick)).await.map(
                    |said| said.map(|said| (
                        said.live,
                        said.ready,
                        said.status.groups_failed,
                        said.status.warnings,
                        said.unfit.len(),
                        said.metrics
                    ))
                )
            ));
            on_disks.cluster.nodes[sick].strike()?;
            on_disks.disk(sick).mend(id);
            on_disks.cluster.nodes[sick].bury()?;
            on_disks.cluster.start_node(sick)?;
            on_disks.cluster.serves().await?;
        }
        let recorded = load.finish().await?;
        let mut counts = Counts::new("slow");
        judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await?;
        counts.close()?;
        on_disks.cluster.stop()
    });
}
