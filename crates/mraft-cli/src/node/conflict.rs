// SPDX-License-Identifier: Apache-2.0

//! An operator's word that another node's earlier directory is gone for good (rule M6).
//!
//! Deliberately missing: telling the other nodes. Each one refuses for itself while a group of its own lists the node, and is asked for
//! itself, so that nobody forgets more than he was told to.

use std::sync::Arc;
use std::time::Instant;

use mraft::HostError;
use mraft::peers::ClearedConflict;
use mraft_api::ClearConflictAnswer;
use mraft_api::status::InstanceConflict;
use mraft_gateway::needs::{Failure, NodeError};
use mraft_types::NodeId;

use super::service::Service;

impl Service {
    /// Forgets here which directory `node` is.
    pub(super) async fn clear_conflict_here(
        self: &Arc<Self>,
        node: NodeId,
        until: Instant,
    ) -> Result<ClearConflictAnswer, Box<Failure>> {
        let service = Arc::clone(self);
        // It waits for the disk.
        let cleared = tokio::task::spawn_blocking(move || service.host.clear_conflict(node));
        let late = || NodeError::Unknown("the disk did not take the table of peers in time".to_owned());
        let cleared = tokio::time::timeout_at(until.into(), cleared).await.map_err(|_| late())?;
        let cleared = cleared.map_err(|error| NodeError::Internal(error.to_string()))?;
        let ClearedConflict { changed, known, claimed } = cleared.map_err(not_cleared)?;
        Ok(ClearConflictAnswer {
            node: node.get(),
            served_by: self.node().get(),
            changed,
            known: known.map(|instance| instance.to_string()),
            claimed: claimed.map(|instance| instance.to_string()),
        })
    }

    /// Node ids that two directories claim, as far as this node was told.
    pub(super) fn conflicts_now(&self) -> Vec<InstanceConflict> {
        let conflicts = self.host.peers().map(|peers| peers.conflicts()).unwrap_or_default();
        let shown = |conflict: mraft::peers::InstanceConflict| InstanceConflict {
            node: conflict.node.get(),
            known: conflict.known.map(|instance| instance.to_string()),
            claimed: conflict.claimed.map(|instance| instance.to_string()),
        };
        conflicts.into_iter().map(shown).collect()
    }
}

fn not_cleared(error: HostError) -> NodeError {
    match error {
        HostError::NodeListed { node, groups } => NodeError::NodeListed { node, groups },
        HostError::Refused { reason } => NodeError::Refused(reason),
        HostError::Closed => NodeError::Stopping,
        // The file may have been replaced before the disk failed: then a restart has forgotten what this process still knows.
        other => NodeError::Unknown(format!("the table of peers cannot be written: {other}")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use mraft_types::GroupId;

    use super::*;

    #[test]
    fn what_was_not_cleared_for_sure_is_told_from_what_nobody_knows() {
        let node = NodeId::new(8).expect("a node id");
        let groups = vec![GroupId(3)];
        let listed = not_cleared(HostError::NodeListed { node, groups: groups.clone() });
        assert_eq!(listed, NodeError::NodeListed { node, groups });
        assert_eq!(not_cleared(HostError::Closed), NodeError::Stopping);
        let failed = HostError::Io { path: PathBuf::from("peers"), error: std::io::Error::other("broken") };
        assert!(matches!(not_cleared(failed), NodeError::Unknown(why) if why.contains("peers: broken")));
    }
}
