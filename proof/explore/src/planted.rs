// SPDX-License-Identifier: Apache-2.0

//! Bugs that the search must find: a check that never fails proves nothing.
//!
//! They stand in the product's code, where the rules are kept that they break ([`mraft_types::planted`]); only a build with the feature
//! `planted` has them. A bug is found when a world breaks a promise with it and none without it, as far as the search had to go.

use mraft_types::planted::{Bug, plant};

use crate::broken::Broken;
use crate::search::{Report, explore};
use crate::world::World;
use crate::worlds;

/// Within so many states a bug must be found.
pub const STATES_MAX: usize = 4_000_000;

/// Where a bug is to be looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In this world.
    In(&'static str),
    /// In none of them, for this reason.
    Nowhere(&'static str),
    /// It is not in the consensus core.
    Elsewhere,
}

/// A bug that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The bug.
    pub bug: Bug,
    /// Where it was found.
    pub world: &'static str,
    /// Distinct states visited until then.
    pub states: usize,
    /// Steps of the shortest way to it.
    pub depth: usize,
    /// What it broke.
    pub broken: Broken,
    /// That way, to be read.
    pub script: String,
}

/// Where to look for a bug.
pub fn place_of(bug: Bug) -> Where {
    match bug {
        Bug::ForgottenVote => Where::In("trio-slow"),
        Bug::AckBeforeDurable => Where::In("trio-slow"),
        Bug::OwnUndurableCounts => Where::In("trio-slow"),
        Bug::OverwrittenCounts => Where::In("trio-slow"),
        Bug::UndurableApplied => Where::In("two-learners"),
        Bug::OldTermCounted => Where::In("trio-terms"),
        Bug::ShortLogElected => Where::In("trio"),
        Bug::VotedTwice => Where::In("trio"),
        Bug::ReadWithoutRound => Where::In("trio-reads"),
        Bug::ReadRoundReused => Where::In("trio-reads"),
        Bug::ReadBeforeTermCommit => Where::In("trio-reads"),
        Bug::AppendTruncates => Where::In("pair"),
        Bug::PrevIgnored => Where::In("trio-terms"),
        Bug::HeartbeatCommitsAll => Where::In("trio-reads"),
        Bug::NextBehindMatch => Where::In("trio-reads"),
        Bug::ChangeBeforeTermCommit => Where::In("four"),
        Bug::TwoChanges => Where::In("trio-removal"),
        Bug::MembershipWhenCommitted => Where::In("pair-removal"),
        Bug::RemovedLeadsOn => Where::In("pair-removal"),
        Bug::RemovalUntold => Where::In("pair-removal"),
        Bug::LearnerStandsBy => Where::In("trio-learner"),
        Bug::LearnersCount => Where::In("two-learners"),
        Bug::MemberlessVotes => Where::In("trio-wiped"),
        Bug::CondemnedTakesPart => Where::In("trio-condemned"),
        Bug::StoreForgotten => Where::In("pair"),
        Bug::SnapshotPeerStuck => Where::In("trio-snapshot"),
        Bug::LostLogUnnoticed => Where::Nowhere(
            "a voter that lost what it acknowledged may undo a commit before any leader can tell it, so no promise holds there",
        ),
        Bug::LifeIgnored | Bug::SleepUnmatched => Where::Nowhere("no group sleeps in these worlds"),
        _ => Where::Elsewhere,
    }
}

/// Looks for a bug; `None` when it was not found.
pub fn find(bug: Bug, world: &World) -> Option<Sighting> {
    let report = explore_with(Some(bug), world, STATES_MAX);
    let found = report.found?;
    Some(Sighting {
        bug,
        world: report.world,
        states: report.states,
        depth: found.depth,
        broken: found.broken,
        script: found.script,
    })
}

/// Whether the world of a sighting keeps its promises without the bug, as far as the search went.
pub fn is_clean_without(sighting: &Sighting) -> bool {
    let Some(world) = worlds::named(sighting.world) else { return false };
    explore_with(None, world, sighting.states).found.is_none()
}

fn explore_with(bug: Option<Bug>, world: &World, states_max: usize) -> Report {
    plant(bug);
    let report = explore(world, states_max, |_, _| ());
    plant(None);
    report
}
