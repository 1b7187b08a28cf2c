// SPDX-License-Identifier: Apache-2.0

//! Header names of the contract and the form of an entity tag.

/// The group that answered.
pub const GROUP: &str = "mraft-group";
/// The key's revision; where there is no key, the group's.
pub const REVISION: &str = "mraft-revision";
/// The Raft index that the answer reflects: of the write's entry, or applied when it was read.
pub const INDEX: &str = "mraft-index";
/// Node id of the group's leader.
pub const LEADER: &str = "mraft-leader";
/// Node id of who read or wrote.
pub const SERVED_BY: &str = "mraft-served-by";
/// Stale reads: what was read held everything that had been acknowledged so many milliseconds before. A majority has confirmed it; the
/// way back to the client is not counted. Absent when nothing was confirmed since the node that read was started: there is no bound.
pub const STALE_MS: &str = "mraft-stale-ms";
/// Errors: the outcome, also where the body is not read.
pub const OUTCOME: &str = "mraft-outcome";

/// The strong entity tag of a revision.
pub fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The revision behind a strong entity tag of ours: one number in its only form. 0 is no revision of a key.
pub fn revision_of_etag(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let revision: u64 = digits.parse().ok()?;
    (revision > 0 && !digits.starts_with(['0', '+'])).then_some(revision)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_revision_in_its_only_form() {
        assert_eq!(revision_of_etag(&etag(7)), Some(7));
        assert_eq!(revision_of_etag(&etag(u64::MAX)), Some(u64::MAX));
        for tag in
            ["7", "\"07\"", "\"+7\"", "W/\"7\"", "\"\"", "\"", "\"0\"", "\"18446744073709551616\"", "*"]
        {
            assert_eq!(revision_of_etag(tag), None, "{tag}");
        }
    }
}
