// SPDX-License-Identifier: Apache-2.0

//! A group played by hand: replicas, their disks, the links between them, and nothing that moves by itself.
//!
//! A [`Group`] owns everything that a host would: it carries out effects, keeps what is durable apart from what is not, and
//! hands messages over when told. The scripts and the random test drive the same one.

#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mraft_raft::{
    AppendReply, Body, Config, Effect, Event, Life, Message, Raft, ReadBack, Restored, Write, term_after_loss,
};
use mraft_types::codec::Reader;
use mraft_types::{
    CondemnedReason, Entry, EntryKind, HardState, Index, LogPosition, LogStart, Member, Membership, NodeId,
    ReplicaId, Role, Term,
};

pub mod checker;
pub mod dice;
pub mod text;

/// Generation 0 of a node.
pub fn replica(node: u64) -> ReplicaId {
    ReplicaId::new(0, NodeId::new(node).expect("a node id"))
}

/// A membership at genesis.
pub fn genesis(roles: &[(ReplicaId, Role)]) -> LogStart {
    let member = |id: ReplicaId, role| Member { role, raft_address: format!("n{}:1", id.node()) };
    LogStart {
        position: LogPosition { index: 1, term: 1 },
        membership: Membership {
            change_index: 1,
            members: roles.iter().map(|(id, role)| (*id, member(*id, *role))).collect(),
            ..Membership::default()
        },
    }
}

/// Small bounds, so that tests reach them.
pub fn config(id: ReplicaId) -> Config {
    Config {
        id,
        election_ticks: 10,
        heartbeat_ticks: 2,
        check_quorum: true,
        append_bytes_max: 1 << 10,
        inflight_bytes_max: 4 << 10,
        inflight_messages_max: 4,
        unapplied_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        snapshot_deadline_ticks: 40,
        quiesce_after_ticks: None,
    }
}

/// The state machine: everything that was ever applied, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    pub applied: LogPosition,
    pub membership: Membership,
    pub commands: Vec<(Index, Term, Vec<u8>)>,
}

/// What survives a power cut.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub start: LogStart,
    pub entries: Vec<Entry>,
    pub condemned: Option<CondemnedReason>,
    pub machine: Machine,
}

impl Disk {
    pub fn last(&self) -> Index {
        self.start.position.index + self.entries.len() as u64
    }

    fn write(&mut self, write: &Write) {
        if let Some(first) = write.entries.first() {
            assert!(first.index <= self.last() + 1, "a write leaves a gap: {write:?} behind {}", self.last());
            assert!(first.index > self.start.position.index, "a write goes below the start: {write:?}");
            self.entries.truncate((first.index - self.start.position.index - 1) as usize);
            self.entries.extend(write.entries.iter().cloned());
        }
        if let Some(start) = &write.truncate {
            let gone = start.position.index - self.start.position.index;
            assert!(start.position.index <= self.machine.applied.index, "truncated above what is persisted");
            self.entries.drain(..gone as usize);
            self.start = start.clone();
        }
        assert!(write.hard_state.term >= self.hard_state.term, "the term falls: {write:?}");
        if write.hard_state.term == self.hard_state.term && self.hard_state.vote.is_some() {
            assert_eq!(write.hard_state.vote, self.hard_state.vote, "two votes in one term");
        }
        assert!(write.hard_state.commit >= self.hard_state.commit, "the commit index falls: {write:?}");
        assert!(write.hard_state.commit <= self.last(), "committed beyond the log: {write:?}");
        self.hard_state = write.hard_state;
        self.condemned = write.condemned.or(self.condemned);
    }

    /// An operator accepts what this replica lost (rule D9). Whether it was condemned.
    pub fn accept_loss(&mut self) -> bool {
        let known = self.entries.last().map_or(self.start.position.term, |entry| entry.term);
        let known = known.max(self.hard_state.term).max(self.machine.applied.term);
        let commit = self.hard_state.commit.min(self.last());
        self.hard_state =
            HardState { term: term_after_loss(known).expect("terms are left"), vote: None, commit };
        self.condemned.take().is_some()
    }

    /// Rules D1 and D2: whatever leaves is backed by the disk.
    fn check_claims(&self, id: ReplicaId, message: &Message) {
        let Message { from, to, term, body } = message;
        assert_eq!(*from, id);
        let HardState { term: durable_term, vote, .. } = self.hard_state;
        match body {
            Body::PreVote { .. } | Body::PreVoteReply { granted: true } => {}
            _ => assert!(durable_term >= *term, "D1: {message:?} left before its term was durable"),
        }
        let claimed = match body {
            Body::VoteReply { granted: true } => durable_term > *term || vote == Some(*to),
            Body::Vote { .. } => durable_term > *term || vote == Some(*from),
            Body::AppendReply(AppendReply::Accepted { matched }) => self.last() >= *matched,
            _ => true,
        };
        assert!(claimed, "D2: {message:?} claims what is not durable: {:?}", self.hard_state);
    }

    /// Entries as a log reads them back.
    fn read(&self, first: Index, last: Index, bytes_max: usize) -> ReadBack {
        let Some(skipped) = first.checked_sub(self.start.position.index + 1) else { return ReadBack::Gone };
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            let before = bytes;
            bytes += entry.cost_bytes();
            before == 0 || bytes <= bytes_max
        };
        let wanted = self.entries.iter().skip(skipped as usize).take_while(|entry| entry.index <= last);
        ReadBack::Entries(wanted.take_while(fits).cloned().collect())
    }

    fn restored(&self) -> Restored {
        let mut terms = vec![(self.start.position.index, self.start.position.term)];
        let mut memberships = Vec::new();
        for entry in &self.entries {
            if terms.last().map(|(_, term)| *term) != Some(entry.term) {
                terms.push((entry.index, entry.term));
            }
            if entry.kind == EntryKind::Membership {
                let membership = Membership::decode(&mut Reader::new(&entry.payload)).expect("a membership");
                memberships.push((entry.index, membership));
            }
        }
        Restored {
            hard_state: self.hard_state,
            start: self.start.clone(),
            last_index: self.last(),
            terms,
            memberships,
            applied: self.machine.applied,
            condemned: self.condemned,
        }
    }
}

/// One replica with all that surrounds it.
#[derive(Clone, Debug)]
pub struct Node {
    pub config: Config,
    /// `None` while it is down.
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// Writes that are not durable yet.
    pub pending: VecDeque<Write>,
    /// Whether writes wait to be told.
    pub disk_held: bool,
    /// Whether applying waits to be told.
    pub apply_held: bool,
    pub to_apply: VecDeque<(Index, Index)>,
    /// Whether reading from the log waits to be told.
    pub log_held: bool,
    /// Orders to read from the log, in the order of [`Effect::ReadLog`].
    pub log_orders: Vec<(u64, ReplicaId, Index, Index, usize)>,
    pub machine: Machine,
    /// Snapshots that the core asked for: to whom, covering at least this.
    /// Snapshots asked for: the least index, and the term in which the leader asked.
    pub orders: BTreeMap<ReplicaId, (Index, mraft_types::Term)>,
    /// Snapshots of whose end this sender has not heard, and whether they arrived.
    pub shipped: BTreeMap<ReplicaId, bool>,
    /// Snapshots that arrived and wait for the core's word or for the installation.
    pub staged: Vec<(LogStart, Machine)>,
    /// What is being installed is not staged any more: the same snapshot may come a second time meanwhile and be dropped.
    pub installing: Option<(LogStart, Machine)>,
    /// Reads of the last life: round, answered index.
    pub rounds_ready: Vec<(u64, Index)>,
    pub rounds_void: u64,
    pub removed: bool,
    /// What its host says of its life (rule Q2), and whether the replica led when it was polled last.
    pub life: u64,
    led: bool,
    was_condemned: bool,
    /// What it was told of the lives of nodes; only news is told.
    told: BTreeMap<NodeId, Option<u64>>,
}

/// Something worth printing or checking.
#[derive(Clone, Debug)]
pub enum Happened {
    Effect(ReplicaId, Effect),
    Delivered(Message),
    Lost(Message),
}

/// The whole group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub nodes: BTreeMap<ReplicaId, Node>,
    pub wire: VecDeque<Message>,
    /// Directed links on which everything is lost.
    pub cut: BTreeSet<(ReplicaId, ReplicaId)>,
    pub happened: Vec<Happened>,
    pub tick: u64,
    pub genesis: LogStart,
}

impl Group {
    /// A group of original members, each started from the same genesis.
    pub fn new(roles: &[(ReplicaId, Role)], tune: impl Fn(&mut Config)) -> Group {
        let start = genesis(roles);
        let mut group = Group { genesis: start.clone(), ..Group::default() };
        for (id, _) in roles {
            let mut config = config(*id);
            tune(&mut config);
            let machine = Machine {
                applied: start.position,
                membership: start.membership.clone(),
                commands: Vec::new(),
            };
            let hard_state = HardState { term: 1, vote: None, commit: 1 };
            let disk = Disk { hard_state, start: start.clone(), machine, ..Disk::default() };
            group.add(config, disk);
        }
        group
    }

    /// Starts one more replica.
    pub fn add(&mut self, config: Config, disk: Disk) {
        let node = Node {
            config,
            raft: None,
            machine: disk.machine.clone(),
            disk,
            pending: VecDeque::new(),
            disk_held: false,
            apply_held: false,
            to_apply: VecDeque::new(),
            log_held: false,
            log_orders: Vec::new(),
            orders: BTreeMap::new(),
            shipped: BTreeMap::new(),
            staged: Vec::new(),
            installing: None,
            rounds_ready: Vec::new(),
            rounds_void: 0,
            removed: false,
            life: 0,
            led: false,
            was_condemned: false,
            told: BTreeMap::new(),
        };
        let id = config.id;
        self.nodes.insert(id, node);
        self.restart(id);
    }

    /// Starts a replica that waits for its first snapshot (rule M4).
    pub fn join(&mut self, id: ReplicaId) {
        let quiesce_after_ticks = self.nodes.values().find_map(|node| node.config.quiesce_after_ticks);
        self.add(Config { quiesce_after_ticks, ..config(id) }, Disk::default());
    }

    pub fn node(&self, id: ReplicaId) -> &Node {
        &self.nodes[&id]
    }

    pub fn node_mut(&mut self, id: ReplicaId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a replica of the group")
    }

    pub fn raft(&self, id: ReplicaId) -> Option<&Raft> {
        self.nodes[&id].raft.as_ref()
    }

    pub fn raft_mut(&mut self, id: ReplicaId) -> Option<&mut Raft> {
        self.node_mut(id).raft.as_mut()
    }

    /// Steps one event in and carries out what follows.
    pub fn step(&mut self, id: ReplicaId, event: Event) {
        if let Some(raft) = self.raft_mut(id) {
            raft.step(event);
            self.poll(id);
        }
    }

    /// Polls until nothing follows any more. Writes are durable at once unless the disk is held.
    pub fn poll(&mut self, id: ReplicaId) {
        loop {
            let Some(raft) = self.raft_mut(id) else { return };
            let mut effects = Vec::new();
            raft.poll(&mut effects);
            raft.check().unwrap_or_else(|broken| panic!("replica {id}: {broken}\n{raft:#?}"));
            let (leads, is_condemned) = (raft.is_leader(), raft.condemned().is_some());
            let changes = effects.iter().filter(|effect| matches!(effect, Effect::MembershipCommitted(_)));
            let changes = changes.count() as u64;
            let mut again = Vec::new();
            raft.poll(&mut again);
            assert_eq!(again, [], "a second poll had more to say");
            let node = self.node_mut(id);
            node.life += u64::from(node.led && !leads) + u64::from(is_condemned && !node.was_condemned);
            node.life += if leads { changes } else { 0 };
            (node.led, node.was_condemned) = (leads, is_condemned);
            if changes > 0 {
                node.told.clear();
            }
            for effect in effects {
                self.carry_out(id, effect);
            }
            let node = self.node(id);
            if !node.disk_held && !node.pending.is_empty() {
                self.persist(id, usize::MAX);
            } else if !node.apply_held && !node.to_apply.is_empty() {
                self.apply(id);
            } else {
                return;
            }
        }
    }

    fn carry_out(&mut self, id: ReplicaId, effect: Effect) {
        self.happened.push(Happened::Effect(id, effect.clone()));
        let node = self.nodes.get_mut(&id).expect("a replica of the group");
        match effect {
            Effect::Send(message) => {
                node.disk.check_claims(id, &message);
                self.wire.push_back(message);
            }
            Effect::Write(write) => {
                assert!(node.installing.is_none() || write.entries.is_empty(), "an entry while installing");
                node.pending.push_back(write);
            }
            Effect::Apply { first, last } => node.to_apply.push_back((first, last)),
            Effect::ReadLog { order, to, first, last, max_bytes } => {
                if node.log_held {
                    return node.log_orders.push((order, to, first, last, max_bytes));
                }
                let found = node.disk.read(first, last, max_bytes);
                let raft = node.raft.as_mut().expect("it just spoke");
                raft.step(Event::LogRead { order, to, found });
                let mut effects = Vec::new();
                raft.poll(&mut effects);
                for effect in effects {
                    self.carry_out(id, effect);
                }
            }
            Effect::SendSnapshot { to, at_least } => {
                let term = node.raft.as_ref().map_or(0, Raft::term);
                node.orders.insert(to, (at_least, term));
            }
            Effect::Install { start } => {
                let at = node.staged.iter().position(|(staged, _)| *staged == start).expect("it was staged");
                node.installing = Some(node.staged.remove(at));
            }
            Effect::DropSnapshot { start } => node.staged.retain(|(staged, _)| *staged != start),
            Effect::ReadReady { round, index } => node.rounds_ready.push((round, index)),
            Effect::ReadsVoid { round } => node.rounds_void = round,
            Effect::Removed { .. } => node.removed = true,
            Effect::LeaderChanged { .. }
            | Effect::ElectionStarted(_)
            | Effect::MembershipCommitted(_)
            | Effect::Condemned(_)
            | Effect::TransferEnded { .. } => {}
        }
    }

    /// Makes the oldest `count` writes durable.
    pub fn persist(&mut self, id: ReplicaId, count: usize) {
        let node = self.node_mut(id);
        let count = count.min(node.pending.len());
        let mut number = None;
        for write in node.pending.drain(..count) {
            node.disk.write(&write);
            number = Some(write.number);
        }
        if let Some(write) = number {
            self.step(id, Event::Persisted { write });
        }
    }

    /// Carries out the oldest order to read from the log, or says that there is no time for it.
    pub fn read_log(&mut self, id: ReplicaId, has_time: bool) -> bool {
        let node = self.node_mut(id);
        if node.log_orders.is_empty() {
            return false;
        }
        let (order, to, first, last, max_bytes) = node.log_orders.remove(0);
        let found = match has_time {
            true => node.disk.read(first, last, max_bytes),
            false => ReadBack::NotNow,
        };
        self.step(id, Event::LogRead { order, to, found });
        true
    }

    /// Applies everything that was handed out.
    pub fn apply(&mut self, id: ReplicaId) {
        let node = self.node_mut(id);
        let raft = node.raft.as_ref().expect("it is up");
        let mut applied = None;
        while let Some((first, last)) = node.to_apply.pop_front() {
            for index in first..=last {
                let cached = raft.entries(index, index, usize::MAX).and_then(|mut entries| entries.pop());
                let at = (index - node.disk.start.position.index - 1) as usize;
                let entry = cached.unwrap_or_else(|| node.disk.entries[at].clone());
                let durable = node.disk.entries.get(at);
                assert_eq!(durable, Some(&entry), "applied before it was durable (D6)");
                assert_eq!(node.machine.applied.index + 1, index, "applied out of order");
                node.machine.applied = entry.position();
                match entry.kind {
                    EntryKind::Commands => {
                        node.machine.commands.push((entry.index, entry.term, entry.payload.to_vec()));
                    }
                    EntryKind::Membership => {
                        node.machine.membership =
                            Membership::decode(&mut Reader::new(&entry.payload)).expect("a membership");
                    }
                    EntryKind::Empty => {}
                }
            }
            applied = Some(last);
        }
        if let Some(index) = applied {
            self.step(id, Event::Applied { index });
        }
    }

    /// Persists the state machine, and lets the log forget everything up to `keep` entries before that.
    pub fn truncate(&mut self, id: ReplicaId, keep: u64) {
        let node = self.node_mut(id);
        node.disk.machine = node.machine.clone();
        let Some(raft) = &node.raft else { return };
        let index = node.machine.applied.index.saturating_sub(keep);
        let Some(term) = raft.term_at(index) else { return };
        let start = LogStart { position: LogPosition { index, term }, membership: Membership::default() };
        self.step(id, Event::Truncate { start });
    }

    /// Takes the oldest message on a link and hands it over, or loses it if the link is cut or the receiver down.
    pub fn deliver_at(&mut self, at: usize) {
        let Some(message) = self.wire.remove(at) else { return };
        let is_lost = self.cut.contains(&(message.from, message.to))
            || self.nodes.get(&message.to).is_none_or(|node| node.raft.is_none());
        if is_lost {
            self.happened.push(Happened::Lost(message));
            return;
        }
        self.happened.push(Happened::Delivered(message.clone()));
        self.step(message.to, Event::Received(message));
    }

    pub fn tick(&mut self, id: ReplicaId, random: u64) {
        self.tick += 1;
        let number = self.tick;
        self.step(id, Event::Tick { number, random });
    }

    /// Power cut: only what is durable survives.
    pub fn crash(&mut self, id: ReplicaId) {
        let node = self.node_mut(id);
        node.raft = None;
        node.pending.clear();
        node.to_apply.clear();
        node.log_orders.clear();
        node.orders.clear();
        node.shipped.clear();
        node.staged.clear();
        node.installing = None;
        node.rounds_ready.clear();
        node.rounds_void = 0;
        node.machine = node.disk.machine.clone();
    }

    pub fn restart(&mut self, id: ReplicaId) {
        let node = self.node_mut(id);
        let raft = Raft::new(node.config, node.disk.restored()).expect("arguments that fit");
        node.raft = Some(raft);
        node.life += 1;
        (node.led, node.was_condemned) = (false, false);
        node.told.clear();
        self.poll(id);
    }

    /// A replica hears how all nodes live.
    pub fn tell_lives(&mut self, id: ReplicaId) {
        let mut lives: BTreeMap<NodeId, (bool, u64)> = BTreeMap::new();
        for (id, node) in &self.nodes {
            let (is_up, life) = lives.entry(id.node()).or_default();
            *is_up |= node.raft.is_some();
            *life += node.life;
        }
        for (node, (is_up, life)) in lives {
            self.tell_life(id, node, is_up.then_some(life));
        }
    }

    /// A replica hears how a node lives, if that is news.
    pub fn tell_life(&mut self, id: ReplicaId, node: NodeId, life: Option<u64>) {
        if self.node_mut(id).told.insert(node, life) != Some(life) {
            let silent_ticks = if life.is_none() { self.node_mut(id).config.election_ticks } else { 0 };
            self.step(id, Event::PeerLife { node, life, silent_ticks });
        }
    }

    /// The snapshot that was asked for arrives whole, or not.
    pub fn ship(&mut self, from: ReplicaId, to: ReplicaId, ok: bool) -> bool {
        match self.stream(from, to, ok) {
            Some(arrives) => {
                self.step(from, Event::SnapshotSent { to, ok: arrives });
                true
            }
            None => false,
        }
    }

    /// The same, but the sender does not hear of it yet: that is [`Group::shipped`].
    pub fn ship_unheard(&mut self, from: ReplicaId, to: ReplicaId) -> bool {
        let arrives = self.stream(from, to, true);
        if let Some(arrives) = arrives {
            self.node_mut(from).shipped.insert(to, arrives);
        }
        arrives.is_some()
    }

    /// The sender hears what became of a snapshot.
    pub fn shipped(&mut self, from: ReplicaId, to: ReplicaId) -> bool {
        let Some(ok) = self.node_mut(from).shipped.remove(&to) else { return false };
        self.step(from, Event::SnapshotSent { to, ok });
        true
    }

    /// Whether it arrived; `None` when nobody asked for it.
    fn stream(&mut self, from: ReplicaId, to: ReplicaId, ok: bool) -> Option<bool> {
        let node = self.node_mut(from);
        let (at_least, term) = node.orders.get(&to).copied()?;
        let machine = node.machine.clone();
        node.raft.as_ref()?;
        assert!(machine.applied.index >= at_least, "a snapshot was ordered that cannot be made");
        let start = LogStart { position: machine.applied, membership: machine.membership.clone() };
        node.orders.remove(&to);
        let arrives = ok && self.nodes.get(&to).is_some_and(|node| node.raft.is_some());
        if arrives {
            let receiver = self.node_mut(to);
            receiver.staged.push((start.clone(), machine));
            self.step(to, Event::SnapshotReceived { from, term, start });
        }
        Some(arrives)
    }

    /// Carries the installation out, if one is going on (rule N1, steps 3 to 7).
    pub fn install(&mut self, id: ReplicaId) -> bool {
        let node = self.node_mut(id);
        let Some((start, machine)) = node.installing.take() else { return false };
        // The log thread works in order: earlier writes are durable before the checkpoint is.
        let mut number = None;
        for write in node.pending.drain(..) {
            node.disk.write(&write);
            number = Some(write.number);
        }
        node.to_apply.clear();
        node.machine = machine.clone();
        node.disk.machine = machine;
        node.disk.start = start.clone();
        node.disk.entries.clear();
        node.disk.hard_state.commit = node.disk.hard_state.commit.max(start.position.index);
        if let Some(write) = number {
            self.step(id, Event::Persisted { write });
        }
        self.step(id, Event::SnapshotInstalled { start });
        true
    }

    pub fn leaders(&self) -> Vec<ReplicaId> {
        let leads = |node: &Node| node.raft.as_ref().is_some_and(|raft| raft.life() == Life::Leader);
        self.nodes.iter().filter(|(_, node)| leads(node)).map(|(id, _)| *id).collect()
    }
}
