// SPDX-License-Identifier: Apache-2.0

//! Real nodes, real kills. Every scenario prints its figures.

mod certificates;
#[cfg(target_os = "linux")]
mod disks;
#[cfg(target_os = "linux")]
mod disks_errors;
#[cfg(target_os = "linux")]
mod disks_full;
#[cfg(target_os = "linux")]
mod disks_power;
#[cfg(target_os = "linux")]
mod disks_rot;
#[cfg(target_os = "linux")]
mod disks_slow;
mod endurance;
mod hot;
mod kills;
mod long_stop;
mod many_groups;
mod partitions;
mod replacement;
mod resources;
mod rolling;
mod signals;
mod snapshot_rates;
mod stages;
mod storms;
mod threads;
mod weathers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mraft_faults::binary;
use mraft_faults::cluster::{Cluster, Manner, Shape};
use mraft_faults::failure::{Failure, Result};
use mraft_faults::ground::Ground;
use mraft_faults::namespaces::{self, Network};
use mraft_faults::skips::skipped;

/// One cluster has the machine for itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a scenario to its end.
fn run(scenario: impl AsyncFnOnce() -> Result<()>) {
    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::from);
    if let Err(failure) = runtime.and_then(|runtime| runtime.block_on(scenario())) {
        panic!("{failure}");
    }
}

/// Runs a scenario of a cluster that serves.
fn run_cluster(manner: Manner, shape: Shape, scenario: impl AsyncFnOnce(&mut Cluster) -> Result<()>) {
    run(async || in_cluster(manner, shape, scenario).await);
}

/// The same with nodes that live in namespaces; says so where there can be none.
fn run_in_namespaces(shape: Shape, scenario: impl AsyncFnOnce(&mut Cluster) -> Result<()> + Send) {
    let _alone = alone();
    let network = match Network::new(shape.nodes) {
        Ok(network) => Arc::new(network),
        Err(why) => return skipped(format_args!("no scenario in network namespaces: {why}")),
    };
    let ended = namespaces::run_as_client(&network, async || {
        let ground = Ground::Namespaces(Arc::clone(&network));
        in_cluster(Manner { ground, ..Manner::default() }, shape, scenario).await
    });
    if let Err(failure) = ended {
        panic!("{failure}");
    }
}

async fn in_cluster(
    manner: Manner,
    shape: Shape,
    scenario: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let mut cluster = Cluster::start(manner, &binary::find()?, shape).await?;
    let ended = scenario(&mut cluster).await;
    ended.map_err(|failure| explained(&mut cluster, failure))
}

/// The failure together with what the nodes said last.
fn explained(cluster: &mut Cluster, failure: Failure) -> Failure {
    failure.with_last_words(cluster.last_words())
}
