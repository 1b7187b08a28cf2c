// SPDX-License-Identifier: Apache-2.0

//! `/v1/kv/{key}`: one key, raw bytes both ways.
//!
//! The key is everything after the route, from the raw URI. This is the busiest route: a read writes no JSON, and a value is copied
//! once, into the node's command.

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use mraft_api::headers::etag;
use mraft_api::{DeleteAnswer, ErrorCode, Served, paths, percent};
use mraft_types::limits::KEY_BYTES_MAX;

use crate::door::Shared;
use crate::errors::Refused;
use crate::http::answer::{Answered, Response, ask, json_served, put_served};
use crate::http::body;
use crate::http::conditions::{self, Verdict};
use crate::http::query::Query;
use crate::needs::{NodeError, Operation, OperationResult, WriteAnswer};

/// What the route takes, in the form in which the router says it of all others.
pub(crate) const METHODS: &str = "GET,HEAD,PUT,POST,DELETE";

/// Answers a request whose path begins with [`paths::KV`].
pub(crate) async fn answer(door: &Shared, request: Request<Incoming>) -> Response {
    let answered = match *request.method() {
        Method::GET | Method::HEAD => read(door, &request).await,
        Method::PUT | Method::POST => put(door, request).await,
        Method::DELETE => delete(door, &request).await,
        _ => Err(not_allowed(request.method())),
    };
    answered.unwrap_or_else(IntoResponse::into_response)
}

async fn read(door: &Shared, request: &Request<Incoming>) -> Answered {
    let key = key_of(request.uri().path())?;
    let query = Query::parse(request.uri().query(), &["consistency", "timeout_ms"])?;
    let deadline = query.deadline(&door.limits)?;
    let reply = door.node.read(&key, query.consistency()?, deadline.into_std());
    let read = ask(reply, deadline, false).await?;
    let revision = read.found.as_ref().map(|found| found.revision);
    match conditions::of_read(request.headers(), revision)? {
        Verdict::Proceed => {}
        Verdict::NotModified => {
            let served = Served { revision: revision.unwrap_or(read.served.revision), ..read.served };
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            put_served(response.headers_mut(), &served);
            put_etag(&mut response, served.revision);
            return Ok(response);
        }
        Verdict::Failed => {
            let error = NodeError::ConditionFailed { served: read.served, operation: 0, current: revision };
            return Err(Refused::by_node(error.into(), false));
        }
    }
    let Some(found) = read.found else {
        return Err(not_found(read.served));
    };
    let mut response = Response::new(Body::from(Bytes::from_owner(found.value)));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    put_served(fields, &Served { revision: found.revision, ..read.served });
    put_etag(&mut response, found.revision);
    Ok(response)
}

async fn put(door: &Shared, request: Request<Incoming>) -> Answered {
    let (head, body) = request.into_parts();
    let key = key_of(head.uri.path())?;
    let deadline = Query::parse(head.uri.query(), &["timeout_ms"])?.deadline(&door.limits)?;
    let condition = conditions::of_write(&head.headers)?;
    let (value, _held) =
        body::read(body, "the value", door.limits.value_bytes_max, &door.request_bytes, deadline).await?;
    let operation = Operation::Put { key: &key, value: &value, condition };
    let reply = door.node.write(&[operation], deadline.into_std());
    let written = ask(reply, deadline, true).await?;
    let OperationResult::Put { revision } = lone_result(&written)? else {
        return Err(mismatch());
    };
    let served = Served { revision, ..written.served };
    let mut response = json_served(&served, &served)?;
    put_etag(&mut response, revision);
    Ok(response)
}

async fn delete(door: &Shared, request: &Request<Incoming>) -> Answered {
    let key = key_of(request.uri().path())?;
    let deadline = Query::parse(request.uri().query(), &["timeout_ms"])?.deadline(&door.limits)?;
    let condition = conditions::of_write(request.headers())?;
    let operation = Operation::Delete { key: &key, condition };
    let reply = door.node.write(&[operation], deadline.into_std());
    let written = ask(reply, deadline, true).await?;
    let deleted = match lone_result(&written)? {
        OperationResult::Deleted { .. } => 1,
        OperationResult::NothingToDelete => 0,
        _ => return Err(mismatch()),
    };
    json_served(&DeleteAnswer { deleted }, &written.served)
}

/// The key does not exist, and who says so.
pub(crate) fn not_found(served: Served) -> Box<Refused> {
    Refused::new(ErrorCode::KeyNotFound, "the key does not exist").with_served(served)
}

/// Checks the length of a key.
pub(crate) fn check_key(key: &[u8]) -> Result<(), Box<Refused>> {
    if (1..=KEY_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let text = format!("a key must have 1 to {KEY_BYTES_MAX} bytes, this one has {}", key.len());
    Err(Refused::new(ErrorCode::BadKey, text))
}

/// The result of a write of one operation.
pub(crate) fn lone_result(written: &WriteAnswer) -> Result<OperationResult, Box<Refused>> {
    match written.results.as_slice() {
        [result] => Ok(*result),
        _ => Err(mismatch()),
    }
}

/// The node's results are not those of the operations. It was applied, but the door cannot say how.
pub(crate) fn mismatch() -> Box<Refused> {
    let error = NodeError::Internal("the results do not go with the operations".to_owned());
    Refused::by_node(error.into(), true)
}

fn key_of(path: &str) -> Result<std::borrow::Cow<'_, [u8]>, Box<Refused>> {
    let raw = path.strip_prefix(paths::KV).unwrap_or_default();
    let key = percent::decode_path(raw)
        .map_err(|error| Refused::new(ErrorCode::BadKey, format!("in the key: {error}")))?;
    check_key(&key)?;
    Ok(key)
}

fn not_allowed(method: &Method) -> Box<Refused> {
    let mut refused = Refused::new(ErrorCode::MethodNotAllowed, format!("{method} is not for keys"));
    refused.allow = Some(METHODS.to_owned());
    refused
}

fn put_etag(response: &mut Response, revision: u64) {
    if let Ok(tag) = HeaderValue::from_str(&etag(revision)) {
        response.headers_mut().insert(ETAG, tag);
    }
}
