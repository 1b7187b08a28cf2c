// SPDX-License-Identifier: Apache-2.0

//! What one group's or one node's trouble costs the others: nothing.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, GroupSpec, HostEvent, Machines, NO_SLOT, NodeHost, NotApplied, Unknown};
use mraft_disk::MemoryDisk;
use mraft_disk::memory::Faults;
use mraft_types::{GroupId, Payload, ReplicaId, SlotRange, SlotSet};

use crate::support::{Cluster, Count, GROUP, Gate, Gatekeeper, PATIENCE, ask, ask_leader, counts};

const OTHER_GROUP: GroupId = GroupId(1);

#[test]
fn t4_a_panic_in_one_groups_machine_stops_that_replica_and_no_other() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let host = NodeHost::open(cluster.config(1), counts(), None).expect("its own directory");
    host.start_groups(&[GroupSpec { group: OTHER_GROUP, ..cluster.spec() }]).expect("a second group");
    let answer = ask_leader(&host, GROUP, NO_SLOT, "boom");
    assert!(!matches!(answer, Answer::Applied { .. }), "{answer:?}");
    cluster.hosts.insert(1, host);
    cluster.wait_until("the replica says why it stopped", |cluster| {
        let status = cluster.hosts[&1].group_status(GROUP).expect("it is listed");
        status.failure.is_some_and(|failure| failure.contains("panicked"))
    });
    let answer = ask_leader(&cluster.hosts[&1], OTHER_GROUP, NO_SLOT, "fine");
    assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    cluster.close(1);
}

#[test]
fn e5_a_command_of_a_slot_that_the_group_does_not_have_changes_nothing() {
    let mut cluster = Cluster::start(1);
    let slots = SlotSet::from_ranges(vec![SlotRange { first: 0, last: 99 }]).expect("a range");
    cluster.close(1);
    let host = NodeHost::open(cluster.config(1), counts(), None).expect("its own directory");
    host.start_groups(&[GroupSpec { group: OTHER_GROUP, slots, ..cluster.spec() }]).expect("a second group");
    assert!(matches!(ask_leader(&host, OTHER_GROUP, 100, "x"), Answer::Moved { .. }));
    let Answer::Applied { result, .. } = ask_leader(&host, OTHER_GROUP, 99, "x") else {
        unreachable!("the group has the slot")
    };
    assert_eq!(result.as_ref(), 1_u64.to_le_bytes(), "the first command was not applied");
    host.close();
}

#[test]
fn d10_a_group_whose_state_is_damaged_does_not_start_and_the_others_do() {
    let mut cluster = Cluster::start(1);
    let other = GroupSpec { group: OTHER_GROUP, ..cluster.spec() };
    cluster.hosts[&1].start_groups(&[other]).expect("a second group");
    cluster.write("a");
    cluster.hosts[&1].request_snapshot(GROUP).expect("room");
    cluster.write("b");
    cluster.close(1);
    let state = cluster.data(1).join("groups").join(format!("0-{:016x}", 1)).join("state");
    let whole = std::fs::read(&state).expect("it was persisted");
    let mut damaged = whole.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    std::fs::write(&state, damaged).expect("written");

    cluster.open(1).expect("one damaged group is no reason not to start");
    let host = &cluster.hosts[&1];
    assert!(matches!(ask_leader(host, OTHER_GROUP, NO_SLOT, "fine"), Answer::Applied { .. }));
    let status = host.group_status(GROUP).expect("it is listed");
    assert_eq!(status.state, mraft::ReplicaState::Failed);
    let failure = status.failure.expect("it says why");
    assert!(failure.contains("damaged") && failure.contains("start the node again"), "{failure}");
    let event = host.events().try_next();
    assert!(matches!(event, Some(HostEvent::ReplicaFailed { group: GROUP, .. })), "{event:?}");
    let mut figures = String::new();
    host.write_prometheus(&mut figures);
    assert!(figures.contains("mraft_replicas_failed 1\n"), "{figures}");
    let warnings = host.status().warnings;
    assert!(
        matches!(&warnings[..], [said] if said.starts_with("1 replica here has stopped (group 0: ") && said.contains("damaged")),
        "{warnings:?}"
    );
    assert!(matches!(ask(host, GROUP, NO_SLOT, "c"), Answer::NotApplied(_)));
    cluster.close(1);

    std::fs::write(&state, whole).expect("written");
    cluster.open(1).expect("mended");
    assert_eq!(cluster.read(), "ab", "its log was kept");
}

/// Panics when it is restored.
struct Explosive;

impl InMemoryMachine for Explosive {
    fn apply(&mut self, _command: &Command<'_>, _answer: &mut Vec<u8>) {}
    fn query(&self, _query: &[u8], _answer: &mut Vec<u8>) {}
    fn save(&self, _state: &mut Vec<u8>) {}
    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        unreachable!("the machine has a bug")
    }
}

#[test]
fn t4_a_panic_while_a_machine_is_opened_is_that_groups_alone() {
    let mut cluster = Cluster::start(1);
    cluster.write("a");
    cluster.hosts[&1].request_snapshot(GROUP).expect("room");
    cluster.close(1);
    let machines = Machines::new()
        .with("list", |context| Ok(in_memory(context.disk.clone(), context.directory.clone(), 0, Explosive)));
    let host = NodeHost::open(cluster.config(1), machines, None).expect("the node starts");
    let failure = host.group_status(GROUP).expect("it is listed").failure.expect("it says why");
    assert!(failure.contains("panicked"), "{failure}");
    host.close();
}

#[test]
fn d10_a_log_that_cannot_be_read_for_a_follower_ends_its_replica_and_orders_no_snapshot() {
    let mut cluster = Cluster::prepare(3);
    let disks = [1, 2].map(|node| (node, MemoryDisk::new()));
    disks.iter().for_each(|(node, disk)| cluster.put_on(*node, disk.clone()));
    for node in 1..=3 {
        let host = cluster.open_with(cluster.config(node), counts()).expect("a fresh directory");
        host.start_groups(&[cluster.spec()]).expect("a group");
        cluster.hosts.insert(node, host);
    }
    cluster.wait_until("one of the two leads", |cluster| {
        let to = ReplicaId::new(0, Cluster::node(1));
        let (answered, answer) = channel();
        cluster.leader().transfer_leader(GROUP, Some(to), move |answer| _ = answered.send(answer));
        answer.recv().expect("every request is answered");
        cluster.leader().node() == Cluster::node(1)
    });
    cluster.close(3);
    // More than stays in memory for followers.
    let body = "x".repeat(400 << 10);
    let mut written = 0;
    while written < 5 {
        let (answered, answer) = channel();
        let payload = Payload::copy_from(body.as_bytes());
        cluster.leader().propose(GROUP, NO_SLOT, payload, PATIENCE, move |answer| _ = answered.send(answer));
        written += u64::from(matches!(answer.recv(), Ok(Answer::Applied { .. })));
    }
    for (_, disk) in &disks {
        disk.set_faults(Faults { reads_fail: true, ..Faults::default() });
    }
    let host = cluster.open_with(cluster.config(3), counts()).expect("its own directory");
    cluster.hosts.insert(3, host);
    cluster.wait_until("who was asked for old entries says why it stopped", |cluster| {
        let of = |host: &NodeHost| host.group_status(GROUP).ok().and_then(|status| status.failure);
        cluster.hosts.values().filter_map(of).any(|why| why.contains("log cannot be read back"))
    });
}

/// Waits at a gate before it takes a command.
struct Held(Arc<Gate>, Count);

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

#[test]
fn e4_a_command_whose_state_machine_hangs_is_unknown_at_its_deadline_and_answered_once() {
    let gate = Arc::new(Gate::default());
    let own = Arc::clone(&gate);
    let machines = Machines::new().with("list", move |context| {
        let held = Held(Arc::clone(&own), Count::default());
        Ok(in_memory(context.disk.clone(), context.directory.clone(), 0, held))
    });
    let mut cluster = Cluster::prepare(1);
    let host = cluster.open_with(cluster.config(1), machines).expect("a fresh directory");
    host.start_groups(&[cluster.spec()]).expect("a group");
    cluster.hosts.insert(1, host);
    let host = &cluster.hosts[&1];
    assert!(matches!(ask_leader(host, GROUP, NO_SLOT, "a"), Answer::Applied { .. }));
    let opens = Gatekeeper(Arc::clone(&gate));
    gate.set_shut(true);
    let (answered, first) = channel();
    host.propose(GROUP, NO_SLOT, Payload::from("b"), PATIENCE, move |answer| _ = answered.send(answer));
    cluster.wait_until("the machine hangs", |_| gate.holds_up());
    let (answered, second) = channel();
    host.propose(GROUP, NO_SLOT, Payload::from("c"), Duration::from_millis(100), move |answer| {
        answered.send(answer).expect("somebody listens");
    });
    let answer = second.recv_timeout(PATIENCE).expect("nobody waits for a state machine for ever");
    // On a machine that is very busy it was not even proposed.
    let is_late = |answer: &Answer| {
        matches!(answer, Answer::Unknown(Unknown::Deadline) | Answer::NotApplied(NotApplied::Deadline))
    };
    assert!(is_late(&answer), "{answer:?}");
    assert!(gate.holds_up(), "it still hangs");
    drop(opens);
    assert!(matches!(first.recv(), Ok(Answer::Applied { .. })), "it had more time");
    assert!(matches!(ask(host, GROUP, NO_SLOT, "d"), Answer::Applied { .. }), "it goes on");
    assert!(second.try_recv().is_err(), "one answer was all there is");
}
