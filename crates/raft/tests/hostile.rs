// SPDX-License-Identifier: Apache-2.0

//! Messages that no replica of this group would send, to replicas in every life: none of them panics (this profile checks
//! arithmetic), breaks an invariant, takes back what is committed or voted, or, where it is malformed, changes anything at all.
//!
//! A seed is a bug report: `SEED=n cargo test -p mraft-raft --test hostile` plays one.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use mraft_raft::{AppendReply, Body, Effect, Event, Life, Message, Raft};
use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::{
    Entry, EntryKind, Index, LogPosition, LogStart, Member, Membership, MembershipChange, Payload, ReplicaId,
    Role, Term,
};

mod support;

use support::dice::Dice;
use support::{Group, replica, text};

const SEEDS: u64 = 60;
/// Each begins at the same state again: what hostile messages do together, and what each does to a whole replica.
const RUNS_PER_LIFE: usize = 12;
const MESSAGES_PER_RUN: usize = 12;
/// Beyond this nothing is a term or an index.
const POSITION_MAX: u64 = 1 << 62;

#[test]
fn no_message_of_a_peer_panics_or_breaks_a_promise_in_any_life() {
    let seed = std::env::var("SEED").ok().and_then(|value| value.parse::<u64>().ok());
    let seeds = seed.map_or(0..SEEDS, |seed| seed..seed + 1);
    let lives: Vec<(Life, Raft)> = every_life();
    let (mut malformed, mut taken) = (0, 0);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| {
            let mut dice = Dice::new(seed);
            let mut counts = (0, 0);
            for (life, raft) in &lives {
                for _ in 0..RUNS_PER_LIFE {
                    run(*life, raft.clone(), &mut dice, &mut counts);
                }
            }
            counts
        });
        let counts = played.unwrap_or_else(|_| panic!("SEED={seed} fails"));
        malformed += counts.0;
        taken += counts.1;
    }
    if seed.is_none() {
        assert!(malformed > 10_000 && taken > 5_000, "{malformed} malformed, {taken} that changed something");
    }
}

fn run(life: Life, mut raft: Raft, dice: &mut Dice, counts: &mut (usize, usize)) {
    assert_eq!(raft.life(), life);
    let mut told = Vec::new();
    for _ in 0..MESSAGES_PER_RUN {
        let mut before = raft.clone();
        if dice.chance(10) {
            let start = LogStart { position: position(&raft, dice), membership: raft.membership().clone() };
            let (from, term) = (replica(1 + dice.below(3) as u64), term(&raft, dice));
            told.push(format!("a snapshot of {:?} from {from} in term {term}", start.position));
            raft.step(Event::SnapshotReceived { from, term, start });
        } else {
            let message = message(&raft, dice);
            told.push(text::message(&message));
            let is_malformed = is_malformed(&message) || message.to != raft.id() || message.from == raft.id();
            raft.step(Event::Received(message));
            before.take_ignored();
            let was_ignored = !raft.take_ignored().is_empty();
            counts.0 += usize::from(is_malformed);
            counts.1 += usize::from(raft != before);
            let is_harmless = !is_malformed || was_ignored && raft == before;
            assert!(is_harmless, "a malformed message changed something\n{}", story(life, &told));
        }
        let effects = poll(&mut raft);
        check(&before, &raft).unwrap_or_else(|broken| panic!("{broken}\n{}", story(life, &told)));
        if dice.chance(50) {
            persist(&mut raft, &effects, dice);
        }
        if dice.chance(10) {
            let life = dice.chance(70).then(|| number(dice, 1));
            let node = replica(1 + dice.below(4) as u64).node();
            raft.step(Event::PeerLife { node, life, silent_ticks: dice.next() as u32 });
        }
        if dice.chance(10) {
            raft.step(Event::Tick { number: dice.next() % 1000, random: dice.next() });
        }
        poll(&mut raft);
        check(&before, &raft).unwrap_or_else(|broken| panic!("{broken}\n{}", story(life, &told)));
    }
}

fn story(life: Life, told: &[String]) -> String {
    format!("as {life:?}, after:\n  {}", told.join("\n  "))
}

fn poll(raft: &mut Raft) -> Vec<Effect> {
    let mut effects = Vec::new();
    raft.poll(&mut effects);
    let said = effects.iter().filter_map(|effect| match effect {
        Effect::Send(message) => Some(&message.body),
        _ => None,
    });
    for body in said {
        let may = match body {
            Body::VoteReply { granted: true } | Body::PreVoteReply { granted: true } => {
                raft.condemned().is_none() && !raft.is_memberless()
            }
            Body::AppendReply(AppendReply::Accepted { .. }) => {
                let is_installing = raft.life() == Life::Installing;
                raft.condemned().is_none() && !raft.is_memberless() && !is_installing
            }
            _ => true,
        };
        assert!(may, "rules M4, N1, D9: as {:?} it says {body:?}", raft.life());
    }
    effects
}

/// The disk and the state machine answer, sometimes.
fn persist(raft: &mut Raft, effects: &[Effect], dice: &mut Dice) {
    for effect in effects {
        match effect {
            Effect::Write(write) => raft.step(Event::Persisted { write: write.number }),
            Effect::Install { start } if dice.chance(50) => {
                raft.step(Event::SnapshotInstalled { start: start.clone() });
            }
            Effect::Apply { last, .. } if dice.chance(50) => raft.step(Event::Applied { index: *last }),
            _ => {}
        }
    }
}

/// The replica's own invariants, and what no message whatever may do to it.
fn check(before: &Raft, after: &Raft) -> Result<(), String> {
    after.check()?;
    keeps_promises(before, after).map_err(str::to_owned)
}

fn keeps_promises(before: &Raft, after: &Raft) -> Result<(), &'static str> {
    let (hard_before, hard_after) = (before.hard_state(), after.hard_state());
    if hard_after.term < hard_before.term {
        return Err("the term fell");
    }
    let kept = hard_before.vote.is_none() || hard_after.vote == hard_before.vote;
    if hard_after.term == hard_before.term && !kept {
        return Err("a vote was taken back");
    }
    if hard_after.commit < hard_before.commit || after.last_index() < hard_before.commit {
        return Err("what is committed was lost");
    }
    // What lies before an installed snapshot is gone with the log.
    let start = before.start().position.index.max(after.start().position.index);
    let committed = start..=hard_before.commit;
    if committed.into_iter().any(|index| before.term_at(index) != after.term_at(index)) {
        return Err("what is committed was overwritten");
    }
    if after.commit() > after.last_index() || after.applied() > after.commit() {
        return Err("it is committed or applied beyond the log");
    }
    if before.life() == Life::Condemned && after.life() != Life::Condemned {
        return Err("a condemned replica takes part again");
    }
    Ok(())
}

/// The dumb twin of the core's own look at a message.
fn is_malformed(message: &Message) -> bool {
    let term = message.term;
    let is_index = |index: Index| index <= POSITION_MAX;
    let is_position = |position: LogPosition| {
        is_index(position.index)
            && position.term <= POSITION_MAX
            && ((position.index == 0 && position.term == 0) || (position.index > 0 && position.term > 0))
    };
    let fits = match &message.body {
        Body::PreVote { last } | Body::Vote { last, .. } => is_position(*last) && last.term < term,
        Body::PreVoteReply { .. } | Body::VoteReply { .. } | Body::TimeoutNow => true,
        Body::Append { prev, entries, commit, matched } => {
            let mut fits = is_position(*prev) && prev.term <= term && is_index(*commit) && is_index(*matched);
            let mut before = *prev;
            for entry in entries {
                let is_legible = match entry.kind {
                    EntryKind::Empty => entry.payload.is_empty(),
                    EntryKind::Commands => entry.payload.len() <= ENTRY_BYTES_MAX,
                    EntryKind::Membership => is_membership(entry),
                };
                fits &= is_legible
                    && is_index(entry.index)
                    && Some(entry.index) == before.index.checked_add(1)
                    && entry.term >= before.term
                    && (1..=term).contains(&entry.term);
                before = entry.position();
            }
            fits
        }
        Body::AppendReply(AppendReply::Accepted { matched }) => is_index(*matched),
        Body::AppendReply(AppendReply::Rejected { prev, hint }) => is_index(*prev) && is_position(*hint),
        Body::Heartbeat { commit, matched, .. } => is_index(*commit) && is_index(*matched),
        Body::HeartbeatReply { .. } | Body::QuiesceReply { .. } => true,
        Body::Quiesce { last, .. } => is_index(*last),
        Body::Removed { change_index } => is_index(*change_index),
    };
    !((1..=POSITION_MAX).contains(&term) && fits)
}

fn is_membership(entry: &Entry) -> bool {
    let mut reader = mraft_types::codec::Reader::new(&entry.payload);
    let Ok(membership) = Membership::decode(&mut reader) else { return false };
    membership.change_index == entry.index
        && membership.members.values().any(|member| member.role == Role::Voter)
        && reader.finish().is_ok()
}

/// Something that could come in over the wire; most of it is near what the replica knows, where mistakes would show.
fn message(raft: &Raft, dice: &mut Dice) -> Message {
    let from = match dice.below(10) {
        0 => replica(9),
        1 => raft.id(),
        2 => ReplicaId::new(3, replica(2).node()),
        _ => replica(1 + dice.below(4) as u64),
    };
    let to = if dice.chance(3) { replica(7) } else { raft.id() };
    let body = match dice.below(13) {
        0 => Body::PreVote { last: position(raft, dice) },
        1 => Body::PreVoteReply { granted: dice.chance(80) },
        2 => Body::Vote { last: position(raft, dice), transfer: dice.chance(50) },
        3 => Body::VoteReply { granted: dice.chance(80) },
        4..=5 => append(raft, dice),
        6 => Body::AppendReply(AppendReply::Accepted { matched: index(raft, dice) }),
        7 => {
            let (prev, hint) = (index(raft, dice), position(raft, dice));
            Body::AppendReply(AppendReply::Rejected { prev, hint })
        }
        8 => Body::Heartbeat {
            commit: index(raft, dice),
            matched: index(raft, dice),
            round: number(dice, raft.commit()),
        },
        9 => Body::HeartbeatReply { round: number(dice, 1) },
        10 => Body::Quiesce { last: index(raft, dice), life: number(dice, 1), number: number(dice, 1) },
        11 => Body::QuiesceReply { number: number(dice, 1), agreed: dice.chance(80) },
        _ if dice.chance(50) => Body::TimeoutNow,
        _ => Body::Removed { change_index: index(raft, dice) },
    };
    Message { from, to, term: term(raft, dice), body }
}

fn append(raft: &Raft, dice: &mut Dice) -> Body {
    let prev = position(raft, dice);
    let mut entries = Vec::new();
    let (mut at, mut of) = (prev.index, prev.term.max(1));
    for _ in 0..dice.below(6) {
        // Mostly consecutive; now and then a gap, a repetition, or an entry out of order.
        at = match dice.below(12) {
            0 => index(raft, dice),
            1 => at,
            2 => at.wrapping_add(2),
            _ => at.wrapping_add(1),
        };
        of = match dice.below(12) {
            0 => term(raft, dice),
            1 => of.wrapping_sub(1),
            2 => of.wrapping_add(1),
            // What the replica itself has there, so that logs overlap.
            _ => raft.term_at(at).filter(|_| dice.chance(80)).unwrap_or(of),
        };
        let kind = dice.pick(&[EntryKind::Empty, EntryKind::Commands, EntryKind::Membership]);
        let kind = kind.expect("not empty");
        entries.push(Entry { index: at, term: of, kind, payload: payload(kind, at, raft, dice) });
    }
    if dice.chance(5) {
        entries.reverse();
    }
    Body::Append { prev, entries, commit: index(raft, dice), matched: index(raft, dice) }
}

fn payload(kind: EntryKind, at: Index, raft: &Raft, dice: &mut Dice) -> Payload {
    if dice.chance(10) {
        let junk: Vec<u8> = (0..dice.below(40)).map(|_| dice.next() as u8).collect();
        return junk.into();
    }
    match kind {
        EntryKind::Empty => Payload::new(),
        EntryKind::Commands => Payload::copy_from(b"put"),
        EntryKind::Membership => {
            let mut membership = raft.membership().clone();
            membership.change_index = if dice.chance(80) { at } else { index(raft, dice) };
            match dice.below(4) {
                0 => _ = membership.members.remove(&raft.id()),
                1 => membership.members.clear(),
                2 => {
                    let member = Member { role: Role::Voter, raft_address: "n8:1".to_owned() };
                    membership.members.insert(replica(8), member);
                }
                _ => {}
            }
            let mut bytes = Vec::new();
            membership.encode(&mut bytes);
            if dice.chance(10) {
                bytes.truncate(dice.below(bytes.len() + 1));
            }
            bytes.into()
        }
    }
}

fn position(raft: &Raft, dice: &mut Dice) -> LogPosition {
    let index = index(raft, dice);
    let real = raft.term_at(index).filter(|_| dice.chance(70));
    LogPosition { index, term: real.unwrap_or_else(|| term(raft, dice)) }
}

fn index(raft: &Raft, dice: &mut Dice) -> Index {
    let near =
        [raft.start().position.index, raft.applied(), raft.commit(), raft.durable_index(), raft.last_index()];
    let near = dice.pick(&near).expect("not empty");
    number(dice, near)
}

fn term(raft: &Raft, dice: &mut Dice) -> Term {
    number(dice, raft.term())
}

fn number(dice: &mut Dice, near: u64) -> u64 {
    match dice.below(40) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - 1,
        3 => POSITION_MAX,
        4 => POSITION_MAX + 1,
        5 => dice.next(),
        6 => near.wrapping_sub(1),
        7 => near.wrapping_add(2),
        8..=17 => near.wrapping_add(1),
        _ => near,
    }
}

/// A leader that offers to be silent, one that is, and a follower that sleeps.
fn asleep() -> [Raft; 3] {
    let roles = [1, 2, 3].map(|node| (replica(node), Role::Voter));
    let mut group = Group::new(&roles, |config| config.quiesce_after_ticks = Some(3));
    let deliver = |group: &mut Group| {
        while !group.wire.is_empty() {
            group.deliver_at(0);
        }
    };
    (1..=3).for_each(|node| group.tell_lives(replica(node)));
    let is_offered = |group: &Group| {
        group.wire.iter().any(|message| matches!(message.body, mraft_raft::Body::Quiesce { .. }))
    };
    while !is_offered(&group) {
        deliver(&mut group);
        group.tick(replica(1), 0);
    }
    let offering = group.raft(replica(1)).expect("it is up").clone();
    deliver(&mut group);
    let of = |node| group.raft(replica(node)).expect("it is up").clone();
    let (sleeping, bound) = (of(1), of(2));
    assert!(!offering.is_asleep() && sleeping.is_asleep() && bound.is_asleep());
    [offering, sleeping, bound]
}

/// A replica in each life, with a history.
fn every_life() -> Vec<(Life, Raft)> {
    let mut group = Group::new(&[1, 2, 3].map(|node| (replica(node), Role::Voter)), |_| {});
    let deliver = |group: &mut Group| {
        while !group.wire.is_empty() {
            group.deliver_at(0);
        }
    };
    let propose = |group: &mut Group, count: usize| {
        for _ in 0..count {
            let raft = group.raft_mut(replica(1)).expect("it is up");
            raft.propose(Payload::copy_from(b"put")).expect("it leads");
            group.poll(replica(1));
        }
        deliver(group);
    };
    while group.leaders().is_empty() {
        group.tick(replica(1), 0);
        deliver(&mut group);
    }
    propose(&mut group, 4);
    // Replica 4 waits for its first snapshot; replica 3 falls so far behind that it needs one.
    let change = MembershipChange::AddLearner { node: replica(4).node(), raft_address: "n4:1".to_owned() };
    let leader = group.raft_mut(replica(1)).expect("it is up");
    leader.propose_change(&change, None).expect("it leads");
    group.poll(replica(1));
    deliver(&mut group);
    group.join(replica(4));
    let memberless = group.raft(replica(4)).expect("it is up").clone();
    let links: Vec<_> = [1, 2].into_iter().flat_map(|node| [(node, 3), (3, node)]).collect();
    group.cut.extend(links.iter().map(|(from, to)| (replica(*from), replica(*to))));
    propose(&mut group, 3);
    group.truncate(replica(1), 1);
    propose(&mut group, 2);
    // The last entries are not committed anywhere.
    group.cut.insert((replica(1), replica(2)));
    propose(&mut group, 2);
    let leader = group.raft(replica(1)).expect("it is up").clone();
    let follower = group.raft(replica(2)).expect("it is up").clone();

    let mut asking = follower.clone();
    let mut number = 0;
    while asking.life() != Life::PreCandidate {
        number += 1;
        asking.step(Event::Tick { number, random: 0 });
        poll(&mut asking);
    }
    let mut candidate = asking.clone();
    let (from, to, term) = (replica(3), replica(2), candidate.term() + 1);
    let body = Body::PreVoteReply { granted: true };
    candidate.step(Event::Received(Message { from, to, term, body }));
    poll(&mut candidate);

    let mut installing = group.raft(replica(3)).expect("it is up").clone();
    let position = leader.start().position;
    let start = LogStart {
        position: LogPosition { index: position.index + 20, ..position },
        ..leader.start().clone()
    };
    let (from, term) = (replica(1), leader.term());
    installing.step(Event::SnapshotReceived { from, term, start });
    poll(&mut installing);

    let mut condemned = follower.clone();
    condemned.step(Event::Condemn { reason: mraft_types::CondemnedReason::Damage });
    poll(&mut condemned);

    let [offering, sleeping, bound] = asleep();
    let lives = [
        (Life::Leader, offering),
        (Life::Leader, sleeping),
        (Life::Follower, bound),
        (Life::Memberless, memberless),
        (Life::Follower, follower),
        (Life::PreCandidate, asking),
        (Life::Candidate, candidate),
        (Life::Leader, leader),
        (Life::Installing, installing),
        (Life::Condemned, condemned),
    ];
    lives.into_iter().collect()
}
