// SPDX-License-Identifier: Apache-2.0

//! What every node took of the machine over a long run, and whether it took more and more.
//!
//! Samples are taken every second, whatever happens. Faults come in cycles, and each takes something for a while, so whole cycles are
//! compared: of each the median of its samples, and of memory the lowest tenth, which is what it falls back to between two faults. Through
//! those of the cycles after the warm-up a line is laid whose slope is the median of the slopes between each two of them (Theil 1950, Sen
//! 1968), so that neither end of the run decides. What it rises or falls by from the first of these cycles to the last one is the drift.
//!
//! What a process takes is judged of the one that survives. The others are young, each of another age in every cycle; of them it is told.
//! What is on disk outlives processes, so all directories together are judged.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::failure::Result;
use crate::vitals::Vitals;

/// What may be gained or lost to be called flat.
pub const DRIFT_PERCENT_MAX: f64 = 5.0;
/// Cycles in which the blocks that filled the caches make room for those of the run's own tables: 3 MB of some 30 in each, so ten, and two
/// more because no two caches do it at the same pace. What that does to memory: docs/endurance.md.
pub const WARM_UP_CYCLES: u64 = 12;
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
    /// The node's place.
    pub node: usize,
    /// Of its process.
    pub vitals: Vitals,
    /// Of its directory.
    pub disk_bytes: u64,
}

/// What was sampled.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Samples in the order of time. Bounded by the run: one per second and node.
    pub samples: Vec<Sample>,
    /// How many cycles came to their end.
    pub cycles: u64,
}

/// How one figure of some nodes changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Drift {
    /// Which figure of whom.
    pub what: String,
    /// Where the line through the medians of the cycles begins, …
    pub first: f64,
    /// … and where it ends.
    pub last: f64,
    /// Whether it must be flat.
    pub is_judged: bool,
}

impl Drift {
    /// By how many per cent it grew; negative when it shrank.
    pub fn percent(&self) -> f64 {
        if self.first > 0.0 { (self.last / self.first - 1.0) * 100.0 } else { 0.0 }
    }

    /// Whether it is not flat. What falls was not warm when it was first looked at, so that its end says little of what it began with.
    pub fn is_too_much(&self) -> bool {
        self.is_judged && self.percent().abs() > DRIFT_PERCENT_MAX
    }
}

const MEMORY: &str = "resident bytes";
/// Of a cycle's samples of memory so many are below what counts.
const LOWEST: f64 = 0.1;
const DISK: &str = "disk bytes";
/// What memory and descriptors are of: said, so that whoever sees more of them knows where to look, and not judged once more.
const ANONYMOUS: &str = "bytes of heap and stacks";
const FILES: &str = "open files";
const SOCKETS: &str = "sockets";
const ONLY_TOLD: [&str; 3] = [ANONYMOUS, FILES, SOCKETS];
type Figure = (&'static str, fn(&Sample) -> u64);
const FIGURES: [Figure; 7] = [
    (MEMORY, |sample| sample.vitals.resident_bytes),
    (ANONYMOUS, |sample| sample.vitals.anonymous_bytes),
    ("descriptors", |sample| sample.vitals.descriptors),
    (FILES, |sample| sample.vitals.files),
    (SOCKETS, |sample| sample.vitals.sockets),
    ("threads", |sample| sample.vitals.threads),
    (DISK, |sample| sample.disk_bytes),
];

impl Curve {
    /// How many whole cycles there are after the warm-up.
    pub fn whole_cycles(&self) -> u64 {
        self.cycles.saturating_sub(WARM_UP_CYCLES)
    }

    /// Every figure of all nodes together, and of the one that lived through everything; nothing if there are too few cycles.
    pub fn drifts(&self, survivor: usize) -> Vec<Drift> {
        if self.whole_cycles() < CYCLES_MIN {
            return Vec::new();
        }
        let mut drifts = Vec::new();
        for figure in FIGURES {
            for (whose, only) in [("the survivor", Some(survivor)), ("all nodes", None)] {
                let of_cycles: Vec<f64> =
                    (WARM_UP_CYCLES..self.cycles).map(|cycle| self.of_cycle(figure, only, cycle)).collect();
                let (first, last) = ends_of_line(&of_cycles);
                let name = figure.0;
                drifts.push(Drift {
                    what: format!("{name} of {whose}"),
                    first,
                    last,
                    is_judged: only.is_some() != (name == DISK) && !ONLY_TOLD.contains(&name),
                });
            }
        }
        drifts
    }

    /// What one figure comes to in a cycle, added up over nodes: of moments in which all of them were there.
    fn of_cycle(&self, (name, figure): Figure, only: Option<usize>, cycle: u64) -> f64 {
        let is_wanted =
            |sample: &&Sample| sample.cycle == cycle && only.is_none_or(|node| node == sample.node);
        let wanted: Vec<&Sample> = self.samples.iter().filter(is_wanted).collect();
        let moments = || wanted.chunk_by(|left, right| left.at == right.at);
        let all = moments().map(<[&Sample]>::len).max().unwrap_or(0);
        let sums = moments().filter(|now| now.len() == all);
        let sums = sums.map(|now| now.iter().map(|sample| figure(sample)).sum::<u64>() as f64);
        quantile(sums.collect(), if [MEMORY, ANONYMOUS].contains(&name) { LOWEST } else { 0.5 })
    }

    /// A row per cycle, as Markdown: small enough to be kept.
    pub fn table(&self, survivor: usize) -> String {
        let mut text = "| cycle | ends after s | resident MB of the survivor | of all | descriptors of the survivor | of all \
                        | threads of the survivor | of all | disk MB of all |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
            .to_owned();
        for cycle in 0..self.cycles {
            let ends =
                self.samples.iter().rfind(|sample| sample.cycle == cycle).map_or(0, |last| last.at.as_secs());
            // A `String` takes whatever is written to it.
            let _ = write!(text, "| {cycle} | {ends}");
            for figure in FIGURES.into_iter().filter(|(name, _)| !ONLY_TOLD.contains(name)) {
                let name = figure.0;
                let only_all = name == DISK;
                let scale = if name.ends_with("bytes") { f64::from(1 << 20) } else { 1.0 };
                for only in [Some(survivor), None].into_iter().filter(|only| !only_all || only.is_none()) {
                    let _ = write!(text, " | {:.0}", self.of_cycle(figure, only, cycle) / scale);
                }
            }
            text.push_str(" |\n");
        }
        text
    }

    /// Writes all samples, a line each.
    pub fn write_csv(&self, file: &Path) -> Result<()> {
        let mut text =
            "seconds,cycle,fault,node,resident_bytes,anonymous_bytes,descriptors,files,sockets,threads,disk_bytes\n"
                .to_owned();
        for Sample { at, cycle, fault, node, vitals, disk_bytes } in &self.samples {
            let Vitals { resident_bytes, anonymous_bytes, descriptors, files, sockets, threads } = vitals;
            // A `String` takes whatever is written to it.
            let _ = writeln!(
                text,
                "{:.1},{cycle},\"{fault}\",{node},{resident_bytes},{anonymous_bytes},{descriptors},{files},{sockets},{threads},{disk_bytes}",
                at.as_secs_f64()
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
    let slope = quantile(each_two.collect(), 0.5);
    let first = quantile(places.iter().map(|(at, number)| number - slope * at).collect(), 0.5);
    (first, first + slope * places.last().map_or(0.0, |(at, _)| *at))
}

/// The number above this part of them, between two of them as far as it is; 0 for none.
fn quantile(mut numbers: Vec<f64>, part: f64) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let place = part * (numbers.len().saturating_sub(1)) as f64;
    let (below, above) = (numbers.get(place as usize), numbers.get(place.ceil() as usize));
    match (below, above) {
        (Some(below), Some(above)) => below + (above - below) * place.fract(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes over so many cycles of twenty moments; the first one's memory is what is said of the cycle and moment.
    fn curve(cycles: u64, resident: impl Fn(u64, u64) -> u64) -> Curve {
        let mut samples = Vec::new();
        for (cycle, moment) in (0..cycles).flat_map(|cycle| (0..20).map(move |moment| (cycle, moment))) {
            // The second node is dead now and then, and what is on its disk is not looked at.
            for node in 0..if moment % 4 == 3 { 1 } else { 2 } {
                samples.push(Sample {
                    at: Duration::from_secs(20 * cycle + moment),
                    cycle,
                    fault: "a fault",
                    node,
                    vitals: Vitals {
                        resident_bytes: if node == 0 { resident(cycle, moment) } else { 1000 },
                        anonymous_bytes: 5,
                        descriptors: 50,
                        files: 30,
                        sockets: 12,
                        threads: 20,
                    },
                    disk_bytes: 7,
                });
            }
        }
        Curve { samples, cycles }
    }

    #[test]
    fn what_grows_or_falls_is_found_and_what_only_moves_is_not() {
        let drifted = |curve: &Curve| {
            let drifts = curve.drifts(0).into_iter();
            drifts.filter(Drift::is_too_much).map(|drift| drift.what).collect::<Vec<_>>()
        };
        let flat = curve(WARM_UP_CYCLES + 8, |_, moment| 1000 + 300 * moment);
        assert_eq!((flat.drifts(0).len(), flat.whole_cycles()), (14, 8));
        assert_eq!(drifted(&flat), Vec::<String>::new());
        let leaks = curve(WARM_UP_CYCLES + 8, |cycle, moment| 1000 + 30 * moment + 20 * cycle);
        assert_eq!(drifted(&leaks), ["resident bytes of the survivor"]);
        let sheds = curve(WARM_UP_CYCLES + 8, |cycle, _| 1000 - 20 * cycle);
        assert_eq!(drifted(&sheds), ["resident bytes of the survivor"]);
        let peaks =
            curve(WARM_UP_CYCLES + 8, |cycle, moment| if moment < 17 { 1000 + 5000 * cycle } else { 1000 });
        assert_eq!(drifted(&peaks), Vec::<String>::new(), "what a fault takes meanwhile is no drift");
        let mut fills = flat.clone();
        fills.samples.iter_mut().for_each(|sample| sample.disk_bytes = 100 + 2 * sample.cycle);
        assert_eq!(drifted(&fills), ["disk bytes of all nodes"]);
        let wanders = curve(WARM_UP_CYCLES + 8, |cycle, _| 1000 + [0, 90, 10, 60][cycle as usize % 4]);
        assert_eq!(drifted(&wanders), Vec::<String>::new());
        let warms_up = curve(WARM_UP_CYCLES + 8, |cycle, _| if cycle < WARM_UP_CYCLES { 10 } else { 1000 });
        assert_eq!(drifted(&warms_up), Vec::<String>::new());
    }

    #[test]
    fn a_run_that_is_too_short_says_nothing() {
        assert!(curve(WARM_UP_CYCLES + CYCLES_MIN - 1, |_, _| 1).drifts(0).is_empty());
        assert!(!curve(WARM_UP_CYCLES + CYCLES_MIN, |_, _| 1).drifts(0).is_empty());
    }

    #[test]
    fn a_quantile_is_between_its_neighbours() {
        assert_eq!(quantile(Vec::new(), 0.5), 0.0);
        assert_eq!(quantile(vec![3.0, 1.0], 0.5), 2.0);
        assert_eq!(quantile((0..=10).map(f64::from).collect(), 0.1), 1.0);
    }

    #[test]
    fn a_table_has_a_row_per_cycle() {
        let table = curve(3, |cycle, _| cycle << 20).table(0);
        let rows: Vec<&str> = table.lines().collect();
        assert_eq!(rows.len(), 2 + 3);
        assert!(rows.iter().all(|row| row.matches('|').count() == 10), "{table}");
        assert_eq!(rows[3], "| 1 | 39 | 1 | 1 | 50 | 100 | 20 | 40 | 0 |");
    }

    #[test]
    fn a_curve_is_a_line_per_sample() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("curve.csv");
        curve(1, |_, _| 9).write_csv(&file).expect("written");
        let text = fs::read_to_string(file).expect("read");
        assert_eq!(text.lines().count(), 1 + 35);
        assert_eq!(text.lines().nth(1), Some("0.0,0,\"a fault\",0,9,5,50,30,12,20,7"));
    }
}
