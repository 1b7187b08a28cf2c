// SPDX-License-Identifier: Apache-2.0

//! Snapshots that could not be sent (rule N2). A group hears of it after a pause, and only then asks for the next one: whoever has no room
//! for a snapshot will not be better off a heartbeat later, and each try reads and sends much. The pause doubles with each failure.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mraft_types::{GroupId, ReplicaId};

use crate::core::Incarnation;

/// After the first failure: it may be just a connection, or too many snapshots at once.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Short against what an operator needs to make room, long against what a try costs.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// Bound: a group has at most one snapshot on its way to each peer until it has heard of the end.
#[derive(Debug, Default)]
pub(super) struct Retries(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<(Instant, Incarnation, ReplicaId)>,
    /// The next pause of those whose last snapshot failed.
    pauses: BTreeMap<(GroupId, ReplicaId), Duration>,
}

impl Retries {
    /// A snapshot to this peer failed.
    pub(super) fn failed(&self, of: Incarnation, to: ReplicaId) {
        let mut state = self.lock();
        let next = state.pauses.entry((of.group, to)).or_insert(PAUSE_MIN);
        let pause = *next;
        *next = (pause * 2).min(PAUSE_MAX);
        state.waiting.push((Instant::now() + pause, of, to));
    }

    /// One to this peer arrived.
    pub(super) fn arrived(&self, group: GroupId, to: ReplicaId) {
        self.lock().pauses.remove(&(group, to));
    }

    /// Those that failed and whose pause is over.
    pub(super) fn due(&self) -> Vec<(Incarnation, ReplicaId)> {
        let now = Instant::now();
        let is_due = |(at, ..): &mut (Instant, Incarnation, ReplicaId)| *at <= now;
        self.lock().waiting.extract_if(.., is_due).map(|(_, of, to)| (of, to)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use mraft_types::NodeId;

    use super::*;

    #[test]
    fn n2_a_snapshot_that_failed_is_told_once_and_later_each_time_until_one_arrives() {
        let retries = Retries::default();
        let of = Incarnation { group: GroupId(3), number: 1 };
        let to = ReplicaId::new(0, NodeId::new(7).expect("a node id"));
        let pause_after_failure = || {
            let before = Instant::now();
            retries.failed(of, to);
            assert!(retries.due().is_empty(), "it would only fail again");
            let at = retries.lock().waiting[0].0;
            retries.lock().waiting[0].0 = before;
            assert_eq!(retries.due(), [(of, to)]);
            assert!(retries.due().is_empty(), "it was told");
            at - before
        };
        let first = pause_after_failure();
        assert!(first >= PAUSE_MIN && pause_after_failure() >= PAUSE_MIN * 2);
        let longest = (0..10).map(|_| pause_after_failure()).max();
        assert!(longest >= Some(PAUSE_MAX));
        assert_eq!(retries.lock().pauses.get(&(of.group, to)), Some(&PAUSE_MAX));
        retries.arrived(of.group, to);
        assert_eq!(retries.lock().pauses.get(&(of.group, to)), None);
    }
}
