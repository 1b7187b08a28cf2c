// SPDX-License-Identifier: Apache-2.0

//! The bytes of a connection, against a reader that has all of them at once.
//!
//! ```text
//! input := mode:u8  stream (the rest)
//! mode  := bit 0: checksums are made right   bit 1: the hello is done from the beginning   bit 2: it is done after the first frame
//!          bits 3 to 7: how many bytes come at once
//! ```

use mraft_types::limits::FRAME_BYTES_MAX;
use mraft_wire::hello::HELLO_BYTES_MAX;
use mraft_wire::{
    FRAME_HEADER_BYTES, Frame, FrameBuilder, FrameKind, FrameReader, HelloConfirm, HelloReply, encode_frame,
};

use super::messages::push;
use super::samples;
use crate::memory::bounded;
use crate::target::{Said, Shape, Target};

pub const FRAMES: Target = Target {
    name: "frames",
    about: "wire: the frames of a connection, before and after the hello",
    run,
    seeds,
    words: || {
        vec![
            b"mRft\x01\x00",
            b"mRft\x01\x00\x09\x00\x00\x00\x00\x00",
            b"\x00\x00\x80\x00",
            b"\xec\xff\x7f\x00",
        ]
    },
    shape: Shape::Bytes,
    bytes_max: 1024,
    cost: 1,
};

const RIGHT: u8 = 1;
const DONE: u8 = 2;
const DONE_AFTER_FIRST: u8 = 4;

/// What was read of a stream, and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    frames: Vec<Frame>,
    is_refused: bool,
    is_inside: bool,
}

fn run(input: &[u8]) -> Said {
    let Some((mode, stream)) = input.split_first() else { return Said::Refused };
    let mut stream = stream.to_vec();
    if mode & RIGHT != 0 {
        seal(&mut stream);
    }
    // A stranger's frame is a hello; a peer's may be as long as the longest.
    let frame_bytes_max =
        if mode & (DONE | DONE_AFTER_FIRST) == 0 { HELLO_BYTES_MAX + 64 } else { FRAME_BYTES_MAX };
    let allowed = STAGING_BYTES + frame_bytes_max + 64 * stream.len() + 4096;
    let read = bounded("a reader of frames", allowed, || read(*mode, &stream));
    let twin = twin(*mode, &stream);
    assert_eq!(read, twin, "the reader and its twin do not agree");
    for frame in &read.frames {
        assert!(frame.payload.len() <= frame.kind.payload_bytes_max());
    }
    let written: Vec<u8> = read
        .frames
        .iter()
        .flat_map(|frame| encode_frame(frame.kind, |out| out.extend_from_slice(&frame.payload)))
        .collect();
    assert!(stream.starts_with(&written), "frames that were read are not written as they came");
    Said::of(!read.frames.is_empty())
}

/// What a connection reads at once.
const STAGING_BYTES: usize = 64 << 10;

fn read(mode: u8, mut stream: &[u8]) -> Read {
    let piece = match mode >> 3 {
        0 => usize::MAX,
        piece => usize::from(piece),
    };
    let mut reader = FrameReader::new();
    if mode & DONE != 0 {
        reader.hello_is_done();
    }
    let mut frames = Vec::new();
    loop {
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    frames.push(frame);
                    if mode & DONE_AFTER_FIRST != 0 {
                        reader.hello_is_done();
                    }
                }
                Ok(None) => break,
                Err(_) => return Read { frames, is_refused: true, is_inside: false },
            }
        }
        if stream.is_empty() {
            return Read { frames, is_refused: false, is_inside: reader.is_inside_frame() };
        }
        let buffer = reader.buffer();
        assert!(!buffer.is_empty(), "there is no room for the next bytes");
        let len = buffer.len().min(piece).min(stream.len());
        buffer[..len].copy_from_slice(&stream[..len]);
        reader.filled(len);
        stream = &stream[len..];
    }
}

/// The same by the document alone (`docs/formats/wire.md`).
fn twin(mode: u8, mut stream: &[u8]) -> Read {
    let mut frames = Vec::new();
    loop {
        let refused = |frames| Read { frames, is_refused: true, is_inside: false };
        let Some((header, rest)) = stream.split_at_checked(FRAME_HEADER_BYTES) else {
            return Read { frames, is_refused: false, is_inside: !stream.is_empty() };
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let is_header = header.starts_with(b"mRft\x01\x00")
            && header[7] == 0
            && word(16) == crc32c::crc32c(&header[..16]);
        let Some(kind) = FrameKind::from_byte(header[6]).filter(|_| is_header) else {
            return refused(frames);
        };
        let is_done = mode & DONE != 0 || mode & DONE_AFTER_FIRST != 0 && !frames.is_empty();
        let len = word(8) as usize;
        if !is_done && !(1..=3).contains(&header[6]) || len > kind.payload_bytes_max() {
            return refused(frames);
        }
        let Some((payload, behind)) = rest.split_at_checked(len) else {
            return Read { frames, is_refused: false, is_inside: true };
        };
        if word(12) != crc32c::crc32c(payload) {
            return refused(frames);
        }
        frames.push(Frame { kind, payload: payload.to_vec().into() });
        stream = behind;
    }
}

/// Makes the checksums right of every frame that is there, as far as the lengths lead.
pub fn seal(stream: &mut [u8]) {
    let mut at = 0;
    while let Some(frame) = stream.get_mut(at..) {
        let Some((header, rest)) = frame.split_at_mut_checked(FRAME_HEADER_BYTES) else { return };
        let len = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        if let Some(payload) = rest.get(..len) {
            header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        }
        let crc = crc32c::crc32c(&header[..16]).to_le_bytes();
        header[16..20].copy_from_slice(&crc);
        at = at.saturating_add(FRAME_HEADER_BYTES).saturating_add(len);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut packets = FrameBuilder::new(samples::node(1), samples::node(2));
    for packet in samples::packets().iter().take(3) {
        push(&mut packets, packet);
    }
    let packets = packets.finish().unwrap_or_default();
    let hello = encode_frame(FrameKind::Hello, |out| samples::hello(1, 2).encode(out));
    let accepted =
        HelloReply::Accepted { version: 1, feature_level: 1, hello: Box::new(samples::hello(2, 1)) };
    let reply = encode_frame(FrameKind::HelloReply, |out| accepted.encode(out));
    let confirm = encode_frame(FrameKind::HelloConfirm, |out| HelloConfirm::Accepted.encode(out));
    let keepalive = encode_frame(FrameKind::Keepalive, |_| {});
    let chunk = encode_frame(FrameKind::SnapshotChunk, |out| out.extend_from_slice(b"12345678data"));
    let stream = |mode: u8, frames: &[&[u8]]| [&[mode][..], &frames.concat()].concat();
    vec![
        stream(0, &[&hello, &confirm]),
        stream(RIGHT | 7 << 3, &[&reply]),
        stream(RIGHT | DONE, &[&packets, &keepalive, &keepalive]),
        stream(DONE | 3 << 3, &[&packets, &packets]),
        stream(RIGHT | DONE_AFTER_FIRST, &[&hello, &packets, &chunk]),
    ]
}
