// SPDX-License-Identifier: Apache-2.0

//! Clients without patience: more than a node has room for, at every node, each with its next request at once, whatever became of the
//! last one. They ignore when they are told to come back, and while nodes are dead they knock at their doors.

use std::net::SocketAddrV4;
use std::sync::Arc;

use mraft_api::paths;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::failure::{Failure, Result};
use crate::fault::{Fault, Scene};
use crate::raw::Wire;
use crate::told::Told;
use crate::values::FOREIGN;
use crate::wait;

/// Of so many requests one is a read.
const READ_EVERY: usize = 4;
/// Of so many clients one keeps its connection as long as it is served; the others come anew with every request, so that there is always
/// a place for which many compete.
const ONE_STAYS_OF: usize = 4;
const VALUE_BYTES: usize = 64;
/// Descriptors that the run itself needs beside theirs.
const DESCRIPTORS_BESIDE: u64 = 512;

/// Clients that rage until this is dropped.
#[derive(Debug)]
pub struct Storm {
    /// What they are told.
    pub told: Arc<Told>,
    _clients: JoinSet<()>,
}

impl Storm {
    /// Has this process have as many connections, if the system lets it; why not.
    pub fn make_room(clients: usize) -> Result<()> {
        let wanted = clients as u64 + DESCRIPTORS_BESIDE;
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        if current.is_none_or(|may| may >= wanted) {
            return Ok(());
        }
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).map_err(|error| {
            Failure::new(format_args!(
                "it takes {wanted} file descriptors, and the limit is {current:?}: {error}"
            ))
        })
    }

    /// So many clients of each node.
    pub fn breaks_out(cluster: &Cluster, clients_per_node: usize) -> Storm {
        let told = Arc::<Told>::default();
        let mut clients = JoinSet::new();
        for node in &cluster.nodes {
            for number in 0..clients_per_node {
                clients.spawn(rage(node.http, number, Arc::clone(&told)));
            }
        }
        Storm { told, _clients: clients }
    }
}

/// A storm as one fault of many.
#[derive(Debug, Default)]
pub struct Stormed {
    storm: Option<Storm>,
}

/// A node with a ceiling of 256 MiB takes 341 connections at most.
const CLIENTS_PER_NODE: usize = 400;

impl Stormed {
    /// Why there can be none at this many nodes, if so.
    pub fn is_possible(nodes: usize) -> Result<()> {
        Storm::make_room(nodes * CLIENTS_PER_NODE)
    }
}

impl Fault for Stormed {
    fn name(&self) -> &'static str {
        "400 clients a node never wait"
    }

    fn inflict(&mut self, scene: &mut Scene<'_>) -> Result<()> {
        self.storm = Some(Storm::breaks_out(scene.cluster, CLIENTS_PER_NODE));
        Ok(())
    }

    fn has_hit(&self, cluster: &Cluster) -> Result<()> {
        let Some(storm) = &self.storm else { return Ok(()) };
        let least = (CLIENTS_PER_NODE * cluster.nodes.len()) as u64;
        let is_full = storm.told.count(429) >= least && storm.told.count(200) >= 1;
        wait::is(is_full, || storm.told.to_string())
    }

    fn lift(&mut self, _: &mut Scene<'_>) -> Result<()> {
        self.storm.take().map_or(Ok(()), |storm| storm.told.is_right())
    }
}

async fn rage(at: SocketAddrV4, number: usize, told: Arc<Told>) {
    let key = paths::kv(&[FOREIGN, b"storm-", number.to_string().as_bytes()].concat());
    let value = [b's'; VALUE_BYTES];
    let stays = number.is_multiple_of(ONE_STAYS_OF);
    let mut requests = number;
    loop {
        let mut wire = match Wire::open(at).await {
            Ok(wire) => wire,
            Err(failure) => {
                told.hear(&Err(failure));
                // Nobody to wait for: the others have their turn.
                tokio::task::yield_now().await;
                continue;
            }
        };
        loop {
            requests += 1;
            let is_read = requests.is_multiple_of(READ_EVERY);
            let (method, body) = if is_read { ("GET", &[][..]) } else { ("PUT", &value[..]) };
            let answer = wire.ask(method, &key, body).await;
            told.hear(&answer);
            let is_over = answer.map_or(true, |answer| answer.field("connection") == Some("close"));
            if is_over || !stays {
                break;
            }
        }
        wire.vanish();
    }
}
