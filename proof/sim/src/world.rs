// SPDX-License-Identifier: Apache-2.0

//! The loop: whatever is due next happens, and everything that follows from it is put on the calendar.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use mraft::apply_worker::{ApplyMail, ApplyOutput, SnapshotSend};
use mraft::core::{HashReport, Input, LogReadOrder, Output, log_read_input};
use mraft::meta::GroupMeta;
use mraft::persist::LogDone;
use mraft::{Answer, GroupRecord, NotApplied, Proposal, ReadKind, Ticket};
use mraft_disk::MemoryDisk;
use mraft_disk::memory::Faults;
use mraft_engine::event::{Event, NodeEvent, Now};
use mraft_engine::packing::NO_SLOT;
use mraft_types::codec::Writer;
use mraft_types::{DeploymentId, GroupId, Member, Membership, NodeId, Payload, ReplicaId, Role, SlotSet};
use mraft_wire::{FRAME_HEADER_BYTES, FrameBuilder, Packet, PacketReader};

use crate::check::{Broken, Checks, Learned};
use crate::clients::{Asked, Client, Wish, draw, next_node};
use crate::faults::Mix;
use crate::machine::{decode_answer, decode_stored};
use crate::network::Network;
use crate::node::{ELECTION_TICKS, Node};
use crate::planted::Planted;
use crate::random::Random;

/// Length of a tick in microseconds of virtual time.
const TICK_US: u64 = 10_000;
/// The calm phase must bring everything back within so many election timeouts.
const CALM_ELECTIONS: u64 = 40;
/// How long a client waits for an answer, in ticks.
const CLIENT_PATIENCE_TICKS: u64 = 100;

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Operations that clients finished.
    pub operations: u64,
    /// Acknowledged changes.
    pub acknowledged: u64,
    /// Processes killed.
    pub crashes: u64,
    /// Partitions made.
    pub partitions: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Log segments recycled.
    pub segments_recycled: u64,
    /// Groups whose voters were all found to have the same state in the end (rule E8).
    pub groups_compared: u64,
    /// Hash of everything that happened, in order.
    pub trace: u64,
    /// The promise that broke.
    pub broken: Option<Broken>,
}

enum Action {
    Tick(usize, u64),
    Deliver { to: usize, from: NodeId, frame: Vec<u8> },
    LogDone(usize, u64),
    ApplyDone(usize, u64),
    Job(usize, u64),
    Report { to: usize, report: HashReport },
    Mail { node: usize, boot: u64, mail: Box<ApplyMail> },
    LogRead { node: usize, boot: u64, order: LogReadOrder },
    Snapshot { to: usize, from: usize, from_boot: u64, send: Box<Transfer> },
    Client(usize),
    Answer { client: usize, series: u64, answer: Answer },
    Crash,
    Restart(usize, u64),
    Partition,
    Calm,
}

struct Transfer {
    group: GroupId,
    order: mraft::core::SnapshotOrder,
    meta: GroupMeta,
    chunks: Vec<Vec<u8>>,
}

struct World {
    mix: Mix,
    planted: Option<Planted>,
    random: Random,
    now_us: u64,
    next_id: u64,
    calendar: BinaryHeap<Reverse<(u64, u64)>>,
    actions: BTreeMap<u64, Action>,
    nodes: Vec<Node>,
    ids: Vec<NodeId>,
    network: Network,
    clients: Vec<Client>,
    values: u64,
    checks: Checks,
    report: Report,
    calm: bool,
    /// The calm phase's clients stop at this many operations each, so that the end is quiet.
    written_in_calm: BTreeSet<GroupId>,
}

/// Runs one seed from beginning to end.
pub fn run(seed: u64, planted: Option<Planted>) -> Report {
    let mut world = World::new(seed, planted);
    let result = world.run();
    world.finish(result)
}

impl World {
    fn new(seed: u64, planted: Option<Planted>) -> World {
        let mut random = Random::new(seed);
        let mix = Mix::draw(&mut random);
        let ids: Vec<NodeId> = (1..=mix.nodes as u64).filter_map(NodeId::new).collect();
        let mut nodes: Vec<Node> = ids
            .iter()
            .map(|id| Node {
                id: *id,
                disk: MemoryDisk::new(),
                boot: 0,
                process: None,
                records: Vec::new(),
                segments_recycled: 0,
            })
            .collect();
        for group in 0..mix.groups {
            let members: Vec<NodeId> =
                (0..mix.replicas).map(|at| ids[(group as usize + at) % ids.len()]).collect();
            let genesis = founding(GroupId(group), &members);
            for node in nodes.iter_mut().filter(|node| members.contains(&node.id)) {
                node.records.push(GroupRecord {
                    group: GroupId(group),
                    uid: genesis.uid,
                    replica: ReplicaId::new(0, node.id),
                    genesis: Some(genesis.clone()),
                    machine: "map".to_owned(),
                });
            }
        }
        World {
            network: Network::new(mix.quality),
            clients: vec![Client::default(); mix.clients as usize],
            mix,
            planted,
            random,
            now_us: 0,
            next_id: 0,
            calendar: BinaryHeap::new(),
            actions: BTreeMap::new(),
            nodes,
            ids,
            values: 0,
            checks: Checks::default(),
            report: Report { seed, ..Report::default() },
            calm: false,
            written_in_calm: BTreeSet::new(),
        }
    }

    fn run(&mut self) -> Result<(), Broken> {
        for node in 0..self.nodes.len() {
            self.start(node)?;
        }
        for client in 0..self.clients.len() {
            let wait = self.random.between(0, 100_000);
            self.after(wait, Action::Client(client));
        }
        self.after(self.mix.crash_every_us, Action::Crash);
        self.after(self.mix.partition_every_us, Action::Partition);
        self.after(self.mix.safety_us, Action::Calm);
        let end = self.mix.safety_us + CALM_ELECTIONS * u64::from(ELECTION_TICKS) * TICK_US;
        while let Some(Reverse((at, id))) = self.calendar.pop() {
            if at > end {
                break;
            }
            let Some(action) = self.actions.remove(&id) else { continue };
            self.now_us = at;
            self.trace(at ^ id);
            self.happen(action)?;
        }
        self.check_end()
    }

    fn happen(&mut self, action: Action) -> Result<(), Broken> {
        match action {
            Action::Tick(node, boot) => self.tick(node, boot),
            Action::Deliver { to, from, frame } => self.deliver(to, from, frame),
            Action::LogDone(node, boot) => self.log_done(node, boot),
            Action::ApplyDone(node, boot) => self.apply_done(node, boot),
            Action::Job(node, boot) => self.run_job(node, boot),
            Action::Report { to, report } => {
                let Some(process) = self.nodes[to].process.as_mut() else { return Ok(()) };
                let event = Event::PeerHashed { uid: report.uid, from: report.from, hash: report.hash };
                process.core.handle(Input::Group(report.group, event));
                self.pump(to)
            }
            Action::Mail { node, boot, mail } => {
                let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
                process.mail.push(*mail);
                let start_apply = !process.apply_busy;
                process.apply_busy = true;
                if start_apply {
                    self.after(1, Action::ApplyDone(node, boot));
                }
                Ok(())
            }
            Action::LogRead { node, boot, order } => {
                let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
                let reader = process.log.store().reader();
                let entries =
                    reader.entries(order.key, order.first, order.last, order.max_bytes).unwrap_or_default();
                process.core.handle(log_read_input(&order, entries));
                self.pump(node)
            }
            Action::Snapshot { to, from, from_boot, send } => {
                self.receive_snapshot(to, from, from_boot, *send)
            }
            Action::Client(client) => self.ask(client),
            Action::Answer { client, series, answer } => self.answered(client, series, answer),
            Action::Crash => self.crash_some(),
            Action::Restart(node, boot) => {
                if self.nodes[node].boot == boot && self.nodes[node].process.is_none() {
                    self.start(node)?;
                }
                Ok(())
            }
            Action::Partition => {
                if !self.calm {
                    if self.random.per_mille(400) {
                        self.network.heal();
                    } else {
                        self.network.partition(&self.ids, &mut self.random);
                    }
                    let wait = self.random.between(1, 2 * self.mix.partition_every_us);
                    self.after(wait, Action::Partition);
                }
                Ok(())
            }
            Action::Calm => {
                self.calm = true;
                self.network.heal();
                self.network.set_quality(self.mix.calm_quality());
                for node in 0..self.nodes.len() {
                    if self.nodes[node].process.is_none() {
                        self.start(node)?;
                    }
                }
                Ok(())
            }
        }
    }

    fn start(&mut self, node: usize) -> Result<(), Broken> {
        let salt = self.random.draw();
        let result = self.nodes[node].start(&self.mix, self.planted, salt);
        result.map_err(|reason| Broken {
            promise: "a node comes back from its own disk",
            how: format!("node {} does not start: {reason}", self.ids[node]),
        })?;
        if self.planted == Some(Planted::SkippedSync) {
            self.nodes[node].disk.set_faults(Faults { ignore_syncs: true, ..Faults::default() });
        }
        let boot = self.nodes[node].boot;
        let wait = self.random.between(1, TICK_US);
        self.after(wait, Action::Tick(node, boot));
        self.pump(node)
    }

    fn tick(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let random = self.random.draw();
        let now = self.now(node);
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        process.tick += 1;
        process.core.set_now(Now { tick: process.tick, ..now });
        process.core.handle(Input::Node(NodeEvent::Tick { random }));
        self.after(TICK_US, Action::Tick(node, boot));
        self.pump(node)
    }

    fn deliver(&mut self, to: usize, from: NodeId, frame: Vec<u8>) -> Result<(), Broken> {
        let own = self.ids[to];
        let Some(process) = self.nodes[to].process.as_mut() else { return Ok(()) };
        let payload = Payload::copy_from(&frame[FRAME_HEADER_BYTES..]);
        let broken = |error: mraft_wire::DecodeError| Broken {
            promise: "what one node sends, another understands",
            how: error.to_string(),
        };
        for packet in PacketReader::new(&payload, from, own).map_err(broken)? {
            if let Packet::Raft { group, uid, message } = packet.map_err(broken)? {
                process.core.handle(Input::Group(group, Event::Message { uid, message }));
            }
        }
        self.pump(to)
    }

    /// Lets a node decide as long as it has something to decide, and carries out what it asks for.
    fn pump(&mut self, node: usize) -> Result<(), Broken> {
        loop {
            let now = self.now(node);
            let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
            if process.core.is_idle() {
                break;
            }
            process.core.set_now(Now { tick: process.tick, ..now });
            let output = process.core.turn();
            self.carry_out(node, output)?;
        }
        self.check_groups(node)
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), Broken> {
        let (own, boot) = (self.ids[node], self.nodes[node].boot);
        for (to, messages) in output.messages {
            let mut builder = FrameBuilder::new(own, to);
            for envelope in &messages {
                // A message that no frame takes is lost, as it would be on the wire.
                let _ = builder.push_raft(envelope.group, envelope.uid, &envelope.message);
            }
            let Some(frame) = builder.finish() else { continue };
            let Some(at) = self.ids.iter().position(|id| *id == to) else { continue };
            for delay in self.network.send(own, to, &mut self.random) {
                self.after(delay, Action::Deliver { to: at, from: own, frame: frame.clone() });
            }
        }
        for report in output.reports {
            let Some(at) = self.ids.iter().position(|id| *id == report.to.node()) else { continue };
            for delay in self.network.send(own, report.to.node(), &mut self.random) {
                self.after(delay, Action::Report { to: at, report });
            }
        }
        for order in output.log_reads {
            let wait = self.random.between(10, self.mix.disk_us_max);
            self.after(wait, Action::LogRead { node, boot, order });
        }
        for (group, notice) in &output.notices {
            if let mraft_engine::effect::Notice::Panicked { message } = notice {
                return Err(Broken {
                    promise: "nothing panics",
                    how: format!("group {group} on node {own}: {message}"),
                });
            }
        }
        for (ticket, answer) in output.answers {
            self.answer(ticket, answer);
        }
        let disk_us = self.random.between(50, self.mix.disk_us_max);
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        if self.planted == Some(Planted::EarlyAcknowledge) {
            for job in &output.log {
                if let mraft::persist::LogJob::Write { group, number, .. } = job {
                    process.core.handle(Input::Log(LogDone::Persisted { group: *group, number: *number }));
                }
            }
        }
        process.log_jobs.extend(output.log);
        process.mail.extend(output.applies.into_iter().map(|(group, order)| ApplyMail::Order(group, order)));
        let start_log = !process.log_busy && !process.log_jobs.is_empty();
        process.log_busy |= start_log;
        let start_apply = !process.apply_busy && !process.mail.is_empty();
        process.apply_busy |= start_apply;
        if start_log {
            self.after(disk_us, Action::LogDone(node, boot));
        }
        if start_apply {
            self.after(disk_us / 4 + 1, Action::ApplyDone(node, boot));
        }
        Ok(())
    }

    /// A write to the log ends: it takes everything that waited meanwhile, as the log thread does.
    fn log_done(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let disk_us = self.random.between(50, self.mix.disk_us_max);
        let planted = self.planted;
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let mut done = Vec::new();
        let jobs = std::mem::take(&mut process.log_jobs);
        let (health, _) = process.log.run(jobs, &mut done);
        if !matches!(health, mraft::persist::LogHealth::Well) {
            return Err(Broken { promise: "the log works on a healthy disk", how: format!("{health:?}") });
        }
        let (health, _) = process.log.maintain();
        if !matches!(health, mraft::persist::LogHealth::Well) {
            return Err(Broken { promise: "the log works on a healthy disk", how: format!("{health:?}") });
        }
        for done in done {
            if let LogDone::Refused { group, reason } = done {
                return Err(Broken {
                    promise: "the log takes every write",
                    how: format!("group {group}: {reason}"),
                });
            }
            if planted == Some(Planted::EarlyAcknowledge) && matches!(done, LogDone::Persisted { .. }) {
                continue;
            }
            process.core.handle(Input::Log(done));
        }
        process.log_busy = !process.log_jobs.is_empty();
        let again = process.log_busy;
        if again {
            self.after(disk_us, Action::LogDone(node, boot));
        }
        self.pump(node)
    }

    fn apply_done(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let disk_us = self.random.between(50, self.mix.disk_us_max);
        let own = self.ids[node];
        let planted = self.planted;
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let mut out = ApplyOutput::default();
        for mail in std::mem::take(&mut process.mail) {
            process.apply.handle(mail, &mut out);
        }
        process.apply.finish(&mut out);
        process.apply_busy = false;
        if let Some((group, reason)) = out.failed.first() {
            return Err(Broken {
                promise: "no committed entry stops a replica",
                how: format!("group {group} on node {own}: {reason}"),
            });
        }
        let mut chains = Vec::new();
        for (group, input) in out.inputs {
            let input = match input {
                Input::Applied { group, index, disputed, .. }
                    if planted == Some(Planted::EarlyTruncation) =>
                {
                    Input::Applied { group, index, persisted: index, disputed }
                }
                other => other,
            };
            self.report.snapshots_installed += u64::from(matches!(input, Input::Switched { .. }));
            if let Some(applier) = process.apply.applier(group) {
                chains.push((group, applier.meta().applied.index, applier.meta().chain));
            }
            process.core.handle(input);
        }
        let start_jobs = process.jobs.is_empty() && !out.jobs.is_empty();
        process.jobs.extend(out.jobs);
        for (group, index, chain) in chains {
            self.checks.applied(group, own, index, chain)?;
        }
        for (ticket, answer) in out.answers {
            self.answer(ticket, answer);
        }
        if start_jobs {
            self.after(4 * disk_us, Action::Job(node, boot));
        }
        for (group, view) in out.hashes {
            let mail = Box::new(ApplyMail::Hashed(group, view.run()));
            self.after(4 * disk_us, Action::Mail { node, boot, mail });
        }
        for send in out.sends {
            self.send_snapshot(node, boot, send);
        }
        self.pump(node)
    }

    fn run_job(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let disk_us = self.random.between(50, self.mix.disk_us_max);
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let Some((group, job)) = process.jobs.pop_front() else { return Ok(()) };
        process.mail.push(ApplyMail::BackgroundDone(group, job.run()));
        let (more, start_apply) = (!process.jobs.is_empty(), !process.apply_busy);
        process.apply_busy = true;
        if more {
            self.after(4 * disk_us, Action::Job(node, boot));
        }
        if start_apply {
            self.after(1, Action::ApplyDone(node, boot));
        }
        Ok(())
    }

    fn send_snapshot(&mut self, from: usize, from_boot: u64, mut send: SnapshotSend) {
        let mut chunks = Vec::new();
        loop {
            let mut chunk = Vec::new();
            match send.view.next_chunk(512, &mut chunk) {
                Ok(true) => chunks.push(chunk),
                Ok(false) | Err(_) => break,
            }
        }
        let Some(to) = self.ids.iter().position(|id| *id == send.order.to.node()) else { return };
        let wait = self.random.between(1_000, 60_000);
        let send = Box::new(Transfer { group: send.group, order: send.order, meta: send.meta, chunks });
        self.after(wait, Action::Snapshot { to, from, from_boot, send });
    }

    /// The end of a transfer: it arrives whole when both processes still run and the path is open, and not at all otherwise.
    fn receive_snapshot(
        &mut self,
        to: usize,
        from: usize,
        from_boot: u64,
        send: Transfer,
    ) -> Result<(), Broken> {
        let open = self.network.connected(self.ids[from], self.ids[to]) && !self.random.per_mille(100);
        let arrived = open && self.nodes[to].process.is_some() && self.stage(to, &send)?;
        if let Some(process) = running(&mut self.nodes, from, from_boot) {
            let event = Event::SnapshotSent { to: send.order.to, ok: arrived };
            process.core.handle(Input::Group(send.group, event));
            self.pump(from)?;
        }
        self.pump(to)
    }

    fn stage(&mut self, to: usize, send: &Transfer) -> Result<bool, Broken> {
        let Some(process) = self.nodes[to].process.as_mut() else { return Ok(false) };
        process.staged += 1;
        let directory = process.staged;
        let Some(applier) = process.apply.applier(send.group) else { return Ok(false) };
        let staged = applier.machine().stage(directory, &send.meta.encode()).and_then(|mut stage| {
            for chunk in &send.chunks {
                stage.write_chunk(chunk)?;
            }
            stage.finish()
        });
        if let Err(error) = staged {
            return Err(Broken {
                promise: "a snapshot that arrives whole can be staged",
                how: error.to_string(),
            });
        }
        process.core.handle(Input::Staged {
            group: send.group,
            from: send.order.from,
            term: send.order.term,
            start: send.meta.log_start(),
            directory,
        });
        Ok(true)
    }

    fn crash_some(&mut self) -> Result<(), Broken> {
        if self.calm {
            return Ok(());
        }
        let victims = match self.random.between(0, 9) {
            0 => self.nodes.len(),
            1..=2 => self.nodes.len() / 2 + 1,
            _ => 1,
        };
        let first = self.random.index(self.nodes.len());
        for at in 0..victims {
            self.crash((first + at) % self.nodes.len());
        }
        let wait = self.random.between(1, 2 * self.mix.crash_every_us);
        self.after(wait, Action::Crash);
        Ok(())
    }

    /// Kills a process, perhaps in the middle of a write, perhaps with the power.
    fn crash(&mut self, node: usize) {
        let Some(mut process) = self.nodes[node].process.take() else { return };
        self.report.crashes += 1;
        let disk = self.nodes[node].disk.clone();
        if process.log_busy && self.random.per_mille(700) {
            // The write had begun: it gets through to some operation and no further.
            let cut = self.random.between(0, 4);
            disk.fail_from_operation(disk.operations() + cut);
            let jobs = std::mem::take(&mut process.log_jobs);
            let _ = process.log.run(jobs, &mut Vec::new());
        }
        self.nodes[node].segments_recycled += process.log.store().status().segments_recycled;
        drop(process);
        if self.random.per_mille(self.mix.power_per_mille) {
            disk.crash(self.random.draw());
        } else {
            disk.kill();
        }
        let boot = self.nodes[node].boot;
        for at in 0..self.clients.len() {
            let asked = self.clients[at].asked;
            if asked.is_some_and(|asked| asked.node == self.ids[node] && asked.boot == boot) {
                let series = self.clients[at].series;
                let answer = Answer::Unknown(mraft::Unknown::ConnectionLost);
                self.after(1, Action::Answer { client: at, series, answer });
            }
        }
        let wait = self.random.between(10_000, 1_500_000);
        self.after(wait, Action::Restart(node, boot));
    }

    fn ask(&mut self, client: usize) -> Result<(), Broken> {
        let (group, wish) =
            draw(&self.mix, &mut self.random, &mut self.values, |group, key| self.checks.floor(group, key));
        let key = match wish {
            Wish::Write(op) => {
                self.checks.asks(&op);
                op.key()
            }
            Wish::Read(key) => key,
        };
        let node = match self.clients[client].leader {
            Some((known, node)) if known == group => node,
            _ => self.ids[self.random.index(self.ids.len())],
        };
        let floor = self.checks.floor(group, key);
        self.clients[client].series += 1;
        self.clients[client].asked = Some(Asked { group, wish, floor, node, attempts: 0, boot: 0 });
        self.send_wish(client)
    }

    /// Hands the client's operation to its node, if that runs.
    fn send_wish(&mut self, client: usize) -> Result<(), Broken> {
        let Some(mut asked) = self.clients[client].asked else { return Ok(()) };
        let series = self.clients[client].series;
        let ticket = Ticket((client as u64) << 32 | series);
        let Some(at) = self.ids.iter().position(|id| *id == asked.node) else { return Ok(()) };
        asked.boot = self.nodes[at].boot;
        self.clients[client].asked = Some(asked);
        let Some(process) = self.nodes[at].process.as_mut() else {
            let answer = Answer::NotApplied(NotApplied::Stopping);
            self.after(1_000, Action::Answer { client, series, answer });
            return Ok(());
        };
        let deadline_tick = process.tick + CLIENT_PATIENCE_TICKS;
        let event = match asked.wish {
            Wish::Write(op) => {
                let body = Payload::from(op.encode());
                Event::Propose(vec![Proposal { ticket, slot: NO_SLOT, deadline_tick, body }])
            }
            Wish::Read(_) => {
                let leads = process.core.engine().raft(asked.group).is_some_and(|raft| raft.is_leader());
                if self.planted == Some(Planted::ReadWithoutRound) && leads {
                    let index = 0;
                    self.after(1, Action::Answer { client, series, answer: Answer::ReadReady { index } });
                    return Ok(());
                }
                Event::Read { kind: ReadKind::Linearizable, tickets: vec![ticket], deadline_tick }
            }
        };
        process.core.handle(Input::Group(asked.group, event));
        self.pump(at)
    }

    fn answer(&mut self, ticket: Ticket, answer: Answer) {
        let (client, series) = ((ticket.0 >> 32) as usize, ticket.0 & u64::from(u32::MAX));
        if client >= self.clients.len() {
            return;
        }
        // A read is looked up on the node at once; a write's answer needs a moment to reach the client.
        let wait = if matches!(answer, Answer::ReadReady { .. }) { 0 } else { self.random.between(10, 500) };
        self.after(wait, Action::Answer { client, series, answer });
    }

    fn answered(&mut self, client: usize, series: u64, answer: Answer) -> Result<(), Broken> {
        if self.clients[client].series != series {
            return Ok(());
        }
        let Some(asked) = self.clients[client].asked else { return Ok(()) };
        let group = asked.group;
        let mut retry = None;
        match (&asked.wish, &answer) {
            (Wish::Write(op), Answer::Applied { result, .. }) => {
                let Some((changed, revision)) = decode_answer(result) else {
                    return Err(Broken {
                        promise: "outcomes are honest",
                        how: "an answer that nobody can read".to_owned(),
                    });
                };
                let learned = if changed { Learned::Changed(revision) } else { Learned::Unchanged(revision) };
                self.checks.learned(group, op.key(), Some(op), asked.floor, learned)?;
                if self.calm {
                    self.written_in_calm.insert(group);
                }
                self.clients[client].leader = Some((group, asked.node));
            }
            (Wish::Read(key), Answer::ReadReady { .. }) => {
                let Some(at) = self.ids.iter().position(|id| *id == asked.node) else { return Ok(()) };
                if let Some(process) = running(&mut self.nodes, at, asked.boot) {
                    let mut query = Vec::new();
                    query.put_u64(*key);
                    let mut found = Vec::new();
                    let looked = process.lookups.get(&group).map(|lookup| lookup.query(&query, &mut found));
                    if let (Some(Ok(())), Some(stored)) = (looked, decode_stored(&found)) {
                        self.checks.learned(group, *key, None, asked.floor, Learned::Saw(stored))?;
                    }
                }
            }
            (_, Answer::NotApplied(NotApplied::NotLeader(hint))) => retry = Some(*hint),
            (_, Answer::NotApplied(NotApplied::Transferring(to))) => retry = Some(Some(*to)),
            (_, Answer::NotApplied(_)) => retry = Some(None),
            _ => {}
        }
        if let Some(hint) = retry {
            self.clients[client].leader = None;
            if asked.attempts < 5 {
                let node = next_node(hint, &self.ids, &mut self.random);
                self.clients[client].asked = Some(Asked { node, attempts: asked.attempts + 1, ..asked });
                return self.send_wish(client);
            }
            if let Wish::Write(op) = &asked.wish {
                self.checks.refused(op)?;
            }
        }
        self.report.operations += 1;
        self.clients[client].asked = None;
        let wait = self.random.between(100, 20_000);
        self.after(wait, Action::Client(client));
        Ok(())
    }

    fn check_groups(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        for group in process.core.engine().group_ids() {
            let Some(raft) = process.core.engine().raft(group) else { continue };
            if raft.is_leader() {
                self.checks.leads(group, raft.term(), raft.id())?;
            }
            if let Some(reason) = raft.condemned() {
                return Err(Broken {
                    promise: "no replica is condemned without damage",
                    how: format!("group {group} on node {}: {reason}", self.ids[node]),
                });
            }
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), Broken> {
        for group in (0..self.mix.groups).map(GroupId) {
            if !self.written_in_calm.contains(&group) {
                return Err(Broken {
                    promise: "every group comes back in the calm",
                    how: format!(
                        "group {group} took no write within {CALM_ELECTIONS} election timeouts after everything healed"
                    ),
                });
            }
        }
        for (group, key) in self.checks.keys() {
            // The most that was applied anywhere must hold everything acknowledged.
            let mut best = None;
            for node in &self.nodes {
                let Some(lookup) = node.process.as_ref().and_then(|process| process.lookups.get(&group))
                else {
                    continue;
                };
                let (mut query, mut found) = (Vec::new(), Vec::new());
                query.put_u64(key);
                if lookup.query(&query, &mut found).is_err() {
                    continue;
                }
                if let Some(stored) = decode_stored(&found)
                    && best.is_none_or(|(_, known): (NodeId, crate::machine::Stored)| {
                        known.revision < stored.revision
                    })
                {
                    best = Some((node.id, stored));
                }
            }
            if let Some((node, stored)) = best {
                self.checks.survives(group, key, node, stored)?;
            }
        }
        Ok(())
    }

    fn finish(mut self, result: Result<(), Broken>) -> Report {
        self.report.broken = result.err();
        self.report.acknowledged = self.checks.acknowledged;
        self.report.partitions = self.network.partitions;
        let compared = |group: GroupId| {
            let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
            running.filter_map(|process| process.core.engine().compared(group)).any(|(index, _)| index > 0)
        };
        self.report.groups_compared =
            (0..self.mix.groups).filter(|group| compared(GroupId(*group))).count() as u64;
        let running = |node: &Node| {
            node.process.as_ref().map_or(0, |process| process.log.store().status().segments_recycled)
        };
        self.report.segments_recycled =
            self.nodes.iter().map(|node| node.segments_recycled + running(node)).sum();
        self.report
    }

    fn now(&self, node: usize) -> Now {
        let skew = node as u64 * 1_700;
        Now {
            tick: 0,
            monotonic_ms: self.now_us / 1000,
            unix_ms: 1_700_000_000_000 + skew + self.now_us / 1000,
        }
    }

    fn after(&mut self, wait_us: u64, action: Action) {
        let id = self.next_id;
        self.next_id += 1;
        self.actions.insert(id, action);
        self.calendar.push(Reverse((self.now_us + wait_us, id)));
    }

    fn trace(&mut self, number: u64) {
        self.report.trace = (self.report.trace.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

fn running(nodes: &mut [Node], node: usize, boot: u64) -> Option<&mut crate::node::Process> {
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
