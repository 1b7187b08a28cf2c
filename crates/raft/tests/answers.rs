// SPDX-License-Identifier: Apache-2.0

//! What a replica answers when its host asks: the entries in memory, to whom leadership is being handed, what is known of peers; and what
//! it takes from its host only where it fits.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use mraft_raft::{AppendReply, Body, Effect, Event, Ignored, Message, PeerState, ProposeRefused};
use mraft_types::{CondemnedReason, Entry, EntryKind, LogPosition, LogStart, ReplicaId, Role};

mod support;

use support::{Group, replica};

fn deliver_all(group: &mut Group) {
    while !group.wire.is_empty() {
        group.deliver_at(0);
    }
}

/// Three voters that follow replica 1.
fn led_group() -> Group {
    let mut group = Group::new(&[1, 2, 3].map(|node| (replica(node), Role::Voter)), |_| {});
    for _ in 0..100 {
        group.tick(replica(1), 0);
        deliver_all(&mut group);
        if group.leaders() == [replica(1)] {
            return group;
        }
    }
    panic!("replica 1 does not lead");
}

fn propose(group: &mut Group, id: ReplicaId, text: &'static str) {
    group.raft_mut(id).expect("it runs").propose(text.into()).expect("it leads");
    group.poll(id);
    deliver_all(group);
}

#[test]
fn entries_in_memory_are_those_of_the_log_up_to_the_bytes_that_are_wanted() {
    let mut group = led_group();
    for text in ["one", "two", "three"] {
        propose(&mut group, replica(1), text);
    }
    for id in [1, 2, 3].map(replica) {
        let (raft, disk) = (group.raft(id).expect("it runs"), &group.node(id).disk);
        assert_eq!(raft.entries(2, raft.last_index(), usize::MAX).as_ref(), Some(&disk.entries));
        let weights: Vec<usize> = disk.entries.iter().map(Entry::cost_bytes).collect();
        let taken = |bytes_max| raft.entries(3, 5, bytes_max).map(|entries| entries.len());
        assert_eq!(taken(weights[1] + weights[2]), Some(2));
        assert_eq!(taken(weights[1] + weights[2] - 1), Some(1));
        assert_eq!(taken(0), Some(1), "never none");
        assert_eq!(raft.entries(1, 5, usize::MAX), None, "the log begins behind 1");
    }
}

#[test]
fn t2_what_is_in_memory_and_what_is_not_applied_is_weighed() {
    let mut group = led_group();
    group.node_mut(replica(1)).apply_held = true;
    propose(&mut group, replica(1), "one");
    propose(&mut group, replica(1), "three");
    let weigh = |group: &Group| {
        let raft = group.raft(replica(1)).expect("it runs");
        (raft.cached_bytes(), raft.unapplied_bytes())
    };
    let weights: Vec<usize> = group.node(replica(1)).disk.entries.iter().map(Entry::cost_bytes).collect();
    assert_eq!(weigh(&group), (weights.iter().sum(), weights[1..].iter().sum()), "the first is applied");
    group.node_mut(replica(1)).apply_held = false;
    group.poll(replica(1));
    assert_eq!(weigh(&group), (weights.iter().sum(), 0));
}

#[test]
fn whom_leadership_is_handed_to_is_known_until_it_is_decided() {
    let mut group = led_group();
    let handing = |group: &Group, id| group.raft(id).expect("it runs").transfer_in_progress();
    group.step(replica(1), Event::TransferLeader { to: replica(2) });
    assert_eq!([1, 2, 3].map(|node| handing(&group, replica(node))), [Some(replica(2)), None, None]);
    let refused = group.raft_mut(replica(1)).expect("it runs").propose("late".into());
    assert_eq!(refused, Err(ProposeRefused::Transferring(replica(2))));
    deliver_all(&mut group);
    assert_eq!(group.leaders(), [replica(2)]);
    assert_eq!([1, 2, 3].map(|node| handing(&group, replica(node))), [None; 3]);
}

#[test]
fn a_leader_knows_its_peers_and_nobody_else_does() {
    let mut group = led_group();
    propose(&mut group, replica(1), "one");
    let last = group.raft(replica(1)).expect("it runs").last_index();
    let peers = group.raft(replica(1)).expect("it runs").peers();
    let known: Vec<_> = peers.iter().map(|peer| (peer.id, peer.state, peer.matched, peer.next)).collect();
    assert_eq!(known, [2, 3].map(|node| (replica(node), PeerState::Replicate, last, last + 1)));
    assert!(peers.iter().all(|peer| peer.is_active && peer.inflight_messages == 0));
    assert_eq!(group.raft(replica(2)).expect("it runs").peers(), []);
}

#[test]
fn d11_the_log_is_truncated_only_at_a_position_that_it_has_and_once() {
    let mut group = led_group();
    propose(&mut group, replica(1), "one");
    propose(&mut group, replica(1), "two");
    let mut truncate = |index, term| {
        let start = LogStart { position: LogPosition { index, term }, ..LogStart::default() };
        // The store persisted what it applied before it says so.
        let node = group.node_mut(replica(1));
        node.disk.machine = node.machine.clone();
        group.step(replica(1), Event::Truncate { start });
        let raft = group.raft_mut(replica(1)).expect("it runs");
        (raft.start().position.index, raft.take_ignored().contains_key(&Ignored::OutOfPlace))
    };
    let term = 2;
    assert_eq!(truncate(3, term - 1), (1, true), "an entry of another term");
    assert_eq!(truncate(9, term), (1, true), "behind the end");
    assert_eq!(truncate(3, term), (3, false));
    assert_eq!(truncate(3, term), (3, true), "it begins there already");
    assert_eq!(truncate(2, term), (3, true), "it begins later");
}

#[test]
fn numbers_of_writes_can_begin_anew_and_nothing_else_changes() {
    let mut group = led_group();
    (0..5).for_each(|_| propose(&mut group, replica(1), "durable"));
    group.node_mut(replica(1)).disk_held = true;
    for _ in 0..2 {
        group.raft_mut(replica(1)).expect("it runs").propose("waits".into()).expect("it leads");
        group.poll(replica(1));
    }
    let numbers: Vec<u64> = group.node(replica(1)).pending.iter().map(|write| write.number).collect();
    let mut raft = group.raft(replica(1)).expect("it runs").clone();
    let (durable, last) = (raft.durable_index(), raft.last_index());
    assert_eq!(durable + 2, last);
    let by = raft.count_anew();
    assert_eq!(numbers, [by + 1, by + 2], "everything up to there is durable");
    assert_eq!(raft.check(), Ok(()));
    assert_eq!(raft.clone().count_anew(), 0, "once is enough");
    raft.step(Event::Persisted { write: 1 });
    assert_eq!((raft.durable_index(), raft.check()), (durable + 1, Ok(())));
    raft.step(Event::Persisted { write: 2 });
    assert_eq!((raft.durable_index(), raft.check()), (last, Ok(())));
    raft.propose("next".into()).expect("it leads");
    let mut effects = Vec::new();
    raft.poll(&mut effects);
    let written = effects.iter().find_map(|effect| match effect {
        Effect::Write(write) => Some(write.number),
        _ => None,
    });
    assert_eq!(written, Some(3));
}

#[test]
fn an_append_is_taken_only_behind_the_entry_that_it_names() {
    let mut group = led_group();
    let follower = group.raft(replica(2)).expect("it runs");
    let (committed, before) = (follower.commit(), follower.last_index());
    group.raft_mut(replica(1)).expect("it runs").propose("nobody else has it".into()).expect("it leads");
    group.poll(replica(1));
    let to_two = group.wire.iter().position(|message| message.to == replica(2)).expect("it is sent");
    group.deliver_at(to_two);
    let own = group.raft(replica(2)).expect("it runs").last_index();
    assert_eq!(own, before + 1);
    // Replica 3 leads the next term, and another entry stands there in its log.
    let term = 3;
    let append = |prev_term| {
        let entry = Entry { index: own + 1, term, kind: EntryKind::Commands, payload: "behind it".into() };
        let prev = LogPosition { index: own, term: prev_term };
        let body = Body::Append { prev, entries: vec![entry], commit: committed, matched: 0 };
        Event::Received(Message { from: replica(3), to: replica(2), term, body })
    };
    group.wire.clear();
    group.step(replica(2), append(term));
    assert_eq!(group.raft(replica(2)).expect("it runs").last_index(), own, "nothing is taken");
    let hint = LogPosition { index: own, term: term - 1 };
    let said: Vec<Body> = group.wire.iter().map(|message| message.body.clone()).collect();
    assert_eq!(said, [Body::AppendReply(AppendReply::Rejected { prev: own, hint })]);
    group.step(replica(2), append(term - 1));
    assert_eq!(group.raft(replica(2)).expect("it runs").last_index(), own + 1, "behind its own entry it is");
}

#[test]
fn d9_what_contradicts_the_committed_log_changes_nothing_and_condemns_once_it_is_committed_itself() {
    let mut group = led_group();
    propose(&mut group, replica(1), "committed");
    for _ in 0..2 {
        group.tick(replica(1), 0);
        deliver_all(&mut group);
    }
    let committed = group.raft(replica(2)).expect("it runs").commit();
    // Replica 3 leads the next term without the last committed entry, which replica 2 has, in its log or behind its beginning.
    let term = 3;
    let append = |commit| {
        let (index, prev) = (committed, LogPosition { index: committed - 1, term: term - 1 });
        let entries = vec![Entry { index, term, kind: EntryKind::Commands, payload: "another one".into() }];
        let body = Body::Append { prev, entries, commit, matched: 0 };
        Event::Received(Message { from: replica(3), to: replica(2), term, body })
    };
    for begins_behind_it in [false, true] {
        let node = group.node_mut(replica(2));
        node.disk.machine = node.machine.clone();
        if begins_behind_it {
            let start = LogStart {
                position: LogPosition { index: committed, term: term - 1 },
                ..LogStart::default()
            };
            group.step(replica(2), Event::Truncate { start });
        }
        let mut raft = group.raft(replica(2)).expect("it runs").clone();
        assert_eq!(raft.start().position.index == committed, begins_behind_it);
        let mut effects = Vec::new();
        for (commit, condemned) in [(committed - 1, None), (committed, Some(CondemnedReason::Divergence))] {
            raft.step(append(commit));
            raft.poll(&mut effects);
            let is_answered = effects.drain(..).any(|effect| {
                matches!(effect, Effect::Send(message) if matches!(message.body, Body::AppendReply(_)))
            });
            assert!(!is_answered && raft.take_ignored().contains_key(&Ignored::ContradictsCommitted));
            assert_eq!((raft.condemned(), raft.last_index()), (condemned, committed));
        }
    }
}

#[test]
fn a_log_acknowledges_no_more_than_the_leader_sent_also_of_what_it_begins_behind() {
    let mut group = led_group();
    (0..3).for_each(|_| propose(&mut group, replica(1), "committed"));
    for _ in 0..2 {
        group.tick(replica(1), 0);
        deliver_all(&mut group);
    }
    let node = group.node_mut(replica(2));
    node.disk.machine = node.machine.clone();
    let first: Vec<Entry> = node.disk.entries[..1].to_vec();
    let (before, committed) = (first[0].index - 1, group.raft(replica(2)).expect("it runs").commit());
    let start = LogStart { position: LogPosition { index: committed, term: 2 }, ..LogStart::default() };
    group.step(replica(2), Event::Truncate { start });
    let prev = LogPosition { index: before, term: 1 };
    let body = Body::Append { prev, entries: first, commit: committed, matched: before };
    group.wire.clear();
    group.step(replica(2), Event::Received(Message { from: replica(1), to: replica(2), term: 2, body }));
    let said: Vec<Body> = group.wire.iter().map(|message| message.body.clone()).collect();
    assert_eq!(said, [Body::AppendReply(AppendReply::Accepted { matched: before + 1 })]);
}

#[test]
fn what_is_taken_at_once_is_written_in_parts_that_a_batch_of_the_log_has_room_for() {
    const PART_BYTES_MAX: usize = 8 << 20;
    let mut group = Group::new(&[(replica(1), Role::Voter)], |config| {
        (config.unapplied_bytes_max, config.cache_bytes_max) = (64 << 20, 64 << 20);
    });
    while group.leaders().is_empty() {
        group.tick(replica(1), 0);
        deliver_all(&mut group);
    }
    let raft = group.raft_mut(replica(1)).expect("it runs");
    for _ in 0..12 {
        raft.propose(vec![7; 1 << 20].into()).expect("it leads");
    }
    let (mut effects, mut parts) = (Vec::new(), Vec::new());
    loop {
        raft.poll(&mut effects);
        let writes = effects.drain(..).filter_map(|effect| match effect {
            Effect::Write(write) => Some(write),
            _ => None,
        });
        let before = parts.len();
        parts.extend(writes.map(|write| write.entries.iter().map(Entry::cost_bytes).sum::<usize>()));
        if parts.len() == before {
            break;
        }
    }
    assert!(parts.iter().all(|bytes| *bytes <= PART_BYTES_MAX), "{parts:?}");
    assert!(parts.len() == 2 && parts.iter().sum::<usize>() >= 12 << 20, "{parts:?}");
}

#[test]
fn a_second_leader_of_a_term_is_not_heard() {
    let mut group = led_group();
    let raft = group.raft_mut(replica(2)).expect("it runs");
    raft.take_ignored();
    let (term, last) = (raft.term(), raft.last_index());
    let body = Body::Heartbeat { commit: last, matched: last, round: 1 };
    raft.step(Event::Received(Message { from: replica(3), to: replica(2), term, body }));
    assert_eq!((raft.leader(), raft.ignored().get(&Ignored::SecondLeader)), (Some(replica(1)), Some(&1)));
}

#[test]
fn m1_who_steps_down_at_the_next_poll_takes_nothing_more() {
    let (learner, voters) = (replica(4), [1, 2, 3].map(replica));
    let roles = voters.map(|id| (id, Role::Voter));
    let mut group = Group::new(&[&roles[..], &[(learner, Role::Learner)]].concat(), |_| {});
    while group.leaders().is_empty() {
        group.tick(voters[0], 0);
        deliver_all(&mut group);
    }
    let node = voters[0].node();
    for id in [voters[1], voters[2], learner] {
        group.step(id, Event::NodeSuspected { node, campaign_after_ticks: 50 });
    }
    // A candidate with an older log counts on the learner's vote.
    let term = group.raft(learner).expect("it runs").term() + 1;
    let body = Body::PreVote { last: LogPosition { index: 1, term: 1 } };
    group.step(learner, Event::Received(Message { from: voters[1], to: learner, term, body }));
    for _ in 0..60 {
        group.tick(learner, 0);
    }
    let commits = |message: &Message| {
        message.to == learner && matches!(message.body, Body::AppendReply(AppendReply::Accepted { .. }))
    };
    let mut accepted = 0;
    while accepted < 2 {
        match group.wire.iter().position(commits) {
            Some(at) => {
                let message = group.wire.remove(at).expect("it is there");
                assert!(group.raft(learner).expect("it runs").is_leader());
                group.raft_mut(learner).expect("it runs").step(Event::Received(message));
                accepted += 1;
            }
            None => group.deliver_at(0),
        }
    }
    let raft = group.raft_mut(learner).expect("it runs");
    assert!(raft.is_leader() && raft.has_committed_in_term());
    assert_eq!(raft.propose("late".into()), Err(ProposeRefused::NotLeader(None)));
    group.poll(learner);
    assert!(!group.raft(learner).expect("it runs").is_leader());
    assert!(group.wire.iter().any(|message| matches!(message.body, Body::TimeoutNow)));
    deliver_all(&mut group);
    assert_eq!(group.leaders().len(), 1);
}

#[test]
fn t2_only_so_many_answers_wait_for_a_disk() {
    let mut group = led_group();
    let raft = group.raft_mut(replica(2)).expect("it runs");
    raft.take_ignored();
    let term = raft.term() + 1;
    let last = LogPosition { index: raft.last_index(), term: raft.term() };
    let body = Body::Vote { last, transfer: true };
    for _ in 0..300 {
        raft.step(Event::Received(Message { from: replica(3), to: replica(2), term, body: body.clone() }));
    }
    assert_eq!(raft.ignored().get(&Ignored::TooManyWaiting), Some(&(300 - 256)));
}
