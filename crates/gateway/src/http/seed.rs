// SPDX-License-Identifier: Apache-2.0

//! The compatibility routes under `/raft` (row S16): everything in the query, everything answered in the envelope `{code,msg,result}`
//! with the real HTTP status. Reads are stale unless `sync=true`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Uri};
use mraft_api::seed::SeedCluster;
use mraft_api::{Condition, Consistency, DeleteAnswer, ErrorCode, SeedEnvelope, SeedInfo, Served};
use mraft_types::NodeId;
use serde::Serialize;

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, Response, ask, json, put_served};
use crate::http::kv::{check_key, lone_result, mismatch, not_found};
use crate::http::query::{Query, bad};
use crate::needs::{NodeError, Operation, OperationResult};

pub(super) async fn info(State(door): State<Arc<Shared>>, uri: Uri) -> Response {
    enveloped(async {
        let query = Query::parse(uri.query(), &["timeout_ms"])?;
        let deadline = query.deadline(&door.limits)?;
        let status = ask(door.node.status(deadline.into_std()), deadline, false).await?;
        let groups = ask(door.node.groups(deadline.into_std()), deadline, false).await?;
        let cluster = |group: mraft_api::GroupSummary| SeedCluster {
            cluster_id: group.group,
            leader_id: group.leader,
            is_leader: group.leader == Some(status.node),
            nodes: group.nodes,
        };
        let clusters = groups.into_iter().map(cluster).collect();
        let (raft_address, http_address) = (status.raft_address, status.http_address);
        success(SeedInfo { node_id: status.node, raft_address, http_address, clusters }, None)
    })
    .await
}

pub(super) async fn get(State(door): State<Arc<Shared>>, uri: Uri) -> Response {
    enveloped(async {
        let query = Query::parse(uri.query(), &["key", "sync", "timeout_ms"])?;
        let key = key_of(&query)?;
        let consistency = if query.switch("sync")? { Consistency::Linearizable } else { Consistency::Stale };
        let deadline = query.deadline(&door.limits)?;
        let read = ask(door.node.read(key, consistency, deadline.into_std()), deadline, false).await?;
        let Some(found) = read.found else { return Err(not_found(read.served)) };
        let served = Served { revision: found.revision, ..read.served };
        let Ok(text) = std::str::from_utf8(&found.value) else {
            let mut refused = Refused::new(ErrorCode::NotUtf8, "the value is not UTF-8").with_served(served);
            refused.problem.revision = Some(served.revision);
            return Err(refused.with_hint("GET /v1/kv/{key} gives the raw bytes"));
        };
        success(text, Some(served))
    })
    .await
}

pub(super) async fn put(State(door): State<Arc<Shared>>, uri: Uri) -> Response {
    enveloped(async {
        let query = Query::parse(uri.query(), &["key", "val", "sync", "timeout_ms"])?;
        let key = key_of(&query)?;
        let value = query.bytes("val").ok_or_else(|| bad("val", "given; it may be empty"))?;
        if value.len() > door.limits.value_bytes_max {
            let (bytes, bytes_max) = (value.len() as u64, door.limits.value_bytes_max as u64);
            let error = NodeError::TooLarge { what: "the value", bytes, bytes_max };
            return Err(Refused::by_node(error.into(), true));
        }
        let deadline = query.deadline(&door.limits)?;
        let operation = Operation::Put { key, value, condition: Condition::None };
        let written = ask(door.node.write(&[operation], deadline.into_std()), deadline, true).await?;
        let OperationResult::Put { revision } = lone_result(&written)? else { return Err(mismatch()) };
        success("ok", Some(Served { revision, ..written.served }))
    })
    .await
}

pub(super) async fn delete(State(door): State<Arc<Shared>>, uri: Uri) -> Response {
    enveloped(async {
        let query = Query::parse(uri.query(), &["key", "val", "sync", "timeout_ms"])?;
        let key = key_of(&query)?;
        let deadline = query.deadline(&door.limits)?;
        let operation = Operation::Delete { key, condition: Condition::None };
        let written = ask(door.node.write(&[operation], deadline.into_std()), deadline, true).await?;
        let deleted = match lone_result(&written)? {
            OperationResult::Deleted { .. } => 1,
            OperationResult::NothingToDelete => 0,
            _ => return Err(mismatch()),
        };
        success(DeleteAnswer { deleted }, Some(written.served))
    })
    .await
}

pub(super) async fn join(uri: Uri) -> Response {
    enveloped(async {
        Query::parse(uri.query(), &["addr", "timeout_ms"])?;
        let what = "joining a node in one call comes with the control center, in a later release";
        let hint = "per group: POST /v1/groups/{group}/add-learner, then …/promote";
        Err(Refused::new(ErrorCode::NotInThisRelease, what).with_hint(hint))
    })
    .await
}

pub(super) async fn del(State(door): State<Arc<Shared>>, uri: Uri) -> Response {
    enveloped(async {
        let query = Query::parse(uri.query(), &["addr", "force", "timeout_ms"])?;
        let force = query.switch("force")?;
        let node: NodeId = query
            .bytes("addr")
            .and_then(|bytes| std::str::from_utf8(bytes).ok())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| bad("addr", "the node's Raft address (ip:port), or its node id"))?;
        let deadline = query.deadline(&door.limits)?;
        let retired = ask(door.node.retire(node, force, deadline.into_std()), deadline, true).await?;
        success(retired, None)
    })
    .await
}

fn key_of<'a>(query: &'a Query<'_>) -> Result<&'a [u8], Box<Refused>> {
    let key = query.bytes("key").ok_or_else(|| bad("key", "given"))?;
    check_key(key)?;
    Ok(key)
}

fn success(result: impl Serialize, served: Option<Served>) -> Answered {
    let mut response = json(&SeedEnvelope {
        code: 0,
        msg: "ok".to_owned(),
        result: Some(result),
        revision: served.map(|served| served.revision),
        error: None,
        outcome: None,
        hint: None,
    })?;
    if let Some(served) = served {
        put_served(response.headers_mut(), &served);
    }
    Ok(response)
}

async fn enveloped(answering: impl Future<Output = Answered>) -> Response {
    answering.await.unwrap_or_else(envelope)
}

/// Puts an error into the envelope. Its headers stay what they are everywhere.
pub(super) fn envelope(refused: Box<Refused>) -> Response {
    let problem = refused.problem.clone();
    let envelope = SeedEnvelope::<()> {
        code: -1,
        msg: problem.detail,
        result: None,
        revision: problem.revision,
        error: Some(problem.code.as_str().to_owned()),
        outcome: Some(problem.outcome),
        hint: problem.hint,
    };
    let said = refused.into_response();
    let (head, _) = said.into_parts();
    let Ok(enveloped) = json(&envelope) else { return Response::from_parts(head, axum::body::Body::empty()) };
    let mut fields: HeaderMap = head.headers;
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = enveloped;
    *response.status_mut() = head.status;
    *response.headers_mut() = fields;
    response
}
