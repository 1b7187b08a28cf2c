// SPDX-License-Identifier: Apache-2.0

//! A node in memory: three groups, a revision per group (rule E2), and failures on request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mraft_api::{
    ChangeAnswer, ClearConflictAnswer, Condition, Consistency, GroupDetail, GroupSummary, MemberRow,
    NodeStatus, RetireAnswer, Served, VerifyAnswer,
};
use mraft_gateway::needs::*;
use mraft_types::{GroupId, NodeId, Payload, SlotSet, slot_of_key};
use tokio::sync::Notify;

pub const GROUPS: u64 = 3;
pub const NODE: u64 = 7;

/// The node behind the door.
#[derive(Default)]
pub struct MemoryNode {
    state: Mutex<State>,
    /// Reads and writes wait for this while `is_held`.
    released: Notify,
}

#[derive(Default)]
struct State {
    keys: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    revisions: [u64; GROUPS as usize],
    failures: VecDeque<Box<Failure>>,
    asked: Vec<String>,
    is_held: bool,
    waiting: usize,
    /// Entries per page at most, whatever is asked for.
    page_max: Option<usize>,
    unready: Option<String>,
    metrics_are_off: bool,
}

impl MemoryNode {
    /// The next read or write fails with this.
    pub fn fail(&self, failure: impl Into<Box<Failure>>) {
        self.state().failures.push_back(failure.into());
    }

    /// From now on reads and writes do not answer.
    pub fn hold(&self) {
        self.state().is_held = true;
    }

    /// Answers those that wait.
    pub fn release(&self) {
        self.state().is_held = false;
        self.released.notify_waiters();
    }

    /// Resolves when so many reads and writes wait.
    pub async fn waiting(&self, count: usize) {
        while self.state().waiting < count {
            tokio::task::yield_now().await;
        }
    }

    /// What was asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.state().asked.clone()
    }

    pub fn page_max(&self, entries: usize) {
        self.state().page_max = Some(entries);
    }

    pub fn unready(&self, why: &str) {
        self.state().unready = Some(why.to_owned());
    }

    pub fn serve_no_metrics(&self) {
        self.state().metrics_are_off = true;
    }

    pub fn put(&self, key: &[u8], value: &[u8]) {
        self.state().write(&[Operation::Put { key, value, condition: Condition::None }]).expect("written");
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic while locked")
    }

    async fn until_released(&self) {
        loop {
            let released = self.released.notified();
            if !self.state().is_held {
                return;
            }
            released.await;
        }
    }

    fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        asked: String,
        answer: impl FnOnce(&mut State) -> Result<T, Box<Failure>>,
    ) -> Reply<T> {
        let (answer, is_held) = {
            let mut state = self.state();
            state.asked.push(asked);
            let answer = match state.failures.pop_front() {
                Some(failure) => Err(failure),
                None => answer(&mut state),
            };
            state.waiting += usize::from(state.is_held);
            (answer, state.is_held)
        };
        let node = Arc::clone(self);
        Box::pin(async move {
            if is_held {
                node.until_released().await;
            }
            answer
        })
    }
}

pub fn group_of(key: &[u8]) -> u64 {
    let slot = slot_of_key(key);
    (0..GROUPS)
        .find(|group| SlotSet::even_share(*group, GROUPS).contains(slot))
        .expect("every slot has a group")
}

impl State {
    fn served(&self, group: u64) -> Served {
        let revision = self.revisions[group as usize];
        Served {
            group,
            revision,
            index: revision + 1000,
            leader: Some(NODE),
            served_by: NODE,
            stale_ms: None,
        }
    }

    fn write(&mut self, operations: &[Operation<'_>]) -> Result<WriteAnswer, Box<Failure>> {
        let group = group_of(operations[0].key());
        for (position, operation) in operations.iter().enumerate() {
            let (Operation::Put { condition, .. }
            | Operation::Delete { condition, .. }
            | Operation::Check { condition, .. }) = operation;
            let current = self.keys.get(operation.key()).map(|(revision, _)| *revision);
            let holds = match condition {
                Condition::None => true,
                Condition::Revision(revision) => current == Some(*revision),
                Condition::Exists => current.is_some(),
                Condition::Absent => current.is_none(),
            };
            if !holds {
                let served = self.served(group);
                return Err(NodeError::ConditionFailed { served, operation: position as u32, current }.into());
            }
        }
        let mut results = Vec::new();
        for operation in operations {
            let revision = &mut self.revisions[group as usize];
            results.push(match operation {
                Operation::Put { key, value, .. } => {
                    *revision += 1;
                    self.keys.insert(key.to_vec(), (*revision, value.to_vec()));
                    OperationResult::Put { revision: *revision }
                }
                Operation::Delete { key, .. } => match self.keys.remove(*key) {
                    Some(_) => {
                        *revision += 1;
                        OperationResult::Deleted { revision: *revision }
                    }
                    None => OperationResult::NothingToDelete,
                },
                Operation::Check { .. } => OperationResult::Checked,
            });
        }
        Ok(WriteAnswer { served: self.served(group), results })
    }

    fn page(&self, page: PageRequest<'_>) -> PageAnswer {
        let entries_max = self.page_max.unwrap_or(usize::MAX).min(page.entries_max);
        let mut entries: Vec<PageEntry> = Vec::new();
        let (mut bytes, mut next) = (0, None);
        for (key, (revision, value)) in &self.keys {
            let counts = group_of(key) == page.group.0
                && key.starts_with(page.prefix)
                && page.after.is_none_or(|after| key.as_slice() > after);
            if !counts {
                continue;
            }
            bytes += key.len() + value.len();
            if entries.len() == entries_max || (bytes > page.bytes_max && !entries.is_empty()) {
                next = entries.last().map(|entry| entry.key.clone());
                break;
            }
            entries.push(PageEntry { key: key.clone(), revision: *revision, value: value.clone() });
        }
        PageAnswer { served: self.served(page.group.0), entries, next }
    }
}

/// What the door holds: the trait is for shared nodes.
pub struct Shared(pub Arc<MemoryNode>);

impl Node for Shared {
    fn id(&self) -> NodeId {
        NodeId::new(NODE).expect("a node id")
    }

    fn read(&self, key: &[u8], consistency: Consistency, _: Instant) -> Reply<ReadAnswer> {
        let asked = format!("read {} {}", consistency.as_str(), key.escape_ascii());
        self.0.answer(asked, |state| {
            let mut served = state.served(group_of(key));
            served.stale_ms = (consistency == Consistency::Stale).then_some(12);
            let found = state.keys.get(key);
            let found = found
                .map(|(revision, value)| Found { revision: *revision, value: Payload::copy_from(value) });
            Ok(ReadAnswer { served, found })
        })
    }

    fn write(&self, operations: &[Operation<'_>], _: Instant) -> Reply<WriteAnswer> {
        let asked = format!("write {}", operations[0].key().escape_ascii());
        self.0.answer(asked, |state| state.write(operations))
    }

    fn groups_of(&self, slot: Option<u16>) -> Vec<GroupId> {
        let holds = |group: &u64| slot.is_none_or(|slot| SlotSet::even_share(*group, GROUPS).contains(slot));
        (0..GROUPS).filter(holds).map(GroupId).collect()
    }

    fn scan(&self, page: PageRequest<'_>, consistency: Consistency, _: Instant) -> Reply<PageAnswer> {
        let asked = format!("scan {} g{}", consistency.as_str(), page.group);
        self.0.answer(asked, |state| Ok(state.page(page)))
    }

    fn status(&self, _: Instant) -> Reply<NodeStatus> {
        let address = |port| format!("127.0.0.1:{port}");
        self.0.answer("status".to_owned(), |_| {
            Ok(NodeStatus {
                node: NODE,
                raft_address: address(13890),
                http_address: address(13891),
                ..NodeStatus::default()
            })
        })
    }

    fn groups(&self, _: Instant) -> Reply<Vec<GroupSummary>> {
        let group = |group| GroupSummary {
            group,
            leader: (group == 0).then_some(NODE),
            nodes: vec![NODE, 8],
            ..GroupSummary::default()
        };
        self.0.answer("groups".to_owned(), |_| Ok((0..GROUPS).map(group).collect()))
    }

    fn group(&self, group: GroupId, _: Instant) -> Reply<GroupDetail> {
        self.0.answer(format!("group {group}"), |_| {
            if group.0 >= GROUPS {
                return Err(NodeError::GroupNotFound(group).into());
            }
            let member = MemberRow { replica: format!("{NODE}#0"), node: NODE, ..MemberRow::default() };
            let summary = GroupSummary { group: group.0, ..GroupSummary::default() };
            Ok(GroupDetail { summary, members: vec![member], ..GroupDetail::default() })
        })
    }

    fn change(&self, group: GroupId, change: Change, _: Instant) -> Reply<ChangeAnswer> {
        self.0.answer(format!("{group} {change:?}"), |_| {
            Ok(ChangeAnswer {
                group: group.0,
                replica: "8#1".to_owned(),
                changed: true,
                ..ChangeAnswer::default()
            })
        })
    }

    fn verify(&self, group: GroupId, _: Instant) -> Reply<VerifyAnswer> {
        let answer = VerifyAnswer { group: group.0, equal: true, ..VerifyAnswer::default() };
        self.0.answer(format!("verify {group}"), |_| Ok(answer))
    }

    fn retire(&self, node: NodeId, force: bool, _: Instant) -> Reply<RetireAnswer> {
        let asked = if force { format!("retire {node} by force") } else { format!("retire {node}") };
        self.0.answer(asked, |_| Ok(RetireAnswer { node: node.get(), groups: vec![0] }))
    }

    fn clear_conflict(&self, node: NodeId, _: Instant) -> Reply<ClearConflictAnswer> {
        let answer = ClearConflictAnswer {
            node: node.get(),
            served_by: NODE,
            changed: true,
            known: Some("0a".to_owned()),
            claimed: None,
        };
        self.0.answer(format!("clear conflict {node}"), |_| Ok(answer))
    }

    fn health(&self) -> Health {
        let check = |name, failure| Check { name, failure };
        Health {
            live: vec![check("log-disk", None)],
            ready: vec![check("groups-have-leaders", self.0.state().unready.clone())],
        }
    }

    fn metrics(&self, per_group: bool) -> Option<String> {
        let is_off = self.0.state().metrics_are_off;
        (!is_off).then(|| format!("mraft_node_up {}\n", if per_group { 2 } else { 1 }))
    }
}

/// A failure of group 1, whose leader is known by its door.
pub fn elsewhere(error: NodeError, leader_http: &str) -> Box<Failure> {
    let leader = NodeId::new(8);
    let mut failure = Failure::of_group(error, GroupId(1), leader);
    failure.leader_http = Some(leader_http.to_owned());
    failure
}

pub fn overloaded() -> NodeError {
    NodeError::Overloaded { queue: "the queue".to_owned(), retry_after: Duration::from_millis(1) }
}
