// SPDX-License-Identifier: Apache-2.0

//! Nodes of the real binary, started, killed and started again.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mraft_api::client::Client;
use mraft_api::{ClientConfig, GroupsAnswer};
use tempfile::TempDir;

use crate::failure::{Failure, Result};
use crate::ground::Ground;
use crate::node::Node;
use crate::wait;

/// Keeps the directories of a failed run for whoever looks for the reason, if it is set.
const KEEP_VARIABLE: &str = "MRAFT_FAULTS_KEEP";
/// Time for one request: several elections.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(8);

/// How the nodes are configured, beside who they are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many original nodes; each holds every group.
    pub nodes: usize,
    /// How many groups.
    pub groups: u64,
    /// A group persists its state every so many entries.
    pub snapshot_entries: u64,
    /// Entries kept behind that.
    pub compaction_overhead: u64,
    /// Bytes of snapshots that a node takes in per second: slow, so that installs last.
    pub snapshot_bytes_per_second: u64,
}

/// How the nodes live.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Where.
    pub ground: Ground,
    /// Whether a proxy stands before every node's Raft port.
    pub has_proxies: bool,
    /// Whether each stands on a disk that can be hurt: see [`crate::disks`].
    pub has_disks: bool,
    /// How many file descriptors each may have; `None`: as many as the run itself.
    pub descriptors_max: Option<u64>,
    /// How many bytes of memory the kernel gives each (`RLIMIT_DATA`); `None`: as many as it has.
    pub data_bytes_max: Option<u64>,
}

impl Default for Manner {
    fn default() -> Manner {
        Manner {
            ground: Ground::loopback(),
            has_proxies: false,
            has_disks: false,
            descriptors_max: None,
            data_bytes_max: None,
        }
    }
}

/// A cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes; the original ones first.
    pub nodes: Vec<Node>,
    /// How they are configured.
    pub shape: Shape,
    binary: PathBuf,
    manner: Manner,
    directory: Option<TempDir>,
}

impl Cluster {
    /// Starts a cluster and waits until it serves.
    pub async fn start(manner: Manner, binary: &Path, shape: Shape) -> Result<Cluster> {
        let mut cluster = Cluster::lay_out(manner, binary, shape)?;
        cluster.begin().await?;
        Ok(cluster)
    }

    /// A cluster of which no node was started yet: what its nodes stand on may still be put in place.
    pub fn lay_out(manner: Manner, binary: &Path, shape: Shape) -> Result<Cluster> {
        let directory = TempDir::with_prefix("mraft-faults-")?;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            shape,
            binary: binary.to_owned(),
            manner,
            directory: Some(directory),
        };
        for _ in 0..shape.nodes {
            cluster.make_node()?;
        }
        Ok(cluster)
    }

    /// Starts the nodes that were laid out and waits until they serve.
    pub async fn begin(&mut self) -> Result<()> {
        // All of them before the first one starts: a process that is being made has our sockets too, and on a busy machine for so long that
        // the next node found its own port taken. The system tells us that it is made before it closes what is not for it.
        self.nodes.iter_mut().for_each(Node::release_addresses);
        for node in 0..self.nodes.len() {
            self.start_node(node)?;
        }
        self.serves().await
    }

    /// One more node, which belongs to no group yet. Its place.
    pub fn make_node(&mut self) -> Result<usize> {
        let Some(directory) = &self.directory else {
            return Err(Failure::new("the cluster has no directory"));
        };
        let place = self.nodes.len();
        let home = directory.path().join(format!("node-{}", place + 1));
        self.nodes.push(Node::new(&self.manner, place, home)?);
        Ok(place)
    }

    /// Starts a node; it may have lived before.
    pub fn start_node(&mut self, node: usize) -> Result<()> {
        let configuration = self.configuration(node)?;
        self.nodes[node].start(&self.binary, &configuration)
    }

    /// Where its nodes live.
    pub fn ground(&self) -> &Ground {
        &self.manner.ground
    }

    /// The binary that all this is about.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A client that asks this node first.
    pub fn client(&self, node: usize) -> Result<Client> {
        let first = self.nodes[node].url();
        let others = self.nodes.iter().map(Node::url).filter(|url| *url != first);
        let endpoints: Vec<String> = std::iter::once(first.clone()).chain(others).collect();
        client_of(endpoints)
    }

    /// A client that asks this node and no other.
    pub fn client_of_one(&self, node: usize) -> Result<Client> {
        client_of(vec![self.nodes[node].url()])
    }

    /// Waits until every running node knows a leader for every group.
    pub async fn serves(&mut self) -> Result<()> {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].is_running() || self.nodes[node].is_paused() {
                continue;
            }
            let client = self.client_of_one(node)?.with_timeout(Duration::from_secs(2));
            let groups = self.shape.groups;
            let what = format!("node {} knows a leader for each of {groups} groups", self.nodes[node].id);
            let of_node = &mut self.nodes[node];
            wait::until(&what, async || {
                of_node.must_be_well()?;
                let status = client.status().await?;
                wait::is(status.groups_failed == 0, || format!("{} replicas failed", status.groups_failed))?;
                let known = status.groups_total == groups && status.groups_without_leader == 0;
                wait::is(known, || format!("{} groups have none", status.groups_without_leader))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until all running nodes have applied the same, with nothing left to apply. Only when nobody writes.
    pub async fn is_at_rest(&mut self) -> Result<()> {
        let running: Vec<usize> =
            (0..self.nodes.len()).filter(|node| self.nodes[*node].is_running()).collect();
        let clients =
            running.iter().map(|node| self.client_of_one(*node)).collect::<Result<Vec<Client>>>()?;
        let nodes = &mut self.nodes;
        wait::until("all replicas have applied everything", async || {
            nodes.iter_mut().try_for_each(Node::must_be_well)?;
            let mut seen: Option<Vec<(u64, u64)>> = None;
            for client in &clients {
                let now = applied(&client.groups().await?)?;
                match &seen {
                    Some(seen) if *seen != now => {
                        return Err(Failure::new(format_args!("{seen:?} is not {now:?}")));
                    }
                    _ => seen = Some(now),
                }
            }
            Ok(())
        })
        .await
    }

    /// Ends every node in good order; an exit status other than 0 is a failure.
    pub fn stop(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(Node::stop)
    }

    /// What every node said last, for a run that failed; keeps the directories if that is wished.
    pub fn last_words(&mut self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            // A `String` takes whatever is written to it.
            let _ = writeln!(text, "--- node {} ({}) said last:\n{}", node.id, node.http, node.last_words());
        }
        let is_kept = std::env::var_os(KEEP_VARIABLE).is_some();
        if let Some(Err(failure)) = is_kept.then(|| self.keep_disks()) {
            let _ = writeln!(text, "--- disks were not kept: {failure}");
        }
        if is_kept && let Some(directory) = self.directory.take() {
            let _ = writeln!(text, "--- kept: {}", directory.keep().display());
        }
        text
    }

    fn configuration(&self, node: usize) -> Result<String> {
        let (node, shape) = (&self.nodes[node], &self.shape);
        let mut text = String::new();
        let data = node.data();
        let data = data.to_str().ok_or_else(|| Failure::new("the directory's name is no UTF-8"))?;
        // A JSON string is a TOML string, too. A `String` takes whatever is written to it.
        let _ = writeln!(text, "data_dir = {}", serde_json::Value::from(data));
        let _ = writeln!(text, "http_listen = \"{}\"", node.http.ip());
        let _ = writeln!(text, "raft_address = \"{}\"\nlisten_address = \"{}\"", node.raft, node.listens);
        let _ = writeln!(text, "http_port = {}", node.http.port());
        let _ = writeln!(text, "memory_ceiling_bytes = \"256MiB\"\nlog_segment_bytes = \"64MiB\"");
        let _ = writeln!(text, "snapshot_entries = {}", shape.snapshot_entries);
        let _ = writeln!(text, "compaction_overhead = {}", shape.compaction_overhead);
        let _ = writeln!(text, "max_snapshot_recv_bytes_per_second = {}", shape.snapshot_bytes_per_second);
        text.push_str(&node.settings);
        let originals = self.nodes.iter().take(shape.nodes);
        if self.nodes.iter().position(|other| other.id == node.id).is_some_and(|place| place < shape.nodes) {
            for group in 0..shape.groups {
                let _ = writeln!(text, "\n[initial_members.{group}]");
                for member in originals.clone() {
                    let _ = writeln!(text, "{} = \"{}\"", member.id.get(), member.raft);
                }
            }
        }
        Ok(text)
    }
}

fn client_of(endpoints: Vec<String>) -> Result<Client> {
    let mut config = ClientConfig::new(endpoints);
    config.timeout = REQUEST_TIME_MAX;
    Client::new(&config).map_err(Failure::new)
}

/// Commit and applied index of each group; an error while some entry is not applied.
fn applied(groups: &GroupsAnswer) -> Result<Vec<(u64, u64)>> {
    let rows = groups.groups.iter().filter(|group| group.held);
    rows.map(|group| {
        let (commit, applied) = (group.commit, group.applied);
        wait::is(commit == applied && group.leader.is_some(), || {
            format!("group {} is committed to {commit}, applied to {applied}", group.group)
        })?;
        Ok((commit, applied))
    })
    .collect()
}
