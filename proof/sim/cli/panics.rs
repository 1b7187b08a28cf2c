// SPDX-License-Identifier: Apache-2.0

//! Panics that end a run: in the product outside its groups, which would end a process, or in the simulator itself. They are caught where
//! the seed is known, so that it is said with them; a panic inside a group comes as what the product makes of it, and ends here nothing.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use mraft_sim::check::{Broken, promise};
use mraft_sim::{Mix, Report, Transcript, run_with};

/// Where the sources of the product are, as panics name their places.
const PRODUCT: &str = "crates/";

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
    static AT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A panic that no group held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    /// What it says.
    pub says: String,
    /// The line where it was, if that is known.
    pub at: Option<String>,
}

impl Panic {
    /// Whether it was in the product's code. All others are the simulator's own.
    pub fn is_of_product(&self) -> bool {
        self.at.as_ref().is_some_and(|at| at.starts_with(PRODUCT))
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.is_of_product() { "the product, outside its groups," } else { "the simulator" };
        write!(f, "{whose} panicked at {}: {}", self.at.as_deref().unwrap_or("a place unknown"), self.says)
    }
}

/// Runs a seed for whom a panic is something else than a broken promise.
#[cfg(any(test, feature = "planted"))]
pub fn run_caught(seed: u64, mix: &Mix) -> Result<Report, Panic> {
    caught(seed, || run_with(seed, mix, None).0)
}

/// The same for whom a panic is one more broken promise.
pub fn run_reported(seed: u64, mix: &Mix, transcript: Option<Transcript>) -> Report {
    caught(seed, || run_with(seed, mix, transcript).0).unwrap_or_else(|panic| {
        let broken = Some(Broken::new(promise::NOTHING_PANICS, panic.to_string()));
        Report { seed, broken, ..Report::default() }
    })
}

fn caught<T>(seed: u64, part: impl FnOnce() -> T) -> Result<T, Panic> {
    listen();
    SEED.set(Some(seed));
    AT.take();
    // Whatever a run was in the middle of is gone with it.
    let result = catch_unwind(AssertUnwindSafe(part));
    SEED.set(None);
    result.map_err(|panic| Panic { says: text(panic.as_ref()), at: AT.take() })
}

/// Remembers where a panic was, which its payload does not say. One that ends the program all the same, as a second one during the
/// first does, has named its seed by then.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if let Some(seed) = SEED.get() {
                eprintln!("in seed {seed}:");
            }
            AT.set(panic.location().map(|at| at.to_string()));
            before(panic);
        }));
    });
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something without words".to_owned())
}

#[cfg(test)]
mod tests {
    use mraft_sim::Width;

    use super::*;

    /// The simulator cannot run a cluster whose nodes have nothing of their own.
    fn impossible(seed: u64) -> Mix {
        Mix { own: Vec::new(), ..Mix::draw(seed, Width::Default) }
    }

    #[test]
    fn a_panic_is_a_broken_promise_of_its_seed_and_says_where_it_was() {
        let panic = run_caught(7, &impossible(7)).expect_err("nothing can run that");
        assert!(panic.at.as_ref().is_some_and(|at| at.starts_with("proof/sim/src/")), "{panic}");
        assert!(!panic.is_of_product() && panic.to_string().starts_with("the simulator panicked at "));
        let report = run_reported(7, &impossible(7), None);
        let broken = report.broken.expect("it panics");
        assert_eq!((report.seed, broken.promise), (7, promise::NOTHING_PANICS));
        assert_eq!(broken.how, panic.to_string());
    }

    #[test]
    fn what_was_written_down_before_a_panic_is_there_after_it() {
        let transcript = Transcript::default();
        let mut of_the_run = transcript.clone();
        let panic = caught(3, || {
            of_the_run.say(5, "the last words".to_owned());
            "no number".parse::<u64>().expect("a number")
        });
        assert!(panic.expect_err("it panics").says.starts_with("a number: "));
        assert!(transcript.to_string().contains("the last words"));
    }

    #[test]
    fn a_panic_in_the_product_is_told_from_one_of_the_simulator() {
        let at = |at: &str| Panic { says: String::new(), at: Some(at.to_owned()) };
        assert!(at("crates/host/src/core.rs:1:2").is_of_product());
        assert!(!at("proof/sim/src/world.rs:1:2").is_of_product());
        assert!(!Panic { says: String::new(), at: None }.is_of_product());
    }
}
