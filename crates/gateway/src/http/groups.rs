// SPDX-License-Identifier: Apache-2.0

//! `/v1/groups` and `/v1/nodes`: memberships and their changes, and who a node is. Every change may be repeated without harm.

use std::sync::Arc;

use axum::extract::{Request, State};
use mraft_api::{AddLearnerRequest, ErrorCode, GroupsAnswer, NodeRequest, percent};
use mraft_types::{GroupId, NodeId};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, ask, json};
use crate::http::body;
use crate::http::query::Query;
use crate::limits::CHANGE_BODY_BYTES_MAX;
use crate::needs::Change;

pub(super) async fn list(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let deadline = deadline_of(&door, &request)?;
    let groups = ask(door.node.groups(deadline.into_std()), deadline, false).await?;
    json(&GroupsAnswer { served_by: door.node.id().get(), groups })
}

pub(super) async fn detail(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let deadline = deadline_of(&door, &request)?;
    json(&ask(door.node.group(group, deadline.into_std()), deadline, false).await?)
}

pub(super) async fn add_learner(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let (asked, deadline) = body_of::<AddLearnerRequest>(&door, request).await?;
    if asked.node.generation.is_some() {
        let text = "the group allocates the generation; name the node without one";
        return Err(Refused::new(ErrorCode::BadRequest, text));
    }
    let AddLearnerRequest { node, raft_address, change_index } = asked;
    change(&door, group, Change::AddLearner { node: node.node, raft_address, change_index }, deadline).await
}

pub(super) async fn promote(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let (NodeRequest { node, change_index }, deadline) = body_of(&door, request).await?;
    change(&door, group, Change::Promote { node, change_index }, deadline).await
}

pub(super) async fn remove(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let (NodeRequest { node, change_index }, deadline) = body_of(&door, request).await?;
    change(&door, group, Change::Remove { node, change_index }, deadline).await
}

pub(super) async fn transfer(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let (NodeRequest { node, change_index }, deadline) = body_of(&door, request).await?;
    if change_index.is_some() {
        let text = "a transfer changes no membership and takes no `change_index`";
        return Err(Refused::new(ErrorCode::BadRequest, text));
    }
    change(&door, group, Change::Transfer { node }, deadline).await
}

pub(super) async fn verify(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let group = group_of(&request)?;
    let deadline = deadline_of(&door, &request)?;
    json(&ask(door.node.verify(group, deadline.into_std()), deadline, true).await?)
}

pub(super) async fn retire(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let query = Query::parse(request.uri().query(), &["force", "timeout_ms"])?;
    let (force, deadline) = (query.switch("force")?, query.deadline(&door.limits)?);
    let node = node_of(&request)?;
    json(&ask(door.node.retire(node, force, deadline.into_std()), deadline, true).await?)
}

pub(super) async fn clear_conflict(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let deadline = deadline_of(&door, &request)?;
    let node = node_of(&request)?;
    json(&ask(door.node.clear_conflict(node, deadline.into_std()), deadline, true).await?)
}

async fn change(door: &Shared, group: GroupId, change: Change, deadline: Instant) -> Answered {
    json(&ask(door.node.change(group, change, deadline.into_std()), deadline, true).await?)
}

fn deadline_of(door: &Shared, request: &Request) -> Result<Instant, Box<Refused>> {
    Query::parse(request.uri().query(), &["timeout_ms"])?.deadline(&door.limits)
}

async fn body_of<T: DeserializeOwned>(door: &Shared, request: Request) -> Result<(T, Instant), Box<Refused>> {
    let deadline = deadline_of(door, &request)?;
    let body = request.into_body();
    let (body, _held) =
        body::read(body, "the body", CHANGE_BODY_BYTES_MAX, &door.request_bytes, deadline).await?;
    Ok((body::parse(&body)?, deadline))
}

fn group_of(request: &Request) -> Result<GroupId, Box<Refused>> {
    let text = segment(request)?;
    text.parse().map(GroupId).map_err(|_| {
        Refused::new(ErrorCode::BadRequest, "in the path: a group id is a number")
            .with_hint("GET /v1/groups lists all groups")
    })
}

fn node_of(request: &Request) -> Result<NodeId, Box<Refused>> {
    segment(request)?
        .parse()
        .map_err(|error| Refused::new(ErrorCode::BadRequest, format!("in the path: {error}")))
}

/// The third segment of the path, which names a group or a node.
fn segment(request: &Request) -> Result<String, Box<Refused>> {
    let raw = request.uri().path().split('/').nth(3).unwrap_or_default();
    percent::decode_path(raw)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes.into_owned()).ok())
        .ok_or_else(|| Refused::new(ErrorCode::BadRequest, "the path is not percent-encoded UTF-8"))
}
