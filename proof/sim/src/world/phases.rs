// SPDX-License-Identifier: Apache-2.0

//! When the phases of a run end: not before it has come to what its mix wants at least ([`crate::mix::Least`]).

use mraft_types::GroupId;

use super::probe::{AWAY_ELECTIONS, PROBE_ELECTIONS};
use super::{Action, ELECTION_US, World};
use crate::check::{Broken, calm};

/// A phase that has not come to enough goes on for so long.
const LONGER_US: u64 = 100_000;
/// Clients ask for so many election timeouts of the calm at least: until the probe is over.
const CLIENTS_ELECTIONS: u64 = PROBE_ELECTIONS + AWAY_ELECTIONS + 1;
/// The calm must bring everything back within so many election timeouts: then nobody asks for anything any more …
const BACK_ELECTIONS: u64 = 33;
/// … for so many: then all replicas must be at the same place.
const QUIET_ELECTIONS: u64 = 12;
/// What was asked for before has had its time after so many of them.
const RESTED_ELECTIONS: u64 = 4;
/// Few clients take longer for what is missing, and a log for very many files. Longer than this nobody waits for them.
const BACK_ELECTIONS_MAX: u64 = 600;

impl World {
    /// Lets everything heal, if enough has happened.
    pub(super) fn end_safety(&mut self) -> Result<(), Broken> {
        let least = self.mix.least;
        let is_enough = self.report.faults_in_all() >= least.faults
            && self.report.operations >= least.operations_in_safety;
        if !is_enough && self.now_us + LONGER_US <= self.mix.safety_us_max {
            self.after(LONGER_US, Action::Calm);
            return Ok(());
        }
        self.calm_us = self.now_us;
        self.plan_quiet();
        self.calm_down()
    }

    /// By when everything must be back, and nobody asks for anything any more.
    pub(super) fn plan_quiet(&mut self) {
        self.after(BACK_ELECTIONS * ELECTION_US, Action::Quiet);
        self.after((BACK_ELECTIONS + QUIET_ELECTIONS) * ELECTION_US, Action::BackByNow);
    }

    /// However long the calm goes on for operations or files: the groups have no more time for that. When it does not, the end says more.
    pub(super) fn check_back(&self) -> Result<(), Broken> {
        let is_back = |group: &GroupId| self.is_quiet() || self.is_whole(*group);
        match (0..self.mix.groups).map(GroupId).find(|group| !is_back(group)) {
            None => Ok(()),
            Some(group) => {
                let how = format!(
                    "group {group} lacks a member, a leader or entries so long after everything healed"
                );
                Err(Broken::new(calm::MEMBERS_EQUAL, how))
            }
        }
    }

    /// Ends the calm, if enough was done. A log that grew long while its disk hung gives its files back one by one.
    pub(super) fn fall_silent(&mut self) {
        let is_tidying = self
            .nodes
            .iter()
            .filter_map(|node| node.process.as_ref())
            .any(|process| process.log_more_to_tidy);
        if (is_tidying || !self.has_done_enough())
            && self.now_us < self.calm_us + BACK_ELECTIONS_MAX * ELECTION_US
        {
            self.after(LONGER_US, Action::Quiet);
            return;
        }
        self.quiet_us = Some(self.now_us);
        self.after(RESTED_ELECTIONS * ELECTION_US, Action::Rested);
    }

    fn has_done_enough(&self) -> bool {
        self.report.operations >= self.mix.least.operations
    }

    /// Whether clients ask for nothing more.
    pub(super) fn are_clients_done(&self) -> bool {
        let is_late = self.calm && self.now_us >= self.calm_us + CLIENTS_ELECTIONS * ELECTION_US;
        self.is_quiet() || is_late && self.has_done_enough()
    }

    /// How long a client of the calm has nothing to do: until the probe, when all groups took a write. More operations of a healthy cluster
    /// find nothing.
    pub(super) fn rest_us(&self) -> u64 {
        let has_time = self.calm && self.has_done_enough() && self.owed.is_empty();
        let probe_us = self.calm_us + PROBE_ELECTIONS * ELECTION_US;
        if has_time { probe_us.saturating_sub(self.now_us) } else { 0 }
    }

    /// Whether nobody asks for anything any more.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet_us.is_some()
    }

    /// When the run ends, as far as that is known.
    pub(super) fn end_us(&self) -> u64 {
        self.quiet_us.map_or(u64::MAX, |since_us| since_us + QUIET_ELECTIONS * ELECTION_US)
    }
}
