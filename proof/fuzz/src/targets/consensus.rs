// SPDX-License-Identifier: Apache-2.0

//! One group's consensus, fed with what comes out of hostile frames.
//!
//! ```text
//! input := life:u8 (modulo 9)  pieces: step*
//! step  := 0  node:u8  packets      what another node says
//!        | 1                        everything that was to be written is durable
//!        | 2  number:u8 random:u8   a tick
//!        | 3  node:u8  life:u64     another node's life; none without bytes
//!        | 4  packet header (wire)  a snapshot lies staged
//!        | 5                        what was to be installed is installed, what was to be applied is applied
//!        | 6  bytes                 a proposal
//!        | 7  packets               entries that were read back: those of the first append
//! ```

use mraft_raft::{AppendReply, Body, Config, Effect, Event, Life, Message, Raft, ReadBack, Restored};
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, LogPosition, LogStart, Member, Membership, Payload, Role,
};
use mraft_wire::{FRAME_HEADER_BYTES, FrameBuilder, Packet, PacketReader, SnapshotHeader};

use super::messages::push;
use super::pieces::{pieces, put_pieces};
use super::samples;
use crate::target::{Said, Shape, Target};

pub const CONSENSUS: Target = Target {
    name: "consensus",
    about: "raft: a replica in each life, fed with decoded packets, snapshots and what was read back",
    run,
    seeds,
    words: || {
        vec![
            b"\x05",
            b"\x08",
            b"\x0c",
            b"\xec\x07",
            b"\xed\x07",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\x3f",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x01\x00\x01",
            b"\x01\x00\x05",
            b"\x03\x00\x02\x01\x01",
        ]
    },
    shape: Shape::Behind(1, &Shape::Pieces(&[Shape::Made(made)])),
    bytes_max: 1024,
    cost: 2,
};

const LIVES: u8 = 9;
const SELF: u64 = 2;
/// Where the log begins, and where it ends.
const START: LogPosition = LogPosition { index: 1000, term: 4 };
const LAST: u64 = 1004;

fn run(input: &[u8]) -> Said {
    let Some((life, bytes)) = input.split_first() else { return Said::Refused };
    let mut raft = lived(*life);
    let mut world = World::default();
    let mut was_heard = false;
    for step in pieces(bytes).into_iter().take(16) {
        let before = raft.clone();
        was_heard |= world.step(&mut raft, step);
        world.poll(&mut raft);
        keeps_promises(&before, &raft);
    }
    Said::of(was_heard)
}

/// What surrounds a replica: effects that nobody has answered yet.
#[derive(Default)]
struct World {
    written: Option<u64>,
    installs: Option<LogStart>,
    applies: Option<u64>,
    reads: Option<(u64, mraft_types::ReplicaId)>,
}

impl World {
    /// Whether it was something that a replica could hear.
    fn step(&mut self, raft: &mut Raft, step: &[u8]) -> bool {
        let Some((kind, bytes)) = step.split_first() else { return false };
        match kind % 8 {
            0 => {
                let Some((node, packets)) = bytes.split_first() else { return false };
                for message in messages(u64::from(node % 5), packets) {
                    raft.step(Event::Received(message));
                    raft.take_ignored();
                }
            }
            1 => match self.written.take() {
                Some(write) => raft.step(Event::Persisted { write }),
                None => return false,
            },
            2 => {
                let [number, random, ..] = bytes else { return false };
                raft.step(Event::Tick { number: u64::from(*number), random: u64::from(*random) });
            }
            3 => {
                let Some((node, life)) = bytes.split_first() else { return false };
                let silent_ticks = life.len() as u32;
                let life = life.first_chunk().map(|life| u64::from_le_bytes(*life));
                raft.step(Event::PeerLife { node: samples::node(u64::from(node % 5)), life, silent_ticks });
            }
            4 => {
                let Ok(header) = SnapshotHeader::decode(&Payload::copy_from(bytes)) else { return false };
                let SnapshotHeader { from, term, start, .. } = header;
                raft.step(Event::SnapshotReceived { from, term, start });
            }
            5 => {
                if let Some(start) = self.installs.take() {
                    raft.step(Event::SnapshotInstalled { start });
                }
                if let Some(index) = self.applies.take() {
                    raft.step(Event::Applied { index });
                }
            }
            6 => {
                let _ = raft.propose(Payload::copy_from(bytes));
            }
            _ => {
                let Some((order, to)) = self.reads.take() else { return false };
                let entries =
                    messages(to.node().get(), bytes).into_iter().find_map(|message| match message.body {
                        Body::Append { entries, .. } if !entries.is_empty() => Some(entries),
                        _ => None,
                    });
                // A log gives what it was asked for, or nothing: what it reads is checked there.
                let found = entries.filter(|entries| self.is_asked_for(entries)).map(ReadBack::Entries);
                raft.step(Event::LogRead { order, to, found: found.unwrap_or(ReadBack::Gone) });
            }
        }
        true
    }

    fn is_asked_for(&self, entries: &[mraft_types::Entry]) -> bool {
        entries.first().is_some_and(|first| first.index == START.index + 1)
            && entries.iter().all(|entry| entry.index <= LAST && entry.term == START.term + 1)
    }

    fn poll(&mut self, raft: &mut Raft) {
        let mut effects = Vec::new();
        raft.poll(&mut effects);
        assert_eq!(raft.check(), Ok(()));
        for effect in effects {
            match effect {
                Effect::Write(write) => self.written = Some(write.number),
                Effect::Install { start } => self.installs = Some(start),
                Effect::Apply { last, .. } => self.applies = Some(last),
                Effect::ReadLog { order, to, .. } => self.reads = Some((order, to)),
                Effect::Send(message) => may_say(raft, &message),
                _ => {}
            }
        }
    }
}

/// Rules M4, N1, D9, and what a frame can carry.
fn may_say(raft: &Raft, message: &Message) {
    let takes_part = raft.condemned().is_none() && !raft.is_memberless();
    let may = match &message.body {
        Body::VoteReply { granted: true } | Body::PreVoteReply { granted: true } => takes_part,
        Body::AppendReply(AppendReply::Accepted { .. }) => takes_part && raft.life() != Life::Installing,
        _ => true,
    };
    assert!(may, "as {:?} it says {message:?}", raft.life());
    let mut builder = FrameBuilder::new(message.from.node(), message.to.node());
    let pushed = builder.push_raft(samples_group(), samples::UID, message);
    assert_eq!(pushed, Ok(()), "what a replica says fits no frame: {message:?}");
}

fn samples_group() -> mraft_types::GroupId {
    mraft_types::GroupId(300)
}

/// What no message whatever may do to a replica.
fn keeps_promises(before: &Raft, after: &Raft) {
    let (hard_before, hard_after) = (before.hard_state(), after.hard_state());
    assert!(hard_after.term >= hard_before.term, "the term fell");
    let kept = hard_before.vote.is_none() || hard_after.vote == hard_before.vote;
    assert!(hard_after.term > hard_before.term || kept, "a vote was taken back");
    assert!(
        hard_after.commit >= hard_before.commit && after.last_index() >= hard_before.commit,
        "committed and lost"
    );
    let start = before.start().position.index.max(after.start().position.index);
    for index in start..=hard_before.commit {
        assert_eq!(before.term_at(index), after.term_at(index), "what is committed was overwritten");
    }
    assert!(after.commit() <= after.last_index() && after.applied() <= after.commit(), "beyond the log");
    assert!(
        before.life() != Life::Condemned || after.life() == Life::Condemned,
        "condemned, and takes part again"
    );
}

/// The Raft messages of these packets, from that node to this replica's.
fn messages(node: u64, packets: &[u8]) -> Vec<Message> {
    let (from, to) = (samples::node(node), samples::node(SELF));
    let payload = Payload::from([&from.get().to_le_bytes()[..], &to.get().to_le_bytes(), packets].concat());
    let Ok(reader) = PacketReader::new(&payload, from, to) else { return Vec::new() };
    let messages = reader.map_while(Result::ok).filter_map(|packet| match packet {
        Packet::Raft { message, .. } => Some(message),
        _ => None,
    });
    messages.take(8).collect()
}

/// A replica in one of its lives, with a history.
fn lived(life: u8) -> Raft {
    thread_local! {
        static ALL: Vec<Raft> = (0..LIVES).map(make).collect();
    }
    ALL.with(|all| all[usize::from(life % LIVES)].clone())
}

fn make(life: u8) -> Raft {
    let quiesces = matches!(life, 7 | 8);
    let mut raft = match life {
        0 => restored(with_nothing(), quiesces),
        _ => restored(with_history(), quiesces),
    };
    let mut world = World::default();
    if matches!(life, 2..=4 | 7) {
        let mut number = 0;
        while raft.life() == Life::Follower {
            number += 1;
            raft.step(Event::Tick { number, random: 0 });
            world.poll(&mut raft);
        }
    }
    let said = |raft: &mut Raft, world: &mut World, body, term| {
        let (from, to) = (samples::replica(1), samples::replica(SELF));
        raft.step(Event::Received(Message { from, to, term, body }));
        world.poll(raft);
        if let Some(write) = world.written.take() {
            raft.step(Event::Persisted { write });
            world.poll(raft);
        }
    };
    let term = raft.term();
    if matches!(life, 3 | 4 | 7) {
        said(&mut raft, &mut world, Body::PreVoteReply { granted: true }, term + 1);
    }
    if matches!(life, 4 | 7) {
        let term = raft.term();
        said(&mut raft, &mut world, Body::VoteReply { granted: true }, term);
        assert_eq!(raft.life(), Life::Leader, "whoever has all votes leads");
        assert!(raft.propose(Payload::copy_from(b"proposed")).is_ok());
        world.poll(&mut raft);
    }
    match life {
        5 => {
            let start = LogStart { position: LogPosition { index: 1100, term: 5 }, ..start() };
            raft.step(Event::SnapshotReceived { from: samples::replica(1), term: 5, start });
        }
        6 => raft.step(Event::Condemn { reason: CondemnedReason::Damage }),
        _ => {}
    }
    world.poll(&mut raft);
    raft.take_ignored();
    raft
}

fn restored(restored: Restored, quiesces: bool) -> Raft {
    let config = Config {
        id: samples::replica(SELF),
        election_ticks: 10,
        heartbeat_ticks: 2,
        check_quorum: true,
        append_bytes_max: 1 << 10,
        inflight_bytes_max: 4 << 10,
        inflight_messages_max: 4,
        unapplied_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 40,
        quiesce_after_ticks: quiesces.then_some(3),
    };
    match Raft::new(config, restored) {
        Ok(raft) => raft,
        Err(error) => panic!("a replica that is nothing special cannot be: {error}"),
    }
}

fn start() -> LogStart {
    let member =
        |id: u64| (samples::replica(id), Member { role: Role::Voter, raft_address: format!("n{id}:1") });
    let membership =
        Membership { change_index: 1, members: [1, 2, 3].map(member).into(), ..Membership::default() };
    LogStart { position: START, membership }
}

/// A replica that waits for its first snapshot (rule M4).
fn with_nothing() -> Restored {
    let position = LogPosition::default();
    Restored {
        hard_state: HardState::default(),
        start: LogStart::default(),
        last_index: 0,
        terms: vec![(0, 0)],
        memberships: Vec::new(),
        applied: position,
        condemned: None,
    }
}

fn with_history() -> Restored {
    Restored {
        hard_state: HardState { term: 5, vote: None, commit: 1002 },
        start: start(),
        last_index: LAST,
        terms: vec![(START.index, START.term), (START.index + 1, START.term + 1)],
        memberships: Vec::new(),
        applied: LogPosition { index: 1001, term: 5 },
        condemned: None,
    }
}

/// A step that drawn numbers make: mostly a message whose terms and indexes are near those of the replica.
fn made(draw: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
    match draw(16) {
        0 => vec![1],
        1 => vec![2, draw(20) as u8, draw(12) as u8],
        2 => {
            let life = [0, 1, 7, 0x0102_0304_0506_0708, u64::MAX][draw(5)];
            let known = if draw(4) == 0 { Vec::new() } else { u64::to_le_bytes(life).to_vec() };
            [&[3, draw(5) as u8], &known[..]].concat()
        }
        3 => {
            let position = position(draw);
            let mut start = samples::start(position.index, position.term);
            if draw(2) == 0 {
                start.membership = membership(draw);
            }
            let (from, to) = (samples::replica(draw(5) as u64), samples::replica(SELF));
            let mut step = vec![4];
            SnapshotHeader { from, to, term: term(draw), start, ..samples::snapshot_header() }
                .encode(&mut step);
            step
        }
        4 => vec![5],
        5 => b"\x06proposed".to_vec(),
        6 => said(draw, 7),
        _ => said(draw, 0),
    }
}

/// Messages of one node, or what was read back.
fn said(draw: &mut dyn FnMut(usize) -> usize, kind: u8) -> Vec<u8> {
    let node = draw(5) as u8;
    let (from, to) = (samples::replica(u64::from(node)), samples::replica(SELF));
    let mut builder = FrameBuilder::new(from.node(), to.node());
    for _ in 0..=draw(2) {
        let message = Message { from, to, term: term(draw), body: body(draw) };
        // Whatever fits no frame was never said.
        let _ = builder.push_raft(samples_group(), samples::UID, &message);
    }
    let frame = builder.finish().unwrap_or_default();
    let packets = frame.get(FRAME_HEADER_BYTES + 16..).unwrap_or_default();
    if kind == 0 { [&[kind, node], packets].concat() } else { [&[kind], packets].concat() }
}

fn term(draw: &mut dyn FnMut(usize) -> usize) -> u64 {
    [0, 3, 4, 5, 5, 5, 6, 6, 7, 8, 1 << 32, (5 << 32) + 1, (1 << 62) - 1, 1 << 62, u64::MAX][draw(15)]
}

fn index(draw: &mut dyn FnMut(usize) -> usize) -> u64 {
    match draw(8) {
        0 => [0, 1, 998, 1099, 1100, 1101, (1 << 62) - 1, 1 << 62, u64::MAX][draw(9)],
        _ => START.index - 1 + draw(9) as u64,
    }
}

fn position(draw: &mut dyn FnMut(usize) -> usize) -> LogPosition {
    LogPosition { index: index(draw), term: term(draw) }
}

fn body(draw: &mut dyn FnMut(usize) -> usize) -> Body {
    let round = |draw: &mut dyn FnMut(usize) -> usize| [0, 1, 2, 3, u64::MAX][draw(5)];
    match draw(16) {
        0 => Body::PreVote { last: position(draw) },
        1 => Body::PreVoteReply { granted: draw(3) > 0 },
        2 => Body::Vote { last: position(draw), transfer: draw(2) == 0 },
        3 => Body::VoteReply { granted: draw(3) > 0 },
        4..=7 => {
            // Mostly what fits.
            let (index, term) = match draw(5) {
                0 => (index(draw), term(draw)),
                1 => (START.index, START.term),
                number => (START.index + number as u64, START.term + 1),
            };
            let entries =
                (1..=draw(4) as u64).map(|number| entry(index.saturating_add(number), draw)).collect();
            let (commit, matched) = (self::index(draw), self::index(draw));
            Body::Append { prev: LogPosition { index, term }, entries, commit, matched }
        }
        8 => Body::AppendReply(AppendReply::Accepted { matched: index(draw) }),
        9 => Body::AppendReply(AppendReply::Rejected { prev: index(draw), hint: position(draw) }),
        10 => Body::Heartbeat { commit: index(draw), matched: index(draw), round: round(draw) },
        11 => Body::HeartbeatReply { round: round(draw) },
        12 => Body::Quiesce { last: index(draw), life: [0, 7, 8][draw(3)], number: round(draw) },
        13 => Body::QuiesceReply { number: round(draw), agreed: draw(2) == 0 },
        14 => Body::TimeoutNow,
        _ => Body::Removed { change_index: index(draw) },
    }
}

fn entry(index: u64, draw: &mut dyn FnMut(usize) -> usize) -> Entry {
    let term = if draw(4) == 0 { term(draw) } else { START.term + 1 + draw(2) as u64 };
    match draw(4) {
        0 => samples::entry(index, term, EntryKind::Empty, b""),
        1 => {
            let mut payload = Vec::new();
            membership(draw).encode(&mut payload);
            samples::entry(index, term, EntryKind::Membership, &payload)
        }
        _ => samples::entry(index, term, EntryKind::Commands, b"command"),
    }
}

/// One in which this replica has any role, or none.
fn membership(draw: &mut dyn FnMut(usize) -> usize) -> Membership {
    let roles = [Role::Voter, Role::Voter, Role::Learner, Role::Observer, Role::Witness];
    let mut membership = Membership { change_index: index(draw), ..samples::membership(1) };
    for (id, address) in [(1, "n1:1"), (2, "n2:1"), (3, "n3:1")] {
        match draw(8) {
            0 => _ = membership.members.remove(&samples::replica(id)),
            _ => {
                let member = Member { role: roles[draw(roles.len())], raft_address: address.to_owned() };
                membership.members.insert(samples::replica(id), member);
            }
        }
    }
    if draw(4) == 0 {
        membership.removed.insert(samples::node(SELF), draw(3) as u16);
    }
    if draw(6) == 0 {
        membership.retired_nodes.insert(samples::node(draw(4) as u64));
    }
    membership
}

fn seeds() -> Vec<Vec<u8>> {
    let mut steps: Vec<Vec<u8>> = Vec::new();
    for packet in samples::packets() {
        let mut builder = FrameBuilder::new(samples::node(1), samples::node(SELF));
        push(&mut builder, &packet);
        let frame = builder.finish().unwrap_or_default();
        steps.push([&[0, 1], &frame[FRAME_HEADER_BYTES + 16..]].concat());
    }
    let mut header = vec![4];
    samples::snapshot_header().encode(&mut header);
    steps.push(header);
    let common: [&[u8]; 8] =
        [&[1], &[2, 1, 0], &[3, 1, 7, 0, 0, 0, 0, 0, 0, 0], &[3, 1], &[5], b"\x06proposed", &[1], &[5]];
    let mut seeds = Vec::new();
    for life in 0..LIVES {
        for step in &steps {
            let mut seed = vec![life];
            put_pieces(&mut seed, &[step]);
            put_pieces(&mut seed, &[&[1][..], &[5]]);
            seeds.push(seed);
        }
        let mut seed = vec![life];
        put_pieces(&mut seed, &common);
        seeds.push(seed);
    }
    seeds
}
