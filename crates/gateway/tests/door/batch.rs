// SPDX-License-Identifier: Apache-2.0

//! `POST /v1/batch`.

use mraft_api::{BatchAnswer, BatchResult};
use mraft_gateway::Limits;

use crate::harness::{code, door, door_with};

#[tokio::test]
async fn each_operation_reports_its_own_revision() {
    let house = door().await;
    house.node.put(b"{t}old", b"v");
    let body = r#"{"operations":[
        {"check":{"key":"{t}old","revision":1}}, {"check":{"key":"{t}new","absent":true}},
        {"put":{"key":"{t}new","value":"text"}}, {"put":{"key_base64":"e3R9/w==","value_base64":"/w=="}},
        {"delete":{"key":"{t}old"}}, {"delete":{"key":"{t}never"}}]}"#;
    let said = house.post("/v1/batch", body).await;
    let answer: BatchAnswer = said.json();
    assert_eq!(answer.served.revision, 4);
    assert_eq!(said.header("mraft-revision"), "4");
    let expected = [
        BatchResult::Check { revision: Some(1) },
        BatchResult::Check { revision: None },
        BatchResult::Put { revision: 2 },
        BatchResult::Put { revision: 3 },
        BatchResult::Delete { deleted: 1, revision: Some(4) },
        BatchResult::Delete { deleted: 0, revision: None },
    ];
    assert_eq!(answer.results, expected);
    assert_eq!(&house.get("/v1/kv/%7Bt%7D%ff").await.body[..], b"\xff");
}

#[tokio::test]
async fn a_check_that_fails_undoes_everything_and_says_which() {
    let house = door().await;
    house.node.put(b"{t}a", b"old");
    let body =
        r#"{"operations":[{"put":{"key":"{t}a","value":"new"}},{"check":{"key":"{t}a","revision":9}}]}"#;
    let refused = house.post("/v1/batch", body).await;
    assert_eq!(refused.refused(), code(412, "condition_failed"));
    assert_eq!((refused.problem().operation, refused.problem().revision), (Some(1), Some(1)));
    assert_eq!(house.get("/v1/kv/%7Bt%7Da").await.text(), "old");
}

#[tokio::test]
async fn e6_keys_of_several_slots_are_refused_with_the_slots() {
    let house = door().await;
    let body = r#"{"operations":[{"delete":{"key":"foo"}},{"delete":{"key":"bar"}}]}"#;
    let refused = house.post("/v1/batch", body).await;
    assert_eq!(refused.refused(), code(400, "many_slots"));
    let detail = refused.problem().detail;
    assert!(detail.contains("12182") && detail.contains("5061"), "{detail}");
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn what_is_no_batch_is_refused() {
    let house = door_with(Limits { value_bytes_max: 3, ..Limits::default() }).await;
    let long = format!(r#"{{"operations":[{{"delete":{{"key":"{}"}}}}]}}"#, "k".repeat(4097));
    let many = format!(r#"{{"operations":[{}]}}"#, vec![r#"{"delete":{"key":"a"}}"#; 10_001].join(","));
    let deep = "[".repeat(100_000);
    for (body, expected) in [
        ("", code(400, "bad_request")),
        ("[]", code(400, "bad_request")),
        (r#"{"operations":[]}"#, code(400, "bad_request")),
        (r#"{"operations":[{"put":{"key":"a"}}]}"#, code(400, "bad_request")),
        (r#"{"operations":[{"delete":{"key":"a"}}],"atomic":true}"#, code(400, "bad_request")),
        (r#"{"operations":[{"delete":{"key":""}}]}"#, code(400, "bad_key")),
        (r#"{"operations":[{"put":{"key":"a","value":"four"}}]}"#, code(413, "too_large")),
        (&long, code(400, "bad_key")),
        (&many, code(400, "bad_request")),
        (&deep, code(400, "bad_request")),
    ] {
        let refused = house.post("/v1/batch", body).await;
        assert_eq!(refused.refused(), expected, "{:.80}", body);
    }
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn a_header_that_is_a_condition_is_refused_and_the_hint_says_where_a_batch_has_its_own() {
    let house = door().await;
    let body = br#"{"operations":[{"put":{"key":"a","value":"v"}}]}"#;
    for (name, value) in [("If-Match", "\"7\""), ("If-Match", "*"), ("If-None-Match", "*")] {
        let refused = house.send("POST", "/v1/batch", &[(name, value)], body).await;
        assert_eq!(refused.refused(), code(400, "bad_condition"), "{name}: {value}");
        let problem = refused.problem();
        assert!(problem.detail.starts_with(&format!("{name}:")), "{}", problem.detail);
        assert!(problem.hint.is_some_and(|hint| hint.contains("check")));
    }
    assert_eq!(house.node.asked().len(), 0, "nothing was written");
}

#[tokio::test]
async fn what_has_names_is_an_object_and_no_list_in_its_place() {
    let house = door().await;
    for body in [
        r#"[[{"put":["k",null,"v",null]}]]"#,
        r#"[[{"put":{"key":"k","value":"v"}}]]"#,
        r#"[]"#,
        r#"{"operations":[{"put":["k",null,"v",null]}]}"#,
        r#"{"operations":[{"delete":["k",null]}]}"#,
        r#"{"operations":[{"check":["k",null,1,false]}]}"#,
        r#"{"operations":[["put",{"key":"k","value":"v"}]]}"#,
        r#"{"operations":["put"]}"#,
        r#"{"operations":[{"put":7}]}"#,
        r#"{"operations":[7]}"#,
        r#"{"operations":{}}"#,
        r#"{"operations":[{}]}"#,
        r#"{"operations":[{"put":{"key":7}}]}"#,
        r#"7"#,
    ] {
        let refused = house.post("/v1/batch", body).await;
        assert_eq!(refused.refused(), code(400, "bad_request"), "{body}");
        let detail = refused.problem().detail;
        assert!(
            !detail.contains("struct") && !detail.contains("enum") && !detail.contains("variant"),
            "{body}: {detail}"
        );
        assert!(!detail.contains("Fields") && !detail.contains("Operation"), "{body}: {detail}");
    }
    assert_eq!(house.node.asked().len(), 0, "nothing was written");
}

#[tokio::test]
async fn a_batch_is_no_larger_than_a_command() {
    let house = door().await;
    let operation = format!(r#"{{"put":{{"key":"a","value":"{}"}}}}"#, "v".repeat(900_000));
    let body = format!(r#"{{"operations":[{}]}}"#, vec![operation; 5].join(","));
    assert_eq!(house.post("/v1/batch", &body).await.refused(), code(413, "too_large"));
}
