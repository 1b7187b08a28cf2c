// SPDX-License-Identifier: Apache-2.0

//! Snapshots arrive whole or not at all, at the rate that was asked for, and their sender always hears how it ended.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

mod support;

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mraft_transport::{Clock, CloseReason, Dropped, SnapshotFailed, SnapshotSource, TransportConfig};
use mraft_types::{GroupId, GroupUid, LogPosition, LogStart, Membership, Payload, ReplicaId};
use mraft_wire::{
    FrameKind, Purpose, SnapshotChunk, SnapshotHeader, SnapshotReply, SnapshotSum, encode_frame,
};
use support::{Happening, RawPeer, TestNode, config, node};

fn header(from: u64, to: u64) -> SnapshotHeader {
    SnapshotHeader {
        group: GroupId(5),
        uid: GroupUid([1; 16]),
        from: ReplicaId::new(0, node(from)),
        to: ReplicaId::new(0, node(to)),
        term: 3,
        start: LogStart {
            position: LogPosition { index: 100, term: 2 },
            membership: Membership { change_index: 1, ..Membership::default() },
        },
        format: 1,
        meta: "meta".into(),
    }
}

/// Chunks from memory, or a failure after them.
struct Chunks(std::vec::IntoIter<Payload>, Option<&'static str>);

impl SnapshotSource for Chunks {
    fn next_chunk(&mut self) -> Result<Option<Payload>, String> {
        match (self.0.next(), self.1) {
            (None, Some(failure)) => Err(failure.to_owned()),
            (chunk, _) => Ok(chunk),
        }
    }
}

fn chunks(count: usize, bytes: usize) -> Vec<Payload> {
    (0..count).map(|number| Payload::from(vec![number as u8; bytes])).collect()
}

fn send(from: &TestNode, to: u64, source: Chunks) -> Receiver<Result<(), SnapshotFailed>> {
    let (sender, done) = channel();
    from.transport
        .send_snapshot(
            node(to),
            header(from.id.get(), to),
            Box::new(source),
            Box::new(move |result| sender.send(result).expect("somebody waits")),
        )
        .expect("begun");
    done
}

fn ended(done: &Receiver<Result<(), SnapshotFailed>>) -> Result<(), SnapshotFailed> {
    done.recv_timeout(support::DEADLINE).expect("an end")
}

fn two_nodes(first: TransportConfig, second: TransportConfig) -> (TestNode, TestNode) {
    let (one, two) = (TestNode::start_with(first), TestNode::start_with(second));
    one.knows(&two);
    (one, two)
}

#[test]
fn a_snapshot_arrives_whole() {
    let (one, two) = two_nodes(config(1), config(2));
    let data = chunks(20, 300_000);
    let done = send(&one, 2, Chunks(data.clone().into_iter(), None));
    assert_eq!(ended(&done), Ok(()));
    let arrived = two.recorder.wait_for("the data", |happening| match happening {
        Happening::SnapshotFinished(data) => Some(data.clone()),
        _ => None,
    });
    assert!(arrived == data.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
    assert_eq!(two.recorder.count(&Happening::SnapshotBegun(header(1, 2))), 1);
    assert_eq!((one.stats().snapshots_sent, one.stats().snapshot_bytes_sent), (1, 6_000_000));
    assert_eq!((two.stats().snapshots_received, two.stats().snapshot_bytes_received), (1, 6_000_000));
}

#[test]
fn an_empty_snapshot_arrives_too() {
    let (one, two) = two_nodes(config(1), config(2));
    assert_eq!(ended(&send(&one, 2, Chunks(Vec::new().into_iter(), None))), Ok(()));
    two.recorder.wait_for_count(&Happening::SnapshotFinished(Vec::new()), 1);
}

#[test]
fn n2_the_receivers_reason_reaches_the_sender() {
    let (one, two) = two_nodes(config(1), config(2));
    two.recorder.behaves().refuses_snapshots = Some("it is not needed".to_owned());
    let refused = ended(&send(&one, 2, Chunks(chunks(3, 1000).into_iter(), None)));
    assert_eq!(refused, Err(SnapshotFailed::RefusedByPeer("it is not needed".to_owned())));
    two.recorder.behaves().refuses_snapshots = None;
    two.recorder.behaves().fails_at_chunk = Some(2);
    let failed = ended(&send(&one, 2, Chunks(chunks(50, 1 << 20).into_iter(), None)));
    assert_eq!(failed, Err(SnapshotFailed::RefusedByPeer("the disk is full".to_owned())));
    two.recorder.wait_for_count(&Happening::SnapshotCut(2), 1);
}

#[test]
fn n2_a_source_that_fails_leaves_no_snapshot_behind() {
    let (one, two) = two_nodes(config(1), config(2));
    let failed = ended(&send(&one, 2, Chunks(chunks(2, 1000).into_iter(), Some("the table is damaged"))));
    assert_eq!(failed, Err(SnapshotFailed::Source("the table is damaged".to_owned())));
    two.recorder.wait_for_count(&Happening::SnapshotCut(2), 1);
    let too_long = vec![Payload::from(vec![0; mraft_wire::SNAPSHOT_CHUNK_BYTES_MAX + 1])];
    assert!(matches!(
        ended(&send(&one, 2, Chunks(too_long.into_iter(), None))),
        Err(SnapshotFailed::Source(_))
    ));
}

#[test]
fn n2_a_receiver_that_goes_away_is_a_failure() {
    let one = TestNode::start(1);
    let listener = support::RawListener::new();
    one.transport.set_peer(node(2), &listener.address().to_string()).expect("an address");
    let _messages = listener.accept();
    let done = send(&one, 2, Chunks(chunks(100, 1 << 20).into_iter(), None));
    let mut raw = listener.accept();
    raw.answers(node(2));
    assert_eq!(raw.read().map(|frame| frame.kind), Some(FrameKind::SnapshotHeader));
    raw.write(FrameKind::SnapshotReply, |out| SnapshotReply::Accepted.encode(out));
    assert_eq!(raw.read().map(|frame| frame.kind), Some(FrameKind::SnapshotChunk));
    drop(raw);
    assert!(matches!(ended(&done), Err(SnapshotFailed::Broken(_))));
}

#[test]
fn snapshots_to_nobody_are_not_begun() {
    let one = TestNode::start(1);
    let result = one.transport.send_snapshot(
        node(2),
        header(1, 2),
        Box::new(Chunks(Vec::new().into_iter(), None)),
        Box::new(|_| panic!("nothing was begun")),
    );
    assert_eq!(result, Err(SnapshotFailed::NotSent(Dropped::UnknownPeer)));
    let gone = TestNode::start(2);
    let address = gone.address();
    gone.transport.close();
    one.transport.set_peer(node(2), &address).expect("an address");
    let done = send(&one, 2, Chunks(Vec::new().into_iter(), None));
    assert!(matches!(ended(&done), Err(SnapshotFailed::NotConnected(_))));
}

/// Sends one chunk, then waits until it is let go.
struct Held(Receiver<()>, bool);

impl SnapshotSource for Held {
    fn next_chunk(&mut self) -> Result<Option<Payload>, String> {
        if std::mem::replace(&mut self.1, true) {
            let _ = self.0.recv_timeout(support::DEADLINE);
            return Ok(None);
        }
        Ok(Some("first".into()))
    }
}

#[test]
fn the_number_of_snapshots_is_bounded_on_both_sides() {
    let (few_sends, few_receives) = (
        TransportConfig { snapshot_sends_max: 2, ..config(1) },
        TransportConfig { snapshot_receives_max: 1, ..config(2) },
    );
    let (one, two) = two_nodes(few_sends, few_receives);
    let (let_go, held) = channel();
    let (sender, done) = channel();
    let first = one.transport.send_snapshot(
        two.id,
        header(1, 2),
        Box::new(Held(held, false)),
        Box::new(move |result| sender.send(result).expect("somebody waits")),
    );
    assert_eq!(first, Ok(()));
    two.recorder.wait_for_count(&Happening::SnapshotBegun(header(1, 2)), 1);
    let (second_let_go, second_held) = channel();
    let (second_sender, second) = channel();
    one.transport
        .send_snapshot(
            two.id,
            header(1, 2),
            Box::new(Held(second_held, false)),
            Box::new(move |result| second_sender.send(result).expect("somebody waits")),
        )
        .expect("begun");
    let refused = ended(&second);
    assert!(
        matches!(&refused, Err(SnapshotFailed::RefusedByPeer(reason)) if reason.starts_with("1 snapshots")),
        "{refused:?}"
    );
    drop(second_let_go);
    let third = one.transport.send_snapshot(
        two.id,
        header(1, 2),
        Box::new(Held(channel().1, false)),
        Box::new(|_| ()),
    );
    assert_eq!(third, Ok(()), "the refused one gave its place back");
    drop(let_go);
    assert_eq!(ended(&done), Ok(()));
}

#[test]
fn a_sender_says_when_it_has_no_place() {
    let (one, two) = two_nodes(TransportConfig { snapshot_sends_max: 1, ..config(1) }, config(2));
    let (let_go, held) = channel();
    let (sender, done) = channel();
    let report = Box::new(move |result| sender.send(result).expect("somebody waits"));
    let first = one.transport.send_snapshot(two.id, header(1, 2), Box::new(Held(held, false)), report);
    assert_eq!(first, Ok(()));
    let source = Box::new(Chunks(Vec::new().into_iter(), None));
    let second = one.transport.send_snapshot(two.id, header(1, 2), source, Box::new(|_| ()));
    assert_eq!(second, Err(SnapshotFailed::TooMany(1)));
    drop(let_go);
    assert_eq!(ended(&done), Ok(()));
}

/// A clock that moves only when somebody sleeps.
#[derive(Default)]
struct SleepClock(Mutex<Duration>);

impl Clock for SleepClock {
    fn now(&self) -> Duration {
        *self.0.lock().expect("no panic")
    }

    fn sleep(&self, duration: Duration) {
        *self.0.lock().expect("no panic") += duration;
    }
}

/// How long a clock that counts sleeps ran on each side while 8 MiB were sent.
fn slept(send_rate: u64, receive_rate: u64) -> [Duration; 2] {
    let clocks = [(); 2].map(|()| Arc::new(SleepClock::default()));
    let limited = |id, clock: &Arc<SleepClock>| TransportConfig {
        snapshot_send_bytes_per_second: send_rate,
        snapshot_receive_bytes_per_second: receive_rate,
        clock: clock.clone(),
        ..config(id)
    };
    let (one, two) = two_nodes(limited(1, &clocks[0]), limited(2, &clocks[1]));
    assert_eq!(ended(&send(&one, 2, Chunks(chunks(32, 256 << 10).into_iter(), None))), Ok(()));
    assert!(one.transport.close() && two.transport.close());
    clocks.map(|clock| clock.now())
}

#[test]
fn s14_snapshots_keep_to_the_rates_of_either_side() {
    const MIB: u64 = 1 << 20;
    // 8 MiB less the burst of an eighth of a second.
    let due = |rate: u64| Duration::from_secs_f64((8 * MIB - rate / 8) as f64 / rate as f64);
    let near = |slept: Duration, due: Duration| slept.abs_diff(due) < Duration::from_millis(1);
    let [sender, receiver] = slept(2 * MIB, 0);
    assert!(near(sender, due(2 * MIB)) && receiver.is_zero(), "{sender:?} {receiver:?}");
    let [sender, receiver] = slept(0, 4 * MIB);
    assert!(sender.is_zero() && near(receiver, due(4 * MIB)), "{sender:?} {receiver:?}");
    assert_eq!(slept(0, 0), [Duration::ZERO; 2]);
}

/// A sender made by hand that was told to go on.
fn accepted_sender(two: &TestNode) -> RawPeer {
    let mut raw = RawPeer::greeted(node(1), two, Purpose::Snapshot);
    raw.write(FrameKind::SnapshotHeader, |out| assert!(header(1, 2).encode(out)));
    assert_eq!(reply(&mut raw), Some(SnapshotReply::Accepted));
    raw
}

fn reply(raw: &mut RawPeer) -> Option<SnapshotReply> {
    raw.read().map(|frame| SnapshotReply::decode(&frame.payload).expect("a good reply"))
}

fn chunk_frame(number: u64, data: &'static str) -> Vec<u8> {
    encode_frame(FrameKind::SnapshotChunk, |out| SnapshotChunk { number, data: data.into() }.encode(out))
}

#[test]
fn n1_what_is_not_the_whole_snapshot_is_never_finished() {
    let two = TestNode::start(2);
    let mut sum = SnapshotSum::new();
    sum.number("one".into()).expect("a legal chunk");
    sum.number("two".into()).expect("a legal chunk");
    let end = encode_frame(FrameKind::SnapshotEnd, |out| sum.end().encode(out));
    let mut damaged = chunk_frame(1, "two");
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let cases: [(&str, Vec<Vec<u8>>); 6] = [
        ("damaged", vec![chunk_frame(0, "one"), damaged]),
        ("missing", vec![chunk_frame(0, "one"), end.clone()]),
        ("repeated", vec![chunk_frame(0, "one"), chunk_frame(0, "one")]),
        ("swapped", vec![chunk_frame(1, "two"), chunk_frame(0, "one"), end.clone()]),
        ("foreign", vec![chunk_frame(0, "one"), chunk_frame(1, "TWO"), end.clone()]),
        ("not a chunk", vec![encode_frame(FrameKind::Keepalive, |_| {})]),
    ];
    for (name, frames) in cases {
        let mut raw = accepted_sender(&two);
        raw.write_bytes(&frames.iter().flat_map(|part| part.to_vec()).collect::<Vec<u8>>());
        assert!(matches!(reply(&mut raw), Some(SnapshotReply::Refused(_))), "{name}");
        assert_eq!(reply(&mut raw), None, "{name}");
    }
    let mut whole = accepted_sender(&two);
    whole.write_bytes(
        &[chunk_frame(0, "one"), chunk_frame(1, "two"), end]
            .iter()
            .flat_map(|part| part.to_vec())
            .collect::<Vec<u8>>(),
    );
    assert_eq!(reply(&mut whole), Some(SnapshotReply::Finished));
    let finished = two
        .recorder
        .happenings()
        .into_iter()
        .filter(|happening| matches!(happening, Happening::SnapshotFinished(_)));
    assert_eq!(finished.collect::<Vec<_>>(), [Happening::SnapshotFinished(b"onetwo".to_vec())]);
    assert_eq!(two.stats().snapshots_failed, 6);
}

#[test]
fn n1_a_stream_cut_short_is_never_finished() {
    let two = TestNode::start(2);
    let mut raw = accepted_sender(&two);
    let chunk = chunk_frame(0, "one");
    raw.write_bytes(&chunk[..chunk.len() - 1]);
    drop(raw);
    two.recorder.wait_for_count(&Happening::SnapshotCut(0), 1);
    two.waits_for_close(CloseReason::EndOfStream, 1);
}

#[test]
fn a_snapshot_of_other_nodes_is_refused_before_anything_is_staged() {
    let two = TestNode::start(2);
    for (from, to) in [(3, 2), (1, 3)] {
        let mut raw = RawPeer::greeted(node(1), &two, Purpose::Snapshot);
        raw.write(FrameKind::SnapshotHeader, |out| assert!(header(from, to).encode(out)));
        assert!(matches!(reply(&mut raw), Some(SnapshotReply::Refused(_))));
    }
    assert_eq!(two.recorder.happenings(), []);
}

#[test]
fn closing_ends_snapshots_on_both_sides() {
    let (one, two) = two_nodes(config(1), config(2));
    let (let_go, held) = channel();
    let (sender, done) = channel();
    let report = Box::new(move |result| sender.send(result).expect("somebody waits"));
    one.transport.send_snapshot(two.id, header(1, 2), Box::new(Held(held, false)), report).expect("begun");
    two.recorder.wait_for_count(&Happening::SnapshotBegun(header(1, 2)), 1);
    assert!(two.transport.close());
    let cut = |happening: &Happening| matches!(happening, Happening::SnapshotCut(_)).then_some(());
    two.recorder.wait_for("the cut", cut);
    drop(let_go);
    assert!(ended(&done).is_err());
    assert!(one.transport.close());
}
