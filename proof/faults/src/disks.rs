// SPDX-License-Identifier: Apache-2.0

//! Nodes that stand each on a disk that can be hurt, a mounted [`mraft_frail::Disk`]: what a whole cluster does with them. The bytes are in
//! the memory of this process, so that what a node has resident is what it has on any other disk.

use std::fs;

use mraft_frail::{Cut, Disk};

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};

impl Cluster {
    /// What a node stands on.
    pub fn disk(&self, node: usize) -> Result<&Disk> {
        let mounted = self.nodes[node].disk.as_ref();
        let mounted = mounted.ok_or_else(|| Failure::new("the node is on a disk that cannot be hurt"))?;
        Ok(mounted.disk())
    }

    /// The power of these nodes fails, of all at the same moment; it is back when this returns, and none of them runs. What became of what
    /// was not durable follows from the seed; without one nothing is left of it.
    pub fn cut_power(&mut self, nodes: &[usize], seed: Option<u64>) -> Result<Vec<Cut>> {
        let disks: Vec<Disk> = nodes.iter().map(|node| self.disk(*node).cloned()).collect::<Result<_>>()?;
        disks.iter().for_each(Disk::cut_power);
        let struck = nodes.iter().try_for_each(|node| self.nodes[*node].strike());
        disks.iter().for_each(Disk::let_go);
        struck?;
        nodes.iter().try_for_each(|node| self.nodes[*node].bury())?;
        let restored = nodes.iter().zip(&disks).map(|(node, disk)| match seed {
            Some(seed) => disk.restore_power(seed * 64 + *node as u64),
            None => disk.restore_power_with_nothing_else(),
        });
        Ok(restored.collect())
    }

    /// Copies what is on the disks beside the directories of the nodes: it goes when they do.
    pub(crate) fn keep_disks(&self) -> Result<()> {
        for node in &self.nodes {
            let Some(mounted) = &node.disk else { continue };
            for (path, _) in mounted.disk().files() {
                let to = node.home().join("disk").join(&path);
                if let Some(directory) = to.parent() {
                    fs::create_dir_all(directory)?;
                }
                fs::write(to, mounted.disk().read(&path).unwrap_or_default())?;
            }
        }
        Ok(())
    }
}
