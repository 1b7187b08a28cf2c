// SPDX-License-Identifier: Apache-2.0

//! Before anything is believed of the decoders: the search finds what is broken on purpose, sees the counters of our crates, and does the
//! same twice.

use mraft_fuzz::target::Target;
use mraft_fuzz::targets::TARGETS;
use mraft_fuzz::toys::TOYS;

use crate::coverage::{Coverage, Instrumented};
use crate::search::{Length, Outcome, Search};

/// A toy must be found within so many executions.
const TOY_EXECUTIONS_MAX: u64 = 2_000_000;
/// Executions of the real target that is searched twice.
const TWICE_EXECUTIONS: u64 = 20_000;

/// One line about what was shown, or what was not.
pub fn run() -> Result<String, String> {
    if !mraft_fuzz::memory::is_counting() {
        return Err("the allocator does not count".to_owned());
    }
    let counters = instrumented()?.counters();
    let mut found = Vec::new();
    for toy in TOYS {
        let outcome = search(toy, TOY_EXECUTIONS_MAX, true)?;
        let first = outcome.findings.first();
        let first = first.ok_or_else(|| {
            format!("{} is broken, and {} executions did not find it", toy.name, outcome.executions)
        })?;
        found.push(format!("{} at execution {}", toy.name, first.execution));
    }
    let target = &TARGETS[0];
    // The first run does what is done once in a process.
    search(target, 1000, false)?;
    let (once, twice) = (search(target, TWICE_EXECUTIONS, false)?, search(target, TWICE_EXECUTIONS, false)?);
    let numbers =
        |of: &Outcome| (of.executions, of.counters, of.features, of.last_counter_at, of.last_feature_at);
    if numbers(&once) != numbers(&twice) {
        return Err(format!(
            "{} does not do the same twice: {:?}, then {:?}",
            target.name,
            numbers(&once),
            numbers(&twice)
        ));
    }
    if once.counters == 0 {
        return Err(format!("{} reaches no counter: our crates are not instrumented", target.name));
    }
    Ok(format!("{counters} counters; broken on purpose and found: {}; the same twice", found.join(", ")))
}

fn instrumented() -> Result<Instrumented, String> {
    Instrumented::new().ok_or_else(|| {
        "this program was compiled without the instrumentation: it is started by `cargo xtask fuzz`"
            .to_owned()
    })
}

fn search(target: &'static Target, executions: u64, until_found: bool) -> Result<Outcome, String> {
    let mut deaf = |_: u64, _: &[u8]| ();
    let mut search = Search::new(target, instrumented()?, 7, &mut deaf);
    search.begin_with((target.seeds)());
    // In steps, so that a toy is not searched on when it is found.
    let steps = if until_found { 100 } else { 1 };
    for step in 1..=steps {
        search.run(Length { executions: executions * step / steps, until_quiet: None });
        if until_found && !search.outcome().findings.is_empty() {
            break;
        }
    }
    Ok(search.finish().0)
}
