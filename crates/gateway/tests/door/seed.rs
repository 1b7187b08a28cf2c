// SPDX-License-Identifier: Apache-2.0

//! The compatibility routes under `/raft` (row S16).

use mraft_api::{SeedEnvelope, SeedInfo};
use mraft_gateway::needs::NodeError;
use serde_json::{Value, json};

use crate::harness::{Said, code, door};
use crate::node::NODE;

fn envelope(said: &Said) -> Value {
    serde_json::from_slice(&said.body).expect("an envelope")
}

#[tokio::test]
async fn a_key_is_written_read_and_deleted_in_the_query() {
    let house = door().await;
    let put = house.send("POST", "/raft/key?key=a%20b&val=x+y", &[], b"").await;
    assert_eq!((put.status, envelope(&put)["code"].clone()), (200, json!(0)));
    let got = house.get("/raft/key?key=a+b").await;
    assert_eq!(got.status, 200);
    assert_eq!(envelope(&got), json!({"code": 0, "msg": "ok", "result": "x y", "revision": 1}));
    let deleted = house.delete("/raft/key?key=a+b").await;
    assert_eq!(envelope(&deleted)["result"], json!({"deleted": 1}));
    let gone = house.get("/raft/key?key=a+b").await;
    assert_eq!((gone.status, envelope(&gone)["code"].clone()), (404, json!(-1)));
    assert_eq!(envelope(&gone)["result"], Value::Null);
}

#[tokio::test]
async fn reads_are_stale_unless_sync_is_true() {
    let house = door().await;
    house.node.put(b"a", b"v");
    assert_eq!(house.get("/raft/key?key=a").await.header("mraft-stale-ms"), "12");
    assert_eq!(house.get("/raft/key?key=a&sync=true").await.header("mraft-stale-ms"), "");
    assert_eq!(house.get("/raft/key?key=a&sync=false").await.status, 200);
    assert_eq!(house.node.asked(), ["read stale a", "read linearizable a", "read stale a"]);
}

#[tokio::test]
async fn a_value_that_is_not_utf8_is_422_with_the_way_out() {
    let house = door().await;
    house.node.put(b"a", b"\xff");
    let refused = house.get("/raft/key?key=a").await;
    assert_eq!(refused.status, 422);
    assert!(envelope(&refused)["hint"].as_str().expect("a hint").contains("/v1/kv/"));
}

#[tokio::test]
async fn every_answer_about_a_key_says_of_which_state_it_is_and_who_gave_it() {
    let house = door().await;
    house.node.put(b"a", b"v");
    house.node.put(b"b", b"\xff");
    for (method, path, status, revision) in [
        ("GET", "/raft/key?key=a", 200, Some(1)),
        ("GET", "/raft/key?key=b", 422, Some(1)),
        ("GET", "/raft/key?key=none", 404, None),
        ("POST", "/raft/key?key=a&val=w", 200, Some(2)),
        ("DELETE", "/raft/key?key=a", 200, Some(3)),
    ] {
        let said = house.send(method, path, &[], b"").await;
        assert_eq!(
            (said.status, envelope(&said)["revision"].as_u64()),
            (status, revision),
            "{method} {path}"
        );
        let told = ["group", "revision", "index", "leader", "served-by"]
            .map(|name| !said.header(&format!("mraft-{name}")).is_empty());
        assert_eq!(told, [true; 5], "{method} {path}: {said:?}");
        if let Some(revision) = revision {
            assert_eq!(said.header("mraft-revision"), revision.to_string(), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn errors_keep_their_status_and_say_the_outcome() {
    let house = door().await;
    for (path, status) in
        [("/raft/key", 400), ("/raft/key?key=", 400), ("/raft/key?ky=a", 400), ("/raft/key?key=a", 400)]
    {
        let refused = house.send("POST", path, &[], b"").await;
        assert_eq!((refused.status, envelope(&refused)["code"].clone()), (status, json!(-1)), "{path}");
    }
    house.node.fail(NodeError::Unknown("why".to_owned()));
    let refused = house.send("POST", "/raft/key?key=a&val=b", &[], b"").await;
    assert_eq!((refused.status, refused.header("content-type")), (504, "application/json"));
    assert_eq!(envelope(&refused)["outcome"], json!("unknown"));
    house.node.fail(NodeError::NoLeader);
    let refused = house.get("/raft/key?key=a&sync=true").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, "1"));
}

#[tokio::test]
async fn a_condition_is_refused_by_the_headers_name() {
    let house = door().await;
    let refused = house.send("POST", "/raft/key?key=a&val=b", &[("If-None-Match", "*")], b"").await;
    assert_eq!((refused.status, envelope(&refused)["error"].clone()), (400, json!("bad_condition")));
    assert!(envelope(&refused)["msg"].as_str().expect("text").starts_with("If-None-Match:"));
    assert!(envelope(&refused)["hint"].as_str().expect("a hint").contains("/v1/kv/"));
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn what_no_route_takes_is_an_envelope_too() {
    let house = door().await;
    for (method, path, status) in [
        ("GET", "/raft/nothing", 404),
        ("PUT", "/raft/key?key=a", 405),
        ("POST", "/raft/info", 405),
        ("GET", "/raft/del?addr=10.1.2.3:13890", 405),
    ] {
        let refused = house.send(method, path, &[], b"").await;
        assert_eq!((refused.status, refused.header("content-type")), (status, "application/json"), "{path}");
        assert_eq!(envelope(&refused)["code"], json!(-1));
        assert_eq!(refused.header("mraft-outcome"), "not_applied");
    }
    assert_eq!(house.send("POST", "/raft/info", &[], b"").await.header("allow"), "GET,HEAD");
    for path in ["/raft", "/raft/"] {
        let refused = house.get(path).await;
        assert_eq!(
            (refused.status, envelope(&refused)["error"].clone()),
            (404, json!("route_not_found")),
            "{path}"
        );
    }
    assert_eq!(house.get("/rafts").await.refused(), code(404, "route_not_found"));
}

#[tokio::test]
async fn info_shows_the_node_and_its_groups() {
    let house = door().await;
    let said = house.get("/raft/info").await;
    let info: SeedEnvelope<SeedInfo> = said.json();
    let info = info.result.expect("a result");
    assert_eq!((info.node_id, info.raft_address.as_str(), info.clusters.len()), (NODE, "127.0.0.1:13890", 3));
    assert!(info.clusters[0].is_leader && !info.clusters[1].is_leader);
    assert!(said.text().contains("\"clusterId\":2"));
}

#[tokio::test]
async fn del_removes_a_node_and_join_is_refused_by_name() {
    let house = door().await;
    assert_eq!(house.delete("/raft/del?addr=10.1.2.3:13890").await.status, 200);
    assert_eq!(house.node.asked(), ["retire 10999445009986"]);
    assert_eq!(house.delete("/raft/del").await.status, 400);
    let join = house.send("POST", "/raft/join?addr=10.1.2.3:13890", &[], b"").await;
    assert_eq!((join.status, envelope(&join)["code"].clone()), (501, json!(-1)));
    assert!(envelope(&join)["msg"].as_str().expect("text").contains("control center"));
}
