// SPDX-License-Identifier: Apache-2.0

//! The loop: change an input, execute it, keep what reached something new. Everything follows from the seed and the inputs that it
//! begins with.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use mraft_fuzz::target::Target;

use crate::coverage::Coverage;
use crate::mutate::{Ingredients, mutate};
use crate::pool::{CLASSES, Entry, Feature, Pool, feature};
use crate::random::Random;

/// Numbers that something was compared with, of one input.
const CONSTANTS_MAX: usize = 256;
/// Executions after which all counters are looked at, not only those that were ever reached.
const UNSEEN_MAX: usize = 64;
/// Executions that shorten one input that reached something new.
const TRIM_EXECUTIONS_MAX: u64 = 96;
/// Executions that shorten one that found something.
const MINIMISE_EXECUTIONS_MAX: u64 = 20_000;
/// After so many different findings a target has enough of them.
const FINDINGS_MAX: usize = 32;

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Executions at least.
    pub executions: u64,
    /// Goes on until the last half of all executions reached no new counter, but not beyond so many executions.
    pub until_quiet: Option<u64>,
}

/// Something that an input broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The input, shortened.
    pub input: Vec<u8>,
    /// What was said when it broke.
    pub said: String,
    /// Where: one finding is reported per place.
    pub place: String,
    /// The execution that met it first.
    pub execution: u64,
}

/// What came of a search.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Executions, shortening included.
    pub executions: u64,
    /// Counters that were reached.
    pub counters: usize,
    /// Counters with classes of counts.
    pub features: usize,
    /// The execution that reached a new counter last.
    pub last_counter_at: u64,
    /// The execution that reached a new class of a counter last.
    pub last_feature_at: u64,
    /// Different breaks.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// Whether the last half of the executions reached no new counter.
    pub fn is_quiet(&self) -> bool {
        self.last_counter_at <= self.executions / 2
    }
}

/// A search in one target.
pub struct Search<'a, C> {
    target: &'static Target,
    coverage: C,
    random: Random,
    pool: Pool,
    /// By counter, the classes that were seen, a bit each.
    seen: Vec<u8>,
    outcome: Outcome,
    places: BTreeSet<String>,
    /// Told of every input before it is executed.
    witness: &'a mut dyn FnMut(u64, &[u8]),
    features: Vec<Feature>,
    words: Vec<&'static [u8]>,
    /// What was executed since all counters were looked at.
    unseen: Vec<Vec<u8>>,
}

impl<'a, C: Coverage> Search<'a, C> {
    /// A search that begins with nothing.
    pub fn new(
        target: &'static Target,
        coverage: C,
        seed: u64,
        witness: &'a mut dyn FnMut(u64, &[u8]),
    ) -> Search<'a, C> {
        let counters = coverage.counters();
        Search {
            target,
            coverage,
            random: Random::new(seed),
            pool: Pool::new(counters),
            seen: vec![0; counters],
            outcome: Outcome::default(),
            places: BTreeSet::new(),
            witness,
            features: Vec::new(),
            words: (target.words)(),
            unseen: Vec::new(),
        }
    }

    /// Executes these inputs and keeps those that are worth it.
    pub fn begin_with(&mut self, inputs: impl IntoIterator<Item = Vec<u8>>) {
        for input in inputs {
            self.try_input(input, false);
            self.look_further(1);
        }
    }

    /// Changes and executes until it is long enough.
    pub fn run(&mut self, length: Length) {
        while !self.run_some(length, u64::MAX) {}
    }

    /// The same, but for no longer than until so many were executed altogether. Whether it is long enough.
    pub fn run_some(&mut self, length: Length, until: u64) -> bool {
        if self.pool.entries().is_empty() {
            self.try_input(Vec::new(), false);
        }
        loop {
            if self.is_done(length) {
                self.look_further(1);
                if self.is_done(length) {
                    return true;
                }
            }
            if self.outcome.executions >= until {
                return false;
            }
            let Some((entry, other)) = self.pool.pick(&mut self.random) else { return true };
            let with = Ingredients {
                shape: &self.target.shape,
                words: &self.words,
                other: &other.input,
                constants: &entry.constants,
                bytes_max: self.target.bytes_max,
            };
            let mut input = entry.input.clone();
            mutate(&mut input, &with, &mut self.random);
            self.try_input(input, true);
            self.look_further(UNSEEN_MAX);
        }
    }

    /// Looks at all counters when enough was executed since the last time. Where something new turns up it is executed again.
    fn look_further(&mut self, unseen_min: usize) {
        if self.unseen.len() < unseen_min {
            return;
        }
        while self.coverage.looks_further() {
            for input in std::mem::take(&mut self.unseen) {
                self.try_input(input, true);
            }
        }
        self.unseen.clear();
    }

    /// What came of it so far.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// The inputs that reached something so far.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What came of it, the inputs that reached something, and by counter the classes that were seen, a bit each.
    pub fn finish(self) -> (Outcome, Pool, Vec<u8>) {
        (self.outcome, self.pool, self.seen)
    }

    fn is_done(&self, length: Length) -> bool {
        let executions = self.outcome.executions;
        if self.outcome.findings.len() >= FINDINGS_MAX {
            return true;
        }
        match length.until_quiet {
            _ if executions < length.executions => false,
            None => true,
            Some(most) => self.outcome.is_quiet() || executions >= most,
        }
    }

    fn try_input(&mut self, input: Vec<u8>, may_be_trimmed: bool) {
        let said = self.execute(&input, false);
        self.pool.executed(&self.features);
        if let Err(broke) = said {
            return self.found(input, broke);
        }
        let news = self.news();
        if news.is_empty() {
            return;
        }
        let at = self.outcome.executions;
        let input = if may_be_trimmed { self.trimmed(input, &news) } else { input };
        // Constants are noted on the way, and what the shorter one reaches besides is taken, too. What is not reached once more was no
        // work of the input: libraries tidy up now and then, whatever is executed.
        if self.execute(&input, true).is_err() || self.news().is_empty() {
            return;
        }
        self.outcome.last_feature_at = at;
        if self.features.iter().any(|feature| self.seen[(feature / CLASSES) as usize] == 0) {
            self.outcome.last_counter_at = at;
        }
        let mut constants = BTreeSet::new();
        self.coverage.constants(|constant| _ = constants.insert(constant));
        let constants = constants.into_iter().take(CONSTANTS_MAX).collect();
        let entry = Entry { input, features: self.features.clone(), constants };
        for feature in &entry.features {
            let classes = &mut self.seen[(feature / CLASSES) as usize];
            self.outcome.counters += usize::from(*classes == 0);
            let class = 1 << (feature % CLASSES);
            self.outcome.features += usize::from(*classes & class == 0);
            *classes |= class;
        }
        self.pool.add(entry);
    }

    /// The features of the last execution that no entry has.
    fn news(&self) -> Vec<Feature> {
        let is_new = |feature: &&Feature| {
            self.seen[(**feature / CLASSES) as usize] & (1 << (**feature % CLASSES)) == 0
        };
        self.features.iter().filter(is_new).copied().collect()
    }

    /// The input without pieces that are not needed to reach these features.
    fn trimmed(&mut self, mut input: Vec<u8>, needed: &[Feature]) -> Vec<u8> {
        let until = self.outcome.executions + TRIM_EXECUTIONS_MAX;
        let mut piece = input.len() / 2;
        while piece > 0 && self.outcome.executions < until {
            let mut at = 0;
            while at < input.len() && self.outcome.executions < until {
                let shorter = without(&input, at, piece);
                let reaches = self.execute(&shorter, false).is_ok()
                    && needed.iter().all(|feature| self.features.binary_search(feature).is_ok());
                if reaches {
                    input = shorter;
                } else {
                    at += piece;
                }
            }
            piece /= 2;
        }
        input
    }

    fn found(&mut self, input: Vec<u8>, broke: Broke) {
        if !self.places.insert(broke.place.clone()) {
            return;
        }
        let execution = self.outcome.executions;
        let input = self.minimised(input, &broke.place);
        let said = self.execute(&input, false).err().map_or(broke.said, |broke| broke.said);
        self.outcome.findings.push(Finding { input, said, place: broke.place, execution });
    }

    /// The input with less in it that breaks at the same place.
    fn minimised(&mut self, mut input: Vec<u8>, place: &str) -> Vec<u8> {
        let until = self.outcome.executions + MINIMISE_EXECUTIONS_MAX;
        let mut piece = input.len();
        while piece > 0 && self.outcome.executions < until {
            let mut at = 0;
            while at < input.len() && self.outcome.executions < until {
                let shorter = without(&input, at, piece);
                match self.breaks_at(&shorter, place) {
                    true => input = shorter,
                    false => at += piece,
                }
            }
            piece /= 2;
        }
        for at in 0..input.len() {
            let mut plain = input.clone();
            plain[at] = 0;
            if plain != input && self.outcome.executions < until && self.breaks_at(&plain, place) {
                input = plain;
            }
        }
        input
    }

    fn breaks_at(&mut self, input: &[u8], place: &str) -> bool {
        self.execute(input, false).is_err_and(|broke| broke.place == place)
    }

    fn execute(&mut self, input: &[u8], watches: bool) -> Result<(), Broke> {
        self.outcome.executions += 1;
        (self.witness)(self.outcome.executions, input);
        self.unseen.push(input.to_vec());
        mraft_fuzz::memory::reset();
        self.coverage.begin(watches);
        let done = execute(self.target, input);
        let features = &mut self.features;
        features.clear();
        self.coverage.counted(|counter, count| features.push(feature(counter, count)));
        done
    }
}

/// How a target broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broke {
    /// What it said.
    pub said: String,
    /// Where.
    pub place: String,
}

thread_local! {
    static BROKE: RefCell<Option<Broke>> = const { RefCell::new(None) };
    static IS_EXECUTING: Cell<bool> = const { Cell::new(false) };
}

/// Keeps panics of targets from being printed: they are reported once, shortened. Others are told as before.
pub fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_EXECUTING.get() {
                return others(info);
            }
            let said = info.payload_as_str().unwrap_or("a panic without words").to_owned();
            let place = info.location().map_or_else(String::new, ToString::to_string);
            BROKE.set(Some(Broke { said, place }));
        }));
    });
}

/// Feeds a target one input. Needs [`quiet_panics`].
pub fn execute(target: &Target, input: &[u8]) -> Result<(), Broke> {
    BROKE.set(None);
    IS_EXECUTING.set(true);
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    IS_EXECUTING.set(false);
    match done {
        Ok(_) => Ok(()),
        Err(_) => Err(BROKE
            .take()
            .unwrap_or_else(|| Broke { said: "a panic that nobody heard".to_owned(), place: String::new() })),
    }
}

fn without(input: &[u8], at: usize, len: usize) -> Vec<u8> {
    let end = input.len().min(at + len);
    [&input[..at], &input[end..]].concat()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use mraft_fuzz::target::{Said, Shape};

    use super::*;

    const COUNTERS: usize = 8;

    thread_local! {
        static HITS: Cell<[u8; COUNTERS]> = const { Cell::new([0; COUNTERS]) };
    }

    /// What the instrumentation would do at a branch.
    fn hit(counter: usize) {
        let mut hits = HITS.get();
        hits[counter] = hits[counter].saturating_add(1);
        HITS.set(hits);
    }

    /// Coverage that targets note by hand; a blind one sees nothing of it.
    struct ByHand {
        is_blind: bool,
    }

    impl Coverage for ByHand {
        fn counters(&self) -> usize {
            COUNTERS
        }

        fn begin(&mut self, _: bool) {
            HITS.set([0; COUNTERS]);
        }

        fn counted(&mut self, mut each: impl FnMut(u32, u8)) {
            let hits = HITS.get();
            let counted =
                (0..).zip(hits).filter(|(counter, count)| *count > 0 && (!self.is_blind || *counter == 0));
            counted.for_each(|(counter, count)| each(counter, count));
        }

        fn looks_further(&mut self) -> bool {
            false
        }

        fn constants(&self, _: impl FnMut(u64)) {}
    }

    /// Broken behind four bytes that must be right one after the other.
    fn steps(input: &[u8]) -> Said {
        hit(0);
        for (at, byte) in b"mrft".iter().enumerate() {
            if input.get(at) != Some(byte) {
                return Said::Refused;
            }
            hit(at + 1);
        }
        assert!(input.len() < 10, "too long");
        Said::Read
    }

    const STEPS: Target = Target {
        name: "steps",
        about: "a toy",
        run: steps,
        seeds: || vec![b"0000".to_vec()],
        words: || vec![b"m", b"r", b"f", b"t"],
        shape: Shape::Bytes,
        bytes_max: 32,
        cost: 1,
    };

    fn searched(seed: u64, is_blind: bool, executions: u64) -> (Outcome, Vec<Vec<u8>>) {
        quiet_panics();
        let mut seen = Vec::new();
        let mut witness = |_: u64, input: &[u8]| {
            if seen.len() < 1000 {
                seen.push(input.to_vec());
            }
        };
        let mut search = Search::new(&STEPS, ByHand { is_blind }, seed, &mut witness);
        search.begin_with((STEPS.seeds)());
        search.run(Length { executions, until_quiet: None });
        let (outcome, ..) = search.finish();
        (outcome, seen)
    }

    #[test]
    fn a_broken_toy_is_found_by_whoever_sees_its_branches_and_by_nobody_else() {
        let (seeing, _) = searched(1, false, 100_000);
        let [finding] = &seeing.findings[..] else { panic!("{seeing:?}") };
        assert!(finding.said.contains("too long") && finding.place.contains("search.rs"), "{finding:?}");
        assert!(
            finding.input.starts_with(b"mrft") && finding.input.len() == 10,
            "as short as it can be: {finding:?}"
        );
        let (blind, _) = searched(1, true, 100_000);
        assert!(blind.findings.is_empty());
        assert_eq!((seeing.counters, blind.counters), (5, 1));
    }

    /// Reaches a branch every thousandth time, whatever it is fed with.
    fn tidies_up(_: &[u8]) -> Said {
        thread_local! {
            static TIMES: Cell<u32> = const { Cell::new(0) };
        }
        TIMES.set(TIMES.get() + 1);
        hit(0);
        if TIMES.get().is_multiple_of(1000) {
            hit(1);
        }
        Said::Read
    }

    #[test]
    fn what_no_input_reaches_is_nothing_new() {
        static TIDY: Target = Target { name: "tidy", run: tidies_up, ..STEPS };
        quiet_panics();
        let mut deaf = |_: u64, _: &[u8]| ();
        let mut search = Search::new(&TIDY, ByHand { is_blind: false }, 6, &mut deaf);
        search.begin_with((TIDY.seeds)());
        search.run(Length { executions: 10_000, until_quiet: None });
        let (outcome, pool, _) = search.finish();
        assert_eq!((outcome.counters, pool.entries().len()), (1, 1));
        assert!(outcome.last_feature_at < 100, "{outcome:?}");
    }

    #[test]
    fn a_seed_is_a_search() {
        let numbers = |(outcome, seen): (Outcome, Vec<Vec<u8>>)| {
            (outcome.executions, outcome.last_counter_at, outcome.features, seen)
        };
        let once = numbers(searched(3, false, 20_000));
        assert_eq!(once, numbers(searched(3, false, 20_000)));
        assert_ne!(once.3, searched(4, false, 20_000).1);
    }

    #[test]
    fn a_search_that_is_to_become_quiet_goes_on_until_the_last_half_found_nothing() {
        quiet_panics();
        let mut deaf = |_: u64, _: &[u8]| ();
        let mut search = Search::new(&STEPS, ByHand { is_blind: false }, 5, &mut deaf);
        search.begin_with((STEPS.seeds)());
        // Something was still found behind the first half.
        search.run(Length { executions: 600, until_quiet: None });
        let first = search.outcome().clone();
        assert!(!first.is_quiet(), "{first:?}");
        search.run(Length { executions: 600, until_quiet: Some(1_000_000) });
        let outcome = search.finish().0;
        assert!(outcome.is_quiet() && outcome.executions > first.executions, "{outcome:?}");
        assert!(
            outcome.executions < 1_000_000 && outcome.executions <= 2 * outcome.last_counter_at + 200,
            "{outcome:?}"
        );
    }
}
