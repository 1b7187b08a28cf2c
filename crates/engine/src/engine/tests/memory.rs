// SPDX-License-Identifier: Apache-2.0

//! What groups hold in memory, counted over all of them (rule T2), and who waits for a state machine.

use super::*;

const OTHER: GroupId = GroupId(4);

impl Play {
    /// Two groups; this node leads one of them, and node 3 the other.
    fn with_two(held_bytes_max: usize) -> Play {
        let mut play = Play::new(Limits { held_bytes_max, ..Limits::default() });
        assert!(play.engine.add_group(OTHER, UID, follower(), 1));
        play.lead();
        play
    }

    /// The other group's leader sends one more entry of so many bytes.
    fn hear_entry(&mut self, bytes: usize) {
        let raft = self.engine.raft(OTHER).expect("the group is here");
        let (term, index) = (2, raft.last_index());
        let prev = LogPosition { index, term: raft.term_at(index).expect("its last entry") };
        let payload = vec![7; bytes].into();
        let entry = Entry { index: index + 1, term, kind: EntryKind::Commands, payload };
        let body = Body::Append { prev, entries: vec![entry], commit: index, matched: 0 };
        let message = Message { from: replica(3), to: replica(1), term, body };
        self.engine.handle_event(OTHER, Event::Message { uid: UID, message });
        self.turn();
    }

    fn propose_bytes(&mut self, ticket: u64, bytes: usize) {
        self.handle(Event::Propose(vec![proposal(ticket, &vec![7; bytes])]));
    }

    fn assert_counted(&self) {
        let weights = self.engine.groups.values().map(Group::weight);
        assert_eq!(self.engine.held_bytes(), weights.sum::<usize>());
    }
}

#[test]
fn t2_durable_entries_of_all_groups_are_let_go_of_when_memory_is_short() {
    let mut play = Play::with_two(10_000);
    play.hear_entry(8_000);
    assert!((8_000..9_000).contains(&play.engine.held_bytes()), "{}", play.engine.held_bytes());
    play.assert_counted();
    play.is_disk_held = true;
    play.propose_bytes(1, 4_000);
    assert_eq!(play.answers, []);
    let held = play.engine.held_bytes();
    assert!((4_000..5_000).contains(&held), "{held}: what is not durable stays");
    play.assert_counted();
    assert!(play.engine.remove_group(OTHER, &NotApplied::Stopping));
    play.assert_counted();
}

#[test]
fn t2_what_is_not_durable_cannot_be_let_go_of_so_more_is_refused_and_dropped() {
    let mut play = Play::with_two(10_000);
    play.hear_entry(100);
    let last = |play: &Play| play.engine.raft(OTHER).expect("the group is here").last_index();
    let before = last(&play);
    play.is_disk_held = true;
    play.propose_bytes(1, 12_000);
    assert_eq!(play.answers, []);
    play.propose_bytes(2, 1);
    assert_eq!(
        std::mem::take(&mut play.answers),
        [(Ticket(2), Answer::NotApplied(NotApplied::Busy("the node's memory for proposals and entries")))]
    );
    play.hear_entry(100);
    assert_eq!(last(&play), before, "as if it had been lost on the way");
    play.is_disk_held = false;
    let written = play.others.iter().filter_map(|effect| match effect {
        Effect::Write(write) => Some(write.number),
        _ => None,
    });
    let write = written.max().expect("the write that waits");
    play.handle(Event::Persisted { write });
    play.assert_counted();
    play.propose_bytes(3, 1);
    play.hear_entry(100);
    assert_eq!((play.answers.len(), last(&play)), (0, before + 1), "there is room again");
}

#[test]
fn somebody_waits_for_a_state_machine_only_while_a_confirmed_index_is_not_applied() {
    let mut play = Play::new(Limits::default());
    play.lead();
    assert!(!play.engine.waits_for_apply());
    let index = play.raft().commit() + 1;
    let (kind, tickets) = (ReadKind::AppliedThrough(index), vec![Ticket(1)]);
    play.handle(Event::Read { kind, tickets, deadline_tick: 1_000 });
    assert!(play.engine.waits_for_apply());
    play.propose(2);
    play.accept();
    assert!(!play.engine.waits_for_apply());
    assert_eq!(play.answers, [(Ticket(1), Answer::ReadReady { index })]);
}
