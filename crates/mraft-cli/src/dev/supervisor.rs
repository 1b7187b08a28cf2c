// SPDX-License-Identifier: Apache-2.0

//! Starts the nodes, watches them, starts them again, stops them.
//!
//! One thread owns the processes: it alone asks whether one has ended and signals those that have not, so that a signal can
//! never reach a process that got a dead node's number.

use std::net::{SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::child::{Child, described, stopped_well};
use super::directory::Directory;
use super::plan::DevNode;
use super::probe::Probe;
use crate::cli::Respawn;
use crate::exit::{CommandError, Exit};
use crate::output::Table;

/// A node drains for 30 s at most; one that takes longer than this hangs.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(40);
/// How often the processes are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the cluster is asked whether it serves.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How many looks at a cluster that does not serve yet make a line about it.
const LOOKS_PER_WORD: u32 = 30;

/// What may happen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The user wants to stop; the count is 1 for the first time.
    Signal(u32),
    /// Every group has a leader.
    Ready,
    /// So many have one after another `LOOKS_PER_WORD` looks.
    Led(u64),
}

/// A development cluster.
pub struct Supervisor<'a> {
    directory: &'a Directory,
    program: PathBuf,
    respawn: Respawn,
    say: &'a mut dyn FnMut(String),
    nodes: Vec<Supervised>,
}

struct Supervised {
    node: DevNode,
    config: PathBuf,
    life: Life,
}

enum Life {
    Running(Child),
    Ended { again_at: Option<Instant> },
}

impl<'a> Supervisor<'a> {
    /// A cluster in `directory` whose nodes run `program`; what the user should read goes to `say`, line by line.
    pub fn new(
        directory: &'a Directory,
        program: PathBuf,
        respawn: Respawn,
        say: &'a mut dyn FnMut(String),
    ) -> Supervisor<'a> {
        Supervisor { directory, program, respawn, say, nodes: Vec::new() }
    }

    /// Runs the cluster until the user stops it or it cannot be started. Afterwards no process is left.
    pub fn run(
        mut self,
        probe: impl Probe,
        sender: Sender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Exit, CommandError> {
        let probing = self.start().and_then(|()| Probing::start(probe, self.directory.plan.groups, sender));
        match probing {
            Ok(_probing) => self.watch(events),
            Err(why) => {
                // Those that were started have written already: they stop in order. Why is what counts for the caller.
                let _ = self.drain(events);
                Err(CommandError::failed(why))
            }
        }
    }

    fn start(&mut self) -> Result<(), String> {
        let nodes = self.directory.plan.nodes();
        for node in &nodes {
            for (address, what) in [(node.raft, "Raft"), (node.http, "HTTP")] {
                must_be_free(address, node.number, what, self.directory.is_kept)?;
            }
        }
        self.directory.mark()?;
        for node in nodes {
            let config = self.directory.write_configuration(&node)?;
            let child = Child::start(&self.program, &config)
                .map_err(|error| format!("{} cannot be started: {error}", self.program.display()))?;
            self.nodes.push(Supervised { node, config, life: Life::Running(child) });
        }
        Ok(())
    }

    fn watch(&mut self, events: &Receiver<Event>) -> Result<Exit, CommandError> {
        let mut is_ready = false;
        loop {
            match events.recv_timeout(LOOK_INTERVAL) {
                Ok(Event::Ready) => {
                    is_ready = true;
                    self.introduce();
                }
                Ok(Event::Led(led)) => {
                    let groups = self.directory.plan.groups;
                    (self.say)(format!("waiting for leaders: {led} of {groups} groups have one"));
                }
                Ok(Event::Signal(_)) => {
                    (self.say)("stopping: every node drains (once more stops at once)".to_owned());
                    return self.drain(events);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.drain(events),
            }
            for message in self.bury() {
                if !is_ready {
                    let _ = self.drain(events);
                    return Err(CommandError::failed(format!("before the cluster was ready, {message}")));
                }
                let outlook = self.outlook();
                (self.say)(format!("{message}; {outlook}"));
            }
            if is_ready && self.nodes.iter().all(|node| matches!(node.life, Life::Ended { again_at: None })) {
                return Err(CommandError::failed("no node is left"));
            }
            self.start_again();
        }
    }

    /// Takes note of processes that have ended; one sentence for each.
    fn bury(&mut self) -> Vec<String> {
        let again_at = match self.respawn {
            Respawn::After(time) => Some(Instant::now() + time),
            Respawn::Never => None,
        };
        let mut messages = Vec::new();
        for supervised in &mut self.nodes {
            let Life::Running(child) = &mut supervised.life else { continue };
            let Some((message, _)) = end_of(child, supervised.node.number) else { continue };
            messages.push(message);
            supervised.life = Life::Ended { again_at };
        }
        messages
    }

    fn outlook(&self) -> String {
        match self.respawn {
            Respawn::After(time) => format!("it is started again in {time:?}"),
            Respawn::Never => "it is not started again".to_owned(),
        }
    }

    fn start_again(&mut self) {
        for supervised in &mut self.nodes {
            let Life::Ended { again_at: Some(at) } = supervised.life else { continue };
            if Instant::now() < at {
                continue;
            }
            match Child::start(&self.program, &supervised.config) {
                Ok(child) => {
                    (self.say)(format!(
                        "node {} is started again (pid {})",
                        supervised.node.number,
                        child.pid()
                    ));
                    supervised.life = Life::Running(child);
                }
                Err(error) => {
                    (self.say)(format!("node {} cannot be started again: {error}", supervised.node.number));
                    supervised.life = Life::Ended { again_at: None };
                }
            }
        }
    }

    /// Asks every node to stop and waits; a second signal, or a node that hangs, ends it at once. A node that fails on the way is told of,
    /// and is a failure of the whole.
    fn drain(&mut self, events: &Receiver<Event>) -> Result<Exit, CommandError> {
        let running =
            |nodes: &[Supervised]| nodes.iter().filter(|node| matches!(node.life, Life::Running(_))).count();
        for supervised in &self.nodes {
            if let Life::Running(child) = &supervised.life {
                child.terminate();
            }
        }
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        let mut failures = Vec::new();
        while running(&self.nodes) > 0 {
            if let Ok(Event::Signal(_)) = events.recv_timeout(LOOK_INTERVAL) {
                self.nodes.clear();
                return Err(CommandError::failed("stopped at once; the nodes did not drain"));
            }
            if Instant::now() >= deadline {
                let hanging = running(&self.nodes);
                self.nodes.clear();
                return Err(CommandError::failed(format!(
                    "{hanging} nodes did not stop in time and were killed"
                )));
            }
            for supervised in &mut self.nodes {
                if let Life::Running(child) = &mut supervised.life
                    && let Some((message, is_good)) = end_of(child, supervised.node.number)
                {
                    failures.extend((!is_good).then_some(message));
                    supervised.life = Life::Ended { again_at: None };
                }
            }
        }
        match failures.is_empty() {
            true => Ok(Exit::Ok),
            false => Err(CommandError::failed(format!("while stopping, {}", failures.join("; ")))),
        }
    }

    /// What there is, and what to try first.
    fn introduce(&mut self) {
        let plan = self.directory.plan;
        let mut table = Table::new(&["NODE", "#PID", "HTTP", "RAFT", "DATA"]);
        let mut last = None;
        for supervised in &self.nodes {
            let Life::Running(child) = &supervised.life else { continue };
            last = Some((supervised.node.number, child.pid()));
            table.row([
                supervised.node.number.to_string(),
                child.pid().to_string(),
                format!("http://{}", supervised.node.http),
                supervised.node.raft.to_string(),
                self.directory.data(&supervised.node).display().to_string(),
            ]);
        }
        (self.say)(format!(
            "{} groups, {} replicas each, every group has a leader",
            plan.groups, plan.replicas
        ));
        table.render().lines().for_each(|line| (self.say)(line.to_owned()));
        let doors: Vec<SocketAddrV4> = self.nodes.iter().map(|supervised| supervised.node.http).collect();
        if let (Some(first), Some(other), Some((number, pid))) =
            (doors.first(), doors.get(1).or(doors.first()), last)
        {
            (self.say)("try:".to_owned());
            (self.say)(format!("  curl -X PUT --data hello http://{first}/v1/kv/greeting"));
            (self.say)(format!("  curl http://{other}/v1/kv/greeting"));
            let meanwhile = if plan.nodes > 1 { "the others go on" } else { "it is the only one" };
            (self.say)(format!("  kill -9 {pid}     # node {number}; {meanwhile}"));
        }
        (self.say)("Ctrl-C stops all nodes".to_owned());
    }
}

/// How a process ended, in a sentence, and whether it ended well; `None` while it runs.
fn end_of(child: &mut Child, node: u64) -> Option<(String, bool)> {
    let (end, by_itself, is_good) = match child.ended() {
        Ok(None) => return None,
        Ok(Some(status)) => (described(status), status.code().is_some(), stopped_well(status)),
        Err(error) => (format!("cannot be watched ({error})"), false, false),
    };
    let mut message = format!("node {node} (pid {}) {end}", child.pid());
    // Who was killed had nothing to say about it.
    let words = if by_itself { child.last_words() } else { String::new() };
    if !words.is_empty() {
        message.push_str(&format!("; it said: {words}"));
    }
    Some((message, is_good))
}

/// The thread that asks until the cluster serves.
struct Probing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Probing {
    fn start(mut probe: impl Probe, groups: u64, ready: Sender<Event>) -> Result<Probing, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("probe".to_owned()).spawn(move || {
            let mut looks = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                let led = probe.groups_led();
                if led >= groups {
                    let _ = ready.send(Event::Ready);
                    return;
                }
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS_PER_WORD) {
                    let _ = ready.send(Event::Led(led));
                }
                thread::park_timeout(PROBE_INTERVAL);
            }
        });
        let thread = thread.map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Probing { stop, thread: Some(thread) })
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn must_be_free(address: SocketAddrV4, node: u64, what: &str, is_kept: bool) -> Result<(), String> {
    let way_out = match is_kept {
        true => "stop what uses it; perhaps this cluster is running already",
        false => "stop what uses it, or give another --base-port",
    };
    TcpListener::bind(address).map(drop).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("port {} is in use, node {node} needs it for {what}: {way_out}", address.port())
        }
        _ => format!("node {node} cannot listen on {address} for {what}: {error}"),
    })
}
