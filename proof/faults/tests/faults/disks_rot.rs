// SPDX-License-Identifier: Apache-2.0

//! Bits flip at rest.

use mraft_faults::cluster::Shape;
use mraft_faults::counts::{Counts, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, operator, wait};

use super::disks::{self, OnDisks};
use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 4,
    snapshot_entries: 100,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 4 };
const SETTINGS: &str = "election_rtt = 25\n";

const PATTERNS: &[&str] = &[
    "identity",
    "settings",
    "peers",
    "group-list",
    "topology",
    "log/replicas",
    "log/segment-*",
    "groups/*/pointer",
    "groups/*/current",
    "groups/*/v*",
    "groups/*/tables/*",
];

#[test]
fn rot_is_noticed() {
    disks::run(SHAPE, SETTINGS, scenario);
}

async fn scenario(on_disks: &mut OnDisks) -> Result<()> {
    let load = Load::start(&on_disks.cluster, SIZE)?;
    stages::progress(&mut on_disks.cluster, &load, "all nodes run", 2000).await?;
    say(&format!("{:?}", on_disks.disk(0).files()));
    let mut seed = 0;
    for pattern in PATTERNS {
        for round in 0..5 {
            seed += 1;
            let node = seed as usize % 3;
            stages::progress(&mut on_disks.cluster, &load, "all nodes run", 300).await?;
            if round % 2 == 0 {
                on_disks.cluster.nodes[node].stop()?;
            } else {
                on_disks.cluster.nodes[node].kill()?;
            }
            let flip = on_disks
                .disk(node)
                .flip_one(*pattern, seed)
                .ok_or_else(|| Failure::new("nothing to flip"))?;
            say(&format!("##### node {node} {flip:?}"));
            let said_before = on_disks.cluster.nodes[node].said()?.len();
            on_disks.cluster.start_node(node)?;
            let client = on_disks.cluster.client_of_one(node)?;
            let status = wait::until("it ends or answers", async || {
                if let Err(ended) = on_disks.cluster.nodes[node].must_be_well() {
                    return Ok(Err(ended));
                }
                let status = client.status().await?;
                wait::is(
                    status.groups_without_leader + status.groups_failed == 0 || status.uptime_s > 2,
                    || "no leaders".to_owned(),
                )?;
                Ok(Ok((status, client.groups().await?)))
            })
            .await?;
            let mut bad = Vec::new();
            match &status {
                Ok((status, groups)) => {
                    say(&format!(
                        "  up: ready {} failed {} without leader {} warnings {:?}",
                        status.ready, status.groups_failed, status.groups_without_leader, status.warnings
                    ));
                    for group in &groups.groups {
                        if group.state.as_deref() != Some("follower")
                            && group.state.as_deref() != Some("leader")
                        {
                            bad.push((group.group, group.state.clone()));
                            say(&format!("  group {} {:?} {:?}", group.group, group.state, group.reason));
                        }
                    }
                }
                Err(_) => {}
            }
            let said = on_disks.cluster.nodes[node].said()?;
            for line in said[said_before..]
                .lines()
                .filter(|line| line.contains("ERROR") || line.contains("WARN") || !line.starts_with('{'))
            {
                say(&format!("  {line}"));
            }
            stages::progress(&mut on_disks.cluster, &load, "rotten", 100).await?;
            if status.is_err() {
                if !on_disks.disk(node).flip(&flip) {
                    return Err(Failure::new("cannot flip back"));
                }
                on_disks.cluster.start_node(node)?;
            } else if bad.iter().any(|(_, state)| state.as_deref() == Some("condemned")) {
                let id = on_disks.cluster.nodes[node].id.get().to_string();
                let at = format!("{id}@{}", on_disks.cluster.nodes[node].raft);
                for (group, _) in &bad {
                    let group = group.to_string();
                    for arguments in [["remove", &id], ["add-learner", &at], ["promote", &id]] {
                        let command = ["group", &group, arguments[0], arguments[1]];
                        wait::until(&command.join(" "), async || {
                            operator::run(&on_disks.cluster, &command).await.map(drop)
                        })
                        .await?;
                    }
                }
            } else if !bad.is_empty() {
                on_disks.cluster.nodes[node].kill()?;
                if !on_disks.disk(node).flip(&flip) {
                    say("  cannot flip back");
                }
                on_disks.cluster.start_node(node)?;
            }
            on_disks.cluster.serves().await?;
        }
    }
    let recorded = load.finish().await?;
    let mut counts = Counts::new("bits that flip");
    let judged = judge::judge(&mut on_disks.cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    on_disks.cluster.stop()
}
