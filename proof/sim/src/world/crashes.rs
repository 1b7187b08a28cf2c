// SPDX-License-Identifier: Apache-2.0

//! What goes wrong: processes that die, power that goes away, disks that are full or fail, paths that are cut.

use mraft::core::Input;
use mraft::{Answer, Unknown};
use mraft_engine::NOBODY;
use mraft_engine::event::{Event, NodeEvent};
use mraft_types::GroupId;

use super::{Action, TICK_US, TRANSFER_EVERY_US, World, running};
use crate::check::{Broken, promise};
use crate::planted::Planted;

/// A crash in the middle comes within so many disk operations.
const MIDDLE_OPERATIONS_MAX: u64 = 30;
/// An installation of a snapshot takes about so many disk operations, with the marks before and after it (rule N1).
pub(super) const INSTALL_OPERATIONS: u64 = 12;
/// A process opens its files within so many disk operations.
const START_OPERATIONS: u64 = 80;
/// A process that came back dies again within this time, now and then: what it found on the disk is then found once more.
const AGAIN_US_MAX: u64 = 600_000;

impl World {
    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        let salt = self.random.draw();
        if !self.calm && self.random.per_mille(50) {
            let operations = self.random.between(0, START_OPERATIONS);
            self.nodes[node].arm(operations);
        }
        let (own, mix) = (&self.mix.own[node], &self.mix);
        let result = self.nodes[node].start(own, mix, self.planted, salt, self.now_us);
        if self.nodes[node].died() {
            self.crash(node);
            return Ok(());
        }
        if let Err(reason) = result {
            if self.nodes[node].faulty.any() {
                self.end_process(node, None);
                return Ok(());
            }
            return Err(Broken {
                promise: promise::COMES_BACK,
                how: format!("node {} does not start: {reason}", self.ids[node]),
            });
        }
        if self.planted == Some(Planted::SkippedSync) {
            self.nodes[node].change_faults(|faults| faults.ignore_syncs = true);
        }
        let boot = self.nodes[node].boot;
        let wait = self.random.between(1, TICK_US);
        self.after(wait, Action::Tick(node, boot));
        let is_again = self.nodes[node].process.as_ref().is_some_and(|process| !process.abandoned.is_empty());
        if self.random.per_mille(if is_again { 500 } else { 150 }) {
            let wait = self.random.between(1, AGAIN_US_MAX);
            self.after(wait, Action::CrashOne(node, boot));
        }
        self.pump(node)
    }

    pub(super) fn crash_some(&mut self) {
        if self.calm {
            return;
        }
        let victims = match self.random.between(0, 9) {
            0 => self.nodes.len(),
            1..=2 => self.nodes.len() / 2 + 1,
            _ => 1,
        };
        let first = self.random.index(self.nodes.len());
        for at in 0..victims {
            self.draw_crash((first + at) % self.nodes.len());
        }
        let wait = self.random.between(1, 2 * self.mix.crash_every_us);
        self.after(wait, Action::Crash);
    }

    /// Kills a process: between two effects, or at one of its next disk operations.
    pub(super) fn draw_crash(&mut self, node: usize) {
        if self.nodes[node].process.is_none() {
            return;
        }
        if self.random.per_mille(self.mix.middle_per_mille) {
            let operations = self.random.between(0, MIDDLE_OPERATIONS_MAX);
            self.nodes[node].arm(operations);
        } else {
            self.crash(node);
        }
    }

    /// Lets a process die at one of its next disk operations, if the seed says so and it is not calm.
    pub(super) fn arm_sometimes(&mut self, node: usize, per_mille: u64, operations_max: u64) {
        if !self.calm && self.random.per_mille(per_mille) {
            let operations = self.random.between(0, operations_max);
            self.nodes[node].arm(operations);
        }
    }

    /// Whether the process just died in the middle of what it did with its disk. Then it is gone.
    pub(super) fn dies(&mut self, node: usize) -> bool {
        let died = self.nodes[node].died();
        if died {
            self.crash(node);
        }
        died
    }

    /// The process dies, perhaps with the power.
    fn crash(&mut self, node: usize) {
        self.report.crashes += 1;
        self.report.crashes_in_the_middle += u64::from(self.nodes[node].died());
        self.report.sleeping_leaders_killed += u64::from(self.nodes[node].has_sleeping_leader());
        let power = self.random.per_mille(self.mix.power_per_mille).then(|| self.random.draw());
        self.end_process(node, power);
        self.lose(node);
    }

    fn end_process(&mut self, node: usize, power_seed: Option<u64>) {
        self.nodes[node].end(power_seed);
        let boot = self.nodes[node].boot;
        for at in 0..self.clients.len() {
            let asked = self.clients[at].asked;
            if asked.is_some_and(|asked| asked.node == self.ids[node] && asked.boot == boot) {
                let series = self.clients[at].series;
                let answer = Answer::Unknown(Unknown::ConnectionLost);
                self.after(1, Action::Answer { client: at, series, answer });
            }
        }
        let wait = self.random.between(10_000, 1_500_000);
        self.after(wait, Action::Restart(node, boot));
    }

    /// The others see their connections break; most of them find that nobody answers at once and suspect the node (rule T5).
    fn lose(&mut self, lost: usize) {
        for at in 0..self.nodes.len() {
            if at == lost
                || !self.network.connected(self.ids[at], self.ids[lost])
                || self.random.per_mille(300)
            {
                continue;
            }
            let wait = self.random.between(100, 5_000);
            self.after(wait, Action::Told { node: at, event: NodeEvent::PeerLost { node: self.ids[lost] } });
            if self.random.per_mille(700) {
                let wait = wait + self.random.between(100, 20_000);
                let event = NodeEvent::NodeSuspected { node: self.ids[lost] };
                self.after(wait, Action::Told { node: at, event });
            }
        }
    }

    /// The transport tells a node something about another one.
    pub(super) fn told(&mut self, node: usize, event: NodeEvent) -> Result<(), Broken> {
        let now = self.now(node);
        let Some(process) = self.nodes[node].process.as_mut() else { return Ok(()) };
        self.report.suspicions += u64::from(matches!(event, NodeEvent::NodeSuspected { .. }));
        process.core.set_now(now);
        process.core.handle(Input::Node(event));
        self.pump(node)
    }

    /// Somebody restarts a process whose disk failed.
    pub(super) fn operator(&mut self, node: usize, boot: u64) -> Result<(), Broken> {
        if running(&mut self.nodes, node, boot).is_some() {
            self.end_process(node, None);
        }
        Ok(())
    }

    /// A disk is full for a while, or fails once.
    pub(super) fn disk_fault(&mut self) {
        if self.calm {
            return;
        }
        let node = self.random.index(self.nodes.len());
        if self.random.per_mille(700) {
            let used: u64 = self.nodes[node].disk.files().iter().map(|(_, bytes)| bytes).sum();
            let capacity = used + self.random.between(0, 64 << 10);
            self.nodes[node].faulty.full = true;
            self.nodes[node].change_faults(|faults| faults.capacity_bytes = Some(capacity));
            let wait = self.random.between(200_000, 4_000_000);
            self.after(wait, Action::DiskRoom(node));
        } else if self.nodes[node].process.is_some() {
            let operation = self.nodes[node].disk.operations() + self.random.between(0, 60);
            self.nodes[node].faulty.failing = true;
            self.nodes[node].change_faults(|faults| faults.once_at_operation = Some(operation));
        }
        let wait = self.random.between(1, 2 * self.mix.disk_fault_every_us);
        self.after(wait, Action::DiskFault);
    }

    pub(super) fn partition(&mut self) {
        if self.calm {
            return;
        }
        if self.random.per_mille(400) {
            self.network.heal();
        } else {
            self.network.partition(&self.ids, &mut self.random);
        }
        if self.random.per_mille(200) {
            // A process that was only slow is suspected too.
            let (at, suspect) = (self.random.index(self.ids.len()), self.random.index(self.ids.len()));
            if at != suspect {
                let event = NodeEvent::NodeSuspected { node: self.ids[suspect] };
                self.after(1, Action::Told { node: at, event });
            }
        }
        let wait = self.random.between(1, 2 * self.mix.partition_every_us);
        self.after(wait, Action::Partition);
    }

    /// Somebody moves the leadership of a group, wherever it is.
    pub(super) fn transfer_leadership(&mut self) -> Result<(), Broken> {
        if self.calm {
            return Ok(());
        }
        let wait = self.random.between(1, 2 * TRANSFER_EVERY_US);
        self.after(wait, Action::Transfer);
        let group = GroupId(self.random.draw() % self.mix.groups);
        let leads = |at: &usize| {
            let process = self.nodes[*at].process.as_ref();
            process.and_then(|process| process.core.engine().raft(group)).is_some_and(|raft| raft.is_leader())
        };
        let Some(node) = (0..self.nodes.len()).find(leads) else { return Ok(()) };
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.core.handle(Input::Group(group, Event::Transfer { ticket: NOBODY, to: None }));
        }
        self.pump(node)
    }

    /// Everything heals, and whoever is down, or has replicas that stopped, is started.
    pub(super) fn calm_down(&mut self) -> Result<(), Broken> {
        self.calm = true;
        self.network.heal();
        self.network.set_quality(self.mix.calm_quality());
        for node in 0..self.nodes.len() {
            let own = &mut self.nodes[node];
            own.crash_at = None;
            own.change_faults(|faults| {
                faults.all_from_operation = None;
                faults.once_at_operation = None;
                faults.capacity_bytes = None;
            });
            if own.process.is_some() && own.faulty.any() {
                self.end_process(node, None);
            }
            self.nodes[node].faulty = Default::default();
            if self.nodes[node].process.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }
}
