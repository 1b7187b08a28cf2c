// SPDX-License-Identifier: Apache-2.0

//! Frames between nodes: they arrive, in order; what cannot be sent is dropped and counted by reason; what breaks is mended.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of a test fails the test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use mraft_transport::{CloseReason, Dropped, Transport, TransportConfig, TransportError};
use mraft_wire::{FrameKind, Purpose};
use support::{
    DEADLINE, Happening, RawListener, RawPeer, Recorder, SnapshotTaker, TestNode, config, frame, frame_of,
    node, pair,
};

#[test]
fn two_nodes_exchange_frames() {
    let (one, two) = pair(config(1), config(2));
    one.says(two.id, "question");
    two.hears(one.id, "question");
    two.says(one.id, "answer");
    one.hears(two.id, "answer");
    assert!(one.transport.close() && two.transport.close());
    assert_eq!(one.transport.send(two.id, frame(one.id, two.id, "late")), Err(Dropped::Closing));
    assert!(matches!(one.transport.set_peer(two.id, "127.0.0.1:1"), Err(TransportError::Closed)));
}

#[test]
fn frames_arrive_in_order_also_when_the_socket_is_full() {
    let (one, two) = pair(config(1), config(2));
    const FRAMES: usize = 300;
    for number in 0..FRAMES {
        let mut body = format!("{number:06}").into_bytes();
        body.resize(if number % 10 == 0 { 1 << 20 } else { 40 }, b'.');
        one.transport.send(two.id, frame_of(one.id, two.id, body)).expect("below the limit");
    }
    two.recorder.wait_until("all frames", || two.recorder.happenings().len() > FRAMES);
    let numbers: Vec<String> = two
        .recorder
        .happenings()
        .into_iter()
        .filter_map(|happening| match happening {
            Happening::Text(_, text) => Some(text[..6].to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(numbers, (0..FRAMES).map(|number| format!("{number:06}")).collect::<Vec<_>>());
    let (sent, received) = (one.stats(), two.stats());
    assert_eq!((sent.frames_taken, received.frames_received), (FRAMES as u64, FRAMES as u64));
    one.recorder.wait_until("empty queues", || one.stats().send_queue_bytes == 0);
    two.recorder.wait_until("released bytes", || two.stats().receive_queue_bytes == 0);
}

#[test]
fn a_frame_that_the_socket_takes_needs_no_other_thread() {
    let (one, two) = pair(config(1), config(2));
    one.says(two.id, "direct");
    assert_eq!(one.stats().frames_direct, 1);
    two.hears(one.id, "direct");
}

#[test]
fn a_node_that_comes_back_is_connected_again() {
    let one = TestNode::start(1);
    let two = TestNode::start(2);
    let address = two.address();
    one.knows(&two);
    one.recorder.wait_for_count(&Happening::Connected(two.id), 1);
    assert!(two.transport.close());
    one.recorder
        .wait_for("the loss", |happening| matches!(happening, Happening::Disconnected(..)).then_some(()));
    let again = rebound(2, &address);
    one.recorder.wait_for_count(&Happening::Connected(again.id), 2);
    one.says(again.id, "welcome back");
    again.hears(one.id, "welcome back");
}

#[test]
fn m9_a_node_that_moves_is_dialed_at_its_new_address() {
    let one = TestNode::start(1);
    let two = TestNode::start(2);
    one.connects_to(two.id, two.transport.local_address());
    let moved = TestNode::start(2);
    one.knows(&moved);
    one.recorder.wait_for_count(&Happening::Connected(two.id), 2);
    one.says(two.id, "here?");
    moved.hears(one.id, "here?");
    one.recorder.wait_for_count(&Happening::Disconnected(two.id, CloseReason::AddressChanged), 1);
    one.knows(&moved);
    assert_eq!(one.recorder.count(&Happening::Suspected(two.id)), 0);
}

#[test]
fn what_cannot_be_sent_is_dropped_by_reason() {
    let one = TestNode::start(1);
    let (two, three) = (node(2), node(3));
    assert_eq!(one.transport.send(two, frame(one.id, two, "x")), Err(Dropped::UnknownPeer));
    // Nobody answers there: the connection is never made.
    let silent = RawListener::new();
    one.transport.set_peer(two, &silent.address().to_string()).expect("an address");
    assert_eq!(one.transport.send(two, frame(one.id, two, "x")), Err(Dropped::NotConnected));
    assert_eq!(one.transport.send(two, vec![0; 3]), Err(Dropped::NotAFrame));
    one.transport.remove_peer(two);
    one.transport.remove_peer(three);
    assert_eq!(one.transport.send(two, frame(one.id, two, "x")), Err(Dropped::UnknownPeer));
    let stats = one.stats();
    for (reason, count) in [
        (Dropped::UnknownPeer, 2),
        (Dropped::NotConnected, 1),
        (Dropped::NotAFrame, 1),
        (Dropped::QueueFull, 0),
    ] {
        assert_eq!(stats.dropped_for(reason), count, "{reason}");
    }
    drop(silent);
}

/// Sends to a peer that reads nothing until a frame is dropped; why it was, and how many were taken.
fn send_until_dropped(one: &TestNode, to: u64) -> (Dropped, usize) {
    for taken in 0.. {
        match one.transport.send(node(to), frame_of(one.id, node(to), vec![7; 1 << 20])) {
            Ok(()) => {}
            Err(reason) => return (reason, taken),
        }
        assert!(taken < 10_000, "the queue has no bound");
    }
    unreachable!("the loop ends by returning")
}

fn connect_raw(one: &TestNode, listener: &RawListener, id: u64) -> RawPeer {
    one.transport.set_peer(node(id), &listener.address().to_string()).expect("an address");
    let mut raw = listener.accept();
    raw.answers(node(id));
    one.recorder.wait_for_count(&Happening::Connected(node(id)), 1);
    raw
}

#[test]
fn s14_a_peer_that_never_reads_fills_its_queue_and_no_other() {
    let mut limited = config(1);
    limited.send_queue_bytes_max = 5 << 20;
    let one = TestNode::start_with(limited);
    let listener = RawListener::new();
    let raw = connect_raw(&one, &listener, 2);
    let (reason, _) = send_until_dropped(&one, 2);
    assert_eq!(reason, Dropped::QueueFull);
    let queued = one.stats().peers[0].queued_bytes;
    assert!(queued > 3 << 20 && queued <= 5 << 20, "{queued} bytes wait");
    assert_eq!(one.stats().send_queue_bytes, queued);
    let three = TestNode::start(3);
    one.connects_to(three.id, three.transport.local_address());
    one.says(three.id, "still alive");
    three.hears(one.id, "still alive");
    drop(raw);
    one.recorder.wait_until("the queue to be let go", || one.stats().send_queue_bytes == 0);
    assert!(one.stats().dropped_for(Dropped::ConnectionLost) >= 4);
}

#[test]
fn t2_without_a_limit_of_its_own_a_queue_ends_at_the_ceiling() {
    let mut ceiling = config(1);
    ceiling.send_queue_bytes_max = 0;
    ceiling.send_ceiling_bytes = 5 << 20;
    let one = TestNode::start_with(ceiling);
    let listener = RawListener::new();
    let _raw = connect_raw(&one, &listener, 2);
    assert_eq!(send_until_dropped(&one, 2).0, Dropped::Ceiling);
    let three = TestNode::start(3);
    one.connects_to(three.id, three.transport.local_address());
    one.says(three.id, "not held up");
    three.hears(one.id, "not held up");
}

#[test]
fn a_peer_that_reads_nothing_for_the_idle_timeout_is_let_go() {
    let mut impatient = config(1);
    impatient.idle_timeout = Duration::from_millis(60);
    impatient.send_queue_bytes_max = 2 << 20;
    let one = TestNode::start_with(impatient);
    let listener = RawListener::new();
    let _raw = connect_raw(&one, &listener, 2);
    while one.transport.send(node(2), frame_of(one.id, node(2), vec![7; 1 << 20])).is_ok() {}
    one.recorder.wait_for("the end", |happening| {
        (*happening == Happening::Disconnected(node(2), CloseReason::Stalled)).then_some(())
    });
    assert_eq!(one.recorder.count(&Happening::Suspected(node(2))), 0);
}

#[test]
fn a_connection_on_which_nothing_arrives_is_let_go() {
    let mut impatient = config(1);
    impatient.idle_timeout = Duration::from_millis(60);
    let one = TestNode::start_with(impatient);
    let _half_open = RawPeer::greeted(node(3), &one, Purpose::Messages);
    one.waits_for_close(CloseReason::Idle, 1);
}

#[test]
fn a_quiet_connection_carries_keepalives() {
    let mut quiet = config(1);
    quiet.idle_timeout = Duration::from_millis(60);
    let one = TestNode::start_with(quiet);
    let listener = RawListener::new();
    let mut raw = connect_raw(&one, &listener, 2);
    for _ in 0..3 {
        assert_eq!(raw.read().map(|frame| frame.kind), Some(FrameKind::Keepalive));
    }
    one.says(node(2), "and goes on");
    let said = std::iter::from_fn(|| raw.read()).any(|frame| frame.kind == FrameKind::Packets);
    assert!(said);
}

#[test]
fn s14_above_the_receive_limit_frames_are_marked_until_the_handler_releases() {
    let mut limited = config(2);
    limited.receive_queue_bytes_max = 1500;
    let (one, two) = pair(config(1), limited);
    two.recorder.behaves().holds_frames = true;
    for _ in 0..3 {
        one.transport.send(two.id, frame_of(one.id, two.id, vec![b'x'; 1000])).expect("room");
    }
    two.recorder.wait_until("three frames", || two.recorder.over_limit().len() == 3);
    two.recorder.release();
    one.transport.send(two.id, frame_of(one.id, two.id, vec![b'x'; 1000])).expect("room");
    two.recorder.wait_until("the fourth", || two.recorder.over_limit().len() == 4);
    assert_eq!(two.recorder.over_limit(), [false, true, true, false]);
    assert_eq!(two.stats().frames_over_limit, 2);
}

#[test]
fn t2_above_the_receive_ceiling_nothing_more_is_read_until_bytes_are_released() {
    let mut low = config(2);
    low.receive_ceiling_bytes = 1500;
    let (one, two) = pair(config(1), low);
    two.recorder.behaves().holds_frames = true;
    for text in ["first", "second"] {
        let mut body = text.as_bytes().to_vec();
        body.resize(1000, b'.');
        one.transport.send(two.id, frame_of(one.id, two.id, body)).expect("room");
    }
    two.recorder.wait_until("the first", || two.recorder.over_limit().len() == 1);
    assert!(two.stats().receive_queue_bytes <= 1500);
    two.recorder.release();
    two.recorder.wait_until("the second", || two.recorder.over_limit().len() == 2);
}

#[test]
fn bad_settings_and_addresses_are_refused() {
    let one = TestNode::start(1);
    assert!(one.transport.set_peer(node(1), "127.0.0.1:1").is_err(), "itself");
    assert!(one.transport.set_peer(node(2), "nowhere").is_err());
    let taken = TransportConfig { listen_address: one.address(), ..config(2) };
    let handler = Arc::new(SnapshotTaker(Recorder::new(node(2))));
    let refused = Transport::start(taken, handler.clone()).expect_err("the port is taken");
    assert!(refused.to_string().contains(&one.address()), "{refused}");
    let zero = TransportConfig { handshakes_max: 0, ..config(2) };
    assert!(Transport::start(zero, handler).is_err());
}

/// A node at an address that was just given up.
fn rebound(id: u64, address: &str) -> TestNode {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let config = TransportConfig { listen_address: address.to_owned(), ..config(id) };
        let recorder = Recorder::new(node(id));
        match Transport::start(config, Arc::new(SnapshotTaker(recorder.clone()))) {
            Ok(transport) => return TestNode { id: node(id), transport, recorder },
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
    }
}
