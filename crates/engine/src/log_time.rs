// SPDX-License-Identifier: Apache-2.0

//! The stamps that a leader puts on entries (rule E1): close to its wall clock, but no single wrong clock can push the group's
//! log time ahead.
//!
//! A leader's stamps advance by at most its monotonic time since its previous stamp. Only a new leader may jump further, and then
//! not beyond the median wall clock of a majority of the voters. Replicas take the maximum of all stamps applied, so the group's
//! log time never goes back whatever a leader stamps.

use std::collections::BTreeMap;

use mraft_types::planted;
use mraft_types::{Membership, NodeId};

use crate::event::Now;

/// Wall clocks of the peers, as differences to this node's monotonic clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerClocks {
    unix_minus_monotonic_ms: BTreeMap<NodeId, i128>,
}

impl PeerClocks {
    pub(crate) fn heard(&mut self, now: Now, node: NodeId, unix_ms: u64) {
        self.unix_minus_monotonic_ms.insert(node, i128::from(unix_ms) - i128::from(now.monotonic_ms));
    }

    pub(crate) fn forget(&mut self, node: NodeId) {
        self.unix_minus_monotonic_ms.remove(&node);
    }

    /// The median of the known clocks of the counting members, if a majority of them is known. Of an even number, the lower.
    fn median_unix_ms(&self, now: Now, own: NodeId, membership: &Membership) -> Option<u64> {
        let counting: Vec<NodeId> = membership.counting().map(|id| id.node()).collect();
        let mut clocks: Vec<u64> = counting
            .iter()
            .filter_map(|node| {
                if *node == own {
                    return Some(now.unix_ms);
                }
                let difference = self.unix_minus_monotonic_ms.get(node)?;
                Some(u64::try_from(difference + i128::from(now.monotonic_ms)).unwrap_or(0))
            })
            .collect();
        if clocks.len() * 2 <= counting.len() {
            return None;
        }
        clocks.sort_unstable();
        Some(clocks[(clocks.len() - 1) / 2])
    }
}

/// One group's stamps while this replica leads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogTime {
    last_unix_ms: u64,
    /// When the last stamp was made; `None` until this leadership has made its first jump.
    stamped_at_monotonic_ms: Option<u64>,
}

impl LogTime {
    /// Leadership changed hands: the next stamp may jump to the median.
    pub(crate) fn lead_anew(&mut self) {
        self.stamped_at_monotonic_ms = None;
    }

    /// The stamp of an entry that is packed now.
    pub(crate) fn stamp(
        &mut self,
        now: Now,
        own: NodeId,
        clocks: &PeerClocks,
        membership: &Membership,
    ) -> u64 {
        let limit = match self.stamped_at_monotonic_ms {
            _ if planted!(LogTimeFollows) => Some(u64::MAX),
            Some(at) => Some(self.last_unix_ms.saturating_add(now.monotonic_ms.saturating_sub(at))),
            None => clocks.median_unix_ms(now, own, membership),
        };
        if let Some(limit) = limit {
            self.last_unix_ms = now.unix_ms.min(limit).max(self.last_unix_ms);
            self.stamped_at_monotonic_ms = Some(now.monotonic_ms);
        }
        self.last_unix_ms
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::{Member, ReplicaId, Role};

    use super::*;

    fn node(id: u64) -> NodeId {
        NodeId::new(id).expect("a node id")
    }

    fn voters(count: u64) -> Membership {
        let member =
            |id| (ReplicaId::new(0, node(id)), Member { role: Role::Voter, raft_address: format!("h:{id}") });
        Membership { members: (1..=count).map(member).collect(), ..Membership::default() }
    }

    fn at(monotonic_ms: u64, unix_ms: u64) -> Now {
        Now { tick: 0, monotonic_ms, unix_ms }
    }

    #[test]
    fn e1_a_leader_with_a_clock_far_ahead_stamps_the_median() {
        let mut clocks = PeerClocks::default();
        clocks.heard(at(10, 0), node(2), 5_000);
        clocks.heard(at(10, 0), node(3), 5_100);
        let mut time = LogTime::default();
        assert_eq!(time.stamp(at(10, 9_999_999), node(1), &clocks, &voters(3)), 5_100);
        assert_eq!(
            time.stamp(at(15, 9_999_999), node(1), &clocks, &voters(3)),
            5_105,
            "then its monotonic time"
        );
    }

    #[test]
    fn e1_stamps_never_go_back_with_the_wall_clock() {
        let mut time = LogTime::default();
        let clocks = PeerClocks::default();
        assert_eq!(time.stamp(at(0, 1_000), node(1), &clocks, &voters(1)), 1_000);
        assert_eq!(time.stamp(at(100, 200), node(1), &clocks, &voters(1)), 1_000);
        time.lead_anew();
        assert_eq!(time.stamp(at(200, 300), node(1), &clocks, &voters(1)), 1_000);
    }

    #[test]
    fn e1_without_a_majority_of_clocks_a_new_leader_does_not_jump() {
        let mut time = LogTime::default();
        let mut clocks = PeerClocks::default();
        assert_eq!(time.stamp(at(0, 7_000), node(1), &clocks, &voters(3)), 0);
        clocks.heard(at(0, 0), node(2), 6_000);
        assert_eq!(time.stamp(at(0, 7_000), node(1), &clocks, &voters(3)), 6_000);
    }
}
