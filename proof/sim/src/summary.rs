// SPDX-License-Identifier: Apache-2.0

//! What many seeds did together, and the least that they must have done: a simulator that does nothing finds nothing.

use std::collections::BTreeMap;
use std::fmt;

use crate::mix::{Fault, LEAST};
use crate::world::Report;

/// Shares of fewer seeds say little: they are printed, not judged.
pub const JUDGED_SEEDS_MIN: usize = 300;

/// Of a hundred seeds so many kill the leader of a sleeping group. Groups may sleep in every fourth seed only.
const SLEEPING_MIN: f64 = 2.0;
/// Of a hundred seeds so many install a snapshot.
const INSTALLING_MIN: f64 = 20.0;
/// Of a hundred seeds so many recycle a segment.
const RECYCLING_MIN: f64 = 20.0;

/// Of a hundred seeds so many have groups that lose a majority, which is accepted (rule D9).
const QUORUMS_LOST_MIN: f64 = 4.0;

/// Of a hundred seeds so many heal without some nodes at first.
const LEFT_BEHIND_MIN: f64 = 10.0;

/// Of a hundred seeds so many show how long groups take no writes when a minority is gone (promise P7).
const PROBED_MIN: f64 = 80.0;

/// What a run of many seeds did.
#[derive(Clone, Debug)]
pub struct Summary {
    figures: Vec<Figure>,
    seeds: usize,
    trace: u64,
    marks: BTreeMap<String, u64>,
}

/// One figure of all seeds.
#[derive(Clone, Debug)]
struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    /// Less than this is too little, …
    least: Option<f64>,
    /// … with fewer seeds than [`JUDGED_SEEDS_MIN`], too.
    is_of_each: bool,
}

impl Summary {
    /// Adds up what seeds did.
    pub fn of(reports: &[Report]) -> Summary {
        let seeds = reports.len();
        let mean = |what: String, part: &dyn Fn(&Report) -> u64| {
            let value = reports.iter().map(part).sum::<u64>() as f64 / seeds.max(1) as f64;
            Figure { what, value, unit: "", least: None, is_of_each: false }
        };
        let average = |what: &str, part: fn(&Report) -> u64| mean(what.to_owned(), &part);
        let fewest = |what: &str, part: fn(&Report) -> u64, least: u64| {
            let value = reports.iter().map(part).min().unwrap_or_default() as f64;
            Figure { what: what.to_owned(), value, unit: "", least: Some(least as f64), is_of_each: true }
        };
        let most = |what: &str, part: fn(&Report) -> u64, unit| {
            let value = reports.iter().map(part).max().unwrap_or_default() as f64;
            Figure { what: what.to_owned(), value, unit, least: None, is_of_each: false }
        };
        let share = |what: &str, part: fn(&Report) -> u64, least| {
            let some = reports.iter().filter(|report| part(report) > 0).count();
            let value = 100.0 * some as f64 / seeds.max(1) as f64;
            Figure { what: what.to_owned(), value, unit: " %", least, is_of_each: false }
        };
        let mut figures = vec![
            average("operations per seed", |report| report.operations),
            fewest("  fewest of a seed", |report| report.operations, LEAST.operations),
            average("  acknowledged writes", |report| report.acknowledged),
            average("operations refused", |report| report.refused),
            average("operations of unknown fate", |report| report.unknown),
            average("faults per seed", Report::faults_in_all),
            fewest("  fewest of a seed", Report::faults_in_all, LEAST.faults),
        ];
        let kinds = Fault::all().map(|fault| {
            let count = move |report: &Report| report.faults.get(&fault).copied().unwrap_or(0);
            mean(format!("  {fault}"), &count)
        });
        figures.extend(kinds);
        figures.extend([
            average("processes killed", |report| report.crashes),
            average("  in the middle of disk work", |report| report.crashes_in_the_middle),
            average("suspicions per seed", |report| report.suspicions),
            share(
                "seeds that installed a snapshot",
                |report| report.snapshots_installed,
                Some(INSTALLING_MIN),
            ),
            share(
                "seeds that killed a sleeping leader",
                |report| report.sleeping_leaders_killed,
                Some(SLEEPING_MIN),
            ),
            average("membership changes proposed", |report| report.changes_proposed),
            average("replicas that joined", |report| report.joins),
            average("frames refused", |report| report.frames_refused),
            average("hellos refused", |report| report.hellos_refused),
            average("replicas condemned", |report| report.condemned),
            share("seeds with an outcast that came back", |report| report.outcasts_back, None),
            share("seeds that recycled a segment", |report| report.segments_recycled, Some(RECYCLING_MIN)),
            share("seeds that finished a cut installation", |report| report.installations_finished, None),
            share("seeds that gave one up", |report| report.installations_given_up, None),
            share("seeds with a log without room", |report| report.logs_full, None),
            share("seeds with a store without room", |report| report.stores_full, None),
            share("seeds with a failed log", |report| report.logs_failed, None),
            share("seeds with a disk that stood still", |report| report.disks_stalled, None),
            share("seeds with a failed store", |report| report.stores_failed, None),
            share("seeds that healed without some nodes", |report| report.left_behind, Some(LEFT_BEHIND_MIN)),
            share("seeds that took nodes away in the calm", |report| report.probes, Some(PROBED_MIN)),
            share("seeds that could not take any", |report| report.probes_skipped, None),
            most("  longest time without a write", |report| report.gap_us / 1_000, " ms"),
            share("seeds whose groups lost a majority", |report| report.quorums_lost, Some(QUORUMS_LOST_MIN)),
            average("  committed entries given up", |report| report.entries_given_up),
            share("seeds with real LSM trees", |report| report.real_stores, None),
            share("seeds that compared all replicas", |report| report.groups_compared, None),
        ]);
        let trace = reports.iter().fold(0u64, |trace, report| trace.rotate_left(7) ^ report.trace);
        let mut marks = BTreeMap::new();
        for (mark, times) in reports.iter().flat_map(|report| &report.marks) {
            *marks.entry(mark.clone()).or_default() += times;
        }
        Summary { figures, seeds, trace, marks }
    }

    /// What the seeds came to see, and how often ([`crate::marks`]).
    pub fn marks(&self) -> &BTreeMap<String, u64> {
        &self.marks
    }

    /// What the seeds did too little of; nothing when there are too few of them to say.
    pub fn shortfalls(&self) -> Vec<String> {
        let is_enough = self.seeds >= JUDGED_SEEDS_MIN;
        let is_judged = |figure: &&Figure| is_enough || figure.is_of_each;
        let too_little = |figure: &&Figure| figure.least.is_some_and(|least| figure.value < least);
        let describe = |figure: &Figure| {
            let Figure { what, value, unit, least, .. } = figure;
            format!(
                "{}: {value:.1}{unit}, at least {:.1}{unit} are needed",
                what.trim(),
                least.unwrap_or(0.0)
            )
        };
        self.figures.iter().filter(is_judged).filter(too_little).map(describe).collect()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Figure { what, value, unit, least, .. } in &self.figures {
            write!(f, "{what:38} {value:9.1}{unit}")?;
            match least {
                Some(least) => writeln!(f, "  (at least {least:.0})")?,
                None => writeln!(f)?,
            }
        }
        if self.seeds < JUDGED_SEEDS_MIN {
            writeln!(f, "{} seeds are too few to be judged by their shares", self.seeds)?;
        }
        write!(f, "trace {:016x}", self.trace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enough(seed: u64) -> Report {
        Report {
            seed,
            operations: 2_100,
            faults: [(Fault::Kill, 15), (Fault::Partition, 6)].into(),
            sleeping_leaders_killed: 1,
            snapshots_installed: 1,
            segments_recycled: 1,
            quorums_lost: 1,
            probes: 1,
            left_behind: 1,
            ..Report::default()
        }
    }

    #[test]
    fn seeds_that_do_too_little_are_a_failure_and_shares_of_few_seeds_are_not_judged() {
        let good: Vec<Report> = (0..JUDGED_SEEDS_MIN as u64).map(enough).collect();
        assert_eq!(Summary::of(&good).shortfalls(), Vec::<String>::new());
        let idle: Vec<Report> = good.iter().map(|_| Report::default()).collect();
        assert_eq!(Summary::of(&idle).shortfalls().len(), 8, "each minimum by itself");
        assert_eq!(Summary::of(&idle[1..]).shortfalls().len(), 2, "what each seed must do by itself");
        for cut in [
            |report: &mut Report| report.operations = 1_999,
            |report: &mut Report| _ = report.faults.remove(&Fault::Partition),
        ] {
            let mut reports = good[..20].to_vec();
            cut(&mut reports[7]);
            assert_eq!(Summary::of(&reports).shortfalls().len(), 1);
        }
        for cut in [
            |report: &mut Report| report.sleeping_leaders_killed = 0,
            |report: &mut Report| report.snapshots_installed = 0,
            |report: &mut Report| report.segments_recycled = 0,
            |report: &mut Report| report.quorums_lost = 0,
            |report: &mut Report| report.probes = 0,
            |report: &mut Report| report.left_behind = 0,
        ] {
            let mut reports = good.clone();
            reports.iter_mut().for_each(cut);
            assert_eq!(Summary::of(&reports).shortfalls().len(), 1);
        }
    }
}
