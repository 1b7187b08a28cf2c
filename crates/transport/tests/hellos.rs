// SPDX-License-Identifier: Apache-2.0

//! Before the first frame: who is refused, by whom, with which words; and strangers who never get that far.

mod support;

use std::io::Write;
use std::time::Duration;

use mraft_transport::{CloseReason, Refusal};
use mraft_types::DeploymentId;
use mraft_wire::{FrameKind, HelloConfirm, HelloRefused, HelloReply, Purpose, encode_frame};
use support::{Happening, RawListener, RawPeer, TestNode, config, frame, hello, node};

fn refusal(node: &TestNode) -> Refusal {
    node.recorder.wait_for("a refusal", |happening| match happening {
        Happening::Refused(refusal) => Some(refusal.clone()),
        _ => None,
    })
}

#[test]
fn another_deployment_is_refused_and_both_sides_name_both_values() {
    let (one, two) = (TestNode::start(1), TestNode::start(2));
    two.recorder.behaves().deployment = DeploymentId(9);
    one.knows(&two);
    let (dialing, dialed) = (refusal(&one), refusal(&two));
    assert_eq!((dialing.by_peer, dialing.node), (true, two.id));
    assert_eq!(dialing.reason.to_string(), "deployment 7 here, 9 there");
    assert_eq!((dialed.by_peer, dialed.node), (false, one.id));
    assert_eq!(dialed.reason.to_string(), "deployment 9 here, 7 there");
    one.recorder.wait_until("more dials", || one.stats().dials_failed > 3);
    let told = |node: &TestNode| {
        node.recorder.happenings().iter().filter(|told| matches!(told, Happening::Refused(_))).count()
    };
    assert_eq!((told(&one), told(&two)), (1, 1), "the same refusal is told once");
    two.recorder.behaves().deployment = DeploymentId(7);
    one.recorder.wait_for_count(&Happening::Connected(two.id), 1);
}

#[test]
fn a_refusal_of_a_node_that_was_removed_is_told_again_when_it_comes_back() {
    let (one, two) = (TestNode::start(1), TestNode::start(2));
    one.recorder.behaves().unknown.insert(two.id);
    one.knows(&two);
    let told = Happening::Refused(refusal(&one));
    one.transport.remove_peer(two.id);
    one.knows(&two);
    one.recorder.wait_for_count(&told, 2);
}

#[test]
fn the_dialer_refuses_in_its_turn_and_the_dialed_side_hears_why() {
    let (one, two) = (TestNode::start(1), TestNode::start(2));
    one.recorder.behaves().unknown.insert(two.id);
    one.knows(&two);
    let (dialing, dialed) = (refusal(&one), refusal(&two));
    let unknown = HelloRefused::UnknownNode { node: two.id };
    assert_eq!((dialing.by_peer, dialing.reason), (false, unknown.clone()));
    assert_eq!((dialed.by_peer, dialed.reason, dialed.node), (true, unknown, one.id));
}

#[test]
fn a_node_that_is_not_known_is_refused() {
    let one = TestNode::start(1);
    one.recorder.behaves().unknown.insert(node(3));
    let mut raw = RawPeer::dial(one.transport.local_address());
    raw.write(FrameKind::Hello, |out| hello(node(3), one.id, Purpose::Messages).encode(out));
    let unknown = HelloRefused::UnknownNode { node: node(3) };
    assert_eq!(raw.read_reply(), HelloReply::Refused(unknown));
    assert_eq!(raw.read(), None);
    one.waits_for_close(CloseReason::HelloRefused, 1);
}

#[test]
fn another_node_at_the_address_is_refused() {
    let (one, three) = (TestNode::start(1), TestNode::start(3));
    one.transport.set_peer(node(2), &three.address()).expect("an address");
    let reason = refusal(&one).reason;
    assert_eq!(reason.to_string(), "node 2 was wanted, node 3 was reached");
}

#[test]
fn nothing_is_taken_before_both_accepted() {
    let one = TestNode::start(1);
    let mut early = RawPeer::dial(one.transport.local_address());
    // The header alone is enough: the rest of the frame is not waited for.
    early.write_bytes(&frame(node(2), one.id, "too early")[..mraft_wire::FRAME_HEADER_BYTES]);
    one.waits_for_close(CloseReason::Protocol, 1);
    let mut unconfirmed = RawPeer::dial(one.transport.local_address());
    unconfirmed.write(FrameKind::Hello, |out| hello(node(2), one.id, Purpose::Messages).encode(out));
    assert!(matches!(unconfirmed.read_reply(), HelloReply::Accepted { .. }));
    unconfirmed.write_bytes(&frame(node(2), one.id, "too early"));
    one.waits_for_close(CloseReason::Protocol, 2);
    assert_eq!(one.stats().frames_received, 0);
}

#[test]
fn garbage_ends_a_connection_and_harms_no_other() {
    let (one, two) = (TestNode::start(1), TestNode::start(2));
    two.connects_to(one.id, one.transport.local_address());
    let mut damaged = encode_frame(FrameKind::Hello, |out| {
        hello(node(3), one.id, Purpose::Messages).encode(out);
    });
    damaged[40] ^= 1;
    let mut giant = encode_frame(FrameKind::Packets, |_| {});
    giant[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let garbage: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", &[0; 4096], &[0xff; 20], &damaged, &giant];
    for (number, bytes) in garbage.iter().enumerate() {
        let mut raw = RawPeer::dial(one.transport.local_address());
        raw.write_bytes(bytes);
        one.waits_for_close(CloseReason::Protocol, number as u64 + 1);
        assert_eq!(raw.read(), None);
    }
    two.says(one.id, "unharmed");
    one.hears(two.id, "unharmed");
}

#[test]
fn garbage_after_the_hello_ends_the_connection() {
    let one = TestNode::start(1);
    let wrong_kind = encode_frame(FrameKind::SnapshotEnd, |_| {});
    let not_ours = frame(node(2), node(9), "for another node");
    let bad_packet = encode_frame(FrameKind::Packets, |out| {
        out.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x7f]);
    });
    for (number, bytes) in [wrong_kind, not_ours, bad_packet].iter().enumerate() {
        let mut raw = RawPeer::greeted(node(2), &one, Purpose::Messages);
        raw.write_bytes(bytes);
        one.waits_for_close(CloseReason::Protocol, number as u64 + 1);
        assert_eq!(raw.read(), None);
    }
}

#[test]
fn a_slow_hello_is_cut_off_also_when_it_drips() {
    let mut impatient = config(1);
    impatient.hello_timeout = Duration::from_millis(50);
    let one = TestNode::start_with(impatient);
    let _silent = RawPeer::dial(one.transport.local_address());
    one.waits_for_close(CloseReason::HelloTimeout, 1);
    let bytes = encode_frame(FrameKind::Hello, |out| {
        hello(node(2), one.id, Purpose::Messages).encode(out);
    });
    let mut dripping = RawPeer::dial(one.transport.local_address());
    let mut bytes = bytes[..bytes.len() - 1].iter();
    one.recorder.wait_until("the end of patience", || {
        if let Some(byte) = bytes.next() {
            // The other side may have closed already: that is what is waited for.
            let _ = dripping.socket.write(&[*byte]);
        }
        one.stats().closed_for(CloseReason::HelloTimeout) == 2
    });
}

#[test]
fn strangers_find_a_bounded_number_of_places() {
    let mut small = config(1);
    small.handshakes_max = 1;
    small.inbound_connections_max = 3;
    let one = TestNode::start_with(small);
    let mut members = Vec::new();
    for (id, accepts) in [(2, 1), (3, 2)] {
        members.push(RawPeer::greeted(node(id), &one, Purpose::Messages));
        one.recorder.wait_until("its place among the members", || one.stats().accepts == accepts);
    }
    let stranger = RawPeer::dial(one.transport.local_address());
    one.recorder.wait_until("three connections", || one.stats().inbound_connections == 3);
    let mut late = RawPeer::dial(one.transport.local_address());
    let limit = HelloReply::Refused(HelloRefused::TooManyConnections { limit: 3 });
    assert_eq!(late.read_reply(), limit);
    one.waits_for_close(CloseReason::TooManyConnections, 1);
    drop(members.pop());
    one.recorder.wait_until("a free place", || one.stats().inbound_connections == 2);
    let mut second_stranger = RawPeer::dial(one.transport.local_address());
    let limit = HelloReply::Refused(HelloRefused::TooManyConnections { limit: 1 });
    assert_eq!(second_stranger.read_reply(), limit);
    one.waits_for_close(CloseReason::TooManyHandshakes, 1);
    drop(stranger);
    members[0].write_bytes(&frame(node(2), one.id, "still here"));
    one.hears(node(2), "still here");
}

#[test]
fn an_answer_with_garbage_is_not_a_peer() {
    let one = TestNode::start(1);
    let listener = RawListener::new();
    one.transport.set_peer(node(2), &listener.address().to_string()).expect("an address");
    listener.accept().write_bytes(&[0x55; 64]);
    let mut second = listener.accept();
    second.write(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out));
    let mut third = listener.accept();
    third.write(FrameKind::HelloReply, |out| {
        let reply = HelloReply::Accepted {
            version: 9,
            feature_level: 1,
            hello: Box::new(hello(node(2), node(1), Purpose::Messages)),
        };
        reply.encode(out);
    });
    assert!(matches!(refusal(&one).reason, HelloRefused::Version { .. }), "a version it cannot choose");
    listener.accept().answers(node(2));
    one.recorder.wait_for_count(&Happening::Connected(node(2)), 1);
}
