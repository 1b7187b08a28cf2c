// SPDX-License-Identifier: Apache-2.0

//! `mraft-explore`.

use std::process::ExitCode;
use std::time::Instant;

use mraft_explore::search::{Bounds, explore};
use mraft_explore::worlds::WORLDS;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut name, mut states_max) = (None, usize::MAX);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--world" => name = arguments.next(),
            "--states-max" => states_max = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(states_max),
            _ => return ExitCode::from(2),
        }
    }
    #[cfg(feature = "planted")]
    if let Ok(name) = std::env::var("PLANT") {
        let bug = mraft_types::planted::Bug::ALL.iter().find(|bug| bug.name() == name).copied();
        assert!(bug.is_some(), "no such bug");
        mraft_types::planted::plant(bug);
    }
    let k: Option<usize> = std::env::var("K").ok().and_then(|k| k.parse().ok());
    let worlds: Vec<_> = WORLDS.iter().cloned().map(|mut w| { w.in_flight_max = k.unwrap_or(w.in_flight_max); w }).collect();
    for world in worlds.iter().filter(|world| name.as_ref().is_none_or(|name| name == world.name)) {
        let began = Instant::now();
        let report = explore(world, Bounds { states_max }, |states, depth| {
            eprintln!("{} {states} states, depth {depth}, {:?}", world.name, began.elapsed());
        });
        println!("{} {} states for {} {} transitions depth {} exhausted {} {:?} sizes {:?}", report.world, report.states, report.stand_for, report.transitions, report.depth, report.is_exhausted, began.elapsed(), report.sizes);
        if let Some(found) = report.found {
            println!("{}", found.script);
            println!("{} at {}", found.broken, found.depth);
        }
    }
    ExitCode::SUCCESS
}
