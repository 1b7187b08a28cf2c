// SPDX-License-Identifier: Apache-2.0

//! `kill -9` of one node after another, of a majority, of all, and of a node that is installing snapshots: no acknowledged write is
//! lost, and every answer was true.

use std::time::Instant;

use mraft_faults::autopsy::Autopsy;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::counts::{Counts, Kills, say};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::load::{Load, Size};
use mraft_faults::{judge, metrics, wait};

use super::stages;

const NODES: usize = 3;
const SHAPE: Shape = Shape {
    nodes: NODES,
    groups: 16,
    snapshot_entries: 100,
    compaction_overhead: 50,
    snapshot_bytes_per_second: 8 << 20,
};
const SIZE: Size = Size { writers: 320, keys_per_writer: 48, rivals: 32, shared_keys: 8 };

/// What a run must come to; the environment may ask for more.
const KILLS_LEAST: u64 = 22;
const KILLS_VARIABLE: &str = "MRAFT_FAULTS_KILLS";
const WRITES_LEAST: u64 = 60_000;
const WRITES_VARIABLE: &str = "MRAFT_FAULTS_WRITES";
const IN_FLIGHT_LEAST: u64 = 200;
/// Of so many kills one must have found a recycled segment half overwritten.
const KILLS_PER_RECYCLE: u64 = 4;
const INSTALLS_INTERRUPTED_LEAST: u64 = 5;
/// Kills of one cycle of [`CYCLE`].
const KILLS_PER_CYCLE: u64 = 11;

/// Who dies in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    One,
    Majority,
    All,
    /// One node, until the others have truncated what it lacks; then twice while snapshots come in.
    Installing,
}

const CYCLE: [Round; 6] =
    [Round::One, Round::Majority, Round::One, Round::Installing, Round::One, Round::All];

#[test]
fn no_kill_loses_an_acknowledged_write() {
    super::run_cluster(Manner::default(), SHAPE, scenario);
}

async fn scenario(cluster: &mut Cluster) -> Result<()> {
    let kills_wanted = asked_for(KILLS_VARIABLE, KILLS_LEAST)?;
    let writes_wanted = asked_for(WRITES_VARIABLE, WRITES_LEAST)?;
    let began = Instant::now();
    let rounds = kills_wanted.div_ceil(KILLS_PER_CYCLE) * CYCLE.len() as u64;
    let mut run = Run {
        load: Load::start(cluster, SIZE)?,
        cluster,
        kills: Kills::default(),
        autopsies: vec![Autopsy::default(); NODES],
        writes_per_round: writes_wanted / rounds + 1,
    };
    for round in 0..rounds {
        let kind = CYCLE[(round % CYCLE.len() as u64) as usize];
        run.round(kind, round as usize % NODES).await?;
        say(&format!(
            "round {} of {rounds} ({kind:?}): {} kills, {} writes acknowledged, {} recycles and {} installs interrupted, {} s",
            round + 1,
            run.kills.kills,
            run.load.writes_acknowledged(),
            run.kills.recycles_interrupted,
            run.kills.installs_interrupted,
            began.elapsed().as_secs()
        ));
    }
    run.progress("the last round", writes_wanted.saturating_sub(run.load.writes_acknowledged())).await?;

    let Run { load, cluster, kills, .. } = run;
    let writes = load.writes_acknowledged();
    let recorded = load.finish().await?;
    let mut counts = Counts::new("kill -9 under load");
    counts.at_least(kills_wanted, "kills", kills.kills);
    counts.at_least(1, "times one node", kills.of_one);
    counts.at_least(1, "times a majority", kills.of_majority);
    counts.at_least(1, "times all nodes", kills.of_all);
    counts.at_least(
        IN_FLIGHT_LEAST,
        "fewest writes in flight at a kill",
        kills.writes_in_flight_least.unwrap_or(0),
    );
    counts.at_least(writes_wanted, "writes acknowledged", writes);
    counts.tell("segments recycled, as last told before a kill", kills.recycles);
    counts.at_least(
        kills_wanted / KILLS_PER_RECYCLE,
        "kills with a recycled segment half overwritten",
        kills.recycles_interrupted,
    );
    counts.at_least(INSTALLS_INTERRUPTED_LEAST, "snapshot installs interrupted", kills.installs_interrupted);
    counts.at_least(1, "snapshots installed", kills.installs_done);
    let judged = judge::judge(cluster, &recorded, &mut counts).await;
    let enough = counts.close();
    judged?;
    enough?;
    cluster.stop()
}

struct Run<'a> {
    cluster: &'a mut Cluster,
    load: Load,
    kills: Kills,
    autopsies: Vec<Autopsy>,
    writes_per_round: u64,
}

impl Run<'_> {
    async fn round(&mut self, round: Round, first: usize) -> Result<()> {
        self.cluster.serves().await?;
        self.progress("all nodes run", self.writes_per_round / 2).await?;
        let next = (first + 1) % NODES;
        match round {
            Round::One => {
                self.kill(&[first]).await?;
                self.kills.of_one += 1;
                self.progress("a minority is dead", self.writes_per_round / 2).await?;
                self.cluster.start_node(first)
            }
            Round::Majority => {
                self.kill(&[first, next]).await?;
                self.kills.of_majority += 1;
                self.cluster.start_node(first)?;
                self.progress("a majority is back", self.writes_per_round / 2).await?;
                self.cluster.start_node(next)
            }
            Round::All => {
                self.kill(&[0, 1, 2]).await?;
                self.kills.of_all += 1;
                (0..NODES).try_for_each(|node| self.cluster.start_node(node))
            }
            Round::Installing => {
                self.kill(&[first]).await?;
                self.kills.of_one += 1;
                stages::is_left_behind(self.cluster, first).await?;
                for _ in 0..2 {
                    self.cluster.start_node(first)?;
                    self.is_installing(first).await?;
                    self.kill(&[first]).await?;
                    self.kills.of_one += 1;
                }
                self.cluster.start_node(first)
            }
        }
    }

    /// Kills these nodes at once, with enough writes under way.
    async fn kill(&mut self, nodes: &[usize]) -> Result<()> {
        for node in nodes {
            // A node that is hardly up may not have its door open yet.
            let told = self.cluster.client_of_one(*node)?.metrics().await.unwrap_or_default();
            self.kills.recycles += metrics::value(&told, "mraft_log_segments_recycled_total");
        }
        let load = &self.load;
        let in_flight = wait::until("enough writes are in flight", async || {
            let in_flight = load.writes_in_flight();
            wait::is(in_flight >= IN_FLIGHT_LEAST, || format!("{in_flight}"))?;
            Ok(in_flight)
        })
        .await?;
        self.kills.in_flight(in_flight);
        nodes.iter().try_for_each(|node| self.cluster.nodes[*node].kill())?;
        for node in nodes {
            self.kills.add(self.autopsies[*node].look(&self.cluster.nodes[*node].data())?);
        }
        Ok(())
    }

    async fn progress(&mut self, when: &str, more: u64) -> Result<()> {
        stages::progress(self.cluster, &self.load, when, more).await
    }

    async fn is_installing(&mut self, node: usize) -> Result<()> {
        let data = self.cluster.nodes[node].data();
        let (process, autopsy) = (&mut self.cluster.nodes[node], &self.autopsies[node]);
        wait::until("a snapshot comes in", async || {
            process.must_be_well()?;
            wait::is(autopsy.installs_under_way(&data) > 0, || "none does".to_owned())
        })
        .await
    }
}

fn asked_for(variable: &str, least: u64) -> Result<u64> {
    let Some(text) = std::env::var_os(variable) else { return Ok(least) };
    let number = text.to_str().and_then(|text| text.parse::<u64>().ok()).filter(|number| *number >= least);
    number.ok_or_else(|| Failure::new(format_args!("{variable} must be a number, at least {least}")))
}
