// SPDX-License-Identifier: Apache-2.0

//! Replicas whose states differ, which no protocol can prevent and somebody must notice (rule E8).

use std::sync::mpsc::channel;

use mraft::machines::{Command, InMemoryMachine, in_memory};
use mraft::{Answer, Machines, NO_SLOT, NotApplied, ReadKind, ReplicaState};
use mraft_types::{CondemnedReason, Payload};

use crate::support::{Cluster, GROUP, List, PATIENCE};

/// How the machine of one node goes wrong.
#[derive(Clone, Copy)]
enum Bug {
    /// It answers something else, and keeps the right state.
    Answer,
    /// It keeps something else, and answers right.
    State,
}

/// A list that goes wrong at the command "odd".
struct Wrong {
    list: List,
    bug: Bug,
    extra: u8,
}

impl InMemoryMachine for Wrong {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        self.list.apply(command, answer);
        match self.bug {
            _ if command.body != b"odd" => {}
            Bug::Answer => answer.push(1),
            Bug::State => self.extra = 1,
        }
    }

    fn query(&self, query: &[u8], answer: &mut Vec<u8>) {
        self.list.query(query, answer);
    }

    fn save(&self, state: &mut Vec<u8>) {
        self.list.save(state);
        state.push(self.extra);
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        let (extra, list) = state.split_last().ok_or("empty")?;
        self.extra = *extra;
        self.list.restore(list)
    }
}

/// A list that is right, in the shape of the one that is wrong.
struct Right(List);

impl InMemoryMachine for Right {
    fn apply(&mut self, command: &Command<'_>, answer: &mut Vec<u8>) {
        self.0.apply(command, answer);
    }

    fn query(&self, query: &[u8], answer: &mut Vec<u8>) {
        self.0.query(query, answer);
    }

    fn save(&self, state: &mut Vec<u8>) {
        self.0.save(state);
        state.push(0);
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.0.restore(state.split_last().ok_or("empty")?.1)
    }
}

fn machines(bug: Option<Bug>) -> Machines {
    Machines::new().with("list", move |context| {
        let (disk, directory) = (context.disk.clone(), context.directory.clone());
        Ok(match bug {
            Some(bug) => in_memory(disk, directory, 10, Wrong { list: List::default(), bug, extra: 0 }),
            None => in_memory(disk, directory, 10, Right(List::default())),
        })
    })
}

/// A cluster whose node `wrong` goes wrong, and whose leaders compare all the time.
fn cluster(voters: u64, wrong: u64, bug: Bug, compares_content: bool) -> Cluster {
    let mut cluster = Cluster::start(voters);
    for node in 1..=voters {
        cluster.close(node);
    }
    for node in 1..=voters {
        open(&mut cluster, node, (node == wrong).then_some(bug), compares_content);
    }
    cluster
}

fn open(cluster: &mut Cluster, node: u64, bug: Option<Bug>, compares_content: bool) {
    let mut config = cluster.config(node);
    config.compaction_overhead_entries = 10_000;
    config.limits.compare_every_ticks = 10;
    config.limits.compare_content_every_ticks = if compares_content { 10 } else { 0 };
    let host = mraft::NodeHost::open(config, machines(bug), None).expect("its own directory");
    cluster.hosts.insert(node, host);
}

fn lead(cluster: &Cluster, node: u64) {
    let replica = mraft_types::ReplicaId::new(0, Cluster::node(node));
    cluster.wait_until("the node leads", |cluster| {
        let (answered, answer) = channel();
        cluster.leader().transfer_leader(GROUP, Some(replica), move |answer| _ = answered.send(answer));
        matches!(answer.recv().expect("every request is answered"), Answer::Transferred { .. })
            && cluster.hosts[&node].group_status(GROUP).expect("here").state == ReplicaState::Leader
    });
}

fn is_condemned(cluster: &Cluster, node: u64) -> bool {
    let status = cluster.hosts[&node].group_status(GROUP).expect("here");
    status.condemned == Some(CondemnedReason::Divergence)
}

fn is_found(bug: Bug, compares_content: bool, leads: bool) {
    let mut cluster = cluster(3, 3, bug, compares_content);
    lead(&cluster, if leads { 3 } else { 1 });
    cluster.write("a");
    cluster.wait_until("all three are found to be equal", |cluster| {
        cluster.hosts.values().any(|host| host.group_status(GROUP).expect("here").compared > 0)
    });
    cluster.write("odd");
    cluster.wait_until("the odd one is found", |cluster| is_condemned(cluster, 3));
    cluster.wait_until("nothing can be looked up there", |cluster| cluster.hosts[&3].lookup(GROUP).is_none());
    let odd = cluster.hosts.remove(&3).expect("open");
    cluster.write("b");
    assert_eq!(cluster.read(), "aoddb", "the others go on");
    drop(odd);
    open(&mut cluster, 3, Some(bug), compares_content);
    assert!(is_condemned(&cluster, 3), "for good");
    assert!(cluster.hosts[&3].lookup(GROUP).is_none(), "nothing can be looked up there");
}

#[test]
fn e8_a_follower_that_answers_something_else_is_condemned() {
    is_found(Bug::Answer, false, false);
}

#[test]
fn e8_a_leader_that_answers_something_else_is_condemned() {
    is_found(Bug::Answer, false, true);
}

#[test]
fn e8_a_follower_that_keeps_something_else_is_condemned() {
    is_found(Bug::State, true, false);
}

#[test]
fn e8_a_leader_that_keeps_something_else_is_condemned() {
    is_found(Bug::State, true, true);
}

#[test]
fn e8_without_a_majority_the_group_serves_nobody_until_one_is_found() {
    let mut cluster = cluster(3, 3, Bug::Answer, false);
    cluster.write("a");
    cluster.wait_until("all three have it", |cluster| {
        cluster.hosts.values().all(|host| Cluster::stale(host) == "a")
    });
    cluster.close(2);
    cluster.write("odd");
    let disputed = |cluster: &Cluster| {
        let (answered, answer) = channel();
        let body = Payload::from("b");
        cluster.leader().propose(GROUP, NO_SLOT, body, PATIENCE, move |answer| _ = answered.send(answer));
        let answer = answer.recv().expect("every request is answered");
        matches!(answer, Answer::NotApplied(NotApplied::Disputed(_)))
    };
    cluster.wait_until("the two that are left take no writes", disputed);
    // A new leader finds the dispute anew, and serves nobody before.
    cluster.wait_until("reads are refused for the same reason", |cluster| {
        let (answered, answer) = channel();
        let leader = cluster.leader();
        leader.read(GROUP, ReadKind::Linearizable, PATIENCE, move |answer| _ = answered.send(answer));
        let answer = answer.recv().expect("every request is answered");
        assert!(matches!(answer, Answer::NotApplied(_)), "{answer:?}");
        matches!(answer, Answer::NotApplied(NotApplied::Disputed(_)))
            && leader.group_status(GROUP).expect("here").disputed.is_some()
    });
    open(&mut cluster, 2, None, false);
    cluster.wait_until("the third settles it", |cluster| is_condemned(cluster, 3));
    let odd = cluster.hosts.remove(&3).expect("open");
    cluster.write("c");
    assert!(cluster.read().starts_with("aodd") && cluster.read().ends_with('c'));
    drop(odd);
}
