// SPDX-License-Identifier: Apache-2.0

//! SIGKILL, and SIGSTOP until SIGCONT.

use crate::failure::Result;
use crate::fault::{Fault, Meanwhile, Scene};

/// Who is hit. Nodes that lead most groups are hit first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The node that leads most groups.
    Leader,
    /// As many as can be spared.
    Minority,
    /// One more than that.
    Majority,
    /// All.
    All,
}

/// What hits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// SIGKILL; lifted by starting them again.
    Killed,
    /// SIGSTOP; lifted by SIGCONT.
    Stopped,
}

/// Nodes that are killed or stopped.
#[derive(Clone, Debug)]
pub struct Signalled {
    who: Who,
    how: How,
    hit: Vec<usize>,
}

impl Signalled {
    /// Every combination.
    pub fn all() -> impl Iterator<Item = Signalled> {
        let whom = [Who::Leader, Who::Minority, Who::Majority, Who::All];
        let each = |how| whom.into_iter().map(move |who| Signalled::new(who, how));
        each(How::Killed).chain(each(How::Stopped))
    }

    /// This one.
    pub fn new(who: Who, how: How) -> Signalled {
        Signalled { who, how, hit: Vec::new() }
    }
}

impl Fault for Signalled {
    fn name(&self) -> &'static str {
        match (self.who, self.how) {
            (Who::Leader, How::Killed) => "leader killed",
            (Who::Minority, How::Killed) => "minority killed",
            (Who::Majority, How::Killed) => "majority killed",
            (Who::All, How::Killed) => "all killed",
            (Who::Leader, How::Stopped) => "leader stopped",
            (Who::Minority, How::Stopped) => "minority stopped",
            (Who::Majority, How::Stopped) => "majority stopped",
            (Who::All, How::Stopped) => "all stopped",
        }
    }

    fn meanwhile(&self) -> Meanwhile {
        match self.who {
            Who::Leader | Who::Minority => Meanwhile::GoesOn,
            Who::Majority | Who::All => Meanwhile::MayHalt,
        }
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let nodes = scene.cluster.shape.nodes;
        let count = match self.who {
            Who::Leader => 1,
            Who::Minority => (nodes - 1) / 2,
            Who::Majority => nodes / 2 + 1,
            Who::All => nodes,
        };
        let order = match (self.who, self.how) {
            (Who::All, _) | (_, How::Stopped) => &scene.by_groups_led,
            _ => &scene.mortal,
        };
        self.hit = order.iter().copied().take(count).collect();
        let nodes = &mut scene.cluster.nodes;
        self.hit.iter().try_for_each(|node| match self.how {
            How::Killed => nodes[*node].kill(),
            How::Stopped => nodes[*node].pause(),
        })
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.hit.iter().try_for_each(|node| match self.how {
            How::Killed => scene.cluster.start_node(*node),
            How::Stopped => scene.cluster.nodes[*node].go_on(),
        })
    }

    fn deceived(&self) -> &[usize] {
        match self.how {
            How::Stopped => &self.hit,
            How::Killed => &[],
        }
    }
}
