// SPDX-License-Identifier: Apache-2.0

//! Bytes between nodes: frames, the packets in them, the hello that comes first, and snapshot streams. Every byte is
//! documented in `docs/formats/wire.md`.
//!
//! Reading is the dangerous half. A frame's header is checked before its length is believed and its payload before it is
//! parsed ([`frame`]); packets are then read off the payload one by one ([`packet`]). The payload of a log entry that is a large
//! part of its frame shares the frame's buffer, a small one is copied out ([`HELD_TIMES_SIZE_MAX`]). What two nodes must agree on before they talk is decided in [`hello`], as a
//! function of the two hellos and of what the node remembers.
//!
//! Invariant: this crate knows no socket, thread, clock or random source, and nothing of the groups whose messages it carries.

#![forbid(unsafe_code)]

mod fields;
pub mod frame;
pub mod hello;
mod message;
pub mod packet;
pub mod refusal;
pub mod snapshot;
pub mod starts;

pub use fields::HELD_TIMES_SIZE_MAX;
pub use frame::{FRAME_HEADER_BYTES, Frame, FrameError, FrameKind, FrameReader, encode_frame};
pub use hello::{
    Accepted, Expected, Hello, HelloConfirm, HelloField, HelloReply, PeerRecord, Purpose, TopologyRelation,
    TopologyStamp, VersionRange, WIRE_VERSION, check, node_host_id,
};
pub use packet::{FrameBuilder, HostBeat, Packet, PacketReader, PushError, Request, RequestKind, Response};
pub use refusal::HelloRefused;
pub use snapshot::{
    SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_TARGET, SNAPSHOT_META_BYTES_MAX, SnapshotChunk,
    SnapshotEnd, SnapshotHeader, SnapshotReply, SnapshotSum, StreamError,
};
pub use starts::{STARTS_BYTES_MAX, STARTS_MAX, Start, Starts};

/// Why bytes from a peer were refused; names the field as `docs/formats/wire.md` does.
pub use mraft_types::codec::DecodeError;
