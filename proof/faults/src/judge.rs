// SPDX-License-Identifier: Apache-2.0

//! The end of every scenario: everything has come to rest, and what is there is compared with what clients were told.

use mraft_api::client::Client;
use mraft_api::{Consistency, ScanRequest};
use mraft_history::{
    FinalState, Outcome, Seen, acknowledged_writes_survive, linearizability, nothing_appears_unwritten,
    outcomes_are_honest,
};

use tokio::task::JoinSet;

use crate::autopsy;
use crate::cluster::Cluster;
use crate::counts::Counts;
use crate::failure::{Failure, Result};
use crate::load::Recorded;
use crate::{values, vitals, wait};

/// Entries of one page; a page is bounded in bytes, too.
const PAGE_ENTRIES: u32 = 1000;
/// With thousands of groups, one after the other would take minutes: each waits for a commit and for all its replicas.
const GROUPS_COMPARED_AT_ONCE: usize = 32;

/// Waits for rest and judges. Adds what was judged to the figures.
pub async fn judge(cluster: &mut Cluster, recorded: &Recorded, counts: &mut Counts) -> Result<()> {
    cluster.serves().await?;
    cluster.is_at_rest().await?;
    let last = read_everything(cluster).await?;
    let history = &recorded.history;
    acknowledged_writes_survive::check(history, &last)?;
    nothing_appears_unwritten::check(history, &last)?;
    outcomes_are_honest::check(history, &last)?;
    let hardest = linearizability::check(history)?;
    let hashes = compare_hashes(cluster).await?;
    no_leftovers(cluster).await?;
    no_deleted_file_is_open(cluster).await?;

    let outcomes = |wanted: fn(&Outcome) -> bool| {
        history.operations().iter().filter(|operation| wanted(&operation.outcome)).count() as u64
    };
    counts.tell("operations", history.operations().len() as u64);
    counts.at_least(1, "reads answered", outcomes(|outcome| matches!(outcome, Outcome::Read(_))));
    counts.at_least(1, "conditions that failed", outcomes(|outcome| *outcome == Outcome::ConditionFailed));
    counts.tell("not applied", outcomes(|outcome| *outcome == Outcome::NotApplied));
    counts.tell("unknown outcomes", outcomes(|outcome| *outcome == Outcome::Unknown));
    counts.at_least(1, "keys in the end", last.len() as u64);
    counts.tell("keys in the history", history.by_key().len() as u64);
    counts.tell("most configurations of an answer", hardest as u64);
    counts.at_least(cluster.shape.groups, "groups with equal content on all replicas", hashes);
    Ok(())
}

/// What every node holds itself, which must be the same on all of them, and what a linearizable scan says.
async fn read_everything(cluster: &Cluster) -> Result<FinalState> {
    let mut found: Option<FinalState> = None;
    for node in (0..cluster.nodes.len()).filter(|node| cluster.nodes[*node].is_running()) {
        let client = cluster.client_of_one(node)?;
        for consistency in [Consistency::Stale, Consistency::Linearizable] {
            let here = scan(&client, consistency).await?;
            match &found {
                None => found = Some(here),
                Some(found) if *found == here => {}
                Some(found) => {
                    let differs = |(key, seen): &(&u64, &Seen)| here.get(key) != Some(seen);
                    let example = found.iter().find(differs).or_else(|| here.iter().next());
                    return Err(Failure::new(format_args!(
                        "BROKEN PROMISE: node {} holds other content than the others ({} and {} keys), such as {example:?}",
                        cluster.nodes[node].id,
                        here.len(),
                        found.len()
                    )));
                }
            }
        }
    }
    found.ok_or_else(|| Failure::new("no node is running"))
}

async fn scan(client: &Client, consistency: Consistency) -> Result<FinalState> {
    let mut found = FinalState::new();
    let mut request = ScanRequest { limit: Some(PAGE_ENTRIES), consistency, ..ScanRequest::default() };
    loop {
        let page =
            wait::until("a page of a scan is answered", async || Ok(client.scan(&request).await?)).await?;
        for entry in page.entries.into_iter().filter(|entry| !entry.key.starts_with(values::FOREIGN)) {
            let unwritten = || Failure::new(format_args!("BROKEN PROMISE: nobody wrote {entry:?}"));
            let key = values::key_of(&entry.key).ok_or_else(unwritten)?;
            let value = values::value_of(&entry.value).ok_or_else(unwritten)?;
            found.insert(key, Seen { value, revision: entry.revision });
        }
        match page.next {
            Some(next) => request.after = Some(next),
            None => return Ok(found),
        }
    }
}

/// Rule E8: every replica of every group hashes its state at one index. How many groups were found equal.
async fn compare_hashes(cluster: &Cluster) -> Result<u64> {
    let running = cluster.nodes.iter().position(|node| node.is_running());
    let client = cluster.client(running.unwrap_or(0))?;
    let members = cluster.nodes.iter().filter(|node| node.is_running()).count();
    let mut left: Vec<u64> = (0..cluster.shape.groups).collect();
    let different = wait::until("every replica of every group has said its hash", async || {
        let mut why_not = String::new();
        for groups in std::mem::take(&mut left).chunks(GROUPS_COMPARED_AT_ONCE) {
            let mut asked = JoinSet::new();
            for group in groups.iter().copied() {
                let client = client.clone();
                asked.spawn(async move { (group, client.verify(group).await) });
            }
            while let Some(answered) = asked.join_next().await {
                let (group, verdict) = answered.map_err(Failure::new)?;
                match verdict {
                    Ok(verdict)
                        if verdict.replicas.iter().filter(|row| row.hash.is_some()).count() != members =>
                    {
                        why_not = format!("group {group}: {:?}", verdict.replicas);
                        left.push(group);
                    }
                    Ok(verdict) if verdict.equal => {}
                    Ok(verdict) => return Ok(Some(verdict)),
                    Err(error) => {
                        why_not = format!("group {group}: {error}");
                        left.push(group);
                    }
                }
            }
        }
        wait::is(left.is_empty(), || format!("{} groups are left; {why_not}", left.len()))?;
        Ok(None)
    })
    .await?;
    match different {
        None => Ok(cluster.shape.groups),
        Some(verdict) => Err(Failure::new(format_args!("BROKEN PROMISE: content differs: {verdict:?}"))),
    }
}

/// Rule N1: interrupted installs leave nothing behind for ever.
async fn no_leftovers(cluster: &Cluster) -> Result<()> {
    let running = || cluster.nodes.iter().filter(|node| node.is_running());
    wait::until("no interrupted or replaced state is left behind", async || {
        for node in running() {
            let left = autopsy::leftovers(&node.data())?;
            wait::is(left.is_empty(), || format!("{left:?}"))?;
        }
        Ok(())
    })
    .await
}

/// A file that is deleted and open takes room that nobody sees, and a descriptor for as long as the node lives.
async fn no_deleted_file_is_open(cluster: &Cluster) -> Result<()> {
    wait::until("no deleted file is open", async || {
        for node in &cluster.nodes {
            let open = node.pid().map(vitals::deleted_files).unwrap_or_default();
            wait::is(open.is_empty(), || format!("node {}: {open:?}", node.id))?;
        }
        Ok(())
    })
    .await
}
