// SPDX-License-Identifier: Apache-2.0

//! Groups under bad luck: messages lost, doubled and out of order, links cut, power cuts that lose what was not durable, slow
//! disks, membership changes, transfers, snapshots; then calm, in which the group must recover.
//!
//! A seed is a bug report: `SEED=n cargo test -p mraft-raft --test random` plays one, `SEEDS=n` many (`FROM=m` on).
//! `TRACE=1` prints what happened.

#![allow(clippy::expect_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;

use mraft_raft::{Event, Life};
use mraft_types::{MembershipChange, NodeId, Payload, ReplicaId, Role};

mod support;

use support::checker::Checker;
use support::dice::Dice;
use support::{Group, Happened, replica, text};

/// Seeds that once found a bug.
const FOUND: &[u64] = &[];

#[test]
fn groups_keep_their_promises_under_bad_luck() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SEED") {
        return Play::new(seed).run();
    }
    let from = number("FROM").unwrap_or(0);
    let seeds = number("SEEDS").unwrap_or(300);
    let mut total = [0usize; 7];
    for seed in FOUND.iter().copied().chain(from..from + seeds) {
        let played = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed);
            play.run();
            play.counts()
        });
        let counts = played.unwrap_or_else(|_| panic!("SEED={seed} fails"));
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    let [commits, elections, changes, snapshots, reads, crashes, slept] = total;
    println!(
        "{seeds} seeds: {commits} entries committed, {elections} elections won, {changes} memberships told, \
         {snapshots} snapshots installed, {reads} read rounds served, {crashes} crashes, {slept} sleeping leaders killed"
    );
    for count in total {
        assert!(count > 0, "bad luck that never strikes proves nothing: {total:?}");
    }
}

struct Play {
    seed: u64,
    dice: Dice,
    group: Group,
    checker: Checker,
    retired: BTreeSet<ReplicaId>,
    crashes: usize,
    /// Sleeping leaders that were killed for good, and whose groups went on.
    slept: usize,
    quiesces: bool,
    steps: usize,
    /// How often each kind of bad luck strikes, in percent of its base rate; drawn per seed, so that seeds differ in kind.
    moods: [usize; 6],
    trace: bool,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut dice = Dice::new(seed.wrapping_mul(0x1234_5678_9abc_def1));
        let voters = 1 + dice.below(5) as u64;
        let mut roles: Vec<_> = (1..=voters).map(|node| (replica(node), Role::Voter)).collect();
        if dice.chance(30) {
            roles.push((replica(voters + 1), Role::Learner));
        }
        if voters >= 2 && dice.chance(20) {
            roles.push((replica(voters + 2), Role::Witness));
        }
        let (cache, small_appends, check_quorum) = (dice.below(3), dice.chance(30), dice.chance(80));
        let quiesces = dice.chance(50);
        let group = Group::new(&roles, |config| {
            config.quiesce_after_ticks = quiesces.then_some(3);
            config.election_ticks = 5;
            config.heartbeat_ticks = 2;
            config.check_quorum = check_quorum;
            config.snapshot_deadline_ticks = 12;
            config.cache_bytes_max = [0, 200, 1 << 20][cache];
            config.unapplied_bytes_max = [300, 1 << 20, 1 << 20][cache];
            if small_appends {
                config.append_bytes_max = 100;
                config.inflight_messages_max = 2;
            }
        });
        let moods = std::array::from_fn(|_| [0, 50, 100, 300][dice.below(4)]);
        let trace = std::env::var_os("TRACE").is_some();
        let steps = 150 + dice.below(350);
        Play {
            seed,
            dice,
            group,
            checker: Checker::default(),
            retired: BTreeSet::new(),
            crashes: 0,
            slept: 0,
            quiesces,
            steps,
            moods,
            trace,
        }
    }

    fn counts(&self) -> [usize; 7] {
        [
            self.checker.highest() as usize,
            self.checker.elections_won,
            self.checker.changes_committed,
            self.checker.snapshots_installed,
            self.checker.reads_served,
            self.crashes,
            self.slept,
        ]
    }

    fn run(&mut self) {
        self.check("start");
        for _ in 0..self.steps {
            let action = self.act();
            self.check(&action);
        }
        self.calm();
    }

    fn check(&mut self, action: &str) {
        if self.trace {
            println!("> {action}");
            for happened in &self.group.happened {
                match happened {
                    Happened::Effect(id, effect) => {
                        if let Some(line) = text::effect(effect) {
                            println!("    {id:?}: {line}");
                        }
                    }
                    Happened::Delivered(message) => println!("    {}", text::message(message)),
                    Happened::Lost(message) => println!("    {} (lost)", text::message(message)),
                }
            }
        }
        if let Err(broken) = self.checker.check(&mut self.group) {
            panic!("seed {}: {broken}, after: {action}", self.seed);
        }
        for (id, node) in &mut self.group.nodes {
            if node.removed && node.raft.is_some() {
                node.raft = None;
                self.retired.insert(*id);
            }
        }
    }

    /// One thing happens.
    fn act(&mut self) -> String {
        let [loss, disk, crash, change, snapshot, links] = self.moods;
        let weights = [
            250,                             // tick
            450,                             // deliver
            loss / 5,                        // lose
            loss / 8,                        // double
            60,                              // propose
            25,                              // read
            change / 6,                      // change
            change / 20,                     // transfer
            disk / 5,                        // hold or release a disk
            60,                              // persist
            60,                              // apply
            crash / 10,                      // crash
            40,                              // restart
            snapshot / 4,                    // truncate
            60,                              // ship
            60,                              // install
            links / 12,                      // cut
            15,                              // heal
            links / 20,                      // connection lost
            crash / 20,                      // suspect
            disk / 10,                       // hold or release applying
            40 * usize::from(self.quiesces), // lives
        ];
        let mut at = self.dice.below(weights.iter().sum());
        let which = weights.iter().position(|weight| match at.checked_sub(*weight) {
            Some(left) => {
                at = left;
                false
            }
            None => true,
        });
        let ids: Vec<ReplicaId> = self.group.nodes.keys().copied().collect();
        let id = self.dice.pick(&ids).expect("a group has replicas");
        let other = self.dice.pick(&ids).expect("a group has replicas");
        match which.expect("a weight was hit") {
            0 => {
                let random = self.dice.next();
                self.group.tick(id, random);
                format!("tick {id}")
            }
            1 => {
                if !self.group.wire.is_empty() {
                    // Mostly in order, so that something gets done.
                    let len = self.group.wire.len();
                    let at = if self.dice.chance(60) { 0 } else { self.dice.below(len) };
                    self.group.deliver_at(at);
                }
                "deliver".to_owned()
            }
            2 => {
                if !self.group.wire.is_empty() {
                    let at = self.dice.below(self.group.wire.len());
                    self.group.wire.remove(at);
                }
                "lose".to_owned()
            }
            3 => {
                if !self.group.wire.is_empty() {
                    let at = self.dice.below(self.group.wire.len());
                    let again = self.group.wire[at].clone();
                    self.group.wire.push_back(again);
                }
                "double".to_owned()
            }
            4 => {
                let who = self.leader().unwrap_or(id);
                let payload = Payload::from(self.dice.next().to_le_bytes().to_vec());
                if let Some(raft) = self.group.raft_mut(who) {
                    let _ = raft.propose(payload);
                    self.group.poll(who);
                }
                format!("propose {who}")
            }
            5 => {
                let who = self.leader().unwrap_or(id);
                if let Some(round) = self.group.raft_mut(who).and_then(|raft| raft.read().ok()) {
                    self.checker.read_began(who, round);
                    self.group.poll(who);
                }
                format!("read {who}")
            }
            6 => self.change(id),
            7 => {
                let who = self.leader().unwrap_or(id);
                self.group.step(who, Event::TransferLeader { to: other });
                format!("transfer {who} to {other}")
            }
            8 => {
                let node = self.group.node_mut(id);
                node.disk_held = !node.disk_held;
                self.group.poll(id);
                format!("hold or release {id}")
            }
            9 => {
                let count = 1 + self.dice.below(3);
                self.group.persist(id, count);
                format!("persist {id} {count}")
            }
            10 => {
                if self.group.raft(id).is_some() {
                    self.group.apply(id);
                }
                format!("apply {id}")
            }
            11 => {
                self.crash(id);
                format!("crash {id}")
            }
            12 => {
                self.restart(id);
                format!("restart {id}")
            }
            13 => {
                let keep = self.dice.below(3) as u64;
                self.group.truncate(id, keep);
                format!("truncate {id} keep {keep}")
            }
            14 => {
                let ok = self.dice.chance(80);
                let orders: Vec<ReplicaId> = self.group.node(id).orders.keys().copied().collect();
                let unheard: Vec<ReplicaId> = self.group.node(id).shipped.keys().copied().collect();
                let is_heard = self.dice.chance(50);
                match (self.dice.pick(&unheard), self.dice.pick(&orders)) {
                    (Some(to), _) if is_heard => _ = self.group.shipped(id, to),
                    (_, Some(to)) if ok && !is_heard => _ = self.group.ship_unheard(id, to),
                    (_, Some(to)) => _ = self.group.ship(id, to, ok),
                    _ => {}
                }
                format!("ship from {id}")
            }
            15 => {
                self.group.install(id);
                format!("install {id}")
            }
            16 => {
                self.group.cut.insert((id, other));
                if self.dice.chance(50) {
                    self.group.cut.insert((other, id));
                }
                format!("cut {id} {other}")
            }
            17 => {
                if self.dice.chance(50) {
                    self.group.cut.clear();
                } else {
                    self.group.cut.remove(&(id, other));
                }
                "heal".to_owned()
            }
            18 => {
                self.group.step(id, Event::PeerLost { node: other.node() });
                format!("lost {id} {other}")
            }
            19 => {
                let campaign_after_ticks = self.dice.below(4) as u32;
                let node = other.node();
                self.group.step(id, Event::NodeSuspected { node, campaign_after_ticks });
                format!("suspect {id} {other}")
            }
            20 => {
                let node = self.group.node_mut(id);
                node.apply_held = !node.apply_held;
                self.group.poll(id);
                format!("hold or release applying {id}")
            }
            _ if self.dice.chance(80) => {
                self.group.tell_lives(id);
                format!("lives to {id}")
            }
            _ => {
                let life = self.dice.chance(50).then(|| self.group.node(other).life.saturating_sub(1));
                self.group.tell_life(id, other.node(), life);
                format!("life {life:?} of {other} to {id}")
            }
        }
    }

    fn leader(&mut self) -> Option<ReplicaId> {
        let leaders = self.group.leaders();
        self.dice.pick(&leaders)
    }

    fn change(&mut self, id: ReplicaId) -> String {
        let who = self.leader().unwrap_or(id);
        let Some(raft) = self.group.raft_mut(who) else { return "no change".to_owned() };
        let members: Vec<_> =
            raft.membership().members.iter().map(|(id, member)| (*id, member.role)).collect();
        let of = |role: Role| -> Vec<ReplicaId> {
            members.iter().filter(|(_, is)| *is == role).map(|(id, _)| *id).collect()
        };
        let voters = of(Role::Voter);
        let change = match self.dice.below(4) {
            0 if members.len() < 6 => {
                let node = NodeId::new(1 + self.dice.below(8) as u64).expect("not 0");
                MembershipChange::AddLearner { node, raft_address: format!("n{node}:1") }
            }
            1 => match self.dice.pick(&of(Role::Learner)) {
                Some(learner) => MembershipChange::Promote(learner),
                None => return "nobody to promote".to_owned(),
            },
            2 if voters.len() > 1 => MembershipChange::Demote(voters[self.dice.below(voters.len())]),
            _ => match self.dice.pick(&members) {
                Some((member, _)) => MembershipChange::Remove(member),
                None => return "nobody to remove".to_owned(),
            },
        };
        let Some(raft) = self.group.raft_mut(who) else { return "no change".to_owned() };
        let answer = raft.propose_change(&change, None);
        self.group.poll(who);
        if let Ok((_, membership)) = &answer {
            for joiner in membership.members.keys() {
                if !self.group.nodes.contains_key(joiner) {
                    self.group.join(*joiner);
                }
            }
        }
        format!("{who}: {change:?}: {answer:?}")
    }

    fn crash(&mut self, id: ReplicaId) {
        if self.group.raft(id).is_some() {
            self.crashes += 1;
            self.group.crash(id);
        }
    }

    fn restart(&mut self, id: ReplicaId) {
        if self.group.raft(id).is_none() && !self.retired.contains(&id) {
            self.checker.restarted(id);
            self.group.restart(id);
        }
    }

    /// Everything works again: there must be one leader, it must commit, and everybody who belongs to the group must follow. A group
    /// that may sleep then falls asleep, and must go on without the leader with which it did.
    fn calm(&mut self) {
        self.group.cut.clear();
        let ids: Vec<ReplicaId> = self.group.nodes.keys().copied().collect();
        for id in &ids {
            self.restart(*id);
            let node = self.group.node_mut(*id);
            node.disk_held = false;
            node.apply_held = false;
            self.group.poll(*id);
        }
        self.check("calm");
        self.recover(&ids, "the end");
        if !self.quiesces {
            return;
        }
        for _ in 0..40 {
            self.calm_round(&ids);
        }
        let [leader] = self.group.leaders()[..] else {
            panic!("seed {}: no leader in calm weather", self.seed)
        };
        let raft = self.group.raft(leader).expect("it leads");
        let (has_peers, voters) = (raft.membership().members.len() > 1, raft.membership().counting().count());
        let members: Vec<ReplicaId> = raft.membership().members.keys().copied().collect();
        for id in members {
            let is_asleep = self.group.raft(id).is_some_and(|raft| raft.is_asleep());
            assert_eq!(is_asleep, has_peers, "seed {}: {id} of a group with nothing to do", self.seed);
        }
        let before = self.group.wire.len();
        (0..40).for_each(|_| self.calm_round(&ids));
        assert_eq!(self.group.wire.len(), before, "seed {}: a sleeping group talks", self.seed);
        if voters >= 3 {
            self.slept += 1;
            self.group.crash(leader);
            let rest: Vec<ReplicaId> = ids.into_iter().filter(|id| *id != leader).collect();
            self.recover(&rest, "after the leader's death");
        }
    }

    fn recover(&mut self, ids: &[ReplicaId], last_words: &'static str) {
        let mut goal = None;
        for round in 0..400 {
            self.calm_round(ids);
            if goal.is_none()
                && round > 20
                && let Some(leader) = self.leader()
                && let Some(raft) = self.group.raft_mut(leader)
            {
                goal = raft.propose(Payload::from(last_words)).ok();
                self.group.poll(leader);
            }
            if goal.is_some_and(|goal| self.has_recovered(goal.index)) {
                return;
            }
            if goal.is_some() && round % 100 == 99 {
                goal = None;
            }
        }
        let status: Vec<String> = self.group.nodes.iter().map(|(id, node)| text::status(*id, node)).collect();
        panic!("seed {}: no recovery in calm weather\n{}", self.seed, status.join("\n"));
    }

    /// Everybody hears of all lives, ticks once, and all that is on its way arrives.
    fn calm_round(&mut self, ids: &[ReplicaId]) {
        self.group.tick += 1;
        for id in ids {
            self.group.tell_lives(*id);
            self.group.tick -= 1;
            let random = self.dice.next();
            self.group.tick(*id, random);
        }
        for _ in 0..2_000 {
            if self.group.wire.is_empty() {
                break;
            }
            self.group.deliver_at(0);
        }
        for id in ids {
            let unheard: Vec<ReplicaId> = self.group.node(*id).shipped.keys().copied().collect();
            for to in unheard {
                self.group.shipped(*id, to);
            }
            let orders: Vec<ReplicaId> = self.group.node(*id).orders.keys().copied().collect();
            for to in orders {
                self.group.ship(*id, to, true);
            }
            self.group.install(*id);
        }
        self.check("calm round");
    }

    fn has_recovered(&self, index: u64) -> bool {
        let leaders = self.group.leaders();
        let [leader] = leaders[..] else { return false };
        let Some(raft) = self.group.raft(leader) else { return false };
        if raft.applied() < index || raft.committed_membership() != raft.membership() {
            return false;
        }
        let members = raft.membership();
        self.group.nodes.iter().all(|(id, node)| match &node.raft {
            Some(raft) if members.members.contains_key(id) => {
                raft.applied() >= index && matches!(raft.life(), Life::Follower | Life::Leader)
            }
            // A removed replica asks, is told so, and is gone then. One that was removed before its first snapshot has nobody to ask:
            // it waits without a voice (rule M4). Neither has one whose fellow members were all removed, too.
            Some(raft) => {
                let fellows = raft.membership().members.keys().filter(|fellow| *fellow != id);
                raft.is_memberless() || fellows.into_iter().all(|fellow| self.group.raft(*fellow).is_none())
            }
            None => true,
        })
    }
}
