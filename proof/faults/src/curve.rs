// SPDX-License-Identifier: Apache-2.0

//! What every node took of the machine over a long run, and whether it took more and more.
//!
//! *Quiet* samples are taken between two cycles of faults, when everything works again and has for a while. Whole cycles are compared:
//! each has the median of the quiet samples at its end, and through those of the cycles after the warm-up a line is laid whose slope is
//! the median of the slopes between each two of them (Theil 1950, Sen 1968), so that neither end of the run decides. What it rises by from
//! the first of these cycles to the last one is the drift. Only growth counts.
//!
//! What a process takes is judged of the one that survives. The others are young, each of another age in every cycle; of them it is told.
//! What is on disk outlives processes, so all directories together are judged.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::failure::Result;
use crate::vitals::Vitals;

/// What may be grown to be called flat.
pub const DRIFT_PERCENT_MAX: f64 = 5.0;
/// Cycles in which caches of blocks and of open files fill, and the log gets the number of files that it uses in turn.
pub const WARM_UP_CYCLES: u64 = 4;
/// With fewer cycles after the warm-up nothing is judged: a line through less says nothing.
pub const CYCLES_MIN: u64 = 4;

/// One moment of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since the run began.
    pub at: Duration,
    /// Which cycle of faults; the first ones are the warm-up.
    pub cycle: u64,
    /// The fault that lasts or was the last one.
    pub fault: &'static str,
    /// Whether everything was well.
    pub is_quiet: bool,
    /// The node's place.
    pub node: usize,
    /// Of its process.
    pub vitals: Vitals,
    /// Of its directory.
    pub disk_bytes: u64,
}

/// Samples in the order of time. Bounded by the run: some per second and node.
#[derive(Clone, Debug, Default)]
pub struct Curve(pub Vec<Sample>);

/// How one figure of some nodes changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Which figure of whom.
    pub what: String,
    /// Where the line through the medians of the cycles begins, …
    pub first: f64,
    /// … and where it ends.
    pub last: f64,
    /// Whether it must not grow.
    pub is_judged: bool,
}

impl Drift {
    /// By how many per cent it grew; negative when it shrank.
    pub fn percent(&self) -> f64 {
        if self.first > 0.0 { (self.last / self.first - 1.0) * 100.0 } else { 0.0 }
    }

    /// Whether it grew too much.
    pub fn is_growth(&self) -> bool {
        self.is_judged && self.percent() > DRIFT_PERCENT_MAX
    }
}

const DISK: &str = "disk bytes";
/// What descriptors are of: said, so that whoever sees more of them knows where to look, and not judged once more.
const FILES: &str = "open files";
const SOCKETS: &str = "sockets";
type Figure = (&'static str, fn(&Sample) -> u64);
const FIGURES: [Figure; 6] = [
    ("resident bytes", |sample| sample.vitals.resident_bytes),
    ("descriptors", |sample| sample.vitals.descriptors),
    (FILES, |sample| sample.vitals.files),
    (SOCKETS, |sample| sample.vitals.sockets),
    ("threads", |sample| sample.vitals.threads),
    (DISK, |sample| sample.disk_bytes),
];

impl Curve {
    /// How many whole cycles there are after the warm-up: with as many quiet moments as the first one.
    pub fn whole_cycles(&self) -> u64 {
        let quiet_moments = |cycle| self.quiet_sums(|_| 0, None, |sample| sample.cycle == cycle).len();
        let whole = quiet_moments(0);
        let after = WARM_UP_CYCLES..;
        after.take_while(|cycle| whole > 0 && quiet_moments(*cycle) >= whole).count() as u64
    }

    /// Every figure of all nodes together, and of the one that lived through everything; nothing if there are too few cycles.
    pub fn drifts(&self, survivor: usize) -> Vec<Drift> {
        let cycles = self.whole_cycles();
        if cycles < CYCLES_MIN {
            return Vec::new();
        }
        let mut drifts = Vec::new();
        for (name, figure) in FIGURES {
            for (whose, only) in [("the survivor", Some(survivor)), ("all nodes", None)] {
                let median_of = |cycle| median(self.quiet_sums(figure, only, |sample| sample.cycle == cycle));
                let medians: Vec<f64> = (WARM_UP_CYCLES..WARM_UP_CYCLES + cycles).map(median_of).collect();
                let (first, last) = ends_of_line(&medians);
                drifts.push(Drift {
                    what: format!("{name} of {whose}"),
                    first,
                    last,
                    is_judged: only.is_some() != (name == DISK) && ![FILES, SOCKETS].contains(&name),
                });
            }
        }
        drifts
    }

    /// One figure at each quiet moment, added up over nodes.
    fn quiet_sums(
        &self,
        figure: fn(&Sample) -> u64,
        only: Option<usize>,
        counts: impl Fn(&Sample) -> bool,
    ) -> Vec<u64> {
        let is_wanted = |sample: &&Sample| {
            sample.is_quiet && counts(sample) && only.is_none_or(|node| node == sample.node)
        };
        let wanted: Vec<&Sample> = self.0.iter().filter(is_wanted).collect();
        wanted
            .chunk_by(|left, right| left.at == right.at)
            .map(|now| now.iter().map(|sample| figure(sample)).sum())
            .collect()
    }

    /// A row per cycle with the median of its quiet moments, as Markdown: small enough to be kept.
    pub fn table(&self, survivor: usize) -> String {
        let mut text = "| cycle | ends after s | resident MB of the survivor | of all | descriptors of the survivor | of all \
                        | threads of the survivor | of all | disk MB of all |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
        let cycles = self.0.last().map_or(0, |sample| sample.cycle + 1);
        for cycle in 0..cycles {
            let of_cycle = |figure: fn(&Sample) -> u64, only| {
                median(self.quiet_sums(figure, only, |sample| sample.cycle == cycle))
            };
            let ends =
                self.0.iter().rfind(|sample| sample.cycle == cycle).map_or(0, |last| last.at.as_secs());
            // A `String` takes whatever is written to it.
            let _ = write!(text, "| {cycle} | {ends}");
            for (name, figure) in FIGURES.into_iter().filter(|(name, _)| ![FILES, SOCKETS].contains(name)) {
                let only_all = name == DISK;
                let scale = if name.ends_with("bytes") { f64::from(1 << 20) } else { 1.0 };
                for only in [Some(survivor), None].into_iter().filter(|only| !only_all || only.is_none()) {
                    let _ = write!(text, " | {:.0}", of_cycle(figure, only) / scale);
                }
            }
            text.push_str(" |\n");
        }
        text
    }

    /// Writes all samples, a line each.
    pub fn write_csv(&self, file: &Path) -> Result<()> {
        let mut text =
            "seconds,cycle,fault,quiet,node,resident_bytes,descriptors,files,sockets,threads,disk_bytes\n"
                .to_owned();
        for Sample { at, cycle, fault, is_quiet, node, vitals, disk_bytes } in &self.0 {
            let Vitals { resident_bytes, descriptors, files, sockets, threads } = vitals;
            // A `String` takes whatever is written to it.
            let _ = writeln!(
                text,
                "{:.1},{cycle},\"{fault}\",{},{node},{resident_bytes},{descriptors},{files},{sockets},{threads},{disk_bytes}",
                at.as_secs_f64(),
                u8::from(*is_quiet)
            );
        }
        Ok(fs::write(file, text)?)
    }
}

/// Where the line through these numbers begins and ends.
fn ends_of_line(numbers: &[f64]) -> (f64, f64) {
    let places: Vec<(f64, f64)> = (0_u32..).map(f64::from).zip(numbers.iter().copied()).collect();
    let each_two = places.iter().enumerate().flat_map(|(at, left)| {
        places[at + 1..].iter().map(move |right| (right.1 - left.1) / (right.0 - left.0))
    });
    let slope = median_of(each_two.collect());
    let first = median_of(places.iter().map(|(at, number)| number - slope * at).collect());
    (first, first + slope * places.last().map_or(0.0, |(at, _)| *at))
}

fn median(numbers: Vec<u64>) -> f64 {
    median_of(numbers.into_iter().map(|number| number as f64).collect())
}

fn median_of(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    match (numbers.len(), numbers.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => numbers[middle],
        (_, middle) => (numbers[middle - 1] + numbers[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes over so many cycles of three rounds; the first one's memory is what is said of the cycle and round.
    fn curve(cycles: u64, resident: impl Fn(u64, u64) -> u64) -> Curve {
        let mut samples = Vec::new();
        for (cycle, round) in (0..=cycles).flat_map(|cycle| (0..3).map(move |round| (cycle, round))) {
            for (node, is_quiet) in [(0, true), (1, true), (0, false)] {
                let resident_bytes = match (node, is_quiet) {
                    (0, true) => resident(cycle, round),
                    (_, true) => 1000,
                    // What faults take meanwhile is no drift.
                    _ => 1_000_000 * cycle,
                };
                samples.push(Sample {
                    at: Duration::from_secs(10 * (3 * cycle + round) + u64::from(!is_quiet)),
                    cycle,
                    fault: "a fault",
                    is_quiet,
                    node,
                    vitals: Vitals { resident_bytes, descriptors: 50, files: 30, sockets: 12, threads: 20 },
                    disk_bytes: 7,
                });
            }
        }
        Curve(samples)
    }

    #[test]
    fn what_grows_is_found_and_what_only_moves_is_not() {
        let grown = |curve: &Curve| {
            let drifts = curve.drifts(0).into_iter();
            drifts.filter(Drift::is_growth).map(|drift| drift.what).collect::<Vec<_>>()
        };
        let flat = curve(11, |_, round| 1000 + 300 * round);
        assert_eq!((flat.drifts(0).len(), flat.whole_cycles()), (12, 8));
        assert_eq!(grown(&flat), Vec::<String>::new());
        let leaks = curve(11, |cycle, round| 1000 + 300 * round + 20 * cycle);
        assert_eq!(grown(&leaks), ["resident bytes of the survivor"]);
        let mut fills = flat.clone();
        fills.0.iter_mut().for_each(|sample| sample.disk_bytes = 100 + 2 * sample.cycle);
        assert_eq!(grown(&fills), ["disk bytes of all nodes"]);
        let wanders = curve(11, |cycle, _| 1000 + [0, 90, 10, 60][cycle as usize % 4]);
        assert_eq!(grown(&wanders), Vec::<String>::new());
        let warms_up = curve(11, |cycle, _| if cycle < WARM_UP_CYCLES { 10 } else { 1000 });
        assert_eq!(grown(&warms_up), Vec::<String>::new());
    }

    #[test]
    fn a_run_that_is_too_short_says_nothing() {
        assert!(curve(WARM_UP_CYCLES + CYCLES_MIN - 2, |_, _| 1).drifts(0).is_empty());
        let mut ends_early = curve(8, |_, _| 1);
        assert_eq!(ends_early.whole_cycles(), 5);
        ends_early.0.truncate(ends_early.0.len() - 3);
        assert_eq!(ends_early.whole_cycles(), 4);
    }

    #[test]
    fn a_table_has_a_row_per_cycle_with_the_figures_of_quiet_moments() {
        let table = curve(2, |cycle, round| (cycle + round) << 20).table(0);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 2 + 3);
        assert!(rows.iter().all(|row| row.matches('|').count() == 10), "{table}");
        assert_eq!(rows[3], "| 1 | 51 | 2 | 2 | 50 | 100 | 20 | 40 | 0 |");
    }

    #[test]
    fn a_curve_is_a_line_per_sample() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("curve.csv");
        curve(0, |_, _| 9).write_csv(&file).expect("written");
        let text = fs::read_to_string(file).expect("read");
        assert_eq!(text.lines().count(), 1 + 9);
        assert_eq!(text.lines().nth(1), Some("0.0,0,\"a fault\",1,0,9,50,30,12,20,7"));
    }
}
