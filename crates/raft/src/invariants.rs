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
