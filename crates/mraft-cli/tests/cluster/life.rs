// SPDX-License-Identifier: Apache-2.0

//! A cluster starts, serves through any node, survives a killed one, keeps its data, and stops cleanly.

use std::process::Stdio;

use mraft_types::NodeId;
use rustix::process::Signal;

use crate::support::{Dev, Guarded, done, ends, free_base_port, mraft, run, signal, wait_until};

#[test]
fn a_cluster_survives_a_kill_and_keeps_everything() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let arguments = ["--base-port", &base, "--groups", "4", "--respawn-after", "1s"];
    let mut dev = Dev::start(directory.path(), &arguments);
    let urls: Vec<String> = dev.nodes.iter().map(|node| node.url.clone()).collect();
    let [first, second, third] = [0, 1, 2].map(|at| urls[at].as_str());
    for key in 0..12 {
        done(&[urls[key % 3].as_str()], &["kv", "put", &format!("key-{key}"), &format!("value-{key}")]);
    }
    for key in 0..12 {
        let read = done(&[urls[(key + 1) % 3].as_str()], &["kv", "get", &format!("key-{key}")]);
        assert_eq!(read, format!("value-{key}"), "through another node than it was written through");
    }
    dev.kill(2);
    for key in 12..24 {
        // A group that was led there elects another leader; the command waits for it.
        done(&[first, second], &["kv", "put", &format!("key-{key}"), "after", "--timeout", "60s"]);
    }
    dev.wait_for_line("was killed by signal 9");
    dev.wait_for_line("node 3 is started again");
    for key in 12..24 {
        wait_until("the node that was killed serves again", || {
            let read = run(&[third], &["kv", "get", &format!("key-{key}")]);
            read.status.success() && read.stdout == b"after"
        });
    }
    for group in 0..4 {
        wait_until("all three replicas have the same content", || {
            let verdict = run(&[first], &["group", &group.to_string(), "verify", "-o", "json"]);
            let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
            verdict.status.success() && text.matches("\"hash\": \"").count() == 3
        });
    }
    assert!(dev.stop().success(), "Ctrl-C ends with 0");

    let dev = Dev::start(directory.path(), &["--base-port", &base, "--groups", "4"]);
    for key in 0..24 {
        let expected = if key < 12 { format!("value-{key}") } else { "after".to_owned() };
        assert_eq!(done(&[second], &["kv", "get", &format!("key-{key}")]), expected);
    }
    assert!(dev.stop().success());

    for what in ["identity", "state", "log"] {
        let data = directory.path().join("node-1/data");
        let text = done(&[], &["inspect", what, "--data-dir", data.to_str().expect("UTF-8")]);
        assert!(!text.contains("damaged") && !text.contains("condemned"), "{text}");
    }
    // Other groups than those that the directory was made with.
    let output = mraft()
        .args(["dev", "--groups", "5", "--dir"])
        .arg(directory.path())
        .stdout(Stdio::null())
        .output()
        .expect("mraft runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("--groups 4, not 5"), "{text}");
}

#[test]
fn commands_end_as_the_table_of_exit_codes_says() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev = Dev::start(directory.path(), &["--base-port", &base, "--groups", "2", "--nodes", "1"]);
    let url = [dev.nodes[0].url.as_str()];
    ends(&url, &["kv", "get", "nothing"], 3);
    done(&url, &["kv", "put", "key", "1"]);
    ends(&url, &["kv", "put", "key", "2", "--if-absent"], 4);
    ends(&url, &["kv", "put", "key", "2", "--if-revision", "77"], 4);
    ends(&url, &["kv", "put", "key", "2", "--if-nonsense"], 2);
    ends(&url, &["group", "99"], 3);
    ends(&["http://127.0.0.1:1"], &["kv", "get", "key", "--timeout", "500ms"], 6);
    assert_eq!(done(&url, &["kv", "get", "key"]), "1");
    let listed = done(&url, &["kv", "scan", "-o", "json"]);
    assert!(listed.contains("\"key\": \"key\""), "{listed}");
    done(&url, &["kv", "delete", "key"]);
    ends(&url, &["kv", "get", "key"], 3);
    let status = done(&url, &["status"]);
    assert!(status.contains("2 of 2 held, 2 led, 0 without a leader, 0 failed"), "{status}");
    assert!(dev.stop().success());
}

#[test]
fn a_node_drains_on_sigterm_and_starts_again_without_a_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev =
        Dev::start(directory.path(), &["--base-port", &base, "--groups", "3", "--respawn-after", "never"]);
    let [first, second] = [0, 1].map(|at| dev.nodes[at].url.as_str());
    done(&[first], &["kv", "put", "key", "value"]);
    let third = dev.nodes[2].clone();
    signal(third.pid, Signal::TERM);
    wait_until("the node has stopped", || !run(&[&third.url], &["status"]).status.success());
    // Leaders were handed over, so nobody has to wait for an election.
    for group in 0..3 {
        let detail = done(&[first, second], &["group", &group.to_string(), "-o", "json"]);
        let detail: serde_json::Value = serde_json::from_str(&detail).expect("JSON");
        let leader = detail["leader"].as_u64().expect("a leader");
        let stopped: NodeId = third.raft.parse().expect("an address is a node id");
        assert_ne!(leader, stopped.get(), "{detail}");
    }
    let data = third.directory.join("data");
    let child = mraft()
        .args(["node", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mraft runs");
    let _node = Guarded(child);
    wait_until("the node is back, from its directory alone", || {
        run(&[&third.url], &["kv", "get", "key"]).stdout == b"value"
    });
    // The directory has one owner.
    let second_owner = mraft().args(["node", "--set", "http_port=1"]).arg("--data-dir").arg(&data).output();
    let second_owner = second_owner.expect("mraft runs");
    assert!(!second_owner.status.success());
    assert!(dev.stop().success());
}
