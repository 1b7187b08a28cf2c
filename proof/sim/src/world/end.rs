// SPDX-License-Identifier: Apache-2.0

//! What must hold when everything has come to rest, and what must hold of the time in the log.

use mraft_types::{GroupId, Index, NodeId};

use super::{CALM_ELECTIONS, UNIX_MS, World};
use crate::check::{Broken, promise};
use crate::faults::SANE_SKEW_MS;

/// What of a replica must be the same on all members when nobody writes any more.
#[derive(PartialEq, Eq)]
struct AtRest {
    last_index: Index,
    /// Position, chain, membership, slots and log time.
    meta: Vec<u8>,
    content: Option<u128>,
}

impl World {
    /// All groups took writes, every member of each is there and at the same place with the same content, and holds everything that
    /// was acknowledged.
    pub(super) fn check_end(&mut self) -> Result<(), Broken> {
        for group in (0..self.mix.groups).map(GroupId) {
            if !self.written_in_calm.contains(&group) {
                return Err(Broken {
                    promise: promise::GROUPS_COME_BACK,
                    how: format!(
                        "group {group} took no write within {CALM_ELECTIONS} election timeouts after everything healed"
                    ),
                });
            }
            self.check_members(group)?;
        }
        for (group, key) in self.checks.keys() {
            for node in 0..self.nodes.len() {
                if let Some(stored) = self.stored(node, group, key) {
                    self.checks.survives(group, key, self.ids[node], stored)?;
                }
            }
        }
        Ok(())
    }

    fn check_members(&mut self, group: GroupId) -> Result<(), Broken> {
        let mut first: Option<(NodeId, AtRest)> = None;
        let is_member = |node: usize| self.nodes[node].records.iter().any(|record| record.group == group);
        let members: Vec<usize> = (0..self.nodes.len()).filter(|node| is_member(*node)).collect();
        for node in members {
            let id = self.ids[node];
            let broken = |how: String| Err(Broken { promise: promise::MEMBERS_EQUAL, how });
            let Some((applied, found)) = self.at_rest(node, group) else {
                return broken(format!("group {group} has no working replica on node {id}"));
            };
            if found.last_index != applied {
                let last = found.last_index;
                return broken(format!("node {id} applied {applied} of {last} entries of group {group}"));
            }
            match &first {
                None => first = Some((id, found)),
                Some((_, expected)) if *expected == found => {}
                Some((other, expected)) => {
                    return broken(format!(
                        "group {group} is at entry {} on node {other} and at {} on node {id}; the same content: {}",
                        expected.last_index,
                        found.last_index,
                        expected.content == found.content
                    ));
                }
            }
        }
        Ok(())
    }

    fn at_rest(&mut self, node: usize, group: GroupId) -> Option<(Index, AtRest)> {
        let process = self.nodes[node].process.as_mut()?;
        let last_index = process.core.engine().raft(group)?.last_index();
        let applier = process.apply.applier(group)?;
        let content = applier.hash().ok()?.content;
        Some((applier.meta().applied.index, AtRest { last_index, meta: applier.meta().encode(), content }))
    }

    /// A group's time never goes back, and one clock that is far ahead does not take it along (rule E1).
    pub(super) fn check_log_time(
        &mut self,
        group: GroupId,
        index: Index,
        unix_ms: u64,
    ) -> Result<(), Broken> {
        let latest = UNIX_MS + self.now_us / 1000 + SANE_SKEW_MS;
        if unix_ms > latest {
            return Err(Broken {
                promise: promise::LOG_TIME,
                how: format!(
                    "the time of group {group} is {unix_ms} at entry {index}, and no sane clock is beyond {latest}"
                ),
            });
        }
        self.checks.log_time(group, index, unix_ms)
    }
}
