// SPDX-License-Identifier: Apache-2.0

//! `mraft bench reopen`: how long a node with many groups takes to come back, and what it weighs then.
//!
//! The directory is made in this process; opening it is measured in processes of their own, one for an empty directory and one for the
//! full one, so that neither inherits the other's memory.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use mraft::{Answer, HostError, NO_SLOT};
use mraft_types::Payload;
use serde::{Deserialize, Serialize};

use super::host::{HostOptions, open_hosts, wait_for_leaders};
use super::machine::{Machine, measure};

const DEADLINE: Duration = Duration::from_secs(60);

/// What one process found.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) groups: u64,
    pub(crate) open_ms: f64,
    pub(crate) resident_bytes: u64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReopenReport {
    pub(crate) groups: u64,
    pub(crate) entries_per_group: u64,
    pub(crate) open_ms: f64,
    pub(crate) empty_open_ms: f64,
    pub(crate) resident_mib: f64,
    pub(crate) empty_resident_mib: f64,
    pub(crate) above_empty_mib: f64,
    pub(crate) machine: Machine,
}

/// Makes the directory, then has it opened.
pub(crate) fn run(options: &HostOptions, entries_per_group: u64) -> Result<ReopenReport, HostError> {
    let io = |error| HostError::Io { path: options.directory.clone(), error };
    let machine = measure(&options.directory).map_err(io)?;
    fill(options, entries_per_group)?;
    let empty = options.directory.join("empty");
    let without =
        in_own_process(&HostOptions { groups: 0, directory: empty, ..options.clone() }).map_err(io)?;
    let with = in_own_process(options).map_err(io)?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(ReopenReport {
        groups: with.groups,
        entries_per_group,
        open_ms: with.open_ms,
        empty_open_ms: without.open_ms,
        resident_mib: mib(with.resident_bytes),
        empty_resident_mib: mib(without.resident_bytes),
        above_empty_mib: mib(with.resident_bytes.saturating_sub(without.resident_bytes)),
        machine,
    })
}

/// What the measuring process does: opens the first host and says how it went.
pub(crate) fn open(options: &HostOptions) -> Result<Opened, HostError> {
    let began = Instant::now();
    let hosts = open_hosts(options, &[1])?;
    let open_ms = began.elapsed().as_secs_f64() * 1e3;
    let groups = hosts.iter().map(|host| host.groups().len() as u64).sum();
    Ok(Opened { groups, open_ms, resident_bytes: crate::node::resident_bytes() })
}

fn fill(options: &HostOptions, entries_per_group: u64) -> Result<(), HostError> {
    let hosts = open_hosts(options, &[1, 2, 3])?;
    let led = wait_for_leaders(&hosts, options.groups, DEADLINE)?;
    let body = Payload::from(vec![b'v'; options.value_bytes]);
    for _ in 0..entries_per_group {
        let (done, ended) = sync_channel(led.len().max(1));
        for (group, host) in &led {
            let done = done.clone();
            hosts[*host].propose(*group, NO_SLOT, body.clone(), DEADLINE, move |answer| {
                // The receiver waits for all of them.
                let _ = done.try_send(matches!(answer, Answer::Applied { .. }));
            });
        }
        drop(done);
        for _ in &led {
            if !ended.recv_timeout(DEADLINE).unwrap_or(false) {
                let error =
                    io::Error::other("a write was not applied: the directory is not what it should be");
                return Err(HostError::Io { path: options.directory.clone(), error });
            }
        }
    }
    hosts.iter().for_each(mraft::NodeHost::close);
    Ok(())
}

fn in_own_process(options: &HostOptions) -> io::Result<Opened> {
    let program = std::env::current_exe()?;
    let output = Command::new(program)
        .args(["bench", "reopen", "-o", "json", "--measure-only", "--groups", &options.groups.to_string()])
        .args(["--base-port", &options.base_port.to_string(), "--dir"])
        .arg(Path::new(&options.directory))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("the measuring process ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(io::Error::other)
}
