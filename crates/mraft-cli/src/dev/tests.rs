// SPDX-License-Identifier: Apache-2.0

//! The supervisor with a stand-in for the node: a small script that says that it runs, drains on SIGTERM, and ends with its
//! standard input. What is waited for are lines and files, never times.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::cli::Respawn;
use crate::exit::{CommandError, Exit};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node that does what nodes do. `$3` is the configuration file.
const GOOD: &str = r#"
home=$(dirname "$3")
trap 'echo drained > "$home/drained"; exit 0' TERM
echo $$ > "$home/pid.new"; mv "$home/pid.new" "$home/pid"
while read -r line; do :; done
echo "stdin closed" > "$home/orphaned"
"#;
/// A node that does not stop when it is asked to.
const STUBBORN: &str = r#"
home=$(dirname "$3")
trap 'echo asked > "$home/asked"' TERM
echo $$ > "$home/pid.new"; mv "$home/pid.new" "$home/pid"
while :; do read -r line; done
"#;
/// The second node fails while it starts.
const SECOND_FAILS: &str = r#"
home=$(dirname "$3")
case "$home" in
*node-2) echo "mraft: first words" >&2; echo "mraft: the disk is gone" >&2; exit 1 ;;
esac
trap 'echo drained > "$home/drained"; exit 0' TERM
while read -r line; do :; done
"#;

/// The second node fails while it drains.
const SECOND_FAILS_TO_DRAIN: &str = r#"
home=$(dirname "$3")
case "$home" in
*node-2) trap 'echo "mraft: the last sync failed" >&2; exit 1' TERM ;;
*) trap 'exit 0' TERM ;;
esac
echo $$ > "$home/pid.new"; mv "$home/pid.new" "$home/pid"
while read -r line; do :; done
"#;

/// A cluster is ready when every node's process has written its number.
struct PidFiles(Vec<PathBuf>);

impl Probe for PidFiles {
    fn groups_led(&mut self) -> u64 {
        if self.0.iter().all(|file| file.exists()) { u64::MAX } else { 0 }
    }
}

struct Cluster {
    root: TempDir,
    lines: Receiver<String>,
    events: Sender<Event>,
    thread: JoinHandle<Result<Exit, CommandError>>,
}

impl Cluster {
    fn start(script: &str, respawn: Respawn) -> Cluster {
        let pids = |root: &Path| PidFiles((1..=3).map(|number| home(root, number).join("pid")).collect());
        Cluster::start_with(script, respawn, pids)
    }

    fn start_with<P: Probe>(script: &str, respawn: Respawn, probe: impl FnOnce(&Path) -> P) -> Cluster {
        let root = tempfile::tempdir().expect("a directory");
        let program = write_script(root.path(), script);
        let base_port = free_ports();
        let asked = Asked { groups: Some(4), base_port: Some(base_port), ..Asked::default() };
        let directory = Directory::claim(&root.path().join("cluster"), asked).expect("claimed");
        let probe = probe(root.path());
        let (said, lines) = channel();
        let (events, received) = channel();
        let sender = events.clone();
        let thread = thread::spawn(move || {
            let mut say = |line: String| said.send(line).expect("somebody listens");
            Supervisor::new(&directory, program, respawn, &mut say).run(probe, sender, &received)
        });
        Cluster { root, lines, events, thread }
    }

    /// Reads what is said up to a line that contains `part`, and gives that line.
    fn until(&self, part: &str) -> String {
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => heard.push(line),
                Err(_) => panic!("`{part}` was not said, but: {heard:#?}"),
            }
        }
    }

    fn signal(&self, count: u32) {
        self.events.send(Event::Signal(count)).expect("the supervisor runs");
    }

    fn end(self) -> (Result<Exit, CommandError>, TempDir) {
        (self.thread.join().expect("no panic"), self.root)
    }
}

fn home(root: &Path, number: u64) -> PathBuf {
    root.join("cluster").join(format!("node-{number}"))
}

fn write_script(root: &Path, script: &str) -> PathBuf {
    let (text, program) = (root.join("node.txt"), root.join("node.sh"));
    fs::write(&text, format!("#!/bin/sh\n{script}")).expect("written");
    // Another process makes the program: a child that another test starts meanwhile would hold what this one writes to, and a file that
    // somebody may write to cannot be executed.
    let copied = std::process::Command::new("cp").arg(&text).arg(&program).status();
    assert!(copied.expect("cp starts").success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    program
}

/// A base port whose six ports are free now. Below the ports that the system hands out by itself, and another one for each test,
/// so that tests do not take them from one another.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 14_000 + u16::try_from(std::process::id() % 30).unwrap_or(0) * 60;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut bases = std::iter::repeat_with(|| first + 30 * NEXT.fetch_add(1, Ordering::Relaxed));
    bases.find(|base| [0, 1, 10, 11, 20, 21].iter().all(|step| free(base + step))).expect("free ports")
}

fn pid_in(line: &str) -> i32 {
    let digits = line.split("pid ").nth(1).expect("a pid").chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().expect("a number")
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

#[test]
fn a_cluster_introduces_itself_and_drains_on_the_first_signal() {
    let cluster = Cluster::start(GOOD, Respawn::Never);
    cluster.until("4 groups, 3 replicas each, every group has a leader");
    for number in 1..=3 {
        cluster.until(&home(cluster.root.path(), number).join("data").display().to_string());
    }
    cluster.until("curl -X PUT");
    cluster.until("curl http://");
    cluster.until("kill -9 ");
    cluster.signal(1);
    cluster.until("stopping");
    let (result, root) = cluster.end();
    assert_eq!(result, Ok(Exit::Ok));
    for number in 1..=3 {
        assert!(home(root.path(), number).join("drained").exists(), "node {number}");
    }
}

#[test]
fn a_killed_node_is_reported_in_one_line_and_started_again() {
    let cluster = Cluster::start(GOOD, Respawn::After(Duration::ZERO));
    let command = cluster.until("kill -9 ");
    let pid: i32 = command.split_whitespace().nth(2).expect("a pid").parse().expect("a number");
    kill(pid);
    let report = cluster.until("was killed by signal 9");
    assert!(report.contains("node 3") && report.contains("started again in 0ns"), "{report}");
    let again = pid_in(&cluster.until("node 3 is started again"));
    assert_ne!(again, pid);
    cluster.signal(1);
    assert_eq!(cluster.end().0, Ok(Exit::Ok));
}

#[test]
fn a_killed_node_stays_away_when_asked_to() {
    let cluster = Cluster::start(GOOD, Respawn::Never);
    let command = cluster.until("kill -9 ");
    kill(command.split_whitespace().nth(2).expect("a pid").parse().expect("a number"));
    cluster.until("it is not started again");
    cluster.signal(1);
    assert_eq!(cluster.end().0, Ok(Exit::Ok));
}

#[test]
fn a_node_that_dies_before_the_cluster_is_ready_ends_it_with_its_last_words() {
    let cluster = Cluster::start(SECOND_FAILS, Respawn::After(Duration::ZERO));
    let (result, _root) = cluster.end();
    let error = result.expect_err("a failure");
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("node 2") && error.message.contains("ended with status 1"), "{error}");
    assert!(error.message.ends_with("it said: the disk is gone"), "{error}");
}

#[test]
fn a_node_that_fails_while_it_drains_fails_the_whole() {
    let cluster = Cluster::start(SECOND_FAILS_TO_DRAIN, Respawn::Never);
    cluster.until("Ctrl-C");
    cluster.signal(1);
    let error = cluster.end().0.expect_err("node 2 failed");
    assert_eq!(error.exit, Exit::Failed);
    assert!(error.message.contains("node 2") && error.message.contains("ended with status 1"), "{error}");
    assert!(error.message.ends_with("it said: the last sync failed"), "{error}");
}

#[test]
fn nodes_that_were_started_drain_when_the_next_one_cannot_be() {
    let root = tempfile::tempdir().expect("a directory");
    let program = write_script(root.path(), GOOD);
    let asked = Asked { base_port: Some(free_ports()), ..Asked::default() };
    let directory = Directory::claim(&root.path().join("cluster"), asked).expect("claimed");
    // Writing the third node's file waits for somebody who reads it, and by then there is no program any more.
    let file = home(root.path(), 3).join("node.toml");
    fs::create_dir_all(home(root.path(), 3)).expect("made");
    assert!(Command::new("mkfifo").arg(&file).status().is_ok_and(|made| made.success()));
    let pids = [1, 2].map(|number| home(root.path(), number).join("pid"));
    let in_the_way = thread::spawn({
        let program = program.clone();
        move || {
            while !pids.iter().all(|pid| pid.exists()) {
                thread::yield_now();
            }
            fs::remove_file(program).expect("removed");
            fs::read_to_string(file).expect("what was written");
        }
    });
    let (sender, events) = channel();
    let mut say = |_: String| {};
    let supervisor = Supervisor::new(&directory, program, Respawn::Never, &mut say);
    let error = supervisor.run(PidFiles(Vec::new()), sender, &events).expect_err("no program for node 3");
    in_the_way.join().expect("no panic");
    assert!(error.message.contains("cannot be started"), "{error}");
    for number in [1, 2] {
        assert!(home(root.path(), number).join("drained").exists(), "node {number}");
    }
}

#[test]
fn a_cluster_that_takes_long_says_what_it_waits_for() {
    /// Three of four groups have a leader for a while.
    struct Slow(u32);
    impl Probe for Slow {
        fn groups_led(&mut self) -> u64 {
            self.0 += 1;
            if self.0 > 31 { 4 } else { 3 }
        }
    }
    let cluster = Cluster::start_with(GOOD, Respawn::Never, |_| Slow(0));
    cluster.until("waiting for leaders: 3 of 4 groups have one");
    cluster.until("every group has a leader");
    cluster.signal(1);
    assert_eq!(cluster.end().0, Ok(Exit::Ok));
}

#[test]
fn a_second_signal_stops_at_once() {
    let cluster = Cluster::start(STUBBORN, Respawn::Never);
    cluster.until("Ctrl-C");
    cluster.signal(1);
    cluster.until("stopping");
    cluster.signal(2);
    let error = cluster.end().0.expect_err("not drained");
    assert!(error.message.contains("at once"), "{error}");
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_started() {
    let root = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let asked = Asked { nodes: Some(1), base_port: Some(port), ..Asked::default() };
    let directory = Directory::claim(&root.path().join("cluster"), asked).expect("claimed");
    let program = write_script(root.path(), GOOD);
    let (sender, events) = channel();
    let mut say = |line: String| panic!("said {line}");
    let supervisor = Supervisor::new(&directory, program, Respawn::Never, &mut say);
    let error = supervisor.run(PidFiles(Vec::new()), sender, &events).expect_err("a port in use");
    assert!(
        error.message.contains(&format!("port {port} is in use")) && error.message.contains("--base-port"),
        "{error}"
    );
    assert!(!root.path().join("cluster").exists(), "another --base-port can still be given");

    let asked = Asked { base_port: Some(port), ..Asked::default() };
    Directory::claim(&root.path().join("kept"), asked).and_then(|made| made.mark()).expect("marked");
    let directory = Directory::claim(&root.path().join("kept"), Asked::default()).expect("claimed");
    let (sender, events) = channel();
    let mut say = |line: String| panic!("said {line}");
    let supervisor = Supervisor::new(&directory, write_script(root.path(), GOOD), Respawn::Never, &mut say);
    let error = supervisor.run(PidFiles(Vec::new()), sender, &events).expect_err("a port in use");
    assert!(error.message.contains("running already") && !error.message.contains("--base-port"), "{error}");
}

#[test]
fn a_node_ends_when_its_supervisor_is_gone() {
    let root = tempfile::tempdir().expect("a directory");
    let program = write_script(root.path(), GOOD);
    let home = root.path().join("home");
    fs::create_dir(&home).expect("made");
    let mut child = super::child::Child::start(&program, &home.join("node.toml")).expect("started");
    child.let_go();
    while child.ended().expect("watched").is_none() {
        thread::yield_now();
    }
    assert!(home.join("orphaned").exists());
}
