// SPDX-License-Identifier: Apache-2.0

//! The mraft binary.

#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use clap::Parser;
use mraft_cli::cli::Cli;
use mraft_cli::commands;
use mraft_cli::output::{Format, complain};

/// Its own threads give back what was freed, 10 s later, also when nobody allocates any more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = commands::format(&cli);
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            match format {
                Format::Table => complain(&format!("mraft: {error}")),
                Format::Json => complain(&error.to_json().to_string()),
            }
            error.exit.into()
        }
    }
}
