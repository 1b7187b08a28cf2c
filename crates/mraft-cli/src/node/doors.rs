// SPDX-License-Identifier: Apache-2.0

//! The node as the HTTP door asks it: keys become groups and commands, answers become what the door says.

use std::sync::Arc;
use std::time::Instant;

use mraft_api::{
    ChangeAnswer, ClearConflictAnswer, Condition, Consistency, GroupDetail, GroupSummary, NodeStatus,
    RetireAnswer, Served, VerifyAnswer,
};
use mraft_gateway::needs::{
    Change, Failure, Found, Health, Node, NodeError, Operation, OperationResult, PageAnswer, PageEntry,
    PageRequest, ReadAnswer, Reply, WriteAnswer,
};
use mraft_kv::command::{self, Outcome};
use mraft_kv::query::{Query, QueryAnswer};
use mraft_types::{GroupId, NodeId, Payload, slot_of_key};

use super::exchange::{ChangeWire, Data, Question, Said};
use super::service::Service;

/// The door's handle on the node.
pub(super) struct Doors(pub(super) Arc<Service>);

impl Node for Doors {
    fn id(&self) -> NodeId {
        self.0.node()
    }

    fn read(&self, key: &[u8], consistency: Consistency, deadline: Instant) -> Reply<ReadAnswer> {
        let group = match self.0.group_of(slot_of_key(key)) {
            Ok(group) => group,
            Err(failure) => return refused(failure),
        };
        let mut query = Vec::with_capacity(key.len() + 8);
        Query::Get { key }.encode(&mut query);
        let question = Question::Read { consistency, query: Payload::from(query) };
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let data = service.data_of(group, question, deadline).await?;
            match QueryAnswer::decode(&data.answer) {
                Ok(QueryAnswer::Get { group_revision, applied, found }) => Ok(ReadAnswer {
                    served: served(group, &data, group_revision, applied),
                    found: found.map(|(revision, value)| Found { revision, value: Payload::from(value) }),
                }),
                other => Err(service.odd_answer(group, &other)),
            }
        })
    }

    fn write(&self, operations: &[Operation<'_>], deadline: Instant) -> Reply<WriteAnswer> {
        let slot = operations.first().map_or(0, |operation| slot_of_key(operation.key()));
        let group = match self.0.group_of(slot) {
            Ok(group) => group,
            Err(failure) => return refused(failure),
        };
        let mut body = Vec::new();
        match operations {
            [Operation::Put { key, value, condition: Condition::None }] => {
                command::encode_put(key, value, &mut body);
            }
            _ => {
                let operations: Vec<command::Operation<'_>> = operations.iter().map(operation).collect();
                command::encode(&operations, &mut body);
            }
        }
        let question = Question::Write { slot, command: Payload::from(body) };
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let data = service.data_of(group, question, deadline).await?;
            match command::Answer::decode(&data.answer) {
                Ok(command::Answer::Applied { revision, outcomes }) => Ok(WriteAnswer {
                    served: served(group, &data, revision, data.index),
                    results: outcomes.into_iter().map(result).collect(),
                }),
                Ok(command::Answer::ConditionFailed { revision, position, current }) => {
                    let served = served(group, &data, revision, data.index);
                    let failed = NodeError::ConditionFailed { served, operation: position, current };
                    Err(service.failure(failed, group, data.leader))
                }
                Ok(command::Answer::Refused(refusal)) => {
                    Err(service.failure(NodeError::Refused(refusal.to_string()), group, data.leader))
                }
                Err(error) => Err(service.odd_answer(group, &error)),
            }
        })
    }

    fn groups_of(&self, slot: Option<u16>) -> Vec<GroupId> {
        match slot {
            Some(slot) => self.0.topology().group_of(slot).into_iter().collect(),
            None => self.0.topology().groups().keys().copied().collect(),
        }
    }

    fn scan(&self, page: PageRequest<'_>, consistency: Consistency, deadline: Instant) -> Reply<PageAnswer> {
        let group = page.group;
        let mut query = Vec::new();
        let PageRequest { prefix, after, entries_max, bytes_max, .. } = page;
        Query::Scan { prefix, after, limit: entries_max, max_bytes: bytes_max }.encode(&mut query);
        let question = Question::Read { consistency, query: Payload::from(query) };
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let data = service.data_of(group, question, deadline).await?;
            match QueryAnswer::decode(&data.answer) {
                Ok(QueryAnswer::Scan { group_revision, applied, entries, next }) => Ok(PageAnswer {
                    served: served(group, &data, group_revision, applied),
                    entries: entries
                        .into_iter()
                        .map(|entry| PageEntry {
                            key: entry.key,
                            revision: entry.revision,
                            value: entry.value,
                        })
                        .collect(),
                    next,
                }),
                other => Err(service.odd_answer(group, &other)),
            }
        })
    }

    fn status(&self, _deadline: Instant) -> Reply<NodeStatus> {
        let status = self.0.status_now();
        Box::pin(async move { Ok(status) })
    }

    fn groups(&self, _deadline: Instant) -> Reply<Vec<GroupSummary>> {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.summaries().await })
    }

    fn group(&self, group: GroupId, deadline: Instant) -> Reply<GroupDetail> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            match service.route(group, Question::Detail, 0, deadline).await {
                Ok(said) => service.read_document(group, &said),
                // Without a leader the replica here still knows much.
                Err(failure) if service.host.leader(group).is_some() => {
                    service.detail_here(group).await.map_err(|_| failure)
                }
                Err(failure) => Err(failure),
            }
        })
    }

    fn change(&self, group: GroupId, change: Change, deadline: Instant) -> Reply<ChangeAnswer> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let question = Question::Change(ChangeWire::from(change));
            let said = service.route(group, question, 0, deadline).await?;
            service.read_document(group, &said)
        })
    }

    fn verify(&self, group: GroupId, deadline: Instant) -> Reply<VerifyAnswer> {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            let said = service.route(group, Question::Verify, 0, deadline).await?;
            service.read_document(group, &said)
        })
    }

    fn retire(&self, node: NodeId, force: bool, deadline: Instant) -> Reply<RetireAnswer> {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.retire_everywhere(node, force, deadline).await })
    }

    fn clear_conflict(&self, node: NodeId, deadline: Instant) -> Reply<ClearConflictAnswer> {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.clear_conflict_here(node, deadline).await })
    }

    fn health(&self) -> Health {
        self.0.health_now()
    }

    fn metrics(&self, per_group: bool) -> Option<String> {
        self.0.config.observability.metrics.then(|| self.0.metrics_now(per_group))
    }
}

impl Service {
    fn group_of(&self, slot: u16) -> Result<GroupId, Box<Failure>> {
        let topology = self.topology();
        topology.group_of(slot).ok_or_else(|| match topology.is_empty() {
            true => super::route::knows_no_groups().into(),
            false => NodeError::Internal(format!("no group has slot {slot}")).into(),
        })
    }

    async fn data_of(
        self: &Arc<Self>,
        group: GroupId,
        question: Question,
        until: Instant,
    ) -> Result<Data, Box<Failure>> {
        match self.route(group, question, 0, until).await? {
            Said::Data(data) => Ok(data),
            Said::Document(_) => Err(self.odd_answer(group, &"a document")),
        }
    }

    pub(super) fn read_document<T: serde::de::DeserializeOwned>(
        &self,
        group: GroupId,
        said: &Said,
    ) -> Result<T, Box<Failure>> {
        match said {
            Said::Document(document) => {
                serde_json::from_slice(document).map_err(|error| self.odd_answer(group, &error))
            }
            Said::Data(_) => Err(self.odd_answer(group, &"a state machine's words")),
        }
    }

    fn odd_answer(&self, group: GroupId, answer: &dyn std::fmt::Debug) -> Box<Failure> {
        self.failure(NodeError::Internal(format!("not an answer to the question: {answer:?}")), group, None)
    }
}

fn refused<T>(failure: Box<Failure>) -> Reply<T>
where
    T: Send + 'static,
{
    Box::pin(async move { Err(failure) })
}

fn served(group: GroupId, data: &Data, revision: u64, index: u64) -> Served {
    Served {
        group: group.0,
        revision,
        index,
        leader: data.leader.map(NodeId::get),
        served_by: data.served_by.get(),
        stale_ms: data.stale_ms,
    }
}

fn operation<'a>(operation: &Operation<'a>) -> command::Operation<'a> {
    match *operation {
        Operation::Put { key, value, condition } => {
            command::Operation::Put { key, value, condition: kv_condition(condition) }
        }
        Operation::Delete { key, condition } => {
            command::Operation::Delete { key, condition: kv_condition(condition) }
        }
        Operation::Check { key, condition } => {
            command::Operation::Check { key, condition: kv_condition(condition) }
        }
    }
}

fn kv_condition(condition: Condition) -> command::Condition {
    match condition {
        Condition::None => command::Condition::None,
        Condition::Revision(revision) => command::Condition::Revision(revision),
        Condition::Absent => command::Condition::Absent,
        Condition::Exists => command::Condition::Exists,
    }
}

fn result(outcome: Outcome) -> OperationResult {
    match outcome {
        Outcome::Put { revision } => OperationResult::Put { revision },
        Outcome::Deleted { revision } => OperationResult::Deleted { revision },
        Outcome::NotFound => OperationResult::NothingToDelete,
        Outcome::Checked => OperationResult::Checked,
    }
}
