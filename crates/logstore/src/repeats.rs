// SPDX-License-Identifier: Apache-2.0

//! Records that stand in a log twice.
//!
//! An opening writes the last batch of the process before again (rule D7): the same records, under the numbers that they had. No other
//! record has the number of an earlier one. What differs from the record that it seems to repeat was written by no log: it must not pass
//! for a repetition, because it counts as soon as the segment of the first one is used again.

use std::collections::BTreeMap;
use std::ops::Range;

use mraft_types::codec::{DecodeError, Reader};

use crate::record::{RECORD_HEAD_BYTES, Salt, decode_record_head};

/// The last batch that counts: all that a later one may repeat.
#[derive(Debug, Default)]
pub(crate) struct LastBatch {
    payload: Vec<u8>,
    /// Records count one by one, under this salt: others of the batch are damaged.
    damaged: Option<Salt>,
    /// Something behind it is lost: that may be what is repeated.
    is_followed_by_loss: bool,
    /// Where the body of each record is, by slot and number; made when the first one is asked for, since hardly a batch repeats anything.
    bodies: Option<BTreeMap<(u64, u64), Range<usize>>>,
}

impl LastBatch {
    /// A batch that is whole.
    pub(crate) fn whole(payload: Vec<u8>) -> LastBatch {
        LastBatch { payload, ..LastBatch::default() }
    }

    /// A batch of which some records are whole, by their checksums.
    pub(crate) fn damaged(payload: &[u8], salt: Salt) -> LastBatch {
        LastBatch { payload: payload.to_vec(), damaged: Some(salt), ..LastBatch::default() }
    }

    /// Something behind it is lost.
    pub(crate) fn note_loss(&mut self) {
        self.is_followed_by_loss = true;
    }

    /// Whether a record under a number that was there already says what that one said, as far as it is left.
    pub(crate) fn check(&mut self, slot: u64, sequence: u64, body: &[u8]) -> Result<(), DecodeError> {
        let is_all = self.damaged.is_none() && !self.is_followed_by_loss;
        let (payload, damaged) = (&self.payload, self.damaged);
        let bodies = self.bodies.get_or_insert_with(|| bodies(payload, damaged));
        match bodies.get(&(slot, sequence)) {
            Some(range) if payload.get(range.clone()) == Some(body) => Ok(()),
            None if !is_all => Ok(()),
            _ => Err(DecodeError::Invalid("record.sequence", sequence)),
        }
    }
}

fn bodies(payload: &[u8], damaged: Option<Salt>) -> BTreeMap<(u64, u64), Range<usize>> {
    let mut bodies = BTreeMap::new();
    let mut at = 0;
    while let Ok((len, crc)) = decode_record_head(&payload[at..]) {
        let range = at + RECORD_HEAD_BYTES..(at + RECORD_HEAD_BYTES).saturating_add(len);
        let Some(body) = payload.get(range.clone()) else { break };
        at = range.end;
        if damaged.is_none_or(|salt| salt.checksum(body) == crc)
            && let Ok(name) = slot_and_sequence(body)
        {
            bodies.insert(name, range);
        }
    }
    bodies
}

/// The replica of a record, and its number.
pub(crate) fn slot_and_sequence(body: &[u8]) -> Result<(u64, u64), DecodeError> {
    let mut reader = Reader::new(body);
    Ok((reader.varint("record.slot")?, reader.varint("record.sequence")?))
}

#[cfg(test)]
mod tests {
    use mraft_types::HardState;

    use super::*;
    use crate::record::{Head, encode};

    fn salt() -> Salt {
        Salt::new(7)
    }

    fn record(sequence: u64, term: u64) -> Vec<u8> {
        let hard_state = HardState { term, vote: None, commit: 0 };
        let head = Head { slot: 3, sequence, hard_state, state: None, reset: false, part: None };
        let mut out = Vec::new();
        encode(&mut out, salt(), &head, &[]);
        out
    }

    /// What a batch behind `before` is told that has a record under `sequence`.
    fn told(before: &mut LastBatch, sequence: u64, term: u64) -> Result<(), DecodeError> {
        before.check(3, sequence, &record(sequence, term)[RECORD_HEAD_BYTES..])
    }

    #[test]
    fn a_repetition_says_what_was_said() {
        let mut before = LastBatch::whole([record(5, 1), record(6, 1)].concat());
        assert_eq!(told(&mut before, 5, 1), Ok(()));
        assert_eq!(told(&mut before, 6, 1), Ok(()));
        let refused = |sequence| Err(DecodeError::Invalid("record.sequence", sequence));
        assert_eq!(told(&mut before, 6, 2), refused(6), "it says something else");
        assert_eq!(told(&mut before, 4, 1), refused(4), "only the last batch is written again");
        assert_eq!(told(&mut LastBatch::default(), 1, 1), refused(1));
    }

    #[test]
    fn what_is_damaged_or_lost_may_have_been_anything() {
        let mut records = [record(5, 1), record(6, 1)].concat();
        let last = records.len() - 1;
        records[last] ^= 1;
        let mut before = LastBatch::damaged(&records, salt());
        assert_eq!(
            told(&mut before, 6, 1),
            Ok(()),
            "damaged where it lies, whole where it was written again"
        );
        assert!(told(&mut before, 5, 2).is_err(), "of this one it is known what it said");

        let mut before = LastBatch::whole(record(5, 1));
        before.note_loss();
        assert_eq!(told(&mut before, 4, 1), Ok(()));
        assert!(told(&mut before, 5, 2).is_err());
    }
}
