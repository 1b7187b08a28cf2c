// SPDX-License-Identifier: Apache-2.0

//! `If-Match` and `If-None-Match` (RFC 9110 §13.1). The tag of a key is its revision, always strong.
//!
//! A write becomes a command with one condition, so it takes `If-Match: "7"`, `If-Match: *` or `If-None-Match: *`, and whatever else
//! is refused with the header's name rather than guessed. A read looks at full lists: `If-Match` compares strongly, so that a weak tag
//! never matches; `If-None-Match` weakly.
//!
//! No other route than a key's has a tag, so there every such header is refused: a condition that is not kept must not look as if it was.

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName};
use mraft_api::headers::{etag, revision_of_etag};
use mraft_api::{Condition, ErrorCode, paths};

use crate::errors::Refused;

/// The condition of a write.
pub(crate) fn of_write(fields: &HeaderMap) -> Result<Condition, Box<Refused>> {
    match (lone(fields, &IF_MATCH)?, lone(fields, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::None),
        (Some("*"), None) => Ok(Condition::Exists),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(tag), None) => revision_of_etag(tag).map(Condition::Revision).ok_or_else(|| {
            bad(&IF_MATCH, "a write takes `*` or one strong tag that this store gave out, such as \"7\"")
        }),
        (None, Some(_)) => Err(bad(&IF_NONE_MATCH, "a write takes `*` only")),
        (Some(_), Some(_)) => Err(bad(&IF_NONE_MATCH, "a write takes either If-Match or If-None-Match")),
    }
}

/// What a read's conditions say about a key that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Give it.
    Proceed,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Looks at the conditions of a read of a key with this revision (`None`: it does not exist).
pub(crate) fn of_read(fields: &HeaderMap, revision: Option<u64>) -> Result<Verdict, Box<Refused>> {
    if fields.contains_key(&IF_MATCH) && !matches(fields, &IF_MATCH, revision, false)? {
        return Ok(Verdict::Failed);
    }
    if fields.contains_key(&IF_NONE_MATCH) && matches(fields, &IF_NONE_MATCH, revision, true)? {
        return Ok(Verdict::NotModified);
    }
    Ok(Verdict::Proceed)
}

/// The route keeps no conditions: refuses those that are given.
pub(crate) fn none(fields: &HeaderMap, route: &'static str) -> Result<(), Box<Refused>> {
    let Some(name) = [IF_MATCH, IF_NONE_MATCH].into_iter().find(|name| fields.contains_key(name)) else {
        return Ok(());
    };
    Err(bad(&name, "this route does not take it").with_hint(match route {
        paths::BATCH => {
            "a batch has its conditions among its operations: \
            {\"check\":{\"key\":\"k\",\"revision\":7}} or {\"check\":{\"key\":\"k\",\"absent\":true}}"
        }
        paths::GROUP_ADD_LEARNER | paths::GROUP_PROMOTE | paths::GROUP_REMOVE => {
            "the condition of a membership change is `change_index` in the body"
        }
        _ => "leave it out; conditions are for one key, at /v1/kv/{key}",
    }))
}

/// Whether any tag of all the header's lines is the key's.
fn matches(
    fields: &HeaderMap,
    name: &HeaderName,
    revision: Option<u64>,
    weakly: bool,
) -> Result<bool, Box<Refused>> {
    let current = revision.map(etag);
    let mut any = false;
    for line in fields.get_all(name) {
        let mut rest = line.to_str().map_err(|_| not_tags(name))?.trim_matches(BLANKS);
        if rest == "*" {
            any |= current.is_some();
            continue;
        }
        while !rest.is_empty() {
            let (is_weak, tag) = match rest.strip_prefix("W/") {
                Some(tag) => (true, tag),
                None => (false, rest),
            };
            let opaque = tag.strip_prefix('"').ok_or_else(|| not_tags(name))?;
            let end = opaque.find('"').ok_or_else(|| not_tags(name))? + 2;
            any |= (weakly || !is_weak) && current.as_deref() == Some(&tag[..end]);
            rest = tag[end..].trim_start_matches(BLANKS);
            rest = match rest.strip_prefix(',') {
                Some(more) => more.trim_start_matches([' ', '\t', ',']),
                None if rest.is_empty() => rest,
                None => return Err(not_tags(name)),
            };
        }
    }
    Ok(any)
}

const BLANKS: [char; 2] = [' ', '\t'];

/// The only line of a header.
fn lone<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Box<Refused>> {
    let mut lines = fields.get_all(name).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(bad(name, "it is given twice"));
    }
    let text = first.to_str().map_err(|_| not_tags(name))?;
    Ok(Some(text.trim_matches(BLANKS)))
}

fn not_tags(name: &HeaderName) -> Box<Refused> {
    bad(name, "it is neither `*` nor a list of entity tags")
}

fn bad(name: &HeaderName, why: &str) -> Box<Refused> {
    let shown = if name == IF_MATCH { "If-Match" } else { "If-None-Match" };
    Refused::new(ErrorCode::BadCondition, format!("{shown}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, value.parse().expect("a header value"));
        }
        fields
    }

    #[test]
    fn a_write_takes_one_condition() {
        let of = |lines: &[_]| of_write(&fields(lines)).ok();
        assert_eq!(of(&[]), Some(Condition::None));
        assert_eq!(of(&[("if-match", "\"7\"")]), Some(Condition::Revision(7)));
        assert_eq!(of(&[("if-match", " * ")]), Some(Condition::Exists));
        assert_eq!(of(&[("if-none-match", "*")]), Some(Condition::Absent));
        for refused in [
            &[("if-match", "W/\"7\"")][..],
            &[("if-match", "\"7\", \"8\"")],
            &[("if-match", "\"7\""), ("if-match", "\"8\"")],
            &[("if-match", "7")],
            &[("if-match", "")],
            &[("if-match", "\"abc\"")],
            &[("if-none-match", "\"7\"")],
            &[("if-match", "*"), ("if-none-match", "*")],
        ] {
            let error = of_write(&fields(refused)).expect_err("refused");
            assert!(error.problem.detail.starts_with("If-"), "{}", error.problem.detail);
        }
    }

    #[test]
    fn a_read_looks_at_lists() {
        use Verdict::*;
        let of = |name, value, revision| of_read(&fields(&[(name, value)]), revision).ok();
        for (value, verdict) in [
            ("\"7\"", Proceed),
            ("\"6\" ,\"7\"", Proceed),
            ("*", Proceed),
            ("W/\"7\"", Failed),
            ("\"8\"", Failed),
        ] {
            assert_eq!(of("if-match", value, Some(7)), Some(verdict), "{value}");
        }
        for (value, verdict) in [
            ("\"7\"", NotModified),
            ("W/\"7\"", NotModified),
            ("\"6\",, W/\"7\"", NotModified),
            ("*", NotModified),
            ("\"8\"", Proceed),
            ("\"a,b\"", Proceed),
        ] {
            assert_eq!(of("if-none-match", value, Some(7)), Some(verdict), "{value}");
        }
        assert_eq!(of("if-match", "*", None), Some(Failed));
        assert_eq!(of("if-none-match", "*", None), Some(Proceed));
        for broken in ["7", "\"7", "\"7\" \"8\"", "W/7", "\"7\"x"] {
            assert_eq!(of("if-match", broken, Some(7)), None, "{broken}");
        }
    }
}
