// SPDX-License-Identifier: Apache-2.0

//! What must hold when everything has come to rest, and what must hold of the time in the log.

use std::path::Path;

use mraft::files::group_directory;
use mraft_kv::query::{QueryAnswer, ScanEntry};
use mraft_types::{GroupId, Index, NodeId};

use super::{UNIX_MS, WRITTEN_ELECTIONS, World};
use crate::check::linearizable::Question;
use crate::check::{Broken, calm};
use crate::clients::query;
use crate::mix::SANE_SKEW_MS;
use crate::node::{DATA, SEGMENTS_TARGET};

/// What of a replica must be the same on all members when nobody writes any more.
#[derive(PartialEq, Eq)]
struct AtRest {
    last_index: Index,
    /// Position, chain, membership, slots and log time.
    meta: Vec<u8>,
    content: Option<u128>,
}

impl World {
    /// Every group took a write by now.
    pub(super) fn check_written(&self) -> Result<(), Broken> {
        self.owed.pick(0).map_or(Ok(()), |group| {
            let how = format!(
                "group {group} took no write within {WRITTEN_ELECTIONS} election timeouts after everything healed"
            );
            Err(Broken::new(calm::GROUPS_COME_BACK, how))
        })
    }

    /// Every member of each group is there and at the same place with the same content, and holds everything that was acknowledged.
    pub(super) fn check_end(&mut self) -> Result<(), Broken> {
        for group in (0..self.mix.groups).map(GroupId) {
            self.checks.resting_terms.check(group, self.checks.elections.newest_term(group))?;
            self.check_members(group)?;
        }
        (0..self.nodes.len()).try_for_each(|node| self.check_space(node))
    }

    pub(super) fn note_resting_terms(&mut self) {
        for group in (0..self.mix.groups).map(GroupId) {
            self.checks.resting_terms.note(group, self.checks.elections.newest_term(group));
        }
    }

    /// What is not needed is gone from the disk.
    fn check_space(&self, node: usize) -> Result<(), Broken> {
        let own = &self.nodes[node];
        let Some(process) = own.process.as_ref().filter(|_| !own.is_gone && !own.is_hurt) else {
            return Ok(());
        };
        let on_node = |broken: Broken| Broken { how: format!("node {}: {}", own.id, broken.how), ..broken };
        calm::log_space(&process.log.store().status(), SEGMENTS_TARGET).map_err(on_node)?;
        let data = Path::new(DATA);
        let records = process.registry.records().values();
        let listed = records.map(|record| group_directory(data, record.group, record.replica)).collect();
        let groups = data.join("groups");
        let depth = groups.components().count() + 1;
        let files = own.disk.files();
        let found = files.iter().filter(|(path, _)| path.starts_with(&groups));
        let found = found.map(|(path, _)| path.components().take(depth).collect()).collect();
        calm::directories(&found, &listed).map_err(on_node)
    }

    fn check_members(&mut self, group: GroupId) -> Result<(), Broken> {
        let mut first: Option<(NodeId, AtRest)> = None;
        let mut applied_to = 0;
        let Some((_, membership, _)) = self.serving_leader(group) else {
            return Err(Broken::new(calm::MEMBERS_EQUAL, format!("group {group} has no leader in the end")));
        };
        let voters = membership.counting().count();
        if voters != self.mix.replicas || membership.members.len() != voters {
            let how = format!(
                "group {group} has {voters} voters of {} members, not {}",
                membership.members.len(),
                self.mix.replicas
            );
            return Err(Broken::new(calm::MEMBERS_EQUAL, how));
        }
        let members: Vec<usize> =
            membership.members.keys().filter_map(|id| self.place_of(id.node())).collect();
        for node in members.iter().copied() {
            let id = self.ids[node];
            let broken = |how: String| Err(Broken::new(calm::MEMBERS_EQUAL, how));
            let Some((applied, found)) = self.at_rest(node, group) else {
                return broken(format!("group {group} has no working replica on node {id}"));
            };
            if found.last_index != applied {
                let last = found.last_index;
                return broken(format!("node {id} applied {applied} of {last} entries of group {group}"));
            }
            applied_to = applied;
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
        for node in members {
            let content = self.content(node, group).unwrap_or_default();
            self.checks.holds(group, self.ids[node], applied_to, &content)?;
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
        // What is known of a peer's clock is the difference of two, each in whole milliseconds: it may be one too many.
        let latest = UNIX_MS + self.now_us / 1000 + SANE_SKEW_MS + 1;
        self.checks.log_times.applied(group, index, unix_ms, latest)
    }

    /// Everything that a node's state machine holds.
    fn content(&self, node: usize, group: GroupId) -> Option<Vec<ScanEntry>> {
        let lookup = self.nodes[node].process.as_ref()?.lookups.get(&group)?;
        let question = Question::Scan { prefix: Vec::new(), after: None, limit: usize::MAX };
        let mut answer = Vec::new();
        lookup.query(&query(&question), &mut answer).ok()?;
        match QueryAnswer::decode(&answer) {
            Ok(QueryAnswer::Scan { entries, next: None, .. }) => Some(entries),
            _ => None,
        }
    }
}
