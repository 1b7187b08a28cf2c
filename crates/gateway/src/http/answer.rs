// SPDX-License-Identifier: Apache-2.0

//! Answers: JSON, metadata headers, and waiting for the node with a deadline.

use axum::body::Body;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use mraft_api::{Served, headers};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use crate::errors::Refused;
use crate::limits::ANSWER_SLACK;
use crate::needs::{NodeError, Reply};

/// What every route answers.
pub(crate) type Response = http::Response<Body>;
/// A route's result.
pub(crate) type Answered = Result<Response, Box<Refused>>;

/// 200 with a JSON body.
pub(crate) fn json(body: &impl Serialize) -> Answered {
    let body = serde_json::to_vec(body).map_err(|error| {
        // What was asked may have happened.
        Refused::by_node(NodeError::Internal(format!("an answer cannot be written: {error}")).into(), true)
    })?;
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// 200 with a JSON body and metadata headers.
pub(crate) fn json_served(body: &impl Serialize, served: &Served) -> Answered {
    let mut response = json(body)?;
    put_served(response.headers_mut(), served);
    Ok(response)
}

/// Says group, revision, index, leader and who served.
pub(crate) fn put_served(fields: &mut HeaderMap, served: &Served) {
    fields.insert(name_of(headers::GROUP), HeaderValue::from(served.group));
    fields.insert(name_of(headers::REVISION), HeaderValue::from(served.revision));
    fields.insert(name_of(headers::INDEX), HeaderValue::from(served.index));
    fields.insert(name_of(headers::SERVED_BY), HeaderValue::from(served.served_by));
    if let Some(leader) = served.leader {
        fields.insert(name_of(headers::LEADER), HeaderValue::from(leader));
    }
    if let Some(stale_ms) = served.stale_ms {
        fields.insert(name_of(headers::STALE_MS), HeaderValue::from(stale_ms));
    }
}

/// A header of the contract; the names there are lower case.
pub(crate) const fn name_of(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// Waits for the node. It knows best what became of a request at its deadline, so it gets a moment more to say so.
pub(crate) async fn ask<T>(reply: Reply<T>, deadline: Instant, is_write: bool) -> Result<T, Box<Refused>> {
    match timeout_at(deadline + ANSWER_SLACK, reply).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => Err(Refused::by_node(failure, is_write)),
        Err(_) => {
            let error = NodeError::Unknown("no answer came before the deadline".to_owned());
            Err(Refused::by_node(error.into(), is_write))
        }
    }
}
