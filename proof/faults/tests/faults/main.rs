// SPDX-License-Identifier: Apache-2.0

//! Real nodes, real kills. Every scenario prints its figures.

#[cfg(target_os = "linux")]
mod disks;
#[cfg(target_os = "linux")]
mod disks_power;
mod kills;
mod long_stop;
mod replacement;
mod stages;

use std::sync::{Mutex, PoisonError};

use mraft_faults::cluster::Cluster;
use mraft_faults::failure::{Failure, Result};

/// One cluster has the machine for itself.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a scenario to its end.
fn run(scenario: impl AsyncFnOnce() -> Result<()>) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::from);
    if let Err(failure) = runtime.and_then(|runtime| runtime.block_on(scenario())) {
        panic!("{failure}");
    }
}

/// The failure together with what the nodes said last.
fn explained(cluster: &mut Cluster, failure: Failure) -> Failure {
    failure.while_doing(format_args!("{}\n--- the run failed", cluster.last_words()))
}
