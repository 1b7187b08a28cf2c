// SPDX-License-Identifier: Apache-2.0

//! The mix that a seed draws: how big the cluster is, how bad its surroundings, how much happens.

use crate::network::Quality;
use crate::random::Random;

/// One run's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Nodes.
    pub nodes: usize,
    /// Groups.
    pub groups: u64,
    /// Replicas of each group, at most [`Mix::nodes`].
    pub replicas: usize,
    /// Clients that each have one operation under way.
    pub clients: u64,
    /// Keys per group: few, so that operations meet.
    pub keys: u64,
    /// Virtual time of the safety phase in microseconds.
    pub safety_us: u64,
    /// Mean time between two crashes in microseconds.
    pub crash_every_us: u64,
    /// Mean time between two changes of the network in microseconds.
    pub partition_every_us: u64,
    /// The network between faults.
    pub quality: Quality,
    /// Longest time that a write to the log takes in microseconds.
    pub disk_us_max: u64,
    /// Entries between two snapshots of a state machine.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub overhead_entries: u64,
    /// Cases of a thousand in which a crash takes the power away, so that unsynced writes are lost.
    pub power_per_mille: u64,
}

impl Mix {
    /// What a seed draws.
    pub fn draw(random: &mut Random) -> Mix {
        let nodes = if random.per_mille(750) { 3 } else { 5 };
        let groups = if random.per_mille(800) { random.between(1, 4) } else { random.between(5, 8) };
        let bad = random.between(0, 100);
        Mix {
            nodes,
            groups,
            replicas: if random.per_mille(700) { 3 } else { nodes },
            clients: random.between(4, 12),
            keys: random.between(2, 6),
            safety_us: random.between(12_000_000, 20_000_000),
            crash_every_us: random.between(500_000, 2_000_000),
            partition_every_us: random.between(1_000_000, 4_000_000),
            quality: Quality {
                loss_per_mille: bad,
                duplicate_per_mille: random.between(0, 100),
                delay_us_max: random.between(200, 8_000),
            },
            disk_us_max: random.between(200, 6_000),
            snapshot_entries: random.between(20, 150),
            overhead_entries: random.between(0, 60),
            power_per_mille: 500,
        }
    }

    /// A healthy network, for the calm phase.
    pub fn calm_quality(&self) -> Quality {
        Quality { loss_per_mille: 0, duplicate_per_mille: 0, delay_us_max: 500 }
    }
}
