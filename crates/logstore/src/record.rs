// SPDX-License-Identifier: Apache-2.0

//! Records as bytes: what one replica wrote in one turn (`docs/formats/log.md`, "Record").
//!
//! A record can be read and checked alone, so that a reader need not read the batch around it. Its checksum begins with the salt of the
//! segment's use: bytes of an earlier use never pass for a record (rule L2).

use mraft_types::codec::{DecodeError, Reader, Writer, varint_len};
use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, ReplicaId, Term,
};

/// Beyond this nothing is a number of the log, be it of a batch, a use, a record, a term or an index: whoever counts on from a smaller one
/// never gets to the end. Bytes that say more are whole and all the same nothing that a log wrote.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// Length and checksum before each record's body.
pub(crate) const RECORD_HEAD_BYTES: usize = 8;
/// What a body takes at most besides state and entries: six varints, flags, vote, part.
const BODY_FIXED_BYTES_MAX: usize = 6 * 10 + 1 + 8 + 10;

const FLAG_VOTE: u8 = 1;
const FLAG_STATE: u8 = 2;
const FLAG_RESET: u8 = 4;
const FLAG_PART: u8 = 8;
const FLAG_LAST_PART: u8 = 16;
const FLAGS_KNOWN: u8 = FLAG_VOTE | FLAG_STATE | FLAG_RESET | FLAG_PART | FLAG_LAST_PART;

/// The salt of one use of a segment, ready for checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt {
    pub(crate) value: u64,
    seed: u32,
}

/// Everything about a replica's log except its entries and hard state; part of every record with a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) last_index: Index,
    pub(crate) start: LogStart,
    pub(crate) install: Option<(LogStart, u64)>,
    pub(crate) condemned: Option<CondemnedReason>,
}

/// Which part of a checkpoint a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 1.
    pub(crate) number: u64,
    pub(crate) is_last: bool,
}

/// What a record says besides its entries. `S` is how the state is held: borrowed to be written, owned when read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head<S> {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) state: Option<S>,
    /// Older entries are void.
    pub(crate) reset: bool,
    pub(crate) part: Option<Part>,
}

/// An entry within a record's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryAt {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) kind: EntryKind,
    /// Where the payload stands in the body.
    pub(crate) payload_at: usize,
    pub(crate) payload_bytes: usize,
}

impl Salt {
    pub(crate) fn new(value: u64) -> Salt {
        Salt { value, seed: crc32c::crc32c(&value.to_le_bytes()) }
    }

    /// A checksum that holds for this use of the segment only.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.seed, bytes)
    }
}

/// Appends a record.
pub(crate) fn encode(out: &mut Vec<u8>, salt: Salt, head: &Head<&State>, entries: &[Entry]) {
    let at = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    out.put_varint(u64::from(head.slot));
    out.put_varint(head.sequence);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(
        flag(head.hard_state.vote.is_some(), FLAG_VOTE)
            | flag(head.state.is_some(), FLAG_STATE)
            | flag(head.reset, FLAG_RESET)
            | flag(head.part.is_some(), FLAG_PART)
            | flag(head.part.is_some_and(|part| part.is_last), FLAG_LAST_PART),
    );
    out.put_varint(head.hard_state.term);
    if let Some(vote) = head.hard_state.vote {
        out.put_u64(vote.get());
    }
    out.put_varint(head.hard_state.commit);
    if let Some(state) = head.state {
        encode_state(out, state);
    }
    if let Some(part) = head.part {
        out.put_varint(part.number);
    }
    out.put_varint(entries.len() as u64);
    if let Some(first) = entries.first() {
        out.put_varint(first.index);
    }
    for entry in entries {
        out.put_varint(entry.term);
        out.put_u8(entry.kind as u8);
        out.put_bytes(&entry.payload);
    }
    seal(out, at, salt);
}

/// Appends a record whose body was written before, under another salt.
pub(crate) fn encode_again(out: &mut Vec<u8>, salt: Salt, body: &[u8]) {
    let at = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    out.extend_from_slice(body);
    seal(out, at, salt);
}

/// Fills in the head of the record that begins at `at` and ends with `out`.
fn seal(out: &mut [u8], at: usize, salt: Salt) {
    let body = at + RECORD_HEAD_BYTES;
    let len = (out.len() - body) as u32;
    let crc = salt.checksum(&out[body..]);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..body].copy_from_slice(&crc.to_le_bytes());
}

/// Length and checksum of the record whose head stands at the front of `bytes`.
pub(crate) fn decode_record_head(bytes: &[u8]) -> Result<(usize, u32), DecodeError> {
    let mut reader = Reader::new(bytes);
    Ok((reader.u32("record.body_bytes")? as usize, reader.u32("record.crc")?))
}

/// Reads a body and shows its entries one by one.
pub(crate) fn decode_body(
    body: &[u8],
    mut each: impl FnMut(EntryAt) -> Result<(), DecodeError>,
) -> Result<Head<State>, DecodeError> {
    let mut reader = Reader::new(body);
    let slot = reader.varint("record.slot")?;
    let slot = u32::try_from(slot).map_err(|_| DecodeError::Invalid("record.slot", slot))?;
    let sequence = number(&mut reader, "record.sequence")?;
    if sequence == 0 {
        // The first one is 1; 0 is before it.
        return Err(DecodeError::Invalid("record.sequence", 0));
    }
    let flags = reader.u8("record.flags")?;
    if flags & !FLAGS_KNOWN != 0 {
        return Err(DecodeError::Unknown("record.flags", u64::from(flags)));
    }
    let term = number(&mut reader, "record.term")?;
    let vote = if flags & FLAG_VOTE != 0 { Some(decode_replica(&mut reader, "record.vote")?) } else { None };
    let hard_state = HardState { term, vote, commit: number(&mut reader, "record.commit")? };
    let state = if flags & FLAG_STATE != 0 { Some(decode_state(&mut reader)?) } else { None };
    let part = if flags & FLAG_PART != 0 {
        Some(Part { number: number(&mut reader, "record.part")?, is_last: flags & FLAG_LAST_PART != 0 })
    } else {
        None
    };
    let count = reader.varint("record.entries")?;
    let first_index = if count > 0 { reader.varint("record.first_index")? } else { 0 };
    if first_index > NUMBER_MAX {
        return Err(DecodeError::Invalid("record.first_index", first_index));
    }
    for index in first_index..first_index.saturating_add(count) {
        let term = number(&mut reader, "entry.term")?;
        let kind = reader.u8("entry.kind")?;
        let kind = EntryKind::from_byte(kind).ok_or(DecodeError::Unknown("entry.kind", u64::from(kind)))?;
        let payload_bytes = reader.bounded("entry.length", ENTRY_BYTES_MAX)?;
        let payload_at = reader.position();
        reader.take("entry.payload", payload_bytes)?;
        if index > NUMBER_MAX {
            return Err(DecodeError::Invalid("record.first_index", index));
        }
        each(EntryAt { index, term, kind, payload_at, payload_bytes })?;
    }
    reader.finish()?;
    Ok(Head { slot, sequence, hard_state, state, reset: flags & FLAG_RESET != 0, part })
}

/// What a record of these entries takes at most, its state apart.
pub(crate) fn record_bytes_max(entries: &[Entry]) -> usize {
    RECORD_HEAD_BYTES + BODY_FIXED_BYTES_MAX + entries.iter().map(entry_bytes).sum::<usize>()
}

/// What an entry takes.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    let len = entry.payload.len();
    varint_len(entry.term) + 1 + varint_len(len as u64) + len
}

/// What a state takes at most.
pub(crate) fn state_bytes_max(state: &State) -> usize {
    10 + start_bytes_max(&state.start)
        + 1
        + state.install.as_ref().map_or(0, |(start, _)| start_bytes_max(start) + 8)
        + 1
}

/// What a start takes at most: two varints, the membership's fixed part, its members and tombstones.
pub(crate) fn start_bytes_max(start: &LogStart) -> usize {
    let membership = &start.membership;
    let members: usize = membership.members.values().map(|member| member.raft_address.len() + 19).sum();
    20 + 41 + members + 8 * (membership.removed.len() + membership.retired_nodes.len())
}

fn encode_state(out: &mut Vec<u8>, state: &State) {
    out.put_varint(state.last_index);
    encode_start(out, &state.start);
    out.put_u8(u8::from(state.install.is_some()));
    if let Some((start, directory)) = &state.install {
        encode_start(out, start);
        out.put_u64(*directory);
    }
    out.put_u8(state.condemned.map_or(0, |reason| reason as u8));
}

fn decode_state(reader: &mut Reader<'_>) -> Result<State, DecodeError> {
    let last_index = number(reader, "state.last_index")?;
    let start = decode_start(reader)?;
    if last_index < start.position.index {
        return Err(DecodeError::Invalid("state.last_index", last_index));
    }
    let install = match reader.u8("state.install")? {
        0 => None,
        1 => Some((decode_start(reader)?, reader.u64("state.directory")?)),
        other => return Err(DecodeError::Unknown("state.install", u64::from(other))),
    };
    let condemned = match reader.u8("state.condemned")? {
        0 => None,
        reason => Some(
            CondemnedReason::from_byte(reason)
                .ok_or(DecodeError::Unknown("state.condemned", u64::from(reason)))?,
        ),
    };
    Ok(State { last_index, start, install, condemned })
}

pub(crate) fn encode_start(out: &mut Vec<u8>, start: &LogStart) {
    out.put_varint(start.position.index);
    out.put_varint(start.position.term);
    start.membership.encode(out);
}

pub(crate) fn decode_start(reader: &mut Reader<'_>) -> Result<LogStart, DecodeError> {
    let position = LogPosition { index: number(reader, "start.index")?, term: number(reader, "start.term")? };
    Ok(LogStart { position, membership: Membership::decode(reader)? })
}

/// A number that a log counts with.
pub(crate) fn number(reader: &mut Reader<'_>, field: &'static str) -> Result<u64, DecodeError> {
    let number = reader.varint(field)?;
    if number > NUMBER_MAX { Err(DecodeError::Invalid(field, number)) } else { Ok(number) }
}

pub(crate) fn decode_replica(reader: &mut Reader<'_>, field: &'static str) -> Result<ReplicaId, DecodeError> {
    let id = reader.u64(field)?;
    ReplicaId::from_u64(id).ok_or(DecodeError::Invalid(field, id))
}

#[cfg(test)]
mod tests {
    use mraft_types::{NodeId, Payload};

    use super::*;

    fn example() -> (Head<State>, Vec<Entry>) {
        let entry = |index: Index| Entry {
            index,
            term: 3,
            kind: EntryKind::Commands,
            payload: Payload::copy_from(&[index as u8; 5]),
        };
        let start = LogStart { position: LogPosition { index: 4, term: 2 }, ..LogStart::default() };
        let state = State {
            last_index: 9,
            start: start.clone(),
            install: Some((start, 77)),
            condemned: Some(CondemnedReason::OldCopy),
        };
        let vote = NodeId::new(4).map(|node| ReplicaId::new(1, node));
        let head = Head {
            slot: 7,
            sequence: 300,
            hard_state: HardState { term: 3, vote, commit: 8 },
            state: Some(state),
            reset: true,
            part: Some(Part { number: 2, is_last: true }),
        };
        (head, vec![entry(8), entry(9)])
    }

    fn encoded(salt: Salt) -> Vec<u8> {
        let (head, entries) = example();
        let mut out = Vec::new();
        let borrowed = Head {
            slot: head.slot,
            sequence: head.sequence,
            hard_state: head.hard_state,
            state: head.state.as_ref(),
            reset: head.reset,
            part: head.part,
        };
        encode(&mut out, salt, &borrowed, &entries);
        let bound = record_bytes_max(&entries) + head.state.as_ref().map_or(0, state_bytes_max);
        assert!(out.len() <= bound, "{} bytes, bound {bound}", out.len());
        out
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let bytes = encoded(Salt::new(99));
        let (len, crc) = decode_record_head(&bytes).expect("a head");
        let body = &bytes[RECORD_HEAD_BYTES..];
        assert_eq!((len, crc), (body.len(), Salt::new(99).checksum(body)));
        assert_ne!(crc, Salt::new(98).checksum(body), "only under its own salt");
        let mut entries = Vec::new();
        let head = decode_body(body, |at| {
            let payload = Payload::copy_from(&body[at.payload_at..at.payload_at + at.payload_bytes]);
            entries.push(Entry { index: at.index, term: at.term, kind: at.kind, payload });
            Ok(())
        });
        assert_eq!((head, entries), (Ok(example().0), example().1));
    }

    #[test]
    fn numbers_that_no_log_counts_to_are_refused() {
        let (head, entries) = example();
        let body = |change: &dyn Fn(&mut Head<State>, &mut Vec<Entry>)| {
            let (mut head, mut entries) = (head.clone(), entries.clone());
            change(&mut head, &mut entries);
            let Head { slot, sequence, hard_state, ref state, reset, part } = head;
            let head = Head { slot, sequence, hard_state, state: state.as_ref(), reset, part };
            let mut out = Vec::new();
            encode(&mut out, Salt::new(1), &head, &entries);
            decode_body(&out[RECORD_HEAD_BYTES..], |_| Ok(())).map(|_| ())
        };
        assert_eq!(body(&|_, _| ()), Ok(()));
        assert_eq!(body(&|head, _| head.sequence = NUMBER_MAX), Ok(()));
        type Change = fn(&mut Head<State>, &mut Vec<Entry>);
        let changes: [Change; 9] = [
            |head, _| head.sequence = 0,
            |head, _| head.sequence = NUMBER_MAX + 1,
            |head, _| head.hard_state.term = u64::MAX,
            |head, _| head.hard_state.commit = u64::MAX,
            |head, _| head.part = Some(Part { number: u64::MAX, is_last: true }),
            |_, entries| entries[0].index = NUMBER_MAX,
            |_, entries| entries[1].term = u64::MAX,
            |head, _| head.state.iter_mut().for_each(|state| state.last_index = u64::MAX),
            // It ends before it begins.
            |head, _| head.state.iter_mut().for_each(|state| state.last_index = 3),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(matches!(body(&change), Err(DecodeError::Invalid(..))), "{number}");
        }
    }

    #[test]
    fn a_cut_body_is_refused_everywhere() {
        let bytes = encoded(Salt::new(1));
        let body = &bytes[RECORD_HEAD_BYTES..];
        for len in 0..body.len() {
            assert!(decode_body(&body[..len], |_| Ok(())).is_err(), "{len}");
        }
    }
}
