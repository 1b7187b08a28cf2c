// SPDX-License-Identifier: Apache-2.0

//! What scenarios wait for between their steps.

use mraft_faults::cluster::Cluster;
use mraft_faults::failure::Result;
use mraft_faults::load::Load;
use mraft_faults::wait;

/// Waits until so many more writes are acknowledged; every running node must stay well meanwhile.
pub async fn progress(cluster: &mut Cluster, load: &Load, when: &str, more: u64) -> Result<()> {
    let goal = load.writes_acknowledged() + more;
    let what = format!("{more} more writes are acknowledged while {when}");
    wait::until(&what, async || {
        cluster.nodes.iter_mut().try_for_each(|node| node.must_be_well())?;
        let acknowledged = load.writes_acknowledged();
        wait::is(acknowledged >= goal, || format!("{} are missing", goal - acknowledged))
    })
    .await
}

/// Waits until the others have truncated entries, in every group, that the dead node lacks.
pub async fn is_left_behind(cluster: &Cluster, dead: usize) -> Result<()> {
    let lives = |node: &usize| *node != dead && cluster.nodes[*node].is_running();
    for node in (0..cluster.nodes.len()).filter(lives) {
        let client = cluster.client_of_one(node)?;
        let mut before = Vec::new();
        for group in 0..cluster.shape.groups {
            before.push(
                wait::until("a group is described", async || Ok(client.group(group).await?)).await?.log_last,
            );
        }
        for (group, last) in (0..).zip(before) {
            let what = format!("group {group} of node {node} has truncated its log beyond {last}");
            wait::until(&what, async || {
                let first = client.group(group).await?.log_first;
                wait::is(first > last, || format!("it begins at {first}"))
            })
            .await?;
        }
    }
    Ok(())
}

/// Waits until a node has applied all that another one knows to be committed now.
pub async fn catches_up(cluster: &Cluster, node: usize) -> Result<()> {
    let other = cluster.client_of_one((node + 1) % cluster.nodes.len())?;
    let known = wait::until("a node says what is committed", async || Ok(other.groups().await?)).await?;
    let client = cluster.client_of_one(node)?;
    wait::until("a node has applied what was committed", async || {
        let groups = client.groups().await?.groups;
        let lacks = groups.iter().zip(&known.groups).find(|(own, known)| own.applied < known.commit);
        wait::is(lacks.is_none(), || format!("{lacks:?}"))
    })
    .await
}
