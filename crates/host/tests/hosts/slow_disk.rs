// SPDX-License-Identifier: Apache-2.0

//! Rule T1: a slow disk gives leadership away, one that hangs stops its node, whatever the log was doing.

use std::sync::mpsc::channel;

use mraft::{Answer, NO_SLOT, NodeHost};
use mraft_disk::memory::Access;
use mraft_types::{Payload, ReplicaId};

use crate::support::{Cluster, GROUP, Gate, Gatekeeper, PATIENCE};

/// Where a disk in memory that does not hang is never found, however busy the machine is.
const SLOW_MS: u64 = 1_000;
const STALLED_MS: u64 = 3_000;
/// Longer than any test runs.
const NEVER_MS: u64 = 3_600_000;

/// Proposes and does not wait.
fn propose(host: &NodeHost, body: &'static str) {
    host.propose(GROUP, NO_SLOT, Payload::from(body), PATIENCE, |_| {});
}

fn leads(cluster: &Cluster, node: u64) -> bool {
    let known = cluster.hosts[&node].leader(GROUP).expect("the group is here");
    known.leader.is_some_and(|leader| leader.node() == Cluster::node(node))
}

/// Three nodes of which the first is on a disk with a gate for such accesses, and says that it is slow after `slow_ms` and stalled after `stalled_ms`. It was opened
/// before, so that the spare segments are there and nothing takes long by itself.
fn cluster(waits: fn(Access<'_>) -> bool, slow_ms: u64, stalled_ms: u64) -> (Cluster, Gatekeeper) {
    let (gate, disk) = Gate::on_a_disk(waits);
    let mut cluster = Cluster::prepare(3);
    cluster.put_on(1, disk);
    (1..=3).for_each(|node| cluster.found(node, cluster.config(node)));
    cluster.write("a");
    cluster.wait_until("all three follow, with spare segments", |cluster| {
        let has_spares = cluster.hosts[&1].metrics().log_gauges().segments_free >= 2;
        has_spares && cluster.hosts.values().all(|host| Cluster::stale(host) == "a")
    });
    cluster.close(1);
    let mut config = cluster.config(1);
    (config.slow_disk_ms, config.stalled_disk_ms) = (slow_ms, stalled_ms);
    let host = cluster.try_open(config).expect("its own directory");
    cluster.hosts.insert(1, host);
    (cluster, Gatekeeper(gate))
}

/// Hands leadership to a node until it has it.
fn make_leader(cluster: &Cluster, node: u64) {
    cluster.wait_until("the node leads", |cluster| {
        if leads(cluster, node) {
            return true;
        }
        let (answered, answer) = channel();
        let to = ReplicaId::new(0, Cluster::node(node));
        cluster.leader().transfer_leader(GROUP, Some(to), move |answer| _ = answered.send(answer));
        answer.recv().expect("every request is answered");
        false
    });
}

/// What a node counted of its slow disk.
fn slow_disk_count(host: &NodeHost, what: &str) -> u64 {
    let mut text = String::new();
    host.write_prometheus(&mut text);
    let name = format!("mraft_slow_disk_total{{what=\"{what}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().expect("a count"))
}

#[test]
fn t1_a_slow_disk_gives_leadership_away_once_per_group_and_minute() {
    let (cluster, gate) = cluster(|access| access == Access::Sync, 50, NEVER_MS);
    make_leader(&cluster, 1);
    gate.0.set_shut(true);
    propose(&cluster.hosts[&1], "b");
    cluster.wait_until("another node leads", |cluster| leads(cluster, 2) || leads(cluster, 3));
    assert_eq!(slow_disk_count(&cluster.hosts[&1], "leaderships_moved"), 1);
    gate.0.set_shut(false);
    make_leader(&cluster, 1);
    let before = slow_disk_count(&cluster.hosts[&1], "beats");
    gate.0.set_shut(true);
    propose(&cluster.hosts[&1], "c");
    cluster.wait_until("it is slow for a while", |cluster| {
        slow_disk_count(&cluster.hosts[&1], "beats") > before + 10
    });
    assert_eq!(slow_disk_count(&cluster.hosts[&1], "leaderships_moved"), 1, "within a minute");
    gate.0.set_shut(false);
    cluster.wait_until("everything is everywhere", |cluster| {
        cluster.hosts.values().all(|host| Cluster::stale(host) == "abc")
    });
}

#[test]
fn t1_a_disk_that_hangs_stops_its_node_and_the_others_go_on() {
    let (mut cluster, gate) = cluster(|access| access == Access::Sync, SLOW_MS, STALLED_MS);
    make_leader(&cluster, 2);
    gate.0.set_shut(true);
    // Nothing is known of a disk before somebody writes to it.
    let hung = cluster.hosts.remove(&1).expect("open");
    cluster.write("b");
    cluster.write("c");
    assert_eq!(cluster.read(), "abc", "two of three are enough");
    cluster.hosts.insert(1, hung);
    cluster
        .wait_until("the node says that its disk stalled", |cluster| cluster.hosts[&1].is_stopped_by_disk());
    let (answered, answer) = channel();
    cluster.hosts[&1].propose(GROUP, NO_SLOT, Payload::from("d"), PATIENCE, move |answer| {
        _ = answered.send(answer);
    });
    let answer = answer.recv().expect("every request is answered");
    assert!(matches!(answer, Answer::NotApplied(_)), "{answer:?}");
    let mut figures = String::new();
    cluster.hosts[&1].write_prometheus(&mut figures);
    assert!(figures.contains("mraft_replicas_failed 1\n"), "{figures}");
    gate.0.set_shut(false);
    cluster.close(1);
    cluster.open(1).expect("nothing was lost");
    cluster.wait_until("it catches up", |cluster| Cluster::stale(&cluster.hosts[&1]) == "abc");
}

#[test]
fn t1_a_disk_that_hangs_in_a_seal_is_seen() {
    // A batch says in its sixth byte that it is a seal (docs/formats/log.md).
    let is_seal = |access: Access<'_>| matches!(access, Access::Write { bytes, .. } if bytes.starts_with(b"mrb1") && bytes.get(5) == Some(&1));
    let (cluster, gate) = cluster(is_seal, SLOW_MS, STALLED_MS);
    gate.0.set_shut(true);
    // Whoever leads, the node writes it, and then comes the seal.
    cluster.hosts.values().for_each(|host| propose(host, "b"));
    cluster
        .wait_until("the node says that its disk stalled", |cluster| cluster.hosts[&1].is_stopped_by_disk());
    gate.0.set_shut(false);
}
