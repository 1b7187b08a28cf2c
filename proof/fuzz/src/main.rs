// SPDX-License-Identifier: Apache-2.0

//! `mraft-fuzz`: looks for inputs that break a decoder. `cargo xtask fuzz` compiles it with the instrumentation that it needs.
//!
//! Each target is searched by a process of its own, so that an input that kills or hangs the process is a finding like any other: the
//! child writes down what it is about to execute, and the parent looks there when the child is gone.

#![deny(unsafe_code)]

mod child;
mod coverage;
mod mutate;
mod options;
mod parent;
mod pool;
mod random;
mod report;
mod search;
mod selftest;

use std::process::ExitCode;

use mraft_fuzz::memory::Counting;

use options::{Options, Task};

#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprint!("{why}\n\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match &options.task {
        Task::Help => {
            print!("{}", options::USAGE);
            ExitCode::SUCCESS
        }
        Task::List => report::list(),
        Task::Replay { file } => child::replay(&options, file),
        Task::Search => parent::run(&options),
        Task::Work { current } => child::work(&options, current),
    }
}
