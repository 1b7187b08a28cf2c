// SPDX-License-Identifier: Apache-2.0

//! The command line of the simulator; `--help` says what there is.

#![forbid(unsafe_code)]

mod changes;
mod panics;
#[cfg(feature = "planted")]
mod planted;
mod runner;
#[cfg(feature = "planted")]
mod sightings;

use std::process::ExitCode;

use runner::Options;

/// A seed allocates for a tenth of its time; the product's allocator takes less of it, and is run on the way.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => runner::obey(&options),
        Ok(None) => {
            println!("{}", runner::HELP);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}; --help says what there is");
            ExitCode::from(2)
        }
    }
}
