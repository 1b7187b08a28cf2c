// SPDX-License-Identifier: Apache-2.0

//! Coverage marks: which of the things that the product can say or meet a run came to see. A simulator that never sees a case shows
//! nothing about it, however many seeds it runs.
//!
//! What there is to see is read from the sources of the enums themselves, so that whoever adds a variant is asked how it is shown. What no
//! run can come to, or hardly ever does, is in [`SHOWN_ELSEWHERE`] with the test that does; that the test is there is itself tested.

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

/// The enums, with the text that defines them.
const SOURCES: &[(&str, &str)] = &[
    ("Case", include_str!("../../../crates/logstore/src/cases.rs")),
    ("NotApplied", include_str!("../../../crates/engine/src/error.rs")),
    ("Unknown", include_str!("../../../crates/engine/src/error.rs")),
    ("Notice", include_str!("../../../crates/engine/src/effect.rs")),
    ("CondemnedReason", include_str!("../../../crates/types/src/entry.rs")),
    ("ChangeError", include_str!("../../../crates/raft/src/event.rs")),
    ("ChangeRefused", include_str!("../../../crates/types/src/membership.rs")),
    ("MembershipChange", include_str!("../../../crates/types/src/membership.rs")),
    ("ElectionReason", include_str!("../../../crates/raft/src/effect.rs")),
    ("Ignored", include_str!("../../../crates/raft/src/admission.rs")),
    ("Body", include_str!("../../../crates/raft/src/message.rs")),
    ("ApplyOrder", include_str!("../../../crates/host/src/core.rs")),
    ("HelloRefused", include_str!("../../../crates/wire/src/refusal.rs")),
    ("Trouble", include_str!("../../../crates/host/src/slow_disk.rs")),
    ("Verdict", include_str!("../../../crates/host/src/slow_disk.rs")),
    ("Fault", include_str!("mix.rs")),
];

/// What runs do not have to see, and what shows it instead: a file, and the test in it by words that stand there.
const SHOWN_ELSEWHERE: &[(&str, &str, &str)] = &[
    (
        "ChangeError::Pending",
        "crates/raft/tests/scripts/m2_no_change_before_the_first_commit_of_the_term_and_one_at_a_time.script",
        "refused: the membership change at index 3 is not committed yet",
    ),
    ("Case::DamagedList", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::DuplicateUse", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    (
        "Case::HeaderlessSegment",
        "crates/logstore/tests/recovery_table.rs",
        "fn every_row_of_the_table_is_met()",
    ),
    (
        "Case::IncompleteCheckpoint",
        "crates/logstore/tests/recovery_table.rs",
        "fn every_row_of_the_table_is_met()",
    ),
    ("Case::LostHeader", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::MissingBatches", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::MissingList", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::MissingSegment", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::NoSegments", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::OtherLength", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    ("Case::UnknownVersion", "crates/logstore/tests/recovery_table.rs", "fn every_row_of_the_table_is_met()"),
    (
        "ChangeRefused::AlreadyMember",
        "crates/types/src/membership.rs",
        "fn m3_a_removed_replica_never_comes_back_but_its_node_may()",
    ),
    ("ChangeRefused::LastVoter", "crates/types/src/membership.rs", "fn the_last_voter_stays()"),
    (
        "ChangeRefused::NodeRetired",
        "crates/types/src/membership.rs",
        "fn s13_a_retired_node_cannot_be_added()",
    ),
    ("ChangeRefused::TooMany", "crates/types/src/membership.rs", "fn members_and_tombstones_are_bounded()"),
    (
        "ChangeRefused::TooManyWitnesses",
        "crates/types/src/membership.rs",
        "fn m5_voters_outnumber_witnesses()",
    ),
    (
        "CondemnedReason::Damage",
        "crates/host/tests/hosts/loss.rs",
        "fn d9_what_the_log_still_has_is_kept_and_served_again()",
    ),
    (
        "CondemnedReason::Divergence",
        "crates/host/tests/hosts/comparison.rs",
        "fn e8_a_follower_that_keeps_something_else_is_condemned()",
    ),
    (
        "CondemnedReason::LogLost",
        "crates/raft/tests/restore.rs",
        "fn d8_a_log_that_ends_before_what_the_store_has_condemns()",
    ),
    (
        "CondemnedReason::StateLost",
        "crates/host/tests/hosts/loss.rs",
        "fn d9_a_state_that_is_gone_condemns_the_replica_durably_and_loudly()",
    ),
    (
        "HelloRefused::AnotherNodeAnswered",
        "crates/wire/tests/hello.rs",
        "fn a_hello_for_somebody_else_is_refused()",
    ),
    (
        "HelloRefused::Deployment",
        "crates/wire/tests/hello.rs",
        "fn another_deployment_is_refused_with_both_values()",
    ),
    ("HelloRefused::FeatureLevel", "crates/wire/tests/hello.rs", "fn t3_versions_and_levels_must_overlap()"),
    (
        "HelloRefused::MeantForAnother",
        "crates/wire/tests/hello.rs",
        "fn a_hello_for_somebody_else_is_refused()",
    ),
    (
        "HelloRefused::Other",
        "crates/wire/tests/hello.rs",
        "fn a_refusal_of_a_later_build_is_read_as_its_text()",
    ),
    (
        "HelloRefused::RequiredField",
        "crates/wire/tests/hello.rs",
        "fn t3_an_unknown_optional_field_is_ignored_and_a_required_one_refused()",
    ),
    ("HelloRefused::Retired", "crates/wire/tests/hello.rs", "fn s13_a_retired_node_is_refused()"),
    ("HelloRefused::SameNode", "crates/wire/tests/hello.rs", "fn a_hello_for_somebody_else_is_refused()"),
    (
        "HelloRefused::ShuttingDown",
        "crates/transport/tests/suspicion.rs",
        "fn t5_a_node_that_answers_with_a_refusal_lives()",
    ),
    (
        "HelloRefused::TooManyConnections",
        "crates/transport/tests/hellos.rs",
        "fn strangers_find_a_bounded_number_of_places()",
    ),
    (
        "HelloRefused::UnknownNode",
        "crates/transport/tests/hellos.rs",
        "fn a_node_that_is_not_known_is_refused()",
    ),
    ("HelloRefused::Version", "crates/wire/tests/hello.rs", "fn t3_versions_and_levels_must_overlap()"),
    (
        "Ignored::ContradictsCommitted",
        "crates/raft/tests/answers.rs",
        "fn d9_what_contradicts_the_committed_log_changes_nothing_and_condemns_once_it_is_committed_itself()",
    ),
    (
        "Ignored::Malformed",
        "crates/raft/tests/hostile.rs",
        "fn no_message_of_a_peer_panics_or_breaks_a_promise_in_any_life()",
    ),
    ("Ignored::SecondLeader", "crates/raft/tests/answers.rs", "fn a_second_leader_of_a_term_is_not_heard()"),
    (
        "Ignored::TooManyWaiting",
        "crates/raft/tests/answers.rs",
        "fn t2_only_so_many_answers_wait_for_a_disk()",
    ),
    (
        "NotApplied::Disputed",
        "crates/host/tests/hosts/comparison.rs",
        "fn e8_without_a_majority_the_group_serves_nobody_until_one_is_found()",
    ),
    (
        "NotApplied::Stopped",
        "crates/host/tests/hosts/stops.rs",
        "fn requests_to_a_stopped_group_are_not_applied_and_the_other_groups_go_on()",
    ),
    (
        "NotApplied::TooLarge",
        "crates/engine/src/engine/tests.rs",
        "fn e3_a_command_that_is_too_large_is_refused_at_once_and_the_next_one_goes_on()",
    ),
    (
        "Notice::Disputed",
        "crates/engine/src/engine/tests.rs",
        "fn e8_a_group_whose_log_says_that_it_is_disputed_is_not_served_by_whoever_leads_it_next()",
    ),
    (
        "Notice::Diverged",
        "crates/host/tests/hosts/comparison.rs",
        "fn e8_a_follower_that_answers_something_else_is_condemned()",
    ),
    (
        "Notice::ForeignUid",
        "crates/host/src/core/tests.rs",
        "fn m8_a_message_of_another_founding_or_for_another_replica_changes_nothing()",
    ),
    (
        "Notice::Panicked",
        "crates/engine/src/engine/tests.rs",
        "fn t4_a_panic_inside_a_group_ends_that_group_and_no_other()",
    ),
    (
        "Notice::Settled",
        "crates/engine/src/engine/tests.rs",
        "fn e8_a_group_whose_log_says_that_it_is_disputed_is_not_served_by_whoever_leads_it_next()",
    ),
    (
        "Trouble::Full",
        "crates/host/tests/hosts/full_disk.rs",
        "fn d10_a_full_disk_gives_leadership_to_a_node_that_has_room()",
    ),
    (
        "Unknown::ConnectionLost",
        "crates/transport/tests/messages.rs",
        "fn s14_a_peer_that_never_reads_fills_its_queue_and_no_other()",
    ),
    (
        "Unknown::CoveredBySnapshot",
        "crates/engine/src/requests.rs",
        "fn e3_a_ticket_learns_its_fate_from_what_is_committed_at_its_index()",
    ),
];

/// What was seen, and how often.
#[derive(Clone, Debug, Default)]
pub struct Marks(BTreeMap<(&'static str, u64), (String, u64)>);

impl Marks {
    /// Sees a value of one of the enums.
    pub fn see<T: Debug>(&mut self, value: &T) {
        self.see_often(value, 1);
    }

    /// Sees it so many times.
    pub fn see_often<T: Debug>(&mut self, value: &T, times: u64) {
        let mut which = DefaultHasher::new();
        discriminant(value).hash(&mut which);
        let name = || (format!("{}::{}", short_name::<T>(), variant(value)), 0);
        self.0.entry((type_name::<T>(), which.finish())).or_insert_with(name).1 += times;
    }

    /// By name.
    pub fn into_counts(self) -> BTreeMap<String, u64> {
        self.0.into_values().collect()
    }
}

fn short_name<T>() -> &'static str {
    type_name::<T>().rsplit("::").next().unwrap_or_default()
}

fn variant<T: Debug>(value: &T) -> String {
    format!("{value:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

/// Everything that there is to see.
pub fn all() -> BTreeSet<String> {
    let of = |(name, source): &(&'static str, &'static str)| {
        let name = *name;
        variants(name, source).into_iter().map(move |variant| format!("{name}::{variant}"))
    };
    SOURCES.iter().flat_map(of).collect()
}

/// What runs should have seen and have not.
pub fn missing(seen: &BTreeMap<String, u64>) -> Vec<String> {
    let is_shown = |mark: &String| SHOWN_ELSEWHERE.iter().any(|(shown, ..)| shown == mark);
    all().into_iter().filter(|mark| !seen.contains_key(mark) && !is_shown(mark)).collect()
}

/// The variants of an enum in the text of its source, which is formatted as all sources are.
fn variants(name: &str, source: &'static str) -> Vec<&'static str> {
    let mut lines = source.lines();
    let head = format!("pub enum {name} {{");
    lines.by_ref().find(|line| *line == head);
    let body = lines.take_while(|line| *line != "}");
    let names = body.filter_map(|line| line.strip_prefix("    ").filter(|rest| starts_variant(rest)));
    names.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()).collect()
}

fn starts_variant(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mraft_logstore::Case;

    use super::*;
    use crate::mix::Fault;

    #[test]
    fn every_enum_is_found_whole() {
        for (name, source) in SOURCES {
            assert!(variants(name, source).len() > 1, "{name}");
        }
        let cases: Vec<String> = Case::ALL.iter().map(variant).collect();
        assert_eq!(variants("Case", SOURCES[0].1), cases);
        let mut faults: Vec<String> = Fault::all().map(|fault| fault.to_string()).collect();
        let mut known = variants("Fault", include_str!("mix.rs"));
        faults.sort();
        known.sort_unstable();
        assert_eq!(known, faults);
    }

    #[test]
    fn what_was_not_seen_is_missed_by_its_name() {
        let mut marks = Marks::default();
        marks.see(&Fault::Kill);
        marks.see_often(&Fault::Kill, 2);
        let seen = marks.into_counts();
        assert_eq!(seen, [("Fault::Kill".to_owned(), 3)].into());
        let missing = missing(&seen);
        assert!(
            missing.contains(&"Fault::PowerCut".to_owned()) && !missing.contains(&"Fault::Kill".to_owned())
        );
    }

    #[test]
    fn what_is_shown_elsewhere_is_a_mark_and_the_test_is_there() {
        let all = all();
        for (mark, file, test) in SHOWN_ELSEWHERE {
            assert!(all.contains(*mark), "{mark} is no mark");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(text.contains(test), "{mark}: {file} has no {test}");
        }
    }
}
