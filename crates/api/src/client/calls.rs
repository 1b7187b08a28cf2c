// SPDX-License-Identifier: Apache-2.0

//! The calls, one method per route.

use http::Method;
use mraft_types::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::connection::Answer;
use crate::client::{Call, Client, ClientError};
use crate::code::ErrorCode;
use crate::groups::{
    AddLearnerRequest, ChangeAnswer, ClearConflictAnswer, GroupDetail, GroupsAnswer, NodeRequest,
    RetireAnswer, VerifyAnswer,
};
use crate::headers;
use crate::kv::{BatchAnswer, BatchRequest, Consistency, DeleteAnswer, ScanAnswer, Served, WriteAnswer};
use crate::paths;
use crate::status::NodeStatus;

/// What must hold of a key for a write to happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    None,
    /// It exists with this revision (`If-Match: "7"`).
    Revision(u64),
    /// It exists (`If-Match: *`).
    Exists,
    /// It does not exist (`If-None-Match: *`).
    Absent,
}

/// A key that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its value.
    pub value: Vec<u8>,
    /// Who said so; `revision` is the key's.
    pub served: Served,
}

/// Which keys to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanRequest {
    /// What they begin with; empty: all.
    pub prefix: Vec<u8>,
    /// Only keys after this one: [`ScanAnswer::next`] of the page before.
    pub after: Option<Vec<u8>>,
    /// Entries at most; `None`: the door's default.
    pub limit: Option<u32>,
    /// How fresh.
    pub consistency: Consistency,
}

/// What `/readyz` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether clients should be sent there.
    pub ready: bool,
    /// The checks, one per line.
    pub checks: String,
}

impl Client {
    /// Reads a key; `None` when it does not exist.
    pub async fn get(&self, key: &[u8], consistency: Consistency) -> Result<Option<Got>, ClientError> {
        let call = Call::read(paths::kv(key)).parameter("consistency", consistency.as_str().as_bytes());
        let answer = match self.call(call).await {
            Ok(answer) => answer,
            Err(ClientError::Problem(problem)) if problem.code == ErrorCode::KeyNotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let served = served(&answer)
            .ok_or_else(|| self.bad_answer("a header of the mraft-… family is missing".to_owned(), false))?;
        Ok(Some(Got { value: answer.body.to_vec(), served }))
    }

    /// Writes a key.
    pub async fn put(
        &self,
        key: &[u8],
        value: &[u8],
        condition: Condition,
    ) -> Result<WriteAnswer, ClientError> {
        self.call_json(conditional(Call::write(Method::PUT, paths::kv(key), value.to_vec()), condition)).await
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &[u8], condition: Condition) -> Result<DeleteAnswer, ClientError> {
        self.call_json(conditional(Call::write(Method::DELETE, paths::kv(key), Vec::new()), condition)).await
    }

    /// Does all of it or nothing.
    pub async fn batch(&self, batch: &BatchRequest) -> Result<BatchAnswer, ClientError> {
        self.post(paths::BATCH, batch).await
    }

    /// One page of keys in order.
    pub async fn scan(&self, scan: &ScanRequest) -> Result<ScanAnswer, ClientError> {
        let mut call = Call::read(paths::SCAN)
            .parameter("prefix", &scan.prefix)
            .parameter("consistency", scan.consistency.as_str().as_bytes());
        if let Some(after) = &scan.after {
            call = call.parameter("after", after);
        }
        if let Some(limit) = scan.limit {
            call = call.parameter("limit", limit.to_string().as_bytes());
        }
        self.call_json(call).await
    }

    /// The node that answers, about itself.
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.call_json(Call::read(paths::STATUS)).await
    }

    /// All groups.
    pub async fn groups(&self) -> Result<GroupsAnswer, ClientError> {
        self.call_json(Call::read(paths::GROUPS)).await
    }

    /// One group with its members.
    pub async fn group(&self, group: u64) -> Result<GroupDetail, ClientError> {
        self.call_json(Call::read(paths::of_group(paths::GROUP, group))).await
    }

    /// Adds a learner on a node; answers its replica id.
    pub async fn add_learner(
        &self,
        group: u64,
        request: &AddLearnerRequest,
    ) -> Result<ChangeAnswer, ClientError> {
        self.post(paths::of_group(paths::GROUP_ADD_LEARNER, group), request).await
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, group: u64, request: &NodeRequest) -> Result<ChangeAnswer, ClientError> {
        self.post(paths::of_group(paths::GROUP_PROMOTE, group), request).await
    }

    /// Removes a member.
    pub async fn remove(&self, group: u64, request: &NodeRequest) -> Result<ChangeAnswer, ClientError> {
        self.post(paths::of_group(paths::GROUP_REMOVE, group), request).await
    }

    /// Hands leadership to a member.
    pub async fn transfer(&self, group: u64, request: &NodeRequest) -> Result<ChangeAnswer, ClientError> {
        self.post(paths::of_group(paths::GROUP_TRANSFER, group), request).await
    }

    /// Compares the replicas' content.
    pub async fn verify(&self, group: u64) -> Result<VerifyAnswer, ClientError> {
        let path = paths::of_group(paths::GROUP_VERIFY, group);
        self.call_json(Call::write(Method::POST, path, Vec::new())).await
    }

    /// Removes a node for good; with `force` also one that nobody ever saw.
    pub async fn retire_node(&self, node: NodeId, force: bool) -> Result<RetireAnswer, ClientError> {
        let call = Call::write(Method::DELETE, paths::of_node(paths::NODE, node), Vec::new());
        self.call_json(if force { call.parameter("force", b"true") } else { call }).await
    }

    /// Has the node that answers forget which directory `node` is (rule M6). Each node has a table of its own: of a client with several
    /// endpoints one is asked, so each node is asked by a client of its own.
    pub async fn clear_conflict(&self, node: NodeId) -> Result<ClearConflictAnswer, ClientError> {
        let route = paths::of_node(paths::NODE_CLEAR_CONFLICT, node);
        self.call_json(Call::write(Method::POST, route, Vec::new())).await
    }

    /// Whether the node that answers is ready.
    pub async fn ready(&self) -> Result<Readiness, ClientError> {
        let mut call = Call::read(paths::READYZ).parameter("verbose", b"true");
        call.takes_status = Some(503);
        let answer = self.call(call).await?;
        let checks = String::from_utf8_lossy(&answer.body).into_owned();
        Ok(Readiness { ready: answer.status.is_success(), checks })
    }

    /// The metrics of the node that answers, in the OpenMetrics text format.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let answer = self.call(Call::read(paths::METRICS)).await?;
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Unreachable {
            endpoint: "the cluster".to_owned(),
            detail: format!("the request cannot be written: {error}"),
        })?;
        let call =
            Call::write(Method::POST, path, body).header("content-type", "application/json".to_owned());
        self.call_json(call).await
    }
}

fn conditional(call: Call, condition: Condition) -> Call {
    match condition {
        Condition::None => call,
        Condition::Revision(revision) => call.header("if-match", headers::etag(revision)),
        Condition::Exists => call.header("if-match", "*".to_owned()),
        Condition::Absent => call.header("if-none-match", "*".to_owned()),
    }
}

fn served(answer: &Answer) -> Option<Served> {
    let number = |name: &str| answer.headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
    Some(Served {
        group: number(headers::GROUP)?,
        revision: number(headers::REVISION)?,
        index: number(headers::INDEX)?,
        leader: number(headers::LEADER),
        served_by: number(headers::SERVED_BY)?,
        stale_ms: number(headers::STALE_MS),
    })
}
