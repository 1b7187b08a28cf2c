// SPDX-License-Identifier: Apache-2.0

//! One target in this process.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use mraft_fuzz::corpus;
use mraft_fuzz::target::Target;

use crate::coverage::Instrumented;
use crate::options::Options;
use crate::pool::{CLASSES, Pool};
use crate::report::Row;
use crate::search::{Finding, Length, Outcome, Search, quiet_panics};

/// As much stack as the smallest thread of a node has: what recursion needs more than that would end the process there, too.
const STACK_BYTES: usize = 2 << 20;

/// What a child writes before each execution: the number, the length of the input, the input.
pub const CURRENT_HEAD_BYTES: usize = 16;

/// Executes one file, and lets the panic be printed.
pub fn replay(options: &Options, file: &Path) -> ExitCode {
    let input = match fs::read(file) {
        Ok(input) => input,
        Err(error) => {
            eprintln!("{}: {error}", file.display());
            return ExitCode::from(2);
        }
    };
    let target = options.targets[0];
    let done = on_small_stack(move || {
        let said = (target.run)(&input);
        println!("{}: {said:?}, and nothing broke", target.name);
        ExitCode::SUCCESS
    });
    done.unwrap_or(ExitCode::FAILURE)
}

/// Searches one target and tells the parent.
pub fn work(options: &Options, current: &Path) -> ExitCode {
    let target = options.targets[0];
    let (options, current) = (options.clone(), current.to_owned());
    let done = on_small_stack(move || match search(&options, target, &current) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            println!("{}: {why}", target.name);
            ExitCode::from(2)
        }
    });
    done.unwrap_or(ExitCode::from(2))
}

fn on_small_stack(work: impl FnOnce() -> ExitCode + Send + 'static) -> Option<ExitCode> {
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(work).ok()?.join().ok()
}

/// The number of findings.
fn search(options: &Options, target: &'static Target, current: &Path) -> Result<usize, String> {
    let coverage = Instrumented::new().ok_or("compiled without the instrumentation")?;
    quiet_panics();
    let inputs = inputs(options, target)?;
    // What is done once in a process is done before anything is counted.
    for input in &inputs {
        let _ = crate::search::execute(target, input);
    }
    let file = File::options().create(true).write(true).truncate(true).open(current);
    let file = file.map_err(|error| format!("{}: {error}", current.display()))?;
    let mut buffer = Vec::new();
    let mut witness = |number: u64, input: &[u8]| {
        buffer.clear();
        buffer.extend_from_slice(&number.to_le_bytes());
        buffer.extend_from_slice(&(input.len() as u64).to_le_bytes());
        buffer.extend_from_slice(input);
        // Without it a death would be told without its input, which is no reason to stop.
        let _ = file.write_all_at(&buffer, 0);
    };
    let began = Instant::now();
    let mut search = Search::new(target, coverage, options.seed, &mut witness);
    search.begin_with(inputs);
    let length = Length {
        executions: options.executions(target),
        until_quiet: options.until_quiet.then(|| options.executions_max(target)),
    };
    let mut until = length.executions;
    while !search.run_some(length, until) {
        // A run of hours may be ended.
        if options.keep {
            keep(target, &kept(search.pool()))?;
        }
        let Outcome { executions, counters, last_counter_at, .. } = search.outcome();
        println!(
            "{}: {counters} counters after {executions} executions, the last one at {last_counter_at}",
            target.name
        );
        until += until / 2;
    }
    let (outcome, pool, seen) = search.finish();
    for finding in &outcome.findings {
        report_finding(target, finding)?;
    }
    let kept = kept(&pool);
    let row = Row {
        target: target.name.to_owned(),
        executions: outcome.executions,
        inputs: kept.len(),
        input_bytes: kept.iter().map(|input| input.len()).sum(),
        counters: outcome.counters,
        features: outcome.features,
        last_counter_at: outcome.last_counter_at,
        last_feature_at: outcome.last_feature_at,
        findings: outcome.findings.len(),
        milliseconds: began.elapsed().as_millis() as u64,
    };
    if options.keep {
        keep(target, &kept)?;
    }
    if let Some(path) = &options.places {
        write_places(path, &seen)?;
    }
    println!("{}", row.line());
    Ok(outcome.findings.len())
}

fn inputs(options: &Options, target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let mut inputs = (target.seeds)();
    if !options.fresh {
        inputs.extend(corpus::load(corpus::directory(), target.name)?);
    }
    Ok(inputs)
}

/// Inputs that reach every counter together, and every class of counts of those that are reached seldom enough to matter.
fn kept(pool: &Pool) -> Vec<&[u8]> {
    pool.cover(|feature| feature / CLASSES).into_iter().map(|entry| &entry.input[..]).collect()
}

fn keep(target: &Target, inputs: &[&[u8]]) -> Result<(), String> {
    let path = corpus::kept_path(corpus::directory(), target.name);
    let mut text = format!(
        "# {}\n# Written by `cargo xtask fuzz --keep`: inputs that reach all that is known.\n",
        target.about
    );
    for input in inputs {
        text.push_str(&corpus::line_of(input));
        text.push('\n');
    }
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes the input to a file and says how to see it break again.
pub fn report_finding(target: &Target, finding: &Finding) -> Result<(), String> {
    let path = save(target, &finding.input)?;
    println!(
        "FOUND in {}, execution {}: {} ({})",
        target.name, finding.execution, finding.said, finding.place
    );
    println!("  input: {} bytes, {}", finding.input.len(), path.display());
    println!("  line:  {}", corpus::line_of(&finding.input));
    println!("  again: cargo xtask fuzz --target {} --replay {}", target.name, path.display());
    let _ = std::io::stdout().flush();
    Ok(())
}

/// Writes what was found beside the build.
fn save(target: &Target, input: &[u8]) -> Result<PathBuf, String> {
    let directory = directory()?;
    let path = directory.join(format!("{}-{:08x}", target.name, crc32c::crc32c(input)));
    fs::write(&path, input).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Where the program puts what is not to be kept: `fuzz` beside the profile's directory.
pub fn directory() -> Result<PathBuf, String> {
    let program =
        std::env::current_exe().map_err(|error| format!("the program does not know itself: {error}"))?;
    let target = program.ancestors().nth(2).unwrap_or(Path::new("."));
    let directory = target.join("fuzz");
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    Ok(directory)
}

fn write_places(path: &Path, seen: &[u8]) -> Result<(), String> {
    let places = Instrumented::new().map(|coverage| coverage.places()).unwrap_or_default();
    let base = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let base = base.split('-').next().and_then(|digits| usize::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let lines: String = places
        .iter()
        .zip(seen)
        .map(|(place, classes)| {
            format!("{} {:#x}\n", if *classes > 0 { "reached" } else { "missed" }, place.wrapping_sub(base))
        })
        .collect();
    fs::write(path, lines).map_err(|error| format!("{}: {error}", path.display()))
}
