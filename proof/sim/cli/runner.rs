// SPDX-License-Identifier: Apache-2.0

//! Many seeds, on several threads: progress, the first failure with the command that repeats it, and its transcript.
//!
//! Each seed is one run on one thread; which thread runs which seed changes nothing, so neither does their number.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use mraft_sim::summary::Summary;
use mraft_sim::{Mix, Report, Transcript, Width, run, run_with};

/// Every so many seeds one is run twice.
const TWICE_EVERY: u64 = 20;
/// Threads at most: more than that are a mistake.
const JOBS_MAX: usize = 256;

/// Seeds of a run that does not say how many.
const SEEDS: u64 = 100;

/// What `--help` says.
pub const HELP: &str = "\
Runs the simulator: a whole cluster in one thread, under virtual time, from a seed.

  --seeds N        how many seeds (100)
  --from S         the first one (0)
  --wide           up to 7 nodes and 64 groups instead of the small clusters of the default mix
  --jobs J         threads (all cores)
  --keep-going     goes on after a failure
  --planted [NAME] shows that each planted bug (or the named one) is found; only in a build that has them (cargo xtask sim makes one)
  --known          with --planted: each bug on the seed that is known to find it (proof/sim/planted.txt), and on 20 from --from on
  --searches K     looks for each planted bug from so many places in the seeds (1), through at most --seeds of them each (2000)
  --transcript     writes down what happened in each failing seed, below target/sim (default when it stops at the first)
  --help           this

A failure prints the seed, the promise that broke, and the command that repeats it.";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    seeds: Option<u64>,
    from: u64,
    width: Width,
    jobs: usize,
    keep_going: bool,
    /// Planted bugs are looked for: all, or the named one.
    planted: Option<Option<String>>,
    is_known: bool,
    searches: u64,
}

impl Options {
    /// Reads the command line; `None` when help is wanted.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let jobs = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        let mut options = Options {
            seeds: None,
            from: 0,
            width: Width::Default,
            jobs,
            keep_going: false,
            planted: None,
            is_known: false,
            searches: 1,
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().ok_or(format!("{argument} needs a number"))?;
                value.parse::<u64>().map_err(|_| format!("{argument} needs a number, not {value}"))
            };
            match argument.as_str() {
                "--seeds" => options.seeds = Some(number()?),
                "--from" => options.from = number()?,
                "--jobs" => options.jobs = number()? as usize,
                "--wide" => options.width = Width::Wide,
                "--known" => options.is_known = true,
                "--searches" => options.searches = number()?,
                "--keep-going" => options.keep_going = true,
                "--planted" => options.planted = Some(arguments.next_if(|next| !next.starts_with("--"))),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        if options.seeds == Some(0) {
            return Err("--seeds 0 would show nothing".to_owned());
        }
        if options.jobs == 0 || options.jobs > JOBS_MAX {
            return Err(format!("--jobs must be 1 to {JOBS_MAX}"));
        }
        Ok(Some(options))
    }
}

/// What a seed came to.
struct Ran {
    report: Report,
    /// It did something else the second time.
    differs: bool,
}

/// Runs the seeds.
pub fn run_seeds(
    seeds: u64,
    from: u64,
    width: Width,
    jobs: usize,
    mut tell: impl FnMut(&Report, bool) -> bool,
) -> Vec<Report> {
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let end = from.saturating_add(seeds);
    let (told, heard) = channel::<Ran>();
    let mut reports = BTreeMap::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let told = told.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let mix = Mix::draw(seed, width);
                    let report = run(seed, &mix);
                    let twice = (seed - from).is_multiple_of(TWICE_EVERY);
                    let differs = twice && run(seed, &mix) != report;
                    if told.send(Ran { report, differs }).is_err() {
                        break;
                    }
                }
            });
        }
        drop(told);
        for ran in heard {
            if !tell(&ran.report, ran.differs) {
                stop.store(true, Ordering::Relaxed);
            }
            reports.insert(ran.report.seed, ran.report);
        }
    });
    reports.into_values().collect()
}

/// What the command line asks for.
pub fn obey(options: &Options) -> ExitCode {
    if let Some(name) = &options.planted {
        return find_planted(name.as_deref(), options);
    }
    let Options { from, width, jobs, keep_going, .. } = *options;
    let seeds = options.seeds.unwrap_or(SEEDS);
    let began = Instant::now();
    let mut progress = Progress::new(seeds);
    let mut failures = 0u64;
    let reports = run_seeds(seeds, from, width, jobs, |report, differs| {
        progress.step();
        if differs {
            println!(
                "seed {} did not do the same twice: something in it is not decided by the seed",
                report.seed
            );
        }
        if let Some(broken) = &report.broken {
            println!("seed {} broke a promise: {broken}", report.seed);
        }
        if !differs && report.broken.is_none() {
            return true;
        }
        failures += 1;
        println!("again: {}", Again { seed: report.seed, width });
        match write_transcript(report.seed, width) {
            Ok(path) => println!("what happened: {}", path.display()),
            Err(error) => println!("what happened could not be written down: {error}"),
        }
        keep_going
    });
    let took = began.elapsed().as_secs_f64();
    let summary = Summary::of(&reports);
    println!("{} seeds from {from} in {took:.1} s, {failures} of them broke a promise", reports.len());
    println!("{summary}");
    let shortfalls = if failures == 0 && width == Width::Default { summary.shortfalls() } else { Vec::new() };
    for shortfall in &shortfalls {
        println!("TOO LITTLE: {shortfall}");
    }
    if failures == 0 && shortfalls.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "planted"))]
fn find_planted(_: Option<&str>, _: &Options) -> ExitCode {
    eprintln!(
        "this build has no planted bugs in it: use `cargo xtask sim --planted`, or build with --features planted"
    );
    ExitCode::from(2)
}

#[cfg(feature = "planted")]
fn find_planted(name: Option<&str>, options: &Options) -> ExitCode {
    use mraft_types::planted::Bug;

    use crate::planted::{SEEDS_MAX, is_clean, median, search};

    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| name.is_none_or(|name| bug.name() == name)).collect();
    if options.is_known {
        return find_known(&bugs, options);
    }
    if bugs.is_empty() {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        eprintln!("no such bug; known are {}", names.join(", "));
        return ExitCode::from(2);
    }
    let mut is_ok = true;
    for bug in bugs {
        let seeds_max = options.seeds.unwrap_or(SEEDS_MAX);
        let found = search(bug, options.searches, seeds_max, options.jobs as u64);
        let Some(seeds) = median(&found) else {
            println!("{:26} NOT FOUND", bug.name());
            is_ok = false;
            continue;
        };
        let mut promises: Vec<&str> = found.iter().flatten().map(|found| found.promise).collect();
        promises.sort_unstable();
        promises.dedup();
        let first = found.iter().flatten().map(|found| found.seed).min().unwrap_or(0);
        println!("{:26} {seeds:5} seeds  seed {first:8}  {}", bug.name(), promises.join("; "));
        for found in found.iter().flatten().filter(|found| !is_clean(found.seed)) {
            println!(
                "{:26} IS NOT THE CAUSE: seed {} breaks a promise without it too",
                bug.name(),
                found.seed
            );
            is_ok = false;
        }
    }
    if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Each bug that is known to be found, on its seed and on a few others.
#[cfg(feature = "planted")]
fn find_known(bugs: &[mraft_types::planted::Bug], options: &Options) -> ExitCode {
    use crate::planted::{FRESH_SEEDS, find, is_clean, known_seeds};

    let mut missed = 0;
    let known = known_seeds();
    for bug in bugs {
        let Some(seed) = known.get(bug.name()) else { continue };
        let jobs = options.jobs as u64;
        let found = find(*bug, *seed, 1, 1).or_else(|| find(*bug, options.from, FRESH_SEEDS, jobs));
        match found {
            Some(found) if is_clean(found.seed) => {
                println!("{:26} seed {:8}  {}", bug.name(), found.seed, found.promise);
            }
            Some(found) => {
                println!(
                    "{:26} IS NOT THE CAUSE: seed {} breaks a promise without it too",
                    bug.name(),
                    found.seed
                );
                missed += 1;
            }
            None => {
                println!(
                    "{:26} NOT FOUND on seed {seed} and {FRESH_SEEDS} from {}",
                    bug.name(),
                    options.from
                );
                missed += 1;
            }
        }
    }
    println!("{} planted bugs, {missed} of them missed", known.len());
    if missed == 0 && !known.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The command that repeats a seed.
struct Again {
    seed: u64,
    width: Width,
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cargo xtask sim --seeds 1 --from {}", self.seed)?;
        if self.width == Width::Wide { f.write_str(" --wide") } else { Ok(()) }
    }
}

/// Runs a seed once more and writes down what happens in it.
fn write_transcript(seed: u64, width: Width) -> std::io::Result<PathBuf> {
    let mix = Mix::draw(seed, width);
    let (report, transcript) = run_with(seed, &mix, Some(Transcript::default()));
    let directory = PathBuf::from("target/sim");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("seed-{seed}.txt"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    writeln!(file, "seed {seed}\n{mix:#?}\n")?;
    if let Some(transcript) = transcript {
        write!(file, "{transcript}")?;
    }
    if let Some(broken) = report.broken {
        writeln!(file, "\nbroken: {broken}")?;
    }
    file.flush()?;
    Ok(path)
}

/// How far it is.
struct Progress {
    done: u64,
    seeds: u64,
    began: Instant,
}

impl Progress {
    fn new(seeds: u64) -> Progress {
        Progress { done: 0, seeds, began: Instant::now() }
    }

    fn step(&mut self) {
        self.done += 1;
        let every = if std::io::stdout().is_terminal() { 20 } else { 500 };
        if self.done.is_multiple_of(every) {
            let per_second = self.done as f64 / self.began.elapsed().as_secs_f64().max(0.001);
            println!("{} of {} seeds, {per_second:.1} a second", self.done, self.seeds);
        }
    }
}
