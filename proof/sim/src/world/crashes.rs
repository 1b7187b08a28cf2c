// SPDX-License-Identifier: Apache-2.0

//! What goes wrong: processes that die, power that goes away, disks that are full or fail, paths that are cut.

use std::cmp::Reverse;

use mraft::core::Input;
use mraft::{Answer, Unknown};
use mraft_engine::NOBODY;
use mraft_engine::event::{Event, NodeEvent};
use mraft_types::GroupId;

use super::damage::Part;
use super::probe::Owed;
use super::{Action, ELECTION_US, WRITTEN_ELECTIONS, World, running};
use crate::check::{Broken, promise};
use crate::mix::{Fault, Own, SANE_SKEW_MS, WILD_SKEW_MS};

/// A crash in the middle comes within so many disk operations.
const MIDDLE_OPERATIONS_MAX: u64 = 30;
/// An installation of a snapshot takes about so many disk operations, with the marks before and after it (rule N1).
pub(super) const INSTALL_OPERATIONS: u64 = 12;
/// A process opens its files within so many disk operations.
const START_OPERATIONS: u64 = 80;
/// So many runs of a thousand heal without some nodes at first.
const LEFT_BEHIND_PER_MILLE: u64 = 300;
/// Those come back after so many election timeouts, when all groups must have taken a write ([`WRITTEN_ELECTIONS`]).
const CORE_ELECTIONS: u64 = WRITTEN_ELECTIONS + 1;
/// A process stands still for so long.
const FROZEN_US: (u64, u64) = (20_000, 1_500_000);
/// A path holds everything back for so long.
const CLOGGED_US: (u64, u64) = (20_000, 500_000);
/// In the calm nothing that was held back comes later than this.
const HURRY_US: u64 = 50_000;
/// How often somebody copies the directory of a process that ended.
const COPIED_PER_MILLE: u64 = 300;
/// A process that came back dies again within this time, now and then: what it found on the disk is then found once more.
const AGAIN_US_MAX: u64 = 600_000;

impl World {
    pub(super) fn start(&mut self, node: usize) -> Result<(), Broken> {
        let salt = self.random.time.draw();
        if !self.calm && self.mix.faults.contains_key(&Fault::MiddleCut) && self.random.crashes.per_mille(50)
        {
            let operations = self.random.crashes.between(0, START_OPERATIONS);
            self.nodes[node].arm(operations);
        }
        let (own, mix) = (&self.mix.own[node], &self.mix);
        let result = self.nodes[node].start(own, mix, salt, self.now_us);
        if self.dies(node) {
            return Ok(());
        }
        for (case, times) in std::mem::take(&mut self.nodes[node].recovery_cases) {
            self.marks.see_often(&case, times);
        }
        if let Err(reason) = result {
            self.say(|| format!("node {} does not start: {reason}", self.ids[node]));
            if self.nodes[node].is_hurt {
                self.nodes[node].outcast.get_or_insert_with(|| reason.to_string());
                self.nodes[node].is_unreadable = !self.nodes[node].faulty.any();
                return Ok(());
            }
            if self.nodes[node].faulty.any() {
                self.end_process(node, None);
                return Ok(());
            }
            let how = format!("node {} does not start: {reason}", self.ids[node]);
            return Err(Broken::new(promise::COMES_BACK, how));
        }
        self.say(|| format!("node {} starts", self.ids[node]));
        let boot = self.nodes[node].boot;
        let wait = self.random.time.between(1, self.mix.own[node].tick_us);
        self.after(wait, Action::Tick(node, boot));
        self.check_started(node)?;
        let is_again = self.nodes[node].process.as_ref().is_some_and(|process| !process.abandoned.is_empty());
        if !self.calm && self.random.crashes.per_mille(if is_again { 500 } else { 100 }) {
            let wait = self.random.crashes.between(1, AGAIN_US_MAX);
            self.after(wait, Action::CrashOne(node, boot));
        }
        self.pump(node)
    }

    /// How long until a fault of this kind.
    pub(super) fn until_next(&mut self, fault: Fault, mean_us: u64) -> u64 {
        let random = match fault {
            Fault::Kill | Fault::PowerCut | Fault::MiddleCut | Fault::KillMajority | Fault::CutAll => {
                &mut self.random.crashes
            }
            Fault::Partition | Fault::Suspicion | Fault::Freeze | Fault::ClockJump | Fault::Clog => {
                &mut self.random.partitions
            }
            Fault::DiskFull
            | Fault::DiskFails
            | Fault::DiskBroken
            | Fault::NodeLost
            | Fault::Wiped
            | Fault::OldCopy
            | Fault::Twin
            | Fault::RotInLog
            | Fault::RotInState
            | Fault::RotInLists
            | Fault::LostWrite
            | Fault::Misdirected
            | Fault::LyingDisk
            | Fault::SlowDisk
            | Fault::HungDisk => &mut self.random.disks,
            Fault::Transfer | Fault::Members | Fault::Nonsense | Fault::QuorumLost => {
                &mut self.random.operators
            }
        };
        random.between(1, 2 * mean_us)
    }

    /// It is time for a fault of this kind.
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), Broken> {
        let mean_us = self.mix.faults.get(&fault).copied();
        let Some(mean_us) = mean_us.filter(|_| !self.calm) else { return Ok(()) };
        let wait = self.until_next(fault, mean_us);
        self.after(wait, Action::Fault(fault));
        let node = |random: &mut crate::random::Random, nodes: usize| random.index(nodes);
        let nodes = self.nodes.len();
        let happened = match fault {
            Fault::Kill | Fault::PowerCut => {
                let victim = node(&mut self.random.crashes, nodes);
                self.crash(victim, fault == Fault::PowerCut)
            }
            Fault::MiddleCut => {
                let victim = node(&mut self.random.crashes, nodes);
                self.draw_middle(victim)
            }
            Fault::KillMajority | Fault::CutAll => {
                let first = node(&mut self.random.crashes, nodes);
                let count = if fault == Fault::CutAll { nodes } else { nodes / 2 + 1 };
                let mut happened = false;
                for at in 0..count {
                    happened |= self.crash((first + at) % nodes, fault == Fault::CutAll);
                }
                happened
            }
            Fault::Partition => self.partition(),
            Fault::Suspicion => self.suspect(),
            Fault::DiskFull => self.fill_disk(),
            Fault::DiskFails => self.fail_disk(),
            Fault::DiskBroken => self.break_disk(),
            Fault::Transfer => self.transfer_leadership()?,
            Fault::Members => self.change_members()?,
            Fault::Nonsense => self.ask_nonsense()?,
            Fault::NodeLost => self.lose_node(),
            Fault::Wiped => self.wipe(),
            Fault::OldCopy => self.restore_copy(),
            Fault::Twin => self.start_twin()?,
            Fault::RotInLog => self.flip_bits(Part::Log),
            Fault::RotInState => self.flip_bits(Part::State),
            Fault::RotInLists => self.flip_bits(Part::Small),
            Fault::LostWrite => self.lose_write(false),
            Fault::Misdirected => self.lose_write(true),
            Fault::LyingDisk => self.lie(),
            Fault::SlowDisk => self.slow_disk(false),
            Fault::HungDisk => self.slow_disk(true),
            Fault::Freeze => self.freeze(),
            Fault::ClockJump => self.jump_clock(),
            Fault::Clog => self.clog(),
            // Once, when all is over.
            Fault::QuorumLost => false,
        };
        if happened {
            *self.report.faults.entry(fault).or_default() += 1;
        }
        Ok(())
    }

    /// What a start finds: replicas that are condemned or cannot be opened only where something happened to the disk.
    fn check_started(&mut self, node: usize) -> Result<(), Broken> {
        let Some(process) = self.nodes[node].process.as_ref() else { return Ok(()) };
        match process.not_started.first() {
            Some((group, error)) if !self.nodes[node].is_hurt && !self.nodes[node].faulty.any() => {
                let how = format!("group {group} on node {} cannot be opened: {error}", self.ids[node]);
                Err(Broken::new(promise::COMES_BACK, how))
            }
            Some(_) if !self.nodes[node].is_hurt => {
                let boot = self.nodes[node].boot;
                self.call_operator(node, boot);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Kills a process at one of its next disk operations, or in the middle of its next write to the log.
    pub(super) fn draw_middle(&mut self, node: usize) -> bool {
        let is_running = self.nodes[node].process.is_some();
        if is_running && self.random.crashes.per_mille(500) {
            self.nodes[node].cuts_log = true;
        } else if is_running {
            let operations = self.random.crashes.between(0, MIDDLE_OPERATIONS_MAX);
            self.nodes[node].arm(operations);
        }
        is_running
    }

    /// A process that just came back dies again: between two effects, or in the middle of one.
    pub(super) fn crash_again(&mut self, node: usize) {
        if self.random.crashes.per_mille(500) {
            self.draw_middle(node);
        } else {
            let power = self.random.crashes.per_mille(500);
            self.crash(node, power);
        }
    }

    /// Lets a process die at one of its next disk operations, if the seed says so and it is not calm.
    pub(super) fn arm_sometimes(&mut self, node: usize, per_mille: u64, operations_max: u64) {
        if !self.calm && self.random.crashes.per_mille(per_mille) {
            let operations = self.random.crashes.between(0, operations_max);
            self.nodes[node].arm(operations);
        }
    }

    /// Whether the process just died in the middle of what it did with its disk. Then it is gone.
    pub(super) fn dies(&mut self, node: usize) -> bool {
        let died = self.nodes[node].died();
        if died {
            let power = self.random.crashes.per_mille(500);
            self.crash(node, power);
        }
        died
    }

    /// The process dies, perhaps with the power. Answers whether there was one.
    pub(super) fn crash(&mut self, node: usize, with_power: bool) -> bool {
        if self.nodes[node].process.is_none() && !self.nodes[node].died() {
            return false;
        }
        let with_power = with_power && !self.mix.has_real_stores;
        self.report.crashes += u64::from(!self.nodes[node].is_gone);
        self.report.crashes_in_the_middle += u64::from(self.nodes[node].died());
        self.report.sleeping_leaders_killed += u64::from(self.nodes[node].has_sleeping_leader());
        self.say(|| {
            let how = if with_power { "loses its power" } else { "is killed" };
            let middle = if self.nodes[node].died() { " in the middle of its disk work" } else { "" };
            format!("node {} {how}{middle}", self.ids[node])
        });
        let power = with_power.then(|| self.random.crashes.draw());
        self.end_process(node, power);
        self.lose(node);
        true
    }

    pub(super) fn end_process(&mut self, node: usize, power_seed: Option<u64>) {
        let starts = self.nodes[node].process.as_ref().map(|process| process.identity.boot_counter);
        self.nodes[node].end(power_seed);
        self.nodes[node].ended_us = self.now_us;
        if let Some(starts) = starts
            && self.mix.faults.contains_key(&Fault::OldCopy)
            && self.random.disks.per_mille(COPIED_PER_MILLE)
        {
            self.nodes[node].copy = Some((starts, self.nodes[node].disk.fork()));
        }
        let boot = self.nodes[node].boot;
        for at in 0..self.clients.len() {
            let asked = self.clients[at].asked.as_ref();
            if asked.is_some_and(|asked| asked.node == self.ids[node] && asked.boot == boot) {
                let series = self.clients[at].series;
                let answer = Answer::Unknown(Unknown::ConnectionLost);
                self.after(1, Action::Answer { client: at, series, answer });
            }
        }
        let away_us_max = if self.calm { HURRY_US } else { self.mix.away_us_max };
        let wait = self.random.crashes.between(10_000, away_us_max);
        self.after(wait, Action::Restart(node, boot));
    }

    /// The others see their connections break; most of them find that nobody answers at once and suspect the node (rule T5).
    fn lose(&mut self, lost: usize) {
        for at in 0..self.nodes.len() {
            if at == lost
                || !self.network.connected(self.ids[at], self.ids[lost])
                || self.random.partitions.per_mille(300)
            {
                continue;
            }
            let wait = self.random.partitions.between(100, 5_000);
            self.after(wait, Action::Told { node: at, event: NodeEvent::PeerLost { node: self.ids[lost] } });
            if self.random.partitions.per_mille(700) {
                let wait = wait + self.random.partitions.between(100, 20_000);
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

    /// A disk is full for a while.
    fn fill_disk(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        let used: u64 = self.nodes[node].disk.files().iter().map(|(_, bytes)| bytes).sum();
        let capacity = used + self.random.disks.between(0, 64 << 10);
        self.nodes[node].faulty.full = true;
        self.nodes[node].change_faults(|faults| faults.capacity_bytes = Some(capacity));
        self.say(|| {
            format!("the disk of node {} has {} bytes of room left", self.ids[node], capacity - used)
        });
        let wait = self.random.disks.between(200_000, 3_000_000);
        self.after(wait, Action::DiskRoom(node));
        true
    }

    /// One of the next operations of a disk fails.
    fn fail_disk(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        if self.nodes[node].process.is_none() {
            return false;
        }
        let operation = self.nodes[node].disk.operations() + self.random.disks.between(0, 60);
        self.nodes[node].faulty.failing = true;
        self.nodes[node].change_faults(|faults| faults.once_at_operation = Some(operation));
        self.say(|| format!("one of the next operations of the disk of node {} will fail", self.ids[node]));
        true
    }

    /// A disk takes no more reads, writes or syncs until it is repaired; the operator who looks after the node tries in vain meanwhile.
    fn break_disk(&mut self) -> bool {
        let node = self.random.disks.index(self.nodes.len());
        if self.nodes[node].process.is_none() || self.nodes[node].faulty.broken {
            return false;
        }
        let what = self.random.disks.index(3);
        self.nodes[node].faulty.broken = true;
        self.nodes[node].change_faults(|faults| match what {
            0 => faults.reads_fail = true,
            1 => faults.writes_fail = true,
            _ => faults.syncs_fail = true,
        });
        self.say(|| {
            format!("the disk of node {} fails all {}", self.ids[node], ["reads", "writes", "syncs"][what])
        });
        let wait = self.random.disks.between(100_000, 2_500_000);
        self.after(wait, Action::DiskRepaired(node));
        true
    }

    fn partition(&mut self) -> bool {
        if self.random.partitions.per_mille(400) {
            self.network.heal();
            self.say(|| "the network is whole".to_owned());
            return false;
        }
        let what = self.network.partition(&self.ids, &mut self.random.partitions);
        self.say(|| format!("the network is cut: {what}"));
        self.network.is_cut()
    }

    /// A process that was only slow is suspected too.
    fn suspect(&mut self) -> bool {
        let random = &mut self.random.partitions;
        let (at, suspect) = (random.index(self.ids.len()), random.index(self.ids.len()));
        if at != suspect {
            let event = NodeEvent::NodeSuspected { node: self.ids[suspect] };
            self.after(1, Action::Told { node: at, event });
        }
        at != suspect
    }

    /// A process stands still: a debugger, a machine that was put to sleep, a page that does not come.
    fn freeze(&mut self) -> bool {
        let node = self.random.partitions.index(self.nodes.len());
        if self.nodes[node].process.is_none() {
            return false;
        }
        let for_us = self.random.partitions.between(FROZEN_US.0, FROZEN_US.1);
        // What it holds back already waits for the end of the longer one.
        let until_us = self.nodes[node].frozen_until_us.max(self.now_us + for_us);
        self.nodes[node].frozen_until_us = until_us;
        self.say(|| format!("node {} stands still for {} ms", self.ids[node], for_us / 1000));
        true
    }

    /// A wall clock jumps by an hour, if no other one is wrong or ever was: somebody may still go by what that one said.
    fn jump_clock(&mut self) -> bool {
        let is_wild = |own: &Own| own.ahead_ms.unsigned_abs() > SANE_SKEW_MS;
        let is_taken = self.mix.own.iter().any(is_wild) || self.nodes.iter().any(|node| node.jumped_ms != 0);
        let jumped = self.nodes.iter().position(|node| node.has_jumped);
        let few = self.mix.replicas < 3 || self.mix.faults.contains_key(&Fault::Members);
        if is_taken || few {
            return false;
        }
        let drawn = self.random.partitions.index(self.nodes.len());
        let node = jumped.unwrap_or(drawn);
        self.nodes[node].has_jumped = true;
        let back = self.random.partitions.per_mille(500);
        self.nodes[node].jumped_ms = if back { -WILD_SKEW_MS } else { WILD_SKEW_MS };
        self.say(|| {
            format!("the clock of node {} jumps by {} ms", self.ids[node], self.nodes[node].jumped_ms)
        });
        let wait = self.random.partitions.between(50_000, 2_000_000);
        self.after(wait, Action::ClockBack(node));
        true
    }

    /// A path holds everything back for a while.
    fn clog(&mut self) -> bool {
        let random = &mut self.random.partitions;
        let (from, to) = (random.index(self.ids.len()), random.index(self.ids.len()));
        let for_us = random.between(CLOGGED_US.0, CLOGGED_US.1);
        self.network.clog(self.ids[from], self.ids[to], self.now_us + for_us);
        self.say(|| format!("what node {} sends to node {} is held back", self.ids[from], self.ids[to]));
        from != to
    }

    /// Somebody moves the leadership of a group, wherever it is.
    fn transfer_leadership(&mut self) -> Result<bool, Broken> {
        let group = GroupId(self.random.operators.draw() % self.mix.groups);
        let leads = |at: &usize| {
            let process = self.nodes[*at].process.as_ref();
            process.and_then(|process| process.core.engine().raft(group)).is_some_and(|raft| raft.is_leader())
        };
        let Some(node) = (0..self.nodes.len()).find(leads) else { return Ok(false) };
        self.say(|| format!("somebody moves the leadership of group {group} from node {}", self.ids[node]));
        if let Some(process) = self.nodes[node].process.as_mut() {
            process.core.handle(Input::Group(group, Event::Transfer { ticket: NOBODY, to: None }));
        }
        self.pump(node)?;
        Ok(true)
    }

    /// Everything heals, and whoever is down, or has replicas that stopped, is started.
    pub(super) fn calm_down(&mut self) -> Result<(), Broken> {
        self.calm = true;
        self.say(|| "everything heals".to_owned());
        self.owed = Owed::since(self.now_us, self.mix.groups);
        self.plan_probe();
        self.after(WRITTEN_ELECTIONS * ELECTION_US, Action::WrittenByNow);
        self.network.heal();
        self.network.set_quality(self.mix.calm_quality());
        self.hurry();
        for client in 0..self.clients.len() {
            // Whoever waits for an answer since before could wait for longer than the calm gives a group.
            self.clients[client].asked = None;
            self.clients[client].series += 1;
            self.after(1, Action::Client(client));
        }
        for (from, to) in pairs(self.ids.len()) {
            self.network.clog(self.ids[from], self.ids[to], 0);
        }
        self.leave_behind();
        for node in 0..self.nodes.len() {
            self.look_at_disk(node);
            self.become_honest(node);
            let own = &mut self.nodes[node];
            own.crash_at = None;
            own.cuts_log = false;
            // Since when it goes on is still asked.
            own.frozen_until_us = own.frozen_until_us.min(self.now_us);
            own.slow = None;
            if let Some(process) = &mut own.process {
                // What a disk held back is done soon, and not judged by how long that took.
                process.went_on_us = self.now_us;
            }
            own.change_faults(|faults| {
                faults.all_from_operation = None;
                faults.once_at_operation = None;
                faults.capacity_bytes = None;
                (faults.reads_fail, faults.writes_fail, faults.syncs_fail) = (false, false, false);
            });
            if own.process.as_ref().is_some_and(|process| process.needs_restart || own.faulty.any()) {
                self.end_process(node, None);
            }
            self.nodes[node].faulty = Default::default();
            let own = &self.nodes[node];
            if own.process.is_none() && !own.is_gone && !own.is_put_away && own.away_until_us <= self.now_us {
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// Some nodes may stay away for a while: all groups must take writes without them, if that leaves each a majority that lost nothing.
    fn leave_behind(&mut self) {
        if !self.random.crashes.per_mille(LEFT_BEHIND_PER_MILLE) {
            return;
        }
        let left = self.draw_dispensable();
        for node in left {
            self.nodes[node].away_until_us = self.now_us + CORE_ELECTIONS * ELECTION_US;
            if self.nodes[node].process.is_some() {
                self.end_process(node, None);
            }
            self.say(|| format!("node {} stays away", self.ids[node]));
            self.report.left_behind += 1;
            let boot = self.nodes[node].boot;
            self.after(CORE_ELECTIONS * ELECTION_US, Action::Restart(node, boot));
        }
    }

    /// What a slow disk, a clogged path or a process that stands still held back does not have to wait any longer.
    fn hurry(&mut self) {
        let soon_us = self.now_us + HURRY_US;
        let calendar = std::mem::take(&mut self.calendar);
        self.calendar = calendar
            .into_iter()
            .map(|Reverse((at, id, place))| {
                let is_held = self.actions[place].as_ref().is_some_and(|action| action.process().is_some());
                Reverse((if is_held { at.min(soon_us) } else { at }, id, place))
            })
            .collect();
    }
}

fn pairs(nodes: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)))
}
