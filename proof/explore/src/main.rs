// SPDX-License-Identifier: Apache-2.0

//! `mraft-explore`: explores small worlds, or shows that planted bugs are found in them. See `--help`.

use std::process::ExitCode;

use mraft_explore::runner::{HELP, Options, obey};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => obey(&options),
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(wrong) => {
            eprintln!("{wrong}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}
