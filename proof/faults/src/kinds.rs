// SPDX-License-Identifier: Apache-2.0

//! The kinds of faults.

pub mod disks;
pub mod greedy;
pub mod links;
pub mod rolling;
pub mod signals;
pub mod starved;
pub mod storm;
pub mod weathers;

use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::kinds::disks::{IllDisk, Unpowered};
use crate::kinds::greedy::Greedy;
use crate::kinds::links::{Narrow, Partitioned, Whose};
use crate::kinds::rolling::Rolling;
use crate::kinds::signals::{How, Signalled, Who};
use crate::kinds::starved::{By, Starved};
use crate::kinds::storm::Stormed;
use crate::kinds::weathers::Weathered;

/// Every kind that this cluster can be hurt with and that leaves all its nodes what they were, but the death of all nodes at once, so
/// ordered that neighbours are of different families; and why which ones are missing.
pub fn in_turn(cluster: &Cluster) -> (Vec<Box<dyn Fault>>, Vec<String>) {
    fn boxed<F: Fault + 'static>(faults: impl IntoIterator<Item = F>) -> Vec<Box<dyn Fault>> {
        faults.into_iter().map(|fault| Box::new(fault) as Box<dyn Fault>).collect()
    }
    let all_killed = Signalled::new(Who::All, How::Killed);
    let mut missing = Vec::new();
    let mut families =
        vec![boxed(Signalled::all().filter(|fault| fault.name() != all_killed.name())), boxed(Greedy::all())];
    let mut starved = Vec::new();
    for by in [By::ControlGroup, By::Neighbours] {
        match Starved::is_possible(by) {
            Ok(()) => starved.push(Starved::new(by)),
            Err(why) => missing.push(format!("no node is starved of CPU: {why}")),
        }
    }
    families.push(boxed(starved));
    match cluster.nodes.iter().all(|node| node.proxy.is_some()) {
        true => families.push(boxed(Weathered::all())),
        false => missing.push("no bad connections: the nodes have no proxies".to_owned()),
    }
    match cluster.ground().network().map(|network| Narrow::is_possible(network)) {
        None => missing.push("no partitions: the nodes are not in namespaces of their own".to_owned()),
        Some(narrow) => {
            families.push(boxed(Partitioned::all()));
            match narrow {
                Ok(()) => families.push(boxed([Whose::Leader, Whose::All].map(Narrow::new))),
                Err(why) => missing.push(format!("no limits of bandwidth: {why}")),
            }
        }
    }
    match cluster.nodes.iter().all(|node| node.disk.is_some()) {
        true => families.extend([boxed(IllDisk::all()), boxed(Unpowered::all())]),
        false => missing
            .push("no bad disks and no power cuts: the nodes are on disks that cannot be hurt".to_owned()),
    }
    families.push(boxed([Rolling::default()]));
    match Stormed::is_possible(cluster.nodes.len()) {
        Ok(()) => families.push(boxed([Stormed::default()])),
        Err(why) => missing.push(format!("no storm of clients: {why}")),
    }
    let mut families: Vec<_> = families.into_iter().map(Vec::into_iter).collect();
    let mut faults: Vec<Box<dyn Fault>> = Vec::new();
    loop {
        let before = faults.len();
        faults.extend(families.iter_mut().filter_map(Iterator::next));
        if faults.len() == before {
            return (faults, missing);
        }
    }
}
