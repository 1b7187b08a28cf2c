// SPDX-License-Identifier: Apache-2.0

//! What must be true in every state, one file for each promise that is looked for there. Others are looked at where something happens:
//! what leaves a replica and what reaches its disk (`replica`, `disk`), and what was promised before (`ledger`).

mod leader_completeness;
mod log_matching;
mod quorums_intersect;

use crate::broken::Broken;
use crate::ledger::Ledger;
use crate::summary::{Contents, Members, Summary};

/// A state, as the checks see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The replicas.
    pub replicas: &'a [Summary],
    /// What was promised.
    pub ledger: &'a Ledger,
    /// What entries hold.
    pub contents: &'a Contents,
    /// The first members.
    pub genesis: Members,
}

/// Looks at a state in which something happened to the replicas of `changed` (bits by place): what holds between two others held before.
pub fn check(view: View<'_>, changed: u8) -> Result<(), Broken> {
    log_matching::check(view, changed)?;
    leader_completeness::check(view)?;
    quorums_intersect::check(view)
}
