// SPDX-License-Identifier: Apache-2.0

//! The command line of the simulator; `--help` says what there is.

use std::process::ExitCode;

use mraft_sim::runner::{self, Options};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => runner::obey(&options),
        Ok(None) => {
            println!("{}", runner::HELP);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}\n\n{}", runner::HELP);
            ExitCode::from(2)
        }
    }
}
