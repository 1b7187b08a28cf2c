// SPDX-License-Identifier: Apache-2.0

//! A cluster whose nodes each stand on a disk that can be hurt: a mounted [`mraft_frail::Disk`] per data directory.

use std::time::Duration;

use mraft_api::{GroupSummary, NodeRequest, NodeStatus};
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::raw::{Answer, Wire};
use mraft_faults::skips::skipped;
use mraft_faults::wait;
use mraft_frail::{Cut, Disk};

/// Longer than a node that is well takes to say how it is, however busy the machine is.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(20);

/// A cluster on disks of ours.
pub struct OnDisks {
    /// The cluster.
    pub cluster: Cluster,
}

/// What a node says of itself wherever somebody may look.
#[derive(Debug)]
pub struct Said {
    /// `/livez`: the HTTP status and the text.
    pub live: (u16, String),
    /// `/readyz`: the same.
    pub ready: (u16, String),
    /// `/v1/status`.
    pub status: NodeStatus,
    /// The rows of `/v1/groups` whose replica there neither leads nor follows.
    pub unfit: Vec<GroupSummary>,
    /// `mraft_replicas_failed` and `mraft_replicas_condemned`.
    pub metrics: (u64, u64),
}

impl Said {
    /// Whether it says that nothing is the matter with it.
    pub fn is_well(&self) -> bool {
        let is_served = (self.live.0, self.ready.0, self.status.ready) == (200, 200, true);
        is_served && self.status.groups_failed == 0 && self.unfit.is_empty() && self.metrics == (0, 0)
    }
}

/// Asks a node what it has to say. One that does not answer in time may be asked again.
pub async fn ask(cluster: &Cluster, node: usize) -> Result<Said> {
    let asked = tokio::time::timeout(ANSWER_TIME_MAX, ask_once(cluster, node)).await;
    asked.unwrap_or_else(|_| Err(Failure::new(format_args!("node {node} does not answer"))))
}

async fn ask_once(cluster: &Cluster, node: usize) -> Result<Said> {
    let mut wire = Wire::open(cluster.nodes[node].http).await?;
    let text = |answer: Answer| (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
    let live = text(wire.ask("GET", "/livez", b"").await?);
    let ready = text(wire.ask("GET", "/readyz", b"").await?);
    let client = cluster.client_of_one(node)?;
    let status = client.status().await?;
    let mut unfit = client.groups().await?.groups;
    unfit.retain(|group| !matches!(group.state.as_deref(), Some("leader" | "follower")));
    let metrics = client.metrics().await?;
    let metric = |name: &str| {
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        value.ok_or_else(|| Failure::new(format_args!("there is no metric {name}")))
    };
    let metrics = (metric("mraft_replicas_failed")?, metric("mraft_replicas_condemned")?);
    Ok(Said { live, ready, status, unfit, metrics })
}

/// Lines that a node logged at this level behind its first so many bytes.
pub fn logged(cluster: &Cluster, node: usize, level: &str, behind: usize) -> Result<Vec<String>> {
    let said = cluster.nodes[node].said()?;
    let level = format!("\"level\":\"{level}\"");
    let lines = said.get(behind..).unwrap_or_default().lines();
    Ok(lines.filter(|line| line.contains(&level)).map(str::to_owned).collect())
}

/// Waits until a node's process has ended by itself; what it said last, which is for whoever started it and no log line.
pub async fn ended(cluster: &mut Cluster, node: usize, why: &str) -> Result<String> {
    wait::until(&format!("the node ends: {why}"), async || match cluster.nodes[node].must_be_well() {
        Ok(()) => Err(Failure::new("it runs")),
        Err(_) => Ok(()),
    })
    .await?;
    let said = cluster.nodes[node].said()?;
    let last = said.trim_end().lines().next_back().unwrap_or_default();
    wait::is(last.starts_with("mraft: "), || format!("it ended and said nothing for people: {last}"))?;
    Ok(last.to_owned())
}

/// Waits until the node leads some group, and has it lead one if need be.
pub async fn has_led(cluster: &Cluster, node: usize) -> Result<()> {
    wait::until("the node leads a group", async || {
        let client = cluster.client(node)?;
        let request = NodeRequest { node: cluster.nodes[node].id.into(), change_index: None };
        for group in 0..2 {
            client.transfer(group, &request).await?;
        }
        wait::is(led_by(cluster, node).await? > 0, || "none".to_owned())
    })
    .await
}

/// Waits until another node knows of no group that this one leads, and of a leader for each.
pub async fn leads_nothing(cluster: &Cluster, node: usize) -> Result<()> {
    wait::until("others lead all groups", async || {
        let led = led_by(cluster, node).await?;
        wait::is(led == 0, || format!("it leads {led}"))?;
        let status = cluster.client_of_one((node + 1) % cluster.nodes.len())?.status().await?;
        wait::is(status.groups_without_leader == 0, || format!("{} have none", status.groups_without_leader))
    })
    .await
}

/// Groups that this node leads, as another one knows.
async fn led_by(cluster: &Cluster, node: usize) -> Result<usize> {
    let groups = cluster.client_of_one((node + 1) % cluster.nodes.len())?.groups().await?.groups;
    Ok(groups.iter().filter(|group| group.leader == Some(cluster.nodes[node].id.get())).count())
}

/// Runs a scenario on disks of ours, or says why not.
pub fn run(shape: Shape, settings: &str, scenario: impl AsyncFnOnce(&mut OnDisks) -> Result<()>) {
    run_from_nothing(shape, settings, async |on_disks| {
        on_disks.cluster.begin().await?;
        scenario(on_disks).await
    });
}

/// The same, and the scenario is the one to start the nodes.
pub fn run_from_nothing(
    shape: Shape,
    settings: &str,
    scenario: impl AsyncFnOnce(&mut OnDisks) -> Result<()>,
) {
    if let Some(why) = mraft_frail::why_not() {
        return skipped(format_args!("no disk can be hurt here: {why}"));
    }
    super::run(async || {
        let mut on_disks = OnDisks::lay_out(shape, settings)?;
        let ended = scenario(&mut on_disks).await;
        ended.map_err(|failure| super::explained(&mut on_disks.cluster, failure))
    });
}

impl OnDisks {
    fn lay_out(shape: Shape, settings: &str) -> Result<OnDisks> {
        let manner = Manner { has_disks: true, ..Manner::default() };
        let mut cluster = Cluster::lay_out(manner, &mraft_faults::binary::find()?, shape)?;
        cluster.nodes.iter_mut().for_each(|node| node.settings = settings.to_owned());
        Ok(OnDisks { cluster })
    }

    /// A node's disk.
    pub fn disk(&self, node: usize) -> &Disk {
        match self.cluster.disk(node) {
            Ok(disk) => disk,
            Err(failure) => panic!("{failure}"),
        }
    }

    /// The power of these nodes fails, of all at the same moment; it is back when this returns, and none of them runs. What became of what
    /// was not durable follows from the seed.
    pub fn cut_power(&mut self, nodes: &[usize], seed: u64) -> Result<Vec<Cut>> {
        self.cluster.cut_power(nodes, Some(seed))
    }

    /// The same, and nothing is left of what was not durable.
    pub fn cut_power_for_good(&mut self, nodes: &[usize]) -> Result<Vec<Cut>> {
        self.cluster.cut_power(nodes, None)
    }
}
