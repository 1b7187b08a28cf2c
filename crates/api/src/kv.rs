// SPDX-License-Identifier: Apache-2.0

//! Keys and values: single keys, batches, scans.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::object::Object;
use crate::text::{BadBytes, bytes_of, optional_bytes_of, put_field};

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Reflects every write that was acknowledged before the read began (rule R2).
    #[default]
    Linearizable,
    /// What the nearest holder has applied; says how old it may be.
    Stale,
}

impl Consistency {
    /// The name in `?consistency=`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Stale => "stale",
        }
    }
}

/// What every answer says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// The group.
    pub group: u64,
    /// The group's revision: +1 per mutation (rule E2). In answers about one existing key, that key's.
    pub revision: u64,
    /// The Raft index that the answer reflects.
    pub index: u64,
    /// Node id of the group's leader, if known.
    pub leader: Option<u64>,
    /// Node id of who read or wrote.
    pub served_by: u64,
    /// Stale reads: milliseconds since that replica last knew that it was up to date, if it ever did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_ms: Option<u64>,
}

/// Answer to `PUT /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// Where and when; `revision` is the key's new one.
    #[serde(flatten)]
    pub served: Served,
}

/// Answer to `DELETE /v1/kv/{key}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteAnswer {
    /// 1 if the key existed, otherwise 0, and then nothing changed.
    pub deleted: u8,
}

/// Body of `POST /v1/batch`: all of it happens, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// In this order; all keys of one slot (rule E6).
    pub operations: Vec<BatchOperation>,
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchOperation {
    /// Writes a value.
    Put {
        /// Where.
        key: Vec<u8>,
        /// What.
        value: Vec<u8>,
    },
    /// Deletes a key; of an absent one it changes nothing.
    Delete {
        /// Which.
        key: Vec<u8>,
    },
    /// The batch happens only if the key has this revision, or does not exist.
    Check {
        /// Which.
        key: Vec<u8>,
        /// The revision; `None`: the key must not exist.
        revision: Option<u64>,
    },
}

impl BatchOperation {
    /// The key.
    pub fn key(&self) -> &[u8] {
        match self {
            BatchOperation::Put { key, .. }
            | BatchOperation::Delete { key }
            | BatchOperation::Check { key, .. } => key,
        }
    }
}

/// Answer to `POST /v1/batch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// Where and when; `revision` is the group's after the batch.
    #[serde(flatten)]
    pub served: Served,
    /// One per operation.
    pub results: Vec<BatchResult>,
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum BatchResult {
    /// Written.
    Put {
        /// The key's new revision.
        revision: u64,
    },
    /// Deleted, or nothing to delete.
    Delete {
        /// 1 if the key existed.
        deleted: u8,
        /// The group's revision at the deletion; `None` when nothing changed.
        revision: Option<u64>,
    },
    /// A check that held.
    Check {
        /// The key's revision before the batch; `None`: it did not exist.
        revision: Option<u64>,
    },
}

/// Most entries of one page of a scan; `limit` takes no more.
pub const SCAN_ENTRIES_MAX: usize = 1_000;

/// Answer to `GET /v1/scan`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanAnswer {
    /// In bytewise order of their keys, over all groups.
    pub entries: Vec<ScanEntry>,
    /// Give this as `after` to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
    /// What each group's page reflects; the pages are of different moments.
    pub groups: Vec<Served>,
}

/// One key of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanEntry {
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision of its last write.
    pub revision: u64,
    /// The group that holds it.
    pub group: u64,
}

impl Serialize for ScanEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ScanEntry", 4)?;
        put_field(&mut out, "key", "key_base64", &self.key)?;
        put_field(&mut out, "value", "value_base64", &self.value)?;
        out.serialize_field("revision", &self.revision)?;
        out.serialize_field("group", &self.group)?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for ScanEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ScanEntry, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            key: Option<String>,
            key_base64: Option<String>,
            value: Option<String>,
            value_base64: Option<String>,
            revision: u64,
            group: u64,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(ScanEntry {
            key: bytes_of("key", fields.key, fields.key_base64).map_err(refused)?,
            value: bytes_of("value", fields.value, fields.value_base64).map_err(refused)?,
            revision: fields.revision,
            group: fields.group,
        })
    }
}

impl Serialize for ScanAnswer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ScanAnswer", 3)?;
        out.serialize_field("entries", &self.entries)?;
        match &self.next {
            Some(next) => put_field(&mut out, "next", "next_base64", next)?,
            None => out.serialize_field("next", &None::<&str>)?,
        }
        out.serialize_field("groups", &self.groups)?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for ScanAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ScanAnswer, D::Error> {
        #[derive(Deserialize)]
        struct Fields {
            entries: Vec<ScanEntry>,
            next: Option<String>,
            next_base64: Option<String>,
            groups: Vec<Served>,
        }
        let fields = Fields::deserialize(deserializer)?;
        Ok(ScanAnswer {
            entries: fields.entries,
            next: optional_bytes_of("next", fields.next, fields.next_base64).map_err(refused)?,
            groups: fields.groups,
        })
    }
}

impl Serialize for BatchOperation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        /// The fields of one operation, under its name.
        struct Fields<'a>(&'a BatchOperation);

        impl Serialize for Fields<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut out = serializer.serialize_struct("BatchOperation", 2)?;
                put_field(&mut out, "key", "key_base64", self.0.key())?;
                match self.0 {
                    BatchOperation::Put { value, .. } => {
                        put_field(&mut out, "value", "value_base64", value)?;
                    }
                    BatchOperation::Delete { .. } => {}
                    BatchOperation::Check { revision: Some(revision), .. } => {
                        out.serialize_field("revision", revision)?;
                    }
                    BatchOperation::Check { revision: None, .. } => out.serialize_field("absent", &true)?,
                }
                out.end()
            }
        }

        let name = match self {
            BatchOperation::Put { .. } => "put",
            BatchOperation::Delete { .. } => "delete",
            BatchOperation::Check { .. } => "check",
        };
        let mut out = serializer.serialize_struct("BatchOperation", 1)?;
        out.serialize_field(name, &Fields(self))?;
        out.end()
    }
}

impl<'de> Deserialize<'de> for BatchOperation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<BatchOperation, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Operation {
            put: Option<Object<PutFields>>,
            delete: Option<Object<DeleteFields>>,
            check: Option<Object<CheckFields>>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct PutFields {
            key: Option<String>,
            key_base64: Option<String>,
            value: Option<String>,
            value_base64: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct DeleteFields {
            key: Option<String>,
            key_base64: Option<String>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct CheckFields {
            key: Option<String>,
            key_base64: Option<String>,
            revision: Option<u64>,
            #[serde(default)]
            absent: bool,
        }
        // No enum: serde would call what is wrong with it by names of its own.
        let Object(Operation { put, delete, check }) = Object::deserialize(deserializer)?;
        match (put, delete, check) {
            (Some(Object(fields)), None, None) => Ok(BatchOperation::Put {
                key: bytes_of("key", fields.key, fields.key_base64).map_err(refused)?,
                value: bytes_of("value", fields.value, fields.value_base64).map_err(refused)?,
            }),
            (None, Some(Object(fields)), None) => Ok(BatchOperation::Delete {
                key: bytes_of("key", fields.key, fields.key_base64).map_err(refused)?,
            }),
            (None, None, Some(Object(fields))) => {
                let revision = match (fields.revision, fields.absent) {
                    (Some(revision), false) => Some(revision),
                    (None, true) => None,
                    _ => {
                        let text = "a check needs either `revision` or `absent: true`";
                        return Err(serde::de::Error::custom(text));
                    }
                };
                let key = bytes_of("key", fields.key, fields.key_base64).map_err(refused)?;
                Ok(BatchOperation::Check { key, revision })
            }
            _ => Err(serde::de::Error::custom("an operation is one of `put`, `delete` and `check`")),
        }
    }
}

fn refused<E: serde::de::Error>(error: BadBytes) -> E {
    E::custom(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_reads_as_the_contract_says() {
        let json = r#"{"operations":[{"put":{"key":"a","value_base64":"/w=="}},{"delete":{"key_base64":"AA=="}},
            {"check":{"key":"c","revision":7}},{"check":{"key":"d","absent":true}}]}"#;
        let batch: BatchRequest = serde_json::from_str(json).expect("a batch");
        let expected = [
            BatchOperation::Put { key: b"a".to_vec(), value: vec![0xff] },
            BatchOperation::Delete { key: vec![0] },
            BatchOperation::Check { key: b"c".to_vec(), revision: Some(7) },
            BatchOperation::Check { key: b"d".to_vec(), revision: None },
        ];
        assert_eq!(batch.operations, expected);
        let again = serde_json::to_string(&batch).expect("serialisable");
        assert_eq!(serde_json::from_str::<BatchRequest>(&again).expect("a batch"), batch);
    }

    #[test]
    fn what_is_no_operation_is_refused() {
        for json in [
            r#"{"put":{"key":"a"}}"#,
            r#"{"put":{"key":"a","key_base64":"YQ==","value":""}}"#,
            r#"{"put":{"key":"a","value":"","ttl":5}}"#,
            r#"{"check":{"key":"a"}}"#,
            r#"{"check":{"key":"a","revision":1,"absent":true}}"#,
            r#"{"check":{"key":"a","revision":-1}}"#,
            r#"{"merge":{"key":"a"}}"#,
            r#"{"put":{"key":"a","value":""},"delete":{"key":"a"}}"#,
            r#"{"put":["a",null,"",null]}"#,
            r#"{"delete":["a",null]}"#,
            r#"{"check":["a",null,1,false]}"#,
            r#"{}"#,
            r#"{"put":null}"#,
            r#""put""#,
        ] {
            assert!(serde_json::from_str::<BatchOperation>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_scan_comes_back_with_its_binary_keys() {
        let entry = |key: &[u8], value: &[u8]| ScanEntry {
            key: key.to_vec(),
            value: value.to_vec(),
            revision: 3,
            group: 1,
        };
        let answer = ScanAnswer {
            entries: vec![entry(b"a", b"\xff"), entry(b"b\xfe", b"")],
            next: Some(vec![0xfe]),
            groups: vec![Served { group: 1, ..Served::default() }],
        };
        let json = serde_json::to_string(&answer).expect("serialisable");
        assert!(json.contains(r#""next_base64":"/g==""#) && json.contains(r#""key":"a""#), "{json}");
        assert_eq!(serde_json::from_str::<ScanAnswer>(&json).expect("a scan"), answer);
    }
}
