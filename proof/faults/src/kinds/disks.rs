// SPDX-License-Identifier: Apache-2.0

//! Disks that are slow, hang, fail, have no room, or lose their power, of nodes that stand on one that can be hurt.
//!
//! Missing on purpose: what takes a replica for good (rot, syncs that lie), and a log without room, which such a disk could only refuse
//! together with what is written over old bytes and needs none.

use std::time::Duration;

use mraft_frail::{Kind, TRANSFERS, Times, Trouble, TroubleId};

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use crate::fault::{Fault, Meanwhile, Scene};
use crate::wait;

/// A hundred times what a disk takes that is well.
const SLOW: Duration = Duration::from_millis(100);

/// What is the matter with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// Everything takes [`SLOW`].
    Slow,
    /// Nothing ends; the node is killed while it waits.
    Hung,
    /// Syncs of the log answer EIO until the node has stopped.
    LogFails,
    /// Syncs of groups' states answer EIO until a replica has stopped.
    StatesFail,
    /// There is no room for groups' states, until there is.
    StatesFull,
}

/// A node whose disk is ill.
#[derive(Debug)]
pub struct IllDisk {
    ill: Ill,
    hit: usize,
    trouble: Option<TroubleId>,
    /// Bytes that the node had said before.
    spoken: usize,
}

impl IllDisk {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = IllDisk> {
        use Ill::{Hung, LogFails, Slow, StatesFail, StatesFull};
        [Slow, LogFails, StatesFull, Hung, StatesFail].into_iter().map(IllDisk::new)
    }

    /// This one.
    pub fn new(ill: Ill) -> IllDisk {
        IllDisk { ill, hit: 0, trouble: None, spoken: 0 }
    }

    /// What a node logs that this is meant to stop.
    fn words(&self) -> Option<&'static str> {
        match self.ill {
            Ill::Slow | Ill::Hung | Ill::StatesFull => None,
            Ill::LogFails => Some("every replica of this node stopped"),
            Ill::StatesFail => Some("this replica stopped"),
        }
    }
}

impl Fault for IllDisk {
    fn name(&self) -> &'static str {
        match self.ill {
            Ill::Slow => "a disk takes 100 ms",
            Ill::Hung => "a disk hangs",
            Ill::LogFails => "syncs of a log fail",
            Ill::StatesFail => "syncs of states fail",
            Ill::StatesFull => "no room for states",
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        // Behind some of them a node has to be started again.
        let order = match self.ill {
            Ill::Slow | Ill::StatesFull => &scene.by_groups_led,
            Ill::Hung | Ill::LogFails | Ill::StatesFail => &scene.mortal,
        };
        self.hit = *order.first().ok_or_else(|| Failure::new("there is no node to be hit"))?;
        self.spoken = scene.cluster.nodes[self.hit].said()?.len();
        let disk = scene.cluster.disk(self.hit)?;
        let (kinds, paths, trouble): (&[Kind], _, _) = match self.ill {
            Ill::Slow => (TRANSFERS, "*", Trouble::Takes(SLOW)),
            Ill::Hung => (TRANSFERS, "*", Trouble::Hangs),
            Ill::LogFails => (&[Kind::Sync], "log/segment-*", Trouble::Fails),
            Ill::StatesFail => (&[Kind::Sync], "groups/*", Trouble::Fails),
            Ill::StatesFull => (&[Kind::Write], "groups/*", Trouble::NoRoom),
        };
        self.trouble = Some(disk.trouble(kinds, paths, trouble, Times::Always));
        Ok(())
    }

    fn has_hit(&self, cluster: &Cluster) -> Result<()> {
        let Some(trouble) = self.trouble else { return Ok(()) };
        let hits = cluster.disk(self.hit)?.hits(trouble);
        wait::is(hits > 0, || "nobody has met it".to_owned())?;
        let Some(words) = self.words() else { return Ok(()) };
        let said = cluster.nodes[self.hit].said()?;
        let is_said = said.get(self.spoken..).is_some_and(|said| said.contains(words));
        wait::is(is_said, || format!("the node does not say: {words}"))
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let Some(trouble) = self.trouble.take() else { return Ok(()) };
        let disk = scene.cluster.disk(self.hit)?.clone();
        let node = &mut scene.cluster.nodes[self.hit];
        match self.ill {
            Ill::Slow | Ill::StatesFull => {
                disk.mend(trouble);
                return Ok(());
            }
            // It cannot die while the disk keeps it, and must not find out that it is well again.
            Ill::Hung => {
                node.strike()?;
                disk.mend(trouble);
                node.bury()?;
            }
            Ill::LogFails | Ill::StatesFail => {
                node.stop()?;
                disk.mend(trouble);
            }
        }
        scene.cluster.start_node(self.hit)
    }
}

/// Whose power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// That of the node that leads most groups of those that may die.
    Leader,
    /// That of all nodes that may die, at the same moment.
    Mortals,
    /// That of all nodes, at the same moment.
    All,
}

/// Nodes whose power fails: what was not synced is lost, torn or there after all.
#[derive(Debug)]
pub struct Unpowered {
    whose: Whose,
    hit: Vec<usize>,
    cuts: u64,
}

impl Unpowered {
    /// Every kind but that of all nodes.
    pub fn all() -> impl Iterator<Item = Unpowered> {
        [Whose::Mortals, Whose::Leader].into_iter().map(Unpowered::new)
    }

    /// This one.
    pub fn new(whose: Whose) -> Unpowered {
        Unpowered { whose, hit: Vec::new(), cuts: 0 }
    }
}

impl Fault for Unpowered {
    fn name(&self) -> &'static str {
        match self.whose {
            Whose::Leader => "leader without power",
            Whose::Mortals => "power cut but for one node",
            Whose::All => "power cut of all",
        }
    }

    fn meanwhile(&self) -> Meanwhile {
        match self.whose {
            Whose::Leader => Meanwhile::GoesOn,
            Whose::Mortals | Whose::All => Meanwhile::MayHalt,
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.hit = match self.whose {
            Whose::Leader => scene.mortal.iter().copied().take(1).collect(),
            Whose::Mortals => scene.mortal.clone(),
            Whose::All => scene.by_groups_led.clone(),
        };
        self.cuts += 1;
        scene.cluster.cut_power(&self.hit, Some(self.cuts)).map(drop)
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.hit.iter().try_for_each(|node| scene.cluster.start_node(*node))
    }
}
