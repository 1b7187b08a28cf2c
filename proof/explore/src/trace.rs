// SPDX-License-Identifier: Apache-2.0

//! The way to a state, as a script that a human can follow: who did what, and who believes what after each step.

use std::fmt::Write as _;

use crate::broken::Broken;
use crate::moves::Next;
use crate::replica::Replica;
use crate::search::Visited;
use crate::space::{Code, Move, Space, State};
use crate::step::Happened;
use crate::text;

/// The way to the state numbered `last`, and the step behind it that breaks a promise.
pub(crate) fn script_to_step(space: &mut Space, visited: &Visited, last: u32, broken: &Broken) -> String {
    let (mut said, now) = way_to(space, visited, last);
    let mut ways: Vec<Next> = Vec::new();
    space.next(now, &mut ways);
    let breaks = |(way, next): Next| {
        let (found, after) = match next {
            Err(broken) => (*broken, None),
            Ok(next) => (space.check(next, u8::MAX).err()?, Some(next)),
        };
        (found.promise == broken.promise).then_some((way, found, after))
    };
    if let Some((way, broken, after)) = ways.into_iter().find_map(breaks) {
        tell(space, now, way, &mut said);
        if let Some(after) = after {
            believe(space, after, &mut said);
        }
        _ = writeln!(said, "! {broken}");
    }
    said
}

/// The way to the state numbered `last`, which breaks a promise.
pub(crate) fn script_to_state(space: &mut Space, visited: &Visited, last: u32, broken: &Broken) -> String {
    let (mut said, _) = way_to(space, visited, last);
    _ = writeln!(said, "! {broken}");
    said
}

/// What was visited stands for its twins; the way is walked again under the names with which it began.
fn way_to(space: &mut Space, visited: &Visited, last: u32) -> (String, State) {
    let mut said = format!("# {}: {}\n", space.world().name, space.world().says);
    let mut now = visited.state(0);
    believe(space, now, &mut said);
    for at in visited.way_to(last).into_iter().skip(1) {
        let goal = visited.state(at);
        let mut ways: Vec<Next> = Vec::new();
        space.next(now, &mut ways);
        let ahead = ways.into_iter().filter_map(|(way, next)| Some((way, next.ok()?)));
        let found = ahead.into_iter().find(|(_, next)| space.representative(*next) == goal);
        let Some((way, next)) = found else { continue };
        tell(space, now, way, &mut said);
        now = next;
        believe(space, now, &mut said);
    }
    (said, now)
}

fn tell(space: &mut Space, before: State, way: Move, said: &mut String) {
    let mut steps = Vec::new();
    match way {
        Move::Step { place, code } => steps.push((usize::from(place), code)),
        Move::Election { place, helpers } => {
            // What breaks on the way is told by the last of the steps.
            _ = space.election(before, usize::from(place), helpers, &mut steps);
        }
    }
    let mut replicas: Vec<Replica> =
        (0..space.world().replicas()).map(|place| space.replica(before, place).clone()).collect();
    for (place, code) in steps {
        tell_step(space, &mut replicas[place], place, code, said);
    }
}

fn tell_step(space: &Space, who: &mut Replica, place: usize, code: Code, said: &mut String) {
    let id = space.world().id(place);
    let step = space.step(code);
    _ = writeln!(said, "> {}", text::step(id, &step));
    let mut happened = Happened { effects: Some(Vec::new()), ..Happened::default() };
    let hosting = space.world().hosting;
    let done =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| who.happen(step, hosting, &mut happened)));
    if done.is_err() {
        _ = writeln!(said, "  {id:?}: panics");
    }
    for line in happened.effects.unwrap_or_default().iter().filter_map(text::effect) {
        _ = writeln!(said, "  {id:?}: {line}");
    }
}

fn believe(space: &Space, state: State, said: &mut String) {
    for place in 0..space.world().replicas() {
        let who = space.replica(state, place);
        let (raft, disk) = (who.raft(), who.disk());
        let id = raft.id();
        if who.is_gone() {
            _ = writeln!(said, "    {id:?}: gone");
            continue;
        }
        let leader = raft.leader().map_or("-".to_owned(), |leader| format!("{leader:?}"));
        let log: Vec<_> = (2..=raft.last_index()).filter_map(|index| who.entry(index)).collect();
        let on_disk: Vec<_> = (2..=disk.last()).filter_map(|index| disk.entry(index)).collect();
        let durable = disk.hard_state();
        let vote = durable.vote.map_or("-".to_owned(), |vote| format!("{vote:?}"));
        _ = write!(
            said,
            "    {id:?}: {:?} term {} leader {leader} commit {} applied {} log {} members {{{}}}; disk: term {} vote {vote} ",
            raft.life(),
            raft.term(),
            raft.commit(),
            raft.applied(),
            text::entries(&log),
            text::membership(raft.membership()),
            durable.term,
        );
        _ = writeln!(said, "{}", text::entries(on_disk));
    }
}
