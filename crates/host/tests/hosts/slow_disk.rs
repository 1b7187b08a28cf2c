// SPDX-License-Identifier: Apache-2.0

//! Rule T1: a slow disk gives leadership away, one that hangs stops its node, whatever the log was doing.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, Machines, NO_SLOT, NodeHost};
use mraft_disk::MemoryDisk;
use mraft_disk::memory::Access;
use mraft_types::Payload;

use crate::support::{Cluster, GROUP, Gate, Gatekeeper, List, PATIENCE, slow_disk_count};

/// Where a disk in memory that does not hang is never found, however busy the machine is.
const SLOW_MS: u64 = 1_000;
const STALLED_MS: u64 = 3_000;
/// Longer than any test runs.
const NEVER_MS: u64 = 3_600_000;

/// A command that somebody has to be asked again for until it is applied, or nobody answers: on a busy machine leaders change.
#[derive(Default)]
struct Wanted(RefCell<Option<Receiver<Answer>>>);

impl Wanted {
    /// Proposes it unless it is on its way or done; does not wait.
    fn ask(&self, host: &NodeHost) {
        let mut asked = self.0.borrow_mut();
        let is_refused = |answer: &Receiver<Answer>| {
            answer.try_recv().is_ok_and(|answer| !matches!(answer, Answer::Applied { .. }))
        };
        if asked.as_ref().is_none_or(is_refused) {
            let (answered, answer) = channel();
            host.propose(GROUP, NO_SLOT, Payload::from("b"), PATIENCE, move |answer| {
                _ = answered.send(answer);
            });
            *asked = Some(answer);
        }
    }

    /// Forgets that it was asked for.
    fn anew(&self) {
        *self.0.borrow_mut() = None;
    }
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

/// Shuts the gate behind which the first node hangs until that node has given leadership away. How often is decided in `Moves`, under a clock of its tests.
fn shut_until_moved(cluster: &Cluster, gate: &Gate) {
    let wanted = Wanted::default();
    let lead = || {
        gate.set_shut(false);
        cluster.make_leader(1);
        gate.set_shut(true);
        wanted.anew();
    };
    lead();
    cluster.wait_until("it gives leadership away and another node leads", |cluster| {
        let others_lead = cluster.leads(2) || cluster.leads(3);
        if others_lead && slow_disk_count(&cluster.hosts[&1], "leaderships_moved") > 0 {
            return true;
        }
        if others_lead {
            // On a busy machine they may have been elected for another reason.
            lead();
        }
        wanted.ask(&cluster.hosts[&1]);
        false
    });
    gate.set_shut(false);
}

/// Everybody has the same, between its ends whatever came of what was wanted.
fn wait_until_everywhere(cluster: &Cluster) {
    cluster.write("c");
    cluster.wait_until("everything is everywhere", |cluster| {
        let found: Vec<String> = cluster.hosts.values().map(Cluster::stale).collect();
        let is_whole = |one: &String| one.starts_with('a') && one.ends_with('c');
        found.iter().all(|one| is_whole(one) && *one == found[0])
    });
}

#[test]
fn t1_a_slow_disk_gives_leadership_away() {
    let (cluster, gate) = cluster(|access| access == Access::Sync, SLOW_MS, NEVER_MS);
    shut_until_moved(&cluster, &gate.0);
    wait_until_everywhere(&cluster);
}

#[test]
fn t1_a_disk_that_hangs_stops_its_node_and_the_others_go_on() {
    let (mut cluster, gate) = cluster(|access| access == Access::Sync, SLOW_MS, STALLED_MS);
    cluster.make_leader(2);
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
    let wanted = Wanted::default();
    cluster.wait_until("the node says that its disk stalled", |cluster| {
        // Whoever leads, the node writes it, and then comes the seal.
        wanted.ask(cluster.leader());
        cluster.hosts[&1].is_stopped_by_disk()
    });
    gate.0.set_shut(false);
}

#[test]
fn t1_a_disk_on_which_writes_wait_behind_others_is_slow_although_each_is_done_in_time() {
    const SYNC: Duration = Duration::from_millis(700);
    let disk = MemoryDisk::new();
    let mut cluster = Cluster::prepare(3);
    cluster.put_on(1, disk.clone());
    let mut config = cluster.config(1);
    // A write that comes while another one is synced waits for both.
    (config.slow_disk_ms, config.stalled_disk_ms) = (1_200, NEVER_MS);
    cluster.found(1, config);
    (2..=3).for_each(|node| cluster.found(node, cluster.config(node)));
    cluster.write("a");
    cluster.make_leader(1);
    disk.set_before(|path, access| {
        if path.to_string_lossy().contains("segment-") && access == Access::Sync {
            thread::sleep(SYNC);
        }
    });
    cluster.wait_until("leadership is moved away", |cluster| {
        if slow_disk_count(&cluster.hosts[&1], "leaderships_moved") > 0 {
            return true;
        }
        // On a busy machine others may have been elected for another reason.
        cluster.make_leader(1);
        cluster.hosts[&1].propose(GROUP, NO_SLOT, Payload::from("b"), PATIENCE, |_| {});
        false
    });
    // Closing waits for the segment that is being filled.
    disk.set_before(|_, _| {});
}

/// A list behind a gate.
struct Held(Arc<Gate>, List);

impl InMemoryMachine for Held {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        self.0.pass();
        self.1.apply(command, answer);
    }

    fn query(&self, query: &[u8], answer: &mut Vec<u8>) {
        self.1.query(query, answer);
    }

    fn save(&self, state: &mut Vec<u8>) {
        self.1.save(state);
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.1.restore(state)
    }
}

/// Three nodes, of which the first one's state machine waits at a gate, as it does when its disk hangs while the log's does not.
fn cluster_with_held_machine(slow_ms: u64, stalled_ms: u64) -> (Cluster, Gatekeeper) {
    let gate = Arc::new(Gate::default());
    let mut cluster = Cluster::prepare(3);
    let mut config = cluster.config(1);
    (config.slow_disk_ms, config.stalled_disk_ms) = (slow_ms, stalled_ms);
    let own = Arc::clone(&gate);
    let machines = Machines::new().with("list", move |context| {
        let held = Held(Arc::clone(&own), List::default());
        Ok(in_memory(context.disk.clone(), context.directory.clone(), 1_000_000, held))
    });
    let host = NodeHost::open(config, machines, None).expect("a fresh directory opens");
    host.start_groups(&[cluster.spec()]).expect("a group starts");
    cluster.hosts.insert(1, host);
    (2..=3).for_each(|node| cluster.found(node, cluster.config(node)));
    cluster.write("a");
    (cluster, Gatekeeper(gate))
}

#[test]
fn t1_a_state_machine_that_does_not_come_back_gives_leadership_away() {
    let (cluster, gate) = cluster_with_held_machine(SLOW_MS, NEVER_MS);
    shut_until_moved(&cluster, &gate.0);
    wait_until_everywhere(&cluster);
}

#[test]
fn t1_a_state_machine_that_never_comes_back_stops_its_node_and_the_others_go_on() {
    let (mut cluster, gate) = cluster_with_held_machine(SLOW_MS, STALLED_MS);
    gate.0.set_shut(true);
    let wanted = Wanted::default();
    cluster.wait_until("the node says that its machine stalled", |cluster| {
        wanted.ask(cluster.leader());
        cluster.hosts[&1].is_stopped_by_disk()
    });
    let reason = cluster.hosts[&1].stopped_by_disk().expect("it says why");
    assert!(reason.contains("a state machine has not come back"), "{reason}");
    let stopped = cluster.hosts.remove(&1).expect("open");
    cluster.write("c");
    assert!(cluster.read().starts_with('a') && cluster.read().ends_with('c'), "two of three are enough");
    gate.0.set_shut(false);
    stopped.close();
}
