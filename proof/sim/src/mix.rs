// SPDX-License-Identifier: Apache-2.0

//! The mix that a seed draws: how big the cluster is, how bad its surroundings, how much happens. Each seed leaves some kinds of faults
//! out, so that what one kind hides another seed shows (swarm testing).

use std::collections::BTreeMap;
use std::fmt;

use mraft::slow_disk::Patience;
use mraft_engine::Limits;

use crate::network::{Quality, Spread};
use crate::random::{Concern, Random};

/// Of a thousand seeds so many have real LSM trees, which cost many times as much.
const REAL_PER_MILLE: u64 = 20;
/// A sane clock is wrong by at most so much, in either direction.
pub const SANE_SKEW_MS: u64 = 2_000;
/// Length of a tick in microseconds of virtual time, where clocks go as they should.
pub const TICK_US: u64 = 10_000;
/// A clock that is not sane is wrong by so much.
pub const WILD_SKEW_MS: i64 = 3_600_000;

/// Something that goes wrong, or that somebody does, from time to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A process is killed; what it wrote stays.
    Kill,
    /// The power of a node is cut: what was not synced is lost, torn or kept, sector by sector.
    PowerCut,
    /// A process dies in the middle of what it does with its disk, with or without the power.
    MiddleCut,
    /// A majority dies at once.
    KillMajority,
    /// All die at once, and the power with them.
    CutAll,
    /// The network falls into parts, or a path is cut in one direction.
    Partition,
    /// A node is taken for dead that is not (rule T5).
    Suspicion,
    /// A disk has no more room for a while (rule D10).
    DiskFull,
    /// One operation of a disk fails with EIO (rule D10).
    DiskFails,
    /// A disk fails all reads, all writes or all syncs with EIO, until it is repaired (rule D10).
    DiskBroken,
    /// Somebody moves the leadership of a group.
    Transfer,
    /// Somebody adds, demotes or removes a member.
    Members,
    /// Somebody asks for a change of members that cannot be.
    Nonsense,
    /// A node and its disk are gone for good; another one comes in its place.
    NodeLost,
    /// A node starts on an empty directory under its old id (rule M6).
    Wiped,
    /// A node starts on a copy of its directory from a while ago (rule M7).
    OldCopy,
    /// Another process starts on a copy of a node's directory while the node goes on (rule M7).
    Twin,
    /// Bits of a log are flipped at rest.
    RotInLog,
    /// Bits of a group's state are flipped at rest.
    RotInState,
    /// Bits of an identity, or of a list of groups, replicas or peers.
    RotInLists,
    /// A write to a log is acknowledged and lost.
    LostWrite,
    /// A write to a log goes to another place.
    Misdirected,
    /// A disk says for a moment that everything is durable, and the power goes.
    LyingDisk,
    /// A disk takes many times as long as it should.
    SlowDisk,
    /// A disk does nothing for a while.
    HungDisk,
    /// A process stands still for a while, and all its threads with it.
    Freeze,
    /// A wall clock jumps, and back again.
    ClockJump,
    /// A path holds back all frames for a while.
    Clog,
    /// When all is over, groups lose the logs of a majority at once, and an operator accepts that (rule D9).
    QuorumLost,
}

impl Fault {
    /// All kinds, with how often a seed has them at all (in a thousand) and the mean times between two of them that it draws from, in
    /// milliseconds.
    const DRAWN: &[(Fault, u64, (u64, u64))] = &[
        (Fault::Kill, 900, (400, 1_600)),
        (Fault::PowerCut, 700, (600, 2_500)),
        (Fault::MiddleCut, 800, (500, 2_000)),
        (Fault::KillMajority, 500, (1_500, 6_000)),
        (Fault::CutAll, 500, (2_000, 8_000)),
        (Fault::Partition, 800, (600, 2_500)),
        (Fault::Suspicion, 500, (500, 3_000)),
        (Fault::DiskFull, 300, (1_000, 5_000)),
        (Fault::DiskFails, 400, (1_000, 5_000)),
        (Fault::DiskBroken, 200, (1_500, 6_000)),
        (Fault::Transfer, 700, (500, 3_000)),
        (Fault::Members, 600, (400, 3_000)),
        (Fault::Nonsense, 500, (500, 3_000)),
        (Fault::NodeLost, 250, (1_500, 5_000)),
        (Fault::Wiped, 200, (1_500, 5_000)),
        (Fault::OldCopy, 200, (1_000, 4_000)),
        (Fault::Twin, 150, (1_500, 5_000)),
        (Fault::RotInLog, 250, (1_000, 4_000)),
        (Fault::RotInState, 200, (1_000, 4_000)),
        (Fault::RotInLists, 100, (2_000, 5_000)),
        (Fault::LostWrite, 150, (1_000, 4_000)),
        (Fault::Misdirected, 150, (1_000, 4_000)),
        (Fault::LyingDisk, 200, (300, 1_500)),
        (Fault::SlowDisk, 350, (600, 4_000)),
        (Fault::HungDisk, 250, (1_000, 5_000)),
        (Fault::Freeze, 500, (400, 2_500)),
        (Fault::ClockJump, 300, (500, 3_000)),
        (Fault::Clog, 400, (400, 2_500)),
    ];

    /// Of a thousand seeds so many end with [`Fault::QuorumLost`].
    const QUORUM_LOST_PER_MILLE: u64 = 150;

    /// Those that a disk on the real file system cannot be made to have.
    const OF_DISKS: &[Fault] = &[
        Fault::PowerCut,
        Fault::CutAll,
        Fault::DiskFull,
        Fault::DiskFails,
        Fault::DiskBroken,
        Fault::NodeLost,
        Fault::Wiped,
        Fault::OldCopy,
        Fault::Twin,
        Fault::RotInLog,
        Fault::RotInState,
        Fault::RotInLists,
        Fault::LostWrite,
        Fault::Misdirected,
        Fault::LyingDisk,
        Fault::QuorumLost,
    ];

    /// Whether it is what operators do of their own accord: nothing is wrong by that, and it does not count among [`Least::faults`].
    pub fn is_wanted(self) -> bool {
        matches!(self, Fault::Transfer | Fault::Members)
    }

    /// All kinds.
    pub fn all() -> impl Iterator<Item = Fault> {
        Fault::DRAWN.iter().map(|(fault, ..)| *fault).chain([Fault::QuorumLost])
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Something that a script has happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scripted {
    /// The disk of whoever leads this group takes so many times as long, or hangs with [`u64::MAX`], for so many microseconds. Leadership
    /// must leave the node within five seconds.
    SlowLeader {
        /// The group.
        group: u64,
        /// How many times as long.
        times: u64,
        /// For how long.
        for_us: u64,
        /// Within so many microseconds all replicas of the node must have stopped.
        stops_within_us: Option<u64>,
    },
}

/// Which seeds are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Width {
    /// Small clusters, of which many can be run.
    #[default]
    Default,
    /// Up to seven nodes and 64 groups.
    Wide,
}

/// What a run must have seen before a phase of it ends: seeds differ much in how fast things happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Least {
    /// Faults.
    pub faults: u64,
    /// Operations of clients in the safety phase.
    pub operations_in_safety: u64,
    /// The same and those of the calm phase.
    pub operations: u64,
}

/// What each seed comes to that breaks no promise.
pub const LEAST: Least = Least { faults: 20, operations_in_safety: 500, operations: 2_000 };
/// Longest safety phase, in microseconds: seeds whose groups hardly ever have a leader do their operations in the calm. Hardly one seed in
/// a million draws so few kinds of faults that it does not come to enough of them within this.
const SAFETY_US_MAX: u64 = 60_000_000;

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
    /// Virtual time of the safety phase in microseconds, at least …
    pub safety_us: u64,
    /// … and at most, where it takes longer to come to [`Mix::least`].
    pub safety_us_max: u64,
    /// What the run goes on for.
    pub least: Least,
    /// What happens from time to time, with the mean time between two of a kind in microseconds; 0 for what happens once, in the end.
    pub faults: BTreeMap<Fault, u64>,
    /// The network between faults.
    pub quality: Quality,
    /// Most entry bytes of one job for a state machine; with 1 each entry is a job of its own.
    pub apply_bytes_max: usize,
    /// How much of anything may wait or stay in memory.
    pub memory: Memory,
    /// Longest time that a write to the log takes in microseconds.
    pub disk_us_max: u64,
    /// Longest time that a process is away in microseconds.
    pub away_us_max: u64,
    /// Whether a leader that hears no majority steps down. Without it only rule R1 keeps one that was cut off from answering reads.
    pub check_quorum: bool,
    /// When a disk is slow, and when it has stalled (rule T1).
    pub patience: Patience,
    /// Cases of a thousand in which a step of a snapshot's installation (rule N1) draws a crash within its next disk operations.
    pub install_crash_per_mille: u64,
    /// Groups fall asleep after so many ticks without anything to do (rules Q1 to Q3); `None` for never.
    pub quiesce_after_ticks: Option<u32>,
    /// What happens at a certain time, in microseconds of virtual time, where no seed is left to chance.
    pub script: Vec<(u64, Scripted)>,
    /// The groups are in LSM trees on the real file system ([`crate::stores`]): no power is cut and no disk is hurt.
    pub has_real_stores: bool,
}

/// Bounds of queues and memory (rule T2): the usual ones, which no run comes to, or tight ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// See [`mraft::HostConfig::cache_bytes_max`].
    pub cache_bytes_max: usize,
    /// See [`mraft::HostConfig::unapplied_bytes_max`].
    pub unapplied_bytes_max: usize,
    /// See [`Limits::reads_max`].
    pub reads_max: usize,
    /// See [`Limits::held_bytes_max`].
    pub held_bytes_max: usize,
}

/// What a node has of its own: nodes that differ truncate at different places, so that a new leader may have what the old one had not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Command bytes between two writings of a state machine's state.
    pub flush_bytes: usize,
    /// Entries kept behind what the state machine has persisted.
    pub overhead_entries: u64,
    /// How far its wall clock is ahead; at most one node of a cluster is wrong by more than [`SANE_SKEW_MS`].
    pub ahead_ms: i64,
    /// How long a tick of its clock takes in microseconds of virtual time.
    pub tick_us: u64,
}

impl Mix {
    /// What a seed draws.
    pub fn draw(seed: u64, width: Width) -> Mix {
        let random = &mut Random::new(seed, Concern::Mix);
        let (nodes, groups) = match width {
            Width::Default => (
                if random.per_mille(750) { 3 } else { 5 },
                if random.per_mille(800) { random.between(1, 4) } else { random.between(5, 8) },
            ),
            Width::Wide => (3 + 2 * random.index(3), random.between(1, 64)),
        };
        let mut own: Vec<Own> = (0..nodes).map(|_| Own::draw(random)).collect();
        if random.per_mille(300) {
            let at = random.index(nodes);
            own[at].ahead_ms = if random.per_mille(500) { WILD_SKEW_MS } else { -WILD_SKEW_MS };
        }
        let quiesce_after_ticks = random.per_mille(250).then(|| random.between(1, 4) as u32);
        let mut faults = BTreeMap::new();
        for (fault, per_mille, (low, high)) in Fault::DRAWN {
            let mean_us = random.between(*low, *high) * 1_000;
            if random.per_mille(*per_mille) {
                faults.insert(*fault, mean_us);
            }
        }
        let mut mix = Mix {
            nodes,
            own,
            groups,
            replicas: if random.per_mille(700) { 3 } else { nodes },
            clients: random.between(7, 16) + groups / 4,
            // Busy ones fill batches and segments; slow ones let replicas stand at the same index for a while.
            think_us_max: match quiesce_after_ticks {
                // Long enough that groups fall asleep between two of them.
                Some(_) => random.between(50_000, 600_000),
                None if random.per_mille(700) => 30_000,
                None => 100_000,
            },
            patience_ticks: random.between(30, 100),
            keys: random.between(2, 6),
            safety_us: random.between(4_200_000, 6_800_000),
            safety_us_max: SAFETY_US_MAX,
            least: LEAST,
            faults,
            quality: Quality {
                loss_per_mille: if random.per_mille(700) { random.between(0, 300) } else { 0 },
                duplicate_per_mille: if random.per_mille(700) { random.between(0, 500) } else { 0 },
                delay_us_max: random.between(200, 8_000),
                spread: match random.between(0, 9) {
                    0..=4 => Spread::Even,
                    5..=7 => Spread::LongTail,
                    _ => Spread::TwoPaths,
                },
                corrupt_per_mille: if random.per_mille(400) { random.between(1, 20) } else { 0 },
            },
            apply_bytes_max: if random.per_mille(500) { 1 } else { 4 << 20 },
            memory: Memory::draw(random),
            disk_us_max: random.between(200, 6_000),
            away_us_max: random.between(50_000, 1_500_000),
            check_quorum: random.per_mille(850),
            patience: Patience {
                slow_disk_ms: random.between(100, 500),
                stalled_disk_ms: random.between(700, 3_000),
            },
            install_crash_per_mille: random.between(0, 300),
            quiesce_after_ticks,
            script: Vec::new(),
            has_real_stores: false,
        };
        if random.per_mille(REAL_PER_MILLE) {
            mix.use_real_stores(random);
        } else if random.per_mille(Fault::QUORUM_LOST_PER_MILLE) {
            mix.faults.insert(Fault::QuorumLost, 0);
        }
        mix
    }

    /// Real trees, and nothing that they could not stand.
    fn use_real_stores(&mut self, random: &mut Random) {
        self.has_real_stores = true;
        self.faults.retain(|fault, _| !Fault::OF_DISKS.contains(fault));
        for own in &mut self.own {
            own.flush_bytes = random.between(5_000, 40_000) as usize;
        }
    }

    /// A healthy network, for the calm phase.
    pub fn calm_quality(&self) -> Quality {
        Quality {
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            delay_us_max: 500,
            spread: Spread::Even,
            corrupt_per_mille: 0,
        }
    }
}

impl Memory {
    fn draw(random: &mut Random) -> Memory {
        let Limits { reads_max, held_bytes_max, .. } = Limits::default();
        if random.per_mille(600) {
            let (cache_bytes_max, unapplied_bytes_max) = (1 << 20, 256 << 20);
            return Memory { cache_bytes_max, unapplied_bytes_max, reads_max, held_bytes_max };
        }
        Memory {
            cache_bytes_max: random.between(0, 16 << 10) as usize,
            unapplied_bytes_max: random.between(4 << 10, 64 << 10) as usize,
            reads_max: random.between(1, 8) as usize,
            held_bytes_max: random.between(32 << 10, 256 << 10) as usize,
        }
    }
}

impl Own {
    fn draw(random: &mut Random) -> Own {
        Own {
            // With 1 every batch is persisted, so that a crash finds a state machine at any index.
            flush_bytes: if random.per_mille(150) { 1 } else { random.between(500, 5_000) as usize },
            overhead_entries: if random.per_mille(500) {
                random.between(0, 20)
            } else {
                random.between(20, 200)
            },
            ahead_ms: random.between(0, 2 * SANE_SKEW_MS) as i64 - SANE_SKEW_MS as i64,
            tick_us: if random.per_mille(500) { TICK_US } else { random.between(8_000, 12_500) },
        }
    }
}
