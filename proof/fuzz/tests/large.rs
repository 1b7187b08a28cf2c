// SPDX-License-Identifier: Apache-2.0

//! The largest inputs that a decoder takes, made of the smallest things that there are: what is tiny on the wire is not so in memory, and a
//! search whose inputs are a kilobyte long never sees it. Each may hold a stated factor of the most that anybody may send.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use mraft_api::{BatchRequest, kv::ScanAnswer};
use mraft_fuzz::memory::{Counting, measure};
use mraft_kv::command::{self, Answer};
use mraft_kv::query::QueryAnswer;
use mraft_types::codec::{DecodeError, Writer};
use mraft_types::limits::{COMMAND_BYTES_MAX, FRAME_BYTES_MAX};
use mraft_types::{NodeId, Payload};
use mraft_wire::{FRAME_HEADER_BYTES, Packet, PacketReader};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that `decode` holds at most, for inputs of `bytes_max`: a head, then as many pieces as fit.
#[track_caller]
fn holds(what: &str, bytes_max: usize, head: &[u8], piece: &[u8], factor: usize, decode: impl FnOnce(&[u8])) {
    let mut input = head.to_vec();
    while input.len() + piece.len() <= bytes_max {
        input.extend_from_slice(piece);
    }
    let ((), allocated) = measure(|| decode(&input));
    let allowed = factor * bytes_max;
    println!("{what}: {} bytes hold {}", input.len(), allocated.peak_bytes);
    assert!(
        allocated.peak_bytes <= allowed,
        "{what} of {} bytes hold {} at once; {allowed} are allowed",
        input.len(),
        allocated.peak_bytes
    );
}

fn packets(payload: &[u8]) {
    let [from, to] = [1, 2].map(|id| NodeId::new(id).expect("a node"));
    let payload = Payload::copy_from(payload);
    let read = PacketReader::new(&payload, from, to).expect("the right nodes");
    drop(read.collect::<Result<Vec<Packet>, DecodeError>>());
}

#[test]
fn a_frame_of_tiny_packets() {
    let head = [1_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
    let len = FRAME_BYTES_MAX - FRAME_HEADER_BYTES;
    let raft = |tag: u8, fields: &[u8]| [&[tag, 0][..], &[0xab; 16], &[5], fields].concat();
    let mut append = raft(0x05, &[1, 1, 1, 1]);
    append.put_varint(4096);
    append.extend([0, 1, 0].repeat(4096));
    for (what, piece) in [
        ("answers", vec![0x31, 1, 0]),
        ("questions", vec![0x30, 1, 1, 0, 1, 0]),
        ("signs of life", vec![0x20, 1, 1, 1]),
        ("timeouts", raft(0x0a, &[])),
        ("heartbeats", raft(0x08, &[1, 1, 1])),
        ("appends", append),
    ] {
        // The frame itself is copied here.
        holds(what, len, &head, &piece, 3, packets);
    }
}

#[test]
fn commands_and_answers_of_tiny_operations() {
    let mut head = vec![1];
    head.put_varint(command::OPERATIONS_MAX as u64);
    holds("a command", COMMAND_BYTES_MAX, &head, b"\x01\x00\x01k", 4, |body| drop(command::decode(body)));
    let mut head = vec![1, 0, 1];
    head.put_varint(command::OPERATIONS_MAX as u64);
    holds("an answer", COMMAND_BYTES_MAX, &head, &[4], 4, |body| drop(Answer::decode(body)));
    holds("a page", COMMAND_BYTES_MAX, &[1, 2, 1, 1], &[1, 1, b'k', 1, 0], 4, |body| {
        drop(QueryAnswer::decode(body));
    });
}

#[test]
fn documents_of_tiny_members() {
    let bytes = 2 * COMMAND_BYTES_MAX;
    holds("a batch", bytes, b"{\"operations\":[", b"{\"delete\":{\"key\":\"\"}},", 4, |body| {
        drop(serde_json::from_slice::<BatchRequest>(body));
    });
    holds(
        "a scan",
        bytes,
        b"{\"entries\":[",
        b"{\"key\":\"\",\"value\":\"\",\"revision\":1,\"group\":1},",
        4,
        |body| {
            drop(serde_json::from_slice::<ScanAnswer>(body));
        },
    );
    holds("depth", bytes, b"{\"operations\":[", b"[", 4, |body| {
        drop(serde_json::from_slice::<BatchRequest>(body));
    });
}
