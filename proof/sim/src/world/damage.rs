// SPDX-License-Identifier: Apache-2.0

//! What happens to bytes that lie on a disk, and disks that take their time.
//!
//! Damage is done only where [`super::atlas`] allows it, on a node as a whole: its log is of all its groups. Some time later somebody looks
//! at that disk and takes it out of service ([`super::operators`]); until then the node must find out by itself, or be right all the same.
//!
//! The last write to a log is left alone: rot of it cannot be told from a torn one (`docs/promises.md` says so).

use std::path::{Path, PathBuf};

use super::{Action, World};
use crate::node::DATA;

/// Bits that one fault flips, at most: in different places.
const FLIPS_MAX: u64 = 4;
/// Somebody looks at a damaged disk within this time.
const LOOKED_AT_US: (u64, u64) = (300_000, 2_500_000);
/// A slow disk is slow, and a hung one hangs, for so long.
const SLOW_US: (u64, u64) = (200_000, 2_500_000);
/// A slow disk takes so many times as long.
const SLOW_TIMES: (u64, u64) = (10, 1_000);

/// Which files of a directory are hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The segments of the log.
    Log,
    /// The states of the groups.
    State,
    /// Everything else: identity, lists of groups, peers and replicas.
    Small,
}

impl Part {
    fn has(self, path: &Path) -> bool {
        let is_list = path.file_name().is_some_and(|name| name == "replicas");
        let is_log = path.starts_with(Path::new(DATA).join("log")) && !is_list;
        let is_state = path.starts_with(Path::new(DATA).join("groups"));
        match self {
            Part::Log => is_log,
            Part::State => is_state,
            Part::Small => !is_log && !is_state,
        }
    }
}

impl World {
    /// Bits of a node's disk are not what they were.
    pub(super) fn flip_bits(&mut self, part: Part) -> bool {
        let Some(node) = self.node_to_hurt() else { return false };
        let disk = self.nodes[node].disk.clone();
        let files: Vec<PathBuf> =
            disk.files().into_iter().map(|(path, _)| path).filter(|path| part.has(path)).collect();
        let mut flipped = Vec::new();
        for _ in 0..self.random.disks.between(1, FLIPS_MAX) {
            if files.is_empty() {
                break;
            }
            let path = &files[self.random.disks.index(files.len())];
            let Some(bytes) = disk.peek(path) else { continue };
            let kept = self.nodes[node].last_write(path).unwrap_or_default();
            // Where nothing was written nothing can rot, and a file of zeros is mostly that.
            let written: Vec<usize> =
                (0..bytes.len()).filter(|at| bytes[*at] != 0 && !kept.contains(&(*at as u64))).collect();
            if written.is_empty() {
                continue;
            }
            let at = written[self.random.disks.index(written.len())];
            flipped.push((path.clone(), at as u64 * 8 + self.random.disks.between(0, 7)));
        }
        if flipped.is_empty() || !self.may_lose(node) {
            return false;
        }
        for (path, bit) in &flipped {
            self.nodes[node].disk.flip_bit(path, *bit);
            self.say(|| format!("bit {bit} of {} on node {} is flipped", path.display(), self.ids[node]));
        }
        self.hurt(node);
        true
    }

    /// One of the next writes to a log gets lost although the disk says that it was made, or goes to another place in the file.
    pub(super) fn lose_write(&mut self, is_misdirected: bool) -> bool {
        let Some(node) = self.node_to_hurt() else { return false };
        if self.nodes[node].process.is_none() || !self.may_lose(node) {
            return false;
        }
        let blocks = self.random.disks.between(1, 8);
        self.nodes[node]
            .disk
            .stray_next_write(Path::new(DATA).join("log"), is_misdirected.then_some(blocks * 4096));
        let how = if is_misdirected { "goes astray" } else { "is lost" };
        self.say(|| format!("the next write to the log of node {} {how}", self.ids[node]));
        self.hurt(node);
        true
    }

    pub(super) fn hurt(&mut self, node: usize) {
        self.nodes[node].is_hurt = true;
        let wait = self.random.disks.between(LOOKED_AT_US.0, LOOKED_AT_US.1);
        self.after(wait, Action::LookAtDisk(node));
    }

    fn node_to_hurt(&mut self) -> Option<usize> {
        let node = self.random.disks.index(self.nodes.len());
        let own = &self.nodes[node];
        (!own.is_gone && !own.is_hurt && own.outcast.is_none()).then_some(node)
    }

    /// Somebody finds that a disk is damaged.
    pub(super) fn look_at_disk(&mut self, node: usize) {
        if self.nodes[node].is_hurt && !self.nodes[node].is_gone {
            self.nodes[node].outcast.get_or_insert_with(|| "its disk is damaged".to_owned());
            self.say(|| format!("somebody takes the disk of node {} out of service", self.ids[node]));
        }
    }

    /// A disk takes many times as long as it should for a while, or does nothing at all.
    pub(super) fn slow_disk(&mut self, is_hung: bool) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let until_us = self.now_us + self.random.disks.between(SLOW_US.0, SLOW_US.1);
        let times = self.random.disks.between(SLOW_TIMES.0, SLOW_TIMES.1);
        self.nodes[node].slow = Some((until_us, if is_hung { u64::MAX } else { times }));
        self.say(|| {
            let how = if is_hung { "hangs".to_owned() } else { format!("is {times} times slower") };
            format!("the disk of node {} {how} for {} ms", self.ids[node], (until_us - self.now_us) / 1000)
        });
        self.nodes[node].process.is_some()
    }

    /// How long a disk operation of a node takes.
    pub(super) fn disk_us(&mut self, node: usize) -> u64 {
        let drawn = self.random.time.between(50, self.mix.disk_us_max);
        match self.nodes[node].slow {
            Some((until_us, times)) if until_us > self.now_us && !self.calm => {
                drawn.saturating_mul(times).min(until_us - self.now_us + drawn)
            }
            _ => drawn,
        }
    }
}
