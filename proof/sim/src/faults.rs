// SPDX-License-Identifier: Apache-2.0

//! The mix that a seed draws: how big the cluster is, how bad its surroundings, how much happens.

use crate::network::Quality;
use crate::random::Random;

/// A sane clock is wrong by at most so much, in either direction.
pub const SANE_SKEW_MS: u64 = 2_000;
/// A clock that is not sane is wrong by so much.
const WILD_SKEW_MS: i64 = 3_600_000;

/// One run's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Nodes.
    pub nodes: usize,
    /// What each node has of its own.
    pub own: Vec<Own>,
    /// Groups.
    pub groups: u64,
    /// Replicas of each group, at most [`Mix::nodes`].
    pub replicas: usize,
    /// Clients that each have one operation under way.
    pub clients: u64,
    /// Longest pause of a client between two operations in microseconds.
    pub think_us_max: u64,
    /// How long a client waits for an answer, in ticks.
    pub patience_ticks: u64,
    /// Keys per group: few, so that operations meet.
    pub keys: u64,
    /// Virtual time of the safety phase in microseconds.
    pub safety_us: u64,
    /// Mean time between two crashes in microseconds.
    pub crash_every_us: u64,
    /// Mean time between two changes of the network in microseconds.
    pub partition_every_us: u64,
    /// Mean time between two faults of a disk in microseconds; 0 for never.
    pub disk_fault_every_us: u64,
    /// The network between faults.
    pub quality: Quality,
    /// Most entry bytes of one job for a state machine; with 1 each entry is a job of its own.
    pub apply_bytes_max: usize,
    /// Longest time that a write to the log takes in microseconds.
    pub disk_us_max: u64,
    /// Cases of a thousand in which a crash takes the power away, so that unsynced writes are lost.
    pub power_per_mille: u64,
    /// Cases of a thousand in which a crash comes in the middle of what a process does with its disk, not between two effects.
    pub middle_per_mille: u64,
    /// Cases of a thousand in which a step of a snapshot's installation (rule N1) draws a crash within its next disk operations.
    pub install_crash_per_mille: u64,
    /// Groups fall asleep after so many ticks without anything to do (rules Q1 to Q3); `None` for never.
    pub quiesce_after_ticks: Option<u32>,
}

/// What a node has of its own: nodes that differ truncate at different places, so that a new leader may have what the old one had not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Entries between two writings of a state machine's state.
    pub snapshot_entries: u64,
    /// Entries kept behind what the state machine has persisted.
    pub overhead_entries: u64,
    /// How far its wall clock is ahead; at most one node of a cluster is wrong by more than [`SANE_SKEW_MS`].
    pub ahead_ms: i64,
}

impl Mix {
    /// What a seed draws.
    pub fn draw(random: &mut Random) -> Mix {
        let nodes = if random.per_mille(750) { 3 } else { 5 };
        let groups = if random.per_mille(800) { random.between(1, 4) } else { random.between(5, 8) };
        let mut own: Vec<Own> = (0..nodes).map(|_| Own::draw(random)).collect();
        if random.per_mille(300) {
            let at = random.index(nodes);
            own[at].ahead_ms = if random.per_mille(500) { WILD_SKEW_MS } else { -WILD_SKEW_MS };
        }
        let quiesce_after_ticks = random.per_mille(250).then(|| random.between(1, 4) as u32);
        Mix {
            nodes,
            own,
            groups,
            replicas: if random.per_mille(700) { 3 } else { nodes },
            clients: random.between(6, 16),
            // Busy ones fill batches and segments; slow ones let replicas stand at the same index for a while.
            think_us_max: match quiesce_after_ticks {
                // Long enough that groups fall asleep between two of them.
                Some(_) => random.between(100_000, 1_500_000),
                None if random.per_mille(700) => 20_000,
                None => 150_000,
            },
            patience_ticks: random.between(30, 100),
            keys: random.between(2, 6),
            safety_us: random.between(12_000_000, 20_000_000),
            crash_every_us: random.between(500_000, 2_000_000),
            partition_every_us: random.between(1_000_000, 4_000_000),
            disk_fault_every_us: if random.per_mille(500) { random.between(2_000_000, 8_000_000) } else { 0 },
            quality: Quality {
                loss_per_mille: random.between(0, 100),
                duplicate_per_mille: random.between(0, 100),
                delay_us_max: random.between(200, 8_000),
            },
            apply_bytes_max: if random.per_mille(500) { 1 } else { 4 << 20 },
            disk_us_max: random.between(200, 6_000),
            power_per_mille: 500,
            middle_per_mille: 600,
            install_crash_per_mille: random.between(0, 300),
            quiesce_after_ticks,
        }
    }

    /// A healthy network, for the calm phase.
    pub fn calm_quality(&self) -> Quality {
        Quality { loss_per_mille: 0, duplicate_per_mille: 0, delay_us_max: 500 }
    }
}

impl Own {
    fn draw(random: &mut Random) -> Own {
        Own {
            // With 1 every batch is persisted, so that a crash finds a state machine at any index.
            snapshot_entries: if random.per_mille(300) { 1 } else { random.between(20, 150) },
            overhead_entries: if random.per_mille(500) {
                random.between(0, 20)
            } else {
                random.between(20, 200)
            },
            ahead_ms: random.between(0, 2 * SANE_SKEW_MS) as i64 - SANE_SKEW_MS as i64,
        }
    }
}
