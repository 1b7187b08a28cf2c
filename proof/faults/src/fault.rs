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

    /// Brings it about. Called on a Tokio runtime; what it spawns ends when it is lifted.
    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()>;

    /// Ends it.
    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()>;

    /// Nodes that can still be asked, or can be again when it ends, and may believe what is no longer true.
    fn deceived(&self) -> &[usize] {
        &[]
    }
}
