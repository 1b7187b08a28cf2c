// SPDX-License-Identifier: Apache-2.0

//! Linearizable reads without writing (thesis §6.4, ReadIndex), rules R1 and R2.
//!
//! All reads of a turn share a round. The round's index is the commit index at the moment its heartbeats are sent; when a
//! majority has answered a heartbeat that names this round or a later one, no newer leader can have committed anything before
//! the round began. Round numbers are never reused, so an answer that comes late or twice confirms only rounds that were
//! sent before it: a stale answer releases nothing (etcd#20418).

use std::collections::VecDeque;

use mraft_types::Index;
use mraft_types::limits::MEMBERS_MAX;
use mraft_types::planted;

use crate::effect::Effect;
use crate::event::ReadRefused;
use crate::quorum;
use crate::raft::{Raft, Standing};

/// Most rounds on the way. While there are so many, reads go on joining the next one: the bound costs latency, never a read.
const ROUNDS_MAX: usize = 64;

/// The rounds of one term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reads {
    /// Reads wait for the next round.
    wanted: bool,
    /// Rounds that were sent and are not confirmed, ascending, each with its index.
    sent: VecDeque<(u64, Index)>,
    /// The newest round that was sent in this term; 0 for none.
    newest_sent: u64,
}

impl Reads {
    /// Whether some round is neither confirmed nor void.
    pub(crate) fn has_waiting(&self) -> bool {
        self.wanted || !self.sent.is_empty()
    }

    pub(crate) fn newest_sent(&self) -> u64 {
        self.newest_sent
    }

    /// Rule R2: closes the round that reads were joining, if any; its index is what is committed now.
    pub(crate) fn send(&mut self, round: u64, commit: Index) -> bool {
        if !self.wanted || self.sent.len() >= ROUNDS_MAX {
            return false;
        }
        self.wanted = false;
        self.sent.push_back((round, commit));
        self.newest_sent = round;
        true
    }
}

impl Raft {
    /// Asks for a linearizable read: answers the round that it joins, to be served at [`Effect::ReadReady`] and void at
    /// [`Effect::ReadsVoid`]. A round waits, unsent, until the leader has committed an entry of its term.
    pub fn read(&mut self) -> Result<u64, ReadRefused> {
        if self.is_leader() {
            self.wake();
        }
        match &mut self.standing {
            Standing::Leader(leader) => {
                if !std::mem::replace(&mut leader.reads.wanted, true) {
                    self.round += 1;
                }
                Ok(self.round)
            }
            Standing::Condemned(_) => Err(ReadRefused::Condemned),
            _ => Err(ReadRefused::NotLeader(self.leader)),
        }
    }

    /// Hands out the rounds that a majority of the membership in force has confirmed.
    pub(crate) fn poll_reads(&mut self, out: &mut Vec<Effect>) {
        let Standing::Leader(leader) = &mut self.standing else { return };
        if leader.reads.sent.is_empty() {
            return;
        }
        let mut confirmed = [0; MEMBERS_MAX];
        let mut count = 0;
        for (slot, id) in confirmed.iter_mut().zip(self.log.membership().counting()) {
            *slot = match leader.peers.get(&id) {
                _ if id == self.config.id || planted!(ReadWithoutRound) => u64::MAX,
                Some(peer) => peer.confirmed_round,
                None => 0,
            };
            count += 1;
        }
        let agreed = quorum::agreed(&mut confirmed[..count]);
        while let Some((round, index)) = leader.reads.sent.pop_front_if(|(round, _)| *round <= agreed) {
            out.push(Effect::ReadReady { round, index });
        }
    }
}
