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

/// Everything in a frame from `from`: Raft messages as inputs of their groups, the rest apart. Of several signs of life only the last is
/// news, and every worker hears of each. A frame that does not decode to its end is refused whole: its sender is broken or of another
/// version.
pub(crate) fn decode(payload: &Payload, from: NodeId, to: NodeId) -> Result<Decoded, DecodeError> {
    let mut inputs = Vec::new();
    let (mut others, mut last_beat) = (Vec::new(), None);
    for packet in PacketReader::new(payload, from, to)? {
        match packet? {
            Packet::Raft { group, uid, message } => {
                inputs.push((group, Input::Group(group, Event::Message { uid, message })));
            }
            Packet::HostBeat(beat) => last_beat = Some(FromHost::Beat(beat)),
            Packet::Request(request) => others.push(FromHost::Request(request)),
            Packet::Response(response) => others.push(FromHost::Response(response)),
        }
    }
    others.extend(last_beat);
    Ok((inputs, others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_signs_of_life_in_a_frame_the_last_one_is_told() {
        let [from, to] = [1, 2].map(|id| NodeId::new(id).expect("a node id"));
        let beat = |durable_seq| HostBeat { durable_seq, ..HostBeat::default() };
        let mut builder = FrameBuilder::new(from, to);
        for seq in 1..=1000 {
            builder.push_host_beat(&beat(seq)).expect("room");
        }
        let frame = builder.finish().expect("a frame");
        let payload = Payload::copy_from(&frame[mraft_wire::FRAME_HEADER_BYTES..]);
        assert_eq!(decode(&payload, from, to).expect("good").1, [FromHost::Beat(beat(1000))]);
    }
}
