// SPDX-License-Identifier: Apache-2.0

//! What can be wrong with a network of namespaces: partitions of every shape, and little bandwidth.

use crate::failure::{Failure, Result};
use crate::fault::{Fault, Meanwhile, Scene};
use crate::namespaces::Network;
use crate::partition::Cuts;

/// Who does not hear whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partition {
    /// A minority on one side, with the node that leads most groups, and a majority on the other.
    Symmetric,
    /// Nobody hears the node that leads most groups.
    LeaderMute,
    /// The node that leads most groups hears nobody.
    LeaderDeaf,
    /// Two halves that meet in one node only, which leads fewest groups.
    Bridge,
    /// Everybody hears two neighbours only.
    Ring,
    /// Everybody is alone.
    Total,
}

/// Links that are cut.
#[derive(Clone, Debug)]
pub struct Partitioned {
    shape: Partition,
    deceived: Vec<usize>,
}

impl Partitioned {
    /// Every shape.
    pub fn all() -> impl Iterator<Item = Partitioned> {
        use Partition::{Bridge, LeaderDeaf, LeaderMute, Ring, Symmetric, Total};
        [Symmetric, LeaderMute, LeaderDeaf, Bridge, Ring, Total].into_iter().map(Partitioned::new)
    }

    /// This one.
    pub fn new(shape: Partition) -> Partitioned {
        Partitioned { shape, deceived: Vec::new() }
    }
}

impl Fault for Partitioned {
    fn name(&self) -> &'static str {
        match self.shape {
            Partition::Symmetric => "minority cut off",
            Partition::LeaderMute => "leader mute",
            Partition::LeaderDeaf => "leader deaf",
            Partition::Bridge => "two halves, one bridge",
            Partition::Ring => "ring",
            Partition::Total => "everybody alone",
        }
    }

    fn meanwhile(&self) -> Meanwhile {
        match self.shape {
            Partition::Total => Meanwhile::MayHalt,
            _ => Meanwhile::GoesOn,
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let (nodes, order) = (scene.cluster.shape.nodes, &scene.by_groups_led);
        let (first, last) = (order[0], order[nodes - 1]);
        self.deceived = vec![first];
        let cuts = match self.shape {
            Partition::Symmetric => {
                self.deceived = order[..(nodes - 1) / 2].to_vec();
                Cuts::apart(nodes, &self.deceived)
            }
            Partition::LeaderMute => Cuts::mute(nodes, first),
            Partition::LeaderDeaf => Cuts::deaf(nodes, first),
            Partition::Bridge => Cuts::bridge(nodes, last),
            Partition::Ring => Cuts::ring(nodes),
            Partition::Total => {
                self.deceived = order.clone();
                Cuts::everybody_alone(nodes)
            }
        };
        network(scene)?.cut(&cuts)
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        network(scene)?.heal()
    }

    fn deceived(&self) -> &[usize] {
        &self.deceived
    }
}

/// Little bandwidth.
#[derive(Clone, Debug)]
pub struct Narrow {
    whose: Whose,
    limited: Vec<usize>,
}

/// Whose links are narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The node's that leads most groups.
    Leader,
    /// Everybody's.
    All,
}

/// A slow line: far too little for the load. Clients that do not wait for a minute may then see nothing succeed, since what they wrote is
/// committed when they have gone; what is shown is that everything works again afterwards, and that what they were told was true.
const NARROW_BITS_PER_SECOND: u64 = 1_000_000;

impl Narrow {
    /// Narrow links for one or for all.
    pub fn new(whose: Whose) -> Narrow {
        Narrow { whose, limited: Vec::new() }
    }

    /// Whether the kernel can limit bandwidth; why not.
    pub fn is_possible(network: &Network) -> Result<()> {
        network.limit(0, Some(NARROW_BITS_PER_SECOND))?;
        network.limit(0, None)
    }
}

impl Fault for Narrow {
    fn name(&self) -> &'static str {
        match self.whose {
            Whose::Leader => "1 Mbit/s for the leader",
            Whose::All => "1 Mbit/s for all",
        }
    }

    fn meanwhile(&self) -> Meanwhile {
        Meanwhile::MayHalt
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.limited = match self.whose {
            Whose::Leader => scene.by_groups_led[..1].to_vec(),
            Whose::All => scene.by_groups_led.clone(),
        };
        let network = network(scene)?;
        self.limited.iter().try_for_each(|node| network.limit(*node, Some(NARROW_BITS_PER_SECOND)))
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let network = network(scene)?;
        self.limited.iter().try_for_each(|node| network.limit(*node, None))
    }
}

fn network<'a>(scene: &'a Scene<'_>) -> Result<&'a Network> {
    let network = scene.cluster.ground().network();
    network.map(|network| &**network).ok_or_else(|| Failure::new("there are no links to be cut on loopback"))
}
