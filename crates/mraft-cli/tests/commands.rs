// SPDX-License-Identifier: Apache-2.0

//! The binary itself: what it says, how it ends, and that it leaves nothing behind when it refuses.

#![allow(clippy::expect_used, reason = "a test that cannot go on must stop")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn mraft(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mraft"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MRAFT_")) {
        command.env_remove(name);
    }
    command.current_dir(directory).args(arguments).output().expect("mraft runs")
}

/// Runs a command that must end so, and gives what it said on standard error.
fn refused(directory: &Path, arguments: &[&str], status: i32) -> String {
    let before = entries(directory);
    let output = mraft(directory, arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {text}");
    assert_eq!(entries(directory), before, "{arguments:?} left something behind");
    text
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("readable");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_node_without_file_and_identity_ends_with_2() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = refused(directory.path(), &["node"], 2);
    assert!(text.contains("no configuration: give --config FILE"), "{text}");
    refused(directory.path(), &["node", "8001", "8000"], 2);
    refused(directory.path(), &["node", "--data-dir", "data", "--exit-with-stdin"], 2);
}

#[test]
fn a_wrong_configuration_ends_with_2_before_anything_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("node.toml"), "data_dir = 'data'\nlog_dir = 'logs'\nelectoin_rtt = 5\n")
        .expect("written");
    for command in [vec!["node", "--config", "node.toml"], vec!["config", "check", "node.toml"]] {
        let text = refused(directory.path(), &command, 2);
        assert!(text.contains("did you mean `election_rtt`?"), "{text}");
    }
    refused(directory.path(), &["node", "--config", "missing.toml"], 2);
    refused(directory.path(), &["node", "--set", "x"], 2);
}

#[test]
fn the_printed_defaults_pass_the_check() {
    let directory = tempfile::tempdir().expect("a directory");
    let defaults = mraft(directory.path(), &["config", "default"]);
    assert!(defaults.status.success());
    fs::write(directory.path().join("node.toml"), &defaults.stdout).expect("written");
    let check = mraft(directory.path(), &["config", "check", "node.toml", "-o", "json"]);
    assert_eq!(check.status.code(), Some(0));
    let document: serde_json::Value = serde_json::from_slice(&check.stdout).expect("JSON");
    assert_eq!(document["raft_address"], "127.0.0.1:13890");
    assert_eq!(document["valid"], true);
}

#[test]
fn a_cluster_that_is_not_there_is_unavailable() {
    let directory = tempfile::tempdir().expect("a directory");
    let nobody = ["--url", "http://127.0.0.1:1", "--timeout", "200ms"];
    for command in
        [vec!["kv", "get", "k"], vec!["kv", "put", "k", "v"], vec!["status"], vec!["group", "0", "verify"]]
    {
        refused(directory.path(), &[command, nobody.to_vec()].concat(), 6);
    }
    let json = refused(directory.path(), &[vec!["groups", "-o", "json"], nobody.to_vec()].concat(), 6);
    let error: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(error["exit_code"], 6);
}

#[test]
fn usage_errors_end_with_2() {
    let directory = tempfile::tempdir().expect("a directory");
    for command in
        [vec!["nonsense"], vec!["kv", "get"], vec!["status", "--url", "ftp://a"], vec!["dev", "--nodes", "4"]]
    {
        refused(directory.path(), &command, 2);
    }
    fs::write(directory.path().join("mine"), "").expect("written");
    let text = refused(directory.path(), &["dev", "--dir", "."], 2);
    assert!(text.contains("belongs to something else"), "{text}");
}

#[test]
fn a_directory_without_an_identity_cannot_be_inspected() {
    let directory = tempfile::tempdir().expect("a directory");
    for what in ["log", "state", "identity"] {
        let text = refused(directory.path(), &["inspect", what, "--data-dir", "."], 3);
        assert!(text.contains("no identity"), "{text}");
    }
}
