// SPDX-License-Identifier: Apache-2.0

//! Queries and their answers.
//!
//! ```text
//! query  := version:u8=1  kind:u8  …
//!   1 get     key:bytes
//!   2 scan    prefix:bytes  after:u8 [key:bytes if 1]  limit:varint  max_bytes:varint
//!   3 status
//! answer := version:u8=1  kind:u8  …
//!   0 refused reason:u8
//!   1 get     group_revision:varint  applied:varint  found:u8 [revision:varint  value (the rest) if 1]
//!   2 scan    group_revision:varint  applied:varint  (1:u8 key:bytes revision:varint value:bytes)*  0:u8  next:u8 [key:bytes if 1]
//!   3 status  group_revision:varint  applied:varint  persisted:varint  unpersisted_bytes:varint  disk_bytes:varint
//! ```
//!
//! Queries and answers live no longer than a connection, but they cross nodes of different builds: a version that is not known is
//! refused.

use mraft_types::codec::{DecodeError, Reader, Writer};
use mraft_types::limits::{COMMAND_BYTES_MAX, KEY_BYTES_MAX};

use crate::meta::Point;

/// Most entries of one page of a scan.
pub const SCAN_ENTRIES_MAX: usize = 10_000;
/// Most bytes of keys and values of one page, unless its first entry alone is larger.
pub const SCAN_BYTES_MAX: usize = 4 << 20;

const VERSION: u8 = 1;
const REFUSED: u8 = 0;
const GET: u8 = 1;
const SCAN: u8 = 2;
const STATUS: u8 = 3;

/// A question about published state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// One key.
    Get {
        /// Which.
        key: &'a [u8],
    },
    /// Keys with a prefix, in bytewise order.
    Scan {
        /// What they begin with; may be empty.
        prefix: &'a [u8],
        /// Only keys greater than this one.
        after: Option<&'a [u8]>,
        /// Entries at most, at least one; [`SCAN_ENTRIES_MAX`] holds too.
        limit: usize,
        /// Bytes at most; [`SCAN_BYTES_MAX`] holds too. The first entry is given whatever it weighs.
        max_bytes: usize,
    },
    /// The machine about itself.
    Status,
}

impl<'a> Query<'a> {
    /// Appends the query.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        match self {
            Query::Get { key } => {
                out.put_u8(GET);
                out.put_bytes(key);
            }
            Query::Scan { prefix, after, limit, max_bytes } => {
                out.put_u8(SCAN);
                out.put_bytes(prefix);
                put_optional(*after, out);
                out.put_varint(*limit as u64);
                out.put_varint(*max_bytes as u64);
            }
            Query::Status => out.put_u8(STATUS),
        }
    }

    /// Reads a query and checks its keys.
    pub fn decode(query: &'a [u8]) -> Result<Query<'a>, QueryRefusal> {
        let mut reader = Reader::new(query);
        if reader.u8("version")? != VERSION {
            return Err(QueryRefusal::UnknownVersion);
        }
        let decoded = match reader.u8("kind")? {
            GET => {
                let key = reader.bytes("key", KEY_BYTES_MAX)?;
                if key.is_empty() {
                    return Err(QueryRefusal::Malformed);
                }
                Query::Get { key }
            }
            SCAN => Query::Scan {
                prefix: reader.bytes("prefix", KEY_BYTES_MAX)?,
                after: optional(&mut reader)?,
                limit: reader.varint("limit")?.clamp(1, SCAN_ENTRIES_MAX as u64) as usize,
                max_bytes: reader.varint("max_bytes")?.min(SCAN_BYTES_MAX as u64) as usize,
            },
            STATUS => Query::Status,
            _ => return Err(QueryRefusal::Malformed),
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// Why a query is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[non_exhaustive]
pub enum QueryRefusal {
    /// The bytes are not what a query looks like.
    Malformed = 1,
    /// A version that this build does not know.
    UnknownVersion = 2,
}

impl From<DecodeError> for QueryRefusal {
    fn from(_: DecodeError) -> QueryRefusal {
        QueryRefusal::Malformed
    }
}

/// One entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The revision of its last write.
    pub revision: u64,
    /// Its value.
    pub value: Vec<u8>,
}

/// The answer to a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryAnswer {
    /// It was none.
    Refused(QueryRefusal),
    /// To [`Query::Get`].
    Get {
        /// The group's revision at the published point.
        group_revision: u64,
        /// Index of the published point.
        applied: u64,
        /// Revision and value; `None` when the key does not exist.
        found: Option<(u64, Vec<u8>)>,
    },
    /// To [`Query::Scan`].
    Scan {
        /// The group's revision at the published point, of which the whole page is.
        group_revision: u64,
        /// Index of the published point.
        applied: u64,
        /// In bytewise order of their keys.
        entries: Vec<ScanEntry>,
        /// Where to go on (as `after`) if there may be more.
        next: Option<Vec<u8>>,
    },
    /// To [`Query::Status`].
    Status(Status),
}

/// What the machine says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// The group's revision at the published point.
    pub group_revision: u64,
    /// Index of the published point.
    pub applied: u64,
    /// Index that a crash would come back with.
    pub persisted: u64,
    /// Memory held for what is not persisted.
    pub unpersisted_bytes: u64,
    /// Bytes of live tables.
    pub disk_bytes: u64,
}

impl QueryAnswer {
    /// Reads an answer.
    pub fn decode(answer: &[u8]) -> Result<QueryAnswer, DecodeError> {
        let mut reader = Reader::new(answer);
        match reader.u8("version")? {
            VERSION => {}
            other => return Err(DecodeError::Unknown("version", u64::from(other))),
        }
        let decoded = match reader.u8("kind")? {
            REFUSED => QueryAnswer::Refused(match reader.u8("reason")? {
                1 => QueryRefusal::Malformed,
                2 => QueryRefusal::UnknownVersion,
                other => return Err(DecodeError::Unknown("reason", u64::from(other))),
            }),
            GET => {
                let (group_revision, applied) = (reader.varint("group_revision")?, reader.varint("applied")?);
                let found = if flag(&mut reader, "found")? {
                    let revision = reader.varint("revision")?;
                    Some((revision, reader.take("value", reader.remaining())?.to_vec()))
                } else {
                    None
                };
                QueryAnswer::Get { group_revision, applied, found }
            }
            SCAN => {
                let (group_revision, applied) = (reader.varint("group_revision")?, reader.varint("applied")?);
                let mut entries = Vec::new();
                while flag(&mut reader, "entry")? {
                    if entries.len() == SCAN_ENTRIES_MAX {
                        return Err(DecodeError::TooLong("entries", SCAN_ENTRIES_MAX as u64));
                    }
                    let key = reader.bytes("key", KEY_BYTES_MAX)?.to_vec();
                    let revision = reader.varint("revision")?;
                    let value = reader.bytes("value", COMMAND_BYTES_MAX)?.to_vec();
                    entries.push(ScanEntry { key, revision, value });
                }
                let next = optional(&mut reader)?.map(<[u8]>::to_vec);
                QueryAnswer::Scan { group_revision, applied, entries, next }
            }
            STATUS => QueryAnswer::Status(Status {
                group_revision: reader.varint("group_revision")?,
                applied: reader.varint("applied")?,
                persisted: reader.varint("persisted")?,
                unpersisted_bytes: reader.varint("unpersisted_bytes")?,
                disk_bytes: reader.varint("disk_bytes")?,
            }),
            other => return Err(DecodeError::Unknown("kind", u64::from(other))),
        };
        reader.finish()?;
        Ok(decoded)
    }
}

/// The applied index that an answer to a get or a scan is of, without reading the rest.
pub fn applied_of(answer: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(answer);
    reader.u8("version")?;
    match reader.u8("kind")? {
        GET | SCAN => {
            reader.varint("group_revision")?;
            reader.varint("applied")
        }
        other => Err(DecodeError::Unknown("kind", u64::from(other))),
    }
}

pub(crate) fn put_refusal(refusal: QueryRefusal, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, REFUSED, refusal as u8]);
}

/// The published point that an answer is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At {
    pub revision: u64,
    pub applied: u64,
}

impl From<&Point> for At {
    fn from(point: &Point) -> At {
        At { revision: point.revision, applied: point.applied }
    }
}

impl At {
    fn put(self, out: &mut Vec<u8>) {
        out.put_varint(self.revision);
        out.put_varint(self.applied);
    }
}

pub(crate) fn put_get(at: At, found: Option<(u64, &[u8])>, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, GET]);
    at.put(out);
    out.put_u8(u8::from(found.is_some()));
    if let Some((revision, value)) = found {
        out.put_varint(revision);
        out.put_raw(value);
    }
}

pub(crate) fn begin_scan(at: At, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, SCAN]);
    at.put(out);
}

pub(crate) fn put_scan_entry(key: &[u8], revision: u64, value: &[u8], out: &mut Vec<u8>) {
    out.put_u8(1);
    out.put_bytes(key);
    out.put_varint(revision);
    out.put_bytes(value);
}

pub(crate) fn end_scan(next: Option<&[u8]>, out: &mut Vec<u8>) {
    out.put_u8(0);
    put_optional(next, out);
}

pub(crate) fn put_status(status: Status, out: &mut Vec<u8>) {
    out.extend_from_slice(&[VERSION, STATUS]);
    let Status { group_revision, applied, persisted, unpersisted_bytes, disk_bytes } = status;
    for field in [group_revision, applied, persisted, unpersisted_bytes, disk_bytes] {
        out.put_varint(field);
    }
}

fn put_optional(key: Option<&[u8]>, out: &mut Vec<u8>) {
    out.put_u8(u8::from(key.is_some()));
    if let Some(key) = key {
        out.put_bytes(key);
    }
}

fn optional<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    if flag(reader, "present")? { reader.bytes("key", KEY_BYTES_MAX).map(Some) } else { Ok(None) }
}

fn flag(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, DecodeError> {
    match reader.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Invalid(field, u64::from(other))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_back_as_they_went() {
        for query in [
            Query::Get { key: b"k" },
            Query::Scan { prefix: b"", after: Some(b"a"), limit: 7, max_bytes: 8 },
            Query::Scan { prefix: b"p", after: None, limit: 7, max_bytes: 8 },
            Query::Status,
        ] {
            let mut bytes = Vec::new();
            query.encode(&mut bytes);
            assert_eq!(Query::decode(&bytes), Ok(query));
            bytes.push(0);
            assert_eq!(Query::decode(&bytes), Err(QueryRefusal::Malformed));
        }
        assert_eq!(Query::decode(&[2, 1]), Err(QueryRefusal::UnknownVersion));
        assert_eq!(Query::decode(&[1, 1, 0]), Err(QueryRefusal::Malformed));
    }

    #[test]
    fn a_page_is_bounded_whatever_the_query_says() {
        let mut bytes = Vec::new();
        let greedy = Query::Scan { prefix: b"", after: None, limit: usize::MAX, max_bytes: usize::MAX };
        greedy.encode(&mut bytes);
        let bounded =
            Query::Scan { prefix: b"", after: None, limit: SCAN_ENTRIES_MAX, max_bytes: SCAN_BYTES_MAX };
        assert_eq!(Query::decode(&bytes), Ok(bounded));
    }
}
