// SPDX-License-Identifier: Apache-2.0

//! Groups are stopped on a node and started again: the others go on meanwhile, and nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;

use mraft::machines::{MachineError, in_memory};
use mraft::{Answer, GroupSpec, HostError, Machines, NO_SLOT, NodeHost, NotApplied, ReadKind, ReplicaState};
use mraft_types::GroupId;

use crate::machines::{cluster, get, on_disk, open, put};
use crate::support::{Cluster, GROUP, List, PATIENCE, ask, ask_leader};

/// Another group beside the one that is stopped.
const OTHER: GroupId = GroupId(1);

fn state(host: &NodeHost) -> ReplicaState {
    host.group_status(GROUP).expect("the group is listed").state
}

/// A node that does not lead.
fn follower(cluster: &Cluster) -> &NodeHost {
    let leader = cluster.leader().node();
    cluster.hosts.values().find(|host| host.node() != leader).expect("there are three")
}

/// Stops and starts a group on one node while somebody writes numbers until the end. The last number that was written.
fn stop_and_start_while_writing(cluster: &Cluster, write: impl Fn(&Cluster, u64) + Sync) -> u64 {
    let (host, ends, written) = (follower(cluster), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed) + 1;
                write(cluster, number);
                written.store(number, Ordering::Relaxed);
            }
        });
        let more = |what: &str| {
            let until = written.load(Ordering::Relaxed) + 20;
            cluster.wait_until(what, |_| written.load(Ordering::Relaxed) >= until);
        };
        for _ in 0..3 {
            more("writes go on while the group runs everywhere");
            host.stop_group(GROUP).expect("it stops");
            assert_eq!(state(host), ReplicaState::Stopped);
            more("writes go on while it is stopped on one node");
            host.start_group(GROUP).expect("it starts");
        }
        ends.store(true, Ordering::Relaxed);
    });
    written.into_inner()
}

#[test]
fn a_group_in_memory_that_was_stopped_on_one_node_catches_up_with_what_was_written_meanwhile() {
    let cluster = Cluster::start(3);
    let last = stop_and_start_while_writing(&cluster, |cluster, number| cluster.write(&format!(",{number}")));
    let expected: String = (1..=last).map(|number| format!(",{number}")).collect();
    assert_eq!(cluster.read(), expected);
    for host in cluster.hosts.values() {
        cluster.wait_until("every replica has everything", |_| Cluster::stale(host) == expected);
    }
}

#[test]
fn a_group_on_disk_that_was_stopped_on_one_node_catches_up_with_what_was_written_meanwhile() {
    let cluster = cluster(3, on_disk);
    let last = stop_and_start_while_writing(&cluster, |cluster, number| {
        put(cluster, &number.to_string(), &number.to_string());
    });
    for host in cluster.hosts.values() {
        cluster.wait_until("every replica has everything", |_| {
            (1..=last).all(|number| get(host, &number.to_string()) == Some(number.to_string().into_bytes()))
        });
    }
}

#[test]
fn a_replica_that_was_stopped_for_long_comes_back_by_snapshot() {
    let cluster = Cluster::start(3);
    cluster.write("0");
    let host = follower(&cluster);
    host.stop_group(GROUP).expect("it stops");
    (0..60).for_each(|_| cluster.write("x"));
    cluster.wait_until("the log begins behind what the stopped replica has", |cluster| {
        cluster.leader().group_status(GROUP).is_ok_and(|status| status.log_start > 20)
    });
    host.start_group(GROUP).expect("it starts");
    let expected = format!("0{}", "x".repeat(60));
    cluster.wait_until("it caught up", |_| Cluster::stale(host) == expected);
}

/// How often replicas here were elected because a leader handed over.
fn elected_by_transfer(host: &NodeHost) -> u64 {
    let mut text = String::new();
    host.write_prometheus(&mut text);
    let count =
        text.lines().find_map(|line| line.strip_prefix("mraft_elections_total{reason=\"transfer\"} "));
    count.map_or(0, |count| count.parse().expect("a count"))
}

#[test]
fn a_leader_that_is_stopped_hands_leadership_over_first() {
    let cluster = Cluster::start(3);
    (1..=3).for_each(|node| cluster.wait_for_peers(node));
    let mut expected = String::new();
    // One that is too slow at the first attempt is no failure.
    cluster.wait_until("a leader that is stopped hands over", |cluster| {
        let stopped = cluster.leader();
        let others = || cluster.hosts.values().filter(|host| host.node() != stopped.node());
        let elected = || others().map(elected_by_transfer).sum::<u64>();
        let before = elected();
        stopped.stop_group(GROUP).expect("it stops");
        cluster
            .wait_until("another node leads", |_| others().any(|host| state(host) == ReplicaState::Leader));
        let is_handed_over = elected() > before;
        stopped.start_group(GROUP).expect("it starts");
        is_handed_over
    });
    for body in ["a", "b"] {
        cluster.write(body);
        expected.push_str(body);
        let stopped = cluster.leader();
        stopped.stop_group(GROUP).expect("it stops");
        cluster.write("-");
        expected.push('-');
        stopped.start_group(GROUP).expect("it starts");
        cluster.wait_until("it follows", |_| Cluster::stale(stopped) == expected);
    }
}

#[test]
fn requests_to_a_stopped_group_are_not_applied_and_the_other_groups_go_on() {
    let cluster = Cluster::start(1);
    let host = &cluster.hosts[&1];
    host.start_groups(&[GroupSpec { group: OTHER, ..cluster.spec() }]).expect("a group starts");
    cluster.write("a");
    host.stop_group(GROUP).expect("a sole voter has nobody to hand over to, and stops");
    assert_eq!(ask(host, GROUP, NO_SLOT, "b"), Answer::NotApplied(NotApplied::Stopped));
    let (answered, answer) = channel();
    host.read(GROUP, ReadKind::Linearizable, PATIENCE, move |answer| _ = answered.send(answer));
    assert_eq!(answer.recv().expect("every request is answered"), Answer::NotApplied(NotApplied::Stopped));
    for refused in [host.request_snapshot(GROUP).err(), host.state_hash(GROUP).err()] {
        assert!(matches!(refused, Some(HostError::GroupStopped(GROUP))), "{refused:?}");
    }
    assert!(host.lookup(GROUP).is_none(), "nobody looks up anything in a state that stands still");
    assert_eq!(host.leader(GROUP), None);
    assert_eq!((state(host), host.status().stopped), (ReplicaState::Stopped, 1));
    assert_eq!(host.groups(), [GROUP, OTHER], "it is listed as before");
    assert!(matches!(ask_leader(host, OTHER, NO_SLOT, "c"), Answer::Applied { .. }));
    host.start_groups(&[cluster.spec()]).expect("it is here, and founding it again changes nothing");
    assert_eq!(state(host), ReplicaState::Stopped);
    host.start_group(GROUP).expect("it starts");
    cluster.write("d");
    assert_eq!((cluster.read(), host.status().stopped), ("ad".to_owned(), 0));
}

#[test]
fn stopping_and_starting_twice_is_as_once_and_an_unknown_group_is_an_error() {
    let cluster = Cluster::start(1);
    let host = &cluster.hosts[&1];
    cluster.write("a");
    host.start_group(GROUP).expect("it runs already");
    cluster.write("b");
    for _ in 0..2 {
        host.stop_group(GROUP).expect("it is stopped then");
    }
    for _ in 0..2 {
        host.start_group(GROUP).expect("it runs then");
    }
    cluster.write("c");
    assert_eq!(cluster.read(), "abc");
    assert!(matches!(host.stop_group(OTHER), Err(HostError::NoSuchGroup(OTHER))));
    assert!(matches!(host.start_group(OTHER), Err(HostError::NoSuchGroup(OTHER))));
    host.stop_group(GROUP).expect("it stops");
    host.remove_replica(GROUP).expect("a stopped one can be removed for good");
    assert!(matches!(host.start_group(GROUP), Err(HostError::NoSuchGroup(GROUP))));
    assert_eq!(host.status().stopped, 0);
}

#[test]
fn a_group_on_disk_goes_on_where_it_was_when_it_is_started_again() {
    let cluster = cluster(1, on_disk);
    let host = &cluster.hosts[&1];
    for number in 0..3 {
        put(&cluster, "persisted", &number.to_string());
        host.request_snapshot(GROUP).expect("it persists");
        put(&cluster, "only in the log", &number.to_string());
        host.stop_group(GROUP).expect("it stops");
        host.start_group(GROUP).expect("it starts");
        cluster.wait_until("what was not persisted is applied again", |_| {
            let is_there = |key| get(host, key) == Some(number.to_string().into_bytes());
            is_there("persisted") && is_there("only in the log")
        });
    }
}

#[test]
fn a_node_that_was_closed_while_a_group_in_memory_was_stopped_starts_it_again() {
    let mut cluster = Cluster::start(1);
    cluster.write("a");
    cluster.hosts[&1].stop_group(GROUP).expect("it stops");
    cluster.close(1);
    cluster.open(1).expect("its own directory");
    cluster.write("b");
    assert_eq!(cluster.read(), "ab");
    assert_eq!((state(&cluster.hosts[&1]), cluster.hosts[&1].status().stopped), (ReplicaState::Leader, 0));
}

#[test]
fn a_node_that_was_closed_while_a_group_on_disk_was_stopped_starts_it_again() {
    let mut cluster = cluster(1, on_disk);
    put(&cluster, "a", "1");
    cluster.hosts[&1].stop_group(GROUP).expect("it stops");
    cluster.close(1);
    open(&mut cluster, 1, on_disk());
    put(&cluster, "b", "2");
    assert_eq!(get(&cluster.hosts[&1], "a"), Some(b"1".to_vec()));
}

/// Machines that cannot be made as long as this is set.
fn failing_while(is_broken: &Arc<AtomicBool>) -> Machines {
    let is_broken = Arc::clone(is_broken);
    Machines::new().with("list", move |context| match is_broken.load(Ordering::Relaxed) {
        true => Err(MachineError::Failed("no room on the shelf".to_owned())),
        false => Ok(in_memory(context.disk.clone(), context.directory.clone(), 10, List::default())),
    })
}

#[test]
fn a_group_whose_state_cannot_be_opened_stays_stopped_until_it_can() {
    let mut cluster = Cluster::start(1);
    cluster.write("a");
    cluster.close(1);
    let is_broken = Arc::new(AtomicBool::new(false));
    open(&mut cluster, 1, failing_while(&is_broken));
    let host = &cluster.hosts[&1];
    host.stop_group(GROUP).expect("it stops");
    is_broken.store(true, Ordering::Relaxed);
    let error = host.start_group(GROUP).expect_err("it cannot be opened").to_string();
    assert!(error.contains("no room on the shelf"), "{error}");
    assert_eq!(state(host), ReplicaState::Stopped);
    is_broken.store(false, Ordering::Relaxed);
    host.start_group(GROUP).expect("it can now");
    cluster.write("b");
    assert_eq!(cluster.read(), "ab");
}

#[test]
fn a_group_that_failed_is_started_again_after_it_was_stopped() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let is_broken = Arc::new(AtomicBool::new(true));
    open(&mut cluster, 1, failing_while(&is_broken));
    let host = &cluster.hosts[&1];
    assert_eq!(state(host), ReplicaState::Failed);
    let error = host.start_group(GROUP).expect_err("it failed").to_string();
    assert!(error.contains("no room on the shelf") && error.contains("stop it"), "{error}");
    host.stop_group(GROUP).expect("it is stopped already, and counts as that now");
    assert_eq!((state(host), host.group_status(GROUP).expect("here").failure), (ReplicaState::Stopped, None));
    is_broken.store(false, Ordering::Relaxed);
    host.start_group(GROUP).expect("the cause is mended");
    cluster.write("a");
    assert_eq!(cluster.read(), "a");
}
