// SPDX-License-Identifier: Apache-2.0

//! A group without a majority: it does not serve, and nothing but an explicit command brings it back (rule D9).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{Dev, Guarded, Node, done, ends, free_base_port, http, mraft, run, wait_until};

fn data(node: &Node) -> PathBuf {
    node.directory.join("data")
}

/// Runs the command on a node's directory; its exit code with what it said on standard output and standard error.
fn accept_loss(data: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = mraft().args(["repair", "accept-loss", "--data-dir"]).arg(data).args(arguments).output();
    let output = output.expect("mraft runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), said(&output.stdout), said(&output.stderr))
}

fn started(node: &Node) -> Guarded {
    let mut command = mraft();
    command.args(["node", "--data-dir"]).arg(data(node)).stdout(Stdio::null()).stderr(Stdio::null());
    Guarded(command.spawn().expect("mraft runs"))
}

fn reads(node: &Node, key: &str) -> Option<Vec<u8>> {
    let read = run(&[&node.url], &["kv", "get", key]);
    read.status.success().then_some(read.stdout)
}

/// Whether the node's store has written a table: before that all that it has is in the log.
fn has_persisted(directory: &Path) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().map_while(Result::ok);
    let is_table = |path: &Path| fs::metadata(path).is_ok_and(|found| found.len() > 1_000_000);
    entries.map(|entry| entry.path()).any(|path| is_table(&path) || has_persisted(&path))
}

#[test]
fn d9_a_group_whose_majority_lost_its_logs_serves_what_the_stores_have() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let arguments = ["--base-port", &base, "--groups", "1", "--replicas", "3", "--respawn-after", "never"];
    let dev = Dev::start(directory.path(), &arguments);
    let nodes = dev.nodes.clone();
    done(&dev.urls(), &["kv", "put", "early", "kept"]);
    let mut number = 0u64;
    wait_until("two stores have written something", || {
        number += 1;
        // Not to be compressed to nothing.
        let value: Vec<u8> = (0..1_000_000u64)
            .map(|at| ((at ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
            .collect();
        let put = http(&nodes[0].url, "PUT", &format!("/v1/kv/big-{number}"), &[], &value);
        assert_eq!(put.status, 200, "{}", put.text());
        nodes[..2].iter().all(|node| has_persisted(&data(node).join("groups")))
    });
    let (code, _, error) = accept_loss(&data(&nodes[0]), &["--all", "--yes"]);
    assert!(code == Some(1) && error.contains("in use by another process"), "{error}");
    assert!(dev.stop().success());

    for node in &nodes[..2] {
        fs::remove_dir_all(data(node).join("log")).expect("nobody has it open");
        let refused = mraft().args(["node", "--data-dir"]).arg(data(node)).output().expect("mraft runs");
        assert!(!refused.status.success(), "a node does not start without its log");
        let (code, shown, _) = accept_loss(&data(node), &["--all"]);
        assert!(code == Some(0) && shown.contains("Nothing was changed"), "{shown}");
        assert!(shown.contains("gives up all entries above"), "{shown}");
        assert!(!data(node).join("log").exists(), "it was only shown");
    }
    for node in &nodes[..2] {
        let (code, shown, error) = accept_loss(&data(node), &["--all", "--yes", "-o", "json"]);
        assert_eq!(code, Some(0), "{error}");
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!((&shown["accepted"], &shown["node"]), (&true.into(), &"log_gone".into()), "{shown}");
        assert!(shown["replicas"][0]["restart"]["term"].as_u64() >= Some(1 << 32), "{shown}");
    }
    // The third stays away: what the two have is all there is.
    let _running = [started(&nodes[0]), started(&nodes[1])];
    wait_until("the group serves what the stores have", || {
        reads(&nodes[1], "early").as_deref() == Some(b"kept".as_slice())
    });
    done(&[&nodes[0].url], &["kv", "put", "after", "new"]);
    assert_eq!(done(&[&nodes[1].url], &["kv", "get", "after"]), "new");
}

#[test]
fn d9_a_damaged_log_is_accepted_up_to_the_damage_and_not_before_somebody_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev = Dev::start(directory.path(), &["--base-port", &base, "--groups", "1", "--nodes", "1"]);
    let node = dev.nodes[0].clone();
    for key in 0..10 {
        done(&[&node.url], &["kv", "put", &format!("key-{key}"), &format!("this is value {key}")]);
    }
    assert!(dev.stop().success());
    let whole = accept_loss(&data(&node), &["--group", "0"]);
    assert!(whole.0 == Some(1) && whole.2.contains("nothing to accept"), "{whole:?}");
    assert_eq!(accept_loss(&data(&node), &["--group", "99"]).0, Some(1));
    assert_eq!(accept_loss(&data(&node), &[]).0, Some(2), "whose loss?");
    assert_eq!(accept_loss(directory.path(), &["--all"]).0, Some(1), "no node's directory");

    damage(&data(&node).join("log"), b"this is value 6");
    let inspected = run(&[], &["inspect", "state", "--data-dir", data(&node).to_str().expect("UTF-8")]);
    let text = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert!(inspected.status.code() == Some(1) && text.contains("mraft repair accept-loss"), "{text}");
    {
        let _running = started(&node);
        wait_until("the node says what is wrong", || {
            let group = run(&[&node.url], &["group", "0", "-o", "json"]);
            let text = String::from_utf8_lossy(&group.stdout).into_owned();
            text.contains("condemned") && text.contains("accept-loss")
        });
        let status = done(&[&node.url], &["status"]);
        assert!(
            status.contains("0 without a leader, 1 failed") && status.contains("1 replica here is condemned"),
            "{status}"
        );
        ends(&[&node.url], &["kv", "get", "key-0", "--timeout", "2s"], 6);
    }
    let (code, shown, error) = accept_loss(&data(&node), &["--group", "0", "--yes"]);
    assert!(code == Some(0) && shown.contains("keeps the entries of its log"), "{shown}{error}");
    let _running = started(&node);
    wait_until("it serves what was left", || {
        reads(&node, "key-3").as_deref() == Some(b"this is value 3".as_slice())
    });
    ends(&[&node.url], &["kv", "get", "key-6"], 3);
    done(&[&node.url], &["kv", "put", "key-6", "again"]);
}

/// Five nodes hold the group, so that one may be sick and another one removed.
#[test]
fn d9_a_group_is_served_and_changed_through_a_node_whose_own_replica_is_condemned_or_has_failed() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let arguments = [
        "--base-port",
        &base,
        "--groups",
        "1",
        "--nodes",
        "5",
        "--replicas",
        "5",
        "--respawn-after",
        "never",
    ];
    let dev = Dev::start(directory.path(), &arguments);
    let (sick, well) = (dev.nodes[0].clone(), dev.nodes[1].url.clone());
    // What is applied is durable here. Another batch must follow the value's: a damaged last one looks like a torn write.
    for (key, value) in [("key", "this is a value"), ("behind", "it")] {
        done(&[&well], &["kv", "put", key, value]);
        wait_until("the node itself has it", || {
            run(&[&sick.url], &["kv", "get", key, "--stale"]).status.success()
        });
    }
    dev.kill(0);
    // The membership changes while the node is away.
    done(&[&well], &["group", "0", "remove", &dev.nodes[4].raft, "--timeout", "60s"]);
    let through_sick = |replica: u32| {
        let groups = run(&[&sick.url], &["groups"]);
        let groups = String::from_utf8_lossy(&groups.stdout).into_owned();
        assert_eq!(reads(&sick, "key").as_deref(), Some(b"this is a value".as_slice()), "{groups}");
        done(&[&sick.url], &["kv", "put", "through", "the sick node"]);
        let ready = http(&sick.url, "GET", "/readyz", &[], b"");
        assert_eq!(ready.status, 200, "others serve the group: {}", ready.text());
        let detail = http(&sick.url, "GET", "/v1/groups/0", &[], b"").json();
        assert!(detail["leader"].is_u64(), "the group has a leader: {detail}");
        done(&[&sick.url], &["group", "0", "remove", &sick.raft, "--timeout", "60s"]);
        let added = format!("{0}@{0}", sick.raft);
        let said = done(&[&well], &["group", "0", "add-learner", &added, "--timeout", "60s"]);
        assert!(said.contains(&format!("#{replica} ")), "{said}");
        wait_until("the new replica has caught up", || {
            run(&[&well], &["group", "0", "promote", &sick.raft]).status.success()
        });
    };

    damage(&data(&sick).join("log"), b"this is a value");
    let running = started(&sick);
    wait_until("the replica is condemned", || says_of_group(&sick, "condemned: its log is damaged"));
    through_sick(1);
    drop(running);

    let group = fs::read_dir(data(&sick).join("groups")).expect("groups").find_map(|entry| {
        let path = entry.expect("an entry").path().join("pointer");
        path.exists().then_some(path)
    });
    let pointer = group.expect("the replica has state");
    let mut bytes = fs::read(&pointer).expect("readable");
    bytes[20] ^= 1;
    fs::write(&pointer, bytes).expect("written");
    let _running = started(&sick);
    wait_until("the replica has failed", || says_of_group(&sick, "damaged: the pointer file"));
    through_sick(2);
}

fn says_of_group(node: &Node, words: &str) -> bool {
    let groups = run(&[&node.url], &["groups"]);
    String::from_utf8_lossy(&groups.stdout).contains(words)
}

/// Spoils the bytes of a value wherever the log has them.
fn damage(log: &Path, value: &[u8]) {
    let mut found = 0;
    for entry in fs::read_dir(log).expect("a log") {
        let path = entry.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("readable");
        while let Some(at) = bytes.windows(value.len()).position(|bytes| bytes == value) {
            bytes[at] ^= 1;
            found += 1;
        }
        fs::write(&path, bytes).expect("written");
    }
    assert!(found > 0, "the value is not in the log");
}
