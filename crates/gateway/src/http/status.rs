// SPDX-License-Identifier: Apache-2.0

//! `GET /v1/status`: this node about itself.

use std::sync::Arc;

use axum::extract::{Request, State};

use crate::door::Shared;
use crate::http::answer::{Answered, ask, json};
use crate::http::query::Query;

pub(super) async fn get(State(door): State<Arc<Shared>>, request: Request) -> Answered {
    let deadline = Query::parse(request.uri().query(), &["timeout_ms"])?.deadline(&door.limits)?;
    json(&ask(door.node.status(deadline.into_std()), deadline, false).await?)
}
