// SPDX-License-Identifier: Apache-2.0

//! All targets, one after the other, each in a process of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use mraft_fuzz::target::Target;

use crate::child::{CURRENT_HEAD_BYTES, directory, report_finding};
use crate::options::Options;
use crate::report::{Row, head, with_row};
use crate::search::{Finding, quiet_panics};
use crate::selftest;

/// An execution that takes longer does not come back: decoders take microseconds.
const EXECUTION_TIME_MAX: Duration = Duration::from_secs(120);

/// Searches all targets that are asked for.
pub fn run(options: &Options) -> ExitCode {
    quiet_panics();
    match selftest::run() {
        Ok(said) => println!("self-test: {said}"),
        Err(why) => {
            println!("the search itself is broken: {why}");
            return ExitCode::FAILURE;
        }
    }
    println!("seed {}", options.seed);
    println!("{}", head());
    let (mut findings, mut executions, mut growing, mut table) = (0, 0, Vec::new(), Ok(()));
    for target in &options.targets {
        match one(options, target) {
            Ok(row) => {
                println!("{}", row.shown());
                if let Some(path) = &options.table {
                    // After each target: a run of hours may be ended.
                    table = table.and(write_row(path, &row));
                }
                findings += row.findings;
                executions += row.executions;
                if !row.is_quiet() {
                    growing.push(row.target);
                }
            }
            Err(why) => {
                println!("{}: {why}", target.name);
                findings += 1;
            }
        }
    }
    println!("{executions} executions of {} targets, {findings} findings", options.targets.len());
    if let Err(why) = table {
        println!("the table was not written: {why}");
        return ExitCode::FAILURE;
    }
    if options.until_quiet && !growing.is_empty() {
        println!("not quiet yet: {}", growing.join(", "));
        return ExitCode::FAILURE;
    }
    if findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Puts a row into the table of this file.
fn write_row(path: &Path, row: &Row) -> Result<(), String> {
    let error = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(path).map_err(error)?;
    let text = with_row(&text, row).ok_or_else(|| format!("{} has no marks", path.display()))?;
    fs::write(path, text).map_err(error)
}

/// The row of a target, or why there is none.
fn one(options: &Options, target: &'static Target) -> Result<Row, String> {
    let current = directory()?.join(format!("{}.current", target.name));
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.arg("--work").arg(&current).args(["--target", target.name]);
    command.args(["--runs", &options.runs.to_string(), "--seed", &options.seed.to_string()]);
    if let Some(most) = options.most {
        command.args(["--most", &most.to_string()]);
    }
    if let Some(places) = &options.places {
        command.arg("--places").arg(places);
    }
    for (is_set, flag) in
        [(options.until_quiet, "--until-quiet"), (options.fresh, "--fresh"), (options.keep, "--keep")]
    {
        if is_set {
            command.arg(flag);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("does not start: {error}"))?;
    let lines = lines_of(&mut child);
    let mut row = None;
    let ended = watch(&mut child, &lines, &current, &mut row)?;
    match (ended, row) {
        (Ended::By(status), Some(row)) if status.code().is_some_and(|code| code <= 1) => Ok(row),
        (Ended::By(status), _) if status.code().is_some() => Err(format!("the search failed: {status}")),
        (Ended::By(status), _) => died(target, &current, &format!("the process ended with {status}")),
        (Ended::Killed(input), _) => {
            let said = format!("an execution took more than {} s", EXECUTION_TIME_MAX.as_secs());
            told(target, input, &said)
        }
    }
}

enum Ended {
    By(ExitStatus),
    /// It hung at this input.
    Killed(Option<(u64, Vec<u8>)>),
}

/// Passes on what the child says until it is gone, or until one execution takes for ever.
fn watch(
    child: &mut Child,
    lines: &Receiver<String>,
    current: &Path,
    row: &mut Option<Row>,
) -> Result<Ended, String> {
    let (mut at, mut since) = (None, Instant::now());
    loop {
        match lines.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => match Row::parse(&line) {
                Some(told) => *row = Some(told),
                None => println!("{line}"),
            },
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return child.wait().map(Ended::By).map_err(|error| error.to_string());
            }
        }
        let now = read_current(current);
        let number = now.as_ref().map(|(number, _)| *number);
        if number != at {
            (at, since) = (number, Instant::now());
        } else if number.is_some() && since.elapsed() > EXECUTION_TIME_MAX && row.is_none() {
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Ended::Killed(now));
        }
    }
}

fn lines_of(child: &mut Child) -> Receiver<String> {
    let (tell, told) = channel();
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
    }
    told
}

fn died(target: &'static Target, current: &Path, said: &str) -> Result<Row, String> {
    told(target, read_current(current), said)
}

fn told(target: &'static Target, current: Option<(u64, Vec<u8>)>, said: &str) -> Result<Row, String> {
    let Some((execution, input)) = current else { return Err(format!("{said}, and no input is known")) };
    let (said, place) = (said.to_owned(), "the whole process".to_owned());
    report_finding(target, &Finding { input, said: said.clone(), place, execution })?;
    Err(said)
}

/// What the child executed last: the number and the input.
fn read_current(current: &Path) -> Option<(u64, Vec<u8>)> {
    let bytes = fs::read(current).ok()?;
    let (head, rest) = bytes.split_first_chunk::<CURRENT_HEAD_BYTES>()?;
    let (number, len) = head.split_first_chunk::<8>()?;
    let len = usize::try_from(u64::from_le_bytes(len.try_into().ok()?)).ok()?;
    Some((u64::from_le_bytes(*number), rest.get(..len)?.to_vec()))
}
