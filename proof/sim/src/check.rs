// SPDX-License-Identifier: Apache-2.0

//! The promises, checked while a run goes on. Each finding says which promise broke.
//!
//! Linearizability is checked in linear time: every change of a key has a revision, revisions are the order in which the group
//! applied them, and every answer says at which revision the key was. So it is enough that an operation never sees an older revision
//! than one that was answered before it began, and that every revision holds one value, written by one operation that really asked
//! for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mraft_types::{GroupId, Index, NodeId, ReplicaId, Term};

use crate::machine::{Op, Stored};

/// The promises by name, so that a planted bug can say which of them it breaks.
pub mod promise {
    /// Whatever was answered is there in the end, on every replica.
    pub const SURVIVES: &str = "acknowledged writes survive";
    /// One order of the operations on a key explains all answers.
    pub const LINEARIZABLE: &str = "per-key linearizability";
    /// "Not applied" is the truth.
    pub const HONEST_OUTCOMES: &str = "outcomes are honest";
    /// Replicas that applied the same index applied the same (rule E8).
    pub const CHAINS_EQUAL: &str = "chain hashes are equal";
    /// One leader per term.
    pub const ONE_LEADER: &str = "election safety";
    /// The group's time (rule E1).
    pub const LOG_TIME: &str = "the log's time never goes back and follows no wrong clock";
    /// Deadlines.
    pub const ANSWERED: &str = "every request is answered within its deadline";
    /// Recovery.
    pub const COMES_BACK: &str = "a node comes back from its own disk";
    /// Rule D9.
    pub const NOT_CONDEMNED: &str = "no replica is condemned without damage";
    /// Rule D10, the healthy half.
    pub const LOG_WORKS: &str = "the log works as long as the disk does";
    /// Rule L6 and the order of writes.
    pub const LOG_TAKES_WRITES: &str = "the log takes every write";
    /// Rule D10, the failing half.
    pub const FAILED_LOG_STOPS: &str = "a node whose log failed takes part in nothing";
    /// Decision 9.
    pub const NO_ENTRY_STOPS: &str = "no committed entry stops a replica";
    /// Rule N1, the sender's half.
    pub const STAGEABLE: &str = "a snapshot that arrives whole can be staged";
    /// What is sent is what the receiver reads.
    pub const UNDERSTOOD: &str = "what one node sends, another understands";
    /// What is true of a replica between any two steps.
    pub const INVARIANTS: &str = "every replica keeps its own invariants";
    /// Rule Q2.
    pub const SLEEPERS_WAKE: &str = "nobody sleeps behind a leader that is gone";
    /// Rule T4.
    pub const NOTHING_PANICS: &str = "nothing panics";
    /// Availability after faults.
    pub const GROUPS_COME_BACK: &str = "every group comes back in the calm";
    /// Nobody is left behind.
    pub const MEMBERS_EQUAL: &str = "all members of a group are equal in the end";
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: &'static str,
    /// How.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.how)
    }
}

/// What a client learned from one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// A write was applied and changed the key, which has this revision now.
    Changed(u64),
    /// A write was applied but changed nothing; the key was at this revision.
    Unchanged(u64),
    /// A read saw this.
    Saw(Stored),
}

/// Everything that the checks remember of a run.
#[derive(Debug, Default)]
pub struct Checks {
    /// Per key: the newest revision that an answered operation has seen.
    newest: BTreeMap<(GroupId, u64), u64>,
    /// Per key and revision: the value it set, as far as known.
    values: BTreeMap<(GroupId, u64, u64), Option<u64>>,
    /// Values that clients asked to write, and whether that was refused for good.
    asked: BTreeMap<u64, bool>,
    /// Hash chains at the indexes where a replica ended a batch (rule E8); a chain covers everything before it.
    chains: BTreeMap<(GroupId, Index), u128>,
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
    /// The group's time at the same indexes (rule E1).
    log_times: BTreeMap<(GroupId, Index), u64>,
    /// Acknowledged changes.
    pub acknowledged: u64,
    /// Reads answered.
    pub reads: u64,
}

impl Checks {
    /// The floor that an operation on this key which begins now must not fall below.
    pub fn floor(&self, group: GroupId, key: u64) -> u64 {
        self.newest.get(&(group, key)).copied().unwrap_or(0)
    }

    /// A client is about to ask for this write.
    pub fn asks(&mut self, op: &Op) {
        if let Op::Put { value, .. } | Op::CompareAndSet { value, .. } = op {
            self.asked.insert(*value, false);
        }
    }

    /// The cluster said for good that this write was not and will not be applied.
    pub fn refused(&mut self, op: &Op) -> Result<(), Broken> {
        let (Op::Put { value, .. } | Op::CompareAndSet { value, .. }) = op else { return Ok(()) };
        self.asked.insert(*value, true);
        match self.values.values().any(|known| *known == Some(*value)) {
            true => Err(Broken {
                promise: promise::HONEST_OUTCOMES,
                how: format!("value {value} was answered not_applied, but had been seen before"),
            }),
            false => Ok(()),
        }
    }

    /// An operation was answered. `floor` is [`Checks::floor`] of the moment when it began.
    pub fn learned(
        &mut self,
        group: GroupId,
        key: u64,
        op: Option<&Op>,
        floor: u64,
        learned: Learned,
    ) -> Result<(), Broken> {
        let revision = match learned {
            Learned::Changed(revision) => {
                self.acknowledged += 1;
                let value = match op {
                    Some(Op::Put { value, .. } | Op::CompareAndSet { value, .. }) => Some(*value),
                    _ => None,
                };
                if revision <= floor {
                    return Err(Broken {
                        promise: promise::LINEARIZABLE,
                        how: format!(
                            "a write of key {key} in group {group} got revision {revision}, but {floor} had been answered before it began"
                        ),
                    });
                }
                self.holds(group, key, revision, value)?;
                revision
            }
            Learned::Unchanged(revision) => revision,
            Learned::Saw(stored) => {
                self.reads += 1;
                if stored.revision > 0 {
                    self.holds(group, key, stored.revision, stored.value)?;
                }
                stored.revision
            }
        };
        if revision < floor {
            return Err(Broken {
                promise: promise::LINEARIZABLE,
                how: format!(
                    "key {key} in group {group} was seen at revision {revision}, but {floor} had been answered before"
                ),
            });
        }
        let newest = self.newest.entry((group, key)).or_default();
        *newest = revision.max(*newest);
        Ok(())
    }

    /// Whoever leads, and in the end every replica of a group, must hold at least what was acknowledged.
    pub fn survives(&self, group: GroupId, key: u64, node: NodeId, stored: Stored) -> Result<(), Broken> {
        let floor = self.floor(group, key);
        if stored.revision < floor {
            return Err(Broken {
                promise: promise::SURVIVES,
                how: format!(
                    "key {key} in group {group} is at revision {} on node {node}, but {floor} was answered",
                    stored.revision
                ),
            });
        }
        match self.values.get(&(group, key, stored.revision)) {
            Some(value) if *value != stored.value => Err(Broken {
                promise: promise::SURVIVES,
                how: format!(
                    "key {key} in group {group} holds {:?} at revision {} on node {node}, but it was {value:?}",
                    stored.value, stored.revision
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The keys that were ever seen or written.
    pub fn keys(&self) -> BTreeSet<(GroupId, u64)> {
        self.newest.keys().copied().collect()
    }

    /// A replica applied up to here.
    pub fn applied(&mut self, group: GroupId, node: NodeId, index: Index, chain: u128) -> Result<(), Broken> {
        let known = *self.chains.entry((group, index)).or_insert(chain);
        if known == chain {
            return Ok(());
        }
        Err(Broken {
            promise: promise::CHAINS_EQUAL,
            how: format!(
                "node {node} applied something else up to index {index} of group {group} than another replica"
            ),
        })
    }

    /// The group's time after an applied entry.
    pub fn log_time(&mut self, group: GroupId, index: Index, unix_ms: u64) -> Result<(), Broken> {
        let before = self.log_times.range((group, 0)..(group, index)).next_back();
        let after = self.log_times.range((group, index + 1)..=(group, Index::MAX)).next();
        if before.is_none_or(|(_, earlier)| *earlier <= unix_ms)
            && after.is_none_or(|(_, later)| unix_ms <= *later)
        {
            self.log_times.insert((group, index), unix_ms);
            return Ok(());
        }
        Err(Broken {
            promise: promise::LOG_TIME,
            how: format!(
                "the time of group {group} is {unix_ms} at entry {index}, between {before:?} and {after:?}"
            ),
        })
    }

    /// A replica leads in a term.
    pub fn leads(&mut self, group: GroupId, term: Term, replica: ReplicaId) -> Result<(), Broken> {
        let known = *self.leaders.entry((group, term)).or_insert(replica);
        if known == replica {
            return Ok(());
        }
        Err(Broken {
            promise: promise::ONE_LEADER,
            how: format!("replicas {known} and {replica} both lead group {group} in term {term}"),
        })
    }

    /// The newest term that ever had a leader.
    pub fn newest_term(&self, group: GroupId) -> Option<Term> {
        let of_group = self.leaders.range((group, 0)..=(group, Term::MAX));
        of_group.map(|((_, term), _)| *term).next_back()
    }

    fn holds(&mut self, group: GroupId, key: u64, revision: u64, value: Option<u64>) -> Result<(), Broken> {
        let wrong = |how: String| Err(Broken { promise: promise::LINEARIZABLE, how });
        if let Some(value) = value {
            match self.asked.get(&value) {
                None => {
                    return wrong(format!("key {key} in group {group} holds {value}, which nobody wrote"));
                }
                Some(true) => {
                    return Err(Broken {
                        promise: promise::HONEST_OUTCOMES,
                        how: format!(
                            "value {value} was answered not_applied and is in key {key} of group {group}"
                        ),
                    });
                }
                Some(false) => {}
            }
        }
        let known = *self.values.entry((group, key, revision)).or_insert(value);
        if known == value {
            return Ok(());
        }
        wrong(format!("revision {revision} of key {key} in group {group} is {value:?} and was {known:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(0);

    fn put(value: u64) -> Op {
        Op::Put { key: 1, value }
    }

    fn saw(revision: u64, value: u64) -> Learned {
        Learned::Saw(Stored { revision, value: Some(value) })
    }

    #[test]
    fn a_stale_read_is_found() {
        let mut checks = Checks::default();
        checks.asks(&put(10));
        checks.asks(&put(11));
        checks.learned(GROUP, 1, Some(&put(10)), 0, Learned::Changed(1)).expect("fine");
        checks.learned(GROUP, 1, Some(&put(11)), 1, Learned::Changed(2)).expect("fine");
        checks.learned(GROUP, 1, None, 1, saw(1, 10)).expect("began before the second write was answered");
        let broken = checks.learned(GROUP, 1, None, checks.floor(GROUP, 1), saw(1, 10)).expect_err("stale");
        assert_eq!(broken.promise, promise::LINEARIZABLE);
    }

    #[test]
    fn a_value_from_nowhere_a_refused_one_and_a_second_one_are_found() {
        let mut checks = Checks::default();
        assert!(checks.learned(GROUP, 1, None, 0, saw(1, 99)).is_err());
        checks.asks(&put(10));
        checks.refused(&put(10)).expect("not seen");
        assert_eq!(
            checks.learned(GROUP, 1, None, 0, saw(1, 10)).expect_err("refused").promise,
            promise::HONEST_OUTCOMES
        );
        let mut checks = Checks::default();
        checks.asks(&put(10));
        checks.asks(&put(11));
        checks.learned(GROUP, 1, None, 0, saw(1, 10)).expect("fine");
        assert!(checks.learned(GROUP, 1, None, 0, saw(1, 11)).is_err(), "one revision, one value");
        assert!(checks.refused(&put(10)).is_err(), "seen before it was refused");
    }

    #[test]
    fn e1_a_group_whose_time_goes_back_is_found() {
        let mut checks = Checks::default();
        checks.log_time(GROUP, 5, 100).expect("fine");
        checks.log_time(GROUP, 9, 120).expect("fine");
        checks.log_time(GROUP, 7, 110).expect("a replica that lags");
        assert_eq!(checks.log_time(GROUP, 8, 121).expect_err("back at 9").promise, promise::LOG_TIME);
        assert!(checks.log_time(GROUP, 10, 119).is_err());
    }

    #[test]
    fn a_lost_write_a_second_leader_and_another_history_are_found() {
        let node = |id| NodeId::new(id).expect("a node id");
        let mut checks = Checks::default();
        checks.asks(&put(10));
        checks.learned(GROUP, 1, Some(&put(10)), 0, Learned::Changed(3)).expect("fine");
        assert!(checks.survives(GROUP, 1, node(1), Stored { revision: 2, value: Some(9) }).is_err());
        assert!(checks.survives(GROUP, 1, node(1), Stored { revision: 3, value: None }).is_err());
        checks.survives(GROUP, 1, node(1), Stored { revision: 3, value: Some(10) }).expect("fine");
        checks.leads(GROUP, 4, ReplicaId::new(0, node(1))).expect("fine");
        assert!(checks.leads(GROUP, 4, ReplicaId::new(0, node(2))).is_err());
        checks.applied(GROUP, node(1), 5, 77).expect("fine");
        assert!(checks.applied(GROUP, node(2), 5, 78).is_err());
    }
}
