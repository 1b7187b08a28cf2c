// SPDX-License-Identifier: Apache-2.0

//! Between a turn's messages and frames.

use mraft_engine::event::Event;
use mraft_types::{GroupId, NodeId, Payload};
use mraft_wire::{DecodeError, FrameBuilder, HostBeat, Packet, PacketReader, PushError, Request, Response};

use crate::core::{Envelope, Input};

/// What else a peer may say beside Raft messages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FromHost {
    Beat(HostBeat),
    Request(Request),
    Response(Response),
}

/// A turn's messages for one node, in as few frames as they fit. Messages that no frame takes are left out and counted: the core
/// never makes one that large from entries within their limits.
pub(crate) fn encode(
    from: NodeId,
    to: NodeId,
    messages: &[Envelope],
    mut frame: impl FnMut(Vec<u8>),
) -> usize {
    let mut builder = FrameBuilder::new(from, to);
    let mut left_out = 0;
    for Envelope { group, uid, message } in messages {
        let mut pushed = builder.push_raft(*group, *uid, message);
        if pushed == Err(PushError::Full) {
            if let Some(bytes) = builder.finish() {
                frame(bytes);
            }
            pushed = builder.push_raft(*group, *uid, message);
        }
        left_out += usize::from(pushed.is_err());
    }
    if let Some(bytes) = builder.finish() {
        frame(bytes);
    }
    left_out
}

/// Raft messages for their groups, and what one host says to the other.
pub(crate) type Decoded = (Vec<(GroupId, Input)>, Vec<FromHost>);

/// Everything in a frame from `from`: Raft messages as inputs of their groups, the rest apart. A frame that does not decode to its
/// end is refused whole: its sender is broken or of another version.
pub(crate) fn decode(payload: &Payload, from: NodeId, to: NodeId) -> Result<Decoded, DecodeError> {
    let mut inputs = Vec::new();
    let mut others = Vec::new();
    for packet in PacketReader::new(payload, from, to)? {
        match packet? {
            Packet::Raft { group, uid, message } => {
                inputs.push((group, Input::Group(group, Event::Message { uid, message })));
            }
            Packet::HostBeat(beat) => others.push(FromHost::Beat(beat)),
            Packet::Request(request) => others.push(FromHost::Request(request)),
            Packet::Response(response) => others.push(FromHost::Response(response)),
        }
    }
    Ok((inputs, others))
}
