// SPDX-License-Identifier: Apache-2.0

//! What a replica makes of what its disk remembers (rules D8, D9): a log that the disk itself proves to be too short condemns it.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use mraft_raft::{Config, Effect, Event, Life, Raft, RestoreError, Restored};
use mraft_types::{
    CondemnedReason, HardState, LogPosition, LogStart, Member, Membership, NodeId, ReplicaId, Role,
};

fn id(node: u64) -> ReplicaId {
    ReplicaId::new(0, NodeId::new(node).expect("a node id"))
}

fn config() -> Config {
    Config {
        id: id(1),
        election_ticks: 10,
        heartbeat_ticks: 3,
        check_quorum: true,
        quiesce_after_ticks: None,
        append_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        inflight_messages_max: 8,
        unapplied_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 100,
    }
}

/// Three voters, entries 2 to 5 of term 2, everything up to 4 committed, up to 3 in the store.
fn whole() -> Restored {
    let member = |node| (id(node), Member { role: Role::Voter, raft_address: format!("node-{node}:1") });
    let membership =
        Membership { change_index: 1, members: (1..=3).map(member).collect(), ..Membership::default() };
    Restored {
        hard_state: HardState { term: 2, vote: Some(id(2)), commit: 4 },
        start: LogStart { position: LogPosition { index: 1, term: 1 }, membership },
        last_index: 5,
        terms: vec![(1, 1), (2, 2)],
        memberships: Vec::new(),
        applied: LogPosition { index: 3, term: 2 },
        condemned: None,
    }
}

fn condemned_by(restored: Restored) -> Option<CondemnedReason> {
    Raft::new(config(), restored).expect("arguments that fit").condemned()
}

#[test]
fn d8_a_whole_log_goes_on_and_knows_what_was_committed() {
    let raft = Raft::new(config(), whole()).expect("arguments that fit");
    assert_eq!((raft.condemned(), raft.life(), raft.commit()), (None, Life::Follower, 4));
}

#[test]
fn d8_a_log_that_ends_before_the_stored_commit_condemns() {
    let mut restored = whole();
    restored.last_index = 3;
    assert_eq!(condemned_by(restored), Some(CondemnedReason::LogLost));
}

#[test]
fn d8_a_log_that_ends_before_what_the_store_has_condemns() {
    let mut restored = whole();
    (restored.hard_state.commit, restored.last_index) = (2, 2);
    assert_eq!(condemned_by(restored), Some(CondemnedReason::LogLost));
}

#[test]
fn d8_a_log_with_another_entry_where_the_store_stands_condemns() {
    let mut restored = whole();
    restored.applied.term = 1;
    assert_eq!(condemned_by(restored), Some(CondemnedReason::LogLost));
}

#[test]
fn d8_what_the_store_has_is_committed_even_if_nobody_wrote_that_down() {
    let mut restored = whole();
    restored.hard_state.commit = 1;
    assert_eq!(Raft::new(config(), restored).expect("arguments that fit").commit(), 3);
}

#[test]
fn d9_a_condemned_replica_stays_condemned_and_never_campaigns() {
    let mut restored = whole();
    restored.condemned = Some(CondemnedReason::Divergence);
    let mut raft = Raft::new(config(), restored).expect("arguments that fit");
    let mut effects = Vec::new();
    for number in 1..200 {
        raft.step(Event::Tick { number, random: number });
        raft.poll(&mut effects);
    }
    assert_eq!(raft.life(), Life::Condemned);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Send(_))), "{effects:?}");
}

#[test]
fn numbers_that_no_log_reaches_are_refused_wherever_they_stand() {
    for value in [(1 << 62) + 1, u64::MAX] {
        let sets: [fn(&mut Restored, u64); 7] = [
            |restored, value| restored.start.position.index = value,
            |restored, value| restored.start.position.term = value,
            |restored, value| restored.last_index = value,
            |restored, value| restored.hard_state.term = value,
            |restored, value| restored.hard_state.commit = value,
            |restored, value| restored.applied.index = value,
            |restored, value| restored.applied.term = value,
        ];
        for (at, set) in sets.into_iter().enumerate() {
            let mut restored = whole();
            set(&mut restored, value);
            let refused = Raft::new(config(), restored).err();
            assert_eq!(refused, Some(RestoreError::TooLarge(value)), "number {at}");
        }
    }
}

#[test]
fn terms_may_begin_right_behind_the_start_and_nowhere_else() {
    let begun =
        |first| Raft::new(config(), Restored { terms: vec![(first, 2)], ..whole() }).map(|raft| raft.life());
    assert_eq!(begun(2).expect("arguments that fit"), Life::Follower);
    for first in [0, 3] {
        assert_eq!(begun(first), Err(RestoreError::BadTerms(first)), "{first}");
    }
}
