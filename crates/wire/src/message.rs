// SPDX-License-Identifier: Apache-2.0

//! Raft messages as packets. Everything that the frame, the message before it or the order of entries already tells is left
//! out, so that a heartbeat takes some 28 bytes.

use mraft_raft::{AppendReply, Body, Message};
use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{ENTRY_BYTES_MAX, FRAME_BYTES_MAX};
use mraft_types::{Entry, EntryKind, GroupId, GroupUid, LogPosition, NodeId, Payload, ReplicaId};

use crate::fields::{flag, shared_bytes, unzigzag, zigzag};
use crate::packet::{Packet, PushError, VARINT_BYTES_MAX};

/// Most entries of one append. An entry is counted with at least 64 bytes wherever appends are bounded, so that no append
/// within a frame's weight comes near it; it keeps three-byte entries from becoming many times their size in memory.
pub(crate) const APPEND_ENTRIES_MAX: usize = FRAME_BYTES_MAX / 64;

/// Whether the message can be expressed: what the format leaves out must be what it implies.
pub(crate) fn check(message: &Message) -> Result<(), PushError> {
    let Body::Append { prev, entries, .. } = &message.body else { return Ok(()) };
    if entries.len() > APPEND_ENTRIES_MAX {
        return Err(PushError::TooLong);
    }
    let mut index = prev.index;
    for entry in entries {
        if entry.payload.len() > ENTRY_BYTES_MAX {
            return Err(PushError::TooLong);
        }
        if index.checked_add(1) != Some(entry.index) {
            return Err(PushError::Gap);
        }
        index = entry.index;
    }
    Ok(())
}

/// How many entries it carries.
pub(crate) fn entries(message: &Message) -> usize {
    match &message.body {
        Body::Append { entries, .. } => entries.len(),
        _ => 0,
    }
}

/// No encoding of the message is longer.
pub(crate) fn encoded_len_max(message: &Message) -> usize {
    const ENTRY_OVERHEAD: usize = 1 + 2 * VARINT_BYTES_MAX;
    let entries = match &message.body {
        Body::Append { entries, .. } => {
            entries.iter().map(|entry| ENTRY_OVERHEAD + entry.payload.len()).sum()
        }
        _ => 0,
    };
    1 + 16 + 9 * VARINT_BYTES_MAX + entries
}

/// Appends the packet. Both replicas live on the frame's nodes.
pub(crate) fn encode(group: GroupId, uid: GroupUid, message: &Message, out: &mut Vec<u8>) {
    let (tag, generations) = (tag(&message.body), (message.from.generation(), message.to.generation()));
    if generations == (0, 0) {
        out.put_u8(tag);
    } else {
        out.put_u8(tag | WITH_GENERATIONS);
    }
    out.put_varint(group.0);
    out.put_raw(&uid.0);
    if generations != (0, 0) {
        out.put_varint(u64::from(generations.0));
        out.put_varint(u64::from(generations.1));
    }
    out.put_varint(message.term);
    match &message.body {
        Body::PreVote { last } => put_position(out, *last),
        Body::PreVoteReply { granted } | Body::VoteReply { granted } => out.put_u8(u8::from(*granted)),
        Body::Vote { last, transfer } => {
            put_position(out, *last);
            out.put_u8(u8::from(*transfer));
        }
        Body::Append { prev, entries, commit, matched } => {
            put_position(out, *prev);
            out.put_varint(*commit);
            out.put_varint(*matched);
            out.put_varint(entries.len() as u64);
            for entry in entries {
                out.put_u8(entry.kind as u8);
                out.put_varint(entry.term);
                out.put_bytes(&entry.payload);
            }
        }
        Body::AppendReply(AppendReply::Accepted { matched }) => out.put_varint(*matched),
        Body::AppendReply(AppendReply::Rejected { prev, hint }) => {
            out.put_varint(*prev);
            put_position(out, *hint);
        }
        Body::Heartbeat { commit, matched, round } => {
            out.put_varint(*commit);
            out.put_varint(zigzag(matched.wrapping_sub(*commit) as i64));
            out.put_varint(*round);
        }
        Body::HeartbeatReply { round } => out.put_varint(*round),
        Body::TimeoutNow => {}
        Body::Removed { change_index } => out.put_varint(*change_index),
        Body::Quiesce { last, life, number } => {
            out.put_varint(*last);
            out.put_u64(*life);
            out.put_varint(*number);
        }
        Body::QuiesceReply { number, agreed } => {
            out.put_varint(*number);
            out.put_u8(u8::from(*agreed));
        }
    }
}

/// Reads what follows the tag. Large entries' payloads share the memory of `payload`, on which `reader` stands.
pub(crate) fn decode(
    tag: u8,
    reader: &mut Reader<'_>,
    payload: &Payload,
    from: NodeId,
    to: NodeId,
) -> Result<Packet, DecodeError> {
    let kind = tag & !WITH_GENERATIONS;
    if !(TAG_PRE_VOTE..=TAG_QUIESCE_REPLY).contains(&kind) {
        return Err(DecodeError::Unknown("packet.tag", u64::from(tag)));
    }
    let group = GroupId(reader.varint("raft.group")?);
    let uid = GroupUid(reader.id128("raft.uid")?);
    let (mut from_generation, mut to_generation) = (0, 0);
    if tag & WITH_GENERATIONS != 0 {
        from_generation = reader.bounded("raft.generation", usize::from(u16::MAX))? as u16;
        to_generation = reader.bounded("raft.generation", usize::from(u16::MAX))? as u16;
        if (from_generation, to_generation) == (0, 0) {
            return Err(DecodeError::Invalid("raft.generation", 0));
        }
    }
    let term = reader.varint("raft.term")?;
    let body = match kind {
        TAG_PRE_VOTE => Body::PreVote { last: position(reader)? },
        TAG_PRE_VOTE_REPLY => Body::PreVoteReply { granted: flag(reader, "raft.granted")? },
        TAG_VOTE => Body::Vote { last: position(reader)?, transfer: flag(reader, "raft.transfer")? },
        TAG_VOTE_REPLY => Body::VoteReply { granted: flag(reader, "raft.granted")? },
        TAG_APPEND => append(reader, payload)?,
        TAG_ACCEPTED => Body::AppendReply(AppendReply::Accepted { matched: reader.varint("raft.matched")? }),
        TAG_REJECTED => Body::AppendReply(AppendReply::Rejected {
            prev: reader.varint("raft.prev")?,
            hint: position(reader)?,
        }),
        TAG_HEARTBEAT => {
            let commit = reader.varint("raft.commit")?;
            let ahead = unzigzag(reader.varint("raft.matched")?);
            let matched = commit.wrapping_add(ahead as u64);
            Body::Heartbeat { commit, matched, round: reader.varint("raft.round")? }
        }
        TAG_HEARTBEAT_REPLY => Body::HeartbeatReply { round: reader.varint("raft.round")? },
        TAG_TIMEOUT_NOW => Body::TimeoutNow,
        TAG_REMOVED => Body::Removed { change_index: reader.varint("raft.change_index")? },
        TAG_QUIESCE => Body::Quiesce {
            last: reader.varint("raft.last")?,
            life: reader.u64("raft.life")?,
            number: reader.varint("raft.number")?,
        },
        _ => {
            Body::QuiesceReply { number: reader.varint("raft.number")?, agreed: flag(reader, "raft.agreed")? }
        }
    };
    let (from, to) = (ReplicaId::new(from_generation, from), ReplicaId::new(to_generation, to));
    Ok(Packet::Raft { group, uid, message: Message { from, to, term, body } })
}

fn append(reader: &mut Reader<'_>, payload: &Payload) -> Result<Body, DecodeError> {
    let prev = position(reader)?;
    let commit = reader.varint("raft.commit")?;
    let matched = reader.varint("raft.matched")?;
    let count = reader.bounded("append.entries", APPEND_ENTRIES_MAX)?;
    if count > reader.remaining() / ENTRY_BYTES_MIN {
        return Err(DecodeError::Truncated("append.entries"));
    }
    let mut entries = Vec::with_capacity(count);
    let mut index = prev.index;
    for _ in 0..count {
        index = index.checked_add(1).ok_or(DecodeError::Invalid("entry.index", index))?;
        let kind = reader.u8("entry.kind")?;
        let kind = EntryKind::from_byte(kind).ok_or(DecodeError::Unknown("entry.kind", u64::from(kind)))?;
        let term = reader.varint("entry.term")?;
        let payload = shared_bytes(reader, payload, "entry.payload", ENTRY_BYTES_MAX)?;
        entries.push(Entry { index, term, kind, payload });
    }
    Ok(Body::Append { prev, entries, commit, matched })
}

fn put_position(out: &mut Vec<u8>, position: LogPosition) {
    out.put_varint(position.index);
    out.put_varint(position.term);
}

fn position(reader: &mut Reader<'_>) -> Result<LogPosition, DecodeError> {
    Ok(LogPosition { index: reader.varint("position.index")?, term: reader.varint("position.term")? })
}

fn tag(body: &Body) -> u8 {
    match body {
        Body::PreVote { .. } => TAG_PRE_VOTE,
        Body::PreVoteReply { .. } => TAG_PRE_VOTE_REPLY,
        Body::Vote { .. } => TAG_VOTE,
        Body::VoteReply { .. } => TAG_VOTE_REPLY,
        Body::Append { .. } => TAG_APPEND,
        Body::AppendReply(AppendReply::Accepted { .. }) => TAG_ACCEPTED,
        Body::AppendReply(AppendReply::Rejected { .. }) => TAG_REJECTED,
        Body::Heartbeat { .. } => TAG_HEARTBEAT,
        Body::HeartbeatReply { .. } => TAG_HEARTBEAT_REPLY,
        Body::TimeoutNow => TAG_TIMEOUT_NOW,
        Body::Removed { .. } => TAG_REMOVED,
        Body::Quiesce { .. } => TAG_QUIESCE,
        Body::QuiesceReply { .. } => TAG_QUIESCE_REPLY,
    }
}

const WITH_GENERATIONS: u8 = 0x80;
const TAG_PRE_VOTE: u8 = 0x01;
const TAG_PRE_VOTE_REPLY: u8 = 0x02;
const TAG_VOTE: u8 = 0x03;
const TAG_VOTE_REPLY: u8 = 0x04;
const TAG_APPEND: u8 = 0x05;
const TAG_ACCEPTED: u8 = 0x06;
const TAG_REJECTED: u8 = 0x07;
const TAG_HEARTBEAT: u8 = 0x08;
const TAG_HEARTBEAT_REPLY: u8 = 0x09;
const TAG_TIMEOUT_NOW: u8 = 0x0a;
const TAG_REMOVED: u8 = 0x0b;
const TAG_QUIESCE: u8 = 0x0c;
const TAG_QUIESCE_REPLY: u8 = 0x0d;

/// Kind, term, empty payload.
const ENTRY_BYTES_MIN: usize = 3;
