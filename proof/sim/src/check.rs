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
    /// Hash chains at every applied index (rule E8).
    chains: BTreeMap<(GroupId, Index), u128>,
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
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
                promise: "outcomes are honest",
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
                        promise: "per-key linearizability",
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
                promise: "per-key linearizability",
                how: format!(
                    "key {key} in group {group} was seen at revision {revision}, but {floor} had been answered before"
                ),
            });
        }
        let newest = self.newest.entry((group, key)).or_default();
        *newest = revision.max(*newest);
        Ok(())
    }

    /// In the end every replica of a group must hold at least what was acknowledged.
    pub fn survives(&self, group: GroupId, key: u64, node: NodeId, stored: Stored) -> Result<(), Broken> {
        let floor = self.floor(group, key);
        if stored.revision < floor {
            return Err(Broken {
                promise: "acknowledged writes survive",
                how: format!(
                    "key {key} in group {group} is at revision {} on node {node}, but {floor} was answered",
                    stored.revision
                ),
            });
        }
        match self.values.get(&(group, key, stored.revision)) {
            Some(value) if *value != stored.value => Err(Broken {
                promise: "acknowledged writes survive",
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
            promise: "chain hashes are equal",
            how: format!(
                "node {node} applied something else up to index {index} of group {group} than another replica"
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
            promise: "election safety",
            how: format!("replicas {known} and {replica} both lead group {group} in term {term}"),
        })
    }

    fn holds(&mut self, group: GroupId, key: u64, revision: u64, value: Option<u64>) -> Result<(), Broken> {
        let wrong = |how: String| Err(Broken { promise: "per-key linearizability", how });
        if let Some(value) = value {
            match self.asked.get(&value) {
                None => {
                    return wrong(format!("key {key} in group {group} holds {value}, which nobody wrote"));
                }
                Some(true) => {
                    return Err(Broken {
                        promise: "outcomes are honest",
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
        assert_eq!(broken.promise, "per-key linearizability");
    }

    #[test]
    fn a_value_from_nowhere_a_refused_one_and_a_second_one_are_found() {
        let mut checks = Checks::default();
        assert!(checks.learned(GROUP, 1, None, 0, saw(1, 99)).is_err());
        checks.asks(&put(10));
        checks.refused(&put(10)).expect("not seen");
        assert_eq!(
            checks.learned(GROUP, 1, None, 0, saw(1, 10)).expect_err("refused").promise,
            "outcomes are honest"
        );
        let mut checks = Checks::default();
        checks.asks(&put(10));
        checks.asks(&put(11));
        checks.learned(GROUP, 1, None, 0, saw(1, 10)).expect("fine");
        assert!(checks.learned(GROUP, 1, None, 0, saw(1, 11)).is_err(), "one revision, one value");
        assert!(checks.refused(&put(10)).is_err(), "seen before it was refused");
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
