// SPDX-License-Identifier: Apache-2.0

//! `mraft bench`: which measurement, in which directory, and its figures as text.

use std::path::{Path, PathBuf};

use mraft_api::ClientConfig;
use serde::Serialize;
use serde_json::Value;

use super::printed;
use crate::bench::host::HostOptions;
use crate::bench::kv::KvBenchOptions;
use crate::bench::{host, kv, machine, reopen};
use crate::cli::{
    BenchCommand, BenchDiskArgs, BenchHostArgs, BenchKvArgs, BenchReopenArgs, Operation, StateMachine,
};
use crate::exit::{CommandError, Exit};
use crate::output::{Format, complain, fields, print};

pub(super) fn run(command: BenchCommand) -> Result<Exit, CommandError> {
    match command {
        BenchCommand::Host(args) => measure_host(&args),
        BenchCommand::Disk(args) => measure_disk(&args),
        BenchCommand::Kv(args) => measure_kv(&args),
        BenchCommand::Reopen(args) => measure_reopen(&args),
    }
}

fn measure_host(args: &BenchHostArgs) -> Result<Exit, CommandError> {
    let scratch = Scratch::new(args.dir.as_deref());
    let options = HostOptions {
        groups: args.groups,
        outstanding: usize::try_from(args.outstanding).unwrap_or(usize::MAX),
        value_bytes: usize::try_from(args.value_bytes).unwrap_or(usize::MAX),
        reads: args.op == Operation::Read,
        state_machine: args.state_machine,
        seconds: args.seconds,
        warmup_seconds: args.warmup_seconds,
        client_threads: usize::try_from(args.client_threads).unwrap_or(usize::MAX),
        directory: scratch.directory.clone(),
        base_port: args.base_port,
    };
    let report = host::run(&options).map_err(|error| CommandError::failed(error.to_string()))?;
    print_report(args.output.format, &report)
}

fn measure_kv(args: &BenchKvArgs) -> Result<Exit, CommandError> {
    let scratch = Scratch::new(None);
    let options = KvBenchOptions {
        client: ClientConfig {
            endpoints: args.client.urls.clone(),
            ca_file: args.client.ca_file.clone(),
            timeout: args.client.timeout,
        },
        connections: args.connections,
        value_bytes: usize::try_from(args.value_bytes).unwrap_or(usize::MAX),
        keys: args.keys,
        reads: args.op == Operation::Read,
        seconds: args.seconds,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| CommandError::failed(format!("the benchmark cannot start: {error}")))?;
    let report = runtime.block_on(kv::run(&options, &scratch.directory)).map_err(CommandError::failed)?;
    print_report(args.client.output.format, &report)
}

fn measure_reopen(args: &BenchReopenArgs) -> Result<Exit, CommandError> {
    let scratch = Scratch::new(args.dir.as_deref());
    let options = HostOptions {
        groups: args.groups,
        outstanding: 1,
        value_bytes: 16,
        reads: false,
        state_machine: StateMachine::Memory,
        seconds: 0,
        warmup_seconds: 0,
        client_threads: 1,
        directory: scratch.directory.clone(),
        base_port: args.base_port,
    };
    let failed = |error: mraft::HostError| CommandError::failed(error.to_string());
    match args.measure_only {
        true => print_report(args.output.format, &reopen::open(&options).map_err(failed)?),
        false => print_report(args.output.format, &reopen::run(&options, args.entries).map_err(failed)?),
    }
}

fn measure_disk(args: &BenchDiskArgs) -> Result<Exit, CommandError> {
    let scratch = Scratch::new(args.dir.as_deref());
    let report =
        machine::measure(&scratch.directory).map_err(|error| CommandError::failed(error.to_string()))?;
    print_report(args.output.format, &report)
}

/// The directory to use; one of our own is removed at the end.
struct Scratch {
    directory: PathBuf,
    is_own: bool,
}

impl Scratch {
    fn new(given: Option<&Path>) -> Scratch {
        match given {
            Some(directory) => Scratch { directory: directory.to_owned(), is_own: false },
            None => {
                let name = format!("mraft-bench-{}", std::process::id());
                Scratch { directory: std::env::temp_dir().join(name), is_own: true }
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_own
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            complain(&format!("{} is left behind: {error}", self.directory.display()));
        }
    }
}

fn print_report(format: Format, report: &impl Serialize) -> Result<Exit, CommandError> {
    printed(print(format, report, || {
        let mut lines = Vec::new();
        if let Ok(document) = serde_json::to_value(report) {
            flatten("", &document, &mut lines);
        }
        let pairs: Vec<(&str, String)> =
            lines.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        fields(&pairs)
    }))
}

/// The figures of a report, nested ones under `outer.inner`.
fn flatten(prefix: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&path, member, lines);
            }
        }
        Value::Number(number) => {
            let text = match number.as_f64() {
                Some(float) if number.is_f64() => format!("{float:.2}"),
                _ => number.to_string(),
            };
            lines.push((prefix.to_owned(), text));
        }
        Value::String(text) => lines.push((prefix.to_owned(), text.clone())),
        other => lines.push((prefix.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_figures_are_named_by_their_path() {
        let mut lines = Vec::new();
        flatten("", &json!({ "ops": 7, "machine": { "fsync_us": 1.239 } }), &mut lines);
        let expected = [("machine.fsync_us", "1.24"), ("ops", "7")];
        assert_eq!(lines, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
