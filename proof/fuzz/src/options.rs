// SPDX-License-Identifier: Apache-2.0

//! The command line.

use std::path::PathBuf;

use mraft_fuzz::target::Target;
use mraft_fuzz::targets::TARGETS;

pub const USAGE: &str = "\
usage: cargo xtask fuzz [OPTIONS]

  --runs N            executions of a cheap target (100000); a dear one makes a part of it, see --list
  --target NAME       only this target; may be said several times
  --seed S            of the search's decisions (1)
  --until-quiet       goes on until the last half of a target's executions reached no new branch
  --most N            but for at most N executions (10 times --runs)
  --fresh             begins with what the product's encoders make, without the inputs that are kept
  --keep              writes the inputs that reach something to proof/fuzz/corpus
  --table FILE        writes the figures into the table that FILE has between its marks; rows of other targets stay
  --places FILE       writes each instrumented place of the program and whether it was reached, for addr2line
  --list              what there is
  --replay FILE       executes one file on one target, and prints the panic
";

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    pub task: Task,
    pub targets: Vec<&'static Target>,
    pub runs: u64,
    pub seed: u64,
    pub until_quiet: bool,
    pub most: Option<u64>,
    pub fresh: bool,
    pub keep: bool,
    pub table: Option<PathBuf>,
    pub places: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub enum Task {
    Help,
    List,
    Search,
    /// One file on one target.
    Replay {
        file: PathBuf,
    },
    /// One target in this process; what is about to be executed goes to this file.
    Work {
        current: PathBuf,
    },
}

impl Options {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            task: Task::Search,
            targets: Vec::new(),
            runs: 100_000,
            seed: 1,
            until_quiet: false,
            most: None,
            fresh: false,
            keep: false,
            table: None,
            places: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--runs" => options.runs = number(&word, &value()?)?,
                "--seed" => options.seed = number(&word, &value()?)?,
                "--most" => options.most = Some(number(&word, &value()?)?),
                "--until-quiet" => options.until_quiet = true,
                "--fresh" => options.fresh = true,
                "--keep" => options.keep = true,
                "--table" => options.table = Some(value()?.into()),
                "--places" => options.places = Some(value()?.into()),
                "--target" => options.targets.push(target(&value()?)?),
                "--list" => options.task = Task::List,
                "--replay" => options.task = Task::Replay { file: value()?.into() },
                "--work" => options.task = Task::Work { current: value()?.into() },
                "--help" | "-h" | "help" => options.task = Task::Help,
                other => return Err(format!("unknown argument {other}")),
            }
        }
        if options.runs == 0 {
            return Err("--runs 0 would show nothing".to_owned());
        }
        if matches!(options.task, Task::Replay { .. } | Task::Work { .. }) && options.targets.len() != 1 {
            return Err("--replay needs one --target".to_owned());
        }
        if options.targets.is_empty() {
            options.targets = TARGETS.iter().collect();
        }
        Ok(options)
    }

    /// Executions of a target.
    pub fn executions(&self, target: &Target) -> u64 {
        (self.runs / target.cost).max(1)
    }

    /// Executions of a target beyond which it does not wait to become quiet.
    pub fn executions_max(&self, target: &Target) -> u64 {
        self.most.unwrap_or(self.runs.saturating_mul(10)) / target.cost
    }
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value.replace('_', "").parse().map_err(|_| format!("{name} needs a number, not {value}"))
}

fn target(name: &str) -> Result<&'static Target, String> {
    TARGETS.iter().find(|target| target.name == name).ok_or_else(|| {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        format!("unknown target {name}; known are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(words.iter().map(|word| (*word).to_owned()))
    }

    #[test]
    fn a_run_that_would_show_nothing_is_refused() {
        assert!(parse(&["--runs", "0"]).is_err());
        assert!(parse(&["--target", "nobody"]).is_err_and(|why| why.contains("packets")));
        assert!(parse(&["--replay", "x"]).is_err());
        assert!(parse(&["--runs"]).is_err());
    }

    #[test]
    fn a_dear_target_makes_its_part() {
        let options = parse(&["--runs", "1_000", "--until-quiet"]).expect("an option");
        let target = |cost| Target { cost, ..TARGETS[0] };
        assert_eq!((options.executions(&target(1)), options.executions(&target(100))), (1000, 10));
        assert_eq!((options.executions(&target(5000)), options.executions_max(&target(10))), (1, 1000));
    }
}
