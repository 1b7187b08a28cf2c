// SPDX-License-Identifier: Apache-2.0

//! The seed's start-up document (`DynamicConfig`, JSON), key for key.
//!
//! ```json
//! {
//!   "raftDir": "/data/raft", "logDir": "/data/log", "nodeId": 11141120013890,
//!   "join": {"0": {"11141120013890": false}},
//!   "initial_members": {"0": {"11141120013890": "10.0.0.1:13890"}},
//!   "ip": "10.0.0.1", "raft_port": 13890, "http_port": 13891
//! }
//! ```
//!
//! The programs that write this document know no "unset": a string that nobody set is `""`, a number 0, a map null. So
//! these mean "not configured" here, and the defaults apply.

use super::keys::{KEYS, Key};
use super::raw::Raw;

/// The setting behind a key of the document.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.json == Some(name))
}

/// Whether a value of the document means that nobody configured it.
pub fn is_unset(raw: &Raw) -> bool {
    match raw {
        Raw::Null | Raw::Integer(0) => true,
        Raw::Text(text) => text.is_empty(),
        _ => false,
    }
}
