// SPDX-License-Identifier: Apache-2.0

//! Breadth first, so that the first way found to a broken promise is a shortest one.

use crate::broken::Broken;
use crate::moves::Next;
use crate::space::{Move, Sizes, Space, State};
use crate::table::{Table, hash};
use crate::trace;
use crate::world::World;

/// Of so many states one is looked at in calm weather, beside all from which nothing leads on.
const CALM_EVERY: u64 = 256;
/// So many states are a piece of work worth telling of.
const TOLD_EVERY: usize = 1 << 20;

/// What a search came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The world's name.
    pub world: &'static str,
    /// Distinct states that were visited; those that differ in names only are one.
    pub states: usize,
    /// Distinct states that these stand for.
    pub stand_for: u64,
    /// Steps that led from one state to another.
    pub transitions: u64,
    /// Steps from the first state to the last one.
    pub depth: usize,
    /// States of which it was seen that calm weather mends them.
    pub calms: usize,
    /// Whether every state within the world's bounds was visited.
    pub is_exhausted: bool,
    /// Of how much different states are made.
    pub sizes: Sizes,
    /// What broke, if anything did.
    pub found: Option<Found>,
}

/// A broken promise and the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What broke.
    pub broken: Broken,
    /// How many steps there are to it.
    pub depth: usize,
    /// The way, to be read.
    pub script: String,
}

/// States by number, in the order in which they were found, each with the one from which it was.
#[derive(Debug, Default)]
pub(crate) struct Visited {
    states: Table<State>,
    parents: Vec<u32>,
}

impl Visited {
    /// Whether a state is new.
    fn add(&mut self, state: State, parent: u32) -> bool {
        let (_, is_new) = self.states.number(state);
        if is_new {
            self.parents.push(parent);
        }
        is_new
    }

    /// The state numbered `at`.
    pub(crate) fn state(&self, at: u32) -> State {
        *self.states.get(at)
    }

    /// The way from the first state to the one numbered `last`, both included.
    pub(crate) fn way_to(&self, last: u32) -> Vec<u32> {
        let mut way = vec![last];
        while let Some(at) = way.last().copied().filter(|at| *at != 0) {
            way.push(self.parents[at as usize]);
        }
        way.reverse();
        way
    }
}

/// Explores a world until every state within its bounds was visited, a promise broke, or there are `states_max` of them. `progress`
/// hears of the number of states and the depth now and then.
pub fn explore(world: &World, states_max: usize, progress: impl FnMut(usize, usize)) -> Report {
    let mut report = Report { world: world.name, ..Report::default() };
    match Space::new(world) {
        Ok((mut space, first)) => {
            walk(&mut space, first, states_max, progress, &mut report);
            report.sizes = space.sizes();
        }
        Err(broken) => report.found = Some(Found { broken, depth: 0, script: String::new() }),
    }
    report
}

fn walk(
    space: &mut Space,
    first: State,
    states_max: usize,
    mut progress: impl FnMut(usize, usize),
    report: &mut Report,
) {
    let mut visited = Visited::default();
    visited.add(space.representative(first), 0);
    report.stand_for = space.stands_for(first);
    let (mut at, mut layer_end) = (0, 1);
    let mut next: Vec<Next> = Vec::new();
    while at < visited.parents.len() && visited.parents.len() < states_max {
        if at == layer_end {
            layer_end = visited.parents.len();
            report.depth += 1;
        }
        let (state, number) = (visited.state(at as u32), at as u32);
        next.clear();
        space.next(state, &mut next);
        report.transitions += next.len() as u64;
        if next.is_empty() || hash(&state).is_multiple_of(CALM_EVERY) {
            report.calms += 1;
            if let Err(broken) = space.calm(state) {
                let script = trace::script_to_state(space, &visited, number, &broken);
                report.found = Some(Found { broken, depth: report.depth, script });
                break;
            }
        }
        let broken = next.drain(..).find_map(|(way, after)| {
            let after = match after {
                Ok(after) => after,
                Err(broken) => return Some(*broken),
            };
            if !visited.add(space.representative(after), number) {
                return None;
            }
            report.stand_for += space.stands_for(after);
            if visited.parents.len().is_multiple_of(TOLD_EVERY) {
                progress(visited.parents.len(), report.depth + 1);
            }
            let changed = match way {
                Move::Step { place, .. } => 1 << place,
                Move::Election { .. } => u8::MAX,
            };
            space.check(after, changed).err()
        });
        if let Some(broken) = broken {
            let script = trace::script_to_step(space, &visited, number, &broken);
            report.found = Some(Found { broken, depth: report.depth + 1, script });
            break;
        }
        at += 1;
    }
    report.states = visited.parents.len();
    report.is_exhausted = at == visited.parents.len();
}
