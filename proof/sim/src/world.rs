// SPDX-License-Identifier: Apache-2.0

//! The loop: whatever is due next happens, and everything that follows from it is put on the calendar.
//!
//! `turns` lets a node decide and carries out what it asks for, `snapshots` moves snapshots, `crashes` is what goes wrong,
//! `requests` are the clients, `watch` is what must hold all the time, `end` when everything has come to rest, `loss` what comes after
//! that in some seeds.

mod atlas;
mod crashes;
mod damage;
mod end;
mod lies;
mod links;
mod loss;
mod nonsense;
mod operators;
mod phases;
mod probe;
mod requests;
mod slow_disks;
mod snapshots;
mod turns;
mod watch;

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use mraft::apply_worker::ApplyMail;
use mraft::core::{HashReport, LogReadOrder};
use mraft::meta::GroupMeta;
use mraft::{Answer, GroupRecord};
use mraft_engine::event::{NodeEvent, Now};
use mraft_logstore::Fill;
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, ReplicaId, Role, SlotSet};
use tempfile::TempDir;

use crate::check::{Broken, Checks, promise};
use crate::clients::Client;
use crate::marks::Marks;
use crate::mix::{Fault, Mix, Scripted, TICK_US};
use crate::network::Network;
use crate::node::{ELECTION_TICKS, Node, Process};
use crate::random::{Concern, Random};
use crate::stores::{self, RealStore};
use crate::transcript::Transcript;
use atlas::Atlas;
use links::Link;
use loss::Repairs;
use probe::Owed;
use slow_disks::Beat;
use snapshots::Transfer;

/// In the calm every group takes a write within so many election timeouts.
const WRITTEN_ELECTIONS: u64 = 10;
/// The wall clock at the beginning.
const UNIX_MS: u64 = 1_700_000_000_000;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Operations of clients that were carried out: writes applied, reads answered.
    pub operations: u64,
    /// Operations that were refused, after all attempts.
    pub refused: u64,
    /// Operations whose fate nobody knows.
    pub unknown: u64,
    /// Acknowledged changes.
    pub acknowledged: u64,
    /// What happened from time to time, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Processes killed.
    pub crashes: u64,
    /// Those of them that were killed in the middle of what they did with their disk.
    pub crashes_in_the_middle: u64,
    /// Installations of snapshots that were cut short, and that recovery finished (rule N1).
    pub installations_finished: u64,
    /// Installations of snapshots that were cut short, and that recovery gave up.
    pub installations_given_up: u64,
    /// Processes killed that led a group which was asleep (rule Q2).
    pub sleeping_leaders_killed: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Log segments recycled.
    pub segments_recycled: u64,
    /// How often a log had no room (rule D10).
    pub logs_full: u64,
    /// Logs that failed and stopped all replicas of their node (rule D10).
    pub logs_failed: u64,
    /// Nodes whose replicas stopped because their disk stood still (rule T1).
    pub disks_stalled: u64,
    /// Leaders whose disks a script slowed down.
    pub leaders_slowed: u64,
    /// How often a state machine found no room (rule D10).
    pub stores_full: u64,
    /// Replicas that stopped because their state could not be written or read.
    pub stores_failed: u64,
    /// Nodes that were suspected by others (rule T5).
    pub suspicions: u64,
    /// Membership changes that operators asked for.
    pub changes_proposed: u64,
    /// Replicas that joined a group.
    pub joins: u64,
    /// Frames that came damaged and were refused.
    pub frames_refused: u64,
    /// Hellos that were refused (rules M6, M7).
    pub hellos_refused: u64,
    /// Nodes with a useless directory that came back with an empty one.
    pub outcasts_back: u64,
    /// Replicas that were condemned (rule D9).
    pub condemned: u64,
    /// What it came to see ([`crate::marks`]).
    pub marks: BTreeMap<String, u64>,
    /// Nodes that were taken away from groups that lacked nothing (promise P7): one, or none.
    pub probes: u64,
    /// Times that no node could be taken away, because some group lacked something.
    pub probes_skipped: u64,
    /// Nodes that stayed away while the others healed.
    pub left_behind: u64,
    /// How long the slowest group then took until it acknowledged a write that was asked for since, in microseconds of virtual time.
    pub gap_us: u64,
    /// Groups that lost a majority and went on after that was accepted (rule D9).
    pub quorums_lost: u64,
    /// Committed entries that were given up with that.
    pub entries_given_up: u64,
    /// 1 where the groups were in LSM trees on the real file system.
    pub real_stores: u64,
    /// Groups whose voters were all found to have the same state by themselves (rule E8).
    pub groups_compared: u64,
    /// Hash of everything that happened, in order.
    pub trace: u64,
    /// The promise that broke.
    pub broken: Option<Broken>,
}

impl Report {
    /// Faults of all kinds.
    pub fn faults_in_all(&self) -> u64 {
        self.faults.iter().filter(|(fault, _)| !fault.is_wanted()).map(|(_, times)| times).sum()
    }
}

enum Action {
    Tick(usize, u64),
    /// What was sent to a process reaches no later one: its connections end with it.
    Deliver {
        to: usize,
        boot: u64,
        from: NodeId,
        frame: Vec<u8>,
    },
    LogDone(usize, u64),
    /// Nothing came for the log since this run of it.
    LogIdle {
        node: usize,
        boot: u64,
        run: u64,
    },
    Filled {
        node: usize,
        boot: u64,
        fill: Fill,
    },
    ApplyDone(usize, u64),
    /// A machine that found no room tries again.
    ApplyRetry(usize, u64),
    Job(usize, u64),
    Report {
        to: usize,
        boot: u64,
        report: HashReport,
    },
    Mail {
        node: usize,
        boot: u64,
        mail: Box<ApplyMail>,
    },
    LogRead {
        node: usize,
        boot: u64,
        order: LogReadOrder,
    },
    Snapshot {
        to: usize,
        from: usize,
        from_boot: u64,
        send: Box<Transfer>,
    },
    Told {
        node: usize,
        event: NodeEvent,
    },
    /// A host says how it is.
    Beat {
        to: usize,
        boot: u64,
        beat: Beat,
    },
    Client(usize),
    /// A client asks elsewhere.
    Retry {
        client: usize,
        series: u64,
    },
    Answer {
        client: usize,
        series: u64,
        answer: Answer,
    },
    Overdue {
        client: usize,
        series: u64,
        attempt: u32,
    },
    /// It is time for one of these, and for the next one some time later.
    Fault(Fault),
    CrashOne(usize, u64),
    Restart(usize, u64),
    /// An operator restarts a process whose replicas stopped.
    Operator(usize, u64),
    DiskRoom(usize),
    DiskRepaired(usize),
    /// A disk that lies is found out, or becomes honest.
    LieEnds(usize, u64),
    /// Somebody finds that a disk is damaged.
    LookAtDisk(usize),
    /// A wall clock that jumped goes right again.
    ClockBack(usize),
    /// Operators look at everything.
    Operate,
    /// A replica was removed from its group.
    Forget {
        node: usize,
        boot: u64,
        group: GroupId,
        replica: ReplicaId,
    },
    Calm,
    /// It is time for this.
    Script(Scripted),
    /// By now somebody else must lead a group whose leader's disk is slow.
    LeftByNow {
        node: usize,
        boot: u64,
        group: GroupId,
    },
    /// By now no replica of a node whose disk stalled may take part in anything.
    StoppedByNow {
        node: usize,
        boot: u64,
    },
    /// By now every group must have taken a write in the calm.
    WrittenByNow,
    /// By now every group must be whole again.
    BackByNow,
    /// A node is taken away, and this is what became of it (promise P7).
    Probe,
    Probed,
    /// Groups lose the logs of a majority.
    Strike,
    /// An operator looks at a node that lost its log, or something of it.
    Repair(usize),
    /// Nobody asks for anything any more.
    Quiet,
    /// Nobody has asked for anything for a while.
    Rested,
}

impl Action {
    /// The node whose process does this, if it is one that does.
    fn process(&self) -> Option<usize> {
        match self {
            Action::Tick(node, _)
            | Action::Deliver { to: node, .. }
            | Action::LogDone(node, _)
            | Action::LogIdle { node, .. }
            | Action::Filled { node, .. }
            | Action::ApplyDone(node, _)
            | Action::ApplyRetry(node, _)
            | Action::Job(node, _)
            | Action::Report { to: node, .. }
            | Action::Mail { node, .. }
            | Action::LogRead { node, .. }
            | Action::Snapshot { to: node, .. }
            | Action::Told { node, .. }
            | Action::Beat { to: node, .. }
            | Action::Forget { node, .. } => Some(*node),
            _ => None,
        }
    }
}

/// The streams of chance, one per concern.
struct Streams {
    load: Random,
    time: Random,
    network: Random,
    crashes: Random,
    disks: Random,
    partitions: Random,
    operators: Random,
}

struct World {
    mix: Mix,
    random: Streams,
    now_us: u64,
    next_id: u64,
    /// When, in which order of asking, and where in `actions`.
    calendar: BinaryHeap<Reverse<(u64, u64, usize)>>,
    actions: Vec<Option<Action>>,
    /// Places in `actions` that are free.
    free: Vec<usize>,
    nodes: Vec<Node>,
    ids: Vec<NodeId>,
    network: Network,
    clients: Vec<Client>,
    /// Operations of all clients so far.
    series: u64,
    checks: Checks,
    report: Report,
    calm: bool,
    /// When everything healed.
    calm_us: u64,
    /// Since when nobody asks for anything.
    quiet_us: Option<u64>,
    /// Groups that are to take a write.
    owed: Owed,
    links: BTreeMap<(usize, usize), Link>,
    atlas: Atlas,
    /// The newest memberships of each group that anybody ever went by.
    newest_memberships: BTreeMap<GroupId, Vec<Membership>>,
    /// What operators do about groups that lost a majority.
    repairs: Repairs,
    /// Since when a node's replica of a group sleeps behind a leader that is gone.
    forsaken: BTreeMap<(usize, GroupId), u64>,
    marks: Marks,
    /// Where real stores are; gone with the run.
    real: Option<TempDir>,
    transcript: Option<RefCell<Transcript>>,
}

/// Runs one seed from beginning to end.
pub fn run(seed: u64, mix: &Mix) -> Report {
    run_with(seed, mix, None).0
}

/// The same, and writes down what happens.
pub fn run_with(seed: u64, mix: &Mix, transcript: Option<Transcript>) -> (Report, Option<Transcript>) {
    let mut world = World::new(seed, mix);
    world.transcript = transcript.map(RefCell::new);
    let result = world.run();
    world.finish(result)
}

impl World {
    fn new(seed: u64, mix: &Mix) -> World {
        let ids: Vec<NodeId> = (1..=mix.nodes as u64).filter_map(NodeId::new).collect();
        let mut nodes: Vec<Node> = ids.iter().map(|id| Node::new(*id)).collect();
        let mut newest_memberships = BTreeMap::new();
        for group in 0..mix.groups {
            let members: Vec<NodeId> =
                (0..mix.replicas).map(|at| ids[(group as usize + at) % ids.len()]).collect();
            let genesis = founding(GroupId(group), &members);
            newest_memberships.insert(GroupId(group), vec![genesis.membership.clone()]);
            for node in nodes.iter_mut().filter(|node| members.contains(&node.id)) {
                node.founding.push(GroupRecord {
                    group: GroupId(group),
                    uid: genesis.uid,
                    replica: ReplicaId::new(0, node.id),
                    genesis: Some(genesis.clone()),
                    machine: "kv".to_owned(),
                });
            }
        }
        let stream = |concern| Random::new(seed, concern);
        World {
            network: Network::new(mix.quality),
            clients: vec![Client::default(); mix.clients as usize],
            mix: mix.clone(),
            random: Streams {
                load: stream(Concern::Load),
                time: stream(Concern::Time),
                network: stream(Concern::Network),
                crashes: stream(Concern::Crashes),
                disks: stream(Concern::Disks),
                partitions: stream(Concern::Partitions),
                operators: stream(Concern::Operators),
            },
            now_us: 0,
            next_id: 0,
            calendar: BinaryHeap::new(),
            actions: Vec::new(),
            free: Vec::new(),
            nodes,
            ids,
            series: 0,
            checks: Checks::default(),
            report: Report { seed, ..Report::default() },
            calm: false,
            owed: Owed::default(),
            links: BTreeMap::new(),
            atlas: Atlas::default(),
            newest_memberships,
            repairs: Repairs::default(),
            forsaken: BTreeMap::new(),
            marks: Marks::default(),
            real: None,
            transcript: None,
            calm_us: 0,
            quiet_us: None,
        }
    }

    /// Gives each node a directory on the real file system.
    fn use_real_stores(&mut self) -> Result<(), Broken> {
        let directory =
            stores::make_directory().map_err(|error| Broken::new(promise::RUNS, error.to_string()))?;
        for node in &mut self.nodes {
            node.real = Some(RealStore::new(directory.path().join(node.id.to_string())));
        }
        self.real = Some(directory);
        Ok(())
    }

    fn run(&mut self) -> Result<(), Broken> {
        if self.mix.has_real_stores {
            self.report.real_stores = 1;
            self.use_real_stores()?;
        }
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        for client in 0..self.clients.len() {
            let wait = self.random.load.between(0, 100_000);
            self.after(wait, Action::Client(client));
        }
        let repeated = self.mix.faults.clone().into_iter().filter(|(_, mean_us)| *mean_us > 0);
        for (fault, mean_us) in repeated {
            let wait = self.until_next(fault, mean_us);
            self.after(wait, Action::Fault(fault));
        }
        for (at_us, scripted) in self.mix.script.clone() {
            self.after(at_us, Action::Script(scripted));
        }
        self.after(1, Action::Operate);
        self.after(self.mix.safety_us, Action::Calm);
        self.go_on()?;
        self.check_end()?;
        for _ in 0..self.strikes() {
            self.plan_strike();
            self.go_on()?;
            self.check_end()?;
        }
        Ok(())
    }

    /// Until the run ends, as far as that is known.
    fn go_on(&mut self) -> Result<(), Broken> {
        while let Some(Reverse((at, id, place))) = self.calendar.peek().copied() {
            if at > self.end_us() {
                break;
            }
            self.calendar.pop();
            let Some(action) = self.actions[place].take() else { continue };
            self.free.push(place);
            self.now_us = at;
            self.trace(at ^ id);
            self.happen(action)?;
        }
        Ok(())
    }

    fn happen(&mut self, action: Action) -> Result<(), Broken> {
        if let Some(node) = action.process()
            && self.nodes[node].frozen_until_us > self.now_us
        {
            // Everything that came meanwhile is there when it goes on.
            self.after(self.nodes[node].frozen_until_us - self.now_us, action);
            return Ok(());
        }
        match action {
            Action::Tick(node, boot) => self.tick(node, boot),
            Action::Deliver { to, boot, from, frame } => self.deliver(to, boot, from, &frame),
            Action::LogDone(node, boot) => self.log_done(node, boot),
            Action::LogIdle { node, boot, run } => self.log_idle(node, boot, run),
            Action::Filled { node, boot, fill } => self.filled(node, boot, fill),
            Action::ApplyDone(node, boot) => self.apply_done(node, boot),
            Action::ApplyRetry(node, boot) => {
                if let Some(process) = running(&mut self.nodes, node, boot) {
                    process.apply_retries = false;
                }
                self.apply_done(node, boot)
            }
            Action::Job(node, boot) => self.run_job(node, boot),
            Action::Report { to, boot, report } => self.deliver_report(to, boot, report),
            Action::Mail { node, boot, mail } => {
                self.mail(node, boot, *mail);
                Ok(())
            }
            Action::LogRead { node, boot, order } => self.read_log(node, boot, order),
            Action::Snapshot { to, from, from_boot, send } => {
                self.receive_snapshot(to, from, from_boot, *send)
            }
            Action::Told { node, event } => self.told(node, event),
            Action::Beat { to, boot, beat } => self.hear_beat(to, boot, beat),
            Action::Client(client) => self.ask(client),
            Action::Retry { client, series } => self.retry(client, series),
            Action::Answer { client, series, answer } => self.answered(client, series, answer),
            Action::Overdue { client, series, attempt } => self.overdue(client, series, attempt),
            Action::Fault(fault) => self.fault(fault),
            Action::CrashOne(node, boot) => {
                if !self.calm && self.nodes[node].boot == boot {
                    self.crash_again(node);
                }
                Ok(())
            }
            Action::Restart(node, boot) => {
                let own = &self.nodes[node];
                if own.away_until_us > self.now_us {
                    self.after(own.away_until_us - self.now_us, Action::Restart(node, boot));
                } else if own.boot == boot && own.process.is_none() && !own.is_gone && !own.is_put_away {
                    self.start(node)?;
                }
                Ok(())
            }
            Action::Operator(node, boot) => self.operator(node, boot),
            Action::DiskRoom(node) => {
                self.nodes[node].change_faults(|faults| faults.capacity_bytes = None);
                Ok(())
            }
            Action::DiskRepaired(node) => {
                self.say(|| format!("the disk of node {} is repaired", self.ids[node]));
                self.nodes[node].change_faults(|faults| {
                    (faults.reads_fail, faults.writes_fail, faults.syncs_fail) = (false, false, false);
                });
                Ok(())
            }
            Action::LieEnds(node, boot) => {
                self.lie_ends(node, boot);
                Ok(())
            }
            Action::LookAtDisk(node) => {
                self.look_at_disk(node);
                Ok(())
            }
            Action::ClockBack(node) => {
                self.nodes[node].jumped_ms = 0;
                Ok(())
            }
            Action::Operate => self.operate(),
            Action::Forget { node, boot, group, replica } => self.forget_replica(node, boot, group, replica),
            Action::Calm => self.end_safety(),
            Action::Strike => self.strike(),
            Action::Repair(node) => self.repair(node),
            Action::Quiet => {
                self.fall_silent();
                Ok(())
            }
            Action::Script(scripted) => {
                self.script(scripted);
                Ok(())
            }
            Action::LeftByNow { node, boot, group } => self.check_left(node, boot, group),
            Action::StoppedByNow { node, boot } => self.check_stalled(node, boot),
            Action::WrittenByNow => self.check_written(),
            Action::BackByNow => self.check_back(),
            Action::Probe => {
                self.probe();
                Ok(())
            }
            Action::Probed => self.probed(),
            Action::Rested => {
                self.note_resting_terms();
                Ok(())
            }
        }
    }

    fn finish(mut self, result: Result<(), Broken>) -> (Report, Option<Transcript>) {
        self.report.broken = result.err();
        for (fault, times) in &self.report.faults {
            self.marks.see_often(fault, *times);
        }
        for node in &mut self.nodes {
            node.note_ignored();
            node.ignored.iter().for_each(|(reason, times)| self.marks.see_often(reason, *times));
        }
        self.report.marks = self.marks.into_counts();
        self.report.acknowledged = self.checks.acknowledged.count;
        self.report.entries_given_up = self.checks.losses.given_up;
        let compared = |group: GroupId| {
            let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
            running.filter_map(|process| process.core.engine().compared(group)).any(|(index, _)| index > 0)
        };
        self.report.groups_compared =
            (0..self.mix.groups).filter(|group| compared(GroupId(*group))).count() as u64;
        self.report.installations_finished = self.nodes.iter().map(|node| node.installations_finished).sum();
        self.report.installations_given_up = self.nodes.iter().map(|node| node.installations_given_up).sum();
        let running = |node: &Node| {
            node.process.as_ref().map_or(0, |process| process.log.store().status().segments_recycled)
        };
        self.report.segments_recycled =
            self.nodes.iter().map(|node| node.segments_recycled + running(node)).sum();
        (self.report, self.transcript.map(RefCell::into_inner))
    }

    fn now(&self, node: usize) -> Now {
        let began_us = self.nodes[node].process.as_ref().map_or(self.now_us, |process| process.began_us);
        let now_ms = self.now_us / 1000;
        Now {
            tick: self.nodes[node].process.as_ref().map_or(0, |process| process.tick),
            monotonic_ms: (self.now_us - began_us) / 1000,
            unix_ms: (UNIX_MS + now_ms)
                .saturating_add_signed(self.mix.own[node].ahead_ms)
                .saturating_add_signed(self.nodes[node].jumped_ms),
        }
    }

    fn after(&mut self, wait_us: u64, action: Action) {
        let id = self.next_id;
        self.next_id += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.actions.push(None);
            self.actions.len() - 1
        });
        self.actions[place] = Some(action);
        self.calendar.push(Reverse((self.now_us + wait_us, id, place)));
    }

    /// Writes down what happens, if somebody wants to read it.
    fn say(&self, what: impl FnOnce() -> String) {
        if let Some(transcript) = &self.transcript {
            let what = what();
            transcript.borrow_mut().say(self.now_us, what);
        }
    }

    /// Takes a number into the hash of everything that happened.
    fn trace(&mut self, number: u64) {
        self.report.trace = (self.report.trace.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn trace_bytes(&mut self, bytes: &[u8]) {
        self.trace(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.trace(u64::from_le_bytes(word));
        }
    }
}

/// One election timeout.
const ELECTION_US: u64 = ELECTION_TICKS as u64 * TICK_US;
fn running(nodes: &mut [Node], node: usize, boot: u64) -> Option<&mut Process> {
    let node = &mut nodes[node];
    if node.boot == boot { node.process.as_mut() } else { None }
}

fn founding(group: GroupId, members: &[NodeId]) -> GroupMeta {
    let member = |id: &NodeId| {
        (ReplicaId::new(0, *id), Member { role: Role::Voter, raft_address: format!("sim:{id}") })
    };
    let membership = Membership { members: members.iter().map(member).collect(), ..Membership::default() };
    GroupMeta::genesis(DeploymentId(1), group, membership, SlotSet::default())
}
