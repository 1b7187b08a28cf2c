// SPDX-License-Identifier: Apache-2.0

//! Batches as bytes: all that a node wrote in one turn, with one write and one sync (`docs/formats/log.md`, "Batch").

use mraft_types::codec::{DecodeError, Reader};

use crate::record::{NUMBER_MAX, Salt};
use crate::segment::SEGMENT_HEADER_BYTES;

/// Batches begin on a multiple of this: no write touches a block that holds a synced batch (rule L2).
pub const BLOCK_BYTES: usize = 4096;
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
pub(crate) const ROW_BYTES: usize = 16;
const BATCH_MAGIC: [u8; 4] = *b"mrb1";
const BATCH_VERSION: u8 = 1;
/// The only stream so far (rule L1).
const STREAM: u32 = 0;
/// Where the header's checksum stands, behind everything else of the fixed part.
const CRC_AT: usize = 60;

/// What a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchKind {
    /// Records.
    Data,
    /// Nothing: says that everything before it is durable (rule L3).
    Seal,
}

/// Batches in a row that say that a buffer is too large.
const SMALL_BATCHES: u32 = 1024;
/// What a buffer has anyway.
const BUFFER_KEPT_BYTES: usize = 256 << 10;

/// Which records of a replica a batch holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) slot: u32,
    pub(crate) records: u32,
    pub(crate) first_sequence: u64,
}

/// The numbers in a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchNumbers {
    pub(crate) kind: BatchKind,
    pub(crate) batch_seq: u64,
    /// Everything up to this batch was durable when this one was written.
    pub(crate) durable_seq: u64,
    /// The oldest use that was still needed.
    pub(crate) oldest_use: u64,
}

/// A batch's header, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) numbers: BatchNumbers,
    pub(crate) rows: Vec<Row>,
    pub(crate) payload_bytes: usize,
    pub(crate) payload_crc: u32,
}

/// What stands where a batch could begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No header of this use of the segment.
    Nothing,
    /// A header that another version wrote: the file must not be touched.
    Unknown(u8),
    /// A whole header that contradicts itself: no log wrote it.
    Impossible,
    /// A header.
    Header(BatchHeader),
}

pub(crate) fn round_up(bytes: usize) -> usize {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Gives half of a buffer back after [`SMALL_BATCHES`] batches that needed less than a quarter of it: what one large batch took is not
/// kept for ever. Called with each batch that was written.
pub(crate) fn give_back(buffer: &mut Vec<u8>, small_in_a_row: &mut u32) {
    if buffer.capacity() <= BUFFER_KEPT_BYTES || buffer.len() >= buffer.capacity() / 4 {
        *small_in_a_row = 0;
        return;
    }
    *small_in_a_row += 1;
    if *small_in_a_row == SMALL_BATCHES {
        *small_in_a_row = 0;
        buffer.shrink_to((buffer.capacity() / 2).max(BUFFER_KEPT_BYTES));
    }
}

/// Begins a batch in a buffer, behind the segment's header if it is the first of a use.
pub(crate) fn begin(out: &mut Vec<u8>, segment_header: Option<&[u8; SEGMENT_HEADER_BYTES]>, rows: usize) {
    out.clear();
    if let Some(header) = segment_header {
        out.extend_from_slice(header);
    }
    out.resize(out.len() + BATCH_HEADER_BYTES + rows * ROW_BYTES, 0);
}

/// Ends the batch that begins at `at`: fills in its header and rows and pads it to the block.
pub(crate) fn finish(out: &mut Vec<u8>, at: usize, salt: Salt, numbers: BatchNumbers, rows: &[Row]) {
    let rows_at = at + BATCH_HEADER_BYTES;
    let payload_at = rows_at + rows.len() * ROW_BYTES;
    let payload_crc = salt.checksum(&out[payload_at..]);
    let payload_bytes = (out.len() - payload_at) as u32;
    let mut put =
        |offset: usize, bytes: &[u8]| out[at + offset..at + offset + bytes.len()].copy_from_slice(bytes);
    put(0, &BATCH_MAGIC);
    put(4, &[BATCH_VERSION, u8::from(numbers.kind == BatchKind::Seal), 0, 0]);
    put(8, &STREAM.to_le_bytes());
    put(12, &(rows.len() as u32).to_le_bytes());
    put(16, &salt.value.to_le_bytes());
    put(24, &numbers.batch_seq.to_le_bytes());
    put(32, &numbers.durable_seq.to_le_bytes());
    put(40, &numbers.oldest_use.to_le_bytes());
    put(48, &payload_bytes.to_le_bytes());
    put(52, &payload_crc.to_le_bytes());
    for (number, row) in rows.iter().enumerate() {
        let offset = BATCH_HEADER_BYTES + number * ROW_BYTES;
        put(offset, &row.slot.to_le_bytes());
        put(offset + 4, &row.records.to_le_bytes());
        put(offset + 8, &row.first_sequence.to_le_bytes());
    }
    let crc = header_crc(salt, &out[at..at + CRC_AT], &out[rows_at..payload_at]);
    out[at + CRC_AT..rows_at].copy_from_slice(&crc.to_le_bytes());
    let padded = at + round_up(out.len() - at);
    out.resize(padded, 0);
}

/// The salt that the header at the front of `bytes` claims, if it may be one at all.
pub(crate) fn claimed_salt(bytes: &[u8]) -> Option<Salt> {
    let mut reader = Reader::new(bytes);
    let magic = reader.take("batch.magic", 4).ok()?;
    reader.take("batch.version..rows", 12).ok()?;
    let salt = reader.u64("batch.salt").ok()?;
    (magic == BATCH_MAGIC).then(|| Salt::new(salt))
}

/// Number of rows that the header at the front of `bytes` claims to have, if it may be one at all.
pub(crate) fn claimed_rows(bytes: &[u8], salt: Salt) -> Option<usize> {
    let mut reader = Reader::new(bytes);
    let magic = reader.take("batch.magic", 4).ok()?;
    reader.take("batch.version..stream", 8).ok()?;
    let rows = reader.u32("batch.rows").ok()? as usize;
    let own = reader.u64("batch.salt").ok()? == salt.value;
    (magic == BATCH_MAGIC && own).then_some(rows)
}

/// Reads the header with its rows at the front of `bytes`.
pub(crate) fn decode(bytes: &[u8], salt: Salt) -> Found {
    parse(bytes, salt).unwrap_or(Found::Nothing)
}

fn parse(bytes: &[u8], salt: Salt) -> Result<Found, DecodeError> {
    let mut reader = Reader::new(bytes);
    if reader.take("batch.magic", 4)? != BATCH_MAGIC {
        return Ok(Found::Nothing);
    }
    let (version, kind) = (reader.u8("batch.version")?, reader.u8("batch.kind")?);
    let zero = reader.u16("batch.zero")?;
    let stream = reader.u32("batch.stream")?;
    let rows = reader.u32("batch.rows")? as usize;
    let own_salt = reader.u64("batch.salt")?;
    let (batch_seq, durable_seq) = (reader.u64("batch.batch_seq")?, reader.u64("batch.durable_seq")?);
    let oldest_use = reader.u64("batch.oldest_use")?;
    let (payload_bytes, payload_crc) =
        (reader.u32("batch.payload_bytes")? as usize, reader.u32("batch.payload_crc")?);
    reader.u32("batch.reserved")?;
    let crc = reader.u32("batch.header_crc")?;
    let table = reader.take("batch.rows", rows.saturating_mul(ROW_BYTES))?;
    if own_salt != salt.value || header_crc(salt, &bytes[..CRC_AT], table) != crc {
        return Ok(Found::Nothing);
    }
    let kind = match kind {
        0 => BatchKind::Data,
        1 => BatchKind::Seal,
        _ => return Ok(Found::Unknown(version)),
    };
    if version != BATCH_VERSION || zero != 0 || stream != STREAM {
        return Ok(Found::Unknown(version));
    }
    let mut table = Reader::new(table);
    let mut list = Vec::with_capacity(rows);
    for _ in 0..rows {
        let (slot, records) = (table.u32("row.slot")?, table.u32("row.records")?);
        list.push(Row { slot, records, first_sequence: table.u64("row.first_sequence")? });
    }
    let is_counted = list.iter().all(|row| row.first_sequence <= NUMBER_MAX);
    let is_as_its_kind = (kind == BatchKind::Seal) == (rows == 0 && payload_bytes == 0);
    let is_numbered = batch_seq <= NUMBER_MAX && durable_seq < batch_seq && oldest_use <= NUMBER_MAX;
    if !is_numbered || !is_counted || !is_as_its_kind {
        return Ok(Found::Impossible);
    }
    let numbers = BatchNumbers { kind, batch_seq, durable_seq, oldest_use };
    Ok(Found::Header(BatchHeader { numbers, rows: list, payload_bytes, payload_crc }))
}

fn header_crc(salt: Salt, fixed: &[u8], table: &[u8]) -> u32 {
    crc32c::crc32c_append(salt.checksum(fixed), table)
}

impl BatchHeader {
    /// Bytes of header and rows.
    pub(crate) fn payload_at(&self) -> usize {
        BATCH_HEADER_BYTES + self.rows.len() * ROW_BYTES
    }

    /// Bytes of the whole batch, padding included.
    pub(crate) fn batch_bytes(&self) -> usize {
        round_up(self.payload_at() + self.payload_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: Row = Row { slot: 7, records: 1, first_sequence: 300 };

    fn batch(salt: Salt) -> Vec<u8> {
        let mut out = Vec::new();
        begin(&mut out, None, 1);
        out.extend_from_slice(b"records");
        let numbers = BatchNumbers { kind: BatchKind::Data, batch_seq: 41, durable_seq: 40, oldest_use: 3 };
        finish(&mut out, 0, salt, numbers, &[ROW]);
        out
    }

    #[test]
    fn a_header_comes_back_and_only_under_its_own_salt() {
        let bytes = batch(Salt::new(99));
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let Found::Header(header) = decode(&bytes, Salt::new(99)) else { panic!("a header") };
        assert_eq!((header.numbers.batch_seq, header.numbers.durable_seq), (41, 40));
        assert_eq!((header.numbers.oldest_use, header.rows.as_slice()), (3, &[ROW][..]));
        assert_eq!(header.payload_crc, Salt::new(99).checksum(b"records"));
        assert_eq!(decode(&bytes, Salt::new(98)), Found::Nothing);
    }

    #[test]
    fn what_one_large_batch_took_is_given_back_by_and_by() {
        let (mut buffer, mut small, content) = (Vec::new(), 0, vec![0; 2 << 20]);
        let mut write = |bytes: usize| {
            buffer.clear();
            buffer.extend_from_slice(&content[..bytes]);
            give_back(&mut buffer, &mut small);
            (buffer.len(), buffer.capacity())
        };
        let large = write(content.len()).1;
        for _ in 0..2 * SMALL_BATCHES {
            write(4 << 10);
            write(large / 4);
        }
        assert_eq!(write(large / 4).1, large, "one in two needs it");
        (1..SMALL_BATCHES).for_each(|_| _ = write(4 << 10));
        assert_eq!(write(4 << 10), (4 << 10, large / 2));
        (0..10 * SMALL_BATCHES).for_each(|_| _ = write(4 << 10));
        assert_eq!(write(4 << 10).1, BUFFER_KEPT_BYTES);
    }

    #[test]
    fn a_header_that_contradicts_itself_is_nothing_that_a_log_wrote() {
        let found = |batch_seq, durable_seq, oldest_use, first_sequence| {
            let (mut out, salt) = (Vec::new(), Salt::new(99));
            begin(&mut out, None, 1);
            let numbers = BatchNumbers { kind: BatchKind::Data, batch_seq, durable_seq, oldest_use };
            finish(&mut out, 0, salt, numbers, &[Row { first_sequence, ..ROW }]);
            decode(&out, salt)
        };
        assert!(matches!(found(NUMBER_MAX, 40, 3, 1), Found::Header(_)));
        for impossible in [
            found(u64::MAX, 40, 3, 1),
            found(41, 41, 3, 1),
            found(41, 40, u64::MAX, 1),
            found(41, 40, 3, u64::MAX),
        ] {
            assert_eq!(impossible, Found::Impossible);
        }
    }

    #[test]
    fn any_flipped_bit_of_header_and_rows_is_noticed() {
        let bytes = batch(Salt::new(99));
        for bit in 0..(BATCH_HEADER_BYTES + ROW_BYTES) * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bytes, Salt::new(99)), Found::Nothing, "bit {bit}");
        }
    }
}
