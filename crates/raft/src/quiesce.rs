// SPDX-License-Identifier: Apache-2.0

//! Groups that have nothing to do fall asleep (rules Q1 to Q3): no heartbeats, no elections, until something happens.
//!
//! A leader that had nothing to do for a while offers to be quiet, in place of its heartbeats. Who has everything that the leader has,
//! committed and durable, agrees and from then on waits without a time limit; when all have agreed the leader says nothing more. What
//! takes the place of heartbeats are the *lives* of nodes: a value that a host tells all others all the time, for all its groups at once,
//! and that changes whenever one of its replicas may have stopped answering for its group, or has something to tell that may get lost. A
//! sleeping follower is bound to the life that its leader named; another one, or none for an election timeout, wakes it. So does every
//! message of a member, questions for votes apart, and, on the leader, everything that is asked of it. From then on the election timer runs
//! as always; of the time asleep that counts for which nothing was heard of the leader's node.
//!
//! Sleep is never needed for safety: it takes messages away, not rules. Who wakes too often costs an election timeout at most; who does
//! not wake would wait for ever, so whatever is not known to be harmless wakes.

use std::collections::BTreeSet;

use mraft_types::planted;
use mraft_types::{Index, NodeId, ReplicaId};

use crate::admission::Ignored;
use crate::durability::After;
use crate::election::ElectionTimer;
use crate::message::Body;
use crate::progress::Progress;
use crate::raft::{Raft, Standing};

/// A leader's way into sleep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Quiescing {
    /// Ticks without anything to do until the next offer.
    wait_ticks: u32,
    pub(crate) offer: Option<Offer>,
}

/// What the others were asked to agree to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Offer {
    /// Tells the answers to this one from those to earlier ones.
    pub(crate) number: u64,
    /// What the leader's node says of itself.
    pub(crate) life: u64,
    ticks: u32,
    agreed: BTreeSet<ReplicaId>,
    /// Everybody agreed: nothing is said any more.
    pub(crate) is_taken: bool,
}

#[cfg(test)]
impl Offer {
    /// Taken, although nobody agreed.
    pub(crate) fn without_consent(self) -> Offer {
        Offer { agreed: BTreeSet::new(), ..self }
    }
}

impl Raft {
    /// Whether it sleeps: as a leader it sends nothing, as a follower it waits without a time limit.
    pub fn is_asleep(&self) -> bool {
        match &self.standing {
            Standing::Leader(leader) => leader.quiescing.offer.as_ref().is_some_and(|offer| offer.is_taken),
            _ => self.bound_to.is_some(),
        }
    }

    /// Changes [`crate::Config::quiesce_after_ticks`]. To be followed by a poll.
    pub fn set_quiesce_after_ticks(&mut self, ticks: Option<u32>) {
        self.config.quiesce_after_ticks = ticks;
        self.wake();
    }

    /// Something happened, or may have: time runs again, and a leader says so at once.
    pub(crate) fn wake(&mut self) {
        if self.bound_to.take().is_some() {
            self.timer = ElectionTimer::default();
        }
        let Standing::Leader(leader) = &mut self.standing else { return };
        leader.quiescing.wait_ticks = self.config.quiesce_after_ticks.unwrap_or(0);
        let Some(offer) = leader.quiescing.offer.take() else { return };
        // Whoever agreed may be asleep.
        leader.heartbeat_due = true;
        if offer.is_taken {
            // Rule Q3: nobody was asked for an answer meanwhile. That their nodes lived is what counted.
            leader.begin_quorum_check();
        }
    }

    /// Rule Q1, the leader's half: whether to offer sleep, or to take the offer back.
    pub(crate) fn tick_quiescing(&mut self) {
        if self.config.quiesce_after_ticks.is_none() {
            return;
        }
        if !self.has_nothing_to_do() {
            return self.wake();
        }
        let life = self.lives.get(&self.config.id.node()).copied();
        let Standing::Leader(leader) = &mut self.standing else { return };
        let quiescing = &mut leader.quiescing;
        quiescing.wait_ticks = quiescing.wait_ticks.saturating_sub(1);
        match &mut quiescing.offer {
            Some(offer) => {
                offer.ticks = offer.ticks.saturating_add(1);
                if offer.ticks > self.config.election_ticks {
                    // Somebody does not answer: it is heartbeats that tell who lives, and the others must hear some.
                    self.withdraw();
                }
            }
            None if quiescing.wait_ticks == 0 => {
                let all_live = leader.peers.keys().all(|peer| self.lives.contains_key(&peer.node()));
                if let Some(life) = life.filter(|_| all_live && !leader.peers.is_empty()) {
                    self.offers += 1;
                    quiescing.offer = Some(Offer {
                        number: self.offers,
                        life,
                        ticks: 0,
                        agreed: BTreeSet::new(),
                        is_taken: false,
                    });
                }
            }
            None => {}
        }
    }

    /// Somebody does not agree: asking again at once would only wake all others again and again.
    fn withdraw(&mut self) {
        self.wake();
        if let Standing::Leader(leader) = &mut self.standing {
            let wait_ticks = &mut leader.quiescing.wait_ticks;
            *wait_ticks = wait_ticks.saturating_add(self.config.election_ticks);
        }
    }

    /// Rule Q1: everything is committed, and every member has acknowledged it and was told that.
    fn has_nothing_to_do(&self) -> bool {
        let Standing::Leader(leader) = &self.standing else { return false };
        let last = self.log.last();
        let is_done = |peer: &Progress| peer.is_done(last);
        self.has_committed_in_term()
            && self.log.commit() == last
            && self.log.applied() == last
            && self.durability.durable_index() == last
            && leader.transfer.is_none()
            && !leader.reads.has_waiting()
            && (leader.peers.values().all(is_done) || planted!(SleepUnmatched))
    }

    /// Rule Q1, the follower's half. The leader knows that everything up to `last` was acknowledged here.
    pub(crate) fn handle_quiesce(&mut self, from: ReplicaId, last: Index, life: u64, number: u64) {
        if self.is_memberless() {
            return self.ignore(Ignored::Memberless);
        }
        self.follow_commit(last);
        let agreed = self.config.quiesce_after_ticks.is_some()
            && matches!(self.standing, Standing::Follower)
            && self.log.last() == last
            && self.log.commit() == last
            && self.log.applied() == last
            && self.durability.durable_index() == last
            && self.log.membership().members.contains_key(&from)
            && self.lives.get(&from.node()) == Some(&life);
        self.bound_to = agreed.then_some(life);
        self.send(After::Term, from, Body::QuiesceReply { number, agreed });
    }

    pub(crate) fn handle_quiesce_reply(&mut self, from: ReplicaId, number: u64, agreed: bool) {
        let Some(peer) = self.peer(from) else { return };
        peer.answered();
        let Standing::Leader(leader) = &mut self.standing else { return };
        let offer = leader.quiescing.offer.as_mut().filter(|offer| offer.number == number);
        match offer {
            None => self.ignore(Ignored::Stale),
            Some(_) if !agreed => self.withdraw(),
            Some(offer) => {
                offer.agreed.insert(from);
                offer.is_taken = leader.peers.keys().all(|peer| offer.agreed.contains(peer));
            }
        }
    }

    /// Rule Q2: what a node says of its life, or that it is silent; and for how long it had said nothing until now.
    pub(crate) fn handle_peer_life(&mut self, node: NodeId, life: Option<u64>, silent_ticks: u32) {
        // A change that is not committed may be undone, and nobody tells again then.
        let memberships = [self.log.membership(), self.log.committed_membership()];
        let is_members = |node: NodeId| {
            memberships.iter().any(|membership| membership.members.keys().any(|id| id.node() == node))
        };
        self.lives.retain(|known, _| is_members(*known));
        let before = match life.filter(|_| is_members(node)) {
            Some(life) => self.lives.insert(node, life),
            None => self.lives.remove(&node),
        };
        let concerns = self.is_leader() || self.leader.is_some_and(|leader| leader.node() == node);
        if concerns && before != self.lives.get(&node).copied() && !planted!(LifeIgnored) {
            let slept_ticks = self.bound_to.map(|_| self.timer.elapsed_ticks());
            self.wake();
            if let Some(slept_ticks) = slept_ticks {
                // The leader was not heard of for as long, asleep or not: another whole timeout would be one too many (promise P7).
                self.timer.credit(silent_ticks.min(slept_ticks));
            }
        }
        if let (None, Standing::Leader(leader)) = (life, &mut self.standing) {
            // Nobody counts on it from now on, until it answers.
            let silent = leader.peers.iter_mut().filter(|(id, _)| id.node() == node);
            silent.for_each(|(_, peer)| peer.silent_ticks = self.config.election_ticks);
        }
    }

    /// What may be heard without waking up: answers that were on their way, and, as long as the leader's node lives, the questions of
    /// others whether to depose it (rule Q3).
    pub(crate) fn wakes(&self, from: ReplicaId, body: &Body) -> bool {
        match (&self.standing, body) {
            (Standing::Leader(_), Body::HeartbeatReply { .. }) => self.is_asleep(),
            (Standing::Leader(_), Body::QuiesceReply { .. }) => false,
            (Standing::Follower, Body::PreVote { .. } | Body::Vote { transfer: false, .. }) => {
                self.leader == Some(from)
            }
            _ => true,
        }
    }

    /// For [`Raft::check`].
    pub(crate) fn check_sleep(&self) -> Result<(), String> {
        let asleep = || format!("asleep as {:?} behind {:?}", self.life(), self.leader);
        if let Standing::Leader(leader) = &self.standing {
            return match &leader.quiescing.offer {
                Some(_) if !self.has_nothing_to_do() => Err(format!("{} with something to do", asleep())),
                Some(offer) if offer.is_taken && !leader.peers.keys().eq(&offer.agreed) => {
                    Err(format!("{} as only {:?} agreed", asleep(), offer.agreed))
                }
                _ => Ok(()),
            };
        }
        let Some(life) = self.bound_to else { return Ok(()) };
        let is_bound = self.leader.is_some_and(|leader| self.lives.get(&leader.node()) == Some(&life));
        if matches!(self.standing, Standing::Follower) && is_bound && self.log.commit() == self.log.last() {
            return Ok(());
        }
        Err(format!("{}, bound to life {life}", asleep()))
    }
}
