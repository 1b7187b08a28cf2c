// SPDX-License-Identifier: Apache-2.0

//! What happens to frames: delay, loss, duplication, reordering by delay, and cut paths, each direction by itself.

use std::collections::{BTreeMap, BTreeSet};

use mraft_types::NodeId;

use crate::random::Random;

/// How delays are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Evenly, from a tenth of the longest one on.
    Even,
    /// Nearly all are short, few take several times as long as the longest even one would: each tenfold is ten times as rare.
    LongTail,
    /// Two paths: most frames take the short one, the others arrive far behind what was sent after them.
    TwoPaths,
}

/// How good the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Frames of a thousand that are lost.
    pub loss_per_mille: u64,
    /// Frames of a thousand that arrive twice.
    pub duplicate_per_mille: u64,
    /// Longest delay in microseconds, as long as nothing is out of the ordinary.
    pub delay_us_max: u64,
    /// How they are spread.
    pub spread: Spread,
    /// Frames of a thousand of which a bit is flipped, or the end is missing.
    pub corrupt_per_mille: u64,
}

impl Quality {
    fn delay_us(&self, random: &mut Random) -> u64 {
        let most = self.delay_us_max;
        match self.spread {
            Spread::Even => random.between(most / 10 + 1, most + 1),
            Spread::LongTail => match random.between(0, 99) {
                0 => random.between(most, 10 * most + 1),
                1..=10 => random.between(most / 10 + 1, most + 1),
                _ => random.between(most / 100 + 1, most / 10 + 1),
            },
            Spread::TwoPaths => match random.between(0, 9) {
                0..=1 => random.between(2 * most, 3 * most + 1),
                _ => random.between(most / 10 + 1, most / 2 + 1),
            },
        }
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct Network {
    quality: Quality,
    /// Directions that nothing passes.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Directions that hold everything back until then, in microseconds of virtual time.
    clogged: BTreeMap<(NodeId, NodeId), u64>,
}

impl Network {
    /// A network without cuts.
    pub fn new(quality: Quality) -> Network {
        Network { quality, cut: BTreeSet::new(), clogged: BTreeMap::new() }
    }

    /// Changes the quality.
    pub fn set_quality(&mut self, quality: Quality) {
        self.quality = quality;
    }

    /// When a frame sent now arrives, in microseconds from now: never, once or twice.
    pub fn send(&self, now_us: u64, from: NodeId, to: NodeId, random: &mut Random) -> Vec<u64> {
        let mut arrivals = Vec::new();
        if self.cut.contains(&(from, to)) || random.per_mille(self.quality.loss_per_mille) {
            return arrivals;
        }
        let copies = 1 + u64::from(random.per_mille(self.quality.duplicate_per_mille));
        let held_us = self.clogged.get(&(from, to)).map_or(0, |until_us| until_us.saturating_sub(now_us));
        arrivals.extend((0..copies).map(|_| held_us + self.quality.delay_us(random)));
        arrivals
    }

    /// Whether frames can pass in both directions.
    pub fn connected(&self, one: NodeId, other: NodeId) -> bool {
        !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one))
    }

    /// Whether any direction is cut.
    pub fn is_cut(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Cuts the cluster: in two halves, one node off, one direction only, a bridge (two sides that only one node reaches), or a ring (each
    /// reaches its neighbours only, which cuts nothing between three). Answers what it did.
    pub fn partition(&mut self, nodes: &[NodeId], random: &mut Random) -> String {
        self.cut.clear();
        let lonely = nodes[random.index(nodes.len())];
        match random.between(0, 4) {
            0 => {
                let side: BTreeSet<NodeId> =
                    nodes.iter().copied().filter(|_| random.per_mille(500)).collect();
                self.cut_between(nodes, |one, other| side.contains(&one) != side.contains(&other));
                format!("{side:?} apart from the others")
            }
            1 => {
                self.cut_between(nodes, |one, other| one == lonely || other == lonely);
                format!("node {lonely} is alone")
            }
            2 => {
                let inwards = random.per_mille(500);
                self.cut_between(nodes, |from, to| if inwards { to == lonely } else { from == lonely });
                format!("nothing goes {} node {lonely}", if inwards { "to" } else { "out of" })
            }
            3 => {
                self.cut_between(nodes, |one, other| one != lonely && other != lonely);
                format!("only node {lonely} reaches the others")
            }
            _ => {
                let place = |node: NodeId| nodes.iter().position(|id| *id == node).unwrap_or(0);
                self.cut_between(nodes, |one, other| {
                    let distance = place(one).abs_diff(place(other));
                    distance != 1 && distance != nodes.len() - 1
                });
                "a ring".to_owned()
            }
        }
    }

    /// A direction holds everything back until then.
    pub fn clog(&mut self, from: NodeId, to: NodeId, until_us: u64) {
        self.clogged.insert((from, to), until_us);
    }

    /// What becomes of a frame on its way: mostly nothing.
    pub fn corrupt(&self, frame: &mut Vec<u8>, random: &mut Random) -> bool {
        if frame.is_empty() || !random.per_mille(self.quality.corrupt_per_mille) {
            return false;
        }
        let at = random.index(frame.len());
        if random.per_mille(500) {
            frame[at] ^= 1 << random.between(0, 7);
        } else {
            frame.truncate(at);
        }
        true
    }

    /// Everything passes again.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    fn cut_between(&mut self, nodes: &[NodeId], is_cut: impl Fn(NodeId, NodeId) -> bool) {
        for from in nodes {
            for to in nodes {
                if from != to && is_cut(*from, *to) {
                    self.cut.insert((*from, *to));
                }
            }
        }
    }
}
