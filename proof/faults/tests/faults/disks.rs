// SPDX-License-Identifier: Apache-2.0

//! A cluster whose nodes each stand on a disk that can be hurt: a mounted [`mraft_frail::Disk`] per data directory.

use std::fs;
use std::path::PathBuf;

use mraft_faults::cluster::{Cluster, Shape};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::ground::Ground;
use mraft_faults::skips::skipped;
use mraft_frail::{Cut, Disk, Mounted};

/// Keeps what is on the disks of a failed run, beside the directories of its nodes, if it is set.
const KEEP_VARIABLE: &str = "MRAFT_FAULTS_KEEP";

/// A cluster on disks of ours.
pub struct OnDisks {
    /// The cluster.
    pub cluster: Cluster,
    mounts: Vec<Mounted>,
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
        ended.map_err(|failure| on_disks.explained(failure))
    });
}

impl OnDisks {
    fn lay_out(shape: Shape, settings: &str) -> Result<OnDisks> {
        let cluster = Cluster::lay_out(Ground::loopback(), &mraft_faults::binary::find()?, shape)?;
        let mut on_disks = OnDisks { cluster, mounts: Vec::new() };
        for node in &mut on_disks.cluster.nodes {
            node.settings = settings.to_owned();
            fs::create_dir(node.data())?;
            on_disks.mounts.push(mraft_frail::mount(&Disk::new(), &node.data())?);
        }
        Ok(on_disks)
    }

    /// A node's disk.
    pub fn disk(&self, node: usize) -> &Disk {
        self.mounts[node].disk()
    }

    /// The power of these nodes fails, of all at the same moment; it is back when this returns, and none of them runs. What became of what
    /// was not durable follows from the seed.
    pub fn cut_power(&mut self, nodes: &[usize], seed: u64) -> Result<Vec<Cut>> {
        self.die(nodes)?;
        Ok(nodes.iter().map(|node| self.disk(*node).restore_power(seed * 64 + *node as u64)).collect())
    }

    /// The same, and nothing is left of what was not durable.
    pub fn cut_power_for_good(&mut self, nodes: &[usize]) -> Result<Vec<Cut>> {
        self.die(nodes)?;
        Ok(nodes.iter().map(|node| self.disk(*node).restore_power_with_nothing_else()).collect())
    }

    fn die(&mut self, nodes: &[usize]) -> Result<()> {
        nodes.iter().for_each(|node| self.disk(*node).cut_power());
        let struck = nodes.iter().try_for_each(|node| self.cluster.nodes[*node].strike());
        nodes.iter().for_each(|node| self.disk(*node).let_go());
        struck?;
        nodes.iter().try_for_each(|node| self.cluster.nodes[*node].bury())
    }

    fn explained(&mut self, failure: Failure) -> Failure {
        let kept = match std::env::var_os(KEEP_VARIABLE) {
            Some(_) => self.keep().map_or_else(|failure| format!("not kept: {failure}"), |()| String::new()),
            None => String::new(),
        };
        super::explained(&mut self.cluster, failure.while_doing(kept))
    }

    /// What is on the disks goes when they do.
    fn keep(&self) -> Result<()> {
        for (mount, node) in self.mounts.iter().zip(&self.cluster.nodes) {
            for (path, _) in mount.disk().files() {
                let to: PathBuf = node.home().join("disk").join(&path);
                if let Some(directory) = to.parent() {
                    fs::create_dir_all(directory)?;
                }
                fs::write(to, mount.disk().read(&path).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}

impl Drop for OnDisks {
    fn drop(&mut self) {
        // Whoever is to die may be waiting for a disk; and a mount goes before the directory that it is in.
        self.mounts.iter().for_each(|mount| mount.disk().mend_all());
        self.cluster.nodes.clear();
        self.mounts.clear();
    }
}
