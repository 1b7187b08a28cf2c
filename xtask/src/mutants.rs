// SPDX-License-Identifier: Apache-2.0

//! `cargo xtask mutants`: changes the code of a crate in one small place at a time and asks whether anything notices.
//!
//! cargo-mutants makes the changes and runs the crate's own tests against each; what they do not notice is simulated. Everything happens in
//! a clone of the last commit below `target/mutants`, so that the sources that somebody works on are never wrong.
//!
//! Which mutants are drawn depends on the seed and on what they change, not on the line where it stands: a test or a comment that is added
//! does not draw others.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const USAGE: &str = "\
usage: cargo xtask mutants [OPTIONS]

  --crate NAME     raft, engine or logstore; all three without it
  --sample N       how many mutants are drawn from each crate (45); some more when too few of them build
  --seed S         which are drawn (1)
  --table FILE     writes the figures into the table that FILE has between its marks; rows of other crates and seeds stay.
                   A survivor that FILE does not name is a failure.
  --list           prints what is drawn, and does nothing

Needs cargo-mutants (cargo install cargo-mutants --locked). Fails when fewer than 90 % of a crate's mutants are killed.
";

/// The crates that are asked about.
const CRATES: [&str; 3] = ["raft", "engine", "logstore"];
/// What is drawn of each, and how many of them must build for the figures to count.
const SAMPLE: usize = 45;
const JUDGED_MIN: usize = 40;
/// How many of a hundred must be killed.
const KILLED_PERCENT_MIN: usize = 90;
/// How many seeds a survivor of the tests is simulated with.
const SIMULATED_SEEDS: &str = "50";
/// How much longer than without a mutant its tests or seeds may take before they count as hanging; they share the machine with others.
const PATIENCE: u32 = 5;
const PATIENCE_MIN: Duration = Duration::from_secs(60);
/// Their tests run longer than a build that optimises a little.
const OPTIMISED: [&str; 2] = ["mraft-logstore", "mraft-raft"];

struct Options {
    crates: Vec<String>,
    sample: usize,
    seed: u64,
    table: Option<String>,
    is_list: bool,
}

/// What became of the mutants of one crate that were drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    /// Mutants in all.
    all: usize,
    seed: u64,
    drawn: usize,
    unviable: usize,
    by_tests: usize,
    by_sim: usize,
    /// Their names, without places.
    survivors: Vec<String>,
}

/// A clone of the last commit, and where it is built.
struct Tree {
    sources: PathBuf,
    build: PathBuf,
    output: PathBuf,
    /// How long the seeds take without a mutant, their build included, once this was asked.
    healthy: Option<Duration>,
    /// Held while anything is changed there.
    _lock: fs::File,
}

/// Judges a sample of each crate that was asked for.
pub(crate) fn run(root: &Path, arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|argument| argument == "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let judged = Options::read(arguments).and_then(|options| judge(root, &options));
    match judged {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn judge(root: &Path, options: &Options) -> Result<bool, String> {
    let is_there = Command::new("cargo").args(["mutants", "--version"]).output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        return Err("cargo-mutants is not installed: cargo install cargo-mutants --locked".to_owned());
    }
    let mut tree = Tree::new(root)?;
    let mut is_good = true;
    for name in &options.crates {
        let outcome = tree.judge(name, options)?;
        if options.is_list {
            continue;
        }
        println!("{COLUMNS}\n{}", outcome.row(name));
        let has_killed = outcome.has_killed_enough();
        if !has_killed {
            println!(
                "{name}: fewer than {KILLED_PERCENT_MIN} % of at least {JUDGED_MIN} mutants were killed"
            );
        }
        is_good &= has_killed;
        let Some(page) = &options.table else { continue };
        let path = root.join(page);
        let text = fs::read_to_string(&path).map_err(|error| format!("{page}: {error}"))?;
        for survivor in outcome.survivors.iter().filter(|survivor| !text.contains(survivor.as_str())) {
            println!("{page} does not say why this survives: {survivor}");
            is_good = false;
        }
        let text = with_row(&text, name, &outcome).ok_or(format!("{page} has no table of figures"))?;
        fs::write(&path, text).map_err(|error| format!("{page}: {error}"))?;
    }
    Ok(is_good)
}

impl Options {
    fn read(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            crates: CRATES.map(str::to_owned).to_vec(),
            sample: SAMPLE,
            seed: 1,
            table: None,
            is_list: false,
        };
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            if flag == "--list" {
                options.is_list = true;
                continue;
            }
            let value = arguments.next().ok_or(format!("{flag} needs a value\n\n{USAGE}"))?;
            let number = || value.parse::<u64>().map_err(|_| format!("{flag} needs a number, not {value}"));
            match flag.as_str() {
                "--crate" if CRATES.contains(&value.as_str()) => options.crates = vec![value.clone()],
                "--crate" => {
                    return Err(format!("no sample is taken of {value}, but of {}", CRATES.join(", ")));
                }
                "--sample" => {
                    options.sample = usize::try_from(number()?).unwrap_or(usize::MAX).max(JUDGED_MIN)
                }
                "--seed" => options.seed = number()?,
                "--table" => options.table = Some(value.clone()),
                _ => return Err(format!("unknown option {flag}\n\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

impl Tree {
    fn new(root: &Path) -> Result<Tree, String> {
        let place = root.join("target/mutants");
        let lock = place.join("lock");
        let lock = fs::create_dir_all(place.join("output"))
            .and_then(|()| fs::File::create(&lock))
            .map_err(|error| format!("{}: {error}", lock.display()))?;
        lock.try_lock().map_err(|error| format!("{} is used by another run: {error}", place.display()))?;
        let tree = Tree {
            sources: place.join("tree"),
            build: place.join("build"),
            output: place.join("output"),
            healthy: None,
            _lock: lock,
        };
        if !tree.sources.join(".git").exists() {
            let mut clone = Command::new("git");
            ended(clone.args(["clone", "--quiet", "--shared"]).arg(root).arg(&tree.sources), "git clone")?;
        }
        let mut fetch = tree.command("git");
        ended(fetch.args(["fetch", "--quiet"]).arg(root).arg("HEAD"), "git fetch")?;
        ended(
            tree.command("git").args(["checkout", "--quiet", "--force", "--detach", "FETCH_HEAD"]),
            "git checkout",
        )?;
        Ok(tree)
    }

    /// A command in the clone. Nobody debugs what it builds.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(&self.sources)
            .env("CARGO_TARGET_DIR", &self.build)
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        command
    }

    /// Draws and judges: the crate's tests first, then the simulator.
    fn judge(&mut self, name: &str, options: &Options) -> Result<Outcome, String> {
        let package = format!("mraft-{name}");
        let listed = said(self.mutants(&package).arg("--list"))?;
        let names = drawn(listed.lines().map(str::to_owned).collect(), options.seed);
        let mut outcome = Outcome { all: names.len(), seed: options.seed, ..Outcome::default() };
        if options.is_list {
            names.iter().take(options.sample).for_each(|name| println!("{name}"));
            return Ok(outcome);
        }
        let mut names = names.into_iter();
        let mut missed = Vec::new();
        let mut wanted = options.sample;
        while wanted > 0 {
            let batch: Vec<String> = names.by_ref().take(wanted).collect();
            if batch.is_empty() {
                break;
            }
            let of_batch = self.test(&package, &batch)?;
            outcome.drawn += batch.len();
            outcome.unviable += of_batch["unviable"].len();
            outcome.by_tests += of_batch["caught"].len() + of_batch["timeout"].len();
            missed.extend(of_batch["missed"].clone());
            wanted = JUDGED_MIN.saturating_sub(outcome.judged() + missed.len());
        }
        for mutant in missed {
            println!("{name}: the tests do not notice: {mutant}");
            match self.simulate_mutant(&package, &mutant)? {
                Some(why) => {
                    println!("{name}: {SIMULATED_SEEDS} seeds do: {why}");
                    outcome.by_sim += 1;
                }
                None => {
                    println!("{name}: SURVIVES: {mutant}");
                    outcome.survivors.push(without_place(&mutant));
                }
            }
        }
        Ok(outcome)
    }

    /// Lets cargo-mutants run the crate's tests, without a mutant and with each of these; their names by what became of them.
    fn test(&self, package: &str, mutants: &[String]) -> Result<BTreeMap<&'static str, Vec<String>>, String> {
        let mut command = self.mutants(package);
        command.args(["--in-place", "--colors", "never", "--cargo-arg=--locked"]);
        command.arg("--timeout-multiplier").arg(PATIENCE.to_string());
        command.arg("--minimum-test-timeout").arg(PATIENCE_MIN.as_secs().to_string());
        command.arg("--output").arg(&self.output);
        if OPTIMISED.contains(&package) {
            command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        }
        mutants.iter().for_each(|mutant| _ = command.arg("--re").arg(exactly(mutant)));
        let status = command.status().map_err(|error| format!("cargo does not start: {error}"))?;
        // 2 and 3 tell of mutants that are missed or hang, which the files tell as well.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            return Err(format!("cargo mutants: {status}; what it did is in {}", self.output.display()));
        }
        let found = ["caught", "timeout", "missed", "unviable"].map(|kind| {
            let path = self.output.join("mutants.out").join(format!("{kind}.txt"));
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            // cargo-mutants 27.1 picks by name, and tests every mutant that deletes a field whatever it is called.
            let asked_for = text.lines().filter(|line| mutants.iter().any(|mutant| mutant == line));
            Ok((kind, asked_for.map(str::to_owned).collect::<Vec<_>>()))
        });
        let found = found.into_iter().collect::<Result<BTreeMap<_, _>, String>>()?;
        let judged: usize = found.values().map(Vec::len).sum();
        match judged == mutants.len() {
            true => Ok(found),
            false => Err(format!("{judged} of {} mutants were judged", mutants.len())),
        }
    }

    /// Simulates with a mutant; what noticed it.
    fn simulate_mutant(&mut self, package: &str, mutant: &str) -> Result<Option<String>, String> {
        if self.healthy.is_none() {
            let began = Instant::now();
            if let Some(why) = self.simulate(Duration::MAX)? {
                return Err(format!("the seeds fail without a mutant: {why}"));
            }
            self.healthy = Some(began.elapsed());
        }
        let patience = self.healthy.unwrap_or_default() * PATIENCE + PATIENCE_MIN;
        let diff = said(self.mutants(package).args(["--list", "--diff", "--re", &exactly(mutant)]))?;
        let diff = applicable(&diff, mutant).ok_or(format!("cargo mutants shows no change of {mutant}"))?;
        let mut git = self.command("git");
        let mut git = git
            .args(["apply", "-p0"])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("git does not start: {error}"))?;
        // If git does not read to the end it fails, which is looked at next.
        git.stdin.take().map(|mut stdin| stdin.write_all(diff.as_bytes()));
        if !git.wait().is_ok_and(|status| status.success()) {
            return Err(format!("the change does not apply: {mutant}\n{diff}"));
        }
        let noticed = self.simulate(patience);
        ended(self.command("git").args(["checkout", "--quiet", "--force", "HEAD"]), "git checkout")?;
        noticed
    }

    /// Builds the simulator and runs the seeds; why they are not all well.
    fn simulate(&self, patience: Duration) -> Result<Option<String>, String> {
        let mut build = self.command("cargo");
        build.args(["build", "--quiet", "--locked", "--profile", "sim", "--package", "mraft-sim"]);
        ended(&mut build, "the simulator's build")?;
        let path = self.output.join("seeds.txt");
        let file =
            |path: &Path| fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()));
        let mut child = self
            .command(&self.build.join("sim/mraft-sim").to_string_lossy())
            .args(["--seeds", SIMULATED_SEEDS, "--from", "0"])
            .stdout(file(&path)?)
            .stderr(file(&self.output.join("seeds-errors.txt"))?)
            .spawn()
            .map_err(|error| format!("the simulator does not start: {error}"))?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                break status;
            }
            if began.elapsed() > patience {
                child.kill().and_then(|()| child.wait()).map_err(|error| error.to_string())?;
                return Ok(Some("they do not end".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        if status.success() {
            return Ok(None);
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        Ok(Some(verdict(&text).map_or(status.to_string(), str::to_owned)))
    }

    fn mutants(&self, package: &str) -> Command {
        let mut command = self.command("cargo");
        command.args(["mutants", "--no-config", "--package", package]);
        command
    }
}

/// How the simulator says that something is wrong.
const VERDICTS: [&str; 3] = [" broke a promise: ", " did not do the same twice: ", "TOO LITTLE: "];

/// The first line of what the simulator printed that says what is wrong.
fn verdict(said: &str) -> Option<&str> {
    said.lines().find(|line| VERDICTS.iter().any(|verdict| line.contains(verdict)))
}

const MARKS: (&str, &str) = ("<!-- figures: written by --table -->", "<!-- end of figures -->");
const COLUMNS: &str = "\
| crate | mutants in all | seed | drawn | do not build | judged | killed by its tests | killed by 50 seeds | survive | killed |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|";

impl Outcome {
    /// Those that build and whose fate is known.
    fn judged(&self) -> usize {
        self.by_tests + self.by_sim + self.survivors.len()
    }

    fn killed_percent(&self) -> usize {
        (self.by_tests + self.by_sim) * 100 / self.judged().max(1)
    }

    fn has_killed_enough(&self) -> bool {
        self.judged() >= JUDGED_MIN && self.killed_percent() >= KILLED_PERCENT_MIN
    }

    /// The line of the table.
    fn row(&self, name: &str) -> String {
        let Outcome { all, seed, drawn, unviable, by_tests, by_sim, survivors } = self;
        format!(
            "| `{name}` | {all} | {seed} | {drawn} | {unviable} | {} | {by_tests} | {by_sim} | {} | {} % |",
            self.judged(),
            survivors.len(),
            self.killed_percent()
        )
    }
}

/// The document with the row of a crate and seed in its table, sorted; `None` if it has no table.
fn with_row(text: &str, name: &str, outcome: &Outcome) -> Option<String> {
    let (before, rest) = text.split_once(MARKS.0)?;
    let (table, after) = rest.split_once(MARKS.1)?;
    let key = |row: &str| {
        let mut cells = row.split('|').map(|cell| cell.trim().to_owned());
        let name = cells.nth(1)?;
        let at = CRATES.iter().position(|of| name == format!("`{of}`"))?;
        Some((at, cells.nth(1)?.parse::<u64>().ok()?))
    };
    let own = outcome.row(name);
    let rows = table.lines().chain(std::iter::once(own.as_str()));
    // The own row is the last one, and takes the place of a former one.
    let rows: BTreeMap<(usize, u64), &str> = rows.filter_map(|row| Some((key(row)?, row))).collect();
    let rows: String = rows.values().map(|row| format!("{row}\n")).collect();
    Some(format!("{before}{}\n{COLUMNS}\n{rows}{}{after}", MARKS.0, MARKS.1))
}

/// All mutants in an order that looks random and that the seed decides.
fn drawn(mut names: Vec<String>, seed: u64) -> Vec<String> {
    let mut times: BTreeMap<String, u64> = BTreeMap::new();
    names.sort_by_cached_key(|name| {
        let name = without_place(name);
        let nth = times.entry(name.clone()).or_default();
        *nth += 1;
        let bytes = name.bytes().chain(seed.to_le_bytes()).chain(nth.to_le_bytes());
        // FNV-1a, and a finish that lets the last bytes reach all bits.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (hash >> 29)
    });
    names
}

/// What a mutant is called without the line and column where it stands: `crates/raft/src/x.rs: replace …`.
fn without_place(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(what)) => format!("{file}:{what}"),
        _ => name.to_owned(),
    }
}

/// A regular expression that fits this name and no other.
fn exactly(name: &str) -> String {
    let escaped: String = name
        .chars()
        .flat_map(|letter| {
            let is_special = letter.is_ascii_punctuation() && !"<>".contains(letter);
            is_special.then_some('\\').into_iter().chain([letter])
        })
        .collect();
    format!("^{escaped}$")
}

/// A mutant's change as git takes it: cargo-mutants puts the mutant's name where the name of the changed file belongs, and shows others too.
fn applicable(listed: &str, mutant: &str) -> Option<String> {
    let mut lines = listed.lines().skip_while(|line| *line != mutant).skip(1);
    let file = lines.next()?.strip_prefix("--- ")?;
    lines.next()?;
    let lines: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    Some(format!("--- {file}\n+++ {file}\n{}\n", lines.join("\n")))
}

/// Runs a command to its end; an error if that is not a good one.
fn ended(command: &mut Command, what: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {status}")),
        Err(error) => Err(format!("{what} does not start: {error}")),
    }
}

/// What a command prints; an error if it does not end well.
fn said(command: &mut Command) -> Result<String, String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo does not start: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("cargo mutants: {}", output.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "crates/raft/src/raft.rs:470:42: replace > with >= in <impl A for B>::check[0]";

    #[test]
    fn a_seed_draws_the_same_mutants_wherever_they_stand_and_another_one_others() {
        let names = |line: usize| {
            (0..200)
                .map(|at| format!("a.rs:{}:5: replace f{} with ()", line + at, at / 2))
                .collect::<Vec<_>>()
        };
        let first = |line, seed| {
            drawn(names(line), seed).iter().take(40).map(|name| without_place(name)).collect::<Vec<_>>()
        };
        assert_eq!(first(10, 1), first(77, 1));
        assert_ne!(first(10, 1), first(10, 2));
        let mut all = drawn(names(10), 1);
        assert_ne!(all, names(10));
        all.sort();
        let mut expected = names(10);
        expected.sort();
        assert_eq!(all, expected);
    }

    #[test]
    fn names_are_taken_literally_and_known_without_their_places() {
        assert_eq!(
            without_place(NAME),
            "crates/raft/src/raft.rs: replace > with >= in <impl A for B>::check[0]"
        );
        assert_eq!(
            exactly("a.rs:1:2: replace || with <b>[x]"),
            "^a\\.rs\\:1\\:2\\: replace \\|\\| with <b>\\[x\\]$"
        );
    }

    #[test]
    fn a_change_names_its_file_twice() {
        let listed = ["another", NAME, "one more"].map(|name| {
            format!("{name}\n--- a.rs\n+++ {name}, in short\n@@ -1,2 +1,2 @@\n \n-{name}\n+changed\n\n\n")
        });
        let expected = format!("--- a.rs\n+++ a.rs\n@@ -1,2 +1,2 @@\n \n-{NAME}\n+changed\n");
        assert_eq!(applicable(&listed.concat(), NAME), Some(expected));
        assert_eq!(applicable(&listed.concat(), "nothing"), None);
    }

    #[test]
    fn the_simulator_says_what_is_wrong_as_it_is_looked_for() {
        let simulator = include_str!("../../proof/sim/cli/runner.rs");
        assert!(VERDICTS.iter().all(|verdict| simulator.contains(verdict)));
        let said = "50 seeds\nseed 7 broke a promise: one of them\n1 of them broke a promise";
        assert_eq!(verdict(said), Some("seed 7 broke a promise: one of them"));
        assert_eq!(verdict("50 seeds from 0 in 3.0 s, 0 of them broke a promise"), None);
    }

    #[test]
    fn a_tenth_may_survive_of_forty_and_no_more() {
        let outcome = |by_tests, survivors| Outcome {
            by_tests,
            by_sim: 6,
            survivors: vec![String::new(); survivors],
            ..Outcome::default()
        };
        assert!(outcome(30, 4).has_killed_enough());
        assert!(!outcome(30, 5).has_killed_enough(), "five of 41");
        assert!(!outcome(33, 0).has_killed_enough(), "too few were judged");
    }

    #[test]
    fn a_row_replaces_that_of_its_crate_and_seed() {
        let row =
            |seed, by_tests| Outcome { seed, by_tests, survivors: vec![String::new()], ..Outcome::default() };
        assert_eq!(with_row("no table", "raft", &row(1, 9)), None);
        let text = format!("before\n{}\n{}\nafter\n", MARKS.0, MARKS.1);
        let text = [("logstore", 2, 9), ("raft", 1, 9), ("logstore", 1, 9), ("logstore", 2, 19)]
            .into_iter()
            .fold(text, |text, (name, seed, by_tests)| {
                with_row(&text, name, &row(seed, by_tests)).expect("a table")
            });
        let rows = [row(1, 9).row("raft"), row(1, 9).row("logstore"), row(2, 19).row("logstore")].join("\n");
        assert_eq!(rows.lines().last(), Some("| `logstore` | 0 | 2 | 0 | 0 | 20 | 19 | 0 | 1 | 95 % |"));
        assert_eq!(text, format!("before\n{}\n{COLUMNS}\n{rows}\n{}\nafter\n", MARKS.0, MARKS.1));
    }
}
