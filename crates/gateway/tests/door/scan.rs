// SPDX-License-Identifier: Apache-2.0

//! `GET /v1/scan`.

use mraft_api::{ScanAnswer, base64};

use crate::harness::{House, code, door};

/// 200 keys over all groups.
async fn filled() -> House {
    let house = door().await;
    for number in 0..200 {
        house.node.put(format!("k{number:03}").as_bytes(), number.to_string().as_bytes());
    }
    house
}

async fn keys(house: &House, query: &str) -> (Vec<String>, Option<String>) {
    let answer: ScanAnswer = house.get(&format!("/v1/scan?{query}")).await.json();
    let text = |key: Vec<u8>| String::from_utf8(key).expect("UTF-8");
    (answer.entries.into_iter().map(|entry| text(entry.key)).collect(), answer.next.map(text))
}

fn range(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| format!("k{number:03}")).collect()
}

#[tokio::test]
async fn keys_of_all_groups_come_in_order() {
    let house = filled().await;
    assert_eq!(keys(&house, "limit=1000").await, (range(0, 200), None));
    assert_eq!(keys(&house, "").await, (range(0, 100), Some("k099".to_owned())));
    assert_eq!(keys(&house, "limit=3&prefix=k1").await, (range(100, 103), Some("k102".to_owned())));
    assert_eq!(keys(&house, "prefix=nothing").await, (vec![], None));
}

#[tokio::test]
async fn every_page_size_finds_every_key_once() {
    let house = filled().await;
    for page_max in [1, 2, 7, 1000] {
        house.node.page_max(page_max);
        for limit in [1, 3, 64, 199, 200, 201] {
            let (mut found, mut after) = (Vec::new(), String::new());
            loop {
                let (page, next) = keys(&house, &format!("limit={limit}&after={after}")).await;
                assert!(page.len() <= limit);
                found.extend(page);
                match next {
                    Some(next) => after = next,
                    None => break,
                }
            }
            assert_eq!(found, range(0, 200), "pages of {page_max}, limit {limit}");
        }
    }
}

#[tokio::test]
async fn after_is_exclusive() {
    let house = filled().await;
    assert_eq!(keys(&house, "after=k197").await, (range(198, 200), None));
    assert_eq!(keys(&house, "after=k1975").await, (range(198, 200), None));
}

#[tokio::test]
async fn an_answer_is_bounded_by_bytes_but_never_empty() {
    let house = door().await;
    for number in 0..5 {
        house.node.put(format!("k{number:03}").as_bytes(), &vec![b'v'; 400 << 10]);
    }
    assert_eq!(keys(&house, "").await, (range(0, 2), Some("k001".to_owned())));
    house.node.put(b"a", &vec![b'v'; 2 << 20]);
    assert_eq!(keys(&house, "").await, (vec!["a".to_owned()], Some("a".to_owned())));
}

#[tokio::test]
async fn binary_keys_go_both_ways_as_base64() {
    let house = door().await;
    house.node.put(b"\xff\x01", b"\xfe");
    house.node.put(b"\xff\x02", b"text");
    let prefix = base64::encode(b"\xff").replace('/', "%2F");
    let said = house.get(&format!("/v1/scan?prefix_base64={prefix}&limit=1")).await;
    assert!(
        said.text().contains("\"key_base64\"") && said.text().contains("\"next_base64\""),
        "{}",
        said.text()
    );
    let answer: ScanAnswer = said.json();
    assert_eq!((&answer.entries[0].key[..], &answer.entries[0].value[..]), (&b"\xff\x01"[..], &b"\xfe"[..]));
    let next = base64::encode(&answer.next.expect("more")).replace('/', "_").replace('+', "-");
    let answer: ScanAnswer = house.get(&format!("/v1/scan?prefix=%ff&after_base64={next}")).await.json();
    assert_eq!((answer.entries.len(), &answer.entries[0].key[..]), (1, &b"\xff\x02"[..]));
}

#[tokio::test]
async fn a_prefix_with_a_whole_tag_asks_one_group() {
    let house = door().await;
    let answer: ScanAnswer = house.get("/v1/scan?prefix=%7Buser7%7D").await.json();
    assert_eq!((house.node.asked().len(), answer.groups.len()), (1, 1));
    let answer: ScanAnswer = house.get("/v1/scan?prefix=%7Buser7&consistency=stale").await.json();
    assert_eq!(answer.groups.len(), 3);
    assert!(house.node.asked()[1..].iter().all(|asked| asked.starts_with("scan stale")));
}

#[tokio::test]
async fn what_cannot_be_scanned_is_refused() {
    let house = door().await;
    for (query, name) in [
        ("limit=0", "bad_parameter"),
        ("limit=1001", "bad_parameter"),
        ("prefix=a&prefix_base64=YQ==", "bad_parameter"),
        ("after_base64=Y", "bad_parameter"),
        ("prefix=%zz", "bad_parameter"),
        ("start=a", "unknown_parameter"),
    ] {
        assert_eq!(house.get(&format!("/v1/scan?{query}")).await.refused(), code(400, name), "{query}");
    }
    let long = "a".repeat(4097);
    assert_eq!(house.get(&format!("/v1/scan?prefix={long}")).await.refused(), code(400, "bad_parameter"));
}

#[tokio::test]
async fn one_group_that_fails_fails_the_scan() {
    let house = filled().await;
    house.node.fail(mraft_gateway::needs::NodeError::NoLeader);
    assert_eq!(house.get("/v1/scan").await.refused(), code(503, "no_leader"));
    house.node.hold();
    assert_eq!(house.get("/v1/scan?timeout_ms=1").await.refused(), code(504, "outcome_unknown"));
}
