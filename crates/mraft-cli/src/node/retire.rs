// SPDX-License-Identifier: Apache-2.0

//! Removing a node for good: its tombstone in every group (row S13).
//!
//! First every group is asked, so that what is refused is refused before anything is done. Then the groups take the tombstone one
//! after the other; from the first on that may have it, a failure leaves the outcome open (rule E3), and the same call goes on where
//! this one stopped.

use std::sync::Arc;
use std::time::Instant;

use mraft_api::{GroupDetail, NodeName, RetireAnswer};
use mraft_gateway::needs::{Failure, NodeError};
use mraft_types::{GroupId, Index, NodeId, ReplicaId};

use super::exchange::{ChangeWire, Question};
use super::service::Service;

impl Service {
    /// Writes the tombstone of `node` into every group; with `force` also if nobody ever saw the node.
    pub(super) async fn retire_everywhere(
        self: &Arc<Self>,
        node: NodeId,
        force: bool,
        until: Instant,
    ) -> Result<RetireAnswer, Box<Failure>> {
        let seen = self.may_be_retired(node, force, until).await?;
        // For the memberships that were just seen: a node that is added meanwhile is not retired unseen.
        for (done, (group, index)) in seen.iter().enumerate() {
            let (name, change_index) = (NodeName::from(node), Some(*index));
            let question = Question::Change(ChangeWire::Retire { node: name, change_index });
            if let Err(failure) = self.route(*group, question, 0, until).await {
                return Err(by_halves(node, *group, done, seen.len(), failure));
            }
        }
        Ok(RetireAnswer { node: node.get(), groups: seen.into_iter().map(|(group, _)| group.0).collect() })
    }

    /// Every group with its last membership change, if the node may go; nothing is changed by asking.
    async fn may_be_retired(
        self: &Arc<Self>,
        node: NodeId,
        force: bool,
        until: Instant,
    ) -> Result<Vec<(GroupId, Index)>, Box<Failure>> {
        let topology = self.topology();
        let peers = self.host.peers().map(|peers| peers.status()).unwrap_or_default();
        let mut is_known = peers.iter().any(|peer| peer.node == node)
            || topology.groups().values().any(|row| row.members.contains_key(&node));
        let (mut listed, mut seen) = (Vec::new(), Vec::new());
        for group in topology.groups().keys() {
            let said = self.route(*group, Question::Detail, 0, until).await?;
            let detail: GroupDetail = self.read_document(*group, &said)?;
            seen.push((*group, detail.change_index));
            if detail.members.iter().any(|member| member.node == node.get()) {
                listed.push(group.to_string());
            }
            is_known |= detail.retired_nodes.contains(&node.get());
            let mut removed = detail.removed.iter().filter_map(|replica| replica.parse::<ReplicaId>().ok());
            is_known |= removed.any(|replica| replica.node() == node);
        }
        if !listed.is_empty() {
            let why = format!(
                "node {node} is still a member of group {}: remove it there first (mraft group ID remove {node})",
                listed.join(", ")
            );
            return Err(NodeError::Refused(why).into());
        }
        if !is_known && !force {
            let why = format!(
                "no group ever had a replica on node {node}, and nobody is connected under that id: look whether it is mistyped; a \
                 tombstone cannot be taken back, and is written all the same with --force (force=true)"
            );
            return Err(NodeError::Refused(why).into());
        }
        Ok(seen)
    }
}

/// What a failure in the `done + 1`-th of `all` groups means for the whole: until one may have the tombstone nothing was changed, from
/// then on it is neither here nor there.
fn by_halves(node: NodeId, group: GroupId, done: usize, all: usize, failure: Box<Failure>) -> Box<Failure> {
    if done == 0 {
        return failure;
    }
    let why = format!(
        "node {node} is removed for good in {done} of {all} groups; group {group} did not follow: {}. The same call again goes on there",
        failure.error
    );
    Box::new(Failure { error: NodeError::Unknown(why), ..*failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e3_a_failure_after_the_first_tombstone_leaves_the_outcome_open() {
        let node = NodeId::new(7).expect("a node id");
        for error in [NodeError::NotStarted, NodeError::Stopping, NodeError::Conflict("busy".to_owned())] {
            let failure = |error: &NodeError| Failure::of_group(error.clone(), GroupId(3), None);
            let first = by_halves(node, GroupId(3), 0, 200, failure(&error));
            assert_eq!(first, failure(&error), "nothing was changed, and that is said");
            let later = by_halves(node, GroupId(3), 2, 200, failure(&error));
            let NodeError::Unknown(why) = &later.error else { panic!("{later:?}") };
            assert!(why.contains("in 2 of 200 groups; group 3 did not follow"), "{why}");
        }
    }
}
