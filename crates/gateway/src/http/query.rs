// SPDX-License-Identifier: Apache-2.0

//! Query strings. A name that the route does not know, and a name given twice, are refused: a mistyped condition must not be
//! ignored.

use std::borrow::Cow;
use std::time::Duration;

use mraft_api::{Consistency, ErrorCode, base64, percent};
use tokio::time::Instant;

use crate::errors::Refused;
use crate::limits::{Limits, TIMEOUT_MS_MAX};

/// A parsed query.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    parameters: Vec<(&'static str, Cow<'a, [u8]>)>,
}

impl<'a> Query<'a> {
    /// Reads a raw query whose names are all among `known`.
    pub(crate) fn parse(raw: Option<&'a str>, known: &[&'static str]) -> Result<Query<'a>, Box<Refused>> {
        let mut parameters: Vec<(&'static str, Cow<'a, [u8]>)> = Vec::new();
        for part in raw.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let decode = |text| {
                percent::decode_query(text)
                    .map_err(|error| Refused::new(ErrorCode::BadParameter, format!("in the query: {error}")))
            };
            let name = decode(name)?;
            let Some(name) = known.iter().find(|known| known.as_bytes() == name.as_ref()) else {
                return Err(unknown(&String::from_utf8_lossy(&name), known));
            };
            if parameters.iter().any(|(given, _)| given == name) {
                return Err(Refused::new(ErrorCode::BadParameter, format!("`{name}` is given twice")));
            }
            parameters.push((name, decode(value)?));
        }
        Ok(Query { parameters })
    }

    /// The bytes of a parameter.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_ref())
    }

    /// The bytes of a parameter that may also be given as `…_base64`.
    pub(crate) fn bytes_or_base64(
        &self,
        name: &str,
        name_base64: &str,
    ) -> Result<Option<Cow<'_, [u8]>>, Box<Refused>> {
        match (self.bytes(name), self.bytes(name_base64)) {
            (Some(_), Some(_)) => {
                let text = format!("`{name}` and `{name_base64}` are both given");
                Err(Refused::new(ErrorCode::BadParameter, text))
            }
            (Some(bytes), None) => Ok(Some(Cow::Borrowed(bytes))),
            (None, Some(text)) => std::str::from_utf8(text)
                .ok()
                .and_then(base64::decode)
                .map(|bytes| Some(Cow::Owned(bytes)))
                .ok_or_else(|| {
                    bad(name_base64, "base64 with padding; in a query `+` is written `%2B` or `-`")
                }),
            (None, None) => Ok(None),
        }
    }

    /// A number between two bounds.
    pub(crate) fn number(&self, name: &str, min: u64, max: u64) -> Result<Option<u64>, Box<Refused>> {
        let Some(bytes) = self.bytes(name) else { return Ok(None) };
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|number| (min..=max).contains(number))
            .map(Some)
            .ok_or_else(|| bad(name, &format!("a number from {min} to {max}")))
    }

    /// A switch: `?name`, `?name=true`, `?name=false`.
    pub(crate) fn switch(&self, name: &str) -> Result<bool, Box<Refused>> {
        match self.bytes(name) {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(_) => Err(bad(name, "true or false")),
        }
    }

    /// `?consistency=`.
    pub(crate) fn consistency(&self) -> Result<Consistency, Box<Refused>> {
        match self.bytes("consistency") {
            None | Some(b"linearizable") => Ok(Consistency::Linearizable),
            Some(b"stale") => Ok(Consistency::Stale),
            Some(_) => Err(bad("consistency", "linearizable or stale")),
        }
    }

    /// When the request must be answered: `?timeout_ms=` from now, or the door's default.
    pub(crate) fn deadline(&self, limits: &Limits) -> Result<Instant, Box<Refused>> {
        let timeout_ms = self.number("timeout_ms", 1, TIMEOUT_MS_MAX)?;
        Ok(Instant::now() + timeout_ms.map_or(limits.timeout_default, Duration::from_millis))
    }
}

/// A parameter with a value that it cannot have.
pub(crate) fn bad(name: &str, expected: &str) -> Box<Refused> {
    Refused::new(ErrorCode::BadParameter, format!("`{name}` must be {expected}"))
}

/// What users of other stores will ask for and the formats are ready for.
const LATER: [(&str, &str); 2] = [("ttl", "time-to-live"), ("session", "exactly-once in a client's session")];

fn unknown(name: &str, known: &[&'static str]) -> Box<Refused> {
    const NAME_CHARS_SHOWN: usize = 40;
    if let Some((_, what)) = LATER.iter().find(|(later, _)| *later == name) {
        return Refused::new(
            ErrorCode::UnknownParameter,
            format!("`{name}`: {what} comes with a later release"),
        )
        .with_hint("leave it out");
    }
    let shown: String = name.chars().take(NAME_CHARS_SHOWN).collect();
    let refused =
        Refused::new(ErrorCode::UnknownParameter, format!("`{shown}` is not a parameter of this route"));
    match known.iter().min_by_key(|known| distance(&shown, known)) {
        None => refused.with_hint("this route takes no parameters"),
        Some(nearest) => {
            refused.with_hint(format!("did you mean `{nearest}`? It takes: {}", known.join(", ")))
        }
    }
}

/// Levenshtein distance of two short names.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(raw: &str) -> String {
        let refused = Query::parse(Some(raw), &["prefix", "limit", "after"]).expect_err("refused");
        refused.problem.hint.expect("a hint")
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_known_one() {
        assert!(hint("prefx=a").contains("did you mean `prefix`"));
        assert!(hint("limit=1&aftr").contains("did you mean `after`"));
    }

    #[test]
    fn values_are_bytes() {
        let query = Query::parse(Some("prefix=%ff+a&limit"), &["prefix", "limit"]).expect("a query");
        assert_eq!(query.bytes("prefix"), Some(&b"\xff a"[..]));
        assert_eq!(query.bytes("limit"), Some(&b""[..]));
        assert_eq!(query.bytes("after"), None);
    }

    #[test]
    fn a_name_given_twice_or_a_broken_escape_is_refused() {
        for raw in ["limit=1&limit=2", "limit=%", "%zz=1"] {
            assert!(Query::parse(Some(raw), &["limit"]).is_err(), "{raw}");
        }
    }
}
