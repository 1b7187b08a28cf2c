// SPDX-License-Identifier: Apache-2.0

//! What is true of a replica between any two steps, for tests and the simulator; and what two replicas may differ in and yet always do the
//! same, for whoever explores all of them.

use crate::raft::{Raft, Standing};

impl Raft {
    /// Numbers of writes, and of orders to read from the log, tell those that are not answered apart and mean nothing else. Here they
    /// begin anew, so that replicas which differ only in how much they did before are equal. Answers by how much the numbers of writes
    /// fell: the caller lowers those of its writes that are not durable. Only for a replica that waits for no answer from the log.
    pub fn count_anew(&mut self) -> u64 {
        self.log_order = 0;
        self.durability.count_anew()
    }

    /// Every invariant that one replica keeps on its own; the first that is broken.
    pub fn check(&self) -> Result<(), String> {
        self.log.check()?;
        self.durability.check(&self.log)?;
        self.check_sleep()?;
        if self.log.last_position().term > self.term && self.condemned().is_none() {
            return Err(format!(
                "the log is of term {:?}, the replica of {}",
                self.log.last_position(),
                self.term
            ));
        }
        if self.leader == Some(self.config.id) && !self.is_leader() {
            return Err("it follows itself".to_owned());
        }
        match &self.standing {
            Standing::Leader(leader) => {
                if self.leader != Some(self.config.id) {
                    return Err(format!("it leads but follows {:?}", self.leader));
                }
                let members = self.log.membership().members.keys();
                if !leader.peers.keys().eq(members.filter(|id| **id != self.config.id)) {
                    return Err(format!("its peers {:?} are not the members", leader.peers.keys()));
                }
                leader.peers.values().try_for_each(|peer| peer.check(self.log.last()))
            }
            Standing::PreCandidate(_) | Standing::Candidate(_) | Standing::Condemned(_)
                if self.leader.is_some() =>
            {
                Err(format!("as {:?} it follows {:?}", self.life(), self.leader))
            }
            Standing::Memberless if !self.is_memberless() => Err("memberless, but it has a log".to_owned()),
            Standing::Follower if self.is_memberless() => Err("a follower without a log".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{HardState, LogPosition, LogStart, Member, Membership, NodeId, ReplicaId, Role};

    use super::*;
    use crate::{AppendReply, Body, Config, Effect, Event, Message, Restored};

    fn replica(node: u64) -> ReplicaId {
        ReplicaId::new(0, NodeId::new(node).expect("a node id"))
    }

    /// One of two voters, with its log at the genesis; index 0 is a log that it never had.
    fn voter(index: u64) -> Raft {
        let member = |node| (replica(node), Member { role: Role::Voter, raft_address: format!("h:{node}") });
        let membership = Membership { members: [1, 2].map(member).into(), ..Membership::default() };
        let start = match index {
            0 => LogStart::default(),
            _ => LogStart { position: LogPosition { index, term: 1 }, membership },
        };
        let config = Config {
            id: replica(1),
            election_ticks: 10,
            heartbeat_ticks: 2,
            check_quorum: true,
            quiesce_after_ticks: Some(3),
            append_bytes_max: 1 << 20,
            inflight_bytes_max: 1 << 20,
            inflight_messages_max: 16,
            unapplied_bytes_max: 1 << 20,
            cache_bytes_max: 1 << 20,
            snapshot_deadline_ticks: 100,
        };
        let restored = Restored {
            hard_state: HardState { term: start.position.term, vote: None, commit: index },
            last_index: index,
            terms: vec![(index, start.position.term)],
            applied: start.position,
            start,
            memberships: Vec::new(),
            condemned: None,
        };
        Raft::new(config, restored).expect("a fresh replica")
    }

    /// Carries everything out at once; the other voter says yes.
    fn settle(raft: &mut Raft) {
        loop {
            let mut effects = Vec::new();
            raft.poll(&mut effects);
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Write(write) => raft.step(Event::Persisted { write: write.number }),
                    Effect::Apply { last, .. } => raft.step(Event::Applied { index: last }),
                    Effect::Send(Message { term, body, .. }) => {
                        let granted = true;
                        let body = match body {
                            Body::PreVote { .. } => Body::PreVoteReply { granted },
                            Body::Vote { .. } => Body::VoteReply { granted },
                            Body::Append { prev, entries, .. } => {
                                let matched = prev.index + entries.len() as u64;
                                Body::AppendReply(AppendReply::Accepted { matched })
                            }
                            Body::Heartbeat { round, .. } => Body::HeartbeatReply { round },
                            Body::Quiesce { number, .. } => Body::QuiesceReply { number, agreed: true },
                            _ => continue,
                        };
                        raft.step(Event::Received(Message { from: replica(2), to: replica(1), term, body }));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Leads, has nothing to do and sleeps.
    fn sleeping_leader() -> Raft {
        let mut raft = voter(1);
        for node in [1, 2] {
            raft.step(Event::PeerLife { node: replica(node).node(), life: Some(7), silent_ticks: 0 });
        }
        for number in 1..100 {
            raft.step(Event::Tick { number, random: 0 });
            settle(&mut raft);
            raft.check().expect("invariants");
            if raft.is_leader() && raft.is_asleep() {
                return raft;
            }
        }
        panic!("it does not fall asleep: {raft:?}");
    }

    fn leader(raft: &mut Raft) -> &mut crate::replication::Leader {
        match &mut raft.standing {
            Standing::Leader(leader) => leader,
            other => panic!("it does not lead: {other:?}"),
        }
    }

    fn peer(raft: &mut Raft) -> &mut crate::progress::Progress {
        leader(raft).peers.get_mut(&replica(2)).expect("the other voter")
    }

    type Break = (&'static str, fn(&mut Raft));

    fn assert_noticed(sound: &Raft, breaks: &[Break]) {
        sound.check().expect("invariants");
        for (what, breaks) in breaks {
            let mut raft = sound.clone();
            breaks(&mut raft);
            assert!(raft.check().is_err(), "{what}: not noticed");
        }
    }

    #[test]
    fn a_leader_that_is_not_sound_is_noticed() {
        let mut awake = sleeping_leader();
        awake.wake();
        assert_noticed(
            &awake,
            &[
                ("a log of a later term", |raft| raft.term = 1),
                ("it leads and follows", |raft| raft.leader = Some(replica(2))),
                ("it leads and knows no leader", |raft| raft.leader = None),
                ("a member that is no peer", |raft| leader(raft).peers.clear()),
                ("a peer is sent what it has", |raft| peer(raft).next = peer(raft).matched),
                ("a peer has more than there is", |raft| {
                    peer(raft).matched = 99;
                    peer(raft).next = 100;
                }),
                ("a peer waits for no snapshot", |raft| peer(raft).state = crate::progress::State::Snapshot),
                ("something behind the next entry is on its way", |raft| in_flight(raft, &[99])),
                ("what is acknowledged is on its way", |raft| in_flight(raft, &[0])),
                ("the same is on its way twice", |raft| {
                    peer(raft).next += 2;
                    in_flight(raft, &[1, 1]);
                }),
                ("a log that is not sound", |raft| raft.log.reset(LogStart::default())),
            ],
        );
    }

    /// Appends to the peer are on their way, each up to so many entries behind what it has.
    fn in_flight(raft: &mut Raft, ends: &[u64]) {
        let peer = peer(raft);
        let mut pipeline = crate::progress::Pipeline::default();
        ends.iter().for_each(|end| pipeline.sent(peer.matched + end, 10));
        peer.state = crate::progress::State::Replicate(pipeline);
    }

    #[test]
    fn q1_a_leader_that_sleeps_without_everybodys_consent_or_with_something_to_do_is_noticed() {
        assert_noticed(
            &sleeping_leader(),
            &[
                ("a peer that did not agree", |raft| {
                    let offer = leader(raft).quiescing.offer.take();
                    leader(raft).quiescing.offer = offer.map(|offer| offer.without_consent());
                }),
                ("an entry that is not committed", |raft| {
                    let offer = leader(raft).quiescing.offer.clone();
                    raft.propose("x".into()).expect("it leads");
                    leader(raft).quiescing.offer = offer;
                }),
            ],
        );
    }

    #[test]
    fn a_follower_that_is_not_sound_is_noticed() {
        let mut follower = voter(1);
        follower.step(Event::PeerLife { node: replica(2).node(), life: Some(7), silent_ticks: 0 });
        follower.become_follower(1, Some(replica(2)));
        settle(&mut follower);
        assert_noticed(
            &follower,
            &[
                ("it follows itself", |raft| raft.leader = Some(replica(1))),
                ("it has no log", |raft| raft.log.reset(LogStart::default())),
                ("it has a log and waits for one", |raft| raft.standing = Standing::Memberless),
                ("it is condemned and follows", |raft| {
                    raft.standing = Standing::Condemned(mraft_types::CondemnedReason::LogLost);
                }),
                ("it asks for votes and follows", |raft| {
                    raft.standing = Standing::Candidate(crate::quorum::Ballot::default());
                }),
            ],
        );
        let mut asleep = follower;
        asleep.bound_to = Some(7);
        assert_noticed(
            &asleep,
            &[
                ("bound to another life", |raft| raft.bound_to = Some(8)),
                ("bound to nobody", |raft| raft.leader = None),
                ("asleep while it asks whether it could win", |raft| {
                    raft.leader = None;
                    raft.standing = Standing::PreCandidate(crate::quorum::Ballot::default());
                }),
            ],
        );
        let never_had_a_log = voter(0);
        assert_noticed(
            &never_had_a_log,
            &[("it follows without a log", |raft| raft.standing = Standing::Follower)],
        );
    }
}
