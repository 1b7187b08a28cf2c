// SPDX-License-Identifier: Apache-2.0

//! The kinds of state machines that a program may bring: each keeps what was written over restarts and reaches others as a snapshot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;

use mraft::machines::{Command, ConcurrentMachine, Results, concurrent, in_memory};
use mraft::{Answer, Machines, NO_SLOT, NodeHost, NotApplied};
use mraft_kv::query::{Query, QueryAnswer};
use mraft_kv::{Caches, KvMachine, KvOptions};
use mraft_types::Payload;

use crate::support::{Cluster, GROUP, List, PATIENCE};

/// A list that synchronises itself.
#[derive(Default)]
struct Shared {
    list: Mutex<Vec<u8>>,
    commands: AtomicU64,
}

impl ConcurrentMachine for Shared {
    fn apply(&self, commands: &[Command<'_>], results: &mut Results) {
        for command in commands {
            self.list.lock().expect("no panic").extend_from_slice(command.body);
            let number = self.commands.fetch_add(1, Ordering::Relaxed) + 1;
            results.push(&number.to_le_bytes());
        }
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.list.lock().expect("no panic"));
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.commands.load(Ordering::Relaxed).to_le_bytes());
        state.extend_from_slice(&self.list.lock().expect("no panic"));
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        let (number, list) = state.split_at_checked(8).ok_or("cut in the number")?;
        let number = number.try_into().map_err(|_| "eight bytes")?;
        self.commands.store(u64::from_le_bytes(number), Ordering::Relaxed);
        *self.list.lock().expect("no panic") = list.to_vec();
        Ok(())
    }
}

fn concurrent_lists() -> Machines {
    Machines::new().with("list", |context| {
        Ok(concurrent(context.disk.clone(), context.directory.clone(), 10, Shared::default()))
    })
}

pub fn on_disk() -> Machines {
    let caches = Caches::new(1 << 20, 16);
    Machines::new().with("list", move |context| {
        let options = KvOptions::default();
        Ok(Box::new(KvMachine::new(context.disk.clone(), context.directory.clone(), &caches, options)))
    })
}

pub fn open(cluster: &mut Cluster, node: u64, machines: Machines) {
    let host = NodeHost::open(cluster.config(node), machines, None).expect("its own directory");
    cluster.hosts.insert(node, host);
}

/// A cluster of this many nodes with these machines, and nothing written yet.
pub fn cluster(voters: u64, machines: fn() -> Machines) -> Cluster {
    let mut cluster = Cluster::start(voters);
    (1..=voters).for_each(|node| cluster.close(node));
    (1..=voters).for_each(|node| open(&mut cluster, node, machines()));
    cluster
}

#[test]
fn a_concurrent_machine_survives_restarts_and_catches_up_by_snapshot() {
    let mut cluster = cluster(3, concurrent_lists);
    cluster.write("0");
    cluster.close(3);
    let mut expected = "0".to_owned();
    for number in 1..=60 {
        let body = format!(",{number}");
        cluster.write(&body);
        expected.push_str(&body);
    }
    cluster.wait_until("the log begins behind what the third node has", |cluster| {
        cluster.leader().group_status(GROUP).is_ok_and(|status| status.log_start > 20)
    });
    open(&mut cluster, 3, concurrent_lists());
    cluster
        .wait_until("the third replica caught up", |cluster| Cluster::stale(&cluster.hosts[&3]) == expected);
    (1..=3).for_each(|node| cluster.close(node));
    (1..=3).for_each(|node| open(&mut cluster, node, concurrent_lists()));
    assert_eq!(cluster.read(), expected);
}

/// Writes a key until it is applied; writing it twice is the same.
pub fn put(cluster: &Cluster, key: &str, value: &str) {
    cluster.wait_until("a key is written", |cluster| {
        let mut body = Vec::new();
        mraft_kv::command::encode_put(key.as_bytes(), value.as_bytes(), &mut body);
        let (answered, answer) = channel();
        cluster
            .leader()
            .propose(GROUP, NO_SLOT, Payload::from(body), PATIENCE, move |answer| _ = answered.send(answer));
        matches!(answer.recv().expect("every request is answered"), Answer::Applied { .. })
    });
}

pub fn get(host: &NodeHost, key: &str) -> Option<Vec<u8>> {
    let (mut query, mut answer) = (Vec::new(), Vec::new());
    Query::Get { key: key.as_bytes() }.encode(&mut query);
    host.lookup(GROUP).expect("the group is here").query(&query, &mut answer).expect("it answers");
    match QueryAnswer::decode(&answer).expect("it decodes") {
        QueryAnswer::Get { found, .. } => found.map(|(_, value)| value.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_on_disk_survives_restarts_and_catches_up_by_snapshot() {
    let mut cluster = cluster(3, on_disk);
    put(&cluster, "a", "1");
    cluster.close(3);
    for number in 0..60 {
        put(&cluster, "b", &number.to_string());
    }
    let leader = cluster.leader().node();
    // Nothing is persisted by itself that early: both others are asked to.
    for host in cluster.hosts.values() {
        host.request_snapshot(GROUP).expect("it persists");
    }
    assert!(cluster.hosts.values().any(|host| host.node() == leader));
    cluster.wait_until("the log begins behind what the third node has", |cluster| {
        cluster.hosts.values().all(|host| host.group_status(GROUP).is_ok_and(|status| status.log_start > 20))
    });
    open(&mut cluster, 3, on_disk());
    cluster.wait_until("the third replica caught up", |cluster| {
        get(&cluster.hosts[&3], "b") == Some(b"59".to_vec())
    });
    (1..=3).for_each(|node| cluster.close(node));
    (1..=3).for_each(|node| open(&mut cluster, node, on_disk()));
    cluster.wait_until("everything is there again", |cluster| {
        let holds =
            |host: &NodeHost| get(host, "a") == Some(b"1".to_vec()) && get(host, "b") == Some(b"59".to_vec());
        cluster.hosts.values().all(holds)
    });
}

#[test]
fn s7_a_requested_snapshot_is_persisted_when_the_call_returns_and_frees_the_log() {
    let mut cluster = Cluster::start(1);
    cluster.close(1);
    let never_by_itself = || {
        Machines::new().with("list", |context| {
            Ok(in_memory(context.disk.clone(), context.directory.clone(), 0, List::default()))
        })
    };
    let mut config = cluster.config(1);
    config.truncates_on_request_only = true;
    let host = NodeHost::open(config, never_by_itself(), None).expect("its own directory");
    cluster.hosts.insert(1, host);
    (0..20).for_each(|_| cluster.write("x"));
    let before = cluster.hosts[&1].group_status(GROUP).expect("here");
    assert_eq!(before.log_start, 1, "nobody asked yet");
    let persisted = cluster.hosts[&1].request_snapshot(GROUP).expect("it persists");
    assert!(persisted >= before.applied, "{persisted} is before {}", before.applied);
    cluster.wait_until("the log was truncated", |cluster| {
        cluster.hosts[&1].group_status(GROUP).expect("here").log_start == persisted
    });
    assert!(cluster.hosts[&1].request_snapshot(mraft_types::GroupId(99)).is_err());
    cluster.close(1);
    let host = NodeHost::open(cluster.config(1), never_by_itself(), None).expect("its own directory");
    cluster.hosts.insert(1, host);
    assert_eq!(cluster.read(), "x".repeat(20));
    let (answered, answer) = channel();
    let body = Payload::from("y");
    cluster.hosts[&1]
        .propose(mraft_types::GroupId(99), NO_SLOT, body, PATIENCE, move |answer| _ = answered.send(answer));
    let answer = answer.recv().expect("every request is answered");
    assert!(matches!(answer, Answer::NotApplied(NotApplied::NoSuchGroup)), "{answer:?}");
}
