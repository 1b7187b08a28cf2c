// SPDX-License-Identifier: Apache-2.0

//! Who talks to whom: rules M6, M7, M9, M10, T3.

#![allow(clippy::expect_used)]

mod support;

use std::collections::BTreeSet;

use mraft_types::{DeploymentId, InstanceId};
use mraft_wire::{
    Accepted, DecodeError, Expected, Hello, HelloConfirm, HelloField, HelloRefused, HelloReply, PeerRecord,
    STARTS_MAX, Start, Starts, TopologyRelation, TopologyStamp, VersionRange, check,
};
use support::{full_hello, hello, instances, node, refusals};

fn judge(theirs: &Hello) -> Result<Accepted, HelloRefused> {
    check(&hello(1, 2), theirs, &Expected::default())
}

fn refusal(theirs: &Hello) -> String {
    judge(theirs).expect_err("refused").to_string()
}

#[test]
fn two_nodes_of_one_deployment_talk() {
    let accepted = judge(&hello(2, 1)).expect("accepted");
    assert_eq!((accepted.version, accepted.feature_level), (1, 3));
    assert_eq!(accepted.learned, instances(&[(2, 2)]));
    assert_eq!(accepted.topology, TopologyRelation::Same);
}

#[test]
fn another_deployment_is_refused_with_both_values() {
    let theirs = Hello { deployment: DeploymentId(9), ..hello(2, 1) };
    assert_eq!(refusal(&theirs), "deployment 7 here, 9 there");
    let seen_there = judge(&theirs).expect_err("refused").from_other_side();
    assert_eq!(seen_there.to_string(), "deployment 9 here, 7 there");
}

#[test]
fn t3_versions_and_levels_must_overlap() {
    let versions = Hello { versions: VersionRange { min: 2, max: 5 }, ..hello(2, 1) };
    assert_eq!(refusal(&versions), "wire versions 1 to 1 here, 2 to 5 there");
    let levels = Hello { feature_levels: VersionRange { min: 4, max: 4 }, ..hello(2, 1) };
    assert_eq!(refusal(&levels), "feature levels 1 to 3 here, 4 to 4 there");
    let newer = Hello { feature_levels: VersionRange { min: 2, max: 9 }, ..hello(2, 1) };
    assert_eq!(judge(&newer).map(|accepted| accepted.feature_level), Ok(3));
}

#[test]
fn t3_an_unknown_optional_field_is_ignored_and_a_required_one_refused() {
    let field = |number| Hello { fields: vec![HelloField { number, content: vec![1] }], ..hello(2, 1) };
    assert!(judge(&field(0x7fff)).is_ok());
    assert_eq!(refusal(&field(0x8000)), "hello field 0x8000 is required, and not known");
}

#[test]
fn a_hello_for_somebody_else_is_refused() {
    assert_eq!(refusal(&hello(2, 3)), "node 3 was wanted, node 1 was reached");
    assert_eq!(refusal(&hello(1, 1)), "both sides say that they are node 1");
    let dialed = Expected { dialed: Some(node(3)), ..Expected::default() };
    let answered = check(&hello(1, 3), &hello(2, 1), &dialed).expect_err("refused");
    assert_eq!(answered.to_string(), "node 3 was dialed, node 2 answered");
}

#[test]
fn m6_a_wiped_directory_under_an_old_id_is_refused_on_both_sides() {
    let known = Hello { instances: instances(&[(1, 1), (2, 2)]), ..hello(1, 2) };
    let wiped = Hello { instance: InstanceId([8; 16]), instances: instances(&[(2, 8)]), ..hello(2, 1) };
    let expected =
        HelloRefused::Instance { node: node(2), ours: InstanceId([2; 16]), theirs: InstanceId([8; 16]) };
    assert_eq!(check(&known, &wiped, &Expected::default()), Err(expected.clone()));
    assert_eq!(check(&wiped, &known, &Expected::default()), Err(expected.from_other_side()));
}

#[test]
fn m6_tables_are_merged_and_a_dispute_about_a_third_node_is_reported() {
    let ours = Hello { instances: instances(&[(1, 1), (3, 3)]), ..hello(1, 2) };
    let theirs = Hello { instances: instances(&[(2, 2), (3, 9), (4, 4)]), ..hello(2, 1) };
    let accepted = check(&ours, &theirs, &Expected::default()).expect("the two may talk");
    assert_eq!(accepted.learned, instances(&[(2, 2), (4, 4)]));
    assert_eq!(accepted.conflicts, [(node(3), InstanceId([3; 16]), InstanceId([9; 16]))]);
    let conflicting = Expected { conflicting: BTreeSet::from([node(2)]), ..Expected::default() };
    assert_eq!(check(&ours, &theirs, &conflicting), Err(HelloRefused::Conflicting { node: node(2) }));
}

#[test]
fn m6_two_processes_on_copies_of_one_directory_are_told_apart() {
    let forked = Err(HelloRefused::Forked { node: node(2), remembered_boot: 4, boot_counter: 4 });
    for durable_seq in [0, 99, 100] {
        let record = PeerRecord { boot_nonce: 1, durable_seq, ..hello(2, 1).record() };
        let expected = Expected { record: Some(record), ..Expected::default() };
        assert_eq!(check(&hello(1, 2), &hello(2, 1), &expected), forked, "the log goes as far as is known");
    }
}

/// Node 2 at boot 4 with a log up to 100, after starts of which the latest comes first: nonce and how far its log went.
fn started(starts: &[(u64, u64)]) -> Hello {
    let mut hello = hello(2, 1);
    for (boot_nonce, found_seq) in starts.iter().rev() {
        hello.starts.begin(Start { boot_nonce: *boot_nonce, found_seq: *found_seq });
    }
    hello
}

#[test]
fn m7_a_copy_from_before_a_start_is_told_at_every_later_start() {
    let record = PeerRecord { boot_counter: 2, boot_nonce: 22, durable_seq: 50 };
    let judge = |starts: &[(u64, u64)]| {
        check(&hello(1, 2), &started(starts), &Expected { record: Some(record), ..Expected::default() })
    };
    assert!(judge(&[(44, 90), (33, 50), (22, 40)]).is_ok(), "the same directory, two starts later");
    let forked = Err(HelloRefused::Forked { node: node(2), remembered_boot: 2, boot_counter: 4 });
    assert_eq!(judge(&[(44, 90), (33, 60), (23, 40)]), forked, "another second start");
    assert!(judge(&[(44, 90), (33, 60)]).is_ok(), "it cannot tell its second start");
    assert!(judge(&[(44, 49), (33, 60), (22, 40)]).is_err(), "its log lost something in the third");
    assert!(judge(&[]).is_ok(), "it can tell none");
}

#[test]
fn m7_a_copy_from_within_a_start_is_told_at_every_later_start() {
    let record = PeerRecord { boot_counter: 2, boot_nonce: 22, durable_seq: 50 };
    let judge = |starts: &[(u64, u64)]| {
        check(&hello(1, 2), &started(starts), &Expected { record: Some(record), ..Expected::default() })
    };
    let old = Err(HelloRefused::OldCopy { node: node(2), remembered: (2, 50), now: (4, 49) });
    assert_eq!(judge(&[(44, 90), (33, 49), (22, 40)]), old, "what the second start left is less than it had");
    assert_eq!(judge(&[(44, 90), (33, 49)]), old);
    let told = Hello { record_of_receiver: Some(record), ..hello(1, 2) };
    let old = HelloRefused::OldCopy { node: node(2), remembered: (2, 50), now: (4, 49) };
    let own = started(&[(44, 90), (33, 49), (22, 40)]);
    assert_eq!(check(&own, &told, &Expected::default()), Err(old), "the node itself hears it");
}

#[test]
fn a_field_that_comes_twice_is_refused_whatever_its_number() {
    for number in [9, u16::MAX] {
        let field = HelloField { number, content: Vec::new() };
        let mut bytes = Vec::new();
        Hello { fields: vec![field.clone(), field], ..hello(1, 2) }.encode(&mut bytes);
        let refused = DecodeError::Invalid("hello.field.number", u64::from(number));
        assert_eq!(Hello::decode(&bytes), Err(refused));
    }
}

#[test]
fn a_hello_that_says_that_it_says_no_starts_is_no_hello() {
    let mut bytes = Vec::new();
    hello(1, 2).encode(&mut bytes);
    assert_eq!(bytes.pop(), Some(0), "no fields");
    bytes.extend([1, 1, 0, 0]);
    assert_eq!(Hello::decode(&bytes), Err(DecodeError::Invalid("hello.starts", 0)));
}

#[test]
fn m7_what_a_start_found_is_not_remembered_as_durable() {
    let found = Hello { durable_seq: 90, ..started(&[(44, 90)]) };
    assert_eq!(found.record(), PeerRecord { durable_seq: 0, ..hello(2, 1).record() });
    assert_eq!(started(&[(44, 99)]).record(), hello(2, 1).record(), "it has written since");
}

#[test]
fn m7_what_a_start_found_counts_before_what_is_proven_to_be_durable() {
    let judge = |record: PeerRecord, starts: &[(u64, u64)]| {
        let theirs = Hello { durable_seq: 49, ..started(starts) };
        check(&hello(1, 2), &theirs, &Expected { record: Some(record), ..Expected::default() })
    };
    let record = PeerRecord { boot_counter: 3, boot_nonce: 33, durable_seq: 50 };
    assert!(judge(record, &[(44, 50), (33, 40)]).is_ok(), "the seal is there, and not yet proven");
    assert!(judge(record, &[(44, 49), (33, 40)]).is_err());
    let earlier = PeerRecord { boot_counter: 1, boot_nonce: 11, durable_seq: 50 };
    assert!(judge(earlier, &[(44, 60), (33, 50)]).is_ok(), "the earliest that it can tell");
    assert!(judge(earlier, &[(44, 60), (33, 49)]).is_err());
    assert!(judge(earlier, &[]).is_err());
}

#[test]
fn m7_as_many_starts_are_told_as_are_kept() {
    let all: Vec<(u64, u64)> = (0..STARTS_MAX as u64 + 1).map(|start| (start, 100 - start)).collect();
    let starts = started(&all).starts;
    assert_eq!(starts.ago(STARTS_MAX as u64 - 1), Some(Start { boot_nonce: 31, found_seq: 69 }));
    assert_eq!(starts.ago(STARTS_MAX as u64), None);
    let mut bytes = Vec::new();
    starts.encode(&mut bytes);
    let decode = |bytes: &[u8], counter, nonce| Starts::decode(bytes, (counter, nonce), "starts");
    assert_eq!(decode(&bytes, 33, 0), Ok(starts));
    assert!(decode(&bytes, 33, 1).is_err(), "another start");
    assert!(decode(&bytes, 31, 0).is_err(), "more starts than there were");
    assert!(decode(&bytes[..bytes.len() - 1], 33, 0).is_err(), "part of a start");
    bytes.extend([0; 16]);
    assert!(decode(&bytes, 33, 0).is_err(), "one too many");
}

#[test]
fn m7_a_copy_that_starts_with_the_counter_of_the_only_later_start_is_an_old_one() {
    let record = PeerRecord { boot_counter: 4, boot_nonce: 1, durable_seq: 101 };
    let expected = Expected { record: Some(record), ..Expected::default() };
    let refused = check(&hello(1, 2), &hello(2, 1), &expected).expect_err("refused");
    assert_eq!(refused, HelloRefused::OldCopy { node: node(2), remembered: (4, 101), now: (4, 100) });
    let theirs = Hello { record_of_receiver: Some(record), ..hello(2, 1) };
    let told = judge(&theirs).expect_err("refused");
    assert_eq!(told, HelloRefused::OldCopy { node: node(1), remembered: (4, 101), now: (4, 100) });
    assert!(told.to_string().contains("started twice"), "{told}");
}

#[test]
fn m7_an_old_copy_is_refused_by_what_the_peer_remembers() {
    let judge = |boot_counter, durable_seq| {
        let record = PeerRecord { boot_counter, boot_nonce: 1, durable_seq };
        check(&hello(1, 2), &hello(2, 1), &Expected { record: Some(record), ..Expected::default() })
    };
    assert!(judge(3, 100).is_ok(), "a restart continues where it was");
    let old = HelloRefused::OldCopy { node: node(2), remembered: (3, 101), now: (4, 100) };
    assert_eq!(judge(3, 101), Err(old), "less is durable than it once said");
    assert!(judge(5, 50).is_err(), "its boot counter went back");
}

#[test]
fn m7_a_node_learns_from_its_peer_that_it_is_an_old_copy() {
    let record = PeerRecord { boot_counter: 3, boot_nonce: 1, durable_seq: 101 };
    let theirs = Hello { record_of_receiver: Some(record), ..hello(2, 1) };
    let old = HelloRefused::OldCopy { node: node(1), remembered: (3, 101), now: (4, 100) };
    assert_eq!(judge(&theirs), Err(old));
}

#[test]
fn m7_a_hello_that_beats_of_the_same_boot_overtook_is_no_old_copy() {
    let record = PeerRecord { durable_seq: 500, ..hello(2, 1).record() };
    let expected = Expected { record: Some(record), ..Expected::default() };
    assert!(check(&hello(1, 2), &hello(2, 1), &expected).is_ok());
}

#[test]
fn m10_topologies_are_compared_but_never_refused() {
    let relation = |version, hash| {
        let theirs = Hello { topology: TopologyStamp { version, hash: [hash; 16] }, ..hello(2, 1) };
        judge(&theirs).expect("accepted").topology
    };
    assert_eq!(relation(2, 9), TopologyRelation::Same);
    assert_eq!(relation(3, 1), TopologyRelation::Newer);
    assert_eq!(relation(1, 1), TopologyRelation::Older);
    assert_eq!(relation(2, 1), TopologyRelation::Diverged);
}

#[test]
fn s13_a_retired_node_is_refused() {
    let expected = Expected { retired: BTreeSet::from([node(2)]), ..Expected::default() };
    let refused = check(&hello(1, 2), &hello(2, 1), &expected).expect_err("refused");
    assert_eq!(refused.to_string(), "node 2 was removed for good");
}

#[test]
fn hellos_replies_and_confirmations_come_back() {
    for sample in [hello(1, 2), full_hello()] {
        let mut bytes = Vec::new();
        sample.encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(sample.clone()));
        let reply = HelloReply::Accepted { version: 1, feature_level: 2, hello: Box::new(sample) };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(HelloReply::decode(&bytes), Ok(reply));
    }
    for refused in refusals() {
        let (mut reply, mut confirm) = (Vec::new(), Vec::new());
        HelloReply::Refused(refused.clone()).encode(&mut reply);
        HelloConfirm::Refused(refused.clone()).encode(&mut confirm);
        assert_eq!(HelloReply::decode(&reply), Ok(HelloReply::Refused(refused.clone())));
        assert_eq!(HelloConfirm::decode(&confirm), Ok(HelloConfirm::Refused(refused)));
    }
}

#[test]
fn a_refusal_of_a_later_build_is_read_as_its_text() {
    let mut bytes = vec![0, 99, 5];
    bytes.extend(b"later");
    bytes.extend([1, 2, 3]);
    let later = HelloRefused::Other("later".to_owned());
    assert_eq!(HelloReply::decode(&bytes), Ok(HelloReply::Refused(later)));
}

#[test]
fn a_table_that_contradicts_its_sender_is_refused() {
    let lying = Hello { instances: instances(&[(1, 9)]), ..hello(1, 2) };
    let mut bytes = Vec::new();
    lying.encode(&mut bytes);
    assert!(Hello::decode(&bytes).is_err());
}
