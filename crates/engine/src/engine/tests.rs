// SPDX-License-Identifier: Apache-2.0

//! One engine with one replica of a group of three, played by hand: the test is the disk, the state machine and the other two.

use std::collections::VecDeque;

use mraft_raft::{AppendReply, Body, Config, Message, Restored};
use mraft_types::{
    Entry, EntryKind, HardState, LogPosition, LogStart, Member, Membership, MembershipChange, Payload,
    ReplicaId, Role, Term, limits::COMMAND_BYTES_MAX,
};

use super::*;
use crate::comparison::{Depth, Dispute};
use crate::effect::ApplyJob;
use crate::error::Unknown;
use crate::event::Ticket;
use crate::event::{Proposal, ReadKind};
use crate::packing::{NO_SLOT, PackedEntry};

mod comparing;
mod memory;
mod suspicion;

const GROUP: GroupId = GroupId(3);
const UID: GroupUid = GroupUid([7; 16]);
const UNAPPLIED_BYTES_MAX: usize = 1 << 20;

fn replica(node: u64) -> ReplicaId {
    ReplicaId::new(0, NodeId::new(node).expect("a node id"))
}

fn members() -> Membership {
    let member = |node| (replica(node), Member { role: Role::Voter, raft_address: format!("h:{node}") });
    Membership { members: (1..=3).map(member).collect(), ..Membership::default() }
}

fn follower() -> Raft {
    follower_on(1)
}

fn follower_on(node: u64) -> Raft {
    let start = LogStart { position: LogPosition { index: 1, term: 1 }, membership: members() };
    let config = Config {
        id: replica(node),
        election_ticks: 10,
        heartbeat_ticks: 2,
        check_quorum: false,
        quiesce_after_ticks: None,
        append_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        inflight_messages_max: 16,
        unapplied_bytes_max: UNAPPLIED_BYTES_MAX,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 100,
    };
    let restored = Restored {
        hard_state: HardState { term: 1, vote: None, commit: 1 },
        last_index: 1,
        terms: vec![(1, 1)],
        applied: start.position,
        start,
        memberships: Vec::new(),
        condemned: None,
    };
    Raft::new(config, restored).expect("a fresh group")
}

struct Play {
    engine: Engine,
    now: Now,
    sent: VecDeque<Message>,
    answers: Vec<(Ticket, Answer)>,
    jobs: Vec<ApplyJob>,
    notices: Vec<(GroupId, Notice)>,
    /// What this test does nothing about.
    others: Vec<Effect>,
    /// What the state machine says of the log.
    disputed: Option<Dispute>,
    /// Writes wait for ever while this is set.
    is_disk_held: bool,
}

impl Play {
    fn new(limits: Limits) -> Play {
        let mut engine = Engine::new(replica(1).node(), limits);
        assert!(engine.add_group(GROUP, UID, follower(), 1));
        Play {
            engine,
            now: Now { tick: 0, monotonic_ms: 1_000, unix_ms: 1_000_000 },
            sent: VecDeque::new(),
            answers: Vec::new(),
            jobs: Vec::new(),
            notices: Vec::new(),
            others: Vec::new(),
            disputed: None,
            is_disk_held: false,
        }
    }

    /// Turns until nothing is left to do. The disk and the state machine are quick.
    fn turn(&mut self) {
        while !self.engine.is_idle() {
            let mut effects = Vec::new();
            self.engine.turn(&mut effects);
            for (group, effect) in effects {
                match effect {
                    Effect::Write(write) if self.is_disk_held => self.others.push(Effect::Write(write)),
                    Effect::Write(write) => {
                        self.engine.handle_event(group, Event::Persisted { write: write.number });
                    }
                    Effect::Apply(job) => {
                        self.engine
                            .handle_event(group, Event::Applied { index: job.last, disputed: self.disputed });
                        self.jobs.push(job);
                    }
                    Effect::Send { message, .. } => self.sent.push_back(message),
                    Effect::Answer(ticket, answer) => self.answers.push((ticket, answer)),
                    Effect::Notice(notice) => self.notices.push((group, notice)),
                    other => self.others.push(other),
                }
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.engine.handle_event(GROUP, event);
        self.turn();
    }

    fn hear(&mut self, from: u64, term: Term, body: Body) {
        let message = Message { from: replica(from), to: replica(1), term, body };
        self.handle(Event::Message { uid: UID, message });
    }

    fn tick(&mut self) {
        self.now.tick += 1;
        self.now.monotonic_ms += 10;
        self.now.unix_ms += 10;
        self.engine.set_now(self.now);
        self.engine.handle_node_event(NodeEvent::Tick { random: 0 });
        self.turn();
    }

    fn raft(&self) -> &Raft {
        self.engine.raft(GROUP).expect("the group is here")
    }

    /// Replica 1 is elected by 2, and 2 has all of its log.
    fn lead(&mut self) {
        for ticks in 0.. {
            if self.raft().is_leader() {
                break;
            }
            assert!(ticks < 100, "it does not come to lead");
            self.tick();
            while let Some(message) = self.sent.pop_front() {
                let granted = true;
                match message.body {
                    Body::PreVote { .. } => self.hear(2, message.term, Body::PreVoteReply { granted }),
                    Body::Vote { .. } => self.hear(2, message.term, Body::VoteReply { granted }),
                    _ => {}
                }
            }
        }
        self.accept();
    }

    /// Replica 2 has the whole log.
    fn accept(&mut self) {
        let (term, matched) = (self.raft().term(), self.raft().last_index());
        self.hear(2, term, Body::AppendReply(AppendReply::Accepted { matched }));
    }

    /// Replica 3 leads in the next term and overwrites what stands behind `prev` with an empty entry, which is committed.
    fn is_deposed(&mut self, prev: Index) {
        let term = self.raft().term() + 1;
        let prev = LogPosition { index: prev, term: self.raft().term_at(prev).expect("in the log") };
        let entry = Entry { index: prev.index + 1, term, kind: EntryKind::Empty, payload: Payload::new() };
        let body = Body::Append { prev, commit: entry.index, entries: vec![entry], matched: 0 };
        self.hear(3, term, body);
        assert!(!self.raft().is_leader());
    }

    fn propose(&mut self, ticket: u64) -> Index {
        let body = Payload::copy_from(b"put");
        let proposal = Proposal { ticket: Ticket(ticket), slot: NO_SLOT, deadline_tick: 1_000, body };
        self.handle(Event::Propose(vec![proposal]));
        self.raft().last_index()
    }

    fn read(&mut self, ticket: u64) {
        let tickets = vec![Ticket(ticket)];
        self.handle(Event::Read { kind: ReadKind::Linearizable, tickets, deadline_tick: 1_000 });
    }

    /// The index at which each ticket was handed to the state machine.
    fn handed(&self) -> Vec<(u64, Index)> {
        let waiting = self.jobs.iter().flat_map(|job| &job.tickets);
        waiting.flat_map(|own| own.tickets.iter().map(|ticket| (ticket.0, own.position.index))).collect()
    }
}

#[test]
fn e3_a_leader_that_comes_back_with_a_shorter_log_answers_what_it_proposes_now() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let before = play.raft().last_index();
    (10..20).for_each(|ticket| _ = play.propose(ticket));
    play.is_deposed(before);
    assert_eq!(play.answers, [(Ticket(10), Answer::NotApplied(NotApplied::Overwritten))]);
    play.lead();
    let at = play.propose(100);
    assert!(at < before + 10, "the tail of the first office reached further");
    play.accept();
    assert_eq!(play.handed(), [(100, at)], "its ticket goes along with its entry");
    let next = play.propose(101);
    play.accept();
    assert_eq!(play.handed(), [(100, at), (101, next)]);
}

fn proposal(ticket: u64, body: &[u8]) -> Proposal {
    Proposal { ticket: Ticket(ticket), slot: NO_SLOT, deadline_tick: 1_000, body: Payload::copy_from(body) }
}

#[test]
fn e1_what_waits_at_a_groups_turn_becomes_one_entry_up_to_its_bytes() {
    let mut play = Play::new(Limits { entry_bytes_target: 1_000, ..Limits::default() });
    play.lead();
    let before = play.raft().last_index();
    // They come in by several doors before the group's turn.
    for first in [100, 200, 300] {
        let own = (first..first + 20).map(|ticket| proposal(ticket, b"put")).collect();
        play.engine.handle_event(GROUP, Event::Propose(own));
    }
    play.turn();
    assert_eq!(play.raft().last_index(), before + 1, "sixty commands, one entry");
    let entry = play.raft().entries(before + 1, before + 1, usize::MAX).expect("in memory").remove(0);
    assert_eq!(PackedEntry::decode(&entry.payload).expect("packed here").count, 60);
    play.accept();
    assert_eq!(play.handed().len(), 60, "and sixty answers");

    let own = (0..10).map(|ticket| proposal(ticket, &[7; 300])).collect();
    play.engine.handle_event(GROUP, Event::Propose(own));
    play.turn();
    let entries = play.raft().entries(before + 2, play.raft().last_index(), usize::MAX).expect("in memory");
    let counts = entries.iter().map(|entry| PackedEntry::decode(&entry.payload).expect("packed here").count);
    assert_eq!(counts.collect::<Vec<_>>(), [3, 3, 3, 1], "an entry is closed at its target");
}

#[test]
fn e3_a_command_that_is_too_large_is_refused_at_once_and_the_next_one_goes_on() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let before = play.raft().last_index();
    let own = vec![proposal(1, &vec![0; COMMAND_BYTES_MAX + 1]), proposal(2, b"put")];
    play.handle(Event::Propose(own));
    let refused = NotApplied::TooLarge { bytes: COMMAND_BYTES_MAX + 1, max_bytes: COMMAND_BYTES_MAX };
    assert_eq!(play.answers, [(Ticket(1), Answer::NotApplied(refused))]);
    play.accept();
    assert_eq!(play.handed(), [(2, before + 1)]);
}

#[test]
fn r1_reads_of_one_turn_share_a_round() {
    let mut play = Play::new(Limits::default());
    play.lead();
    play.sent.clear();
    for ticket in 1..=50 {
        let (kind, tickets) = (ReadKind::Linearizable, vec![Ticket(ticket)]);
        play.engine.handle_event(GROUP, Event::Read { kind, tickets, deadline_tick: 1_000 });
    }
    play.turn();
    let rounds: Vec<u64> = play
        .sent
        .iter()
        .filter_map(|message| match message.body {
            Body::Heartbeat { round, .. } => Some(round),
            _ => None,
        })
        .collect();
    assert_eq!(rounds, [rounds[0]; 2], "one heartbeat to each of the others");
    assert_eq!(play.answers, []);
    play.hear(2, play.raft().term(), Body::HeartbeatReply { round: rounds[0] });
    assert_eq!(play.answers.len(), 50, "one answer releases all of them");
}

#[test]
fn e8_a_group_whose_log_says_that_it_is_disputed_is_not_served_by_whoever_leads_it_next() {
    let mut play = Play::new(Limits::default());
    play.disputed = Some(Dispute { index: 1, shown_by: Depth::Content });
    play.lead();
    for office in 0..2 {
        play.propose(1);
        play.read(2);
        let disputed = || Answer::NotApplied(NotApplied::Disputed(1));
        assert_eq!(
            std::mem::take(&mut play.answers),
            [(Ticket(1), disputed()), (Ticket(2), disputed())],
            "{office}"
        );
        play.is_deposed(play.raft().commit());
        play.lead();
    }
    play.disputed = None;
    play.handle(Event::Applied { index: play.raft().commit(), disputed: None });
    assert!(play.notices.contains(&(GROUP, Notice::Settled)));
    let at = play.propose(3);
    play.accept();
    assert_eq!(play.handed(), [(3, at)]);
}

#[test]
fn e8_reads_that_were_under_way_when_the_log_said_so_are_refused() {
    let mut play = Play::new(Limits::default());
    play.lead();
    play.read(1);
    assert_eq!(play.answers, [], "its round waits for answers");
    play.disputed = Some(Dispute { index: 1, shown_by: Depth::Chain });
    play.propose(2);
    play.accept();
    assert_eq!(play.answers, [(Ticket(1), Answer::NotApplied(NotApplied::Disputed(1)))]);
}

#[test]
fn m3_adding_a_node_that_has_a_live_replica_answers_with_that_one_and_changes_nothing() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let add = |play: &mut Play, ticket| {
        let change = MembershipChange::AddLearner {
            node: NodeId::new(4).expect("a node id"),
            raft_address: "h:4".to_owned(),
        };
        let (ticket, deadline_tick) = (Ticket(ticket), 1_000);
        play.handle(Event::Change { ticket, change, expected_change_index: None, deadline_tick });
        play.accept();
        match play.answers.pop() {
            Some((answered, Answer::Changed { position, membership })) if answered == ticket => {
                let of_node = |id: &&ReplicaId| id.node().get() == 4;
                (position, membership.members.keys().copied().filter(|id| of_node(&id)).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        }
    };
    let (position, added) = add(&mut play, 1);
    assert_eq!((position.index, added.len()), (play.raft().membership().change_index, 1));
    let last = play.raft().last_index();
    assert_eq!(add(&mut play, 2), (position, added), "the same replica, by the same change");
    assert_eq!(play.raft().last_index(), last, "nothing was written");
}

#[test]
fn e4_what_comes_while_leadership_is_handed_over_is_sent_to_the_successor() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let last = play.raft().last_index();
    play.handle(Event::Transfer { ticket: Ticket(1), to: Some(replica(2)) });
    assert_eq!(play.propose(2), last, "nothing is written");
    assert_eq!(play.answers, [(Ticket(2), Answer::NotApplied(NotApplied::Transferring(replica(2))))]);
}

impl Play {
    /// Commands of three bytes each, all in one event.
    fn propose_all(&mut self, tickets: std::ops::Range<u64>) {
        let body = Payload::copy_from(b"put");
        let proposal = |ticket| Proposal {
            ticket: Ticket(ticket),
            slot: NO_SLOT,
            deadline_tick: 1_000,
            body: body.clone(),
        };
        self.handle(Event::Propose(tickets.map(proposal).collect()));
    }

    /// Replica 2 answers the newest round of reads.
    fn confirm_round(&mut self) {
        let rounds = self.sent.iter().filter_map(|message| match message.body {
            Body::Heartbeat { round, .. } => Some(round),
            _ => None,
        });
        let round = rounds.max().expect("a round was sent");
        self.hear(2, self.raft().term(), Body::HeartbeatReply { round });
    }
}

fn busy(tickets: impl IntoIterator<Item = u64>, queue: &'static str) -> Vec<(Ticket, Answer)> {
    let refused = |ticket| (Ticket(ticket), Answer::NotApplied(NotApplied::Busy(queue)));
    tickets.into_iter().map(refused).collect()
}

/// Proposes five commands where three find room.
fn only_three_find_room(limits: Limits) {
    let mut play = Play::new(limits);
    play.lead();
    play.propose_all(0..5);
    assert_eq!(play.answers, busy([3, 4], "the group's queue of proposals"));
    assert_eq!(play.engine.pending(GROUP), Some((0, 0)), "what was taken had its turn");
    let at = play.raft().last_index();
    play.accept();
    assert_eq!(play.handed(), [(0, at), (1, at), (2, at)], "the state machine answers what was taken");
    play.answers.clear();
    play.propose_all(5..8);
    assert_eq!(play.answers, [], "there is room again");
    let next = play.raft().last_index();
    play.accept();
    assert_eq!(play.handed()[3..], [(5, next), (6, next), (7, next)]);
}

#[test]
fn t2_proposals_above_the_bytes_that_may_wait_are_refused_and_the_others_are_answered() {
    only_three_find_room(Limits { pending_bytes_max: 3 * b"put".len() + 2, ..Limits::default() });
}

#[test]
fn t2_proposals_above_the_number_that_may_wait_are_refused_and_the_others_are_answered() {
    only_three_find_room(Limits { pending_count_max: 3, ..Limits::default() });
}

#[test]
fn t2_a_log_with_too_much_that_is_not_applied_takes_no_more() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let large = Proposal {
        ticket: Ticket(1),
        slot: NO_SLOT,
        deadline_tick: 1_000,
        body: vec![7; UNAPPLIED_BYTES_MAX].into(),
    };
    play.handle(Event::Propose(vec![large]));
    assert_eq!(play.answers, []);
    play.propose(2);
    assert_eq!(play.answers, busy([2], "the group's log of entries not yet applied"));
    play.answers.clear();
    play.accept();
    play.propose(3);
    assert_eq!(play.answers, [], "what was too much is applied");
}

#[test]
fn who_asks_hears_which_groups_there_are_and_what_waits_in_them() {
    let mut play = Play::new(Limits::default());
    play.lead();
    assert!(play.engine.add_group(GroupId(1), UID, follower(), 1));
    assert_eq!(play.engine.group_ids().collect::<Vec<_>>(), [GroupId(1), GROUP]);
    play.engine.handle_event(GROUP, Event::Propose(vec![proposal(1, b"put"), proposal(2, b"more")]));
    assert_eq!(play.engine.pending(GROUP), Some((7, 2)));
    play.turn();
    assert_eq!(play.engine.pending(GROUP), Some((0, 0)));
    assert_eq!(play.engine.pending(GroupId(2)), None);
}

#[test]
fn t2_reads_above_the_number_that_may_wait_are_refused_and_the_others_are_answered() {
    let mut play = Play::new(Limits { reads_max: 3, ..Limits::default() });
    play.lead();
    let index = play.raft().commit();
    let ready = |ticket| (Ticket(ticket), Answer::ReadReady { index });
    let read = |play: &mut Play, kind, tickets: std::ops::RangeInclusive<u64>| {
        play.handle(Event::Read { kind, tickets: tickets.map(Ticket).collect(), deadline_tick: 1_000 });
    };
    let queue = "the group's queue of reads";
    read(&mut play, ReadKind::Linearizable, 1..=4);
    assert_eq!(std::mem::take(&mut play.answers), busy(1..=4, queue), "more than find room at any time");
    read(&mut play, ReadKind::Linearizable, 1..=1);
    // Its index is a while away.
    read(&mut play, ReadKind::AppliedThrough(index + 1), 2..=2);
    read(&mut play, ReadKind::IndexOnly, 3..=3);
    assert_eq!(play.answers, [], "all three wait");
    read(&mut play, ReadKind::Linearizable, 4..=4);
    read(&mut play, ReadKind::AppliedThrough(index + 1), 5..=5);
    assert_eq!(std::mem::take(&mut play.answers), busy(4..=5, queue));
    play.confirm_round();
    assert_eq!(std::mem::take(&mut play.answers), [ready(1), ready(3)]);
    read(&mut play, ReadKind::Linearizable, 6..=7);
    read(&mut play, ReadKind::Linearizable, 8..=8);
    assert_eq!(std::mem::take(&mut play.answers), busy([8], queue), "one place is still taken");
    assert_eq!(play.propose(9), index + 1);
    play.accept();
    assert_eq!(play.answers, [(Ticket(2), Answer::ReadReady { index: index + 1 })]);
    play.answers.clear();
    read(&mut play, ReadKind::Linearizable, 8..=8);
    assert_eq!(play.answers, [], "every answer gives its place back");
}

/// The stamps of the entries with commands that were handed to the state machine.
fn stamps(play: &Play) -> Vec<u64> {
    let entries = play.jobs.iter().flat_map(|job| job.entries.iter().flatten());
    let packed = entries.filter(|entry| entry.kind == EntryKind::Commands);
    packed.map(|entry| PackedEntry::decode(&entry.payload).expect("packed").leader_unix_ms).collect()
}

#[test]
fn e1_a_leader_that_comes_back_with_a_clock_that_went_back_does_not_take_its_stamps_back() {
    let mut play = Play::new(Limits::default());
    let hear_clocks = |play: &mut Play| {
        for node in [2, 3] {
            let unix_ms = play.now.unix_ms;
            play.engine.handle_node_event(NodeEvent::PeerClock { node: replica(node).node(), unix_ms });
        }
    };
    hear_clocks(&mut play);
    play.lead();
    play.propose(1);
    play.accept();
    let first = stamps(&play);
    assert!(first.last().is_some_and(|stamp| *stamp >= 1_000_000), "{first:?}");
    play.is_deposed(play.raft().commit());
    // Every clock of the group is set back, and the median with them.
    play.now.unix_ms = 500_000;
    hear_clocks(&mut play);
    play.lead();
    for ticket in 2..5 {
        play.propose(ticket);
        play.accept();
    }
    let all = stamps(&play);
    assert_eq!(all.len(), 4);
    assert!(all.is_sorted(), "{all:?}");
}

#[test]
fn t4_a_panic_inside_a_group_ends_that_group_and_no_other() {
    let other = GroupId(4);
    let mut play = Play::new(Limits::default());
    assert!(play.engine.add_group(other, UID, follower(), 1));
    play.lead();
    play.read(1);
    let last = play.propose(2);
    assert_eq!(play.answers, [], "both wait");
    let held = play.engine.held_bytes();
    assert!(held > 0);
    play.engine.touched.insert(GROUP);
    play.engine.guarded(GROUP, |_, _, out| {
        out.push(Effect::Answer(Ticket(9), Answer::NotApplied(NotApplied::Deadline)));
        panic!("a bug at {last}");
    });
    play.turn();
    let message = format!("a bug at {last}");
    assert_eq!(play.notices.last(), Some(&(GROUP, Notice::Panicked { message })));
    assert_eq!(
        play.answers,
        [
            (Ticket(1), Answer::NotApplied(NotApplied::Stopping)),
            (Ticket(2), Answer::Unknown(Unknown::Stopped)),
        ],
        "what was proposed may be applied; what the part that panicked had to say is not trusted"
    );
    assert!(play.engine.raft(GROUP).is_none(), "its state is never used again");
    assert_eq!(play.engine.held_bytes(), 0);
    play.answers.clear();
    play.read(3);
    assert_eq!(play.answers, [(Ticket(3), Answer::NotApplied(NotApplied::NoSuchGroup))]);
    let term = play.engine.raft(other).expect("the other group is here").term();
    (0..30).for_each(|_| play.tick());
    let asked = |message: &Message| matches!(message.body, Body::PreVote { .. });
    assert!(play.sent.iter().any(asked), "the other group lives on in term {term}");
    assert_eq!(play.answers.len(), 1, "and says nothing in the place of the one that is gone");
}

#[test]
fn q2_a_node_that_falls_silent_or_lives_anew_wakes_the_groups_that_it_leads() {
    let mut play = Play::new(Limits::default());
    play.engine.groups.get_mut(&GROUP).expect("the group is here").raft.set_quiesce_after_ticks(Some(5));
    let leader = replica(3).node();
    let says = |play: &mut Play, life| {
        play.engine.handle_node_event(NodeEvent::PeerLife { node: leader, life });
        play.turn();
    };
    let entry = Entry { index: 2, term: 2, kind: EntryKind::Empty, payload: Payload::new() };
    let prev = LogPosition { index: 1, term: 1 };
    play.hear(3, 2, Body::Append { prev, entries: vec![entry], commit: 2, matched: 0 });
    play.tick();
    let sleep = |play: &mut Play, life| {
        says(play, life);
        play.hear(3, 2, Body::Quiesce { last: 2, life, number: 1 });
        assert!(play.raft().is_asleep());
    };
    sleep(&mut play, 7);
    for _ in 0..100 {
        play.tick();
        says(&mut play, 7);
    }
    assert!(play.raft().is_asleep(), "the same word again and again");
    (1..10).for_each(|_| play.tick());
    assert!(play.raft().is_asleep());
    play.tick();
    assert!(!play.raft().is_asleep(), "an election timeout of silence");

    sleep(&mut play, 7);
    says(&mut play, 8);
    assert!(!play.raft().is_asleep(), "another life");
    sleep(&mut play, 8);
    play.tick();
    says(&mut play, 8);
    assert!(play.raft().is_asleep(), "and that one again");
}

#[test]
fn q2_a_group_that_comes_later_hears_how_all_nodes_live() {
    let mut play = Play::new(Limits::default());
    assert!(play.engine.remove_group(GROUP, &NotApplied::Stopping));
    let leader = replica(3).node();
    play.engine.handle_node_event(NodeEvent::PeerLife { node: leader, life: 7 });
    let mut raft = follower();
    raft.set_quiesce_after_ticks(Some(5));
    assert!(play.engine.add_group(GROUP, UID, raft, 1));
    let entry = Entry { index: 2, term: 2, kind: EntryKind::Empty, payload: Payload::new() };
    let prev = LogPosition { index: 1, term: 1 };
    play.hear(3, 2, Body::Append { prev, entries: vec![entry], commit: 2, matched: 0 });
    play.hear(3, 2, Body::Quiesce { last: 2, life: 7, number: 1 });
    assert!(play.raft().is_asleep());
}

#[test]
fn q2_lives_are_told_again_when_a_membership_is_committed() {
    let mut play = Play::new(Limits::default());
    play.engine.groups.get_mut(&GROUP).expect("the group is here").raft.set_quiesce_after_ticks(Some(5));
    let newcomer = replica(4);
    play.engine.handle_node_event(NodeEvent::PeerLife { node: newcomer.node(), life: 7 });
    let member = Member { role: Role::Voter, raft_address: "h:4".to_owned() };
    let mut next = Membership { change_index: 2, ..members() };
    next.members.insert(newcomer, member);
    let mut payload = Vec::new();
    next.encode(&mut payload);
    let entry = Entry { index: 2, term: 2, kind: EntryKind::Membership, payload: payload.into() };
    let prev = LogPosition { index: 1, term: 1 };
    play.hear(4, 2, Body::Append { prev, entries: vec![entry], commit: 2, matched: 0 });
    play.hear(4, 2, Body::Quiesce { last: 2, life: 7, number: 1 });
    assert!(play.raft().is_asleep(), "it had said so before it was a member");
}

#[test]
fn q2_the_epoch_grows_when_a_replica_may_have_stopped_answering() {
    let mut play = Play::new(Limits::default());
    play.lead();
    let last = play.raft().last_index();
    play.is_deposed(last);
    play.tick();
    assert_eq!(play.engine.epoch(), 1, "it does not lead any more");
    play.lead();
    let (ticket, deadline_tick) = (Ticket(1), 1_000);
    let change = MembershipChange::AddLearner { node: replica(4).node(), raft_address: "h:4".to_owned() };
    play.handle(Event::Change { ticket, change, expected_change_index: None, deadline_tick });
    play.accept();
    assert_eq!(play.engine.epoch(), 2, "whom a change removes may not hear so");
    let last = play.raft().last_index();
    play.is_deposed(last);
    play.tick();
    assert_eq!(play.engine.epoch(), 3);
    play.handle(Event::Condemn { reason: mraft_types::CondemnedReason::Divergence });
    play.tick();
    assert_eq!(play.engine.epoch(), 4, "it is condemned");
    assert!(play.engine.remove_group(GROUP, &NotApplied::Stopping));
    assert_eq!(play.engine.epoch(), 5, "it ended");
    assert!(play.engine.add_group(GROUP, UID, follower(), 1));
    play.engine.guarded(GROUP, |_, _, _| panic!("a bug"));
    assert_eq!(play.engine.epoch(), 6, "it panicked");
}
