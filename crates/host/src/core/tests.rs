// SPDX-License-Identifier: Apache-2.0

//! One core played by hand: what it asks for, and when.

use mraft_engine::event::ReadKind;
use mraft_engine::packing::NO_SLOT;
use mraft_raft::message::Body;
use mraft_raft::{AppendReply, Config, Restored};
use mraft_types::{DeploymentId, Entry, EntryKind, LogPosition, Member, Membership, Role, SlotSet};

use super::*;
use crate::meta::GroupMeta;

const GROUP: GroupId = GroupId(3);

fn replica(node: u64) -> ReplicaId {
    ReplicaId::new(0, NodeId::new(node).expect("a node id"))
}

fn incarnation(group: GroupId) -> Incarnation {
    Incarnation { group, number: 5 }
}

/// The one of [`GROUP`] that runs.
fn own() -> Incarnation {
    incarnation(GROUP)
}

fn members() -> Membership {
    let member = |node| (replica(node), Member { role: Role::Voter, raft_address: format!("h:{node}") });
    Membership { members: (1..=3).map(member).collect(), ..Membership::default() }
}

/// A core with one follower of a fresh group.
fn core() -> Core {
    core_of(members(), Limits::default())
}

/// A core with one replica of a fresh group of these members.
fn core_of(members: Membership, limits: Limits) -> Core {
    let mut core = Core::new(CoreConfig {
        node: replica(1).node(),
        limits,
        compaction_overhead_entries: 0,
        truncates_on_request_only: false,
        truncate_step_entries: 1,
    });
    core.handle(Input::Start(Box::new(seat(GROUP, members))));
    core.turn();
    core
}

/// One replica of a fresh group of these members.
fn seat(group: GroupId, members: Membership) -> Seat {
    let genesis = GroupMeta::genesis(DeploymentId(1), group, members, SlotSet::default());
    let start = genesis.log_start();
    let config = Config {
        id: replica(1),
        election_ticks: 10,
        heartbeat_ticks: 2,
        check_quorum: true,
        append_bytes_max: 1 << 20,
        inflight_bytes_max: 1 << 20,
        inflight_messages_max: 16,
        unapplied_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 100,
        quiesce_after_ticks: None,
    };
    let restored = Restored {
        hard_state: HardState { term: start.position.term, vote: None, commit: start.position.index },
        last_index: start.position.index,
        terms: vec![(start.position.index, start.position.term)],
        applied: start.position,
        start,
        memberships: Vec::new(),
        condemned: None,
    };
    let raft = Raft::new(config, restored).expect("a fresh group");
    let key = LogKey { group, uid: genesis.uid, replica: replica(1) };
    Seat { key, incarnation: incarnation(group), raft, feature_level: genesis.feature_level }
}

#[test]
fn d10_after_every_replica_stopped_whoever_asks_is_told_why() {
    let mut core = core();
    let reason = NotApplied::Disk("the disk stalled");
    core.handle(Input::StopAll(reason.clone()));
    core.handle(Input::StopAll(NotApplied::Stopping));
    core.turn();
    let read =
        Event::Read { kind: ReadKind::Linearizable, tickets: vec![Ticket(1), Ticket(2)], deadline_tick: 9 };
    core.handle(Input::Group(GROUP, read));
    core.handle(Input::Group(GROUP, Event::ProposeCheckpoint(Ticket(3))));
    core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
    core.handle(staged(20, 7));
    let out = core.turn();
    let told = |ticket| (Ticket(ticket), Answer::NotApplied(reason.clone()));
    assert_eq!(out.answers, [told(1), told(2), told(3)]);
    assert!(
        matches!(out.applies[..], [(Incarnation { group: GROUP, .. }, ApplyOrder::Discard { directory: 7 })]),
        "{:?}",
        out.applies
    );
    assert!(out.messages.is_empty() && out.log.is_empty(), "{out:?}");
}

fn staged(index: Index, directory: u64) -> Input {
    let start = LogStart { position: LogPosition { index, term: 2 }, membership: members() };
    Input::Staged { of: own(), from: replica(2), to: replica(1), term: 2, start, directory }
}

#[test]
fn n1_a_second_snapshot_that_arrives_before_the_first_is_taken_does_not_stop_the_installation() {
    let mut core = core();
    core.handle(staged(20, 7));
    core.handle(staged(30, 8));
    let out = core.turn();
    let discarded =
        |(_, order): &(Incarnation, ApplyOrder)| matches!(order, ApplyOrder::Discard { directory: 8 });
    assert!(out.applies.iter().any(discarded), "{:?}", out.applies);
    let begins = |job: &LogJob| match job {
        LogJob::InstallStep { write, .. } => {
            matches!(&write.mark, Some(Mark::InstallBegin { directory: 7, .. }))
        }
        _ => false,
    };
    assert!(out.log.iter().any(begins), "{:?}", out.log);
}

#[test]
fn n1_an_installation_goes_begin_then_switch_then_done_and_only_then_is_it_acknowledged() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let out = hear(&mut core, uid, message(2, 2, Body::Heartbeat { commit: 1, matched: 0, round: 0 }));
    persist(&mut core, &out);
    let install_marks = |out: &Output| -> Vec<Mark> {
        let marks = out.log.iter().filter_map(|job| match job {
            LogJob::InstallStep { write, .. } => write.mark.clone(),
            _ => None,
        });
        marks.collect()
    };
    let switches = |out: &Output| {
        out.applies.iter().any(|(_, order)| matches!(order, ApplyOrder::Switch { directory: 7 }))
    };
    let acknowledges = |out: &Output| {
        let own = |message: &&Message| matches!(message.body, Body::AppendReply { .. });
        said(out).iter().any(own)
    };
    core.handle(staged(20, 7));
    let out = core.turn();
    assert!(matches!(install_marks(&out)[..], [Mark::InstallBegin { directory: 7, .. }]), "{out:?}");
    assert!(!switches(&out) && !acknowledges(&out), "{out:?}");
    persist(&mut core, &out);
    let out = core.turn();
    assert!(!switches(&out) && !acknowledges(&out), "the beginning is not durable: {out:?}");

    core.handle(Input::Log(LogDone::InstallStep { of: own() }));
    let out = core.turn();
    assert!(switches(&out) && install_marks(&out).is_empty() && !acknowledges(&out), "{out:?}");
    core.handle(Input::Switched { of: own() });
    let out = core.turn();
    assert!(matches!(install_marks(&out)[..], [Mark::InstallDone(_)]), "{out:?}");
    assert!(!acknowledges(&out), "{out:?}");
    core.handle(Input::Log(LogDone::InstallStep { of: own() }));
    let out = core.turn();
    assert!(acknowledges(&out), "{out:?}");
    assert_eq!(core.engine().raft(GROUP).map(|raft| raft.start().position.index), Some(20));
}

#[test]
fn d10_a_group_without_room_for_its_state_takes_no_proposals_until_there_is() {
    let mut core = sole_leader(Limits::default());
    core.handle(Input::StoreFull { of: own(), full: true });
    let out = propose(&mut core, 1);
    assert!(
        matches!(out.answers[..], [(Ticket(1), Answer::NotApplied(NotApplied::Disk(why)))] if why.contains("full")),
        "{out:?}"
    );
    assert!(out.log.is_empty(), "{out:?}");
    core.handle(Input::StoreFull { of: own(), full: false });
    let out = propose(&mut core, 2);
    assert!(out.answers.is_empty() && !out.log.is_empty(), "{out:?}");
}

#[test]
fn m3_what_was_done_for_an_earlier_replica_of_the_group_does_not_reach_the_one_in_its_place() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let out = hear(&mut core, uid, vote_request());
    assert!(matches!(out.log[..], [LogJob::Write { .. }]), "{out:?}");
    core.handle(staged(20, 7));
    core.turn();
    let earlier = Incarnation { number: own().number - 1, ..own() };
    let earlier_key = LogKey { group: GROUP, uid, replica: ReplicaId::new(1, replica(1).node()) };
    let late = [
        Input::Log(LogDone::Persisted { of: earlier, number: u64::MAX }),
        Input::Log(LogDone::InstallStep { of: earlier }),
        Input::Log(LogDone::Refused { key: Box::new(earlier_key), reason: "a rule of the log".to_owned() }),
        Input::Applied { of: earlier, index: 500, persisted: 500, disputed: None },
        Input::Switched { of: earlier },
        Input::StoreFull { of: earlier, full: true },
        Input::Own(earlier, Event::Condemn { reason: mraft_types::CondemnedReason::Divergence }),
        Input::StopOwn(earlier, NotApplied::Stopping),
    ];
    for input in late {
        let what = format!("{input:?}");
        core.handle(input);
        assert!(core.turn().is_empty(), "{what}");
    }
    let raft = core.engine().raft(GROUP).expect("it still runs");
    assert_eq!((core.engine().applied(GROUP), raft.condemned(), core.no_room(GROUP)), (Some(1), None, None));
}

#[test]
fn m3_a_stopped_group_hears_nothing_and_its_next_run_hears_nothing_of_the_one_before() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    core.handle(staged(20, 7));
    core.turn();
    core.handle(Input::Stop(GROUP, NotApplied::Stopped));
    let out = propose(&mut core, 1);
    assert_eq!(out.answers, [(Ticket(1), Answer::NotApplied(NotApplied::Stopped))]);
    let out = hear(&mut core, uid, vote_request());
    assert!(out.is_empty(), "{out:?}");
    let next = Incarnation { number: own().number + 1, ..own() };
    core.handle(Input::Start(Box::new(Seat { incarnation: next, ..seat(GROUP, members()) })));
    core.turn();
    let out = hear(&mut core, uid, vote_request());
    assert!(matches!(out.log[..], [LogJob::Write { of, .. }] if of == next), "{out:?}");
    let late = [
        Input::Log(LogDone::Persisted { of: own(), number: u64::MAX }),
        Input::Switched { of: own() },
        Input::Applied { of: own(), index: 20, persisted: 20, disputed: None },
        Input::StopOwn(own(), NotApplied::Stopping),
    ];
    for input in late {
        let text = format!("{input:?}");
        core.handle(input);
        let out = core.turn();
        assert!(out.is_empty(), "{text}: {out:?}");
    }
    assert_eq!(core.engine().applied(GROUP), Some(1));
    core.handle(Input::Stop(GROUP, NotApplied::Stopping));
    let out = propose(&mut core, 2);
    assert_eq!(out.answers, [(Ticket(2), Answer::NotApplied(NotApplied::NoSuchGroup))]);
}

#[test]
fn m3_a_snapshot_that_an_earlier_replica_of_the_group_was_sent_is_discarded() {
    let mut core = core();
    let start = LogStart { position: LogPosition { index: 20, term: 2 }, membership: members() };
    let earlier = Incarnation { number: own().number - 1, ..own() };
    let (own_id, earlier_id) = (replica(1), ReplicaId::new(1, replica(1).node()));
    for (of, to) in [(earlier, own_id), (own(), earlier_id)] {
        let (start, from) = (start.clone(), replica(2));
        core.handle(Input::Staged { of, from, to, term: 2, start, directory: 7 });
        let out = core.turn();
        let discarded = [(of, ApplyOrder::Discard { directory: 7 })];
        assert_eq!(format!("{:?}", out.applies), format!("{discarded:?}"));
        assert!(out.log.is_empty(), "{out:?}");
    }
}

/// A log that always answers alike.
struct Answers(fn() -> Result<Vec<Entry>, LogError>);

impl LogReader for Answers {
    fn entries(&self, _: LogKey, _: Index, _: Index, _: usize) -> Result<Vec<Entry>, LogError> {
        self.0()
    }
}

#[test]
fn d10_only_entries_that_the_log_let_go_of_are_gone_and_one_that_cannot_be_read_ends_its_replica() {
    let key = seat(GROUP, members()).key;
    let order =
        LogReadOrder { of: own(), order: 1, key, to: replica(2), first: 5, last: 9, max_bytes: 1 << 20 };
    let found = |answer| read_back(&order, &Answers(answer));
    assert_eq!(found(|| Err(LogError::NotHere { index: 5 })), Ok(ReadBack::Gone));
    assert_eq!(found(|| Ok(Vec::new())), Ok(ReadBack::Entries(Vec::new())));
    let unreadable = || Err(LogError::Failed(std::io::Error::other("the disk is broken")));
    let reason = found(unreadable).expect_err("it says nothing of what the log has");
    assert!(reason.contains("cannot be read") && reason.contains("the disk is broken"), "{reason}");
}

fn message(from: u64, term: Term, body: Body) -> Message {
    Message { from: replica(from), to: replica(1), term, body }
}

fn hear(core: &mut Core, uid: GroupUid, message: Message) -> Output {
    core.handle(Input::Group(GROUP, Event::Message { uid, message }));
    core.turn()
}

#[test]
fn the_heartbeats_of_all_groups_leave_in_one_frame_per_peer() {
    let mut membership = members();
    // The only voter leads without asking anybody.
    let others = membership.members.iter_mut().filter(|(id, _)| **id != replica(1));
    others.for_each(|(_, member)| member.role = Role::Learner);
    let mut core = core_of(membership.clone(), Limits::default());
    let groups: Vec<GroupId> = (100..1_100).map(GroupId).collect();
    for group in &groups {
        core.handle(Input::Start(Box::new(seat(*group, membership.clone()))));
    }
    let leads =
        |core: &Core, group: &GroupId| core.engine().raft(*group).is_some_and(|raft| raft.is_leader());
    let mut number = 0;
    let mut tick = |core: &mut Core| {
        number += 1;
        core.set_now(Now { tick: number, ..Now::default() });
        core.handle(Input::Node(NodeEvent::Tick { random: 0 }));
        let out = core.turn();
        for job in &out.log {
            if let LogJob::Write { of, number, .. } = job {
                core.handle(Input::Log(LogDone::Persisted { of: *of, number: *number }));
            }
        }
        out
    };
    while !groups.iter().all(|group| leads(&core, group)) {
        tick(&mut core);
    }
    core.turn();
    let is_beat = |envelope: &Envelope| matches!(envelope.message.body, Body::Heartbeat { .. });
    let beat = loop {
        let out = tick(&mut core);
        if out.messages.values().flatten().any(is_beat) {
            break out;
        }
    };
    assert_eq!(beat.messages.len(), 2, "two peers");
    for (peer, envelopes) in &beat.messages {
        assert_eq!(envelopes.iter().filter(|envelope| is_beat(envelope)).count(), groups.len() + 1);
        let mut frames = Vec::new();
        let left_out = crate::frames::encode(replica(1).node(), *peer, envelopes, |frame| frames.push(frame));
        assert_eq!((frames.len(), left_out), (1, 0));
    }
}

/// Everything that leaves the node for other replicas.
fn said(out: &Output) -> Vec<&Message> {
    out.messages.values().flatten().map(|envelope| &envelope.message).collect()
}

fn vote_request() -> Message {
    message(2, 5, Body::Vote { last: LogPosition { index: 1, term: 1 }, transfer: true })
}

#[test]
fn d5_a_vote_leaves_when_the_log_said_that_it_is_durable_and_not_before() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let out = hear(&mut core, uid, vote_request());
    assert!(said(&out).is_empty(), "{out:?}");
    let [LogJob::Write { number, .. }] = out.log.as_slice() else { unreachable!("{out:?}") };
    for _ in 0..3 {
        core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
        assert!(said(&core.turn()).is_empty());
    }
    core.handle(Input::Log(LogDone::Persisted { of: own(), number: *number }));
    let out = core.turn();
    assert!(matches!(said(&out)[..], [Message { body: Body::VoteReply { granted: true }, .. }]), "{out:?}");
}

#[test]
fn m8_a_message_of_another_founding_or_for_another_replica_changes_nothing() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let out = hear(&mut core, GroupUid([9; 16]), vote_request());
    assert!(said(&out).is_empty() && out.log.is_empty(), "{out:?}");
    assert!(out.notices.iter().any(|(_, notice)| matches!(notice, Notice::ForeignUid { .. })), "{out:?}");
    let earlier_generation = ReplicaId::new(1, replica(1).node());
    let out = hear(&mut core, uid, Message { to: earlier_generation, ..vote_request() });
    assert!(said(&out).is_empty() && out.log.is_empty(), "{out:?}");
    assert_eq!(core.engine().raft(GROUP).map(Raft::term), Some(1));
}

#[test]
fn e4_a_proposal_at_a_follower_is_not_applied_and_never_becomes_a_message() {
    let mut core = core();
    let proposal = mraft_engine::event::Proposal {
        ticket: Ticket(4),
        slot: NO_SLOT,
        deadline_tick: u64::MAX,
        body: "x".into(),
    };
    core.handle(Input::Group(GROUP, Event::Propose(vec![proposal])));
    let out = core.turn();
    assert!(said(&out).is_empty() && out.log.is_empty(), "{out:?}");
    assert_eq!(out.answers, [(Ticket(4), Answer::NotApplied(NotApplied::NotLeader(None)))]);
}

/// A follower that hears its leader, tick by tick, until the leader is suspected; the ticks until it asks for votes then.
fn ticks_until_it_campaigns(suspects: bool) -> Option<u32> {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let heartbeat = || message(2, 1, Body::Heartbeat { commit: 1, matched: 0, round: 0 });
    hear(&mut core, uid, heartbeat());
    if suspects {
        core.handle(Input::Node(NodeEvent::NodeSuspected { node: replica(2).node() }));
    }
    (1..=60).find(|tick| {
        core.set_now(Now { tick: u64::from(*tick), ..Now::default() });
        core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
        if !suspects {
            core.handle(Input::Group(GROUP, Event::Message { uid, message: heartbeat() }));
        }
        let out = core.turn();
        said(&out).iter().any(|message| matches!(message.body, Body::PreVote { .. }))
    })
}

#[test]
fn t5_the_groups_of_a_suspected_node_elect_before_an_election_timeout_has_passed() {
    assert_eq!(ticks_until_it_campaigns(false), None);
    let ticks = ticks_until_it_campaigns(true).expect("it campaigns");
    assert!(ticks < 10, "{ticks} ticks");
}

#[test]
fn t5_the_elections_after_a_suspicion_are_bounded_per_tick() {
    const GROUPS: u64 = 2_000;
    let mut core = core();
    for group in (10..10 + GROUPS).map(GroupId) {
        core.handle(Input::Start(Box::new(seat(group, members()))));
        let uid = core.engine().uid(group).expect("the group");
        let message = message(2, 1, Body::Heartbeat { commit: 1, matched: 0, round: 0 });
        core.handle(Input::Group(group, Event::Message { uid, message }));
    }
    core.turn();
    core.handle(Input::Node(NodeEvent::NodeSuspected { node: replica(2).node() }));
    let mut campaigned = std::collections::BTreeSet::new();
    for tick in 1..=20 {
        let out = core.turn();
        let asks = |envelope: &&Envelope| matches!(envelope.message.body, Body::PreVote { .. });
        let now: std::collections::BTreeSet<GroupId> =
            out.messages.values().flatten().filter(asks).map(|envelope| envelope.group).collect();
        // Two ranks meet in one tick: those whose turn is the first, and those of earlier groups whose turn is the second.
        assert!(now.len() <= 2 * mraft_engine::SUSPECTED_PER_TICK_MAX as usize, "{} groups", now.len());
        campaigned.extend(now);
        core.set_now(Now { tick, ..Now::default() });
        core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
    }
    // The group that the core had before follows nobody.
    campaigned.remove(&GROUP);
    assert_eq!(campaigned.len() as u64, GROUPS, "every group has its turn");
}

/// A core whose replica is its group's only voter, and leads.
fn sole_leader(limits: Limits) -> Core {
    let mut sole = members();
    sole.members.retain(|id, _| *id == replica(1));
    let mut core = core_of(sole, limits);
    for _ in 0..100 {
        core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
        let out = core.turn();
        persist(&mut core, &out);
        let applies = core.turn();
        applied(&mut core, &applies);
    }
    assert!(core.engine().raft(GROUP).is_some_and(Raft::is_leader));
    core
}

/// Turns until nothing is left to do, with a quick disk and a quick state machine; replica 2 takes everything, replica 3 gives signs of
/// life but never gets the log behind the genesis: it `refuses` entries, or says nothing to them while it installs what it was sent. The
/// snapshots that were ordered.
fn settle_with_two(core: &mut Core, uid: GroupUid, refuses: bool) -> Vec<SnapshotOrder> {
    let mut orders = Vec::new();
    while !core.is_idle() {
        let out = core.turn();
        persist(core, &out);
        for job in jobs(&out) {
            core.handle(Input::Applied { of: own(), index: job.last, persisted: job.last, disputed: None });
        }
        for sent in said(&out) {
            let is_second = sent.to == replica(2);
            let body = match &sent.body {
                Body::PreVote { .. } if is_second => Body::PreVoteReply { granted: true },
                Body::Vote { .. } if is_second => Body::VoteReply { granted: true },
                Body::Heartbeat { round, .. } => Body::HeartbeatReply { round: *round },
                Body::Append { prev, entries, .. } if is_second => {
                    let matched = prev.index + entries.len() as u64;
                    Body::AppendReply(AppendReply::Accepted { matched })
                }
                Body::Append { prev, .. } if refuses && prev.index > 1 => {
                    let hint = LogPosition { index: 1, term: 1 };
                    Body::AppendReply(AppendReply::Rejected { prev: prev.index, hint })
                }
                _ => continue,
            };
            let message = Message { from: sent.to, to: replica(1), term: sent.term, body };
            core.handle(Input::Group(GROUP, Event::Message { uid, message }));
        }
        orders.extend(out.applies.iter().filter_map(|(_, order)| match order {
            ApplyOrder::Send(order) => Some(*order),
            _ => None,
        }));
    }
    orders
}

/// A tick with a proposal; the snapshots that were ordered.
fn busy_tick(core: &mut Core, uid: GroupUid) -> Vec<SnapshotOrder> {
    busy_tick_with(core, uid, true)
}

fn busy_tick_with(core: &mut Core, uid: GroupUid, refuses: bool) -> Vec<SnapshotOrder> {
    core.handle(Input::Node(NodeEvent::Tick { random: 7 }));
    let mut orders = settle_with_two(core, uid, refuses);
    let proposal = mraft_engine::event::Proposal {
        ticket: Ticket(1),
        slot: NO_SLOT,
        deadline_tick: u64::MAX,
        body: "x".into(),
    };
    core.handle(Input::Group(GROUP, Event::Propose(vec![proposal])));
    orders.extend(settle_with_two(core, uid, refuses));
    orders
}

#[test]
fn n2_one_snapshot_at_a_time_goes_to_a_peer_and_keeps_the_entries_behind_it_until_its_end() {
    let mut core = core();
    let uid = core.engine().uid(GROUP).expect("the group");
    let start = |core: &Core| core.engine().raft(GROUP).map_or(0, |raft| raft.start().position.index);
    let applied = |core: &Core| core.engine().applied(GROUP).expect("the group");
    let mut tick = 0;
    let mut next = |core: &mut Core| {
        tick += 1;
        core.set_now(Now { tick, ..Now::default() });
        busy_tick(core, uid)
    };
    let first = (0..100).find_map(|_| next(&mut core).pop()).expect("replica 3 lags");
    assert_eq!(first.to, replica(3));
    let index = applied(&core);
    core.handle(Input::ViewOpened { of: own(), to: replica(3), index });
    let orders: Vec<_> = (0..300).flat_map(|_| next(&mut core)).collect();
    assert_eq!(orders, [], "the first one is still on its way, long after its deadline");
    assert!(applied(&core) > index + 100, "the group went on");
    assert!(start(&core) <= index, "what the first one needs is gone: {} > {index}", start(&core));

    core.handle(Input::Own(own(), Event::SnapshotSent { to: replica(3), ok: false }));
    let second = (0..10).find_map(|_| next(&mut core).pop()).expect("it is tried again");
    assert_eq!(second.to, replica(3));
    let index = applied(&core);
    core.handle(Input::ViewOpened { of: own(), to: replica(3), index });
    assert_eq!(next(&mut core), []);
    assert_eq!(start(&core), index, "what only the first one needed is let go of");
}

#[test]
fn n2_what_was_written_while_a_snapshot_was_on_its_way_is_kept_until_its_receiver_has_it() {
    for gives_up in [false, true] {
        let mut core = core();
        let uid = core.engine().uid(GROUP).expect("the group");
        let start = |core: &Core| core.engine().raft(GROUP).map_or(0, |raft| raft.start().position.index);
        let applied = |core: &Core| core.engine().applied(GROUP).expect("the group");
        let mut tick = 0;
        let mut next = |core: &mut Core, refuses| {
            tick += 1;
            core.set_now(Now { tick, ..Now::default() });
            busy_tick_with(core, uid, refuses)
        };
        (0..100).find_map(|_| next(&mut core, true).pop()).expect("replica 3 lags");
        let index = applied(&core);
        core.handle(Input::ViewOpened { of: own(), to: replica(3), index });
        for _ in 0..20 {
            next(&mut core, false);
        }
        core.handle(Input::Own(own(), Event::SnapshotSent { to: replica(3), ok: true }));
        let arrived = applied(&core);
        let orders: Vec<_> = (0..20).flat_map(|_| next(&mut core, false)).collect();
        assert_eq!(orders, [], "it has one to install");
        assert!(start(&core) <= index, "what it needs next is gone: {} > {index}", start(&core));

        if gives_up {
            core.handle(Input::LogPressed(true));
            assert!(next(&mut core, false).is_empty());
            assert!(start(&core) > index, "a log that is too long waits for nobody");
            continue;
        }
        let mut says = |matched| {
            let term = core.engine().raft(GROUP).map_or(0, Raft::term);
            let body = Body::AppendReply(AppendReply::Accepted { matched });
            let message = Message { from: replica(3), to: replica(1), term, body };
            core.handle(Input::Group(GROUP, Event::Message { uid, message }));
            next(&mut core, false);
            start(&core)
        };
        assert!(says(index) <= index, "it has the snapshot and not what followed");
        assert!(says(arrived) > index, "it has all that was there when the snapshot had arrived");
    }
}

fn persist(core: &mut Core, out: &Output) {
    for job in &out.log {
        if let LogJob::Write { number, .. } = job {
            core.handle(Input::Log(LogDone::Persisted { of: own(), number: *number }));
        }
    }
}

fn applied(core: &mut Core, out: &Output) {
    for job in jobs(out) {
        core.handle(Input::Applied { of: own(), index: job.last, persisted: 0, disputed: None });
    }
    core.turn();
}

fn jobs(out: &Output) -> Vec<&ApplyJob> {
    let orders = out.applies.iter().map(|(_, order)| order);
    orders.filter_map(|order| if let ApplyOrder::Job(job) = order { Some(job) } else { None }).collect()
}

/// Proposes a thousand bytes.
fn propose(core: &mut Core, ticket: u64) -> Output {
    let proposal = mraft_engine::event::Proposal {
        ticket: Ticket(ticket),
        slot: NO_SLOT,
        deadline_tick: u64::MAX,
        body: vec![7; 1000].into(),
    };
    core.handle(Input::Group(GROUP, Event::Propose(vec![proposal])));
    core.turn()
}

#[test]
fn t2_a_node_that_holds_too_much_in_memory_takes_no_proposals_until_the_disk_has_it() {
    let mut core = sole_leader(Limits { held_bytes_max: 1500, ..Limits::default() });
    let mut outs = vec![propose(&mut core, 1), propose(&mut core, 2)];
    assert!(core.engine().held_bytes() > 1500);
    let out = propose(&mut core, 3);
    assert!(matches!(out.answers[..], [(Ticket(3), Answer::NotApplied(NotApplied::Busy(_)))]), "{out:?}");
    outs.iter().for_each(|out| persist(&mut core, out));
    let out = core.turn();
    assert!(jobs(&out).iter().all(|job| job.entries.is_none()), "the apply side reads them from the log");
    assert_eq!(core.engine().held_bytes(), 0, "what is durable need not be held");
    applied(&mut core, &out);
    outs = vec![propose(&mut core, 4)];
    assert!(outs[0].answers.is_empty() && !outs[0].log.is_empty(), "{outs:?}");
}

#[test]
fn t2_a_follower_that_holds_too_much_takes_no_entries_until_the_disk_has_what_it_took() {
    let mut core = core_of(members(), Limits { held_bytes_max: 1500, ..Limits::default() });
    let uid = core.engine().uid(GROUP).expect("the group");
    let append = |index: Index| {
        let payload = vec![7; 1000].into();
        let entry = Entry { index, term: 2, kind: EntryKind::Commands, payload };
        let prev = LogPosition { index: index - 1, term: if index == 2 { 1 } else { 2 } };
        message(2, 2, Body::Append { prev, entries: vec![entry], commit: 1, matched: 0 })
    };
    let last = |core: &Core| core.engine().raft(GROUP).map_or(0, Raft::last_index);
    let outs: Vec<Output> = (2..=6).map(|index| hear(&mut core, uid, append(index))).collect();
    assert_eq!(last(&core), 3, "what came when there was too much is as if it had been lost");
    assert!(core.engine().held_bytes() < 3000);
    let out = hear(&mut core, uid, message(2, 2, Body::Heartbeat { commit: 1, matched: 0, round: 5 }));
    assert!(out.messages.is_empty(), "its term is not durable yet: {out:?}");
    outs.iter().for_each(|out| persist(&mut core, out));
    let out = core.turn();
    let bodies: Vec<&Body> = said(&out).into_iter().map(|message| &message.body).collect();
    let accepted = Body::AppendReply(AppendReply::Accepted { matched: 3 });
    assert_eq!(bodies, [&Body::HeartbeatReply { round: 5 }, &accepted]);
    hear(&mut core, uid, append(4));
    assert_eq!(last(&core), 4, "the leader sent it again");
}

#[test]
fn t2_what_waits_at_the_apply_side_is_bounded_in_bytes() {
    let mut core = sole_leader(Limits { unapplied_jobs_bytes_max: 1500, ..Limits::default() });
    let mut carried = Vec::new();
    for ticket in 1..=4 {
        let out = propose(&mut core, ticket);
        persist(&mut core, &out);
        carried.extend(jobs(&core.turn()).iter().map(|job| job.entries.is_some()));
    }
    assert_eq!(carried, [true, true, false, false], "the rest is read from the log when its turn comes");
    let last = core.engine().raft(GROUP).map_or(0, Raft::last_index);
    core.handle(Input::Applied { of: own(), index: last, persisted: 0, disputed: None });
    core.turn();
    let out = propose(&mut core, 5);
    persist(&mut core, &out);
    assert!(jobs(&core.turn())[0].entries.is_some(), "it caught up");
}
