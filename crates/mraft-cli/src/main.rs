// SPDX-License-Identifier: Apache-2.0

//! The mraft binary.

use std::process::ExitCode;

use clap::Parser;
use mraft_cli::cli::Cli;
use mraft_cli::commands;
use mraft_cli::output::Format;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = commands::format(&cli);
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            match format {
                Format::Table => eprintln!("mraft: {error}"),
                Format::Json => eprintln!("{}", error.to_json()),
            }
            error.exit.into()
        }
    }
}
