// SPDX-License-Identifier: Apache-2.0

//! Three real hosts: what is acknowledged stays, whoever is away catches up, nodes are added and replaced.

use std::sync::mpsc::channel;

use crate::support::{Cluster, GROUP, PATIENCE};
use mraft::{Answer, GroupSpec, NotApplied, ReadKind, ReplicaState};
use mraft_types::{GroupId, MembershipChange, ReplicaId, Role};

#[test]
fn what_was_written_is_read_from_every_host_after_all_were_restarted() {
    let mut cluster = Cluster::start(3);
    ["a", "b", "c"].iter().for_each(|body| cluster.write(body));
    assert_eq!(cluster.read(), "abc");
    (1..=3).for_each(|node| cluster.close(node));
    (1..=3).for_each(|node| cluster.open(node).expect("its own directory"));
    assert_eq!(cluster.read(), "abc", "nothing but the directories was needed (row S9)");
    cluster.write("d");
    for node in 1..=3 {
        cluster.wait_until("every replica has it", |cluster| Cluster::stale(&cluster.hosts[&node]) == "abcd");
    }
}

#[test]
fn r3_a_follower_reads_by_itself_with_the_leaders_index() {
    let cluster = Cluster::start(3);
    cluster.write("a");
    cluster.write("b");
    cluster.wait_until("a read went the way of a follower", |cluster| {
        let leader = cluster.leader();
        let Some(follower) = cluster.hosts.values().find(|host| host.node() != leader.node()) else {
            return false;
        };
        let ask = |host: &mraft::NodeHost, kind| {
            let (answered, answer) = channel();
            host.read(GROUP, kind, PATIENCE, move |answer| _ = answered.send(answer));
            answer.recv().expect("every request is answered")
        };
        // Who leads may change while the test asks.
        if !matches!(ask(follower, ReadKind::IndexOnly), Answer::NotApplied(NotApplied::NotLeader(Some(_)))) {
            return false;
        }
        let Answer::ReadReady { index } = ask(leader, ReadKind::IndexOnly) else { return false };
        assert_eq!(ask(follower, ReadKind::AppliedThrough(index)), Answer::ReadReady { index });
        assert_eq!(Cluster::stale(follower), "ab", "what was written before the leader was asked");
        true
    });
}

#[test]
fn a_minority_may_be_away_and_comes_back_by_snapshot() {
    let mut cluster = Cluster::start(3);
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
    cluster.open(3).expect("its own directory");
    cluster
        .wait_until("the third replica caught up", |cluster| Cluster::stale(&cluster.hosts[&3]) == expected);
    cluster.wait_until("its log begins anew behind a snapshot, not at entry 2", |cluster| {
        cluster.hosts[&3].group_status(GROUP).is_ok_and(|status| status.log_start > 1)
    });
}

#[test]
fn a_lost_node_is_replaced_by_a_new_one() {
    let mut cluster = Cluster::start(3);
    cluster.write("x");
    cluster.close(3);
    cluster.open(4).expect("a fresh directory opens");
    let lost = ReplicaId::new(0, Cluster::node(3));
    let address = cluster.address(4);
    let node = Cluster::node(4);
    change(&cluster, MembershipChange::AddLearner { node, raft_address: address });
    let joined = ReplicaId::new(1, node);
    cluster.wait_until("the new replica caught up", |cluster| {
        cluster.hosts[&4].lookup(GROUP).is_some() && Cluster::stale(&cluster.hosts[&4]) == "x"
    });
    change(&cluster, MembershipChange::Promote(joined));
    change(&cluster, MembershipChange::Remove(lost));
    cluster.write("y");
    cluster.wait_until("the new replica follows", |cluster| Cluster::stale(&cluster.hosts[&4]) == "xy");
    let status = cluster.leader().group_status(GROUP).expect("here");
    assert_eq!(status.membership.role(joined), Some(Role::Voter));
    assert!(status.membership.is_removed(lost));
    assert_ne!(cluster.hosts[&4].group_status(GROUP).expect("here").state, ReplicaState::Waiting);
}

#[test]
fn a_group_is_founded_with_voters_and_learners_and_with_no_other_role() {
    let mut cluster = Cluster::prepare(2);
    let learner = ReplicaId::new(0, Cluster::node(2));
    let with = |group, role| {
        let mut spec = GroupSpec { group, ..cluster.spec() };
        spec.members.members.get_mut(&learner).expect("a member").role = role;
        spec
    };
    let (good, bad) = (with(GROUP, Role::Learner), GroupId(7));
    let refused = [Role::Witness, Role::Observer].map(|role| (role, with(bad, role)));
    for node in 1..=2 {
        cluster.open(node).expect("a fresh directory opens");
        let host = &cluster.hosts[&node];
        for (role, spec) in &refused {
            let error = host.start_groups(&[good.clone(), spec.clone()]).expect_err("refused").to_string();
            for part in ["group 7", &learner.to_string(), &role.to_string(), "later release", "voters"] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        assert_eq!(host.groups(), [], "nothing was founded");
        host.start_groups(std::slice::from_ref(&good)).expect("a group starts");
    }
    cluster.write("a");
    cluster.wait_until("the learner follows", |cluster| Cluster::stale(&cluster.hosts[&2]) == "a");
    let status = cluster.hosts[&2].group_status(GROUP).expect("here");
    assert_eq!(status.membership.role(learner), Some(Role::Learner));
}

/// Changes the membership; a change that is surely not made is tried again, as an operator would.
pub fn change(cluster: &Cluster, change: MembershipChange) {
    let began = std::time::Instant::now();
    loop {
        let (answered, answer) = channel();
        let wanted = change.clone();
        cluster
            .leader()
            .change_membership(GROUP, wanted, None, PATIENCE, move |answer| _ = answered.send(answer));
        match answer.recv().expect("every request is answered") {
            Answer::Changed { .. } => return,
            Answer::NotApplied(_) if began.elapsed() < PATIENCE => std::thread::yield_now(),
            other => panic!("{change:?}: {other:?}"),
        }
    }
}
