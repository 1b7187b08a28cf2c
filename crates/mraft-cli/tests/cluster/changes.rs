// SPDX-License-Identifier: Apache-2.0

//! A node that is gone for good is replaced with commands, and never comes back.

use std::fs;
use std::process::Stdio;

use mraft_types::NodeId;
use rustix::process::Signal;

use crate::support::{Dev, Guarded, done, ends, free_base_port, http, mraft, run, signal, wait_until};

#[test]
fn a_node_that_is_gone_is_replaced_with_commands() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port();
    let arguments = ["--base-port", &base.to_string(), "--groups", "2", "--respawn-after", "never"];
    let dev = Dev::start(directory.path(), &arguments);
    let urls: Vec<&str> = dev.nodes[..2].iter().map(|node| node.url.as_str()).collect();
    for key in 0..20 {
        done(&urls, &["kv", "put", &format!("key-{key}"), "value"]);
    }
    dev.kill(2);
    let gone = dev.nodes[2].raft.clone();

    let new = format!("127.0.0.1:{}", base + 30);
    let new_url = format!("http://127.0.0.1:{}", base + 31);
    let node: NodeId = new.parse().expect("an address is a node id");
    let file = directory.path().join("new.toml");
    let joins: String = (0..2).map(|group| format!("[join.{group}]\n{node} = true\n")).collect();
    let data = directory.path().join("new");
    fs::write(
        &file,
        format!("data_dir = {data:?}\nip = \"127.0.0.1\"\nraft_port = {}\nmemory_ceiling_bytes = \"512MiB\"\n{joins}", base + 30),
    )
    .expect("written");
    let start = || {
        let mut command = mraft();
        command.args(["node", "--config"]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        Guarded(command.spawn().expect("mraft runs"))
    };
    let _new = start();

    ends(&urls, &["node", "remove", &gone, "--timeout", "60s"], 1);
    for group in ["0", "1"] {
        let added = format!("{new}@{new}");
        let said = done(&urls, &["group", group, "add-learner", &added, "--timeout", "60s"]);
        assert!(said.contains(&format!("{node}#1")), "{said}");
        let again = done(&urls, &["group", group, "add-learner", &added]);
        assert!(again.contains("is a learner (it was so already)"), "{again}");
        let elsewhere = format!("{new}@127.0.0.1:1");
        let refused = ends(&urls, &["group", group, "add-learner", &elsewhere], 1);
        assert!(refused.contains(&format!("is a learner already, at {new}")), "{refused}");
        let refused = ends(&urls, &["group", group, "transfer", &new], 1);
        assert!(refused.contains("promote it first"), "{refused}");
        wait_until("the learner has caught up", || {
            run(&urls, &["group", group, "promote", &new]).status.success()
        });
        let again = done(&urls, &["group", group, "add-learner", &added]);
        assert!(again.contains("is a voter (it was so already)"), "{again}");
        done(&urls, &["group", group, "remove", &gone]);
        wait_until("the three members have the same content", || {
            let verdict = run(&urls, &["group", group, "verify", "-o", "json"]);
            let text = String::from_utf8_lossy(&verdict.stdout).into_owned();
            verdict.status.success() && text.matches("\"hash\": \"").count() == 3
        });
        done(&urls, &["group", group, "transfer", &new]);
    }
    for key in 0..20 {
        assert_eq!(done(&[&new_url], &["kv", "get", &format!("key-{key}")]), "value");
    }
    let said = done(&urls, &["node", "remove", &gone]);
    assert!(said.contains("removed for good, in 2 groups"), "{said}");
    let refused = ends(&urls, &["group", "0", "add-learner", &format!("{gone}@{gone}")], 1);
    assert!(refused.contains("was removed for good"), "{refused}");

    // The removed machine comes back with its old files: the others refuse it, and it says so.
    let old = dev.nodes[2].directory.join("node.toml");
    let child = mraft()
        .args(["node", "--config"])
        .arg(&old)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mraft runs");
    let _old = Guarded(child);
    wait_until("the removed node says that it is refused", || {
        let status = run(&[&dev.nodes[2].url], &["status", "-o", "json"]);
        String::from_utf8_lossy(&status.stdout).contains("refuses this node")
    });
    let ready = http(&dev.nodes[2].url, "GET", "/readyz", &[], b"");
    assert_eq!(ready.status, 503, "{}", ready.text());
    assert!(dev.stop().success());
}

#[test]
fn m6_a_wiped_directory_does_not_come_back_under_its_old_id_until_an_operator_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let arguments = ["--base-port", &base, "--groups", "2", "--respawn-after", "never"];
    let mut dev = Dev::start(directory.path(), &arguments);
    let url = [dev.nodes[0].url.as_str()];
    done(&url, &["kv", "put", "key", "value"]);
    let known = status(&dev.nodes[1].url)["instance"].clone();
    dev.kill(1);
    let wiped = dev.nodes[1].clone();
    dev.wait_for_line("was killed by signal 9");
    fs::remove_dir_all(wiped.directory.join("data")).expect("the dead node's files");
    let child = mraft()
        .args(["node", "--config"])
        .arg(wiped.directory.join("node.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("mraft runs");
    let _node = Guarded(child);
    wait_until("the wiped node says whose directory it is not", || {
        let text = status(&wiped.url).to_string();
        text.contains("belongs to instance") && text.contains("this directory is")
    });
    wait_until("the wiped node serves nobody", || {
        run(&[&wiped.url], &["kv", "put", "key", "other", "--timeout", "2s"]).status.code() == Some(6)
    });
    let others = [dev.nodes[0].url.as_str(), dev.nodes[2].url.as_str()];
    assert_eq!(done(&others, &["kv", "get", "key"]), "value");

    let node: NodeId = wiped.raft.parse().expect("an address is a node id");
    let conflict = serde_json::json!([{
        "node": node.get(), "known": known, "claimed": status(&wiped.url)["instance"],
    }]);
    for other in others {
        wait_until("a node shows both directories", || status(other)["conflicts"] == conflict);
    }
    let clear = ["node", "clear-conflict", &wiped.raft];
    let refused = ends(&others, &clear, 1);
    assert!(refused.contains("not cleared on 2 of 2 nodes"), "{refused}");
    assert!(refused.contains("is still a member of group 0, 1"), "{refused}");
    let path = format!("/v1/nodes/{node}/clear-conflict");
    let problem = http(others[0], "POST", &path, &[], b"");
    assert_eq!((problem.status, problem.header("mraft-outcome")), (409, Some("not_applied")));
    assert!(problem.json()["hint"].as_str().is_some_and(|hint| hint.contains("remove it there first")));
    for other in others {
        assert_eq!(status(other)["conflicts"], conflict, "a refusal changes nothing");
    }

    for group in ["0", "1"] {
        done(&others, &["group", group, "remove", &wiped.raft]);
    }
    for (other, by) in others.into_iter().zip([&dev.nodes[0].raft, &dev.nodes[2].raft]) {
        let by: NodeId = by.parse().expect("an address is a node id");
        let mut said = Vec::new();
        wait_until("the node has seen that its groups list the other one no longer", || {
            let output = run(&[other], &[clear.as_slice(), &["-o", "json"]].concat());
            said = output.stdout;
            output.status.success()
        });
        let expected = serde_json::json!([{
            "node": node.get(), "served_by": by.get(), "changed": true,
            "known": conflict[0]["known"], "claimed": conflict[0]["claimed"],
        }]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&said).expect("JSON"), expected);
    }
    for other in others {
        wait_until("the other directory is accepted", || {
            let status = status(other);
            let is_it = |peer: &&serde_json::Value| peer["node"] == node.get();
            let peer = status["peers"].as_array().and_then(|peers| peers.iter().find(is_it));
            status["conflicts"] == serde_json::json!([]) && peer.is_some_and(|peer| peer["connected"] == true)
        });
    }
    let again = done(&others, &clear);
    assert_eq!(again.matches("has nothing to clear").count(), 2, "{again}");
    let unknown = done(&others, &["node", "clear-conflict", "7"]);
    assert_eq!(unknown.matches("knows nothing of node 7").count(), 2, "{unknown}");
    assert!(unknown.contains("say it to each that refuses the node"), "{unknown}");

    for group in ["0", "1"] {
        let added = done(&others, &["group", group, "add-learner", &wiped.raft]);
        assert!(added.contains(&format!("{node}#1")), "{added}");
        wait_until("it is a member as another replica", || {
            run(&others, &["group", group, "promote", &wiped.raft]).status.success()
        });
    }
    wait_until("it serves what was written before it was wiped", || {
        run(&[&wiped.url], &["kv", "get", "key"]).stdout == b"value"
    });
    assert!(dev.stop().success());
}

/// What a node says of itself; nothing while it does not answer.
fn status(url: &str) -> serde_json::Value {
    serde_json::from_slice(&run(&[url], &["status", "-o", "json"]).stdout).unwrap_or_default()
}

#[test]
fn e3_a_tombstone_written_in_some_groups_only_is_an_unknown_outcome() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    // Group 0 on nodes 1 and 2, group 1 on 2 and 3, group 2 on 3 and 1; a leader stays one when the other is gone.
    let mut command = mraft();
    command.env("MRAFT_CHECK_QUORUM", "false").arg("dev").arg("--dir").arg(directory.path()).args([
        "--base-port",
        &base,
        "--groups",
        "3",
        "--replicas",
        "2",
        "--respawn-after",
        "never",
    ]);
    let dev = Dev::run(command);
    let (urls, raft) = (dev.urls(), |at: usize| dev.nodes[at].raft.as_str());
    // A change of group 1 that nobody can commit, so that no other one is taken. On a busy machine node 3 may campaign just before it
    // is stopped; then it is begun again.
    let mut learner = 100;
    wait_until("group 1 has a change that is not committed", || {
        done(&urls, &["group", "1", "transfer", raft(1), "--timeout", "60s"]);
        done(&urls, &["group", "2", "transfer", raft(0), "--timeout", "60s"]);
        // What they commit tells that they lead, beyond their predecessor's word.
        for key in 0..16 {
            done(&urls, &["kv", "put", &format!("key-{key}"), "value", "--timeout", "60s"]);
        }
        signal(dev.nodes[2].pid, Signal::STOP);
        learner += 1;
        let member = format!("{learner}@127.0.0.1:{learner}");
        let added = run(&urls[..2], &["group", "1", "add-learner", &member, "--timeout", "2s"]);
        if added.status.code() != Some(5) {
            signal(dev.nodes[2].pid, Signal::CONT);
        }
        added.status.code() == Some(5)
    });
    let urls = &urls[..2];

    let unknown = ends(urls, &["node", "remove", "127.0.0.1:99", "--timeout", "60s"], 1);
    assert!(unknown.contains("--force"), "{unknown}");
    let retired = |group: u32| {
        http(urls[0], "GET", &format!("/v1/groups/{group}"), &[], b"").json()["retired_nodes"].clone()
    };
    assert_eq!(retired(0), serde_json::json!([]), "a refusal changes nothing");

    let halves = http(urls[0], "DELETE", "/v1/nodes/127.0.0.1:99?force=true", &[], b"");
    assert_eq!(retired(0).as_array().map(Vec::len), Some(1), "group 0 has the tombstone");
    assert_eq!(retired(1).as_array().map(Vec::len), Some(0), "group 1 has not");
    assert_eq!((halves.status, halves.header("mraft-outcome")), (504, Some("unknown")), "{}", halves.text());
    assert!(halves.text().contains("in 1 of 3 groups; group 1 did not follow"), "{}", halves.text());
}

#[test]
fn a_node_that_nobody_ever_saw_is_removed_by_force_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let dev = Dev::start(directory.path(), &["--base-port", &base, "--groups", "2", "--nodes", "1"]);
    let urls = dev.urls();
    let refused = ends(&urls, &["node", "remove", "7"], 1);
    assert!(refused.contains("no group ever had a replica on node 7"), "{refused}");
    let refused = http(urls[0], "DELETE", "/raft/del?addr=1.2.3.4:1", &[], b"");
    assert_eq!((refused.status, refused.json()["code"].as_i64()), (409, Some(-1)), "{}", refused.text());
    let retired = || http(urls[0], "GET", "/v1/groups/1", &[], b"").json()["retired_nodes"].clone();
    assert_eq!(retired(), serde_json::json!([]));
    assert!(done(&urls, &["node", "remove", "7", "--force"]).contains("in 2 groups"));
    assert_eq!(retired(), serde_json::json!([7]));
    assert!(done(&urls, &["node", "remove", "7"]).contains("in 2 groups"), "repeating it needs no force");
    assert!(dev.stop().success());
}
