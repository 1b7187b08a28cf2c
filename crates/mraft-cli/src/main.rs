// SPDX-License-Identifier: Apache-2.0

//! The mraft binary.

mod bench;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Many Raft groups in one process, and a sharded key-value service on top.
#[derive(Parser)]
#[command(name = "mraft", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A three-node cluster on this machine (not built yet).
    Dev,
    /// Figures beside what the same run measured of the machine.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Three hosts in one process over loopback TCP, fsync on.
    Host {
        /// Groups.
        #[arg(long, default_value_t = 48)]
        groups: u64,
        /// Operations under way per group.
        #[arg(long, default_value_t = 1000)]
        outstanding: usize,
        /// Bytes of each value.
        #[arg(long, default_value_t = 16)]
        value_bytes: usize,
        /// What to do.
        #[arg(long, value_enum, default_value_t = Op::Write)]
        op: Op,
        /// What entries are applied to.
        #[arg(long, value_enum, default_value_t = bench::host::StateMachineKind::Memory)]
        state_machine: bench::host::StateMachineKind,
        /// For how long.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Threads of clients.
        #[arg(long, default_value_t = 1)]
        client_threads: usize,
        /// Where the hosts' data goes; removed afterwards.
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
        /// First port; the hosts are 10 apart.
        #[arg(long, default_value_t = 24890)]
        base_port: u16,
    },
    /// What the disk and the loopback of this machine do.
    Disk {
        /// Where to write.
        #[arg(long)]
        dir: Option<std::path::PathBuf>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Op {
    /// Proposals.
    Write,
    /// Linearizable reads.
    Read,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Dev => {
            eprintln!(
                "mraft dev is not built yet; see the README's status. Try: cargo run -p mraft --example embedded"
            );
            ExitCode::from(2)
        }
        Command::Bench(Bench::Disk { dir }) => {
            let (directory, is_own) = scratch(dir);
            let measured = bench::machine::measure(&directory).map_err(|error| error.to_string());
            finish(&directory, is_own, measured)
        }
        Command::Bench(Bench::Host {
            groups,
            outstanding,
            value_bytes,
            op,
            state_machine,
            seconds,
            client_threads,
            dir,
            base_port,
        }) => {
            let (directory, is_own) = scratch(dir);
            let options = bench::host::HostOptions {
                groups,
                outstanding,
                value_bytes,
                reads: matches!(op, Op::Read),
                state_machine,
                seconds,
                client_threads,
                directory: directory.clone(),
                base_port,
            };
            let report = bench::host::run(&options).map_err(|error| error.to_string());
            finish(&directory, is_own, report)
        }
    }
}

/// The directory to use, and whether it is this process's own to remove.
fn scratch(given: Option<std::path::PathBuf>) -> (std::path::PathBuf, bool) {
    match given {
        Some(directory) => (directory, false),
        None => (std::env::temp_dir().join(format!("mraft-bench-{}", std::process::id())), true),
    }
}

fn finish(
    directory: &std::path::Path,
    is_own: bool,
    report: Result<impl serde::Serialize, String>,
) -> ExitCode {
    if is_own && let Err(error) = std::fs::remove_dir_all(directory) {
        eprintln!("{} is left behind: {error}", directory.display());
    }
    match report.and_then(|report| serde_json::to_string_pretty(&report).map_err(|error| error.to_string())) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
