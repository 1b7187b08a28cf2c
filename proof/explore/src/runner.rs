// SPDX-License-Identifier: Apache-2.0

//! The command line: worlds on several threads, progress, and tables of what came out. Which thread explores which world changes nothing.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::search::{Report, explore};
use crate::world::World;
use crate::worlds::{self, WORLDS};

/// Threads at most: more than that are a mistake.
const JOBS_MAX: usize = 256;

/// What `--help` says.
pub const HELP: &str = "\
Explores small worlds of one group: the shipped consensus core, every state within bounds.

  --world NAME     only this world (may be given several times)
  --states-max N   at most so many states of each world; without it all of them
  --jobs J         worlds explored at the same time (1)
  --list           the worlds, and their bounds
  --planted [NAME] shows that each planted bug (or the named one) is found; only in a build that has them (cargo xtask explore makes one)
  --script         with --planted: prints the shortest way to each
  --help           this

Results are lines of a Markdown table. A broken promise prints the shortest way to it, as a script.";

/// What the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    worlds: Vec<String>,
    states_max: usize,
    jobs: usize,
    lists: bool,
    /// Planted bugs are looked for: all, or the named one.
    planted: Option<Option<String>>,
    shows_scripts: bool,
}

impl Options {
    /// Reads the command line; `None` when help is wanted.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options {
            worlds: Vec::new(),
            states_max: usize::MAX,
            jobs: 1,
            lists: false,
            planted: None,
            shows_scripts: false,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let number = |value: String| {
                value.parse::<usize>().map_err(|_| format!("{argument} needs a number, not {value}"))
            };
            match argument.as_str() {
                "--world" => options.worlds.push(value()?),
                "--states-max" => options.states_max = number(value()?)?,
                "--jobs" => options.jobs = number(value()?)?,
                "--list" => options.lists = true,
                "--planted" => options.planted = Some(arguments.next_if(|next| !next.starts_with("--"))),
                "--script" => options.shows_scripts = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        if options.states_max == 0 {
            return Err("--states-max 0 would show nothing".to_owned());
        }
        if options.jobs == 0 || options.jobs > JOBS_MAX {
            return Err(format!("--jobs must be 1 to {JOBS_MAX}"));
        }
        if let Some(unknown) = options.worlds.iter().find(|name| worlds::named(name).is_none()) {
            let known: Vec<&str> = WORLDS.iter().map(|world| world.name).collect();
            return Err(format!("no world {unknown}; known are {}", known.join(", ")));
        }
        Ok(Some(options))
    }
}

/// What the command line asks for.
pub fn obey(options: &Options) -> ExitCode {
    if options.lists {
        WORLDS.iter().for_each(|world| println!("{world}"));
        return ExitCode::SUCCESS;
    }
    if let Some(name) = &options.planted {
        return find_planted(name.as_deref(), options);
    }
    let is_wanted =
        |world: &&World| options.worlds.is_empty() || options.worlds.iter().any(|name| name == world.name);
    let wanted: Vec<&World> = WORLDS.iter().filter(is_wanted).collect();
    println!(
        "| world | states | they stand for | transitions | depth | seen in calm | all within bounds | s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---|---:|");
    let reports = in_parallel(&wanted, options.jobs, |world| {
        let began = Instant::now();
        let report = explore(world, options.states_max, |states, depth| {
            eprintln!("{}: {states} states, depth {depth}, {} s", world.name, began.elapsed().as_secs());
        });
        let Report { states, stand_for, transitions, depth, calms, .. } = report;
        let all = if report.is_exhausted { "yes" } else { "no" };
        println!(
            "| {} | {states} | {stand_for} | {transitions} | {depth} | {calms} | {all} | {:.1} |",
            world.name,
            began.elapsed().as_secs_f64()
        );
        report
    });
    let sum = |part: fn(&Report) -> u64| reports.iter().map(part).sum::<u64>();
    println!(
        "| all | {} | {} | {} | | {} | {} of {} | |",
        sum(|report| report.states as u64),
        sum(|report| report.stand_for),
        sum(|report| report.transitions),
        sum(|report| report.calms as u64),
        sum(|report| u64::from(report.is_exhausted)),
        reports.len(),
    );
    let mut is_ok = true;
    for report in &reports {
        if let Some(found) = &report.found {
            is_ok = false;
            println!(
                "\n{}BROKEN in {} after {} steps: {}",
                found.script, report.world, found.depth, found.broken
            );
            println!("again: cargo xtask explore --world {}", report.world);
        }
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Does something with each, `jobs` at a time; answers in their order.
fn in_parallel<T: Sync, R: Send>(items: &[T], jobs: usize, act: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let result = act(item);
                    done.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((at, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(not(feature = "planted"))]
fn find_planted(_: Option<&str>, _: &Options) -> ExitCode {
    eprintln!(
        "this build has no planted bugs in it: use `cargo xtask explore --planted`, or build with --features planted"
    );
    ExitCode::from(2)
}

#[cfg(feature = "planted")]
fn find_planted(name: Option<&str>, options: &Options) -> ExitCode {
    use mraft_types::planted::Bug;

    use crate::planted::{Where, find, is_clean_without, place_of};

    let is_wanted = |bug: &&Bug| match name {
        Some(name) => bug.name() == name,
        None => place_of(**bug) != Where::Elsewhere,
    };
    let bugs: Vec<Bug> = Bug::ALL.iter().filter(is_wanted).copied().collect();
    if bugs.is_empty() {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        eprintln!("no such bug; known are {}", names.join(", "));
        return ExitCode::from(2);
    }
    println!("| bug | world | states | steps | found by |");
    println!("|---|---|---:|---:|---|");
    let verdicts = in_parallel(&bugs, options.jobs, |bug| {
        let name = match place_of(*bug) {
            Where::In(world) => world,
            Where::Nowhere(reason) => {
                println!("| {} | | | | not here: {reason} |", bug.name());
                return true;
            }
            Where::Elsewhere => {
                println!("| {} | | | | not in the consensus core |", bug.name());
                return true;
            }
        };
        let wanted = options.worlds.first().map_or(name, String::as_str);
        let Some(sighting) = worlds::named(wanted).and_then(|world| find(*bug, world)) else {
            println!("| {} | {wanted} | NOT FOUND | | |", bug.name());
            return false;
        };
        println!(
            "| {} | {} | {} | {} | {} |",
            bug.name(),
            sighting.world,
            sighting.states,
            sighting.depth,
            sighting.broken.promise.name()
        );
        if options.shows_scripts {
            println!("\n{}", sighting.script);
        }
        let is_cause = is_clean_without(&sighting);
        if !is_cause {
            println!("{} IS NOT THE CAUSE: {} breaks a promise without it too", bug.name(), sighting.world);
        }
        is_cause
    });
    if verdicts.into_iter().all(|is_ok| is_ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn a_command_line_is_read() {
        let options = parse("--world pair --states-max 5 --jobs 2 --planted --script").expect("legible");
        let expected = Options {
            worlds: vec!["pair".to_owned()],
            states_max: 5,
            jobs: 2,
            lists: false,
            planted: Some(None),
            shows_scripts: true,
        };
        assert_eq!(options, Some(expected));
        assert_eq!(parse("--help"), Ok(None));
        for wrong in
            ["--world nowhere", "--states-max", "--states-max x", "--states-max 0", "--jobs 0", "--x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let questions: Vec<u64> = (0..100).collect();
        let squares = in_parallel(&questions, 3, |question| question * question);
        assert!(squares.into_iter().eq((0..100).map(|question| question * question)));
    }
}
