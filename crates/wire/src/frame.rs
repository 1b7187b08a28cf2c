// SPDX-License-Identifier: Apache-2.0

//! Frames: a checked header, a checked payload. The header is verified before its length is believed, the length against
//! the bound of its kind before anything is allocated, the payload before anything of it is parsed.

use std::fmt;

use mraft_types::Payload;
use mraft_types::limits::FRAME_BYTES_MAX;

use crate::hello::HELLO_BYTES_MAX;
use crate::refusal::REFUSAL_BYTES_MAX;
use crate::snapshot::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_HEADER_BYTES_MAX, SNAPSHOT_REPLY_BYTES_MAX};

/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 20;

/// What a frame carries. The numbers are sent; never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// [`crate::Hello`], the first frame of a connection.
    Hello = 1,
    /// [`crate::HelloReply`].
    HelloReply = 2,
    /// [`crate::HelloConfirm`].
    HelloConfirm = 3,
    /// [`crate::Packet`]s.
    Packets = 4,
    /// [`crate::SnapshotHeader`].
    SnapshotHeader = 5,
    /// [`crate::SnapshotChunk`].
    SnapshotChunk = 6,
    /// [`crate::SnapshotEnd`].
    SnapshotEnd = 7,
    /// [`crate::SnapshotReply`].
    SnapshotReply = 8,
    /// Nothing; keeps a quiet connection from being taken for a dead one.
    Keepalive = 9,
}

impl FrameKind {
    /// The kind behind a number from the wire.
    pub fn from_byte(byte: u8) -> Option<FrameKind> {
        Some(match byte {
            1 => FrameKind::Hello,
            2 => FrameKind::HelloReply,
            3 => FrameKind::HelloConfirm,
            4 => FrameKind::Packets,
            5 => FrameKind::SnapshotHeader,
            6 => FrameKind::SnapshotChunk,
            7 => FrameKind::SnapshotEnd,
            8 => FrameKind::SnapshotReply,
            9 => FrameKind::Keepalive,
            _ => return None,
        })
    }

    /// Whether it belongs to the hello, before which nobody is known.
    pub const fn is_of_hello(self) -> bool {
        matches!(self, FrameKind::Hello | FrameKind::HelloReply | FrameKind::HelloConfirm)
    }

    /// Longest payload of this kind: what a peer can make this node allocate with one frame.
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            FrameKind::Hello => HELLO_BYTES_MAX,
            FrameKind::HelloReply | FrameKind::HelloConfirm => HELLO_BYTES_MAX + 64,
            FrameKind::Packets => FRAME_BYTES_MAX - FRAME_HEADER_BYTES,
            FrameKind::SnapshotHeader => SNAPSHOT_HEADER_BYTES_MAX,
            FrameKind::SnapshotChunk => SNAPSHOT_CHUNK_BYTES_MAX + 8,
            FrameKind::SnapshotEnd => 64,
            FrameKind::SnapshotReply => SNAPSHOT_REPLY_BYTES_MAX,
            FrameKind::Keepalive => 0,
        }
    }
}

// Every kind fits the largest frame, and a refusal fits where a hello does.
const _: () = assert!(SNAPSHOT_CHUNK_BYTES_MAX + 8 + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX);
const _: () = assert!(SNAPSHOT_HEADER_BYTES_MAX + FRAME_HEADER_BYTES <= FRAME_BYTES_MAX);
const _: () = assert!(REFUSAL_BYTES_MAX <= HELLO_BYTES_MAX);

/// A frame that arrived whole and unharmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// The bytes; slices of it share its memory.
    pub payload: Payload,
}

/// Why the bytes of a connection are not frames. Nothing after such bytes can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// These are not the first bytes of a frame: something else speaks here.
    Magic([u8; 4]),
    /// The header's checksum is wrong.
    HeaderChecksum,
    /// A framing version that this build does not know.
    Version(u16),
    /// A kind that this build does not know.
    Kind(u8),
    /// Flags that this build does not know.
    Flags(u8),
    /// A kind that has no place before the hello is done.
    BeforeHello(FrameKind),
    /// The payload is longer than its kind allows.
    TooLong {
        /// The kind.
        kind: FrameKind,
        /// The length in the header.
        len: usize,
    },
    /// The payload's checksum is wrong.
    PayloadChecksum(FrameKind),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::Magic(bytes) => {
                write!(f, "not a frame: it starts with \"{}\"", bytes.as_slice().escape_ascii())
            }
            FrameError::HeaderChecksum => f.write_str("the frame header is damaged"),
            FrameError::Version(version) => {
                write!(f, "framing version {version}; this build knows {FRAMING_VERSION}")
            }
            FrameError::Kind(kind) => write!(f, "frame kind {kind}, which this build does not know"),
            FrameError::Flags(flags) => write!(f, "frame flags {flags:#x}, which this build does not know"),
            FrameError::BeforeHello(kind) => write!(f, "a {kind:?} frame before the hello was done"),
            FrameError::TooLong { kind, len } => {
                write!(f, "a {kind:?} frame of {len} bytes; at most {} are allowed", kind.payload_bytes_max())
            }
            FrameError::PayloadChecksum(kind) => write!(f, "a {kind:?} frame is damaged"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Turns the bytes of a connection into frames: fill [`FrameReader::buffer`], say how much with [`FrameReader::filled`], take
/// frames with [`FrameReader::next_frame`] until there is none.
///
/// Small frames pass through a fixed staging area, so that one read brings many; the rest of a large one is read straight
/// into its own buffer. Holds at most the staging area and one frame; until [`FrameReader::hello_is_done`] that is one of a hello,
/// so that strangers get no more memory than a hello needs.
#[derive(Debug)]
pub struct FrameReader {
    hello_is_done: bool,
    staging: Vec<u8>,
    start: usize,
    end: usize,
    partial: Option<Partial>,
}

/// A payload whose end has not arrived.
#[derive(Debug)]
struct Partial {
    header: Header,
    payload: Vec<u8>,
    filled: usize,
}

impl Default for FrameReader {
    fn default() -> FrameReader {
        FrameReader::new()
    }
}

impl FrameReader {
    /// A reader at the start of a connection.
    pub fn new() -> FrameReader {
        FrameReader { hello_is_done: false, staging: vec![0; STAGING_BYTES], start: 0, end: 0, partial: None }
    }

    /// Both sides accepted the other's hello: from here on every kind of frame is taken.
    pub fn hello_is_done(&mut self) {
        self.hello_is_done = true;
    }

    /// Where the next bytes of the connection belong. Never empty once [`FrameReader::next_frame`] answered `None`.
    pub fn buffer(&mut self) -> &mut [u8] {
        match &mut self.partial {
            Some(partial) => &mut partial.payload[partial.filled..],
            None => {
                if self.start > 0 {
                    self.staging.copy_within(self.start..self.end, 0);
                    self.end -= self.start;
                    self.start = 0;
                }
                &mut self.staging[self.end..]
            }
        }
    }

    /// The first `len` bytes of [`FrameReader::buffer`] were filled.
    pub fn filled(&mut self, len: usize) {
        match &mut self.partial {
            Some(partial) => partial.filled = (partial.filled + len).min(partial.payload.len()),
            None => self.end = (self.end + len).min(self.staging.len()),
        }
    }

    /// Whether bytes of an unfinished frame are here: an end of the connection now cuts it off.
    pub fn is_inside_frame(&self) -> bool {
        self.partial.is_some() || self.start < self.end
    }

    /// The next whole frame, `None` when more bytes are needed. After an error the connection is of no use any more.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.partial.is_none() {
            let staged = &self.staging[self.start..self.end];
            let Some((header, rest)) = staged.split_first_chunk::<FRAME_HEADER_BYTES>() else {
                return Ok(None);
            };
            let header = Header::decode(header)?;
            if !self.hello_is_done && !header.kind.is_of_hello() {
                return Err(FrameError::BeforeHello(header.kind));
            }
            let filled = header.len.min(rest.len());
            let mut payload = vec![0; header.len];
            payload[..filled].copy_from_slice(&rest[..filled]);
            self.start += FRAME_HEADER_BYTES + filled;
            self.partial = Some(Partial { header, payload, filled });
        }
        match self.partial.take() {
            Some(partial) if partial.filled == partial.payload.len() => {
                if crc32c::crc32c(&partial.payload) != partial.header.payload_crc {
                    return Err(FrameError::PayloadChecksum(partial.header.kind));
                }
                Ok(Some(Frame { kind: partial.header.kind, payload: partial.payload.into() }))
            }
            unfinished => {
                self.partial = unfinished;
                Ok(None)
            }
        }
    }
}

/// A whole frame around a payload that `fill` appends, which must fit its kind; used for everything but packets.
pub fn encode_frame(kind: FrameKind, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_HEADER_BYTES];
    fill(&mut bytes);
    seal(kind, &mut bytes);
    bytes
}

/// Writes the header over the first bytes of a finished frame.
pub(crate) fn seal(kind: FrameKind, frame: &mut [u8]) {
    let Some((header, payload)) = frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>() else { return };
    debug_assert!(payload.len() <= kind.payload_bytes_max(), "{kind:?} of {} bytes", payload.len());
    header[0..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&FRAMING_VERSION.to_le_bytes());
    header[6] = kind as u8;
    header[7] = 0;
    header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let header_crc = crc32c::crc32c(&header[..16]);
    header[16..20].copy_from_slice(&header_crc.to_le_bytes());
}

#[derive(Clone, Copy, Debug)]
struct Header {
    kind: FrameKind,
    len: usize,
    payload_crc: u32,
}

impl Header {
    /// The magic comes first, so that a browser on the wrong port is told from a damaged frame.
    fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Header, FrameError> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = word(0).to_le_bytes();
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        if crc32c::crc32c(&bytes[..16]) != word(16) {
            return Err(FrameError::HeaderChecksum);
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != FRAMING_VERSION {
            return Err(FrameError::Version(version));
        }
        let kind = FrameKind::from_byte(bytes[6]).ok_or(FrameError::Kind(bytes[6]))?;
        if bytes[7] != 0 {
            return Err(FrameError::Flags(bytes[7]));
        }
        let len = word(8) as usize;
        if len > kind.payload_bytes_max() {
            return Err(FrameError::TooLong { kind, len });
        }
        Ok(Header { kind, len, payload_crc: word(12) })
    }
}

const MAGIC: [u8; 4] = *b"mRft";
const FRAMING_VERSION: u16 = 1;

/// Read at once from a connection; frames that fit are copied out of it once.
const STAGING_BYTES: usize = 64 << 10;
