// SPDX-License-Identifier: Apache-2.0

//! `/v1/status`, `/v1/groups`, `/v1/nodes`, and what no route takes.

use mraft_api::{
    ChangeAnswer, ClearConflictAnswer, ErrorCode, GroupDetail, GroupsAnswer, NodeStatus, RetireAnswer,
    VerifyAnswer,
};
use mraft_gateway::needs::NodeError;
use mraft_types::{GroupId, NodeId};

use crate::harness::{code, door};
use crate::node::NODE;

#[tokio::test]
async fn a_node_and_its_groups_are_shown() {
    let house = door().await;
    assert_eq!(house.get("/v1/status").await.json::<NodeStatus>().node, NODE);
    let groups: GroupsAnswer = house.get("/v1/groups").await.json();
    assert_eq!((groups.served_by, groups.groups.len()), (NODE, 3));
    let detail: GroupDetail = house.get("/v1/groups/2").await.json();
    assert_eq!((detail.summary.group, detail.members[0].replica.as_str()), (2, "7#0"));
    assert_eq!(house.get("/v1/groups/9").await.refused(), code(404, "group_not_found"));
    for group in ["x", "-1", "", "1/2", "18446744073709551616"] {
        assert!(matches!(house.get(&format!("/v1/groups/{group}")).await.refused().0, 400 | 404), "{group}");
    }
}

#[tokio::test]
async fn memberships_change_by_the_verbs_of_the_command_line() {
    let house = door().await;
    for (route, body, asked) in [
        (
            "add-learner",
            r#"{"node":"10.1.2.3:13890","raft_address":"10.1.2.3:13890","change_index":4}"#,
            "1 AddLearner { node: n10999445009986, raft_address: \"10.1.2.3:13890\", change_index: Some(4) }",
        ),
        (
            "promote",
            r#"{"node":"8#1"}"#,
            "1 Promote { node: NodeName { node: n8, generation: Some(1) }, change_index: None }",
        ),
        (
            "remove",
            r#"{"node":8,"change_index":5}"#,
            "1 Remove { node: NodeName { node: n8, generation: None }, change_index: Some(5) }",
        ),
        ("transfer", r#"{"node":8}"#, "1 Transfer { node: NodeName { node: n8, generation: None } }"),
    ] {
        let answer: ChangeAnswer = house.post(&format!("/v1/groups/1/{route}"), body).await.json();
        assert_eq!((answer.group, answer.replica.as_str()), (1, "8#1"));
        assert_eq!(house.node.asked().last().map(String::as_str), Some(asked));
    }
    assert!(house.post("/v1/groups/1/verify", "").await.json::<VerifyAnswer>().equal);
}

#[tokio::test]
async fn what_is_no_change_is_refused() {
    let house = door().await;
    for (route, body) in [
        ("add-learner", r#"{"node":8}"#),
        ("add-learner", r#"{"node":"8#1","raft_address":"a:1"}"#),
        ("add-learner", r#"[8,"a:1",null]"#),
        ("promote", r#"{}"#),
        ("promote", r#"[8,1]"#),
        ("promote", r#"{"node":0}"#),
        ("promote", r#"{"node":"a:1"}"#),
        ("remove", r#"{"node":8,"force":true}"#),
        ("transfer", r#"{"node":8,"change_index":1}"#),
    ] {
        let refused = house.post(&format!("/v1/groups/1/{route}"), body).await;
        assert_eq!(refused.refused(), code(400, "bad_request"), "{route} {body}");
    }
    let large = format!(r#"{{"node":"{}"}}"#, "8".repeat(20_000));
    assert_eq!(house.post("/v1/groups/1/promote", &large).await.refused(), code(413, "too_large"));
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn a_condition_that_a_route_cannot_keep_is_refused_by_the_headers_name() {
    let house = door().await;
    for (method, path, hint) in [
        ("POST", "/v1/groups/1/promote", "change_index"),
        ("POST", "/v1/groups/1/transfer", "/v1/kv/"),
        ("DELETE", "/v1/nodes/8", "/v1/kv/"),
        ("GET", "/v1/status", "/v1/kv/"),
        ("GET", "/v1/scan", "/v1/kv/"),
    ] {
        for name in ["If-Match", "If-None-Match"] {
            let refused = house.send(method, path, &[(name, "*")], br#"{"node":8}"#).await;
            assert_eq!(refused.refused(), code(400, "bad_condition"), "{method} {path}");
            let problem = refused.problem();
            assert!(problem.detail.starts_with(&format!("{name}:")), "{}", problem.detail);
            assert!(problem.hint.is_some_and(|text| text.contains(hint)), "{path}");
        }
    }
    let condition = [("If-Match", "*")];
    assert_eq!(house.send("GET", "/v1/nothing", &condition, b"").await.status, 404);
    assert_eq!(house.send("POST", "/v1/status", &condition, b"").await.status, 405);
    assert_eq!(house.node.asked().len(), 0);
}

#[tokio::test]
async fn an_operation_in_conflict_is_409() {
    let house = door().await;
    house.node.fail(NodeError::Conflict("another membership change is not committed yet".to_owned()));
    let refused = house.post("/v1/groups/1/remove", r#"{"node":8}"#).await;
    assert_eq!(refused.refused(), code(409, "conflict"));
}

#[tokio::test]
async fn a_change_that_must_say_what_it_was_made_for_is_told_in_which_field() {
    let house = door().await;
    house.node.fail(NodeError::ChangeIndexMissing);
    let refused = house.post("/v1/groups/1/remove", r#"{"node":8}"#).await;
    assert_eq!(refused.refused(), code(409, "change_refused"));
    assert!(refused.problem().hint.is_some_and(|hint| hint.contains("`change_index`")));
    let document: serde_json::Value = house.get("/v1/openapi.json").await.json();
    for body in ["AddLearner", "NodeRequest"] {
        let field = &document["components"]["schemas"][body]["properties"]["change_index"];
        let said = field["description"].as_str().expect("text");
        assert!(said.contains("ordered_config_change") && said.contains("409"), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_node_is_removed_for_good_by_id_or_address() {
    let house = door().await;
    assert_eq!(house.delete("/v1/nodes/8").await.json::<RetireAnswer>().node, 8);
    for path in ["/v1/nodes/10.1.2.3:13890", "/v1/nodes/10.1.2.3%3A13890"] {
        assert_eq!(house.delete(path).await.json::<RetireAnswer>().node, 10_999_445_009_986);
    }
    assert_eq!(house.delete("/v1/nodes/zero").await.refused(), code(400, "bad_request"));
    assert_eq!(house.delete("/v1/nodes/8?force=perhaps").await.refused(), code(400, "bad_parameter"));
    house.delete("/v1/nodes/8?force=true").await;
    assert_eq!(house.node.asked().last().map(String::as_str), Some("retire 8 by force"));
}

#[tokio::test]
async fn m6_what_is_known_of_a_node_is_cleared_by_id_or_address() {
    let house = door().await;
    for (node, id) in
        [("8", 8), ("10.1.2.3:13890", 10_999_445_009_986), ("10.1.2.3%3A13890", 10_999_445_009_986)]
    {
        let cleared = house.post(&format!("/v1/nodes/{node}/clear-conflict"), "").await;
        let answer: ClearConflictAnswer = cleared.json();
        assert_eq!((answer.node, answer.served_by, answer.changed), (id, NODE, true));
        assert_eq!((answer.known.as_deref(), answer.claimed), (Some("0a"), None));
        assert_eq!(house.node.asked().last(), Some(&format!("clear conflict {id}")));
    }
    let asked = house.node.asked().len();
    for (path, refused) in [
        ("/v1/nodes/zero/clear-conflict", code(400, "bad_request")),
        ("/v1/nodes/8/clear-conflict?force=true", code(400, "unknown_parameter")),
    ] {
        assert_eq!(house.post(path, "").await.refused(), refused, "{path}");
    }
    assert_eq!(house.get("/v1/nodes/8/clear-conflict").await.header("allow"), "POST");
    assert_eq!(house.node.asked().len(), asked);
}

#[tokio::test]
async fn m6_a_node_that_groups_list_is_not_cleared_and_the_hint_says_what_to_do_first() {
    let house = door().await;
    let node = NodeId::new(8).expect("a node id");
    house.node.fail(NodeError::NodeListed { node, groups: vec![GroupId(0), GroupId(3)] });
    let refused = house.post("/v1/nodes/8/clear-conflict", "").await;
    assert_eq!(refused.header("mraft-outcome"), "not_applied");
    let problem = refused.problem();
    assert_eq!((problem.status, problem.code), (409, ErrorCode::ChangeRefused));
    assert!(problem.detail.contains("node 8 is still a member of group 0, 3"), "{}", problem.detail);
    assert!(problem.hint.is_some_and(|hint| hint.contains("/remove")));
}

#[tokio::test]
async fn what_no_route_takes_is_a_problem_too() {
    let house = door().await;
    for path in ["/", "/v1", "/v1/kv", "/v2/kv/a", "/v1/status/", "/v1//status", "/V1/status"] {
        assert_eq!(house.get(path).await.refused(), code(404, "route_not_found"), "{path}");
    }
    let refused = house.post("/v1/status", "").await;
    assert_eq!(refused.refused(), code(405, "method_not_allowed"));
    assert_eq!(refused.header("allow"), "GET,HEAD");
    assert_eq!(house.get("/v1/groups/1/promote").await.header("allow"), "POST");
    assert_eq!(house.get("/v1/status?verbos").await.refused(), code(400, "unknown_parameter"));
}
