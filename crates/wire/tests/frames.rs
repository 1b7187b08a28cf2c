// SPDX-License-Identifier: Apache-2.0

//! Frames and packets: what goes in comes out, and nothing else does.

#![allow(clippy::expect_used)]

mod support;

use mraft_raft::Body;
use mraft_types::limits::{ENTRY_BYTES_MAX, ENTRY_BYTES_TARGET, FRAME_BYTES_MAX};
use mraft_types::{Entry, EntryKind, GroupId, LogPosition, Payload, ReplicaId};
use mraft_wire::packet::{BODY_BYTES_MAX, FRAME_PACKETS_MAX};
use mraft_wire::{
    FRAME_HEADER_BYTES, FrameBuilder, FrameError, FrameKind, FrameReader, HELD_TIMES_SIZE_MAX, Packet,
    PacketReader, PushError, Request, RequestKind, Response, encode_frame,
};
use support::{
    Dice, UID, entry, frame_of, frames, message, node, packets, parse, push, raft, read_frames, read_packets,
};

#[test]
fn packets_come_back_in_order_whatever_the_pieces() {
    let mut bytes = frame_of(&packets());
    bytes.extend(frame_of(&packets()[3..5]));
    for piece in [1, 7, 19, 20, 21, 4096, usize::MAX] {
        let frames = read_frames(&bytes, piece).expect("good frames");
        let read: Vec<_> = frames.iter().map(|frame| read_packets(&frame.payload)).collect();
        assert_eq!(read, [Some(packets()), Some(packets()[3..5].to_vec())], "pieces of {piece}");
    }
}

#[test]
fn a_large_entry_shares_the_frames_memory() {
    let payload = Payload::from(vec![0x5a; 1 << 20]);
    let large = Entry { index: 8, term: 5, kind: EntryKind::Commands, payload };
    let append =
        Body::Append { prev: LogPosition { index: 7, term: 5 }, entries: vec![large], commit: 7, matched: 7 };
    let bytes = frame_of(&[raft(message(append.clone()))]);
    let frames = read_frames(&bytes, 100_000).expect("a good frame");
    let read = read_packets(&frames[0].payload).expect("good packets");
    assert_eq!(read, [raft(message(append))]);
    let Packet::Raft { message, .. } = &read[0] else { panic!("a Raft message went in") };
    let Body::Append { entries, .. } = &message.body else { panic!("an append went in") };
    let (frame, entry) = (frames[0].payload.as_ptr_range(), entries[0].payload.as_ptr_range());
    assert!(frame.start <= entry.start && entry.end <= frame.end);
}

#[test]
fn t2_no_entry_holds_much_more_memory_than_it_is_counted_with() {
    let mut builder = FrameBuilder::new(node(1), node(2));
    let sizes = [0, 10, 100, 10_000, 300_000, 700_000, 1 << 20];
    for (index, size) in (8..).zip(sizes.into_iter().cycle().take(21)) {
        let payload = Payload::from(vec![0x5a; size]);
        let entries = vec![Entry { index, term: 5, kind: EntryKind::Commands, payload }];
        let prev = LogPosition { index: index - 1, term: 5 };
        let append = message(Body::Append { prev, entries, commit: 7, matched: 7 });
        builder.push_raft(GroupId(index), UID, &append).expect("room");
    }
    let frame = builder.finish().expect("a frame");
    let payload = read_frames(&frame, usize::MAX).expect("a good frame").remove(0).payload;
    let frame = payload.as_ptr_range();
    let read = read_packets(&payload).expect("good packets");
    for packet in &read {
        let Packet::Raft { message, .. } = packet else { panic!("Raft messages went in") };
        let Body::Append { entries, .. } = &message.body else { panic!("appends went in") };
        let entry = &entries[0].payload;
        let is_shared = !entry.is_empty() && frame.contains(&entry.as_ptr());
        let held = if is_shared { payload.len() } else { entry.len() };
        assert!(held <= entry.len() * HELD_TIMES_SIZE_MAX, "{} bytes hold {held}", entry.len());
        assert!(is_shared || entry.len() < ENTRY_BYTES_TARGET, "{} bytes were copied", entry.len());
    }
}

#[test]
fn ten_thousand_heartbeats_fit_one_frame() {
    let mut builder = FrameBuilder::new(node(1), node(2));
    let beat = message(Body::Heartbeat { commit: 2_000_000, matched: 2_000_000, round: 40 });
    for group in 0..10_000 {
        builder.push_raft(GroupId(group), UID, &beat).expect("room");
    }
    assert!(builder.len() < 300_000, "{} bytes", builder.len());
    let frame = builder.finish().expect("a frame");
    let frames = read_frames(&frame, usize::MAX).expect("a good frame");
    assert_eq!(read_packets(&frames[0].payload).map(|packets| packets.len()), Some(10_000));
}

#[test]
fn every_truncation_waits_and_yields_nothing() {
    for (name, bytes) in frames() {
        for len in 0..bytes.len() {
            let frames = read_frames(&bytes[..len], usize::MAX).expect("nothing wrong so far");
            assert!(frames.is_empty(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for (name, bytes) in frames() {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read_frames(&flipped, usize::MAX).is_err(), "{name} with bit {bit} flipped");
        }
    }
}

#[test]
fn a_payload_cut_or_prolonged_under_a_good_checksum_is_refused() {
    for (name, bytes) in frames() {
        let frame = read_frames(&bytes, usize::MAX).expect("a good frame").remove(0);
        assert!(parse(&frame), "{name} itself");
        for len in 0..frame.payload.len() {
            let cut = encode_frame(frame.kind, |out| out.extend_from_slice(&frame.payload[..len]));
            let cut = read_frames(&cut, usize::MAX).expect("a good checksum").remove(0);
            let ends_between_packets = frame.kind == FrameKind::Packets
                && read_packets(&cut.payload)
                    .is_some_and(|read| read_packets(&frame.payload).expect("good").starts_with(&read));
            let any_data = frame.kind == FrameKind::SnapshotChunk && len >= 8;
            assert!(!parse(&cut) || ends_between_packets || any_data, "{name} cut to {len} bytes");
        }
        if !matches!(frame.kind, FrameKind::SnapshotChunk | FrameKind::Keepalive) {
            let longer = encode_frame(frame.kind, |out| {
                out.extend_from_slice(&frame.payload);
                out.push(0);
            });
            match read_frames(&longer, usize::MAX) {
                Ok(longer) => assert!(!parse(&longer[0]), "{name} with a byte more"),
                Err(error) => assert!(matches!(error, FrameError::TooLong { .. }), "{name}: {error}"),
            }
        }
    }
}

#[test]
fn changed_payloads_under_good_checksums_never_panic() {
    let samples: Vec<_> =
        frames().iter().map(|(_, bytes)| read_frames(bytes, usize::MAX).expect("good").remove(0)).collect();
    let mut dice = Dice(7);
    for _ in 0..60_000 {
        let sample = &samples[dice.below(samples.len())];
        let mut payload = sample.payload.to_vec();
        for _ in 0..1 + dice.below(4) {
            let at = dice.below(payload.len().max(1));
            match dice.below(4) {
                0 if !payload.is_empty() => payload[at] = dice.roll() as u8,
                1 => payload.truncate(at),
                2 => payload.insert(at.min(payload.len()), dice.roll() as u8),
                _ if !payload.is_empty() && at < payload.len() => payload[at] = 0xff,
                _ => {}
            }
        }
        let bytes = encode_frame(sample.kind, |out| {
            out.extend_from_slice(&payload[..payload.len().min(sample.kind.payload_bytes_max())]);
        });
        for frame in read_frames(&bytes, 1 + dice.below(100)).expect("good checksums") {
            parse(&frame);
        }
    }
}

#[test]
fn noise_never_panics_and_never_is_a_frame() {
    let mut dice = Dice(11);
    for _ in 0..2_000 {
        let mut noise: Vec<u8> = (0..64 + dice.below(200)).map(|_| dice.roll() as u8).collect();
        if dice.below(2) == 0 {
            noise[..4].copy_from_slice(b"mRft");
        }
        assert!(read_frames(&noise, usize::MAX).is_err());
    }
}

#[test]
fn something_else_on_the_port_is_named() {
    let error = read_frames(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", usize::MAX).expect_err("not a frame");
    assert_eq!(error.to_string(), "not a frame: it starts with \"GET \"");
}

#[test]
fn a_length_above_its_kinds_bound_is_refused_before_memory_is_taken() {
    for kind in [FrameKind::Hello, FrameKind::Packets, FrameKind::SnapshotChunk, FrameKind::Keepalive] {
        let mut header = encode_frame(kind, |_| {});
        header[8..12].copy_from_slice(&(kind.payload_bytes_max() as u32 + 1).to_le_bytes());
        let crc = crc32c::crc32c(&header[..16]);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        let len = kind.payload_bytes_max() + 1;
        assert_eq!(read_frames(&header, usize::MAX), Err(FrameError::TooLong { kind, len }));
    }
}

#[test]
fn before_the_hello_nothing_longer_than_a_hello_is_allocated() {
    let kinds = (0..=u8::MAX).filter_map(FrameKind::from_byte);
    for kind in kinds {
        let mut reader = FrameReader::new();
        let frame = encode_frame(kind, |_| {});
        reader.buffer()[..frame.len()].copy_from_slice(&frame);
        reader.filled(frame.len());
        if kind.is_of_hello() {
            assert!(reader.next_frame().expect("a good frame").is_some(), "{kind:?}");
            assert!(kind.payload_bytes_max() <= 161 << 10, "{kind:?}");
        } else {
            assert_eq!(reader.next_frame(), Err(FrameError::BeforeHello(kind)));
        }
    }
}

#[test]
fn a_reader_knows_whether_it_is_inside_a_frame() {
    let bytes = frame_of(&packets());
    let mut reader = FrameReader::new();
    reader.hello_is_done();
    assert!(!reader.is_inside_frame());
    reader.buffer()[..bytes.len() - 1].copy_from_slice(&bytes[..bytes.len() - 1]);
    reader.filled(bytes.len() - 1);
    assert_eq!(reader.next_frame(), Ok(None));
    assert!(reader.is_inside_frame());
    reader.buffer()[0] = bytes[bytes.len() - 1];
    reader.filled(1);
    assert!(reader.next_frame().expect("a good frame").is_some());
    assert!(!reader.is_inside_frame());
}

#[test]
fn a_frame_for_other_nodes_is_refused() {
    let frame = read_frames(&frame_of(&packets()), usize::MAX).expect("good").remove(0);
    assert!(PacketReader::new(&frame.payload, node(1), node(2)).is_ok());
    assert!(PacketReader::new(&frame.payload, node(1), node(3)).is_err());
    assert!(PacketReader::new(&frame.payload, node(3), node(2)).is_err());
}

#[test]
fn what_the_format_cannot_say_is_not_pushed() {
    let mut builder = FrameBuilder::new(node(1), node(2));
    let mut elsewhere = message(Body::TimeoutNow);
    elsewhere.to = ReplicaId::new(0, node(3));
    assert_eq!(push(&mut builder, &raft(elsewhere)), Err(PushError::Misaddressed));
    let gap = Body::Append {
        prev: LogPosition { index: 7, term: 5 },
        entries: vec![entry(9, EntryKind::Commands, "x")],
        commit: 0,
        matched: 0,
    };
    assert_eq!(push(&mut builder, &raft(message(gap))), Err(PushError::Gap));
    let body = Payload::from(vec![0; BODY_BYTES_MAX + 1]);
    assert_eq!(push(&mut builder, &Packet::Response(Response { id: 1, body })), Err(PushError::TooLong));
    assert!(builder.is_empty());
    assert_eq!(builder.finish(), None);
}

#[test]
fn a_full_frame_says_so_and_the_next_one_takes_the_packet() {
    let mut builder = FrameBuilder::new(node(1), node(2));
    let body = Payload::from(vec![1; BODY_BYTES_MAX]);
    let large =
        Packet::Request(Request { id: 1, kind: RequestKind::KV_READ, hops: 0, remaining_ms: 1, body });
    assert_eq!(push(&mut builder, &large), Ok(()));
    let before = builder.len();
    assert_eq!(push(&mut builder, &large), Err(PushError::Full));
    assert_eq!(builder.len(), before);
    let frame = builder.finish().expect("a frame");
    assert!(frame.len() <= FRAME_BYTES_MAX && frame.len() > FRAME_HEADER_BYTES + BODY_BYTES_MAX);
    assert_eq!(push(&mut builder, &large), Ok(()));
}

#[test]
fn a_frame_has_a_number_of_packets_and_entries() {
    let small = Packet::Response(Response { id: 1, body: Payload::default() });
    let entry = |index| Entry { index, term: 5, kind: EntryKind::Empty, payload: Payload::default() };
    let entries = (1..=FRAME_BYTES_MAX as u64 / 64).map(entry).collect();
    let prev = LogPosition { index: 0, term: 5 };
    let append = raft(message(Body::Append { prev, entries, commit: 0, matched: 0 }));
    for (packet, fit) in [(&small, FRAME_PACKETS_MAX), (&append, 1)] {
        let mut builder = FrameBuilder::new(node(1), node(2));
        assert_eq!((0..fit).map(|_| push(&mut builder, packet)).find(Result::is_err), None);
        let before = builder.len();
        assert_eq!(push(&mut builder, packet), Err(PushError::Full));
        assert_eq!(builder.len(), before);
        let full = builder.finish().expect("a frame");
        assert_eq!(push(&mut builder, packet), Ok(()), "the next one takes it");
        let full = Payload::copy_from(&full[FRAME_HEADER_BYTES..]);
        assert_eq!(read_packets(&full).map(|packets| packets.len()), Some(fit));
        // One more than anybody writes.
        let more = builder.finish().expect("a frame");
        let more = [&full[..], &more[FRAME_HEADER_BYTES + 16..]].concat();
        assert_eq!(read_packets(&more.into()), None);
    }
}

#[test]
fn the_largest_entry_fits_an_empty_frame() {
    let payload = Payload::from(vec![2; ENTRY_BYTES_MAX]);
    let entries = vec![Entry { index: u64::MAX, term: u64::MAX, kind: EntryKind::Commands, payload }];
    let prev = LogPosition { index: u64::MAX - 1, term: u64::MAX };
    let mut append = message(Body::Append { prev, entries, commit: u64::MAX, matched: u64::MAX });
    append.term = u64::MAX;
    append.from = ReplicaId::new(u16::MAX, node(1));
    append.to = ReplicaId::new(u16::MAX, node(2));
    let packet = Packet::Raft { group: GroupId::CONTROL, uid: UID, message: append };
    let frames = read_frames(&frame_of(std::slice::from_ref(&packet)), usize::MAX).expect("good");
    assert_eq!(read_packets(&frames[0].payload), Some(vec![packet]));
}

#[test]
fn an_append_cannot_claim_more_entries_than_it_has_bytes() {
    let append =
        Body::Append { prev: LogPosition { index: 7, term: 5 }, entries: Vec::new(), commit: 0, matched: 0 };
    let frame = read_frames(&frame_of(&[raft(message(append))]), usize::MAX).expect("good").remove(0);
    let mut payload = frame.payload.to_vec();
    assert_eq!(payload.pop(), Some(0), "the count is the last field of an empty append");
    payload.extend([0xff, 0xff, 0x07]);
    assert_eq!(read_packets(&payload.into()), None);
}
