// SPDX-License-Identifier: Apache-2.0

//! The long run as a command: `mraft-faults --minutes 60`, or `--rounds N`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use mraft_faults::endurance::{self, Bound};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0);
    let bound = match words[..] {
        ["--minutes", minutes] => {
            number(minutes).map(|minutes| Bound::Time(Duration::from_secs(60 * minutes)))
        }
        ["--rounds", rounds] => number(rounds).map(Bound::Rounds),
        _ => None,
    };
    let Some(bound) = bound else {
        eprintln!("usage: mraft-faults --minutes N | --rounds N, N at least 1; not {:?}", words.join(" "));
        return ExitCode::from(2);
    };
    match endurance::run(bound) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
