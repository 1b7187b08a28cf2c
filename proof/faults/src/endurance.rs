// SPDX-License-Identifier: Apache-2.0

//! A long run: every kind of fault in turn, over and over, under a load on a fixed set of keys. In the end everything that was said must
//! have been true, as always, and no node may take more of the machine than after the warm-up.
//!
//! One node survives: while the others are killed in turn, its process is there from the warm-up to the end, so what it does not give
//! back adds up. Before the first cycle and after the last one all nodes are killed at once, and the power of all fails at once.
//!
//! Missing on purpose: what takes a node or a replica for good. A node that replaces another one has an address of its own, which is its
//! id, so every cycle would need a new one, and the rows of a curve would be of different nodes; of what rots, too, a replica has to be
//! replaced. Both have scenarios of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mraft_api::{Condition, Consistency};
use rustix::process::Pid;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, Manner, Shape};
use crate::counts::{Counts, say};
use crate::curve::{CYCLES_MIN, Curve, DRIFT_PERCENT_MAX, Sample};
use crate::failure::{Failure, Result};
use crate::ground::Ground;
use crate::kinds::disks::{Unpowered, Whose};
use crate::kinds::signals::{How, Signalled, Who};
use crate::kinds::{self, greedy};
use crate::load::{Load, Size};
use crate::namespaces::{self, Network};
use crate::node::Node;
use crate::rounds::{self, Done, Pace};
use crate::skips::skipped;
use crate::values::FOREIGN;
use crate::vitals::{Vitals, disk_bytes};
use crate::{binary, judge, metrics, report};

/// When it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// After so many rounds, wherever they are in a cycle.
    Rounds(u64),
    /// With the first cycle that ends after this time.
    Time(Duration),
}

const NODES: usize = 5;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 8,
    snapshot_entries: 1000,
    compaction_overhead: 100,
    snapshot_bytes_per_second: 64 << 20,
};
const SIZE: Size = Size { writers: 40, keys_per_writer: 16, rivals: 10, shared_keys: 5 };
/// Of each client: what an hour writes down must be judged in the end.
const CLIENT_PAUSE: Duration = Duration::from_millis(100);
const PACE: Pace = Pace { writes_per_group: 20, reads_per_node: 3, halt: Duration::from_secs(3) };
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Where a node has its log, and the segments that it keeps: its target and two more.
const LOG_DIRECTORY: &str = "log";
const LOG_FILES: usize = 6;
/// Large values after which every log has them.
const FILLING_WRITES_MAX: usize = 5_000;
/// What fills caches of blocks: in a round as much as all groups write into new tables.
const FILLING_VALUES: usize = 4096;
/// Blocks of such values take as much more than they count for as those of the run's small tables do.
const FILLING_BYTES: usize = 3 << 10;
const FILLING_ROUNDS_MAX: usize = 50;
/// What counts for full: a cache has parts, and what is too large for the rest of a part stays out.
const FULL_PERCENT: u64 = 90;
/// The node that is never killed, and which figures of it count alone.
const SURVIVOR: usize = 0;

/// Runs it, in network namespaces where there can be some.
pub fn run(bound: Bound) -> Result<()> {
    let binary = binary::find()?;
    let why_no_disks = mraft_frail::why_not();
    if let Some(why) = &why_no_disks {
        skipped(format_args!("no disk is hurt in the long run: {why}"));
    }
    let scenario = async |ground: Ground| {
        let manner =
            Manner { ground, has_proxies: true, has_disks: why_no_disks.is_none(), ..Manner::default() };
        let mut cluster = Cluster::start(manner, &binary, SHAPE).await?;
        let ended = endure(&mut cluster, bound).await;
        ended.map_err(|failure| failure.with_last_words(cluster.last_words()))
    };
    match Network::new(NODES) {
        Ok(network) => {
            let network = Arc::new(network);
            let ground = Ground::Namespaces(Arc::clone(&network));
            namespaces::run_as_client(&network, async || scenario(ground).await)
        }
        Err(why) => {
            skipped(format_args!("no partitions in the long run: {why}"));
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(scenario(Ground::loopback()))
        }
    }
}

async fn endure(cluster: &mut Cluster, bound: Bound) -> Result<()> {
    greedy::prepare(cluster).await?;
    if let Bound::Time(_) = bound {
        fill_logs(cluster).await?;
    }
    let mut load = Load::start_paced(cluster, SIZE, CLIENT_PAUSE)?;
    load.watch(cluster, 1, Consistency::Linearizable);
    load.probe(cluster).await?;
    let mut done = Done::default();
    hurt_all_at_once(cluster, &load, &mut done).await?;
    if let Bound::Time(_) = bound {
        // Of the processes that the run begins with.
        fill_caches(cluster).await?;
    }
    let sampler = Sampler::start(cluster);
    let went_on = in_turn(cluster, &load, bound, &sampler, &mut done).await;
    let curve = sampler.finish();
    // Also of a run that failed.
    let file = report::directory()?.join("endurance.csv");
    curve.write_csv(&file)?;
    report::tell("endurance", &longest_of_each(&done))?;
    let table = file.with_extension("md");
    std::fs::write(&table, curve.table(SURVIVOR))?;
    say(&format!("the curve is in {}, in short in {}", file.display(), table.display()));
    went_on?;
    hurt_all_at_once(cluster, &load, &mut done).await?;
    let recorded = load.finish().await?;

    let flat = judge_drift(&curve);
    let mut counts = Counts::new("endurance");
    counts.at_least(1, "rounds", done.rows.len() as u64);
    counts.tell("whole cycles after the warm-up", curve.whole_cycles());
    counts.tell("reads asked of nodes that did not know", done.reads_of_deceived);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    flat?;
    cluster.stop()
}

/// What the survivor does not survive.
async fn hurt_all_at_once(cluster: &mut Cluster, load: &Load, done: &mut Done) -> Result<()> {
    let mut all_killed = Signalled::new(Who::All, How::Killed);
    rounds::round(cluster, load, &mut all_killed, PACE, &[], done).await?;
    if cluster.nodes.iter().all(|node| node.disk.is_some()) {
        let mut no_power = Unpowered::new(Whose::All);
        rounds::round(cluster, load, &mut no_power, PACE, &[], done).await?;
    }
    Ok(())
}

/// Gives every log the files that it keeps, as warm-up: a node gets the last one when its log is long for once, which may otherwise be in
/// the first minute or in the last.
async fn fill_logs(cluster: &Cluster) -> Result<()> {
    for number in 0..FILLING_WRITES_MAX {
        let files: Vec<usize> = cluster.nodes.iter().map(log_files).collect::<Result<_>>()?;
        if files.iter().all(|files| *files >= LOG_FILES) {
            return Ok(());
        }
        if number % 100 == 0 {
            say(&format!("logs are filled: {files:?} of {LOG_FILES} files each after {number} large values"));
        }
        greedy::write_large(cluster, number).await?;
    }
    Err(Failure::new(format_args!(
        "after {FILLING_WRITES_MAX} large values not every log has {LOG_FILES} files"
    )))
}

/// Fills every cache of blocks, as far as caches count: the small tables of this run alone take long to, with blocks of tables that are
/// gone by then.
async fn fill_caches(cluster: &Cluster) -> Result<()> {
    let client = cluster.client(0)?;
    let key = |number: usize| [FOREIGN, b"filling-", number.to_string().as_bytes()].concat();
    for round in 0..FILLING_ROUNDS_MAX {
        let mut cached = Vec::new();
        for node in 0..cluster.nodes.len() {
            cached.push(cached_percent(cluster, node).await?);
        }
        say(&format!("caches of blocks are filled to {cached:?} %"));
        let is_full = cached.iter().all(|part| *part >= FULL_PERCENT);
        for number in 0..FILLING_VALUES {
            if is_full {
                client.delete(&key(number), Condition::None).await?;
            } else {
                client.put(&key(number), &vec![round as u8; FILLING_BYTES], Condition::None).await?;
            }
        }
        if is_full {
            return Ok(());
        }
        for node in 0..cluster.nodes.len() {
            let own = cluster.client_of_one(node)?;
            for number in 0..FILLING_VALUES {
                // What is not in a table yet is in one the next time.
                let _ = own.get(&key(number), Consistency::Stale).await?;
            }
        }
    }
    Err(Failure::new(format_args!("after {FILLING_ROUNDS_MAX} rounds not every cache of blocks is full")))
}

/// How full a node's cache of blocks is.
async fn cached_percent(cluster: &Cluster, node: usize) -> Result<u64> {
    let told = cluster.client_of_one(node)?.metrics().await?;
    let [cached, max] = ["mraft_block_cache_bytes ", "mraft_block_cache_bytes_max "]
        .map(|series| metrics::value(&told, series));
    Ok(cached.saturating_mul(100).checked_div(max).unwrap_or(0))
}

/// Segments of a node's log.
fn log_files(node: &Node) -> Result<usize> {
    let mut count = 0;
    for file in std::fs::read_dir(node.data().join(LOG_DIRECTORY))? {
        count += usize::from(file?.path().extension().is_some_and(|extension| extension == "log"));
    }
    Ok(count)
}

/// All faults in turn, until it is enough.
async fn in_turn(
    cluster: &mut Cluster,
    load: &Load,
    bound: Bound,
    sampler: &Sampler,
    done: &mut Done,
) -> Result<()> {
    let (mut faults, missing) = kinds::in_turn(cluster);
    missing.iter().for_each(skipped);
    let kinds_per_cycle = faults.len() as u64;
    for round in 0.. {
        let (cycle, place) = (round / kinds_per_cycle, round % kinds_per_cycle);
        let is_over = match bound {
            Bound::Rounds(rounds) => round >= rounds,
            Bound::Time(time) => place == 0 && sampler.began.elapsed() >= time,
        };
        if is_over {
            break;
        }
        let fault = &mut faults[place as usize];
        sampler.begin(cluster, cycle, fault.name());
        rounds::round(cluster, load, &mut **fault, PACE, &[SURVIVOR], done).await?;
        if place + 1 == kinds_per_cycle {
            sampler.end_cycle();
        }
        let (seconds, writes) = (sampler.began.elapsed().as_secs(), load.writes_acknowledged());
        say(&format!("{seconds:>5} s, cycle {cycle}: {}, {writes} writes", fault.name()));
    }
    Ok(())
}

fn longest_of_each(done: &Done) -> Vec<report::Row> {
    let mut rows: Vec<report::Row> = Vec::new();
    for row in &done.rows {
        match rows.iter_mut().find(|longest| longest.fault == row.fault) {
            None => rows.push(*row),
            Some(longest) => {
                longest.gap.of_all = longest.gap.of_all.max(row.gap.of_all);
                longest.gap.of_one = longest.gap.of_one.max(row.gap.of_one);
                longest.terms = longest.terms.max(row.terms);
            }
        }
    }
    rows
}

fn judge_drift(curve: &Curve) -> Result<()> {
    let drifts = curve.drifts(SURVIVOR);
    if drifts.is_empty() {
        let cycles = curve.whole_cycles();
        say(&format!(
            "drift: not judged, {cycles} whole cycles after the warm-up, at least {CYCLES_MIN} needed"
        ));
        return Ok(());
    }
    let mut drifted = Vec::new();
    for drift in &drifts {
        say(&format!(
            "{:>34}: {:>12.0} then {:>12.0}, {:+.1} %{}",
            drift.what,
            drift.first,
            drift.last,
            drift.percent(),
            if drift.is_judged { "" } else { " (only told)" }
        ));
        drifted.extend(drift.is_too_much().then(|| drift.what.clone()));
    }
    match drifted.is_empty() {
        true => Ok(()),
        false => {
            let what = drifted.join(", ");
            Err(Failure::new(format_args!(
                "not flat, more than {DRIFT_PERCENT_MAX} % gained or lost: {what}"
            )))
        }
    }
}

/// Samples every node every second.
struct Sampler {
    shared: Arc<Mutex<Sampling>>,
    sampling: JoinHandle<()>,
    began: Instant,
}

#[derive(Debug, Default)]
struct Sampling {
    curve: Curve,
    cycle: u64,
    fault: &'static str,
    /// Processes and directories.
    nodes: Vec<(Option<Pid>, std::path::PathBuf)>,
}

impl Sampler {
    fn start(cluster: &Cluster) -> Sampler {
        let began = Instant::now();
        let shared: Arc<Mutex<Sampling>> = Arc::default();
        let of_task = Arc::clone(&shared);
        let sampling = tokio::spawn(async move {
            loop {
                // A process that just died has no vitals.
                let _ = lock(&of_task).take(began.elapsed());
                tokio::time::sleep(SAMPLE_INTERVAL).await;
            }
        });
        let sampler = Sampler { shared, sampling, began };
        sampler.begin(cluster, 0, "");
        sampler
    }

    fn begin(&self, cluster: &Cluster, cycle: u64, fault: &'static str) {
        let mut sampling = lock(&self.shared);
        (sampling.cycle, sampling.fault) = (cycle, fault);
        sampling.nodes = cluster.nodes.iter().map(|node| (node.pid(), node.data())).collect();
    }

    fn end_cycle(&self) {
        lock(&self.shared).curve.cycles += 1;
    }

    fn finish(self) -> Curve {
        self.sampling.abort();
        std::mem::take(&mut lock(&self.shared).curve)
    }
}

impl Sampling {
    fn take(&mut self, at: Duration) -> Result<()> {
        for (node, (process, directory)) in self.nodes.iter().enumerate() {
            let Some(vitals) = process.map(Vitals::of).transpose()? else { continue };
            let disk_bytes = disk_bytes(directory)?;
            let (cycle, fault) = (self.cycle, self.fault);
            self.curve.samples.push(Sample { at, cycle, fault, node, vitals, disk_bytes });
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
