// SPDX-License-Identifier: Apache-2.0

//! `mraft bench host`: three hosts in one process over loopback TCP, fsync on, one client per group at the leader's host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mraft::machines::{Command, ConcurrentMachine, Results, concurrent};
use mraft::{Answer, GroupSpec, HostConfig, HostError, Machines, NO_SLOT, NodeHost, Proposal, ReadKind};
use mraft_kv::{Caches, KvMachine, KvOptions};
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet};
use serde::Serialize;

use super::latency::Latencies;
use super::machine::{Holdups, Machine, Stolen, measure};
use crate::cli::StateMachine;

const DEADLINE: Duration = Duration::from_secs(60);

/// Different keys that a client writes to each group, in turn.
const KEYS: usize = 20_000;
/// Blocks of the stores' trees in memory, and their open files, per host.
const BLOCK_CACHE_BYTES: u64 = 64 << 20;
const OPEN_FILES: usize = 512;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct HostOptions {
    pub(crate) groups: u64,
    pub(crate) outstanding: usize,
    pub(crate) value_bytes: usize,
    pub(crate) reads: bool,
    pub(crate) state_machine: StateMachine,
    pub(crate) seconds: u64,
    pub(crate) warmup_seconds: u64,
    pub(crate) client_threads: usize,
    pub(crate) directory: PathBuf,
    pub(crate) base_port: u16,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct HostReport {
    pub(crate) groups: u64,
    pub(crate) outstanding: usize,
    pub(crate) value_bytes: usize,
    pub(crate) op: &'static str,
    pub(crate) state_machine: &'static str,
    /// Commands applied per second on each replica, on average.
    pub(crate) applied_per_second_and_replica: f64,
    pub(crate) seconds: f64,
    pub(crate) operations: u64,
    pub(crate) ops_per_second: f64,
    pub(crate) not_applied: u64,
    pub(crate) latency_p50_us: u64,
    pub(crate) latency_p99_us: u64,
    pub(crate) latency_max_us: u64,
    /// Of the operations during which the hypervisor did not take the processors away.
    pub(crate) undisturbed_latency_p99_us: u64,
    /// Share of the operations during which it did, in percent.
    pub(crate) disturbed_percent: f64,
    pub(crate) cpu_cores: f64,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) fsyncs_per_second: f64,
    pub(crate) log_bytes_per_payload_byte: f64,
    pub(crate) machine: Machine,
}

/// Counts commands and bytes: the cost of consensus without a store.
#[derive(Default)]
struct Counting(std::sync::atomic::AtomicU64);

impl ConcurrentMachine for Counting {
    fn apply(&self, commands: &[Command<'_>], results: &mut Results) {
        self.0.fetch_add(commands.len() as u64, Ordering::Relaxed);
        commands.iter().for_each(|_| results.push(b""));
    }

    fn query(&self, _query: &[u8], answer: &mut Vec<u8>) {
        answer.extend_from_slice(&self.0.load(Ordering::Relaxed).to_le_bytes());
    }

    fn save(&self, state: &mut Vec<u8>) {
        state.extend_from_slice(&self.0.load(Ordering::Relaxed).to_le_bytes());
    }

    fn restore(&self, state: &[u8]) -> Result<(), String> {
        let count = u64::from_le_bytes(state.try_into().map_err(|_| "a count has eight bytes")?);
        self.0.store(count, Ordering::Relaxed);
        Ok(())
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &HostOptions) -> Result<HostReport, HostError> {
    let io = |error| HostError::Io { path: options.directory.clone(), error };
    if options.groups > GROUPS_MAX {
        return Err(HostError::Limit { what: "groups of one benchmark", max: GROUPS_MAX });
    }
    let mut machine = measure(&options.directory).map_err(io)?;
    let hosts = open_hosts(options, &[1, 2, 3])?;
    spread_leaders(&hosts, &wait_for_leaders(&hosts, options.groups, DEADLINE)?)?;
    let led = wait_for_leaders(&hosts, options.groups, DEADLINE)?;
    let phase = Phase::default();
    let (before, tally) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.client_threads.max(1))
            .map(|thread| {
                let own: Vec<(GroupId, usize)> =
                    led.iter().copied().skip(thread).step_by(options.client_threads.max(1)).collect();
                let (hosts, phase) = (&hosts, &phase);
                scope.spawn(move || drive(hosts, &own, options, phase))
            })
            .collect();
        std::thread::sleep(Duration::from_secs(options.warmup_seconds));
        phase.counts.store(true, Ordering::Relaxed);
        let before = Before::take(&hosts);
        std::thread::sleep(Duration::from_secs(options.seconds));
        phase.is_over.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in clients {
            let panicked = |_| Err(io(std::io::Error::other("a client of the benchmark panicked")));
            all.add(&client.join().unwrap_or_else(panicked)?);
        }
        Ok::<_, HostError>((before, all))
    })?;
    let Before { cpu_seconds: cpu_before, syncs: syncs_before, applied: applied_before, began, stolen } =
        before;
    machine.steal_percent = stolen.percent();
    let seconds = began.elapsed().as_secs_f64();
    let cpu = cpu_seconds() - cpu_before;
    let (batches, log_bytes, payload_bytes) = {
        let (before, after) = (syncs_before, syncs(&hosts));
        (after.0 - before.0, after.1 - before.1, after.2 - before.2)
    };
    let hosts_applied = applied_by(&hosts);
    hosts.iter().for_each(NodeHost::close);
    let Tally { undisturbed, disturbed, not_applied } = &tally;
    let mut latencies = undisturbed.clone();
    latencies.add(disturbed);
    let operations = latencies.count;
    if operations == 0 {
        let nothing = format!("not one operation succeeded; {not_applied} were not applied");
        return Err(io(std::io::Error::other(nothing)));
    }
    let commands_bytes = operations * 3 * options.value_bytes as u64;
    Ok(HostReport {
        groups: options.groups,
        outstanding: options.outstanding,
        value_bytes: options.value_bytes,
        op: if options.reads { "read" } else { "write" },
        state_machine: name_of(options.state_machine),
        applied_per_second_and_replica: (hosts_applied - applied_before) as f64 / seconds / 3.0,
        seconds,
        operations,
        ops_per_second: operations as f64 / seconds,
        not_applied: *not_applied,
        latency_p50_us: latencies.quantile_us(0.5),
        latency_p99_us: latencies.quantile_us(0.99),
        latency_max_us: latencies.max_us,
        undisturbed_latency_p99_us: undisturbed.quantile_us(0.99),
        disturbed_percent: disturbed.count as f64 * 100.0 / operations as f64,
        cpu_cores: cpu / seconds,
        cpu_us_per_op: cpu * 1e6 / operations.max(1) as f64,
        fsyncs_per_second: batches as f64 / seconds / 3.0,
        log_bytes_per_payload_byte: if options.reads || payload_bytes == 0 {
            0.0
        } else {
            log_bytes as f64 / commands_bytes.max(1) as f64
        },
        machine,
    })
}

/// Where a run is: it warms up, counts, and is over.
#[derive(Default)]
struct Phase {
    counts: AtomicBool,
    is_over: AtomicBool,
}

/// How everything that is counted stood when the warming up ended.
struct Before {
    cpu_seconds: f64,
    syncs: (u64, u64, u64),
    applied: u64,
    began: Instant,
    stolen: Stolen,
}

impl Before {
    fn take(hosts: &[NodeHost]) -> Before {
        Before {
            cpu_seconds: cpu_seconds(),
            syncs: syncs(hosts),
            applied: applied_by(hosts),
            began: Instant::now(),
            stolen: Stolen::begin(),
        }
    }
}

/// Opens the hosts with these numbers out of three that all groups live on.
pub(crate) fn open_hosts(options: &HostOptions, opened: &[u64]) -> Result<Vec<NodeHost>, HostError> {
    let address = |node: u64| format!("127.0.0.1:{}", u64::from(options.base_port) + 10 * (node - 1));
    let nodes: Vec<NodeId> = (1..=3).filter_map(NodeId::new).collect();
    let member = |node: &NodeId| {
        (ReplicaId::new(0, *node), Member { role: Role::Voter, raft_address: address(node.get()) })
    };
    let members = Membership { members: nodes.iter().map(member).collect(), ..Membership::default() };
    let specs: Vec<GroupSpec> = (0..options.groups)
        .map(|group| GroupSpec {
            group: GroupId(group),
            members: members.clone(),
            slots: SlotSet::default(),
            machine: name_of(options.state_machine).to_owned(),
        })
        .collect();
    let mut hosts = Vec::new();
    for node in nodes.iter().filter(|node| opened.contains(&node.get())) {
        let mut config = HostConfig::new(
            DeploymentId(0),
            *node,
            address(node.get()),
            Path::new(&options.directory).join(node.to_string()),
        );
        config.compaction_overhead_entries = 1_000;
        let caches = Caches::new(BLOCK_CACHE_BYTES, OPEN_FILES);
        let machines = Machines::new()
            .with("memory", |context| {
                Ok(concurrent(
                    Arc::clone(&context.disk),
                    context.directory.clone(),
                    10_000,
                    Counting::default(),
                ))
            })
            .with("kv", move |context| {
                let options = KvOptions::default();
                let machine =
                    KvMachine::new(Arc::clone(&context.disk), context.directory.clone(), &caches, options);
                Ok(Box::new(machine))
            });
        let host = NodeHost::open(config, machines, None)?;
        host.start_groups(&specs)?;
        hosts.push(host);
    }
    Ok(hosts)
}

/// Every group with the number of the host that leads it; an error with the first group that none leads `within` this time after the ones
/// before it had a leader.
pub(crate) fn wait_for_leaders(
    hosts: &[NodeHost],
    groups: u64,
    within: Duration,
) -> Result<Vec<(GroupId, usize)>, HostError> {
    let mut led = Vec::new();
    for group in (0..groups).map(GroupId) {
        let began = Instant::now();
        loop {
            let leads = |host: &NodeHost| {
                host.leader(group)
                    .is_some_and(|known| known.leader.is_some_and(|leader| leader.node() == host.node()))
            };
            if let Some(host) = hosts.iter().position(leads) {
                led.push((group, host));
                break;
            }
            if began.elapsed() >= within {
                let reason = format!(
                    "no host leads it after {within:?}: try fewer groups, or a machine that is less busy"
                );
                return Err(HostError::Machine { group, reason });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(led)
}

/// Hands the groups' leaders out evenly: elections leave them where they fall, and one busy host would be measured.
fn spread_leaders(hosts: &[NodeHost], led: &[(GroupId, usize)]) -> Result<(), HostError> {
    for (at, (group, leader)) in led.iter().enumerate() {
        let began = Instant::now();
        let to = at % hosts.len();
        let mut from = *leader;
        while from != to {
            if began.elapsed() >= DEADLINE {
                let reason = format!(
                    "its leadership could not be handed to another host within {DEADLINE:?}: try a machine that is less busy"
                );
                return Err(HostError::Machine { group: *group, reason });
            }
            let (done, ended) = std::sync::mpsc::sync_channel(1);
            let replica = ReplicaId::new(0, hosts[to].node());
            hosts[from].transfer_leader(*group, Some(replica), move |answer| _ = done.try_send(answer));
            let _ = ended.recv_timeout(DEADLINE);
            let known = hosts[to].leader(*group).and_then(|known| known.leader);
            match known.and_then(|leader| hosts.iter().position(|host| host.node() == leader.node())) {
                Some(now) => from = now,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
    Ok(())
}

/// Keeps `outstanding` operations of each group under way until the run is over; what ended while it warmed up does not count.
fn drive(
    hosts: &[NodeHost],
    groups: &[(GroupId, usize)],
    options: &HostOptions,
    phase: &Phase,
) -> Result<Tally, HostError> {
    let mut tally = Tally::default();
    if groups.is_empty() {
        return Ok(tally);
    }
    let mut again = vec![0; groups.len()];
    let queues = hosts.iter().map(NodeHost::completion_queue).collect::<Result<Vec<_>, _>>()?;
    let bodies = bodies(options);
    let next_body = std::cell::Cell::new(0);
    let body = || {
        next_body.set((next_body.get() + 1) % bodies.len());
        bodies[next_body.get()].clone()
    };
    let began = Instant::now();
    let now_us = || u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let send = |at: usize, count: usize| {
        let (group, host) = groups[at];
        let ticket = queues[host].ticket(tag(at, now_us()));
        let deadline_tick = hosts[host].deadline_tick(DEADLINE);
        if options.reads {
            hosts[host].read_batch(group, ReadKind::Linearizable, vec![ticket; count], DEADLINE);
        } else {
            let proposal = || Proposal { ticket, slot: NO_SLOT, deadline_tick, body: body() };
            hosts[host].propose_batch(group, (0..count).map(|_| proposal()).collect());
        }
    };
    let mut under_way = 0;
    for at in 0..groups.len() {
        send(at, options.outstanding);
        under_way += options.outstanding;
    }
    let mut answers = Vec::new();
    let mut holdups = Holdups::begin(now_us());
    let mut counts = false;
    let own_hosts: Vec<usize> =
        (0..hosts.len()).filter(|host| groups.iter().any(|(_, at)| at == host)).collect();
    while under_way > 0 {
        let is_over = phase.is_over.load(Ordering::Relaxed);
        if !counts && phase.counts.load(Ordering::Relaxed) {
            counts = true;
            tally = Tally::default();
        }
        let mut idle = true;
        for host in &own_hosts {
            queues[*host].take(&mut answers);
            idle &= answers.is_empty();
            under_way -= tally.take(&mut answers, now_us(), &mut holdups, &mut again);
        }
        for (at, count) in again.iter_mut().enumerate().filter(|(_, count)| **count > 0) {
            if !is_over {
                send(at, *count);
                under_way += *count;
            }
            *count = 0;
        }
        if idle {
            queues[own_hosts[0]].wait(&mut answers, Duration::from_micros(200));
            under_way -= tally.take(&mut answers, now_us(), &mut holdups, &mut again);
        }
    }
    Ok(tally)
}

/// Bits of a tag, of which a completion queue has 40, that say when the operation began, in steps of [`STEP_US`].
const TIME_BITS: u32 = 26;
/// The rest is the place of the group.
pub(crate) const GROUPS_MAX: u64 = 1 << (40 - TIME_BITS);
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// 26 bits of steps of this length are 134 s, more than any operation may take.
const STEP_US: u64 = 2;
const _: () = assert!(STEP_US << TIME_BITS > 2 * DEADLINE.as_micros() as u64);

fn tag(at: usize, now_us: u64) -> u64 {
    ((at as u64) << TIME_BITS) | ((now_us / STEP_US) & TIME_MASK)
}

/// The group's place, and how long ago the operation began.
fn read_tag(tag: u64, now_us: u64) -> (usize, u64) {
    let steps = (now_us / STEP_US).wrapping_sub(tag) & TIME_MASK;
    ((tag >> TIME_BITS) as usize, steps * STEP_US)
}

/// What came back so far.
#[derive(Default)]
struct Tally {
    undisturbed: Latencies,
    /// Those of operations that ran into a time when the processors were taken away.
    disturbed: Latencies,
    not_applied: u64,
}

impl Tally {
    /// Takes in answers; how many. `again` counts by group what ended and is to be sent again.
    fn take(
        &mut self,
        answers: &mut Vec<(u64, Answer)>,
        now_us: u64,
        holdups: &mut Holdups,
        again: &mut [usize],
    ) -> usize {
        holdups.look(now_us);
        let count = answers.len();
        for (tag, answer) in answers.drain(..) {
            let (at, us) = read_tag(tag, now_us);
            match answer {
                Answer::Applied { .. } | Answer::ReadReady { .. } => {
                    let is_disturbed = holdups.met(now_us.saturating_sub(us));
                    let latencies = if is_disturbed { &mut self.disturbed } else { &mut self.undisturbed };
                    latencies.record(us);
                }
                _ => self.not_applied += 1,
            }
            again[at] += 1;
        }
        count
    }

    fn add(&mut self, other: &Tally) {
        self.undisturbed.add(&other.undisturbed);
        self.disturbed.add(&other.disturbed);
        self.not_applied += other.not_applied;
    }
}

/// The kind's name, in reports and in the hosts' registries.
fn name_of(kind: StateMachine) -> &'static str {
    match kind {
        StateMachine::Memory => "memory",
        StateMachine::Kv => "kv",
    }
}

/// The commands that clients write in turn.
fn bodies(options: &HostOptions) -> Vec<Payload> {
    let value = vec![b'v'; options.value_bytes];
    match options.state_machine {
        StateMachine::Memory => vec![Payload::from(value)],
        StateMachine::Kv => (0..KEYS)
            .map(|key| {
                let mut body = Vec::new();
                mraft_kv::command::encode_put(format!("key-{key:012}").as_bytes(), &value, &mut body);
                Payload::from(body)
            })
            .collect(),
    }
}

fn applied_by(hosts: &[NodeHost]) -> u64 {
    hosts.iter().map(|host| host.metrics().figures().commands_applied).sum()
}

fn syncs(hosts: &[NodeHost]) -> (u64, u64, u64) {
    let figures = hosts.iter().map(|host| host.metrics().figures());
    figures.fold((0, 0, 0), |sum, one| {
        (sum.0 + one.log_batches, sum.1 + one.log_bytes, sum.2 + one.log_payload_bytes)
    })
}

/// Processor time of this process so far, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_nobody_leads_is_named() {
        let error = wait_for_leaders(&[], 1, Duration::ZERO).expect_err("there is no host").to_string();
        assert!(error.contains("group 0: no host leads it"), "{error}");
    }

    #[test]
    fn a_tag_tells_the_last_group_and_the_longest_time() {
        let last = GROUPS_MAX as usize - 1;
        for (at, began, took) in
            [(0, 0, 0), (last, 7_000_002, 100), (1_025, u64::MAX - 60_000_001, 60_000_000)]
        {
            let tag = tag(at, began);
            assert!(tag < 1 << 40, "a completion queue keeps 40 bits");
            let (group, us) = read_tag(tag, began + took);
            assert_eq!(group, at);
            assert!(us.abs_diff(took) <= STEP_US, "{us} instead of {took}");
        }
    }
}
