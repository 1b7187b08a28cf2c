// SPDX-License-Identifier: Apache-2.0

//! What the threads of a host do, one step at a time: turns, the log, the state machines, background work.
//!
//! What touches the disk may be where the process dies ([`World::dies`]): then nothing that follows from it leaves the node.

use mraft::apply_worker::{ApplyMail, ApplyOutput};
use mraft::core::{Envelope, HashReport, Input, LogReadOrder, Output, log_read_input, read_back};
use mraft::persist::{LogDone, LogHealth, LogJob};
use mraft::{Answer, NotApplied, Ticket};
use mraft_engine::effect::Notice;
use mraft_engine::event::{Event, NodeEvent};
use mraft_logstore::Fill;
use mraft_raft::ReadBack;
use mraft_types::{CondemnedReason, NodeId, Payload};
use mraft_wire::{FRAME_HEADER_BYTES, FrameBuilder, FrameReader, Packet, PacketReader};

use super::crashes::INSTALL_OPERATIONS;
use super::lies::Heard;
use super::slow_disks::Beat;
use super::{Action, World, running};
use crate::check::{Broken, promise};
use crate::node::SEGMENTS_TARGET;

/// A seal follows within this time after writing stops (rule L3).
const SEAL_AFTER_US: u64 = 25_000;
/// A write to the log is a write and a sync.
const LOG_WRITE_OPERATIONS: u64 = 1;
/// How often a full disk is tried again.
const FULL_RETRY_US: u64 = 200_000;
/// Ticks between two host heartbeats.
pub(super) const BEAT_TICKS: u64 = 5;
/// One of so many orders to read old entries finds the queue full.
const READS_PER_FULL_QUEUE: u64 = 8;
/// An operator looks after a node whose replicas stopped within this time.
const OPERATOR_US_MAX: u64 = 1_000_000;

impl World {
    pub(super) fn tick(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let random = self.random.time.draw();
        let (now, now_us) = (self.now(node), self.now_us);
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        process.tick += 1;
        let tick = process.tick;
        process.core.set_now(mraft_engine::event::Now { tick, ..now });
        process.core.handle(Input::Node(NodeEvent::Tick { random }));
        if process.pauses.stood_still(now.monotonic_ms) {
            process.went_on_us = now_us;
        }
        self.after(self.mix.own[node].tick_us, Action::Tick(node, boot));
        if tick.is_multiple_of(BEAT_TICKS) {
            self.beat(node, now.unix_ms)?;
            self.judge_disk(node)?;
        }
        self.pump(node)?;
        self.check_replicas(node)?;
        self.check_sleeping_leaders(node)?;
        self.check_sleepers(node)
    }

    /// A host tells its clock to all others (rule E1), and where groups sleep its life (rule Q2).
    fn beat(&mut self, node: usize, unix_ms: u64) -> Result<(), Broken> {
        let own = self.ids[node];
        let life = self.nodes[node].life().filter(|_| self.mix.quiesce_after_ticks.is_some());
        let life = life.map(|life| NodeEvent::PeerLife { node: own, life });
        let beat = Beat { from: own, unix_ms, disk_waited_ms: self.disk_waited_ms(node).0 };
        let durable_seq = self.nodes[node].process.as_ref().map_or(0, |own| own.log.store().durable_seq());
        for at in (0..self.nodes.len()).filter(|at| *at != node) {
            if !self.are_linked(node, at)? {
                continue;
            }
            if self.network.connected(own, self.ids[at]) {
                let table = self.nodes[at].process.as_ref().and_then(|process| process.table.as_ref());
                table.into_iter().for_each(|table| table.heard(own, durable_seq));
            }
            for delay in self.network.send(self.now_us, own, self.ids[at], &mut self.random.network) {
                self.after(delay, Action::Beat { to: at, boot: self.nodes[at].boot, beat });
                if let Some(event) = life {
                    self.after(delay, Action::Told { node: at, event });
                }
            }
        }
        life.map_or(Ok(()), |event| self.told(node, event))
    }

    pub(super) fn deliver(&mut self, to: usize, boot: u64, from: NodeId, frame: &[u8]) -> Result<(), Broken> {
        let own = self.ids[to];
        self.trace_bytes(frame);
        if running(&mut self.nodes, to, boot).is_none() {
            return Ok(());
        }
        let Some(payload) = self.read_frame(to, from, frame) else { return Ok(()) };
        let Some(process) = self.nodes[to].process.as_mut() else { return Ok(()) };
        let broken =
            |error: mraft_wire::DecodeError| Broken { promise: promise::UNDERSTOOD, how: error.to_string() };
        let mut heard = Vec::new();
        for packet in PacketReader::new(&payload, from, own).map_err(broken)? {
            if let Packet::Raft { group, uid, message } = packet.map_err(broken)? {
                heard.extend(Heard::of(&message).map(|heard| (group, heard)));
                process.core.handle(Input::Group(group, Event::Message { uid, message }));
            }
        }
        self.pump(to)?;
        heard.iter().try_for_each(|(group, heard)| self.check_remembered(to, *group, heard))
    }

    /// The payload of a frame as it came off the network; what is damaged ends the connection.
    fn read_frame(&mut self, to: usize, from: NodeId, frame: &[u8]) -> Option<Payload> {
        let mut frame = frame.to_vec();
        if !self.network.corrupt(&mut frame, &mut self.random.network) {
            return Some(Payload::copy_from(&frame[FRAME_HEADER_BYTES..]));
        }
        let mut reader = FrameReader::new();
        reader.hello_is_done();
        let mut rest = frame.as_slice();
        let read = loop {
            match reader.next_frame() {
                Ok(None) if rest.is_empty() => break None,
                Ok(None) => {
                    let buffer = reader.buffer();
                    let taken = buffer.len().min(rest.len());
                    buffer[..taken].copy_from_slice(&rest[..taken]);
                    rest = &rest[taken..];
                    reader.filled(taken);
                }
                Ok(Some(frame)) => break Some(frame.payload),
                Err(_) => break None,
            }
        };
        if read.is_none() {
            self.report.frames_refused += 1;
            let at = self.place_of(from)?;
            self.links.remove(&(at.min(to), at.max(to)));
            for (node, lost) in [(to, from), (at, self.ids[to])] {
                self.after(1, Action::Told { node, event: NodeEvent::PeerLost { node: lost } });
            }
        }
        read
    }

    pub(super) fn deliver_report(&mut self, to: usize, boot: u64, report: HashReport) -> Result<(), Broken> {
        let Some(process) = running(&mut self.nodes, to, boot) else { return Ok(()) };
        let event = Event::PeerHashed { uid: report.uid, from: report.from, hash: report.hash };
        process.core.handle(Input::Group(report.group, event));
        self.pump(to)
    }

    pub(super) fn read_log(&mut self, node: usize, boot: u64, order: LogReadOrder) -> Result<(), Broken> {
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let found = match order.order.is_multiple_of(READS_PER_FULL_QUEUE) {
            true => Ok(ReadBack::NotNow),
            false => read_back(&order, process.log.store().reader().as_ref()),
        };
        if self.dies(node) {
            return Ok(());
        }
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        match found {
            Ok(found) => process.core.handle(log_read_input(&order, found)),
            Err(reason) => self.mail(node, boot, ApplyMail::Fail(order.of, reason)),
        }
        self.pump(node)
    }

    /// Lets a node decide as long as it has something to decide, and carries out what it asks for.
    pub(super) fn pump(&mut self, node: usize) -> Result<(), Broken> {
        loop {
            let now = self.now(node);
            let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
            if process.core.is_idle() {
                break;
            }
            process.core.set_now(now);
            let output = process.core.turn();
            if process.log_failed {
                self.check_stopped(node, &output)?;
            }
            self.carry_out(node, output)?;
        }
        self.check_groups(node)
    }

    /// A node whose log failed takes part in nothing (rule D10).
    fn check_stopped(&self, node: usize, output: &Output) -> Result<(), Broken> {
        let is_serving =
            |(_, answer): &(Ticket, Answer)| !matches!(answer, Answer::NotApplied(_) | Answer::Unknown(_));
        let groups = self.nodes[node].process.as_ref().map_or(0, |p| p.core.engine().group_ids().count());
        let speaks = !output.messages.is_empty() || !output.reports.is_empty();
        if groups == 0 && !speaks && output.log.is_empty() && !output.answers.iter().any(is_serving) {
            return Ok(());
        }
        Err(Broken {
            promise: promise::FAILED_LOG_STOPS,
            how: format!(
                "node {} still has {groups} groups after its log failed, and asks for {output:?}",
                self.ids[node]
            ),
        })
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), Broken> {
        let (own, boot) = (self.ids[node], self.nodes[node].boot);
        self.check_spoken(node, &output)?;
        self.see(&output);
        for (to, messages) in output.messages {
            let mut builder = FrameBuilder::new(own, to);
            for envelope in &messages {
                // A message that no frame takes is lost, as it would be on the wire.
                let _ = builder.push_raft(envelope.group, envelope.uid, &envelope.message);
            }
            let Some(frame) = builder.finish() else { continue };
            let Some(at) = self.place_of(to) else { continue };
            if !self.are_linked(node, at)? {
                continue;
            }
            if self.transcript.is_some() {
                messages.iter().for_each(|envelope| self.say(|| told(envelope)));
            }
            let to_boot = self.nodes[at].boot;
            for delay in self.network.send(self.now_us, own, to, &mut self.random.network) {
                let frame = frame.clone();
                self.after(delay, Action::Deliver { to: at, boot: to_boot, from: own, frame });
            }
        }
        for report in output.reports {
            let Some(at) = self.place_of(report.to.node()) else { continue };
            if !self.are_linked(node, at)? {
                continue;
            }
            for delay in self.network.send(self.now_us, own, report.to.node(), &mut self.random.network) {
                self.after(delay, Action::Report { to: at, boot: self.nodes[at].boot, report });
            }
        }
        for order in output.log_reads {
            let wait = self.disk_us(node);
            self.after(wait, Action::LogRead { node, boot, order });
        }
        for (group, notice) in &output.notices {
            self.marks.see(notice);
            match notice {
                Notice::ElectionStarted(reason) => self.marks.see(reason),
                Notice::Panicked { message } => {
                    let how = format!("group {group} on node {own}: {message}");
                    return Err(Broken::new(promise::NOTHING_PANICS, how));
                }
                Notice::Removed { replica, .. } => {
                    let forget = Action::Forget { node, boot, group: *group, replica: *replica };
                    self.after(1, forget);
                }
                Notice::MembershipCommitted(membership) => self.note_membership(*group, membership),
                Notice::Condemned(reason) => {
                    self.marks.see(reason);
                    self.report.condemned += 1;
                    if *reason == CondemnedReason::Divergence
                        && let Some(process) = self.nodes[node].process.as_mut()
                    {
                        // As a host does: what is here is not the group's state.
                        process.lookups.remove(group);
                    }
                }
                _ => {}
            }
        }
        for (ticket, answer) in output.answers {
            self.answer(ticket, answer)?;
        }
        if output.log.iter().any(|job| matches!(job, LogJob::InstallStep { .. })) {
            self.arm_sometimes(node, self.mix.install_crash_per_mille, INSTALL_OPERATIONS);
        }
        let disk_us = self.disk_us(node);
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        process.log_jobs.extend(output.log);
        process.mail.extend(output.applies.into_iter().map(|(of, order)| ApplyMail::Order(of, order)));
        self.start_log(node, disk_us);
        self.start_apply(node, disk_us / 4 + 1);
        Ok(())
    }

    /// What a turn's output shows.
    fn see(&mut self, output: &Output) {
        output.messages.values().flatten().for_each(|envelope| self.marks.see(&envelope.message.body));
        output.applies.iter().for_each(|(_, order)| self.marks.see(order));
    }

    fn start_log(&mut self, node: usize, wait: u64) {
        let boot = self.nodes[node].boot;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !process.log_jobs.is_empty() {
            process.log_waits_since_us.get_or_insert(self.now_us);
        }
        if !process.log_busy && !process.log_jobs.is_empty() {
            process.log_busy = true;
            self.after(wait, Action::LogDone(node, boot));
        }
    }

    fn start_apply(&mut self, node: usize, wait: u64) {
        let boot = self.nodes[node].boot;
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !process.apply_busy && !process.mail.is_empty() {
            process.apply_busy = true;
            process.apply_waits_since_us = Some(self.now_us);
            self.after(wait, Action::ApplyDone(node, boot));
        }
    }

    /// A write to the log ends: it takes everything that waited meanwhile, and tidies up behind it, as the log thread does.
    pub(super) fn log_done(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        if running(&mut self.nodes, node, boot).is_some() && std::mem::take(&mut self.nodes[node].cuts_log) {
            let operations = self.random.crashes.between(0, LOG_WRITE_OPERATIONS);
            self.nodes[node].arm(operations);
        }
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        process.log_runs += 1;
        process.log_waits_since_us = None;
        let mut done = Vec::new();
        let jobs = std::mem::take(&mut process.log_jobs);
        let (health, run) = process.log.run(jobs, &mut done);
        if self.dies(node) {
            return Ok(());
        }
        self.log_health(node, health)?;
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        for done in done {
            if let LogDone::Refused { key, reason } = done {
                let how = format!("group {} on node {}: {reason}", key.group, self.ids[node]);
                return Err(Broken { promise: promise::LOG_TAKES_WRITES, how });
            }
            process.core.handle(Input::Log(done));
        }
        let (health, more) = process.log.maintain();
        process.log_more_to_tidy = more;
        process.log_seal_due |= run.batches > 0 || more;
        if self.dies(node) {
            return Ok(());
        }
        self.log_health(node, health)?;
        self.press(node);
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let (health, fill) = process.log.lend_fill();
        if self.dies(node) {
            return Ok(());
        }
        self.log_health(node, health)?;
        if let Some(fill) = fill {
            let wait = 4 * self.disk_us(node);
            self.after(wait, Action::Filled { node, boot, fill });
        }
        let disk_us = self.disk_us(node);
        if let Some(process) = running(&mut self.nodes, node, boot) {
            process.log_busy = false;
        }
        self.start_log(node, disk_us);
        self.wait_for_log_idle(node, boot, SEAL_AFTER_US);
        self.pump(node)
    }

    /// What the log does next if nothing comes for it.
    fn wait_for_log_idle(&mut self, node: usize, boot: u64, seal_after_us: u64) {
        let Some(process) = running(&mut self.nodes, node, boot) else { return };
        let run = process.log_runs;
        let wait = match (process.log_seal_due, process.log_more_to_tidy, process.log.waits()) {
            (true, ..) => seal_after_us,
            (false, true, _) => 1,
            (false, false, true) => FULL_RETRY_US,
            (false, false, false) => return,
        };
        self.after(wait, Action::LogIdle { node, boot, run });
    }

    /// Nothing came for the log for a while: the last batch gets its seal (rule L3), and what found no room is tried again.
    pub(super) fn log_idle(&mut self, node: usize, boot: u64, run: u64) -> Result<(), Broken> {
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        if process.log_runs != run || process.log_busy {
            return Ok(());
        }
        if process.log_seal_due {
            let (health, is_sealed) = process.log.seal();
            process.log_seal_due = !is_sealed;
            if self.dies(node) {
                return Ok(());
            }
            self.log_health(node, health)?;
        }
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        if process.log.waits() || process.log_more_to_tidy {
            process.log_busy = true;
            return self.log_done(node, boot);
        }
        self.wait_for_log_idle(node, boot, FULL_RETRY_US);
        self.pump(node)
    }

    /// A spare segment is filled, beside the log.
    pub(super) fn filled(&mut self, node: usize, boot: u64, fill: Fill) -> Result<(), Broken> {
        if running(&mut self.nodes, node, boot).is_none() {
            return Ok(());
        }
        let filled = fill.run();
        if self.dies(node) {
            return Ok(());
        }
        if let Some(process) = running(&mut self.nodes, node, boot) {
            process.log_jobs.push(LogJob::Filled(filled));
        }
        self.start_log(node, 1);
        Ok(())
    }

    /// What the log thread tells the others about its health, and what must be true of it.
    fn log_health(&mut self, node: usize, health: LogHealth) -> Result<(), Broken> {
        let boot = self.nodes[node].boot;
        let (faulty, may_fail) = (self.nodes[node].faulty, self.nodes[node].may_fail());
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        match health {
            LogHealth::Well if !process.log_full => Ok(()),
            LogHealth::Well => {
                process.log_full = false;
                process.full_since_us = None;
                process.core.handle(Input::LogFull(false));
                Ok(())
            }
            LogHealth::Full if !faulty.full => Err(Broken {
                promise: promise::LOG_WORKS,
                how: format!("node {} has no room on a disk that is not full", self.ids[node]),
            }),
            LogHealth::Full => {
                self.report.logs_full += u64::from(!process.log_full);
                process.log_full = true;
                process.full_since_us.get_or_insert(self.now_us);
                process.core.handle(Input::LogFull(true));
                Ok(())
            }
            LogHealth::Failed(error) if !may_fail => Err(Broken {
                promise: promise::LOG_WORKS,
                how: format!("node {} on a disk that fails nothing: {error}", self.ids[node]),
            }),
            LogHealth::Failed(_) => {
                self.report.logs_failed += 1;
                process.log_failed = true;
                process.core.handle(Input::StopAll(NotApplied::Disk("the log failed")));
                self.call_operator(node, boot);
                Ok(())
            }
        }
    }

    /// Asks for room when the log is too long or has none, as the log thread does (rule L5).
    fn press(&mut self, node: usize) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        let segments = process.log.store().status().segments_live;
        let is_pressed = segments > SEGMENTS_TARGET || process.log_full;
        if is_pressed && segments > process.log_pressed_at {
            process.log_pressed_at = segments;
            process.core.handle(Input::LogPressed(true));
            if !process.log_full {
                process.mail.push(ApplyMail::PersistAll);
                self.start_apply(node, 1);
            }
        } else if !is_pressed && process.log_pressed_at > 0 {
            process.log_pressed_at = 0;
            process.core.handle(Input::LogPressed(false));
        }
    }

    pub(super) fn call_operator(&mut self, node: usize, boot: u64) {
        let Some(process) = self.nodes[node].process.as_mut() else { return };
        if !std::mem::replace(&mut process.needs_restart, true) {
            let wait = self.random.time.between(1, OPERATOR_US_MAX);
            self.after(wait, Action::Operator(node, boot));
        }
    }

    pub(super) fn mail(&mut self, node: usize, boot: u64, mail: ApplyMail) {
        if let Some(process) = running(&mut self.nodes, node, boot) {
            process.mail.push(mail);
            self.start_apply(node, 1);
        }
    }

    pub(super) fn apply_done(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let disk_us = self.disk_us(node);
        let own = self.ids[node];
        let now_us = self.now_us;
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let mut out = ApplyOutput::default();
        for mail in process.take_mail(now_us) {
            process.apply.handle(mail, &mut out);
        }
        if process.apply.waits_for_room() && now_us - process.apply_tried_us >= FULL_RETRY_US {
            process.apply_tried_us = now_us;
            process.apply.retry(&mut out);
        }
        process.apply.finish(&mut out);
        let waits = process.apply.waits_for_room();
        let since_us = process.store_full_since_us.unwrap_or(now_us);
        process.store_full_since_us = waits.then_some(since_us);
        process.apply_busy = false;
        process.apply_waits_since_us = None;
        let retries = process.apply.waits_for_room() && !process.apply_retries;
        process.apply_retries |= retries;
        if self.dies(node) {
            return Ok(());
        }
        self.start_apply(node, disk_us / 4 + 1);
        if retries {
            self.after(FULL_RETRY_US, Action::ApplyRetry(node, boot));
        }
        self.report.stores_full += out.found_full;
        let mut applied = Vec::new();
        let mut is_at_abandoned = false;
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        for (group, input) in out.inputs {
            self.report.snapshots_installed += u64::from(matches!(input, Input::Switched { .. }));
            let is_outside = |raft| self.checks.is_outside(group, raft);
            if let Some(applier) = process.apply.applier(group)
                && !process.core.engine().raft(group).is_some_and(is_outside)
            {
                let meta = applier.meta();
                applied.push((group, meta.applied.index, meta.chain, meta.log_unix_ms));
                let (index, persisted) = (meta.applied.index, applier.persisted());
                is_at_abandoned |= process.is_at_abandoned(group, index, persisted, now_us);
            }
            process.core.handle(input);
        }
        for (of, reason) in out.failed {
            if !self.nodes[node].may_fail() {
                return Err(Broken {
                    promise: promise::NO_ENTRY_STOPS,
                    how: format!("group {} on node {own}: {reason}", of.group),
                });
            }
            self.report.stores_failed += 1;
            if let Some(process) = running(&mut self.nodes, node, boot) {
                process.core.handle(Input::StopOwn(of, NotApplied::Stopping));
            }
            self.call_operator(node, boot);
        }
        self.check_applied(node)?;
        for (group, index, chain, unix_ms) in applied {
            self.trace(chain as u64);
            self.checks.chains.applied(group, own, index, chain)?;
            self.check_log_time(group, index, unix_ms)?;
        }
        for (ticket, answer) in out.answers {
            self.answer(ticket, answer)?;
        }
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let start_jobs = process.jobs.is_empty() && !out.jobs.is_empty();
        process.jobs.extend(out.jobs);
        if start_jobs {
            self.after(4 * disk_us, Action::Job(node, boot));
        }
        for (of, view) in out.hashes {
            let mail = Box::new(ApplyMail::Hashed(of, view.run()));
            self.after(4 * disk_us, Action::Mail { node, boot, mail });
        }
        for send in out.sends {
            self.send_snapshot(node, boot, send);
        }
        if is_at_abandoned {
            self.arm_sometimes(node, 800, 2);
        }
        self.pump(node)
    }

    pub(super) fn run_job(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        let disk_us = self.disk_us(node);
        let Some(process) = running(&mut self.nodes, node, boot) else { return Ok(()) };
        let Some((of, job)) = process.jobs.pop_front() else { return Ok(()) };
        let more = !process.jobs.is_empty();
        let result = job.run();
        if self.dies(node) {
            return Ok(());
        }
        if more {
            self.after(4 * disk_us, Action::Job(node, boot));
        }
        self.mail(node, boot, ApplyMail::BackgroundDone(of, result));
        Ok(())
    }
}

/// A message, for the transcript.
fn told(envelope: &Envelope) -> String {
    let mraft_raft::Message { from, to, term, body } = &envelope.message;
    format!("group {}: {from} says to {to} in term {term}: {body:?}", envelope.group)
}
