// SPDX-License-Identifier: Apache-2.0

//! Many seeds, on several threads: progress, the first failure with the command that repeats it, and its transcript.
//!
//! Each seed is one run on one thread; which thread runs which seed changes nothing, so neither does their number.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use mraft_sim::summary::Summary;
use mraft_sim::{Mix, Report, Transcript, Width, marks};

use crate::changes::{Changes, minimise};
use crate::panics::run_reported;

/// Every so many seeds one is run twice.
const TWICE_EVERY: usize = 40;
/// Threads at most: more than that are a mistake.
const JOBS_MAX: usize = 256;

/// Seeds of one run at most: each is remembered until the end.
const SEEDS_MAX: u64 = 10_000_000;
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
  --transcript     writes down what happens in every seed, not only in those that fail, below target/sim
  --regressions    and the seeds that once broke a promise (proof/sim/seeds.txt)
  --all-marks      fails when something that the product can say or meet was never seen; the names are printed
  --marks          prints how often each was seen
  --minimise       with --seeds 1: takes away whatever the seed does not need to break the same promise, and says what is left; with
                   --planted NAME: with that bug
  --without F,G    these kinds of faults do not happen (they are listed in the figures at the end)
  --clients N      at most so many clients
  --groups N       at most so many groups
  --safety-ms N    at most so many milliseconds of virtual time until everything heals
  --good-network   nothing is lost, doubled, damaged or late between faults
  --planted [NAME] shows that each planted bug (or the named one) is found; only in a build that has them (cargo xtask sim makes one)
  --known          with --planted: each bug on the seed that is known to find it (proof/sim/planted.txt) and on 20 from --from on; fails
                   when neither finds it, or nothing is known to
  --searches K     looks for each planted bug from so many places in the seeds (1), through at most --seeds of them each (2000)
  --brief A,B      with --planted: these bugs something else finds, they are looked for through 200 seeds only
  --help           this

A failure prints the seed, the promise that broke, and the command that repeats it; its transcript is below target/sim.";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many seeds, if the command line says it.
    pub seeds: Option<u64>,
    from: u64,
    width: Width,
    /// Threads.
    pub jobs: usize,
    keep_going: bool,
    transcripts: bool,
    regressions: bool,
    all_marks: bool,
    prints_marks: bool,
    minimise: bool,
    changes: Changes,
    /// Planted bugs are looked for: all, or the named one.
    planted: Option<Option<String>>,
    is_known: bool,
    /// From so many places in the seeds each of them is looked for.
    pub searches: u64,
    /// Those that something else finds.
    pub brief: Vec<String>,
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
            transcripts: false,
            regressions: false,
            all_marks: false,
            prints_marks: false,
            minimise: false,
            changes: Changes::default(),
            planted: None,
            is_known: false,
            searches: 1,
            brief: Vec::new(),
        };
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let mut value = |what: &str| arguments.next().ok_or(format!("{argument} needs {what}"));
            let mut number = || {
                let value = value("a number")?;
                value.parse::<u64>().map_err(|_| format!("{argument} needs a number, not {value}"))
            };
            match argument.as_str() {
                "--seeds" => options.seeds = Some(number()?),
                "--from" => options.from = number()?,
                "--jobs" => options.jobs = number()? as usize,
                "--wide" => options.width = Width::Wide,
                "--known" => options.is_known = true,
                "--searches" => options.searches = number()?,
                "--brief" => options.brief = value("names of bugs")?.split(',').map(str::to_owned).collect(),
                "--keep-going" => options.keep_going = true,
                "--transcript" => options.transcripts = true,
                "--regressions" => options.regressions = true,
                "--all-marks" => options.all_marks = true,
                "--marks" => options.prints_marks = true,
                "--minimise" => options.minimise = true,
                "--without" => options.changes.leave_out(&value("kinds of faults")?)?,
                "--clients" => options.changes.clients_max = Some(number()?),
                "--groups" => options.changes.groups_max = Some(number()?),
                "--safety-ms" => options.changes.safety_ms_max = Some(number()?),
                "--good-network" => options.changes.good_network = true,
                "--planted" => options.planted = Some(arguments.next_if(|next| !next.starts_with("--"))),
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {argument}")),
            }
        }
        if options.searches == 0 {
            return Err("--searches 0 would find nothing".to_owned());
        }
        if options.seeds == Some(0) {
            return Err("--seeds 0 would show nothing".to_owned());
        }
        if options.jobs == 0 || options.jobs > JOBS_MAX {
            return Err(format!("--jobs must be 1 to {JOBS_MAX}"));
        }
        if options.minimise && options.seeds != Some(1) {
            return Err("--minimise needs one seed: --seeds 1 --from S".to_owned());
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
    seeds: &[u64],
    mix: &(impl Fn(u64) -> Mix + Sync),
    jobs: usize,
    mut tell: impl FnMut(&Report, bool) -> bool,
) -> Vec<Report> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (told, heard) = channel::<Ran>();
    let mut reports = BTreeMap::new();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let told = told.clone();
            let (next, stop) = (&next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = seeds.get(at).copied() else { break };
                    let mix = mix(seed);
                    let report = run_reported(seed, &mix, None);
                    let twice = at.is_multiple_of(TWICE_EVERY);
                    let differs = twice && run_reported(seed, &mix, None) != report;
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
    let changes = &options.changes;
    if options.minimise {
        return find_least(from, width, changes);
    }
    let mut seeds: Vec<u64> =
        (from..from.saturating_add(options.seeds.unwrap_or(SEEDS).min(SEEDS_MAX))).collect();
    if options.regressions {
        seeds.extend(regressions(width));
    }
    let began = Instant::now();
    let mut progress = Progress::new(seeds.len() as u64);
    let mut failures = 0u64;
    let mix = |seed| changes.mix(seed, width);
    let reports = run_seeds(&seeds, &mix, jobs, |report, differs| {
        progress.step();
        if differs {
            say(format_args!(
                "seed {} did not do the same twice: something in it is not decided by the seed",
                report.seed
            ));
        }
        if let Some(broken) = &report.broken {
            say(format_args!("seed {} broke a promise: {broken}", report.seed));
        }
        let is_well = !differs && report.broken.is_none();
        if !is_well {
            failures += 1;
            say(Again { seed: report.seed, width, changes });
        }
        if !is_well || options.transcripts {
            match write_transcript(report.seed, &mix(report.seed)) {
                Ok(path) => say(format_args!("what happened: {}", path.display())),
                Err(error) => say(format_args!("what happened could not be written down: {error}")),
            }
        }
        is_well || keep_going
    });
    let took = began.elapsed().as_secs_f64();
    let summary = Summary::of(&reports);
    say(format_args!(
        "{} seeds from {from} in {took:.1} s, {failures} of them broke a promise",
        reports.len()
    ));
    say(&summary);
    let is_judged = failures == 0 && width == Width::Default && *changes == Changes::default();
    let mut shortfalls = if is_judged { summary.shortfalls() } else { Vec::new() };
    let seen = summary.marks();
    if options.prints_marks {
        seen.iter().for_each(|(mark, times)| say(format_args!("{mark:40} {times:9}")));
    }
    let missing = marks::missing(seen);
    say(format_args!("{} things seen, {} not", seen.len(), missing.len()));
    if options.all_marks {
        shortfalls.extend(missing.into_iter().map(|mark| format!("{mark} was never seen")));
    }
    for shortfall in &shortfalls {
        say(format_args!("TOO LITTLE: {shortfall}"));
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

    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| name.is_none_or(|name| bug.name() == name)).collect();
    if bugs.is_empty() {
        let names: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        eprintln!("no such bug; known are {}", names.join(", "));
        return ExitCode::from(2);
    }
    if options.is_known {
        return crate::sightings::find_known(&bugs, options.from, options.jobs as u64);
    }
    if options.minimise && bugs.len() != 1 {
        eprintln!("--minimise needs one planted bug: --planted NAME");
        return ExitCode::from(2);
    }
    if let (true, [bug]) = (options.minimise, &bugs[..]) {
        mraft_types::planted::plant(Some(*bug));
        return find_least(options.from, options.width, &options.changes);
    }
    crate::sightings::find_all(&bugs, options)
}

/// The seeds that once broke a promise, of the default mix or of the wide one.
fn regressions(width: Width) -> impl Iterator<Item = u64> {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| {
        let mut words = line.split(' ');
        let seed = words.next()?.parse().ok()?;
        let is_wide = words.next() == Some("wide");
        (is_wide == (width == Width::Wide)).then_some(seed)
    })
}

/// The command that repeats a seed.
struct Again<'a> {
    seed: u64,
    width: Width,
    changes: &'a Changes,
}

impl fmt::Display for Again<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "again: cargo xtask sim --seeds 1 --from {}", self.seed)?;
        if self.width == Width::Wide {
            f.write_str(" --wide")?;
        }
        write!(f, "{}", self.changes)
    }
}

/// A line of output. Whoever reads no further has heard enough: that is no failure.
pub fn say(line: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Makes a failing seed as small as it gets.
fn find_least(seed: u64, width: Width, changes: &Changes) -> ExitCode {
    let tell = |least: &Changes| say(format_args!("still breaks with{least}"));
    let broken = |mix: &Mix| run_reported(seed, mix, None).broken.map(|broken| broken.promise);
    let Some(least) = minimise(seed, width, changes, broken, tell) else {
        say(format_args!("seed {seed} breaks no promise{changes}"));
        return ExitCode::FAILURE;
    };
    let mix = least.mix(seed, width);
    if let Some(broken) = run_reported(seed, &mix, None).broken {
        say(format_args!("seed {seed} broke a promise: {broken}"));
    }
    say(Again { seed, width, changes: &least });
    match write_transcript(seed, &mix) {
        Ok(path) => say(format_args!("what happened: {}", path.display())),
        Err(error) => say(format_args!("what happened could not be written down: {error}")),
    }
    ExitCode::SUCCESS
}

/// Runs a seed once more and writes down what happens in it.
fn write_transcript(seed: u64, mix: &Mix) -> std::io::Result<PathBuf> {
    let transcript = Transcript::default();
    let report = run_reported(seed, mix, Some(transcript.clone()));
    let directory = PathBuf::from("target/sim");
    std::fs::create_dir_all(&directory)?;
    let path = directory.join(format!("seed-{seed}.txt"));
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path)?);
    writeln!(file, "seed {seed}\n{mix:#?}\n")?;
    write!(file, "{transcript}")?;
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
            say(format_args!("{} of {} seeds, {per_second:.1} a second", self.done, self.seeds));
        }
    }
}
