// SPDX-License-Identifier: Apache-2.0

//! A development cluster of the test's own, its nodes, and the commands that talk to it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
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

/// Says that a test cannot run here, and what was not shown: past the capture of a test's output and on a line of its own, where
/// `cargo xtask test` counts it.
pub fn skipped(why: &str) {
    io::stdout().write_all(format!("\nSKIPPED: {why}\n").as_bytes()).expect("somebody reads");
}

pub fn mraft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mraft"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("MRAFT_")) {
        command.env_remove(name);
    }
    command
}

/// A base port with room for five nodes and one more that joins them, which no other test has, in this process or another one: the lock
/// on a file of its own is held until the process ends. Below the ports that the system gives to outgoing connections, which may take
/// one at any moment.
pub fn free_base_port() -> u16 {
    const FIRST: u16 = 16_000;
    const STEP: u16 = 60;
    const PLACES: u16 = (32_000 - FIRST) / STEP;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let locks = std::env::temp_dir().join("mraft-test-ports");
    fs::create_dir_all(&locks).expect("a directory of locks");
    let own = (std::process::id() % u32::from(PLACES)) as u16;
    for _ in 0..PLACES {
        let base = FIRST + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % PLACES * STEP;
        let lock = File::create(locks.join(base.to_string())).expect("a lock file");
        let mut ports = (0..6).flat_map(|node| [base + 10 * node, base + 10 * node + 1]);
        if lock.try_lock().is_ok() && ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            HELD.lock().expect("no panic while it is held").push(lock);
            return base;
        }
    }
    panic!("no free ports");
}

impl Dev {
    /// Starts a cluster and waits until it says that it is there.
    pub fn start(directory: &Path, arguments: &[&str]) -> Dev {
        let mut command = mraft();
        command.arg("dev").arg("--dir").arg(directory).args(arguments);
        Dev::run(command)
    }

    /// Runs a command that is `mraft dev` and waits until the cluster is there. A port that is in use is waited for: whoever looks for
    /// a free one takes it for a moment.
    pub fn run(mut command: Command) -> Dev {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        loop {
            match Dev::try_run(&mut command) {
                Ok(dev) => return dev,
                Err(said) => {
                    assert!(said.contains("is in use") && began.elapsed() < PATIENCE, "it ended: {said}")
                }
            }
            std::thread::sleep(STEP);
        }
    }

    /// The error is what a cluster that ended before it was there said last.
    fn try_run(command: &mut Command) -> Result<Dev, String> {
        let mut process = command.spawn().expect("mraft runs");
        let heard = |stream: Box<dyn Read + Send>, name: &'static str| {
            let (sender, lines) = channel();
            std::thread::spawn(move || {
                // It is read to the end although nobody listens any more, or the process would wait for a full pipe.
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    println!("{name}: {line}");
                    let _ = sender.send(line);
                }
            });
            lines
        };
        let lines = heard(Box::new(process.stdout.take().expect("piped")), "dev");
        let errors = heard(Box::new(process.stderr.take().expect("piped")), "dev, error");
        let mut dev = Dev { process, lines, nodes: Vec::new(), said: Vec::new() };
        if dev.try_wait_for_line("Ctrl-C stops all nodes").is_none() {
            ended(&mut dev.process);
            return Err(errors.iter().collect::<Vec<_>>().join("\n"));
        }
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
        Ok(dev)
    }

    /// Waits until the cluster's supervisor says a line that contains this.
    pub fn wait_for_line(&mut self, part: &str) -> String {
        let line = self.try_wait_for_line(part);
        line.unwrap_or_else(|| panic!("mraft dev never said `{part}`; it said {:?}", self.said))
    }

    /// `None` when it ended before, or is silent for too long.
    fn try_wait_for_line(&mut self, part: &str) -> Option<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).ok()?;
            self.said.push(line.clone());
            if line.contains(part) {
                return Some(line);
            }
        }
    }

    /// Kills a node as a crash does.
    pub fn kill(&self, at: usize) {
        signal(self.nodes[at].pid, Signal::KILL);
    }

    /// Asks the cluster to stop and waits for it.
    pub fn stop(self) -> ExitStatus {
        self.end(Signal::INT)
    }

    /// Sends the supervisor this signal and waits for its end.
    pub fn end(mut self, with: Signal) -> ExitStatus {
        signal(i32::try_from(self.process.id()).expect("a pid"), with);
        ended(&mut self.process)
    }

    /// The nodes' doors.
    pub fn urls(&self) -> Vec<&str> {
        self.nodes.iter().map(|node| node.url.as_str()).collect()
    }
}

/// Waits for a process.
pub fn ended(process: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the process has ended", || {
        status = process.try_wait().expect("its own child");
        status.is_some()
    });
    status.expect("just seen")
}

/// Whether a process is there; one that has ended and was not waited for yet is not.
pub fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Said {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (given, value) = line.split_once(':')?;
            given.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// One HTTP request as it is given, with time enough if it does not say how much; the answer is read to its end.
pub fn http(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Said {
    let mut stream = open(url, method, path, headers, body.len());
    stream.write_all(body).expect("sent");
    answer(&mut stream)
}

/// A request of which the body is still to be sent.
pub fn open(url: &str, method: &str, path: &str, headers: &[(&str, &str)], body_bytes: usize) -> TcpStream {
    begin(url, method, path, headers, body_bytes).expect("the door is open")
}

/// A request without a body to a door that may be closed.
pub fn try_open(url: &str, method: &str, path: &str) -> io::Result<TcpStream> {
    begin(url, method, path, &[], 0)
}

fn begin(
    url: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body_bytes: usize,
) -> io::Result<TcpStream> {
    let address = url.strip_prefix("http://").expect("a plain door");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut path = path.to_owned();
    if !path.contains("timeout_ms=") {
        path.push_str(if path.contains('?') { "&timeout_ms=60000" } else { "?timeout_ms=60000" });
    }
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {body_bytes}\r\n\r\n"));
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

/// The answer to a request that was sent whole.
pub fn answer(stream: &mut TcpStream) -> Said {
    try_answer(stream).expect("an answer")
}

/// The answer, if the door did not close before.
pub fn try_answer(stream: &mut TcpStream) -> Option<Said> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Some(Said { status, head, body: bytes[end + 4..].to_vec() })
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

/// The same with time enough on the busiest machine, if the command talks to nodes and says nothing else.
fn run_patiently(urls: &[&str], arguments: &[&str]) -> Output {
    match urls.is_empty() || arguments.contains(&"--timeout") {
        true => run(urls, arguments),
        false => run(urls, &[arguments, &["--timeout", "60s"]].concat()),
    }
}

/// Runs a command that must succeed, and gives what it said.
pub fn done(urls: &[&str], arguments: &[&str]) -> String {
    let output = run_patiently(urls, arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command that must end with this status, and gives what it said on standard error.
pub fn ends(urls: &[&str], arguments: &[&str], status: i32) -> String {
    let output = run_patiently(urls, arguments);
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
