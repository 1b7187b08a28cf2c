// SPDX-License-Identifier: Apache-2.0

//! Outcomes are honest (rules E3, E4): what was answered `not_applied` never shows up, what was answered `applied` was, with that answer.

use std::collections::BTreeSet;

use mraft_types::{GroupId, Index};

use super::{Broken, Checks};

/// See the module.
pub const PROMISE: &str = "outcomes are honest";

/// Commands that were refused for good.
#[derive(Clone, Debug, Default)]
pub struct Refused(BTreeSet<Vec<u8>>);

impl Refused {
    /// A command was applied: it must not be one that was refused.
    pub fn is_applied(&self, body: &[u8], group: GroupId, index: Index) -> Result<(), Broken> {
        match self.0.contains(body) {
            true => Err(Broken::new(
                PROMISE,
                format!(
                    "a command was answered not_applied and is entry {index} of group {group} now: {body:?}"
                ),
            )),
            false => Ok(()),
        }
    }
}

impl Checks {
    /// A client was told for good that its command was not applied and never will be.
    pub fn refused(&mut self, group: GroupId, body: &[u8]) -> Result<(), Broken> {
        if let Some(index) = self.model(group).place(body) {
            let how = format!(
                "a command was answered not_applied, but is entry {index} of group {group}: {body:?}"
            );
            return Err(Broken::new(PROMISE, how));
        }
        self.refused.0.insert(body.to_vec());
        Ok(())
    }

    /// A client was told that its command was applied at this index, with this answer.
    pub fn is_true(
        &mut self,
        group: GroupId,
        body: &[u8],
        index: Index,
        result: &[u8],
    ) -> Result<(), Broken> {
        let entry = self.model(group).entry(index).unwrap_or_default();
        if entry.iter().any(|applied| applied.body == body && applied.result == result) {
            return Ok(());
        }
        let how = format!(
            "a command was answered applied at {index} of group {group} with {result:?}: there is {entry:?}"
        );
        Err(Broken::new(PROMISE, how))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Applied;
    use super::super::tests::{GROUP, node, put, put_at};
    use super::*;

    #[test]
    fn a_refused_command_that_is_applied_before_or_after_is_found() {
        let applied = || vec![Applied { body: put("a", "1"), result: put_at(1) }];
        let mut checks = Checks::default();
        checks.refused(GROUP, &put("a", "1")).expect("nobody applied it");
        assert_eq!(checks.applied_entry(GROUP, node(1), 3, applied()).expect_err("refused").promise, PROMISE);
        let mut checks = Checks::default();
        checks.applied_entry(GROUP, node(1), 3, applied()).expect("fine");
        assert!(checks.refused(GROUP, &put("a", "1")).is_err());
    }

    #[test]
    fn an_answer_for_another_place_or_with_another_result_is_found() {
        let mut checks = Checks::default();
        let applied = vec![Applied { body: put("a", "1"), result: put_at(1) }];
        checks.applied_entry(GROUP, node(1), 3, applied).expect("fine");
        checks.is_true(GROUP, &put("a", "1"), 3, &put_at(1)).expect("the truth");
        assert!(checks.is_true(GROUP, &put("a", "1"), 4, &put_at(1)).is_err());
        assert!(checks.is_true(GROUP, &put("a", "1"), 3, &put_at(2)).is_err());
        assert!(checks.is_true(GROUP, &put("a", "2"), 3, &put_at(1)).is_err());
    }
}
