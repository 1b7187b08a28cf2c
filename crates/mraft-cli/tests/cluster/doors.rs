// SPDX-License-Identifier: Apache-2.0

//! What the HTTP door of a real node answers: the routes beside single keys, metrics, stale reads, and commands whose output nobody
//! reads.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Dev, done, ended, free_base_port, http, mraft, run, signal, wait_until};

fn one_node(directory: &std::path::Path, groups: &str) -> Dev {
    let base = free_base_port().to_string();
    Dev::start(directory, &["--base-port", &base, "--groups", groups, "--nodes", "1"])
}

#[test]
fn every_route_of_a_real_node_keeps_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let dev = one_node(directory.path(), "4");
    let url = dev.nodes[0].url.as_str();

    // Keys are bytes: slashes, zeros, what is no UTF-8.
    let binary = "/v1/kv/%00%ff%2f..%2f%23";
    let put = http(url, "PUT", binary, &[], b"\0\xff");
    assert_eq!(put.status, 200, "{}", put.text());
    let etag = put.header("etag").expect("a revision").to_owned();
    let got = http(url, "GET", binary, &[], b"");
    assert_eq!(
        (got.status, got.body.as_slice(), got.header("etag")),
        (200, &b"\0\xff"[..], Some(etag.as_str()))
    );

    // Conditions.
    let conditional = |method, headers: &[(&str, &str)]| http(url, method, binary, headers, b"2").status;
    assert_eq!(conditional("PUT", &[("if-none-match", "*")]), 412);
    assert_eq!(conditional("PUT", &[("if-match", "\"77\"")]), 412);
    assert_eq!(conditional("GET", &[("if-none-match", &etag)]), 304);
    assert_eq!(conditional("PUT", &[("if-match", &etag)]), 200);
    assert_eq!(conditional("DELETE", &[("if-match", &etag)]), 412, "it has another revision now");
    assert_eq!(conditional("DELETE", &[("if-match", "*")]), 200);
    assert_eq!(conditional("GET", &[]), 404);
    assert_eq!(conditional("PUT", &[("if-match", "*")]), 412, "there is no such key any more");

    // A batch is of one slot, whole or not at all.
    let batch = |body: &serde_json::Value| {
        let body = serde_json::to_vec(body).expect("JSON");
        http(url, "POST", "/v1/batch", &[("content-type", "application/json")], &body)
    };
    let both = json!({"operations": [
        {"check": {"key": "{t}a", "absent": true}},
        {"put": {"key": "{t}a", "value": "1"}},
        {"put": {"key_base64": "e3R9/w==", "value_base64": "/w=="}},
    ]});
    let first = batch(&both);
    assert_eq!(first.status, 200, "{}", first.text());
    let again = batch(&both);
    assert_eq!((again.status, again.json()["operation"].as_u64()), (412, Some(0)), "{}", again.text());
    assert_eq!(http(url, "GET", "/v1/kv/%7Bt%7D%ff", &[], b"").body, b"\xff");
    let many = batch(&json!({"operations": [{"delete": {"key": "a"}}, {"delete": {"key": "b"}}]}));
    assert_eq!((many.status, many.json()["code"].as_str()), (400, Some("many_slots")));

    // The compatibility routes.
    let seed = |method, path: &str| http(url, method, path, &[], b"");
    assert_eq!(seed("POST", "/raft/key?key=k&val=x+y").json()["code"], 0);
    assert_eq!(seed("GET", "/raft/key?key=k&sync=true").json()["result"], "x y");
    assert_eq!(seed("GET", "/raft/key?key=k").json()["result"], "x y", "one node is never behind");
    assert_eq!(seed("DELETE", "/raft/key?key=k").json()["result"], json!({"deleted": 1}));
    assert_eq!(seed("GET", "/raft/key?key=k").status, 404);
    assert_eq!(seed("GET", "/raft/info").json()["result"]["clusters"].as_array().map(Vec::len), Some(4));
    assert_eq!(seed("POST", "/raft/join?addr=10.0.0.1:1").status, 501);
    assert_eq!(seed("GET", "/raft/nothing").json()["code"], -1);
    assert!(dev.stop().success());
}

#[test]
fn a_scan_goes_over_all_groups_page_by_page_and_its_limit_is_kept() {
    const KEYS: usize = 1_200;
    let directory = tempfile::tempdir().expect("a directory");
    let dev = one_node(directory.path(), "4");
    let url = dev.nodes[0].url.as_str();
    for tag in 0..40 {
        // One slot, so one command: forty commands for all keys, spread over the groups.
        let operations: Vec<_> = (0..KEYS / 40)
            .map(|key| json!({"put": {"key": format!("{{{tag}}}{key:03}"), "value": "v"}}))
            .collect();
        let body = serde_json::to_vec(&json!({ "operations": operations })).expect("JSON");
        let said = http(url, "POST", "/v1/batch", &[("content-type", "application/json")], &body);
        assert_eq!(said.status, 200, "{}", said.text());
    }
    let scan = |arguments: &[&str]| -> serde_json::Value {
        let text = done(&[url], &[&["kv", "scan", "-o", "json"], arguments].concat());
        serde_json::from_str(&text).expect("JSON")
    };
    let all = scan(&["--limit", "2000"]);
    let listed: Vec<&str> = all["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| entry["key"].as_str())
        .collect();
    assert_eq!((listed.len(), all["next"].clone()), (KEYS, serde_json::Value::Null));
    assert!(listed.is_sorted() && listed.windows(2).all(|pair| pair[0] != pair[1]));
    let groups: std::collections::BTreeSet<u64> = all["entries"]
        .as_array()
        .expect("entries")
        .iter()
        .filter_map(|entry| entry["group"].as_u64())
        .collect();
    assert!(groups.len() > 1, "{groups:?}");
    let most = scan(&["--limit", "1100"]);
    assert_eq!(most["entries"].as_array().map(Vec::len), Some(1_100));
    assert_eq!(most["next"].as_str(), Some(listed[1_099]));
    let rest = scan(&["--limit", "2000", "--after", listed[1_099]]);
    assert_eq!(rest["entries"].as_array().map(Vec::len), Some(KEYS - 1_100));
    assert!(dev.stop().success());
}

#[test]
fn a_closed_standard_output_ends_no_command_with_a_panic() {
    let directory = tempfile::tempdir().expect("a directory");
    let dev = one_node(directory.path(), "2");
    let url = dev.nodes[0].url.as_str();
    done(&[url], &["kv", "put", "key", "value"]);
    let file = directory.path().join("node-1/node.toml");
    let file = file.to_str().expect("UTF-8");
    let to = ["--url", url];
    let commands: [Vec<&str>; 12] = [
        vec!["config", "default"],
        vec!["config", "check", file],
        [&["kv", "get", "key"], &to[..]].concat(),
        [&["kv", "get", "key", "-o", "json"], &to[..]].concat(),
        [&["kv", "get", "none"], &to[..]].concat(),
        [&["kv", "put", "key", "value"], &to[..]].concat(),
        [&["kv", "scan"], &to[..]].concat(),
        [&["status"], &to[..]].concat(),
        [&["groups"], &to[..]].concat(),
        [&["group", "0"], &to[..]].concat(),
        [&["group", "0", "verify"], &to[..]].concat(),
        vec!["--help"],
    ];
    for command in commands {
        // The reading ends are closed before the command writes its first byte.
        let (output, errors) = (std::io::pipe().expect("a pipe"), std::io::pipe().expect("a pipe"));
        drop((output.0, errors.0));
        let child = mraft().args(&command).stdin(Stdio::null()).stdout(output.1).stderr(errors.1).spawn();
        let status = ended(&mut child.expect("mraft runs"));
        // 101 is a panic's.
        assert!(matches!(status.code(), Some(0 | 2 | 3)), "{command:?}: {status}");
    }
    assert!(dev.stop().success());
}

#[test]
fn metrics_have_what_is_promised_and_groups_only_on_request() {
    let directory = tempfile::tempdir().expect("a directory");
    let dev = one_node(directory.path(), "2");
    let url = dev.nodes[0].url.as_str();
    done(&[url], &["kv", "put", "key", "value"]);
    let said = http(url, "GET", "/metrics", &[], b"");
    let text = said.text();
    for family in [
        "mraft_log_sync_seconds",
        "mraft_transport_queue_bytes",
        "mraft_pending_bytes",
        "mraft_held_bytes",
        "mraft_block_cache_bytes",
        "mraft_memory_resident_bytes",
        "mraft_memory_allocated_bytes",
        "mraft_apply_batch_seconds",
        "mraft_apply_lag_entries",
        "mraft_proposal_seconds",
        "mraft_elections",
        "mraft_transport_dropped",
        "mraft_http_latency_seconds",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family} is not in\n{text}");
    }
    assert!(text.contains("mraft_elections_total{reason=\""), "{text}");
    for family in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert_eq!(text.matches(&format!("# HELP {family} ")).count(), 1, "{family}");
        assert_eq!(text.matches(&format!("# TYPE {family} ")).count(), 1, "{family}");
    }
    assert!(text.ends_with("# EOF\n") && !text.contains("mraft_group_"), "{text}");
    let per_group = http(url, "GET", "/metrics?per_group", &[], b"");
    for series in ["mraft_group_applied_index{group=\"0\"}", "mraft_group_is_leader{group=\"1\"} 1"] {
        assert!(per_group.text().contains(series), "{series} is not in\n{}", per_group.text());
    }
    assert!(dev.stop().success());
}

#[test]
fn metrics_can_be_turned_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let mut command = mraft();
    command.env("MRAFT_ENABLE_METRICS", "false").arg("dev").arg("--dir").arg(directory.path());
    command.args(["--base-port", &base, "--groups", "1", "--nodes", "1"]);
    let dev = Dev::run(command);
    let off = http(&dev.nodes[0].url, "GET", "/metrics", &[], b"");
    assert_eq!(off.status, 404);
    assert!(
        off.json()["hint"].as_str().is_some_and(|hint| hint.contains("enable_metrics")),
        "{}",
        off.text()
    );
    assert!(dev.stop().success());
}

#[test]
fn p3_a_stale_read_says_how_old_it_may_be_and_that_grows_without_a_leader() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev =
        Dev::start(directory.path(), &["--base-port", &base, "--groups", "1", "--respawn-after", "never"]);
    let urls = dev.urls();
    done(&urls, &["kv", "put", "key", "value"]);
    let stale = |url: &str| {
        let said = http(url, "GET", "/v1/kv/key?consistency=stale", &[], b"");
        let age = said.header("mraft-stale-ms").map(|age| age.parse::<u64>().expect("a number"));
        (said.status, age)
    };
    for url in &urls {
        wait_until("the replica knows how old it may be", || matches!(stale(url), (200, Some(_))));
        let fresh = http(url, "GET", "/v1/kv/key", &[], b"");
        assert_eq!((fresh.status, fresh.header("mraft-stale-ms")), (200, None), "it is not stale");
    }
    // Without a majority there is no leader, and nothing is confirmed any more.
    dev.kill(1);
    dev.kill(2);
    wait_until("the replica has noticed", || {
        run(&urls[..1], &["kv", "get", "key", "--timeout", "1s"]).status.code() == Some(6)
    });
    let (_, first) = stale(urls[0]);
    let first = first.expect("what was confirmed once stays");
    for step in 1..=3 {
        wait_until("the figure grows", || {
            let (status, age) = stale(urls[0]);
            assert_eq!(status, 200, "a stale read needs no leader");
            age.expect("a figure") > first + 100 * step
        });
    }
    let listed = done(&urls[..1], &["kv", "get", "key", "--stale", "-o", "json"]);
    assert!(listed.contains("\"stale_ms\": "), "{listed}");
}

#[test]
fn e4_a_write_whose_majority_hangs_ends_with_5() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let mut command = mraft();
    // The leader stays one although nobody answers.
    command.env("MRAFT_CHECK_QUORUM", "false").arg("dev").arg("--dir").arg(directory.path());
    command.args(["--base-port", &base, "--groups", "1", "--respawn-after", "never"]);
    let dev = Dev::run(command);
    let urls = dev.urls();
    // On a busy machine a follower may campaign just before it is stopped; then nobody leads, and it is begun again.
    wait_until("the write's fate is open", || {
        done(&urls, &["group", "0", "transfer", &dev.nodes[0].raft, "--timeout", "60s"]);
        done(&urls, &["kv", "put", "key", "before", "--timeout", "60s"]);
        let all = |with| dev.nodes[1..].iter().for_each(|follower| signal(follower.pid, with));
        all(Signal::STOP);
        let put = run(&urls[..1], &["kv", "put", "key", "value", "--timeout", "2s"]);
        all(Signal::CONT);
        let said = String::from_utf8_lossy(&put.stderr).into_owned();
        put.status.code() == Some(5) && said.contains("nobody knows whether it happened")
    });
    done(&urls, &["kv", "put", "key", "again", "--timeout", "60s"]);
    assert!(dev.stop().success());
}
