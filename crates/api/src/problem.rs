// SPDX-License-Identifier: Apache-2.0

//! What every error looks like: `application/problem+json` (RFC 9457) with the house's extension members.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::code::{ErrorCode, Outcome};

/// The media type of a [`Problem`].
pub const PROBLEM_MEDIA_TYPE: &str = "application/problem+json";

/// One error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// URI of the kind of problem: `urn:mraft:problem:` and the code.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// One sentence, the same for every occurrence of the code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// One sentence about this occurrence.
    pub detail: String,
    /// The stable name that programs decide by.
    pub code: ErrorCode,
    /// What is known about the effect (rule E3).
    pub outcome: Outcome,
    /// When another attempt may help, in milliseconds; also sent as `Retry-After` in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The group that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u64>,
    /// Node id of the group's leader, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<u64>,
    /// `host:port` of the leader's HTTP door, if known: where another attempt goes best.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_http: Option<String>,
    /// The revision of the key that it is about: of `condition_failed` the one that it has now, absent when there is no such key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// `condition_failed` of a batch: which operation it was, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<u32>,
}

impl Problem {
    /// A problem with what the table says about its code.
    pub fn new(code: ErrorCode, is_write: bool, detail: impl Into<String>) -> Problem {
        Problem {
            type_uri: code.type_uri(),
            title: code.title().to_owned(),
            status: code.status(),
            detail: detail.into(),
            code,
            outcome: code.outcome(is_write),
            retry_after_ms: None,
            hint: None,
            group: None,
            leader: None,
            leader_http: None,
            revision: None,
            operation: None,
        }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}
