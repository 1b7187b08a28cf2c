// SPDX-License-Identifier: Apache-2.0

//! Node ids that two directories claim (rule M6): which they are, and what an operator's word about one does here.
//!
//! Deliberately missing: telling the others. Each node's table is its own, and only a person knows which of the directories is gone.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use mraft_transport::Refusal;
use mraft_types::{InstanceId, NodeId};
use mraft_wire::{Accepted, Hello, HelloRefused};

use super::Peers;
use super::door::Door;
use crate::error::HostError;

/// A node id that two directories claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceConflict {
    /// The node id.
    pub node: NodeId,
    /// The directory that it is known as here.
    pub known: Option<InstanceId>,
    /// The directory that claims it, and is refused; not known of a dispute that an earlier release found.
    pub claimed: Option<InstanceId>,
}

/// What [`crate::NodeHost::clear_conflict`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClearedConflict {
    /// Whether anything was forgotten. Otherwise nothing is known of the node id, or it is connected and nobody else claims it.
    pub changed: bool,
    /// The directory that the node id was known as here.
    pub known: Option<InstanceId>,
    /// The directory that claimed it and was refused.
    pub claimed: Option<InstanceId>,
}

impl Peers {
    /// Node ids that two directories claim, as far as this node was told.
    pub fn conflicts(&self) -> Vec<InstanceConflict> {
        self.door.table.conflicts()
    }

    /// Forgets which directory a node id is and how far it was, durably. The caller has seen to it that no group lists the node.
    pub(crate) fn clear(&self, node: NodeId) -> Result<ClearedConflict, HostError> {
        let table = &self.door.table;
        if table.has_retired(&BTreeSet::from([node])) {
            let reason = format!("node {node} was removed for good: start with another node id or Raft port");
            return Err(HostError::Refused { reason });
        }
        let known = table.instances().get(&node).copied();
        let conflict = table.conflicts().into_iter().find(|conflict| conflict.node == node);
        let claimed = conflict.and_then(|conflict| conflict.claimed);
        // What talks to this node and is not disputed is not what an operator means: the call was made twice, or the id is mistyped.
        let is_well = conflict.is_none() && self.transport.is_connected(node);
        if known.is_none() || is_well {
            return Ok(ClearedConflict { changed: false, known, claimed });
        }
        self.transport.remove_peer(node);
        table.forget(node)?;
        self.door.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        Ok(ClearedConflict { changed: true, known, claimed })
    }
}

impl Door {
    /// Remembers which directory was refused because its node id is known as another one.
    pub(super) fn note_claim(&self, theirs: &Hello, refused: &HelloRefused) {
        let is_about_it = match refused {
            HelloRefused::Instance { node, .. } | HelloRefused::Conflicting { node } => *node == theirs.node,
            _ => false,
        };
        if is_about_it {
            self.table.claimed(theirs.node, theirs.instance);
        }
    }

    /// Why a connection was refused, for people, whoever found it out.
    pub(super) fn refused_because(&self, refusal: &Refusal) -> String {
        let side = who_is_refused(refusal);
        match &refusal.reason {
            // This directory is not the one that the others know under this id.
            HelloRefused::Instance { node, ours, theirs } if *node == self.identity.node => format!(
                "node {node} belongs to instance {theirs}, this directory is {ours}: remove node {node}, then start with another node id \
                 or Raft port; or remove it from its groups and have every other node forget it: mraft node clear-conflict {node}"
            ),
            reason => {
                if let HelloRefused::Instance { node, theirs, .. } = reason
                    && *node == refusal.node
                {
                    self.table.claimed(*node, *theirs);
                }
                format!("{side}: {reason}")
            }
        }
    }

    pub(super) fn tell_disputes(&self, accepted: &Accepted) {
        for (node, known, said) in &accepted.conflicts {
            tracing::error!(
                %node, %known, %said,
                "two directories claim one node id; the node is refused until an operator clears it on every node"
            );
        }
    }
}

/// Either side may be the one that finds out that a directory is an old copy, also its own: then it is that one that is refused, whoever
/// said so.
fn who_is_refused(refusal: &Refusal) -> &'static str {
    match &refusal.reason {
        HelloRefused::OldCopy { node, .. } | HelloRefused::Forked { node, .. } => {
            if *node == refusal.node {
                "the peer is refused"
            } else {
                "this node is refused"
            }
        }
        _ if refusal.by_peer => "the peer refuses this node",
        _ => "this node refuses the peer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m7_an_old_copy_is_the_one_that_is_refused_whoever_found_it_out() {
        let node = |id| NodeId::new(id).expect("a node id");
        let says = |by_peer, reason| {
            who_is_refused(&Refusal { node: node(2), address: String::new(), by_peer, reason })
        };
        for by_peer in [true, false] {
            let of = |id| HelloRefused::Forked { node: node(id), remembered_boot: 1, boot_counter: 2 };
            assert_eq!(says(by_peer, of(2)), "the peer is refused");
            assert_eq!(says(by_peer, of(1)), "this node is refused");
        }
        assert_eq!(says(true, HelloRefused::ShuttingDown), "the peer refuses this node");
        assert_eq!(says(false, HelloRefused::ShuttingDown), "this node refuses the peer");
    }
}
