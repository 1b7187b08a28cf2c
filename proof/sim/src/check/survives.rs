// SPDX-License-Identifier: Apache-2.0

//! Acknowledged writes survive (promise P1): whoever leads holds all that was acknowledged, and so does every replica in the end.

use std::collections::BTreeMap;

use mraft_kv::query::ScanEntry;
use mraft_types::{GroupId, Index, NodeId};

use super::{Broken, Checks};

/// See the module.
pub const PROMISE: &str = "acknowledged writes survive";

/// The last acknowledged write of each group, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    last: BTreeMap<GroupId, Index>,
    /// Acknowledged writes of all groups.
    pub count: u64,
}

impl Acknowledged {
    /// A write was acknowledged as part of this entry.
    pub fn add(&mut self, group: GroupId, index: Index) {
        let last = self.last.entry(group).or_default();
        *last = index.max(*last);
        self.count += 1;
    }

    /// What was above this index was given up (rule D9).
    pub fn give_up(&mut self, group: GroupId, from: Index) {
        let last = self.last.entry(group).or_default();
        *last = from.min(*last);
    }
}

impl Checks {
    /// A leader that may serve has applied all that it knows to be committed: up to here.
    pub fn leader_holds(&self, group: GroupId, node: NodeId, applied: Index) -> Result<(), Broken> {
        let last = self.acknowledged.last.get(&group).copied().unwrap_or(0).max(self.order.floor(group));
        if applied >= last {
            return Ok(());
        }
        let how =
            format!("node {node} leads group {group} and has {applied} entries, but {last} was answered");
        Err(Broken::new(PROMISE, how))
    }

    /// In the end: what a replica holds, behind its last entry.
    pub fn holds(
        &mut self,
        group: GroupId,
        node: NodeId,
        applied: Index,
        content: &[ScanEntry],
    ) -> Result<(), Broken> {
        self.leader_holds(group, node, applied)?;
        let model = self.model(group);
        let expected: Vec<ScanEntry> = model
            .keys_at(applied)
            .map(|(key, revision, value)| ScanEntry { key: key.to_vec(), revision, value: value.to_vec() })
            .collect();
        if expected == content {
            return Ok(());
        }
        let how = format!("node {node} holds {content:?} of group {group}, where {expected:?} is the truth");
        Err(Broken::new(PROMISE, how))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Applied;
    use super::super::tests::{GROUP, node, put, put_at};
    use super::*;

    #[test]
    fn a_leader_without_an_acknowledged_write_and_a_lost_key_are_found() {
        let mut checks = Checks::default();
        let applied = Applied { body: put("a", "1"), result: put_at(1) };
        checks.applied_entry(GROUP, node(1), 3, vec![applied]).expect("fine");
        checks.acknowledged.add(GROUP, 3);
        assert!(checks.leader_holds(GROUP, node(2), 2).is_err());
        checks.leader_holds(GROUP, node(1), 3).expect("it has it");
        let a = ScanEntry { key: b"a".to_vec(), revision: 1, value: b"1".to_vec() };
        checks.holds(GROUP, node(1), 4, std::slice::from_ref(&a)).expect("fine");
        assert!(checks.holds(GROUP, node(1), 4, &[]).is_err(), "it is gone");
        assert!(checks.holds(GROUP, node(1), 2, &[]).is_err(), "it is behind");
    }
}
