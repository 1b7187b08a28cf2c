// SPDX-License-Identifier: Apache-2.0

//! How a group has its replicas' states compared (rule E8): checkpoints in the log, hashes beside it, verdicts in the log again.

use super::*;
use crate::comparison::StateHash;
use crate::packing::CommandKind;

fn hash(index: Index, chain: u128) -> StateHash {
    StateHash { index, chain, content: None }
}

impl Play {
    /// The commands of the group's own making from entry `first` on.
    fn own_commands(&self, first: Index) -> Vec<(Index, CommandKind, Vec<u8>)> {
        let entries = self.raft().entries(first, self.raft().last_index(), usize::MAX).unwrap_or_default();
        let mut own = Vec::new();
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::Commands) {
            let mut packed = PackedEntry::decode(&entry.payload).expect("packed here");
            while let Some(command) = packed.next_command().expect("packed here") {
                if command.kind != CommandKind::User {
                    own.push((entry.index, command.kind, command.body.to_vec()));
                }
            }
        }
        own
    }

    fn peer_finds(&mut self, uid: GroupUid, from: u64, hash: StateHash) {
        self.handle(Event::PeerHashed { uid, from: replica(from), hash });
    }

    /// All three voters find these chains at `index`.
    fn all_find(&mut self, index: Index, chains: [u128; 3]) {
        self.handle(Event::Hashed(hash(index, chains[0])));
        self.peer_finds(UID, 2, hash(index, chains[1]));
        self.peer_finds(UID, 3, hash(index, chains[2]));
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = Vec::new();
    encode(&mut body);
    body
}

#[test]
fn e8_a_leader_writes_one_checkpoint_when_it_is_time_and_something_was_written() {
    let mut play = Play::new(Limits { compare_every_ticks: 10, ..Limits::default() });
    play.lead();
    let at = play.propose(1);
    play.accept();
    assert_eq!(play.own_commands(2), [], "not at once");
    (0..50).for_each(|_| play.tick());
    let checkpoint = |index| (index, CommandKind::Checkpoint, Depth::Chain.body().to_vec());
    assert_eq!(play.own_commands(2), [checkpoint(at + 1)], "nothing happened since");
    play.accept();
    assert_eq!(play.handed(), [(1, at)], "nobody waits for it");
    play.propose(2);
    (0..10).for_each(|_| play.tick());
    assert_eq!(play.own_commands(at + 2), [checkpoint(at + 3)]);
}

#[test]
fn e8_a_checkpoint_that_somebody_asks_for_hashes_everything_and_is_answered() {
    let mut play = Play::new(Limits::default());
    play.handle(Event::ProposeCheckpoint(Ticket(4)));
    assert_eq!(play.answers.pop(), Some((Ticket(4), Answer::NotApplied(NotApplied::NotLeader(None)))));
    play.lead();
    let first = play.raft().last_index() + 1;
    play.handle(Event::ProposeCheckpoint(Ticket(5)));
    assert_eq!(play.own_commands(first), [(first, CommandKind::Checkpoint, Depth::Content.body().to_vec())]);
    play.accept();
    assert_eq!(play.handed(), [(5, first)]);
}

#[test]
fn e8_a_checkpoint_that_was_asked_for_is_answered_when_its_replica_stops_before_its_turn() {
    let mut play = Play::new(Limits::default());
    play.lead();
    play.engine.handle_event(GROUP, Event::ProposeCheckpoint(Ticket(6)));
    assert!(play.engine.remove_group(GROUP, &NotApplied::Stopping));
    play.turn();
    assert_eq!(play.answers.pop(), Some((Ticket(6), Answer::NotApplied(NotApplied::Stopping))));
}

#[test]
fn e8_more_checkpoints_than_a_group_may_have_requests_in_one_turn_are_refused() {
    let mut play = Play::new(Limits { pending_count_max: 1, ..Limits::default() });
    play.lead();
    play.engine.handle_event(GROUP, Event::ProposeCheckpoint(Ticket(6)));
    play.handle(Event::ProposeCheckpoint(Ticket(7)));
    assert!(matches!(play.answers.pop(), Some((Ticket(7), Answer::NotApplied(NotApplied::Busy(_))))));
    play.handle(Event::ProposeCheckpoint(Ticket(8)));
    assert_eq!(play.answers, [], "the first one had its turn");
}

#[test]
fn e8_a_follower_tells_the_leader_what_it_found_and_judges_nothing() {
    let mut play = Play::new(Limits::default());
    play.handle(Event::Hashed(hash(1, 7)));
    assert_eq!(play.others, [], "there is nobody to be told");
    play.lead();
    play.is_deposed(play.raft().commit());
    play.handle(Event::Hashed(hash(2, 7)));
    assert_eq!(
        play.others,
        [Effect::TellHash { uid: UID, from: replica(1), to: replica(3), hash: hash(2, 7) }]
    );
    play.all_find(2, [7, 7, 7]);
    assert_eq!(play.engine.compared(GROUP), Some((0, None)));
}

#[test]
fn e8_a_leader_names_who_is_alone_in_the_log_and_to_whoever_listens() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let first = play.raft().last_index() + 1;
    play.peer_finds(GroupUid([8; 16]), 3, hash(2, 9));
    play.all_find(2, [7, 7, 7]);
    assert_eq!(play.engine.compared(GROUP), Some((2, None)), "another founding's hash is not counted");
    assert_eq!(play.own_commands(first), []);
    play.all_find(3, [7, 7, 9]);
    assert_eq!(
        play.own_commands(first),
        [(first, CommandKind::CheckpointHash, encoded(|body| hash(3, 7).encode(body)))]
    );
    let diverged = Notice::Diverged { majority: hash(3, 7), others: vec![replica(3)] };
    assert_eq!(play.notices.last(), Some(&(GROUP, diverged)));
    assert_eq!(play.engine.compared(GROUP), Some((2, None)));
    assert_eq!(play.engine.compared(GroupId(99)), None);
}

#[test]
fn e8_a_leader_without_a_majority_says_so_in_the_log_and_serves_nobody_until_there_is_one() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let first = play.raft().last_index() + 1;
    play.notices.clear();
    play.all_find(2, [7, 8, 9]);
    let dispute = |index| Dispute { index, shown_by: Depth::Chain };
    let said = |index, at| (at, CommandKind::Dispute, encoded(|body| dispute(index).encode(body)));
    assert_eq!(play.own_commands(first), [said(2, first)]);
    let found = vec![(replica(1), hash(2, 7)), (replica(2), hash(2, 8)), (replica(3), hash(2, 9))];
    assert_eq!(play.notices, [(GROUP, Notice::Disputed { index: 2, found })]);
    assert_eq!(play.engine.compared(GROUP), Some((0, Some(2))));
    play.propose(1);
    let disputed = |index| Answer::NotApplied(NotApplied::Disputed(index));
    assert_eq!(std::mem::take(&mut play.answers), [(Ticket(1), disputed(2))]);
    play.all_find(3, [7, 8, 9]);
    assert_eq!(play.own_commands(first), [said(2, first), said(3, first + 1)], "until it is in the log");
    assert_eq!(play.notices.len(), 1, "told once");
    play.all_find(4, [7, 7, 7]);
    assert_eq!(play.notices.last(), Some(&(GROUP, Notice::Settled)));
    play.propose(2);
    assert_eq!(play.answers, [], "it serves again");
}

#[test]
fn e8_a_disputed_log_keeps_what_a_replica_that_is_missing_would_apply() {
    let mut play = Play::new(Limits::default());
    play.disputed = Some(Dispute { index: 1, shown_by: Depth::Chain });
    play.lead();
    let index = play.raft().commit();
    assert!(index > 1);
    play.handle(Event::Truncate { index });
    assert_eq!(play.raft().start().position.index, 1);
    play.disputed = None;
    play.handle(Event::Applied { index, disputed: None });
    play.handle(Event::Truncate { index });
    assert_eq!(play.raft().start().position.index, index, "it is settled: nobody needs them");
    assert_eq!(play.engine.applied(GROUP), Some(index));
    assert_eq!(play.engine.applied(GroupId(99)), None);
}

#[test]
fn e8_a_disputed_state_is_given_to_nobody() {
    for dispute in [None, Some(Dispute { index: 1, shown_by: Depth::Chain })] {
        let mut play = Play::new(Limits::default());
        play.lead();
        let index = play.raft().commit();
        play.handle(Event::Truncate { index });
        play.handle(Event::Applied { index, disputed: dispute });
        play.others.clear();
        // Replica 3 has nothing but the beginning, which the log does not have any more.
        let (term, prev) = (play.raft().term(), index - 1);
        let reply = AppendReply::Rejected { prev, hint: LogPosition { index: 1, term: 1 } };
        play.hear(3, term, Body::AppendReply(reply));
        let sent = play.others.iter().filter(|effect| matches!(effect, Effect::SendSnapshot { .. })).count();
        assert_eq!(sent, usize::from(dispute.is_none()), "{dispute:?}: {:?}", play.others);
    }
}
