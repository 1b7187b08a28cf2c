// SPDX-License-Identifier: Apache-2.0

//! Rule T5: a dead process is suspected at once; a close that says nothing about the process suspects nobody.

mod support;

use std::time::Duration;

use mraft_transport::CloseReason;
use mraft_wire::{FrameKind, HelloRefused, HelloReply, Purpose};
use support::{Happening, RawListener, RawPeer, TestNode, config, node, pair};

#[test]
fn t5_a_node_whose_process_ended_is_suspected_once() {
    let (one, two) = pair(config(1), config(2));
    assert!(two.transport.close());
    one.recorder.wait_for_count(&Happening::Suspected(node(2)), 1);
    one.recorder.wait_until("more dials", || one.stats().dials_failed > 5);
    assert_eq!(one.recorder.count(&Happening::Suspected(node(2))), 1);
    assert!(one.stats().peers[0].is_suspected);
    assert_eq!(one.stats().suspicions, 1);
}

#[test]
fn t5_a_node_that_says_no_hello_within_a_heartbeat_is_suspected() {
    let mut one = config(1);
    one.heartbeat_interval = Duration::from_millis(20);
    let one = TestNode::start_with(one);
    let listener = RawListener::new();
    one.transport.set_peer(node(2), &listener.address().to_string()).expect("an address");
    let mut raw = listener.accept();
    raw.answers(node(2));
    one.recorder.wait_for_count(&Happening::Connected(node(2)), 1);
    drop(raw);
    let _silent = listener.accept();
    one.recorder.wait_for_count(&Happening::Suspected(node(2)), 1);
    one.transport.close();
}

#[test]
fn t5_a_node_that_answers_with_a_refusal_lives() {
    let one = TestNode::start(1);
    let listener = RawListener::new();
    one.transport.set_peer(node(2), &listener.address().to_string()).expect("an address");
    let mut raw = listener.accept();
    raw.answers(node(2));
    one.recorder.wait_for_count(&Happening::Connected(node(2)), 1);
    drop(raw);
    let mut again = listener.accept();
    again.write(FrameKind::HelloReply, |out| HelloReply::Refused(HelloRefused::ShuttingDown).encode(out));
    one.recorder.wait_for("the refusal", |happening| {
        matches!(happening, Happening::Refused(refusal) if refusal.by_peer).then_some(())
    });
    assert_eq!(one.recorder.count(&Happening::Suspected(node(2))), 0);
}

#[test]
fn t5_a_node_that_was_never_connected_is_not_suspected() {
    let one = TestNode::start(1);
    let two = TestNode::start(2);
    let address = two.address();
    assert!(two.transport.close());
    one.transport.set_peer(node(2), &address).expect("an address");
    one.recorder.wait_until("some dials", || one.stats().dials_failed > 5);
    assert_eq!(one.recorder.count(&Happening::Suspected(node(2))), 0);
}

#[test]
fn t5_a_close_of_our_own_suspects_nobody() {
    let (one, two) = pair(config(1), config(2));
    one.transport.remove_peer(two.id);
    one.recorder.wait_for_count(&Happening::Disconnected(two.id, CloseReason::PeerRemoved), 1);
    one.waits_for_close(CloseReason::Superseded, 1);
    // The other side sees a loss, dials at once, and finds a living node.
    two.recorder.wait_for_count(&Happening::Connected(one.id), 2);
    // A frame on a connection that is being replaced may be lost.
    one.recorder.wait_until("a frame to arrive", || {
        let _ = two.transport.send(one.id, support::frame(two.id, one.id, "alive"));
        one.recorder.count(&Happening::Text(two.id, "alive".to_owned())) > 0
    });
    assert_eq!(one.recorder.count(&Happening::Suspected(two.id)), 0);
    assert_eq!(two.recorder.count(&Happening::Suspected(one.id)), 0);
}

#[test]
fn t5_when_only_the_peers_own_connection_breaks_a_dial_shows_that_it_lives() {
    let (one, two) = pair(config(1), config(2));
    // Somebody takes the place of node 2's own connection, and breaks it.
    one.recorder
        .wait_until("an impostor", || RawPeer::try_greeted(two.id, &one, Purpose::Messages).is_some());
    one.recorder.wait_until("sendable", || one.transport.is_connected(two.id));
    one.recorder.wait_until("sendable back", || two.transport.is_connected(one.id));
    for (from, to) in [(&one, &two), (&two, &one)] {
        from.recorder.wait_until("a frame to arrive", || {
            let _ = from.transport.send(to.id, support::frame(from.id, to.id, "alive"));
            to.recorder.count(&Happening::Text(from.id, "alive".to_owned())) > 0
        });
        assert_eq!(from.recorder.count(&Happening::Suspected(to.id)), 0);
    }
}

#[test]
fn t5_two_healthy_nodes_do_not_go_on_replacing_connections() {
    let (one, two) = pair(config(1), config(2));
    for _ in 0..5 {
        one.recorder
            .wait_until("an impostor", || RawPeer::try_greeted(two.id, &one, Purpose::Messages).is_some());
    }
    let dials = || (one.stats().dials, two.stats().dials);
    let heard = || (one.stats().frames_received, two.stats().frames_received);
    let (mut seen, mut since) = (dials(), heard());
    // Frames go both ways many times over while nobody dials: it has come to rest. Frames on a connection that is replaced may be lost.
    one.recorder.wait_until("rest", || {
        for (from, to) in [(&one, &two), (&two, &one)] {
            let _ = from.transport.send(to.id, support::frame(from.id, to.id, "rest?"));
        }
        if dials() != seen {
            (seen, since) = (dials(), heard());
        }
        heard().0 >= since.0 + 50 && heard().1 >= since.1 + 50
    });
}
