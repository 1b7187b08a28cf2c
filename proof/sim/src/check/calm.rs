// SPDX-License-Identifier: Apache-2.0

//! What must hold once everything has healed: the liveness half of all promises (P7 among them).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use mraft_logstore::LogStatus;
use mraft_types::{GroupId, Term};

use super::Broken;

/// Every group takes a write soon.
pub const GROUPS_COME_BACK: &str = "every group takes a write within ten election timeouts of the calm";
/// Promise P7.
pub const SHORT_GAP: &str = "with a minority down every group takes a write within three election timeouts";
/// Nobody disturbs a leader that everybody hears.
pub const TERMS_REST: &str = "terms stop growing in the calm";
/// Nobody is left behind.
pub const MEMBERS_EQUAL: &str = "all members of a group are equal in the end";
/// What is not needed any more is given back.
pub const SPACE_COMES_BACK: &str = "disk space is given back in the calm";

/// Segments in use that a log may keep beyond what it aims at: the one that is written, and one that a replica pins which nothing makes
/// the log carry on while nobody writes.
const SEGMENTS_MORE_MAX: u64 = 2;
/// Files of a log, in use and free: what [`mraft_logstore::LogOptions`] keeps by itself.
const SEGMENT_FILES_MAX: u64 = 10;

/// The terms that groups had come to when everything rested.
#[derive(Debug, Default)]
pub struct RestingTerms(BTreeMap<GroupId, Term>);

impl RestingTerms {
    /// Everything rests from now on.
    pub fn note(&mut self, group: GroupId, newest: Option<Term>) {
        self.0.insert(group, newest.unwrap_or_default());
    }

    /// The newest term of a group in the end.
    pub fn check(&self, group: GroupId, newest: Option<Term>) -> Result<(), Broken> {
        let rested = self.0.get(&group).copied();
        if rested.is_some_and(|rested| rested < newest.unwrap_or_default()) {
            let how = format!("group {group} went from term {rested:?} to {newest:?} while nothing happened");
            return Err(Broken::new(TERMS_REST, how));
        }
        Ok(())
    }
}

/// How long a group took no write after a node was gone.
pub fn short_gap(gap_us: u64, election_us: u64, elections_max: u64) -> Result<(), Broken> {
    if gap_us > elections_max * election_us {
        let how = format!("a group took none for {:.2}", gap_us as f64 / election_us as f64);
        return Err(Broken::new(SHORT_GAP, how));
    }
    Ok(())
}

/// What a log holds on to when its node has come to rest.
pub fn log_space(status: &LogStatus, segments_target: u64) -> Result<(), Broken> {
    let files = status.segments_live + status.segments_free;
    if status.segments_live > segments_target + SEGMENTS_MORE_MAX || files > SEGMENT_FILES_MAX {
        let how = format!(
            "a log keeps {} segments in use and {} free, and aims at {segments_target}",
            status.segments_live, status.segments_free
        );
        return Err(Broken::new(SPACE_COMES_BACK, how));
    }
    Ok(())
}

/// Directories of groups that belong to no replica of the node's list.
pub fn directories(found: &BTreeSet<PathBuf>, listed: &BTreeSet<PathBuf>) -> Result<(), Broken> {
    match found.difference(listed).next() {
        Some(left) => {
            let how = format!("{} belongs to no replica any more", left.display());
            Err(Broken::new(SPACE_COMES_BACK, how))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::GROUP;
    use super::*;

    #[test]
    fn terms_that_grow_at_rest_are_found() {
        let mut terms = RestingTerms::default();
        terms.note(GROUP, Some(4));
        assert_eq!(terms.check(GROUP, Some(4)), Ok(()));
        assert!(terms.check(GROUP, Some(5)).is_err_and(|broken| broken.promise == TERMS_REST));
    }

    #[test]
    fn a_long_gap_is_found() {
        assert_eq!(short_gap(300_000, 100_000, 3), Ok(()));
        assert!(short_gap(300_001, 100_000, 3).is_err_and(|broken| broken.promise == SHORT_GAP));
    }

    #[test]
    fn segments_and_directories_that_nobody_needs_are_found() {
        let status = |segments_live, segments_free| LogStatus {
            segments_live,
            segments_free,
            bytes: 0,
            index_bytes: 0,
            segments_recycled: 0,
            groups_carried: 0,
        };
        assert_eq!(log_space(&status(6, 4), 4), Ok(()));
        for (live, free) in [(7, 0), (3, 8)] {
            let broken = log_space(&status(live, free), 4).expect_err("too many");
            assert_eq!(broken.promise, SPACE_COMES_BACK);
        }
        let two: BTreeSet<PathBuf> = ["/a", "/b"].map(PathBuf::from).into();
        let one: BTreeSet<PathBuf> = ["/a"].map(PathBuf::from).into();
        assert_eq!(directories(&one, &two), Ok(()));
        assert!(directories(&two, &one).is_err());
    }
}
