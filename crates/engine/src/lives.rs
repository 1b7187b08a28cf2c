// SPDX-License-Identifier: Apache-2.0

//! What nodes say of their lives (rule Q2), for groups that sleep: told to groups only when it changes, or when a node is silent.

use std::collections::BTreeMap;

use mraft_types::NodeId;

/// Most nodes that are listened to, a few bytes each; groups with members on others do not sleep.
const NODES_MAX: usize = 10_000;

/// A node's life, and the tick of the last word of it.
#[derive(Clone, Copy, Debug)]
struct Heard {
    life: u64,
    tick: u64,
}

/// What all nodes say, the own one included.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lives {
    nodes: BTreeMap<NodeId, Heard>,
}

impl Lives {
    /// Answers, if that is news, how many ticks ago the word before it was heard.
    pub(crate) fn heard(&mut self, tick: u64, node: NodeId, life: u64) -> Option<u32> {
        if self.nodes.len() >= NODES_MAX && !self.nodes.contains_key(&node) {
            return None;
        }
        let before = self.nodes.insert(node, Heard { life, tick });
        let ago = before.map_or(0, |before| tick.saturating_sub(before.tick));
        before.is_none_or(|before| before.life != life).then_some(u32::try_from(ago).unwrap_or(u32::MAX))
    }

    /// Who said nothing for so long; they are forgotten.
    pub(crate) fn fall_silent(&mut self, tick: u64, silent_after_ticks: u32) -> Vec<NodeId> {
        let is_silent = |heard: &Heard| tick.saturating_sub(heard.tick) >= u64::from(silent_after_ticks);
        let silent: Vec<NodeId> =
            self.nodes.iter().filter(|(_, heard)| is_silent(heard)).map(|(node, _)| *node).collect();
        silent.iter().for_each(|node| _ = self.nodes.remove(node));
        silent
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (NodeId, u64)> + '_ {
        self.nodes.iter().map(|(node, heard)| (*node, heard.life))
    }
}
