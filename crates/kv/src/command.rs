// SPDX-License-Identifier: Apache-2.0

//! Commands of one slot and their answers.
//!
//! A command is a list of operations that happens whole or not at all: all conditions are looked at first, against the state before
//! the command; then the mutations happen in their order. Anything that is not a well-formed command has an answer too
//! ([`Refusal`]), the same one on every replica, so that no committed entry can stop a group (decision 9).
//!
//! ```text
//! command   := version:u8=1  count:varint  operation*
//! operation := kind:u8  condition:u8  key:bytes  [revision:varint if condition = 1]  [value:bytes if kind = put]
//! kind      := 1 put | 2 delete | 3 check        condition := 0 none | 1 revision equals | 2 absent | 3 exists
//!
//! answer    := version:u8=1  kind:u8  …
//!   0 applied           revision:varint  count:varint  outcome*
//!   1 condition failed  revision:varint  position:varint  current:varint (0: absent)
//!   2 refused           reason:u8
//! outcome   := 1 put revision:varint | 2 deleted revision:varint | 3 nothing to delete | 4 checked
//! ```
//!
//! `revision` in an answer is the group's after the command.

use std::fmt;

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{COMMAND_BYTES_MAX, KEY_BYTES_MAX};
use mraft_types::slots::slot_of_key;

/// Most operations of one command. Bounds the answer, which is kept until the client has it.
pub const OPERATIONS_MAX: usize = 16_384;

pub(crate) const VERSION: u8 = 1;
pub(crate) const KIND_PUT: u8 = 1;
const KIND_DELETE: u8 = 2;
const KIND_CHECK: u8 = 3;
pub(crate) const CONDITION_NONE: u8 = 0;
const CONDITION_REVISION: u8 = 1;
const CONDITION_ABSENT: u8 = 2;
const CONDITION_EXISTS: u8 = 3;
const ANSWER_APPLIED: u8 = 0;
const ANSWER_CONDITION_FAILED: u8 = 1;
const ANSWER_REFUSED: u8 = 2;
const OUTCOME_PUT: u8 = 1;
const OUTCOME_DELETED: u8 = 2;
const OUTCOME_NOT_FOUND: u8 = 3;
const OUTCOME_CHECKED: u8 = 4;

/// What must hold of a key before the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// It exists and was last written at this revision.
    Revision(u64),
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
}

impl Condition {
    /// Whether it holds of a key with this revision (`None`: absent).
    pub fn holds(self, current: Option<u64>) -> bool {
        match self {
            Condition::None => true,
            Condition::Revision(revision) => current == Some(revision),
            Condition::Absent => current.is_none(),
            Condition::Exists => current.is_some(),
        }
    }
}

/// One operation of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Writes a value.
    Put {
        /// Where.
        key: &'a [u8],
        /// What.
        value: &'a [u8],
        /// Only if.
        condition: Condition,
    },
    /// Deletes a key. Of an absent key it changes nothing (rule E2).
    Delete {
        /// Which.
        key: &'a [u8],
        /// Only if.
        condition: Condition,
    },
    /// Changes nothing; the command happens only if the condition holds.
    Check {
        /// Of which key.
        key: &'a [u8],
        /// What must hold; never [`Condition::None`].
        condition: Condition,
    },
}

impl<'a> Operation<'a> {
    /// The key.
    pub fn key(&self) -> &'a [u8] {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key, .. } | Operation::Check { key, .. } => key,
        }
    }

    /// The condition.
    pub fn condition(&self) -> Condition {
        match self {
            Operation::Put { condition, .. }
            | Operation::Delete { condition, .. }
            | Operation::Check { condition, .. } => *condition,
        }
    }
}

/// Appends the command with these operations.
pub fn encode(operations: &[Operation<'_>], out: &mut Vec<u8>) {
    out.put_u8(VERSION);
    out.put_varint(operations.len() as u64);
    for operation in operations {
        let (kind, value) = match operation {
            Operation::Put { value, .. } => (KIND_PUT, Some(value)),
            Operation::Delete { .. } => (KIND_DELETE, None),
            Operation::Check { .. } => (KIND_CHECK, None),
        };
        out.put_u8(kind);
        let (condition, revision) = match operation.condition() {
            Condition::None => (CONDITION_NONE, None),
            Condition::Revision(revision) => (CONDITION_REVISION, Some(revision)),
            Condition::Absent => (CONDITION_ABSENT, None),
            Condition::Exists => (CONDITION_EXISTS, None),
        };
        out.put_u8(condition);
        out.put_bytes(operation.key());
        if let Some(revision) = revision {
            out.put_varint(revision);
        }
        if let Some(value) = value {
            out.put_bytes(value);
        }
    }
}

/// Appends the command that puts one value without a condition: the common case.
pub fn encode_put(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    encode(&[Operation::Put { key, value, condition: Condition::None }], out);
}

/// Reads a command and checks everything that can be checked without the state: what a door asks before it proposes, and what every
/// replica asks again when it applies.
pub fn decode(body: &[u8]) -> Result<Vec<Operation<'_>>, Refusal> {
    if body.len() > COMMAND_BYTES_MAX {
        return Err(Refusal::TooLong);
    }
    let mut reader = Reader::new(body);
    match reader.u8("version") {
        Ok(VERSION) => {}
        Ok(_) => return Err(Refusal::UnknownVersion),
        Err(_) => return Err(Refusal::Malformed),
    }
    let count = match reader.bounded("count", OPERATIONS_MAX) {
        Ok(0) => return Err(Refusal::Malformed),
        Ok(count) => count,
        Err(DecodeError::TooLong(..)) => return Err(Refusal::TooManyOperations),
        Err(_) => return Err(Refusal::Malformed),
    };
    let mut operations = Vec::with_capacity(count.min(reader.remaining()));
    for _ in 0..count {
        operations.push(decode_operation(&mut reader)?);
    }
    if reader.remaining() > 0 {
        return Err(Refusal::Malformed);
    }
    if let [first, others @ ..] = operations.as_slice()
        && !others.is_empty()
    {
        let slot = slot_of_key(first.key());
        if others.iter().any(|other| slot_of_key(other.key()) != slot) {
            return Err(Refusal::ManySlots);
        }
    }
    Ok(operations)
}

fn decode_operation<'a>(reader: &mut Reader<'a>) -> Result<Operation<'a>, Refusal> {
    let kind = reader.u8("kind").map_err(malformed)?;
    let condition = reader.u8("condition").map_err(malformed)?;
    let key = match reader.bytes("key", KEY_BYTES_MAX) {
        Ok([]) | Err(DecodeError::TooLong(..)) => return Err(Refusal::KeyLength),
        Ok(key) => key,
        Err(_) => return Err(Refusal::Malformed),
    };
    let condition = match condition {
        CONDITION_NONE => Condition::None,
        CONDITION_REVISION => Condition::Revision(reader.varint("revision").map_err(malformed)?),
        CONDITION_ABSENT => Condition::Absent,
        CONDITION_EXISTS => Condition::Exists,
        _ => return Err(Refusal::Malformed),
    };
    match (kind, condition) {
        (KIND_PUT, _) => {
            let value = reader.bytes("value", COMMAND_BYTES_MAX).map_err(malformed)?;
            Ok(Operation::Put { key, value, condition })
        }
        (KIND_DELETE, _) => Ok(Operation::Delete { key, condition }),
        (KIND_CHECK, Condition::None) => Err(Refusal::Malformed),
        (KIND_CHECK, _) => Ok(Operation::Check { key, condition }),
        _ => Err(Refusal::Malformed),
    }
}

fn malformed(_: DecodeError) -> Refusal {
    Refusal::Malformed
}

/// The key and value if the body is one put without a condition; the full decoder decides about everything else.
pub(crate) fn decode_lone_put(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let [VERSION, 1, KIND_PUT, CONDITION_NONE, rest @ ..] = body else { return None };
    if body.len() > COMMAND_BYTES_MAX {
        return None;
    }
    let mut reader = Reader::new(rest);
    let key = reader.bytes("key", KEY_BYTES_MAX).ok().filter(|key| !key.is_empty())?;
    let value = reader.bytes("value", COMMAND_BYTES_MAX).ok()?;
    (reader.remaining() == 0).then_some((key, value))
}

/// Why a command is no command. The numbers are in answers and so in hashes of answers: never reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are not what a command looks like.
    Malformed = 1,
    /// A version that this build does not know.
    UnknownVersion = 2,
    /// More than [`OPERATIONS_MAX`] operations.
    TooManyOperations = 3,
    /// A key is empty or longer than 4 KiB.
    KeyLength = 4,
    /// The keys are not all of one slot (rule E6).
    ManySlots = 5,
    /// More than `COMMAND_BYTES_MAX` bytes.
    TooLong = 6,
}

impl Refusal {
    fn from_byte(byte: u8) -> Option<Refusal> {
        [
            Refusal::Malformed,
            Refusal::UnknownVersion,
            Refusal::TooManyOperations,
            Refusal::KeyLength,
            Refusal::ManySlots,
            Refusal::TooLong,
        ]
        .into_iter()
        .find(|refusal| *refusal as u8 == byte)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed => f.write_str("these bytes are not a command"),
            Refusal::UnknownVersion => f.write_str("a command of a version that this build does not know"),
            Refusal::TooManyOperations => {
                write!(f, "more than {OPERATIONS_MAX} operations in one command")
            }
            Refusal::KeyLength => write!(f, "a key must have 1 to {KEY_BYTES_MAX} bytes"),
            Refusal::ManySlots => {
                f.write_str("the keys of one command must be of one slot; use a common {tag}")
            }
            Refusal::TooLong => write!(f, "a command may have {COMMAND_BYTES_MAX} bytes at most"),
        }
    }
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Written at this revision.
    Put {
        /// The key's new revision.
        revision: u64,
    },
    /// Deleted at this revision.
    Deleted {
        /// The group's revision at the deletion.
        revision: u64,
    },
    /// There was nothing to delete; nothing changed.
    NotFound,
    /// A check that held.
    Checked,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It happened.
    Applied {
        /// The group's revision after it.
        revision: u64,
        /// One outcome per operation.
        outcomes: Vec<Outcome>,
    },
    /// A condition did not hold; nothing happened.
    ConditionFailed {
        /// The group's revision.
        revision: u64,
        /// Which operation's condition it was, from 0; the first one if there are several.
        position: u32,
        /// The key's revision; `None` when it does not exist.
        current: Option<u64>,
    },
    /// It was no command; nothing happened.
    Refused(Refusal),
}

impl Answer {
    /// Reads an answer.
    pub fn decode(answer: &[u8]) -> Result<Answer, DecodeError> {
        let mut reader = Reader::new(answer);
        match reader.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Unknown("version", u64::from(other))),
        }
        let decoded = match reader.u8("kind")? {
            ANSWER_APPLIED => {
                let revision = reader.varint("revision")?;
                let count = reader.bounded("count", OPERATIONS_MAX)?;
                let mut outcomes = Vec::with_capacity(count.min(reader.remaining()));
                for _ in 0..count {
                    outcomes.push(match reader.u8("outcome")? {
                        OUTCOME_PUT => Outcome::Put { revision: reader.varint("revision")? },
                        OUTCOME_DELETED => Outcome::Deleted { revision: reader.varint("revision")? },
                        OUTCOME_NOT_FOUND => Outcome::NotFound,
                        OUTCOME_CHECKED => Outcome::Checked,
                        other => return Err(DecodeError::Unknown("outcome", u64::from(other))),
                    });
                }
                Answer::Applied { revision, outcomes }
            }
            ANSWER_CONDITION_FAILED => Answer::ConditionFailed {
                revision: reader.varint("revision")?,
                position: reader.bounded("position", OPERATIONS_MAX)? as u32,
                current: Some(reader.varint("current")?).filter(|current| *current != 0),
            },
            ANSWER_REFUSED => {
                let reason = reader.u8("reason")?;
                let refusal = Refusal::from_byte(reason);
                Answer::Refused(refusal.ok_or(DecodeError::Unknown("reason", u64::from(reason)))?)
            }
            other => return Err(DecodeError::Unknown("kind", u64::from(other))),
        };
        reader.finish()?;
        Ok(decoded)
    }

    /// Appends the answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        match self {
            Answer::Applied { revision, outcomes } => {
                out.put_u8(ANSWER_APPLIED);
                out.put_varint(*revision);
                out.put_varint(outcomes.len() as u64);
                for outcome in outcomes {
                    match outcome {
                        Outcome::Put { revision } => {
                            out.put_u8(OUTCOME_PUT);
                            out.put_varint(*revision);
                        }
                        Outcome::Deleted { revision } => {
                            out.put_u8(OUTCOME_DELETED);
                            out.put_varint(*revision);
                        }
                        Outcome::NotFound => out.put_u8(OUTCOME_NOT_FOUND),
                        Outcome::Checked => out.put_u8(OUTCOME_CHECKED),
                    }
                }
            }
            Answer::ConditionFailed { revision, position, current } => {
                out.put_u8(ANSWER_CONDITION_FAILED);
                out.put_varint(*revision);
                out.put_varint(u64::from(*position));
                out.put_varint(current.unwrap_or(0));
            }
            Answer::Refused(refusal) => {
                out.put_u8(ANSWER_REFUSED);
                out.put_u8(*refusal as u8);
            }
        }
    }
}

/// Appends the answer to a lone put: the same bytes as [`Answer::encode`] without a list in between.
pub(crate) fn encode_lone_put_answer(revision: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, ANSWER_APPLIED]);
    out.put_varint(revision);
    out.extend_from_slice(&[1, OUTCOME_PUT]);
    out.put_varint(revision);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(operations: &[Operation<'_>]) -> Vec<u8> {
        let mut body = Vec::new();
        encode(operations, &mut body);
        body
    }

    #[test]
    fn commands_and_answers_come_back_as_they_went() {
        let operations = [
            Operation::Put { key: b"{t}a", value: b"1", condition: Condition::Absent },
            Operation::Delete { key: b"{t}b", condition: Condition::Revision(300) },
            Operation::Check { key: b"{t}c", condition: Condition::Exists },
        ];
        assert_eq!(decode(&encoded(&operations)).as_deref(), Ok(&operations[..]));
        for answer in [
            Answer::Applied {
                revision: 9,
                outcomes: vec![
                    Outcome::Put { revision: 8 },
                    Outcome::Deleted { revision: 9 },
                    Outcome::NotFound,
                    Outcome::Checked,
                ],
            },
            Answer::ConditionFailed { revision: 300, position: 2, current: None },
            Answer::ConditionFailed { revision: 300, position: 0, current: Some(7) },
            Answer::Refused(Refusal::ManySlots),
        ] {
            let mut bytes = Vec::new();
            answer.encode(&mut bytes);
            assert_eq!(Answer::decode(&bytes), Ok(answer));
        }
    }

    #[test]
    fn the_short_way_of_a_lone_put_is_the_long_way() {
        let mut body = Vec::new();
        encode_put(b"key", b"value", &mut body);
        assert_eq!(decode_lone_put(&body), Some((&b"key"[..], &b"value"[..])));
        let mut short = Vec::new();
        encode_lone_put_answer(300, &mut short);
        let applied = Answer::Applied { revision: 300, outcomes: vec![Outcome::Put { revision: 300 }] };
        assert_eq!(Answer::decode(&short), Ok(applied));
        for operations in [
            &[Operation::Put { key: b"k", value: b"v", condition: Condition::Exists }][..],
            &[Operation::Delete { key: b"k", condition: Condition::None }],
            &[Operation::Put { key: b"", value: b"v", condition: Condition::None }],
        ] {
            assert_eq!(decode_lone_put(&encoded(operations)), None);
        }
    }

    #[test]
    fn e6_operations_of_two_slots_are_refused() {
        let put = |key| Operation::Put { key, value: b"", condition: Condition::None };
        assert_eq!(decode(&encoded(&[put(b"a"), put(b"b")])), Err(Refusal::ManySlots));
        assert!(decode(&encoded(&[put(b"{x}a"), put(b"{x}b")])).is_ok());
    }

    #[test]
    fn what_is_no_command_is_refused_with_a_reason() {
        let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
        let check = Operation::Check { key: b"k", condition: Condition::None };
        let mut many = vec![VERSION];
        many.put_varint(OPERATIONS_MAX as u64 + 1);
        let mut trailing = encoded(&[Operation::Delete { key: b"k", condition: Condition::None }]);
        trailing.push(0);
        for (body, refusal) in [
            (vec![], Refusal::Malformed),
            (vec![2, 1], Refusal::UnknownVersion),
            (vec![1, 0], Refusal::Malformed),
            (many, Refusal::TooManyOperations),
            (trailing, Refusal::Malformed),
            (encoded(&[check]), Refusal::Malformed),
            (encoded(&[Operation::Delete { key: b"", condition: Condition::None }]), Refusal::KeyLength),
            (
                encoded(&[Operation::Delete { key: &long_key, condition: Condition::None }]),
                Refusal::KeyLength,
            ),
            (vec![0; COMMAND_BYTES_MAX + 1], Refusal::TooLong),
        ] {
            assert_eq!(decode(&body), Err(refusal));
        }
    }
}
