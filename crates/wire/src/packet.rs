// SPDX-License-Identifier: Apache-2.0

//! What a frame of messages carries: packets between two nodes, written by a [`FrameBuilder`], read by a [`PacketReader`].
//!
//! All packets of a frame go from one node to one node. The frame says which, both ends compare it with whom they talk to,
//! and the replica ids inside need only their generations.

use std::fmt;

use mraft_raft::Message;
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{ENTRY_BYTES_MAX, FRAME_BYTES_MAX};
use mraft_types::{GroupId, GroupUid, NodeId, Payload};

use crate::fields::{node, shared_bytes};
use crate::frame::{FRAME_HEADER_BYTES, FrameKind, seal};
use crate::message;

/// Longest body of a request or a response.
pub const BODY_BYTES_MAX: usize = ENTRY_BYTES_MAX;

/// Most packets of one frame: several times the signs of life of ten thousand groups. It keeps packets of three bytes, of which a frame
/// has room for millions, from becoming many times their size in memory.
pub const FRAME_PACKETS_MAX: usize = 1 << 16;

/// One thing that a node says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A message between two replicas of a group.
    Raft {
        /// The group.
        group: GroupId,
        /// Its founding (rule M4).
        uid: GroupUid,
        /// The message.
        message: Message,
    },
    /// A sign of life of the host.
    HostBeat(HostBeat),
    /// A question to the host.
    Request(Request),
    /// The answer to one.
    Response(Response),
}

/// What a host says of itself with each round of heartbeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostBeat {
    /// Number of its last durable log batch (rule M7).
    pub durable_seq: u64,
    /// For how long its log or a state machine has kept callers waiting, in milliseconds (rule T1).
    pub disk_age_ms: u64,
    /// Its clock, in milliseconds since 1970 (rule E1).
    pub unix_ms: u64,
}

/// A question that one host asks another, on behalf of a client or of itself (rules E4, R3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the asker, unique among its unanswered ones.
    pub id: u64,
    /// What is asked.
    pub kind: RequestKind,
    /// How often the client's request was passed on before.
    pub hops: u8,
    /// Time that is left for it.
    pub remaining_ms: u32,
    /// The question; belongs to the host.
    pub body: Payload,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's.
    pub id: u64,
    /// The answer; belongs to the host.
    pub body: Payload,
}

/// What a [`Request`] asks. A kind that is not among the constants comes from a newer build; the host answers it as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestKind(pub u8);

impl RequestKind {
    /// Reads a key; may always be sent again.
    pub const KV_READ: RequestKind = RequestKind(1);
    /// Changes a key; sent again only when nothing was applied or no byte had left (rule E4).
    pub const KV_WRITE: RequestKind = RequestKind(2);
    /// Asks the leader of a group for a read index (rule R3).
    pub const READ_INDEX: RequestKind = RequestKind(3);
    /// Reads or changes a membership.
    pub const MEMBERSHIP: RequestKind = RequestKind(4);
    /// Asks how a node or a group is.
    pub const STATUS: RequestKind = RequestKind(5);
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RequestKind::KV_READ => f.write_str("read"),
            RequestKind::KV_WRITE => f.write_str("write"),
            RequestKind::READ_INDEX => f.write_str("read index"),
            RequestKind::MEMBERSHIP => f.write_str("membership"),
            RequestKind::STATUS => f.write_str("status"),
            RequestKind(kind) => write!(f, "kind {kind}"),
        }
    }
}

/// Why a packet was not taken into a frame. The frame is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PushError {
    /// It does not fit any more: finish this frame and push it into the next. Never said by an empty frame.
    Full,
    /// It breaks a bound of its own and fits no frame.
    TooLong,
    /// A message from or to a replica of another node than the frame's.
    Misaddressed,
    /// Entries of an append that do not follow one another.
    Gap,
}

impl fmt::Display for PushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PushError::Full => "the frame is full",
            PushError::TooLong => "the packet is longer than any frame may be",
            PushError::Misaddressed => "the packet is not for this frame's nodes",
            PushError::Gap => "the entries of the append do not follow one another",
        })
    }
}

impl std::error::Error for PushError {}

/// Collects packets from one node to one node into frames. Payloads are copied once, into the frame.
#[derive(Debug)]
pub struct FrameBuilder {
    from: NodeId,
    to: NodeId,
    bytes: Vec<u8>,
    packets: usize,
    /// Of all appends together.
    entries: usize,
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new(from: NodeId, to: NodeId) -> FrameBuilder {
        FrameBuilder::reusing(from, to, Vec::new())
    }

    /// An empty frame in memory that was used before.
    pub fn reusing(from: NodeId, to: NodeId, mut buffer: Vec<u8>) -> FrameBuilder {
        buffer.clear();
        FrameBuilder { from, to, bytes: buffer, packets: 0, entries: 0 }
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the frame so far, header included; 0 when it is empty. Callers close a frame when this passes their target.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes a message between replicas of the two nodes.
    pub fn push_raft(&mut self, group: GroupId, uid: GroupUid, message: &Message) -> Result<(), PushError> {
        if message.from.node() != self.from || message.to.node() != self.to {
            return Err(PushError::Misaddressed);
        }
        message::check(message)?;
        let entries = message::entries(message);
        self.push(message::encoded_len_max(message), entries, |bytes| {
            message::encode(group, uid, message, bytes);
        })
    }

    /// Takes a sign of life.
    pub fn push_host_beat(&mut self, beat: &HostBeat) -> Result<(), PushError> {
        self.push(1 + 3 * VARINT_BYTES_MAX, 0, |bytes| {
            bytes.put_u8(TAG_HOST_BEAT);
            bytes.put_varint(beat.durable_seq);
            bytes.put_varint(beat.disk_age_ms);
            bytes.put_varint(beat.unix_ms);
        })
    }

    /// Takes a question.
    pub fn push_request(&mut self, request: &Request) -> Result<(), PushError> {
        if request.body.len() > BODY_BYTES_MAX {
            return Err(PushError::TooLong);
        }
        self.push(3 + 3 * VARINT_BYTES_MAX + request.body.len(), 0, |bytes| {
            bytes.put_u8(TAG_REQUEST);
            bytes.put_varint(request.id);
            bytes.put_u8(request.kind.0);
            bytes.put_u8(request.hops);
            bytes.put_varint(u64::from(request.remaining_ms));
            bytes.put_bytes(&request.body);
        })
    }

    /// Takes an answer.
    pub fn push_response(&mut self, response: &Response) -> Result<(), PushError> {
        if response.body.len() > BODY_BYTES_MAX {
            return Err(PushError::TooLong);
        }
        self.push(1 + 2 * VARINT_BYTES_MAX + response.body.len(), 0, |bytes| {
            bytes.put_u8(TAG_RESPONSE);
            bytes.put_varint(response.id);
            bytes.put_bytes(&response.body);
        })
    }

    /// The frame with its header, or `None` when nothing was pushed. The builder is empty afterwards.
    pub fn finish(&mut self) -> Option<Vec<u8>> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut frame = std::mem::take(&mut self.bytes);
        (self.packets, self.entries) = (0, 0);
        seal(FrameKind::Packets, &mut frame);
        Some(frame)
    }

    fn push(
        &mut self,
        len_max: usize,
        entries: usize,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), PushError> {
        let before = self.bytes.len().max(PACKETS_START);
        if self.packets == FRAME_PACKETS_MAX || self.entries + entries > ENTRIES_MAX {
            return Err(PushError::Full);
        }
        if before + len_max > FRAME_BYTES_MAX {
            return Err(if before == PACKETS_START { PushError::TooLong } else { PushError::Full });
        }
        self.bytes.reserve(before - self.bytes.len() + len_max);
        if self.bytes.is_empty() {
            self.bytes.resize(FRAME_HEADER_BYTES, 0);
            self.bytes.put_u64(self.from.get());
            self.bytes.put_u64(self.to.get());
        }
        encode(&mut self.bytes);
        self.packets += 1;
        self.entries += entries;
        debug_assert!(self.bytes.len() <= before + len_max);
        Ok(())
    }
}

/// Reads the packets of one frame, in order. Ends after the first error.
#[derive(Debug)]
pub struct PacketReader<'a> {
    payload: &'a Payload,
    reader: Reader<'a>,
    from: NodeId,
    to: NodeId,
    packets: usize,
    /// Of all appends together.
    entries: usize,
}

impl<'a> PacketReader<'a> {
    /// Reads the payload of a frame that came from `from`, whose hello says so, to this node.
    pub fn new(payload: &'a Payload, from: NodeId, to: NodeId) -> Result<PacketReader<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        for (field, expected) in [("packets.from", from), ("packets.to", to)] {
            let found = node(&mut reader, field)?;
            if found != expected {
                return Err(DecodeError::Invalid(field, found.get()));
            }
        }
        Ok(PacketReader { payload, reader, from, to, packets: 0, entries: 0 })
    }

    fn packet(&mut self) -> Result<Packet, DecodeError> {
        self.packets += 1;
        if self.packets > FRAME_PACKETS_MAX {
            return Err(DecodeError::TooLong("frame.packets", self.packets as u64));
        }
        let packet = self.next_packet()?;
        if let Packet::Raft { message, .. } = &packet {
            self.entries += message::entries(message);
        }
        match self.entries > ENTRIES_MAX {
            true => Err(DecodeError::TooLong("frame.entries", self.entries as u64)),
            false => Ok(packet),
        }
    }

    fn next_packet(&mut self) -> Result<Packet, DecodeError> {
        let reader = &mut self.reader;
        Ok(match reader.u8("packet.tag")? {
            TAG_HOST_BEAT => Packet::HostBeat(HostBeat {
                durable_seq: reader.varint("beat.durable_seq")?,
                disk_age_ms: reader.varint("beat.disk_age_ms")?,
                unix_ms: reader.varint("beat.unix_ms")?,
            }),
            TAG_REQUEST => Packet::Request(Request {
                id: reader.varint("request.id")?,
                kind: RequestKind(reader.u8("request.kind")?),
                hops: reader.u8("request.hops")?,
                remaining_ms: reader.bounded("request.remaining_ms", u32::MAX as usize)? as u32,
                body: shared_bytes(reader, self.payload, "request.body", BODY_BYTES_MAX)?,
            }),
            TAG_RESPONSE => Packet::Response(Response {
                id: reader.varint("response.id")?,
                body: shared_bytes(reader, self.payload, "response.body", BODY_BYTES_MAX)?,
            }),
            tag => message::decode(tag, reader, self.payload, self.from, self.to)?,
        })
    }
}

impl Iterator for PacketReader<'_> {
    type Item = Result<Packet, DecodeError>;

    fn next(&mut self) -> Option<Result<Packet, DecodeError>> {
        if self.reader.remaining() == 0 {
            return None;
        }
        let packet = self.packet();
        if packet.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(packet)
    }
}

const TAG_HOST_BEAT: u8 = 0x20;
const TAG_REQUEST: u8 = 0x30;
const TAG_RESPONSE: u8 = 0x31;

/// Header and the two node ids.
const PACKETS_START: usize = FRAME_HEADER_BYTES + 16;

pub(crate) const VARINT_BYTES_MAX: usize = 10;

/// Most entries of one frame: as many as one append may have.
const ENTRIES_MAX: usize = message::APPEND_ENTRIES_MAX;

// Anything within its own bound fits an empty frame, so that `Full` always ends with the next one.
const _: () = assert!(PACKETS_START + 64 + 8 * VARINT_BYTES_MAX + ENTRY_BYTES_MAX < FRAME_BYTES_MAX);
