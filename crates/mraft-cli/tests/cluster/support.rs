// SPDX-License-Identifier: Apache-2.0

//! A development cluster of the test's own, its nodes, and the commands that talk to it.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long something may take that a test waits for: far beyond what a loaded machine needs, so that only a hang ends a wait.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(50);

/// One line of the table that `mraft dev` prints.
#[derive(Clone, Debug)]
pub struct Node {
    pub pid: i32,
    pub url: String,
    pub raft: String,
    /// The node's home: its configuration, its logs and its data.
    pub directory: PathBuf,
}

/// A running `mraft dev`. Dropping it kills it, and it its nodes.
pub struct Dev {
    process: Child,
    lines: Receiver<String>,
    pub nodes: Vec<Node>,
    pub said: Vec<String>,
}

pub fn mraft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mraft"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MRAFT_")) {
        command.env_remove(name);
    }
    command
}

/// A base port whose six ports (of up to three nodes) are free, and that no other test of this process was given.
pub fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 400) as u16 * 60;
    loop {
        let base = 28_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed) * 60) % 30_000;
        let ports = (0..4).flat_map(|node| [base + 10 * node, base + 10 * node + 1]);
        if ports.into_iter().all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
}

impl Dev {
    /// Starts a cluster and waits until it says that it is there.
    pub fn start(directory: &Path, arguments: &[&str]) -> Dev {
        let mut process = mraft()
            .arg("dev")
            .arg("--dir")
            .arg(directory)
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .expect("mraft runs");
        let output = process.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                println!("dev: {line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut dev = Dev { process, lines, nodes: Vec::new(), said: Vec::new() };
        dev.wait_for_line("Ctrl-C stops all nodes");
        let rows = dev.said.iter().filter_map(|line| {
            let [_, pid, url, raft, data] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                return None;
            };
            let pid = pid.parse().ok()?;
            let directory = Path::new(data).parent()?.to_owned();
            Some(Node { pid, url: url.to_owned(), raft: raft.to_owned(), directory })
        });
        dev.nodes = rows.collect();
        assert!(!dev.nodes.is_empty(), "{:?}", dev.said);
        dev
    }

    /// Waits until the cluster's supervisor says a line that contains this.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).unwrap_or_else(|_| {
                panic!("mraft dev never said `{part}`; it said {:?}", self.said);
            });
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Kills a node as a crash does.
    pub fn kill(&self, at: usize) {
        signal(self.nodes[at].pid, Signal::KILL);
    }

    /// Asks the cluster to stop and waits for it.
    pub fn stop(mut self) -> ExitStatus {
        signal(i32::try_from(self.process.id()).expect("a pid"), Signal::INT);
        let began = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().expect("its own child") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "mraft dev does not stop");
            std::thread::sleep(STEP);
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a pid"), signal).expect("the process is there");
}

/// Runs a command against these nodes.
pub fn run(urls: &[&str], arguments: &[&str]) -> Output {
    let mut command = mraft();
    command.args(arguments);
    for url in urls {
        command.args(["--url", url]);
    }
    command.output().expect("mraft runs")
}

/// Runs a command that must succeed, and gives what it said.
pub fn done(urls: &[&str], arguments: &[&str]) -> String {
    let output = run(urls, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must end with this status, and gives what it said on standard error.
pub fn ends(urls: &[&str], arguments: &[&str], status: i32) -> String {
    let output = run(urls, arguments);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {errors}");
    errors
}

/// Waits until something is true; what it is waiting for is said if it never is.
pub fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_true() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(STEP);
    }
}

/// A process that is killed when the test ends.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
