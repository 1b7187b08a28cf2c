// SPDX-License-Identifier: Apache-2.0

//! What a kind of fault is, for whoever runs them in turn: [`crate::rounds`]. A new kind is one value that implements [`Fault`].

use crate::cluster::Cluster;
use crate::failure::Result;

/// What can be written while a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meanwhile {
    /// Every group: some majority can work.
    GoesOn,
    /// Nothing, or nobody knows: it is held for some time and then ends.
    MayHalt,
}

/// A cluster at the moment at which a fault begins or ends.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// Its nodes, those that lead most groups first.
    pub by_groups_led: Vec<usize>,
    /// Those that may die, in the same order.
    pub mortal: Vec<usize>,
}

/// One kind of fault. It is inflicted and lifted in turn, as often as wanted.
pub trait Fault: Send {
    /// A few words for tables, such as "leader killed".
    fn name(&self) -> &'static str;

    /// What is expected of the cluster while it lasts.
    fn meanwhile(&self) -> Meanwhile {
        Meanwhile::GoesOn
    }

    /// How often it is inflicted and lifted in a round, where so many nodes may die: of a fault that goes from node to node.
    fn steps(&self, _mortal: usize) -> usize {
        1
    }

    /// Brings it about. Called on a Tokio runtime; what it spawns ends when it is lifted.
    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()>;

    /// An error while it has not done to the cluster what it is for; it is not lifted before.
    fn has_hit(&self, _cluster: &Cluster) -> Result<()> {
        Ok(())
    }

    /// Ends it.
    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()>;

    /// Nodes that can still be asked, or can be again when it ends, and may believe what is no longer true.
    fn deceived(&self) -> &[usize] {
        &[]
    }
}

/// Several faults that come and go together.
pub struct Together {
    name: &'static str,
    parts: Vec<Box<dyn Fault>>,
}

impl Together {
    /// These, under this name.
    pub fn new(name: &'static str, parts: Vec<Box<dyn Fault>>) -> Together {
        Together { name, parts }
    }
}

impl Fault for Together {
    fn name(&self) -> &'static str {
        self.name
    }

    fn meanwhile(&self) -> Meanwhile {
        match self.parts.iter().any(|part| part.meanwhile() == Meanwhile::MayHalt) {
            true => Meanwhile::MayHalt,
            false => Meanwhile::GoesOn,
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.inflict(scene))
    }

    fn has_hit(&self, cluster: &Cluster) -> Result<()> {
        self.parts.iter().try_for_each(|part| part.has_hit(cluster))
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.parts.iter_mut().try_for_each(|part| part.lift(scene))
    }
}
