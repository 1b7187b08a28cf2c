// SPDX-License-Identifier: Apache-2.0

//! A node that is gone for good is replaced with the commands that an operator has, while clients go on.

use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::Counts;
use mraft_faults::failure::Result;
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, operator, wait};

use super::stages;

const SHAPE: Shape = Shape {
    nodes: 3,
    groups: 16,
    snapshot_entries: 100,
    compaction_overhead: 10,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 64, keys_per_writer: 16, rivals: 8, shared_keys: 2 };
const DEAD: usize = 0;

#[test]
fn a_node_that_is_gone_for_good_is_replaced() {
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let load = Load::start(cluster, SIZE)?;
    stages::progress(cluster, &load, "all nodes run", 2_000).await?;
    cluster.nodes[DEAD].kill()?;
    stages::progress(cluster, &load, "a node is gone", 2_000).await?;

    let spare = cluster.make_node()?;
    cluster.start_node(spare)?;
    let dead = cluster.nodes[DEAD].id.get().to_string();
    let new = cluster.nodes[spare].id.get().to_string();
    let new_at = format!("{new}@{}", cluster.nodes[spare].raft);
    let mut replaced = 0;
    for group in 0..SHAPE.groups {
        let id = group.to_string();
        // An operator runs a command again that says that it was too early, or that no leader was there.
        for arguments in [["add-learner", &new_at], ["promote", &new], ["remove", &dead]] {
            let command = ["group", &id, arguments[0], arguments[1]];
            wait::until(&command.join(" "), async || operator::run(cluster, &command).await.map(drop))
                .await?;
        }
        replaced += 1;
    }
    wait::until("the dead node is removed for good", async || {
        operator::run(cluster, &["node", "remove", &dead]).await.map(drop)
    })
    .await?;
    stages::progress(cluster, &load, "the new node is a member", 2_000).await?;

    let recorded = load.finish().await?;
    let mut counts = Counts::new("a node that is gone for good");
    counts.at_least(SHAPE.groups, "groups with a new member", replaced);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let members = members_are(cluster, &[1, 2, spare]).await;
    let enough = counts.close();
    judged?;
    members?;
    enough?;
    cluster.stop()
}

/// Whether every group has exactly these nodes as voters.
async fn members_are(cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    let mut wanted: Vec<u64> = nodes.iter().map(|node| cluster.nodes[*node].id.get()).collect();
    wanted.sort_unstable();
    let client = cluster.client(nodes[0])?;
    for group in 0..SHAPE.groups {
        let detail = client.group(group).await?;
        let mut found: Vec<u64> =
            detail.members.iter().filter(|member| member.role == "voter").map(|member| member.node).collect();
        found.sort_unstable();
        wait::is(found == wanted && detail.members.len() == wanted.len(), || {
            format!("{:?}", detail.members)
        })?;
    }
    Ok(())
}
