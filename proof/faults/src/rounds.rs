// SPDX-License-Identifier: Apache-2.0

//! One fault after the other, under load: each is inflicted, held until the cluster has gone on without what it took, and lifted; then
//! everything must work again. How long nobody could write is measured, printed and kept, and never judged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::cluster::Cluster;
use crate::failure::Result;
use crate::fault::{Fault, Meanwhile, Scene};
use crate::load::Load;
use crate::report::Row;
use crate::wait;

/// How much must happen in a round.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Writes of each group before a fault, while it lasts, and after it.
    pub writes_per_group: u64,
    /// Reads that each deceived node is asked for while it is, after the others have gone on, and that it answers afterwards.
    pub reads_per_node: u64,
    /// How long a fault lasts in which nothing is written.
    pub halt: Duration,
}

/// What rounds did, added up.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// One row per round.
    pub rows: Vec<Row>,
    /// Groups that a node led when it was hit or cut off first.
    pub groups_led: u64,
    /// Reads that were asked of deceived nodes when the others had gone on.
    pub reads_of_deceived: u64,
    /// Reads that these answered afterwards.
    pub answered_by_deceived: u64,
}

/// Runs one round. Nodes in `spared` do not die, unless all do.
pub async fn round(
    cluster: &mut Cluster,
    load: &Load,
    fault: &mut dyn Fault,
    pace: Pace,
    spared: &[usize],
    done: &mut Done,
) -> Result<()> {
    let name = fault.name();
    let doing = |what: &str| format!("{name}, {what}");
    cluster.serves().await?;
    progress_everywhere(cluster, load, &doing("before"), pace.writes_per_group).await?;
    let led = groups_led(cluster).await?;
    let mut by_groups_led: Vec<usize> = (0..cluster.nodes.len()).collect();
    by_groups_led.sort_by_key(|node| std::cmp::Reverse(led[*node]));
    done.groups_led += led[by_groups_led[0]];
    let everybody: Vec<usize> = (0..cluster.nodes.len()).collect();
    let terms_before = terms(cluster, &everybody).await?;
    let mortal: Vec<usize> = by_groups_led.iter().copied().filter(|node| !spared.contains(node)).collect();
    load.acks().begin();
    for _ in 0..fault.steps(mortal.len()) {
        let scene =
            Scene { cluster: &mut *cluster, by_groups_led: by_groups_led.clone(), mortal: mortal.clone() };
        step(scene, load, fault, pace, done).await?;
        cluster.serves().await?;
        progress_everywhere(cluster, load, &doing("afterwards"), pace.writes_per_group).await?;
    }

    let terms = terms(cluster, &everybody).await?;
    let growth = terms.iter().zip(&terms_before).map(|(after, before)| after.saturating_sub(*before));
    done.rows.push(Row { fault: name, gap: load.acks().gap(), terms: growth.max().unwrap_or(0) });
    Ok(())
}

/// Inflicts it once and lifts it.
async fn step(
    mut scene: Scene<'_>,
    load: &Load,
    fault: &mut dyn Fault,
    pace: Pace,
    done: &mut Done,
) -> Result<()> {
    let name = fault.name();
    let doing = |what: &str| format!("{name}, {what}");
    fault.inflict(&mut scene).map_err(|failure| failure.while_doing(doing("to inflict it")))?;
    match fault.meanwhile() {
        Meanwhile::GoesOn => {
            progress_everywhere(scene.cluster, load, &doing("meanwhile"), pace.writes_per_group).await?;
        }
        Meanwhile::MayHalt => wait::pass(pace.halt).await,
    }
    wait::until(&doing("it does what it is for"), async || fault.has_hit(scene.cluster)).await?;
    // Their watchers give up soon and ask again, so these reads began after the others had gone on.
    let begun = |node: &usize| load.watched(*node).begun.load(Ordering::Relaxed);
    let answered = |node: &usize| load.watched(*node).answered.load(Ordering::Relaxed);
    for node in fault.deceived() {
        let goal = begun(node) + pace.reads_per_node;
        let what = doing("reads are asked of a node that does not know yet");
        wait::until(&what, async || wait::is(begun(node) >= goal, || begun(node).to_string())).await?;
        done.reads_of_deceived += pace.reads_per_node;
    }
    if fault.meanwhile() == Meanwhile::MayHalt {
        // Of these it is interesting how long nobody could write when it was over.
        load.acks().begin();
    }
    let goals: Vec<(usize, u64)> =
        fault.deceived().iter().map(|node| (*node, answered(node) + pace.reads_per_node)).collect();
    fault.lift(&mut scene).map_err(|failure| failure.while_doing(doing("to lift it")))?;
    for (node, goal) in goals {
        let what = doing("a node that did not know answers reads again");
        wait::until(&what, async || wait::is(answered(&node) >= goal, || answered(&node).to_string()))
            .await?;
        done.answered_by_deceived += pace.reads_per_node;
    }
    Ok(())
}

/// Waits until so many more writes are acknowledged in each group; every running node must stay well meanwhile.
pub async fn progress_everywhere(cluster: &mut Cluster, load: &Load, when: &str, more: u64) -> Result<()> {
    let groups = cluster.shape.groups;
    let goals: Vec<u64> = load.acks().counts(groups).iter().map(|count| count + more).collect();
    let what = format!("{more} more writes are acknowledged in each group: {when}");
    wait::until(&what, async || {
        cluster.nodes.iter_mut().try_for_each(|node| node.must_be_well())?;
        let counts = load.acks().counts(groups);
        let lacks = counts.iter().zip(&goals).position(|(count, goal)| count < goal);
        wait::is(lacks.is_none(), || format!("group {lacks:?} lacks some: {counts:?} of {goals:?}"))
    })
    .await
}

/// How many groups each node leads.
async fn groups_led(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut led = Vec::new();
    for node in 0..cluster.nodes.len() {
        let client = cluster.client_of_one(node)?;
        led.push(wait::until("a node says what it leads", async || Ok(client.status().await?)).await?);
    }
    Ok(led.into_iter().map(|status| status.groups_leading).collect())
}

/// The highest term of each group that any of these nodes knows.
pub async fn terms(cluster: &Cluster, nodes: &[usize]) -> Result<Vec<u64>> {
    let mut terms = vec![0; cluster.shape.groups as usize];
    for node in nodes {
        let client = cluster.client_of_one(*node)?;
        let groups = wait::until("a node says its terms", async || Ok(client.groups().await?)).await?;
        for group in groups.groups {
            if let Some(term) = terms.get_mut(group.group as usize) {
                *term = group.term.max(*term);
            }
        }
    }
    Ok(terms)
}
