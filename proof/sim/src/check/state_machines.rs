// SPDX-License-Identifier: Apache-2.0

//! State machine safety (Raft, figure 3): no two replicas apply different commands at one index, and what a replica answers is what the
//! commands before it make of it. No command is applied twice.

use mraft_types::{GroupId, Index, NodeId};

use super::model::Applied;
use super::{Broken, Checks};

/// See the module.
pub const PROMISE: &str = "state machine safety";

impl Checks {
    /// A replica applied all commands of an entry.
    pub fn applied_entry(
        &mut self,
        group: GroupId,
        node: NodeId,
        index: Index,
        commands: Vec<Applied>,
    ) -> Result<(), Broken> {
        let broken = |how: String| Err(Broken::new(PROMISE, format!("group {group} on node {node}: {how}")));
        let model = self.model(group);
        if index <= model.last() {
            return match model.entry(index) {
                Some(known) if known == commands => Ok(()),
                Some(known) => {
                    broken(format!("applied {commands:?} at {index}, where others applied {known:?}"))
                }
                None => broken(format!("applied {commands:?} at {index}, where others applied nothing")),
            };
        }
        let bodies: Vec<Vec<u8>> = commands.iter().map(|command| command.body.clone()).collect();
        let results: Vec<Vec<u8>> = commands.iter().map(|command| command.result.clone()).collect();
        match model.append(index, commands) {
            Err(how) => return broken(how),
            Ok(expected) if expected == results => {}
            Ok(expected) => {
                return broken(format!("answered {results:?} at {index}, where {expected:?} is the truth"));
            }
        }
        bodies.iter().try_for_each(|body| self.refused.is_applied(body, group, index))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{GROUP, node, put, put_at};
    use super::*;

    fn entry(value: &str, revision: u64) -> Vec<Applied> {
        vec![Applied { body: put("a", value), result: put_at(revision) }]
    }

    #[test]
    fn another_command_another_answer_and_a_second_time_are_found() {
        let mut checks = Checks::default();
        checks.applied_entry(GROUP, node(1), 3, entry("1", 1)).expect("the first");
        checks.applied_entry(GROUP, node(2), 3, entry("1", 1)).expect("the same");
        assert!(checks.applied_entry(GROUP, node(2), 3, entry("2", 1)).is_err(), "another command");
        assert!(checks.applied_entry(GROUP, node(2), 2, entry("2", 1)).is_err(), "where others had none");
        assert!(checks.applied_entry(GROUP, node(2), 4, entry("2", 7)).is_err(), "a wrong answer");
        assert!(checks.applied_entry(GROUP, node(2), 5, entry("1", 2)).is_err(), "twice");
    }
}
