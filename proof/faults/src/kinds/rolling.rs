// SPDX-License-Identifier: Apache-2.0

//! A rolling restart, as for an upgrade: one node after the other is told to stop, ends in good order and is started again; the next one
//! only follows when every group has a leader that everybody knows, and has been written to.

use crate::failure::{Failure, Result};
use crate::fault::{Fault, Scene};

/// Every node that may die is stopped and started.
#[derive(Debug, Default)]
pub struct Rolling {
    steps: usize,
    hit: usize,
}

impl Fault for Rolling {
    fn name(&self) -> &'static str {
        "rolling restart"
    }

    fn steps(&self, mortal: usize) -> usize {
        mortal
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        let next = self.steps.checked_rem(scene.mortal.len()).map(|place| scene.mortal[place]);
        self.hit = next.ok_or_else(|| Failure::new("no node may be stopped"))?;
        self.steps += 1;
        scene.cluster.nodes[self.hit].stop()
    }

    fn lift(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        scene.cluster.start_node(self.hit)
    }
}
