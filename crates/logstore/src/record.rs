// SPDX-License-Identifier: Apache-2.0

//! Records and batches as bytes (`docs/formats/log.md`).
//!
//! ```text
//! batch  := header  row*  record*  zeros to the next block
//! header := magic:u32  version:u8  kind:u8  zero:u16  stream:u32  rows:u32  salt:u64  batch_seq:u64  durable_seq:u64
//!           payload_bytes:u32  payload_crc:u32  header_crc:u32
//! row    := slot:u32  records:u32  first_sequence:u64
//! record := body_bytes:u32  crc:u32  body
//! body   := slot:varint  sequence:varint  flags:u8  term:varint  vote:u64  commit:varint
//!           [state]  [part:varint  parts:varint]  entries:varint  [first_index:varint  entry*]
//! state  := last_index:varint  start  install:u8  [start  directory:u64]  condemned:u8
//! start  := index:varint  term:varint  membership
//! entry  := term:varint  kind:u8  length:varint  payload
//! ```
//!
//! All checksums are CRC32C, seeded with the salt of the segment's use: bytes of an earlier use, or a value that a client chose, can
//! not pass for a batch (rule L2).

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::ENTRY_BYTES_MAX;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Membership, Payload,
    ReplicaId,
};

/// Writes start on a multiple of this: no write touches a block that holds a synced batch.
pub(crate) const BLOCK_BYTES: usize = 4096;
pub(crate) const HEADER_BYTES: usize = 52;
pub(crate) const ROW_BYTES: usize = 16;
pub(crate) const RECORD_HEAD_BYTES: usize = 8;
const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"mrb1");
const BATCH_VERSION: u8 = 1;
/// The only stream so far (rule L1).
const STREAM: u32 = 0;

const FLAG_STATE: u8 = 1;
const FLAG_RESET: u8 = 2;
const FLAG_CHECKPOINT: u8 = 4;

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchKind {
    /// Records.
    Data,
    /// Nothing: says that everything before is durable (rule L3).
    Seal,
}

/// A batch's header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// What it is.
    pub kind: BatchKind,
    /// Its number.
    pub batch_seq: u64,
    /// Everything up to this batch was durable when it was written.
    pub durable_seq: u64,
    /// Whose records it holds: (slot, number of records, first sequence number).
    pub rows: Vec<(u32, u32, u64)>,
    /// Bytes of all records.
    pub payload_bytes: usize,
    payload_crc: u32,
}

/// Everything about a replica's log except its entries and hard state; part of every record with a mark.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) last_index: Index,
    pub(crate) start: LogStart,
    pub(crate) install: Option<(LogStart, u64)>,
    pub(crate) condemned: Option<CondemnedReason>,
}

/// A record, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) state: Option<State>,
    /// Older entries are void.
    pub(crate) reset: bool,
    /// Part of a checkpoint: (part, parts), from 1.
    pub(crate) checkpoint: Option<(u64, u64)>,
    pub(crate) entries: Vec<Entry>,
}

/// What a record holds besides its entries, for encoding.
#[derive(Clone, Copy)]
pub(crate) struct RecordHead<'a> {
    pub(crate) slot: u32,
    pub(crate) sequence: u64,
    pub(crate) hard_state: HardState,
    pub(crate) state: Option<&'a State>,
    pub(crate) reset: bool,
    pub(crate) checkpoint: Option<(u64, u64)>,
}

/// A checksum that only holds for one use of a segment.
pub(crate) fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append((salt ^ (salt >> 32)) as u32, bytes)
}

pub(crate) fn round_up(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Appends a record; its place in `out` is where its head begins.
pub(crate) fn encode_record(out: &mut Vec<u8>, salt: u64, head: &RecordHead<'_>, entries: &[Entry]) {
    let at = out.len();
    out.extend_from_slice(&[0; RECORD_HEAD_BYTES]);
    let body = out.len();
    out.put_varint(u64::from(head.slot));
    out.put_varint(head.sequence);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    out.put_u8(
        flag(head.state.is_some(), FLAG_STATE)
            | flag(head.reset, FLAG_RESET)
            | flag(head.checkpoint.is_some(), FLAG_CHECKPOINT),
    );
    out.put_varint(head.hard_state.term);
    out.put_u64(head.hard_state.vote.map_or(0, ReplicaId::get));
    out.put_varint(head.hard_state.commit);
    if let Some(state) = head.state {
        encode_state(out, state);
    }
    if let Some((part, parts)) = head.checkpoint {
        out.put_varint(part);
        out.put_varint(parts);
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
    let len = (out.len() - body) as u32;
    let crc = checksum(salt, &out[body..]);
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
    out[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a record's body. With `entries` false, payloads are skipped: recovery needs terms and memberships only.
pub(crate) fn decode_body(body: &Payload, with_payloads: bool) -> Result<Record, DecodeError> {
    let mut reader = Reader::new(body);
    let slot = reader.varint("record.slot")?;
    let slot = u32::try_from(slot).map_err(|_| DecodeError::Invalid("record.slot", slot))?;
    let sequence = reader.varint("record.sequence")?;
    let flags = reader.u8("record.flags")?;
    if flags & !(FLAG_STATE | FLAG_RESET | FLAG_CHECKPOINT) != 0 {
        return Err(DecodeError::Unknown("record.flags", u64::from(flags)));
    }
    let term = reader.varint("record.term")?;
    let vote = ReplicaId::from_u64(reader.u64("record.vote")?);
    let hard_state = HardState { term, vote, commit: reader.varint("record.commit")? };
    let state = if flags & FLAG_STATE != 0 { Some(decode_state(&mut reader)?) } else { None };
    let checkpoint = if flags & FLAG_CHECKPOINT != 0 {
        Some((reader.varint("record.part")?, reader.varint("record.parts")?))
    } else {
        None
    };
    let count = reader.bounded("record.entries", body.len())?;
    let mut index = if count > 0 { reader.varint("record.first_index")? } else { 0 };
    let mut entries = Vec::with_capacity(count.min(1024));
    for _ in 0..count {
        let term = reader.varint("entry.term")?;
        let kind = reader.u8("entry.kind")?;
        let kind = EntryKind::from_byte(kind).ok_or(DecodeError::Unknown("entry.kind", u64::from(kind)))?;
        let len = reader.bounded("entry.length", ENTRY_BYTES_MAX)?;
        let at = reader.position();
        reader.take("entry.payload", len)?;
        let payload = if with_payloads || kind == EntryKind::Membership {
            body.slice(at, len).unwrap_or_default()
        } else {
            Payload::new()
        };
        entries.push(Entry { index, term, kind, payload });
        index = index.checked_add(1).ok_or(DecodeError::Invalid("record.first_index", index))?;
    }
    reader.finish()?;
    Ok(Record { slot, sequence, hard_state, state, reset: flags & FLAG_RESET != 0, checkpoint, entries })
}

/// Begins a batch in an empty buffer: room for header and rows.
pub(crate) fn begin_batch(out: &mut Vec<u8>, rows: usize) {
    out.clear();
    out.resize(HEADER_BYTES + rows * ROW_BYTES, 0);
}

/// Ends a batch: fills in header and rows, pads to the block.
pub(crate) fn finish_batch(
    out: &mut Vec<u8>,
    salt: u64,
    kind: BatchKind,
    batch_seq: u64,
    durable_seq: u64,
    rows: &[(u32, u32, u64)],
) {
    let payload_at = HEADER_BYTES + rows.len() * ROW_BYTES;
    let payload_crc = checksum(salt, &out[payload_at..]);
    let mut header = Vec::with_capacity(payload_at);
    header.put_u32(BATCH_MAGIC);
    header.put_u8(BATCH_VERSION);
    header.put_u8(u8::from(kind == BatchKind::Seal));
    header.put_u16(0);
    header.put_u32(STREAM);
    header.put_u32(rows.len() as u32);
    header.put_u64(salt);
    header.put_u64(batch_seq);
    header.put_u64(durable_seq);
    header.put_u32((out.len() - payload_at) as u32);
    header.put_u32(payload_crc);
    let fixed = header.len();
    for (slot, records, sequence) in rows {
        header.put_u32(*slot);
        header.put_u32(*records);
        header.put_u64(*sequence);
    }
    let crc = checksum(salt, &header);
    out[..fixed].copy_from_slice(&header[..fixed]);
    out[fixed..fixed + 4].copy_from_slice(&crc.to_le_bytes());
    out[HEADER_BYTES..payload_at].copy_from_slice(&header[fixed..]);
    out.resize(round_up(out.len()), 0);
}

/// What stands at the beginning of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No header of this use of the segment.
    Nothing,
    /// A header written by another version: the file must not be touched.
    Unknown(u8),
    /// A header.
    Header(BatchHeader),
}

/// Looks for a batch header at the beginning of `bytes`, which reach to the end of the segment.
pub(crate) fn find_header(bytes: &[u8], salt: u64) -> Found {
    parse_header(bytes, salt).unwrap_or(Found::Nothing)
}

fn parse_header(bytes: &[u8], salt: u64) -> Result<Found, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.u32("batch.magic")? != BATCH_MAGIC {
        return Ok(Found::Nothing);
    }
    let version = reader.u8("batch.version")?;
    let kind = if reader.u8("batch.kind")? == 1 { BatchKind::Seal } else { BatchKind::Data };
    reader.u16("batch.zero")?;
    let stream = reader.u32("batch.stream")?;
    let rows = reader.u32("batch.rows")? as usize;
    if reader.u64("batch.salt")? != salt {
        return Ok(Found::Nothing);
    }
    let (batch_seq, durable_seq) = (reader.u64("batch.batch_seq")?, reader.u64("batch.durable_seq")?);
    let (payload_bytes, payload_crc) =
        (reader.u32("batch.payload_bytes")? as usize, reader.u32("batch.payload_crc")?);
    let fixed = reader.position();
    let header_crc = reader.u32("batch.header_crc")?;
    let table = reader.take("batch.rows", rows.saturating_mul(ROW_BYTES))?;
    let mut covered = Vec::with_capacity(fixed + table.len());
    covered.extend_from_slice(&bytes[..fixed]);
    covered.extend_from_slice(table);
    if checksum(salt, &covered) != header_crc {
        return Ok(Found::Nothing);
    }
    if version != BATCH_VERSION || stream != STREAM {
        return Ok(Found::Unknown(version));
    }
    let mut table = Reader::new(table);
    let mut list = Vec::with_capacity(rows);
    for _ in 0..rows {
        let (slot, records) = (table.u32("row.slot")?, table.u32("row.records")?);
        list.push((slot, records, table.u64("row.sequence")?));
    }
    Ok(Found::Header(BatchHeader { kind, batch_seq, durable_seq, rows: list, payload_bytes, payload_crc }))
}

impl BatchHeader {
    /// Bytes of header and rows.
    pub(crate) fn payload_at(&self) -> usize {
        HEADER_BYTES + self.rows.len() * ROW_BYTES
    }

    /// Bytes of the whole batch, padding included.
    pub(crate) fn batch_bytes(&self) -> usize {
        round_up(self.payload_at() + self.payload_bytes)
    }

    /// The records' bytes, if they are what was written.
    pub(crate) fn payload<'b>(&self, bytes: &'b [u8], salt: u64) -> Option<&'b [u8]> {
        let payload = bytes.get(self.payload_at()..self.payload_at() + self.payload_bytes)?;
        (checksum(salt, payload) == self.payload_crc).then_some(payload)
    }
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
    let last_index = reader.varint("state.last_index")?;
    let start = decode_start(reader)?;
    let install = match reader.u8("state.install")? {
        0 => None,
        1 => {
            let start = decode_start(reader)?;
            Some((start, reader.u64("state.directory")?))
        }
        other => return Err(DecodeError::Invalid("state.install", u64::from(other))),
    };
    let condemned = match reader.u8("state.condemned")? {
        0 => None,
        reason => {
            let known = CondemnedReason::from_byte(reason);
            Some(known.ok_or(DecodeError::Unknown("state.condemned", u64::from(reason)))?)
        }
    };
    Ok(State { last_index, start, install, condemned })
}

pub(crate) fn encode_start(out: &mut Vec<u8>, start: &LogStart) {
    out.put_varint(start.position.index);
    out.put_varint(start.position.term);
    start.membership.encode(out);
}

pub(crate) fn decode_start(reader: &mut Reader<'_>) -> Result<LogStart, DecodeError> {
    let position = LogPosition { index: reader.varint("start.index")?, term: reader.varint("start.term")? };
    Ok(LogStart { position, membership: Membership::decode(reader)? })
}

#[cfg(test)]
mod tests {
    use mraft_types::NodeId;

    use super::*;

    fn entry(index: Index) -> Entry {
        Entry { index, term: 3, kind: EntryKind::Commands, payload: Payload::copy_from(&[index as u8; 5]) }
    }

    fn batch(salt: u64) -> Vec<u8> {
        let mut out = Vec::new();
        begin_batch(&mut out, 1);
        let state = State { last_index: 9, condemned: Some(CondemnedReason::Damage), ..State::default() };
        let vote = NodeId::new(4).map(|node| ReplicaId::new(1, node));
        let head = RecordHead {
            slot: 7,
            sequence: 300,
            hard_state: HardState { term: 3, vote, commit: 8 },
            state: Some(&state),
            reset: true,
            checkpoint: Some((1, 2)),
        };
        encode_record(&mut out, salt, &head, &[entry(8), entry(9)]);
        finish_batch(&mut out, salt, BatchKind::Data, 41, 40, &[(7, 1, 300)]);
        out
    }

    #[test]
    fn a_batch_comes_back_and_only_under_its_own_salt() {
        let bytes = batch(99);
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let Found::Header(header) = find_header(&bytes, 99) else { panic!("a header") };
        assert_eq!(
            (header.batch_seq, header.durable_seq, header.rows.as_slice()),
            (41, 40, &[(7, 1, 300)][..])
        );
        let payload = header.payload(&bytes, 99).expect("whole");
        let body = Payload::copy_from(&payload[RECORD_HEAD_BYTES..]);
        let record = decode_body(&body, true).expect("decodes");
        assert_eq!(
            (record.slot, record.sequence, record.reset, record.checkpoint),
            (7, 300, true, Some((1, 2)))
        );
        assert_eq!(record.entries, [entry(8), entry(9)]);
        assert_eq!(find_header(&bytes, 98), Found::Nothing);
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let bytes = batch(99);
        let used = {
            let Found::Header(header) = find_header(&bytes, 99) else { panic!("a header") };
            header.payload_at() + header.payload_bytes
        };
        for bit in 0..used * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let whole = match find_header(&bytes, 99) {
                Found::Header(header) => header.payload(&bytes, 99).is_some(),
                Found::Nothing | Found::Unknown(_) => false,
            };
            assert!(!whole, "bit {bit}");
        }
    }
}
