// SPDX-License-Identifier: Apache-2.0

//! What is true of a replica between any two steps, for tests and the simulator.

use crate::raft::{Raft, Standing};

impl Raft {
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
