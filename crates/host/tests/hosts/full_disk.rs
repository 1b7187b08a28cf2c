// SPDX-License-Identifier: Apache-2.0

//! Rule D10: no room for the log is back-pressure that clears by itself.

use std::sync::mpsc::{Receiver, TryRecvError, channel};

use mraft::{Answer, HostEvent, NO_SLOT, NodeHost, NotApplied};
use mraft_disk::MemoryDisk;
use mraft_disk::memory::Faults;
use mraft_types::Payload;

use crate::support::{Cluster, GROUP, PATIENCE, counts, slow_disk_count};

fn propose(host: &NodeHost, body: &Payload) -> Receiver<Answer> {
    let (answered, answer) = channel();
    host.propose(GROUP, NO_SLOT, body.clone(), PATIENCE, move |answer| _ = answered.send(answer));
    answer
}

#[test]
fn d10_a_full_disk_refuses_proposals_until_there_is_room_and_then_goes_on() {
    let disk = MemoryDisk::new();
    let mut cluster = Cluster::prepare(1);
    cluster.put_on(1, disk.clone());
    let host = cluster.open_with(cluster.config(1), counts()).expect("a fresh directory");
    host.start_groups(&[cluster.spec()]).expect("a group starts");
    cluster.hosts.insert(1, host);
    let events = cluster.hosts[&1].events();
    cluster.wait_until("the spare segments are ready", |cluster| {
        cluster.write("x");
        cluster.hosts[&1].metrics().log_gauges().segments_free >= 2
    });
    let host = &cluster.hosts[&1];
    let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
    disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    let body = Payload::from(vec![b'v'; 1 << 20]);
    let mut health = Vec::new();
    let mut look = || {
        while let Some(event) = events.try_next() {
            if let HostEvent::LogFull(full) = event {
                health.push(full);
            }
        }
        health.clone()
    };
    let stuck = 'full: loop {
        let answer = propose(host, &body);
        loop {
            match answer.try_recv() {
                Ok(Answer::Applied { .. }) => break,
                Ok(other) => panic!("{other:?}"),
                Err(TryRecvError::Disconnected) => panic!("every request is answered"),
                Err(TryRecvError::Empty) if look() == [true] => break 'full answer,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
    };
    for _ in 0..200 {
        let answer = propose(host, &body).recv().expect("every request is answered");
        assert!(matches!(answer, Answer::NotApplied(NotApplied::Disk(_))), "{answer:?}");
    }
    assert_eq!(look(), [true], "it is full, once, and says nothing else until it is not");
    disk.set_faults(Faults::default());
    // Nobody writes: the log finds out by itself.
    let answer = stuck.recv().expect("every request is answered");
    assert!(matches!(answer, Answer::Applied { .. }), "{answer:?}");
    cluster.wait_until("it takes proposals again", |cluster| {
        let answer = propose(&cluster.hosts[&1], &body).recv().expect("every request is answered");
        matches!(answer, Answer::Applied { .. })
    });
    assert_eq!(look(), [true, false]);
}

#[test]
fn d10_a_full_disk_gives_leadership_to_a_node_that_has_room() {
    let disk = MemoryDisk::new();
    let mut cluster = Cluster::prepare(3);
    cluster.put_on(1, disk.clone());
    let mut config = cluster.config(1);
    // A disk in memory is not found to be slow.
    config.slow_disk_ms = 1_000;
    for config in [config, cluster.config(2), cluster.config(3)] {
        let node = config.node.get();
        let host = cluster.open_with(config, counts()).expect("a fresh directory");
        host.start_groups(&[cluster.spec()]).expect("a group starts");
        cluster.hosts.insert(node, host);
    }
    cluster.wait_until("the spare segments are ready", |cluster| {
        cluster.write("x");
        cluster.hosts[&1].metrics().log_gauges().segments_free >= 2
    });
    let used: u64 = disk.files().iter().map(|(_, bytes)| bytes).sum();
    disk.set_faults(Faults { capacity_bytes: Some(used), ..Faults::default() });
    let body = Payload::from(vec![b'v'; 1 << 20]);
    cluster.wait_until("it is full and gives leadership away", |cluster| {
        let trouble = cluster.hosts[&1].status().disk_trouble;
        let is_full = trouble.is_some_and(|trouble| trouble.contains("full"));
        if is_full && slow_disk_count(&cluster.hosts[&1], "leaderships_moved") > 0 {
            return true;
        }
        // On a busy machine others may have been elected for another reason.
        cluster.make_leader(1);
        if !is_full {
            // Whatever becomes of it: it is refused when there is no room any more.
            propose(&cluster.hosts[&1], &body);
        }
        false
    });
    cluster.wait_until("the others go on", |cluster| {
        let answer = propose(cluster.leader(), &body).recv().expect("every request is answered");
        matches!(answer, Answer::Applied { .. })
    });
    disk.set_faults(Faults::default());
    let applied = |host: &NodeHost| host.group_status(GROUP).expect("it is here").applied;
    cluster.wait_until("it has room and follows", |cluster| {
        let host = &cluster.hosts[&1];
        host.status().disk_trouble.is_none() && applied(host) == applied(&cluster.hosts[&2])
    });
    assert_eq!(cluster.hosts[&1].group_status(GROUP).expect("it is here").failure, None, "nothing stopped");
}
