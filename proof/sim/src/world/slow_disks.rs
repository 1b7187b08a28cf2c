// SPDX-License-Identifier: Apache-2.0

//! Disks that keep callers waiting: the product's decision is asked at each beat, and carried out as the host does (rule T1).

use mraft::NotApplied;
use mraft::core::Input;
use mraft::slow_disk::{Led, Trouble, Verdict};
use mraft_engine::NOBODY;
use mraft_engine::event::{Event, NodeEvent};
use mraft_types::{GroupId, NodeId, ReplicaId};

use super::{Action, World, running};
use crate::check::{Broken, promise};
use crate::mix::Scripted;

/// Leadership leaves a slow disk within this time.
const LEFT_WITHIN_US: u64 = 5_000_000;

/// What a host tells all others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub(super) from: NodeId,
    pub(super) unix_ms: u64,
    pub(super) disk_waited_ms: u64,
}

impl World {
    pub(super) fn hear_beat(&mut self, to: usize, boot: u64, beat: Beat) -> Result<(), Broken> {
        let Some(process) = running(&mut self.nodes, to, boot) else { return Ok(()) };
        process.peers_waited_ms.insert(beat.from, beat.disk_waited_ms);
        self.told(to, NodeEvent::PeerClock { node: beat.from, unix_ms: beat.unix_ms })
    }

    /// For how long a node's disk has kept somebody waiting, and has had no room.
    pub(super) fn disk_waited_ms(&self, node: usize) -> (u64, u64) {
        let Some(process) = self.nodes[node].process.as_ref() else { return (0, 0) };
        let ms = |since_us: Option<u64>| since_us.map_or(0, |since_us| (self.now_us - since_us) / 1000);
        let waited = |since_us: Option<u64>| ms(since_us.map(|since_us| since_us.max(process.went_on_us)));
        let waited_ms = waited(process.log_waits_since_us).max(waited(process.apply_waits_since_us));
        (waited_ms, ms(process.full_since_us).max(ms(process.store_full_since_us)))
    }

    /// What a node makes of its own disk.
    pub(super) fn judge_disk(&mut self, node: usize) -> Result<(), Broken> {
        let (waited_ms, full_ms) = self.disk_waited_ms(node);
        let verdict = self.mix.patience.judge(waited_ms, full_ms);
        self.marks.see(&verdict);
        match verdict {
            Verdict::Well => Ok(()),
            Verdict::MoveLeaders { trouble, for_ms } => {
                self.move_leaders(node, trouble, for_ms);
                Ok(())
            }
            Verdict::Stop { .. } => {
                self.stop_all(node, waited_ms);
                Ok(())
            }
        }
    }

    fn move_leaders(&mut self, node: usize, trouble: Trouble, for_ms: u64) {
        let own = self.ids[node];
        for group in (0..self.mix.groups).map(GroupId) {
            let Some(to) = self.better_leader(node, group, for_ms) else { continue };
            self.marks.see(&trouble);
            self.say(|| {
                format!(
                    "node {own} hands group {group} over to {to}: its disk is {trouble:?} for {for_ms} ms"
                )
            });
            if let Some(process) = self.nodes[node].process.as_mut() {
                let event = Event::Transfer { ticket: NOBODY, to: Some(to) };
                process.core.handle(Input::Group(group, event));
            }
        }
    }

    /// Who should lead a group in place of this node.
    fn better_leader(&mut self, node: usize, group: GroupId, for_ms: u64) -> Option<ReplicaId> {
        let own = self.ids[node];
        let raft = self.raft(node, group).filter(|raft| raft.is_leader())?;
        let (term, members) = (raft.term(), raft.membership().clone());
        let (ids, network) = (&self.ids, &self.network);
        let process = self.nodes[node].process.as_mut()?;
        let now_ms = (self.now_us - process.began_us) / 1000;
        let known = &process.peers_waited_ms;
        let waited_ms_on = |peer: NodeId| {
            known.get(&peer).copied().filter(|_| ids.contains(&peer) && network.connected(own, peer))
        };
        let led = Led { group, term, members: &members };
        process.moves.choose(now_ms, own, led, for_ms, waited_ms_on)
    }

    /// Every replica of a node whose disk stalled stops; somebody starts the process again.
    fn stop_all(&mut self, node: usize, waited_ms: u64) {
        let boot = self.nodes[node].boot;
        let Some(process) = self.nodes[node].process.as_mut().filter(|process| !process.log_failed) else {
            return;
        };
        process.log_failed = true;
        process.core.handle(Input::StopAll(NotApplied::Disk("the disk stalled")));
        self.report.disks_stalled += 1;
        self.say(|| {
            format!(
                "every replica of node {} stops: its disk stands still for {waited_ms} ms",
                self.ids[node]
            )
        });
        self.call_operator(node, boot);
    }

    pub(super) fn script(&mut self, scripted: Scripted) {
        let Scripted::SlowLeader { group, times, for_us, stops_within_us } = scripted;
        let group = GroupId(group);
        let Some((node, ..)) = self.serving_leader(group) else { return };
        let boot = self.nodes[node].boot;
        self.nodes[node].slow = Some((self.now_us + for_us, times));
        self.say(|| format!("the disk of node {}, which leads group {group}, gets slow", self.ids[node]));
        self.report.leaders_slowed += 1;
        self.after(LEFT_WITHIN_US, Action::LeftByNow { node, boot, group });
        if let Some(within_us) = stops_within_us {
            self.after(within_us, Action::StoppedByNow { node, boot });
        }
    }

    /// Whoever led a group when its disk got slow leads it no more.
    pub(super) fn check_left(&self, node: usize, boot: u64, group: GroupId) -> Result<(), Broken> {
        let led_by = self.serving_leader(group).map(|(leader, ..)| leader);
        let is_left = led_by.is_some_and(|leader| leader != node) && self.nodes[node].boot == boot;
        if is_left {
            return Ok(());
        }
        let leader = led_by.map(|leader| self.ids[leader]);
        let how = format!("node {} led group {group}, now {leader:?} does", self.ids[node]);
        Err(Broken::new(promise::SLOW_DISKS_LEFT, how))
    }

    /// A node whose disk stalled has no replica left.
    pub(super) fn check_stalled(&self, node: usize, boot: u64) -> Result<(), Broken> {
        let process = self.nodes[node].process.as_ref().filter(|_| self.nodes[node].boot == boot);
        let serving = process.map_or(0, |process| process.core.engine().group_ids().count());
        if serving == 0 {
            return Ok(());
        }
        let how = format!("node {} still has {serving} replicas at work", self.ids[node]);
        Err(Broken::new(promise::STALLED_STOPS, how))
    }
}
