// SPDX-License-Identifier: Apache-2.0

//! How nodes and development clusters end: drained, at once, orphaned; what they leave behind and what they logged.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Dev, Guarded, answer, done, ended, free_base_port, http, is_running, mraft, open, run, signal, skipped,
    try_answer, try_open, wait_until,
};

/// Whether what is started here inherits that SIGHUP is ignored.
fn is_hangup_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).map(str::trim);
    mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// A request whose body the node waits for: it says so, or it might not have seen the request yet when it is told to stop.
fn under_way(url: &str, method: &str, path: &str, body_bytes: usize) -> TcpStream {
    let mut stream = open(url, method, path, &[("expect", "100-continue")], body_bytes);
    let mut said = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut said).expect("it asks for the body");
    assert!(said.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&said));
    stream
}

/// A node of its own with one group, which writes its logs into files.
struct Lone {
    directory: tempfile::TempDir,
    url: String,
    base: u16,
}

impl Lone {
    fn new(settings: &str) -> Lone {
        let directory = tempfile::tempdir().expect("a directory");
        let base = free_base_port();
        let (data, logs) = (directory.path().join("data"), directory.path().join("logs"));
        let text = format!(
            "data_dir = {data:?}\nlog_dir = {logs:?}\nraft_port = {base}\nnode_id = 7\nmemory_ceiling_bytes = \"256MiB\"\n{settings}\n\
             [initial_members.0]\n7 = \"127.0.0.1:{base}\"\n"
        );
        fs::write(directory.path().join("node.toml"), text).expect("written");
        Lone { directory, url: format!("http://127.0.0.1:{}", base + 1), base }
    }

    fn command(&self) -> Command {
        let mut command = mraft();
        command.args(["node", "--config"]).arg(self.directory.path().join("node.toml")).stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it serves.
    fn start(&self, errors: Stdio) -> Guarded {
        let node = Guarded(self.command().stdout(Stdio::null()).stderr(errors).spawn().expect("mraft runs"));
        wait_until("the node is ready", || {
            run(&[&self.url], &["kv", "put", "key", "value"]).status.success()
        });
        node
    }
}

fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a pid")
}

#[test]
fn a_draining_node_finishes_what_it_began_and_ends_with_0() {
    let lone = Lone::new("shutdown_grace_ms = 600000");
    let mut node = lone.start(Stdio::null());
    let ready = || http(&lone.url, "GET", "/readyz?verbose", &[], b"");
    assert_eq!(ready().status, 200, "{}", ready().text());
    // A request that is in flight for as long as the test likes: its body is not sent yet.
    let mut put = under_way(&lone.url, "PUT", "/v1/kv/late", 5);
    // A probe on a connection from before, which is answered while the door drains.
    let mut probe = under_way(&lone.url, "POST", "/v1/kv/probe", 1);
    put.write_all(b"la").expect("sent");
    signal(pid(&node.0), Signal::TERM);
    wait_until("nobody new is let in", || TcpStream::connect(("127.0.0.1", lone.base + 1)).is_err());
    assert!(node.0.try_wait().expect("its own child").is_none(), "it waits for the requests");
    put.write_all(b"ter").expect("sent");
    let said = answer(&mut put);
    assert_eq!(said.status, 200, "{}", said.text());
    probe.write_all(b"x").expect("sent");
    assert_eq!(answer(&mut probe).status, 200);
    assert_eq!(ended(&mut node.0).code(), Some(0));
    let again = lone.start(Stdio::null());
    assert_eq!(done(&[&lone.url], &["kv", "get", "late"]), "later", "what was answered is there");
    drop(again);
}

#[test]
fn a_second_signal_stops_a_draining_node_at_once() {
    let lone = Lone::new("shutdown_grace_ms = 600000");
    let mut node = lone.start(Stdio::null());
    let _never_finished = under_way(&lone.url, "PUT", "/v1/kv/late", 5);
    signal(pid(&node.0), Signal::TERM);
    wait_until("nobody new is let in", || TcpStream::connect(("127.0.0.1", lone.base + 1)).is_err());
    assert!(node.0.try_wait().expect("its own child").is_none(), "it waits for the request");
    signal(pid(&node.0), Signal::TERM);
    assert_eq!(ended(&mut node.0).code(), Some(1), "not drained");
}

#[test]
fn a_draining_node_says_that_it_is_not_ready() {
    let directory = tempfile::tempdir().expect("a directory");
    let base = free_base_port().to_string();
    let mut command = mraft();
    command.env("MRAFT_CHECK_QUORUM", "false").arg("dev").arg("--dir").arg(directory.path());
    command.args(["--base-port", &base, "--groups", "1", "--respawn-after", "50ms"]);
    let mut dev = Dev::run(command);
    let (first, others) = (dev.nodes[0].clone(), dev.nodes[1..].to_vec());
    let mut running = first.pid;
    // Its door is open while it hands over its leadership, here to somebody who does not answer. How long that is, is not the
    // test's to say, so a drain that ended before anybody looked is begun again.
    loop {
        let transfer = ["group", "0", "transfer", &first.raft, "--timeout", "60s"];
        wait_until("it leads", || run(&[&first.url], &transfer).status.success());
        others.iter().for_each(|other| signal(other.pid, Signal::STOP));
        signal(running, Signal::TERM);
        let said = loop {
            let Ok(mut stream) = try_open(&first.url, "GET", "/readyz") else { break None };
            let Some(said) = try_answer(&mut stream) else { break None };
            if said.text().contains("[-]draining") {
                break Some(said);
            }
        };
        others.iter().for_each(|other| signal(other.pid, Signal::CONT));
        if let Some(said) = said {
            assert_eq!(said.status, 503);
            assert!(said.text().contains("[-]draining failed: the node is stopping"), "{}", said.text());
            break;
        }
        let line = dev.wait_for_line("node 1 is started again (pid ");
        let digits = line.rsplit("(pid ").next().and_then(|rest| rest.strip_suffix(')')).expect("a pid");
        running = digits.parse().expect("a number");
    }
}

#[test]
fn a_node_logs_json_into_its_files_and_to_what_is_no_terminal() {
    let lone = Lone::new("");
    let errors = lone.directory.path().join("errors");
    let mut node = lone.start(Stdio::from(fs::File::create(&errors).expect("a file")));
    signal(pid(&node.0), Signal::TERM);
    assert_eq!(ended(&mut node.0).code(), Some(0));
    let messages = |text: &str| -> Vec<String> {
        let message = |line: &str| -> String {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            event["message"].as_str().expect("a message").to_owned()
        };
        text.lines().map(message).collect()
    };
    let written: Vec<PathBuf> = fs::read_dir(lone.directory.path().join("logs"))
        .expect("the directory of logs")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let files: String = written.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    for text in [files, fs::read_to_string(&errors).expect("text")] {
        let said = messages(&text);
        assert!(said.iter().any(|message| message == "the node is up"), "{said:?}");
        assert_eq!(said.last().map(String::as_str), Some("stopped"), "{said:?}");
    }
}

/// Kills the process whose id is in this file: with SIGHUP ignored, the end of its terminal does not end it.
struct ByPid(PathBuf);

impl Drop for ByPid {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.0).ok().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?));
        // One that has ended by itself is gone.
        pid.into_iter().for_each(|pid| _ = kill_process(pid, Signal::KILL));
    }
}

#[test]
fn a_node_logs_text_to_a_terminal() {
    let lone = Lone::new("");
    let log = lone.directory.path().join("terminal");
    let mut script = Command::new("script");
    let pid = lone.directory.path().join("pid");
    // Runs the node on a terminal of its own and copies what appears there.
    let node = format!(
        "echo $$ > {}; exec {} node --config {}",
        pid.display(),
        env!("CARGO_BIN_EXE_mraft"),
        lone.directory.path().join("node.toml").display()
    );
    script.args(["--quiet", "--flush", "--return", "--command", &node]).arg(&log);
    let child = script.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = child else {
        skipped("this system has no `script`, so logs on a terminal were NOT looked at");
        return;
    };
    let _terminal = Guarded(child);
    let _node = ByPid(pid);
    wait_until("the terminal shows it", || {
        fs::read_to_string(&log).is_ok_and(|text| text.contains("the node is up"))
    });
    let text = fs::read_to_string(&log).expect("text");
    let line = text.lines().find(|line| line.contains("the node is up")).expect("just seen");
    assert!(line.contains("INFO") && line.contains('\u{1b}') && !line.contains("\"message\""), "{line}");
}

/// A cluster without `--dir`, whose temporary directory lies in `parent`.
fn temporary(parent: &Path) -> Dev {
    let base = free_base_port().to_string();
    let mut command = mraft();
    command.env("TMPDIR", parent).args([
        "dev",
        "--base-port",
        &base,
        "--groups",
        "2",
        "--respawn-after",
        "never",
    ]);
    let dev = Dev::run(command);
    assert!(dev.nodes.iter().all(|node| node.directory.starts_with(parent)), "{:?}", dev.nodes);
    dev
}

#[test]
fn a_cluster_without_a_directory_leaves_nothing_behind() {
    let mut signals = vec![Signal::INT, Signal::TERM];
    // Whoever is started without caring for a hangup (nohup) hands that on to what it starts.
    match is_hangup_ignored() {
        true => skipped("whoever runs the tests has SIGHUP ignored, so it was NOT sent"),
        false => signals.push(Signal::HUP),
    }
    for with in signals {
        let parent = tempfile::tempdir().expect("a directory");
        let dev = temporary(parent.path());
        let pids: Vec<i32> = dev.nodes.iter().map(|node| node.pid).collect();
        done(&dev.urls(), &["kv", "put", "key", "value"]);
        assert_eq!(dev.end(with).code(), Some(0), "{with:?}");
        assert!(pids.into_iter().all(|pid| !is_running(pid)));
        assert_eq!(fs::read_dir(parent.path()).expect("readable").count(), 0, "{with:?} left something");
    }
}

#[test]
fn nodes_stop_in_order_when_their_supervisor_is_killed() {
    let parent = tempfile::tempdir().expect("a directory");
    let dev = temporary(parent.path());
    let nodes = dev.nodes.clone();
    assert_eq!(dev.end(Signal::KILL).code(), None);
    wait_until("no node is left", || nodes.iter().all(|node| !is_running(node.pid)));
    for node in nodes {
        let logs = fs::read_dir(node.directory.join("logs")).expect("the directory of logs");
        let text: String =
            logs.map(|entry| fs::read_to_string(entry.expect("an entry").path()).expect("text")).collect();
        assert!(text.contains("standard input closed"), "{text}");
        let last = text.lines().last().expect("a line");
        assert!(last.contains("\"message\":\"stopped\""), "it ended in order: {last}");
    }
}
