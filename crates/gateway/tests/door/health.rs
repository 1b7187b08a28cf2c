// SPDX-License-Identifier: Apache-2.0

//! Probes, metrics, the document.

use std::collections::BTreeSet;

use crate::harness::{code, door};

#[tokio::test]
async fn a_probe_is_one_word_until_something_fails() {
    let house = door().await;
    for path in ["/livez", "/readyz"] {
        let said = house.get(path).await;
        assert_eq!((said.status, said.text()), (200, "ok\n"));
    }
    let verbose = house.get("/readyz?verbose").await;
    assert_eq!(verbose.text(), "[+]log-disk ok\n[+]groups-have-leaders ok\nreadyz check passed\n");
    house.node.unready("group 3 has none");
    let unready = house.get("/readyz").await;
    assert_eq!(unready.status, 503);
    assert!(unready.text().contains("[-]groups-have-leaders failed: group 3 has none\n"));
    assert_eq!(house.get("/livez").await.status, 200);
}

#[tokio::test]
async fn metrics_are_the_nodes_and_the_doors() {
    let house = door().await;
    house.put("/v1/kv/a", b"v").await;
    house.get("/v1/kv/b").await;
    let said = house.get("/metrics").await;
    assert!(said.header("content-type").starts_with("application/openmetrics-text"));
    for line in [
        "mraft_node_up 1\n",
        "mraft_http_answers_total{status=\"200\"} 1\n",
        "mraft_http_answers_total{status=\"404\"} 1\n",
        "mraft_http_latency_seconds_count{kind=\"kv_write\"} 1\n",
        "mraft_http_latency_seconds_bucket{kind=\"kv_read\",le=\"+Inf\"} 1\n",
        "mraft_http_used{limit=\"requests at once\"} 0\n",
        "mraft_http_refused_total{limit=\"connections at once\"} 0\n",
    ] {
        assert!(said.text().contains(line), "{line} in {}", said.text());
    }
    assert!(said.text().ends_with("# EOF\n"));
    assert!(house.get("/metrics?per_group=true").await.text().contains("mraft_node_up 2"));
}

#[tokio::test]
async fn metrics_that_are_off_are_no_route_and_say_how_to_turn_them_on() {
    let house = door().await;
    house.node.serve_no_metrics();
    let refused = house.get("/metrics").await;
    assert_eq!(refused.refused(), code(404, "route_not_found"));
    assert!(refused.text().contains("enable_metrics"), "{}", refused.text());
}

#[tokio::test]
async fn the_contract_is_served_as_a_document() {
    let house = door().await;
    let document: serde_json::Value = house.get("/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn head_is_taken_wherever_the_document_has_a_get() {
    let house = door().await;
    house.node.put(b"a", b"v");
    let document: serde_json::Value = house.get("/v1/openapi.json").await.json();
    assert!(document["info"]["description"].as_str().expect("text").contains("HEAD"));
    let paths = document["paths"].as_object().expect("paths");
    let routes: Vec<&String> =
        paths.iter().filter(|(_, on)| on.get("get").is_some()).map(|(path, _)| path).collect();
    assert!(routes.len() > 8, "{routes:?}");
    for route in routes {
        let path =
            route.replace("{key}", "a").replace("{group}", "1").replace("/raft/key", "/raft/key?key=a");
        let (got, head) = (house.get(&path).await, house.send("HEAD", &path, &[], b"").await);
        assert_eq!((got.status, head.status, &head.body[..]), (200, 200, &b""[..]), "{path}");
        assert_eq!(got.header("content-type"), head.header("content-type"), "{path}");
    }
}

#[tokio::test]
async fn the_document_lists_the_headers_of_what_is_not_modified() {
    let house = door().await;
    house.node.put(b"a", b"v");
    let document: serde_json::Value = house.get("/v1/openapi.json").await.json();
    for method in ["get", "head"] {
        let listed = &document["paths"]["/v1/kv/{key}"][method]["responses"]["304"]["headers"];
        let listed: BTreeSet<String> =
            listed.as_object().expect("headers").keys().map(|name| name.to_lowercase()).collect();
        let condition = [("if-none-match", "\"1\"")];
        let said = house.send(&method.to_uppercase(), "/v1/kv/a?consistency=stale", &condition, b"").await;
        assert_eq!(said.status, 304);
        let sent = said.headers.keys().map(ToString::to_string);
        let sent: BTreeSet<String> =
            sent.filter(|name| name == "etag" || name.starts_with("mraft-")).collect();
        assert_eq!(listed, sent, "{method}");
    }
}
