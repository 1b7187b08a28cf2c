// SPDX-License-Identifier: Apache-2.0

//! `/v1/kv/{key}`.

use mraft_api::{DeleteAnswer, Outcome, Served};
use mraft_gateway::Limits;
use mraft_gateway::needs::{Failure, NodeError};
use mraft_types::{GroupId, NodeId};

use crate::harness::{code, door, door_with};
use crate::node::{NODE, group_of, overloaded};

#[tokio::test]
async fn a_value_comes_back_as_it_went_with_all_metadata() {
    let house = door().await;
    let value: Vec<u8> = (0..=255).collect();
    let put = house.put("/v1/kv/a", &value).await;
    let served: Served = put.json();
    assert_eq!((served.group, served.revision, served.index), (group_of(b"a"), 1, 1001));
    assert_eq!((served.leader, served.served_by), (Some(NODE), NODE));
    assert_eq!(put.header("etag"), "\"1\"");
    let got = house.get("/v1/kv/a").await;
    assert_eq!((got.status, &got.body[..]), (200, &value[..]));
    assert_eq!(got.header("content-type"), "application/octet-stream");
    assert_eq!(got.header("etag"), "\"1\"");
    assert_eq!(got.header("mraft-group"), group_of(b"a").to_string());
    assert_eq!((got.header("mraft-revision"), got.header("mraft-index")), ("1", "1001"));
    assert_eq!((got.header("mraft-leader"), got.header("mraft-served-by")), ("7", "7"));
}

#[tokio::test]
async fn post_is_put_whatever_the_content_type() {
    let house = door().await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(house.send("POST", "/v1/kv/a", &form, b"field0=x").await.status, 200);
    assert_eq!(house.get("/v1/kv/a").await.text(), "field0=x");
    assert_eq!(house.put("/v1/kv/a", b"").await.status, 200);
    assert_eq!(&house.get("/v1/kv/a").await.body[..], b"");
}

#[tokio::test]
async fn the_key_is_every_byte_after_the_route() {
    let house = door().await;
    for (path, key) in [
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("/", "/"),
        ("//a//", "//a//"),
        ("a+b%20c", "a+b c"),
        ("%00", "\\x00"),
        ("%ff%fe", "\\xff\\xfe"),
        ("..", ".."),
        ("a/../b", "a/../b"),
        ("%7Btag%7Dx", "{tag}x"),
        ("a%25b", "a%b"),
        ("a%3Fb", "a?b"),
    ] {
        assert_eq!(house.get(&format!("/v1/kv/{path}")).await.refused(), code(404, "key_not_found"));
        assert_eq!(house.node.asked().last(), Some(&format!("read linearizable {key}")), "{path}");
    }
}

#[tokio::test]
async fn a_key_has_1_byte_to_4_kib() {
    let house = door().await;
    let of = |len: usize| format!("/v1/kv/{}", "%41".repeat(len));
    assert_eq!(house.put(&of(4096), b"v").await.status, 200);
    assert_eq!(house.put(&of(4097), b"v").await.refused(), code(400, "bad_key"));
    for path in ["/v1/kv/", "/v1/kv/%", "/v1/kv/a%4", "/v1/kv/%zz"] {
        for method in ["GET", "PUT", "POST", "DELETE"] {
            assert_eq!(house.send(method, path, &[], b"").await.refused(), code(400, "bad_key"), "{path}");
        }
    }
    assert_eq!(house.node.asked().len(), 1, "what is no key never reaches the node");
}

#[tokio::test]
async fn a_value_has_at_most_max_value_bytes() {
    let house = door_with(Limits { value_bytes_max: 1000, ..Limits::default() }).await;
    assert_eq!(house.put("/v1/kv/a", &[1; 1000]).await.status, 200);
    let refused = house.put("/v1/kv/a", &[2; 1001]).await;
    assert_eq!(refused.refused(), code(413, "too_large"));
    assert_eq!(refused.problem().outcome, Outcome::NotApplied);
    assert_eq!(house.get("/v1/kv/a").await.body[..], [1; 1000]);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let house = door_with(Limits { value_bytes_max: 1000, ..Limits::default() }).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: door\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n\r\n";
    let said = house.raw(head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
}

#[tokio::test]
async fn a_chunked_body_is_counted_while_it_is_read() {
    let house = door_with(Limits { value_bytes_max: 10, ..Limits::default() }).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: door\r\ntransfer-encoding: chunked\r\n";
    let fits = format!("{head}connection: close\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n");
    assert!(house.raw(fits.as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert_eq!(house.get("/v1/kv/a").await.text(), "helloworld");
    let endless = format!("{head}\r\n5\r\nhello\r\n6\r\nworld!\r\n");
    assert!(house.raw(endless.as_bytes()).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn conditional_writes_happen_only_when_they_hold() {
    let house = door().await;
    let put = async |condition: (&str, &str)| house.send("PUT", "/v1/kv/a", &[condition], b"v").await;
    assert_eq!(put(("if-match", "*")).await.refused(), code(412, "condition_failed"));
    assert_eq!(put(("if-match", "\"1\"")).await.refused(), code(412, "condition_failed"));
    assert_eq!(put(("if-none-match", "*")).await.header("etag"), "\"1\"");
    let failed = put(("if-none-match", "*")).await;
    assert_eq!(failed.refused(), code(412, "condition_failed"));
    assert_eq!((failed.problem().revision, failed.problem().outcome), (Some(1), Outcome::NotApplied));
    assert_eq!(failed.header("mraft-group"), group_of(b"a").to_string());
    assert_eq!(put(("if-match", "\"1\"")).await.header("etag"), "\"2\"");
    assert_eq!(put(("if-match", "\"1\"")).await.problem().revision, Some(2));
    assert_eq!(put(("if-match", "*")).await.header("etag"), "\"3\"");
    let stale = house.send("DELETE", "/v1/kv/a", &[("if-match", "\"2\"")], b"").await;
    assert_eq!(stale.refused(), code(412, "condition_failed"));
    let current = house.send("DELETE", "/v1/kv/a", &[("if-match", "\"3\"")], b"").await;
    assert_eq!(current.json::<DeleteAnswer>().deleted, 1);
}

#[tokio::test]
async fn what_is_no_condition_is_refused_by_the_headers_name() {
    let house = door().await;
    for (name, value) in
        [("If-Match", "W/\"1\""), ("If-Match", "\"1\", \"2\""), ("If-Match", "1"), ("If-None-Match", "\"1\"")]
    {
        for method in ["PUT", "POST", "DELETE"] {
            let refused = house.send(method, "/v1/kv/a", &[(name, value)], b"v").await;
            assert_eq!(refused.refused(), code(400, "bad_condition"), "{name}: {value}");
            assert!(refused.problem().detail.starts_with(&format!("{name}:")));
        }
    }
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn conditional_reads_save_the_body() {
    let house = door().await;
    house.node.put(b"a", b"v");
    let get = async |name: &str, value: &str| house.send("GET", "/v1/kv/a", &[(name, value)], b"").await;
    let same = get("if-none-match", "W/\"9\", \"1\"").await;
    assert_eq!((same.status, same.header("etag"), &same.body[..]), (304, "\"1\"", &b""[..]));
    assert_eq!(get("if-none-match", "\"2\"").await.status, 200);
    assert_eq!(get("if-match", "\"1\"").await.status, 200);
    assert_eq!(get("if-match", "\"2\"").await.refused(), code(412, "condition_failed"));
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let house = door().await;
    house.node.put(b"a", b"value");
    let head = house.send("HEAD", "/v1/kv/a", &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), &head.body[..]), (200, "5", &b""[..]));
    assert_eq!((head.header("etag"), head.header("mraft-revision")), ("\"1\"", "1"));
    let absent = house.send("HEAD", "/v1/kv/b", &[], b"").await;
    assert_eq!((absent.status, &absent.body[..]), (404, &b""[..]));
}

#[tokio::test]
async fn delete_says_whether_there_was_something() {
    let house = door().await;
    house.node.put(b"a", b"v");
    let first = house.delete("/v1/kv/a").await;
    assert_eq!((first.text(), first.header("mraft-revision")), ("{\"deleted\":1}", "2"));
    let second = house.delete("/v1/kv/a").await;
    assert_eq!((second.text(), second.header("mraft-revision")), ("{\"deleted\":0}", "2"));
}

#[tokio::test]
async fn an_absent_key_says_who_looked() {
    let house = door().await;
    let absent = house.get("/v1/kv/a").await;
    assert_eq!(absent.refused(), code(404, "key_not_found"));
    assert_eq!(absent.problem().group, Some(group_of(b"a")));
    assert_eq!((absent.header("mraft-served-by"), absent.header("mraft-index")), ("7", "1000"));
}

#[tokio::test]
async fn consistency_is_the_readers_choice() {
    let house = door().await;
    house.node.put(b"a", b"v");
    assert_eq!(house.get("/v1/kv/a?consistency=stale").await.header("mraft-stale-ms"), "12");
    assert_eq!(house.get("/v1/kv/a?consistency=linearizable").await.header("mraft-stale-ms"), "");
    assert_eq!(house.node.asked(), ["read stale a", "read linearizable a"]);
    assert_eq!(house.get("/v1/kv/a?consistency=maybe").await.refused(), code(400, "bad_parameter"));
}

#[tokio::test]
async fn what_comes_later_is_refused_by_name() {
    let house = door().await;
    for (parameter, what) in [("ttl=60", "time-to-live"), ("session=7", "session")] {
        let refused = house.put(&format!("/v1/kv/a?{parameter}"), b"value").await;
        assert_eq!(refused.refused(), code(400, "unknown_parameter"));
        let title = String::from_utf8(refused.body.to_vec()).expect("text");
        assert!(title.contains(what) && title.contains("later release"), "{title}");
    }
    assert_eq!(house.get("/v1/kv/a").await.refused(), code(404, "key_not_found"), "nothing was written");
}

#[tokio::test]
async fn an_unknown_parameter_gets_the_nearest_name() {
    let house = door().await;
    let refused = house.get("/v1/kv/a?consistancy=stale").await;
    assert_eq!(refused.refused(), code(400, "unknown_parameter"));
    assert!(refused.problem().hint.expect("a hint").contains("`consistency`"));
    assert_eq!(house.put("/v1/kv/a?consistency=stale", b"").await.refused(), code(400, "unknown_parameter"));
}

#[tokio::test]
async fn another_method_is_told_which_ones_there_are() {
    let house = door().await;
    for method in ["PATCH", "OPTIONS", "TRACE", "PURGE"] {
        let refused = house.send(method, "/v1/kv/a", &[], b"").await;
        assert_eq!(refused.refused(), code(405, "method_not_allowed"));
        // In one form with every other route.
        assert_eq!(refused.header("allow"), "GET,HEAD,PUT,POST,DELETE");
    }
}

#[tokio::test]
async fn a_nodes_error_arrives_with_everything_it_knew() {
    let house = door().await;
    house.node.fail(Failure::of_group(NodeError::NoLeader, GroupId(2), NodeId::new(9)));
    let refused = house.put("/v1/kv/a", b"v").await;
    let problem = refused.problem();
    assert_eq!(refused.refused(), code(503, "no_leader"));
    assert_eq!(problem.type_uri, "urn:mraft:problem:no_leader");
    assert_eq!((problem.group, problem.leader, problem.outcome), (Some(2), Some(9), Outcome::NotApplied));
    assert_eq!((problem.retry_after_ms, refused.header("retry-after")), (Some(200), "1"));
    assert!(problem.hint.is_some() && !problem.title.is_empty() && !problem.detail.is_empty());
}

#[tokio::test]
async fn each_outcome_is_the_nodes() {
    let house = door().await;
    for (error, status, outcome) in [
        (NodeError::Unknown("the connection broke".to_owned()), 504, Outcome::Unknown),
        (NodeError::NotStarted, 503, Outcome::NotApplied),
        (NodeError::NoHolder { hops: 2 }, 421, Outcome::NotApplied),
        (overloaded(), 429, Outcome::NotApplied),
        (NodeError::Moved { epoch: 3 }, 503, Outcome::NotApplied),
    ] {
        house.node.fail(error);
        let refused = house.put("/v1/kv/a", b"v").await;
        assert_eq!((refused.status, refused.problem().outcome), (status, outcome));
    }
}

#[tokio::test]
async fn a_node_that_does_not_answer_leaves_a_write_unknown_and_a_read_undone() {
    let house = door().await;
    house.node.hold();
    let write = house.put("/v1/kv/a?timeout_ms=1", b"v").await;
    assert_eq!(write.refused(), code(504, "outcome_unknown"));
    assert_eq!(write.problem().outcome, Outcome::Unknown);
    let read = house.get("/v1/kv/a?timeout_ms=1").await;
    assert_eq!((read.status, read.problem().outcome), (504, Outcome::NotApplied));
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_applied() {
    let house = door().await;
    let head = "PUT /v1/kv/a?timeout_ms=1 HTTP/1.1\r\nhost: door\r\ncontent-length: 10\r\n\r\nhalf";
    let said = house.raw(head.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 408") && said.contains("\"outcome\":\"not_applied\""), "{said}");
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn a_request_may_not_ask_for_more_time_than_there_is() {
    let house = door().await;
    for value in ["0", "60001", "-1", "", "1.5", "99999999999999999999"] {
        let refused = house.get(&format!("/v1/kv/a?timeout_ms={value}")).await;
        assert_eq!(refused.refused(), code(400, "bad_parameter"), "{value}");
    }
    assert_eq!(house.get("/v1/kv/a?timeout_ms=60000").await.status, 404);
}
