// SPDX-License-Identifier: Apache-2.0

//! Stale reads are prefix-consistent: they show the group as it was behind some entry, and a process never goes back (promise P3).

use std::collections::BTreeMap;

use mraft_kv::query::QueryAnswer;
use mraft_types::{GroupId, Index, ReplicaId};

use super::linearizable::{Question, answers};
use super::{Broken, Checks};

/// See the module.
pub const PROMISE: &str = "stale reads are prefix-consistent";

/// How far each run of a replica was seen to be: one per process of its node.
#[derive(Clone, Debug, Default)]
pub struct Stale(BTreeMap<(GroupId, ReplicaId, u64), Index>);

impl Checks {
    /// A stale read was answered by a replica, in the process with this number.
    pub fn read_stale(
        &mut self,
        group: GroupId,
        (replica, boot): (ReplicaId, u64),
        question: &Question,
        answer: &QueryAnswer,
    ) -> Result<(), Broken> {
        let broken = |how: String| Broken::new(PROMISE, format!("group {group}, {replica}: {how}"));
        let index = answers(self.model(group), question, answer).map_err(broken)?;
        let before = self.stale.0.entry((group, replica, boot)).or_default();
        if index < *before {
            return Err(broken(format!("showed entry {index} after {before}")));
        }
        *before = index;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Applied;
    use super::super::tests::{GROUP, node, put, put_at, replica};
    use super::*;

    #[test]
    fn a_mixture_and_a_step_back_are_found() {
        let mut checks = Checks::default();
        for (index, value) in [(3, "1"), (4, "2")] {
            let applied = Applied { body: put("a", value), result: put_at(index - 2) };
            checks.applied_entry(GROUP, node(1), index, vec![applied]).expect("fine");
        }
        let at = |applied: u64, value: &str| QueryAnswer::Get {
            group_revision: applied - 2,
            applied,
            found: Some((applied - 2, value.into())),
        };
        let a = Question::Key(b"a".to_vec());
        checks.read_stale(GROUP, (replica(1), 1), &a, &at(4, "2")).expect("fine");
        checks.read_stale(GROUP, (replica(2), 1), &a, &at(3, "1")).expect("another node lags");
        checks.read_stale(GROUP, (replica(1), 2), &a, &at(3, "1")).expect("another process may lag too");
        assert!(checks.read_stale(GROUP, (replica(1), 1), &a, &at(3, "1")).is_err(), "it went back");
        assert!(
            checks.read_stale(GROUP, (replica(2), 1), &a, &at(4, "1")).is_err(),
            "what never was together"
        );
    }
}
