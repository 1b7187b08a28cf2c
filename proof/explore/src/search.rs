// SPDX-License-Identifier: Apache-2.0

//! Breadth first, so that the first way found to a broken promise is a shortest one.

use crate::broken::Broken;
use crate::moves::Next;
use crate::space::{Move, Space, State};
use crate::table::Table;
use crate::world::World;

/// Of so many states one is looked at in calm weather, beside all from which no step leads on.
const CALM_EVERY: u64 = 256;

/// Where a search stops.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// After so many states.
    pub states_max: usize,
}

/// What a search came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The world's name.
    pub world: &'static str,
    /// Distinct states.
    pub states: usize,
    /// Distinct states that these stand for, those under other names included.
    pub stand_for: u64,
    /// Steps that led from one state to another.
    pub transitions: u64,
    /// Steps from the first state to the last ones.
    pub depth: usize,
    /// States of which it was seen that calm weather mends them.
    pub calms: usize,
    /// Whether every state within the world's bounds was seen.
    pub is_exhausted: bool,
    /// Different replicas, parcels, sets of parcels, ledgers, outcomes.
    pub sizes: [usize; 5],
    /// What broke.
    pub found: Option<Found>,
}

/// A broken promise and the way to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What broke.
    pub broken: Broken,
    /// How many steps there are to it.
    pub depth: usize,
    /// The way, to be read.
    pub script: String,
}

/// Explores a world. `progress` hears of states and depth now and then.
pub fn explore(world: &World, bounds: Bounds, mut progress: impl FnMut(usize, usize)) -> Report {
    let mut report = Report { world: world.name, ..Report::default() };
    let (mut space, first) = match Space::new(world) {
        Ok(begun) => begun,
        Err(broken) => {
            report.found = Some(Found { broken, depth: 0, script: String::new() });
            return report;
        }
    };
    let mut states: Table<State> = Table::new();
    let mut parents: Vec<u32> = vec![0];
    states.number(space.representative(first));
    report.stand_for = space.stands_for(first);
    let (mut at, mut layer_end) = (0, 1);
    let mut next: Vec<Next> = Vec::new();
    'all: while at < states.len() {
        if at == layer_end {
            layer_end = states.len();
            report.depth += 1;
        }
        if states.len() >= bounds.states_max {
            if std::env::var_os("DUMP").is_some() {
                let broken = Broken::new(crate::broken::Promise::CalmRecovers, "dump".into());
                println!("{}", crate::trace::script(&mut space, &states, &parents, at as u32, &broken));
            }
            break;
        }
        let state = *states.get(at as u32);
        next.clear();
        space.next(state, &mut next);
        report.transitions += next.len() as u64;
        if next.is_empty() || crate::table::hash(&state).is_multiple_of(CALM_EVERY) {
            report.calms += 1;
            if let Err(broken) = space.calm(state) {
                let script = crate::trace::end(&mut space, &states, &parents, at as u32, &broken);
                report.found = Some(Found { broken, depth: report.depth, script });
                break;
            }
        }
        for (way, after) in next.drain(..) {
            let broken = match after {
                Err(broken) => Some(*broken),
                Ok(after) => match states.number(space.representative(after)) {
                    (_, false) => None,
                    (_, true) => {
                        report.stand_for += space.stands_for(after);
                        parents.push(at as u32);
                        if parents.len().is_multiple_of(1 << 18) {
                            progress(parents.len(), report.depth + 1);
                        }
                        let changed = match way {
                            Move::Step { place, .. } => 1 << place,
                            Move::Election { .. } => u8::MAX,
                        };
                        space.check(after, changed).err()
                    }
                },
            };
            if let Some(broken) = broken {
                let script = crate::trace::script(&mut space, &states, &parents, at as u32, &broken);
                report.found = Some(Found { broken, depth: report.depth + 1, script });
                break 'all;
            }
        }
        at += 1;
    }
    report.is_exhausted = at == states.len();
    report.states = states.len();
    report.sizes = space.sizes();
    report
}
